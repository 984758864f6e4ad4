"""Steps of many processes as graphs are those that Pyro runs there, and none goes on alone where one process cannot."""

import logging
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from cases import needs_compiler, thorough
from finished import images
from torch import nn
from worlds import SMALL, Double, made, shared, spread

import pyro_vae as pv
from pyro_vae.errors import DivergenceError
from pyro_vae.experiment import build
from pyro_vae.experiment.config import Config
from pyro_vae.graphs.capture import Graph
from pyro_vae.inference import SVI, Trace_ELBO, World
from pyro_vae.inference.replayed import SharedOutputs

SEED = 7
SIZES = [17, 17, 1, 17]  # slices of 9 and 8, or of 6, 6 and 5; and of a single datum, which only the first one has


@pytest.fixture(scope="module")
def grey(tmp_path_factory):
    return images(tmp_path_factory.mktemp("data") / "grey.npz", size=60)


def steps(world, vae, svi, x, *y):
    """Losses and parameters of some steps of several sizes, and how many graphs made them."""
    losses = []
    for number, size in enumerate(SIZES):
        with world.noise(SEED, 0, number):
            losses.append(svi.step(x[:size], *(labels[:size] for labels in y), kl_weight=svi_weight(svi, number)))
    world.check_same(vae.tensors(), "after the steps")
    return losses, [parameter.tolist() for parameter in vae.parameters()], len(svi.graphs._graphs)


def svi_weight(svi, number):
    return 1.0 if isinstance(svi.loss, pv.inference.ImportanceWeightedELBO) else 0.5 + 0.1 * number


def both(world, config, dtype=torch.float64):
    """The same steps by Pyro and as graphs."""
    found = []
    for mode in (False, "auto"):
        data, vae, svi = made(config)
        if dtype == torch.float32:
            vae = build.vae(config, *data.form)
            build.start(config, vae, data)
            svi = build.svi(config, vae)
        svi = shared(vae, SVI(vae.model, vae.guide, svi.optimizer, svi.loss, svi.max_grad_norm, mode), world)
        y = [data.train.one_hot(3).to(dtype)] if config.conditional else []
        found.append(steps(world, vae, svi, data.train.fixed().to(dtype), *y))
    return found


CASES = [
    {"objective": "mean_field_elbo", "conditional": True, "prior": "conditional", "max_grad_norm": 0.02},
    {"objective": "trace_elbo", "num_particles": 2, "prior": "diagonal"},
    {"objective": "iwae", "num_particles": 3, "prior": "vamp", "num_components": 3, "max_grad_norm": 0.5},
    {"objective": "trace_elbo", "gradient": "sticking_the_landing", "num_particles": 2},
]


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("size", "flags"),
    [(3, CASES[0]), (2, CASES[1]), *thorough(*((size, flags) for size in (2, 3) for flags in CASES))],
    ids=str,
)
def test_graphs_are_the_steps_that_pyro_runs(grey, tmp_path, size, flags):
    found = spread(size, tmp_path, both, Config(dataset=grey, **SMALL, **flags))
    assert found[1:] == found[:-1]
    (expected, parameters, none), (losses, traced, num_graphs) = found[0]
    assert (none, num_graphs) == (0, 2)
    assert losses == pytest.approx(expected, rel=1e-12)
    for one, other in zip(traced, parameters, strict=True):
        assert torch.allclose(torch.tensor(one), torch.tensor(other), rtol=1e-12, atol=1e-14)
    if size == 2:  # a sum of two numbers has no order
        assert (losses, traced) == (expected, parameters)


@pytest.mark.thorough
def test_graphs_in_float32_are_the_same_to_the_last_bit(grey, tmp_path):
    config = Config(dataset=grey, **SMALL, max_grad_norm=0.02)
    for by_pyro, traced in spread(2, tmp_path, both, config, torch.float32):
        assert by_pyro[:2] == traced[:2]


