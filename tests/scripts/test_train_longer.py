"""Training longer: more epochs in the same folder, and a new run that starts from the weights of another."""

import json
import re
import runpy
import shlex
import shutil
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from cases import thorough
from scripted import exit_code, save_tiny

import pyro_vae as pv
from pyro_vae.errors import CheckpointError, UsageError
from pyro_vae.experiment import build, presets, program_members, tables
from pyro_vae.experiment.config import Config
from pyro_vae.experiment.run import checkpoint, files
from pyro_vae.experiment.train import earlier_run
from pyro_vae.experiment.train.earlier_run import OF_THE_PROGRAM, EarlierRun
from pyro_vae.experiment.train.start_decision import decide

pytestmark = pytest.mark.usefixtures("sketched")

MAIN = runpy.run_path(str(Path(__file__).parents[2] / "scripts" / "train_svi.py"))["main"]
SMALL = ["--hidden", 8, "--latent-dim", 2, "--test-samples", 20, "--elbo-samples", 5]
CONSTANT = [*SMALL, "--lr-schedule", "constant"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def tiny():
    return save_tiny()


def train(*arguments):
    assert exit_code(MAIN, arguments) == 0


def refused(capsys, *arguments):
    """The sentence that a command ends with, which leaves no folder."""
    before = sorted(Path().rglob("*"))
    capsys.readouterr()
    assert exit_code(MAIN, arguments) == 2
    assert sorted(Path().rglob("*")) == before
    return capsys.readouterr().err


def read(path):
    return json.loads(Path(path).read_bytes())


def history(folder):
    return [json.loads(line) for line in (Path(folder) / "history.jsonl").read_text().splitlines()]


def result(folder):
    """All that a run found, byte by byte."""
    last = max(Path(folder, "checkpoints").glob("*.json"))
    named = (last, last.with_suffix(".safetensors"), *(Path(folder, n) for n in ("history.jsonl", "config.json")))
    shown = (*Path(folder).glob("report.*"), *sorted(Path(folder).glob("*.png")))
    return {path.name: path.read_bytes() for path in (*named, *shown)}


def tensors(folder):
    return checkpoint.newest(Path(folder, "checkpoints"))[0].tensors()


# More epochs in the same folder.


@pytest.mark.parametrize("more", [["--kl-warmup", 5], *thorough([], ["--patience", 3, "--lr", 0.3])], ids=str)
def test_a_run_that_is_trained_longer_is_the_run_of_all_its_epochs_to_the_byte(tiny, more):
    flags = [*CONSTANT, "--dataset", tiny, *more]
    train(*flags, "--epochs", 7, "--out", "whole")
    train(*flags, "--epochs", 4, "--out", "cut")
    train("--out", "cut", "--resume", "--epochs", 7)
    assert result("cut") == result("whole")
    assert read("cut/run.json")["status"] == "finished"


@pytest.mark.thorough
def test_more_patience_goes_on_as_if_it_had_been_there_under_any_learning_rate(tiny):
    flags = [*SMALL, "--dataset", tiny, "--epochs", 8, "--lr", 0.3, "--batch-size", 8]
    train(*flags, "--patience", 0, "--out", "whole")
    train(*flags, "--patience", 1, "--out", "cut")
    assert len(history("cut")) < 8
    train("--out", "cut", "--resume", "--patience", 0)
    assert result("cut") == result("whole")


@pytest.mark.thorough
def test_epochs_that_patience_forbids_are_told_of(tiny, capsys):
    flags = [*CONSTANT, "--dataset", tiny, "--lr", 0.3, "--batch-size", 8, "--patience", 1]
    train(*flags, "--epochs", 9, "--out", "run")
    ended = len(history("run"))
    assert ended < 9
    capsys.readouterr()
    train("--out", "run", "--resume", "--epochs", 12)
    assert f"note: training ended after epoch {ended} of 12, 1 epoch after the best one" in capsys.readouterr().err
    assert len(history("run")) == ended


@pytest.mark.thorough
def test_less_patience_is_refused(tiny, capsys):
    train(*CONSTANT, "--dataset", tiny, "--epochs", 2, "--patience", 5, "--out", "run")
    assert "patience=5, not 4" in refused(capsys, "--out", "run", "--resume", "--patience", 4)


@pytest.mark.thorough
def test_a_kill_before_the_first_of_more_epochs_leaves_no_run_that_looks_finished(tiny, monkeypatch):
    flags = [*CONSTANT, "--dataset", tiny]
    train(*flags, "--epochs", 4, "--out", "whole")
    train(*flags, "--epochs", 2, "--out", "cut")
    write = files.write

    def killed(path, content):
        write(path, content)
        if path.name == "config.json":
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(files, "write", killed)
        with pytest.raises(KeyboardInterrupt):
            MAIN(["--out", "cut", "--resume", "--epochs", "4"])
    train("--out", "cut", "--resume", "--epochs", 4)
    assert result("cut") == result("whole")


@pytest.mark.thorough
@pytest.mark.parametrize("schedule", ["cosine", *thorough("step")])
def test_a_falling_rate_refuses_more_epochs_and_the_line_that_it_names_works(tiny, capsys, schedule):
    train(*SMALL, "--dataset", tiny, "--epochs", 3, "--lr-schedule", schedule, "--out", "my runs/x")
    said = refused(capsys, "--out", "my runs/x", "--resume", "--epochs", 5)
    assert "epochs=3, not 5" in said
    assert f"under --lr-schedule {schedule}" in said
    assert "started with --lr-schedule constant can go on" in said
    line = shlex.split(said.partition("more epochs: ")[2])
    train(*line[line.index("--start-from") :])
    assert len(history("my runs/x-longer")) == 2
    assert "my runs/x-longer-2" in refused(capsys, "--out", "my runs/x", "--resume", "--epochs", 5)


# A new run that starts from the weights of another.


@pytest.fixture
def first(tiny):
    """A run whose last epoch is not its best."""
    train(*CONSTANT, "--dataset", tiny, "--epochs", 5, "--lr", 0.3, "--seed", 3, "--kl-warmup", 2, "--out", "first")
    assert next(r["epoch"] for r in reversed(history("first")) if r["best"]) == 4
    return "first"


def test_a_run_starts_from_the_weights_of_the_best_epoch_and_from_the_settings(first):
    train("--start-from", first, "--epochs", 1, "--lr", 1e-9, "--out", "second")
    settings = Config.from_dict(read("first/config.json"))
    assert Config.from_dict(read("second/config.json")) == replace(settings, epochs=1, lr=1e-9, kl_warmup=0)
    for name, tensor in tensors("first").items():
        assert torch.allclose(tensors("second")[name], tensor, atol=1e-6), name
    best = max(record["valid_elbo"] for record in history("first") if record["best"])
    assert history("second")[0]["valid_elbo"] == pytest.approx(best, abs=1e-3)


def test_a_run_says_where_its_weights_come_from(first):
    train("--start-from", first, "--epochs", 1, "--out", "second")
    best = max(record["epoch"] for record in history("first") if record["best"])
    (record,) = read("second/run.json")["started_from"]
    path = Path("first/checkpoints", record["checkpoint"])
    assert (record["run"], record["epoch"], record["sha256"]) == ("first", best, files.sha256(path.read_bytes()))
    assert record["unseen"] is True
    (told,) = read("second/report.json")["training"]["started_from"]
    assert told == {name: record[name] for name in ("run", "epoch", "checkpoint", "sha256", "unseen")}
    text = " ".join(Path("second/report.txt").read_text().split())
    assert f"training started from the weights of epoch {best} of first ({path.name}, SHA-256 {told['sha256']})" in text
    train("--start-from", "second", "--epochs", 1, "--out", "third")
    assert [record["run"] for record in read("third/run.json")["started_from"]] == ["second", "first"]
    text = " ".join(Path("third/report.txt").read_text().split())
    assert "; that training started from the weights of" in text


@pytest.mark.thorough
@pytest.mark.parametrize("epochs", [0, *thorough(1, 2)])
def test_a_run_that_started_from_another_and_was_killed_needs_it_no_more(first, monkeypatch, epochs):
    flags = ["--start-from", first, "--epochs", 3, "--lr", 0.01, "--out"]
    train(*flags, "whole")
    save = checkpoint.save

    def killed(folder, state):
        path = save(folder, state)
        if state.progress.epoch == epochs:
            raise KeyboardInterrupt
        return path

    monkeypatch.setattr(checkpoint, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        MAIN([*map(str, flags), "cut"])
    monkeypatch.setattr(checkpoint, "save", save)
    shutil.move(first, "moved away")
    train("--out", "cut", "--resume")
    assert result("cut") == result("whole")
    assert read("cut/run.json")["started_from"] == read("whole/run.json")["started_from"]
    if epochs:
        shutil.move("moved away", first)
        shutil.rmtree("whole")
        line = shlex.split(read("cut/run.json")["command"].replace("--out cut", "--out whole"))
        train(*line[line.index("--start-from") :])
        assert result("cut") == result("whole")


@pytest.mark.thorough
def test_a_run_killed_before_it_kept_the_weights_takes_the_same_or_none(first, monkeypatch, capsys):
    flags = ["--start-from", first, "--epochs", 3, "--out"]
    train(*flags, "whole")
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            MAIN([*map(str, flags), "cut"])
    shutil.copytree("cut", "late")
    train("--out", "cut", "--resume")
    assert result("cut") == result("whole")
    train("--out", first, "--resume", "--epochs", 6)
    capsys.readouterr()
    assert exit_code(MAIN, ["--out", "late", "--resume"]) == 4
    assert "first was trained further since late began" in capsys.readouterr().err


@pytest.mark.thorough
def test_the_same_line_with_resume_goes_on_and_another_run_is_refused(first, capsys):
    flags = ["--start-from", first, "--epochs", 2, "--resume", "--out", "second"]
    train(*flags)
    train(*flags)
    shutil.copytree(first, "other")
    said = refused(capsys, "--start-from", "other", "--resume", "--out", "second")
    assert "second was started from first, not from other: leave --start-from out" in said
    said = refused(capsys, "--start-from", "other", "--resume", "--out", first)
    assert "first was started from random weights" in said


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--latent-dim", 3], "has latent_dim=2, not 3, and its weights fit no other program: leave out --latent-dim"),
        *thorough((["--hidden", 9, "--activation", "tanh"], r"hidden=\(8,\), not \(9,\), activation=relu, not tanh")),
        (["--prior", "vamp"], r"prior=standard, not vamp.*To fit another prior .* first --prior vamp"),
        *thorough(
            (["--preset", "vamp_dynamic_mnist"], "its weights fit no other program: leave out --preset"),
            (["--kl-weight", 0, "--reconstruction-weight", 0], "are both 0"),
        ),
    ],
)
def test_what_does_not_fit_the_weights_is_named(first, capsys, flags, words):
    assert re.search(words, refused(capsys, "--start-from", first, *flags, "--out", "second"))


