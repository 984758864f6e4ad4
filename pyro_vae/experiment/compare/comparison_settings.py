"""Evaluation: how many draws, which data and which device all runs of a comparison are measured with."""

from dataclasses import dataclass

from pyro_vae.experiment.checked_fields import check, flag
from pyro_vae.option_words import Threads
from pyro_vae.randomness import MOST_SAMPLES


@dataclass(frozen=True)
class Evaluation:
    """The settings that all runs are evaluated with. `metadata["help"]` of a field says what it does.

    Raises:
        UsageError: a number is out of range.

    Example:
        >>> Evaluation(num_samples=5000).test_data is None
        True
    """

    num_samples: int = flag(1000, "draws per datum for log p(x), in every run", least=1, most=MOST_SAMPLES)
    seed: int = flag(0, "seed of the draws and of the bootstrap, the same for every run", least=0)
    test_data: int | None = flag(
        None,
        "size of a random subset of the test data, 0 for all; by default the subset of each run's own report",
        least=0,
    )
    data_dir: str = flag("", "folder of the data, if they have moved since training", scope="place")
    device: str = flag("cpu", "device to compute on, e.g. cpu or cuda; training may have used another", scope="place")
    threads: Threads = flag(
        "auto",
        "threads of torch; auto is the number of the training, unless OMP_NUM_THREADS is set",
        scope="place",
        least=1,
    )

    def __post_init__(self) -> None:
        check(self)
