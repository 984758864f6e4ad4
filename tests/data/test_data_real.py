"""The real files, where they are at hand: PYRO_VAE_DATA, or shared/data beside the repository."""

import hashlib
import os
from pathlib import Path

import pytest
import torch

from pyro_vae.data import formats, load

FOLDER = Path(os.environ.get("PYRO_VAE_DATA") or Path(__file__).parents[3] / "shared" / "data")


def needs(folder):
    return pytest.mark.skipif(not (FOLDER / folder).is_dir(), reason=f"no {folder} in {FOLDER}: set PYRO_VAE_DATA")


@needs("MNIST")
def test_mnist_is_the_published_file():
    """md5 of the unpacked test images as published; means as everybody reports them (0.1307)."""
    splits = load("mnist", data_dir=FOLDER, binarize="dynamic")
    assert [len(s) for s in (splits.train, splits.valid, splits.test)] == [50_000, 10_000, 10_000]
    path = formats.find([FOLDER / "MNIST" / "raw"], "t10k-images-idx3-ubyte")
    with formats.opened(path) as file:
        published = hashlib.md5(file.read(), usedforsecurity=False).hexdigest()
    assert published == "2646ac647ad5339dbf082846283269ea"
    sums = sum(s.levels.sum(dtype=torch.int64).item() for s in (splits.train, splits.valid))
    assert sums / 60_000 / 784 / 255 == pytest.approx(0.1307, abs=5e-5)
    assert splits.test.labels[:8].tolist() == [7, 2, 1, 0, 4, 1, 4, 9]


@pytest.mark.thorough
@needs("binarized_mnist")
def test_binarized_mnist_is_a_draw_of_mnist_sorted_by_class():
    splits = load("binarized_mnist", data_dir=FOLDER, binarize="static")
    assert [len(s) for s in (splits.train, splits.valid, splits.test)] == [50_000, 10_000, 10_000]
    assert splits.train.levels.unique().tolist() == [0, 1]
    assert splits.train.intensities(slice(0, 5000)).mean() == pytest.approx(0.13, abs=0.01)
    # A zero has a hole in its middle, a nine's lower half is a thin stroke: the sorted file shows it.
    middle = splits.test.intensities()[:, 0, 12:16, 12:16].mean((1, 2))
    assert middle[:900].mean() < 0.1 < middle[-900:].mean()
    assert "already binary" in splits.protocol["binarization"]["kind"]


@needs("frey_faces")
def test_frey_faces_are_upright_and_in_film_order():
    """Rows and columns of a face are smooth, and neighbouring frames are alike; a wrong shape breaks both."""
    splits = load("frey_faces", data_dir=FOLDER, split="contiguous")
    x = splits.train.intensities()[:, 0]
    assert x.shape == (1565, 28, 20)
    down, right = (x.diff(dim=1).abs().mean(), x.diff(dim=2).abs().mean())
    transposed = x.reshape(-1, 20, 28)
    assert down < 0.75 * transposed.diff(dim=1).abs().mean()
    assert right < 0.1
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    assert x.diff(dim=0).abs().mean() < 0.6 * x[order].diff(dim=0).abs().mean()
    assert not any("leaks" in note for note in splits.protocol["notes"])


@needs("frey_faces")
def test_a_random_split_of_a_film_is_called_a_leak():
    notes = load("frey_faces", data_dir=FOLDER).protocol["notes"]
    assert any("leaks" in note and "a contiguous split avoids that" in note for note in notes)
