"""Likelihoods against scipy and by their contract: one table, a case for each member and each way to learn a scale."""

import copy
import inspect
import json
import math

import numpy as np
import pyro.distributions as dist
import pytest
import scipy.special
import scipy.stats
import torch
from pyro.infer.inspect import get_model_relations
from torch import nn

import pyro_vae as pv
from pyro_vae.errors import DataError

D, SHAPE, LEVELS = 3, (1, 2, 4), 17
NAN, INF = math.nan, math.inf


class Case:
    """A member with a decoder that fits, its log-density by scipy, values inside its support, and outside."""

    def __init__(self, name, reference, inside, outside, **options):
        self.kind, self.reference, self.inside, self.outside = getattr(pv.likelihoods, name), reference, inside, outside
        self.options = options

    def decoder(self, y_dim=0):
        values = {**self.options, "x_shape": SHAPE}
        wanted = inspect.signature(self.kind.decoder_shape).parameters
        shape = self.kind.decoder_shape(**{name: values[name] for name in wanted if name in values})
        return pv.networks.MLP((D,), shape, hidden=(5,), activation=nn.Tanh, y_dim=y_dim)

    def build(self, y_dim=0):
        return self.kind(self.decoder(y_dim), **self.options)

    def data(self, size, dtype=torch.float64):
        """Any values inside the support."""
        return torch.tensor(self.inside, dtype=dtype)[torch.randint(len(self.inside), (size, *SHAPE))]


def above(floor, raw):
    return floor + np.exp(raw)


def parts(member, output):
    """Location and scale of a member with a `learn_scale`, from the definitions."""
    if member.learn_scale == "predicted":
        return output[..., 0, :, :, :], above(member.scale_floor, output[..., 1, :, :, :])
    if member.learn_scale == "no":
        return output, member.scale
    return output, above(member.scale_floor, member.learned_scale.raw.detach().numpy())


def bernoulli(member, output, x):
    return scipy.stats.bernoulli.logpmf(x, scipy.special.expit(output)).sum((-3, -2, -1))


def continuous_bernoulli(member, output, x):
    return (output * x - np.log(np.expm1(output) / output)).sum((-3, -2, -1))


def normal(member, output, x):
    return scipy.stats.norm.logpdf(x, *parts(member, output)).sum((-3, -2, -1))


def laplace(member, output, x):
    return scipy.stats.laplace.logpdf(x, *parts(member, output)).sum((-3, -2, -1))


def low_rank_normal(member, output, x):
    flat = output.reshape(*output.shape[:2], 2 + member.rank, -1)
    x = np.broadcast_to(x.reshape(x.shape[0], -1), (*output.shape[:2], flat.shape[-1]))
    found = np.empty(output.shape[:2])
    for index in np.ndindex(*output.shape[:2]):
        loc, raw, *columns = flat[index]
        covariance = np.diag(above(member.scale_floor, raw) ** 2) + sum(np.outer(w, w) for w in columns)
        found[index] = scipy.stats.multivariate_normal(loc, covariance).logpdf(x[index])
    return found


def exponential_norm(member, output, x):
    d = math.prod(SHAPE)
    rate = member.rate
    if member.learn_scale == "one":
        rate = d / above(member.scale_floor, member.learned_rmse.raw.detach().numpy())
    radius = np.sqrt(((x - output) ** 2).sum((-3, -2, -1)))
    # The radius is Gamma(d, rate / sqrt(d)); its density is spread evenly over a sphere of area S_d r^(d-1).
    log_area = math.log(2) + d / 2 * math.log(math.pi) - scipy.special.gammaln(d / 2) + (d - 1) * np.log(radius)
    return scipy.stats.gamma(d, scale=math.sqrt(d) / rate).logpdf(radius) - log_area


def discretized_logistic(member, output, x):
    loc, scale = parts(member, output)
    law = scipy.stats.logistic((LEVELS - 1) * loc, (LEVELS - 1) * scale)
    upper = np.where(x == LEVELS - 1, 1.0, law.cdf(x + 0.5))
    lower = np.where(x == 0, 0.0, law.cdf(x - 0.5))
    return np.log(upper - lower).sum((-3, -2, -1))


