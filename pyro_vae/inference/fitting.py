"""fit: a generator of epoch records. It writes no files; its caller decides what to keep.

All randomness of an epoch (order, binarisation, draws of z) is a function of (seed, epoch). So resumed training makes
the same draws as uninterrupted training. At the end of an epoch this needs no saved state; within an epoch it needs the
position in the stream of the draws of z. Each of many processes has its own stream for every step, and its slices of a
common order and binarisation.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pyro_vae.data import Splits, one_hot
from pyro_vae.data.recipes import Recipe
from pyro_vae.data.splits import indicators
from pyro_vae.errors import DataError, DivergenceError, divergence, not_finite
from pyro_vae.evaluation import ELBOTerms, iwae
from pyro_vae.evaluation.memory import DATA_BLOCK
from pyro_vae.inference import averaging
from pyro_vae.inference.distributed import shared_elbo_terms
from pyro_vae.inference.divergence import fault_on_data
from pyro_vae.inference.epochs import Part, Progress, Record, Schedule, learning_rate_factor, warm_up
from pyro_vae.inference.objectives import ImportanceWeightedELBO, is_importance_weighted
from pyro_vae.inference.pyro_step import Make
from pyro_vae.inference.svi import SVI
from pyro_vae.inference.world import ALONE, World
from pyro_vae.loss_requirements import check_no_warm_up, check_point_guide
from pyro_vae.model import traces
from pyro_vae.model.autoencoder import Autoencoder
from pyro_vae.model.program import Program, undisturbed
from pyro_vae.model.squashed_logits import warn_of_squashed_logits_in
from pyro_vae.progress import through
from pyro_vae.randomness import derive, go_to, position, preserved, stream
from pyro_vae.threads import Pace


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
    """Trains epoch by epoch, yielding a `Record` after each; at the end the program holds its best state.

    The best epoch has the highest validation ELBO. Under an importance-weighted objective it has the highest validation
    value of that bound, which can rise while the ELBO falls. Under a weighted loss, where the ELBO is not the goal, it
    has the lowest weighted loss on the validation data, with the final weights. If the schedule averages, what is
    validated and kept is the average, see `pyro_vae.inference.averaging`; the steps go on from the program's own
    parameters.

    Training stops early after `schedule.patience` epochs without a better one. If you leave the loop before its end, or
    stop it, the program holds the state reached, and `progress` the best one. The caller's random state does not
    change. The schedule multiplies the rate that each parameter group of the optimiser had at its first fit
    (`initial_lr`, as in torch's schedulers).

    After the first epoch there is a warning if all logits of the program lie in [0, 1], as for a decoder that ends in a
    Sigmoid.

    Args:
        program: the program to train; it stays on its device.
        svi: the step, over the program's parameters.
        data: training and validation data; moved to the program's device once. For a mapped file, validation uses the
            sample of `Split.in_memory`.
        schedule: number of epochs, batch size, weights, ...
        conditional: pass one-hot labels to model and guide as their second argument.
        seed: of order, binarisation and draws of z.
        progress: where to continue, changed in place; None starts from the beginning.
        stop: called after each step and each epoch. If it returns True, there are no more records, and `progress` says
            where to continue, even in the middle of an epoch. It must return the same in all processes.
        world: the processes that train together, each of which calls this with the same program and a `SharedSVI`.

    Raises:
        DivergenceError: the loss or a gradient is not finite, and the program is as before that step; or the validation
            ELBO is not finite, and the program holds its best state.
        TypeError: the program is not a `Program`, or the data are not `Splits`.
        ProcessError: another process has ended, or has other parameters.
        ValueError: the loss, or a point guide, cannot be trained with these weights or warm-up; or all data share a
            latent, so there is no validation ELBO per datum.

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
    if not isinstance(program, Program):
        raise TypeError(
            f"fit trains a Program, such as pv.VAE; got {type(program).__name__}. For another module write a loop of "
            "your own: for x, *_ in loader: svi.step(x)"
        )
    if not isinstance(data, Splits):
        raise TypeError(
            f"data must be Splits, pv.data.from_arrays(x); got {type(data).__name__}. For a DataLoader write a loop of "
            "your own: for x, *_ in loader: svi.step(x)"
        )
    if is_importance_weighted(svi.loss):
        check_no_warm_up(schedule.kl_warmup)
    progress = progress if progress is not None else Progress()
    num_classes = data.num_classes if conditional else None
    data = data.to(next(program.parameters()).device)
    valid = data.valid.in_memory()
    held_out = _arguments(valid.fixed(), valid.labels, num_classes)
    if not isinstance(program, Autoencoder):  # all latents of which belong to one datum
        with torch.no_grad(), undisturbed(program), preserved(data.train.device):
            traces.look_for_globals(program.model, program.guide, *(array[:1] for array in held_out))
    if num_classes is not None and data.train.labels is not None:
        one_hot(data.train.labels.unique(), num_classes)  # refuses other numbers, which a step does not look for
    make = _Make(data.train.recipe_of_x, num_classes)
    training = _Training(program, svi, data, held_out, make, schedule, seed, world)
    full, done = min(schedule.batch_size, len(data.train)), progress.epoch * training.steps + progress.steps
    svi.expect(schedule.epochs * training.steps, largest=full, done=done)
    while not progress.is_exhausted(schedule):
        if stop():
            return
        rate = _set_learning_rate(svi, learning_rate_factor(schedule.lr_schedule, progress.epoch, schedule.epochs))
        part = training.train(progress, stop)
        if part.steps < training.steps:
            progress.part = part
            return
        yield training.record(part, rate, progress)
    if progress.best_tensors:
        program.set_tensors(progress.best_tensors)


@dataclass(frozen=True)
class _Training:
    """The constants of a fit, the same in all epochs.

    Attributes:
        program, svi, schedule, seed, world: as for `fit`.
        data: on the program's device.
        held_out: the arguments of model and guide for the validation data.
        make: makes their arguments from a batch.
        pace: notices steps that have become slow.
    """

    program: Program
    svi: SVI
    data: Splits
    held_out: tuple[Tensor, ...]
    make: Make
    schedule: Schedule
    seed: int
    world: World
    pace: Pace = field(default_factory=Pace)

    @property
    def steps(self) -> int:
        """The number of steps in an epoch; the last can have fewer data."""
        return -(-len(self.data.train) // self.schedule.batch_size)

    def train(self, progress: Progress, stop: Callable[[], bool]) -> Part:
        """Makes the remaining steps of an epoch, until it must stop."""
        self.program.train()
        with stream(self.seed, "noise", progress.epoch, device=self.data.train.device):
            part = self._steps(progress, stop)
        self.world.check_same(self.program.tensors(), f"after {part.steps} steps of epoch {progress.epoch + 1}")
        return part

    def _steps(self, progress: Progress, stop: Callable[[], bool]) -> Part:
        epoch, done, loss, train = progress.epoch, progress.steps, 0.0, self.data.train
        if progress.part is not None:
            loss = progress.part.loss
            go_to(progress.part.noise, train.device)
        raw = train.raw_batches(self.schedule.batch_size, seed=self.seed, epoch=epoch, done=done)
        with self.svi.steady(), closing(raw) as batches:
            self.pace.begin()
            for batch in through("", batches, self.steps - done):
                with self.world.noise(self.seed, epoch, done, train.device):
                    loss += self._step(batch, epoch * self.steps + done)
                done += 1
                self._average(progress, epoch * self.steps + done)
                self.pace.step()
                if stop():
                    break
        return Part(done, loss, position(train.device))

    def _average(self, progress: Progress, done: int) -> None:
        """Adds the program to its average, if that is due after this number of steps over all epochs."""
        count, steps_since = divmod(done, averaging.interval(self.steps))
        if self.schedule.average > 0 and not steps_since:
            tensors = self.program.tensors()
            progress.average = averaging.updated(progress.average, tensors, count, self.schedule.average)

    def _step(self, batch: tuple[Tensor | None, ...], number: int) -> float:
        weights = {"kl_weight": self._kl_weight(number), "reconstruction_weight": self.schedule.reconstruction_weight}
        return self.svi.step_from(self.make, *batch, **weights)

    def _kl_weight(self, number: int) -> float:
        """The weight in a step, counted from 0 over all epochs."""
        return self.schedule.kl_weight * warm_up(number, self.schedule.kl_warmup * self.steps)

    def record(self, part: Part, rate: float, progress: Progress) -> Record:
        """Validates after a whole epoch, and counts it in the progress; where there is an average, it is validated."""
        try:
            with averaging.holding(self.program, progress.average if self.schedule.average > 0 else {}):
                terms, bound = self._terms(progress), self._bound()
                if progress.epoch == 0 and self.world.first:
                    warn_of_squashed_logits_in(self.program, *(array[:DATA_BLOCK] for array in self.held_out))
                score = _score(terms, self.schedule) if bound is None else bound
                best = progress.finish_epoch(score, self.program.tensors())
        except DivergenceError:
            if progress.best_tensors:
                self.program.set_tensors(progress.best_tensors)
            raise
        return Record(
            epoch=progress.epoch,
            loss=part.loss / len(self.data.train),
            kl_weight=self._kl_weight(progress.epoch * self.steps - 1),
            learning_rate=rate,
            valid_elbo=terms.elbo.mean,
            valid_standard_error=terms.elbo.standard_error,
            valid_reconstruction=terms.reconstruction.mean,
            valid_kl=terms.kl.mean,
            best=best,
            valid_bound=bound,
        )

    def _terms(self, progress: Progress) -> ELBOTerms:
        x, *y = self.held_out
        seed = derive(self.seed, "validation")
        try:
            what = f"epoch {progress.epoch + 1}: the validation ELBO"
            with divergence(what):
                terms = shared_elbo_terms(
                    self.world, self.program, x, self.schedule.valid_samples, y[0] if y else None, seed
                )
                # A plain autoencoder has no finite ELBO; its reconstruction must be.
                worth = terms.reconstruction if _is_of_a_point(terms) else terms.elbo
                if not math.isfinite(worth.mean):
                    raise not_finite(what, f"it is {worth.mean}")
                return terms
        except DivergenceError as error:
            fault = fault_on_data(self.program, self.schedule.valid_samples, x, *y)
            raise DivergenceError(fault.after(f"{error}{fault.where}")) from error

    def _bound(self) -> float | None:
        loss = self.svi.loss
        if not isinstance(loss, ImportanceWeightedELBO) or loss.num_particles == 1:
            return None
        x, *y = self.held_out
        mean = torch.zeros(1, dtype=torch.float64)  # from the first process, so that all have the same bits
        with self.world.together():
            if self.world.first:
                seed = derive(self.seed, "validation")
                mean += iwae(self.program, x, loss.num_particles, y[0] if y else None, seed).mean
        return self.world.sum(mean).item()


def _arguments(
    x: Tensor, labels: Tensor | None, num_classes: int | None, hot: Callable[[Tensor, int], Tensor] = one_hot
) -> tuple[Tensor, ...]:
    """The arguments of model and guide: x and, for a conditional program, one-hot labels of that many classes."""
    if num_classes is None:
        return (x,)
    if labels is None:
        raise DataError("a conditional program needs labels, and these data have none")
    return x, hot(labels, num_classes)


@dataclass(frozen=True)
class _Make:
    """Makes the arguments of model and guide from a raw batch; equal for equal data, so fits share graphs."""

    recipe: Recipe
    num_classes: int | None

    def __call__(self, levels: Tensor, noise: Tensor | None, labels: Tensor | None) -> tuple[Tensor, ...]:
        return _arguments(self.recipe.make(levels, noise), labels, self.num_classes, indicators)


def _score(terms: ELBOTerms, schedule: Schedule) -> float:
    if _is_of_a_point(terms):
        check_point_guide(schedule.kl_weight)
    # Weights of 0 leave a term out, even an infinite one.
    weights = ((schedule.reconstruction_weight, terms.reconstruction), (-schedule.kl_weight, terms.kl))
    return sum(weight * term.mean for weight, term in weights if weight != 0)


def _is_of_a_point(terms: ELBOTerms) -> bool:
    """Whether the guide has no density, so that the KL is infinite."""
    return "infinite" in terms.elbo.kind.values()


def _set_learning_rate(svi: SVI, factor: float) -> float:
    for group in svi.optimizer.param_groups:
        group["lr"] = group.setdefault("initial_lr", group["lr"]) * factor
    return svi.optimizer.param_groups[0]["lr"]
