"""train_svi.py from outside: exit codes, sentences, the run folder, and runs that are cut and taken up again."""

import json
import math
import os
import runpy
import shlex
import shutil
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pyro
import pytest
import torch
from cases import thorough
from forked import Script
from scripted import exit_code, save_tiny

import pyro_vae as pv
from pyro_vae.randomness import derive

pytestmark = pytest.mark.usefixtures("sketched")

SCRIPT = Path(__file__).parents[2] / "scripts" / "train_svi.py"
SMALL = ["--hidden", "8", "--latent-dim", "2", "--test-samples", "20", "--elbo-samples", "5"]
MAIN = runpy.run_path(str(SCRIPT))["main"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def tiny(tmp_path):
    """Sixty binary images of 4 x 4 pixels: an epoch takes milliseconds."""
    return save_tiny(tmp_path / "tiny.npy")


def run(*arguments):
    """Runs the script here; returns its exit code."""
    return exit_code(MAIN, [*SMALL, *arguments])


def resume(*arguments):
    """The same, without the flags of a first start."""
    return exit_code(MAIN, [*arguments, "--resume"])


def start(*arguments):
    """Starts the script as a process of its own."""
    return Script("train_svi.py", *arguments)


def result(folder):
    """What a run found, byte by byte: all that must not depend on whether it was cut."""
    last = max((folder / "checkpoints").glob("*.json"))
    paths = [
        last,
        last.with_suffix(".safetensors"),
        *(folder / n for n in ("history.jsonl", "report.json", "report.txt")),
    ]
    return {path.name: path.read_bytes() for path in (*paths, *sorted(folder.glob("*.png")))}


def read(folder, name):
    return json.loads((folder / name).read_bytes())


def snapshot(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def cut_after(epochs, whole, folder):
    """The folder as a kill after so many epochs leaves it, while the checkpoints reach back that far."""
    shutil.copytree(whole, folder)
    for name in ("report.json", "report.txt", *(path.name for path in folder.glob("*.png"))):
        (folder / name).unlink()
    for path in (folder / "checkpoints").glob("epoch-*"):
        if int(path.stem.removeprefix("epoch-")) > epochs:
            path.unlink()
    status = read(folder, "run.json")
    (folder / "run.json").write_text(json.dumps({**status, "status": "running"}))


# A run that was cut and taken up again.


@pytest.mark.thorough
@pytest.mark.parametrize(
    "settings",
    [
        ["--kl-warmup", 4, "--objective", "trace_elbo", "--gradient", "sticking_the_landing"],
        *thorough(["--objective", "iwae", "--num-particles", 3, "--lr-schedule", "step", "--optimizer", "adamax"]),
        *thorough(["--objective", "iwae", "--num-particles", 8, "--gradient", "doubly_reparametrised"]),
        *thorough(["--max-grad-norm", 0.5, "--kl-weight", 0.5, "--weight-decay", 0.1, "--optimizer", "adamw"]),
        # It stops before the sixth epoch:
        *thorough(["--patience", 3, "--lr", 0.3, "--lr-schedule", "constant", "--batch-size", 8]),
        pytest.param(["--compile", "yes", "--kl-warmup", 4], marks=pytest.mark.slow),
    ],
    ids=["warm-up", "iwae", "gradient", "clipped", "patience", "compiled"],
)
def test_a_run_cut_after_three_epochs_ends_with_the_same_bytes(tiny, tmp_path, settings):
    flags = ["--dataset", tiny, "--batch-size", 16, "--epochs", 6, *settings]
    assert run(*flags, "--out", "whole") == 0
    whole = result(tmp_path / "whole")

    # Three of six: the checkpoints reach back to the fourth, so the third comes from a run that was stopped there.
    assert stopped_after(3, *flags, "--out", "cut") == 143
    assert [path.stem[-1] for path in sorted(Path("cut/checkpoints").glob("*.json"))] == ["1", "2", "3"]
    assert read(Path("cut"), "run.json")["status"] == "interrupted"
    assert resume("--out", "cut") == 0
    assert result(Path("cut")) == whole
    assert read(Path("cut"), "run.json")["status"] == "finished"


@pytest.mark.thorough
def test_a_run_of_graphs_ends_with_the_bytes_of_a_run_of_pyro(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("pyro_vae.inference.step_graphs.TRACE_AFTER", 3)
    flags = ["--dataset", tiny, "--epochs", 6, "--kl-warmup", 4]
    for mode in ("auto", "no"):
        assert run(*flags, "--compile", mode, "--out", mode) == 0
    weights = [(tmp_path / mode / "checkpoints/epoch-00006.safetensors").read_bytes() for mode in ("auto", "no")]
    assert weights[0] == weights[1]


def test_an_epoch_whose_kl_weight_is_not_one_says_so(tiny, capsys):
    assert run("--dataset", tiny, "--epochs", 3, "--kl-warmup", 2, "--test-samples", 20, "--out", "run") == 0
    epochs = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch ")]
    assert ["at KL weight 0.50 " in line for line in epochs] == [True, False, False]
    assert sum("KL weight" in line for line in epochs) == 1


def stopped_after(epochs, *arguments):
    """Runs the script and sends it SIGTERM while it saves that epoch, once its checkpoint is there."""
    from pyro_vae.experiment.train.training_session import Session

    with pytest.MonkeyPatch.context() as patch:
        save = Session.save

        def save_and_stop(self, record):
            save(self, record)
            if record.epoch == epochs:
                os.kill(os.getpid(), signal.SIGTERM)

        patch.setattr(Session, "save", save_and_stop)
        return run(*arguments)


@pytest.mark.parametrize("epochs", [5, *thorough(4, 6)])
def test_a_run_killed_outright_ends_with_the_same_bytes(tiny, tmp_path, epochs):
    assert run("--dataset", tiny, "--epochs", 6, "--out", "whole") == 0
    cut_after(epochs, tmp_path / "whole", tmp_path / "cut")
    assert resume("--out", "cut") == 0
    assert result(tmp_path / "cut") == result(tmp_path / "whole")


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(tiny, tmp_path, capsys):
    assert run("--dataset", tiny, "--epochs", 6, "--out", "whole") == 0
    cut_after(6, tmp_path / "whole", tmp_path / "cut")
    path = tmp_path / "cut/checkpoints/epoch-00006.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    capsys.readouterr()
    assert resume("--out", "cut") == 0
    out, err = capsys.readouterr()
    assert err.startswith("warning: ")
    assert "epoch-00006.safetensors" in err
    assert "going on after epoch 5" in out
    assert result(tmp_path / "cut") == result(tmp_path / "whole")


@pytest.mark.thorough
def test_a_process_that_is_killed_goes_on_in_another(tmp_path):
    flags = [*SMALL, "--epochs", 30, "--kl-warmup", 20, "--out"]
    cut = start(*flags, "cut")
    awaited(tmp_path / "cut/checkpoints/epoch-00005.json", cut)
    cut.kill()
    cut.communicate()
    reached = len((tmp_path / "cut/history.jsonl").read_text().splitlines())
    again = start("--out", "cut", "--resume")
    whole = start(*flags, "whole")
    out, err = again.communicate()
    whole.communicate()
    assert (cut.returncode, again.returncode, whole.returncode, err) == (-signal.SIGKILL, 0, 0, "")
    assert reached < 30
    assert "going on after epoch" in out
    assert result(tmp_path / "cut") == result(tmp_path / "whole")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_a_process_with_its_code_and_without_a_traceback(tmp_path, number, code):
    process = start(*SMALL, "--epochs", 100_000, "--compile", "no", "--out", "cut")
    awaited(tmp_path / "cut/checkpoints/epoch-00002.json", process)
    process.send_signal(number)
    _, err = process.communicate()
    assert process.returncode == code
    assert err == (
        "interrupted: keeping this step; a second signal ends at once\n"
        f"interrupted: what was reached is kept; {Path(sys.executable).name} {SCRIPT} --out cut --resume goes on\n"
    )
    assert read(tmp_path / "cut", "run.json")["status"] == "interrupted"
    assert next(pv.load(tmp_path / "cut").parameters()).isfinite().all()


def awaited(path, process):
    deadline = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.thorough
def test_a_run_that_was_taken_up_again_names_the_line_that_makes_all_of_it(tiny, tmp_path):
    flags = ["--dataset", tiny, "--epochs", 3, "--kl-weight", 0.5, "--max-grad-norm", 2, "--out", "cut"]
    assert stopped_after(1, *flags) == 143
    assert resume("--out", "cut") == 0
    line = shlex.split(read(tmp_path / "cut", "run.json")["command"])
    assert line[:2] == ["pyro-vae", "train"]
    config = read(tmp_path / "cut", "config.json")
    shutil.rmtree("cut")
    assert exit_code(MAIN, line[2:]) == 0
    assert read(tmp_path / "cut", "config.json") == config


# What --resume may and may not do.


def test_resume_without_a_run_starts_afresh(tiny, tmp_path):
    assert run("--dataset", tiny, "--epochs", 2, "--out", "new", "--resume") == 0
    assert run("--dataset", tiny, "--epochs", 2, "--out", "plain") == 0
    assert result(tmp_path / "new") == result(tmp_path / "plain")


def test_resume_before_the_first_checkpoint_starts_afresh(tiny, tmp_path):
    assert run("--dataset", tiny, "--epochs", 2, "--out", "whole") == 0
    cut_after(0, tmp_path / "whole", tmp_path / "cut")
    history = tmp_path / "cut/history.jsonl"
    history.write_text(history.read_text().splitlines(keepends=True)[0])  # its record is written before
    assert resume("--out", "cut") == 0
    assert result(tmp_path / "cut") == result(tmp_path / "whole")


def test_resume_without_the_checkpoints_of_a_history_is_refused(tiny, tmp_path, capsys):
    assert run("--dataset", tiny, "--epochs", 2, "--out", "whole") == 0
    cut_after(0, tmp_path / "whole", tmp_path / "cut")
    assert resume("--out", "cut") == 4
    assert "is empty, but cut/history.jsonl records 2 epochs" in capsys.readouterr().err


def test_resume_of_a_finished_run_says_so_and_changes_nothing(tiny, tmp_path, capsys):
    assert run("--dataset", tiny, "--epochs", 2, "--out", "done") == 0
    before = snapshot(tmp_path / "done")
    capsys.readouterr()
    assert resume("--out", "done") == 0
    out, _ = capsys.readouterr()
    assert out.startswith("done is finished.")
    assert (tmp_path / "done/report.txt").read_text() in out
    assert snapshot(tmp_path / "done") == before


def test_a_finished_run_can_be_reported_on_with_more_draws(tiny, tmp_path):
    assert run("--dataset", tiny, "--epochs", 2, "--out", "done") == 0
    before = read(tmp_path / "done", "report.json")["test"]
    assert resume("--out", "done", "--test-samples", 50, "--elbo-samples", 7, "--test-data", 5) == 0
    after = read(tmp_path / "done", "report.json")["test"]
    assert (after["log_likelihood"]["num_samples"], after["elbo"]["num_samples"]) == (50, 7)
    assert [after[name]["num_data"] for name in after] == [5] * 5
    assert before["elbo"]["num_data"] == 12


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--resume", "--latent-dim", 3], "latent_dim=2, not 3"),
        (["--resume", "--lr", 0.5], "lr=0.003, not 0.5"),
        (["--resume", "--epochs", 9], "epochs=2, not 9"),  # cosine: another end is another run
        ([], "add --resume"),
    ],
)
def test_what_a_run_was_started_with_stays(tiny, tmp_path, capsys, flags, words):
    assert run("--dataset", tiny, "--epochs", 2, "--out", "done") == 0
    before = snapshot(tmp_path / "done")
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        MAIN([str(flag) for flag in ("--out", "done", *flags)])
    assert end.value.code == 2
    assert words in capsys.readouterr().err
    assert snapshot(tmp_path / "done") == before


def test_resume_refuses_other_data(tiny, tmp_path, capsys):
    assert run("--dataset", tiny, "--epochs", 2, "--out", "whole") == 0
    cut_after(1, tmp_path / "whole", tmp_path / "cut")
    np.save(tiny, np.load(tiny)[::-1])
    before = snapshot(tmp_path / "cut")
    assert resume("--out", "cut") == 4
    assert "was trained on other data" in capsys.readouterr().err
    assert snapshot(tmp_path / "cut") == before


def test_resume_needs_to_know_the_run(capsys):
    assert resume() == 2
    assert "add --out" in capsys.readouterr().err


# Mistakes: one sentence, the right code, and no folder.


def saved(name, x):
    np.save(name, x)
    return name


GREY = np.linspace(0, 1, 60 * 4, dtype=np.float32).reshape(60, 4)


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        (["--likelihood", "bernouli"], 2, ["bernouli", "did you mean 'bernoulli'?"]),
        (["--dataset", "digit"], 2, ["digit", "did you mean 'digits'?"]),
        (["--lr", "0"], 2, ["lr", "above 0", "0.0"]),
        (["--lr", "nan"], 2, ["lr", "nan"]),
        (["--objective", "iwae", "--kl-weight", "0.5"], 2, ["iwae", "weights must be 1"]),
        (["--device", "nonesuch"], 2, ["nonesuch", "--device cpu"]),
        (["--posterior", "delta"], 2, ["plain autoencoder", "infinite KL", "with --kl-weight 0, not 1"]),
        (["--posterior", "delta", "--kl-weight", "0.5"], 2, ["with --kl-weight 0, not 0.5"]),
        (["--posterior", "delta", "--kl-weight", "0", "--prior", "flow"], 2, ["--prior flow", "Use --prior standard"]),
        (["--posterior", "delta", "--kl-weight", "0", "--prior", "vamp"], 2, ["VampPrior", "posterior has no density"]),
        (["--prior", "conditional"], 2, ["p(z|y)", "train with --conditional"]),
        (["--dataset", lambda: saved("flat.npy", GREY), "--conditional"], 2, ["flat.npy", "no labels", "leave it out"]),
        (["--likelihood", "categorical", "--dequantize"], 2, ["the levels as they are", "leave out --binarize"]),
        (["--likelihood", "poisson", "--binarize", "static"], 2, ["the levels as they are", "leave out --binarize"]),
        (["--binarize", "none"], 3, ["Bernoulli needs x in {0, 1}", "at row 1182", "--binarize dynamic"]),
        (["--dataset", "missing.npy"], 3, ["missing.npy", "no such file"]),
        (["--dataset", lambda: saved("nan.npy", np.where(GREY == 1, np.nan, GREY))], 3, ["nan", "row 59"]),
        (["--dataset", lambda: saved("line.npy", np.zeros(60))], 3, ["line.npy", "(60,)"]),
        (["--dataset", lambda: saved("empty.npy", np.zeros((0, 4)))], 3, ["empty"]),
        (["--dataset", lambda: saved("flat.npy", GREY), "--network", "conv"], 2, ["images (C, H, W)", "(4,)"]),
        (["--out", lambda: f"{saved('file.npy', GREY)}/run"], 6, ["file.npy/run", "Not a directory", "--out"]),
    ],
    ids=lambda value: str(value[0]) if isinstance(value, list) else None,
)
def test_a_mistake_is_answered_by_one_sentence(tmp_path, capsys, flags, code, words):
    flags = [flag() if callable(flag) else flag for flag in flags]
    before = set(tmp_path.iterdir())
    out = [] if "--out" in flags else ["--out", "run"]
    assert run("--epochs", 1, *flags, *out) == code
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert [word for word in words if word not in err] == []
    assert set(tmp_path.iterdir()) == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="here cuda can be used")
