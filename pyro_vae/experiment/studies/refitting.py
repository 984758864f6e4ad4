r"""Another prior for a trained run: encoder and decoder stay as they are, only the prior is fitted.

The ELBO depends on the prior only through E_q[log p(z)], so fitting the prior by the ELBO maximises that. The ELBO then
gains as many nats per datum as the aggregate posterior q(z) = 1/N sum_n q(z|x_n) comes closer to the prior, while
reconstruction and mutual information stay:

.. math::

    L_{\mathrm{new}} - L_{\mathrm{old}}
    = \mathrm{KL}(q(z) \,\|\, p_{\mathrm{old}}(z)) - \mathrm{KL}(q(z) \,\|\, p_{\mathrm{new}}(z))

On the same draws of z this holds draw by draw, for any data.

Reference:
    Hoffman & Johnson, "ELBO surgery: yet another way to carve up the variational evidence lower bound", NIPS workshop
    on Advances in Approximate Bayesian Inference 2016.
"""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from pyro_vae import evaluation
from pyro_vae.errors import UsageError
from pyro_vae.evaluation import Bracket, Estimate
from pyro_vae.evaluation.estimators import read_terms
from pyro_vae.evaluation.weights import draw_columns, read_log_weights
from pyro_vae.experiment import build
from pyro_vae.experiment.config import Config
from pyro_vae.experiment.evaluate.evaluation_plan import Plan
from pyro_vae.experiment.own_members import OwnMember, OwnMembers
from pyro_vae.experiment.run import files
from pyro_vae.experiment.run.evaluation_data import DataInMemory
from pyro_vae.experiment.run.run_folder import Run
from pyro_vae.experiment.run.trained_run import TrainedRun
from pyro_vae.experiment.train import member_checks, training_lock, training_report
from pyro_vae.experiment.train.epoch_display import Display, nothing
from pyro_vae.experiment.train.training_session import Session
from pyro_vae.model.traces import Traces
from pyro_vae.model.vae import VAE
from pyro_vae.progress import stage, through
from pyro_vae.randomness import derive, stream
from pyro_vae.report.document import Document, Section, Table
from pyro_vae.report.documents.refit_document import Change, change_table, refit_document
from pyro_vae.report.render.plain_text import to_text
from pyro_vae.threads import computing

_PARTS = 14  # of a comparison: draws of either program, and their mixtures
ROUNDING = 1e-6  # share of the largest ELBO of a datum: log-densities are computed in the program's own precision


def refitted_config(before: Config, prior: str, changes: dict[str, Any], own: OwnMember | None = None) -> Config:
    """Makes the settings of a run with another prior, fitted by the ELBO.

    Args:
        before: the settings of the trained run.
        prior: a name of `tables.PRIORS`.
        changes: other settings, and the values that they get.
        own: the class of the user's own that `prior` is the place of.

    Raises:
        UsageError: the run is a plain autoencoder or has two layers, or the prior is unknown or lacks labels.

    Example:
        >>> refitted_config(Config(kl_weight=0.5), "vamp", {"num_components": 50}).kl_weight
        1.0
    """
    if before.posterior == "delta":
        raise UsageError(
            "a plain autoencoder has no ELBO: the KL of its codes, which are points, is infinite under every prior. "
            "Name a run with another posterior"
        )
    if before.layers == 2:
        raise UsageError("a run of two layers of latents has no single prior to replace: name a run with one layer")
    elbo = replace(
        before, objective="mean_field_elbo", gradient="total", kl_weight=1.0, reconstruction_weight=1.0, kl_warmup=0
    )
    members = replace(before.own, prior=own)
    config = replace(elbo, **{"prior_args": "", **changes}, prior=prior, own=members)
    build.check_names(config)
    build.check_own(config)
    return config


