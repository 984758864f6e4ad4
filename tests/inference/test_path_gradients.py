"""Gradients along paths: the mean of the total gradient, by quadrature and by draws; no noise at the optimum."""

import itertools

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from cases import needs_compiler, thorough
from exact import MixturePrior, ProbabilisticPCA, binary_data, two_layers
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from torch import nn

import pyro_vae as pv
from pyro_vae.inference import SVI, ImportanceWeightedELBO, MeanFieldELBO, SampledELBO, weighted
from pyro_vae.randomness import stream

STL, DREG = "sticking_the_landing", "doubly_reparametrised"
MLP = pv.networks.MLP


def gradients(loss, vae, *args, seed=5, **weights):
    """The loss, and its gradient by each parameter, of the noise of a seed."""
    vae.zero_grad()
    torch.manual_seed(seed)
    value = loss.loss_and_grads(*weighted(vae.model, vae.guide, **weights), *args)
    return value, [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in vae.parameters()]


def sampled(gradient, num_particles=1):
    return SampledELBO(num_particles, gradient, max_plate_nesting=1, vectorize_particles=num_particles > 1)


def one_dimensional(prior=None, y_dim=0, **options):
    """One latent, two numbers of x; all that the guide and the model learn reaches the loss."""
    with stream(3, "init"):
        posterior = pv.posteriors.DiagonalNormal(MLP((2,), (2,), (3,), nn.Tanh, y_dim=y_dim), 1)
        made = prior(posterior) if prior else pv.priors.StandardNormal(1)
        likelihood = pv.likelihoods.Bernoulli(MLP((1,), (2,), (3,), nn.Tanh, y_dim=y_dim))
        return pv.VAE(made, posterior, likelihood, **options).double()


def one_dimensional_layers(guide):
    top_down = guide == "top_down"
    with stream(4, "init"):
        return pv.HierarchicalVAE(
            pv.priors.StandardNormal(1),
            pv.likelihoods.Normal(MLP((1,), (1,), (3,), nn.Tanh)),
            pv.likelihoods.Bernoulli(MLP((1,), (2,), (3,), nn.Tanh)),
            pv.posteriors.DiagonalNormal(MLP((2,), (2,), (3,), nn.Tanh, y_dim=1 if top_down else 0), 1),
            pv.posteriors.DiagonalNormal(MLP((2,) if top_down else (1,), (2,), (3,), nn.Tanh), 1),
            guide=guide,
        ).double()


def expected(monkeypatch, loss, vae, x, dimensions, num_nodes, **weights):
    """The expected gradient by each parameter: a Gauss-Hermite sum over all base noise of one datum."""
    nodes, masses = np.polynomial.hermite_e.hermegauss(num_nodes)
    masses = masses / masses.sum()
    left = []

    def standard_normal(shape, dtype, device):
        return torch.tensor([left.pop(0) for _ in range(torch.Size(shape).numel())], dtype=dtype).reshape(shape)

    monkeypatch.setattr(torch.distributions.normal, "_standard_normal", standard_normal)
    total = [torch.zeros_like(parameter) for parameter in vae.parameters()]
    for chosen in itertools.product(range(num_nodes), repeat=dimensions):
        left[:] = nodes[list(chosen)]
        _, found = gradients(loss, vae, x, **weights)
        assert not left
        for sum_, part in zip(total, found, strict=True):
            sum_ += masses[list(chosen)].prod() * part
    return total


def furthest(some, others):
    return max((a - b).abs().max().item() for a, b in zip(some, others, strict=True))


def vamp(posterior):
    return pv.priors.VampPrior(posterior, (2,), num_components=3)


X = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
SMOOTH = {
    "standard": lambda: one_dimensional(),
    "mixture": lambda: one_dimensional(lambda _: MixturePrior(1)),
    "vamp": lambda: one_dimensional(vamp),
}
WEIGHTED = {"reconstruction": 0.7, "kl": 0.4}


