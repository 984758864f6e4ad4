"""The data sets that have names, each a function `source(request) -> Raw`.

A source finds its files, reads them strictly, and says how to cut each file into splits. It draws nothing and scales
nothing: levels stay the integers that were published. To add one, write such a function and name it in
`pyro_vae.data.SOURCES`.
"""

import hashlib
import urllib.error
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pyro_vae.data import formats
from pyro_vae.data.own.reading import Reading
from pyro_vae.errors import DataError, first_line


@dataclass(frozen=True)
class Request:
    """A request to a source.

    Args:
        dataset: a name or a path.
        data_dir: the folder to search.
        download: allows the network.
        map_above: a user's file with more bytes is mapped, not read.
        reading: how to read a user's own file.
    """

    dataset: str
    data_dir: Path = Path("data")
    download: bool = False
    map_above: int = formats.MAP_ABOVE
    reading: Reading = field(default_factory=Reading)


@dataclass(frozen=True, eq=False)
class Part:
    """Images that are cut into splits together.

    Args:
        levels: (N, *x_shape) uint8, int32, float32 or float64; a `np.memmap` if the file is mapped, not read.
        labels: (N,) integers, or None.
        cut: split name -> number of data, in order, N in total. A part with one split keeps its order.
        groups: (N,); data with equal values stay in one split; None if each datum is a group.
        ids: (N,) names of the rows; None if the file has none.
    """

    levels: np.ndarray
    labels: np.ndarray | None
    cut: dict[str, int]
    groups: np.ndarray | None = None
    ids: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Raw:
    """A data set as published.

    Args:
        name: a name or a file name, never a path.
        source: one sentence that says where the data come from.
        parts: together they name "train", "valid" and "test" once each.
        num_levels: L where levels are 0..L-1 (2: binary); None for floats.
        num_classes: number of classes of the labels, 0 without labels.
        files: file name -> SHA-256 of the bytes on disk.
        notes: sentences that a reader of a number measured on these data must know.
        columns: the names of the D numbers of a row, if the data are a table.
        classes: the names of the classes 0, 1, ...; empty if they are their own numbers.
        warnings: the notes that a user must not miss.
        own: whether the data are a user's own, not a data set that has a name.
    """

    name: str
    source: str
    parts: tuple[Part, ...]
    num_levels: int | None
    num_classes: int
    files: dict[str, str]
    notes: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    own: bool = False


def seven_one_two(size: int) -> dict[str, int]:
    """Cuts into 70 / 10 / 20 per cent for training, validation and test.

    Example:
        >>> seven_one_two(1797)
        {'train': 1257, 'valid': 180, 'test': 360}
    """
    train, valid = 7 * size // 10, (size + 5) // 10
    return {"train": train, "valid": valid, "test": size - train - valid}


