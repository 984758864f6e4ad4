"""Readers of file formats: bytes on disk -> numpy arrays.

No reader trusts its file. The most that can be unpacked is known before unpacking, from the header of the file or from
the caller, so neither a damaged header nor a gzip bomb can fill the memory. Every fault is raised as a `DataError` that
names the file, the place, the value and the cure.
"""

import gzip
import hashlib
import io
import math
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np

from pyro_vae.errors import DataError

_LARGEST_IDX = 1 << 28  # bytes; the largest idx file among the sources has 47 million
_LARGEST_MAT = 1 << 26  # bytes; the one among the sources has a million
# Bytes; a larger .npy file is mapped. Data of this size still fit into the memory of any machine that trains
# a model, even twice, as they do while they are cut into splits.
MAP_ABOVE = 1 << 30
_BLOCK = 1 << 22  # bytes of text parsed, or of an array checked, at a time
_ANEW = "Fetch or copy the file again"
_LONGEST_NAME = 100
_COMPRESSED = 15  # of MATLAB's element types
_MAT_NUMBERS = ("double", "single", "logical", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)))


def digest(path: Path) -> str:
    """Computes the SHA-256 of a file's bytes as they lie on disk, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def find(folders: Iterable[Path], name: str) -> Path | None:
    """Returns the first of `folder/name` and `folder/name.gz` that exists, in the order of the folders, or None."""
    candidates = (folder / ending for folder in folders for ending in (name, f"{name}.gz"))
    return next((path for path in candidates if path.is_file()), None)


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """Opens a file for its bytes, unpacked if its name ends in `.gz`.

    Raises:
        DataError: the file cannot be read, or damage (truncation, checksum) shows while the block reads.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            yield file  # type: ignore[misc]  # a GzipFile reads like any binary file
    except EOFError as error:
        raise DataError(f"{path}: the gzip data end too early; the file is truncated. {_ANEW}.") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path}: the gzip data are damaged ({error}). {_ANEW}.") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}).") from error


def read_idx(path: Path, item_shape: tuple[int, ...] = ()) -> np.ndarray:
    """Reads an idx file of unsigned bytes (LeCun's format), plain or gzipped: (N, *item_shape) uint8.

    The header is big-endian: the magic number 0x0800 + rank, then the size of each axis.

    Args:
        path: of the file.
        item_shape: the shape that each item must have.

    Raises:
        DataError: wrong magic number or shape, no data, fewer or more bytes than declared, damaged gzip.
    """
    rank = 1 + len(item_shape)
    with opened(path) as file:
        magic, *shape = struct.unpack(f">{1 + rank}I", _exactly(file, 4 * (1 + rank), path))
        _check_idx_header(path, magic, tuple(shape), item_shape)
        body = _exactly(file, math.prod(shape), path)
        if file.read(1):
            raise DataError(f"{path}: holds more than the {len(body)} bytes that its header declares. {_ANEW}.")
    return np.frombuffer(body, np.uint8).reshape(shape)


def _check_idx_header(path: Path, magic: int, shape: tuple[int, ...], item_shape: tuple[int, ...]) -> None:
    if magic != 0x0800 + len(shape):
        raise DataError(
            f"{path}: magic number {magic:#010x}, expected {0x0800 + len(shape):#010x}: this is not an idx file "
            f"of {len(shape)}-dimensional bytes. Is it the file that its name says?"
        )
    if shape[1:] != item_shape:
        raise DataError(f"{path}: declares items of shape {shape[1:]}, expected {item_shape}.")
    if shape[0] == 0:
        raise DataError(f"{path}: declares no data. {_ANEW}.")
    if math.prod(shape) > _LARGEST_IDX:
        raise DataError(f"{path}: declares {math.prod(shape)} bytes, more than any known data set. {_ANEW}.")


def _exactly(file: IO[bytes], size: int, path: Path) -> bytes:
    data = file.read(size)
    if len(data) < size:
        what = "is empty" if not data else f"is truncated: {len(data)} bytes instead of the {size} declared"
        raise DataError(f"{path}: {what}. {_ANEW}.")
    return data


