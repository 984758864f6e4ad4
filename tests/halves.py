"""Programs with labels, and their halves under plates of others, for tests of a VAE inside a larger model."""

from contextlib import ExitStack

import pyro
import torch
from pyro import poutine
from torch import nn

import pyro_vae as pv
from pyro_vae.model.traces import holding

S, B, C, D, SHAPE = 2, 3, 3, 3, (1, 2, 4)  # two plates, classes, latents, and a datum
MLP, Normal = pv.networks.MLP, pv.likelihoods.Normal


def small(in_shape, out_shape, y_dim=C):
    return MLP(in_shape, out_shape, hidden=(5,), activation=nn.Tanh, y_dim=y_dim)


def diagonal(x_shape=SHAPE, y_dim=C):
    return pv.posteriors.DiagonalNormal(small(x_shape, (2 * D,), y_dim), D)


def bernoulli(y_dim=C):
    return pv.likelihoods.Bernoulli(small((D,), SHAPE, y_dim))


def two_layers(guide):
    D2 = 2
    above = (D,) if guide == "bottom_up" else SHAPE
    return pv.HierarchicalVAE(
        pv.priors.ConditionalNormal(D2, C),
        Normal(small((D2,), (2, D)), scale=0.7, learn_scale="predicted"),
        bernoulli(),
        diagonal(y_dim=C if guide == "bottom_up" else D2 + C),
        pv.posteriors.DiagonalNormal(small(above, (2 * D2,)), D2),
        guide=guide,
    )


class OwnDecoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(D + C, 8)

    def forward(self, z, y):
        return self.head(torch.cat([z, y], 1)).reshape(-1, *SHAPE)


def under(plates, half, *args):
    """Runs a half under plates, (name, size) from dim -1 on."""

    def program():
        with ExitStack() as opened:
            for at, (name, size) in enumerate(plates):
                opened.enter_context(pyro.plate(name, size, dim=-1 - at))
            return half(*args)

    return program


def log_probs(program, values, *args):
    """log p of each site, for each datum, with these values at the latent ones."""
    fixed = poutine.replay(program, trace=holding(values))
    trace = poutine.trace(fixed).get_trace(*args)
    trace.compute_log_prob()
    return {
        name: s["log_prob"].detach() for name, s in trace.nodes.items() if s["type"] == "sample" and name[0] in "zx"
    }


def latents(vae, x, y):
    trace = poutine.trace(vae.guide).get_trace(x, y)
    return {name: site["value"].detach() for name, site in trace.nodes.items() if name[0] == "z"}


def nested(value):
    return None if value is None else value.reshape(S, B, *value.shape[1:])
