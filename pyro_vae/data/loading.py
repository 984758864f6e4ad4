"""load and from_arrays: a name, a path or arrays -> Splits with their protocol."""

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pyro_vae.data import PATHS, SOURCES, formats, is_path
from pyro_vae.data.cutting import Pieces, cut, equal_rows, shared_groups
from pyro_vae.data.own import columns
from pyro_vae.data.own.reading import Reading, without_effect
from pyro_vae.data.protocol import description, protocol, untrained
from pyro_vae.data.shown_range import UNIT, shown_range
from pyro_vae.data.sources import Part, Raw, Request
from pyro_vae.data.splits import Split, Splits
from pyro_vae.errors import DataError, UsageError, unknown
from pyro_vae.option_words import Binarize, SplitKind, Standardize, check_word

_USER_FILE = "pyro_vae.data.own.arrays:user_file"


def load(
    dataset: str | os.PathLike[str],
    *,
    data_dir: str | os.PathLike[str] = "data",
    download: bool = False,
    binarize: str = "none",
    dequantize: bool = False,
    levels: bool = False,
    standardize: str = "auto",
    split: str = "random",
    data_seed: int = 0,
    valid_data: int = 0,
    map_above: int = formats.MAP_ABOVE,
    **reading: Any,
) -> Splits:
    """Loads a data set and cuts it into three disjoint splits.

    A user's `.npy` file that is too large for memory stays on disk. It is mapped, and batches are read as they are
    needed, with the same numbers as from memory. It must hold uint8, bool, or little-endian float32 or int32, in C
    order.

    Args:
        dataset: a name in `SOURCES`, or the path of a `.npy`, `.npz` or `.csv` file, or of a folder of images.
        data_dir: the folder that holds the data sets.
        download: allows the network, if torchvision knows the data set.
        binarize: "dynamic", "static", "threshold" or "none"; data of only 0 and 1 stay as they are.
        dequantize: adds uniform noise within a level; see `Split.log_jacobian`.
        levels: x is the level 0..L-1 itself, or the count, as likelihoods over whole numbers need it.
        standardize: "auto" prepares tables of reals for a program that standardises their columns; "yes" does so for
            images of reals too, and "no" for none. `Splits.scaling` has the outcome. The numbers stay in their own
            units.
        split: "random" by the data seed, or "contiguous" in the order of the file. Published splits stay.
        data_seed: fixes the split and the draw that evaluation sees.
        valid_data: number of validation data, cut from those that train; 0 means the share of the data set.
        map_above: a `.npy` file with more bytes is mapped, not read.
        reading: how to read a user's own file: `label`, `id`, `group`, `columns`, `channels`, `num_levels`,
            `counts`, `missing` ..., see `Reading`.

    Raises:
        UsageError: a name or choice is unknown, or choices exclude each other.
        DataError: the data are missing, damaged, too few, or not what `binarize` needs.

    Example:
        >>> splits = load("digits", binarize="dynamic")
        >>> splits.x_shape, len(splits.train), len(splits.valid), len(splits.test)
        ((1, 8, 8), 1257, 180, 360)
        >>> x, labels = next(splits.train.batches(100, seed=0, epoch=0))
        >>> x.shape, x.unique().tolist()
        (torch.Size([100, 1, 8, 8]), [0.0, 1.0])
    """
    if not isinstance(dataset, str | os.PathLike):
        raise UsageError(
            f"`dataset` is a name or a path; got a {type(dataset).__name__}: from_arrays(x, y) takes arrays"
        )
    choices = Choices(binarize, dequantize, levels, standardize, split, data_seed, valid_data)
    name, said = os.fspath(dataset), reading_of(reading)
    made = _resolve(name)(Request(name, Path(data_dir), download, map_above, said))
    if name in SOURCES:
        made = replace(made, notes=(*without_effect(said, "a data set that has a name"), *made.notes))
    return assemble(made, choices, said)


def from_arrays(
    x: Any,
    y: Any = None,
    *,
    valid: Any = None,
    test: Any = None,
    name: str = "arrays",
    binarize: str = "none",
    dequantize: bool = False,
    levels: bool = False,
    standardize: str = "auto",
    split: str = "random",
    data_seed: int = 0,
    valid_data: int = 0,
    **reading: Any,
) -> Splits:
    """Makes three disjoint splits from arrays in memory, with their protocol.

    Args:
        x: (N, D), (N, H, W) or (N, C, H, W): a NumPy array, a tensor, or a pandas frame. NaN is a missing number if
            `missing=True`.
        y: (N,) labels of any plain type, or the name of a column if x is a frame; None for no labels.
        valid, test: data of these splits, x or a pair (x, y). Without both, x is cut by 70, 10 and 20 per cent; if only
            `valid` is missing, one training datum in ten is held out.
        name: what the data are called in reports.
        binarize, dequantize, levels, standardize, split, data_seed, valid_data: as for `load`.
        reading: as for `load`; `mask` and `group` can also be arrays.

    Raises:
        UsageError, DataError: as for `load`.

    Example:
        >>> splits = from_arrays(np.random.default_rng(0).normal(size=(100, 5)), np.arange(100) % 3)
        >>> splits.x_shape, splits.num_classes, len(splits.train)
        ((5,), 3, 70)
    """
    from pyro_vae.data.own.arrays import raw
    from pyro_vae.data.own.in_memory import found

    choices = Choices(binarize, dequantize, levels, standardize, split, data_seed, valid_data)
    arrays, options = found(name, x, y, valid, test, reading)
    said = reading_of(options)
    return assemble(raw(arrays, said), choices, said)


