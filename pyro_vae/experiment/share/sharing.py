"""A trained program as a folder for others, laid out as the Hugging Face hub has it.

    model.safetensors   the tensors of the best epoch, under their names in the program; no optimiser
    config.json         schema, settings, what must be known of the data, the classes of the members, versions, SHA-256
                        and size of the file above, and the SHA-256 of all this
    README.md           the model card: what was measured, on what, and what that does not say
    samples.png, reconstructions.png, columns.png

config.json is written first. If the rest is cut short, its hashes refuse what is there, and the same command writes all
of it again. It is checked as the manifest of a checkpoint is, see `manifest`.
"""

import contextlib
import io
import shlex
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as save_tensors

from pyro_vae.command_lines import command_line, for_others
from pyro_vae.data.intake import Intake
from pyro_vae.errors import CheckpointError, UsageError
from pyro_vae.experiment import build
from pyro_vae.experiment.config import Config
from pyro_vae.experiment.own_members import FACTS, OwnMember, arguments_of, is_place, without_folder
from pyro_vae.experiment.protocol_card import tested
from pyro_vae.experiment.run import checkpoint, files, lineage, raw_data, rebuilt_program
from pyro_vae.experiment.run import manifest as manifest_file
from pyro_vae.experiment.run.checkpoint import Checkpoint
from pyro_vae.experiment.run.places import untrained
from pyro_vae.experiment.run.provenance import surroundings
from pyro_vae.experiment.run.run_folder import Run
from pyro_vae.experiment.share import hub
from pyro_vae.inference import Progress
from pyro_vae.model.autoencoder import Autoencoder
from pyro_vae.model.program import Program
from pyro_vae.report.documents import model_card
from pyro_vae.report.documents.estimate_sections import num_test
from pyro_vae.report.render.markdown import to_markdown

TENSORS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"
PICTURES = tuple(model_card.PICTURES)
FILES = (TENSORS, CONFIG, CARD, *PICTURES)
_LARGEST_PICTURE = 1 << 24  # bytes
_KEYS = {"schema", "library_name", "tensors", "config", "x_shape", "num_levels", "num_classes", "members", "versions"}
_NEWER_KEYS = {"scaling", "intake", "own"}  # that a share of an older version lacks


def load(source: str | Path, *, own: Iterable[OwnMember] = (), **overrides: Any) -> Autoencoder:
    """Loads a trained program: of a run folder (its best state), of one checkpoint, of a shared folder, or of the hub.

    No code is read from files: what `build` can name is rebuilt from the config; a member of your own is passed in.

    Args:
        source: path of a run folder, of an `epoch-*.json` or `epoch-*.safetensors` in one, or of a folder that `share`
            wrote; "hf://user/name" or "hf://user/name@revision" for one on the Hugging Face hub, which takes
            `pip install 'pyro-vae[hub]'`.
        own: classes of your own under the names that a config may have for them, as a command takes them.
        overrides: `prior`, `posterior` or `likelihood` to use instead of the one that the config names: a class, which
            is built as the config says, or a member already of the right sizes (of two layers those of
            `build.members_of`); its values come from the file. `network` is the two classes of encoder and decoder.
            `device` to load onto, by default the CPU.

    Returns:
        The program, with the values of its best epoch, or of the checkpoint that was named.

    Raises:
        CheckpointError: there is nothing, it is damaged, or its tensors do not fit the members.
        UsageError: there is no override of that name, the config names a class that is not given, or the hub's package
            is not installed.

    Example:
        >>> load("no-such-run")
        Traceback (most recent call last):
        ...
        pyro_vae.errors.CheckpointError: no checkpoint at no-such-run: ...
    """
    on_hub = str(source).startswith(hub.SCHEME)
    folder = hub.fetch(str(source), (TENSORS, CONFIG)) if on_hub else Path(source)
    if not on_hub and not is_shared(folder):
        return rebuilt_program.load(folder, own=own, **overrides)
    shared, members, intake = _read(folder)
    shared, overrides = rebuilt_program.with_members(shared, own, overrides)
    try:
        program = rebuilt_program.rebuilt(shared, **overrides)
    except (CheckpointError, UsageError) as error:
        if isinstance(error, UsageError) and overrides:
            raise
        raise CheckpointError(f"{folder}: {error}") from error
    if (here := _members(program)) != members:
        raise CheckpointError(
            f"{folder} holds a program of {_listed(members)}, not of {_listed(here)}: pass the members that differ, as "
            "in pv.load(folder, prior=MyPrior(20))"
        )
    program.intake = intake
    return program


