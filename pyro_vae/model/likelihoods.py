"""Likelihoods p(x|z): modules whose `forward` returns a Pyro distribution, the decoder's half of the model.

    likelihood(z, y=None) -> p(x | z)     batch_shape (*),     event_shape x_shape     for z of shape (*, D)

    data                         likelihoods                                            log p(x|z) is of a
    0 and 1                      Bernoulli                                              probability
    [0, 1]                       ContinuousBernoulli                                    density
    real numbers                 Normal, LowRankNormal, Laplace, ExponentialNorm        density
    levels 0..L-1                DiscretizedLogistic, Categorical                       probability
    counts 0, 1, 2, ...          Poisson, NegativeBinomial                              probability

Densities compare with densities, probabilities with probabilities. Grey levels are 8-bit integers: under a density with
a learned scale log p(x) grows without limit where a pixel takes the same value in all data, so dequantise them
(`--dequantize`: uniform noise within a level), and count the Jacobian; the floor of each learned scale is in `scales`.

To add a member:

- subclass `Likelihood`, say in `decoder_shape` how many numbers it needs, and return a distribution from `forward`;
- build it from `self.decode(z, y)`, which calls the decoder; several numbers a pixel stand in a leading axis,
  `(2, *x_shape)`, and `self.decode_parts(z, y, 2)` takes them apart;
- set `support` to the constraint on one pixel, and `advice` to what a user with other data should do;
- say in `start` which decoder output has the mean of the training data as its mean, and in `scales` what its scales
  are.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn
from torch.nn.functional import softplus

from pyro_vae.errors import DataError
from pyro_vae.model import distributions

# Rates and means stay above it: softplus underflows to 0, where log p of a count is minus infinity.
_SMALLEST_MEAN = 1e-6
# exp(raw) is continued along its tangent from here on: no overflow, and a gradient that never dies.
_LARGEST_EXPONENT = 20.0


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
        """Event shape of what the decoder must return; one number a pixel unless a member says otherwise.

        A member takes the constructor arguments that it depends on by their names and with their defaults.
        """
        return tuple(x_shape)

    def decode(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """The decoder's output (*, *decoder_shape) at z (*, D)."""
        return self.decoder(z) if y is None else self.decoder(z, y)

    def decode_parts(self, z: Tensor, y: Tensor | None, count: int) -> Tensor:
        """The decoder's output (*, count, *x_shape), its axis of several numbers a pixel moved to the front.

        Raises:
            ValueError: the decoder's output has no such axis.
        """
        output, axis = self.decode(z, y), z.dim() - 1
        if output.dim() <= axis or output.shape[axis] != count:
            raise ValueError(
                f"{type(self).__name__} needs a decoder whose output has shape (*, {count}, *x_shape), {count} numbers "
                f"a pixel; got {tuple(output.shape)} for z {tuple(z.shape)}: build it with decoder_shape()"
            )
        return output.movedim(axis, 0)

    def forward(self, z: Tensor, y: Tensor | None = None) -> dist.Distribution:
        """p(x|z), or p(x|z, y) for labels y (B, C)."""
        raise NotImplementedError(f"{type(self).__name__} has no forward()")

    def scales(self) -> dict[str, Any]:
        """What each scale of this likelihood is, and its floor, as plain numbers and words; read by reports."""
        return {}

    def start(self, x: Tensor) -> Tensor:
        """The decoder output, of shape `decoder_shape`, under which x has the mean of the data x (N, *x_shape)."""
        return x.mean(0)

    @torch.no_grad()
    def start_at(self, x: Tensor) -> None:
        """Sets the decoder's output bias so that training starts at the mean of the data x (N, *x_shape).

        For data that are binarised anew in each epoch, pass the grey levels: they are the mean of the draws.

        Raises:
            ValueError: the decoder has no `output_bias` of the right shape.
        """
        wanted = self.start(x)
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
    advice = (
        "Binarise the data (--binarize dynamic), or use a likelihood for grey levels "
        "(--likelihood continuous_bernoulli, or --likelihood normal)."
    )

    def forward(self, z: Tensor, y: Tensor | None = None) -> dist.Distribution:
        return _over_pixels(dist.Bernoulli(logits=self.decode(z, y)), z)

    def start(self, x: Tensor) -> Tensor:
        return torch.logit(_mean_with_one_more(x, 0.5))


