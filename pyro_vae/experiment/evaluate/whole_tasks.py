"""What an evaluation asks of several data at once, or of one: the sections that are not a sum over blocks of data.

Like a block of `block_tasks`, the answer is a function of the program, the plan and what is given with the question,
whichever process computes it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_vae import evaluation
from pyro_vae.evaluation import Escalation, PosteriorDraws, PosteriorGrid
from pyro_vae.evaluation.trust.diagnostics import KHAT_THRESHOLD
from pyro_vae.experiment.evaluate.block_tasks import PICTURE_DIM
from pyro_vae.experiment.evaluate.evaluated_run import Subject
from pyro_vae.progress import section

NO_TRAINING = "there are only test data, and this needs training data, which Splits have"

Curve = dict[str, Any]  # the part of log p(x), see `block_tasks`
Given = tuple[Any, ...]


@dataclass(frozen=True)
class WholeTask:
    """One question.

    Attributes:
        ask: gives the answer to what is given.
        given: what is given with the question, from the part of log p(x); None where the plan does not ask it.
        says: what is being done, for a person who waits.
    """

    ask: Callable[..., Any]
    given: Callable[[Subject, Curve], Given | None]
    says: Callable[[Subject, Curve], str]


def _escalation(subject: Subject, hard: Tensor, weights: Tensor) -> Escalation:
    x, y = subject.test.at(hard)
    budget = subject.plan.escalated_draws
    return evaluation.escalate(subject.trained.vae, x, y, weights=weights.T, budget=budget, seed=subject.seed)


def _hardest(subject: Subject, curve: Curve) -> Given | None:
    """The data of the largest k-hat in ascending order, and their weights in the headline."""
    khat, most = curve["khat"], subject.most_escalated
    above = evaluation.worst_data(khat, len(khat))
    if not subject.plan.escalated_draws or not above:
        return None
    worst = torch.tensor(sorted(datum for datum, _ in above[:most]), dtype=torch.int64)
    at = torch.isin(curve["hard"], worst)
    return curve["hard"][at], curve["hard_weights"][at]


def _latent(subject: Subject) -> tuple[dict[str, Any], dict[str, str]]:
    """The aggregate posterior of the training data, and why parts of it are left out."""
    if subject.train is None:
        raise ValueError(NO_TRAINING)
    vae, draws, seed, refused = subject.trained.vae, subject.plan.latent_samples, subject.seed, dict[str, str]()
    x, y = subject.train.at(torch.arange(len(subject.train)))

    def unless_refused(name: str, ask: Callable[..., Any]) -> Any:
        try:
            return ask(vae, x, draws, y, seed)
        except ValueError as error:
            refused[name] = str(error)
            return None

    with section("latent", "", parts=7):
        active = evaluation.active_units(vae, x, y, seed=seed)
        kl = evaluation.kl_per_dimension(vae, x, subject.plan.elbo_samples, y, seed)
        terms = unless_refused("marginal KL", evaluation.aggregate_terms)
        information = terms.mutual_information if terms else evaluation.mutual_information(vae, x, draws, y, seed)
        correlation = unless_refused("total correlation", evaluation.total_correlation)
        rate, distortion = evaluation.rate_distortion(vae, x, subject.plan.elbo_samples, y, seed)
    found = {
        "num_data": len(x),
        "active": active.to_dict(),
        "kl_per_dimension": {site: spectrum and spectrum.to_dict() for site, spectrum in kl.items()},
        "mutual_information": information.to_dict(),
        "marginal_kl": terms and terms.marginal_kl.to_dict(),
        "total_correlation": correlation and correlation.to_dict(),
        "rate": rate.to_dict(),
        "distortion": distortion.to_dict(),
    }
    return found, refused


def _posterior(subject: Subject, datum: int) -> tuple[PosteriorGrid | PosteriorDraws, dict[str, Any]]:
    """The true posterior of a test datum, and what the report says of it."""
    x, y = subject.test.at(torch.tensor([datum]))
    if subject.latent_dim <= PICTURE_DIM:
        return evaluation.posterior_on_grid(subject.trained.vae, x, y), {"method": "grid"}
    size = subject.plan.posterior_draws
    warmup = min(200, max(50, size))
    draws = evaluation.nuts(subject.trained.vae, x, y, num_draws=size, num_warmup=warmup, seed=subject.seed)
    return draws, draws.to_dict()


def _typical(subject: Subject, curve: Curve) -> Given | None:
    """The position of the datum that has the middle k-hat."""
    if subject.latent_dim > PICTURE_DIM and not subject.plan.posterior_draws:
        return None
    khat = curve["khat"]
    return (int(khat.nan_to_num(nan=0.0).argsort(stable=True)[len(khat) // 2]),)


def _of_posterior(subject: Subject, curve: Curve) -> str:
    (datum,) = _typical(subject, curve) or (0,)
    how = "on a grid" if subject.latent_dim <= PICTURE_DIM else "by NUTS"
    return f"the true posterior of {subject.test.place(datum)} {how}"


def _of_escalation(subject: Subject, curve: Curve) -> str:
    khat = curve["khat"]
    above = f"{int((khat > KHAT_THRESHOLD).sum())} of {len(khat)}"
    return f"more draws, then annealing, for test data with k-hat above 0.7: {above}"


WHOLE_TASKS = {
    "escalation": WholeTask(_escalation, _hardest, _of_escalation),
    "latent": WholeTask(
        _latent,
        lambda subject, curve: (),
        lambda subject, curve: f"the aggregate posterior of {len(subject.train or ())} training data",
    ),
    "posterior": WholeTask(_posterior, _typical, _of_posterior),
}
