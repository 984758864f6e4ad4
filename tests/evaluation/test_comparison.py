"""Differences of estimates: against scipy's tests, against closed forms, and by how often their intervals are right."""

import math
import tracemalloc

import numpy as np
import pytest
import torch
from cases import thorough
from exact import ProbabilisticPCA
from scipy import stats

import pyro_vae as pv
from pyro_vae.evaluation import Estimate, between_seeds, paired, pooled, unpaired


def estimate(values, errors=None, name="log p(x)", num_samples=10, **options):
    value = torch.as_tensor(np.asarray(values), dtype=torch.float64)
    error = torch.zeros_like(value) if errors is None else torch.as_tensor(errors, dtype=torch.float64)
    return Estimate(name, value, error, num_samples, **options)


def draw(size, seed=0, difficulty=10.0):
    """Two programs on the same data: what is hard is hard for both; the true difference is 0.5."""
    noise = np.random.default_rng(seed)
    common = difficulty * noise.standard_normal(size)
    return estimate(common + noise.standard_normal(size) + 0.5), estimate(common + noise.standard_normal(size))


@pytest.mark.parametrize("difference", [paired, *thorough(unpaired)])
def test_the_interval_holds_the_truth_as_often_as_it_says(difference):
    # 400 repeats: the share of intervals that hold 0.5 has a standard error of 0.015 around 0.9; four of them.
    # The noise of the first is skewed: exponential.
    held, repeats = 0, 400
    for seed in range(repeats):
        noise = np.random.default_rng(seed)
        common = noise.standard_normal((2, 100))
        first = estimate(common[0] + noise.exponential(1.0, 100) - 0.5)
        second = estimate(common[0] if difference is paired else common[1])
        low, high = difference(first, second, confidence=0.9, resamples=200, seed=seed).interval
        held += low <= 0.5 <= high
    assert abs(held / repeats - 0.9) < 4 * math.sqrt(0.9 * 0.1 / repeats)


def test_the_standard_errors_are_those_of_student_and_welch():
    first, second = draw(50)
    a, b = first.value.numpy(), second.value.numpy()
    on_pairs, apart = stats.ttest_rel(a, b), stats.ttest_ind(a, b, equal_var=False)
    found, other = paired(first, second), unpaired(first, second)
    assert found.mean == pytest.approx(other.mean) == pytest.approx((a - b).mean())
    assert found.mean / found.standard_error == pytest.approx(on_pairs.statistic)
    assert other.mean / other.standard_error == pytest.approx(apart.statistic)


def test_pairing_takes_away_what_the_data_have_in_common():
    # Variances 100 in common and 1 for each: 2 / N paired, 202 / N unpaired. A standard deviation of 1000 draws is
    # known to 2.2 %, four of them.
    first, second = draw(1000)
    with_pairs, without = (difference(first, second, resamples=999) for difference in (paired, unpaired))
    assert with_pairs.standard_error == pytest.approx(math.sqrt(2 / 1000), rel=0.09)
    assert without.standard_error == pytest.approx(math.sqrt(202 / 1000), rel=0.09)
    widths = [np.diff(found.interval)[0] for found in (with_pairs, without)]
    assert widths[1] / widths[0] == pytest.approx(math.sqrt(101), rel=0.2)


@pytest.mark.thorough
def test_ten_thousand_data_give_the_interval_of_the_normal_in_little_memory():
    # 9999 resamples of 10,000 numbers would be 800 MB. An end of the interval is known to 0.03 standard errors.
    first, second = draw(10_000)
    tracemalloc.start()
    found = paired(first, second)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 200e6
    for end, quantile in zip(found.interval, (-1.96, 1.96), strict=True):
        assert (end - found.mean) / found.standard_error == pytest.approx(quantile, abs=0.15)


def test_a_skew_is_followed_further_than_by_percentiles():
    # BCa moves both ends to the side of the tail (Efron 1987); the percentiles' ends are known to 0.03 standard errors.
    noise = np.random.default_rng(0)
    skewed = noise.exponential(1.0, 30)
    percentiles = np.quantile(noise.choice(skewed, (9999, 30)).mean(1), [0.025, 0.975])
    found = paired(estimate(skewed), estimate(np.zeros(30)))
    moved = (np.asarray(found.interval) - percentiles) / found.standard_error
    assert (moved > 0.12).all()


