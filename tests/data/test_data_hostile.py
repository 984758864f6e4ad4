"""Files made to harm: no code of theirs runs, nothing is written, and what they unpack to does not fill the memory."""

import gzip
import io
import pickle
import struct
import sys
import zipfile
import zlib
from pathlib import Path

import forked
import numpy as np
import pytest
from cases import thorough
from scipy.io import savemat

from pyro_vae.data import formats, load
from pyro_vae.errors import DataError

PIXELS = np.random.default_rng(0).integers(0, 256, (10, 2, 3), dtype=np.uint8)


class Payload:
    """Unpickled, it touches a file."""

    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return Path.touch, (self.canary,)


def npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def archive(members, method=zipfile.ZIP_STORED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as opened:
        for name, content in members:
            opened.writestr(name, content)
    return buffer.getvalue()


def test_the_payload_works(tmp_path):
    pickle.loads(pickle.dumps(Payload(tmp_path / "canary")))  # noqa: S301 - its own
    assert (tmp_path / "canary").exists()


@pytest.mark.parametrize("name", ["x.npy", "x.npz"])
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_under_another_name_is_not_opened(tmp_path, name, protocol):
    (tmp_path / name).write_bytes(pickle.dumps(Payload(tmp_path / "canary"), protocol))
    with pytest.raises(DataError, match=f"{name}: is not a numpy file"):
        load(tmp_path / name)
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("name", ["x.pt", "x.pkl", "x.json", "x.safetensors", "x"])
def test_other_endings_are_not_opened_at_all(tmp_path, name):
    (tmp_path / name).write_bytes(pickle.dumps(Payload(tmp_path / "canary")))
    with pytest.raises(DataError, match=r"are not read|a path that ends in .npy, .npz"):
        load(tmp_path / name)
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("where", ["x.npy", "x.npz", "beside.npz"])
def test_objects_in_an_array_are_not_unpickled(tmp_path, where):
    objects = npy(np.array([Payload(tmp_path / "canary")] * 10, dtype=object))
    members = {"x.npz": [("x.npy", objects)], "beside.npz": [("x.npy", npy(PIXELS)), ("more.npy", objects)]}
    (tmp_path / where).write_bytes(archive(members[where]) if where in members else objects)
    if where == "beside.npz":
        notes = load(tmp_path / where).protocol["notes"]
        assert any("never loaded, and were left out: more." in note for note in notes)
    else:
        with pytest.raises(DataError, match="never loaded"):
            load(tmp_path / where)
    assert not (tmp_path / "canary").exists()


LONG = "x" * 60_000


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("x.npy", npy(PIXELS)), ("notes.txt", b"hello")], "'notes.txt', which is not an array"),
        ([("x.npy", b"hello")], "cannot be read"),
        ([("x.npy", npy(PIXELS)), ("y.npy", b"hello")], "cannot be read"),
        ([("x.npy", npy(PIXELS)), ("a\x1b[2J\n.npy", npy(PIXELS))], r"'a\\x1b\[2J\\n.npy', which is not an array"),
        ([("x.npy", npy(PIXELS)), (f"{LONG}.npy", npy(PIXELS))], "'x{100}', which is not an array"),
        ([("x.npy", npy(PIXELS)), ("x.npy", npy(255 - PIXELS))], "two arrays of the same name"),
        ([("x.npy", npy(PIXELS) + b"!")], r"holds more than the uint8 \(10, 2, 3\)"),
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_an_archive_of_anything_but_arrays_is_refused(tmp_path, members, message):
    (tmp_path / "x.npz").write_bytes(archive(members))
    with pytest.raises(DataError, match=message) as caught:
        load(tmp_path / "x.npz")
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("name", ["../../canary", "/tmp/canary", "..\\canary", "C:canary"])  # noqa: S108
def test_a_member_that_names_a_place_is_written_nowhere(tmp_path, name):
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    (inner / "x.npz").write_bytes(archive([("x.npy", npy(PIXELS)), (f"{name}.npy", npy(PIXELS))]))
    assert len(load(inner / "x.npz").train) == 7
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [inner / "x.npz"]
    assert not Path("/tmp/canary.npy").exists()  # noqa: S108


@pytest.mark.parametrize("name", ["x.npy", "x.npz"])
@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_methods_that_unpack_without_bound_are_refused(tmp_path, name, method):
    (tmp_path / name).write_bytes(archive([("x.npy", npy(PIXELS))], method))
    with pytest.raises(DataError, match="not packed by deflate"):
        load(tmp_path / name)


def test_what_is_no_file_is_not_waited_for(tmp_path):
    import os

    os.mkfifo(tmp_path / "pipe.npy")
    (tmp_path / "folder.npy").mkdir()
    for path in (tmp_path / "pipe.npy", tmp_path / "folder.npy", "a\0b.npy", f"{'x' * 300}.npy", "/dev/zero/x.npz"):
        with pytest.raises(DataError, match=r"there is no such file|cannot be read"):
            load(path)


