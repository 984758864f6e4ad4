"""NUTS against closed-form posteriors, quadrature and chains that cannot agree; and nothing is changed by asking.

Errors of means over draws are those of the chains themselves (`mixing`), seeds are fixed, and bounds are 4.5 errors:
7e-6 a comparison, 2e-4 over all of them.
"""

import json
import math
from dataclasses import replace

import pyro
import pyro.distributions as dist
import pytest
import torch
from exact import MixturePrior, ProbabilisticPCA, binary_data, small_vae
from pyro.distributions import constraints
from torch import nn

import pyro_vae as pv
from pyro_vae.evaluation import mixing, nuts
from pyro_vae.evaluation.trust import true_posterior

SHORT = {"num_draws": 20, "num_warmup": 10, "num_chains": 2}


def assert_mean_is(draws, wanted, largest_error):
    """draws (chains, draws, *event)."""
    error = mixing(draws).error
    assert (error < largest_error).all()  # or the test could not fail
    assert ((draws.flatten(0, 1).mean(0) - wanted).abs() < 4.5 * error).all()


def assert_normal(draws, mean, covariance):
    """Means and every product of two numbers."""
    root = covariance.diagonal().sqrt()
    standard = (draws - mean) / root
    assert_mean_is(standard, torch.zeros_like(mean), 0.2)
    products = standard[..., :, None] * standard[..., None, :]
    assert_mean_is(products, covariance / root[:, None] / root, 0.3)


def last_layer(vae):
    return [module for module in vae.likelihood.decoder.modules() if isinstance(module, nn.Linear)][-1]


class Affine(nn.Module):
    """W z + H y + b."""

    def __init__(self, W, b, H=None):
        super().__init__()
        self.W, self.b, self.H = W, b, H

    def forward(self, z, y=None):
        return z @ self.W.T + self.b + (0 if self.H is None else y @ self.H.T)


class Shifted(pv.posteriors.Posterior):
    """The exact posterior of every x, moved and widened, with diagonal covariance."""

    def __init__(self, truth, shift=0.0, widen=1.0):
        super().__init__(nn.Identity(), truth.latent_dim)
        self.truth, self.shift, self.widen = truth, shift, widen

    def forward(self, x, y=None):
        exact = self.truth.posterior(x)
        return dist.Normal(exact.mean + self.shift, exact.variance.sqrt() * self.widen).to_event(1)


@pytest.fixture(scope="module")
def linear():
    truth = ProbabilisticPCA(latent_dim=3)
    x = truth.data(1)
    return truth, x, nuts(truth.vae(widen=1.5, shift=0.4), x, num_draws=200, num_warmup=50, num_chains=2, seed=0)


