"""Priors p(z): modules whose `forward` returns a Pyro distribution over the latent vector.

    prior(y=None) -> p(z), or p(z | y)     batch_shape () or (B,) given y,     event_shape (D,)

To add a member:

- subclass `Prior` and return a distribution of event shape `(D,)` from `forward`;
- it must be a Pyro distribution (`pyro.distributions`), so that plates can expand it;
- learned quantities are `nn.Parameter`s, and constants are buffers (`loc` and `scale` are there already);
- nothing else is needed: every objective and estimator reads log-probabilities from the trace.
"""

import math
from collections.abc import Sequence

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_vae.model import distributions
from pyro_vae.model.constants import Constants
from pyro_vae.model.distributions import flows
from pyro_vae.model.distributions.mixtures import Mixture
from pyro_vae.model.posteriors import Delta, Posterior
from pyro_vae.model.program import once
from pyro_vae.model.scaling import Scaling
from pyro_vae.option_words import Flow, PseudoInputs, check_word


class Prior(Constants):
    """Base class of p(z). It keeps the buffers `loc` (zeros) and `scale` (ones), both `(D,)`, for its members.

    Args:
        latent_dim: D, the number of latent dimensions.

    Raises:
        ValueError: latent_dim is below 1.

    Example:
        >>> class StudentPrior(Prior):
        ...     def forward(self, y=None):
        ...         return dist.StudentT(5.0, self.loc, self.scale).to_event(1)
        >>> StudentPrior(20)().event_shape
        torch.Size([20])
    """

    loc: Tensor
    scale: Tensor

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        if latent_dim < 1:
            raise ValueError(f"a latent space needs at least one dimension; got latent_dim={latent_dim}")
        self.latent_dim = latent_dim
        self.register_constants()

    def constants(self) -> dict[str, Tensor]:
        return {"loc": torch.zeros(self.latent_dim), "scale": torch.ones(self.latent_dim)}

    def forward(self, y: Tensor | None = None) -> dist.Distribution:
        """Builds p(z), or p(z|y) for labels y (B, C)."""
        raise NotImplementedError(f"{type(self).__name__} has no forward()")

    def start_at(self, posterior: Posterior, x: Tensor, y: Tensor | None = None) -> None:
        """Before training, sets what depends on the data; by default nothing.

        Args:
            posterior: q(z|x), which encodes the data.
            x: some of the data (N, *x_shape).
            y: their one-hot labels (N, C).
        """


class StandardNormal(Prior):
    r"""The standard normal prior.

    .. math:: p(z) = N(z; 0, I_D)

    With a `DiagonalNormal` posterior the KL is analytic, in nats (much teaching material writes it with the opposite
    sign, but a KL is never negative):

    .. math:: \mathrm{KL}(q \,\|\, p) = \frac{1}{2} \sum_j (\mu_j^2 + \sigma_j^2 - 1 - \log \sigma_j^2)

    Args:
        latent_dim: D.

    Reference:
        Appendix B of Kingma & Welling, "Auto-Encoding Variational Bayes", ICLR 2014. https://arxiv.org/abs/1312.6114

    Example:
        >>> StandardNormal(2)().log_prob(torch.zeros(2))   # -log(2 pi)
        tensor(-1.8379)
    """

    def forward(self, y: Tensor | None = None) -> dist.Distribution:
        return dist.Normal(self.loc, self.scale).to_event(1)


class DiagonalNormal(Prior):
    r"""A diagonal normal prior whose mean and scales are learned, starting from N(0, I).

    .. math:: p(z) = N(z; m, \mathrm{diag} \, \sigma^2)

    A decoder with a free first layer could do the same; this prior is there for comparison. The KL of normal posteriors
    is analytic.

    Args:
        latent_dim: D.

    Example:
        >>> DiagonalNormal(2)().log_prob(torch.zeros(2))
        tensor(-1.8379, grad_fn=<SumBackward1>)
    """

    def __init__(self, latent_dim: int) -> None:
        super().__init__(latent_dim)
        self.mean = nn.Parameter(torch.zeros(latent_dim))
        self.log_scale = nn.Parameter(torch.zeros(latent_dim))

    def forward(self, y: Tensor | None = None) -> dist.Distribution:
        return dist.Normal(self.mean, self.log_scale.exp()).to_event(1)


