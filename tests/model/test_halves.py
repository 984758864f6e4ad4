"""The two halves of a program under plates of others: log p of every member is that of flat data, of each label alone.

model:  vae.generative(x, y)       guide:  vae.recognition(x, y)       plates: any, also subsampled, enumerated labels
"""

import copy
import itertools
import math

import pyro
import pyro.distributions as dist
import pytest
import test_likelihoods as likelihoods
import test_posteriors as posteriors
import test_priors as priors
import torch
from cases import all_but
from densities import perturbed
from exact import ProbabilisticPCA, binary_data, small_vae
from pyro import poutine
from pyro.contrib.autoname import scope
from pyro.infer import Predictive, Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO, config_enumerate
from torch import nn

import pyro_vae as pv
from pyro_vae.errors import DataError, UsageError
from pyro_vae.model.traces import holding

S, B, C, D, SHAPE = 2, 3, 3, 3, (1, 2, 4)
MLP, Normal = pv.networks.MLP, pv.likelihoods.Normal


def small(in_shape, out_shape, y_dim=C):
    return MLP(in_shape, out_shape, hidden=(5,), activation=nn.Tanh, y_dim=y_dim)


def diagonal(x_shape=SHAPE, y_dim=C):
    return pv.posteriors.DiagonalNormal(small(x_shape, (2 * D,), y_dim), D)


def bernoulli(y_dim=C):
    return pv.likelihoods.Bernoulli(small((D,), SHAPE, y_dim))


def with_likelihood(case):
    return pv.VAE(pv.priors.ConditionalNormal(D, C), diagonal(), case.build(C))


def with_prior(case):
    if case.kind == "VampPrior":
        prior = case.build_prior()
        return pv.VAE(prior, prior.posterior, bernoulli(case.y_dim))
    return pv.VAE(case.build_prior(), diagonal(), bernoulli())


def with_posterior(case):
    return pv.VAE(pv.priors.StandardNormal(D), case.build(y_dim=C), bernoulli())


def two_layers(guide):
    D2 = 2
    above = (D,) if guide == "bottom_up" else SHAPE
    return pv.HierarchicalVAE(
        pv.priors.ConditionalNormal(D2, C),
        Normal(small((D2,), (2, D)), scale=0.7, learn_scale="predicted"),
        bernoulli(),
        diagonal(y_dim=C if guide == "bottom_up" else D2 + C),
        pv.posteriors.DiagonalNormal(small(above, (2 * D2,)), D2),
        guide=guide,
    )


class OwnEncoder(nn.Module):
    """It sees rows alone."""

    def __init__(self):
        super().__init__()
        self.convolution, self.head = nn.Conv2d(1, 2, 2), nn.Linear(6 + C, 2 * D)

    def forward(self, x, y):
        return self.head(torch.cat([self.convolution(x).flatten(1), y], 1))


class OwnDecoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(D + C, 8)

    def forward(self, z, y):
        return self.head(torch.cat([z, y], 1)).reshape(-1, *SHAPE)


def own_networks():
    posterior = pv.posteriors.DiagonalNormal(OwnEncoder(), D)
    return pv.VAE(pv.priors.StandardNormal(D), posterior, pv.likelihoods.Bernoulli(OwnDecoder()))


def with_gaps(name, **options):
    scaling = pv.scaling.Centred(SHAPE)
    inner = small(pv.networks.WithMask.in_shape(SHAPE), (2 * D,))
    encoder = pv.scaling.Rescaled(pv.networks.WithMask(inner), scaling)
    likelihood = likelihoods.Case(name, None, None, None, **options).build(C)
    return pv.VAE(pv.priors.StandardNormal(D), pv.posteriors.DiagonalNormal(encoder, D), likelihood, missing=True)


