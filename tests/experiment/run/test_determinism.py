"""A seed decides a run, and nothing else does: not the process, nor what is measured beside it."""

import os
import random
import runpy
import subprocess
import sys
import threading
from collections import Counter
from itertools import combinations
from pathlib import Path

import numpy as np
import pyro
import pytest
import torch
from cases import thorough
from exact import binary_data, small_vae
from finished import SMALL, content, finished_run, images
from shortened import quick_evaluations

import pyro_vae as pv
from pyro_vae import randomness
from pyro_vae.experiment import build
from pyro_vae.experiment.config import Config
from pyro_vae.inference import fit
from pyro_vae.randomness import derive, generator, stream

SCRIPTS = Path(__file__).parents[3] / "scripts"
TRAIN = SCRIPTS / "train_svi.py"
FLAGS = ["--epochs", "3", "--hidden", "8", "--latent-dim", "2", "--batch-size", "16", "--elbo-samples", "5"]
FEW = ["--test-samples", "20"]


@pytest.fixture(scope="module")
def grey(tmp_path_factory):
    return images(tmp_path_factory.mktemp("data") / "grey.npz", size=60)


@pytest.fixture(scope="module")
def first(grey, tmp_path_factory):
    """The folder of a run."""
    return train(grey, tmp_path_factory.mktemp("first") / "run")


def train(dataset, folder, *flags):
    """Runs the script here, and returns the folder of the run."""
    main = runpy.run_path(str(TRAIN))["main"]
    main(["--dataset", dataset, *FLAGS, *FEW, "--out", str(folder), *flags])
    return folder


def found(folder):
    """Every file of a run but those with times in them, by name, with its digest."""
    timed = ("run.json", "tensorboard")
    return {name: digest for name, digest in content(folder).items() if not name.startswith(timed)}


def weights(folder):
    """What training alone has to do with: tensors of parameters and optimiser, and the records of epochs."""
    kept = (".safetensors", "history.jsonl")
    return {name: digest for name, digest in found(folder).items() if name.endswith(kept)}


# Whatever ran before, wherever, and whatever is looked at.


def other_draws(grey, folder):
    torch.manual_seed(5)
    torch.rand(7)
    np.random.seed(3)  # noqa: NPY002 - the caller's
    random.seed(1)


def draws_of_another_thread(grey, folder):
    thread = threading.Thread(target=lambda: (torch.manual_seed(9), torch.randn(100)))
    thread.start()
    thread.join()


def another_precision_put_back(grey, folder):
    torch.set_default_dtype(torch.float64)
    try:
        torch.nn.Linear(3, 3)(torch.rand(2, 3)).sum().backward()
    finally:
        torch.set_default_dtype(torch.float32)


def other_programs(grey, folder):
    vae = small_vae()
    svi = pyro.infer.SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 0.1}), pyro.infer.Trace_ELBO())
    svi.step(binary_data(5))
    pyro.param("z", torch.ones(3))
    pv.evaluation.iwae(vae, binary_data(5), 10)


def another_run(grey, folder):
    train(grey, folder, "--seed", "3", "--prior", "vamp", "--objective", "iwae", "--compile", "no")


def a_run_that_failed(grey, folder):
    with pytest.raises(SystemExit, match="5"):
        train(grey, folder, "--lr", "1e30", "--likelihood", "normal")


@pytest.mark.thorough
@pytest.mark.parametrize(
    "before",
    [
        another_run,
        *thorough(other_draws, draws_of_another_thread, another_precision_put_back, other_programs, a_run_that_failed),
    ],
)
def test_a_run_repeats_whatever_ran_before_in_the_process(first, grey, tmp_path, before):
    before(grey, tmp_path / "before")
    assert found(train(grey, tmp_path / "run")) == found(first)


@pytest.mark.thorough
def test_a_run_repeats_in_another_process_with_other_hashes_and_in_another_folder(first, grey, tmp_path):
    threads = str(torch.get_num_threads())
    surroundings = {**os.environ, "PYTHONHASHSEED": "12345", "OMP_NUM_THREADS": threads}
    command = [sys.executable, TRAIN, "--dataset", grey, *FLAGS, *FEW, "--out", "somewhere/else"]
    subprocess.run(command, cwd=tmp_path, env=surroundings, capture_output=True, check=True)
    assert found(tmp_path / "somewhere" / "else") == found(first)


@pytest.mark.thorough
@pytest.mark.parametrize(
    "flags",
    [
        *thorough((("--tensorboard",),), (("--test-samples", "50"),)),
        ("--elbo-samples", "7"),
        *thorough((("--test-data", "5"),)),
    ],
    ids=lambda flags: flags[0],
)
def test_what_is_measured_beside_it_does_not_change_the_training(first, grey, tmp_path, flags):
    measured = train(grey, tmp_path / "run", *flags)
    assert weights(measured) == weights(first)
    assert found(measured) != found(first) or flags == ("--tensorboard",)


@pytest.mark.thorough
@pytest.mark.parametrize("trace_after", [4, *thorough(1_000)], ids=["traced", "eager"])
def test_what_is_looked_at_between_epochs_does_not_change_the_training(grey, monkeypatch, trace_after):
    monkeypatch.setattr("pyro_vae.inference.step_graphs.TRACE_AFTER", trace_after)

    def look(vae, x):
        pv.evaluation.elbo(vae, x, 3)
        pv.evaluation.iwae(vae, x, 3, seed=1)
        pv.evaluation.ais(vae, x, 2, 2, num_leapfrog=1)
        vae.generate(3)
        vae.reconstruct(x)
        vae.describe(x)
        pv.evaluation.active_units(vae, x)
        torch.rand(3)

    assert tensors(grey, look) == tensors(grey, lambda vae, x: None)


