"""Every member where training may drive it: outputs of 1e4, scales at their floor and at 1e30, data at the edges.

What is held against what. A sum of floating-point operations without cancellation gives the exact result for arguments
that are off by some roundings, so in float32 log p may differ from log p in float64, at the same numbers, by

    OPERATIONS eps (|log p| + sum over arguments |a| |d log p / d a| + CONSTANTS d)

with eps = 6e-8, d numbers in the event, and constants of up to 30 nats (log sigma at sigma = 4.8e12) for each of them.
"""

import copy
import inspect
import itertools
import math
from typing import NamedTuple

import mpmath
import pyro.distributions as dist
import pytest
import torch
from densities import members
from pyro.infer import Trace_ELBO
from torch import nn
from torch.distributions import kl_divergence

import pyro_vae as pv
from pyro_vae.errors import DivergenceError
from pyro_vae.inference import SVI, ImportanceWeightedELBO, MeanFieldELBO
from pyro_vae.model import distributions
from pyro_vae.model.likelihoods.scales import above

EPS = torch.finfo(torch.float32).eps / 2
CONSTANTS = 30
OPERATIONS = 8  # in the longest chain from an argument to log p, but for flows, which have more
LEVELS = [0.0, *(sign * size for size in (1.0, 20.0, 88.0, 104.0, 1e4) for sign in (-1, 1))]


def check(log_prob, build, *arguments, operations=OPERATIONS, parameters=lambda member: ()):
    """Finite values and gradients in both precisions, and float32 as far from float64 as roundings allow.

    `log_prob(build(dtype), *arguments)` has the arguments' leading dimensions, with one event dimension last, and
    `parameters(member)` are what all of them share.
    """
    found = []
    for dtype in (torch.float32, torch.float64):
        member = build(dtype)
        given = [a.detach().to(dtype).requires_grad_(a.requires_grad) for a in arguments]
        values = log_prob(member, *given)
        free, shared = [a for a in given if a.requires_grad], list(parameters(member))
        own = torch.autograd.grad(values.sum(), free, retain_graph=True, materialize_grads=True)
        slopes = [torch.autograd.grad(value, shared, retain_graph=True) for value in values.flatten()] if shared else []
        assert all(g.isfinite().all() for g in (values, *own, *itertools.chain(*slopes)))
        found.append(values.detach().double())
    size = [(a * g).detach().abs().flatten(values.dim()).sum(-1) for a, g in zip(free, own, strict=True)]
    size += [
        torch.stack([(p * g).abs().sum() for g in gs]).reshape(values.shape)
        for p, *gs in zip(shared, *slopes, strict=bool(shared))
    ]
    constants = CONSTANTS * arguments[-1].shape[values.dim() :].numel()
    bound = operations * EPS * (found[1].abs() + sum(size).detach() + constants)
    error = (found[0] - found[1]).abs()
    assert (error <= bound).all(), [tensor.flatten()[(error / bound).argmax()].item() for tensor in (*found, bound)]


# Likelihoods: every combination of levels over the channels of a pixel, and x at the edges of the support.


class Row(NamedTuple):
    kind: str
    values: list[float]
    options: dict[str, object]
    size: int = 1  # pixels, which are all alike
    learned: tuple[float, ...] = ()  # values of its own parameter
    operations: int = OPERATIONS


UNIT, REALS = [0.0, 1e-30, 1e-7, 0.3, 0.5, 1 - 1e-7, 1.0], [-1e4, -1e-20, 0.0, 0.5, 1.0, 1e4]
GREY, COUNTS = [0.0, 1.0, 128.0, 254.0, 255.0], [0.0, 1.0, 20.0, 1e4, 1e6]
RAW = (-1e4, -20.0, 0.0, 20.0, 1e4)
LIKELIHOODS = [
    Row("Bernoulli", [0.0, 1.0], {}),
    Row("ContinuousBernoulli", UNIT, {}),
    *(
        Row(kind, values, options, learned=learned)
        for kind, values in (("Normal", REALS), ("Laplace", REALS), ("DiscretizedLogistic", GREY))
        for options, learned in (
            ({}, ()),
            ({"scale": 1e-3}, ()),
            ({"scale": 1e30}, ()),
            ({"learn_scale": "one"}, RAW),
            ({"learn_scale": "pixel", "x_shape": (1,)}, RAW),
            ({"learn_scale": "predicted"}, ()),
        )
    ),
    Row("LowRankNormal", REALS, {"rank": 1}, size=3),
    *(Row("ExponentialNorm", REALS, {"rate": rate}, size) for rate in (1e-30, 1e3, 1e30) for size in (1, 3, 1000)),
    Row("ExponentialNorm", REALS, {"learn_scale": "one", "x_shape": (3,)}, 3, RAW),
    Row("Categorical", [0.0, 1.0, 2.0], {"num_levels": 3}),
    Row("Poisson", COUNTS, {}),
    # Of log(m / r), which is 43 at most, each rounding is one of so many of m.
    Row("NegativeBinomial", COUNTS, {}, learned=RAW, operations=OPERATIONS + 43),
]
DISCRETE = ("Bernoulli", "DiscretizedLogistic", "Categorical", "Poisson", "NegativeBinomial")


