"""Baselines against scipy and slow loops, and differences from them by hand."""

import math

import numpy as np
import pytest
import torch
from scipy import optimize, stats
from sklearn.covariance import LedoitWolf
from torch.distributions import constraints

from pyro_vae.data import Split, splits
from pyro_vae.errors import DataError
from pyro_vae.evaluation import Baselines, Estimate, baselines, paired
from pyro_vae.evaluation import simple_densities as simple
from pyro_vae.evaluation.baseline import baselines_of, compared, verdict
from pyro_vae.evaluation.data_fingerprint import fingerprint
from pyro_vae.evaluation.normal_with_gaps import fit_with_gaps, log_density_of_the_rest

UNITS = np.array([1e-4, 1.0, 1e4])
NAN = math.nan


def noise(seed=0):
    return np.random.default_rng(seed)


def split(x, labels=None, num_levels=None, recipe="none", name="train", **more):
    x = torch.as_tensor(x)
    x = x.float() if num_levels is None else x.to(torch.uint8)
    labels = None if labels is None else torch.as_tensor(labels)
    return Split(name, x, labels, num_levels, recipe, 0, **more)


def correlated(size, seed=0):
    """Rows of three columns in units that differ by 1e8."""
    mixing = np.array([[1.0, 0, 0], [0.8, 0.6, 0], [-0.5, 0.5, 0.7]])
    return torch.tensor((noise(seed).standard_normal((size, 3)) @ mixing.T + [1, 2, 3]) * UNITS)


# Each density against an independent one.


def test_bernoulli_has_half_a_datum_of_each_kind():
    rows, x = (torch.tensor(noise(seed).integers(0, 2, (n, 4)).astype(float)) for seed, n in ((0, 9), (1, 5)))
    for row, found in zip(x, simple.bernoulli(rows)(x), strict=True):
        by_hand = 0.0
        for j in range(4):
            ones = sum(float(other[j]) for other in rows) + 0.5
            by_hand += math.log(ones / 10 if row[j] == 1 else 1 - ones / 10)
        assert found.item() == pytest.approx(by_hand, rel=1e-12)


def test_level_frequencies_share_one_datum_among_all_levels():
    rows, x = (torch.tensor(noise(seed).integers(0, 5, (n, 3)).astype(float)) for seed, n in ((0, 8), (1, 6)))
    log_p = simple.frequencies(rows, num_levels=5)
    for row, found in zip(x, log_p(x), strict=True):
        seen = [sum(bool(other[j] == row[j]) for other in rows) for j in range(3)]
        assert found.item() == pytest.approx(sum(math.log((n + 0.2) / 9) for n in seen), rel=1e-12)
    every = torch.arange(5.0, dtype=torch.float64)[:, None].expand(5, 3)
    alone = simple.frequencies(rows[:, :1], num_levels=5)
    assert alone(every[:, :1]).exp().sum().item() == pytest.approx(1, rel=1e-12)


def test_poisson_is_that_of_scipy_and_gives_no_rate_of_0():
    rows, x = (noise(seed).poisson([0.0, 0.3, 50.0, 1e6], (n, 4)) for seed, n in ((0, 20), (1, 7)))
    x[0, 0] = 3  # of a column that is 0 in all training data
    rates = (rows.sum(0) + 0.5) / 20
    expected = stats.poisson.logpmf(x, rates).sum(1)
    found = simple.poisson(torch.tensor(rows).float())(torch.tensor(x).double())
    assert found.numpy() == pytest.approx(expected, abs=1e-7)


def likeliest(column, m):
    """The r of most likelihood at a mean, by scipy."""
    loss = lambda t: -stats.nbinom.logpmf(column, np.exp(t), np.exp(t) / (np.exp(t) + m)).sum()  # noqa: E731
    return np.exp(optimize.minimize_scalar(loss, bounds=(-8, 12), method="bounded", options={"xatol": 1e-10}).x)


