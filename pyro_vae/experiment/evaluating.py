"""The evaluation of a trained run: every estimate that a report shows, as one dictionary.

Each section is a function of what is looked at and adds keys of its own. What a program can not be asked, a KL to a
prior that differs between labels, say, is left out, and `left_out` says why in a sentence.
"""

import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from pyro_vae import evaluation
from pyro_vae.errors import divergence
from pyro_vae.evaluation import Estimate, IWAECurve, PosteriorDraws, PosteriorGrid, subset
from pyro_vae.evaluation.diagnostics import KHAT_THRESHOLD
from pyro_vae.evaluation.estimators import known
from pyro_vae.experiment import build, reporting
from pyro_vae.experiment.plan import Plan
from pyro_vae.experiment.trained import Held, Trained, positions
from pyro_vae.model.posteriors import Delta
from pyro_vae.randomness import derive, generator
from pyro_vae.report import numbers

T = TypeVar("T")
Say = Callable[[str], None]

GRID_DIM = 3  # a grid needs n^D points
PICTURE_DIM = 2


@dataclass(eq=False)
class Look:
    """What is looked at, how closely, and what was found so far.

    Attributes:
        trained: the run.
        plan: how closely.
        say: told what is being done, as a sentence for a person who waits.
        report: what report.json will hold.
        begun: when, by `time.perf_counter`.
        posterior: the true posterior of one datum, for a picture.
        reference: the best estimate of log p(x) of the test data that were annealed, and what it is.
    """

    trained: Trained
    plan: Plan
    say: Say = lambda sentence: None
    report: dict[str, Any] = field(default_factory=dict)
    begun: float = field(default_factory=time.perf_counter)
    posterior: PosteriorGrid | PosteriorDraws | None = None
    reference: tuple[str, Estimate] | None = None

    @cached_property
    def test(self) -> Held:
        """The test data."""
        return self.trained.test(self.plan.test_data)

    @cached_property
    def train(self) -> Held:
        """Training data whose aggregate posterior is measured."""
        return self.trained.training(self.plan.latent_data)

    @cached_property
    def chosen(self) -> Tensor:
        """Positions of the test data that are annealed."""
        size = min(self.plan.annealed_data, len(self.test.x))
        return subset(len(self.test.x), size, self.trained.config.data_seed)

    @property
    def annealed(self) -> tuple[Tensor, Tensor | None]:
        """x and y of these data."""
        return self.test.x[self.chosen], None if self.test.y is None else self.test.y[self.chosen]

    @property
    def seed(self) -> int:
        """Of all draws: by default that of the training's own report."""
        again = self.plan.evaluation_seed
        return derive(self.trained.config.seed, "evaluation", *([again] if again else []))

    @property
    def latent_dim(self) -> int:
        """D, of all layers."""
        config = self.trained.config
        return config.latent_dim + (config.latent_dim2 if config.layers == 2 else 0)

    @cached_property
    def terms(self) -> evaluation.ELBOTerms:
        """ELBO, reconstruction and KL of the test data."""
        return evaluation.elbo_terms(self.trained.vae, self.test.x, self.plan.elbo_samples, self.test.y, self.seed)

    @cached_property
    def curve(self) -> IWAECurve:
        """The bounds at k = 1 ... K of the test data."""
        with self.graphs():
            return evaluation.iwae_curve(self.trained.vae, self.test.x, self.plan.num_samples, self.test.y, self.seed)

    def graphs(self) -> AbstractContextManager[None]:
        """For estimates of K draws of all test data: compiled graphs, where the run wants them."""
        return build.estimating(self.trained.config, len(self.test.x) * self.plan.num_samples)

    @property
    def log_likelihood(self) -> Estimate:
        """The headline: the last point of the curve."""
        last = self.curve.bounds[self.plan.num_samples]
        return Estimate("log p(x)", last.value, last.value_error, last.num_samples)

    @contextmanager
    def step(self, name: str, sentence: str) -> Iterator[None]:
        """Announces and times one step."""
        self.say(sentence)
        begun = time.perf_counter()
        yield
        self.report.setdefault("timings", {})[name] = round(time.perf_counter() - begun, 2)

    def unless_refused(self, name: str, ask: Callable[[], T]) -> T | None:
        """What a question gives, or None and a sentence in `left_out` where this program can not be asked it."""
        try:
            return ask()
        except ValueError as error:
            self.report.setdefault("left_out", {})[name] = str(error)
            return None