class ContinuousBernoulli(Likelihood):
    """p(x|z) = prod_i exp(l_i x_i - A(l_i)) on [0, 1], for grey pixels as numbers.

        log p(x|z) = sum_i l_i x_i - A(l_i),   A(l) = log((e^l - 1) / l),   l = decoder(z)   nats

    The binary cross-entropy of grey pixels with the normaliser that it lacks. Loaiza-Ganem & Cunningham, "The
    continuous Bernoulli: fixing a pervasive error in variational autoencoders", NeurIPS 2019.

    It has no scale apart from its logits, and hence no floor: at a pixel that is 0 in all data the density |l| grows
    without limit. Dequantise 8-bit data (`--dequantize`), whose means then keep half a level away from the ends.

    Args:
        decoder: z (*, D) -> logits l (*, *x_shape).

    Errors: `DataError` from `check` for pixels outside [0, 1].

    Example:
        >>> from pyro_vae.model.networks import MLP
        >>> p = ContinuousBernoulli(MLP((20,), (1, 8, 8)))(torch.zeros(5, 20))
        >>> p.event_shape
        torch.Size([1, 8, 8])
    """

    support = constraints.unit_interval
    advice = "Scale the data to [0, 1], or use a density of all real numbers (--likelihood normal)."

    def forward(self, z: Tensor, y: Tensor | None = None) -> dist.Distribution:
        return _over_pixels(distributions.ContinuousBernoulli(self.decode(z, y)), z)

    def start(self, x: Tensor) -> Tensor:
        # Half a grey level from the ends: logits of thousands, as a black pixel asks for, would not come back.
        return distributions.continuous_bernoulli_logits(x.mean(0).clamp(1 / 512, 511 / 512))


class _LocationScale(Likelihood):
    """Base class of members with one location a pixel and a scale that is fixed, learned or predicted from z.

    A scale that is not fixed is scale_floor + exp(raw).
    """

    symbol = "sigma"

    def __init__(
        self,
        decoder: Callable[..., Tensor],
        scale: float = 0.1,
        learn_scale: str = "no",
        scale_floor: float = 1e-3,
        x_shape: Sequence[int] | None = None,
    ) -> None:
        super().__init__(decoder)
        # A number, not a buffer: a float32 buffer would stay rounded after .double().
        self.scale, self.scale_floor = _positive("scale", scale), _positive("scale_floor", scale_floor)
        self.learn_scale = _known_mode(self, learn_scale, ("no", "one", "pixel", "predicted"))
        if learn_scale == "one":
            self.learned_scale = _Learned("scale", scale, scale_floor)
        elif learn_scale == "pixel":
            self.learned_scale = _Learned("scale", scale, scale_floor, _needed_shape(self, x_shape, learn_scale))
        elif learn_scale == "predicted":
            self.start_raw = _raw("scale", scale, scale_floor)

    @staticmethod
    def decoder_shape(x_shape: Sequence[int], learn_scale: str = "no") -> tuple[int, ...]:
        return (2, *x_shape) if learn_scale == "predicted" else tuple(x_shape)

    def location_and_scale(self, z: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor | float]:
        """Location (*, *x_shape) and scale, which broadcasts to it."""
        if self.learn_scale == "predicted":
            loc, raw = self.decode_parts(z, y, 2)
            return loc, _above(self.scale_floor, raw)
        loc = self.decode(z, y)
        if self.learn_scale == "no":
            return loc, self.scale
        scale = self.learned_scale()
        if scale.dim():
            _check_shape(self, loc, z, scale.shape)
        return loc, scale

    def start(self, x: Tensor) -> Tensor:
        mean = self.start_location(x)
        return torch.stack([mean, torch.full_like(mean, self.start_raw)]) if self.learn_scale == "predicted" else mean

    def start_location(self, x: Tensor) -> Tensor:
        """The location (x_shape) under which x has the mean of the data x (N, *x_shape)."""
        return x.mean(0)

    def scales(self) -> dict[str, Any]:
        if self.learn_scale == "no":
            return {self.symbol: self.scale}
        if self.learn_scale == "predicted":
            return {self.symbol: "predicted from z", "floor": self.scale_floor}
        return {self.symbol: self.learned_scale.summary(), **self.learned_scale.how()}