def scaled_columns():
    scale = pv.scaling.ColumnScale(SHAPE)
    likelihood = Normal(small((D,), SHAPE), scale=1.0, learn_scale="pixel", x_shape=SHAPE, column_scale=scale)
    posterior = pv.posteriors.DiagonalNormal(pv.scaling.Rescaled(small(SHAPE, (2 * D,)), scale), D)
    program = pv.VAE(pv.priors.StandardNormal(D), posterior, likelihood)
    scale.fit(3 + 2 * torch.randn(20, *SHAPE))
    return program


BINARY = [0.0, 1.0]
REAL, LEVELS, COUNTS = likelihoods.REAL, likelihoods.LEVEL, likelihoods.COUNTS
PROGRAMS = {
    **{f"p(x|z): {n}": (lambda c=c: with_likelihood(c), c.inside) for n, c in likelihoods.CASES.items()},
    **{f"p(z): {n}": (lambda c=c: with_prior(c), BINARY) for n, c in priors.CASES.items()},
    **{f"q(z|x): {n}": (lambda c=c: with_posterior(c), BINARY) for n, c in posteriors.CASES.items()},
    "two layers, top-down": (lambda: two_layers("top_down"), BINARY),
    "two layers, bottom-up": (lambda: two_layers("bottom_up"), BINARY),
    "networks of one's own": (own_networks, BINARY),
    "columns in units of their spread": (scaled_columns, REAL),
    "missing: Normal": (lambda: with_gaps("Normal", scale=0.3), REAL),
    "missing: LowRankNormal": (lambda: with_gaps("LowRankNormal", rank=2, scale=0.3), REAL),
    "missing: Categorical": (lambda: with_gaps("Categorical", num_levels=likelihoods.LEVELS), LEVELS),
    "missing: NegativeBinomial": (lambda: with_gaps("NegativeBinomial", total_count=4.0), COUNTS),
}
ORDINARY = [
    "p(x|z): LowRankNormal",
    "p(x|z): Categorical",
    "p(x|z): NegativeBinomial",
    "p(z): ConditionalNormal",
    "p(z): VampPrior over DiagonalNormal, labels",
    "p(z): FlowPrior, spline",
    "q(z|x): FlowPosterior",
    "two layers, top-down",
    "networks of one's own",
    "missing: LowRankNormal",
]
LABELLED = [name for name in PROGRAMS if not name.startswith("p(z): Vamp") or name.endswith("labels")]
every_program = pytest.mark.parametrize("name", all_but(ORDINARY, list(PROGRAMS)))
every_labelled = pytest.mark.parametrize("name", all_but(ORDINARY, LABELLED))


def built(name):
    make, inside = PROGRAMS[name]
    torch.manual_seed(1)
    vae = perturbed(make()).double()
    x = torch.tensor(inside, dtype=torch.float64)[torch.randint(len(inside), (S * B, *SHAPE))]
    if vae.missing:
        x = torch.where(torch.rand(x.shape) < 0.4, math.nan, x)
    return vae, x, torch.eye(C, dtype=torch.float64)[torch.arange(S * B) % C]


def under(plates, half, *args):
    """Runs a half under plates, (name, size) from dim -1 on."""

    def program():
        opened = [pyro.plate(name, size, dim=-1 - at) for at, (name, size) in enumerate(plates)]
        for plate in opened:
            plate.__enter__()
        try:
            return half(*args)
        finally:
            for plate in reversed(opened):
                plate.__exit__(None, None, None)

    return program


def log_probs(program, values, *args):
    """log p of each site, for each datum, with these values at the latent ones."""
    fixed = poutine.replay(program, trace=holding(values))
    trace = poutine.trace(fixed).get_trace(*args)
    trace.compute_log_prob()
    return {
        name: s["log_prob"].detach() for name, s in trace.nodes.items() if s["type"] == "sample" and name[0] in "zx"
    }


def latents(vae, x, y):
    trace = poutine.trace(vae.guide).get_trace(x, y)
    return {name: site["value"].detach() for name, site in trace.nodes.items() if name[0] == "z"}


def nested(value):
    return None if value is None else value.reshape(S, B, *value.shape[1:])


# Two dimensions of plates


