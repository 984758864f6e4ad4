"""What the README shows is what happens."""

import re
from pathlib import Path

import fenced
import forked
import pytest
from cases import thorough

from pyro_vae.cli.parser import config_from, config_parser
from pyro_vae.experiment import tables

README = (Path(__file__).parents[1] / "README.md").read_text()


@pytest.mark.thorough
@pytest.mark.parametrize("epochs", [2, *thorough(60)])
def test_the_library_code_runs_in_a_process_of_its_own(epochs, tmp_path, monkeypatch):
    """The example and the prior of one's own that is swapped in: as a reader would run them, in an empty folder."""
    code = "\n".join(fenced.blocks(README, "python"))
    assert code.count("epochs=60") == code.count("history=trained)") == code.count("range(20)") == 1
    short = code.replace("epochs=60", f"epochs={epochs}").replace("range(20)", f"range({epochs})")
    quick = "history=trained, annealed_data=2, num_samples=50, posterior_draws=0)"
    (tmp_path / "example.py").write_text(short.replace("history=trained)", quick))
    monkeypatch.chdir(tmp_path)
    process = forked.Script(tmp_path / "example.py")
    out, err = process.communicate()
    assert (process.returncode, err) == (0, "")
    *shown, elbo, log_p, again, log_p_again, kind, passed = out.strip().splitlines()
    assert elbo.startswith("ELBO")
    assert log_p.startswith("log p(x)")
    assert [line[:4] for line in (again, log_p_again)] == ["ELBO", "log "]
    assert shown[0].startswith("epoch")
    assert (tmp_path / "reports" / "digits" / "report.html").stat().st_size > 10_000
    assert (kind, passed) == ("{'z': 'sampled'}", "True")


def commands():
    return [
        line.split("train_svi.py ")[1].split()
        for line in "".join(fenced.blocks(README, "sh")).splitlines()
        if "train_svi" in line
    ]


@pytest.mark.parametrize("flags", commands(), ids=" ".join)
def test_the_commands_have_flags_that_exist(flags):
    parser = config_parser("train", "")
    parser.add_argument("--out", type=str)
    parser.add_argument("--resume", action="store_true")
    config_from(parser.parse_args([flag for flag in flags if flag != "--help"]))


def test_the_two_lines_stand_first():
    assert fenced.blocks(README, "sh")[0].splitlines() == [
        "pip install -e . && python scripts/train_svi.py --likelihood bernoulli",
        "pip install -e '.[test]' && pytest -n 2",
    ]


@pytest.mark.parametrize("table", ["PRIORS", "POSTERIORS", "LIKELIHOODS", "NETWORKS", "OBJECTIVES", "DATASETS"])
def test_the_table_names_every_member(table):
    rows = README.split("## What there is")[1]
    assert all(f"`{name}`" in rows for name in getattr(tables, table))


def test_the_pictures_are_there():
    for path in re.findall(r"!\[.*?\]\((.*?)\)", README):
        assert (Path(__file__).parents[1] / path).stat().st_size > 1000
