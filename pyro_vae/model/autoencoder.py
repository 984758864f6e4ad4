"""Autoencoder: a program whose decoder p(x|z) sees one latent z, whatever lies above it, and what such programs can do.

    generate      z ~ p(z),     x ~ p(x|z)          new data
    reconstruct   z ~ q(z|x),   x ~ p(x|z)          data again
    encode        mean and spread of q(z|x)         the code of raw data, in the form of a file
    interpolate   z on a path between two data      the mean of p(x|z)

Each of these switches the program to evaluation, and then back.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_vae.data.intake import Intake
from pyro_vae.errors import UsageError
from pyro_vae.model import paths
from pyro_vae.model.given_data import NO_DATA, check_data_in_plates, check_labels
from pyro_vae.model.likelihoods import Likelihood
from pyro_vae.model.open_plates import open_plates
from pyro_vae.model.posteriors import Posterior, encoding
from pyro_vae.model.priors import Prior
from pyro_vae.model.program import Program, check_tensor, evaluating, number_to_generate, undisturbed
from pyro_vae.randomness import stream

_CODE_DRAWS = 100  # draws of a q(z|x) whose moments have no closed form


class Code(NamedTuple):
    """Mean and spread of q(z|x) for each datum.

    Attributes:
        mean: (B, D), of the z that the decoder sees.
        spread: (B, D), its standard deviation; 0 for a plain autoencoder.
    """

    mean: Tensor
    spread: Tensor


class Autoencoder(Program):
    """Base class of `VAE` and `HierarchicalVAE`: z is what the decoder sees, which is z1 if there are two layers.

    To write one, hold the decoder as `likelihood`, and write `model`, `guide`, `start_at` and the three sources of z:
    `from_prior`, `from_guide` and `centre`.

    Attributes:
        prior: the prior of the top layer, see `pyro_vae.priors`.
        likelihood: p(x|z), see `pyro_vae.likelihoods`.
        intake: how raw data become x; `pyro_vae.load` sets it, and it is None for a program built by hand.
        missing: whether NaN in x is a missing number; log p(x) is then the log-density of the observed numbers. It can
            also be set on a finished program.
    """

    prior: Prior
    likelihood: Likelihood
    intake: Intake | None = None
    missing: bool = False

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "likelihood" and self.missing:
            value.check_missing()
        if name == "missing" and value and "likelihood" in self._modules:
            self.likelihood.check_missing()
        for posterior in self.children() if name == "missing" else [value]:
            if isinstance(posterior, Posterior):
                posterior.missing = value if name == "missing" else self.missing
        super().__setattr__(name, value)

    def check_data(self, x: Tensor, first: int = 0, place: Callable[[int], str] = "datum {}".format) -> None:
        """Refuses data that the likelihood does not accept, and names the first such datum.

        NaN is refused too, unless `missing` is set.

        Args:
            x: data (N, *x_shape).
            first: the position of x[0] among the data, if x is a block of them.
            place: describes a position among the data in words.

        Raises:
            DataError: a datum is refused; the message names the value, its place and the cure.
        """
        self.likelihood.check(self.likelihood.filled(x) if self.missing else x, first, place)

    @property
    def encoder_of_data(self) -> Posterior:
        """The posterior whose encoder sees x."""
        raise NotImplementedError(f"{type(self).__name__} has no encoder_of_data")

    def generative(self, x: Tensor | None = None, y: Tensor | None = None) -> Tensor:
        """Samples the sites of `model`, without its plate, under the open plates: see `VAE.generative`."""
        raise NotImplementedError(f"{type(self).__name__} has no generative half")

    def recognition(self, x: Tensor, y: Tensor | None = None) -> Any:
        """Samples the sites of `guide`, without its plate, under the open plates: see `VAE.recognition`."""
        raise NotImplementedError(f"{type(self).__name__} has no recognition half")

    @contextmanager
    def _encoding(self, x: Tensor | None, y: Tensor | None) -> Iterator[None]:
        """Checks data (*plates, *x_shape) of a guide under plates that others opened, and lets them be encoded."""
        if x is None:
            raise ValueError(NO_DATA)
        check_tensor(x)
        event_dim = self._event_dim(x, y)
        check_data_in_plates(x, y, self.missing, event_dim)
        with encoding(event_dim):
            yield

    def _event_dim(self, x: Tensor, y: Tensor | None) -> int:
        """Returns the number of dimensions of x_shape, which a user's own encoder does not tell."""
        known = self.encoder_of_data.known_event_dim()
        if known is not None:
            return known
        plates = open_plates()
        return x.dim() - 1 if plates.keys() == {-1} else self._event_dim_of_likelihood(x, y)

    @torch.no_grad()
    def _event_dim_of_likelihood(self, x: Tensor, y: Tensor | None) -> int:
        like = next((p for p in self.likelihood.parameters() if p.is_floating_point()), x)
        z = like.new_zeros(1, self.encoder_of_data.latent_dim)
        try:
            with evaluating(self.likelihood):
                return len(self.likelihood(z, None if y is None else y.new_zeros(1, y.shape[-1])).event_shape)
        except Exception as error:
            raise UsageError(
                f"x of shape {tuple(x.shape)} lies in several plates, and it is not known which of its dimensions "
                f"belong to one datum, since the decoder does not run at one z ({error}): set "
                f"{type(self.encoder_of_data).__name__}'s `event_dim`, 3 for images (C, H, W)"
            ) from error

    def from_prior(self, num_data: int, y: Tensor | None = None) -> Tensor:
        """Draws what the decoder sees, z ~ p(z): (num_data, D); labels y (num_data, C)."""
        raise NotImplementedError(f"{type(self).__name__} has no from_prior")

    def from_guide(self, x: Tensor, num_samples: int, y: Tensor | None = None) -> Tensor:
        """Draws what the decoder sees, given data: z ~ q(z|x).

        Args:
            x: data (B, *x_shape).
            num_samples: K, the number of draws for each datum.
            y: one-hot labels (B, C).

        Returns:
            (K, B, D).
        """
        raise NotImplementedError(f"{type(self).__name__} has no from_guide")

    def centre(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Returns one z for each datum, in the middle of q(z|x): (B, D)."""
        raise NotImplementedError(f"{type(self).__name__} has no centre")

    def code(self, x: Tensor, y: Tensor | None = None, num_samples: int = _CODE_DRAWS) -> Code:
        """Returns mean and spread of q(z|x), of the z that the decoder sees; here from draws.

        Args:
            x: data (B, *x_shape), as the program takes them.
            y: one-hot labels (B, C).
            num_samples: the number of draws of z for each datum, if the moments have no closed form.
        """
        z = self.from_guide(x, num_samples, y)
        return Code(z.mean(0), z.std(0))

    def start_at(self, expected: Tensor, x: Tensor, y: Tensor | None = None) -> None:
        """Before training, puts the decoder at the mean of the data, and lets the prior start from their codes.

        It first fits scalings of columns to the data, see `pyro_vae.scaling`.

        Args:
            expected: expected data (N, *x_shape), such as the grey levels of pixels that are drawn again in each epoch.
            x: some of the data (N, *x_shape).
            y: their one-hot labels (N, C).
        """
        raise NotImplementedError(f"{type(self).__name__} has no start_at")

    def prior_of_codes(self, y: Tensor | None = None) -> Any:
        """Returns the distribution p(z) of what the decoder sees; None if it is known only given latents above it."""
        return None

    @torch.no_grad()
    def generate(self, num_data: int | None = None, y: Tensor | None = None, *, mean: bool = False) -> Tensor:
        """Draws z from the prior and then x from p(x|z): new data.

        (To draw z from the encoder instead, as some teaching material does, is reconstruction.)

        Args:
            num_data: how many data; with labels y it is their number B.
            y: one-hot labels (B, C).
            mean: return the mean of p(x|z) instead of a sample of it.

        Returns:
            (num_data, *x_shape).

        Example:
            >>> import pyro_vae as pv
            >>> vae = pv.VAE(pv.priors.StandardNormal(2),
            ...              pv.posteriors.DiagonalNormal(pv.networks.MLP((4,), (4,)), 2),
            ...              pv.likelihoods.Bernoulli(pv.networks.MLP((2,), (4,))))
            >>> x = vae.generate(3)
            >>> x.shape, vae.reconstruct(x, num_samples=5).shape, vae.interpolate(x[:1], x[1:2], steps=8).shape
            (torch.Size([3, 4]), torch.Size([5, 3, 4]), torch.Size([8, 1, 4]))
        """
        size = number_to_generate(num_data, y)
        check_labels(y, size)
        with undisturbed(self):
            return self._decoded(self.from_prior(size, y), y, mean)

    @torch.no_grad()
    def reconstruct(self, x: Tensor, y: Tensor | None = None, *, num_samples: int = 1, mean: bool = True) -> Tensor:
        """Draws z from the guide and then x from p(x|z): several stochastic reconstructions of each datum.

        Args:
            x: data (B, *x_shape).
            y: one-hot labels (B, C).
            num_samples: draws of z, and of the latents above it, for each datum.
            mean: return the mean of p(x|z) at each z instead of a sample of it.

        Returns:
            (num_samples, B, *x_shape).
        """
        check_tensor(x)
        check_labels(y, len(x))
        with undisturbed(self):
            return self._decoded(self.from_guide(x, num_samples, y), y, mean)

    @torch.no_grad()
    def encode(self, x: Any, y: Any = None, *, seed: int | None = None) -> Code:
        """Encodes data in the form of a file: mean and spread of q(z|x).

        A program from `pyro_vae.load` knows the recipe of its data. It takes whole numbers as levels (uint8 is divided
        by 255 if the program saw intensities) or counts, and subtracts from a column what was subtracted in training.
        Floats are x itself; if x is an intensity, a number above 1 is refused. A program that saw bits drawn from
        intensities gets the more likely bit, or a draw if there is a seed. A program built by hand takes x like
        `reconstruct`.

        If the moments of q(z|x) have no closed form (a flow, or two layers of latents), they come from 100 draws,
        always the same ones.

        Args:
            x: (B, ...), an array, a tensor, a frame or nested lists.
            y: labels for a conditional program: one-hot (B, C), or names of classes (see `Intake.one_hot`).
            seed: draws the bits of binarised data, or the noise of dequantised ones.

        Raises:
            DataError: data of another form, with the place and the cure.

        Example:
            >>> import pyro_vae as pv
            >>> vae = pv.VAE(pv.priors.StandardNormal(2),
            ...              pv.posteriors.DiagonalNormal(pv.networks.MLP((4,), (4,)), 2),
            ...              pv.likelihoods.Bernoulli(pv.networks.MLP((2,), (4,))))
            >>> mean, spread = vae.encode(torch.zeros(3, 4))
            >>> mean.shape, spread.shape
            (torch.Size([3, 2]), torch.Size([3, 2]))
        """
        x, y = self.taken_in(x, y, seed)
        check_tensor(x)
        check_labels(y, len(x))
        with undisturbed(self), stream(0, "code", device=x.device):
            return self.code(x, y)

    def taken_in(self, x: Any, y: Any = None, seed: int | None = None) -> tuple[Any, Any]:
        """Converts raw data and labels to what the program takes, on its device and in its type, see `encode`.

        A program built by hand has no recipe, so they come back as they are.

        Args:
            x: (B, ...), an array, a tensor, a frame or nested lists.
            y: one-hot labels (B, C), numbers of classes or their names.
            seed: draws the bits of binarised data, or the noise of dequantised ones.

        Returns:
            x (B, *x_shape) and y (B, C).

        Raises:
            DataError: data of another form, with the place and the cure.
        """
        if self.intake is None:
            return x, y
        like = next((p for p in self.parameters() if p.is_floating_point()), torch.empty(0))
        labels = self.intake.one_hot(y)
        return self.intake.x(x, seed).to(like), None if labels is None else labels.to(like)

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
        """Computes means of p(x|z) along a path between the centres of two data; the ends are reconstructions.

        Args:
            start, end: data (B, *x_shape), the ends of B paths.
            steps: number of points on each path, both ends counted.
            y: one-hot labels (B, C), the same along the path.
            path: "straight"; "spherical", a great circle about 0; or "base", such a circle in the base of a flow prior,
                which z1 of two layers does not have. See `pyro_vae.model.paths`.
            y_end: labels (B, C) of the ends, if they differ. y then goes to them in a straight line, through mixtures
                of labels that the networks were not trained on.

        Returns:
            (steps, B, *x_shape).

        Raises:
            UsageError: the path is unknown, or it is "base" and the prior is not a flow.
        """
        _check_paths(start, end, y, y_end)
        labels = labels_along(y, y_end, steps)
        z = self.latent_path(start, end, steps, y, path=path, y_end=y_end)
        with undisturbed(self):
            return self._decoded(z, labels, mean=True)

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
        """Returns the points z (steps, B, D) at which `interpolate` with the same arguments shows p(x|z)."""
        _check_paths(start, end, y, y_end)
        with undisturbed(self):
            ends = self.centre(start, y), self.centre(end, y if y_end is None else y_end)
            return paths.path(path, *ends, steps, self.prior_of_codes(y) if path == "base" else None)

    def _decoded(self, z: Tensor, y: Tensor | None, mean: bool) -> Tensor:
        """Returns the mean of p(x|z), or a draw from it."""
        p = self.likelihood(z, y)
        return p.mean if mean else p.sample()


def check_fit(prior: Prior, posterior: Posterior) -> None:
    """Raises ValueError if prior and posterior are over z of different dimensions.

    It also raises one if the prior holds a posterior, like VampPrior, that is not the program's.
    """
    if prior.latent_dim != posterior.latent_dim:
        raise ValueError(
            f"prior and posterior must be over the same z; got {type(prior).__name__}(latent_dim={prior.latent_dim}) "
            f"and {type(posterior).__name__}(latent_dim={posterior.latent_dim})"
        )
    if getattr(prior, "posterior", posterior) is not posterior:
        raise ValueError(
            f"{type(prior).__name__} was built from another posterior than the program's: build the prior from the "
            "posterior that the program has now"
        )


def _check_paths(start: Tensor, end: Tensor, y: Tensor | None, y_end: Tensor | None) -> None:
    """Raises unless start and end are tensors of one shape, with equally many labels."""
    check_tensor(start)
    check_tensor(end)
    if start.shape != end.shape:
        raise ValueError(f"each line needs two ends: start has shape {tuple(start.shape)}, end {tuple(end.shape)}")
    check_labels(y, len(start))
    check_labels(y_end, len(end))


def labels_along(y: Tensor | None, y_end: Tensor | None, steps: int) -> Tensor | None:
    """Returns y or, if y_end is given, the straight line from y to it.

    Args:
        y, y_end: one-hot labels (B, C) of the starts and of the ends.
        steps: points, both ends counted.

    Returns:
        (B, C), or (steps, B, C).

    Raises:
        ValueError: the ends have labels and the starts have none.
    """
    if y_end is None:
        return y
    if y is None:
        raise ValueError("y_end, the labels of the ends, needs labels y of the starts; there are none")
    return paths.straight(y, y_end, steps)
