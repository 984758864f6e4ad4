"""Priors against scipy, loops and Jacobians, and by their contract: one table with a case for each member."""

import contextlib
import copy
import pickle
import subprocess
import sys

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import safetensors.torch
import scipy.stats
import torch
from densities import (
    check_sampler,
    full_normal,
    members,
    mixture,
    normal,
    one_after_another,
    perturbed,
    posterior_log_prob,
    pushed_forward,
)
from pyro.infer import SVI, Trace_ELBO
from torch import nn

import pyro_vae as pv
from pyro_vae.evaluation import weights
from pyro_vae.model.program import once, remembering
from pyro_vae.randomness import stream

D, C, SHAPE = 3, 3, (1, 2, 4)
LABELS = torch.eye(C, dtype=torch.float64)[[0, 1, 2, 2, 1]]


class Case:
    """How to build a prior and the program around it, and its log-density at z (n, D), given one label or none."""

    def __init__(self, kind, reference, posterior="DiagonalNormal", y_dim=0, **options):
        self.kind, self.reference, self.posterior, self.y_dim = kind, reference, posterior, y_dim
        self.options = options

    def build_posterior(self, latent_dim=D):
        kind = getattr(pv.posteriors, self.posterior)
        shape, small = kind.encoder_shape(latent_dim), {"hidden": (5,), "activation": nn.Tanh, "y_dim": self.y_dim}
        flow = {"flow_transforms": 2, "flow_hidden": (6,)} if self.posterior == "FlowPosterior" else {}
        return kind(pv.networks.MLP(SHAPE, shape, **small), latent_dim, **flow)

    def build_prior(self, latent_dim=D):
        if self.kind == "VampPrior":
            return pv.priors.VampPrior(self.build_posterior(latent_dim), SHAPE, y_dim=self.y_dim, **self.options)
        labels = {"y_dim": self.y_dim} if self.kind == "ConditionalNormal" else {}
        return getattr(pv.priors, self.kind)(latent_dim, **labels, **self.options)

    def build(self, latent_dim=D):
        return perturbed(self.build_prior(latent_dim))

    def program(self):
        prior = self.build_prior()
        posterior = prior.posterior if self.kind == "VampPrior" else self.build_posterior()
        decoder = pv.networks.MLP((D,), SHAPE, hidden=(5,), activation=nn.Tanh, y_dim=self.y_dim)
        return perturbed(pv.VAE(prior, posterior, pv.likelihoods.Bernoulli(decoder)))

    @property
    def y(self):
        return LABELS if self.y_dim else None

    @property
    def batch_shape(self):
        return (len(LABELS),) if self.kind == "ConditionalNormal" else ()


def diagonal(prior, z, y):
    return normal(z, numbers(prior.mean), numbers(prior.log_scale.exp()))


def full(prior, z, y):
    root = np.zeros((D, D))
    for i in range(D):
        root[i, i] = np.exp(prior.root[i, i].item())
        for j in range(i):
            root[i, j] = prior.root[i, j].item()
    return full_normal(z, numbers(prior.mean), root @ root.T)


def conditional(prior, z, y):
    label = y.argmax()
    return normal(z, numbers(prior.means[label]), numbers(prior.log_scales[label].exp()))


def mixture_of_normals(prior, z, y):
    means, scales = numbers(prior.means), numbers(prior.log_scales.exp())
    log_weights = np.log(scipy.special.softmax(numbers(prior.logits)))
    return mixture(log_weights, [normal(z, mean, scale) for mean, scale in zip(means, scales, strict=True)])


def vamp(prior, z, y):
    columns = []
    for k, pseudo_x in enumerate(prior.pseudo_x):
        labels = () if prior.pseudo_y is None else (prior.pseudo_y[k],)
        columns.append(posterior_log_prob(prior.posterior, prior.posterior.encoder(pseudo_x, *labels).detach(), z))
    return mixture(-np.log(len(columns)), columns)


def flow(prior, z, y):
    return pushed_forward(one_after_another(prior.flow.transform.transforms), z)


def numbers(tensor):
    return tensor.detach().numpy()