class Still(World):
    """A process whose peers all send zeros."""

    def sum(self, values):
        return values


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("rank", [0, 2])
def test_a_loss_keeps_its_precision_whatever_the_type_of_the_gradients(dtype, rank):
    parameter = torch.ones(2, 3, dtype=dtype)
    shared = SharedOutputs([parameter], math.inf, Still(rank, 3))
    for loss in (-math.pi, 1e-300, 1e300, 0.1 + 2**40):
        made = shared.made(torch.tensor(loss, dtype=torch.float64), torch.tensor(True), [2 * parameter])
        assert made[0].dtype == dtype
        found = shared.read(lambda made=made: made)
        assert (found.loss, found.is_sound) == (loss, True)
        assert torch.equal(found.gradients[0], 2 * parameter)
    refused = shared.made(torch.tensor(1.0), torch.tensor(False), [parameter])
    assert not shared.read(lambda: refused).is_sound


# What one process cannot do.


class Listed(logging.Handler):
    """The sentences that were logged."""

    def __init__(self):
        super().__init__()
        self.told = []
        logging.getLogger("pyro_vae").addHandler(self)

    def emit(self, record):
        self.told.append(record.getMessage())


def hooked(world, config):
    """The second process has a hook, and no datum that its likelihood takes in its first step."""
    data, vae, svi = made(config, world)
    logged, x = Listed(), data.train.fixed()[:17].double()
    wrong = x.clone()
    if world.rank == 1:
        vae.likelihood.register_forward_hook(lambda *_: None)
    wrong[0] = 0.5
    with pytest.raises(ValueError, match=r"0\.5"):
        svi.step(wrong)
    losses = [svi.step(x) for _ in range(2)]
    world.check_same(vae.tensors(), "after the steps")
    return losses, svi.graphs.mode, logged.told


def invalid(world, config):
    """A datum of the last slice is outside of the support, where the loss is finite nevertheless."""
    data, vae, svi = made(config, world)
    x = data.train.fixed()[:17].double()
    svi.step(x)
    before = [parameter.tolist() for parameter in vae.parameters()]
    x[-1] = 0.5
    with pytest.raises(ValueError, match=r"0\.5"):
        svi.step(x)
    return [parameter.tolist() for parameter in vae.parameters()] == before, svi.graphs.mode


@pytest.mark.thorough
def test_data_that_are_invalid_in_one_process_are_refused_by_all(grey, tmp_path):
    config = Config(dataset=grey, **{**SMALL, "compile": "auto"})
    assert spread(3, tmp_path, invalid, config) == [(True, "auto")] * 3


@pytest.mark.thorough
def test_where_one_process_cannot_have_a_graph_none_has(grey, tmp_path):
    config = Config(dataset=grey, **{**SMALL, "compile": "auto"})
    found = spread(3, tmp_path, hooked, config)
    assert [(losses, mode) for losses, mode, _ in found] == [(found[0][0], False)] * 3
    sentence = "Pyro runs the steps, not a graph: process 1 of 3: a module or a parameter has a hook"
    assert [len(told) for *_, told in found] == [1, 0, 0]
    assert found[0][2][0].startswith(sentence)


class Sized(Double):
    """A program that computes small slices in another way."""

    def guide(self, x, y=None):
        if len(x) > 5:
            return super().guide(x, y)
        self.list_parameters()
        with pyro.plate("data", len(x), dim=-1):
            return pyro.sample("z", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))


def sized(world, config):
    data, vae, svi = made(config)
    vae = Sized(vae.prior, vae.posterior, vae.likelihood)
    svi = shared(vae, SVI(vae.model, vae.guide, svi.optimizer, svi.loss, compile="auto"), world)
    logged, loss = Listed(), svi.step(data.train.fixed()[:17].double())
    return loss, svi.graphs.mode, logged.told


@pytest.mark.thorough
def test_where_processes_reach_different_parameters_there_is_no_graph(grey, tmp_path):
    found = spread(3, tmp_path, sized, Config(dataset=grey, **SMALL, objective="trace_elbo"))
    assert [(loss, mode) for loss, mode, _ in found] == [(found[0][0], False)] * 3
    assert found[0][2] == ["Pyro runs the steps, not a graph: its loss depends on other parameters in other processes"]


