"""What TensorBoard reads back is what happened, of validation data alone, and the training did not notice."""

import io
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from cases import all_but, thorough
from exact import binary_data, two_layers
from finished import SMALL, content, images
from PIL import Image

import pyro_vae as pv
from pyro_vae.data import Split
from pyro_vae.data.splits import one_hot
from pyro_vae.errors import UsageError
from pyro_vae.experiment import build, tables
from pyro_vae.experiment.config import Config
from pyro_vae.experiment.run.run_folder import Run
from pyro_vae.experiment.train import training
from pyro_vae.experiment.train.program_graph import nodes_of
from pyro_vae.randomness import stream

accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
FEW = {**SMALL, "elbo_samples": 2, "test_samples": 2, "valid_samples": 2}


def events(run):
    found = accumulator.EventAccumulator(str(run.path / "tensorboard"), size_guidance={"images": 0, "scalars": 0})
    return found.Reload()


def steps(run, tag):
    return [event.step for event in events(run).Images(tag)]


def picture(event):
    """(H, W, C), whole numbers."""
    return np.asarray(Image.open(io.BytesIO(event.encoded_image_string)))


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    return Config(dataset=images(tmp_path_factory.mktemp("data") / "grey.npz"), **{**FEW, "epochs": 45})


@pytest.fixture(scope="module")
def run(settings, tmp_path_factory):
    return training.train(Run(tmp_path_factory.mktemp("run") / "run", settings), tensorboard=True)


# What is there.


@pytest.mark.thorough
def test_every_number_of_every_epoch_is_a_scalar(run):
    found, history = events(run), run.history.records()
    names = set(history[0]) - {"epoch", "best"}
    assert set(found.Tags()["scalars"]) == names
    for name in names:
        values = {event.step: event.value for event in found.Scalars(name)}
        assert values == pytest.approx({record["epoch"]: record[name] for record in history}, rel=1e-6)


@pytest.mark.thorough
def test_there_are_about_twenty_pictures_and_one_of_the_best_epoch(run):
    assert steps(run, "reconstructions") == steps(run, "samples") == list(range(2, 46, 2))
    assert steps(run, "best/reconstructions") == steps(run, "best/samples") == [45]


@pytest.mark.thorough
def test_the_picture_shows_validation_data_in_its_top_row_and_the_best_program_below(run, settings):
    shown = picture(events(run).Images("best/reconstructions")[0])
    data, vae, larger = build.data(settings), pv.load(run.path), 7  # 4 pixels to 28
    x = data.valid.fixed()
    with stream(settings.seed, "tensorboard"):
        means = vae.reconstruct(x, num_samples=4)
    assert shown.shape == (5 * 29 - 1, len(x) * 29 - 1, 3)
    for i, row in enumerate((x, *means)):
        for j, image in enumerate(row):
            tile = shown[29 * i : 29 * i + 28, 29 * j : 29 * j + 28, 0]
            expected = image[0].repeat_interleave(larger, 0).repeat_interleave(larger, 1).numpy()
            np.testing.assert_allclose(tile / 255, expected, atol=1 / 255)
    assert (shown[28::29] == 127).all()


