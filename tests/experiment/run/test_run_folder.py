"""The run folder: it says what was computed and how far it came, and refuses to go on with something else."""

import json
import os
import resource
import threading
from contextlib import nullcontext
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from cases import thorough

from pyro_vae.errors import CheckpointError, DivergenceError, UsageError
from pyro_vae.experiment import build
from pyro_vae.experiment.config import Config
from pyro_vae.experiment.run import checkpoint, files
from pyro_vae.experiment.run.changes_on_resume import check_same_config, config_for_resume
from pyro_vae.experiment.run.run_folder import Run, new_folder, saved_config
from pyro_vae.experiment.train import training
from pyro_vae.experiment.train.training_lock import locked
from pyro_vae.experiment.train.training_session import Session
from pyro_vae.inference import ALONE, World

pytestmark = pytest.mark.usefixtures("sketched")


def train(folder, config, epochs=None, processes=1):
    """Opens a run, trains it up to an epoch, and returns it with what the session said."""
    data = build.data(config)
    vae = build.vae(config, *data.form)
    build.start(config, vae, data)
    svi = build.svi(config, vae)
    session = Session.open(Run(folder, config), data, vae, svi, World(size=processes))
    start = session.progress.epoch
    for record in replace(session, world=ALONE).fit():
        session.save(record)
        if record.epoch == epochs:
            break
    return session.run, start, session.complaints


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "run"


def test_a_run_says_what_was_computed(folder, config):
    run, start, complaints = train(folder, config)
    said = json.loads((folder / "run.json").read_bytes())
    assert (start, complaints) == (0, [])
    assert (run.status.now(), said["seeds"]) == ("running", {"seed": 0, "data_seed": 0})
    assert said["protocol"]["sha256"] == build.data(config).protocol["sha256"]
    assert {"pyro-ppl", "torch", "numpy"} <= said["versions"].keys()
    assert Config.from_dict(json.loads((folder / "config.json").read_bytes())) == config
    assert [record["epoch"] for record in run.history.records()] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    "settings",
    [
        *thorough({"prior": "vamp", "posterior": "flow"}),
        {"prior": "mixture"},
        *thorough(
            {"prior": "conditional", "conditional": True},
            {"prior": "vamp", "posterior": "full", "conditional": True, "likelihood": "categorical"},
            {"posterior": "delta", "kl_weight": 0.0, "likelihood": "normal", "learn_scale": "one"},
        ),
    ],
    ids=lambda settings: "-".join(map(str, settings.values())),
)
def test_a_run_with_a_break_ends_with_the_bytes_of_one_without(tmp_path, config, settings):
    x = np.load(config.dataset)
    np.savez(tmp_path / "tiny.npz", x=x, y=x[:, 0].astype(int))
    small = {"num_components": 7, "flow_transforms": 2, "flow_hidden": (6,)}
    config = replace(config, dataset=str(tmp_path / "tiny.npz"), **small, **settings)
    train(tmp_path / "whole", config)
    train(tmp_path / "cut", config, epochs=2)
    _, start, complaints = train(tmp_path / "cut", config)
    assert (start, complaints) == (2, [])
    for name in ("history.jsonl", "checkpoints/epoch-00005.json", "checkpoints/epoch-00005.safetensors"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_the_history_is_cut_to_the_checkpoint_it_goes_on_from(folder, config):
    train(folder, config)
    whole = (folder / "history.jsonl").read_bytes()
    (folder / "checkpoints" / "epoch-00005.json").unlink()
    with (folder / "history.jsonl").open("a") as file:
        file.write('{"epoch": 6, "lo')  # as a kill leaves it
    run, start, _ = train(folder, config)
    assert start == 4
    assert (folder / "history.jsonl").read_bytes() == whole
    assert [record["epoch"] for record in run.history.records()] == [1, 2, 3, 4, 5]


def test_a_damaged_checkpoint_is_complained_of_and_made_again(folder, config):
    train(folder, config)
    path = folder / "checkpoints" / "epoch-00005.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    _, start, complaints = train(folder, config)
    assert start == 4
    assert len(complaints) == 1
    assert "epoch-00005.safetensors" in complaints[0]
    assert path.read_bytes() == whole


def test_what_a_killed_write_left_is_swept(folder, config):
    train(folder, config, epochs=1)
    for place in (folder / "report.json.pyro_vae-partial", folder / "checkpoints" / "epoch-00009.safetensors.partial"):
        place.touch()
    train(folder, config, epochs=2)
    assert not list(folder.rglob("*.pyro_vae-partial"))


def test_a_history_shorter_than_its_checkpoint_is_refused(folder, config):
    train(folder, config)
    lines = (folder / "history.jsonl").read_text().splitlines(keepends=True)
    (folder / "history.jsonl").write_text("".join(lines[:3]))
    with pytest.raises(CheckpointError, match=r"history\.jsonl does not hold epochs 1 to 5"):
        train(folder, config)


def test_a_checkpoint_of_epochs_without_end_takes_no_memory(folder, config):
    run, *_ = train(folder, config)
    found, _ = checkpoint.newest(run.checkpoints)
    found.progress.epoch = 10**9
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CheckpointError, match="does not hold epochs 1 to 1000000000"):
        run.history.first_lines(found.progress.epoch, found.history)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 15  # KiB


