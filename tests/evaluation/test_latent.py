"""Active units, the KL of each dimension, rate and distortion: known by hand, by quadrature, or by their sums."""

import math

import pyro
import pyro.distributions as dist
import pytest
import scipy.integrate
import scipy.stats
import torch
from exact import MixturePrior, ProbabilisticPCA, binary_data, small_vae, two_layers
from torch import nn

import pyro_vae as pv
from pyro_vae.evaluation.latent.dimensions import active_units, kl_per_dimension, rate_distortion


class Coded(pv.posteriors.Posterior):
    """q(z|x) = N(gain_j x, 0.3^2) for one number x: the dimensions whose gain is 0 are dead."""

    def __init__(self, gain):
        super().__init__(nn.Identity(), len(gain))
        self.gain = torch.tensor(gain, dtype=torch.float64)

    def forward(self, x, y=None):
        return dist.Normal(x * self.gain, torch.full_like(x * self.gain, 0.3)).to_event(1)


class CodedWithoutMean(Coded):
    """The same as a transformed distribution, which knows no mean."""

    def forward(self, x, y=None):
        base = dist.Normal(torch.zeros_like(x * self.gain), 1.0).to_event(1)
        shift = torch.distributions.AffineTransform(x * self.gain, 0.3, event_dim=1)
        return dist.TransformedDistribution(base, [shift])


class Scaled(pv.priors.Prior):
    def forward(self, y=None):
        return dist.Normal(self.loc + 5.0, 2.0 * self.scale).to_event(1)


def coded(gain, posterior=Coded, prior=pv.priors.StandardNormal):
    likelihood = pv.likelihoods.Normal(pv.networks.MLP((len(gain),), (1,), (4,)))
    return pv.VAE(prior(len(gain)), posterior(gain), likelihood).double()


