"""Blocks of an evaluation: whoever computes them, the numbers are those of all data at once."""

from dataclasses import replace
from functools import partial
from importlib import import_module

import numpy as np
import pytest
import torch
from exact import binary_data, small_vae
from finished import finished_run, images
from shortened import few_pilots

import pyro_vae as pv
from pyro_vae.data import Split, load
from pyro_vae.errors import UsageError
from pyro_vae.evaluation.bounds import curve_of
from pyro_vae.evaluation.memory import DATA_BLOCK
from pyro_vae.evaluation.trust.diagnostics import guide_draws
from pyro_vae.evaluation.trust.gaps import elbos
from pyro_vae.experiment.evaluate import block_tasks, measurements, shards
from pyro_vae.experiment.evaluate.evaluated_run import Hardest, Subject
from pyro_vae.experiment.evaluate.evaluation_plan import Plan, Shard
from pyro_vae.experiment.evaluate.measurements import Look, evaluate
from pyro_vae.experiment.run.evaluation_data import DataReader
from pyro_vae.experiment.run.trained_run import open_run

QUICK = Plan(elbo_samples=4, num_samples=30, annealed_data=3, num_temperatures=2, num_chains=2, latent_data=20)
SEED = 3


@pytest.fixture
def subject(tmp_path):
    """Of 16 test data, with two latent dimensions."""
    return Subject(open_run(finished_run(tmp_path / "run", images(tmp_path / "grey.npz"))), QUICK)


class TestBlocks:
    """Free functions of the second block alone, against the same of all data."""

    X = DATA_BLOCK + 5

    def test_of_bidirectional_bounds(self, monkeypatch):
        few_pilots(monkeypatch, 1)
        vae, settings = small_vae(), {"num_temperatures": 1, "num_chains": 2, "num_leapfrog": 1, "seed": SEED}
        whole = pv.evaluation.bdmc(vae, self.X, **settings)
        second = pv.evaluation.bdmc(vae, 5, **settings, first_block=1)
        for side in ("forward", "reverse"):
            assert torch.equal(getattr(whole, side).value[DATA_BLOCK:], getattr(second, side).value)
        assert torch.equal(whole.x[DATA_BLOCK:], second.x)

    def test_of_gaps(self):
        vae, x = small_vae(), binary_data(self.X)
        whole = elbos(vae, x, num_samples=3, steps=2, seed=SEED)
        second = elbos(vae, x[DATA_BLOCK:], num_samples=3, steps=2, seed=SEED, first_block=1)
        for one, other in zip(whole, second, strict=True):
            assert torch.equal(one.value[DATA_BLOCK:], other.value)

    def test_of_draws(self):
        vae, x = small_vae(), binary_data(self.X)
        whole = guide_draws(vae, x, 4, seed=SEED)
        second = guide_draws(vae, x[DATA_BLOCK:], 4, seed=SEED, first_block=1)
        assert whole.keys() == {"posterior", "sample_stats", "log_likelihood", "observed_data"}
        for group, sites in whole.items():
            for name, values in sites.items():
                assert torch.equal(values[DATA_BLOCK:], second[group][name])

    def test_of_classes_and_of_rounding(self):
        encoder = pv.networks.MLP((4,), (4,), y_dim=3, precision="bfloat16")
        decoder = pv.networks.MLP((2,), (4,), y_dim=3, precision="bfloat16")
        posterior, likelihood = pv.posteriors.DiagonalNormal(encoder, 2), pv.likelihoods.Bernoulli(decoder)
        vae = pv.VAE(pv.priors.StandardNormal(2), posterior, likelihood)
        x, y = (torch.rand(self.X, 4) < 0.4).float(), pv.data.one_hot(torch.arange(self.X) % 3, 3)
        p, after = torch.full((3,), 1 / 3), slice(DATA_BLOCK, None)
        whole, second = (
            pv.evaluation.classify(vae, x[part], p, 4, SEED, first_block=first)
            for part, first in ((slice(None), 0), (after, 1))
        )
        assert torch.equal(whole.log_posterior[:, after], second.log_posterior)
        whole, second = (
            pv.evaluation.rounding_loss(vae, x[part], 4, y[part], seed=SEED, first_block=first)
            for part, first in ((slice(None), 0), (after, 1))
        )
        assert whole.value.abs().max() > 0
        assert torch.equal(whole.value[after], second.value)

    def test_of_a_curve(self):
        vae, x = small_vae(), binary_data(self.X)
        whole = pv.evaluation.iwae_curve(vae, x, 40, seed=SEED)
        second = curve_of(pv.evaluation.log_weights(vae, x[DATA_BLOCK:], 40, seed=SEED, first_block=1))
        for k, bound in whole.bounds.items():
            assert torch.equal(bound.value[DATA_BLOCK:], second.bounds[k].value)
        assert torch.equal(whole.jackknife.value[DATA_BLOCK:], second.jackknife.value)
        assert torch.equal(whole.khat[DATA_BLOCK:], second.khat)
        assert torch.equal(whole.effective[DATA_BLOCK:], second.effective)

    def test_a_short_last_block_is_run_by_pyro_as_it_is_among_the_others(self, monkeypatch):
        vae, x, asked = small_vae(), binary_data(self.X), []
        module = import_module("pyro_vae.evaluation.block_graphs")  # whose name in the package is that of a function
        monkeypatch.setattr(module, "_graph", lambda *a: asked.append(len(a[3][0])))
        with pv.evaluation.compiled():
            pv.evaluation.log_weights(vae, x, 256, seed=SEED)
            pv.evaluation.log_weights(vae, x[DATA_BLOCK:], 256, seed=SEED, first_block=1)
        assert asked == [DATA_BLOCK]


