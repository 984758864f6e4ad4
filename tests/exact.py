"""Models whose evidence and posterior are known in closed form: the truth that estimators are held against.

`ProbabilisticPCA` (Tipping & Bishop 1999), in float64:

    z ~ N(0, I_D),   x | z ~ N(W z + b, s^2 I_d)
    x ~ N(b, W W' + s^2 I),     z | x ~ N(S W'(x - b) / s^2, S),   S = (I + W'W / s^2)^-1

Of x with missing numbers (NaN) all of this holds with the rows of W and b that belong to the observed ones.
"""

import numpy as np
import pyro
import pyro.distributions as dist
import scipy.stats
import torch
from torch import nn

import pyro_vae as pv
from pyro_vae.randomness import stream


class ProbabilisticPCA:
    """Probabilistic PCA as a VAE: W (d, D), b (d,) and s, drawn once from a seed."""

    def __init__(self, latent_dim=2, data_dim=5, scale=0.7, seed=0):
        noise = torch.Generator().manual_seed(seed)
        self.W = torch.randn(data_dim, latent_dim, generator=noise, dtype=torch.float64)
        self.b = torch.randn(data_dim, generator=noise, dtype=torch.float64)
        self.scale, self.latent_dim, self.data_dim = scale, latent_dim, data_dim
        self.covariance = torch.linalg.inv(torch.eye(latent_dim, dtype=torch.float64) + self.W.T @ self.W / scale**2)

    def evidence(self):
        marginal = self.W @ self.W.T + self.scale**2 * torch.eye(self.data_dim, dtype=torch.float64)
        return torch.distributions.MultivariateNormal(self.b, marginal)

    def posterior(self, x):
        mean = (x - self.b) @ self.W @ self.covariance / self.scale**2
        return dist.MultivariateNormal(mean, self.covariance)

    def posterior_of_observed(self, x):
        rows = (~x.isnan()).double().unsqueeze(-1) * self.W  # (B, d, D)
        covariance = torch.linalg.inv(torch.eye(self.latent_dim, dtype=torch.float64) + rows.mT @ rows / self.scale**2)
        error = (x - self.b).nan_to_num(0.0).unsqueeze(-1)
        return dist.MultivariateNormal((covariance @ rows.mT @ error).squeeze(-1) / self.scale**2, covariance)

    def log_evidence(self, x):
        """log p(x_obs) of each datum, by scipy."""
        law = self.evidence()
        mean, covariance = law.mean.numpy(), law.covariance_matrix.numpy()
        found = []
        for row in x.numpy():
            seen = ~np.isnan(row)
            part = scipy.stats.multivariate_normal(mean[seen], covariance[np.ix_(seen, seen)]) if seen.any() else None
            found.append(part.logpdf(row[seen]) if part else 0.0)
        return torch.tensor(np.array(found), dtype=torch.float64)

    def missing_given_observed(self, row):
        """Mean and covariance of x_mis | x_obs of one datum (d,)."""
        law, gaps = self.evidence(), row.isnan()
        S, seen = law.covariance_matrix, ~row.isnan()
        gain = torch.linalg.solve(S[seen][:, seen], S[seen][:, gaps]).T
        return law.mean[gaps] + gain @ (row[seen] - law.mean[seen]), S[gaps][:, gaps] - gain @ S[seen][:, gaps]

    def gappy(self, size, share=0.4, seed=1):
        """Data with random gaps; the first has none, the second nothing else."""
        x, noise = self.data(size, seed), torch.Generator().manual_seed(seed)
        x[torch.rand(x.shape, generator=noise) < share] = torch.nan
        x[0] = self.data(1, seed + 1)[0]
        x[1] = torch.nan
        return x

    def data(self, size, seed=1):
        with stream(seed, "data"):
            return self.evidence().sample((size,))

    def vae(self, widen=1.0, shift=0.0, missing=False):
        """The program of this model. widen = 1, shift = 0 is the exact posterior; anything else a mismatched guide."""
        return pv.VAE(
            pv.priors.StandardNormal(self.latent_dim),
            _ExactPosterior(self, widen, shift),
            pv.likelihoods.Normal(_Affine(self.W, self.b), scale=self.scale),
            missing=missing,
        ).double()