def test_a_run_does_not_go_on_with_other_data(folder, config):
    train(folder, config)
    np.save(config.dataset, np.load(config.dataset)[::-1])
    before = {path: path.read_bytes() for path in folder.rglob("*.*")}
    with pytest.raises(CheckpointError, match=r"was trained on other data: .*sha256"):
        train(folder, config)
    assert {path: path.read_bytes() for path in folder.rglob("*.*")} == before


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["lr", "hidden", "kl_weight", "seed"])
def test_a_run_does_not_go_on_from_checkpoints_of_another_config(folder, config, name):
    other = replace(config, **{name: (9,) if name == "hidden" else getattr(config, name) + 1})
    train(folder, config)
    with pytest.raises(CheckpointError, match=f"was made with {name}="):
        train(folder, other)


def test_a_config_that_was_edited_to_fewer_epochs_is_refused_as_a_flag_is(folder, config):
    config = replace(config, lr_schedule="constant")
    train(folder, config, 1)
    with pytest.raises(CheckpointError, match=f"was made with epochs={config.epochs}, and .* says 2"):
        train(folder, replace(config, epochs=2))


@pytest.mark.parametrize("file", ["config.json", "run.json", "history.jsonl"])
def test_a_damaged_file_of_the_run_is_named(folder, config, file):
    run, _, _ = train(folder, config)
    (folder / file).write_bytes(b'{"epoch": 1\n')
    with pytest.raises(CheckpointError, match=rf"{file} is damaged"):
        {
            "config.json": lambda: config_for_resume(folder, config, set()),
            "run.json": run.status.now,
            "history.jsonl": run.history.records,
        }[file]()


def test_a_run_is_finished_when_its_report_is_there_for_this_config(folder, config):
    run, _, _ = train(folder, config)
    assert not run.is_finished()
    run.status.set("finished")
    assert not run.is_finished()
    files.write(folder / "report.txt", b"")
    assert not run.is_finished()
    files.write(folder / "report.json", b"{}")
    assert run.is_finished()
    assert not Run(folder, replace(config, test_samples=7)).is_finished()
    assert not Run(folder, replace(config, epochs=9)).is_finished()
    elsewhere = {"dataset": "/elsewhere/tiny.npy", "data_dir": "elsewhere", "device": "cuda"}
    assert Run(folder, replace(config, **elsewhere)).is_finished()
    assert not Run(folder, replace(config, dataset="/elsewhere/other.npz")).is_finished()


