"""What a protocol says of splits that are too small to tell much."""

import numpy as np
import pytest

import pyro_vae as pv


def notes(folder, **sizes):
    draws = np.random.default_rng(0)
    np.savez(folder / "own.npz", **{f"x_{name}": draws.random((size, 2, 2)) for name, size in sizes.items()})
    return pv.data.load(str(folder / "own.npz")).protocol["notes"]


def test_a_split_of_fewer_than_30_data_is_named_with_its_size(tmp_path):
    assert notes(tmp_path, train=29, valid=30, test=9) == [
        "There are 29 training data: hardly anything can be learned from so few.",
        "There are 9 test data: intervals over so few data are rough, and only a large difference can be seen.",
    ]


def test_one_datum_is_in_the_singular(tmp_path):
    (note,) = notes(tmp_path, train=30, valid=1, test=30)
    assert note == "There is 1 validation datum: the choice of the best epoch is mostly chance."


@pytest.mark.parametrize("size", [30, 31])
def test_thirty_are_enough(tmp_path, size):
    assert notes(tmp_path, train=size, valid=size, test=size) == []


def test_the_note_of_digits_stays():
    (note, _) = pv.data.load("digits", binarize="dynamic").protocol["notes"]
    assert note.startswith("There are 360 test images")