def categorical(member, output, x):
    log_p = scipy.special.log_softmax(output, axis=2)
    chosen = [np.where(x == v, log_p[:, :, v], 0.0) for v in range(LEVELS)]
    return sum(chosen).sum((-3, -2, -1))


def mean_of_counts(output):
    return np.log1p(np.exp(output)) + 1e-6


def poisson(member, output, x):
    return scipy.stats.poisson.logpmf(x, mean_of_counts(output)).sum((-3, -2, -1))


def negative_binomial(member, output, x):
    r = above(1e-3, member.total_count.raw.detach().numpy())
    return scipy.stats.nbinom.logpmf(x, r, r / (r + mean_of_counts(output))).sum((-3, -2, -1))


NOT_FINITE = [NAN, INF, -INF]
NOT_BINARY = [0.5, -1.0, 2.0, 255.0, *NOT_FINITE]
NOT_GREY = [-0.01, 1.01, 255.0, *NOT_FINITE]
NOT_A_LEVEL = [0.5, -1.0, float(LEVELS), 255.0, *NOT_FINITE]
NOT_A_COUNT = [0.5, -1.0, *NOT_FINITE]

BINARY, GREY, REAL, LEVEL = [0.0, 1.0], [0.0, 0.37, 1.0], [-2.0, 0.5, 1.3], [0.0, 3.0, float(LEVELS - 1)]
COUNTS = [0.0, 2.0, 31.0]

CASES = {
    "Bernoulli": Case("Bernoulli", bernoulli, BINARY, NOT_BINARY),
    "ContinuousBernoulli": Case("ContinuousBernoulli", continuous_bernoulli, GREY, NOT_GREY),
    "Normal": Case("Normal", normal, REAL, NOT_FINITE, scale=0.3),
    "Normal-one": Case("Normal", normal, REAL, NOT_FINITE, scale=0.3, learn_scale="one"),
    "Normal-pixel": Case("Normal", normal, REAL, NOT_FINITE, scale=0.3, learn_scale="pixel", x_shape=SHAPE),
    "Normal-predicted": Case("Normal", normal, REAL, NOT_FINITE, scale=0.3, learn_scale="predicted"),
    "LowRankNormal": Case("LowRankNormal", low_rank_normal, REAL, NOT_FINITE, rank=3, scale=0.3),
    "Laplace": Case("Laplace", laplace, REAL, NOT_FINITE, scale=0.3),
    "Laplace-predicted": Case("Laplace", laplace, REAL, NOT_FINITE, scale=0.3, learn_scale="predicted"),
    "ExponentialNorm": Case("ExponentialNorm", exponential_norm, REAL, NOT_FINITE, rate=20.0),
    "ExponentialNorm-one": Case(
        "ExponentialNorm", exponential_norm, REAL, NOT_FINITE, rate=20.0, learn_scale="one", x_shape=SHAPE
    ),
    "DiscretizedLogistic": Case(
        "DiscretizedLogistic", discretized_logistic, LEVEL, NOT_A_LEVEL, num_levels=LEVELS, scale=0.2
    ),
    "DiscretizedLogistic-pixel": Case(
        "DiscretizedLogistic",
        discretized_logistic,
        LEVEL,
        NOT_A_LEVEL,
        num_levels=LEVELS,
        scale=0.2,
        learn_scale="pixel",
        x_shape=SHAPE,
    ),
    "DiscretizedLogistic-predicted": Case(
        "DiscretizedLogistic",
        discretized_logistic,
        LEVEL,
        NOT_A_LEVEL,
        num_levels=LEVELS,
        scale=0.2,
        learn_scale="predicted",
    ),
    "Categorical": Case("Categorical", categorical, LEVEL, NOT_A_LEVEL, num_levels=LEVELS),
    "Poisson": Case("Poisson", poisson, COUNTS, NOT_A_COUNT),
    "NegativeBinomial": Case("NegativeBinomial", negative_binomial, COUNTS, NOT_A_COUNT, total_count=4.0),
}
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def test_every_member_has_a_case():
    found = {
        kind
        for name, kind in vars(pv.likelihoods).items()
        if inspect.isclass(kind) and issubclass(kind, pv.likelihoods.Likelihood) and not name.startswith("_")
    }
    assert found - {pv.likelihoods.Likelihood} == {case.kind for case in CASES.values()}