def with_prior(trained: TrainedRun, config: Config) -> VAE:
    """Builds the program of a run with the prior of another config, at its start.

    Args:
        trained: the run; it is not changed, encoder and decoder are frozen copies.
        config: the settings of the new prior.

    Raises:
        UsageError: the prior has nothing to fit, or cannot be built.
    """
    data, old = trained.data, trained.one_layer
    posterior, likelihood = copy.deepcopy((old.posterior, old.likelihood))  # at once: they may share
    posterior.requires_grad_(False)
    likelihood.requires_grad_(False)
    new = cast(VAE, build.vae(config, *data.form, posterior=posterior, likelihood=likelihood))
    if not any(parameter.requires_grad for parameter in new.prior.parameters()):
        raise UsageError(
            f"`prior={config.prior!r}` has no parameters to fit: name one that learns, e.g. `prior='vamp'`, mixture "
            f"or flow"
        )
    train = data.train.in_memory()
    y = train.one_hot(data.num_classes) if config.conditional else None
    with stream(config.seed, "start"):
        new.prior.start_at(new.posterior, train.fixed(), y)
    return new


class Terms(NamedTuple):
    """The terms of the ELBO that the prior decides and those that it does not, (N,) each, all at the same K draws of z.

    elbo = reconstruction - rate, and rate = mutual_information + marginal_kl. With labels all of them are given y, and
    the mixture q(z|y) is that of the data of one label.
    """

    elbo: Estimate
    reconstruction: Estimate
    rate: Estimate
    mutual_information: Estimate
    marginal_kl: Bracket


def terms(vae: VAE, data: DataInMemory, num_samples: int, seed: int) -> Terms:
    """Estimates the terms of one program, with a sampled KL.

    Args:
        vae: the program.
        data: N data, with labels y where it is conditional.
        num_samples: K.
        seed: the seed of the draws.

    Returns:
        The terms. The ELBO is the mean log-weight, computed apart from the others.
    """
    by_label = [_terms(vae, *rows, num_samples, derive(seed, "terms", i)) for i, rows in enumerate(_by_label(data))]
    whole = Terms(*(cast(Any, _joined(estimates)) for estimates in zip(*by_label, strict=True)))
    names = {"mutual_information": f"mutual information, log N = {math.log(len(data.x)):.3f}"}
    if data.y is not None:
        names = {
            "rate": "rate KL(q(z|x,y)||p(z|y))",
            "mutual_information": "mutual information given y",
            "marginal_kl": "KL(q(z|y)||p(z|y))",
        }
    return whole._replace(**{term: replace(getattr(whole, term), name=name) for term, name in names.items()})


