"""`.npy` and `.npz` files as the first version of this package read them, for runs from then: `reader=1`.

(N, D)        -> x_shape (D,)            bool, or integers 0 and 1      binary
(N, H, W)     -> x_shape (1, H, W)       uint8, or integers 0..255      256 levels
(N, C, H, W)  -> x_shape (C, H, W)       floats                         taken as they are

Nothing may change here: a run that is opened again must find the numbers that it was trained on.
"""

from pathlib import Path

import numpy as np

from pyro_vae.data import formats
from pyro_vae.data.sources import Part, Raw, Request, hold_out, seven_one_two
from pyro_vae.errors import DataError

_GIVEN = ("train", "valid", "test")
_MOST_CLASSES = 1000


def user_file(request: Request) -> Raw:
    """Reads a file with the keys `x`, `y`, or `x_train`, `x_valid`, `x_test` with `y_train`, ...

    Without `x_valid`, one training datum in ten is held out for validation.

    Args:
        request: its `dataset` is the path.

    Raises:
        DataError: no such file or keys, a wrong rank or type, values that are not finite or outside 0..255.
    """
    path = Path(request.dataset)
    arrays = formats.read_numpy(path, request.map_above)
    images, labels = _pairs(path, arrays)
    levels, num_levels, notes = _levels(path, {key: _image_rank(path, key, x) for key, x in images.items()})
    num_classes = _check_labels(path, images, labels)
    return Raw(
        name=path.name,
        source=f"The user's own file {path.name}.",
        own=True,
        parts=tuple(Part(x, labels.get(key), _cut(key, len(x), images)) for key, x in levels.items()),
        num_levels=num_levels,
        num_classes=num_classes,
        files={path.name: formats.digest(path)},
        notes=(*notes, *_unused(arrays, images, labels)),
    )


