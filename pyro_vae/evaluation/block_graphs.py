"""Blocks of draws as compiled graphs: the encoder once for each datum, decoder and densities in few large kernels.

One block of draws does the same operations as the next. So inside `compiled` the first whole block is captured (see
`pyro_vae.graphs.capture`), split where its draws begin, and compiled. Everything that depends only on the data (an
encoder, the components of a VampPrior) is then computed once for each block of data. The draws are the same as those of
the program; sums run in another order.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from pyro_vae.graphs.allocation import keep_freed_memory
from pyro_vae.graphs.capture import Graph, capture, hoist, why_not
from pyro_vae.graphs.suitability import NoGraph, check_hooks, drawing_by_torch, is_surrounded, setting_nothing
from pyro_vae.graphs.watch import Watch
from pyro_vae.model import traces
from pyro_vae.model.conditions import collected
from pyro_vae.model.program import remembering
from pyro_vae.progress import stage

T = TypeVar("T")
Read = Callable[[traces.Traces], T]

MANY_DRAWS = 4_000_000  # in total: about a thousand blocks, each of which saves some hundredths of a second
FEWEST_DRAWS = 256  # for each datum; fewer are not worth a compiler's time

_logger = logging.getLogger(__name__)
_graphs: ContextVar[dict[Any, "BlockGraph | None"] | None] = ContextVar("graphs", default=None)


@contextmanager
def compiled(kept: "dict[Any, BlockGraph | None] | None" = None) -> Iterator[None]:
    """A context in which estimators of 256 or more draws for each datum run as compiled graphs.

    A graph takes some seconds to compile and is kept until the end of the context. It pays off from about a million
    decoded draws. The values of parameters can change in between. The program can change too, and is then captured
    again. A program that cannot be a graph is run by Pyro, and a logged sentence says so.

    Args:
        kept: where the graphs are kept, for another such context after this one; by default until its end.

    Example:
        >>> import pyro_vae as pv
        >>> vae = pv.VAE(pv.priors.StandardNormal(2),
        ...              pv.posteriors.DiagonalNormal(pv.networks.MLP((4,), (4,)), 2),
        ...              pv.likelihoods.Bernoulli(pv.networks.MLP((2,), (4,))))
        >>> with compiled():
        ...     few = pv.evaluation.iwae(vae, torch.zeros(3, 4), num_samples=100, seed=0)   # by Pyro, since K is small
    """
    token = _graphs.set({} if kept is None else kept)
    try:
        yield
    finally:
        _graphs.reset(token)


class BlockGraph:
    """A graph of K draws for each datum of a block, and of what `read` computes from them.

    Args:
        vae: a module with `.model` and `.guide`, in evaluation mode.
        read: from traces to tensors, perhaps in a named tuple and with other things that never change.
        num_samples: K.
        given: x (B, *x_shape), and labels if there are any.

    Raises:
        NoGraph: a program that is not a module, sets its own attributes, has hooks or draws with Python.
        Exception: anything else that keeps the program from being a graph.
    """

    def __init__(self, vae: Any, read: Read[Any], num_samples: int, given: tuple[Tensor, ...]) -> None:
        self._structure: Any = None
        self._others: list[Any] = []
        self._num_conditions = 0

        def draw(*given: Tensor) -> list[Tensor]:
            with collected() as conditions, remembering({}):
                reading = read(traces.run(vae.model, vae.guide, num_samples, *given))
            leaves, self._structure = pytree.tree_flatten(reading)
            self._others = [None if isinstance(leaf, Tensor) else leaf for leaf in leaves]
            self._num_conditions = len(conditions)
            return [*conditions, *(leaf for leaf in leaves if isinstance(leaf, Tensor))]

        if not isinstance(vae, torch.nn.Module):
            raise NoGraph(f"a {type(vae).__name__} is not a torch module, so its changes cannot be seen")
        check_hooks([vae], vae.parameters())
        self._vae, self._watch = vae, Watch([vae])  # the program too, so that no other object takes its id
        with drawing_by_torch(), setting_nothing(self._watch):
            self._before, after = hoist(capture(draw, given, [vae]))
        self._after: Graph = after.compiled(self._before(*given))

    def is_current(self) -> bool:
        """Returns whether the program is still what it was when it was captured."""
        return self._watch.unchanged() and self._before.is_current()

    def prepare(self, *given: Tensor) -> list[Tensor]:
        """Computes what does not depend on the draws."""
        return list(self._before(*given))

    def draw(self, prepared: list[Tensor]) -> Any:
        """Returns what `read` computes from new draws, or None if the program refuses the data."""
        outputs = self._after(*prepared)
        conditions, tensors = outputs[: self._num_conditions], iter(outputs[self._num_conditions :])
        if not all(conditions):
            return None
        leaves = [next(tensors) if other is None else other for other in self._others]
        return pytree.tree_unflatten(leaves, self._structure)


class Column(NamedTuple):
    """One block of data, for which blocks of draws are made; `graph` is for those of `num_samples` draws."""

    vae: Any
    read: Read[Any]
    given: tuple[Tensor, ...]
    graph: BlockGraph | None
    prepared: list[Tensor]
    num_samples: int

    def draw(self, num_samples: int) -> Any:
        """Returns what `read` computes from `num_samples` draws for each datum."""
        if self.graph is not None and num_samples == self.num_samples:
            reading = self.graph.draw(self.prepared)
            if reading is not None:
                return reading
        return self.read(traces.run(self.vae.model, self.vae.guide, num_samples, *self.given))


def column(vae: Any, read: Read[Any], given: tuple[Tensor, ...], num_samples: int, is_whole: bool) -> Column:
    """Prepares a block of data, with a graph for blocks of `num_samples` draws if the context asks for one.

    Args:
        vae, read, given, num_samples: as for `BlockGraph`.
        is_whole: whether many blocks have this form; the others are left to Pyro.
    """
    keep_freed_memory()
    graphs = None if is_surrounded() or not is_whole else _graphs.get()
    graph = None if graphs is None else _graph(graphs, vae, read, given, num_samples)
    prepared = [] if graph is None else graph.prepare(*given)
    return Column(vae, read, given, graph, prepared, num_samples)


def _graph(
    graphs: dict[Any, BlockGraph | None], vae: Any, read: Read[Any], given: tuple[Tensor, ...], num_samples: int
) -> BlockGraph | None:
    key = id(vae), read, num_samples, tuple((x.shape, x.stride(), x.dtype, x.device) for x in given)
    graph = graphs.get(key)
    if key not in graphs or (graph is not None and not graph.is_current()):
        try:
            with stage("compiling a graph"):
                graph = BlockGraph(vae, read, num_samples, given)
        except Exception as error:
            _logger.warning("draws are made by Pyro, and not as a compiled graph: %s", why_not(error))
            graph = None
        graphs[key] = graph
    return graph
