"""Files as people bring them: each is read as what it is, or refused with a cure that, followed here, works."""

import os
import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from own_data import notes, parts, same
from sklearn.datasets import load_digits

from pyro_vae.data import from_arrays, load
from pyro_vae.errors import DataError

ROOT = Path(__file__).parents[2]
PLACES = [
    ROOT.parent / "shared",
    *([Path(os.environ["PYRO_VAE_DATA"]).parent] if "PYRO_VAE_DATA" in os.environ else []),
]
MAKERS = [place / "cases" / "make.py" for place in PLACES]
MAKER = next((path for path in MAKERS if path.is_file()), None)
pytestmark = pytest.mark.skipif(MAKER is None, reason="the maker of these files, shared/cases/make.py, is not here")
CLASSES = ["eight", "five", "four", "nine", "one", "seven", "six", "three", "two", "zero"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("cases")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["make.py", str(made)])
        runpy.run_path(str(MAKER))
    return made


def refused(path, message, **options):
    with pytest.raises(DataError, match=message) as caught:
        load(path, **options)
    assert path.name.partition(".")[0] in str(caught.value)
    return str(caught.value)


def whole(splits):
    """What evaluation sees, in the order of the file."""
    seen = np.concatenate([part.fixed().numpy() for part in parts(splits)])
    return seen[np.argsort(np.concatenate([part.file_rows.numpy() for part in parts(splits)]))]


def labels(splits):
    """The names of the classes, in the order of the file."""
    found = {int(row): splits.classes[y] for part in parts(splits) for row, y in zip(part.file_rows, part.labels)}  # noqa: B905
    return [found[row] for row in range(len(found))]


CASES = {}


def case(name):
    def remembered(check):
        CASES[name] = check
        return check

    return remembered


@case("channels_last.npy")
def _(path):
    refused(
        path,
        r"looks like 16 x 16 images with 3 channel\(s\), last.*`channels='last'`, or save x.transpose\(0, 3, 1, 2\)",
    )
    first = load(path.with_name("channels_first.npy"))
    same(load(path, channels="last"), first)
    same(from_arrays(np.load(path).transpose(0, 3, 1, 2)), first)


@case("channels_first.npy")
def _(path):
    splits = load(path)
    assert splits.about == "600 images of 3 x 16 x 16, 256 levels, no labels"
    np.testing.assert_array_equal(whole(splits), np.load(path).astype(np.float32) / 255)


@case("grey_channels_last.npy")
def _(path):
    refused(path, r"16 x 16 images with 1 channel\(s\), last")
    same(load(path, channels="last"), from_arrays(np.load(path)[..., 0]))


@case("levels_17.npy")
def _(path):
    splits = load(path)
    assert splits.about == "1,797 images of 1 x 8 x 8, 17 levels, no labels"
    assert "The largest level is 16: read as 17 levels" in notes(splits)
    np.testing.assert_array_equal(whole(splits)[:, 0], load_digits().images.astype(np.float32) / 16)
    assert load(path, num_levels=256).train.fixed().max() == np.float32(16 / 255)


@case("minus_one_to_one.npy")
def _(path):
    x = np.load(path)
    np.testing.assert_array_equal(whole(load(path))[:, 0], x)
    said = refused(path, r"needs intensities in \[0, 1\]; got -1 at row 0", binarize="dynamic")
    cured = eval(re.search(r"Save (.*), or", said)[1], {"x": x})  # noqa: S307
    assert set(np.unique(whole(from_arrays(cured, binarize="dynamic")))) == {0, 1}


@case("floats_to_255.npy")
def _(path):
    assert "The floats run from 0 to 255: to read them as intensities in [0, 1], save x / 255." in notes(load(path))
    refused(path, r"Save x / 255, or use a density", binarize="dynamic")
    np.testing.assert_array_equal(whole(from_arrays(np.load(path) / 255)), np.load(path)[:, None] / np.float32(255))
    same(load(path, num_levels=256), from_arrays(np.load(path).astype(np.uint8)))


@case("one_image.npy")
def _(path):
    said = "The array (16, 16) was read as 16 data of 16 numbers. If it is one image, save more of them, as (N, H, W)."
    assert said in load(path).protocol["notes"]


@case("nine_data.npy")
def _(path):
    splits = load(path)
    assert [len(part) for part in parts(splits)] == [6, 1, 2]
    for said in ("There are 6 training data", "There is 1 validation datum", "There are 2 test data"):
        assert said in notes(splits)


@case("counts_large.npy")
def _(path):
    x = np.load(path)
    assert x.max() > 255
    np.testing.assert_array_equal(whole(load(path, counts=True)), x.astype(np.float32))
    same(load(path, counts=True, standardize="no"), from_arrays(x, counts=True))


@case("counts_small_floats.npy")
def _(path):
    np.testing.assert_array_equal(whole(load(path, counts=True)), np.load(path))


@case("counts_small_ints.npy")
def _(path):
    a, b = load(path, counts=True), load(path.with_name("counts_small_floats.npy"), counts=True)
    np.testing.assert_array_equal(whole(a), whole(b))
    assert a.form == b.form
    for one, other in zip(parts(a), parts(b), strict=True):
        assert one.file_rows.tolist() == other.file_rows.tolist()


