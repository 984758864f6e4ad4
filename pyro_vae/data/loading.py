"""load: a name or a path -> Splits with their protocol."""

import hashlib
import os
import warnings
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pyro_vae.data import SOURCES, formats
from pyro_vae.data.sources import Part, Raw, Request
from pyro_vae.data.splits import Split, Splits
from pyro_vae.errors import DataError, UsageError, unknown
from pyro_vae.option_words import Binarize, SplitKind, check_word
from pyro_vae.randomness import generator

NAMES = ("train", "valid", "test")
_FEW = 30  # data: below them an interval that is called 95 % may cover less
_USER_FILE = "pyro_vae.data.arrays:user_file"


def load(
    dataset: str | os.PathLike[str],
    *,
    data_dir: str | os.PathLike[str] = "data",
    download: bool = False,
    binarize: str = "none",
    dequantize: bool = False,
    levels: bool = False,
    split: str = "random",
    data_seed: int = 0,
    map_above: int = formats.MAP_ABOVE,
) -> Splits:
    """Loads a data set and cuts it into three disjoint splits.

    A user's `.npy` file that is too large for memory stays on disk: it is mapped, and batches are read as they are
    needed, with the same numbers as from memory. It must hold uint8, bool or little-endian float32 in C order.

    Args:
        dataset: a name in `SOURCES`, or the path of a `.npy` or `.npz` file.
        data_dir: the folder that holds the data sets.
        download: allows the network, where torchvision knows the data set.
        binarize: "dynamic", "static", "threshold" or "none"; data of only 0 and 1 stay as they are.
        dequantize: adds uniform noise within a level; see `Split.log_jacobian`.
        levels: x is the level 0..L-1 itself, or the count, as likelihoods over whole numbers need it.
        split: "random" by the data seed, or "contiguous" in the order of the file. Published splits stay.
        data_seed: fixes the split and the draw that evaluation sees.
        map_above: a `.npy` file of more bytes is mapped, not read.

    Raises:
        UsageError: an unknown name or choice, or choices that exclude each other.
        DataError: data that are missing, damaged, too few, or not what `binarize` needs.

    Example:
        >>> splits = load("digits", binarize="dynamic")
        >>> splits.x_shape, len(splits.train), len(splits.valid), len(splits.test)
        ((1, 8, 8), 1257, 180, 360)
        >>> x, labels = next(splits.train.batches(100, seed=0, epoch=0))
        >>> x.shape, x.unique().tolist()
        (torch.Size([100, 1, 8, 8]), [0.0, 1.0])
    """
    check_word("binarize", binarize, Binarize)
    check_word("split", split, SplitKind)
    if levels and (dequantize or binarize != "none"):
        raise UsageError(
            "a likelihood of whole numbers takes the levels as they are: leave `binarize`, `dequantize` out"
        )
    source = _resolve(os.fspath(dataset))
    raw = source(Request(os.fspath(dataset), Path(data_dir), download, map_above))
    recipe = "levels" if levels else _recipe(raw, binarize, dequantize)
    pieces = _cut(raw, split, data_seed)
    splits = {name: _split(name, *pieces[name], raw.num_levels, recipe, data_seed) for name in NAMES}
    x_shape = tuple(splits["train"].levels.shape[1:])
    protocol = _protocol(raw, splits, recipe, split, data_seed, {k: index for k, (_, index) in pieces.items()})
    return Splits(**splits, x_shape=x_shape, num_classes=raw.num_classes, protocol=protocol)


def _resolve(dataset: str) -> Callable[[Request], Raw]:
    if dataset in SOURCES:
        address = SOURCES[dataset]
    elif dataset.endswith((".npy", ".npz")):
        address = _USER_FILE
    else:
        raise unknown("dataset", dataset, SOURCES, also=", or a path that ends in .npy or .npz")
    module, function = address.split(":")
    return getattr(import_module(module), function)


def _recipe(raw: Raw, binarize: str, dequantize: bool) -> str:
    """Returns the key of `RECIPES` that serves these choices on these data."""
    if dequantize and binarize != "none":
        raise UsageError(f"`dequantize=True` excludes `binarize={binarize!r}`: use one of them, with `binarize='none'`")
    if dequantize and raw.num_levels is None:
        raise UsageError(f"`dequantize=True` needs integer levels; {raw.name} holds floats. Leave it out.")
    if dequantize:
        return "dequantize"
    if raw.num_levels is None and binarize != "none":
        _check_intensities(raw, binarize)
    return "none" if raw.num_levels == 2 else binarize


def _check_intensities(raw: Raw, binarize: str) -> None:
    for part, first, rows in ((p, *block) for p in raw.parts for block in formats.blocks(p.levels)):
        outside = (rows < 0) | (rows > 1)
        if outside.any():
            where = np.unravel_index(outside.argmax(), outside.shape)
            raise DataError(
                f"{raw.name}: `binarize={binarize!r}` needs intensities in [0, 1]; got {rows[where]} at "
                f"datum {first + where[0]} of {'/'.join(part.cut)}. Use `binarize='none'`, or scale the data."
            )


def _cut(raw: Raw, split: str, data_seed: int) -> dict[str, tuple[Part, np.ndarray]]:
    """Maps a split's name to its part and its indices into that part. A random split keeps its random order."""
    pieces = {}
    for part in raw.parts:
        if min(part.cut.values()) < 1:
            sizes = " / ".join(f"{name} {size}" for name, size in part.cut.items())
            raise DataError(f"{raw.name}: {len(part.levels)} data are too few to split ({sizes}).")
        shuffled = split == "random" and len(part.cut) > 1
        order = _shuffle(len(part.levels), data_seed) if shuffled else np.arange(len(part.levels))
        ends = np.cumsum(list(part.cut.values()))[:-1]
        pieces.update({name: (part, index) for name, index in zip(part.cut, np.split(order, ends), strict=True)})
    return pieces


