"""Files are whole or not there, whatever fails while they are written."""

import errno
import math
import os
from pathlib import Path

import pytest

from pyro_vae.errors import StorageError
from pyro_vae.experiment import storage


def full(*arguments, **options):
    raise OSError(errno.ENOSPC, "No space left on device")


class FullDisk:
    """A file that takes half of what is written to it."""

    def __init__(self, file):
        self.file = file

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.file.close()

    def write(self, content):
        self.file.write(content[: len(content) // 2])
        full()


def fail_at(monkeypatch, moment):
    opened = Path.open
    if moment == "write":
        monkeypatch.setattr(Path, "open", lambda *a, **k: FullDisk(opened(*a, **k)))
    else:
        monkeypatch.setattr(*{"fsync": (os, "fsync"), "rename": (Path, "replace")}[moment], full)


@pytest.mark.parametrize("moment", ["write", "fsync", "rename"])
@pytest.mark.parametrize("old", [b"old", None])
def test_a_failed_write_leaves_the_folder_as_it_was(tmp_path, monkeypatch, moment, old):
    path = tmp_path / "report.json"
    if old is not None:
        path.write_bytes(old)
    with monkeypatch.context() as patch:
        fail_at(patch, moment)
        with pytest.raises(StorageError, match=r"report\.json.*No space left"):
            storage.write(path, b"new")
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == ({"report.json": old} if old else {})


def test_the_content_is_on_the_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    steps = []
    fsync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (steps.append(os.readlink(f"/proc/self/fd/{fd}")), fsync(fd)))
    monkeypatch.setattr(Path, "replace", lambda *a: (steps.append("rename"), replace(*a)))
    storage.write(tmp_path / "x", b"new")
    assert steps == [str(tmp_path / "x.pyro_vae-partial"), "rename", str(tmp_path)]
    assert (tmp_path / "x").read_bytes() == b"new"


def test_sweep_removes_what_a_killed_write_left_and_nothing_else(tmp_path):
    for name in ("a.json", "a.json.pyro_vae-partial", "partial", "b.partial.txt"):
        (tmp_path / name).touch()
    storage.sweep(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"a.json", "partial", "b.partial.txt"}


def test_append_adds_whole_lines(tmp_path):
    path = tmp_path / "history.jsonl"
    for line in ("one", "zwölf"):
        storage.append(path, line)
    assert path.read_bytes() == "one\nzwölf\n".encode()


@pytest.mark.parametrize(
    "act",
    [lambda p: storage.write(p, b""), lambda p: storage.append(p, ""), storage.make_folder],
    ids=["write", "append", "make_folder"],
)
def test_a_place_below_a_file_is_a_storage_error_that_names_it(tmp_path, act):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"can not write .*file/x: Not a directory"):
        act(tmp_path / "file" / "x")


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_json_refuses_what_is_no_json(number):
    with pytest.raises(ValueError, match="not JSON compliant"):
        storage.to_json({"a": [number]})


def test_equal_values_give_equal_bytes():
    assert storage.to_json({"b": 1, "a": "ß"}) == storage.to_json({"a": "ß", "b": 1}) != storage.to_json({"a": "ß"})