def told(row):
    return " ".join([row.kind, *(f"{value}" for value in row.options.values()), f"of {row.size}" * (row.size > 1)])


rows = pytest.mark.parametrize("row", LIKELIHOODS, ids=told)


def likelihood(row, raw=None):
    kind = getattr(pv.likelihoods, row.kind)
    made = kind(lambda z: z, **row.options)  # whose decoder gives back what it is given
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.fill_(raw)
    return made


def channels(row):
    """Outputs (n, *channels, size) of a decoder: the levels in every combination over the channels of a pixel."""
    kind = getattr(pv.likelihoods, row.kind)
    asked = inspect.signature(kind.decoder_shape).parameters
    shape = kind.decoder_shape(**{**{k: v for k, v in row.options.items() if k in asked}, "x_shape": (row.size,)})
    combined = itertools.product(LEVELS if math.prod(shape[:-1]) < 3 else LEVELS[::2], repeat=math.prod(shape[:-1]))
    return torch.tensor(list(combined)).reshape(-1, *shape[:-1], 1).expand(-1, *shape)


def of_row(row):
    """Outputs (V, n, channels size), x (V, n, size), and what takes both to log p(x|z), (V, n)."""
    outputs, values = channels(row), torch.tensor(row.values)
    shape = outputs.shape[1:]
    output = outputs.flatten(1).expand(len(values), -1, -1).contiguous().requires_grad_()
    x = values[:, None, None].expand(len(values), len(outputs), row.size).clone()
    x.requires_grad_(row.kind not in DISCRETE)

    def log_prob(member, output, x):
        return at(member, output, shape).log_prob(x)

    return output, x, log_prob, shape


def at(member, output, shape):
    """p(x|z) where the decoder has given this output (V, n, channels size)."""
    member.decoder = lambda z: output.flatten(0, -2).unflatten(-1, shape)
    return member(output[..., :1])


def test_every_likelihood_has_a_row():
    assert {row.kind for row in LIKELIHOODS} == members(pv.likelihoods, pv.likelihoods.Likelihood)


@rows
def test_log_p_of_x_and_its_gradients_hold_at_every_output(row):
    output, x, log_prob, _ = of_row(row)
    for raw in row.learned or (None,):
        made = likelihood(row, raw)
        check(
            log_prob,
            lambda dtype, made=made: copy.deepcopy(made).to(dtype),
            output,
            x,
            operations=row.operations,
            parameters=lambda member: member.parameters(),
        )


@rows
def test_draws_of_x_are_finite_and_in_the_support_at_every_output(row):
    output, _, _, shape = of_row(row)
    for raw in row.learned or (None,):
        member = likelihood(row, raw)
        drawn = at(member, output.detach(), shape).sample()
        assert drawn.isfinite().all()
        assert member.support.check(drawn).all()


# Priors: z from 0 to 1e10, in up to 1,000 dimensions.

Z = [0.0, 1e-20, 1.0, -5.0, 5.0, -1e3, 1e4, 1e10, -1e10]
FLOW = 3 * 3 * OPERATIONS  # three layers in each of three transforms


def moved(prior, **values):
    """The prior with parameters filled so."""
    with torch.no_grad():
        for name, value in values.items():
            getattr(prior, name).copy_(torch.as_tensor(value))
    return prior


def vamp(D, raw):
    """Two normals, at 0 and at 10, with sigma = 1e-4 + exp(raw)."""
    posterior = pv.posteriors.DiagonalNormal(Narrow(raw), D)
    return moved(pv.priors.VampPrior(posterior, (D,), num_components=2), pseudo_x=torch.tensor([[0.0], [10.0]]))


class Narrow(nn.Module):
    def __init__(self, raw):
        super().__init__()
        self.raw = nn.Parameter(torch.tensor(raw))

    def forward(self, x):
        return torch.cat([x, self.raw.expand_as(x)], -1)


