"""Distributions of Pyro's and torch's as members: which pass the checks, and at what others fail.

The table of docs/swap.md says the same. Distributions that are no members are listed at the end with the reason.
"""

import inspect
import re
from pathlib import Path

import pyro.distributions as dist
import pytest
import torch
from cases import all_but, thorough
from pyro.distributions import constraints
from torch import exp, nn

import pyro_vae as pv
from pyro_vae.errors import DataError

D = 3
UNIT, REAL, POSITIVE = constraints.unit_interval, constraints.real, constraints.positive
COUNTS, UP_TO_5 = constraints.nonnegative_integer, constraints.integer_interval(0, 5)


def ones(a):
    return torch.ones_like(a)


def tril(rows):
    return torch.distributions.transform_to(constraints.lower_cholesky)(torch.stack(rows, -2))


def pair(a, b):
    return torch.stack([a, b], -2)


def half(a):
    return torch.tensor(0.5).to(a)


# Two pixels, from so many numbers that a decoder makes for each.
PIXELS = {
    "AffineBeta": (2, lambda a, b: dist.AffineBeta(exp(a), exp(b), 0 * a, ones(a)), UNIT),
    "AsymmetricLaplace": (3, lambda a, b, c: dist.AsymmetricLaplace(a, exp(b), exp(c)), REAL),
    "Bernoulli": (1, lambda a: dist.Bernoulli(logits=a), constraints.boolean),
    "Beta": (2, lambda a, b: dist.Beta(exp(a - 1), exp(b - 1)), UNIT),
    "BetaBinomial": (2, lambda a, b: dist.BetaBinomial(exp(a), exp(b), 5), UP_TO_5),
    "Binomial": (1, lambda a: dist.Binomial(5, logits=a), UP_TO_5),
    "Cauchy": (2, lambda a, b: dist.Cauchy(a, exp(b)), REAL),
    "Chi2": (1, lambda a: dist.Chi2(exp(a)), POSITIVE),
    "ContinuousBernoulli": (1, lambda a: dist.ContinuousBernoulli(logits=a), UNIT),
    "Exponential": (1, lambda a: dist.Exponential(exp(a)), POSITIVE),
    "FisherSnedecor": (2, lambda a, b: dist.FisherSnedecor(exp(a), exp(b)), POSITIVE),
    "FoldedDistribution": (2, lambda a, b: dist.FoldedDistribution(dist.Normal(a, exp(b))), POSITIVE),
    "Gamma": (2, lambda a, b: dist.Gamma(exp(a), exp(b)), POSITIVE),
    "GammaPoisson": (2, lambda a, b: dist.GammaPoisson(exp(a), exp(b)), COUNTS),
    "Geometric": (1, lambda a: dist.Geometric(logits=a), COUNTS),
    "Gumbel": (2, lambda a, b: dist.Gumbel(a, exp(b)), REAL),
    "HalfCauchy": (1, lambda a: dist.HalfCauchy(exp(a)), POSITIVE),
    "HalfNormal": (1, lambda a: dist.HalfNormal(exp(a)), POSITIVE),
    "InverseGamma": (2, lambda a, b: dist.InverseGamma(exp(a), exp(b)), POSITIVE),
    "Kumaraswamy": (2, lambda a, b: dist.Kumaraswamy(exp(a), exp(b)), UNIT),
    "Laplace": (2, lambda a, b: dist.Laplace(a, exp(b)), REAL),
    "LogNormal": (2, lambda a, b: dist.LogNormal(a, exp(b)), POSITIVE),
    "Logistic": (2, lambda a, b: dist.Logistic(a, exp(b)), REAL),
    "MaskedDistribution": (2, lambda a, b: dist.Normal(a, exp(b)).mask(True), REAL),
    "MaskedMixture": (
        2,
        lambda a, b: dist.MaskedMixture(
            (torch.arange(a.shape[-1]) % 2 == 0).expand(a.shape), dist.Normal(a, 1), dist.Normal(b, 2)
        ),
        REAL,
    ),
    "MixtureSameFamily": (
        4,
        lambda a, b, c, d: dist.MixtureSameFamily(
            dist.Categorical(logits=torch.stack([a, b], -1)), dist.Normal(torch.stack([c, d], -1), 1)
        ),
        REAL,
    ),
    "NanMaskedNormal": (2, lambda a, b: dist.NanMaskedNormal(a, exp(b)), REAL),
    "NegativeBinomial": (1, lambda a: dist.NegativeBinomial(3 * ones(a), logits=a), COUNTS),
    "Normal": (2, lambda a, b: dist.Normal(a, exp(b)), REAL),
    "Pareto": (1, lambda a: dist.Pareto(ones(a), exp(a)), constraints.greater_than(1.0)),
    "Poisson": (1, lambda a: dist.Poisson(exp(a)), COUNTS),
    "RelaxedBernoulli": (1, lambda a: dist.RelaxedBernoulli(half(a), logits=a), UNIT),
    "RelaxedBernoulliStraightThrough": (1, lambda a: dist.RelaxedBernoulliStraightThrough(half(a), logits=a), UNIT),
    "SkewLogistic": (3, lambda a, b, c: dist.SkewLogistic(a, exp(b), exp(c)), REAL),
    "SoftLaplace": (2, lambda a, b: dist.SoftLaplace(a, exp(b)), REAL),
    "Stable": (2, lambda a, b: dist.Stable(1.5 * ones(a), 0.1 * ones(a), exp(b), a), REAL),
    "StableWithLogProb": (2, lambda a, b: dist.StableWithLogProb(1.5 * ones(a), 0.1 * ones(a), exp(b), a), REAL),
    "StudentT": (3, lambda a, b, c: dist.StudentT(exp(a), b, exp(c)), REAL),
    "TransformedDistribution": (
        2,
        lambda a, b: dist.TransformedDistribution(dist.Normal(a, exp(b)), [dist.transforms.SigmoidTransform()]),
        UNIT,
    ),
    "Weibull": (2, lambda a, b: dist.Weibull(exp(a), exp(b)), POSITIVE),
    "ZeroInflatedDistribution": (
        2, lambda a, b: dist.ZeroInflatedDistribution(dist.Poisson(exp(a)), gate_logits=b), COUNTS
    ),
    "ZeroInflatedNegativeBinomial": (
        2, lambda a, b: dist.ZeroInflatedNegativeBinomial(3 * ones(a), logits=a, gate_logits=b), COUNTS
    ),
    "ZeroInflatedPoisson": (2, lambda a, b: dist.ZeroInflatedPoisson(exp(a), gate_logits=b), COUNTS),
}  # fmt: skip
PIXELS_THAT_FAIL = {
    "Beta, with poles": (1, lambda a: dist.Beta(0.05 * exp(a / 9), 0.05 * ones(a)), UNIT, "sampler"),
    "Categorical": (
        3, lambda *a: dist.Categorical(logits=torch.stack(a, -1)), constraints.integer_interval(0, 2), "moves"
    ),
    "Delta": (1, lambda a: dist.Delta(a), REAL, "slopes"),
    "ExtendedBetaBinomial": (2, lambda a, b: dist.ExtendedBetaBinomial(exp(a), exp(b), 5), UP_TO_5, "support"),
    "ExtendedBinomial": (1, lambda a: dist.ExtendedBinomial(5, logits=a), UP_TO_5, "support"),
    "GeneralizedPareto": (2, lambda a, b: dist.GeneralizedPareto(0 * a, exp(a), exp(b)), POSITIVE, "support"),
    "LogNormalNegativeBinomial": (
        2, lambda a, b: dist.LogNormalNegativeBinomial(3 * ones(a), a, exp(b)), COUNTS, "support"
    ),
    "OrderedLogistic": (
        1,
        lambda a: dist.OrderedLogistic(a, torch.tensor([-1.0, 0.0, 1.0]).to(a)),
        constraints.integer_interval(0, 3),
        "moves",
    ),
    "SoftAsymmetricLaplace": (3, lambda a, b, c: dist.SoftAsymmetricLaplace(a, exp(b), exp(c)), REAL, "plates"),
    "TruncatedPolyaGamma": (1, lambda a: dist.TruncatedPolyaGamma(a).expand(a.shape), POSITIVE, "gradients"),
    "Uniform": (2, lambda a, b: dist.Uniform(a, a + exp(b)), REAL, "slopes"),
    "VonMises": (2, lambda a, b: dist.VonMises(a, exp(b)), REAL, "sampler"),
}  # fmt: skip