SMALL_FLOW = {"flow_transforms": 2, "flow_hidden": (6,)}
CASES = {
    "StandardNormal": Case("StandardNormal", lambda p, z, y: scipy.stats.norm.logpdf(z).sum(-1)),
    "DiagonalNormal": Case("DiagonalNormal", diagonal),
    "FullNormal": Case("FullNormal", full),
    "Laplace": Case("Laplace", lambda p, z, y: scipy.stats.laplace.logpdf(z).sum(-1)),
    "StudentT": Case("StudentT", lambda p, z, y: scipy.stats.t.logpdf(z, 3.5).sum(-1), df=3.5),
    "ConditionalNormal": Case("ConditionalNormal", conditional, y_dim=C),
    "MixtureOfNormals": Case("MixtureOfNormals", mixture_of_normals, num_components=4),
    "VampPrior over DiagonalNormal": Case("VampPrior", vamp, num_components=4),
    "VampPrior over DiagonalNormal, labels": Case("VampPrior", vamp, num_components=4, y_dim=C),
    "VampPrior over FullNormal": Case("VampPrior", vamp, "FullNormal", num_components=4),
    "VampPrior over LowRankNormal": Case("VampPrior", vamp, "LowRankNormal", num_components=4),
    "VampPrior over FlowPosterior": Case("VampPrior", vamp, "FlowPosterior", num_components=2),
    "FlowPrior, spline": Case("FlowPrior", flow, flow="spline", **SMALL_FLOW),
    "FlowPrior, autoregressive": Case("FlowPrior", flow, flow="autoregressive", **SMALL_FLOW),
}
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
vamps = pytest.mark.parametrize(
    "case", [c for c in CASES.values() if c.kind == "VampPrior"], ids=[n for n in CASES if n.startswith("Vamp")]
)


def data(size=5, seed=0):
    return torch.rand(size, *SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).round()


def latents(*shape):
    return 1.5 * torch.randn(*shape, D, dtype=torch.float64)


def test_every_member_has_a_case():
    assert members(pv.priors, pv.priors.Prior) == {case.kind for case in CASES.values()}


@every_case
def test_density_equals_the_slow_reference(case):
    prior, z = case.build(), latents(6)
    p = prior(case.y)
    assert (p.batch_shape, p.event_shape) == (case.batch_shape, (D,))
    if not case.batch_shape:
        np.testing.assert_allclose(numbers(p.log_prob(z)), case.reference(prior, z, None), rtol=1e-8)
        return
    found = p.log_prob(z[:, None])
    assert found.shape == (6, *case.batch_shape)
    for b, label in enumerate(case.y):
        np.testing.assert_allclose(numbers(found[:, b]), case.reference(prior, z, label), rtol=1e-8)


@every_case
def test_plates_expand_it(case):
    p, z = case.build()(case.y), latents(4, len(LABELS))
    wide = p.expand((4, len(LABELS)))
    assert (wide.batch_shape, wide.event_shape) == ((4, len(LABELS)), (D,))
    assert wide.sample().shape == z.shape
    assert wide.sample((2,)).shape == (2, *z.shape)
    assert torch.allclose(wide.log_prob(z), p.log_prob(z), rtol=1e-12)
    assert wide.log_prob(z[0, 0]).shape == wide.batch_shape
    with pyro.plate("draws", 4, dim=-2), pyro.plate("data", len(LABELS), dim=-1):
        assert pyro.sample("z", p).shape == z.shape


@every_case
def test_draws_have_the_density(case):
    y = None if case.y is None else case.y[2]
    check_sampler(case.build(latent_dim=2)(y))


@every_case
def test_draws_of_every_label_and_plate_are_apart(case):
    p = case.build()(case.y).expand((4, len(LABELS)))
    assert len(p.sample().flatten(0, 1).unique(dim=0)) == 4 * len(LABELS)


@every_case
def test_the_density_moves_every_parameter(case):
    prior = case.build()
    parameters = list(prior.parameters())
    assert bool(parameters) == (case.kind not in ("StandardNormal", "Laplace", "StudentT"))
    if parameters:
        prior(case.y).log_prob(latents(20, len(LABELS))).sum().backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in parameters)


