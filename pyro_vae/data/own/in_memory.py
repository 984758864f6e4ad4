"""Arrays, tensors and frames in memory -> `Found`."""

import hashlib
from dataclasses import replace
from typing import Any

import numpy as np

from pyro_vae.data.own.reading import Found, Reading
from pyro_vae.errors import DataError, UsageError

Options = dict[str, Any]
_KEYS = {"x": "x", "valid": "x_valid", "test": "x_test"}


def found(name: str, x: Any, y: Any, valid: Any, test: Any, reading: Options) -> tuple[Found, Options]:
    """Turns what a user passes to `from_arrays` into arrays by key, and takes the arrays out of the reading options.

    Raises:
        UsageError: `valid` is given without `test`, or something is not an array.
    """
    if valid is not None and test is None:
        raise UsageError("`valid` needs `test`: give both, or only `test`, or neither")
    options = {option: value for option, value in reading.items() if value is not None}
    extra = {what: options.pop(what) for what in ("mask", "group") if not isinstance(options.get(what, ""), str)}
    if hasattr(x, "columns"):
        for what, further in {"y": y, **extra}.items():
            _check_index(what, further, x)
        return _of_frames(name, x, y, valid, test, options, extra)
    given = {"x" if test is None else "x_train": (x, y)}
    given |= {_KEYS[split]: _pair(data) for split, data in (("valid", valid), ("test", test)) if data is not None}
    arrays = {key: _array("x", data) for key, (data, _) in given.items()}
    labels = {key: _array("y", data) for key, (_, data) in given.items() if data is not None}
    further = {what: {next(iter(arrays)): _array(what, data)} for what, data in extra.items()}
    mask = _of_masked(
        {key: data for key, (data, _) in given.items()},
        further.get("mask", {}),
        Reading(missing=options.get("missing", False)),
    )
    about = Found(
        name=name,
        source="The user's own arrays.",
        x=arrays,
        y=labels,
        mask=mask,
        groups=further.get("group", {}),
        files={f"{key} as {array.dtype}": digest(array) for key, array in arrays.items()},
    )
    return about, options


def digest(array: np.ndarray) -> str:
    """Computes the SHA-256 of an array's numbers in C order, in hexadecimal."""
    return hashlib.sha256(array.tobytes()).hexdigest()


def _pair(data: Any) -> tuple[Any, Any]:
    return data if isinstance(data, tuple) and len(data) == 2 else (data, None)


def _of_masked(x: dict[str, Any], mask: dict[str, np.ndarray], reading: Reading) -> dict[str, np.ndarray]:
    """Adds the masks of NumPy's masked arrays, in which True means a missing number."""
    hidden = {key: np.ma.getmaskarray(data) for key, data in x.items() if np.ma.is_masked(data)}
    for key, at in hidden.items():
        if not reading.missing:
            raise DataError(
                f"`x` is a masked array, and {at.sum():,} numbers of {key} are masked: use `missing=True`, or pass "
                "x.filled(value) to put a number there"
            )
    return {**mask, **{key: ~at & mask.get(key, True) for key, at in hidden.items()}}


def _check_index(what: str, data: Any, frame: Any) -> None:
    """Refuses to pair by position what pandas would pair by index."""
    index = getattr(data, "index", None)
    if index is not None and not callable(index) and hasattr(frame, "index") and not index.equals(frame.index):
        raise DataError(
            f"the index of `{what}` differs from that of the frame: pass {what}.loc[x.index], or {what}.to_numpy() if "
            "both are in the same order"
        )


