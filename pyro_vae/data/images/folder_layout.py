"""The paths of a folder of images -> splits, classes and labels. No link is followed, and no file is opened."""

import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pyro_vae.data.images.image_files import ENDINGS
from pyro_vae.data.tables.frames import named
from pyro_vae.errors import DataError

_SPLITS = {"train": "train", "valid": "valid", "val": "valid", "validation": "valid", "test": "test"}
_MOST_FILES = 1 << 22
_DEEPEST = 32


def listed(root: Path) -> tuple[list[str], Counter[str]]:
    """Lists the images of a folder by path, and counts everything else there: "hidden", or "other".

    Raises:
        DataError: there is no folder, no image, a link, or too many folders inside each other.
    """
    if not root.is_dir():
        raise DataError(f"{root}: there is no such folder.")
    names: list[str] = []
    skipped: Counter[str] = Counter()
    try:
        for kind, name in _walk(root):
            if kind == "image":
                names.append(name)
            else:
                skipped[kind] += 1
    except OSError as error:
        raise DataError(f"{error.filename or root}: cannot be read ({error.strerror or error}).") from error
    if not names:
        raise DataError(f"{root}: holds no image with one of the endings {', '.join(ENDINGS)}.")
    if len(names) > _MOST_FILES:
        raise DataError(f"{root}: holds more than {_MOST_FILES:,} images. Save them as an array with np.save.")
    return sorted(names), skipped


def _walk(root: Path, below: str = "") -> Iterator[tuple[str, str]]:
    """Yields the kind of each file, and its path. No link is followed."""
    if below.count("/") > _DEEPEST:
        raise DataError(f"{root / below}: lies more than {_DEEPEST} folders deep.")
    with os.scandir(root / below) as entries:
        for entry in entries:
            name = f"{below}{entry.name}"
            if entry.name.startswith("."):
                yield "hidden", name
            elif entry.is_symlink():
                raise DataError(f"{root / name}: is a link, and links are not followed. Copy its target: cp -rL")
            elif entry.is_dir(follow_symlinks=False):
                yield from _walk(root, f"{name}/")
            elif entry.is_file(follow_symlinks=False) and name.lower().endswith(ENDINGS):
                yield "image", _printable(root, name)
            else:
                yield "other", name


def _printable(root: Path, name: str) -> str:
    if not name.isprintable():
        raise DataError(f"{root}: holds {name!r}, a name with characters that cannot be printed. Rename it.")
    return name


def said_of(skipped: Counter[str]) -> list[str]:
    """Notes what was skipped in a folder.

    Example:
        >>> said_of(Counter(hidden=2))
        ['Skipped: hidden files and folders: 2.']
    """
    what = {"hidden": "hidden files and folders", "other": "files that are not images"}
    counts = [f"{what[kind]}: {skipped[kind]}" for kind in what if skipped[kind]]
    return [f"Skipped: {', '.join(counts)}."] if counts else []


def parts_of(root: Path, names: list[str]) -> dict[str, list[str]]:
    """Maps x, or x_train, x_valid and x_test, to the paths of their images.

    Raises:
        DataError: a folder train next to folders that are not splits, or images both in folders and next to them.

    Example:
        >>> parts_of(Path("own"), ["test/1.png", "train/2.png", "train/3.png"])
        {'x_train': ['train/2.png', 'train/3.png'], 'x_test': ['test/1.png']}
    """
    tops = _tops(names)
    if "train" not in tops:
        _check_depth(root, names)
        return {"x": names}
    others = [top for top in tops if top not in _SPLITS]
    keys = [f"x_{_SPLITS[top]}" for top in tops if top in _SPLITS]
    if others or len(set(keys)) < len(keys):
        raise DataError(
            f"{root}: holds {named(tops)}. Next to a folder train, only test and valid (or val, or validation) are "
            "allowed."
        )
    for top in tops:
        own = [name.removeprefix(f"{top}/") for name in names if name.startswith(f"{top}/")]
        _check_depth(root / top, own)
    order = ("x_train", "x_valid", "x_test")
    tops_of = dict(zip(keys, tops, strict=True))
    return {k: [n for n in names if n.startswith(f"{tops_of[k]}/")] for k in order if k in tops_of}


def _tops(names: list[str]) -> list[str]:
    """Returns the first folders of paths, and "" for files that lie in none."""
    return list(dict.fromkeys(name.split("/")[0] if "/" in name else "" for name in names))


def _check_depth(root: Path, names: list[str]) -> None:
    tops = _tops(names)
    if len(tops) > 1 and "" in tops:
        lone = next(name for name in names if "/" not in name)
        raise DataError(
            f"{root}: holds images next to folders of images, such as {lone!r}. Move all of them into folders, or none."
        )
    deeper = {name.split("/")[1] for name in names if name.count("/") > 1}
    if len(tops) == 1 and len(deeper) > 1:
        raise DataError(f"{root}: all images lie in folders inside {tops[0]!r}. Use {root / tops[0]} instead.")


def classes_of(root: Path, parts: dict[str, list[str]]) -> list[str]:
    """Names the classes, with numbers sorted as numbers; none if images lie in no folder.

    Example:
        >>> classes_of(Path("own"), {"x": ["10/a.png", "2/b.png"]})
        ['2', '10']
    """
    depth = 0 if "x" in parts else 1
    forms = {key: {name.count("/") > depth for name in own} for key, own in parts.items()}
    if any(True in form for form in forms.values()) and any(False in form for form in forms.values()):
        bare = [key.removeprefix("x_") for key, form in forms.items() if False in form]
        raise DataError(
            f"{root}: the images of {named(bare)} are not in folders of classes, but others are. Sort all of them, or "
            "none."
        )
    folders = {name.split("/")[depth] for own in parts.values() for name in own if name.count("/") > depth}
    return sorted(folders, key=_natural)


def _natural(name: str) -> tuple[list[Any], str]:
    parts = re.split(r"(\d+)", name)
    return [int(part) if i % 2 else part.casefold() for i, part in enumerate(parts)], name


def labels_of(names: list[str], key: str, classes: list[str]) -> np.ndarray:
    """Returns the class number of each image: (N,) int64."""
    number = {name: i for i, name in enumerate(classes)}
    return np.array([number[name.split("/")[0 if key == "x" else 1]] for name in names], np.int64)
