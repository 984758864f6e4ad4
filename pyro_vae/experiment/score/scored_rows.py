"""What is scored: the rows of a file, or of a split, and what is computed of each block of 128 of them."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from pyro_vae import evaluation
from pyro_vae.data.own.alike import rows_alike
from pyro_vae.data.own.reading import Reading
from pyro_vae.errors import DataError, UsageError, divergence
from pyro_vae.evaluation.memory import DATA_BLOCK
from pyro_vae.experiment import build
from pyro_vae.experiment.evaluate.evaluation_plan import Plan
from pyro_vae.experiment.run.evaluation_data import DataReader
from pyro_vae.experiment.score.scored_run import ScoredRun
from pyro_vae.randomness import derive

SPLITS = ("train", "valid", "test")


@dataclass(eq=False)
class ScoredRows:
    """Rows that are scored by a run.

    Attributes:
        run: the program.
        plan: `num_samples`, `elbo_samples` and `evaluation_seed` are read.
        reader: of the rows.
        name: the name of the file, or of the split.
        sha256: of the data.
        reconstructions: whether the mean of p(x|z) is wanted too.
    """

    run: ScoredRun
    plan: Plan
    reader: DataReader
    name: str
    sha256: str
    reconstructions: bool = False

    def __len__(self) -> int:
        return len(self.reader)

    @property
    def seed(self) -> int:
        """The seed of all draws, the same as that of an evaluation."""
        again = self.plan.evaluation_seed
        return derive(self.run.config.seed, "evaluation", *([again] if again else []))

    @property
    def is_labelled(self) -> bool:
        """Whether log p(x|y) is scored, at the labels of the rows."""
        return self.run.config.conditional and self.reader.labels is not None

    @cached_property
    def positions(self) -> Tensor:
        """The positions of the rows in their split (N,)."""
        return torch.arange(len(self)) if self.reader.positions is None else self.reader.positions

    @property
    def num_blocks(self) -> int:
        """The number of blocks."""
        return -(-len(self) // DATA_BLOCK)

    def measure(self, numbers: Iterable[int], *, likelihood_alone: bool = False) -> Iterator[dict[str, Tensor]]:
        """Yields the columns of each of these blocks, whose numbers ascend.

        Args:
            numbers: of the blocks.
            likelihood_alone: leaves all out that log p(x) does not need.

        Raises:
            DivergenceError: the program's own numbers are not finite.
            DataError: a row lies outside the support of the likelihood.
        """
        wanted = list(numbers)
        index = [torch.arange(n * DATA_BLOCK, min((n + 1) * DATA_BLOCK, len(self))) for n in wanted]
        draws = len(self) * self.plan.num_samples
        with build.estimating(self.run.config, draws):
            for number, at, (x, y) in zip(wanted, index, self.reader.pieces(index), strict=True):
                yield self._scores(number, int(at[0]), x, y, likelihood_alone).columns()

    def _scores(
        self, number: int, first: int, x: Tensor, y: Tensor | None, likelihood_alone: bool
    ) -> evaluation.Scores:
        wants_classes = self.run.config.conditional and not (likelihood_alone and y is not None)
        p = self.run.class_probabilities if wants_classes else None
        with _named(self.name), divergence(f"a score of rows {first} to {first + len(x) - 1} of {self.name}"):
            self.run.vae.check_data(x, first)
            return evaluation.score(
                self.run.vae,
                x,
                y,
                self.plan.num_samples,
                self.seed,
                elbo_samples=1 if likelihood_alone else self.plan.elbo_samples,
                class_probabilities=p,
                reconstructions=self.reconstructions and not likelihood_alone,
                first_block=number,
            )


@contextmanager
def _named(what: str) -> Iterator[None]:
    try:
        yield
    except DataError as error:
        raise DataError(f"{what}: {error}") from error


def of_file(
    run: ScoredRun, data: str | Path, plan: Plan, *, array: str = "", reconstructions: bool = False
) -> ScoredRows:
    """Opens a file of the user's, all of its rows.

    Args:
        run: the program that scores.
        data: the path of a file, or of a folder of images.
        plan: how many draws.
        array: which array of an archive.
        reconstructions: whether the mean of p(x|z) is wanted too.

    Raises:
        DataError: there is none, or it is of another form than the training data.
    """
    reading = Reading(**build.reading(run.config))
    new = rows_alike(str(data), run.intake, reading, array=array, needs_labels=run.config.conditional)
    run.notes.extend(new.notes)
    if run.config.conditional and new.split.labels is None:
        run.notes.append(
            "The rows have no labels: log p(x) sums over classes; ELBO and code are at the likeliest class."
        )
    reader = DataReader(run.config, new.split, len(run.intake.classes), 0)
    return ScoredRows(run, plan, reader, new.name, new.sha256, reconstructions)


def of_split(run: ScoredRun, split: str, plan: Plan, *, reconstructions: bool = False) -> ScoredRows:
    """Opens a split of the run's own data: of the test data those that an evaluation takes.

    Args:
        run: the program that scores.
        split: "train", "valid" or "test".
        plan: how many draws, and how many test data.
        reconstructions: whether the mean of p(x|z) is wanted too.

    Raises:
        UsageError: there is no such split.
        CheckpointError: the run has no data beside it, or others.
        DataError: the data are not there.
    """
    if split not in SPLITS:
        raise UsageError(f"a `split` is {', '.join(SPLITS)}; got {split!r}")
    if run.trained is None:
        raise UsageError(f"{run.path} is a shared folder, which has no splits: score a file, as `data='new.npy'`")
    data = run.trained.data
    number = plan.test_data if split == "test" else 0
    reader = DataReader(run.config, getattr(data, split), data.num_classes, number)
    if len(reader) < len(reader.split):
        run.notes.append(
            f"{len(reader):,} of {len(reader.split):,} {split} data were scored, as in the run's own report; "
            "`test_data=0` scores all."
        )
    return ScoredRows(run, plan, reader, f"{split} data", data.protocol["sha256"] + split, reconstructions)
