"""A Pyro program as a graph of tensor operations.

`capture` runs a function, including its handlers, and keeps the tensor operations that it made. Replaying them gives
the result of the function without Pyro. Compiling them is faster still.

    given     tensors that differ from call to call, e.g. the data: arguments of the graph
    held      tensors that the function read from elsewhere (parameters, buffers): the graph reads the same tensors
              at each call, so that it sees every change of their values
    the rest  Python numbers, shapes, flags and branches: as they were during the capture. `pyro_vae.graphs.watch`
              detects when those of a module have changed, and the graph with them

Random numbers are drawn again at each call, from the generators that the function itself would use, in the same order.
Compiled graphs leave that to torch's own kernels, so compiling changes the speed but not the draws.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import pyro
import pyro.infer.trace_elbo
import pyro.infer.trace_mean_field_elbo
import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.proxy_tensor import make_fx

from pyro_vae import system
from pyro_vae.graphs.allocation import sources_forgotten
from pyro_vae.graphs.kernels import by_onednn, decompositions
from pyro_vae.graphs.suitability import NoGraph
from pyro_vae.model.parameter_store import store_kept
from pyro_vae.randomness import preserved

_ON_CPU = {
    "cpp.enable_floating_point_contract_flag": "fast",  # a product and a sum in one operation
    "cpp_wrapper": True,  # calls kernels from C++: up to a tenth of the time of a step
}


class Graph:
    """Tensor operations that replace a function; made by `capture`.

    Args:
        module: takes the given tensors and then the held ones.
        held: the tensors that are the same objects at each call.
    """

    def __init__(self, module: Any, held: Sequence[Tensor]) -> None:
        self.module, self.tensors = module, held
        # Without their gradients: a graph holds its own derivatives.
        self.held = [tensor.detach() for tensor in held]
        self._places = [tensor.data_ptr() for tensor in held]

    def __call__(self, *given: Tensor) -> Sequence[Tensor]:
        with torch.no_grad():
            try:
                return self.module(*given, *self.held)
            except RuntimeError:
                system.end_again()  # compiled code turns an exit in a kernel of ours into this error
                raise

    @property
    def code(self) -> str:
        """The operations as Python code, with every number that was baked in."""
        return str(getattr(self.module, "code", ""))

    def is_current(self) -> bool:
        """Whether the held tensors are where they were: `.to(device)` and `.double()` move them."""
        return [tensor.data_ptr() for tensor in self.tensors] == self._places

    @sources_forgotten()
    def compiled(self, given: Sequence[Tensor]) -> Graph:
        """Compiles the operations with Inductor.

        Args:
            given: tensors with the shapes, types and device to compile for.

        Returns:
            The same graph, with a compiled module.

        Raises:
            Exception: any failure of the compiler; most often there is no C++ compiler.
        """
        inputs: list[Any] = [*given, *self.held]
        device = next((tensor.device.type for tensor in (*given, *self.held)), "cpu")
        with torch.no_grad(), _quiet():
            from torch._inductor import compile as by_inductor

            module = make_fx(self.module, decompositions(), tracing_mode="fake")(*inputs)
            options = _ON_CPU if device == "cpu" else {"triton.cudagraphs": True}
            made = by_inductor(by_onednn(module), inputs, options={"fallback_random": True, **options})
        return Graph(made if device == "cpu" else _step_of_cuda_graph(made), self.tensors)


@contextmanager
def _quiet() -> Iterator[None]:
    """Hides the compiler's warnings about itself, and torch's about a CUDA compiler without a device."""
    logger = logging.getLogger("torch.utils.cpp_extension")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _step_of_cuda_graph(made: Callable[..., Any]) -> Callable[..., Any]:
    """Marks the last result as no longer needed: the next replay of a CUDA graph writes to the same memory."""

    def call(*tensors: Tensor) -> Any:
        torch.compiler.cudagraph_mark_step_begin()
        return made(*tensors)

    return call


@sources_forgotten()
def capture(function: Callable[..., Sequence[Tensor]], given: Sequence[Tensor], modules: Iterable[nn.Module]) -> Graph:
    """Runs `function(*given)`, twice to be safe, and returns its tensor operations.

    It leaves nothing behind: the random state, the buffers of `modules` and Pyro's parameter store are as before.
    Pyro's validation is off inside, since a graph cannot raise errors; `require` puts conditions on data.

    Args:
        function: maps the given tensors to a list of tensors. It can take gradients inside.
        given: the first arguments.
        modules: the function can change their buffers, as a batch norm does.

    Raises:
        NoGraph: the function does something different at each call.
        ValueError: the function replaces a buffer by another tensor.
        Exception: the function branches on the value of a tensor; it then has no single graph.

    Example:
        >>> graph = capture(lambda x: [x.sin() + torch.rand(2)], [torch.zeros(2)], [])
        >>> [node.target.__name__ for node in graph.module.graph.nodes if node.op == "call_function"]
        ['sin.default', 'rand.default', 'add.Tensor']
    """
    modules = list(modules)
    first, second = (_capture(function, given, modules) for _ in range(2))
    constants = zip(first.tensors, second.tensors, strict=False)
    if first.code != second.code or not all(one is other or one.equal(other) for one, other in constants):
        raise NoGraph("it does something different at each call")
    return first


def _capture(function: Callable[..., Sequence[Tensor]], given: Sequence[Tensor], modules: Iterable[nn.Module]) -> Graph:
    device = next((tensor.device for tensor in given if tensor.device.type != "cpu"), None)
    kept = buffers_kept(modules)
    with preserved(device), kept as buffers, store_kept(), _pyro_without_values(), torch.no_grad():
        # New objects: the same tensor can be given twice, or be one that the function reads.
        with _forms_noted_at_once():
            module = make_fx(function)(*(tensor.detach() for tensor in given))
        _check_buffers(buffers)
    module.graph.eliminate_dead_code()  # except draws, whose order it keeps
    return Graph(module, _lift(module))


def why_not(error: Exception) -> str:
    """Returns in a few words what prevented a function from being captured or compiled."""
    line = next(iter(str(error).splitlines()), "")
    if isinstance(error, NoGraph):
        return line
    return "it asks a tensor for its value" if "tracing tensor" in line else f"{type(error).__name__}: {line}"


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


@sources_forgotten()
def hoist(graph: Graph) -> tuple[Graph, Graph]:
    """Splits a graph into the part that does not depend on its draws, and the rest: (before, after).

    `after(*before(*given))` is `graph(*given)`. Calling only `after` again, on the stored result of `before`, gives
    other draws. So an encoder runs once per datum and not once per draw.

    Args:
        graph: as captured; compiled ones cannot be split.

    Returns:
        The graphs before and after.

    Example:
        >>> before, after = hoist(capture(lambda x: [x.exp() + torch.rand(2)], [torch.zeros(2)], []))
        >>> [node.target.__name__ for node in after.module.graph.nodes if node.op == "call_function"]
        ['rand.default', 'add.Tensor']
    """
    nodes = list(graph.module.graph.nodes)
    held = [node for node in nodes if node.op == "placeholder"][-len(graph.held) :] if graph.held else []
    drawn = _drawn(nodes)
    used = {source: None for node in nodes if node in drawn or node.op == "output" for source in node.all_input_nodes}
    passed = [node for node in used if node not in drawn and node not in held]
    given = [node for node in nodes if node.op == "placeholder" and node not in held]
    early = [node for node in nodes if node.op == "call_function" and node not in drawn]
    before = _graph_of([*given, *held], early, passed)
    late = [node for node in nodes if node in drawn]
    after = _graph_of([*passed, *held], late, nodes[-1].args[0])
    return Graph(before, graph.tensors), Graph(after, graph.tensors)


@sources_forgotten()
def settled(graph: Graph, moving: int) -> Graph:
    """Computes what depends neither on the first `moving` given tensors nor on draws once, and returns the rest.

    Args:
        graph: as captured from no more than these tensors; the values of what it holds must not change any more.
        moving: how many tensors differ from call to call.

    Example:
        >>> held = torch.zeros(2)
        >>> graph = settled(capture(lambda x: [x + held.exp()], [torch.zeros(2)], []), 1)
        >>> [node.target.__name__ for node in graph.module.graph.nodes if node.op == "call_function"]
        ['add.Tensor']
    """
    nodes = list(graph.module.graph.nodes)
    calls = [node for node in nodes if node.op == "call_function"]
    inputs = [node for node in nodes if node.op == "placeholder"]
    late = _drawn(nodes, inputs[:moving])
    rest = [node for node in calls if node in late]
    used = {source: None for node in [*rest, nodes[-1]] for source in node.all_input_nodes}
    passed = [node for node in used if node not in late]
    before = _graph_of(inputs, [node for node in calls if node not in late], passed)
    given = [torch.empty(0)] * moving  # nothing that is computed now reads them
    with torch.no_grad():
        constants = before(*given, *graph.held)
    return Graph(_graph_of([*inputs[:moving], *passed], rest, nodes[-1].args[0]), constants)


def _drawn(nodes: list[fx.Node], moving: Sequence[fx.Node] = ()) -> set[fx.Node]:
    """Returns the nodes that depend on random numbers or on these; all if something is written that others could read.

    Args:
        nodes: of a graph.
        moving: those of its inputs that count like random numbers.
    """
    drawn = set(moving)
    for node in nodes:
        if node.op != "call_function":
            continue
        tags, writes = getattr(node.target, "tags", ()), _writes(node)
        if writes:
            target = node.args[0]
            if not (isinstance(target, fx.Node) and "empty" in str(target.target) and len(target.users) == 1):
                return {*moving, *(node for node in nodes if node.op == "call_function")}
            drawn.add(target)
        if writes or torch.Tag.nondeterministic_seeded in tags or drawn.intersection(node.all_input_nodes):
            drawn.add(node)
    return drawn


def _writes(node: fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return schema is not None and schema.is_mutable


def _graph_of(inputs: Sequence[fx.Node], steps: Sequence[fx.Node], outputs: Any) -> fx.GraphModule:
    graph, copies = fx.Graph(), {}
    for i, node in enumerate(inputs):
        copies[node] = graph.placeholder(f"input_{i}")
    for node in steps:
        copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.output([copies[node] for node in outputs])
    graph.eliminate_dead_code()
    return fx.GraphModule(nn.Module(), graph)


Buffers = list[tuple[nn.Module, str, Tensor]]


@contextmanager
def buffers_kept(modules: Iterable[nn.Module]) -> Iterator[Buffers]:
    """Restores the buffers of the modules, such as batch norm statistics, after whatever runs inside."""
    parts = {id(part): part for module in modules for part in module.modules()}.values()
    buffers = [(part, name, b) for part in parts for name, b in part._buffers.items() if b is not None]
    before = [buffer.clone() for _, _, buffer in buffers]
    try:
        yield buffers
    finally:
        with torch.no_grad():
            for (part, name, buffer), value in zip(buffers, before, strict=True):
                part._buffers[name] = buffer.copy_(value)


def _check_buffers(buffers: Buffers) -> None:
    for part, name, buffer in buffers:
        if part._buffers.get(name) is not buffer:
            raise ValueError(f"{type(part).__name__} replaces its buffer {name}; {name}.copy_(...) could be a graph")


def _forms_noted_at_once() -> AbstractContextManager[Any]:
    """One mode in which `make_fx` notes the form of all tensors; one per tensor would take two thirds of its time."""
    try:
        from torch._guards import TracingContext, tracing
        from torch._subclasses import FakeTensorMode
    except ImportError:  # these are torch internals: without them a capture is slower, but the same
        return nullcontext()
    return tracing(TracingContext(FakeTensorMode()))


@contextmanager
def _pyro_without_values() -> Iterator[None]:
    """Stops Pyro's losses from reading values of tensors inside, which they do to return a float and to warn of NaN."""
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
    # float64, since Pyro sums Python floats here.
    return value.detach().double() if isinstance(value, Tensor) else value


def _unasked(value: Any, *message: str) -> Any:
    return value
