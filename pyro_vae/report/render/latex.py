"""Writes a table as rows of LaTeX's booktabs, below comments that say what they are."""

from collections.abc import Sequence
from typing import Any

from pyro_vae.report.cells import Cell, clean
from pyro_vae.report.document import Table

_SIGNS = {
    **{sign: rf"\{sign}" for sign in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
}


def to_latex(table: Table, comments: Sequence[str] = ()) -> str:
    r"""Writes rows that can be put below those of another report. The head of the table is among the comments.

    A `Cell` with a ± is set as a formula, and an empty one as two hyphens.

    Args:
        table: its heads are LaTeX, and its cells are not.
        comments: lines about it.

    Example:
        >>> from pyro_vae.report.document import Column
        >>> rows = [("digits_1", Cell(-22.51, "-22.5 ± 0.2 (0.004)"))]
        >>> print(to_latex(Table("t", (Column(""), Column(r"$\log p$", True)), rows), ["nats"]), end="")
        % nats
        % \begin{tabular}{lr} \toprule
        %  & $\log p$ \\ \midrule
        digits\_1 & $-22.5 \pm 0.2\ (0.004)$ \\
    """
    heads = (
        rf"\begin{{tabular}}{{{''.join('r' if column.right else 'l' for column in table.columns)}}} \toprule",
        " & ".join(column.head for column in table.columns) + r" \\ \midrule",
    )
    rows = [" & ".join(map(_typeset, row)) + r" \\" for row in table.rows]
    return "\n".join([*(f"% {clean(line)}" for line in (*comments, *heads)), *rows]) + "\n"


def _typeset(cell: Any) -> str:
    if isinstance(cell, Cell) and "±" in cell.text:
        return f"${cell.text.replace('±', chr(92) + 'pm').replace(' (', chr(92) + ' (')}$"
    return "".join(_SIGNS.get(sign, sign) for sign in clean(str(cell))) or "--"
