"""pyro_vae.train: the whole loop of a training for any program, without a run and without a config."""

import base64
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, fields
from html import escape
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from pyro_vae.data import Splits
from pyro_vae.errors import DataError, UsageError, unknown
from pyro_vae.experiment import build
from pyro_vae.experiment.config import Config
from pyro_vae.experiment.evaluate.seen_program import check_program, look_at
from pyro_vae.experiment.run import interruption
from pyro_vae.experiment.train.progress_bar import progress_bar
from pyro_vae.experiment.train.training_threads import threads_for
from pyro_vae.inference import SVI, Progress, Record, fit
from pyro_vae.model.autoencoder import Autoencoder
from pyro_vae.model.program import Program
from pyro_vae.progress_display import shown
from pyro_vae.randomness import preserved
from pyro_vae.report.draw import images
from pyro_vae.threads import computing

_OF_OBJECTIVE, _OF_OPTIMIZER = ("num_particles", "gradient"), ("lr", "weight_decay")
_WANTED = {
    *("epochs", "batch_size", "fewest_steps", "lr_schedule", "average", "max_grad_norm", "patience", "valid_samples"),
    *("compile", "threads", "kl_weight", "reconstruction_weight", "kl_warmup", *_OF_OBJECTIVE, *_OF_OPTIMIZER),
}
SETTINGS = tuple(setting.name for setting in fields(Config) if setting.name in _WANTED)
_COMPILE: dict[str, Any] = {"auto": "auto", "yes": True, "no": False}


@dataclass(frozen=True, eq=False)
class Trained:
    """The result of a training. Printing it gives two lines; a notebook shows them with the curve.

    Attributes:
        program: the one that was trained, with the parameters of its best epoch.
        history: the record of each epoch; `pyro_vae.evaluate(..., history=...)` takes this object or its history.
        best_epoch: the number of the best epoch, from 1.
        seconds: how long it took.
    """

    program: Program
    history: list[Record] = field(repr=False)
    best_epoch: int
    seconds: float

    @property
    def best(self) -> Record:
        """The record of the best epoch, whose parameters the program has."""
        return self.history[self.best_epoch - 1]

    def plot(self) -> Figure:
        """Draws minus the training loss and the validation ELBO of every epoch, the best one marked."""
        return images.training_figure([record.to_dict() for record in self.history])

    def __str__(self) -> str:
        best = self.best.to_dict()
        names = {
            "valid_elbo": "ELBO",
            "valid_reconstruction": "reconstruction",
            "valid_kl": "KL",
            "valid_bound": "bound",
        }
        known = [f"{word} {best[name]:.3f}" for name, word in names.items() if best.get(name) is not None]
        return (
            f"{type(self.program).__name__}: {len(self.history)} epochs in {self.seconds:.0f} s\n"
            f"best on validation data: epoch {self.best_epoch}, {', '.join(known)} nats"
        )

    def _repr_html_(self) -> str:
        picture = base64.b64encode(images.training([record.to_dict() for record in self.history])).decode()
        lines = "<br>".join(escape(line) for line in str(self).splitlines())
        return f'<p>{lines}</p><img alt="the training" width="540" src="data:image/png;base64,{picture}">'


