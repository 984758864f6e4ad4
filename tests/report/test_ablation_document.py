"""Table, CSV and picture of the three losses, from numbers that are made up."""

import csv
import dataclasses
import io
import json

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from matplotlib.image import imread

from pyro_vae.evaluation import Bracket, Estimate
from pyro_vae.experiment.studies.loss_ablation import Ablated
from pyro_vae.report import palette
from pyro_vae.report.documents import ablation_document as documents
from pyro_vae.report.draw.ablation_figure import AblationView, ablation_picture
from pyro_vae.report.render.csv_file import to_csv
from pyro_vae.report.render.plain_text import to_text

NAMES = ("only reconstruction", "only KL", "both")


def estimate(name, mean, num_data=50, spread=1.0):
    value = mean + spread * torch.linspace(-1, 1, num_data, dtype=torch.float64)
    return Estimate(name, value, torch.full((num_data,), 0.2, dtype=torch.float64), 7)


def bracket(mean, below=0.5):
    plug_in = estimate("KL", mean)
    lower = dataclasses.replace(plug_in, value=plug_in.value - below)
    return Bracket("KL", plug_in.value, plug_in.value_error, 7, leave_one_out=lower)


def column(level):
    bounds = {
        held: {name: estimate(name, level + i + j) for j, name in enumerate(documents.BOUNDS)}
        for i, held in enumerate(documents.SETS)
    }
    aggregate = {"marginal_kl": bracket(level / 10), "mutual_information": estimate("mutual_information", level / 10)}
    return Ablated(bounds, {"test": 0.25, "train": 0.5}, aggregate, 3, 4, 17, 20)


def text_of(columns, **options):
    gaps = {name: column.gaps() for name, column in columns.items()}
    return to_text(documents.ablation_document(plain(columns), gaps, **options))


def csv_of(columns):
    return to_csv(documents.ablation_rows(plain(columns)))


def plain(columns):
    return {name: column.to_dict() for name, column in columns.items()}


@pytest.fixture
def columns():
    return {name: column(10.0 * i) for i, name in enumerate(NAMES)}


def test_every_number_stands_in_its_column(columns):
    lines = text_of(columns).splitlines()
    rows = {line[:32].strip(): line[32:].split("  ") for line in lines[1:18]}
    cells = {label: [cell.strip() for cell in row if cell.strip()] for label, row in rows.items()}
    error = columns["both"].bounds["test"]["elbo"].standard_error
    assert cells["ELBO, test"] == [f"{mean:.2f} ± {error:.2f}" for mean in (0, 10, 20)]
    assert cells["log p(x), train"] == [f"{mean:.2f} ± {error:.2f}" for mean in (4, 14, 24)]
    assert cells["k-hat above 0.7, train"] == ["50%"] * 3
    assert cells["reconstruction, train - test"] == [f"+1.00 ± {error * 2**0.5:.2f}"] * 3
    assert cells["active units"] == ["3 of 4"] * 3
    assert cells["epoch kept"] == ["17 of 20"] * 3
    assert all(len(line) <= 104 for line in lines)


def test_the_notes_quote_the_numbers_and_claim_no_more(columns):
    notes = " ".join(text_of(columns).split())
    assert (
        "is better by 1.00 ± 0.12 nats without the KL, and better by 1.00 ± 0.12 nats with it, than on test data; the "
        "difference is +0.00 ± 0.17" in notes
    )
    assert "It does not show that one loss overfits, or that the other prevents it" in notes
    assert (
        "KL(q(z)||p(z)) is between 1.50 ± 0.08 (each datum left out of its own mixture) and 2.00 ± 0.08 nats, which "
        "differs from 0" in notes
    )
    assert "K = 7; where k-hat is above 0.7 it is loose by an unknown amount. Mutual" in notes


def notes_of(columns, **changes):
    changed = dataclasses.replace(columns["both"], **changes)
    return " ".join(text_of({**columns, "both": changed}).split())


def test_better_and_worse_follow_the_sign(columns):
    both = columns["both"].bounds
    notes = notes_of(columns, bounds={"test": both["train"], "train": both["test"]})
    assert "better by 1.00 ± 0.12 nats without the KL, and worse by 1.00 ± 0.12 nats with it" in notes
    assert "the difference is +2.00" in notes


@pytest.mark.parametrize(("errors", "is_told"), [(-0.05, False), (1.9, False), (2.1, True), (-3.0, False)])
def test_a_marginal_kl_is_not_0_beyond_two_standard_errors(columns, errors, is_told):
    """By its lower end. One below 0 is an error of few data or draws, and never a sign that it is not 0."""
    error = estimate("", 0.0).standard_error
    found = {**columns["both"].aggregate, "marginal_kl": bracket(errors * error + 0.5)}
    notes = notes_of(columns, aggregate=found)
    assert ("nats, which differs from 0" in notes) is is_told
    assert ("does not differ from 0" in notes) is not is_told
    assert "-0.00" not in notes


def test_a_kl_is_between_0_and_its_upper_end_where_the_lower_one_is_below_0(columns):
    notes = notes_of(columns, aggregate={**columns["both"].aggregate, "marginal_kl": bracket(2.0, below=5.0)})
    assert "Both: KL(q(z)||p(z)) is between 0 and 2.00 ± 0.08 nats, which does not differ from 0" in notes