@pytest.mark.parametrize(("r", "mean"), [(0.05, 2.0), (0.7, 0.4), (3.0, 40.0), (20.0, 3000.0)])
def test_the_negative_binomial_is_scipys_at_the_likeliest_dispersion(r, mean):
    rows, x = (noise(seed).negative_binomial(r, r / (r + mean), (n, 1)) for seed, n in ((0, 400), (1, 50)))
    best, m = likeliest(rows, rows.mean()), (rows.sum() + 0.5) / 400
    expected = stats.nbinom.logpmf(x, best, best / (best + m)).sum(1)
    found = simple.negative_binomial(torch.tensor(rows).float())(torch.tensor(x).double())
    assert found.numpy() == pytest.approx(expected, rel=1e-5)


def test_a_column_that_varies_no_more_than_its_mean_is_poisson():
    rows = torch.tensor([[4.0, 0.0], [5.0, 0.0], [6.0, 0.0], [5.0, 40.0]])
    x = torch.tensor([[3.0, 0.0]]).double()
    apart = [simple.negative_binomial(rows[:, [j]])(x[:, [j]]) for j in (0, 1)]
    poisson = [simple.poisson(rows[:, [j]])(x[:, [j]]) for j in (0, 1)]
    assert torch.equal(apart[0], poisson[0])
    assert apart[1] > poisson[1]
    assert simple.negative_binomial(rows)(x).item() == pytest.approx(sum(apart).item(), rel=1e-12)


def test_independent_normals_are_those_of_scipy():
    rows, x = correlated(30), correlated(9, seed=1)
    expected = stats.norm.logpdf(x, rows.mean(0), rows.std(0)).sum(1)
    assert simple.normals(rows)(x).numpy() == pytest.approx(expected, rel=1e-12)


def test_the_full_normal_is_that_of_scipy_in_the_columns_own_units():
    rows, x = correlated(30).numpy(), correlated(9, seed=1).numpy()
    mean, scale = rows.mean(0), rows.std(0, ddof=1)
    shrunk = LedoitWolf(assume_centered=True).fit((rows - mean) / scale).covariance_
    # scipy in units in which the columns are alike, and the Jacobian of these units.
    covariance = shrunk * np.outer(scale / UNITS, scale / UNITS)
    expected = stats.multivariate_normal.logpdf(x / UNITS, mean / UNITS, covariance) - np.log(UNITS).sum()
    assert simple.full_normal(torch.tensor(rows))(torch.tensor(x)).numpy() == pytest.approx(expected, rel=1e-10)


def test_the_full_normal_is_a_density_in_any_units():
    rows, x, units = correlated(30), correlated(9, seed=1), torch.tensor(UNITS)
    changed = simple.full_normal(rows / units)(x / units) - units.log().sum()
    assert simple.full_normal(rows)(x).numpy() == pytest.approx(changed.numpy(), rel=1e-10)


def test_the_full_normal_of_many_rows_is_near_the_truth():
    """Its 9 parameters cost 9 / (2 N) = 2e-4 in the mean; what the correlations are worth is 0.9."""
    rows, x = correlated(20_000), correlated(2_000, seed=1)
    mixing = np.array([[1.0, 0, 0], [0.8, 0.6, 0], [-0.5, 0.5, 0.7]])
    truth = stats.multivariate_normal.logpdf(x.numpy() / UNITS, [1, 2, 3], mixing @ mixing.T) - np.log(UNITS).sum()
    full, independent = (truth.mean() - make(rows)(x).mean().item() for make in (simple.full_normal, simple.normals))
    assert abs(full) < 3e-3
    assert independent > 0.3


# Gaps, and what has no density.

MAKERS = {
    "bernoulli": simple.bernoulli,
    "frequencies": lambda rows: simple.frequencies(rows, num_levels=2),
    "poisson": simple.poisson,
    "negative_binomial": simple.negative_binomial,
    "normals": simple.normals,
}