def _like(first: Found, key: str, frame: Any, reading: Reading, name: str) -> Found:
    """Reads the frame of another split, with the columns of the first."""
    from pyro_vae.data.tables.frames import of_frame

    other = of_frame(frame, reading, name)
    if other.columns == first.columns:
        return other
    stored = {str(column).strip(): frame[column] for column in frame.columns}
    empty = [c for c in first.columns if c in stored and stored[c].isna().all()]
    if empty and not reading.missing:
        raise DataError(
            f"{name}: the column {empty[0]!r} of {key} has no value: use `missing=True`, fill it, or name the other "
            "columns by `columns`."
        )
    lacking = [c for c in first.columns if c not in stored]
    more = [c for c in other.columns if c not in first.columns]
    if lacking or more:
        what = f"lacks the columns {', '.join(lacking)}" if lacking else f"has more columns of x: {', '.join(more)}"
        raise DataError(f"{name}: {key} {what}. All splits need the same columns; `columns` names those that are x.")
    return of_frame(frame, replace(reading, columns=first.columns), name)


def _of_frames(
    name: str, x: Any, y: Any, valid: Any, test: Any, options: Options, extra: Options
) -> tuple[Found, Options]:
    """Makes one `Found` from the frames of all splits, which have the same columns."""
    from pyro_vae.data.tables.frames import of_frame

    if isinstance(y, str):
        options["label"], y = y, None
    reading = Reading(**options)
    frames = {"x" if test is None else "x_train": (x, y)}
    frames |= {_KEYS[split]: _pair(data) for split, data in (("valid", valid), ("test", test)) if data is not None}
    first_key = next(iter(frames))
    first = of_frame(x, reading, name)
    found = {key: first if key == first_key else _like(first, key, f, reading, name) for key, (f, _) in frames.items()}
    for key, (frame, column) in frames.items():
        _check_index(f"y of {key}", column, frame)
    arrays = {key: part.x["x"] for key, part in found.items()}
    labels = {key: part.y["x"] for key, part in found.items() if "x" in part.y}
    labels |= {key: _array("y", column) for key, (_, column) in frames.items() if column is not None}
    about = replace(
        first,
        source="The user's own frame.",
        x=arrays,
        y=labels,
        mask={first_key: _chosen(extra["mask"], x, first.columns)} if "mask" in extra else {},
        groups={key: part.groups["x"] for key, part in found.items() if "x" in part.groups}
        | ({first_key: _array("group", extra["group"])} if "group" in extra else {}),
        ids={key: part.ids["x"] for key, part in found.items() if "x" in part.ids},
        files={f"{key} as {array.dtype}": digest(array) for key, array in arrays.items()},
    )
    return about, options


def _chosen(mask: Any, frame: Any, columns: tuple[str, ...]) -> np.ndarray:
    """Returns the columns of a mask that belong to x, if it has as many columns as the frame."""
    array, names = _array("mask", mask), [str(column).strip() for column in frame.columns]
    if array.ndim == 2 and array.shape[1] == len(names) and set(columns) <= set(names):
        return array[:, [names.index(column) for column in columns]]
    return array


def _array(what: str, data: Any) -> np.ndarray:
    if hasattr(data, "detach"):
        data = data.detach().cpu()
        data = data.float() if str(data.dtype) == "torch.bfloat16" else data
    if hasattr(data, "toarray"):
        raise DataError(f"`{what}` is a sparse matrix: pass {what}.toarray()")
    if isinstance(data, str | bytes | dict):
        raise UsageError(f"`{what}` must be an array; got {type(data).__name__}")
    if np.ma.is_masked(data) and what != "x":
        data = np.ma.array(data, dtype=object).filled(None)
    array = np.asarray(data)
    if array.dtype == object and what in ("y", "group"):
        gaps = np.array([_is_missing(value) for value in array.flat], bool).reshape(array.shape)
        array = np.where(gaps, "", array.astype(str)) if gaps.any() else np.asarray(array.tolist())
    if array.dtype == object:
        raise DataError(
            f"`{what}` is made of Python objects (of unequal shapes?); convert it with np.stack(...) or .astype(float)"
        )
    return array


def _is_missing(value: Any) -> bool:
    """Whether this is None, NaN, or what pandas has for them."""
    return value is None or type(value).__name__ in ("NAType", "NaTType") or bool(np.isscalar(value) and value != value)
