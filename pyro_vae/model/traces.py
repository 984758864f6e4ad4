r"""Log-probabilities, one per draw and datum, from the traces of a program.

One pass of the guide, and of the model replayed on it, under a plate of K draws to the left of the data plate, gives
everything that an objective or an estimator needs, for any program with a static structure:

.. math:: \log w_{kb} = \log p(x_b, z_{kb}) - \log q(z_{kb} | x_b)

of shape (K, B), in nats. Latent sites are the sites that are not observed; no name of a site is assumed.
"""

import math
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, NamedTuple

import pyro
import torch
from pyro import poutine
from pyro.distributions import Delta
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor
from torch.distributions import kl_divergence

from pyro_vae.model.distributions.missing import mask_of
from pyro_vae.model.subsampled import NoDrawnRows, why_scaled

Site = Any  # a message of pyro.poutine: name, fn, value, log_prob, scale, mask, ...


class Traces(NamedTuple):
    """A guide's trace and the trace of the model replayed on it."""

    model: poutine.Trace
    guide: poutine.Trace


def run(model: Callable[..., Any], guide: Callable[..., Any], num_samples: int, *args: Any, **kwargs: Any) -> Traces:
    """Draws K latents for each datum at once, while the encoder sees each datum once.

    Args:
        model, guide: functions over one plate, the data plate at dim -1.
        num_samples: K.
        args, kwargs: what model and guide take, usually x (B, *x_shape) and y (B, C).

    Raises:
        ValueError: a site is outside the data plate; a latent site is in only one of the two or differs in shape; or a
            plate draws its rows at random, which are then not the rows of x.

    Example:
        >>> import pyro.distributions as dist
        >>> def model(x):
        ...     with pyro.plate("data", len(x), dim=-1):
        ...         pyro.sample("x", dist.Normal(pyro.sample("z", dist.Normal(0.0, 1.0)), 1.0), obs=x)
        >>> def guide(x):
        ...     with pyro.plate("data", len(x), dim=-1):
        ...         pyro.sample("z", dist.Normal(x / 2, 0.5**0.5))   # the posterior
        >>> log_weights(run(model, guide, 3, torch.zeros(2)))   # log p(x) = log N(0; 0, 2), whatever the draw
        tensor([[-1.2655, -1.2655],
                [-1.2655, -1.2655],
                [-1.2655, -1.2655]])
    """
    draws = pyro.plate("draws", num_samples, dim=-2)
    try:
        guide_trace = _traced(draws(guide), *args, **kwargs)
        model_trace = _traced(poutine.replay(draws(model), trace=guide_trace), *args, **kwargs)
    except (ValueError, RuntimeError) as error:
        if _is_about_shapes(error):
            look_for_globals(model, guide, *args, **kwargs)
        raise
    _check_in_data_plate(model_trace, guide_trace)
    _check_same_shapes(latent_sites(model_trace), latent_sites(guide_trace))
    _check_same_sites(latent_sites(model_trace), latent_sites(guide_trace))
    model_trace.compute_log_prob()
    guide_trace.compute_log_prob()
    return Traces(model_trace, guide_trace)


def run_at(
    model: Callable[..., Any], guide: Callable[..., Any], values: dict[str, Tensor], *args: Any, **kwargs: Any
) -> Traces:
    """Runs a program like `run`, but at given values (K, B, *event) of its latent sites."""
    num_samples = len(next(iter(values.values())))
    return run(model, poutine.replay(guide, trace=holding(values)), num_samples, *args, **kwargs)


def latent_sites(trace: poutine.Trace) -> dict[str, Site]:
    """Returns the sites that are not observed, by name, in the order in which they were sampled."""
    return {site["name"]: site for site in _samples(trace) if not site["is_observed"]}


def observed_sites(trace: poutine.Trace) -> dict[str, Site]:
    """Returns the sites that are observed, by name."""
    return {site["name"]: site for site in _samples(trace) if site["is_observed"]}


