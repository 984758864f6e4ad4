"""Opening a finished run: the program at its best epoch, and the very data it was trained and tested on."""

import dataclasses

import numpy as np
import pytest
import torch

import pyro_vae as pv
from pyro_vae.errors import CheckpointError
from pyro_vae.experiment import build
from pyro_vae.experiment.config import Config
from pyro_vae.experiment.run.run_folder import Run
from pyro_vae.experiment.run.trained_run import open_run
from pyro_vae.experiment.train.training_session import Session


@pytest.fixture
def run(tmp_path):
    x = np.random.default_rng(0).integers(0, 256, (80, 4, 4), np.uint8)
    np.savez(tmp_path / "labelled.npz", x=x, y=np.arange(80) % 3)
    config = Config(
        dataset=str(tmp_path / "labelled.npz"), latent_dim=2, hidden=(8,), batch_size=20, epochs=3, test_data=7
    )
    data = build.data(config)
    vae = build.vae(config, *data.form)
    svi = build.svi(config, vae)
    session = Session.open(Run(tmp_path / "run", config), data, vae, svi)
    for record in session.fit():
        session.save(record)
    return session.run


def test_it_holds_the_best_program_and_the_same_data(run):
    found = open_run(run.path)
    expected = pv.load(run.path)
    assert all(torch.equal(a, b) for a, b in zip(found.vae.parameters(), expected.parameters(), strict=True))
    assert found.epochs == 3
    assert found.best_epoch == max(record["epoch"] for record in run.history.records() if record["best"])
    assert len(found.test().x) == 7
    assert torch.equal(found.test(0).x, build.data(run.config).test.fixed())
    assert len(found.training().x) == len(found.data.train)
    assert len(found.training(5).labels) == 5
    assert found.test().y is None
    assert found.run.status.read()["seeds"] == {"seed": 0, "data_seed": 0}


def test_data_may_have_moved_and_must_be_the_same(run, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "labelled.npz").rename(tmp_path / "elsewhere" / "labelled.npz")
    assert len(open_run(run.path, data_dir=str(tmp_path / "elsewhere")).test().x) == 7
    with np.load(tmp_path / "elsewhere" / "labelled.npz") as old:
        np.savez(tmp_path / "elsewhere" / "labelled.npz", x=old["x"][::-1], y=old["y"])
    with pytest.raises(CheckpointError, match="was trained on other data"):
        open_run(run.path, data_dir=str(tmp_path / "elsewhere"))


def test_what_is_no_run_is_said_in_a_sentence(run, tmp_path):
    with pytest.raises(CheckpointError, match=r"holds no trained run \(there is no such folder\): name the folder"):
        open_run(tmp_path / "nothing")
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "config.json").write_bytes((run.path / "config.json").read_bytes())
    with pytest.raises(CheckpointError, match="has no checkpoint yet"):
        open_run(tmp_path / "begun")


def test_a_member_of_the_users_own_is_passed_in(run):
    class Own(pv.priors.Prior):
        def forward(self, y=None):
            return torch.distributions.Laplace(self.loc, self.scale)

    assert isinstance(open_run(run.path, prior=Own(2)).vae.prior, Own)
    assert dataclasses.is_dataclass(open_run(run.path))
