"""Processes side by side: how many, with how many threads, what a signal does to them, and what they leave behind."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pyro_vae import system
from pyro_vae.cli.command_ending import exit_codes
from pyro_vae.errors import UsageError
from pyro_vae.experiment.sweep.launching import Job, locked, work

# Waits for so long, and writes down when it was at work; told to end, it takes its time and says so.
WORKER = """
import os, signal, sys, time
def told(*_):
    time.sleep(0.2)
    open("told", "a").write("told\\n")
    sys.exit(143)
signal.signal(signal.SIGTERM, told)
begun = time.time()
open("ready", "w").close()
time.sleep(float(sys.argv[1]))
print(begun, time.time(), os.environ["OMP_NUM_THREADS"])
sys.exit(int(sys.argv[2]))
"""


@pytest.fixture
def jobs(tmp_path):
    (tmp_path / "worker.py").write_text(WORKER)

    def make(*waits, code=0):
        return [
            Job(
                tmp_path / f"{i}",
                ["-c", f"import os; os.chdir({str(tmp_path / str(i))!r})\n{WORKER}", str(wait), str(code)],
            )
            for i, wait in enumerate(waits)
        ]

    return make


def launched(folder, jobs, at_once):
    """Runs them; returns their exit codes by folder, and what each wrote last."""
    codes = {}
    with locked(folder) as lock:
        work(jobs, at_once, lock, lambda job, code, seconds: codes.__setitem__(job.folder.name, code))
    return codes, [(job.folder / "train.log").read_text().splitlines()[-1].split() for job in jobs]


def test_so_many_are_at_work_at_once_and_share_the_cores(jobs, tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(system, "cores", lambda: 7)
    codes, said = launched(tmp_path, jobs(*[0.3] * 5), 3)
    assert codes == dict.fromkeys("01234", 0)
    assert {threads for _, _, threads in said} == {"2"}
    spans = [(float(begun), float(ended)) for begun, ended, _ in said]
    together = [sum(begun <= moment < ended for begun, ended in spans) for moment, _ in spans]
    assert 2 <= max(together) <= 3
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert launched(tmp_path, jobs(0), 1)[1][0][2] == "5"


def test_one_that_fails_does_not_stop_the_others(jobs, tmp_path):
    first, *others = jobs(0, 0, 0)
    codes, _ = launched(tmp_path, [*jobs(0, code=6), *others], 2)
    assert codes == {"0": 6, "1": 0, "2": 0}
    assert (first.folder / "train.log").read_text().startswith("$ python -c ")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_is_passed_on_once_and_awaited(jobs, tmp_path, capfd, number, code):
    done = []
    waiting = jobs(30, 30, 30)

    def interrupt():
        while not all((job.folder / "ready").exists() for job in waiting[:2]):
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    threading.Thread(target=interrupt).start()
    with pytest.raises(SystemExit, match=str(code)), exit_codes("all of it"), locked(tmp_path) as lock:
        work(waiting, 2, lock, lambda *end: done.append(end))
    assert [(job.folder / "told").read_text() for job in waiting[:2]] == ["told\n"] * 2
    assert not waiting[2].folder.exists()
    assert not done
    assert "interrupted: all of it" in capfd.readouterr().err


def test_an_error_of_whoever_is_told_ends_the_others(jobs, tmp_path):
    quick, slow = jobs(0.3, 30)

    def refuse(*end):
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError), locked(tmp_path) as lock:
        work([slow, quick], 2, lock, refuse)
    assert (slow.folder / "told").read_text() == "told\n"


def test_a_folder_has_one_team_and_what_a_killed_one_left_is_found(jobs, tmp_path):
    (job,) = jobs(30)
    code = f"""
from pathlib import Path
from pyro_vae.experiment.sweep.launching import *
with locked(Path({str(tmp_path)!r})) as lock:
    work([Job(Path({str(job.folder)!r}), {job.command!r})], 1, lock, print)
"""
    team = subprocess.Popen([sys.executable, "-c", code])
    while not (job.folder / "ready").exists():
        time.sleep(0.01)
    for end in (lambda: None, lambda: (team.kill(), team.wait())):
        end()
        with (
            pytest.raises(UsageError, match=r"another sweep is at work in .*, or runs that one left behind"),
            locked(tmp_path),
        ):
            pass
    first, left = map(int, (tmp_path / "sweep.lock").read_text().split())
    assert first == team.pid
    os.kill(left, signal.SIGTERM)
    while not (job.folder / "told").exists():
        time.sleep(0.01)
    deadline = time.monotonic() + 30
    while True:
        try:
            with locked(tmp_path):
                break
        except UsageError:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    assert Path(tmp_path / "sweep.lock").read_text() == f"{os.getpid()}\n"
