"""Likelihoods p(x|z): modules whose `forward` returns a Pyro distribution, the decoder's half of the model.

    likelihood(z, y=None) -> p(x | z)     batch_shape (*),     event_shape x_shape     for z of shape (*, D)

To add a member:

- subclass `Likelihood`, say in `decoder_shape` how many numbers it needs, and return a distribution from `forward`;
- build it from `self.decode(z, y)`, which calls the decoder;
- set `support` to the constraint on one pixel, and `advice` to what a user with other data should do;
- say in `start` which decoder output has the training mean as its mean.
"""

from collections.abc import Callable, Sequence

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor, nn

from pyro_vae.errors import DataError


class Likelihood(nn.Module):
    """Base class of p(x|z).

    Args:
        decoder: maps z `(*, D)` (and labels `(B, C)`, where given) to `(*, *decoder_shape(x_shape))`.
    """

    support: constraints.Constraint = constraints.real
    advice = ""

    def __init__(self, decoder: Callable[..., Tensor]) -> None:
        super().__init__()
        self.decoder = decoder

    @staticmethod
    def decoder_shape(x_shape: Sequence[int]) -> tuple[int, ...]:
        """Event shape of what the decoder must return; one number a pixel unless a member says otherwise."""
        return tuple(x_shape)

    def decode(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """The decoder's output (*, *decoder_shape) at z (*, D)."""
        return self.decoder(z) if y is None else self.decoder(z, y)

    def forward(self, z: Tensor, y: Tensor | None = None) -> dist.Distribution:
        """p(x|z), or p(x|z, y) for labels y (B, C)."""
        raise NotImplementedError(f"{type(self).__name__} has no forward()")

    def start(self, mean: Tensor, num_data: int) -> Tensor:
        """The decoder output, of shape `decoder_shape`, under which x has the given mean (x_shape)."""
        return mean

    @torch.no_grad()
    def start_at(self, x: Tensor) -> None:
        """Sets the decoder's output bias so that training starts at the mean of the data x (N, *x_shape).

        For data that are binarised anew in each epoch, pass the grey levels: they are the mean of the draws.

        Raises:
            ValueError: the decoder has no `output_bias` of the right shape.
        """
        wanted = self.start(x.mean(0), len(x))
        bias = getattr(self.decoder, "output_bias", None)
        if bias is None or bias.shape != wanted.shape:
            raise ValueError(
                f"to start at the mean of the data the decoder needs a parameter output_bias of shape "
                f"{tuple(wanted.shape)}; {type(self.decoder).__name__} has "
                f"{'none' if bias is None else tuple(bias.shape)}"
            )
        bias.copy_(wanted)

    def check(self, x: Tensor) -> None:
        """Refuses data outside the support, or not finite, naming the first such datum.

        Raises:
            DataError: with the value, its place and the cure.
        """
        inside = self.support.check(x) & torch.isfinite(x)
        if not inside.all():
            place = (~inside).nonzero()[0].tolist()
            value = x[tuple(place)].item()
            raise DataError(
                f"{type(self).__name__} needs x {_describe(self.support)}; got {value:.6g} at datum {place[0]}, "
                f"position {tuple(place[1:])}. {self.advice}".rstrip()
            )


class Bernoulli(Likelihood):
    """p(x|z) = prod_i Bernoulli(x_i; sigmoid(decoder(z)_i)), for binary data.

        log p(x|z) = sum_i x_i log m_i + (1 - x_i) log(1 - m_i),   m = sigmoid(decoder(z))   nats

    Minus the binary cross-entropy, summed over pixels. Kingma & Welling, "Auto-Encoding Variational Bayes", ICLR 2014,
    eq. 11. Grey pixels give no log-likelihood under it and are refused.

    Args:
        decoder: z (*, D) -> logits (*, *x_shape).

    Errors: `DataError` from `check` for pixels other than 0 and 1.

    Example:
        >>> from pyro_vae.model.networks import MLP
        >>> p = Bernoulli(MLP((20,), (1, 8, 8)))(torch.zeros(1000, 5, 20))
        >>> p.batch_shape, p.event_shape
        (torch.Size([1000, 5]), torch.Size([1, 8, 8]))
    """

    support = constraints.boolean
    advice = "Binarise the data (--binarize dynamic), or use a likelihood for grey levels (--likelihood normal)."

    def forward(self, z: Tensor, y: Tensor | None = None) -> dist.Distribution:
        logits = self.decode(z, y)
        return dist.Bernoulli(logits=logits).to_event(logits.dim() - z.dim() + 1)

    def start(self, mean: Tensor, num_data: int) -> Tensor:
        # Half a count on either side keeps a pixel that is always off at a finite logit (Krichevsky & Trofimov 1981).
        return torch.logit((mean * num_data + 0.5) / (num_data + 1))


class Normal(Likelihood):
    """p(x|z) = N(x; decoder(z), sigma^2 I), sigma fixed.

        log p(x|z) = -|x - m|^2 / (2 sigma^2) - d/2 log(2 pi sigma^2),   m = decoder(z)   nats

    So `weight * squared error + KL` is this likelihood with sigma^2 = 1 / (2 weight): the sum of squared errors (SSE)
    is sigma^2 = 1/2, the mean squared error (MSE) is sigma^2 = d/2. They differ by more than a multiplicative
    constant, since the KL does not change with them. The constant -d/2 log(2 pi sigma^2) does not move the optimum
    while sigma is fixed, but belongs into every reported log p(x).

    Beware of sigma = 1 on pixels in [0, 1]: a latent dimension pays only where the data vary by more than sigma^2 along
    it, and on such data hardly any direction does, so that nearly all latents collapse onto the prior.

    Args:
        decoder: z (*, D) -> means (*, *x_shape).
        scale: sigma.

    Example:
        >>> from pyro_vae.model.networks import MLP
        >>> Normal(MLP((20,), (1, 8, 8)), scale=0.1)(torch.zeros(5, 20)).event_shape
        torch.Size([1, 8, 8])
    """

    advice = "Remove such data, or replace the missing values."

    def __init__(self, decoder: Callable[..., Tensor], scale: float = 0.1) -> None:
        super().__init__(decoder)
        if not scale > 0:
            raise ValueError(f"scale is a standard deviation and must be above 0; got {scale}")
        # A number, not a buffer: a float32 buffer would stay rounded after .double().
        self.scale = float(scale)

    def forward(self, z: Tensor, y: Tensor | None = None) -> dist.Distribution:
        mean = self.decode(z, y)
        return dist.Normal(mean, self.scale).to_event(mean.dim() - z.dim() + 1)


def _describe(support: constraints.Constraint) -> str:
    known = {constraints.boolean: "in {0, 1}", constraints.real: "to be finite"}
    return known.get(support, f"in the support {support}")
