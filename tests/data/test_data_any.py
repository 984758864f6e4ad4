"""Whatever lies in a file: it becomes the numbers that a slow reading finds in it, or a DataError, and nothing else."""

import ast
import gzip
import io
import math
import struct
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from cases import thorough
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.io import savemat

from pyro_vae.data import formats, load
from pyro_vae.errors import DataError

EXAMPLES = settings(max_examples=150, derandomize=True, deadline=None, database=None)
NUMBERS = [0, 1, 2, 255, 256, -1, 0.5, 1.5, -0.0, float("nan"), float("inf"), 1e-46, 1e39, 2.0**53, 127, -128, 65535]
DTYPES = (
    *(
        "?",
        "i1",
        "u1",
        "<i2",
        ">i2",
        "<u2",
        ">u4",
        "<i4",
        "<i8",
        ">i8",
        "<u8",
        "<f2",
        ">f2",
        "<f4",
        ">f4",
        "<f8",
        ">f8",
    ),
    *("<c8", ">c16", "<U2", "S3", "V4", "O", "g", "u1,f4"),
)


def read(content, name="x.npy", **choices):
    """What a file of these bytes loads to, or the sentence with which it is refused."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        return unless_refused(name, lambda: load(path, split="contiguous", **choices))


def unless_refused(name, reading):
    try:
        return reading()
    except DataError as error:
        sentence = str(error)
    assert name in sentence
    assert sentence.isprintable()
    return None


def saved(array, **arrays):
    buffer = io.BytesIO()
    if arrays:
        np.savez_compressed(buffer, **arrays)
    else:
        np.save(buffer, array)
    return buffer.getvalue()


def whole(splits):
    return torch.cat([part.fixed() for part in (splits.train, splits.valid, splits.test)]).numpy()


SHAPES = [(10, 3), (10, 2, 2), (10, 1, 2, 2), (5, 2), (7, 1)]
ODD_SHAPES = [(), (10,), (0, 3), (10, 0), (1, 3), (4, 3), (10, 1, 1, 1, 1), (10, 2, 2, 3), (10, 2, 2, 1)]


@st.composite
def arrays(draw, shapes=(*SHAPES, *SHAPES, *ODD_SHAPES)):
    """Of a few ordinary numbers, often with one that is not, in any type and order."""
    common = draw(st.sampled_from([[0], [0, 1], [0, 1, 255], [0.5, 1], [3, 0, 2]]))
    values = np.resize(np.array(common, float), draw(st.sampled_from(shapes)))
    if values.size and draw(st.booleans()):
        values.reshape(-1)[draw(st.integers(0, values.size - 1))] = draw(st.sampled_from(NUMBERS))
    with np.errstate(all="ignore"):
        array = values.astype(draw(st.sampled_from(DTYPES)))
    return np.asfortranarray(array) if draw(st.booleans()) else array


def is_a_data_set(array):
    if array.dtype.kind not in "buif" or array.ndim not in (2, 3, 4) or array.size == 0:
        return False
    size = len(array)
    return min(7 * size // 10, (size + 5) // 10, size - 7 * size // 10 - (size + 5) // 10) >= 1


def in_float32(values):
    with np.errstate(over="ignore"):
        return [float(np.float32(value)) for value in values]


def slowly(array, mapped=False):
    """(x number by number, L) as the file is to be read, or None where the array is no data set."""
    looks_channels_last = array.ndim == 4 and array.shape[3] in (1, 3, 4) and array.shape[1] not in (1, 3, 4)
    if not is_a_data_set(array) or looks_channels_last:
        return None
    values = array.reshape(-1).tolist()
    if array.dtype.kind == "f":
        if not all(abs(value) < float("inf") for value in in_float32(values)):
            return None
        if set(values) <= {0, 1}:
            return in_float32(values), 2
        is_table = array.ndim == 2 and not mapped
        return in_float32(standing_columns(array.tolist()) if is_table else values), None
    if not all(0 <= value <= 65_535 for value in values):
        return None
    if max(values) <= 1:
        return in_float32(values), 2
    num_levels = max(values) + 1
    if 128 <= max(values) <= 255:
        num_levels = 256
    if array.dtype.str.endswith("u2") and max(values) >= 2**15:
        num_levels = 2**16
    return [float(np.float32(value) / np.float32(num_levels - 1)) for value in values], num_levels


def standing_columns(rows):
    """The numbers of a table of reals, row by row, without columns that are constant among the training rows.

    A column that float32 would round away is moved by the float32 nearest to its mean.
    """
    columns, kept = [[float(value) for value in column] for column in zip(*rows, strict=True)], []
    for column in columns:
        train = column[: 7 * len(column) // 10]
        mean = math.fsum(train) / len(train)
        spread = math.sqrt(math.fsum((value - mean) ** 2 for value in train) / len(train))
        if spread > max(1e-12 * abs(mean), 2.0**-126):
            is_far = abs(mean) / 2**24 > spread / 2**10
            kept.append([value - (float(np.float32(mean)) if is_far else 0.0) for value in column])
    return [value for row in zip(*(kept or columns), strict=True) for value in row]


def slowly_at_first(array):
    """(x number by number, the support) as the first version read it, or None where the array is no data set."""
    if not is_a_data_set(array):
        return None
    values = in_float32(array.reshape(-1).tolist())
    if array.dtype.kind in "iu" and any(value not in range(256) for value in array.reshape(-1).tolist()):
        return None
    if not all(abs(value) < float("inf") for value in values):
        return None
    if set(values) <= {0.0, 1.0}:
        return values, "bits"
    if array.dtype.kind == "f":
        return values, "floats"
    return [float(np.float32(value) / np.float32(255)) for value in values], "levels"


NUM_LEVELS = {"bits": 2, "floats": None, "levels": 256}


RAMP = np.arange(30.0).reshape(10, 3)


@EXAMPLES
@given(arrays())
@example(np.full((10, 3), 1e39))
@example(np.full((10, 3), 0.3, ">f8"))
@example(np.arange(30, dtype=np.uint8).reshape(10, 3))
@example(np.arange(30, dtype=np.int16).reshape(10, 3) * 2000)
@example(np.arange(30, dtype=np.uint16).reshape(10, 3) * 2000)
@example(np.arange(30, dtype=np.uint16).reshape(10, 3) * 100)
@example(RAMP)
@example(RAMP * [0, 1, 0] + 0.1)
@example(RAMP * [10, 1e-9, 1] + [1.7e9, 1.0, 0])
def test_an_array_becomes_the_x_of_a_slow_reading_or_is_refused(array):
    splits, truth = read(saved(array)), slowly(array)
    assert (splits is None) == (truth is None)
    if splits is not None:
        x, (values, num_levels) = whole(splits), truth
        assert x.dtype == np.float32
        assert x.reshape(-1).tolist() == values
        shape = array.shape[1:] if array.ndim != 3 else (1, *array.shape[1:])
        shape = (len(values) // len(array),) if array.ndim == 2 else shape
        assert (splits.x_shape, len(x)) == (shape, len(array))
        assert splits.train.num_levels == num_levels


@pytest.mark.thorough
@EXAMPLES
@given(arrays())
@example(np.full((10, 2, 2, 3), 7, np.uint8))
@example(RAMP * [0, 1, 0] + 0.1)
def test_the_first_version_reads_an_array_as_it_did(array):
    splits, truth = read(saved(array), version=1), slowly_at_first(array)
    assert (splits is None) == (truth is None)
    if splits is not None:
        x, (values, kind) = whole(splits), truth
        assert x.dtype == np.float32
        assert x.reshape(-1).tolist() == values
        shape = array.shape[1:] if array.ndim != 3 else (1, *array.shape[1:])
        assert (splits.x_shape, len(x), splits.scaling) == (shape, len(array), "as_stored")
        assert splits.train.num_levels == NUM_LEVELS[kind]


@EXAMPLES
@given(arrays(), st.sampled_from([1, 2]))
def test_a_mapped_array_is_the_same_or_refused(array, version):
    mapped = read(saved(array), map_above=0, version=version)
    truth = slowly(array, mapped=True) if version == 2 else slowly_at_first(array)
    can_be_mapped = array.dtype.str in ("|u1", "|b1", "<f4", "<i4") and array.flags.c_contiguous
    assert (mapped is None) == (truth is None or not can_be_mapped)
    if mapped is not None:
        assert whole(mapped).reshape(-1).tolist() == truth[0]
        assert mapped.train.num_levels == (truth[1] if version == 2 else NUM_LEVELS[truth[1]])


def slow_labels(y, size):
    """(class of each datum, names of the classes), None where there are none, "refused" where they are no classes."""
    if y.dtype.kind == "O":
        return None  # of Python objects: the array is left out
    rows = y.tolist()
    if y.shape == (size, 1):
        rows = [row[0] for row in rows]
    elif y.ndim == 2 and len(y) == size and y.dtype.kind in "buif":
        if any(sorted(row) != [*[0] * (len(row) - 1), 1] for row in rows):
            return "refused"
        rows = [row.index(1) for row in rows]
    elif y.shape != (size,) or y.dtype.kind not in "buifSU":
        return "refused"
    if y.dtype.kind not in "buifSU":
        return "refused"
    if y.dtype.kind == "S":
        rows = [row.decode() for row in rows]
    if any(row == "" or row != row for row in rows):
        return "refused"
    if y.dtype.kind in "bf" and all(float(row).is_integer() and abs(row) < 2**53 for row in rows):
        rows = [int(row) for row in rows]
    ordered = sorted(set(rows), key=as_a_number)
    return "refused" if len(ordered) > 1000 else ([ordered.index(row) for row in rows], [str(v) for v in ordered])


def as_a_number(value):
    try:
        return (0, float(value), "") if math.isfinite(float(value)) else (1, 0.0, str(value))
    except ValueError:
        return 1, 0.0, value


Y_SHAPES = [(10,), (10,), (10,), (5,), (7,), (10, 1), (10, 2), ()]


@EXAMPLES
@given(arrays(SHAPES), arrays(Y_SHAPES))
@example(RAMP, np.arange(10) - 1)
@example(RAMP, np.arange(10) * 1000)
@example(RAMP, np.array(["10", "9", "a", "2", "nan", "b", "10", "2", "-1", "0.5"]))
@example(RAMP, np.array([0.5, -1, 3, 2, 3, 0.5, 0, 0, 0, 0]))
@example(RAMP, np.array([b"a", b"b"] * 5))
@example(RAMP, np.arange(10) % 2 == 0)
@example(RAMP, np.eye(10))
@example(RAMP, np.full(10, 2**64 - 1, "u8"))
@pytest.mark.parametrize("needed", [True, *thorough(False)])
def test_labels_of_any_plain_type_are_classes_in_order(needed, x, y):
    splits = read(saved(None, x=x, y=y), "x.npz", needs_labels=needed)
    truth, labels = slowly(x), slow_labels(y, len(x))
    wrong_size = y.dtype.kind != "O" and y.shape[:1] != x.shape[:1]
    assert (splits is None) == (truth is None or (labels == "refused" and (needed or wrong_size)))
    if splits is None:
        return
    found = [split.labels for split in (splits.train, splits.valid, splits.test)]
    if labels in (None, "refused"):
        assert found == [None] * 3
        assert splits.num_classes == 0
        said = "never loaded" if labels is None else "labels were left out"
        assert any(said in note for note in splits.protocol["notes"])
    else:
        assert torch.cat(found).tolist() == labels[0]
        assert list(splits.classes) == labels[1]
        assert splits.num_classes == len(labels[1])


@pytest.mark.thorough
@EXAMPLES
@given(arrays(SHAPES), arrays([(10,), (10,), (10,), (5,), (7,), (10, 1), ()]))
@example(np.ones((10, 2)), np.arange(10) - 1)
@example(np.ones((10, 2)), np.arange(10) + 991)
@example(np.ones((10, 2)), np.arange(10) + 990)
def test_labels_of_the_first_version_are_whole_numbers_one_for_each_datum_or_refused(x, y):
    if y.dtype.kind == "O":
        return  # the file was refused whole
    splits = read(saved(None, x=x, y=y), "x.npz", version=1)
    truth = slowly_at_first(x)
    is_right = y.dtype.kind in "iu" and y.shape == x.shape[:1] and all(0 <= int(label) < 1000 for label in y)
    assert (splits is None) == (truth is None or not is_right)
    if splits is not None:
        assert torch.cat([splits.train.labels, splits.valid.labels, splits.test.labels]).tolist() == y.tolist()
        assert whole(splits).reshape(-1).tolist() == truth[0]


# Bytes that nobody wrote, and files that were altered.

PIXELS = np.random.default_rng(0).integers(0, 256, (10, 2, 3), dtype=np.uint8)
BITS = PIXELS[:, 0] % 2
NPY = saved(PIXELS)
NPZ = saved(None, x=PIXELS, y=np.arange(10, dtype=np.uint8))
IDX = struct.pack(">IIII", 0x0803, 10, 2, 3) + PIXELS.tobytes()
AMAT = "".join(" ".join(map(str, row)) + "\n" for row in BITS).encode()
MAT = io.BytesIO()
savemat(MAT, {"ff": PIXELS}, do_compression=True)
LOOSE = io.BytesIO()
savemat(LOOSE, {"ff": PIXELS})
PIECES = (
    b"",
    b"\0",
    b"\xff",
    b"0",
    b"1",
    b" ",
    b"\n",
    b"\r",
    b"9",
    b"-",
    b"(",
    b"x",
    b"PK",
    b"\x80",
    b" " * 20,
    b"0 1 0\n",
)


@st.composite
def altered(draw, content):
    """The content with some places overwritten, some pieces put in, some cut out."""
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(content)))
        end = draw(st.one_of(st.just(start), st.just(start + 1), st.integers(start, len(content))))
        piece = draw(st.one_of(st.sampled_from(PIECES), st.binary(max_size=4), st.just(content[start:end] * 2)))
        content = content[:start] + piece + content[end:]
    return content


def bytes_like(content):
    return st.one_of(st.binary(max_size=200), altered(content), altered(content), altered(content))


def attempt(reader, content, *arguments, name="x"):
    """What a reader of `formats` makes of these bytes; None where it refuses them."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        return unless_refused(str(path), lambda: reader(path, *arguments))


