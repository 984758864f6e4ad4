"""load: splits are disjoint and seeded, the protocol records what was done, mistakes are named."""

import hashlib
import json
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from pyro_vae.data import from_arrays, load
from pyro_vae.errors import DataError, UsageError

NAMES = ("train", "valid", "test")


def parts(splits):
    return [getattr(splits, name) for name in NAMES]


def pairs(images, labels):
    return sorted((tuple(map(int, x)), int(y)) for x, y in zip(images, labels, strict=True))


@pytest.fixture
def numbered(tmp_path):
    """200 data, each of which carries its own number."""
    path = tmp_path / "numbered.npy"
    np.save(path, np.arange(200, dtype=np.uint8)[:, None])
    return path


def indices(splits):
    return [split.levels[:, 0].tolist() for split in parts(splits)]


def test_digits_are_scikit_learns():
    splits = load("digits")
    assert [len(split) for split in parts(splits)] == [1257, 180, 360]
    assert (splits.x_shape, splits.num_classes) == ((1, 8, 8), 10)
    truth = load_digits()
    levels, labels = (torch.cat([getattr(s, key) for s in parts(splits)]) for key in ("levels", "labels"))
    assert pairs(levels.flatten(1), labels) == pairs(truth.data, truth.target)
    assert splits.train.intensities().max() == 1


@pytest.mark.parametrize("kind", ["random", "contiguous"])
def test_splits_are_disjoint_and_complete(numbered, kind):
    found = indices(load(numbered, split=kind))
    assert [len(index) for index in found] == [140, 20, 40]
    together = [*found[0], *found[1], *found[2]]
    assert sorted(together) == list(range(200))
    assert (together == list(range(200))) == (kind == "contiguous")


def test_a_random_split_is_a_function_of_the_data_seed(numbered):
    torch.manual_seed(1)
    first = indices(load(numbered, data_seed=3))
    torch.manual_seed(2)
    state = torch.get_rng_state()
    assert indices(load(numbered, data_seed=3)) == first
    assert torch.equal(state, torch.get_rng_state())
    assert indices(load(numbered, data_seed=4)) != first


def test_the_choice_of_recipe_does_not_move_the_split(numbered):
    assert indices(load(numbered, binarize="static")) == indices(load(numbered, dequantize=True))


def test_the_protocol_is_json_repeats_and_names_no_folder(numbered):
    splits = load(numbered, binarize="dynamic", data_seed=7)
    protocol = splits.protocol
    assert json.loads(json.dumps(protocol)) == protocol == load(numbered, binarize="dynamic", data_seed=7).protocol
    assert str(numbered.parent) not in json.dumps(protocol)
    assert protocol["files"] == {numbered.name: hashlib.sha256(numbered.read_bytes()).hexdigest()}
    content = b"".join(split.levels.numpy().tobytes() for split in parts(splits))
    assert protocol["sha256"] == hashlib.sha256(content).hexdigest()
    split = protocol["split"]
    assert (split["kind"], split["seed"]) == ("random", 7)
    assert split["sizes"] == {"train": 140, "valid": 20, "test": 40}
    for name, index in zip(NAMES, indices(splits), strict=True):
        assert split["index_sha256"][name] == hashlib.sha256(np.array(index, "<i8").tobytes()).hexdigest()
    assert (protocol["binarization"]["kind"], protocol["binarization"]["seed"]) == ("dynamic", 7)
    assert protocol["dequantized"] is None
    assert any("not comparable" in note for note in protocol["notes"])


def test_the_protocol_of_dequantised_data():
    protocol = load("digits", dequantize=True).protocol
    assert protocol["dequantized"]["log_jacobian"] == pytest.approx(-64 * np.log(17), rel=1e-15)
    assert protocol["binarization"]["kind"] == "none"
    json.dumps(protocol)


def test_levels_of_digits_are_scikit_learns_own_numbers():
    splits = load("digits", levels=True)
    truth = load_digits()
    x, labels = (torch.cat([part(s) for s in parts(splits)]) for part in (lambda s: s.fixed(), lambda s: s.labels))
    assert pairs(x.flatten(1), labels) == pairs(truth.data, truth.target)
    assert x.dtype == torch.float32
    assert splits.form == ((1, 8, 8), 17, 10, "as_stored")
    protocol = splits.protocol
    assert protocol["binarization"]["kind"] == "levels"
    assert protocol["binarization"]["sentence"] == "x is the level 0 ... L-1, or the count, as stored."
    assert (protocol["binarization"]["seed"], protocol["dequantized"]) == (None, None)
    assert "binarisation" not in " ".join(protocol["notes"])
    assert json.loads(json.dumps(protocol)) == protocol


def test_the_levels_are_cut_as_all_other_recipes_are(numbered):
    assert indices(load(numbered, levels=True)) == indices(load(numbered))