class TestExpectation:
    """Both expectations by quadrature over the base noise, so that no draw is left: equal to 1e-10."""

    @pytest.mark.parametrize(
        ("program", "weights"),
        [
            ("vamp", WEIGHTED),
            *thorough(("standard", WEIGHTED), ("standard", {}), ("mixture", {}), ("vamp", {}), ("vamp", {"kl": 0.0})),
            *thorough(("mixture", {"reconstruction": 0.0}), ("standard", {"kl": 0.0})),
        ],
    )
    def test_of_one_latent_is_that_of_the_total_gradient(self, monkeypatch, program, weights):
        vae = SMOOTH[program]()
        total, path = (
            expected(monkeypatch, sampled(gradient), vae, X, 1, 60, **weights) for gradient in ("total", STL)
        )
        assert furthest(total, path) < 1e-10
        assert max(part.abs().max() for part in total) > 0.05

    @pytest.mark.parametrize("guide", ["top_down", *thorough("bottom_up")])
    @pytest.mark.parametrize("weights", [WEIGHTED, *thorough({}, {"kl": 0.0})])
    def test_of_two_latents_is_that_of_the_total_gradient(self, monkeypatch, guide, weights):
        vae = one_dimensional_layers(guide)
        total, path = (expected(monkeypatch, sampled(gradient), vae, X, 2, 8, **weights) for gradient in ("total", STL))
        assert furthest(total, path) < 1e-10 * max(part.abs().max() for part in total)

    @pytest.mark.thorough
    @pytest.mark.parametrize(
        ("program", "num_nodes", "error"),
        [("vamp", 10, 1e-5), ("vamp", 24, 1e-9), ("standard", 36, 1e-9), ("mixture", 36, 1e-8)],
    )
    def test_of_two_particles_is_that_of_the_total_gradient(self, monkeypatch, program, num_nodes, error):
        """The weights are no polynomial of the noise: the error left is that of the sum, and falls with its nodes."""
        vae = SMOOTH[program]()
        with torch.no_grad():
            vae.posterior.encoder.output_bias[1] -= 0.4
        total, path = (
            expected(monkeypatch, ImportanceWeightedELBO(2, gradient), vae, X, 2, num_nodes)
            for gradient in ("total", DREG)
        )
        assert furthest(total, path) < error


# Every member whose draws a gradient can follow, with dropout and batch norm, labels, gaps and two layers.


