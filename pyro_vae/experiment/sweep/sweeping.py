"""A sweep: every setting is trained from several seeds, the best is chosen on validation data, and only that is tested.

In addition to what `sweep_folder` keeps there, the folder holds

sweep.lock      held while runs are at work
report.*        settings, runs, and what the chosen one is worth on test data; pictures next to them
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pyro_vae import system
from pyro_vae.command_lines import command_line
from pyro_vae.data import Form, is_path
from pyro_vae.errors import CheckpointError, DivergenceError, UsageError, uninstalled
from pyro_vae.experiment import build
from pyro_vae.experiment.compare.comparable_runs import Candidate, disagreements
from pyro_vae.experiment.config import Config
from pyro_vae.experiment.protocol_card import tested
from pyro_vae.experiment.run import files
from pyro_vae.experiment.sweep import launching, ranking
from pyro_vae.experiment.sweep.sweep_folder import LONGEST_NAME, Sweep, changed_members, tasks
from pyro_vae.experiment.sweep.sweep_record import Record
from pyro_vae.experiment.sweep.swept_settings import Setting, Space
from pyro_vae.experiment.train import member_checks
from pyro_vae.progress import through
from pyro_vae.report.documents.sweep_document import sweep_document, sweep_rows
from pyro_vae.report.draw import sweep_figures
from pyro_vae.report.render.csv_file import to_csv
from pyro_vae.report.render.plain_text import to_text

_OF_THE_DATA = ("binarize", "dequantize", "split", "likelihood", "conditional")


def sweep(folder: Path, space: Space, trainer: Sequence[str], jobs: int = 0) -> None:
    """Trains all settings, chooses one, tests it, writes and prints the report. It continues an interrupted sweep.

    Args:
        folder: new, or that of a sweep with the same plan.
        space: the settings.
        trainer: what trains one run, as arguments of Python.
        jobs: how many processes run side by side; 0 for one per core, but no more than there are runs.

    Raises:
        UsageError: settings cannot be built or do not compare, or the folder holds another sweep, or a run.
        DivergenceError: every setting has a run that diverged.
        PyroVAEError: runs failed; the same call continues them.
    """
    if jobs < 0:
        raise UsageError(f"`jobs` must be 1 or more, or 0 for one per core; got {jobs}")
    search = _search() if space.search else None
    settings = space.choices() if search else space.settings()
    runs = (space.search or len(settings)) * space.seeds
    card = check_settings(settings, begins=not (folder / "sweep.json").exists())
    _check_folder(folder, [] if search else settings)
    with launching.locked(folder) as lock:
        sweep_folder = Sweep(folder, space.seeds, trainer, jobs or min(system.cores(), runs), lock, _say)
        _begin(folder, space, settings)
        if search:
            settings = search(sweep_folder, space)
        else:
            sweep_folder.train(settings)
        text = finish(sweep_folder, settings, card)
    print(f"\n{text}\n\nIn {folder}: report.txt, report.json, table.csv, pictures (*.png), and a folder for each run.")


def lines(folder: Path, space: Space) -> list[str]:
    """Writes, for each run, the command line that trains it, from any folder and on any computer that has these files.

    The folder and its record are made, so that `sweep` takes up the runs. The lines of a sweep and their order are
    always the same, however many of its runs have ended.

    Args:
        folder: new, or that of a sweep with the same plan.
        space: the settings, which no search chooses.

    Raises:
        UsageError: as `sweep` does; or a line would have a line break.
    """
    settings = space.settings()
    check_settings(settings, begins=not (folder / "sweep.json").exists())
    _check_folder(folder, settings)
    _begin(folder, space, settings)
    everywhere = [setting._replace(config=_everywhere(setting.config)) for setting in settings]
    runs = [task for setting in everywhere for task in tasks(folder.absolute(), setting, space.seeds)]
    listed = [command_line("train", everywhere=True, **task.settings(test=False)) for task in runs]
    if broken := [line for line in listed if "\n" in line]:
        raise UsageError(f"{broken[0]!r} has a line break: give folders and files other names")
    return listed


def _everywhere(config: Config) -> Config:
    """A config whose paths hold in every folder."""
    if is_path(config.dataset):
        return replace(config, dataset=str(Path(config.dataset).absolute()))
    is_used = config.download or Path(config.data_dir).is_dir()
    return replace(config, data_dir=str(Path(config.data_dir).absolute())) if is_used else config


def _check_folder(folder: Path, settings: Sequence[Setting]) -> None:
    """Refuses the folder of a run, and settings whose names are too long for folders in it."""
    if long := [setting.name for setting in settings if len(setting.name.encode()) > LONGEST_NAME]:
        raise UsageError(
            f"{long[0][:60]}... names a folder, and has {len(long[0].encode())} bytes of at most {LONGEST_NAME}: sweep "
            "over fewer flags at once"
        )
    if (folder / "config.json").exists():
        raise UsageError(f"{folder} is a run, whose report a sweep would replace: use another `folder`")


def _begin(folder: Path, space: Space, settings: Sequence[Setting]) -> None:
    """Keeps the plan, and tells of members of the user's own that have changed since runs were trained."""
    Record(folder).begin(space.plan())
    runs = [task for setting in settings for task in tasks(folder, setting, space.seeds)]
    for sentence in changed_members(runs):
        _say(f"warning: {sentence}")


