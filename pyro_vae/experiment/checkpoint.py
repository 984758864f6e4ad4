"""Checkpoints: all that a run needs to go on, or to be used, in two files without any code in them.

    epoch-00012.safetensors    program/..., best/..., optimizer/<parameter>/...
    epoch-00012.json           schema, SHA-256 and size of the other file, config, x_shape, progress, ... and the
                               SHA-256 of all this

The tensors are written first, so a checkpoint exists once its manifest does. Nothing in either file depends on the
clock: equal states give equal bytes.
"""

import json
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from pyro_vae.data import Form
from pyro_vae.errors import CheckpointError
from pyro_vae.experiment import build, storage
from pyro_vae.experiment.config import Config
from pyro_vae.inference.training import Progress
from pyro_vae.model.program import Program
from pyro_vae.model.vae import VAE

SCHEMA = 1
KEEP = 3


@dataclass(frozen=True)
class Checkpoint:
    """What one checkpoint holds."""

    config: Config
    form: Form
    progress: Progress
    program: dict[str, Tensor]
    optimizer: dict[str, Any]

    def restore(self, program: Program, optimizer: torch.optim.Optimizer) -> Progress:
        """Puts the state into a program and its optimiser, and returns how far they had come."""
        _set(program, self.program)
        try:
            optimizer.load_state_dict(self.optimizer)
        except ValueError as error:
            raise CheckpointError(f"the checkpoint does not fit the optimiser: {error}") from error
        return self.progress


def save(
    folder: Path,
    config: Config,
    form: Form,
    program: Program,
    optimizer: torch.optim.Optimizer,
    progress: Progress,
) -> Path:
    """Writes the checkpoint of an epoch and removes all but the last few. Returns the manifest's path.

    Raises:
        StorageError: it could not be written; older checkpoints are as they were.
    """
    slots, groups = _flatten(optimizer)
    content = save_tensors(
        {
            name: tensor.detach().cpu().contiguous()
            for part, tensors in (("program", program.tensors()), ("best", progress.best_tensors), ("optimizer", slots))
            for name, tensor in ((f"{part}/{key}", value) for key, value in tensors.items())
        }
    )
    path = folder / f"epoch-{progress.epoch:05d}.safetensors"
    body = {
        "schema": SCHEMA,
        "tensors": {"file": path.name, "sha256": storage.sha256(content), "bytes": len(content)},
        "config": config.to_dict(),
        **form._asdict(),
        "progress": {
            "epoch": progress.epoch,
            "best_epoch": progress.best_epoch,
            "best_score": progress.best_score,
        },
        "optimizer": groups,
    }
    storage.write(path, content)
    storage.write(path.with_suffix(".json"), storage.to_json({**body, "sha256": storage.sha256(storage.to_json(body))}))
    for old in manifests(folder)[KEEP:]:
        storage.remove(old)
        storage.remove(old.with_suffix(".safetensors"))
    return path.with_suffix(".json")


def read(manifest: Path) -> Checkpoint:
    """Reads and verifies one checkpoint.

    Raises:
        CheckpointError: a file is missing, damaged or altered, or was written by a newer version.
    """
    body = _read_manifest(manifest)
    tensors = _read_tensors(manifest, body["tensors"])
    parts: dict[str, dict[str, Tensor]] = {"program": {}, "best": {}, "optimizer": {}}
    for name, tensor in tensors.items():
        part, _, key = name.partition("/")
        parts[part][key] = tensor
    return Checkpoint(
        config=Config.from_dict(body["config"]),
        form=Form(tuple(body["x_shape"]), body.get("num_levels"), body.get("num_classes", 0)),
        progress=Progress(**body["progress"], best_tensors=parts["best"]),
        program=parts["program"],
        optimizer=_unflatten(parts["optimizer"], body["optimizer"]),
    )