# A vector of three numbers, from so many of them.
VECTORS = {
    "Dirichlet": (1, lambda a: dist.Dirichlet(exp(a)), constraints.simplex),
    "DirichletMultinomial": (
        1, lambda a: dist.DirichletMultinomial(exp(a), total_count=torch.tensor(4)), constraints.multinomial(4)
    ),
    "GaussianHMM": (
        1,
        lambda a: dist.GaussianHMM(
            *(dist.Normal(torch.zeros(1).to(a), 1).to_event(1), torch.eye(1).to(a)),
            *(dist.Normal(torch.zeros(1).to(a), 1).to_event(1), torch.eye(1).to(a)),
            dist.Normal(a[..., None], 1).to_event(1), duration=3,
        ),
        constraints.independent(REAL, 2),
    ),
    "LogisticNormal": (2, lambda a, b: dist.LogisticNormal(a[..., :2], exp(b[..., :2])), constraints.simplex),
    "LowRankMultivariateNormal": (
        3, lambda a, b, c: dist.LowRankMultivariateNormal(a, b[..., None], exp(c)), constraints.real_vector
    ),
    "Multinomial": (1, lambda a: dist.Multinomial(4, logits=a), constraints.multinomial(4)),
    "MultivariateNormal": (
        4, lambda a, *b: dist.MultivariateNormal(a, scale_tril=tril(b)), constraints.real_vector
    ),
    "MultivariateStudentT": (
        4, lambda a, *b: dist.MultivariateStudentT(5 * ones(a[..., 0]), a, tril(b)), constraints.real_vector
    ),
    "NanMaskedMultivariateNormal": (
        4, lambda a, *b: dist.NanMaskedMultivariateNormal(a, scale_tril=tril(b)), constraints.real_vector
    ),
    "OneHotCategorical": (1, lambda a: dist.OneHotCategorical(logits=a), constraints.one_hot),
    "OneHotCategoricalStraightThrough": (
        1, lambda a: dist.OneHotCategoricalStraightThrough(logits=a), constraints.one_hot
    ),
    "RelaxedOneHotCategorical": (1, lambda a: dist.RelaxedOneHotCategorical(half(a), logits=a), constraints.simplex),
    "RelaxedOneHotCategoricalStraightThrough": (
        1, lambda a: dist.RelaxedOneHotCategoricalStraightThrough(half(a), logits=a), constraints.simplex
    ),
}  # fmt: skip
VECTORS_THAT_FAIL = {
    "ProjectedNormal": (1, lambda a: dist.ProjectedNormal(a), constraints.sphere, "mean"),
    "SineBivariateVonMises": (
        4,
        lambda a, b, c, d: dist.SineBivariateVonMises(
            a[..., 0], b[..., 0], exp(c[..., 0]), exp(d[..., 0]), weighted_correlation=half(a)
        ),
        constraints.real_vector,
        "sampler",
    ),
    "VonMises3D": (1, lambda a: dist.VonMises3D(a), constraints.sphere, "support"),
}

