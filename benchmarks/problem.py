"""The work that every row does, as numbers: sizes, parameters, data.

    p(z) = N(0, I_20),   q(z|x) = N(mu(x), diag exp(s(x))),   p(x|z) = prod Bernoulli(sigmoid(decoder(z)))

on 28 x 28 binary pixels, or another number of them, the KL analytic, Adam with rate 1e-3. Encoder and decoder have one
hidden layer of H ReLUs, or two 3 x 3 convolutions of stride 2. Everything is drawn by NumPy from a seed, so that
workers need not exchange arrays.
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
    """Batch size, hidden width, latent dimension and pixels of one table; `hidden` 0 is the convolutional pair."""

    batch: int
    hidden: int
    latent_dim: int = LATENT_DIM
    x_dim: int = X_DIM

    @property
    def convolutional(self) -> bool:
        return self.hidden == 0

    @property
    def name(self) -> str:
        width = "conv" if self.convolutional else self.hidden
        return "x".join(map(str, (self.batch, width, *[self.x_dim] * (self.x_dim != X_DIM))))

    @property
    def decoder_flops(self) -> int:
        """Multiplications and additions of one pass of one z through the decoder."""
        if self.convolutional:
            # Each of the transposed convolutions' inputs meets 3 x 3 weights for each output channel.
            return 2 * (self.latent_dim * FEATURES + 49 * 64 * 32 * 9 + 196 * 32 * 9)
        return 2 * (self.latent_dim * self.hidden + self.hidden * self.x_dim)


def parse_size(text: str) -> Size:
    """`128x400`, `128x256x64` for 64 pixels in place of 784, or `128xconv`.

    >>> parse_size("128x400"), parse_size("128x256x64").x_dim, parse_size("64xconv").convolutional
    (Size(batch=128, hidden=400, latent_dim=20, x_dim=784), 64, True)
    """
    parts = text.split("x")
    convolutional = len(parts) == 2 and parts[1] == "conv"
    numbers = parts[:1] if convolutional else parts
    if len(parts) not in (2, 3) or not all(part.isdecimal() and int(part) for part in numbers):
        raise ValueError(
            "a size is batch x hidden, e.g. 128x400, batch x hidden x pixels, e.g. 128x256x64, or batch x conv, e.g. "
            f"128xconv; got {text!r}"
        )
    batch, hidden, x_dim = (*map(int, numbers), *(0, X_DIM)[len(numbers) - 1 :])
    return Size(batch, hidden, x_dim=x_dim)


def shapes(size: Size) -> dict[str, tuple[int, ...]]:
    """The canonical parameters, laid out as in torch."""
    D, H, x_dim = size.latent_dim, size.hidden, size.x_dim
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
        "encoder.first.weight": (H, x_dim),
        "encoder.first.bias": (H,),
        "encoder.out.weight": (2 * D, H),
        "encoder.out.bias": (2 * D,),
        "decoder.first.weight": (H, D),
        "decoder.first.bias": (H,),
        "decoder.out.weight": (x_dim, H),
        "decoder.out.bias": (x_dim,),
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


def draw_data(num_data: int, x_dim: int = X_DIM, seed: int = 0) -> Array:
    """(N, x_dim) binary pixels with a mean of their own each."""
    random = np.random.default_rng([seed, 2])
    mean = random.uniform(0.05, 0.6, x_dim)
    return (random.random((num_data, x_dim)) < mean).astype(np.float32)
