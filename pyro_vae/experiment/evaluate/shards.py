"""An evaluation divided over processes and machines: the files of its shards, and their merge.

    RUN/shards/shard-00000-of-00004.safetensors    the columns of the parts of its blocks, see `block_tasks`
    RUN/shards/shard-00000-of-00004.json           their run, model, plan and version, SHA-256 and size of the other
                                                   file, ... and the SHA-256 of all this

Shard i of n takes every n-th block of the work, from block i on. A shard exists once its manifest does. Neither file
depends on the clock: a shard computed again has the same bytes.
"""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import fields
from itertools import groupby
from pathlib import Path
from typing import Any

from torch import Tensor

from pyro_vae.command_lines import command_line
from pyro_vae.errors import CheckpointError, UsageError
from pyro_vae.evaluation import AnnealedEstimate, Estimate
from pyro_vae.evaluation.exact.quadrature import GridEstimate
from pyro_vae.experiment.evaluate import block_tasks, expected_work
from pyro_vae.experiment.evaluate.block_tasks import Part
from pyro_vae.experiment.evaluate.evaluated_run import Subject
from pyro_vae.experiment.evaluate.evaluation_plan import Shard
from pyro_vae.experiment.own_members import places_of
from pyro_vae.experiment.run import files
from pyro_vae.experiment.run import manifest as manifest_file
from pyro_vae.experiment.run.provenance import surroundings
from pyro_vae.experiment.run.trained_run import TrainedRun
from pyro_vae.progress import section
from pyro_vae.threads import computing

FOLDER = "shards"
_NAME = re.compile(r"shard-(\d{5})-of-(\d{5})\.json")
_ESTIMATES: dict[frozenset[str], type[Estimate]] = {
    frozenset(field.name for field in fields(cls)): cls for cls in (Estimate, AnnealedEstimate, GridEstimate)
}


def is_done(subject: Subject, shard: Shard, folder: Path) -> bool:
    """Returns whether this shard of this evaluation is there and whole."""
    path = folder / f"{shard.stem}.json"
    if not path.exists():
        return False
    try:
        body = manifest_file.read(path)
        _read_tensors(path, body)
    except CheckpointError:
        return False  # it is made again
    return bool(body.get("of") == identity(subject) and body.get("shard") == list(shard))


def write(subject: Subject, shard: Shard, folder: Path, say: Any = lambda sentence: None) -> Path:
    """Computes a shard and writes it.

    Args:
        subject: what is evaluated.
        shard: the share of the work.
        folder: where its files are written.
        say: is told what is being done.

    Returns:
        The path of its manifest.

    Raises:
        DivergenceError, DataError: see `block_tasks.measure`.
        StorageError: a file cannot be written.
    """
    tensors: dict[str, Tensor] = {}
    about: dict[str, Any] = {}
    share = dict(_share(subject, shard))
    every = {name: len(block_tasks.blocks_of(subject, name)) for name in share}
    planned = expected_work.planned_share(subject, {name: len(wanted) / every[name] for name, wanted in share.items()})
    with computing(subject.trained.threads), planned:
        for name, wanted in share.items():
            sentence = block_tasks.says(subject, name)
            say(f"shard {shard}, {len(wanted)} of {every[name]} blocks: {sentence}")
            with section(name, sentence):
                answers = block_tasks.measure(subject, name, wanted)
            for number, part in answers.items():
                about[f"{name}/{number}"] = part if isinstance(part, str) else _pack(f"{name}/{number}", part, tensors)
    path = folder / f"{shard.stem}.json"
    files.make_folder(folder)
    files.remove(path)  # of another evaluation: its tensors go now
    manifest_file.write(path, {"shard": list(shard), "of": identity(subject), "blocks": about}, tensors)
    return path


def merge(subject: Subject, folder: Path) -> dict[str, Part | str]:
    """Joins what all shards in a folder have computed, which is what one process would have computed.

    Args:
        subject: what is evaluated.
        folder: the folder of the shards.

    Returns:
        Task -> what was computed, or a sentence where this program cannot be asked.

    Raises:
        CheckpointError: shards are missing, damaged, copies of one another, or of another run, model or version.
        UsageError: shards are of another plan.
    """
    parts: dict[tuple[str, int], Part | str] = {}
    ours = identity(subject)
    for shard, path in _complete(folder, subject):
        body = manifest_file.read(path)
        with manifest_file.well_formed(path):
            theirs, of = dict(body["of"]), Shard(*body["shard"])
        _check_same(path, theirs, ours)
        if of != shard:
            raise CheckpointError(f"{path} is a copy of shard {of}: remove it, and compute shard {shard}")
        tensors = _read_tensors(path, body)
        with manifest_file.well_formed(path):
            for key in ((name, number) for name, numbers in _share(subject, shard) for number in numbers):
                block = "/".join(map(str, key))
                parts[key] = _unpack(block, body["blocks"][block], tensors)
    together = groupby(block_tasks.blocks(subject), key=lambda block: block[0])
    return {name: block_tasks.joined(parts[block] for block in blocks) for name, blocks in together}