class FullNormal(Prior):
    r"""A normal prior whose mean and full covariance are learned, starting from N(0, I).

    .. math:: p(z) = N(z; m, L L'), \qquad L \text{ lower triangular}

    `root` holds the entries of L below the diagonal, and the logarithms of the entries on it. The KL of normal
    posteriors, diagonal or not, is analytic: see `pyro_vae.model.distributions.gaussian_kl`.

    Args:
        latent_dim: D.

    Example:
        >>> FullNormal(2)().covariance_matrix.diagonal()
        tensor([1., 1.], grad_fn=<DiagonalBackward0>)
    """

    def __init__(self, latent_dim: int) -> None:
        super().__init__(latent_dim)
        self.mean = nn.Parameter(torch.zeros(latent_dim))
        self.root = nn.Parameter(torch.zeros(latent_dim, latent_dim))

    def forward(self, y: Tensor | None = None) -> dist.Distribution:
        return dist.MultivariateNormal(self.mean, scale_tril=self.root.tril(-1) + self.root.diagonal().exp().diag())


class Laplace(Prior):
    r"""A Laplace prior without parameters, with heavier tails and a sharper peak than the normal.

    .. math:: p(z) = \prod_j \frac{1}{2} e^{-|z_j|}

    Its KL from a `DiagonalNormal` posterior is analytic (registered by torch).

    Args:
        latent_dim: D.

    Example:
        >>> Laplace(2)().log_prob(torch.zeros(2))   # -2 log 2
        tensor(-1.3863)
    """

    def forward(self, y: Tensor | None = None) -> dist.Distribution:
        return dist.Laplace(self.loc, self.scale).to_event(1)


class StudentT(Prior):
    r"""A Student-t prior without parameters, whose tails fall as a power of the distance.

    .. math:: p(z) \propto \prod_j (1 + z_j^2 / \nu)^{-(\nu + 1) / 2}

    Args:
        latent_dim: D.
        df: nu, the degrees of freedom, above 0; with 2 or fewer the variance is infinite.

    Raises:
        ValueError: df is 0 or below, or infinite.

    Example:
        >>> StudentT(1, df=1.0)().log_prob(torch.zeros(1))   # Cauchy: -log pi
        tensor(-1.1447)
    """

    def __init__(self, latent_dim: int, df: float = 5.0) -> None:
        super().__init__(latent_dim)
        if not df > 0:
            raise ValueError(f"df, the degrees of freedom, must be above 0; got {df}")
        if math.isinf(df):
            raise ValueError("df, the degrees of freedom, must be finite; got inf. For its limit use StandardNormal")
        self.df = df

    def forward(self, y: Tensor | None = None) -> dist.Distribution:
        return distributions.StudentT(self.df, self.loc, self.scale).to_event(1)


class ConditionalNormal(Prior):
    r"""A prior with one learned diagonal normal for each class, starting from N(0, I).

    .. math:: p(z|y) = N(z; m_y, \mathrm{diag} \, \sigma_y^2)

    Labels y (B, C) give batch_shape (B,). The KL of normal posteriors is analytic.

    Args:
        latent_dim: D.
        y_dim: C, the number of classes.

    Raises:
        ValueError: there are no classes, or `forward` gets no labels.

    Reference:
        Sohn, Lee & Yan, "Learning Structured Output Representation using Deep Conditional Generative Models", NeurIPS
        2015. https://papers.nips.cc/paper/2015/hash/8d55a249e6baa5c06772297520da2051-Abstract.html

    Example:
        >>> ConditionalNormal(20, y_dim=10)(torch.eye(10)[[7, 7, 1]]).batch_shape
        torch.Size([3])
    """

    def __init__(self, latent_dim: int, y_dim: int) -> None:
        super().__init__(latent_dim)
        if y_dim < 1:
            raise ValueError(f"p(z|y) needs at least one class; got y_dim={y_dim}")
        self.means = nn.Parameter(torch.zeros(y_dim, latent_dim))
        self.log_scales = nn.Parameter(torch.zeros(y_dim, latent_dim))

    def forward(self, y: Tensor | None = None) -> dist.Distribution:
        if y is None or y.shape[-1] != len(self.means):
            given = "none" if y is None else f"labels of shape {tuple(y.shape)}"
            raise ValueError(
                f"ConditionalNormal is p(z|y) and needs one-hot labels (B, {len(self.means)}); got {given}"
            )
        return dist.Normal(y @ self.means, (y @ self.log_scales).exp()).to_event(1)


