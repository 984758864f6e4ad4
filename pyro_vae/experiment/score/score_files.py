"""Scoring as a command does it: computed whole or by shares, then written as one table.

    OUT.shards/shard-00000-of-00004.safetensors, .json    the columns of a share, and what they are of

Share i of n takes the i-th n-th of the blocks, in their order. A share exists once its manifest does.
"""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pyro_vae.errors import CheckpointError
from pyro_vae.experiment.evaluate.evaluation_plan import Shard
from pyro_vae.experiment.run import files, training_rows
from pyro_vae.experiment.run import manifest as manifest_file
from pyro_vae.experiment.run.provenance import surroundings
from pyro_vae.experiment.score import score_table, summary
from pyro_vae.experiment.score.reference import reference
from pyro_vae.experiment.score.score_table import Column, Columns, Spool
from pyro_vae.experiment.score.scored_rows import ScoredRows

Say = Callable[[str], None]
_LINES = 20


def write(rows: ScoredRows, out: Path, say: Say) -> list[str]:
    """Scores rows and writes their table.

    Args:
        rows: what is scored.
        out: a .csv or .npz file.
        say: is told what is being done.

    Returns:
        Sentences that sum the scores up.

    Raises:
        DivergenceError, DataError: see `ScoredRows.measure`.
        StorageError: the table cannot be written.
    """
    spool = Spool(out.parent)
    say(f"scores of {len(rows):,} rows of {rows.name}, K = {rows.plan.num_samples}")
    _fill(spool, rows, range(rows.num_blocks), say)
    return _finish(spool, rows, out, say)


def write_share(rows: ScoredRows, shard: Shard, out: Path, say: Say) -> Path:
    """Computes a share and writes it, unless it is there.

    Args:
        rows: what is scored.
        shard: the share.
        out: the table that all shares will make.
        say: is told what is being done.

    Returns:
        The path of its manifest.

    Raises:
        DivergenceError, DataError, StorageError: as for `write`.
    """
    path = folder_of(out) / f"{shard.stem}.json"
    if _is_done(path, shard, rows):
        say(f"shard {shard} is in {path.parent} already")
        return path
    numbers = share_of(rows, shard)
    say(f"shard {shard}: {len(numbers)} of {rows.num_blocks} blocks of {rows.name}, K = {rows.plan.num_samples}")
    parts = list(rows.measure(numbers))
    columns = {name: torch.cat([part[name] for part in parts]) for name in (parts[0] if parts else {})}
    files.make_folder(path.parent)
    files.remove(path)
    manifest_file.write(path, {"shard": list(shard), "of": identity(rows)}, columns)
    say(f"shard {shard} is in {path}; when all are there, use `merge=True`")
    return path


def merge(rows: ScoredRows, out: Path, say: Say) -> list[str]:
    """Joins the shares in the folder of a table, into the bytes that one process would have written.

    Args:
        rows: what is scored.
        out: the table.
        say: is told what is being done.

    Returns:
        Sentences that sum the scores up.

    Raises:
        CheckpointError: shares are missing, damaged, or of other scores.
        StorageError: the table cannot be written.
    """
    spool, ours = Spool(out.parent), identity(rows)
    for shard, path in _complete(folder_of(out)):
        body = manifest_file.read(path)
        with manifest_file.well_formed(path):
            of, place, columns = dict(body["of"]), list(body["shard"]), manifest_file.tensors(path, body["tensors"])
        if different := [key for key in ours if of.get(key) != ours[key]]:
            raise CheckpointError(f"{path} is of other scores: {', '.join(different)} differ. Remove it, make it again")
        if place != list(shard):
            raise CheckpointError(f"{path} is a copy of shard {Shard(*place)}: remove it, and make shard {shard}")
        if columns:
            spool.add(columns)
    if len(spool) != len(rows):
        raise CheckpointError(f"the shards in {folder_of(out)} hold {len(spool)} of {len(rows)} rows: make them again")
    return _finish(spool, rows, out, say)


def folder_of(out: Path) -> Path:
    """The folder of the shares of a table."""
    return out.with_name(f"{out.name}.shards")