def mixture(D, logits=(0.0, 0.0, 0.0), far=0.0, log_scale=0.0):
    means = torch.tensor([[0.0], [0.0], [far]])
    return moved(pv.priors.MixtureOfNormals(D, 3), logits=logits, means=means, log_scales=log_scale)


PRIORS = {
    "StandardNormal": pv.priors.StandardNormal,
    **{
        f"DiagonalNormal {raw}": lambda D, raw=raw: moved(pv.priors.DiagonalNormal(D), mean=1e3, log_scale=raw)
        for raw in (-10.0, 10.0)
    },
    **{
        f"ConditionalNormal {raw}": lambda D, raw=raw: moved(
            pv.priors.ConditionalNormal(D, 2), means=1e3, log_scales=raw
        )
        for raw in (-10.0, 10.0)
    },
    "FullNormal, nearly singular": lambda D: moved(
        pv.priors.FullNormal(D), root=torch.full((D, D), 1 / D).tril(-1) - 7 * torch.eye(D)
    ),
    "Laplace": pv.priors.Laplace,
    **{f"StudentT {df:g}": lambda D, df=df: pv.priors.StudentT(D, df) for df in (0.01, 1.0, 5.0, 1e4, 1e8)},
    "MixtureOfNormals, alike": mixture,
    "MixtureOfNormals, one far away": lambda D: mixture(D, far=1e3, log_scale=-3.0),
    "MixtureOfNormals, weights of 0": lambda D: mixture(D, logits=(-1e4, 0.0, -1e38)),
    "MixtureOfNormals, wide": lambda D: mixture(D, far=1e3, log_scale=10.0),
    "VampPrior at its floor": lambda D: vamp(D, -1e4),
    "VampPrior, wide": lambda D: vamp(D, 20.0),
    "FlowPrior spline": lambda D: pv.priors.FlowPrior(D, "spline"),
    "FlowPrior autoregressive": lambda D: pv.priors.FlowPrior(D, "autoregressive"),
}
LABELS = {"ConditionalNormal": torch.eye(2)[:1]}


def wide(name, D):
    """Networks of flows grow with D, and with it the time."""
    return min(D, 100) if "Flow" in name else D


def of_prior(name, prior):
    """p(z), given a label where it takes one."""
    label = LABELS.get(name.split()[0])
    return prior() if label is None else prior(label.to(prior.loc))


def test_every_prior_has_a_row():
    assert {name.split()[0].strip(",") for name in PRIORS} == members(pv.priors, pv.priors.Prior)


@pytest.mark.parametrize("D", [2, 1000])
@pytest.mark.parametrize("name", PRIORS)
def test_log_p_of_z_and_its_gradients_hold_far_from_0(name, D):
    prior = PRIORS[name](D := wide(name, D))
    # A flow may stretch z a thousand times in each transform, so that the square of 1e10 would be infinite.
    levels = Z[:-2] if "Flow" in name else Z
    z = torch.tensor(levels)[:, None].expand(-1, D).clone().requires_grad_()
    check(
        lambda member, z: of_prior(name, member).log_prob(z),
        lambda dtype: copy.deepcopy(prior).to(dtype),
        z,
        operations=FLOW if "Flow" in name else OPERATIONS,
        parameters=lambda member: member.parameters(),
    )


@pytest.mark.parametrize("D", [2, 1000])
@pytest.mark.parametrize("name", PRIORS)
def test_draws_of_z_are_finite(name, D):
    assert of_prior(name, PRIORS[name](wide(name, D))).sample((3,)).isfinite().all()


# Posteriors: encoders that answer with 1e4, sigma from its floor to e^20.

LOC, LOG_SIGMA, OTHERS = (0.0, -1e4, 1e4), (-1e4, -104.0, -20.0, 0.0, 20.0), (0.0, -1.0, 1e4)
POSTERIORS = {
    "DiagonalNormal": (pv.posteriors.DiagonalNormal, OPERATIONS),
    "FullNormal": (pv.posteriors.FullNormal, OPERATIONS),
    "LowRankNormal": (pv.posteriors.LowRankNormal, OPERATIONS),
    "FlowPosterior": (pv.posteriors.FlowPosterior, FLOW),
    "Delta": (pv.posteriors.Delta, OPERATIONS),
}
KNOWN_KL = ("DiagonalNormal", "FullNormal", "LowRankNormal")


