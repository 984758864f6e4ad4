"""Fenced code of a Markdown page: run in order in one namespace, what it prints held to the ```text that follows."""

import contextlib
import io
import re
from pathlib import Path
from typing import NamedTuple

_FENCE = re.compile(r"^```(\w+)\n(.*?)^```$\n?", re.MULTILINE | re.DOTALL)
_NUMBER = re.compile(r"(?<![\w.])[-+]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?")


class Block(NamedTuple):
    """A fenced block: the line of the page on which its code begins, and whether only space is before it."""

    language: str
    code: str
    line: int
    directly: bool


def fences(text):
    """All blocks of a page, in order."""
    end = 0
    for found in _FENCE.finditer(text):
        yield Block(found[1], found[2], text.count("\n", 0, found.start()) + 2, not text[end : found.start()].strip())
        end = found.end()


def blocks(text, language):
    """The code of all blocks in one language."""
    return [block.code for block in fences(text) if block.language == language]


def run(page, namespace=None):
    """Runs the ```python blocks of a page; returns (shown, printed) for each ```text that directly follows one."""
    namespace, pairs, printed = {} if namespace is None else namespace, [], ""
    for language, code, line, directly in fences(Path(page).read_text(encoding="utf-8")):
        if language == "python":
            source = compile("\n" * (line - 1) + code, str(page), "exec")  # errors name the line of the page
            with contextlib.redirect_stdout(io.StringIO()) as output:
                exec(source, namespace)  # noqa: S102 - the page is ours
            printed = output.getvalue()
        elif language == "text" and directly:
            pairs.append((code, printed))
    return pairs


def agree(shown, printed):
    """Whether two outputs have the same words and whole numbers, and decimals that agree.

    Decimals may be 5 % or 0.1 apart, since the last digits of what was trained differ between machines. Those with more
    than three digits after the point are mathematics, and may be three of their last digit apart.
    """
    words = [_NUMBER.sub("#", text).split() for text in (shown, printed)]
    numbers = [_NUMBER.findall(text) for text in (shown, printed)]
    return words[0] == words[1] and all(map(_close, *numbers))


def _close(shown, printed):
    a, b = (float(number.replace(",", "")) for number in (shown, printed))
    digits = len(shown.partition(".")[2])
    if digits == 0:
        return a == b
    return abs(a - b) <= (3 * 10.0**-digits if digits > 3 else max(0.05 * abs(a), 0.1))