@every_case
def test_it_computes_in_the_precision_it_is_moved_to(case):
    for dtype in (torch.float32, torch.float64):
        prior = case.build_prior().to(dtype)
        p = prior(None if case.y is None else case.y.to(dtype))
        assert p.sample().dtype == p.log_prob(p.sample()).dtype == dtype


@every_case
def test_a_program_that_holds_it_trains_copies_and_travels(case):
    vae, x, z = case.program(), data(), latents(len(LABELS))
    loss = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO())
    before = copy.deepcopy(vae.tensors())
    loss.step(x, case.y)
    assert all(not torch.equal(before[name], p) for name, p in vae.named_parameters())

    log_prob = vae.prior(case.y).log_prob(z)
    for twin in (copy.deepcopy(vae), pickle.loads(pickle.dumps(vae))):  # noqa: S301
        assert torch.equal(twin.prior(case.y).log_prob(z), log_prob)
        assert not {p.data_ptr() for p in vae.parameters()} & {p.data_ptr() for p in twin.parameters()}
        if case.kind == "VampPrior":
            assert twin.prior.posterior is twin.posterior


@every_case
def test_a_program_that_holds_it_is_saved_and_loaded(case):
    vae, other, z = case.program(), case.program(), latents(len(LABELS))
    log_prob = vae.prior(case.y).log_prob(z)
    if list(vae.prior.parameters()):
        assert not torch.allclose(other.prior(case.y).log_prob(z), log_prob)
    other.set_tensors(safetensors.torch.load(safetensors.torch.save(vae.tensors())))
    assert torch.equal(other.prior(case.y).log_prob(z), log_prob)


@vamps
def test_the_shared_encoder_is_saved_once_under_the_posteriors_name(case):
    vae = case.program()
    assert not [name for name in vae.tensors() if name.startswith("prior.posterior")]
    assert [name for name in vae.tensors() if name.startswith("posterior.encoder.")]
    assert len({tensor.data_ptr() for tensor in vae.tensors().values()}) == len(vae.tensors())


class TestWholeVectorsAreMixed:
    """Two clusters on the diagonal of the plane. Mixed dimension by dimension there would be four."""

    @pytest.fixture(params=["MixtureOfNormals", "VampPrior"])
    def prior(self, request):
        centres = torch.tensor([[3.0, 3.0], [-3.0, -3.0]], dtype=torch.float64)
        if request.param == "VampPrior":
            encoder = _Encoder(lambda x: torch.cat([x, torch.full_like(x, -1.0)], -1))
            prior = pv.priors.VampPrior(pv.posteriors.DiagonalNormal(encoder, 2), (2,), num_components=2).double()
            prior.pseudo_x.data.copy_(centres)
            return prior
        prior = pv.priors.MixtureOfNormals(2, num_components=2).double()
        prior.means.data.copy_(centres)
        return prior

    def test_by_the_density(self, prior):
        corners = torch.tensor([[3.0, 3.0], [3.0, -3.0], [-3.0, 3.0], [-3.0, -3.0]], dtype=torch.float64)
        density = prior().log_prob(corners).exp()
        assert torch.allclose(density[[0, 3]], density[0])
        assert (density[[1, 2]] < 1e-6 * density[0]).all()

    def test_by_the_draws(self, prior):
        # Half of the draws on either cluster, 5 standard errors: false alarm 6e-7.
        signs = prior().sample((4000,)).sign()
        assert ((signs[:, 0] == signs[:, 1]).double().mean() - 1).abs() < 2e-3
        assert abs(signs[:, 0].mean()) < 5 / 4000**0.5


class _Encoder(nn.Module):
    """A function as a module, that counts its calls."""

    def __init__(self, function):
        super().__init__()
        self.function, self.calls = function, 0

    def forward(self, *args):
        self.calls += 1
        return self.function(*args)