@pytest.mark.parametrize("name", MAKERS)
def test_missing_numbers_are_neither_fitted_nor_counted(name):
    """Each column is that of its own numbers alone, and log p that of the numbers that are there."""
    make = MAKERS[name]
    rows, x = (torch.tensor(noise(seed).integers(0, 2, (n, 3)).astype(float)) for seed, n in ((0, 40), (1, 6)))
    rows[:, 1] *= 1 if name in ("bernoulli", "frequencies", "normals") else 30
    gone, away = (torch.tensor(noise(seed).random((n, 3)) < 0.4) for seed, n in ((2, 40), (3, 6)))
    rows[gone], x[away] = NAN, NAN
    x[0] = NAN
    found = make(rows)(x)
    expected = torch.zeros(6).double()
    for j in range(3):
        log_p = make(rows[~gone[:, j]][:, [j]])
        for i in range(6):
            expected[i] += 0 if x[i, j].isnan() else log_p(x[[i]][:, [j]]).item()
    assert found[0] == 0
    assert found.numpy() == pytest.approx(expected.numpy(), rel=1e-10)


@pytest.mark.parametrize("column", [[3.0] * 6, [NAN] * 6, [1.0, *[NAN] * 5], [1.0, 1.0, *[NAN] * 4]])
def test_a_constant_column_gives_a_sentence_and_no_number(column):
    rows = torch.tensor(noise().standard_normal((6, 2)))
    rows = torch.stack([rows[:, 0], torch.tensor(column), rows[:, 1]], 1)
    found = baselines(split(rows), torch.zeros(2, 3), support=constraints.real)
    assert found.estimates == {}
    assert found.notes[0] == (
        "independent normals: no density, since 1 of 3 columns are constant in the training data (1)."
    )


def with_gaps(rows, share, seed):
    return rows.masked_fill(torch.tensor(noise(seed).random(tuple(rows.shape)) < share), NAN)


def test_log_p_of_what_is_there_is_the_marginal_normal():
    rows, x = correlated(60), with_gaps(correlated(12, seed=1), 0.4, 2)
    x[0] = NAN
    units = rows.std(0)
    centred = (rows - rows.mean(0)) / units
    shrunk = LedoitWolf(assume_centered=True).fit(centred.numpy()).covariance_
    found = simple.full_normal(rows)(x)
    assert found[0] == 0
    for row, value in zip(x[1:], found[1:], strict=True):
        at = ~row.isnan().numpy()
        r = ((row - rows.mean(0)) / units)[at].numpy()
        expected = stats.multivariate_normal.logpdf(r, np.zeros(at.sum()), shrunk[np.ix_(at, at)]) if at.any() else 0
        assert value.item() == pytest.approx(expected - units[at].log().sum().item(), rel=1e-9)


def penalised(rows, mean, covariance):
    """What EM raises: log p of what is there, plus that of D rows of independent columns, up to a constant."""
    total = 0.0
    for row in rows:
        at = ~np.isnan(row)
        total += stats.multivariate_normal.logpdf(row[at], mean[at], covariance[np.ix_(at, at)]) if at.any() else 0
    return total - 0.5 * len(mean) * (np.linalg.slogdet(covariance)[1] + np.trace(np.linalg.inv(covariance)))


def test_em_ends_where_no_step_raises_the_likelihood():
    """Against the likelihood of what is there by scipy: it is stationary in means and covariances."""
    rows = with_gaps(correlated(200) / torch.tensor(UNITS), 0.4, 2)
    rows = (rows - rows.nanmean(0)) / 1.0
    mean, covariance = (part.numpy() for part in fit_with_gaps(rows))
    best, step = penalised(rows.numpy(), mean, covariance), 0.02
    for i in range(3):
        moved = np.eye(3)[i] * step
        for sign in (1, -1):
            assert penalised(rows.numpy(), mean + sign * moved, covariance) < best
            for j in range(3):
                change = sign * step * (np.outer(np.eye(3)[i], np.eye(3)[j]) + np.outer(np.eye(3)[j], np.eye(3)[i]))
                assert penalised(rows.numpy(), mean, covariance + change) < best


