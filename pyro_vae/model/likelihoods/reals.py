"""Likelihoods of real numbers."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_vae.model import distributions
from pyro_vae.model.distributions.missing import MaskedLowRankNormal
from pyro_vae.model.likelihoods.likelihood import Likelihood, leading_dims, over_pixels
from pyro_vae.model.likelihoods.scales import (
    Learned,
    LocationScale,
    above,
    check_shape,
    in_own_units,
    known_mode,
    mean_seen,
    needed_shape,
    positive,
    raw_for,
)
from pyro_vae.model.scaling import ColumnScale


class Normal(LocationScale):
    r"""Independent normal pixels, whose sigma is fixed, learned, or predicted from z.

    .. math:: \log p(x|z) = -\sum_i \left[ \frac{(x_i - m_i)^2}{2 \sigma_i^2}
              + \frac{1}{2} \log(2 \pi \sigma_i^2) \right], \qquad m = \mathrm{decoder}(z)

    In nats. With sigma fixed, `weight * squared error + KL` is this likelihood with sigma^2 = 1 / (2 weight): the sum
    of squared errors (SSE) has sigma^2 = 1/2, and the mean squared error (MSE) has sigma^2 = d/2. They differ by more
    than a multiplicative constant, since the KL does not change with them. The constant -d/2 log(2 pi sigma^2) does not
    move the optimum while sigma is fixed. But it belongs in every reported log p(x), and without it a learned sigma
    would grow without limit.

    Beware of sigma = 1 on pixels in [0, 1]: a latent dimension pays off only if the data vary by more than sigma^2
    along it. On such data hardly any direction does, so nearly all latents collapse onto the prior. Learning sigma
    chooses that weight by maximum likelihood; its optimum is the root mean squared error.

    If sigma is learned, a pixel that never changes drives its sigma to 0, and the density of 8-bit data grows without
    limit: dequantise the data (`dequantize`), and report the floor with the number.

    Columns of a table come in units of any size. With a `column_scale`, with centre c and spread s, the decoder,
    `scale` and `scale_floor` refer to columns in units of their spread, and x stays as it is:

    .. math:: x_i \sim N(c_i + s_i m_i, \; s_i^2 \sigma_i^2)

    A good start for a learned sigma is then 1, its value under a decoder that ignores z.

    Args:
        decoder: z (*, D) -> means (*, *x_shape), or means and raw scales (*, 2, *x_shape) for "predicted".
        scale: sigma, or the start of a learned sigma.
        learn_scale: "no", sigma is fixed; "one", one learned number; "pixel", a learned number for each pixel;
            "predicted", from z by the decoder.
        scale_floor: smallest sigma that is not fixed: sigma = scale_floor + exp(raw).
        x_shape: shape of one datum, needed for "pixel".
        column_scale: units of the columns, see `pyro_vae.scaling`; None leaves them as they are.

    Raises:
        ValueError: learn_scale is unknown, a learned scale would start below its floor, or "pixel" has no x_shape.
        DataError: from `check`, for values that are not finite.

    Reference:
        Rybkin, Daniilidis & Levine, "Simple and Effective VAE Training with Calibrated Decoders", ICML 2021.
        https://arxiv.org/abs/2006.13202

    Example:
        >>> from pyro_vae.model.networks import MLP
        >>> Normal(MLP((20,), (1, 8, 8)), scale=0.1)(torch.zeros(5, 20)).event_shape
        torch.Size([1, 8, 8])
        >>> decoder = MLP((20,), Normal.decoder_shape((1, 8, 8), learn_scale="predicted"))
        >>> Normal(decoder, learn_scale="predicted").scales()
        {'sigma': 'predicted from z', 'floor': 0.001}
    """

    advice = "Remove such data."

    def forward(self, z: Tensor, y: Tensor | None = None) -> dist.Distribution:
        return over_pixels(dist.Normal(*self.location_and_scale(z, y)), z, y)


class Laplace(LocationScale):
    r"""Independent Laplace pixels: absolute errors, with b in place of the sigma of `Normal`.

    .. math:: \log p(x|z) = -\sum_i \left[ \frac{|x_i - m_i|}{b_i} + \log(2 b_i) \right], \qquad m = \mathrm{decoder}(z)

    In nats. `weight * sum of absolute errors + KL` is this likelihood with b = 1 / weight, and the optimum of a learned
    b is the mean absolute error. The standard deviation is b sqrt(2). Dequantise 8-bit data (`dequantize`) if b is
    learned, as for `Normal`.

    Args:
        decoder: z (*, D) -> locations (*, *x_shape), or locations and raw scales (*, 2, *x_shape) for "predicted".
        scale: b, or the start of a learned b.
        learn_scale: "no", "one", "pixel" or "predicted", as for `Normal`.
        scale_floor: smallest b that is not fixed: b = scale_floor + exp(raw).
        x_shape: shape of one datum, needed for "pixel".
        column_scale: units of the columns, as for `Normal`: location c + s m and b times s.

    Raises:
        ValueError, DataError: as for `Normal`.

    Example:
        >>> from pyro_vae.model.networks import MLP
        >>> Laplace(MLP((20,), (1, 8, 8)), learn_scale="pixel", x_shape=(1, 8, 8)).learned_scale().shape
        torch.Size([1, 8, 8])
    """

    advice = Normal.advice
    symbol = "b"

    def forward(self, z: Tensor, y: Tensor | None = None) -> dist.Distribution:
        return over_pixels(dist.Laplace(*self.location_and_scale(z, y)), z, y)


class LowRankNormal(Likelihood):
    r"""A normal whose pixels have correlated errors, along the columns of W: mean, sigma and W all come from z.

    .. math:: \log p(x|z) = -\frac{1}{2} (x - m)' \Sigma^{-1} (x - m) - \frac{1}{2} \log |\Sigma|
              - \frac{d}{2} \log(2 \pi), \qquad \Sigma = W W' + \mathrm{diag} \, \sigma^2

    In nats. Sigma depends on z and on the weights, so both the Mahalanobis term and the log-determinant count: without
    -1/2 log|Sigma| the loss would be smallest for Sigma -> infinity (teaching material that writes "log p proportional
    to the Mahalanobis distance" drops it).

    Dequantise 8-bit data (`dequantize`): as for `Normal`, a pixel that never changes drives its sigma to the floor.

    Args:
        decoder: z (*, D) -> (*, 2 + rank, *x_shape): means m, raw sigmas and the columns of W.
        rank: number of columns of W.
        scale: the start of sigma; W starts around 0.
        scale_floor: smallest sigma = scale_floor + exp(raw).
        column_scale: units of the columns, as for `Normal`: mean c + s m, and sigma and the rows of W times s.

    Raises:
        ValueError: the rank is below 1, or the scale would start below its floor.
        DataError: from `check`, for values that are not finite.

    Example:
        >>> from pyro_vae.model.networks import MLP
        >>> decoder = MLP((20,), LowRankNormal.decoder_shape((1, 8, 8), rank=3))
        >>> LowRankNormal(decoder, rank=3)(torch.zeros(5, 20)).event_shape
        torch.Size([1, 8, 8])
    """

    advice = Normal.advice

    def __init__(
        self,
        decoder: Callable[..., Tensor],
        rank: int = 2,
        scale: float = 0.1,
        scale_floor: float = 1e-3,
        column_scale: ColumnScale | None = None,
    ) -> None:
        super().__init__(decoder)
        if rank < 1:
            raise ValueError(f'rank must be at least 1; got {rank}. Without W this is Normal(learn_scale="predicted")')
        self.rank, self.scale_floor, self.column_scale = rank, scale_floor, column_scale
        self.start_raw = raw_for("scale", scale, scale_floor)

    @staticmethod
    def decoder_shape(x_shape: Sequence[int], rank: int = 2) -> tuple[int, ...]:
        return (2 + rank, *x_shape)

    def forward(self, z: Tensor, y: Tensor | None = None) -> dist.Distribution:
        parts = self.decode_parts(z, y, 2 + self.rank)
        first = 1 + leading_dims(z, y)
        loc, raw, *columns = parts
        sigma = above(self.scale_floor, raw)
        if self.column_scale is not None:
            loc, spread = self.column_scale.undo(loc), self.column_scale.spread
            sigma, columns = spread * sigma, [spread * column for column in columns]
        flat = first - 1
        factor = torch.stack([column.flatten(flat) for column in columns], -1)
        return distributions.LowRankNormal(loc.flatten(flat), factor, sigma.flatten(flat).square(), parts.shape[first:])

    def observed_part(self, p: Any, mask: Tensor) -> Any:
        return MaskedLowRankNormal(p, mask)

    def start(self, x: Tensor) -> Tensor:
        mean = mean_seen(x, self.column_scale)
        return torch.stack([mean, torch.full_like(mean, self.start_raw), *[torch.zeros_like(mean)] * self.rank])

    def scales(self) -> dict[str, Any]:
        predicted = {"sigma": "predicted from z", "floor": self.scale_floor, "rank": self.rank}
        return in_own_units(predicted, self.column_scale)


class ExponentialNorm(Likelihood):
    r"""The likelihood whose minus log is rate * RMSE, up to its constant.

    .. math:: \log p(x|z) = -\mathrm{rate} \, \mathrm{RMSE} + d \log \frac{\mathrm{rate}}{\sqrt{d}}
              - \log \frac{2 \pi^{d/2}}{\Gamma(d/2)} - \log \Gamma(d), \qquad
              \mathrm{RMSE} = \frac{|x - m|_2}{\sqrt{d}}, \quad m = \mathrm{decoder}(z)

    In nats. So while the rate is fixed, `rate * RMSE + KL` is minus an ELBO up to a constant. With the constant, the
    rate can be learned by maximum likelihood instead of tuned. Its optimum is rate = d / mean RMSE, which is thousands
    on images. People try 1 or 10, and then nearly all latents collapse onto the prior.

    Dequantise 8-bit data (`dequantize`) if the rate is learned, as for `Normal`.

    Args:
        decoder: z (*, D) -> m (*, *x_shape).
        rate: weight of the RMSE, or the start of a learned rate.
        learn_scale: "no", the rate is fixed; "one", it is learned through the mean RMSE, rate = d / mean RMSE.
        scale_floor: smallest mean RMSE that can be learned: scale_floor + exp(raw).
        x_shape: shape of one datum, d numbers; needed for "one".

    Raises:
        ValueError: learn_scale is unknown, "one" has no x_shape, or the rate would start with a mean RMSE below the
            floor.
        DataError: from `check`, for values that are not finite.

    Example:
        >>> from pyro_vae.model.networks import MLP
        >>> ExponentialNorm(MLP((20,), (1, 8, 8)), rate=1000.0, x_shape=(1, 8, 8)).scales()
        {'rate': 1000.0, 'mean_rmse': 0.064}
    """

    advice = Normal.advice

    def __init__(
        self,
        decoder: Callable[..., Tensor],
        rate: float = 1000.0,
        learn_scale: str = "no",
        scale_floor: float = 1e-3,
        x_shape: Sequence[int] | None = None,
    ) -> None:
        super().__init__(decoder)
        self.rate, self.scale_floor = positive("rate", rate), positive("scale_floor", scale_floor)
        self.learn_scale = known_mode(self, learn_scale, ("no", "one"))
        self.x_shape = None if x_shape is None else tuple(x_shape)
        if learn_scale == "one":
            self.size = math.prod(needed_shape(self, x_shape, learn_scale))
            self.learned_rmse = Learned(f"d / rate = {self.size} / {rate:g}", self.size / rate, scale_floor)

    def forward(self, z: Tensor, y: Tensor | None = None) -> dist.Distribution:
        loc = self.decode(z, y)
        if self.x_shape is not None:
            check_shape(self, loc, leading_dims(z, y), self.x_shape)
        return distributions.ExponentialNorm(loc, self._rate(), event_dim=loc.dim() - leading_dims(z, y))

    def check_missing(self) -> None:
        raise ValueError(
            "ExponentialNorm puts all numbers of a datum into one norm, so the density of some of them has no closed "
            "form: with `missing=True` use `likelihood='normal'`, `likelihood='laplace'` or "
            "`likelihood='low_rank_normal'`"
        )

    @torch.no_grad()
    def scales(self) -> dict[str, Any]:
        rate = float(self._rate())
        rmse = {} if self.x_shape is None else {"mean_rmse": math.prod(self.x_shape) / rate}
        return {"rate": rate, **rmse, **(self.learned_rmse.how() if self.learn_scale == "one" else {})}

    def _rate(self) -> Tensor | float:
        return self.rate if self.learn_scale == "no" else self.size / self.learned_rmse()