class TestStart:
    @staticmethod
    def vamp(pseudo_inputs="data", num_components=6, y_dim=0):
        case = Case("VampPrior", None, y_dim=y_dim, num_components=num_components, pseudo_inputs=pseudo_inputs)
        return case.build_prior().double()

    def test_pseudo_inputs_are_training_data_and_bring_their_labels(self):
        x = torch.arange(20.0).double()[:, None, None, None].expand(20, *SHAPE)
        y = torch.eye(C).double()[torch.arange(20) % C]
        prior = self.vamp(y_dim=C)
        prior.start_at(prior.posterior, x, y)
        drawn = prior.pseudo_x[:, 0, 0, 0].long()
        assert torch.equal(prior.pseudo_x, x[drawn])
        assert torch.equal(prior.pseudo_y, y[drawn])
        assert len(drawn.unique()) == 6

    def test_random_pseudo_inputs_span_the_range_of_the_data(self):
        prior = self.vamp("random")
        prior.start_at(prior.posterior, 20 * data() - 10)
        assert prior.pseudo_x.unique().numel() == prior.pseudo_x.numel()
        assert -10 <= prior.pseudo_x.min() < -5
        assert 5 < prior.pseudo_x.max() <= 10

    def test_fewer_data_than_components_are_used_about_equally_often(self):
        x = torch.arange(4.0).double()[:, None, None, None].expand(4, *SHAPE)
        prior = self.vamp(num_components=10)
        prior.start_at(prior.posterior, x)
        assert prior.pseudo_x[:, 0, 0, 0].long().bincount(minlength=4).sort().values.tolist() == [2, 2, 3, 3]
        mixed = pv.priors.MixtureOfNormals(D, num_components=10).double()
        mixed.start_at(prior.posterior, x)
        assert torch.isfinite(mixed.means).all()

    def test_it_stays_a_parameter_that_trains(self):
        prior = self.vamp()
        parameter = prior.pseudo_x
        prior.start_at(prior.posterior, data())
        assert prior.pseudo_x is parameter
        assert parameter.requires_grad

    def test_a_mixture_has_mean_0_and_variance_1(self):
        # With 1000 components the standard error of a variance is 0.25 * sqrt(2 / 1000) = 0.011, of a mean
        # 0.5 / sqrt(1000) = 0.016; 5 of them: false alarm 6e-7 each.
        prior = pv.priors.MixtureOfNormals(D, num_components=1000).double()
        assert ((prior().variance - 1).abs() < 0.055).all()
        assert (prior().mean.abs() < 0.08).all()

    def test_a_mixture_starts_with_the_mean_and_spread_of_encoded_data(self):
        # z = 1 + 3 (0.8 x + 0.6 eps) ~ N(1, 9). Relative standard error of a variance from 1000 draws, 3/4 of it from
        # one thousand and 1/4 from another: sqrt(2 / 1000) * 0.79 = 0.035, of the mean 0.053 * 3; 5 of them.
        posterior = pv.posteriors.DiagonalNormal(
            lambda x: torch.cat([1 + 2.4 * x, torch.full_like(x, np.log(1.8))], -1), D
        )
        prior = pv.priors.MixtureOfNormals(D, num_components=1000).double()
        prior.start_at(posterior, torch.randn(5000, D).double())
        assert ((prior().variance / 9 - 1).abs() < 0.18).all()
        assert ((prior().mean - 1).abs() < 0.8).all()

    def test_a_mixture_starts_at_encoded_data(self):
        centres = torch.tensor([[2.0, 0.0, 4.0], [-6.0, 2.0, 0.0]], dtype=torch.float64)
        posterior = pv.posteriors.DiagonalNormal(lambda x: torch.cat([x, torch.full_like(x, -1e4)], -1), D, floor=1e-9)
        prior = pv.priors.MixtureOfNormals(D, num_components=2).double()
        prior.start_at(posterior, centres)
        means = prior.means[prior.means[:, 0].argsort(descending=True)]
        middle = centres.mean(0)
        assert torch.allclose(means, middle + pv.priors.MixtureOfNormals.SPREAD * (centres - middle), atol=1e-7)

    def test_it_encodes_the_label_of_each_datum(self):
        y = torch.eye(C).double()
        posterior = pv.posteriors.DiagonalNormal(
            lambda x, y: torch.cat([y + x, torch.full_like(y, -1e4)], -1), C, floor=1e-9
        )
        prior = pv.priors.MixtureOfNormals(C, num_components=3).double()
        prior.start_at(posterior, 10 * y, y)
        # z is 11 for one class in three: half of that, and half of the centre 11 / 3, up to 1000 not being 3 times 333.
        highest = prior.means.sort(0, descending=True).values[0]
        assert torch.allclose(highest, torch.full((C,), 11 / 2 + 11 / 6).double(), atol=0.01)

    @pytest.mark.parametrize("kind", ["vamp", "mixture"])
    def test_it_is_a_function_of_the_stream(self, kind):
        def started():
            with stream(7, "start"):
                prior = self.vamp() if kind == "vamp" else pv.priors.MixtureOfNormals(D, num_components=6).double()
                prior.start_at(_posterior, data(50))
            return torch.cat([p.flatten() for p in prior.parameters()])

        with stream(0, "init"):
            _posterior = Case("StandardNormal", None).build_posterior().double()
        assert torch.equal(started(), started())

    @every_case
    def test_every_prior_can_be_asked_and_the_others_stay(self, case):
        vae = case.program()
        before = copy.deepcopy(vae.tensors())
        vae.prior.start_at(vae.posterior, data(), case.y)
        moved = {name for name, tensor in vae.tensors().items() if not torch.equal(tensor, before[name])}
        assert moved <= {"prior.pseudo_x", "prior.pseudo_y", "prior.means", "prior.log_scales"}
        assert bool(moved) == (case.kind in ("VampPrior", "MixtureOfNormals"))


