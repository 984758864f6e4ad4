"""SIGINT and SIGTERM: the step in hand is finished and kept, a second signal ends at once."""

import json
import runpy
import signal
import threading
from pathlib import Path

import pytest
from cases import thorough
from scripted import exit_code, save_tiny

import pyro_vae as pv
from pyro_vae.experiment.run import checkpoint, interruption
from pyro_vae.inference import SVI

SCRIPT = Path(__file__).parents[2] / "scripts" / "train_svi.py"
MAIN = runpy.run_path(str(SCRIPT))["main"]
CODES = [(signal.SIGINT, 130), (signal.SIGTERM, 143)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What a run without a break ends with."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("whole"))
        save_tiny()
        assert run(*FLAGS, "--out", "whole") == 0
        return result("whole")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_tiny()


FLAGS = [
    *("--dataset", "tiny.npy", "--hidden", "8", "--latent-dim", "2", "--batch-size", "16", "--epochs", "4"),
    *("--test-samples", "20", "--elbo-samples", "5", "--kl-warmup", "3", "--objective", "trace_elbo"),
    *("--fewest-steps", "1", "--average", "0.5"),
]


def run(*arguments):
    return exit_code(MAIN, arguments)


def after_steps(monkeypatch, steps, act):
    """Calls `act` at the end of a step, counted over the whole training: where a signal can come."""
    step_from = SVI.step_from

    def step_and_act(self, *args, **kwargs):
        loss = step_from(self, *args, **kwargs)
        if self.num_steps == steps:
            act()
        return loss

    monkeypatch.setattr(SVI, "step_from", step_and_act)


def result(folder):
    """What must not depend on a break: all of a finished run but the times."""
    return {path.name: path.read_bytes() for path in sorted(Path(folder).rglob("*")) if path.is_file()} | {
        "run.json": {
            key: value
            for key, value in about(folder).items()
            if key not in ("command", "started", "session_started", "seconds")
        }
    }


def about(folder):
    return json.loads((Path(folder) / "run.json").read_bytes())


@pytest.mark.thorough
@pytest.mark.parametrize(("number", "code"), CODES)
@pytest.mark.parametrize("steps", [*thorough(1, 2, 3), 5, *thorough(12)])  # three in each of four epochs
def test_the_step_in_hand_is_kept_and_the_run_goes_on_to_the_same_bytes(whole, monkeypatch, capfd, number, code, steps):
    with monkeypatch.context() as patch:
        after_steps(patch, steps, lambda: signal.raise_signal(number))
        assert run(*FLAGS, "--out", "cut") == code
    assert capfd.readouterr().err.splitlines() == [
        "interrupted: keeping this step; a second signal ends at once",
        "interrupted: what was reached is kept; pyro-vae train --out cut --resume goes on",
    ]
    assert about("cut")["status"] == "interrupted"
    reached = checkpoint.newest(Path("cut/checkpoints"))[0].progress
    assert 3 * reached.epoch + reached.steps == steps
    assert next(pv.load("cut").parameters()).isfinite().all()

    assert run("--out", "cut", "--resume") == 0
    assert result("cut") == whole


@pytest.mark.thorough
def test_a_run_can_be_interrupted_at_every_step(whole, monkeypatch):
    for steps in range(1, 13):
        with monkeypatch.context() as patch:
            after_steps(patch, steps, lambda: signal.raise_signal(signal.SIGTERM))
            assert run(*FLAGS, "--out", "cut", "--resume") == 143
    assert run("--out", "cut", "--resume") == 0
    assert result("cut") == whole


@pytest.mark.parametrize(("number", "code"), [*thorough(CODES[0]), *CODES[1:]])
def test_a_second_signal_ends_at_once(whole, monkeypatch, capfd, number, code):
    """In the middle of a save, which leaves nothing that a later run trips over."""
    with monkeypatch.context() as patch:
        replaced = Path.replace

        def signal_and_replace(self, target):
            if "step" in self.name:
                signal.raise_signal(number)
            return replaced(self, target)

        patch.setattr(Path, "replace", signal_and_replace)
        after_steps(patch, 5, lambda: signal.raise_signal(signal.SIGINT))
        assert run(*FLAGS, "--out", "cut") == code
    assert about("cut")["status"] == "interrupted"
    assert not list(Path("cut/checkpoints").glob("*step*"))
    assert run("--out", "cut", "--resume") == 0
    assert result("cut") == whole


@pytest.mark.parametrize(("number", "code"), [*thorough(CODES[0]), *CODES[1:]])
def test_a_signal_while_the_report_is_made_ends_at_once(whole, monkeypatch, number, code):
    with monkeypatch.context() as patch:
        patch.setattr("pyro_vae.experiment.train.training_report.write", lambda *a: signal.raise_signal(number))
        assert run(*FLAGS, "--out", "cut") == code
    assert about("cut")["status"] == "interrupted"
    assert run("--out", "cut", "--resume") == 0
    assert result("cut") == whole


@pytest.mark.thorough
def test_the_step_is_kept_though_nobody_can_be_told(whole, monkeypatch):
    def refused(*arguments):
        raise BrokenPipeError

    with monkeypatch.context() as patch:
        after_steps(patch, 5, lambda: (patch.setattr("os.write", refused), signal.raise_signal(signal.SIGINT)))
        assert run(*FLAGS, "--out", "cut") == 130
    assert checkpoint.newest(Path("cut/checkpoints"))[0].progress.steps == 2
    assert run("--out", "cut", "--resume") == 0
    assert result("cut") == whole


@pytest.mark.parametrize("name", ["evaluate", "sample"])
def test_a_run_without_a_whole_epoch_is_refused_in_a_sentence(monkeypatch, capsys, name):
    with monkeypatch.context() as patch:
        after_steps(patch, 2, lambda: signal.raise_signal(signal.SIGINT))
        assert run(*FLAGS, "--out", "cut") == 130
    capsys.readouterr()
    with pytest.raises(SystemExit, match="4"):
        runpy.run_path(str(SCRIPT.with_name(f"{name}.py")))["main"](["cut"])
    err = capsys.readouterr().err
    assert (err.count("\n"), "no whole epoch yet" in err) == (1, True)


def test_a_finished_run_is_swept(whole):
    assert run(*FLAGS, "--out", "cut") == 0
    for place in ("report.html", "checkpoints/epoch-00009.json"):
        Path(f"cut/{place}.pyro_vae-partial").touch()
    assert run("--out", "cut", "--resume") == 0
    assert result("cut") == whole


def test_handlers_are_put_back(monkeypatch):
    before = [signal.getsignal(number) for number, _ in CODES]
    after_steps(monkeypatch, 2, lambda: signal.raise_signal(signal.SIGINT))
    assert run(*FLAGS, "--out", "cut") == 130
    assert [signal.getsignal(number) for number, _ in CODES] == before


def test_in_a_thread_nothing_is_noted_and_nothing_breaks():
    seen = []

    def work():
        with interruption.noted() as stop:
            seen.append(stop())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False]
