"""A step as a graph is Pyro's own step: to the last bit when traced, but for the order of sums when compiled."""

import copy
import gc
import itertools
import logging
import random
import weakref
from types import SimpleNamespace

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from cases import covering, needs_compiler, thorough
from exact import binary_data, small_vae, two_layers
from pyro.infer import RenyiELBO, Trace_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoNormal
from torch import nn

import pyro_vae as pv
from pyro_vae.errors import DataError, DivergenceError
from pyro_vae.experiment import build, tables
from pyro_vae.experiment.config import Config
from pyro_vae.graphs.capture import Graph
from pyro_vae.inference import SVI, ImportanceWeightedELBO, MeanFieldELBO, step_graphs
from pyro_vae.randomness import stream

X_SHAPE, LEVELS, BATCH = (1, 4, 4), 17, 8
SMALL = {"latent_dim": 3, "hidden": (8,), "num_components": 4, "flow_hidden": (8,), "flow_transforms": 2, "rank": 2}
COUNTS = ("discretized_logistic", "categorical", "poisson", "negative_binomial")


@pytest.fixture
def soon(monkeypatch):
    """compile="auto" as of the fourth step."""
    monkeypatch.setattr(step_graphs, "TRACE_AFTER", 3)


def config(prior="standard", posterior="diagonal", likelihood="bernoulli", objective="mean_field_elbo"):
    point = posterior == "delta"
    return Config(
        prior=prior,
        posterior=posterior,
        likelihood=likelihood,
        objective=objective,
        conditional=prior == "conditional",
        kl_weight=0.0 if point else 1.0,
        num_particles=3 if objective == "iwae" else 1,
        learn_scale="one" if likelihood in ("normal", "laplace", "exponential_norm") else "no",
        lr=1e-2,
        **SMALL,
    )


def data(likelihood, size=BATCH):
    noise = torch.Generator().manual_seed(1)
    x = torch.rand(size, *X_SHAPE, generator=noise, dtype=torch.float64)
    if likelihood in COUNTS:
        return (x * LEVELS).floor()
    return x.round() if likelihood == "bernoulli" else x