@every_program
def test_under_two_plates_each_datum_has_the_log_p_that_it_has_flat(name):
    vae, x, y = built(name)
    y = y if name in LABELLED else None
    z = latents(vae, x, y)
    inner, plates = {site: nested(value) for site, value in z.items()}, [("data", B), ("sets", S)]
    for half, whole in ((vae.generative, vae.model), (vae.recognition, vae.guide)):
        expected = log_probs(whole, z, x, y)
        found = log_probs(under(plates, half, nested(x), nested(y)), inner)
        assert found.keys() == expected.keys() != set()
        for site in expected:
            torch.testing.assert_close(found[site], nested(expected[site]), rtol=1e-10, atol=1e-10)


# Labels that Pyro enumerates


@every_labelled
def test_enumerated_labels_give_what_a_loop_over_the_classes_gives(name):
    vae, x, _ = built(name)
    eye, size = torch.eye(C, dtype=torch.float64), len(x)
    each = [eye[c].expand(size, C) for c in range(C)]
    z = [latents(vae, x, y) for y in each]
    together = {site: torch.stack([values[site] for values in z]) for site in z[0]}

    def enumerated(half):
        y = pyro.sample("y", dist.OneHotCategorical(torch.ones(C).double()), infer={"enumerate": "parallel"})
        assert y.shape == (C, 1, C)
        return half(x, y)

    for half, whole in ((vae.generative, vae.model), (vae.recognition, vae.guide)):
        with poutine.enum(first_available_dim=-2):
            found = log_probs(under([("data", size)], enumerated, half), together)
        loop = [log_probs(whole, values, x, y) for values, y in zip(z, each, strict=True)]
        for site in loop[0]:
            expected = torch.stack([log_p[site] for log_p in loop])
            torch.testing.assert_close(found[site].expand_as(expected), expected, rtol=1e-10, atol=1e-10)


def semi_supervised(posterior=None):
    """M2 without a prior of its own on y: the guide has q(y|x) too."""
    torch.manual_seed(1)
    prior = pv.priors.ConditionalNormal(D, C)
    return perturbed(pv.VAE(prior, posterior or diagonal(), bernoulli())).double(), nn.Linear(8, C).double()


def labels(logits, enumerate_="parallel"):
    return pyro.sample("y", dist.OneHotCategorical(logits=logits), infer={"enumerate": enumerate_})


def by_hand(vae, x, log_q, z):
    """The ELBO of each datum, given one z for each class (C, B, D): sum_y q(y|x) [log p(x, y, z_y) - log q(y, z_y)]."""
    total = 0.0
    for c, y in enumerate(torch.eye(C).double()[:, None].expand(C, len(x), C)):
        log_p = vae.prior(y).log_prob(z[c]) + vae.likelihood(z[c], y).log_prob(x) - math.log(C)
        total = total + log_q[:, c].exp() * (log_p - log_q[:, c] - vae.posterior(x, y).log_prob(z[c]))
    return total


def test_the_enumerated_elbo_is_the_sum_by_hand():
    vae, classifier = semi_supervised()
    x, zeros = binary_data(7, SHAPE), torch.zeros(C).double()

    @config_enumerate
    def model(x):
        with pyro.plate("data", len(x)):
            vae.generative(x, pyro.sample("y", dist.OneHotCategorical(logits=zeros)))

    @config_enumerate
    def guide(x):
        with pyro.plate("data", len(x)):
            return vae.recognition(x, pyro.sample("y", dist.OneHotCategorical(logits=classifier(x.flatten(1)))))

    torch.manual_seed(5)
    found = TraceEnum_ELBO(max_plate_nesting=1).loss(model, guide, x)
    torch.manual_seed(5)
    with poutine.enum(first_available_dim=-2):
        z = guide(x)
    log_q = classifier(x.flatten(1)).log_softmax(-1)
    assert z.shape == (C, 7, D)
    assert found == pytest.approx(-by_hand(vae, x, log_q, z).sum().item(), abs=1e-10)


