"""The evaluation of a program, with or without a run: every estimate that a report shows, as one dictionary.

Each section is a function of a `Look` and adds keys of its own. What a program cannot be asked (a KL to a prior that
differs between labels, for example) is left out, and `left_out` says why in a sentence. What is computed of single data
comes from `block_tasks`, whether it is measured here or put together from shards.
"""

import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from pyro_vae import evaluation, progress
from pyro_vae.errors import divergence
from pyro_vae.evaluation import Estimate, IWAECurve, PosteriorDraws, PosteriorGrid
from pyro_vae.evaluation.baseline import baselines_of, compared
from pyro_vae.evaluation.bounds import steps
from pyro_vae.evaluation.estimators import known
from pyro_vae.evaluation.memory import DATA_BLOCK
from pyro_vae.evaluation.precision import rounding_summary
from pyro_vae.evaluation.trust.diagnostics import KHAT_THRESHOLD
from pyro_vae.evaluation.trust.gaps import ELBOs, budget
from pyro_vae.experiment.evaluate import block_tasks, headline, shared_work, whole_tasks
from pyro_vae.experiment.evaluate.block_tasks import Part
from pyro_vae.experiment.evaluate.evaluated_run import Subject
from pyro_vae.experiment.evaluate.evaluation_plan import Plan
from pyro_vae.experiment.evaluate.whole_tasks import NO_TRAINING, WHOLE_TASKS
from pyro_vae.experiment.run.program_and_data import ProgramAndData
from pyro_vae.experiment.team.team import Say, Team
from pyro_vae.experiment.team.worker import Piece
from pyro_vae.inference.divergence import fault_on_data
from pyro_vae.threads import computing

T = TypeVar("T")

NOT_REFINED = (
    "they need a guide fitted to single data, which requires one latent site that is a Normal(loc, "
    "scale).to_event(1), as in DiagonalNormal"
)
_AT_ONCE = 8 * DATA_BLOCK  # test data of a baseline; whole blocks of their fingerprint


@dataclass(eq=False)
class Look(Subject):
    """What is evaluated, the plan, and the results so far.

    Attributes:
        say: is told what is being done, as a sentence for a person who waits.
        parts: task -> what was computed of single data, or a sentence where this program cannot be asked.
        report: what report.json will hold.
        timings: the seconds of each step.
        posterior: the true posterior of one datum, for a picture.
        team: the processes that share the work.
        reference: the best estimate of log p(x) of the test data that were annealed, and what it is.
    """

    say: Say = lambda sentence: None
    parts: dict[str, Part | str] = field(default_factory=dict)
    report: dict[str, Any] = field(default_factory=dict)
    timings: dict[str, float] = field(default_factory=dict)
    posterior: PosteriorGrid | PosteriorDraws | None = None
    reference: tuple[str, Estimate] | None = None
    team: Team = field(default_factory=Team)

    def part(self, name: str) -> dict[str, Any]:
        """The answer to one task for all data, measured unless it is there already.

        Raises:
            ValueError: this program cannot be asked.
        """
        if name not in self.parts:
            pieces = shared_work.offer_blocks(self.team, self, name)
            self.parts[name] = block_tasks.joined([self._answer(piece) for piece in pieces])
        if isinstance(part := self.parts[name], str):
            raise ValueError(part)
        return part

    def given(self, name: str) -> whole_tasks.Given | None:
        """What is given with a question about several data; None where the plan does not ask it."""
        given = WHOLE_TASKS[name].given(self, self.part("iwae"))
        if given is None and (going := progress.current_plan()) is not None:
            going.leave_out(name)
        return given

    def whole(self, name: str, given: whole_tasks.Given) -> Any:
        """The answer to a question about several data.

        Raises:
            ValueError: this program cannot be asked.
        """
        return self._answer(shared_work.offer_whole(self.team, self, name, given, self.part("iwae")))

    def _answer(self, piece: Piece) -> Any:
        try:
            return self.team.answer(piece, partial(shared_work.work, self))
        finally:
            self.timings |= {step: round(seconds, 2) for step, seconds in self.team.seconds.items()}

    @property
    def terms(self) -> evaluation.ELBOTerms:
        """ELBO, reconstruction and KL of the test data."""
        return evaluation.ELBOTerms(**self.part("elbo"))

    @cached_property
    def curve(self) -> IWAECurve:
        """The bounds at k = 1 ... K of the test data."""
        part = self.part("iwae")
        bounds = {k: part[str(k)] for k in steps(self.plan.num_samples)}
        return IWAECurve(bounds, part["jackknife"], part["khat"], part["ess"])

    @property
    def log_likelihood(self) -> Estimate:
        """The log p(x) of the test data in the headline, which is the last point of the curve where there is one."""
        if self.is_headline:
            bound: Estimate = self.part("log_likelihood")["log_likelihood"]
            return bound
        last = self.curve.bounds[self.plan.num_samples]
        quantity = last.quantity.replace(f"bound of {last.num_samples} draws on ", "")
        return replace(last, name="log p(x)", quantity=quantity)

    @contextmanager
    def step(self, name: str, sentence: str) -> Iterator[None]:
        """Announces a step that this process does, and measures its time."""
        self.say(sentence)
        begun = time.perf_counter()
        with progress.section(name, sentence):
            yield
        self.timings[name] = round(time.perf_counter() - begun, 2)

    def unless_refused(self, name: str, ask: Callable[[], T]) -> T | None:
        """Asks a question. Where this program cannot be asked, the answer is None, and `left_out` gets the reason."""
        try:
            return ask()
        except ValueError as error:
            self.leave_out(name, str(error))
            return None

    def leave_out(self, name: str, reason: str) -> None:
        """Records why something is left out."""
        self.report.setdefault("left_out", {})[name] = reason


