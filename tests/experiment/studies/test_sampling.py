"""sample.py and what it calls: the arrays are those of the library, and what cannot be drawn is said in a sentence."""

import io
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from finished import finished_run
from scripted import exit_code

from pyro_vae.data import one_hot
from pyro_vae.errors import UsageError
from pyro_vae.evaluation import subset
from pyro_vae.experiment import build
from pyro_vae.experiment.config import Config
from pyro_vae.experiment.run.run_folder import Run
from pyro_vae.experiment.run.trained_run import open_run
from pyro_vae.experiment.studies import sampling
from pyro_vae.experiment.studies.sampling import Wanted
from pyro_vae.experiment.train.training_session import Session
from pyro_vae.randomness import stream
from pyro_vae.report.draw import image_views, latent_views

pytestmark = pytest.mark.usefixtures("sketched")

MAIN = runpy.run_path(str(Path(__file__).parents[3] / "scripts" / "sample.py"))["main"]
SIZE = 200


def trained(folder, x_shape=(4, 4), labels=True, **settings):
    """A run of two epochs on random data of three classes, opened again."""
    random = np.random.default_rng(0)
    x = random.random((SIZE, *x_shape)) < 0.5
    np.savez(folder / "data.npz", x=x, **({"y": np.arange(SIZE) % 3} if labels else {}))
    defaults = {"latent_dim": 2, "hidden": (8,), "flow_hidden": (8,), "batch_size": 50, "epochs": 2}
    config = Config(dataset=str(folder / "data.npz"), **{**defaults, **settings})
    data = build.data(config)
    vae = build.vae(config, *data.form)
    svi = build.svi(config, vae)
    session = Session.open(Run(folder / "run", config), data, vae, svi)
    for record in session.fit():
        session.save(record)
    return open_run(folder / "run")


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("plain"), latent_dim=3, prior="flow")


@pytest.fixture(scope="module")
def conditional(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("conditional"), conditional=True, prior="conditional")


@pytest.fixture(scope="module")
def vectors(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("vectors"), (6,), labels=False)


@pytest.fixture(scope="module", params=["top_down", "bottom_up"])
def layered(request, tmp_path_factory):
    settings = {"guide": request.param, "objective": "trace_elbo", "latent_dim": 3, "latent_dim2": 2, "hidden2": (4,)}
    return trained(tmp_path_factory.mktemp("layered"), layers=2, prior="flow", **settings)


def write(run, folder, **wanted):
    sentences = list(sampling.write(run, folder, Wanted(**wanted)))
    return sentences, {path.stem: dict(np.load(path)) for path in folder.glob("*.npz")}


def same(array, tensor):
    np.testing.assert_array_equal(array, tensor.numpy())
    return True


ALL = {"samples", "reconstructions", "interpolation", "traversal", "latent_cloud"}


@pytest.mark.thorough
def test_every_picture_has_its_arrays(plain, conditional, tmp_path):
    for name, run, expected in (("plain", plain, ALL), ("classes", conditional, ALL | {"latent_grid"})):
        sentences, arrays = write(run, tmp_path / name)
        assert set(arrays) == expected
        assert {path.stem for path in (tmp_path / name).glob("*.png")} == expected
        assert [sentence.split(":")[0] for sentence in sentences] == [n for n in sampling.ABOUT if n in expected]


def test_the_documented_arrays_are_there_and_no_others(conditional, tmp_path):
    _, arrays = write(conditional, tmp_path)
    documented = {
        "samples": "z mean x labels",
        "reconstructions": "x z mean log_likelihood log_likelihood_of_draws labels positions rows",
        "interpolation": "start end paths z mean labels positions rows",
        "traversal": "x reconstruction code usage dimensions levels z mean labels positions rows",
        "latent_cloud": "z points prior share covariance labels positions rows",
        "latent_grid": "levels z mean labels",
    }
    assert {name: set(found) for name, found in arrays.items()} == {n: set(a.split()) for n, a in documented.items()}
    for name, keys in documented.items():
        section = sampling.__doc__.split(f"{name}.npz")[1].split(".npz")[0]
        assert all(key in section for key in keys.removesuffix(" labels positions rows").split())


