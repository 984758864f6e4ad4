"""An evaluation by several processes: the bytes are those of one, and a mistake is the same sentence."""

import json
from dataclasses import replace
from functools import partial

import own_file
import pytest
import torch
from finished import content, finished_run, images
from scripted import exit_code

from pyro_vae import system
from pyro_vae.cli import evaluate_command, own_code
from pyro_vae.errors import CheckpointError, UsageError
from pyro_vae.experiment.evaluate import expected_work, shards, shared_work
from pyro_vae.experiment.evaluate.evaluated_run import Subject
from pyro_vae.experiment.evaluate.evaluation_plan import Plan
from pyro_vae.experiment.run.trained_run import open_run
from pyro_vae.experiment.team.worker import Piece
from pyro_vae.threads import computing

QUICK = Plan(elbo_samples=4, num_samples=30, annealed_data=3, num_temperatures=2, num_chains=2, latent_data=20)
FLAGS = [
    *("--elbo-samples", "4", "--num-samples", "30", "--annealed-data", "3", "--num-temperatures", "2"),
    *("--num-chains", "2", "--latent-data", "20", "--posterior-draws", "4", "--escalated-draws", "3000"),
]


def evaluate(*arguments):
    """Runs the command here; returns its exit code."""
    return exit_code(evaluate_command.main, [*arguments, *FLAGS])


def written(folder):
    """The files of a report by their digest, without the times, and the report without the command."""
    files = {name: digest for name, digest in content(folder).items() if name != "timings.json"}
    return files, json.loads((folder / "timings.json").read_bytes())["seconds"].keys()


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("settings", "numbers"), [({"latent_dim": 3}, "23"), ({"latent_dim": 2, "conditional": True}, "2")]
)
def test_any_number_of_processes_writes_the_same_bytes(tmp_path, settings, numbers):
    run = finished_run(tmp_path / "run", images(tmp_path / "grey.npz", size=700), **settings)
    for number in f"1{numbers}":
        assert evaluate(run, "--out", tmp_path / number, "--processes", number) == 0
    one, *others = (written(tmp_path / number) for number in f"1{numbers}")
    assert all(other == one for other in others)
    assert len(one[0]) == 8


@pytest.mark.thorough
def test_members_of_ones_own_are_opened_from_their_file_in_each_process(tmp_path, capfd):
    place = own_code.place("prior", f"{own_file.write(tmp_path, more='print(31 * 17)')}:Horseshoe")
    own = own_code.imported([place])
    run = finished_run(tmp_path / "run", images(tmp_path / "grey.npz"), prior=place.name, own=own)
    capfd.readouterr()
    mine = ["--prior", f"{tmp_path}/horseshoe.py:Horseshoe"]
    for number in "12":
        assert evaluate(run, *mine, "--out", tmp_path / number, "--processes", number) == 0
    assert written(tmp_path / "1") == written(tmp_path / "2")
    assert capfd.readouterr().out.count("527") == 0


def test_a_number_of_processes_is_one_from_1_on(tmp_path, monkeypatch):
    subject = Subject(open_run(finished_run(tmp_path / "run", images(tmp_path / "grey.npz"))), QUICK)
    assert [shared_work.processes(wanted, subject) for wanted in ("1", "3", "auto")] == [1, 3, 1]
    for wanted in ("0", "-1", "two", "1.5"):
        with pytest.raises(UsageError, match=f"`processes` is a number from 1 on, or auto; got '{wanted}'"):
            shared_work.processes(wanted, subject)
    monkeypatch.setattr(system, "cores", lambda: 5)
    for units, number in ((19e6, 1), (21e6, 2), (1e9, 5)):
        monkeypatch.setattr(expected_work, "expected", lambda subject, units=units: {"posterior": units})
        assert shared_work.processes("auto", subject) == number
    monkeypatch.setitem(vars(subject.trained), "facts", replace(subject.trained.facts, device="cuda"))
    assert shared_work.processes("3", subject) == 1


def test_a_process_does_a_piece_of_the_same_run_alone(tmp_path):
    path = finished_run(tmp_path / "run", images(tmp_path / "grey.npz"))
    subject = Subject(open_run(path), QUICK)
    reopen = partial(evaluate_command.opened, str(path), {"device": "cpu", "data_dir": "", "threads": "auto"})
    of_run = QUICK, shards.identity(subject), torch.get_num_threads()
    work = shared_work._opened(reopen, *of_run)
    here, there = shared_work.work(subject, Piece("elbo"), ()), work(Piece("elbo"), ())
    assert torch.equal(here["elbo"].value, there["elbo"].value)
    with torch.no_grad():
        next(subject.trained.vae.parameters()).add_(1.0)
    with pytest.raises(CheckpointError, match="the run has changed since this evaluation began: evaluate it again"):
        shared_work._opened(reopen, QUICK, shards.identity(subject), torch.get_num_threads())


def test_a_process_has_the_threads_of_the_run(tmp_path, monkeypatch):
    path = finished_run(tmp_path / "run", images(tmp_path / "grey.npz"), threads=2)
    subject = Subject(open_run(path, threads=2), QUICK)
    monkeypatch.setattr(system, "cores", lambda: 9)
    monkeypatch.setattr(expected_work, "expected", lambda subject: {"posterior": 1e9})
    assert shared_work.processes("auto", subject) == 4
    with computing(1):
        team = shared_work.team(subject, 2, partial(open_run, path), print)
        work = team._opener()
        assert torch.get_num_threads() == 2
    assert torch.equal(
        work(Piece("elbo"), ())["elbo"].value, shared_work.work(subject, Piece("elbo"), ())["elbo"].value
    )