def test_codes_are_the_centres_of_validation_data_with_their_labels_and_thumbnails(run, settings):
    folder = run.path / "tensorboard" / "00045" / "codes"
    data, vae = build.data(settings), pv.load(run.path)
    x = data.valid.fixed()
    with torch.no_grad():
        codes = vae.posterior.centre(x)
    np.testing.assert_allclose(np.loadtxt(folder / "tensors.tsv", delimiter="\t"), codes.numpy(), rtol=1e-6)
    assert [int(line) for line in (folder / "metadata.tsv").read_text().split()] == data.valid.labels.tolist()
    sprite = np.asarray(Image.open(folder / "sprite.png"))[..., 0]
    for i, image in enumerate(x):
        top, left = 4 * (i // 3), 4 * (i % 3)  # eight thumbnails in rows of three
        np.testing.assert_array_equal(sprite[top : top + 4, left : left + 4], 255 * image[0].numpy().astype(np.uint8))
    assert "00045/codes/sprite.png" in (run.path / "tensorboard" / "projector_config.pbtxt").read_text()


@pytest.mark.parametrize("shape", [*thorough(((4, 6),), ((6, 4),)), (3, 4, 6)], ids=str)
def test_thumbnails_of_oblong_images_are_squares(shape, tmp_path):
    np.save(tmp_path / "oblong.npy", np.random.default_rng(0).random((40, *shape)))
    settings = Config(dataset=str(tmp_path / "oblong.npy"), likelihood="normal", **{**FEW, "epochs": 1})
    run = training.train(Run(tmp_path / "run", settings), tensorboard=True)
    x = build.data(settings).valid.fixed()
    sprite = np.asarray(Image.open(run.path / "tensorboard" / "00001" / "codes" / "sprite.png"))
    height, width = shape[-2:]
    np.testing.assert_allclose(sprite[:height, :width].T[: x.shape[1]].swapaxes(-1, -2), x[0] * 255, atol=1)
    assert (sprite[:6, :6][height:] == 0).all()
    assert (sprite[:6, :6][:, width:] == 0).all()


def test_what_is_no_image_has_scalars_codes_and_a_graph(tmp_path):
    np.save(tmp_path / "vectors.npy", np.random.default_rng(0).random((40, 5)) < 0.5)
    settings = Config(dataset=str(tmp_path / "vectors.npy"), **FEW)
    run = training.train(Run(tmp_path / "run", settings), tensorboard=True)
    tags = events(run).Tags()
    assert (tags["images"], tags["graph"]) == ([], True)
    assert {path.name for path in (run.path / "tensorboard" / "00002" / "codes").iterdir()} == {"tensors.tsv"}


SWAPS = [
    {"conditional": True, "prior": "conditional", "posterior": "flow"},
    {"posterior": "delta", "kl_weight": 0.0},
    {"likelihood": "categorical", "prior": "vamp", "num_components": 3},
    {"layers": 2, "conditional": True},
]


@pytest.mark.thorough
@pytest.mark.parametrize("swap", all_but(SWAPS[1::2], SWAPS), ids=lambda swap: "-".join(map(str, swap.values())))
def test_it_works_for_labels_points_levels_and_two_layers(swap, settings, tmp_path):
    swapped = replace(settings, epochs=1, flow_hidden=(4,), **swap)
    run = training.train(Run(tmp_path / "run", swapped), tensorboard=True)
    assert steps(run, "best/samples") == [1]
    shown = picture(events(run).Images("best/reconstructions")[0])[:28, :28, 0]
    data = build.data(swapped)
    x = data.valid.fixed()[0, 0] / build.shown_range(swapped, data.form, data.protocol)[1]
    np.testing.assert_allclose(shown[::7, ::7] / 255, x, atol=1 / 255)


@pytest.mark.parametrize("guide", [*thorough("top_down"), "bottom_up"])
def test_the_codes_of_two_layers_are_those_that_the_decoder_sees(guide, settings, tmp_path):
    layered = replace(settings, epochs=1, layers=2, latent_dim2=2, guide=guide, objective="trace_elbo")
    run = training.train(Run(tmp_path / "run", layered), tensorboard=True)
    with torch.no_grad():
        codes = pv.load(run.path).centre(build.data(layered).valid.fixed())
    shown = np.loadtxt(run.path / "tensorboard" / "00001" / "codes" / "tensors.tsv", delimiter="\t")
    np.testing.assert_allclose(shown, codes.numpy(), rtol=1e-5)


# The graph.


def inputs(program, x, y=None):
    return {node.name: set(node.inputs) for node in nodes_of(program, x, y)}


@pytest.mark.parametrize("guide", ["top_down", "bottom_up"])
def test_the_graph_of_two_layers_is_that_of_its_equations(guide):
    found = inputs(two_layers(guide).float(), binary_data(3).float())
    # p(z2) p(z1|z2) p(x|z1), with q(z2|x) q(z1|x, z2) or q(z1|x) q(z2|z1)
    upstream = {
        name: set().union(*(found[member] if member not in sites else {member} for member in inner))
        for name, inner in found.items()
        if name in (sites := {"x", *(f"{part}/{site}" for part in ("model", "guide") for site in ("x", "z1", "z2"))})
    }
    model = {"x": set(), "model/z2": set(), "model/z1": {"model/z2"}, "model/x": {"model/z1"}}
    looks = {
        "top_down": {"guide/z2": {"x"}, "guide/z1": {"x", "guide/z2"}},
        "bottom_up": {"guide/z1": {"x"}, "guide/z2": {"guide/z1"}},
    }
    assert upstream == model | looks[guide]


MEMBERS = [
    *({"prior": name} for name in tables.PRIORS),
    *({"posterior": name} for name in tables.POSTERIORS if name != "delta"),
    *({"likelihood": name} for name in tables.LIKELIHOODS),
    {"posterior": "delta", "kl_weight": 0.0},
]


@pytest.mark.parametrize("swap", MEMBERS, ids=lambda swap: "-".join(map(str, swap.values())))
def test_the_graph_of_every_member_has_its_edges_and_leaves_no_trace(swap):
    conditional = swap.get("prior") == "conditional"
    settings = Config(latent_dim=2, hidden=(4,), flow_hidden=(4,), num_components=3, conditional=conditional, **swap)
    vae = build.vae(settings, (1, 2, 2), 3, 2)
    x, y = torch.ones(1, 1, 2, 2), one_hot(torch.tensor([1]), 2) if conditional else None
    before = torch.get_rng_state()
    found = inputs(vae, x, y)
    labels = {"y"} if conditional else set()
    made = {"model/prior", *(["model/posterior"] if swap.get("prior") == "vamp" else [])}
    assert found["model/z"] == made
    assert found["model/prior"] == labels
    assert (found["model/x"], found["model/likelihood"]) == ({"model/likelihood"}, {"model/z"} | labels)
    assert (found["guide/z"], found["guide/posterior"]) == ({"guide/posterior"}, {"x"} | labels)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(parameter.grad is None for parameter in vae.parameters())
    assert not any(member._forward_pre_hooks for member in vae.modules())
    assert vae.training


def test_the_graph_is_read_back_with_shapes_and_classes(run):
    nodes = {node.name: node for node in events(run).Graph().node}
    assert (nodes["model/prior"].op, nodes["guide/z"].op) == ("StandardNormal", "Normal")
    sizes = [dim.size for dim in nodes["model/x"].attr["_output_shapes"].list.shape[0].dim]
    assert sizes == [1, 1, 4, 4]


# What it must not do.


@pytest.mark.thorough
@pytest.mark.parametrize("swap", [{}, *thorough({"batch_size": 1}, {"prior": "vamp", "num_components": 5})], ids=str)
def test_a_training_that_is_watched_gives_the_same_bytes(swap, settings, tmp_path, monkeypatch):
    """With batches of one datum its steps are traced from the first on, as twice so many of them are expected."""
    monkeypatch.setattr("pyro_vae.inference.step_graphs.TRACE_AFTER", 300)
    swapped = replace(settings, dataset=images(tmp_path / "many.npz", size=300), epochs=3, **swap)
    watched, alone = (training.train(Run(tmp_path / name, swapped), tensorboard=name == "w") for name in "wa")
    timed = ("run.json", "tensorboard")
    found = [{n: d for n, d in content(run.path).items() if not n.startswith(timed)} for run in (watched, alone)]
    assert found[0] == found[1]
    assert len([name for name in found[0] if name.startswith("checkpoints")]) == 6
    assert steps(watched, "samples") == [1, 2, 3]


def test_test_data_are_not_looked_at(settings, tmp_path, monkeypatch):
    looked, fixed = [], Split.fixed
    monkeypatch.setattr(Split, "fixed", lambda split, *a: looked.append(split.name) or fixed(split, *a))
    monkeypatch.setattr(training.training_report, "write", lambda *a: "")
    training.train(Run(tmp_path / "run", replace(settings, epochs=3)), tensorboard=True)
    assert "valid" in looked
    assert "test" not in looked


@pytest.mark.thorough
def test_a_run_that_goes_on_has_each_epoch_once(settings, tmp_path):
    """After epoch 5 its checkpoint is lost, so that it goes on from epoch 4: what was written of 5 is dropped."""
    short = replace(settings, epochs=5, lr_schedule="constant")
    run = training.train(Run(tmp_path / "run", short), tensorboard=True)
    for path in (run.path / "checkpoints").glob("epoch-00005.*"):
        path.unlink()
    run = training.train(Run(run.path, replace(short, epochs=8)), tensorboard=True)
    assert [event.step for event in events(run).Scalars("valid_elbo")] == list(range(1, 9))
    assert steps(run, "samples") == list(range(1, 9))
    assert steps(run, "best/samples") == [8]
    values = [event.value for event in events(run).Scalars("loss")]
    assert values == pytest.approx([record["loss"] for record in run.history.records()], rel=1e-6)


def test_without_the_package_the_cure_is_named(settings, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(
        UsageError, match=r"`tensorboard=True` needs its package: pip install 'pyro-vae\[tensorboard\]'"
    ):
        training.train(Run(tmp_path / "run", settings), tensorboard=True)


# The history beside it.


def test_the_history_of_a_run_is_one_line_of_pandas(run):
    pandas = pytest.importorskip("pandas")
    found = pandas.read_json(run.path / "history.jsonl", lines=True)
    history = run.history.records()
    assert list(found.columns) == list(history[0])
    for name in found.columns:
        assert found[name].tolist() == pytest.approx([record[name] for record in history], rel=1e-12)
    assert found["best"].dtype == bool
    assert found.loc[found["best"], "valid_elbo"].is_monotonic_increasing
