"""The step of SVI as one graph: loss, gradients, and a check whether they may be applied.

Pyro's handlers cost more than the arithmetic of a small network. So the program is run once (see
`pyro_vae.graphs.capture`), and a step replays its tensor operations,

    traced     one after another, as torch would run them: the same numbers to the last bit, except for the order in
               which gradients are summed over particles that are not vectorised
    compiled   by Inductor, in fewer and larger kernels: the same draws, with sums in another order

The optimiser stays outside of the graph. torch's fused kernel over all parameters is faster than Inductor's version of
the update, and its state and learning rate stay where schedulers and checkpoints look for them. While no one changes
the program (`SVI.steady`), a step calls that kernel directly, see `pyro_vae.inference.fused_adam`.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor

from pyro_vae.graphs.capture import Graph, buffers_kept, capture, why_not
from pyro_vae.graphs.suitability import NoGraph, check_hooks, drawing_by_torch, is_surrounded, setting_nothing
from pyro_vae.graphs.watch import Watch
from pyro_vae.inference.covered_losses import COVERED, is_covered, requiring_support
from pyro_vae.inference.fused_adam import Update
from pyro_vae.inference.objectives import ImportanceWeightedELBO
from pyro_vae.inference.pyro_step import Call, PyroStep
from pyro_vae.inference.replayed import Outputs, Replayed, outputs
from pyro_vae.inference.world import ALONE, World
from pyro_vae.model import parameter_store
from pyro_vae.model.conditions import collected
from pyro_vae.model.program import Program
from pyro_vae.randomness import preserved

Compile = bool | Literal["auto"]

TRACE_AFTER = 1_000  # steps: by then tracing would have paid for itself, a second or two with its imports
COMPILE_AFTER = 20_000  # steps: compiling takes about ten seconds and saves about half a millisecond per step
MOST_CAPTURES = 16  # if a program changes more often, no graph of it is worth keeping

_logger = logging.getLogger(__name__)
_PLAIN = (int, float, str, bool, type(None))


class StepGraph:
    """The graph of all steps whose calls have the same form.

    Args:
        step: the step as Pyro runs it; later calls get the same one.
        call: one such call.
        world: the processes that share the step.

    Attributes:
        parameters: the parameters that the loss depends on.
        is_compiled: whether a compiler was asked for it.

    Raises:
        NoGraph: the program cannot be one graph.
        Exception: the error that Pyro's own step would raise for the program or the call.
    """

    def __init__(self, step: PyroStep, call: Call, world: World = ALONE) -> None:
        self._call, self._world = call, world
        self._weights, self._like = _weights(step, call), step.held()[0]
        self._last: dict[str, tuple[float, Tensor]] = {}
        self._outputs = Outputs([], math.inf)
        self.is_compiled = False
        check_hooks(step.modules(), step.held())
        with drawing_by_torch():
            seen = _rehearse(step, call)
            self._hidden = set(map(id, step.hidden(seen)))
            self._settings = _settings(step)
            self._watch = Watch([*step.modules(), step.loss], seen.param_nodes)
            self._entries = parameter_store.entries(seen.param_nodes)
            with setting_nothing(self._watch):
                self._graph = self._captured(step)

    @property
    def parameters(self) -> Sequence[Tensor]:
        return self._outputs.parameters

    def is_current(self, step: PyroStep) -> bool:
        """Returns whether program and step are still what they were when they were captured."""
        unchanged = self._settings == _settings(step) and self._watch.unchanged() and self._graph.is_current()
        return unchanged and self._is_listed(step)

    def compile(self) -> None:
        """Replaces the traced operations by compiled ones, unless the compiler fails in one of the processes."""
        self.is_compiled = True
        try:
            with self._world.together():
                made = self._graph.compiled(self._given(self._call))
            self._graph = made
        except Exception as error:
            if self._world.first:
                _logger.warning("steps are traced, but not compiled: %s", why_not(error))

    def __call__(self, call: Call) -> Replayed:
        return self._outputs.read(partial(self._graph, *self._given(call)))

    def _is_listed(self, step: PyroStep) -> bool:
        """Whether Pyro's store holds the parameters of the programs; if it was cleared, they list them again."""
        if not parameter_store.holds(self._entries) or parameter_store.has_strangers():
            for program in step.modules():
                if isinstance(program, Program):
                    program.list_parameters()
        return parameter_store.holds(self._entries)

    def _captured(self, step: PyroStep) -> Graph:
        given, validating = self._given(self._call), dist.is_validation_enabled()
        try:
            return capture(partial(self._losses, step, validating), given, step.modules())
        except Exception as error:
            # For any error: the step has just been rehearsed, and runs without a graph.
            raise NoGraph(why_not(error)) from error

    def _given(self, call: Call) -> list[Tensor]:
        return [*(self._weight(name, getattr(call, name)) for name in self._weights), *call.tensors()]

    def _weight(self, name: str, value: float) -> Tensor:
        """A tensor of the program's own type, since a weight must not change the type."""
        if name not in self._last or self._last[name][0] != value:
            self._last[name] = value, torch.tensor(value, dtype=self._like.dtype, device=self._like.device)
        return self._last[name][1]

    def _losses(self, step: PyroStep, validating: bool, *given: Tensor) -> list[Tensor]:
        weights: dict[str, Any] = dict(zip(self._weights, given, strict=False))
        call = self._call.with_tensors(given[len(weights) :])._replace(**weights)
        with torch.enable_grad(), collected() as conditions:
            args, kwargs = call.arguments()
            own_args, own_kwargs, weight = step.share(args, kwargs)
            model, guide = step.weighted(call)
            model = requiring_support(model) if validating else model
            loss = step.loss.differentiable_loss(model, guide, *own_args, **own_kwargs)
            loss = loss if weight == 1.0 else weight * loss
            trained = [p for p in step.held() if p.requires_grad and id(p) not in self._hidden]
            of_each = torch.autograd.grad(loss, trained, allow_unused=True)
        pairs = [(p, g) for p, g in zip(trained, of_each, strict=True) if g is not None]
        self._outputs = outputs([p for p, _ in pairs], step.largest_norm(args, kwargs), self._world)
        sound = torch.isfinite(loss.detach())
        for condition in conditions:
            sound = sound & condition
        return self._outputs.made(loss.detach(), sound, [g for _, g in pairs])