def slow_npy(content):
    """The array of a `.npy` file by its specification, or None."""
    if content[:6] != b"\x93NUMPY" or content[6:8] not in (b"\1\0", b"\2\0", b"\3\0"):
        return None
    wide = content[6] > 1
    start = 12 if wide else 10
    size = int.from_bytes(content[8:start], "little")
    header = ast.literal_eval(content[start : start + size].decode("latin-1").strip())
    body = content[start + size :]
    x = np.frombuffer(body, header["descr"])
    return x.reshape(header["shape"], order="F" if header["fortran_order"] else "C")


@EXAMPLES
@given(bytes_like(NPY))
@example(NPY)
@example(NPY[:-1])
@example(NPY + b"\0")
@example(NPY.replace(b"(10, 2, 3)", b"(10, 1, 3)"))
@example(NPY.replace(b"|u1", b"|b1"))
def test_the_bytes_of_an_npy_are_read_as_they_stand_or_refused(content):
    for map_above in (0, 1 << 30):
        splits = read(content, map_above=map_above)
        if splits is not None:
            x = slow_npy(content)
            assert x.dtype != bool or set(x.view(np.uint8).reshape(-1).tolist()) <= {0, 1}
            assert whole(splits).reshape(-1).tolist() == slowly(x)[0]
    assert content != NPY or splits is not None


