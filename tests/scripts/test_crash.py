"""kill -9 at random moments: nothing torn, nothing lost that was acknowledged, and the same bytes in the end."""

import io
import json
import os
import random
import runpy
import shutil
import signal
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import forked
import pytest
from cases import thorough
from finished import content
from PIL import Image
from scripted import save_tiny

from pyro_vae.evaluation.trust import arviz_adapter
from pyro_vae.experiment.run import checkpoint
from pyro_vae.experiment.train.training_session import Session

SCRIPTS = Path(__file__).parents[2] / "scripts"
TRAIN = [
    *("--dataset", "tiny.npy", "--hidden", "8", "--latent-dim", "2", "--batch-size", "16", "--epochs", "60"),
    *("--test-samples", "20", "--elbo-samples", "5", "--kl-warmup", "3", "--out", "run", "--resume"),
]
EVALUATE = [
    *("run", "--num-samples", "50", "--elbo-samples", "5", "--annealed-data", "0", "--latent-data", "20"),
]
DIFFER = ("command", "git", "started", "session_started", "seconds")  # in run.json


def script(name, arguments, acknowledged, temporary):
    """A child: runs a script, and writes down each epoch that is said to be kept, and 0 before anything is."""
    os.environ["TMPDIR"] = temporary
    log = os.open("log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    said = os.open(acknowledged, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    begin, save = Session.open, Session.save

    def say_and_begin(*arguments):
        os.write(said, b"0\n")
        return begin(*arguments)

    def save_and_say(self, record):
        save(self, record)
        os.write(said, f"{record.epoch}\n".encode())

    Session.open, Session.save = say_and_begin, save_and_say
    sys.argv = [f"{name}.py", *arguments]
    runpy.run_path(str(SCRIPTS / f"{name}.py"))["main"](arguments)


start = partial(forked.start, script)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_tiny()
    return tmp_path


@pytest.fixture(params=["here", *thorough("elsewhere")])
def temporary(request, tmp_path):
    """The folder for temporary files: beside the run, or on another file system, from where nothing can be renamed."""
    if request.param == "here":
        yield str(tmp_path)
        return
    if not os.access("/dev/shm", os.W_OK) or os.stat("/dev/shm").st_dev == tmp_path.stat().st_dev:  # noqa: S108
        pytest.skip("there is no other file system here")
    made = tempfile.mkdtemp(dir="/dev/shm")
    yield made
    shutil.rmtree(made)


def at_work(process, acknowledged):
    """Waits until a child has come to where it writes."""
    while process.exitcode is None and not (acknowledged.exists() and acknowledged.stat().st_size):
        process.join(0.001)


def whole(path):
    """Opens a file as who uses it would."""
    content = path.read_bytes()
    if path.suffix == ".json":
        json.loads(content)
    elif path.suffix == ".jsonl":
        [json.loads(line) for line in content.split(b"\n")[:-1]]
    elif path.suffix == ".png":
        Image.open(io.BytesIO(content)).load()
    elif path.suffix == ".nc":
        arviz_adapter.read_netcdf(path).log_likelihood["x"].load()
    elif path.suffix == ".html":
        assert content.rstrip().endswith(b"</html>")
    else:
        assert content.endswith(b"\n") or path.suffix == ".safetensors"


def check(run, acknowledged, before=0):
    """What holds after a kill at any moment. Returns the epoch that is kept, at least the one before."""
    files = [path for path in run.rglob("*") if path.is_file()]
    partial = [path for path in files if path.name.endswith(".pyro_vae-partial")]
    for path in files:
        if path not in partial:
            whole(path)
    reached = [checkpoint.read(path).progress.epoch for path in checkpoint.manifests(run / "checkpoints")]
    said = acknowledged.read_text().split() if acknowledged.exists() else []
    assert max([0, *reached]) >= max(before, int(said[-1] if said else 0))
    assert len(partial) <= 1
    return max([0, *reached])


def result(run):
    found = {str(path.relative_to(run)): path.read_bytes() for path in run.rglob("*") if path.is_file()}
    about = json.loads(found["run.json"])
    return found | {"run.json": {key: value for key, value in about.items() if key not in DIFFER}}


def finished(process):
    process.join(120)
    assert process.exitcode == 0, Path("log.txt").read_text()[-2000:]


@pytest.mark.thorough
@pytest.mark.parametrize("moments", [1, 10, pytest.param(50, marks=pytest.mark.slow)])
def test_training_killed_at_random_moments_loses_nothing(folder, temporary, moments):
    acknowledged = folder / "acknowledged"
    process = start("train_svi", TRAIN, str(acknowledged), temporary)
    at_work(process, acknowledged)
    began = time.monotonic()
    finished(process)
    seconds = time.monotonic() - began
    expected = result(folder / "run")
    random_moment = random.Random(moments)  # noqa: S311 - no secret
    killed = left = ended = 0
    while killed < moments:
        shutil.rmtree("run", ignore_errors=True)
        reached = 0
        while True:  # one run, killed and taken up again until it ends
            acknowledged.unlink()
            process = start("train_svi", TRAIN, str(acknowledged), temporary)
            at_work(process, acknowledged)
            process.join(random_moment.uniform(0, seconds / 3))
            if process.exitcode is not None or killed == moments:
                finished(process)
                break
            process.kill()
            process.join()
            killed += 1
            left += len(list((folder / "run").rglob("*.pyro_vae-partial")))
            reached = check(folder / "run", acknowledged, reached)
        assert result(folder / "run") == expected
        ended += 1
    print(f"{killed} kills in {ended} runs of {seconds:.1f} s left {left} temporary files, all swept")


@pytest.mark.thorough
def test_a_second_training_in_a_folder_is_refused_and_the_first_ends_undisturbed(folder):
    acknowledged = folder / "acknowledged"
    finished(start("train_svi", TRAIN, str(acknowledged), str(folder)))
    expected = result(folder / "run")
    shutil.rmtree("run")
    acknowledged.unlink()
    first = start("train_svi", TRAIN, str(acknowledged), str(folder))
    at_work(first, acknowledged)
    os.kill(first.pid, signal.SIGSTOP)
    before = content("run")
    try:
        second = start("train_svi", TRAIN, "none", str(folder))
        second.join(120)
        assert second.exitcode == 2
        assert content("run") == before
        *_, sentence = Path("log.txt").read_text().splitlines()
        assert sentence.startswith(f"error: another training is at work in run (process {first.pid} on ")
    finally:
        os.kill(first.pid, signal.SIGCONT)
    finished(first)
    assert result(folder / "run") == expected


@pytest.mark.thorough
@pytest.mark.parametrize("temporary", ["here", pytest.param("elsewhere", marks=pytest.mark.slow)], indirect=True)
@pytest.mark.parametrize("moments", [1, pytest.param(15, marks=pytest.mark.slow)])
def test_an_evaluation_killed_at_random_moments_leaves_whole_files(folder, temporary, moments):
    acknowledged = folder / "acknowledged"
    finished(start("train_svi", TRAIN, str(acknowledged), temporary))
    began = time.monotonic()
    finished(start("evaluate", EVALUATE, str(acknowledged), temporary))
    seconds = time.monotonic() - began
    random_moment = random.Random(moments)  # noqa: S311
    for _ in range(moments):
        process = start("evaluate", EVALUATE, str(acknowledged), temporary)
        process.join(random_moment.uniform(0, seconds))
        process.kill()
        process.join()
        check(folder / "run", acknowledged)
    finished(start("evaluate", EVALUATE, str(acknowledged), temporary))
    assert not list((folder / "run").rglob("*.pyro_vae-partial"))