class TestHardest:
    @pytest.mark.parametrize("number", [1, 2, 5])
    def test_whoever_looks_the_worst_of_all_are_among_those_kept(self, number):
        khat = torch.randn(40, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) / 2 + 0.6
        khat[3, 2], khat[7, 7] = torch.inf, torch.nan
        kept = set()
        for i in range(number):
            hardest = Hardest(9)
            for block in range(i, 40, number):
                kept |= {16 * block + at for at in hardest.among(khat[block]).tolist()}
        worst = {datum for datum, _ in pv.evaluation.worst_data(khat.flatten(), 9)}
        assert worst <= kept
        assert len(kept) < 9 * number * 8  # 9 (1 + log(640 / 9)) in expectation, for one

    def test_nothing_is_kept_where_nothing_is_escalated(self):
        assert not len(Hardest(0).among(torch.ones(5)))


def test_escalation_is_that_of_the_weights_of_all_data(subject, monkeypatch):
    few_pilots(monkeypatch, 1)
    escalate = partial(pv.evaluation.escalate, num_temperatures=1, num_chains=2)
    monkeypatch.setattr(pv.evaluation, "escalate", escalate)
    vae, x = subject.trained.vae, subject.trained.test().x
    with torch.no_grad():  # a guide far narrower than the posterior
        list(vae.posterior.encoder.parameters())[-1][2:] -= 2.5
    weights = pv.evaluation.log_weights(vae, x, 30, seed=subject.seed)
    look = Look(subject.trained, replace(QUICK, escalated_draws=3000))
    measurements._escalated(look)
    expected = escalate(vae, x, weights=weights, budget=3000, seed=subject.seed).to_dict()
    for row in expected["rows"]:
        row["row"] = subject.test.split.row(row["datum"])
    assert look.report["escalation"] == expected
    assert look.report["escalation"]["taken"] > 0


class TestReader:
    @pytest.mark.parametrize("recipe", ["none", "dynamic"])
    @pytest.mark.parametrize("num_data", [0, 7])
    def test_pieces_are_those_of_the_whole_and_no_other_level_is_read(self, tmp_path, monkeypatch, recipe, num_data):
        monkeypatch.setattr("pyro_vae.data.splits._BLOCK_NUMBERS", 64)  # blocks of four data
        levels = np.random.default_rng(0).integers(0, 256, (90, 4, 4), np.uint8)
        np.save(tmp_path / "grey.npy", levels)
        run = open_run(finished_run(tmp_path / "run", str(tmp_path / "grey.npy")))
        whole = run.test(num_data)
        split = load(tmp_path / "grey.npy", binarize="dynamic", map_above=0).test
        reader, read = DataReader(run.config, split, 0, num_data), []
        monkeypatch.setattr(
            Split, "_stored", lambda self, at, stored=Split._stored: read.append(at) or stored(self, at)
        )
        wanted = [torch.tensor([1, 2]), torch.tensor([4]), torch.tensor([5, 6])]
        for at, (x, y) in zip(wanted, reader.pieces(wanted), strict=True):
            assert torch.equal(x, whole.x[at])
            assert y is None
        assert sum(map(len, read)) == 5
        again = torch.tensor([6, 0, 6])
        assert torch.equal(reader.at(again)[0], whole.x[again])

    @pytest.mark.thorough
    def test_a_mapped_file_is_evaluated_with_the_same_numbers_and_never_whole(self, tmp_path, monkeypatch):
        np.save(tmp_path / "grey.npy", np.random.default_rng(0).integers(0, 256, (1500, 2, 2), np.uint8))
        run = open_run(finished_run(tmp_path / "run", str(tmp_path / "grey.npy"), latent_dim=4))
        plan = replace(QUICK, annealed_data=0, posterior_draws=0, saved_numbers=4000)
        expected = evaluate(run, plan)
        mapped = replace(run, splits=load(tmp_path / "grey.npy", binarize="dynamic", map_above=0))
        monkeypatch.setattr(Split, "_whole", lambda *_: pytest.fail("a mapped file is read whole"))
        found = evaluate(mapped, plan)
        assert found.report == expected.report
        assert len(expected.saved) == 300
        assert len(found.saved) == 20


