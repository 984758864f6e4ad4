"""Writes the files of an evaluation: one dictionary as text, tables, numbers for other programs, and a page.

None of them depends on the clock, nor on how the work was shared out, except `timings.json`. That file is removed
before the others are written, and written last. If it is missing, an evaluation was interrupted.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import nn

from pyro_vae import progress
from pyro_vae.evaluation.trust import arviz_adapter
from pyro_vae.evaluation.trust.diagnostics import Groups, draw_tree
from pyro_vae.experiment import run_pictures
from pyro_vae.experiment.evaluate.measurements import Look
from pyro_vae.experiment.run import files
from pyro_vae.experiment.run.program_and_data import ProgramAndData
from pyro_vae.experiment.run.provenance import command, surroundings
from pyro_vae.report.documents import evaluation_document as documents
from pyro_vae.report.documents.estimate_sections import datum_rows, estimate_rows
from pyro_vae.report.documents.training_document import trained
from pyro_vae.report.render.csv_file import to_csv
from pyro_vae.report.render.html_page import to_html
from pyro_vae.report.render.latex import to_latex
from pyro_vae.report.render.markdown import to_markdown
from pyro_vae.report.render.plain_text import to_text
from pyro_vae.threads import computing

TIMINGS = "timings.json"
NAMES = (
    *("report.json", "report.txt", "report.md", "report.csv", "data.csv", "report.tex", "report.html"),
    *("log_likelihood.nc", TIMINGS),
)


def write(look: Look, folder: str | Path) -> tuple[str, list[str]]:
    """Writes every file of an evaluated run.

    Args:
        look: what `evaluate` returned; `report["run"]` and `report["protocol_card"]` are added to it.
        folder: where the files are written.

    Returns:
        The text of the report, and the names of the files.

    Raises:
        StorageError: a file cannot be written.
    """
    with computing(look.trained.threads):
        if "curve" in look.report:
            look.part("draws")  # computed before the section in which it is written
        with progress.section("files", "pictures and files"):
            return _written(look, Path(folder), completed(look))


def _written(look: Look, folder: Path, report: dict[str, Any]) -> tuple[str, list[str]]:
    files.make_folder(folder)
    files.sweep(folder)
    pictures = run_pictures.of_page(run_pictures.Source(look.trained, look.test, report, look.posterior))
    document, text = documents.evaluation_document(report, pictures), to_text(documents.terminal_document(report))
    contents = {
        "report.json": files.to_json(report),
        "report.txt": (text + "\n").encode(),
        "report.md": to_markdown(document).encode(),
        "report.csv": to_csv(estimate_rows(report)).encode(),
        "data.csv": to_csv(datum_rows(report)).encode(),
        "report.tex": to_latex(*documents.latex_row(report)).encode(),
        "report.html": to_html(document).encode(),
    }
    if "curve" in report:
        contents["log_likelihood.nc"] = _inference_data(look)
    contents[TIMINGS] = files.to_json(timings(look))
    files.remove(folder / TIMINGS)
    for name, content in contents.items():
        files.write(folder / name, content)
    return text, list(contents)


def completed(look: Look) -> dict[str, Any]:
    """Adds to a report what was evaluated, and by what protocol, and returns it."""
    look.report["protocol_card"] = [list(row) for row in card(look).items()]  # in this order, which JSON loses
    look.report["run"] = about(look)
    return look.report


def timings(look: Look) -> dict[str, Any]:
    """Records when, by what command (for a run) and in how many seconds: all that two evaluations may differ in."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    typed = {"command": command()} if look.trained.is_run else {}
    return {"evaluated": now, **typed, "seconds": dict(look.timings)}


def about(look: Look) -> dict[str, Any]:
    """Names what was evaluated, its parts, the versions and the machine."""
    vae, device = look.trained.vae, look.trained.facts.device
    own = {**look.trained.described(look.plan.changed()), **surroundings(device)}
    if isinstance(vae, nn.Module):  # of any other it is not known which are its own
        own["num_parameters"] = sum(parameter.numel() for parameter in vae.parameters())
    return own


def card(look: Look) -> dict[str, str]:
    """Lists what must be the same in evaluations that are compared, then what a reviewer asks first."""
    return {
        **look.trained.tested(len(look.test)),
        **_of_data(look.trained.card),
        **_of_training(look.trained),
        "unit": "nats per datum, summed over x, averaged over data",
        **_estimated(look),
        **_annealed(look),
        **_escalated(look),
    }


def _of_data(protocol: Mapping[str, Any]) -> dict[str, str]:
    recipe = protocol.get("dequantized") or protocol.get("binarization")
    source = {"source": protocol["source"]} if protocol.get("source") else {}
    return source | ({"x": recipe["sentence"]} if recipe else {})


def _of_training(evaluated: ProgramAndData) -> dict[str, str]:
    return dict([trained(evaluated.progress, is_run=evaluated.is_run)]) if evaluated.progress else {}


def _estimated(look: Look) -> dict[str, str]:
    if "curve" not in look.report:
        return {}
    plan, facts = look.plan, look.trained.facts
    kinds = ", ".join(f"{site} {kind}" for site, kind in look.report["test"]["kl"]["kind"].items())
    return {
        f"log p({'x|y' if facts.conditional else 'x'})": (
            f"importance-weighted bound, K = {plan.num_samples:,} draws from q(z|x)"
        ),
        "ELBO": f"{plan.elbo_samples} draws; KL {kinds}",
        "seeds": look.trained.seeds(look.seed),
    }


def _annealed(look: Look) -> dict[str, str]:
    if "reference" not in look.report:
        return {}
    plan, num_data, size = look.plan, look.report["reference"]["num_data"], len(look.test)
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
    more = look.report["escalation"]
    draws = f"{more['rows'][0]['more_samples']:,} new draws, then " if more["rows"] else ""
    return {
        "escalation": (
            f"test data with k-hat above {more['threshold']:g}: {draws}annealing with "
            f"T = {more['num_temperatures']} temperatures, {more['num_chains']} chains; "
            f"budget {look.plan.escalated_draws:,} evaluations of the decoder"
        )
    }


def _inference_data(look: Look) -> bytes:
    drawn: Groups = {}
    for name, column in look.part("draws").items():
        group, _, site = name.partition("/")
        drawn.setdefault(group, {})[site] = column
    saved = look.saved if len(look.saved) < len(look.test) else None
    ids = look.test.ids
    named = {"row": look.test.rows[look.saved], "id": None if ids is None else ids[look.saved.numpy()].astype(str)}
    with TemporaryDirectory() as elsewhere:  # HDF5 writes a file bit by bit
        path = Path(elsewhere) / "log_likelihood.nc"
        arviz_adapter.write_netcdf(draw_tree(drawn, saved, **named), path)
        return path.read_bytes()
