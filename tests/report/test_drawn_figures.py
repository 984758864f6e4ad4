"""Every figure of every report has on it what it had when it was looked at, in drawn_figures.json.

Where a figure is meant to change, look at it, and write that file anew with tests and tests/report in PYTHONPATH:
python tests/report/test_drawn_figures.py
"""

import json
from pathlib import Path

import described_figures
import pytest
import test_ablation_document
import test_report_comparison as comparisons
import test_report_figures
import test_report_latent_pictures as latent
import test_report_sweep
import torch
from cases import all_but
from evaluated import full

import pyro_vae as pv
from pyro_vae.experiment.studies.loss_ablation import PRINCIPAL_AXES
from pyro_vae.report.draw import (
    column_pictures,
    column_views,
    estimate_figures,
    image_views,
    images,
    latent_pictures,
    latent_views,
    sweep_figures,
)
from pyro_vae.report.draw.ablation_figure import ablation_picture
from pyro_vae.report.draw.style import LETTERS, WIDTH

GOLDEN = Path(__file__).with_name("drawn_figures.json")
TOLERANCE = 2e-3  # relative; matplotlib may place a tick or a margin elsewhere in its last digits


def records(epochs=6):
    return [
        {
            "epoch": epoch, "loss": 30 - epoch, "kl_weight": 1.0, "learning_rate": 1e-3, "valid_elbo": epoch - 30.5,
            "valid_standard_error": 0.1, "valid_reconstruction": epoch - 28.0, "valid_kl": 2.5, "best": True,
        }
        for epoch in range(1, epochs + 1)
    ]  # fmt: skip


class Encoder(torch.nn.Module):
    """Codes of three numbers, of which the first varies most."""

    def forward(self, x, y=None):
        code = torch.stack([3 * x[:, 0, 0, 0], x[:, 0, 0, 0].square(), torch.zeros(len(x))], -1)
        return torch.cat([code, torch.full_like(code, -3.0)], -1)


def in_space():
    likelihood = pv.likelihoods.Normal(latent.Plain(), scale=0.1)
    return pv.VAE(pv.priors.StandardNormal(3), pv.posteriors.DiagonalNormal(Encoder(), 3), likelihood)


def columns():
    """A column of reals, one of whole numbers, and one that is mostly missing."""
    x = torch.stack([torch.linspace(-1, 1, 60), torch.arange(60.0) % 4, torch.full((60,), torch.nan)], 1)
    x[:5, 2] = 1.0
    drawn = torch.stack([torch.linspace(-2, 2, 90).square(), torch.arange(90.0) % 3, torch.linspace(0, 3, 90)], 1)
    return column_views.Columns(x, drawn, ("weight", "count of $", "time"), (0.0, 0.0, 1.7e9))


IN_COLOUR = torch.linspace(-1, 1, 12).reshape(4, 3, 1, 1).expand(4, 3, 5, 5)
GREYS = latent.in_grey(0.1, 0.9, 0.4, 0.7)
FIGURES = {
    **{name: lambda draw=draw: draw(full()) for name, draw in test_report_figures.DRAWN.items()},
    "khat of rows": lambda: estimate_figures.khat(
        {**full()["khat"], "worst": [{"datum": 3, "row": 123, "label": 1, "khat": 0.9}, {"datum": 0, "row": 7}]},
        ("cat", "dog"),
    ),
    "rate_distortion": lambda: sweep_figures.rate_distortion(test_report_sweep.GRID),
    "sweep curve": lambda: sweep_figures.curve(test_report_sweep.GRID),
    "comparison": lambda: comparisons.picture(
        comparisons.with_both(comparisons.comparison(*comparisons.SEEDS), "prior=standard", -0.5, -0.1)
    ),
    "training": lambda: images.training(records()),
    "interpolation": lambda: latent.interpolation(latent.plain(), GREYS[:2], GREYS[2:], steps=3),
    "traversal": lambda: latent.traversal(latent.plain(), GREYS, 0, steps=3),
    "latent cloud": lambda: latent.latent_cloud(latent.plain(), GREYS, 0),
    "latent cloud of three": lambda: latent.latent_cloud(in_space(), GREYS, 0),
    "latent cloud with labels": lambda: latent.latent_cloud(
        latent.plain(), GREYS, 0, labels=torch.tensor([0, 1, 1, 0])
    ),
    "latent cloud with names": lambda: latent_pictures.draw_latent_cloud(
        latent_views.cloud(latent.plain(), GREYS, 0, labels=torch.tensor([0, 1, 1, 0])),
        images.Key(classes=("cat", "_a dog of $5$ with a long name")),
    ),
    "samples of two classes": lambda: images.draw_samples(
        image_views.Samples(torch.zeros(4, 2), IN_COLOUR, IN_COLOUR, torch.tensor([0, 0, 1, 1])),
        images.Key(-1.0, 1.0, ("cat", "dog")),
        columns=2,
    ),
    "columns": lambda: column_pictures.draw_columns(columns()),
    "ablation": lambda: ablation_picture({name: test_ablation_document.panel() for name in ("both", "reconstruction")}),
    "ablation of many dimensions": lambda: ablation_picture(
        {name: test_ablation_document.panel()._replace(axes=PRINCIPAL_AXES) for name in test_ablation_document.NAMES}
    ),
    "names in the corners of a sweep": lambda: sweep_figures.rate_distortion(test_report_sweep.CORNERS),
    "latent grid": lambda: latent.latent_grid(latent.plain(), 0, side=5),
}


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def drawn(name, monkeypatch, checked=None):
    figures = described_figures.kept(monkeypatch, checked)
    FIGURES[name]()
    return json.loads(json.dumps(figures))


def alike(one, other, place=""):
    """Where two descriptions differ, if they do."""
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        return [each for key in one for each in alike(one[key], other[key], f"{place}/{key}")]
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return [each for i, pair in enumerate(zip(one, other, strict=True)) for each in alike(*pair, f"{place}/{i}")]
    if isinstance(one, float | int) and isinstance(other, float | int):
        return [] if one == pytest.approx(other, rel=TOLERANCE, abs=1e-5) else [f"{place}: {one} for {other}"]
    return [] if one == other else [f"{place}: {one!r} for {other!r}"]


@pytest.mark.thorough
@pytest.mark.parametrize("name", all_but([*FIGURES][::2], FIGURES))
def test_a_figure_has_on_it_what_it_had_in_letters_that_a_telephone_shows(name, monkeypatch):
    unreadable, sizes = [], []

    def check(figure):
        unreadable.extend(described_figures.unreadable(figure, LETTERS))
        sizes.append(figure.get_figwidth())

    assert alike(drawn(name, monkeypatch, check), json.loads(GOLDEN.read_text())[name]) == []
    assert unreadable == []
    assert sizes == [WIDTH]


if __name__ == "__main__":
    found = {}
    for each in FIGURES:
        with pytest.MonkeyPatch.context() as patch:
            torch.manual_seed(0)
            found[each] = drawn(each, patch)
    lines = (f"{json.dumps(name)}:{json.dumps(axes, separators=(',', ':'))}" for name, axes in found.items())
    GOLDEN.write_text("{" + ",\n".join(lines) + "}\n")
