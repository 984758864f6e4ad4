"""Priors, posteriors and likelihoods against scipy and by their contract; one case for each member."""

import copy
import inspect

import numpy as np
import pyro.distributions as dist
import pytest
import scipy.stats
import torch
from torch import nn

import pyro_vae as pv
from pyro_vae.errors import DataError

D, SHAPE = 3, (1, 2, 4)


def decoder(out_shape=SHAPE):
    return pv.networks.MLP((D,), out_shape, hidden=(5,), activation=nn.Tanh)


def bernoulli_by_scipy(member, z, x):
    mean = 1 / (1 + np.exp(-member.decoder(z).detach().numpy()))
    return scipy.stats.bernoulli.logpmf(x.numpy(), mean).sum((-3, -2, -1))


def normal_by_scipy(member, z, x):
    mean = member.decoder(z).detach().numpy()
    return scipy.stats.norm.logpdf(x.numpy(), mean, member.scale).sum((-3, -2, -1))


PRIORS = {
    "StandardNormal": (lambda: pv.priors.StandardNormal(D), lambda p, z: scipy.stats.norm.logpdf(z.numpy()).sum(-1)),
}
POSTERIORS = {
    "DiagonalNormal": lambda: pv.posteriors.DiagonalNormal(pv.networks.MLP(SHAPE, (2 * D,), hidden=(5,)), D),
}
LIKELIHOODS = {
    "Bernoulli": (lambda: pv.likelihoods.Bernoulli(decoder()), bernoulli_by_scipy, [0.0, 1.0], [0.5, -1.0, 2.0, 255.0]),
    "Normal": (lambda: pv.likelihoods.Normal(decoder(), 0.3), normal_by_scipy, [-2.0, 0.5], [np.nan, np.inf, -np.inf]),
}


def members(module, base):
    found = {name for name, kind in vars(module).items() if inspect.isclass(kind) and issubclass(kind, base)}
    return found - {base.__name__}


def test_every_member_has_a_case():
    assert members(pv.priors, pv.priors.Prior) == set(PRIORS)
    assert members(pv.posteriors, pv.posteriors.Posterior) == set(POSTERIORS)
    assert members(pv.likelihoods, pv.likelihoods.Likelihood) == set(LIKELIHOODS)


@pytest.mark.parametrize("name", PRIORS)
def test_prior_density_equals_scipy(name):
    build, reference = PRIORS[name]
    prior = build().double()
    z = torch.randn(7, D, dtype=torch.float64)
    assert prior().event_shape == (D,)
    assert prior().batch_shape == ()
    np.testing.assert_allclose(prior().log_prob(z).detach().numpy(), reference(prior, z), rtol=1e-12)


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_likelihood_density_equals_scipy_constants_included(name):
    build, reference, inside, _ = LIKELIHOODS[name]
    member = build().double()
    z = torch.randn(4, 5, D, dtype=torch.float64)
    x = torch.tensor(inside, dtype=torch.float64)[torch.randint(len(inside), (5, *SHAPE))]
    p = member(z)
    assert (p.batch_shape, p.event_shape) == ((4, 5), SHAPE)
    np.testing.assert_allclose(p.log_prob(x).detach().numpy(), reference(member, z, x), rtol=1e-10)


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_likelihood_sampler_agrees_with_its_mean(name):
    # 5 standard errors on 8 pixels: false alarm 5e-6.
    build, *_ = LIKELIHOODS[name]
    p = build().double()(torch.randn(D, dtype=torch.float64))
    draws = p.sample((20_000,))
    assert ((draws.mean(0) - p.mean).abs() < 5 * (p.variance / 20_000).sqrt()).all()


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_support_is_checked_at_the_door_with_value_and_place(name):
    build, _, inside, outside = LIKELIHOODS[name]
    member = build()
    x = torch.full((3, *SHAPE), inside[0])
    member.check(x)
    for value in outside:
        x[2, 0, 1, 3] = value
        with pytest.raises(DataError, match=rf"{name} needs x .*; got {value:.6g} at datum 2, position \(0, 1, 3\)"):
            member.check(x)


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_training_starts_at_the_mean_of_the_data(name):
    build, _, inside, _ = LIKELIHOODS[name]
    member = build()
    x = torch.rand(500, *SHAPE) * (inside[1] - inside[0]) + inside[0]
    member.start_at(x)
    nn.init.zeros_(member.decoder.head.weight)
    # Half a count in 500 moves a Bernoulli's mean by at most 0.001.
    assert torch.allclose(member(torch.zeros(D)).mean, x.mean(0), atol=1.1e-3 if name == "Bernoulli" else 1e-6)


