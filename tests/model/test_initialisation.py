"""initialise: bounds and variances of the published rules, for every kind of layer."""

import copy
import math

import pytest
import torch
from torch import nn

import pyro_vae as pv
from pyro_vae.errors import UsageError
from pyro_vae.model.initialisation import _fans, initialise

LAYERS = {  # with n_in and n_out of one unit
    "linear": (nn.Linear(400, 300), 400, 300),
    "conv": (nn.Conv2d(20, 50, 3), 20 * 9, 50 * 9),
    "conv with a stride": (nn.Conv2d(20, 50, 4, stride=2), 20 * 16, 50 * 4),
    "transposed": (nn.ConvTranspose2d(20, 50, 4, stride=2), 20 * 4, 50 * 16),
    "depthwise": (nn.Conv2d(600, 600, 5, groups=600), 25, 25),
}


@pytest.mark.parametrize("layer", [each[0] for each in LAYERS.values()], ids=LAYERS)
def test_each_unit_has_what_enters_and_what_it_goes_to(layer):
    """Counted: how many inputs change one output in the middle, and how many outputs one input changes."""
    ones = copy.deepcopy(layer)
    nn.init.ones_(ones.weight)
    side = () if isinstance(layer, nn.Linear) else (24, 24)
    size = layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels
    x = torch.zeros(1, size, *side, requires_grad=True)
    y = ones(x)
    middle = [n // 2 for n in y.shape[2:]]
    counted = torch.autograd.grad(y[(0, 0, *middle)], x, retain_graph=True)[0].count_nonzero()
    reached = torch.autograd.grad(y.sum(), x)[0][(0, 0, *(n // 2 for n in x.shape[2:]))]
    assert (counted.item(), reached.item()) == _fans(layer)


def test_the_gate_of_a_transposed_convolution_is_a_layer_too():
    network = nn.Sequential(nn.ConvTranspose2d(30, 80, 4, stride=2), nn.GLU(1))
    initialise(network, "glorot")
    assert network[0].weight.abs().max().item() == pytest.approx(math.sqrt(6 / (30 * 4 + 40 * 16)), rel=1e-3)


def test_a_weight_that_is_computed_stays():
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(4, 3))
    before = layer.weight.clone()
    initialise(layer, "he")
    assert torch.equal(layer.weight, before)


@pytest.mark.parametrize(("layer", "into", "out"), LAYERS.values(), ids=LAYERS)
def test_the_rules_are_the_papers(layer, into, out):
    torch.manual_seed(0)
    initialise(layer, "glorot")
    weight = layer.weight.detach().double()
    bound = math.sqrt(6 / (into + out))
    assert 0.999 * bound < weight.abs().max() <= bound * (1 + 1e-6)
    # The variance of a uniform draw has a relative standard error of sqrt(0.8 / n).
    assert abs(weight.var() / (bound**2 / 3) - 1) < 5 * math.sqrt(0.8 / weight.numel())
    assert not layer.bias.any()
    initialise(layer, "he")
    weight = layer.weight.detach().double()
    assert abs(weight.var() / (2 / into) - 1) < 5 * math.sqrt(2 / weight.numel())
    kurtosis = (weight**4).mean() / weight.var() ** 2
    assert abs(kurtosis - 3) < 5 * math.sqrt(24 / weight.numel())


def test_value_and_gate_are_two_layers():
    network = pv.networks.GatedMLP((400,), (80,), hidden=(300, 300))
    initialise(network, "glorot")
    bounds = [math.sqrt(6 / 700), math.sqrt(6 / 600)]
    found = [layer.weight.abs().max().item() for layer in network.body if isinstance(layer, nn.Linear)]
    assert found == pytest.approx(bounds, rel=1e-3)
    assert network.head.weight.abs().max().item() == pytest.approx(math.sqrt(6 / 380), rel=1e-3)


@pytest.mark.parametrize("rule", ["torch", "glorot", "he"])
def test_what_is_no_layer_stays(rule):
    network = pv.networks.ConvDecoder((5,), (1, 9, 7), hidden=(8, 16))
    nn.init.normal_(network.output_bias)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    initialise(network, rule)
    changed = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == (set() if rule == "torch" else before.keys() - {"output_bias"})


def test_another_rule_is_refused():
    with pytest.raises(UsageError, match="unknown init 'xavier'"):
        initialise(nn.Linear(2, 2), "xavier")
