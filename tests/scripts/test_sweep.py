"""sweep.py and train_svi.py --no-test from outside: what they write, what they do not look at, exit codes."""

import json
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from finished import content
from scripted import exit_code, save_tiny

from pyro_vae.experiment.train import training_report

SCRIPTS = Path(__file__).parents[2] / "scripts"
SWEEP, TRAIN = (runpy.run_path(str(SCRIPTS / name))["main"] for name in ("sweep.py", "train_svi.py"))
FLAGS = [
    *("--dataset", "tiny.npy", "--hidden", "8", "--latent-dim", "2", "--batch-size", "16", "--epochs", "3"),
    *("--test-samples", "20", "--elbo-samples", "5"),
]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_tiny()


def status(folder):
    return json.loads((Path(folder) / "run.json").read_bytes())["status"]


def without_times(folder):
    return {name: digest for name, digest in content(folder).items() if name not in ("run.json", "train.log")}


@pytest.mark.thorough
def test_a_run_without_a_test_never_comes_to_the_test_data_and_reports_when_it_is_resumed(monkeypatch, capsys):
    assert exit_code(TRAIN, [*FLAGS, "--out", "whole"]) == 0
    with monkeypatch.context() as patch:
        patch.setattr(training_report, "write", lambda *everything: pytest.fail("it was tested"))
        assert exit_code(TRAIN, [*FLAGS, "--out", "run", "--no-test"]) == 0
        assert "trained, not tested: pyro-vae train --out run --resume reports on test data" in capsys.readouterr().out
        assert exit_code(TRAIN, ["--out", "run", "--resume", "--no-test"]) == 0
    assert status("run") == "trained"
    assert not list(Path("run").glob("report.*"))
    assert not list(Path("run").glob("*.png"))
    assert exit_code(TRAIN, ["--out", "run", "--resume"]) == 0
    assert status("run") == "finished"
    assert without_times("run") == without_times("whole")


@pytest.mark.thorough
def test_a_sweep_of_real_runs_is_that_of_runs_by_hand_and_its_runs_open(capfd):
    grid = ["--grid", "prior=standard,laplace", "--out", "out", "--jobs", "2"]
    assert exit_code(SWEEP, [*FLAGS, *grid]) == 0
    found = json.loads(Path("out/report.json").read_bytes())
    best, other = (Path("out") / f"{group['name']},seed=0" for group in found["groups"])
    assert (status(best), status(other)) == ("finished", "trained")
    assert exit_code(TRAIN, [*FLAGS, f"--prior={found['groups'][0]['values']['prior']}", "--out", "hand"]) == 0
    assert without_times("hand") == without_times(best)
    assert (
        found["test"][0]["log_likelihood"] == json.loads((best / "report.json").read_bytes())["test"]["log_likelihood"]
    )
    _, *words = shlex.split(json.loads((best / "run.json").read_bytes())["command"])  # python, by any of its names
    assert words[:5] == ["-m", "pyro_vae", "train", "--dataset", "tiny.npy"]
    said = capfd.readouterr().out
    assert "2/2  prior=" in said
    assert f"1/1  {best.name}: tested, validation ELBO" in said
    compare = runpy.run_path(str(SCRIPTS / "compare.py"))["main"]
    assert exit_code(compare, [best, other, "--num-samples", "10", "--out", "compared"]) == 0
    assert "is not finished" not in capfd.readouterr().err


PRINTS = """
import pyro.distributions as dist
from pyro_vae import priors
print("a word of my own")
class Mine(priors.Prior):
    def forward(self, y=None): return dist.Laplace(self.loc, self.scale).to_event(1)
"""


def test_a_list_is_the_lines_and_nothing_else_whatever_a_file_of_ones_own_prints(tmp_path, capsys):
    Path("own.py").write_text(PRINTS)
    assert exit_code(SWEEP, [*FLAGS, "--grid", "prior=standard,own.py:Mine", "--out", "out", "--list"]) == 0
    said = capsys.readouterr()
    lines = [shlex.split(line) for line in said.out.splitlines()]
    assert [line[-3] for line in lines] == [f"{tmp_path}/out/prior={name},seed=0" for name in ("standard", "Mine")]
    assert "a word of my own" in said.err


