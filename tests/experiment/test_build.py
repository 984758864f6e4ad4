"""The tables: every row is there, every field of the config reaches what it should."""

import math
from dataclasses import fields, replace

import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pyro_vae as pv
from pyro_vae.data import loading
from pyro_vae.errors import UsageError
from pyro_vae.experiment import build
from pyro_vae.experiment.config import Config
from pyro_vae.inference.objectives import learning_rate_factor
from pyro_vae.inference.training import Schedule

TABLES = [name for name, value in vars(build).items() if name.isupper() and name not in ("SOURCES", "TYPE_CHECKING")]
ROWS = [(table, name) for table in TABLES if isinstance(getattr(build, table), dict) for name in getattr(build, table)]
IMAGE = (1, 6, 5)


def program(**settings):
    return build.vae(Config(**{"latent_dim": 3, "hidden": (4,), **settings}), IMAGE)


def widths(network):
    return [layer.out_features for layer in network.body if isinstance(layer, nn.Linear)]


@pytest.mark.parametrize(("table", "name"), ROWS)
def test_every_row_leads_to_something_that_can_be_called(table, name):
    assert callable(build._find(table, name))


def test_names_without_a_place_are_those_that_the_rooms_know():
    assert all(loading.load("digits", binarize=name) for name in build.BINARIZATIONS if name != "auto")
    assert all(loading.load("digits", split=name) for name in build.SPLITS)
    assert all(0 < learning_rate_factor(name, 1, 10) <= 1 for name in build.SCHEDULES)
    assert set(build.DECODERS) == set(build.NETWORKS)


def test_every_table_is_offered_by_a_flag():
    assert {f.metadata["table"] for f in fields(Config)} - {""} == set(TABLES) - {"DECODERS"}


@pytest.mark.parametrize("table", TABLES)
def test_an_unknown_name_is_answered_with_the_nearest(table):
    name = max(getattr(build, table), key=len)
    with pytest.raises(UsageError, match=rf"unknown \w+ '{name[:-2]}x'; did you mean '{name}'\?"):
        build.check_name(table, name[:-2] + "x")


@pytest.mark.parametrize("field", [f for f in fields(Config) if f.metadata["table"]], ids=lambda f: f.name)
def test_names_are_checked_before_anything_is_built(field):
    with pytest.raises(UsageError, match=r"unknown .* 'nonesuch'; did you mean"):
        build.check_names(replace(Config(), **{field.name: "nonesuch"}))


def test_an_own_file_is_a_data_set():
    assert [build.check_name("DATASETS", name) for name in ("x.npy", "a/b.npz")] == ["x.npy", "a/b.npz"]


FIELD = {"NETWORKS": "network", "ACTIVATIONS": "activation", "PRIORS": "prior", "POSTERIORS": "posterior"}
FIELD |= {"LIKELIHOODS": "likelihood", "OBJECTIVES": "objective", "OPTIMIZERS": "optimizer"}


@pytest.mark.parametrize(("table", "name"), [row for row in ROWS if row[0] in FIELD])
def test_whatever_a_row_names_can_be_trained(table, name):
    # A conditional prior needs labels; a plain autoencoder has no KL, so that its loss is only reconstruction.
    more = {"conditional": {"conditional": table == "PRIORS"}, "delta": {"kl_weight": 0.0}}.get(name, {})
    config = Config(**{FIELD[table]: name, "latent_dim": 3, "hidden": (4,), **more})
    vae = build.vae(config, IMAGE, num_classes=2)
    y = torch.eye(2)[[0, 1, 1, 0, 0]] if config.conditional else None
    before = {key: p.clone() for key, p in vae.named_parameters()}
    build.svi(config, vae).step(torch.ones(5, *IMAGE), y, kl_weight=config.kl_weight)
    unchanged = [key for key, p in vae.named_parameters() if torch.equal(p, before[key])]
    # The diagonal and what is above it belong to another parameter, or to none.
    assert unchanged == []


def data_arguments(config, monkeypatch):
    asked = {}
    with monkeypatch.context() as patch:
        patch.setattr("pyro_vae.data.load", lambda dataset, **rest: asked.update(rest, dataset=dataset))
        build.data(config)
    return asked


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("dataset", "a.npy"), ("data_dir", "elsewhere"), ("download", True), ("binarize", "static"),
        ("dequantize", True), ("split", "contiguous"), ("data_seed", 5),
    ],
)  # fmt: skip
def test_what_the_config_says_of_the_data_reaches_the_loader(name, value, monkeypatch):
    assert data_arguments(replace(Config(), **{name: value}), monkeypatch)[name] == value