def changed(world, config):
    """Between two steps the program of the first process changes."""
    data, vae, svi = made(config, world)
    x = data.train.fixed()[:17].double()
    svi.step(x)
    if world.first:
        vae.note = "changed"
    svi.step(x)
    world.check_same(vae.tensors(), "after the steps")
    return svi.graphs._captures, svi.graphs.mode


@pytest.mark.thorough
def test_where_the_program_of_one_process_changes_all_make_a_new_graph(grey, tmp_path):
    config = Config(dataset=grey, **{**SMALL, "compile": "auto"})
    assert spread(2, tmp_path, changed, config) == [(2, "auto")] * 2


def failing(world, config):
    """Compiling fails in one process, and then a replay."""
    if world.rank == 1:
        Graph.compiled = lambda *_: 1 / 0
    else:
        Graph.compiled = lambda *_: Graph(None, [])
    data, vae, svi = made(config, world)
    logged, x = Listed(), data.train.fixed()[:17].double()
    svi.step(x)
    (graph,) = svi.graphs._graphs.values()
    module, before = graph._graph.module, [parameter.tolist() for parameter in vae.parameters()]
    if world.rank == 1:
        graph._graph.module = None
    with pytest.raises(DivergenceError, match=r"step 2: .* the step was not applied"):
        svi.step(x)
    assert [parameter.tolist() for parameter in vae.parameters()] == before
    graph._graph.module = module
    svi.step(x)
    world.check_same(vae.tensors(), "after the steps")
    return logged.told


@pytest.mark.thorough
def test_a_failure_of_one_process_is_agreed_on_by_all(grey, tmp_path):
    config = Config(dataset=grey, **{**SMALL, "compile": "yes"})
    told, *others = spread(3, tmp_path, failing, config)
    assert others == [[], []]
    assert told == [
        "steps are traced, but not compiled: ProcessError: process 1 of 3: ZeroDivisionError: division by zero"
    ]


class Rooted(pv.Program):
    """A loss that is finite at x = 0, where its gradient is not."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1).double())

    def model(self, x=None, y=None):
        self.list_parameters()
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("x", dist.Normal((self.weight * x).sqrt(), 1.0).to_event(1), obs=x)

    def guide(self, x, y=None):
        pass


def rooted(world, bound):
    vae = Rooted()
    adam = torch.optim.Adam(vae.parameters(), lr=0.1)
    svi = shared(vae, SVI(vae.model, vae.guide, adam, Trace_ELBO(), bound, "auto"), world)
    x = torch.ones(5, 1).double()
    svi.step(x)
    before = vae.weight.item()
    x[-1] = 0.0
    with pytest.raises(DivergenceError, match="the gradient is not finite"):
        svi.step(x)
    return vae.weight.item() == before, svi.graphs.mode


@pytest.mark.thorough
@pytest.mark.parametrize("bound", [math.inf, *thorough(1.0)])
def test_a_gradient_of_one_process_that_is_not_finite_is_refused_by_all(tmp_path, bound):
    assert spread(2, tmp_path, rooted, bound) == [(True, "auto")] * 2


def compiled(world, config):
    found = []
    for mode in (False, True):
        data, vae, svi = made(config)
        svi = shared(vae, SVI(vae.model, vae.guide, svi.optimizer, svi.loss, svi.max_grad_norm, mode), world)
        with svi.steady():
            found.append(steps(world, vae, svi, data.train.fixed().double()))
    return found


@needs_compiler
@pytest.mark.thorough
def test_compiled_steps_agree(grey, tmp_path):
    found = spread(2, tmp_path, compiled, Config(dataset=grey, **SMALL, max_grad_norm=0.5))
    assert found[0] == found[1]
    (expected, parameters, _), (losses, made, _) = found[0]
    assert losses == pytest.approx(expected, rel=1e-12)
    for one, other in zip(made, parameters, strict=True):
        assert torch.allclose(torch.tensor(one), torch.tensor(other), rtol=1e-11, atol=1e-13)
