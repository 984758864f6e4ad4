"""A Pyro program as a graph of tensor operations.

`capture` runs a function once, handlers and all, and keeps the tensor operations that it made. Replaying them gives
what the function would give, without Pyro; compiling them gives it faster still.

    given     tensors that differ from call to call, e.g. the data: arguments of the graph
    held      tensors that the function read from elsewhere (parameters, buffers): the graph reads the same tensors
              at each call, so that it sees every change of their values
    the rest  Python numbers, shapes, flags and branches: as they were during the capture. `Watch` tells when those of
              a module have changed, and the graph with them

Random numbers are drawn anew at each call, from the generators that the function itself would draw from, in the same
order; compiled graphs leave that to torch's own kernels, so that compiling changes the speed and not the draws.
"""

from __future__ import annotations

import operator
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import pyro
import pyro.infer.trace_elbo
import pyro.infer.trace_mean_field_elbo
import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.proxy_tensor import make_fx

from pyro_vae.model.program import TAG, store_kept
from pyro_vae.randomness import preserved


class Graph:
    """Tensor operations in place of a function; made by `capture`.

    Args:
        module: takes the given tensors, then the held ones.
        held: the tensors that are the same objects at each call.
    """

    def __init__(self, module: Callable[..., Any], held: Sequence[Tensor]) -> None:
        self.module = module
        # Without their gradients: a graph holds its own derivatives.
        self.held = [tensor.detach() for tensor in held]
        self._places = [(tensor, tensor.data_ptr()) for tensor in held]

    def __call__(self, *given: Tensor) -> Sequence[Tensor]:
        with torch.no_grad():
            return self.module(*given, *self.held)

    @property
    def code(self) -> str:
        """The operations as Python, with every number that was baked in."""
        return str(getattr(self.module, "code", ""))

    def is_current(self) -> bool:
        """Whether the held tensors are where they were: `.to(device)` and `.double()` move them."""
        return all(tensor.data_ptr() == place for tensor, place in self._places)

    def compiled(self, given: Sequence[Tensor]) -> Graph:
        """The same by Inductor, for given tensors of these shapes, types and device.

        Raises:
            Exception: whatever the compiler has against it; most often there is no C++ compiler.
        """
        import torch._inductor

        device = next((tensor.device.type for tensor in (*given, *self.held)), "cpu")
        options = {"fallback_random": True} | ({} if device == "cpu" else {"triton.cudagraphs": True})
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the compiler's, about itself
            made = torch._inductor.compile(self.module, [*given, *self.held], options=options)  # type: ignore[arg-type]
        graph = Graph.__new__(Graph)
        graph.module = made if device == "cpu" else _step_of_cuda_graph(made)
        graph.held, graph._places = self.held, self._places
        return graph


def _step_of_cuda_graph(made: Callable[..., Any]) -> Callable[..., Any]:
    """What a replayed CUDA graph returns lies where the next replay writes: this says that the last is done with."""

    def call(*tensors: Tensor) -> Any:
        torch.compiler.cudagraph_mark_step_begin()
        return made(*tensors)

    return call


def capture(function: Callable[..., Sequence[Tensor]], given: Sequence[Tensor], modules: Iterable[nn.Module]) -> Graph:
    """Runs `function(*given)` once and returns its tensor operations.

    Nothing is left behind: random state, buffers of `modules` and Pyro's parameter store are as before. Pyro's
    validation is off inside, since a graph can not raise; conditions on data are put by `require`.

    Args:
        function: of the given tensors, to a list of tensors. It may take gradients inside.
        given: the first arguments.
        modules: whose buffers the function may change, as a batch norm does.

    Raises:
        Exception: whatever a branch on the value of a tensor leads to: such a function has no one graph.

    Example:
        >>> graph = capture(lambda x: [x.sin() + torch.rand(2)], [torch.zeros(2)], [])
        >>> [node.target.__name__ for node in graph.module.graph.nodes if node.op == "call_function"]
        ['sin.default', 'rand.default', 'add.Tensor']
    """
    device = next((tensor.device for tensor in given if tensor.device.type != "cpu"), None)
    with preserved(device), buffers_kept(modules), store_kept(), _pyro_without_values(), torch.no_grad():
        module = make_fx(function)(*given)
    held = _lift(module)
    return Graph(module, held)


def _lift(module: fx.GraphModule) -> list[Tensor]:
    """Turns the tensors that the function read from elsewhere into arguments, and returns them."""
    held: dict[int, tuple[Tensor, fx.Node]] = {}
    last = [node for node in module.graph.nodes if node.op == "placeholder"][-1:]
    for node in [node for node in module.graph.nodes if node.op == "get_attr"]:
        tensor = getattr(module, node.target)
        if id(tensor) not in held:
            with module.graph.inserting_after(last[0]) if last else module.graph.inserting_before():
                last = [module.graph.placeholder(f"held_{len(held)}")]
            held[id(tensor)] = tensor, last[0]
        node.replace_all_uses_with(held[id(tensor)][1])
        module.graph.erase_node(node)
    module.recompile()
    return [tensor for tensor, _ in held.values()]


