"""initialise: draws the first weights of a network by a published rule."""

from itertools import pairwise

import torch
from torch import nn

from pyro_vae.option_words import Init, check_word

_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@torch.no_grad()
def initialise(module: nn.Module, rule: Init) -> None:
    r"""Draws the weights of all linear and convolutional layers of a module, and sets their biases to 0.

    .. math:: \text{glorot:}\quad w \sim U(-a, a),\; a = \sqrt{6 / (n_{in} + n_{out})} \qquad
       \text{he:}\quad w \sim N(0, 2 / n_{in})

    n_in and n_out are what enters and leaves one unit: of a convolution, channels times kernel. The value and the gate
    of a gated layer are two layers for this. Parameters that belong to no such layer stay as they are, as does
    `output_bias` of a network. The numbers come from torch's global generator.

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
        if isinstance(layer, _LAYERS + _TRANSPOSED):
            for weight in layer.weight.chunk(2 if layer in gated else 1):
                _draw(weight, rule, transposed=isinstance(layer, _TRANSPOSED))
            if layer.bias is not None:
                layer.bias.zero_()


def _gated(module: nn.Module) -> set[nn.Module]:
    """Finds the layers whose output is halved by a gate."""
    rows = [list(inner) for inner in module.modules() if isinstance(inner, nn.Sequential)]
    return {before for row in rows for before, after in pairwise(row) if isinstance(after, nn.GLU)}


def _draw(weight: torch.Tensor, rule: str, *, transposed: bool) -> None:
    if rule == "glorot":
        nn.init.xavier_uniform_(weight)
    else:
        nn.init.kaiming_normal_(weight, mode="fan_out" if transposed else "fan_in", nonlinearity="relu")
