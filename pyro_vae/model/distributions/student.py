"""Student's t."""

import math

import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_vae.model.distributions.expandable import log_rising


class StudentT(dist.StudentT):
    """Student's t, of any finite number of degrees of freedom.

        log p(x) = -(df + 1) / 2 log(1 + y^2 / df) + log Gamma((df + 1) / 2) / Gamma(df / 2) - 1/2 log(df pi) - log s

    with y = (x - m) / s. torch's own takes the difference of two logarithms of Gamma, of the size of df log df: in
    float32 it is off by 0.005 nats a number at df = 1e4 and by 0.9 at 1e8. Here it is one series, in float64.

    Args:
        df: (*), above 0.
        loc: m (*).
        scale: s (*).

    Example:
        >>> StudentT(torch.tensor(1e8)).log_prob(torch.tensor(0.0)), dist.Normal(0.0, 1.0).log_prob(torch.tensor(0.0))
        (tensor(-0.9189), tensor(-0.9189))
    """

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        df, scale = self.df.double(), self.scale.double()
        y = (value - self.loc).double() / scale
        constant = log_rising(df / 2, torch.full_like(df, 0.5)) - 0.5 * (df * math.pi).log()
        return (constant - scale.log() - 0.5 * (df + 1) * torch.log1p(y.square() / df)).to(self.df)
