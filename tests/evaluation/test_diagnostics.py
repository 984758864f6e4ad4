"""k-hat: the tail index of the weights, whoever drew them, and nothing in the process is changed by asking.

Beside it the effective sample size, the list of the worst data, and the draws in ArviZ's containers.
"""

import subprocess
import sys

import pyro
import pytest
import torch
from exact import ProbabilisticPCA, binary_data, small_vae, two_layers

import pyro_vae as pv
from pyro_vae.evaluation import psis_khat
from pyro_vae.evaluation.trust import arviz_adapter
from pyro_vae.evaluation.trust.diagnostics import (
    effective_sample_size,
    mixing,
    share_above,
    to_inference_data,
    worst_data,
)


def pareto(k, draws, columns, seed=0):
    """Logarithms of generalised Pareto draws by inversion: P(w > t) = (1 + k t)^(-1/k)."""
    noise = torch.Generator().manual_seed(seed)
    u = torch.rand(draws, columns, generator=noise, dtype=torch.float64)
    return (torch.expm1(-k * u.log()) / k).log()


@pytest.mark.parametrize("k", [-0.5, 0.1, 0.3, 0.5, 0.7, 0.9, 1.5])
def test_khat_is_the_tail_index_of_the_weights(k):
    """The mean over 200 data within 4 standard errors, beside the shrinkage that PSIS documents.

    Its prior adds ten tail points at k = 1/2 to the 3 sqrt(4000) = 190 of the data; the rest of the bias is O(1/190).
    """
    khat = psis_khat(pareto(k, 4000, 200))
    expected = (190 * k + 10 * 0.5) / 200
    assert abs(khat.mean() - expected) < 4 * khat.std() / 200**0.5 + 0.015


def test_heavy_tails_are_told_from_light_ones_datum_by_datum():
    """Estimates spread by 0.13 about 0.9 and by 0.09 about 0.2: 92 % and none lie above 0.7; 75 % is 4.4 errors off."""
    weights = torch.stack([pareto(0.9, 4000, 50, seed=1), pareto(0.2, 4000, 50, seed=2)], -1).flatten(1)
    too_heavy = psis_khat(weights).reshape(50, 2) > 0.7
    assert too_heavy[:, 0].double().mean() > 0.75
    assert not too_heavy[:, 1].any()


@pytest.mark.parametrize("ratio", [0.4, 0.6])
def test_a_guide_that_is_too_narrow_has_the_tail_index_of_theory(ratio):
    """w = p/q of N(0, 1) by N(0, r^2) has P(w > t) like t^(-1/k) / sqrt(log t), k = 1 - r^2.

    The square root makes finite draws look lighter, by less than 0.2. A wide guide, r > 1, has bounded weights: k < 0.
    """
    noise = torch.Generator().manual_seed(0)
    z = torch.randn(4000, 200, generator=noise, dtype=torch.float64)
    narrow = -0.5 * (ratio * z) ** 2 + 0.5 * z**2
    wide = -0.5 * (z / ratio) ** 2 + 0.5 * z**2
    assert -0.2 < psis_khat(narrow).mean() - (1 - ratio**2) < 0.02
    assert psis_khat(wide).mean() < 0


def test_neither_the_order_nor_the_constant_of_the_weights_matters():
    weights = pareto(0.5, 400, 6)
    khat = psis_khat(weights)
    assert torch.allclose(psis_khat(weights.flip(0)), khat, rtol=0, atol=1e-9)
    assert torch.allclose(psis_khat(weights - 1e4), khat, rtol=0, atol=1e-6)
    assert torch.allclose(psis_khat(weights[:, [3, 0]]), khat[[3, 0]], rtol=0, atol=0)


def test_equal_weights_have_no_tail_beside_others_that_have():
    weights = pareto(0.5, 400, 3)
    alone = psis_khat(weights)
    weights[:, 1] = -7.5
    khat = psis_khat(weights)
    assert khat[1] == -torch.inf
    assert torch.equal(khat[[0, 2]], alone[[0, 2]])


