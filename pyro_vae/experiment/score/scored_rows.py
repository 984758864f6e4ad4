"""What is scored: the rows of a file, or of a split, and what is computed of each block of 128 of them."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_vae import evaluation
from pyro_vae.data.own.alike import rows_alike
from pyro_vae.data.own.reading import Reading
from pyro_vae.errors import DivergenceError, UsageError, divergence, of_data
from pyro_vae.evaluation.memory import DATA_BLOCK
from pyro_vae.experiment import build
from pyro_vae.experiment.evaluate.evaluation_plan import Plan
from pyro_vae.experiment.run.evaluation_data import DataReader
from pyro_vae.experiment.score import wild_rows
from pyro_vae.experiment.score.scored_run import ScoredRun
from pyro_vae.option_words import Scored, check_word
from pyro_vae.progress import through
from pyro_vae.randomness import derive
from pyro_vae.threads import computing


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
        array: which array of an archive they are.
    """

    run: ScoredRun
    plan: Plan
    reader: DataReader
    name: str
    sha256: str
    reconstructions: bool = False
    array: str = ""

    def __len__(self) -> int:
        return len(self.reader)

    @property
    def seed(self) -> int:
        """The seed of all draws, the same as in an evaluation."""
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

        A row that has no finite numbers is NaN, and named in a note of the run.

        Args:
            numbers: of the blocks.
            likelihood_alone: leaves all out that log p(x) does not need.

        Raises:
            DivergenceError: the program's own numbers are not finite, of any row.
            DataError: a row lies outside the support of the likelihood.
        """
        wanted = list(numbers)
        index = [torch.arange(n * DATA_BLOCK, min((n + 1) * DATA_BLOCK, len(self))) for n in wanted]
        draws = len(self) * self.plan.num_samples
        with computing(self.run.threads), build.estimating(self.run.config, draws):
            pieces = zip(wanted, index, self.reader.pieces(index), strict=True)
            for number, at, (x, y) in through("blocks of rows", pieces, len(wanted)):
                yield self._columns(_Block(number, int(at[0]), likelihood_alone), x, y)

    def _columns(self, block: "_Block", x: Tensor, y: Tensor | None) -> dict[str, Tensor]:
        try:
            return self._scores(block, x, y).columns()
        except DivergenceError as error:
            return self._without_wild(block, x, y, error)

    def _without_wild(self, block: "_Block", x: Tensor, y: Tensor | None, error: Exception) -> dict[str, Tensor]:
        """Scores a block with another row in place of each that has no finite numbers, and makes those NaN."""

        def attempt(x: Tensor, y: Tensor | None) -> evaluation.Scores:
            return self._scores(block, x, y)

        rows = wild_rows.wild(attempt, x, y)
        usual = self._usual(attempt, x, y, rows)
        if not rows or usual is None:
            raise DivergenceError(
                f"{error}. No row of {self.name} that was tried can be scored: are its numbers in the units of the "
                "training data?"
            ) from error
        tame = x.clone()
        tame[rows] = usual
        columns = {name: values.clone() for name, values in self._scores(block, tame, y).columns().items()}
        for values in columns.values():
            values[rows] = torch.nan
        for i in rows:
            given = None if y is None else y[i : i + 1]
            self._say(block.first + i, x[i], wild_rows.column(attempt, x[i : i + 1], given, usual))
        return columns

    def _usual(self, attempt: wild_rows.Attempt, x: Tensor, y: Tensor | None, wild: list[int]) -> Tensor | None:
        """A row (1, *x_shape) that can be scored: of the block, or else of the first one."""
        if tame := [i for i in range(len(x)) if i not in wild]:
            return x[tame[:1]]
        for i in range(min(len(self), DATA_BLOCK)):
            other, label = self.reader.at(torch.tensor([i]))
            if wild_rows.works(attempt, other, label if y is not None else None):
                return other
        return None

    def _say(self, index: int, x: Tensor, column: int | None) -> None:
        names, origin = self.run.intake.columns, self.run.intake.origin
        why = ""
        if column is not None:
            value = float(x[column]) + (origin[column] if origin else 0.0)
            why = f": {names[column] if names else f'column {column}'} is {value:g}, far from the training data"
        self.run.notes.append(f"No finite log p(x) of {self.reader.place(index)}{why}. Its scores are nan.")

    def _scores(self, block: "_Block", x: Tensor, y: Tensor | None) -> evaluation.Scores:
        alone, first = block.likelihood_alone, block.first
        wants_classes = self.run.config.conditional and not (alone and y is not None)
        p = self.run.class_probabilities if wants_classes else None
        with of_data(self.name), divergence(f"a score of rows {first} to {first + len(x) - 1} of {self.name}"):
            self.run.vae.check_data(x, first)
            return evaluation.score(
                self.run.vae,
                x,
                y,
                self.plan.num_samples,
                self.seed,
                elbo_samples=1 if alone else self.plan.elbo_samples,
                class_probabilities=p,
                reconstructions=self.reconstructions and not alone,
                first_block=block.number,
            )


class _Block(NamedTuple):
    number: int
    first: int
    likelihood_alone: bool


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
    return ScoredRows(run, plan, reader, new.name, new.sha256, reconstructions, array)


def of_split(run: ScoredRun, split: str, plan: Plan, *, reconstructions: bool = False) -> ScoredRows:
    """Opens a split of the run's own data: of the test data those that an evaluation takes.

    Args:
        run: the program that scores.
        split: "train", "valid" or "test".
        plan: how many draws, and how many test data.
        reconstructions: whether the mean of p(x|z) is wanted too.

    Raises:
        UsageError: there is no such split.
        CheckpointError: the data of the run are not there, or are others.
        DataError: the data are not there.
    """
    check_word("split", split, Scored)
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