def tensors(dataset, look):
    """Those of the state at the end, as lists; `look` is called after each epoch."""
    config = Config(dataset=dataset, **{**SMALL, "batch_size": 16, "epochs": 3}, prior="vamp", num_components=4)
    data = build.data(config)
    vae = build.vae(config, *data.form)
    build.start(config, vae, data)
    for _ in fit(vae, build.svi(config, vae), data, build.schedule(config, len(data.train))):
        look(vae, data.valid.fixed())
    return {name: tensor.tolist() for name, tensor in vae.tensors().items()}


@pytest.mark.thorough
def test_an_evaluation_repeats_to_the_byte_but_for_its_times(grey, tmp_path, monkeypatch):
    run = finished_run(tmp_path / "run", grey)
    main = runpy.run_path(str(SCRIPTS / "evaluate.py"))["main"]
    quick_evaluations(monkeypatch)
    quick = ["--num-samples", "30", "--elbo-samples", "5", "--annealed-data", "2", "--num-temperatures", "3"]
    quick += ["--escalated-draws", "3000"]
    for name in ("one", "two"):
        main([str(run), *quick, "--out", str(tmp_path / name)])
        torch.rand(3)
        (tmp_path / name / "timings.json").unlink()
    assert content(tmp_path / "one") == content(tmp_path / "two")
    assert len(content(tmp_path / "one")) == 8


# Which seed decides what.


@pytest.fixture
def opened(monkeypatch):
    """Every (seed, name, ...) whose stream is opened, as often as it is."""
    names = []

    def recorded(seed, *name):
        names.append((seed, *name))
        return derive(seed, *name)

    monkeypatch.setattr(randomness, "derive", recorded)
    return names


SEED, DATA_SEED = 11, 22


def test_each_seed_decides_what_it_says(opened, grey, tmp_path):
    train(grey, tmp_path / "run", "--seed", str(SEED), "--data-seed", str(DATA_SEED))
    measured = {derive(SEED, "validation"): "validation", derive(SEED, "evaluation"): "evaluation"}
    named = {(measured.get(seed, seed), *name) for seed, *name in opened}
    epochs = {(SEED, name, epoch) for name in ("order", "noise", "binarise") for epoch in range(3)}
    assert named == {
        *epochs,
        (SEED, "init"),
        (SEED, "start"),
        ("validation", "block"),
        ("evaluation", "block"),
        (SEED, "samples"),
        (SEED, "reconstructions"),
        (DATA_SEED, "split"),
        (DATA_SEED, "subset"),
        *((DATA_SEED, "binarise", name) for name in ("train", "valid", "test")),
    }


def test_no_stream_of_training_is_opened_twice(opened, grey, tmp_path):
    train(grey, tmp_path / "run", "--seed", str(SEED), "--data-seed", str(DATA_SEED))
    # Validation sees the same draws in each epoch; two panels show the same z; a fixed draw is fixed.
    again = {name for _, name, *_ in (opened for opened, times in Counter(opened).items() if times > 1)}
    assert again <= {"block", "samples", "binarise"}
    assert max(times for name, times in Counter(opened).items() if name[0] == SEED and name[1] != "samples") == 1


def test_named_streams_are_pairwise_different():
    fixed = [("init",), ("start",), ("validation",), ("evaluation",), ("split",), ("binarise", "valid")]
    names = [*fixed, *((name, epoch) for name in ("order", "noise", "binarise") for epoch in range(3))]
    drawn = [torch.rand(1000, generator=generator(0, *name), dtype=torch.float64) for name in names]
    for one, other in combinations(drawn, 2):
        shared = len(set(one.tolist()) & set(other.tolist()))
        assert shared == 0
        assert abs(torch.corrcoef(torch.stack([one, other]))[0, 1]) < 5 / 1000**0.5  # 5 standard errors, for 105 pairs


def test_a_stream_and_a_generator_of_one_name_are_one():
    with stream(3, "noise", 2):
        drawn = torch.rand(5)
    assert torch.equal(drawn, torch.rand(5, generator=generator(3, "noise", 2)))


def test_another_seed_changes_where_training_starts_its_order_and_its_noise_but_no_data(grey):
    one, other = (Parts(Config(dataset=grey, **SMALL, seed=seed)) for seed in (0, 1))
    for part in ("init", "order", "noise"):
        assert not torch.equal(getattr(one, part), getattr(other, part)), part
    for part in ("train", "valid", "test"):
        assert torch.equal(getattr(one, part), getattr(other, part)), part
    assert one.protocol == other.protocol


def test_another_data_seed_changes_the_data_alone(grey):
    one, other = (Parts(Config(dataset=grey, **SMALL, data_seed=seed)) for seed in (0, 1))
    for part in ("train", "valid", "test"):
        assert not torch.equal(getattr(one, part), getattr(other, part)), part
    for part in ("init", "order", "noise"):
        assert torch.equal(getattr(one, part), getattr(other, part)), part


class Parts:
    """What the two seeds decide, each as one tensor: first weights, order and noise of an epoch, fixed draws."""

    def __init__(self, config):
        data = build.data(config)
        vae = build.vae(config, *data.form)
        self.init = torch.cat([tensor.flatten() for tensor in vae.tensors().values()])
        self.protocol = data.protocol
        self.train, self.valid, self.test = (split.fixed() for split in (data.train, data.valid, data.test))
        batches = list(data.train.raw_batches(7, seed=config.seed, epoch=0))
        self.noise = torch.cat([batch.noise for batch in batches])
        # Where each datum of the epoch stands among all: what is drawn of positions in place of grey levels.
        self.order = torch.randperm(len(data.train), generator=generator(config.seed, "order", 0))
        assert torch.equal(torch.cat([batch.levels for batch in batches]), data.train.levels[self.order])
