"""log p(x) on grids against closed forms and scipy's adaptive integration, and what a grid says of itself."""

import copy
import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import scipy.integrate
import torch
from cases import thorough
from densities import integral
from exact import MixturePrior, ProbabilisticPCA, binary_data, small_vae
from torch import nn

import pyro_vae as pv
from pyro_vae.evaluation import identity, posterior_on_grid, quadrature
from pyro_vae.evaluation.exact.grids import midpoint_rule

GUIDES = {
    "exact": (1, 0),
    "wide and shifted": (1.3, 0.3),
    "narrow": (0.2, 0),
    "off by 3 sigma": (1, 3),
    "both": (0.2, 3),
}


class TestProbabilisticPCA:
    @pytest.mark.thorough
    @pytest.mark.parametrize(
        ("dim", "size", "guide"),
        [
            *((dim, 20, guide) for dim in (1, 2) for guide in GUIDES),
            *thorough((2, 200, "wide and shifted")),
            (3, 8, "exact"),
            (3, 8, "both"),
        ],
    )
    def test_every_datum_whatever_the_guide(self, dim, size, guide):
        widen, sigmas = GUIDES[guide]
        truth = ProbabilisticPCA(dim)
        x, shift = truth.data(size), sigmas * truth.covariance.diagonal().sqrt()
        found = quadrature(truth.vae(widen, shift), x)
        assert (found.value - truth.evidence().log_prob(x)).abs().max() < 1e-6
        assert found.reliable.all()
        assert found.num_samples == int(found.points.max()) ** dim

    def test_a_guide_that_is_nowhere_near(self):
        truth = ProbabilisticPCA()
        x = truth.data(20)
        found = quadrature(truth.vae(widen=0.01, shift=80.0), x)
        assert (found.value - truth.evidence().log_prob(x)).abs().max() < 1e-6

    def test_a_posterior_a_thousand_times_narrower_than_the_prior(self):
        truth = ProbabilisticPCA(scale=1e-3)
        x = truth.data(5)
        found = quadrature(truth.vae(widen=30.0), x)
        assert (found.value - truth.evidence().log_prob(x)).abs().max() < 1e-6

    def test_blocks_and_order_do_not_matter(self):
        truth = ProbabilisticPCA(1)
        x = truth.data(140)
        whole = quadrature(truth.vae(), x).value
        assert torch.allclose(whole[100:], quadrature(truth.vae(), x[100:]).value, rtol=0, atol=1e-9)
        assert torch.equal(whole, quadrature(truth.vae(), x).value)


# Posteriors that are not normal, against scipy.


class Program(pv.Program):
    """z ~ prior, x ~ N(decoder(z), scale), guided by a narrow normal in the wrong place."""

    def __init__(self, prior, decode, scale=1.0):
        super().__init__()
        self.prior, self.decode, self.scale = prior, decode, scale
        self.dim = prior.event_shape[0]

    def model(self, x=None, y=None):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", self.prior)
            return pyro.sample("x", dist.Normal(self.decode(z), self.scale).to_event(1), obs=x)

    def guide(self, x, y=None):
        with pyro.plate("data", len(x), dim=-1):
            return pyro.sample("z", dist.Normal(torch.full((self.dim,), 2.0).double(), 0.1).to_event(1))

    def truth(self, x, peaks=(0.0,), reach=400.0):
        """log p(x) of one datum by scipy's adaptive integration."""

        def joint(*z):
            z = torch.tensor(z[::-1], dtype=torch.float64)
            p = dist.Normal(self.decode(z), self.scale).to_event(1).log_prob(x)
            return math.exp(self.prior.log_prob(z) + p)

        options = {"points": list(peaks), "limit": 400, "epsabs": 1e-12, "epsrel": 1e-9}
        value, _ = scipy.integrate.nquad(joint, [(-reach, reach)] * self.dim, opts=[options] * self.dim)
        return math.log(value)


def zeros(*shape):
    return torch.zeros(*shape, dtype=torch.float64)