# Latents z of D numbers, from so many times D: of a prior parameters, of a posterior what an encoder makes.
LATENTS = {
    name: (number, lambda *a, make=make: make(*a).to_event(1))
    for name, (number, make, support) in PIXELS.items()
    if not support.is_discrete
} | {name: member[:2] for name, member in VECTORS.items() if name != "GaussianHMM"} | {
    "MixtureSameFamily": (
        5,
        lambda a, b, c, d, e: dist.MixtureSameFamily(
            dist.Categorical(logits=e[..., :2]), dist.Normal(pair(a, b), exp(pair(c, d))).to_event(1)
        ),
    ),
}  # fmt: skip
PRIORS_ONLY = {
    "MixtureOfDiagNormals": (
        5,
        lambda a, b, c, d, e: dist.MixtureOfDiagNormals(pair(a, b), exp(pair(c, d)), e[..., :2]),
    ),
    "MixtureOfDiagNormalsSharedCovariance": (
        4,
        lambda a, b, c, d: dist.MixtureOfDiagNormalsSharedCovariance(pair(a, b), exp(c), d[..., :2]),
    ),
}
LATENTS_THAT_FAIL = {
    "AVFMultivariateNormal": (
        4,
        lambda a, *b: dist.AVFMultivariateNormal(a, tril(b), torch.zeros(2, D, D).to(a)),
        "plates",
    ),
    "GaussianScaleMixture": (
        1,
        lambda a: dist.GaussianScaleMixture(exp(a), torch.zeros(2).to(a), torch.ones(2).to(a)),
        "support",
    ),
    "OMTMultivariateNormal": (4, lambda a, *b: dist.OMTMultivariateNormal(a, tril(b)), "plates"),
}
NO_MEMBERS = {
    "a base class or a wrapper of others": (
        "Distribution ExpandedDistribution ExponentialFamily Independent TorchDistribution Rejector"
    ),
    "no density to be trained": "Empirical ImproperUniform Unit",
    "a matrix, a tree, a matching or a time that no network decodes": (
        "CoalescentTimes CoalescentTimesWithRate LKJ LKJCholesky LKJCorrCholesky OneOneMatching OneTwoMatching "
        "SpanningTree Wishart"
    ),
    "a series, whose parts are distributions of their own": (
        "DiscreteHMM GammaGaussianHMM GaussianMRF GroupedNormalNormal IndependentHMM LinearHMM"
    ),
    "another distribution around it, with the same fate": "SineSkewed",
}


