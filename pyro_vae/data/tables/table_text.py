"""The text of a table before it is parsed: its bytes, its lines, its delimiter, and the names of its columns."""

import codecs
import csv
import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any

import numpy as np

from pyro_vae.data.tables.column_cells import IS_NUMBER, MISSING
from pyro_vae.data.tables.frames import named
from pyro_vae.errors import DataError

LARGEST_TABLE = 1 << 31  # bytes
MOST_COLUMNS = 20_000
_LONGEST_LINE = 1 << 24  # characters
_LONGEST_NAME = 200
_BLOCK = 1 << 22  # bytes
_HEAD = 200, 1 << 20  # lines and characters used to find the delimiter
_DELIMITERS = (",", ";", "\t", "|", " ")  # a blank stands for white space of any length


@dataclass(frozen=True)
class Form:
    """How the text of a table is laid out.

    Args:
        delimiter: between cells; a blank stands for white space of any length.
        header: how many lines lie before the data.
        names: of the columns, as stored.
        notes: what was guessed about them.
    """

    delimiter: str
    header: int
    names: list[str]
    notes: tuple[str, ...] = ()


def checked_bytes(path: Path) -> str:
    """Computes the SHA-256 of a text file.

    Raises:
        DataError: no such file, more than 2 GiB, a NUL byte, or bytes that are not UTF-8, with their line.
    """
    if not path.is_file():
        raise DataError(f"{path}: there is no such file.")
    if path.stat().st_size > LARGEST_TABLE:
        cure = "np.save('x.npy', array) makes a file that is mapped, not read"
        raise DataError(f"{path}: has more than {LARGEST_TABLE:,} bytes, which is too large for a text table. {cure}.")
    decoder, digest, lines = codecs.getincrementaldecoder("utf-8")(), hashlib.sha256(), 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
            _check_text(path, decoder, block, lines)
            lines += block.count(b"\n")
    _check_text(path, decoder, b"", lines)
    return digest.hexdigest()


def _check_text(path: Path, decoder: codecs.IncrementalDecoder, block: bytes, lines: int) -> None:
    encoding = "utf-16" if b"\0" in block else "latin-1"
    options = f"sep=None, engine='python', encoding='{encoding}'"
    cure = f"Write it again: pandas.read_csv(path, {options}).to_csv('utf8.csv', index=False)"
    if b"\0" in block:
        line = 1 + lines + block[: block.index(b"\0")].count(b"\n")
        raise DataError(f"{path}: has a NUL byte in line {line}, like UTF-16 and binary files. {cure}")
    try:
        decoder.decode(block, final=not block)
    except UnicodeDecodeError as error:
        line = 1 + lines + error.object[: error.start].count(b"\n")
        raise DataError(
            f"{path}: is not UTF-8, from byte {error.object[error.start]:#x} in line {line} on. {cure}"
        ) from error


def opened(path: Path) -> IO[str]:
    """Opens a text file, without the mark that some programs put before UTF-8."""
    return path.open(encoding="utf-8-sig", newline="")


def lines_of(file: IO[str], path: Path) -> Iterator[str]:
    """Yields the lines of a file, each short enough to fit into memory."""
    for number, line in enumerate(iter(lambda: file.readline(_LONGEST_LINE), ""), start=1):
        if len(line) == _LONGEST_LINE:
            raise DataError(f"{path}: line {number} has {_LONGEST_LINE:,} characters or more. Is it a table?")
        yield line


def records_of(lines: Iterable[str], delimiter: str) -> Any:
    """Yields the cells of each row: a reader from the module `csv`, which knows its line.

    Example:
        >>> list(records_of(["a b", " 1   2.5"], " "))
        [['a', 'b'], ['1', '2.5']]
    """
    if delimiter == " ":
        lines = (line.strip().replace("\t", " ") + "\n" for line in lines)
    return csv.reader(lines, delimiter=delimiter, skipinitialspace=True, strict=True)


def is_blank(record: list[str]) -> bool:
    """Returns whether a record comes from a line without text."""
    return len(record) < 2 and not "".join(record).strip()