def share_of(rows: ScoredRows, shard: Shard) -> range:
    """The numbers of the blocks of a share.

    The shares cover all blocks, in their order.
    """
    first, last = (rows.num_blocks * place // shard.number for place in (shard.place, shard.place + 1))
    return range(first, last)


def identity(rows: ScoredRows) -> dict[str, Any]:
    """Lists what must be the same in all shares that are joined."""
    around = surroundings(rows.run.config.device)
    facts = {
        "model": files.sha256(manifest_file.packed(rows.run.vae.tensors())),
        "data": rows.sha256,
        "array": rows.array,
        "num_data": len(rows),
        "labelled": rows.is_labelled,
        "draws": [rows.plan.num_samples, rows.plan.elbo_samples, rows.seed],
        "reconstructions": rows.reconstructions,
        "device": rows.run.config.device,
        "git": around["git"],
        "versions": around["versions"],
    }
    return dict(json.loads(files.to_json(facts)))


def _fill(spool: Spool, rows: ScoredRows, numbers: range, say: Say) -> None:
    every = max(1, math.ceil(len(numbers) / _LINES))
    for done, columns in enumerate(rows.measure(numbers), 1):
        spool.add(columns)
        if len(numbers) > _LINES and done % every == 0:
            say(f"{len(spool):,} of {len(rows):,} rows")


def _finish(spool: Spool, rows: ScoredRows, out: Path, say: Say) -> list[str]:
    columns = _columns(spool, rows, named_by_place=out.suffix == ".csv", say=say)
    score_table.write(out, columns, len(rows), {"names": np.array(names)} if (names := rows.run.intake.columns) else {})
    sentences = summary.sentences(spool, columns, rows)
    spool.close()
    return sentences


def _columns(spool: Spool, rows: ScoredRows, *, named_by_place: bool, say: Say) -> Columns:
    """All columns of the table in their order."""
    has = spool.kinds
    columns = _about(rows)
    kinds = None
    if rows.run.intake.missing:
        counts, kinds = training_rows.gaps(rows.reader.split, rows.positions)
        columns["missing"] = _of_array(counts)
    for name in ("log_likelihood", "log_likelihood_error", "khat"):
        if name in has:
            columns[name] = spool.column(name)
    if "log_likelihood" in has:
        own = torch.from_numpy(spool.column("log_likelihood")(0, len(rows)).copy())
        if (among := reference(rows, own, say)) is not None:
            found = among.percentiles(own.numpy(), kinds)
            columns["percentile"] = _of_array(found)
            rows.run.notes.extend(summary.without_percentile(found, own.numpy()))
    columns |= {name: spool.column(name) for name in ("elbo", "reconstruction", "kl") if name in has}
    if "log_posterior" in has:
        columns |= _classes(spool.column("log_posterior"), rows.run.intake.classes, whole=not named_by_place)
    if (data := rows.run.data) is not None:
        columns["in_training"] = _in_training(rows, training_rows.training_hashes(data.train))
    for name in ("mean", "spread"):
        columns[f"z{{}}_{name}" if named_by_place else name] = spool.column(name)
    if "reconstructed" in has:
        columns["reconstructed"] = _in_own_units(spool.column("reconstructed"), rows.run.intake.origin)
    return columns


def _about(rows: ScoredRows) -> Columns:
    """Which rows they are: the row of the file, its id, its label."""
    split, at = rows.reader.split, rows.positions
    row = at if split.file_rows is None else split.file_rows[at]
    columns = {"row": _of_array(row.numpy())}
    if split.ids is not None:
        columns["id"] = _of_array(split.ids[at.numpy()].astype(str))
    if (labels := rows.reader.labels) is not None and rows.run.intake.classes:
        columns["label"] = _of_array(np.array(rows.run.intake.classes)[labels.cpu().numpy()])
    return columns


def _of_array(array: np.ndarray) -> Column:
    return lambda start, stop: array[start:stop]


def _in_own_units(column: Column, origin: tuple[float, ...]) -> Column:
    """Adds what was taken from the columns of a table, in the precision that they need."""
    if not any(origin):
        return column
    return lambda start, stop: column(start, stop).astype(np.float64) + np.array(origin)


def _classes(log_posterior: Column, names: tuple[str, ...], *, whole: bool) -> Columns:
    """The class by Bayes' rule and its probability; where there is room, the probability of every class."""
    called = np.array(names)
    columns: Columns = {
        "class": lambda start, stop: _likeliest(log_posterior(start, stop), called),
        "class_probability": lambda start, stop: np.exp(log_posterior(start, stop).max(1)),
    }
    return {**columns, **({"log_posterior": log_posterior} if whole else {})}


def _likeliest(log_posterior: np.ndarray, called: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(log_posterior).any(1), "", called[log_posterior.argmax(1)])


def _in_training(rows: ScoredRows, known: np.ndarray) -> Column:
    split, at = rows.reader.split, rows.positions
    return lambda start, stop: training_rows.are_among(training_rows.hashes(split, at[start:stop]), known)


def _complete(folder: Path) -> list[tuple[Shard, Path]]:
    """Lists the manifests of shards 0 ... n - 1, all of which must be there."""
    paths = sorted(folder.glob("shard-*-of-*.json"))
    numbers = {path.stem.rpartition("-")[2] for path in paths}
    if not paths:
        raise CheckpointError(f"{folder} holds no shards: compute them with `shard=i/n`, i = 0 ... n-1")
    if len(numbers) > 1 or not (number := numbers.pop()).isdecimal():
        raise CheckpointError(
            f"{folder} holds shards of several numbers, which overlap: remove the shards of all numbers except one"
        )
    shards = [Shard(i, int(number)) for i in range(int(number))]
    missing = [shard for shard in shards if not (folder / f"{shard.stem}.json").exists()]
    if missing:
        named = ", ".join(map(str, missing[:20]))
        raise CheckpointError(
            f"{folder} lacks shard {named}: compute it with `shard={missing[0]}`, then `merge=True` again"
        )
    return [(shard, folder / f"{shard.stem}.json") for shard in shards]


def _is_done(path: Path, shard: Shard, rows: ScoredRows) -> bool:
    if not path.exists():
        return False
    try:
        body = manifest_file.read(path)
        with manifest_file.well_formed(path):
            manifest_file.tensors(path, body["tensors"])
            return bool(body["of"] == identity(rows) and body["shard"] == list(shard))
    except CheckpointError:
        return False  # it is made again