def _pairs(path: Path, arrays: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Returns images by key, and labels under the key of their images."""
    given = [f"x_{split}" for split in _GIVEN if f"x_{split}" in arrays]
    others = [key for key in arrays if key != "y"]
    if given:
        keys = _check_given(path, given)
    elif "x" in arrays:
        keys = ["x"]
    elif len(others) == 1:
        keys = others
    else:
        raise DataError(
            f"{path}: holds the arrays {', '.join(arrays) or 'none'}; name the images x, or x_train, "
            "x_valid and x_test."
        )
    y_of = {key: key.replace("x", "y", 1) if given else "y" for key in keys}
    return {key: arrays[key] for key in keys}, {k: arrays[y] for k, y in y_of.items() if y in arrays}


def _unused(arrays: dict[str, np.ndarray], *used: dict[str, np.ndarray]) -> tuple[str, ...]:
    taken = {id(array) for arrays in used for array in arrays.values()}
    names = [name for name, array in arrays.items() if id(array) not in taken]
    return (f"Arrays of the file that were not used: {', '.join(names)}.",) if names else ()


def _check_given(path: Path, given: list[str]) -> list[str]:
    missing = [key for key in ("x_train", "x_test") if key not in given]
    if missing:
        raise DataError(f"{path}: holds {', '.join(given)} but no {missing[0]}; your own splits need both.")
    return given


def _cut(key: str, size: int, images: dict[str, np.ndarray]) -> dict[str, int]:
    if not key.startswith("x_"):
        return seven_one_two(size)
    if key == "x_train" and "x_valid" not in images:
        return hold_out(size, 10)
    return {key.removeprefix("x_"): size}


def _image_rank(path: Path, key: str, x: np.ndarray) -> np.ndarray:
    if x.ndim not in (2, 3, 4):
        cure = " One number per datum is x[:, None]." if x.ndim == 1 else ""
        raise DataError(f"{path}: array {key} has shape {x.shape}; expected (N, D), (N, H, W) or (N, C, H, W).{cure}")
    if x.size == 0:
        raise DataError(f"{path}: array {key} is empty, its shape is {x.shape}.")
    return x[:, None] if x.ndim == 3 else x


Levels = tuple[dict[str, np.ndarray], int | None, tuple[str, ...]]


def _levels(path: Path, images: dict[str, np.ndarray]) -> Levels:
    """Returns the arrays in storage form, L (None for floats), and notes for the protocol."""
    first, *others = images.values()
    if any(x.shape[1:] != first.shape[1:] or x.dtype != first.dtype for x in others):
        found = ", ".join(f"{key} {x.dtype} {x.shape[1:]}" for key, x in images.items())
        raise DataError(f"{path}: the splits must have one type and one shape per datum; got {found}.")
    if first.dtype.kind not in "buif":
        raise DataError(f"{path}: type {first.dtype} is not supported; save bool, uint8 or floating-point numbers.")
    check = _float_levels if first.dtype.kind == "f" else _integer_levels
    stored = {key: check(path, key, x) for key, x in images.items()}
    if all(((rows == 0) | (rows == 1)).all() for x in stored.values() for _, rows in formats.blocks(x)):
        return {key: x if isinstance(x, np.memmap) else x.astype(np.uint8) for key, x in stored.items()}, 2, ()
    if first.dtype.kind == "f":
        return stored, None, ()
    note = f"Integers of type {first.dtype} were read as 8-bit levels 0..255; counts are stored as floats."
    return stored, 256, () if first.dtype == np.uint8 else (note,)


def _float_levels(path: Path, key: str, x: np.ndarray) -> np.ndarray:
    for first, rows in formats.blocks(x):
        with np.errstate(over="ignore"):
            finite = np.isfinite(rows.astype(np.float32, copy=False))
        if not finite.all():
            raise DataError(
                f"{path}: array {key} has {_place(rows, ~finite, first)}, which is not a finite float32. "
                "Remove or replace such values."
            )
    return x.astype(np.float32, copy=False)


def _integer_levels(path: Path, key: str, x: np.ndarray) -> np.ndarray:
    if x.dtype == bool:
        return _within(path, key, x.view(np.uint8), 1, "a bool is 0 or 1. Save it again, as x != 0 or as uint8.")
    cure = "integers are read as 8-bit levels 0..255. Store such data as floats, or scale them to uint8."
    return _within(path, key, x, 255, cure).astype(np.uint8, copy=False)


def _within(path: Path, key: str, x: np.ndarray, most: int, cure: str) -> np.ndarray:
    for first, rows in formats.blocks(x):
        outside = (rows < 0) | (rows > most)
        if outside.any():
            raise DataError(f"{path}: array {key} has {_place(rows, outside, first)}; {cure}")
    return x


def _place(rows: np.ndarray, wrong: np.ndarray, first: int) -> str:
    where = tuple(int(i) for i in np.unravel_index(wrong.argmax(), wrong.shape))
    return f"{rows[where]} at datum {first + where[0]}, position {where[1:]}"


def _check_labels(path: Path, images: dict[str, np.ndarray], labels: dict[str, np.ndarray]) -> int:
    """Returns the number of classes, 0 without labels."""
    if labels and labels.keys() != images.keys():
        raise DataError(f"{path}: labels only for {', '.join(labels)}; give them for every split, or for none.")
    for key, y in labels.items():
        if y.shape != (len(images[key]),) or y.dtype.kind not in "ui":
            raise DataError(
                f"{path}: the labels of {key} are {y.dtype} {y.shape}; expected integers, one for each of the "
                f"{len(images[key])} data."
            )
        wrong = (y < 0) | (y >= _MOST_CLASSES)
        if wrong.any():
            i = int(wrong.argmax())
            raise DataError(f"{path}: label {y[i]} of {key} at datum {i}; labels are 0..C-1 with C <= {_MOST_CLASSES}.")
    return 1 + max(int(y.max()) for y in labels.values()) if labels else 0
