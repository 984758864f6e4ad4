"""From a program and data to the numbers that a picture shows: codes z, means of p(x|z), draws. `pictures` draws them.

Each view is a tuple of named tensors, a function of its arguments and the seed alone.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_vae.evaluation.weights import draw_columns
from pyro_vae.model import traces
from pyro_vae.model.autoencoder import Autoencoder
from pyro_vae.model.program import undisturbed
from pyro_vae.randomness import stream


class Samples(NamedTuple):
    """Data generated from the prior: z (N, D) ~ p(z), the mean of p(x|z) and a draw from it, both (N, *x_shape)."""

    z: Tensor
    mean: Tensor
    x: Tensor


@torch.no_grad()
def samples(vae: Autoencoder, seed: int, num_data: int, y: Tensor | None = None) -> Samples:
    """What `vae.generate` draws under the stream ("samples") of this seed, with the z that it drew.

    Args:
        vae: what generates.
        seed: of the draws.
        num_data: N.
        y: one-hot labels (N, C), of a conditional program.
    """
    with stream(seed, "samples", device=vae.prior.loc.device), undisturbed(vae):
        z = vae.from_prior(num_data, y)
        p = vae.likelihood(z, y)
        return Samples(z, p.mean, p.sample())


class Reconstructions(NamedTuple):
    """Data, and what the program makes of them at several draws of z.

    x (B, *x_shape); z (K, B, D) ~ q(z|x); mean of p(x|z) (K, B, *x_shape); log_likelihood log p(x|z) (K, B), nats;
    log_likelihood_of_draws (K', B), the same at more draws, None where these were not wanted.
    """

    x: Tensor
    z: Tensor
    mean: Tensor
    log_likelihood: Tensor
    log_likelihood_of_draws: Tensor | None = None


@torch.no_grad()
def reconstructions(
    vae: Autoencoder, x: Tensor, seed: int, num_samples: int = 4, y: Tensor | None = None, num_draws: int = 0
) -> Reconstructions:
    """What `vae.reconstruct` draws under the stream ("reconstructions") of this seed, with the z that it drew.

    Args:
        vae: what reconstructs.
        x: data (B, *x_shape).
        seed: of the draws.
        num_samples: K, draws of z for each datum.
        y: one-hot labels (B, C), of a conditional program.
        num_draws: K', 0 for none.
    """
    with stream(seed, "reconstructions", device=x.device), undisturbed(vae):
        z = vae.from_guide(x, num_samples, y)
        p = vae.likelihood(z, y)
        vae.likelihood.check(x)
        view = Reconstructions(x, z, p.mean, p.log_prob(x))
    more = log_likelihood_of_draws(vae, x, num_draws, seed, y) if num_draws else None
    return view._replace(log_likelihood_of_draws=more)


def log_likelihood_of_draws(vae: Any, x: Tensor, num_samples: int, seed: int, y: Tensor | None = None) -> Tensor:
    """log p(x|z_k) for K draws of z from the guide: (K, B), float64, nats. Any program.

    Its mean over draws is the reconstruction term of the ELBO; its standard deviation over draws says how much the
    reconstruction of one datum depends on the draw.
    """
    columns = draw_columns(vae, x, num_samples, y, seed, lambda pair: traces.reconstruction(pair).double())
    return torch.cat([torch.cat(blocks) for _, blocks in columns], dim=1)
