"""The pages build without a warning and without a network, and every public name has its place among them."""

import doctest
import importlib.util
import inspect
import pkgutil
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import pyro_vae as pv

ROOT = Path(__file__).parents[2]
REFERENCE = "".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs" / "reference").glob("*.md")))
DOCUMENTED = re.findall(r"automodule:: (\S+)", REFERENCE)
MODULES = [found.name for found in pkgutil.walk_packages(pv.__path__, "pyro_vae.")]
# Parts of what is documented as a whole, and what no user calls.
INNER = re.compile(
    r"pyro_vae\.(data|inference|evaluation|graphs)(\..*)?|pyro_vae\.model\.(checks|distributions|likelihoods)\..*"
    r"|pyro_vae\.model\.(traces|conditions|squashed_logits|given_data|open_plates|observing)|pyro_vae\.(model|report|experiment|selfcheck|cli)(\.[a-z]+)?|pyro_vae\.(system|quiet_matplotlib|notebook_html|loss_requirements|progress|progress_display|threads)"
    r"|pyro_vae\.report\.draw\.(report_figures|style|column_pictures|column_views)"
    r"|pyro_vae\.experiment\.run\.(files|manifest|interruption|damaged_files|raw_data|program_and_data)"
    r"|pyro_vae\.experiment\.run\.(lineage|places|training_rows)"
    r"|pyro_vae\.experiment\.train\.(training_report|progress_bar|member_checks|earlier_run|training_threads)|pyro_vae\.experiment\.evaluate\.(given_program|seen_program|expected_work|shared_work|whole_tasks)"
    r"|pyro_vae\.experiment\.(score|team)\..*"
    r"|pyro_vae\.experiment\.(protocol_card|own_sources)|pyro_vae\.cli\..*|pyro_vae\.__main__"
)
# Whose docstring or some of whose names are shown:
PARTS = {
    "pyro_vae.inference.objectives",
    "pyro_vae.inference.epochs",
    "pyro_vae.inference.path_gradients",
    "pyro_vae.data.recipes",
}
PACKAGES = {"pyro_vae.report", "pyro_vae.experiment"}  # documented module by module


def public(module):
    """The names that a module offers: those of its `__all__`, else the classes and functions that it defines."""
    found = importlib.import_module(module)
    own = [name for name, value in vars(found).items() if _is_own(value, module) and not name.startswith("_")]
    return [f"{module}.{name}" for name in getattr(found, "__all__", own) if callable(getattr(found, name))]


def _is_own(value, module):
    return (inspect.isclass(value) or inspect.isfunction(value)) and value.__module__ == module


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Built once, as the reader of CONTRIBUTING.md does; -W makes each warning an error."""
    pytest.importorskip("myst_parser", reason="pip install -e '.[docs]'")
    folder = tmp_path_factory.mktemp("html")
    build = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", "-d", folder / "trees"]
    done = subprocess.run([*build, ROOT / "docs", folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.thorough
def test_every_public_name_is_in_the_reference(pages):
    from sphinx.util.inventory import InventoryFile

    inventory = InventoryFile.loads((pages / "objects.inv").read_bytes(), uri="").data
    named = {name for kind, names in inventory.items() if kind.startswith("py:") for name in names}
    wanted = [name for module in DOCUMENTED if module not in PARTS for name in public(module)]
    assert len(wanted) > 200
    assert [name for name in wanted if name not in named] == []
    short = {name: getattr(pv, name) for name in pv.__all__}
    homes = {n: v.__name__ if inspect.ismodule(v) else f"{v.__module__}.{v.__qualname__}" for n, v in short.items()}
    assert [name for name, home in homes.items() if home not in named | PACKAGES] == []


def test_a_module_is_documented_or_known_to_be_a_part_of_another():
    assert [m for m in MODULES if m not in DOCUMENTED and not INNER.fullmatch(m)] == []
    assert [m for m in DOCUMENTED if m not in MODULES] == []


def test_docstrings_are_translated_as_their_translator_says():
    home = ROOT / "docs" / "docstrings.py"
    spec = importlib.util.spec_from_file_location("docstrings", home)
    translator = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(translator)
    assert doctest.testmod(translator) == (0, 3)


@pytest.mark.thorough
def test_pages_need_no_network(pages):
    """Scripts, styles and pictures come from the pages' own folder."""
    html = "".join(path.read_text(encoding="utf-8") for path in pages.rglob("*.html"))
    styles = "".join(path.read_text(encoding="utf-8") for path in pages.rglob("*.css"))
    assert re.findall(r'<(?:script|link|img|iframe)[^>]+(?:src|href)="((?:https?:)?//[^"]+)"', html) == []
    assert re.findall(r"""(?:@import|url\()\s*["']?((?:https?:)?//[^"')]+)""", styles) == []
    assert 'src="_static/tex-svg.js' in (pages / "tutorial.html").read_text(encoding="utf-8")
    assert (pages / "_static" / "tex-svg.js").stat().st_size > 1e6  # with its letters


@pytest.mark.thorough
def test_the_search_index_is_a_script_since_a_page_from_disk_cannot_fetch(pages):
    index = (pages / "searchindex.js").read_text(encoding="utf-8")
    assert index.startswith("Search.setIndex(")
    assert '"recipes/large_khat"' in index
    assert '"elbo"' in index
    assert 'src="searchindex.js"' in (pages / "search.html").read_text(encoding="utf-8")


class TestFromDisk:
    """As a browser without a network shows the pages from disk."""

    def shown(self, address):
        browser = shutil.which("chromium") or shutil.which("google-chrome")
        if browser is None:
            pytest.skip("needs chromium")
        offline = ["--headless", "--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP * ~NOTFOUND"]
        shown = [browser, *offline, "--virtual-time-budget=30000", "--dump-dom", address]
        return subprocess.run(shown, capture_output=True, text=True, check=True).stdout

    @pytest.mark.thorough
    def test_every_formula_of_every_page_is_drawn(self, pages):
        sources = {path: path.read_text(encoding="utf-8").count('class="math ') for path in pages.rglob("*.html")}
        with_formulas = {path: count for path, count in sources.items() if count}
        assert len(with_formulas) > 15
        shown = {path: self.shown(path.as_uri()) for path in with_formulas}
        assert {path: html.count("<mjx-container") for path, html in shown.items()} == with_formulas
        assert [path for path, html in shown.items() if '<g data-mml-node="merror"' in html] == []

    @pytest.mark.thorough
    def test_a_search_finds_pages(self, pages):
        shown = self.shown((pages / "search.html").as_uri() + "?q=elbo")
        assert re.search(r"found \d+ pages matching", shown)
        assert 'href="tutorial.html' in shown
        assert 'href="reference/evaluation.html#pyro_vae.evaluation.elbo"' in shown
