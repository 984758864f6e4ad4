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
    """Brings what a user passes to `from_arrays` to arrays by key, and takes arrays out of the options of its reading.

    Raises:
        UsageError: `valid` is given without `test`, or something is no array.
    """
    if valid is not None and test is None:
        raise UsageError("`valid` goes with `test`: give both, or only `test`, or none")
    options = {option: value for option, value in reading.items() if value is not None}
    if hasattr(x, "columns"):
        return _of_frames(name, x, y, valid, test, options)
    given = {"x" if test is None else "x_train": (x, y)}
    given |= {_KEYS[split]: _pair(data) for split, data in (("valid", valid), ("test", test)) if data is not None}
    extra = {what: options.pop(what) for what in ("mask", "group") if not isinstance(options.get(what, ""), str)}
    arrays = {key: _array("x", data) for key, (data, _) in given.items()}
    labels = {key: _array("y", data) for key, (_, data) in given.items() if data is not None}
    beside = {what: {next(iter(arrays)): _array(what, data)} for what, data in extra.items()}
    about = Found(
        name=name,
        source="The user's own arrays.",
        x=arrays,
        y=labels,
        mask=beside.get("mask", {}),
        groups=beside.get("group", {}),
        files={f"{key} as {array.dtype}": digest(array) for key, array in arrays.items()},
    )
    return about, options


def digest(array: np.ndarray) -> str:
    """Computes the SHA-256 of an array's numbers in C order, in hexadecimal."""
    return hashlib.sha256(array.tobytes()).hexdigest()


def _pair(data: Any) -> tuple[Any, Any]:
    return data if isinstance(data, tuple) and len(data) == 2 else (data, None)


def _of_frames(name: str, x: Any, y: Any, valid: Any, test: Any, options: Options) -> tuple[Found, Options]:
    """Makes one `Found` of the frames of all splits, which have the same columns."""
    from pyro_vae.data.tables.frames import of_frame

    if isinstance(y, str):
        options["label"], y = y, None
    reading = Reading(**options)
    frames = {"x" if test is None else "x_train": (x, y)}
    frames |= {_KEYS[split]: _pair(data) for split, data in (("valid", valid), ("test", test)) if data is not None}
    found = {key: of_frame(frame, reading, name) for key, (frame, _) in frames.items()}
    first = next(iter(found.values()))
    for key, other in found.items():
        if other.columns != first.columns:
            raise DataError(f"{name}: the columns of {key} are {other.columns}; those before are {first.columns}")
    arrays = {key: part.x["x"] for key, part in found.items()}
    labels = {key: part.y["x"] for key, part in found.items() if "x" in part.y}
    labels |= {key: _array("y", column) for key, (_, column) in frames.items() if column is not None}
    about = replace(
        first,
        source="The user's own frame.",
        x=arrays,
        y=labels,
        groups={key: part.groups["x"] for key, part in found.items() if "x" in part.groups},
        ids={key: part.ids["x"] for key, part in found.items() if "x" in part.ids},
        files={f"{key} as {array.dtype}": digest(array) for key, array in arrays.items()},
    )
    return about, options


def _array(what: str, data: Any) -> np.ndarray:
    if hasattr(data, "detach"):
        data = data.detach().cpu()
        data = data.float() if str(data.dtype) == "torch.bfloat16" else data
    if hasattr(data, "toarray"):
        raise DataError(f"`{what}` is a sparse matrix: pass {what}.toarray()")
    if isinstance(data, str | bytes | dict):
        raise UsageError(f"`{what}` must be an array; got {type(data).__name__}")
    array = np.asarray(data)
    if array.dtype == object:
        array = np.asarray(array.tolist()) if what == "y" else array
    if array.dtype == object:
        raise DataError(
            f"`{what}` is made of Python objects (of unequal shapes?); make it np.stack(...) or .astype(float)"
        )
    return array
