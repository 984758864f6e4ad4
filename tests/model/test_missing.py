"""Missing numbers, NaN in x: densities against slow loops over observed ones, steps, starts, and what is refused."""

import copy
import inspect
import math
import pickle

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import scipy.special
import scipy.stats
import torch
from cases import all_but, needs_compiler
from exact import binary_data, small_vae, two_layers
from pyro.distributions import constraints
from torch import nn

import pyro_vae as pv
from pyro_vae.errors import DataError, DivergenceError
from pyro_vae.inference import ImportanceWeightedELBO, MeanFieldELBO, Trace_ELBO

D, X, LEVELS = 3, 6, 5
WithMask, MLP = pv.networks.WithMask, pv.networks.MLP


def gaps(x, share=0.4, seed=0):
    noise = torch.Generator().manual_seed(seed)
    x = x.clone()
    x[torch.rand(x.shape, generator=noise) < share] = math.nan
    x[0] = math.nan
    return x


# Densities


def discretized_logistic(o, x):
    law, top = scipy.stats.logistic(4 * o, 4 * 0.2), LEVELS - 1
    return math.log((1 if x == top else law.cdf(x + 0.5)) - (0 if x == 0 else law.cdf(x - 0.5)))


def mean(o):
    return math.log1p(math.exp(o)) + 1e-6


# Name -> options, values of x, and log p of one number given the decoder's output for it.
ONE_NUMBER = {
    "Bernoulli": ({}, [0.0, 1.0], lambda o, x: scipy.stats.bernoulli.logpmf(x, scipy.special.expit(o[0]))),
    "ContinuousBernoulli": ({}, [0.0, 0.4, 1.0], lambda o, x: o[0] * x - math.log(math.expm1(o[0]) / o[0])),
    "Normal": ({"scale": 0.3}, [-2.0, 0.5], lambda o, x: scipy.stats.norm.logpdf(x, o[0], 0.3)),
    "Normal-predicted": (
        {"learn_scale": "predicted"},
        [-2.0, 0.5],
        lambda o, x: scipy.stats.norm.logpdf(x, o[0], 1e-3 + math.exp(o[1])),
    ),
    "Laplace": ({"scale": 0.3}, [-2.0, 0.5], lambda o, x: scipy.stats.laplace.logpdf(x, o[0], 0.3)),
    "DiscretizedLogistic": (
        {"num_levels": LEVELS, "scale": 0.2},
        [0.0, 3.0, 4.0],
        lambda o, x: discretized_logistic(o[0], x),
    ),
    "Categorical": (
        {"num_levels": LEVELS},
        [0.0, 3.0, 4.0],
        lambda o, x: scipy.special.log_softmax(o)[int(x)],
    ),
    "Poisson": ({}, [0.0, 2.0, 31.0], lambda o, x: scipy.stats.poisson.logpmf(x, mean(o[0]))),
    "NegativeBinomial": (
        {"total_count": 4.0},
        [0.0, 2.0, 31.0],
        lambda o, x: scipy.stats.nbinom.logpmf(x, 4.0, 4.0 / (4.0 + mean(o[0]))),
    ),
}


def member(name, shape=(X,)):
    options, values, one = ONE_NUMBER[name]
    kind = getattr(pv.likelihoods, name.partition("-")[0])
    torch.manual_seed(0)
    wanted = inspect.signature(kind.decoder_shape).parameters
    taken = {key: value for key, value in options.items() if key in wanted}
    built = kind(MLP((D,), kind.decoder_shape(shape, **taken), (5,), nn.Tanh), **options).double()
    if name == "NegativeBinomial":
        built.total_count.raw.data.fill_(math.log(4.0 - 1e-3))  # which was rounded to float32
    return built, torch.tensor(values, dtype=torch.float64), one


def program(likelihood, missing=True, latent_dim=D, x_dim=X):
    torch.manual_seed(1)
    encoder = WithMask(MLP((2 * x_dim,), (2 * latent_dim,), (5,), nn.Tanh))
    posterior = pv.posteriors.DiagonalNormal(encoder, latent_dim)
    return pv.VAE(pv.priors.StandardNormal(latent_dim), posterior, likelihood, missing=missing).double()


def reconstruction(vae, x, z):
    hold = pyro.poutine.condition(vae.model, {"z": z})
    with pyro.plate("draws", len(z), dim=-2):
        trace = pyro.poutine.trace(hold).get_trace(x)
    trace.compute_log_prob()
    return trace.nodes["x"]["log_prob"]


