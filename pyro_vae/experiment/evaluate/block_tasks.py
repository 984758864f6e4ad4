"""What an evaluation computes of single data, in blocks of 128: all that grows with their number.

A task is one question about many data. Its answer for one block, a `Part`, is a function of the program, the plan and
the number of the block: it does not matter which process computes it, nor what that process has computed before. (The
candidates of an escalation are an exception: each process keeps the most that could be needed, and the merge selects
from them.) So blocks can be shared out over processes and machines and joined again, and a single process takes the
same path.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_vae import evaluation
from pyro_vae.errors import divergence
from pyro_vae.evaluation import Estimate
from pyro_vae.evaluation.bounds import curve_of
from pyro_vae.evaluation.memory import DATA_BLOCK
from pyro_vae.evaluation.trust.diagnostics import guide_draws
from pyro_vae.evaluation.trust.gaps import elbos
from pyro_vae.experiment.evaluate.evaluated_run import Subject
from pyro_vae.experiment.evaluate.headline import ON_TEST_DATA
from pyro_vae.experiment.run.evaluation_data import DataReader
from pyro_vae.progress import through
from pyro_vae.randomness import derive, generator, stream

Part = dict[str, Estimate | Tensor]  # the first dimension of each tensor is that of the data

GRID_DIM = 3  # a grid needs n^D points
PICTURE_DIM = 2  # of a posterior on a grid


class Block(NamedTuple):
    """One block of a task.

    Attributes:
        number: its place among the blocks of the task.
        positions: those of its data (b,).
        x: its data (b, *x_shape).
        y: their one-hot labels (b, C), for a conditional program.
    """

    number: int
    positions: Tensor
    x: Tensor
    y: Tensor | None


def _elbo(subject: Subject, block: Block) -> Part:
    draws = subject.plan.elbo_samples
    with divergence(ON_TEST_DATA):
        terms = evaluation.elbo_terms(
            subject.trained.vae, block.x, draws, block.y, subject.seed, first_block=block.number
        )
    return {"elbo": terms.elbo, "reconstruction": terms.reconstruction, "kl": terms.kl}


def _bound(subject: Subject, block: Block) -> Part:
    """Estimates only log p(x), which needs no weights in memory."""
    vae, draws = subject.trained.vae, subject.plan.num_samples
    with divergence(ON_TEST_DATA):
        bound = evaluation.iwae(vae, block.x, draws, block.y, subject.seed, first_block=block.number)
    return {"log_likelihood": bound}


def _log_likelihood(subject: Subject, block: Block) -> Part:
    vae, (number, positions, x, y) = subject.trained.vae, block
    with divergence(ON_TEST_DATA):
        weights = evaluation.log_weights(vae, x, subject.plan.num_samples, y, subject.seed, first_block=number).cpu()
        curve = curve_of(weights)
    hard = subject.hardest.among(curve.khat)
    about: Part = {"jackknife": curve.jackknife, "khat": curve.khat, "ess": curve.effective}
    escalated: Part = {"hard": positions[hard], "hard_weights": weights.T[hard]}
    return {**{str(k): bound for k, bound in curve.bounds.items()}, **about, **escalated}


def _classes(subject: Subject, block: Block) -> Part:
    data: Any = subject.trained.data
    vae, draws = subject.trained.vae, subject.plan.elbo_samples
    frequencies = data.train.one_hot(data.num_classes).mean(0)
    classes = evaluation.classify(vae, block.x, frequencies, draws, subject.seed, first_block=block.number)
    return {name: getattr(classes, name).T for name in ("log_likelihood", "log_posterior", "khat")}


def _rounding(subject: Subject, block: Block) -> Part:
    vae, (number, _, x, y) = subject.trained.vae, block
    loss = evaluation.rounding_loss(vae, x, subject.plan.elbo_samples, y, seed=subject.seed, first_block=number)
    return {"rounding": loss}


def _draws(subject: Subject, block: Block) -> Part:
    vae, (number, _, x, y) = subject.trained.vae, block
    drawn = guide_draws(vae, x, subject.saved_draws, y, subject.seed, first_block=number)
    return {f"{group}/{site}": draws for group, sites in drawn.items() for site, draws in sites.items()}


def _annealing(subject: Subject, block: Block) -> Part:
    vae, plan, (number, _, x, y) = subject.trained.vae, subject.plan, block
    return {"AIS": evaluation.ais(vae, x, plan.num_temperatures, plan.num_chains, y, subject.seed, first_block=number)}


def _grid(subject: Subject, block: Block) -> Part:
    grid = evaluation.quadrature(subject.trained.vae, block.x, block.y)
    return {"grid": replace(grid, num_samples=0)}  # the largest n^D, which is that of all blocks together


def _simulated(subject: Subject, block: Block) -> Part:
    vae, plan, seed = subject.trained.vae, subject.plan, derive(subject.seed, "simulated")
    if subject.trained.silent:
        raise ValueError(subject.trained.silent)
    y, first = _drawn_labels(subject, seed, block.positions), block.number
    size = None if y is not None else len(block.positions)
    bounds = evaluation.bdmc(
        vae, size, plan.num_temperatures, plan.num_chains, y, seed, first_block=first, mask=_copied_mask(subject, block)
    )
    return {
        "forward": bounds.forward,
        "reverse": bounds.reverse,
        "elbo": evaluation.elbo(vae, bounds.x, plan.elbo_samples, y, seed, first_block=first),
        "iwae": evaluation.iwae(vae, bounds.x, plan.num_samples, y, seed, first_block=first),
    }


def _drawn_labels(subject: Subject, seed: int, index: Tensor) -> Tensor | None:
    """Draws labels for simulated data, as frequent as in the training data, or in the test data if there are none."""
    draws, labelled = generator(seed, "labels"), subject.train or subject.test
    return labelled.y(torch.randint(len(labelled), (len(subject.chosen),), generator=draws)[index])


def _copied_mask(subject: Subject, block: Block) -> Tensor | None:
    """Which numbers of simulated data are observed: the same as in the annealed test data."""
    if not getattr(subject.trained.vae, "missing", False):
        return None
    return ~torch.cat([x for x, _ in subject.test.pieces([subject.chosen[block.positions]])]).isnan()


def _guides(subject: Subject, block: Block) -> Part:
    guides = elbos(subject.trained.vae, block.x, block.y, seed=subject.seed, first_block=block.number)
    return {name: elbo for name, elbo in guides._asdict().items() if elbo is not None}


def _training(subject: Subject, block: Block) -> Part:
    vae, (number, _, x, y), seed = subject.trained.vae, block, derive(subject.seed, "train")
    return {"elbo": evaluation.elbo(vae, x, subject.plan.elbo_samples, y, seed, first_block=number)}


def _reconstruction(subject: Subject, block: Block) -> Part:
    """Estimates log p(x|z) at the code of a plain autoencoder, and the RMSE of the mean of p(x|z)."""
    vae, (_, _, x, y) = subject.trained.vae, block
    reconstruction: Any = _elbo(subject, block)["reconstruction"]
    with stream(subject.seed, "rmse", device=x.device):
        means = vae.reconstruct(x, y)[0]
    value = (means - x).double().flatten(1).square().nanmean(1).sqrt().cpu()  # over the observed numbers
    is_exact = set(reconstruction.kind.values()) == {"infinite"}  # every latent is a point: draws are all the same
    error = torch.full_like(value, 0.0 if is_exact else math.nan)
    return {"reconstruction": reconstruction, "rmse": Estimate("RMSE", value, error, 1, unit="per number")}


def _has_classes(subject: Subject) -> bool:
    has_labels = subject.trained.facts.conditional and subject.test.labels is not None
    return has_labels and subject.trained.data is not None  # which says how frequent each class is


@dataclass(frozen=True)
class Task:
    """One question about many data.

    Attributes:
        ask: gives the answer for one block.
        says: what is being done, with {size} data, for a person who waits.
        applies: whether this program and this plan ask the question.
        data: gives the reader of the data, None where they are simulated, and their positions.
        is_headline: if a program cannot be asked, whether that is an error instead of a reason to leave the task out.
        surroundings: gives the context in which all blocks are asked.
    """

    ask: Callable[[Subject, Block], Part]
    says: str
    applies: Callable[[Subject], Any]
    data: Callable[[Subject], tuple[DataReader | None, Tensor]]
    is_headline: bool = False
    surroundings: Callable[[Subject], AbstractContextManager[None]] = lambda subject: nullcontext()


def _of_test(subject: Subject) -> tuple[DataReader, Tensor]:
    return subject.test, torch.arange(len(subject.test))


def _of_chosen(subject: Subject) -> tuple[DataReader, Tensor]:
    return subject.test, subject.chosen


def _has_density(subject: Subject) -> bool:
    return not subject.is_autoencoder


def _is_annealed(subject: Subject) -> bool:
    return _has_density(subject) and subject.plan.annealed_data > 0


TASKS = {
    "reconstruction": Task(
        _reconstruction, "reconstructing {size} test data", lambda s: s.is_autoencoder, _of_test, is_headline=True
    ),
    "elbo": Task(
        _elbo, "ELBO of {size} test data, {plan.elbo_samples} draws each", _has_density, _of_test, is_headline=True
    ),
    "log_likelihood": Task(
        _bound,
        "log p(x) of {size} test data, K = {plan.num_samples}",
        lambda s: _has_density(s) and s.is_headline,
        _of_test,
        is_headline=True,
        surroundings=Subject.graphs,
    ),
    "iwae": Task(
        _log_likelihood,
        "log p(x) of {size} test data, K = {plan.num_samples}",
        _has_density,
        _of_test,
        is_headline=True,
        surroundings=Subject.graphs,
    ),
    "classes": Task(
        _classes,
        "classes of {size} test data",
        lambda s: _has_density(s) and _has_classes(s),
        _of_test,
        is_headline=True,
    ),
    "rounding": Task(
        _rounding,
        "what bfloat16 changes for {size} test data",
        lambda s: evaluation.is_rounded(s.trained.vae),
        _of_test,
        is_headline=True,
    ),
    "annealing": Task(_annealing, "annealing {size} test data, T = {plan.num_temperatures}", _is_annealed, _of_chosen),
    "grid": Task(
        _grid,
        "log p(x) of {size} test data on a grid",
        lambda s: _is_annealed(s) and s.latent_dim <= GRID_DIM,
        _of_chosen,
    ),
    "simulated": Task(
        _simulated,
        "annealing {size} data simulated from the model, in both directions",
        _is_annealed,
        lambda s: (None, torch.arange(len(s.chosen))),
    ),
    "gaps": Task(_guides, "the guide refined for {size} test data", _is_annealed, _of_chosen),
    "training": Task(
        _training,
        "ELBO of {size} training data",
        lambda s: _has_density(s) and s.train is not None,
        lambda s: (s.train, torch.arange(len(s.train or ()))),
    ),
    "draws": Task(
        _draws, "draws of {size} test data to keep", _has_density, lambda s: (s.test, s.saved), is_headline=True
    ),
}


def blocks(subject: Subject) -> list[tuple[str, int]]:
    """Lists the work of an evaluation that is done block by block: (task, number of the block), in a fixed order."""
    return [
        (name, number) for name, task in TASKS.items() if task.applies(subject) for number in blocks_of(subject, name)
    ]


def measure(subject: Subject, name: str, wanted: Sequence[int] | None = None) -> dict[int, Part | str]:
    """Computes the answers to one task.

    Args:
        subject: what is evaluated.
        name: the name of the task.
        wanted: the ascending numbers of its blocks; None for all of them.

    Returns:
        Number of the block -> its answer, or a sentence where this program cannot be asked.

    Raises:
        DivergenceError: an estimate on the test data cannot be computed.
        DataError: data lie outside the support of the likelihood.
    """
    task = TASKS[name]
    answers: dict[int, Part | str] = {}
    with task.surroundings(subject):
        wanted = blocks_of(subject, name) if wanted is None else wanted
        for block in through("", _read(subject, task, wanted), len(wanted)):
            try:
                answers[block.number] = task.ask(subject, block)
            except ValueError as error:
                if task.is_headline:
                    raise
                answers[block.number] = str(error)
    return answers


def joined(answers: Iterable[Part | str]) -> Part | str:
    """Joins the parts of all blocks, in their order, into one; gives the first sentence where there is one."""
    parts: list[Part] = []
    for part in answers:
        if isinstance(part, str):
            return part
        parts.append(part)
    return {name: _joined([part[name] for part in parts]) for name in parts[0]}


def tensors(column: Estimate | Tensor) -> dict[str, Tensor]:
    """Lists the tensors of an estimate by the names of their fields."""
    if isinstance(column, Tensor):
        return {"": column}
    values = {field.name: getattr(column, field.name) for field in fields(column)}
    return {name: value for name, value in values.items() if isinstance(value, Tensor)}


def _joined(columns: list[Any]) -> Estimate | Tensor:
    if isinstance(columns[0], Tensor):
        return torch.cat(columns)
    return replace(columns[0], **{n: torch.cat([getattr(part, n) for part in columns]) for n in tensors(columns[0])})


def says(subject: Subject, name: str) -> str:
    """Describes what a task does."""
    return TASKS[name].says.format(size=len(TASKS[name].data(subject)[1]), plan=subject.plan)


def blocks_of(subject: Subject, name: str) -> range:
    """The numbers of all blocks of a task."""
    return range(-(-len(TASKS[name].data(subject)[1]) // DATA_BLOCK))


def _read(subject: Subject, task: Task, wanted: Sequence[int]) -> Iterable[Block]:
    reader, index = task.data(subject)
    pieces = [index[number * DATA_BLOCK : (number + 1) * DATA_BLOCK] for number in wanted]
    if reader is None:
        return (Block(number, piece, torch.empty(0), None) for number, piece in zip(wanted, pieces, strict=True))
    read = zip(wanted, pieces, reader.pieces(pieces), strict=True)
    return (Block(number, piece, *data) for number, piece, data in read)
