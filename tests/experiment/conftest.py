"""A data set and a program so small that an epoch takes milliseconds."""

import numpy as np
import pytest

from pyro_vae.experiment import build
from pyro_vae.experiment.config import Config
from pyro_vae.experiment.run import checkpoint
from pyro_vae.experiment.run.checkpoint import Checkpoint
from pyro_vae.inference import Progress, fit


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "tiny.npy"
    np.save(path, np.random.default_rng(0).random((60, 6)) < np.linspace(0.1, 0.9, 6))
    return Config(dataset=str(path), latent_dim=2, hidden=(8,), batch_size=16, epochs=5, lr=0.01)


@pytest.fixture
def trained(config, tmp_path):
    """A program after five epochs, with a checkpoint of each of the last three in `folder`."""

    class Trained:
        folder = tmp_path / "checkpoints"
        data = build.data(config)
        vae = build.vae(config, *data.form)
        svi = build.svi(config, vae)
        progress = Progress()

        def save(self, folder):
            state = self.svi.optimizer.state_dict()
            reached = Checkpoint(config, self.data.form, self.progress, self.vae.tensors(), state)
            return checkpoint.save(folder, reached)

    made = Trained()
    made.folder.mkdir()
    epochs = fit(made.vae, made.svi, made.data, build.schedule(config, len(made.data.train)), progress=made.progress)
    for _ in range(config.epochs):  # not to the generator's end, which puts the best state into the program
        next(epochs)
        made.save(made.folder)
    return made
