"""The contract of priors, posteriors and likelihoods, one short function per line: `PRIOR`, `POSTERIOR`, `LIKELIHOOD`.

Each function takes a `Case`, works on copies of the member in float64 on the CPU, and returns whether the member keeps
that line (None if the line does not apply) and one sentence with the measured numbers. The docstring of each is the
line that it checks. `pyro_vae.model.checks` runs them, and reports an error of the member as a failed line.
"""

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.distributions.torch_distribution import TorchDistributionMixin
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.distributions import Beta, Dirichlet, FisherSnedecor, Gamma, StudentT

from pyro_vae.model.checks import agreement, far_tails, moderation
from pyro_vae.model.likelihoods import Likelihood
from pyro_vae.model.posteriors import Posterior
from pyro_vae.model.traces import is_point
from pyro_vae.randomness import stream

Outcome = tuple[bool | None, str]
Check = Callable[["Case"], Outcome]

_DIFFERENCES = (1e-6, 1e-8)  # steps of central differences: the second is used if a kink lies within the first
_SLOPE_TOLERANCE = 1e-4
_STEPS = 8  # steps of Adam within which a gradient must reach every parameter
_FEW = slice(0, 2)  # data whose densities are integrated
_DRAWS = 4000
_ROUNDING = 1e-10  # relative; a lazy value in Pyro, filled by sampling, changes the last digits of log_prob
_ROUNDINGS = 16  # of float32, between a network's inputs and a density
_A_POINT: Outcome = (None, "does not apply: a point has no density")


@dataclass
class Case:
    """A member, what it is called with, and what it is compared with.

    Args:
        member: the user's own; only copies of it are called.
        arguments: what `forward` takes: (y,), (x, y) or (z, y).
        event: the event_shape that it must have; None if the member decides.
        seed: of the draws that several lines use.
        x: data of a likelihood; by default its own draws.
        prior: p(z) for the analytic KL of a posterior; for a prior it is the KL of a normal to it.
    """

    member: Any
    arguments: tuple[Any, ...]
    event: torch.Size | None
    seed: int
    x: Tensor | None = None
    prior: Any = None

    def copy(self, dtype: torch.dtype = torch.float64) -> Any:
        """Copies the member, in this type, on the CPU."""
        member = copy.deepcopy(self.member).cpu().to(dtype)
        moderation.moderate(member, self._gains)
        return member

    def call(self, member: Any, rows: Any = slice(None), dtype: torch.dtype = torch.float64) -> Any:
        """Calls a copy: the distribution that it returns for some rows of the data."""
        return member(*[None if a is None else _to(a, dtype)[rows] for a in self.arguments])

    def p(self, rows: Any = slice(None), dtype: torch.dtype = torch.float64) -> Any:
        """Calls a fresh copy: the distribution that it returns."""
        return self.call(self.copy(dtype), rows, dtype)

    @cached_property
    def _gains(self) -> dict[str, float]:
        """The constants that keep the outputs of networks in range if they see large numbers."""
        member = copy.deepcopy(self.member).cpu().double()
        return moderation.gains(member.eval(), self.call)

    @property
    def batch(self) -> torch.Size:
        """The batch shape (B,) of the arguments, or () if there are none."""
        return torch.Size([len(a) for a in self.arguments if a is not None][:1])

    def data(self) -> Tensor:
        """Returns the data of a likelihood, or its own draws."""
        return self.p().sample() if self.x is None else _to(self.x, torch.float64)

    @cached_property
    def measured(self) -> agreement.Measurement:
        """The agreement of density and draws for the first data, measured once."""
        with stream(self.seed, "checks", "density"):
            return agreement.measure(self.p(rows=_FEW))