def evaluate(
    trained: ProgramAndData,
    plan: Plan,
    say: Say = lambda sentence: None,
    parts: Mapping[str, Part | str] | None = None,
    team: Team | None = None,
) -> Look:
    """Computes everything that a plan asks of a program; `Look.report` is what report.json will hold.

    Args:
        trained: the program and its data: a run, for example.
        plan: how much is computed.
        say: is told what is being done.
        parts: what shards have computed, by task; see `shards`.
        team: the processes that share the work, see `shared_work.team`; by default this one alone.

    Raises:
        DivergenceError: an estimate is not finite.
        ProcessError: one of several processes was ended by the system.
    """
    with computing(trained.threads):
        return _evaluated(Look(trained, plan, say, dict(parts or {}), team=team or Team(say=say)))


def _evaluated(look: Look) -> Look:
    if look.team.has_workers:
        shared_work.offer_ahead(look.team, look, without=look.parts)
    estimates = _headline(look)
    if look.is_headline:
        return look
    look.report["per_datum"] = _per_datum(look, estimates)
    if look.is_autoencoder:
        return look
    if look.team.has_workers:
        shared_work.offer_after_curve(look.team, look, look.part("iwae"))
    _curve(look)
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


def _headline(look: Look) -> dict[str, Estimate]:
    def cause(datum: int) -> str:
        given = look.test.at(torch.tensor([datum]))
        return fault_on_data(look.trained.vae, look.plan.num_samples, *given).cause

    with divergence(headline.ON_TEST_DATA):
        if look.is_autoencoder:
            estimates = headline.finite(look.part("reconstruction"), cause, look.test.place)
        else:
            found = {**look.terms._asdict(), "log_likelihood": look.log_likelihood}
            estimates = headline.finite(found, cause, look.test.place)
    look.report |= headline.headline(look.trained, estimates, _classes(look), _rounding(look), _observed(look))
    if not look.is_autoencoder:
        look.unless_refused("baselines", partial(_baselines, look))
    return estimates


def _observed(look: Look) -> Tensor | None:
    """Counts the numbers of each test datum that were observed, (N,); None if none can be missing."""
    if not look.trained.facts.missing:
        return None
    pieces = look.test.pieces(torch.arange(len(look.test)).split(_AT_ONCE))
    return torch.cat([(~x.isnan()).flatten(1).sum(1) for x, _ in pieces]).cpu()


def _baselines(look: Look) -> None:
    facts, data, size = look.trained.facts, look.trained.data, len(look.test)
    if data is None:
        raise ValueError(NO_TRAINING)
    if facts.support is None:
        raise ValueError("x is not observed at one site of independent numbers, by whose support they are chosen")
    classes = data.num_classes if facts.conditional else 0
    with look.step("baselines", "simple densities fitted to the training data"):
        pieces = look.test.pieces(torch.arange(size).split(_AT_ONCE))
        found = baselines_of(pieces, data.train, classes, support=facts.support)
        look.report["baselines"] = compared(look.log_likelihood, found)


def _classes(look: Look) -> dict[str, Any] | None:
    data, labels = look.trained.data, look.test.labels
    if data is None and labels is not None and not look.is_autoencoder:
        look.leave_out("classes", NO_TRAINING)
    if data is None or labels is None or not block_tasks.TASKS["classes"].applies(look):
        return None
    columns = {name: column.T for name, column in look.part("classes").items()}
    classes = evaluation.Classification(**columns, num_samples=look.plan.elbo_samples)
    return classes.summary(labels, data.train.labels)


def _rounding(look: Look) -> dict[str, Any] | None:
    applies = block_tasks.TASKS["rounding"].applies(look)
    return rounding_summary(look.part("rounding")["rounding"]) if applies else None


def _curve(look: Look) -> None:
    if unfinished := look.trained.unfinished:
        look.report["unfinished"] = unfinished
    look.report["curve"] = [bound.to_dict() for bound in look.curve.bounds.values()]
    look.report["jackknife"] = look.curve.jackknife.to_dict()


