"""Named sources against tiny folders made by hand; torchvision's classes are stood in for, nothing is fetched."""

import builtins
import gzip
import struct

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from pyro_vae.data import SOURCES, load, sources
from pyro_vae.errors import DataError

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (36, 28, 28), dtype=np.uint8)


def idx(array):
    return struct.pack(f">{1 + array.ndim}I", 0x0800 + array.ndim, *array.shape) + array.tobytes()


def idx_folder(folder, train=12, test=4, labels=None):
    folder.mkdir(parents=True, exist_ok=True)
    for start, stop, name in ((0, train, "train"), (train, train + test, "t10k")):
        y = np.arange(start, stop, dtype=np.uint8) % 10 if labels is None else np.array(labels, np.uint8)
        (folder / f"{name}-images-idx3-ubyte").write_bytes(idx(IMAGES[start:stop]))
        (folder / f"{name}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(y)))


IDX_FAMILY = [("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST"), ("kmnist", "KMNIST")]


@pytest.mark.parametrize(("name", "folder"), IDX_FAMILY)
def test_idx_family(tmp_path, name, folder):
    idx_folder(tmp_path / folder / "raw")
    splits = load(name, data_dir=tmp_path, split="contiguous")
    assert [len(s) for s in (splits.train, splits.valid, splits.test)] == [10, 2, 4]
    np.testing.assert_array_equal(splits.valid.levels[:, 0].numpy(), IMAGES[10:12])
    np.testing.assert_array_equal(splits.test.levels[:, 0].numpy(), IMAGES[12:16])
    assert splits.test.labels.tolist() == [2, 3, 4, 5]
    assert (splits.x_shape, splits.num_classes) == ((1, 28, 28), 10)
    assert len(splits.protocol["files"]) == 4


def test_idx_pairs_must_match(tmp_path):
    idx_folder(tmp_path / "MNIST" / "raw", labels=range(7))
    with pytest.raises(DataError, match=r"12 images but .* 7 labels"):
        load("mnist", data_dir=tmp_path)
    idx_folder(tmp_path / "MNIST" / "raw", labels=[0, 1, 10, 3, *range(8)])
    with pytest.raises(DataError, match=r"label 10 at datum 2"):
        load("mnist", data_dir=tmp_path)


@pytest.mark.parametrize(
    ("name", "folder", "cure"),
    [
        ("mnist", "MNIST/raw", "`data_dir`, or pass `download=True`"),
        ("binarized_mnist", "binarized_mnist and", "`data_dir`; it was published at http"),
        ("frey_faces", "frey_faces and", "`data_dir`; it was published at http"),
        ("cifar10", "", "`data_dir`, or pass `download=True`"),
        ("omniglot", "", "`data_dir`, or pass `download=True`"),
    ],
)
def test_missing_files(tmp_path, name, folder, cure):
    with pytest.raises(DataError) as caught:
        load(name, data_dir=tmp_path)
    assert f"{tmp_path}/{folder}".rstrip("/") in str(caught.value)
    assert cure in str(caught.value)


def test_what_torchvision_does_not_know_is_not_downloaded(tmp_path):
    with pytest.raises(DataError, match=r"cannot be downloaded from here: get it from https?://"):
        load("frey_faces", data_dir=tmp_path, download=True)


class Torchvision:
    """Stands in for torchvision.datasets; records what was asked for."""

    def __init__(self, fetch=None):
        self.fetch, self.calls = fetch, []

    def __getattr__(self, class_name):
        def dataset(root, download, **arguments):
            self.calls.append((class_name, root, download, arguments))
            return self.fetch(**arguments) if self.fetch else None

        return dataset


def stand_in(monkeypatch, fetch=None):
    fake = Torchvision(fetch)
    monkeypatch.setattr(sources, "_torchvision_datasets", lambda: fake)
    return fake


def test_download_only_on_request_and_only_what_is_missing(tmp_path, monkeypatch):
    fake = stand_in(monkeypatch, lambda train: idx_folder(tmp_path / "MNIST" / "raw"))
    with pytest.raises(DataError, match="`download=True`"):
        load("mnist", data_dir=tmp_path)
    assert fake.calls == []
    for _ in range(2):
        load("mnist", data_dir=tmp_path, download=True)
    assert fake.calls == [("MNIST", str(tmp_path), True, {"train": True})]


def test_a_failed_download_is_a_sentence(tmp_path, monkeypatch):
    def fetch(train):
        raise RuntimeError("no route to host")

    stand_in(monkeypatch, fetch)
    with pytest.raises(DataError, match=r"MNIST: the download into .* failed \(no route to host\)"):
        load("mnist", data_dir=tmp_path, download=True)


def test_torchvision_that_does_not_fit_torch_is_a_sentence(tmp_path, monkeypatch):
    real_import = builtins.__import__

    def broken_import(name, *rest):
        if name.startswith("torchvision"):
            raise RuntimeError("operator torchvision::nms does not exist")
        return real_import(name, *rest)

    monkeypatch.setattr(builtins, "__import__", broken_import)
    with pytest.raises(DataError, match=r"torchvision::nms does not exist.*must fit torch"):
        load("cifar10", data_dir=tmp_path)


def test_cifar10(tmp_path, monkeypatch):
    class Data:
        def __init__(self, train):
            self.data = RNG.integers(0, 256, (20 if train else 5, 32, 32, 3), dtype=np.uint8)
            self.targets = list(range(len(self.data)))

    fake = stand_in(monkeypatch, Data)
    splits = load("cifar10", data_dir=tmp_path, dequantize=True)
    assert [len(s) for s in (splits.train, splits.valid, splits.test)] == [18, 2, 5]
    assert splits.x_shape == (3, 32, 32)
    assert [call[3]["train"] for call in fake.calls] == [True, False]
    assert splits.test.labels.tolist() == [0, 1, 2, 3, 4]


def test_cifar10_keeps_colours_first(monkeypatch):
    image = np.zeros((10, 32, 32, 3), np.uint8)
    image[:, :, 0, 1] = 255

    class Data:
        data, targets = image, [0] * 10

    stand_in(monkeypatch, lambda train: Data)
    levels = load("cifar10").train.levels
    assert (levels[:, 1, :, 0] == 255).all()
    assert levels.sum(dtype=int) == 255 * 32 * len(levels)


def omniglot_folder(folder, seed):
    rng = np.random.default_rng(seed)
    for character in range(5):
        place = folder / "Alphabet" / f"character{character:02}"
        place.mkdir(parents=True)
        for drawer in range(4):
            ink = np.full((105, 105), 255, np.uint8)
            row = int(rng.integers(10, 90))
            ink[row : row + 6, 15:90] = 0
            Image.fromarray(ink).convert("1").save(place / f"{drawer}.png")


def test_omniglot(tmp_path, monkeypatch):
    stand_in(monkeypatch)
    for seed, part in enumerate(("background", "evaluation")):
        omniglot_folder(tmp_path / "omniglot-py" / f"images_{part}", seed)
    splits = load("omniglot", data_dir=tmp_path)
    assert [len(s) for s in (splits.train, splits.valid, splits.test)] == [18, 2, 20]
    assert (splits.x_shape, splits.num_classes) == ((1, 28, 28), 0)
    # A bar of 6 x 75 pixels of 105 x 105 is white ink, its mass kept by antialiasing up to a few per cent.
    ink = splits.test.intensities().mean((1, 2, 3))
    np.testing.assert_allclose(ink, 6 * 75 / 105**2, rtol=0.05)
    assert len(splits.test.levels.unique()) > 2
    assert any("not the 28 x 28 file of the IWAE paper" in note for note in splits.protocol["notes"])


def test_an_omniglot_folder_without_images_is_a_sentence(tmp_path, monkeypatch):
    stand_in(monkeypatch)
    with pytest.raises(DataError, match="holds no images"):
        load("omniglot", data_dir=tmp_path)


def test_frey_columns_become_upright_images(tmp_path):
    """MATLAB's column i is image i row by row: pixel (r, c) is entry 20 r + c."""
    films = RNG.integers(0, 256, (560, 1965), dtype=np.uint8)
    savemat(tmp_path / "frey_rawface.mat", {"ff": films})
    splits = load("frey_faces", data_dir=tmp_path, split="contiguous")
    assert [len(s) for s in (splits.train, splits.valid, splits.test)] == [1565, 200, 200]
    assert splits.x_shape == (1, 28, 20)
    assert splits.test.levels[3, 0, 11, 7] == films[20 * 11 + 7, 1765 + 3]


def test_frey_of_another_shape_is_refused(tmp_path):
    savemat(tmp_path / "frey_rawface.mat", {"ff": np.zeros((560, 3), np.uint8)})
    with pytest.raises(DataError, match=r"uint8 \(560, 3\), expected uint8 \(560, 1965\)"):
        load("frey_faces", data_dir=tmp_path)


def test_binarized_mnist_counts_its_lines(tmp_path):
    for split in ("train", "valid", "test"):
        (tmp_path / f"binarized_mnist_{split}.amat").write_bytes(b"0 " * 783 + b"1\n")
    with pytest.raises(DataError, match=r"binarized_mnist_train.amat: 1 lines instead of the 50000 expected"):
        load("binarized_mnist", data_dir=tmp_path)


def test_every_source_resolves_and_says_what_it_is():
    for address in SOURCES.values():
        module, function = address.split(":")
        assert module == sources.__name__
        assert getattr(sources, function).__doc__
