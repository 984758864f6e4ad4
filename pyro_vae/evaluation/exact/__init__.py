"""Integrals on grids: log p(x) without a draw, and the identity log p(x) = ELBO + KL."""