class Pixels(pv.likelihoods.Likelihood):
    """Two pixels."""

    def __init__(self, numbers, make, support):
        super().__init__(pv.networks.MLP((D,), (numbers, 2), hidden=(6,)))
        self.make, self.support = make, support

    def forward(self, z, y=None):
        return self.make(*self.decode(z, y).unbind(-2)).to_event(1)


class Vector(pv.likelihoods.Likelihood):
    """Three numbers that belong together."""

    def __init__(self, numbers, make, support):
        super().__init__(pv.networks.MLP((D,), (numbers, 3), hidden=(6,)))
        self.make, self.support = make, support

    def forward(self, z, y=None):
        return self.make(*self.decode(z, y).unbind(-2))


class Prior(pv.priors.Prior):
    def __init__(self, numbers, make):
        super().__init__(D)
        self.make, self.numbers = make, nn.Parameter(0.3 * torch.randn(numbers, D))

    def forward(self, y=None):
        return self.make(*self.numbers)


class Posterior(pv.posteriors.Posterior):
    def __init__(self, numbers, make):
        super().__init__(pv.networks.MLP((4,), (numbers, D), hidden=(6,)), D)
        self.make, self.numbers = make, numbers

    def encoder_shape(self, latent_dim=D):
        return (self.numbers, latent_dim)

    def forward(self, x, y=None):
        return self.make(*self.encode(x, y).unbind(-2))


def check(kind, *member):
    torch.manual_seed(0)
    if kind is Prior:
        return pv.check_prior(Prior(*member))
    if kind is Posterior:
        return pv.check_posterior(Posterior(*member), torch.randn(5, 4))
    return pv.check_likelihood(kind(*member), torch.randn(5, D))


def unhurried(table):
    """The names of a table, of which those take long whose density is an integral for each value."""
    return [pytest.param(name, marks=pytest.mark.slow if "Stable" in name else pytest.mark.thorough) for name in table]


@pytest.mark.parametrize("name", unhurried(PIXELS))
def test_pixels_pass(name):
    check(Pixels, *PIXELS[name]).raise_if_failed()


@pytest.mark.thorough
@pytest.mark.parametrize("name", all_but(("Dirichlet", "OneHotCategorical"), VECTORS))
def test_vectors_pass(name):
    check(Vector, *VECTORS[name]).raise_if_failed()


@pytest.mark.parametrize("name", unhurried([*LATENTS, *PRIORS_ONLY]))
def test_priors_pass(name):
    check(Prior, *(LATENTS | PRIORS_ONLY)[name]).raise_if_failed()


@pytest.mark.parametrize("name", unhurried(LATENTS))
def test_posteriors_pass_where_their_draws_have_gradients(name):
    """A straight-through gradient is not the slope of the draw, and is not meant to be."""
    numbers, make = LATENTS[name]
    expected = () if make(*torch.zeros(numbers, 5, D)).has_rsample else ("reparametrised",)
    assert check(Posterior, numbers, make).failed == (("slopes",) if "StraightThrough" in name else expected)


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("kind", "table", "name"),
    [
        (kind, table, name)
        for kind, table in ((Pixels, PIXELS_THAT_FAIL), (Vector, VECTORS_THAT_FAIL), (Prior, LATENTS_THAT_FAIL))
        for name in table
    ],
    ids=lambda part: part if isinstance(part, str) else "",
)
def test_it_fails_at_this_line(kind, table, name):
    *member, line = table[name]
    assert line in check(kind, *member).failed


