"""Runs side by side: each is measured, those that differ only in their seed are pooled, and differences are estimated.

All runs are evaluated with the same number of draws and the same seed, whatever their own reports were made with.
"""

import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from pyro_vae.errors import divergence, not_finite
from pyro_vae.evaluation import (
    Estimate,
    between_seeds,
    over_data_and_seeds,
    paired,
    pooled,
    psis_khat,
    share_above,
    unpaired,
)
from pyro_vae.evaluation.bounds import block_bound
from pyro_vae.evaluation.weights import draw_columns, read_log_weights
from pyro_vae.experiment import build
from pyro_vae.experiment.compare.comparable_runs import Candidate, Group, disagreements, groups
from pyro_vae.experiment.compare.comparison_settings import Evaluation
from pyro_vae.experiment.presets import over_seeds
from pyro_vae.experiment.run import files
from pyro_vae.experiment.run.evaluation_data import DataReader
from pyro_vae.experiment.run.places import check_reference
from pyro_vae.experiment.run.trained_run import TrainedRun, open_run
from pyro_vae.progress import stage, through
from pyro_vae.report.documents.comparison_document import comparison_document, comparison_notes, comparison_rows
from pyro_vae.report.draw.comparison_figure import picture
from pyro_vae.report.render.csv_file import to_csv
from pyro_vae.report.render.markdown import to_markdown
from pyro_vae.report.render.plain_text import to_text
from pyro_vae.threads import computing


class Measured(NamedTuple):
    """The numbers of one run, of the same test data as those of the others.

    Attributes:
        log_likelihood: the importance-weighted bound on log p(x).
        elbo: the ELBO from the same draws.
        khat: (N,), k-hat of each datum.
        images: a hash of the test data before any draw, equal where the i-th datum is the same image.
        best_epoch: the epoch that was kept.
        verdict: on the preset of the run; None without one.
    """

    log_likelihood: Estimate
    elbo: Estimate
    khat: torch.Tensor
    images: str
    best_epoch: int
    verdict: dict[str, Any] | None = None

    @property
    def khat_above(self) -> float | None:
        """The share of data whose k-hat lies above 0.7; None where K is too small to tell."""
        return share_above(self.khat)


def measure(run: Candidate, evaluation: Evaluation) -> Measured:
    """Estimates the importance-weighted bound, the ELBO and k-hat of each test datum, from the same draws.

    Dequantised data are put on the scale of their levels, by the log-Jacobian, as in the run's own report.

    Args:
        run: the candidate.
        evaluation: the draws, test data and device.

    Returns:
        Its numbers in nats per datum.

    Raises:
        CheckpointError: the run or its data have changed.
        DataError: the data are not there.
        DivergenceError: an estimate is not finite.
    """
    own = run.config.own.given().values()
    where: Any = {"device": evaluation.device, "data_dir": evaluation.data_dir, "threads": evaluation.threads}
    trained = open_run(run.path, **where, own=own)
    with computing(trained.threads):
        return _measured(run, trained, evaluation)


def _measured(run: Candidate, trained: TrainedRun, evaluation: Evaluation) -> Measured:
    test, K = trained.test(evaluation.test_data), evaluation.num_samples
    jacobian, name = trained.data.test.log_jacobian, run.card["quantity"]
    bounds, khats = [], []
    what = f"log p(x) of {run.name}"
    with divergence(what), build.estimating(trained.config, len(test.x) * K), stage(what, total=1):
        for _, blocks in draw_columns(trained.vae, test.x, K, test.y, evaluation.seed, read_log_weights):
            weights = torch.cat(blocks).cpu() + jacobian
            bounds.append([*block_bound(weights, K), *block_bound(weights, 1)])
            khats.append(psis_khat(weights))
        value, error, elbo, elbo_error = (torch.cat(column) for column in zip(*bounds, strict=True))
        if not value.isfinite().all():
            raise not_finite(what, f"first at datum {int((~value.isfinite()).nonzero()[0])}")
    estimates = Estimate(name, value, error, K), Estimate("ELBO", elbo, elbo_error, K)
    images = _images(trained, evaluation.test_data)
    found = {key: each.to_dict() for key, each in zip(("log_likelihood", "elbo"), estimates, strict=True)}
    return Measured(*estimates, torch.cat(khats), images, trained.best_epoch, trained.verdict(found, len(test.x)))


def compare(
    runs: Sequence[Candidate],
    measured: Sequence[Measured],
    evaluation: Evaluation,
    *,
    reference: str = "best",
) -> dict[str, Any]:
    """Makes the content of comparison.json: groups sorted by log p(x), their differences from the reference, all runs.

    Args:
        runs: what `candidates` returned.
        measured: what `measure` returned for each.
        evaluation: what they were measured with.
        reference: "best", "first", or the folder or the name of a run, whose group is then the reference.

    Returns:
        Plain values for JSON.

    Raises:
        UsageError: the reference is none of these.
    """
    check_reference(reference, [run.path for run in runs])
    pools = [_pool(group, runs, measured) for group in groups(runs)]
    pools.sort(key=lambda pool: -pool.log_likelihood.mean)
    chosen = pools[0] if reference == "best" else pools[_place(reference, runs, pools)]
    differing = disagreements(runs)
    content = {
        "evaluation": {"num_samples": evaluation.num_samples, "seed": evaluation.seed},
        "protocol": {k: v for k, v in runs[0].card.items() if k not in [line.what for line in differing]},
        "disagreements": [line._asdict() for line in differing],
        "quantities": sorted({run.card["quantity"] for run in runs}),
        "reference": {"label": chosen.group.label, "is_best_of": len(pools) if reference == "best" else None},
        "groups": [_row(pool, chosen, evaluation.seed) for pool in through("differences", pools)],
        "runs": [_run_row(runs[i], measured[i], pool.group.label) for pool in pools for i in pool.group.members],
    }
    return {**content, "notes": comparison_notes(content)}


