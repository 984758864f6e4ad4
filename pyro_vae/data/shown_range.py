"""The values of x that a picture shows as black and white, found once from the training data.

Images of levels have a natural range, and so do floats that fill [0, 1]. Others, such as -1 to 1, standardised, 0 to
255, or counts, are shown over the range of their training data.
"""

import numpy as np
import torch

from pyro_vae.data.splits import Split

UNIT = (0.0, 1.0)
_NUMBERS = 1 << 24  # training data that are looked at
_TAIL = 0.005
_FAR = 2.0  # widths of the middle 99 % of the numbers; ends further out are outliers


def shown_range(train: Split) -> tuple[float, float]:
    """Returns the values shown as black and as white; black is the smaller.

    It is (0, 1) for levels, for x drawn as 0 and 1, and for floats that stay in [0, 1] and fill half of it. The range
    of counts begins at 0 and ends at the 99.5 % quantile of those above 0. Other floats are shown from their smallest
    to their largest number, or between the 0.5 % and 99.5 % quantiles if the ends lie far outside. Missing numbers do
    not count.

    Args:
        train: the training data, of images.

    Example:
        >>> x = torch.linspace(-1, 1, 50).reshape(5, 1, 2, 5)
        >>> shown_range(Split.make("train", x, None, None, "none", 0))
        (-1.0, 1.0)
    """
    if train.num_levels is not None or train.recipe not in ("none", "levels"):
        return UNIT
    numbers = _numbers(train)
    if not len(numbers):
        return UNIT
    return _of_counts(numbers) if train.recipe == "levels" else _of_floats(numbers)


def _numbers(train: Split) -> np.ndarray:
    """The observed numbers of evenly spaced data."""
    step = -(-len(train) * train.levels[0].numel() // _NUMBERS)
    x = train.levels_at(torch.arange(0, len(train), step)).cpu().numpy().ravel()
    return x[np.isfinite(x)]


def _of_counts(numbers: np.ndarray) -> tuple[float, float]:
    above = numbers[numbers > 0]
    return (0.0, float(np.quantile(above, 1 - _TAIL))) if len(above) else UNIT


def _of_floats(numbers: np.ndarray) -> tuple[float, float]:
    low, high = float(numbers.min()), float(numbers.max())
    if low >= 0 and high <= 1 and (high - low >= 0.5 or high == low):
        return UNIT
    inner = [float(end) for end in np.quantile(numbers, [_TAIL, 1 - _TAIL])]
    if high - low > _FAR * (inner[1] - inner[0]) > 0:
        low, high = inner
    return (low, high) if high > low else (low - 0.5, low + 0.5)
