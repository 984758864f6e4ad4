"""Distributions that Pyro lacks, as Pyro distributions: plates expand them, and `to_event` turns batches into events.

    ContinuousBernoulli         on [0, 1], as an exponential family
    DiscretizedLogistic         a logistic, rounded to the levels 0..L-1
    GreyLevels                  any probabilities on the levels 0..L-1, which are numbers here, not names
    Poisson, NegativeBinomial   like Pyro's, but exact for large counts in float32 too
    StudentT                    like Pyro's, but exact for many degrees of freedom in float32 too
    ExponentialNorm             exp(-rate * RMSE), with its constant
    LowRankNormal               N(m, W W' + diag), over an event of any shape

`missing` has the distribution of some numbers of x if others are missing.

Log-probabilities are in nats and include every constant. They and their gradients stay finite at the extremes that
training meets (logits of 1e4, scales at their floor, x on the location), in float32 too.
"""

from pyro_vae.model.distributions.continuous_bernoulli import ContinuousBernoulli, continuous_bernoulli_logits
from pyro_vae.model.distributions.expandable import invert
from pyro_vae.model.distributions.grey_levels import DiscretizedLogistic, GreyLevels
from pyro_vae.model.distributions.poisson import NegativeBinomial, Poisson
from pyro_vae.model.distributions.real_vectors import ExponentialNorm, LowRankNormal
from pyro_vae.model.distributions.student import StudentT

__all__ = [
    "ContinuousBernoulli",
    "DiscretizedLogistic",
    "ExponentialNorm",
    "GreyLevels",
    "LowRankNormal",
    "NegativeBinomial",
    "Poisson",
    "StudentT",
    "continuous_bernoulli_logits",
    "invert",
]
