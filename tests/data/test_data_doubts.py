"""Data that look right and are not: what is refused, what is said, and that what is said is so."""

import numpy as np
import pandas as pd
import pytest
import torch
from own_data import RNG, TABLE, Y, notes

from pyro_vae.data import from_arrays, load
from pyro_vae.data.cutting import row_hashes
from pyro_vae.data.own import columns
from pyro_vae.data.own.labels import by_name
from pyro_vae.data.own.labels import classes as classes_of
from pyro_vae.data.own.reading import Reading
from pyro_vae.data.tables.frames import of_frame
from pyro_vae.errors import DataError, UsageError
from pyro_vae.experiment.run import training_rows

FRAME = pd.DataFrame(TABLE, columns=list("abcde"))
X = {"x": np.zeros((3, 2))}


def shown(splits):
    return " ".join(splits.warnings)


def test_the_columns_of_x_are_named_first():
    splits = from_arrays(FRAME.assign(town="Ulm"))
    assert splits.protocol["notes"][0] == "x: a, b, c, d, e (5 columns)."
    wide = columns.x_is(tuple(f"c{i}" for i in range(20)))
    assert wide[0].endswith("c14 and 5 more (20 columns).")


def test_a_masked_array_has_missing_numbers():
    x = np.ma.masked_array(TABLE, np.zeros(TABLE.shape, bool))
    x[3, 1] = np.ma.masked
    with pytest.raises(DataError, match=r"1 numbers of x are masked: use `missing=True`"):
        from_arrays(x)
    splits = from_arrays(x, missing="nan", split="contiguous")
    assert splits.train.levels.isnan().nonzero().tolist() == [[3, 1]]
    assert from_arrays(np.ma.masked_array(TABLE), split="contiguous").train.levels.isfinite().all()


@pytest.mark.parametrize("needs_labels", [False, True])
@pytest.mark.parametrize("x", [TABLE, FRAME])
def test_labels_of_a_wrong_length_are_a_mistake(needs_labels, x):
    with pytest.raises(DataError, match="expected one for each of the 60 data"):
        from_arrays(x, Y[:40], needs_labels=needs_labels)


@pytest.mark.parametrize(
    "y", [[None, "a", "b"] * 20, pd.Series([np.nan, "a", "b"] * 20), [np.nan, 1, 2] * 20, [None, 1, 2] * 20]
)
def test_a_missing_label_is_an_error_where_labels_are_needed_and_else_a_warning(y):
    assert "label of row 0 of x is missing" in shown(from_arrays(TABLE, y))
    with pytest.raises(DataError, match="label of row 0 of x is missing"):
        from_arrays(TABLE, y, needs_labels=True)


def test_an_empty_cell_of_a_label_column():
    frame = FRAME.assign(kind=[np.nan, "u", "v"] * 20)
    splits = from_arrays(frame, "kind")
    assert splits.num_classes == 0
    assert "the label of row 0 is missing in the column 'kind'" in shown(splits)
    with pytest.raises(DataError, match="empty cell in row 0"):
        from_arrays(frame, "kind", needs_labels=True)


def test_labels_are_paired_by_their_index_or_not_at_all():
    y = pd.Series(Y, index=np.arange(60)[::-1])
    with pytest.raises(DataError, match=r"index of `y` differs.*y.loc\[x.index\]"):
        from_arrays(FRAME, y)
    cured = from_arrays(FRAME, y.loc[FRAME.index], split="contiguous")
    assert cured.train.labels.tolist() == Y[::-1][:42].tolist()
    with pytest.raises(DataError, match="index of `y of x_test`"):
        from_arrays(FRAME, Y, test=(FRAME, y))


def test_names_of_classes_are_whole_and_their_own():
    long = ["a" * 60 + end for end in "xyx"]
    assert classes_of("own", X, {"x": np.array(long)}, needed=True).names == tuple(sorted(set(long)))
    with pytest.raises(DataError, match="several labels would be called 'ab'"):
        classes_of("own", X, {"x": np.array(["ab", "a\x07b", "c"])}, needed=True)


def test_classes_of_floats_are_known_in_any_file():
    found = classes_of("own", {**X, "t": X["x"]}, {"x": np.array([1.0, 1, 2]), "t": np.array([0.5, 1, 2])}, needed=True)
    assert found.names == ("0.5", "1.0", "2.0")
    assert by_name("new", "x", np.array([1.0, 2.0]), 2, found.names).tolist() == [1, 2]
    assert by_name("new", "x", np.array([1, 2]), 2, found.names).tolist() == [1, 2]
    assert by_name("new", "x", np.array(["2.0", "0.5"]), 2, found.names).tolist() == [2, 0]
    with pytest.raises(DataError, match="label '3' of row 1"):
        by_name("new", "x", np.array([1, 3]), 2, found.names)


def test_constant_columns_that_stay_are_named(tmp_path):
    x = TABLE.astype(np.float32)
    x[:, 2] = 4
    np.save(tmp_path / "own.npy", x)
    said = notes(load(tmp_path / "own.npy", map_above=1))
    assert "Constant among a sample of the training rows: column 2. A mapped file keeps such columns" in said
    counted = notes(from_arrays(np.c_[RNG.integers(0, 9, (60, 2)), np.zeros(60, int)], counts=True, levels=True))
    assert "Constant among the training rows: column 2." in counted