def _shuffle(size: int, data_seed: int) -> np.ndarray:
    return torch.randperm(size, generator=generator(data_seed, "split")).numpy()


def _split(name: str, part: Part, index: np.ndarray, num_levels: int | None, recipe: str, data_seed: int) -> Split:
    labels = None if part.labels is None else torch.from_numpy(part.labels[index].astype(np.int64))
    if isinstance(part.levels, np.memmap):
        rows = torch.from_numpy(index)
        return Split.make(name, _tensor_of_map(part.levels), labels, num_levels, recipe, data_seed, rows)
    levels = torch.from_numpy(np.ascontiguousarray(part.levels[index]))
    return Split.make(name, levels, labels, num_levels, recipe, data_seed)


def _tensor_of_map(levels: np.memmap) -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # nor is it ever written to
        return torch.from_numpy(levels)


_SENTENCES = {
    "none": "Not binarised: x is the intensity, level / (number of levels - 1), or the float as stored.",
    "already binary": "The data are already binary and stay as they are.",
    "dynamic": "Each pixel is drawn from Bernoulli(intensity), 1 where a uniform random number is below the intensity, "
    "anew in every training epoch; evaluation sees one draw, fixed by the data seed.",
    "static": "Each pixel was drawn once from Bernoulli(intensity), 1 where a uniform random number is below the "
    "intensity, by the data seed; training and evaluation see that draw.",
    "threshold": "A pixel is 1 where its intensity is at least 1/2, else 0.",
    "levels": "x is the level 0 ... L-1, or the count, as stored.",
    "dequantize": "x = (level + u) / (number of levels), u uniform on (0, 1), anew in every training epoch; "
    "evaluation sees one draw, fixed by the data seed. Adding the log-Jacobian to log p(x) gives the "
    "log-density on the scale of the levels, whose mean over u bounds the log-probability of the discrete image "
    "from below (Theis et al. 2016).",
}


def _protocol(
    raw: Raw, splits: dict[str, Split], recipe: str, split: str, seed: int, indices: dict[str, np.ndarray]
) -> dict[str, Any]:
    """Writes the record: JSON, no absolute path, the same on every machine."""
    cut = any(len(part.cut) > 1 for part in raw.parts)
    kind = split if cut else "given"
    levels = hashlib.sha256()
    for name in NAMES:
        for block in splits[name].slices():
            levels.update(splits[name].levels_at(block).numpy().data)
    return {
        "name": raw.name,
        "source": raw.source,
        "files": raw.files,
        "sha256": levels.hexdigest(),
        "shape": list(splits["train"].levels.shape[1:]),
        "num_levels": raw.num_levels,
        "num_classes": raw.num_classes,
        "split": {
            "kind": kind,
            "seed": seed if kind == "random" else None,
            "given": [name for part in raw.parts if len(part.cut) == 1 for name in part.cut],
            "sizes": {name: len(splits[name]) for name in NAMES},
            "index_sha256": {name: _index_hash(indices[name]) for name in NAMES},
        },
        "binarization": _binarization(raw, recipe, seed),
        "dequantized": _dequantization(splits["train"], recipe, seed),
        "notes": [*raw.notes, *_notes(raw, recipe, kind), *_few(splits), *_sampled(splits["valid"])],
    }


def _index_hash(index: np.ndarray) -> str:
    return hashlib.sha256(index.astype("<i8").tobytes()).hexdigest()


def _binarization(raw: Raw, recipe: str, seed: int) -> dict[str, Any]:
    kind = "none" if recipe == "dequantize" else "already binary" if raw.num_levels == 2 else recipe
    drawn = kind in ("dynamic", "static")
    return {"kind": kind, "seed": seed if drawn else None, "sentence": _SENTENCES[kind]}


def _dequantization(split: Split, recipe: str, seed: int) -> dict[str, Any] | None:
    if recipe != "dequantize":
        return None
    return {
        "num_levels": split.num_levels,
        "seed": seed,
        "log_jacobian": split.log_jacobian,
        "sentence": _SENTENCES[recipe],
    }


def _notes(raw: Raw, recipe: str, kind: str) -> list[str]:
    notes = []
    if raw.name == "frey_faces" and kind == "random":
        notes.append(
            "Neighbouring frames of the film are nearly alike, so a random split leaks the training data into "
            "the test data; a contiguous split avoids it."
        )
    if raw.name == "frey_faces" and kind == "contiguous":
        notes.append(
            "Neighbouring frames of the film are nearly alike, so the standard error over the data, which takes "
            "them for independent, is too small."
        )
    if recipe in ("dynamic", "static"):
        other = "static" if recipe == "dynamic" else "dynamic"
        notes.append(f"Numbers on {recipe} binarisation are not comparable with numbers on {other} binarisation.")
    return notes


def _few(splits: dict[str, Split]) -> list[str]:
    """Says which splits have so few data that hardly anything can be told of them."""
    about = {
        "train": "hardly anything can be learned from so few",
        "valid": "the choice of the best epoch is mostly chance",
        "test": "intervals over so few are rough, and a difference must be large to show",
    }
    words = {"train": "training", "valid": "validation", "test": "test"}
    sizes = {name: len(splits[name]) for name in NAMES if len(splits[name]) < _FEW}
    return [
        f"There {'is' if size == 1 else 'are'} {size} {words[name]} {'datum' if size == 1 else 'data'}: {about[name]}."
        for name, size in sizes.items()
    ]


def _sampled(valid: Split) -> tuple[str, ...]:
    if valid.sample_size == len(valid):
        return ()
    return (f"During training, validation looks at a random {valid.sample_size} of the {len(valid)} validation data.",)
