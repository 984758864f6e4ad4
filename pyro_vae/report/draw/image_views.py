"""Computes what a picture of images shows from a program and data: codes z, means of p(x|z), draws.

Each view is a tuple of named tensors, which depend only on the arguments and the seed. `images` draws it.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_vae.evaluation.weights import draw_columns
from pyro_vae.model import traces
from pyro_vae.model.autoencoder import Autoencoder
from pyro_vae.model.observing import of_observed
from pyro_vae.model.program import undisturbed
from pyro_vae.randomness import stream


class Samples(NamedTuple):
    """Data generated from the prior.

    Attributes:
        z: draws from p(z), (N, D).
        mean: means of p(x|z), (N, *x_shape).
        x: draws from p(x|z), (N, *x_shape).
        labels: of the classes that were wanted, (N,), for a conditional program.
    """

    z: Tensor
    mean: Tensor
    x: Tensor
    labels: Tensor | None = None


@torch.no_grad()
def samples(vae: Autoencoder, seed: int, num_data: int, y: Tensor | None = None) -> Samples:
    """Draws what `vae.generate` draws under the stream ("samples") of this seed, with the z that it drew.

    Args:
        vae: the program.
        seed: the seed of the draws.
        num_data: N.
        y: one-hot labels (N, C), for a conditional program.
    """
    with stream(seed, "samples", device=vae.prior.loc.device), undisturbed(vae):
        z = vae.from_prior(num_data, y)
        p = vae.likelihood(z, y)
        return Samples(z, p.mean, p.sample(), None if y is None else y.argmax(-1))


class Reconstructions(NamedTuple):
    """Data, and what the program makes of them at several draws of z.

    Attributes:
        x: the data (B, *x_shape).
        z: draws from q(z|x), (K, B, D).
        mean: means of p(x|z), (K, B, *x_shape).
        log_likelihood: log p(x|z) in nats, (K, B).
        log_likelihood_of_draws: the same at more draws, (K', B); None where these were not wanted.
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
    """Draws what `vae.reconstruct` draws under the stream ("reconstructions") of this seed, with the z that it drew.

    Args:
        vae: the program.
        x: data (B, *x_shape).
        seed: the seed of the draws.
        num_samples: K, the draws of z for each datum.
        y: one-hot labels (B, C), for a conditional program.
        num_draws: K', the draws for `log_likelihood_of_draws`; 0 for none.
    """
    with stream(seed, "reconstructions", device=x.device), undisturbed(vae):
        z = vae.from_guide(x, num_samples, y)
        p = vae.likelihood(z, y)
        observed, given = of_observed(vae.likelihood, p, x, vae.missing)
        view = Reconstructions(x, z, p.mean, observed.log_prob(given))
    more = log_likelihood_of_draws(vae, x, num_draws, seed, y) if num_draws else None
    return view._replace(log_likelihood_of_draws=more)


def log_likelihood_of_draws(vae: Any, x: Tensor, num_samples: int, seed: int, y: Tensor | None = None) -> Tensor:
    """Evaluates log p(x|z_k) at K draws of z from the guide, in nats: (K, B), float64.

    Its mean over draws is the reconstruction term of the ELBO. Its standard deviation over draws says how much the
    reconstruction of one datum depends on the draw.

    Args:
        vae: anything with `.model` and `.guide` over one data plate.
        x: data (B, *x_shape).
        num_samples: K.
        seed: the seed of the draws.
        y: one-hot labels (B, C), for a conditional program.
    """
    columns = draw_columns(vae, x, num_samples, y, seed, lambda pair: traces.reconstruction(pair).double())
    return torch.cat([torch.cat(blocks) for _, blocks in columns], dim=1)