@every_case
def test_density_equals_scipy_constants_included(case):
    member = case.build().double()
    z = torch.randn(4, 5, D, dtype=torch.float64)
    x = case.data(5)
    p = member(z)
    assert (p.batch_shape, p.event_shape) == ((4, 5), SHAPE)
    assert p.log_prob(x).shape == (4, 5)
    reference = case.reference(member, member.decoder(z).detach().numpy(), x.numpy())
    np.testing.assert_allclose(p.log_prob(x).detach().numpy(), reference, rtol=1e-9)


@every_case
def test_sampler_agrees_with_mean_and_draws_from_the_support(case):
    # 5 standard errors on 8 pixels: false alarm 5e-6.
    member = case.build().double()
    p = member(torch.randn(D, dtype=torch.float64))
    draws = p.sample((20_000,))
    assert draws.shape == (20_000, *SHAPE)
    assert ((draws.mean(0) - p.mean).abs() < 5 * (p.variance / 20_000).sqrt()).all()
    member.check(draws)


@every_case
def test_variance_is_that_of_the_samples(case):
    p = case.build().double()(torch.randn(D, dtype=torch.float64))
    draws = p.sample((40_000,))
    square = (draws - p.mean).square()
    # 5 standard errors, estimated from the fourth moments.
    assert ((square.mean(0) - p.variance).abs() < 5 * square.std(0) / 200).all()


@every_case
def test_support_is_checked_at_the_door_with_value_place_and_cure(case):
    member = case.build()
    x = case.data(3, torch.float32)
    member.check(x)
    for value in case.outside:
        x[2, 0, 1, 3] = value
        message = rf"{case.kind.__name__} needs x .*; got {value:.6g} at datum 2, position \(0, 1, 3\)\. [A-Z].*\.$"
        with pytest.raises(DataError, match=message):
            member.check(x)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Bernoulli", r"in \{0, 1\}; .*`binarize='dynamic'`.*`likelihood='continuous_bernoulli'`"),
        ("ContinuousBernoulli", r"in \[0, 1\]; .*`likelihood='normal'`"),
        ("Normal", "to be finite; "),
        ("DiscretizedLogistic", "to be a whole number from 0 to 16; .*`dequantize=True`"),
        ("Categorical", "to be a whole number from 0 to 16; .*`dequantize=True`"),
        ("Poisson", "to be a whole number, 0 or more; .*`likelihood='normal'`"),
    ],
)
def test_the_cure_is_in_plain_words_and_real_flags(name, words):
    with pytest.raises(DataError, match=f"needs x {words}"):
        CASES[name].build().check(torch.full((1, *SHAPE), -INF))


@pytest.mark.parametrize("name", ["Bernoulli", "DiscretizedLogistic", "Categorical", "Poisson", "NegativeBinomial"])
def test_members_of_whole_numbers_say_so_before_they_are_built(name):
    assert CASES[name].kind.support.is_discrete


def test_a_support_without_words_of_its_own_is_named():
    class Angles(pv.likelihoods.Likelihood):
        support = dist.constraints.interval(-4.0, 4.0)

    with pytest.raises(DataError, match=r"Angles needs x in the support Interval\(.*; got 5 at datum 0"):
        Angles(nn.Identity()).check(torch.full((1, 2), 5.0))


def spread_data(case, size):
    """Data whose mean is inside the support and differs from pixel to pixel; counts are few."""
    low, high = min(case.inside), 3.0 if case.inside is COUNTS else max(case.inside)
    x = low + (high - low) * torch.rand(size, *SHAPE) ** torch.linspace(0.5, 3, 8).reshape(SHAPE)
    return x.round() if case.inside in (LEVEL, COUNTS) else x


def smoothed_mean(case, x):
    """The mean; of counts with half a count more, of other whole numbers with one datum more in the middle."""
    if case.inside is COUNTS:
        return x.mean(0) + 0.5 / len(x)
    if case.kind.support.is_discrete:
        return (x.sum(0) + max(case.inside) / 2) / (len(x) + 1)
    return x.mean(0)


