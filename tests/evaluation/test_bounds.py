"""The curve of bounds against slow loops, closed forms and its own claims; the jackknife by hand."""

import math
from itertools import pairwise

import pytest
import torch
from exact import ProbabilisticPCA, binary_data, small_vae

import pyro_vae as pv
from pyro_vae.evaluation.bounds import block_bound, iwae_curve, jackknife, steps


@pytest.fixture(scope="module")
def case():
    truth = ProbabilisticPCA()
    return truth, truth.vae(widen=1.4, shift=0.4), truth.data(140)  # a block of 128 data and one of 12


def test_the_steps_are_1_2_5_10_and_the_last_is_all_draws():
    assert steps(1) == [1]
    assert steps(7) == [1, 2, 5, 7]
    assert steps(100) == [1, 2, 5, 10, 20, 50, 100]
    assert steps(131_072) == [lead * 10**power for power in range(5) for lead in (1, 2, 5)] + [100_000, 131_072]


def test_every_bound_is_a_slow_loop_over_blocks_of_the_weights(case):
    _, vae, x = case
    weights = pv.evaluation.log_weights(vae, x, 70, seed=0)
    curve = iwae_curve(vae, x, 70, seed=0)
    assert list(curve.bounds) == [1, 2, 5, 10, 20, 50, 70]
    for k, bound in curve.bounds.items():
        for n in (0, 127, 128, 139):
            w = weights[:, n].tolist()
            blocks = [w[i : i + k] for i in range(0, 70 - k + 1, k)]
            values = [math.log(math.fsum(math.exp(v) for v in block) / k) for block in blocks]
            assert bound.value[n].item() == pytest.approx(sum(values) / len(values), abs=1e-9)
            if len(values) > 1:
                error = torch.tensor(values, dtype=torch.float64).std() / len(values) ** 0.5
                assert bound.value_error[n].item() == pytest.approx(error.item(), abs=1e-9)


def test_streamed_equals_unstreamed_and_the_last_bound_is_iwae(case):
    _, vae, x = case
    weights = pv.evaluation.log_weights(vae, x, 200, seed=0)
    curve = iwae_curve(vae, x, 200, seed=0)
    for k, bound in curve.bounds.items():
        whole = block_bound(weights, k)
        assert torch.allclose(bound.value, whole.value, rtol=0, atol=1e-6)
        assert torch.allclose(bound.value_error, whole.error, rtol=0, atol=1e-6)
    assert torch.allclose(curve.jackknife.value, jackknife(weights).value, rtol=0, atol=1e-6)
    iwae = pv.evaluation.iwae(vae, x, 200, seed=0)
    assert torch.allclose(curve.bounds[200].value, iwae.value, rtol=0, atol=1e-10)
    assert torch.allclose(curve.bounds[200].value_error, iwae.value_error, rtol=1e-6)
    second = iwae_curve(vae, x[128:], 200, seed=0, first_block=1)
    assert torch.equal(second.bounds[5].value, curve.bounds[5].value[128:])


def test_it_starts_at_the_elbo_rises_and_ends_at_the_evidence(case):
    """All three within 4 Monte Carlo errors of the mean."""
    truth, vae, x = case
    curve = iwae_curve(vae, x, 2000, seed=0)
    exact = truth.evidence().log_prob(x)
    elbo = exact - torch.distributions.kl_divergence(vae.posterior(x), truth.posterior(x))
    bounds = list(curve.bounds.values())
    assert abs(bounds[0].mean - elbo.mean()) < 4 * bounds[0].monte_carlo_error
    for low, high in pairwise(bounds):
        assert high.mean > low.mean - 4 * (low.monte_carlo_error + high.monte_carlo_error)
        assert low.mean < exact.mean() + 4 * low.monte_carlo_error
    assert bounds[3].mean - bounds[0].mean > 0.3  # it rises indeed
    assert abs(bounds[-1].mean - exact.mean()) < 4 * bounds[-1].monte_carlo_error


