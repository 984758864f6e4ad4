"""A disk that is full, read-only or forbidden: exit 6, one sentence, and what was kept stays as it was."""

import ctypes
import os
import resource
import runpy
import shutil
import subprocess
import sys
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path

import pytest
from cases import thorough
from forked import Script
from scripted import save_tiny

import pyro_vae as pv
from pyro_vae.experiment.run import checkpoint

SCRIPTS = Path(__file__).parents[2] / "scripts"
FLAGS = (
    "--dataset tiny.npy --hidden 8 --latent-dim 2 --batch-size 16 --test-samples 20 --elbo-samples 5 --kl-warmup 2"
    " --epochs"
)

NEW_MOUNTS, NEW_USER = 0x20000, 0x10000000  # of `unshare`, see <linux/sched.h>


def allowed(*command):
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.fixture
def mounts():
    """Skips where a process can have no mounts of its own."""
    if shutil.which("unshare") is None or not allowed("unshare", "-rm", "mount", "-t", "tmpfs", "none", "/mnt"):
        pytest.skip("file systems cannot be mounted here")


def mount(*arguments):
    """In this process alone: what `unshare -rm mount` does."""
    places = {"setgroups": "deny", "uid_map": f"0 {os.getuid()} 1", "gid_map": f"0 {os.getgid()} 1"}
    if ctypes.CDLL(None).unshare(NEW_USER | NEW_MOUNTS):
        raise OSError("unshare")
    for name, content in places.items():
        Path("/proc/self", name).write_text(content)
    for each in arguments:
        subprocess.run(["mount", *each.split()], check=True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that always had space."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("whole"))
        save_tiny()
        train(f"{FLAGS} 6 --out whole")
        return Path("whole").resolve()


def train(flags):
    runpy.run_path(str(SCRIPTS / "train_svi.py"))["main"](flags.split())


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_tiny()
    Path("disk").mkdir()
    return tmp_path


def end(script, flags, inside=nullcontext):
    """The exit code of a script in a process of its own, and what it wrote to stderr."""
    process = Script(script, *flags.split(), inside=inside)
    _, err = process.communicate()
    return process.returncode, err


def one_sentence(err):
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    return err


# KiB: training stops at a checkpoint, and at a picture; the whole run takes some 140, and slow tests go through them.
SIZES = [48, 120]


@contextmanager
def full(size):
    """A disk of so many KiB; what is on it in the end is copied."""
    mount(f"-t tmpfs -o size={size}k none disk")
    try:
        yield
    finally:
        for copy in ("saved", "again"):
            shutil.copytree("disk/run", copy)


@pytest.mark.thorough
@pytest.mark.parametrize(
    "size", [SIZES[0], *thorough(SIZES[1]), *(pytest.param(i, marks=pytest.mark.slow) for i in range(12, 136, 8))]
)
def test_a_full_disk_ends_training_with_what_was_kept_intact(mounts, whole, folder, size):
    code, said = end("train_svi.py", f"{FLAGS} 6 --out disk/run", partial(full, size))
    assert (code, "No space left on device. Free some space." in one_sentence(said)) == (6, True)
    assert not list(Path("saved").rglob("*.pyro_vae-partial"))
    manifests = checkpoint.manifests(folder / "saved" / "checkpoints")
    assert all(checkpoint.read(path) for path in manifests)
    if manifests:
        assert next(pv.load("saved").parameters()).isfinite().all()

    # With space it goes on, to the bytes of a run that always had some.
    train(f"{FLAGS} 6 --out again --resume")
    names = ["checkpoints/epoch-00006.safetensors", "checkpoints/epoch-00006.json", "history.jsonl", "report.json"]
    assert [(Path("again") / name).read_bytes() for name in names] == [(whole / name).read_bytes() for name in names]


def limited(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    return nullcontext()


@pytest.mark.parametrize("size", [3_000, pytest.param(12_000, marks=pytest.mark.slow)])
def test_a_bound_on_the_size_of_files_is_named(folder, size):
    code, said = end("train_svi.py", f"{FLAGS} 40 --out run", partial(limited, size))
    assert (code, "File too large" in one_sentence(said)) == (6, True)
    assert all(checkpoint.read(path) for path in checkpoint.manifests(folder / "run" / "checkpoints"))


@pytest.fixture
def run(folder):
    """A run that has two more epochs to go, whole and without a report."""
    train(f"{FLAGS} 2 --lr-schedule constant --out disk/run")
    return folder / "disk" / "run"


def contents(run):
    return {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


RESUME = "train_svi.py", "--out disk/run --resume --epochs 4"
EVALUATE = (
    "disk/run --num-samples 20 --elbo-samples 5 --annealed-data 0 --latent-data 20"
    " --posterior-draws 0 --escalated-draws 0"
)


def read_only():
    mount("--bind disk disk", "-o remount,bind,ro disk")
    return nullcontext()


@pytest.mark.thorough
def test_a_read_only_run_can_be_read_and_not_written(mounts, run):
    before = contents(run)
    for command in (RESUME, ("evaluate.py", EVALUATE)):
        code, said = end(*command, read_only)
        assert (code, "Read-only file system. Use another --out." in one_sentence(said)) == (6, True)
    assert end("evaluate.py", f"{EVALUATE} --out elsewhere", read_only)[0] == 0
    assert contents(run) == before
    assert Path("elsewhere/report.html").exists()


def without_rights():
    """What root may do beyond others it gives up."""
    version_3 = (ctypes.c_uint32 * 2)(0x20080522, 0)
    if ctypes.CDLL(None).capset(version_3, (ctypes.c_uint32 * 6)()):
        raise OSError("capset")
    return nullcontext()


@pytest.mark.skipif(sys.platform != "linux", reason="root gives up its rights as in Linux")
def test_a_run_without_permission_is_named(run):
    before = contents(run)
    for path in (run, run / "checkpoints"):
        path.chmod(0o555)
    try:
        ends = [end(*RESUME, without_rights), end("train_svi.py", f"{FLAGS} 2 --out disk/run/inner", without_rights)]
    finally:
        for path in (run, run / "checkpoints"):
            path.chmod(0o755)
    for code, said in ends:
        assert (code, "Permission denied. Use another --out." in one_sentence(said)) == (6, True)
    assert contents(run) == before


def test_a_checkpoint_that_may_not_be_read_is_a_checkpoint_error(run):
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    path = max((run / "checkpoints").glob("*.json"))
    path.chmod(0)
    found, complaints = checkpoint.newest(run / "checkpoints")
    assert (found.progress.epoch, "Permission denied" in complaints[0]) == (1, True)


def without_output():
    os.dup2(os.open("/dev/full", os.O_WRONLY), 1)
    return nullcontext()


def test_output_that_can_not_be_written_is_a_storage_error(folder):
    code, said = end("train_svi.py", f"{FLAGS} 2 --out run", without_output)
    assert (code, "No space left on device" in one_sentence(said)) == (6, True)