def test_a_missing_accelerator_is_a_usage_error(capsys):
    assert run("--device", "cuda", "--out", "run") == 2
    assert "device 'cuda' cannot be used here" in capsys.readouterr().err


@pytest.mark.thorough
def test_a_process_with_bad_data_shows_no_traceback(tmp_path):
    process = start(*SMALL, "--binarize", "none", "--out", "run")
    out, err = process.communicate()
    assert (process.returncode, out, err.count("\n")) == (3, "", 1)
    assert err.startswith("error: digits: Bernoulli needs x in {0, 1}")


def test_a_diverged_run_keeps_its_last_good_state(tiny, tmp_path, capsys, monkeypatch):
    # The second epoch diverges: one good epoch comes first.
    from pyro_vae.inference import fitting

    rate = fitting.learning_rate_factor
    monkeypatch.setattr(fitting, "learning_rate_factor", lambda s, epoch, n: rate(s, epoch, n) * 1e9 ** (epoch > 0))
    assert run("--dataset", tiny, "--epochs", 4, "--batch-size", 8, "--out", "run") == 5
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert "--lr" in err
    assert read(tmp_path / "run", "run.json")["status"] == "diverged"
    assert not (tmp_path / "run/report.json").exists()
    assert all(p.isfinite().all() for p in pv.load(tmp_path / "run").parameters())


