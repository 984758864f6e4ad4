"""Raw data as a file has them -> x as the program of a run sees it, and new files in the run's own form."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from cases import thorough
from PIL import Image

from pyro_vae.data import Reading, from_arrays, load
from pyro_vae.data.intake import Intake
from pyro_vae.data.own.alike import rows_alike
from pyro_vae.data.recipes import RECIPES
from pyro_vae.errors import DataError

RANDOM = np.random.default_rng(0)
GREY = RANDOM.integers(0, 256, (40, 3, 4), np.uint8)
SHAPE = (1, 3, 4)


def intake(x, channels_last=False, **choices):
    made = from_arrays(x, **choices)
    return made, Intake.of_protocol(made.protocol, data_seed=0, channels_last=channels_last)


@pytest.mark.parametrize("choices", [{}, {"levels": True}, {"binarize": "threshold"}, {"num_levels": 300}])
def test_x_of_the_raw_numbers_is_the_x_of_training(choices):
    made, recipe = intake(GREY.astype(np.int64) if "num_levels" in choices else GREY, **choices)
    for split in (made.train, made.test):
        assert torch.equal(recipe.x(GREY[split.file_rows]), split.fixed())
        assert torch.equal(recipe.x(torch.from_numpy(GREY.astype(np.int32)[split.file_rows])), split.fixed())


def test_counts_bits_and_reals_too():
    for x in (RANDOM.poisson(50, (40, 5)), RANDOM.random((40, 5)) < 0.5, RANDOM.normal(size=(40, 5)) * 1e3):
        choices = {"counts": True} if x.dtype.kind == "i" else {}
        made, recipe = intake(x, **choices)
        assert recipe.counts == bool(choices)
        for given in (x, x.tolist(), torch.from_numpy(x), pd.DataFrame(x)):
            assert torch.equal(recipe.x(given)[made.test.file_rows], made.test.fixed())


def test_bits_drawn_from_intensities_are_the_likelier_ones_or_a_draw():
    _, recipe = intake(GREY, binarize="dynamic")
    likelier = torch.from_numpy(GREY >= 128)[:, None].float()
    assert torch.equal(recipe.x(GREY), likelier)
    assert torch.equal(recipe.x(GREY / 255), likelier)
    draws = torch.stack([recipe.x(GREY, seed) for seed in range(400)])
    assert torch.equal(draws[3], recipe.x(GREY, 3))
    assert set(draws.unique().tolist()) == {0.0, 1.0}
    p = torch.from_numpy(GREY / 255)[:, None].float()
    assert (abs(draws.mean(0) - p) < 4.5 * (p * (1 - p) / 400).sqrt() + 1e-6).all()


def test_dequantised_levels_are_at_the_middle_of_their_cells():
    _, recipe = intake(GREY, dequantize=True)
    assert torch.allclose(recipe.x(GREY), (torch.from_numpy(GREY)[:, None].float() + 0.5) / 256)
    drawn = recipe.x(GREY, 0)
    assert torch.equal((drawn * 256).floor(), torch.from_numpy(GREY)[:, None].float())


def test_a_table_is_chosen_and_moved_as_in_training():
    """A constant column is left out, and times a few seconds apart are told from one another."""
    frame = pd.DataFrame(
        {"a": RANDOM.normal(size=50), "always": 1.0, "time": 1.7e9 + 10 * np.arange(50.0), "b": RANDOM.normal(size=50)}
    )
    made, recipe = intake(frame)
    assert recipe.columns == ("a", "time", "b")
    rows = made.test.file_rows
    assert torch.equal(recipe.x(frame)[rows], made.test.fixed())
    assert torch.equal(recipe.x(frame.to_numpy())[rows], made.test.fixed())
    mixed = frame[["time", "b", "always", "a"]].assign(more=0.0)
    assert torch.equal(recipe.x(mixed)[rows], made.test.fixed())
    new = rows_alike(mixed, recipe, Reading())
    assert torch.equal(new.split.fixed()[rows], made.test.fixed())
    with pytest.raises(DataError, match="columns that the run was trained on are missing: time"):
        recipe.x(frame.drop(columns="time"))


def test_missing_numbers_stay_missing_or_are_refused():
    x = RANDOM.normal(size=(40, 3))
    x[5, 1] = np.nan
    _, recipe = intake(x, missing=True)
    assert recipe.x(x).isnan().nonzero().tolist() == [[5, 1]]
    _, strict = intake(np.nan_to_num(x))
    with pytest.raises(
        DataError, match=r"nan at datum 5, position \(1,\); which is not finite. The run takes no missing"
    ):
        strict.x(x)


def test_channels_that_are_last_in_the_file_are_last_in_new_data():
    x = RANDOM.integers(0, 256, (40, 3, 4, 3), np.uint8)
    made, recipe = intake(x, channels_last=True, channels="last")
    assert torch.equal(recipe.x(x)[made.test.file_rows], made.test.fixed())


@pytest.mark.parametrize(
    ("choices", "x", "sentence"),
    [
        ({}, GREY * 1.0, r"Pass x / 255, or the levels 0 \.\.\. 255 as whole numbers"),
        ({}, GREY[0], r"one datum is 4 numbers; the run was trained on 1 x 3 x 4"),
        ({}, GREY.reshape(40, 12), r"Save x.reshape\(-1, 3, 4\)"),
        *thorough(
            ({"levels": True}, GREY / 255, r"From intensities in \[0, 1\], make them by \(x \* 255\).round\(\)"),
            ({}, GREY.astype(int) - 300, r"-\d+ at datum 0, position \(0, 0, 0\)"),
            ({}, np.array([["a", "b"]]), "the run was trained on|one datum is"),
            ({}, GREY > 9, r"use x.astype\(np.uint8\) \* 255"),
        ),
    ],
)
def test_other_data_are_refused_with_the_cure(choices, x, sentence):
    _, recipe = intake(GREY, **choices)
    with pytest.raises(DataError, match=sentence):
        recipe.x(x)


def test_labels_are_one_hot_numbers_or_names():
    _, recipe = intake(GREY, y=np.array(["cat", "dog"] * 20))
    expected = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    for y in (["dog", "cat"], [1, 0], np.array([1, 0]), torch.tensor([1, 0]), np.array(["dog", "cat"]), expected):
        assert torch.equal(recipe.one_hot(y), expected)
    with pytest.raises(DataError, match="'cow' is not a class of the run: cat, dog"):
        recipe.one_hot(["cow"])


def test_it_comes_back_from_json_and_refuses_what_is_none():
    _, recipe = intake(pd.DataFrame({"a": RANDOM.normal(size=50), "c": 1.0}))
    assert Intake.of_dict(recipe.to_dict()) == recipe
    for wrong in ({"recipe": "none of them"}, {"origin": ["x"]}):
        with pytest.raises(ValueError, match=r"recipe|float"):
            Intake.of_dict({**recipe.to_dict(), **wrong})


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_new_rows_are_x_of_the_same_recipe(name):
    recipe = Intake(SHAPE, 256, name)
    split = rows_alike(GREY, recipe, Reading()).split
    x = split.fixed()
    if name in ("dynamic", "static"):
        assert (x[torch.from_numpy(GREY)[:, None] == 255] == 1).all()
        assert abs(x.mean() - GREY.mean() / 255) < 4 * 0.5 / x.numel() ** 0.5
    elif name == "dequantize":
        assert torch.equal((x * 256).floor()[:, 0], torch.from_numpy(GREY).float())
    else:
        assert torch.equal(x, recipe.x(GREY))
    assert torch.equal(rows_alike(GREY[:7], recipe, Reading()).split.fixed(), x[:7])
    assert split.file_rows.tolist() == list(range(40))


def test_a_mapped_file_is_scored_from_the_disk(tmp_path):
    np.save(tmp_path / "x.npy", GREY)
    recipe = Intake(SHAPE, 256, "dynamic")
    mapped = rows_alike(tmp_path / "x.npy", recipe, Reading(), map_above=10).split
    assert mapped.rows is not None
    assert torch.equal(mapped.fixed(), rows_alike(tmp_path / "x.npy", recipe, Reading()).split.fixed())


def test_a_csv_in_another_order_with_more_columns_and_no_label_gives_the_same_rows(tmp_path):
    frame = pd.DataFrame({"a": RANDOM.normal(size=50), "b": RANDOM.normal(size=50), "kind": ["x", "y"] * 25})
    made, recipe = intake(frame.drop(columns="kind"), y=frame["kind"].to_numpy())
    path = tmp_path / "new.csv"
    frame[["b", "kind", "a"]].assign(more=3.5, name="n").to_csv(path, index=False)
    new = rows_alike(path, recipe, Reading(label="kind", id="person", group="town"))
    assert torch.equal(new.split.fixed()[made.test.file_rows], made.test.fixed())
    assert torch.equal(new.split.labels[made.test.file_rows], made.test.labels)
    assert any("more" in note for note in new.notes)
    frame[["b", "a"]].assign(person=range(100, 150)).to_csv(path, index=False)
    new = rows_alike(path, recipe, Reading(label="kind", id="person"))
    assert new.split.labels is None
    assert new.split.ids.astype(int).tolist() == list(range(100, 150))
    frame[["b"]].to_csv(path, index=False)
    with pytest.raises(DataError, match=r"new.csv: columns that the run was trained on are missing: a"):
        rows_alike(path, recipe, Reading())


def test_unknown_labels_are_refused_where_they_are_needed_and_else_left_out(tmp_path):
    _, recipe = intake(GREY, y=np.arange(40) % 2)
    np.savez(tmp_path / "new.npz", x=GREY[:3], y=[0, 1, 5])
    new = rows_alike(tmp_path / "new.npz", recipe, Reading())
    assert new.split.labels is None
    assert "The labels were left out" in new.notes[-1]
    with pytest.raises(DataError, match="the label '5' of row 2 is not a class of the run, which has 0, 1"):
        rows_alike(tmp_path / "new.npz", recipe, Reading(), needs_labels=True)


def test_labels_that_are_numbers_are_names():
    _, recipe = intake(GREY, y=np.arange(40) % 5 + 1)
    assert recipe.classes == ("1", "2", "3", "4", "5")
    for y in ([1, 5], [1.0, 5.0], np.array([1, 5]), np.array([1.0, 5.0]), torch.tensor([1, 5]), ["1", "5"]):
        assert recipe.one_hot(y).argmax(1).tolist() == [0, 4]
    for wrong in (0, 6, 1.5, float("nan"), float("inf")):
        with pytest.raises(DataError, match="is not a class of the run: 1, 2, 3, 4, 5"):
            recipe.one_hot([wrong])


def test_one_string_is_one_label_and_a_conditional_run_asks_for_labels_by_name():
    _, recipe = intake(GREY, y=np.array(["Buche", "Föhre"] * 20))
    assert recipe.one_hot("Föhre").tolist() == [[0.0, 1.0]]
    with pytest.raises(DataError, match="pass `y`, one label for each datum, of the classes Buche, Föhre"):
        replace(recipe, conditional=True).one_hot(None)


def test_a_table_of_another_width_is_not_cut():
    x = np.column_stack([RANDOM.normal(size=(50, 2)), np.ones(50), RANDOM.normal(size=50)])
    made, recipe = intake(x)
    assert (recipe.kept, recipe.width) == ((0, 1, 3), 4)
    assert torch.equal(recipe.x(x)[made.test.file_rows], made.test.fixed())
    assert torch.equal(recipe.x(x[:, [0, 1, 3]]), recipe.x(x))
    with pytest.raises(DataError, match="one datum is 5 numbers; the run was trained on 3, of 4 in the file"):
        recipe.x(np.column_stack([x, x[:, 0]]))


def test_levels_stored_as_floats_are_levels_for_encode_and_for_scores():
    x = RANDOM.integers(0, 4, (40, 5)).astype(float)
    x[3, 2] = np.nan
    made, recipe = intake(x, num_levels=4, missing=True)
    expected, new = made.test.fixed(), rows_alike(x, recipe, Reading(num_levels=4, missing=True)).split.fixed()
    assert torch.equal(new[made.test.file_rows].nan_to_num(9), expected.nan_to_num(9))
    assert torch.equal(recipe.x(x).nan_to_num(9), new.nan_to_num(9))


def test_floats_of_a_file_of_levels_can_be_scored():
    x = RANDOM.integers(0, 4, (40, 5)).astype(float)
    made, recipe = intake(x, num_levels=4)
    recipe = replace(recipe, float_levels=True)  # as the settings of a run say
    for found in (recipe.x(x), rows_alike(x, recipe, Reading(num_levels=4)).split.fixed()):
        assert torch.equal(found[made.test.file_rows], made.test.fixed())


def test_a_frame_is_chosen_by_name_whatever_else_it_holds():
    frame = pd.DataFrame(
        {"town": ["Ulm", "Bonn"] * 25, "a": RANDOM.normal(size=50), "n": pd.array(range(50), "Int64") * 7 % 50}
    )
    made, recipe = intake(frame)
    new = rows_alike(frame[["n", "a", "town"]], recipe, Reading())
    for x in (recipe.x(frame), new.split.fixed()):
        assert torch.equal(x[made.test.file_rows], made.test.fixed())


def test_columns_of_one_name_and_without_one_are_those_of_the_training_file(tmp_path):
    for head in ("a,a,b", "a,,b"):
        rows = RANDOM.normal(size=(50, 3))
        path = tmp_path / "own.CSV"
        path.write_text("\n".join([head, *(",".join(map(str, row)) for row in rows)]))
        made = load(str(path), reals=True)
        recipe = Intake.of_protocol(made.protocol, data_seed=0)
        assert len(recipe.columns) == 3
        new = rows_alike(path, recipe, Reading(reals=True))
        assert torch.equal(new.split.fixed()[made.test.file_rows], made.test.fixed())


def test_an_empty_cell_alone_is_a_missing_number(tmp_path):
    frame = pd.DataFrame(RANDOM.normal(size=(50, 3)), columns=["a", "b", "c"])
    frame.loc[::7, "b"] = np.nan
    _, recipe = intake(frame, missing=True)
    for text, said in (("a,b,c\n1,,3\n", ""), ("c,a\n3,1\n", "Missing in every row: b.")):
        (tmp_path / "row.csv").write_text(text)
        new = rows_alike(tmp_path / "row.csv", recipe, Reading(missing=True))
        assert new.split.fixed().nan_to_num(-9).tolist() == [[1, -9, 3]]
        assert said in " ".join(new.notes)
    with pytest.raises(DataError, match="columns that the run was trained on are missing: a, b, c"):
        rows_alike(pd.DataFrame({"d": [1.0]}), recipe, Reading(missing=True))


def test_notes_name_no_column_that_was_used_or_known(tmp_path):
    frame = pd.DataFrame(
        {"a": RANDOM.normal(size=50), "b": RANDOM.normal(size=50), "k": 1.0, "target": ["u", "v"] * 25}
    )
    frame.to_csv(tmp_path / "own.csv", index=False)
    recipe = Intake.of_protocol(load(str(tmp_path / "own.csv")).protocol, data_seed=0)
    assert recipe.dropped == ("k",)
    assert rows_alike(tmp_path / "own.csv", recipe, Reading()).notes == ()


def pictures(folder, array, names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(path)


def test_a_folder_of_splits_is_refused_and_one_of_them_taken(tmp_path):
    pictures(tmp_path, GREY[0], ["train/1.png", "train/2.png", "test/3.png"])
    recipe = Intake(SHAPE, 256)
    with pytest.raises(DataError, match=r"holds the splits train, test[.] Name the folder of one"):
        rows_alike(tmp_path, recipe, Reading())
    assert len(rows_alike(tmp_path / "test", recipe, Reading()).split) == 1


def test_black_and_white_is_0_and_255_for_a_grey_run(tmp_path):
    pictures(tmp_path, GREY[0] > 99, ["1.png", "2.png"])
    split = rows_alike(tmp_path, Intake(SHAPE, 256), Reading()).split
    assert torch.equal(split.fixed()[0, 0], torch.from_numpy(GREY[0] > 99).float())
    assert torch.equal(rows_alike(tmp_path, Intake(SHAPE, 2), Reading()).split.fixed(), split.fixed())
    with pytest.raises(DataError, match=r"black and white, but the run was trained on levels 0 \.\.\. 15"):
        rows_alike(tmp_path, Intake(SHAPE, 16), Reading())


def test_one_image_is_told_from_no_file(tmp_path):
    pictures(tmp_path, GREY[0], ["1.png"])
    with pytest.raises(DataError, match=r"1.png is one image. Put it into a folder"):
        rows_alike(tmp_path / "1.png", Intake(SHAPE, 256), Reading())
