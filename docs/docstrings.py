"""The docstrings of the package, which are plain text, as reStructuredText.

They are written to be read in a terminal: `code` in single backticks, displayed formulas as `.. math::`, tables as
indented blocks, and |x|, a * b or x_i as they stand. Sections (Args, Raises, Example, ...) are left to napoleon.
"""

import re
from collections.abc import Iterator
from typing import Any

_FIELDS = ("Args:", "Arguments:", "Attributes:", "Raises:")
_CODE = ("Example:", "Examples:")
_ENTRY = re.compile(r"(    [*\w][\w, *]*:)( .*)")


def to_rst(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """The event `autodoc-process-docstring`: changes the lines in place."""
    if lines[:1] and lines[0].startswith("Alias for field number"):
        lines.clear()
    elif (getattr(obj, "__module__", None) or "pyro_vae").startswith("pyro_vae"):
        lines[:] = list(translated(lines))


def translated(lines: list[str]) -> Iterator[str]:
    """Lines of plain text as lines of reStructuredText.

    >>> list(translated(["The bound", "", "    L_k <= log p(x)", "", "Args:", "    x: data, D."]))
    ['The bound', '', '::', '', '    L_k <= log p(x)', '', 'Args:', '    x: data, D.']
    >>> list(translated([".. math::", "", r"    L_k \\le \\log p(x)", "", "at every k_i"]))
    ['.. math::', '', '    L_k \\\\le \\\\log p(x)', '', 'at every k\\\\_i']
    """
    section, block = "", 0  # block: how far a literal block is indented
    for before, line in zip(["", *lines], lines, strict=False):
        indent = len(line) - len(line.lstrip())
        if indent == 0 and line.strip() in (*_FIELDS, *_CODE, "Returns:"):
            section, block = line.strip(), 0
            yield line
        elif not line.strip() or section in _CODE or _is_code(line) or 0 < block <= indent:
            yield line
        elif line.lstrip().startswith(".. "):
            block = indent + 1
            yield line
        elif indent >= (8 if section else 4) and not before.strip():
            block = indent
            yield from (f"{' ' * (indent - 4)}::", "", line)
        else:
            section, block = section if indent else "", 0
            entry = _ENTRY.fullmatch(line) if section in _FIELDS else None
            yield entry[1] + inline(entry[2]) if entry else inline(line)


def _is_code(line: str) -> bool:
    return line.lstrip().startswith((">>>", "..."))


def inline(text: str) -> str:
    r"""Code between single backticks; everything else as it stands, "D." at the start of a line too.

    >>> print(inline("D. KL(q || p) of `vae` at z_"))
    D\. KL(q \|\| p) of ``vae`` at z\_
    """
    parts = re.sub(r"^( *\w)\.", r"\1\\.", text.replace("\\", r"\\")).split("`")
    if len(parts) % 2 == 0:  # code that goes on in the next line
        return re.sub(r"([*|_`])", r"\\\1", "`".join(parts))
    plain = [re.sub(r"([*|_])", r"\\\1", part) for part in parts[::2]]
    marked = [f"``{code}``" + "\\ " * after[:1].isalnum() for code, after in zip(parts[1::2], plain[1:], strict=True)]
    return "".join(a + b for a, b in zip(plain, [*marked, ""], strict=True))