def test_labels_of_the_model_alone_are_summed_out_exactly():
    """log p(x|z) = log sum_y p(y) p(x|z, y), for one z of each datum, which vectorised particles draw on the left."""
    posterior = diagonal(y_dim=0)
    vae = perturbed(pv.VAE(pv.priors.StandardNormal(D), posterior, bernoulli())).double()
    x, zeros = binary_data(7, SHAPE), torch.zeros(C).double()

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            vae.generative(x, labels(zeros))

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            return vae.recognition(x)

    def loss(num_particles):
        torch.manual_seed(5)
        vectorised = {"num_particles": num_particles, "vectorize_particles": num_particles > 1}
        return TraceEnum_ELBO(max_plate_nesting=1, **vectorised).loss(model, guide, x)

    def expected(*plate):
        torch.manual_seed(5)
        z = pyro.plate("draws", *plate, dim=-2)(guide)(x) if plate else guide(x)
        each = torch.stack([vae.likelihood(z, y).log_prob(x) for y in torch.eye(C).double()[:, None].expand(C, 7, C)])
        log_p = torch.logsumexp(each - math.log(C), 0) + vae.prior().log_prob(z)
        return -(log_p - posterior(x).log_prob(z)).sum(-1).mean().item()

    assert loss(1) == pytest.approx(expected(), abs=1e-10)
    assert loss(4) == pytest.approx(expected(4), abs=1e-10)


def test_labels_enumerated_one_after_another_in_the_guide_give_the_same():
    """The guide of a plain autoencoder has no noise that could differ."""
    code = pv.posteriors.Delta(small(SHAPE, (D,)), D)
    vae, classifier = semi_supervised(code)
    x = binary_data(7, SHAPE)

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            vae.generative(x, pyro.sample("y", dist.OneHotCategorical(torch.ones(C).double())))

    def guide(x, how):
        with pyro.plate("data", len(x), dim=-1):
            vae.recognition(x, labels(classifier(x.flatten(1)), how))

    sequential = TraceEnum_ELBO(max_plate_nesting=1).loss(model, lambda x: guide(x, "sequential"), x)
    parallel = TraceEnum_ELBO(max_plate_nesting=1).loss(model, lambda x: guide(x, "parallel"), x)
    assert sequential == pytest.approx(parallel, abs=1e-10)


def test_labels_enumerated_under_a_plate_that_is_closed_are_refused():
    """Pyro would sum over one class of all data together: 18.8 in place of 14.4 for three classes."""
    vae, _ = semi_supervised()
    x, zeros = binary_data(7, SHAPE), torch.zeros(C).double()

    def in_the_model(half):
        def model(x):
            with pyro.plate("classes", len(x), dim=-1):
                y = labels(zeros)
            half(x, y)

        return model

    def in_a_plate(half):
        def program(x, y=None):
            with pyro.plate("data", len(x), dim=-1):
                half(x, y if y is not None else torch.eye(C).double()[[0] * len(x)])

        return program

    def loss(model):
        return TraceEnum_ELBO(max_plate_nesting=1).loss(model, in_a_plate(vae.recognition), x)

    with pytest.raises(UsageError, match=r"enumerated under the plate 'classes', which is not open here: sample y"):
        loss(in_the_model(in_a_plate(vae.generative)))
    with pytest.raises(
        ValueError, match=r"\(3, 1, 3\).* enumerates.*`vae.generative\(x, y\)` in the model and `vae.rec"
    ):
        loss(in_the_model(vae.model))

    def reopened(x):  # the cure
        plate = pyro.plate("data", len(x), dim=-1)
        with plate:
            y = labels(zeros)
        with plate:
            vae.generative(x, y)

    def inside(x):
        with pyro.plate("data", len(x), dim=-1):
            vae.generative(x, labels(zeros))

    losses = []
    for model in (reopened, inside):
        torch.manual_seed(5)
        losses.append(loss(model))
    assert losses[0] == pytest.approx(losses[1], abs=1e-10)


# Subsampled plates


