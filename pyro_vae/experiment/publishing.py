"""The files of an evaluation: one dictionary as text, tables, numbers for other programs, and a page to look at."""

import time
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pyro_vae.evaluation import to_inference_data
from pyro_vae.experiment import build, panels, storage
from pyro_vae.experiment.card import tested
from pyro_vae.experiment.evaluating import Look
from pyro_vae.experiment.run import command, surroundings
from pyro_vae.report import formats, page

FEWEST_DRAWS = 50


def write(look: Look, folder: str | Path) -> tuple[str, list[str]]:
    """Writes every file of an evaluated run.

    Args:
        look: what `evaluate` found; `report["run"]` and `report["protocol_card"]` are added to it.
        folder: where to.

    Returns:
        the text of the report, and the names of the files.

    Raises:
        StorageError: a file can not be written.
    """
    folder = Path(folder)
    storage.make_folder(folder)
    storage.sweep(folder)
    report = look.report
    report["protocol_card"] = [list(row) for row in card(look).items()]  # in this order, which JSON loses
    report["run"] = about(look)
    shown = panels.panels(look)
    text = formats.to_table(report)
    contents = {
        "report.json": storage.to_json(report),
        "report.txt": (text + "\n").encode(),
        "report.md": formats.to_markdown(report).encode(),
        "report.csv": formats.to_csv(report).encode(),
        "data.csv": formats.to_data_csv(report).encode(),
        "report.tex": formats.to_latex(report).encode(),
        "report.html": page.to_html(report, shown).encode(),
    }
    for name, content in contents.items():
        storage.write(folder / name, content)
    if "curve" in report:
        _write_inference_data(look, folder / "log_likelihood.nc")
        return text, [*contents, "log_likelihood.nc"]
    return text, list(contents)


def about(look: Look) -> dict[str, Any]:
    """Which run, which command, which versions."""
    vae, run = look.trained.vae, look.trained.run
    members = {name: type(getattr(vae, name)).__name__ for name in build.members_of(run.config)}
    return {
        "name": run.path.resolve().name,
        "command": command(),
        "trained_by": run.about().get("command"),
        "evaluated": datetime.now(UTC).isoformat(timespec="seconds"),
        **surroundings(run.config.device),
        "seconds": round(time.perf_counter() - look.begun, 1),
        "num_parameters": sum(parameter.numel() for parameter in vae.parameters()),
        "members": members,
    }


def card(look: Look) -> dict[str, str]:
    """What must be the same where two evaluations are compared, row for row; then what a reviewer asks first."""
    protocol, trained = look.trained.data.protocol, look.trained
    recipe = protocol["dequantized"] or protocol["binarization"]
    return {
        **tested(trained.config, protocol, len(look.test.x)),
        "source": protocol["source"],
        "x": recipe["sentence"],
        "model": f"epoch {trained.best_epoch} of {trained.epochs}, the best on validation data",
        "unit": "nats per datum, summed over x, averaged over data",
        **_estimated(look),
        **_annealed(look),
        **_escalated(look),
    }


def _estimated(look: Look) -> dict[str, str]:
    if "curve" not in look.report:
        return {}
    plan, config = look.plan, look.trained.config
    kinds = ", ".join(f"{site} {kind}" for site, kind in look.report["test"]["kl"]["kind"].items())
    return {
        f"log p({'x|y' if config.conditional else 'x'})": (
            f"importance-weighted bound, K = {plan.num_samples:,} draws from q(z|x)"
        ),
        "ELBO": f"{plan.elbo_samples} draws; KL {kinds}",
        "seeds": f"training {config.seed}, data {config.data_seed}, draws {look.seed}",
    }


def _annealed(look: Look) -> dict[str, str]:
    if "reference" not in look.report:
        return {}
    plan, num_data, size = look.plan, look.report["reference"]["num_data"], len(look.test.x)
    chosen = f"{num_data} test data chosen at random" if num_data < size else f"all {size} test data"
    return {
        "annealing": (
            f"from q(z|x), T = {plan.num_temperatures} temperatures, {plan.num_chains} chains; step sizes from pilot "
            f"chains, then frozen; {chosen}"
        )
    }


def _escalated(look: Look) -> dict[str, str]:
    if "escalation" not in look.report:
        return {}
    found = look.report["escalation"]
    draws = f"{found['rows'][0]['more_samples']:,} draws in all, then " if found["rows"] else ""
    return {
        "escalation": (
            f"test data with k-hat above {found['threshold']:g}: {draws}annealing with "
            f"T = {found['num_temperatures']} temperatures, {found['num_chains']} chains; "
            f"budget {look.plan.escalated_draws:,} evaluations of the decoder"
        )
    }


def _write_inference_data(look: Look, path: Path) -> None:
    test, plan = look.test, look.plan
    each = look.latent_dim * len(test.x)
    draws = min(plan.num_samples, max(FEWEST_DRAWS, plan.saved_numbers // each))
    found = to_inference_data(look.trained.vae, test.x, draws, test.y, look.seed)
    with TemporaryDirectory() as elsewhere:  # HDF5 writes a file bit by bit
        storage.write(path, Path(found.to_netcdf(str(Path(elsewhere) / path.name))).read_bytes())
