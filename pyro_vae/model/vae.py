"""VAE: three conditional distributions, sampled by one model and one guide.

    model:  z ~ p(z),   x ~ p(x|z)          guide:  z ~ q(z|x)

The program never asks for the type of its members.
"""

from typing import Any

from torch import Tensor

from pyro_vae.model.autoencoder import Autoencoder, Code, check_fit
from pyro_vae.model.given_data import check_data, check_label_rows
from pyro_vae.model.likelihoods import Likelihood
from pyro_vae.model.observing import observe, observe_in_plates, plate_size
from pyro_vae.model.open_plates import data_plate, sampled
from pyro_vae.model.posteriors import Posterior
from pyro_vae.model.priors import Prior
from pyro_vae.model.program import check_member
from pyro_vae.model.scaling import fit_scalings


class VAE(Autoencoder):
    r"""A variational autoencoder with latent site `z`, observed site `x` and data plate `data`.

    .. math:: p(x, z) = p(z) \, p(x|z), \qquad \log p(x) \ge E_{q(z|x)}[\log p(x|z)] - \mathrm{KL}(q(z|x) \,\|\, p(z))

    Args:
        prior: p(z), see `pyro_vae.priors`.
        posterior: q(z|x), see `pyro_vae.posteriors`.
        likelihood: p(x|z), see `pyro_vae.likelihoods`.
        missing: True takes NaN in x as a missing number. log p(x), and everything computed from it, is then log
            p(x_obs), the log-density of the observed numbers. The encoder must take NaN, like `networks.WithMask`.
        name: of the program in Pyro's parameter store, see `Program`, and of the sites of its halves, "left/z".

    Raises:
        TypeError: a member belongs to another family.
        ValueError: prior and posterior differ in latent_dim; the prior holds another posterior than the program's; or
            `missing=True` with a likelihood whose p(x_obs|z) is not known, such as ExponentialNorm.

    Reference:
        Eq. 3 of Kingma & Welling, "Auto-Encoding Variational Bayes", ICLR 2014. https://arxiv.org/abs/1312.6114

        Missing numbers: eq. 3 of Mattei & Frellsen, "MIWAE: Deep Generative Modelling and Imputation of Incomplete Data
        Sets", ICML 2019. https://arxiv.org/abs/1812.02633

    Example:
        >>> import pyro, torch
        >>> import pyro_vae as pv
        >>> vae = pv.VAE(
        ...     prior=pv.priors.StandardNormal(20),
        ...     posterior=pv.posteriors.DiagonalNormal(pv.networks.MLP((1, 8, 8), (40,)), latent_dim=20),
        ...     likelihood=pv.likelihoods.Bernoulli(pv.networks.MLP((20,), (1, 8, 8))),
        ... )
        >>> svi = pyro.infer.SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-3}), pyro.infer.Trace_ELBO())
        >>> loss = svi.step(torch.zeros(16, 1, 8, 8))   # minus the ELBO, summed over the batch
    """

    def __init__(
        self,
        prior: Prior,
        posterior: Posterior,
        likelihood: Likelihood,
        *,
        missing: bool = False,
        name: str | None = None,
    ) -> None:
        check_member("prior", prior, Prior)
        check_member("posterior", posterior, Posterior)
        check_member("likelihood", likelihood, Likelihood)
        check_fit(prior, posterior)
        super().__init__(name)
        self.missing = missing
        # The posterior first: a prior that holds it too, like VampPrior, leaves its tensors the posterior's names.
        self.posterior, self.likelihood, self.prior = posterior, likelihood, prior

    def model(self, x: Tensor | None = None, y: Tensor | None = None) -> Tensor:
        """Samples z ~ p(z) and x ~ p(x|z), or observes x.

        Args:
            x: data (B, *x_shape); without them the model generates len(y) data, or one.
            y: one-hot labels (B, C).

        Returns:
            x.

        Raises:
            DataError: x has another shape than p(x|z), or lies outside its support.
            UsageError: a plate is open at dim -1: under your own plates use `generative`.
            ValueError: y has another shape.
        """
        size = plate_size(x, y)
        self._list_model()
        with data_plate(size, "model"):
            z = sampled("z", self.prior(y))
            return observe(self.likelihood, z, x, y, self.missing)

    def guide(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Samples z ~ q(z|x).

        Args:
            x: data (B, *x_shape).
            y: one-hot labels (B, C).

        Returns:
            z (B, D).

        Raises:
            ValueError: there are no data, or y has another shape.
            UsageError: a plate is open at dim -1: under your own plates use `recognition`.
        """
        check_data(x, y, self.missing)
        self._list_guide()
        with data_plate(len(x), "guide"):
            return sampled("z", self.posterior(x, y))

    def generative(self, x: Tensor | None = None, y: Tensor | None = None) -> Tensor:
        r"""Samples z ~ p(z) and x ~ p(x|z), or observes x, under the open plates: `model` without its plate.

        .. math:: \log p(x, z) = \sum_n [\log p(z_n) + \log p(x_n|z_n)], \qquad n \text{ over all open plates}

        Use it for a VAE inside a larger model. The sum is in nats, and is multiplied by N / B under a plate of N that
        is subsampled by B. In a program with `name="left"` the sites are called left/z and left/x.

        Args:
            x: data (*plates, *x_shape), such as (B, *x_shape) or (S, B, *x_shape); without them, one datum for each
                index of the plates, and a single datum if no plate is open.
            y: one-hot labels (*, C), broadcast against the plates and against z. Labels that Pyro enumerates are in
                dimensions of their own, left of the plates.

        Returns:
            x.

        Raises:
            UsageError: a batch dimension of x or y belongs to no open plate, or has another size; or the model already
                has sites of this name.
            DataError: x has another shape than p(x|z), or lies outside its support.

        Example:
            >>> import pyro, torch
            >>> import pyro_vae as pv
            >>> vae = pv.VAE(pv.priors.StandardNormal(2),
            ...              pv.posteriors.DiagonalNormal(pv.networks.MLP((4,), (4,)), 2),
            ...              pv.likelihoods.Bernoulli(pv.networks.MLP((2,), (4,))))
            >>> x = torch.zeros(1000, 4)
            >>> def model():
            ...     with pyro.plate("images", 1000, subsample_size=32) as index:
            ...         vae.generative(x[index])
            >>> def guide():
            ...     with pyro.plate("images", 1000, subsample_size=32) as index:
            ...         vae.recognition(x[index])
            >>> svi = pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": 1e-3}), pyro.infer.Trace_ELBO())
            >>> loss = svi.step()                     # minus the ELBO of all 1000, estimated from 32 of them
            >>> with pyro.plate("sets", 3, dim=-2), pyro.plate("images", 5, dim=-1):
            ...     vae.generative().shape
            torch.Size([3, 5, 4])
        """
        check_label_rows(y)
        self._list_model()
        z = sampled(self.site("z"), self.prior(y))
        return observe_in_plates(self.likelihood, z, x, y, self.missing, self.site("x"))

    def recognition(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Samples z ~ q(z|x) under the open plates: `guide` without its plate, see `generative`.

        Args:
            x: data (*plates, *x_shape).
            y: one-hot labels (*, C), broadcast against x.

        Returns:
            z (*plates, D), with the dimensions of labels that Pyro enumerates left of the plates.

        Raises:
            UsageError: as in `generative`; or x lies in several plates, and your own encoder and decoder do not tell
                how many dimensions one datum has: set the posterior's `event_dim`.
            DataError: a number is neither finite nor missing.
        """
        self._list_guide()
        with self._encoding(x, y):
            return sampled(self.site("z"), self.posterior(x, y))

    @property
    def encoder_of_data(self) -> Posterior:
        return self.posterior

    def _list_model(self) -> None:
        self.list_parameters(self.prior, self.likelihood, others=[self.posterior])
        check_fit(self.prior, self.posterior)

    def _list_guide(self) -> None:
        self.list_parameters(self.posterior, others=[self.prior, self.likelihood])

    def from_prior(self, num_data: int, y: Tensor | None = None) -> Tensor:
        """Draws z ~ p(z): (num_data, D); labels y (num_data, C)."""
        return self.prior(y).expand((num_data,)).sample()

    def from_guide(self, x: Tensor, num_samples: int, y: Tensor | None = None) -> Tensor:
        """Draws z ~ q(z|x): (num_samples, B, D)."""
        return self.posterior(x, y).sample((num_samples,))

    def centre(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Returns the centre of q(z|x), see `Posterior.centre`: (B, D)."""
        return self.posterior.centre(x, y)

    def code(self, x: Tensor, y: Tensor | None = None, num_samples: int = 100) -> Code:
        """Returns mean and spread of q(z|x), exact if they have a closed form, see `Autoencoder.code`."""
        q = self.posterior(x, y)
        try:
            return Code(q.mean, q.stddev)
        except NotImplementedError:  # a flow
            return super().code(x, y, num_samples)

    def start_at(self, expected: Tensor, x: Tensor, y: Tensor | None = None) -> None:
        """Sets scalings, likelihood and prior as `Autoencoder.start_at` says."""
        fit_scalings(self, expected)
        self.likelihood.start_at(expected)
        self.prior.start_at(self.posterior, x, y)

    def prior_of_codes(self, y: Tensor | None = None) -> Any:
        """Returns p(z), or p(z|y) for labels y (B, C)."""
        return self.prior(y)
