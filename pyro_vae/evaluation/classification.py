r"""Bayes classification by a conditional program.

.. math:: p(y|x) = \frac{p(x|y) \, p(y)}{\sum_{y'} p(x|y') \, p(y')}
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_vae.evaluation.data_fingerprint import fingerprint
from pyro_vae.evaluation.estimators import Estimate, of_data, relative_error
from pyro_vae.evaluation.trust.diagnostics import psis_khat, share_above
from pyro_vae.evaluation.weights import log_weights
from pyro_vae.progress import through


@dataclass(frozen=True)
class Classification:
    """The class of each datum by a conditional program.

    Attributes:
        log_likelihood: (C, N), log p(x|y) for every class, in nats, by importance sampling. Each is a lower bound in
            expectation. The guide was trained on true labels only, so the bound of a wrong class is looser, which makes
            the accuracy look better.
        log_posterior: (C, N), log p(y|x).
        khat: (C, N), PSIS k-hat of each of these estimates.
        num_samples: K, the draws of z for each datum and class.
    """

    log_likelihood: Tensor
    log_posterior: Tensor
    khat: Tensor
    num_samples: int

    @property
    def prediction(self) -> Tensor:
        """The most probable class of each datum, (N,)."""
        return self.log_posterior.argmax(0)

    def summary(self, labels: Tensor, training_labels: Tensor | None = None) -> dict[str, Any]:
        """Summarises for a report: accuracy with its error, K, and how far the weights can be trusted.

        The error is half of Wilson's interval at one standard error, which is not 0 even if all are right or all wrong.

        Args:
            labels: the true ones, (N,).
            training_labels: (M,). Their commonest class, "majority_class", is the best guess without x, and
                "majority_share" is how often it is right.
        """
        majority = {} if training_labels is None else _majority(labels, training_labels)
        share = accuracy(self.prediction, labels)
        true = torch.nn.functional.one_hot(labels, len(self.khat)).T.bool()
        log_posterior = self.log_posterior.gather(0, labels[None])[0]
        return {
            "accuracy": share.value,
            "standard_error": share.standard_error,
            **majority,
            # A class without training data has p(y) = 0, and JSON has no infinity.
            "log_p_of_true_class": log_posterior.mean().item() if log_posterior.isfinite().all() else None,
            "num_samples": self.num_samples,
            "num_data": len(labels),
            "khat_above_0.7": {
                "true_class": share_above(self.khat[true]),
                "other_classes": share_above(self.khat[~true]),
            },
        }


class Accuracy(NamedTuple):
    """How often predictions are right, with the errors of that share. Printing it gives one line.

    Attributes:
        value: the share.
        standard_error: half of Wilson's interval at one standard error, which is not 0 even if all are right or all
            wrong.
        interval: Wilson's 95 % interval.
        num_data: N.
    """

    value: float
    standard_error: float
    interval: tuple[float, float]
    num_data: int

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.value:.2%}   [{low:.2%}, {high:.2%}] over {self.num_data} data"


def accuracy(prediction: Tensor, labels: Tensor) -> Accuracy:
    """Computes how often predictions are right.

    Args:
        prediction: classes, (N,).
        labels: the true ones, (N,).

    Raises:
        ValueError: no data, or different numbers of labels and predictions.

    Reference:
        Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", JASA 22, 1927.

    Example:
        >>> print(accuracy(torch.tensor([0, 1, 2, 2]), torch.tensor([0, 1, 2, 0])))
        75.00%   [30.06%, 95.44%] over 4 data
    """
    if prediction.shape != labels.shape or labels.dim() != 1 or not len(labels):
        shapes = f"{tuple(prediction.shape)} and {tuple(labels.shape)}"
        raise ValueError(f"there must be one prediction for each label, both of shape (N,); got {shapes}")
    share, N = (prediction == labels).double().mean().item(), len(labels)
    centre, half = _wilson(share, N, 1.959964)
    return Accuracy(share, _wilson(share, N, 1.0)[1], (centre - half, centre + half), N)


def _wilson(share: float, number: int, z: float) -> tuple[float, float]:
    """Returns the centre and half the width of Wilson's interval of z standard errors."""
    shrink = 1 + z**2 / number
    half = z * math.sqrt(share * (1 - share) / number + z**2 / (4 * number**2)) / shrink
    return (share + z**2 / (2 * number)) / shrink, half


def _majority(labels: Tensor, training_labels: Tensor) -> dict[str, Any]:
    commonest = int(training_labels.bincount().argmax())
    return {"majority_class": commonest, "majority_share": (labels == commonest).double().mean().item()}