def _search() -> Callable[[Sweep, Space], list[Setting]]:
    try:
        from pyro_vae.experiment.sweep.optuna_search import search
    except ImportError as error:
        raise uninstalled("`search`", "search") from error
    return search


def check_settings(settings: Sequence[Setting], *, begins: bool = True) -> dict[str, str]:
    """Builds every program once, before anything is trained.

    Args:
        settings: all of them.
        begins: whether the user's own members are checked against their contract, each once.

    Returns:
        The protocol card, which all settings have in common.

    Raises:
        UsageError: a program cannot be built, a member of the user's own fails, or the numbers of two settings do not
            compare.
        DataError: the data are not there, or do not go with a likelihood.
    """
    facts: dict[tuple[Any, ...], tuple[Form, dict[str, Any]]] = {}
    candidates = []
    for setting in through("settings checked", settings):
        config = replace(setting.config, device="cpu")
        choices = tuple(getattr(config, name) for name in (*_OF_THE_DATA, *_of_own(config)))
        try:
            if choices not in facts:
                data = build.data(config)
                facts[choices] = data.form, data.protocol
                if begins and config.own.given():
                    program = build.vae(config, *data.form)
                    build.start(config, program, data, tell=False)
                    member_checks.check(config, program, data)
            form, protocol = facts[choices]
            build.svi(config, build.vae(config, *form))
        except UsageError as error:
            raise UsageError(f"{setting.name}: {error}") from error
        card = tested(config, protocol, config.test_data)
        candidates.append(Candidate(setting.name, Path(setting.name), config, card))
    if differing := disagreements(candidates):
        raise UsageError(
            f"these settings are not measured in the same way: {'; '.join(map(str, differing))}. Their ELBOs do "
            "not compare: sweep them apart, each into its own `folder`"
        )
    return candidates[0].card


def _of_own(config: Config) -> list[str]:
    return [name for family in config.own.given() for name in (family, f"{family}_args")]


def finish(sweep: Sweep, settings: Sequence[Setting], card: dict[str, str]) -> str:
    """Chooses a setting, once and for all, has its runs tested, and writes the report.

    Args:
        sweep: its folder, in which all settings are trained.
        settings: all of them.
        card: the protocol card that they have in common.

    Returns:
        The text of the report.

    Raises:
        DivergenceError: every setting has a run that diverged.
        CheckpointError: the folder names a setting as chosen that is none of these.
        PyroVAEError: a run failed.
    """
    by_name = {setting.name: setting for setting in settings}
    groups, runs = _ranked(sweep, settings)
    chosen = sweep.record.chosen() or ranking.best(groups)
    if chosen is None:
        write(sweep.folder, ranking.content(groups, runs, card))
        raise DivergenceError(
            f"every setting has a run that diverged, so none can be chosen: {sweep.folder}/report.txt"
        )
    if chosen not in by_name:
        raise CheckpointError(f"{sweep.folder}/sweep.json names {chosen!r}, which is none of its settings")
    sweep.record.choose(chosen)
    sweep.test(by_name[chosen])
    tests = sweep.tests(by_name[chosen])
    groups, runs = _ranked(sweep, settings)  # again: some are tested now
    weighted = any(setting.config.objective == "iwae" for setting in settings)
    report = ranking.content(groups, runs, card, chosen=chosen, test=tests, importance_weighted=weighted)
    return write(sweep.folder, report)


def _ranked(sweep: Sweep, settings: Sequence[Setting]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Returns the settings, ranked, and all runs."""
    runs = [row for setting in settings for row in sweep.rows(setting)]
    configs = {setting.name: (setting.values, setting.config.to_dict()) for setting in settings}
    values = {name: {flag: config[flag] for flag in swept} for name, (swept, config) in configs.items()}
    return ranking.ranked(values, runs), runs


def write(folder: Path, sweep: dict[str, Any]) -> str:
    """Writes report.json, report.txt, table.csv and the pictures.

    Args:
        folder: where to.
        sweep: what `ranking.content` returned.

    Returns:
        The text of the report.
    """
    text = to_text(sweep_document(sweep, ranking.over_seeds(sweep["test"])))
    files.write(folder / "report.json", files.to_json(sweep))
    files.write(folder / "report.txt", (text + "\n").encode())
    files.write(folder / "table.csv", to_csv(sweep_rows(sweep)).encode())
    files.write(folder / "rate_distortion.png", sweep_figures.rate_distortion(sweep))
    if (curve := sweep_figures.curve(sweep)) is not None:
        files.write(folder / "curve.png", curve)
    return text


def _say(line: str) -> None:
    print(line, flush=True)
