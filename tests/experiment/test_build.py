"""The tables: every row is there, every field of the config reaches what it should."""

import inspect
import math
import re
from dataclasses import fields, replace

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from cases import all_but
from pyro.infer import TraceMeanField_ELBO
from torch import nn

import pyro_vae as pv
from pyro_vae.data import Form, Split, loading
from pyro_vae.errors import DataError, UsageError
from pyro_vae.experiment import build, tables
from pyro_vae.experiment.checked_fields import settings_of
from pyro_vae.experiment.config import Config
from pyro_vae.inference.epochs import learning_rate_factor
from pyro_vae.inference.fitting import Schedule
from pyro_vae.inference.objectives import is_importance_weighted
from pyro_vae.model.scaling import LogCounts
from pyro_vae.option_words import Binarize, Flow, Guide, LearningRates, Precision, SplitKind, words

TABLES = [name for name in vars(tables) if re.fullmatch("[A-Z]+", name) and name != "SOURCES"]
ROWS = [
    (table, name) for table in TABLES if isinstance(getattr(tables, table), dict) for name in getattr(tables, table)
]
IMAGE = (1, 6, 5)


def program(**settings):
    return build.vae(Config(**{"latent_dim": 3, "hidden": (4,), **settings}), IMAGE)


def widths(network):
    return [layer.out_features for layer in network.body if isinstance(layer, nn.Linear)]


@pytest.mark.parametrize(("table", "name"), ROWS)
def test_every_row_leads_to_something_that_can_be_called(table, name):
    assert callable(tables.find(table, name))


def test_names_without_a_place_are_those_that_the_rooms_know():
    assert all(loading.load("digits", binarize=name) for name in words(Binarize))
    assert all(loading.load("digits", split=name) for name in words(SplitKind))
    assert all(0 < learning_rate_factor(name, 1, 10) <= 1 for name in words(LearningRates))
    assert set(tables.DECODERS) == set(tables.NETWORKS)
    assert all(pv.networks.MLP((2,), (3,), precision=name) for name in words(Precision))
    assert all(pv.priors.FlowPrior(2, flow=name) for name in words(Flow))


def test_every_table_is_offered_by_a_flag():
    assert {f.metadata["table"] for f in settings_of(Config)} - {""} == set(TABLES) - {"DECODERS"}


@pytest.mark.parametrize("table", TABLES)
def test_an_unknown_name_is_answered_with_the_nearest(table):
    name = max(getattr(tables, table), key=len)
    with pytest.raises(UsageError, match=rf"unknown \w+ '{name[:-2]}x'; did you mean '{name}'\?"):
        tables.check_name(table, name[:-2] + "x")


@pytest.mark.parametrize("field", [f for f in settings_of(Config) if f.metadata["table"]], ids=lambda f: f.name)
def test_names_are_checked_before_anything_is_built(field):
    with pytest.raises(UsageError, match=r"unknown .* 'nonesuch'; choose from .*[a-z]"):
        build.check_names(replace(Config(), **{field.name: "nonesuch"}))


def test_an_own_file_is_a_data_set():
    assert [tables.check_name("DATASETS", name) for name in ("x.npy", "a/b.npz")] == ["x.npy", "a/b.npz"]


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
        ("dequantize", True), ("split", "contiguous"), ("data_seed", 5), ("valid_data", 9),
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


@pytest.mark.parametrize("network", tables.NETWORKS)
def test_precision_reaches_encoder_and_decoder_and_no_parameter(network):
    plain, rounded = (program(network=network, precision=name) for name in words(Precision))
    for vae, name in ((plain, "float32"), (rounded, "bfloat16")):
        assert [vae.posterior.encoder.precision, vae.likelihood.decoder.precision] == [name, name]
    assert plain.tensors().keys() == rounded.tensors().keys()
    assert all(torch.equal(tensor, rounded.tensors()[name]) for name, tensor in plain.tensors().items())


def test_the_optimiser_gets_its_settings_and_all_parameters():
    config = Config(optimizer="adamw", lr=0.02, weight_decay=0.3)
    vae = program()
    optimizer = build.svi(config, vae).optimizer
    (group,) = optimizer.param_groups
    assert isinstance(optimizer, torch.optim.AdamW)
    assert (group["lr"], group["weight_decay"], group["fused"]) == (0.02, 0.3, True)
    assert set(map(id, group["params"])) == set(map(id, vae.parameters()))


