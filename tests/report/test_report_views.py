"""The numbers behind the pictures: what the program itself draws and decodes, and closed forms."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import scipy.stats
import torch
from cases import thorough
from densities import perturbed
from exact import MixturePrior, ProbabilisticPCA, binary_data, small_vae

import pyro_vae as pv
from pyro_vae.randomness import stream
from pyro_vae.report.draw import image_views, latent_views

DOUBLE = torch.float64
WEIGHT = torch.tensor([[1.0, 0.0, 2.0, 0.0], [0.0, 3.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.5]], dtype=DOUBLE)
SPREAD = torch.tensor([0.5, 2.0, 1.0], dtype=DOUBLE)


class Times(torch.nn.Module):
    def __init__(self, weight):
        super().__init__()
        self.weight = torch.nn.Parameter(weight)

    def forward(self, z, y=None):
        shown = z @ self.weight
        return shown if y is None else shown + 100.0 * y.argmax(-1)[..., None]


class Encoder(torch.nn.Module):
    """The code of x is x itself, times SPREAD; q has a sigma of about 1/10, 2/10, 3/10."""

    def forward(self, x, y=None):
        log_scale = torch.log(torch.arange(1, 4, dtype=DOUBLE) / 10)
        return torch.cat([x * SPREAD, log_scale.expand_as(x)], -1)


def linear(prior=None):
    """x (3,) -> z (3,) -> x (4,), all linear: what is decoded is known."""
    posterior = pv.posteriors.DiagonalNormal(Encoder(), 3, floor=1e-12)
    likelihood = pv.likelihoods.Normal(Times(WEIGHT), scale=1.0)
    return pv.VAE(prior or pv.priors.StandardNormal(3), posterior, likelihood).double()


def vectors(size, seed=0):
    return torch.randn(size, 3, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


PRIORS = {
    "standard": lambda: None,
    "flow": lambda: perturbed(pv.priors.FlowPrior(3, flow_hidden=(8,))),
    "mixture": lambda: MixturePrior(3),
}
every_prior = pytest.mark.parametrize("prior", PRIORS)


@every_prior
def test_samples_are_those_that_the_program_generates(prior):
    vae = small_vae(prior=PRIORS[prior]())
    view = image_views.samples(vae, 5, 20)
    for drawn, mean in ((view.mean, True), (view.x, False)):
        with stream(5, "samples"):
            assert torch.equal(drawn, vae.generate(20, mean=mean))
    assert torch.equal(view.mean, vae.likelihood(view.z).mean)
    assert len(image_views.samples(vae, 6, 20).z.unique(dim=0)) == 20
    assert not torch.equal(image_views.samples(vae, 6, 20).z, view.z)


def test_reconstructions_are_those_of_the_program_and_their_log_likelihoods():
    vae, x = small_vae(), binary_data(5)
    view = image_views.reconstructions(vae, x, 3, 7)
    with stream(3, "reconstructions"):
        assert torch.equal(view.mean, vae.reconstruct(x, num_samples=7))
    slow = [[vae.likelihood(view.z[k, b]).log_prob(x[b]).item() for b in range(5)] for k in range(7)]
    assert torch.allclose(view.log_likelihood, torch.tensor(slow, dtype=DOUBLE), rtol=0, atol=1e-12)
    with pytest.raises(pv.errors.DataError, match=r"got 0.5 at datum 1"):
        image_views.reconstructions(vae, torch.tensor([[0.0] * 6, [0.5] * 6]).double(), 3)


@pytest.mark.thorough
def test_the_spread_of_the_reconstruction_over_draws_is_that_of_a_quadratic_form():
    """log p(x|z) for z ~ N(m, S): mean and variance in closed form; 8 data, 4.5 standard errors (16 tests, 1e-4)."""
    truth, K = ProbabilisticPCA(), 20_000
    x = truth.data(8)
    found = image_views.log_likelihood_of_draws(truth.vae(), x, K, seed=0)
    assert found.shape == (K, 8)
    q, s2 = truth.posterior(x), truth.scale**2
    residual = x - truth.b - q.mean @ truth.W.T
    C = truth.W @ truth.covariance @ truth.W.T
    constant = -0.5 * truth.data_dim * math.log(2 * math.pi * s2)
    mean = constant - (residual.square().sum(-1) + C.trace()) / (2 * s2)
    variance = (4 * ((residual @ C) * residual).sum(-1) + 2 * (C @ C).trace()) / (4 * s2**2)
    fourth = (found - found.mean(0)).pow(4).mean(0)
    assert ((found.mean(0) - mean) / (variance / K).sqrt()).abs().max() < 4.5
    assert ((found.var(0) - variance) / ((fourth - variance**2) / K).sqrt()).abs().max() < 4.5


@every_prior
def test_interpolations_are_those_of_the_program(prior):
    vae = small_vae(prior=PRIORS[prior]())
    start, end = binary_data(6).split(3)
    kinds = ("spherical", "straight", "base")[: 3 if prior == "flow" else 2]
    view = latent_views.interpolation(vae, start, end, paths=kinds, steps=5)
    assert view.paths == kinds
    assert view.z.shape == (len(kinds), 5, 3, 3)
    for i, kind in enumerate(kinds):
        assert torch.equal(view.mean[i], vae.interpolate(start, end, 5, path=kind))
        assert torch.equal(view.mean[i], vae.likelihood(view.z[i]).mean)


def test_a_traversal_of_a_linear_decoder_is_known():
    vae, x = linear(), vectors(50)
    view = latent_views.traversal(vae, x, 0, datum=7, rows=2, steps=5, reach=2.0)
    code = x[7] * SPREAD
    assert torch.equal(view.code, code)
    assert torch.allclose(view.reconstruction[0], code @ WEIGHT)
    assert view.dimensions.tolist() == [1, 2]  # of SPREAD 0.5, 2, 1 the two largest
    # The prior's variance of 1 is taken from 16,385 draws: 4.5 standard errors of it are 5 %.
    assert torch.allclose(view.usage, (x * SPREAD).var(0), rtol=0.05)
    for row, j in enumerate((1, 2)):
        for column, value in enumerate((-2.0, -1.0, 0.0, 1.0, 2.0)):
            z = code.clone()
            z[j] = value
            assert torch.allclose(view.z[row, column], z, rtol=0, atol=1e-9)
            assert torch.allclose(view.mean[row, column], z @ WEIGHT, rtol=0, atol=1e-9)
    assert torch.allclose(view.levels, torch.tensor(scipy.stats.norm.cdf([-2, -1, 0, 1, 2])), rtol=1e-12)
    assert len(latent_views.traversal(vae, x, 0).dimensions) == 3


def test_use_of_a_dimension_is_relative_to_the_prior():
    prior = pv.priors.DiagonalNormal(3).double()
    with torch.no_grad():
        prior.log_scale.copy_(torch.tensor([-3.0, 2.0, 0.0]))
    view = latent_views.traversal(linear(prior), vectors(50), 0, rows=3)
    assert view.dimensions.tolist() == [0, 2, 1]


def test_a_traversal_under_labels_uses_the_prior_of_the_datums_label():
    prior = pv.priors.ConditionalNormal(3, 2).double()
    with torch.no_grad():
        prior.means[1] = 10.0
    y = torch.eye(2, dtype=DOUBLE)[torch.arange(50) % 2]
    for datum in (0, 1):
        view = latent_views.traversal(linear(prior), vectors(50), 0, datum=datum, rows=3, steps=3, reach=1.0, y=y)
        for row, j in enumerate(view.dimensions.tolist()):
            moved = 10.0 * datum + torch.tensor([-1.0, 0.0, 1.0], dtype=DOUBLE)
            assert torch.allclose(view.z[row, :, j], moved, rtol=0, atol=1e-9)
        assert torch.allclose(view.mean, view.z @ WEIGHT + 100.0 * datum)
        # Over both labels the prior's variance is 1 + 25.
        assert torch.allclose(view.usage, (vectors(50) * SPREAD).var(0) / 26, rtol=0.05)


@pytest.mark.parametrize(("prior", "draws"), [("mixture", 400_000), ("flow", 20_000), *thorough(("flow", 400_000))])
def test_quantiles_of_draws_are_where_so_many_draws_lie_below(prior, draws):
    """Held against so many other draws; 4.5 standard errors of both, 15 numbers (1e-4)."""
    p = {"mixture": lambda: MixturePrior(3).double(), "flow": PRIORS["flow"]}[prior]()()
    levels = torch.tensor([0.01, 0.2, 0.5, 0.9, 0.99], dtype=DOUBLE)
    with stream(1, "a"), torch.no_grad():
        found, z = latent_views.quantiles(p, levels), p.sample((draws,))
    below = (z[None] < found[:, None]).double().mean(1)
    error = (levels * (1 - levels) * (1 / latent_views.PRIOR_DRAWS + 1 / len(z))).sqrt()[:, None]
    assert ((below - levels[:, None]) / error).abs().max() < 4.5


def test_quantiles_are_exact_where_the_prior_knows_them():
    levels = torch.tensor([0.01, 0.5, 0.975], dtype=DOUBLE)
    found = latent_views.quantiles(pv.priors.Laplace(2).double()(), levels)
    expected = torch.tensor(scipy.stats.laplace.ppf([0.01, 0.5, 0.975]))
    assert torch.allclose(found, expected[:, None].expand(3, 2), rtol=0, atol=1e-9)


def test_the_cloud_in_the_plane_is_that_of_the_codes():
    vae, x = small_vae(latent_dim=2), binary_data(40)
    view = latent_views.cloud(vae, x, 0)
    q = vae.posterior(x)
    assert torch.equal(view.points, q.mean)
    assert torch.equal(view.z, q.mean)
    assert torch.allclose(view.covariance, q.variance.diag_embed())
    with stream(0, "cloud"):
        assert torch.equal(view.prior, vae.prior().expand((40,)).sample())


def test_the_cloud_of_a_flow_has_the_covariance_of_draws():
    """Of 256 draws against 10,000: 4.5 standard errors of both, 2 numbers of 6 data (1e-4)."""
    posterior = perturbed(pv.posteriors.FlowPosterior(pv.networks.MLP((6,), (6,), (8,)), 2), 0.1)
    vae = pv.VAE(pv.priors.StandardNormal(2), posterior, small_vae(latent_dim=2).likelihood).double()
    x = binary_data(6)
    view = latent_views.cloud(vae, x, 0)
    assert torch.equal(view.z, posterior.centre(x))
    variance = posterior(x).sample((10_000,)).var(0)
    off = (view.covariance.diagonal(dim1=-2, dim2=-1) / variance - 1).abs()
    assert (off < 4.5 * (2 / 256 + 2 / 10_000) ** 0.5).all()


def test_the_cloud_of_a_full_normal_has_its_covariance():
    posterior = perturbed(pv.posteriors.FullNormal(pv.networks.MLP((6,), (5,), (8,)), 2))
    vae = pv.VAE(pv.priors.StandardNormal(2), posterior, small_vae(latent_dim=2).likelihood).double()
    x = binary_data(6)
    assert torch.equal(latent_views.cloud(vae, x, 0).covariance, posterior(x).covariance_matrix)


def test_more_than_two_dimensions_are_seen_along_their_principal_components():
    vae, x = linear(), vectors(60)
    view = latent_views.cloud(vae, x, 0)
    z = (x * SPREAD).numpy()
    centred = z - z.mean(0)
    _, s, axes = np.linalg.svd(centred, full_matrices=False)
    axes = axes * np.sign(axes[np.arange(3), np.abs(axes).argmax(1)])[:, None]
    np.testing.assert_allclose(view.points.numpy(), centred @ axes[:2].T, atol=1e-10)
    np.testing.assert_allclose(view.share.numpy(), s**2 / (s**2).sum(), rtol=1e-10)
    with stream(0, "cloud"):
        draws = vae.prior().expand((60,)).sample().numpy()
    np.testing.assert_allclose(view.prior.numpy(), (draws - z.mean(0)) @ axes[:2].T, atol=1e-10)
    assert view.covariance is None


def test_codes_that_are_all_alike_have_finite_shares():
    share, axes = latent_views.principal_axes(torch.ones(5, 3))
    assert torch.isfinite(share).all()
    assert torch.isfinite(axes).all()


def plane(prior=None):
    likelihood = pv.likelihoods.Normal(Times(torch.eye(2, dtype=DOUBLE)), scale=1.0)
    posterior = pv.posteriors.DiagonalNormal(pv.networks.MLP((2,), (4,)), 2)
    return pv.VAE(prior or pv.priors.StandardNormal(2), posterior, likelihood).double()


def test_the_grid_of_a_decoder_that_changes_nothing_is_the_quantiles():
    view = latent_views.grid(plane(), 0, side=4)
    at = scipy.stats.norm.ppf([0.125, 0.375, 0.625, 0.875])
    assert view.z.shape == view.mean.shape == (1, 4, 4, 2)
    for i in range(4):
        for j in range(4):
            np.testing.assert_allclose(view.z[0, i, j].numpy(), [at[j], at[i]], atol=1e-9)
    assert torch.allclose(view.mean, view.z, rtol=0, atol=1e-12)


def test_each_label_has_a_grid_of_its_own_prior():
    prior = pv.priors.ConditionalNormal(2, 3).double()
    with torch.no_grad():
        prior.means.copy_(torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 20.0]]))
    view = latent_views.grid(plane(prior), 0, side=3, y=torch.eye(3, dtype=DOUBLE)[[2, 1]])
    assert torch.allclose(view.z[:, 1, 1], torch.tensor([[0.0, 20.0], [10.0, 0.0]], dtype=DOUBLE), atol=1e-9)
    assert torch.allclose(view.mean[:, 1, 1], view.z[:, 1, 1] + torch.tensor([[200.0], [100.0]], dtype=DOUBLE))


def test_a_grid_needs_a_plane():
    with pytest.raises(ValueError, match="needs 2 dimensions; this program has 3"):
        latent_views.grid(small_vae(), 0)


@pytest.mark.thorough
def test_views_repeat_themselves_and_leave_no_trace():
    vae, x = small_vae(latent_dim=2, prior=pv.priors.FlowPrior(2, flow_hidden=(8,))), binary_data(6)
    vae.train()

    def all_of_them():
        return [
            image_views.samples(vae, 0, 5),
            image_views.reconstructions(vae, x, 0),
            (image_views.log_likelihood_of_draws(vae, x, 10, 0),),
            latent_views.interpolation(vae, x[:3], x[3:], paths=("base",)),
            latent_views.traversal(vae, x, 0),
            latent_views.cloud(vae, x, 0),
            latent_views.grid(vae, 0, side=3),
        ]

    before = torch.random.get_rng_state()
    first, again = all_of_them(), all_of_them()
    for one, other in zip(first, again, strict=True):
        for a, b in zip(one, other, strict=True):
            assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
            assert not (isinstance(a, torch.Tensor) and a.requires_grad)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(module.training for module in vae.modules())
    assert not list(pyro.get_param_store())


def test_a_point_guide_has_codes_and_no_spread():
    posterior = pv.posteriors.Delta(pv.networks.MLP((6,), (2,), (8,)), 2)
    vae = pv.VAE(pv.priors.StandardNormal(2), posterior, small_vae(latent_dim=2).likelihood).double()
    x = binary_data(6)
    view = latent_views.cloud(vae, x, 0)
    assert torch.equal(view.z, posterior.encoder(x))
    assert (view.covariance == 0).all()
    assert (image_views.log_likelihood_of_draws(vae, x, 5, 0).std(0) < 1e-12).all()
    assert image_views.reconstructions(vae, x, 0).mean.shape == (4, 6, 6)


def test_the_prior_may_be_one_of_the_users_own():
    """Quantiles of 16,384 draws have errors of 0.010 to 0.013 here: 4.5 of them."""

    class StudentPrior(pv.priors.Prior):
        def forward(self, y=None):
            return dist.StudentT(5.0, self.loc, self.scale).to_event(1)

    view = latent_views.traversal(linear(StudentPrior(3)), vectors(50), 0, steps=3, reach=1.0)
    place = view.z[0, :, view.dimensions[0]].numpy()
    np.testing.assert_allclose(place, scipy.stats.t(5).ppf(scipy.stats.norm.cdf([-1, 0, 1])), atol=0.06)