@every_case
def test_training_starts_at_the_mean_of_the_data(case):
    member = case.build().double()
    x = spread_data(case, 500).double()
    member.start_at(x)
    nn.init.zeros_(member.decoder.head.weight)
    start = member(torch.zeros(D, dtype=torch.float64)).mean
    torch.testing.assert_close(start, smoothed_mean(case, x), rtol=0, atol=1.1e-6)  # 1e-6: the floor of counts


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if "scale" in case.options])
def test_training_starts_at_the_given_scale(name):
    case = CASES[name]
    member = case.build().double()
    member.start_at(spread_data(case, 50).double())
    nn.init.zeros_(member.decoder.head.weight)
    p = member(torch.zeros(D, dtype=torch.float64))
    base = p if name == "LowRankNormal" else p.base_dist
    found = base.cov_diag.sqrt() if name == "LowRankNormal" else base.scale
    unit = LEVELS - 1 if name.startswith("Discretized") else 1.0
    assert found.expand(p.event_shape.numel() if name == "LowRankNormal" else SHAPE).allclose(
        torch.tensor(case.options["scale"] * unit, dtype=torch.float64), rtol=1e-6
    )


def test_a_learned_scale_starts_anywhere_above_its_floor():
    for scale in (1.1e-3, 0.1, 1e3, 1e10):
        learned = pv.likelihoods.Normal(nn.Identity(), scale, learn_scale="one").double().learned_scale
        assert learned().item() == pytest.approx(scale, rel=1e-6)


def test_categorical_starts_at_the_frequencies_of_each_pixel():
    case = CASES["Categorical"]
    x = torch.stack([torch.full((1500,), 4.0), *torch.randint(LEVELS, (7, 1500)).float()], 1).reshape(1500, *SHAPE)
    start = case.build().start(x).softmax(0)
    assert start.shape == (LEVELS, *SHAPE)
    for v in range(LEVELS):
        expected = ((x == v).sum(0) + 1 / LEVELS) / 1501
        torch.testing.assert_close(start[v], expected, rtol=1e-5, atol=0)


@every_case
@pytest.mark.parametrize("end", [min, max])
def test_pixels_that_never_change_start_at_a_finite_output(case, end):
    member = case.build()
    x = torch.full((9, *SHAPE), end(case.inside))
    member.start_at(x)
    assert member.decoder.output_bias.isfinite().all()
    assert member(torch.randn(5, D)).log_prob(x[0]).isfinite().all()


def test_a_pixel_that_is_always_off_starts_at_half_a_count():
    member = pv.likelihoods.Bernoulli(CASES["Bernoulli"].decoder())
    member.start_at(torch.zeros(9, *SHAPE))
    expected = np.log(0.5 / 10 / (1 - 0.5 / 10))
    assert torch.allclose(member.decoder.output_bias, torch.full(SHAPE, expected, dtype=torch.float32))


def test_a_decoder_without_output_bias_starts_where_it_is(caplog):
    decoder = nn.Linear(D, 8)
    before = decoder.bias.clone()
    pv.likelihoods.Bernoulli(decoder).start_at(torch.zeros(9, *SHAPE))
    assert torch.equal(decoder.bias, before)
    assert [record.getMessage().rpartition(": ")[2] for record in caplog.records] == [
        "Linear has no parameter output_bias"
    ]


def test_an_output_bias_of_another_shape_is_refused():
    one_a_pixel = pv.likelihoods.Normal(CASES["Normal"].decoder(), learn_scale="predicted")
    with pytest.raises(ValueError, match=r"output_bias of shape \(2, 1, 2, 4\); MLP has \(1, 2, 4\)"):
        one_a_pixel.start_at(torch.zeros(9, *SHAPE))


@every_case
def test_a_gradient_reaches_every_parameter(case):
    member = case.build()
    member(torch.randn(6, D)).log_prob(case.data(6, torch.float32)).sum().backward()
    for name, parameter in member.named_parameters():
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


