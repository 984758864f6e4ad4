"""Twins: the same autoencoder as anybody would write it in plain PyTorch, eager or compiled."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.peers.torch_peer import TorchPeer
from benchmarks.problem import CHANNELS, FEATURES, PIXELS, RATE, Size


class Encoder(nn.Module):
    """(B, 784) -> (B, 2 D), one hidden layer."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.first = nn.Linear(size.x_dim, size.hidden)
        self.out = nn.Linear(size.hidden, 2 * size.latent_dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.relu(self.first(x)))


class Decoder(nn.Module):
    """(B, D) -> logits (B, 784), one hidden layer."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.first = nn.Linear(size.latent_dim, size.hidden)
        self.out = nn.Linear(size.hidden, size.x_dim)

    def forward(self, z: Tensor) -> Tensor:
        return self.out(torch.relu(self.first(z)))


class ConvEncoder(nn.Module):
    """(B, 784) -> (B, 2 D), two strided convolutions."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, CHANNELS[0], 3, 2, 1)
        self.second = nn.Conv2d(CHANNELS[0], CHANNELS[1], 3, 2, 1)
        self.out = nn.Linear(FEATURES, 2 * size.latent_dim)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.first(x.view(-1, *PIXELS)))
        return self.out(torch.relu(self.second(h)).flatten(1))


class PixelBias(nn.Module):
    """A transposed convolution with one bias for each pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(CHANNELS[0], 1, 3, 3))
        self.bias = nn.Parameter(torch.zeros(PIXELS))

    def forward(self, h: Tensor) -> Tensor:
        return functional.conv_transpose2d(h, self.weight, None, 2, 1, 1) + self.bias


class ConvDecoder(nn.Module):
    """(B, D) -> logits (B, 784), two transposed convolutions."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.first = nn.Linear(size.latent_dim, FEATURES)
        self.second = nn.ConvTranspose2d(CHANNELS[1], CHANNELS[0], 3, 2, 1, 1)
        self.out = PixelBias()

    def forward(self, z: Tensor) -> Tensor:
        h = torch.relu(self.first(z)).view(-1, CHANNELS[1], 7, 7)
        return self.out(torch.relu(self.second(h))).flatten(1)


def networks(size: Size) -> tuple[nn.Module, nn.Module]:
    """Encoder and decoder of a size."""
    return (ConvEncoder(size), ConvDecoder(size)) if size.convolutional else (Encoder(size), Decoder(size))


class PlainVAE(nn.Module):
    """The loss of `benchmarks.problem`, summed over the batch."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.encoder, self.decoder = networks(size)

    def forward(self, x: Tensor) -> Tensor:
        mu, s = self.encoder(x).chunk(2, -1)
        z = mu + (0.5 * s).exp() * torch.randn_like(mu)
        reconstruction = functional.binary_cross_entropy_with_logits(self.decoder(z), x, reduction="sum")
        return reconstruction - 0.5 * (1 + s - mu.square() - s.exp()).sum()

    def log_weights(self, x: Tensor, mu: Tensor, s: Tensor, num_samples: int) -> Tensor:
        """(K, N): log p(x, z_k) - log q(z_k|x)."""
        eps = torch.randn(num_samples, *mu.shape, device=x.device)
        z = mu + (0.5 * s).exp() * eps
        logits = self.decoder(z.flatten(0, 1)).view(num_samples, *x.shape)
        cross_entropy = functional.binary_cross_entropy_with_logits(logits, x.expand_as(logits), reduction="none")
        return 0.5 * (eps.square() + s - z.square()).sum(-1) - cross_entropy.sum(-1)


class Twin(TorchPeer):
    """Plain PyTorch.

    Args:
        compiled: torch.compile of loss and backward, and of a chunk of log-weights.
        compiled_optimizer: torch.compile of the update too; else Adam is fused.
        mode: of torch.compile.
        rows: rows that one pass through the decoder has at most.
    """

    def __init__(
        self,
        size: Size,
        device: str = "cpu",
        compiled: bool = False,
        compiled_optimizer: bool = False,
        mode: str | None = None,
        rows: int = 4096,
    ) -> None:
        super().__init__(size, device)
        self.rows = rows
        self.module = PlainVAE(size).to(device)
        self.loss: Any = torch.compile(self.module, mode=mode) if compiled else self.module
        log_weights = self.module.log_weights
        self.log_weights: Any = torch.compile(log_weights, mode=mode) if compiled else log_weights
        # A learning rate that is a tensor keeps the compiled update from being compiled for one rate.
        rate = torch.tensor(RATE, device=device) if compiled_optimizer else RATE
        self.optimizer = torch.optim.Adam(self.module.parameters(), lr=rate, fused=not compiled_optimizer)
        self.update: Any = torch.compile(self.optimizer.step) if compiled_optimizer else self.optimizer.step

    def step(self, x: Tensor) -> Tensor:
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss(x)
        loss.backward()
        self.update()
        return loss.detach()

    @torch.no_grad()
    def log_likelihood(self, num_samples: int) -> list[float]:
        width = max(1, min(num_samples, self.rows // min(len(self.data), self.size.batch)))
        return torch.cat([self._block(x, num_samples, width) for x in self.data.split(self.size.batch)]).tolist()

    def _block(self, x: Tensor, num_samples: int, width: int) -> Tensor:
        mu, s = self.module.encoder(x).chunk(2, -1)
        total = torch.full((len(x),), -math.inf, dtype=torch.float64, device=x.device)
        for start in range(0, num_samples, width):
            block = self.log_weights(x, mu, s, min(width, num_samples - start))
            total = torch.logaddexp(total, torch.logsumexp(block.double(), 0))
        return total - math.log(num_samples)