def encoded(name):
    """Encoder outputs (n, numbers) for two dimensions, and a posterior whose encoder gives back what it is given."""
    kind = POSTERIORS[name][0]
    (size,) = kind.encoder_shape(2)
    outputs = torch.tensor(
        [[*[a] * 2, *[b] * 2, *[c] * size][:size] for a, b, c in itertools.product(LOC, LOG_SIGMA, OTHERS)]
    )
    return outputs.unique(dim=0).requires_grad_(), kind(nn.Identity(), 2)


def test_every_posterior_has_a_row():
    assert set(POSTERIORS) == members(pv.posteriors, pv.posteriors.Posterior)


@pytest.mark.parametrize("name", [name for name in POSTERIORS if name != "Delta"])
def test_log_q_of_draws_and_its_gradients_hold_at_every_output(name):
    output, posterior = encoded(name)
    z = posterior(output).sample()
    check(
        lambda member, output, z: member(output).log_prob(z),
        lambda dtype: copy.deepcopy(posterior).to(dtype),
        output,
        z.requires_grad_(),
        operations=POSTERIORS[name][1],
    )


@pytest.mark.parametrize("name", POSTERIORS)
def test_draws_and_their_gradients_are_finite_at_every_output(name):
    output, posterior = encoded(name)
    z = posterior(output).rsample((3,))
    (gradient,) = torch.autograd.grad(z.sum(), output)
    assert z.isfinite().all()
    assert gradient.isfinite().all()


# Pyro's KL to the full one inverts its covariance, whose gradient overflows where that is yet closer to singular.
@pytest.mark.parametrize(
    "p",
    [
        PRIORS["StandardNormal"](2),
        PRIORS["DiagonalNormal -10.0"](2),
        moved(pv.priors.FullNormal(2), root=torch.tensor([[-3.0, 0.0], [0.5, -3.0]])),
    ],
    ids=lambda p: type(p).__name__,
)
@pytest.mark.parametrize("name", KNOWN_KL)
def test_a_kl_in_closed_form_and_its_gradients_hold_at_every_output(name, p):
    output, posterior = encoded(name)

    def kl(members, output):
        return kl_divergence(members[0](output), members[1]())

    check(
        kl,
        lambda dtype: nn.ModuleList([copy.deepcopy(posterior), copy.deepcopy(p)]).to(dtype),
        output,
        parameters=lambda members: members[1].parameters(),
    )


# Distributions by themselves: numbers that no network above gives them.

DISTRIBUTIONS = {
    "ContinuousBernoulli": (distributions.ContinuousBernoulli, [(-1e38,), (-1e4,), (1e4,), (1e38,)], UNIT),
    "DiscretizedLogistic": (
        lambda loc, scale: distributions.DiscretizedLogistic(loc, scale, 256),
        list(itertools.product((-1e30, 0.0, 255.0, 1e30), (0.255, 1e30))),
        GREY,
    ),
    "GreyLevels": (
        lambda *logits: distributions.GreyLevels(torch.stack(logits, -1)),
        [(1e38, -1e38), (3e38, 3e38)],
        [0.0, 1.0],
    ),
    "Poisson": (
        distributions.Poisson,
        [(1e-6,), (1.0,), (1e4,), (1e15,), (1e19,), (1e38,)],
        [*COUNTS, 1e30],
    ),
    "NegativeBinomial": (
        lambda r, logits: distributions.NegativeBinomial(total_count=r, logits=logits),
        list(itertools.product((1e-30, 1.0, 21.0, 1e30), (-1e4, -88.0, 0.0, 88.0, 1e4))),
        [*COUNTS, 1e30],
    ),
    "ExponentialNorm": (
        lambda *loc: distributions.ExponentialNorm(torch.stack(loc, -1), 1e3, 1),
        [(0.0, 0.0), (1e30, -1e30), (1e-30, 0.0)],
        [0.0, 1e-20, 1e30],
    ),
    "LowRankNormal": (
        lambda *m: distributions.LowRankNormal(torch.stack(m, -1), 1e3 * torch.ones(2, 2), 1e-8 * torch.ones(2), (2,)),
        [(0.0, 0.0), (1e4, -1e4)],
        [0.0, 1e4],
    ),
    "StudentT": (
        distributions.StudentT,
        list(itertools.product((0.01, 1.0, 1e4, 1e30), (0.0, 1e10), (1e-4, 1e4))),
        [0.0, -1e10],
    ),
}


