"""Threads: their number follows from the size of a step, and a slow step is said once."""

import json
import logging
from contextlib import suppress
from dataclasses import replace
from functools import partial

import pytest
import torch
from finished import SMALL, finished_run, images

import pyro_vae as pv
from pyro_vae import system, threads
from pyro_vae.experiment import build
from pyro_vae.experiment.compare.comparison_settings import Evaluation
from pyro_vae.experiment.config import Config
from pyro_vae.experiment.evaluate import measurements, shards
from pyro_vae.experiment.evaluate.evaluated_run import Subject
from pyro_vae.experiment.evaluate.evaluation_plan import Plan, Shard
from pyro_vae.experiment.run import files
from pyro_vae.experiment.run.trained_run import open_run
from pyro_vae.experiment.train import training
from pyro_vae.experiment.train.training_threads import threads_for
from pyro_vae.model import traces

LITTLE = Plan(num_samples=4, elbo_samples=4, annealed_data=0, posterior_draws=0, latent_data=20)


@pytest.fixture
def cores(monkeypatch):
    """A machine of three cores, on which no one has chosen a number of threads."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(system, "cores", lambda: 3)
    monkeypatch.setattr(system, "threads_per_core", lambda: 1)
    with threads.computing(3):
        yield 3


def test_a_hundred_million_multiplications_divide(cores):
    assert threads.by_size(100_000_000) == 1
    assert threads.by_size(100_000_001) == cores


def test_a_callers_own_number_goes_before_the_rule(cores, monkeypatch):
    assert threads.chosen(lambda: 7) == 7
    for own in (1, 2, 5):
        with threads.computing(own):
            assert threads.chosen(lambda: 7) == own
    monkeypatch.setattr(system, "threads_per_core", lambda: 2)
    with threads.computing(1):  # what torch takes of three hardware threads that two share a core
        assert threads.chosen(lambda: 7) == 7
    monkeypatch.setattr(system, "performance_cores", lambda: 2)
    with threads.computing(2):  # what torch takes of an Apple processor with one core that is slower
        assert threads.chosen(lambda: 7) == 7
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert threads.chosen(lambda: 7) == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "three")
    assert threads.chosen(lambda: 7) == 7
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setenv(system.SHARE, "3")  # set by a sweep, which shares the cores out
    assert threads.chosen(lambda: 7) == 7


def test_a_context_restores_the_number_after_an_error(cores):
    with suppress(KeyError), threads.computing(2):
        assert torch.get_num_threads() == 2
        raise KeyError
    assert torch.get_num_threads() == cores


def vae(pixels, hidden, latent_dim):
    MLP = pv.networks.MLP
    return pv.VAE(
        pv.priors.StandardNormal(latent_dim),
        pv.posteriors.DiagonalNormal(MLP((pixels,), (2 * latent_dim,), hidden=(hidden,)), latent_dim),
        pv.likelihoods.Bernoulli(MLP((latent_dim,), (pixels,), hidden=(hidden,))),
    )


@pytest.mark.parametrize("draws", [1, 5])
def test_multiplications_are_those_of_the_layers(draws):
    program, x = vae(10, 7, 3), torch.zeros(6, 10)
    encoder, decoder = 10 * 7 + 7 * 2 * 3, 3 * 7 + 7 * 10
    loss = partial(traces.run, program.model, program.guide, draws, x)
    assert threads.multiplications(loss) == 3 * 6 * (encoder + draws * decoder)


def test_convolutions_count_and_an_error_ends_the_count():
    layer = torch.nn.Conv2d(2, 5, 3, padding=1)
    assert threads.multiplications(lambda: layer(torch.zeros(4, 2, 8, 8))) == 3 * 4 * 8 * 8 * 2 * 9 * 5

    def fails():
        layer(torch.zeros(1, 2, 8, 8))
        raise ArithmeticError

    assert threads.multiplications(fails) == 3 * 8 * 8 * 2 * 9 * 5


@pytest.mark.parametrize(
    ("batch_size", "hidden", "pixels", "on_one"),
    [(64, 64, 784, True), (128, 256, 64, True), (128, 400, 784, False), (256, 1000, 784, False)],
)
def test_the_rule_at_sizes_that_were_measured(cores, batch_size, hidden, pixels, on_one):
    data = pv.data.from_arrays((torch.rand(600, pixels) < 0.5).to(torch.uint8).numpy())
    program = vae(pixels, hidden, 20)
    config = Config(batch_size=batch_size, hidden=(hidden,), fewest_steps=1)
    state, weights = torch.get_rng_state(), {k: v.clone() for k, v in program.state_dict().items()}
    assert threads_for(build.svi(config, program), program, data, config) == (1 if on_one else cores)
    assert torch.get_rng_state().equal(state)
    assert all(weights[k].equal(v) for k, v in program.state_dict().items())


def test_particles_count_and_labels_are_passed(cores):
    data = pv.data.from_arrays((torch.rand(300, 64) < 0.5).to(torch.uint8).numpy(), torch.arange(300).numpy() % 3)
    settings = {"hidden": (256,), "batch_size": 128, "conditional": True, "objective": "iwae", "fewest_steps": 1}
    found = []
    for draws in (1, 50):
        config = Config(num_particles=draws, **settings)
        program = build.vae(config, *data.form)
        found.append(threads_for(build.svi(config, program), program, data, config))
    assert found == [1, cores]


@pytest.fixture
def config(tmp_path):
    few = {"test_samples": 4, "elbo_samples": 4, "lr_schedule": "constant"}
    return Config(dataset=images(tmp_path / "data.npz"), **SMALL, **few)


def numbers_in(training_of):
    """How many threads torch has, whenever an epoch is shown."""
    seen = []

    class Display:
        def __init__(self, *_):
            pass

        def __enter__(self):
            return lambda record: seen.append(torch.get_num_threads())

        def __exit__(self, *_):
            pass

    training_of(Display)
    return set(seen)


def test_a_run_decides_once_and_keeps_its_number(cores, config, tmp_path):
    folder = tmp_path / "run"
    go_on = partial(training.start_or_resume, folder, resume=True, check=False)
    assert numbers_in(lambda d: training.start_or_resume(folder, config, set(), display=d)) == {1}
    assert torch.get_num_threads() == cores
    assert json.loads((folder / "config.json").read_text())["threads"] == 1
    longer = replace(config, epochs=3)
    with threads.computing(2):  # the caller's, which a new run would take
        assert numbers_in(lambda d: go_on(longer, {"epochs"}, display=d)) == {1}
    other = replace(config, epochs=4, threads=2)
    assert numbers_in(lambda d: go_on(other, {"epochs", "threads"}, display=d)) == {2}
    again = replace(config, epochs=5, threads="auto")
    assert numbers_in(lambda d: go_on(again, {"epochs", "threads"}, display=d)) == {2}


@pytest.mark.thorough
def test_a_run_of_a_version_that_did_not_decide_goes_on_as_it_began(cores, config, tmp_path):
    folder = tmp_path / "run"
    training.start_or_resume(folder, config, set())
    saved = json.loads((folder / "config.json").read_text())
    del saved["threads"]
    (folder / "config.json").write_bytes(files.to_json(saved))
    longer = replace(config, epochs=3)
    resumed = partial(training.start_or_resume, folder, longer, {"epochs"}, resume=True)
    assert numbers_in(lambda d: resumed(display=d)) == {cores}


def test_a_training_in_memory_has_its_own_number(cores):
    data = pv.data.from_arrays((torch.rand(60, 6) < 0.5).to(torch.uint8).numpy())
    seen = set()
    for wanted in ("auto", 2):
        pv.train(
            vae(6, 4, 2),
            data,
            epochs=1,
            quiet=True,
            threads=wanted,
            callback=lambda record: seen.add(torch.get_num_threads()),
        )
    assert seen == {1, 2}
    assert torch.get_num_threads() == cores


def of_evaluation(trained):
    seen = set()
    measurements.evaluate(trained, LITTLE, lambda sentence: seen.add(torch.get_num_threads()))
    return seen


@pytest.mark.thorough
def test_an_evaluation_takes_the_number_of_the_training(cores, config, tmp_path):
    finished_run(tmp_path / "run", config.dataset, threads=2)
    assert of_evaluation(open_run(tmp_path / "run")) == {2}
    assert of_evaluation(open_run(tmp_path / "run", threads=4)) == {4}
    with threads.computing(5):
        assert of_evaluation(open_run(tmp_path / "run")) == {5}
    finished_run(tmp_path / "more", config.dataset, threads=64)
    assert of_evaluation(open_run(tmp_path / "more")) == {cores}  # a machine of fewer cores
    finished_run(tmp_path / "older", config.dataset)
    assert of_evaluation(open_run(tmp_path / "older")) == {1}
    assert torch.get_num_threads() == cores


def test_shards_take_the_number_of_the_training(cores, config, tmp_path):
    finished_run(tmp_path / "run", config.dataset, threads=2)
    seen, subject = set(), Subject(open_run(tmp_path / "run"), LITTLE)
    shards.write(subject, Shard(0, 1), tmp_path / "shards", lambda _: seen.add(torch.get_num_threads()))
    assert seen == {2}


@pytest.mark.thorough
def test_a_program_in_memory_is_evaluated_with_a_number_by_its_size(cores):
    x = (torch.rand(30, 784) < 0.5).float()
    seen = []
    for hidden in (8, 1000):
        program = vae(784, hidden, 2)
        program.likelihood.register_forward_hook(lambda *_: seen.append(torch.get_num_threads()))
        pv.evaluate(program, x, quiet=True, num_samples=2, elbo_samples=2, annealed_data=0, posterior_draws=0)
        assert seen[-1] == (1 if hidden == 8 else cores)
    assert torch.get_num_threads() == cores


@pytest.mark.parametrize("value", ["all", 0, -1, 1.5, True, None])
def test_another_value_is_refused(value):
    with pytest.raises(pv.errors.UsageError, match="threads"):
        Config(threads=value)
    with pytest.raises(pv.errors.UsageError, match="threads"):
        Evaluation(threads=value)


class Clock:
    """A clock that goes on by what each step takes."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr(threads.time, "perf_counter", lambda: self.now)

    def go(self, pace, *seconds, steps=100):
        for each in seconds:
            for _ in range(steps):
                self.now += each
                pace.step()