def test_without_gaps_em_is_the_shrunk_sample_covariance():
    rows = correlated(100) / torch.tensor(UNITS)
    mean, covariance = fit_with_gaps(rows)
    about = rows - rows.mean(0)
    assert torch.allclose(mean, rows.mean(0), atol=1e-3)
    assert torch.allclose(covariance, (about.T @ about + 3 * torch.eye(3).double()) / 103, atol=1e-3)


def test_with_gaps_the_full_normal_is_near_the_truth():
    """A marginal of the true normal for each row: 9 parameters of 4,000 rows with 40 % gaps cost some 2e-3."""
    rows, x = with_gaps(correlated(4_000), 0.4, 2), with_gaps(correlated(1_000, seed=1), 0.4, 3)
    mixing = torch.tensor([[1.0, 0, 0], [0.8, 0.6, 0], [-0.5, 0.5, 0.7]], dtype=torch.float64)
    units = torch.tensor(UNITS)
    jacobian = units.log().expand_as(x).masked_fill(x.isnan(), 0).sum(1)
    truth = log_density_of_the_rest(x / units, torch.arange(1.0, 4).double(), mixing @ mixing.T) - jacobian
    full, independent = ((truth - make(rows)(x)).mean().item() for make in (simple.full_normal, simple.normals))
    assert abs(full) < 0.02
    assert independent > 0.1


def test_gaps_in_many_columns_leave_the_full_covariance_out():
    x = torch.randn(200, 80, generator=torch.Generator().manual_seed(0))
    x[3, 4] = NAN
    found = baselines(split(x), x, support=constraints.real)
    assert list(found.estimates) == ["independent normals"]
    assert found.notes == (
        "full-covariance normal: left out, since values are missing and 80 columns are too many for EM.",
    )
    assert all(estimate.value.isfinite().all() for estimate in found.estimates.values())


def test_a_full_covariance_is_left_out_above_500_columns():
    x = torch.randn(20, 501, generator=torch.Generator().manual_seed(0))
    found = baselines(split(x), x, support=constraints.real)
    assert list(found.estimates) == ["independent normals"]
    assert found.notes == ("full-covariance normal: left out, since there are 501 columns, more than 500.",)
    assert len(baselines(split(x[:, :500]), x[:, :500], support=constraints.real).estimates) == 2


# Which, of what, in which rows.


@pytest.mark.parametrize(
    ("support", "names"),
    [
        (constraints.boolean, ["Bernoulli by pixel"]),
        (constraints.integer_interval(0, 16), ["level frequencies by pixel"]),
        (constraints.nonnegative_integer, ["Poisson by column", "negative binomial by column"]),
        (constraints.real, ["independent normals", "full-covariance normal"]),
        (constraints.unit_interval, ["independent normals", "full-covariance normal"]),
        (constraints.independent(constraints.boolean, 1), ["Bernoulli by pixel"]),
    ],
)
def test_the_support_of_the_likelihood_chooses(support, names):
    x = torch.tensor(noise().integers(0, 2, (30, 1, 2, 2)))
    found = baselines(split(x), x[:4].float(), support=support)
    assert list(found.estimates) == names
    for estimate in found.estimates.values():
        assert (estimate.value.shape, estimate.value.dtype) == ((4,), torch.float64)
        assert (estimate.monte_carlo_error, estimate.num_samples, estimate.quantity) == (0, 0, "log p(x)")
    assert found.num_fitted == 30


def test_one_column_has_one_normal():
    x = torch.randn(30, 1, generator=torch.Generator().manual_seed(0))
    assert list(baselines(split(x), x, support=constraints.real).estimates) == ["independent normals"]


