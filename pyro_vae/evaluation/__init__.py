"""How good a program is: free functions (vae, x, ...) that return per-datum numbers in nats, with their errors."""

from pyro_vae.evaluation.annealing import AnnealedEstimate, BidirectionalEstimate, ais, bdmc
from pyro_vae.evaluation.baseline import Baselines, baselines
from pyro_vae.evaluation.block_graphs import compiled
from pyro_vae.evaluation.bounds import IWAECurve, iwae_curve
from pyro_vae.evaluation.classification import Accuracy, Classification, accuracy, classify, evidence
from pyro_vae.evaluation.comparison import Difference, SeedDifference, between_seeds, paired, pooled, unpaired
from pyro_vae.evaluation.estimators import ELBOTerms, Estimate, elbo, elbo_terms, iwae, subset
from pyro_vae.evaluation.exact.identity import Identity, identity
from pyro_vae.evaluation.exact.quadrature import GridEstimate, PosteriorGrid, posterior_on_grid, quadrature
from pyro_vae.evaluation.global_latents import Given, PredictiveEstimate, draw_globals, given, predictive
from pyro_vae.evaluation.imputation import Imputation, impute
from pyro_vae.evaluation.joint_difference import JointDifference, over_data_and_seeds
from pyro_vae.evaluation.latent import (
    ActiveUnits,
    AggregateTerms,
    Bracket,
    KLPerDimension,
    MutualInformation,
    RateDistortion,
    active_units,
    aggregate_terms,
    kl_per_dimension,
    marginal_kl,
    mutual_information,
    rate_distortion,
    total_correlation,
)
from pyro_vae.evaluation.precision import is_rounded, rounding_loss
from pyro_vae.evaluation.scoring import Scores, score
from pyro_vae.evaluation.trust.amortisation import Refinement, refine
from pyro_vae.evaluation.trust.diagnostics import (
    Mixing,
    effective_sample_size,
    mixing,
    psis_khat,
    share_above,
    to_inference_data,
    worst_data,
)
from pyro_vae.evaluation.trust.escalation import EscalatedDatum, Escalation, escalate
from pyro_vae.evaluation.trust.gaps import GapBudget, TrainTestGap, gap_budget, train_test_gap
from pyro_vae.evaluation.trust.true_posterior import Comparison, PosteriorDraws, nuts
from pyro_vae.evaluation.weights import log_weights

__all__ = [
    "Accuracy",
    "ActiveUnits",
    "AggregateTerms",
    "AnnealedEstimate",
    "Baselines",
    "BidirectionalEstimate",
    "Bracket",
    "Classification",
    "Comparison",
    "Difference",
    "ELBOTerms",
    "EscalatedDatum",
    "Escalation",
    "Estimate",
    "GapBudget",
    "Given",
    "GridEstimate",
    "IWAECurve",
    "Identity",
    "Imputation",
    "JointDifference",
    "KLPerDimension",
    "Mixing",
    "MutualInformation",
    "PosteriorDraws",
    "PosteriorGrid",
    "PredictiveEstimate",
    "RateDistortion",
    "Refinement",
    "Scores",
    "SeedDifference",
    "TrainTestGap",
    "accuracy",
    "active_units",
    "aggregate_terms",
    "ais",
    "baselines",
    "bdmc",
    "between_seeds",
    "classify",
    "compiled",
    "draw_globals",
    "effective_sample_size",
    "elbo",
    "elbo_terms",
    "escalate",
    "evidence",
    "gap_budget",
    "given",
    "identity",
    "impute",
    "is_rounded",
    "iwae",
    "iwae_curve",
    "kl_per_dimension",
    "log_weights",
    "marginal_kl",
    "mixing",
    "mutual_information",
    "nuts",
    "over_data_and_seeds",
    "paired",
    "pooled",
    "posterior_on_grid",
    "predictive",
    "psis_khat",
    "quadrature",
    "rate_distortion",
    "refine",
    "rounding_loss",
    "score",
    "share_above",
    "subset",
    "to_inference_data",
    "total_correlation",
    "train_test_gap",
    "unpaired",
    "worst_data",
]
