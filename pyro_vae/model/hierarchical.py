r"""HierarchicalVAE: two layers of latents, five conditional distributions, from the members of `VAE`.

    model:      z2 ~ p(z2),       z1 ~ p(z1|z2),       x ~ p(x|z1)
    top-down:   z2 ~ q(z2|x),     z1 ~ q(z1|x, z2)                       a guide in the model's order
    bottom-up:  z1 ~ q(z1|x),     z2 ~ q(z2|z1)                          a guide in the opposite order

.. math:: \log p(x) \ge E_q[\log p(x|z_1)] - \mathrm{KL}(q(z_1, z_2|x) \,\|\, p(z_1, z_2))

Under the top-down guide the KL is a sum over sites, each analytic if a closed form is registered:

.. math:: \mathrm{KL}(q(z_1, z_2|x) \,\|\, p(z_1, z_2)) = \mathrm{KL}(q(z_2|x) \,\|\, p(z_2))
          + E_{q(z_2|x)}[\mathrm{KL}(q(z_1|x, z_2) \,\|\, p(z_1|z_2))]

Under the bottom-up guide z1 is drawn before the z2 on which p(z1|z2) depends. There is no such sum, and objectives with
an analytic KL do not apply.
"""

from typing import Any

import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn

from pyro_vae.model.autoencoder import Autoencoder, check_fit
from pyro_vae.model.given_data import check_data, check_label_rows
from pyro_vae.model.likelihoods import Likelihood
from pyro_vae.model.networks import Network
from pyro_vae.model.observing import observe, observe_in_plates, plate_size
from pyro_vae.model.open_plates import data_plate, sampled
from pyro_vae.model.posteriors import Posterior
from pyro_vae.model.priors import Prior
from pyro_vae.model.program import check_member
from pyro_vae.model.scaling import Rescaled, fit_scalings
from pyro_vae.option_words import Guide, check_word


