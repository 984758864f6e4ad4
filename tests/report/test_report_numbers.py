"""The report: its structure, its signs, its two errors, and that its text says what its numbers say."""

import json
import math
import re

import pyro
import pytest
import torch

import pyro_vae as pv
from pyro_vae.evaluation import Estimate
from pyro_vae.experiment import storage
from pyro_vae.report import numbers

PROTOCOL = {
    "name": "toy",
    "shape": [1, 2, 3],
    "split": {"kind": "random", "given": [], "sizes": {"train": 7, "valid": 1, "test": 2}},
    "binarization": {"kind": "none", "sentence": "Not binarised."},
    "dequantized": None,
    "notes": ["A note."],
}
LEVELS = {
    **PROTOCOL,
    "dequantized": {"num_levels": 256, "log_jacobian": -6 * math.log(256), "sentence": "Noise within a level."},
}
CONFIG = {"objective": "trace_elbo", "num_particles": 1, "kl_weight": 1.0, "reconstruction_weight": 1.0, "seed": 3}
OBJECTIVE = {name: value for name, value in CONFIG.items() if name != "seed"}
TRAINING = {"epochs": 3, "best_epoch": 2, "valid_elbo": -4.0}


def estimate(name, values, errors, num_samples=5, **kind):
    tensors = (torch.tensor(v, dtype=torch.float64) for v in (values, errors))
    return Estimate(name, *tensors, num_samples=num_samples, **kind)


@pytest.fixture
def estimates():
    kind = {"kind": {"z": "analytic"}}
    return {
        "elbo": estimate("ELBO", [-5.0, -8.0], [0.3, 0.4], **kind),
        "reconstruction": estimate("reconstruction", [-3.0, -7.0], [0.3, 0.4], **kind),
        "kl": estimate("KL", [2.0, 1.0], [0.0, 0.0], **kind),
        "log_likelihood": estimate("log p(x)", [-4.0, -7.0], [0.06, 0.08], num_samples=100),
    }


def report(estimates, protocol=PROTOCOL, **weights):
    found = numbers.to_dict(estimates, protocol, TRAINING, {**CONFIG, **weights})
    return json.loads(storage.to_json(found)), numbers.to_text(found)


LABELS = {
    "elbo": "ELBO, nats",
    "reconstruction": "reconstruction, nats",
    "kl": "KL, nats",
    "log_likelihood": "log p(x), nats",
    "log_likelihood_of_levels": "log p(level), nats",
    "bits_per_dim": "-log p(level), bits/dim",
}


def rows(text):
    """label -> [mean, standard error, Monte Carlo error, draws, data], as printed."""
    table = text.split("\n\n")[0].splitlines()[1:]
    return {line[:24].strip(): line[24:].split() for line in table}


def test_the_numbers_are_those_of_a_hand_calculation(estimates):
    found, _ = report(estimates)
    # sd((-5, -8)) / sqrt(2) = 1.5 and sqrt(0.3^2 + 0.4^2) / 2 = 0.25
    assert found["test"]["elbo"] == {
        "mean": -6.5, "standard_error": pytest.approx(1.5), "monte_carlo_error": pytest.approx(0.25),
        "num_samples": 5, "num_data": 2, "unit": "nats", "kind": {"z": "analytic"},
    }  # fmt: skip


def test_the_structure_is_the_promised_one(estimates):
    found, _ = report(estimates)
    promised = {"mean", "standard_error", "monte_carlo_error", "num_samples", "num_data", "unit"}
    assert set(found) == {"test", "objective", "training", "config", "protocol"}
    assert set(found["test"]) == {"elbo", "reconstruction", "kl", "log_likelihood"}
    assert all(promised <= entry.keys() <= promised | {"kind"} for entry in found["test"].values())
    assert (found["protocol"], found["training"], found["config"]) == (PROTOCOL, TRAINING, CONFIG)
    assert found["objective"] == OBJECTIVE


@pytest.mark.parametrize("protocol", [PROTOCOL, LEVELS])
def test_the_text_holds_the_numbers_of_the_json(estimates, protocol):
    found, text = report(estimates, protocol)
    printed = rows(text)
    assert {LABELS[name] for name in found["test"]} == printed.keys()
    for name, entry in found["test"].items():
        row = printed[LABELS[name]]
        errors = entry["mean"], entry["standard_error"], entry["monte_carlo_error"]
        assert row == [*(f"{value:.3f}" for value in errors), str(entry["num_samples"]), str(entry["num_data"])]