def _trust(look: Look) -> None:
    khat, effective, values = look.curve.khat, look.curve.effective, look.log_likelihood.value
    labels = look.test.labels
    worst = [
        {
            "datum": datum,
            **_named(look, datum),
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
    if (given := look.given("escalation")) is None:
        return
    khat, worst, taken = look.curve.khat, given[0].tolist(), look.whole("escalation", given)
    rows = [row._replace(datum=worst[row.datum]) for row in taken.rows]
    above = [datum for datum, _ in evaluation.worst_data(khat, len(khat))]
    waiting = [datum for datum in above if datum not in {row.datum for row in rows}]
    found = replace(taken, rows=rows, left_out=waiting, num_data=len(khat)).to_dict()
    look.report["escalation"] = {**found, "rows": [{**row, **_named(look, row["datum"])} for row in found["rows"]]}


def _latent(look: Look) -> None:
    look.report["latent"], refused = look.whole("latent", ())
    for name, reason in refused.items():
        look.leave_out(name, reason)


def _annealed(look: Look) -> None:
    plan, chosen = look.plan, look.chosen
    if not plan.annealed_data:
        return
    rows: list[tuple[str, str, Estimate]] = [
        ("ELBO", "ELBO", _of(look.terms.elbo, chosen)),
        ("IWAE", f"IWAE, K = {plan.num_samples}", _of(look.log_likelihood, chosen)),
        ("AIS", f"AIS from q, T = {plan.num_temperatures}", look.part("annealing")["AIS"]),
    ]
    if block_tasks.TASKS["grid"].applies(look):
        grid, n = look.part("grid")["grid"], int(look.part("grid")["grid"].points.max())
        rows.append(("grid", f"grid, n^D = {n}^{grid.dim}", replace(grid, num_samples=n**grid.dim)))
    look.reference = rows[-1][1:]
    look.report["reference"] = {
        "num_data": len(chosen),
        "rows": [{"name": name, "label": label, **estimate.to_dict()} for name, label, estimate in rows],
        "differences": [
            {"label": f"{name} - {other}", **_difference(estimate, cheaper)}
            for (other, _, cheaper), (name, _, estimate) in itertools.pairwise(rows)
        ],
    }


def _simulated(look: Look) -> None:
    if not look.plan.annealed_data:
        return
    part = look.part("simulated")
    bounds = evaluation.BidirectionalEstimate(part["forward"], part["reverse"], torch.empty(0))
    look.report["simulated"] = {
        "num_data": len(look.chosen),
        **{name: estimate.to_dict() for name, estimate in part.items()},
        "gap": bounds.gap,
        "gap_error": known(bounds.gap_error),
    }


def _gaps(look: Look) -> None:
    gaps: dict[str, Any] = {}
    if look.train is None:
        look.leave_out("train - test", NO_TRAINING)
    else:
        seen = look.part("training")["elbo"]
        gaps["train_test"] = evaluation.train_test_gap(seen, look.terms.elbo).to_dict()
    if look.reference is not None:
        label, reference = look.reference
        part = look.part("gaps")
        guides = ELBOs(part["elbo"], part.get("refined"), part.get("amortisation"))
        gaps |= budget(reference, guides, label).to_dict()
        if guides.refined is None:
            look.leave_out("approximation and amortisation gap", NOT_REFINED)
    if gaps:
        look.report["gaps"] = gaps


def _posterior(look: Look) -> None:
    if (given := look.given("posterior")) is None:
        return
    (datum,), (look.posterior, about) = given, look.whole("posterior", given)
    label = None if look.test.labels is None else int(look.test.labels[datum])
    look.report["posterior"] = {"datum": datum, **_named(look, datum), "label": label, **about}


def _per_datum(look: Look, estimates: Mapping[str, Estimate]) -> dict[str, list[Any]]:
    """Makes columns that have a number for each test datum."""
    chosen, ids = look.test.positions, look.test.ids
    about = {} if chosen is None else {"position": chosen.tolist()}  # among all test data
    about |= {"row": look.test.rows.tolist()}  # of the file
    about |= {} if ids is None else {"id": [str(name) for name in ids]}
    about |= {} if look.test.labels is None else {"label": look.test.labels.tolist()}
    return {**about, **{name: estimate.value.tolist() for name, estimate in estimates.items()}}


def _named(look: Look, datum: int) -> dict[str, Any]:
    """Returns the row of the file that a test datum is in, and its name."""
    ids = look.test.ids
    return {"row": int(look.test.rows[datum]), **({} if ids is None else {"id": str(ids[datum])})}


def _of(estimate: Estimate, chosen: Tensor) -> Estimate:
    """The estimate for some of the data."""
    return replace(estimate, value=estimate.value[chosen], value_error=estimate.value_error[chosen])


def _difference(after: Estimate, before: Estimate) -> dict[str, Any]:
    """The paired difference, with its standard error over the data."""
    gain = after.value - before.value
    error = gain.std().item() / math.sqrt(len(gain)) if len(gain) > 1 else None
    return {"mean": gain.mean().item(), "standard_error": error}