@every_case
def test_members_copy_move_and_take_labels(case):
    member = case.build(y_dim=2)
    twin = copy.deepcopy(member).double()
    z, y = torch.randn(4, 5, D, dtype=torch.float64), torch.eye(2, dtype=torch.float64)[[0, 1, 0, 1, 1]]
    p = twin(z, y)
    assert p.sample().dtype == p.mean.dtype == torch.float64
    assert (p.batch_shape, p.event_shape) == ((4, 5), SHAPE)
    x = case.data(5)
    assert (p.log_prob(x) != twin(z, 1 - y).log_prob(x)).all()
    before = [parameter.clone() for parameter in member.parameters()]
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.add_(1.0)
    assert all(torch.equal(a, b) for a, b in zip(before, member.parameters(), strict=True))


@every_case
def test_it_observes_data_inside_a_program(case):
    vae = pv.VAE(
        pv.priors.StandardNormal(D),
        pv.posteriors.DiagonalNormal(pv.networks.MLP(SHAPE, (2 * D,), hidden=(5,)), D),
        case.build(),
    )
    x = case.data(6, torch.float32)
    vae.likelihood.start_at(x)
    assert vae.generate(3).shape == (3, *SHAPE)
    assert vae.model(x).shape == (6, *SHAPE)
    assert get_model_relations(vae.model, (x,))["sample_sample"] == {"z": [], "x": ["z"]}


# --- scales


@every_case
def test_scales_are_plain_json(case):
    scales = case.build().scales()
    assert json.loads(json.dumps(scales)) == scales


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Bernoulli", {}),
        ("Normal", {"sigma": 0.3}),
        ("Normal-one", {"sigma": 0.3, "floor": 1e-3, "learned": "one number"}),
        (
            "Normal-pixel",
            {"sigma": {"min": 0.3, "median": 0.3, "max": 0.3}, "floor": 1e-3, "learned": "per pixel"},
        ),
        ("Normal-predicted", {"sigma": "predicted from z", "floor": 1e-3}),
        ("LowRankNormal", {"sigma": "predicted from z", "floor": 1e-3, "rank": 3}),
        ("Laplace", {"b": 0.3}),
        ("DiscretizedLogistic", {"s": 0.2, "unit": "full range, 16 levels"}),
        ("ExponentialNorm", {"rate": 20.0}),
        ("ExponentialNorm-one", {"rate": 20.0, "mean_rmse": 0.4, "floor": 1e-3, "learned": "one number"}),
        ("NegativeBinomial", {"total_count": 4.0, "floor": 1e-3, "learned": "one number"}),
    ],
)
def test_scales_say_what_they_are_and_their_floor(name, expected):
    found = CASES[name].build().double().scales()
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert found[key] == (value if isinstance(value, str) else pytest.approx(value, rel=1e-6)), key


def test_many_scales_are_told_by_three_numbers():
    member = CASES["Normal-pixel"].build().double()
    with torch.no_grad():
        member.learned_scale.raw.copy_(torch.tensor([1.0, 5, 2, 9, 2, 7, 3, 4]).sub(1e-3).log().reshape(SHAPE))
    assert member.scales()["sigma"] == pytest.approx({"min": 1.0, "median": 3.0, "max": 9.0}, rel=1e-6)


def scale_of(case, raw):
    """The scale of p(x|z) where every raw number is `raw`."""
    member = case.build().double()
    for parameter in member.parameters():
        nn.init.zeros_(parameter)
    for name, parameter in member.named_parameters():
        if name.endswith(".raw"):
            nn.init.constant_(parameter, raw)
    if member.decoder.out_shape != SHAPE:
        nn.init.constant_(member.decoder.output_bias[1], raw)
    return member(torch.zeros(D, dtype=torch.float64)).base_dist.scale


@pytest.mark.parametrize("name", ["Normal-one", "Normal-pixel", "Normal-predicted", "Laplace-predicted"])
def test_a_scale_stays_above_its_floor_and_below_infinity(name):
    assert torch.equal(scale_of(CASES[name], -1e4), torch.full(SHAPE, 1e-3, dtype=torch.float64))
    torch.testing.assert_close(
        scale_of(CASES[name], 7.0), torch.full(SHAPE, 1e-3 + math.exp(7), dtype=torch.float64), rtol=1e-13, atol=0
    )
    # From 20 on along the tangent of exp.
    torch.testing.assert_close(
        scale_of(CASES[name], 1e4), torch.full(SHAPE, math.exp(20) * 9981, dtype=torch.float64), rtol=1e-12, atol=0
    )


