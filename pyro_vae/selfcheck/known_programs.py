"""Programs to hold estimators against: one whose evidence is known in closed form, one that is not linear.

Linear-Gaussian VAE (probabilistic PCA: Tipping & Bishop, "Probabilistic Principal Component Analysis", JRSS B 1999):

    z ~ N(m_y, I_D),    x|z ~ N(W z + b, s^2 I_d),    x ~ N(W m_y + b, W W' + s^2 I_d)
    z|x ~ N(m(x), S),   S = (I + W'W / s^2)^-1,       m(x) = S (m_y + W'(x - b) / s^2)

with m_y = 0 where there are no classes. Its guide misses that posterior by a stated amount, see `Mismatch`, so that the
ELBO, the moments of the importance weights and the leading bias of their bounds are known as well.
"""

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
    """A guide q = N(m + shift L 1, widen^2 L L') for the posterior p = N(m, L L'), in D dimensions.

    Whatever m and L, the ratio r = p / q has the same distribution under q.

    Attributes:
        widen: above 1, so that every moment of r is finite.
        shift: in standard deviations of the posterior.

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
        """KL(q || p) in nats: how far the ELBO is below log p(x)."""
        return latent_dim * ((self.widen**2 + self.shift**2 - 1) / 2 - math.log(self.widen))

    def moment(self, k: int, latent_dim: int) -> float:
        """E_q[r^k], the Gaussian integral of p^k q^(1-k)."""
        share = (k - 1) / self.widen**2
        width = k - share
        exponent = self.shift**2 * share * (1 + share / width) / 2
        return (self.widen ** (k - 1) / math.sqrt(width) * math.exp(exponent)) ** latent_dim

    def iwae_bias(self, K: int, latent_dim: int) -> float:
        """E[IWAE_K] - log p(x) in nats, up to its second order.

            -Var(r) / (2 K)  +  (mu_3 / 3 - 3/4 Var(r)^2) / K^2

        with mu_3 the third central moment: Nowozin, "Debiasing Evidence Approximations: On Importance-Weighted
        Autoencoders and Jackknife Variational Inference", ICLR 2018, proposition 1.
        """
        second, third = (self.moment(k, latent_dim) for k in (2, 3))
        variance = second - 1
        return -variance / (2 * K) + ((third - 3 * second + 2) / 3 - 0.75 * variance**2) / K**2


class LinearGaussian:
    """The truth, in float64: W (d, D), b (d,) and the means m_y (C, D) of the classes, drawn once.

    Args:
        latent_dim: D.
        data_dim: d.
        scale: s.
        num_classes: C, 0 for a program without labels.
        seed: of the draw.

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
        """p(x), or p(x|y) for labels y (N, C)."""
        noise = self.scale**2 * torch.eye(len(self.bias), dtype=torch.float64)
        return dist.MultivariateNormal(
            self._mean(y) @ self.weight.T + self.bias, self.weight @ self.weight.T + noise, validate_args=False
        )

    def log_evidence(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """log p(x), or log p(x|y): (N,), nats."""
        return self.evidence(y).log_prob(x)

    def posterior_mean(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """m(x), (N, D)."""
        return (self._mean(y) + (x - self.bias) @ self.weight / self.scale**2) @ self.covariance

    def sample(self, num_data: int, seed: int, y: Tensor | None = None) -> Tensor:
        """Data of the model: (N, d)."""
        with stream(seed, "linear-Gaussian data"):
            return self.evidence(y).sample((num_data,) if y is None else ())

    def program(self, mismatch: Mismatch) -> VAE:
        """The program of this model, with a guide that misses the posterior."""
        prior: StandardNormal | ConditionalNormal = StandardNormal(self.latent_dim)
        if len(self.means):
            prior = ConditionalNormal(self.latent_dim, len(self.means))
            prior.means.data = self.means.clone()
        likelihood = Normal(_Affine(self.weight, self.bias), scale=self.scale)
        return VAE(prior, _Missed(self, mismatch), likelihood).double()

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
    """A VAE of random networks, in float64, whose posteriors are not normal: binary data, a decoder of one tanh layer.

    Args:
        latent_dim: D.
        data_dim: d.
        gain: factor on the decoder's weights: how far from linear it is, and how much an x says about its z.
        seed: of the weights.

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
