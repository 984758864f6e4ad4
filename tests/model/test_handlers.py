"""Effect handlers of Pyro on either half of a program: what they do, held to formulas and to steps made by hand."""

import copy
import itertools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from cases import all_but
from exact import ProbabilisticPCA, binary_data, small_vae, two_layers
from pyro import poutine
from pyro.contrib.autoname import scope
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.inspect import get_model_relations

import pyro_vae as pv
from pyro_vae.model import traces
from pyro_vae.randomness import stream

PROGRAMS = {
    "vae": (small_vae, ("prior", "likelihood"), ("posterior",)),
    "mixture": (lambda: small_vae(prior=pv.priors.MixtureOfNormals(3, 4)), ("prior", "likelihood"), ("posterior",)),
    "top_down": (two_layers, ("prior", "middle", "likelihood"), ("posterior1", "posterior2")),
    "bottom_up": (lambda: two_layers("bottom_up"), ("prior", "middle", "likelihood"), ("posterior1", "posterior2")),
}
LR = 1e-2


def without_parameters(half):
    return poutine.block(half, hide_types=["param"])


def halves(vae, trained):
    """Model and guide of which one alone shows its parameters."""
    if trained == "guide":
        return without_parameters(vae.model), vae.guide
    return vae.model, without_parameters(vae.guide)


def trained_by_hand(vae, members, x, steps):
    """Adam on the parameters of these members alone, by autograd, on the draws of the steps of SVI."""
    parameters = [p for name in members for p in getattr(vae, name).parameters()]
    adam = torch.optim.Adam(parameters, lr=LR)
    with stream(0, "noise"):
        for _ in range(steps):
            loss = Trace_ELBO().differentiable_loss(vae.model, vae.guide, x)
            for p, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
                p.grad = gradient
            adam.step()


def stock(vae, trained):
    return SVI(*halves(vae, trained), pyro.optim.Adam({"lr": LR}), Trace_ELBO())


def ours(vae, trained, mode=False):
    adam = torch.optim.Adam(vae.parameters(), lr=LR)
    return pv.inference.SVI(*halves(vae, trained), adam, Trace_ELBO(), compile=mode)


def graph(vae, trained):
    return ours(vae, trained, mode=True)


BLOCKED = list(itertools.product(PROGRAMS, ["model", "guide"], [stock, ours, graph]))


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("program", "trained", "svi"), all_but([case for case in BLOCKED if "vae" in case or graph not in case], BLOCKED)
)
def test_where_one_halfs_parameters_are_blocked_the_other_trains_alone(program, trained, svi, traced_only):
    make, of_model, of_guide = PROGRAMS[program]
    with stream(0, "init"):
        vae = make()
    x, by_hand, before = binary_data(16), copy.deepcopy(vae), copy.deepcopy(vae.state_dict())
    learned, kept = (of_model, of_guide) if trained == "model" else (of_guide, of_model)
    trained_by_hand(by_hand, learned, x, steps=5)
    step = svi(vae, trained)
    with stream(0, "noise"):
        for _ in range(5):
            step.step(x)
    for name, tensor in vae.state_dict().items():
        stays = name.startswith(tuple(f"{member}." for member in kept))
        wanted = before[name] if stays else by_hand.state_dict()[name]
        assert torch.equal(tensor, wanted) if stays else torch.allclose(tensor, wanted, rtol=1e-9, atol=1e-12), name
    if svi is graph:
        assert step.graphs.mode is True, "it fell back"


def test_what_a_vamp_prior_reads_of_the_encoder_belongs_to_both_halves():
    vae = small_vae()
    vae.prior = pv.priors.VampPrior(vae.posterior, (6,), 4).double()
    encoder, pseudo = copy.deepcopy(vae.posterior.state_dict()), vae.prior.pseudo_x.detach().clone()
    stock(vae, "guide").step(binary_data(16))
    assert torch.equal(vae.prior.pseudo_x, pseudo)  # the model's alone
    trained = copy.deepcopy(vae.posterior.state_dict())
    assert not any(torch.equal(encoder[name], trained[name]) for name in encoder)
    stock(vae, "model").step(binary_data(16))
    assert not torch.equal(vae.prior.pseudo_x, pseudo)
    assert not any(torch.equal(trained[name], tensor) for name, tensor in vae.posterior.state_dict().items())


def test_what_no_half_names_belongs_to_both():
    class Scaled(pv.VAE):
        def __init__(self, *members):
            super().__init__(*members)
            self.log_scale = torch.nn.Parameter(torch.zeros(()).double())

        def guide(self, x, y=None):
            return super().guide(x * self.log_scale.exp(), y)

    plain = small_vae()
    for trained in ("model", "guide"):
        vae = Scaled(plain.prior, plain.posterior, plain.likelihood)
        stock(vae, trained).step(binary_data(16))
        assert vae.log_scale != 0


@pytest.fixture
def pca():
    """A program of which everything is known, z, and data."""
    truth = ProbabilisticPCA()
    x = truth.data(7)
    return truth, truth.vae(widen=1.3), x, torch.randn(7, 2, generator=torch.Generator().manual_seed(3)).double()


def log_prior(z):
    return dist.Normal(0.0, 1.0).log_prob(z).sum(-1)