def test_a_rate_that_diverges_at_once_says_so(tiny, tmp_path, capsys):
    assert run("--dataset", tiny, "--epochs", 3, "--lr", "1e6", "--batch-size", 8, "--out", "run") == 5
    assert "smaller learning rate" in capsys.readouterr().err
    assert read(tmp_path / "run", "run.json")["status"] == "diverged"


# The report of a run.


def test_the_report_of_a_run(tiny, tmp_path, capsys):
    assert run("--dataset", tiny, "--epochs", 3, "--out", "run") == 0
    folder = tmp_path / "run"
    found, text = read(folder, "report.json"), (folder / "report.txt").read_text()
    test = found["test"]
    promised = {"mean", "standard_error", "monte_carlo_error", "num_samples", "num_data", "unit"}
    assert {"elbo", "reconstruction", "kl", "log_likelihood", "bits_per_dim"} == test.keys()
    assert all(promised <= entry.keys() for entry in test.values())
    assert {entry["unit"] for name, entry in test.items() if name != "bits_per_dim"} == {"nats"}
    # Binary data are discrete, so that -log p(x) counts bits: 16 pixels.
    bits = -test["log_likelihood"]["mean"] / 16 / math.log(2)
    assert (test["bits_per_dim"]["mean"], test["bits_per_dim"]["unit"]) == (pytest.approx(bits), "bits/dim")
    assert {entry["num_data"] for entry in test.values()} == {12}
    assert (test["elbo"]["num_samples"], test["log_likelihood"]["num_samples"]) == (5, 20)
    assert test["elbo"]["mean"] == pytest.approx(test["reconstruction"]["mean"] - test["kl"]["mean"])
    assert test["elbo"]["mean"] < 0 < test["kl"]["mean"]
    assert test["kl"]["kind"] == {"z": "analytic"}
    assert found["protocol"] == read(folder, "run.json")["protocol"]
    assert text in capsys.readouterr().out
    for name, label in (("elbo", "ELBO"), ("log_likelihood", "log p(x)")):
        row = next(line for line in text.splitlines() if line.startswith(label)).split()
        assert f"{test[name]['mean']:.3f}" in row
    assert {path.name for path in folder.glob("*.png")} == {"training.png", "samples.png", "reconstructions.png"}


