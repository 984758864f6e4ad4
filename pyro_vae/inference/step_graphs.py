"""The step of SVI as one graph: loss, gradients, and the question whether they may be applied.

Pyro's handlers cost more than the arithmetic of a small network. So the program is run once (see
`pyro_vae.graphs.capture`), and a step replays its tensor operations,

    traced     one after another, as torch would run them: the same numbers to the last bit, but for the order in
               which gradients are summed over particles that are not vectorised
    compiled   by Inductor, in fewer and larger kernels: the same draws, with sums in another order

The optimiser stays outside of the graph: torch's fused kernel over all parameters is faster than what Inductor makes
of the same update, and its state and learning rate stay where schedulers and checkpoints look for them. While a program
is left alone (`SVI.steady`) that kernel is called directly, see `pyro_vae.inference.updates`.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor

from pyro_vae.graphs.capture import Graph, buffers_kept, capture, why_not
from pyro_vae.graphs.suitability import NoGraph, check_hooks, drawing_by_torch, is_surrounded, setting_nothing
from pyro_vae.graphs.watch import Watch
from pyro_vae.inference.covered_losses import COVERED, is_covered, requiring_support
from pyro_vae.inference.objectives import ImportanceWeightedELBO
from pyro_vae.inference.updates import Update
from pyro_vae.model.conditions import collected
from pyro_vae.randomness import preserved

if TYPE_CHECKING:
    from pyro_vae.inference.svi import SVI

Compile = bool | Literal["auto"]
Make = Callable[..., tuple[Any, ...]]

TRACE_AFTER = 1_000  # steps: by then tracing would have saved what it costs, a second or two with what it imports
COMPILE_AFTER = 20_000  # steps: compiling takes about ten seconds and saves about half a millisecond a step
MOST_CAPTURES = 16  # a program that changes more often than that has no graph worth keeping

_logger = logging.getLogger(__name__)
_PLAIN = (int, float, str, bool, type(None))


class Call(NamedTuple):
    """The arguments of one step.

    Attributes:
        make: what makes the arguments of model and guide, by place, of the values; None where they are the values.
        values: all arguments of the step.
        names: of the last of them, which are given by name.
        reconstruction_weight, kl_weight: see `pyro_vae.inference.weighted`.
    """

    make: Make | None
    values: tuple[Any, ...]
    names: tuple[str, ...] = ()
    reconstruction_weight: float = 1.0
    kl_weight: float = 1.0

    def arguments(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Those of model and guide, by place and by name."""
        cut = len(self.values) - len(self.names)
        args, named = self.values[:cut], self.values[cut:]
        return args if self.make is None else self.make(*args), dict(zip(self.names, named, strict=True))

    def tensors(self) -> list[Tensor]:
        """The values that are tensors."""
        return [value for value in self.values if isinstance(value, Tensor)]

    def with_tensors(self, tensors: Sequence[Tensor]) -> Call:
        """The same call with other tensors."""
        left = iter(tensors)
        return self._replace(values=tuple(next(left) if isinstance(v, Tensor) else v for v in self.values))

    def form(self) -> tuple[Any, ...]:
        """What all calls of one graph have in common."""
        left_out = self.reconstruction_weight == 0.0, self.kl_weight == 0.0
        return self.make, self.names, left_out, tuple(map(_form, self.values)), torch.get_default_dtype()