class TestComponentsAreComputedOnce:
    @staticmethod
    def program():
        vae = Case("VampPrior", None, num_components=4).program()
        calls = []
        vae.posterior.encoder.register_forward_hook(lambda module, args, output: calls.append(args[0]))
        return vae, calls

    def test_inside_remembering_and_anew_outside(self):
        vae, calls = self.program()
        for _ in range(2):
            with remembering({}):
                vae.prior(), vae.prior()
        assert len(calls) == 2
        vae.prior(), vae.prior()
        assert len(calls) == 4

    def test_two_priors_do_not_share_a_memory(self):
        first, second, z = self.program()[0].prior, self.program()[0].prior, latents(5)
        expected = first().log_prob(z), second().log_prob(z)
        with remembering({}):
            first(), second()
            found = first().log_prob(z), second().log_prob(z)
        assert torch.equal(found[0], expected[0])
        assert torch.equal(found[1], expected[1])
        assert not torch.allclose(*expected)

    def test_the_inner_of_two_contexts_has_its_own_memory(self):
        values = iter(range(9))
        with remembering({}):
            assert once("key", lambda: next(values)) == 0
            with remembering({}):
                assert once("key", lambda: next(values)) == 1
            assert once("key", lambda: next(values)) == 0
        assert once("key", lambda: next(values)) == 2

    @pytest.mark.parametrize("estimate", [pv.evaluation.elbo, pv.evaluation.iwae])
    def test_an_evaluation_encodes_pseudo_inputs_once_and_gives_the_same_digits(self, estimate, monkeypatch):
        # 70 draws are three blocks, so the guide encodes the data three times.
        (vae, calls), x = self.program(), data(7)
        cached = estimate(vae, x, num_samples=70, seed=0)
        # Beside the three blocks, the data are encoded twice to measure how large a block may be.
        assert sorted(len(call) for call in calls) == [4, 7, 7, 7, 7, 7]
        calls.clear()
        monkeypatch.setattr(weights, "remembering", lambda memory: contextlib.nullcontext())
        plain = estimate(vae, x, num_samples=70, seed=0)
        assert len(calls) == 10
        assert torch.equal(cached.value, plain.value)
        assert torch.equal(cached.value_error, plain.value_error)

    def test_what_comes_after_an_evaluation_sees_fresh_components(self):
        (vae, _), x, z = self.program(), data(7), latents(5)
        before = pv.evaluation.elbo(vae, x, num_samples=3, seed=0)
        log_prob = vae.prior().log_prob(z)
        assert log_prob.requires_grad
        loss = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-1}), Trace_ELBO())
        pseudo_x = vae.prior.pseudo_x.clone()
        loss.step(x)
        assert not torch.equal(vae.prior.pseudo_x, pseudo_x)
        assert not torch.allclose(vae.prior().log_prob(z), log_prob)
        twin = copy.deepcopy(vae)
        after = pv.evaluation.elbo(vae, x, num_samples=3, seed=0)
        assert torch.equal(after.value, pv.evaluation.elbo(twin, x, num_samples=3, seed=0).value)
        assert not torch.allclose(after.value, before.value)

    def test_between_two_blocks_the_caller_sees_fresh_components(self):
        (vae, calls), x = self.program(), data(7)
        blocks = weights.draw_blocks(vae, x, 70, None, 0, weights.read_log_weights)
        next(blocks)
        calls.clear()
        assert vae.prior().log_prob(latents(1)).requires_grad
        assert len(calls) == 1

    def test_an_exception_leaves_no_memory_behind(self):
        (vae, calls), x = self.program(), data(7)

        def fails(pair):
            raise RuntimeError("in the consumer")

        with pytest.raises(RuntimeError, match="in the consumer"):
            list(weights.draw_blocks(vae, x, 2, None, 0, fails))
        with pytest.raises(RuntimeError), remembering({}):
            raise RuntimeError
        calls.clear()
        vae.prior(), vae.prior()
        assert len(calls) == 2
        assert vae.prior().log_prob(latents(1)).requires_grad


