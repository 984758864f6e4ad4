"""Files are whole or not there, whatever fails while they are written."""

import errno
import math
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pyro_vae import system
from pyro_vae.errors import StorageError, UsageError
from pyro_vae.experiment.run import files


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
            files.write(path, b"new")
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == ({"report.json": old} if old else {})


def test_the_content_is_on_the_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    steps = []
    fsync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (steps.append(os.readlink(f"/proc/self/fd/{fd}")), fsync(fd)))
    monkeypatch.setattr(Path, "replace", lambda *a: (steps.append("rename"), replace(*a)))
    files.write(tmp_path / "x", b"new")
    assert re.fullmatch(rf"{re.escape(str(tmp_path))}/x\.[0-9a-f]{{8}}\.pyro_vae-partial", steps[0])
    assert steps[1:] == ["rename", str(tmp_path)]
    assert (tmp_path / "x").read_bytes() == b"new"


def test_sweep_removes_what_a_killed_write_left_and_nothing_else(tmp_path):
    for name in ("a.json", "a.json.pyro_vae-partial", "partial", "b.partial.txt"):
        (tmp_path / name).touch()
    files.sweep(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"a.json", "partial", "b.partial.txt"}


# In a process of its own, which says that it is ready and then waits to be ended.
WAIT = "print(flush=True); input()"


@pytest.fixture
def other(tmp_path):
    """Starts another process in the folder, as far as it says; it is killed at the end at the latest."""
    started = []

    def start(code):
        begun = "from pathlib import Path\nfrom pyro_vae.experiment.run import files\n"
        process = subprocess.Popen(
            [sys.executable, "-c", begun + code], cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        started.append(process)
        assert process.stdout.readline() == b"\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_writers_of_one_file_do_not_disturb_each_other(tmp_path):
    path, contents = tmp_path / "shard.json", [bytes([letter]) * 5000 for letter in b"abcd"]

    def write_often(content):
        for _ in range(100):
            files.write(path, content)
            assert path.read_bytes() in contents

    with ThreadPoolExecutor(len(contents)) as threads:
        list(threads.map(write_often, contents))
    assert [p.name for p in tmp_path.iterdir()] == ["shard.json"]


def test_a_file_that_another_process_is_writing_is_not_swept_until_that_one_is_killed(tmp_path, other):
    writer = other(f"import os\ndef wait(_): {WAIT}\nos.fsync = wait\nfiles.write(Path('a.json'), b'theirs')")
    files.sweep(tmp_path)
    files.write(tmp_path / "a.json", b"ours")
    assert len(list(tmp_path.glob("a.json.*.pyro_vae-partial"))) == 1
    writer.kill()
    writer.wait()
    files.write(tmp_path / "b.json", b"")
    assert len(list(tmp_path.glob("a.json.*.pyro_vae-partial"))) == 1
    files.write(tmp_path / "a.json", b"ours again")
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"a.json": b"ours again", "b.json": b""}


def test_a_lock_is_held_by_one_process_and_ends_with_it_however_it_ends(tmp_path, other):
    path = tmp_path / "lock"
    holder = other(f"with files.locked(Path('lock'), str) as lock:\n    lock.sign('me')\n    {WAIT}")
    with pytest.raises(UsageError, match=r"^held by me$"), files.locked(path, "held by {}".format):
        pass
    holder.kill()
    holder.wait()
    for _ in range(2):
        with files.locked(path, str) as lock:
            lock.sign("you")
            with pytest.raises(UsageError, match=r"^you$"), files.locked(path, str):
                pass


def test_a_lock_that_is_removed_is_taken_anew_and_that_of_another_is_left(tmp_path, monkeypatch):
    path, flock = tmp_path / "lock", system.fcntl.flock
    with files.locked(path, str, remove=True):
        assert path.exists()
    assert not path.exists()
    with files.locked(path, str, remove=True):
        path.unlink()
        with files.locked(path, str):
            pass
    assert path.exists()

    def slow(descriptor, how):  # whoever held it gives it back between opening and locking
        monkeypatch.setattr(system.fcntl, "flock", flock)
        path.unlink()
        flock(descriptor, how)

    monkeypatch.setattr(system.fcntl, "flock", slow)
    with (
        files.locked(path, str),
        pytest.raises(UsageError),
        files.locked(path, str),
    ):
        pass


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_where_there_are_no_locks_nobody_is_stopped(tmp_path, monkeypatch, number):
    def none(*arguments):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(system.fcntl, "flock", none)
    with files.locked(tmp_path / "lock", str), files.locked(tmp_path / "lock", str):
        files.write(tmp_path / "a.json", b"")
    (tmp_path / "a.json.0.pyro_vae-partial").touch()
    files.sweep(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"lock", "a.json"}


def test_a_lock_that_is_a_link_is_not_followed(tmp_path):
    (tmp_path / "diary").write_text("dear")
    (tmp_path / "lock").symlink_to(tmp_path / "diary")
    with (
        pytest.raises(StorageError, match=r"cannot write .*lock: Too many levels"),
        files.locked(tmp_path / "lock", str),
    ):
        pass
    assert (tmp_path / "diary").read_text() == "dear"


def test_a_holder_that_can_not_sign_is_told_what_is_full(tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with (
        files.locked(tmp_path / "lock", str) as lock,
        pytest.raises(StorageError, match=r"lock: No space .* Free some"),
    ):
        lock.sign("me")


def test_a_lock_that_is_a_pipe_is_named(tmp_path):
    os.mkfifo(tmp_path / "lock")
    with files.locked(tmp_path / "lock", str) as lock, pytest.raises(StorageError, match=r"cannot write .*lock"):
        lock.sign("me")


def test_a_link_among_the_leftovers_is_removed_and_not_followed(tmp_path):
    (tmp_path / "kept").write_bytes(b"kept")
    for name, target in (("a", "nowhere"), ("b", "kept")):
        (tmp_path / f"{name}{files._TEMPORARY}").symlink_to(target)
    files.sweep(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_without_locks_a_write_leaves_alone_what_another_may_be_writing(tmp_path, monkeypatch):
    def none(descriptor, how):
        raise OSError(errno.ENOTSUP, "not supported")

    partial = tmp_path / f"a.0{files._TEMPORARY}"
    partial.write_bytes(b"of another")
    monkeypatch.setattr(system.fcntl, "flock", none)
    files.write(tmp_path / "a", b"new")
    assert (partial.exists(), (tmp_path / "a").read_bytes()) == (True, b"new")


def test_append_adds_whole_lines(tmp_path):
    path = tmp_path / "history.jsonl"
    for line in ("one", "zwölf"):
        files.append(path, line)
    assert path.read_bytes() == "one\nzwölf\n".encode()


@pytest.mark.parametrize(
    "act",
    [lambda p: files.write(p, b""), lambda p: files.append(p, ""), files.make_folder],
    ids=["write", "append", "make_folder"],
)
def test_a_place_below_a_file_is_a_storage_error_that_names_it(tmp_path, act):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"cannot write .*file/x: Not a directory"):
        act(tmp_path / "file" / "x")


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_json_refuses_what_is_no_json(number):
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.to_json({"a": [number]})


def test_equal_values_give_equal_bytes():
    assert files.to_json({"b": 1, "a": "ß"}) == files.to_json({"a": "ß", "b": 1}) != files.to_json({"a": "ß"})
