"""Scores: all that a program says about single data, computed in one pass over blocks of 128."""

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from pyro_vae.evaluation.bounds import block_bound
from pyro_vae.evaluation.classification import classify
from pyro_vae.evaluation.coordinates import Coordinates
from pyro_vae.evaluation.estimators import ELBOTerms, elbo_terms
from pyro_vae.evaluation.memory import DATA_BLOCK
from pyro_vae.evaluation.trust.diagnostics import KHAT_THRESHOLD, NO_KHAT, psis_khat
from pyro_vae.evaluation.weights import draw_blocks, log_weights
from pyro_vae.model import traces
from pyro_vae.model.program import check_tensor, undisturbed
from pyro_vae.randomness import block_stream, derive_if_given

_CODE_DRAWS = 100


@dataclass(frozen=True)
class Scores:
    """What a program says about each of N data. Printing it gives one line.

    Attributes:
        log_likelihood: (N,) log p(x) by importance sampling, in nats; log p(x|y) if a conditional program was given
            labels. None for a plain autoencoder, which has no log p(x).
        log_likelihood_error: (N,) its Monte Carlo standard error, which is meaningful if k-hat is at most 0.7.
        khat: (N,) `psis_khat` of the weights.
        elbo: (N,) the ELBO; None for a plain autoencoder.
        reconstruction: (N,) E_q[log p(x|z)].
        kl: (N,) KL(q(z|x) || p(z)); None for a plain autoencoder.
        mean: (N, D) mean of q(z|x), in the coordinates that the decoder sees.
        spread: (N, D) its standard deviation.
        num_samples: K, the draws of z for log p(x).
        log_posterior: (N, C) log p(y|x) of every class, if class probabilities were given.
        reconstructed: (N, *x_shape) the mean of p(x|z) at the centre of q(z|x), if requested.

    Example:
        >>> zeros = torch.zeros(2)
        >>> print(Scores(zeros, zeros, zeros, zeros, zeros, zeros, zeros[:, None], zeros[:, None], 10))
        log p(x) of 2 data: mean 0.000 nats, from 0.000 to 0.000; 0 with k-hat above 0.7 (K = 10)
    """

    log_likelihood: Tensor | None
    log_likelihood_error: Tensor | None
    khat: Tensor | None
    elbo: Tensor | None
    reconstruction: Tensor
    kl: Tensor | None
    mean: Tensor
    spread: Tensor
    num_samples: int
    log_posterior: Tensor | None = None
    reconstructed: Tensor | None = None

    def __len__(self) -> int:
        return len(self.reconstruction)

    def columns(self) -> dict[str, Tensor]:
        """Lists the available numbers of each datum by name."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Tensor)}

    def __str__(self) -> str:
        if self.log_likelihood is None or self.khat is None:
            name, value, more = "reconstruction", self.reconstruction, ""
        else:
            above = int((self.khat > KHAT_THRESHOLD).sum())
            name, value = "log p(x)", self.log_likelihood
            khat = NO_KHAT if self.khat.isnan().all() else f"{above} with k-hat above {KHAT_THRESHOLD}"
            more = f"; {khat} (K = {self.num_samples})"
        return (
            f"{name} of {len(self)} data: mean {value.mean():.3f} nats, from {value.min():.3f} to {value.max():.3f}"
            f"{more}"
        )


def score(
    vae: Any,
    x: Tensor,
    y: Tensor | None = None,
    num_samples: int = 1000,
    seed: int | None = None,
    *,
    elbo_samples: int = 100,
    class_probabilities: Tensor | None = None,
    reconstructions: bool = False,
    first_block: int = 0,
) -> Scores:
    r"""Scores each datum: log p(x) with its error and k-hat, ELBO, reconstruction, KL, and its code q(z|x).

    A datum's log p(x) is a sum over its numbers, not a distance. A value that is too high (a constant image) is as
    suspicious as one that is too low, and data of another kind can lie within the range of the training data.

    A conditional program scores log p(x|y). Without labels, give `class_probabilities`; the score is then

    .. math:: \log p(x) = \log \sum_y p(y) \, p(x|y)

    and ELBO and code belong to the most probable class.

    Args:
        vae: anything with `.model` and `.guide` over one data plate.
        x: data (N, *x_shape).
        y: one-hot labels (N, C).
        num_samples: K, the draws of z for each datum's log p(x).
        seed: as for `log_weights`. The noise is the same as in `iwae`, `elbo` and `classify` under the same seed.
        elbo_samples: draws for the ELBO and its parts and, if there are labels, for the classes.
        class_probabilities: p(y), (C,), for a conditional program: adds `log_posterior`.
        reconstructions: adds `reconstructed`, for a program that has `centre` and a `likelihood`.
        first_block: for a shard of a larger data set, the number of blocks of 128 data that come before it.

    Raises:
        DataError: data outside the support of the likelihood.
        ValueError: no data, or too many draws.

    Example:
        >>> import pyro_vae as pv
        >>> vae = pv.VAE(pv.priors.StandardNormal(2),
        ...              pv.posteriors.DiagonalNormal(pv.networks.MLP((4,), (4,)), 2),
        ...              pv.likelihoods.Bernoulli(pv.networks.MLP((2,), (4,))))
        >>> score(vae, torch.zeros(3, 4), num_samples=100, seed=0).mean.shape
        torch.Size([3, 2])
    """
    check_tensor(x)
    parts = []
    for i, data in enumerate(x.split(DATA_BLOCK) if len(x) else [x], first_block):
        start = (i - first_block) * DATA_BLOCK
        block = _Block(vae, data, None if y is None else y[start : start + DATA_BLOCK], seed, i)
        parts.append(block.score(num_samples, elbo_samples, class_probabilities, reconstructions))
    return _joined(parts)


@dataclass(frozen=True)
class _Block:
    vae: Any
    x: Tensor
    y: Tensor | None
    seed: int | None
    number: int

    def score(self, K: int, elbo_samples: int, p: Tensor | None, reconstructions: bool) -> Scores:
        if p is not None and self.y is None:
            return self._of_all_classes(K, elbo_samples, p, reconstructions)
        terms = elbo_terms(self.vae, self.x, elbo_samples, self.y, self.seed, first_block=self.number)
        made = self._without_density(terms) if _is_point(terms) else self._with_density(terms, K)
        if p is not None and not _is_point(terms):
            classes = classify(self.vae, self.x, p, elbo_samples, self.seed, first_block=self.number)
            made = replace(made, log_posterior=classes.log_posterior.T)
        return replace(made, reconstructed=self._reconstructed()) if reconstructions else made

    def _with_density(self, terms: ELBOTerms, K: int) -> Scores:
        weights = log_weights(self.vae, self.x, K, self.y, self.seed, first_block=self.number).cpu()
        bound = block_bound(weights, K)
        values = bound.value, bound.error, psis_khat(weights)
        return Scores(*values, terms.elbo.value, terms.reconstruction.value, terms.kl.value, *self._code(), K)

    def _without_density(self, terms: ELBOTerms) -> Scores:
        return Scores(None, None, None, None, terms.reconstruction.value, None, *self._code(), 1)

    def _of_all_classes(self, K: int, elbo_samples: int, p: Tensor, reconstructions: bool) -> Scores:
        """Sums the weights of a draw over classes, so that error and k-hat refer to the sum."""
        each = []
        labels = torch.eye(len(p), dtype=self.x.dtype, device=self.x.device)
        for y, share in zip(labels, p.double().log().tolist(), strict=True):
            given = y.expand(len(self.x), -1)
            each.append(share + log_weights(self.vae, self.x, K, given, self.seed, first_block=self.number).cpu())
        by_class = torch.stack([block_bound(weights, K).value for weights in each], 1)
        weights = torch.stack(each).logsumexp(0)
        bound = block_bound(weights, K)
        likely = replace(self, y=labels[by_class.argmax(1).to(self.x.device)])
        made = likely.score(1, elbo_samples, None, reconstructions)
        return replace(
            made,
            log_likelihood=bound.value,
            log_likelihood_error=bound.error,
            khat=psis_khat(weights),
            log_posterior=by_class.log_softmax(1),
            num_samples=K,
        )

    def _given(self) -> tuple[Tensor, ...]:
        return (self.x,) if self.y is None else (self.x, self.y)

    def _code(self) -> tuple[Tensor, Tensor]:
        """Mean and spread in the coordinates that the decoder sees, or of all latents if these are unknown."""
        seed = derive_if_given(self.seed, "code")
        with torch.no_grad(), undisturbed(self.vae), block_stream(seed, self.number, 0, self.x.device):
            if hasattr(self.vae, "code"):
                mean, spread = self.vae.code(*self._given())
                return mean.double().cpu(), spread.double().cpu()
        drawn = [z for _, z in draw_blocks(self.vae, self.x, _CODE_DRAWS, self.y, seed, _read_latents, self.number)]
        z = torch.cat(drawn).double().cpu()
        return z.mean(0), z.std(0)

    def _reconstructed(self) -> Tensor:
        with torch.no_grad(), undisturbed(self.vae), block_stream(self.seed, self.number, 0, self.x.device):
            z = self.vae.centre(*self._given())
            return self.vae.likelihood(z, self.y).mean.cpu()


def _is_point(terms: ELBOTerms) -> bool:
    return "infinite" in terms.kl.kind.values()


def _read_latents(pair: traces.Traces) -> Tensor:
    """Reads all latents as one vector, (k, b, D)."""
    return Coordinates(traces.latent_sites(pair.guide)).read(pair.guide)


def _joined(parts: list[Scores]) -> Scores:
    whole: dict[str, Any] = {name: torch.cat([part.columns()[name] for part in parts]) for name in parts[0].columns()}
    return replace(parts[0], **whole)
