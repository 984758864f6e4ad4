"""A captured function gives what the function gives, leaves nothing behind, and is not used once its module changed."""

import logging
import signal
import threading

import pyro
import pyro.distributions as dist
import pyro.infer.trace_elbo as trace_elbo
import pytest
import torch
from cases import needs_compiler
from exact import binary_data, small_vae
from torch import nn

import pyro_vae as pv
from pyro_vae import system
from pyro_vae.cli import command_ending
from pyro_vae.graphs import capture as graph_capture
from pyro_vae.graphs.capture import Graph, capture
from pyro_vae.graphs.watch import Watch
from pyro_vae.model.conditions import collected, require


@pytest.fixture
def layer():
    return nn.Linear(3, 2).double()


def loss(vae, x):
    with collected():
        return pyro.infer.Trace_ELBO().differentiable_loss(vae.model, vae.guide, x)


def test_it_follows_what_is_given_and_what_is_held(layer):
    graph = capture(lambda x: [layer(x)], [torch.zeros(4, 3).double()], [layer])
    x = torch.rand(4, 3).double()
    with torch.no_grad():
        layer.weight += 1.0
    assert torch.equal(graph(x)[0], layer(x))
    assert not graph(x)[0].requires_grad


def test_gradients_are_part_of_it():
    x = torch.rand(5).double()

    def slope(t):
        with torch.enable_grad():
            t = t.detach().requires_grad_()
            return [torch.autograd.grad((t**3).sum(), t)[0]]

    graph = capture(slope, [torch.zeros(5).double()], [])
    torch.testing.assert_close(graph(x)[0], 3 * x**2, rtol=1e-14, atol=0)


def test_it_draws_what_the_program_draws():
    vae, x = small_vae(), binary_data(5)
    graph = capture(lambda x: [loss(vae, x)], [x], [vae])
    draws = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        expected = loss(vae, x)
        torch.manual_seed(seed)
        assert graph(x)[0] == expected
        draws.append(expected.item())
    assert draws[0] != draws[1]


def test_capturing_leaves_nothing_behind():
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    names = trace_elbo.torch_item, trace_elbo.warn_if_nan
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    x = torch.rand(6, 3)
    state, flag = torch.get_rng_state(), dist.is_validation_enabled()
    pyro.param("mine", torch.ones(()))

    def noisy(x):
        pyro.param("other", torch.ones(()))
        return [network(x) + torch.rand(4)]

    graph = capture(noisy, [x], [network])
    assert all(torch.equal(buffer, before[name]) for name, buffer in network.named_buffers())
    assert torch.equal(torch.get_rng_state(), state)
    assert dist.is_validation_enabled() is flag
    assert list(pyro.get_param_store()) == ["mine"]
    assert (trace_elbo.torch_item, trace_elbo.warn_if_nan) == names
    graph(x)
    assert not torch.equal(network[1].running_mean, before["1.running_mean"])  # replaying trains it


def test_a_failing_capture_leaves_nothing_behind():
    names = trace_elbo.torch_item, trace_elbo.warn_if_nan
    state, flag = torch.get_rng_state(), dist.is_validation_enabled()
    with pytest.raises(RuntimeError, match="tracing tensor"):
        capture(lambda x: [x + torch.rand(1) if x.sum() > 0 else x], [torch.ones(2)], [])
    assert (trace_elbo.torch_item, trace_elbo.warn_if_nan) == names
    assert torch.equal(torch.get_rng_state(), state)
    assert dist.is_validation_enabled() is flag


def test_a_condition_raises_here_and_is_an_output_there():
    def checked(x):
        with collected() as conditions:
            require((x > 0).all(), lambda: ValueError("not positive"))
        return conditions

    graph = capture(checked, [torch.ones(2)], [])
    assert graph(torch.ones(2))[0]
    assert not graph(-torch.ones(2))[0]
    with pytest.raises(ValueError, match="not positive"):
        require((-torch.ones(2) > 0).all(), lambda: ValueError("not positive"))
    require(torch.tensor(True), lambda: ValueError("never"))