class TestTruth:
    def test_linear_gaussian_posterior(self, linear):
        truth, x, found = linear
        assert found.draws["z"].shape == (2, 200, 3)
        assert_normal(found.draws["z"], truth.posterior(x).mean[0], truth.covariance)

    def test_the_guide_beside_it_is_the_guide(self, linear):
        truth, x, found = linear
        assert found.guide["z"].shape == (400, 3)
        assert_normal(found.guide["z"].reshape(2, 200, 3), truth.posterior(x).mean[0] + 0.4, 2.25 * truth.covariance)

    @pytest.mark.thorough
    def test_not_normal_in_one_dimension(self):
        """A mixture prior cut by steep pixels, against a sum over a fine grid: mean, spread and tails."""
        vae, x = small_vae(latent_dim=1, prior=MixturePrior(1), seed=4), binary_data(1)
        with torch.no_grad():
            last_layer(vae).weight.mul_(8)
        z = torch.linspace(-8, 8, 4001, dtype=torch.float64)[:, None]
        with torch.no_grad():
            weights = (vae.prior().log_prob(z) + vae.likelihood(z).log_prob(x)).softmax(0)
        mean = (weights * z[:, 0]).sum()
        scale = (weights * (z[:, 0] - mean).square()).sum().sqrt()

        def statistics(z):
            u = (z[..., 0] - mean) / scale
            return torch.stack([u, u.square(), (u < -1).double(), (u > 1).double()], -1)

        wanted = (weights[:, None] * statistics(z)).sum(0)
        found = nuts(vae, x, num_draws=300, num_warmup=50, num_chains=2, seed=0)
        assert_mean_is(statistics(found.draws["z"]), wanted, 0.25)
        assert (weights * ((z[:, 0] - mean) / scale) ** 3).sum() < -1  # skewed: no normal

    @pytest.mark.thorough
    def test_two_latent_sites(self):
        """z2 ~ N(0, I), z1|z2 ~ N(A z2, 0.8^2 I), x|z1 ~ N(W z1, 0.7^2 I): a joint normal, conditioned on x."""
        noise = torch.Generator().manual_seed(4)
        A, W = (torch.randn(shape, generator=noise, dtype=torch.float64) for shape in ((3, 2), (5, 3)))
        MLP, Normal, normal = pv.networks.MLP, pv.posteriors.DiagonalNormal, pv.likelihoods.Normal
        vae = pv.HierarchicalVAE(
            pv.priors.StandardNormal(2),
            normal(Affine(A, torch.zeros(3)), scale=0.8),
            normal(Affine(W, torch.zeros(5)), scale=0.7),
            Normal(MLP((5,), (6,), y_dim=2), 3),
            Normal(MLP((5,), (4,)), 2),
        ).double()
        x = torch.randn(1, 5, generator=noise, dtype=torch.float64)
        precision = torch.eye(5, dtype=torch.float64)  # of (z2, z1)
        precision[:2, :2] += A.T @ A / 0.64
        precision[:2, 2:] = -A.T / 0.64
        precision[2:, :2] = -A / 0.64
        precision[2:, 2:] = torch.eye(3, dtype=torch.float64) / 0.64 + W.T @ W / 0.49
        covariance = torch.linalg.inv(precision)
        mean = covariance @ torch.cat([torch.zeros(2, dtype=torch.float64), W.T @ x[0] / 0.49])
        found = nuts(vae, x, num_draws=120, num_warmup=30, num_chains=2, seed=0)
        assert {name: draws.shape for name, draws in found.draws.items()} == {"z2": (2, 120, 2), "z1": (2, 120, 3)}
        assert found.guide["z1"].shape == (240, 3)
        assert_normal(torch.cat([found.draws["z2"], found.draws["z1"]], -1), mean, covariance)
        assert "z2[1]" in str(found)
        assert "z1[2]" in str(found)

    @pytest.mark.thorough
    def test_labels_are_given(self):
        truth, noise = ProbabilisticPCA(), torch.Generator().manual_seed(5)
        H = 3 * torch.randn(5, 3, generator=noise, dtype=torch.float64)
        likelihood = pv.likelihoods.Normal(Affine(truth.W, truth.b, H), scale=truth.scale)
        vae = pv.VAE(pv.priors.StandardNormal(2), Shifted(truth), likelihood).double()
        x, y = truth.data(1), torch.eye(3, dtype=torch.float64)[1:2]
        found = nuts(vae, x, y, num_draws=150, num_warmup=40, num_chains=2, seed=0)
        assert_normal(found.draws["z"], truth.posterior(x - y @ H.T).mean[0], truth.covariance)


class TestComparison:
    def test_means_and_deviations_are_those_of_the_draws(self, linear):
        _, _, found = linear
        row = found.compare()["z"]
        z = found.draws["z"].reshape(-1, 3)
        assert torch.equal(row.mean, z.mean(0))
        assert torch.equal(row.deviation, z.std(0))
        assert torch.equal(row.guide_mean, found.guide["z"].mean(0))
        assert torch.equal(row.guide_deviation, found.guide["z"].std(0))
        error = (mixing(found.draws["z"]).error ** 2 + row.guide_deviation**2 / 400).sqrt()
        assert torch.allclose(row.z_score, (row.mean - row.guide_mean) / error)

    @pytest.mark.thorough
    def test_z_scores_tell_a_moved_guide_from_a_right_one(self, linear):
        truth, x, found = linear
        assert (found.compare()["z"].z_score < -5).all()
        right = nuts(truth.vae(), x, num_draws=80, num_warmup=40, num_chains=2, seed=1).compare()["z"].z_score
        assert (right.abs() < 4.5).all()

    @pytest.mark.thorough
    def test_a_point_guide_has_no_spread(self):
        posterior = pv.posteriors.Delta(pv.networks.MLP((6,), (3,), (8,)), 3)
        vae = pv.VAE(pv.priors.StandardNormal(3), posterior, small_vae().likelihood).double()
        row = nuts(vae, binary_data(1), **SHORT, seed=0).compare()["z"]
        assert (row.guide_deviation == 0).all()
        assert torch.allclose(row.guide_mean, posterior(binary_data(1)).mean[0])
        assert row.z_score.isfinite().all()


def independent(chains=4, draws=500, D=3):
    """What chains that mix at once would give."""
    noise = torch.Generator().manual_seed(0)
    z, guide = torch.randn(chains, draws, D, generator=noise), torch.randn(chains * draws, D, generator=noise)
    none = torch.zeros(chains, draws, dtype=torch.bool)
    return true_posterior.PosteriorDraws({"z": z}, {"z": guide}, none, {}, {"z": mixing(z)})


