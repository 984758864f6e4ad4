"""Imports point one way, the package is light until it is used, and nothing dangerous is in it."""

import ast
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

from pyro_vae import evaluation

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "pyro_vae"
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in PACKAGE.rglob("*.py")
}
# In the order in which data flows; a module may import only from its own line or from the lines above.
ORDER = [
    [
        "errors",
        "quiet_matplotlib",
        "notebook_html",
        "randomness",
        "system",
        "option_words",
        "command_lines",
        "loss_requirements",
        "progress",
    ],
    ["progress_display", "threads"],
    ["data"],
    ["model.encoder_inputs", "model.initialisation"],
    [
        "model.networks",
        "model.scaling",
        "model.parameter_store",
        "model.program",
        "model.conditions",
        "model.constants",
        "model.subsampled",
    ],
    ["model.distributions", "model.traces", "model.paths", "model.folding"],
    ["model.squashed_logits", "model.open_plates"],
    ["model.given_data"],
    ["model.posteriors", "model.likelihoods"],
    ["model.priors"],
    ["model.checks"],
    ["model.autoencoder", "model.observing"],
    ["model.vae", "model.hierarchical", "model"],
    ["graphs.watch", "graphs.allocation", "graphs.elementary"],
    ["graphs.suitability", "graphs.kernels"],
    ["graphs"],
    ["evaluation"],
    ["inference.path_gradients"],
    ["inference.objectives", "inference.sampled_elbo", "inference.epochs", "inference.averaging"],
    ["inference.covered_losses", "inference.fused_adam", "inference.divergence"],
    ["inference.pyro_step", "inference.world"],
    ["inference.replayed"],
    ["inference.step_graphs"],
    ["inference.svi", "inference.unshared_guides"],
    ["inference.distributed"],
    ["inference.fitting", "inference"],
    ["report.cells", "report.document"],
    ["report.documents"],
    ["report"],
    ["experiment.checked_fields", "experiment.own_sources"],
    ["experiment.own_members", "experiment.config", "experiment.run.files"],
    ["experiment.run.manifest", "experiment.presets"],
    ["experiment.tables", "experiment.program_members"],
    ["experiment.build"],
    ["experiment.run", "experiment.protocol_card"],
    ["experiment.run_pictures", "experiment.team"],
    ["experiment.evaluate"],
    ["experiment.train"],
    ["experiment"],
    ["selfcheck"],
    # The one exception: a file in the room of a lower line, which does nothing but start the command of that name.
    ["cli", "__main__", "model.checks.__main__"],
]


def level(module):
    name = module.removeprefix("pyro_vae.")
    found = [(len(room), i) for i, rooms in enumerate(ORDER) for room in rooms if f"{name}.".startswith(f"{room}.")]
    return max(found)[1]


def run_code(path):
    """The nodes of a file, type-checking blocks left out."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            node.body = []
    return ast.walk(tree)


def imports(path):
    """What a file imports from the package."""
    for node in run_code(path):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pyro_vae"):
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in MODULES else node.module for name in inner)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("pyro_vae"))


@pytest.mark.parametrize("module", sorted(set(MODULES) - {"pyro_vae"}))
def test_imports_point_one_way(module):
    wrong = [name for name in imports(MODULES[module]) if name != "pyro_vae" and level(name) > level(module)]
    assert not wrong


def test_the_one_exception_only_starts_its_command():
    """`python -m pyro_vae.model.checks` must stand there by its name; nothing imports it."""
    importers = [name for name, path in MODULES.items() if "pyro_vae.model.checks.__main__" in imports(path)]
    assert not importers
    assert list(imports(MODULES["pyro_vae.model.checks.__main__"])) == ["pyro_vae.cli.check_command"]


def test_evaluation_knows_no_vae():
    used = {name for path in (PACKAGE / "evaluation").rglob("*.py") for name in imports(path)}
    assert not {name for name in used if "vae" in name.removeprefix("pyro_vae.").split(".")}


def test_one_module_speaks_to_arviz():
    def loads(node):
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
        return any(name.split(".")[0] in ("arviz", "arviz_base", "arviz_stats") for name in names)

    importers = {
        name
        for name, path in MODULES.items()
        for node in run_code(path)
        if isinstance(node, ast.Import | ast.ImportFrom) and loads(node)
    }
    assert importers == {"pyro_vae.evaluation.trust.arviz_adapter"}


@pytest.mark.parametrize(
    ("room", "name"), [("annealing", "ais"), ("latent", "active_units"), ("latent", "marginal_kl")]
)
def test_a_room_has_its_public_names(room, name):
    """Those of the two modules that became rooms."""
    module = import_module(f"pyro_vae.evaluation.{room}")
    public = {kind for kind in evaluation.__all__ if getattr(evaluation, kind).__module__.startswith(module.__name__)}
    assert name in public
    assert public == set(module.__all__)


def test_the_source_archive_holds_every_document():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    included = project["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]
    assert {path.name for path in ROOT.glob("*.md")} - set(included) == set()


def test_the_order_is_strict_enough_to_fail():
    assert level("pyro_vae.model.vae") > level("pyro_vae.model.priors") > level("pyro_vae.data.splits")
    assert level("pyro_vae.inference.fitting") > level("pyro_vae.evaluation.weights")


@pytest.mark.thorough
def test_importing_the_package_loads_no_torch_and_every_public_name_resolves():
    code = (
        "import sys, pyro_vae; light = 'torch' not in sys.modules;"
        "[getattr(pyro_vae, name) for name in pyro_vae.__all__]; sys.exit(not light)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
