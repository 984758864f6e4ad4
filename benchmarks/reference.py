"""The truth that rows are held against: loss and log p(x), written out in float64, apart from all peers."""

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.problem import FEATURES, PIXELS, Array, Parameters, Size


class Reference:
    """The program of `benchmarks.problem` at given parameters, in float64."""

    def __init__(self, size: Size, parameters: Parameters) -> None:
        self.size = size
        self.parameters = {name: torch.from_numpy(value).double() for name, value in parameters.items()}

    def losses(self, x: Array, draws: int, seed: int = 0) -> list[float]:
        """Draws of E_q[-log p(x|z)] + KL, summed over the batch x (B, 784)."""
        return self.loss(torch.from_numpy(x), draws, seed).tolist()

    def loss(self, x: Tensor, draws: int, seed: int) -> Tensor:
        """The same, differentiable: (draws,)."""
        data, noise = x.double(), torch.Generator().manual_seed(seed)
        mu, s = self.encode(data)
        kl = -0.5 * (1 + s - mu.square() - s.exp()).sum()
        z = mu + (0.5 * s).exp() * self._noise((draws, *mu.shape), noise)
        return kl - self.log_likelihood(data, z).sum(-1)

    def log_p(self, x: Array, num_samples: int, seed: int = 0) -> Array:
        """The importance-weighted bound of each datum, (N,)."""
        data, noise = torch.from_numpy(x).double(), torch.Generator().manual_seed(seed)
        mu, s = self.encode(data)
        eps = self._noise((num_samples, *mu.shape), noise)
        z = mu + (0.5 * s).exp() * eps
        ratio = 0.5 * (eps.square() + s - z.square()).sum(-1)  # log p(z) - log q(z|x)
        log_weights = self.log_likelihood(data, z) + ratio
        return (torch.logsumexp(log_weights, 0) - math.log(num_samples)).numpy().astype(np.float32)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mu, s = self._encoder(x).chunk(2, -1)
        return mu, s

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        """(K, N, D) -> (K, N), one draw of every datum after another, for the memory's sake."""
        rows = [functional.binary_cross_entropy_with_logits(self._decoder(row), x, reduction="none") for row in z]
        return -torch.stack([row.sum(-1) for row in rows])

    def _linear(self, name: str, x: Tensor) -> Tensor:
        return functional.linear(x, self.parameters[f"{name}.weight"], self.parameters[f"{name}.bias"])

    def _encoder(self, x: Tensor) -> Tensor:
        if not self.size.convolutional:
            return self._linear("encoder.out", self._linear("encoder.first", x).relu())
        h, p = x.view(-1, *PIXELS), self.parameters
        for name in ("encoder.first", "encoder.second"):
            h = functional.conv2d(h, p[f"{name}.weight"], p[f"{name}.bias"], stride=2, padding=1).relu()
        return self._linear("encoder.out", h.flatten(1))

    def _decoder(self, z: Tensor) -> Tensor:
        h, p = self._linear("decoder.first", z).relu(), self.parameters
        if not self.size.convolutional:
            return self._linear("decoder.out", h)
        h = h.view(-1, FEATURES // 49, 7, 7)
        second, out = p["decoder.second.weight"], p["decoder.out.weight"]
        h = functional.conv_transpose2d(h, second, p["decoder.second.bias"], 2, 1, 1).relu()
        return (functional.conv_transpose2d(h, out, None, 2, 1, 1) + p["decoder.out.bias"]).flatten(1)

    @staticmethod
    def _noise(shape: tuple[int, ...], noise: torch.Generator) -> Tensor:
        return torch.randn(shape, generator=noise, dtype=torch.float64)
