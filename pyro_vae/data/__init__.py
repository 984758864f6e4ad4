"""A name or a path -> three disjoint splits, the recipe that makes `x` of them, and a record of both.

    load("mnist", binarize="dynamic") -> Splits(train, valid, test, x_shape, num_classes, protocol)

    formats.py   bytes on disk -> arrays: idx, amat, mat, npy, npz, each read strictly
    sources.py   the data sets that have names: `source(request) -> Raw`
    own/         a user's own data, as one more source; tables/ and images/ read two kinds of it
    cutting.py   which datum goes to which split
    recipes.py   x of levels and noise: binarised, dequantised, or as they are
    splits.py    Split: levels in storage, in memory, on a device or in a mapped file, and their batches
    read_ahead.py  batches of a mapped file, read ahead
    protocol.py  the record of all this
    shown_range.py  which values of x a picture shows as black and white
    loading.py   load: source -> cut -> Splits, with the protocol; from_arrays: the same for arrays in memory

To add a data set, write one function `Request -> Raw` and name it in `SOURCES`.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyro_vae.option_words import Binarize, SplitKind, words

if TYPE_CHECKING:
    from pyro_vae.data.loading import from_arrays, load
    from pyro_vae.data.own.reading import Reading
    from pyro_vae.data.sources import Part, Raw, Request
    from pyro_vae.data.splits import Batch, Form, Split, Splits, one_hot

SOURCES: dict[str, str] = {
    "digits": "pyro_vae.data.sources:digits",
    "mnist": "pyro_vae.data.sources:mnist",
    "fashion_mnist": "pyro_vae.data.sources:fashion_mnist",
    "kmnist": "pyro_vae.data.sources:kmnist",
    "omniglot": "pyro_vae.data.sources:omniglot",
    "cifar10": "pyro_vae.data.sources:cifar10",
    "binarized_mnist": "pyro_vae.data.sources:binarized_mnist",
    "frey_faces": "pyro_vae.data.sources:frey_faces",
}

BINARIZE: tuple[str, ...] = words(Binarize)
SPLITS: tuple[str, ...] = words(SplitKind)
ARRAY_ENDINGS = (".npy", ".npz")
TABLE_ENDINGS = (".csv", ".tsv", ".txt")
PATHS = "a path that ends in .npy, .npz or .csv, or a folder of images"

_HOMES = {
    "from_arrays": "loading",
    "load": "loading",
    "Reading": "own.reading",
    "Part": "sources",
    "Raw": "sources",
    "Request": "sources",
    "Batch": "splits",
    "Form": "splits",
    "Split": "splits",
    "Splits": "splits",
    "one_hot": "splits",
}

__all__ = [
    "ARRAY_ENDINGS",
    "BINARIZE",
    "PATHS",
    "SOURCES",
    "SPLITS",
    "TABLE_ENDINGS",
    "Batch",
    "Form",
    "Part",
    "Raw",
    "Reading",
    "Request",
    "Split",
    "Splits",
    "from_arrays",
    "is_path",
    "load",
    "one_hot",
]


def is_path(dataset: str) -> bool:
    """Returns whether this is the path of a file or folder, which need not exist, and not the name of a data set.

    Example:
        >>> is_path("digits"), is_path("own.csv")
        (False, True)
    """
    looks_like = bool(Path(dataset).suffix) or "/" in dataset or "\\" in dataset
    return dataset not in SOURCES and (looks_like or Path(dataset).is_dir())


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