def test_the_losses_of_all_subsamples_have_the_loss_of_all_data_as_their_mean():
    vae, x = small_vae(), binary_data(6)
    z = latents(vae, x, None)["z"]

    def loss(index):
        def program(half):
            with pyro.plate("data", len(x), subsample=index, dim=-1) as drawn:
                half(x[drawn])

        guide = poutine.replay(lambda: program(vae.recognition), trace=holding({"z": z[index]}))
        return Trace_ELBO().loss(lambda: program(vae.generative), guide)

    each = [loss(torch.tensor(index)) for index in itertools.combinations(range(6), 2)]
    assert len(set(each)) == 15
    assert sum(each) / 15 == pytest.approx(loss(torch.arange(6)), rel=1e-12)
    whole = poutine.replay(vae.guide, trace=holding({"z": z}))
    assert loss(torch.arange(6)) == pytest.approx(Trace_ELBO().loss(vae.model, whole, x), rel=1e-12)


def test_both_halves_see_one_subsample():
    vae, x = small_vae(), binary_data(50)
    seen = []

    def program(half):
        with pyro.plate("data", len(x), subsample_size=4) as index:
            seen.append(index)
            return half(x[index])

    Trace_ELBO().loss(lambda: program(vae.generative), lambda: program(vae.recognition))
    assert torch.equal(*seen)
    assert seen[0].shape == (4,)


# The halves are the program


@pytest.mark.parametrize("options", [{}, {"num_particles": 3, "vectorize_particles": True}], ids=["", "particles"])
@pytest.mark.parametrize("loss", [Trace_ELBO, TraceMeanField_ELBO])
def test_under_a_plate_of_all_data_the_halves_are_the_program(loss, options):
    vae, x = small_vae(), binary_data(9)
    halves = [under([("data", 9)], half, x) for half in (vae.generative, vae.recognition)]
    losses = []
    for model, guide in (halves, [lambda: vae.model(x), lambda: vae.guide(x)]):
        torch.manual_seed(5)
        losses.append(loss(**options, max_plate_nesting=1).loss(model, guide))
    assert losses[0] == losses[1]


@pytest.mark.parametrize("guide", ["top_down", "bottom_up"])
def test_two_layers_have_sites_of_their_names_under_one_plate(guide):
    program, x = two_layers(guide).double(), binary_data(4, SHAPE)
    y = torch.eye(C).double()[[0, 1, 2, 0]]
    z1, z2 = under([("data", 4)], program.recognition, x, y)()
    assert (z1.shape, z2.shape) == ((4, D), (4, 2))
    sites = poutine.trace(under([("data", 4)], program.generative, x, y)).get_trace()
    assert [name for name in sites.nodes if name in ("z2", "z1", "x")] == ["z2", "z1", "x"]


def test_without_data_there_is_a_datum_for_each_place_of_the_plates():
    vae = small_vae()
    assert vae.generative().shape == (6,)
    assert vae.recognition(vae.generative()).shape == (3,)
    x = under([("data", 5), ("sets", 2)], vae.generative)()
    assert x.shape == (2, 5, 6)
    assert len(x.flatten(0, 1).unique(dim=0)) > 1
    drawn = Predictive(under([("data", 5)], vae.generative), num_samples=7, parallel=True)()
    assert {name: value.shape for name, value in drawn.items()} == {"z": (7, 5, 3), "x": (7, 5, 6)}
    labelled, _ = semi_supervised()
    y = torch.eye(C).double()[[0, 1, 2, 0]]
    assert under([("data", 4), ("sets", 2)], labelled.generative, None, y)().shape == (2, 4, *SHAPE)


# What is refused


def refused(program, match, error=UsageError):
    with pytest.raises(error, match=match):
        program()


def test_a_batch_under_no_plate_would_share_one_latent():
    vae, x = small_vae(), binary_data(4)
    for half in (vae.generative, vae.recognition):
        refused(lambda half=half: half(x), r"x of shape \(4, 6\) has 4 rows at dim -1, where no plate is open")
        refused(under([("data", 4)], half, x.expand(2, 4, 6)), r"2 rows at dim -2, where no plate is open")
    conditioned = poutine.condition(vae.generative, {"x": x})
    refused(conditioned, r"the value of site x of shape \(4, 6\) has 4 rows at dim -1, where no plate is open")


