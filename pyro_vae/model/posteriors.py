"""Posteriors q(z|x): modules whose `forward` returns a Pyro distribution, the guide's half of the program.

    posterior(x, y=None) -> q(z | x)     batch_shape (B,),     event_shape (D,),     reparametrised

To add a member:

- subclass `Posterior`, say in `encoder_shape` how many numbers it needs, and return a distribution from `forward`;
- build it from `self.encode(x, y)`, which calls the encoder and checks what comes out;
- it must have `rsample`, so that gradients reach the encoder through the samples.
"""

from collections.abc import Callable

import pyro.distributions as dist
from torch import Tensor, nn


class Posterior(nn.Module):
    """Base class of q(z|x).

    Args:
        encoder: maps x `(B, *x_shape)` (and labels `(B, C)`, where given) to `(B, *encoder_shape(latent_dim))`.
        latent_dim: D.
    """

    def __init__(self, encoder: Callable[..., Tensor], latent_dim: int) -> None:
        super().__init__()
        self.encoder, self.latent_dim = encoder, latent_dim

    @staticmethod
    def encoder_shape(latent_dim: int) -> tuple[int, ...]:
        """Event shape of what the encoder must return."""
        raise NotImplementedError("a posterior says in encoder_shape() how many numbers it needs")

    def encode(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """The encoder's output (B, *encoder_shape)."""
        output = self.encoder(x) if y is None else self.encoder(x, y)
        wanted = self.encoder_shape(self.latent_dim)
        if output.shape[1:] != wanted:
            raise ValueError(
                f"{type(self).__name__}(latent_dim={self.latent_dim}) needs an encoder whose output has shape "
                f"(B, {', '.join(map(str, wanted))}); got {tuple(output.shape)}. "
                "A single datum needs a batch dimension, x[None]"
            )
        return output

    def forward(self, x: Tensor, y: Tensor | None = None) -> dist.Distribution:
        """q(z|x), or q(z|x, y) for labels y (B, C)."""
        raise NotImplementedError(f"{type(self).__name__} has no forward()")


class DiagonalNormal(Posterior):
    """q(z|x) = N(z; mu(x), diag sigma(x)^2),   sigma(x) = floor + exp(s(x)),   [mu, s] = encoder(x).

    Kingma & Welling, "Auto-Encoding Variational Bayes", ICLR 2014, eq. 9. Samples are reparametrised,
    z = mu + sigma * eps with eps ~ N(0, I). The floor keeps sigma away from 0, where the density would be infinite.

    Args:
        encoder: x (B, *x_shape) -> (B, 2 D).
        latent_dim: D.
        floor: smallest sigma.

    Example:
        >>> import torch
        >>> from pyro_vae.model.networks import MLP
        >>> q = DiagonalNormal(MLP((1, 8, 8), (40,)), latent_dim=20)(torch.zeros(5, 1, 8, 8))
        >>> q.batch_shape, q.event_shape
        (torch.Size([5]), torch.Size([20]))
    """

    def __init__(self, encoder: Callable[..., Tensor], latent_dim: int, floor: float = 1e-4) -> None:
        super().__init__(encoder, latent_dim)
        if floor <= 0:
            raise ValueError(f"floor is the smallest sigma and must be above 0; got {floor}")
        self.floor = floor

    @staticmethod
    def encoder_shape(latent_dim: int) -> tuple[int, ...]:
        return (2 * latent_dim,)

    def forward(self, x: Tensor, y: Tensor | None = None) -> dist.Distribution:
        loc, log_scale = self.encode(x, y).chunk(2, -1)
        return dist.Normal(loc, self.floor + log_scale.exp()).to_event(1)