@pytest.mark.thorough
def test_what_may_change_changes(first):
    flags = ["--num-components", 7, "--lr", 0.01, "--seed", 5, "--kl-weight", 0.5, "--objective", "trace_elbo"]
    train("--start-from", first, "--epochs", 1, *flags, "--precision", "bfloat16", "--out", "second")
    assert read("second/config.json")["objective"] == "trace_elbo"


PUBLISHED = """
start: {start}
target: {{quantity: log_likelihood, value: -9.0, tolerance: 5.0, source: a paper, protocol: as there}}
settings: {{dataset: tiny.npy, hidden: [8], latent_dim: 2, test_samples: 20, elbo_samples: 5, epochs: 2, lr: {lr}}}
"""


@pytest.fixture
def published(tmp_path, monkeypatch):
    """Two presets, of which the second starts from a run of the first."""
    monkeypatch.setattr(presets, "_FOLDER", tmp_path)
    monkeypatch.setattr(tables, "PRESETS", ("one_of_two", "two_of_two"))
    for name, start, lr in (("one_of_two", "''", 0.003), ("two_of_two", "one_of_two", 0.001)):
        (tmp_path / f"{name}.yaml").write_text(PUBLISHED.format(start=start, lr=lr))
    save_tiny()


def test_a_preset_starts_from_a_run_of_the_preset_that_it_names(published):
    train("--preset", "one_of_two", "--seed", 3, "--out", "first")
    train("--preset", "two_of_two", "--seed", 5, "--start-from", "first", "--out", "second")
    config = read("second/config.json")
    assert (config["lr"], config["seed"], config["preset"]) == (0.001, 5, "two_of_two")
    verdict = read("second/report.json")["preset"]
    assert verdict["changed"] == {}
    assert verdict["verdict"] in ("reached", "missed")


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("first", "named"),
    [
        (None, "random weights"),
        (["--preset", "one_of_two", "--kl-weight", "0.9"], "first"),
        (["--preset", "two_of_two"], "first"),
        ([*SMALL, "--dataset", "tiny.npy", "--epochs", 2], "first"),
    ],
)
def test_a_preset_that_started_otherwise_has_no_verdict(published, capsys, first, named):
    start = [] if first is None else ["--start-from", "first"]
    if first:
        train(*first, "--out", "first")
    capsys.readouterr()
    train("--preset", "two_of_two", *start, "--out", "second")
    said = capsys.readouterr().err
    assert ("two_of_two starts from the weights of one_of_two" in said) == (first is None)
    verdict = read("second/report.json")["preset"]
    assert (verdict["verdict"], verdict["changed"]) == ("not comparable", {"start_from": named})


