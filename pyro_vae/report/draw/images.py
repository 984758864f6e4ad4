"""Draws images, and the history of a training, as PNG. No state of matplotlib is touched."""

import io
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from pyro_vae.report.cells import clipped
from pyro_vae.report.draw.image_views import Reconstructions, Samples

MISSING = (0.90, 0.55, 0.50)  # a dull red, which no grey image has; the gaps between images are grey
_LONGEST = 20  # characters of the name of a class
_MOST_CLASSES = 30  # with samples: a picture has so many rows


class Key(NamedTuple):
    """What shades and labels stand for in the pictures of a data set.

    Attributes:
        black, white: the values of x that are shown so; 0 and 255 for levels of 8 bits.
        classes: the names of the classes; empty where they are called by their numbers.

    Example:
        >>> key = Key(-1.0, 1.0, ("cat", "dog"))
        >>> key.shades(torch.tensor([[[[-1.0, 0.0, 1.0]]]])).flatten().tolist(), key.name(1), Key().name(1)
        ([0.0, 0.5, 1.0], 'dog', '1')
    """

    black: float = 0.0
    white: float = 1.0
    classes: tuple[str, ...] = ()

    def shades(self, x: Tensor) -> Tensor:
        """Turns images (N, C, H, W) into shades, 0 for black and 1 for white; `MISSING` where numbers are missing.

        Returns:
            (N, C, H, W), or (N, 3, H, W) where numbers are missing.
        """
        shades = (x - self.black) / (self.white - self.black) if self.black else x / self.white
        absent = x.isnan()
        if not absent.any():
            return shades
        tint = shades.new_tensor(MISSING)[:, None, None]
        return torch.where(absent.any(-3, keepdim=True), tint, shades)

    def name(self, label: int) -> str:
        """Names a class, not too long, as matplotlib shows it: a "$" is no mathematics, and "_" hides nothing."""
        name = self.classes[label] if label < len(self.classes) else str(label)
        return clipped(f" {name}" if name.startswith("_") else name, _LONGEST).replace("$", r"\$")


PLAIN = Key()


def can_show(x_shape: Sequence[int]) -> bool:
    """Returns whether data of this shape are images: (1, H, W) or (3, H, W)."""
    return len(x_shape) == 3 and x_shape[0] in (1, 3)


def labels_to_draw(
    num_classes: int,
    rows: int = 8,
    label: int | None = None,
    device: torch.device | None = None,
    trained: Sequence[int] | None = None,
) -> Tensor | None:
    """Makes one-hot labels for a picture of samples: a row of each class, or rows of one class.

    Args:
        num_classes: C, 0 where there are none.
        rows: how many data of each class, or the side of a square of one.
        label: the one class; None for all of them.
        device: where the labels are made.
        trained: the classes that the training data have, of which at most 30 are shown; None for all.

    Returns:
        One-hot labels (N, C); None where there are no classes.
    """
    if not num_classes:
        return None
    classes = torch.eye(num_classes, device=device)
    if label is not None:
        return classes[label].expand(rows * rows, num_classes)
    shown = list(range(num_classes) if trained is None else trained)[:_MOST_CLASSES]
    return classes[shown].repeat_interleave(rows, 0)


def draw_samples(view: Samples, key: Key = PLAIN, columns: int = 8) -> bytes:
    """Draws means of p(x|z) beside draws of x at the same z, with the names of their classes where they have any.

    Args:
        view: images generated from the prior.
        key: what shades and labels stand for.
        columns: how many images stand in a row of each panel.
    """
    figure = Figure(figsize=(9, 4.8 * max(1, len(view.x) / columns**2)), layout="constrained")
    titles = "means of p(x|z), z drawn from the prior", "draws of x at the same z"
    panels = figure.subplots(1, 2)
    for axes, images, title in zip(panels, (view.mean, view.x), titles, strict=True):
        show(axes, picture := tile(key.shades(images), columns), title)
    if view.labels is not None:
        first = view.labels[::columns].tolist()
        is_new = [i == 0 or label != first[i - 1] for i, label in enumerate(first)]
        name_rows(panels[0], picture, [key.name(n) if new else "" for n, new in zip(first, is_new, strict=True)])
    return png(figure)


