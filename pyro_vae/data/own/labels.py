"""Labels of any plain type -> classes 0, 1, ... and their names; numbers are sorted as numbers (2 before 10)."""

import math
from typing import NamedTuple

import numpy as np

from pyro_vae.errors import DataError

_MOST_CLASSES = 1000
Arrays = dict[str, np.ndarray]


class Classes(NamedTuple):
    """Classes by number.

    Attributes:
        labels: by the key of their data, (N,) int64 in 0..C-1; empty without labels.
        names: of the C classes; empty if classes are called by their numbers.
        num_classes: C.
        notes: sentences.
    """

    labels: Arrays
    names: tuple[str, ...] = ()
    num_classes: int = 0
    notes: tuple[str, ...] = ()


def classes(name: str, x: Arrays, y: Arrays, *, needed: bool) -> Classes:
    """Maps labels to classes.

    It takes strings, whole numbers, floats, booleans, columns (N, 1) and one-hot rows (N, C).

    Args:
        name: of the file, for messages.
        x: the data, by key.
        y: their labels, by the same keys; empty without labels.
        needed: whether labels are used; if not, labels that cannot be classes are left out, with a note.

    Raises:
        DataError: labels are needed but cannot be classes, with the place and the cure; or their number is not that of
            the data.

    Example:
        >>> found = classes("own", {"x": np.zeros((4, 2))}, {"x": np.array(["10", "2", "2", "9"])}, needed=True)
        >>> found.labels["x"].tolist(), found.names
        ([2, 0, 0, 1], ('2', '9', '10'))
    """
    if not y:
        return Classes({})
    for key in y.keys() & x.keys():
        _check_size(name, key, y[key], len(x[key]))
    try:
        return _classes(name, x, y)
    except DataError as error:
        if needed:
            raise
        return Classes({}, notes=(f"The labels were left out, since nothing needs them. ({error})",))


def _classes(name: str, x: Arrays, y: Arrays) -> Classes:
    if y.keys() != x.keys():
        raise DataError(f"{name}: labels only for {', '.join(y)}; give them for every split, or for none.")
    plain = {key: _plain(name, key, labels, len(x[key])) for key, labels in y.items()}
    are_words = any(labels.dtype.kind in "UT" for labels in plain.values())
    kind = str if are_words else np.result_type(*plain.values())  # 1 becomes 1.0 next to 0.5
    values = {key: labels.astype(kind).tolist() for key, labels in plain.items()}
    ordered = sorted(set().union(*values.values()), key=_as_number)
    if len(ordered) > _MOST_CLASSES:
        raise DataError(
            f"{name}: the labels have {len(ordered)} different values, and at most {_MOST_CLASSES} classes are taken. "
            "Are they measurements? Put them into x, or leave them out."
        )
    numbers = {value: i for i, value in enumerate(ordered)}
    codes = {key: np.array([numbers[value] for value in labels], np.int64) for key, labels in values.items()}
    names = tuple(_named(value) for value in ordered)
    if len(set(names)) < len(names):
        one = next(n for n in names if names.count(n) > 1)
        raise DataError(
            f"{name}: several labels would be called {one!r}, because they differ only in characters that do not print."
        )
    return Classes(codes, () if names == tuple(map(str, range(len(names)))) else names, len(names))


def _check_size(name: str, key: str, y: np.ndarray, size: int) -> None:
    if len(y.shape) == 0 or len(y) != size:
        raise _of_another_shape(name, key, y, size)


def _of_another_shape(name: str, key: str, y: np.ndarray, size: int) -> DataError:
    return DataError(
        f"{name}: the labels of {key} are {y.dtype} {y.shape}; expected one for each of the {size} data, "
        f"({size},), or one-hot rows ({size}, C)."
    )


def _plain(name: str, key: str, y: np.ndarray, size: int) -> np.ndarray:
    """Returns labels (N,) of bool, whole numbers, floats or strings, also from one-hot rows and columns."""
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    elif y.ndim == 2 and y.dtype.kind in "buif" and _is_one_hot(y):
        y = y.argmax(1)
    if y.shape != (size,):
        raise _of_another_shape(name, key, y, size)
    if y.dtype.kind == "S":
        y = np.char.decode(y, "utf-8", "replace")
    if y.dtype.kind not in "buifUT":
        raise DataError(
            f"{name}: the labels of {key} are of type {y.dtype}; save strings or whole numbers: y.astype(str)."
        )
    empty = np.isnan(y) if y.dtype.kind == "f" else y == "" if y.dtype.kind in "UT" else np.zeros(size, bool)
    if empty.any():
        raise DataError(
            f"{name}: the label of row {empty.argmax()} of {key} is missing. Drop such rows, or give them a class of "
            "their own."
        )
    whole = y.dtype.kind == "f" and bool((np.floor(y) == y).all()) and float(np.abs(y).max()) < 1 << 53
    return y.astype(np.int64) if whole or y.dtype.kind in "bi" else y


def by_name(name: str, key: str, y: np.ndarray, size: int, known: tuple[str, ...]) -> np.ndarray:
    """Maps labels to classes that are known by their names.

    Args:
        name: of the file, for messages.
        key: of the labels, for messages.
        y: labels of any plain type.
        size: the number of data.
        known: the names of the classes 0, 1, ...

    Returns:
        (N,) int64.

    Raises:
        DataError: they are not labels, or one is not one of these classes.

    Example:
        >>> by_name("new.npy", "x", np.array([2, 0]), 2, ("0", "1", "2")).tolist()
        [2, 0]
    """
    numbers = {word: i for i, word in enumerate(known)}
    plain = _plain(name, key, y, size)
    named = [_named(value) for value in plain.tolist()]
    if plain.dtype.kind in "if":  # each file decides on its own whether its floats are whole
        known_as = {_number(word): word for word in reversed(known) if _number(word) is not None}
        named = [known_as.get(float(value), word) for value, word in zip(plain.tolist(), named, strict=True)]
    for row, value in enumerate(named):
        if value not in numbers:
            listed = ", ".join(known[:20]) + (" ..." if len(known) > 20 else "")
            raise DataError(f"{name}: the label {value!r} of row {row} is not a class of the run, which has {listed}.")
    return np.array([numbers[value] for value in named], np.int64)


def _is_one_hot(y: np.ndarray) -> bool:
    return bool((((y == 0) | (y == 1)).all(1) & (y.sum(1) == 1)).all())


def _as_number(value: str | float) -> tuple[bool, float, str]:
    """A sorting key: numbers, also those in text, come by size and before all other words."""
    try:
        number = float(value)
    except ValueError:
        return True, 0.0, str(value)
    return (False, number, "") if math.isfinite(number) else (True, 0.0, str(value))  # a name can be "nan"


def _number(word: str) -> float | None:
    try:
        return float(word)
    except ValueError:
        return None


def _named(value: str | float) -> str:
    return "".join(c for c in str(value) if c.isprintable()) or "(blank)"


def in_words(names: tuple[str, ...], num_classes: int) -> str:
    """Describes the labels.

    Example:
        >>> in_words(("zero", "one", "two"), 3), in_words((), 10), in_words((), 0)
        ('labels zero ... two', 'labels 0 ... 9', 'no labels')
    """
    names = names or tuple(map(str, range(num_classes)))
    if not names:
        return "no labels"
    return f"only the label {names[0]}" if len(names) == 1 else f"labels {names[0]} ... {names[-1]}"
