"""The formulas of the theory, each against a truth of its own: rows R4 to R8, R14, R18 and R19.

Where teaching material prints a wrong formula, the test fails for it and holds for the right one.
"""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import scipy.integrate
import scipy.stats
import torch
from exact import ProbabilisticPCA, binary_data, small_vae
from pyro import poutine
from pyro.infer import TraceEnum_ELBO, config_enumerate
from torch.distributions import kl_divergence

import pyro_vae as pv
from pyro_vae.inference import MeanFieldELBO, Trace_ELBO


def kl_to_standard_normal(mu, sigma):
    """KL(N(mu, diag sigma^2) || N(0, I)) = 1/2 sum(mu^2 + sigma^2 - 1 - log sigma^2), written by hand."""
    return 0.5 * (mu**2 + sigma**2 - 1 - (sigma**2).log()).sum(-1)


class TestKL:  # R4, R5
    def test_closed_form_equals_quadrature(self):
        for mu, sigma in [(0.0, 1.0), (1.5, 0.3), (-2.0, 2.5), (0.1, 1e-2)]:
            q = scipy.stats.norm(mu, sigma)
            integral, _ = scipy.integrate.quad(
                lambda z, q=q: q.pdf(z) * (q.logpdf(z) - scipy.stats.norm.logpdf(z)),
                mu - 12 * sigma, mu + 12 * sigma, epsabs=1e-12, limit=200,
            )  # fmt: skip
            closed = kl_to_standard_normal(*torch.tensor([[mu], [sigma]], dtype=torch.float64).unsqueeze(-1))
            assert closed.item() == pytest.approx(integral, abs=1e-9)

    def test_is_zero_only_at_equality_and_positive_elsewhere(self):
        zero, one = torch.zeros(3).double(), torch.ones(3).double()
        assert kl_to_standard_normal(zero, one) == 0
        for mu, sigma in [(zero + 0.1, one), (zero, one * 1.1), (zero, one * 0.9)]:
            assert kl_to_standard_normal(mu, sigma) > 0

    def test_is_not_symmetric(self):
        a, b = dist.Normal(0.0, 1.0), dist.Normal(0.0, 2.0)
        assert abs(kl_divergence(a, b) - kl_divergence(b, a)) > 0.1

    def test_mean_field_elbo_uses_it(self):
        """The loss under "only KL" is the hand-written closed form, to 1e-9."""
        vae, x = small_vae(), binary_data(32)
        q = vae.posterior(x).base_dist
        model, guide = pv.inference.weighted(vae.model, vae.guide, reconstruction=0.0)
        loss = MeanFieldELBO().loss(model, guide, x)
        assert loss == pytest.approx(kl_to_standard_normal(q.loc, q.scale).sum().item(), abs=1e-9)

    def test_the_estimate_reports_it(self):
        vae, x = small_vae(), binary_data(32)
        q = vae.posterior(x).base_dist
        kl = pv.evaluation.elbo_terms(vae, x, 3, seed=0).kl
        assert torch.allclose(kl.value, kl_to_standard_normal(q.loc, q.scale), rtol=0, atol=1e-9)
        assert kl.monte_carlo_error < 1e-12