def norm(*widths):
    """A network with dropout and batch norm, in training."""
    return nn.Sequential(
        nn.Linear(widths[0], 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Dropout(0.3), nn.Linear(6, widths[1])
    )


def built(posterior="diagonal", prior="standard", **settings):
    """A program as the command line builds it, over six binary numbers."""
    from pyro_vae.experiment import build
    from pyro_vae.experiment.config import Config

    small = {"latent_dim": 2, "hidden": (4,), "num_components": 3, "flow_hidden": (4,), "flow_transforms": 1, "rank": 1}
    vae = build.vae(Config(posterior=posterior, prior=prior, **small, **settings), (6,), 2, num_classes=2).double()
    with torch.no_grad(), stream(8, "noise"):
        for parameter in vae.parameters():  # away from where paths and scores start at 0
            parameter += 0.1 * torch.randn_like(parameter)
    return vae


def of_networks(encoder, decoder, prior=None):
    with stream(6, "init"):
        posterior = pv.posteriors.DiagonalNormal(encoder(6, 4), 2)
        made = prior(posterior) if prior else pv.priors.StandardNormal(2)
        return pv.VAE(made, posterior, pv.likelihoods.Bernoulli(decoder(2, 6))).double()


def linear(*widths):
    return nn.Linear(*widths)


class LogNormalPosterior(pv.posteriors.Posterior):
    """A transformed normal: z is above 0."""

    @staticmethod
    def encoder_shape(latent_dim):
        return (2 * latent_dim,)

    def forward(self, x, y=None):
        loc, log_scale = self.encode(x, y).chunk(2, -1)
        return dist.LogNormal(loc, log_scale.exp()).to_event(1)


class GammaPrior(pv.priors.Prior):
    def forward(self, y=None):
        return dist.Gamma(2 * self.scale, self.scale).to_event(1)


def above_zero():
    with stream(6, "init"):
        decoder = pv.likelihoods.Bernoulli(linear(2, 6))
        return pv.VAE(GammaPrior(2), LogNormalPosterior(linear(6, 4), 2), decoder).double()


def layers(guide):
    with stream(6, "init"):
        return two_layers(guide)


def gappy():
    vae = built(prior="vamp", missing="nan")
    return vae, torch.where(torch.rand(8, 6, generator=torch.Generator().manual_seed(1)) < 0.3, torch.nan, BITS)


BITS = binary_data(8)
LABELS = torch.eye(2, dtype=torch.float64)[[0, 1] * 4]
PROGRAMS = {
    "vamp": lambda: (built(prior="vamp"), BITS),
    "low_rank": lambda: (built("low_rank"), BITS),
    "full": lambda: (built("full", "full"), BITS),
    "flow": lambda: (built("flow", "vamp"), BITS),
    "flow_prior": lambda: (built(prior="flow"), BITS),
    "mixture": lambda: (built(prior="mixture"), BITS),
    "conditional": lambda: (built(prior="conditional", conditional=True), BITS, LABELS),
    "gaps": gappy,
    "top_down": lambda: (layers("top_down"), BITS),
    "bottom_up": lambda: (layers("bottom_up"), BITS),
    "flow_over_flow": lambda: (built("flow", layers=2, latent_dim2=2, hidden2=(4,)), BITS),
    "transformed": lambda: (above_zero(), BITS),
    "normed_encoder": lambda: (of_networks(norm, linear), BITS),
    "normed_prior": lambda: (of_networks(norm, linear, lambda q: pv.priors.VampPrior(q, (6,), 3)), BITS),
    "dropout": lambda: (of_networks(norm, lambda *widths: nn.Sequential(nn.Dropout(0.2), nn.Linear(*widths))), BITS),
    "normed_decoder": lambda: (of_networks(norm, norm), BITS),
}
DIRECTIONS, DRAWS, COPIES = 4, 150, 12


def projected(loss, vae, *args, seed=0, **weights):
    """Mean and standard error of the gradient of each parameter in four random directions, over many steps."""
    copies = [arg.repeat(COPIES, 1) for arg in args]
    noise = torch.Generator().manual_seed(7)
    directions = [torch.randn(DIRECTIONS, p.numel(), generator=noise, dtype=p.dtype) for p in vae.parameters()]
    found = []
    for step in range(DRAWS):
        _, parts = gradients(loss, vae, *copies, seed=(seed + 1) * DRAWS + step, **weights)
        found.append(torch.cat([d @ part.flatten() for d, part in zip(directions, parts, strict=True)]))
    found = torch.stack(found)
    return found.mean(0), found.std(0) / DRAWS**0.5


def check_same_mean(losses, vae, *args, **weights):
    """Each of 16 to 96 comparisons, 1,700 in all, is within 4 standard errors: by chance one of 16,000 is not."""
    (mean, error), (other, other_error) = (
        projected(loss, vae, *args, seed=seed, **weights) for seed, loss in enumerate(losses)
    )
    spread = (error.square() + other_error.square()).sqrt()
    assert (error > 0).any()
    assert ((mean - other).abs() <= 4 * spread + 1e-9).all()


@pytest.mark.thorough
@pytest.mark.parametrize("name", PROGRAMS)
def test_sticking_the_landing_has_the_mean_of_the_total_gradient(name):
    check_same_mean([sampled("total"), sampled(STL)], *PROGRAMS[name](), **WEIGHTED)


@pytest.mark.thorough
@pytest.mark.parametrize("name", [name for name in PROGRAMS if name != "normed_decoder"])
def test_the_doubly_reparametrised_one_has_the_mean_of_the_total_gradient(name):
    check_same_mean([ImportanceWeightedELBO(3, "total"), ImportanceWeightedELBO(3, DREG)], *PROGRAMS[name]())


# Where the guide is the posterior: log w is constant in z, and the guide's gradient is 0 for every draw.


def at_the_optimum():
    """The linear-Gaussian program with a guide whose parameters are those of the posterior."""
    truth = ProbabilisticPCA()
    encoder = nn.Linear(5, pv.posteriors.FullNormal.encoder_shape(2)[0])
    posterior = pv.posteriors.FullNormal(encoder, 2).double()
    gain, root = truth.covariance @ truth.W.T / truth.scale**2, torch.linalg.cholesky(truth.covariance)
    with torch.no_grad():
        encoder.weight.zero_()
        encoder.weight[:2] = gain
        encoder.bias[:2] = -gain @ truth.b
        encoder.bias[2:4] = (root.diagonal() - posterior.floor).log()
        encoder.bias[4] = root[1, 0]
    decoder = nn.Linear(2, 5).double()
    with torch.no_grad():
        decoder.weight.copy_(truth.W)
        decoder.bias.copy_(truth.b)
    likelihood = pv.likelihoods.Normal(decoder, scale=truth.scale)
    return pv.VAE(pv.priors.StandardNormal(2), posterior, likelihood).double(), truth.data(20)


@pytest.mark.parametrize(
    ("loss", "total"),
    [
        (sampled(STL, 3), sampled("total", 3)),
        (ImportanceWeightedELBO(4, DREG), ImportanceWeightedELBO(4)),
        (ImportanceWeightedELBO(1, STL), ImportanceWeightedELBO(1)),
    ],
    ids=["sampled", "importance", "one"],
)
def test_at_the_optimum_the_guide_has_no_gradient(loss, total):
    vae, x = at_the_optimum()
    guides = sum(1 for _ in vae.posterior.parameters())
    value, found = gradients(loss, vae, x)
    expected_value, noisy = gradients(total, vae, x)
    assert value == expected_value
    assert max(part.abs().max() for part in found[:guides]) < 1e-12
    assert min(part.abs().max() for part in noisy[:guides]) > 0.1
    # Theta is not at its optimum for 20 data, and has the gradient of the total one.
    assert furthest(found[guides:], noisy[guides:]) < 1e-12
    assert max(part.abs().max() for part in found[guides:]) > 0.1


# Through Pyro's step, as a graph, and in the value.


def stepped(loss, vae, *args, mode, steps=6):
    """Losses and parameters after a few steps with a warm-up, where the loss takes weights."""
    warm = not isinstance(loss, ImportanceWeightedELBO)
    svi = SVI(vae.model, vae.guide, torch.optim.Adam(vae.parameters(), lr=1e-2), loss, compile=mode)
    with stream(0, "noise"):
        losses = [
            svi.step(*args, **({"kl_weight": (step + 1) / steps, "reconstruction_weight": 0.7} if warm else {}))
            for step in range(steps)
        ]
    assert svi.graphs.mode == mode, "it fell back"
    return losses, [parameter.detach() for parameter in vae.parameters()]


LOSSES = {"sampled": sampled(STL), "particles": sampled(STL, 3), "importance": ImportanceWeightedELBO(3, DREG)}
TRACED = [
    ("vamp", "importance"),
    ("top_down", "sampled"),
    *thorough(("flow", "sampled"), ("bottom_up", "importance"), ("gaps", "sampled"), ("dropout", "particles")),
    *thorough(("conditional", "importance"), ("vamp", "particles"), ("normed_decoder", "particles")),
]


@pytest.mark.parametrize(("name", "loss"), TRACED)
def test_traced_steps_are_pyros_to_the_last_bit(name, loss, traced_only):
    by_graph, by_pyro = (stepped(LOSSES[loss], *PROGRAMS[name](), mode=mode) for mode in (True, False))
    assert by_graph[0] == by_pyro[0]
    assert all(map(torch.equal, by_graph[1], by_pyro[1]))


@needs_compiler
@pytest.mark.thorough
@pytest.mark.parametrize(("name", "loss"), [("top_down", "sampled"), ("vamp", "importance")])
def test_compiled_steps_are_pyros(name, loss):
    by_graph, by_pyro = (stepped(LOSSES[loss], *PROGRAMS[name](), mode=mode) for mode in (True, False))
    assert by_graph[0] == pytest.approx(by_pyro[0], rel=1e-10)
    assert furthest(by_graph[1], by_pyro[1]) < 1e-8


@pytest.mark.parametrize("name", ["flow", *thorough(*(name for name in PROGRAMS if name != "flow"))])
def test_the_value_is_that_of_the_total_loss_to_the_last_bit(name):
    vae, *args = PROGRAMS[name]()
    for path, total in ((sampled(STL), Trace_ELBO()), (sampled(STL, 3), sampled("total", 3))):
        assert gradients(path, vae, *args, kl=0.3)[0] == gradients(total, vae, *args, kl=0.3)[0]
    if name != "normed_decoder":
        assert (
            gradients(ImportanceWeightedELBO(3, DREG), vae, *args)[0]
            == gradients(ImportanceWeightedELBO(3), vae, *args)[0]
        )


def test_total_is_pyros_own_to_the_last_bit():
    vae, x = PROGRAMS["vamp"]()
    ours, pyros = (gradients(loss, vae, x, **WEIGHTED) for loss in (SampledELBO(3), Trace_ELBO(3)))
    assert ours[0] == pyros[0]
    assert all(map(torch.equal, ours[1], pyros[1]))


def test_at_one_particle_both_are_the_same():
    vae, x = PROGRAMS["top_down"]()
    one, other = (gradients(loss, vae, x)[1] for loss in (sampled(STL), ImportanceWeightedELBO(1, DREG)))
    assert furthest(one, other) < 1e-12


def test_particles_in_turn_have_the_mean_of_their_gradients():
    vae, x = PROGRAMS["vamp"]()
    both = gradients(SampledELBO(2, STL), vae, x)
    torch.manual_seed(5)
    halves = []
    for _ in range(2):
        vae.zero_grad()
        SampledELBO(1, STL).loss_and_grads(vae.model, vae.guide, x)
        halves.append([p.grad.clone() for p in vae.parameters()])
    assert furthest(both[1], [(a + b) / 2 for a, b in zip(*halves, strict=True)]) < 1e-12


@pytest.mark.parametrize("loss", [sampled(STL), ImportanceWeightedELBO(3, DREG)])
def test_each_network_runs_once_a_step(loss):
    vae, x = PROGRAMS["normed_encoder"]()
    runs = []
    for network in (vae.posterior.encoder, vae.likelihood.decoder):
        network.register_forward_hook(lambda network, *_: runs.append(network))
    gradients(loss, vae, x)
    assert runs == [vae.posterior.encoder, vae.likelihood.decoder]
    assert vae.posterior.encoder[1].num_batches_tracked == 1


def test_stock_svi_takes_it():
    vae, x = PROGRAMS["vamp"]()
    before = [parameter.clone() for parameter in vae.parameters()]
    stock = pyro.infer.SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-2}), sampled(STL))
    assert all(np.isfinite([stock.step(x), stock.evaluate_loss(x)]))
    assert all((a != b).any() for a, b in zip(before, vae.parameters(), strict=True))


