"""The evaluation of a run by several processes: who opens what, and in which order the pieces are done.

A piece is a block of a task of `block_tasks`, or one of `whole_tasks`. First come those that the others wait for: the
numbers at the head of the report, and log p(x), whose k-hat says which data the escalation and the true posterior are
about. Then comes whatever is expected to take longest.
"""

from collections.abc import Callable, Collection
from functools import partial
from typing import Any

import torch

from pyro_vae import system
from pyro_vae.errors import CheckpointError, UsageError
from pyro_vae.experiment.evaluate import block_tasks, expected_work, shards
from pyro_vae.experiment.evaluate.evaluated_run import Subject
from pyro_vae.experiment.evaluate.evaluation_plan import Plan
from pyro_vae.experiment.evaluate.whole_tasks import WHOLE_TASKS, Curve, Given
from pyro_vae.experiment.run.trained_run import TrainedRun
from pyro_vae.experiment.team.team import Say, Team
from pyro_vae.experiment.team.worker import Piece, Work

AUTO = "auto"
_WORTH = 10_000_000  # units of `expected_work` for each process: twice what it takes to start one
_UNSURE = ("escalation", "files")  # there may be no datum of a large k-hat, and files are not shared
_AT_THE_HEAD = ("reconstruction", "elbo", "iwae", "classes", "rounding")


def processes(wanted: str | int, subject: Subject) -> int:
    """How many processes share an evaluation.

    Args:
        wanted: a number; or "auto", as many as there are cores for, and work.
        subject: what is evaluated.

    Returns:
        The number, which is 1 on an accelerator. Each process has the threads of the run, so that their number, and
        not that of the processes, decides the last digits.

    Raises:
        UsageError: it is neither.
    """
    if wanted != AUTO and (not str(wanted).isdecimal() or not int(wanted)):
        raise UsageError(f"`processes` is a number from 1 on, or {AUTO}; got {wanted!r}")
    if subject.trained.facts.device != "cpu":
        return 1
    if wanted != AUTO:
        return int(wanted)
    certain = [units for name, units in expected_work.expected(subject).items() if name not in _UNSURE]
    worth = sum(certain) / _WORTH
    return max(1, min(system.cores() // subject.trained.threads, int(worth)))


def team(subject: Subject, number: int, reopen: Callable[[], TrainedRun], say: Say) -> Team:
    """The processes that share an evaluation; a context.

    Args:
        subject: what is evaluated.
        number: of the processes, with this one.
        reopen: opens the run in another process, and is pickled.
        say: is told what is being done.
    """
    if number == 1:
        return Team(say=say)
    opener = partial(_opened, reopen, subject.plan, shards.identity(subject), subject.trained.threads)
    return Team(opener, number - 1, say)


def work(subject: Subject, piece: Piece, given: Given) -> Any:
    """Does a piece."""
    if piece.step in WHOLE_TASKS:
        return WHOLE_TASKS[piece.step].ask(subject, *given)
    return block_tasks.measure(subject, piece.step, [piece.number])[piece.number]


def offer_ahead(team: Team, subject: Subject, without: Collection[str]) -> None:
    """Offers all that depends on nothing else.

    Args:
        team: it shares the work.
        subject: what is evaluated.
        without: tasks that are done.
    """
    costs = expected_work.expected(subject)
    for name in block_tasks.TASKS:
        if name in costs and name not in without:
            offer_blocks(team, subject, name, costs[name])
    if "latent" in costs and subject.train is not None:
        offer_whole(team, subject, "latent", (), {}, costs["latent"])


def offer_after_curve(team: Team, subject: Subject, curve: Curve) -> None:
    """Offers what the k-hat of the test data decide."""
    costs = expected_work.expected(subject)
    for name in ("escalation", "posterior"):
        if (given := WHOLE_TASKS[name].given(subject, curve)) is not None:
            offer_whole(team, subject, name, given, curve, costs[name])


def offer_blocks(team: Team, subject: Subject, name: str, cost: float = 0.0) -> list[Piece]:
    """Offers the blocks of a task, and returns them."""
    pieces = [Piece(name, number) for number in block_tasks.blocks_of(subject, name)]
    says, share = block_tasks.says(subject, name), 1 / max(1, len(pieces))
    for piece in pieces:
        team.offer(piece, cost=cost * share, share=share, says=says, first=name in _AT_THE_HEAD)
    return pieces


def offer_whole(team: Team, subject: Subject, name: str, given: Given, curve: Curve, cost: float = 0.0) -> Piece:
    """Offers a question about several data, and returns its piece."""
    piece = Piece(name)
    team.offer(piece, *given, cost=cost, says=WHOLE_TASKS[name].says(subject, curve))
    return piece


def _opened(reopen: Callable[[], TrainedRun], plan: Plan, identity: dict[str, Any], threads: int) -> Work:
    """What does the pieces in a worker: it opens the run itself."""
    torch.set_num_threads(threads)
    subject = Subject(reopen(), plan)
    if shards.identity(subject) != identity:
        raise CheckpointError("the run has changed since this evaluation began: evaluate it again")
    return partial(work, subject)
