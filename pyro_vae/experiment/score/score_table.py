"""The table of scores: a column is a function of a range of rows, so that no more than a piece is in memory.

`Spool` holds what was computed in unnamed files, which go when the process ends, however it does. From there the table
is written, as CSV row by row or as NPZ column by column, and takes its place once it is whole.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, TYPE_CHECKING

import numpy as np

from pyro_vae.errors import UsageError
from pyro_vae.experiment.run import files
from pyro_vae.report.render.csv_file import csv_lines, harmless

if TYPE_CHECKING:
    from torch import Tensor

Column = Callable[[int, int], np.ndarray]
Columns = dict[str, Column]
ENDINGS = (".csv", ".npz")
_BYTES = 1 << 22  # of a piece


class Spool:
    """Columns of numbers on disk, that grow block by block.

    Args:
        folder: in which there is room.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.kinds: dict[str, tuple[np.dtype, tuple[int, ...]]] = {}
        self._files: dict[str, IO[bytes]] = {}
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def add(self, columns: Mapping[str, Tensor]) -> None:
        """Adds the columns of a block (b, ...), always of the same names.

        Raises:
            StorageError: the disk is full.
        """
        with files.storage_errors(self.folder):
            for name, tensor in columns.items():
                values = np.ascontiguousarray(tensor.numpy())
                self.kinds.setdefault(name, (values.dtype, values.shape[1:]))
                if name not in self._files:
                    self._files[name] = TemporaryFile(dir=self.folder)  # noqa: SIM115 - until `close`
                self._files[name].write(values.tobytes())
        self._size += len(next(iter(columns.values())))

    def column(self, name: str) -> Column:
        """Returns a column that was added."""
        dtype, shape = self.kinds[name]
        width = int(dtype.itemsize * np.prod(shape, dtype=int))

        def read(start: int, stop: int) -> np.ndarray:
            file = self._files[name]
            file.seek(start * width)
            return np.frombuffer(file.read((stop - start) * width), dtype).reshape(stop - start, *shape)

        return read

    def close(self) -> None:
        """Drops all that was added."""
        for file in self._files.values():
            file.close()


def check_out(path: Path, *, reconstructions: bool) -> None:
    """Checks that a table of this kind can be written there.

    Raises:
        UsageError: the ending is of no known form, or the form holds no reconstructions.
        StorageError: the place cannot be written to.
    """
    if path.suffix not in ENDINGS:
        raise UsageError(
            f"scores are written as .csv or .npz: name such a file, as `out='scores.csv'`; got {path.name}"
        )
    if reconstructions and path.suffix == ".csv":
        raise UsageError("`reconstructions=True` writes arrays, which a .csv does not hold: use `out='scores.npz'`")
    files.check_file(path)


def write(path: Path, columns: Columns, size: int, beside: Mapping[str, np.ndarray] | None = None) -> None:
    """Writes a table of this many rows, whole or not at all.

    Args:
        path: ends in .csv or .npz.
        columns: in their order. A CSV spreads (N, D) over columns of the name with {}, as z{}_mean.
        size: N.
        beside: other arrays, which an NPZ holds too.

    Raises:
        StorageError: it cannot be written.
    """
    with files.streamed(path) as file:
        if path.suffix == ".csv":
            _write_csv(file, columns, size)
        else:
            _write_npz(file, columns, size, beside or {})


def _write_csv(file: IO[bytes], columns: Columns, size: int) -> None:
    first = {name: column(0, 1) for name, column in columns.items()}
    header = [word for name, values in first.items() for word in _names(name, values)]
    for number, piece in enumerate(pieces(size, len(header) * 8)):
        flat = [column(*piece) for column in columns.values()]
        cells = [each for values in flat for each in (values.T if values.ndim == 2 else [values])]
        rows = zip(*(_cells(each) for each in cells), strict=True)
        file.write(csv_lines([header, *rows] if number == 0 else rows).encode())


def _names(name: str, values: np.ndarray) -> list[str]:
    return [name] if values.ndim == 1 else [name.format(i) for i in range(values.shape[1])]


def _cells(values: np.ndarray) -> list[str]:
    """Writes numbers to their last digit; true and false as 1 and 0."""
    if values.dtype.kind == "U":
        return [harmless(value) for value in values.tolist()]
    return list(map(repr, (values.astype(np.int8) if values.dtype.kind == "b" else values).tolist()))


def _write_npz(file: IO[bytes], columns: Columns, size: int, beside: Mapping[str, np.ndarray]) -> None:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, array in beside.items():
            with archive.open(_member(name), "w") as member:
                np.save(member, array)
        for name, column in columns.items():
            first, info = column(0, 1), _member(name)
            with archive.open(info, "w", force_zip64=True) as member:
                about = {
                    "descr": np.lib.format.dtype_to_descr(first.dtype),
                    "fortran_order": False,
                    "shape": (size, *first.shape[1:]),
                }
                np.lib.format.write_array_header_1_0(member, about)
                for piece in pieces(size, first.nbytes):
                    member.write(np.ascontiguousarray(column(*piece)).tobytes())


def _member(name: str) -> zipfile.ZipInfo:
    # The time of day would make equal tables differ.
    return zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))


def pieces(size: int, row_bytes: int) -> Iterator[tuple[int, int]]:
    """Yields the rows of a table in pieces: where each begins and where it ends.

    Example:
        >>> list(pieces(10_000, 8))
        [(0, 4096), (4096, 8192), (8192, 10000)]
    """
    step = max(1, min(4096, _BYTES // max(1, row_bytes)))
    return ((first, min(first + step, size)) for first in range(0, size, step))
