"""Every prior with every posterior and every likelihood: steps of each pair, and an epoch through the command line.

A fifth of them, in which each pair of members meets, is built and stepped by an ordinary test, and trained and reported
by a thorough one; the others, two minutes, are marked slow. A dozen go through the command line in any case.
"""

import json
import math
import runpy
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from cases import all_but, covering
from scripted import exit_code

import pyro_vae as pv
from pyro_vae.errors import UsageError
from pyro_vae.experiment import build, tables
from pyro_vae.experiment.config import Config

pytestmark = pytest.mark.usefixtures("sketched")

MAIN = runpy.run_path(str(Path(__file__).parents[2] / "scripts" / "train_svi.py"))["main"]
SMALL = [
    "--hidden", "4", "--latent-dim", "2", "--num-components", "3", "--flow-hidden", "4", "--flow-transforms", "2",
    "--epochs", "1", "--batch-size", "20", "--valid-samples", "1", "--test-samples", "4", "--elbo-samples", "2",
]  # fmt: skip
# Pairs of p(z) and q(z|x) whose KL has a closed form.
CLOSED = {*product(("standard", "diagonal", "full", "conditional"), ("diagonal", "full", "low_rank"))}
CLOSED |= {("laplace", "diagonal")}

# What makes no sense, and the words in which it is refused.
REFUSED = {
    ("delta", "diagonal"): "the parameters of --prior diagonal would not be trained",
    ("delta", "full"): "the parameters of --prior full would not be trained",
    ("delta", "mixture"): "the parameters of --prior mixture would not be trained",
    ("delta", "vamp"): "a VampPrior is a mixture of the guide's densities, but a Delta posterior has no density",
    ("delta", "flow"): "the parameters of --prior flow would not be trained",
    ("delta", "conditional"): "the parameters of --prior conditional would not be trained",
}


@pytest.fixture(scope="module")
def levels(tmp_path_factory):
    """Sixty labelled data of four 8-bit levels: binarised, scaled or counted as each likelihood asks."""
    path = tmp_path_factory.mktemp("data") / "levels.npz"
    source = np.random.default_rng(0)
    np.savez(path, x=source.integers(0, 256, (60, 4), np.uint8), y=np.arange(60) % 3)
    return str(path)


def run(folder, data, prior, posterior, likelihood):
    """The exit code; a plain autoencoder and a prior given y get the one flag that they ask for."""
    flags = ["--kl-weight", "0"] if posterior == "delta" else []
    flags += ["--conditional"] if prior == "conditional" else []
    members = ["--prior", prior, "--posterior", posterior, "--likelihood", likelihood]
    return exit_code(MAIN, ["--dataset", data, "--out", folder, *SMALL, *members, *flags])


TABLES = tables.PRIORS, tables.POSTERIORS, tables.LIKELIHOODS
FEW = {*covering(*TABLES), ("standard", "delta", "bernoulli")}
PAIRS = [
    (prior, posterior, likelihood)
    for (i, prior), (j, posterior), (k, likelihood) in product(*map(enumerate, TABLES))
    if (i + k) % len(tables.POSTERIORS) == j
]
# A mixture of logistics takes longest.
QUICK = [names for names in PAIRS if names[2] != "discretized_logistic" or names[:2] == ("mixture", "full")]


@pytest.mark.parametrize(("prior", "posterior", "likelihood"), all_but(QUICK[::3], PAIRS))
def test_each_pair_of_members_steps(levels, prior, posterior, likelihood):
    conditional = prior == "conditional"
    config = Config(
        dataset=levels, prior=prior, posterior=posterior, likelihood=likelihood, conditional=conditional, latent_dim=2,
        hidden=(4,), activation="tanh", num_components=3, flow_hidden=(4,), flow_transforms=2,
        kl_weight=float(posterior != "delta"),
    )  # fmt: skip
    if (posterior, prior) in REFUSED:
        with pytest.raises(UsageError):
            build.vae(config, (4,), num_classes=3)
        return
    data = build.data(config)
    vae = build.vae(config, *data.form)
    build.start(config, vae, data)
    svi, (x, y) = build.svi(config, vae), next(iter(data.train.batches(20, seed=0, epoch=0)))
    labels = [pv.data.one_hot(y, 3)] if conditional else []
    before = {name: parameter.clone() for name, parameter in vae.named_parameters()}
    for _ in range(3):
        assert math.isfinite(svi.step(x, *labels, kl_weight=config.kl_weight))
    assert [name for name, parameter in vae.named_parameters() if torch.equal(parameter, before[name])] == []


def combinations():
    for names in product(*TABLES):
        mark = [] if names in FEW else pytest.mark.thorough if names in PAIRS else pytest.mark.slow
        yield pytest.param(*names, marks=mark)


@pytest.mark.parametrize(("prior", "posterior", "likelihood"), list(combinations()))
def test_it_trains_and_reports_or_says_why_not(tmp_path, levels, capsys, prior, posterior, likelihood):
    code = run(tmp_path / "run", levels, prior, posterior, likelihood)
    if (posterior, prior) in REFUSED:
        message = capsys.readouterr().err
        assert (code, message.count("\n")) == (2, 1)
        assert REFUSED[posterior, prior] in message
        assert not (tmp_path / "run").exists()
        return
    assert code == 0
    test = json.loads((tmp_path / "run" / "report.json").read_bytes())["test"]
    assert all(math.isfinite(numbers["mean"]) for numbers in test.values())
    if posterior == "delta":
        assert set(test) - {"bits_per_dim"} == {"reconstruction", "rmse"}
        return
    assert test["kl"]["kind"] == {"z": "analytic" if (prior, posterior) in CLOSED else "sampled"}
    elbo = test["reconstruction"]["mean"] - test["kl"]["mean"]
    assert test["elbo"]["mean"] == pytest.approx(elbo, abs=1e-9 * abs(elbo) + 1e-9)
    assert test["log_likelihood"]["num_samples"] == 4


def test_delta_asks_for_the_weight_that_it_needs(tmp_path, levels, capsys):
    with pytest.raises(SystemExit, match="2"):
        MAIN(["--dataset", levels, "--out", str(tmp_path / "run"), *SMALL, "--posterior", "delta"])
    assert "train a plain autoencoder with --kl-weight 0, not 1" in capsys.readouterr().err


def test_a_conditional_prior_asks_for_labels(tmp_path, levels, capsys):
    with pytest.raises(SystemExit, match="2"):
        MAIN(["--dataset", levels, "--out", str(tmp_path / "run"), *SMALL, "--prior", "conditional"])
    assert "train with --conditional" in capsys.readouterr().err
