"""The baselines of a report: simple densities fitted to the training data, and the program's difference from each."""

from collections.abc import Iterator

from pyro_vae.report.cells import MINUS, fixed, interval, nats
from pyro_vae.report.document import Column, Table
from pyro_vae.report.documents.estimate_sections import Report, of_x


def baseline_table(report: Report) -> Table:
    """Makes the table of the baselines, with the verdict on each difference; without rows where there are none.

    Args:
        report: what report.json holds.
    """
    found = report.get("baselines") or {}
    heads = (
        f"baseline{', by class' if found.get('by_class') else ''}",
        f"log p({of_x(report)})",
        "program - it",
        "95 % interval",
    )
    rows = [
        (row["name"], fixed(row["mean"]), nats(gain["mean"], "+"), interval(gain["interval"]), row["verdict"])
        for row in found.get("rows", ())
        for gain in (row["difference"],)
    ]
    table = Table.of("beside", (*heads, ""), rows, words=1)
    return table._replace(columns=(*table.columns[:-1], Column("")))


def baseline_sentence(report: Report) -> str:
    """Explains what the baselines are, what their differences are, and which baselines are missing.

    Example:
        >>> found = {"rows": [], "notes": ["independent normals: no density."], "num_fitted": 90}
        >>> print(baseline_sentence({"baselines": found}))
        independent normals: no density.
    """
    found = report["baselines"]
    if not found["rows"]:
        return " ".join(found["notes"])
    return " ".join(
        (
            f"simple densities of the same x, fitted to {found['num_fitted']:,} training data. Differences are "
            f"paired over the same test data; a verdict of better or worse needs an interval that excludes 0. The "
            f"program's log p({of_x(report)}) is a lower bound in expectation, and so are its differences.",
            *found["notes"],
        )
    )


def best_baseline(report: Report) -> Iterator[str]:
    """Yields the difference from the highest baseline and the verdict on it, in a few words, where there is one.

    Example:
        >>> row = {"name": "independent normals", "mean": -31.5, "difference": {"mean": 4.2}, "verdict": "better"}
        >>> list(best_baseline({"baselines": {"rows": [row]}}))
        ['+4.200 over independent normals: better']
    """
    rows = (report.get("baselines") or {}).get("rows", ())
    if row := max(rows, key=lambda row: row["mean"], default=None):
        difference = str(nats(row["difference"]["mean"], "+")).replace("-", MINUS)
        yield f"{difference} over {row['name']}: {row['verdict']}"