def test_a_preset_that_begins_with_random_weights_has_no_verdict_after_others(published):
    train("--preset", "two_of_two", "--out", "first")
    train("--preset", "one_of_two", "--start-from", "first", "--out", "second")
    assert read("second/report.json")["preset"]["changed"] == {"start_from": "first"}


@pytest.mark.thorough
@pytest.mark.parametrize("start", [[], ["--start-from", "first"]])
def test_the_command_of_a_run_of_a_changed_preset_makes_it_again(published, start):
    train("--preset", "one_of_two", "--out", "first")
    # 0.003 is the default of the flag, and not of the preset.
    line = ["--preset", "two_of_two", "--lr", 0.003, "--epochs", 1, *start, "--out", "second"]
    train(*line, "--no-test")
    train("--out", "second", "--resume")
    again = shlex.split(read("second/run.json")["command"])
    assert again[:2] == ["pyro-vae", "train"]
    shutil.rmtree("second")
    train(*again[2:])
    assert read("second/config.json")["lr"] == 0.003
    assert read("second/config.json")["preset"] == "two_of_two"


def test_settings_of_the_program_are_all_that_its_members_take():
    taken = set().union(*(program_members.takes(Config(**{f: n}), f)
                          for f, table in program_members.TABLES.items() for n in getattr(tables, table)))  # fmt: skip
    named = {field.name for field in fields(Config)}
    only_starts = {"pseudo_inputs"}
    assert (taken & named) - only_starts <= {*OF_THE_PROGRAM}
    assert named >= {*OF_THE_PROGRAM}