def newest(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint that is whole, or None, and what was wrong with newer ones.

    Raises:
        CheckpointError: there are checkpoints, and none is whole.
    """
    complaints: list[str] = []
    for manifest in manifests(folder):
        try:
            return read(manifest), complaints
        except CheckpointError as error:
            complaints.append(str(error))
    if complaints:
        raise CheckpointError(f"no checkpoint in {folder} is whole. " + " ".join(complaints))
    return None, []


def remove_orphans(folder: Path) -> None:
    """Removes tensor files whose manifest was never written, or was removed just before a crash."""
    for path in folder.glob("epoch-*.safetensors"):
        if not path.with_suffix(".json").exists():
            storage.remove(path)


def manifests(folder: Path) -> list[Path]:
    """Manifests in a folder, newest first."""
    numbered = {path: path.stem.removeprefix("epoch-") for path in folder.glob("epoch-*.json")}
    return sorted((path for path in numbered if numbered[path].isdigit()), key=lambda p: int(numbered[p]), reverse=True)


def load(run_or_checkpoint: str | Path, **overrides: Any) -> VAE:
    """The trained program of a run folder (its best state), or of one checkpoint's manifest or tensor file.

    No code is read from files: what `build` can name is rebuilt from the config; a member of your own is passed in.

    Args:
        run_or_checkpoint: path of a run folder, or of an `epoch-*.json` or `epoch-*.safetensors` in it.
        overrides: `prior`, `posterior` or `likelihood` to use instead of the one that the config names, already of the
            right sizes; its values come from the checkpoint. `device` to load onto, by default the CPU.

    Raises:
        CheckpointError: nothing there, or damaged, or its tensors do not fit the members.

    Example:
        >>> load("no-such-run")
        Traceback (most recent call last):
        ...
        pyro_vae.errors.CheckpointError: no checkpoint at no-such-run: ...
    """
    path = Path(run_or_checkpoint)
    if path.is_dir():
        checkpoint, complaints = newest(path / "checkpoints" if (path / "checkpoints").is_dir() else path)
        for complaint in complaints:
            warnings.warn(f"{complaint} Loading an older checkpoint.", stacklevel=2)
    else:
        checkpoint = read(path.with_suffix(".json")) if path.with_suffix(".json").is_file() else None
    if checkpoint is None:
        raise CheckpointError(f"no checkpoint at {run_or_checkpoint}: pass a run folder, or an epoch-*.json in one")
    # Not where it was trained: that device may not exist here.
    config = replace(checkpoint.config, device=str(overrides.pop("device", "cpu")))
    tensors = checkpoint.progress.best_tensors or checkpoint.program
    _check_latent_dim(config.latent_dim, overrides)
    dtype = next(tensor.dtype for tensor in tensors.values() if tensor.is_floating_point())
    program = build.vae(config, *checkpoint.form, **overrides).to(dtype)
    _set(program, tensors)
    return program.eval()


def _check_latent_dim(wanted: int, members: dict[str, Any]) -> None:
    # A prior without parameters of its own would fit any checkpoint, and fail when it is first used.
    for name, member in members.items():
        if (found := getattr(member, "latent_dim", wanted)) != wanted:
            raise CheckpointError(f"the checkpoint has latent_dim={wanted}; the {name} given has latent_dim={found}")


def _set(program: Program, tensors: dict[str, Tensor]) -> None:
    try:
        program.set_tensors(tensors)
    except ValueError as error:
        raise CheckpointError(f"the checkpoint does not fit the program: {error}") from error


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        stored = json.loads(path.read_bytes())
        claimed, schema = stored.pop("sha256"), int(stored["schema"])
        found = storage.sha256(storage.to_json(stored))
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise CheckpointError(f"{path} can not be read as a manifest: {error!r}.") from error
    if schema > SCHEMA:
        raise CheckpointError(f"{path} has schema {schema}, this version reads up to {SCHEMA}: update pyro_vae.")
    if found != claimed:
        raise CheckpointError(f"{path} was altered: it says SHA-256 {claimed}, its content has {found}.")
    return stored


def _read_tensors(manifest: Path, entry: dict[str, Any]) -> dict[str, Tensor]:
    path = manifest.with_suffix(".safetensors")
    if entry["file"] != path.name:
        raise CheckpointError(f"{manifest} belongs to {entry['file']}, not to {path.name}.")
    try:
        if path.stat().st_size != entry["bytes"]:
            raise CheckpointError(f"{path} has {path.stat().st_size} bytes instead of {entry['bytes']}.")
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path} can not be read: {error.strerror}.") from error
    if (found := storage.sha256(content)) != entry["sha256"]:
        raise CheckpointError(f"{path} is damaged: SHA-256 should be {entry['sha256']}, is {found}.")
    try:
        return load_tensors(content)
    except SafetensorError as error:
        raise CheckpointError(f"{path} is no safetensors file: {error}.") from error


def _flatten(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    state = optimizer.state_dict()
    slots = {f"{index}/{key}": value for index, slot in state["state"].items() for key, value in slot.items()}
    return slots, state["param_groups"]


def _unflatten(slots: dict[str, Tensor], groups: list[dict[str, Any]]) -> dict[str, Any]:
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in slots.items():
        index, _, key = name.partition("/")
        state.setdefault(int(index), {})[key] = value
    return {"state": state, "param_groups": groups}
