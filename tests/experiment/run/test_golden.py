"""Runs of earlier versions, in tests/golden/, open for ever: a folder for each schema of checkpoints.

A new schema gets a folder of its own, made by the commands in the run.json files; what is there is never made again.
"""

import json
import math
import runpy
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from cases import all_but
from scipy.special import logsumexp

import pyro_vae as pv
from pyro_vae.errors import CheckpointError
from pyro_vae.evaluation.trust import arviz_adapter
from pyro_vae.experiment.run import checkpoint, manifest
from pyro_vae.experiment.run.run_folder import Run
from pyro_vae.experiment.run.trained_run import open_run

GOLDEN = Path(__file__).parents[2] / "golden"
RUNS = sorted(path.parent for path in GOLDEN.glob("*/*/run.json"))
TRAIN = Path(__file__).parents[3] / "scripts" / "train_svi.py"

# log p(x) of the first three test data by quadrature, which draws nothing; in nats.
LOG_P = {
    "standard": [-25.62221, -32.86200, -22.72795],
    "vamp": [-108.45271, -114.00571, -93.73277],
    "flow": [-160.49020, -209.82417, -86.28307],
    "stopped": [-25.37813, -32.94265, -22.76100],
    "table": [-16.88538, -17.54761, -18.16449],
    "counts": [-35.54965, -38.77275, -40.58081],
    "gaps": [-11.80833, -2.99580, -3.85584],
    "labels": [-20.73726, -20.37253, -20.58071],
}


def named(path):
    return "-".join(path.parts[-2:])


@pytest.fixture(params=RUNS, ids=named)
def run(request, tmp_path, monkeypatch):
    if (own := request.param.parent / "data").exists():
        monkeypatch.chdir(own)  # where the files of its runs lie
    return shutil.copytree(request.param, tmp_path / request.param.name)


def test_every_schema_has_its_runs():
    assert {path.name for path in GOLDEN.iterdir()} == {f"schema-{i}" for i in range(1, manifest.SCHEMA + 1)}


def test_a_run_of_an_earlier_version_opens_with_its_numbers(run):
    trained = open_run(run)
    x, y, _ = trained.test()
    found = pv.evaluation.quadrature(trained.vae, x[:3], None if y is None else y[:3])
    assert found.value.tolist() == pytest.approx(LOG_P[run.name], abs=1e-4)  # float32 networks, on another machine


FEW = [path for path in RUNS if path.name in ("standard", "table", "gaps")]


@pytest.mark.thorough
@pytest.mark.parametrize("run", all_but(FEW, RUNS), ids=named, indirect=True)
def test_a_run_of_an_earlier_version_goes_on(run, tmp_path):
    epochs = json.loads((run / "config.json").read_bytes())["epochs"] + 1
    runpy.run_path(str(TRAIN))["main"](["--out", str(run), "--resume", "--epochs", str(epochs)])
    assert Run(run, open_run(run).config).status.now() == "finished"
    assert [record["epoch"] for record in Run(run, open_run(run).config).history.records()] == list(
        range(1, epochs + 1)
    )


def test_a_run_that_was_stopped_within_an_epoch_ends_as_one_that_was_not(tmp_path):
    runs = shutil.copytree(GOLDEN / "schema-2", tmp_path / "runs")
    runpy.run_path(str(TRAIN))["main"](["--out", str(runs / "stopped"), "--resume"])
    ends = [checkpoint.newest(runs / name / "checkpoints")[0] for name in ("stopped", "standard")]
    assert ends[0].progress.epoch == ends[1].progress.epoch == 2
    for name, tensor in ends[0].program.items():
        torch.testing.assert_close(tensor, ends[1].program[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("schema", sorted(GOLDEN.iterdir()), ids=lambda path: path.name)
def test_draws_of_an_earlier_version_open(schema):
    found = arviz_adapter.read_netcdf(schema / "standard" / "log_likelihood.nc")
    weights = found.sample_stats["log_weight"].values[0]
    reported = json.loads((schema / "standard" / "report.json").read_bytes())["test"]["log_likelihood"]
    assert weights.shape == (60, 12)
    assert np.mean(logsumexp(weights, axis=0) - math.log(60)) == pytest.approx(reported["mean"], abs=1e-5)
    assert found.posterior["z"].shape == (1, 60, 12, 2)
    assert found.log_likelihood["x"].shape == (1, 60, 12)
    assert found.observed_data["x"].shape == (12, 1, 8, 8)


def test_a_run_of_a_later_version_is_refused_with_advice(run, capsys):
    for path in checkpoint.manifests(run / "checkpoints"):
        body = manifest.read(path)
        path.write_bytes(manifest.sealed({**body, "schema": 99, "tensors": "in another form"}))
    with pytest.raises(CheckpointError, match="has schema 99, this version reads up to 3: update pyro_vae"):
        pv.load(run)
    with pytest.raises(SystemExit, match="4"):
        runpy.run_path(str(TRAIN))["main"](["--out", str(run), "--resume", "--epochs", "9"])
    assert "update pyro_vae" in capsys.readouterr().err