@pytest.mark.parametrize(
    "name", ["Normal-predicted", "LowRankNormal", "Laplace-predicted", "DiscretizedLogistic-predicted"]
)
@pytest.mark.parametrize("raw", [-1e4, -30.0, 30.0, 1e4])
def test_an_extreme_predicted_scale_keeps_value_and_gradient_finite(name, raw):
    case = CASES[name]
    member = case.build()
    nn.init.constant_(member.decoder.output_bias[1], raw)
    log_prob = member(torch.randn(6, D)).log_prob(case.data(6, torch.float32))
    log_prob.sum().backward()
    assert log_prob.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in member.parameters())
    if raw > 0 and case.inside is REAL:  # a scale that is far too large can come back
        assert (member.decoder.output_bias.grad[1] < 0).all()


def learned(member, x, steps=600):
    """The member's learned scales after maximum likelihood on x around the decoder's output 0."""
    for parameter in member.decoder.parameters():
        nn.init.zeros_(parameter)
    own = [parameter for name, parameter in member.named_parameters() if not name.startswith("decoder")]
    optimizer = torch.optim.Adam(own, lr=0.05)
    for _ in range(steps):
        optimizer.zero_grad()
        (-member(torch.zeros(1, D, dtype=torch.float64)).log_prob(x).mean()).backward()
        optimizer.step()
    return member.scales()


@pytest.mark.thorough
def test_learned_scales_find_their_closed_forms():
    x = 0.05 * torch.randn(50, *SHAPE, dtype=torch.float64) * torch.linspace(1, 5, 8).double().reshape(SHAPE)
    rmse = x.square().mean((1, 2, 3)).sqrt().mean().item()
    wanted = {
        "Normal-one": ("sigma", x.square().mean().sqrt().item()),
        "Normal-pixel": ("sigma", {"max": x.square().mean(0).sqrt().max().item()}),
        "Laplace": ("b", x.abs().mean().item()),
        "ExponentialNorm-one": ("rate", 8 / rmse),
    }
    for name, (key, value) in wanted.items():
        case = CASES[name]
        member = case.kind(case.decoder(), **{**case.options, "learn_scale": case.options.get("learn_scale", "one")})
        found = learned(member.double(), x)[key]
        if isinstance(value, dict):
            found, value = found["max"], value["max"]
        assert found == pytest.approx(value, rel=1e-3), name


def test_without_its_determinant_the_covariance_would_run_off():
    """Erratum 5: the Mahalanobis term alone rises with sigma; log p has its best sigma inside."""
    case = CASES["LowRankNormal"]
    x = 0.3 * torch.randn(200, *SHAPE, dtype=torch.float64)
    log_p, mahalanobis = [], []
    for sigma in (0.03, 0.3, 3.0, 30.0):
        member = case.build().double()
        for parameter in member.decoder.parameters():
            nn.init.zeros_(parameter)
        nn.init.constant_(member.decoder.output_bias[1], math.log(sigma - 1e-3))
        p = member(torch.zeros(D, dtype=torch.float64))
        log_p.append(p.log_prob(x).mean().item())
        mahalanobis.append(log_p[-1] + 8 * math.log(sigma))
    assert max(log_p) == log_p[1]
    assert mahalanobis == sorted(mahalanobis)


# --- options


def test_decoder_shape_has_the_options_of_the_constructor_with_their_defaults():
    for case in CASES.values():
        assert isinstance(inspect.getattr_static(case.kind, "decoder_shape"), staticmethod)
        constructor = inspect.signature(case.kind).parameters
        x_shape, *options = inspect.signature(case.kind.decoder_shape).parameters.values()
        assert x_shape.name == "x_shape"
        assert all(option.default == constructor[option.name].default for option in options)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        (pv.likelihoods.Normal.decoder_shape(SHAPE), SHAPE),
        (pv.likelihoods.Normal.decoder_shape(SHAPE, learn_scale="pixel"), SHAPE),
        (pv.likelihoods.Laplace.decoder_shape(SHAPE, learn_scale="predicted"), (2, *SHAPE)),
        (pv.likelihoods.LowRankNormal.decoder_shape(SHAPE), (4, *SHAPE)),
        (pv.likelihoods.Categorical.decoder_shape(SHAPE), (256, *SHAPE)),
        (pv.likelihoods.Categorical.decoder_shape(SHAPE, num_levels=5), (5, *SHAPE)),
        (pv.likelihoods.Poisson.decoder_shape(SHAPE), SHAPE),
    ],
)
def test_several_numbers_a_pixel_stand_in_a_leading_axis(shape, expected):
    assert shape == expected


