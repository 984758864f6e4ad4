"""Finished runs that take milliseconds: what scripts that look back at runs are tested on."""

from pathlib import Path

import numpy as np

from pyro_vae.experiment import build
from pyro_vae.experiment.config import Config
from pyro_vae.experiment.run import files
from pyro_vae.experiment.run.run_folder import Run
from pyro_vae.experiment.run.trained_run import open_run
from pyro_vae.experiment.train.training_session import Session

SMALL = {"latent_dim": 2, "hidden": (8,), "batch_size": 50, "epochs": 2, "lr": 0.01}


def images(path, size=80, seed=0):
    """Grey images of 4 x 4 pixels with labels of three classes, as an .npz file. Returns its path as text."""
    x = np.random.default_rng(seed).integers(0, 256, (size, 4, 4), np.uint8)
    np.savez(path, x=x, y=np.arange(size) % 3)
    return str(path)


def finished_run(folder, dataset, **settings):
    """Trains a run in this folder, without its report. Returns the folder."""
    config = Config(dataset=dataset, **{**SMALL, **settings})
    data = build.data(config)
    vae = build.vae(config, *data.form)
    build.start(config, vae, data)
    svi = build.svi(config, vae)
    run = Run(Path(folder), config)
    session = Session.open(run, data, vae, svi)
    for record in session.fit():
        session.save(record)
    run.status.set("finished")
    return run.path


def content(folder):
    """Every file below a folder, by its path, with its digest."""
    paths = (path for path in sorted(Path(folder).rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): files.sha256(path.read_bytes()) for path in paths}


def make_run(folder, **settings):
    """Trains a run below this folder, on data below it as well, and opens it."""
    few = {"test_samples": 20, "elbo_samples": 10, "batch_size": 20}
    return open_run(finished_run(folder / "run", images(folder / "labelled.npz"), **{**few, **settings}))


def flip(path, bit):
    """Damages a file by one bit."""
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)
