"""log p(x) = ELBO + KL, term by term against closed forms, and the errors it must catch."""

import math
from importlib import import_module

import pyro
import pytest
import torch
from cases import thorough
from densities import integral
from exact import MixturePrior, ProbabilisticPCA, binary_data, small_vae
from torch import nn

import pyro_vae as pv
from pyro_vae.data import load
from pyro_vae.evaluation import identity
from pyro_vae.evaluation.exact import grid_search
from pyro_vae.evaluation.exact.grids import midpoint_rule
from pyro_vae.inference import SVI, MeanFieldELBO
from pyro_vae.model import traces
from pyro_vae.randomness import stream

room = import_module("pyro_vae.evaluation.exact.identity")  # whose name in the package is that of the function


def trained(activation):
    """Two latent numbers of the digits, after a little training; twelve of the test data."""
    splits = load("digits", binarize="threshold")
    x = splits.train.fixed().double()
    with stream(0, "digits"):
        MLP = pv.networks.MLP
        vae = pv.VAE(
            pv.priors.StandardNormal(2),
            pv.posteriors.DiagonalNormal(MLP((1, 8, 8), (4,), (32,), activation=activation), 2),
            pv.likelihoods.Bernoulli(MLP((2,), (1, 8, 8), (32,), activation=activation)),
        ).double()
        svi = SVI(vae.model, vae.guide, torch.optim.Adam(vae.parameters(), 5e-3), MeanFieldELBO())
        for _ in range(150):
            svi.step(x[torch.randint(len(x), (128,))])
    pyro.clear_param_store()
    return vae, splits.test.fixed().double()[:12]


@pytest.fixture(scope="module")
def digits():
    return {"tanh": trained(nn.Tanh), "relu": trained(nn.ReLU)}


