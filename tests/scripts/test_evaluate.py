"""evaluate.py from outside: exit codes, sentences, and that numbers repeat."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import own_file
import pytest
from finished import content, finished_run, images
from scripted import exit_code

from pyro_vae.cli import own_code

SCRIPT = Path(__file__).parents[2] / "scripts" / "evaluate.py"
MAIN = runpy.run_path(str(SCRIPT))["main"]
QUICK = ["--num-samples", "30", "--elbo-samples", "5", "--annealed-data", "0", "--latent-data", "20"]


@pytest.fixture
def run(tmp_path):
    return finished_run(tmp_path / "run", images(tmp_path / "grey.npz"))


def evaluate(*arguments):
    """Runs the script here; returns its exit code."""
    return exit_code(MAIN, [*arguments, *QUICK])


def files(folder):
    """Every file but the one with the times in it."""
    return {name: digest for name, digest in content(folder).items() if name != "timings.json"}


def test_it_says_what_it_does_prints_the_report_and_writes_into_the_run(run, capsys):
    before = content(run)
    assert evaluate(run) == 0
    said = capsys.readouterr().out
    assert "log p(x) of 16 test data, K = 30" in said
    assert (run / "report.txt").read_text(encoding="utf-8") in said
    assert f"In {run}: report.json, report.txt" in said
    after = content(run)
    written = {"report." + kind for kind in ("json", "txt", "md", "csv", "tex", "html")}
    assert after.keys() - before.keys() == {*written, "data.csv", "log_likelihood.nc", "timings.json"}
    assert before.items() <= after.items()


@pytest.mark.thorough
def test_a_run_of_ones_own_members_is_evaluated_once_they_are_named(tmp_path, capsys):
    place = own_code.place("prior", f"{own_file.write(tmp_path)}:Horseshoe")
    settings = {"prior": place.name, "prior_args": '{"tau": 0.5}', "own": own_code.imported([place])}
    run = finished_run(tmp_path / "run", images(tmp_path / "grey.npz"), **settings)
    assert evaluate(run) == 2
    assert "not stored with the program: pass --prior horseshoe.py:Horseshoe" in capsys.readouterr().err
    mine = ["--prior", f"{tmp_path}/horseshoe.py:Horseshoe"]
    assert evaluate(run, *mine, "--posterior", f"{tmp_path}/horseshoe.py:LaplacePosterior") == 2
    assert "belongs to none of the runs, whose posterior is diagonal" in capsys.readouterr().err
    assert evaluate(run, *mine) == 0
    assert "log p(x) of 16 test data, K = 30" in capsys.readouterr().out


@pytest.mark.thorough
def test_a_report_repeats_and_may_go_elsewhere(run, tmp_path):
    before = content(run)
    assert [evaluate(run, "--out", tmp_path / name) for name in ("a", "b/c")] == [0, 0]
    assert files(tmp_path / "a") == files(tmp_path / "b" / "c")
    assert len(files(tmp_path / "a")) == 8
    assert content(run) == before


@pytest.mark.thorough
def test_a_home_that_can_not_be_written_goes_unnoticed(tmp_path):
    """NUTS draws in three dimensions; ArviZ judges its chains. Matplotlib keeps a list of fonts for the pictures."""
    run = finished_run(tmp_path / "run", images(tmp_path / "grey.npz"), latent_dim=3)
    names = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "MPLCONFIGDIR"))}
    command = [sys.executable, "-W", "error", str(SCRIPT), str(run), *QUICK, "--posterior-draws", "4"]
    ran = subprocess.run(command, env={**names, "HOME": "/dev/null/x"}, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "R-hat" in (run / "report.txt").read_text(encoding="utf-8")


@pytest.mark.thorough
def test_times_stand_apart_and_the_report_says_how_to_repeat_it(run):
    assert evaluate(run) == 0
    found, times = (json.loads((run / name).read_bytes()) for name in ("report.json", "timings.json"))
    assert found["run"]["command"].startswith(f"pyro-vae evaluate {run} --elbo-samples 5 --num-samples 30 ")
    assert times.keys() == {"evaluated", "command", "seconds"}
    assert times["seconds"].keys() >= {"elbo", "iwae", "latent", "training", "draws"}
    assert not times.keys() & found.keys() | times.keys() & found["run"].keys() - {"command"}


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (
            ["nowhere"],
            4,
            "error: nowhere holds no trained run (there is no such folder): name the folder that pyro-vae train wrote",
        ),
        (["RUN", "--latent-samples", "1"], 2, "error: --latent-samples must be at least 2; got 1"),
        (["RUN", "--chains", "4"], 2, "error: unknown flag --chains; did you mean --num-chains?"),
        (["RUN", "--device", "abacus"], 2, "error: device 'abacus' cannot be used here"),
        ([], 2, "error: "),
    ],
)
def test_mistakes_are_sentences(run, capsys, arguments, code, sentence):
    assert evaluate(*(run if word == "RUN" else word for word in arguments)) == code
    assert capsys.readouterr().err.startswith(sentence)


def test_data_that_changed_are_refused(run, tmp_path, capsys):
    images(tmp_path / "grey.npz", seed=1)
    assert evaluate(run) == 4
    assert "was trained on other data" in capsys.readouterr().err


def test_help_is_quick_to_read_and_needs_no_torch():
    code = (
        "import runpy, sys\nsys.argv = ['evaluate.py', '--help']\n"
        f"try: runpy.run_path({str(SCRIPT)!r}, run_name='__main__')\n"
        "except SystemExit: sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "k-hat is above 0.7" in " ".join(done.stdout.split())
