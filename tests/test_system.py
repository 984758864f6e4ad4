"""The package on a system that lacks what Windows lacks, and that one module alone knows what systems lack."""

import ast
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import imitated_msvcrt
import pytest

from pyro_vae import system
from pyro_vae.errors import UsageError
from pyro_vae.experiment.run import files

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    return answers_of(tmp_path_factory.mktemp("bare"))


@pytest.fixture(scope="module", params=["posix", "windows"])
def two(request, tmp_path_factory, answers):
    """With the lock of POSIX, and with that of Windows."""
    return answers if request.param == "posix" else answers_of(tmp_path_factory.mktemp("windows"), request.param)


def answers_of(folder, *arguments):
    """Of `bare_system.py`, whose output is encoded as on Windows."""
    environment = {
        **os.environ,
        "PYTHONIOENCODING": "cp1252",
        "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]),
    }
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("bare_system.py"), *arguments],
        cwd=folder,
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

    def test_a_run_that_was_killed_goes_on_to_the_same_bytes(self, two):
        assert two["killed"][0] == -9
        assert two["same bytes"]

    def test_a_second_training_in_a_folder_is_refused_and_told_of_the_first(self, two):
        code, sentence = two["second"]
        assert code == 2
        assert sentence.startswith(f"error: another training is at work in again (process {two['first']} on ")

    def test_the_lock_of_a_killed_process_is_taken_over_and_none_is_left(self, two):
        assert two["left"] == ["train.lock"]
        assert two["in the end"] == []

    def test_output_that_nobody_reads_has_its_exit_code(self, answers):
        assert answers["unread"] == [141, "interrupted: no one reads the output any more"]


@pytest.fixture
def windows(monkeypatch):
    """Its lock, and that no open file can be removed."""
    unlink = os.unlink

    def refuse(path, **more):
        is_open = [Path("/proc/self/fd", name).resolve() == path for name in os.listdir("/proc/self/fd")]
        if any(is_open):
            raise PermissionError(13, "The process cannot access the file")
        unlink(path, **more)

    monkeypatch.setattr(os, "unlink", refuse)
    monkeypatch.setattr(system, "fcntl", None)
    monkeypatch.setattr(system, "msvcrt", imitated_msvcrt)


class TestTheLockOfWindows:
    """By an imitation of msvcrt."""

    pytestmark = pytest.mark.usefixtures("windows")

    def test_it_is_held_once_and_free_again_and_says_who_holds_it(self, tmp_path):
        for _ in range(2):
            with files.locked(tmp_path / "lock", str) as lock:
                lock.sign("me")
                with pytest.raises(UsageError, match=r"^me$"), files.locked(tmp_path / "lock", str):
                    pass
        assert (tmp_path / "lock").read_bytes() == b"me\n"

    def test_the_locked_byte_lies_behind_all_that_others_read(self, tmp_path):
        with files.locked(tmp_path / "lock", str), (tmp_path / "lock").open("r+b") as file:
            imitated_msvcrt.locking(file.fileno(), imitated_msvcrt.LK_NBLCK, (1 << 31) - 2)
            file.seek((1 << 31) - 2)
            with pytest.raises(PermissionError):
                imitated_msvcrt.locking(file.fileno(), imitated_msvcrt.LK_NBLCK, 1)

    def test_its_file_goes_after_it_is_released_and_that_of_the_next_holder_stays(self, tmp_path, monkeypatch):
        with files.locked(tmp_path / "lock", str, remove=True):
            assert (tmp_path / "lock").exists()
        assert not (tmp_path / "lock").exists()
        close, held = os.close, []

        def close_and_lose(descriptor):
            monkeypatch.setattr(os, "close", close)
            close(descriptor)
            held.append(system.hold(tmp_path / "lock"))

        with files.locked(tmp_path / "lock", str, remove=True):
            monkeypatch.setattr(os, "close", close_and_lose)
        with pytest.raises(UsageError), files.locked(tmp_path / "lock", str):
            pass
        system.release(tmp_path / "lock", held[0], remove=True)
        assert not (tmp_path / "lock").exists()

    def test_what_another_may_be_writing_is_left_by_a_write_and_swept_by_a_sweep(self, tmp_path):
        left = tmp_path / f"a.0{files._TEMPORARY}"
        left.touch()
        files.write(tmp_path / "a", b"new")
        assert left.exists()
        files.sweep(tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["a"]


WINDOWS = """
import signal, sys
signal.CTRL_BREAK_EVENT, signal.Signals = 1, {"SIGBREAK": signal.SIGUSR1}
from pyro_vae import system
from pyro_vae.experiment.run.interruption import noted
from pyro_vae.cli.command_ending import exit_codes
with exit_codes("all of it"), noted() as stop:
    print("ready", flush=True)
    while not stop():
        pass
    print("kept", flush=True)
"""


def test_on_windows_a_child_is_asked_by_ctrl_break_which_lets_it_keep_its_step(monkeypatch):
    child = subprocess.Popen([sys.executable, "-c", WINDOWS], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "ready\n"
    monkeypatch.setattr(signal, "CTRL_BREAK_EVENT", signal.SIGUSR1, raising=False)
    system.ask_to_end(child)
    out, err = child.communicate()
    assert (out, child.returncode) == ("kept\n", 128 + signal.SIGUSR1)
    assert err.endswith("interrupted: all of it\n")


def test_a_child_that_ctrl_break_does_not_reach_is_ended(monkeypatch):
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        monkeypatch.setattr(signal, "CTRL_BREAK_EVENT", 1 << 20, raising=False)
        system.ask_to_end(child)
        assert child.wait() == -signal.SIGTERM


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


@pytest.mark.parametrize(("told", "found"), [("4\n", 4), ("", None)])
def test_the_faster_cores_of_an_apple_processor_are_asked_for(monkeypatch, told, found):
    monkeypatch.setattr(system.sys, "platform", "darwin")
    monkeypatch.setattr(system.subprocess, "run", lambda asked, **options: SimpleNamespace(stdout=told))
    system.performance_cores.cache_clear()
    assert system.performance_cores() == found
    monkeypatch.undo()
    system.performance_cores.cache_clear()
    assert sys.platform == "darwin" or system.performance_cores() is None


NOT_EVERYWHERE = {
    *("fcntl", "msvcrt", "resource", "ctypes", "pwd", "grp", "termios", "O_NOFOLLOW", "O_NONBLOCK", "O_DIRECTORY"),
    *("sched_getaffinity", "sched_setaffinity", "fork", "forkpty", "kill", "killpg", "setpgid", "setsid", "getuid"),
    *("pread", "pwrite", "mkfifo", "mknod", "statvfs", "uname", "nice", "waitpid", "pass_fds"),
    *("lockf", "SIGBREAK", "CTRL_BREAK_EVENT", "process_group", "preexec_fn", "start_new_session", "creationflags"),
    *("SIGPIPE", "SIGKILL", "SIGHUP", "SIGALRM", "SIGUSR1"),
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
