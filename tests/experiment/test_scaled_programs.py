"""Programs whose networks see scaled data: built, saved, taken up again, shared and refitted like any other."""

import dataclasses
import json
import math

import numpy as np
import pytest
import scipy.stats
import torch
from cases import thorough
from torch import nn

import pyro_vae as pv
from pyro_vae.data import Form
from pyro_vae.errors import CheckpointError, UsageError
from pyro_vae.experiment import build, tables
from pyro_vae.experiment.config import Config
from pyro_vae.experiment.run import checkpoint
from pyro_vae.experiment.run.checkpoint import Checkpoint
from pyro_vae.experiment.run.run_folder import Run
from pyro_vae.experiment.run.trained_run import open_run
from pyro_vae.experiment.studies import refitting
from pyro_vae.experiment.train.training_session import Session
from pyro_vae.inference import SVI, Progress, fit
from pyro_vae.model.scaling import ColumnMean, ColumnScale, LogCounts, Rescaled
from pyro_vae.randomness import stream

SMALL = {"latent_dim": 2, "hidden": (8,), "num_components": 4, "batch_size": 10, "epochs": 4, "lr": 0.01}
UNITS = np.array([1.0, 40.0, 1e-3, 1e4, 0.01])
SCALING = {"normal": "standardized", "laplace": "standardized", "low_rank_normal": "standardized"}


def table(rows=80):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, 2)) @ rng.normal(size=(2, 5)) + 0.3 * rng.normal(size=(rows, 5))
    return (x * UNITS + 3 * UNITS).astype(np.float32)


def counts(rows=80):
    rng = np.random.default_rng(0)
    means = np.array([0.1, 3, 700, 1e5, 1.0]) * np.exp(rng.normal(size=(2, 5)))
    return rng.poisson(means[np.arange(rows) % 2]).astype(np.float32)


@pytest.fixture
def scaled(monkeypatch, tmp_path):
    """A config on a table or on counts, whose data say how networks see them."""
    load = build.data
    monkeypatch.setattr(
        build,
        "data",
        lambda config: dataclasses.replace(load(config), scaling=SCALING.get(config.likelihood, "counts")),
    )

    def make(likelihood, **settings):
        path = tmp_path / f"{likelihood}.npy"
        np.save(path, table() if likelihood in SCALING else counts())
        return Config(dataset=str(path), likelihood=likelihood, **{**SMALL, **settings})

    return make


def started(config):
    data = build.data(config)
    vae = build.vae(config, *data.form)
    build.start(config, vae, data)
    return data, vae


# Building


@pytest.mark.parametrize("settings", [{}, {"layers": 2}, {"layers": 2, "guide": "bottom_up"}], ids=str)
@pytest.mark.parametrize("likelihood", ["normal", "laplace", "low_rank_normal"])
def test_one_scale_is_shared_by_all_that_see_columns(likelihood, settings):
    vae = build.vae(Config(likelihood=likelihood, prior="vamp", **SMALL, **settings), (5,), scaling="standardized")
    scale = vae.likelihood.column_scale
    assert isinstance(scale, ColumnScale)
    assert {id(m) for m in vae.modules() if isinstance(m, ColumnScale)} == {id(scale)}
    bottom_up = settings.get("guide") == "bottom_up"
    lower = vae.posterior1 if "layers" in settings else vae.posterior
    assert isinstance(lower.encoder, Rescaled)
    assert vae.prior.data_scale is (None if bottom_up else scale)
    if "layers" in settings:
        assert isinstance(vae.posterior2.encoder, Rescaled) is not bottom_up
        assert vae.middle.column_scale is None


@pytest.mark.parametrize("levels", [None, 256])
@pytest.mark.parametrize("likelihood", ["poisson", "negative_binomial"])
def test_counts_are_seen_by_their_logarithm_and_rates_are_relative(likelihood, levels):
    vae = build.vae(Config(likelihood=likelihood, prior="vamp", **SMALL), (5,), levels, scaling="counts")
    encoder = vae.posterior.encoder
    assert isinstance(encoder.scale, LogCounts)
    assert encoder.network.input_scale == 1.0
    assert vae.prior.data_scale is encoder.scale
    assert isinstance(vae.likelihood.column_mean, ColumnMean)


