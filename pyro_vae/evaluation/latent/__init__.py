"""How the latent space is used: single dimensions, and the aggregate posterior q(z)."""

from pyro_vae.evaluation.latent.aggregate import (
    AggregateTerms,
    Bracket,
    MutualInformation,
    aggregate_terms,
    marginal_kl,
    mutual_information,
    total_correlation,
)
from pyro_vae.evaluation.latent.dimensions import (
    ActiveUnits,
    KLPerDimension,
    RateDistortion,
    active_units,
    kl_per_dimension,
    rate_distortion,
)

__all__ = [
    "ActiveUnits",
    "AggregateTerms",
    "Bracket",
    "KLPerDimension",
    "MutualInformation",
    "RateDistortion",
    "active_units",
    "aggregate_terms",
    "kl_per_dimension",
    "marginal_kl",
    "mutual_information",
    "rate_distortion",
    "total_correlation",
]
