"""A program of a user's own members in the other commands: compared, shared, swept, refitted, ablated."""

import csv
import json
import re
import runpy
import shlex
import shutil
import sys
from pathlib import Path

import own_file
import pytest
from cases import all_but
from scripted import exit_code, save_tiny

import pyro_vae as pv
from pyro_vae.cli import own_code
from pyro_vae.errors import UsageError

ROOT = Path(__file__).parents[2]
FEW = ["--test-samples", "10", "--elbo-samples", "5", "--epochs", "2"]
SMALL = ["--hidden", "8", "--latent-dim", "2", *FEW]
PRIOR = ["--prior", "code/horseshoe.py:Horseshoe"]
LIKELIHOOD = ["--likelihood", "code/horseshoe.py:Cauchy"]
GAMMA = ["--likelihood-args", '{"gamma": 0.2}']
NETWORK = ["--network", "code/horseshoe.py:Encoder,decoder"]
OWN = [*PRIOR, *LIKELIHOOD, *NETWORK]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch, request):
    if "printed" not in request.node.name:  # whose evaluation puts true pictures into its report
        request.getfixturevalue("sketched")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(own_code, "_files", {})
    monkeypatch.delitem(sys.modules, "horseshoe", raising=False)
    (tmp_path / "code").mkdir()
    own_file.write(tmp_path / "code")
    save_tiny()


def script(name, *arguments):
    """Runs a script here; returns its exit code."""
    return exit_code(runpy.run_path(str(ROOT / "scripts" / f"{name}.py"))["main"], arguments)


def train(*arguments):
    return script("train_svi", "--dataset", "tiny.npy", *SMALL, *arguments)


def texts(folder):
    """All that its text files say."""
    return "\n".join(path.read_text() for path in folder.iterdir() if path.suffix in (".json", ".md", ".txt"))


@pytest.mark.thorough
def test_it_is_compared_with_the_standard_prior_shared_and_loaded_elsewhere(tmp_path, capsys, monkeypatch):
    assert train("--out", "own", *OWN, *GAMMA, "--no-check", "--no-test") == 0
    assert "train --prior code/horseshoe.py:Horseshoe --likelihood" in capsys.readouterr().out
    assert train("--out", "standard", *LIKELIHOOD, *GAMMA, *NETWORK, "--no-check", "--no-test") == 0

    assert script("compare", "own", "standard", *LIKELIHOOD, *NETWORK, "--out", "pair") == 2
    assert "error: own: the prior is code of your own" in capsys.readouterr().err
    assert not Path("pair").exists()
    assert script("compare", "own", "standard", *OWN, "--num-samples", "10", "--out", "pair") == 0
    groups = json.loads(Path("pair/comparison.json").read_text())["groups"]
    assert {group["label"] for group in groups} == {"prior=Horseshoe", "prior=standard"}

    assert script("share", "own", "--out", "shared", *OWN) == 0
    assert json.loads(Path("shared/config.json").read_text())["own"]["prior"]["name"] == "horseshoe.py:Horseshoe"
    assert not re.search(rf"code/|{tmp_path}", texts(Path("shared")))
    shutil.move("shared", "there/shared")
    own_file.write(tmp_path / "there")
    (line,) = re.findall(r"^vae = pv.load.*$", Path("there/shared/README.md").read_text(), re.MULTILINE)
    (named,) = re.findall(r"^from horseshoe import .*$", Path("there/shared/README.md").read_text(), re.MULTILINE)
    monkeypatch.chdir("there")
    monkeypatch.delitem(sys.modules, "horseshoe")
    monkeypatch.syspath_prepend(tmp_path / "there")
    loaded = {"pv": pv}
    exec(f"{named}\n{line}".replace("PATH OF THIS FOLDER", "shared"), loaded)  # noqa: S102
    assert loaded["vae"].generate(2).shape == (2, 1, 4, 4)
    assert loaded["vae"].likelihood.gamma == 0.2
    with pytest.raises(UsageError, match="the prior, likelihood and network are code of your own"):
        pv.load("shared")