def test_pixels_that_are_drawn_anew_are_fitted_by_their_intensities():
    levels = torch.tensor([[0, 4], [2, 4], [1, 4]])
    found = baselines(
        split(levels, num_levels=5, recipe="dynamic"), torch.tensor([[1.0, 0.0]]), support=constraints.boolean
    )
    expected = math.log((0.75 + 0.5) / 4) + math.log(0.5 / 4)
    assert found.estimates["Bernoulli by pixel"].value.item() == pytest.approx(expected, rel=1e-6)


def test_dequantised_data_have_densities_of_the_same_x():
    levels = noise().integers(0, 16, (200, 2))
    train = split(levels, num_levels=16, recipe="dequantize")
    found = baselines(train, train.fixed(), support=constraints.real).estimates["independent normals"]
    x = train.fixed().double().numpy()
    assert found.mean == pytest.approx(stats.norm.logpdf(x, x.mean(0), x.std(0, ddof=1)).sum(1).mean(), rel=1e-9)


def classes(sizes):
    return np.repeat(np.arange(len(sizes)), sizes)


def test_each_class_has_its_own_fit():
    labels = classes([20, 30])
    rows = noise().standard_normal((50, 2)) + 5 * labels[:, None]
    x, y = torch.tensor(noise(1).standard_normal((6, 2))).float(), torch.eye(2)[[0, 1, 1, 0, 0, 1]]
    found = baselines(split(rows, labels), x, y, support=constraints.real)
    for name, make in (("independent normals", simple.normals), ("full-covariance normal", simple.full_normal)):
        for i, label in enumerate(y.argmax(1)):
            expected = make(torch.tensor(rows[labels == label.item()]).float())(x[[i]].double()).item()
            assert found.estimates[name].value[i].item() == pytest.approx(expected, rel=1e-12)
        assert found.estimates[name].quantity == "log p(x|y)"
    assert found.notes == ()


@pytest.mark.parametrize("small", ["few", "constant"])
def test_a_class_without_a_fit_of_its_own_takes_that_of_all_and_says_so(small):
    labels = classes([20, 9 if small == "few" else 15])
    rows = noise().standard_normal((len(labels), 2))
    rows[labels == 1, 0] += 3
    if small == "constant":
        rows[labels == 1, 1] = 0.5
    x, y = torch.tensor(noise(1).standard_normal((4, 2))).float(), torch.eye(2)[[0, 1, 1, 0]]
    found = baselines(split(rows, labels), x, y, support=constraints.real)
    every, own = (simple.normals(torch.tensor(part).float()) for part in (rows, rows[labels == 0]))
    expected = torch.where(y.argmax(1) == 1, every(x.double()), own(x.double()))
    assert torch.equal(found.estimates["independent normals"].value, expected)
    assert found.notes[0].startswith("independent normals: class 1 has fewer than 10 training data or no density")


def test_labels_are_needed_where_they_are_given():
    with pytest.raises(DataError, match="needs labels, and these data have none"):
        baselines(split(noise().random((20, 2))), torch.zeros(1, 2), torch.eye(2)[:1], support=constraints.real)


def test_of_a_mapped_file_a_sample_is_fitted_and_that_is_said(monkeypatch):
    monkeypatch.setattr(splits, "_SAMPLE", 25)
    mapped = split(noise().random((60, 2)), rows=torch.arange(60))
    found = baselines(mapped, mapped.fixed(), support=constraints.real)
    expected = simple.normals(mapped.in_memory().fixed())(mapped.fixed().double())
    assert torch.equal(found.estimates["independent normals"].value, expected)
    assert (found.num_fitted, found.notes) == (25, ("Fitted to a random 25 of the 60 training data.",))