def trained(config, mode, dtype=torch.float64, steps=50):
    """Losses and parameters after so many steps, of batches of two sizes, with a warm-up and a falling rate."""
    vae = build.vae(config, X_SHAPE, LEVELS, num_classes=2).to(dtype)
    made = build.svi(config, vae)
    svi = SVI(vae.model, vae.guide, made.optimizer, made.loss, compile=mode)
    x = data(config.likelihood).to(dtype)
    y = [torch.eye(2, dtype=dtype)[torch.arange(len(x)) % 2]] if config.conditional else []
    losses = []
    with stream(0, "noise"):
        for step in range(steps):
            part = slice(0, BATCH // 2 if step % 5 == 4 else BATCH)
            svi.optimizer.param_groups[0]["lr"] = 1e-2 / (1 + step)
            warm = {} if config.objective == "iwae" else {"kl_weight": config.kl_weight * min(1.0, (step + 1) / 20)}
            losses.append(svi.step(x[part], *(labels[part] for labels in y), **warm))
    assert svi.graphs.mode == mode, "it fell back"
    return torch.tensor(losses, dtype=torch.float64), [parameter.detach() for parameter in vae.parameters()]


def check_same_to_the_last_bit(config, steps):
    losses, parameters = trained(config, True, steps=steps)
    expected_losses, expected = trained(config, False, steps=steps)
    assert torch.equal(losses, expected_losses)
    assert all(torch.equal(p, q) for p, q in zip(parameters, expected, strict=True))


def sensible(prior, posterior):
    learned = prior in ("diagonal", "full", "mixture", "vamp", "flow", "conditional")
    return not (posterior == "delta" and learned)


def objectives(posterior):
    return ["trace_elbo", "mean_field_elbo"] + (["iwae"] if posterior != "delta" else [])


PRIORS = [(p, "diagonal", "bernoulli", o) for p in tables.PRIORS for o in objectives("diagonal")]
POSTERIORS = [("standard", q, "bernoulli", o) for q in tables.POSTERIORS for o in objectives(q)]
LIKELIHOODS = [("standard", "diagonal", k, "trace_elbo") for k in tables.LIKELIHOODS]
ALL = [
    (p, q, k, o)
    for p, q, k in itertools.product(tables.PRIORS, tables.POSTERIORS, tables.LIKELIHOODS)
    if sensible(p, q)
    for o in objectives(q)
]


NORMAL = [name for name in tables.POSTERIORS if name != "delta"]
COVERED = covering(tables.PRIORS, NORMAL, tables.LIKELIHOODS, objectives("diagonal"))
SOME = [("standard", "delta", "bernoulli", "trace_elbo"), COVERED[0]]


@pytest.mark.parametrize("names", [*SOME, *thorough(*((names,) for names in COVERED[1:]))], ids="-".join)
def test_traced_steps_of_every_member_are_the_same_to_the_last_bit(names, traced_only):
    check_same_to_the_last_bit(config(*names), steps=6)


@pytest.mark.thorough
@pytest.mark.parametrize("names", sorted({*PRIORS, *POSTERIORS, *LIKELIHOODS}), ids="-".join)
def test_traced_steps_are_the_same_to_the_last_bit(names, traced_only):
    check_same_to_the_last_bit(config(*names), steps=12)


@pytest.mark.slow
@pytest.mark.parametrize("names", ALL, ids="-".join)
def test_traced_steps_of_every_combination_are_the_same_to_the_last_bit(names, traced_only):
    check_same_to_the_last_bit(config(*names), steps=10)


def check_compiled(config, dtype, tolerance):
    losses, parameters = trained(config, True, dtype)
    expected_losses, expected = trained(config, False, dtype)
    # Of the largest loss: that of a density goes through 0 on its way.
    assert torch.allclose(losses, expected_losses, rtol=0, atol=tolerance * expected_losses.abs().max().item())
    for p, q in zip(parameters, expected, strict=True):
        assert torch.allclose(p, q, rtol=tolerance, atol=tolerance)


@needs_compiler
@pytest.mark.parametrize(
    ("dtype", "tolerance"), thorough((torch.float64, 1e-12), (torch.float32, 2e-4)), ids=["float64", "float32"]
)
def test_compiled_steps_agree(dtype, tolerance):
    # float32: 50 steps of Adam, which divides by the root of small squares, make 1e-7 at most a thousand times larger.
    check_compiled(config(), dtype, tolerance)


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("names", sorted({*PRIORS, *POSTERIORS, *LIKELIHOODS}), ids="-".join)
def test_compiled_steps_of_every_member_agree(names):
    check_compiled(config(*names), torch.float64, 1e-12)


def ours(program, loss=None, *, mode=True, lr=1e-2, optimizer=torch.optim.Adam, **options):
    return SVI(
        program.model, program.guide, optimizer(program.parameters(), lr=lr), loss or Trace_ELBO(),
        compile=mode, **options,
    )  # fmt: skip


def check_same(make, *arguments, steps=10, **weights):
    """`make(mode)` gives an SVI; both are stepped from one seed."""
    results = []
    for mode in (True, False):
        pyro.clear_param_store()
        with stream(0, "init"):
            svi = make(mode)
        with stream(0, "noise"):
            losses = [svi.step(*arguments, **weights) for _ in range(steps)]
        results.append((losses, [p.detach().clone() for p in svi.held()]))
        assert svi.graphs.mode is mode, "it fell back"
    assert results[0][0] == results[1][0]
    assert all(torch.equal(p, q) for p, q in zip(results[0][1], results[1][1], strict=True))


@pytest.mark.thorough
@pytest.mark.parametrize(
    "optimizer", [torch.optim.Adam, *thorough(torch.optim.AdamW, torch.optim.Adamax, torch.optim.SGD)]
)
@pytest.mark.parametrize("bound", [1e9, 0.5])
def test_every_optimiser_and_a_bound_on_the_gradient(optimizer, bound, traced_only):
    x = binary_data(16)
    check_same(lambda mode: ours(small_vae(), mode=mode, optimizer=optimizer, max_grad_norm=bound), x)


@pytest.mark.parametrize(
    "weights",
    [*thorough({"kl_weight": 0.0}, {"reconstruction_weight": 0.0}), {"kl_weight": 0.3, "reconstruction_weight": 2.0}],
    ids=str,
)
@pytest.mark.parametrize("loss", [Trace_ELBO, TraceMeanField_ELBO])
def test_weights(weights, loss, traced_only):
    check_same(lambda mode: ours(small_vae(), loss(), mode=mode), binary_data(16), **weights)


PARTICLES = {"vectorize_particles": True, "max_plate_nesting": 1}


@pytest.mark.parametrize(
    ("guide", "loss"),
    [
        *thorough(
            ("top_down", lambda: TraceMeanField_ELBO(num_particles=2, **PARTICLES)),
            ("top_down", lambda: ImportanceWeightedELBO(4)),
        ),
        ("bottom_up", lambda: Trace_ELBO(num_particles=3, **PARTICLES)),
        *thorough(
            ("top_down", lambda: Trace_ELBO(num_particles=3, **PARTICLES)),
            ("top_down", MeanFieldELBO),
            ("bottom_up", lambda: ImportanceWeightedELBO(4)),
        ),
    ],
)
def test_two_layers(guide, loss, traced_only):
    check_same(lambda mode: ours(two_layers(guide), loss(), mode=mode), binary_data(16))


def test_statistics_of_a_batch_norm_and_dropout(traced_only):
    def make(mode):
        made.append(with_dropout())
        return ours(made[-1], mode=mode)

    made = []
    check_same(make, binary_data(16))
    norms = [vae.posterior.encoder[1] for vae in made]
    assert norms[0].num_batches_tracked == norms[1].num_batches_tracked == 10
    assert torch.equal(norms[0].running_mean, norms[1].running_mean)


# Programs that are no VAE.


def regression(x, y):
    weight = pyro.sample("weight", dist.Normal(torch.zeros(3), 1.0).to_event(1))
    scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Normal(x @ weight, scale), obs=y)


