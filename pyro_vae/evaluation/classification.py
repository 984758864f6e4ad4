r"""Bayes classification by a conditional program.

.. math:: p(y|x) = \frac{p(x|y) \, p(y)}{\sum_{y'} p(x|y') \, p(y')}
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_vae.evaluation.trust.diagnostics import psis_khat, share_above
from pyro_vae.evaluation.weights import log_weights


@dataclass(frozen=True)
class Classification:
    """The class of each datum by a conditional program.

    Attributes:
        log_likelihood: (C, N), log p(x|y) for every class, in nats, by importance sampling: each a lower bound in
            expectation. The guide was trained on true labels alone, so a wrong class has the looser bound, which
            flatters the accuracy.
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
        """Makes what a report says: accuracy with its error, K, and how far the weights can be trusted.

        The error is half of Wilson's interval at one standard error, which is not 0 where all are right or all wrong.

        Args:
            labels: the true ones, (N,).
            training_labels: (M,), whose commonest class is the answer of who looks at no x: "majority_class", and
                "majority_share" is how often that is right.
        """
        majority = {} if training_labels is None else _majority(labels, training_labels)
        right = (self.prediction == labels).double()
        true = torch.nn.functional.one_hot(labels, len(self.khat)).T.bool()
        log_posterior = self.log_posterior.gather(0, labels[None])[0]
        return {
            "accuracy": right.mean().item(),
            "standard_error": _wilson(right.mean().item(), len(right)),
            **majority,
            # A class that the training data lack has p(y) = 0, and JSON has no infinity.
            "log_p_of_true_class": log_posterior.mean().item() if log_posterior.isfinite().all() else None,
            "num_samples": self.num_samples,
            "num_data": len(labels),
            "khat_above_0.7": {
                "true_class": share_above(self.khat[true]),
                "other_classes": share_above(self.khat[~true]),
            },
        }


def _wilson(share: float, number: int) -> float:
    # Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", JASA 22, 1927
    return math.sqrt(share * (1 - share) / number + 1 / (4 * number**2)) / (1 + 1 / number)


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
        class_probabilities: p(y), (C,), e.g. the frequencies of the training data.
        num_samples: K, the draws of z for each datum and class.
        seed: as for `log_weights`; under an integer every class sees the same noise, so that they differ less by it.
        first_block: for a shard of a larger data set, the number of blocks of 128 data that stand before it.

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
    p = class_probabilities.double()
    if not ((p >= 0).all() and abs(p.sum().item() - 1) < 1e-6):
        raise ValueError(f"class_probabilities must be 0 or above and sum to 1; got {p.tolist()}")
    likelihoods, khats = [], []
    for y in torch.eye(len(p), dtype=x.dtype, device=x.device):
        weights = log_weights(vae, x, num_samples, y.expand(len(x), -1), seed, first_block=first_block)
        likelihoods.append(torch.logsumexp(weights, 0).cpu() - math.log(num_samples))
        khats.append(psis_khat(weights))
    likelihood = torch.stack(likelihoods)
    joint = likelihood + p.log().cpu()[:, None]
    return Classification(likelihood, joint.log_softmax(0), torch.stack(khats), num_samples)