def member(name, **options):
    return getattr(pv.likelihoods, name)(nn.Identity(), **options)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: member("Normal", scale=0.0), "scale must .* above 0; got 0.0"),
        (lambda: member("Normal", scale=NAN), "scale must .* above 0; got nan"),
        (lambda: member("Normal", scale=INF), "scale must be a finite number .*; got inf"),
        (lambda: member("Laplace", scale=-1.0), "above 0; got -1.0"),
        (
            lambda: member("Normal", learn_scale="each"),
            "Normal takes `learn_scale` 'no' or 'one' or 'pixel' or 'predicted'; got `learn_scale='each'`",
        ),
        (lambda: member("Normal", learn_scale="one", scale=1e-3), "scale .* above its floor 0.001; got 0.001"),
        (lambda: member("Normal", learn_scale="predicted", scale=1e-4), "above its floor 0.001; got 0.0001"),
        (lambda: member("Normal", learn_scale="one", scale_floor=0.0), "scale_floor must .* above 0; got 0.0"),
        (lambda: member("Laplace", learn_scale="pixel"), r"Laplace with learn_scale='pixel' .*x_shape=\(1, 28, 28\)"),
        (lambda: member("LowRankNormal", rank=0), "rank must be at least 1; got 0"),
        (lambda: member("LowRankNormal", scale=1e-4), "above its floor 0.001; got 0.0001"),
        (lambda: member("ExponentialNorm", rate=0.0), "rate must .* above 0; got 0.0"),
        (
            lambda: member("ExponentialNorm", learn_scale="pixel"),
            "ExponentialNorm takes `learn_scale` 'no' or 'one'; got `learn_scale='pixel'`",
        ),
        (lambda: member("ExponentialNorm", learn_scale="one"), r"needs the shape of one datum.*x_shape="),
        (
            lambda: member("ExponentialNorm", learn_scale="one", rate=1e6, x_shape=SHAPE),
            "d / rate = 8 / 1e[+]06 is the start of a learned scale .* above its floor 0.001; got 8e-06",
        ),
        (lambda: member("DiscretizedLogistic", num_levels=1), "num_levels .* at least 2; got 1"),
        (lambda: member("Categorical", num_levels=0), "num_levels .* at least 2; got 0"),
        (lambda: member("NegativeBinomial", total_count=0.0), "total_count must .* above 0; got 0.0"),
    ],
)
def test_impossible_members_are_refused_by_name_and_value(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_a_decoder_of_the_wrong_size_is_refused():
    z = torch.zeros(4, D)
    small = CASES["Normal"].decoder()
    for kind, options, count in (
        (pv.likelihoods.Normal, {"learn_scale": "predicted"}, 2),
        (pv.likelihoods.LowRankNormal, {"rank": 3}, 5),
        (pv.likelihoods.Categorical, {"num_levels": LEVELS}, LEVELS),
    ):
        with pytest.raises(ValueError, match=rf"output has shape \(\*, {count}, \*x_shape\).* got \(4, 1, 2, 4\)"):
            kind(small, **options)(z)
    for kind, learn_scale in ((pv.likelihoods.Normal, "pixel"), (pv.likelihoods.ExponentialNorm, "one")):
        wrong = kind(small, learn_scale=learn_scale, x_shape=(1, 1, 4))
        with pytest.raises(ValueError, match=r"built for x_shape=\(1, 1, 4\); its decoder gives \(1, 2, 4\)"):
            wrong(z)


@pytest.mark.thorough
def test_a_start_is_found_where_the_data_are():
    # The meta device refuses to mix with the CPU, as an accelerator does.
    likelihood = pv.likelihoods.DiscretizedLogistic(pv.networks.MLP((2,), (3,)), num_levels=16)
    with dist.validation_enabled(False):
        assert likelihood.start(torch.zeros(5, 3, device="meta")).device.type == "meta"