@pytest.mark.parametrize("loss", [*thorough(Trace_ELBO), TraceMeanField_ELBO])
def test_bayesian_regression_with_an_automatic_guide(loss, traced_only):
    x = torch.randn(20, 3, generator=torch.Generator().manual_seed(1))
    y = x @ torch.tensor([1.0, -1.0, 0.5])

    def make(mode):
        guide = AutoNormal(regression)
        guide(x, y)
        return SVI(regression, guide, torch.optim.Adam(guide.parameters(), lr=1e-2), loss(), compile=mode)

    check_same(make, x, y)


def test_a_factor_model_with_parameters_in_the_store(traced_only):
    x = torch.randn(20, 4, generator=torch.Generator().manual_seed(1))

    def model(x):
        loadings = pyro.param("loadings", lambda: torch.randn(2, 4))
        scale = pyro.param("scale", torch.ones(4), constraint=dist.constraints.positive)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ loadings, scale).to_event(1), obs=x)

    def guide(x):
        slope = pyro.param("slope", lambda: 0.1 * torch.randn(4, 2))
        scale = pyro.param("guide_scale", torch.ones(2), constraint=dist.constraints.positive)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x @ slope, scale).to_event(1))

    def make(mode):
        model(x), guide(x)
        leaves = [p.unconstrained() for p in pyro.get_param_store().values()]
        return SVI(model, guide, torch.optim.Adam(leaves, lr=1e-2), Trace_ELBO(), compile=mode)

    check_same(make, x)


class Discrete(pv.Program):
    """A latent that has no reparametrised sampler: its gradient is the score function's."""

    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = nn.Linear(6, 2).double(), nn.Linear(2, 6).double()

    def model(self, x=None, y=None):
        self.list_parameters()
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Bernoulli(torch.full((2,), 0.5).double()).to_event(1))
            return pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x)

    def guide(self, x, y=None):
        self.list_parameters()
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Bernoulli(logits=self.encoder(x)).to_event(1))


def test_discrete_latents(traced_only):
    check_same(lambda mode: ours(Discrete(), mode=mode), binary_data(16))