CASES = {
    "student": (Program(dist.StudentT(3.0, zeros(1), 1.0).to_event(1), torch.tanh), [-6, -2, 0, 2, 6, 40]),
    "cauchy": (Program(dist.Cauchy(zeros(1), 1.0).to_event(1), lambda z: z, 0.3), [-6, -2, 0, 2, 6, 40]),
    "mixture": (
        Program(
            dist.MixtureSameFamily(
                dist.Categorical(torch.tensor([0.7, 0.3]).double()),
                dist.Normal(torch.tensor([[-6.0], [5.0]]).double(), torch.tensor([[0.1], [1.0]]).double()).to_event(1),
            ),
            lambda z: 0.1 * z,
        ),
        [-7, -6.2, -6, -5.8, 3, 5, 7],
    ),
    "two modes": (Program(dist.Normal(zeros(1), 1.0).to_event(1), lambda z: z**2, 0.05), [-2, -1.2, -1, 0, 1, 1.2, 2]),
}


@pytest.mark.thorough
@pytest.mark.parametrize("name", CASES)
def test_posteriors_with_tails_and_modes(name):
    program, peaks = CASES[name]
    x = torch.tensor([[1.0], [1.3]], dtype=torch.float64)
    found = quadrature(program, x)
    assert found.reliable.all()
    assert found.value.tolist() == pytest.approx([program.truth(v, peaks) for v in x], abs=1e-5)


def test_two_narrow_modes_far_apart_of_which_the_guide_knows_none():
    """A ring of two: |z_1| = 1.5 within 0.02; each half holds log p(x) - log 2."""
    program = Program(
        dist.Normal(zeros(2), 1.0).to_event(1), lambda z: torch.stack([z[..., 0] ** 2, z[..., 1]], -1), 0.06
    )
    x = torch.tensor([[2.25, 0.3]], dtype=torch.float64)
    right = [(1.0, 2.0), (-0.3, 0.9)]

    def joint(z):
        p = dist.Normal(program.decode(z), 0.06).to_event(1).log_prob(x[0])
        return (program.prior.log_prob(z) + p).exp()

    exact = math.log(2 * integral(joint, midpoint_rule, right, 801))
    found = quadrature(program, x)
    assert found.reliable.all()
    assert found.value.item() == pytest.approx(exact, abs=1e-6)


@pytest.mark.thorough
def test_a_network_against_nested_integration():
    vae, x = small_vae(latent_dim=2), binary_data(1)

    def joint(b, a, datum):
        z = torch.tensor([a, b], dtype=torch.float64)
        return math.exp((vae.prior().log_prob(z) + vae.likelihood(z).log_prob(datum)).item())

    with torch.no_grad():
        exact = [math.log(scipy.integrate.dblquad(joint, -7, 7, -7, 7, args=(v,), epsabs=1e-7)[0]) for v in x]
    assert quadrature(vae, x).value.tolist() == pytest.approx(exact, abs=1e-5)


def test_a_joint_mixture_prior_over_two():
    vae, x = small_vae(latent_dim=2, prior=MixturePrior(2)), binary_data(10)
    estimate = pv.evaluation.iwae(vae, x, 5_000, seed=0)
    assert ((quadrature(vae, x).value - estimate.value).abs() < 5 * estimate.value_error).all()


def test_labels():
    """log p(x|y) of a program that is linear-Gaussian given y: x ~ N(W z + b + y, s^2)."""
    truth = ProbabilisticPCA(2, 3)

    class Labelled(pv.Program):
        def model(self, x=None, y=None):
            with pyro.plate("data", len(x), dim=-1):
                z = pyro.sample("z", dist.Normal(zeros(2), 1.0).to_event(1))
                return pyro.sample("x", dist.Normal(z @ truth.W.T + truth.b + y, truth.scale).to_event(1), obs=x)

        def guide(self, x, y=None):
            with pyro.plate("data", len(x), dim=-1):
                return pyro.sample("z", truth.posterior(x - y))

    x, y = truth.data(6), torch.eye(3).double()[[0, 1, 2, 0, 1, 2]]
    assert torch.allclose(quadrature(Labelled(), x, y).value, truth.evidence().log_prob(x - y), rtol=0, atol=1e-7)
    with pytest.raises(ValueError, match="each datum needs its label: there are 6 data and 2 labels"):
        quadrature(Labelled(), x, y[:2])