def train(
    vae: Program,
    data: Splits,
    *,
    objective: Any = "mean_field_elbo",
    optimizer: Any = "adam",
    conditional: bool | None = None,
    start: bool = True,
    callback: Callable[[Record], Any] | None = None,
    seed: int = 0,
    quiet: bool = False,
    **settings: Any,
) -> Trained:
    """Trains a program and gives it the parameters of its best epoch: what scripts/train_svi.py does, without a run.

    Data outside the support of p(x|z) are refused first, with their row. Then the decoder starts at the mean of the
    training data, and a prior among their codes, where the program can (`Autoencoder.start_at`). The loop is that of
    `pyro_vae.inference.fit`, which yields records for a loop of your own. It chooses the best epoch in the same way.
    The caller's random state and the `.training` flags are left as they were.

    Ctrl-C (or SIGTERM) ends it after the step in hand: the program gets the parameters of its best epoch so far, if one
    was finished, and KeyboardInterrupt is raised. A second Ctrl-C ends at once. What `callback` was told is not lost.

    Args:
        vae: a `VAE`, a `HierarchicalVAE` or a `Program` of your own. It is trained in place, where it is.
        data: training and validation data, as `pyro_vae.data.load` and `from_arrays` make them.
        objective: any ELBO of Pyro's, as `pyro.infer.Trace_ELBO()` or `inference.ImportanceWeightedELBO(5)`; or a word
            of `--objective`. The default takes a KL in closed form where there is one.
        optimizer: a torch optimiser over the program's parameters; or a word of `--optimizer`, made with `lr` and
            `weight_decay`. Its rates are multiplied by `lr_schedule`.
        conditional: whether the program gets one-hot labels. None asks it: it gets them where it does not run without.
        start: True moves the decoder to the mean of the data and a prior among their codes, which undoes a part of an
            earlier training. False goes on from the parameters as they are: so a trained program is trained longer.
        callback: is given the record of each epoch: to log it, for example.
        seed: of the order of data, binarisation and draws of z; the initialisation is the caller's.
        quiet: True shows nothing; else a bar on a terminal, and lines elsewhere.
        settings: `epochs`, `batch_size`, `fewest_steps`, `lr`, `lr_schedule`, `weight_decay`, `average`,
            `max_grad_norm`, `patience`, `kl_weight`, `reconstruction_weight`, `kl_warmup`, `num_particles`,
            `gradient`, `valid_samples`, `compile`, `threads`.
            Meaning, range and default are those of the flags, see `pyro_vae.experiment.config.Config`: 600 epochs of
            batches of 128, Adam with a rate of 0.003 that falls along a cosine.

    Returns:
        Program, history and curve, see `Trained`.

    Raises:
        TypeError: an optimiser of `pyro.optim`.
        UsageError: no `Program`, an unknown setting, a value out of range, settings that contradict each other.
        DataError: a datum outside the support, or labels that are wanted and not there.
        ValueError: model and guide do not fit each other, or the objective.
        DivergenceError: a loss is not finite; that step was not applied.

    Example:
        >>> import torch, pyro_vae as pv
        >>> vae = pv.VAE(pv.priors.StandardNormal(2),
        ...              pv.posteriors.DiagonalNormal(pv.networks.MLP((1, 8, 8), (4,), hidden=(64,)), 2),
        ...              pv.likelihoods.Bernoulli(pv.networks.MLP((2,), (1, 8, 8), hidden=(64,))))
        >>> trained = train(vae, pv.data.load("digits", binarize="dynamic"), epochs=2, quiet=True)
        >>> len(trained.history), trained.best_epoch, trained.program is vae
        (2, 2, True)
    """
    config = _config(objective, optimizer, settings, seed)
    _check(vae, data)
    given = _given(vae, data, conditional)
    config = Config(**{**_chosen(config), "conditional": given})
    if isinstance(vae, Autoencoder):
        build.start(config, vae, data) if start else build.check_data(vae, data)
    svi = _svi(vae, config, objective, optimizer)
    begun, history, progress = time.perf_counter(), list[Record](), Progress()
    schedule = build.schedule(config, len(data.train))
    display = nullcontext() if quiet else shown("starting")
    epochs = nullcontext(lambda record: None) if quiet else progress_bar(config.epochs, 0)
    threads = threads_for(svi, vae, data, config) if config.threads == "auto" else config.threads
    with computing(threads), _flags_kept(vae), interruption.noted() as stop, display, epochs as show:
        for record in fit(vae, svi, data, schedule, conditional=given, seed=seed, progress=progress, stop=stop):
            history.append(record)
            show(record)
            if callback is not None:
                callback(record)
        if stop() and progress.best_tensors:
            vae.set_tensors(progress.best_tensors)
    return Trained(vae, history, progress.best_epoch, time.perf_counter() - begun)