@pytest.mark.parametrize("likelihood", ["normal", "negative_binomial", "bernoulli"])
def test_as_stored_is_what_there_was_before(likelihood):
    plain = build.vae(Config(likelihood=likelihood, prior="vamp", **SMALL), (5,), 17)
    assert not [m for m in plain.modules() if isinstance(m, Rescaled | ColumnScale | ColumnMean)]


@pytest.mark.parametrize("likelihood", sorted(set(tables.LIKELIHOODS) - set(SCALING)))
def test_a_likelihood_that_is_no_density_of_columns_is_refused_with_the_cure(likelihood):
    config = Config(likelihood=likelihood, **SMALL)
    assert not build.takes_column_scale(config)
    with pytest.raises(
        UsageError, match=r"is not a density of columns .*: use `standardize='no'`, or `likelihood='normal"
    ):
        build.vae(config, (5,), 17, scaling="standardized")
    assert build.vae(config, (5,), 17)
    assert build.takes_column_scale(dataclasses.replace(config, likelihood="normal"))


def test_an_unknown_scaling_is_refused():
    with pytest.raises(UsageError, match="unknown scaling 'standardised'; did you mean 'standardized'"):
        build.vae(Config(**SMALL), (5,), scaling="standardised")


@pytest.mark.parametrize(
    ("settings", "scaling", "learned", "scale"),
    [
        ({}, "as_stored", "no", 0.1),
        ({}, "standardized", "pixel", 1.0),
        ({"learn_scale": "one"}, "standardized", "one", 1.0),
        ({"learn_scale": "no", "scale": 0.3}, "standardized", "no", 0.3),
        ({"scale": 0.3}, "as_stored", "no", 0.3),
    ],
)
def test_what_a_scale_starts_at_depends_on_how_data_are_seen(settings, scaling, learned, scale):
    member = build.vae(Config(likelihood="normal", **SMALL, **settings), (5,), scaling=scaling).likelihood
    assert (member.learn_scale, member.scale) == (learned, scale)
    if learned == "pixel":
        assert torch.allclose(member.learned_scale(), torch.ones(5))


def test_a_likelihood_of_levels_and_one_of_distances_have_the_defaults_that_they_had():
    assert build.vae(Config(likelihood="discretized_logistic", **SMALL), (5,), 17).likelihood.learn_scale == "no"
    assert build.vae(Config(likelihood="exponential_norm", **SMALL), (5,)).likelihood.learn_scale == "no"


def test_members_of_ones_own_stay_as_they_are():
    mine = pv.posteriors.DiagonalNormal(nn.Linear(5, 4), 2)
    vae = build.vae(Config(likelihood="normal", **SMALL), (5,), scaling="standardized", posterior=mine)
    assert vae.posterior is mine
    assert isinstance(mine.encoder, nn.Linear)
    bernoulli = pv.likelihoods.Bernoulli(nn.Linear(2, 5))
    assert build.vae(Config(**SMALL), (5,), scaling="standardized", likelihood=bernoulli).likelihood is bernoulli


@pytest.mark.parametrize("likelihood", ["normal", "laplace", "low_rank_normal", "poisson", "negative_binomial"])
def test_training_starts_at_the_mean_of_the_training_data_in_their_own_units(scaled, likelihood):
    config = scaled(likelihood, prior="vamp")
    data, vae = started(config)
    x = data.train.fixed().double()
    nn.init.zeros_(vae.likelihood.decoder.head.weight)
    started_at = vae.likelihood(torch.zeros(1, 2)).mean[0].double()
    assert torch.allclose(started_at, x.mean(0), rtol=1e-5, atol=0.01 if likelihood not in SCALING else 0)
    assert vae.prior.pseudo_x.abs().max() < 13


# Runs


@pytest.mark.parametrize("settings", [{"prior": "vamp"}, *thorough({"layers": 2, "prior": "vamp"}, {})], ids=str)
@pytest.mark.parametrize("likelihood", ["normal", "poisson", *thorough("low_rank_normal", "negative_binomial")])
def test_a_saved_program_comes_back_bit_by_bit(scaled, tmp_path, likelihood, settings):
    config = scaled(likelihood, **settings)
    data, vae = started(config)
    svi, x = build.svi(config, vae), data.test.fixed()
    svi.step(x)
    state = svi.optimizer.state_dict()
    manifest = checkpoint.save(tmp_path, Checkpoint(config, data.form, Progress(1, 1, -1.0), vae.tensors(), state))
    assert checkpoint.read(manifest).form == data.form == Form((5,), None, 0, data.scaling)
    found = pv.load(manifest)
    assert found.tensors().keys() == vae.tensors().keys()
    assert all(torch.equal(tensor, vae.tensors()[name]) for name, tensor in found.tensors().items())
    weights = [pv.evaluation.log_weights(program, x, 3, seed=0) for program in (found, vae)]
    assert torch.equal(*weights)