@pytest.mark.thorough
def test_arrays_are_what_the_library_gives(plain, tmp_path):
    _, found = write(plain, tmp_path, seed=4, between=(2, 0))
    vae, test = plain.vae, plain.test(0)
    with stream(4, "samples"):
        assert same(found["samples"]["x"], vae.generate(64))
    with stream(4, "samples"):
        assert same(found["samples"]["mean"], vae.generate(64, mean=True))

    shown = found["reconstructions"]
    x = test.x[shown["positions"]]
    assert same(shown["x"], x)
    assert same(shown["labels"], test.labels[shown["positions"]])
    with stream(4, "reconstructions"):
        assert same(shown["mean"], vae.reconstruct(x, num_samples=4))
    assert same(shown["log_likelihood_of_draws"], image_views.log_likelihood_of_draws(vae, x, 100, 4))

    lines = found["interpolation"]
    assert lines["paths"].tolist() == ["straight", "spherical", "base"]
    start, end = (test.x[row] for row in lines["positions"])
    assert lines["labels"].tolist() == [[2], [0]]
    assert test.labels[lines["positions"][:, 0]].tolist() == [2, 0]
    for i, kind in enumerate(lines["paths"]):
        assert same(lines["mean"][i], vae.interpolate(start, end, 9, path=str(kind)))

    moved = found["traversal"]
    assert moved["positions"] == lines["positions"][0]
    assert same(moved["x"], start)
    np.testing.assert_allclose(moved["code"], vae.posterior(start).mean[0].detach(), atol=1e-6)  # of another batch

    once = latent_views.traversal(vae, test.x, 4, datum=int(moved["positions"][0]))  # each datum counts once
    np.testing.assert_allclose(moved["usage"], once.usage, rtol=1e-4)

    cloud = found["latent_cloud"]
    assert same(cloud["positions"], subset(len(test.x), 2000, 0))
    assert same(cloud["z"], vae.posterior(test.x).mean.detach())
    assert same(cloud["labels"], test.labels)
    assert same(cloud["points"], latent_views.cloud(vae, test.x, 4).points)


@pytest.mark.thorough
def test_two_layers_have_the_pictures_of_what_their_decoder_sees(layered, tmp_path):
    _, arrays = write(layered, tmp_path)
    assert set(arrays) == {"samples", "reconstructions", "interpolation"}
    found = arrays["interpolation"]
    assert found["paths"].tolist() == ["straight", "spherical"]  # p(z2) is a flow, p(z1) has no base
    start, end = torch.from_numpy(found["start"]), torch.from_numpy(found["end"])
    vae, steps = layered.vae, found["z"].shape[1]
    with torch.no_grad():
        assert same(found["z"][0, 0], vae.centre(start))
        assert same(found["mean"][1], vae.interpolate(start, end, steps, path="spherical"))
    assert found["z"].shape[-1] == 3


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"only": ("traversal",)}, "two layers of latents"),
        ({"paths": ("base",)}, "`prior='flow'` of z2, not of the z1 that the path is in"),
    ],
)
def test_what_two_layers_do_not_have_is_said(wanted, message, layered, tmp_path):
    with pytest.raises(UsageError, match=message):
        write(layered, tmp_path / "new", **wanted)
    assert not (tmp_path / "new").exists()


