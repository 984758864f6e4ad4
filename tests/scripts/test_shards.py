"""evaluate.py in shares: the bytes of one process, and what is refused when they are put together."""

import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cases import thorough
from finished import content, finished_run, flip
from scripted import exit_code
from shortened import quick_evaluations

from pyro_vae.experiment.run import manifest

SCRIPT = Path(__file__).parents[2] / "scripts" / "evaluate.py"
MAIN = runpy.run_path(str(SCRIPT))["main"]
QUICK = ["--num-samples", "26", "--elbo-samples", "3", "--latent-data", "150", "--posterior-draws", "0"]
FEW = ["--annealed-data", "0", "--escalated-draws", "0"]
ALL = ["--annealed-data", "130", "--num-temperatures", "1", "--num-chains", "2", "--escalated-draws", "5000"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Of 360 test data, which are three blocks, the last of them short."""
    folder = tmp_path_factory.mktemp("digits") / "run"
    return finished_run(folder, "digits", hidden=(8,), epochs=1, latent_dim=4)


@pytest.fixture(scope="module")
def two(run, tmp_path_factory):
    """The folder of a report with two shards and nothing else."""
    folder = tmp_path_factory.mktemp("two")
    assert [evaluate(run, "--out", folder, "--shard", f"{i}/2") for i in (1, 0)] == [0, 0]
    return folder


@pytest.fixture
def copy(two, tmp_path):
    return Path(shutil.copytree(two, tmp_path / "copy"))


def evaluate(*arguments):
    """Runs the script here; returns its exit code."""
    return exit_code(MAIN, [*QUICK, *FEW, *arguments])


def files(folder):
    """Every file of a report but the one with the times in it, by name, with its digest."""
    return {name: sha for name, sha in content(folder).items() if "/" not in name and name != "timings.json"}


@pytest.mark.thorough
@pytest.mark.parametrize("numbers", [[3], *thorough([1, 2, 4])])
def test_any_number_of_shards_makes_the_bytes_of_one_process(numbers, run, tmp_path, monkeypatch):
    quick_evaluations(monkeypatch)
    assert evaluate(run, *ALL, "--out", tmp_path / "whole") == 0
    expected = files(tmp_path / "whole")
    assert len(expected) == 8
    for number in numbers:
        folder = tmp_path / str(number)
        assert [evaluate(run, *ALL, "--out", folder, "--shard", f"{i}/{number}") for i in range(number)] == [0] * number
        assert evaluate(run, *ALL, "--out", folder, "--merge") == 0
        assert files(folder) == expected
    found = json.loads((tmp_path / "whole" / "report.json").read_bytes())
    assert {row["datum"] // 128 for row in found["escalation"]["rows"]} >= {0, 1}  # of more than one block
    assert found["reference"]["num_data"] == found["simulated"]["num_data"] == 130  # of two blocks
    assert {"gaps", "latent"} <= found.keys()


@pytest.mark.thorough
def test_a_process_of_torchrun_writes_the_same_shard(run, two, tmp_path):
    about = {**os.environ, "RANK": "1", "WORLD_SIZE": "2", "PYTHONHASHSEED": "1"}
    command = [sys.executable, SCRIPT, run, *QUICK, *FEW, "--out", tmp_path]
    subprocess.run(list(map(str, command)), env=about, check=True, capture_output=True)
    expected = {name: sha for name, sha in content(two).items() if "shard-00001" in name}
    assert content(tmp_path) == expected
    assert len(expected) == 2


@pytest.mark.thorough
def test_a_shard_that_is_there_is_not_made_again_and_a_damaged_one_is(run, copy, capsys):
    before = content(copy)
    shard = copy / "shards" / "shard-00000-of-00002.safetensors"
    assert evaluate(run, "--out", copy, "--shard", "0/2") == 0
    assert "shard 0/2 is in" in (said := capsys.readouterr().out)
    assert "already" in said
    flip(shard, 4000)
    assert evaluate(run, "--out", copy, "--shard", "0/2") == 0
    assert "already" not in capsys.readouterr().out
    assert content(copy) == before


def test_of_a_job_that_was_killed_nothing_is_taken_for_a_shard(run, copy, capsys):
    before, shards = content(copy), copy / "shards"
    (shards / "shard-00001-of-00002.json").unlink()  # the tensors come first
    (shards / "shard-00001-of-00002.json.pyro_vae-partial").write_bytes(b"{")
    assert evaluate(run, "--out", copy, "--merge") == 4
    assert "lacks shard 1/2: compute it with --shard 1/2, then --merge again" in capsys.readouterr().err
    assert evaluate(run, "--out", copy, "--shard", "1/2") == 0
    assert content(copy) == before


def damaged(shards):
    flip(shards / "shard-00001-of-00002.safetensors", 4000)


def altered(shards):
    path = shards / "shard-00000-of-00002.json"
    path.write_bytes(path.read_bytes().replace(b'"num_data": 360', b'"num_data": 361'))


def copied(shards):
    for kind in ("json", "safetensors"):
        shutil.copy(shards / f"shard-00000-of-00002.{kind}", shards / f"shard-00001-of-00002.{kind}")


def copied_and_renamed_inside(shards):
    copied(shards)
    path = shards / "shard-00001-of-00002.json"
    body = manifest.read(shards / "shard-00000-of-00002.json")
    body["tensors"]["file"] = "shard-00001-of-00002.safetensors"
    path.write_bytes(manifest.sealed(body))


def of_three(shards):
    shutil.copy(shards / "shard-00000-of-00002.json", shards / "shard-00000-of-00003.json")


def gone(shards):
    for path in shards.iterdir():
        path.unlink()


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (damaged, "shard-00001-of-00002.safetensors is damaged: SHA-256 should be"),
        (altered, "shard-00000-of-00002.json was altered"),
        (copied, "shard-00001-of-00002.json is a copy of shard 0/2: remove it"),
        (copied_and_renamed_inside, "shard-00001-of-00002.json is a copy of shard 0/2: remove it"),
        (of_three, "holds shards of 2 and of 3, which overlap"),
        (gone, "holds no shards: compute them with pyro-vae evaluate"),
    ],
)
def test_shards_that_are_not_whole_are_refused(run, copy, capsys, wrong, sentence):
    wrong(copy / "shards")
    assert evaluate(run, "--out", copy, "--merge") == 4
    assert sentence in capsys.readouterr().err
    assert not (copy / "report.json").exists()


def test_shards_of_something_else_are_refused(run, copy, tmp_path, capsys, monkeypatch):
    assert evaluate(run, "--out", copy, "--merge", "--elbo-samples", "5") == 2
    assert "was made with elbo_samples = 3, and this command says elbo_samples = 5" in capsys.readouterr().err
    assert evaluate(run, "--out", copy, "--merge", "--threads", "2") == 2
    assert "was made with threads = 1, and this command says threads = 2" in capsys.readouterr().err
    seed = finished_run(tmp_path / "seed", "digits", hidden=(8,), epochs=1, latent_dim=4, seed=1)
    assert evaluate(seed, "--out", copy, "--merge") == 4
    assert "is of another run: it has seed = 0, this evaluation seed = 1" in capsys.readouterr().err
    longer = finished_run(tmp_path / "longer", "digits", hidden=(8,), epochs=1, latent_dim=4, lr=0.02)
    (longer / "config.json").write_bytes((run / "config.json").read_bytes())
    assert evaluate(longer, "--out", copy, "--merge") == 4
    assert "is of another run: it has lr = 0.01, this evaluation lr = 0.02" in capsys.readouterr().err
    monkeypatch.setattr("pyro_vae.experiment.run.provenance.version", lambda name: "9.9")
    assert evaluate(run, "--out", copy, "--merge") == 4
    assert "is of other versions: it has" in capsys.readouterr().err


def test_mistakes_are_sentences(run, capsys):
    assert evaluate(run, "--shard", "2/2") == 2
    assert "i must be within 0 ... n - 1; got 2/2" in capsys.readouterr().err
    assert evaluate(run, "--shard", "0/2", "--merge") == 2
    assert "--shard computes a share, --merge joins all shares" in capsys.readouterr().err
