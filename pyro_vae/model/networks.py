"""Networks: from tensors to tensors, with any leading batch dimensions and no probability.

Every network maps `(*, *in_shape)` to `(*, *out_shape)`. If it was built with `y_dim = C`, it takes labels `(B, C)` as
a second argument, and the leading dimensions of the two are broadcast against each other. A network ends in
`output_bias`, a parameter of `out_shape` numbers added to the output, so that a likelihood can start its decoder at the
mean of the training data.

Under `precision="bfloat16"` the layers of a network compute in bfloat16 by `torch.autocast`, with weights and data
rounded on the way in. Everything else stays as it is: the parameters and their gradients are float32, and so is the
output, to which `output_bias` is added in float32. So densities, KL and log-weights never see a bfloat16 number, and a
checkpoint of one precision also loads in the other. Autocast does not touch float64, so a program after `.double()`
computes in float64 whatever its `precision` says.

Your own network can be any `nn.Module` that maps rows `(N, *in_shape)`, and labels `(N, C)` if there are any, to `(N,
*out_shape)`: members fold leading dimensions before it. `output_bias` is needed only by `Likelihood.start_at`.

An encoder of data with missing numbers is `WithMask(network)`. `initialise(network, "glorot")` draws its weights again.
"""

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import cache
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from pyro_vae.model.encoder_inputs import WithMask as WithMask
from pyro_vae.model.initialisation import initialise as initialise
from pyro_vae.option_words import Precision, check_word

Activation = Callable[[], nn.Module]

_logger = logging.getLogger(__name__)


