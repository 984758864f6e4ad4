"""Tables as Markdown for people and as JSON for programs."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

Cell = str | float | int | None

MEMORY = ["peak MiB", "above imports"]


@dataclass
class Table:
    """One table: a title, named columns, a row for each peer, and sentences below it.

    >>> table = Table("Steps", ["row", "ms"], [{"row": "a", "ms": 1.2345}, {"row": "b"}], ["Two rows."])
    >>> print(table.markdown())
    ### Steps
    <BLANKLINE>
    | row | ms |
    |---|---:|
    | a | 1.23 |
    | b |  |
    <BLANKLINE>
    Two rows.
    """

    title: str
    columns: list[str]
    rows: list[dict[str, Cell]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def markdown(self) -> str:
        """GitHub's dialect; numbers to three figures."""
        lines = [f"| {' | '.join(self.columns)} |", f"|---|{'---:|' * (len(self.columns) - 1)}"]
        lines += [f"| {' | '.join(show(row.get(column)) for column in self.columns)} |" for row in self.rows]
        return "\n\n".join([f"### {self.title}", "\n".join(lines), *self.notes])


def show(cell: Cell) -> str:
    """Three figures for a float, and never an exponent.

    >>> [show(x) for x in (0.012345, 1.2345, 12345.6, 7, "text", None)]
    ['0.0123', '1.23', '12346', '7', 'text', '']
    """
    if cell is None:
        return ""
    if not isinstance(cell, float):
        return str(cell)
    decimals = 0 if abs(cell) >= 100 else 1 if abs(cell) >= 10 else 2 if abs(cell) >= 1 else 4
    return f"{cell:.{decimals}f}"


def mebibytes(memory: dict[str, float]) -> dict[str, Cell]:
    """The resident peak of a row's process, and how far it is above what the imports take."""
    return dict(zip(MEMORY, (round(memory["peak"]), round(memory["peak"] - memory["base"])), strict=True))


def write(folder: Path, machine: dict[str, Any], tables: list[Table]) -> Path:
    """Writes `benchmarks.md` and `benchmarks.json`; returns the former."""
    folder.mkdir(parents=True, exist_ok=True)
    facts = "\n".join(f"- {name}: {value}" for name, value in machine.items())
    text = "\n\n".join(["# Benchmarks", facts, *(table.markdown() for table in tables)])
    report = folder / "benchmarks.md"
    report.write_text(text + "\n")
    content = {"machine": machine, "tables": [asdict(table) for table in tables]}
    (folder / "benchmarks.json").write_text(json.dumps(content, indent=1) + "\n")
    return report
