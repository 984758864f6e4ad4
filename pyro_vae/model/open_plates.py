"""The open plates around a program: each batch dimension of data belongs to one, or data would share a latent.

    dim        -3   -2   -1  | event           x (*plates, *x_shape),  y (*plates, C),  z (*plates, D)
    plates           S    B

A shape can lack dimensions on the left, as under plates of draws or particles. While Pyro enumerates, dimensions left
of the plates belong to Pyro.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import pyro
import torch
from pyro import poutine
from pyro.poutine.enum_messenger import EnumMessenger
from pyro.poutine.indep_messenger import IndepMessenger
from pyro.poutine.runtime import _ENUM_ALLOCATOR
from pyro.poutine.trace_messenger import TraceMessenger
from torch import Tensor

from pyro_vae.errors import UsageError

DATA = "data"  # the plate of `model` and `guide`
_OF_HANDLERS = ("num_particles_vectorized", "_num_predictive_samples")  # plates under which a single datum is shared
HALVES = "`vae.generative(x, y)` in the model and `vae.recognition(x, y)` in the guide"


class OpenPlate(NamedTuple):
    """A vectorised plate that is open.

    Attributes:
        name: of the plate.
        size: of its dimension, or of the subsample if there is one; -1 if the plate takes any size.
    """

    name: str
    size: int


def open_plates() -> dict[int, OpenPlate]:
    """Returns the open vectorised plates by their dimension.

    Example:
        >>> with pyro.plate("sets", 3, dim=-2), pyro.plate("data", 100, subsample_size=5, dim=-1):
        ...     plates = open_plates()
        >>> plates[-2], plates[-1]
        (OpenPlate(name='sets', size=3), OpenPlate(name='data', size=5))
    """
    frames = (frame for frame in _handlers() if isinstance(frame, IndepMessenger) and frame._vectorized)
    return {
        frame.dim: OpenPlate(frame.name, int(getattr(frame, "subsample_size", frame.size)))
        for frame in frames
        if frame.dim is not None
    }


def check_in_plates(name: str, value: Tensor, event_dim: int) -> None:
    """Checks that each batch dimension of data belongs to an open plate.

    Otherwise a batch under no plate would share one z, and one datum under a plate of B would count B times.

    Args:
        name: of the data, for the message.
        value: (*, *event_shape).
        event_dim: the number of dimensions of event_shape.

    Raises:
        UsageError: with the dimension, the plate and the cure.

    Example:
        >>> with pyro.plate("data", 5):
        ...     check_in_plates("x", torch.zeros(5, 1, 8, 8), event_dim=3)
        >>> check_in_plates("x", torch.zeros(5, 1, 8, 8), event_dim=3)
        Traceback (most recent call last):
        ...
        pyro_vae.errors.UsageError: x of shape (5, 1, 8, 8) has 5 rows at dim -1, where no plate is open, so all ...
    """
    plates, lead = open_plates(), value.shape[: value.dim() - event_dim]
    _check_each(name, value, lead, plates, is_broadcast=False)
    rightmost = max(plates, default=0)
    if -len(lead) > rightmost and plates[rightmost].name not in _OF_HANDLERS and plates[rightmost].size > 1:
        plate = plates[rightmost]
        raise UsageError(
            f"{name} of shape {tuple(value.shape)} has no dim {rightmost}, where the plate {plate.name!r} has "
            f"{plate.size}, so it would count {plate.size} times: pass one for each, with `.expand` if they are the "
            "same"
        )


def check_labels_in_plates(y: Tensor) -> None:
    """Checks that each batch dimension of labels belongs to an open plate, has size 1, or is enumerated by Pyro.

    Args:
        y: one-hot labels (*, C).

    Raises:
        UsageError: with the dimension, the plate and the cure; or the labels are enumerated under a closed plate, where
            Pyro would sum over the classes of all data at once.
    """
    plates = open_plates()
    _check_each("y", y, y.shape[:-1], plates, is_broadcast=True)
    if y.shape[:-1] == (1,) and -1 in plates and plates[-1].size > 1 and not _is_enumerating():
        raise UsageError(_of_another_size("y", y, -1, 1, plates[-1]))
    names = {plate.name for plate in plates.values()}
    for dim, size in _from_the_right(y.shape[:-1]):
        if dim not in plates and size > 1 and (closed := _plates_of_enumerated(dim) - names):
            raise UsageError(
                f"y of shape {tuple(y.shape)} is enumerated under the plate {min(closed)!r}, which is not open here: "
                "sample y and call the half of the program under the same plate"
            )


def _check_each(
    name: str, value: Tensor, lead: torch.Size, plates: dict[int, OpenPlate], *, is_broadcast: bool
) -> None:
    first = _first_enumerated()
    for dim, size in _from_the_right(lead):
        plate = plates.get(dim)
        if plate is None and not (size == 1 or dim <= first):
            raise UsageError(_without_a_plate(name, value, dim, size))
        if plate is not None and size not in (plate.size, 1 if is_broadcast else plate.size) and plate.size != -1:
            raise UsageError(_of_another_size(name, value, dim, size, plate))


def _plates_of_enumerated(dim: int) -> set[str]:
    """Returns the names of the plates of the last site that Pyro enumerates at this dimension."""
    traces = [frame.trace for frame in _handlers() if isinstance(frame, TraceMessenger)]
    sites = [site for trace in traces[-1:] for site in trace.nodes.values() if site["type"] == "sample"]
    plates = [site["cond_indep_stack"] for site in sites if (site["infer"] or {}).get("_enumerate_dim") == dim]
    return {frame.name for frame in plates[-1] if frame.vectorized} if plates else set()


@contextmanager
def data_plate(size: int, what: str) -> Iterator[None]:
    """Opens the plate `data` of a program at dim -1; an error names a plate that is already there.

    Args:
        size: the number of data.
        what: the caller, "model" or "guide".

    Raises:
        UsageError: a plate is open at dim -1, or a plate called `data` is open anywhere or is in the trace.
    """
    for dim, open_plate in open_plates().items():
        if dim == -1 or open_plate.name == DATA:
            raise UsageError(
                f"{what}() opens the plate {DATA!r} at dim=-1, and the plate {open_plate.name!r} (dim={dim}) is open: "
                f"under your own plates use the two halves without theirs, {HALVES}"
            )
    with _named_once():
        plate = pyro.plate(DATA, size, dim=-1)
    with plate:
        yield


def sampled(name: str, p: Any, obs: Tensor | None = None) -> Tensor:
    """Samples a site, `pyro.sample`.

    Raises:
        UsageError: the trace has a site of this name, for example from a second program.
    """
    with _named_once():
        return pyro.sample(name, p, obs=obs)


@contextmanager
def _named_once() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        if not str(error).startswith("Multiple sample sites named"):
            raise
        raise UsageError(
            f'{error} in one model: give each program a name, `name="left"`, so that {HALVES} call the sites '
            'left/z and left/x; or put one of them into `pyro.contrib.autoname.scope(prefix="right")`, in the guide too'
        ) from error


def _handlers() -> list[Any]:
    return poutine.runtime._PYRO_STACK


def _is_enumerating() -> bool:
    return any(isinstance(frame, EnumMessenger) for frame in _handlers())


def _first_enumerated() -> float:
    """The rightmost dimension that Pyro can use to enumerate classes; minus infinity if it does not enumerate."""
    if not _is_enumerating():
        return -math.inf
    return max(_ENUM_ALLOCATOR.next_available_dim, *_ENUM_ALLOCATOR.dim_to_id, -math.inf)


def _from_the_right(lead: torch.Size) -> Iterator[tuple[int, int]]:
    return ((at - len(lead), size) for at, size in reversed(list(enumerate(lead))))


def _without_a_plate(name: str, value: Tensor, dim: int, size: int) -> str:
    return (
        f"{name} of shape {tuple(value.shape)} has {size} rows at dim {dim}, where no plate is open, so all of "
        f'them would share one latent: with pyro.plate("data", {size}, dim={dim}): ...'
    )


def _of_another_size(name: str, value: Tensor, dim: int, size: int, plate: OpenPlate) -> str:
    return (
        f"{name} of shape {tuple(value.shape)} has {size} rows at dim {dim}, where the plate {plate.name!r} has "
        f"{plate.size}: pass one for each, such as {name}[index] in a subsampled plate, or {name}.expand if all are "
        "the same"
    )