@dataclass(frozen=True)
class Swap:
    """Two priors of one encoder and decoder, on the same data and the same draws. Printing it gives a table.

    Attributes:
        name: the name of the data.
        before, after: the terms under either prior.
        log_likelihood: log p(x) before and after, by importance sampling; log p(x|y) with labels.
        elbo_change: ELBO_after - ELBO_before by other draws, and with the analytic KL where there is one.
        marginal_kl_change: marginal KL after - before. Both changes have the error of a difference on the same draws.
    """

    name: str
    before: Terms
    after: Terms
    log_likelihood: tuple[Estimate, Estimate]
    elbo_change: Estimate
    marginal_kl_change: Estimate

    @property
    def residual(self) -> Tensor:
        """The change of the ELBO plus the change of KL(q(z) || p(z)), (N,), which is 0."""
        return self._change("elbo") + self._change("marginal_kl")

    @property
    def gap(self) -> tuple[float, float]:
        """The mean residual with the ELBO by other draws, and its Monte Carlo error."""
        elbo, kl = self.elbo_change, self.marginal_kl_change
        return elbo.mean + kl.mean, math.hypot(elbo.monte_carlo_error, kl.monte_carlo_error)

    def faults(self) -> list[str]:
        """Lists what fails, one sentence each."""
        allowed = ROUNDING * max(1.0, self.before.elbo.value.abs().max().item())
        stays = {"reconstruction": "reconstruction", "mutual_information": "mutual information"}
        checks = {f"the {words} changed": self._change(name) for name, words in stays.items()}
        checks[f"the ELBO changed otherwise than {self.before.marginal_kl.name}"] = self.residual
        largest = {words: change.abs().max().item() for words, change in checks.items()}
        faults = [
            f"{self.name}: {words}, by {most:.1e} nats at one datum"
            for words, most in largest.items()
            if not most <= allowed
        ]
        gap, error = self.gap
        if not abs(gap) <= 4 * error + allowed:
            faults.append(f"{self.name}: by other draws the two changes differ by {gap:+.4f} ± {error:.4f} nats")
        return faults

    def to_dict(self) -> dict[str, Any]:
        """Converts to plain values for JSON."""
        rows = {name: [before.to_dict(), after.to_dict()] for name, before, after in self._rows()}
        largest = {name: self._change(name).abs().max().item() for name in ("reconstruction", "mutual_information")}
        gap, error = self.gap
        return {
            "before_and_after": rows,
            "largest_residual": self.residual.abs().max().item(),
            "largest_change_of_what_stays": largest,
            "by_other_draws": {"difference": gap, "monte_carlo_error": error},
            "faults": self.faults(),
        }

    @property
    def table(self) -> Table:
        """The table of all terms before and after, with what was checked."""
        (gap, error), largest, kl = self.gap, self.residual.abs().max().item(), self.before.marginal_kl.name
        gained, lost = ("gained", "lost") if self._change("elbo").mean() >= 0 else ("lost", "gained")
        passed = f"check passed: the ELBO {gained} what {kl} {lost}, and nothing else changed"
        foot = (
            "check failed:" if self.faults() else passed,
            f"change of ELBO + change of {kl}: {self.residual.mean():+.1e}, at most {largest:.1e} of one datum; "
            "draw by draw it is 0",
            f"the same with the ELBO by other draws, KL analytic where it can be: {gap:+.4f} ± {error:.4f}",
        )
        return change_table(self.name, [self._row(*row) for row in self._rows()], foot)

    def __str__(self) -> str:
        return to_text(Document("", (Section("", (self.table,)),)))

    def _rows(self) -> list[tuple[str, Estimate, Estimate]]:
        old, new = self.log_likelihood
        terms = [(before.name, before, after) for before, after in zip(self.before, self.after, strict=True)]
        lower = self.before.marginal_kl.leave_one_out, self.after.marginal_kl.leave_one_out
        return [*terms, ("leave-one-out, its lower end", *lower), (f"{old.name}, K = {old.num_samples}", old, new)]

    def _change(self, name: str) -> Tensor:
        return getattr(self.after, name).value - getattr(self.before, name).value

    @staticmethod
    def _row(name: str, old: Estimate, new: Estimate) -> Change:
        change = new.value - old.value
        error = change.std().item() / math.sqrt(len(change))
        return Change(name, old.to_dict(), new.to_dict(), change.mean().item(), error)


def swap(name: str, old: VAE, new: VAE, data: DataInMemory, num_samples: int, config: Config) -> Swap:
    """Compares two priors of one encoder and decoder. It costs N^2 K densities.

    Args:
        name: the name of the data.
        old, new: the two programs.
        data: N data to evaluate on.
        num_samples: K.
        config: `elbo_samples`, `test_samples` and `seed` are read.
    """
    seed, other = derive(config.seed, "swap"), derive(config.seed, "swap", "other draws")
    x, y = data.x, data.y
    before, after = (terms(vae, data, num_samples, seed) for vae in (old, new))
    first, second = (_log_likelihood(vae, data, config.test_samples, other) for vae in (old, new))
    elbo = _mean("change of ELBO", _paired(old, new, x, y, config.elbo_samples, other, _read_elbo))
    kl = _marginal_kl_change(before, after, old, new, data, num_samples, seed)
    return Swap(name, before, after, (first, second), elbo, kl)


def refit(trained: TrainedRun, config: Config, folder: Path, plan: Plan, display: Display = nothing) -> list[Swap]:
    """Fits another prior as a run of its own, and compares it to the one before, on test and on training data.

    The folder is that of any run, with `refitted_from` in its run.json, and refit.json and refit.txt next to the
    report.

    Args:
        trained: the run whose encoder and decoder are kept.
        config: what `refitted_config` returned.
        folder: the folder of the new run.
        plan: `latent_data`, the most data that are compared, and `latent_samples`, the draws for each.
        display: how epochs are shown.

    Returns:
        The comparison on test data, and that on training data.

    Raises:
        UsageError: the folder holds a run, another process trains in it, or the prior has nothing to fit.
    """
    config = replace(config, threads=trained.threads)
    run = Run(folder, config)
    if run.exists():
        raise UsageError(f"{folder} already holds a run: use another `folder`")
    with stage("building the program"):
        program = with_prior(trained, config)
    only = replace(config, own=OwnMembers(prior=config.own.prior))  # the others were checked before their training
    member_checks.check(only, program, trained.data)
    svi = build.svi(config, program)
    with computing(trained.threads), training_lock.locked(folder, b""):
        session = Session.open(run, trained.data, program, svi, started_from=trained.run.status.started_from())
        source = {"run": str(trained.run.path), "epoch": trained.best_epoch, "config": trained.config.scientific()}
        run.status.set("running", refitted_from=source)
        with run.status.on_exit():
            with display(config.epochs, 0) as show:
                for record in session.fit():
                    session.save(record)
                    show(record)
            training_report.write(run, program, session.data, session.progress)
            compared = {"test": trained.test(plan.latent_data), "training": trained.training(plan.latent_data)}
            swaps = [
                swap(name, trained.one_layer, program, data, plan.latent_samples, config)
                for name, data in through("comparisons of the priors", compared.items(), len(compared), parts=_PARTS)
            ]
            _write(folder, trained.config.prior, config.prior, swaps)
            run.status.set("finished")
    return swaps