class MixtureOfNormals(Prior):
    r"""A mixture of diagonal normals with learned weights, means and scales. Whole vectors are mixed.

    .. math:: p(z) = \sum_{k=1}^K w_k \, N(z; m_k, \mathrm{diag} \, \sigma_k^2)

    The means are drawn so that the mixture starts with mean 0 and variance 1; `start_at` puts them on encoded data
    instead. There is no analytic KL.

    Args:
        latent_dim: D.
        num_components: K.

    Raises:
        ValueError: K is below 1.

    Reference:
        Dilokthanakul et al., "Deep Unsupervised Clustering with Gaussian Mixture Variational Autoencoders", 2016 (there
        with further latent variables). https://arxiv.org/abs/1611.02648

    Example:
        >>> p = MixtureOfNormals(20, num_components=10)()
        >>> p.batch_shape, p.event_shape
        (torch.Size([]), torch.Size([20]))
    """

    SPREAD = 0.5  # of the means; within a component sigma^2 = 1 - SPREAD^2, so the mixture has variance 1
    ENCODED = 1000  # number of data that determine centre and spread

    def __init__(self, latent_dim: int, num_components: int = 100) -> None:
        super().__init__(latent_dim)
        _check_components(num_components)
        self.logits = nn.Parameter(torch.zeros(num_components))
        self.means = nn.Parameter(self.SPREAD * torch.randn(num_components, latent_dim))
        self.log_scales = nn.Parameter(torch.full_like(self.means, math.log(1 - self.SPREAD**2) / 2))

    def forward(self, y: Tensor | None = None) -> dist.Distribution:
        components = dist.Normal(self.means, self.log_scales.exp()).to_event(1)
        return Mixture(self.logits.log_softmax(0), components)

    @torch.no_grad()
    def start_at(self, posterior: Posterior, x: Tensor, y: Tensor | None = None) -> None:
        """Puts the means on codes z ~ q(z|x) of K data, moved to their centre so that the mixture has their spread."""

        def encoded(number: int) -> Tensor:
            data, device = _draw(number, len(x)), self.means.device
            return posterior(x[data].to(device), None if y is None else y[data].to(device)).sample()

        z, others = encoded(len(self.means)), encoded(self.ENCODED)
        self.means.copy_(others.mean(0) + self.SPREAD * (z - others.mean(0)))
        self.log_scales.copy_((math.sqrt(1 - self.SPREAD**2) * others.std(0)).log().expand_as(self.means))


