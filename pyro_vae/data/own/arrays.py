"""`Found` -> `Raw`: a user's own data, wherever they come from, as one more source.

    (N, D)        -> x_shape (D,)            rows of a table
    (N, H, W)     -> x_shape (1, H, W)       grey images
    (N, C, H, W)  -> x_shape (C, H, W)       images

`numbers` decides what the numbers are, and `labels` what the labels are. A large `.npy` file is mapped: it is checked
in blocks, and its splits hold positions instead of a copy.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np

from pyro_vae.data import ARRAY_ENDINGS, PATHS, TABLE_ENDINGS
from pyro_vae.data.own import first_version
from pyro_vae.data.own import labels as label_names
from pyro_vae.data.own.layout import laid_out
from pyro_vae.data.own.numbers import numbers
from pyro_vae.data.own.reading import Found, Reading, without_effect
from pyro_vae.data.sources import Part, Raw, Request, hold_out, seven_one_two
from pyro_vae.errors import DataError


def user_file(request: Request) -> Raw:
    """Reads the file or folder at a path.

    Args:
        request: its `dataset` is the path, and its `reading` says how to read it.

    Raises:
        DataError: there is no such file, or something in it is wrong; the message names the place and the cure.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.save(Path(folder, "own.npy"), np.zeros((50, 28, 28), np.float32))
        ...     made = user_file(Request(f"{folder}/own.npy"))
        >>> made.parts[0].levels.shape, made.parts[0].cut
        ((50, 1, 28, 28), {'train': 35, 'valid': 5, 'test': 10})
    """
    path = Path(request.dataset)
    if request.reading.version < 2 and path.suffix in ARRAY_ENDINGS:
        return first_version.user_file(request)
    made = raw(_found(path, request), request.reading)
    return replace(made, notes=(*without_effect(request.reading, _kind(path)), *made.notes))


def _kind(path: Path) -> str:
    kinds = {".npy": "an array", ".npz": "an archive"}
    return "a folder of images" if path.is_dir() else kinds.get(path.suffix.lower(), "a table")


def _found(path: Path, request: Request) -> Found:
    if path.suffix.lower() in ARRAY_ENDINGS:
        from pyro_vae.data.own.archives import read_archive

        return read_archive(path, request.reading, request.map_above)
    if path.suffix.lower() in TABLE_ENDINGS:
        from pyro_vae.data.tables.table_file import read_csv

        return read_csv(path, request.reading)
    if path.is_dir():
        from pyro_vae.data.images.image_folder import read_folder

        return read_folder(path, request.reading, map_above=request.map_above)
    from pyro_vae.data.own.conversions import other_format

    raise DataError(other_format(path) or f"{path}: has a form that is not read: give {PATHS}.")


def raw(found: Found, reading: Reading) -> Raw:
    """Checks what a reader found, and says how to cut it into splits.

    Without `x_valid`, one training datum in ten is held out for validation.

    Args:
        found: the arrays.
        reading: what the user says about them.

    Raises:
        DataError: an array is not a data set, or labels or masks do not belong to these data.
    """
    if found.mask and not reading.missing:
        raise DataError(f"{found.name}: holds a mask of missing numbers: use `missing=True`, or leave the mask out.")
    placed, of_layout = laid_out(found, reading)
    masks = {key: placed[f"mask of {key}"] for key in found.mask}
    x = numbers(found.name, {key: placed[key] for key in found.x}, masks, reading, found.columns)
    for what, named in (("group", found.groups), ("id", found.ids)):
        _check_column(found.name, what, found.x, named)
    classes = _classes(found, reading)
    return Raw(
        name=found.name,
        source=found.source,
        parts=tuple(
            Part(
                array,
                classes.labels.get(key),
                _cut(key, len(array), x.x),
                groups=found.groups.get(key),
                ids=found.ids.get(key),
            )
            for key, array in x.x.items()
        ),
        num_levels=x.num_levels,
        num_classes=classes.num_classes,
        files=found.files,
        notes=(*found.notes, *of_layout, *x.notes, *classes.notes),
        warnings=(*found.warnings, *classes.notes),
        own=True,
        columns=found.columns,
        classes=classes.names,
    )


def _classes(found: Found, reading: Reading) -> label_names.Classes:
    if found.classes:
        return label_names.Classes(found.y, found.classes, len(found.classes))
    return label_names.classes(found.name, found.x, found.y, needed=reading.needs_labels)


def _check_column(name: str, what: str, x: dict[str, np.ndarray], named: dict[str, np.ndarray]) -> None:
    for key, column in named.items():
        if column.shape != (len(x[key]),):
            raise DataError(
                f"{name}: the {what}s of {key} have shape {column.shape}; expected one for each of the {len(x[key])} "
                "data."
            )


def _cut(key: str, size: int, x: dict[str, np.ndarray]) -> dict[str, int]:
    if key == "x":
        return seven_one_two(size)
    if key == "x_train" and "x_valid" not in x:
        return hold_out(size, 10)
    return {key.removeprefix("x_"): size}