def test_a_pixel_that_is_always_off_starts_at_a_finite_logit():
    member = pv.likelihoods.Bernoulli(decoder())
    member.start_at(torch.zeros(9, *SHAPE))
    expected = np.log(0.5 / 10 / (1 - 0.5 / 10))
    assert torch.allclose(member.decoder.output_bias, torch.full(SHAPE, expected, dtype=torch.float32))


def test_a_decoder_without_output_bias_can_not_start_at_the_mean():
    member = pv.likelihoods.Bernoulli(nn.Linear(D, 8))
    with pytest.raises(ValueError, match="needs a parameter output_bias"):
        member.start_at(torch.zeros(9, *SHAPE))


@pytest.mark.parametrize("name", POSTERIORS)
def test_posterior_contract(name):
    member = POSTERIORS[name]().double()
    q = member(torch.rand(6, *SHAPE, dtype=torch.float64))
    assert (q.batch_shape, q.event_shape, q.has_rsample) == ((6,), (D,), True)
    q.log_prob(q.rsample()).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in member.parameters())


@pytest.mark.parametrize("case", [*PRIORS, *POSTERIORS, *LIKELIHOODS])
def test_members_move_and_copy(case):
    table = {**PRIORS, **LIKELIHOODS}
    member = table[case][0]() if case in table else POSTERIORS[case]()
    twin = copy.deepcopy(member).double()
    argument = () if case in PRIORS else (torch.rand(2, *(SHAPE if case in POSTERIORS else (D,))).double(),)
    assert twin(*argument).sample().dtype == torch.float64


def test_diagonal_normal_reads_location_and_log_sigma():
    member = pv.posteriors.DiagonalNormal(pv.networks.MLP(SHAPE, (2 * D,), hidden=(5,)), D, floor=1e-3).double()
    x = torch.rand(6, *SHAPE, dtype=torch.float64)
    output = member.encoder(x)
    q = member(x).base_dist
    assert torch.equal(q.loc, output[:, :D])
    assert torch.equal(q.scale, 1e-3 + output[:, D:].exp())


def test_sigma_stays_above_its_floor():
    member = pv.posteriors.DiagonalNormal(lambda x: torch.full((len(x), 2 * D), -1e4), D, floor=1e-3)
    assert torch.allclose(member(torch.zeros(2, 1)).base_dist.scale, torch.tensor(1e-3))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: pv.posteriors.DiagonalNormal(nn.Identity(), D, floor=0.0), "floor .* above 0; got 0.0"),
        (lambda: pv.likelihoods.Normal(nn.Identity(), scale=0.0), "above 0; got 0.0"),
        (lambda: pv.likelihoods.Normal(nn.Identity(), scale=float("nan")), "above 0; got nan"),
        (lambda: pv.priors.StandardNormal(0), "latent_dim=0"),
        (lambda: pv.posteriors.DiagonalNormal(nn.Identity(), D)(torch.zeros(2, 5)), r"\(B, 6\); got \(2, 5\)"),
    ],
)
def test_impossible_members_are_refused_by_name_and_value(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_the_three_line_prior_of_the_readme_is_a_prior():
    class StudentPrior(pv.priors.Prior):
        def forward(self, y=None):
            return dist.StudentT(5.0, self.loc, self.scale).to_event(1)

    z = torch.randn(4, 20, dtype=torch.float64)
    ours = StudentPrior(20).double()().log_prob(z)
    np.testing.assert_allclose(ours.numpy(), scipy.stats.t.logpdf(z.numpy(), 5).sum(-1), rtol=1e-12)
