"""Likelihoods p(x|z): modules whose `forward` returns a Pyro distribution, the decoder's half of the model.

    likelihood(z, y=None) -> p(x | z)     batch_shape (*),     event_shape x_shape     for z of shape (*, D)

    data                         likelihoods                                            log p(x|z) is of a
    0 and 1                      Bernoulli                                              probability
    [0, 1]                       ContinuousBernoulli                                    density
    real numbers                 Normal, LowRankNormal, Laplace, ExponentialNorm        density
    levels 0..L-1                DiscretizedLogistic, Categorical                       probability
    counts 0, 1, 2, ...          Poisson, NegativeBinomial                              probability

Compare densities only with densities, and probabilities with probabilities. Grey levels are 8-bit integers: under a
density with a learned scale, log p(x) grows without limit if a pixel has the same value in all data. So dequantise them
(`dequantize`: uniform noise within a level), and count the Jacobian. `scales` has the floor of each learned scale.

To add a member:

- subclass `Likelihood`, return from `decoder_shape` the shape that it needs, and from `forward` a distribution;
- build the distribution from `self.decode(z, y)`, which calls the decoder on rows (N, D), whatever leading dimensions z
  and y have; several numbers per pixel are in a leading axis, `(2, *x_shape)`, and `self.decode_parts(z, y, 2)`
  separates them;
- set `support` to the constraint on one pixel, or on the whole vector, and `advice` to what a user with other data
  should do;
- return from `start` the decoder output whose mean is the mean of the training data, and from `scales` its scales.
"""

from pyro_vae.model.likelihoods.counts import NegativeBinomial, Poisson
from pyro_vae.model.likelihoods.levels import Categorical, DiscretizedLogistic
from pyro_vae.model.likelihoods.likelihood import Likelihood
from pyro_vae.model.likelihoods.reals import ExponentialNorm, Laplace, LowRankNormal, Normal
from pyro_vae.model.likelihoods.unit_interval import Bernoulli, ContinuousBernoulli

__all__ = [  # noqa: RUF022 - in the order of the table above
    "Likelihood",
    "Bernoulli",
    "ContinuousBernoulli",
    "Normal",
    "LowRankNormal",
    "Laplace",
    "ExponentialNorm",
    "DiscretizedLogistic",
    "Categorical",
    "Poisson",
    "NegativeBinomial",
]