@dataclass(frozen=True)
class Choices:
    """The choices about splits and x; the arguments of `load` and `from_arrays` explain each."""

    binarize: str = "none"
    dequantize: bool = False
    levels: bool = False
    standardize: str = "auto"
    split: str = "random"
    data_seed: int = 0
    valid_data: int = 0

    def __post_init__(self) -> None:
        check_word("binarize", self.binarize, Binarize)
        check_word("split", self.split, SplitKind)
        check_word("standardize", self.standardize, Standardize)
        if self.levels and (self.dequantize or self.binarize != "none"):
            raise UsageError(
                "a likelihood of whole numbers takes the levels as they are: leave out `binarize` and `dequantize`"
            )


def reading_of(options: dict[str, Any]) -> Reading:
    """Makes a `Reading` from keyword arguments.

    Raises:
        UsageError: a `Reading` has no such field.
    """
    known = [field.name for field in fields(Reading)]
    for option in options:
        if option not in known:
            raise unknown("argument", option, known)
    return Reading(**options)


def assemble(raw: Raw, choices: Choices, reading: Reading) -> Splits:
    """Cuts a data set and makes its splits, with their protocol.

    Args:
        raw: the data set.
        choices: what to make of it.
        reading: how it was read.

    Raises:
        UsageError, DataError: as for `load`.
    """
    recipe = "levels" if choices.levels or reading.counts else _recipe(raw, choices.binarize, choices.dequantize)
    pieces = cut(raw, choices.split, choices.data_seed, choices.valid_data)
    scaling = _scaling(raw, choices, reading)
    changed: dict[str, Any] = {}
    if scaling == "standardized" and raw.parts[0].levels.ndim == 2:
        raw, pieces, changed = _with_columns(raw, pieces)
    shared = shared_groups(pieces)
    if raw.own:
        raw = replace(raw, notes=(*columns.x_is(raw.columns), *raw.notes, *shared, *equal_rows(pieces)))
    splits = {name: _split(name, *piece, raw.num_levels, recipe, choices, reading) for name, piece in pieces.items()}
    raw = replace(raw, notes=(*raw.notes, *_constant(raw, splits["train"], scaling)))
    more: dict[str, Any] = {
        **({"classes": list(raw.classes)} if raw.classes else {}),
        **({"columns": list(raw.columns)} if raw.columns else {}),
        **changed,
        **({"scaling": scaling} if scaling != "as_stored" else {}),
        **({"untrained": absent} if (absent := _untrained(splits, raw.num_classes)) else {}),
        **({"missing": _share_missing(splits)} if reading.missing else {}),
        **_range(splits["train"]),
    }
    return Splits(
        **splits,
        x_shape=tuple(splits["train"].levels.shape[1:]),
        num_classes=raw.num_classes,
        protocol=protocol(raw, splits, recipe, choices.split, choices.data_seed, pieces, more),
        classes=raw.classes or tuple(map(str, range(raw.num_classes))),
        columns=raw.columns,
        about=description(raw, splits),
        scaling=scaling,
        warnings=(*raw.warnings, *shared, *untrained(splits, raw.classes)),
    )


def _constant(raw: Raw, train: Split, scaling: str) -> list[str]:
    """Names the constant columns of counts and of mapped tables, which keep them."""
    is_mapped = train.rows is not None and scaling == "standardized"
    if train.levels.ndim != 2 or not (is_mapped or (scaling == "counts" and raw.own)):
        return []
    why = "Such a column says nothing; leave it out."
    if is_mapped:
        why = "A mapped file keeps such columns, and their sigma falls to its floor: save the file without them."
    of = "a sample of the training rows" if is_mapped else "the training rows"
    return columns.said_of_constant(train.in_memory().levels.numpy(), raw.columns, of, why)


def _range(train: Split) -> dict[str, Any]:
    """Returns the range of images if it is not [0, 1]."""
    found = UNIT if train.levels.ndim != 4 else shown_range(train)
    return {} if found == UNIT else {"range": list(found)}


def _resolve(dataset: str) -> Callable[[Request], Raw]:
    if dataset in SOURCES:
        address = SOURCES[dataset]
    elif is_path(dataset):
        address = _USER_FILE
    else:
        raise unknown("dataset", dataset, SOURCES, also=f", or {PATHS}")
    module, function = address.split(":")
    return getattr(import_module(module), function)


