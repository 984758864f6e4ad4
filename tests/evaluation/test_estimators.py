"""Estimates, and whether their claimed errors are the true ones."""

import math

import pytest
import torch
from exact import MixturePrior, ProbabilisticPCA, binary_data, small_vae

import pyro_vae as pv
from pyro_vae.evaluation import Estimate


@pytest.fixture(scope="module")
def case():
    truth = ProbabilisticPCA()
    return truth, truth.vae(widen=1.3, shift=0.3), truth.data(60)


def test_streamed_estimates_equal_those_of_all_weights_at_once(case):
    _, vae, x = case
    weights = pv.evaluation.log_weights(vae, x, 100, seed=0)
    iwae = pv.evaluation.iwae(vae, x, 100, seed=0)
    assert torch.allclose(iwae.value, torch.logsumexp(weights, 0) - math.log(100), rtol=0, atol=1e-10)
    w = weights.exp()
    relative = w.std(0) / (10 * w.mean(0))
    assert torch.allclose(iwae.value_error, relative, rtol=1e-8)


def test_sampled_elbo_is_the_mean_log_weight_with_its_standard_error():
    vae, x = small_vae(prior=MixturePrior(3)), binary_data(20)
    weights = pv.evaluation.log_weights(vae, x, 100, seed=0)
    elbo = pv.evaluation.elbo(vae, x, 100, seed=0)
    assert elbo.kind == {"z": "sampled"}
    assert torch.allclose(elbo.value, weights.mean(0), rtol=0, atol=1e-10)
    assert torch.allclose(elbo.value_error, weights.std(0) / 10, rtol=1e-8)


def test_elbo_is_reconstruction_minus_kl_datum_by_datum(case):
    _, vae, x = case
    for terms in (pv.evaluation.elbo_terms(vae, x, 9, seed=0), pv.evaluation.elbo_terms(vae, x, 9)):
        assert torch.allclose(terms.elbo.value, terms.reconstruction.value - terms.kl.value, rtol=0, atol=1e-10)


def test_elbo_is_the_exact_one(case):
    """ELBO = log p(x) - KL(q || p(z|x)), both in closed form; per datum within 5 standard errors (60 data, 3e-5)."""
    truth, vae, x = case
    gap = torch.distributions.kl_divergence(vae.posterior(x), truth.posterior(x))
    exact = truth.evidence().log_prob(x) - gap
    estimate = pv.evaluation.elbo(vae, x, 4000, seed=0)
    assert ((estimate.value - exact).abs() < 5 * estimate.value_error).all()


def test_importance_sampling_finds_the_evidence(case):
    truth, vae, x = case
    estimate = pv.evaluation.iwae(vae, x, 20_000, seed=0)
    exact = truth.evidence().log_prob(x)
    assert ((estimate.value - exact).abs() < 5 * estimate.value_error).all()
    assert abs(estimate.mean - exact.mean()) < 4 * estimate.monte_carlo_error
    assert estimate.mean < 0


@pytest.mark.parametrize("estimate", [pv.evaluation.elbo, pv.evaluation.iwae])
def test_the_claimed_monte_carlo_error_is_the_true_spread(estimate, case):
    """200 repeats: the spread of a standard deviation is 5 %, so 20 % is 4 standard errors."""
    _, vae, x = case
    found = estimate(vae, x[:20].repeat(200, 1), 64, seed=0)  # different data never share noise
    spread = found.value.reshape(200, 20).mean(1).std()
    claimed = found.monte_carlo_error * math.sqrt(200)
    assert 0.8 < spread / claimed < 1.25


@pytest.mark.thorough
def test_the_standard_error_over_the_data_is_the_true_spread(case):
    """The mean over 60 data varies over data sets as claimed: 200 sets, exact weights, no Monte Carlo noise."""
    truth = ProbabilisticPCA()
    runs = [pv.evaluation.iwae(truth.vae(), truth.data(60, seed=s), 1, seed=0) for s in range(200)]
    spread = torch.tensor([run.mean for run in runs]).std()
    claimed = torch.tensor([run.standard_error for run in runs]).square().mean().sqrt()
    assert 0.8 < spread / claimed < 1.25


def test_a_single_draw_does_not_know_its_error(case):
    _, vae, x = case
    for estimate in (pv.evaluation.elbo(vae, x, 1, seed=0), pv.evaluation.iwae(vae, x, 1, seed=0)):
        assert math.isnan(estimate.monte_carlo_error)
        assert estimate.to_dict()["monte_carlo_error"] is None
        assert str(estimate).endswith("n/a Monte Carlo (K = 1)")
    assert "   n/a over 1 data   ±" in str(pv.evaluation.elbo(vae, x[:1], 2, seed=0))


def test_weights_of_minus_ten_thousand_nats_keep_their_digits():
    truth = ProbabilisticPCA(scale=0.7)
    x = truth.data(3) + 200.0
    exact = truth.evidence().log_prob(x)
    assert exact.max() < -10_000
    estimate = pv.evaluation.iwae(truth.vae(), x, 40, seed=0)
    assert torch.allclose(estimate.value, exact, rtol=1e-11)
    assert estimate.monte_carlo_error < 1e-4


