"""Each cure that a sentence names is followed, and works, in whatever command says it."""

import itertools
import json
import runpy
import shutil
from pathlib import Path

import numpy as np
import pytest
from cases import all_but, thorough
from finished import finished_run, images
from scripted import exit_code

from pyro_vae.experiment.run import manifest
from pyro_vae.selfcheck import ladder

SCRIPTS = Path(__file__).parents[2] / "scripts"
FEW = ["--num-samples", "20", "--elbo-samples", "5", "--annealed-data", "0", "--latent-data", "20"]
FEW += ["--posterior-draws", "0", "--escalated-draws", "0"]
ANEW = ["--dataset", "grey.npz", "--hidden", "8", "--latent-dim", "2", "--epochs", "1", "--test-samples", "20"]
ANEW += ["--elbo-samples", "5"]
READERS = {
    "evaluate": ["run", *FEW, "--out", "elsewhere"],
    "sample": ["run", "--only", "samples", "--out", "elsewhere"],
    "compare": ["run", "other", "--num-samples", "20", "--out", "elsewhere"],
    "refit_prior": ["run", "--prior", "mixture", "--out", "elsewhere"],
    "share": ["run", "--out", "elsewhere"],
    "train_svi": ["--out", "run", "--resume", "--test-samples", "20", "--elbo-samples", "5"],
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name in ("run", "other"):
            finished_run(name, images("grey.npz"), lr_schedule="constant")
    return folder


@pytest.fixture(autouse=True)
def here(runs, tmp_path, monkeypatch):
    monkeypatch.chdir(shutil.copytree(runs, tmp_path / "here"))


def script(name, *arguments):
    return exit_code(runpy.run_path(str(SCRIPTS / f"{name}.py"))["main"], arguments)


def edit(name, change):
    path = Path("run", name)
    path.write_text(change(path.read_text()))


def other_data():
    with np.load("grey.npz") as arrays:
        x, y = arrays["x"], arrays["y"]
    np.savez("grey.npz", x=255 - x, y=y)


WRONG = {
    "run.json": (lambda: edit("run.json", lambda text: text[:-9]), "Put a copy of it back, or train again"),
    "history.jsonl": (lambda: edit("history.jsonl", lambda text: "x" + text), "Put a copy of it back, or train again"),
    "lines": (lambda: edit("history.jsonl", lambda text: ""), "Put a copy of it back, or train again"),
    "checkpoints": (
        lambda: [path.write_bytes(b"{") for path in Path("run/checkpoints").glob("*.json")],
        "Put a copy of one back, or train again",
    ),
    "data": (other_data, "Put those back, or train again"),
}
NOT_READ = {("sample", "data"), ("share", "history.jsonl"), ("share", "lines"), ("share", "data"), ("compare", "lines")}


@pytest.mark.parametrize(("name", "what"), all_but([("sample", "history.jsonl")], itertools.product(READERS, WRONG)))
def test_a_run_that_is_read_is_put_back_or_trained_anew(runs, capsys, name, what):
    damage, cure = WRONG[what]
    damage()
    if (name, what) in NOT_READ:
        pytest.skip("this command does not look")
    assert script(name, *READERS[name]) == 4
    said = capsys.readouterr().err
    assert f"{cure} in another folder" in said
    assert "--" not in said
    assert "`" not in said
    assert script("train_svi", *ANEW, "--out", "anew") == 0
    shutil.copytree(runs, ".", dirs_exist_ok=True)
    assert script(name, *READERS[name]) == 0


@pytest.mark.thorough
def test_a_finished_run_is_mended_before_it_is_shared(capsys):
    assert script("train_svi", *ANEW, "--epochs", "2", "--out", "run2") == 0
    newest = max(Path("run2/checkpoints").glob("*.json"))
    newest.write_bytes(b"{")
    assert script("share", "run2", "--out", "elsewhere") == 4
    cure = "Repair the run first: remove run2/report.json, then pyro-vae train --out run2 --resume"
    assert cure in capsys.readouterr().err
    Path("run2/report.json").unlink()
    assert script("train_svi", "--out", "run2", "--resume") == 0
    assert script("share", "run2", "--out", "elsewhere") == 0


@pytest.mark.thorough
def test_shards_are_made_where_they_are_looked_for(capsys):
    assert script("evaluate", *READERS["evaluate"], "--merge") == 4
    assert "pyro-vae evaluate run --out elsewhere --shard 0/2, then with 1/2" in capsys.readouterr().err
    assert script("evaluate", *READERS["evaluate"], "--shard", "0/1") == 0
    assert script("evaluate", *READERS["evaluate"], "--merge") == 0


@pytest.mark.parametrize("name", [*thorough("evaluate"), "compare"])
@pytest.mark.parametrize("place", ["taken", *thorough("taken/below")])
def test_a_place_that_can_not_be_written_is_said_before_the_work(capsys, name, place):
    Path("taken").touch()
    arguments = [place if word == "elsewhere" else word for word in READERS[name]]
    assert script(name, *arguments) == 6
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.endswith("Not a directory. Use another --out.\n")
    assert script(name, *READERS[name]) == 0


@pytest.mark.parametrize(("place", "why"), [("none/x.json", "No such file or directory"), ("run", "Is a directory")])
def test_selfcheck_tries_the_place_of_its_table_first(capsys, monkeypatch, place, why):
    monkeypatch.setattr(ladder, "check", lambda budget, seed: iter([]))
    assert script("selfcheck", "--json", place) == 6
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", f"error: cannot write {place}: {why}. Use another --json.\n")
    assert script("selfcheck", "--json", "x.json") == 0
    assert json.loads(Path("x.json").read_text())["ok"]


def test_a_flag_of_another_command_is_said_to_be_one(capsys):
    Path("none").mkdir()
    finished_run("digits", "digits", epochs=1)
    for path in Path("digits/checkpoints").glob("*.json"):
        body = manifest.read(path)
        body["config"]["dataset"] = "mnist"
        path.write_bytes(manifest.sealed(body))
    assert script("evaluate", "digits", *FEW, "--data-dir", "none") == 3
    assert "or pass --download of pyro-vae train" in capsys.readouterr().err
