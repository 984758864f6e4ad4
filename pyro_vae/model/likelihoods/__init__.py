"""Likelihoods p(x|z): modules whose `forward` returns a Pyro distribution, the decoder's half of the model.

    likelihood(z, y=None) -> p(x | z)     batch_shape (*),     event_shape x_shape     for z of shape (*, D)

    data                         likelihoods                                            log p(x|z) is of a
    0 and 1                      Bernoulli                                              probability
    [0, 1]                       ContinuousBernoulli                                    density
    real numbers                 Normal, LowRankNormal, Laplace, ExponentialNorm        density
    levels 0..L-1                DiscretizedLogistic, Categorical                       probability
    counts 0, 1, 2, ...          Poisson, NegativeBinomial                              probability

Densities compare with densities, probabilities with probabilities. Grey levels are 8-bit integers: under a density with
a learned scale log p(x) grows without limit where a pixel takes the same value in all data. So dequantise them
(`dequantize`: uniform noise within a level), and count the Jacobian. The floor of each learned scale is in `scales`.

To add a member:

- subclass `Likelihood`, say in `decoder_shape` how many numbers it needs, and return a distribution from `forward`;
- build it from `self.decode(z, y)`, which calls the decoder on rows (N, D), whatever leading dimensions z and y have;
  several numbers a pixel stand in a leading axis, `(2, *x_shape)`, and `self.decode_parts(z, y, 2)` takes them apart;
- set `support` to the constraint on one pixel, or on a vector as a whole, and `advice` to what a user with other data
  should do;
- say in `start` which decoder output has the mean of the training data as its mean, and in `scales` what its scales
  are.
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