def with_dropout():
    encoder = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.3), nn.Linear(8, 4))
    posterior = pv.posteriors.DiagonalNormal(encoder, 2)
    vae = pv.VAE(pv.priors.StandardNormal(2), posterior, pv.likelihoods.Bernoulli(pv.networks.MLP((2,), (6,))))
    return vae.double()


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("make", [Discrete, with_dropout, two_layers, lambda: two_layers("bottom_up")])
def test_compiled_steps_make_the_same_draws(make):
    losses = []
    for mode in (True, False):
        with stream(0, "init"):
            svi = ours(make(), mode=mode)
        with stream(0, "noise"):
            losses.append([svi.step(binary_data(16)) for _ in range(20)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)


# What is an argument of the graph, and what makes a new one.


def captures(svi):
    return svi.graphs._captures


def test_what_changes_by_value_makes_no_new_graph(traced_only):
    vae, x = small_vae(), binary_data(16)
    svi = ours(vae)
    for step in range(6):
        svi.optimizer.param_groups[0]["lr"] = 1e-2 * step
        svi.step(x if step % 2 else 1 - x, kl_weight=0.1 + step)
        with torch.no_grad():
            vae.likelihood.decoder.output_bias.add_(0.1)
    assert captures(svi) == 1


@pytest.mark.thorough
def test_another_form_of_the_data_makes_one(traced_only):
    svi = ours(small_vae())
    for size in (16, 7, 16, 7):
        svi.step(binary_data(size))
    assert captures(svi) == 2
    svi.step(binary_data(16), kl_weight=0.0)
    assert captures(svi) == 3


class Tempered(pv.posteriors.DiagonalNormal):
    temperature = 1.0

    def forward(self, x, y=None):
        q = super().forward(x, y).base_dist
        return dist.Normal(q.loc, q.scale * self.temperature).to_event(1)


def test_a_changed_attribute_makes_one(traced_only):
    def steps(mode):
        with stream(0, "init"):
            vae = pv.VAE(
                pv.priors.StandardNormal(2),
                Tempered(pv.networks.MLP((6,), (4,)), 2),
                pv.likelihoods.Bernoulli(pv.networks.MLP((2,), (6,))),
            )
        svi = ours(vae, mode=mode)
        with stream(0, "noise"):
            for step in range(6):
                vae.posterior.temperature = 1.0 if step < 3 else 2.0
                yield svi.step(binary_data(16).float())

    assert list(steps(True)) == list(steps(False))


def test_a_member_that_was_replaced_is_told_as_before(traced_only):
    vae, x = small_vae(), binary_data(16)
    svi = ours(vae)
    svi.step(x)
    vae.prior = pv.priors.DiagonalNormal(3).double()
    with pytest.raises(ValueError, match=r"prior\.mean is not in the optimiser"):
        svi.step(x)


def test_a_member_that_was_frozen_stays(traced_only):
    vae, x = small_vae(), binary_data(16)
    svi = ours(vae)
    svi.step(x)
    frozen = vae.likelihood.decoder.output_bias
    frozen.requires_grad_(False)
    before = frozen.clone()
    svi.step(x)
    assert torch.equal(frozen, before)


def test_a_program_in_another_type_makes_one(traced_only):
    vae = small_vae()
    svi = ours(vae, optimizer=torch.optim.SGD)
    svi.step(binary_data(16))
    vae.float()
    torch.manual_seed(1)
    found = svi.step(binary_data(16).float())
    assert captures(svi) == 2
    assert found == pytest.approx(svi.evaluate_loss(binary_data(16).float()), rel=0.5)


# What is no graph.


def check_fallback(svi, x, caplog, reason):
    with caplog.at_level(logging.WARNING, logger="pyro_vae"):
        for _ in range(3):
            svi.step(x)
    messages = [record.message for record in caplog.records if record.name.startswith("pyro_vae")]
    assert len(messages) == 1
    assert reason in messages[0]
    assert svi.num_steps == 3


class Branching(pv.posteriors.DiagonalNormal):
    def forward(self, x, y=None):
        return super().forward(x if x.sum() > 0 else -x, y)


def test_a_branch_on_a_value(caplog):
    vae = small_vae()
    vae.posterior = Branching(vae.posterior.encoder, 3)
    check_fallback(ours(vae), binary_data(16), caplog, "it asks a tensor for its value")


def test_a_counter(caplog):
    vae, counter = small_vae(), itertools.count(1)

    def model(x):
        with pyro.poutine.scale(scale=1.0 / next(counter)):
            return vae.model(x)

    svi = SVI(model, vae.guide, torch.optim.Adam(vae.parameters()), Trace_ELBO(), compile=True)
    check_fallback(svi, binary_data(16), caplog, "it does something different at each call")


def test_another_loss(caplog):
    vae = small_vae()
    check_fallback(ours(vae, RenyiELBO(alpha=0, num_particles=2)), binary_data(16), caplog, "RenyiELBO")


def test_an_argument_that_is_no_tensor(caplog):
    class Wrapped(pv.Program):
        def __init__(self, vae):
            super().__init__()
            self.vae = vae

        def model(self, batch):
            return self.vae.model(*batch)

        def guide(self, batch):
            return self.vae.guide(*batch)

    check_fallback(ours(Wrapped(small_vae())), [binary_data(16)], caplog, "an argument is a list")


def test_a_program_that_never_stays(caplog, traced_only, monkeypatch):
    monkeypatch.setattr(step_graphs, "MOST_CAPTURES", 2)
    vae, x = small_vae(), binary_data(16)
    svi = ours(vae)
    with caplog.at_level(logging.WARNING, logger="pyro_vae"):
        for step in range(4):
            vae.note = step
            svi.step(x)
    assert "has changed 2 times" in caplog.text
    assert svi.graphs.mode is False


def test_a_compiler_that_fails_leaves_the_trace(caplog, monkeypatch):
    def fails(graph, given):
        raise RuntimeError("no compiler\nand more")

    monkeypatch.setattr(Graph, "compiled", fails)
    with caplog.at_level(logging.WARNING, logger="pyro_vae"):
        check_same(lambda mode: ours(small_vae(), mode=mode), binary_data(16))
    ours_alone = [record.message for record in caplog.records if record.name.startswith("pyro_vae")]
    assert ours_alone == ["steps are traced, but not compiled: RuntimeError: no compiler"]


@pytest.mark.parametrize("mode", ["yes", 1, 0, None])
def test_compile_is_one_of_three(mode):
    with pytest.raises(ValueError, match=f"compile must be True, False or 'auto'; got {mode!r}"):
        ours(small_vae(), mode=mode)


# When "auto" makes one.


def test_auto_waits(soon):
    svi, x = ours(small_vae(), mode="auto"), binary_data(16)
    for expected in (0, 0, 0, 1, 1):
        svi.step(x)
        assert captures(svi) == expected


def test_auto_leaves_functions_alone(soon):
    vae, x = small_vae(), binary_data(16)
    svi = SVI(lambda x: vae.model(x), vae.guide, torch.optim.Adam(vae.parameters()), Trace_ELBO())
    for _ in range(6):
        svi.step(x)
    assert captures(svi) == 0


def test_no_compile_never_does(soon):
    svi, x = ours(small_vae(), mode=False), binary_data(16)
    for _ in range(6):
        svi.step(x)
    assert captures(svi) == 0


@pytest.mark.parametrize(("start", "expected", "compiles"), [(0, 10, False), (10, 0, True), *thorough((0, 20, True))])
def test_auto_compiles_where_it_pays(soon, monkeypatch, start, expected, compiles):
    monkeypatch.setattr(step_graphs, "COMPILE_AFTER", 10)
    asked = []
    monkeypatch.setattr(Graph, "compiled", lambda graph, given: asked.append(len(given[-1])) or graph)
    svi = ours(small_vae(), mode="auto")
    svi.num_steps, svi.graphs.expected = start, expected
    for size in (16, 16, 16, 16, 7, 16, 7):
        svi.step(binary_data(size))
    assert asked == ([16] if compiles else [])


# What is wrong is refused, with the words of Pyro's own step, and not applied.


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (lambda x: x.clone().fill_(0.5), DataError, "Bernoulli needs x in {0, 1}; got 0.5 at datum 0"),
        (lambda x: x.clone().index_fill_(0, torch.tensor(3), float("nan")), DataError, "nan at datum 3"),
    ],
)
def test_bad_data(spoil, error, message, traced_only):
    vae, x = small_vae(), binary_data(16)
    svi = ours(vae)
    svi.step(x)
    before = {name: tensor.clone() for name, tensor in vae.tensors().items()}
    with pytest.raises(error, match=message):
        svi.step(spoil(x))
    assert all(torch.equal(tensor, before[name]) for name, tensor in vae.tensors().items())
    assert svi.num_steps == 1
    svi.step(x)