@pytest.mark.parametrize("name", ONE_NUMBER)
def test_log_p_is_the_sum_over_observed_numbers(name):
    likelihood, values, one = member(name)
    vae = program(likelihood)
    x = gaps(values[torch.randint(len(values), (5, X))])
    z = torch.randn(4, 5, D, dtype=torch.float64)
    found = reconstruction(vae, x, z).detach().numpy()
    output = likelihood.decoder(z).detach().numpy().reshape(4, 5, -1, X)
    slow = np.zeros((4, 5))
    for k, b, i in np.ndindex(4, 5, X):
        if not math.isnan(x[b, i]):
            slow[k, b] += one(output[k, b, :, i], x[b, i].item())
    np.testing.assert_allclose(found, slow, rtol=1e-9, atol=1e-12)
    assert (found[:, 0] == 0).all()  # nothing was observed


def test_a_low_rank_normal_is_scipys_marginal():
    torch.manual_seed(0)
    likelihood = pv.likelihoods.LowRankNormal(MLP((D,), (4, 1, 2, 3), (5,), nn.Tanh), scale=0.3).double()
    x, z = gaps(torch.randn(5, 1, 2, 3, dtype=torch.float64)), torch.randn(4, 5, D, dtype=torch.float64)
    vae = program(likelihood)
    vae.posterior.encoder = WithMask(MLP((2, 2, 3), (2 * D,))).double()
    found = reconstruction(vae, x, z)
    whole = likelihood(z)
    for k, b in np.ndindex(4, 5):
        seen = ~x[b].flatten().isnan().numpy()
        m, S = (
            whole.loc[k, b].detach().numpy()[seen],
            whole.covariance_matrix[k, b].detach().numpy()[np.ix_(seen, seen)],
        )
        value = x[b].flatten().numpy()[seen]
        expected = scipy.stats.multivariate_normal(m, S).logpdf(value) if seen.any() else 0.0
        assert found[k, b].item() == pytest.approx(expected, rel=1e-9)


def test_images_keep_their_channels():
    encoder = WithMask(pv.networks.ConvEncoder(WithMask.in_shape((3, 8, 8)), (4,), hidden=(2,)))
    likelihood = pv.likelihoods.Normal(MLP((2,), (3, 8, 8)))
    vae = pv.VAE(pv.priors.StandardNormal(2), pv.posteriors.DiagonalNormal(encoder, 2), likelihood, missing=True)
    x = gaps(torch.rand(4, 3, 8, 8))
    assert pv.evaluation.iwae(vae, x, 10, seed=0).value.isfinite().all()
    assert vae.reconstruct(x, num_samples=2).isfinite().all()
    assert vae.interpolate(x[:1], x[1:2]).isfinite().all()


def test_the_encoder_sees_zeros_and_the_mask():
    seen = []
    encoder = WithMask(lambda x, y=None: seen.append((x, y)) or x, input_scale=0.5)
    encoder(torch.tensor([[2.0, math.nan, 0.0]]), torch.ones(1, 1))
    torch.testing.assert_close(seen[0][0], torch.tensor([[1.0, 0.0, 0.0, 0.05, -0.05, 0.05]]))
    assert seen[0][1].item() == 1


class Own(pv.likelihoods.Likelihood):
    """A distribution of two positive parameters a number, of which the class knows no support."""

    def __init__(self, decoder, make):
        super().__init__(decoder)
        self.make = make

    def forward(self, z, y=None):
        return self.make(*self.decode_parts(z, y, 2).exp())


@pytest.mark.parametrize(
    ("make", "inside"),
    [
        (lambda a, b: dist.Gamma(a, b).to_event(1), 1.5),
        (lambda a, b: dist.Beta(a, b).to_event(1), 0.4),
        (lambda a, b: dist.LogNormal(a, b).to_event(1), 0.4),
        (lambda a, b: dist.Uniform(-a - 9, b + 9).to_event(1), 0.4),
        (lambda a, b: dist.Geometric(a / (a + b)).to_event(1), 3.0),
    ],
    ids=["Gamma", "Beta", "LogNormal", "Uniform", "Geometric"],
)
def test_a_likelihood_of_ones_own_is_masked_by_its_support(make, inside):
    torch.manual_seed(0)
    vae = program(Own(MLP((D,), (2, X)), make).double())
    x = gaps(torch.full((5, X), inside, dtype=torch.float64))
    z = torch.randn(2, 5, D, dtype=torch.float64)
    each = vae.likelihood(z).base_dist.log_prob(x.nan_to_num(inside))
    torch.testing.assert_close(reconstruction(vae, x, z), torch.where(x.isnan(), 0.0, each).sum(-1))
    loss = Trace_ELBO().differentiable_loss(vae.model, vae.guide, x)
    loss.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in vae.parameters())


