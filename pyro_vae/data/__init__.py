"""A name or a path -> three disjoint splits, the recipe that makes `x` of them, and a record of both.

    load("mnist", binarize="dynamic") -> Splits(train, valid, test, x_shape, num_classes, protocol)

    formats.py   bytes on disk -> arrays: idx, amat, mat, npy, npz, each read strictly
    sources.py   what is on offer by name: `source(request) -> Raw`
    arrays.py    a user's own `.npy` or `.npz` file, as one more source
    tables.py    a table in a text file -> Found; table_text.py: its lines and delimiter
    frames.py    a table in memory -> Found; cells.py: the cells of a column
    image_folder.py  a folder of images -> Found; folder_layout.py: its splits and classes, image_files.py: one image,
                 image_cache.py: many images, decoded once and mapped
    conversions.py  files of other formats: the two lines that make one that is read
    recipes.py   x of levels and noise: binarised, dequantised, or as they are
    splits.py    Split: levels in storage, in memory, on a device or in a mapped file, and their batches
    read_ahead.py  batches of a mapped file, read ahead
    loading.py   load: source -> cut -> Splits, with the protocol

To add a data set, write one function `Request -> Raw` and name it in `SOURCES`.
"""

from typing import TYPE_CHECKING, Any

from pyro_vae.option_words import Binarize, SplitKind, words

if TYPE_CHECKING:
    from pyro_vae.data.loading import load
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

_HOMES = {
    "load": "loading",
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
    "BINARIZE",
    "SOURCES",
    "SPLITS",
    "Batch",
    "Form",
    "Part",
    "Raw",
    "Request",
    "Split",
    "Splits",
    "load",
    "one_hot",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
