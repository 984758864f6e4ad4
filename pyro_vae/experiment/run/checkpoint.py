"""Checkpoints: all that a run needs to continue or to be used, in two files that hold no code.

    epoch-00012.safetensors    program/..., best/..., average/..., optimizer/<parameter>/..., noise/<device>
    epoch-00012.json           schema, SHA-256 and size of the other file, config, x_shape, progress, SHA-256 of the
                               run's history so far, ... and the SHA-256 of all this

    epoch-00012-step-00034...  the same after 34 steps of the epoch after, where training was stopped there

The tensors are written first, so a checkpoint exists once its manifest does. Nothing in either file depends on the
clock: equal states give equal bytes.
"""

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyro_vae.data import Form
from pyro_vae.data.intake import Intake
from pyro_vae.errors import CheckpointError, UsageError
from pyro_vae.experiment.config import Config
from pyro_vae.experiment.own_members import FAMILIES
from pyro_vae.experiment.run import files
from pyro_vae.experiment.run import manifest as manifest_file
from pyro_vae.inference.fitting import Part, Progress
from pyro_vae.model.program import Program
from pyro_vae.option_words import Scaling, words

KEEP = 3
_PARTS = ("program", "best", "average", "optimizer", "noise")
_NAME = re.compile(r"epoch-(\d+)(?:-step-(\d+))?\.json")


@dataclass(frozen=True)
class Checkpoint:
    """What one checkpoint holds.

    Attributes:
        config: the config of the run.
        form: what must be known of the data.
        progress: how far the training had come, with the best tensors so far.
        program: the tensors of the program, by name.
        optimizer: the state of the optimiser, as in `state_dict`.
        history: the SHA-256 of the lines of history.jsonl that belong to it; "" where it is not known.
        intake: the recipe of the raw data; None where it is not known.
        own: names and SHA-256 of the members of a user's own, by family, as they were when it was written.
        file, sha256: name and SHA-256 of the file of its tensors, where it was read from one.
    """

    config: Config
    form: Form
    progress: Progress
    program: dict[str, Tensor]
    optimizer: dict[str, Any]
    history: str = ""
    intake: Intake | None = None
    own: dict[str, dict[str, str]] = field(default_factory=dict)
    file: str = ""
    sha256: str = ""

    def tensors(self) -> dict[str, Tensor]:
        """The tensors of the program at its best epoch, or its present tensors before the first epoch ends."""
        return self.progress.best_tensors or self.program

    def restore(self, program: Program, optimizer: torch.optim.Optimizer) -> Progress:
        """Puts the state into a program and its optimiser, and returns how far they had come.

        Raises:
            CheckpointError: the state does not fit them.
        """
        with fitting("optimiser"):
            _check_slots(self.optimizer, optimizer)
            optimizer.load_state_dict(self.optimizer)
        with fitting("program"):
            if self.progress.average:  # the program puts it on its device
                program.set_tensors(self.progress.average)
                self.progress.average = {name: tensor.clone() for name, tensor in program.tensors().items()}
            program.set_tensors(self.program)
        if self.progress.part is not None:
            with fitting("stream of noise"):  # for example of another version of torch
                torch.Generator().set_state(self.progress.part.noise["cpu"])
        return self.progress


def save(folder: Path, checkpoint: Checkpoint) -> Path:
    """Writes a checkpoint, and removes all except the last few.

    The next checkpoint replaces one that was made within an epoch. Only checkpoints of whole epochs count among the
    last few.

    Args:
        folder: the folder of checkpoints.
        checkpoint: what is written.

    Returns:
        The path of its manifest.

    Raises:
        StorageError: it cannot be written. Older checkpoints are as they were.
    """
    progress = checkpoint.progress
    slots, groups = _flatten(checkpoint.optimizer)
    noise = progress.part.noise if progress.part is not None else {}
    parts = {"program": checkpoint.program, "best": progress.best_tensors, "average": progress.average}
    parts |= {"optimizer": slots, "noise": noise}
    tensors = {f"{part}/{key}": tensor for part, named in parts.items() for key, tensor in named.items()}
    body = {
        "config": checkpoint.config.to_dict(),
        **checkpoint.form._asdict(),
        "progress": {
            "epoch": progress.epoch,
            "best_epoch": progress.best_epoch,
            "best_score": progress.best_score if math.isfinite(progress.best_score) else None,
            "part": progress.part and {"steps": progress.part.steps, "loss": progress.part.loss},
        },
        "history": checkpoint.history,
        "optimizer": groups,
        **({"intake": checkpoint.intake.to_dict()} if checkpoint.intake is not None else {}),
        **({"own": own} if (own := checkpoint.config.own.recorded()) else {}),
    }
    step = f"-step-{progress.steps:05d}" if progress.part is not None else ""
    manifest = folder / f"epoch-{progress.epoch:05d}{step}.json"
    manifest_file.write(manifest, body, tensors)
    for old in _superseded(folder, manifest):
        files.remove(old)
        files.remove(old.with_suffix(".safetensors"))
    return manifest