@pytest.mark.parametrize("name", ONE_NUMBER)
@pytest.mark.parametrize("output", [-1e4, 0.0, 1e4])
def test_what_is_missing_has_no_gradient_however_extreme_the_decoder(name, output):
    likelihood = member(name)[0].float()
    with torch.no_grad():
        likelihood.decoder.head.weight.zero_()
        likelihood.decoder.output_bias.fill_(output)
    z = torch.zeros(1, D, requires_grad=True)
    reconstruction(program(likelihood).float(), torch.full((1, X), math.nan), z).sum().backward()
    for parameter in (z, *likelihood.parameters()):
        assert parameter.grad is None or (parameter.grad == 0).all()


# Programs


@pytest.mark.parametrize("name", ["Bernoulli", "Poisson", "Categorical"])
def test_without_gaps_the_numbers_are_those_of_the_plain_program(name):
    likelihood, values, _ = member(name)
    x = values[torch.randint(len(values), (5, X))]
    plain, missing = program(likelihood, missing=False), program(copy.deepcopy(likelihood))
    missing.load_state_dict(plain.state_dict())
    for estimate in (pv.evaluation.elbo, pv.evaluation.iwae):
        assert torch.equal(estimate(plain, x, 20, seed=0).value, estimate(missing, x, 20, seed=0).value)


def test_without_gaps_a_low_rank_normal_is_the_plain_one():
    torch.manual_seed(0)
    likelihood = pv.likelihoods.LowRankNormal(MLP((D,), (4, X))).double()
    z, x = torch.randn(3, 5, D, dtype=torch.float64), torch.randn(5, X, dtype=torch.float64)
    p = likelihood(z)
    assert torch.equal(likelihood.observed_part(p, torch.ones(5, X).bool()).log_prob(x), p.log_prob(x))


LOSSES = {
    "sampled": Trace_ELBO(num_particles=3, vectorize_particles=True, max_plate_nesting=1),
    "analytic": MeanFieldELBO(),
    "importance": ImportanceWeightedELBO(3),
}


@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        *all_but([("analytic", "traced")], [(kind, "traced") for kind in LOSSES]),
        pytest.param("sampled", "compiled", marks=[needs_compiler, pytest.mark.thorough]),
        pytest.param("importance", "compiled", marks=[needs_compiler, pytest.mark.thorough]),
    ],
)
def test_steps_as_graphs_are_those_of_pyro(kind, mode, request):
    if mode == "traced":
        request.getfixturevalue("traced_only")
    x, losses, states = gaps(binary_data(8)), [], []
    for in_a_graph in (False, True):
        vae = program(member("Bernoulli")[0])
        svi = pv.inference.SVI(
            vae.model, vae.guide, torch.optim.Adam(vae.parameters()), LOSSES[kind], compile=in_a_graph
        )
        torch.manual_seed(5)
        losses.append([svi.step(gaps(x, seed=i)) for i in range(3)])
        states.append(torch.cat([p.detach().flatten() for p in vae.parameters()]))
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-9)
    torch.testing.assert_close(*states, rtol=1e-7, atol=1e-9)
    assert states[0].isfinite().all()


def test_stock_pyro_trains_and_leaves_a_column_that_is_never_seen_alone():
    vae = program(member("Normal")[0])
    x = torch.randn(8, X, dtype=torch.float64)
    x[:, 2] = math.nan
    before = vae.likelihood.decoder.output_bias.clone()
    for loss in (pyro.infer.Trace_ELBO(), pyro.infer.TraceMeanField_ELBO(), pyro.infer.RenyiELBO(num_particles=2)):
        svi = pyro.infer.SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-2}), loss)
        assert math.isfinite(svi.step(x))
    moved = vae.likelihood.decoder.output_bias != before
    assert moved.tolist() == [True, True, False, True, True, True]


def test_weights_on_the_loss_go_with_gaps():
    vae = program(member("Bernoulli")[0])
    model, guide = pv.inference.weighted(vae.model, vae.guide, reconstruction=2.0, kl=0.5)
    torch.manual_seed(0)
    weighted = MeanFieldELBO().loss(model, guide, gaps(binary_data(5)))
    torch.manual_seed(0)
    parts = pv.evaluation.elbo_terms(vae, gaps(binary_data(5)), 1)
    assert weighted == pytest.approx(float((0.5 * parts.kl.value - 2 * parts.reconstruction.value).sum()), rel=1e-9)


# A VampPrior