def form_of_file(path: Path) -> Form:
    """Finds the delimiter and the names of the columns from the first lines of a file.

    Raises:
        DataError: no text, too many columns, or a first line that could be names or data.
    """
    head = _head(path)
    if not "".join(head).strip():
        blank = f"begins with {len(head)} blank lines" if head else "is empty"
        raise DataError(f"{path}: {blank}. Is it the file that its name says?")
    tried = {delimiter: _records(head, delimiter) for delimiter in _DELIMITERS}
    scores = {delimiter: _score([record for _, record in records]) for delimiter, records in tried.items()}
    delimiter = max(scores, key=lambda delimiter: scores[delimiter])  # the first of several
    if not tried[delimiter]:
        raise DataError(f"{path}: a quotation mark in line 1 is not closed, or text follows the closing one.")
    (end, first), *rest = tried[delimiter]
    return _form_of(path, delimiter, end, first, [record for _, record in rest])


def _head(path: Path) -> list[str]:
    lines, size = [], 0
    with opened(path) as file:
        for line in islice(lines_of(file, path), _HEAD[0]):
            lines.append(line)
            size += len(line)
            if size > _HEAD[1] and len(lines) > 1:
                break
    return lines


def _records(head: list[str], delimiter: str) -> list[tuple[int, list[str]]]:
    """Returns the records of the first lines, each with the line in which it ends, up to an incomplete one."""
    reader, found = records_of(head, delimiter), []
    with suppress(csv.Error):
        for record in reader:
            if not is_blank(record):
                found.append((reader.line_num, record))
    return found


def _score(records: list[list[str]]) -> float:
    """Scores how much records look like rows of a table of numbers: of one width, at least two, and numeric."""
    body = records[1:] or records
    width, often = Counter(map(len, body)).most_common(1)[0] if body else (0, 0)
    if width < 2:
        return 0.0
    cells = [cell for record in body if len(record) == width for cell in record]
    numeric = sum(_is_number(cell) or cell.strip() in MISSING for cell in cells)
    fits = 1.0 if abs(len(records[0]) - width) < 2 else 0.5
    return fits * often / len(body) * (0.1 + numeric / len(cells))


def _is_number(cell: str) -> bool:
    return IS_NUMBER.fullmatch(cell) is not None


def _form_of(path: Path, delimiter: str, end: int, first: list[str], body: list[list[str]]) -> Form:
    names = [name.strip() for name in first]
    names[0] = names[0].removeprefix("#").strip()  # np.savetxt writes it so
    if delimiter == " " and first[0].strip() == "#":
        del names[0]
    if body and {len(record) for record in body} == {1 + len(names)}:
        names = ["", *names]  # R's write.table writes it so, without a name for the row names
    if len(names) > MOST_COLUMNS:
        raise DataError(
            f"{path}: has {len(names):,} columns, more than {MOST_COLUMNS:,}. Save it as an array with np.save."
        )
    if not _has_header(path, names, body):
        names = [f"column {i}" for i in range(len(names))]
        return Form(delimiter, 0, names, ("The file has no line of column names: they are called column 0, 1, ...",))
    long = next((name for name in names if len(name) > _LONGEST_NAME), None)
    if long is not None:
        raise DataError(
            f"{path}: the column name {long[:20]!r}... has {len(long):,} characters. Is line {end} a header?"
        )
    counted = _counts(names) or _counts(names[1:])
    note = (f"Line {end}, {', '.join(names[:4])}, ..., was taken as the names of the columns.",) if counted else ()
    return Form(delimiter, end, names, note)


def _counts(names: list[str]) -> bool:
    return len(names) > 2 and names == [str(i) for i in range(len(names))]


def _has_header(path: Path, first: list[str], body: list[list[str]]) -> bool:
    """Returns whether the first line holds names: text above numbers, or the names 0, 1, 2, ... from pandas."""
    if _counts(first) or (not _is_number(first[0]) and _counts(first[1:])):
        return True
    number = [_is_number(cell) for cell in first]
    given = [cell not in MISSING for cell in first]
    if all(number[i] or not given[i] for i in range(len(first))):
        return not any(number)
    if not any(number) or any(_above_numbers(i, body) for i in range(len(first)) if given[i] and not number[i]):
        return True
    values = [int(cell) for cell in first if cell.isdecimal() and len(cell) < 20]
    if len(values) == sum(number) > 2 and len(set(np.diff(values))) == 1:  # years, wavelengths, or other steps
        return True
    raise DataError(
        f"{path}: cannot tell whether line 1, {named(first, 4)}, holds the names of the columns or data, since it has "
        "numbers and text like the lines below. If it holds data, write a line of names above it. If it holds names, "
        "use no number as a name."
    )


def _above_numbers(i: int, body: list[list[str]]) -> bool:
    below = [record[i] for record in body if len(record) > i and record[i].strip() not in MISSING]
    return bool(below) and all(map(_is_number, below))
