"""Annealing: chains that walk from a density one can draw from to the posterior."""

from pyro_vae.evaluation.annealing.annealed import AnnealedEstimate, BidirectionalEstimate, ais, bdmc

__all__ = [
    "AnnealedEstimate",
    "BidirectionalEstimate",
    "ais",
    "bdmc",
]