# Bombs: what is small on disk and large in memory.

LARGE = 400 << 20
MOST = 150 << 20


def zeros(head=b"", piece=bytes(1 << 20)):
    """The pieces of a content of 400 MB."""
    yield head
    yield from (piece for _ in range(LARGE // len(piece)))


def gzipped(pieces):
    buffer = io.BytesIO()
    with gzip.open(buffer, "wb", compresslevel=1) as file:
        for piece in pieces:
            file.write(piece)
    return buffer.getvalue()


def header(shape):
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return buffer.getvalue()


def liar(declared):
    """An archive of one deflated member of 400 MB of zeros that says it had so many bytes."""
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as opened,
        opened.open("x.npy", "w") as file,
    ):
        for piece in zeros(header((LARGE,))):
            file.write(piece)
    content = bytearray(buffer.getvalue())
    struct.pack_into("<I", content, content.rindex(b"PK\1\2") + 24, declared)
    return bytes(content)


def mat_bomb():
    """A matrix whose head says uint8 (560, 1965) and whose body unpacks to 400 MB."""
    plain = io.BytesIO()
    savemat(plain, {"ff": np.zeros((560, 1965), np.uint8)})
    whole = bytearray(plain.getvalue())
    body = whole[128:]
    place = 8 + struct.unpack_from("<I", body, 4)[0] - 560 * 1965 - 8
    struct.pack_into("<I", body, place + 4, LARGE)
    struct.pack_into("<I", body, 4, place + LARGE)
    packer = zlib.compressobj(1)
    packed = packer.compress(bytes(body[: place + 8])) + b"".join(map(packer.compress, zeros())) + packer.flush()
    return bytes(whole[:128]) + struct.pack("<II", 15, len(packed)) + packed


BOMBS = {
    "more.gz": lambda: gzipped(zeros(struct.pack(">IIII", 0x0803, 2, 3, 4))),
    "declared.gz": lambda: gzipped(zeros(struct.pack(">IIII", 0x0803, LARGE // 12, 3, 4))),
    "line.amat.gz": lambda: gzipped(zeros(piece=b"0 " * (1 << 19))),
    "lines.amat.gz": lambda: gzipped(zeros(piece=b"\n" * (1 << 20))),
    "rows.amat.gz": lambda: gzipped(zeros(piece=b"0 1 0\n" * (1 << 17))),
    "blanks.amat.gz": lambda: gzipped(zeros(piece=b" " * (1 << 20))),
    "bomb.mat": mat_bomb,
    "bomb.mat.gz": lambda: gzipped(zeros()),
    "small.npz": lambda: liar(1000),
    "large.npz": lambda: liar((1 << 32) - 2),
    "large.npy": lambda: liar((1 << 32) - 2),
    "shape.npy": lambda: header((1 << 36, 2)) + bytes(100),
    "shape.npz": lambda: archive([("x.npy", header((1 << 36, 2)) + bytes(100))]),
}


SOME = ["rows.amat.gz", "bomb.mat", "small.npz", "large.npy", "shape.npz"]


def open_all(answers, folder, names):
    """Puts, for each of these bombs: seconds, bytes by which the peak of the memory grew, and what was said."""
    import resource
    import time

    readers = {
        ".mat": lambda path: formats.read_mat(path, "ff"),
        ".amat": lambda path: formats.read_amat(path, 10, 3),
        ".npz": load,
        ".npy": load,
    }
    load("digits")  # all imports
    formats.read_mat(Path(folder) / "good", "ff")
    found = {}
    for name in names:
        path, begun = Path(folder) / name, time.monotonic()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        read = readers.get(Path(name.removesuffix(".gz")).suffix, lambda path: formats.read_idx(path, (3, 4)))
        try:
            said = repr(read(path))
        except DataError as error:
            said = f"DataError: {error}"
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        found[name] = [time.monotonic() - begun, grown << 10, said]
    answers.put(found)


def answers(folder, names):
    """What a process of its own says of them."""
    for name in names:
        (folder / name).write_bytes(BOMBS[name]())
    savemat(folder / "good", {"ff": PIXELS}, appendmat=False)
    assert max(path.stat().st_size for path in folder.iterdir()) < 3 << 20
    queue = forked.SERVER.Queue()
    forked.start(open_all, queue, folder, names)
    return queue.get(timeout=600)


@pytest.mark.thorough
@pytest.mark.skipif(sys.platform != "linux", reason="counts memory in the unit of Linux")
@pytest.mark.parametrize("names", [SOME, *thorough(list(BOMBS))])
def test_bombs_are_refused_in_little_memory(names, tmp_path):
    for name, (seconds, grown, said) in answers(tmp_path, names).items():
        assert said.startswith("DataError: "), said
        assert name in said
        assert grown < MOST, name
        assert seconds < 20, name