@pytest.mark.parametrize("value", [float("nan"), 1e308])
def test_divergence(value, traced_only):
    vae, x = small_vae(), binary_data(16)
    svi = ours(vae)
    svi.step(x)
    with torch.no_grad():
        vae.likelihood.decoder.output_bias.fill_(value)
    before = {name: tensor.clone() for name, tensor in vae.tensors().items()}
    state = {key: value.clone() for key, value in next(iter(svi.optimizer.state.values())).items()}
    with pytest.raises(DivergenceError, match=r"step 2: the .* was not applied"):
        svi.step(x)
    assert all(torch.equal(t, before[name]) or t.isnan().any() for name, t in vae.tensors().items())
    assert all(torch.equal(state[key], value) for key, value in next(iter(svi.optimizer.state.values())).items())


class AtAnEdge(pv.posteriors.DiagonalNormal):
    """A posterior whose mean has an infinite slope where `edge` is 0, and the same finite value everywhere."""

    def __init__(self, *args):
        super().__init__(*args)
        self.register_buffer("edge", torch.ones(()))

    def forward(self, x, y=None):
        q = super().forward(x, y).base_dist
        return dist.Normal(q.loc + (self.edge + q.loc - q.loc.detach()).sqrt() - self.edge.sqrt(), q.scale).to_event(1)


