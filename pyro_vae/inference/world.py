"""World: the processes that train one program together, each with the same code.

Everything that decides how training continues is made equal in all of them by one operation, a sum over the processes.
A world of one process, the default of every function, does not use torch.distributed.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import NoReturn, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from pyro_vae import errors
from pyro_vae.errors import ProcessError
from pyro_vae.graphs.suitability import NoGraph
from pyro_vae.randomness import block_stream, derive

T = TypeVar("T")
# The errors whose class is kept from one process to another.
_OURS = errors.UsageError, errors.DataError, errors.CheckpointError, errors.DivergenceError, errors.StorageError
_TOLD: dict[str, type[Exception]] = {
    kind.__name__: kind for kind in (*_OURS, ValueError, torch.linalg.LinAlgError, NoGraph)
}


@dataclass(frozen=True)
class World:
    """This process within the default process group of torch.distributed, or a single process.

    All processes must call each method, in the same order.

    Attributes:
        rank: of this process, from 0.
        size: the number of processes.

    Example:
        >>> World().sum(torch.ones(2)), World().gather("here")
        (tensor([1., 1.]), ['here'])
    """

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and prints."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """Sums over the processes, in place; the sum is the same on all to the last bit.

        Raises:
            ProcessError: another process has ended.
        """
        if self.size > 1:
            with peers():
                dist.all_reduce(values)
        return values

    def largest(self, number: int) -> int:
        """Returns the largest number that any process has."""
        return number if self.size == 1 else int(self._table(torch.tensor([number])).max())

    def gather(self, text: str) -> list[str]:
        """Returns the texts of all processes, by rank."""
        if self.size == 1:
            return [text]
        content = torch.tensor(list(text.encode()), dtype=torch.uint8)
        sizes = self._table(torch.tensor([len(content)]))[:, 0].tolist()
        padded = torch.zeros(max(1, *sizes), dtype=torch.uint8)
        padded[: len(content)] = content
        rows = self._table(padded)
        return [bytes(row[:size].tolist()).decode() for row, size in zip(rows, sizes, strict=True)]

    def _table(self, row: Tensor) -> Tensor:
        table = row.new_zeros(self.size, *row.shape)
        table[self.rank] = row
        return self.sum(table)

    def together(self) -> AbstractContextManager[None]:
        """Makes all processes raise the error of the first one that raises inside, so that none goes on or waits."""
        return self._together() if self.size > 1 else nullcontext()

    @contextmanager
    def _together(self) -> Iterator[None]:
        own = None
        try:
            yield
        except ProcessError:
            raise
        except Exception as error:  # of any kind: the others must know
            own = error
        told = self.gather("" if own is None else json.dumps([type(own).__name__, str(own)]))
        for rank, words in enumerate(told):
            if own is not None and rank == self.rank:
                raise own
            if words:
                self._raise(rank, *json.loads(words))

    def _raise(self, rank: int, kind: str, message: str) -> NoReturn:
        where = f"process {rank} of {self.size}"
        if kind in _TOLD:
            raise _TOLD[kind](f"{where}: {message}")
        raise ProcessError(f"{where}: {kind}: {message}")

    def in_turn(self, make: Callable[[], T]) -> T:
        """Makes something in each process, in the first one before the others, since it can download or write."""
        made: list[T] = []
        for turn in (True, False):
            with self.together():
                if self.first is turn:
                    made.append(make())
        return made[0]

    def check_same(self, tensors: dict[str, Tensor], when: str) -> None:
        """Compares the bytes of tensors across the processes.

        Args:
            tensors: by name, in the same order on all.
            when: the time of the comparison, for the message.

        Raises:
            ProcessError: they differ.
        """
        if self.size == 1:
            return
        digests = self.gather(_digest(tensors))
        for rank, digest in enumerate(digests):
            if digest != digests[0]:
                raise ProcessError(
                    f"{when}, the parameters of process {rank} differ from those of process 0 (SHA-256 {digest[:12]}, "
                    f"not {digests[0][:12]}). Check that all read the same run folder and run the same code, on "
                    "machines of one kind. The program itself must keep running statistics equal, as of a batch norm"
                )

    def noise(
        self, seed: int, epoch: int, step: int, device: torch.device | None = None
    ) -> AbstractContextManager[None]:
        """Draws from a stream of this process for one step, so that no two processes or steps of an epoch share noise.

        The stream is a function of (seed, epoch, size, step, rank), with no state to save. In a world of one process,
        the caller's stream continues.

        Args:
            seed: of the training.
            epoch, step: counted from 0, the step within its epoch.
            device: of the data.
        """
        if self.size == 1:
            return nullcontext()
        return block_stream(derive(seed, "noise", epoch, self.size), step, self.rank, device)


ALONE = World()


@contextmanager
def peers() -> Iterator[None]:
    """Raises a ProcessError if another process ends while this one waits for it inside."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "gloo" not in str(error):
            raise
        raise ProcessError(
            "another process of this training has ended or does not answer. Its message, if any, is above. "
            "The progress so far is kept: continue with `resume=True`"
        ) from error


def _digest(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in tensors.items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