class Normal(_LocationScale):
    """p(x|z) = N(x; m, diag sigma^2), m = decoder(z); sigma fixed, learned, or predicted from z too.

        log p(x|z) = sum_i -(x_i - m_i)^2 / (2 sigma_i^2) - 1/2 log(2 pi sigma_i^2)   nats

    With sigma fixed, `weight * squared error + KL` is this likelihood with sigma^2 = 1 / (2 weight): the sum of squared
    errors (SSE) is sigma^2 = 1/2, the mean squared error (MSE) is sigma^2 = d/2. They differ by more than a
    multiplicative constant, since the KL does not change with them. The constant -d/2 log(2 pi sigma^2) does not move
    the optimum while sigma is fixed, but belongs into every reported log p(x); and without it a learned sigma would
    grow without limit.

    Beware of sigma = 1 on pixels in [0, 1]: a latent dimension pays only where the data vary by more than sigma^2 along
    it, and on such data hardly any direction does, so that nearly all latents collapse onto the prior. To learn sigma
    is to choose that weight by maximum likelihood; its optimum is the root mean squared error. Rybkin, Daniilidis &
    Levine, "Simple and effective VAE training with calibrated decoders", ICML 2021.

    Where sigma is learned the density of 8-bit pixels grows without limit as a pixel that never changes drives its
    sigma to 0: dequantise the data (`--dequantize`), and report the floor beside the number.

    Args:
        decoder: z (*, D) -> means (*, *x_shape), or means and raw scales (*, 2, *x_shape) for "predicted".
        scale: sigma, or where a learned sigma starts.
        learn_scale: "no", sigma is fixed; "one", one learned number; "pixel", a learned number for each pixel;
            "predicted", from z by the decoder.
        scale_floor: smallest sigma that is not fixed: sigma = scale_floor + exp(raw).
        x_shape: shape of one datum, needed for "pixel".

    Errors: `ValueError` for an unknown learn_scale, a learned scale that would start below its floor, "pixel" without
    x_shape; `DataError` from `check` for values that are not finite.

    Example:
        >>> from pyro_vae.model.networks import MLP
        >>> Normal(MLP((20,), (1, 8, 8)), scale=0.1)(torch.zeros(5, 20)).event_shape
        torch.Size([1, 8, 8])
        >>> decoder = MLP((20,), Normal.decoder_shape((1, 8, 8), learn_scale="predicted"))
        >>> Normal(decoder, learn_scale="predicted").scales()
        {'sigma': 'predicted from z', 'floor': 0.001}
    """

    advice = "Remove such data, or replace the missing values."

    def forward(self, z: Tensor, y: Tensor | None = None) -> dist.Distribution:
        return _over_pixels(dist.Normal(*self.location_and_scale(z, y)), z)


class Laplace(_LocationScale):
    """p(x|z) = prod_i Laplace(x_i; m_i, b_i), m = decoder(z): absolute errors; b as sigma of `Normal`.

        log p(x|z) = sum_i -|x_i - m_i| / b_i - log(2 b_i)   nats

    `weight * sum of absolute errors + KL` is this likelihood with b = 1 / weight, and the optimum of a learned b is the
    mean absolute error. The standard deviation is b sqrt(2). Dequantise 8-bit data (`--dequantize`) where b is learned,
    as for `Normal`.

    Args:
        decoder: z (*, D) -> locations (*, *x_shape), or locations and raw scales (*, 2, *x_shape) for "predicted".
        scale: b, or where a learned b starts.
        learn_scale: "no", "one", "pixel" or "predicted", as for `Normal`.
        scale_floor: smallest b that is not fixed: b = scale_floor + exp(raw).
        x_shape: shape of one datum, needed for "pixel".

    Errors: as for `Normal`.

    Example:
        >>> from pyro_vae.model.networks import MLP
        >>> Laplace(MLP((20,), (1, 8, 8)), learn_scale="pixel", x_shape=(1, 8, 8)).learned_scale().shape
        torch.Size([1, 8, 8])
    """

    advice = "Remove such data, or replace the missing values."
    symbol = "b"

    def forward(self, z: Tensor, y: Tensor | None = None) -> dist.Distribution:
        return _over_pixels(dist.Laplace(*self.location_and_scale(z, y)), z)