class TestLikelihoods:  # R6, errata 4 and 10
    def test_bernoulli_is_minus_cross_entropy_summed_over_pixels(self):
        vae, x = small_vae(), binary_data(8)
        z = torch.randn(8, 3).double()
        mean = vae.likelihood(z).mean
        cross_entropy = -(x * mean.log() + (1 - x) * (1 - mean).log()).sum(-1)
        assert torch.allclose(vae.likelihood(z).log_prob(x), -cross_entropy, rtol=0, atol=1e-10)

    @pytest.mark.parametrize("scale", [0.1, 0.5, 1.0, 3.0])
    def test_normal_is_squared_error_with_all_constants(self, scale):
        vae = small_vae(likelihood=pv.likelihoods.Normal, scale=scale)
        x, z = torch.randn(8, 6).double(), torch.randn(8, 3).double()
        error = (x - vae.likelihood(z).mean).square().sum(-1)
        constant = 6 / 2 * math.log(2 * math.pi * scale**2)
        assert torch.allclose(vae.likelihood(z).log_prob(x), -error / (2 * scale**2) - constant, rtol=0, atol=1e-9)

    @pytest.mark.parametrize(("name", "variance"), [("SSE", 1 / 2), ("MSE", 6 / 2)])
    def test_squared_error_plus_kl_is_a_normal_likelihood(self, name, variance):
        """SSE + KL is sigma^2 = 1/2 and MSE + KL is sigma^2 = d/2: same gradients, loss shifted by a constant."""
        vae = small_vae(likelihood=pv.likelihoods.Normal, scale=math.sqrt(variance))
        x = torch.randn(8, 6).double()
        torch.manual_seed(1)
        loss = MeanFieldELBO().differentiable_loss(vae.model, vae.guide, x)
        ours = torch.autograd.grad(loss, list(vae.parameters()))
        torch.manual_seed(1)
        q = vae.posterior(x)
        error = (x - vae.likelihood(q.rsample()).mean).square()
        pixels = error.sum(-1) if name == "SSE" else error.mean(-1)
        by_hand = (pixels + kl_to_standard_normal(q.base_dist.loc, q.base_dist.scale)).sum()
        theirs = torch.autograd.grad(by_hand, list(vae.parameters()))
        assert all(torch.allclose(a, b, rtol=0, atol=1e-10) for a, b in zip(ours, theirs, strict=True))
        assert (loss - by_hand).item() == pytest.approx(8 * 6 / 2 * math.log(2 * math.pi * variance), abs=1e-9)


class TestIdentity:  # R7
    @pytest.fixture
    def one(self):
        """A linear-Gaussian model with a one-dimensional latent and a guide that is wrong on purpose."""
        truth = ProbabilisticPCA(latent_dim=1, data_dim=2)
        return truth, truth.vae(widen=1.4, shift=0.3), truth.data(1)

    def integral(self, vae, x, f):
        q = vae.posterior(x)
        grid = torch.linspace(-12, 12, 20_001, dtype=torch.float64)[:, None, None]
        values = f(grid, q.log_prob(grid), vae.prior().log_prob(grid), vae.likelihood(grid).log_prob(x))
        return scipy.integrate.simpson(values.squeeze().detach().numpy(), x=grid.squeeze().numpy())

    def test_log_evidence_is_elbo_plus_kl_to_the_posterior(self, one):
        """log p(x) in closed form; ELBO and KL(q || p(z|x)) by an integral of their own."""
        truth, vae, x = one
        exact = truth.posterior(x)
        elbo = self.integral(vae, x, lambda z, q, prior, lik: q.exp() * (lik + prior - q))
        kl = self.integral(vae, x, lambda z, q, prior, lik: q.exp() * (q - exact.log_prob(z)))
        assert kl > 0.01
        assert elbo + kl == pytest.approx(truth.evidence().log_prob(x).item(), abs=1e-9)

    def test_the_three_forms_of_the_elbo_agree(self, one):
        truth, vae, x = one
        joint = self.integral(vae, x, lambda z, q, prior, lik: q.exp() * (lik + prior - q))
        reconstruction = self.integral(vae, x, lambda z, q, prior, lik: q.exp() * lik)
        kl = self.integral(vae, x, lambda z, q, prior, lik: q.exp() * (q - prior))
        evidence = truth.evidence().log_prob(x).item()
        gap = kl_divergence(vae.posterior(x), truth.posterior(x)).item()
        assert reconstruction - kl == pytest.approx(joint, abs=1e-9)
        assert evidence - gap == pytest.approx(joint, abs=1e-9)

    @pytest.mark.thorough
    def test_the_estimated_elbo_is_this_integral(self, one):
        _, vae, x = one
        estimate = pv.evaluation.elbo(vae, x, 20_000, seed=0)
        exact = self.integral(vae, x, lambda z, q, prior, lik: q.exp() * (lik + prior - q))
        assert abs(estimate.mean - exact) < 4 * estimate.monte_carlo_error

    def test_the_bound_is_an_equality_only_at_the_true_posterior(self, one):
        truth, vae, x = one
        assert pv.evaluation.elbo(truth.vae(), x, 100, seed=0).mean == pytest.approx(
            truth.evidence().log_prob(x).item(), abs=0.5
        )
        assert truth.evidence().log_prob(x).item() - pv.evaluation.elbo(vae, x, 20_000, seed=0).mean > 0.05


