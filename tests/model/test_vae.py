"""The program under stock Pyro, unchanged, and what a VAE offers beside it."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from cases import thorough
from exact import ProbabilisticPCA, binary_data, small_vae
from pyro import poutine
from pyro.infer import SVI, Predictive, RenyiELBO, Trace_ELBO, TraceMeanField_ELBO

import pyro_vae as pv
from pyro_vae.errors import DataError


@pytest.fixture
def x():
    return binary_data(16)


@pytest.mark.parametrize(
    "loss",
    [
        Trace_ELBO(),
        Trace_ELBO(num_particles=7, vectorize_particles=True),
        TraceMeanField_ELBO(),
        TraceMeanField_ELBO(num_particles=7, vectorize_particles=True, max_plate_nesting=1),
        *thorough(RenyiELBO(alpha=0, num_particles=7)),
        RenyiELBO(alpha=0, num_particles=7, vectorize_particles=True),
    ],
    ids=lambda loss: f"{type(loss).__name__}-{loss.num_particles}-{loss.vectorize_particles}",
)
def test_stock_svi_trains_with_every_elbo(loss, x):
    vae = small_vae()
    svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 3e-2}), loss)
    before = sum(svi.evaluate_loss(x) for _ in range(20))
    for _ in range(40):
        svi.step(x)
    assert sum(svi.evaluate_loss(x) for _ in range(20)) < before - 20  # a nat a pass, of some 60


def test_predictive_without_data_generates():
    draws = Predictive(small_vae().model, num_samples=50)()
    assert draws["x"].shape == (50, 1, 6)
    assert draws["z"].shape == (50, 1, 3)
    assert len(draws["x"].unique(dim=0)) > 1


@pytest.mark.parametrize("parallel", [False, True])
def test_posterior_predictive_draws_need_the_observation_released(parallel, x):
    vae = small_vae()
    observed = Predictive(vae.model, guide=vae.guide, num_samples=20, parallel=parallel)(x)["x"]
    assert (observed == x).all()  # the trap: the data themselves come back
    free = poutine.uncondition(vae.model)
    draws = Predictive(free, guide=vae.guide, num_samples=20, parallel=parallel)(x)["x"]
    assert draws.reshape(20, 16, 6).shape == (20, 16, 6)
    assert not (draws.reshape(20, 16, 6) == x).all()


@pytest.mark.parametrize("handler", [poutine.condition, poutine.do])
def test_z_can_be_conditioned_and_intervened_on(handler, x):
    vae = small_vae()
    z = torch.randn(16, 3, dtype=torch.float64)
    trace = poutine.trace(handler(vae.model, {"z": z})).get_trace(x)
    trace.compute_log_prob()
    expected = vae.likelihood(z).log_prob(x)
    assert torch.allclose(trace.nodes["x"]["log_prob"], expected, rtol=0, atol=1e-12)


def test_the_model_generates_as_many_as_labels_else_one():
    vae = small_vae()
    vae.prior.forward = lambda y: dist.Normal(torch.zeros(3).double(), 1.0).to_event(1)
    vae.likelihood.decode = lambda z, y: vae.likelihood.decoder(z)
    assert vae.model().shape == (1, 6)
    assert vae.model(None, torch.eye(4).double()).shape == (4, 6)


def test_conditioning_the_model_on_data_with_one_z_is_refused(x):
    vae = small_vae()
    with pytest.raises(
        ValueError,
        match=r"shape \(16, 6\), but the model generates one of shape \(1, 6\).*pass the data as the argument",
    ):
        poutine.condition(vae.model, {"x": x})(None)
    assert torch.equal(poutine.condition(vae.model, {"x": x[:1]})(None), x[:1])


def test_the_guide_needs_data_and_says_so():
    with pytest.raises(ValueError, match="needs the data"):
        small_vae().guide(None)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (torch.full((2, 6), 0.37), r"Bernoulli needs x in \{0, 1\}; got 0.37 at datum 0, position \(0,\).*Binarise"),
        (torch.tensor([[0.0] * 6, [0, 0, 2, 0, 0, 0]]), r"got 2 at datum 1, position \(2,\)"),
        (torch.zeros(2, 5), r"takes tensors \(\*, 6\)"),
    ],
)
def test_unsupported_data_are_refused_under_stock_svi(bad, message):
    vae = small_vae()
    svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO())
    with pytest.raises(ValueError, match=message):
        svi.step(bad.double())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_data_that_are_not_finite_are_refused_by_both_halves(value):
    vae, x = small_vae(), torch.zeros(3, 6).double()
    x[1, 4] = value
    for half in (vae.model, vae.guide):
        with pytest.raises(DataError, match=rf"{value}.*datum 1, position \(4,\)"):
            half(x)


def test_data_of_another_shape_than_the_decoder_are_refused():
    vae = small_vae()
    with pytest.raises(DataError, match=r"shape \(6,\); got x of shape \(2, 7\)"):
        vae.model(torch.zeros(2, 7).double())


def test_generation_follows_the_marginal_of_the_model():
    # Linear-Gaussian: x ~ N(b, WW' + s^2). z-test on every mean and variance, 4.5 standard errors (10 tests, 7e-5).
    truth = ProbabilisticPCA()
    n = 20_000
    x = truth.vae().generate(n)
    exact = truth.evidence()
    deviation = (x.mean(0) - exact.mean) / (exact.variance / n).sqrt()
    spread = (x.var(0) / exact.variance - 1) / (2 / n) ** 0.5
    assert deviation.abs().max() < 4.5
    assert spread.abs().max() < 4.5
    means = truth.vae().generate(n, mean=True)
    assert (means.var(0) < x.var(0)).all()


def test_reconstructions_are_stochastic_and_differ_between_draws(x):
    vae = small_vae()
    several = vae.reconstruct(x, num_samples=4)
    assert several.shape == (4, 16, 6)
    assert (several[0] != several[1]).any()
    assert set(vae.reconstruct(x, mean=False).unique().tolist()) == {0.0, 1.0}


def test_interpolation_runs_from_one_reconstruction_to_the_other(x):
    vae = small_vae()
    line = vae.interpolate(x[:1], x[1:2], steps=5)
    assert line.shape == (5, 1, 6)
    ends = vae.likelihood(vae.posterior(x[:2]).mean).mean
    assert torch.allclose(line[[0, -1], 0], ends, rtol=0, atol=1e-12)


def test_drawing_pictures_leaves_flags_store_and_gradients_alone(x):
    vae = small_vae().train()
    for drawn in (vae.generate(3), vae.reconstruct(x), vae.interpolate(x[:1], x[1:2])):
        assert not drawn.requires_grad
    assert vae.training
    assert vae.posterior.encoder.training
    assert not list(pyro.get_param_store())


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ((1, 0, 2), "prior must be an instance of pyro_vae.model.priors.Prior; got a DiagonalNormal"),
        ((3, 1, 2), "prior must be an instance of .*; got the class StandardNormal"),
    ],
)
def test_swapped_members_and_classes_are_refused(members, message):
    vae = small_vae()
    parts = [vae.prior, vae.posterior, vae.likelihood, type(vae.prior)]
    with pytest.raises(TypeError, match=message):
        pv.VAE(*(parts[i] for i in members))


@pytest.mark.parametrize(("of_prior", "of_posterior"), [(1, 3), (3, 1), (2, 3)])
def test_a_prior_and_a_posterior_of_other_latents_are_refused(of_prior, of_posterior, x):
    vae = small_vae(of_posterior)
    with pytest.raises(ValueError, match=rf"latent_dim={of_prior}\) and DiagonalNormal\(latent_dim={of_posterior}"):
        pv.VAE(pv.priors.StandardNormal(of_prior), vae.posterior, vae.likelihood)
    vae.prior = pv.priors.StandardNormal(of_prior).double()  # a hot swap
    for use in (pv.evaluation.elbo, pv.evaluation.iwae):
        with pytest.raises(ValueError, match="over the same z"):
            use(vae, x, 3)


def test_arrays_that_are_no_tensors_are_refused_with_the_cure(x):
    vae = small_vae()
    calls = [
        vae.model,
        vae.guide,
        vae.reconstruct,
        lambda a: vae.interpolate(a, a),
        lambda a: pv.evaluation.elbo(vae, a, 2),
    ]
    for call in calls:
        with pytest.raises(TypeError, match=r"x must be a tensor; got ndarray: torch.as_tensor\(x\)"):
            call(x.numpy())


def test_a_line_needs_two_ends(x):
    with pytest.raises(ValueError, match="each line needs two ends"):
        small_vae().interpolate(x[:2], x[:3])


# A chosen class.

GREY_OF_CLASS = torch.tensor([-2.0, 0.5, 3.0], dtype=torch.float64)


class ClassDecoder(torch.nn.Module):
    """x = z_0 + the number of the class, on four pixels."""

    def forward(self, z, y):
        return (z[..., 0] + y @ GREY_OF_CLASS)[..., None].expand(*torch.broadcast_shapes(z.shape[:-1], y.shape[:-1]), 4)


class ClassEncoder(torch.nn.Module):
    """q(z|x, y) = N(x_0 - the number of the class, e^-3) in the first dimension, N(0, e^-3) in the second."""

    def forward(self, x, y):
        loc = x[:, 0] - y @ GREY_OF_CLASS
        return torch.stack([loc, 0 * loc, 0 * loc - 3, 0 * loc - 3], -1)


def class_vae(prior=None):
    posterior, likelihood = pv.posteriors.DiagonalNormal(ClassEncoder(), 2), pv.likelihoods.Normal(ClassDecoder(), 0.1)
    return pv.VAE(prior or pv.priors.StandardNormal(2), posterior, likelihood).double()


def one_hot(*labels):
    return torch.eye(3, dtype=torch.float64)[list(labels)]


@pytest.mark.parametrize("mean", [True, False])
def test_generation_of_a_chosen_class_follows_its_marginal(mean):
    """x_i ~ N(class, 1 + 0.1^2), or N(class, 1) for the means: 3 classes x 4 pixels within 4.5 errors (1e-4)."""
    n, variance = 4000, 1.0 if mean else 1.01
    x = class_vae().generate(y=one_hot(0, 1, 2).repeat_interleave(n, 0), mean=mean).reshape(3, n, 4)
    assert ((x.mean(1) - GREY_OF_CLASS[:, None]).abs() < 4.5 * (variance / n) ** 0.5).all()
    assert ((x.var(1) / variance - 1).abs() < 4.5 * (2 / n) ** 0.5).all()


def test_generation_draws_z_from_the_prior_of_the_class():
    prior = pv.priors.ConditionalNormal(2, 3)
    with torch.no_grad():
        prior.means.copy_(torch.tensor([[10.0, 0.0], [20.0, 0.0], [30.0, 0.0]]))
        prior.log_scales.fill_(-20.0)
    x = class_vae(prior).generate(y=one_hot(2, 0, 1, 2), mean=True)
    expected = torch.tensor([33.0, 8.0, 20.5, 33.0], dtype=torch.float64)
    assert torch.allclose(x, expected[:, None].expand(4, 4), rtol=0, atol=1e-6)


def test_reconstructions_are_given_the_labels():
    """z is x_0 minus the class, to which the decoder adds it again: x_0 with a sigma of e^-3 < 0.05; 4.5 errors."""
    x = torch.linspace(-5, 5, 6, dtype=torch.float64)[:, None].repeat(1, 4)
    y = one_hot(0, 1, 2, 2, 1, 0)
    vae = class_vae()
    several = vae.reconstruct(x, y, num_samples=500)
    assert several.shape == (500, 6, 4)
    assert ((several.mean(0) - x).abs() < 4.5 * 0.05 / 500**0.5).all()


def test_the_two_halves_of_a_reconstruction_see_the_same_labels():
    vae, seen = class_vae(), []
    for half in (vae.posterior.encoder, vae.likelihood.decoder):
        half.register_forward_hook(lambda module, args, output: seen.append(args[1]))
    y = one_hot(0, 2)
    vae.reconstruct(torch.zeros(2, 4).double(), y, num_samples=3)
    vae.interpolate(torch.zeros(2, 4).double(), torch.ones(2, 4).double(), y=y)
    assert len(seen) == 5
    assert all(torch.equal(labels, y.repeat(len(labels) // 2, 1)) for labels in seen)


def test_interpolation_keeps_the_class_along_the_line():
    start, end = torch.zeros(2, 4).double(), torch.full((2, 4), 8.0).double()
    line = class_vae().interpolate(start, end, steps=5, y=one_hot(1, 2))
    expected = torch.tensor([0.0, 2.0, 4.0, 6.0, 8.0], dtype=torch.float64)
    assert torch.allclose(line, expected[:, None, None].expand(5, 2, 4), rtol=0, atol=1e-12)


def test_interpolation_to_another_class_takes_the_label_along():
    """z goes from -0.5 to 5 and the class from 0.5 to 3: x, their sum, from 0 to 8."""
    start, end = torch.zeros(1, 4).double(), torch.full((1, 4), 8.0).double()
    line = class_vae().interpolate(start, end, 5, one_hot(1), y_end=one_hot(2))
    expected = torch.tensor([0.0, 2.0, 4.0, 6.0, 8.0], dtype=torch.float64)
    assert torch.allclose(line, expected[:, None, None].expand(5, 1, 4), rtol=0, atol=1e-12)
    z = class_vae().latent_path(start, end, 5, one_hot(1), y_end=one_hot(2))
    assert torch.allclose(z[[0, -1], 0, 0], torch.tensor([-0.5, 5.0], dtype=torch.float64), rtol=0, atol=1e-12)


def test_labels_and_a_number_that_contradict_are_refused():
    with pytest.raises(ValueError, match="leave num_data out"):
        small_vae().generate(3, torch.eye(4))