class SharedShift(ProbabilisticPCA):
    """Probabilistic PCA whose data share a shift, in float64; C = W W' + s^2 I.

    u ~ N(0, t^2 I_d),   x_i | u ~ N(b + u, C)
    u | x_1 ... x_n ~ N(V C^-1 sum_i (x_i - b), V),   V = (I / t^2 + n C^-1)^-1
    """

    spread = 1.5  # t

    def shift_posterior(self, x):
        inverse, unit = torch.linalg.inv(self.evidence().covariance_matrix), torch.eye(self.data_dim).double()
        V = torch.linalg.inv(unit / self.spread**2 + len(x) * inverse)
        return dist.MultivariateNormal((x - self.b).sum(0) @ inverse @ V, V)

    def predictive(self, x):
        law = self.shift_posterior(x)
        return dist.MultivariateNormal(self.b + law.mean, self.evidence().covariance_matrix + law.covariance_matrix)

    def log_evidence_of_all(self, x):
        """log p(x_1 ... x_n), of all n d numbers as one normal vector, by scipy."""
        n, (C, unit) = len(x), (self.evidence().covariance_matrix.numpy(), np.eye(self.data_dim))
        covariance = np.kron(np.eye(n), C) + np.kron(np.ones((n, n)), self.spread**2 * unit)
        return scipy.stats.multivariate_normal(np.tile(self.b.numpy(), n), covariance).logpdf(x.numpy().ravel())

    def shifted_data(self, size, seed=3):
        with stream(seed, "shift"):
            return self.data(size, seed) + self.spread * torch.randn(self.data_dim, dtype=torch.float64)

    def program(self, law, **options):
        """Model and guide with q(u) = law, and q(z | x, u) the posterior; options of `_Shifted`."""
        return _Shifted(self, law, **options)


class _Shifted:
    """A plate of `size` data, of which it is given some; `dims` puts the shift into a plate of its own at dim -1."""

    def __init__(self, truth, law, size=None, dims=False, widen=1.0):
        self.truth, self.law, self.size, self.dims = truth, law, size, dims
        self.vae = truth.vae(widen=widen)

    def model(self, x=None, y=None):
        zero = torch.zeros(self.truth.data_dim, dtype=torch.float64)
        prior = dist.Normal(zero, self.truth.spread)
        u = self._in_plate(prior) if self.dims else pyro.sample("u", prior.to_event(1))
        with self._plate(torch.zeros(1) if x is None else x):
            z = pyro.sample("z", self.vae.prior())
            return pyro.sample("x", dist.Normal(self.vae.likelihood(z).mean + u, self.truth.scale).to_event(1), obs=x)

    def guide(self, x, y=None):
        u = self._in_plate(self.law.base_dist) if self.dims else pyro.sample("u", self.law)
        with self._plate(x):
            pyro.sample("z", self.vae.posterior(x - u))

    def _plate(self, x):
        return pyro.plate("data", self.size or len(x), subsample=x, dim=-1)

    def _in_plate(self, law):
        with pyro.plate("dims", self.truth.data_dim, dim=-1):
            return pyro.sample("u", law)


class _ExactPosterior(pv.posteriors.Posterior):
    def __init__(self, truth, widen, shift):
        super().__init__(nn.Identity(), truth.latent_dim)
        self.truth, self.widen, self.shift = truth, widen, shift

    def forward(self, x, y=None):
        exact = self.truth.posterior_of_observed(x) if self.missing else self.truth.posterior(x)
        return dist.MultivariateNormal(exact.mean + self.shift, exact.covariance_matrix * self.widen**2)


class _Affine(nn.Module):
    def __init__(self, weight, bias):
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)

    def forward(self, z):
        return z @ self.weight.T + self.bias


def small_vae(latent_dim=3, x_shape=(6,), likelihood=None, prior=None, hidden=(8,), seed=0, **options):
    """A small VAE with random weights, in float64."""
    likelihood = likelihood or pv.likelihoods.Bernoulli
    with stream(seed, "init"):
        encoder = pv.networks.MLP(x_shape, (2 * latent_dim,), hidden=hidden, activation=nn.Tanh)
        decoder = pv.networks.MLP((latent_dim,), likelihood.decoder_shape(x_shape), hidden=hidden, activation=nn.Tanh)
        return pv.VAE(
            prior or pv.priors.StandardNormal(latent_dim),
            pv.posteriors.DiagonalNormal(encoder, latent_dim),
            likelihood(decoder, **options),
        ).double()


def two_layers(guide="top_down"):
    """A program with latent sites z2 (2) and z1 (3) over six binary numbers, with random weights, in float64."""
    MLP, Normal = pv.networks.MLP, pv.posteriors.DiagonalNormal
    top_down = guide == "top_down"
    return pv.HierarchicalVAE(
        pv.priors.StandardNormal(2),
        pv.likelihoods.Normal(MLP((2,), (3,))),
        pv.likelihoods.Bernoulli(MLP((3,), (6,))),
        Normal(MLP((6,), (6,), y_dim=2 if top_down else 0), 3),
        Normal(MLP((6,) if top_down else (3,), (4,)), 2),
        guide=guide,
    ).double()


def binary_data(size, x_shape=(6,), seed=2):
    noise = torch.Generator().manual_seed(seed)
    return torch.randint(0, 2, (size, *x_shape), generator=noise).double()


class MixturePrior(pv.priors.Prior):
    """A joint mixture of two normals: no analytic KL, so that both sides are sampled."""

    def __init__(self, latent_dim):
        super().__init__(latent_dim)
        self.centres = nn.Parameter(torch.linspace(-1, 1, 2)[:, None].repeat(1, latent_dim))

    def forward(self, y=None):
        parts = dist.Normal(self.centres, self.scale).to_event(1)
        return dist.MixtureSameFamily(dist.Categorical(logits=torch.zeros_like(self.centres[:, 0])), parts)