def hold_out(size: int, one_in: int) -> dict[str, int]:
    """Holds out one datum in `one_in` for validation and leaves the rest for training.

    Example:
        >>> hold_out(60000, 6)
        {'train': 50000, 'valid': 10000}
    """
    return {"train": size - size // one_in, "valid": size // one_in}


def digits(request: Request) -> Raw:
    """1,797 handwritten digits, 8 x 8 pixels of 17 grey levels, from scikit-learn: no file, no network.

    Reference:
        Alpaydin & Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998.
        https://doi.org/10.24432/C50P49

    Example:
        >>> digits(Request("digits")).parts[0].levels.shape
        (1797, 1, 8, 8)
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    levels = bunch.images.astype(np.uint8)[:, None]
    return Raw(
        name="digits",
        source="Test part of the UCI optical recognition of handwritten digits (Alpaydin and Kaynak 1998), as "
        "in scikit-learn's load_digits.",
        parts=(Part(levels, bunch.target, seven_one_two(len(levels))),),
        num_levels=17,
        num_classes=10,
        files={"load_digits().images as uint8": hashlib.sha256(levels.tobytes()).hexdigest()},
        notes=("There are 360 test images: the standard error over the data is large.",),
    )


def mnist(request: Request) -> Raw:
    """Handwritten digits, 28 x 28 pixels of 256 grey levels; 60,000 + 10,000.

    Reference:
        LeCun, Bottou, Bengio & Haffner, "Gradient-Based Learning Applied to Document Recognition", Proceedings of the
        IEEE 86, 1998. https://doi.org/10.1109/5.726791
    """
    return _idx_family(request, "mnist", "MNIST", "MNIST handwritten digits (LeCun et al. 1998).")


def fashion_mnist(request: Request) -> Raw:
    """Articles of clothing in MNIST's form.

    Reference:
        Xiao, Rasul & Vollgraf, "Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning Algorithms",
        2017. https://arxiv.org/abs/1708.07747
    """
    source = "Fashion-MNIST articles of clothing (Xiao, Rasul and Vollgraf 2017)."
    return _idx_family(request, "fashion_mnist", "FashionMNIST", source)


def kmnist(request: Request) -> Raw:
    """Cursive Japanese characters in MNIST's form.

    Reference:
        Clanuwat et al., "Deep Learning for Classical Japanese Literature", 2018. https://arxiv.org/abs/1812.01718
    """
    source = "Kuzushiji-MNIST cursive Japanese characters (Clanuwat et al. 2018)."
    return _idx_family(request, "kmnist", "KMNIST", source)


def _idx_family(request: Request, name: str, class_name: str, source: str) -> Raw:
    folder = request.data_dir / class_name / "raw"
    names = [f"{s}-{k}-ubyte" for s in ("train", "t10k") for k in ("images-idx3", "labels-idx1")]
    if request.download and not all(formats.find([folder], file) for file in names):
        _from_torchvision(request, class_name, train=True)
    train_x, train_y, test_x, test_y = paths = [_locate(request, name, [folder], file) for file in names]
    train, train_labels = _idx_pair(train_x, train_y)
    test, test_labels = _idx_pair(test_x, test_y)
    return Raw(
        name=name,
        source=source,
        parts=(
            Part(train, train_labels, hold_out(len(train), 6)),
            Part(test, test_labels, {"test": len(test)}),
        ),
        num_levels=256,
        num_classes=10,
        files={path.name: formats.digest(path) for path in paths},
    )


def _idx_pair(images: Path, labels: Path) -> tuple[np.ndarray, np.ndarray]:
    x, y = formats.read_idx(images, (28, 28)), formats.read_idx(labels)
    if len(x) != len(y):
        raise DataError(f"{images} holds {len(x)} images but {labels} holds {len(y)} labels: not a pair.")
    if y.max() > 9:
        raise DataError(f"{labels}: label {y.max()} at datum {y.argmax()}; labels are 0..9.")
    return x[:, None], y


def binarized_mnist(request: Request) -> Raw:
    """MNIST as binarised once: 50,000 / 10,000 / 10,000 images of 0 and 1.

    Reference:
        Larochelle & Murray, "The Neural Autoregressive Distribution Estimator", AISTATS 2011.
        https://proceedings.mlr.press/v15/larochelle11a.html
    """
    folders = [request.data_dir / "binarized_mnist", request.data_dir]
    sizes = {"train": 50_000, "valid": 10_000, "test": 10_000}
    files = {s: f"binarized_mnist_{s}.amat" for s in sizes}
    home = "http://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist/"
    paths = {s: _locate(request, "binarized_mnist", folders, files[s], home) for s in sizes}
    return Raw(
        name="binarized_mnist",
        source="MNIST binarised once (Larochelle and Murray 2011), the .amat files.",
        parts=tuple(
            Part(formats.read_amat(paths[s], size, 784).reshape(-1, 1, 28, 28), None, {s: size})
            for s, size in sizes.items()
        ),
        num_levels=2,
        num_classes=0,
        files={path.name: formats.digest(path) for path in paths.values()},
        notes=(
            "The test file is sorted by class: a subset of it must be drawn at random.",
            "Numbers on this static binarisation are not comparable with numbers on dynamic binarisation.",
        ),
    )


def frey_faces(request: Request) -> Raw:
    """1,965 frames of a film of one face, 28 x 20 pixels of 256 grey levels.

    Reference:
        Roweis, Saul & Hinton, "Global Coordination of Local Linear Models", Advances in Neural Information
        Processing Systems 14, 2002.
    """
    folders = [request.data_dir / "frey_faces", request.data_dir]
    home = "https://cs.nyu.edu/~roweis/data/frey_rawface.mat"
    path = _locate(request, "frey_faces", folders, "frey_rawface.mat", home)
    columns = formats.read_mat(path, "ff")
    if columns.shape != (560, 1965) or columns.dtype != np.uint8:
        raise DataError(f"{path}: ff is {columns.dtype} {columns.shape}, expected uint8 (560, 1965).")
    return Raw(
        name="frey_faces",
        source="Frey faces (Roweis, Saul and Hinton 2002): frames of one film, in film order.",
        parts=(Part(columns.T.reshape(-1, 1, 28, 20), None, {"train": 1565, "valid": 200, "test": 200}),),
        num_levels=256,
        num_classes=0,
        files={path.name: formats.digest(path)},
    )


def cifar10(request: Request) -> Raw:
    """Colour photographs of ten classes, 3 x 32 x 32 pixels of 256 levels; 50,000 + 10,000.

    Reference:
        Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.
        https://www.cs.toronto.edu/~kriz/learning-features-2009-TR.pdf
    """
    train, test = (_from_torchvision(request, "CIFAR10", train=t) for t in (True, False))
    folder = request.data_dir / "cifar-10-batches-py"
    batches = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    return Raw(
        name="cifar10",
        source="CIFAR-10 (Krizhevsky 2009), through torchvision.",
        parts=(
            Part(train.data.transpose(0, 3, 1, 2), np.asarray(train.targets), hold_out(len(train.data), 10)),
            Part(test.data.transpose(0, 3, 1, 2), np.asarray(test.targets), {"test": len(test.data)}),
        ),
        num_levels=256,
        num_classes=10,
        files={name: formats.digest(folder / name) for name in batches if (folder / name).is_file()},
    )


def omniglot(request: Request) -> Raw:
    """Handwritten characters of 50 alphabets, shrunk to 28 x 28, strokes white.

    Reference:
        Lake, Salakhutdinov & Tenenbaum, "Human-level concept learning through probabilistic program induction", Science
        350, 2015. https://doi.org/10.1126/science.aab3050
    """
    for background in (True, False):
        _from_torchvision(request, "Omniglot", background=background)
    folder = request.data_dir / "omniglot-py"
    train, test = (_strokes(folder / f"images_{part}") for part in ("background", "evaluation"))
    zips = [folder / f"images_{part}.zip" for part in ("background", "evaluation")]
    return Raw(
        name="omniglot",
        source="Omniglot (Lake, Salakhutdinov and Tenenbaum 2015), through torchvision; 105 x 105 images shrunk "
        "to 28 x 28 with antialiasing, strokes white.",
        parts=(Part(train, None, hold_out(len(train), 10)), Part(test, None, {"test": len(test)})),
        num_levels=256,
        num_classes=0,
        files={path.name: formats.digest(path) for path in zips if path.is_file()},
        notes=(
            "This is not the 28 x 28 file of the IWAE paper (Burda et al. 2016). Numbers on the two cannot be "
            "compared.",
            "Training and test alphabets differ, so there are no labels.",
        ),
    )


def _strokes(folder: Path) -> np.ndarray:
    """Reads (N, 1, 28, 28) uint8, sorted by path, since the order of a folder differs between machines."""
    from PIL import Image

    paths = sorted(folder.glob("*/*/*.png"))
    if not paths:
        raise DataError(f"{folder}: holds no images. Unpack the archive next to it, or pass `download=True`.")
    x = np.empty((len(paths), 1, 28, 28), np.uint8)
    for i, path in enumerate(paths):
        try:
            with Image.open(path) as image:
                shrunk = image.convert("L").resize((28, 28), Image.Resampling.BILINEAR)
        except OSError as error:
            raise DataError(f"{path}: cannot be read as an image ({error}).") from error
        x[i, 0] = 255 - np.asarray(shrunk)
    return x


def _locate(request: Request, name: str, folders: list[Path], file: str, home: str | None = None) -> Path:
    """Returns the file, plain or gzipped; if it is missing, raises DataError with the folders and the cure."""
    if path := formats.find(folders, file):
        return path
    if home and request.download:
        cure = f"It cannot be downloaded from here: get it from {home}"
    else:
        cure = "Name the folder that holds it with `data_dir`" + ("" if home else ", or pass `download=True`")
        cure += f"; it was published at {home}" if home else ""
    searched = " and ".join(str(folder) for folder in folders)
    raise DataError(f"{name}: no {file} (or {file}.gz) in {searched}. {cure}.")


def _from_torchvision(request: Request, class_name: str, **arguments: Any) -> Any:
    """Returns torchvision's data set, which verifies its files and fetches them if the request allows it."""
    datasets = _torchvision_datasets()
    try:
        return getattr(datasets, class_name)(str(request.data_dir), download=request.download, **arguments)
    except (RuntimeError, OSError, urllib.error.URLError) as error:
        if request.download:
            raise DataError(
                f"{class_name}: the download into {request.data_dir} failed ({first_line(error)}). Without a "
                "network, fetch its files elsewhere and name their folder with `data_dir`."
            ) from error
        raise DataError(
            f"{class_name}: not found, or damaged, in {request.data_dir} ({error}). Name the folder that "
            "holds it with `data_dir`, or pass `download=True`."
        ) from error


def _torchvision_datasets() -> Any:
    try:
        import torchvision.datasets
    except (ImportError, RuntimeError, OSError) as error:
        import torch

        raise DataError(
            f"torchvision cannot be imported ({error}). It must fit torch {torch.__version__}: install both "
            "together, from the same index."
        ) from error
    return torchvision.datasets
