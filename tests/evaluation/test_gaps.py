"""Gaps against closed forms: every KL of the linear-Gaussian program is known, and so is each gap.

Fixed seeds; bounds are 4 errors (5 where a hundred comparisons are made), and what an optimiser leaves to fit.
"""

import json
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from exact import ProbabilisticPCA, binary_data, small_vae, two_layers
from torch import nn
from torch.distributions import kl_divergence

import pyro_vae as pv
from pyro_vae.evaluation import Estimate, gap_budget, iwae, refine, train_test_gap


class Wrong(pv.posteriors.Posterior):
    """A normal with diagonal covariance, beside an exact posterior that is not diagonal."""

    def __init__(self, truth):
        super().__init__(nn.Identity(), truth.latent_dim)
        self.truth = truth

    def forward(self, x, y=None):
        exact = self.truth.posterior(x)
        return dist.Normal(exact.mean - 0.4, 1.4 * exact.variance.sqrt()).to_event(1)


def exactly(truth, x):
    evidence = truth.evidence().log_prob(x)
    return Estimate("exact log p(x)", evidence, torch.zeros_like(evidence), 1)


@pytest.fixture(scope="module")
def case():
    truth = ProbabilisticPCA(seed=3)
    vae = pv.VAE(pv.priors.StandardNormal(2), Wrong(truth), truth.vae().likelihood).double()
    x = truth.data(100)
    return truth, vae, x, gap_budget(vae, x, exactly(truth, x), num_samples=1000, steps=300, seed=0)


def divergence(q, truth, x):
    """KL(q || p(z|x)) of the diagonal q, by the formula for two normals."""
    full = dist.MultivariateNormal(q.mean, torch.diag_embed(q.variance))
    return kl_divergence(full, truth.posterior(x))


