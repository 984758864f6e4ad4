"""selfcheck.py, refit_prior.py and loss_ablation.py from outside: exit codes, sentences, files."""

import json
import runpy
import subprocess
import sys
from itertools import takewhile
from pathlib import Path

import pytest
from finished import make_run
from scripted import save_tiny

import pyro_vae as pv
from pyro_vae import evaluation
from pyro_vae.experiment.run.trained_run import open_run
from pyro_vae.selfcheck import ladder

pytestmark = pytest.mark.usefixtures("sketched")

SCRIPTS = Path(__file__).parents[2] / "scripts"
SMALL = ["--hidden", 8, "--latent-dim", 2, "--test-samples", 20, "--elbo-samples", 5, "--epochs", 2]


def run(script, *arguments):
    """Runs a script here; returns its exit code."""
    try:
        runpy.run_path(str(SCRIPTS / script))["main"]([*map(str, arguments)])
    except SystemExit as end:
        return int(end.code or 0)
    return 0


@pytest.mark.parametrize("script", ["selfcheck.py", "refit_prior.py", "loss_ablation.py", "train_svi.py"])
def test_help_answers_without_torch(script):
    code = (
        f"import runpy, sys; sys.argv = ['x', '--help']; runpy.run_path({str(SCRIPTS / script)!r}, run_name='__main__')"
    )
    check = f"try:\n    exec({code!r})\nexcept SystemExit:\n    sys.exit(40 + ('torch' in sys.modules))"
    found = subprocess.run([sys.executable, "-c", f"import sys\n{check}"], capture_output=True, text=True, check=False)
    assert found.returncode == 40, found.stderr
    assert "--seed" in found.stdout


# The ladder, cut to its first rows.


@pytest.fixture
def short(monkeypatch):
    budget = ladder.Budget(64, 4, 2, (2,), 10, 100, (50,), (4, 12, 12), 16)

    def check(_, seed):
        return takewhile(lambda row: "ais" not in row.estimator, ladder.linear_gaussian(2, budget, seed))

    monkeypatch.setattr(ladder, "check", check)
    monkeypatch.setattr(ladder, "grids", lambda target: iter(()))


@pytest.mark.thorough
def test_a_ladder_without_a_fault_ends_with_zero(short, capsys, tmp_path):
    assert run("selfcheck.py", "--json", tmp_path / "found.json") == 0
    out = capsys.readouterr().out
    assert "rung 1, linear-Gaussian, D = 2" in out
    assert "None of 5 rows is off." in out
    found = json.loads((tmp_path / "found.json").read_text())
    assert (found["ok"], found["seed"], len(found["rows"])) == (True, 0, 5)
    assert found["rows"][0]["estimator"] == "elbo, K = 10"


@pytest.mark.thorough
def test_a_planted_error_ends_with_its_code_and_its_name(short, capsys, tmp_path, monkeypatch):
    good = evaluation.iwae

    def planted(*args, **options):
        found = good(*args, **options)
        return pv.evaluation.Estimate(found.name, found.value + 0.1, found.value_error, found.num_samples)

    monkeypatch.setattr(evaluation, "iwae", planted)
    assert run("selfcheck.py", "--quick", "--json", tmp_path / "found.json") == 8
    out, err = capsys.readouterr()
    assert err == "error: 1 of 5 rows are off: iwae, K = 50\n"
    last = out.splitlines()[-1]
    assert last.startswith("OFF: iwae, K = 50 (rung 1, linear-Gaussian, D = 2): its mean is +0.")
    assert json.loads((tmp_path / "found.json").read_text())["ok"] is False


@pytest.mark.slow
def test_the_whole_ladder_as_a_user_runs_it():
    found = subprocess.run([sys.executable, SCRIPTS / "selfcheck.py"], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stderr) == (0, "")
    assert found.stdout.count("\nrung ") == 5


# Another prior.


