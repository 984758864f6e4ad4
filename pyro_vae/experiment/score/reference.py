"""log p(x) of a run's test data, in order of size: what percentiles are taken among. It is kept beside the run.

RUN/test_scores.safetensors, .json    the values, and of which program, data and draws they are
"""

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae.errors import CheckpointError, StorageError
from pyro_vae.experiment.run import files
from pyro_vae.experiment.run import manifest as manifest_file
from pyro_vae.experiment.score.scored_rows import ScoredRows, of_split
from pyro_vae.experiment.score.scored_run import ScoredRun

FILE = "test_scores.json"
Say = Callable[[str], None]


def reference(rows: ScoredRows, own: Tensor, say: Say) -> Tensor | None:
    """Returns log p(x) of the test data by the same number of draws (M,), ascending; None where they are not there.

    Args:
        rows: what is scored.
        own: its log p(x) (N,).
        say: is told what is being done.
    """
    if rows.run.data is None or rows.run.trained is None:
        return None
    test = _test_rows(rows)
    about = _identity(test)
    path = rows.run.path / FILE
    if rows.sha256 == test.sha256 and len(rows) == len(test):
        values = own.double()
    elif (known := _kept(rows.run, about)) is not None:
        return known
    else:
        say(f"log p(x) of {len(test):,} test data, K = {test.plan.num_samples}, for the percentiles")
        blocks = test.measure(range(test.num_blocks), likelihood_alone=True)
        values = torch.cat([block["log_likelihood"] for block in blocks]).double()
    ordered = values.sort().values
    with suppress(StorageError):  # somebody else's run, that may only be read
        manifest_file.write(path, {"of": about}, {"log_likelihood": ordered})
    return ordered


def percentiles(values: np.ndarray, ordered: Tensor) -> np.ndarray:
    """Returns the share of ordered values, in per cent, that are at most each value.

    Example:
        >>> percentiles(np.array([0.0, 2.0, 9.0]), torch.tensor([1.0, 2.0, 3.0, 4.0]))
        array([  0.,  50., 100.])
    """
    return 100 * np.searchsorted(ordered.numpy(), values, side="right") / len(ordered)


def _test_rows(rows: ScoredRows) -> ScoredRows:
    test = of_split(replace(rows.run, notes=[]), "test", rows.plan)
    if not rows.is_labelled:  # the same quantity: log p(x), not log p(x|y)
        split = replace(test.reader.split, labels=None)
        test = replace(test, reader=replace(test.reader, split=split))
    return test


def _kept(run: ScoredRun, about: dict[str, Any]) -> Tensor | None:
    path = run.path / FILE
    if not path.exists():
        return None
    try:
        body = manifest_file.read(path)
        with manifest_file.well_formed(path):
            return manifest_file.tensors(path, body["tensors"])["log_likelihood"] if body["of"] == about else None
    except CheckpointError:
        return None  # it is made again


def _identity(test: ScoredRows) -> dict[str, Any]:
    facts = {
        "model": files.sha256(manifest_file.packed(test.run.vae.tensors())),
        "data": test.sha256,
        "num_data": len(test),
        "labelled": test.is_labelled,
        "num_samples": test.plan.num_samples,
        "seed": test.seed,
    }
    return dict(json.loads(files.to_json(facts)))