def read_amat(path: Path, rows: int, columns: int) -> np.ndarray:
    """Reads a text file of `rows` lines with `columns` numbers 0 or 1, plain or gzipped: (rows, columns) uint8.

    Args:
        path: of the file.
        rows, columns: the numbers of lines and of values per line that it must have.

    Raises:
        DataError: any other value (with its line and position), a wrong number of values or lines, damage.
    """
    values = np.empty((rows, columns), np.uint8)
    done = 0
    with opened(path) as file:
        while block := file.read(_BLOCK):
            rest = file.readline(64 * columns)
            if len(rest) == 64 * columns and not rest.endswith(b"\n"):
                raise DataError(
                    f"{path}: holds a line of {len(rest)} bytes or more, expected {columns} values. {_ANEW}."
                )
            block += rest
            parsed = _regular_lines(block, columns)
            if parsed is None:
                parsed = _any_lines(block, columns, path, done)
            if done + len(parsed) > rows:
                raise DataError(f"{path}: more than the {rows} lines expected. {_ANEW}.")
            values[done : done + len(parsed)] = parsed
            done += len(parsed)
    if done < rows:
        what = f"{done} lines instead of the {rows} expected" if done else "is empty"
        raise DataError(f"{path}: {what}. {_ANEW}.")
    return values


def _regular_lines(block: bytes, columns: int) -> np.ndarray | None:
    r"""Parses quickly if all lines are `d d ... d\n` with single blanks; returns None if any byte differs."""
    if len(block) % (2 * columns):
        return None
    text = np.frombuffer(block, np.uint8).reshape(-1, 2 * columns)
    values = text[:, ::2] - ord("0")
    regular = values.max() <= 1 and (text[:, 1:-1:2] == ord(" ")).all() and (text[:, -1] == ord("\n")).all()
    return values if regular else None


def _any_lines(block: bytes, columns: int, path: Path, done: int) -> np.ndarray:
    """Parses lines with other white space, slowly, and raises an error that says what is wrong and where."""
    lines = enumerate(block.splitlines(), start=done + 1)
    return np.stack([_line(line.split(), columns, f"{path}: line {number}") for number, line in lines])


def _line(row: list[bytes], columns: int, place: str) -> np.ndarray:
    digits = b"".join(row)
    if len(row) == len(digits) == columns and not digits.strip(b"01"):
        return np.frombuffer(digits, np.uint8) - ord("0")
    wrong = next((i for i, value in enumerate(row) if value not in (b"0", b"1")), None)
    if wrong is None:
        raise DataError(f"{place} has {len(row)} values, expected {columns}. {_ANEW}.")
    value = row[wrong][:20].decode(errors="replace")
    raise DataError(f"{place}, value {wrong + 1} is {value!r}; only 0 and 1 are allowed. {_ANEW}.")


def read_mat(path: Path, key: str) -> np.ndarray:
    """Reads one array of a MATLAB file (up to version 7), plain or gzipped.

    Args:
        path: of the file.
        key: the array's name.

    Raises:
        DataError: no such key, or a file that scipy cannot read.
    """
    from scipy.io import loadmat

    with opened(path) as file:
        packed = file.read(_LARGEST_MAT)
    try:
        _check_mat(path, key, packed)
        content = loadmat(io.BytesIO(packed), variable_names=[key])
    except DataError:
        raise
    except Exception as error:  # scipy raises almost anything on a damaged file
        raise DataError(f"{path}: cannot be read as a MATLAB file ({_said(error)}). {_ANEW}.") from error
    if key not in content:
        raise DataError(f"{path}: holds no array {key!r}. {_ANEW}.")
    return np.asarray(content[key])


def _check_mat(path: Path, key: str, packed: bytes) -> None:
    """Refuses anything but a plain array, and bombs: it first counts how much each compressed element unpacks to."""
    from scipy.io import whosmat

    for name, shape, kind in whosmat(io.BytesIO(packed)):
        if name == key and (kind not in _MAT_NUMBERS or math.prod(shape) > _LARGEST_MAT):
            raise DataError(f"{path}: {key} is {kind} {shape}, not an array of numbers. {_ANEW}.")
    order = "<" if packed[126:128] == b"IM" else ">"
    place = len(packed) if 0 in packed[:4] else 128  # version 4, which packs nothing, or 5
    while place + 8 <= len(packed):
        kind, size = struct.unpack_from(f"{order}II", packed, place)
        body = packed[place + 8 : place + 8 + size]
        if kind == _COMPRESSED and len(zlib.decompressobj().decompress(body, _LARGEST_MAT + 1)) > _LARGEST_MAT:
            raise DataError(f"{path}: would unpack to more than {_LARGEST_MAT} bytes. {_ANEW}.")
        place += 8 + size


