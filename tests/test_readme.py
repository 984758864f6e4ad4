"""What the README shows is what happens, wherever it is shown.

Its links, its commands and what its code prints are held to the truth with those of the pages, in tests/docs.
"""

import re
import runpy
import sys
import tomllib
from pathlib import Path
from types import ModuleType, SimpleNamespace

import fenced
import forked
import pytest

import pyro_vae
from pyro_vae.experiment import presets, tables

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
MEMBERS = (ROOT / "docs" / "members.md").read_text(encoding="utf-8")
LINKS = re.findall(r"\]\((?!https?:)([^)#]+)", README)


@pytest.mark.thorough
def test_the_code_runs_in_a_process_of_its_own(tmp_path, monkeypatch):
    """As a reader would run it, in an empty folder. The test of the pages compares the numbers that it prints."""
    example, member = fenced.blocks(README, "python")
    assert example.count("epochs=150") == 1
    (tmp_path / "example.py").write_text(example.replace("epochs=150", "epochs=2"))
    (tmp_path / "mine.py").write_text(member)
    monkeypatch.chdir(tmp_path)
    for name, shown in ("example.py", fenced.blocks(README, "text")[0]), ("mine.py", ""):
        process = forked.Script(tmp_path / name)
        out, err = process.communicate()
        assert (process.returncode, err) == (0, "")
        assert [line[:20] for line in out.splitlines()] == [line[:20] for line in shown.splitlines()]


def test_the_two_lines_stand_first():
    assert fenced.blocks(README, "sh")[0].splitlines() == [
        "pip install -e . && python scripts/train_svi.py --likelihood bernoulli",
        "pip install -e '.[test]' && pytest -n 2",
    ]
    assert README.index("```sh\n") == README.index("```")


@pytest.mark.parametrize("table", ["PRIORS", "POSTERIORS", "LIKELIHOODS", "NETWORKS", "OBJECTIVES", "DATASETS"])
def test_the_tables_name_every_member(table):
    in_short = README.split("## What is included")[1].split("\n## ")[0]
    in_full = MEMBERS.split("## What there is")[1].split("\n## ")[0]
    assert all(f"`{name}`" in rows for name in getattr(tables, table) for rows in (in_short, in_full))


def test_the_table_of_published_numbers_names_every_preset():
    rows = MEMBERS.split("## Published numbers")[1]
    assert all(f"`{name}`" in rows for name in presets.names())


def test_the_pictures_are_there():
    pictures = re.findall(r'<img src="(.*?)"', README)
    assert pictures
    for path in pictures:
        assert (ROOT / path).stat().st_size > 1000


def test_what_it_links_to_is_in_the_source_distribution():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    included = project["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]
    assert len(LINKS) > 10
    assert [link for link in LINKS if not (ROOT / link).exists() or link.split("/")[0] not in included] == []


def test_it_is_short():
    assert len(README.splitlines()) <= 180
    assert len(README.split()) <= 1500


def test_numbers_that_stand_elsewhere_too_are_the_same():
    results = (ROOT / "RESULTS.md").read_text(encoding="utf-8")
    found = re.findall(r"^\| `(\w+)` \| (-\S+) \| (-.*? ± .*?) \|$", README, re.MULTILINE)
    assert len(found) == 6
    for name, published, reached in found:
        row = next(line for line in results.splitlines() if line.startswith(f"| `{name}` | {published} |"))
        value, error = reached.split(" ± ")
        assert f"**{value}** ± {error}" in row
    speed = (ROOT / "docs" / "speed.md").read_text(encoding="utf-8")
    steps = re.findall(r"^\|.*?((?: \| [\d.]+→[\d.]+){3} \|)$", README, re.MULTILINE)
    assert len(steps) == 4
    assert all(cells in speed for cells in steps)


class TestPyPI:
    """The project has no address: what PyPI shows may point to nothing but the web."""

    @pytest.fixture
    def built(self, monkeypatch):
        """The long description, by the hook as hatchling calls it; hatchling itself is there only during a build."""
        interface = ModuleType("hatchling.metadata.plugin.interface")
        interface.MetadataHookInterface = SimpleNamespace
        monkeypatch.setitem(sys.modules, interface.__name__, interface)
        metadata = {}
        runpy.run_path(str(ROOT / "hatch_build.py"))["ReadmeHook"](root=str(ROOT)).update(metadata)
        return metadata["readme"]

    def test_no_link_and_no_picture_points_into_the_project(self, built):
        links = re.findall(r"\]\(([^)]*)\)", built["text"])
        assert len(links) > 10
        assert all(link.startswith("https://") for link in links)
        assert not re.search(r"!\[|<img", built["text"])

    def test_all_words_are_left(self, built):
        kept = re.sub(r"<img [^>]*>\n+\*[^*]+\*\n", "", README)
        assert [*map(self.words, (built["text"], kept))] == [self.words(kept)] * 2
        assert built["content-type"] == "text/markdown"

    @staticmethod
    def words(text):
        return re.sub(r"\]\([^)]*\)", "", text).replace("[", "").replace("]", "").split()


def test_the_version_to_cite_is_that_of_the_package():
    (cited,) = re.findall(r"version = \{(.*?)\}", README)
    (of_file,) = re.findall(r"^version: (.*)$", (ROOT / "CITATION.cff").read_text(encoding="utf-8"), re.MULTILINE)
    assert {cited, of_file} == {pyro_vae.__version__}
