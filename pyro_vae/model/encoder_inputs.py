"""The input of an encoder if numbers in x can be missing."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

_MASK = 0.1  # the size of the mask relative to x


class WithMask(nn.Module):
    r"""An encoder that takes NaN in x as missing numbers: it sees zeros in their place, and a mask that marks them.

    .. math:: \mathrm{network}([\mathrm{scale} \cdot x_0, \, (m - \tfrac{1}{2}) / 10]), \qquad
              m_i = 1 \text{ where } x_i \text{ was observed, else } 0

    The mask is small at first, since random gaps are noise to the encoder. At full size they drown x: on MNIST with
    half of the pixels missing, one latent of twenty was used, and the ELBO was 20 nats lower. For the same reason x
    should be centred, see `pyro_vae.scaling.Centred`.

    x_0 is x with zeros for missing numbers. From zeros only, the encoder could not tell whether a number is 0 or
    missing. Build the program with `missing=True`.

    Args:
        network: maps rows (N, 2 C, ...), for x_shape (C, ...), and labels (N, Y), if given, to codes. Twice as many
            numbers or channels go in: (2 D,) for vectors (D,), (2 C, H, W) for images (C, H, W), see `in_shape`.
            input_scale: factor on x only, e.g. 1 / 255 for grey levels, in place of the network's own `input_scale`.

    Reference:
        Mattei & Frellsen, "MIWAE: Deep Generative Modelling and Imputation of Incomplete Data Sets", ICML 2019, who
        give the encoder zeros. https://arxiv.org/abs/1812.02633

        Collier, Nazabal & Williams, "VAEs in the Presence of Missing Data", 2020, who give it the mask too.
        https://arxiv.org/abs/2006.05301

    Example:
        >>> from pyro_vae.model.networks import MLP
        >>> encoder = WithMask(MLP(WithMask.in_shape((3,)), (4,)))
        >>> encoder(torch.tensor([[0.5, torch.nan, 2.0]])).isfinite().all()
        tensor(True)
    """

    def __init__(self, network: Callable[..., Tensor], input_scale: float = 1.0) -> None:
        super().__init__()
        self.network, self.input_scale = network, input_scale

    @staticmethod
    def in_shape(x_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Returns the input shape of the inner network for data of shape x_shape.

        Example:
            >>> WithMask.in_shape((5,)), WithMask.in_shape((3, 28, 28))
            ((10,), (6, 28, 28))
        """
        return (2 * x_shape[0], *x_shape[1:])

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        missing = x.isnan()
        given = torch.cat([torch.where(missing, 0.0, x) * self.input_scale, _MASK * ((~missing).to(x) - 0.5)], 1)
        return self.network(given) if y is None else self.network(given, y)