class Network(nn.Module):
    """Base class: checks shapes on entry, folds leading dimensions, sets the precision, adds the output bias.

    A member implements `run`, which maps `(N, *in_shape)` and labels `(N, C)` or None to `(N, out_size)`.

    Args:
        in_shape: event shape of the input.
        out_shape: event shape of the output.
        y_dim: number of label columns C, 0 for none.
        input_scale: factor on the input.
        precision: "float32" or "bfloat16", of the layers.

    Raises:
        UsageError: an unknown precision.

    Example:
        >>> class Linear(Network):
        ...     def __init__(self, in_shape, out_shape):
        ...         super().__init__(in_shape, out_shape)
        ...         self.head = nn.Linear(math.prod(in_shape), math.prod(out_shape), bias=False)
        ...     def run(self, x, y):
        ...         return self.head(x.flatten(1))
        >>> Linear((1, 8, 8), (40,))(torch.zeros(5, 3, 1, 8, 8)).shape
        torch.Size([5, 3, 40])
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        out_shape: Sequence[int],
        y_dim: int = 0,
        input_scale: float = 1.0,
        precision: Precision = "float32",
    ) -> None:
        super().__init__()
        self.precision = _known(precision)
        self.in_shape, self.out_shape, self.y_dim = tuple(in_shape), tuple(out_shape), y_dim
        self.input_scale = input_scale
        self.output_bias = nn.Parameter(torch.zeros(self.out_shape))

    def run(self, x: Tensor, y: Tensor | None) -> Tensor:
        """Maps x (N, *in_shape) and labels (N, C) or None to (N, out_size), without the output bias."""
        raise NotImplementedError(f"{type(self).__name__} has no run()")

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        lead = self._leading_shape(x, y)
        if y is not None:
            lead = torch.broadcast_shapes(lead, y.shape[:-1])
            y = y.expand(*lead, self.y_dim).reshape(-1, self.y_dim).to(x.dtype)  # numpy's are float64
            x = x.expand(*lead, *self.in_shape)
        x = x.reshape(-1, *self.in_shape)
        if self.input_scale != 1.0:
            x = x * self.input_scale
        with self._arithmetic(x.device.type):
            h = self.run(x, y)
        return h.reshape(*lead, *self.out_shape) + self.output_bias  # the bias is float32, and makes the sum float32

    def extra_repr(self) -> str:
        return "" if self.precision == "float32" else f"precision={self.precision!r}"

    def _arithmetic(self, device: str) -> Any:
        if _known(self.precision) == "float32":
            return nullcontext()
        _note_slow(device)
        # While an outer autocast is open, autocast would keep its rounded weights even after a step changed them.
        return torch.autocast(device, torch.bfloat16, cache_enabled=False)

    def _leading_shape(self, x: Tensor, y: Tensor | None) -> torch.Size:
        split = x.dim() - len(self.in_shape)
        if split < 0 or x.shape[split:] != self.in_shape:
            raise ValueError(f"{type(self).__name__} takes tensors (*, {_comma(self.in_shape)}); got {tuple(x.shape)}")
        if x.dtype != self.output_bias.dtype:
            raise ValueError(
                f"{type(self).__name__} computes in {self.output_bias.dtype}; got {x.dtype}: "
                + self._cure_of_type(x.dtype)
            )
        given = 0 if y is None else y.shape[-1]
        if given != self.y_dim:
            raise ValueError(
                f"{type(self).__name__} was built with y_dim={self.y_dim} and got {given} label columns: pass one-hot "
                f"labels (B, {self.y_dim}). A conditional program needs them wherever it takes x, as in vae.encode(x, "
                "y) and evaluation.impute(vae, x, 20, y)"
                if self.y_dim
                else f"{type(self).__name__} was built without labels (y_dim=0) and got labels of {given} columns"
            )
        return x.shape[:split]

    def _cure_of_type(self, given: torch.dtype) -> str:
        if given.is_floating_point:
            return f"x.to({self.output_bias.dtype}), or move the program, e.g. vae.double()"
        floats = "x.float()" if self.output_bias.dtype == torch.float32 else f"x.to({self.output_bias.dtype})"
        return (
            f"{floats}. Pass levels 0..L-1 in the form used in training, usually as intensities x / (L - 1), which "
            "for uint8 is x / 255; vae.encode(x) of a program from pyro_vae.load does that for you"
        )


class MLP(Network):
    r"""A multilayer perceptron.

    .. math:: h_0 = [x, y], \qquad h_i = \mathrm{activation}(W_i h_{i-1} + b_i), \qquad \mathrm{output} = W h_L + b

    Args:
        in_shape: event shape of the input, e.g. `(1, 28, 28)`.
        out_shape: event shape of the output, e.g. `(2 * D,)`.
        hidden: widths of the hidden layers.
        activation: a module class without arguments, e.g. `torch.nn.Tanh`.
        y_dim: number of label columns C, 0 for none.
        input_scale: factor on the input, e.g. 1 / 255 for grey levels, which are too large for a network as they are.
        precision: "float32" or "bfloat16", of the layers.

    Example:
        >>> net = MLP((1, 8, 8), (40,), hidden=(256,))
        >>> net(torch.zeros(5, 3, 1, 8, 8)).shape
        torch.Size([5, 3, 40])
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        out_shape: Sequence[int],
        hidden: Sequence[int] = (200, 200),
        activation: Activation = nn.ReLU,
        y_dim: int = 0,
        input_scale: float = 1.0,
        precision: Precision = "float32",
    ) -> None:
        super().__init__(in_shape, out_shape, y_dim, input_scale, precision)
        widths = [math.prod(in_shape) + y_dim, *hidden]
        self.body = nn.Sequential(*(layer for pair in pairwise(widths) for layer in self._layer(*pair, activation)))
        self.head = nn.Linear(widths[-1], math.prod(out_shape), bias=False)

    def _layer(self, fan_in: int, fan_out: int, activation: Activation) -> list[nn.Module]:
        return [nn.Linear(fan_in, fan_out), activation()]

    def run(self, x: Tensor, y: Tensor | None) -> Tensor:
        flat = x.flatten(1)
        return self.head(self.body(flat if y is None else torch.cat([flat, y], -1)))