def test_a_point_has_the_total_gradient():
    """Without a density there is no score to leave out."""
    vae, x = built("delta", kl_weight=0.0), BITS
    path, total = (gradients(sampled(gradient), vae, x, kl=0.0)[1] for gradient in (STL, "total"))
    assert furthest(path, total) < 1e-12


@pytest.mark.thorough
def test_an_automatic_guide_has_the_mean_of_the_total_gradient():
    """Its draws are unconstrained, and each site a point at one: a global scale, above 0."""

    def model(x):
        scale = pyro.sample("scale", dist.LogNormal(torch.zeros((), dtype=x.dtype), 1.0))
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("x", dist.Normal(0.0, scale), obs=x)

    x = torch.linspace(-2, 2, 9, dtype=torch.float64)
    guide = AutoNormal(model)
    found = {}
    for gradient in ("total", STL):
        pyro.clear_param_store()
        guide = AutoNormal(model, init_scale=0.3).double()
        guide(x)
        draws = []
        torch.manual_seed(1)
        for _ in range(300):
            guide.zero_grad()
            SampledELBO(1, gradient).loss_and_grads(model, guide, x)
            draws.append(torch.stack([p.grad for p in guide.parameters()]))
        found[gradient] = torch.stack(draws)
    apart = (found["total"].mean(0) - found[STL].mean(0)).abs()
    error = sum(draws.var(0) / len(draws) for draws in found.values()).sqrt()
    assert (apart < 4 * error).all()
    assert not torch.equal(found["total"], found[STL])


