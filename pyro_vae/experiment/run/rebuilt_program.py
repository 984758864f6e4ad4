"""The program of a checkpoint: built again from its config, with the values of the file.

No code is read from a file. What `build` can name is built, and a user's own member is passed in.
"""

import copy
import inspect
import sys
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from pyro_vae.data import Form
from pyro_vae.errors import CheckpointError, UsageError
from pyro_vae.experiment import build
from pyro_vae.experiment.config import Config
from pyro_vae.experiment.own_members import FAMILIES, OwnMember, OwnMembers, changes, is_place
from pyro_vae.experiment.run import checkpoint, raw_data
from pyro_vae.experiment.run.checkpoint import Checkpoint, fitting
from pyro_vae.model.autoencoder import Autoencoder

_MOST_DESCRIBED = 100  # times as many numbers as a file holds; all other numbers stay below that


def load(run_or_checkpoint: str | Path, *, own: Iterable[OwnMember] = (), **overrides: Any) -> Autoencoder:
    """Loads the trained program of a run folder (its best state), or of a checkpoint's manifest or tensor file.

    Arguments and errors are the same as for `pyro_vae.load`, which opens shared folders too.
    """
    path, newest = Path(run_or_checkpoint), None
    if path.is_dir():
        newest, complaints = checkpoint.newest(path / "checkpoints" if (path / "checkpoints").is_dir() else path)
        warn(complaints)
    elif path.with_suffix(".json").is_file():
        newest = checkpoint.read(path.with_suffix(".json"))
    if newest is None:
        raise CheckpointError(f"no checkpoint at {run_or_checkpoint}: pass a run folder, or an epoch-*.json in one")
    newest, overrides = with_members(newest, own, overrides)
    program = rebuilt(newest, **overrides)
    run = next((p for p in (path, *path.parents[:2]) if (p / "run.json").exists()), path)
    try:
        program.intake = raw_data.intake_of_run(run, newest.config, newest.form, newest.intake)
    except CheckpointError as error:
        warnings.warn(f"{error}. Without it `encode` takes x as the program does.", stacklevel=2)
    return program


def with_members(
    saved: Checkpoint, own: Iterable[OwnMember], overrides: Mapping[str, Any]
) -> tuple[Checkpoint, dict[str, Any]]:
    """Gives a checkpoint's config the user's own classes, and warns of classes that have changed since.

    Args:
        saved: the checkpoint.
        own: classes under names of configs; those count that this config names.
        overrides: as for `pyro_vae.load`: members, or classes of members, which are built as the config says.

    Returns:
        The checkpoint, and the overrides that are not classes.

    Raises:
        UsageError: a class is given for a member that is not built from one, or one of another name than the run's, or
            its place.
    """
    config = saved.config
    named = [member for member in own if member.name == getattr(config, member.family)]
    # Of several files of one name, that which the run was trained with.
    named.sort(key=lambda member: member.sha256 == saved.own.get(member.family, {}).get("sha256"))
    found = {member.family: member for member in named}
    kept: dict[str, Any] = {}
    for name, override in overrides.items():
        classes = override if isinstance(override, tuple) else (override,)
        are_classes = name == "network" or inspect.isclass(override)
        if name != "device" and any(isinstance(each, str) for each in classes):
            raise UsageError(
                f"`{name}={override!r}` is a place, as commands take it: import the class from there, and "
                "pass the class itself"
            )
        if name == "network" and len(classes) != 2:
            raise UsageError("`network` must be two classes, of the encoder and of the decoder")
        if name in FAMILIES and are_classes:
            _check_name(name, getattr(config, name), classes)
        if name in FAMILIES:
            kinds = classes if are_classes else (type(override),)
            found[name] = OwnMember.of(name, getattr(config, name), *kinds)
        elif are_classes:
            raise UsageError(f"`{name}` must be a member that was built; classes go in under {', '.join(FAMILIES)}")
        if not are_classes:
            kept[name] = override
    config = replace(config, own=OwnMembers(**found))
    build.check_own(config, kept)
    for sentence in changes(saved.own, config.own):
        warnings.warn(sentence, stacklevel=3)
    return replace(saved, config=config), kept


def _check_name(family: str, named: str, classes: tuple[Any, ...]) -> None:
    """Refuses classes of another name than the run's, as a command does."""
    if not is_place(named):
        return
    source, _, wanted = named.rpartition(":")
    for kind, name in zip(classes, wanted.split(","), strict=True):
        own = getattr(kind, "__name__", name)
        if own != name and getattr(sys.modules.get(kind.__module__), name, None) is not kind:
            passed = f"({', '.join(wanted.split(','))})" if "," in wanted else wanted
            raise UsageError(
                f"`{family}`: the run was trained with {name} of {source!r}, and {own} is another class: pass "
                f"`{family}={passed}` of {source!r}"
            )


def warn(complaints: Iterable[str]) -> None:
    """Warns of checkpoints that are skipped."""
    for complaint in complaints:
        warnings.warn(f"{complaint} Loading an older checkpoint.", stacklevel=3)


def rebuilt(saved: Checkpoint, **overrides: Any) -> Autoencoder:
    """Builds the program of a checkpoint at its best state.

    Its config carries the classes of a user's own, see `with_members`; overrides are members that were built, else they
    and the errors are those of `pyro_vae.load`.
    """
    # Not where it was trained: that device need not exist here.
    config = replace(saved.config, device=str(overrides.pop("device", "cpu")))
    tensors = saved.tensors()
    _check_latent_dim(config, overrides)
    _check_sizes(config, saved.form, overrides, tensors)
    dtype = next(tensor.dtype for tensor in tensors.values() if tensor.is_floating_point())
    program = build.vae(config, *saved.form, **overrides).to(dtype)
    with fitting("program"):
        program.set_tensors(tensors)
    return program.eval()


def _check_latent_dim(config: Config, members: dict[str, Any]) -> None:
    # A prior without parameters of its own would fit any checkpoint, and fail when it is first used.
    upper = ("prior", "posterior2") if config.layers == 2 else ()
    for name, member in members.items():
        wanted = config.latent_dim2 if name in upper else config.latent_dim
        if (own := getattr(member, "latent_dim", wanted)) != wanted:
            raise CheckpointError(f"the checkpoint has latent_dim={wanted}; the {name} given has latent_dim={own}")


def _check_sizes(config: Config, form: Form, members: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Refuses a config that describes far more than its file holds, before memory is allocated for it."""
    held = sum(tensor.numel() for tensor in tensors.values())
    with fitting("program"):
        described = build.num_described(config, *form, **copy.deepcopy(members))
        if described > _MOST_DESCRIBED * held:
            raise ValueError(f"its config describes about {described} numbers, its file holds {held}")
