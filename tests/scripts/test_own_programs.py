"""A program of a user's own members from the command line: trained, cut, looked at, and told where something is off."""

import json
import re
import runpy
import shlex
import shutil
from pathlib import Path

import fenced
import own_file
import pytest
from cases import all_but, thorough
from scripted import exit_code, save_tiny

import pyro_vae as pv
from pyro_vae.cli import own_code
from pyro_vae.cli.command_ending import exit_codes
from pyro_vae.command_lines import COMMANDS
from pyro_vae.errors import UsageError
from pyro_vae.experiment.config import Config
from pyro_vae.experiment.run.changes_on_resume import config_for_resume
from pyro_vae.experiment.run.run_folder import Run
from pyro_vae.experiment.run.trained_run import open_run
from pyro_vae.experiment.share.sharing import share
from pyro_vae.experiment.train import training
from pyro_vae.inference import ALONE

SCRIPTS = Path(__file__).parents[2] / "scripts"
SMALL = ["--hidden", "8", "--latent-dim", "2", "--test-samples", "20", "--elbo-samples", "5", "--epochs", "5"]
PRIOR = ["--prior", "horseshoe.py:Horseshoe"]
LIKELIHOOD = ["--likelihood", "horseshoe.py:Cauchy"]
NETWORK = ["--network", "horseshoe.py:Encoder,decoder"]
OWN = [*PRIOR, *LIKELIHOOD, *NETWORK]
ARGUMENTS = ["--prior-args", '{"tau": 0.5}', "--likelihood-args", '{"gamma": 0.2}']


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch, request):
    if "page" not in request.node.name:  # whose evaluation puts true pictures into its report
        request.getfixturevalue("sketched")
    monkeypatch.chdir(tmp_path)
    own_file.write(tmp_path)
    save_tiny()


def script(name, *arguments):
    """Runs a script here; returns its exit code."""
    return exit_code(runpy.run_path(str(SCRIPTS / f"{name}.py"))["main"], arguments)


def train(*arguments):
    return script("train_svi", "--dataset", "tiny.npy", *SMALL, *arguments)


def newest(run):
    """The newest checkpoint: manifest and tensors."""
    manifest = max((run / "checkpoints").glob("*.json"))
    return manifest.read_bytes(), manifest.with_suffix(".safetensors").read_bytes()


def cut(run, folder):
    """The folder as a kill after the third epoch leaves it."""
    shutil.copytree(run, folder)
    for path in [*folder.glob("report.*"), *(folder / "checkpoints").glob("epoch-0000[45].*")]:
        path.unlink()
    status = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**status, "status": "running"}))
    return folder


def test_a_program_of_ones_own_is_trained_taken_up_looked_at_and_loaded(tmp_path, capsys):
    whole = tmp_path / "whole"
    assert train("--out", whole, *OWN, *ARGUMENTS) == 0
    assert "parameter output_bias" not in capsys.readouterr().out
    about = json.loads((whole / "run.json").read_text())["own"]
    assert {family: entry["name"] for family, entry in about.items()} == {
        "prior": "horseshoe.py:Horseshoe",
        "likelihood": "horseshoe.py:Cauchy",
        "network": "horseshoe.py:Encoder,decoder",
    }
    assert json.loads(newest(whole)[0])["own"] == about

    again = cut(whole, tmp_path / "again")
    capsys.readouterr()
    assert script("train_svi", "--out", again, "--resume") == 2
    assert capsys.readouterr().err == (
        "error: the prior, likelihood and network are code of your own, which is not stored with the program: pass "
        "--prior horseshoe.py:Horseshoe, --likelihood horseshoe.py:Cauchy, "
        "--network horseshoe.py:Encoder,decoder\n"
    )
    assert script("train_svi", "--out", again, "--resume", *OWN) == 0
    assert newest(again) == newest(whole)
    assert (again / "report.json").read_bytes() == (whole / "report.json").read_bytes()
    assert script("train_svi", "--out", again, "--resume") == 0  # finished: its report needs no code

    assert script("sample", whole, *PRIOR) == 2
    assert "pass --likelihood horseshoe.py:Cauchy, --network" in capsys.readouterr().err
    assert script("sample", whole, *OWN, "--only", "samples") == 0
    few = ["--num-samples", "20", "--elbo-samples", "5"]
    assert script("score", whole, *OWN, *few, "--data", "tiny.npy", "--out", "scores.csv") == 0

    own = runpy.run_path("horseshoe.py")
    vae = pv.load(whole, prior=own["Horseshoe"], likelihood=own["Cauchy"], network=(own["Encoder"], own["decoder"]))
    assert type(vae.prior).__name__ == "Horseshoe"
    assert vae.likelihood.gamma == 0.2
    with pytest.raises(UsageError, match=r"pass `likelihood=Cauchy` of 'horseshoe\.py'$"):
        pv.load(whole, prior=own["Horseshoe"], network=(own["Encoder"], own["decoder"]))