def identity(subject: Subject) -> dict[str, Any]:
    """Lists what must be the same in all shards that are put together: equal identities have equal numbers."""
    trained = _run_of(subject)
    around = surroundings(trained.config.device)
    facts = {
        "model": files.sha256(manifest_file.packed(trained.vae.tensors())),
        "epochs": [trained.best_epoch, trained.epochs],
        "config": trained.config.scientific(),
        "data": trained.data.protocol["sha256"],
        "num_data": len(subject.test),
        "plan": subject.plan.to_dict(),
        "device": trained.config.device,
        "threads": {"threads": trained.threads},
        "git": around["git"],
        "versions": around["versions"],
    }
    return json.loads(files.to_json(facts))


def _run_of(subject: Subject) -> TrainedRun:
    if not isinstance(subject.trained, TrainedRun):
        raise UsageError("shards belong to the evaluation of a run")
    return subject.trained


def _share(subject: Subject, shard: Shard) -> Iterator[tuple[str, list[int]]]:
    """Yields the blocks of a shard, task by task."""
    own = block_tasks.blocks(subject)[shard.place :: shard.number]
    return ((name, [number for _, number in blocks]) for name, blocks in groupby(own, key=lambda block: block[0]))


def _complete(folder: Path, subject: Subject) -> list[tuple[Shard, Path]]:
    """Lists the manifests of shards 0 ... n - 1, all of which must be there."""
    trained = _run_of(subject)
    run = trained.run.path
    names = {path: _NAME.fullmatch(path.name) for path in folder.glob("shard-*.json")}
    paths = {Shard(int(name[1]), int(name[2])): path for path, name in names.items() if name}
    if not paths:
        place: dict[str, Any] = {} if folder.parent == run else {"out": folder.parent}
        make = command_line("evaluate", run, **place, **places_of(trained.config), shard="0/2")
        raise CheckpointError(f"{folder} holds no shards: compute them with {make}, then with 1/2")
    numbers = sorted({shard.number for shard in paths})
    if len(numbers) > 1:
        raise CheckpointError(
            f"{folder} holds shards of {' and of '.join(map(str, numbers))}, which overlap: keep only those of one"
        )
    missing = [Shard(i, numbers[0]) for i in range(numbers[0]) if Shard(i, numbers[0]) not in paths]
    if missing:
        named = ", ".join(map(str, missing[:20])) + (f" and {len(missing) - 20} more" if len(missing) > 20 else "")
        raise CheckpointError(
            f"{folder} lacks shard {named}: compute it with `shard={missing[0]}`, then `merge=True` again"
        )
    return sorted(paths.items())


def _check_same(path: Path, theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    cure = "remove it, and make it again"
    for name, what in _WHAT.items():
        their, our = theirs.get(name), ours[name]
        if their == our:
            continue
        if isinstance(our, dict) and isinstance(their, dict):
            key = next(key for key in (*our, *their) if our.get(key) != their.get(key))
            their, our = f"{key} = {their.get(key)}", f"{key} = {our.get(key)}"
        if name in ("plan", "threads"):
            raise UsageError(
                f"{path} was made with {their}, and this command says {our}: give `merge=True` the flags of the shards"
            )
        raise CheckpointError(f"{path} is of {what}: it has {their!s:.200}, this evaluation {our!s:.200}; {cure}")


_WHAT = {
    "plan": "another plan",
    "config": "another run",
    "data": "other data",
    "model": "another checkpoint",
    "epochs": "another checkpoint",
    "num_data": "another number of data",
    "device": "another device",
    "threads": "another number of threads",
    "git": "another version of this package",
    "versions": "other versions",
}


def _read_tensors(path: Path, body: dict[str, Any]) -> dict[str, Tensor]:
    with manifest_file.well_formed(path):
        return manifest_file.tensors(path, body["tensors"])


def _pack(block: str, part: Part, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Adds the tensors of a part, and returns all else of it, by column: None for a bare tensor."""
    about: dict[str, Any] = {}
    for column, value in part.items():
        inside = block_tasks.tensors(value)
        # Estimates of the same data share its fingerprint, and safetensors takes each memory once.
        tensors.update({f"{block}/{column}/{name}": tensor.clone() for name, tensor in inside.items()})
        about[column] = None if isinstance(value, Tensor) else _others(value, inside)
    return about


def _others(estimate: Estimate, tensors: Iterable[str]) -> dict[str, Any]:
    return {field.name: getattr(estimate, field.name) for field in fields(estimate) if field.name not in set(tensors)}


def _unpack(block: str, about: dict[str, Any] | str, tensors: dict[str, Tensor]) -> Part | str:
    if isinstance(about, str):
        return about
    return {column: _column(f"{block}/{column}/", others, tensors) for column, others in about.items()}


def _column(prefix: str, others: dict[str, Any] | None, tensors: dict[str, Tensor]) -> Estimate | Tensor:
    if others is None:
        return tensors[prefix]
    values = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    every: dict[str, Any] = {**others, **values}
    return _ESTIMATES[frozenset(every)](**every)
