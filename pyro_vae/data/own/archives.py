"""`.npy` and `.npz` files -> `Found`: the name of an array in an archive says what it is.

A name is made of words: one says what the array is (x, data, images ... or y, labels, target ...) and one says its
split (train, valid, test), in any order. So x_train, train_images and X_val are understood.
"""

from pathlib import Path

import numpy as np

from pyro_vae.data import formats
from pyro_vae.data.own.reading import Found, Reading
from pyro_vae.errors import DataError, UsageError, unknown

_X = ("x", "data", "images", "image", "imgs", "features", "samples", "inputs")
_Y = ("y", "labels", "label", "targets", "target", "classes", "class")
_MASK = ("mask", "observed")
_GROUP = ("group", "groups")
_ID = ("id", "ids")
_KINDS = {
    word: kind
    for kind, words in {"x": _X, "y": _Y, "mask": _MASK, "group": _GROUP, "id": _ID}.items()
    for word in words
}
_SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("valid", "val", "validation", "dev"), "valid"),
    "test": "test",
}
_SPARSE = {"indices", "indptr", "format", "shape", "data"}
_CURE = "Name the data x and their labels y, or x_train, x_valid and x_test."


def read_archive(path: Path, reading: Reading, map_above: int = formats.MAP_ABOVE) -> Found:
    """Reads a `.npy` file, or a `.npz` file by the names of its arrays; a note names the unused ones.

    Args:
        path: of the file.
        reading: `label` and `group` are names of arrays.
        map_above: a `.npy` file of more bytes is mapped, not read.

    Raises:
        DataError: no such file, a damaged one, or one whose names do not say which array is x.
        UsageError: it has no array with the name in `label` or `group`.
    """
    arrays = _opened(path, map_above)
    given = {"y": reading.label, "group": reading.group}
    for option, name in zip(("array for `label`", "array for `group`"), given.values(), strict=True):
        if name and name not in arrays:
            raise unknown(option, name, arrays)
    by_kind = _sorted_out(path, arrays, {name: kind for kind, name in given.items() if name})
    return _found(path, arrays, by_kind)


def read_rows(path: Path, reading: Reading, array: str = "", map_above: int = formats.MAP_ABOVE) -> Found:
    """Reads one array of a `.npy` or `.npz` file, with its labels, ids and mask: data that are not split.

    Args:
        path: of the file.
        reading: `label` names an array, which can be missing here.
        array: the name of the data; "" takes the only array whose name fits, as in `read_archive`.
        map_above: as for `read_archive`.

    Raises:
        DataError: no such file, a damaged one, or one whose names do not say which array is x.
        UsageError: it has no such array, or several that could be meant.
    """
    arrays = _opened(path, map_above)
    if array and array not in arrays:
        raise unknown("array", array, arrays)
    split = _meaning(array)[1] if array else ""
    by_kind = {"x": {"": array or _only_x(path, arrays)}}
    if not array:
        split = _meaning(by_kind["x"][""])[1]
    for kind in ("y", "mask", "id"):
        named = [name for name in arrays if _meaning(name) == (kind, split) and name != by_kind["x"][""]]
        if kind == "y" and reading.label in arrays:
            named = [reading.label]
        by_kind[kind] = dict.fromkeys([""], named[0]) if named else {}
    return _found(path, arrays, {**by_kind, "group": {}})


def _only_x(path: Path, arrays: formats.Archive) -> str:
    found = {name: _meaning(name)[1] for name in arrays if _meaning(name)[0] == "x"}
    names = [name for name, split in found.items() if not split] or list(found)
    others = [name for name in arrays if not _meaning(name)[0]]
    names = names or (others if len(others) == 1 else [])
    if len(names) > 1:
        raise UsageError(f"{path}: holds {', '.join(names)}; choose one, as in `array={names[-1]!r}`")
    if not names:
        raise _no_x(path, arrays)
    return names[0]


def _opened(path: Path, map_above: int) -> formats.Archive:
    arrays = formats.read_numpy(path, map_above)
    if set(arrays) >= _SPARSE - {"format"} or ({"row", "col", "data"} <= set(arrays)):
        raise DataError(
            f"{path}: holds a scipy.sparse matrix. Save it dense: "
            f"np.save('{path.stem}.npy', scipy.sparse.load_npz('{path.name}').toarray())."
        )
    return arrays