class StepGraphs:
    """The graphs of one SVI, which also decides when to use them.

    Args:
        mode: False: never. True: from the first step on. "auto": if it saves time, for models and guides that belong to
            modules, whose changes can be seen.
        world: the processes that share the steps. They make and use the same graphs, or none.

    Attributes:
        expected: the total number of steps, if it is known.
        largest: the number of data in a full batch, if it is known.
    """

    def __init__(self, mode: Compile, world: World = ALONE) -> None:
        if not (isinstance(mode, bool) or mode == "auto"):
            raise ValueError(f"compile must be True, False or 'auto'; got {mode!r}")
        self.mode, self.world = mode, world
        self.expected = self.largest = 0
        self._graphs: dict[tuple[Any, ...], StepGraph] = {}
        self._captures = 0
        self._num_steady = 0
        self._updates: dict[StepGraph, Update] = {}  # valid while no one changes the program

    @contextmanager
    def steady(self) -> Iterator[None]:
        """Inside, the program is inspected only once, see `SVI.steady`."""
        self._num_steady += 1
        try:
            yield
        finally:
            self._num_steady -= 1
            if not self._num_steady:
                self._updates.clear()

    def update(self, step: PyroStep, graph: StepGraph) -> Update | None:
        """Returns the update that applies the gradients of a graph; None if that must be `optimizer.step()`."""
        if not self._num_steady:
            return None
        if not self._is_left_alone(step, graph):
            self._updates.pop(graph, None)
            if update := Update.of(step.optimizer, graph.parameters):
                self._updates[graph] = update
        return self._updates.get(graph)

    def _is_left_alone(self, step: PyroStep, graph: StepGraph) -> bool:
        """Whether no foreign code, such as a hook or another optimiser, has run since this graph was inspected."""
        update = self._updates.get(graph)
        return update is not None and update.is_current(step.optimizer)

    def find(self, step: PyroStep, call: Call) -> StepGraph | None:
        """Returns the graph for this call, and makes it if there is none; None if the step must be Pyro's own."""
        if self.mode is False or is_surrounded():
            return None
        if self.mode == "auto" and not (self._is_worth(step, TRACE_AFTER) and len(step.modules()) == 2):
            return None
        try:
            form = _form(call)
            graph = self._graphs.get(form)
            if graph is None or not (self._is_left_alone(step, graph) or self._is_current(step, graph)):
                graph = self._graphs[form] = self._make(step, call)
        except NoGraph as reason:
            if self.world.first:
                _logger.warning("Pyro runs the steps, not a graph: %s", reason)
            self.mode = False
            return None
        except (ValueError, torch.linalg.LinAlgError):
            return None  # Pyro's own step meets the error on the same draws, and says whether it is divergence
        if not graph.is_compiled and self._compiles(step, call):
            graph.compile()
        return graph

    def _is_current(self, step: PyroStep, graph: StepGraph) -> bool:
        """Whether a graph is current in all processes, since they replay it together."""
        return not self.world.largest(not graph.is_current(step))

    def _make(self, step: PyroStep, call: Call) -> StepGraph:
        with self.world.together():
            if not is_covered(step.loss):
                names = ", ".join(kind.__name__ for kind in COVERED)
                raise NoGraph(f"graphs work for {names}, and the loss is a {type(step.loss).__name__}")
            if self._captures == MOST_CAPTURES:
                raise NoGraph(f"the program, or the form of its data, has changed {MOST_CAPTURES} times")
            graph = StepGraph(step, call, self.world)
        places = {id(parameter): place for place, parameter in enumerate(step.held())}
        if len(set(self.world.gather(str([places[id(p)] for p in graph.parameters])))) > 1:
            raise NoGraph("its loss depends on other parameters in other processes")
        self._captures += 1
        return graph

    def _compiles(self, step: PyroStep, call: Call) -> bool:
        # The short last batch of an epoch is never worth it. The choice depends only on the number of the step, so
        # resumed training makes the same one.
        size = next((len(tensor) for tensor in call.tensors() if tensor.dim()), 0)
        self.largest = max(self.largest, size)
        return size == self.largest and (self.mode is True or self._is_worth(step, COMPILE_AFTER))

    def _is_worth(self, step: PyroStep, steps: int) -> bool:
        """Whether to do what pays off after this many steps: they are over, or twice as many are expected."""
        return step.num_steps >= steps or self.expected >= 2 * steps


