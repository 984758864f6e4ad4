"""Each reader against a file written by hand or a slow loop, and against every kind of damage."""

import gzip
import struct

import numpy as np
import pytest
from scipy.io import savemat

from pyro_vae.data import formats
from pyro_vae.errors import DataError

PIXELS = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
IDX = struct.pack(">IIII", 0x0803, 2, 3, 4) + bytes(range(24))


def write(path, content, packed=False):
    path.write_bytes(gzip.compress(content) if packed else content)
    return path


@pytest.mark.parametrize("name", ["images", "images.gz"])
def test_idx_reads_what_struct_wrote(tmp_path, name):
    path = write(tmp_path / name, IDX, packed=name.endswith(".gz"))
    np.testing.assert_array_equal(formats.read_idx(path, (3, 4)), PIXELS)


def test_idx_reads_labels(tmp_path):
    path = write(tmp_path / "labels", struct.pack(">II", 0x0801, 3) + bytes([7, 0, 9]))
    assert formats.read_idx(path).tolist() == [7, 0, 9]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (IDX[:9], "truncated: 9 bytes instead of the 16"),
        (IDX[:-1], "truncated: 23 bytes instead of the 24"),
        (IDX + b"\0", "more than the 24 bytes"),
        (struct.pack(">IIII", 0x0801, 2, 3, 4), "magic number 0x00000801, expected 0x00000803"),
        (struct.pack(">IIII", 0x0803, 2, 4, 3), r"shape \(4, 3\), expected \(3, 4\)"),
        (struct.pack(">IIII", 0x0803, 0, 3, 4), "declares no data"),
        (struct.pack(">IIII", 0x0803, 2**32 - 1, 3, 4), "more than any known data set"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_idx_refuses(tmp_path, content, message, packed):
    path = write(tmp_path / ("images.gz" if packed else "images"), content, packed)
    with pytest.raises(DataError, match=message) as caught:
        formats.read_idx(path, (3, 4))
    assert str(path) in str(caught.value)


def damaged_checksum(packed):
    return packed[:-8] + bytes([packed[-8] ^ 1]) + packed[-7:]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda packed: packed[:-9], "truncated"),
        (lambda packed: IDX, "damaged"),
        (damaged_checksum, "damaged"),
        (lambda packed: packed[:12] + b"\xff\xff\xff" + packed[15:], "damaged|truncated"),
    ],
    ids=["cut", "not gzip", "checksum", "body"],
)
def test_gzip_damage_becomes_a_sentence(tmp_path, damage, message):
    path = write(tmp_path / "images.gz", damage(gzip.compress(IDX)))
    with pytest.raises(DataError, match=message):
        formats.read_idx(path, (3, 4))


def test_a_gzip_bomb_is_not_unpacked(tmp_path):
    """200 MB of zeros behind a header that declares 24 bytes; peak memory would show a full unpacking."""
    import tracemalloc

    path = tmp_path / "images.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(IDX)
        for _ in range(200):
            file.write(bytes(1 << 20))
    tracemalloc.start()
    with pytest.raises(DataError, match="more than the 24 bytes"):
        formats.read_idx(path, (3, 4))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 << 20


def amat(values, separator=" ", ending="\n"):
    return "".join(separator.join(map(str, row)) + ending for row in values).encode()


@pytest.mark.parametrize("ending", ["\n", " \n", "\r\n"])
@pytest.mark.parametrize("packed", [False, True])
def test_amat_equals_a_slow_loop(tmp_path, monkeypatch, ending, packed):
    monkeypatch.setattr(formats, "_BLOCK", 100)
    truth = np.random.default_rng(0).integers(0, 2, (40, 7))
    path = write(tmp_path / ("x.amat.gz" if packed else "x.amat"), amat(truth, ending=ending), packed)
    slow = [[int(value) for value in line.split()] for line in amat(truth).decode().splitlines()]
    np.testing.assert_array_equal(formats.read_amat(path, 40, 7), slow)


def test_amat_needs_no_last_newline(tmp_path):
    path = write(tmp_path / "x.amat", b"0 1\n1 1")
    assert formats.read_amat(path, 2, 2).tolist() == [[0, 1], [1, 1]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"0 1 0\n1 0 2\n", "line 2, value 3 is '2'"),
        (b"0 1 0\n1 0.5 0\n", "line 2, value 2 is '0.5'"),
        (b"0 1 0\n1 01 0\n", "line 2, value 2 is '01'"),
        (b"0 1 0\n-1 1 0\n", "line 2, value 1 is '-1'"),
        (b"0 1 0\n1 \xff 0\n", "line 2, value 2"),
        (b"0 1 0\n1,0 1\n", "line 2, value 1 is '1,0'"),
        (b"0 1 0 1 0 1\n", "line 1 has 6 values, expected 3"),
        (b"0 1\n0\n1 0\n", "line 1 has 2 values, expected 3"),
        (b"0 1 0\n1 0\n", "line 2 has 2 values, expected 3"),
        (b"0 1 0\n\n", "line 2 has 0 values"),
        (b"0 1 0\n", "1 lines instead of the 2"),
        (b"0 1 0\n" * 3, "more than the 2 lines"),
        (b"0 " * 5000, "expected 3"),
    ],
)
def test_amat_refuses(tmp_path, content, message):
    path = write(tmp_path / "x.amat", content)
    with pytest.raises(DataError, match=message) as caught:
        formats.read_amat(path, 2, 3)
    assert str(path) in str(caught.value)


def test_amat_names_the_line_in_a_later_block(tmp_path, monkeypatch):
    monkeypatch.setattr(formats, "_BLOCK", 16)
    path = write(tmp_path / "x.amat", b"0 1 0\n" * 50 + b"0 1 7\n")
    with pytest.raises(DataError, match="line 51, value 3 is '7'"):
        formats.read_amat(path, 51, 3)


def test_mat(tmp_path):
    path = tmp_path / "x.mat"
    savemat(path, {"ff": PIXELS})
    np.testing.assert_array_equal(formats.read_mat(path, "ff"), PIXELS)
    with pytest.raises(DataError, match="no array 'gg'"):
        formats.read_mat(path, "gg")


@pytest.mark.parametrize("keep", [0, 60, 140])
def test_a_damaged_mat_becomes_a_sentence(tmp_path, keep):
    path = tmp_path / "x.mat"
    savemat(path, {"ff": PIXELS})
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match="MATLAB"):
        formats.read_mat(path, "ff")


def test_find_prefers_the_first_folder_and_the_plain_file(tmp_path):
    first, second = tmp_path / "a", tmp_path / "b"
    for folder in (first, second):
        folder.mkdir()
    write(second / "x", b"")
    assert formats.find([first, second], "x") == second / "x"
    write(first / "x.gz", b"")
    assert formats.find([first, second], "x") == first / "x.gz"
    write(first / "x", b"")
    assert formats.find([first, second], "x") == first / "x"
    assert formats.find([first], "y") is None
