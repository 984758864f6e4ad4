"""Computes what a picture shows from the traces of a program that has a model and a guide, and no members to ask.

Each view is one of `image_views` or `column_views`. Its means are those of the distribution at the observed site.
"""

from collections.abc import Sequence
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor

from pyro_vae.model import traces
from pyro_vae.model.program import undisturbed
from pyro_vae.randomness import stream
from pyro_vae.report.draw.column_views import FEWEST, Columns, columns_of
from pyro_vae.report.draw.image_views import Reconstructions, Samples

Site = Any


@torch.no_grad()
def samples(
    program: Any, x: Tensor, seed: int, num_data: int, *, y: Tensor | None = None, wanted: Tensor | None = None
) -> Samples:
    """Runs the model without x: draws of x, and the means of p(x|z) at the same latents.

    Args:
        program: anything with `.model`, which generates without x, and `.guide` over one data plate.
        x: some data (B, *x_shape), by which the observed site is found.
        seed: the seed of the draws.
        num_data: N.
        y: the one-hot labels (B, C) of x.
        wanted: those of what is drawn, (N, C).

    Raises:
        ValueError: the program observes several sites.
        NotImplementedError: the mean of p(x|z) is not known.
    """
    name = _observed(_run(program, 1, x, y))["name"]
    with stream(seed, "samples", device=x.device), undisturbed(program):
        generated = _generated(program, num_data, wanted)
    latents = traces.latent_sites(generated)
    site = latents[name]
    z = [each["value"].reshape(num_data, -1) for other, each in latents.items() if other != name]
    drawn = site["value"].reshape(num_data, *x.shape[1:])
    mean = site["fn"].mean.reshape(drawn.shape)
    return Samples(torch.cat(z, -1), mean, drawn, None if wanted is None else wanted.argmax(-1))


@torch.no_grad()
def reconstructions(
    program: Any, x: Tensor, seed: int, num_samples: int = 4, y: Tensor | None = None
) -> Reconstructions:
    """Draws latents from the guide: means of p(x|z) at each draw.

    Args:
        program: anything with `.model` and `.guide` over one data plate.
        x: data (B, *x_shape).
        seed: the seed of the draws.
        num_samples: K, the draws for each datum.
        y: one-hot labels (B, C).

    Raises:
        ValueError, NotImplementedError: as for `samples`.
    """
    with stream(seed, "reconstructions", device=x.device):
        pair = _run(program, num_samples, x, y)
    latents = (site["value"] for site in traces.latent_sites(pair.guide).values())
    z = torch.cat([value.expand(num_samples, len(x), *value.shape[2:]).flatten(2) for value in latents], -1)
    mean = _observed(pair)["fn"].mean.expand(num_samples, *x.shape)
    return Reconstructions(x, z, mean, traces.reconstruction(pair))


@torch.no_grad()
def columns(
    program: Any,
    x: Tensor,
    seed: int,
    y: Tensor | None = None,
    names: Sequence[str] = (),
    origin: Sequence[float] = (),
) -> Columns:
    """Draws rows by the model only, as `column_views.columns` does by prior and decoder.

    Args:
        program: anything with `.model`, which generates without x, and `.guide` over one data plate.
        x: data (N, D).
        seed: the seed of the draws.
        y: one-hot labels (N, C) of the data, of a conditional program, which draws as many rows of each.
        names, origin: as for `column_views.columns`.

    Raises:
        ValueError: the program observes several sites.
    """
    times = -(-FEWEST // len(x))
    name = _observed(_run(program, 1, x[:1], None if y is None else y[:1]))["name"]
    with stream(seed, "columns", device=x.device), undisturbed(program):
        made = _generated(program, times * len(x), None if y is None else y.repeat(times, 1))
    return columns_of(x, traces.latent_sites(made)[name]["value"].reshape(-1, *x.shape[1:]), names, origin)


def _run(program: Any, num_samples: int, x: Tensor, y: Tensor | None) -> traces.Traces:
    with undisturbed(program):
        return traces.run(program.model, program.guide, num_samples, x, *(() if y is None else (y,)))


def _generated(program: Any, size: int, y: Tensor | None) -> poutine.Trace:
    # Without x and y the data plate has one datum: the data are draws of it.
    model = pyro.plate("draws", size, dim=-2)(program.model) if y is None else program.model
    return prune_subsample_sites(poutine.trace(model).get_trace(*(() if y is None else (None, y))))


def _observed(pair: traces.Traces) -> Site:
    sites = traces.observed_sites(pair.model)
    if len(sites) != 1:
        raise ValueError(f"a picture is of one observed site; this program has {len(sites)}: {', '.join(sites)}")
    return next(iter(sites.values()))