@case("one_bad_row.npy")
def _(path):
    said = r"2.5 at row 123, position \(7,\); counts are whole numbers, 0 or more.*`likelihood='normal'`"
    refused(path, said, counts=True)
    x = np.load(path)
    np.testing.assert_array_equal(whole(load(path)), x)  # as a density takes it
    np.testing.assert_array_equal(whole(from_arrays(np.delete(x, 123, 0), counts=True)), np.delete(x, 123, 0))


@case("table_unequal_scales.npy")
def _(path):
    splits = load(path)
    assert splits.scaling == "standardized"
    np.testing.assert_array_equal(whole(splits), np.load(path).astype(np.float32))


@case("table_constant_column.npy")
def _(path):
    splits = load(path)
    assert "Left out because they are constant among the training rows: column 2." in notes(splits)
    np.testing.assert_array_equal(whole(splits), np.delete(np.load(path), 2, 1).astype(np.float32))


@case("wine.csv")
def _(path):
    splits, table = load(path), pd.read_csv(path)
    assert splits.about == "178 rows of 13 numbers, reals, labels 0 ... 2"
    assert "The column 'label' was taken as the label." in notes(splits)
    assert list(splits.columns) == list(table.columns[:-1])
    np.testing.assert_array_equal(whole(splits), table.to_numpy()[:, :-1].astype(np.float32))
    assert labels(splits) == [str(int(label)) for label in table["label"]]


@case("diabetes.csv")
def _(path):
    splits, table = load(path), pd.read_csv(path)
    assert splits.about == "442 rows of 11 numbers, reals, no labels"
    assert "`label='label'` makes it the label" in notes(splits)
    np.testing.assert_array_equal(whole(splits), table.to_numpy().astype(np.float32))
    assert load(path, label="label").x_shape == (10,)


@case("table_missing.npy")
def _(path):
    refused(path, r"nan at row \d+, position \(\d,\).*use `missing=True`")
    np.testing.assert_array_equal(whole(load(path, missing=True)), np.load(path).astype(np.float32))


@case("pixels_missing.npy")
def _(path):
    refused(path, r"nan at row 0, position \(0, \d+, \d+\).*use `missing=True`")
    splits, x = load(path, missing=True, binarize="dynamic"), np.load(path)
    np.testing.assert_array_equal(np.isnan(whole(splits)[:, 0]), np.isnan(x))
    assert set(np.unique(whole(splits)[:, 0][~np.isnan(x)])) == {0, 1}


@case("labels_strings.npz")
def _(path):
    splits = load(path, needs_labels=True)
    assert list(splits.classes) == CLASSES
    assert labels(splits) == np.load(path)["y"].tolist()


@case("labels_column.npz")
def _(path):
    splits = load(path, needs_labels=True)
    assert splits.num_classes == 10
    assert labels(splits) == [str(y) for y in np.load(path)["y"][:, 0]]


@case("labels_from_one.npz")
def _(path):
    splits = load(path, needs_labels=True)
    assert list(splits.classes) == [str(i) for i in range(1, 11)]
    assert labels(splits) == [str(y) for y in np.load(path)["y"]]


@case("keys_data_target.npz")
def _(path):
    same(load(path), from_arrays(np.load(path)["data"], np.load(path)["target"]))


@case("keys_x_val.npz")
def _(path):
    arrays = np.load(path)
    splits = load(path)
    assert [len(part) for part in parts(splits)] == [400, 100, 100]
    assert splits.protocol["split"]["given"] == ["train", "valid", "test"]
    for part, name in zip(parts(splits), ("train", "val", "test"), strict=True):
        np.testing.assert_array_equal(part.levels[:, 0].numpy(), arrays[f"x_{name}"])
        assert part.labels.tolist() == arrays[f"y_{name}"].tolist()


@case("pickled_extra.npz")
def _(path):
    splits = load(path)
    assert "Arrays of Python objects are never loaded, and were left out: metadata." in splits.protocol["notes"]
    assert splits.num_classes == 10


@case("sorted_labels.npz")
def _(path):
    said = notes(load(path, split="contiguous"))
    assert re.search(r"No training datum has the label 7, 8, 9, which 120 of the 120 test data have", said)
    assert "a random split cures this" in said
    assert "No training datum" not in notes(load(path))


@case("folder")
def _(path):
    said = refused(path, r"all must have the same size: use `image_size=16`")
    splits = load(path, image_size=int(re.search(r"`image_size=(\d+)`", said)[1]))
    assert splits.about == "60 images of 3 x 16 x 16, 256 levels, labels open ... round"
    assert load(path, image_size=16, colour="grey").x_shape == (1, 16, 16)


@pytest.mark.parametrize("name", CASES)
def test_it_is_read_as_what_it_is_or_refused_with_a_cure_that_works(folder, name):
    CASES[name](folder / name)


def test_every_file_is_a_case(folder):
    assert {path.name for path in folder.iterdir()} == set(CASES)