@pytest.mark.thorough
def test_the_lines_of_a_sweep_make_its_runs_from_another_folder_two_at_once(tmp_path, capsys):
    grid = [*FLAGS, "--grid", "prior=standard,laplace", "--out", "a sweep"]
    sweep = [sys.executable, SCRIPTS / "sweep.py", *grid]
    listed = subprocess.run([*sweep, "--list"], capture_output=True, check=True).stdout
    (tmp_path / "elsewhere").mkdir()
    side_by_side = ["xargs", "-0", "-n", "1", "-P", "2", "sh", "-c"]
    subprocess.run(side_by_side, input=listed.replace(b"\n", b"\0"), cwd="elsewhere", check=True)
    assert not list(Path("elsewhere").iterdir())
    assert [status(path) for path in Path("a sweep").glob("*/")] == ["trained", "trained"]
    assert exit_code(SWEEP, grid) == 0
    (best,) = (run["name"] for run in json.loads(Path("a sweep/report.json").read_bytes())["test"])
    prior = best.removeprefix("prior=").removesuffix(",seed=0")
    assert exit_code(TRAIN, [*FLAGS, "--dataset", f"{tmp_path}/tiny.npy", "--prior", prior, "--out", "hand"]) == 0
    hand, made = without_times("hand"), without_times(Path("a sweep", best))
    names_the_data = {"config.json", "report.json"}  # by its path, which the sweep itself has as it was typed
    assert {name for name in hand if hand[name] != made.get(name)} <= names_the_data
    assert hand.keys() == made.keys()
    reports = [json.loads((Path(run) / "report.json").read_bytes())["test"] for run in ("hand", f"a sweep/{best}")]
    assert reports[0] == reports[1]
    again = next(line for line in listed.decode().splitlines() if best in line)
    capsys.readouterr()
    assert exit_code(TRAIN, shlex.split(again)[2:]) == 0
    assert f"{best} is finished. Its report:" in capsys.readouterr().out


@pytest.mark.thorough
def test_a_list_of_which_only_the_first_line_is_read_ends_quietly():
    sweep = [sys.executable, SCRIPTS / "sweep.py", *FLAGS, "--grid", "lr=0.1,0.2", "--seeds", "300", "--list"]
    with subprocess.Popen([*sweep, "--out", "out"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout.readline().startswith(b"python")
        process.stdout.close()
        said = process.stderr.read().decode()
        code = process.wait()
    assert (code, "Traceback" in said) == (141, False)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (
            ["--grid", "prior=standard,vampp", "--out", "out"],
            "prior=vampp: unknown prior 'vampp'; did you mean 'vamp'?",
        ),
        (["--grid", "priro=standard", "--out", "out"], "unknown flag 'priro'; did you mean 'prior'?"),
        (["--grid", "prior=standard"], "a sweep needs a folder: add --out"),
        (["--gird", "prior=standard"], "unknown flag --gird; did you mean --grid?"),
        (["--jobs", "-1", "--out", "out"], "--jobs must be 1 or more"),
        (
            ["--list", "--search", "3", "--range", "lr=1e-4..1e-2", "--out", "out"],
            "--list goes with no --search, in which the results of runs choose the next ones",
        ),
    ],
)
def test_mistakes_are_one_sentence(flags, words, capsys):
    assert exit_code(SWEEP, [*FLAGS, *flags]) == 2
    err = capsys.readouterr().err
    assert words in err
    assert err.count("\n") == 1
    assert not Path("out").exists()


def test_help_and_a_wrong_grid_are_answered_without_torch():
    for arguments in (["--help"], ["--grid", "prior=vampp", "--out", "out"]):
        code = f"""
import runpy, sys
sys.argv = ["sweep.py", *{arguments!r}]
try:
    runpy.run_path({str(SCRIPTS / "sweep.py")!r}, run_name="__main__")
finally:
    print("torch" in sys.modules)
"""
        found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert found.stdout.splitlines()[-1] == "False", found.stderr