def test_pieces_of_test_data_are_the_whole():
    labels = classes([150, 150])
    rows = noise().standard_normal((300, 3))
    x, y = torch.tensor(rows).float(), torch.eye(2)[torch.tensor(labels)]
    train = split(rows, labels)
    whole = baselines(train, x, y, support=constraints.real)
    pieces = baselines_of(zip(x.split(128), y.split(128), strict=True), train, 2, support=constraints.real)
    for name, estimate in whole.estimates.items():
        assert torch.equal(estimate.value, pieces.estimates[name].value)
        assert torch.equal(estimate.fingerprint, pieces.estimates[name].fingerprint)
        assert torch.equal(estimate.fingerprint, fingerprint(x))
        assert torch.equal(estimate.labels, pieces.estimates[name].labels)


# Differences.


def estimate(values, error=0.0, **more):
    values = torch.tensor(values, dtype=torch.float64)
    return Estimate("log p(x)", values, torch.full_like(values, error), num_samples=50, **more)


def against(program, baseline):
    return compared(program, Baselines({"independent normals": baseline}, ("A note.",), 90))


def test_the_difference_is_paired_and_by_hand():
    """Differences 1, 2, 2, 3: mean 2, standard deviation sqrt(2/3), error sqrt(2/3) / 2."""
    found = against(estimate([-1.0, -10.0, -30.0, -7.0], 0.2), estimate([-2.0, -12.0, -32.0, -10.0]))
    row = found["rows"][0]
    assert (row["mean"], row["num_data"], found["num_fitted"], found["notes"]) == (-14.0, 4, 90, ["A note."])
    assert row["difference"]["mean"] == pytest.approx(2)
    assert row["difference"]["standard_error"] == pytest.approx(math.sqrt(2 / 3) / 2)
    assert row["difference"]["monte_carlo_error"] == pytest.approx(0.2 / 2)
    low, high = row["difference"]["interval"]
    assert (low, high) == pytest.approx((2 - 3.1824 * 0.40825, 2 + 3.1824 * 0.40825), abs=1e-3)  # t, 3 degrees
    assert row["verdict"] == "better"


@pytest.mark.parametrize(
    ("shift", "said"), [(0.5, "better"), (-0.5, "worse"), (0.05, "no difference shown"), (-0.05, "no difference shown")]
)
def test_better_is_said_only_where_the_interval_excludes_0(shift, said):
    """100 differences of standard deviation 1: an error of 0.1 in the mean."""
    d = noise().standard_normal(100)
    d = (d - d.mean()) / d.std(ddof=1) + shift
    base = 30 * noise(1).standard_normal(100)
    row = against(estimate(base + d), estimate(base))["rows"][0]
    assert row["verdict"] == said
    assert (row["difference"]["interval"][0] > 0) == (said == "better")
    assert (row["difference"]["interval"][1] < 0) == (said == "worse")


def test_one_datum_shows_nothing():
    row = against(estimate([-1.0]), estimate([-100.0]))["rows"][0]
    assert (row["difference"]["interval"], row["verdict"]) == (None, "no difference shown")


def test_noise_of_the_programs_draws_is_in_the_interval():
    """Differences that are 0 without Monte Carlo noise: of 400 verdicts some 5 % are wrong, whatever its size."""
    wrong = 0
    for seed in range(400):
        noisy = estimate(noise(seed).normal(0, 0.3, 40), 0.3)
        wrong += verdict(paired(noisy, estimate([0.0] * 40), resamples=200)) != "no difference shown"
    assert 0.05 - 4 * math.sqrt(0.05 * 0.95 / 400) <= wrong / 400 <= 0.05 + 4 * math.sqrt(0.05 * 0.95 / 400) + 0.02


def test_other_data_are_refused():
    x = torch.randn(40, 2, generator=torch.Generator().manual_seed(0))
    found = baselines(split(x), x, support=constraints.real)
    program = estimate([0.0] * 40, fingerprint=fingerprint(x.flip(0)))
    with pytest.raises(ValueError, match="estimates of different data"):
        compared(program, found)
