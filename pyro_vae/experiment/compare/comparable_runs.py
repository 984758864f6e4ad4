"""The runs of a comparison: were they tested in the same way, and which of them differ only in their seed?

No data and no program are read here, so runs that are not comparable are refused at once.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pyro_vae.command_lines import command_line
from pyro_vae.errors import CheckpointError, UsageError
from pyro_vae.experiment.config import Config
from pyro_vae.experiment.own_members import FAMILIES, OwnMember, places_of, short_name
from pyro_vae.experiment.protocol_card import tested
from pyro_vae.experiment.run import lineage, rebuilt_program
from pyro_vae.experiment.run.places import check_runs
from pyro_vae.experiment.run.run_folder import Run
from pyro_vae.experiment.run.trained_run import newest_checkpoint
from pyro_vae.report.cells import as_typed
from pyro_vae.report.documents.comparison_document import against

# The preset is a name, runs are pooled over seeds, and a comparison evaluates again.
_NO_SETTINGS = ("preset", "seed", *Config.within("report"))
_LONGEST_LABEL = 34


class Candidate(NamedTuple):
    """A run before it is evaluated.

    Attributes:
        name: its name in the report.
        path: its folder.
        config: its settings.
        card: its protocol card, label -> text.
        sources: the SHA-256 of the files that members of a user's own stood in when it was trained.
        starts: its lineage; empty where it started from random weights.
    """

    name: str
    path: Path
    config: Config
    card: dict[str, str]
    sources: tuple[str, ...] = ()
    starts: tuple[lineage.Record, ...] = ()


class Disagreement(NamedTuple):
    """A line of the protocol card on which runs differ.

    Attributes:
        what: the label of the line.
        values: its text -> the names of the runs that have this text.
    """

    what: str
    values: dict[str, list[str]]

    def __str__(self) -> str:
        return f"{self.what}: {against(self.values)}"


class Group(NamedTuple):
    """Candidates that differ in nothing except their seed.

    Attributes:
        label: the name of the group in the report.
        settings: the settings in which it differs from other groups.
        members: the places of its runs among the candidates.
    """

    label: str
    settings: dict[str, Any]
    members: list[int]


def candidates(
    paths: Sequence[str | Path], test_data: int | None = None, own: Iterable[OwnMember] = ()
) -> list[Candidate]:
    """Reads the settings and protocol cards of the runs in these folders.

    Args:
        paths: the folders of two runs or more.
        test_data: the size of a random subset of the test data, 0 for all of them, None for those of each run's own
            report.
        own: classes of a user's own, of which each run takes those that its config names.

    Returns:
        One candidate per folder, in the same order.

    Raises:
        UsageError: there are fewer than two runs, a folder is named twice, or a run is a plain autoencoder, which has
            no log p(x), or names a class of a user's own that is not given.
        CheckpointError: a folder holds no run, or one that has not been finished.
    """
    folders = [Path(path) for path in paths]
    check_runs(folders)
    names = [folder.resolve().name for folder in folders]
    if len(set(names)) < len(names):
        names = [str(folder) for folder in folders]
    own = list(own)
    return [_candidate(name, folder, test_data, own) for name, folder in zip(names, folders, strict=True)]


def disagreements(runs: Iterable[Candidate]) -> list[Disagreement]:
    """Returns the lines of the protocol card on which the runs differ."""
    names: dict[str, dict[str, list[str]]] = {}  # of the runs, by line and text
    for run in runs:
        for what, value in run.card.items():
            names.setdefault(what, {}).setdefault(value, []).append(run.name)
    return [Disagreement(what, values) for what, values in names.items() if len(values) > 1]


def refusal(differing: Sequence[Disagreement]) -> UsageError:
    """The error for runs that were not tested in the same way: every difference with all its values, and the cure."""
    cure = "To compare them anyway, with a warning in the report: `force=True`"
    if [line.what for line in differing] == ["test data"]:
        cure = "`test_data=N` takes the same subset for all of them; `test_data=0` takes all test data"
    return UsageError(
        "these runs were not tested in the same way:\n  " + ";\n  ".join(map(str, differing)) + f".\n{cure}"
    )


def groups(runs: Sequence[Candidate]) -> list[Group]:
    """Puts together runs that differ only in their seed, and labels them by the settings in which the groups differ.

    Runs that started from the same weights are not independent, so they stay apart, and labels name their starts.

    Two runs with all settings and the seed in common, as from two versions of the code, stay apart, and are labelled by
    their folders.

    Returns:
        The groups in the order of their first runs.
    """
    places: dict[tuple[str, int], list[int]] = {}
    for i, run in enumerate(runs):
        alike, copy = repr((_settings(run.config), run.card, run.sources, _weights(run))), 0
        while any(run.starts or run.config.seed == runs[j].config.seed for j in places.get((alike, copy), [])):
            copy += 1
        places.setdefault((alike, copy), []).append(i)
    members = list(places.values())
    settings = [_settings(runs[group[0]].config) for group in members]
    differing = [name for name in settings[0] if any(s[name] != settings[0][name] for s in settings)]
    own = [{name: s[name] for name in differing} for s in settings]
    labels = _labels(own, [[runs[i] for i in group] for group in members])
    return [Group(*row) for row in zip(labels, own, members, strict=True)]


def _candidate(name: str, path: Path, test_data: int | None, own: Iterable[OwnMember]) -> Candidate:
    checkpoint = newest_checkpoint(path)
    run, config = Run(path, checkpoint.config), checkpoint.config
    if run.status.now() not in ("trained", "finished"):
        done = f"{run.status.now()}, {checkpoint.progress.epoch} of {config.epochs} epochs"
        again = command_line("train", **places_of(config), out=path, resume=True)
        raise CheckpointError(f"{path} is not finished ({done}): go on with {again}")
    if config.posterior == "delta":
        raise UsageError(f"{path} is a plain autoencoder: it has no log p(x) to compare. Leave it out")
    num_data = config.test_data if test_data is None else test_data
    try:
        config = rebuilt_program.with_members(checkpoint, own, {})[0].config
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error
    sources = tuple(member["sha256"] for member in checkpoint.own.values())
    card = tested(config, run.status.read()["protocol"], num_data)
    return Candidate(name, path, config, card, sources, tuple(run.status.started_from()))


def _weights(run: Candidate) -> list[str]:
    """Returns the SHA-256 of the weights that it started from, the newest first."""
    return [record["sha256"] for record in run.starts]


def _settings(config: Config) -> dict[str, Any]:
    """What decides how the run was trained, except the seed."""
    return {name: value for name, value in config.portable().scientific().items() if name not in _NO_SETTINGS}


def _short(name: str, value: Any) -> str:
    return short_name(value) if name in FAMILIES else as_typed(value)


def _labels(settings: Sequence[dict[str, Any]], members: Sequence[Sequence[Candidate]]) -> list[str]:
    if len(members) == 1:
        return ["seeds " + ", ".join(str(run.config.seed) for run in members[0])]
    typed = [[f"{name}={_short(name, value)}" for name, value in own.items()] for own in settings]
    num_differing = len(typed[0])
    fits = [i for i in range(2, num_differing + 1) if max(len(", ".join(own[:i])) for own in typed) <= _LONGEST_LABEL]
    shown = max(fits, default=1)
    more = f", and {num_differing - shown} more" if num_differing > shown else ""
    labels = [", ".join(own[:shown]) + more for own in typed]
    unique = [bool(label) and labels.count(label) == 1 for label in labels]
    named = zip(labels, unique, members, strict=True)
    return [
        (label if is_unique else f"{runs[0].name} {label}".strip()) + _start(runs[0])
        for label, is_unique, runs in named
    ]


def _start(run: Candidate) -> str:
    return f", from {Path(run.starts[0]['run']).name}" if run.starts else ""