def test_the_text_names_both_errors_and_the_kind_of_kl(estimates):
    _, text = report(estimates)
    assert "± over data" in text.splitlines()[0]
    assert "± Monte Carlo" in text.splitlines()[0]
    assert "KL: z analytic." in text
    assert "toy, random split 7 / 1 / 2. Not binarised." in text
    assert text.endswith("A note.")


def test_the_columns_stand_under_their_heads(estimates):
    _, text = report(estimates, LEVELS)
    assert len({len(line) for line in text.split("\n\n")[0].splitlines()}) == 1


def test_a_weighted_run_shows_its_loss_beside_the_true_elbo(estimates):
    found, text = report(estimates, kl_weight=0.5, reconstruction_weight=2.0)
    # 2 * 5 + 0.5 * 1.5, from the means -5 and 1.5
    weights = {"kl_weight": 0.5, "reconstruction_weight": 2.0}
    assert found["objective"] == {**OBJECTIVE, **weights, "loss": pytest.approx(10.75)}
    assert found["test"]["elbo"]["mean"] == -6.5
    assert "reconstruction_weight=2, kl_weight=0.5" in " ".join(text.split())
    assert "10.750 nats, which is no bound" in " ".join(text.split())
    assert rows(text)["ELBO, nats"][0] == "-6.500"


def test_bits_per_dimension_are_those_of_a_hand_calculation(estimates):
    found, text = report(estimates, LEVELS)
    levels, bits = found["test"]["log_likelihood_of_levels"], found["test"]["bits_per_dim"]
    # log2 p = (-5.5 - 6 ln 256) / ln 2 = -5.5 / ln 2 - 48 over 6 numbers of 8 bits each
    assert levels["mean"] == pytest.approx(-5.5 - 6 * math.log(256))
    assert bits["mean"] == pytest.approx(8 + 5.5 / math.log(2) / 6)
    assert bits["standard_error"] == pytest.approx(1.5 / math.log(2) / 6)
    assert bits["monte_carlo_error"] == pytest.approx(0.05 / math.log(2) / 6)
    assert bits["unit"] == "bits/dim"
    assert rows(text)["-log p(level), bits/dim"][0] == f"{8 + 5.5 / math.log(2) / 6:.3f}"


def test_a_report_on_dequantised_data_describes_them_as_such(estimates):
    _, text = report(estimates, LEVELS)
    assert "Noise within a level." in text
    assert "Not binarised." not in text


def test_what_one_datum_and_one_draw_can_not_tell_is_null_not_nan(estimates):
    nan = math.nan
    single = {
        name: estimate(name, [e.mean], [nan], num_samples=1, kind=e.kind) for name, e in estimates.items()
    }  # fmt: skip
    for protocol in (PROTOCOL, LEVELS):
        found, text = report(single, protocol)
        entries = found["test"].values()
        assert {(e["standard_error"], e["monte_carlo_error"]) for e in entries} == {(None, None)}
        assert all(row[1:3] == ["n/a", "n/a"] for row in rows(text).values())
        assert not re.search(r"\bnan\b", text)


@pytest.fixture
def vae():
    torch.manual_seed(0)
    return pv.VAE(
        pv.priors.StandardNormal(2),
        pv.posteriors.DiagonalNormal(pv.networks.MLP((1, 4, 4), (4,), (8,)), 2),
        pv.likelihoods.Bernoulli(pv.networks.MLP((2,), (1, 4, 4), (8,))),
    )


def test_measure_gives_the_four_estimates_with_their_signs(vae):
    x = torch.ones(6, 1, 4, 4)
    found = numbers.measure(vae, x, elbo_samples=50, likelihood_samples=70, seed=1)
    means = {name: e.mean for name, e in found.items()}
    assert means["elbo"] == pytest.approx(means["reconstruction"] - means["kl"])
    assert means["elbo"] < means["log_likelihood"] < 0 < means["kl"]
    assert [e.num_samples for e in found.values()] == [50, 50, 50, 70]
    assert found["kl"].kind == {"z": "analytic"}


def test_measure_is_reproducible_and_leaves_no_trace(vae):
    x = torch.ones(3, 1, 4, 4)
    before = torch.random.get_rng_state()
    flags = [module.training for module in vae.modules()]
    store = pyro.get_param_store()
    with store.scope():
        pyro.param("mine", torch.ones(1))
        first, again = (numbers.measure(vae, x, elbo_samples=4, likelihood_samples=4, seed=1) for _ in range(2))
        assert list(store) == ["mine"]
    assert all(torch.equal(first[name].value, again[name].value) for name in first)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert [module.training for module in vae.modules()] == flags
