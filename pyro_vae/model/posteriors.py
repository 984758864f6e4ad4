"""Posteriors q(z|x): modules whose `forward` returns a Pyro distribution, the guide's half of the program.

    posterior(x, y=None) -> q(z | x)     batch_shape (B,),     event_shape (D,),     reparametrised

To add a member:

- subclass `Posterior`, return from `encoder_shape` the shape that it needs, and from `forward` a distribution;
- build the distribution from `self.encode(x, y)`, which calls the encoder and checks its output;
- the distribution must have `rsample`, so that gradients reach the encoder through the samples;
- options of `encoder_shape` have the same names and defaults in the constructor, which passes them to
  `super().__init__`.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn

import pyro_vae.model.distributions.gaussian_kl  # noqa: F401 - registers the KLs of these members to normal priors
from pyro_vae.model import distributions
from pyro_vae.model.conditions import require
from pyro_vae.model.constants import Constants
from pyro_vae.model.distributions import flows
from pyro_vae.model.encoder_inputs import WithMask
from pyro_vae.model.folding import folded
from pyro_vae.model.networks import Network
from pyro_vae.model.scaling import Rescaled
from pyro_vae.option_words import EncoderPredicts, check_word


class Posterior(nn.Module):
    """Base class of q(z|x).

    Args:
        encoder: maps x `(N, *x_shape)` (and labels `(N, C)`, if given) to `(N, *encoder_shape(latent_dim))`.
        latent_dim: D.
        options: anything else that `encoder_shape` depends on.

    Attributes:
        event_dim: the number of dimensions of what is encoded; None if these are all except the first, as for data (B,
            *x_shape). `HierarchicalVAE` sets it to 1 if a posterior encodes latents (*, B, D). missing: whether NaN in
            x is a missing number; the program sets it.

    Example:
        >>> from pyro_vae.model.networks import MLP
        >>> class LaplacePosterior(Posterior):
        ...     @staticmethod
        ...     def encoder_shape(latent_dim):
        ...         return (2 * latent_dim,)
        ...     def forward(self, x, y=None):
        ...         loc, log_scale = self.encode(x, y).chunk(2, -1)
        ...         return dist.Laplace(loc, log_scale.exp()).to_event(1)
        >>> LaplacePosterior(MLP((1, 8, 8), (40,)), latent_dim=20)(torch.zeros(5, 1, 8, 8)).event_shape
        torch.Size([20])
    """

    event_dim: int | None = None
    missing: bool = False

    def __init__(self, encoder: Callable[..., Tensor], latent_dim: int, **options: Any) -> None:
        super().__init__()
        self.encoder, self.latent_dim, self._options = encoder, latent_dim, options

    @staticmethod
    def encoder_shape(latent_dim: int) -> tuple[int, ...]:
        """Returns the event shape that the encoder's output must have."""
        raise NotImplementedError("a posterior must say in encoder_shape() how many numbers it needs")

    def encode(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Calls the encoder and checks its output.

        Your own encoder sees rows, x as (N, *x_shape) and y as (N, C), like a decoder (`Likelihood.decode`). So batch
        norm in training takes its statistics over all of them, and the pseudo-inputs of a `VampPrior`, which are a
        separate batch, move its running statistics too.

        Args:
            x: data (B, *x_shape), or (*, *x_shape) inside `encoding`; latents (*, B, D) if `event_dim` is 1.
            y: one-hot labels (*, B, C), broadcast against x.

        Returns:
            (*, B, *encoder_shape).

        Raises:
            TypeError: the encoder does not return a tensor.
            ValueError: the output has another shape, or is NaN for data that hold NaN.
        """
        output = folded(self.encoder, x, y, self._event_dim(x), (f"the encoder of {type(self).__name__}", "x"))
        wanted = self.encoder_shape(self.latent_dim, **self._options)
        needed = len(wanted) if _event_dim.get() is not None else len(wanted) + 1
        if output.dim() < needed or output.shape[-len(wanted) :] != wanted:
            raise ValueError(
                f"{type(self).__name__}(latent_dim={self.latent_dim}) needs an encoder whose output has shape "
                f"(B, {', '.join(map(str, wanted))}); got {tuple(output.shape)}. "
                "A single datum needs a batch dimension, x[None]"
            )
        if self.missing and not any(isinstance(part, WithMask) for part in self._parts()):
            require(~(output.isnan().any() & x.isnan().any()), self._does_not_take_gaps)
        return output

    def known_event_dim(self) -> int | None:
        """Returns `event_dim`, or that of an encoder from `pyro_vae.networks`; None if the encoder is your own."""
        if self.event_dim is not None:
            return self.event_dim
        encoder = self.encoder
        while isinstance(encoder, WithMask | Rescaled):
            encoder = encoder.network
        return len(encoder.in_shape) if isinstance(encoder, Network) else None

    def _event_dim(self, x: Tensor) -> int:
        if self.event_dim is not None:
            return self.event_dim
        given = _event_dim.get()
        return x.dim() - 1 if given is None else given

    def _parts(self) -> list[nn.Module]:
        return list(self.encoder.modules()) if isinstance(self.encoder, nn.Module) else []

    def _does_not_take_gaps(self) -> ValueError:
        name = getattr(self.encoder, "__name__", type(self.encoder).__name__)
        return ValueError(
            f"the codes of {name} are NaN because x has missing numbers (NaN): put the network into "
            "networks.WithMask(network), whose network is built with in_shape=WithMask.in_shape(x_shape), or let your "
            "own encoder take NaN"
        )

    def forward(self, x: Tensor, y: Tensor | None = None) -> dist.Distribution:
        """Builds q(z|x) for data x (B, *x_shape), or q(z|x, y) for labels y (B, C)."""
        raise NotImplementedError(f"{type(self).__name__} has no forward()")

    def centre(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Returns one typical z for each datum (B, D), for interpolation: the mean of q(z|x)."""
        return self(x, y).mean


_event_dim: ContextVar[int | None] = ContextVar("event_dim", default=None)


@contextmanager
def encoding(event_dim: int) -> Iterator[None]:
    """Makes posteriors inside take data (*, *x_shape), with this many dimensions of x_shape, instead of (B, ...).

    Args:
        event_dim: the number of dimensions of x_shape.

    Example:
        >>> q = DiagonalNormal(nn.Sequential(nn.Flatten(), nn.Linear(64, 4)), latent_dim=2)
        >>> with encoding(event_dim=3):
        ...     q(torch.zeros(3, 5, 1, 8, 8)).batch_shape
        torch.Size([3, 5])
    """
    token = _event_dim.set(event_dim)
    try:
        yield
    finally:
        _event_dim.reset(token)


class DiagonalNormal(Posterior):
    r"""A diagonal normal posterior.

    .. math:: q(z|x) = N(z; \mu(x), \mathrm{diag} \, \sigma(x)^2), \qquad \sigma = \mathrm{floor} + e^{s},
              \qquad [\mu, s] = \mathrm{encoder}(x)

    Samples are reparametrised, z = mu + sigma eps with eps ~ N(0, I). The floor keeps sigma away from 0, where the
    density would be infinite. If the encoder predicts the log of sigma^2, sigma = floor + exp(s / 2) changes half as
    fast.

    Args:
        encoder: x (B, *x_shape) -> (B, 2 D).
        latent_dim: D.
        floor: smallest sigma.
        encoder_predicts: what s is, "log_sigma" or "log_variance".

    Raises:
        ValueError: the floor is 0 or below, `encoder_predicts` is unknown, or the encoder has another size.

    Reference:
        Eq. 9 of Kingma & Welling, "Auto-Encoding Variational Bayes", ICLR 2014. https://arxiv.org/abs/1312.6114

    Example:
        >>> from pyro_vae.model.networks import MLP
        >>> q = DiagonalNormal(MLP((1, 8, 8), (40,)), latent_dim=20)(torch.zeros(5, 1, 8, 8))
        >>> q.batch_shape, q.event_shape
        (torch.Size([5]), torch.Size([20]))
    """

    def __init__(
        self,
        encoder: Callable[..., Tensor],
        latent_dim: int,
        floor: float = 1e-4,
        encoder_predicts: EncoderPredicts = "log_sigma",
    ) -> None:
        super().__init__(encoder, latent_dim)
        check_word("encoder_predicts", encoder_predicts, EncoderPredicts)
        self.floor = _checked(floor)
        self.encoder_predicts = encoder_predicts

    @staticmethod
    def encoder_shape(latent_dim: int) -> tuple[int, ...]:
        return (2 * latent_dim,)

    def forward(self, x: Tensor, y: Tensor | None = None) -> dist.Distribution:
        loc, s = self.encode(x, y).chunk(2, -1)
        log_scale = s if self.encoder_predicts == "log_sigma" else 0.5 * s
        return dist.Normal(loc, self.floor + log_scale.exp()).to_event(1)


class FullNormal(Posterior, Constants):
    r"""A normal posterior with a full covariance.

    .. math:: q(z|x) = N(z; \mu(x), L(x) L(x)'), \qquad L \text{ lower triangular}, \qquad
              \mathrm{diag} \, L = \mathrm{floor} + e^{s(x)}

    Its KL to a normal prior is analytic, in nats, whatever the prior's covariance:

    .. math:: \mathrm{KL} = \frac{1}{2} \left[ \mathrm{tr}(S_p^{-1} S_q) + (m_p - m_q)' S_p^{-1} (m_p - m_q) - D
              + \log |S_p| - \log |S_q| \right]

    Args:
        encoder: x (B, *x_shape) -> (B, D + D (D + 1) / 2): mu, s, and the triangle below the diagonal row by row.
        latent_dim: D.
        floor: smallest diagonal entry of L.

    Raises:
        ValueError: the floor is 0 or below, or the encoder has another size.

    Reference:
        Section 2.5.1 of Kingma & Welling, "An Introduction to Variational Autoencoders", 2019.
        https://arxiv.org/abs/1906.02691

    Example:
        >>> from pyro_vae.model.networks import MLP
        >>> FullNormal.encoder_shape(20)
        (230,)
        >>> FullNormal(MLP((1, 8, 8), (230,)), latent_dim=20)(torch.zeros(5, 1, 8, 8)).scale_tril.shape
        torch.Size([5, 20, 20])
    """

    layout: Tensor

    def __init__(self, encoder: Callable[..., Tensor], latent_dim: int, floor: float = 1e-4) -> None:
        super().__init__(encoder, latent_dim)
        self.floor = _checked(floor)
        self.register_constants()

    def constants(self) -> dict[str, Tensor]:
        return {"layout": _triangle(self.latent_dim)}

    @staticmethod
    def encoder_shape(latent_dim: int) -> tuple[int, ...]:
        return (latent_dim + latent_dim * (latent_dim + 1) // 2,)

    def forward(self, x: Tensor, y: Tensor | None = None) -> dist.Distribution:
        D = self.latent_dim
        loc, log_diagonal, below = self.encode(x, y).split([D, D, D * (D - 1) // 2], -1)
        entries = torch.cat([torch.zeros_like(loc[..., :1]), self.floor + log_diagonal.exp(), below], -1)
        return dist.MultivariateNormal(loc, scale_tril=entries[..., self.layout])


class LowRankNormal(Posterior):
    r"""A normal posterior between the diagonal and the full covariance: D (2 + rank) numbers per datum.

    .. math:: q(z|x) = N(z; \mu(x), F(x) F(x)' + \mathrm{diag} \, \sigma(x)^2), \qquad
              \sigma = \mathrm{floor} + e^{s(x)}

    F has shape (D, rank). The KL to normal priors is analytic, as for `FullNormal`.

    Args:
        encoder: x (B, *x_shape) -> (B, (2 + rank) D): mu, s, and F row by row.
        latent_dim: D.
        rank: columns of F, 1 or more.
        floor: smallest sigma.

    Raises:
        ValueError: the rank is below 1, the floor is 0 or below, or the encoder has another size.

    Reference:
        Ong, Nott & Smith, "Gaussian Variational Approximation With a Factor Covariance Structure", Journal of
        Computational and Graphical Statistics 27, 2018. https://arxiv.org/abs/1701.03208

    Example:
        >>> from pyro_vae.model.networks import MLP
        >>> encoder = MLP((1, 8, 8), LowRankNormal.encoder_shape(20, rank=3))
        >>> LowRankNormal(encoder, latent_dim=20, rank=3)(torch.zeros(5, 1, 8, 8)).cov_factor.shape
        torch.Size([5, 20, 3])
    """

    def __init__(self, encoder: Callable[..., Tensor], latent_dim: int, rank: int = 2, floor: float = 1e-4) -> None:
        if rank < 1:
            raise ValueError(f"rank must be 1 or more; got {rank}. For rank 0 use `posterior='diagonal'`")
        super().__init__(encoder, latent_dim, rank=rank)
        self.rank, self.floor = rank, _checked(floor)

    @staticmethod
    def encoder_shape(latent_dim: int, rank: int = 2) -> tuple[int, ...]:
        return ((2 + rank) * latent_dim,)

    def forward(self, x: Tensor, y: Tensor | None = None) -> dist.Distribution:
        D = self.latent_dim
        loc, log_scale, factor = self.encode(x, y).split([D, D, self.rank * D], -1)
        scale = self.floor + log_scale.exp()
        return distributions.LowRankNormal(loc, factor.unflatten(-1, (D, self.rank)), scale.square(), (D,))


class FlowPosterior(Posterior):
    r"""An inverse autoregressive flow from a diagonal normal, both given x.

    .. math:: z_0 \sim N(\mu(x), \mathrm{diag} \, \sigma(x)^2), \qquad z = f_T(\dots f_1(z_0, h(x)) \dots, h(x)),
              \qquad [\mu, s, h] = \mathrm{encoder}(x)

    A draw and its own density cost one pass through each transform. The density at any other z costs D + 1 passes, one
    after another. This matters when the guide of one datum is evaluated at the draws of another (in a VampPrior, or the
    aggregate posterior). There is no analytic KL and no closed form of the mean.

    Args:
        encoder: x (B, *x_shape) -> (B, 3 D): mu, s, and the context h of the transforms; sigma = floor + exp(s).
        latent_dim: D.
        flow_transforms: T.
        flow_hidden: hidden widths of each transform's network.
        floor: smallest sigma.

    Raises:
        ValueError: the floor is 0 or below, or the encoder has another size.

    Reference:
        Kingma et al., "Improving Variational Inference with Inverse Autoregressive Flow", NeurIPS 2016.
        https://arxiv.org/abs/1606.04934

    Example:
        >>> from pyro_vae.model.networks import MLP
        >>> q = FlowPosterior(MLP((1, 8, 8), (6,)), latent_dim=2)(torch.zeros(5, 1, 8, 8))
        >>> q.rsample((3,)).shape
        torch.Size([3, 5, 2])
    """

    def __init__(
        self,
        encoder: Callable[..., Tensor],
        latent_dim: int,
        flow_transforms: int = 3,
        flow_hidden: Sequence[int] = (64, 64),
        floor: float = 1e-4,
    ) -> None:
        super().__init__(encoder, latent_dim)
        self.floor = _checked(floor)
        self.transform = flows.inverse_autoregressive(latent_dim, latent_dim, flow_transforms, tuple(flow_hidden))

    @staticmethod
    def encoder_shape(latent_dim: int) -> tuple[int, ...]:
        return (3 * latent_dim,)

    def forward(self, x: Tensor, y: Tensor | None = None) -> dist.Distribution:
        loc, log_scale, context = self.encode(x, y).chunk(3, -1)
        return flows.flow(self.transform(context), loc, self.floor + log_scale.exp())

    def centre(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Passes the mean of the base through the flow: a typical z (B, D), not the mean of q(z|x)."""
        loc, _, context = self.encode(x, y).chunk(3, -1)
        return self.transform(context).inv(loc)


class Delta(Posterior):
    r"""A point for each datum: the posterior of a plain autoencoder.

    .. math:: q(z|x) = \delta(z - \mathrm{encoder}(x))

    It has no density, so KL(q || p) is infinite for every prior with a density, the ELBO is minus infinity, and there
    is no log p(x) by importance sampling. It trains only on the reconstruction (`kl_weight=0`): up to constants the
    loss is the squared error with a `Normal` likelihood, and the RMSE with `ExponentialNorm`.

    Args:
        encoder: x (B, *x_shape) -> (B, D).
        latent_dim: D, the numbers in the code.

    Raises:
        ValueError: the encoder has another size.

    Example:
        >>> from pyro_vae.model.networks import MLP
        >>> Delta(MLP((1, 8, 8), (20,)), latent_dim=20)(torch.zeros(5, 1, 8, 8)).event_shape
        torch.Size([20])
    """

    @staticmethod
    def encoder_shape(latent_dim: int) -> tuple[int, ...]:
        return (latent_dim,)

    def forward(self, x: Tensor, y: Tensor | None = None) -> dist.Distribution:
        return dist.Delta(self.encode(x, y), event_dim=1)


def _checked(floor: float) -> float:
    if not floor > 0:
        raise ValueError(f"floor is the smallest sigma and must be above 0; got {floor}")
    return floor


def _triangle(dim: int) -> Tensor:
    """Returns the position of each entry of a lower triangular matrix in [0, diagonal, below the diagonal]."""
    layout = torch.diag(torch.arange(1, dim + 1))
    row, column = torch.tril_indices(dim, dim, -1)
    layout[row, column] = torch.arange(len(row)) + dim + 1
    return layout
