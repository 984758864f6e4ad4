"""Draws images, and the history of a training, as PNG. No state of matplotlib is touched."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from pyro_vae.report.cells import clipped
from pyro_vae.report.draw.image_views import Reconstructions, Samples
from pyro_vae.report.draw.style import WIDTH, figure, png, styled, typeset
from pyro_vae.report.palette import BLUE, GREY, RED

MISSING = (0.90, 0.55, 0.50)  # a dull red, which no grey image has; the gaps between images are grey
_LONGEST = 20  # characters of the name of a class
_FAR = 0.5  # of the height: where all epochs but the first take less, they have a panel of their own
_TILE = 0.75  # inches: the width of an image where there are few
_MOST_CLASSES = 30  # with samples: a picture has this many rows


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
        """Names a class, not too long, so that matplotlib shows it: from a legend a leading "_" would hide it."""
        name = self.classes[label] if label < len(self.classes) else str(label)
        return clipped(f" {name}" if name.startswith("_") else name, _LONGEST)


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
    """Draws means of p(x|z) next to draws of x at the same z, with the names of their classes if they have any.

    Args:
        view: images generated from the prior.
        key: what shades and labels stand for.
        columns: how many images stand in a row of each panel.
    """
    rows, (high, wide) = -(-len(view.x) // columns), view.x.shape[-2:]
    titles = "means of p(x|z),\nz drawn from the prior", "draws of x\nat the same z"
    with figure(WIDTH / 2 * rows / columns * high / wide + 0.4) as drawn:
        panels = drawn.subplots(1, 2)
        for axes, images, title in zip(panels, (view.mean, view.x), titles, strict=True):
            show(axes, picture := tile(key.shades(images), columns), title)
            axes.set_anchor("N")  # the title then stands where the layout left room for it
        if view.labels is not None:
            first = view.labels[::columns].tolist()
            is_new = [i == 0 or label != first[i - 1] for i, label in enumerate(first)]
            name_rows(panels[0], picture, [key.name(n) if new else "" for n, new in zip(first, is_new, strict=True)])
        return png(drawn)


def draw_reconstructions(view: Reconstructions, key: Key = PLAIN) -> bytes:
    """Draws data in the top row; below, means of p(x|z) at several z, and how log p(x|z) varies over more draws.

    Args:
        view: images and what the program makes of them.
        key: what shades stand for.
    """
    x, mean, draws = view.x, view.mean, view.log_likelihood_of_draws
    width = min(_TILE, WIDTH / len(x))
    with figure(width * (len(mean) + 1) * x.shape[-2] / x.shape[-1] + (0.42 if draws is None else 1.6)) as drawn:
        axes = drawn.subplots()
        picture = tile(key.shades(torch.cat([x[None], mean]).flatten(0, 1)), len(x))
        show(axes, picture, f"top row: data\nbelow: means of p(x|z) at {len(mean)} draws of z from q(z|x)")
        if draws is not None:
            pairs = zip(draws.mean(0).tolist(), draws.std(0).tolist(), strict=True)
            name_columns(axes, picture, [f"{typeset(mean, 1)} ± {spread:.1f}" for mean, spread in pairs])
            axes.tick_params(axis="x", rotation=90)  # twelve of them would stand in each other's way
            axes.set_xlabel(f"log p(x|z), nats: mean ± standard deviation\nover {len(draws)} draws")
        return png(drawn)


def training(history: Sequence[Mapping[str, Any]], best: str = "kept") -> bytes:
    """Draws `training_figure` as a PNG."""
    with styled():
        return png(training_figure(history, best))


def training_figure(history: Sequence[Mapping[str, Any]], best: str = "kept") -> Figure:
    """Draws minus the training loss and the validation ELBO against the epoch, with the best epoch marked.

    Where the first epochs are far below the others, a panel below shows only the others. A plain autoencoder has no
    ELBO. Its reconstruction is shown instead.

    Args:
        history: the records of the epochs, as history.jsonl has them.
        best: what is said of the best epoch.
    """
    loss = [-record["loss"] for record in history]
    name = "reconstruction" if history[0]["valid_elbo"] is None else "ELBO"
    score = [record[f"valid_{name.lower()}"] for record in history]
    late = _late(score, loss)
    whole = min(*score, *loss), late[1]
    far = late[1] - late[0] < _FAR * (whole[1] - whole[0])
    with figure(4.8 if far else 3.4) as drawn:
        panels = drawn.subplots(1 + far, sharex=True, squeeze=False, height_ratios=[1, 2] if far else [1])[:, 0]
        for axes, (low, high) in zip(panels, (whole, late), strict=False):
            _draw_training(axes, history, loss, score, name, best)
            axes.set_ylim(low - 0.05 * (high - low) - 1e-3, high + 0.05 * (high - low) + 1e-3)
        panels[0].set_title("every epoch" if far else "")
        if far:
            panels[1].set_title("the same, its upper part")
        panels[-1].set_xlabel("epoch")
        drawn.legend(*panels[0].get_legend_handles_labels(), loc="outside lower left", ncols=2)
    return drawn


def _late(score: Sequence[float], loss: Sequence[float]) -> tuple[float, float]:
    """The range of all epochs except the first twentieth, and those that lie as low."""
    low = sorted(score)[len(score) // 20]
    high = max(*score, *loss)
    return low - 0.2 * (high - low), high


def _draw_training(
    axes: Any, history: Sequence[Mapping[str, Any]], loss: Sequence[float], score: Sequence[float], name: str, best: str
) -> None:
    epochs = [record["epoch"] for record in history]
    axes.plot(epochs, loss, color=GREY, lw=1, label="minus training loss")
    axes.plot(epochs, score, color=BLUE, lw=1.5, label=f"validation {name}")
    if name == "ELBO":
        errors = [record["valid_standard_error"] or 0.0 for record in history]
        ends = zip(*((value - error, value + error) for value, error in zip(score, errors, strict=True)), strict=True)
        axes.fill_between(epochs, *ends, color=BLUE, alpha=0.2, lw=0, label="± standard error over data")
    # Not the highest ELBO: under a weighted loss another epoch is kept.
    at = max(i for i, record in enumerate(history) if record["best"])
    label = f"{best}: {typeset(score[at], 2)} at epoch {epochs[at]}"
    axes.plot(epochs[at], score[at], "o", color=RED, label=label)
    axes.set_ylabel("nats per datum")
    axes.set_xticks(_ticks(epochs[0], epochs[-1]))


def _ticks(first: int, last: int) -> list[int]:
    """The first epoch, the last one, and round numbers between them that do not run into them.

    >>> _ticks(1, 600), _ticks(1, 6), _ticks(1, 1)
    ([1, 100, 200, 300, 400, 500, 600], [1, 2, 3, 4, 5, 6], [1])
    """
    room = 0.08 * (last - first)
    between = map(int, MaxNLocator(6, integer=True).tick_values(first, last))
    return sorted({first, *(tick for tick in between if first + room < tick < last - room), last})


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
    axes.set_title(title)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def name_columns(axes: Any, picture: Tensor, names: Sequence[str]) -> None:
    """Writes names below the columns of a tiled picture."""
    axes.set_xticks(centres(picture.shape[1], len(names)), names)
    axes.tick_params(length=0)


def name_rows(axes: Any, picture: Tensor, names: Sequence[str]) -> None:
    """Writes names to the left of the rows of a tiled picture."""
    axes.set_yticks(centres(picture.shape[0], len(names)), names)
    axes.tick_params(length=0)


def centres(size: int, number: int) -> list[float]:
    """Lists where the middles of this many tiles are in a picture of `size` pixels.

    >>> centres(17, 2)  # pixels 0 ... 7 and 9 ... 16
    [3.5, 12.5]
    """
    pitch = (size + 1) / number
    return [(i + 0.5) * pitch - 1 for i in range(number)]