def global_sites(model: poutine.Trace) -> dict[str, Site]:
    """Returns the sites of a model outside the data plate, by name: the sites that all data share.

    The data plate is the plate of the observed sites at dim -1 or, if nothing is observed there, of all sites.
    """
    homes = _plates(observed_sites(model).values()) or _plates(_samples(model))
    return {site["name"]: site for site in _samples(model) if not _plates([site]) or _plates([site]) != homes}


def value_of(site: Site) -> Tensor:
    """Returns the value of a site; missing numbers of an observed site are NaN again."""
    mask = mask_of(site["fn"]) if site["is_observed"] else None
    if mask is None:
        return site["value"]
    of_one_draw = mask[(0,) * (mask.dim() - site["value"].dim())]  # every draw has the same gaps
    return torch.where(of_one_draw, site["value"], math.nan)


def log_weights(traces: Traces) -> Tensor:
    """Computes log p(x, z) - log q(z|x), (K, B).

    Raises:
        ValueError: the program carries loss weights, so this would not be an importance weight.
    """
    return reconstruction(traces) + log_prior(traces) - log_posterior(traces)


def reconstruction(traces: Traces) -> Tensor:
    """Computes log p(x|z): the sum over observed sites, (K, B)."""
    return _total(observed_sites(traces.model).values())


def log_prior(traces: Traces) -> Tensor:
    """Computes log p(z): the sum over latent sites of the model, (K, B)."""
    return _total(latent_sites(traces.model).values())


def log_posterior(traces: Traces) -> Tensor:
    """Computes log q(z|x): the sum over latent sites of the guide, (K, B).

    Raises:
        ValueError: a latent site of the guide is a point and has no density.
    """
    for name, site in latent_sites(traces.guide).items():
        if is_point(site["fn"]):
            raise ValueError(
                f"the guide's site {name} is a point (Delta) and has no density: a plain autoencoder has no "
                "importance weights and no log p(x). Use a posterior with a density"
            )
    return _total(latent_sites(traces.guide).values())


def sampled_kl(traces: Traces, name: str) -> Tensor:
    """Computes log q(z|x) - log p(z) at the drawn values of one latent site, (K, B); its mean over draws is the KL."""
    return _log_prob(traces.guide.nodes[name]) - _log_prob(traces.model.nodes[name])


def analytic_kl(traces: Traces, name: str) -> Tensor | None:
    """Computes KL(q || p) of one latent site in closed form, if one is registered.

    With several latent sites it is the KL given the drawn values of the sites before it. Its mean over draws is the
    share of that site in KL(q(z|x) || p(z)) only if the guide samples in the model's order.

    Args:
        traces: of guide and model.
        name: of the site.

    Returns:
        (K, B) or (B,), in nats; infinite if q is a point, which has no density. None if no KL is registered, the guide
        samples in another order, or a mask is set, which can differ between draws.
    """
    if list(latent_sites(traces.model)) != list(latent_sites(traces.guide)):
        return None
    if not traces.guide.nodes[name]["mask"] is traces.model.nodes[name]["mask"] is None:
        return None
    if is_point(traces.guide.nodes[name]["fn"]):
        return torch.full_like(traces.model.nodes[name]["log_prob"], math.inf)
    try:
        return kl_divergence(_distribution(traces.guide, name), _distribution(traces.model, name))
    except NotImplementedError:
        return None


def check_no_globals(model: poutine.Trace) -> None:
    """Raises ValueError if a site of the model is outside the data plate."""
    for name, site in global_sites(model).items():
        where = "is outside the data plate (dim=-1)"
        if plates := _plates([site]):
            where = f"is in plate {', '.join(plates)}, which is not the data plate (dim=-1)"
        cure = "An observed site must be in it"
        if not site["is_observed"]:
            cure = (
                f"If all data share {name}, Trace_ELBO trains it, pyro_vae.evaluation.given(program, "
                f'{{"{name}": value}}) fixes it, and predictive(program, x, ...) averages over it. If each datum has '
                'its own, sample it inside pyro.plate("data", len(x), dim=-1)'
            )
        raise ValueError(f"site {name} {where}: there is no log-weight per datum. {cure}")


