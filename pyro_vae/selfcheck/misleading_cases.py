"""Programs with known answers, on which an estimate can mislead without a warning.

    a spike       a mode of p(x, z) that is narrower than the spacing of any grid over the whole
    its prior     an aggregate posterior that is the prior, which N data in ten dimensions hardly show
    chosen data   data with a large k-hat by their own draws: a large weight makes both k-hat and the estimate large

`ladder.check` runs the estimators on these too.
"""

import math
from collections.abc import Iterator
from dataclasses import replace

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_vae import evaluation
from pyro_vae.model.likelihoods import Normal
from pyro_vae.model.posteriors import Posterior
from pyro_vae.model.priors import Prior, StandardNormal
from pyro_vae.model.vae import VAE
from pyro_vae.randomness import derive, generator
from pyro_vae.selfcheck.known_programs import LinearGaussian
from pyro_vae.selfcheck.verdicts import Row, judge_below, judge_each, judge_number

_SPIKED = 2  # latent numbers of the program with a spike
_NARROWED = 0.5


def spike(tolerance: float) -> Iterator[Row]:
    """Yields quadrature where a prior has half of its mass in a spike.

    Args:
        tolerance: how far from the truth log p(x) of a datum may lie, in nats.
    """
    for width in (1e-2, 1e-3):
        prior = SpikedNormal(_SPIKED, at=6.0, width=width)
        vae = VAE(prior, _AboutData(nn.Identity(), _SPIKED, 1.0, 0.7), Normal(_Unchanged(), scale=1.0)).double()
        x = torch.tensor([[6.0, 6.0], [5.0, 6.5], [0.5, -1.0]], dtype=torch.float64)
        name = f"quadrature, a spike of width {width:g}"
        yield judge_each("a spike, D = 2", name, evaluation.quadrature(vae, x).value, prior.log_evidence(x), tolerance)


def meets_its_prior(num_data: int, seed: int) -> Iterator[Row]:
    """Yields the ends of two measures of an aggregate posterior that are 0: q(z|x) = N(0.8 x, 0.36 I), x ~ N(0, I_10).

    Args:
        num_data: N.
        seed: the seed of data and draws.
    """
    rung, D = "an aggregate posterior that is the prior, D = 10", 10
    vae = VAE(StandardNormal(D), _AboutData(nn.Identity(), D, 0.8, 0.6), Normal(_Unchanged(), scale=1.0)).double()
    x, zero = torch.randn(num_data, D, generator=generator(seed, rung), dtype=torch.float64), torch.zeros(num_data)
    for measure in (evaluation.marginal_kl, evaluation.total_correlation):
        ends = measure(vae, x, 4, seed=derive(seed, rung))
        yield judge_below(rung, f"{ends.name}, leave-one-out", ends.leave_one_out.value, zero)
        yield judge_below(rung, f"-{ends.name}, plug-in", -ends.value, zero)
        row = Row(rung, f"{ends.name}, told from 0", 0.0, float(ends.is_above_zero))
        yield (
            replace(row, faults=("it is found to differ from 0, which is its true value",))
            if ends.is_above_zero
            else row
        )


def chosen(num_data: int, seed: int) -> Iterator[Row]:
    """Yields what `escalate` reports for data that were chosen by their draws, under a guide that is too narrow.

    All data have the same distribution of weights, so the average over many sets of K shows what K draws miss.

    Args:
        num_data: N.
        seed: the seed of data and draws.
    """
    rung, K = "data chosen by their draws, D = 2", 100
    truth = LinearGaussian(2, seed=seed)
    x, vae = truth.sample(num_data, seed), VAE(StandardNormal(2), _Narrow(truth), truth.likelihood()).double()
    taken = evaluation.escalate(
        vae, x, num_samples=K, num_temperatures=20, num_chains=8, budget=10**9, seed=derive(seed, rung)
    )
    answers = torch.tensor([row.answer.value for row in taken.rows], dtype=torch.float64)
    exact, share = truth.log_evidence(x[[row.datum for row in taken.rows]]), len(taken.rows) / num_data
    yield judge_below(rung, "escalate, answers", answers, exact)
    # What K draws miss, minus what the answers miss themselves.
    missing, stated = -_narrow_bias(K, seed) * share, (answers - exact).mean().item() * share
    change, error = taken.mean_change, taken.mean_change_error
    yield judge_number(rung, "escalate, change of the mean", change, missing, stated, error)


def _narrow_bias(K: int, seed: int) -> float:
    """The bias of IWAE_K under the narrow guide, the mean over many sets of K draws."""
    u = torch.randn(2, K, 20_000, generator=generator(seed, "narrow"), dtype=torch.float64)
    log_ratio = 2 * math.log(_NARROWED) + u.square().sum(0) * (1 - _NARROWED**2) / 2
    return (log_ratio.logsumexp(0) - math.log(K)).mean().item()


class SpikedNormal(Prior):
    """The prior of a spike: 1/2 N(0, I) + 1/2 N(at, width^2 I).

    Args:
        latent_dim: D.
        at: each number of the spike's mean.
        width: its standard deviation.

    Example:
        >>> SpikedNormal(2, at=6.0, width=0.01)().event_shape
        torch.Size([2])
    """

    def __init__(self, latent_dim: int, at: float, width: float) -> None:
        super().__init__(latent_dim)
        self.at, self.width = at, width

    def forward(self, y: Tensor | None = None) -> dist.Distribution:
        means, widths = torch.stack([self.loc, self.loc + self.at]), torch.stack([self.scale, self.scale * self.width])
        return dist.MixtureSameFamily(
            dist.Categorical(logits=self.loc.new_zeros(2)), dist.Normal(means, widths).to_event(1)
        )

    def log_evidence(self, x: Tensor) -> Tensor:
        """Computes log p(x), (N,), of x (N, D) under N(z, I)."""
        wide = dist.Normal(0.0, 2**0.5).log_prob(x).sum(-1)
        narrow = dist.Normal(self.at, (1 + self.width**2) ** 0.5).log_prob(x).sum(-1)
        return torch.logaddexp(wide, narrow) - torch.tensor(2.0, dtype=x.dtype).log()


class _AboutData(Posterior):
    """q(z|x) = N(shrink x, width^2 I)."""

    def __init__(self, encoder: nn.Module, latent_dim: int, shrink: float, width: float) -> None:
        super().__init__(encoder, latent_dim)
        self.shrink, self.width = shrink, width

    def forward(self, x: Tensor, y: Tensor | None = None) -> dist.Distribution:
        return dist.Normal(self.shrink * x, self.width).to_event(1)


class _Narrow(Posterior):
    """The exact posterior of a linear-Gaussian program, with half of its standard deviation."""

    def __init__(self, truth: LinearGaussian) -> None:
        super().__init__(nn.Identity(), truth.latent_dim)
        self.truth = truth

    def forward(self, x: Tensor, y: Tensor | None = None) -> dist.Distribution:
        return dist.MultivariateNormal(self.truth.posterior_mean(x), scale_tril=_NARROWED * self.truth.root)


class _Unchanged(nn.Module):
    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        return z