@pytest.mark.parametrize(("confidence", "quantile"), [(0.5, 0.674), (0.99, 2.576)])
def test_the_confidence_is_the_one_that_is_asked_for(confidence, quantile):
    found = paired(*draw(1000), confidence=confidence)
    half_width = np.diff(found.interval)[0] / 2 / found.standard_error
    assert half_width == pytest.approx(quantile, rel=0.06)
    assert found.confidence == confidence


def test_the_sign_and_size_of_a_difference_that_is_known():
    # Linear-Gaussian programs: the exact difference of log p(x), and a guide wide enough for K = 500 to be unbiased.
    one, other = ProbabilisticPCA(scale=0.7), ProbabilisticPCA(scale=1.0)
    x = one.data(100)
    exact = one.evidence().log_prob(x) - other.evidence().log_prob(x)
    first, second = (pv.evaluation.iwae(truth.vae(widen=1.2), x, 500, seed=0) for truth in (one, other))
    found = paired(first, second)
    assert exact.mean() > 0.2
    assert abs(found.mean - exact.mean().item()) < 4 * found.monte_carlo_error
    assert found.standard_error == pytest.approx(exact.std().item() / 10, rel=0.02)


def test_the_monte_carlo_error_is_the_spread_over_other_draws():
    # 100 repeats: a standard deviation known to 7 %; four of them.
    truth = ProbabilisticPCA()
    x = truth.data(20).repeat(100, 1)  # different data never share noise
    drawn = [pv.evaluation.iwae(truth.vae(widen=widen), x, 50, seed=seed) for seed, widen in enumerate((1.5, 1.2))]
    runs = (zip(each.value.split(20), each.value_error.split(20), strict=True) for each in drawn)
    found = [paired(estimate(*first), estimate(*second)) for first, second in zip(*runs, strict=True)]
    claimed = np.mean([each.monte_carlo_error for each in found])
    assert claimed == pytest.approx(np.std([each.mean for each in found], ddof=1), rel=0.28)


def test_equal_runs_differ_by_nothing():
    same = estimate([-1.0, -20.0, -3.0], [0.1, 0.1, 0.1])
    found = paired(same, same)
    assert (found.mean, found.standard_error, found.interval) == (0.0, 0.0, (0.0, 0.0))
    assert found.monte_carlo_error == pytest.approx(math.sqrt(6 * 0.01) / 3)
    shifted = paired(estimate([2.0, 3.0]), estimate([1.0, 2.0]))
    assert (shifted.mean, shifted.standard_error, shifted.interval) == (1.0, 0.0, (1.0, 1.0))
    constant = unpaired(estimate([2.0, 2.0]), estimate([1.0, 1.0, 1.0]))
    assert constant.interval == (1.0, 1.0)


@pytest.mark.parametrize("difference", [paired, unpaired])
def test_one_datum_tells_no_error(difference):
    found = difference(estimate([-1.0]), estimate([-3.0]))
    assert found.mean == 2.0
    assert math.isnan(found.standard_error)
    assert all(map(math.isnan, found.interval))
    plain = found.to_dict()
    assert (plain["standard_error"], plain["interval"], plain["monte_carlo_error"]) == (None, None, 0.0)


@pytest.mark.parametrize("size", [2, 3, 5, 29])
def test_few_data_give_the_interval_of_student(size):
    """It is wider there than that of the bootstrap, which never leaves the data."""
    values = np.arange(size, dtype=float)
    found = paired(estimate(values), estimate(np.zeros(size)))
    assert found.interval == pytest.approx(stats.t.interval(0.95, size - 1, values.mean(), stats.sem(values)))
    apart = unpaired(estimate(values), estimate(values[::-1] / 2))
    welch = stats.ttest_ind(values, values / 2, equal_var=False).confidence_interval(0.95)
    assert apart.interval == pytest.approx((welch.low, welch.high))


def test_enough_data_give_the_interval_of_the_bootstrap():
    values = np.random.default_rng(0).exponential(size=30)
    low, high = paired(estimate(values), estimate(np.zeros(30))).interval
    assert high - values.mean() > 1.1 * (values.mean() - low)