def test_two_latents_without_a_dimension_of_their_own():
    """a, b ~ N(0, 1), x ~ N(a + 2 b, s^2): x ~ N(0, 5 + s^2)."""

    class Scalars(pv.Program):
        def model(self, x=None, y=None):
            with pyro.plate("data", len(x), dim=-1):
                a, b = (pyro.sample(name, dist.Normal(zeros(1)[0], 1.0)) for name in "ab")
                return pyro.sample("x", dist.Normal(a + 2 * b, 0.5), obs=x)

        def guide(self, x, y=None):
            with pyro.plate("data", len(x), dim=-1):
                for name in "ba":
                    pyro.sample(name, dist.Normal(0.1 * x, 0.6))

    x = torch.tensor([-3.0, 0.2, 4.0]).double()
    exact = dist.Normal(zeros(1)[0], 5.25**0.5).log_prob(x)
    assert torch.allclose(quadrature(Scalars(), x).value, exact, rtol=0, atol=1e-7)
    assert identity(Scalars(), x).residual.abs().max() < 1e-6


@pytest.mark.thorough
@pytest.mark.parametrize("guide", ["top_down", "bottom_up"])
def test_two_layers_of_latents(guide):
    """z2 ~ N(0, 1), z1 ~ N(A z2, s1^2 I), x ~ N(W z1, s^2 I): D1 + D2 = 2 + 1."""
    normal, MLP = pv.likelihoods.Normal, pv.networks.MLP
    A, W = nn.Linear(1, 2, bias=False), nn.Linear(2, 4, bias=False)
    x_of_1, x_of_2 = ((4,), (4,)) if guide == "top_down" else ((4,), (2,))
    vae = pv.HierarchicalVAE(
        pv.priors.StandardNormal(1),
        normal(A, scale=0.8),
        normal(W, scale=0.7),
        pv.posteriors.DiagonalNormal(MLP(x_of_1, (4,), (4,), y_dim=1 if guide == "top_down" else 0), 2),
        pv.posteriors.DiagonalNormal(MLP(x_of_2, (2,), (4,)), 1),
        guide=guide,
    ).double()
    with torch.no_grad():
        covariance = 0.64 * torch.eye(2).double() + A.weight @ A.weight.T
        marginal = dist.MultivariateNormal(zeros(4), 0.49 * torch.eye(4).double() + W.weight @ covariance @ W.weight.T)
        x = marginal.sample((4,))
        found = quadrature(vae, x)
        assert torch.allclose(found.value, marginal.log_prob(x), rtol=0, atol=1e-6)
        assert found.dim == 3


class Spiked(pv.Program):
    """z ~ 1/2 N(0, I) + 1/2 N(at, width^2 I), x ~ N(z, I), guided by N(x, 0.7)."""

    def __init__(self, dim, at, width, dtype=torch.float64):
        super().__init__()
        self.zeros, self.at, self.width = torch.zeros(dim, dtype=dtype), at, width

    def model(self, x=None, y=None):
        means = torch.stack([self.zeros, self.zeros + self.at])
        widths = torch.stack([self.zeros + 1, self.zeros + self.width])
        parts = dist.Normal(means, widths).to_event(1)
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.MixtureSameFamily(dist.Categorical(logits=self.zeros.new_zeros(2)), parts))
            return pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(self, x, y=None):
        with pyro.plate("data", len(x), dim=-1):
            return pyro.sample("z", dist.Normal(x, 0.7).to_event(1))

    def evidence(self, x):
        x = x.double()
        parts = [(0.0, 2**0.5), (self.at, (1 + self.width**2) ** 0.5)]
        logs = [dist.Normal(torch.full_like(x, m), s).to_event(1).log_prob(x) for m, s in parts]
        return torch.stack(logs).logsumexp(0) - math.log(2)


