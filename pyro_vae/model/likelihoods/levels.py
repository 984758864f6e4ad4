"""Likelihoods of grey levels 0..L-1."""

from collections.abc import Callable, Sequence
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor

from pyro_vae.model import distributions
from pyro_vae.model.likelihoods.likelihood import Likelihood, mean_with_one_more, over_pixels
from pyro_vae.model.likelihoods.scales import LocationScale
from pyro_vae.option_words import LearnScale


class DiscretizedLogistic(LocationScale):
    r"""Grey levels 0..L-1: a logistic of location (L-1) m and scale (L-1) s, rounded to the nearest level.

    .. math:: \log p(x|z) = \sum_i \log(\mathrm{sigmoid}(b_i) - \mathrm{sigmoid}(a_i)), \qquad m = \mathrm{decoder}(z)

    .. math:: a_i = \frac{x_i - 1/2 - (L-1) m_i}{(L-1) s_i}, \qquad b_i = a_i + \frac{1}{(L-1) s_i}

    In nats; the end levels take the tails. Decoder and scale are in units of the full range, as for a density on [0,
    1], and the data are the levels themselves. These are probabilities, which a constant pixel cannot drive above 1, so
    there is nothing to dequantise.

    Args:
        decoder: z (*, D) -> locations m (*, *x_shape), or m and raw scales (*, 2, *x_shape) for "predicted".
        num_levels: L.
        scale: s, or the start of a learned s.
        learn_scale: "no", "one", "pixel" or "predicted", as for `Normal`.
        scale_floor: smallest s that is not fixed: s = scale_floor + exp(raw).
        x_shape: shape of one datum, needed for "pixel".

    Raises:
        ValueError: as for `Normal`, and for fewer than two levels.
        DataError: from `check`, for values that are not levels.

    Reference:
        Section 5.2 of Kingma et al., "Improving Variational Inference with Inverse Autoregressive Flow", NeurIPS 2016.
        https://arxiv.org/abs/1606.04934

        Eq. 2 of Salimans, Karpathy, Chen & Kingma, "PixelCNN++", ICLR 2017. https://arxiv.org/abs/1701.05517

    Example:
        >>> from pyro_vae.model.networks import MLP
        >>> p = DiscretizedLogistic(MLP((20,), (1, 8, 8)), num_levels=17)(torch.zeros(5, 20))
        >>> p.sample().unique().max() <= 16
        tensor(True)
    """

    support: constraints.Constraint = constraints.nonnegative_integer
    advice = (
        "It takes the levels themselves (num_levels of them): leave out `dequantize=True`, or use a density "
        "(`dequantize=True`, `likelihood='normal'`)."
    )
    symbol = "s"

    def __init__(
        self,
        decoder: Callable[..., Tensor],
        num_levels: int = 256,
        scale: float = 0.1,
        learn_scale: LearnScale = "no",
        scale_floor: float = 1e-3,
        x_shape: Sequence[int] | None = None,
    ) -> None:
        super().__init__(decoder, scale, learn_scale, scale_floor, x_shape)
        self.num_levels, self.support = num_levels, _levels(num_levels)

    def forward(self, z: Tensor, y: Tensor | None = None) -> dist.Distribution:
        top = self.num_levels - 1
        loc, scale = self.location_and_scale(z, y)
        return over_pixels(distributions.DiscretizedLogistic(top * loc, top * scale, self.num_levels), z, y)

    def start_location(self, x: Tensor) -> Tensor:
        top, scale = self.num_levels - 1, self.scale
        # The tails of the end levels pull the mean inwards; 40 scales beyond an end there is nothing else.
        return distributions.invert(
            lambda loc: distributions.DiscretizedLogistic(top * loc, top * scale, self.num_levels).mean,
            mean_with_one_more(x, top / 2),
            -40 * scale,
            1 + 40 * scale,
        )

    def scales(self) -> dict[str, Any]:
        return {**super().scales(), "unit": f"full range, {self.num_levels - 1} levels"}


class Categorical(Likelihood):
    r"""Any probabilities of the grey levels 0..L-1, separate for each pixel.

    .. math:: \log p(x|z) = \sum_i \left( l_i[x_i] - \log \sum_v e^{l_i[v]} \right), \qquad l = \mathrm{decoder}(z)

    In nats. It does not know the order of the levels, and learns it from the data. The mean is sum_v v P(v).

    Args:
        decoder: z (*, D) -> logits l (*, L, *x_shape).
        num_levels: L.

    Raises:
        ValueError: fewer than two levels.
        DataError: from `check`, for values that are not levels.

    Reference:
        Section 3.4 of van den Oord, Kalchbrenner & Kavukcuoglu, "Pixel Recurrent Neural Networks", ICML 2016.
        https://arxiv.org/abs/1601.06759

    Example:
        >>> from pyro_vae.model.networks import MLP
        >>> decoder = MLP((20,), Categorical.decoder_shape((1, 8, 8), num_levels=17))
        >>> Categorical(decoder, num_levels=17)(torch.zeros(5, 20)).mean.shape
        torch.Size([5, 1, 8, 8])
    """

    support: constraints.Constraint = constraints.nonnegative_integer
    advice = DiscretizedLogistic.advice

    def __init__(self, decoder: Callable[..., Tensor], num_levels: int = 256) -> None:
        super().__init__(decoder)
        self.num_levels, self.support = num_levels, _levels(num_levels)

    @staticmethod
    def decoder_shape(x_shape: Sequence[int], num_levels: int = 256) -> tuple[int, ...]:
        return (num_levels, *x_shape)

    def forward(self, z: Tensor, y: Tensor | None = None) -> dist.Distribution:
        logits = self.decode_parts(z, y, self.num_levels).movedim(0, -1)
        return over_pixels(distributions.GreyLevels(logits), z, y)

    def start(self, x: Tensor) -> Tensor:
        # The frequency of each level at each pixel, with one more datum that is spread evenly over the levels.
        observed = ~x.isnan()
        pixels = torch.arange(x[0].numel(), device=x.device) * self.num_levels
        size = x[0].numel() * self.num_levels
        counts = x.new_full((size,), 1 / self.num_levels)
        for block, seen in zip(x.split(1000), observed.split(1000), strict=True):
            places = block.nan_to_num(0.0).flatten(1).long() + pixels
            counts += torch.bincount(places[seen.flatten(1)], minlength=size)
        frequencies = counts.reshape(*x.shape[1:], self.num_levels) / (observed.sum(0) + 1).unsqueeze(-1)
        return frequencies.movedim(-1, 0).log()


def _levels(num_levels: int) -> constraints.Constraint:
    if num_levels < 2:
        raise ValueError(f"num_levels is the number of grey levels and must be at least 2; got {num_levels}")
    return constraints.integer_interval(0, num_levels - 1)