def _form(call: Call) -> tuple[Any, ...]:
    """The properties that all calls of one graph share."""
    left_out = call.reconstruction_weight == 0.0, call.kl_weight == 0.0
    return call.make, call.names, left_out, tuple(map(_form_of_value, call.values)), torch.get_default_dtype()


def _form_of_value(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.shape, value.stride(), value.dtype, value.device
    if not isinstance(value, _PLAIN):
        raise NoGraph(f"an argument is a {type(value).__name__}, not a tensor or a plain value")
    return type(value), value


def _settings(step: PyroStep) -> tuple[Any, ...]:
    return step.model, step.guide, step.loss, step.max_grad_norm, list(map(id, step.held()))


def _weights(step: PyroStep, call: Call) -> list[str]:
    """The weights that are arguments of the graph; a weight of 0 leaves a term out, which makes another graph."""
    if isinstance(step.loss, ImportanceWeightedELBO):
        return []
    return [name for name in ("reconstruction_weight", "kl_weight") if getattr(call, name) != 0.0]


def _rehearse(step: PyroStep, call: Call) -> poutine.Trace:
    """Runs the step's loss in Pyro with all checks, and returns the trace of the parameters it used."""
    device = next((tensor.device for tensor in call.tensors()), None)
    with (
        preserved(device),
        buffers_kept(step.modules()),
        warnings.catch_warnings(),
        poutine.trace(param_only=True) as seen,
    ):
        warnings.filterwarnings("ignore", "Encountered NaN")  # the step itself reports it
        args, kwargs, _ = step.share(*call.arguments())
        step.loss.loss(*step.weighted(call), *args, **kwargs)
    step.check_held(seen.trace)
    return seen.trace