class TestIdentity:
    @pytest.mark.parametrize(("activation", "largest"), [("tanh", 1e-5), *thorough(("relu", 5e-4))])
    def test_holds_on_digits_whether_or_not_the_decoder_has_kinks(self, digits, activation, largest):
        vae, x = digits[activation]
        found = identity(vae, x)
        assert found.residual.abs().max() < largest
        assert (found.kl > 0.001).all()
        assert found.kind == {"z": "analytic"}
        assert found.evidence.reliable.all()
        assert found.refinement.max() < 1.1e-4
        assert found.smooth.any() == (activation == "tanh")

    @pytest.mark.thorough
    def test_each_term_of_a_decoder_with_kinks_is_that_of_a_fine_grid(self, digits):
        """500 x 500 midpoints in the guide's own coordinates, +-7 standard deviations; the ELBO by hand."""
        vae, x = digits["relu"]
        found = identity(vae, x[:2])
        with torch.no_grad():
            for b in range(2):
                q = vae.posterior(x[b : b + 1])
                edges = [(m - 7 * s, m + 7 * s) for m, s in zip(q.mean[0].tolist(), q.stddev[0].tolist(), strict=True)]

                def integrand(z, q=q, datum=x[b]):
                    reconstruction = torch.cat([vae.likelihood(part).log_prob(datum) for part in z.split(1 << 14)])
                    return q.log_prob(z).exp() * (reconstruction + vae.prior().log_prob(z) - q.log_prob(z))

                assert found.elbo[b].item() == pytest.approx(integral(integrand, midpoint_rule, edges, 500), abs=2e-4)

    @pytest.mark.thorough
    def test_its_elbo_is_the_sampled_one(self, digits):
        vae, x = digits["tanh"]
        sampled = pv.evaluation.elbo(vae, x, 2000, seed=0)
        assert ((identity(vae, x).elbo - sampled.value).abs() < 5 * sampled.value_error).all()

    @pytest.mark.parametrize(
        ("module", "rule", "activation"),
        [
            (grid_search, "trapezoid_rule", "tanh"),
            *thorough((room, "midpoint_rule", "tanh"), (room, "hermite_rule", "tanh")),
            (room, "legendre_rule", "relu"),
        ],
    )
    def test_a_rule_that_is_wrong_by_a_tenth_of_a_nat_is_caught(self, digits, module, rule, activation, monkeypatch):
        vae, x = digits[activation]
        right = getattr(module, rule)
        factor = math.exp(0.1 / 2)  # along each of two axes

        def wrong(n):
            points, weights = right(n)
            return points, weights * factor

        assert identity(vae, x[:2]).residual.abs().max() < 5e-4
        monkeypatch.setattr(module, rule, wrong)
        assert identity(vae, x[:2]).residual.abs().min() > 0.09

    def test_a_reconstruction_that_is_wrong_in_the_elbo_is_caught(self, digits, monkeypatch):
        vae, x = digits["tanh"]
        right = room.read_terms

        def wrong(pair):
            terms = right(pair)
            return terms._replace(reconstruction=terms.reconstruction - 0.1)

        monkeypatch.setattr(room, "read_terms", wrong)
        assert identity(vae, x[:2]).residual.tolist() == pytest.approx([0.1] * 2, abs=1e-3)

    def test_a_joint_density_that_is_wrong_in_the_kl_is_caught(self, digits, monkeypatch):
        """By e^-0.1 under the expectation alone; its normaliser is right."""
        vae, x = digits["tanh"]
        right = room.read_joint
        monkeypatch.setattr(room, "read_joint", lambda pair: right(pair) - 0.1)
        assert identity(vae, x[:2]).residual.tolist() == pytest.approx([-0.1] * 2, abs=1e-3)

    def test_an_evidence_that_is_wrong_is_caught(self, digits, monkeypatch):
        """The same by the searched grid alone."""
        vae, x = digits["tanh"]
        right = room.search

        def wrong(log_density, draws, tolerance):
            found, box = right(log_density, draws, tolerance)
            return found._replace(value=found.value + 0.1), box

        monkeypatch.setattr(room, "search", wrong)
        assert identity(vae, x[:2]).residual.tolist() == pytest.approx([0.1] * 2, abs=1e-3)

    def test_an_analytic_kl_that_is_wrong_is_caught(self, digits, monkeypatch):
        vae, x = digits["tanh"]
        right = traces.analytic_kl
        monkeypatch.setattr(traces, "analytic_kl", lambda *args: right(*args) + 0.1)
        assert identity(vae, x[:2]).residual.tolist() == pytest.approx([0.1] * 2, abs=1e-3)

    def test_a_guide_whose_density_does_not_integrate_to_one_is_caught(self, digits, monkeypatch):
        vae, x = digits["tanh"]
        right = traces.log_posterior
        monkeypatch.setattr(traces, "log_posterior", lambda pair: right(pair) + 0.1)
        assert identity(vae, x[:2]).residual.abs().min() > 0.05

    @pytest.mark.parametrize("dim", [1, 2])
    def test_is_exact_in_a_linear_gaussian_program(self, dim):
        truth = ProbabilisticPCA(dim)
        x = truth.data(10)
        vae = truth.vae(widen=1.4, shift=0.5)
        found = identity(vae, x)
        gap = torch.distributions.kl_divergence(vae.posterior(x), truth.posterior(x))
        assert found.residual.abs().max() < 1e-7
        assert torch.allclose(found.kl, gap, rtol=0, atol=1e-7)
        assert torch.allclose(found.elbo, truth.evidence().log_prob(x) - gap, rtol=0, atol=1e-7)

    def test_holds_without_an_analytic_kl(self):
        found = identity(small_vae(latent_dim=1, prior=MixturePrior(1)), binary_data(4))
        assert found.kind == {"z": "sampled"}
        assert found.residual.abs().max() < 1e-5

    def test_prints_a_short_table(self):
        truth = ProbabilisticPCA(1)
        lines = str(identity(truth.vae(widen=1.4), truth.data(3))).splitlines()
        assert [line[:18].strip() for line in lines] == ["log p(x)", "ELBO", "KL(q || p(z|x))", "largest residual"]
