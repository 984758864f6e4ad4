"""Bayes classification against the exact posterior over classes of a linear-Gaussian model of each class."""

import math

import pytest
import torch
from cases import thorough
from exact import ConditionalProbabilisticPCA
from scipy.stats import binomtest

import pyro_vae as pv
from pyro_vae.evaluation import accuracy, classify, evidence

C = 3
P = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)


@pytest.fixture(scope="module")
def truth():
    return ConditionalProbabilisticPCA()


@pytest.mark.parametrize("K", [1, 7, 33])
def test_with_exact_guides_it_is_bayes_rule_for_any_k(truth, K):
    x, _ = truth.data(150, P)
    found = classify(truth.vae(), x, P, K, seed=0)
    assert (found.log_likelihood.shape, found.num_samples) == ((C, 150), K)
    assert (found.log_likelihood - truth.log_likelihood(x)).abs().max() < 1e-10
    assert (found.log_posterior - truth.log_posterior(x, P)).abs().max() < 1e-10
    assert torch.equal(found.prediction, truth.log_posterior(x, P).argmax(0))


@pytest.mark.thorough
def test_with_mismatched_guides_it_is_bayes_rule_within_its_noise(truth):
    """120 estimates within 5 Monte Carlo standard errors, one false alarm in 15,000 seeds."""
    x, _ = truth.data(40, P)
    vae = truth.vae(widen=(1.3, 1.1, 1.5))
    found = classify(vae, x, P, 2000, seed=0)
    for label, y in enumerate(torch.eye(C, dtype=torch.float64).unbind()):
        error = pv.evaluation.iwae(vae, x, 2000, y.expand(40, C), seed=1).value_error
        assert ((found.log_likelihood[label] - truth.log_likelihood(x)[label]).abs() < 5 * error).all()
    assert (found.log_posterior - truth.log_posterior(x, P)).abs().max() < 0.2
    assert torch.allclose(found.log_posterior.exp().sum(0), torch.ones(40, dtype=torch.float64), rtol=0, atol=1e-12)


def test_it_is_right_as_often_as_it_says(truth):
    """A Bayes classifier expects to be right with the probability of its prediction: 4 standard errors over 2,000."""
    x, labels = truth.data(2000, P)
    found = classify(truth.vae(), x, P, 1, seed=0)
    confidence = found.log_posterior.exp().amax(0)
    surplus = (found.prediction == labels).double() - confidence
    assert surplus.sum().abs() < 4 * (confidence * (1 - confidence)).sum().sqrt()
    assert 0.6 < confidence.mean() < 0.95  # neither hopeless nor trivial


def test_an_impossible_class_is_never_predicted(truth):
    x, _ = truth.data(50, P)
    found = classify(truth.vae(), x, torch.tensor([0.5, 0.0, 0.5]), 3, seed=0)
    two = truth.log_posterior(x, torch.tensor([0.5, 0.0, 0.5]))[[0, 2]]
    assert (found.log_posterior[1] == -torch.inf).all()
    assert (found.log_posterior[[0, 2]] - two).abs().max() < 1e-10


def test_khat_is_that_of_each_class(truth):
    """The guide of class 1 alone is too narrow, with k = 1 - 0.3^2 in two dimensions."""
    x, _ = truth.data(30, P)
    vae = truth.vae(widen=(1.3, 0.3, 1.3))
    found = classify(vae, x, P, 1000, seed=0)
    assert found.khat.shape == (C, 30)
    for label, y in enumerate(torch.eye(C, dtype=torch.float64).unbind()):
        weights = pv.evaluation.log_weights(vae, x, 1000, y.expand(30, C), seed=0)
        assert torch.equal(found.khat[label], pv.evaluation.psis_khat(weights))
    assert found.khat[[0, 2]].max() < 0.5
    assert found.khat[1].mean() > 0.7


