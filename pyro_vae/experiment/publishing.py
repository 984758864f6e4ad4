"""The files of an evaluation: one dictionary as text, tables, numbers for other programs, and a page to look at."""

import time
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pyro_vae.evaluation import to_inference_data
from pyro_vae.experiment import panels, storage
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
    members = {name: type(getattr(vae, name)).__name__ for name in ("prior", "posterior", "likelihood")}
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
    """What must be the same where two evaluations are compared, and what a reviewer asks first."""
    protocol, plan, config = look.trained.data.protocol, look.plan, look.trained.config
    split, of = protocol["split"], "x|y" if config.conditional else "x"
    sizes = " / ".join(f"{size:,}" for size in split["sizes"].values())
    recipe = protocol["dequantized"] or protocol["binarization"]
    found = {
        "data": f"{protocol['name']}, shape {tuple(protocol['shape'])}",
        "source": protocol["source"],
        "SHA-256 of the data": protocol["sha256"],
        "split": f"{split['kind']}, {sizes} for training, validation, test; seed {split['seed']}",
        "x": recipe["sentence"],
        "test data": f"{len(look.test.x):,} of {split['sizes']['test']:,}, never used to choose anything",
        "model": f"epoch {look.trained.best_epoch} of {look.trained.epochs}, the best on validation data",
        "unit": "nats per datum, summed over x, averaged over data",
    }
    if "curve" in look.report:
        found[f"log p({of})"] = f"importance-weighted bound, K = {plan.num_samples:,} draws from q(z|x)"
        found["ELBO"] = f"{plan.elbo_samples} draws; KL {look.report['test']['kl']['kind']}"
        found["seeds"] = f"training {config.seed}, data {config.data_seed}, draws {look.seed}"
    if "reference" in look.report:
        found["annealing"] = (
            f"from q(z|x), T = {plan.num_temperatures} temperatures, {plan.num_chains} chains, 5 leapfrog steps; step "
            f"sizes from pilot chains, then frozen; {look.report['reference']['num_data']} test data chosen at random"
        )
    return found


def _write_inference_data(look: Look, path: Path) -> None:
    test, plan = look.test, look.plan
    each = look.latent_dim * len(test.x)
    draws = min(plan.num_samples, max(FEWEST_DRAWS, plan.saved_numbers // each))
    found = to_inference_data(look.trained.vae, test.x, draws, test.y, look.seed)
    with TemporaryDirectory() as elsewhere:  # HDF5 writes a file bit by bit
        storage.write(path, Path(found.to_netcdf(str(Path(elsewhere) / path.name))).read_bytes())
