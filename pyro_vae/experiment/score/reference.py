"""log p(x) of a run's test data, in order of size: what percentiles are taken among. It is kept with the run.

RUN/test_scores.safetensors, .json    the values, and of which program, data and draws they are
"""

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyro_vae.errors import CheckpointError, StorageError
from pyro_vae.experiment.run import files, training_rows
from pyro_vae.experiment.run import manifest as manifest_file
from pyro_vae.experiment.score.scored_rows import ScoredRows, of_split
from pyro_vae.experiment.score.scored_run import ScoredRun

FILE = "test_scores.json"
FEWEST_ALIKE = 20  # test data of the same gaps, that a percentile can be taken among
Say = Callable[[str], None]


class Reference(NamedTuple):
    """log p(x) of test data.

    Attributes:
        values: (M,) ascending.
        gaps: (M,) which of their numbers are missing, see `training_rows.gaps`; None of a run that takes none missing.
    """

    values: Tensor
    gaps: Tensor | None = None

    def percentiles(self, values: np.ndarray, gaps: np.ndarray | None = None) -> np.ndarray:
        """Returns the percentiles of values among the test data of the same gaps; NaN if there are too few.

        log p of a different set of numbers is another quantity, and for measurements has another unit.

        Args:
            values: (N,), log p(x).
            gaps: (N,), as the test data's.
        """
        if self.gaps is None or gaps is None:
            return percentiles(values, self.values)
        found = np.full(len(values), np.nan)
        for kind in np.unique(gaps):
            alike, mine = self.values[self.gaps == int(kind)], gaps == kind
            if len(alike) >= FEWEST_ALIKE:
                found[mine] = percentiles(values[mine], alike)
        return found


def reference(rows: ScoredRows, own: Tensor, say: Say) -> Reference | None:
    """Returns log p(x) of the test data by the same number of draws; None where they are not there.

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
    tensors = _ordered(test, values)
    with suppress(StorageError):  # a run that may only be read
        manifest_file.write(path, {"of": about}, tensors)
    return Reference(tensors["log_likelihood"], tensors.get("gaps"))


def _ordered(test: ScoredRows, values: Tensor) -> dict[str, Tensor]:
    order = values.argsort()
    order = order[~values[order].isnan()]
    if not test.run.intake.missing:
        return {"log_likelihood": values[order]}
    kinds = torch.from_numpy(training_rows.gaps(test.reader.split, test.positions)[1])
    return {"log_likelihood": values[order], "gaps": kinds[order]}


def percentiles(values: np.ndarray, ordered: Tensor) -> np.ndarray:
    """Returns the share of ordered values, in per cent, that are at most each value.

    Example:
        >>> percentiles(np.array([0.0, 2.0, 9.0]), torch.tensor([1.0, 2.0, 3.0, 4.0]))
        array([  0.,  50., 100.])
    """
    found = 100 * np.searchsorted(ordered.numpy(), values, side="right") / len(ordered)
    return np.where(np.isnan(values), np.nan, found)


def _test_rows(rows: ScoredRows) -> ScoredRows:
    test = of_split(replace(rows.run, notes=[]), "test", rows.plan)
    if not rows.is_labelled:  # the same quantity: log p(x), not log p(x|y)
        split = replace(test.reader.split, labels=None)
        test = replace(test, reader=replace(test.reader, split=split))
    return test


def _kept(run: ScoredRun, about: dict[str, Any]) -> Reference | None:
    path = run.path / FILE
    if not path.exists():
        return None
    try:
        body = manifest_file.read(path)
        with manifest_file.well_formed(path):
            if body["of"] != about:
                return None
            tensors = manifest_file.tensors(path, body["tensors"])
            return Reference(tensors["log_likelihood"], tensors["gaps"] if run.intake.missing else None)
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
        **({"gaps": True} if test.run.intake.missing else {}),
    }
    return dict(json.loads(files.to_json(facts)))