class GatedMLP(MLP):
    r"""A multilayer perceptron of gated layers.

    .. math:: h_i = (A_i h_{i-1} + a_i) \, \mathrm{sigmoid}(G_i h_{i-1} + g_i)

    It takes the arguments of `MLP`; the gate is the only non-linearity, so `activation` is not used.

    Reference:
        Section 5 of Tomczak & Welling, "VAE with a VampPrior", AISTATS 2018. https://arxiv.org/abs/1705.07120

    Example:
        >>> GatedMLP((784,), (80,), hidden=(300, 300))(torch.zeros(2, 784)).shape
        torch.Size([2, 80])
    """

    def _layer(self, fan_in: int, fan_out: int, activation: Activation) -> list[nn.Module]:
        return [nn.Linear(fan_in, 2 * fan_out), nn.GLU(-1)]


class ConvEncoder(Network):
    """Strided 3 x 3 convolutions, each halving height and width (rounding up), then one linear layer.

    Args:
        in_shape: `(C, H, W)`, any height and width.
        out_shape: event shape of the output.
        hidden: channels of the convolutions.
        activation: a module class without arguments, e.g. `torch.nn.Tanh`.
        y_dim: number of label columns, which enter as constant feature maps.
        input_scale: factor on the input.
        precision: "float32" or "bfloat16", of the layers.

    Raises:
        ValueError: in_shape is not the shape of an image.

    Example:
        >>> ConvEncoder((1, 28, 20), (60,), hidden=(16, 32))(torch.zeros(7, 1, 28, 20)).shape
        torch.Size([7, 60])
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        out_shape: Sequence[int],
        hidden: Sequence[int] = (32, 64),
        activation: Activation = nn.ReLU,
        y_dim: int = 0,
        input_scale: float = 1.0,
        precision: Precision = "float32",
    ) -> None:
        super().__init__(_image(in_shape), out_shape, y_dim, input_scale, precision)
        channels = [in_shape[0] + y_dim, *hidden]
        self.body = nn.Sequential(
            *(
                layer
                for fan_in, fan_out in pairwise(channels)
                for layer in (nn.Conv2d(fan_in, fan_out, 3, stride=2, padding=1), activation())
            )
        )
        height, width = _halvings(in_shape[1:], len(hidden))[-1]
        self.head = nn.Linear(channels[-1] * height * width, math.prod(out_shape), bias=False)

    def run(self, x: Tensor, y: Tensor | None) -> Tensor:
        if y is not None:
            x = torch.cat([x, y[..., None, None].expand(*y.shape, *x.shape[-2:])], 1)
        return self.head(self.body(x).flatten(1))


class ConvDecoder(Network):
    """One linear layer, then transposed 3 x 3 convolutions that undo the halvings of `ConvEncoder` exactly.

    A kernel of 3 is not a multiple of the stride of 2, so that neighbouring pixels get unequal numbers of terms, and an
    untrained decoder draws a checkerboard (Odena et al., "Deconvolution and Checkerboard Artifacts", 2016). Training
    removes most of it. Of the variance within an image on digits, the highest frequency of rows or columns holds 30 %
    before training and 0.9 % after 500 steps. It is 0.6 % with images enlarged and convolved instead, and 2.8 % in the
    data. On MNIST it falls from 43 % to 0.8 % in 200 steps, and the data have 0.28 %, so that a trace is left.

    Args:
        in_shape: event shape of the input, e.g. `(D,)`.
        out_shape: `(*, C, H, W)`; leading entries, for a likelihood that needs several numbers per pixel, count as
            channels.
        hidden: channels, listed from the output backwards, so that one setting serves both encoder and decoder.
        activation: a module class without arguments, e.g. `torch.nn.Tanh`.
        y_dim: number of label columns, concatenated to the input.
        precision: "float32" or "bfloat16", of the layers.

    Raises:
        ValueError: out_shape is not the shape of an image.

    Example:
        >>> ConvDecoder((30,), (1, 28, 20), hidden=(16, 32))(torch.zeros(4, 7, 30)).shape
        torch.Size([4, 7, 1, 28, 20])
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        out_shape: Sequence[int],
        hidden: Sequence[int] = (32, 64),
        activation: Activation = nn.ReLU,
        y_dim: int = 0,
        precision: Precision = "float32",
    ) -> None:
        super().__init__(in_shape, _image(out_shape), y_dim, precision=precision)
        sizes = _halvings(out_shape[-2:], len(hidden))
        channels = [math.prod(out_shape[:-2]), *hidden]
        self.activation = activation()
        self.seed_shape = (channels[-1], *sizes[-1])
        self.head = nn.Linear(math.prod(in_shape) + y_dim, math.prod(self.seed_shape))
        self.body = nn.ModuleList(
            nn.ConvTranspose2d(
                channels[i + 1],
                channels[i],
                3,
                stride=2,
                padding=1,
                output_padding=(1 - sizes[i][0] % 2, 1 - sizes[i][1] % 2),
                bias=i > 0,  # the bias of the last one is output_bias, one number per pixel
            )
            for i in reversed(range(len(hidden)))
        )

    def run(self, x: Tensor, y: Tensor | None) -> Tensor:
        flat = x.flatten(1)
        h = self.head(flat if y is None else torch.cat([flat, y], -1)).unflatten(1, self.seed_shape)
        for layer in self.body:
            h = layer(self.activation(h))
        return h


