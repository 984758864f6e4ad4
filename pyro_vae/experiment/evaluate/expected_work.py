"""How long each section of an evaluation is expected to take, so that a person who waits sees how long is left.

The unit is one evaluation of the decoder for one datum, as one of many that are computed together. Costlier work has a
factor that was measured on a small network of two layers. The display corrects the total by the time that has passed,
so only the ratios of these numbers matter.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from pyro_vae import progress
from pyro_vae.evaluation.annealing.hamiltonian import PILOT_CHAINS
from pyro_vae.evaluation.memory import DATA_BLOCK
from pyro_vae.evaluation.trust.escalation import GRADIENT, MORE_TEMPERATURES, annealing_cost
from pyro_vae.experiment.evaluate.block_tasks import PICTURE_DIM, TASKS
from pyro_vae.experiment.evaluate.evaluated_run import Subject
from pyro_vae.experiment.evaluate.evaluation_plan import Plan
from pyro_vae.experiment.run.program_and_data import ProgramAndData

_CALL = 2_000  # what a gradient takes, however few data it is of
_STEPS, _STEP = 500, 7_500  # of the optimiser that fits the guide to a block of data, and what each takes
_GRID = 2_000  # points of a grid for each datum and latent dimension
_PAIR = 0.2  # of one density of one code, for the aggregate posterior
_NUTS = 4 * 7 * 1_700  # chains, gradients of a transition, and what a gradient of a single datum takes
_PICTURE = 300_000
_FILES, _FILES_OF_HEADLINE = 5_000_000, 200_000
_BASELINES = 100_000


def _annealed(subject: Subject, walks: int = 1) -> float:
    plan = subject.plan
    pilots = annealing_cost(plan.num_temperatures, 0)
    each = annealing_cost(plan.num_temperatures, 1) - pilots  # of a chain, in one walk
    evaluations = len(subject.chosen) * (pilots + walks * plan.num_chains * each)
    return GRADIENT * evaluations + _CALL * _blocks(subject) * _annealed_gradients(plan.num_temperatures, walks)


def _escalation(subject: Subject) -> float:
    chains = _annealed_gradients(MORE_TEMPERATURES) if subject.plan.escalated_draws else 0
    return GRADIENT * subject.plan.escalated_draws / 2 + _CALL * chains


def _annealed_gradients(num_temperatures: int, walks: int = 1) -> float:
    """Gradients one after another, each for all chains and data of a block."""
    pilots = annealing_cost(num_temperatures, 0)
    return pilots / PILOT_CHAINS + walks * (annealing_cost(num_temperatures, 1) - pilots)


def _blocks(subject: Subject) -> int:
    return -(-len(subject.chosen) // DATA_BLOCK)


def _posterior(subject: Subject) -> float:
    draws = subject.plan.posterior_draws
    return _NUTS * (draws + min(200, max(50, draws))) if subject.latent_dim > PICTURE_DIM else _PICTURE


def _latent(subject: Subject) -> float:
    size, plan = len(subject.train or ()), subject.plan
    return size * 3 * plan.elbo_samples + 2 * size**2 * plan.latent_samples * _PAIR


# In the order of the evaluation. What is not among `TASKS` is asked for where the program has a density.
_EXPECTED: dict[str, Callable[[Subject], float]] = {
    "reconstruction": lambda s: len(s.test) * s.plan.elbo_samples,
    "elbo": lambda s: len(s.test) * s.plan.elbo_samples,
    "log_likelihood": lambda s: len(s.test) * s.plan.num_samples,
    "iwae": lambda s: len(s.test) * s.plan.num_samples,
    "classes": lambda s: len(s.test) * s.plan.elbo_samples * s.trained.facts.form.num_classes,
    "rounding": lambda s: 2 * len(s.test) * s.plan.elbo_samples,
    "baselines": lambda s: _BASELINES,
    "escalation": _escalation,
    "latent": _latent,
    "annealing": _annealed,
    "grid": lambda s: len(s.chosen) * s.latent_dim * _GRID,
    "simulated": lambda s: _annealed(s, walks=2) + len(s.chosen) * s.plan.num_samples,
    "training": lambda s: len(s.train or ()) * s.plan.elbo_samples,
    "gaps": lambda s: _blocks(s) * _STEPS * _STEP,
    "posterior": _posterior,
    "draws": lambda s: len(s.saved) * s.saved_draws,
    "files": lambda s: _FILES_OF_HEADLINE if s.is_headline else _FILES,
}
_OF_HEADLINE = ("baselines", "files")
_NOT_OF_HEADLINE = ("iwae", "draws")  # of the whole curve, which holds the bounds of the headline


def expected(subject: Subject) -> dict[str, float]:
    """Lists the sections of an evaluation, in their order, and what each is expected to take.

    Some can be left out in the end: an escalation if no k-hat is large, for example.

    Args:
        subject: what is evaluated.
    """
    return {name: float(work(subject)) for name, work in _EXPECTED.items() if _applies(subject, name)}


def _applies(subject: Subject, name: str) -> bool:
    if name in TASKS:
        is_shown = TASKS[name].is_headline or not subject.is_headline
        is_longer = name in _NOT_OF_HEADLINE and subject.is_headline
        return is_shown and not is_longer and bool(TASKS[name].applies(subject))
    if name == "files":
        return True
    return not subject.is_autoencoder and (name in _OF_HEADLINE or not subject.is_headline)


@contextmanager
def planned(trained: ProgramAndData, plan: Plan) -> Iterator[None]:
    """A context in which a program is evaluated by a plan, section by section; see `progress.planned`."""
    with progress.planned(expected(Subject(trained, plan)) if progress.is_watched() else {}):
        yield


@contextmanager
def planned_share(subject: Subject, shares: Mapping[str, float]) -> Iterator[None]:
    """The same for a part of the work.

    Args:
        subject: what is evaluated.
        shares: task -> the share of it that is computed, in the order in which they are.
    """
    work = expected(subject) if progress.is_watched() else {}
    with progress.planned({name: share * work.get(name, 0.0) for name, share in shares.items()}):
        yield
