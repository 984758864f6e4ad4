"""How good a program is: free functions (vae, x, ...) -> per-datum numbers in nats, with their errors."""

from pyro_vae.evaluation.classification import Classification, classify
from pyro_vae.evaluation.diagnostics import psis_khat
from pyro_vae.evaluation.estimators import ELBOTerms, Estimate, elbo, elbo_terms, iwae, subset
from pyro_vae.evaluation.weights import log_weights

__all__ = [
    "Classification",
    "ELBOTerms",
    "Estimate",
    "classify",
    "elbo",
    "elbo_terms",
    "iwae",
    "log_weights",
    "psis_khat",
    "subset",
]
