"""What the scores of a file are, in sentences."""

import numpy as np

from pyro_vae.evaluation.trust.diagnostics import KHAT_THRESHOLD
from pyro_vae.experiment.score import score_table
from pyro_vae.experiment.score.reference import FEWEST_ALIKE
from pyro_vae.experiment.score.score_table import Columns, Spool
from pyro_vae.experiment.score.scored_rows import ScoredRows


def sentences(spool: Spool, columns: Columns, rows: ScoredRows) -> list[str]:
    """Sums the scores of a table up.

    Args:
        spool: what was computed of each row.
        columns: of the table.
        rows: what was scored.
    """
    size = len(rows)
    if "log_likelihood" not in columns:
        return [
            f"A plain autoencoder has no log p(x): the reconstruction of {size:,} rows is "
            f"{spool.column('reconstruction')(0, size).mean():.3f} nats in the mean."
        ]
    values, khat = columns["log_likelihood"](0, size), columns["khat"](0, size)
    said = _of_values(values, khat, rows)
    if "percentile" in columns:
        among = columns["percentile"](0, size)
        said.append(
            f"Rows with log p(x) below all test data: {int((among == 0).sum()):,}; at or above the highest: "
            f"{int((among == 100).sum()):,}. Rows in either tail are unusual. A row between them can be unusual too."
        )
    pieces = score_table.pieces(size, 1)
    if "in_training" in columns and (seen := sum(int(columns["in_training"](*piece).sum()) for piece in pieces)):
        said.append(f"{seen:,} {'row equals' if seen == 1 else 'rows equal'} a training row.")
    return said


def _of_values(values: np.ndarray, khat: np.ndarray, rows: ScoredRows) -> list[str]:
    """Explains what log p(x) and k-hat are, and which rows have none."""
    given, right = "x|y" if rows.is_labelled else "x", np.isfinite(values)
    K, above = rows.plan.num_samples, int((khat > KHAT_THRESHOLD).sum())
    trust = f"k-hat is above {KHAT_THRESHOLD} for {f'{above:,}' if above else 'none'}"
    if right.any() and np.isnan(khat[right]).all():
        trust = f"k-hat needs 25 draws or more: n/a with {K}"
    finite = values[right] if right.any() else values
    said = [
        f"log p({given}) of {len(finite):,} rows: mean {finite.mean():.3f} nats, from {finite.min():.3f} to "
        f"{finite.max():.3f}; {trust}."
    ]
    if not right.all():
        listed = ", ".join(rows.reader.place(i) for i in np.flatnonzero(~right)[:10].tolist())
        said.append(f"{_counted(int((~right).sum()))} no finite log p({given}): {listed}.")
    return said


def without_percentile(found: np.ndarray, values: np.ndarray) -> list[str]:
    """Returns a sentence on how many rows have log p(x) and no percentile.

    Args:
        found: percentiles (N,).
        values: log p(x) (N,).

    Example:
        >>> without_percentile(np.array([40.0]), np.array([-3.0]))
        []
    """
    number = int((np.isnan(found) & ~np.isnan(values)).sum())
    if not number:
        return []
    return [
        f"{_counted(number)} no percentile: fewer than {FEWEST_ALIKE} test data miss the same numbers, and log p of "
        "other numbers is another quantity."
    ]


def _counted(number: int) -> str:
    return "1 row has" if number == 1 else f"{number:,} rows have"