class TestLabels:
    def test_a_vamp_prior_does_not_depend_on_the_label_but_on_those_of_its_pseudo_inputs(self):
        prior, z = CASES["VampPrior over DiagonalNormal, labels"].build(), latents(5)
        log_prob = prior().log_prob(z)
        assert torch.equal(prior(LABELS).log_prob(z), log_prob)
        prior.pseudo_y.copy_(prior.pseudo_y.roll(1, 0))
        assert not torch.allclose(prior().log_prob(z), log_prob)

    def test_pseudo_labels_are_data_of_the_program_and_not_trained(self):
        vae = CASES["VampPrior over DiagonalNormal, labels"].program()
        assert "prior.pseudo_y" in vae.tensors()
        assert "prior.pseudo_y" not in dict(vae.named_parameters())
        assert torch.equal(vae.prior.pseudo_y, torch.eye(C).double()[[0, 1, 2, 0]])

    def test_the_label_chooses_the_normal(self):
        prior = pv.priors.ConditionalNormal(D, y_dim=C).double()
        prior.means.data.copy_(torch.arange(3.0)[:, None].expand(C, D))
        assert torch.equal(prior(LABELS).mean[:, 0], torch.tensor([0.0, 1.0, 2.0, 2.0, 1.0]).double())
        assert prior(LABELS.expand(7, *LABELS.shape)).batch_shape == (7, len(LABELS))

    @pytest.mark.parametrize("name", ["ConditionalNormal", "VampPrior over DiagonalNormal, labels"])
    def test_evaluation_and_generation_take_labels(self, name):
        vae = CASES[name].program()
        found = pv.evaluation.elbo(vae, data(), num_samples=4, y=LABELS, seed=0)
        assert found.kind == {"z": "analytic" if name == "ConditionalNormal" else "sampled"}
        assert torch.isfinite(found.value).all()
        assert vae.generate(y=LABELS).shape == (len(LABELS), *SHAPE)


def test_at_their_start_learned_normals_are_the_standard_one():
    z = latents(6)
    expected = pv.priors.StandardNormal(D).double()().log_prob(z)
    for prior in (pv.priors.DiagonalNormal(D), pv.priors.FullNormal(D)):
        assert torch.allclose(prior.double()().log_prob(z), expected, rtol=1e-12)
    for row in pv.priors.ConditionalNormal(D, y_dim=C).double()(LABELS).log_prob(z[:, None]).T:
        assert torch.allclose(row, expected, rtol=1e-12)


def test_a_full_normal_reads_only_the_lower_triangle():
    prior = pv.priors.FullNormal(D).double()
    prior.root.data.copy_(torch.triu(torch.ones(D, D), diagonal=1))
    assert torch.equal(prior().covariance_matrix, torch.eye(D).double())