def edit(manifest, change):
    from pyro_vae.experiment.run.manifest import sealed

    body = json.loads(manifest.read_text())
    del body["sha256"]
    change(body)
    manifest.write_bytes(sealed(body))


def test_a_manifest_without_a_scaling_is_one_of_data_as_stored(trained, tmp_path):
    last = trained.folder / "epoch-00005.json"
    edit(last, lambda body: body.pop("scaling"))
    assert checkpoint.read(last).form.scaling == "as_stored"
    pv.load(last)
    edit(last, lambda body: body.update(scaling="squared"))
    with pytest.raises(CheckpointError, match="the networks see data as_stored, standardized, counts; got 'squared'"):
        checkpoint.read(last)


def session_in(folder, config):
    data, vae = started(config)
    return Session.open(Run(folder, config), data, vae, build.svi(config, vae))


@pytest.mark.parametrize("likelihood", ["normal", *thorough("negative_binomial")])
def test_a_run_that_was_stopped_goes_on_to_the_same_bits(scaled, tmp_path, likelihood):
    config, ends = scaled(likelihood, prior="vamp"), []
    for folder, stops in ((tmp_path / "whole", [99]), (tmp_path / "parts", [2, 99])):
        for stop in stops:
            session = session_in(folder, config)
            for record in session.fit(lambda session=session, stop=stop: session.progress.epoch >= stop):
                session.save(record)
        ends.append(checkpoint.newest(folder / "checkpoints")[0])
    assert [end.progress.epoch for end in ends] == [4, 4]
    assert all(torch.equal(tensor, ends[1].program[name]) for name, tensor in ends[0].program.items())


def finished(scaled, folder, likelihood, **settings):
    config = scaled(likelihood, test_samples=20, elbo_samples=10, **settings)
    session = session_in(folder, config)
    for record in session.fit():
        session.save(record)
    session.run.status.set("finished", protocol=session.data.protocol)
    return folder


@pytest.mark.parametrize("prior", ["vamp", *thorough("diagonal")])
def test_a_refitted_prior_sees_data_as_the_encoder_does(scaled, tmp_path, prior):
    run = open_run(finished(scaled, tmp_path / "run", "normal"))
    config = refitting.refitted_config(run.config, prior, {"epochs": 2})
    new = refitting.with_prior(run, config)
    scale = new.likelihood.column_scale
    assert scale is new.posterior.encoder.scale
    assert torch.equal(scale.spread, run.vae.likelihood.column_scale.spread)
    if prior == "vamp":
        assert new.prior.data_scale is scale
        assert new.prior.pseudo_x.abs().max() < 10
    fresh = build.vae(config, *run.data.form)
    assert fresh.tensors().keys() == new.tensors().keys()


def test_a_shared_program_comes_back(scaled, tmp_path):
    folder = finished(scaled, tmp_path / "run", "normal", prior="vamp")
    shared, x = pv.share(folder, tmp_path / "shared"), torch.from_numpy(table())
    mine, theirs = (pv.evaluation.iwae(pv.load(path), x, 5, seed=0).value for path in (folder, shared))
    assert torch.equal(mine, theirs)
    assert json.loads((shared / "config.json").read_text())["scaling"] == "standardized"


# Steps


@pytest.mark.thorough
@pytest.mark.parametrize("settings", [{"prior": "vamp"}, *thorough({}, {"layers": 2}, {"objective": "iwae"})], ids=str)
@pytest.mark.parametrize("likelihood", ["normal", *thorough("negative_binomial", "low_rank_normal", "poisson")])
def test_traced_steps_are_pyros_to_the_last_bit(scaled, traced_only, likelihood, settings):
    particles = {"num_particles": 3} if settings.get("objective") == "iwae" else {}
    config, ends = scaled(likelihood, **settings, **particles), []
    for mode in (True, False):
        data, vae = started(config)
        made, x = build.svi(config, vae), data.train.fixed()
        svi = SVI(vae.model, vae.guide, made.optimizer, made.loss, compile=mode)
        with stream(0, "noise"):
            losses = [svi.step(x[: 20 - step % 2]) for step in range(6)]
        assert svi.graphs.mode == mode, "it fell back"
        ends.append((losses, vae.tensors()))
    assert ends[0][0] == ends[1][0]
    assert all(torch.equal(tensor, ends[1][1][name]) for name, tensor in ends[0][1].items())


