"""Worlds of a few processes, each of which calls one function, and a training to put into them."""

import os

import forked
import torch
import torch.distributed as dist

import pyro_vae as pv
from pyro_vae.experiment import build
from pyro_vae.inference import SharedSVI, World, step_graphs
from pyro_vae.inference.world import ALONE

SMALL = {"latent_dim": 2, "hidden": (8,), "batch_size": 16, "epochs": 3, "lr": 0.01, "compile": "no", "fewest_steps": 1}
SLOWEST = 60  # seconds until processes that wait for each other count as hanging


def spread(size, folder, work, *arguments):
    """Calls `work(world, *arguments)` in so many processes; returns what each returned, or raised, by rank."""
    answers = forked.SERVER.Queue()
    meeting = f"file://{folder / f'meeting-{work.__name__}-{size}'}"
    given = [(answers, meeting, rank, size, work, arguments) for rank in range(size)]
    started = [forked.start(in_world, *each) for each in given]
    found = dict(answers.get(timeout=SLOWEST) for _ in range(size))
    for process in started:
        process.join(SLOWEST)
    return [found[rank] for rank in range(size)]


def in_world(answers, meeting, rank, size, work, arguments):
    """A child: its answer, or the error that it got, goes into the queue. Its graphs begin with the first step."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    step_graphs.TRACE_AFTER = 0
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=size)
    try:
        answers.put((rank, work(World(rank, size), *arguments)))
    except Exception as error:
        answers.put((rank, error))
    answers.close()
    answers.join_thread()


class Double(pv.VAE):
    """A program that computes in float64 whatever its data are, so that rounding is no excuse."""

    def model(self, x=None, y=None):
        return super().model(*(value if value is None else value.double() for value in (x, y)))

    def guide(self, x, y=None):
        return super().guide(*(value if value is None else value.double() for value in (x, y)))


def made(config, world=ALONE):
    """Data, program in float64, and its step."""
    data = build.data(config)
    vae = build.vae(config, *data.form)
    build.start(config, vae, data)
    vae = Double(vae.prior, vae.posterior, vae.likelihood).double()
    svi = build.svi(config, vae)
    return data, vae, svi if world.size == 1 else shared(vae, svi, world)


def shared(vae, svi, world):
    """The same step in many processes."""
    return SharedSVI(vae, svi.optimizer, svi.loss, world, svi.max_grad_norm, svi.graphs.mode)
