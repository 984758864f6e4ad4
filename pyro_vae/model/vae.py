"""VAE: three conditional distributions, sampled by one model and one guide.

    model:  z ~ p(z),   x ~ p(x|z)          guide:  z ~ q(z|x)

The program never asks what its members are. Evidence lower bound (Kingma & Welling 2014, eq. 3), in nats:

    log p(x) >= E_q[log p(x|z)] - KL(q(z|x) || p(z))
"""

import pyro
import torch
from torch import Tensor

from pyro_vae.errors import DataError
from pyro_vae.model import paths
from pyro_vae.model.graphs import require
from pyro_vae.model.likelihoods import Likelihood
from pyro_vae.model.posteriors import Posterior
from pyro_vae.model.priors import Prior
from pyro_vae.model.program import Program, check_member, check_tensor, number_to_generate, undisturbed


class VAE(Program):
    """A variational autoencoder with latent site `z`, observed site `x` and data plate `data`.

    Args:
        prior: p(z), see `pyro_vae.priors`.
        posterior: q(z|x), see `pyro_vae.posteriors`.
        likelihood: p(x|z), see `pyro_vae.likelihoods`.

    Example:
        >>> import pyro_vae as pv
        >>> vae = pv.VAE(
        ...     prior=pv.priors.StandardNormal(20),
        ...     posterior=pv.posteriors.DiagonalNormal(pv.networks.MLP((1, 8, 8), (40,)), latent_dim=20),
        ...     likelihood=pv.likelihoods.Bernoulli(pv.networks.MLP((20,), (1, 8, 8))),
        ... )
        >>> svi = pyro.infer.SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-3}), pyro.infer.Trace_ELBO())
        >>> loss = svi.step(torch.zeros(16, 1, 8, 8))   # minus the ELBO, summed over the batch
    """

    def __init__(self, prior: Prior, posterior: Posterior, likelihood: Likelihood) -> None:
        super().__init__()
        check_member("prior", prior, Prior)
        check_member("posterior", posterior, Posterior)
        check_member("likelihood", likelihood, Likelihood)
        # The posterior first: a prior that holds it too, as VampPrior does, leaves its tensors the posterior's names.
        self.posterior, self.likelihood, self.prior = posterior, likelihood, prior
        check_shared(prior, posterior)

    def model(self, x: Tensor | None = None, y: Tensor | None = None) -> Tensor:
        """Samples z ~ p(z) and x ~ p(x|z), or observes x (B, *x_shape); labels y are one-hot (B, C).

        Without x it generates len(y) data, or one. Returns x.
        """
        if x is not None:
            check_tensor(x)
        self.list_parameters()
        check_shared(self.prior, self.posterior)
        with pyro.plate("data", plate_size(x, y), dim=-1):
            z = pyro.sample("z", self.prior(y))
            return observe(self.likelihood, z, x, y)

    def guide(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Samples z ~ q(z|x) for data x (B, *x_shape) and labels y (B, C). Returns z (B, D)."""
        check_data(x)
        self.list_parameters()
        with pyro.plate("data", len(x), dim=-1):
            return pyro.sample("z", self.posterior(x, y))

    def from_prior(self, num_data: int, y: Tensor | None = None) -> Tensor:
        """Draws what the decoder sees, z ~ p(z): (num_data, D); labels y (num_data, C)."""
        return self.prior(y).expand((num_data,)).sample()

    def from_guide(self, x: Tensor, num_samples: int, y: Tensor | None = None) -> Tensor:
        """Draws what the decoder sees given data, z ~ q(z|x): (num_samples, B, D)."""
        return self.posterior(x, y).sample((num_samples,))

    def start_at(self, expected: Tensor, x: Tensor, y: Tensor | None = None) -> None:
        """Before training: the decoder at the mean of the data, the prior where it wants to be among them.

        Args:
            expected: values of data (N, *x_shape), such as the grey levels of pixels that are drawn anew.
            x: some of the data (N, *x_shape).
            y: their one-hot labels (N, C).
        """
        self.likelihood.start_at(expected)
        self.prior.start_at(self.posterior, x, y)

    @torch.no_grad()
    def generate(self, num_data: int | None = None, y: Tensor | None = None, *, mean: bool = False) -> Tensor:
        """Draws z from the prior and then x from p(x|z): new data `(num_data, *x_shape)`.

        (To draw z from the encoder instead, as some teaching material has it, is reconstruction.)

        Args:
            num_data: how many; with labels y (B, C) it is their number B.
            y: one-hot labels.
            mean: return the mean of p(x|z) instead of a sample of it.
        """
        size = number_to_generate(num_data, y)
        with undisturbed(self):
            z = self.from_prior(size, y)
            return decoded(self.likelihood, z, y, mean)

    @torch.no_grad()
    def reconstruct(self, x: Tensor, y: Tensor | None = None, *, num_samples: int = 1, mean: bool = True) -> Tensor:
        """Several stochastic reconstructions `(num_samples, B, *x_shape)`: z ~ q(z|x), then p(x|z).

        Args:
            x: data (B, *x_shape).
            y: one-hot labels (B, C).
            num_samples: draws of z for each datum.
            mean: return the mean of p(x|z) at each z instead of a sample of it.
        """
        check_tensor(x)
        with undisturbed(self):
            z = self.from_guide(x, num_samples, y)
            return decoded(self.likelihood, z, y, mean)

    @torch.no_grad()
    def interpolate(
        self,
        start: Tensor,
        end: Tensor,
        steps: int = 8,
        y: Tensor | None = None,
        *,
        path: str = "straight",
        y_end: Tensor | None = None,
    ) -> Tensor:
        """Means of p(x|z) along a path between the posterior means (centres) of two data.

        Args:
            start, end: data (B, *x_shape), the ends of B paths.
            steps: number of points on each path, both ends counted.
            y: one-hot labels (B, C), the same along the path.
            path: "straight"; "spherical", a great circle about 0; "base", such a circle in the base of a prior that
                is a flow. See `pyro_vae.model.paths`.
            y_end: labels (B, C) of the ends, where they are others: y then goes to them in a straight line, through
                mixtures of labels that the networks were not trained on.

        Raises:
            UsageError: an unknown path; "base" with a prior that is no flow.

        Returns:
            (steps, B, *x_shape).
        """
        labels = labels_along(y, y_end, steps)
        z = self.latent_path(start, end, steps, y, path=path, y_end=y_end)
        with undisturbed(self):
            return decoded(self.likelihood, z, labels, mean=True)

    @torch.no_grad()
    def latent_path(
        self,
        start: Tensor,
        end: Tensor,
        steps: int = 8,
        y: Tensor | None = None,
        *,
        path: str = "straight",
        y_end: Tensor | None = None,
    ) -> Tensor:
        """The points z (steps, B, D) at which `interpolate`, of the same arguments, shows p(x|z)."""
        check_ends(start, end)
        with undisturbed(self):
            ends = self.posterior.centre(start, y), self.posterior.centre(end, y if y_end is None else y_end)
            return paths.path(path, *ends, steps, self.prior(y) if path == "base" else None)


def decoded(likelihood: Likelihood, z: Tensor, y: Tensor | None, mean: bool) -> Tensor:
    """The mean of p(x|z), or a draw from it."""
    p = likelihood(z, y)
    return p.mean if mean else p.sample()


def check_shared(prior: Prior, posterior: Posterior) -> None:
    """Raises ValueError where the prior holds a posterior, as VampPrior does, that is not the program's."""
    if getattr(prior, "posterior", posterior) is not posterior:
        raise ValueError(
            f"{type(prior).__name__} is made of another posterior than the program's: build the prior from the "
            "posterior that the program has now"
        )


def check_data(x: Tensor | None) -> None:
    """Raises what a guide has against the data x (B, *x_shape): none, no tensor, numbers that are not finite."""
    if x is None:
        raise ValueError("the guide is q(z|x) and needs the data: guide(x). Without data, use the model alone")
    check_tensor(x)
    require(torch.isfinite(x).all(), lambda: _not_finite(x))


def _not_finite(x: Tensor) -> DataError:
    datum, *place = (~torch.isfinite(x)).nonzero()[0].tolist()
    return DataError(f"x holds {x[datum][tuple(place)].item()} at datum {datum}, position {tuple(place)}")


def check_ends(start: Tensor, end: Tensor) -> None:
    """Raises unless start and end are tensors of one shape."""
    check_tensor(start)
    check_tensor(end)
    if start.shape != end.shape:
        raise ValueError(f"each line needs two ends: start has shape {tuple(start.shape)}, end {tuple(end.shape)}")


def plate_size(x: Tensor | None, y: Tensor | None) -> int:
    """B: the number of data, without them that of labels, without either 1."""
    return len(x) if x is not None else len(y) if y is not None else 1


def labels_along(y: Tensor | None, y_end: Tensor | None, steps: int) -> Tensor | None:
    """y, or where y_end is given the straight line from y to it, (steps, B, C).

    Raises:
        ValueError: there are labels of the ends and none of the starts.
    """
    if y_end is None:
        return y
    if y is None:
        raise ValueError("y_end, the labels of the ends, goes with labels y of the starts; there are none")
    return paths.straight(y, y_end, steps)


def observe(likelihood: Likelihood, z: Tensor, x: Tensor | None, y: Tensor | None) -> Tensor:
    """Site x ~ p(x|z), inside the data plate: observed where x is given, else drawn. Returns its value.

    Raises:
        DataError: x has another shape, or lies outside the support.
        ValueError: the site was conditioned from outside on several data, which would share one z.
    """
    p = likelihood(z, y)
    if x is not None:
        _check_shape(x, p.event_shape)
        likelihood.check(x)
    value = pyro.sample("x", p, obs=x)
    if x is None:
        # poutine.condition(model, {"x": data}) would silently explain all the data by one z.
        if value.shape != z.shape[:-1] + p.event_shape:
            raise ValueError(
                f"site x was conditioned on a tensor of shape {tuple(value.shape)} where one of shape "
                f"{tuple(z.shape[:-1] + p.event_shape)} is generated, so that data would share one z: "
                "pass the data as the argument, model(x)"
            )
        likelihood.check(value)
    return value


def _check_shape(x: Tensor, event_shape: torch.Size) -> None:
    if x.shape[1:] != event_shape:
        raise DataError(f"p(x|z) is over data of shape {tuple(event_shape)}; got x of shape {tuple(x.shape)}")