@pytest.mark.parametrize("k", [1, 20, 60])
def test_the_claimed_error_is_the_true_spread(k):
    """200 repeats: the spread of a standard deviation is 5 %, so 20 % is 4 standard errors."""
    truth = ProbabilisticPCA()
    vae, x = truth.vae(widen=1.3, shift=0.3), truth.data(20).repeat(200, 1)  # different data never share noise
    found = block_bound(pv.evaluation.log_weights(vae, x, 60, seed=0), k)
    spread = found.value.reshape(200, 20).mean(1).std()
    claimed = found.error.square().mean().div(20).sqrt()
    assert 0.8 < spread / claimed < 1.25


def test_the_jackknife_is_its_formula_by_hand():
    weights = torch.randn(6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = jackknife(weights)
    for b in range(3):
        w = weights[:, b].exp().tolist()
        without = [math.log(sum(w[:i] + w[i + 1 :]) / 5) for i in range(6)]
        mean = sum(without) / 6
        assert found.value[b].item() == pytest.approx(6 * math.log(sum(w) / 6) - 5 * mean, abs=1e-12)
        error = math.sqrt(5 / 6 * sum((v - mean) ** 2 for v in without))
        assert found.error[b].item() == pytest.approx(error, abs=1e-12)


def test_the_jackknife_keeps_its_digits_where_one_weight_dominates():
    """Without the large weight only the small ones are left: 3 L_3 - 2 mean(L_2, L_2, L_small), by hand."""
    weights = torch.tensor([[900.0], [0.0], [0.0]], dtype=torch.float64)
    by_hand = 3 * (900 - math.log(3)) - 2 * (2 * (900 - math.log(2)) + 0.0) / 3
    assert jackknife(weights).value.item() == pytest.approx(by_hand, rel=1e-13)


def test_the_jackknife_takes_most_of_the_bias_away():
    """6,000 copies of K = 20 draws for one datum: the bias of L_20 is seen at 10 errors, the rest of it is a third."""
    truth = ProbabilisticPCA()
    x = truth.data(1).expand(6000, 5)
    curve = iwae_curve(truth.vae(widen=1.4, shift=0.3), x, 20, seed=0)
    exact = truth.evidence().log_prob(x[0]).item()
    plain, corrected = exact - curve.bounds[20].mean, exact - curve.jackknife.mean
    assert plain > 10 * curve.bounds[20].standard_error
    assert abs(corrected) < plain / 3


def test_under_the_exact_posterior_all_is_the_evidence(case):
    truth, _, x = case
    curve = iwae_curve(truth.vae(), x, 33, seed=0)
    for estimate in (*curve.bounds.values(), curve.jackknife):
        assert torch.allclose(estimate.value, truth.evidence().log_prob(x), rtol=0, atol=1e-8)
        assert estimate.value_error.nan_to_num(0).abs().max() < 1e-8


def test_one_draw_has_neither_an_error_nor_a_jackknife(case):
    _, vae, x = case
    curve = iwae_curve(vae, x, 1, seed=0)
    assert list(curve.bounds) == [1]
    assert torch.equal(curve.bounds[1].value, pv.evaluation.log_weights(vae, x, 1, seed=0)[0])
    assert math.isnan(curve.bounds[1].monte_carlo_error)
    assert curve.jackknife.value.isnan().all()
    assert curve.to_dict()["jackknife_no_bound"]["mean"] is None


def test_a_seeded_call_is_reproducible_and_leaves_the_callers_stream_alone():
    vae, x = small_vae(), binary_data(5)
    state = torch.get_rng_state()
    first = iwae_curve(vae, x, 40, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    torch.randn(3)
    assert torch.equal(iwae_curve(vae, x, 40, seed=3).bounds[10].value, first.bounds[10].value)
    assert not torch.equal(iwae_curve(vae, x, 40, seed=4).bounds[10].value, first.bounds[10].value)


def test_it_prints_a_line_a_bound_and_says_what_is_none():
    lines = str(iwae_curve(small_vae(), binary_data(3), 5, seed=0)).splitlines()
    assert [line.split()[0] for line in lines] == ["bound", "bound", "bound", "jackknife,"]
    assert "no bound" in lines[-1]


@pytest.mark.parametrize("k", [0, 4])
def test_a_block_holds_between_one_and_all_draws(k):
    with pytest.raises(ValueError, match=r"k must be within 1 ... 3.*got"):
        block_bound(torch.zeros(3, 2), k)