def evaluate(trained: Trained, plan: Plan, say: Say = lambda sentence: None) -> Look:
    """Everything the plan asks of a run; `Look.report` is what report.json will hold.

    Raises:
        DivergenceError: an estimate is not finite.
    """
    look = Look(trained, plan, say)
    if isinstance(getattr(trained.vae, "posterior", None), Delta):
        _autoencoder(look)
        return look
    _headline(look)
    _trust(look)
    sections = {
        "more work": _escalated,
        "latents": _latent,
        "annealing": _annealed,
        "simulated data": _simulated,
        "gaps": _gaps,
        "true posterior": _posterior,
    }
    for name, section in sections.items():
        look.unless_refused(name, partial(section, look))
    return look


def _autoencoder(look: Look) -> None:
    draws = {"elbo_samples": look.plan.elbo_samples, "likelihood_samples": look.plan.num_samples}
    with look.step("reconstruction", f"reconstructing {len(look.test.x)} test data"):
        estimates = numbers.measure(look.trained.vae, look.test.x, look.test.y, **draws, seed=look.seed)
        look.report |= reporting.describe(look.trained, estimates, None, _rounding(look))
        look.report["per_datum"] = _per_datum(look, estimates)


def _headline(look: Look) -> None:
    size = len(look.test.x)
    with divergence("an estimate on the test data"):
        with look.step("elbo", f"ELBO of {size} test data, {look.plan.elbo_samples} draws each"):
            terms = look.terms
        with look.step("iwae", f"log p(x) of {size} test data, K = {look.plan.num_samples}"):
            estimates = numbers.finite({**terms._asdict(), "log_likelihood": look.log_likelihood})
    found = reporting.classes(look.trained, look.test, estimates, look.plan.elbo_samples, look.seed)
    look.report |= reporting.describe(look.trained, estimates, found, _rounding(look))
    if (status := look.trained.run.status()) not in ("trained", "finished"):
        epochs = f"{look.trained.epochs} of {look.trained.config.epochs} epochs"
        look.report["unfinished"] = f"Training is {status}: these are the numbers after {epochs}."
    look.report["curve"] = [bound.to_dict() for bound in look.curve.bounds.values()]
    look.report["jackknife"] = look.curve.jackknife.to_dict()
    look.report["per_datum"] = _per_datum(look, estimates)


def _rounding(look: Look) -> dict[str, Any] | None:
    return reporting.rounding(look.trained, look.test, look.plan.elbo_samples, look.seed)


def _trust(look: Look) -> None:
    khat, effective, values = look.curve.khat, look.curve.effective, look.log_likelihood.value
    labels = look.test.labels
    worst = [
        {
            "datum": datum,
            "khat": worst_khat,
            "ess": effective[datum].item(),
            "log_likelihood": values[datum].item(),
            "label": None if labels is None else int(labels[datum]),
        }
        for datum, worst_khat in evaluation.worst_data(khat, threshold=-math.inf)
    ]
    look.report["khat"] = {
        "threshold": KHAT_THRESHOLD,
        "num_samples": look.plan.num_samples,
        "above": evaluation.share_above(khat),
        "values": [known(value) for value in khat.tolist()],
        "ess": effective.tolist(),
        "worst": worst,
    }


def _escalated(look: Look) -> None:
    khat, plan = look.curve.khat, look.plan
    if plan.escalated_draws and (khat > KHAT_THRESHOLD).any():
        with look.step("escalation", f"more draws, then annealing, for test data with k-hat above 0.7: {_above(khat)}"):
            vae, (x, y, _) = look.trained.vae, look.test
            with look.graphs():
                weights = evaluation.log_weights(vae, x, plan.num_samples, y, look.seed)  # those of the headline
            found = evaluation.escalate(vae, x, y, weights=weights, budget=plan.escalated_draws, seed=look.seed)
            look.report["escalation"] = found.to_dict()


