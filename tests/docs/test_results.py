"""RESULTS.md is what its script makes of the reports in docs/results, and they are those of the presets as they are."""

import importlib.util
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HOME = ROOT / "docs" / "results"
RUNS = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted((HOME / "runs").glob("*.json"))}
FILES = sorted(HOME.rglob("*.json"))


@pytest.fixture(scope="module")
def made():
    spec = importlib.util.spec_from_file_location("results", HOME / "results.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_made_of_the_reports(made):
    assert made.PAGE.read_text(encoding="utf-8") == made.page(made.Results())


@pytest.mark.parametrize("name", RUNS)
def test_a_run_has_the_settings_of_its_preset_as_it_stands(made, name):
    run = RUNS[name]
    preset, _, seed = name.rpartition("-")
    assert (run["config"]["preset"], run["config"]["seed"]) == (preset, int(seed))
    verdict = made.judged(run)
    assert verdict["changed"] == {}
    assert verdict["result"] == run["test"][verdict["quantity"]]["mean"]
    assert verdict["num_samples"] == run["test"]["log_likelihood"]["num_samples"] == 5000
    assert run["test"]["log_likelihood"]["num_data"] == 10_000
    assert run["test"]["log_likelihood"]["monte_carlo_error"] < 0.01
    assert run["training"]["epochs"] == run["config"]["epochs"] == run["history"][-1]["epoch"]


def test_nothing_of_the_machine_is_kept_and_the_files_are_small():
    assert FILES
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r'"[^"]*(/(root|home|work|tmp)/)', text)
        assert len(text) < 100_000


def test_a_run_is_taken_with_what_can_be_checked(made, tmp_path, monkeypatch):
    folder = tmp_path / "gated-0"
    folder.mkdir()
    report = {
        "test": {"log_likelihood": {"mean": -85.0, "standard_error": 0.2, "num_samples": 5000}},
        "training": {"epochs": 300, "best_epoch": 290},
        "protocol": {"split": {"sizes": {"train": 1001}}},
        "per_datum": {"elbo": [-1.0] * 1000},
    }
    (folder / "report.json").write_text(json.dumps(report))
    (folder / "config.json").write_text(
        json.dumps({"preset": "", "seed": 3, "batch_size": 250, "data_dir": "/root/data"})
    )
    (folder / "run.json").write_text(json.dumps({"seconds": {"training": 60.0}, "command": "python /root/a.py"}))
    lines = [{"epoch": i + 1, "loss": 1.0, "valid_elbo": -90.0, "best": i == 289, "more": 1} for i in range(300)]
    (folder / "history.jsonl").write_text("\n".join(map(json.dumps, lines)))
    monkeypatch.setattr(made, "HERE", tmp_path)
    kept = json.loads(made.take(folder).read_text())
    assert (kept["training"]["steps"], kept["config"]["seed"], kept["seconds"]) == (300 * 5, 3, {"training": 60.0})
    epochs = [record["epoch"] for record in kept["history"]]
    assert {1, 290, 300} <= {*epochs}
    assert len(epochs) <= 63
    assert kept["history"][0] == {"epoch": 1, "loss": 1.0, "valid_elbo": -90.0}
    assert "/root" not in json.dumps(kept)
    assert [*kept] == ["config", "history", "seconds", "test", "training"]
