"""A disk that is full, read-only or forbidden: exit 6, one sentence, and what was kept stays as it was."""

import os
import resource
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from scripted import save_tiny

import pyro_vae as pv
from pyro_vae.experiment.run import checkpoint

SCRIPTS = Path(__file__).parents[2] / "scripts"
PYTHON = f"{sys.executable} {SCRIPTS}"
FLAGS = (
    "--dataset tiny.npy --hidden 8 --latent-dim 2 --batch-size 16 --test-samples 20 --elbo-samples 5 --kl-warmup 2"
    " --epochs"
)


def allowed(*command):
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.fixture
def namespace():
    """A shell with mounts of its own."""
    prefix = ["unshare", "-rm", "sh", "-c"]
    if shutil.which("unshare") is None or not allowed(*prefix, "mount -t tmpfs none /mnt"):
        pytest.skip("file systems can not be mounted here")
    return prefix


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


def shell(command, **options):
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


def one_sentence(err):
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    return err


# KiB: training stops at a checkpoint, and at a picture; the whole run takes some 140, and slow tests go through them.
SIZES = [48, 120]


@pytest.mark.parametrize("size", [*SIZES, *(pytest.param(i, marks=pytest.mark.slow) for i in range(12, 136, 8))])
def test_a_full_disk_ends_training_with_what_was_kept_intact(namespace, whole, folder, size):
    command = f"mount -t tmpfs -o size={size}k none disk; {PYTHON}/train_svi.py {FLAGS} 6 --out disk/run; code=$?"
    end = shell([*namespace, f"{command}; cp -r disk/run saved; cp -r disk/run again; exit $code"])
    sentence = one_sentence(end.stderr)
    assert (end.returncode, "No space left on device. Free some space." in sentence) == (6, True)
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
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


@pytest.mark.parametrize("size", [3_000, pytest.param(12_000, marks=pytest.mark.slow)])
def test_a_bound_on_the_size_of_files_is_named(folder, size):
    command = [sys.executable, SCRIPTS / "train_svi.py", *f"{FLAGS} 40 --out run".split()]
    end = shell(command, preexec_fn=limited(size))
    assert (end.returncode, "File too large" in one_sentence(end.stderr)) == (6, True)
    assert all(checkpoint.read(path) for path in checkpoint.manifests(folder / "run" / "checkpoints"))


@pytest.fixture
def run(folder):
    """A run that has two more epochs to go, whole and without a report."""
    train(f"{FLAGS} 2 --lr-schedule constant --out disk/run")
    return folder / "disk" / "run"


def contents(run):
    return {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


RESUME = f"{PYTHON}/train_svi.py --out disk/run --resume --epochs 4"
EVALUATE = (
    f"{PYTHON}/evaluate.py disk/run --num-samples 20 --elbo-samples 5 --annealed-data 0 --latent-data 20"
    " --posterior-draws 0 --escalated-draws 0"
)


def test_a_read_only_run_can_be_read_and_not_written(namespace, run):
    before = contents(run)
    for command, code, words in (
        (RESUME, 6, "Read-only file system. Use another --out."),
        (EVALUATE, 6, "Read-only file system. Use another --out."),
        (f"{EVALUATE} --out elsewhere", 0, ""),
    ):
        end = shell([*namespace, f"mount --bind disk disk; mount -o remount,bind,ro disk; {command}"])
        assert end.returncode == code, end.stderr
        assert words in (one_sentence(end.stderr) if code else end.stderr)
    assert contents(run) == before
    assert Path("elsewhere/report.html").exists()


def test_a_run_without_permission_is_named(run):
    prefix = []
    if os.geteuid() == 0:  # root is forbidden nothing, unless it gives that up
        prefix = ["setpriv", "--inh-caps=-all", "--bounding-set=-all"]
        if shutil.which("setpriv") is None or not allowed(*prefix, "true"):
            pytest.skip("root can not give up its rights here")
    before = contents(run)
    for path in (run, run / "checkpoints"):
        path.chmod(0o555)
    try:
        end = shell([*prefix, "sh", "-c", RESUME])
        new = shell([*prefix, "sh", "-c", f"{PYTHON}/train_svi.py {FLAGS} 2 --out disk/run/inner"])
    finally:
        for path in (run, run / "checkpoints"):
            path.chmod(0o755)
    for process in (end, new):
        assert process.returncode == 6, process.stderr
        assert "Permission denied. Use another --out." in one_sentence(process.stderr)
    assert contents(run) == before


def test_a_checkpoint_that_may_not_be_read_is_a_checkpoint_error(run):
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    path = max((run / "checkpoints").glob("*.json"))
    path.chmod(0)
    found, complaints = checkpoint.newest(run / "checkpoints")
    assert (found.progress.epoch, "Permission denied" in complaints[0]) == (1, True)


def test_output_that_can_not_be_written_is_a_storage_error(folder):
    with Path("/dev/full").open("w") as full:
        end = subprocess.run(
            [sys.executable, SCRIPTS / "train_svi.py", *f"{FLAGS} 2 --out run".split()],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert (end.returncode, "No space left on device" in one_sentence(end.stderr)) == (6, True)
    assert "Traceback" not in end.stderr