def _form(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.shape, value.stride(), value.dtype, value.device
    if not isinstance(value, _PLAIN):
        raise NoGraph(f"an argument is a {type(value).__name__}, not a tensor or a plain value")
    return type(value), value


class Found(NamedTuple):
    """What a graph says of a step.

    Attributes:
        loss: summed over the batch, in nats.
        sound: whether loss and gradients are finite and the data such as the program wants.
        gradients: in the order of the graph's parameters.
    """

    loss: float
    sound: bool
    gradients: Sequence[Tensor]


class StepGraph:
    """The graph of all steps whose calls have one form.

    Args:
        svi: whose step it is.
        call: one such call.

    Attributes:
        parameters: those that the loss depends on.

    Raises:
        NoGraph: the program can not be one graph.
        Exception: what is wrong with the program or the call, as Pyro's own step would say it.
    """

    def __init__(self, svi: SVI, call: Call) -> None:
        self._call = call
        self._weights, self._like = _weights(svi, call), svi.held()[0]
        self._last: dict[str, tuple[float, Tensor]] = {}
        self.parameters: list[Tensor] = []
        self.is_compiled = False
        check_hooks(svi.modules(), svi.held())
        with drawing_by_torch():
            seen = _rehearse(svi, call)
            self._settings = _settings(svi)
            self._watch = Watch([*svi.modules(), svi.loss], seen)
            with setting_nothing(self._watch):
                self._graph = self._captured(svi)

    def is_current(self, svi: SVI) -> bool:
        """Whether program and SVI are still what they were when they were captured."""
        return self._settings == _settings(svi) and self._watch.unchanged() and self._graph.is_current()

    def compile(self) -> None:
        """Puts compiled operations in place of the traced ones, which stay where the compiler fails."""
        self.is_compiled = True
        try:
            self._graph = self._graph.compiled(self._given(self._call))
        except Exception as error:
            _logger.warning("steps are traced and not compiled: %s", why_not(error))

    def __call__(self, call: Call) -> Found:
        loss, sound, *gradients = self._graph(*self._given(call))
        return Found(loss.item(), bool(sound), gradients)

    def _captured(self, svi: SVI) -> Graph:
        given, validating = self._given(self._call), dist.is_validation_enabled()
        try:
            return capture(partial(self._losses, svi, validating), given, svi.modules())
        except Exception as error:
            # Whatever it is: the step has just been rehearsed, and runs without a graph.
            raise NoGraph(why_not(error)) from error

    def _given(self, call: Call) -> list[Tensor]:
        return [*(self._weight(name, getattr(call, name)) for name in self._weights), *call.tensors()]

    def _weight(self, name: str, value: float) -> Tensor:
        """As a tensor of the program's own type, which a weight that is a Python number would leave as it is."""
        if name not in self._last or self._last[name][0] != value:
            self._last[name] = value, torch.tensor(value, dtype=self._like.dtype, device=self._like.device)
        return self._last[name][1]

    def _losses(self, svi: SVI, validating: bool, *given: Tensor) -> list[Tensor]:
        weights: dict[str, Any] = dict(zip(self._weights, given, strict=False))
        call = self._call.with_tensors(given[len(weights) :])._replace(**weights)
        with torch.enable_grad(), collected() as conditions:
            args, kwargs = call.arguments()
            model, guide = svi.weighted(call)
            model = requiring_support(model) if validating else model
            loss = svi.loss.differentiable_loss(model, guide, *args, **kwargs)
            trained = [parameter for parameter in svi.held() if parameter.requires_grad]
            found = torch.autograd.grad(loss, trained, allow_unused=True)
        pairs = [(p, _laid_out_as(p, g)) for p, g in zip(trained, found, strict=True) if g is not None]
        self.parameters, gradients = [p for p, _ in pairs], [g for _, g in pairs]
        norm = _norm(gradients)
        sound = torch.isfinite(loss.detach()) & torch.isfinite(norm)
        for condition in conditions:
            sound = sound & condition
        return [loss.detach(), sound, *_bounded(gradients, norm, svi.largest_norm(args, kwargs))]


class Steps:
    """The graphs of one SVI, and when to use them.

    Args:
        mode: False: never. True: from the first step on. "auto": where it saves time, for models and guides that
            belong to modules, whose changes can be seen.

    Attributes:
        expected: how many steps are to come in all, where that is known.
        largest: the number of data of a full batch, as far as it is known.
    """

    def __init__(self, mode: Compile) -> None:
        if not (isinstance(mode, bool) or mode == "auto"):
            raise ValueError(f"compile must be True, False or 'auto'; got {mode!r}")
        self.mode = mode
        self.expected = self.largest = 0
        self._graphs: dict[tuple[Any, ...], StepGraph] = {}
        self._captures = 0
        self._num_steady = 0
        self._updates: dict[StepGraph, Update] = {}  # while the program is left alone

    @contextmanager
    def steady(self) -> Iterator[None]:
        """See `SVI.steady`."""
        self._num_steady += 1
        try:
            yield
        finally:
            self._num_steady -= 1
            if not self._num_steady:
                self._updates.clear()

    def update(self, svi: SVI, graph: StepGraph) -> Update | None:
        """What applies the gradients of a graph in place of `optimizer.step()`, where nothing else may change that."""
        if not self._num_steady:
            return None
        if not self._is_left_alone(svi, graph):
            self._updates.pop(graph, None)
            if update := Update.of(svi.optimizer, graph.parameters):
                self._updates[graph] = update
        return self._updates.get(graph)

    def _is_left_alone(self, svi: SVI, graph: StepGraph) -> bool:
        """Whether nobody's code has run since this graph was looked at; hooks and other optimisers are somebody's."""
        update = self._updates.get(graph)
        return update is not None and update.is_current(svi.optimizer)

    def find(self, svi: SVI, call: Call) -> StepGraph | None:
        """The graph for this call, made where there is none yet; None where the step has to be Pyro's own."""
        if self.mode is False or is_surrounded():
            return None
        if self.mode == "auto" and not (self._is_worth(svi, TRACE_AFTER) and len(svi.modules()) == 2):
            return None
        try:
            form = call.form()
            graph = self._graphs.get(form)
            if graph is None or not (self._is_left_alone(svi, graph) or graph.is_current(svi)):
                graph = self._graphs[form] = self._make(svi, call)
        except NoGraph as reason:
            _logger.warning("steps are run by Pyro, and not as a graph: %s", reason)
            self.mode = False
            return None
        except (ValueError, torch.linalg.LinAlgError):
            return None  # Pyro's own step meets it on the same draws, and says whether it is divergence
        if not graph.is_compiled and self._compiles(svi, call):
            graph.compile()
        return graph

    def _make(self, svi: SVI, call: Call) -> StepGraph:
        if not is_covered(svi.loss):
            names = ", ".join(kind.__name__ for kind in COVERED)
            raise NoGraph(f"that is for {names}, and the loss is a {type(svi.loss).__name__}")
        if self._captures == MOST_CAPTURES:
            raise NoGraph(f"the program, or the form of its data, has changed {MOST_CAPTURES} times")
        graph = StepGraph(svi, call)
        self._captures += 1
        return graph

    def _compiles(self, svi: SVI, call: Call) -> bool:
        # The short last batch of an epoch is never worth it. That it depends on the number of the step alone lets
        # training that is taken up again do as it would have done.
        size = next((len(tensor) for tensor in call.tensors() if tensor.dim()), 0)
        self.largest = max(self.largest, size)
        return size == self.largest and (self.mode is True or self._is_worth(svi, COMPILE_AFTER))

    def _is_worth(self, svi: SVI, steps: int) -> bool:
        """Whether what pays after so many steps does: they are over, or twice as many are to come."""
        return svi.num_steps >= steps or self.expected >= 2 * steps


def _settings(svi: SVI) -> tuple[Any, ...]:
    return svi.model, svi.guide, svi.loss, svi.max_grad_norm, list(map(id, svi.held()))


def _weights(svi: SVI, call: Call) -> list[str]:
    """Which weights are arguments of the graph; one that is 0 leaves a term out, which is another graph."""
    if isinstance(svi.loss, ImportanceWeightedELBO):
        return []
    return [name for name in ("reconstruction_weight", "kl_weight") if getattr(call, name) != 0.0]


def _rehearse(svi: SVI, call: Call) -> list[str]:
    """Runs the step's loss by Pyro itself, checks and all, and returns the names of the parameters that it met."""
    device = next((tensor.device for tensor in call.tensors()), None)
    with (
        preserved(device),
        buffers_kept(svi.modules()),
        warnings.catch_warnings(),
        poutine.trace(param_only=True) as seen,
    ):
        warnings.filterwarnings("ignore", "Encountered NaN")  # the step itself says so
        args, kwargs = call.arguments()
        svi.loss.loss(*svi.weighted(call), *args, **kwargs)
    svi.check_held(seen.trace)
    return list(seen.trace.param_nodes)


def _laid_out_as(parameter: Tensor, gradient: Tensor) -> Tensor:
    """Optimisers walk through both in the order of memory."""
    if gradient.stride() == parameter.stride():
        return gradient
    return torch.empty_like(parameter, requires_grad=False).copy_(gradient)


def _norm(gradients: list[Tensor]) -> Tensor:
    """As `torch.nn.utils.get_total_norm`, by operations that a compiler can put together."""
    return torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(gradient) for gradient in gradients]))


def _bounded(gradients: list[Tensor], norm: Tensor, limit: float) -> list[Tensor]:
    """As `torch.nn.utils.clip_grads_with_norm_`, only where the norm is above the limit."""
    if math.isinf(limit):
        return gradients
    factor = torch.where(norm > limit, limit / (norm + 1e-6), 1.0)
    return [gradient * factor for gradient in gradients]