def _latent(look: Look) -> None:
    vae, (x, y, _), draws, seed = look.trained.vae, look.train, look.plan.latent_samples, look.seed
    with look.step("latent", f"the aggregate posterior of {len(x)} training data"):
        active = evaluation.active_units(vae, x, y, seed=seed)
        kl = evaluation.kl_per_dimension(vae, x, look.plan.elbo_samples, y, seed)
        parts = look.unless_refused("marginal KL", lambda: evaluation.aggregate_terms(vae, x, draws, y, seed))
        information = parts.mutual_information if parts else evaluation.mutual_information(vae, x, draws, y, seed)
        correlation = look.unless_refused(
            "total correlation", lambda: evaluation.total_correlation(vae, x, draws, y, seed)
        )
        rate, distortion = evaluation.rate_distortion(vae, x, look.plan.elbo_samples, y, seed)
    look.report["latent"] = {
        "num_data": len(x),
        "active": {site: _activity(active, site) for site in active.variance},
        "kl_per_dimension": {site: found and _spectrum(found) for site, found in kl.items()},
        "mutual_information": information.to_dict(),
        "marginal_kl": parts and parts.marginal_kl.to_dict(),
        "total_correlation": correlation and correlation.to_dict(),
        "rate": rate.to_dict(),
        "distortion": distortion.to_dict(),
    }


def _annealed(look: Look) -> None:
    plan, chosen, vae = look.plan, look.chosen, look.trained.vae
    if not plan.annealed_data:
        return
    x, y = look.annealed
    rows: list[tuple[str, str, Estimate]] = [
        ("ELBO", "ELBO", _of(look.terms.elbo, chosen)),
        ("IWAE", f"IWAE, K = {plan.num_samples}", _of(look.log_likelihood, chosen)),
    ]
    with look.step("annealing", f"annealing {len(chosen)} test data, T = {plan.num_temperatures}"):
        found = evaluation.ais(vae, x, plan.num_temperatures, plan.num_chains, y, look.seed)
        rows.append(("AIS", f"AIS from q, T = {plan.num_temperatures}", found))
    if look.latent_dim <= GRID_DIM:
        with look.step("grid", f"log p(x) of {len(chosen)} test data on a grid of {look.latent_dim} dimensions"):
            grid = evaluation.quadrature(vae, x, y)
            rows.append(("grid", f"grid, n^D = {int(grid.points.max())}^{grid.dim}", grid))
    look.reference = rows[-1][1:]
    look.report["reference"] = {
        "num_data": len(chosen),
        "rows": [{"name": name, "label": label, **estimate.to_dict()} for name, label, estimate in rows],
        "differences": [
            {"label": f"{after[0]} - {before[0]}", **_difference(after[2], before[2])}
            for before, after in itertools.pairwise(rows)
        ],
    }


def _simulated(look: Look) -> None:
    plan, vae, seed = look.plan, look.trained.vae, derive(look.seed, "simulated")
    if not plan.annealed_data:
        return
    with look.step("simulated", f"annealing {plan.annealed_data} data simulated from the model, in both directions"):
        y = None if look.test.y is None else _drawn(look.train.y, plan.annealed_data, seed)
        size = None if y is not None else plan.annealed_data
        bounds = evaluation.bdmc(vae, size, plan.num_temperatures, plan.num_chains, y, seed)
        look.report["simulated"] = {
            "num_data": plan.annealed_data,
            "forward": bounds.forward.to_dict(),
            "reverse": bounds.reverse.to_dict(),
            "gap": bounds.gap,
            "gap_error": bounds.gap_error,
            "elbo": evaluation.elbo(vae, bounds.x, plan.elbo_samples, y, seed).to_dict(),
            "iwae": evaluation.iwae(vae, bounds.x, plan.num_samples, y, seed).to_dict(),
        }