def test_one_datum_would_count_for_all_of_a_plate():
    vae, x = small_vae(), binary_data(4)
    for half in (vae.generative, vae.recognition):
        refused(under([("data", 4)], half, x[:1]), r"has 1 rows at dim -1, where the plate 'data' has 4: give one")
        refused(under([("data", 4)], half, x[0]), r"x of shape \(6,\) has no dim -1, where the plate 'data' has 4")
        under([("data", 4)], half, x[:1].expand(4, 6))()
        under([("num_particles_vectorized", 3)], half, x[0])()  # as an ELBO opens it around a program of one datum
    conditioned = poutine.condition(vae.generative, {"x": x[0]})
    refused(under([("data", 4)], conditioned), "so that it would count 4 times")


def test_data_and_labels_are_checked_and_named_by_their_place_in_the_plates():
    vae, x, y = built("p(x|z): Bernoulli")
    plates, x, y = [("data", B), ("sets", S)], nested(x), nested(y)
    halves = vae.generative, vae.recognition
    for bad in (math.nan, 0.5):
        x[1, 2, 0, 1, 3] = bad
        for half in halves if math.isnan(bad) else halves[:1]:
            refused(under(plates, half, x, y), r"datum \(1, 2\), position \(0, 1, 3\)", DataError)
    x[1, 2, 0, 1, 3] = 0.0
    y[0, 2, 1] = math.inf
    for half in halves:
        refused(under(plates, half, x, y), r"y holds inf at datum \(0, 2\), position \(1,\)", DataError)
        refused(
            under(plates, half, x, y[:, :2]), r"y of shape \(2, 2, 3\) has 2 rows at dim -1, where the plate 'data'"
        )
        refused(under(plates, half, x, [1, 2]), "labels y must be a tensor", TypeError)
    y[0, 2, 1] = 0.0
    refused(under(plates, vae.generative, x[..., :2], y), r"over data of shape \(1, 2, 4\); got x of shape", DataError)
    refused(under(plates, vae.recognition, None, y), "needs the data", ValueError)
    refused(
        lambda: vae.model(x, y),
        r"labels y are one-hot, \(B, C\); got shape \(2, 3, 3\)\. .* plates of your own",
        ValueError,
    )


def test_a_density_that_is_infinite_at_an_end_is_named_by_its_place_in_the_plates():
    class Beta(pv.likelihoods.Likelihood):
        def forward(self, z, y=None):
            return dist.Beta(*self.decode_parts(z, y, 2).exp()).to_event(1)

    vae = small_vae()
    vae.likelihood = Beta(MLP((3,), (2, 6), (5,)).double())
    x = torch.full((2, 3, 6), 0.4).double()
    plates = [("data", 3), ("sets", 2)]
    under(plates, vae.generative, x)()
    x[1, 2, 4] = 0.0
    refused(under(plates, vae.generative, x), r"Beta is not finite at 0, .*datum \(1, 2\), position \(4,\)", DataError)


@pytest.mark.parametrize("plate", ["images", "data"])
def test_a_plate_that_is_open_already_is_named_and_the_halves_are_the_cure(plate):
    vae, x = small_vae(), binary_data(4)
    told = rf"plate 'data' at dim=-1, and the plate '{plate}' \(dim=-1\) is open: .*`vae.generative\(x, y\)`"
    for whole, half in ((vae.model, vae.generative), (vae.guide, vae.recognition)):
        refused(under([(plate, 4)], whole, x), told)
        under([(plate, 4)], half, x)()
        with pyro.plate("draws", 3, dim=-2):  # on the left there is room
            whole(x)


