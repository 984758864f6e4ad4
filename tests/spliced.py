"""Distributions that are wrong in one known way: the density of one, the sampler of another."""

import math

import pyro.distributions as dist
import torch

F64 = {"dtype": torch.float64}


class Spliced(dist.TorchDistribution):
    """The density of one distribution, times a factor, and the sampler of another."""

    arg_constraints = {}  # noqa: RUF012
    has_rsample = False

    def __init__(self, density, sampler=None, factor=1.0, batch_shape=()):
        self.density, self.sampler, self.factor = density, sampler or density, factor
        super().__init__(torch.Size(batch_shape), density.event_shape, validate_args=False)

    @property
    def support(self):
        return self.density.support

    def expand(self, batch_shape, _instance=None):
        return Spliced(self.density, self.sampler, self.factor, batch_shape)

    def log_prob(self, value):
        return self.density.log_prob(value) + math.log(self.factor)

    def sample(self, sample_shape=()):
        with torch.no_grad():
            return self.sampler.sample(torch.Size(sample_shape) + self.batch_shape)


def normal(D, scale=1.0, loc=None):
    loc = torch.zeros(D, **F64) if loc is None else loc
    return dist.MultivariateNormal(loc, scale**2 * torch.eye(D).to(loc))


def student(D, df=5.0):
    return dist.MultivariateStudentT(torch.tensor(df, **F64), torch.zeros(D, **F64), torch.eye(D, **F64))


def whole_vectors(D, K=2, scale=0.5, loc=None):
    means = _means(D, K, loc)
    return dist.MixtureSameFamily(dist.Categorical(torch.ones(K).to(means)), dist.Normal(means, scale).to_event(1))


def per_dimension(D, K=2, scale=0.5, loc=None):
    means = _means(D, K, loc).T
    return dist.MixtureSameFamily(dist.Categorical(torch.ones(D, K).to(means)), dist.Normal(means, scale)).to_event(1)


def _means(D, K, loc):
    means = 1.5 * torch.randn(K, D, generator=torch.Generator().manual_seed(3), **F64)
    return means if loc is None else means.to(loc) + loc