def test_counts_beyond_eight_bits_are_levels_without_a_number_of_them(tmp_path):
    x = np.arange(60, dtype=np.float32).reshape(30, 2) * 1000
    np.save(tmp_path / "x.npy", x)
    splits = load(tmp_path / "x.npy", counts=True, split="contiguous")
    np.testing.assert_array_equal(torch.cat([s.fixed() for s in parts(splits)]).numpy(), x)
    assert splits.form == ((2,), None, 0, "counts")


def test_the_form_counts_the_classes_of_a_file(tmp_path):
    np.savez(tmp_path / "x.npz", x=np.arange(30, dtype=np.uint8)[:, None], y=np.arange(30) % 4)
    splits = load(tmp_path / "x.npz", levels=True)
    assert splits.form == ((1,), 30, 4, "as_stored")
    for split in parts(splits):
        assert torch.equal(split.one_hot(4).argmax(1), split.fixed()[:, 0].long() % 4)


@pytest.mark.parametrize("binarize", ["dynamic", "static", "threshold", "none"])
def test_binary_data_stay_as_they_are(tmp_path, binarize):
    x = np.random.default_rng(0).random((30, 4)) < 0.5
    np.save(tmp_path / "x.npy", x)
    splits = load(tmp_path / "x.npy", binarize=binarize, split="contiguous")
    np.testing.assert_array_equal(torch.cat([s.fixed() for s in parts(splits)]).numpy(), x)
    assert splits.protocol["binarization"]["kind"] == "already binary"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"binarize": "auto"}, "unknown binarize 'auto'; choose from dynamic, static, threshold, none"),
        ({"split": "sorted"}, "unknown split 'sorted'; choose from random, contiguous"),
        ({"binarize": "static", "dequantize": True}, "`dequantize=True` excludes `binarize='static'`"),
        ({"levels": True, "binarize": "static"}, "takes the levels as they are: leave out `binarize` and `dequantize`"),
        ({"levels": True, "dequantize": True}, "takes the levels as they are: leave out `binarize` and `dequantize`"),
    ],
)
def test_usage_errors(arguments, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        load("digits", **arguments)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("minst", "did you mean 'mnist'"),
        ("Fashion-MNIST", "did you mean 'fashion_mnist'"),
        ("digit", "did you mean 'digits'"),
        ("own", r"a path that ends in .npy, .npz or .csv, or a folder of images"),
    ],
)
def test_an_unknown_name(name, message):
    with pytest.raises(UsageError, match=message):
        load(name)


def test_exit_codes():
    assert (UsageError.exit_code, DataError.exit_code) == (2, 3)


def test_importing_the_room_imports_neither_torch_nor_numpy():
    script = "import sys, pyro_vae.data as d; d.SOURCES; sys.exit(any(m in sys.modules for m in ('torch', 'numpy')))"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


@pytest.mark.parametrize("kind", ["random", "contiguous"])
def test_the_number_of_validation_data_is_taken_from_the_training_data_and_the_test_data_stay(numbered, kind):
    before, found = indices(load(numbered, split=kind)), indices(load(numbered, split=kind, valid_data=3))
    assert [len(index) for index in found] == [157, 3, 40]
    assert found[2] == before[2]
    assert sorted(found[0] + found[1]) == sorted(before[0] + before[1])


def test_validation_data_of_the_data_set_and_the_last_training_datum_are_not_taken(numbered, tmp_path):
    assert len(load(numbered, valid_data=159).train) == 1
    with pytest.raises(
        UsageError, match=r"`valid_data=160` leaves none of numbered.*'s 160 data to train on: take fewer"
    ):
        load(numbered, valid_data=160)
    rows = np.arange(40, dtype=np.uint8)[:, None]
    np.savez(tmp_path / "own.npz", x_train=rows, x_valid=rows, x_test=rows)
    with pytest.raises(UsageError, match=r"own.* has validation data of its own, which `valid_data=3` cannot change"):
        load(tmp_path / "own.npz", valid_data=3)
    np.savez(tmp_path / "two.npz", x_train=rows, x_test=rows)
    assert [len(split) for split in parts(load(tmp_path / "two.npz", valid_data=3))] == [37, 3, 40]


@pytest.mark.parametrize("wrong", [-1, 2.5, True, "3"])
def test_a_number_of_validation_data_that_is_none_is_refused(numbered, wrong):
    with pytest.raises(UsageError, match="`valid_data` must be a whole number of at least 0; got "):
        load(numbered, valid_data=wrong)


@pytest.mark.parametrize("kind", ["random", "contiguous"])
def test_validation_data_of_less_than_half_a_group_do_not_take_one_from_the_test_data(kind):
    rows, groups = np.arange(100, dtype=np.uint8)[:, None], np.arange(100) // 10
    sizes = [len(split) for split in parts(from_arrays(rows, group=groups, split=kind, valid_data=20))]
    assert sizes == [60, 20, 20]
    with pytest.raises(UsageError, match=r"`valid_data=3` is less than half a group of .*: take more"):
        from_arrays(rows, group=groups, split=kind, valid_data=3)
