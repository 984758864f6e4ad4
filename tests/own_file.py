"""A file as a user may have one, outside of the package: a prior, a posterior, a likelihood and two networks."""

SOURCE = '''
import math

import pyro.distributions as dist
import torch
from torch import nn

import pyro_vae as pv


class Horseshoe(pv.priors.Prior):
    """z = tau lambda e with half-Cauchy lambda, of which there are K quantiles: a mixture of K normals around 0."""

    def __init__(self, latent_dim, tau=1.0, quantiles=7):
        super().__init__(latent_dim)
        share = (torch.arange(quantiles) + 0.5) / quantiles
        self.register_buffer("scales", tau * torch.tan(math.pi / 2 * share))
        self.log_size = nn.Parameter(torch.randn(()) / 10)

    def forward(self, y=None):
        scales = (self.log_size.exp() * self.scales).expand(self.latent_dim, -1)
        mixture = dist.MixtureSameFamily(dist.Categorical(torch.ones_like(scales)), dist.Normal(0.0, scales))
        return mixture.to_event(1)


class LaplacePosterior(pv.posteriors.Posterior):
    @staticmethod
    def encoder_shape(latent_dim):
        return (2 * latent_dim,)

    def forward(self, x, y=None):
        loc, log_scale = self.encode(x, y).chunk(2, -1)
        return dist.Laplace(loc, log_scale.exp()).to_event(1)


class Cauchy(pv.likelihoods.Likelihood):
    def __init__(self, decoder, gamma):
        super().__init__(decoder)
        self.gamma = gamma

    def forward(self, z, y=None):
        loc = self.decode(z, y)
        return dist.Cauchy(loc, torch.full_like(loc, self.gamma)).to_event(loc.dim() - z.dim() + 1)


class Encoder(nn.Sequential):
    def __init__(self, in_shape, out_shape, width=8):
        layers = nn.Linear(math.prod(in_shape), width), nn.Tanh(), nn.Linear(width, math.prod(out_shape))
        super().__init__(nn.Flatten(), *layers, nn.Unflatten(1, out_shape))


def decoder(in_shape, out_shape):
    return nn.Sequential(nn.Linear(*in_shape, math.prod(out_shape)), nn.Unflatten(1, out_shape))


class Uncorrected(pv.priors.Prior):
    """A density that adds up to more than 1."""

    def forward(self, y=None):
        return More(self.loc, self.scale).to_event(1)


class More(dist.Normal):
    def log_prob(self, value):
        return super().log_prob(value) + 0.3


class Flat(nn.Sequential):
    """A decoder that gives vectors, whatever is asked for."""

    def __init__(self, in_shape, out_shape):
        super().__init__(nn.Linear(*in_shape, math.prod(out_shape)))
'''


def write(folder, name="horseshoe.py", more=""):
    """Writes the file, perhaps with more at its end; returns its path as text."""
    path = folder / name
    path.write_text(SOURCE + more, encoding="utf-8")
    return str(path)