def test_a_gradient_that_is_not_finite_is_not_applied_though_the_loss_is(traced_only):
    vae, x = small_vae(), binary_data(16)
    vae.posterior = AtAnEdge(vae.posterior.encoder, 3).double()
    svi = ours(vae)
    svi.step(x)
    vae.posterior.edge.zero_()
    before = {name: tensor.clone() for name, tensor in vae.tensors().items()}
    with pytest.raises(DivergenceError, match="step 2: the gradient is not finite"):
        svi.step(x)
    assert all(torch.equal(tensor, before[name]) for name, tensor in vae.tensors().items())


def test_the_first_step_refuses_like_the_others(traced_only):
    with pytest.raises(DataError, match="Bernoulli needs x"):
        ours(small_vae()).step(binary_data(16) + 1)
    with pytest.raises(ValueError, match="loss weight"):
        ours(small_vae(), ImportanceWeightedELBO(2)).step(binary_data(16), kl_weight=0.5)


# What a graph would miss: a new one is made, or the step stays Pyro's.


class Shaped(pv.posteriors.DiagonalNormal):
    """A posterior that asks itself for the shape of its mean."""

    shape = staticmethod(torch.tanh)

    def forward(self, x, y=None):
        q = super().forward(x, y).base_dist
        return dist.Normal(self.shape(q.loc), q.scale).to_event(1)


def shaped(mode, loss=None, kind=Shaped, **attributes):
    vae = small_vae()
    vae.posterior = kind(vae.posterior.encoder, 3)
    for name, value in attributes.items():
        setattr(vae.posterior, name, value)
    return ours(vae, loss, mode=mode)


def check_same_after(make, change, stays=True, steps=6):
    """Three steps, a change, and three more, as graphs and by Pyro."""
    results = []
    for mode in (True, False):
        with stream(0, "init"):
            svi = make(mode)
        with stream(0, "noise"):
            losses = []
            for step in range(steps):
                if step == steps // 2:
                    change(svi)
                losses.append(svi.step(binary_data(16)))
        results.append((losses, [p.detach().clone() for p in svi.held()]))
        assert svi.graphs.mode is (mode and stays)
    assert results[0][0] == results[1][0]
    assert all(torch.equal(p, q) for p, q in zip(results[0][1], results[1][1], strict=True))


def posterior_of(svi):
    return svi.model.__self__.posterior


class Listed(Shaped):
    def shape(self, loc):
        return loc * self.factors[0]


class Configured(Shaped):
    def shape(self, loc):
        return loc * self.options.factor


class Scaled(Shaped):
    factor = 1.0

    def shape(self, loc):
        return loc * self.factor


def pinned():
    return dist.Normal(two(0.0), 1.0).expand([16, 3]).to_event(1)