class TestTruth:
    def test_each_gap_is_its_kl(self, case):
        """inference KL(q || p), approximation KL(q* || p), amortisation the rest; q* has 1 / variance = Lambda_jj."""
        truth, vae, x, found = case
        exact = truth.posterior(x)
        best = dist.Normal(exact.mean, torch.linalg.inv(truth.covariance).diagonal().rsqrt()).to_event(1)
        inference, approximation = divergence(vae.posterior(x), truth, x), divergence(best, truth, x)
        assert approximation.min() > 0.03
        assert (inference - approximation).min() > 0.3
        for gap, wanted in (
            (found.inference, inference),
            (found.approximation, approximation),
            (found.amortisation, inference - approximation),
        ):
            assert gap.value_error.max() < 0.08  # or the test could not fail
            assert ((gap.value - wanted).abs() < 5 * gap.value_error + 0.01).all()
            assert abs(gap.mean - wanted.mean()) < 4 * gap.monte_carlo_error + 0.005

    def test_parts_add_up_for_every_datum(self, case):
        _, _, _, found = case
        parts = found.approximation.value + found.amortisation.value
        assert torch.allclose(found.inference.value, parts, rtol=0, atol=1e-12)
        assert torch.equal(found.inference.value, found.reference.value - found.elbo.value)
        assert torch.equal(found.approximation.value, found.reference.value - found.refined.value)

    def test_the_monte_carlo_error_is_the_true_spread(self):
        """100 repeats of one datum, with a noisy reference: 4 errors of a standard deviation are 28 %."""
        truth = ProbabilisticPCA(seed=3)
        vae, x = truth.vae(widen=1.3), truth.data(1).expand(100, -1)
        noise = 0.1 * torch.randn(100, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        exact = exactly(truth, x).value
        reference = Estimate("noisy", exact + noise, torch.full_like(noise, 0.1), 7)
        gap = gap_budget(vae, x, reference, num_samples=30, seed=0).inference
        assert 0.72 < gap.value.std() / gap.value_error.square().mean().sqrt() < 1.28
        assert abs(gap.mean - divergence_of_widened(truth, 1.3)) < 4 * gap.monte_carlo_error

    def test_errors_of_both_sides_add_up_in_squares(self):
        truth = ProbabilisticPCA(seed=3)
        vae, x = truth.vae(widen=1.3), truth.data(20)
        exact = exactly(truth, x)
        error = gap_budget(vae, x, exact, num_samples=30, seed=0).inference.value_error
        noisy = gap_budget(vae, x, Estimate("noisy", exact.value, error, 7), num_samples=30, seed=0).inference
        assert error.min() > 0
        assert torch.allclose(noisy.value_error, math.sqrt(2) * error)

    def test_errors_over_the_data_are_paired(self, case):
        """The gap is nearly the same for every datum, whose log p(x) differ by nats."""
        _, _, _, found = case
        assert found.inference.standard_error < found.reference.standard_error / 20
        assert found.inference.standard_error == pytest.approx(found.inference.value.std().item() / 10)


def divergence_of_widened(truth, widen):
    return truth.latent_dim * ((widen**2 - 1) / 2 - math.log(widen))


class TestOtherGuides:
    def test_only_the_inference_gap(self):
        truth = ProbabilisticPCA(seed=3)
        vae, x = truth.vae(widen=1.3), truth.data(50)
        found = gap_budget(vae, x, exactly(truth, x), num_samples=2000, seed=0)
        assert found.refined is found.approximation is found.amortisation is None
        assert abs(found.inference.mean - divergence_of_widened(truth, 1.3)) < 4 * found.inference.monte_carlo_error
        numbers = json.loads(json.dumps(found.to_dict(), allow_nan=False))
        assert numbers["approximation"] is numbers["amortisation"] is None
        assert numbers["inference"]["mean"] == found.inference.mean
        assert len(str(found).splitlines()) == 2

    def test_two_latent_sites(self):
        vae = two_layers()
        x = binary_data(8)
        found = gap_budget(vae, x, iwae(vae, x, 2000, seed=0), num_samples=500, seed=0)
        assert found.amortisation is None
        assert found.inference.mean > 4 * found.inference.monte_carlo_error

    def test_a_point_is_refused(self):
        posterior = pv.posteriors.Delta(pv.networks.MLP((6,), (3,), (8,)), 3)
        vae = pv.VAE(pv.priors.StandardNormal(3), posterior, small_vae().likelihood).double()
        reference = Estimate("nothing", torch.zeros(2), torch.zeros(2), 1)
        with pytest.raises(ValueError, match=r"a point \(Delta\) and has no density"):
            gap_budget(vae, binary_data(2), reference, seed=0)


def test_the_report_names_the_reference(case):
    truth, vae, x, found = case
    numbers = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert (numbers["num_data"], numbers["reference"]) == (100, "exact log p(x), K = 1")
    for name in ("inference", "approximation", "amortisation"):
        assert numbers[name]["mean"] == getattr(found, name).mean
        assert numbers[name]["standard_error"] == getattr(found, name).standard_error
    lines = str(found).splitlines()
    assert lines[0] == "gaps to exact log p(x), K = 1"
    assert [line[:17].strip() for line in lines[1:]] == ["inference gap", "approximation gap", "amortisation gap"]
    named = gap_budget(vae, x[:2], exactly(truth, x[:2]), label="the formula", steps=1, seed=0)
    assert named.to_dict()["reference"] == "the formula"


@pytest.mark.thorough
def test_a_reference_below_the_elbo_is_called_loose(case):
    truth, vae, x, found = case
    assert not found.loose
    assert found.to_dict()["loose"] is False
    exact = exactly(truth, x[:20])
    for low, steps in ((1.3, 300), (2.5, 1)):  # below the refined ELBO alone, and below both
        reference = Estimate("low", exact.value - low, exact.value_error, 1)
        short = gap_budget(vae, x[:20], reference, num_samples=400, steps=steps, seed=0)
        assert short.loose
        assert short.to_dict()["loose"] is True
        assert str(short).splitlines()[-1].startswith("The reference lies below an ELBO and is too loose")


def test_it_is_reproducible_changes_nothing_and_shares_no_noise_with_estimates_of_its_seed():
    vae, x = small_vae().train(), binary_data(5)
    reference = iwae(vae, x, 100, seed=4)
    before = {name: value.clone() for name, value in vae.state_dict().items()}
    state = torch.get_rng_state()
    first = gap_budget(vae, x, reference, steps=5, seed=4)
    assert torch.equal(torch.get_rng_state(), state)
    torch.randn(3)
    again, other = (gap_budget(vae, x, reference, steps=5, seed=seed) for seed in (4, 5))
    assert torch.equal(first.inference.value, again.inference.value)
    assert torch.equal(first.amortisation.value, again.amortisation.value)
    assert not torch.equal(first.inference.value, other.inference.value)
    assert not torch.equal(first.elbo.value, refine(vae, x, steps=5, seed=4).elbo.value)
    unseeded = [gap_budget(vae, x, reference, steps=5).inference.value for _ in range(2)]
    assert not torch.equal(*unseeded)
    assert all(torch.equal(value, before[name]) for name, value in vae.state_dict().items())
    assert vae.training
    assert all(p.grad is None and p.requires_grad for p in vae.parameters())
    assert not list(pyro.get_param_store())


def test_a_reference_for_other_data_is_refused():
    reference = Estimate("log p(x)", torch.zeros(3), torch.zeros(3), 5)
    with pytest.raises(ValueError, match="use the same data; it has 3 data, and x has 2"):
        gap_budget(small_vae(), binary_data(2), reference)


class TestTrainTest:
    def test_it_is_the_difference_of_means_with_both_errors(self):
        """Means that differ by 0.7 by construction: 400 sets, whose spread is the standard error, within 4 errors."""
        noise = torch.Generator().manual_seed(0)
        found = []
        for _ in range(400):
            train, test = (
                Estimate("ELBO", m + torch.randn(n, generator=noise), torch.zeros(n), 9)
                for m, n in ((0.7, 40), (0.0, 10))
            )
            found.append(train_test_gap(train, test))
        gaps = torch.tensor([gap.mean for gap in found])
        errors = torch.tensor([gap.standard_error for gap in found])
        assert abs(gaps.mean() - 0.7) < 4 * gaps.std() / 20
        assert gaps.std() == pytest.approx(errors.square().mean().sqrt().item(), rel=0.15)

    def test_of_an_exact_program_it_is_the_difference_of_evidences(self):
        truth = ProbabilisticPCA()
        vae, unseen = truth.vae(widen=1.2), truth.data(50, seed=2)
        seen = truth.b + 0.5 * (truth.data(30, seed=1) - truth.b)  # more typical than they should be
        train, test = iwae(vae, seen, 2000, seed=0), iwae(vae, unseen, 2000, seed=1)
        found = train_test_gap(train, test)
        exact = truth.evidence().log_prob(seen).mean() - truth.evidence().log_prob(unseen).mean()
        assert abs(exact) > 20 * found.monte_carlo_error
        assert abs(found.mean - exact) < 4 * found.monte_carlo_error

    def test_report(self):
        train = Estimate("ELBO", torch.tensor([-1.0, -3.0]), torch.tensor([0.3, 0.4]), 100)
        test = Estimate("ELBO", torch.tensor([-5.0]), torch.tensor([0.1]), 100)
        numbers = json.loads(json.dumps(train_test_gap(train, test).to_dict(), allow_nan=False))
        assert numbers["mean"] == 3.0
        assert numbers["standard_error"] is None  # of a single datum
        assert numbers["monte_carlo_error"] == pytest.approx(math.hypot(0.25, 0.1))
        assert numbers["train"] == train.to_dict()
        assert numbers["test"] == test.to_dict()

    @pytest.mark.parametrize("other", [("IWAE", 100), ("ELBO", 99)])
    def test_bounds_of_unequal_tightness_are_refused(self, other):
        train = Estimate("ELBO", torch.zeros(2), torch.zeros(2), 100)
        with pytest.raises(ValueError, match=f"got ELBO, K = 100, in nats and {other[0]}, K = {other[1]}, in nats"):
            train_test_gap(train, Estimate(other[0], torch.zeros(2), torch.zeros(2), other[1]))