@pytest.mark.parametrize("objective", tables.OBJECTIVES)
def test_the_objective_gets_its_particles_and_svi_its_bound(objective):
    svi = build.svi(Config(objective=objective, num_particles=6, max_grad_norm=2.5), program())
    assert type(svi.loss) is tables.find("OBJECTIVES", objective)
    assert (svi.loss.num_particles, svi.loss.vectorize_particles, svi.max_grad_norm) == (6, True, 2.5)


def test_the_schedule_takes_all_that_it_has_from_the_config():
    wanted = {
        "epochs": 9, "batch_size": 8, "lr_schedule": "step", "kl_weight": 0.5, "reconstruction_weight": 2.0,
        "kl_warmup": 3, "patience": 4, "valid_samples": 6, "average": 0.25,
    }  # fmt: skip
    assert vars(build.schedule(Config(**wanted), 1000)) == wanted
    assert set(wanted) == {f.name for f in fields(Schedule)}


@pytest.mark.parametrize("layers", [1, 2])
def test_the_rule_of_the_first_weights_reaches_every_network_and_no_prior(layers):
    sizes = {"hidden": (50,), "hidden2": (30,), "latent_dim2": 5, "layers": layers, "prior": "vamp"}
    torchs, glorot = (build.vae(Config(init=rule, **sizes), (64,)).tensors() for rule in ("torch", "glorot"))
    weights = [name for name in torchs if name.endswith(".weight")]
    assert len(weights) == (4 if layers == 1 else 8)  # two in each network, of which two layers have four
    for name in weights:
        out, into = glorot[name].shape
        assert 0.95 < glorot[name].abs().max() / (6 / (out + into)) ** 0.5 <= 1
        bias = name.replace("weight", "bias")
        assert bias not in glorot or not glorot[bias].any()
    others = [name for name in torchs if not name.endswith((".weight", ".bias"))]
    assert all(torch.equal(torchs[name], glorot[name]) for name in others if "prior" not in name)


def test_the_seed_decides_the_initial_parameters():
    first, same, other = (program(seed=seed).tensors()["likelihood.decoder.head.weight"] for seed in (1, 1, 2))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_the_device_is_where_the_parameters_are():
    assert {p.device.type for p in program(device="meta").parameters()} == {"meta"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="here cuda can be used")
def test_a_device_that_is_not_there_is_refused():
    with pytest.raises(UsageError, match=r"device 'cuda' cannot be used here .*: try `device='cpu'`"):
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


@pytest.mark.parametrize("objective", tables.OBJECTIVES)
def test_what_is_said_of_objectives_without_torch_is_so(objective):
    kind = tables.find("OBJECTIVES", objective)
    assert (objective in build._IMPORTANCE_WEIGHTED) == is_importance_weighted(kind)
    assert (objective in build._ANALYTIC) == issubclass(kind, TraceMeanField_ELBO)


@pytest.mark.parametrize(
    "clash",
    [
        {"kl_weight": 0.5},
        {"reconstruction_weight": 0.0},
        {"kl_warmup": 1},
        {"kl_warmup": 4, "kl_weight": 4.0},  # in the first epoch their product is 1
    ],
)
def test_an_importance_weighted_bound_takes_no_weights(clash):
    (name, value), *_ = clash.items()
    vae = program()
    with pytest.raises(UsageError, match=rf"`objective='iwae'`.*`{name}={value:g}`") as error:
        build.svi(Config(objective="iwae", **clash), vae)
    assert ": an importance-weighted bound has no separate KL" in str(error.value)
    with pytest.raises(UsageError, match=re.escape(str(error.value))):
        build.check_names(Config(objective="iwae", **clash))


def test_building_leaves_the_random_state_alone():
    before = torch.random.get_rng_state()
    program()
    assert torch.equal(torch.random.get_rng_state(), before)


# What the data say.


@pytest.mark.parametrize("likelihood", tables.LIKELIHOODS)
def test_a_likelihood_of_whole_numbers_is_given_the_levels(likelihood):
    whole = {"discretized_logistic", "categorical", "poisson", "negative_binomial"}
    recipe = "levels" if likelihood in whole else "dynamic" if likelihood == "bernoulli" else "none"
    config = Config(likelihood=likelihood, latent_dim=2, hidden=(4,))
    data = build.data(config)
    assert {split.recipe for split in (data.train, data.valid, data.test)} == {recipe}
    vae = build.vae(config, *data.form)
    # Sixteen is the highest of the 17 levels of digits: the encoder sees numbers up to 1, whatever it is given.
    # Counts have no highest one: it sees log(1 + x).
    if likelihood in ("poisson", "negative_binomial"):
        assert isinstance(vae.posterior.encoder.scale, LogCounts)
    else:
        assert vae.posterior.encoder.input_scale == (1 / 16 if likelihood in whole else 1.0)
    assert data.train.fixed().max() == (16 if likelihood in whole else 1)
    assert build.shown_range(config, data.form, data.protocol) == (0, 16 if likelihood in whole else 1)