def test_weights_that_nearly_agree_have_a_tail():
    noise = torch.Generator().manual_seed(0)
    log_weights = 0.005 * torch.rand(1000, 3, generator=noise, dtype=torch.float64)
    assert pv.evaluation.psis_khat(log_weights).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_under_the_exact_posterior_rounding_is_no_tail(dtype):
    truth = ProbabilisticPCA()
    vae, x = truth.vae(), truth.data(40)
    weights = pv.evaluation.log_weights(vae, x, 400, seed=0).to(dtype)
    weights += torch.randn_like(weights) * torch.finfo(dtype).eps * 100
    assert (weights != weights[0]).any(0).all()
    assert (psis_khat(weights) == -torch.inf).all()


def test_too_few_draws_have_no_tail_to_fit():
    few, enough = psis_khat(torch.randn(24, 3)), psis_khat(torch.randn(25, 3))
    assert few.shape == enough.shape == (3,)
    assert few.isnan().all()
    assert not enough.isnan().any()


def test_single_precision_is_computed_in_double_and_the_input_is_left_alone():
    weights = pareto(0.5, 400, 6).float()
    before = weights.clone()
    khat = psis_khat(weights)
    assert khat.dtype == torch.float64
    assert torch.equal(khat, psis_khat(weights.double()))
    assert torch.equal(weights, before)


@pytest.mark.thorough
def test_asking_switches_neither_warnings_nor_validation_of_the_process():
    code = (
        "import warnings, numpy, torch, pyro, pyro_vae as pv\n"
        "import pyro.distributions as dist\n"
        "def state(): return list(warnings.filters), numpy.geterr(), torch.get_default_dtype(), pyro.settings.get()\n"
        "khat, before = pv.evaluation.psis_khat, state()\n"
        "khat(torch.randn(100, 3))\n"
        "assert state() == before\n"
        "try: dist.Bernoulli(torch.tensor(0.5)).log_prob(torch.tensor(2.0))\n"
        "except ValueError: print('still checked')\n"
    )
    ran = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert (ran.stderr, ran.stdout) == ("", "still checked\n")


