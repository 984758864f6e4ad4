"""How a program is fitted: objectives, SVI, fit."""

from pyro.infer import Trace_ELBO, TraceMeanField_ELBO

from pyro_vae.inference.distributed import SharedSVI
from pyro_vae.inference.epochs import Part, Progress, Record, Schedule
from pyro_vae.inference.fitting import fit
from pyro_vae.inference.objectives import ImportanceWeightedELBO, MeanFieldELBO, Objective, weighted
from pyro_vae.inference.sampled_elbo import SampledELBO
from pyro_vae.inference.svi import SVI
from pyro_vae.inference.unshared_guides import unshared
from pyro_vae.inference.world import ALONE, World

__all__ = [
    "ALONE",
    "SVI",
    "ImportanceWeightedELBO",
    "MeanFieldELBO",
    "Objective",
    "Part",
    "Progress",
    "Record",
    "SampledELBO",
    "Schedule",
    "SharedSVI",
    "TraceMeanField_ELBO",
    "Trace_ELBO",
    "World",
    "fit",
    "unshared",
    "weighted",
]