@pytest.mark.thorough
def test_a_source_that_has_changed_is_warned_of(tmp_path, capsys, recwarn):
    assert train("--out", "run", *PRIOR) == 0
    cut(tmp_path / "run", tmp_path / "again")
    assert script("sample", "run", *PRIOR, "--only", "samples") == 0
    assert not [str(each.message) for each in recwarn if "has changed" in str(each.message)]
    own_file.write(tmp_path, more="\n# another thought\n")
    assert script("sample", "run", *PRIOR, "--only", "samples") == 0
    assert [str(each.message) for each in recwarn if "horseshoe.py:Horseshoe has changed" in str(each.message)]
    capsys.readouterr()
    assert script("train_svi", "--out", "again", "--resume", *PRIOR) == 0
    assert "warning: horseshoe.py:Horseshoe has changed since it was trained" in capsys.readouterr().err


@pytest.mark.thorough
def test_a_member_that_was_built_stands_in_for_a_class():
    assert train("--out", "run", *LIKELIHOOD, "--likelihood-args", '{"gamma": 0.2}') == 0
    own = runpy.run_path("horseshoe.py")
    likelihood = own["Cauchy"](pv.networks.MLP((2,), (1, 4, 4), hidden=(8,)), gamma=0.2)
    trained = open_run("run", likelihood=likelihood)
    assert trained.vae.likelihood is likelihood
    assert trained.config.own.likelihood.classes == (own["Cauchy"],)
    assert trained.data.train.fixed().shape == (42, 1, 4, 4)


WRONG = {
    "a contract": (["--prior", "horseshoe.py:Uncorrected"], "fails the contract of its family, in integral"),
    "an argument": ([*PRIOR, "--prior-args", '{"taus": 1}'], "unknown argument of horseshoe.py:Horseshoe 'taus'"),
    "a fact": ([*PRIOR, "--prior-args", '{"latent_dim": 1}'], "latent_dim of horseshoe.py:Horseshoe comes from"),
    "a value": (
        [*PRIOR, "--prior-args", '{"tau": "x"}'],
        """cannot be built from --prior-args '{"tau": "x"}': """,
    ),
    "none": (
        LIKELIHOOD,
        """Cauchy of horseshoe.py needs 'gamma', which has no default: give it, as in --""",
    ),
    "a shape": (["--network", "horseshoe.py:Encoder,Flat"], "p(x|z) is over data of shape (16,), but these have shape"),
}


@pytest.mark.parametrize("name", all_but({"a shape"}, WRONG))
def test_what_is_wrong_with_a_member_is_said_before_there_is_a_folder(name, capsys, tmp_path):
    flags, words = WRONG[name]
    assert train("--out", "run", *flags) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("error: ")
    assert words in said
    assert not (tmp_path / "run").exists()


def test_the_table_of_a_contract_that_fails_is_printed(capsys):
    assert train("--out", "run", "--prior", "horseshoe.py:Uncorrected") == 2
    assert not Path("run").exists()
    assert re.search(r"^  FAIL  integral +1\.\d+", capsys.readouterr().err, re.MULTILINE)


@pytest.mark.thorough
@pytest.mark.parametrize(
    "more",
    [
        ["--posterior", "horseshoe.py:LaplacePosterior"],
        ["--layers", "2", "--posterior", "horseshoe.py:LaplacePosterior", *PRIOR, "--objective", "trace_elbo"],
        ["--layers", "2", "--posterior", "horseshoe.py:LaplacePosterior", "--guide", "bottom_up", *NETWORK,
         "--objective", "trace_elbo"],
    ],
    ids=["posterior", "top-down", "bottom-up"],
)  # fmt: skip
def test_other_programs_of_ones_own_are_trained_and_opened(more):
    assert train("--out", "run", *more) == 0
    own = runpy.run_path("horseshoe.py")
    given = {"posterior": own["LaplacePosterior"], "prior": own["Horseshoe"]}
    given |= {"network": (own["Encoder"], own["decoder"])}
    families = [word.removeprefix("--") for word in more if word.removeprefix("--") in given]
    assert pv.load("run", **{family: given[family] for family in families}).generate(3).shape == (3, 1, 4, 4)