def test_moved_tensors_are_noticed(layer):
    graph = capture(lambda x: [layer(x)], [torch.zeros(4, 3).double()], [layer])
    assert graph.is_current()
    layer.float()
    assert not graph.is_current()


def test_a_tensor_that_is_read_twice_is_held_once(layer):
    graph = capture(lambda x: [layer(layer.weight @ x)], [torch.zeros(3, 3).double()], [layer])
    assert isinstance(graph, Graph)
    assert len(graph.held) == 2


class Owner(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Dropout(0.5))
        self.power, self.name, self.sizes, self.table = 1.5, "a", [1, 2], {"a": 1}


def _replace_member(owner):
    owner.inner[0] = nn.Linear(2, 2)


def _replace_parameter(owner):
    owner.inner[0].weight = nn.Parameter(owner.inner[0].weight.detach().clone())


def _replace_buffer(owner):
    owner.inner[1].running_mean = torch.ones(2)


def _freeze(owner):
    owner.inner[0].bias.requires_grad_(False)


def _append(owner):
    owner.sizes.append(3)


def _change_entry(owner):
    owner.table["a"] = 2


def _hook(owner):
    owner.inner[0].register_forward_hook(lambda *_: None)


@pytest.mark.parametrize(
    "change",
    [
        _replace_member,
        _replace_parameter,
        _replace_buffer,
        _freeze,
        _append,
        _change_entry,
        _hook,
        lambda owner: owner.eval(),
        lambda owner: setattr(owner, "power", 2.5),
        lambda owner: setattr(owner, "name", "b"),
        lambda owner: setattr(owner.inner[2], "p", 0.1),
    ],
)
def test_watch_sees(change):
    owner = Owner()
    watch = Watch([owner])
    assert watch.unchanged()
    change(owner)
    assert not watch.unchanged()


def test_watch_lets_values_of_tensors_pass():
    owner = Owner()
    watch = Watch([owner])
    with torch.no_grad():
        owner.inner[0].weight += 1
    owner.inner(torch.rand(4, 2))
    owner.power = 3.0 / 2.0
    assert watch.unchanged()


def test_watch_sees_another_entry_in_the_store():
    weight = pyro.param("weight", torch.ones(2))
    watch = Watch([], ["weight"])
    assert watch.unchanged()
    pyro.clear_param_store()
    assert not watch.unchanged()
    pyro.param("weight", weight.detach().clone())
    assert not watch.unchanged()


def test_a_program_in_evaluation_is_captured_as_such():
    vae = pv.VAE(
        pv.priors.StandardNormal(2),
        pv.posteriors.DiagonalNormal(nn.Sequential(nn.Linear(6, 4), nn.Dropout(0.5)), 2),
        pv.likelihoods.Bernoulli(pv.networks.MLP((2,), (6,))),
    )
    x = torch.zeros(3, 6)
    in_training = capture(lambda x: [vae.posterior(x).mean], [x], [vae])
    vae.eval()
    still = capture(lambda x: [vae.posterior(x).mean], [x], [vae])
    assert "bernoulli" in in_training.code
    assert torch.equal(still(x)[0], vae.posterior(x).mean)


def test_the_compilers_logger_is_left_as_it_was():
    logger = logging.getLogger("torch.utils.cpp_extension")
    before = logger.level
    with graph_capture._quiet():
        assert logger.level == logging.ERROR
    assert logger.level == before != logging.ERROR


@needs_compiler
@pytest.mark.thorough
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_a_compiled_product_ends_the_command_as_elsewhere(number, capsys):
    x = torch.rand(400, 400)  # the product is a kernel of ours, in which the signal arrives
    graph = capture(lambda x: [x @ x @ x @ x], [x], []).compiled([x])
    timer = threading.Timer(0.2, signal.raise_signal, [number])

    def until_it_ends():
        timer.start()
        while True:
            graph(x)

    with pytest.raises(SystemExit) as end, command_ending.exit_codes():
        until_it_ends()
    timer.join()
    assert end.value.code == 128 + number
    assert capsys.readouterr().err == "interrupted\n"
    system.end_again()  # nothing is left of it