def _gaps(look: Look) -> None:
    plan, vae, seed, train = look.plan, look.trained.vae, look.seed, look.train
    with look.step("gaps", f"ELBO of {len(train.x)} training data; the guide refined for {len(look.chosen)} test data"):
        seen = evaluation.elbo(vae, train.x, plan.elbo_samples, train.y, derive(seed, "train"))
        gaps: dict[str, Any] = {"train_test": evaluation.train_test_gap(seen, look.terms.elbo).to_dict()}
        if look.reference is not None:
            (x, y), (label, reference) = look.annealed, look.reference
            gaps |= evaluation.gap_budget(vae, x, reference, y, label=label, seed=seed).to_dict()
        look.report["gaps"] = gaps


def _posterior(look: Look) -> None:
    datum = _typical(look.curve.khat)
    x, y = look.test.x[datum : datum + 1], None if look.test.y is None else look.test.y[datum : datum + 1]
    if look.latent_dim <= PICTURE_DIM:
        with look.step("posterior", f"the true posterior of test datum {datum} on a grid"):
            look.posterior = evaluation.posterior_on_grid(look.trained.vae, x, y)
            found: dict[str, Any] = {"method": "grid"}
    elif size := look.plan.posterior_draws:
        with look.step("posterior", f"the true posterior of test datum {datum} by NUTS"):
            draws = evaluation.nuts(
                look.trained.vae, x, y, num_draws=size, num_warmup=min(200, max(50, size)), seed=look.seed
            )
            look.posterior, found = draws, draws.to_dict()
    else:
        return
    label = None if look.test.labels is None else int(look.test.labels[datum])
    look.report["posterior"] = {"datum": datum, "label": label, **found}


def _per_datum(look: Look, estimates: Mapping[str, Estimate]) -> dict[str, list[Any]]:
    """Columns of numbers, one for each test datum."""
    chosen = positions(look.trained.config, len(look.trained.data.test), look.plan.test_data)
    about = {} if chosen is None else {"position": chosen.tolist()}  # among all test data
    about |= {} if look.test.labels is None else {"label": look.test.labels.tolist()}
    return {**about, **{name: estimate.value.tolist() for name, estimate in estimates.items()}}


def _typical(khat: Tensor) -> int:
    """The datum of the middle k-hat."""
    return int(khat.nan_to_num(nan=0.0).argsort(stable=True)[len(khat) // 2])


def _of(estimate: Estimate, chosen: Tensor) -> Estimate:
    """The estimate for some of its data."""
    return replace(estimate, value=estimate.value[chosen], value_error=estimate.value_error[chosen])


def _difference(after: Estimate, before: Estimate) -> dict[str, Any]:
    """The paired difference, with its standard error over the data."""
    gain = after.value - before.value
    error = gain.std().item() / math.sqrt(len(gain)) if len(gain) > 1 else None
    return {"mean": gain.mean().item(), "standard_error": error}


def _drawn(y: Tensor | None, size: int, seed: int) -> Tensor | None:
    """Labels for simulated data, as frequent as among the training data."""
    if y is None:
        return None
    return y[torch.randint(len(y), (size,), generator=generator(seed, "labels")).to(y.device)]


def _activity(active: evaluation.ActiveUnits, site: str) -> dict[str, Any]:
    return {
        "count": active.count[site],
        "of": len(active.variance[site]),
        "relative_count": active.relative_count[site],
        "threshold": active.threshold,
        "variance": active.variance[site].tolist(),
        "variance_error": active.variance_error[site].tolist(),
    }


def _spectrum(found: evaluation.KLPerDimension) -> dict[str, Any]:
    errors = [known(error) for error in found.standard_error.tolist()]
    return {"mean": found.mean.tolist(), "standard_error": errors, "kind": found.kind}


def _above(khat: Tensor) -> str:
    return f"{int((khat > KHAT_THRESHOLD).sum())} of {len(khat)}"
