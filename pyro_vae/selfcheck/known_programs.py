"""Programs to compare estimators with: one whose evidence is known in closed form, one that is not linear."""

import math
from dataclasses import dataclass

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_vae.model.likelihoods import Bernoulli, Normal
from pyro_vae.model.networks import MLP
from pyro_vae.model.posteriors import DiagonalNormal, Posterior
from pyro_vae.model.priors import ConditionalNormal, StandardNormal
from pyro_vae.model.vae import VAE
from pyro_vae.randomness import generator, stream


@dataclass(frozen=True)
class Mismatch:
    r"""How a guide q misses the posterior p, in D dimensions.

    .. math:: p = N(m, L L'), \qquad q = N(m + \text{shift} \, L \mathbf{1}, \; \text{widen}^2 L L')

    The ratio r = p / q has the same distribution under q for any m and L.

    Attributes:
        widen: the factor on the posterior's standard deviations, above 1, so that every moment of r is finite.
        shift: the shift of the mean in each direction, in standard deviations of the posterior.

    Raises:
        ValueError: widen of 1 or below.

    Example:
        >>> Mismatch(1.5, 0.0).moment(1, latent_dim=10)
        1.0
    """

    widen: float = 1.3
    shift: float = 0.3

    def __post_init__(self) -> None:
        if not self.widen > 1:
            raise ValueError(f"a guide that does not cover the posterior has weights without moments: {self.widen}")

    def kl(self, latent_dim: int) -> float:
        """Computes KL(q || p) in nats, the distance of the ELBO from log p(x)."""
        return latent_dim * ((self.widen**2 + self.shift**2 - 1) / 2 - math.log(self.widen))

    def moment(self, k: int, latent_dim: int) -> float:
        """Computes E_q[r^k], the Gaussian integral of p^k q^(1-k)."""
        share = (k - 1) / self.widen**2
        width = k - share
        exponent = self.shift**2 * share * (1 + share / width) / 2
        return (self.widen ** (k - 1) / math.sqrt(width) * math.exp(exponent)) ** latent_dim

    def iwae_bias(self, K: int, latent_dim: int) -> float:
        r"""Computes the bias of IWAE_K, E[IWAE_K] - log p(x), in nats, up to its second order.

        .. math:: -\frac{\mathrm{Var}(r)}{2 K} + \frac{\mu_3 / 3 - \tfrac{3}{4} \mathrm{Var}(r)^2}{K^2}

        mu_3 is the third central moment of r.

        Reference:
            Nowozin, "Debiasing Evidence Approximations: On Importance-weighted Autoencoders and Jackknife Variational
            Inference", ICLR 2018, proposition 1. https://iclr.cc/virtual/2018/poster/114
        """
        second, third = (self.moment(k, latent_dim) for k in (2, 3))
        variance = second - 1
        return -variance / (2 * K) + ((third - 3 * second + 2) / 3 - 0.75 * variance**2) / K**2