def networks(module: nn.Module) -> list[Network]:
    """Lists every `Network` in a module, including itself, each once.

    Example:
        >>> len(networks(nn.Sequential(MLP((2,), (3,)), nn.Linear(3, 3))))
        1
    """
    return [inner for inner in module.modules() if isinstance(inner, Network)]


@contextmanager
def in_precision(module: nn.Module, precision: Precision) -> Iterator[None]:
    """Makes all networks of a module compute in this precision inside; afterwards each uses its own again.

    This measures what bfloat16 costs, with the same parameters and the same draws:

        with pv.networks.in_precision(vae, "float32"):
            exact = pv.evaluation.elbo(vae, x, 100, seed=0)
        exact.value - pv.evaluation.elbo(vae, x, 100, seed=0).value

    Args:
        module: a network, a member or a program.
        precision: "float32" or "bfloat16".

    Raises:
        UsageError: an unknown precision.
        ValueError: the module holds no `Network`, so nothing would change.

    Example:
        >>> net = MLP((2,), (3,))
        >>> with in_precision(net, "bfloat16"):
        ...     net.precision
        'bfloat16'
        >>> net.precision
        'float32'
    """
    inside = networks(module)
    if not inside:
        raise ValueError(f"{type(module).__name__} holds no network from pyro_vae whose precision could be set")
    before = [network.precision for network in inside]
    try:
        for network in inside:
            network.precision = _known(precision)
        yield
    finally:
        for network, own in zip(inside, before, strict=True):
            network.precision = own


@cache
def _note_slow(device: str) -> None:
    if device == "cpu" and torch.backends.cpu.get_cpu_capability() == "AVX2":
        _logger.warning(
            "this processor has no instructions for bfloat16, so wide layers take about ten times as long as in "
            "float32: `precision='float32'` is faster"
        )


def _known(precision: Precision) -> Precision:
    check_word("precision", precision, Precision)
    return precision


def _halvings(size: Sequence[int], times: int) -> list[tuple[int, int]]:
    height, width = size
    return [(-(-height // 2**i), -(-width // 2**i)) for i in range(times + 1)]


def _image(shape: Sequence[int]) -> Sequence[int]:
    if len(shape) < 3:
        raise ValueError(f"a convolutional network needs images (C, H, W); got {tuple(shape)}. Use an MLP")
    return shape


def _comma(shape: Sequence[int]) -> str:
    return ", ".join(map(str, shape))