@pytest.mark.parametrize(("likelihood", "binarize"), [("bernoulli", "dynamic"), ("normal", "none")])
def test_auto_binarises_for_likelihoods_of_binary_data_only(likelihood, binarize, monkeypatch):
    assert data_arguments(Config(likelihood=likelihood), monkeypatch)["binarize"] == binarize


def test_latent_dim_reaches_all_three_members():
    vae = program(latent_dim=5)
    assert vae.prior().event_shape == vae.posterior(torch.zeros(1, *IMAGE)).event_shape == (5,)
    assert vae.likelihood.decoder.in_shape == (5,)


def test_the_names_of_the_members_reach_the_program():
    vae = program(likelihood="normal", network="conv", activation="tanh")
    assert isinstance(vae.prior, pv.priors.StandardNormal)
    assert isinstance(vae.posterior, pv.posteriors.DiagonalNormal)
    assert isinstance(vae.likelihood, pv.likelihoods.Normal)
    assert isinstance(vae.posterior.encoder, pv.networks.ConvEncoder)
    assert isinstance(vae.likelihood.decoder, pv.networks.ConvDecoder)
    assert isinstance(vae.likelihood.decoder.activation, nn.Tanh)


def test_scale_reaches_the_density_of_the_normal_likelihood():
    p = program(likelihood="normal", scale=0.25).likelihood(torch.zeros(1, 3))
    # At its mean, each of the 30 pixels contributes -log(sigma sqrt(2 pi)).
    assert p.log_prob(p.mean).item() == pytest.approx(-30 * math.log(0.25 * math.sqrt(2 * math.pi)), rel=1e-5)


def test_hidden_reaches_encoder_and_decoder():
    vae = program(hidden=(7, 9))
    assert widths(vae.posterior.encoder) == widths(vae.likelihood.decoder) == [7, 9]


def test_the_optimiser_gets_its_settings_and_all_parameters():
    config = Config(optimizer="adamw", lr=0.02, weight_decay=0.3)
    vae = program()
    optimizer = build.svi(config, vae).optimizer
    (group,) = optimizer.param_groups
    assert isinstance(optimizer, torch.optim.AdamW)
    assert (group["lr"], group["weight_decay"], group["fused"]) == (0.02, 0.3, True)
    assert set(map(id, group["params"])) == set(map(id, vae.parameters()))


@pytest.mark.parametrize("objective", build.OBJECTIVES)
def test_the_objective_gets_its_particles_and_svi_its_bound(objective):
    svi = build.svi(Config(objective=objective, num_particles=6, max_grad_norm=2.5), program())
    assert type(svi.loss) is build._find("OBJECTIVES", objective)
    assert (svi.loss.num_particles, svi.loss.vectorize_particles, svi.max_grad_norm) == (6, True, 2.5)


def test_the_schedule_takes_all_that_it_has_from_the_config():
    wanted = {
        "epochs": 9, "batch_size": 8, "lr_schedule": "step", "kl_weight": 0.5, "reconstruction_weight": 2.0,
        "kl_warmup": 3, "patience": 4, "valid_samples": 6,
    }  # fmt: skip
    assert vars(build.schedule(Config(**wanted))) == wanted
    assert set(wanted) == {f.name for f in fields(Schedule)}


def test_the_seed_decides_the_initial_parameters():
    first, same, other = (program(seed=seed).tensors()["likelihood.decoder.head.weight"] for seed in (1, 1, 2))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_the_device_is_where_the_parameters_are():
    assert {p.device.type for p in program(device="meta").parameters()} == {"meta"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="here cuda can be used")
def test_a_device_that_is_not_there_is_refused():
    with pytest.raises(UsageError, match=r"device 'cuda' can not be used here .*: try --device cpu"):
        program(device="cuda")


def test_an_own_member_takes_the_place_of_the_named_one():
    class StudentPrior(pv.priors.Prior):
        def forward(self, y=None):
            return dist.StudentT(5.0, self.loc, self.scale).to_event(1)

    prior = StudentPrior(3)
    assert build.vae(Config(latent_dim=3, hidden=(4,)), IMAGE, prior=prior).prior is prior


def test_a_member_that_a_vae_has_not_is_refused():
    with pytest.raises(UsageError, match=r"got \['flow'\]"):
        build.vae(Config(), IMAGE, flow=None)


@pytest.mark.parametrize("clash", [{"kl_weight": 0.5}, {"reconstruction_weight": 0.0}, {"kl_warmup": 1}])
def test_an_importance_weighted_bound_takes_no_weights(clash):
    with pytest.raises(UsageError, match="--objective iwae"):
        build.check_names(Config(objective="iwae", **clash))


def test_building_leaves_the_random_state_alone():
    before = torch.random.get_rng_state()
    program()
    assert torch.equal(torch.random.get_rng_state(), before)
