"""How a program uses its latent dimensions, site by site: which are active, and where the KL goes.

Every site that is not observed is a latent; names play no part. In a program with several latent sites, each site is
considered given the drawn values of the sites before it. The aggregate posterior q(z) is in `aggregate.py`.
"""

import math
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Independent, kl_divergence

from pyro_vae.evaluation.estimators import Estimate, elbo_terms, known, mean_and_error
from pyro_vae.evaluation.weights import draw_blocks, draw_columns
from pyro_vae.model import traces
from pyro_vae.randomness import preserved


@dataclass(frozen=True)
class ActiveUnits:
    """The latent dimensions that vary with x, D numbers for each latent site. Printing it gives a line per site.

    Attributes:
        variance: A_j = Var_x(E_q[z_j|x]), over the data.
        variance_error: its standard error over the data, sqrt((m4 - A^2) / N) with the fourth central moment m4; it is
            unreliable for heavy tails.
        relative: A_j divided by the prior's variance in that dimension; NaN if that is not known or not finite.
        threshold: the variance above which a dimension is active.
        num_data: N.

    Example:
        >>> flat, full = torch.tensor([0.0]), torch.tensor([0.9])
        >>> print(ActiveUnits({"z": torch.cat([flat, full])}, {"z": torch.zeros(2)}, {"z": torch.ones(2)}, 0.01, 50))
        z: 1 of 2 dimensions active (variance over 50 data above 0.01), 2 relative to the prior's variance
    """

    variance: dict[str, Tensor]
    variance_error: dict[str, Tensor]
    relative: dict[str, Tensor]
    threshold: float
    num_data: int

    @property
    def active(self) -> dict[str, Tensor]:
        """Site -> (D,), True where A_j > threshold."""
        return {name: value > self.threshold for name, value in self.variance.items()}

    @property
    def count(self) -> dict[str, int]:
        """Site -> the number of active dimensions, as Burda et al. count them."""
        return {name: int(active.sum()) for name, active in self.active.items()}

    @property
    def relative_count(self) -> dict[str, int | None]:
        """Site -> the number of active dimensions by A_j divided by the prior's variance; None if that is not known.

        Rescaling z does not change it.
        """
        is_known = {name: not ratio.isnan().any() for name, ratio in self.relative.items()}
        return {n: int((ratio > self.threshold).sum()) if is_known[n] else None for n, ratio in self.relative.items()}

    def to_dict(self) -> dict[str, Any]:
        """Converts to plain numbers for a report, site by site."""
        return {
            site: {
                "count": self.count[site],
                "of": len(variance),
                "relative_count": self.relative_count[site],
                "threshold": self.threshold,
                "variance": variance.tolist(),
                "variance_error": self.variance_error[site].tolist(),
            }
            for site, variance in self.variance.items()
        }

    def __str__(self) -> str:
        return "\n".join(self._line(name) for name in self.variance)

    def _line(self, name: str) -> str:
        count, relative, D = self.count[name], self.relative_count[name], len(self.variance[name])
        line = f"{name}: {count} of {D} dimensions active (variance over {self.num_data} data above {self.threshold})"
        return line if relative is None else f"{line}, {relative} relative to the prior's variance"


def active_units(
    vae: Any,
    x: Tensor,
    y: Tensor | None = None,
    threshold: float = 0.01,
    *,
    num_samples: int = 100,
    seed: int | None = None,
) -> ActiveUnits:
    r"""Finds the active latent dimensions: those whose posterior mean varies with x by more than a threshold.

    .. math:: A_j = \mathrm{Var}_x \big( E_{q(z|x)}[z_j] \big)

    The prior of the paper has variance 1. If the prior learns its scale, A_j says nothing: halving z quarters it. So
    `relative` divides it by Var_p(z_j), which gives a number within [0, 1] if q(z) has the prior's variance. Var_p is
    the variance of the prior over the given data and draws, E[Var] + Var[E]; this matters only for a prior p(z|y) or
    p(z1|z2).

    This works for any program, site by site. For one latent site with a known mean, the E_q are exact and num_samples
    is not used. Otherwise (flows; a site that depends on another) they are means over K draws, and the variance of
    these means is subtracted. A_j is then unbiased, and can be below 0 for a dead dimension.

    Args:
        vae: anything with `.model` and `.guide` over one data plate.
        x: data (N, *x_shape), two or more.
        y: one-hot labels (N, C).
        threshold: the variance above which a dimension is active, 0.01 in the literature.
        num_samples: K, the draws if the means are sampled; two or more.
        seed: None continues the caller's random stream; an integer is reproducible and leaves that stream alone.

    Raises:
        DataError: data outside the support of the likelihood.
        ValueError: fewer than two data, or K below two where it is needed.

    Reference:
        Burda, Grosse & Salakhutdinov, "Importance Weighted Autoencoders", ICLR 2016, section 5.2.
        https://arxiv.org/abs/1509.00519

    Example:
        >>> import pyro_vae as pv
        >>> vae = pv.VAE(pv.priors.StandardNormal(2),
        ...              pv.posteriors.DiagonalNormal(pv.networks.MLP((4,), (4,)), 2),
        ...              pv.likelihoods.Bernoulli(pv.networks.MLP((2,), (4,))))
        >>> active_units(vae, torch.eye(4)).variance["z"].shape
        torch.Size([2])
    """
    if len(x) < 2:
        raise ValueError(f"a variance over the data needs two data or more; got {len(x)}")
    known = _means_are_known(vae, x, y)
    if not known and num_samples < 2:
        raise ValueError(f"the means of q(z|x) are sampled here, so num_samples must be 2 or more; got {num_samples}")
    sites: dict[str, list[Tensor]] = {}
    for _, blocks in draw_columns(vae, x, 1 if known else num_samples, y, seed, _read_means):
        for name in blocks[0]:
            sites.setdefault(name, []).append(_over_draws(torch.cat([block[name] for block in blocks], 1)))
    rows = {name: _over_data(torch.cat(blocks, 1).cpu()) for name, blocks in sites.items()}
    variance, error, relative = ({name: row[i] for name, row in rows.items()} for i in range(3))
    return ActiveUnits(variance, error, relative, threshold, len(x))


