"""Likelihoods of pixels that are 0 or 1, and of pixels in [0, 1]."""

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor

from pyro_vae.model import distributions
from pyro_vae.model.likelihoods.likelihood import Likelihood, mean_with_one_more, observed_mean, over_pixels


class Bernoulli(Likelihood):
    r"""Independent binary pixels. Its log p(x|z) is minus the binary cross-entropy, summed over pixels.

    .. math:: \log p(x|z) = \sum_i [x_i \log m_i + (1 - x_i) \log(1 - m_i)], \qquad
              m = \mathrm{sigmoid}(\mathrm{decoder}(z))

    In nats. Grey pixels have no log-likelihood under it, and are refused.

    Args:
        decoder: z (*, D) -> logits (*, *x_shape).

    Raises:
        DataError: from `check`, for pixels other than 0 and 1.

    Reference:
        Eq. 11 of Kingma & Welling, "Auto-Encoding Variational Bayes", ICLR 2014. https://arxiv.org/abs/1312.6114

    Example:
        >>> from pyro_vae.model.networks import MLP
        >>> p = Bernoulli(MLP((20,), (1, 8, 8)))(torch.zeros(1000, 5, 20))
        >>> p.batch_shape, p.event_shape
        (torch.Size([1000, 5]), torch.Size([1, 8, 8]))
    """

    support = constraints.boolean
    advice = (
        "Binarise the data (`binarize='dynamic'`), or use a likelihood for grey levels "
        "(`likelihood='continuous_bernoulli'`, or `likelihood='normal'`)."
    )

    def forward(self, z: Tensor, y: Tensor | None = None) -> dist.Distribution:
        return over_pixels(dist.Bernoulli(logits=self.decode(z, y)), z, y)

    def start(self, x: Tensor) -> Tensor:
        return torch.logit(mean_with_one_more(x, 0.5))


class ContinuousBernoulli(Likelihood):
    r"""Grey pixels in [0, 1], as numbers: the binary cross-entropy plus its missing normaliser.

    .. math:: \log p(x|z) = \sum_i [l_i x_i - A(l_i)], \qquad A(l) = \log \frac{e^l - 1}{l}, \qquad
              l = \mathrm{decoder}(z)

    In nats. It has no scale apart from its logits, and hence no floor: at a pixel that is 0 in all data, |l| and the
    density grow without limit. Dequantise 8-bit data (`dequantize`): their means then stay half a level away from the
    ends.

    Args:
        decoder: z (*, D) -> logits l (*, *x_shape).

    Raises:
        DataError: from `check`, for pixels outside [0, 1].

    Reference:
        Loaiza-Ganem & Cunningham, "The continuous Bernoulli: fixing a pervasive error in variational autoencoders",
        NeurIPS 2019. https://arxiv.org/abs/1907.06845

    Example:
        >>> from pyro_vae.model.networks import MLP
        >>> p = ContinuousBernoulli(MLP((20,), (1, 8, 8)))(torch.zeros(5, 20))
        >>> p.event_shape
        torch.Size([1, 8, 8])
    """

    support = constraints.unit_interval
    advice = "Scale the data to [0, 1], or use a density of all real numbers (`likelihood='normal'`)."

    def forward(self, z: Tensor, y: Tensor | None = None) -> dist.Distribution:
        return over_pixels(distributions.ContinuousBernoulli(self.decode(z, y)), z, y)

    def start(self, x: Tensor) -> Tensor:
        # Half a grey level from the ends: training would not recover from logits of thousands, as for a black pixel.
        return distributions.continuous_bernoulli_logits(observed_mean(x, 0.5).clamp(1 / 512, 511 / 512))