@EXAMPLES
@given(bytes_like(NPZ))
@example(NPZ)
def test_the_bytes_of_an_npz_give_what_was_saved_or_are_refused(content):
    """Each member has a checksum."""
    splits = read(content, "x.npz")
    if splits is not None:
        assert whole(splits).reshape(-1).tolist() == slowly(PIXELS)[0]
        labels = [part.labels for part in (splits.train, splits.valid, splits.test)]
        assert labels == [None] * 3 or torch.cat(labels).tolist() == list(range(10))
    assert content != NPZ or labels[0] is not None


@EXAMPLES
@given(bytes_like(IDX))
@example(IDX)
@example(IDX + b"\0")
def test_the_bytes_of_an_idx_are_read_as_they_stand_or_refused(content):
    x = attempt(formats.read_idx, content, (2, 3))
    if x is not None:
        magic, *shape = struct.unpack(">IIII", content[:16])
        assert (magic, shape) == (0x0803, [len(x), 2, 3])
        assert x.reshape(-1).tolist() == list(content[16:])
    assert content != IDX or x is not None


@pytest.mark.thorough
@EXAMPLES
@given(bytes_like(AMAT))
@example(AMAT)
@example(b"0 1 0" + b" " * 300 + b"1 1 1\n" + AMAT[12:])
def test_the_bytes_of_an_amat_are_read_as_they_stand_or_refused(content):
    with pytest.MonkeyPatch.context() as patch:
        for block in (4, 1 << 22):
            patch.setattr(formats, "_BLOCK", block)
            x = attempt(formats.read_amat, content, 10, 3)
            if x is not None:
                lines = content.replace(b"\r\n", b"\n").replace(b"\r", b"\n").removesuffix(b"\n").split(b"\n")
                assert x.tolist() == [[int(value) for value in line.split()] for line in lines]
                assert set(content.split()) <= {b"0", b"1"}
    assert content != AMAT or x is not None