def test_data_of_another_form_are_refused(first, capsys):
    np.save("wide.npy", np.random.default_rng(1).random((60, 4, 5)) < 0.5)
    said = refused(capsys, "--start-from", first, "--dataset", "wide.npy", "--out", "second")
    assert "x_shape=(1, 4, 4), and these have x_shape=(1, 4, 5)" in said


def test_a_start_without_a_run_is_refused(capsys):
    assert "no/run: there is no run" in refused(capsys, "--start-from", "no/run", "--out", "second")


def test_a_damaged_newest_checkpoint_is_told_of_and_weights_are_kept_no_longer_than_needed(first):
    newest = checkpoint.manifests(Path(first, "checkpoints"))[0]
    newest.write_bytes(newest.read_bytes()[:-9])
    with pytest.warns(UserWarning, match=rf"{newest.name}.*Loading an older checkpoint"):
        earlier = EarlierRun.open(Path(first))
    config = earlier.saved.config
    data = build.data(config)
    vae = build.vae(config, *data.form)
    weights = {name: tensor.clone() for name, tensor in earlier.saved.tensors().items()}
    earlier.put_into(vae, data, config)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in vae.tensors().items())
    assert not any((earlier.saved.program, earlier.saved.progress.best_tensors, earlier.saved.optimizer))


