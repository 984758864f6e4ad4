"""Where and why a step diverged: the first site, or parameter, whose numbers are not finite.

A step is repeated on its own draws, since what happens at one of many draws need not happen at the next.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import pyro
import torch
from pyro.infer import Trace_ELBO
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn
from torch.distributions import Distribution, Transform

from pyro_vae.evaluation.weights import data_blocks
from pyro_vae.model.conditions import law
from pyro_vae.model.parameter_store import store_kept
from pyro_vae.model.program import undisturbed
from pyro_vae.randomness import go_to, position, preserved, stream


class Noise:
    """Remembers the state of the random streams on the CPU and on the device of x, to draw from there again.

    Args:
        x: the data; None for those on the CPU.

    Example:
        >>> noise = Noise(None)
        >>> first = torch.rand(3)
        >>> with noise.again():
        ...     print(torch.equal(torch.rand(3), first))
        True
    """

    def __init__(self, x: Tensor | None) -> None:
        self.device = None if x is None else x.device
        self._here = position(self.device)

    @contextmanager
    def again(self) -> Iterator[None]:
        """Repeats, inside, the draws made since then; afterwards the random state is what it was."""
        with preserved(self.device):
            go_to(self._here, self.device)
            yield


class Fault(NamedTuple):
    """The first site whose value or log-probability is not finite.

    Attributes:
        where: the site, in parentheses; '' if there is none.
        cause: what is not finite there, and what else is known about the cause.
        cure: what to do about it, as a sentence.
    """

    where: str
    cause: str
    cure: str

    def after(self, sentence: str, num_steps: int = 1) -> str:
        """Appends to a sentence without its full stop the cause, and what to do about it after this many steps."""
        cure = NO_STEP_YET if self.cure == STEP_TOO_LARGE and not num_steps else self.cure
        return f"{sentence}{self.cause and f': {self.cause}'}. {cure}"


STEP_TOO_LARGE = (
    "Use a smaller learning rate (`lr`), bound the gradient (`max_grad_norm`), or scale the data to about 1"
)
NO_STEP_YET = (
    "No step was made yet, so the learning rate is not the cause. Check the size of the data, scale them to about 1, "
    "and check the first parameters"
)
NO_SITE = Fault("", "", STEP_TOO_LARGE)
_MEND = "Correct log_prob there: check_prior, check_posterior and check_likelihood look for such values"
_SCALED = (
    "Scale the data to about 1 (for reals pv.scaling.ColumnScale does so in a program of your own, `standardize='yes'` "
    "in a run)"
)
_ORDINARY = 10.0  # data up to this size are not the cause


def first_fault(loss: Any, model: Callable[..., Any], guide: Callable[..., Any], *args: Any, **kwargs: Any) -> Fault:
    """Finds the first site that is not finite while the loss is computed, and why; `NO_SITE` if all are finite.

    The cause is the data if the site becomes finite once they are cut to [-1, 1]. It is the density if that is not
    finite at a finite value under finite parameters. Otherwise it is the step size.

    Args:
        loss: one of Pyro's ELBOs.
        model, guide: the two halves.
        args, kwargs: their arguments.
    """
    broken = _first_broken(loss, model, guide, *args, **kwargs)
    if broken is None:
        return NO_SITE
    where = f" (first at site {broken.name} of the {broken.half})"
    x = next((value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)), None)
    if x is not None and x.dim() and x.is_floating_point() and (size := (sizes := _sizes(x)).max()) > _ORDINARY:
        cut = [value.clamp(-1, 1) if value is x else value for value in args]
        named = {name: value.clamp(-1, 1) if value is x else value for name, value in kwargs.items()}
        if _is_sound(loss, model, guide, *cut, **named):
            datum = int(sizes.argmax())
            place = f" at datum {datum} of the batch" if len(x) > 1 else ""
            cause = f"{broken.what}, because the data reach {size:.3g}{place}"
            cure = f"{_SCALED}, or give the encoder the logarithm of counts"
            return Fault(where, cause, f"{cure}. {_MEND}" if broken.is_of_density else cure)
    if broken.is_of_density:
        cause = f"{broken.what}, a finite value under finite parameters, so the step size is not the cause"
        return Fault(where, cause, _MEND)
    return Fault(where, broken.what, STEP_TOO_LARGE)


def _sizes(x: Tensor) -> Tensor:
    # By the largest number of each datum; a NaN can be a missing number.
    return x.abs().nan_to_num(nan=0.0, posinf=math.inf).reshape(len(x), -1).amax(1)


def fault_on_data(program: Any, num_samples: int, x: Tensor, y: Tensor | None = None) -> Fault:
    """Finds the first site that is not finite at draws of the guide for data, and the datum, or `NO_SITE`.

    Args:
        program: anything with `.model` and `.guide` over one data plate.
        num_samples: draws for each datum.
        x: data (B, *x_shape).
        y: labels (B, C), if there are any.
    """
    loss = Trace_ELBO(num_samples, max_plate_nesting=1, vectorize_particles=True)

    def at(data: slice) -> Fault:
        return first_fault(loss, program.model, program.guide, *(part[data] for part in (x, y) if part is not None))

    with undisturbed(program), stream(0, "divergence"):
        for block, _ in data_blocks(len(x), y):
            if (fault := at(block)) is not NO_SITE:
                alone = ((n, at(slice(n, n + 1))) for n in range(block.start, min(block.stop, len(x))))
                n, fault = next(((n, one) for n, one in alone if one is not NO_SITE), (None, fault))
                return fault if n is None else fault._replace(where=f"{fault.where[:-1]}, datum {n})")
    return NO_SITE


def _first_broken(*call: Any, **kwargs: Any) -> _Broken | None:
    broken: list[_Broken] = []
    with suppress(ValueError, RuntimeError):  # at numbers that are NaN; the sites before count
        _run(broken, *call, **kwargs)
    return broken[0] if broken else None


def _is_sound(*call: Any, **kwargs: Any) -> bool:
    broken: list[_Broken] = []
    try:
        _run(broken, *call, **kwargs)
    except (ValueError, RuntimeError):
        return False
    return not broken


@torch.no_grad()
def _run(broken: list[_Broken], loss: Any, model: Any, guide: Any, *args: Any, **kwargs: Any) -> None:
    with warnings.catch_warnings(), store_kept(), pyro.validation_enabled(False):
        warnings.simplefilter("ignore")
        loss.loss(_Finite("model", broken)(model), _Finite("guide", broken)(guide), *args, **kwargs)


def first_gradient(modules: Iterable[nn.Module]) -> str:
    """Names the first parameter, of these modules or Pyro's store, whose gradient is not finite, or returns ''."""
    of_store: Any = pyro.get_param_store().named_parameters()
    named = [*(pair for module in modules for pair in module.named_parameters()), *of_store]
    bad = next((name for name, p in named if p.grad is not None and not _all_finite(p.grad)), None)
    return f" (first at parameter {bad})" if bad else ""


