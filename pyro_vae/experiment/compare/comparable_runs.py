"""Which runs are to be compared: were they tested alike, and which of them differ only in their seed?

No data and no program are read here, so that runs which do not compare are refused at once.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pyro_vae.command_lines import command_line
from pyro_vae.errors import CheckpointError, UsageError
from pyro_vae.experiment.config import Config
from pyro_vae.experiment.protocol_card import tested
from pyro_vae.experiment.run.run_folder import Run
from pyro_vae.experiment.run.trained_run import newest_checkpoint
from pyro_vae.report.cells import as_typed
from pyro_vae.report.documents.comparison_document import against

# A name, what runs are pooled over, and what is of a report: the evaluation is done anew.
_NO_SETTINGS = ("preset", "seed", *Config.within("report"))
_LONGEST_LABEL = 34


class Candidate(NamedTuple):
    """A run before it is evaluated: its name in the report, its settings, and its protocol card, label -> text."""

    name: str
    path: Path
    config: Config
    card: dict[str, str]


class Disagreement(NamedTuple):
    """A line of the protocol card on which runs differ: its text -> the names of the runs that have it."""

    what: str
    values: dict[str, list[str]]

    def __str__(self) -> str:
        return f"{self.what}: {against(self.values)}"


class Group(NamedTuple):
    """Candidates that differ in nothing but their seed, and the settings in which they differ from other groups."""

    label: str
    settings: dict[str, Any]
    members: list[int]


def candidates(paths: Sequence[str | Path], test_data: int | None = None) -> list[Candidate]:
    """The runs in these folders.

    Args:
        paths: of two runs or more.
        test_data: a random subset of so many test data, 0 for all of them, None for those of each run's own report.

    Raises:
        UsageError: fewer than two runs, a folder named twice, or a plain autoencoder, which has no log p(x).
        CheckpointError: no run there, or one that has not been finished.
    """
    folders = [Path(path) for path in paths]
    if len(folders) < 2:
        raise UsageError("a comparison needs two runs or more: name the folders of both")
    resolved = [folder.resolve() for folder in folders]
    if twice := [str(f) for i, f in enumerate(folders) if resolved[i] in resolved[:i]]:
        raise UsageError(f"{twice[0]} is named twice: a run compared with itself says nothing")
    names = [folder.name for folder in resolved]
    if len(set(names)) < len(names):
        names = [str(folder) for folder in folders]
    return [_candidate(name, folder, test_data) for name, folder in zip(names, folders, strict=True)]


def disagreements(runs: Iterable[Candidate]) -> list[Disagreement]:
    """The lines of the protocol card on which the runs differ."""
    found: dict[str, dict[str, list[str]]] = {}
    for run in runs:
        for what, value in run.card.items():
            found.setdefault(what, {}).setdefault(value, []).append(run.name)
    return [Disagreement(what, values) for what, values in found.items() if len(values) > 1]


def refusal(found: Sequence[Disagreement]) -> UsageError:
    """The error for runs that were not tested alike: every difference with all its values, and the cure."""
    cure = "`force=True` compares them all the same, and says so"
    if [line.what for line in found] == ["test data"]:
        cure = "`test_data=N` takes the same subset for all of them; `test_data=0` takes all test data"
    return UsageError("these runs were not tested alike:\n  " + ";\n  ".join(map(str, found)) + f".\n{cure}")


def groups(runs: Sequence[Candidate]) -> list[Group]:
    """Runs that differ only in their seed, put together, and labelled by the settings in which the groups differ.

    Two runs with all settings and the seed in common, as from two versions of the code, stay apart, and are labelled by
    their folders.
    """
    found: dict[tuple[str, int], list[int]] = {}
    for i, run in enumerate(runs):
        kind = repr((_settings(run.config), run.card))
        copy = 0
        while run.config.seed in [runs[j].config.seed for j in found.get((kind, copy), [])]:
            copy += 1
        found.setdefault((kind, copy), []).append(i)
    members = list(found.values())
    settings = [_settings(runs[of[0]].config) for of in members]
    differing = [name for name in settings[0] if any(s[name] != settings[0][name] for s in settings)]
    own = [{name: s[name] for name in differing} for s in settings]
    labels = _labels(own, [[runs[i] for i in of] for of in members])
    return [Group(*row) for row in zip(labels, own, members, strict=True)]


def _candidate(name: str, path: Path, test_data: int | None) -> Candidate:
    found = newest_checkpoint(path)
    run, config = Run(path, found.config), found.config
    if run.status.now() not in ("trained", "finished"):
        done = f"{run.status.now()}, {found.progress.epoch} of {config.epochs} epochs"
        raise CheckpointError(
            f"{path} is not finished ({done}): go on with {command_line('train', out=path, resume=True)}"
        )
    if config.posterior == "delta":
        raise UsageError(f"{path} is a plain autoencoder: it has no log p(x) to compare. Leave it out")
    num_data = config.test_data if test_data is None else test_data
    return Candidate(name, path, config, tested(config, run.status.read()["protocol"], num_data))


def _settings(config: Config) -> dict[str, Any]:
    """What decides how the run was trained, but for the seed."""
    found = {name: value for name, value in config.scientific().items() if name not in _NO_SETTINGS}
    return {**found, "dataset": Path(config.dataset).name}


def _labels(settings: Sequence[dict[str, Any]], members: Sequence[Sequence[Candidate]]) -> list[str]:
    if len(members) == 1:
        return ["seeds " + ", ".join(str(run.config.seed) for run in members[0])]
    parts = [[f"{name}={as_typed(value)}" for name, value in own.items()] for own in settings]
    fits = [i for i in range(2, len(parts[0]) + 1) if max(len(", ".join(p[:i])) for p in parts) <= _LONGEST_LABEL]
    shown = max(fits, default=1)
    more = f", +{len(parts[0]) - shown}" if len(parts[0]) > shown else ""
    labels = [", ".join(p[:shown]) + more for p in parts]
    unique = [bool(label) and labels.count(label) == 1 for label in labels]
    named = zip(labels, unique, members, strict=True)
    return [label if is_unique else f"{runs[0].name} {label}".strip() for label, is_unique, runs in named]