@pytest.mark.thorough
def test_the_commands_of_the_page_do_what_they_say_with_its_file(tmp_path):
    page = (SCRIPTS.parent / "docs" / "own_programs.md").read_text(encoding="utf-8")
    (tmp_path / "horseshoe.py").write_text(fenced.blocks(page, "python")[0], encoding="utf-8")
    lines = fenced.blocks(page, "console")[0].splitlines()
    assert len(lines) == 4
    for line in lines:
        _, command, *arguments = shlex.split(line)
        few = {"train": SMALL, "evaluate": ["--num-samples", "5", "--elbo-samples", "5", "--annealed-data", "0"]}
        name = Path(COMMANDS[command].script).stem
        assert script(name, *arguments, *few.get(command, ["--only", "samples"])) == 0


BAD_SHAPES = """

class Unbound(Horseshoe):
    def forward(self, y=None):
        return dist.Normal(self.loc, self.scale)


class UnboundPosterior(LaplacePosterior):
    def forward(self, x, y=None):
        return super().forward(x, y).base_dist


class UnboundCauchy(Cauchy):
    def forward(self, z, y=None):
        return super().forward(z, y).base_dist
"""


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (["--prior", "shapes.py:Unbound"], "end it in .to_event(1)"),
        *thorough(
            (["--posterior", "shapes.py:UnboundPosterior"], "end it in .to_event(1)"),
            (["--likelihood", "shapes.py:UnboundCauchy", "--likelihood-args", '{"gamma": 1}'], "p(x|z) is over"),
            (["--network", "shapes.py:Encoder,Flat"], "Flat"),
        ),
    ],
)
def test_shapes_are_looked_at_without_the_contract_too(line, words, capsys, tmp_path):
    own_file.write(tmp_path, "shapes.py", BAD_SHAPES)
    assert train("--out", "shapes", "--no-check", *line) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("error: ")
    assert words in said
    assert not Path("shapes").exists()


def test_a_wrong_member_at_a_resumption_is_answered_with_the_runs_own():
    Path("run").mkdir()
    Path("run/config.json").write_text(json.dumps(Config(prior="horseshoe.py:Horseshoe").to_dict()))
    wanted = Config(prior="horseshoe.py:Uncorrected")
    with pytest.raises(UsageError, match=r"not horseshoe\.py:Uncorrected: pass `prior=horseshoe\.py:Horseshoe`"):
        config_for_resume(Path("run"), wanted, {"prior"})
    with pytest.raises(UsageError, match="leave `lr` out"):
        config_for_resume(Path("run"), Config(lr=0.5), {"lr"})


@pytest.mark.thorough
def test_what_is_passed_for_a_run_is_the_class_of_its_name(caplog, tmp_path):
    (tmp_path / "w.pt").write_text("")
    own_file.write(
        tmp_path,
        more="\n\nclass Weighted(Horseshoe):\n    def __init__(self, latent_dim, weights):\n"
        "        super().__init__(latent_dim)\n\nAlias = Weighted\n",
    )
    weights = str(tmp_path / "w.pt")
    given = ["--prior", "horseshoe.py:Alias", "--prior-args", json.dumps({"weights": weights})]
    assert train("--out", "run", *given, "--network", "horseshoe.py:Encoder,decoder") == 0
    assert caplog.text.count("training starts where the decoder is") == 1
    again = cut(tmp_path / "run", tmp_path / "again")
    assert script("train_svi", "--out", again, "--resume", *given[:2], *NETWORK) == 0
    assert caplog.text.count("training starts where the decoder is") == 1
    own = runpy.run_path("horseshoe.py")
    networks = own["Encoder"], own["decoder"]
    with pytest.raises(
        UsageError, match=r"trained with Alias of 'horseshoe\.py', and Horseshoe is another class: pass"
    ):
        pv.load("run", prior=own["Horseshoe"], network=networks)
    with pytest.raises(UsageError, match="is a place, as commands take it: import the class"):
        pv.load("run", prior="horseshoe.py:Alias", network=networks)
    with pytest.raises(UsageError, match="and decoder is another class"):
        pv.load("run", prior=own["Weighted"](2, weights), network=(own["decoder"], own["Encoder"]))
    module = own_code.member(own_code.place("prior", "horseshoe.py:Alias")).classes[0]
    assert type(pv.load("run", prior=module, network=networks).prior) is module
    with pytest.warns(UserWarning, match="the shared files hold .*w.pt', the argument weights of `prior_args`"):
        share("run", "shared", prior=module, network=networks)


def test_an_interrupted_run_says_the_very_command_that_goes_on(capsys):
    run = Run(Path("runs/a"), Config(prior="horseshoe.py:Horseshoe"))
    told = training._told_how_to_go_on(run, ALONE, no_test=True)
    with pytest.raises(SystemExit) as left, exit_codes("all else", noted=True), told:
        raise SystemExit(130)
    assert left.value.code == 130
    again = "pyro-vae train --prior horseshoe.py:Horseshoe --out runs/a --resume --no-test"
    assert capsys.readouterr().err == f"interrupted: what was reached is kept; {again} goes on\n"