@pytest.mark.thorough
def test_a_reader_that_leaves_ends_the_run_without_a_traceback(tiny, tmp_path):
    with start(*SMALL, "--dataset", tiny, "--epochs", 2000, "--out", "piped") as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read().startswith(
            "interrupted: no one reads the output any more: what was reached is kept"
        )
    assert process.returncode == 141
    assert read(tmp_path / "piped", "run.json")["status"] == "interrupted"


def test_tensorboard_gets_the_epochs(tiny, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    out = tmp_path / "board"
    assert run("--dataset", tiny, "--epochs", 3, "--tensorboard", "--out", out) == 0
    events = EventAccumulator(str(out / "tensorboard"))
    events.Reload()
    history = [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
    assert [e.value for e in events.Scalars("valid_elbo")] == pytest.approx(
        [r["valid_elbo"] for r in history], rel=1e-6
    )


def test_the_report_is_on_the_best_epoch_which_load_gives_back(tiny, tmp_path):
    # At this rate the first epoch is the best.
    flags = ["--dataset", tiny, "--epochs", 5, "--lr", 0.3, "--lr-schedule", "constant", "--batch-size", 8]
    assert run(*flags, "--out", "run") == 0
    history = [json.loads(line) for line in (tmp_path / "run/history.jsonl").read_text().splitlines()]
    best = max(history, key=lambda record: record["valid_elbo"])
    training = read(tmp_path / "run", "report.json")["training"]
    assert training == {"epochs": 5, "best_epoch": best["epoch"], "valid_elbo": best["valid_elbo"]}
    assert best["epoch"] < 5
    data, vae = pv.data.load(tiny), pv.load(tmp_path / "run")
    again = pv.evaluation.elbo(vae, data.valid.fixed(), 4, seed=derive(0, "validation"))
    assert again.mean == best["valid_elbo"]
    test = pv.evaluation.elbo(vae, data.test.fixed(), 5, seed=derive(0, "evaluation"))
    assert test.mean == read(tmp_path / "run", "report.json")["test"]["elbo"]["mean"]


def test_a_weighted_run_reports_its_loss_and_the_true_elbo(tiny, tmp_path):
    assert run("--dataset", tiny, "--epochs", 2, "--kl-weight", 0.25, "--reconstruction-weight", 2, "--out", "run") == 0
    found, text = read(tmp_path / "run", "report.json"), (tmp_path / "run/report.txt").read_text()
    reconstruction, kl = (found["test"][name]["mean"] for name in ("reconstruction", "kl"))
    assert found["objective"]["loss"] == pytest.approx(-2 * reconstruction + 0.25 * kl)
    assert found["test"]["elbo"]["mean"] == pytest.approx(reconstruction - kl)
    assert f"{found['objective']['loss']:.3f} nats, which is not a bound" in text


# A plain autoencoder, and classes.


def test_an_autoencoder_is_trained_reported_and_taken_up_again(tiny, tmp_path, capsys):
    flags = ["--dataset", tiny, "--posterior", "delta", "--kl-weight", 0, "--likelihood", "normal", "--epochs", 5]
    assert run(*flags, "--tensorboard", "--out", "run") == 0
    out, err = capsys.readouterr()
    assert err == ""
    found, text = read(tmp_path / "run", "report.json"), (tmp_path / "run/report.txt").read_text()
    assert found["test"].keys() == {"reconstruction", "rmse"}
    assert found["autoencoder"] == {"numbers_in": 16, "numbers_in_code": 2}
    vae, x = pv.load(tmp_path / "run"), pv.data.load(tiny).test.fixed()
    errors = (vae.reconstruct(x)[0] - x).square().mean((1, 2, 3)).sqrt()
    assert found["test"]["rmse"]["mean"] == pytest.approx(errors.mean().item(), rel=1e-6)
    words = " ".join(text.split())
    assert "16 numbers in, 2 in the code" in words
    assert f"RMSE, per number {errors.mean():.3f}" in words
    assert not any(line.startswith(("ELBO", "KL", "log p(x)", "-log p")) for line in text.splitlines())
    assert text in out
    with pytest.raises(ValueError, match=r"a plain autoencoder has no importance weights and no log p\(x\)"):
        pv.evaluation.iwae(vae, x, 3)
    history = [json.loads(line) for line in (tmp_path / "run/history.jsonl").read_text().splitlines()]
    assert [(r["valid_elbo"], r["valid_kl"], r["valid_standard_error"]) for r in history] == [(None, None, None)] * 5
    best = max(history, key=lambda r: r["valid_reconstruction"])
    assert found["training"] == {"epochs": 5, "best_epoch": best["epoch"], "valid_elbo": None}

    assert run(*flags, "--out", "whole") == 0
    cut_after(3, tmp_path / "whole", tmp_path / "cut")
    assert resume("--out", "cut") == 0
    assert result(tmp_path / "cut") == result(tmp_path / "whole") == result(tmp_path / "run")


@pytest.mark.thorough
def test_a_conditional_run_tells_the_classes_apart(tmp_path, capsys):
    """One pixel says which class it is, and the program is told the class: others make that pixel unlikely."""
    y = np.arange(120) % 3
    x = np.random.default_rng(0).random((120, 2, 3)) < 0.5
    x[:, 0] = np.eye(3, dtype=bool)[y]
    np.savez("classes.npz", x=x, y=y)
    flags = ["--dataset", "classes.npz", "--conditional", "--prior", "conditional", "--epochs", 60, "--lr", 0.03]
    assert run(*flags, "--elbo-samples", 30, "--out", "run") == 0
    found, text = read(tmp_path / "run", "report.json"), (tmp_path / "run/report.txt").read_text()
    assert found["classification"]["accuracy"] == 1.0
    assert found["classification"]["khat_above_0.7"].keys() == {"true_class", "other_classes"}
    # The best possible is 3 ln 2 for the three free pixels: p(x|y) has the rest for granted.
    assert -2.3 < found["test"]["log_likelihood"]["mean"] / (3 * math.log(2)) < -0.95
    words = " ".join(text.split())
    assert "log p(x|y), nats" in words
    assert "100.0% right" in words
    assert text in capsys.readouterr().out
    vae, y = pv.load(tmp_path / "run"), torch.eye(3).repeat_interleave(50, 0)
    assert (vae.generate(y=y, mean=True)[:, 0, 0].argmax(-1) == y.argmax(-1)).all()


@pytest.mark.thorough
def test_a_run_on_levels_is_about_their_probability(tmp_path):
    x = np.random.default_rng(0).integers(0, 256, (60, 4, 4), dtype=np.uint8)
    np.save("grey.npy", x)
    assert run("--dataset", "grey.npy", "--likelihood", "discretized_logistic", "--epochs", 2, "--out", "run") == 0
    test = read(tmp_path / "run", "report.json")["test"]
    by_hand = -test["log_likelihood"]["mean"] / (16 * math.log(2))
    assert test["bits_per_dim"]["mean"] == pytest.approx(by_hand)
    assert 8 < by_hand < 16
    vae = pv.load(tmp_path / "run")
    drawn = vae.generate(50)
    assert torch.equal(drawn, drawn.round())
    assert drawn.max() > 200  # levels, not intensities


@pytest.mark.parametrize("weight", ["--kl-weight", "--reconstruction-weight"])
def test_one_term_alone_can_be_trained(tiny, tmp_path, weight):
    assert run("--dataset", tiny, "--epochs", 2, weight, 0, "--out", "run") == 0
    assert read(tmp_path / "run", "report.json")["objective"][weight[2:].replace("-", "_")] == 0.0


def test_a_dequantised_run_reports_bits_per_dimension(tmp_path):
    np.save("grey.npy", np.random.default_rng(0).integers(0, 256, (60, 4, 4), dtype=np.uint8))
    flags = ["--dataset", "grey.npy", "--likelihood", "normal", "--scale", 0.3, "--dequantize", "--epochs", 2]
    assert run(*flags, "--out", "run") == 0
    test = read(tmp_path / "run", "report.json")["test"]
    # p(v) >= p(x) / 256^16 on 16 pixels, in bits for each of them.
    by_hand = (16 * math.log(256) - test["log_likelihood"]["mean"]) / (16 * math.log(2))
    assert test["bits_per_dim"]["mean"] == pytest.approx(by_hand)
    assert 8 < by_hand < 12  # uniform noise of 8 bits under a density that is not uniform


def test_a_single_test_datum_has_no_error_and_no_nan(tmp_path):
    x = np.random.default_rng(0).random((22, 1, 4, 4)) < 0.5
    np.savez("one.npz", x_train=x[:20], x_valid=x[20:21], x_test=x[21:])
    flags = ["--dataset", "one.npz", "--elbo-samples", 1, "--test-samples", 1, "--epochs", 2]
    assert run(*flags, "--out", "run") == 0
    test = read(tmp_path / "run", "report.json")["test"]
    assert [(e["standard_error"], e["num_data"]) for e in test.values()] == [(None, 1)] * 5
    assert test["log_likelihood"]["monte_carlo_error"] is None
    assert "NaN" not in (tmp_path / "run/report.json").read_text() + (tmp_path / "run/history.jsonl").read_text()


def test_data_that_are_no_images_get_no_pictures_of_data(tmp_path):
    np.save("flat.npy", GREY)
    assert run("--dataset", "flat.npy", "--likelihood", "normal", "--epochs", 1, "--out", "run") == 0
    assert {path.name for path in (tmp_path / "run").glob("*.png")} == {"training.png", "columns.png"}


@pytest.mark.thorough
def test_progress_is_one_line_an_epoch_and_never_hundreds(tiny, capsys):
    assert run("--dataset", tiny, "--epochs", 3, "--out", "short") == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch")]
    assert [line.split()[1] for line in lines] == ["1/3", "2/3", "3/3"]
    assert run("--dataset", tiny, "--epochs", 100, "--out", "long") == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch")]
    assert len(lines) == 21
    assert "100/100" in lines[-1]


def test_without_out_a_new_folder_below_runs_is_made(tiny, tmp_path):
    assert run("--dataset", tiny, "--epochs", 1) == 0
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.endswith("tiny-bernoulli")
    assert read(folder, "run.json")["status"] == "finished"


def test_a_run_leaves_the_callers_random_state_and_precision_alone(tiny):
    before = torch.random.get_rng_state(), np.random.get_state()[1].tolist(), torch.get_default_dtype()  # noqa: NPY002
    with pyro.get_param_store().scope():
        assert run("--dataset", tiny, "--epochs", 2, "--out", "run") == 0
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]  # noqa: NPY002
    assert torch.get_default_dtype() is before[2]


def test_notes_on_a_users_own_data_name_flags_and_an_untrained_class_is_a_warning(tmp_path, capsys):
    x = np.random.default_rng(0).integers(0, 17, (60, 4, 4), np.uint8)
    np.savez(tmp_path / "own.npz", x=x, y=np.arange(60) // 12)
    assert run("--dataset", "own.npz", "--split", "contiguous", "--epochs", "1", "--no-test") == 0
    out, error = capsys.readouterr()
    assert "note: The largest level is 16: read as 17 levels, 0 ... 16; --levels overrides this." in out
    assert "warning: No training datum has the label 4, which 12 of the 12 test data have." in error
    assert out.splitlines()[0] == "own.npz: 60 images of 1 x 4 x 4, 17 levels, labels 0 ... 4"
    assert out.splitlines()[1].startswith("42 of them to train on; run folder runs/")
