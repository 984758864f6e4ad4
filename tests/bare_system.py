"""What the scripts do on a system that lacks what Windows lacks; test_system.py starts this in an empty folder.

Prints its answers as JSON. With the argument "windows" there is an imitation of msvcrt instead of no lock but that of
POSIX, and less is asked. All work is done in forks of one process, which took the names away, loaded everything and
computed nothing.
"""

# ruff: noqa: E402, F401

import json
import os
import runpy
import signal
import sys
import time
from pathlib import Path

import imitated_msvcrt

for name in ("fcntl", "msvcrt", "resource"):
    sys.modules[name] = None
for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_DIRECTORY", "sched_getaffinity", "pwrite", "setpgid", "killpg", "mkfifo"):
    delattr(os, name)
del signal.SIGPIPE

import pyro.infer
import torch._dynamo
from scripted import exit_code, save_tiny

import pyro_vae as pv
from pyro_vae import system
from pyro_vae.cli.command_ending import exit_codes
from pyro_vae.experiment.compare import comparing
from pyro_vae.experiment.evaluate import report_files
from pyro_vae.experiment.share import sharing
from pyro_vae.experiment.sweep.launching import Job, locked, work
from pyro_vae.experiment.train import training
from pyro_vae.inference import SVI

SCRIPTS = Path(__file__).parents[1] / "scripts"
TRAIN = [
    *("--dataset", "tiny.npy", "--hidden", "8", "--latent-dim", "2", "--batch-size", "16", "--epochs", "4"),
    *("--test-samples", "20", "--elbo-samples", "5", "--kl-warmup", "3"),
]
EVALUATE = [
    *("--num-samples", "50", "--elbo-samples", "5", "--annealed-data", "0", "--latent-data", "2"),
    *("--posterior-draws", "0", "--escalated-draws", "0"),
]


def script(name, *arguments):
    """What a script does, as a function to be called in a fork."""
    return lambda: sys.exit(exit_code(runpy.run_path(str(SCRIPTS / f"{name}.py"))["main"], arguments))


def stuck():
    """Training that waits for ever after five steps, in the second epoch."""
    step_from = SVI.step_from

    def step_and_wait(self, *args, **kwargs):
        loss = step_from(self, *args, **kwargs)
        if self.num_steps == 5:
            Path("ready").touch()
            time.sleep(600)
        return loss

    SVI.step_from = step_and_wait
    script("train_svi", *TRAIN, "--out", "again")()


def started(act):
    """A fork at work, which says what it says into a file of its own number."""
    if number := os.fork():
        return number
    said = os.open(f"said-{os.getpid()}.txt", os.O_WRONLY | os.O_CREAT)
    os.dup2(said, 1)
    os.dup2(said, 2)
    code = exit_code(lambda _: act(), [])
    sys.stdout.flush()
    os._exit(code if isinstance(code, int) else 1)


def end(number):
    """How a fork ended, and the last line that it said."""
    code = os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])
    lines = Path(f"said-{number}.txt").read_text(encoding="utf-8", errors="replace").splitlines()
    return code, lines[-1] if lines else ""


def ended(act):
    return end(started(act))


def content(run):
    """Every file of a run but run.json, which knows the time."""
    files = [path for path in Path(run).rglob("*") if path.is_file() and path.name != "run.json"]
    return {str(path.relative_to(run)): path.read_bytes() for path in files}


def load():
    run, shared = pv.load("whole").state_dict(), pv.load("shared").state_dict()
    sys.exit(not (run.keys() == shared.keys() and all(run[name].equal(shared[name]) for name in run)))


def sweep():
    codes = []
    with locked(Path("sweep")) as lock:
        work([Job(Path("sweep/job"), ["-c", "print(7)"])], 1, lock, lambda job, code, seconds: codes.append(code))
    sys.exit(codes[0])


def unread():
    with exit_codes():
        raise BrokenPipeError


def two_in_one_folder():
    first = started(stuck)
    while not Path("ready").exists():
        time.sleep(0.01)
    yield "first", first
    yield "second", ended(script("train_svi", *TRAIN, "--out", "again", "--resume"))
    os.kill(first, signal.SIGKILL)
    yield "killed", end(first)
    yield "left", sorted(path.name for path in Path("again").glob("train.lock"))
    yield "resume", ended(script("train_svi", *TRAIN, "--out", "again", "--resume"))
    yield "same bytes", content("again") == content("whole")


def answers():
    save_tiny()
    yield "train", ended(script("train_svi", *TRAIN, "--out", "whole"))
    yield from two_in_one_folder()
    if not system.msvcrt:
        yield from others()
    yield "in the end", sorted(path.name for left in ("train.lock", "*partial") for path in Path().rglob(left))


def others():
    yield "share", ended(script("share", "whole", "--out", "shared"))
    yield "load", ended(load)
    yield "evaluate", ended(script("evaluate", "whole", *EVALUATE))
    yield "compare", ended(script("compare", "whole", "again", "--num-samples", "20", "--out", "comparison"))
    yield "sweep", ended(sweep)
    yield "unread", ended(unread)


if "windows" in sys.argv:
    system.msvcrt = imitated_msvcrt
print(json.dumps(dict(answers())))