def classify(
    vae: Any,
    x: Tensor,
    class_probabilities: Tensor,
    num_samples: int,
    seed: int | None = None,
    *,
    first_block: int = 0,
) -> Classification:
    r"""Classifies data by Bayes' rule: p(y|x) of every class from log p(x|y) and p(y).

    .. math:: p(y|x) = \frac{p(x|y) \, p(y)}{\sum_{y'} p(x|y') \, p(y')}

    Args:
        vae: anything with `.model(x, y)` and `.guide(x, y)`.
        x: data (N, *x_shape).
        class_probabilities: p(y), (C,), for example the class frequencies in the training data.
        num_samples: K, the draws of z for each datum and class.
        seed: as for `log_weights`; with an integer all classes share their noise, so their differences are
            less noisy.
        first_block: for a shard of a larger data set, the number of blocks of 128 data that come before it.

    Raises:
        DataError: data outside the support of the likelihood.
        ValueError: no data, probabilities that are negative or do not sum to 1, or what `log_weights` refuses.

    Example:
        >>> import pyro_vae as pv
        >>> vae = pv.VAE(pv.priors.StandardNormal(2),
        ...              pv.posteriors.DiagonalNormal(pv.networks.MLP((4,), (4,), y_dim=3), 2),
        ...              pv.likelihoods.Bernoulli(pv.networks.MLP((2,), (4,), y_dim=3)))
        >>> classes = classify(vae, torch.zeros(5, 4), torch.full((3,), 1 / 3), num_samples=100, seed=0)
        >>> classes.log_posterior.exp().sum(0).allclose(torch.ones(5, dtype=torch.float64))
        True
    """
    p = _checked(class_probabilities)
    likelihoods, khats = [], []
    for weights in _of_each_class(vae, x, p, num_samples, seed, first_block):
        likelihoods.append(torch.logsumexp(weights, 0).cpu() - math.log(num_samples))
        khats.append(psis_khat(weights))
    likelihood = torch.stack(likelihoods)
    joint = likelihood + p.log().cpu()[:, None]
    return Classification(likelihood, joint.log_softmax(0), torch.stack(khats), num_samples)


def evidence(
    vae: Any,
    x: Tensor,
    class_probabilities: Tensor,
    num_samples: int,
    seed: int | None = None,
    *,
    first_block: int = 0,
) -> Estimate:
    r"""Estimates log p(x) of each datum for a conditional program, with its label summed out, in nats.

    .. math:: \log p(x) = \log \sum_y p(y) \, p(x|y) \approx \log \frac{1}{K} \sum_{k=1}^{K} v_k, \qquad
              v_k = \sum_y p(y) \frac{p(x, z_{ky} | y)}{q(z_{ky}|x, y)}, \qquad z_{ky} \sim q(z|x, y)

    It can be compared with `iwae` of a program without labels. Like `iwae` it is a lower bound in expectation, and
    becomes tight as K grows. The Monte Carlo error is the error of the logarithm of a mean, sd(v) / (sqrt(K) mean(v)).
    It is right even though the classes share their noise under an integer seed.

    Args:
        vae, x, class_probabilities, num_samples, seed, first_block: as for `classify`.

    Raises:
        DataError, ValueError: as for `classify`.

    Example:
        >>> import pyro_vae as pv
        >>> vae = pv.VAE(pv.priors.StandardNormal(2),
        ...              pv.posteriors.DiagonalNormal(pv.networks.MLP((4,), (4,), y_dim=3), 2),
        ...              pv.likelihoods.Bernoulli(pv.networks.MLP((2,), (4,), y_dim=3)))
        >>> evidence(vae, torch.zeros(5, 4), torch.full((3,), 1 / 3), num_samples=100, seed=0).quantity
        'log p(x)'
    """
    p = _checked(class_probabilities)
    total = torch.full((num_samples, len(x)), -math.inf, dtype=torch.float64)
    for share, weights in zip(p.log(), _of_each_class(vae, x, p, num_samples, seed, first_block), strict=True):
        total = torch.logaddexp(total, share.cpu() + weights.cpu())
    value = torch.logsumexp(total, 0) - math.log(num_samples)
    return of_data(Estimate("log p(x)", value, relative_error(total), num_samples), fingerprint(x), None)


def _checked(class_probabilities: Tensor) -> Tensor:
    p = class_probabilities.double()
    if not ((p >= 0).all() and abs(p.sum().item() - 1) < 1e-6):
        raise ValueError(f"`class_probabilities` must be 0 or above and sum to 1; got {p.tolist()}")
    return p


def _of_each_class(
    vae: Any, x: Tensor, p: Tensor, num_samples: int, seed: int | None, first_block: int
) -> Iterator[Tensor]:
    """Yields the log-weights (K, N) of each class in turn."""
    for y in through("", torch.eye(len(p), dtype=x.dtype, device=x.device)):
        yield log_weights(vae, x, num_samples, y.expand(len(x), -1), seed, first_block=first_block)
