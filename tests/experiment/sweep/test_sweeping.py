"""A sweep of runs that take no time: what is trained, chosen, tested, taken up again and refused."""

import json
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from scripted import save_tiny

from pyro_vae.cli.parser import config_from, config_parser
from pyro_vae.cli.sweep_command import space
from pyro_vae.errors import CheckpointError, DivergenceError, PyroVAEError, StorageError, UsageError
from pyro_vae.experiment.config import Config
from pyro_vae.experiment.sweep import sweeping
from pyro_vae.experiment.train import training_lock

# Like train_svi.py from outside. The ELBO has its peak at lr = 0.1, on test data at lr = 0.3; odd seeds are lower.
TRAINER = """
import json, math, sys
from pathlib import Path
flags = {word.lstrip("-"): after for word, after in zip(sys.argv[1:], sys.argv[2:]) if word.startswith("--")}
out = Path(sys.argv[sys.argv.index("--out") + 1])
lr, seed = float(flags.get("lr", 3e-3)), int(flags.get("seed", 0))
with open("calls.txt", "a") as calls:
    calls.write(json.dumps([out.name, "--no-test" in sys.argv, "--resume" in sys.argv]) + "\\n")
code = json.loads(Path("ends.json").read_text()).get(out.name, 0)
if code and (code, "--no-test" in sys.argv) == (7, True):
    code = 0  # such a run diverges in its test alone
if code and code not in (5, 7):
    sys.exit("error: no space for that" if code == 1 else code)
elbo = -10 - math.log10(lr / 0.1) ** 2 - 0.1 * (seed % 2)
record = {"valid_elbo": elbo, "valid_standard_error": 0.5, "valid_kl": 2.0, "valid_reconstruction": elbo + 2.0}
records = [{**record, "epoch": 1, "best": True}, {**record, "epoch": 2, "best": False, "valid_elbo": 0.0}]
(out / "history.jsonl").write_text("".join(json.dumps(r) + "\\n" for r in records))
status = "diverged" if code else "trained" if "--no-test" in sys.argv else "finished"
(out / "run.json").write_text(json.dumps({"status": status}))
if status == "finished":
    worth = {"mean": -20 - math.log10(lr / 0.3) ** 2, "standard_error": 0.1, "monte_carlo_error": 0.01, "num_data": 30}
    found = {"elbo": {**worth, "num_samples": 100}, "log_likelihood": {**worth, "num_samples": 1000}}
    protocol = {"split": {"sizes": {"test": 30}}}
    (out / "report.json").write_text(json.dumps({"test": found, "protocol": protocol}))
sys.exit(5 if code else 0)
"""

OWN = """
import pyro.distributions as dist
from pyro_vae import priors

class Mine(priors.Prior):
    def __init__(self, latent_dim, tau):
        super().__init__(latent_dim)
        self.tau = tau

    def forward(self, y=None):
        return dist.Laplace(self.loc, self.scale * 2.0**self.tau).to_event(1)
"""


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_tiny()
    Path("trainer.py").write_text(TRAINER)
    ends()


@pytest.fixture(autouse=True)
def quick(request, monkeypatch):
    """Pictures take longer than all the rest: one test has them drawn."""
    if "pictures" not in request.fixturenames:
        monkeypatch.setattr(sweeping.sweep_figures, "rate_distortion", lambda found: b"")
        monkeypatch.setattr(sweeping.sweep_figures, "curve", lambda found: None)


@pytest.fixture
def pictures():
    """Asked for by a test that has them drawn."""


def ends(**codes):
    """With which exit codes runs are to end from now on, by their names."""
    Path("ends.json").write_text(json.dumps(codes))


def wanted(*grids, seeds=2, command=(), ranges=(), search=0):
    given = ["--dataset", "tiny.npy", "--hidden", "4", "--latent-dim", "2", *command]
    return space(config_parser("sweep", "For tests."), given, grids, ranges, search, seeds)


def swept(*grids, out="out", **more):
    """Sweeps, and returns the calls that it made."""
    Path("calls.txt").write_text("")
    found = wanted(*grids, **more)
    try:
        sweeping.sweep(Path(out), found, ["trainer.py"], 2)
    finally:
        calls = [json.loads(line) for line in Path("calls.txt").read_text().splitlines()]
    return calls