class DiscretizedLogistic(_LocationScale):
    """p(x|z) over grey levels 0..L-1: a logistic of location (L-1) m and scale (L-1) s, rounded to the nearest level.

        log p(x|z) = sum_i log(sigmoid(b_i) - sigmoid(a_i)),   m = decoder(z)   nats
        a_i = (x_i - 1/2 - (L-1) m_i) / ((L-1) s_i),   b_i = a_i + 1 / ((L-1) s_i)

    and the end levels take the tails. Decoder and scale are in units of the full range, as for a density on [0, 1];
    the data are the levels themselves. These are probabilities, which no constant pixel drives above 1: there is
    nothing to dequantise. Kingma et al., "Improved variational inference with inverse autoregressive flow", NeurIPS
    2016; Salimans et al., "PixelCNN++", ICLR 2017.

    Args:
        decoder: z (*, D) -> locations m (*, *x_shape), or m and raw scales (*, 2, *x_shape) for "predicted".
        num_levels: L.
        scale: s, or where a learned s starts.
        learn_scale: "no", "one", "pixel" or "predicted", as for `Normal`.
        scale_floor: smallest s that is not fixed: s = scale_floor + exp(raw).
        x_shape: shape of one datum, needed for "pixel".

    Errors: as for `Normal`, and `ValueError` for fewer than two levels; `DataError` from `check` for values that are
    not levels.

    Example:
        >>> from pyro_vae.model.networks import MLP
        >>> p = DiscretizedLogistic(MLP((20,), (1, 8, 8)), num_levels=17)(torch.zeros(5, 20))
        >>> p.sample().unique().max() <= 16
        tensor(True)
    """

    support: constraints.Constraint = constraints.nonnegative_integer
    advice = (
        "It takes the levels themselves (num_levels of them): leave --dequantize out, "
        "or use a density (--dequantize --likelihood normal)."
    )
    symbol = "s"

    def __init__(
        self,
        decoder: Callable[..., Tensor],
        num_levels: int = 256,
        scale: float = 0.1,
        learn_scale: str = "no",
        scale_floor: float = 1e-3,
        x_shape: Sequence[int] | None = None,
    ) -> None:
        super().__init__(decoder, scale, learn_scale, scale_floor, x_shape)
        self.num_levels, self.support = num_levels, _levels(num_levels)

    def forward(self, z: Tensor, y: Tensor | None = None) -> dist.Distribution:
        top = self.num_levels - 1
        loc, scale = self.location_and_scale(z, y)
        return _over_pixels(distributions.DiscretizedLogistic(top * loc, top * scale, self.num_levels), z)

    def start_location(self, x: Tensor) -> Tensor:
        top, scale = self.num_levels - 1, torch.tensor(self.scale, dtype=torch.float64)
        # The tails of the end levels pull the mean inwards; 40 scales beyond an end nothing else is left.
        return distributions.invert(
            lambda loc: distributions.DiscretizedLogistic(top * loc, top * scale, self.num_levels).mean,
            _mean_with_one_more(x, top / 2),
            -40 * scale,
            1 + 40 * scale,
        )

    def scales(self) -> dict[str, Any]:
        return {**super().scales(), "unit": f"full range, {self.num_levels - 1} levels"}