def draw_reconstructions(view: Reconstructions, key: Key = PLAIN) -> bytes:
    """Draws data in the top row; below, means of p(x|z) at several z, and how log p(x|z) varies over more draws.

    Args:
        view: images and what the program makes of them.
        key: what shades stand for.
    """
    x, mean, draws = view.x, view.mean, view.log_likelihood_of_draws
    foot = 0.5 if draws is None else 0.9
    size = max(4, 0.75 * len(x)), 0.75 * (len(mean) + 1) * x.shape[-2] / x.shape[-1] + foot
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    picture = tile(key.shades(torch.cat([x[None], mean]).flatten(0, 1)), len(x))
    show(axes, picture, f"top row: data. Below: means of p(x|z) at {len(mean)} draws of z from q(z|x)")
    if draws is not None:
        pairs = zip(draws.mean(0).tolist(), draws.std(0).tolist(), strict=True)
        name_columns(axes, picture, [f"{mean:.1f}\n± {spread:.1f}" for mean, spread in pairs])
        axes.set_xlabel(f"log p(x|z), nats: mean ± standard deviation over {len(draws)} draws", fontsize=9)
    return png(figure)


def training(history: Sequence[Mapping[str, Any]], best: str = "kept") -> bytes:
    """Draws `training_figure` as a PNG."""
    return png(training_figure(history, best))


def training_figure(history: Sequence[Mapping[str, Any]], best: str = "kept") -> Figure:
    """Draws minus the training loss and the validation ELBO against the epoch, with the best epoch marked.

    A plain autoencoder has no ELBO. Its reconstruction is shown instead.

    Args:
        history: the records of the epochs, as history.jsonl has them.
        best: what is said of the best epoch.
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
    at = max(i for i, record in enumerate(history) if record["best"])
    axes.plot(epochs[at], elbo[at], "o", color="C3", label=f"{best}: {elbo[at]:.2f} at epoch {epochs[at]}")
    low, high = sorted(elbo)[len(elbo) // 20], max(*elbo, *(-record["loss"] for record in history))
    axes.set_ylim(low - 0.3 * (high - low) - 1e-3, high + 0.1 * (high - low) + 1e-3)
    axes.set(xlabel="epoch", ylabel="nats per datum")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False, loc="lower right")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def tile(images: Tensor, columns: int) -> Tensor:
    """Puts images (N, C, H, W) into one picture (rows * (H + 1) - 1, columns * (W + 1) - 1, C), one pixel apart.

    The gaps, and the places that a last row leaves empty, are NaN.

    >>> tile(torch.zeros(6, 1, 8, 8), columns=3).shape
    torch.Size([17, 26, 1])
    """
    images = torch.cat([images, images.new_full((-len(images) % columns, *images.shape[1:]), float("nan"))])
    images = torch.nn.functional.pad(images, (0, 1, 0, 1), value=float("nan"))
    rows = [torch.cat(list(row), -1) for row in images.split(columns)]
    return torch.cat(rows, -2)[..., :-1, :-1].movedim(0, -1)


def show(axes: Any, picture: Tensor, title: str = "") -> None:
    """Shows a picture (rows, columns, C) with values in [0, 1]; NaN is grey."""
    picture = torch.where(picture.isnan(), 0.5, picture.clamp(0, 1)).cpu()
    axes.imshow(picture.squeeze(-1).numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set_title(title, fontsize=10)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def name_columns(axes: Any, picture: Tensor, names: Sequence[str]) -> None:
    """Writes names below the columns of a tiled picture."""
    axes.set_xticks(centres(picture.shape[1], len(names)), names, fontsize=8)
    axes.tick_params(length=0)


def name_rows(axes: Any, picture: Tensor, names: Sequence[str]) -> None:
    """Writes names to the left of the rows of a tiled picture."""
    axes.set_yticks(centres(picture.shape[0], len(names)), names, fontsize=8)
    axes.tick_params(length=0)


def centres(size: int, number: int) -> list[float]:
    """Lists where the middles of so many tiles are in a picture of `size` pixels.

    >>> centres(17, 2)  # pixels 0 ... 7 and 9 ... 16
    [3.5, 12.5]
    """
    pitch = (size + 1) / number
    return [(i + 0.5) * pitch - 1 for i in range(number)]


def png(figure: Figure) -> bytes:
    """Writes a figure as PNG, the same bytes at any time."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return buffer.getvalue()