class TestEffectiveSampleSize:
    def test_is_a_slow_loop(self):
        weights = torch.randn(50, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        for b, found in enumerate(effective_sample_size(weights)):
            w = weights[:, b].exp().tolist()
            assert found.item() == pytest.approx(sum(w) ** 2 / sum(v * v for v in w), rel=1e-12)

    def test_is_k_for_equal_weights_and_1_for_a_single_one(self):
        weights = torch.full((40, 3), -1234.5)
        weights[7, 1] = 0.0
        weights[:20, 2] = -torch.inf
        assert effective_sample_size(weights).tolist() == pytest.approx([40, 1, 20], rel=1e-9)

    def test_is_that_of_theory_for_a_wide_guide(self):
        """N(0, 1) by N(0, r^2): E[w]^2 / E[w^2] = sqrt(2 r^2 - 1) / r^2; the mean of 200 within 4 errors and 1 %."""
        r, noise = 2.0, torch.Generator().manual_seed(0)
        z = r * torch.randn(4000, 200, generator=noise, dtype=torch.float64)
        share = effective_sample_size(-0.5 * z**2 + 0.5 * (z / r) ** 2) / 4000
        assert abs(share.mean() - (2 * r**2 - 1) ** 0.5 / r**2) < 4 * share.std() / 200**0.5 + 0.01 * share.mean()


class TestMixing:
    def test_independent_draws_are_worth_their_number(self):
        found = mixing(chains(0.0, 200))
        assert (found.rhat - 1).abs().max() < 0.02
        assert found.ess_bulk.mean() == pytest.approx(2000, rel=0.05)
        assert found.error.mean() == pytest.approx(2000**-0.5, rel=0.05)

    @pytest.mark.parametrize("rho", [0.5, -0.4])
    def test_draws_that_depend_on_the_last_are_worth_what_theory_says(self, rho):
        """(1 - rho) / (1 + rho) of their number, for x' = rho x + sqrt(1 - rho^2) noise; the mean of 100 chains."""
        found = mixing(chains(rho, 100))
        size = 2000 * (1 - rho) / (1 + rho)
        assert found.ess_bulk.mean() == pytest.approx(size, rel=0.1)
        assert found.error.mean() == pytest.approx(size**-0.5, rel=0.1)

    def test_chains_apart_do_not_agree(self):
        """Two means 2 apart: the variance of all draws is 2 and within chains 1; rank-normalising changes little."""
        draws = chains(0.0, 3)
        draws[:2, :, 1] += 2.0
        rhat = mixing(draws).rhat
        assert rhat[1] == pytest.approx(2**0.5, rel=0.1)
        assert (rhat[[0, 2]] < 1.01).all()

    def test_each_number_is_that_of_arviz(self):
        draws = chains(0.6, 3)
        found = mixing(draws)
        with arviz_adapter.quiet_arviz() as arviz:
            for i in range(3):
                column = draws[..., i].numpy()
                assert found.rhat[i] == arviz.rhat(column)
                assert found.ess_bulk[i] == arviz.ess(column, method="bulk")
                assert found.ess_tail[i] == arviz.ess(column, method="tail", prob=(0.05, 0.95))
                assert found.error[i] == arviz.mcse(column, method="mean")

    def test_any_event_shape_and_precision(self):
        draws = chains(0.3, 6).reshape(4, 500, 2, 3)
        whole, single, number = mixing(draws), mixing(draws.float()), mixing(draws[..., 1, 2])
        assert whole.rhat.shape == (2, 3)
        assert whole.rhat.dtype == single.rhat.dtype == torch.float64
        for field in whole._fields:
            assert getattr(number, field) == getattr(whole, field)[1, 2]
            assert torch.allclose(getattr(single, field), getattr(whole, field), rtol=1e-3)

    def test_what_can_not_be_told_is_no_number(self):
        still = chains(0.0, 2)
        still[..., 1] = 3.0
        assert mixing(still).rhat.isnan().tolist() == [False, True]
        assert mixing(still[:1]).rhat.isnan().all()
        assert mixing(still[:, :3]).rhat.isnan().all()


def chains(rho, columns):
    """Four stationary autoregressive chains of 500 draws."""
    noise = torch.randn(4, 500, columns, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    draws = noise.clone()
    for i in range(1, 500):
        draws[:, i] = rho * draws[:, i - 1] + (1 - rho**2) ** 0.5 * noise[:, i]
    return draws


class TestWorstData:
    KHAT = torch.tensor([0.1, 0.9, torch.nan, 1.5, -torch.inf, 0.71, torch.inf])

    def test_are_those_above_the_threshold_the_largest_first(self):
        assert [found.datum for found in worst_data(self.KHAT)] == [6, 3, 1, 5]
        assert [found.datum for found in worst_data(self.KHAT, 2)] == [6, 3]
        assert [found.datum for found in worst_data(self.KHAT, threshold=-torch.inf)] == [6, 3, 1, 5, 0]
        assert worst_data(self.KHAT, threshold=0.8)[1].khat == 1.5
        assert worst_data(torch.zeros(3)) == []

    def test_the_share_above_counts_all_data_and_is_none_where_nothing_is_known(self):
        assert share_above(torch.tensor([0.7, 0.71, torch.inf, torch.nan, -torch.inf])) == 2 / 5
        assert share_above(torch.tensor([0.1, 0.6]), threshold=0.5) == 1 / 2
        assert share_above(torch.tensor([0.1, 0.2])) == 0
        assert share_above(torch.full((3,), torch.nan)) is None
        assert share_above(psis_khat(torch.zeros(20, 4))) is None
        assert share_above(torch.zeros(0)) is None

    def test_find_the_datum_that_the_guide_misses(self):
        truth = ProbabilisticPCA()
        x = truth.data(30)
        weights = pv.evaluation.log_weights(truth.vae(widen=1.3), x, 1000, seed=0)
        weights[:, 17] = pv.evaluation.log_weights(truth.vae(widen=0.3), x, 1000, seed=0)[:, 17]
        assert [found.datum for found in worst_data(psis_khat(weights))] == [17]


@pytest.fixture(scope="module")
def case():
    vae, x = small_vae(), binary_data(140)
    return vae, x, to_inference_data(vae, x, 40, seed=3)


class TestInferenceData:
    def test_groups_and_dimensions_are_named(self, case):
        _, _, found = case
        assert list(found) == ["posterior", "log_likelihood", "sample_stats", "observed_data"]
        assert found.posterior["z"].dims == ("chain", "draw", "data", "z_dim_0")
        assert found.posterior["z"].shape == (1, 40, 140, 3)
        assert found.sample_stats["log_weight"].dims == ("chain", "draw", "data")
        assert found.sample_stats["khat"].dims == found.sample_stats["ess"].dims == ("data",)
        assert found.log_likelihood["x"].dims == ("chain", "draw", "data")
        assert found.observed_data["x"].dims == ("data", "x_dim_0")
        assert found.posterior["draw"].values.tolist() == list(range(40))

    def test_it_says_that_this_is_no_mcmc(self, case):
        _, _, found = case
        for attrs in (found.attrs, found.posterior.attrs, found.sample_stats.attrs):
            assert "not MCMC" in attrs["sampling"]
            assert attrs["num_samples"] == 40

    def test_its_numbers_are_those_of_the_program(self, case):
        vae, x, found = case
        weights = pv.evaluation.log_weights(vae, x, 40, seed=3)
        z = torch.as_tensor(found.posterior["z"].values[0])
        likelihood = vae.likelihood(z).log_prob(x)
        joint = likelihood + vae.prior().log_prob(z) - vae.posterior(x).log_prob(z)
        assert torch.equal(torch.as_tensor(found.sample_stats["log_weight"].values[0]), weights)
        assert torch.allclose(joint, weights, rtol=0, atol=1e-10)
        assert torch.allclose(torch.as_tensor(found.log_likelihood["x"].values[0]), likelihood, rtol=0, atol=1e-10)
        assert torch.equal(torch.as_tensor(found.sample_stats["khat"].values), psis_khat(weights))
        assert torch.equal(torch.as_tensor(found.sample_stats["ess"].values), effective_sample_size(weights))
        assert torch.equal(torch.as_tensor(found.observed_data["x"].values), x)

    def test_it_comes_back_from_a_file(self, case, tmp_path):
        _, _, found = case
        found.to_netcdf(str(tmp_path / "draws.nc"))
        again = arviz_adapter.read_netcdf(tmp_path / "draws.nc")
        for group in found:
            assert again[group].equals(found[group])
            assert again[group].attrs["sampling"] == found.attrs["sampling"]
        again.close()

    def test_every_site_of_two_layers_has_its_draws(self):
        vae = two_layers()
        found = to_inference_data(vae, binary_data(5), 7, seed=0)
        assert {name: values.shape for name, values in found.posterior.items()} == {
            "z2": (1, 7, 5, 2),
            "z1": (1, 7, 5, 3),
        }

    def test_a_seeded_call_is_reproducible_and_changes_nothing(self):
        vae, x = small_vae().train(), binary_data(5)
        state = torch.get_rng_state()
        first, again = (to_inference_data(vae, x, 5, seed=0) for _ in range(2))
        assert torch.equal(torch.get_rng_state(), state)
        assert first.posterior.equals(again.posterior)
        assert vae.training
        assert not list(pyro.get_param_store())
        assert not to_inference_data(vae, x, 5).posterior.equals(to_inference_data(vae, x, 5).posterior)
