"""Same work in every row: a row is timed only if its losses are those of the float64 reference."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from benchmarks.problem import RATE, Size, draw_data, draw_parameters, sharpen
from benchmarks.reference import Reference
from benchmarks.team import FailedError, Worker

DRAWS, TRUE_DRAWS = 16, 64  # of a row, whose every draw may be a scan of many steps, and of the reference
STEPS = 24
BATCHES = 4
DATA, SAMPLES, TIMES = 16, 64, 16
ERRORS = 5  # standard errors
DESCENT = 0.15  # of the decrease in the first steps: runs with other noise drift apart


@dataclass(frozen=True)
class Sample:
    """Mean of repeated draws and its standard error."""

    mean: float
    error: float

    @classmethod
    def of(cls, draws: Sequence[float]) -> "Sample":
        """From draws that are independent."""
        return cls(statistics.fmean(draws), statistics.stdev(draws) / math.sqrt(len(draws)))


class StepTruth:
    """What a training step of a size must report: at next to no noise, on average, and after a few steps."""

    def __init__(self, size: Size) -> None:
        parameters, x = draw_parameters(size), draw_data(size.batch, size.x_dim)
        self.size = size
        self.sharp = Reference(size, sharpen(parameters)).losses(x, 1)[0]
        self.ordinary = Sample.of(Reference(size, parameters).losses(x, TRUE_DRAWS))
        self.descent = _descent(_trajectory(size))

    def check(self, worker: Worker) -> None:
        """Compares a row, in a process that has not yet taken a step.

        Raises:
            FailedError: its losses differ, in a sentence that says by how much.
        """
        self.check_descent(worker)
        self.check_sharp(worker)
        self.check_mean(worker)

    def check_descent(self, worker: Worker) -> None:
        """The first steps lower the loss as Adam with the right rate does."""
        descent = _descent(worker.ask("trajectory", num_data=BATCHES * self.size.batch, num_steps=STEPS))
        if not math.isclose(descent, self.descent, rel_tol=DESCENT):
            raise FailedError(f"its first {STEPS} steps lower the loss by {descent:.1f}, not {self.descent:.1f}")

    def check_sharp(self, worker: Worker) -> None:
        """The loss with next to no noise, to rounding."""
        sharp = worker.ask("draws", kind="sharp", times=1)[0]
        if not math.isclose(sharp, self.sharp, rel_tol=worker.tolerance):
            raise FailedError(f"its loss at equal parameters is {sharp:.6g}, not {self.sharp:.6g}")

    def check_mean(self, worker: Worker) -> None:
        """The mean loss with noise."""
        draws = worker.ask("draws", kind="ordinary", times=DRAWS)
        compare(Sample.of(draws), self.ordinary, worker.tolerance, "loss")


class LikelihoodTruth:
    """What log p(x) of the first data must be, on average."""

    def __init__(self, size: Size) -> None:
        reference, x = Reference(size, draw_parameters(size)), draw_data(DATA, size.x_dim)
        self.mean = Sample.of([float(reference.log_p(x, SAMPLES, seed).mean()) for seed in range(TIMES)])

    def check(self, worker: Worker) -> None:
        """Compares a row. Errors as in `StepTruth.check`."""
        worker.ask("start_over", num_data=DATA)
        draws = [statistics.fmean(worker.call("log_likelihood", num_samples=SAMPLES)) for _ in range(TIMES)]
        compare(Sample.of(draws), self.mean, worker.tolerance, "log p(x)")


def compare(found: Sample, truth: Sample, tolerance: float, what: str) -> None:
    """Means within five standard errors, and rounding."""
    allowed = ERRORS * math.hypot(found.error, truth.error) + tolerance * abs(truth.mean)
    if not abs(found.mean - truth.mean) <= allowed:
        raise FailedError(f"its mean {what} at equal parameters is {found.mean:.6g}, not {truth.mean:.6g}")


def _descent(losses: Sequence[float]) -> float:
    """By how much the loss fell, from the first round of batches to the last."""
    return statistics.fmean(losses[:BATCHES]) - statistics.fmean(losses[-BATCHES:])


def _trajectory(size: Size) -> list[float]:
    """The losses of the first steps of Adam, by the reference."""
    reference = Reference(size, draw_parameters(size))
    held = [parameter.requires_grad_() for parameter in reference.parameters.values()]
    adam = torch.optim.Adam(held, lr=RATE)
    batches = torch.from_numpy(draw_data(BATCHES * size.batch, size.x_dim)).split(size.batch)
    losses = []
    for i in range(STEPS):
        loss = reference.loss(batches[i % BATCHES], draws=1, seed=i)[0]
        adam.zero_grad()
        loss.backward()
        adam.step()
        losses.append(loss.item())
    return losses
