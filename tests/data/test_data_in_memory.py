"""Arrays in memory give what they give from a file: which split, which class, and which row."""

import hashlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from own_data import BYTES, RNG, TABLE, Y, notes, parts, same, saved

from pyro_vae.data import from_arrays, load
from pyro_vae.errors import DataError, UsageError

EXAMPLES = settings(max_examples=100, derandomize=True, deadline=None, database=None)


@pytest.mark.parametrize("options", [{}, {"split": "contiguous"}, {"data_seed": 4}, {"standardize": "no"}])
@pytest.mark.parametrize("x", [BYTES, BYTES.astype(np.int64), TABLE, TABLE.astype(np.float32), BYTES > 99])
def test_arrays_in_memory_give_what_they_give_from_a_file(tmp_path, x, options):
    same(from_arrays(x, Y, **options), load(saved(tmp_path, x=x, y=Y), **options))


@pytest.mark.parametrize(
    ("given", "array"),
    [
        (torch.from_numpy(BYTES), BYTES),
        (torch.from_numpy(TABLE).requires_grad_(), TABLE),
        (torch.tensor([[0.5, 1.5]] * 20, dtype=torch.bfloat16) + 1, np.array([[1.5, 2.5]] * 20, np.float32)),
        (TABLE.tolist(), TABLE),
        (BYTES[::-1].swapaxes(1, 2), np.ascontiguousarray(BYTES[::-1].swapaxes(1, 2))),
        ([torch.arange(5.0) * i for i in range(20)], np.arange(5.0) * np.arange(20.0)[:, None]),
    ],
    ids=["tensor", "of a graph", "bfloat16", "list", "view", "list of tensors"],
)
def test_tensors_and_lists_are_arrays(given, array):
    same(from_arrays(given), from_arrays(array))


@pytest.mark.parametrize("y", [Y.tolist(), torch.from_numpy(Y), [f"{i}" for i in Y], Y[:, None], Y.astype(object)])
def test_labels_in_memory_are_of_any_plain_type(y):
    same(from_arrays(TABLE, y), from_arrays(TABLE, Y))


def test_given_splits_stay_as_they_are(tmp_path):
    cut = {"train": slice(0, 40), "valid": slice(40, 45), "test": slice(45, 60)}
    pairs = {name: (BYTES[where], Y[where]) for name, where in cut.items()}
    splits = from_arrays(*pairs["train"], valid=pairs["valid"], test=pairs["test"])
    for name, where in cut.items():
        split = getattr(splits, name)
        assert split.levels[:, 0].tolist() == BYTES[where].tolist()
        assert split.labels.tolist() == Y[where].tolist()
        assert split.file_rows.tolist() == list(range(len(split)))
    kept = {f"{k}_{name}": pair[i] for name, pair in pairs.items() for i, k in enumerate("xy")}
    same(splits, load(saved(tmp_path, **kept)))
    held = from_arrays(*pairs["train"], test=pairs["test"])
    assert [len(part) for part in parts(held)] == [36, 4, 15]
    assert held.test.levels[:, 0].tolist() == BYTES[45:].tolist()


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: from_arrays(BYTES, valid=BYTES), UsageError, "`valid` needs `test`"),
        (lambda: from_arrays("own.npy"), UsageError, "`x` must be an array; got str"),
        (lambda: from_arrays([[1, 2], [3]]), (ValueError, DataError), "inhomogeneous|Python objects"),
        (lambda: from_arrays(TABLE, chanels="last"), UsageError, "did you mean 'channels'"),
        (lambda: from_arrays(TABLE, group=np.arange(59)), DataError, r"groups of x have shape \(59,\)"),
        (lambda: load(torch.from_numpy(TABLE)), UsageError, "got a Tensor: from_arrays"),
        (lambda: from_arrays(TABLE, Y, test=(TABLE[:, :3], Y)), DataError, "one type and one shape"),
    ],
)
def test_what_is_no_data_set_is_refused(call, kind, message):
    with pytest.raises(kind, match=message):
        call()


def test_the_protocol_has_the_digest_of_what_was_given():
    splits = from_arrays(TABLE, name="mine")
    assert splits.protocol["name"] == "mine"
    assert splits.protocol["files"] == {"x as float64": hashlib.sha256(TABLE.tobytes()).hexdigest()}


# Groups, equal rows, classes.


@st.composite
def groups(draw):
    """Sizes of groups, shuffled over the rows."""
    sizes = draw(st.lists(st.integers(1, 12), min_size=3, max_size=12).filter(lambda sizes: sum(sizes) >= 5))
    return np.random.default_rng(draw(st.integers(0, 99))).permutation(np.repeat(np.arange(len(sizes)), sizes))


