"""Small trained runs, for tests of what is done to a run afterwards."""

import numpy as np

from pyro_vae.experiment import build
from pyro_vae.experiment.config import Config
from pyro_vae.experiment.run import Run
from pyro_vae.experiment.trained import open_run
from pyro_vae.inference import Progress, fit


def make_run(folder, **settings):
    """Opens a run of two epochs on 80 labelled grey images of 4 x 4 pixels, which it trains first."""
    data = folder / "labelled.npz"
    x = np.random.default_rng(0).integers(0, 256, (80, 4, 4), np.uint8)
    np.savez(data, x=x, y=np.arange(80) % 3)
    small = {"latent_dim": 2, "hidden": (8,), "batch_size": 20, "epochs": 2, "test_samples": 20, "elbo_samples": 10}
    config = Config(**{"dataset": str(data), **small, **settings})
    data = build.data(config)
    vae = build.vae(config, *data.form)
    svi = build.svi(config, vae)
    run, progress = Run(folder / "run", config), Progress()
    run.open(vae, svi, data.protocol)
    for record in fit(
        vae, svi, data, build.schedule(config), conditional=config.conditional, seed=config.seed, progress=progress
    ):
        run.save(record, vae, svi, progress, data.form)
    run.set_status("finished")
    return open_run(run.path)
