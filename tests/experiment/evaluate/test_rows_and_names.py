"""A user's own data in reports: every number can be found in the file by its row, and classes go by their names."""

import csv
from dataclasses import replace

import numpy as np
import pytest
import torch
import xarray
from finished import finished_run
from shortened import quick_evaluations

from pyro_vae.data import Split
from pyro_vae.errors import DataError
from pyro_vae.experiment import build
from pyro_vae.experiment.config import Config
from pyro_vae.experiment.evaluate import report_files
from pyro_vae.experiment.evaluate.evaluation_plan import Plan
from pyro_vae.experiment.evaluate.measurements import evaluate
from pyro_vae.experiment.run.trained_run import open_run
from pyro_vae.report.documents.evaluation_document import terminal_document
from pyro_vae.report.render.plain_text import to_text

SIZE = 120
NAMES = np.array(["ant", "bee", "cat"])
PLAN = Plan(
    elbo_samples=5, num_samples=30, annealed_data=0, latent_data=20, latent_samples=2, posterior_draws=0, test_data=15,
    escalated_draws=0,
)  # fmt: skip


@pytest.fixture(scope="module")
def table():
    return np.random.default_rng(0).normal(size=(SIZE, 3)).astype(np.float32).round(3)


@pytest.fixture(scope="module")
def written(tmp_path_factory, table):
    """A table with an id for each row, its evaluation of fifteen test rows, and the files of it."""
    folder = tmp_path_factory.mktemp("table")
    rows = [["id", "a", "b", "c", "kind"]]
    rows += [[f"r{i:03}", *map(str, row), NAMES[i % 3]] for i, row in enumerate(table)]
    with (folder / "own.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    settings = {"likelihood": "normal", "id": "id", "label": "kind", "conditional": True}
    run = open_run(finished_run(folder / "run", str(folder / "own.csv"), **settings))
    with pytest.MonkeyPatch.context() as patch:
        quick_evaluations(patch)
        look = evaluate(run, PLAN)
        text, _ = report_files.write(look, folder)
    return look, text, folder


@pytest.mark.thorough
def test_each_datum_has_its_row_its_id_and_the_name_of_its_class(written, table):
    look, _, folder = written
    with (folder / "data.csv").open() as file:
        rows = list(csv.DictReader(file))
    x, _, labels = look.test.whole()
    assert len(rows) == 15
    for row, number, label in zip(rows, x, labels, strict=True):
        at = int(row["row"])
        np.testing.assert_allclose(table[at], number, rtol=1e-6)
        assert row["id"] == f"r{at:03}"
        assert row["label"] == NAMES[at % 3] == NAMES[label]
        assert look.trained.data.test.row(int(row["position"])) == at


@pytest.mark.thorough
def test_the_netcdf_has_rows_and_ids(written, table):
    _, _, folder = written
    drawn = xarray.open_dataset(folder / "log_likelihood.nc", group="observed_data", engine="h5netcdf")
    np.testing.assert_allclose(drawn["x"], table[drawn["row"]], rtol=1e-6)
    assert drawn["id"].values.tolist() == [f"r{i:03}" for i in drawn["row"].values]
    assert drawn["row"].dims == ("data",)


def test_tables_name_data_by_row_id_and_class(written):
    look, text, _ = written
    worst, posterior = look.report["khat"]["worst"][0], look.report["posterior"]
    line = next(
        line for line in text.splitlines() if line.startswith(str(worst["row"]).ljust(3)) and worst["id"] in line
    )
    assert line.split()[:3] == [str(worst["row"]), worst["id"], NAMES[worst["row"] % 3]]
    assert f"row of the data    {posterior['row']}" in text
    assert f"its label          {NAMES[posterior['label']]}" in text
    assert "datum" not in [line.split()[0] for line in text.splitlines() if line]


def test_a_picture_of_one_datum_names_its_row_and_its_class(written):
    look, _, folder = written
    about = look.report["posterior"]
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert f"Row {about['row']} of the data (label {NAMES[about['label']]})" in page
    assert "Each column of the test data next to draws from the program" in page


def test_the_data_line_says_what_the_file_holds(written):
    look, text, _ = written
    assert look.report["about"] == "120 rows of 3 numbers, reals, labels ant ... cat"
    assert "data: own.csv, 120 rows of 3 numbers, reals, labels ant ... cat; random split 84 / 12 / 24" in " ".join(
        text.split()
    )
    assert "Rows of a table have no pictures of samples and reconstructions" in " ".join(text.split())


def test_a_report_of_earlier_without_rows_is_still_read(written):
    look, _, _ = written
    khat = look.report["khat"]
    old = {key: value for key, value in look.report.items() if key != "about"}
    old["khat"] = {**khat, "worst": [{k: v for k, v in row.items() if k not in ("row", "id")} for row in khat["worst"]]}
    text = to_text(terminal_document(old))
    assert "data: own.csv, random split" in " ".join(text.split())
    assert "datum  label" in text


def test_what_a_likelihood_refuses_is_named_by_its_row_in_the_file(tmp_path):
    x = np.random.default_rng(0).random((60, 1, 4, 4)).astype(np.float32)
    x[37, 0, 1, 2] = 1.5
    np.save(tmp_path / "bad.npy", x)
    config = Config(dataset=str(tmp_path / "bad.npy"), likelihood="continuous_bernoulli", latent_dim=2, hidden=(4,))
    data = build.data(config)
    message = r"^bad.npy: ContinuousBernoulli needs x in \[0, 1\]; got 1.5 at row 37, position \(0, 1, 2\)"
    with pytest.raises(DataError, match=message):
        build.start(config, build.vae(config, *data.form), data)


def test_a_row_of_a_given_split_is_one_of_that_split(tmp_path):
    x = np.random.default_rng(0).random((60, 1, 4, 4)).astype(np.float32)
    np.savez(tmp_path / "given.npz", x_train=x, x_test=x[:20])
    config = Config(dataset=str(tmp_path / "given.npz"), likelihood="continuous_bernoulli", latent_dim=2, hidden=(4,))
    data = build.data(config)
    bad = Split.make("test", torch.full((3, 1, 4, 4), 2.0), None, None, "none", 0)
    with pytest.raises(DataError, match="got 2 at row 0 of the test data, position"):
        build.start(config, build.vae(config, *data.form), replace(data, test=bad))