def test_a_finished_run_from_before_a_setting_was_known_stays_finished(folder, config):
    run, _, _ = train(folder, config)
    run.status.set("finished")
    for name in ("report.txt", "report.json"):
        files.write(folder / name, b"")
    before = {name: value for name, value in config.to_dict().items() if name != "precision"}
    files.write(folder / "config.json", files.to_json(before))
    assert run.is_finished()
    assert config_for_resume(folder, config, set()).precision == "float32"
    assert not Run(folder, replace(config, precision="bfloat16")).is_finished()


@pytest.mark.parametrize(
    ("error", "status"),
    [(KeyboardInterrupt(), "interrupted"), (SystemExit(143), "interrupted"), (DivergenceError("x"), "diverged")],
)
def test_the_status_says_how_training_ended(folder, config, error, status):
    run, _, _ = train(folder, config, epochs=1)
    with pytest.raises(type(error)), run.status.on_exit():
        raise error
    assert run.status.now() == status


def test_one_process_at_a_time_trains_in_a_folder(folder):
    sentence = rf"another training is at work in {folder} \(process {os.getpid()} on .+\): wait for it, or end it"
    for end in (nullcontext, partial(pytest.raises, KeyError)):
        with end(), locked(folder):
            assert [path.name for path in folder.iterdir()] == ["train.lock"]
            with pytest.raises(UsageError, match=sentence), locked(folder):
                pass
            if end is not nullcontext:
                raise KeyError
        assert not list(folder.iterdir())


@pytest.mark.parametrize("resume", [False, True])
def test_a_run_that_another_process_made_in_the_meantime_stays_as_it_is(folder, config, resume, monkeypatch):
    """Between the look into the folder and the lock on it the data are read, which may take long."""
    config, build_data = replace(config, epochs=1, test_samples=2, elbo_samples=2), build.data
    if resume:
        training.train(Run(folder, config), test=False)
    whole = []

    def meanwhile(settings):
        monkeypatch.setattr(build, "data", build_data)
        training.train(Run(folder, config))
        whole.append({path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()})
        return build_data(settings)

    monkeypatch.setattr(build, "data", meanwhile)
    with pytest.raises(UsageError, match=f"another training has written to {folder} since this one began"):
        training.start_or_resume(folder, replace(config, test_samples=3), {"test_samples"}, resume=resume)
    assert whole == [{path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}]


def test_a_lock_stays_with_a_folder_that_is_moved_away(folder):
    with locked(folder):
        folder.rename(folder.with_name("moved"))
        with locked(folder):
            pass
        assert not (folder / "train.lock").exists()
        files.write(folder / "train.lock", b"of a third one\n")
    assert (folder / "train.lock").read_bytes() == b"of a third one\n"


def test_the_lock_that_a_killed_training_left_is_swept_with_its_finished_run(folder, config):
    training.train(Run(folder, replace(config, epochs=1, test_samples=2, elbo_samples=2)))
    files.write(folder / "train.lock", b"of a killed one\n")
    training.start_or_resume(folder, config, set(), resume=True)
    assert not (folder / "train.lock").exists()
    with locked(folder):
        training.start_or_resume(folder, config, set(), resume=True)
        assert (folder / "train.lock").exists()


def teams(folder, config, processes, epochs):
    """Who is said to have trained the run, where so many processes have taken it up, up to an epoch."""
    run, *_ = train(folder, config, epochs, processes)
    assert run.status.read()["processes"] == processes
    return [tuple(team[name] for name in ("epoch", "steps", "processes")) for team in run.status.read()["teams"]]


def test_a_run_says_how_many_processes_trained_which_epochs(folder, config):
    assert teams(folder, config, 2, 1) == [(0, 0, 2)]
    assert teams(folder, config, 2, 2) == [(0, 0, 2)]
    assert teams(folder, config, 1, 4) == [(0, 0, 2), (2, 0, 1)]
    for path in [*folder.glob("checkpoints/epoch-00003.*"), *folder.glob("checkpoints/epoch-00004.*")]:
        path.unlink()
    assert teams(folder, config, 3, 4) == [(0, 0, 2), (2, 0, 3)]
    assert teams(folder, config, 2, 5) == [(0, 0, 2), (2, 0, 3), (4, 0, 2)]


