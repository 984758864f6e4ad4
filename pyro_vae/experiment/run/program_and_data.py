"""ProgramAndData: what an evaluation looks at. A program, the data that it is compared with, and what is known of both.

A trained run is one, see `trained_run`; a program and data of the caller's own are another. An evaluation asks both the
same questions. What is not known without a run is empty, and the report does not mention it.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch

from pyro_vae import threads
from pyro_vae.data import Form, Splits
from pyro_vae.errors import UsageError
from pyro_vae.evaluation.memory import DATA_BLOCK
from pyro_vae.experiment.run.evaluation_data import DataInMemory, DataReader
from pyro_vae.model import traces
from pyro_vae.model.posteriors import Delta
from pyro_vae.model.program import undisturbed
from pyro_vae.model.vae import VAE
from pyro_vae.randomness import preserved


@dataclass(frozen=True)
class Facts:
    """What must be known of a program and its data.

    Attributes:
        seed: of all draws.
        data_seed: of the choice of data.
        conditional: whether it is a program of p(x|y), and gets one-hot labels.
        missing: whether NaN in x is a missing number.
        device: where it computes.
        latent_dim: the number of latent dimensions, of all sites together.
        support: of p(x|z), a constraint of torch; None where there is none that baselines could be chosen by.
        form: what must be known of the data.
        classes, trained_classes: the names of the classes; the numbers of those that the training data have.
        shown_range: the values of x that a picture shows black and white.
        settings: for report.json, by name, including "conditional".
    """

    seed: int
    data_seed: int
    conditional: bool
    missing: bool
    device: str
    latent_dim: int
    support: Any
    form: Form
    classes: tuple[str, ...]
    trained_classes: tuple[int, ...]
    shown_range: tuple[float, float]
    settings: Mapping[str, Any]

    @property
    def is_discrete(self) -> bool:
        """True where p(x|z) gives masses and not densities."""
        return self.support is not None and bool(self.support.is_discrete)


class ProgramAndData:
    """Base class of what can be evaluated.

    Attributes:
        vae: anything with `.model` and `.guide` over one data plate.
        silent: why its model does not generate without x; "" where it does.
        is_run: whether it is a run, whose best epoch the program is known to be.
    """

    vae: Any
    is_run: ClassVar[bool] = False
    silent: str = ""

    @property
    def facts(self) -> Facts:
        """The facts about it."""
        raise NotImplementedError

    @property
    def data(self) -> Splits | None:
        """The splits; None where there are only test data."""
        raise NotImplementedError

    @property
    def card(self) -> Mapping[str, Any]:
        """The protocol of the data."""
        raise NotImplementedError

    @property
    def records(self) -> Sequence[Mapping[str, Any]]:
        """The records of the epochs, as history.jsonl has them; empty if they are not known."""
        raise NotImplementedError

    @property
    def progress(self) -> Mapping[str, Any]:
        """The number of epochs trained and the best one; empty if not known."""
        raise NotImplementedError

    @property
    def unfinished(self) -> str:
        """A sentence if the training is known to be unfinished, else ""."""
        return ""

    def reader(self, part: str, num_data: int | None = None) -> DataReader:
        """Returns a reader of data, bit by bit.

        Args:
            part: "test" or "train".
            num_data: how many, at random; 0 for all, None for as many as the program is tested on.
        """
        raise NotImplementedError

    def graphs(self, num_draws: int, kept: dict[Any, Any] | None = None) -> AbstractContextManager[None]:
        """Returns the context for estimates of this many draws: compiled graphs where that is wanted.

        Args:
            num_draws: data times draws for each, in total.
            kept: where the graphs are kept for another such context.
        """
        raise NotImplementedError

    @cached_property
    def threads(self) -> int:
        """The number of threads that its numbers are computed with, see `pyro_vae.threads`."""
        return threads.chosen(lambda: threads.by_size(self._multiplications()))

    def _multiplications(self) -> int:
        """Counts those of a step, on one block of test data."""
        test = self.reader("test")
        x, y = test.at(torch.arange(min(DATA_BLOCK, len(test))))
        given = (x,) if y is None else (x, y)
        with undisturbed(self.vae), preserved(x.device):
            return threads.multiplications(lambda: traces.run(self.vae.model, self.vae.guide, 1, *given))

    def tested(self, num_data: int) -> dict[str, str]:
        """Lists what must be the same where numbers on this many test data are compared, label -> text."""
        raise NotImplementedError

    def described(self, changed: Mapping[str, Any]) -> dict[str, Any]:
        """Names the program, its parts and how its numbers are repeated, for report.json.

        Args:
            changed: the settings of the evaluation that differ from their defaults.
        """
        raise NotImplementedError

    def seeds(self, draws: int) -> str:
        """Lists the seeds that its numbers depend on, including the seed of the draws."""
        raise NotImplementedError

    def verdict(self, test: Mapping[str, Any], num_data: int) -> dict[str, Any] | None:
        """Judges estimates on this many test data by a published number; None where there is none."""
        return None

    @property
    def is_autoencoder(self) -> bool:
        """True where q(z|x) is a point, so that there is a reconstruction and no log p(x)."""
        return isinstance(getattr(self.vae, "posterior", None), Delta)

    @property
    def one_layer(self) -> VAE:
        """The program, of a single layer of latents.

        Raises:
            UsageError: it is not a `VAE`.
        """
        if not isinstance(self.vae, VAE):
            raise UsageError(f"{self._name} has two layers of latents, and this needs one")
        return self.vae

    @property
    def _name(self) -> str:
        return f"this {type(self.vae).__name__}"

    def test(self, num_data: int | None = None) -> DataInMemory:
        """Reads the test data that the report sees, or a random subset of num_data (0: all of them)."""
        return self.reader("test", num_data).whole()

    def training(self, num_data: int = 0) -> DataInMemory:
        """Reads the training data as an evaluation sees them, or a random subset of num_data (0: all of them)."""
        return self.reader("train", num_data).whole()
