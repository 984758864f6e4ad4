"""pyro_vae.evaluate: the whole report of any program with a model and a guide, without a run and without a config."""

import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyro_vae.data import Splits
from pyro_vae.errors import UsageError, unknown
from pyro_vae.evaluation import Estimate, IWAECurve
from pyro_vae.experiment.evaluate import expected_work, report_files
from pyro_vae.experiment.evaluate.evaluation_plan import Plan
from pyro_vae.experiment.evaluate.given_program import GivenProgram
from pyro_vae.experiment.evaluate.measurements import Look, Say
from pyro_vae.experiment.evaluate.measurements import evaluate as look_closely
from pyro_vae.experiment.run import files
from pyro_vae.model.program import undisturbed
from pyro_vae.progress_display import shown
from pyro_vae.randomness import preserved
from pyro_vae.report.document import Document
from pyro_vae.report.documents.evaluation_document import terminal_document
from pyro_vae.report.documents.training_document import headline_section
from pyro_vae.report.render.notebook import to_cell
from pyro_vae.report.render.plain_text import to_text

_PLAN = [field.name for field in fields(Plan) if field.name != "evaluation_seed"]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What an evaluation found. Printing it gives the text of the report; a notebook shows its head.

    `elbo`, `reconstruction`, `kl` and `log_likelihood` are estimates on the test data, in nats, each an
    `pyro_vae.evaluation.Estimate` with a value for each datum. A plain autoencoder has only `reconstruction` and
    `rmse`; all else is None.

    Attributes:
        report: all of it, as report.json has it.
        khat: of the importance weights of each test datum (N,), see `evaluation.psis_khat`.
        curve: the bounds on log p(x) at k = 1 ... K, and the jackknife.
        files: the paths of the files that were written.
    """

    report: dict[str, Any]
    elbo: Estimate | None
    reconstruction: Estimate
    kl: Estimate | None
    log_likelihood: Estimate | None
    rmse: Estimate | None
    khat: Tensor | None
    curve: IWAECurve | None
    files: tuple[Path, ...] = ()

    def __str__(self) -> str:
        return to_text(terminal_document(self.report))

    def _repr_html_(self) -> str:
        page = next((path for path in self.files if path.suffix == ".html"), None)
        more = f"The page: {page}" if page else "print(...) shows all of it; evaluate(..., out=FOLDER) writes a page."
        return to_cell(Document(self.report["run"]["name"], (headline_section(self.report),)), more)


def evaluate(
    vae: Any,
    data: Splits | Tensor,
    out: str | Path | None = None,
    *,
    y: Tensor | None = None,
    history: Any = (),
    conditional: bool | None = None,
    name: str = "",
    seed: int = 0,
    quiet: bool = False,
    **plan: Any,
) -> Evaluation:
    """Reports how good a program is and how far that can be trusted: all that scripts/evaluate.py computes of a run.

    That is ELBO and log p(x) with both errors, simple densities for comparison, the bound at every k, k-hat and more
    work on the worst data, annealing, a grid up to three latent numbers, bounds from both sides on simulated data,
    gaps, the true posterior of one datum, and the latent space. What a program cannot be asked is left out, and
    `report["left_out"]` says why. The program, its `.training` flags, the random state and Pyro's parameter store stay
    as they are. All is done in this process: another could not open a program whose classes only a notebook or a script
    has.

    The report describes the program by what is there: classes and arguments of its members, or else the distributions
    at its sites; the support of x is that of the likelihood or of the observed site. It says nothing about a training
    without `history`.

    Annealing takes by far the longest: half a minute for a small network, 100 test data and as many simulated ones.
    `annealed_data=0` switches it off, with the grid and the gaps. Then comes NUTS, for the true posterior above two
    latent numbers; `posterior_draws=0` switches that off.

    Args:
        vae: anything with `.model(x, y)` and `.guide(x, y)` over one data plate: a `VAE` with members of your own, a
            `HierarchicalVAE`, your own `Program`, or an object with two functions. Sections on simulated data, and
            pictures of samples, need a model that generates without x.
        data: `Splits`, as `pyro_vae.data.load` and `from_arrays` make them: measured on their test data, in the type
            of the program's own numbers. Or only test data, a tensor (N, *x_shape), taken as they are: what needs
            training data (baselines, the latent space, train - test, classes) is then left out.
        out: a folder for report.html, .txt, .json, .md, .csv, .tex, data.csv and log_likelihood.nc, each written whole
            or not at all. The report of the same name that is there is replaced; a folder with a run, or with a report
            of another name, is refused.
        y: one-hot labels (N, C) of test data that are a tensor, for a program of p(x|y).
        history: the records of the epochs, as `fit` yields them (or what `pyro_vae.train` returned), for the curve of
            the training.
        conditional: whether the program gets the labels of the splits. None asks it: it gets them where it does not run
            without.
        name: what it is called in the report; by default its class and data.
        seed: of all draws. With the seed of a run's training the numbers are those of scripts/evaluate.py, to the
            last digit.
        quiet: True prints nothing; else a line says what is being done, with the time of day, and a terminal shows how
            long it will take.
        plan: how much is computed, by the names of `pyro_vae.experiment.evaluate.evaluation_plan.Plan`: `test_data`,
            `elbo_samples`, `num_samples` (K of log p(x), 1000), `annealed_data` (100; 0 is none), `num_temperatures`,
            `num_chains`, `escalated_draws`, `latent_data`, `latent_samples`, `posterior_draws`, `saved_numbers`.

    Returns:
        The numbers, see `Evaluation`.

    Raises:
        UsageError: another setting, a value out of range, no model or guide, labels or records of another form; or
            `out` holds something else.
        DataError: data of another shape, or outside the support of p(x|z); a row of `y` without a single 1.
        ValueError: model and guide differ in their latent sites, or a site is outside the data plate.
        DivergenceError: an estimate on the test data is not finite.
        StorageError: a file cannot be written.

    Example:
        >>> import torch, pyro_vae as pv
        >>> vae = pv.VAE(pv.priors.StandardNormal(2),
        ...              pv.posteriors.DiagonalNormal(pv.networks.MLP((4,), (4,)), 2),
        ...              pv.likelihoods.Bernoulli(pv.networks.MLP((2,), (4,))))
        >>> found = evaluate(vae, torch.eye(4), quiet=True, num_samples=50, annealed_data=0)
        >>> found.log_likelihood.mean >= found.elbo.mean, found.khat.shape, found.report["left_out"]["baselines"]
        (True, torch.Size([4]), 'there are only test data, and this needs training data, which Splits have')
    """
    plan_of = _plan(plan)
    say: Say = (lambda sentence: None) if quiet else _say
    records: Sequence[Any] = getattr(history, "history", history)
    given = GivenProgram(vae, data, y, history=records, conditional=conditional, name=name, seed=seed)
    folder = None if out is None else Path(out)
    if folder is not None:
        _check_place(folder, given.name)
    shows = nullcontext() if quiet else shown("looking at the program")
    with undisturbed(vae), preserved(torch.device(given.facts.device)), shows, expected_work.planned(given, plan_of):
        look = look_closely(given, plan_of, say)
        return _finished(look, folder, say)


def _plan(settings: dict[str, Any]) -> Plan:
    for name in settings:
        if name not in _PLAN:
            raise unknown("setting", name, _PLAN)
    return Plan(**settings)


def _finished(look: Look, folder: Path | None, say: Say) -> Evaluation:
    report = report_files.completed(look)
    written: tuple[Path, ...] = ()
    if folder is not None:
        say("pictures and files")
        _, names = report_files.write(look, folder)
        for name in set(report_files.NAMES) - set(names):
            files.remove(folder / name)  # of an evaluation before this one
        written = tuple(folder / name for name in names)
    if look.is_autoencoder:
        found = look.part("reconstruction")
        return Evaluation(report, None, found["reconstruction"], None, None, found["rmse"], None, None, written)
    terms, curve = look.terms, look.curve
    of_x = "log p(x|y)" if look.trained.facts.conditional else "log p(x)"
    # The data that they belong to, which `evaluation.paired` checks.
    bound = replace(look.log_likelihood, quantity=of_x, fingerprint=terms.elbo.fingerprint, labels=terms.elbo.labels)
    parts = terms.elbo, terms.reconstruction, terms.kl, bound
    return Evaluation(report, *parts, None, curve.khat, curve, written)


def _check_place(folder: Path, name: str) -> None:
    """Refuses a folder that holds a run, or the report of something else."""
    if (folder / "config.json").exists() or (folder / "run.json").exists():
        raise UsageError(f"{folder} is the folder of a run, whose own report this would replace: use another `out`")
    there = folder / "report.json"
    if there.exists():
        try:
            other = files.from_json(there).get("run", {}).get("name")
        except (ValueError, AttributeError):
            other = "something that cannot be read"
        if other != name:
            raise UsageError(
                f"{there} is the report of {other!r}, and this is one of {name!r}: use another `out`, or remove it"
            )
    files.check_folder(folder)


def _say(sentence: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {sentence}", flush=True)