class _Broken(NamedTuple):
    """A site that is not finite, its half, what is not finite there, and whether that is only the density."""

    name: str
    half: str
    what: str
    is_of_density: bool


class _Finite(Messenger):
    """Lists the sites of one half that are not finite, if none was listed before."""

    def __init__(self, half: str, broken: list[_Broken]) -> None:
        super().__init__()
        self.half, self.broken = half, broken

    def _pyro_post_sample(self, msg: Any) -> None:
        if self.broken or site_is_subsample(msg):
            return
        what, is_of_density = _not_finite(msg["name"], msg["fn"], msg["value"])
        if what:
            self.broken.append(_Broken(msg["name"], self.half, what, is_of_density))


def _not_finite(name: str, p: Any, value: Any) -> tuple[str, bool]:
    """Describes what is not finite at a site, and whether it is only the density; '' if all is finite."""
    log_prob = p.log_prob(value)
    if _all_finite(value) and _all_finite(log_prob):
        return "", False
    for parameter, tensor in _parameters(p):
        if not _all_finite(tensor):
            return f"the {parameter} of site {name} is {tensor[~tensor.isfinite()][0]:g}", False
    if not _all_finite(value):
        return f"the value of site {name} is {value[~value.isfinite()][0]:g}", False
    place = (~log_prob.isfinite()).nonzero()[0]
    at = value.expand(*log_prob.shape, *p.event_shape)[tuple(place)].flatten()
    shown = ", ".join(f"{number:.3g}" for number in at[:4].tolist()) + ", ..." * (len(at) > 4)
    too_large = math.sqrt(torch.finfo(log_prob.dtype).max)  # to be squared
    ordinary = all((tensor.abs() < too_large).all() for tensor in (at, *(tensor for _, tensor in _parameters(p))))
    return f"log p of site {name} ({_kind(p)}) is {log_prob[tuple(place)]:g} at ({shown})", ordinary


def _kind(p: Any) -> str:
    p = law(p)
    name = type(p).__name__
    return f"{name} of {_kind(p.base_dist)}" if name == "TransformedDistribution" else name


def _parameters(p: Any, depth: int = 4) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a distribution, and of the distributions within it."""
    for name, held in vars(p).items():
        for each in held if isinstance(held, list | tuple) else (held,):
            if isinstance(each, Tensor) and each.is_floating_point():
                yield name.lstrip("_"), each
            elif depth and isinstance(each, Distribution | Transform):
                yield from _parameters(each, depth - 1)
            elif isinstance(each, nn.Module):
                yield from each.named_parameters()


def _all_finite(value: Any) -> bool:
    return not isinstance(value, Tensor) or bool(torch.isfinite(value).all())