def _scaling(raw: Raw, choices: Choices, reading: Reading) -> str:
    """Returns how a program should see the numbers: as they are stored, standardised, or as counts."""
    if reading.counts:
        return "counts"
    are_reals = raw.num_levels is None
    if choices.standardize == "yes" and not are_reals:
        raise UsageError(f"`standardize='yes'` is for reals; {raw.name} holds {raw.num_levels} levels. Leave it out.")
    is_table = raw.parts[0].levels.ndim == 2
    wanted = choices.standardize == "yes" or (choices.standardize == "auto" and is_table and reading.version > 1)
    return "standardized" if wanted and are_reals and choices.binarize == "none" else "as_stored"


def _with_columns(raw: Raw, pieces: Pieces) -> tuple[Raw, Pieces, dict[str, Any]]:
    """Checks the columns of a table, see `columns.fitted`; also returns what the protocol says about changes."""
    part, index = pieces["train"]
    if isinstance(part.levels, np.memmap):
        return raw, pieces, {}
    done = columns.fitted(raw, part.levels[index])
    parts = {id(old): new for old, new in zip(raw.parts, done.raw.parts, strict=True)}
    notes = (*done.raw.notes, *done.notes)
    changed: dict[str, Any] = {}
    if done.raw is not raw:
        width, names = raw.parts[0].levels.shape[1], raw.columns
        changed = {"kept": done.kept.tolist(), "origin": done.origin.tolist(), "width": width}
        if dropped := [name for i, name in enumerate(names) if i not in done.kept]:
            changed["dropped"] = dropped
    return replace(done.raw, notes=notes), {name: (parts[id(part)], i) for name, (part, i) in pieces.items()}, changed


def _recipe(raw: Raw, binarize: str, dequantize: bool) -> str:
    """Returns the key of `RECIPES` for these choices on these data."""
    if dequantize and binarize != "none":
        raise UsageError(f"`dequantize=True` excludes `binarize={binarize!r}`: use one of them, with `binarize='none'`")
    if dequantize and raw.num_levels is None:
        raise UsageError(f"`dequantize=True` needs integer levels; {raw.name} holds floats. Leave out `dequantize`.")
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
            of = "" if len(raw.parts) == 1 else f" of x_{next(iter(part.cut))}"
            if rows.ndim == 2:
                raise _no_intensities(raw, f"{rows[where]:g} at row {first + where[0]}{of}", int(where[1]))
            raise DataError(
                f"{raw.name}: `binarize={binarize!r}` needs intensities in [0, 1]; got {rows[where]:g} at row "
                f"{first + where[0]}{of}. {_cure_of_intensities(raw)}"
            )


def _no_intensities(raw: Raw, value: str, column: int) -> DataError:
    name = repr(raw.columns[column]) if raw.columns else column
    # Users who bring a table often did not choose bits: the default likelihood takes them.
    return DataError(
        f"{raw.name}: bits are drawn from intensities in [0, 1]; got {value}, column {name}. For a table of "
        f"measurements use a density (`likelihood='normal'`); for intensities, s{_scaled(raw)[1:]}."
    )


def _cure_of_intensities(raw: Raw) -> str:
    return f"{_scaled(raw)}, or use a density (`likelihood='normal'`)."


def _scaled(raw: Raw) -> str:
    low = min(float(np.nanmin(part.levels)) for part in raw.parts)
    high = max(float(np.nanmax(part.levels)) for part in raw.parts)
    gaps = any(np.isnan(p.levels).any() for p in raw.parts)
    least, most = ("np.nanmin(x)", "np.nanmax(x)") if gaps else ("x.min()", "x.max()")
    if len(raw.parts) > 1:
        least, most = f"({low!r})", f"{high!r}"
    if low < 0:
        return f"Save (x - {least}) / ({most} - {least})"
    return f"Save x / {255 if 128 <= high <= 255 else most}"


def _split(
    name: str,
    part: Part,
    index: np.ndarray,
    num_levels: int | None,
    recipe: str,
    choices: Choices,
    reading: Reading,
) -> Split:
    labels = None if part.labels is None else torch.from_numpy(part.labels[index].astype(np.int64))
    rows = torch.from_numpy(index)
    is_mapped = isinstance(part.levels, np.memmap)
    levels = _tensor_of_map(part.levels) if isinstance(part.levels, np.memmap) else _in_memory(part.levels[index])
    seed = choices.data_seed
    split = Split.make(name, levels, labels, num_levels, recipe, seed, rows if is_mapped else None, reading.missing)
    return replace(split, file_rows=rows, ids=None if part.ids is None else part.ids[index])


def _in_memory(levels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(levels, np.float32 if levels.dtype.itemsize == 8 else None))


def _tensor_of_map(levels: np.memmap) -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # it is never written to
        return torch.from_numpy(levels)


def _untrained(splits: dict[str, Split], num_classes: int) -> list[int]:
    """Lists the classes that no training datum has."""
    labels = splits["train"].labels
    return [] if labels is None else sorted(set(range(num_classes)) - set(labels.tolist()))


def _share_missing(splits: dict[str, Split]) -> dict[str, float]:
    """Returns the share of missing numbers in each split."""
    shares = {}
    for name, split in splits.items():
        missing = sum(int(split.levels_at(block).isnan().sum()) for block in split.slices())
        shares[name] = missing / (len(split) * split.levels[0].numel())
    return shares