def blocks(x: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yields an array along its first axis, about 4 MiB at a time: the position of the first row, and the rows.

    Example:
        >>> [(first, len(rows)) for first, rows in blocks(np.zeros((5, 1 << 18)))]
        [(0, 2), (2, 2), (4, 1)]
    """
    step = max(1, _BLOCK // max(1, x[:1].nbytes))
    return ((first, x[first : first + step]) for first in range(0, len(x), step))


class Archive(dict[str, np.ndarray]):
    """The arrays of a file by name, and the names of arrays of Python objects, which are never loaded."""

    objects: tuple[str, ...] = ()


def read_numpy(path: Path, map_above: int = MAP_ABOVE) -> Archive:
    """Reads the arrays of a `.npz` file by name, or of a `.npy` file under the name `x`; never with pickle.

    The first bytes of the file, not its name, decide which of the two it is.

    Args:
        path: of the file.
        map_above: a `.npy` file with more bytes is mapped (`np.memmap`, read-only), and its bytes are read when they
            are used.

    Raises:
        DataError: the file is not of these formats, damaged, empty, made of Python objects, or too large for its type
            or order.
    """
    try:
        if not path.is_file():
            raise DataError(f"{path}: there is no such file.")
        with path.open("rb") as file:
            start = file.read(4)
            file.seek(0)
            if start.startswith(b"PK"):
                return _archived(path, file)
            if start and start != b"\x93NUM":
                raise DataError(f"{path}: is not a numpy file. Write it with np.save or np.savez.")
            return Archive(x=_mapped(path) if path.stat().st_size > map_above else _array(path, file))
    except DataError:
        raise
    except Exception as error:  # numpy raises almost anything on a damaged header
        raise DataError(
            f"{path}: cannot be read as a numpy file ({_said(error)}). Write it with np.save or np.savez from numeric "
            "arrays, such as np.stack(images); arrays of Python objects need pickle, which can run code, and are never "
            "loaded."
        ) from error


def _array(path: Path, file: IO[bytes]) -> np.ndarray:
    x = np.lib.format.read_array(file, allow_pickle=False)
    if file.read(1):
        raise _left_over(path, x)
    return x


def _left_over(path: Path, x: np.ndarray) -> DataError:
    return DataError(f"{path}: holds more than the {x.dtype} {x.shape} that its header declares. {_ANEW}.")


def _mapped(path: Path) -> np.ndarray:
    # Read-only: Linux counts a private writable map as promised memory, and refuses one that exceeds it.
    x = np.lib.format.open_memmap(path, mode="r")
    if x.dtype.str not in ("|u1", "|b1", "<f4", "<i4") or not x.flags.c_contiguous:
        order = "C" if x.flags.c_contiguous else "Fortran"
        raise DataError(
            f"{path}: holds {x.dtype.str} ({x.dtype}) in {order} order. A file of this size is not read into memory "
            "but mapped as it is. It must hold uint8, bool, or little-endian float32 or int32, in C order: write it "
            "with np.save(path, np.ascontiguousarray(x, dtype))."
        )
    if x.offset + x.nbytes < path.stat().st_size:
        raise _left_over(path, x)
    return x


def _archived(path: Path, file: IO[bytes]) -> Archive:
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        _check_archive(path, members)
        arrays, objects = Archive(), []
        for member in members:
            name = member.filename.removesuffix(".npy")
            if _holds_objects(archive, member):
                objects.append(name)
                continue
            with archive.open(member) as content:
                arrays[name] = _array(path, content)
        arrays.objects = tuple(objects)
        return arrays


def _holds_objects(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bool:
    """Looks only at the header. If it cannot be read, the reader of the array raises the error."""
    with archive.open(member) as content:
        try:
            version = np.lib.format.read_magic(content)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            return bool(read(content)[2].hasobject)
        except ValueError:
            return False


def _check_archive(path: Path, members: list[zipfile.ZipInfo]) -> None:
    """Refuses what np.savez never writes, and a bomb.

    Deflate shrinks zeros by a factor of a thousand and real data by hardly a hundred. bzip2 and lzma would unpack any
    amount at once.
    """
    names = {member.filename for member in members}
    odd = [n for n in names if not (n.endswith(".npy") and n.isprintable() and len(n) <= _LONGEST_NAME)]
    if odd or len(names) < len(members):
        what = (
            f"holds {odd[0][:_LONGEST_NAME]!r}, which is not an array" if odd else "holds two arrays of the same name"
        )
        raise DataError(f"{path}: {what}. Write it with np.savez.")
    if any(member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for member in members):
        raise DataError(f"{path}: is not packed by deflate. Write it with np.savez.")
    size = sum(member.file_size for member in members)
    if size > 1 << 30 and size > 200 * path.stat().st_size:
        raise DataError(f"{path}: would unpack to {size} bytes. If you intend that, save it with np.save instead.")


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:160]