def test_shards_have_every_block_once(subject):
    for number in (1, 2, 3, 20):
        shares = [list(shards._share(subject, Shard(i, number))) for i in range(number)]
        found = [(name, block) for share in shares for name, blocks in share for block in blocks]
        assert sorted(found) == sorted(block_tasks.blocks(subject))
    assert [name for name, _ in block_tasks.blocks(subject)] == [
        *("elbo", "iwae", "annealing", "grid", "simulated", "gaps", "training", "draws")
    ]


@pytest.mark.thorough
def test_what_is_written_comes_back_and_what_can_not_be_asked_too(subject, tmp_path, monkeypatch):
    def refuse(*_):
        raise ValueError("there is no such question")

    monkeypatch.setattr(block_tasks, "elbos", partial(elbos, steps=2))  # of the many that a fit takes
    few_pilots(monkeypatch, 1)
    monkeypatch.setitem(block_tasks.TASKS, "simulated", replace(block_tasks.TASKS["simulated"], ask=refuse))
    for i in range(2):
        shards.write(subject, Shard(i, 2), tmp_path / "shards")
    found = shards.merge(subject, tmp_path / "shards")
    assert list(found) == ["elbo", "iwae", "annealing", "grid", "simulated", "gaps", "training", "draws"]
    assert found["simulated"] == "there is no such question"
    for name in found.keys() - {"simulated"}:
        expected = block_tasks.joined(block_tasks.measure(subject, name).values())
        assert expected.keys() == found[name].keys()
        for column, value in expected.items():
            here = found[name][column]
            assert type(here) is type(value)
            assert str(here) == str(value)
            assert all(torch.equal(t, block_tasks.tensors(here)[n]) for n, t in block_tasks.tensors(value).items())
    assert evaluate(subject.trained, subject.plan, parts=found).report["left_out"] == {
        "simulated data": "there is no such question"
    }


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        ({"RANK": "0", "WORLD_SIZE": "1"}, None),
        ({"RANK": "3", "WORLD_SIZE": "4"}, Shard(3, 4)),
        ({"SLURM_PROCID": "1", "SLURM_NTASKS": "2", "SLURM_STEP_ID": "0"}, Shard(1, 2)),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_STEP_NUM_TASKS": "1", "SLURM_STEP_ID": "0"}, None),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "2"}, None),  # the script of the job, which is no task
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_ID": "0"}, Shard(0, 2)),
        ({"RANK": "1", "WORLD_SIZE": "2", "SLURM_PROCID": "0", "SLURM_NTASKS": "3", "SLURM_STEP_ID": "0"}, Shard(1, 2)),
        ({"RANK": "here", "WORLD_SIZE": "2"}, None),
    ],
)
def test_the_share_of_a_process_is_what_its_starter_says(environment, expected):
    assert Shard.wanted("auto", environment) == expected
    assert Shard.wanted("none", environment) is None
    assert Shard.wanted("0/7", environment) == Shard(0, 7)


@pytest.mark.parametrize("text", ["", "3", "3/3", "0/0", "-1/2", "1/2/3", "a/b", "1 /2", "1/999999"])
def test_no_share_is_refused(text):
    with pytest.raises(UsageError, match="`shard`"):
        Shard.wanted(text, {})


def test_a_plan_says_what_is_not_so_by_default():
    assert Plan().changed() == {}
    assert Plan(test_data=5, evaluation_seed=2).changed() == {"test_data": 5, "evaluation_seed": 2}
