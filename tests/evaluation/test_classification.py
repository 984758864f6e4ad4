"""Bayes classification against the exact posterior over classes of a linear-Gaussian model of each class."""

import pyro.distributions as dist
import pytest
import torch
from exact import ProbabilisticPCA
from torch import nn

import pyro_vae as pv
from pyro_vae.evaluation import classify
from pyro_vae.randomness import stream

C = 3


class ConditionalProbabilisticPCA:
    """x | y, z ~ N(W z + b + m_y, s^2 I): every class is the linear-Gaussian model, moved by m_y."""

    def __init__(self, distance=1.0):
        self.base = ProbabilisticPCA()
        noise = torch.Generator().manual_seed(3)
        self.shifts = distance * torch.randn(C, self.base.data_dim, generator=noise, dtype=torch.float64)

    def log_likelihood(self, x):
        return torch.stack([self.base.evidence().log_prob(x - shift) for shift in self.shifts])

    def log_posterior(self, x, p):
        joint = self.log_likelihood(x).exp() * p[:, None]
        return (joint / joint.sum(0)).log()

    def data(self, size, p):
        with stream(5, "labels"):
            labels = torch.multinomial(p, size, replacement=True)
        return self.base.data(size) + self.shifts[labels], labels

    def vae(self, widen=(1.0,) * C):
        return pv.VAE(
            pv.priors.StandardNormal(self.base.latent_dim),
            _Posterior(self, widen),
            pv.likelihoods.Normal(_Decoder(self), scale=self.base.scale),
        ).double()


class _Decoder(nn.Module):
    def __init__(self, truth):
        super().__init__()
        self.affine, self.shifts = truth.base.vae().likelihood.decoder, truth.shifts

    def forward(self, z, y):
        return self.affine(z) + y @ self.shifts


class _Posterior(pv.posteriors.Posterior):
    """The exact posterior of each class, with its scale multiplied by widen[class]."""

    def __init__(self, truth, widen):
        super().__init__(nn.Identity(), truth.base.latent_dim)
        self.truth, self.widen = truth, torch.tensor(widen, dtype=torch.float64)

    def forward(self, x, y=None):
        exact = self.truth.base.posterior(x - y @ self.truth.shifts)
        factor = (y @ self.widen)[:, None, None]
        return dist.MultivariateNormal(exact.mean, exact.covariance_matrix * factor**2)


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
    with pytest.raises(ValueError, match="class_probabilities must be 0 or above and sum to 1; got"):
        classify(truth.vae(), truth.base.data(2), torch.tensor(p), 3)