def report(out="out"):
    return json.loads((Path(out) / "report.json").read_bytes())


def test_all_are_trained_without_test_data_and_the_best_on_validation_data_alone_is_tested(pictures, capsys):
    calls = swept("lr=0.01,0.1,1")
    runs = [f"lr={lr},seed={seed}" for lr in ("0.01", "0.1", "1") for seed in (0, 1)]
    assert sorted(calls[:6]) == [[name, True, True] for name in runs]
    assert sorted(calls[6:]) == [["lr=0.1,seed=0", False, True], ["lr=0.1,seed=1", False, True]]
    found = report()
    assert (found["chosen"], [run["seed"] for run in found["test"]]) == ("lr=0.1", [0, 1])
    assert {run["name"] for run in found["runs"]} == set(runs)
    assert not list(Path("out").glob("lr=0.01*/report.json"))
    out = capsys.readouterr().out
    assert (Path("out") / "report.txt").read_text() in out
    assert "6/6  lr=" in out
    assert {path.name for path in Path("out").iterdir() if path.is_file()} == {
        "sweep.json", "sweep.lock", "report.json", "report.txt", "table.csv", "rate_distortion.png", "curve.png",
    }  # fmt: skip


def test_the_same_command_again_trains_and_tests_nothing_and_writes_the_same():
    swept("lr=0.01,0.1")
    before = {
        path.name: path.read_bytes() for path in Path("out").iterdir() if path.is_file() and path.suffix != ".lock"
    }
    assert swept("lr=0.01,0.1") == []
    assert before == {name: (Path("out") / name).read_bytes() for name in before}


def test_a_setting_that_is_chosen_stays_chosen():
    """Test data are shown to one setting, whatever is done to the folder."""
    swept("lr=0.01,0.1")
    for run in Path("out").glob("lr=0.01*"):
        first, second = map(json.loads, (run / "history.jsonl").read_text().splitlines())
        better = json.dumps({**first, "valid_elbo": -1.0}), json.dumps(second)
        (run / "history.jsonl").write_text("\n".join(better) + "\n")
    assert swept("lr=0.01,0.1") == []
    assert [group["name"] for group in report()["groups"]] == ["lr=0.01", "lr=0.1"]
    assert report()["chosen"] == "lr=0.1"


def test_cut_runs_are_taken_up_and_whole_ones_left_alone():
    swept("lr=0.01,0.1")
    for status, name in (("running", "lr=0.01,seed=0"), ("interrupted", "lr=0.1,seed=1")):
        (Path("out") / name / "run.json").write_text(json.dumps({"status": status}))
    *trained, tested = swept("lr=0.01,0.1")
    assert sorted(trained) == [["lr=0.01,seed=0", True, True], ["lr=0.1,seed=1", True, True]]  # two at once
    assert tested == ["lr=0.1,seed=1", False, True]


@pytest.mark.thorough
def test_a_run_that_diverges_does_not_stop_the_sweep_and_its_setting_is_not_chosen(capsys):
    ends(**{"lr=0.1,seed=1": 5})
    calls = swept("lr=0.01,0.1,1")
    assert len(calls) == 6 + 2
    found = report()
    assert found["chosen"] == "lr=0.01"  # as good as 1, and before it
    assert [group["diverged"] for group in found["groups"]] == [[], [], [1]]
    out = capsys.readouterr().out
    assert "lr=0.1,seed=1: diverged" in out
    assert "A setting with a diverged run cannot be chosen, whatever its other seeds reached: lr=0.1." in out.replace(
        "\n  ", " "
    )
    assert swept("lr=0.01,0.1,1") == []


def test_where_every_setting_diverges_nothing_is_tested():
    ends(**{"lr=1,seed=0": 5, "lr=2,seed=0": 5})
    with pytest.raises(DivergenceError, match="every setting has a run that diverged"):
        swept("lr=1,2", seeds=1)
    assert (report()["chosen"], report()["test"]) == (None, [])
    assert not list(Path("out").glob("lr=*/report.json"))