def share(
    run: str | Path,
    folder: str | Path,
    *,
    name: str = "",
    license_id: str = "",
    pictures: bool = True,
    own: Iterable[OwnMember] = (),
    **members: Any,
) -> Path:
    """Writes the program of a run, at its best epoch, as a folder for others; `pyro_vae.load` reads it.

    Settings that say where something lies on this machine are left out, folders in command lines too. Arguments of
    members of your own stay, for their classes need them; a warning names those that are paths.

    Args:
        run: the folder of a trained run.
        folder: where to; new, or one that was shared before, which is replaced.
        name: the name of the model on its card; by default the name of the run's folder.
        license_id: the licence of the weights, as the hub names it, e.g. "apache-2.0"; by default none is claimed.
        pictures: whether to take along the pictures of the run; its reconstructions show test data.
        own: classes of your own under the names that the config has for them, as a command takes them.
        members: `prior`, `posterior`, `likelihood` or `network` of your own, as for `load`.

    Returns:
        The folder.

    Raises:
        CheckpointError: there is no trained run, it is damaged, or its report is of another epoch.
        UsageError: the folder holds other files of these names.
        StorageError: the folder cannot be written to.

    Example:
        >>> share("no-such-run", "shared/digits")
        Traceback (most recent call last):
        ...
        pyro_vae.errors.CheckpointError: no-such-run holds no trained run (there is no such folder): ...
    """
    run, folder = Path(run), Path(folder)
    trained = _trained(run)
    trained, built = rebuilt_program.with_members(trained, own, members)
    program = rebuilt_program.rebuilt(trained, **built)
    _check_free(folder)
    tensors = {key: tensor.contiguous() for key, tensor in trained.tensors().items()}
    content = save_tensors(tensors, metadata={"format": "pt"})
    intake = raw_data.intake_of_run(run, trained.config, trained.form, trained.intake)
    for sentence in _places_on_this_machine(trained.config):
        warnings.warn(sentence, stacklevel=2)
    described = manifest_file.sealed(_body(trained, program, content, intake))
    shown = {picture: _picture(run / picture) for picture in PICTURES if pictures and (run / picture).is_file()}
    contents = {CONFIG: described, TENSORS: content, **shown}
    with _of_run(run):
        hashes = {file: files.sha256(whole) for file, whole in contents.items()}
        card = _card(run, trained, program, hashes, name, license_id)
        text = model_card.front_matter(card) + to_markdown(model_card.card_document(card))
    files.make_folder(folder)
    files.sweep(folder)
    for stale in set(PICTURES) - shown.keys():
        files.remove(folder / stale)
    for file, whole in {**contents, CARD: text.encode()}.items():
        files.write(folder / file, whole)
    return folder


def is_shared(path: Path) -> bool:
    """Returns whether this is a folder that `share` wrote, and no run."""
    is_run = (path / "checkpoints").exists() or (path / "run.json").exists()
    return not is_run and ((path / CONFIG).exists() or (path / TENSORS).exists())


def open_shared(folder: Path, **overrides: Any) -> tuple[Checkpoint, Autoencoder]:
    """Opens a folder that `share` wrote: what it says of the run, and the program.

    Raises:
        CheckpointError, UsageError: as for `load`.
    """
    return _read(folder)[0], load(folder, **overrides)


def _read(folder: Path) -> tuple[Checkpoint, dict[str, str], Intake]:
    path = folder / CONFIG
    body = manifest_file.read(path)
    with manifest_file.well_formed(path):
        if wrong := (body.keys() - _NEWER_KEYS) ^ _KEYS:
            raise ValueError(f"{sorted(wrong)[:9]} are too many, or missing")
        tensors = manifest_file.tensors(path, body["tensors"], TENSORS)
        checkpoint.check_types(list(tensors.values()))
        config, own = Config.from_dict(body["config"]), checkpoint.own_of(body)
        shared = Checkpoint(config, checkpoint.form_of(body), Progress(), tensors, {}, own=own)
        told = body.get("intake")
        intake = Intake.of_dict(told) if told else raw_data.of_settings(shared.config, shared.form)
        return shared, {str(name): str(class_name) for name, class_name in body["members"].items()}, intake


