"""Functions that are called thousands of times at other places of the same tensors: without Pyro from some call on.

A density at a point of a Markov chain takes Pyro some milliseconds, and its tensor operations a fraction of that. So
`Replay` counts the calls, and captures the function once it is worth it (see `pyro_vae.graphs.capture`). The operations
are the same in the same order, and so are the numbers, to the last bit. What does not depend on the place, such as an
encoder's output, is computed once.
"""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from pyro_vae.graphs.capture import Graph, capture, settled
from pyro_vae.graphs.suitability import check_hooks, drawing_by_torch, is_surrounded, setting_nothing
from pyro_vae.graphs.watch import Watch
from pyro_vae.model.conditions import collected

WORTH = 300  # calls; a capture, with what torch imports for the first, takes Pyro as long as some hundred


class Replay:
    """A function of tensors, the same from call to call; its program must not change meanwhile.

    Args:
        function: maps tensors to a list of tensors. It can take gradients inside, and must not keep them.
        program: what it runs; only a module can become a graph.

    Example:
        >>> import torch
        >>> module = nn.Linear(2, 1)
        >>> twice = Replay(lambda z: [2 * module(z)], module)
        >>> all(torch.equal(*twice(z), 2 * module(z)) for z in torch.randn(400, 3, 2))
        True
        >>> twice.is_graph
        True
    """

    def __init__(self, function: Callable[..., Sequence[Tensor]], program: Any) -> None:
        self._function, self._program = function, program
        self._may = isinstance(program, nn.Module) and not is_surrounded()  # Pyro's MCMC will surround the calls
        self._calls: dict[Any, int] = {}
        self._graphs: dict[Any, Graph | None] = {}
        self._conditions = 0

    def __call__(self, *given: Tensor) -> Sequence[Tensor]:
        key = tuple((x.shape, x.stride(), x.dtype, x.device) for x in given)
        self._calls[key] = calls = self._calls.get(key, 0) + 1
        if calls == WORTH and self._may:
            self._graphs[key] = self._captured(given)
        if (graph := self._graphs.get(key)) is not None:
            outputs = graph(*(x.detach() for x in given))
            if all(outputs[: self._conditions]):
                return outputs[self._conditions :]
        return self._function(*given)

    @property
    def is_graph(self) -> bool:
        """Whether calls of some form are replayed."""
        return any(graph is not None for graph in self._graphs.values())

    def _captured(self, given: Sequence[Tensor]) -> Graph | None:
        def function(*given: Tensor) -> list[Tensor]:
            with collected() as conditions:
                outputs = self._function(*given)
            self._conditions = len(conditions)
            return [*conditions, *outputs]

        watch = Watch([self._program])
        try:
            check_hooks([self._program], self._program.parameters())
            with drawing_by_torch(), setting_nothing(watch):
                return settled(capture(function, given, [self._program]), len(given))
        except Exception:  # whatever keeps it from being a graph: Pyro goes on
            return None