class LowRankNormal(Likelihood):
    """p(x|z) = N(x; m, Sigma), Sigma = W W' + diag(sigma^2): mean, sigma and the columns of W all from z.

        log p(x|z) = -1/2 (x - m)' Sigma^-1 (x - m) - 1/2 log|Sigma| - d/2 log(2 pi),   (m, sigma, W) = decoder(z)

    in nats. Pixels that err together do so along a column of W. As Sigma depends on z and on the weights, both the
    Mahalanobis term AND the log-determinant count: without -1/2 log|Sigma| the loss would be smallest for Sigma ->
    infinity (teaching material that writes "log p proportional to the Mahalanobis distance" drops it).

    Dequantise 8-bit data (`--dequantize`): as for `Normal`, a pixel that never changes drives its sigma to the floor.

    Args:
        decoder: z (*, D) -> (*, 2 + rank, *x_shape): means, raw sigmas and the columns of W.
        rank: number of columns of W.
        scale: where sigma starts; W starts around 0.
        scale_floor: smallest sigma = scale_floor + exp(raw).

    Errors: `ValueError` for a rank below 1, or a scale that would start below its floor; `DataError` from `check` for
    values that are not finite.

    Example:
        >>> from pyro_vae.model.networks import MLP
        >>> decoder = MLP((20,), LowRankNormal.decoder_shape((1, 8, 8), rank=3))
        >>> LowRankNormal(decoder, rank=3)(torch.zeros(5, 20)).event_shape
        torch.Size([1, 8, 8])
    """

    advice = Normal.advice

    def __init__(
        self, decoder: Callable[..., Tensor], rank: int = 2, scale: float = 0.1, scale_floor: float = 1e-3
    ) -> None:
        super().__init__(decoder)
        if rank < 1:
            raise ValueError(f'rank must be at least 1; got {rank}. Without W this is Normal(learn_scale="predicted")')
        self.rank, self.scale_floor = rank, scale_floor
        self.start_raw = _raw("scale", scale, scale_floor)

    @staticmethod
    def decoder_shape(x_shape: Sequence[int], rank: int = 2) -> tuple[int, ...]:
        return (2 + rank, *x_shape)

    def forward(self, z: Tensor, y: Tensor | None = None) -> dist.Distribution:
        parts = self.decode_parts(z, y, 2 + self.rank)
        loc, raw, *columns = parts.flatten(z.dim())
        variance = _above(self.scale_floor, raw).square()
        return distributions.LowRankNormal(loc, torch.stack(columns, -1), variance, parts.shape[z.dim() :])

    def start(self, x: Tensor) -> Tensor:
        mean = x.mean(0)
        return torch.stack([mean, torch.full_like(mean, self.start_raw), *[torch.zeros_like(mean)] * self.rank])

    def scales(self) -> dict[str, Any]:
        return {"sigma": "predicted from z", "floor": self.scale_floor, "rank": self.rank}


class ExponentialNorm(Likelihood):
    """p(x|z) proportional to exp(-rate * RMSE), RMSE = |x - m|_2 / sqrt(d), m = decoder(z): RMSE as a likelihood.

        log p(x|z) = -rate RMSE + d log(rate / sqrt(d)) - log(2 pi^(d/2) / Gamma(d/2)) - log Gamma(d)   nats

    So `rate * RMSE + KL` is minus an ELBO up to a constant, while the rate is fixed; and with the constant the rate can
    be learned by maximum likelihood instead of tuned. Its optimum is rate = d / mean RMSE: thousands on images, where
    people try 1 or 10, under which nearly all latents collapse onto the prior.

    Dequantise 8-bit data (`--dequantize`) where the rate is learned, as for `Normal`.

    Args:
        decoder: z (*, D) -> m (*, *x_shape).
        rate: weight of the RMSE, or where a learned rate starts.
        learn_scale: "no", the rate is fixed; "one", it is learned through the mean RMSE, rate = d / mean RMSE.
        scale_floor: smallest mean RMSE that can be learned: scale_floor + exp(raw).
        x_shape: shape of one datum, d numbers; needed for "one".

    Errors: `ValueError` for another learn_scale, "one" without x_shape, a rate that would start with a mean RMSE below
    the floor; `DataError` from `check` for values that are not finite.

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
        self.rate, self.scale_floor = _positive("rate", rate), _positive("scale_floor", scale_floor)
        self.learn_scale = _known_mode(self, learn_scale, ("no", "one"))
        self.x_shape = None if x_shape is None else tuple(x_shape)
        if learn_scale == "one":
            self.size = math.prod(_needed_shape(self, x_shape, learn_scale))
            self.learned_rmse = _Learned(f"d / rate = {self.size} / {rate:g}", self.size / rate, scale_floor)

    def forward(self, z: Tensor, y: Tensor | None = None) -> dist.Distribution:
        loc = self.decode(z, y)
        if self.x_shape is not None:
            _check_shape(self, loc, z, self.x_shape)
        return distributions.ExponentialNorm(loc, self._rate(), event_dim=loc.dim() - z.dim() + 1)

    @torch.no_grad()
    def scales(self) -> dict[str, Any]:
        rate = float(self._rate())
        rmse = {} if self.x_shape is None else {"mean_rmse": math.prod(self.x_shape) / rate}
        return {"rate": rate, **rmse, **(self.learned_rmse.how() if self.learn_scale == "one" else {})}

    def _rate(self) -> Tensor | float:
        return self.rate if self.learn_scale == "no" else self.size / self.learned_rmse()


class Categorical(Likelihood):
    """p(x|z) = prod_i softmax(decoder(z)_i) at the level x_i: any probabilities of the grey levels 0..L-1.

        log p(x|z) = sum_i l_i[x_i] - log sum_v exp l_i[v],   l = decoder(z)   nats

    It knows no order of the levels, and learns it from the data. The mean is that of the level, sum_v v P(v).
    van den Oord, Kalchbrenner & Kavukcuoglu, "Pixel recurrent neural networks", ICML 2016, section 3.4.

    Args:
        decoder: z (*, D) -> logits l (*, L, *x_shape).
        num_levels: L.

    Errors: `ValueError` for fewer than two levels; `DataError` from `check` for values that are not levels.

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
        return _over_pixels(distributions.GreyLevels(logits), z)

    def start(self, x: Tensor) -> Tensor:
        # The frequency of each level at each pixel, with one datum more that is spread evenly over the levels.
        pixels = torch.arange(x[0].numel(), device=x.device) * self.num_levels
        size = x[0].numel() * self.num_levels
        counts = x.new_full((size,), 1 / self.num_levels)
        for block in x.split(1000):
            counts += torch.bincount((block.flatten(1).long() + pixels).flatten(), minlength=size)
        frequencies = counts / (len(x) + 1)
        return frequencies.reshape(*x.shape[1:], self.num_levels).movedim(-1, 0).log()