class HierarchicalVAE(Autoencoder):
    r"""A variational autoencoder with latent sites `z1` and `z2`, observed site `x` and data plate `data`.

    .. math:: p(x, z_1, z_2) = p(z_2) \, p(z_1|z_2) \, p(x|z_1)

    .. math:: q(z_1, z_2|x) = q(z_2|x) \, q(z_1|x, z_2) \quad \text{(top-down)}, \qquad
              q(z_1, z_2|x) = q(z_1|x) \, q(z_2|z_1) \quad \text{(bottom-up)}

    The top-down guide works with every objective. The bottom-up guide works with `Trace_ELBO` and
    `ImportanceWeightedELBO`; `MeanFieldELBO` refuses it, and estimators sample its KL. With labels y, every factor
    depends on y.

    Args:
        prior: p(z2), see `pyro_vae.priors`; event (D2,). A `VampPrior` over `posterior2` has pseudo-inputs of shape
            x_shape under the top-down guide. Under the bottom-up guide their shape is (D1,), and
            `prior.start_at(posterior2, posterior1(x).sample())` puts them on data.
        middle: p(z1|z2), a likelihood with event (D1,), continuous and reparametrised; most often `Normal(network,
            learn_scale="predicted")` with a network (D2,) -> (2, D1).
        likelihood: p(x|z1), see `pyro_vae.likelihoods`.
        posterior1: top-down q(z1|x, z2); bottom-up q(z1|x). The top-down encoder takes x (B, *x_shape) and z2 (*, B,
            D2), or [z2, y] (*, B, D2 + C), like networks with y_dim = D2 or D2 + C. Your own encoder gets them as rows
            (N, *x_shape) and (N, D2) or (N, D2 + C).
        posterior2: top-down q(z2|x); bottom-up q(z2|z1), whose encoder takes z1 (*, B, D1), or (N, D1) if it is your
            own.
        guide: "top_down" or "bottom_up".
        missing: True takes NaN in x as a missing number, see `VAE`.
        name: of the program in Pyro's parameter store, see `Program`, and of the sites of its halves, "left/z".

    Raises:
        TypeError: a member belongs to another family.
        ValueError: the guide is unknown, latent dimensions do not fit, a top-down encoder takes no z2, or p(z1|z2) is
            not reparametrised.
        DataError: from `model`, for data outside the support.

    Reference:
        Top-down: section 4 of Tomczak & Welling, "VAE with a VampPrior", AISTATS 2018 (where x depends on z2 too).
        https://arxiv.org/abs/1705.07120

        Bottom-up: section 2 of Burda, Grosse & Salakhutdinov, "Importance Weighted Autoencoders", ICLR 2016.
        https://arxiv.org/abs/1509.00519

        Sønderby et al., "Ladder Variational Autoencoders", NeurIPS 2016, compare a guide of each kind and show that z2
        often stays unused. https://arxiv.org/abs/1602.02282

    Example:
        >>> import pyro, pyro_vae as pv
        >>> MLP, normal = pv.networks.MLP, pv.likelihoods.Normal
        >>> vae = pv.HierarchicalVAE(
        ...     prior=pv.priors.StandardNormal(5),
        ...     middle=normal(MLP((5,), normal.decoder_shape((20,), "predicted")), scale=1.0, learn_scale="predicted"),
        ...     likelihood=pv.likelihoods.Bernoulli(MLP((20,), (1, 8, 8))),
        ...     posterior1=pv.posteriors.DiagonalNormal(MLP((1, 8, 8), (40,), y_dim=5), latent_dim=20),
        ...     posterior2=pv.posteriors.DiagonalNormal(MLP((1, 8, 8), (10,)), latent_dim=5),
        ... )
        >>> svi = pyro.infer.SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-3}), pyro.infer.Trace_ELBO())
        >>> loss = svi.step(torch.zeros(16, 1, 8, 8))   # minus the ELBO, summed over the batch
        >>> pv.evaluation.elbo(vae, torch.zeros(16, 1, 8, 8), num_samples=10).kind
        {'z2': 'analytic', 'z1': 'analytic'}
    """

    def __init__(
        self,
        prior: Prior,
        middle: Likelihood,
        likelihood: Likelihood,
        posterior1: Posterior,
        posterior2: Posterior,
        guide: Guide = "top_down",
        *,
        missing: bool = False,
        name: str | None = None,
    ) -> None:
        check_member("prior", prior, Prior)
        check_member("middle", middle, Likelihood)
        check_member("likelihood", likelihood, Likelihood)
        check_member("posterior1", posterior1, Posterior)
        check_member("posterior2", posterior2, Posterior)
        check_word("guide", guide, Guide)
        if prior.latent_dim != posterior2.latent_dim:
            raise ValueError(f"z2 has {prior.latent_dim} dimensions in prior, {posterior2.latent_dim} in posterior2")
        if guide == "top_down":
            _check_takes_z2(posterior1, prior.latent_dim)
        check_fit(prior, posterior2)
        super().__init__(name)
        self.top_down, self.missing = guide == "top_down", missing
        # Posteriors first: a prior that holds one too, like VampPrior, leaves its tensors the posterior's names.
        self.posterior1, self.posterior2 = posterior1, posterior2
        self.likelihood, self.middle, self.prior = likelihood, middle, prior

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name in ("posterior2", "missing") and "posterior2" in self._modules and not self.top_down:
            self.posterior2.event_dim, self.posterior2.missing = 1, False  # this one encodes z1, not data

    def model(self, x: Tensor | None = None, y: Tensor | None = None) -> Tensor:
        """Samples z2 ~ p(z2), z1 ~ p(z1|z2) and x ~ p(x|z1), or observes x.

        Args:
            x: data (B, *x_shape); without them the model generates len(y) data, or one.
            y: one-hot labels (B, C).

        Returns:
            x.
        """
        size = plate_size(x, y)
        self._list_model()
        with data_plate(size, "model"):
            z1 = self._from_p("", y)
            return observe(self.likelihood, z1, x, y, self.missing)

    def guide(self, x: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Samples z1 and z2 given data.

        Args:
            x: data (B, *x_shape).
            y: one-hot labels (B, C).

        Returns:
            z1 (B, D1) and z2 (B, D2).
        """
        check_data(x, y, self.missing)
        self._list_guide()
        with data_plate(len(x), "guide"):
            return self._from_q("", x, y)

    def generative(self, x: Tensor | None = None, y: Tensor | None = None) -> Tensor:
        """Samples z2, z1 and x, or observes x, under the open plates: see `VAE.generative`.

        Args:
            x: data (*plates, *x_shape); without them, one datum for each index of the plates.
            y: one-hot labels (*, C), broadcast against the plates and against z2 and z1.

        Returns:
            x.
        """
        check_label_rows(y)
        self._list_model()
        z1 = self._from_p(self.site(""), y)
        return observe_in_plates(self.likelihood, z1, x, y, self.missing, self.site("x"))

    def recognition(self, x: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Samples z1 and z2 given data, under the open plates: see `VAE.recognition`.

        Args:
            x: data (*plates, *x_shape).
            y: one-hot labels (*, C), broadcast against x.

        Returns:
            z1 (*plates, D1) and z2 (*plates, D2).
        """
        self._list_guide()
        with self._encoding(x, y):
            return self._from_q(self.site(""), x, y)

    @property
    def encoder_of_data(self) -> Posterior:
        return self.posterior1

    def _list_model(self) -> None:
        self.list_parameters(*self._of_model, others=self._of_guide)
        check_fit(self.prior, self.posterior2)

    def _list_guide(self) -> None:
        self.list_parameters(*self._of_guide, others=self._of_model)

    def _from_p(self, prefix: str, y: Tensor | None) -> Tensor:
        z2 = sampled(f"{prefix}z2", self.prior(y))
        return sampled(f"{prefix}z1", self._p_of_z1(z2, y))

    def _from_q(self, prefix: str, x: Tensor, y: Tensor | None) -> tuple[Tensor, Tensor]:
        if self.top_down:
            z2 = sampled(f"{prefix}z2", self.posterior2(x, y))
            z1 = sampled(f"{prefix}z1", self.posterior1(x, _joined(z2, y)))
        else:
            z1 = sampled(f"{prefix}z1", self.posterior1(x, y))
            z2 = sampled(f"{prefix}z2", self.posterior2(z1, y))
        return z1, z2

    def from_prior(self, num_data: int, y: Tensor | None = None) -> Tensor:
        """Draws what the decoder sees, z1 ~ p(z1|z2) at z2 ~ p(z2): (num_data, D1); labels y (num_data, C)."""
        return self._p_of_z1(self.prior(y).expand((num_data,)).sample(), y).sample()

    def from_guide(self, x: Tensor, num_samples: int, y: Tensor | None = None) -> Tensor:
        """Draws what the decoder sees, given data: z1 under the guide, (num_samples, B, D1)."""
        if not self.top_down:
            return self.posterior1(x, y).sample((num_samples,))
        z2 = self.posterior2(x, y).sample((num_samples,))
        return self.posterior1(x, _joined(z2, y)).sample()

    def centre(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Returns the centre of q(z1|x) or, top-down, of q(z1|x, z2) at the centre of z2: (B, D1)."""
        above = _joined(self.posterior2.centre(x, y), y) if self.top_down else y
        return self.posterior1.centre(x, above)

    @torch.no_grad()
    def start_at(self, expected: Tensor, x: Tensor, y: Tensor | None = None) -> None:
        """Sets scalings, likelihood and prior as `Autoencoder.start_at` says; the prior is that of z2."""
        fit_scalings(self, expected)
        self.likelihood.start_at(expected)
        self.prior.start_at(self.posterior2, x if self.top_down else self.posterior1.centre(x, y), y)

    @property
    def _of_model(self) -> list[nn.Module]:
        return [self.prior, self.middle, self.likelihood]

    @property
    def _of_guide(self) -> list[nn.Module]:
        return [self.posterior1, self.posterior2]

    def _p_of_z1(self, z2: Tensor, y: Tensor | None) -> TorchDistributionMixin:
        p = self.middle(z2, y)
        if not p.has_rsample:
            raise ValueError(
                f"z1 is a latent, so p(z1|z2) must be continuous and reparametrised; the middle "
                f"{type(self.middle).__name__} is not. Use likelihoods.Normal, Laplace or LowRankNormal"
            )
        if p.event_shape != (self.posterior1.latent_dim,):
            raise ValueError(
                f"the middle p(z1|z2) is over z1 of shape {tuple(p.event_shape)}, posterior1 over z1 of shape "
                f"({self.posterior1.latent_dim},)"
            )
        return p


def _joined(z2: Tensor, y: Tensor | None) -> Tensor:
    """Joins [z2, y], which q(z1|x, z2, y) gets in addition to x: (*, D2 + C) for z2 (*, D2) and labels y (*, C)."""
    if y is None:
        return z2
    lead = torch.broadcast_shapes(z2.shape[:-1], y.shape[:-1])
    return torch.cat([z2.expand(*lead, -1), y.expand(*lead, -1)], -1)


def _check_takes_z2(posterior1: Posterior, latent_dim: int) -> None:
    encoder = posterior1.encoder
    encoder = encoder.network if isinstance(encoder, Rescaled) else encoder
    if isinstance(encoder, Network) and encoder.y_dim < latent_dim:
        raise ValueError(
            f"the top-down q(z1|x, z2) takes z2 as the second argument of its encoder: build posterior1's "
            f"{type(encoder).__name__} with y_dim={latent_dim}, plus the number of label columns; got "
            f"y_dim={encoder.y_dim}"
        )