def _body(trained: Checkpoint, program: Program, content: bytes, intake: Intake) -> dict[str, Any]:
    return {
        "schema": manifest_file.SCHEMA,
        "library_name": "pyro-vae",
        "tensors": {"file": TENSORS, "sha256": files.sha256(content), "bytes": len(content)},
        "config": trained.config.portable().to_dict(),
        **trained.form._asdict(),
        "intake": intake.to_dict(),
        "members": _members(program),
        **({"own": trained.own} if trained.own else {}),
        "versions": surroundings("cpu")["versions"],
    }


def _places_on_this_machine(config: Config) -> list[str]:
    """Names, in sentences, the arguments of members that say where something lies: their classes need them as is."""
    told = []
    for family in FACTS:
        option = f"{family}_args"
        for name, value in arguments_of(option, getattr(config, option)).items():
            words = value if isinstance(value, list) else [value]
            if there := [word for word in words if isinstance(word, str) and _is_elsewhere(word)]:
                told.append(
                    f"the shared files hold {', '.join(map(repr, there))}, the argument {name} of `{option}`: a place "
                    "on this machine, which others do not have and can read."
                )
    return told


def _members(program: Program) -> dict[str, str]:
    return {name: type(member).__name__ for name, member in program.named_children()}


def _listed(members: dict[str, str]) -> str:
    return ", ".join(f"{name} {class_name}" for name, class_name in members.items())[:200]


def _trained(run: Path) -> Checkpoint:
    """The newest checkpoint; a damaged one is not passed over here."""
    if not (run / "run.json").exists():
        raise untrained(run)
    newest, complaints = checkpoint.newest(run / "checkpoints")
    if complaints:
        finished = f"remove {run / 'report.json'}, then " if (run / "report.json").exists() else ""
        raise CheckpointError(
            f"{complaints[0]} Repair the run first: {finished}{command_line('train', out=run, resume=True)}"
        )
    if newest is None or not newest.progress.best_epoch:
        raise CheckpointError(f"{run} has no whole epoch yet: go on with {command_line('train', out=run, resume=True)}")
    return newest


def _check_free(folder: Path) -> None:
    there = [file for file in FILES if (folder / file).exists()]
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is not a folder: use another `folder`")
    if (folder / "run.json").exists():
        raise UsageError(f"{folder} is a run: use another `folder`")
    if not there:
        return
    try:
        manifest_file.read(folder / CONFIG)  # the tensors may be those of a share that was cut short
    except CheckpointError as error:
        raise UsageError(
            f"{folder} holds {', '.join(there)}, which is not a shared model that could be replaced: use another "
            "`folder`"
        ) from error


def _picture(path: Path) -> bytes:
    with path.open("rb") as file:
        content = file.read(_LARGEST_PICTURE + 1)
    if len(content) > _LARGEST_PICTURE or not content.startswith(b"\x89PNG"):
        raise CheckpointError(f"{path} is not a PNG of a report: remove it, or leave pictures out")
    return content


def _card(
    run: Path, trained: Checkpoint, program: Program, hashes: dict[str, str], name: str, license_id: str
) -> model_card.Card:
    config, report = trained.config, _report(run, trained.progress.best_epoch)
    about = Run(run, config).status.read()
    protocol = about["protocol"]
    recipe = protocol["dequantized"] or protocol["binarization"]
    rows = tested(config, protocol, num_test(report) or config.test_data)
    evaluated = report.get("run", {}).get("command")
    return model_card.Card(
        name=name or run.resolve().name,
        license=license_id,
        members=_members(program),
        own=_own(trained, program),
        shapes=_shapes(program, trained),
        facts=_facts(trained, program, about),
        report=report,
        protocol=protocol,
        protocol_card={**rows, "source": protocol["source"], "x": recipe["sentence"]},
        conditional=config.conditional,
        remembers=config.prior == "vamp" and config.pseudo_inputs == "data",
        commands=[_without_folders(command) for command in (about["command"], evaluated) if command],
        versions=about["versions"],
        files=hashes,
    )


