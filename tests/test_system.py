"""The package on a system that lacks what Windows lacks, and that one module alone knows what systems lack."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pyro_vae import system
from pyro_vae.errors import UsageError
from pyro_vae.experiment.run import files

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """Of `bare_system.py`, whose output is encoded as on Windows."""
    environment = {
        **os.environ,
        "PYTHONIOENCODING": "cp1252",
        "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]),
    }
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("bare_system.py")],
        cwd=tmp_path_factory.mktemp("bare"),
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.thorough
class TestScripts:
    """Where names are taken away."""

    @pytest.mark.parametrize("name", ["train", "resume", "share", "load", "evaluate", "compare", "sweep"])
    def test_it_ends_well(self, answers, name):
        assert answers[name][0] == 0, answers[name]

    def test_a_run_that_was_killed_goes_on_to_the_same_bytes(self, answers):
        assert answers["killed"][0] == -9
        assert answers["same bytes"]

    def test_a_second_training_in_a_folder_is_refused_and_told_of_the_first(self, answers):
        code, sentence = answers["second"]
        assert code == 2
        assert sentence.startswith(f"error: another training is at work in again (process {answers['first']} on ")

    def test_the_lock_of_a_killed_process_is_taken_over_and_none_is_left(self, answers):
        assert len(answers["left"]) == 2
        assert answers["in the end"] == []

    def test_output_that_nobody_reads_has_its_exit_code(self, answers):
        assert answers["unread"] == [141, "interrupted: nobody reads the output"]


@pytest.fixture
def without_locks(monkeypatch):
    monkeypatch.setattr(system, "fcntl", None)
    monkeypatch.setattr(system, "msvcrt", None)


class TestALockFile:
    """Where there is neither `flock` nor `msvcrt`."""

    pytestmark = pytest.mark.usefixtures("without_locks")

    @pytest.fixture
    def dead(self):
        """The number of a process that has ended."""
        process = subprocess.Popen([sys.executable, "-c", ""])
        process.wait()
        return process.pid

    def test_it_is_held_once_and_free_again(self, tmp_path):
        for _ in range(2):
            with files.locked(tmp_path / "lock", str) as lock:
                lock.sign("me")
                with pytest.raises(UsageError, match=r"^me$"), files.locked(tmp_path / "lock", str):
                    pass
        assert [path.name for path in tmp_path.iterdir()] == ["lock"]

    def test_that_of_a_dead_process_is_taken_over(self, tmp_path, dead):
        claim = system._claim_of(tmp_path / "lock", dead)
        claim.touch()
        with files.locked(tmp_path / "lock", str):
            assert not claim.exists()

    @pytest.mark.parametrize("name", ["lock.held.{}.elsewhere", "lock.held.x.{}", "lock.held.{}"])
    def test_that_of_another_machine_or_of_nobody_knows_whom_is_left(self, tmp_path, dead, name):
        claim = tmp_path / name.format(dead)
        claim.touch()
        with pytest.raises(UsageError), files.locked(tmp_path / "lock", str):
            pass
        assert {path.name for path in tmp_path.iterdir()} == {"lock", claim.name}

    def test_that_of_a_process_that_lives_counts(self, tmp_path):
        system._claim_of(tmp_path / "lock", os.getppid()).touch()
        with pytest.raises(UsageError), files.locked(tmp_path / "lock", str):
            pass

    def test_that_of_another_file_is_no_concern(self, tmp_path):
        system._claim_of(tmp_path / "lock.b", os.getppid()).touch()
        system._claim_of(tmp_path / "[a-z]lock", os.getppid()).touch()
        with files.locked(tmp_path / "lock", str):
            pass

    def test_what_another_may_be_writing_is_left_by_a_write_and_swept_by_a_sweep(self, tmp_path):
        left = tmp_path / f"a.0{files._TEMPORARY}"
        left.touch()
        files.write(tmp_path / "a", b"new")
        assert left.exists()
        files.sweep(tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["a"]


class FakeMsvcrt:
    """Locks single bytes of files, as far as `locking` of Windows is asked for here."""

    LK_NBLCK, LK_UNLCK = 2, 0

    def __init__(self):
        self.locked, self.calls = {}, []

    def locking(self, descriptor, mode, size):
        byte = (os.fstat(descriptor).st_ino, os.lseek(descriptor, 0, os.SEEK_CUR))
        self.calls.append((mode, byte[1], size))
        if mode == self.LK_UNLCK:
            assert self.locked.pop(byte) == descriptor
        elif self.locked.setdefault(byte, descriptor) != descriptor:
            raise PermissionError(13, "Permission denied")


def test_on_windows_a_byte_behind_the_text_is_locked_and_unlocked(tmp_path, monkeypatch):
    windows = FakeMsvcrt()
    monkeypatch.setattr(system, "fcntl", None)
    monkeypatch.setattr(system, "msvcrt", windows)
    for _ in range(2):
        with files.locked(tmp_path / "lock", str) as lock:
            lock.sign("me")
            with pytest.raises(UsageError, match=r"^me$"), files.locked(tmp_path / "lock", str):
                pass
        assert not windows.locked
    assert windows.calls[:3] == [(2, (1 << 31) - 2, 1), (2, (1 << 31) - 2, 1), (0, (1 << 31) - 2, 1)]
    assert (tmp_path / "lock").read_bytes() == b"me\n"


def test_on_windows_a_child_has_a_group_of_its_own_and_no_descriptor(monkeypatch):
    monkeypatch.setattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 512, raising=False)
    assert system.child_options(7) == {"creationflags": 512}


def test_without_its_flag_a_link_is_not_followed_either(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "O_NOFOLLOW")
    (tmp_path / "lock").symlink_to(tmp_path / "diary")
    with pytest.raises(OSError, match="Too many levels"):
        system.hold(tmp_path / "lock")
    assert not (tmp_path / "diary").exists()


def test_without_its_flag_no_folder_is_opened(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "O_DIRECTORY")
    monkeypatch.setattr(os, "open", None)
    system.flush_folder(tmp_path)


def test_the_cores_are_those_of_the_machine_where_nothing_says_more(monkeypatch):
    assert 1 <= system.cores() <= os.cpu_count()
    monkeypatch.delattr(os, "sched_getaffinity")
    assert system.cores() == os.cpu_count()


NOT_EVERYWHERE = {
    *("fcntl", "msvcrt", "resource", "ctypes", "pwd", "grp", "termios", "O_NOFOLLOW", "O_NONBLOCK", "O_DIRECTORY"),
    *("sched_getaffinity", "sched_setaffinity", "fork", "forkpty", "kill", "killpg", "setpgid", "setsid", "getuid"),
    *("pread", "pwrite", "mkfifo", "mknod", "statvfs", "uname", "nice", "waitpid", "pass_fds", "process_group"),
    *("preexec_fn", "start_new_session", "creationflags", "SIGPIPE", "SIGKILL", "SIGHUP", "SIGALRM", "SIGUSR1"),
}


def names(path):
    """All that a file imports, looks up or gives as an argument by name."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.alias(name=name) | ast.Attribute(attr=name) | ast.keyword(arg=name) | ast.Constant(value=name):
                yield name


def test_one_module_knows_what_systems_lack():
    modules = {path: NOT_EVERYWHERE.intersection(names(path)) for path in ROOT.glob("pyro_vae/**/*.py")}
    modules |= {path: NOT_EVERYWHERE.intersection(names(path)) for path in ROOT.glob("scripts/*.py")}
    assert {str(path.relative_to(ROOT)) for path, used in modules.items() if used} == {"pyro_vae/system.py"}