class TestVerdict:
    def test_chains_that_agree(self):
        found = independent()
        assert found.agree
        assert found.rhat_max == found.mixing["z"].rhat.max() < 1.01
        assert found.ess_min == min(found.mixing["z"].ess_bulk.min(), found.mixing["z"].ess_tail.min()) > 1000
        text = str(found).splitlines()
        assert text[-1].startswith("The chains agree: R-hat at most 1.0")
        assert text[-1].endswith("; 0 of 2000 transitions diverged")
        assert [line[:4] for line in text[2:-1]] == ["z[0]", "z[1]", "z[2]"]
        row = [float(number) for number in text[3].split()[1:]]
        compared, mixed = found.compare()["z"], found.mixing["z"]
        wanted = [*(values[1] for values in compared), mixed.rhat[1], mixed.ess_bulk[1], mixed.ess_tail[1]]
        assert row == pytest.approx([float(number) for number in wanted], abs=0.51, rel=0)
        assert row[:4] == pytest.approx([float(number) for number in wanted[:4]], abs=6e-4, rel=0)

    @pytest.mark.thorough
    def test_chains_in_two_modes_do_not(self):
        """Modes at -9 and 9, between which no chain finds its way: with this seed both get a chain."""
        prior = MixturePrior(1)
        with torch.no_grad():
            prior.centres.copy_(torch.tensor([[-9.0], [9.0]]))
        vae = small_vae(latent_dim=1, prior=prior)
        with torch.no_grad():
            last_layer(vae).weight.zero_()
        found = nuts(vae, binary_data(1), num_draws=40, num_warmup=20, seed=1)
        modes = found.draws["z"].sign().mean((1, 2))
        assert set(modes.tolist()) == {-1.0, 1.0}
        assert not found.agree
        assert found.rhat_max > 1.5
        assert "The chains do NOT agree: R-hat" in str(found).splitlines()[-1]
        assert found.to_dict()["agree"] is False

    def test_a_number_that_never_moves_is_no_agreement(self):
        z = independent().draws["z"]
        z[..., 1] = 1.0
        stuck = replace(independent(), draws={"z": z}, mixing={"z": mixing(z)})
        assert math.isnan(stuck.rhat_max)
        assert not stuck.agree
        assert "do NOT agree" in str(stuck)
        assert stuck.to_dict()["rhat_max"] is None

    def test_a_long_table_keeps_the_numbers_that_differ(self):
        found = independent(2, 50, 30)
        found.guide["z"][:, 6:] += torch.arange(6, 30)
        lines = str(found).splitlines()
        assert len(lines) == 2 + true_posterior.ROWS + 2
        assert lines[-2] == "and 6 more, with smaller z-scores"
        assert [line.split()[0] for line in lines[2:-2]] == [f"z[{i}]" for i in range(6, 30)]

    @pytest.mark.thorough
    def test_divergent_transitions_are_counted(self):
        """A funnel: log z's scale is a latent of its own, and the neck is too narrow for any step size."""

        class Funnel:
            def model(self, x, y=None):
                with pyro.plate("data", len(x), dim=-1):
                    v = pyro.sample("v", dist.Normal(x.new_zeros(1), 3.0).to_event(1))
                    z = pyro.sample(
                        "z", dist.Normal(x.new_zeros(9), (v / 2).exp().expand(*v.shape[:-1], 9)).to_event(1)
                    )
                    pyro.sample("x", dist.Normal(0 * z[..., :1], 1.0).to_event(1), obs=x)

            def guide(self, x, y=None):
                with pyro.plate("data", len(x), dim=-1):
                    pyro.sample("v", dist.Normal(x.new_zeros(1), 1.0).to_event(1))
                    pyro.sample("z", dist.Normal(x.new_zeros(9), 1.0).to_event(1))

        x = torch.zeros(1, 1, dtype=torch.float64)
        found = nuts(Funnel(), x, num_draws=60, num_warmup=20, num_chains=2, max_tree_depth=3, seed=0)
        assert found.divergences == found.diverging.sum() > 0
        assert f"{found.divergences} of 120 transitions diverged" in str(found)


def test_report_and_containers(linear):
    _, x, found = linear
    numbers = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert {name: numbers[name] for name in ("method", "num_draws", "chains", "num_warmup", "divergences")} == {
        "method": "NUTS",
        "num_draws": 200,
        "chains": 2,
        "num_warmup": 50,
        "divergences": 0,
    }
    assert numbers["rhat_max"] == found.rhat_max
    assert numbers["sites"]["z"]["guide_mean"] == found.compare()["z"].guide_mean.tolist()
    assert numbers["sites"]["z"]["ess_tail"] == found.mixing["z"].ess_tail.tolist()
    data = found.to_inference_data()
    assert list(data) == ["posterior", "sample_stats", "observed_data"]
    assert data.posterior["z"].dims == ("chain", "draw", "z_dim_0")
    assert torch.equal(torch.as_tensor(data.posterior["z"].values), found.draws["z"])
    assert data.sample_stats["diverging"].dims == ("chain", "draw")
    assert torch.equal(torch.as_tensor(data.observed_data["x"].values), x[0])
    assert data.posterior.attrs["sampling"] == "NUTS"


