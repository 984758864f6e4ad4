"""Seconds of training until the validation ELBO on MNIST reaches a target."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

import pyro_vae as pv
from benchmarks.agreement import StepTruth
from benchmarks.measure import tried
from benchmarks.plan import Plan
from benchmarks.problem import X_DIM, Array, Parameters, Size
from benchmarks.reference import Reference
from benchmarks.rows import STEP
from benchmarks.tables import Cell, Table
from benchmarks.team import Worker, assembled
from pyro_vae.errors import PyroVAEError

ROWS = ("pyro", "eager", "compiled", "bfloat16", "twin", "twin-compiled", "numpyro", "pythae")
EPOCHS = 40
MULTIPLE = 20  # of steps in an epoch: what one call of every row divides
EPOCH, SAVED = "epoch.npy", "parameters.npz"
COLUMNS = ["row", "training, s", "with imports, s", "epochs", "validation ELBO"]


@dataclass
class Race:
    """How far a row has come."""

    worker: Worker
    building: float
    training: float = 0.0
    epochs: int = 0
    elbo: float = -np.inf


def tables(plan: Plan) -> list[Table]:
    """One table, at the size 128 x 400."""
    size = plan.sizes[0] if plan.quick else Size(128, 400)
    title = f"Time to a validation ELBO of {plan.target:g} on MNIST, batch x hidden {size.name}"
    try:
        data = pv.data.load("mnist", data_dir=plan.data_dir, binarize="static")
    except PyroVAEError as error:
        return [Table(title, ["row"], [], [f"Skipped: {error}"])]
    train, valid = _pixels(data.train.fixed()), _pixels(data.valid.fixed())
    return [race(plan, size, title, *((train[:1000], valid[:100]) if plan.quick else (train, valid)))]


def race(plan: Plan, size: Size, title: str, train: Array, valid: Array) -> Table:
    """Every row trains an epoch in turn, on the same batches, until it has reached the target."""
    keys, watch, limit = plan.chosen(list(ROWS)), plan.watch(), 2 if plan.quick else EPOCHS
    with assembled("step", keys, size, plan.setting, size.batch) as (workers, missing):
        agreeing, refused = tried(workers, StepTruth(size).check)
    # New processes: compilation counts, and Adam starts afresh.
    with (
        assembled("step", list(agreeing), size, plan.setting, size.batch) as (fresh, lost),
        tempfile.TemporaryDirectory() as folder,
    ):
        races = {key: Race(worker, worker.building) for key, worker in fresh.items()}
        for epoch in range(limit):
            watch.look()
            np.save(Path(folder, EPOCH), np.random.default_rng([epoch, 3]).permutation(train))
            for running in races.values():
                if running.elbo < plan.target:
                    _epoch(running, Path(folder), len(train), size, valid)
    reasons = {**missing, **refused, **lost}
    rows = [
        {"row": STEP[key].title, **(_cells(races[key], plan.target) if key in races else {"training, s": reasons[key]})}
        for key in keys
    ]
    notes = [
        f"{len(train)} training and {len(valid)} validation images, binarised once; the same batches for every row, "
        f"evaluated after each epoch by float64 code that is not timed; at most {limit} epochs.",
        watch.verdict(),
    ]
    return Table(title, COLUMNS, rows, notes)


def _epoch(race: Race, folder: Path, num_data: int, size: Size, valid: Array) -> None:
    race.worker.ask("feed_file", path=str(folder / EPOCH))
    race.worker.call("steps", num_steps=max(1, num_data // size.batch // MULTIPLE) * MULTIPLE)
    race.training += race.worker.seconds
    race.epochs += 1
    race.worker.ask("save_parameters", path=str(folder / SAVED))
    with np.load(folder / SAVED) as arrays:
        race.elbo = validation_elbo(size, dict(arrays), valid)


def _cells(race: Race, target: float) -> dict[str, Cell]:
    reached = race.elbo >= target
    return {
        "training, s": race.training,
        "with imports, s": race.building + race.training,
        "epochs": race.epochs if reached else f"{race.epochs}, not reached",
        "validation ELBO": race.elbo,
    }


def validation_elbo(size: Size, parameters: Parameters, x: Array) -> float:
    """Nats per datum, one draw, by the reference."""
    return -Reference(size, parameters).losses(x, 1)[0] / len(x)


def _pixels(x: Tensor) -> Array:
    return x.reshape(len(x), X_DIM).numpy()