@pytest.mark.thorough
def test_a_start_from_a_run_without_a_whole_epoch_is_refused(first, capsys):
    shutil.copytree(first, "early")
    state = checkpoint.newest(Path("early/checkpoints"))[0]
    shutil.rmtree("early/checkpoints")
    Path("early/checkpoints").mkdir()
    checkpoint.save(Path("early/checkpoints"), replace(state, progress=pv.inference.Progress()))
    assert exit_code(MAIN, ["--start-from", "early", "--out", "second"]) == 4
    assert "early has no whole epoch yet" in capsys.readouterr().err


# Test data that the weights were trained on.


def save(name, rows):
    np.save(name, rows)
    return name


@pytest.fixture
def rows():
    """Ninety different images: no two data are alike by chance."""
    return np.random.default_rng(2).random((90, 4, 4)) < 0.5


@pytest.fixture
def trained(rows):
    train(*CONSTANT, "--dataset", save("old.npy", rows[:60]), "--epochs", 1, "--out", "old")
    return "old"


def test_another_split_of_the_same_data_is_refused(trained, capsys):
    said = refused(capsys, "--start-from", trained, "--data-seed", 1, "--out", "second")
    found = int(re.search(r"error: (\d+) of the 12 test data are among the training data of old", said)[1])
    old, new = (pv.data.load("old.npy", data_seed=seed) for seed in (0, 1))
    known = {bytes(x) for x in old.train.levels.numpy()} - {bytes(x) for x in new.train.levels.numpy()}
    assert found == sum(bytes(x) in known for x in new.test.levels.numpy()) > 0
    assert "leave --data-seed out" in said


def test_other_data_are_fine_and_the_same_rows_elsewhere_are_not(trained, rows, capsys):
    train("--start-from", trained, "--epochs", 1, "--dataset", save("new.npy", rows[60:]), "--out", "second")
    assert read("second/run.json")["started_from"][0]["unseen"] is True
    said = refused(capsys, "--start-from", trained, "--dataset", save("both.npy", rows[::-1]), "--out", "third")
    assert "are among the training data of old" in said
    said = refused(capsys, "--start-from", "second", "--dataset", "both.npy", "--out", "third")
    assert "of second" in said or "of old" in said
    said = refused(capsys, "--start-from", "second", "--dataset", "old.npy", "--data-seed", 1, "--out", "third")
    assert "are among the training data of old" in said  # two starts back


def test_data_that_are_gone_are_told_of_here_and_in_the_report(trained, rows, capsys):
    save("new.npy", rows[60:])
    Path("old.npy").unlink()
    capsys.readouterr()
    train("--start-from", trained, "--epochs", 1, "--dataset", "new.npy", "--out", "second")
    assert "warning: the data of old are not there (" in capsys.readouterr().err
    assert read("second/run.json")["started_from"][0]["unseen"] is None
    text = " ".join(Path("second/report.txt").read_text().split())
    assert "whether those weights were trained on some of these test data is not known" in text


def test_images_that_are_stored_in_other_numbers_are_not_called_unseen(capsys):
    grey = np.random.default_rng(0).integers(0, 256, (60, 4, 4), np.uint8)
    flags = ["--binarize", "threshold", "--epochs", 1]
    train(*CONSTANT, *flags, "--dataset", save("grey.npy", grey), "--out", "old")
    capsys.readouterr()
    train("--start-from", "old", "--dataset", save("reals.npy", (grey / 255).astype(np.float32)), "--out", "second")
    said = capsys.readouterr().err
    assert "warning: the data of old are stored as 256 levels, and these as reals, so it is not known" in said
    assert read("second/run.json")["started_from"][0]["unseen"] is None


