"""A folder of images -> `Found`, by Pillow.

    folder/*.png                            images without labels
    folder/CLASS/*.png                      the class of an image is the first folder, however deep the image lies
    folder/train/..., test/..., valid/...   splits, each in one of these two forms

Every header is read before the first pixel is decoded. Many images are decoded once, into a file that is mapped.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pyro_vae.data import formats
from pyro_vae.data.images.folder_layout import classes_of, labels_of, listed, parts_of, said_of
from pyro_vae.data.images.image_cache import default_cache, mapped
from pyro_vae.data.images.image_files import MOST_PIXELS, TYPES, Header, Target, decode, read_header, resized, unequal
from pyro_vae.data.own.reading import Found, Reading
from pyro_vae.errors import DataError

_SMALL, _MOST_TIMES = 1 << 30, 200  # bytes of pixels, and multiples of the bytes of the files; more than both is a bomb
_IN_HAND = 1 << 29  # bytes of images that are decoded at the same time
_BATCH = 4096
_DEFAULT = Reading()


def read_folder(
    path: str | os.PathLike[str],
    reading: Reading = _DEFAULT,
    *,
    map_above: int = formats.MAP_ABOVE,
    cache: str | os.PathLike[str] | None = None,
) -> Found:
    """Reads a folder of images: x is (N, C, H, W), uint8, or int32 of 16-bit images, or float32 of floats.

    Images are in the order of their paths, which are their ids, and are turned as EXIF says. `reading.image_size`
    resizes the shorter side, bilinear and antialiased, and crops the square in the middle. `reading.colour` makes all
    of them grey or RGB.

    Args:
        path: of the folder.
        reading: its `image_size` and `colour` are used.
        map_above: 8-bit images with more bytes in total are converted once, into a file in `cache`, and mapped.
        cache: the folder of such files; None for `pyro_vae` in the user's own cache folder.

    Raises:
        DataError: there are no images, a link, a damaged image, too many pixels, transparency, or unequal sizes or
            colours.
        StorageError: there is no room for the cache.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in ("cat/1.png", "cat/10.png", "dog/2.png"):
        ...         Path(folder, name).parent.mkdir(exist_ok=True)
        ...         Image.new("L", (6, 8)).save(Path(folder, name))
        ...     found = read_folder(folder)
        >>> found.x["x"].shape, found.classes, found.y["x"].tolist(), found.ids["x"].tolist()
        ((3, 1, 8, 6), ('cat', 'dog'), [0, 0, 1], ['cat/1.png', 'cat/10.png', 'dog/2.png'])
    """
    root = Path(path)
    names, skipped = listed(root)
    parts = parts_of(root, names)
    classes = classes_of(root, parts)
    headers = dict(zip(names, _in_threads(partial(read_header, root), names, os.cpu_count() or 1), strict=True))
    target, notes = _target(root, list(headers.values()), reading)
    whole = _digest(list(headers.values()))
    own = {key: [headers[name] for name in part] for key, part in parts.items()}
    to_map = _num_bytes(len(names), target) > map_above and TYPES[target.kind] is np.uint8
    home = (Path(cache) if cache else default_cache()) if to_map else None
    return Found(
        name=root.resolve().name,
        source=f"The user's own folder of images {root.resolve().name}.",
        x={key: _pixels(root, part, target, home, f"{whole} {key}") for key, part in own.items()},
        y={key: labels_of(part, key, classes) for key, part in parts.items()} if classes else {},
        ids={key: np.array(part) for key, part in parts.items()},
        classes=tuple(classes),
        files={f"{len(names)} files": whole},
        notes=(*said_of(skipped), *notes),
    )


def _target(root: Path, headers: list[Header], reading: Reading) -> tuple[Target, list[str]]:
    """Returns what the images become, and the notes about it."""
    kind = _kind(root, headers, reading)
    sizes: dict[tuple[int, int], str] = {}
    for header in headers:
        sizes.setdefault(header.size, header.name)
    (size, name), *others = sizes.items()
    s = reading.image_size
    if others and not s:
        raise unequal(f"{root}: {name}", size, others[0][1], others[0][0])
    for height, width in [resized(stored, s) for stored in sizes] if s else []:
        if height * width > MOST_PIXELS:
            raise DataError(f"{root}: an image would be resized to {height} x {width} pixels. Crop it first.")
    target = Target(kind, (s, s) if s else size, s, reading.colour != "as_stored")
    _check_bomb(root, headers, target)
    return target, list(_notes(headers, target, len(sizes)))


def _kind(root: Path, headers: list[Header], reading: Reading) -> str:
    first: dict[str, str] = {}
    for header in headers:
        first.setdefault(header.kind, header.name)
    kinds, eight = set(first), {"bit", "grey", "rgb"}
    (kind, name), *others = first.items()
    if not kinds <= eight:
        if others or reading.colour == "rgb":
            what = (
                f"{others[0][1]} is {_WORDS[others[0][0]]}"
                if others
                else "`colour='rgb'` converts only 8-bit images to RGB"
            )
            raise DataError(f"{root}: {name} is {_WORDS[kind]}, and {what}. Write all images in the same form first.")
        return kind
    if reading.colour == "as_stored" and others:
        raise DataError(
            f"{root}: {name} is {_WORDS[kind]}, and {others[0][1]} is {_WORDS[others[0][0]]}. `colour='grey'` or "
            "`colour='rgb'` converts them."
        )
    if reading.colour == "rgb":
        return "rgb"
    if reading.colour == "grey":
        return "grey"
    if kind == "bit":
        return "grey" if reading.image_size else "bit"
    return kind


_WORDS = {
    "bit": "black and white",
    "grey": "grey",
    "rgb": "in colour",
    "deep": "grey of more than 8 bits",
    "float": "of floats",
}


def _check_bomb(root: Path, headers: list[Header], target: Target) -> None:
    pixels, stored = _num_bytes(len(headers), target), sum(header.num_bytes for header in headers)
    if pixels > _SMALL and pixels > _MOST_TIMES * stored:
        raise DataError(
            f"{root}: {stored:,} bytes of files would become {pixels:,} bytes of pixels. If you intend that, scale "
            "the images down, for example with `image_size=64`, or save them as an array with np.save."
        )


def _num_bytes(size: int, target: Target) -> int:
    return size * int(np.prod(target.shape)) * np.dtype(TYPES[target.kind]).itemsize


def _notes(headers: list[Header], target: Target, num_sizes: int) -> Iterator[str]:
    modes = Counter(header.mode for header in headers)
    kinds = {header.kind for header in headers}
    alpha = sum(header.has_alpha for header in headers)
    others = sum(modes[mode] for mode in ("CMYK", "YCbCr"))
    if target.image_size:
        s = target.image_size
        were = "one size" if num_sizes == 1 else f"{num_sizes} sizes"
        yield (
            f"Images of {were} were resized, bilinear and antialiased, until the shorter side had {s} pixels, and "
            f"cropped to the {s} x {s} pixels in the middle."
        )
    if target.kind == "grey" and "rgb" in kinds:
        yield "Colours were converted to grey: 0.299 red + 0.587 green + 0.114 blue."
    if alpha:
        became = "was laid on white" if target.on_white else "hid nothing and was dropped"
        yield f"The transparency of {alpha} images {became}."
    if others:
        yield f"{others} images of other colours (CMYK, YCbCr) were converted to RGB without their colour profiles."


def _digest(headers: list[Header]) -> str:
    """Computes one digest over the path and the hash of each file, in the order of the paths."""
    digest = hashlib.sha256()
    for header in headers:
        digest.update(f"{header.name}\0{header.sha256}\n".encode())
    return digest.hexdigest()


def _pixels(root: Path, headers: list[Header], target: Target, home: Path | None, key: str) -> np.ndarray:
    """Returns the images of a split: in memory, or mapped from a file in `home`."""
    shape = (len(headers), *target.shape)
    if home is not None:
        return mapped(home, f"{key} {target}", shape, partial(_fill, root, headers, target))
    x: np.ndarray = np.empty(shape, TYPES[target.kind])
    _fill(root, headers, target, x)
    return x


def _fill(root: Path, headers: list[Header], target: Target, x: np.ndarray) -> None:
    def put(i: int) -> None:
        x[i] = decode(root, headers[i], target)

    largest = max(header.size[0] * header.size[1] for header in headers)
    for _ in _in_threads(put, range(len(headers)), min(os.cpu_count() or 1, _IN_HAND // (8 * largest))):
        pass


def _in_threads(work: Callable[[Any], Any], things: Any, threads: int) -> Iterator[Any]:
    """Yields the result for each item, in order. The first error ends it, after the current batch."""
    with ThreadPoolExecutor(max(1, threads)) as pool:
        for first in range(0, len(things), _BATCH):
            yield from pool.map(work, things[first : first + _BATCH])