def _own(trained: Checkpoint, program: Program) -> list[model_card.Own]:
    """What no file of the program holds: members by place, and those that a caller passed."""
    config = trained.config
    places = {family: getattr(config, family) for family in FACTS if is_place(getattr(config, family))}
    others = {
        part: type(member).__name__
        for part, member in program.named_children()
        if part not in places and not type(member).__module__.startswith("pyro_vae.")
    }
    named = [
        model_card.Own(family, place, getattr(config, f"{family}_args"), trained.own.get(family, {}).get("sha256", ""))
        for family, place in places.items()
    ]
    return named + [model_card.Own(part, name) for part, name in others.items()]


def _facts(trained: Checkpoint, program: Program, about: dict[str, Any]) -> dict[str, str]:
    config, progress = trained.config, trained.progress
    more, size = {}, build.batch_size(config, about["protocol"]["split"]["sizes"]["train"])
    if source := about.get("refitted_from"):
        more["refitted"] = f"only the prior; encoder and decoder are those of the run {Path(source['run']).name}"
    for source in about.get(lineage.KEY, [])[:1]:
        more["started from"] = f"the weights of epoch {source['epoch']} of the run {Path(source['run']).name}"
    return {
        "parameters": f"{sum(parameter.numel() for parameter in program.parameters()):,}",
        "latent dimensions": f"{config.latent_dim}{f', of z2 {config.latent_dim2}' if config.layers == 2 else ''}",
        "networks": f"{config.network} {config.network_args}".strip()
        if is_place(config.network)
        else f"{config.network}, hidden {list(config.hidden)}, {config.activation}, {config.precision}",
        "objective": f"{config.objective}, reconstruction weight {config.reconstruction_weight:g}, KL weight "
        f"{config.kl_weight:g}, num_particles {config.num_particles}, {config.gradient.replace('_', ' ')} gradient",
        "training": f"{progress.epoch} epochs of batches of {size}; epoch {progress.best_epoch} is kept, "
        "the best on validation data",
        "seeds": f"training {config.seed}, data {config.data_seed}",
        **more,
    }


def _shapes(program: Program, trained: Checkpoint) -> str:
    y = torch.eye(1, trained.form.num_classes) if trained.config.conditional else None
    with contextlib.redirect_stdout(io.StringIO()):
        return program.describe(y=None if y is None else y.to(next(program.parameters()).dtype))


def _report(run: Path, epoch: int) -> dict[str, Any]:
    path = run / "report.json"
    if not path.exists():
        return {}
    report = files.from_json(path)
    if (of := report["training"]["best_epoch"]) != epoch:
        raise CheckpointError(
            f"{path} is of epoch {of}, but the best epoch is now {epoch}: make it again with "
            f"{command_line('train', out=run, resume=True)}"
        )
    return report


@contextlib.contextmanager
def _of_run(run: Path) -> Iterator[None]:
    try:
        yield
    except CheckpointError:
        raise
    except (ValueError, LookupError, TypeError, AttributeError, OSError) as error:
        raise CheckpointError(
            f"run.json or report.json in {run} is damaged ({error!r:.200}): put a copy of it back"
        ) from error


def _without_folders(command: str) -> str:
    """A command line in which paths are names only: its reader need not know this machine."""
    return shlex.join(map(_without_folder, for_others(command)))


def _without_folder(word: str) -> str:
    flag, equals, value = word.rpartition("=") if word.startswith("--") else ("", "", word)
    if (source := value.rpartition(":")[0]).endswith(".py"):  # the place of a member of the user's own
        return f"{flag}{equals}{without_folder(value)}" if Path(source).name else word
    name = value.replace(chr(92), "/").rstrip("/").rpartition("/")[2]
    return f"{flag}{equals}{name if _is_elsewhere(value) else value}"


def _is_elsewhere(word: str) -> bool:
    return word.startswith(("/", "~", "..")) or (len(word) > 2 and word[1:3] in (":\\", ":/"))