def _config(objective: Any, optimizer: Any, settings: dict[str, Any], seed: int) -> Config:
    for name in settings:
        if name not in SETTINGS:
            raise unknown("setting", name, SETTINGS)
    for what, given, names in (("optimiser", optimizer, _OF_OPTIMIZER), ("objective", objective, _OF_OBJECTIVE)):
        if not isinstance(given, str) and (unused := settings.keys() & names):
            raise UsageError(f"`{min(unused)}` belongs to the {what} that was given: leave it out")
    words: dict[str, Any] = {
        name: word for name, word in (("objective", objective), ("optimizer", optimizer)) if isinstance(word, str)
    }
    config = Config(**settings, **words, seed=seed)
    build.check_names(config)
    return config


def _chosen(config: Config) -> dict[str, Any]:
    return {name: getattr(config, name) for name in (*SETTINGS, "objective", "optimizer", "seed")}


def _check(vae: Any, data: Any) -> None:
    check_program(vae)
    if not isinstance(vae, Program):
        raise UsageError(
            f"train stores and restores the state of a pyro_vae.Program; got {type(vae).__name__}: derive from it, or "
            "write the loop yourself. `pyro_vae.evaluate` takes both"
        )
    if not isinstance(data, Splits):
        raise UsageError(
            f"`data` must be Splits, whose validation data choose the best epoch; got {type(data).__name__}: "
            "pv.data.from_arrays(x) makes them"
        )
    if not list(vae.parameters()):
        raise UsageError(f"{type(vae).__name__} has no parameters to train")


def _given(vae: Program, data: Splits, conditional: bool | None) -> bool:
    """Runs the program once, and returns whether it is given labels."""
    first, like = data.train, next(vae.parameters())
    positions = torch.arange(min(2, len(first)))
    x = first.fixed(positions).to(like.device)
    y = None if first.labels is None or not data.num_classes else first.one_hot(data.num_classes)[:2].to(like.device)
    if conditional and y is None:
        raise DataError("`conditional=True` needs labels, and these data have none")
    try:
        seen, given = look_at(vae, x, y, conditional)
    except DataError:
        if isinstance(vae, Autoencoder):
            build.check_data(vae, data)  # which names the row
        raise
    except RuntimeError as error:
        if like.dtype == x.dtype:
            raise
        raise UsageError(f"x are {_name(x)} and the program is {_name(like)}: train it as vae.float()") from error
    if not isinstance(vae, Autoencoder) and seen.support is not None:
        _check_support(seen.support, data, missing=bool(getattr(vae, "missing", False)))
    return given


def _name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _check_support(support: Any, data: Splits, *, missing: bool) -> None:
    """Refuses data that the observed site of a program does not take, with the row."""
    for split in (data.valid, data.test, data.train):
        for first, x in split.blocks():
            outside = (~support.check(x) & ~(x.isnan() & missing)).flatten(1)
            if outside.any():
                row, column = outside.nonzero()[0].tolist()
                value, place = x.flatten(1)[row, column].item(), split.place(first + row)
                raise DataError(f"{data.protocol['name']}: the observed site takes {support}; got {value:g} at {place}")


def _svi(vae: Program, config: Config, objective: Any, optimizer: Any) -> SVI:
    program: Any = vae  # of any kind: parameters are all that a step needs
    made = build.svi(config, program)
    if isinstance(objective, str) and isinstance(optimizer, str):
        return made
    loss = made.loss if isinstance(objective, str) else objective
    steps = made.optimizer if isinstance(optimizer, str) else optimizer
    return SVI(vae.model, vae.guide, steps, loss, config.max_grad_norm, _COMPILE[config.compile])


@contextmanager
def _flags_kept(vae: Program) -> Iterator[None]:
    flags = [(module, module.training) for module in vae.modules()]
    try:
        with preserved(next(vae.parameters()).device):
            yield
    finally:
        for module, flag in flags:
            module.training = flag