class TestSpikes:
    """Modes that no grid over the whole meets, but a draw of the prior does."""

    @pytest.mark.thorough
    @pytest.mark.parametrize(
        ("dim", "at", "width", "dtype"),
        [
            (2, 6.0, 0.01, torch.float64),
            (2, 6.0, 0.01, torch.float32),
            (2, 4.0, 0.01, torch.float64),
            (1, 20.0, 0.01, torch.float64),
            (2, 50.0, 0.001, torch.float64),
            *thorough(
                *(
                    (dim, at, width, torch.float64)
                    for dim in (1, 2)
                    for at in (6.0, 20.0)
                    for width in (0.1, 1e-3, 1e-4)
                ),
                (3, 6.0, 0.01, torch.float64),
                (3, 20.0, 0.001, torch.float64),
            ),
        ],
    )
    def test_it_begins_again_at_the_draw(self, dim, at, width, dtype):
        program, x = Spiked(dim, at, width, dtype), torch.full((1, dim), at, dtype=dtype)
        found = quadrature(program, x)
        assert found.reliable.all()
        assert found.value.item() == pytest.approx(program.evidence(x).item(), abs=1e-4)

    def test_of_some_data_the_mass_lies_at_the_spike_of_others_at_both(self):
        """At x = 0.1 the spike holds 0.1 % of p(x), at 2.1 half of it, at 4 nearly all."""
        program, x = Spiked(2, 4.0, 1e-3), torch.tensor([[0.1], [2.1], [4.0]]).double().expand(-1, 2)
        found, exact = quadrature(program, x), program.evidence(x)
        assert ((found.value - exact).abs() < 1e-3).all()
        assert ((found.value - exact).abs() < 1e-4)[found.reliable].all()
        assert found.reliable[-1]

    def test_two_spikes_of_which_one_is_found_are_marked(self):
        """A third of the mass is at each of -6 and 6."""
        program = Spiked(1, 6.0, 1e-4)
        means, widths = torch.tensor([[-6.0], [6.0], [0.0]]).double(), torch.tensor([[1e-4], [1e-4], [1.0]]).double()
        parts = dist.Normal(means, widths).to_event(1)
        other = Program(dist.MixtureSameFamily(dist.Categorical(logits=zeros(3)), parts), torch.zeros_like)
        found = quadrature(other, zeros(1, 1))
        assert not found.reliable.any()
        assert quadrature(program, zeros(1, 1) + 6).reliable.all()

    def test_a_support_without_the_spike_is_marked(self):
        program, x = Spiked(1, 6.0, 0.01), torch.full((1, 1), 6.0).double()
        assert not quadrature(program, x, support=[(-9, 5)], n=513).reliable.any()
        assert not quadrature(program, x, support=[(-9, 9)], n=61).reliable.any()
        assert quadrature(program, x, support=[(5.8, 6.2)], n=513).reliable.all()

    def test_the_identity_holds_at_a_spike(self):
        program, x = Spiked(1, 20.0, 0.01), torch.full((1, 1), 20.0).double()
        terms = identity(program, x)
        assert terms.evidence.value.item() == pytest.approx(program.evidence(x).item(), abs=1e-4)
        assert terms.evidence.reliable.all()

    def test_a_single_datum_prints_what_is_known(self):
        line = str(quadrature(Spiked(1, 6.0, 0.001), torch.full((1, 1), 6.0).double()))
        assert "   n/a over 1 data   " in line
        assert "nan" not in line
        assert "-0e+00" not in line


# What a grid says of itself.


def test_a_grid_that_is_too_small_or_too_coarse_is_marked():
    truth = ProbabilisticPCA()
    x, vae = truth.data(5), truth.vae()
    exact = truth.evidence().log_prob(x)
    good = quadrature(vae, x, support=[(-7, 7)] * 2, n=129)
    assert good.reliable.all()
    assert torch.allclose(good.value, exact, rtol=0, atol=1e-8)
    middle = truth.posterior(x).mean[0]
    cut = quadrature(vae, x[:1], support=[(m.item(), m.item() + 5) for m in middle], n=129)
    assert cut.boundary > 1e-3
    assert not cut.reliable.any()
    assert cut.value < exact[0] - 0.5
    coarse = quadrature(vae, x, support=[(-70, 70)] * 2, n=33)
    assert not coarse.reliable.any()
    assert "UNRELIABLE for 5 data, first 0" in str(coarse)


def test_it_prints_its_cost_and_its_errors():
    truth = ProbabilisticPCA(1)
    found = quadrature(truth.vae(), truth.data(5))
    line = str(found)
    assert "(n^D = 257^1 = 257; " in line
    assert "refinement" in line
    assert "boundary" in line
    assert "UNRELIABLE" not in line
    assert "\n" not in line
    assert found.to_dict()["unreliable"] == 0
    assert found.monte_carlo_error == 0


def test_nothing_is_left_behind():
    vae, x = small_vae(latent_dim=1).train(), binary_data(3)
    state, before = torch.get_rng_state(), copy.deepcopy(vae.state_dict())
    first = quadrature(vae, x).value, identity(vae, x).residual
    posterior_on_grid(vae, x[:1])
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, before[name]) for name, a in vae.state_dict().items())
    assert len(pyro.get_param_store()) == 0
    assert vae.training
    assert all(p.grad is None and p.requires_grad for p in vae.parameters())
    torch.manual_seed(77)
    assert torch.equal(first[0], quadrature(vae, x).value)
    assert torch.equal(first[1], identity(vae, x).residual)