def read(manifest: Path) -> Checkpoint:
    """Reads and verifies one checkpoint.

    Args:
        manifest: the path of its manifest.

    Raises:
        CheckpointError: a file is missing, damaged or altered, or was written by a newer version.
    """
    body = manifest_file.read(manifest)
    with manifest_file.well_formed(manifest):
        tensors = manifest_file.tensors(manifest, body["tensors"])
        parts: dict[str, dict[str, Tensor]] = {name: {} for name in _PARTS}
        for name, tensor in tensors.items():
            part, _, key = name.partition("/")
            parts[part][key] = tensor
        check_types([*parts["program"].values(), *parts["best"].values(), *parts["average"].values()])
        return Checkpoint(
            config=Config.from_dict(body["config"]),
            form=form_of(body),
            progress=_progress(body["progress"], parts),
            program=parts["program"],
            optimizer=_unflatten(parts["optimizer"], body["optimizer"]),
            history=str(body.get("history", "")),
            intake=Intake.of_dict(body["intake"]) if body.get("intake") else None,
            own=own_of(body),
            file=str(body["tensors"]["file"]),
            sha256=str(body["tensors"]["sha256"]),
        )


def newest(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """Reads the newest checkpoint that is whole.

    Returns:
        The checkpoint, or None where there is none, and what was wrong with newer ones.

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
        cure = "Put a copy of one back, or train again in another folder."
        raise CheckpointError(f"no checkpoint in {folder} is whole. {cure} {' '.join(complaints)}")
    return None, []


def remove_orphans(folder: Path) -> None:
    """Removes tensor files whose manifest was never written, or was removed just before a crash."""
    for path in folder.glob("epoch-*.safetensors"):
        if not path.with_suffix(".json").exists():
            files.remove(path)


def manifests(folder: Path) -> list[Path]:
    """Lists the manifests in a folder, the newest first."""
    names = {path: _NAME.fullmatch(path.name) for path in folder.glob("epoch-*.json")}
    numbers = {path: (int(name[1]), int(name[2] or 0)) for path, name in names.items() if name}
    return sorted(numbers, key=numbers.__getitem__, reverse=True)


def _superseded(folder: Path, written: Path) -> list[Path]:
    paths = manifests(folder)
    whole = [path for path in paths if "step" not in path.stem]
    return [path for path in paths if path != written and (path in whole[KEEP:] or "step" in path.stem)]


@contextmanager
def fitting(what: str) -> Iterator[None]:
    """Turns an error of putting the state of a checkpoint into something into a sentence.

    Args:
        what: what the state is put into.

    Raises:
        CheckpointError: the state does not fit.
    """
    try:
        yield
    except UsageError:
        raise
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RuntimeError) as error:
        raise CheckpointError(f"the checkpoint does not fit the {what}: {error}") from error


def check_types(tensors: list[Tensor]) -> None:
    """Checks that the tensors of a program are of one real type.

    Raises:
        ValueError: they are not.
    """
    types = {t.dtype for t in tensors if t.is_floating_point() or t.is_complex()}  # a flow has masks too
    if len(types) != 1 or not types <= {torch.float16, torch.bfloat16, torch.float32, torch.float64}:
        raise ValueError(f"its tensors are of the types {sorted(map(str, types))}, where one real type is expected")


def form_of(body: dict[str, Any]) -> Form:
    """Reads the form of the data from the body of a manifest."""
    levels = body.get("num_levels")
    return Form(
        tuple(map(_count, body["x_shape"])),
        None if levels is None else _count(levels),
        _count(body.get("num_classes", 0)),
        _known_scaling(body.get("scaling", "as_stored")),
    )


def own_of(body: dict[str, Any]) -> dict[str, dict[str, str]]:
    """Reads names and hashes of the members of a user's own from the body of a manifest."""
    return {
        family: {"name": str(body["own"][family]["name"]), "sha256": str(body["own"][family]["sha256"])}
        for family in FAMILIES
        if family in body.get("own", {})
    }


def _known_scaling(word: Any) -> str:
    if word not in words(Scaling):
        raise ValueError(f"the networks see data {', '.join(words(Scaling))}; got {word!r:.40}")
    return str(word)


def _progress(entry: dict[str, Any], parts: dict[str, dict[str, Tensor]]) -> Progress:
    noise = parts["noise"]
    part, score = entry.get("part"), entry["best_score"]
    progress = Progress(
        epoch=_count(entry["epoch"]),
        best_epoch=_count(entry["best_epoch"]),
        best_score=-math.inf if score is None else float(score),
        best_tensors=parts["best"],
        part=None if part is None else Part(_count(part["steps"]), float(part["loss"]), noise),
        average=parts["average"],
    )
    if progress.best_epoch > progress.epoch:
        raise ValueError(f"epoch {progress.best_epoch} is recorded as the best of {progress.epoch}")
    if progress.part is not None and not (progress.part.steps and "cpu" in noise):
        raise ValueError("the part of an epoch has steps, and a position in the stream of their noise")
    return progress


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 1 << 31:
        raise ValueError(f"a number of epochs, steps or data is whole and not negative; got {value!r:.40}")
    return value


def _flatten(state: dict[str, Any]) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    slots = {f"{index}/{key}": value for index, slot in state["state"].items() for key, value in slot.items()}
    return slots, state["param_groups"]


def _check_slots(state: dict[str, Any], optimizer: torch.optim.Optimizer) -> None:
    """Checks what torch does not check: that the state of each parameter has its shape."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for index, slots in state["state"].items():
        for name, value in slots.items():
            if value.dim() and value.shape != parameters[index].shape:
                raise ValueError(
                    f"{name} of parameter {index} has shape {tuple(value.shape)}, the parameter "
                    f"{tuple(parameters[index].shape)}"
                )


def _unflatten(slots: dict[str, Tensor], groups: list[dict[str, Any]]) -> dict[str, Any]:
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in slots.items():
        index, _, key = name.partition("/")
        state.setdefault(int(index), {})[key] = value
    return {"state": state, "param_groups": groups}