@pytest.mark.parametrize("likelihood", ["discretized_logistic", "categorical"])
def test_the_number_of_levels_reaches_the_likelihood(likelihood):
    config = Config(likelihood=likelihood, latent_dim=2, hidden=(4,))
    support = build.vae(config, *Form((1, 2, 2), 23)).likelihood.support
    assert (support.lower_bound, support.upper_bound) == (0, 22)


def test_counts_without_a_number_of_levels_are_not_scaled():
    config, form = Config(likelihood="poisson", latent_dim=2, hidden=(4,)), Form((5,))
    assert build.vae(config, *form).posterior.encoder.input_scale == 1.0


@pytest.mark.parametrize("conditional", [False, True])
def test_the_number_of_classes_reaches_both_networks_of_a_conditional_program(conditional):
    vae = build.vae(Config(conditional=conditional, latent_dim=2, hidden=(4,)), *Form((5,), 2, 3))
    expected = 3 if conditional else 0
    assert vae.posterior.encoder.y_dim == vae.likelihood.decoder.y_dim == expected


def test_a_conditional_program_needs_data_with_labels(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(60, dtype=np.uint8).reshape(30, 2) % 2)
    config = Config(dataset=str(tmp_path / "x.npy"), conditional=True)
    with pytest.raises(UsageError, match=r"x\.npy has no labels, which `conditional=True` needs: leave it out"):
        build.data(config)


def test_a_prior_of_the_classes_needs_the_classes():
    with pytest.raises(
        UsageError, match=r"`prior=\'conditional\'` is p\(z\|y\) and needs labels: train with `conditional=True`"
    ):
        build.check_names(Config(prior="conditional"))
    build.check_names(Config(prior="conditional", conditional=True))


def test_an_autoencoder_trains_without_the_kl():
    with pytest.raises(UsageError, match="has an infinite KL: train a plain autoencoder with `kl_weight=0`, not 1"):
        program(posterior="delta")


@pytest.mark.parametrize("prior", ["diagonal", "full", "mixture", "flow", "conditional"])
def test_an_autoencoder_has_no_prior_that_would_not_train(prior):
    config = Config(posterior="delta", prior=prior, kl_weight=0.0, conditional=True, latent_dim=2, hidden=(4,))
    with pytest.raises(
        UsageError,
        match=rf"parameters of `prior='{prior}'` would not be trained. Use "
        rf"`prior='standard'`",
    ):
        build.vae(config, (5,), num_classes=2)


@pytest.mark.parametrize("prior", ["standard", "laplace", "student_t"])
def test_an_autoencoder_takes_any_prior_without_parameters(prior):
    assert isinstance(program(posterior="delta", prior=prior, kl_weight=0.0).posterior, pv.posteriors.Delta)


MEMBERS = {"prior": "PRIORS", "posterior": "POSTERIORS", "likelihood": "LIKELIHOODS"}


@pytest.mark.parametrize(
    ("field", "name"), [(field, name) for field in MEMBERS for name in getattr(tables, MEMBERS[field])]
)
def test_the_choice_of_a_member_always_has_an_effect(field, name):
    assert build.unused(replace(Config(), **{field: name})) == []


@pytest.mark.parametrize(
    ("settings", "unused"),
    [
        ({"prior": "mixture", "num_components": 7}, []),
        ({"posterior": "diagonal", "num_components": 7, "df": 3.0}, ["df", "num_components"]),
        ({"likelihood": "poisson", "scale": 0.5, "rate": 3.0, "rank": 3}, ["rank", "scale", "rate"]),
        ({"posterior": "low_rank", "rank": 3}, []),
        ({"posterior": "flow", "flow_transforms": 7, "flow": "autoregressive"}, ["flow"]),
        ({"lr": 0.5, "hidden": (7,), "seed": 3, "network": "conv", "kl_weight": 0.5}, []),
    ],
)
def test_settings_that_no_chosen_member_takes_are_named(settings, unused):
    assert build.unused(Config(**settings)) == unused