class Counting(pv.posteriors.Posterior):
    encoder_shape = staticmethod(lambda latent_dim: (latent_dim,))

    def forward(self, x, y=None):
        return dist.Poisson(self.encode(x, y).exp()).to_event(1)


@pytest.mark.parametrize("loss", [sampled(STL), ImportanceWeightedELBO(3, DREG)])
def test_a_latent_without_reparametrised_sampler_is_named(loss):
    vae = pv.VAE(pv.priors.StandardNormal(2), Counting(linear(6, 2), 2), pv.likelihoods.Bernoulli(linear(2, 6)))
    with pyro.validation_enabled(False), pytest.raises(ValueError, match="site z has no reparametrised sampler"):
        loss.loss_and_grads(vae.model, vae.guide, BITS.float())


def test_batch_norm_that_mixes_draws_is_refused_and_the_cures_work():
    vae, x = PROGRAMS["normed_decoder"]()
    loss = ImportanceWeightedELBO(3, DREG)
    with pytest.raises(ValueError, match=r"batch norm in training mode, in a network that takes z"):
        gradients(loss, vae, x)
    gradients(ImportanceWeightedELBO(1, DREG), vae, x)
    gradients(ImportanceWeightedELBO(3), vae, x)
    vae.likelihood.eval()
    gradients(loss, vae, x)