def log_likelihood(truth, x, z):
    return dist.Normal(z @ truth.W.T + truth.b, truth.scale).log_prob(x).sum(-1)


def log_posterior(truth, x, z):
    exact = truth.posterior(x)
    return dist.MultivariateNormal(exact.mean, 1.3**2 * exact.covariance_matrix).log_prob(z)


def read(half, x):
    trace = poutine.trace(half).get_trace(x)
    trace.compute_log_prob()
    return trace


@pytest.mark.parametrize("how", ["condition", "replay", "do"])
def test_a_value_of_z_from_outside(pca, how):
    truth, vae, x, z = pca
    handler = {
        "condition": lambda half: poutine.condition(half, {"z": z}),
        "replay": lambda half: poutine.replay(half, trace=traces.holding({"z": z})),
        "do": lambda half: poutine.do(half, {"z": z}),
    }[how]
    model, guide = read(handler(vae.model), x), read(handler(vae.guide), x)
    assert torch.allclose(model.nodes["x"]["log_prob"], log_likelihood(truth, x, z))
    if how == "do":  # what was put in is no draw from p(z)
        assert torch.allclose(model.log_prob_sum(lambda name, site: name == "x"), log_likelihood(truth, x, z).sum())
        assert torch.equal(guide.nodes["_RETURN"]["value"], z)
        return
    assert torch.allclose(model.log_prob_sum(), (log_prior(z) + log_likelihood(truth, x, z)).sum())
    assert torch.allclose(guide.log_prob_sum(), log_posterior(truth, x, z).sum())


def test_condition_on_x_is_the_observation(pca):
    truth, vae, x, z = pca
    model = poutine.condition(vae.model, {"z": z, "x": x})
    assert torch.allclose(read(model, x).log_prob_sum(), (log_prior(z) + log_likelihood(truth, x, z)).sum())


def test_do_on_the_model_generates_at_that_z(pca):
    truth, vae, _, z = pca
    assert poutine.do(vae.model, {"z": z[0]})().shape == (1, 5)  # a z without an axis of data, too
    with stream(0, "noise"), pyro.plate("draws", 4000, dim=-2):
        x = poutine.do(vae.model, {"z": z[0]})()
    error = 5 * truth.scale / math.sqrt(len(x))
    assert torch.allclose(x.mean((0, 1)), z[0] @ truth.W.T + truth.b, rtol=0, atol=error)


@pytest.mark.parametrize("half", ["model", "guide"])
def test_scale_and_mask_act_on_every_site_of_a_half(pca, half):
    truth, vae, x, z = pca
    given = poutine.condition(getattr(vae, half), {"z": z})
    each = log_posterior(truth, x, z) if half == "guide" else log_prior(z) + log_likelihood(truth, x, z)
    kept = torch.arange(7) < 3
    assert torch.allclose(read(poutine.scale(given, scale=0.25), x).log_prob_sum(), 0.25 * each.sum())
    assert torch.allclose(read(poutine.mask(given, mask=kept), x).log_prob_sum(), each[kept].sum())
    assert read(poutine.mask(given, mask=False), x).log_prob_sum() == 0


def test_a_scope_renames_the_sites_of_both_halves_and_no_number(pca):
    truth, vae, x, _ = pca
    pair = traces.run(scope(vae.model, prefix="left"), scope(vae.guide, prefix="left"), 3, x)
    z = pair.guide.nodes["left/z"]["value"]
    assert torch.allclose(traces.reconstruction(pair), log_likelihood(truth, x, z))
    wanted = log_prior(z) + log_likelihood(truth, x, z) - log_posterior(truth, x, z)
    assert torch.allclose(traces.log_weights(pair), wanted)


@pytest.mark.parametrize("half", ["model", "guide"])
@pytest.mark.parametrize("program", PROGRAMS)
def test_a_value_that_the_modules_never_read_is_refused(program, half):
    make, of_model, of_guide = PROGRAMS[program]
    vae, x = make(), binary_data(4)
    function = getattr(vae, half)
    member = getattr(vae, (of_model if half == "model" else of_guide)[-1])
    names = {id(p): name for name, p in vae.named_parameters()}
    function(x)
    name = next(n for n in pyro.get_param_store() if n.endswith(names[id(next(member.parameters()))]))
    with pytest.raises(ValueError, match=r"a handler gives parameter .* another value \(poutine.lift"):
        poutine.lift(function, prior=dist.Normal(0.0, 1.0))(x)
    with pytest.raises(ValueError, match="another value"):
        poutine.substitute(function, data={name: torch.zeros(1)})(x)
    with pytest.warns(UserWarning, match="some other"):  # it touches nothing of the program's
        poutine.lift(function, prior={"some other": dist.Normal(0.0, 1.0)})(x)


@pytest.mark.parametrize("program", PROGRAMS)
def test_pyro_may_follow_where_values_come_from(program):
    vae, x = PROGRAMS[program][0](), binary_data(4)
    relations = get_model_relations(vae.model, (x,))["sample_sample"]
    *latents, last = relations
    assert last == "x"
    assert relations["x"] == latents[-1:]  # that of the layer below, on which the decoder depends