@pytest.mark.thorough
def test_data_that_have_changed_since_are_not_taken_for_those_of_the_run(trained, rows, capsys):
    save("old.npy", rows[30:])
    capsys.readouterr()
    train("--start-from", trained, "--epochs", 1, "--dataset", save("new.npy", rows[60:]), "--out", "second")
    assert "warning: the data of old have changed since, so it is not known" in capsys.readouterr().err


def test_twins_of_new_training_data_are_no_leak(rows):
    before, after = rows[:40], np.concatenate([rows[40:], rows[40:]])
    train(*CONSTANT, "--dataset", save("old.npy", np.concatenate([before, rows[40:]])), "--epochs", 1, "--out", "old")
    data = build.data(Config(dataset=save("new.npy", after)))
    record = {**EarlierRun.open(Path("old")).record, "data": None}
    seen = {bytes(x) for x in pv.data.load("old.npy").train.levels.numpy()}
    own = {bytes(x) for x in data.train.levels.numpy()}
    tested = [bytes(x) for split in (data.test, data.valid) for x in split.levels.numpy()]
    leaks = [x for x in tested if x in seen and x not in own]
    assert any(x in seen for x in tested)
    if leaks:
        with pytest.raises(UsageError, match=r"data are among the training data of old"):
            earlier_run._unseen(record, data, Config(dataset="new.npy"))
    else:
        assert earlier_run._unseen(record, data, Config(dataset="new.npy")) is True


@pytest.mark.thorough
def test_columns_keep_the_scales_of_the_first_run():
    rng = np.random.default_rng(0)
    for name, scale in (("old.npy", 1.0), ("new.npy", 50.0)):
        np.save(name, (scale * rng.normal(3, 2, (60, 3))).astype(np.float32))
    train(*CONSTANT, "--dataset", "old.npy", "--likelihood", "normal", "--epochs", 1, "--out", "old")
    train("--start-from", "old", "--dataset", "new.npy", "--epochs", 1, "--out", "second")
    scales = [n for n in tensors("old") if n.endswith("spread")]
    assert scales
    for name in scales:
        assert torch.equal(tensors("old")[name], tensors("second")[name])


def test_a_member_of_ones_own_is_named_again(tiny, capsys):
    Path("mine.py").write_text(
        "import torch, pyro.distributions as dist, pyro_vae as pv\n"
        "class Mine(pv.priors.Prior):\n"
        "    def __init__(self, latent_dim):\n"
        "        super().__init__(latent_dim)\n"
        "        self.loc = torch.nn.Parameter(torch.zeros(latent_dim))\n"
        "    def forward(self, y=None):\n"
        "        return dist.Normal(self.loc, torch.ones_like(self.loc)).to_event(1)\n"
    )
    place = ["--prior", "mine.py:Mine"]
    train(*SMALL, *place, "--dataset", tiny, "--epochs", 1, "--no-check", "--out", "first")
    said = refused(capsys, "--start-from", "first", "--out", "second")
    assert "the prior is code of your own" in said
    assert "--prior mine.py:Mine" in said
    said = refused(capsys, "--out", "first", *place, "--resume", "--epochs", 3)
    line = shlex.split(said.partition("more epochs: ")[2])
    assert line[line.index("--prior") + 1] == "mine.py:Mine"
    train(*line[min(line.index("--prior"), line.index("--start-from")) :], "--no-check")
    assert len(history("first-longer")) == 2


@pytest.mark.thorough
def test_a_lineage_that_is_damaged_is_said(first):
    train("--start-from", first, "--epochs", 1, "--out", "second")
    about = read("second/run.json")
    Path("second/run.json").write_text(json.dumps({**about, "started_from": "first"}))
    with pytest.raises(CheckpointError, match="started_from is not a list of records"):
        decide(Path("third"), Config(), set(), start_from=Path("second"))