def test_a_run_from_before_teams_were_written_down_keeps_its_number_of_processes(folder, config):
    run, *_ = train(folder, config, 2, processes=2)
    about = run.status.read()
    del about["teams"]
    files.write(folder / "run.json", files.to_json(about))
    assert teams(folder, config, 1, 3) == [(0, 0, 2), (2, 0, 1)]


@pytest.mark.parametrize("wrong", [3, None, [3], [{}], [{"epoch": "x", "steps": 0, "processes": 1}]])
def test_teams_that_are_none_are_damage(folder, config, wrong):
    run, *_ = train(folder, config, 2)
    run.status.set("running", teams=wrong)
    with pytest.raises(CheckpointError, match=r"run\.json is damaged: its teams are none"):
        train(folder, config, 3)


def resumed(folder, saved, **given):
    """The config of a run that was started with `saved` and is taken up with the flags `given`."""
    folder.mkdir()
    files.write(folder / "config.json", files.to_json(saved.to_dict()))
    return config_for_resume(folder, replace(Config(), **given), set(given))


def test_a_resumed_run_has_its_own_config_not_the_defaults(folder, config):
    assert resumed(folder, config) == config


def test_the_data_of_a_resumed_run_may_lie_in_another_folder(folder, config):
    moved = replace(config, dataset="/elsewhere/tiny.npy")
    assert resumed(folder, config, dataset=moved.dataset) == moved
    check_same_config(Run(folder, moved), config)


@pytest.mark.parametrize("dataset", ["/elsewhere/other.npz", "digits"])
def test_other_data_than_those_of_a_resumed_run_are_refused_by_their_name(folder, config, dataset):
    with pytest.raises(UsageError, match=rf"started with dataset={config.dataset}, not {dataset}:"):
        resumed(folder, config, dataset=dataset)


@pytest.mark.parametrize(
    ("name", "value"), [("lr", 0.5), ("latent_dim", 3), ("precision", "bfloat16"), ("data_seed", 1)]
)
def test_a_contradicting_flag_is_refused_with_both_values(folder, config, name, value):
    with pytest.raises(UsageError, match=rf"started with {name}={getattr(config, name)}, not {value}:"):
        resumed(folder, config, **{name: value})


def test_a_flag_that_says_the_same_is_fine(folder, config):
    assert resumed(folder, config, lr=config.lr, hidden=config.hidden) == config


@pytest.mark.parametrize(("name", "value"), [("test_samples", 7), ("data_dir", "x"), ("test_data", 3)])
def test_what_does_not_touch_the_training_may_change(folder, config, name, value):
    assert resumed(folder, config, **{name: value}) == replace(config, **{name: value})


def test_epochs_may_grow_only_where_the_learning_rate_does_not_depend_on_them(tmp_path, config):
    constant = replace(config, lr_schedule="constant")
    assert resumed(tmp_path / "a", constant, epochs=9).epochs == 9
    with pytest.raises(UsageError, match="epochs=5, not 4"):
        resumed(tmp_path / "b", constant, epochs=4)
    with pytest.raises(UsageError, match="epochs=5, not 9"):
        resumed(tmp_path / "c", config, epochs=9)


def test_an_extended_run_goes_on_where_it_ended(folder, config):
    train(folder, replace(config, lr_schedule="constant"))
    run, start, _ = train(folder, replace(config, lr_schedule="constant", epochs=7))
    assert start == 5
    assert [record["epoch"] for record in run.history.records()] == [1, 2, 3, 4, 5, 6, 7]


@pytest.fixture
def stopped(monkeypatch):
    """A clock that stands still."""

    class Stopped:
        @staticmethod
        def now():
            return datetime(2020, 1, 2, 3, 4, 5)

    monkeypatch.setattr("pyro_vae.experiment.run.run_folder.datetime", Stopped)


def test_new_folders_never_collide(tmp_path, stopped):
    made = [new_folder(tmp_path / "runs", "faces-bernoulli").name for _ in range(3)]
    first = "20200102-030405-faces-bernoulli"
    assert made == [first, f"{first}-2", f"{first}-3"]
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == made


