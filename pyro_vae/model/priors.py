"""Priors p(z): modules whose `forward` returns a Pyro distribution over the latent vector.

    prior(y=None) -> p(z), or p(z | y)     batch_shape () or (B,) given y,     event_shape (D,)

To add a member:

- subclass `Prior` and return a distribution of event shape `(D,)` from `forward`;
- it must be a Pyro distribution (`pyro.distributions`), so that plates can expand it;
- learned quantities are `nn.Parameter`s, constants are buffers (`loc` and `scale` are there already);
- nothing else: every objective and estimator reads log-probabilities from the trace.
"""

import pyro.distributions as dist
import torch
from torch import Tensor, nn


class Prior(nn.Module):
    """Base class of p(z). Keeps the buffers `loc` (zeros) and `scale` (ones), both `(D,)`, for its members.

    Args:
        latent_dim: D, the number of latent dimensions.

    Example:
        >>> class StudentPrior(Prior):
        ...     def forward(self, y=None):
        ...         return dist.StudentT(5.0, self.loc, self.scale).to_event(1)
        >>> StudentPrior(20)().event_shape
        torch.Size([20])
    """

    loc: Tensor
    scale: Tensor

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        if latent_dim < 1:
            raise ValueError(f"a latent space needs at least one dimension; got latent_dim={latent_dim}")
        self.latent_dim = latent_dim
        self.register_buffer("loc", torch.zeros(latent_dim), persistent=False)
        self.register_buffer("scale", torch.ones(latent_dim), persistent=False)

    def forward(self, y: Tensor | None = None) -> dist.Distribution:
        """p(z), or p(z|y) for labels y (B, C)."""
        raise NotImplementedError(f"{type(self).__name__} has no forward()")


class StandardNormal(Prior):
    """p(z) = N(z; 0, I).

    Kingma & Welling, "Auto-Encoding Variational Bayes", ICLR 2014, appendix B. With a `DiagonalNormal` posterior the
    KL is analytic,

        KL = 1/2 sum_j (mu_j^2 + sigma_j^2 - 1 - log sigma_j^2)   nats

    (written with the opposite sign in much teaching material: a KL is never negative).

    Args:
        latent_dim: D.

    Example:
        >>> StandardNormal(2)().log_prob(torch.zeros(2))   # -log(2 pi)
        tensor(-1.8379)
    """

    def forward(self, y: Tensor | None = None) -> dist.Distribution:
        return dist.Normal(self.loc, self.scale).to_event(1)