def test_components_of_a_vampprior_are_computed_once():
    posterior = pv.posteriors.DiagonalNormal(pv.networks.MLP((6,), (2,)), 1)
    prior = pv.priors.VampPrior(posterior, num_components=4, x_shape=(6,))
    vae = pv.VAE(prior, posterior, pv.likelihoods.Bernoulli(pv.networks.MLP((1,), (6,)))).double()
    calls = []
    posterior.encoder.register_forward_hook(lambda _, args, out: calls.append(len(args[0])))
    found = quadrature(vae, binary_data(3))
    assert calls.count(4) == 1
    estimate = pv.evaluation.iwae(vae, binary_data(3), 5_000, seed=0)
    assert ((found.value - estimate.value).abs() < 5 * estimate.value_error).all()


class TestErrors:
    def test_more_than_three_latents(self):
        with pytest.raises(ValueError, match=r"n\^D points, and the program has D = 4 latent numbers.*use iwae"):
            quadrature(small_vae(latent_dim=4), binary_data(2))

    def test_latents_that_are_not_real(self):
        program = Program(dist.HalfNormal(torch.ones(1).double()).to_event(1), torch.tanh)
        with pytest.raises(ValueError, match=r"site z is a HalfNormal over .*: a grid needs latents over all real"):
            quadrature(program, zeros(2, 1))

    def test_no_data_and_no_tensor(self):
        vae = small_vae(latent_dim=1)
        with pytest.raises(ValueError, match="x holds no data"):
            quadrature(vae, zeros(0, 6))
        with pytest.raises(TypeError, match="x must be a tensor"):
            quadrature(vae, [[0.0]])

    def test_a_support_that_does_not_fit(self):
        vae = small_vae(latent_dim=2)
        for support, n in (([(-1, 1)], 9), ([(-1, 1)] * 2, 8)):
            with pytest.raises(ValueError, match="support needs"):
                quadrature(vae, binary_data(2), support=support, n=n)

    @pytest.mark.filterwarnings("ignore:Encountered NaN")
    def test_a_program_that_gives_nan(self):
        program = Program(dist.Normal(zeros(1), 1.0).to_event(1), lambda z: z)
        program.prior = Nan(program.prior.base_dist, 1)
        with pytest.raises(ValueError, match=r"log p\(x, z\) is NaN for datum [01] at z = \("):
            quadrature(program, zeros(2, 1))

    def test_a_point_has_an_evidence_but_no_identity(self):
        vae = pv.VAE(
            pv.priors.StandardNormal(1),
            pv.posteriors.Delta(pv.networks.MLP((6,), (1,)), 1),
            pv.likelihoods.Bernoulli(pv.networks.MLP((1,), (6,))),
        ).double()
        assert quadrature(vae, binary_data(2)).reliable.all()
        with pytest.raises(ValueError, match=r"site z is a point \(Delta\)"):
            identity(vae, binary_data(2))


class Nan(dist.Independent):
    def log_prob(self, value):
        return torch.where(value[..., 0] > 3, math.nan, super().log_prob(value))


class TestPicture:
    def test_is_the_exact_posterior_beside_the_guide(self):
        truth = ProbabilisticPCA()
        x, vae = truth.data(1), truth.vae(widen=1.5, shift=0.4)
        (a, b), posterior, guide = posterior_on_grid(vae, x, n=120)
        z = torch.stack(torch.meshgrid(a, b, indexing="ij"), -1)
        assert torch.allclose(posterior, truth.posterior(x).log_prob(z), rtol=0, atol=1e-2)
        assert torch.allclose(guide, vae.posterior(x).log_prob(z), rtol=0, atol=1e-2)
        cell = (a[1] - a[0]) * (b[1] - b[0])
        for density in (posterior, guide):
            assert (density.exp().sum() * cell).item() == pytest.approx(1, abs=1e-3)

    def test_of_one_latent(self):
        truth = ProbabilisticPCA(1)
        (axis,), posterior, _ = posterior_on_grid(truth.vae(), truth.data(1), n=150)
        exact = truth.posterior(truth.data(1)).log_prob(axis[:, None])
        assert np.allclose(posterior, exact, atol=1e-3)

    def test_of_several_data_or_three_latents(self):
        with pytest.raises(ValueError, match="got 2 data"):
            posterior_on_grid(small_vae(latent_dim=1), binary_data(2))
        with pytest.raises(ValueError, match="at most 2 axes; the program has 3"):
            posterior_on_grid(small_vae(latent_dim=3), binary_data(1))
