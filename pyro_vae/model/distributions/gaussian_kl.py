r"""KL divergences between Gaussians that neither torch nor Pyro registers; importing this file registers them.

.. math:: \mathrm{KL}(q \,\|\, p) = \frac{1}{2} \left[ \mathrm{tr}(S_p^{-1} S_q) + (m_p - m_q)' S_p^{-1} (m_p - m_q) - D
          + \log |S_p| - \log |S_q| \right]

for q = N(m_q, S_q), p = N(m_p, S_p) in D dimensions, in nats. It is computed as 1/2 tr(S_p^-1 S_q) - log p(m_q) - H(q).
Entropy and density know the structure of each covariance (diagonal, Cholesky, low rank), and if one is diagonal, the
trace needs only the diagonal of the other. So every pair of torch's diagonal, full and low-rank-plus-diagonal normals
has a KL, and our own `LowRankNormal` has one to the first two.
"""

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Independent, LowRankMultivariateNormal, MultivariateNormal, Normal, register_kl

from pyro_vae.model.distributions import LowRankNormal


@register_kl(MultivariateNormal, Independent)
@register_kl(LowRankMultivariateNormal, Independent)
@register_kl(LowRankNormal, Independent)
def _kl_to_diagonal(q: Any, p: Any) -> Tensor:
    _check_diagonal(p)
    return _kl(q, p, (q.variance / p.variance).sum(-1))


@register_kl(Independent, LowRankMultivariateNormal)
def _kl_from_diagonal(q: Any, p: Any) -> Tensor:
    _check_diagonal(q)
    return _kl(q, p, (q.variance * p.precision_matrix.diagonal(dim1=-2, dim2=-1)).sum(-1))


@register_kl(LowRankNormal, MultivariateNormal)
def _kl_to_full(q: Any, p: Any) -> Tensor:
    root = torch.cat([q.cov_factor, q.cov_diag.sqrt().diag_embed()], -1)
    lead = torch.broadcast_shapes(q.batch_shape, p.batch_shape)
    whitened = torch.linalg.solve_triangular(p.scale_tril.expand(*lead, -1, -1), root, upper=False)
    return _kl(q, p, whitened.square().sum((-2, -1)))


def _kl(q: Any, p: Any, trace: Tensor) -> Tensor:
    if q.event_shape != p.event_shape:
        raise NotImplementedError(f"events of shapes {tuple(q.event_shape)} and {tuple(p.event_shape)} have no KL")
    return 0.5 * trace - p.log_prob(q.mean) - q.entropy()


def _check_diagonal(distribution: Independent) -> None:
    if not (isinstance(distribution.base_dist, Normal) and distribution.reinterpreted_batch_ndims == 1):
        raise NotImplementedError  # torch does the same if no closed form is known