class TestGeneration:  # R8
    def test_draws_from_the_prior_not_from_the_encoder(self):
        """A guide far from the prior must not be seen in what is generated (erratum 9)."""
        truth = ProbabilisticPCA()
        x = truth.vae(shift=100.0).generate(5000)
        error = (truth.evidence().variance / 5000).sqrt()
        assert ((x.mean(0) - truth.b).abs() < 5 * error).all()


class TestReparametrisation:  # R14
    def test_draws_have_the_distribution(self):
        torch.manual_seed(3)
        q = dist.Normal(torch.tensor(0.7).double(), torch.tensor(0.4).double())
        draws = q.rsample((20_000,)).numpy()
        assert scipy.stats.kstest(draws, scipy.stats.norm(0.7, 0.4).cdf).pvalue > 6e-5  # 4 standard errors

    def test_one_draw_has_the_gradients_one_and_epsilon(self):
        mu = torch.tensor([0.3, -1.0], dtype=torch.float64, requires_grad=True)
        sigma = torch.tensor([0.5, 2.0], dtype=torch.float64, requires_grad=True)
        z = dist.Normal(mu, sigma).rsample()
        epsilon = ((z - mu) / sigma).detach()
        by_mu, by_sigma = torch.autograd.grad(z.sum(), (mu, sigma))
        assert torch.equal(by_mu, torch.ones(2).double())
        assert torch.allclose(by_sigma, epsilon, rtol=0, atol=1e-12)

    def test_the_gradient_of_an_expectation_is_unbiased(self):
        # E z^2 = mu^2 + sigma^2, so the gradients are 2 mu and 2 sigma. 4 standard errors.
        mu = torch.full((40_000,), 0.3, dtype=torch.float64, requires_grad=True)
        sigma = torch.full((40_000,), 0.5, dtype=torch.float64, requires_grad=True)
        z = dist.Normal(mu, sigma).rsample()
        for gradient, exact in zip(torch.autograd.grad(z.square().sum(), (mu, sigma)), (0.6, 1.0), strict=True):
            assert abs(gradient.mean() - exact) < 4 * gradient.std() / 200


class TestGaussians:  # R18, errata 6 and 8
    X = torch.tensor([[2.0, 1], [4, 3], [6, 5]], dtype=torch.float64)

    def test_bivariate_density_uses_the_inverse_covariance(self):
        covariance = np.array([[1, 0.5], [0.5, 2]])
        inverse = np.array([[2, -0.5], [-0.5, 1]]) / 1.75
        np.testing.assert_allclose(np.linalg.inv(covariance), inverse, atol=1e-15)

        def density(y, x, matrix):
            v = np.array([x, y - 1])
            return math.exp(-0.5 * v @ matrix @ v) / (2 * math.pi * math.sqrt(1.75))

        right, _ = scipy.integrate.dblquad(density, -9, 9, -12, 14, args=(inverse,), epsabs=1e-8)
        assert right == pytest.approx(1, abs=1e-6)
        exact = scipy.stats.multivariate_normal([0, 1], covariance)
        assert density(0.2, 0.9, inverse) == pytest.approx(exact.pdf([0.9, 0.2]), rel=1e-12)
        # As printed, with the matrix times its determinant left out, it integrates to 0.571.
        printed, _ = scipy.integrate.dblquad(
            density, -9, 9, -12, 14, args=(np.array([[1, -0.5], [-0.5, 2]]),), epsabs=1e-8
        )
        assert printed == pytest.approx(0.571, abs=1e-3)

    def test_variance_of_two_four_six(self):
        x = self.X[:, 0]
        assert x.mean() == 4
        assert x.var(correction=1) == 4  # the estimate with 1 / (n - 1)
        assert x.var(correction=0) == pytest.approx(8 / 3)  # maximum likelihood, with 1 / N

    def test_maximum_likelihood_is_the_estimate_with_one_over_n(self):
        x = self.X[:, 0]
        fitted = scipy.stats.norm.fit(x.numpy())
        assert fitted == pytest.approx((x.mean().item(), math.sqrt(x.var(correction=0).item())))

    def test_covariance_of_the_example_is_singular(self):
        covariance = torch.cov(self.X.T)
        assert torch.equal(covariance, torch.full((2, 2), 4.0).double())
        assert torch.linalg.det(covariance) == 0
        with pytest.raises(np.linalg.LinAlgError):
            scipy.stats.multivariate_normal([4, 3], covariance.numpy()).pdf([4, 3])


