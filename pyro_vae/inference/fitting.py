"""fit: a generator of epoch records. It knows no files; whoever consumes the records decides what to keep.

All randomness of an epoch (order, binarisation, draws of z) is a function of (seed, epoch), so training that is taken
up again draws what it would have drawn without the break: at an epoch's end with nothing kept for that, in its middle
with the position in the stream of the draws of z. Each of many processes has a stream of its own for every step, and
its slices of the order and the binarisation of one.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor

from pyro_vae.data import Splits, one_hot
from pyro_vae.data.recipes import Recipe
from pyro_vae.errors import DataError, DivergenceError, divergence
from pyro_vae.evaluation import ELBOTerms, iwae
from pyro_vae.inference.distributed import shared_elbo_terms
from pyro_vae.inference.objectives import ImportanceWeightedELBO, check_point_guide, learning_rate_factor, warm_up
from pyro_vae.inference.step_graphs import Make
from pyro_vae.inference.svi import SVI
from pyro_vae.inference.world import ALONE, World
from pyro_vae.model.program import Program
from pyro_vae.randomness import derive, go_to, position, stream


@dataclass(frozen=True)
class Record:
    """One epoch. Everything per datum and in nats; the validation numbers are those of the true ELBO, without weights.

    Attributes:
        epoch: counted from 1.
        loss: the objective as it was minimised, with its weights, averaged over the epoch's data.
        kl_weight: at the end of the epoch (a warm-up moves it).
        learning_rate: of the epoch.
        valid_elbo, valid_reconstruction, valid_kl: on the validation data.
        valid_standard_error: of valid_elbo, over the data.
        best: whether this is the best epoch so far, see `fit`.
        valid_bound: under an importance-weighted objective, its bound on the validation data; None for others.
    """

    epoch: int
    loss: float
    kl_weight: float
    learning_rate: float
    valid_elbo: float
    valid_standard_error: float
    valid_reconstruction: float
    valid_kl: float
    best: bool
    valid_bound: float | None = None

    def to_dict(self) -> dict[str, float | bool | None]:
        """For JSON: None where an error is not known (a single datum) or a bound not finite (a plain autoencoder).

        Without `valid_bound` where there is none.
        """
        known = {name: value for name, value in asdict(self).items() if value is not None}
        return {name: value if math.isfinite(value) else None for name, value in known.items()}


@dataclass(frozen=True)
class Part:
    """The first steps of an epoch that was stopped.

    Attributes:
        steps: how many were made.
        loss: their sum.
        noise: the position in the stream that the next one draws from.
    """

    steps: int
    loss: float
    noise: dict[str, Tensor]


@dataclass
class Progress:
    """How far a fit has come, apart from parameters and optimiser: with those it is all that a later fit needs.

    Attributes:
        epoch: whole ones.
        best_epoch, best_score, best_tensors: the best of them, see `fit`.
        part: of the epoch after, where the fit was stopped within it.
    """

    epoch: int = 0
    best_epoch: int = 0
    best_score: float = -math.inf
    best_tensors: dict[str, Tensor] = field(default_factory=dict)
    part: Part | None = None

    @property
    def steps(self) -> int:
        """Of the epoch after the last whole one."""
        return self.part.steps if self.part is not None else 0


@dataclass(frozen=True)
class Schedule:
    """How long, how fast and with which weights. Each field is explained in `pyro_vae.experiment.config`."""

    epochs: int = 100
    batch_size: int = 128
    lr_schedule: str = "constant"
    kl_weight: float = 1.0
    reconstruction_weight: float = 1.0
    kl_warmup: int = 0
    patience: int = 0
    valid_samples: int = 4


def fit(
    program: Program,
    svi: SVI,
    data: Splits,
    schedule: Schedule,
    *,
    conditional: bool = False,
    seed: int = 0,
    progress: Progress | None = None,
    stop: Callable[[], bool] = lambda: False,
    world: World = ALONE,
) -> Iterator[Record]:
    """Trains epoch by epoch, yielding a `Record` after each; when it is exhausted the program holds its best state.

    Best means the highest validation ELBO; under an importance-weighted objective the highest value of its own bound
    there, which rises where the ELBO may fall; under a weighted loss, where the ELBO is not what is asked for, the
    lowest weighted loss on the validation data, with the final weights. Stops early after `schedule.patience` epochs
    without a better one. Whoever leaves the loop before its end, or stops it, has the state reached in the program, and
    the best one in `progress`. The caller's random state is left alone. The schedule multiplies the rate that each
    parameter group of the optimiser had at its first fit (`initial_lr`, as in torch's schedulers).

    Args:
        program: what is trained; it stays on the device where it is.
        svi: the step, over the program's parameters.
        data: training and validation data; moved to the program's device once. Of a mapped file, validation looks at
            the sample that `Split.in_memory` takes.
        schedule: number of epochs, batch size, weights, ...
        conditional: pass one-hot labels to model and guide as their second argument.
        seed: of order, binarisation and draws of z.
        progress: where to go on, changed in place; None starts afresh.
        stop: asked after each step and each epoch. Where it says yes, no more records come, and `progress` says where
            to go on, be it in the middle of an epoch. Of many processes all must be told the same.
        world: the processes that train together, each of which calls this with the same program and a `SharedSVI`.

    Raises:
        DivergenceError: the loss or a gradient is not finite, and the program is as before that step; or the validation
            ELBO is not, and the program holds its best state.
        ProcessError: another process has ended, or does not hold the same parameters.

    Example:
        >>> import pyro, torch, pyro_vae as pv
        >>> data = pv.data.load("digits", binarize="dynamic")
        >>> vae = pv.VAE(pv.priors.StandardNormal(2),
        ...              pv.posteriors.DiagonalNormal(pv.networks.MLP((1, 8, 8), (4,), hidden=(64,)), 2),
        ...              pv.likelihoods.Bernoulli(pv.networks.MLP((2,), (1, 8, 8), hidden=(64,))))
        >>> adam = torch.optim.Adam(vae.parameters(), lr=3e-3)
        >>> svi = pv.inference.SVI(vae.model, vae.guide, adam, pyro.infer.Trace_ELBO())
        >>> for record in fit(vae, svi, data, Schedule(epochs=2)):
        ...     print(record.epoch, record.valid_elbo < 0)
        1 True
        2 True
    """
    progress = progress if progress is not None else Progress()
    device = next(program.parameters()).device
    num_classes = data.num_classes if conditional else None
    data = data.to(device)
    valid = data.valid.in_memory()
    held_out = _arguments(valid.fixed(), valid.labels, num_classes)
    make = _Make(data.train.recipe_of_x, num_classes)
    svi.graphs.expected = schedule.epochs * _num_steps(data, schedule)
    svi.graphs.largest = min(schedule.batch_size, len(data.train))
    while progress.epoch < schedule.epochs and not _exhausted(progress, schedule):
        if stop():
            return
        epoch = progress.epoch
        rate = _set_learning_rate(svi, learning_rate_factor(schedule.lr_schedule, epoch, schedule.epochs))
        with stream(seed, "noise", epoch, device=device):
            part = _train(program, svi, data, schedule, seed, progress, make, stop, world)
        world.check_same(program.tensors(), f"after {part.steps} steps of epoch {epoch + 1}")
        if part.steps < _num_steps(data, schedule):
            progress.part = part
            return
        terms = _validate(program, held_out, schedule.valid_samples, derive(seed, "validation"), progress, world)
        bound = _bound(program, svi, held_out, derive(seed, "validation"), world)
        progress.epoch, progress.part = epoch + 1, None
        score = _score(terms, schedule) if bound is None else bound
        if best := score > progress.best_score:
            progress.best_epoch, progress.best_score = progress.epoch, score
            progress.best_tensors = {name: tensor.clone() for name, tensor in program.tensors().items()}
        yield Record(
            progress.epoch,
            part.loss / len(data.train),
            _kl_weight(schedule, svi.num_steps - 1, _num_steps(data, schedule)),
            rate,
            terms.elbo.mean,
            terms.elbo.standard_error,
            terms.reconstruction.mean,
            terms.kl.mean,
            best,
            bound,
        )
    if progress.best_tensors:
        program.set_tensors(progress.best_tensors)


def _arguments(x: Tensor, labels: Tensor | None, num_classes: int | None) -> tuple[Tensor, ...]:
    """What model and guide take: x, and one-hot labels where a program is conditional, on so many classes."""
    if num_classes is None:
        return (x,)
    if labels is None:
        raise DataError("these data have no labels, which a conditional program needs")
    return x, one_hot(labels, num_classes)


def _validate(
    program: Program, held_out: tuple[Tensor, ...], num_samples: int, seed: int, progress: Progress, world: World
) -> ELBOTerms:
    x, *y = held_out
    try:
        with divergence(f"epoch {progress.epoch + 1}: the validation ELBO"):
            terms = shared_elbo_terms(world, program, x, num_samples, y[0] if y else None, seed)
            # A plain autoencoder has no finite ELBO; its reconstruction must be.
            worth = terms.reconstruction if "infinite" in terms.elbo.kind.values() else terms.elbo
            if not math.isfinite(worth.mean):
                raise ValueError(f"it is {worth.mean}")
            return terms
    except DivergenceError:
        if progress.best_tensors:
            program.set_tensors(progress.best_tensors)
        raise


def _bound(program: Program, svi: SVI, held_out: tuple[Tensor, ...], seed: int, world: World) -> float | None:
    if not isinstance(svi.loss, ImportanceWeightedELBO) or svi.loss.num_particles == 1:
        return None
    x, *y = held_out
    found = torch.zeros(1, dtype=torch.float64)  # of the first process, so that all have the same bits
    with world.together():
        if world.first:
            found += iwae(program, x, svi.loss.num_particles, y[0] if y else None, seed).mean
    return world.sum(found).item()


def _score(terms: ELBOTerms, schedule: Schedule) -> float:
    if "infinite" in terms.elbo.kind.values():
        check_point_guide(schedule.kl_weight)
    # Weights of 0 leave a term out, be it infinite.
    weights = ((schedule.reconstruction_weight, terms.reconstruction), (-schedule.kl_weight, terms.kl))
    return sum(weight * term.mean for weight, term in weights if weight != 0)


def _train(
    program: Program,
    svi: SVI,
    data: Splits,
    schedule: Schedule,
    seed: int,
    progress: Progress,
    make: Make,
    stop: Callable[[], bool],
    world: World,
) -> Part:
    """Makes the steps of an epoch that are left, until it is to stop."""
    program.train()
    done, loss = progress.steps, 0.0
    if progress.part is not None:
        loss = progress.part.loss
        go_to(progress.part.noise, data.train.device)
    steps = _num_steps(data, schedule)
    svi.num_steps = progress.epoch * steps + done
    with (
        svi.steady(),
        closing(data.train.raw_batches(schedule.batch_size, seed=seed, epoch=progress.epoch, done=done)) as batches,
    ):
        for batch in batches:
            kl_weight = _kl_weight(schedule, svi.num_steps, steps)
            weights = {"kl_weight": kl_weight, "reconstruction_weight": schedule.reconstruction_weight}
            with world.noise(seed, progress.epoch, done, data.train.device):
                loss += svi.step_from(make, *batch, **weights)
            done += 1
            if stop():
                break
    return Part(done, loss, position(data.train.device))


def _kl_weight(schedule: Schedule, step: int, steps: int) -> float:
    return schedule.kl_weight * warm_up(step, schedule.kl_warmup * steps)


@dataclass(frozen=True)
class _Make:
    """Makes the arguments of model and guide of a raw batch; equal for equal data, so that fits share their graphs."""

    recipe: Recipe
    num_classes: int | None

    def __call__(self, levels: Tensor, noise: Tensor | None, labels: Tensor | None) -> tuple[Tensor, ...]:
        return _arguments(self.recipe.make(levels, noise), labels, self.num_classes)


def _num_steps(data: Splits, schedule: Schedule) -> int:
    """Of one epoch; the last may be of fewer data."""
    return -(-len(data.train) // schedule.batch_size)


def _set_learning_rate(svi: SVI, factor: float) -> float:
    for group in svi.optimizer.param_groups:
        group["lr"] = group.setdefault("initial_lr", group["lr"]) * factor
    return svi.optimizer.param_groups[0]["lr"]


def _exhausted(progress: Progress, schedule: Schedule) -> bool:
    return 0 < schedule.patience <= progress.epoch - progress.best_epoch