class LinearGaussian:
    r"""A linear-Gaussian VAE (probabilistic PCA), whose evidence and posterior are known in closed form.

    .. math:: z \sim N(m_y, I_D), \qquad x|z \sim N(W z + b, s^2 I_d), \qquad x \sim N(W m_y + b, W W' + s^2 I_d)

    .. math:: z|x \sim N(m(x), S), \qquad S = (I + W'W / s^2)^{-1}, \qquad m(x) = S \, (m_y + W'(x - b) / s^2)

    m_y is 0 without classes. W (d, D), b (d,) and the means m_y (C, D) of the classes are drawn once, in float64. The
    guide of `program` misses the posterior by a stated amount, see `Mismatch`, so that the ELBO, the moments of the
    importance weights and the leading bias of their bounds are also known.

    Args:
        latent_dim: D.
        data_dim: d.
        scale: s.
        num_classes: C, 0 for a program without labels.
        seed: the seed of W, b and m_y.

    Reference:
        Tipping & Bishop, "Probabilistic Principal Component Analysis", Journal of the Royal Statistical Society B 61,
        1999. https://doi.org/10.1111/1467-9868.00196

    Example:
        >>> truth = LinearGaussian(latent_dim=2, data_dim=5)
        >>> x = truth.sample(3, seed=0)
        >>> truth.program(Mismatch()).posterior(x).batch_shape, truth.log_evidence(x).shape
        (torch.Size([3]), torch.Size([3]))
    """

    def __init__(
        self, latent_dim: int, data_dim: int = 12, scale: float = 1.0, num_classes: int = 0, seed: int = 0
    ) -> None:
        noise = generator(seed, "linear-Gaussian", latent_dim)
        self.weight = torch.randn(data_dim, latent_dim, generator=noise, dtype=torch.float64) / math.sqrt(latent_dim)
        self.bias = torch.randn(data_dim, generator=noise, dtype=torch.float64)
        self.means = torch.randn(num_classes, latent_dim, generator=noise, dtype=torch.float64)
        self.latent_dim, self.scale = latent_dim, scale
        precision = torch.eye(latent_dim, dtype=torch.float64) + self.weight.T @ self.weight / scale**2
        self.covariance = torch.linalg.inv(precision)
        self.root = torch.linalg.cholesky(self.covariance)

    def evidence(self, y: Tensor | None = None) -> dist.Distribution:
        """Returns p(x), or p(x|y) for labels y (N, C)."""
        noise = self.scale**2 * torch.eye(len(self.bias), dtype=torch.float64)
        return dist.MultivariateNormal(
            self._mean(y) @ self.weight.T + self.bias, self.weight @ self.weight.T + noise, validate_args=False
        )

    def log_evidence(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Computes log p(x), or log p(x|y), (N,), in nats."""
        return self.evidence(y).log_prob(x)

    def posterior_mean(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Computes the posterior mean m(x), (N, D)."""
        return (self._mean(y) + (x - self.bias) @ self.weight / self.scale**2) @ self.covariance

    def sample(self, num_data: int, seed: int, y: Tensor | None = None) -> Tensor:
        """Draws data of the model, (N, d).

        Args:
            num_data: N, without labels.
            seed: the seed of the draws.
            y: one-hot labels (N, C), one for each datum.
        """
        with stream(seed, "linear-Gaussian data"):
            return self.evidence(y).sample((num_data,) if y is None else ())

    def program(self, mismatch: Mismatch) -> VAE:
        """Builds the program of this model, with a guide that misses the posterior."""
        prior: StandardNormal | ConditionalNormal = StandardNormal(self.latent_dim)
        if len(self.means):
            prior = ConditionalNormal(self.latent_dim, len(self.means))
            prior.means.data = self.means.clone()
        return VAE(prior, _Missed(self, mismatch), self.likelihood()).double()

    def likelihood(self) -> Normal:
        """Builds p(x|z) = N(W z + b, s^2 I)."""
        return Normal(_Affine(self.weight, self.bias), scale=self.scale)

    def _mean(self, y: Tensor | None) -> Tensor:
        return torch.zeros(self.latent_dim, dtype=torch.float64) if y is None else y @ self.means


class _Missed(Posterior):
    def __init__(self, truth: LinearGaussian, mismatch: Mismatch) -> None:
        super().__init__(nn.Identity(), truth.latent_dim)
        self.truth, self.mismatch = truth, mismatch

    def forward(self, x: Tensor, y: Tensor | None = None) -> dist.Distribution:
        mean = self.truth.posterior_mean(x, y) + self.mismatch.shift * self.truth.root.sum(1)
        return dist.MultivariateNormal(mean, scale_tril=self.mismatch.widen * self.truth.root)


class _Affine(nn.Module):
    weight: Tensor
    bias: Tensor

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        return z @ self.weight.T + self.bias


def non_linear(latent_dim: int, data_dim: int, gain: float, seed: int = 0) -> VAE:
    """Builds a VAE of random networks whose posteriors are not normal: binary data, a decoder of one tanh layer.

    Args:
        latent_dim: D.
        data_dim: d.
        gain: the factor on the decoder's weights. A larger one makes it less linear, and x more informative about z.
        seed: the seed of the weights.

    Returns:
        The program, in float64.

    Example:
        >>> non_linear(2, 8, gain=2.0).generate(3).shape
        torch.Size([3, 8])
    """
    with stream(seed, "non-linear", latent_dim):
        encoder = MLP((data_dim,), (2 * latent_dim,), hidden=(16,), activation=nn.Tanh)
        decoder = MLP((latent_dim,), (data_dim,), hidden=(32,), activation=nn.Tanh)
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.mul_(gain)
    return VAE(StandardNormal(latent_dim), DiagonalNormal(encoder, latent_dim), Bernoulli(decoder)).double()
