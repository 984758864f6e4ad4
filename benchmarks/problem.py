"""The work that every row does, as numbers: sizes, parameters, data.

    p(z) = N(0, I_20),   q(z|x) = N(mu(x), diag exp(s(x))),   p(x|z) = prod Bernoulli(sigmoid(decoder(z)))

on 28 x 28 binary pixels, the KL analytic, Adam with rate 1e-3. Encoder and decoder have one hidden layer of H ReLUs, or
two 3 x 3 convolutions of stride 2. Everything is drawn by NumPy from a seed, so that workers need not exchange arrays.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Parameters = dict[str, Array]

PIXELS = (1, 28, 28)
X_DIM = math.prod(PIXELS)
LATENT_DIM = 20
RATE = 1e-3
CHANNELS = (32, 64)
FEATURES = CHANNELS[1] * 7 * 7


@dataclass(frozen=True)
class Size:
    """Batch size, hidden width and latent dimension of one table; `hidden` 0 is the convolutional pair."""

    batch: int
    hidden: int
    latent_dim: int = LATENT_DIM

    @property
    def convolutional(self) -> bool:
        return self.hidden == 0

    @property
    def name(self) -> str:
        return f"{self.batch}xconv" if self.convolutional else f"{self.batch}x{self.hidden}"

    @property
    def decoder_flops(self) -> int:
        """Multiplications and additions of one pass of one z through the decoder."""
        if self.convolutional:
            # Each of the transposed convolutions' inputs meets 3 x 3 weights for each output channel.
            return 2 * (self.latent_dim * FEATURES + 49 * 64 * 32 * 9 + 196 * 32 * 9)
        return 2 * (self.latent_dim * self.hidden + self.hidden * X_DIM)


def parse_size(text: str) -> Size:
    """`128x400` or `128xconv`.

    >>> parse_size("128x400"), parse_size("64xconv").convolutional
    (Size(batch=128, hidden=400, latent_dim=20), True)
    """
    batch, _, hidden = text.partition("x")
    if not all(part.isdecimal() and int(part) for part in (batch, "1" if hidden == "conv" else hidden)):
        raise ValueError(f"a size is batch x hidden, e.g. 128x400, or batch x conv, e.g. 128xconv; got {text!r}")
    return Size(int(batch), 0 if hidden == "conv" else int(hidden))


def shapes(size: Size) -> dict[str, tuple[int, ...]]:
    """The canonical parameters, laid out as in torch."""
    D, H = size.latent_dim, size.hidden
    if size.convolutional:
        first, second = CHANNELS
        return {
            "encoder.first.weight": (first, 1, 3, 3),
            "encoder.first.bias": (first,),
            "encoder.second.weight": (second, first, 3, 3),
            "encoder.second.bias": (second,),
            "encoder.out.weight": (2 * D, FEATURES),
            "encoder.out.bias": (2 * D,),
            "decoder.first.weight": (FEATURES, D),
            "decoder.first.bias": (FEATURES,),
            "decoder.second.weight": (second, first, 3, 3),
            "decoder.second.bias": (first,),
            "decoder.out.weight": (first, 1, 3, 3),
            "decoder.out.bias": PIXELS,
        }
    return {
        "encoder.first.weight": (H, X_DIM),
        "encoder.first.bias": (H,),
        "encoder.out.weight": (2 * D, H),
        "encoder.out.bias": (2 * D,),
        "decoder.first.weight": (H, D),
        "decoder.first.bias": (H,),
        "decoder.out.weight": (X_DIM, H),
        "decoder.out.bias": (X_DIM,),
    }


def draw_parameters(size: Size, seed: int = 0) -> Parameters:
    """Uniform, of torch's default width, and the same for every row."""
    random = np.random.default_rng([seed, 1])
    return {name: _draw(random, name, shape) for name, shape in shapes(size).items()}


def _draw(random: np.random.Generator, name: str, shape: tuple[int, ...]) -> Array:
    width = 1 / math.sqrt(math.prod(shape[1:])) if name.endswith("weight") else 0.05
    return random.uniform(-width, width, shape).astype(np.float32)


def sharpen(parameters: Parameters, log_variance: float = -30.0) -> Parameters:
    """The same program with next to no noise in q(z|x): its loss is a number, not a random variable."""
    weight, bias = parameters["encoder.out.weight"].copy(), parameters["encoder.out.bias"].copy()
    D = len(bias) // 2
    weight[D:], bias[D:] = 0.0, log_variance
    return {**parameters, "encoder.out.weight": weight, "encoder.out.bias": bias}


def draw_data(num_data: int, seed: int = 0) -> Array:
    """(N, 784) binary pixels with a mean of their own each."""
    random = np.random.default_rng([seed, 2])
    mean = random.uniform(0.05, 0.6, X_DIM)
    return (random.random((num_data, X_DIM)) < mean).astype(np.float32)
