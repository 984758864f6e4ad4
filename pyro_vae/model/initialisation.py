"""initialise: draws the first weights of a network by a published rule."""

import math
from itertools import pairwise
from typing import Any

import torch
from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from pyro_vae.option_words import Init, check_word

_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@torch.no_grad()
def initialise(module: nn.Module, rule: Init) -> None:
    r"""Draws the weights of all linear and convolutional layers of a module, and sets their biases to 0.

    .. math:: \text{glorot:}\quad w \sim U(-a, a),\; a = \sqrt{6 / (n_{in} + n_{out})} \qquad
       \text{he:}\quad w \sim N(0, 2 / n_{in})

    n_in and n_out are what enters one unit, and how many units it goes to: for a linear layer its sizes, for a
    convolution channels times kernel, where groups and a stride divide what they divide. The value and the gate of a
    gated layer are two layers for this. Parameters that belong to no such layer stay as they are, as do `output_bias`
    of a network and weights that a parametrisation, such as weight normalisation, computes.
    The numbers come from torch's global generator.

    Args:
        module: a network, a member or a program; it is changed in place.
        rule: "glorot", "he", or "torch", which leaves the module as torch has made it: for linear layers that is U(-a,
            a) with a = 1 / sqrt(n_in), biases included.

    Raises:
        UsageError: another rule.

    Reference:
        Eq. 16 of Glorot & Bengio, "Understanding the difficulty of training deep feedforward neural networks", AISTATS
        2010, https://proceedings.mlr.press/v9/glorot10a.html; eq. 10 of He et al., "Delving Deep into Rectifiers", ICCV
        2015, https://arxiv.org/abs/1502.01852

    Example:
        >>> import pyro_vae as pv
        >>> network = pv.networks.MLP((784,), (50,), hidden=(200, 200))
        >>> initialise(network, "glorot")
        >>> bool(network.body[0].weight.abs().max() <= (6 / (784 + 200)) ** 0.5), network.body[0].bias.any().item()
        (True, False)
    """
    check_word("init", rule, Init)
    if rule == "torch":
        return
    gated = _gated(module)
    for layer in module.modules():
        if isinstance(layer, _LAYERS + _TRANSPOSED) and not is_parametrized(layer):
            halves = 2 if layer in gated else 1
            into, out = _fans(layer)
            bound = math.sqrt(6 / (into + out / halves))
            if rule == "glorot":
                layer.weight.uniform_(-bound, bound)
            else:
                layer.weight.normal_(std=math.sqrt(2 / into))
            if layer.bias is not None:
                layer.bias.zero_()


def _gated(module: nn.Module) -> set[nn.Module]:
    """Finds the layers whose output is halved by a gate."""
    rows = [list(inner) for inner in module.modules() if isinstance(inner, nn.Sequential)]
    return {before for row in rows for before, after in pairwise(row) if isinstance(after, nn.GLU)}


def _fans(layer: Any) -> tuple[float, float]:
    """Computes n_in and n_out."""
    if isinstance(layer, nn.Linear):
        return layer.in_features, layer.out_features
    kernel, stride = math.prod(layer.kernel_size) / layer.groups, math.prod(layer.stride)
    into, out = layer.in_channels * kernel, layer.out_channels * kernel
    return (into / stride, out) if isinstance(layer, _TRANSPOSED) else (into, out / stride)