def test_the_dimensions_of_a_datum_may_have_to_be_said():
    """An encoder and a decoder of one's own, where only the decoder takes labels."""
    torch.manual_seed(1)
    encoder = nn.Sequential(nn.Conv2d(1, 2, 2), nn.Flatten(), nn.Linear(6, 2 * D))
    vae = pv.VAE(
        pv.priors.StandardNormal(D), pv.posteriors.DiagonalNormal(encoder, D), pv.likelihoods.Bernoulli(OwnDecoder())
    ).double()
    x = binary_data(S * B, SHAPE)
    assert under([("data", S * B)], vae.recognition, x)().shape == (S * B, D)  # one plate says it
    plates = [("data", B), ("sets", S)]
    refused(under(plates, vae.recognition, nested(x)), r"in several plates.* set DiagonalNormal's `event_dim`, 3 for")
    vae.posterior.event_dim = 3
    assert under(plates, vae.recognition, nested(x))().shape == (S, B, D)


# Names


def named(name=None):
    torch.manual_seed(3)
    posterior = pv.posteriors.DiagonalNormal(MLP((6,), (4,), (5,)), 2)
    return pv.VAE(
        pv.priors.DiagonalNormal(2), posterior, pv.likelihoods.Bernoulli(MLP((2,), (6,), (5,))), name=name
    ).double()


