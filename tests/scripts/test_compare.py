"""compare.py from outside: exit codes, sentences, files, and that it leaves the runs as they are."""

import json
import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from finished import content, finished_run, images
from scripted import exit_code

SCRIPT = Path(__file__).parents[2] / "scripts" / "compare.py"
MAIN = runpy.run_path(str(SCRIPT))["main"]
FEW = ["--num-samples", "30"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two seeds of two priors, a conditional one, and one on other data."""
    folder = tmp_path_factory.mktemp("runs")
    data, other = images(folder / "grey.npz"), images(folder / "other.npz", size=60, seed=1)
    for prior in ("standard", "laplace"):
        for seed in range(2):
            finished_run(folder / f"{prior}-{seed}", data, prior=prior, seed=seed)
    finished_run(folder / "labels", data, conditional=True)
    finished_run(folder / "other", other)
    return folder


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def compare(*arguments):
    """Runs the script here; returns its exit code."""
    return exit_code(MAIN, [*FEW, *arguments])


def test_it_compares_prints_and_writes(runs, capsys):
    folders = [runs / f"{prior}-{seed}" for prior in ("standard", "laplace") for seed in range(2)]
    before, state = content(runs), torch.get_rng_state()
    assert compare(*folders, "--reference", "first") == 0
    said = capsys.readouterr().out
    (out,) = Path("runs").iterdir()
    assert re.fullmatch(r"\d{8}-\d{6}-comparison", out.name)
    assert said.endswith(f"In {out}: comparison.json, .txt, .md, .csv, .png.\n")
    assert (out / "comparison.txt").read_text() in said
    progress = said.splitlines()[:4]
    for i, (row, folder) in enumerate(zip(progress, folders, strict=True), 1):
        assert re.fullmatch(rf"{i}/4  {folder.name}: log p\(x\) .* \(K = 30\) \(\d+ s\)", row)
    found = json.loads((out / "comparison.json").read_bytes())
    assert sorted(row["label"] for row in found["groups"]) == ["prior=laplace", "prior=standard"]
    assert found["reference"]["label"] == "prior=standard"
    assert [row["seeds"] for row in found["groups"]] == [[0, 1], [0, 1]]
    assert (out / "comparison.png").read_bytes().startswith(b"\x89PNG")
    assert content(runs) == before
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.thorough
def test_the_same_command_gives_the_same_bytes_and_another_seed_others(runs):
    folders = runs / "standard-0", runs / "laplace-0"
    for name, flags in (("a", []), ("b", []), ("c", ["--seed", 1])):
        assert compare(*folders, "--out", name, *flags) == 0
    first = content("a")
    assert content("b") == first
    assert content("c")["comparison.json"] != first["comparison.json"]
    assert compare(*folders, "--out", "a") == 0
    assert content("a") == first


def test_runs_that_were_not_tested_alike_are_refused_at_once_and_can_be_forced(runs, capsys):
    folders = runs / "standard-0", runs / "labels"
    assert compare(*folders, "--out", "refused") == 2
    said = capsys.readouterr().err
    assert said.startswith("error: these runs were not tested in the same way:\n  quantity: ")
    assert "log p(x) (standard-0) against log p(x|y) (labels)" in said
    assert not Path("refused").exists()
    assert compare(*folders, "--force", "--out", "forced") == 0
    text = capsys.readouterr().out.split("\n\n", 1)[1]
    assert text.startswith("FORCED")
    assert "quantity: log p(x) (standard-0) against log p(x|y) (labels)" in text


def test_other_test_data_are_refused_and_when_forced_not_paired(runs, capsys):
    folders = runs / "standard-0", runs / "other"
    assert compare(*folders) == 2
    said = capsys.readouterr().err
    for what in ("files", "contents", "split", "test data"):
        assert f"\n  {what}: " in said
    assert "all 16 (standard-0) against all 12 (other)" in said
    assert compare(*folders, "--force", "--out", "forced") == 0
    assert "* unpaired, since the test data are not the same" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["@standard-0"], 2, "two runs or more"),
        (["@standard-0", "@standard-0"], 2, "is named twice"),
        (["@standard-0", "@nothing"], 4, "holds no trained run"),
        (["@standard-0", "@labels", "--reference", "x"], 2, "best, first or one of the runs (@standard-0, @labels)"),
        (["@standard-0", "@laplace-0", "--num-samples", "0"], 2, "--num-samples must be at least 1; got 0"),
        (["@standard-0", "@laplace-0", "--num-samples", "x"], 2, "--num-samples takes whole numbers; got"),
        (["@standard-0", "@laplace-0", "--test-data", "-1"], 2, "--test-data must be at least 0; got -1"),
        (["@standard-0", "@laplace-0", "--data-dir", "nowhere"], 3, "grey.npz"),
        (["@standard-0", "@laplace-0", "--out", "standard.txt/x"], 6, "cannot write"),
        (["@standard-0", "@laplace-0", "--forced"], 2, "did you mean --force?"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_sentence_and_a_code(runs, capsys, arguments, code, words):
    Path("standard.txt").write_text("a file")
    assert compare(*(argument.replace("@", f"{runs}/") for argument in arguments)) == code
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert words.replace("@", f"{runs}/") in said


def test_data_that_moved_are_found(runs, tmp_path):
    Path("moved").mkdir()
    with np.load(runs / "grey.npz") as grey:
        np.savez("moved/grey.npz", **grey)
    folders = [finished_run(tmp_path / str(seed), "moved/grey.npz", seed=seed) for seed in range(2)]
    Path("moved").rename("elsewhere")
    assert compare(*folders, "--out", "lost") == 3
    assert compare(*folders, "--data-dir", "elsewhere", "--test-data", 5, "--out", "found") == 0
    found = json.loads(Path("found/comparison.json").read_bytes())
    assert found["protocol"]["test data"] == "5 of 16, drawn at random"
    assert found["groups"][0]["label"] == "seeds 0, 1"
    assert found["groups"][0]["log_likelihood"]["num_data"] == 5


@pytest.mark.parametrize("arguments", [["--help"], ["--forced"]])
def test_help_and_mistakes_do_not_wait_for_torch(arguments):
    asked = subprocess.run(
        [sys.executable, "-X", "importtime", SCRIPT, *arguments], capture_output=True, text=True, check=False
    )
    loaded = set(re.findall(r"^import time:.*\| +(\w+)", asked.stderr, re.MULTILINE))
    assert asked.returncode == (0 if arguments == ["--help"] else 2)
    assert loaded.isdisjoint({"torch", "pyro", "numpy", "scipy", "matplotlib"})
