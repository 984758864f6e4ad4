"""The meaning of each axis. The first one counts data; the rest is (D,), (H, W) or (C, H, W)."""

import math

import numpy as np

from pyro_vae.data.own.reading import Found, Reading
from pyro_vae.errors import DataError

_CHANNELS = (1, 3, 4)
_FORMS = "(N, D), (N, H, W) or (N, C, H, W)"


def laid_out(found: Found, reading: Reading) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Brings every array of x to (N, *x_shape), and notes what could be surprising about the shapes.

    Args:
        found: `x` is read, and its masks, which are treated in the same way.
        reading: `channels` is read.

    Returns:
        The arrays by key, the masks under "mask of" + key, and notes.

    Raises:
        DataError: an array is empty or of another rank, or its last axis looks like channels.
    """
    for key, mask in found.mask.items():
        if mask.shape != found.x[key].shape or mask.dtype != bool:
            raise DataError(
                f"{found.name}: the mask of {key} is {mask.dtype} {mask.shape}; expected bool {found.x[key].shape}, "
                "True where a number was observed."
            )
    arrays = {**found.x, **{f"mask of {key}": mask for key, mask in found.mask.items()}}
    placed = {key: _placed(found.name, key, x, reading) for key, x in arrays.items()}
    _check_alike(found.name, {key: placed[key] for key in found.x})
    first = next(iter(found.x.values()))
    return placed, tuple(_notes(first, next(iter(placed.values()))))


def _placed(name: str, key: str, x: np.ndarray, reading: Reading) -> np.ndarray:
    if x.ndim not in (2, 3, 4):
        cure = "; for one number per datum pass x[:, None]" if x.ndim == 1 else ""
        raise DataError(f"{name}: array {key} has shape {x.shape}; expected {_FORMS}{cure}.")
    if not x.size:
        raise DataError(f"{name}: array {key} is empty, its shape is {x.shape}.")
    if x.ndim != 4:
        return x[:, None] if x.ndim == 3 else x
    if reading.channels == "last":
        return np.ascontiguousarray(x.transpose(0, 3, 1, 2))
    if reading.channels == "auto" and x.shape[3] in _CHANNELS and x.shape[1] not in _CHANNELS:
        height, width, channels = x.shape[1:]
        raise DataError(
            f"{name}: array {key} has shape {x.shape}, which looks like {height} x {width} images with {channels} "
            "channel(s), last. Channels come first here: use `channels='last'`, or save x.transpose(0, 3, 1, 2). If it "
            f"is {height} channels of {width} x {channels}, use `channels='first'`."
        )
    return x


def _check_alike(name: str, arrays: dict[str, np.ndarray]) -> None:
    forms = {(str(x.dtype), x.shape[1:]) for x in arrays.values()}
    if len(forms) > 1:
        each = ", ".join(f"{key} is {x.dtype} {x.shape}" for key, x in arrays.items())
        raise DataError(f"{name}: the arrays must have one type and one shape per datum; {each}.")


def _notes(as_stored: np.ndarray, x: np.ndarray) -> list[str]:
    size, *shape = as_stored.shape
    notes = []
    if as_stored.dtype == np.uint8 and shape == [size]:
        notes.append(
            f"The array ({size}, {size}) was read as {size} data of {size} numbers. If it is one image, save more of "
            "them, as (N, H, W)."
        )
    if x.ndim == 4 and x.shape[1] not in (1, 3):
        notes.append(f"Pictures show images of 1 or 3 channels. These have {x.shape[1]}, so there are no pictures.")
    return notes


def in_words(x_shape: tuple[int, ...], size: int) -> str:
    """Describes this many data of a shape.

    Example:
        >>> in_words((1, 8, 8), 1797), in_words((13,), 178)
        ('1,797 images of 1 x 8 x 8', '178 rows of 13 numbers')
    """
    if len(x_shape) == 1:
        return f"{size:,} rows of {math.prod(x_shape):,} number{'s' if x_shape != (1,) else ''}"
    return f"{size:,} images of {' x '.join(map(str, x_shape))}"
