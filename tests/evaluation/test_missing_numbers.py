"""Estimates of log p(x_obs), and imputations, where x has gaps: against the closed form of probabilistic PCA."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from cases import needs_compiler, thorough
from exact import ProbabilisticPCA, small_vae, two_layers

import pyro_vae as pv
from pyro_vae import evaluation
from pyro_vae.data import Split, Splits
from pyro_vae.experiment.evaluate import block_tasks
from pyro_vae.inference import MeanFieldELBO, fit
from pyro_vae.inference.fitting import Schedule

TRUTH = ProbabilisticPCA(data_dim=8)
X = TRUTH.gappy(6)
WRONG = {"widen": 1.4, "shift": 0.3}


def off(estimate, truth):
    """The largest distance in Monte Carlo errors."""
    return ((estimate.value - truth).abs() / estimate.value_error).max()


def test_log_weights_of_the_exact_posterior_are_log_p_of_the_observed_numbers():
    for K in (1, 7):
        weights = evaluation.log_weights(TRUTH.vae(missing=True), X, K, seed=0)
        torch.testing.assert_close(weights, TRUTH.log_evidence(X).expand(K, -1), rtol=0, atol=1e-10)
    assert TRUTH.log_evidence(X)[1] == 0


def test_a_wrong_posterior_given_the_mask_has_no_constant_weights():
    assert evaluation.log_weights(TRUTH.vae(**WRONG, missing=True), X, 50, seed=0).std(0).min() > 0.01


@pytest.mark.thorough
def test_estimates_agree_with_the_closed_form():
    vae, truth = TRUTH.vae(**WRONG, missing=True), TRUTH.log_evidence(X)
    assert off(evaluation.iwae(vae, X, 10_000, seed=0), truth) < 4
    assert off(evaluation.ais(vae, X, 20, 64, seed=0), truth) < 4
    torch.testing.assert_close(evaluation.quadrature(vae, X).value, truth, rtol=0, atol=1e-4)


def test_every_estimator_takes_gaps():
    vae = TRUTH.vae(**WRONG, missing=True)
    truth, x = TRUTH.log_evidence(X), X[2:]
    curve = evaluation.iwae_curve(vae, X, 2000, seed=0)
    assert off(curve.bounds[2000], truth) < 4
    assert (evaluation.elbo(vae, X, 100, seed=0).value <= truth + 0.1).all()
    assert evaluation.identity(vae, x[:2]).residual.abs().max() < 1e-3
    evaluation.posterior_on_grid(vae, x[:1])
    weights = evaluation.log_weights(vae, X, 100, seed=0)
    assert evaluation.psis_khat(weights).shape == (6,)
    assert evaluation.active_units(vae, x, seed=0) is not None
    assert evaluation.kl_per_dimension(vae, x, 20, seed=0) is not None
    assert evaluation.aggregate_terms(vae, x, seed=0) is not None
    data = evaluation.to_inference_data(vae, X, 30, seed=0)
    np.testing.assert_array_equal(data.observed_data["x"].values, X.numpy())


@needs_compiler
@pytest.mark.thorough
def test_compiled_draws_are_those_of_pyro():
    vae = TRUTH.vae(**WRONG, missing=True)
    by_pyro = evaluation.iwae(vae, X, 300, seed=0).value
    with evaluation.compiled():
        torch.testing.assert_close(evaluation.iwae(vae, X, 300, seed=0).value, by_pyro)


@pytest.mark.thorough
def test_hard_data_with_gaps_are_escalated():
    vae, few = TRUTH.vae(**WRONG, missing=True), {"num_samples": 100, "num_temperatures": 20, "num_chains": 8}
    found = evaluation.escalate(vae, X, threshold=-math.inf, budget=100_000, seed=0, **few)
    truth = TRUTH.log_evidence(X)
    assert len(found.rows) == 6
    for row in found.rows:
        assert abs(row.answer.value - truth[row.datum]) < max(4 * row.answer.error, 0.1)


def test_a_guide_is_refined_given_the_observed_numbers():
    truth = ProbabilisticPCA(latent_dim=1)
    x, program = (
        truth.gappy(4),
        pv.VAE(
            pv.priors.StandardNormal(1),
            pv.posteriors.DiagonalNormal(pv.networks.WithMask(pv.networks.MLP((10,), (2,), (8,))), 1),
            truth.vae().likelihood,
            missing=True,
        ).double(),
    )
    refined = evaluation.refine(program, x, steps=300, num_samples=100, seed=0).refined.value
    torch.testing.assert_close(refined, truth.log_evidence(x), rtol=0, atol=0.02)  # q* is exact in one dimension


@pytest.mark.thorough
def test_nuts_finds_the_posterior_given_the_observed_numbers():
    x = X[3:4]
    drawn = evaluation.nuts(TRUTH.vae(missing=True), x, num_draws=300, num_chains=2, seed=0)
    off_mean = (drawn.draws["z"].mean((0, 1)) - TRUTH.posterior_of_observed(x).mean[0]).abs()
    assert (off_mean < 4 * drawn.mixing["z"].error).all()
    assert torch.equal(drawn.observed["x"].isnan(), x[0].isnan())


@pytest.mark.thorough
def test_simulated_data_take_the_gaps_that_they_are_given():
    mask = ~X.isnan()
    bounds = evaluation.bdmc(TRUTH.vae(**WRONG, missing=True), 6, 20, 16, seed=0, mask=mask)
    assert torch.equal(bounds.x.isnan(), ~mask)
    truth = TRUTH.log_evidence(bounds.x)
    assert off(bounds.forward, truth) < 4
    assert (bounds.reverse.value - truth).mean() > -4 * bounds.reverse.monte_carlo_error
    assert abs(bounds.gap) < 0.1


def test_a_mask_of_another_shape_is_refused():
    with pytest.raises(ValueError, match="mask"):
        evaluation.bdmc(TRUTH.vae(missing=True), 3, 2, 2, mask=torch.ones(3, 4, dtype=torch.bool))


def test_simulated_data_of_a_report_copy_the_gaps_of_the_annealed_test_data():
    pieces = []

    def read(wanted):
        pieces.extend(wanted)
        return [(X[index], None) for index in wanted]

    vae = SimpleNamespace(missing=True)
    subject = SimpleNamespace(
        trained=SimpleNamespace(vae=vae), test=SimpleNamespace(pieces=read), chosen=torch.tensor([1, 2, 4])
    )
    block = block_tasks.Block(1, torch.tensor([1, 2]), torch.empty(0), None)  # some of those that are annealed
    assert torch.equal(block_tasks._copied_mask(subject, block), ~X[[2, 4]].isnan())
    assert pieces[0].tolist() == [2, 4]
    vae.missing = False
    assert block_tasks._copied_mask(subject, block) is None


@pytest.mark.thorough
def test_a_fit_to_data_with_gaps_comes_near_their_evidence():
    truth = ProbabilisticPCA(data_dim=8)
    x = truth.gappy(700).float()
    encoder = pv.networks.WithMask(pv.networks.MLP((16,), (4,), hidden=(32,)))
    vae = pv.VAE(
        pv.priors.StandardNormal(2),
        pv.posteriors.DiagonalNormal(encoder, 2),
        pv.likelihoods.Normal(pv.networks.MLP((2,), (8,), hidden=()), scale=0.7),
        missing=True,
    )
    parts = zip(("train", "valid", "test"), x.split([500, 100, 100]), strict=True)
    data = Splits(*(Split.make(name, rows, None, None, "none", 0) for name, rows in parts), (8,), 0, {})
    vae.start_at(data.train.expected(), data.train.fixed())
    svi = pv.inference.SVI(vae.model, vae.guide, torch.optim.Adam(vae.parameters(), lr=1e-2), MeanFieldELBO())
    list(fit(vae, svi, data, Schedule(epochs=60, batch_size=50, lr_schedule="cosine"), seed=0))
    test = data.test.fixed()
    lost = truth.log_evidence(test.double()) - evaluation.iwae(vae, test, 500, seed=0).value
    assert lost.mean() < 0.3
    assert lost.mean() > -4 * lost.std() / 10


# Imputations


def test_the_data_have_gaps_of_many_kinds():
    assert X.isnan().sum(1).tolist() == [0, 8, 3, 2, 4, 3]


def moments(vae, truth, row, seed=0, M=4000):
    found = evaluation.impute(vae, row[None].expand(2, -1), M, num_samples=4000, seed=seed)
    return found.draws[:, 0, row.isnan()]


@pytest.mark.parametrize("datum", [*thorough(3), 4])
def test_imputations_have_the_mean_and_covariance_of_the_closed_form(datum):
    row = X[datum]
    mean, covariance = TRUTH.missing_given_observed(row)
    draws = moments(TRUTH.vae(missing=True), TRUTH, row)
    n, d = draws.shape
    assert ((draws.mean(0) - mean).abs() < 4 * (covariance.diagonal() / n).sqrt()).all()
    spread = (covariance.diagonal()[:, None] * covariance.diagonal() + covariance.square()) / n
    assert ((draws.T.cov().reshape(d, d) - covariance).abs() < 4 * spread.sqrt()).all()


def test_the_expected_value_has_less_noise_than_the_mean_of_the_draws():
    row = X[3]
    found = evaluation.impute(TRUTH.vae(missing=True), row.expand(100, -1), 20, num_samples=50, seed=0)
    mean, _ = TRUTH.missing_given_observed(row)
    gaps = row.isnan()
    errors = [(each[:, gaps] - mean).square().mean().item() for each in (found.mean, found.draws.mean(0))]
    assert errors[0] < 0.9 * errors[1]
    assert ((found.mean[:, gaps].mean(0) - mean).abs() < 4 * found.mean[:, gaps].std(0) / 10).all()


def test_weights_mend_a_wrong_guide():
    row = X[3]
    mean, covariance = TRUTH.missing_given_observed(row)
    by_weights = moments(TRUTH.vae(**WRONG, missing=True), TRUTH, row)
    # The weights cost some of the draws: an effective half.
    assert ((by_weights.mean(0) - mean).abs() < 4 * (2 * covariance.diagonal() / len(by_weights)).sqrt()).all()


def test_observed_numbers_stay_and_all_others_are_drawn():
    found = evaluation.impute(TRUTH.vae(missing=True), X, 3, num_samples=50, seed=0)
    seen = ~X.isnan()
    assert torch.equal(found.draws[:, seen], X[seen].expand(3, -1))
    assert found.draws.isfinite().all()
    assert found.draws.shape == (3, *X.shape)
    assert (found.draws[0] != found.draws[1])[~seen].all()
    assert (found.khat.shape, found.num_samples) == ((6,), 50)
    assert torch.equal(found.mean[seen], X[seen])
    assert (
        str(found)
        == "imputation           41.7% of the numbers of 6 data, 3 times   k-hat above 0.7 for 0% of the data (K = 50)"
    )
    assert "no k-hat, which needs 25 draws or more (K = 9)" in str(
        evaluation.impute(TRUTH.vae(missing=True), X, 3, num_samples=9)
    )


def test_imputations_are_keyed_by_the_block_of_data():
    vae, x = TRUTH.vae(**WRONG, missing=True), TRUTH.gappy(300)
    whole = evaluation.impute(vae, x, 4, num_samples=40, seed=3)
    later = evaluation.impute(vae, x[128:], 4, num_samples=40, seed=3, first_block=1)
    assert torch.equal(whole.draws[:, 128:], later.draws)
    assert not torch.equal(whole.draws, evaluation.impute(vae, x, 4, num_samples=40, seed=4).draws)
    before = torch.get_rng_state()
    evaluation.impute(vae, x[:2], 4, num_samples=40, seed=3)
    assert torch.equal(before, torch.get_rng_state())


def test_a_program_without_missing_is_refused():
    with pytest.raises(ValueError, match="missing=True"):
        evaluation.impute(TRUTH.vae(), X[:1], 2)


def test_two_layers_are_imputed():
    vae = two_layers()
    vae = pv.HierarchicalVAE(
        vae.prior,
        vae.middle,
        vae.likelihood,
        pv.posteriors.DiagonalNormal(pv.networks.WithMask(pv.networks.MLP((12,), (6,), y_dim=2)), 3),
        pv.posteriors.DiagonalNormal(pv.networks.WithMask(pv.networks.MLP((12,), (4,))), 2),
        missing=True,
    ).double()
    x = torch.tensor([[1.0, 0.0, math.nan, math.nan, 1.0, 0.0]], dtype=torch.float64)
    found = evaluation.impute(vae, x, 200, num_samples=100, seed=0)
    assert set(found.draws[:, 0, 2:4].unique().tolist()) == {0.0, 1.0}
    assert evaluation.iwae(vae, x, 50, seed=0).value.isfinite().all()


def test_an_imputation_by_a_low_rank_normal_is_conditional():
    vae = small_vae(likelihood=pv.likelihoods.LowRankNormal, x_shape=(3,), scale=0.3)
    vae.missing = True
    vae.posterior.encoder = pv.networks.WithMask(pv.networks.MLP((6,), (6,), hidden=(4,))).double()
    with torch.no_grad():
        vae.likelihood.decoder.head.weight.zero_()  # z does not matter, so that all is in W
        vae.likelihood.decoder.output_bias.copy_(
            torch.tensor([[0.0] * 3, [-1.0] * 3, [1.0, 2.0, -1.0], [0.5, 0.0, 1.0]])
        )
    whole = vae.likelihood(torch.zeros(1, 3, dtype=torch.float64))
    S = whole.covariance_matrix[0].detach()
    x = torch.tensor([[1.5, math.nan, math.nan]], dtype=torch.float64)
    draws = evaluation.impute(vae, x, 4000, num_samples=50, seed=0).draws[:, 0, 1:]
    mean, covariance = S[1:, 0] / S[0, 0] * 1.5, S[1:, 1:] - torch.outer(S[1:, 0], S[0, 1:]) / S[0, 0]
    assert ((draws.mean(0) - mean).abs() < 4 * (covariance.diagonal() / 4000).sqrt()).all()
    spread = (covariance.diagonal()[:, None] * covariance.diagonal() + covariance.square()) / 4000
    assert ((draws.T.cov() - covariance).abs() < 4 * spread.sqrt()).all()
    expected = evaluation.impute(vae, x, 3, num_samples=50, seed=0).mean[0, 1:]
    torch.testing.assert_close(expected, mean)  # whatever was drawn, for z does not matter