def test_a_seeded_call_is_reproducible_and_leaves_the_callers_stream_alone(truth):
    x, _ = truth.data(20, P)
    vae = truth.vae(widen=(1.3,) * C)
    state = torch.get_rng_state()
    first = classify(vae, x, P, 30, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    torch.randn(7)
    again, other = classify(vae, x, P, 30, seed=3), classify(vae, x, P, 30, seed=4)
    for name in ("log_likelihood", "log_posterior", "khat"):
        assert torch.equal(getattr(first, name), getattr(again, name))
        assert not torch.equal(getattr(first, name), getattr(other, name))


def test_without_a_seed_the_callers_stream_goes_on(truth):
    x, _ = truth.data(20, P)
    vae = truth.vae(widen=(1.3,) * C)
    first, second = (classify(vae, x, P, 3).log_likelihood for _ in range(2))
    assert not torch.equal(first, second)
    torch.manual_seed(0)
    assert torch.equal(classify(vae, x, P, 3).log_likelihood, first)


def test_every_class_sees_the_same_noise():
    """Classes that do not differ are told apart by p(y) alone, whatever the noise of the estimates."""
    same = ConditionalProbabilisticPCA(distance=0.0)
    x, _ = same.data(20, P)
    found = classify(same.vae(widen=(2.0,) * C), x, P, 2, seed=0)
    assert torch.equal(found.log_likelihood, found.log_likelihood[:1].expand(C, 20))
    assert torch.allclose(found.log_posterior, P.log()[:, None].expand(C, 20), rtol=0, atol=1e-12)
    assert (found.log_likelihood - same.log_likelihood(x)).abs().max() > 0.1  # noise there is


@pytest.mark.parametrize(
    "p", [[0.5, 0.3, 0.3], [0.5, 0.4, 0.0], [1.2, -0.1, -0.1], [0.5, float("nan"), 0.5], [0.0] * 3]
)
def test_what_are_no_probabilities_is_refused(truth, p):
    with pytest.raises(ValueError, match="`class_probabilities` must be 0 or above and sum to 1; got"):
        classify(truth.vae(), truth.base.data(2), torch.tensor(p), 3)


# log p(x), the label summed out.


def mixture(truth, x):
    return (truth.log_likelihood(x) + P.log()[:, None]).logsumexp(0)


@pytest.mark.parametrize("K", [1, 33])
def test_with_exact_guides_the_evidence_is_that_of_the_mixture_for_any_k(truth, K):
    x, _ = truth.data(150, P)
    found = evidence(truth.vae(), x, P, K, seed=0)
    assert (found.value - mixture(truth, x)).abs().max() < 1e-10
    assert (found.num_samples, found.quantity, len(found.labels)) == (K, "log p(x)", 0)


@pytest.mark.thorough
def test_with_mismatched_guides_it_is_that_of_the_mixture_within_its_error(truth):
    """200 estimates within 5 of their errors, their mean within 4: one false alarm in 5,000 seeds."""
    x, _ = truth.data(200, P)
    found = evidence(truth.vae(widen=(1.3, 1.1, 1.5)), x, P, 4000, seed=0)
    miss = found.value - mixture(truth, x)
    assert (miss.abs() < 5 * found.value_error).all()
    assert abs(miss.mean()) < 4 * found.monte_carlo_error
    scores = pv.evaluation.score(truth.vae(widen=(1.3, 1.1, 1.5)), x, num_samples=4000, seed=0, class_probabilities=P)
    assert torch.allclose(found.value, scores.log_likelihood, rtol=0, atol=1e-10)
    assert torch.allclose(found.value_error, scores.log_likelihood_error, rtol=1e-8)


@pytest.mark.parametrize("seed", [0, *thorough(None)])
def test_the_error_of_the_evidence_is_its_true_spread(truth, seed):
    """Classes share their noise under a seed, and do not without; 200 repeats, where 20 % are 4 standard errors."""
    x, _ = truth.data(20, P)
    found = evidence(truth.vae(widen=(1.3, 1.1, 1.5)), x.repeat(200, 1), P, 64, seed)
    spread = found.value.reshape(200, 20).mean(1).std()
    assert 0.8 < spread / (found.monte_carlo_error * math.sqrt(200)) < 1.25


def test_the_evidence_compares_with_that_of_a_program_without_labels(truth):
    """Of the same law where there is but one class: the difference is 0."""
    x = truth.base.data(50)
    alone = ConditionalProbabilisticPCA(distance=0.0)
    found = evidence(alone.vae(), x, P, 3, seed=0)
    difference = pv.evaluation.paired(found, pv.evaluation.iwae(alone.base.vae(), x, 3, seed=0))
    assert difference.mean == pytest.approx(0.0, abs=1e-10)


def test_an_impossible_class_adds_nothing_to_the_evidence(truth):
    x, _ = truth.data(50, P)
    found = evidence(truth.vae(), x, torch.tensor([0.5, 0.0, 0.5]), 3, seed=0)
    two = truth.log_likelihood(x)[[0, 2]].logsumexp(0) - math.log(2)
    assert (found.value - two).abs().max() < 1e-10


# How often predictions are right.


@pytest.mark.parametrize(("number", "size"), [(7, 9), (0, 3), (3, 3), (950, 1000)])
def test_the_interval_is_wilsons(number, size):
    labels = torch.arange(size) % 2
    found = accuracy(torch.where(torch.arange(size) < number, labels, 1 - labels), labels)
    wanted = binomtest(number, size).proportion_ci(method="wilson")
    assert found.value == pytest.approx(number / size)
    assert found.interval == pytest.approx((wanted.low, wanted.high), abs=1e-7)
    one = binomtest(number, size).proportion_ci(0.6826894921370859, method="wilson")
    assert found.standard_error == pytest.approx((one.high - one.low) / 2, abs=1e-7)


def test_predictions_without_their_labels_are_refused():
    with pytest.raises(
        ValueError, match=r"must be one prediction for each label, both of shape \(N,\); got \(3,\) and \(2,\)"
    ):
        accuracy(torch.zeros(3), torch.zeros(2))