def test_k_is_exact_and_blocks_do_not_matter(case):
    _, vae, x = case
    for K in (1, 31, 32, 33, 65):
        assert pv.evaluation.iwae(vae, x, K, seed=0).num_samples == K
        assert pv.evaluation.log_weights(vae, x, K, seed=0).shape[0] == K
        assert pv.evaluation.elbo(vae, x, K, seed=0).num_samples == K


def test_an_uneven_last_block_weighs_by_its_size():
    truth = ProbabilisticPCA()
    x = truth.data(130)  # a block of 128 and one of 2
    estimate = pv.evaluation.iwae(truth.vae(), x, 3, seed=0)
    assert estimate.mean == pytest.approx(truth.evidence().log_prob(x).mean().item(), abs=1e-9)


def test_an_estimate_prints_one_line_that_names_both_errors():
    line = str(Estimate("ELBO", torch.tensor([-1.0, -3.0]), torch.tensor([0.3, 0.4]), num_samples=7))
    assert " ".join(line.split()) == "ELBO -2.000 nats ±1.000 over 2 data ±0.250 Monte Carlo (K = 7)"
    assert "\n" not in line


def test_a_subset_is_random_seeded_and_without_repeats():
    chosen = pv.evaluation.subset(10_000, 500, seed=0)
    assert torch.equal(chosen, pv.evaluation.subset(10_000, 500, seed=0))
    assert not torch.equal(chosen, pv.evaluation.subset(10_000, 500, seed=1))
    assert len(chosen.unique()) == 500
    # Uniform over positions: the mean position is 5,000 within 5 standard errors of 2,887 / sqrt(500).
    assert abs(chosen.double().mean() - 5000) < 5 * 2887 / 500**0.5


# A guide that is a point: the plain autoencoder.


@pytest.fixture
def autoencoder():
    encoder = pv.networks.MLP((6,), (3,), (8,))
    decoder = pv.networks.MLP((3,), (6,), (8,))
    return pv.VAE(
        pv.priors.StandardNormal(3), pv.posteriors.Delta(encoder, 3), pv.likelihoods.Bernoulli(decoder)
    ).double()


@pytest.mark.parametrize("estimate", [pv.evaluation.iwae, pv.evaluation.log_weights])
def test_there_is_no_evidence_of_an_autoencoder(autoencoder, estimate):
    with pytest.raises(ValueError, match=r"site z is a point \(Delta\) and has no density: .* no log p\(x\)"):
        estimate(autoencoder, binary_data(4), 5, seed=0)


def test_there_are_no_classes_of_an_autoencoder():
    encoder, decoder = pv.networks.MLP((6,), (3,), y_dim=2), pv.networks.MLP((3,), (6,), y_dim=2)
    vae = pv.VAE(pv.priors.StandardNormal(3), pv.posteriors.Delta(encoder, 3), pv.likelihoods.Bernoulli(decoder))
    with pytest.raises(ValueError, match="no log p"):
        pv.evaluation.classify(vae, binary_data(4).float(), torch.tensor([0.5, 0.5]), 5, seed=0)


def test_the_terms_of_an_autoencoder_are_its_reconstruction_and_two_infinities(autoencoder):
    x = binary_data(130)
    terms = pv.evaluation.elbo_terms(autoencoder, x, 3, seed=0)
    with torch.no_grad():
        slow = [autoencoder.likelihood(autoencoder.posterior.encoder(v[None])).log_prob(v).item() for v in x]
    assert terms.reconstruction.value.tolist() == pytest.approx(slow, abs=1e-12)
    assert terms.reconstruction.value_error.max() < 1e-12
    assert (terms.elbo.mean, terms.kl.mean) == (-math.inf, math.inf)
    assert {estimate.kind["z"] for estimate in terms} == {"infinite"}
    assert (terms.elbo.name, terms.kl.name) == ("ELBO", "KL")


@pytest.mark.thorough
@pytest.mark.parametrize(("narrowed", "share"), [(0.3, 0.8), (1.3, 1.2)])
def test_the_error_of_iwae_is_too_small_where_k_hat_says_so(narrowed, share):
    """30 runs of 100 data; under a guide as wide as the posterior or wider it is the spread, and k-hat is low."""
    truth = ProbabilisticPCA()
    vae, x = truth.vae(widen=narrowed), truth.data(100)
    runs = [pv.evaluation.iwae(vae, x, 500, seed=seed) for seed in range(30)]
    spread = torch.stack([run.value for run in runs]).var(0).mean().sqrt()
    stated = torch.stack([run.value_error for run in runs]).square().mean().sqrt()
    heavy = (pv.evaluation.psis_khat(pv.evaluation.log_weights(vae, x, 500, seed=0)) > 0.7).double().mean()
    assert (heavy > 0.5) == (narrowed < 1)
    assert (0.3 if narrowed < 1 else 0.8) < stated / spread < share
    assert max(run.value_error.max() for run in runs) <= 1