@pytest.mark.slow
def test_a_sweep_names_it_by_its_class_and_goes_on_from_another_folder(tmp_path, capsys, monkeypatch):
    flags = ["--dataset", str(tmp_path / "tiny.npy"), *SMALL, "--jobs", "2"]
    grids = [
        "--grid",
        "prior=standard,{}horseshoe.py:Horseshoe",
        "--grid",
        "network={}horseshoe.py:Encoder,decoder,mlp",
    ]
    assert script("sweep", *flags, *(word.format("code/") for word in grids), "--out", "sweep") == 0
    with Path("sweep/table.csv").open() as file:
        named = {row["setting"] for row in csv.DictReader(file)}
    assert "prior=Horseshoe,network=Encoder-decoder" in named
    assert len(named) == 4
    first = Path("sweep/prior=Horseshoe,network=mlp,seed=0/train.log").read_text().splitlines()[0]
    assert f"--prior {tmp_path}/code/horseshoe.py:Horseshoe " in first
    assert " --no-check " in first
    shutil.rmtree("sweep/prior=Horseshoe,network=mlp,seed=0")
    own_file.write(tmp_path / "code", more="\n# another thought\n")
    monkeypatch.chdir(tmp_path / "code")
    capsys.readouterr()
    assert script("sweep", *flags, *(word.format("") for word in grids), "--out", "../sweep") == 0
    (told,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning: ")]
    assert "horseshoe.py:Horseshoe" in told
    assert "have changed since they were trained" in told
    assert Path("../sweep/prior=Horseshoe,network=mlp,seed=0/run.json").exists()


@pytest.mark.slow
def test_a_sweep_over_arguments(tmp_path):
    grid = 'prior_args={"tau": 0.5},{"tau": 2, "quantiles": 5}'
    assert script("sweep", "--dataset", "tiny.npy", *SMALL, *PRIOR, "--grid", grid, "--out", "sweep") == 0
    assert {path.name for path in Path("sweep").glob("prior*")} == {
        "prior_args=tau=0.5,seed=0",
        "prior_args=quantiles=5,tau=2,seed=0",
    }


@pytest.mark.thorough
def test_a_prior_is_refitted_to_one_of_ones_own_and_from_one(capsys):
    assert train("--out", "own", *OWN, *GAMMA) == 0
    few = ["--epochs", "1", "--latent-data", "20", "--latent-samples", "3"]
    assert script("refit_prior", "own", "--prior", "vamp", *LIKELIHOOD, *NETWORK) == 2
    assert "name it with --old-prior horseshoe.py:Horseshoe" in capsys.readouterr().err
    tau = ["--prior-args", '{"tau": 3}']
    old = ["--old-prior", *PRIOR[1:], *LIKELIHOOD, *NETWORK]
    assert script("refit_prior", "own", *PRIOR, *tau, *old, *few) == 0
    assert json.loads(Path("own-Horseshoe/config.json").read_text())["prior_args"] == '{"tau": 3}'
    assert script("refit_prior", "own", "--prior", "vamp", "--num-components", "5", *old, *few) == 0
    assert script("compare", "own", "own-Horseshoe", "own-vamp", *OWN, "--num-samples", "10", "--out", "all") == 0


@pytest.mark.thorough
def test_a_loss_is_ablated(capsys):
    few = ["--latent-data", "20", "--latent-samples", "3"]
    flags = ["--dataset", "tiny.npy", *SMALL, *OWN, *GAMMA, *few, "--out", "ablation"]
    assert script("loss_ablation", *flags) == 0
    assert script("loss_ablation", *flags, "--resume") == 0
    assert "is finished: skipped" in capsys.readouterr().out


@pytest.mark.thorough
def test_commands_that_are_printed_can_be_given_again(capsys):
    assert train("--out", "own", *OWN, *GAMMA, "--no-test") == 0
    again = re.search(r"trained, not tested: pyro-vae train (.*) reports on", capsys.readouterr().out)
    assert script("train_svi", *shlex.split(again[1])) == 0
    line = re.search(r"these numbers: pyro-vae (\w+) (.*)", capsys.readouterr().out)
    few = ["--num-samples", "10", "--elbo-samples", "5", "--annealed-data", "0"]
    assert script(line[1], *shlex.split(line[2]), "--merge") == 4
    shard = re.search(r"compute them with pyro-vae (\w+) (.*), then with 1/2", capsys.readouterr().err)
    for i in "01":
        assert script(shard[1], *shlex.split(shard[2].replace("0/2", f"{i}/2")), *few) == 0
    assert script(line[1], *shlex.split(line[2]), *few, "--merge") == 0
    command = shlex.split(json.loads(Path("own/report.json").read_text())["run"]["command"])
    assert script("evaluate", *command[2:], "--out", "repeated") == 0


@pytest.mark.thorough
def test_runs_of_two_sources_of_one_name_are_not_pooled(tmp_path):
    assert train("--out", "first", *PRIOR, "--seed", "1") == 0
    (tmp_path / "other").mkdir()
    own_file.write(tmp_path / "other", more="\n# another thought\n")
    other = ["--prior", "other/horseshoe.py:Horseshoe"]
    assert train("--out", "second", *other, "--seed", "2") == 0
    assert script("compare", "first", "second", *PRIOR, *other, "--num-samples", "10", "--out", "pair") == 0
    assert len(json.loads(Path("pair/comparison.json").read_text())["groups"]) == 2


NOTHING = ["--out", "nothing"]
DATA = ["--dataset", "tiny.npy", *SMALL]
WRONG = {
    "a class, swept": (["sweep", *DATA, "--grid", "prior=code/horseshoe.py:Horsesho"], "did you mean 'Horseshoe'?"),
    "a family, swept": (
        ["sweep", *DATA, "--grid", "prior=standard,code/horseshoe.py:Cauchy"],
        "Cauchy of horseshoe.py is not a prior but a likelihood",
    ),
    "a contract, swept": (
        ["sweep", *DATA, "--grid", "prior=standard,code/horseshoe.py:Uncorrected"],
        "fails the contract of its family, in integral",
    ),
    "one class twice": (
        ["sweep", *DATA, "--grid", "prior=code/horseshoe.py:Horseshoe,./code/horseshoe.py:Horseshoe"],
        "prior=Horseshoe is in the grids twice",
    ),
    "a file, ablated": (["loss_ablation", *DATA, "--prior", "none.py:Horseshoe"], "there is no file none.py"),
    "a contract, ablated": (["loss_ablation", *DATA, "--prior", "code/horseshoe.py:Uncorrected"], "fails the contract"),
}


@pytest.mark.parametrize("name", all_but({"one class twice"}, WRONG))
def test_what_is_wrong_is_said_before_there_is_a_folder(name, capsys):
    line, words = WRONG[name]
    assert script(*line, *NOTHING) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("error: ")
    assert words in said
    assert not Path("nothing").exists()


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("line", "words"),
    [
        (["compare", "own", "plain", *OWN], "own: the posterior is code of your own"),
        (["share", "own"], "the posterior is code of your own"),
        (["share", "plain", *PRIOR], "belongs to none of the runs, whose prior is standard"),
        (["refit_prior", "plain", "--prior", "code/horseshoe.py:Horseshoes"], "did you mean 'Horseshoe'?"),
        (["refit_prior", "plain", *PRIOR, "--prior-args", '{"t": 1}'], "unknown argument of horseshoe.py:Horseshoe"),
        (["refit_prior", "plain", "--prior", "code/horseshoe.py:Uncorrected"], "no parameters to fit"),
    ],
)
def test_what_is_wrong_with_a_look_back_is_said(line, words, capsys):
    assert train("--out", "own", "--posterior", "code/horseshoe.py:LaplacePosterior") == 0
    assert train("--out", "plain") == 0
    capsys.readouterr()
    assert script(*line, *NOTHING) == 2
    said = capsys.readouterr().err
    assert said.splitlines()[-1].startswith("error: ")
    assert words in said
    assert not Path("nothing").exists()