def vamp_prior(posterior="DiagonalNormal", **options):
    return pv.priors.VampPrior(getattr(pv.posteriors, posterior)(nn.Identity(), D), SHAPE, **options)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: pv.priors.StandardNormal(0), "latent_dim=0"),
        (lambda: pv.priors.FlowPrior(-2), "latent_dim=-2"),
        (lambda: pv.priors.StudentT(D, df=0.0), "df, .*must be above 0; got 0.0"),
        (lambda: pv.priors.StudentT(D, df=float("nan")), "df, .*must be above 0; got nan"),
        (lambda: pv.priors.StudentT(D, df=float("inf")), "df, .*must be finite; got inf.*StandardNormal"),
        (lambda: pv.priors.ConditionalNormal(D, y_dim=0), "y_dim=0"),
        (lambda: pv.priors.ConditionalNormal(D, y_dim=C)(), r"ConditionalNormal .*labels \(B, 3\); got none"),
        (lambda: pv.priors.ConditionalNormal(D, y_dim=C)(torch.eye(4)), r"\(B, 3\); got labels of shape \(4, 4\)"),
        (lambda: pv.priors.MixtureOfNormals(D, num_components=0), "num_components=0"),
        (lambda: vamp_prior(num_components=0), "num_components=0"),
        (
            lambda: vamp_prior(pseudo_inputs="zeros"),
            "unknown pseudo_inputs 'zeros'; choose from data, random",
        ),
        (
            lambda: pv.priors.VampPrior(pv.posteriors.Delta(nn.Identity(), D), SHAPE),
            "VampPrior .*Delta posterior has no density",
        ),
        (lambda: pv.priors.FlowPrior(D, flow="splin"), "unknown flow 'splin'; did you mean 'spline'"),
        (lambda: pv.priors.FlowPrior(1, flow="spline"), "latent_dim 2 or more; got 1. Use an autoregressive flow"),
        (lambda: pv.priors.FlowPrior(D, flow_transforms=0), "flow_transforms=0"),
    ],
)
def test_impossible_priors_are_refused_by_name_and_value(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_a_prior_without_forward_says_so():
    with pytest.raises(NotImplementedError, match=r"Prior has no forward"):
        pv.priors.Prior(D)()


def test_the_three_line_prior_of_the_readme_is_a_prior():
    class StudentPrior(pv.priors.Prior):
        def forward(self, y=None):
            return dist.StudentT(5.0, self.loc, self.scale).to_event(1)

    z = torch.randn(4, 20, dtype=torch.float64)
    ours = StudentPrior(20).double()().log_prob(z)
    np.testing.assert_allclose(ours.numpy(), scipy.stats.t.logpdf(z.numpy(), 5).sum(-1), rtol=1e-12)


@pytest.mark.thorough
def test_a_flow_leaves_the_validation_of_distributions_as_it_was():
    """In a fresh process, whether validation was on or off before zuko is first imported."""
    code = """
import sys, torch, pyro_vae as pv
from torch.distributions import Distribution
for wanted in (True, False):
    pv.priors.StandardNormal(2)()
    for name in [name for name in sys.modules if name.partition(".")[0] == "zuko"]:
        del sys.modules[name]
    Distribution.set_default_validate_args(wanted)
    pv.priors.FlowPrior(2)().sample()
    assert "zuko" in sys.modules
    assert Distribution._validate_args is wanted, wanted
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_a_vamp_prior_of_another_posterior_is_refused():
    first, second = (pv.posteriors.DiagonalNormal(pv.networks.MLP((4,), (2 * D,)), D) for _ in range(2))
    likelihood = pv.likelihoods.Bernoulli(pv.networks.MLP((D,), (4,)))
    with pytest.raises(ValueError, match="built from another posterior than the program's"):
        pv.VAE(pv.priors.VampPrior(first, (4,)), second, likelihood)
    vae = pv.VAE(pv.priors.VampPrior(first, (4,)), first, likelihood)
    vae.posterior = second
    with pytest.raises(ValueError, match="built from another posterior than the program's"):
        vae.model(torch.zeros(3, 4))
    vae.prior = pv.priors.VampPrior(second, (4,))
    vae.model(torch.zeros(3, 4))
