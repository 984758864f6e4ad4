r"""Baselines: simple densities of x, fitted to the training data only. A program must beat them to have learned
anything.

Each estimates the same quantity as the program's log p(x), in nats per datum: a mass if the likelihood gives masses,
otherwise a density of the same x. The support of the likelihood determines them; see `simple_densities` for the
formulas:

    0 and 1               Bernoulli by pixel
    levels 0 ... L - 1    level frequencies by pixel
    counts                Poisson by column, negative binomial by column
    real numbers          independent normals, full-covariance normal

With labels there is one fit for each class. If a density cannot be fitted, a sentence says why.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_vae.data import Split
from pyro_vae.evaluation import simple_densities as simple
from pyro_vae.evaluation.comparison import Difference, paired
from pyro_vae.evaluation.data_fingerprint import fingerprint
from pyro_vae.evaluation.estimators import Estimate
from pyro_vae.model.conditions import base_constraint
from pyro_vae.notebook_html import Row

_FEWEST = 10  # training data that a class needs for its own fit

Makers = Mapping[str, Callable[[Tensor], simple.LogDensity]]
Pieces = Iterable[tuple[Tensor, Tensor | None]]


@dataclass(frozen=True)
class ExactEstimate(Estimate):
    """An estimate in closed form: nothing is drawn, so `num_samples` and `value_error` are 0."""

    def table_rows(self) -> list[Row]:
        return [{**row, "Monte Carlo": "none, exact", "draws": "none"} for row in super().table_rows()]


class Baselines(NamedTuple):
    """Baselines on test data.

    Attributes:
        estimates: name -> log p of each test datum, in nats.
        notes: sentences that say which baselines are left out and why, and which were not fitted to all training data.
        num_fitted: the number of training data that they were fitted to.
    """

    estimates: dict[str, Estimate]
    notes: tuple[str, ...]
    num_fitted: int


def baselines(train: Split, x: Tensor, y: Tensor | None = None, *, support: Any) -> Baselines:
    """Fits simple densities to training data, and computes their log p of test data, in nats.

    NaN marks missing numbers of x; log p is then the log density of the others. A mapped split is fitted on a random
    sample, see `Split.in_memory`.

    Args:
        train: the training data, with labels if y is given.
        x: the test data (B, *x_shape), as the program sees them.
        y: their one-hot labels (B, C), for a program of p(x|y): there is one fit for each class.
        support: the support of the likelihood, `vae.likelihood.support`; it determines the baselines.

    Raises:
        DataError: y is given, but the training data have no labels.

    Example:
        >>> import pyro_vae as pv
        >>> splits = pv.data.load("digits", binarize="dynamic")
        >>> found = baselines(splits.train, splits.test.fixed(), support=pv.likelihoods.Bernoulli.support)
        >>> [f"{name} {estimate.mean:.1f}" for name, estimate in found.estimates.items()]
        ['Bernoulli by pixel -26.8']
    """
    return baselines_of([(x, y)], train, 0 if y is None else y.shape[1], support=support)


def baselines_of(pieces: Pieces, train: Split, num_classes: int, *, support: Any) -> Baselines:
    """Computes `baselines` for test data that arrive piece by piece.

    Args:
        pieces: x (B, *x_shape) and y (B, C) or None, piece by piece. B is a multiple of 128 for all pieces except the
            last.
        train, support: as for `baselines`.
        num_classes: C for a program of p(x|y), otherwise 0.

    Raises:
        DataError: as for `baselines`.
    """
    sample = train.in_memory()
    fits, notes = _fitted(sample, num_classes, base_constraint(support))
    values: dict[str, list[Tensor]] = {name: [] for name in fits}
    data, labels = [], []
    for x, y in pieces:
        data.append(fingerprint(x))
        labels += [] if y is None else [fingerprint(y)]
        rows, classes = x.detach().cpu().flatten(1).double(), None if y is None else y.argmax(1).cpu()
        for name in list(values):
            try:
                values[name].append(fits[name](rows, classes))
            except simple.NoFitError as error:
                notes.append(f"{name}: {error}.")
                del values[name]
    if len(sample) < len(train):
        notes.append(f"Fitted to a random {len(sample):,} of the {len(train):,} training data.")
    seen = torch.cat(data), torch.cat(labels) if labels else torch.empty(0, dtype=torch.int64)
    estimates = {name: _estimate(name, torch.cat(parts), *seen) for name, parts in values.items()}
    return Baselines(estimates, tuple(notes), len(sample))


def compared(program: Estimate, found: Baselines) -> dict[str, Any]:
    """Compares a program with its baselines on the same data, for a report.

    The noise of the program's log p(x) is independent between data. So it is part of the spread of the differences, and
    the interval includes it. If log p(x) is a lower bound in expectation, so is each difference.

    Args:
        program: log p of each test datum, by the program.
        found: the baselines on these data.

    Returns:
        "rows", one for each baseline: its numbers, the "difference" program - baseline with its interval, and the
        "verdict"; "notes", "num_fitted", and "by_class", whether each class has its own fit.

    Raises:
        ValueError: as for `paired`, for example if the data differ.

    Example:
        >>> program, normals = (Estimate("log p(x)", torch.tensor(v), torch.zeros(3), num_samples=9)
        ...                     for v in ([5.0, 6.0, 7.0], [2.0, 2.0, 1.0]))
        >>> row = compared(program, Baselines({"independent normals": normals}, (), 90))["rows"][0]
        >>> row["name"], round(row["difference"]["mean"], 3), row["verdict"]
        ('independent normals', 4.333, 'better')
    """
    rows = []
    for name, estimate in found.estimates.items():
        difference = paired(program, estimate)
        numbers = {key: value for key, value in estimate.to_dict().items() if key != "num_samples"}
        rows.append({"name": name, **numbers, "difference": difference.to_dict(), "verdict": verdict(difference)})
    by_class = any(len(estimate.labels) for estimate in found.estimates.values())
    return {"rows": rows, "notes": list(found.notes), "num_fitted": found.num_fitted, "by_class": by_class}


def verdict(difference: Difference) -> str:
    """Returns "better" or "worse" for the first of two, or "no difference shown" if the interval does not exclude 0.

    Example:
        >>> def of(*interval): return Difference("", 0.3, 0.1, 0.0, interval, 0.95, (9, 9), True)
        >>> verdict(of(0.1, 0.5)), verdict(of(-0.1, 0.7)), verdict(of(-0.9, -0.1))
        ('better', 'no difference shown', 'worse')
    """
    low, high = difference.interval
    return "better" if low > 0 else "worse" if high < 0 else "no difference shown"


def _estimate(name: str, value: Tensor, data: Tensor, labels: Tensor) -> Estimate:
    quantity = "log p(x|y)" if len(labels) else "log p(x)"
    nothing = torch.zeros_like(value)
    return ExactEstimate(name, value, nothing, 0, quantity=quantity, fingerprint=data, labels=labels)


GivenClass = Callable[[Tensor, Tensor | None], Tensor]


def _fitted(sample: Split, num_classes: int, support: Any) -> tuple[dict[str, GivenClass], list[str]]:
    """Fits the densities that suit a support, and notes those that could not be fitted."""
    labels = sample.one_hot(num_classes).argmax(1).cpu() if num_classes else torch.empty(0)
    x = sample.expected() if support is constraints.boolean else sample.fixed()
    rows, notes = x.cpu().flatten(1), list[str]()
    fits: dict[str, GivenClass] = {}
    for name, make in _makers(support, rows.shape[1]).items():
        try:
            if num_classes:
                fits[name] = _by_class(name, make, rows, labels, num_classes, notes)
            else:
                fits[name] = _whatever_class(make(rows))
        except simple.NoFitError as error:
            notes.append(f"{name}: {error}.")
    return fits, notes


def _makers(support: Any, num_columns: int) -> Makers:
    if support is constraints.boolean:
        return {"Bernoulli by pixel": simple.bernoulli}
    if isinstance(support, constraints.integer_interval):
        levels = int(support.upper_bound) + 1
        return {"level frequencies by pixel": partial(simple.frequencies, num_levels=levels)}
    if support.is_discrete:
        return {"Poisson by column": simple.poisson, "negative binomial by column": simple.negative_binomial}
    full: Makers = {"full-covariance normal": simple.full_normal} if num_columns > 1 else {}
    return {"independent normals": simple.normals, **full}


def _whatever_class(log_p: simple.LogDensity) -> GivenClass:
    return lambda x, classes: log_p(x)


def _by_class(
    name: str,
    make: Callable[[Tensor], simple.LogDensity],
    rows: Tensor,
    labels: Tensor,
    num_classes: int,
    notes: list[str],
) -> GivenClass:
    """Fits the rows of each class, or all rows for a class that has too few or no density of its own."""
    fits = [make(rows)] * num_classes
    others = []
    for label in range(num_classes):
        own = rows[labels == label]
        try:
            if len(own) < _FEWEST:
                raise simple.NoFitError
            fits[label] = make(own)
        except simple.NoFitError:
            others.append(str(label))
    if others:
        notes.append(
            f"{name}: class {', '.join(others)} has fewer than {_FEWEST} training data or no density of its "
            "own; it uses the fit to all training data."
        )

    def log_p(x: Tensor, classes: Tensor | None) -> Tensor:
        value = x.new_empty(len(x))
        for label, fit in enumerate(fits):
            if (here := classes == label).any():  # type: ignore[union-attr]  # with labels there are classes
                value[here] = fit(x[here])
        return value

    return log_p
