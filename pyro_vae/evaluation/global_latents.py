r"""Programs with global latents: sites above the data plate, which all data share.

.. math:: p(D, z, \theta) = p(\theta) \prod_i p(z_i) \, p(x_i | z_i, \theta), \qquad
          q(\theta) \prod_i q(z_i | x_i, \theta)

The data depend on each other through theta, so such a program has no log p(x) per datum. Two quantities take its place,
and a third describes all data together:

    given         the program at one theta: log p(x | theta), which every estimator of this room takes
    predictive    log p(x | D) = log E_q(theta) p(x | theta), the mean over the posterior of theta
    the ELBO of a whole data set, a bound on log p(D): minus the loss of an SVI on all of it
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import prune_subsample_sites, site_is_subsample
from torch import Tensor, nn

from pyro_vae.evaluation.data_fingerprint import fingerprint
from pyro_vae.evaluation.estimators import Estimate, iwae, of_data, relative_error
from pyro_vae.model import traces
from pyro_vae.model.conditions import require
from pyro_vae.model.program import check_tensor, undisturbed
from pyro_vae.notebook_html import Row
from pyro_vae.randomness import block_stream, derive_if_given


class Given(nn.Module):
    """A program whose global latents are fixed, see `given`.

    Attributes:
        program: the program, which is not changed.
        names: the names of the fixed sites.
    """

    def __init__(self, program: Any, values: Mapping[str, Any]) -> None:
        super().__init__()
        self.program, self.names = program, tuple(values)
        for i, value in enumerate(values.values()):
            self.register_buffer(f"value_{i}", torch.as_tensor(value).detach().clone())

    def model(self, x: Tensor | None = None, y: Tensor | None = None) -> Any:
        """Samples p(x, z | theta). Without x it generates."""
        fixed = _Fixed(self._values(), x, is_guide=False)
        with fixed:
            drawn = self.program.model(x, *_if_given(y))
        if unknown := set(self.names) - fixed.found:
            raise ValueError(
                f"the model has no latent site {', '.join(sorted(unknown))}: its latent sites are "
                f"{', '.join(fixed.latent) or 'none'}"
            )
        return drawn

    def guide(self, x: Tensor, y: Tensor | None = None) -> Any:
        """Samples q(z | x, theta)."""
        with _Fixed(self._values(), x, is_guide=True):
            return self.program.guide(x, *_if_given(y))

    def set_values(self, values: Mapping[str, Tensor]) -> None:
        """Replaces the values of the fixed sites."""
        for name, value in self._values().items():
            value.copy_(values[name])

    def _values(self) -> dict[str, Tensor]:
        return {name: getattr(self, f"value_{i}") for i, name in enumerate(self.names)}


class _Fixed(Messenger):
    """Sets sites to values and hides them, and removes the factor of a subsampled plate."""

    def __init__(self, values: dict[str, Tensor], x: Tensor | None, *, is_guide: bool) -> None:
        super().__init__()
        self.values, self.x, self.is_guide = values, x, is_guide
        self.found: set[str] = set()
        self.latent: list[str] = []

    def _pyro_sample(self, msg: Any) -> None:
        if not (msg["is_observed"] or site_is_subsample(msg)):
            self.latent.append(msg["name"])
        if msg["name"] in self.values:
            self._fix(msg)
        elif not msg["is_observed"] and (msg["infer"] or {}).get("is_auxiliary"):
            msg["stop"] = True  # the draw of an automatic guide from which the site itself is computed
        else:
            msg["scale"] = msg["scale"] / self._plate_scale(msg)

    def _fix(self, msg: Any) -> None:
        name, value = msg["name"], self.values[msg["name"]]
        if msg["is_observed"]:
            raise ValueError(f"site {name} is observed; only latent sites can be fixed")
        if value.shape != msg["fn"].shape():
            raise ValueError(f"site {name} has shape {tuple(msg['fn'].shape())}; got a value of {tuple(value.shape)}")
        if not self.is_guide:
            error = f"site {name} has the support {msg['fn'].support}; got a value outside of it"
            require(_is_within(msg["fn"], value), lambda: ValueError(error))
        self.found.add(name)
        msg["value"], msg["done"], msg["stop"] = value, True, True

    def _plate_scale(self, msg: Any) -> float:
        """The product of the factors N / B by which plates weigh B of N data."""
        scale = 1.0
        for frame in msg["cond_indep_stack"]:
            if self.x is not None and frame.dim == -1 and frame.size not in (frame.full_size, len(self.x)):
                raise ValueError(
                    f"plate {frame.name} uses {frame.size} of the {len(self.x)} data that it is given, and estimates "
                    f"need all of them. Write pyro.plate({frame.name!r}, N, subsample=x), which uses all data that it "
                    "is given as a part of N"
                )
            scale = scale * (frame.full_size or frame.size) / frame.size
        return scale


def given(program: Any, values: Mapping[str, Any]) -> Given:
    r"""Fixes global latents of a program, so that every estimator accepts it.

    .. math:: p(x, z | \theta) = p(z) \, p(x | z, \theta), \qquad q(z | x, \theta)

    In model and guide the sites have these values and leave the trace, together with the draws of an automatic guide
    behind them. So `iwae(given(program, values), x, ...)` estimates log p(x | theta); the same holds for `elbo`, `ais`,
    `quadrature`, `bdmc`, `impute`, ... A plate that stands for N data and is given B of them, `pyro.plate("data", N,
    subsample=x)`, weighs each datum by N / B; here each counts once. Without values, `given(program, {})` changes only
    this.

    Args:
        program: anything with `.model` and `.guide`.
        values: site name -> one value, such as `AutoNormal.median()` or one draw of `draw_globals`.

    Raises:
        ValueError: at the first use, for a name that is not a latent site of the model, a value of another shape than
            its site or outside its support, or a plate that uses only some of its data.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> class Shifted:
        ...     def model(self, x=None):
        ...         shift = pyro.sample("shift", dist.Normal(0.0, 10.0))
        ...         with pyro.plate("data", 1 if x is None else len(x), dim=-1):
        ...             z = pyro.sample("z", dist.Normal(0.0, 1.0))
        ...             return pyro.sample("x", dist.Normal(z + shift, 1.0), obs=x)
        ...     def guide(self, x):
        ...         shift = pyro.sample("shift", dist.Normal(2.0, 0.1))
        ...         with pyro.plate("data", len(x), dim=-1):
        ...             pyro.sample("z", dist.Normal((x - shift) / 2, 0.5**0.5))    # the posterior, at any shift
        >>> iwae(given(Shifted(), {"shift": 2.0}), torch.tensor([2.0]), num_samples=1).value    # log N(2; 2, 2)
        tensor([-1.2655], dtype=torch.float64)
    """
    return Given(program, values)


def draw_globals(
    program: Any, x: Tensor, num_globals: int, y: Tensor | None = None, seed: int | None = None
) -> dict[str, Tensor]:
    """Draws the global latents of a program from its guide: name -> (S, *shape).

    The guide is run with one datum of x, which q(theta) must not depend on.

    Args:
        program: anything with `.model` and `.guide`.
        x: data (N, *x_shape), one or more.
        num_globals: S, the number of draws.
        y: one-hot labels (N, C).
        seed: None continues the caller's random stream; an integer is reproducible and leaves that stream alone.

    Raises:
        ValueError: the program has no global latents, or S < 1.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> class Shifted:
        ...     def model(self, x):
        ...         shift = pyro.sample("shift", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        ...         with pyro.plate("data", len(x), dim=-1):
        ...             pyro.sample("x", dist.Normal(shift, 1.0).to_event(1), obs=x)
        ...     def guide(self, x):
        ...         pyro.sample("shift", dist.Normal(torch.ones(3), 0.1).to_event(1))
        >>> draw_globals(Shifted(), torch.zeros(2, 3), num_globals=5, seed=0)["shift"].shape
        torch.Size([5, 3])
    """
    check_tensor(x)
    if num_globals < 1:
        raise ValueError(f"num_globals must be at least 1; got {num_globals}")
    datum = x[:1], *([] if y is None else [y[:1]])
    with torch.no_grad(), undisturbed(program), block_stream(derive_if_given(seed, "globals"), 0, 0, x.device):
        guides = [poutine.trace(program.guide).get_trace(*datum) for _ in range(num_globals)]
        names = _global_names(program, guides[0], datum)
    return {name: torch.stack([guide.nodes[name]["value"] for guide in guides]) for name in names}


@dataclass(frozen=True)
class PredictiveEstimate(Estimate):
    """An `Estimate` of log p(x | D) over S draws of the global latents, which all data share.

    Attributes:
        num_globals: S.
        at_each: (S, N), the estimates of log p(x | theta_s). If `psis_khat(at_each)` is above 0.7 for a datum, few
            draws of theta dominate its estimate, and its errors are meaningless.
    """

    num_globals: int = 0
    at_each: Tensor = field(default_factory=lambda: torch.empty(0, 0), repr=False)

    def to_dict(self) -> dict[str, Any]:
        return {**super().to_dict(), "num_globals": self.num_globals}

    def __str__(self) -> str:
        return super().__str__().replace("(K = ", f"(S = {self.num_globals} shared, K = ")

    def table_rows(self) -> list[Row]:
        return [{**row, "shared draws": f"{self.num_globals:,}"} for row in super().table_rows()]


def predictive(
    program: Any,
    x: Tensor,
    num_samples: int,
    y: Tensor | None = None,
    seed: int | None = None,
    *,
    num_globals: int = 100,
    draws: Mapping[str, Tensor] | None = None,
) -> PredictiveEstimate:
    r"""Estimates the posterior predictive log p(x | D) of each datum of a program with global latents, in nats.

    .. math:: \log \frac{1}{S} \sum_{s=1}^{S} \frac{1}{K} \sum_{k=1}^{K}
              \frac{p(x, z_{sk} | \theta_s)}{q(z_{sk} | x, \theta_s)}, \qquad \theta_s \sim q(\theta)

    It is a lower bound in expectation on log E_q p(x | theta). That is log p(x | D) if q(theta) is the posterior of
    theta given the training data D. Otherwise it is the predictive density under this q, which is still a proper
    density.

    All data share each draw of theta, so their errors do not average out. The Monte Carlo error of the mean,
    `shared_error`, is the error of S draws of (theta, z), to first order:

    .. math:: \frac{\mathrm{sd}_s(g_s)}{\sqrt{S}}, \qquad
              g_s = \frac{1}{N} \sum_{i=1}^{N} \frac{p_{si}}{\frac{1}{S} \sum_t p_{ti}}

    `paired` adds the errors of two estimates as if their draws were independent. If two estimates share their draws of
    theta, by the same `draws`, the Monte Carlo error of their difference is usually too large, which is conservative.

    Args:
        program: anything with `.model` and `.guide`, a data plate, and latent sites above it.
        x: data (N, *x_shape).
        num_samples: K, the draws of z for each datum and theta.
        y: one-hot labels (N, C).
        seed: None continues the caller's random stream; an integer is reproducible and leaves that stream alone.
        num_globals: S, the draws of theta from the guide; the errors need two or more.
        draws: draws of theta to use instead of the guide's, from a chain for example: name -> (S, *shape).

    Raises:
        DataError: data outside the support of the likelihood.
        ValueError: no data, K < 1, S < 1, or a program without global latents, whose log p(x) `iwae` estimates.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> class Shifted:
        ...     def model(self, x):
        ...         shift = pyro.sample("shift", dist.Normal(0.0, 10.0))
        ...         with pyro.plate("data", len(x), dim=-1):
        ...             pyro.sample("x", dist.Normal(shift, 1.0), obs=x)
        ...     def guide(self, x):
        ...         pyro.sample("shift", dist.Normal(2.0, 1.0))
        >>> estimate = predictive(Shifted(), torch.tensor([2.0, 2.0]), num_samples=1, seed=0, num_globals=1000)
        >>> print(estimate)    # log N(2; 2, 2) = -1.266, twice, by the same draws: their errors are no smaller together
        log p(x), predictive     -1.266 nats   ±0.000 over 2 data   ±0.012 Monte Carlo (S = 1000 shared, K = 1)
    """
    check_tensor(x)
    theta = draw_globals(program, x, num_globals, y, seed) if draws is None else dict(draws)
    S = _number(theta)
    fixed, rows = Given(program, {name: value[0] for name, value in theta.items()}), []
    for s in range(S):
        fixed.set_values({name: value[s] for name, value in theta.items()})
        rows.append(iwae(fixed, x, num_samples, y, derive_if_given(seed, "global", s)).value)
    at_each = torch.stack(rows)
    value = at_each.logsumexp(0) - math.log(S)
    influence = (at_each - value).exp().mean(1)
    shared = influence.std().item() / math.sqrt(S) if S > 1 else math.nan
    named = "log p(x), predictive", value, relative_error(at_each), num_samples
    estimate = PredictiveEstimate(*named, shared_error=shared, num_globals=S, at_each=at_each)
    return of_data(estimate, fingerprint(x), y, "log p(x)")


def _if_given(y: Tensor | None) -> tuple[Tensor, ...]:
    return () if y is None else (y,)


def _is_within(distribution: Any, value: Tensor) -> Tensor:
    try:
        return distribution.support.check(value).all()
    except NotImplementedError:
        return torch.tensor(True)


def _global_names(program: Any, guide: poutine.Trace, datum: tuple[Tensor, ...]) -> list[str]:
    model = poutine.trace(poutine.replay(program.model, trace=guide)).get_trace(*datum)
    shared = traces.global_sites(prune_subsample_sites(model)).items()
    names = [name for name, site in shared if not site["is_observed"]]
    if not names:
        raise ValueError("the program has no latent site outside its data plate: `iwae` estimates its log p(x)")
    if missing := [name for name in names if name not in guide.nodes]:
        raise ValueError(f"model and guide must have the same latent sites; the guide has no {', '.join(missing)}")
    return names


def _number(theta: Mapping[str, Tensor]) -> int:
    """S, the number of draws of theta."""
    numbers = {name: len(value) for name, value in theta.items()}
    if len(set(numbers.values())) != 1 or 0 in numbers.values():
        raise ValueError(f"each site needs as many draws as the others, one or more, first axis; got {numbers}")
    return next(iter(numbers.values()))