class Poisson(Likelihood):
    """p(x|z) = prod_i Poisson(x_i; m_i), m = softplus(decoder(z)) + 1e-6, for counts.

        log p(x|z) = sum_i x_i log m_i - m_i - log x_i!   nats

    Mean and variance are the same; for counts that vary more see `NegativeBinomial`.

    Args:
        decoder: z (*, D) -> (*, *x_shape), of which softplus is the mean.

    Errors: `DataError` from `check` for values that are not counts.

    Example:
        >>> from pyro_vae.model.networks import MLP
        >>> Poisson(MLP((20,), (50,)))(torch.zeros(5, 20)).event_shape
        torch.Size([50])
    """

    support: constraints.Constraint = constraints.nonnegative_integer
    advice = "For measurements that are no counts use a density (--likelihood normal)."

    def forward(self, z: Tensor, y: Tensor | None = None) -> dist.Distribution:
        return _over_pixels(dist.Poisson(_mean_of_counts(self.decode(z, y))), z)

    def start(self, x: Tensor) -> Tensor:
        return _start_of_counts(x)


class NegativeBinomial(Likelihood):
    """p(x|z) = prod_i NB(x_i; mean m_i, total count r), m = softplus(decoder(z)) + 1e-6, for overdispersed counts.

        log p(x|z) = sum_i log Gamma(x_i + r) / (Gamma(r) x_i!) + r log(r / (r + m_i)) + x_i log(m_i / (r + m_i))   nats

    The variance is m + m^2 / r, with one learned r for all pixels; r -> infinity is the Poisson. Used so for counts of
    genes by Lopez et al., "Deep generative modeling for single-cell transcriptomics", Nature Methods 2018.

    Args:
        decoder: z (*, D) -> (*, *x_shape), of which softplus is the mean.
        total_count: where r starts; it stays above 1e-3.

    Errors: `ValueError` for a total_count that would start below its floor; `DataError` from `check` for values that
    are not counts.

    Example:
        >>> from pyro_vae.model.networks import MLP
        >>> NegativeBinomial(MLP((20,), (50,)))(torch.zeros(5, 20)).event_shape
        torch.Size([50])
    """

    support: constraints.Constraint = constraints.nonnegative_integer
    advice = Poisson.advice

    def __init__(self, decoder: Callable[..., Tensor], total_count: float = 10.0) -> None:
        super().__init__(decoder)
        self.total_count = _Learned("total_count", total_count, floor=1e-3)

    def forward(self, z: Tensor, y: Tensor | None = None) -> dist.Distribution:
        mean, total_count = _mean_of_counts(self.decode(z, y)), self.total_count()
        return _over_pixels(distributions.NegativeBinomial(total_count, logits=mean.log() - total_count.log()), z)

    def start(self, x: Tensor) -> Tensor:
        return _start_of_counts(x)

    def scales(self) -> dict[str, Any]:
        return {"total_count": self.total_count.summary(), **self.total_count.how()}