def test_labels_go_into_every_picture_of_a_conditional_run(conditional, tmp_path):
    _, found = write(conditional, tmp_path)
    vae, test = conditional.vae, conditional.test(0)
    labels = found["samples"]["labels"]
    assert labels.tolist() == [c for c in range(3) for _ in range(8)]
    with stream(0, "samples"):
        assert same(found["samples"]["mean"], vae.generate(y=one_hot(torch.tensor(labels), 3), mean=True))
    lines = found["interpolation"]
    (start, y, _), (end, y_end, _) = (tuple(part[row] for part in test) for row in lines["positions"])
    assert same(lines["mean"][0], vae.interpolate(start, end, 9, y, y_end=y_end))
    assert (y != y_end).any()
    moved = found["traversal"]
    z, label = torch.tensor(moved["z"]), one_hot(torch.tensor(moved["labels"]), 3)
    assert same(moved["mean"], vae.likelihood(z, label).mean.detach())
    assert same(found["latent_cloud"]["z"], vae.posterior(test.x, test.y).mean.detach())
    assert found["latent_grid"]["labels"].tolist() == [0, 1, 2]
    assert found["latent_grid"]["z"].shape == (3, 7, 7, 2)


def test_one_class_may_be_chosen(conditional, tmp_path):
    sentences, found = write(conditional, tmp_path, y=1, only=("samples", "latent_grid"))
    assert set(found) == {"samples", "latent_grid"}
    assert found["samples"]["labels"].tolist() == [1] * 64
    assert found["latent_grid"]["labels"].tolist() == [1]
    assert found["latent_grid"]["z"].shape == (1, 21, 21, 2)
    assert "of class 1 from the prior" in sentences[0]


def test_the_spread_of_the_reconstruction_is_a_number(plain, tmp_path):
    (sentence,), found = write(plain, tmp_path, only=("reconstructions",))
    spread = found["reconstructions"]["log_likelihood_of_draws"].std(0, ddof=1)
    assert f"varies by ± {spread.mean():.2f} nats" in sentence
    assert f"mean over 12 test data; {spread.min():.2f} to {spread.max():.2f})" in sentence


def test_data_that_are_no_images_have_arrays_and_a_cloud(vectors, tmp_path):
    sentences, found = write(vectors, tmp_path)
    assert "data of shape (6,) are not images" in sentences[0]
    assert set(found) == ALL | {"latent_grid", "columns"}
    assert {path.name for path in tmp_path.glob("*.png")} == {"columns.png", "latent_cloud.png"}
    assert found["samples"]["mean"].shape == (64, 6)
    assert not any("labels" in arrays for arrays in found.values())