def test_every_distribution_has_a_row():
    named = set(distributions.__all__) - {"continuous_bernoulli_logits", "invert"}
    assert set(DISTRIBUTIONS) == named


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_a_distribution_is_finite_with_its_gradients_and_its_draws(name):
    make, settings, values = DISTRIBUTIONS[name]
    for setting, value in itertools.product(settings, values):
        arguments = [torch.tensor(number, requires_grad=True) for number in setting]
        p = make(*arguments)
        log_prob = p.log_prob(torch.full(p.event_shape, value))
        gradients = torch.autograd.grad(log_prob.sum(), arguments)
        assert log_prob.isfinite(), (setting, value)
        assert all(g.isfinite() for g in gradients), (setting, value)
        drawn = p.sample((20,))
        assert drawn.isfinite().all()
        assert p.support.check(drawn).all()


@pytest.mark.parametrize("df", [1e-3, 1.0, 39.9, 40.1, 1e4, 1e8, 1e12])
@pytest.mark.parametrize("x", [0.0, 1.3, 1e3, 1e10])
def test_student_t_is_exact_in_float32(df, x):
    p, (df, x) = distributions.StudentT(torch.tensor(df)), (torch.tensor([df, x]).tolist())
    with mpmath.workdps(60):
        nu, y = mpmath.mpf(df), mpmath.mpf(x)
        constant = mpmath.loggamma((nu + 1) / 2) - mpmath.loggamma(nu / 2) - mpmath.log(nu * mpmath.pi) / 2
        exact = constant - (nu + 1) / 2 * mpmath.log1p(y**2 / nu)
        assert abs(p.log_prob(torch.tensor(x)).item() - exact) <= OPERATIONS * EPS * (abs(exact) + abs(constant) + 1)


@pytest.mark.parametrize("rate", [1e-6, 1.0, 1e3, 1e6, 1e9, 1e15])
@pytest.mark.parametrize("ratio", [0.0, 0.5, 1.0, 1.001, 3.0])
def test_poisson_is_exact_in_float32(rate, ratio):
    rate = torch.tensor(rate)
    x = (rate * ratio).round()
    with mpmath.workdps(60):
        m, n = mpmath.mpf(rate.item()), mpmath.mpf(x.item())
        exact = n * mpmath.log(m) - m - mpmath.loggamma(n + 1)
        # The roundings of float64, in terms of this size, and one of float32.
        terms = m + n * abs(mpmath.log(m)) + n * mpmath.log(n + 2)
        found = distributions.Poisson(rate).log_prob(x).item()
        assert abs(found - exact) <= 2 * EPS * abs(exact) + OPERATIONS * torch.finfo(torch.float64).eps * terms


def test_counts_are_drawn_with_their_mean_and_variance_up_to_the_largest():
    """4.5 standard errors: a false alarm in 150,000, for each of six numbers."""
    for rate in (3.0, 1e6, 1e12):
        drawn = distributions.Poisson(torch.tensor(rate, dtype=torch.float64)).sample((20_000,)) - rate
        assert abs(drawn.mean()) < 4.5 * (rate / 20_000) ** 0.5
        assert abs(drawn.var() / rate - 1) < 4.5 * ((2 + 1 / rate) / 20_000) ** 0.5
    assert distributions.Poisson(torch.tensor(1e30)).sample().item() == pytest.approx(1e30)


@pytest.mark.parametrize("raw", [-1e4, 0.0, 19.9, 20.0, 20.1, 1e4, 1e8, 1e20])
def test_a_learned_scale_follows_its_tangent_in_float32_however_far(raw):
    given = torch.tensor(raw, requires_grad=True)
    scale = above(1e-3, given)
    (slope,) = torch.autograd.grad(scale, given)
    raw = given.item()
    assert slope.item() == pytest.approx(math.exp(min(raw, 20.0)), rel=1e-5)
    assert scale.item() == pytest.approx(1e-3 + math.exp(min(raw, 20.0)) * (1 + max(raw - 20, 0)), rel=1e-5)


def test_columns_of_a_covariance_may_be_alike():
    """(W W' + v I) for W of two equal columns of 1: eigenvalues 2 d + v once, v elsewhere."""
    d, v = 4, 1e-8
    p = distributions.LowRankNormal(torch.zeros(d), torch.ones(d, 2), torch.full((d,), v), (d,))
    x = torch.tensor([2.0, 2.0, 2.0, 2.0])
    log_det = math.log(2 * d + v) + (d - 1) * math.log(v)
    assert p.log_prob(x).item() == pytest.approx(
        -0.5 * (4 * d / (2 * d + v) + log_det + d * math.log(2 * math.pi)), rel=1e-6
    )
    assert p.entropy().item() == pytest.approx(0.5 * (log_det + d * (1 + math.log(2 * math.pi))), rel=1e-6)


