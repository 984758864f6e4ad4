"""Plan: how closely an evaluation looks. Each field is a flag; each default has its reason."""

from dataclasses import asdict, dataclass, fields
from typing import Any

from pyro_vae.errors import UsageError
from pyro_vae.experiment.config import flag


@dataclass(frozen=True)
class Plan:
    """What an evaluation computes.

    With these defaults a run on digits takes about a minute on two cores; where prior or guide is a flow, some minutes.

    Raises:
        UsageError: a value out of range.

    Example:
        >>> Plan(annealed_data=0).num_samples
        1000
    """

    test_data: int = flag(
        -1, "evaluate a random subset of so many test data; 0 is all, -1 what the training's report saw"
    )
    elbo_samples: int = flag(100, "draws per datum for the ELBO and its parts; 100 make their Monte Carlo error small")
    num_samples: int = flag(1000, "K, draws per datum for log p(x); its curve from 1 to K shows what more would bring")
    annealed_data: int = flag(
        100, "test data, and simulated ones, that are annealed, and test data whose guide is refined; 0 is none"
    )
    num_temperatures: int = flag(200, "of the annealing; the gap on simulated data shows whether they are enough")
    num_chains: int = flag(16, "of the annealing, for each datum; as in Wu et al. 2017")
    escalated_draws: int = flag(
        2_000_000, "most decoder evaluations spent on data whose k-hat is above 0.7; 0 leaves them as they are"
    )
    latent_data: int = flag(
        2000, "training data whose aggregate posterior is measured; its cost grows with their number squared"
    )
    latent_samples: int = flag(4, "draws per datum for the aggregate posterior; their errors are shown")
    posterior_draws: int = flag(
        500, "draws of NUTS from the true posterior of one datum, above two latent dimensions; 0 is none"
    )
    saved_numbers: int = flag(
        10_000_000, "latent numbers in log_likelihood.nc at most; as many draws of all test data as that allows"
    )
    evaluation_seed: int = flag(0, "of all draws; 0 repeats those of the training's report, so that numbers agree")

    def __post_init__(self) -> None:
        least = {
            "elbo_samples": 2,
            "num_samples": 2,
            "num_chains": 2,
            "latent_samples": 2,
            "latent_data": 2,
            "test_data": -1,
        }
        for name, value in self.to_dict().items():
            if value < least.get(name, 0):
                raise UsageError(f"{name} must be at least {least.get(name, 0)}; got {value}")
        if 0 < self.posterior_draws < 4:
            raise UsageError(f"posterior_draws must be 0, or at least 4 for R-hat; got {self.posterior_draws}")

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    @classmethod
    def among(cls, arguments: Any) -> "Plan":
        """The plan among parsed arguments."""
        return cls(**{field.name: arguments[field.name] for field in fields(cls)})