@pytest.mark.thorough
def test_the_same_wish_gives_the_same_bytes_and_another_seed_others(plain, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write(plain, tmp_path / name, seed=seed)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()
        assert path.read_bytes() != (tmp_path / "c" / path.name).read_bytes()


def test_positions_and_kinds_of_paths_may_be_chosen(plain, tmp_path):
    _, found = write(plain, tmp_path, data=(3, 5), paths=("base",), only=("interpolation",))
    assert found["interpolation"]["positions"].tolist() == [[3], [5]]
    assert found["interpolation"]["z"].shape[:3] == (1, 9, 1)
    assert found["interpolation"]["paths"].tolist() == ["base"]


def test_between_one_label_and_itself_are_two_data(plain, tmp_path):
    _, found = write(plain, tmp_path, between=(1, 1), only=("interpolation",))
    assert found["interpolation"]["labels"].tolist() == [[1], [1]]
    assert len(set(found["interpolation"]["positions"].flatten().tolist())) == 2


@pytest.mark.parametrize(
    ("run", "wanted", "message"),
    [
        ("plain", {"between": (0, 7)}, "`between=7` is none of the 3 classes 0 ... 2"),
        ("vectors", {"between": (0, 1)}, "these have none: use `data` with two positions"),
        ("plain", {"data": (0, 4000)}, r"`data=4000`: the run has \d+ test data, at positions 0 ... \d+"),
        ("plain", {"data": (-1, 0)}, "`data=-1`: the run has"),
        ("plain", {"data": (0, 1), "between": (0, 1)}, "`data` and `between` both choose"),
        (
            "plain",
            {"y": 1},
            "`y` chooses a class of a conditional run; this one was trained without `conditional",
        ),
        ("conditional", {"y": 3}, r"`y=3` is none of the 3 classes 0 ... 2"),
        ("conditional", {"y": -1}, r"`y=-1` is none of the 3 classes"),
        ("plain", {"paths": ("spheric",)}, "unknown path 'spheric'; did you mean 'spherical'"),
        ("conditional", {"paths": ("base",)}, "flow; this run has `prior='conditional'`. Use 'spherical'"),
        ("plain", {"only": ("sample",)}, "unknown picture 'sample'; did you mean 'samples'"),
        ("plain", {"only": ("latent_grid",)}, "shows a plane of 2 latent dimensions; this run has 3"),
    ],
)
def test_what_a_run_can_not_draw_is_said_before_anything_is_written(run, wanted, message, request, tmp_path):
    with pytest.raises(UsageError, match=message):
        write(request.getfixturevalue(run), tmp_path / "new", **wanted)
    assert not (tmp_path / "new").exists()


@pytest.fixture(scope="module")
def named(tmp_path_factory):
    """A conditional run of four named classes, the last one never trained on, whose test data have shuffled rows."""
    folder = tmp_path_factory.mktemp("named")
    x, y = np.random.default_rng(0).random((SIZE, 4, 4)) < 0.5, np.array(["ant", "bee", "cat"])[np.arange(SIZE) % 3]
    y[185:] = "dog"
    np.savez(folder / "named.npz", x=x, y=y)
    settings = {"conditional": True, "split": "contiguous", "latent_dim": 2, "hidden": (8,), "epochs": 1}
    return open_run(finished_run(folder / "run", str(folder / "named.npz"), **settings)), x, y


def test_classes_go_by_their_names_and_those_never_trained_on_have_no_samples(named, tmp_path):
    run, _, _ = named
    sentences, found = write(run, tmp_path / "all", only=("samples",))
    assert found["samples"]["classes"].tolist() == ["ant", "bee", "cat", "dog"]
    assert found["samples"]["labels"].tolist() == [0] * 8 + [1] * 8 + [2] * 8
    assert sentences == ["samples: 24 data of 3 of 4 classes from the prior: means of p(x|z), and draws"]
    sentences, found = write(run, tmp_path / "bee", only=("samples",), y="bee")
    assert set(found["samples"]["labels"].tolist()) == {1}
    assert "of class bee" in sentences[0]
    with pytest.raises(UsageError, match="`y=cow` is none of the 4 classes ant, bee, cat, dog"):
        write(run, tmp_path, y="cow")
    with pytest.raises(UsageError, match="`y=dog`: no training datum has this label"):
        write(run, tmp_path, y="dog")


def test_what_is_shown_can_be_found_in_the_file_by_its_row(named, tmp_path):
    run, x, y = named
    sentences, found = write(run, tmp_path, between=("cat", "bee"))
    ends = found["interpolation"]
    assert y[ends["rows"]][:, 0].tolist() == ["cat", "bee"]
    np.testing.assert_array_equal(ends["start"][0, 0], x[ends["rows"][0, 0]])
    place = f"{ends['positions'][0, 0]} (row {ends['rows'][0, 0]}, label cat)"
    assert f"test data {place} to " in next(s for s in sentences if s.startswith("interpolation"))
    shown = found["reconstructions"]
    np.testing.assert_array_equal(shown["x"][:, 0], x[shown["rows"]])
    assert shown["classes"][shown["labels"]].tolist() == y[shown["rows"]].tolist()


def test_a_class_never_trained_on_is_neither_traversed_nor_an_end_of_a_path(named, tmp_path):
    run, _, y = named
    _, found = write(run, tmp_path, only=("traversal", "interpolation"))
    assert "dog" not in y[np.concatenate([found["traversal"]["rows"], found["interpolation"]["rows"].ravel()])]
    assert (run.data.test.labels == 3).sum() == 15


def test_columns_of_a_table_are_drawn_beside_the_data(vectors, plain, tmp_path):
    _, found = write(vectors, tmp_path, only=("columns",))
    columns = found["columns"]
    assert columns["names"].tolist() == [f"column {i}" for i in range(6)]
    assert (columns["x"].shape, columns["drawn"].shape) == ((40, 6), (1000, 6))
    np.testing.assert_array_equal(columns["x"], vectors.data.test.fixed(torch.from_numpy(columns["positions"])))
    np.testing.assert_allclose(columns["drawn"].mean(0), 0.5, atol=0.2)
    with pytest.raises(UsageError, match="columns shows those of a table, at most 20; these data have the shape"):
        write(plain, tmp_path, only=("columns",))


def test_arrays_without_a_value_are_left_out_and_the_rest_comes_back():
    found = np.load(io.BytesIO(sampling.to_npz({"a": torch.ones(2), "b": None, "c": np.array(["x"])})))
    assert set(found) == {"a", "c"}
    assert found["c"].tolist() == ["x"]


# The script.


def test_a_class_is_named_on_the_command_line(named, tmp_path, capsys):
    run, *_ = named
    assert script(run.run.path, "--out", tmp_path, "--only", "samples", "--label", "cat") == 0
    assert "of class cat" in capsys.readouterr().out
    assert script(run.run.path, "--out", tmp_path, "--y", "2") == 2
    assert capsys.readouterr().err == "error: --y 2 is none of the 4 classes ant, bee, cat, dog\n"


def script(*arguments):
    return exit_code(MAIN, arguments)


def test_the_script_writes_into_the_runs_folder_or_elsewhere(plain, tmp_path, capsys):
    assert script(plain.run.path, "--out", tmp_path / "there", "--only", "interpolation", "--between", 0, 2) == 0
    assert sorted(path.name for path in (tmp_path / "there").iterdir()) == ["interpolation.npz", "interpolation.png"]
    out = capsys.readouterr().out
    assert "interpolation: test data " in out
    assert ", label 0) to " in out
    assert f"In {tmp_path / 'there'}" in out
    assert script(plain.run.path, "--only", "samples", "--seed", 3) == 0
    assert (plain.run.path / "samples" / "samples.png").exists()
    with stream(3, "samples"):
        assert same(np.load(plain.run.path / "samples" / "samples.npz")["x"], plain.vae.generate(64))


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--y", "1"], 2, "--y chooses a class of a conditional run"),
        (["--data", "0", "9999"], 2, "error: --data 9999: the run has"),
        (["--path", "bass"], 2, "did you mean 'base'"),
        (["--data", "one", "2"], 2, "data"),
        (["--between", "1"], 2, "expected 2 arguments"),
    ],
)
def test_mistakes_are_one_sentence_and_an_exit_code(arguments, code, message, plain, tmp_path, capsys):
    assert script(plain.run.path, "--out", tmp_path / "new", *arguments) == code
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "new").exists()


def test_what_is_no_run_is_said(tmp_path, capsys):
    assert script(tmp_path) == 4
    assert "holds no trained run" in capsys.readouterr().err


def test_as_many_data_as_are_wanted_are_drawn_of_each_class(plain, conditional, tmp_path):
    _, arrays = write(plain, tmp_path / "plain", only=("samples",), number=70)
    with stream(0, "samples"):
        assert same(arrays["samples"]["x"], plain.vae.generate(70))
    _, arrays = write(conditional, tmp_path / "classes", only=("samples",), number=7)
    assert arrays["samples"]["labels"].tolist() == [0, 1, 2, 0, 1, 2, 0]
    with pytest.raises(UsageError, match="`number` of data is 1"):
        write(plain, tmp_path, number=-1)
