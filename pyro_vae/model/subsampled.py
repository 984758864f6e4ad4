"""Plates that stand for more data than they are given, and why an estimate per datum refuses some of them."""

import math
from typing import Any

from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

Site = Any  # a message of pyro.poutine


class NoDrawnRows(Messenger):
    """Refuses, by a ValueError, a plate that draws its own rows: they would not be the rows of the given x."""

    def _pyro_sample(self, msg: Site) -> None:
        if not site_is_subsample(msg) or msg["value"] is not None:
            return
        size, taken, name = msg["fn"].size, msg["fn"].subsample_size, msg["name"]
        if taken is not None and taken < size:
            raise ValueError(
                f"plate {name} draws {taken} of its {size} rows at random, but log-weights belong to the rows of "
                f"the x that you pass. Write model(x) and guide(x) as functions of x, under "
                f"pyro.plate({name!r}, {size}, "
                "subsample=x), and evaluate pyro_vae.evaluation.given(program, {})"
            )


def why_scaled(site: Site) -> str:
    """Explains why a site with a scale other than 1 has no log-weight: subsampled plates, or a loss weight."""
    return _of_plates(site) or _of_a_weight(site)


def _of_plates(site: Site) -> str | None:
    """Explains what is wrong if the scale of a site comes only from its subsampled plates, N / B."""
    frames = [frame for frame in site["cond_indep_stack"] if frame.full_size not in (None, frame.size)]
    factor = math.prod(frame.full_size / frame.size for frame in frames)
    if not frames or isinstance(site["scale"], Tensor) or not math.isclose(site["scale"], factor):
        return None
    stand = " and ".join(
        f"{frame.name} stands for {frame.full_size} data and was given {frame.size}" for frame in frames
    )
    return (
        f"plate {stand}, so each counts {factor:.4g} times (site {site['name']}), but in log p(x) it counts "
        "once. pyro_vae.evaluation.given(program, {}) removes the factor of a subsampled plate"
    )


def _of_a_weight(site: Site) -> str:
    return (
        f"site {site['name']} carries a loss weight, but importance weights and log p(x) belong to the program "
        "without loss weights. Use kl_weight = reconstruction_weight = 1 here, or an ELBO objective with weights"
    )
