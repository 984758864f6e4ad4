"""pythae: its VAE over the networks of the plain twin, and its own `get_nll`."""

from typing import Any

import torch
from pythae.models import VAE, VAEConfig
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from torch import Tensor

from benchmarks.peers.plain import networks
from benchmarks.peers.torch_peer import TorchPeer
from benchmarks.problem import RATE, Size


class _Encoder(BaseEncoder):
    def __init__(self, size: Size) -> None:
        super().__init__()
        self.network, _ = networks(size)

    def forward(self, x: Tensor) -> Any:
        mu, s = self.network(x).chunk(2, -1)
        return ModelOutput(embedding=mu, log_covariance=s)


class _Decoder(BaseDecoder):
    def __init__(self, size: Size) -> None:
        super().__init__()
        _, self.network = networks(size)

    def forward(self, z: Tensor) -> Any:
        return ModelOutput(reconstruction=torch.sigmoid(self.network(z)))


class Pythae(TorchPeer):
    """`pythae.models.VAE`, with the step of its trainer: zero_grad, backward, Adam.

    It averages the loss over the batch, which the step of Adam does not feel.
    """

    def __init__(self, size: Size, device: str = "cpu") -> None:
        super().__init__(size, device)
        config = VAEConfig(input_dim=(size.x_dim,), latent_dim=size.latent_dim, reconstruction_loss="bce")
        self.module = VAE(config, encoder=_Encoder(size), decoder=_Decoder(size)).to(device)
        self.optimizer = torch.optim.Adam(self.module.parameters(), lr=RATE)

    def named(self) -> dict[str, Tensor]:
        return {name.replace(".network", ""): value for name, value in self.module.named_parameters()}

    def step(self, x: Tensor) -> Tensor:
        self.optimizer.zero_grad()
        loss = self.module({"data": x}).loss
        loss.backward()
        self.optimizer.step()
        return loss.detach() * len(x)

    @torch.no_grad()
    def log_likelihood(self, num_samples: int) -> list[float]:
        """The mean over the data alone: that is all that `get_nll` returns."""
        return [float(self.module.get_nll(self.data, n_samples=num_samples, batch_size=min(num_samples, 1000)))]