@pytest.mark.parametrize("p", ["StandardNormal", "FullNormal"])
def test_a_kl_of_low_rank_is_the_formula_with_dense_matrices(p):
    output, posterior = torch.randn(3, 12, dtype=torch.float64), pv.posteriors.LowRankNormal(nn.Identity(), 3)
    prior = getattr(pv.priors, p)(3).double()
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.add_(torch.randn_like(parameter))
    q = posterior(output)
    dense, wanted = dist.MultivariateNormal(q.mean, q.covariance_matrix), prior()
    if p == "StandardNormal":
        wanted = dist.MultivariateNormal(prior.loc, torch.eye(3, dtype=torch.float64))
    torch.testing.assert_close(kl_divergence(q, prior()), kl_divergence(dense, wanted), rtol=1e-10, atol=0)


# Programs: whatever the networks answer, the step is applied and all is finite, or it is refused and nothing changed.


class Answer(nn.Module):
    """A network that answers with one number everywhere, and learns it."""

    def __init__(self, shape, level):
        super().__init__()
        self.answer = nn.Parameter(torch.full(tuple(shape), level))

    def forward(self, given):
        return self.answer.expand(*given.shape[:-1], *self.answer.shape)


HUGE = [-1e38, -1e4, -88.0, 0.0, 1.0, 20.0, 88.0, 1e4, 1e38]


def drive(posterior, likelihood, x, loss, **weights):
    """Whether the step is applied, with all numbers finite; where it is refused all is as before."""
    vae = pv.VAE(pv.priors.StandardNormal(2), posterior, likelihood)
    svi = SVI(vae.model, vae.guide, torch.optim.Adam(vae.parameters(), lr=1e-3), loss, compile=False)
    before, refused, found = copy.deepcopy(vae.state_dict()), "", 0.0
    try:
        found = svi.step(x, **weights)
    except DivergenceError as error:
        refused = str(error)
    if refused:
        assert "step 1: the " in refused
        assert "was not applied" in refused
        assert not svi.optimizer.state
        assert all(torch.equal(before[name], tensor) for name, tensor in vae.state_dict().items())
    assert math.isfinite(found)
    assert all(p.isfinite().all() for p in vae.parameters())
    assert all(p.grad is None or p.grad.isfinite().all() for p in vae.parameters())
    return not refused


losses = pytest.mark.parametrize(
    "loss", [Trace_ELBO(), MeanFieldELBO(), ImportanceWeightedELBO(3)], ids=["sampled", "analytic", "importance"]
)


@losses
@pytest.mark.parametrize("name", [name for name in POSTERIORS if name != "Delta"])
def test_an_encoder_may_answer_with_anything(name, loss):
    kind, x = POSTERIORS[name][0], torch.ones(4, 3)

    def applied(level):
        answer = Answer(kind.encoder_shape(2), level)
        return drive(kind(answer, 2), pv.likelihoods.Bernoulli(Answer((3,), 0.0)), x, loss)

    # Downwards sigma stays at its floor; upwards squares become infinite, in a flow, which stretches, from e^20 on.
    sound = {-1e4, 0.0, 1.0, 20.0} - ({20.0} if name == "FlowPosterior" else set())
    assert {level for level in HUGE if applied(level)} >= sound


def test_the_code_of_an_autoencoder_may_be_anything():
    def applied(level):
        posterior = pv.posteriors.Delta(Answer((2,), level), 2)
        return drive(
            posterior, pv.likelihoods.Bernoulli(Answer((3,), 0.0)), torch.ones(4, 3), Trace_ELBO(), kl_weight=0.0
        )

    assert all(map(applied, HUGE))


@pytest.mark.thorough
@rows
def test_a_decoder_may_answer_with_anything(row):
    x = torch.tensor(row.values[-1]).expand(4, row.size)
    for raw in row.learned[::4] or (None,):

        def applied(level, raw=raw):
            made = likelihood(row, raw)
            made.decoder = Answer(channels(row).shape[1:], level)
            return drive(pv.posteriors.DiagonalNormal(Answer((4,), 0.0), 2), made, x, ImportanceWeightedELBO(3))

        # Gradients of 1e30 have an infinite norm, and Adam would square them.
        sound = set() if row.options.get("rate") == 1e30 else set(HUGE[1:-1])
        assert {level for level in HUGE if applied(level)} >= sound