def write(folder: Path, comparison: dict[str, Any]) -> str:
    """Writes comparison.json, .txt, .md, .csv and .png.

    Args:
        folder: where to; it is made if it is not there.
        comparison: what `compare` returned.

    Returns:
        The text of the report.

    Raises:
        StorageError: a file cannot be written.
    """
    with stage("pictures and files"):
        return _written(folder, comparison)


def _written(folder: Path, comparison: dict[str, Any]) -> str:
    document = comparison_document(comparison)
    text = to_text(document)
    files.make_folder(folder)
    files.write(folder / "comparison.json", files.to_json(comparison))
    files.write(folder / "comparison.txt", (text + "\n").encode())
    files.write(folder / "comparison.md", to_markdown(document).encode())
    files.write(folder / "comparison.csv", to_csv(comparison_rows(comparison)).encode())
    files.write(folder / "comparison.png", picture(comparison))
    return text


def _images(trained: TrainedRun, num_data: int | None) -> str:
    """Hashes the test data before any draw: equal where the i-th datum is the same image, however binarised."""
    split = replace(trained.data.test, recipe="none", drawn=None)
    x = DataReader(replace(trained.config, device="cpu", conditional=False), split, 0, num_data).whole().x
    return files.sha256(repr(tuple(x.shape)).encode() + x.numpy().tobytes())


class _Pool(NamedTuple):
    """A group, the numbers of its runs, and their log p(x) pooled."""

    group: Group
    runs: list[Candidate]
    measured: list[Measured]
    log_likelihood: Estimate

    @property
    def means(self) -> list[float]:
        return [run.log_likelihood.mean for run in self.measured]


def _pool(group: Group, runs: Sequence[Candidate], measured: Sequence[Measured]) -> _Pool:
    own = [measured[i] for i in group.members]
    return _Pool(group, [runs[i] for i in group.members], own, pooled([run.log_likelihood for run in own]))


def _place(reference: str, runs: Sequence[Candidate], pools: Sequence[_Pool]) -> int:
    i = 0 if reference == "first" else [_is_named(run, reference) for run in runs].index(True)
    return [i in pool.group.members for pool in pools].index(True)


def _is_named(run: Candidate, reference: str) -> bool:
    return reference == run.name or Path(reference) == run.path


def _row(pool: _Pool, reference: _Pool, seed: int) -> dict[str, Any]:
    means = pool.means
    return {
        "label": pool.group.label,
        "settings": pool.group.settings,
        "runs": [run.name for run in pool.runs],
        "seeds": [run.config.seed for run in pool.runs],
        "log_likelihood": pool.log_likelihood.to_dict(),
        "elbo": pooled([run.elbo for run in pool.measured]).to_dict(),
        "khat_above": _mean([run.khat_above for run in pool.measured]),
        "run_means": means,
        "seed_deviation": statistics.stdev(means) if len(means) > 1 else None,
        "preset": over_seeds([run.verdict for run in pool.measured]),
        **_differences(pool, reference, seed),
    }


def _differences(pool: _Pool, reference: _Pool, seed: int) -> dict[str, Any]:
    if pool is reference:
        return {"difference": None, "difference_over_seeds": None, "difference_over_both": None}
    is_same = pool.measured[0].images == reference.measured[0].images
    sides = pool.log_likelihood, reference.log_likelihood
    # `comparable_runs` has checked that these runs can be compared.
    over_data = paired(*sides, seed=seed, force=True) if is_same else unpaired(*sides, seed=seed, force=True)
    has_seeds = min(len(pool.means), len(reference.means)) > 1
    over_seeds = between_seeds(pool.means, reference.means).to_dict() if has_seeds else None
    both = over_data_and_seeds(over_data, pool.means, reference.means).to_dict() if has_seeds else None
    return {"difference": over_data.to_dict(), "difference_over_seeds": over_seeds, "difference_over_both": both}


def _run_row(run: Candidate, measured: Measured, label: str) -> dict[str, Any]:
    return {
        "name": run.name,
        "group": label,
        "seed": run.config.seed,
        "best_epoch": measured.best_epoch,
        "log_likelihood": measured.log_likelihood.to_dict(),
        "elbo": measured.elbo.to_dict(),
        "khat_above": measured.khat_above,
    }


def _mean(shares: Sequence[float | None]) -> float | None:
    known = [share for share in shares if share is not None]
    return statistics.fmean(known) if known else None