class VampPrior(Prior):
    r"""A mixture of the guide's own densities at K learned pseudo-inputs u_k.

    .. math:: p(z) = \frac{1}{K} \sum_{k=1}^K q(z|u_k)

    The best prior for a guide is its mean over all data, and this is such a mean with few terms. It holds the program's
    posterior itself, so the encoder is trained through the prior too, and an evaluation of p(z) depends on the encoder.
    It works with any posterior that has a density. With a `FlowPosterior`, each p(z) costs K (D + 1) passes of its
    transforms. There is no analytic KL.

    Args:
        posterior: the posterior of the same program.
        x_shape: event shape of the data.
        num_components: K.
        y_dim: number of label columns that the posterior takes. Each u_k then has its own label, which `start_at` takes
            from the data, and p(z) does not depend on y.
        pseudo_inputs: where `start_at` puts the u_k: "data" (on random training data) or "random" (uniform over the
            range of the data). Before that they are uniform in [0, 1].
        data_scale: the scaling through which the encoder sees data. The u_k are stored in the encoder's units, so that
            optimiser steps suit columns of any unit, and the posterior gets x_k = undo(u_k).
        masks: True for a program with `missing=True`: each u_k has its own mask, `pseudo_observed`, at first without
            gaps. `start_at` takes the masks of the data, and the posterior sees NaN in the gaps.

    Raises:
        ValueError: K is below 1, the posterior is a `Delta`, `pseudo_inputs` is unknown, or `start_at` gets data with
            NaN without `masks=True`.

    Reference:
        Eq. 9 of Tomczak & Welling, "VAE with a VampPrior", AISTATS 2018. https://arxiv.org/abs/1705.07120

    Example:
        >>> from pyro_vae.model.networks import MLP
        >>> from pyro_vae.model.posteriors import DiagonalNormal
        >>> posterior = DiagonalNormal(MLP((1, 8, 8), (40,)), latent_dim=20)
        >>> VampPrior(posterior, (1, 8, 8), num_components=50)().event_shape
        torch.Size([20])
    """

    pseudo_y: Tensor | None
    pseudo_observed: Tensor | None

    def __init__(
        self,
        posterior: Posterior,
        x_shape: Sequence[int],
        num_components: int = 100,
        y_dim: int = 0,
        pseudo_inputs: PseudoInputs = "data",
        data_scale: Scaling | None = None,
        masks: bool = False,
    ) -> None:
        super().__init__(posterior.latent_dim)
        _check_components(num_components)
        check_word("pseudo_inputs", pseudo_inputs, PseudoInputs)
        if isinstance(posterior, Delta):
            raise ValueError(
                "a VampPrior is a mixture of the guide's densities, but a Delta posterior has no density: use another "
                "prior"
            )
        self.posterior, self.pseudo_inputs, self.data_scale = posterior, pseudo_inputs, data_scale
        self.pseudo_x = nn.Parameter(torch.rand(num_components, *x_shape))
        classes = torch.eye(y_dim)[torch.arange(num_components) % y_dim] if y_dim else None
        self.register_buffer("pseudo_y", classes)
        self.register_buffer("pseudo_observed", torch.ones_like(self.pseudo_x, dtype=torch.bool) if masks else None)

    def forward(self, y: Tensor | None = None) -> dist.Distribution:
        return Mixture(*once(self, self._components))

    def _components(self) -> tuple[Tensor, dist.Distribution]:
        weights = self.pseudo_x.new_full((len(self.pseudo_x),), -math.log(len(self.pseudo_x)))
        return weights, self.posterior(self._pseudo_data(), self.pseudo_y)

    def _pseudo_data(self) -> Tensor:
        x = self.pseudo_x if self.data_scale is None else self.data_scale.undo(self.pseudo_x)
        return x if self.pseudo_observed is None else torch.where(self.pseudo_observed, x, math.nan)

    @torch.no_grad()
    def start_at(self, posterior: Posterior, x: Tensor, y: Tensor | None = None) -> None:
        """Puts the pseudo-inputs and their labels on random data, or the inputs at random in the range of the data."""
        x = x if self.data_scale is None else self.data_scale.see(x)
        if (gaps := x.isnan()).any() and self.pseudo_observed is None:
            raise ValueError(
                "x has missing numbers (NaN), so pseudo-inputs that start at data have them too: use "
                "VampPrior(masks=True)"
            )
        if self.pseudo_inputs == "random":
            self.pseudo_x.uniform_(x[~gaps].min().item(), x[~gaps].max().item())
            return
        data = _draw(len(self.pseudo_x), len(x))
        self.pseudo_x.copy_(x[data].masked_fill(gaps[data], 0.0))
        if self.pseudo_observed is not None:
            self.pseudo_observed.copy_(~gaps[data])
        if self.pseudo_y is not None and y is not None:
            self.pseudo_y.copy_(y[data])


class FlowPrior(Prior):
    r"""A normalising flow from N(0, I), learned.

    .. math:: \log p(z) = \log N(f(z); 0, I) + \log \left| \det \frac{\partial f}{\partial z} \right|

    `spline` is a neural spline flow with coupling, which is cheap in both directions. `autoregressive` is a masked
    autoregressive flow, whose density costs one pass and whose samples cost D passes. Both come from zuko. There is no
    analytic KL.

    Args:
        latent_dim: D.
        flow: "spline" or "autoregressive".
        flow_transforms: the number of transforms, one after another.
        flow_hidden: hidden widths of each transform's network.

    Raises:
        ValueError: the flow is unknown, or a coupling flow has only one dimension.

    Reference:
        Durkan, Bekasov, Murray & Papamakarios, "Neural Spline Flows", NeurIPS 2019. https://arxiv.org/abs/1906.04032

        Papamakarios, Pavlakou & Murray, "Masked Autoregressive Flow for Density Estimation", NeurIPS 2017.
        https://arxiv.org/abs/1705.07057

    Example:
        >>> FlowPrior(4, flow="autoregressive")().sample((3,)).shape
        torch.Size([3, 4])
    """

    def __init__(
        self,
        latent_dim: int,
        flow: Flow = "spline",
        flow_transforms: int = 3,
        flow_hidden: Sequence[int] = (64, 64),
    ) -> None:
        super().__init__(latent_dim)
        check_word("flow", flow, Flow)
        self.flow = flows.FLOWS[flow](latent_dim, flow_transforms, tuple(flow_hidden))

    def forward(self, y: Tensor | None = None) -> dist.Distribution:
        return flows.FlowDistribution(self.flow())


def _check_components(number: int) -> None:
    if number < 1:
        raise ValueError(f"a mixture needs at least one component; got num_components={number}")


def _draw(number: int, size: int) -> Tensor:
    """Draws `number` positions among `size` data, all positions equally often."""
    return torch.randperm(max(number, size))[:number] % size