# Where training starts.


def started(**settings):
    """A program on digits before its first step, and its data; the guide is nearly a point at its mean."""
    config = Config(**{"latent_dim": 3, "hidden": (4,), "num_components": 30, "binarize": "threshold", **settings})
    data = build.data(config)
    vae = build.vae(config, *data.form)
    with torch.no_grad():
        encoder = getattr(vae.posterior.encoder, "network", vae.posterior.encoder)
        encoder.output_bias[3:] = -20.0
        encoder.head.weight[3:] = 0.0
        vae.likelihood.decoder.head.weight.zero_()
    build.start(config, vae, data)
    return vae, data


@pytest.mark.parametrize("binarize", ["dynamic", "threshold"])
def test_the_decoder_starts_at_the_mean_of_what_training_draws(binarize):
    """Within 1/(2 (N + 1)) = 4e-4, the weight of the half datum that keeps logits finite."""
    vae, data = started(binarize=binarize)
    drawn = data.train.levels / 16 if binarize == "dynamic" else (data.train.levels >= 8).float()
    assert ((vae.likelihood(torch.randn(1, 3)).mean[0] - drawn.mean(0)).abs() < 4.1e-4).all()


@pytest.mark.parametrize("likelihood", sorted(set(tables.LIKELIHOODS) - {"bernoulli"}))
def test_every_decoder_starts_at_the_mean_of_the_training_data(likelihood):
    """Within half a grey level of 256; those who keep away from the ends do so by less."""
    vae, data = started(likelihood=likelihood, binarize="none")
    x = data.train.fixed()
    assert ((vae.likelihood(torch.randn(1, 3)).mean[0] - x.mean(0)).abs() < 0.002 * x.max() + 1e-6).all()


@pytest.mark.parametrize("conditional", [False, True])
def test_a_mixture_starts_on_encoded_data(conditional):
    vae, data = started(prior="mixture", conditional=conditional)
    y = torch.eye(10)[data.train.labels] if conditional else None
    with torch.no_grad():
        codes = vae.posterior(data.train.fixed(), y).mean
        # Drawn to their centre by 1/2; sigma is 1e-4. So from the right code the differences lead to codes.
        apart = 2 * (vae.prior.means - vae.prior.means[0])
        missed = torch.stack([torch.cdist(code + apart, codes).amin(1).max() for code in codes])
    assert missed.min() < 1e-3 < 0.01 < missed.median()
    assert len(torch.cdist(codes[missed.argmin()] + apart, codes).argmin(1).unique()) == 30


@pytest.mark.parametrize("conditional", [False, True])
@pytest.mark.parametrize("likelihood", ["bernoulli", "categorical"])
def test_pseudo_inputs_start_on_training_data_with_their_labels(conditional, likelihood):
    binarize = "threshold" if likelihood == "bernoulli" else "none"
    vae, data = started(prior="vamp", conditional=conditional, likelihood=likelihood, binarize=binarize)
    rows = [(tuple(x.flatten().tolist()), int(y)) for x, y in zip(data.train.fixed(), data.train.labels, strict=True)]
    pseudo = [tuple(u.flatten().tolist()) for u in vae.prior.pseudo_x]
    assert len(set(pseudo)) > 25  # of 30: two digits may look the same in black and white
    if conditional:
        assert set(zip(pseudo, vae.prior.pseudo_y.argmax(1).tolist(), strict=True)) <= set(rows)
        assert (vae.prior.pseudo_y.sum(1) == 1).all()
        assert len(vae.prior.pseudo_y.argmax(1).unique()) > 5
    else:
        assert set(pseudo) <= {x for x, _ in rows}


@pytest.mark.parametrize(("likelihood", "binarize", "high"), [("bernoulli", "static", 1), ("categorical", "none", 16)])
def test_random_pseudo_inputs_are_uniform_over_the_range_of_the_data(likelihood, binarize, high):
    vae, _ = started(prior="vamp", pseudo_inputs="random", likelihood=likelihood, binarize=binarize)
    found = vae.prior.pseudo_x / high
    assert 0 <= found.min() < found.max() <= 1
    # Mean 1/2 and variance 1/12 over 1,920 numbers, 4 standard errors.
    assert abs(found.mean() - 0.5) < 4 * (1 / 12 / 1920) ** 0.5
    assert abs(found.var() - 1 / 12) < 4 * (1 / 180 / 1920) ** 0.5