def test_without_a_lower_end_nothing_is_told_apart_from_0(columns):
    """An ablation of an older version, far above 0."""
    runs = plain(columns)
    for run in runs.values():
        del run["marginal_kl"]["leave_one_out"]
    gaps = {name: column.gaps() for name, column in columns.items()}
    notes = " ".join(to_text(documents.ablation_document(runs, gaps)).split())
    assert "KL(q(z)||p(z)) is at most 2.00 ± 0.08 nats, which does not differ from 0" in notes
    assert "marginal_kl_leave_one_out" not in to_csv(documents.ablation_rows(runs))


def test_what_is_not_known_is_said_so(columns):
    unknown = {"khat": {"test": None, "train": None}}
    gone = {
        n: dataclasses.replace(c, **unknown, aggregate={**c.aggregate, "marginal_kl": None}) for n, c in columns.items()
    }
    text = text_of(gone)
    rows = {line[:32].strip(): line[32:].split() for line in text.splitlines()}
    assert rows["k-hat above 0.7, test"] == rows["KL(q(z)||p(z)), train"] == ["n/a"] * 3
    assert "K is too small for a k-hat" in text
    assert "KL(q(z)||p(z)) is n/a if p(z|y) differs between labels" in " ".join(text.split())
    assert "0%" not in text
    found = json.loads(json.dumps(gone["both"].to_dict(), allow_nan=False))
    assert (found["khat_above_0.7"], found["marginal_kl"]) == ({"test": None, "train": None}, None)
    csv_rows = list(csv.DictReader(io.StringIO(csv_of(gone))))
    assert {row["mean"] for row in csv_rows if row["quantity"] == "khat_above_0.7"} == {""}
    assert not [row for row in csv_rows if row["quantity"] == "marginal_kl"]


def test_quantities_given_labels_are_named_so(columns):
    text = text_of(columns, is_conditional=True)
    for name in ("log p(x|y), test", "KL(q(z|x,y)||p(z|y)), train", "I((x,y); z), train"):
        assert f"\n{name} " in text
    assert "log p(x)" not in text
    assert "KL(q(z|x)||p(z))" not in text
    assert "utual information" not in text


def test_no_number_is_minus_zero():
    assert documents._number(estimate("x", -1e-6, spread=0.0).to_dict()) == "0.00 ± 0.00"


def test_the_csv_has_a_line_for_each_number(columns):
    rows = list(csv.DictReader(io.StringIO(csv_of(columns))))
    assert len(rows) == 3 * (4 * 2 + 3 + 2 + 1)
    (row,) = [r for r in rows if (r["loss"], r["data"], r["quantity"]) == ("only KL", "train", "kl")]
    assert float(row["mean"]) == pytest.approx(13)
    assert (row["num_samples"], row["num_data"]) == ("7", "50")
    assert {r["quantity"] for r in rows} >= {"khat_above_0.7", "active_units", "marginal_kl"}


def test_a_column_is_json(columns):
    found = json.loads(json.dumps(columns["both"].to_dict(), allow_nan=False))
    assert found["train"]["elbo"]["mean"] == pytest.approx(21)
    assert found["khat_above_0.7"] == {"test": 0.25, "train": 0.5}


def panel(images=True, labels=True, ellipses=True):
    noise = torch.Generator().manual_seed(0)
    return AblationView(
        torch.randn(30, 2, generator=noise),
        torch.randn(30, 2, generator=noise),
        torch.arange(30) % 3 if labels else None,
        torch.rand(5, 2, 2, generator=noise) if ellipses else None,
        ("z1", "z2"),
        torch.rand(4, 1, 6, 6, generator=noise) if images else None,
        torch.rand(3, 5, 1, 6, 6, generator=noise) if images else None,
    )


def pixels(**options):
    return imread(io.BytesIO(ablation_picture({name: panel(**options) for name in NAMES})))


@pytest.mark.thorough
def test_the_picture_shows_what_there_is():
    whole, cloud = pixels(), pixels(images=False)
    assert whole.shape[0] > 1.5 * cloud.shape[0]
    assert np.array_equal(whole, pixels())
    plain = pixels(images=False, labels=False, ellipses=False)
    second_class = to_rgb(palette.CLASSES[1])
    assert not np.isclose(plain[..., :3], second_class, atol=1e-3).all(-1).any()
    assert np.isclose(cloud[..., :3], second_class, atol=1e-3).all(-1).any()


def test_an_ellipse_reaches_three_standard_deviations():
    """One ellipse of sd 1 and 2, in pixels, between two dots of the prior that are 20 apart."""
    one = panel(images=False, labels=False)._replace(
        cloud=torch.zeros(1, 2), prior=torch.tensor([[-10.0, 0.0], [10.0, 0.0]]).repeat(20, 1),
        ellipses=torch.tensor([[[0.0, 0.0], [1.0, 2.0]]]), axes=("", ""),
    )  # fmt: skip
    image = imread(io.BytesIO(ablation_picture({"": one})))[..., :3]
    rows, columns = np.nonzero(np.abs(image - to_rgb(palette.BLUE)).max(-1) < 0.2)
    middle = image[int(rows.mean())]
    dots = np.flatnonzero(np.abs(middle - to_rgb(palette.BEHIND)).max(-1) < 0.005)  # no edge of a letter is as grey
    unit = np.ptp(dots) / 20
    assert np.ptp(columns) / unit == pytest.approx(6, abs=0.4)
    assert np.ptp(rows) / unit == pytest.approx(12, abs=0.4)