def vamp(masks=True):
    torch.manual_seed(0)
    posterior = pv.posteriors.DiagonalNormal(WithMask(MLP((2 * X,), (2 * D,))), D)
    prior = pv.priors.VampPrior(posterior, (X,), num_components=3, masks=masks)
    return pv.VAE(prior, posterior, member("Normal")[0], missing=True).double()


def test_pseudo_inputs_have_the_gaps_of_the_data_that_they_start_at():
    vae, x = vamp(), gaps(torch.randn(9, X, dtype=torch.float64))
    assert vae.prior.pseudo_observed.all()
    vae.prior.start_at(vae.posterior, x)
    u = torch.where(vae.prior.pseudo_observed, vae.prior.pseudo_x, math.nan)
    assert all(
        any(torch.equal(row.isnan(), d.isnan()) and torch.equal(row[~row.isnan()], d[~d.isnan()]) for d in x)
        for row in u
    )
    z = torch.randn(4, D, dtype=torch.float64)
    by_hand = torch.stack([vae.posterior(row[None]).log_prob(z) for row in u]).logsumexp(0) - math.log(3)
    torch.testing.assert_close(vae.prior().log_prob(z), by_hand)
    loss = Trace_ELBO().differentiable_loss(vae.model, vae.guide, x)
    loss.backward()
    assert vae.prior.pseudo_x.grad.isfinite().all()
    assert (vae.prior.pseudo_x.grad[~vae.prior.pseudo_observed] == 0).all()
    assert "prior.pseudo_observed" in vae.tensors()


def test_a_vamp_prior_without_masks_says_what_it_lacks():
    with pytest.raises(ValueError, match="masks=True"):
        vamp(masks=False).prior.start_at(vamp().posterior, gaps(torch.randn(9, X)))


def test_random_pseudo_inputs_lie_in_the_range_of_the_observed_numbers():
    vae = vamp()
    vae.prior.pseudo_inputs = "random"
    vae.prior.start_at(vae.posterior, gaps(torch.rand(9, X, dtype=torch.float64) + 7))
    assert vae.prior.pseudo_x.min() > 7
    assert vae.prior.pseudo_x.max() < 8


# Starts


@pytest.mark.parametrize("name", ONE_NUMBER)
def test_starts_are_those_of_the_observed_numbers_alone(name):
    likelihood, values, _ = member(name)
    x = values[torch.randint(len(values), (40, X))]
    x[25:, 1] = math.nan  # of this column only the first 25 are there
    x[:, 2] = math.nan  # of this none
    start = likelihood.start(x)
    assert start.isfinite().all()
    torch.testing.assert_close(start[..., 1], likelihood.start(x[:25])[..., 1])
    torch.testing.assert_close(start[..., 3], likelihood.start(x.nan_to_num(0.0))[..., 3])


def test_a_low_rank_normal_starts_at_the_observed_mean():
    likelihood = pv.likelihoods.LowRankNormal(MLP((D,), (4, 2)))
    x = torch.tensor([[1.0, math.nan], [3.0, math.nan]])
    likelihood.start_at(x)
    assert likelihood.decoder.output_bias[0].tolist() == [2.0, 0.0]


# What is refused


def test_gaps_are_refused_with_their_cure_unless_they_are_asked_for():
    vae, x = small_vae(), gaps(binary_data(4))
    for use in (vae.model, vae.guide, lambda x: pv.evaluation.elbo(vae, x, 2), vae.check_data, vae.likelihood.check):
        with pytest.raises(DataError, match="missing=True"):
            use(x)


def test_the_cure_works():
    vae, x = program(member("Bernoulli")[0]), gaps(binary_data(4))
    vae.check_data(x)
    assert pv.evaluation.elbo(vae, x, 2).value.isfinite().all()


@pytest.mark.parametrize("wrong", [math.inf, 0.5])
def test_observed_numbers_are_still_checked(wrong):
    vae, x = program(member("Bernoulli")[0]), gaps(binary_data(4))
    x[1, 1] = wrong
    with pytest.raises(DataError, match=r"datum 1, position \(1,\)"):
        vae.guide(x) if math.isinf(wrong) else vae.model(x)


def test_an_encoder_that_does_not_take_gaps_is_told_the_cure():
    vae = pv.VAE(
        pv.priors.StandardNormal(D),
        pv.posteriors.DiagonalNormal(MLP((X,), (2 * D,)), D),
        pv.likelihoods.Bernoulli(MLP((D,), (X,))),
        missing=True,
    )
    with pytest.raises(ValueError, match="WithMask"):
        vae.guide(gaps(binary_data(3)).float())
    svi = pv.inference.SVI(vae.model, vae.guide, torch.optim.Adam(vae.parameters()), Trace_ELBO())
    with pytest.raises(ValueError, match="WithMask"):
        svi.step(gaps(binary_data(3)).float())
    vae.guide(binary_data(3).float())