@pytest.mark.parametrize("prior", ["mixture", "vamp"])
def test_where_training_starts_is_a_function_of_the_seed(prior):
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = started(prior=prior, seed=3)[0].tensors()
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    again, other = (started(prior=prior, seed=seed)[0].tensors() for seed in (3, 4))
    name = {"mixture": "prior.means", "vamp": "prior.pseudo_x"}[prior]
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first[name], other[name])


@pytest.mark.parametrize("name", ["train", "valid", "test"])
def test_data_outside_the_support_are_refused_in_every_split(name):
    config = Config(latent_dim=2, hidden=(4,), binarize="threshold")
    data = build.data(config)
    grey = Split.make(name, torch.full((3, 1, 8, 8), 0.5), None, None, "none", 0)
    with pytest.raises(DataError, match=r"Bernoulli needs x in \{0, 1\}; got 0.5 at row 0, position"):
        build.start(config, build.vae(config, *data.form), replace(data, **{name: grey}))


TWO = {"layers": 2, "latent_dim": 3, "latent_dim2": 2, "hidden": (4,), "hidden2": (5,)}
GUIDED = [
    ("top_down", "mean_field_elbo"),
    ("top_down", "trace_elbo"),
    ("bottom_up", "trace_elbo"),
    ("bottom_up", "iwae"),
]


def two_layers(num_classes=0, **settings):
    return build.vae(Config(**{**TWO, **settings}), IMAGE, None, num_classes)


@pytest.mark.parametrize("guide", words(Guide))
@pytest.mark.parametrize("prior", sorted(set(tables.PRIORS) - {"conditional"}))
def test_two_layers_are_built_with_every_prior(guide, prior):
    vae = two_layers(guide=guide, objective="trace_elbo", prior=prior, num_components=4)
    assert isinstance(vae, pv.HierarchicalVAE)
    assert vae.top_down == (guide == "top_down")
    x = torch.rand(7, *IMAGE).round()
    vae.start_at(x, x)
    z1, z2 = vae.guide(x)
    assert (z1.shape, z2.shape) == ((7, 3), (7, 2))
    assert vae.generate(5).shape == (5, *IMAGE)
    assert pv.evaluation.elbo(vae, x, 3, seed=0).value.isfinite().all()


@pytest.mark.parametrize(
    ("guide", "objective", "conditional"),
    all_but([("bottom_up", "trace_elbo", False)], [(*guided, labels) for guided in GUIDED for labels in (False, True)]),
)
def test_two_layers_train_under_every_objective_that_they_have(guide, objective, conditional):
    config = Config(**TWO, guide=guide, objective=objective, conditional=conditional, lr=0.01)
    build.check_names(config)
    vae = build.vae(config, IMAGE, None, 3)
    svi = build.svi(config, vae)
    x = (torch.rand(60, *IMAGE, generator=torch.Generator().manual_seed(0)) < torch.linspace(0.02, 0.98, 5)).float()
    y = (torch.eye(3).repeat(20, 1),) if conditional else ()
    losses = [svi.step(x, *y) for _ in range(150)]
    # The pixels of a column are drawn alike: below the entropy of fair coins by far, and never below their own.
    p = torch.linspace(0.02, 0.98, 5).double()
    entropy = -6 * (p * p.log() + (1 - p) * (1 - p).log()).sum().item()
    assert entropy - 1.5 < losses[-1] / 60 < 0.8 * 30 * math.log(2)


def test_the_networks_between_two_layers_have_widths_of_their_own():
    vae = two_layers(guide="bottom_up", objective="iwae")
    assert widths(vae.posterior1.encoder)[0] == widths(vae.likelihood.decoder)[0] == 4
    assert widths(vae.posterior2.encoder)[0] == widths(vae.middle.decoder)[0] == 5
    top_down = two_layers()
    assert widths(top_down.posterior2.encoder)[0] == 4


def test_pseudo_inputs_of_a_bottom_up_guide_lie_among_the_codes_of_the_lower_layer():
    vae = two_layers(guide="bottom_up", objective="iwae", prior="vamp", num_components=6)
    x = torch.rand(40, *IMAGE).round()
    vae.start_at(x, x)
    with torch.no_grad():
        codes = vae.posterior1.centre(x)
    assert vae.prior.pseudo_x.shape == (6, 3)
    assert all((codes == point).all(1).any() for point in vae.prior.pseudo_x)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"posterior": "delta", "kl_weight": 0.0}, "leave `layers=2` out"),
        ({"guide": "bottom_up"}, r"this one samples \['z1', 'z2'\]. Use Trace_ELBO \(`objective='trace_elbo'`\)"),
    ],
)
def test_what_two_layers_have_not_is_refused(settings, sentence):
    with pytest.raises(UsageError, match=sentence):
        made(Config(**TWO, **settings))