@EXAMPLES
@given(groups(), st.sampled_from(["random", "contiguous"]), st.integers(0, 3), st.booleans())
def test_no_group_is_split(of_group, kind, seed, named):
    column = np.array([f"patient {group}" for group in of_group]) if named else of_group
    size = len(column)
    splits = from_arrays(np.arange(size)[:, None], group=column, split=kind, data_seed=seed, num_levels=1000)
    rows = [part.file_rows.tolist() for part in parts(splits)]
    assert sorted([*rows[0], *rows[1], *rows[2]]) == list(range(size))
    assert all(rows)
    held = [set(column[index].tolist()) for index in rows]
    assert len(held[0] | held[1] | held[2]) == sum(map(len, held))
    for part in parts(splits):
        assert part.levels[:, 0].tolist() == part.file_rows.tolist()
    largest = np.unique(column, return_counts=True)[1].max()
    if len(set(of_group.tolist())) > 8 and largest <= size // 10:
        assert abs(len(rows[0]) - 0.7 * size) <= 2 * largest
        assert abs(len(rows[1]) - 0.1 * size) <= 2 * largest


def test_groups_of_equal_size_meet_the_targets():
    for kind in ("random", "contiguous"):
        splits = from_arrays(RNG.normal(size=(100, 2)), group=np.arange(100) // 5, split=kind)
        assert [len(part) for part in parts(splits)] == [70, 10, 20]
    assert splits.train.file_rows.tolist() == list(range(70))
    other = from_arrays(RNG.normal(size=(100, 2)), group=np.arange(100) // 5, data_seed=1)
    assert other.train.file_rows.tolist() != list(range(70))


def test_groups_stay_whole_where_test_data_are_given():
    x, group = np.arange(60)[:, None], np.arange(60) % 10
    splits = from_arrays(x, group=group, test=x[:9], num_levels=60)
    rows = [part.file_rows.numpy() for part in (splits.train, splits.valid)]
    assert [len(index) for index in rows] == [54, 6]
    assert len(set(group[rows[1]])) == 1
    assert len(splits.test) == 9


def test_a_group_of_a_file_is_an_array_by_name(tmp_path):
    path = saved(tmp_path, x=TABLE, patient=np.arange(60) // 6)
    for part in parts(load(path, group="patient")):
        assert len(part) % 6 == 0
    with pytest.raises(UsageError, match="did you mean 'patient'"):
        load(path, group="patients")


def test_too_few_groups_are_refused():
    with pytest.raises(DataError, match=r"2 group\(s\) cannot fill 3 splits: leave `group` out"):
        from_arrays(TABLE, group=np.arange(60) % 2)


def test_equal_rows_in_two_splits_are_counted():
    x = RNG.normal(size=(100, 3))
    x[70:72], x[80:85] = x[:2], x[3]
    said = notes(from_arrays(x, split="contiguous"))
    assert "2 of the 10 validation data are equal to a training datum" in said
    assert "5 of the 20 test data are equal to a training datum" in said
    assert "equal to" not in notes(from_arrays(RNG.normal(size=(100, 3))))


def test_classes_without_training_data_are_named():
    y = np.repeat(["ash", "birch", "cedar"], [30, 12, 18])
    said = notes(from_arrays(TABLE, y, split="contiguous"))
    assert "No training datum has the label cedar, which 12 of the 12 test data have" in said
    assert "No training datum" not in notes(from_arrays(TABLE, y))


# Rows of the file.


@pytest.mark.parametrize("options", [{}, {"split": "contiguous"}, {"data_seed": 3}, {"map_above": 0}])
def test_each_datum_knows_its_row_of_the_file(tmp_path, options, monkeypatch):
    monkeypatch.setattr("pyro_vae.data.splits._SAMPLE", 5)
    x = RNG.normal(size=(60, 4)).astype(np.float32)
    np.save(tmp_path / "own.npy", x)
    splits = load(tmp_path / "own.npy", **options)
    for part in parts(splits):
        for some in (part, part.in_memory()):
            rows = some.file_rows.tolist()
            assert some.fixed().tolist() == x[rows].tolist()
            assert [some.row(i) for i in range(len(some))] == rows
    assert sorted(row for part in parts(splits) for row in part.file_rows.tolist()) == list(range(60))


def test_each_datum_of_given_splits_knows_its_row_of_its_array(tmp_path):
    splits = load(saved(tmp_path, x_train=BYTES[:40], x_test=BYTES[40:]))
    assert splits.test.file_rows.tolist() == list(range(20))
    for part in (splits.train, splits.valid):
        assert part.levels[:, 0].tolist() == BYTES[part.file_rows].tolist()


def test_names_of_rows_go_with_them(tmp_path):
    ids = np.array([f"row {i}" for i in range(60)])
    splits = load(saved(tmp_path, x=TABLE, id=ids))
    for part in (*parts(splits), splits.test.in_memory()):
        assert part.ids.tolist() == [f"row {i}" for i in part.file_rows.tolist()]