@pytest.mark.thorough
@EXAMPLES
@given(st.sampled_from([IDX, AMAT]).flatmap(lambda plain: st.tuples(st.just(plain), bytes_like(gzip.compress(plain)))))
@example((IDX, gzip.compress(IDX)))
def test_gzip_gives_what_was_packed_or_is_refused(case):
    plain, content = case
    reader, more = (formats.read_idx, [(2, 3)]) if plain is IDX else (formats.read_amat, [10, 3])
    x = attempt(reader, content, *more, name="x.gz")
    if x is not None:
        assert x.tolist() == attempt(reader, plain, *more).tolist()
    assert content != gzip.compress(IDX) or x is not None


@pytest.mark.thorough
@EXAMPLES
@given(st.sampled_from([MAT, LOOSE]).flatmap(lambda file: bytes_like(file.getvalue())))
@example(MAT.getvalue())
def test_the_bytes_of_a_mat_give_an_array_or_are_refused(content):
    x = attempt(formats.read_mat, content, "ff")
    assert x is None or (isinstance(x, np.ndarray) and x.dtype.kind in "buifc")
    assert content not in (MAT.getvalue(), LOOSE.getvalue()) or np.array_equal(x, PIXELS)


@given(st.integers(0, len(NPZ) - 1))
@settings(EXAMPLES, max_examples=100)
def test_a_file_cut_anywhere_is_refused(keep):
    assert read(NPZ[:keep], "x.npz") is None
    assert read(NPY[: keep * len(NPY) // len(NPZ)]) is None
    assert attempt(formats.read_idx, IDX[: keep * len(IDX) // len(NPZ)], (2, 3)) is None
    last = keep * (len(AMAT) - 1) // len(NPZ)  # its last line needs no end
    assert attempt(formats.read_amat, AMAT[:last], 10, 3) is None
    with zipfile.ZipFile(io.BytesIO(NPZ)) as archive:
        assert len(archive.namelist()) == 2
