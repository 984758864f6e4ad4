"""The report of a run: which data it is about, and that its numbers are those of the free functions on them."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from cases import thorough

import pyro_vae as pv
from pyro_vae.evaluation import subset
from pyro_vae.experiment import build, run_pictures
from pyro_vae.experiment.config import Config
from pyro_vae.experiment.run.evaluation_data import DataReader
from pyro_vae.experiment.run.run_folder import Run
from pyro_vae.experiment.train import training_report
from pyro_vae.experiment.train.training_session import Session
from pyro_vae.option_words import Precision, words
from pyro_vae.randomness import derive, stream

CLASSES = 3


@pytest.fixture
def settings(tmp_path):
    """Labelled images of 8-bit levels, whose first pixel is twenty times the label."""
    y = np.arange(80) * 7 % CLASSES
    x = np.random.default_rng(0).integers(0, 256, (80, 4, 4), np.uint8)
    x[:, 0, 0] = 20 * y
    np.savez(tmp_path / "labelled.npz", x=x, y=y)
    sizes = {"latent_dim": 2, "hidden": (8,), "batch_size": 20, "epochs": 2, "elbo_samples": 30, "test_samples": 40}
    return Config(dataset=str(tmp_path / "labelled.npz"), **sizes)


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    """They take longer than all the rest, and have tests of their own."""
    for name in run_pictures.KEPT:
        row = run_pictures.PICTURES[name]
        monkeypatch.setitem(run_pictures.PICTURES, name, row._replace(draw=lambda view, key: b""))


def finished(folder, config):
    """A trained run with its report: the program, its data and what report.json says."""
    data = build.data(config)
    vae = build.vae(config, *data.form)
    build.start(config, vae, data)
    svi = build.svi(config, vae)
    run = Run(folder, config)
    session = Session.open(run, data, vae, svi)
    for record in session.fit():
        session.save(record)
    text = training_report.write(run, vae, data, session.progress)
    assert (folder / "report.txt").read_text(encoding="utf-8") == text + "\n"
    return vae, data, json.loads((folder / "report.json").read_bytes()), " ".join(text.split())


# Which data.


def test_all_test_data_are_reported_on_without_one_hot_labels_that_nobody_asked_for(settings):
    data = build.data(settings)
    x, y, labels = DataReader(settings, data.test, data.num_classes).whole()
    assert torch.equal(x, data.test.fixed())
    assert y is None
    assert torch.equal(labels, data.test.labels)


@pytest.mark.parametrize("size", [0, 5, 16, 100])
def test_labels_stay_with_the_test_data_that_were_chosen(settings, size):
    config = replace(settings, conditional=True, likelihood="categorical", test_data=size)
    data = build.data(config)
    x, y, labels = DataReader(config, data.test, data.num_classes).whole()
    assert len(x) == len(y) == len(labels) == (size if size == 5 else 16)
    assert torch.equal(x[:, 0, 0, 0], 20.0 * labels)
    assert y.tolist() == [[float(c == label) for c in range(CLASSES)] for label in labels.tolist()]
    everything = [row.tolist() for row in data.test.fixed().flatten(1)]
    places = [everything.index(row.tolist()) for row in x.flatten(1)]
    assert len(set(places)) == len(x)
    assert (places == list(range(len(x)))) == (size != 5)  # a random subset is not the first few


# Which numbers.


@pytest.mark.parametrize("conditional", [False, True])
@pytest.mark.parametrize("test_data", [0, 7])
def test_the_numbers_are_those_of_the_estimators_on_the_test_data(tmp_path, settings, conditional, test_data):
    config = replace(settings, conditional=conditional, test_data=test_data)
    vae, data, found, text = finished(tmp_path / "run", config)
    x, y, _ = DataReader(config, data.test, data.num_classes).whole()
    seed = derive(0, "evaluation")
    log_likelihood = pv.evaluation.iwae(vae, x, 40, y, seed)
    assert found["test"]["elbo"] == pv.evaluation.elbo(vae, x, 30, y, seed).to_dict()
    assert found["test"]["log_likelihood"] == log_likelihood.to_dict()
    assert f"log p(x{'|y' if conditional else ''}), nats {log_likelihood.mean:.3f}" in text
    assert ("classification" in found) == conditional


@pytest.mark.parametrize("binarize", ["dynamic", "threshold"])
def test_bits_of_binary_data(tmp_path, settings, binarize):
    _, _, found, text = finished(tmp_path / "run", replace(settings, binarize=binarize))
    bits = -found["test"]["log_likelihood"]["mean"] / (16 * math.log(2))
    assert found["test"]["bits_per_dim"]["mean"] == pytest.approx(bits, rel=1e-12)
    assert f"-log p(x), bits/dim {bits:.3f}" in text


@pytest.mark.parametrize(
    "likelihood", ["categorical", "poisson", "negative_binomial", *thorough("discretized_logistic")]
)
def test_bits_of_levels_and_counts(tmp_path, settings, likelihood):
    _, _, found, text = finished(tmp_path / "run", replace(settings, likelihood=likelihood))
    bits = -found["test"]["log_likelihood"]["mean"] / (16 * math.log(2))
    assert found["test"]["bits_per_dim"]["mean"] == pytest.approx(bits, rel=1e-12)
    assert f"-log p(x), bits/dim {bits:.3f}" in text
    # Levels of 8 bits that are nearly uniform have 8 bits each; learned from so few data they cost more, not less.
    assert bits > 7


def test_bits_of_dequantised_data_count_the_jacobian(tmp_path, settings):
    _, _, found, text = finished(tmp_path / "run", replace(settings, likelihood="normal", scale=0.3, dequantize=True))
    nats = -found["test"]["log_likelihood"]["mean"] + 16 * math.log(256)
    bits = nats / (16 * math.log(2))
    assert found["test"]["log_likelihood_of_levels"]["mean"] == pytest.approx(-nats, rel=1e-12)
    assert found["test"]["bits_per_dim"]["mean"] == pytest.approx(bits, rel=1e-12)
    assert f"-log p(level), bits/dim {bits:.3f}" in text
    assert bits > 8  # uniform levels under a density that is not uniform


@pytest.mark.parametrize("likelihood", ["normal", "laplace", "continuous_bernoulli", "low_rank_normal"])
def test_a_density_of_grey_levels_has_no_bits(tmp_path, settings, likelihood):
    _, _, found, text = finished(tmp_path / "run", replace(settings, likelihood=likelihood))
    assert "bits_per_dim" not in found["test"]
    assert "bits/dim" not in text


def test_the_scale_that_was_learned_and_its_floor_are_reported(tmp_path, settings):
    config = replace(settings, likelihood="normal", learn_scale="one", scale=0.2, scale_floor=0.01)
    vae, _, found, text = finished(tmp_path / "run", config)
    sigma = 0.01 + math.exp(vae.likelihood.learned_scale.raw.item())
    assert sigma != pytest.approx(0.2, abs=1e-4)
    assert found["likelihood"] == {"sigma": pytest.approx(sigma), "floor": 0.01, "learned": "one number"}
    assert f"likelihood: sigma {sigma:.6g}, floor 0.01, learned one number." in text


# Which precision.


@pytest.mark.parametrize("conditional", [False, True])
def test_networks_in_bfloat16_are_held_against_float32_ones(tmp_path, settings, conditional):
    config = replace(settings, precision="bfloat16", conditional=conditional)
    vae, data, found, text = finished(tmp_path / "run", config)
    x, y, _ = DataReader(config, data.test, data.num_classes).whole()
    rounded = pv.evaluation.elbo(vae, x, 30, y, derive(0, "evaluation"))
    with pv.networks.in_precision(vae, "float32"):
        exact = pv.evaluation.elbo(vae, x, 30, y, derive(0, "evaluation"))
    lost, said = exact.value - rounded.value, found["precision"]
    assert found["test"]["elbo"] == rounded.to_dict()
    assert said["mean"] == pytest.approx(lost.mean().item(), abs=1e-12)
    assert said["standard_error"] == pytest.approx(lost.std().item() / 4, abs=1e-12)
    assert said["mean_absolute"] == pytest.approx(lost.abs().mean().item(), abs=1e-12)
    assert said["largest"] == pytest.approx(lost.abs().max().item(), abs=1e-12)
    assert 0 < said["monte_carlo_error"] < rounded.monte_carlo_error / 10
    assert (said["num_samples"], said["num_data"], said["unit"]) == (30, 16, "nats")
    assert f"draws: {lost.mean().item():+.2g} nats, ± {lost.std().item() / 4:.2g} over 16 data" in text
    assert f"moves by {lost.abs().mean().item():.2g} on average, by {lost.abs().max().item():.2g} at most." in text


def test_a_run_in_bfloat16_is_loaded_in_it_and_one_in_float32_says_nothing_of_it(tmp_path, settings):
    made = {}
    for precision in words(Precision):
        folder = tmp_path / precision
        vae, _, found, text = finished(folder, replace(settings, precision=precision))
        assert ("precision" in found) == ("bfloat16" in text) == (precision == "bfloat16")
        assert {network.precision for network in pv.networks.networks(pv.load(folder))} == {precision}
        made[precision] = vae.tensors()
    assert made["float32"].keys() == made["bfloat16"].keys()
    moved = max((made["float32"][name] - made["bfloat16"][name]).abs().max() for name in made["float32"])
    assert 0 < moved < 0.05  # trained in it, too: eight steps of Adam at 3e-3


def test_an_autoencoder_in_bfloat16_is_held_against_its_reconstruction(tmp_path, settings):
    config = replace(settings, posterior="delta", kl_weight=0.0, likelihood="normal", precision="bfloat16")
    _, _, found, text = finished(tmp_path / "run", config)
    assert found["precision"]["name"] == "reconstruction, float32 - bfloat16"
    assert "networks in bfloat16. reconstruction, float32 - bfloat16" in text


# Which classes.


def test_the_classes_are_those_of_bayes_rule_with_the_frequencies_of_training(tmp_path, settings):
    config = replace(settings, conditional=True, binarize="threshold", epochs=3)
    vae, data, found, text = finished(tmp_path / "run", config)
    x, _, labels = DataReader(config, data.test, data.num_classes).whole()
    frequencies = torch.tensor([(data.train.labels == c).double().mean() for c in range(CLASSES)])
    joint = [
        pv.evaluation.iwae(vae, x, 30, torch.eye(CLASSES)[[c] * len(x)], derive(0, "evaluation")).value
        + frequencies[c].log()
        for c in range(CLASSES)
    ]
    posterior = torch.stack(joint).log_softmax(0)
    right = posterior.argmax(0) == labels
    classes = found["classification"]
    assert classes["accuracy"] == pytest.approx(right.double().mean().item())
    assert classes["log_p_of_true_class"] == pytest.approx(posterior[labels, torch.arange(16)].mean().item(), abs=1e-6)
    assert (classes["num_samples"], classes["num_data"]) == (30, 16)
    assert f"p(y): {right.double().mean().item():.1%} right" in text
    commonest = max(range(CLASSES), key=lambda c: int((data.train.labels == c).sum()))
    share = (labels == commonest).double().mean().item()
    assert (classes["majority_class"], classes["majority_share"]) == (commonest, pytest.approx(share))
    assert f"Always guessing the commonest training class: {share:.1%} right." in text


def test_a_class_that_the_training_data_lack_does_not_spoil_the_report(tmp_path, settings):
    """p(y) = 0 for class 2, which every test datum has: none can be right, and its log-probability is no number."""
    source = np.random.default_rng(0)
    parts = {"train": 40, "valid": 10, "test": 10}
    images = {f"x_{name}": source.random((size, 4)) < 0.5 for name, size in parts.items()}
    labels = {f"y_{name}": np.arange(size) % 2 if name != "test" else np.full(size, 2) for name, size in parts.items()}
    np.savez(tmp_path / "given.npz", **images, **labels)
    config = replace(settings, dataset=str(tmp_path / "given.npz"), conditional=True)
    _, _, found, _ = finished(tmp_path / "run", config)
    assert found["classification"]["accuracy"] == 0.0
    assert found["classification"]["log_p_of_true_class"] is None


# Beside them.


@pytest.mark.parametrize(
    ("likelihood", "test_data", "conditional", "names"),
    [
        ("bernoulli", 7, False, ["Bernoulli by pixel"]),
        ("normal", 0, True, ["independent normals", "full-covariance normal"]),
        *thorough(
            ("bernoulli", 0, True, ["Bernoulli by pixel"]),
            ("categorical", 7, True, ["level frequencies by pixel"]),
            ("discretized_logistic", 0, False, ["level frequencies by pixel"]),
            ("poisson", 7, False, ["Poisson by column", "negative binomial by column"]),
            ("continuous_bernoulli", 7, False, ["independent normals", "full-covariance normal"]),
        ),
    ],
)
def test_baselines_see_the_test_data_of_the_headline(tmp_path, settings, likelihood, test_data, conditional, names):
    config = replace(settings, likelihood=likelihood, test_data=test_data, conditional=conditional)
    vae, data, found, text = finished(tmp_path / "run", config)
    x, y, _ = DataReader(config, data.test, data.num_classes).whole()
    made = pv.evaluation.baselines(data.train, x, y, support=vae.likelihood.support)
    program = pv.evaluation.iwae(vae, x, 40, y, derive(0, "evaluation"))
    rows = found["baselines"]["rows"]
    assert [row["name"] for row in rows] == list(made.estimates) == names
    assert found["baselines"]["by_class"] == conditional
    for row, estimate in zip(rows, made.estimates.values(), strict=True):
        difference = pv.evaluation.paired(program, estimate)
        assert (row["mean"], row["num_data"]) == (estimate.mean, len(x))
        assert row["difference"] == json.loads(json.dumps(difference.to_dict()))
        low, high = difference.interval
        assert row["verdict"] == ("better" if low > 0 else "worse" if high < 0 else "no difference shown")
        line = f"{row['name']} {row['mean']:.3f} {difference.mean:+.3f} [{low:+.3f}, {high:+.3f}] {row['verdict']}"
        assert line in text or abs(difference.mean) > 900
    assert f"baseline{', by class' if conditional else ''} log p(x{'|y' if conditional else ''})" in text


def test_a_constant_pixel_leaves_a_sentence(tmp_path, settings):
    x = np.random.default_rng(0).random((80, 4, 4))
    x[:, 1, 2] = 0.25
    np.savez(tmp_path / "constant.npz", x=x.astype(np.float32))
    config = replace(settings, dataset=str(tmp_path / "constant.npz"), likelihood="normal")
    _, _, found, text = finished(tmp_path / "run", config)
    assert found["baselines"]["rows"] == []
    assert "baselines: independent normals: no density, since 1 of 16 columns are constant in the training" in text
    assert "program - it" not in text


# Which pictures.


@pytest.mark.thorough
@pytest.mark.parametrize("conditional", [False, True])
@pytest.mark.parametrize(("likelihood", "white"), [("bernoulli", 1.0), ("categorical", 255.0)])
def test_the_pictures_are_of_the_chosen_classes_with_the_highest_level_white(
    tmp_path, settings, monkeypatch, conditional, likelihood, white
):
    asked = {}
    for name in ("samples", "reconstructions"):

        def spy(view, key, name=name):
            assert (key.black, key.white) == (0, white)
            asked[name] = view
            return b"a picture"

        row = run_pictures.PICTURES[name]
        monkeypatch.setitem(run_pictures.PICTURES, name, row._replace(draw=spy))
    config = replace(settings, conditional=conditional, likelihood=likelihood)
    vae, *_ = finished(tmp_path / "run", config)
    y = torch.eye(CLASSES).repeat_interleave(8, 0) if conditional else None
    view = asked["samples"]
    with stream(0, "samples"):
        assert torch.equal(view.mean, vae.generate(64 if y is None else None, y, mean=True))
    assert len(view.x) == (24 if conditional else 64)
    view = asked["reconstructions"]
    assert (len(view.x), view.mean.shape[:2], view.log_likelihood_of_draws) == (12, (4, 12), None)
    test = DataReader(config, build.data(config).test, CLASSES).whole()
    chosen = subset(len(test.x), 12, 0)
    assert torch.equal(view.x, test.x[chosen])
    with stream(0, "reconstructions"):
        again = vae.reconstruct(view.x, test.y[chosen] if conditional else None, num_samples=4)
    assert torch.equal(view.mean, again)
    assert (tmp_path / "run/samples.png").read_bytes() == b"a picture"


# The plain autoencoder.


@pytest.mark.parametrize("conditional", [False, True])
def test_an_autoencoder_is_reported_by_what_it_reconstructs(tmp_path, settings, conditional):
    config = replace(settings, posterior="delta", kl_weight=0.0, likelihood="normal", conditional=conditional)
    vae, data, found, text = finished(tmp_path / "run", config)
    x, y, _ = DataReader(config, data.test, data.num_classes).whole()
    with torch.no_grad():
        p = vae.likelihood(vae.posterior(x, y).v, y)
    rmse = [math.sqrt(((a - b) ** 2).mean().item()) for a, b in zip(p.mean, x, strict=True)]
    assert found["test"].keys() == {"reconstruction", "rmse"}
    assert found["test"]["rmse"]["mean"] == pytest.approx(sum(rmse) / 16, rel=1e-5)
    assert found["test"]["reconstruction"]["mean"] == pytest.approx(p.log_prob(x).mean().item(), rel=1e-5)
    assert found["objective"]["loss"] == pytest.approx(-found["test"]["reconstruction"]["mean"])
    assert found["autoencoder"] == {"numbers_in": 16, "numbers_in_code": 2}
    assert "16 numbers in, 2 in the code" in text
    assert found["training"]["valid_elbo"] is None
    assert "classification" not in found
    assert "baselines" not in found


def test_an_evaluation_of_an_earlier_state_is_removed(tmp_path, settings):
    (tmp_path / "run").mkdir()
    for name in (*training_report.EVALUATED, "notes.md"):
        (tmp_path / "run" / name).write_text("of the model before")
    finished(tmp_path / "run", settings)
    left = {path.name for path in (tmp_path / "run").iterdir()}
    assert not left & set(training_report.EVALUATED)
    assert "notes.md" in left
