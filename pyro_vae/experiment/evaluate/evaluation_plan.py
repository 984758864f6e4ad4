"""How much an evaluation computes: its `Plan`, with reasons for the defaults, and the `Shard` that is wanted."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, NamedTuple

from pyro_vae.errors import UsageError
from pyro_vae.experiment.checked_fields import check, flag
from pyro_vae.randomness import MOST_SAMPLES


@dataclass(frozen=True)
class Plan:
    """What an evaluation computes.

    With these defaults a run on digits takes about a minute on two cores, or a few minutes if prior or guide is a flow.

    Raises:
        UsageError: a value is out of range.

    Example:
        >>> Plan(annealed_data=0).num_samples
        1000
    """

    test_data: int | None = flag(
        None,
        "size of a random subset of the test data, 0 for all; by default the subset of the training's own report",
        least=0,
    )
    elbo_samples: int = flag(
        100,
        "draws per datum for the ELBO and its parts; 100 make their Monte Carlo error small",
        least=2,
        most=MOST_SAMPLES,
    )
    num_samples: int = flag(
        1000,
        "K, the draws per datum for log p(x); the curve from 1 to K shows what more draws would gain",
        least=2,
        most=MOST_SAMPLES,
    )
    annealed_data: int = flag(
        100,
        "number of test data to anneal, and as many simulated ones, and of test data whose guide is refined; 0 means "
        "none",
        least=0,
    )
    num_temperatures: int = flag(
        200, "temperatures of the annealing; the gap on simulated data shows whether they are enough", least=0
    )
    num_chains: int = flag(
        16, "chains of the annealing for each datum, as in Wu et al. 2017", least=2, most=MOST_SAMPLES
    )
    escalated_draws: int = flag(
        2_000_000,
        "most decoder evaluations to spend on data whose k-hat is above 0.7; 0 leaves them as they are",
        least=0,
    )
    latent_data: int = flag(
        2000, "number of training data whose aggregate posterior is measured; the cost grows with its square", least=2
    )
    latent_samples: int = flag(
        4,
        "draws per datum for the aggregate posterior; the report shows the resulting errors",
        least=2,
        most=MOST_SAMPLES,
    )
    posterior_draws: int = flag(
        500,
        "NUTS draws from the true posterior of one datum, if there are more than two latent dimensions; 0 means none",
        least=0,
    )
    saved_numbers: int = flag(
        10_000_000,
        "most latent numbers in log_likelihood.nc: as many draws of all test data as that allows, but at least 50; "
        "of a memory-mapped file as many data as it allows",
        least=0,
    )
    evaluation_seed: int = flag(
        0, "seed of all draws; 0 repeats the draws of the training's report, so that the numbers agree", least=0
    )

    def __post_init__(self) -> None:
        check(self)
        if 0 < self.posterior_draws < 4:
            raise UsageError(f"`posterior_draws` must be 0, or at least 4 for R-hat; got {self.posterior_draws}")

    def to_dict(self) -> dict[str, Any]:
        """Converts to plain values for JSON."""
        return asdict(self)

    def changed(self) -> dict[str, Any]:
        """Lists the settings that differ from their defaults.

        >>> Plan(num_samples=5000).changed()
        {'num_samples': 5000}
        """
        return {f.name: value for f in fields(self) if (value := getattr(self, f.name)) != f.default}


# torchrun, and srun in the tasks of a step, tell each process its place and their number.
_RANKS = (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"), ("SLURM_PROCID", "SLURM_NTASKS"))


class Shard(NamedTuple):
    """Share i of n, i = 0 ... n - 1: every n-th block of the work, from block i on."""

    place: int
    number: int

    def __str__(self) -> str:
        return f"{self.place}/{self.number}"

    @property
    def stem(self) -> str:
        """The name of its files without their endings."""
        return f"shard-{self.place:05d}-of-{self.number:05d}"

    @classmethod
    def wanted(cls, text: str, environment: Mapping[str, str]) -> "Shard | None":
        """Reads the share that a text asks for.

        Args:
            text: "i/n"; "none"; or "auto", the share of this process where torchrun or srun has started several.
            environment: the variables of the process.

        Returns:
            The share; None for all the work.

        Raises:
            UsageError: the text has another form, or i lies outside 0 ... n - 1.

        Example:
            >>> Shard.wanted("auto", {"RANK": "2", "WORLD_SIZE": "4"}), Shard.wanted("auto", {})
            (Shard(place=2, number=4), None)
        """
        if text == "none":
            return None
        if text == "auto":
            known = (names for names in _RANKS if all(name in environment for name in names))
            return next((_rank(environment, *names) for names in known), None)
        if not (numbers := re.fullmatch(r"(\d{1,5})/(\d{1,5})", text, re.ASCII)):
            raise UsageError(f"a `shard` is i/n, such as 0/4, or auto, or none; got {text!r}")
        shard = cls(int(numbers[1]), int(numbers[2]))
        if not shard.place < shard.number:
            raise UsageError(f"`shard` i/n counts from 0: i must be within 0 ... n - 1; got {text}")
        return shard


def _rank(environment: Mapping[str, str], index: str, number: str) -> Shard | None:
    # The script of a SLURM job is not a task of a step, and must not do only the work of the first one.
    if index.startswith("SLURM") and "SLURM_STEP_ID" not in environment:
        return None
    place, size = environment.get(index, ""), environment.get(number, "")
    return Shard(int(place), int(size)) if place.isdecimal() and size.isdecimal() and int(size) > 1 else None