class TestNothingElse:
    @pytest.mark.thorough
    def test_it_is_reproducible_and_changes_nothing(self):
        vae, x = small_vae().train(), binary_data(1)
        vae.posterior.encoder.body.append(nn.Dropout(0.5))
        vae.likelihood.decoder.body[0].weight.requires_grad_(False)
        before = {name: value.clone() for name, value in vae.state_dict().items()}
        flags = [p.requires_grad for p in vae.parameters()]
        state = torch.get_rng_state()
        few = {"num_draws": 8, "num_warmup": 5, "num_chains": 2}
        with torch.no_grad():
            first = nuts(vae, x, **few, seed=1)
        assert torch.equal(torch.get_rng_state(), state)
        torch.randn(3)
        again, other = nuts(vae, x, **few, seed=1), nuts(vae, x, **few, seed=2)
        assert torch.equal(first.draws["z"], again.draws["z"])
        assert torch.equal(first.guide["z"], again.guide["z"])
        assert not torch.equal(first.draws["z"], other.draws["z"])
        assert not torch.equal(first.draws["z"][0], first.draws["z"][1])
        assert not torch.equal(nuts(vae, x, **few).draws["z"], nuts(vae, x, **few).draws["z"])
        assert all(torch.equal(value, before[name]) for name, value in vae.state_dict().items())
        assert [p.requires_grad for p in vae.parameters()] == flags
        assert all(p.grad is None for p in vae.parameters())
        assert all(module.training for module in vae.modules())
        assert not list(pyro.get_param_store())
        assert not first.draws["z"].requires_grad

    @pytest.mark.thorough
    def test_chains_that_start_together_part(self, monkeypatch):
        starts = true_posterior._starts
        monkeypatch.setattr(true_posterior, "_starts", lambda *args: starts(*args)[:1] * 2)
        first, second = nuts(small_vae(), binary_data(1), **SHORT, seed=0).draws["z"]
        assert not torch.equal(first, second)

    def test_flags_come_back_after_an_error(self):
        vae = small_vae()
        with pytest.raises(pv.errors.DataError):
            nuts(vae, binary_data(1) + 0.5, **SHORT)
        assert all(p.requires_grad for p in vae.parameters())

    def test_the_components_of_a_vampprior_are_made_once(self):
        vae = small_vae()
        vae.prior = pv.priors.VampPrior(vae.posterior, (6,), 4).double()
        seen = []
        vae.posterior.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].shape[0]))
        found = nuts(vae, binary_data(1), **SHORT, seed=0)
        assert seen.count(4) == 1
        assert found.draws["z"].isfinite().all()


class TestRefusals:
    def test_more_than_one_datum(self):
        with pytest.raises(ValueError, match=r"takes one datum, x\[i : i \+ 1\].*; got 2 data"):
            nuts(small_vae(), binary_data(2))
        with pytest.raises(ValueError, match="got 1 data and 3 labels"):
            nuts(small_vae(), binary_data(1), torch.eye(3))

    @pytest.mark.parametrize("name", ["num_draws", "num_warmup", "num_chains", "max_tree_depth"])
    def test_too_small_numbers(self, name):
        least = {"num_draws": 4, "num_warmup": 1, "num_chains": 2, "max_tree_depth": 1}[name]
        with pytest.raises(ValueError, match=f"{name} must be at least {least}; got {least - 1}"):
            nuts(small_vae(), binary_data(1), **{name: least - 1})

    def test_a_latent_that_is_not_real(self):
        class Positive(pv.priors.Prior):
            def forward(self, y=None):
                return dist.LogNormal(self.loc, self.scale).to_event(1)

        assert Positive(3)().support is not constraints.real_vector
        with pytest.raises(ValueError, match=r"site z is a .* over .*: NUTS needs latents over all real numbers"):
            nuts(small_vae(prior=Positive(3)), binary_data(1))

    def test_a_start_where_the_density_is_zero(self):
        class Cut(nn.Module):
            def forward(self, z, y=None):
                return torch.full_like(z[..., :1].expand(*z.shape[:-1], 6), -1e308 * 10)

        vae = pv.VAE(pv.priors.StandardNormal(3), small_vae().posterior, pv.likelihoods.Bernoulli(Cut())).double()
        with (
            pyro.validation_enabled(False),
            pytest.raises(ValueError, match=r"at a draw of z from the prior where log p\(x, z\) is -?(inf|nan)$"),
        ):
            nuts(vae, torch.ones(1, 6, dtype=torch.float64), **SHORT, seed=0)