def test_new_folders_that_are_made_at_once_never_collide(tmp_path, stopped):
    barrier, made = threading.Barrier(8), []

    def start():
        barrier.wait()
        made.append(new_folder(tmp_path / "runs", "faces-bernoulli"))

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(made)) == 8


def test_trainings_that_begin_in_one_second_have_folders_of_their_own(tmp_path, config, stopped, monkeypatch):
    """The second one begins and ends while the first one reads its data."""
    monkeypatch.chdir(tmp_path)
    config, build_data = replace(config, epochs=1, test_samples=2, elbo_samples=2), build.data
    runs = []

    def meanwhile(settings):
        monkeypatch.setattr(build, "data", build_data)
        runs.append(training.start_or_resume(None, replace(config, seed=1), set()))
        return build_data(settings)

    monkeypatch.setattr(build, "data", meanwhile)
    runs.append(training.start_or_resume(None, config, set()))
    assert [(run.config.seed, run.status.now()) for run in runs] == [(1, "finished"), (0, "finished")]
    assert sorted(path.name for path in Path("runs").iterdir()) == [run.path.name for run in runs]
    assert [saved_config(run.path).seed for run in runs] == [1, 0]


def test_a_start_that_is_refused_leaves_nothing(tmp_path, config, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"images \(C, H, W\)"):
        training.start_or_resume(None, replace(config, network="conv", dataset=vectors()), set())
    assert not Path("runs").exists()


def vectors():
    np.save("vectors.npy", np.eye(40, 3))
    return "vectors.npy"


class TestTime:
    """The seconds of training are those of all sessions."""

    @pytest.fixture
    def by_hand(self, monkeypatch):
        """A clock that a test turns on; an epoch takes 100 seconds."""
        clock = SimpleNamespace(now=0.0)
        monkeypatch.setattr(training, "time", SimpleNamespace(perf_counter=lambda: clock.now))
        save = Session.save

        def slow(session, record):
            clock.now += 100
            save(session, record)

        monkeypatch.setattr(Session, "save", slow)
        return clock

    def told(self, folder):
        return json.loads((folder / "run.json").read_bytes())["seconds"]["training"]

    def test_a_session_that_only_reports_adds_nothing(self, folder, config, by_hand):
        run = training.train(Run(folder, config), test=False)
        assert (run.status.now(), self.told(folder)) == ("trained", 500)
        by_hand.now += 7000
        training.train(run)
        assert (run.status.now(), self.told(folder)) == ("finished", 500)

    def test_a_run_that_is_trained_longer_adds_to_it(self, folder, config, by_hand):
        config = replace(config, lr_schedule="constant")
        training.train(Run(folder, config), test=False)
        by_hand.now += 7000
        training.train(Run(folder, replace(config, epochs=8)), test=False)
        assert self.told(folder) == 800

    @pytest.mark.parametrize(("taken", "kept"), [(100, 300), (40, 80)])
    def test_of_a_run_that_was_killed_it_is_there_up_to_its_last_minute(
        self, taken, kept, folder, config, by_hand, monkeypatch
    ):
        save = Session.save

        def killed(session, record):
            by_hand.now += taken - 100
            save(session, record)
            if record.epoch == 4:
                raise RuntimeError("killed")

        monkeypatch.setattr(Session, "save", killed)
        with pytest.raises(RuntimeError, match="killed"):
            training.train(Run(folder, config))
        assert self.told(folder) == kept
        monkeypatch.setattr(Session, "save", save)
        training.train(Run(folder, config), test=False)
        assert self.told(folder) == kept + 100

    @pytest.mark.parametrize("seconds", [7, {"training": "long"}, {"training": -1.0}, {"training": None}])
    def test_damage_is_named(self, seconds, folder, config):
        run, *_ = train(folder, config, 2)
        run.status.set("running", seconds=seconds)
        with pytest.raises(CheckpointError, match=r"run\.json is damaged: its seconds of training are none"):
            train(folder, config)