def two(value):
    return torch.tensor(value).double()


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("kind", "attributes", "change"),
    [
        (Shaped, {"shape": torch.sin}, lambda q: setattr(q, "shape", torch.tanh)),
        (Scaled, {"factor": 1.0}, lambda q: setattr(q, "factor", two([1.0, 2.0, 3.0]))),
        *thorough(
            (Listed, {"factors": [1.0]}, lambda q: q.factors.__setitem__(0, 2.0)),
            (Configured, {"options": SimpleNamespace(factor=1.0)}, lambda q: setattr(q.options, "factor", 2.0)),
            (Shaped, {}, lambda q: setattr(q, "forward", lambda x, y=None: pinned())),
            (Shaped, {}, lambda q: setattr(q, "shape", torch.sin)),
            (Scaled, {}, lambda q: setattr(q, "factor", 2.0)),
            (Scaled, {"factor": two(1.0)}, lambda q: setattr(q, "factor", two(2.0))),
            (Listed, {"factors": [1.0]}, lambda q: setattr(q, "factors", [2.0])),
            (Listed, {"factors": {0: 1.0}}, lambda q: setattr(q, "factors", {0: 2.0})),
            (Listed, {"factors": (two([1.0]),)}, lambda q: setattr(q, "factors", (two([2.0]),))),
        ),
    ],
)  # fmt: skip
def test_every_kind_of_attribute_is_seen(kind, attributes, change, traced_only):
    def make(mode):
        return shaped(mode, kind=kind, **copy.deepcopy(attributes))

    check_same_after(make, lambda svi: change(posterior_of(svi)))


def _other_program(svi):
    vae = small_vae()
    svi.model, svi.guide, svi.optimizer = vae.model, vae.guide, torch.optim.Adam(vae.parameters(), lr=1e-2)


@pytest.mark.thorough
@pytest.mark.parametrize(
    "change",
    [
        *thorough(
            lambda svi: setattr(svi, "loss", TraceMeanField_ELBO()),
            lambda svi: setattr(svi, "max_grad_norm", 0.01),
        ),
        lambda svi: setattr(svi, "optimizer", torch.optim.SGD(svi.held(), lr=1e-3)),
        _other_program,
    ],
)
def test_another_part_of_the_svi_is_seen(change, traced_only):
    check_same_after(lambda mode: ours(small_vae(), mode=mode), change)


def _scale_gradient(parameter):
    parameter.grad.mul_(100)


@pytest.mark.parametrize(
    "add",
    [
        lambda svi: svi.held()[0].register_hook(lambda gradient: 100 * gradient),
        *thorough(
            lambda svi: svi.held()[0].register_post_accumulate_grad_hook(_scale_gradient),
            lambda svi: posterior_of(svi).encoder.register_forward_hook(lambda net, x, h: 2 * h),
            lambda svi: posterior_of(svi).encoder.register_forward_pre_hook(lambda net, x: None),
        ),
    ],
)
def test_hooks_are_called_at_each_step(add, traced_only, caplog):
    check_same_after(lambda mode: ours(small_vae(), mode=mode), add, stays=False)
    assert "has a hook" in caplog.text


class Paired(pv.Program):
    """Of a pair of tensors, z from one and x from the other."""

    def __init__(self):
        super().__init__()
        self.vae = small_vae()

    def model(self, a, b):
        self.list_parameters()
        with pyro.plate("data", len(a)):
            z = pyro.sample("z", self.vae.prior())
            pyro.sample("x", self.vae.likelihood(z), obs=b)

    def guide(self, a, b):
        self.list_parameters()
        with pyro.plate("data", len(a)):
            pyro.sample("z", self.vae.posterior(a))


def test_a_tensor_that_is_given_twice_is_two_arguments(traced_only):
    x, results = binary_data(16), []
    for mode in (True, False):
        with stream(0, "init"):
            svi = ours(Paired(), mode=mode)
        with stream(0, "noise"):
            results.append([svi.step(x, x), svi.step(1 - x, x), svi.step(x, 1 - x)])
    assert results[0] == results[1]


class Stateful(Shaped):
    """One that keeps something from call to call."""

    def shape(self, loc):
        self.calls += 1
        return loc


class Kept(Shaped):
    def shape(self, loc):
        self.last = loc.detach()
        return loc