class _Learned(nn.Module):
    """Learned numbers above a floor, floor + exp(raw), one or one for each pixel.

    Args:
        name: what starts at `start`, for the message.
        start: the value before training.
        floor: the smallest value.
        shape: () for one number.
    """

    def __init__(self, name: str, start: float, floor: float, shape: Sequence[int] = ()) -> None:
        super().__init__()
        self.floor = floor
        self.raw = nn.Parameter(torch.full(tuple(shape), _raw(name, start, floor)))

    def forward(self) -> Tensor:
        return _above(self.floor, self.raw)

    def summary(self) -> float | dict[str, float]:
        """The number, or three that stand for many."""
        values = self().detach()
        if not values.dim():
            return values.item()
        return {"min": values.min().item(), "median": values.median().item(), "max": values.max().item()}

    def how(self) -> dict[str, Any]:
        """Floor and number of values, in words."""
        return {"floor": self.floor, "learned": "per pixel" if self.raw.dim() else "one number"}


def _above(floor: float, raw: Tensor) -> Tensor:
    excess = (raw - _LARGEST_EXPONENT).relu()
    return floor + (raw - excess).exp() * (1 + excess)


def _raw(name: str, value: float, floor: float) -> float:
    # The raw number that `_above` takes to the value.
    if not _positive("scale_floor", floor) < _positive(name, value):
        raise ValueError(f"{name} is where a learned scale starts and must be above its floor {floor:g}; got {value:g}")
    largest = math.exp(_LARGEST_EXPONENT)
    return math.log(min(value - floor, largest)) + max((value - floor) / largest - 1, 0.0)


def _positive(name: str, value: float) -> float:
    if not 0 < value < math.inf:
        raise ValueError(f"{name} must be a finite number above 0; got {value}")
    return float(value)


def _known_mode(member: Likelihood, learn_scale: str, modes: tuple[str, ...]) -> str:
    if learn_scale not in modes:
        raise ValueError(f"{type(member).__name__} takes learn_scale {', '.join(modes)}; got {learn_scale!r}")
    return learn_scale


def _needed_shape(member: Likelihood, x_shape: Sequence[int] | None, learn_scale: str) -> tuple[int, ...]:
    if x_shape is None:
        raise ValueError(
            f"{type(member).__name__} with learn_scale={learn_scale!r} must know the shape of one datum: "
            "pass it, e.g. x_shape=(1, 28, 28)"
        )
    return tuple(x_shape)


def _check_shape(member: Likelihood, loc: Tensor, z: Tensor, x_shape: Sequence[int]) -> None:
    if loc.shape[z.dim() - 1 :] != tuple(x_shape):
        raise ValueError(
            f"{type(member).__name__} was built for x_shape={tuple(x_shape)}; its decoder gives "
            f"{tuple(loc.shape[z.dim() - 1 :])}"
        )


def _levels(num_levels: int) -> constraints.Constraint:
    if num_levels < 2:
        raise ValueError(f"num_levels is the number of grey levels and must be at least 2; got {num_levels}")
    return constraints.integer_interval(0, num_levels - 1)


def _over_pixels(p: TorchDistributionMixin, z: Tensor) -> dist.Distribution:
    return p.to_event(len(p.batch_shape) - z.dim() + 1)


def _mean_with_one_more(x: Tensor, value: float) -> Tensor:
    # One datum more in the middle keeps a pixel that never changes at a finite start (Krichevsky & Trofimov 1981).
    return (x.sum(0) + value) / (len(x) + 1)


def _mean_of_counts(output: Tensor) -> Tensor:
    return softplus(output) + _SMALLEST_MEAN


def _start_of_counts(x: Tensor) -> Tensor:
    # Half a count more keeps a pixel without counts at a finite start; then the inverse of softplus.
    mean = x.mean(0) + 0.5 / len(x)
    return mean + torch.log(-torch.expm1(-mean))


def _describe(support: constraints.Constraint) -> str:
    if isinstance(support, constraints.integer_interval):
        return f"to be a whole number from {support.lower_bound} to {support.upper_bound}"
    known = {
        constraints.boolean: "in {0, 1}",
        constraints.unit_interval: "in [0, 1]",
        constraints.real: "to be finite",
        constraints.nonnegative_integer: "to be a whole number, 0 or more",
        constraints.positive: "above 0",
    }
    return known.get(support, f"in the support {support}")
