"""Nothing in the package or the scripts runs code that comes from a file, and no check vanishes under python -O."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted([*(ROOT / "pyro_vae").rglob("*.py"), *(ROOT / "scripts").glob("*.py")])
# Called by any path that ends so: `os.system` is caught in `import os as o; o.system` too.
CALLS = {
    *("eval", "exec", "compile", "__import__", "execfile"),
    *("pickle.load", "pickle.loads", "pickle.Unpickler", "torch.load", "yaml.load", "yaml.load_all"),
    *("yaml.unsafe_load", "yaml.full_load", "yaml.unsafe_load_all", "joblib.load", "marshal.load", "marshal.loads"),
    *("shelve.open", "dill.load", "dill.loads", "cloudpickle.load", "cloudpickle.loads", "runpy.run_path"),
    *("os.system", "os.popen", "tempfile.mktemp", "pd.read_pickle", "pandas.read_pickle", "subprocess.getoutput"),
    *("markupsafe.Markup", "Markup"),
}
FINE = {"re.compile", "torch.compile"}
MODULES = {"marshal", "shelve", "dill", "cloudpickle", "joblib", "runpy", "code", "imp"}
FALSE = {"shell": False, "allow_pickle": False, "weights_only": True, "autoescape": True}
# Where names become modules: names of a table of this package or of the command line, never of a file. The front door
# imports the commands of `command_lines.COMMANDS`.
IMPORTERS = {
    "pyro_vae/__init__.py", "pyro_vae/data/__init__.py", "pyro_vae/data/loading.py", "pyro_vae/experiment/tables.py",
    "pyro_vae/evaluation/trust/arviz_adapter.py", "pyro_vae/model/distributions/flows.py", "pyro_vae/cli/own_code.py",
    "pyro_vae/cli/front_door.py",
}  # fmt: skip


# Where code of a user's own is imported from a file: one that the command line names.
FROM_FILES = {"pyro_vae/cli/own_code.py"}
FILE_IMPORTS = ("spec_from_file_location", "exec_module", "SourceFileLoader", "load_module")


def aliases(tree):
    """The names under which a file imports things: name -> what it is."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.asname or alias.name: alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return found


def dangers(source, place=""):
    """What must not be in the source of this place, each with its line."""
    tree = ast.parse(source)
    names = aliases(tree)
    found = [(0, f"import {name}") for name in names.values() if name.partition(".")[0] in MODULES]
    for node in ast.walk(tree):
        if isinstance(node, ast.Assert):
            found.append((node.lineno, "assert"))
        elif isinstance(node, ast.Call):
            found += [(node.lineno, danger) for danger in in_call(node, names, place)]
        elif isinstance(node, ast.Attribute | ast.Name):
            name = called(node, names)
            if name in CALLS - {"compile"} or (name.endswith(FILE_IMPORTS) and place not in FROM_FILES):
                found.append((node.lineno, name))
    return found


def in_call(node, names, place):
    name = called(node.func, names)
    if name in CALLS - FINE:
        yield name
    if name in ("importlib.import_module", "import_module") and place not in IMPORTERS:
        yield name
    for keyword in node.keywords:
        if keyword.arg in FALSE and ast.unparse(keyword.value) != str(FALSE[keyword.arg]):
            yield f"{keyword.arg}={ast.unparse(keyword.value)}"
        if keyword.arg is None and "allow_pickle" in ast.unparse(keyword.value):
            yield "allow_pickle in **"
    if name.endswith("jinja2.Environment") and not any(k.arg == "autoescape" for k in node.keywords):
        yield "a jinja environment that does not escape"


def called(node, names):
    head, _, rest = ast.unparse(node).partition(".")
    return ".".join(part for part in (names.get(head, head), rest) if part)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_runs_what_it_reads_and_no_check_is_an_assert(path):
    assert dangers(path.read_text(encoding="utf-8"), str(path.relative_to(ROOT))) == []


SEEDED = [
    "import pickle; pickle.load(f)", "from pickle import loads; loads(b)", "import pickle as p; p.Unpickler(f)",
    "x = eval(s)", "exec(s)", "compile(s, 'f', 'exec')", "f = eval", "__import__(s)",
    "import numpy as np; np.load(f, allow_pickle=True)", "np.load(f, allow_pickle=flag)",
    "np.load(f, **{'allow_pickle': 1})", "import torch; torch.load(f)", "from torch import load as l; l(f)",
    "torch.load(f, weights_only=False)", "import yaml; yaml.load(s, yaml.Loader)", "yaml.unsafe_load(s)",
    "import os; os.system(s)", "from os import system as go; go(s)", "import os as o; o.popen(s)",
    "import subprocess; subprocess.run(s, shell=True)", "subprocess.run(s, shell=1)", "import marshal",
    "import shelve", "from joblib import load", "import importlib; importlib.import_module(s)",
    "from importlib import import_module; import_module(s)", "import tempfile; tempfile.mktemp()", "assert x",
    "from jinja2 import Environment; Environment()", "import jinja2; jinja2.Environment(autoescape=False)",
    "import importlib.util as u; u.spec_from_file_location(n, p)", "spec.loader.exec_module(module)",
    "from markupsafe import Markup; Markup(s)", "def f():\n    assert isinstance(x, int)",
]  # fmt: skip
HARMLESS = [
    "model.eval()", "import re; re.compile(s)", "import torch; torch.compile(f)", "np.load(f, allow_pickle=False)",
    "subprocess.run(['git'], check=True)", "import pickle; pickle.dumps(x)", "svi = SVI(compile='auto')",
    "from jinja2 import Environment; Environment(autoescape=True)", "self.compile(x)", "json.load(f)",
]  # fmt: skip


@pytest.mark.parametrize("line", SEEDED)
def test_a_seeded_line_is_found(line):
    assert dangers(line)


@pytest.mark.parametrize("line", HARMLESS)
def test_a_harmless_line_is_not(line):
    assert dangers(line) == []


def test_importers_are_those_that_import():
    found = {
        str(path.relative_to(ROOT))
        for path in FILES
        if any(danger.endswith("import_module") for _, danger in dangers(path.read_text(encoding="utf-8")))
    }
    assert found == IMPORTERS


def test_one_file_imports_from_files():
    found = {
        str(path.relative_to(ROOT))
        for path in FILES
        if any(danger.endswith(FILE_IMPORTS) for _, danger in dangers(path.read_text(encoding="utf-8")))
    }
    assert found == FROM_FILES


@pytest.mark.parametrize("path", sorted((ROOT / "pyro_vae").rglob("*.jinja")), ids=lambda path: path.name)
def test_no_template_switches_escaping_off(path):
    text = path.read_text(encoding="utf-8")
    assert not [word for word in ("|safe", "| safe", "autoescape", "Markup", "<script") if word in text]