@pytest.fixture
def x():
    return torch.randn(200, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


class TestActiveUnits:
    GAIN = (1.0, 0.0, 0.05, -0.5, 0.0, 0.15)

    def test_variances_of_the_means_are_exact_and_dead_dimensions_have_none(self, x):
        found = active_units(coded(self.GAIN), x)
        exact = x.numpy().var(ddof=1) * torch.tensor(self.GAIN, dtype=torch.float64) ** 2
        assert torch.allclose(found.variance["z"], exact, rtol=1e-12)
        assert found.active["z"].tolist() == [True, False, False, True, False, True]
        assert found.count == {"z": 3}
        assert active_units(coded(self.GAIN), x, threshold=0.1).count == {"z": 2}
        assert torch.equal(found.relative["z"], found.variance["z"])

    def test_a_dimension_is_active_above_a_hundredth(self, x):
        gain = [(variance / x.var().item()) ** 0.5 for variance in (0.0099, 0.0101)]
        assert active_units(coded(gain), x).active["z"].tolist() == [False, True]

    def test_a_variance_at_the_threshold_is_not_above_it(self):
        at = {"z": torch.tensor([0.01, 0.02])}
        assert pv.evaluation.ActiveUnits(at, at, at, at["z"][0].item(), 50).count == {"z": 1}

    def test_beside_a_prior_of_another_scale_the_ratio_is_to_its_variance(self, x):
        """Variance 4 puts the gain of 0.15 below the threshold; the mean of the prior does not matter."""
        found = active_units(coded(self.GAIN, prior=Scaled), x)
        assert torch.allclose(found.relative["z"], found.variance["z"] / 4, rtol=1e-9)
        assert (found.count, found.relative_count) == ({"z": 3}, {"z": 2})

    def test_a_prior_of_each_class_counts_with_the_spread_of_its_means(self, x):
        """Half of the data under N(0, 1), half under N(3, 1): variance 1 + 9/4."""
        vae, y = coded((1.0,)), torch.eye(2, dtype=torch.float64)[torch.arange(200) % 2]
        vae.prior = pv.priors.ConditionalNormal(1, y_dim=2).double()
        vae.prior.means.data[1] = 3.0
        vae.likelihood = pv.likelihoods.Normal(pv.networks.MLP((1,), (1,), (4,), y_dim=2)).double()
        found = active_units(vae, x, y)
        assert torch.allclose(found.relative["z"], found.variance["z"] / 3.25, rtol=1e-12)

    def test_a_prior_without_a_variance_leaves_the_ratio_unknown(self, x):
        found = active_units(coded(self.GAIN, prior=lambda D: pv.priors.StudentT(D, df=2.0)), x)
        assert found.relative["z"].isnan().all()
        assert (found.count, found.relative_count) == ({"z": 3}, {"z": None})
        assert "relative" not in str(found)

    @pytest.mark.thorough
    def test_sampled_means_carry_no_bias(self, x):
        """With K = 4 draws the means are noisy by 0.09 / 4 = 0.0225, which would wake the dead; 100 seeds, 4 errors."""
        vae = coded(self.GAIN, CodedWithoutMean)
        runs = torch.stack([active_units(vae, x, num_samples=4, seed=s).variance["z"] for s in range(100)])
        exact = active_units(coded(self.GAIN), x).variance["z"]
        error = runs.std(0) / 10
        assert ((runs.mean(0) - exact).abs() < 4 * error).all()
        assert (error < 0.0225 / 10).all()

    @pytest.mark.thorough
    def test_the_claimed_error_is_the_true_spread_over_data(self):
        """200 sets of uniform data; the spread of a standard deviation is 5 %, so 20 % is 4 standard errors."""
        vae, noise = coded((1.0,)), torch.Generator().manual_seed(1)
        data = [torch.rand(200, 1, generator=noise, dtype=torch.float64) for _ in range(200)]
        runs = [active_units(vae, x) for x in data]
        spread = torch.cat([run.variance["z"] for run in runs]).std()
        claimed = torch.cat([run.variance_error["z"] for run in runs]).square().mean().sqrt()
        assert 0.8 < spread / claimed < 1.25

    def test_two_layers_go_site_by_site(self, x):
        """z1 | x, z2 ~ N(0.6 x + 0.5 z2, ...), z2 | x ~ N(0.8 x, ...): E[z1|x] = x. Mean of 30 seeds, 4 errors."""

        class TwoLayers:
            def model(self, x):
                with pyro.plate("data", len(x), dim=-1):
                    top = pyro.sample("top", dist.Normal(torch.zeros(1).double(), 1.0).to_event(1))
                    low = pyro.sample("low", dist.Normal(top, 0.5).to_event(1))
                    pyro.sample("obs", dist.Normal(low, 0.7).to_event(1), obs=x)

            def guide(self, x):
                with pyro.plate("data", len(x), dim=-1):
                    top = pyro.sample("top", dist.Normal(0.8 * x, 0.9).to_event(1))
                    pyro.sample("low", dist.Normal(0.6 * x + 0.5 * top, 0.4).to_event(1))

        runs = [active_units(TwoLayers(), x, num_samples=20, seed=s).variance for s in range(30)]
        low = torch.cat([run["low"] for run in runs])
        assert torch.allclose(runs[0]["top"], 0.64 * x.var(0), rtol=1e-12)
        assert abs(low.mean() - x.var()) < 4 * low.std() / 30**0.5

    def test_an_autoencoder_has_active_units_too(self, x):
        vae = coded((1.0, 0.0))
        vae.posterior = pv.posteriors.Delta(lambda x: torch.cat([x, 0 * x], -1), 2)
        assert active_units(vae, x).count == {"z": 1}

    def test_the_callers_stream_and_the_programs_flags_are_left_alone(self, x):
        vae, state = coded(self.GAIN, CodedWithoutMean).train(), torch.get_rng_state()
        first = active_units(vae, x, num_samples=3, seed=0)
        assert torch.equal(torch.get_rng_state(), state)
        assert vae.training
        assert not list(pyro.get_param_store())
        assert torch.equal(active_units(vae, x, num_samples=3, seed=0).variance["z"], first.variance["z"])
        assert not torch.equal(active_units(vae, x, num_samples=3, seed=1).variance["z"], first.variance["z"])

    def test_too_few_data_or_draws_are_refused(self, x):
        with pytest.raises(ValueError, match="two data or more; got 1"):
            active_units(coded((1.0,)), x[:1])
        with pytest.raises(ValueError, match="num_samples must be 2 or more; got 1"):
            active_units(coded((1.0,), CodedWithoutMean), x, num_samples=1)


class TestKLPerDimension:
    def test_closed_form_by_hand(self):
        vae, x = small_vae(), binary_data(140)
        found = kl_per_dimension(vae, x, 1, seed=0)["z"]
        q = vae.posterior(x).base_dist
        by_hand = 0.5 * (q.loc**2 + q.scale**2 - 1 - 2 * q.scale.log())
        assert torch.allclose(found.value, by_hand.detach(), rtol=0, atol=1e-12)
        assert (found.kind, found.value_error.abs().max()) == ("analytic", 0)
        assert torch.allclose(found.mean, by_hand.mean(0))
        assert torch.allclose(found.standard_error, by_hand.detach().std(0) / 140**0.5)

    @pytest.mark.thorough
    def test_sampled_under_heavy_tails_it_is_the_integral(self):
        """18 integrals within 5 standard errors each, 1e-5 in all."""
        vae, x = small_vae(prior=pv.priors.StudentT(3, df=3.0)), binary_data(6)
        found = kl_per_dimension(vae, x, 4000, seed=0)["z"]
        q = vae.posterior(x).base_dist
        assert found.kind == "sampled"
        for n in range(6):
            for j in range(3):
                each = scipy.stats.norm(q.loc[n, j].item(), q.scale[n, j].item())
                exact, _ = scipy.integrate.quad(
                    lambda z, each=each: each.pdf(z) * (each.logpdf(z) - scipy.stats.t.logpdf(z, 3)),
                    *each.interval(1 - 1e-14),
                )  # fmt: skip
                assert abs(found.value[n, j] - exact) < 5 * found.value_error[n, j]
        assert found.monte_carlo_error.max() < 0.02

    @pytest.mark.parametrize("prior", [pv.priors.StandardNormal, pv.priors.Laplace, pv.priors.StudentT])
    def test_its_sum_is_the_kl_of_the_program(self, prior):
        vae, x = small_vae(prior=prior(3)), binary_data(130)
        found = kl_per_dimension(vae, x, 40, seed=0)["z"]
        terms = pv.evaluation.elbo_terms(vae, x, 40, seed=0)
        assert torch.allclose(found.value.sum(-1), terms.kl.value, rtol=0, atol=1e-10)
        assert found.kind == terms.kl.kind["z"]

    def test_where_a_side_does_not_factorise_there_is_none(self):
        x = binary_data(4)
        assert kl_per_dimension(small_vae(prior=MixturePrior(3)), x, 2, seed=0) == {"z": None}
        assert kl_per_dimension(small_vae(prior=pv.priors.FullNormal(3)), x, 2, seed=0) == {"z": None}
        for kind in (pv.posteriors.FullNormal, pv.posteriors.FlowPosterior, pv.posteriors.Delta):
            vae = small_vae()
            vae.posterior = kind(pv.networks.MLP((6,), kind.encoder_shape(3), (8,)), 3).double()
            assert kl_per_dimension(vae, x, 2, seed=0) == {"z": None}

    def test_two_layers_have_one_each_and_their_sum_is_the_kl(self):
        vae = two_layers()
        x = binary_data(5)
        found = kl_per_dimension(vae, x, 40, seed=0)
        assert {name: tuple(site.value.shape) for name, site in found.items()} == {"z2": (5, 2), "z1": (5, 3)}
        assert found["z1"].value_error.min() > 0  # given the drawn z2
        total = found["z2"].value.sum(-1) + found["z1"].value.sum(-1)
        kl = pv.evaluation.elbo_terms(vae, x, 40, seed=0).kl
        assert torch.allclose(total, kl.value, rtol=0, atol=1e-10)

    def test_one_draw_that_is_needed_does_not_know_its_error(self):
        found = kl_per_dimension(small_vae(prior=pv.priors.StudentT(3)), binary_data(4), 1, seed=0)["z"]
        assert found.value_error.isnan().all()

    def test_loss_weights_are_refused(self):
        vae = small_vae()
        model, guide = pv.inference.weighted(vae.model, vae.guide, kl=0.5)
        weighted = type("Weighted", (), {"model": staticmethod(model), "guide": staticmethod(guide)})
        with pytest.raises(ValueError, match="carries a loss weight"):
            kl_per_dimension(weighted, binary_data(4), 2, seed=0)


class TestRateDistortion:
    def test_both_are_the_closed_forms_of_a_linear_model(self):
        """-E_q[log p(x|z)] = d/2 log(2 pi s^2) + (|x - W m - b|^2 + tr(W S W')) / 2 s^2; 4 errors of the mean."""
        truth = ProbabilisticPCA()
        vae, x = truth.vae(widen=1.4, shift=0.3), truth.data(140)
        found = rate_distortion(vae, x, 500, seed=0)
        q, s2 = vae.posterior(x), truth.scale**2
        residual = (x - q.mean @ truth.W.T - truth.b).square().sum(-1)
        spread = (truth.W @ q.covariance_matrix @ truth.W.T).diagonal(dim1=-2, dim2=-1).sum(-1)
        exact = 2.5 * math.log(2 * math.pi * s2) + (residual + spread) / (2 * s2)
        assert abs(found.distortion.mean - exact.mean()) < 4 * found.distortion.monte_carlo_error
        prior = dist.MultivariateNormal(torch.zeros(2).double(), torch.eye(2).double())
        assert torch.allclose(found.rate.value, torch.distributions.kl_divergence(q, prior), rtol=0, atol=1e-9)

    def test_they_add_up_to_minus_the_elbo(self):
        vae, x = small_vae(prior=MixturePrior(3)), binary_data(20)
        found, elbo = rate_distortion(vae, x, 9, seed=0), pv.evaluation.elbo(vae, x, 9, seed=0)
        assert torch.allclose(found.rate.value + found.distortion.value, -elbo.value, rtol=0, atol=1e-10)
        assert (found.rate.name, found.distortion.name) == ("rate", "distortion")