# Batches and older configs


def test_batches_are_at_most_a_share_of_the_training_data():
    for rows in (1, 7, 8, 9, 17, 124, 1000, 1257):
        size = build.schedule(Config(), rows).batch_size
        assert size == build.batch_size(Config(), rows) == max(1, min(128, rows // 8))
        assert -(-rows // size) >= min(rows, 8)
    assert build.schedule(Config(fewest_steps=1), 7).batch_size == 7


def test_an_older_config_means_what_was_done_then():
    now = Config(dataset="x.npy", scale=0.1, learn_scale="no")
    saved = {k: v for k, v in now.to_dict().items() if k not in ("fewest_steps", "standardize")}
    older = Config.from_dict(saved)
    assert (older.fewest_steps, older.standardize, older.scale, older.learn_scale) == (1, "no", 0.1, "no")
    assert Config.from_dict(now.to_dict()) == now
    assert (now.fewest_steps, now.standardize) == (8, "auto")


# Training


def trained(x, scaling, likelihood, **settings):
    from pyro_vae.data.splits import Split, Splits

    rows = torch.tensor(x[np.random.default_rng(0).permutation(len(x))], dtype=torch.float32)
    cuts = {"train": rows[: -len(x) // 4], "valid": rows[-len(x) // 4 : -len(x) // 8], "test": rows[-len(x) // 8 :]}
    parts = [Split.make(name, part, None, None, "none", 0) for name, part in cuts.items()]
    data = Splits(*parts, (x.shape[1],), 0, {"name": "x", "split": {"given": []}}, scaling=scaling)
    config = Config(**{**SMALL, "hidden": (64,), "batch_size": 128, **settings, "likelihood": likelihood})
    vae = build.vae(config, *data.form)
    build.start(config, vae, data)
    for _ in fit(vae, build.svi(config, vae), data, build.schedule(config, len(data.train))):
        pass
    found = pv.evaluation.iwae(vae, data.test.fixed(), 500, seed=0).value.double().numpy()
    return vae, found, cuts["train"].double().numpy(), cuts["test"].double().numpy()


def paired(found, other):
    gap = found - other
    return gap.mean(), gap.std(ddof=1) / math.sqrt(len(gap))


@pytest.mark.thorough
def test_a_table_of_unequal_scales_trains_to_a_normal_of_full_covariance():
    """The data are such a normal, so that nothing can be better but by chance."""
    _, found, train, test = trained(table(600), "standardized", "normal", epochs=250)
    mean, std = train.mean(0), train.std(0)
    covariance = np.cov(((train - mean) / std).T)
    full = scipy.stats.multivariate_normal(np.zeros(5), covariance).logpdf((test - mean) / std) - np.log(std).sum()
    gap, error = paired(found, full)
    assert gap > -0.1 - 4 * error


@pytest.mark.slow
@pytest.mark.parametrize("top", [1e3, 1e5])
def test_counts_of_two_groups_train_to_the_log_probability_of_the_truth(top):
    rng, r = np.random.default_rng(1), 5.0
    means = np.geomspace(0.1, top, 12) * np.exp(rng.normal(size=(2, 12)))
    group = rng.integers(0, 2, 800)
    x = rng.negative_binomial(r, r / (r + means[group]))
    vae, found, _, test = trained(x, "counts", "negative_binomial", epochs=200)
    each = [scipy.stats.nbinom.logpmf(test, r, r / (r + m)).sum(-1) for m in means]
    gap, error = paired(found, np.logaddexp(*each) - math.log(2))
    assert -0.7 - 4 * error < gap < 4 * error
    assert abs(vae.likelihood.scales()["total_count"] - r) < 1


@pytest.mark.parametrize("likelihood", ["poisson", "negative_binomial"])
def test_counts_up_to_a_million_do_not_end_training(likelihood):
    x = np.random.default_rng(0).poisson(np.geomspace(0.1, 1e6, 8), (200, 8))
    assert np.isfinite(trained(x, "counts", likelihood, epochs=3)[1]).all()