@pytest.mark.thorough
@pytest.mark.parametrize("name", PRIORS_ONLY)
def test_these_are_no_posteriors(name):
    assert "support" in check(Posterior, *PRIORS_ONLY[name]).failed


@pytest.mark.parametrize(
    ("factor", "line"), [*thorough((torch.tensor(1.1), "integral")), (torch.tensor([1.0, 1.0, 2.0]), "sampler")]
)
def test_a_density_on_a_simplex_that_is_not_that_of_its_draws_is_found(factor, line):
    class Wrong(dist.Dirichlet):
        def log_prob(self, value):
            if factor.dim():
                return dist.Dirichlet(self.concentration * factor.to(value)).log_prob(value)
            return super().log_prob(value) + factor.log()

    assert line in check(Vector, 1, lambda a: Wrong(exp(a)), constraints.simplex).failed


def test_a_vector_outside_its_support_is_named_as_a_whole():
    likelihood = Vector(*VECTORS["Dirichlet"])
    x = torch.tensor([[0.2, 0.3, 0.5], [0.2, 0.3, 0.6]])
    likelihood.check(x[:1])
    with pytest.raises(
        DataError, match=re.escape("needs x to be probabilities that add up to 1; got (0.2, 0.3, 0.6) at")
    ):
        likelihood.check(x)


def test_a_density_without_parameters_is_said_to_reach_none():
    report = check(Pixels, 1, lambda a: dist.Uniform(0 * a.detach(), ones(a)), UNIT)
    assert report.failed == ("gradients",)
    assert "does not reach" in str(report)


def names_in(text):
    return set(re.findall(r"`(\w+)`", text))


def test_the_page_names_what_passes_and_what_fails():
    """The table is whole, and says the same as these tests."""
    page = (Path(__file__).parents[2] / "docs" / "swap.md").read_text()
    passes, fails = page.partition("## Which distributions pass")[2].partition("These do not:")[::2]
    fails = fails.partition("\n\nTo give")[0]
    passing = {*PIXELS, *VECTORS, *PRIORS_ONLY}
    failing = {name.partition(",")[0] for name in (*PIXELS_THAT_FAIL, *VECTORS_THAT_FAIL, *LATENTS_THAT_FAIL)}
    none = {name for names in NO_MEMBERS.values() for name in names.split()}
    every = {name for name, made in inspect.getmembers(dist, inspect.isclass) if issubclass(made, dist.Distribution)}
    assert every - none == passing | failing
    known = {"Categorical", "GaussianHMM", "constraints", "rsample", "support"}
    assert passing <= names_in(passes) <= passing | known
    assert {name for row in fails.splitlines() for name in names_in(row.split("|")[1] if "|" in row else "")} == failing


MIXED = {
    "of Dirichlets": (
        2,
        lambda a, b: dist.MixtureSameFamily(dist.Categorical(logits=0 * a[..., :2]), dist.Dirichlet(exp(pair(a, b)))),
        constraints.simplex,
    ),
    "of gammas with poles": (
        1,
        lambda a: dist.MixtureSameFamily(
            dist.Categorical(logits=torch.stack([0 * a, 0 * a], -1)),
            dist.Gamma(0.2 * exp(0.1 * torch.stack([a, -a], -1)), 1.0),
        ).to_event(1),
        POSITIVE,
    ),
}


@pytest.mark.thorough
@pytest.mark.parametrize("name", all_but(["of gammas with poles"], MIXED))
def test_mixtures_pass_whose_components_have_ends(name):
    check(Vector, *MIXED[name]).raise_if_failed()


@pytest.mark.thorough
@pytest.mark.parametrize("concentration", [0.05, 0.1, 0.2, 0.3, 5.0])
def test_a_dirichlet_with_poles_passes(concentration):
    make = lambda a: dist.Dirichlet(concentration * exp(0.1 * a))  # noqa: E731
    assert "integral" not in check(Vector, 1, make, constraints.simplex).failed