@pytest.mark.thorough
def test_a_run_that_fails_is_named_when_the_others_have_ended_and_taken_up_by_the_same_command():
    ends(**{"lr=0.01,seed=0": 6})
    with pytest.raises(StorageError, match=r"1 of the runs failed, the first of them lr=0.01,seed=0 with exit code 6"):
        swept("lr=0.01,0.1")
    assert not (Path("out") / "report.json").exists()
    ends()
    calls = swept("lr=0.01,0.1")
    assert calls[0] == ["lr=0.01,seed=0", True, True]
    assert sorted(calls[1:]) == [[f"lr=0.1,seed={seed}", False, True] for seed in (0, 1)]


@pytest.mark.thorough
def test_another_sweep_in_the_folder_is_refused_and_where_it_is_computed_does_not_matter(tmp_path):
    swept("lr=0.01,0.1")
    for grid, more, words in (
        ("lr=0.01,0.2", {}, r"grids lr=\['0.01', '0.1'\], not lr=\['0.01', '0.2'\]"),
        ("lr=0.01,0.1", {"seeds": 3}, "seeds 2, not 3"),
        ("lr=0.01,0.1", {"command": ["--prior", "laplace"]}, "prior=standard, not prior=laplace"),
    ):
        with pytest.raises(UsageError, match=f"out holds a sweep with {words}"):
            swept(grid, **more)
    assert swept("lr=0.01,0.1", command=["--data-dir", str(tmp_path)]) == []
    (Path("out") / "sweep.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"sweep.json is damaged"):
        swept("lr=0.01,0.1")


@pytest.mark.thorough
def test_a_sweep_of_an_earlier_version_goes_on_with_the_defaults_of_settings_that_are_newer():
    swept("lr=0.01,0.1")
    path = Path("out") / "sweep.json"
    state = json.loads(path.read_text())
    del state["plan"]["base"]["guide"]
    path.write_text(json.dumps(state))
    with pytest.raises(UsageError, match="a sweep with guide=top_down, not guide=bottom_up"):
        swept("lr=0.01,0.1", command=["--guide", "bottom_up"])
    assert swept("lr=0.01,0.1") == []


def test_a_run_is_no_folder_for_a_sweep():
    Path("out").mkdir()
    (Path("out") / "config.json").write_text("{}")
    with pytest.raises(UsageError, match="out is a run, whose report a sweep would replace: use another `folder`"):
        swept("lr=0.01,0.1")
    assert [path.name for path in Path("out").iterdir()] == ["config.json"]


@pytest.mark.parametrize(
    ("grids", "command", "words"),
    [
        (
            ["likelihood=bernoulli,continuous_bernoulli"],
            [],
            r"values: masses \(likelihood=bernoulli\) against densities",
        ),
        (["binarize=static,dynamic"], ["--dataset", "digits"], "binarisation: static"),
        (
            ["posterior=diagonal,delta"],
            ["--kl-weight", "0"],
            "posterior=delta: `posterior='delta'` is a plain autoencoder",
        ),
        (["learn_scale=no,pixel"], ["--likelihood", "exponential_norm"], "learn_scale=pixel: "),
        (["conditional=no,yes"], [], "tiny.npy has no labels"),
    ],
)
def test_settings_that_do_not_compare_or_can_not_be_built_are_refused_before_anything_is_there(grids, command, words):
    with pytest.raises(UsageError, match=words):
        swept(*grids, command=command)
    assert not Path("out").exists()


@pytest.mark.thorough
def test_what_a_run_reported_is_kept_whatever_is_written_over_it_later(capsys):
    swept("lr=0.01,0.1")
    before, path = report(), Path("out/lr=0.1,seed=1/report.json")
    other = json.loads(path.read_text())
    other["test"]["log_likelihood"] |= {"mean": -5.0, "num_samples": 7, "num_data": 10}
    path.write_text(json.dumps(other))  # as evaluate.py does
    assert swept("lr=0.01,0.1") == []
    assert report() == before
    state = json.loads(Path("out/sweep.json").read_text())
    Path("out/sweep.json").write_text(json.dumps({"plan": state["plan"], "chosen": "lr=0.1"}))
    with pytest.raises(
        CheckpointError, match=r"is not the report of the training, but of 7 draws for each of 10 test data: remove"
    ):
        swept("lr=0.01,0.1")
    path.unlink()
    assert swept("lr=0.01,0.1") == [["lr=0.1,seed=1", False, True]]
    assert report() == before


@pytest.mark.thorough
def test_a_run_that_was_removed_is_trained_and_tested_anew():
    swept("lr=0.01,0.1")
    before, path = report(), Path("out/sweep.json")
    state = json.loads(path.read_text())
    state["tests"]["lr=0.1,seed=0"]["elbo"]["mean"] = -1.0
    path.write_text(json.dumps(state))
    swept("lr=0.01,0.1")
    assert report()["test"][0]["elbo"]["mean"] == -1.0
    shutil.rmtree("out/lr=0.1,seed=0")
    assert swept("lr=0.01,0.1") == [["lr=0.1,seed=0", True, True], ["lr=0.1,seed=0", False, True]]
    assert report() == before


@pytest.mark.thorough
def test_a_run_whose_files_are_damaged_is_named_with_the_cure():
    swept("lr=0.01,0.1")
    state = json.loads(Path("out/sweep.json").read_text())
    Path("out/sweep.json").write_text(json.dumps({"plan": state["plan"]}))
    for content in ("{", "{}", '{"test": [], "protocol": {"split": 1}}'):
        Path("out/lr=0.1,seed=0/report.json").write_text(content)
        with pytest.raises(CheckpointError, match=r"report.json cannot be read: .*; remove report.json and report.txt"):
            swept("lr=0.01,0.1")
    Path("out/lr=0.01,seed=0/history.jsonl").write_text("")
    with pytest.raises(
        CheckpointError, match=r"history.jsonl holds no epoch that was kept, .* remove out/lr=0.01,seed=0"
    ):
        swept("lr=0.01,0.1")


def test_a_chosen_run_whose_test_diverges_ends_the_sweep_all_the_same(capsys):
    ends(**{"lr=0.1,seed=1": 7})
    swept("lr=0.01,0.1")
    found = report()
    assert found["chosen"] == "lr=0.1"
    assert [sorted(run) for run in found["test"]] == [
        ["elbo", "likelihood", "log_likelihood", "name", "seed"],
        ["name", "seed"],
    ]
    assert found["groups"][0]["diverged"] == []
    assert "lr=0.1,seed=1: its test diverged" in capsys.readouterr().out
    assert swept("lr=0.01,0.1") == []
    assert report() == found


def test_a_run_that_was_tested_by_hand_is_seen():
    swept("lr=0.01,0.1")
    assert "Test data were shown only to its runs" in " ".join(Path("out/report.txt").read_text().split())
    Path("out/lr=0.01,seed=0/report.json").write_text("{}")
    swept("lr=0.01,0.1")
    assert "not by the sweep: lr=0.01,seed=0." in " ".join(Path("out/report.txt").read_text().split())


def test_a_foreign_file_of_that_name_is_left_alone():
    Path("out").mkdir()
    Path("out/sweep.json").write_text('{"x": 1}')
    with pytest.raises(CheckpointError, match=r"sweep.json is damaged: it holds no plan"):
        swept("lr=0.01,0.1")
    assert Path("out/sweep.json").read_text() == '{"x": 1}'


def test_an_infinite_value_is_a_value(pictures):
    swept("max_grad_norm=inf,1", seeds=1)
    assert {group["values"]["max_grad_norm"] for group in report()["groups"]} == {"inf", 1.0}
    assert not Path("out/curve.png").exists()  # no axis has it


def test_names_too_long_for_a_folder_are_refused_before_anything_is_there():
    with pytest.raises(
        UsageError, match=r"names a folder, and has \d+ bytes of at most 200: sweep over fewer flags at once"
    ):
        swept(f"hidden2={' '.join(['10'] * 80)}")
    assert not Path("out").exists()


# Runs that are made elsewhere.


def train_elsewhere(line):
    subprocess.run([sys.executable, "trainer.py", *shlex.split(line)[2:]], check=True)


@pytest.mark.thorough
def test_runs_that_their_lines_have_trained_elsewhere_are_only_ranked_and_tested():
    swept("lr=0.01,0.1", out="here")
    lines = sweeping.lines(Path("out"), wanted("lr=0.01,0.1"))
    for line in lines:
        Path(shlex.split(line)[-3]).mkdir()
        train_elsewhere(line)
    assert not list(Path("out").glob("*/report.json"))
    Path("out/lr=0.01,seed=1/run.json").write_text(json.dumps({"status": "interrupted"}))
    first, *rest = swept("lr=0.01,0.1")
    assert first == ["lr=0.01,seed=1", True, True]
    assert sorted(rest) == [["lr=0.1,seed=0", False, True], ["lr=0.1,seed=1", False, True]]
    assert report() == report("here")


@pytest.mark.thorough
def test_the_lines_of_a_sweep_hold_in_every_folder_and_stay(tmp_path, monkeypatch):
    (tmp_path / "my code").mkdir()
    Path("my code/laplaces.py").write_text(OWN)
    typed = ["--prior", "my code/laplaces.py:Mine"]
    grids = ['prior_args={"tau": -0.5},{"tau": 2}']
    monkeypatch.setattr(sys, "argv", ["sweep", *typed])
    lines = sweeping.lines(Path("a sweep"), wanted(*grids, command=typed))
    assert [path.name for path in Path("a sweep").iterdir()] == ["sweep.json"]
    words = [shlex.split(line) for line in lines]
    names = [f"prior_args=tau={tau},seed={seed}" for tau in ("-0.5", "2") for seed in (0, 1)]
    assert [line[-4:] for line in words] == [
        ["--out", f"{tmp_path}/a sweep/{name}", "--resume", "--no-test"] for name in names
    ]
    monkeypatch.chdir("/")
    for line, tau, seed in zip(words, (-0.5, -0.5, 2, 2), (0, 1, 0, 1), strict=True):
        assert line[:2] == ["pyro-vae", "train"]
        flags = line[2 : line.index("--no-check")]
        config = config_from(config_parser("train", "For tests.").parse_args(flags), argv=flags)
        assert config == Config(
            dataset=f"{tmp_path}/tiny.npy", hidden=(4,), latent_dim=2, seed=seed, prior="laplaces.py:Mine",
            prior_args=json.dumps({"tau": tau}),
        )  # fmt: skip
    monkeypatch.chdir(tmp_path)
    run = Path("a sweep", names[1])
    run.mkdir()
    (run / "run.json").write_text(json.dumps({"status": "trained"}))
    before = Path("a sweep/sweep.json").stat().st_mtime_ns
    assert sweeping.lines(Path("a sweep"), wanted(*grids, command=typed)) == lines
    assert Path("a sweep/sweep.json").stat().st_mtime_ns == before


def test_the_folder_of_the_data_is_named_where_a_data_set_may_lie_in_it(tmp_path):
    def data_dir(out, *command):
        lines = sweeping.lines(Path(out), wanted("lr=0.01,0.1", command=command))
        words = shlex.split(lines[0])
        return words[words.index("--data-dir") + 1] if "--data-dir" in words else ""

    assert data_dir("a", "--dataset", "digits") == ""
    Path("data").mkdir()
    assert data_dir("a", "--dataset", "digits") == f"{tmp_path}/data"
    assert data_dir("b") == ""


def test_a_line_break_is_refused_where_each_line_is_a_run():
    with pytest.raises(UsageError, match="has a line break: give folders and files other names"):
        sweeping.lines(Path("o\nut"), wanted("lr=0.01,0.1"))


def test_a_run_that_is_at_work_elsewhere_is_left_alone():
    run = Path("out/lr=0.01,seed=0")
    with training_lock.locked(run):
        with pytest.raises(
            UsageError,
            match=r"1 of the runs is still at work elsewhere, the first of them lr=0.01,seed=0 \(process \d+ on .*\): "
            "give the same command again when they have ended",
        ):
            swept("lr=0.01,0.1")
        assert [path.name for path in run.iterdir()] == ["train.lock"]
    assert len(list(Path("out").glob("*/run.json"))) == 3
    assert swept("lr=0.01,0.1")[0] == ["lr=0.01,seed=0", True, True]


def test_the_lock_that_a_killed_run_left_keeps_no_one_away():
    (Path("out/lr=0.01,seed=0")).mkdir(parents=True)
    Path("out/lr=0.01,seed=0/train.lock").write_text("1 on another-computer\n")
    assert len(swept("lr=0.01,0.1")) == 4 + 2


def test_a_run_that_was_trained_with_other_settings_is_not_taken_for_one_of_the_sweep(tmp_path):
    swept("lr=0.01,0.1")
    (setting, _) = wanted("lr=0.01,0.1").settings()
    path = Path("out/lr=0.01,seed=1/config.json")
    same = replace(setting.config, seed=1, dataset=str(tmp_path / "tiny.npy"), device="cuda", data_dir="x")
    path.write_text(json.dumps(same.to_dict()))
    assert swept("lr=0.01,0.1") == []
    path.write_text(json.dumps(replace(same, epochs=7).to_dict()))
    with pytest.raises(CheckpointError, match=r"out/lr=0.01,seed=1 was trained with epochs=7, not 600: remove it"):
        swept("lr=0.01,0.1")


# A search.


@pytest.mark.thorough
def test_a_search_that_was_cut_ends_as_one_that_was_not():
    pytest.importorskip("optuna")
    options = {"ranges": ["lr=1e-3..10"], "search": 7, "seeds": 1}
    assert len(swept("prior=standard,laplace", out="whole", **options)) == 7 + 1
    ends(**{report("whole")["runs"][3]["name"]: 1})
    with pytest.raises(PyroVAEError, match="error: no space for that"):
        swept("prior=standard,laplace", **options)
    ends()
    assert len(list(Path("out").glob("trial=*/run.json"))) == 3
    calls = swept("prior=standard,laplace", **options)
    assert len(calls) == 4 + 1
    assert report() == report("whole")
    values = [group["values"]["lr"] for group in report()["groups"]]
    assert len(set(values)) == 7
    assert min(values, key=lambda lr: abs(lr / 0.1 - 1)) == values[0]


@pytest.mark.thorough
@pytest.mark.parametrize("cuts", [[("ask", 13), ("tell", 12)], [("ask", 14), ("tell", 11)]])
def test_a_search_that_was_cut_between_two_settings_goes_on_as_one_that_was_not(cuts, monkeypatch):
    """Both while a team of settings is chosen and while it is told what they are worth."""
    optuna = pytest.importorskip("optuna")
    options = {"ranges": ["lr=1e-3..10"], "search": 16, "seeds": 1}
    swept("prior=standard,laplace", out="whole", **options)
    for name, at in cuts:  # the first ten are random
        with monkeypatch.context() as patch:
            calls, method = [], getattr(optuna.Study, name)

            def cut(self, *arguments, calls=calls, method=method, at=at, **more):
                if len(calls) == at:
                    raise KeyboardInterrupt
                calls.append(arguments)
                return method(self, *arguments, **more)

            patch.setattr(optuna.Study, name, cut)
            with pytest.raises(KeyboardInterrupt):
                swept("prior=standard,laplace", out=f"{name}-{at}", **options)
        swept("prior=standard,laplace", out=f"{name}-{at}", **options)
        assert report(f"{name}-{at}") == report("whole")


def test_a_search_over_many_flags_names_its_folders_by_numbers():
    pytest.importorskip("optuna")
    many = [f"hidden2={' '.join(['10'] * 80)}"]
    names = {call[0] for call in swept(*many, ranges=["lr=1e-3..10"], search=2, seeds=1)}
    assert names == {"trial=0,seed=0", "trial=1,seed=0"}


def test_a_search_needs_its_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    monkeypatch.delitem(sys.modules, "pyro_vae.experiment.sweep.optuna_search", raising=False)
    with pytest.raises(UsageError, match=r"`search` needs its package: pip install 'pyro-vae\[search\]'"):
        swept(ranges=["lr=1..2"], search=1)