def _means_are_known(vae: Any, x: Tensor, y: Tensor | None) -> bool:
    def read(pair: traces.Traces) -> bool:
        means = [_moment(site, "mean") for site in traces.latent_sites(pair.guide).values()]
        return len(means) == 1 and means[0] is not None

    with preserved(x.device):
        return all(known for _, known in draw_blocks(vae, x[:1], 1, None if y is None else y[:1], None, read))


def _read_means(pair: traces.Traces) -> dict[str, Tensor]:
    """Site -> (3, k, b, D): E_q[z] or, if unknown, a draw; and the prior's mean and variance or, if unknown, NaN."""
    means = {}
    for name, site in traces.latent_sites(pair.guide).items():
        mean = _moment(site, "mean")
        values = [site["value"] if mean is None else mean]
        values += [_moment(pair.model.nodes[name], moment) for moment in ("mean", "variance")]
        unknown = torch.full_like(values[0], math.nan)
        means[name] = _as_vectors(torch.stack([unknown if v is None else v for v in values]).double(), 3)
    return means


def _moment(site: traces.Site, name: str) -> Tensor | None:
    try:
        return getattr(site["fn"], name)
    except (NotImplementedError, AttributeError):
        return None


def _over_draws(values: Tensor) -> Tensor:
    """(3, K, b, D) -> (4, b, D): mean over draws, its squared error; first and second moment of the prior."""
    mean, prior_mean, prior_variance = values
    noise = mean.var(0) / len(mean) if len(mean) > 1 else torch.zeros_like(mean[0])
    return torch.stack([mean.mean(0), noise, prior_mean.mean(0), (prior_variance + prior_mean.square()).mean(0)])


def _over_data(values: Tensor) -> Tensor:
    """(4, N, D) -> (3, D): the variance over the data, its standard error, and its ratio to the prior's variance."""
    mean, noise, first, second = values
    raw, variance = mean.var(0), mean.var(0) - noise.mean(0)
    fourth = (mean - mean.mean(0)).pow(4).mean(0)
    prior = second.mean(0) - first.mean(0).square()
    ratio = torch.where(prior.isfinite(), variance / prior, math.nan)
    return torch.stack([variance, ((fourth - raw.square()).clamp(min=0) / len(mean)).sqrt(), ratio])


@dataclass(frozen=True)
class KLPerDimension:
    """KL(q(z_j|x) || p(z_j)) of one latent site, for each datum and dimension, in nats.

    Attributes:
        value: (N, D), float64.
        value_error: (N, D), the Monte Carlo standard error of each value; NaN for K = 1, which has no spread.
        num_samples: K, the draws of z for each datum.
        kind: "analytic" or "sampled".

    Example:
        >>> kl = KLPerDimension(torch.tensor([[1.0, 0.0], [3.0, 0.0]]), torch.zeros(2, 2), 1, "analytic")
        >>> kl.mean, kl.standard_error
        (tensor([2., 0.]), tensor([1., 0.]))
    """

    value: Tensor
    value_error: Tensor
    num_samples: int
    kind: str

    @property
    def mean(self) -> Tensor:
        """The mean over the data, (D,)."""
        return self.value.mean(0)

    @property
    def standard_error(self) -> Tensor:
        """The standard error of the mean over the data, (D,); NaN for a single datum."""
        N = len(self.value)
        return self.value.std(0) / math.sqrt(N) if N > 1 else torch.full_like(self.value[0], math.nan)

    @property
    def monte_carlo_error(self) -> Tensor:
        """The Monte Carlo standard error of the mean, over repeated draws of z for the same data, (D,)."""
        return self.value_error.square().sum(0).sqrt() / len(self.value)

    def to_dict(self) -> dict[str, Any]:
        """Converts to plain numbers for a report, with None for an error that is unknown."""
        errors = [known(error) for error in self.standard_error.tolist()]
        return {"mean": self.mean.tolist(), "standard_error": errors, "kind": self.kind}