def made(config):
    build.check_names(config)
    return build.svi(config, build.vae(config, IMAGE))


def test_members_of_the_other_number_of_layers_are_refused():
    with pytest.raises(UsageError, match=r"2 layer\(s\) has the members prior, middle, .*got \['posterior'\]"):
        build.vae(Config(**TWO), IMAGE, posterior=program().posterior)


def test_settings_of_the_second_layer_are_named_where_there_is_none():
    assert build.unused(Config(latent_dim2=3, guide="bottom_up")) == ["latent_dim2", "guide"]
    assert build.unused(Config(**TWO)) == []


def test_a_members_defaults_are_those_of_the_settings():
    settings = {**{field.name: field.default for field in settings_of(Config)}, "learn_scale": "no", "scale": 0.1}
    named = [getattr(room, name) for room in (pv.priors, pv.posteriors, pv.likelihoods) for name in dir(room)]
    members = [each for each in named if inspect.isclass(each) and issubclass(each, nn.Module)]
    options = [option for member in members for option in inspect.signature(member).parameters.values()]
    shared = [option for option in options if option.name in settings and option.default is not option.empty]
    assert len(shared) > 20
    assert [option for option in shared if option.default != settings[option.name]] == []


# Missing numbers


@pytest.mark.parametrize("settings", [{}, {"prior": "vamp", "num_components": 3}, {"network": "conv"}], ids=str)
@pytest.mark.parametrize("layers", [1, 2])
def test_missing_reaches_program_encoders_and_pseudo_inputs(settings, layers):
    vae = program(missing="nan", layers=layers, latent_dim2=2, **settings)
    x = torch.zeros(4, *IMAGE)
    x[:, :, 2:] = math.nan
    assert vae.missing
    if "prior" in settings:
        assert vae.prior.pseudo_observed.shape == (3, *IMAGE)
    vae.start_at(x, x)
    assert pv.evaluation.iwae(vae, x, 5, seed=0).value.isfinite().all()
    assert not program().missing


def test_a_bottom_up_guide_masks_data_and_no_latents():
    vae = program(missing="nan", layers=2, latent_dim2=2, guide="bottom_up", prior="vamp", num_components=3)
    x = torch.full((4, *IMAGE), math.nan)
    assert pv.evaluation.iwae(vae, x, 5, seed=0).value.isfinite().all()
    assert vae.prior.pseudo_observed is None
    assert isinstance(vae.posterior2.encoder, pv.networks.MLP)


def test_levels_are_scaled_and_the_mask_is_not():
    vae = build.vae(Config(likelihood="categorical", latent_dim=3, hidden=(4,), missing="nan"), IMAGE, 17)
    encoder = vae.posterior.encoder.network  # behind the centring
    assert (encoder.input_scale, encoder.network.input_scale) == (1 / 16, 1.0)


@pytest.mark.parametrize(("scaling", "likelihood"), [("as_stored", "normal"), ("counts", "poisson")])
def test_what_an_encoder_sees_of_data_with_gaps_is_centred(scaling, likelihood):
    """Around 0, where the missing ones are put: else an encoder is busy with telling them from small numbers."""
    x = torch.from_numpy(np.random.default_rng(0).poisson(30, (90, 4)).astype(np.float32))
    x[::2, 0] = math.nan
    vae = build.vae(
        Config(likelihood=likelihood, latent_dim=2, hidden=(4,), missing="nan", prior="vamp"), (4,), scaling=scaling
    )
    vae.start_at(x, x)
    encoder = vae.posterior.encoder
    torch.testing.assert_close(encoder.scale.see(x).nanmean(0), torch.zeros(4), rtol=0, atol=1e-5)
    assert vae.prior.data_scale is encoder.scale


def test_a_likelihood_that_cannot_take_gaps_is_a_usage_error():
    with pytest.raises(UsageError, match="ExponentialNorm"):
        program(missing="nan", likelihood="exponential_norm")


def test_an_old_config_takes_no_gaps():
    values = Config().to_dict()
    del values["missing"]
    assert Config.from_dict(values).missing == "no"