def test_groups_that_given_splits_share_are_counted(tmp_path):
    group = np.arange(30) // 3
    parts = {"x_train": TABLE[:30], "x_test": TABLE[30:], "group_train": group, "group_test": group + 8}
    np.savez(tmp_path / "own.npz", **parts)
    assert "6 of the 30 test data share a group with training data" in shown(load(tmp_path / "own.npz"))
    np.savez(tmp_path / "own.npz", **{**parts, "group_test": group + 10})
    assert "share a group" not in shown(load(tmp_path / "own.npz"))


@pytest.mark.parametrize(
    ("name", "values", "is_x", "said"),
    [
        ("sample_no", 3 + 7 * np.arange(60), False, "count the rows were left out: 'sample_no'"),
        ("Id", 1000 - np.arange(60), False, "count the rows were left out: 'Id'"),
        ("year", 1950 + np.arange(60), True, "change by one step from row to row were taken as x: 'year'"),
        ("identity", np.arange(60) ** 2, True, ""),
        ("id", np.arange(60) % 7, True, ""),
    ],
)
def test_a_sequence_of_steps_is_a_counter(name, values, is_x, said):
    found = of_frame(FRAME.assign(**{name: values}), Reading(), "own")
    assert (name in found.columns) == is_x
    assert said in " ".join(found.notes)
    assert bool(said) == bool(found.notes)


@pytest.mark.parametrize("value", [-999, -99, 9999])
def test_numbers_that_stand_for_missing_ones_are_named(value):
    x = FRAME.assign(b=np.where(np.arange(60) < 4, value, FRAME.b))
    assert f"b holds {value} in 4 of 60 rows" in notes(from_arrays(x))
    spread = FRAME.assign(b=np.where(np.arange(60) < 4, value, 5000 * FRAME.b))
    assert "looks like a missing number" not in notes(from_arrays(spread))


def test_a_column_that_is_mostly_empty_is_named():
    x = FRAME.assign(b=np.where(np.arange(60) < 31, np.nan, FRAME.b))
    assert "b is empty in 31 of 60 rows" in notes(from_arrays(x, missing=True))
    half = FRAME.assign(b=np.where(np.arange(60) < 30, np.nan, FRAME.b))
    assert "is empty" not in notes(from_arrays(half, missing=True))


def test_groups_and_masks_go_with_frames():
    mask = np.ones((60, 6), bool)
    mask[2, 3] = False
    frame = FRAME.assign(town="Ulm")[["a", "town", "b", "c", "d", "e"]]
    splits = from_arrays(frame, mask=mask, group=np.arange(60) // 4, missing=True, split="contiguous")
    assert splits.train.levels.isnan().nonzero().tolist() == [[2, 2]]
    assert len(splits.train) % 4 == 0
    with pytest.raises(UsageError, match="missing"):
        from_arrays(frame, missing="some")
    assert not Reading(missing="no").missing


def test_a_column_that_is_empty_in_one_split():
    test = FRAME.assign(b=np.nan)
    with pytest.raises(DataError, match=r"column 'b' of x_test has no value: use `missing=True`"):
        from_arrays(FRAME, test=test)
    assert from_arrays(FRAME, test=test, missing=True).test.levels[:, 1].isnan().all()
    with pytest.raises(DataError, match="x_test lacks the columns e"):
        from_arrays(FRAME, test=FRAME.drop(columns="e"))


def test_rows_are_equal_by_one_rule():
    x = np.array([[0.0, np.nan], [-0.0, np.nan], [0.1, 1], [np.float32(0.1), 1]])
    one, same, third, fourth = row_hashes(x, np.arange(4)).tolist()
    assert (one == same, third == fourth, one == third) == (True, True, False)
    split = from_arrays(TABLE).train
    at = torch.arange(len(split))
    np.testing.assert_array_equal(training_rows.hashes(split, at), row_hashes(split.levels.numpy(), at.numpy()))
    twice = np.r_[TABLE[:42], np.zeros((6, 5)), -np.zeros((12, 5))]
    twice[0] = 0
    assert "12 of the 12 test data are equal" in notes(from_arrays(twice, split="contiguous"))


def test_messages_name_the_column():
    x = FRAME.rename(columns={"b": "Masse (g)"})
    x.iloc[5, 1] = np.inf
    with pytest.raises(DataError, match=r"inf at row 5, column 'Masse \(g\)'"):
        from_arrays(x)
    with pytest.raises(DataError, match=r"column 'a'\. For a table of measurements use a density"):
        from_arrays(FRAME + 9, binarize="dynamic")


def test_the_cure_of_names_in_an_archive_works(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez("own.npz", spectra=TABLE, kind=Y, other=np.zeros(3))
    with pytest.raises(DataError, match="For example: a = ") as caught:
        load("own.npz")
    exec(str(caught.value).partition("For example: ")[2], {"numpy": np})  # noqa: S102 - the cure itself
    splits = load("named.npz")
    assert (len(splits.train), splits.num_classes) == (42, 3)