def kl_per_dimension(
    vae: Any, x: Tensor, num_samples: int, y: Tensor | None = None, seed: int | None = None
) -> dict[str, KLPerDimension | None]:
    """Estimates KL(q(z_j|x) || p(z_j)) of every latent dimension, datum by datum, in nats.

    The KL is analytic if one is registered, otherwise the mean of log q(z_j|x) - log p(z_j) over draws. The sum over
    dimensions equals the KL of the site in `elbo_terms`.

    Args:
        vae: anything with `.model` and `.guide` over one data plate.
        x: data (N, *x_shape).
        num_samples: K, the draws of z for each datum; one is enough for one site with an analytic KL.
        y: one-hot labels (N, C).
        seed: None continues the caller's random stream; an integer is reproducible and leaves that stream alone.

    Returns:
        Site -> its KL; None for a site whose q or p does not factorise over dimensions (full covariance, flows,
        mixtures of whole vectors), or is a point or masked.

    Raises:
        DataError: data outside the support of the likelihood.
        ValueError: no data, K < 1, or a program that carries loss weights.

    Example:
        >>> import pyro_vae as pv
        >>> vae = pv.VAE(pv.priors.StandardNormal(2),
        ...              pv.posteriors.DiagonalNormal(pv.networks.MLP((4,), (4,)), 2),
        ...              pv.likelihoods.Bernoulli(pv.networks.MLP((2,), (4,))))
        >>> kl_per_dimension(vae, torch.zeros(3, 4), num_samples=1)["z"].value.shape
        torch.Size([3, 2])
    """
    sites: dict[str, list[Tensor]] = {}
    kinds: dict[str, str | None] = {}
    for _, blocks in draw_columns(vae, x, num_samples, y, seed, _read_dimensions):
        for name, (kind, first) in blocks[0].items():
            kinds[name] = kind
            exact = kind == "analytic" and len(blocks[0]) == 1
            values = torch.cat([block[name][1] for block in blocks])
            mean, error = (first[0], torch.zeros_like(first[0])) if exact else mean_and_error(values)
            sites.setdefault(name, []).append(torch.stack([mean, error]))
    return {name: _per_dimension(sites[name], num_samples, kind) for name, kind in kinds.items()}


def factors(site: traces.Site) -> Any:
    """Returns the distribution of each number of a site, or None if they are not independent."""
    factor = site["fn"]
    while isinstance(factor, Independent):
        factor = factor.base_dist
    single = factor.event_shape == () and site["mask"] is None and not traces.is_point(factor)
    return factor if single else None


def _read_dimensions(pair: traces.Traces) -> dict[str, tuple[str | None, Tensor]]:
    """Site -> kind, (k, b, D)."""
    terms: dict[str, tuple[str | None, Tensor]] = {}
    for name, site in traces.latent_sites(pair.guide).items():
        q, p, z = factors(site), factors(pair.model.nodes[name]), site["value"]
        whole = traces.sampled_kl(pair, name)  # which refuses loss weights
        if q is None or p is None:
            terms[name] = None, whole
        elif traces.analytic_kl(pair, name) is None:
            terms[name] = "sampled", q.log_prob(z).double() - p.log_prob(z).double()
        else:
            terms[name] = "analytic", kl_divergence(q, p).double()
    return {name: (kind, _as_vectors(value, 2)) for name, (kind, value) in terms.items()}


def _as_vectors(values: Tensor, batch_dims: int) -> Tensor:
    """Values of events of any shape as vectors (*, D)."""
    return values.reshape(*values.shape[:batch_dims], -1)


def _per_dimension(blocks: list[Tensor], num_samples: int, kind: str | None) -> KLPerDimension | None:
    value, error = torch.cat(blocks, 1).cpu()
    return None if kind is None else KLPerDimension(value, error, num_samples, kind)


class RateDistortion(NamedTuple):
    """The rate KL(q(z|x) || p(z)) and the distortion -E_q[log p(x|z)], per datum: -ELBO = rate + distortion."""

    rate: Estimate
    distortion: Estimate


def rate_distortion(
    vae: Any, x: Tensor, num_samples: int, y: Tensor | None = None, seed: int | None = None
) -> RateDistortion:
    """Estimates the point of a program in the plane of rate and distortion, in nats.

    The rate bounds I_q(x; z) from above; for a point guide (`Delta`) it is infinite.

    Args:
        vae, x, num_samples, y, seed: as for `elbo_terms`, whose draws these are.

    Raises:
        DataError, ValueError: as for `elbo_terms`.

    Reference:
        Alemi, Poole, Fischer, Dillon, Saurous & Murphy, "Fixing a Broken ELBO", ICML 2018.
        https://arxiv.org/abs/1711.00464
    """
    _, reconstruction, kl = elbo_terms(vae, x, num_samples, y, seed)
    rate, distortion = replace(kl, name="rate"), replace(reconstruction, name="distortion", value=-reconstruction.value)
    return RateDistortion(rate, distortion)