class Rebound(Shaped):
    def shape(self, loc):
        self.mean = 0.9 * self.mean + 0.1 * loc.detach().mean(0)
        return loc + self.mean


class Constant(Shaped):
    def shape(self, loc):
        return loc + torch.tensor(next(self.numbers)).double()


class Chance(Shaped):
    def shape(self, loc):
        return loc if random.random() < 2 else -loc  # noqa: S311


class ChanceOfNumpy(Shaped):
    def shape(self, loc):
        return loc if np.random.rand() < 2 else -loc  # noqa: NPY002


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        *thorough((Stateful, "running it sets calls")),
        (Kept, "running it sets last"),
        (Rebound, "Rebound replaces its buffer mean"),
        *thorough((Constant, "it does something different at each call")),
        (Chance, "random numbers that are not torch's"),
        *thorough((ChanceOfNumpy, "random numbers that are not torch's")),
    ],
)
def test_state_in_python_is_no_graph(kind, reason, caplog):
    svi = shaped(True, kind=kind)
    posterior = posterior_of(svi)
    posterior.numbers, posterior.calls = itertools.count(1.0), 0
    posterior.register_buffer("mean", torch.zeros(3).double())
    check_fallback(svi, binary_data(16), caplog, reason)


class OwnStep(Trace_ELBO):
    def loss_and_grads(self, model, guide, *args, **kwargs):
        return 2 * super().loss_and_grads(model, guide, *args, **kwargs)


def test_a_loss_with_a_step_of_its_own(caplog):
    check_fallback(ours(small_vae(), OwnStep()), binary_data(16), caplog, "the loss is a OwnStep")


@pytest.mark.parametrize(
    "around",
    [lambda i: pyro.poutine.scale(scale=0.1 * (i + 1)), lambda i: torch.autocast("cpu", torch.bfloat16, enabled=i > 0)],
)
def test_what_is_around_a_step_is_heard(around, traced_only):
    results = []
    for mode in (True, False):
        with stream(0, "init"):
            svi = ours(small_vae().float(), mode=mode)
        with stream(0, "noise"):
            losses = []
            for i in range(4):
                with around(i):
                    losses.append(svi.step(binary_data(16).float()))
        results.append(losses)
    assert results[0] == results[1]


class Observed(pv.Program):
    """A site whose data only Pyro's validation looks at."""

    def __init__(self):
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(6).double())

    def model(self, x=None, y=None):
        self.list_parameters()
        with pyro.plate("data", len(x)):
            return pyro.sample("x", dist.Bernoulli(logits=self.logits).to_event(1), obs=x)

    def guide(self, x, y=None):
        self.list_parameters()


def test_what_pyro_validates_is_validated(traced_only):
    svi, x = ours(Observed()), binary_data(16)
    svi.step(x)
    before = svi.model.__self__.logits.clone()
    with pytest.raises(ValueError, match="support"):
        svi.step(2 * x + 1)
    assert torch.equal(svi.model.__self__.logits, before)
    svi.step(x)


def test_what_pyro_does_not_validate_is_not(traced_only):
    with pyro.validation_enabled(False):
        svi = ours(Observed())
        svi.step(binary_data(16) + 1)
    assert svi.num_steps == 1


def test_fits_of_one_svi_share_their_graphs(soon):
    data = pv.data.load("digits", binarize="dynamic")
    vae = pv.VAE(
        pv.priors.StandardNormal(2),
        pv.posteriors.DiagonalNormal(pv.networks.MLP((1, 8, 8), (4,), hidden=(4,)), 2),
        pv.likelihoods.Bernoulli(pv.networks.MLP((2,), (1, 8, 8), hidden=(4,))),
    )
    svi = ours(vae, mode="auto")
    for _ in range(3):
        list(pv.inference.fit(vae, svi, data, pv.inference.Schedule(epochs=1, batch_size=600)))
        svi.num_steps = 10
    assert captures(svi) <= 2  # whole batches, and the last


def test_an_svi_dies_with_its_last_reference(traced_only):
    svi = ours(small_vae())
    svi.step(binary_data(4))
    last = weakref.ref(svi)
    gc.disable()
    try:
        del svi
        assert last() is None
    finally:
        gc.enable()
