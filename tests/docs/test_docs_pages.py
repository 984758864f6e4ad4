"""What the pages show is what happens: code runs, printed numbers agree, commands have flags that exist."""

import inspect
import re
import shlex
from importlib import import_module
from pathlib import Path

import fenced
import pytest
from cases import all_but

from pyro_vae import command_lines

ROOT = Path(__file__).parents[2]


def command_of(words):
    """The name of a command of this package and its arguments; None of any other."""
    for i, word in enumerate(words):
        if word in ("pyro-vae", "pyro_vae") and words[i - 1 : i] in ([], ["-m"]):
            return words[i + 1], words[i + 2 :]
        for name, about in command_lines.COMMANDS.items():
            if word == f"scripts/{about.script}":
                return name, words[i + 1 :]
    return None


PAGES = [*sorted((ROOT / "docs").rglob("*.md")), ROOT / "CONTRIBUTING.md", ROOT / "README.md"]
RUNNABLE = [page for page in PAGES if fenced.blocks(page.read_text(encoding="utf-8"), "python")]
SHELL = "".join(code for page in PAGES for code in fenced.blocks(page.read_text(encoding="utf-8"), "sh"))
LONG = (  # they take a while
    "swap", "tutorial", "loglik", "report", "global_latents", "own_loops", "library", "README", "inside", "missing",
    "own_arrays", "own_page", "own_members", "large_khat", "which_posterior",
)  # fmt: skip
SHORT = [page for page in RUNNABLE if page.stem not in LONG]
LINES = SHELL.replace("\\\n", " ").splitlines()
COMMANDS = [words for line in LINES if (words := shlex.split(line, comments=True))]
OURS = [(words, ours) for words in COMMANDS if (ours := command_of(words))]  # by torchrun, too
OTHERS = (
    "bandit", "bash .ci/run", "cd", "jupytext", "jupyter execute", "mypy", "pip install", "pytest", "ruff",
    "sphinx-build", "python -m pyro_vae.model.checks", "pyro-vae --help", "python benchmarks/run.py", "seq",
    "for p in standard vamp; do for s in 0 1 2; do pyro-vae train --prior",
    "python tests/mutations/run.py", "python docs/programs", "python benchmarks/gradient_noise.py",
)  # fmt: skip


def named(page):
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", all_but(SHORT, RUNNABLE), ids=named)
def test_the_code_of_a_page_runs_and_prints_what_it_shows(page, tmp_path, monkeypatch):
    """In an empty folder, into which it writes the pictures of its own that it shows."""
    monkeypatch.chdir(tmp_path)
    for shown, printed in fenced.run(page):
        assert fenced.agree(shown, printed), f"the page shows\n{shown}\nand its code prints\n{printed}"
    pictures = re.findall(rf"\(images/{page.stem}/(.*?)\)", page.read_text(encoding="utf-8"))
    assert {path.name for path in tmp_path.iterdir()} >= set(pictures)


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_what_a_page_links_to_is_there(page):
    links = re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


class ReadError(Exception):
    """A command line was read."""


@pytest.mark.parametrize(("name", "arguments"), [ours for _, ours in OURS], ids=[" ".join(words) for words, _ in OURS])
def test_a_command_takes_the_flags_that_the_pages_give_it(name, arguments, tmp_path, monkeypatch):
    main = import_module(f"pyro_vae.cli.{name}_command").main
    if "--start-from" in arguments:  # looked for before the flags are
        monkeypatch.chdir(tmp_path)
        run = Path(arguments[arguments.index("--start-from") + 1])
        run.mkdir(parents=True)
        (run / "config.json").touch()

    def stop(*_, **__):
        raise ReadError

    # Commands that train ask which flags were given after they have checked the names of members and data.
    names = inspect.unwrap(main).__globals__
    step = "given_flags" if "given_flags" in names else "exit_codes"
    monkeypatch.setitem(names, step, stop)
    with pytest.raises(ReadError):
        main(arguments)


@pytest.mark.parametrize("words", [words for words in COMMANDS if not command_of(words)], ids=" ".join)
def test_other_commands_are_known_and_the_files_they_name_exist(words):
    assert " ".join(words).startswith(OTHERS)
    folder = ROOT / words[1] if words[0] == "cd" else ROOT
    files = [word for word in words[1:] if word.endswith((".py", ".md")) or word.startswith("tests/")]
    assert [word for word in files if not (folder / word).exists()] == []


def test_numbers_may_differ_in_their_last_digits_and_words_may_not():
    assert fenced.agree("ELBO -24.510 of 360", "ELBO   -24.830 of 360")
    assert not fenced.agree("ELBO -24.510 of 360", "ELBO -27.510 of 360")
    assert not fenced.agree("ELBO -24.510 of 360", "ELBO 24.510 of 360")
    assert not fenced.agree("ELBO -24.510 of 360", "ELBO -24.510 of 359")
    assert not fenced.agree("ELBO -24.510", "loss -24.510")
    assert not fenced.agree("p(x) 0.399576", "p(x) 0.399586")
    assert not fenced.agree("D = 2", "D = 2\nD = 3")


class TestNotebook:
    def notebook(self):
        jupytext = pytest.importorskip("jupytext", reason="pip install -e '.[docs]'")
        return jupytext.read(ROOT / "docs" / "tutorial.md")

    def test_every_block_of_code_is_a_cell_and_nothing_else_is(self):
        cells = [cell.source.strip() for cell in self.notebook().cells if cell.cell_type == "code"]
        code = fenced.blocks((ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8"), "python")
        assert cells == [block.strip() for block in code]

    @pytest.mark.slow
    @pytest.mark.filterwarnings("default")  # of the kernel's client
    def test_the_tutorial_runs_as_a_notebook(self, tmp_path):
        nbclient = pytest.importorskip("nbclient", reason="pip install -e '.[docs]'")
        client = nbclient.NotebookClient(self.notebook(), timeout=600, kernel_name="python3")
        client.execute(cwd=str(tmp_path))
        kinds = {output.output_type for cell in client.nb.cells if cell.cell_type == "code" for output in cell.outputs}
        assert kinds == {"stream", "execute_result"}