def test_missing_may_be_set_on_a_program_that_was_built():
    encoder, prior, decoder = MLP((X,), (2 * D,)), pv.priors.StandardNormal(D), MLP((D,), (X,))
    vae = pv.VAE(prior, pv.posteriors.DiagonalNormal(encoder, D), pv.likelihoods.Normal(decoder))
    vae.missing = True
    with pytest.raises(ValueError, match="WithMask"):
        vae.guide(gaps(torch.randn(4, X)))
    vae.missing = False
    assert not vae.posterior.missing
    vae.likelihood = pv.likelihoods.ExponentialNorm(decoder)
    with pytest.raises(ValueError, match=r"`missing=True` use `likelihood='normal'`, `likelihood='laplace'`"):
        vae.missing = True
    assert not vae.missing
    assert not vae.posterior.missing


@pytest.mark.parametrize("guide", ["top_down", "bottom_up"])
def test_missing_that_is_set_later_is_of_posteriors_of_data_alone(guide):
    vae = two_layers(guide=guide)
    vae.missing = True
    assert vae.posterior1.missing
    assert vae.posterior2.missing == (guide == "top_down")


def test_a_condition_on_gaps_is_told_to_pass_them():
    vae, x = program(member("Bernoulli")[0]), gaps(binary_data(4))[:1]
    with pytest.raises(DataError, match=r"model\(x\)") as told:
        pyro.poutine.condition(vae.model, {"x": x})(None)
    assert "missing=True" not in str(told.value)


def test_likelihoods_that_do_not_factorise_refuse():
    posterior = pv.posteriors.DiagonalNormal(WithMask(MLP((2 * X,), (2 * D,))), D)
    prior, decoder = pv.priors.StandardNormal(D), MLP((D,), (X,))
    with pytest.raises(ValueError, match=r"ExponentialNorm.*missing=True"):
        pv.VAE(prior, posterior, pv.likelihoods.ExponentialNorm(decoder), missing=True)
    whole = Own(MLP((D,), (2, X)), lambda a, b: dist.MultivariateNormal(a, b[..., None] * torch.eye(X)))
    vae = pv.VAE(prior, posterior, whole, missing=True)
    with pytest.raises(ValueError, match="MultivariateNormal over a whole event"):
        vae.model(gaps(torch.randn(4, X)))
    simplex = Own(MLP((D,), (2, X)), lambda a, b: dist.Dirichlet(a))
    simplex.support = constraints.simplex
    with pytest.raises(ValueError, match="whole vectors"):
        pv.VAE(prior, posterior, simplex, missing=True)
    vae = pv.VAE(prior, posterior, pv.likelihoods.Normal(decoder), missing=True)
    with pytest.raises(ValueError, match="ExponentialNorm"):
        vae.likelihood = pv.likelihoods.ExponentialNorm(decoder)


def test_divergence_looks_past_missing_numbers():
    vae, x = program(member("Poisson")[0]), gaps(torch.randint(0, 5, (4, X)).double())
    vae.posterior.encoder = WithMask(MLP((2 * X,), (2 * D,), hidden=())).double()
    vae.posterior.encoder.network.head.weight.data.fill_(1e-3)
    x[2] = 1e30
    svi = pv.inference.SVI(vae.model, vae.guide, torch.optim.Adam(vae.parameters()), Trace_ELBO())
    with pytest.raises(DivergenceError, match=r"because the data reach 1e\+30 at datum 2"):
        svi.step(x)


def test_a_copy_and_a_pickled_program_still_take_gaps():
    vae, x = program(member("Bernoulli")[0]), gaps(binary_data(4))
    for other in (copy.deepcopy(vae), pickle.loads(pickle.dumps(vae))):  # noqa: S301
        found = [pv.evaluation.elbo(one, x, 4, seed=0).value for one in (vae, other)]
        assert torch.equal(*found)


@pytest.mark.thorough
def test_members_of_programs_with_gaps_keep_their_contract():
    torch.manual_seed(0)
    vae, x = program(member("Bernoulli")[0]), gaps(binary_data(5))
    pv.check_likelihood(vae.likelihood, torch.randn(5, D), x).raise_if_failed()
    pv.check_posterior(vae.posterior, x).raise_if_failed()
    pv.check_prior(vamp().prior).raise_if_failed()