def test_a_refitted_run_stands_beside_the_first_and_opens_like_any(tmp_path, capsys):
    make_run(tmp_path)
    flags = ["--prior", "mixture", "--num-components", 4, "--epochs", 3]
    assert run("refit_prior.py", tmp_path / "run", *flags) == 0
    out = capsys.readouterr().out
    assert "prior standard -> mixture, nats per datum" in out
    assert "training, 56 data, K = 4" in out or "training, " in out
    found = open_run(tmp_path / "run-mixture")
    assert (found.config.num_components, found.config.epochs, found.config.batch_size) == (4, 3, 20)
    assert type(pv.load(tmp_path / "run-mixture").prior) is pv.priors.MixtureOfNormals
    assert run("refit_prior.py", tmp_path / "run", *flags) == 2
    assert "run-mixture already holds a run: use another --out" in capsys.readouterr().err
    assert (
        run("refit_prior.py", tmp_path / "run-mixture", "--prior", "vamp", "--epochs", 1, "--out", tmp_path / "v") == 0
    )
    assert (tmp_path / "v" / "refit.txt").read_text() in capsys.readouterr().out


@pytest.mark.thorough
def test_a_check_that_fails_has_a_code_of_its_own(tmp_path, capsys, monkeypatch):
    make_run(tmp_path)
    good = evaluation.elbo_terms
    calls = []

    def planted(*args, **options):
        calls.append(0)
        found = good(*args, **options)
        value = found.reconstruction.value + 0.1 * len(calls)
        return found._replace(reconstruction=evaluation.Estimate("r", value, found.reconstruction.value_error, 4))

    monkeypatch.setattr(evaluation, "elbo_terms", planted)
    assert run("refit_prior.py", tmp_path / "run", "--prior", "diagonal", "--epochs", 1) == 8
    assert (
        "error: more than the prior has changed: test: the reconstruction changed, by 1.0e-01 nats at one datum"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        ([], 2, "name the new prior, e.g. --prior vamp"),
        (["--prior", "standard"], 2, "has no parameters to fit"),
        (["--prior", "vampp"], 2, "did you mean 'vamp'"),
        (["--prior", "vamp", "--latent-samples", "1"], 2, "--latent-samples must be at least 2"),
        (["--prior", "vamp", "--num-components", "0"], 2, "--num-components must be above 0"),
    ],
)
def test_mistakes_are_one_sentence(tmp_path, capsys, flags, code, words):
    make_run(tmp_path)
    assert run("refit_prior.py", tmp_path / "run", *flags) == code
    err = capsys.readouterr().err
    assert words in err
    assert err.count("\n") == 1
    assert not list(tmp_path.glob("run-*"))


def test_a_flag_without_effect_is_named_and_no_run_is_no_run(tmp_path, capsys):
    make_run(tmp_path)
    assert run("refit_prior.py", tmp_path / "run", "--prior", "diagonal", "--num-components", 7, "--epochs", 1) == 0
    assert "note: num_components has no effect" in capsys.readouterr().err
    assert run("refit_prior.py", tmp_path / "nothing", "--prior", "vamp") == 4


# Three losses.


@pytest.mark.thorough
def test_three_losses_side_by_side_and_again(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_tiny()
    flags = ["--dataset", "tiny.npy", *SMALL, "--latent-samples", 2]
    assert run("loss_ablation.py", *flags, "--out", "out") == 0
    out = capsys.readouterr().out
    assert "only reconstruction" in out
    assert {path.name for path in Path("out").iterdir()} == {
        "only-reconstruction", "only-kl", "both", "ablation.txt", "ablation.json", "ablation.csv", "ablation.png",
    }  # fmt: skip
    table = Path("out/ablation.txt").read_text()
    assert table in out
    assert run("loss_ablation.py", "--out", "out", "--resume", "--latent-samples", 2) == 0
    out = capsys.readouterr().out
    assert out.count("is finished: skipped") == 3
    assert run("loss_ablation.py", *flags, "--out", "out") == 2
    assert run("loss_ablation.py", *flags) == 2
    assert "add --out, e.g. --out runs/ablation" in capsys.readouterr().err
    assert run("loss_ablation.py", *flags, "--kl-weight", 2, "--out", "other") == 2
    assert "leave it out" in capsys.readouterr().err