def _to(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.detach().cpu().to(dtype) if tensor.is_floating_point() else tensor.detach().cpu()


# What forward returns


def distribution(case: Case) -> Outcome:
    """It is a Pyro distribution, which plates can expand."""
    p = case.p()
    name = f"{type(p).__module__}.{type(p).__name__}"
    if isinstance(p, TorchDistributionMixin):
        return True, f"forward returns {name}"
    known = hasattr(dist, type(p).__name__)
    cure = (
        f"use pyro.distributions.{type(p).__name__}" if known else "derive it from pyro.distributions.TorchDistribution"
    )
    return False, f"forward returns {name}, which plates cannot expand: {cure}"


def support(case: Case) -> Outcome:
    """Draws are in the support, which a likelihood accepts, like the given data; log_prob is finite, also far out."""
    p = case.p()
    draws = p.sample((200,))
    if not torch.isfinite(draws).all():
        return False, "samples are not finite"
    if not agreement.in_support(p, draws).all():
        return False, f"the sampler draws values outside the distribution's support, {p.support}"
    if isinstance(case.member, Likelihood):
        case.copy().check(draws.flatten(0, 1))
        case.copy().check(case.data())
    if not torch.isfinite(p.log_prob(draws)).all():
        return False, "log_prob is not finite at some of 200 draws"
    if is_point(p):
        return True, "200 draws lie in the support"
    return _far_out(case)


def _far_out(case: Case) -> Outcome:
    for dtype in (torch.float64, torch.float32):
        p = case.p(dtype=dtype)
        if place := far_tails.not_finite_at(p, p.sample((200,))):
            return False, (
                f"in {str(dtype).removeprefix('torch.')} log_prob is {place} and in the support: the guide of an "
                "untrained network, or a far datum, can reach it"
            )
    return (
        True,
        f"200 draws lie in the support, with finite log_prob, also up to {far_tails.DISTANCES[-1]} sd from them",
    )


def shapes(case: Case) -> Outcome:
    """Batch (B,), event as stated, samples and log_prob to match; a prior can ignore y and have batch ()."""
    p = case.p()
    event = p.event_shape if case.event is None else case.event
    wanted = {"forward": (p, case.batch)}
    if isinstance(case.member, Likelihood):
        z = _to(case.arguments[0], torch.float64)
        stacked = Case(case.member, (torch.stack([z, z.flip(0)]), *case.arguments[1:]), event, 0)
        wanted["forward at z (2, B, D)"] = (stacked.p(), torch.Size([2, *case.batch]))
    elif not isinstance(case.member, Posterior) and not p.batch_shape:
        wanted["forward"] = (p, torch.Size())
    for name, (returned, batch) in wanted.items():
        value = returned.sample()
        for what, shape, right in (
            ("batch_shape", returned.batch_shape, batch),
            ("event_shape", returned.event_shape, event),
            ("samples of shape", value.shape, batch + event),
            ("log_prob of shape", returned.log_prob(value).shape, batch),
        ):
            if shape != right:
                lead, rest = returned.batch_shape[: len(batch)], returned.batch_shape[len(batch) :]
                forgotten = lead == batch and len(rest) > 0 and rest == (rest if case.event is None else case.event)
                cure = f": add .to_event({len(rest)})" if forgotten else ""
                return False, f"{name} has {what} {tuple(shape)} where {tuple(right)} is needed{cure}"
    return True, f"batch {tuple(p.batch_shape)}, event {tuple(event)}"


def plates(case: Case) -> Outcome:
    """It works as a site inside the plate of the data and a plate of draws."""
    batch = case.batch or torch.Size([3])

    def program() -> None:
        with pyro.plate("draws", 2, dim=-2), pyro.plate("data", batch[0], dim=-1):
            pyro.sample("site", case.p())

    trace = poutine.trace(program).get_trace()
    trace.compute_log_prob()
    site: Any = trace.nodes["site"]
    value, log_prob = site["value"], site["log_prob"]
    right = value.shape == (2, *batch, *case.p().event_shape) and log_prob.shape == (2, *batch)
    return right, f"in plates of 2 x {batch[0]}: samples {tuple(value.shape)}, log_prob {tuple(log_prob.shape)}"


def reparametrised(case: Case) -> Outcome:
    """Gradients pass through the samples."""
    q = case.p()
    if not q.has_rsample:
        return False, f"{type(q).__name__} has no rsample: its samples carry no gradient to the encoder"
    return True, "has rsample"


# Density and draws


def integral(case: Case) -> Outcome:
    """The density integrates to 1."""
    if is_point(case.p()):
        return _A_POINT
    measured = case.measured
    if measured.integral is None:
        return None, f"not measured: {measured.how}"
    if measured.gap > 1 and measured.by_draws:
        return None, "not measured: above three numbers it needs draws that follow the density, see sampler"
    worst = (measured.integral - 1).abs().argmax()
    error = f" +- {measured.error[worst]:.1g}" if measured.error[worst] > 0 else ""
    factors = f", the worst of {len(measured.error)} factors" if len(measured.error) > 1 else ""
    return measured.integrates, f"{measured.integral[worst]:.5f}{error} by {measured.how}{factors}"


def sampler(case: Case) -> Outcome:
    """The draws follow the density."""
    if is_point(case.p()):
        return _A_POINT
    measured = case.measured
    if not measured.draws:
        return None, f"not measured: {measured.how}"
    draws, gap, agrees = measured.draws, measured.gap, measured.gap <= 1
    detail = f"{draws} draws and density differ by {gap:.2f} of what is allowed, compared with {measured.against}"
    if measured.integral is None and agrees:
        return None, f"{detail}; but {measured.how}"
    return agrees, detail


@torch.no_grad()
def mean(case: Case) -> Outcome:
    """`.mean` is the mean of the draws."""
    p = case.p(rows=_FEW)
    try:
        expected = p.mean
    except NotImplementedError:
        return None, f"does not apply: {type(p).__name__} has no closed mean"
    if not torch.isfinite(expected).all():
        return None, "does not apply: .mean is not finite"
    draws = p.sample((_DRAWS,))
    limit = agreement.threshold(expected.numel())
    allowed = limit * draws.std(0) / math.sqrt(_DRAWS) + limit**2 * (draws.max() - draws.min()) / _DRAWS + 1e-9
    ratio = float(((draws.mean(0) - expected).abs() / allowed).max())
    return ratio <= 1, f"the mean of {_DRAWS} draws differs from .mean by {ratio:.2f} of what is allowed"


@torch.no_grad()
def analytic_kl(case: Case) -> Outcome:
    """A registered KL(q || p) is the mean of log q - log p over draws, also after parameters have left their start."""
    y, moved = case.arguments[-1], case.call(_moved(case.copy()))
    if case.prior is None:
        loc = torch.full((*moved.batch_shape, case.member.latent_dim), 0.3, dtype=torch.float64)
        q, p = dist.Normal(loc, 0.7).to_event(1), moved
    else:
        q, p = moved, copy.deepcopy(case.prior).cpu().double()(None if y is None else _to(y, torch.float64))
    if is_point(moved):
        return _A_POINT
    try:
        analytic = torch.distributions.kl_divergence(q, p)
    except NotImplementedError:
        return None, f"does not apply: none is registered for {type(q).__name__} and {type(p).__name__}"
    if analytic.isinf().any():
        return None, "does not apply: it is infinite"
    if analytic.shape != q.batch_shape:
        return False, f"the registered KL has shape {tuple(analytic.shape)} where {tuple(q.batch_shape)} is needed"
    z = q.sample((_DRAWS,))
    gap = analytic - (q.log_prob(z) - p.log_prob(z))
    analytic, off, error = (each.flatten() for each in (analytic, gap.mean(0), gap.std(0) / math.sqrt(_DRAWS)))
    passed = bool((off.abs() <= agreement.threshold(len(error)) * error + 1e-9).all())
    worst = (off.abs() / (error + 1e-9)).argmax()
    return (
        passed,
        f"{analytic[worst]:.4f} nats where the draws say {(analytic - off)[worst]:.4f} +- {error[worst]:.1g}",
    )


# Parameters and state


def gradients(case: Case) -> Outcome:
    """On each route a finite gradient reaches each parameter within a few steps (some parts of a flow start at 0)."""
    member = case.copy()
    named = {name: p for name, p in member.named_parameters() if p.requires_grad}
    if not named:
        return None, "does not apply: no parameters"
    optimizer = torch.optim.Adam(named.values(), lr=1e-2)
    dry: dict[str, set[str]] = {}
    for _ in range(_STEPS):
        routes = _losses(case, member)
        for route, loss in routes.items():
            derivatives = _derivatives(loss, [*named.values()])
            by_name = {name: g for name, g in zip(named, derivatives, strict=True) if g is not None}
            if bad := [name for name, g in by_name.items() if not torch.isfinite(g).all()]:
                return False, f"the gradient of {route} is not finite at {', '.join(bad)}"
            dry.setdefault(route, set(named)).difference_update(name for name, g in by_name.items() if g.any())
        if not any(dry.values()):
            return True, f"reaches all {len(named)} parameters through {' and '.join(routes)}"
        optimizer.zero_grad()
        if (total := torch.stack([*routes.values()]).sum()).requires_grad:
            total.backward()
            optimizer.step()
    missed = "; ".join(f"{route} does not reach {', '.join(sorted(n))}" for route, n in dry.items() if n)
    return False, f"{missed}: a mistake, unless another member uses it"


def slopes(case: Case) -> Outcome:
    """Along a random direction in all parameters the gradient is the slope of each route: no part is detached."""
    member = _moved(case.copy())
    direction = [torch.randn_like(p) for p in member.parameters() if p.requires_grad]
    if not direction:
        return None, "does not apply: no parameters"
    value = _draw(case.call(copy.deepcopy(member)))

    def losses_at(step: float) -> tuple[dict[str, Tensor], list[nn.Parameter]]:
        twin = copy.deepcopy(member)
        parameters = [p for p in twin.parameters() if p.requires_grad]
        with torch.no_grad():
            for p, d in zip(parameters, direction, strict=True):
                p += step * d
        with stream(case.seed, "checks", "slopes"):  # the same noise at each step
            return _losses(case, twin, value), parameters

    here, parameters = losses_at(0.0)
    around = [(step, losses_at(step)[0], losses_at(-step)[0]) for step in _DIFFERENCES]
    routes = [route for route in here if route != "rsample" or not _draws_by_rejection(case.p())]
    for route in routes:
        found = [((above[route] - below[route]) / (2 * step)).item() for step, above, below in around]
        derivatives = _derivatives(here[route], parameters)
        gradient = sum((g * d).sum().item() for g, d in zip(derivatives, direction, strict=True) if g is not None)
        if not any(abs(slope - gradient) <= _SLOPE_TOLERANCE * (1 + abs(slope)) for slope in found):
            return (
                False,
                f"{route} has the slope {found[0]:.5g} in a random direction, its gradient says {gradient:.5g}",
            )
    return True, f"the gradient of {' and '.join(routes)} is its slope in a random direction"


def _derivatives(loss: Tensor, parameters: Sequence[Tensor]) -> Sequence[Tensor | None]:
    """Returns the gradient, None if a parameter has no part in the loss."""
    if not loss.requires_grad:
        return [None] * len(parameters)
    return torch.autograd.grad(loss, parameters, allow_unused=True, retain_graph=True)


def _draws_by_rejection(p: Any) -> bool:
    # With the same noise such draws jump; their gradients are right on average.
    while hasattr(p, "base_dist"):
        p = p.base_dist
    return isinstance(p, Gamma | Beta | Dirichlet | StudentT | FisherSnedecor)


def _losses(case: Case, member: Any, value: Tensor | None = None) -> dict[str, Tensor]:
    """Returns a loss for each route by which training reaches the parameters, at a value or at its own draws."""
    p = case.call(member)
    if isinstance(case.member, Likelihood):
        routes = {"log p(x|z)": -p.log_prob(case.data()).mean()}
        if value is not None and case.x is not None:  # data far out would hide the small slope in a location
            routes["log p(x|z) of its draws"] = -p.log_prob(value).mean()
        return routes
    value = _draw(p) if value is None else value
    if not isinstance(case.member, Posterior):
        return {"log p(z)": -p.log_prob(value).mean()}
    routes = {}
    if p.has_rsample:
        z = p.rsample()
        slope = torch.linspace(0.5, 1.5, z.numel(), dtype=z.dtype).reshape(z.shape)
        routes["rsample"] = (slope * z + z.square()).mean()
    if not is_point(p):
        routes["log q(z|x)"] = -p.log_prob(value).mean()
    return routes


def _draw(p: Any) -> Tensor:
    return p.sample(() if p.batch_shape else (64,))


def moves(case: Case) -> Outcome:
    """Everything follows .to(device) and .double()."""
    if stay := sorted(_loose_tensors(case.member)):
        return False, f"{', '.join(stay)}: a plain tensor stays behind in .to() and .double(); use register_buffer"
    single, double = case.p(dtype=torch.float32), case.p()
    value = single.sample((100,))
    if value.dtype != torch.float32 or double.sample().dtype != torch.float64:
        return False, f"samples are {value.dtype} after .float() and {double.sample().dtype} after .double()"
    if is_point(double):
        return True, "samples are float64 after .double()"
    exact, rounded = double.log_prob(value.double()), single.log_prob(value)
    if exact.dtype != torch.float64:
        return False, f"log_prob is {exact.dtype} after .double()"
    gap = (exact - rounded).abs()
    allowed = 1e-3 * (math.prod(double.event_shape) + exact.abs()) + _by_rounding(double, value.double())
    passed = bool((gap <= allowed).all())
    return passed, f"log_prob is float64 after .double() and differs from float32's by {gap.max():.2g} nats"


def _by_rounding(p: Any, value: Tensor) -> Tensor:
    """The change of log p if each number of a value moves by the resolution of float32."""
    nothing = torch.zeros_like(p.log_prob(value))
    if agreement.is_discrete(p):
        return nothing
    value = value.clone().requires_grad_()
    log_prob = p.log_prob(value)
    if not log_prob.requires_grad:
        return nothing
    (slope,) = torch.autograd.grad(log_prob.sum(), value, materialize_grads=True)
    change = (slope * value).abs().nan_to_num(0.0, posinf=0.0).reshape(*log_prob.shape, -1).sum(-1)
    return _ROUNDINGS * torch.finfo(torch.float32).eps * change.detach()


def _loose_tensors(member: nn.Module) -> Iterator[str]:
    """Names attributes that hold tensors, also in containers or distributions, that are not parameters or buffers."""
    for prefix, module in member.named_modules():
        known = {id(tensor) for tensor in (*module.parameters(), *module.buffers())}
        for name, value in vars(module).items():
            held = [] if name in ("_parameters", "_buffers", "_modules") else _tensors_in(value)
            if any(id(tensor) not in known for tensor in held):
                yield f"{prefix}.{name}".lstrip(".")


def _tensors_in(value: Any, depth: int = 3) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif depth and isinstance(value, (dict, list, tuple, torch.distributions.Distribution)):
        inner = vars(value) if isinstance(value, torch.distributions.Distribution) else value
        for item in inner.values() if isinstance(inner, dict) else inner:
            yield from _tensors_in(item, depth - 1)


def saves(case: Case) -> Outcome:
    """A trained copy, written by safetensors and read into an untrained one, is the same distribution."""
    trained = _moved(case.copy()).train()
    for _ in range(2):
        _losses(case, trained)
    state = load(save({name: tensor.clone().contiguous() for name, tensor in trained.state_dict().items()}))
    twin = case.copy()
    twin.load_state_dict(state)
    before, after = case.call(trained.eval()), case.call(twin.eval())
    gap = _distance(before, after, before.sample())
    return gap < _ROUNDING, f"{len(state)} tensors; log_prob differs by {gap:.2g} (relative) after save and load"


def _moved(member: Any) -> Any:
    """Moves parameters at random, so that nothing stays at its start."""
    with torch.no_grad():
        for parameter in member.parameters():
            spread = parameter.std() if parameter.dim() > 1 and parameter.numel() > 1 else 1.0
            parameter += 0.3 * spread * torch.randn_like(parameter)
    return member


def batch_order(case: Case) -> Outcome:
    """The distribution of a datum depends only on that datum, in training too (without dropout)."""
    if not case.batch or case.batch[0] < 2 or not case.p().batch_shape:
        return None, "does not apply: no batch of two or more"
    gaps = {}
    rows = torch.randperm(case.batch[0])[: max(1, case.batch[0] // 2)]
    for mode in ("evaluation", "training"):
        member = case.copy().train(mode == "training")
        for module in member.modules():
            module.training &= not isinstance(module, nn.modules.dropout._DropoutNd)
        p = case.call(copy.deepcopy(member))
        gaps[mode] = _distance(p, case.call(member, rows), p.sample(), rows)
    worst, gap = max(gaps.items(), key=lambda pair: pair[1])
    return gap < 1e-6, f"half of the data, shuffled: log_prob differs by {gap:.2g} (relative) in {worst}"


@torch.no_grad()
def slices(case: Case) -> Outcome:
    """With more leading dimensions, as for draws and paths, each index gives the same result as on its own."""
    place = _stacked_place(case)
    if place is None:
        return None, "does not apply: data (B, *x_shape) without labels have no more leading dimensions"
    a, member = _to(case.arguments[place], torch.float64), case.copy().eval()
    stacked = torch.stack([a, a.flip(0), a.roll(1, 0)])

    def at(argument: Tensor) -> Any:
        arguments = (*case.arguments[:place], argument, *case.arguments[place + 1 :])
        return Case(member, arguments, case.event, case.seed).call(member)

    p = at(stacked)
    if p.batch_shape != torch.Size([3, *case.batch]):
        return False, f"(3, B) in front give batch_shape {tuple(p.batch_shape)} where {(3, *case.batch)} is needed"
    value = p.sample()
    gaps = [_relative(row, _values(at(z), v)) for row, z, v in zip(_values(p, value), stacked, value, strict=True)]
    return max(gaps) < 1e-6, f"(3, B) in front and each of the 3 on its own differ by {max(gaps):.2g} (relative)"


def _stacked_place(case: Case) -> int | None:
    """Returns which argument can have more leading dimensions: latents, or else the labels of data."""
    if isinstance(case.member, Likelihood) or case.member.event_dim is not None:
        return 0
    return None if case.arguments[1] is None else 1


def _values(p: Any, value: Tensor) -> Tensor:
    return p.sample() if is_point(p) else p.log_prob(value)


def _relative(expected: Tensor, actual: Tensor) -> float:
    return float(((expected - actual).abs() / (1 + expected.abs())).max())


@torch.no_grad()
def _distance(p: Any, other: Any, value: Tensor, rows: Any = ...) -> float:
    return _relative(_values(p, value)[rows], _values(other, value[rows]))


_EVERY: dict[str, Check] = {
    "distribution": distribution,
    "support": support,
    "shapes": shapes,
    "plates": plates,
    "integral": integral,
    "sampler": sampler,
    "gradients": gradients,
    "slopes": slopes,
    "moves": moves,
    "saves": saves,
    "batch order": batch_order,
}
PRIOR: dict[str, Check] = {**_EVERY, "analytic KL": analytic_kl}
POSTERIOR: dict[str, Check] = {
    **_EVERY,
    "slices": slices,
    "reparametrised": reparametrised,
    "analytic KL": analytic_kl,
}
LIKELIHOOD: dict[str, Check] = {**_EVERY, "slices": slices, "mean": mean}
NEEDED_FIRST = ("distribution", "support", "shapes")  # without these the other lines mean nothing
