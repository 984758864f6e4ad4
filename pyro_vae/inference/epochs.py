"""The input and output of a fit: its schedule, a record of each epoch, and how far it has come."""

import math
from dataclasses import asdict, dataclass, field

from torch import Tensor

from pyro_vae.errors import UsageError, unknown
from pyro_vae.option_words import LearningRates, words


@dataclass(frozen=True)
class Schedule:
    """How long a fit trains, at which rate and with which weights.

    Each field is explained in `pyro_vae.experiment.config`.

    Raises:
        UsageError: `average` is not a share.
    """

    epochs: int = 100
    batch_size: int = 128
    lr_schedule: str = "constant"
    kl_weight: float = 1.0
    reconstruction_weight: float = 1.0
    kl_warmup: int = 0
    patience: int = 0
    valid_samples: int = 4
    average: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.average <= 1:
            raise UsageError(f"`average` must be at least 0 and at most 1; got {self.average}")


@dataclass(frozen=True)
class Record:
    """One epoch. All numbers are per datum and in nats; the validation numbers are of the true ELBO, unweighted.

    Where a schedule averages, the validation numbers are those of the averaged program, and `loss` is not.

    Attributes:
        epoch: counted from 1.
        loss: the objective as it was minimised, with its weights, averaged over the epoch's data.
        kl_weight: at the end of the epoch (a warm-up moves it).
        learning_rate: of the epoch.
        valid_elbo, valid_reconstruction, valid_kl: on the validation data.
        valid_standard_error: of valid_elbo, over the data.
        best: whether this is the best epoch so far, see `fit`.
        valid_bound: under an importance-weighted objective, its bound on the validation data; None for others.
    """

    epoch: int
    loss: float
    kl_weight: float
    learning_rate: float
    valid_elbo: float
    valid_standard_error: float
    valid_reconstruction: float
    valid_kl: float
    best: bool
    valid_bound: float | None = None

    def to_dict(self) -> dict[str, float | bool | None]:
        """Converts the record for JSON, without `valid_bound` if there is none.

        An error that is not known (of a single datum) or a bound that is not finite (of a plain autoencoder) is None.
        """
        known = {name: value for name, value in asdict(self).items() if value is not None}
        return {name: value if math.isfinite(value) else None for name, value in known.items()}


@dataclass(frozen=True)
class Part:
    """The first steps of an epoch that was interrupted.

    Attributes:
        steps: how many were made.
        loss: their sum.
        noise: the position in the random stream for the next step.
    """

    steps: int
    loss: float
    noise: dict[str, Tensor]


@dataclass
class Progress:
    """How far a fit has come. Together with parameters and optimiser, this is all that a later fit needs.

    Attributes:
        epoch: how many whole epochs were made.
        best_epoch, best_score, best_tensors: the best of them, see `fit`.
        part: of the following epoch, if the fit was stopped within it.
        average: the average of the program's tensors, where the schedule wants one, see `averaging`.
    """

    epoch: int = 0
    best_epoch: int = 0
    best_score: float = -math.inf
    best_tensors: dict[str, Tensor] = field(default_factory=dict)
    part: Part | None = None
    average: dict[str, Tensor] = field(default_factory=dict)

    @property
    def steps(self) -> int:
        """The number of steps made in the epoch after the last whole one."""
        return self.part.steps if self.part is not None else 0

    def is_exhausted(self, schedule: Schedule) -> bool:
        """Whether all epochs were made, or the patience of the schedule ran out without a better one."""
        return self.epoch >= schedule.epochs or 0 < schedule.patience <= self.epoch - self.best_epoch

    def finish_epoch(self, score: float, tensors: dict[str, Tensor]) -> bool:
        """Counts an epoch and keeps its tensors if it is the best so far; returns whether it is."""
        self.epoch, self.part = self.epoch + 1, None
        if is_best := score > self.best_score:
            self.best_epoch, self.best_score = self.epoch, score
            self.best_tensors = {name: tensor.clone() for name, tensor in tensors.items()}
        return is_best


def warm_up(step: int, num_steps: int) -> float:
    """The factor on `kl_weight` of a linear warm-up.

    Args:
        step: counted from 0, where the factor is already above 0.
        num_steps: the factor is 1 from here on.

    Example:
        >>> [warm_up(step, 4) for step in range(6)]
        [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]

    Reference:
        Section 3.1 of Bowman et al., "Generating Sentences from a Continuous Space", CoNLL 2016 (there sigmoid),
        https://arxiv.org/abs/1511.06349
    """
    return min(1.0, (step + 1) / num_steps) if num_steps > 0 else 1.0


def learning_rate_factor(schedule: str, epoch: int, epochs: int) -> float:
    """The factor on the learning rate in an epoch. It is a pure function, so there is no state to save.

        constant   1
        cosine     (1 + cos(pi * epoch / epochs)) / 2
        step       10^(-i/7) for i = 0 ... 7, in eight stretches of 1, 3, 9, ... parts
        cooldown   1, and over the last fifth of the epochs linearly to 0

    Args:
        schedule: one of these names.
        epoch: counted from 0.
        epochs: how many there are.

    Raises:
        ValueError: another name.

    Example:
        >>> learning_rate_factor("cosine", 50, 100)
        0.5

    Reference:
        Eq. 5 of Loshchilov & Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", ICLR 2017,
        https://arxiv.org/abs/1608.03983 (cosine); section 5 of Burda, Grosse & Salakhutdinov, "Importance Weighted
        Autoencoders", ICLR 2016, https://arxiv.org/abs/1509.00519 (step); section 3 of Hägele et al., "Scaling Laws and
        Compute-Optimal Training Beyond Fixed Training Durations", NeurIPS 2024, https://arxiv.org/abs/2405.18392
        (cooldown)
    """
    if schedule == "constant":
        return 1.0
    if schedule == "cosine":
        return (1 + math.cos(math.pi * epoch / epochs)) / 2
    if schedule == "step":
        parts = (3**8 - 1) // 2
        stretch = int(math.log(2 * (epoch * parts / epochs) + 1, 3) + 1e-9)
        return 10 ** (-stretch / 7)
    if schedule == "cooldown":
        return min(1.0, 5 * (1 - epoch / epochs))
    raise unknown("lr_schedule", schedule, words(LearningRates))