class TestCoinAndDie:  # R19, exact enumeration in Pyro
    @staticmethod
    def independent():
        pyro.sample("coin", dist.Categorical(torch.full((2,), 1 / 2).double()))
        pyro.sample("die", dist.Categorical(torch.full((6,), 1 / 6).double()))

    @staticmethod
    def dependent():
        """Heads: a fair die. Tails: a die that shows only four, five or six."""
        coin = pyro.sample("coin", dist.Categorical(torch.tensor([0.5, 0.5]).double()))
        faces = torch.tensor([[1 / 6] * 6, [0, 0, 0, 1 / 3, 1 / 3, 1 / 3]]).double()
        pyro.sample("die", dist.Categorical(faces[coin]))

    @staticmethod
    def enumerate(model, **observed):
        """The posterior marginals, by Pyro's exact enumeration."""
        conditioned = config_enumerate(poutine.condition(model, {k: torch.tensor(v) for k, v in observed.items()}))
        elbo = TraceEnum_ELBO(max_plate_nesting=0, strict_enumeration_warning=False)  # all may be observed
        marginals = elbo.compute_marginals(conditioned, lambda: None)
        return {name: marginal.probs for name, marginal in marginals.items()}, -elbo.loss(conditioned, lambda: None)

    def joint(self, model, coin, die):
        _, log_p = self.enumerate(model, coin=coin, die=die)
        return math.exp(log_p)

    def test_joint_and_marginals(self):
        assert self.joint(self.independent, 0, 2) == pytest.approx(1 / 12)
        marginals, _ = self.enumerate(self.independent)
        assert marginals["coin"].tolist() == pytest.approx([1 / 2] * 2)
        assert marginals["die"].tolist() == pytest.approx([1 / 6] * 6)

    def test_marginal_sums_all_six_faces(self):
        # The document's sum leaves two of them out and still claims 1/2.
        faces = [self.joint(self.independent, 0, die) for die in range(6)]
        assert sum(faces) == pytest.approx(1 / 2)
        assert sum(faces[i] for i in (0, 1, 2, 5)) == pytest.approx(1 / 3)

    def test_conditional_of_an_independent_pair_is_the_marginal(self):
        for die in range(6):
            assert self.enumerate(self.independent, die=die)[0]["coin"].tolist() == pytest.approx([0.5, 0.5])

    def test_conditional_of_a_dependent_pair(self):
        """Bayes by hand: P(heads | face >= 4) = (1/12) / (1/12 + 1/6) = 1/3, and 1 below four."""
        for die, heads in [(0, 1.0), (2, 1.0), (3, 1 / 3), (5, 1 / 3)]:
            assert self.enumerate(self.dependent, die=die)[0]["coin"][0].item() == pytest.approx(heads)
        assert self.enumerate(self.dependent)[0]["die"].tolist() == pytest.approx([1 / 12] * 3 + [1 / 4] * 3)


def test_sampled_and_analytic_elbo_have_the_same_mean():
    """4,000 particles of each, 4 data, float64; the difference is within 4 of its Monte Carlo standard errors."""
    vae, x = small_vae(), binary_data(4).repeat(20, 1)
    losses = {}
    for loss in (Trace_ELBO(), MeanFieldELBO()):
        draws = torch.tensor([loss.loss(vae.model, vae.guide, x) for _ in range(200)], dtype=torch.float64)
        losses[type(loss).__name__] = draws.mean(), draws.var() / len(draws)
    (a, var_a), (b, var_b) = losses.values()
    assert abs(a - b) < 4 * (var_a + var_b).sqrt()
    assert var_b < var_a  # the analytic KL has less noise