def test_a_density_that_is_known_at_its_own_draws_alone_is_refused():
    planar = dist.transforms.planar(2).double()

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(2, dtype=x.dtype), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            base = dist.Normal(torch.zeros(2, dtype=x.dtype), 1.0).to_event(1)
            pyro.sample("z", dist.TransformedDistribution(base, [planar]))

    x = torch.zeros(3, 2, dtype=torch.float64)
    SampledELBO().loss_and_grads(model, guide, x)
    with pytest.raises(ValueError, match=r"no inverse. Use `gradient='total'`"):
        SampledELBO(1, STL).loss_and_grads(model, guide, x)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: ImportanceWeightedELBO(8, STL), r"biased .* of 8 particles. Use `gradient='doubly_reparametrised'`"),
        (lambda: SampledELBO(1, DREG), r"importance-weighted bound \(`objective='iwae'`\)"),
        (lambda: MeanFieldELBO(gradient=STL), r"an analytic KL samples none. Use .*`objective='trace_elbo'`"),
        (lambda: SampledELBO(1, "landing"), "unknown gradient 'landing'"),
        (lambda: ImportanceWeightedELBO(1, "landing"), "unknown gradient 'landing'"),
    ],
)
def test_the_wrong_gradient_is_refused_with_the_right_one(make, match):
    with pytest.raises(ValueError, match=match):
        make()