def both(*programs):
    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            for program in programs:
                program.generative(x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            for program in programs:
                program.recognition(x)

    return model, guide


def test_two_programs_in_one_model_have_the_sites_and_the_parameters_of_their_names():
    left, right = named("left"), named("right")
    x = binary_data(5)
    model, guide = both(left, right)
    sites = poutine.trace(model).get_trace(x).nodes
    assert [name for name in sites if name.partition("/")[0] in ("left", "right")] == [
        "left/z", "left/x", "right/z", "right/x",
    ]  # fmt: skip
    svi = pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO())
    before = copy.deepcopy([p for program in (left, right) for p in program.parameters()])
    svi.step(x)
    after = [p for program in (left, right) for p in program.parameters()]
    assert not any(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert {name.split(".")[0] for name in pyro.get_param_store()} == {"pyro_vae:left", "pyro_vae:right"}
    assert [name for name in poutine.trace(left.model).get_trace(x).nodes if name in ("z", "x")] == ["z", "x"]
    assert (left.site("z"), copy.deepcopy(left).site("z")) == ("left/z", "z")


def test_programs_without_a_name_collide_and_a_name_or_a_scope_is_the_cure():
    x, told = (
        binary_data(5),
        r"Multiple sample sites named '{}' in one model: give each program a name, `name=\"left\"`",
    )
    one, other = named(), named()
    model, guide = both(one, other)
    refused(lambda: poutine.trace(model).get_trace(x), told.format("z"))
    refused(lambda: poutine.trace(guide).get_trace(x), told.format("z"))
    refused(lambda: poutine.trace(lambda: (one.model(x), other.model(x))).get_trace(), told.format("data"))

    def scoped(half, other_half):
        with pyro.plate("data", len(x), dim=-1):
            half(x)
            scope(other_half, prefix="other")(x)

    loss = Trace_ELBO().loss(
        lambda: scoped(one.generative, other.generative), lambda: scoped(one.recognition, other.recognition)
    )
    assert math.isfinite(loss)


# Parameters, and evaluation, inside of an outer program


class Outer:
    """A VAE, and for each datum a local latent u of its own, which a second observation w sees: both exact."""

    def __init__(self, vae):
        super().__init__()
        self.vae = vae
        self.mean, self.gain = (nn.Parameter(torch.tensor(value).double()) for value in (0.3, 0.5))

    def listed(self):
        """How the parameters reach Pyro's store."""

    def model(self, x, y=None):
        self.listed()
        with pyro.plate("data", len(x), dim=-1):
            u = pyro.sample("u", dist.Normal(self.mean, 1.0))
            pyro.sample("w", dist.Normal(u, 1.0), obs=x.sum(-1))
            return self.vae.generative(x)

    def guide(self, x, y=None):
        self.listed()
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("u", dist.Normal(self.gain * (x.sum(-1) + self.mean), math.sqrt(0.5)))
            return self.vae.recognition(x)


class OuterProgram(Outer, pv.Program):
    def listed(self):
        self.list_parameters()


class Plain(Outer, nn.Module):
    """Stock Pyro's own way, which names the tensors of the VAE a second time."""

    def listed(self):
        pyro.module("outer", self)


class ByParam(Outer, nn.Module):
    """It names its own two alone."""

    def listed(self):
        pyro.param("mean", self.mean)
        pyro.param("gain", self.gain)


def by_pyro(outer):
    return pyro.infer.SVI(outer.model, outer.guide, pyro.optim.SGD({"lr": 1e-2, "momentum": 0.9}), Trace_ELBO())


def by_us(outer, how):
    optimizer = torch.optim.SGD(outer.parameters(), lr=1e-2, momentum=0.9)
    return pv.inference.SVI(outer.model, outer.guide, optimizer, Trace_ELBO(), compile=how)


def by_hand_sgd(outer, x):
    """Three steps of the sum of the two parts' losses, without a store."""
    optimizer = torch.optim.SGD(outer.parameters(), lr=1e-2, momentum=0.9)
    for _ in range(3):
        optimizer.zero_grad()
        drawn = poutine.trace(outer.guide).get_trace(x)
        joint = poutine.trace(poutine.replay(outer.model, trace=drawn)).get_trace(x)
        (drawn.log_prob_sum() - joint.log_prob_sum()).backward()
        optimizer.step()


@pytest.mark.parametrize("kind", [OuterProgram, Plain, ByParam])
@pytest.mark.parametrize("how", ["pyro", False, "auto", True])
def test_inside_of_an_outer_program_each_parameter_trains_once(kind, how, traced_only):
    x = binary_data(8)
    outer = kind(named())
    reference = kind(named())
    torch.manual_seed(5)
    by_hand_sgd(reference, x)
    pyro.clear_param_store()
    torch.manual_seed(5)
    svi = by_pyro(outer) if how == "pyro" else by_us(outer, how)
    for _ in range(3):
        svi.step(x)
    start = dict(kind(named()).named_parameters())
    trained, expected = dict(outer.named_parameters()), dict(reference.named_parameters())
    for name, parameter in trained.items():
        assert not torch.equal(parameter, start[name]), name
        torch.testing.assert_close(parameter, expected[name], rtol=1e-12, atol=1e-12)


def test_an_outer_program_is_evaluated_for_each_datum():
    """log p(w, x) = log N(w; mean, 2) + log p(x), both in closed form: any draw of exact guides weighs that."""
    truth = ProbabilisticPCA()
    outer, x = OuterProgram(truth.vae()), truth.data(6)
    u_mean = outer.mean.detach()
    exact = truth.log_evidence(x) + dist.Normal(u_mean, math.sqrt(2.0)).log_prob(x.sum(-1))
    torch.testing.assert_close(pv.evaluation.iwae(outer, x, 3, seed=0).value, exact, rtol=1e-10, atol=1e-10)
    elbo = pv.evaluation.elbo(outer, x, 1000, seed=0)  # of which the KL of u is analytic, so that it has noise
    assert abs(elbo.mean - exact.mean().item()) < 4 * elbo.monte_carlo_error
    weights = pv.evaluation.log_weights(outer, x, 3, seed=0)
    torch.testing.assert_close(weights, exact.expand(3, 6), rtol=1e-10, atol=1e-10)


def test_each_half_lists_its_own_parameters():
    """With the guide's blocked, the decoder trains alone."""
    vae, x = named(), binary_data(5)
    model, guide = both(vae)
    before = copy.deepcopy(dict(vae.named_parameters()))
    optimizer = pyro.optim.SGD({"lr": 0.1})
    pyro.infer.SVI(model, poutine.block(guide, hide_types=["param"]), optimizer, Trace_ELBO()).step(x)
    trained = {name.split(".")[0] for name, p in vae.named_parameters() if not torch.equal(p, before[name])}
    assert trained == {"prior", "likelihood"}
