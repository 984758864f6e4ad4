"""The site x ~ p(x|z): observed data are checked, and missing numbers do not count."""

from typing import Any

import torch
from torch import Tensor

from pyro_vae.errors import DataError
from pyro_vae.model.conditions import base_constraint, require
from pyro_vae.model.distributions.missing import inside
from pyro_vae.model.given_data import check_ends, check_labels, in_rows
from pyro_vae.model.likelihoods import Likelihood
from pyro_vae.model.open_plates import check_in_plates, sampled
from pyro_vae.model.program import check_tensor

_CONDITIONED = (
    "site x holds NaN: pass data with missing numbers as the argument of the program, model(x); do not condition the "
    "site"
)


def plate_size(x: Tensor | None, y: Tensor | None) -> int:
    """Returns B, the number of data, else of labels, else 1, and checks both.

    Args:
        x: data (B, *x_shape).
        y: one-hot labels (B, C).
    """
    if x is not None:
        check_tensor(x)
    size = len(x) if x is not None else len(y) if y is not None else 1
    check_labels(y, size)
    return size


def observe(likelihood: Likelihood, z: Tensor, x: Tensor | None, y: Tensor | None, missing: bool = False) -> Tensor:
    """Samples the site x ~ p(x|z) inside the data plate of a program: observed if x is given, else drawn.

    Args:
        likelihood: p(x|z).
        z: (*, B, D).
        x: data (B, *x_shape).
        y: one-hot labels (B, C).
        missing: whether NaN is a missing number. The site is then x ~ p(x_obs|z). Its value is x with numbers inside
            the support in place of missing ones, which do not count.

    Returns:
        The value of the site.

    Raises:
        DataError: x has another shape, or lies outside the support or at an end of it where the density is not finite.
        ValueError: the site was conditioned from outside on several data, which would share one z; or numbers can be
            missing and p(x_obs|z) is not known.
    """
    p = likelihood(z, y)
    if x is not None:
        p, given = of_observed(likelihood, p, x, missing)
        return sampled("x", p, given)
    value = sampled("x", p)
    # poutine.condition(model, {"x": data}) would silently explain all the data by one z.
    generated = torch.Size([plate_size(x, y)]) + p.event_shape
    if value.shape[-len(generated) :] != generated:  # there can be plates of draws on the left
        raise ValueError(
            f"site x was conditioned on a tensor of shape {tuple(value.shape)}, but the model generates one of shape "
            f"{tuple(generated)}, so data would share one z: pass the data as the argument, model(x)"
        )
    _check_conditioned(likelihood, value, p, missing)
    return value


def observe_in_plates(
    likelihood: Likelihood, z: Tensor, x: Tensor | None, y: Tensor | None, missing: bool, site: str
) -> Tensor:
    """Samples the site x ~ p(x|z) under plates that others opened; `observe` does so inside the data plate.

    Args:
        likelihood: p(x|z).
        z: (*, D).
        x: data (*plates, *x_shape).
        y: one-hot labels (*, C).
        missing: whether NaN is a missing number.
        site: the name of the site.

    Raises:
        UsageError: a batch dimension of x belongs to no open plate, or has another size.
        DataError, ValueError: as `observe`.
    """
    p = likelihood(z, y)
    if x is None:
        value = sampled(site, p)
        check_in_plates(f"the value of site {site}", value, len(p.event_shape))
        _check_conditioned(likelihood, value, p, missing)
        return value
    check_tensor(x)
    batch_dim = x.dim() - len(p.event_shape)
    p, given = of_observed(likelihood, p, x, missing, batch_dim)
    check_in_plates("x", x, len(p.event_shape))
    return sampled(site, p, given)


def of_observed(likelihood: Likelihood, p: Any, x: Tensor, missing: bool, batch_dim: int = 1) -> tuple[Any, Tensor]:
    """Checks data, and returns p(x_obs|z) and the numbers at which to evaluate it.

    Args:
        likelihood: the member that made p.
        p: p(x|z).
        x: data (B, *x_shape), or (*, *x_shape) with batch_dim dimensions before x_shape.
        missing: whether NaN is a missing number.
        batch_dim: the number of batch dimensions.

    Raises:
        DataError: as `observe`.
        ValueError: p(x_obs|z) is not known.
    """
    _check_shape(x, p.event_shape, batch_dim)
    _check(likelihood, likelihood.filled(x) if missing else x, batch_dim)
    given = _with_numbers(p, likelihood, x) if missing else x
    check_ends(p, given, batch_dim)
    return likelihood.observed_part(p, ~x.isnan()) if missing else p, given


def _check_conditioned(likelihood: Likelihood, value: Tensor, p: Any, missing: bool) -> None:
    if missing:
        require(~value.isnan().any(), lambda: DataError(_CONDITIONED))
    _check(likelihood, value, value.dim() - len(p.event_shape))


def _check(likelihood: Likelihood, x: Tensor, batch_dim: int) -> None:
    if batch_dim == 1:
        likelihood.check(x)
    else:
        rows, place = in_rows(x, batch_dim)
        likelihood.check(rows, place=place)


def _with_numbers(p: Any, likelihood: Likelihood, x: Tensor) -> Tensor:
    # A mask would not be enough: the gradient of what it hides is 0 times NaN.
    try:
        support = p.support
    except NotImplementedError:
        support = likelihood.support
    return torch.where(x.isnan(), inside(base_constraint(support)), x) if x.is_floating_point() else x


def _check_shape(x: Tensor, event_shape: torch.Size, batch_dim: int) -> None:
    if batch_dim < 0 or x.shape[batch_dim:] != event_shape:
        raise DataError(f"p(x|z) is over data of shape {tuple(event_shape)}; got x of shape {tuple(x.shape)}")