def look_for_globals(model: Callable[..., Any], guide: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
    """Runs the model once at a draw of the guide and raises like `check_no_globals`; it ignores other errors."""
    drawn = poutine.Trace()
    with suppress(Exception):
        one = poutine.trace(guide).get_trace(*args, **kwargs)
        drawn = prune_subsample_sites(poutine.trace(poutine.replay(model, trace=one)).get_trace(*args, **kwargs))
    check_no_globals(drawn)


def holding(values: dict[str, Tensor]) -> poutine.Trace:
    """Makes a trace for `poutine.replay` that holds these values at the latent sites with these names."""
    trace = poutine.Trace()
    for name, value in values.items():
        trace.add_node(name, name=name, type="sample", is_observed=False, value=value, infer={})
    return trace


def is_point(distribution: Any) -> bool:
    """Returns whether it is a `Delta`, perhaps expanded or with its batch dimensions declared as an event."""
    while hasattr(distribution, "base_dist"):
        distribution = distribution.base_dist
    return isinstance(distribution, Delta)


def _traced(program: Callable[..., Any], *args: Any, **kwargs: Any) -> poutine.Trace:
    """Runs a program and restores the text of its errors: Pyro adds a table of shapes to them."""
    try:
        with NoDrawnRows():
            return prune_subsample_sites(poutine.trace(program).get_trace(*args, **kwargs))
    except (ValueError, RuntimeError) as error:
        cause = error.__cause__
        if cause is None or "Trace Shapes:" not in str(error).removeprefix(str(cause)):
            raise
        raise cause from cause.__cause__


def _distribution(trace: poutine.Trace, name: str) -> Any:
    return trace.nodes[name]["fn"]


def _samples(trace: poutine.Trace) -> list[Site]:
    return [site for site in trace.nodes.values() if site["type"] == "sample"]


def _total(sites: Any) -> Tensor:
    total = sum(map(_log_prob, sites))
    return total if isinstance(total, Tensor) else torch.zeros(())  # for a program whose latents are all given


def _log_prob(site: Site) -> Tensor:
    if isinstance(site["scale"], Tensor) or site["scale"] != 1.0 or site["mask"] is False:
        raise ValueError(why_scaled(site))
    return site["log_prob"]


def _check_same_sites(of_model: dict[str, Site], of_guide: dict[str, Site]) -> None:
    if not (missing := sorted(of_model.keys() ^ of_guide.keys())):
        return
    summed = [name for name in missing if name in of_model and of_model[name]["fn"].has_enumerate_support]
    cure = (
        f". {', '.join(summed)} is discrete: TraceEnum_ELBO sums it out, but a log-weight needs a draw of it. Sample "
        "it in the guide too, from a q(y|x); or make labels y an argument of the program, and "
        "pyro_vae.evaluation.evidence(program, x, p) sums them out"
    )
    raise ValueError(
        f"model and guide must have the same latent sites; only one of them has {missing}{cure if summed else ''}"
    )


def _check_same_shapes(of_model: dict[str, Site], of_guide: dict[str, Site]) -> None:
    for name in of_model.keys() & of_guide.keys():
        shape, drawn = of_model[name]["fn"].event_shape, of_guide[name]["fn"].event_shape
        if shape != drawn:
            raise ValueError(
                f"site {name} has event shape {tuple(shape)} in the model but {tuple(drawn)} in the guide, which "
                "would be broadcast: prior and posterior must be over the same latents"
            )


def _plates(sites: Iterable[Site]) -> set[str]:
    """Returns the names of the plates at dim -1 around these sites."""
    frames = (frame for site in sites for frame in site["cond_indep_stack"])
    return {frame.name for frame in frames if frame.vectorized and frame.dim == -1}


def _is_about_shapes(error: Exception) -> bool:
    return "Shape mismatch inside plate" in str(error) or "must match the size of tensor" in str(error)


def _check_in_data_plate(model: poutine.Trace, guide: poutine.Trace) -> None:
    check_no_globals(model)
    for site in _samples(guide):
        if not _plates([site]):
            raise ValueError(
                f"site {site['name']} of the guide is outside the data plate (dim=-1): there is no log-weight per "
                'datum. Sample it inside pyro.plate("data", len(x), dim=-1)'
            )