@pytest.mark.parametrize("number", [1, 2])
def test_a_step_that_becomes_slow_is_said_once(cores, monkeypatch, caplog, number):
    clock = Clock(monkeypatch)
    with threads.computing(number), caplog.at_level(logging.WARNING):
        paces = threads.Pace(), threads.Pace()
        for pace in paces:
            clock.go(pace, 0.1, 0.02, 0.05, 0.02)
        assert not caplog.records
        for pace in paces:
            clock.go(pace, *[0.08] * 4)
    said = [record.getMessage() for record in caplog.records]
    assert said == ([] if number == 1 else [said[0]])
    if said:
        assert "a step takes 80 ms, and took 20" in said[0]
        assert "With `threads=1` a step takes about 40 ms where one core is free" in said[0]


def test_more_threads_than_cores_are_said_once(cores, caplog):
    threads._note_many.cache_clear()
    for number in (3, 5, 5):
        with threads.computing(number):
            pass
    assert [record.getMessage() for record in caplog.records] == [
        "5 threads share 3 cores and wait for each other: `threads=3` is faster"
    ]


def test_in_a_loop_of_ones_own_the_cure_is_that_of_torch(monkeypatch, caplog):
    clock, pace = Clock(monkeypatch), threads.Pace()
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    clock.go(pace, 0.02, *[0.08] * 4)
    assert ["With torch.set_num_threads(1) a step" in record.getMessage() for record in caplog.records] == [True]
    monkeypatch.undo()


