"""Programs of known answers on which an estimate may mislead without a word.

a spike     a mode of p(x, z) that is narrower than the spacing of any grid over the whole
"""

from collections.abc import Iterator

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_vae import evaluation
from pyro_vae.model.likelihoods import Normal
from pyro_vae.model.posteriors import Posterior
from pyro_vae.model.priors import Prior
from pyro_vae.model.vae import VAE
from pyro_vae.selfcheck.verdicts import Row, judge_each

_SPIKED = 2  # latent numbers of the program with a spike


def spike(tolerance: float) -> Iterator[Row]:
    """Yields quadrature where a prior has half of its mass in a spike.

    Args:
        tolerance: how far from the truth log p(x) of a datum may lie, in nats.
    """
    for width in (1e-2, 1e-3):
        prior = SpikedNormal(_SPIKED, at=6.0, width=width)
        vae = VAE(prior, _AboutData(nn.Identity(), _SPIKED), Normal(_Unchanged(), scale=1.0)).double()
        x = torch.tensor([[6.0, 6.0], [5.0, 6.5], [0.5, -1.0]], dtype=torch.float64)
        name = f"quadrature, a spike of width {width:g}"
        yield judge_each("a spike, D = 2", name, evaluation.quadrature(vae, x).value, prior.log_evidence(x), tolerance)


class SpikedNormal(Prior):
    """The prior of a spike: 1/2 N(0, I) + 1/2 N(at, width^2 I).

    Args:
        latent_dim: D.
        at: each number of the spike's mean.
        width: its standard deviation.

    Example:
        >>> SpikedNormal(2, at=6.0, width=0.01)().event_shape
        torch.Size([2])
    """

    def __init__(self, latent_dim: int, at: float, width: float) -> None:
        super().__init__(latent_dim)
        self.at, self.width = at, width

    def forward(self, y: Tensor | None = None) -> dist.Distribution:
        means, widths = torch.stack([self.loc, self.loc + self.at]), torch.stack([self.scale, self.scale * self.width])
        return dist.MixtureSameFamily(
            dist.Categorical(logits=self.loc.new_zeros(2)), dist.Normal(means, widths).to_event(1)
        )

    def log_evidence(self, x: Tensor) -> Tensor:
        """Computes log p(x), (N,), of x (N, D) under N(z, I)."""
        wide = dist.Normal(0.0, 2**0.5).log_prob(x).sum(-1)
        narrow = dist.Normal(self.at, (1 + self.width**2) ** 0.5).log_prob(x).sum(-1)
        return torch.logaddexp(wide, narrow) - torch.tensor(2.0, dtype=x.dtype).log()


class _AboutData(Posterior):
    def forward(self, x: Tensor, y: Tensor | None = None) -> dist.Distribution:
        return dist.Normal(x, 0.7).to_event(1)


class _Unchanged(nn.Module):
    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        return z