@pytest.mark.parametrize(
    ("first", "second", "options", "words"),
    [
        ([1.0, 2.0], [1.0], {}, "same data on both sides; got 2 and 1 values. Use unpaired"),
        ([], [], {}, "there are no data to compare: the first"),
        ([1.0, math.inf], [1.0, 2.0], {}, r"the first log p\(x\) is inf at datum 1"),
        ([1.0, 1.0], [math.nan, 2.0], {}, r"the second log p\(x\) is nan at datum 0"),
        ([1.0, 1.0], [1.0, 2.0], {"confidence": 1.0}, r"confidence must be within \(0, 1\); got 1.0"),
        ([1.0, 1.0], [1.0, 2.0], {"resamples": 99}, "resamples must be at least 100, .* got 99"),
    ],
)
def test_what_can_not_be_compared_is_said_in_a_sentence(first, second, options, words):
    with pytest.raises(ValueError, match=words):
        paired(estimate(first), estimate(second), **options)


def test_units_are_not_mixed():
    with pytest.raises(ValueError, match="one unit on both sides; got nats and bits/dim"):
        unpaired(estimate([1.0]), estimate([1.0], unit="bits/dim"))


def test_a_seed_fixes_the_interval_and_nothing_else_is_touched():
    first, second = draw(40)
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].tolist()  # noqa: NPY002
    found = paired(first, second, seed=1)
    assert found == paired(first, second, seed=1)
    assert found.interval != paired(first, second, seed=2).interval
    assert torch.equal(torch_state, torch.get_rng_state())
    assert numpy_state == np.random.get_state()[1].tolist()  # noqa: NPY002


def test_printing_it_names_what_it_leaves_out():
    first, second = draw(40)
    text = str(paired(first, second, confidence=0.9))
    assert text.startswith("difference of log p(x) ")
    assert "over 40 data, 90 % in [" in text
    assert text.endswith("(without the variance over training seeds)")
    elbo = estimate(first.value, name="ELBO")
    assert str(unpaired(first, elbo, force=True)).startswith("log p(x) - ELBO ")
    assert "over 40 and 40 data, unpaired, 95 % in [" in str(unpaired(first, elbo, force=True))


def test_runs_are_pooled_datum_by_datum():
    values, errors = np.random.default_rng(0).random((2, 3, 5))
    found = pooled([estimate(v, e) for v, e in zip(values, errors, strict=True)])
    for i in range(5):
        assert found.value[i].item() == pytest.approx(sum(values[:, i]) / 3)
        assert found.value_error[i].item() == pytest.approx(math.sqrt(sum(errors[:, i] ** 2)) / 3)
    assert (found.name, found.num_samples) == ("log p(x)", 10)


@pytest.mark.parametrize(
    ("estimates", "words"),
    [
        ([], "got none"),
        ([estimate([1.0]), estimate([1.0, 2.0])], "got 1 data, K = 10, nats, 2 data, K = 10, nats"),
        ([estimate([1.0]), estimate([1.0], num_samples=5)], "K = 5"),
    ],
)
def test_only_like_estimates_are_pooled(estimates, words):
    with pytest.raises(ValueError, match=words):
        pooled(estimates)


@pytest.mark.parametrize(
    ("first", "second"),
    [([-22.1, -22.2, -22.0], [-22.5, -22.4]), ([1.0, 2.0], [1.0, 2.0]), ([1.0, 4.0, 2.0], [0.0] * 5)],
)
def test_over_seeds_it_is_the_test_of_welch(first, second):
    found, truth = between_seeds(first, second, confidence=0.9), stats.ttest_ind(first, second, equal_var=False)
    interval = truth.confidence_interval(0.9)
    assert found.mean == pytest.approx(np.mean(first) - np.mean(second))
    assert found.degrees_of_freedom == pytest.approx(truth.df)
    assert found.interval == pytest.approx((interval.low, interval.high))
    if found.mean:
        assert found.mean / found.standard_error == pytest.approx(truth.statistic)
    assert found.num_seeds == (len(first), len(second))


def test_seeds_that_agree_leave_no_error_and_one_seed_tells_nothing():
    found = between_seeds([2.0, 2.0], [1.0, 1.0])
    assert (found.mean, found.standard_error, found.interval) == (1.0, 0.0, (1.0, 1.0))
    assert found.to_dict()["degrees_of_freedom"] is None
    with pytest.raises(ValueError, match="two or more runs on each side; got 3 and 1"):
        between_seeds([1.0, 2.0, 3.0], [1.0])
    with pytest.raises(ValueError, match="confidence"):
        between_seeds([1.0, 2.0], [1.0, 2.0], confidence=0.0)
