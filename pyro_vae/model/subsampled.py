"""Plates that stand for more data than they are given: which of them an estimate of each datum refuses, and why."""

import math
from typing import Any

from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

Site = Any  # a message of pyro.poutine


class NoDrawnRows(Messenger):
    """Refuses a plate that chooses its rows itself by a ValueError: they would not be those of the x that is given."""

    def _pyro_sample(self, msg: Site) -> None:
        if not site_is_subsample(msg) or msg["value"] is not None:
            return
        size, taken, name = msg["fn"].size, msg["fn"].subsample_size, msg["name"]
        if taken is not None and taken < size:
            raise ValueError(
                f"plate {name} draws {taken} of its {size} rows by chance, and log-weights are those of the x that is "
                f"given. Write model(x) and guide(x) on their argument, under pyro.plate({name!r}, {size}, "
                "subsample=x), and evaluate pyro_vae.evaluation.given(program, {})"
            )


def why_scaled(site: Site) -> str:
    """Returns why a site whose scale is not 1 has no log-weight: its plates are subsampled, or it has a loss weight."""
    return _of_plates(site) or _of_a_weight(site)


def _of_plates(site: Site) -> str | None:
    """What is wrong where the scale of a site is that of its subsampled plates, N / B, and nothing else."""
    frames = [frame for frame in site["cond_indep_stack"] if frame.full_size not in (None, frame.size)]
    factor = math.prod(frame.full_size / frame.size for frame in frames)
    if not frames or isinstance(site["scale"], Tensor) or not math.isclose(site["scale"], factor):
        return None
    stand = " and ".join(
        f"{frame.name} stands for {frame.full_size} data and was given {frame.size}" for frame in frames
    )
    return (
        f"plate {stand}, so that each counts {factor:.4g} times (site {site['name']}), and in log p(x) once. The "
        "factor of a subsampled plate is taken away by pyro_vae.evaluation.given(program, {})"
    )


def _of_a_weight(site: Site) -> str:
    return (
        f"site {site['name']} carries a loss weight: importance weights and log p(x) are those of the program itself. "
        "Use kl_weight = reconstruction_weight = 1 here, or an ELBO objective with weights"
    )
