"""What an evaluation works on: a program, the data that the plan asks for, and the seed of all draws."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from pyro_vae.evaluation import subset
from pyro_vae.evaluation.trust.diagnostics import KHAT_THRESHOLD
from pyro_vae.evaluation.trust.escalation import MORE
from pyro_vae.experiment.evaluate.evaluation_plan import Plan
from pyro_vae.experiment.run.evaluation_data import DataReader
from pyro_vae.experiment.run.program_and_data import ProgramAndData
from pyro_vae.randomness import derive

FEWEST_DRAWS = 50  # of each datum in log_likelihood.nc


class HeadlinePlan(Plan):
    """The plan of a training's own report: only the headline, by as many draws as the config says."""

    def __post_init__(self) -> None:
        """Checks nothing: its numbers come from a config, which has checked them."""


@dataclass(eq=False)
class Subject:
    """What is evaluated, and the plan of its evaluation.

    Attributes:
        trained: the program and its data: a run, for example.
        plan: how much is computed.
    """

    trained: ProgramAndData
    plan: Plan

    @cached_property
    def test(self) -> DataReader:
        """The test data."""
        return self.trained.reader("test", self.plan.test_data)

    @cached_property
    def train(self) -> DataReader | None:
        """The training data whose aggregate posterior is measured; None where there are none."""
        return None if self.trained.data is None else self.trained.reader("train", self.plan.latent_data)

    @cached_property
    def chosen(self) -> Tensor:
        """The positions of the test data that are annealed."""
        size = min(self.plan.annealed_data, len(self.test))
        return subset(len(self.test), size, self.trained.facts.data_seed)

    @cached_property
    def saved(self) -> Tensor:
        """The positions of the test data in log_likelihood.nc: all, or if mapped, as many as memory holds."""
        size, split = len(self.test), self.test.split
        if split.rows is None:
            return torch.arange(size)
        each = max(FEWEST_DRAWS * self.latent_dim, split.levels[0].numel())
        return subset(size, max(1, self.plan.saved_numbers // each), self.trained.facts.data_seed)

    @property
    def saved_draws(self) -> int:
        """The number of draws of z for each of these."""
        room = self.plan.saved_numbers // (self.latent_dim * len(self.saved))
        return min(self.plan.num_samples, max(FEWEST_DRAWS, room))

    @property
    def seed(self) -> int:
        """The seed of all draws, by default that of the training's own report."""
        again = self.plan.evaluation_seed
        return derive(self.trained.facts.seed, "evaluation", *([again] if again else []))

    @property
    def is_headline(self) -> bool:
        """True if only the numbers at the head of a report are wanted."""
        return isinstance(self.plan, HeadlinePlan)

    @property
    def latent_dim(self) -> int:
        """The number of latent dimensions D, of all layers together."""
        return self.trained.facts.latent_dim

    @property
    def is_autoencoder(self) -> bool:
        """True where q(z|x) is a point, so that there is a reconstruction and no log p(x)."""
        return self.trained.is_autoencoder

    @property
    def most_escalated(self) -> int:
        """The most data that an escalation can take."""
        return -(-self.plan.escalated_draws // ((MORE - 1) * self.plan.num_samples))

    @cached_property
    def hardest(self) -> "Hardest":
        """The candidates of an escalation among the data of log p(x)."""
        return Hardest(self.most_escalated)

    def graphs(self) -> AbstractContextManager[None]:
        """Gives the context for estimates of K draws of all test data: compiled graphs where they are wanted."""
        return self.trained.graphs(len(self.test) * self.plan.num_samples, self._kept)

    @cached_property
    def _kept(self) -> dict[Any, Any]:
        """The graphs, of all pieces of the work that this process does."""
        return {}


class Hardest:
    """The data whose weights an escalation could need: those whose k-hat is among the `most` largest so far."""

    def __init__(self, most: int) -> None:
        self.most, self.seen = most, torch.empty(0, dtype=torch.float64)

    def among(self, khat: Tensor) -> Tensor:
        """Chooses positions (M,) within the next block of data by its k-hat (b,)."""
        if not self.most:
            return torch.empty(0, dtype=torch.int64)
        seen = torch.cat([self.seen, khat[khat > KHAT_THRESHOLD]])
        self.seen = seen.topk(min(self.most, len(seen))).values
        bar = self.seen[-1] if len(self.seen) == self.most else KHAT_THRESHOLD
        return ((khat > KHAT_THRESHOLD) & (khat >= bar)).nonzero()[:, 0]