def _write(folder: Path, old: str, new: str, swaps: Sequence[Swap]) -> None:
    content = {"prior": [old, new], **{swap.name: swap.to_dict() for swap in swaps}}
    files.write(folder / "refit.json", files.to_json(content))
    text = to_text(refit_document(old, new, [swap.table for swap in swaps]))
    files.write(folder / "refit.txt", (text + "\n").encode())


def _terms(vae: VAE, x: Tensor, y: Tensor | None, num_samples: int, seed: int) -> Terms:
    weights = evaluation.log_weights(vae, x, num_samples, y, seed).cpu()
    elbo = _mean("ELBO", weights)
    reconstruction = evaluation.elbo_terms(vae, x, num_samples, y, seed).reconstruction
    return Terms(elbo, reconstruction, *evaluation.aggregate_terms(vae, x, num_samples, y, seed))


def _log_likelihood(vae: VAE, data: DataInMemory, num_samples: int, seed: int) -> Estimate:
    bound = evaluation.iwae(vae, data.x, num_samples, data.y, seed)
    return bound if data.y is None else replace(bound, name="log p(x|y)")


def _marginal_kl_change(
    before: Terms, after: Terms, old: VAE, new: VAE, data: DataInMemory, num_samples: int, seed: int
) -> Estimate:
    """The change, in which q(z) cancels: its error is that of log p_old(z) - log p_new(z) at the draws of `terms`."""
    draws = [
        _paired(old, new, *rows, num_samples, derive(seed, "terms", i), read_log_weights)
        for i, rows in enumerate(_by_label(data))
    ]
    error = _mean("", torch.cat(draws, 1)).value_error
    name, change = before.marginal_kl.name, after.marginal_kl.value - before.marginal_kl.value
    return Estimate(f"change of {name}", change, error, num_samples)


def _paired(
    old: VAE, new: VAE, x: Tensor, y: Tensor | None, num_samples: int, seed: int, read: Callable[[Traces], Tensor]
) -> Tensor:
    """What is read under the new program minus the same under the old one, draw by draw: (K, N)."""
    first, second = (
        torch.cat([torch.cat(blocks) for _, blocks in draw_columns(vae, x, num_samples, y, seed, read)], 1)
        for vae in (old, new)
    )
    return (second - first).cpu()


def _read_elbo(pair: Traces) -> Tensor:
    elbo_terms = read_terms(pair)
    return elbo_terms.reconstruction - elbo_terms.kl


def _mean(name: str, values: Tensor) -> Estimate:
    """The mean over draws of values (K, N), with its errors."""
    return Estimate(name, values.mean(0), values.std(0) / math.sqrt(len(values)), len(values))


def _by_label(data: DataInMemory) -> list[tuple[Tensor, Tensor | None]]:
    if data.y is None:
        return [(data.x, None)]
    classes = data.y.argmax(-1)
    return [(data.x[classes == label], data.y[classes == label]) for label in classes.unique()]


def _joined(estimates: Sequence[Estimate]) -> Estimate:
    values, errors = (torch.cat([getattr(e, what) for e in estimates]) for what in ("value", "value_error"))
    about = estimates[0].name, values, errors, estimates[0].num_samples
    lower = [e.leave_one_out for e in estimates if isinstance(e, Bracket)]
    return Bracket(*about, leave_one_out=_joined(lower)) if lower else Estimate(*about)