def _found(path: Path, arrays: formats.Archive, by_kind: dict[str, dict[str, str]]) -> Found:
    used = [name for names in by_kind.values() for name in names.values()]

    def named(kind: str) -> dict[str, np.ndarray]:
        return {_key(split): arrays[name] for split, name in by_kind[kind].items()}

    return Found(
        name=path.name,
        source=f"The user's own file {path.name}.",
        x=named("x"),
        y=named("y"),
        mask=named("mask"),
        groups=named("group"),
        ids=named("id"),
        files={path.name: formats.digest(path)},
        notes=(*_of_one_split(by_kind["x"]), *_left_out(arrays, used)),
    )


def _sorted_out(path: Path, arrays: formats.Archive, given: dict[str, str]) -> dict[str, dict[str, str]]:
    """Returns kind -> split ("" for all data) -> the name of the array."""
    by_kind: dict[str, dict[str, str]] = {kind: {} for kind in ("x", "y", "mask", "group", "id")}
    for name in arrays:
        kind, split = (given[name], "") if name in given else _meaning(name)
        if not kind or (kind in given.values() and name not in given):
            continue
        if split in by_kind[kind]:
            raise DataError(f"{path}: both {by_kind[kind][split]} and {name} could be {_key(split, kind)}. {_CURE}")
        by_kind[kind][split] = name
    if not by_kind["x"]:
        others = [name for name in arrays if name not in {n for names in by_kind.values() for n in names.values()}]
        if len(others) != 1:
            raise _no_x(path, arrays)
        by_kind["x"][""] = others[0]
    if len(by_kind["x"]) > 1:
        by_kind["x"].pop("", None)
        if missing := [split for split in ("train", "test") if split not in by_kind["x"]]:
            held = ", ".join(by_kind["x"].values())
            raise DataError(f"{path}: holds {held} but no x_{missing[0]}; your own splits need both. {_CURE}")
    elif "" not in by_kind["x"]:
        by_kind = {kind: _all_data(names, next(iter(by_kind["x"]))) for kind, names in by_kind.items()}
    return {kind: {split: n for split, n in names.items() if split in by_kind["x"]} for kind, names in by_kind.items()}


def _all_data(names: dict[str, str], only: str) -> dict[str, str]:
    """Takes the arrays of the only split as the arrays of all data."""
    return next(({"": names[key]} for key in (only, "") if key in names), {})


def _meaning(name: str) -> tuple[str, str]:
    """Returns what an array of this name is, "" if that is not known, and its split, "" for none.

    >>> _meaning("x_val"), _meaning("train_images"), _meaning("Y"), _meaning("arr_0")
    (('x', 'valid'), ('x', 'train'), ('y', ''), ('', ''))
    """
    words = name.lower().split("_")
    split = [_SPLITS[word] for word in words if word in _SPLITS]
    kinds = [_KINDS[word] for word in words if word in _KINDS]
    if len(split) + len(kinds) != len(words) or len(split) > 1 or len(kinds) > 1:
        return "", ""
    return (kinds or ["x"])[0], (split or [""])[0]


def _key(split: str, kind: str = "x") -> str:
    return f"{kind}_{split}" if split else kind


def _no_x(path: Path, arrays: formats.Archive) -> DataError:
    held = ", ".join(arrays) or "none"
    objects = (
        f" and arrays of Python objects, which are never loaded: {', '.join(arrays.objects)}" if arrays.objects else ""
    )
    return DataError(f"{path}: holds the arrays {held}{objects}. {_CURE}{_renaming(path, arrays)}")


def _renaming(path: Path, arrays: formats.Archive) -> str:
    """Returns the code that writes an archive again under names that are known."""
    if not arrays:
        return ""
    shapes = {name: array.shape for name, array in arrays.items()}
    x = max(shapes, key=lambda name: (len(shapes[name]), shapes[name]))
    y = next((n for n, shape in shapes.items() if n != x and shapes[x][:1] == shape), "")
    labels = f", y=a[{y!r}]" if y else ""
    return f" For example: a = numpy.load({path.name!r}); numpy.savez('named.npz', x=a[{x!r}]{labels})"


def _of_one_split(x: dict[str, str]) -> list[str]:
    name = x.get("", "")
    if not _meaning(name)[1]:
        return []
    return [f"The file holds only the split {name}, which was cut into three."]


def _left_out(arrays: formats.Archive, used: list[str]) -> list[str]:
    names = [name for name in arrays if name not in used]
    notes = [f"Arrays of the file that were not used: {', '.join(names)}."] if names else []
    if arrays.objects:
        notes.append(f"Arrays of Python objects are never loaded, and were left out: {', '.join(arrays.objects)}.")
    return notes
