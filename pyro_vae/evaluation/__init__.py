"""How good a program is: free functions (vae, x, ...) -> per-datum numbers in nats, with their errors."""

from pyro_vae.evaluation.aggregate import (
    AggregateTerms,
    MutualInformation,
    aggregate_terms,
    marginal_kl,
    mutual_information,
    total_correlation,
)
from pyro_vae.evaluation.amortisation import Refinement, refine
from pyro_vae.evaluation.annealing import AnnealedEstimate, BidirectionalEstimate, ais, bdmc
from pyro_vae.evaluation.bounds import IWAECurve, iwae_curve
from pyro_vae.evaluation.classification import Classification, classify
from pyro_vae.evaluation.comparison import Difference, SeedDifference, between_seeds, paired, pooled, unpaired
from pyro_vae.evaluation.diagnostics import effective_sample_size, psis_khat, to_inference_data, worst_data
from pyro_vae.evaluation.estimators import ELBOTerms, Estimate, elbo, elbo_terms, iwae, subset
from pyro_vae.evaluation.grids import gauss_hermite, midpoint, trapezoid
from pyro_vae.evaluation.identity import Identity, identity
from pyro_vae.evaluation.latent import (
    ActiveUnits,
    KLPerDimension,
    RateDistortion,
    active_units,
    kl_per_dimension,
    rate_distortion,
)
from pyro_vae.evaluation.quadrature import GridEstimate, PosteriorGrid, posterior_on_grid, quadrature
from pyro_vae.evaluation.weights import log_weights

__all__ = [
    "ActiveUnits",
    "AggregateTerms",
    "AnnealedEstimate",
    "BidirectionalEstimate",
    "Classification",
    "Difference",
    "ELBOTerms",
    "Estimate",
    "GridEstimate",
    "IWAECurve",
    "Identity",
    "KLPerDimension",
    "MutualInformation",
    "PosteriorGrid",
    "RateDistortion",
    "Refinement",
    "SeedDifference",
    "active_units",
    "aggregate_terms",
    "ais",
    "bdmc",
    "between_seeds",
    "classify",
    "effective_sample_size",
    "elbo",
    "elbo_terms",
    "gauss_hermite",
    "identity",
    "iwae",
    "iwae_curve",
    "kl_per_dimension",
    "log_weights",
    "marginal_kl",
    "midpoint",
    "mutual_information",
    "paired",
    "pooled",
    "posterior_on_grid",
    "psis_khat",
    "quadrature",
    "rate_distortion",
    "refine",
    "subset",
    "to_inference_data",
    "total_correlation",
    "trapezoid",
    "unpaired",
    "worst_data",
]
