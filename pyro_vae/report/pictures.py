"""From a program, data and a history to pictures, as PNG bytes; no state of matplotlib is touched."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from pyro_vae.model.vae import VAE
from pyro_vae.randomness import stream


def can_show(x_shape: Sequence[int]) -> bool:
    """Whether data of this shape are images: (1, H, W) or (3, H, W)."""
    return len(x_shape) == 3 and x_shape[0] in (1, 3)


def samples(vae: VAE, seed: int, rows: int = 8, *, num_classes: int = 0, white: float = 1.0) -> bytes:
    """Data generated from the prior: means of p(x|z) beside draws from it, at the same z.

    Args:
        vae: what generates.
        seed: of the draws.
        rows: and columns of each panel.
        num_classes: of a conditional program, which fills one row for each class.
        white: the value of x that is shown white, 255 for levels of 8 bits.
    """
    device = next(vae.parameters()).device
    y = torch.eye(num_classes, device=device).repeat_interleave(rows, 0) if num_classes else None
    panels = []
    for mean in (True, False):
        with stream(seed, "samples", device=device):  # twice the same, so that both panels show the same z
            panels.append(vae.generate(None if num_classes else rows * rows, y, mean=mean) / white)
    figure = Figure(figsize=(9, 4.8 * max(1, num_classes / rows)), layout="constrained")
    for axes, images, title in zip(
        figure.subplots(1, 2),
        panels,
        ("means of p(x|z), z drawn from the prior", "draws of x at the same z"),
        strict=True,
    ):
        _show(axes, tile(images, rows), title)
    return _png(figure)


def reconstructions(
    vae: VAE,
    x: Tensor,
    seed: int,
    num_data: int = 12,
    num_samples: int = 4,
    *,
    y: Tensor | None = None,
    white: float = 1.0,
) -> bytes:
    """Data in the top row; below, means of p(x|z) for several draws of z from q(z|x)."""
    x, y = x[:num_data], None if y is None else y[:num_data]
    with stream(seed, "reconstructions", device=x.device):
        rows = torch.cat([x[None], vae.reconstruct(x, y, num_samples=num_samples)]).flatten(0, 1) / white
    figure = Figure(figsize=(max(4, 0.75 * len(x)), 0.75 * (num_samples + 1) + 0.5), layout="constrained")
    _show(
        figure.subplots(),
        tile(rows, len(x)),
        f"top row: data. Below: means of p(x|z) at {num_samples} draws of z from q(z|x)",
    )
    return _png(figure)


def training(history: Sequence[Mapping[str, Any]]) -> bytes:
    """Minus the training loss and the validation ELBO against the epoch, with the best epoch marked.

    A plain autoencoder has no ELBO: its reconstruction is shown instead.
    """
    epochs = [record["epoch"] for record in history]
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(epochs, [-record["loss"] for record in history], color="0.6", lw=1, label="minus training loss")
    name = "reconstruction" if history[0]["valid_elbo"] is None else "ELBO"
    elbo = [record[f"valid_{name.lower()}"] for record in history]
    axes.plot(epochs, elbo, color="C0", lw=1.5, label=f"validation {name}")
    if name == "ELBO":
        pairs = [(v, record["valid_standard_error"] or 0.0) for v, record in zip(elbo, history, strict=True)]
        ends = [v - e for v, e in pairs], [v + e for v, e in pairs]
        axes.fill_between(epochs, *ends, color="C0", alpha=0.2, lw=0, label="± standard error over the data")
    # Not the highest ELBO: under a weighted loss another epoch is kept.
    best = max(i for i, record in enumerate(history) if record["best"])
    axes.plot(epochs[best], elbo[best], "o", color="C3", label=f"kept: {elbo[best]:.2f} at epoch {epochs[best]}")
    low, high = sorted(elbo)[len(elbo) // 20], max(*elbo, *(-record["loss"] for record in history))
    axes.set_ylim(low - 0.3 * (high - low) - 1e-3, high + 0.1 * (high - low) + 1e-3)
    axes.set(xlabel="epoch", ylabel="nats per datum")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False, loc="lower right")
    axes.spines[["top", "right"]].set_visible(False)
    return _png(figure)


def tile(images: Tensor, columns: int) -> Tensor:
    """Images (N, C, H, W) as one picture (rows * (H + 1) - 1, columns * (W + 1) - 1, C), one pixel apart.

    The gaps, and the places that a last row leaves empty, are NaN.

    >>> tile(torch.zeros(6, 1, 8, 8), columns=3).shape
    torch.Size([17, 26, 1])
    """
    images = torch.cat([images, images.new_full((-len(images) % columns, *images.shape[1:]), float("nan"))])
    images = torch.nn.functional.pad(images, (0, 1, 0, 1), value=float("nan"))
    rows = [torch.cat(list(row), -1) for row in images.split(columns)]
    return torch.cat(rows, -2)[..., :-1, :-1].movedim(0, -1)


def _show(axes: Any, picture: Tensor, title: str) -> None:
    picture = torch.where(picture.isnan(), 0.5, picture.clamp(0, 1)).cpu()
    axes.imshow(picture.squeeze(-1).numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set_title(title, fontsize=10)
    axes.set_axis_off()


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return buffer.getvalue()