@contextmanager
def buffers_kept(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Whatever runs inside leaves the buffers of the modules as they were, the statistics of a batch norm, say."""
    buffers = [buffer for module in modules for buffer in module.buffers()]
    before = [buffer.clone() for buffer in buffers]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in zip(buffers, before, strict=True):
                buffer.copy_(value)


@contextmanager
def _pyro_without_values() -> Iterator[None]:
    """Pyro's losses ask tensors for their values, to return a float and to warn of NaN; inside, they do not."""
    homes: tuple[Any, ...] = (pyro.infer.trace_elbo, pyro.infer.trace_mean_field_elbo)
    before = [(home, home.torch_item, home.warn_if_nan) for home in homes]
    try:
        for home in homes:
            home.torch_item, home.warn_if_nan = _detached, _unasked
        # The backward pass belongs to the graph, so it must run in the thread that is watched.
        with pyro.validation_enabled(False), torch.autograd.set_multithreading_enabled(False):
            yield
    finally:
        for home, *names in before:
            home.torch_item, home.warn_if_nan = names


def _detached(value: Any) -> Any:
    # float64, for in its place Pyro sums Python's floats.
    return value.detach().double() if isinstance(value, Tensor) else value


def _unasked(value: Any, *message: str) -> Any:
    return value


_conditions: ContextVar[list[Tensor] | None] = ContextVar("conditions", default=None)


def require(met: Tensor, explain: Callable[[], Exception]) -> None:
    """Raises what `explain` says unless `met`; inside `collected` that is left to whoever runs the graph.

    Args:
        met: boolean tensor of shape ().
        explain: makes the error.

    Example:
        >>> require(torch.tensor(1.0).isfinite(), lambda: ValueError("not finite"))
    """
    conditions = _conditions.get()
    if conditions is not None:
        conditions.append(met)
    elif not met:
        raise explain()


@contextmanager
def collected() -> Iterator[list[Tensor]]:
    """Inside, `require` raises nothing and adds its truth values to the list."""
    conditions: list[Tensor] = []
    token = _conditions.set(conditions)
    try:
        yield conditions
    finally:
        _conditions.reset(token)


class Watch:
    """Tells whether modules, and other objects, are still as they were: members, tensors, flags, plain attributes.

    What a graph has baked in is what its function saw in Python. This remembers it, and compares in some microseconds.
    It looks into dictionaries, and at the length of lists, but not into globals and closures.

    Args:
        objects: modules (with their submodules) and others, whose attributes matter.
        store: names in Pyro's parameter store that matter.

    Example:
        >>> module = nn.Dropout(0.1)
        >>> watch = Watch([module])
        >>> module.p = 0.2
        >>> watch.unchanged()
        False
    """

    _PLAIN = (int, float, str, tuple, type(None))

    def __init__(self, objects: Iterable[Any], store: Iterable[str] = ()) -> None:
        same: list[tuple[dict[str, Any], str, Any]] = []
        plain: list[tuple[dict[str, Any], str, Any]] = []
        self._containers: list[Any] = []
        for attributes in _attributes(objects):
            for name, value in attributes.items():
                if isinstance(value, self._PLAIN):
                    plain.append((attributes, name, value))
                elif isinstance(value, dict):
                    same += [(value, key, item) for key, item in value.items()]
                if isinstance(value, dict | list | set):
                    self._containers.append(value)
        held = pyro.get_param_store()._params
        self._listed = [(name, held[name]) for name in store if not name.startswith(TAG)]
        self._same, self._plain = _columns(same), _columns(plain)
        self._sizes = list(map(len, self._containers))
        tensors = [value for _, _, value in same if isinstance(value, Tensor)] + [value for _, value in self._listed]
        self._tensors = list({id(tensor): tensor for tensor in tensors}.values())
        self._trained = [tensor.requires_grad for tensor in self._tensors]

    def unchanged(self) -> bool:
        """Whether all is as it was."""
        held = pyro.get_param_store()._params  # another dictionary, after the store was cleared
        if not all(held.get(name) is tensor for name, tensor in self._listed):
            return False
        # In the loops of the interpreter, since this is asked at every step.
        mappings, keys, values = self._same
        if not all(map(operator.is_, map(dict.get, mappings, keys), values)):
            return False
        mappings, keys, values = self._plain
        return (
            all(map(operator.eq, map(dict.get, mappings, keys), values))
            and list(map(len, self._containers)) == self._sizes
            and [tensor.requires_grad for tensor in self._tensors] == self._trained
        )


def _columns(rows: list[tuple[Any, Any, Any]]) -> tuple[list[Any], list[Any], list[Any]]:
    return [row[0] for row in rows], [row[1] for row in rows], [row[2] for row in rows]


def _attributes(objects: Iterable[Any]) -> Iterator[dict[str, Any]]:
    parts = {id(part): part for one in objects for part in (one.modules() if isinstance(one, nn.Module) else [one])}
    return map(vars, parts.values())
