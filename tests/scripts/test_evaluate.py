"""evaluate.py from outside: exit codes, sentences, and that numbers repeat."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from finished import content, finished_run, images
from scripted import exit_code

SCRIPT = Path(__file__).parents[2] / "scripts" / "evaluate.py"
MAIN = runpy.run_path(str(SCRIPT))["main"]
QUICK = ["--num-samples", "30", "--elbo-samples", "5", "--annealed-data", "0", "--latent-data", "20"]


@pytest.fixture
def run(tmp_path):
    return finished_run(tmp_path / "run", images(tmp_path / "grey.npz"))


def evaluate(*arguments):
    """Runs the script here; returns its exit code."""
    return exit_code(MAIN, [*arguments, *QUICK])


def numbers(path):
    """A report without what differs from call to call: times, and where it was written."""
    found = json.loads(path.read_bytes())
    return {name: found[name] for name in found if name not in ("run", "timings")}


def test_it_says_what_it_does_prints_the_report_and_writes_into_the_run(run, capsys):
    before = content(run)
    assert evaluate(run) == 0
    said = capsys.readouterr().out
    assert "log p(x) of 16 test data, K = 30" in said
    assert (run / "report.txt").read_text(encoding="utf-8") in said
    assert f"In {run}: report.json, report.txt" in said
    after = content(run)
    written = {"report." + kind for kind in ("json", "txt", "md", "csv", "tex", "html")}
    assert after.keys() - before.keys() == {*written, "data.csv", "log_likelihood.nc"}
    assert before.items() <= after.items()


def test_a_report_repeats_and_may_go_elsewhere(run, tmp_path):
    before = content(run)
    assert [evaluate(run, "--out", tmp_path / name) for name in ("a", "b/c")] == [0, 0]
    assert numbers(tmp_path / "a" / "report.json") == numbers(tmp_path / "b" / "c" / "report.json")
    assert (tmp_path / "a" / "data.csv").read_bytes() == (tmp_path / "b" / "c" / "data.csv").read_bytes()
    assert content(run) == before


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["nowhere"], 4, "error: nowhere holds no trained run: name the folder that train_svi.py wrote"),
        (["RUN", "--latent-samples", "1"], 2, "error: latent_samples must be at least 2; got 1"),
        (["RUN", "--chains", "4"], 2, "error: unknown flag --chains; did you mean --num-chains?"),
        (["RUN", "--device", "abacus"], 2, "error: device 'abacus' can not be used here"),
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