def test_one_slow_window_and_work_between_steps_are_no_slow_steps(monkeypatch, caplog):
    clock, pace = Clock(monkeypatch), threads.Pace()
    with threads.computing(2), caplog.at_level(logging.WARNING):
        for _ in range(20):
            clock.now += 100.0  # a validation
            pace.begin()
            clock.go(pace, 0.01, steps=250)
            clock.go(pace, 30.0, steps=1)  # a compiler
    assert not caplog.records


def test_a_fit_says_that_its_steps_have_become_slow(monkeypatch, caplog):
    clock, done = Clock(monkeypatch), []
    program = vae(6, 4, 2)
    data = pv.data.from_arrays((torch.rand(60, 6) < 0.5).to(torch.uint8).numpy())
    svi = build.svi(Config(), program)
    step_from = svi.step_from

    def slower(*args, **kwargs):
        done.append(None)
        clock.now += 0.5 if len(done) < 10 else 2.0
        return step_from(*args, **kwargs)

    monkeypatch.setattr(svi, "step_from", slower)
    with threads.computing(2), caplog.at_level(logging.WARNING):
        list(pv.inference.fit(program, svi, data, pv.inference.Schedule(epochs=6, batch_size=12)))
    assert len([record for record in caplog.records if "another process has the cores" in record.getMessage()]) == 1
