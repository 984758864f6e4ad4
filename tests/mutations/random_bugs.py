"""Bugs that nobody chose: one operator, constant, sign or call of the package changed, drawn by a seed.

The list in the *.toml files says whether bugs are caught that somebody thought of; these say it of those that nobody
did. Some change nothing that matters (a bound on memory, a fast path): each survivor has to be judged.
"""

import ast
import itertools
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

ROOMS = ("data", "model", "graphs", "evaluation", "inference", "report")

_COMPARISONS = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
_OPERATORS = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult, ast.Pow: ast.Mult, ast.And: ast.Or, ast.Or: ast.And,
}  # fmt: skip


class Change(NamedTuple):
    """What is replaced in a file, from one byte to another, and what takes its place."""

    line: int
    first: int
    last: int
    new: str


def changes(source: str) -> Iterator[Change]:
    r"""Every change of a file.

    >>> [change.new for change in changes("def f(x, y=0.5):\n    check(x)\n    return -x if x < 2 else x + y\n")]
    ['(1.5)', 'pass', '(x <= 2)', '(3)', '(x)', '(x - y)']
    """
    lines = source.encode().splitlines(keepends=True)
    starts = [0, *itertools.accumulate(map(len, lines))]
    for node in _nodes(ast.parse(source)):
        if new := _changed(node):
            first, last = starts[node.lineno - 1] + node.col_offset, starts[node.end_lineno - 1] + node.end_col_offset
            yield Change(node.lineno, first, last, new if isinstance(node, ast.stmt) else f"({new})")


def _nodes(node: ast.AST) -> Iterator[Any]:
    """A node and what is in it, without types, words of messages, and decorators."""
    if isinstance(node, ast.JoinedStr | ast.Raise | ast.pattern):
        return
    yield node
    for name, value in ast.iter_fields(node):
        if name not in ("annotation", "returns", "decorator_list"):
            for inner in value if isinstance(value, list) else [value]:
                if isinstance(inner, ast.AST):
                    yield from _nodes(inner)


def _changed(node: ast.AST) -> str | None:
    match node:
        case ast.Expr(value=ast.Call()):
            return "pass"
        case ast.UnaryOp(op=ast.USub() | ast.Not(), operand=operand):
            return ast.unparse(operand)
        case ast.Constant(value=bool(value)):
            return str(not value)
        case ast.Constant(value=int(value) | float(value)):
            return repr(value + 1)
        case ast.Compare(left=left, ops=[op], comparators=others) if type(op) in _COMPARISONS:
            return ast.unparse(ast.Compare(left, [_COMPARISONS[type(op)]()], others))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS and not _is_text(left):
            return ast.unparse(ast.BinOp(left, _OPERATORS[type(op)](), right))
        case ast.BoolOp(op=op, values=values):
            return ast.unparse(ast.BoolOp(_OPERATORS[type(op)](), values))
    return None


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))


def drawn(package: Path, number: int, seed: int) -> Iterator[tuple[str, str, str, str]]:
    """Draws so many changes from all of the rooms.

    Yields:
        For each its name, its file below the package, the file's source, and the source with the change.
    """
    files = sorted(path for room in ROOMS for path in (package / room).rglob("*.py"))
    every = [(path, change) for path in files for change in changes(path.read_text(encoding="utf-8"))]
    for path, (line, first, last, new) in random.Random(seed).sample(every, number):  # noqa: S311 - no secret
        source, file = path.read_bytes(), path.relative_to(package).as_posix()
        old = " ".join(source[first:last].decode().split())
        yield (
            f"{file}:{line}  {old} -> {new}",
            file,
            source.decode(),
            (source[:first] + new.encode() + source[last:]).decode(),
        )
