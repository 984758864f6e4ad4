"""Distributions of Pyro's and torch's as the pixels of a likelihood: which pass the checks, and at what others fail."""

import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import constraints
from torch import exp

import pyro_vae as pv

PASS = {
    "AsymmetricLaplace": (3, lambda a, b, c: dist.AsymmetricLaplace(a, exp(b), exp(c)), constraints.real),
    "SoftLaplace": (2, lambda a, b: dist.SoftLaplace(a, exp(b)), constraints.real),
    "Beta": (2, lambda a, b: dist.Beta(exp(a - 1), exp(b - 1)), constraints.unit_interval),
    "BetaBinomial": (2, lambda a, b: dist.BetaBinomial(exp(a), exp(b), 5), constraints.integer_interval(0, 5)),
    "Binomial": (1, lambda a: dist.Binomial(5, logits=a), constraints.integer_interval(0, 5)),
    "Cauchy": (2, lambda a, b: dist.Cauchy(a, exp(b)), constraints.real),
    "Chi2": (1, lambda a: dist.Chi2(exp(a)), constraints.positive),
    "Exponential": (1, lambda a: dist.Exponential(exp(a)), constraints.positive),
    "FisherSnedecor": (2, lambda a, b: dist.FisherSnedecor(exp(a), exp(b)), constraints.positive),
    "Gamma": (2, lambda a, b: dist.Gamma(exp(a), exp(b)), constraints.positive),
    "GammaPoisson": (2, lambda a, b: dist.GammaPoisson(exp(a), exp(b)), constraints.nonnegative_integer),
    "Geometric": (1, lambda a: dist.Geometric(logits=a), constraints.nonnegative_integer),
    "Gumbel": (2, lambda a, b: dist.Gumbel(a, exp(b)), constraints.real),
    "HalfCauchy": (1, lambda a: dist.HalfCauchy(exp(a)), constraints.positive),
    "HalfNormal": (1, lambda a: dist.HalfNormal(exp(a)), constraints.positive),
    "InverseGamma": (2, lambda a, b: dist.InverseGamma(exp(a), exp(b)), constraints.positive),
    "LogNormal": (2, lambda a, b: dist.LogNormal(a, exp(b)), constraints.positive),
    "Logistic": (2, lambda a, b: dist.Logistic(a, exp(b)), constraints.real),
    "RelaxedBernoulliStraightThrough": (
        1,
        lambda a: dist.RelaxedBernoulliStraightThrough(torch.tensor(0.5).to(a), logits=a),
        constraints.unit_interval,
    ),
    "Normal": (2, lambda a, b: dist.Normal(a, exp(b)), constraints.real),
    "Pareto": (1, lambda a: dist.Pareto(torch.ones_like(a), exp(a)), constraints.greater_than(1.0)),
    "Poisson": (1, lambda a: dist.Poisson(exp(a)), constraints.nonnegative_integer),
    "SkewLogistic": (3, lambda a, b, c: dist.SkewLogistic(a, exp(b), exp(c)), constraints.real),
    "StudentT": (3, lambda a, b, c: dist.StudentT(exp(a), b, exp(c)), constraints.real),
    "Weibull": (2, lambda a, b: dist.Weibull(exp(a), exp(b)), constraints.positive),
}
FAIL = {
    "SoftAsymmetricLaplace": (
        3,
        lambda a, b, c: dist.SoftAsymmetricLaplace(a, exp(b), exp(c)),
        constraints.real,
        "plates",
    ),
    "VonMises": (2, lambda a, b: dist.VonMises(a, exp(b)), constraints.real, "sampler"),
}


class Pixels(pv.likelihoods.Likelihood):
    """Two pixels, whose parameters are what a decoder makes."""

    def __init__(self, numbers, make, support):
        super().__init__(pv.networks.MLP((3,), (numbers, 2), hidden=(6,)))
        self.make, self.support = make, support

    def forward(self, z, y=None):
        return self.make(*self.decode(z, y).unbind(-2)).to_event(1)


@pytest.mark.thorough
@pytest.mark.parametrize("name", PASS)
def test_it_passes(name):
    torch.manual_seed(0)
    pv.check_likelihood(Pixels(*PASS[name]), torch.randn(5, 3)).raise_if_failed()


@pytest.mark.thorough
@pytest.mark.parametrize("name", FAIL)
def test_it_fails_at_this_line(name):
    torch.manual_seed(0)
    *member, line = FAIL[name]
    assert line in pv.check_likelihood(Pixels(*member), torch.randn(5, 3)).failed
