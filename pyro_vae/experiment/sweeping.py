"""A sweep: every setting from several seeds, the best chosen on validation data, and that one alone tested.

sweep.json      the plan, and the setting chosen as soon as it is
sweep.lock      held while runs are at work
NAME,seed=S/    an ordinary run, with train.log
report.*        settings, runs, and what the chosen one is worth on test data; pictures beside them
"""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from pyro_vae.data import Form
from pyro_vae.errors import CheckpointError, DivergenceError, PyroVAEError, UsageError
from pyro_vae.experiment import build, launching, storage
from pyro_vae.experiment.candidates import Candidate, disagreements
from pyro_vae.experiment.card import tested
from pyro_vae.experiment.config import Config
from pyro_vae.experiment.launching import Job
from pyro_vae.experiment.run import Run
from pyro_vae.experiment.settings import Setting, Space, to_flags
from pyro_vae.report import sweep as report
from pyro_vae.report import sweep_pictures as pictures

_TRAINED, _TESTED = ("trained", "finished", "diverged"), ("finished",)  # what a run is afterwards
_OF_THE_DATA = ("binarize", "dequantize", "split", "likelihood", "conditional")


class Task(NamedTuple):
    """One run: a setting, a seed, a folder."""

    setting: Setting
    seed: int
    path: Path

    @property
    def run(self) -> Run:
        """Its folder."""
        return Run(self.path, replace(self.setting.config, seed=self.seed))

    def row(self) -> dict[str, Any]:
        """What is known of it: its status, and its record of the epoch that it kept."""
        kept = [record for record in self.run.history() if record["best"]]
        found = {"name": self.path.name, "setting": self.setting.name, "seed": self.seed, "status": self.run.status()}
        return {**found, "kept": kept[-1] if kept else None}


@dataclass(frozen=True, eq=False)
class Sweep:
    """A folder of runs.

    Attributes:
        folder: of all runs.
        seeds: of each setting.
        script: train_svi.py, which trains one.
        at_once: how many processes.
        lock: on the folder.
        say: told of each run that has ended.
    """

    folder: Path
    seeds: int
    script: Path
    at_once: int
    lock: TextIO
    say: Callable[[str], None] = print

    def begin(self, plan: dict[str, Any]) -> None:
        """Keeps the plan in the folder.

        Raises:
            UsageError: it holds a sweep with another plan.
            CheckpointError: its sweep.json is damaged.
        """
        plan = json.loads(storage.to_json(plan))
        before = _with_newer_settings(self._read().get("plan", plan), plan)
        for what in plan:
            if before.get(what) != plan[what]:
                was, wanted = _differing(before.get(what), plan[what])
                raise UsageError(
                    f"{self.folder} holds a sweep with {what} {was}, not {wanted}: give the flags that it was started "
                    "with, or use another --out"
                )
        self._keep({"plan": plan, "chosen": self.chosen()})

    def chosen(self) -> str | None:
        """The setting that was chosen, once it was."""
        return self._read().get("chosen")

    def choose(self, name: str) -> None:
        """Writes it down, before its runs see any test data."""
        self._keep({**self._read(), "chosen": name})

    def _read(self) -> dict[str, Any]:
        path = self.folder / "sweep.json"
        try:
            return storage.from_json(path) if path.exists() else {}
        except ValueError as error:
            raise CheckpointError(f"{path} is damaged: {error}. Put a copy of it back, or use another --out") from error

    def _keep(self, found: dict[str, Any]) -> None:
        storage.write(self.folder / "sweep.json", storage.to_json(found))

    def tasks(self, setting: Setting) -> list[Task]:
        """Its runs."""
        paths = {seed: self.folder / f"{setting.name},seed={seed}" for seed in range(self.seeds)}
        return [Task(setting, seed, path) for seed, path in paths.items()]

    def train(self, settings: Iterable[Setting]) -> None:
        """Trains what is not trained yet; a run that diverges has ended as well.

        Raises:
            PyroVAEError: runs that failed in any other way, when all others have ended.
        """
        tasks = [task for setting in settings for task in self.tasks(setting)]
        self._work(tasks, _TRAINED, "--no-test")

    def test(self, setting: Setting) -> None:
        """Lets the runs of one setting report on test data, if they have not."""
        self._work(self.tasks(setting), _TESTED)

    def _work(self, tasks: Sequence[Task], wanted: Sequence[str], *more: str) -> None:
        by_path = {task.path: task for task in tasks if task.run.status() not in wanted}
        failed: list[tuple[Task, int]] = []
        ended = len(tasks) - len(by_path)

        def done(job: Job, code: int, seconds: float) -> None:
            nonlocal ended
            ended += 1
            task = by_path[job.folder]
            row = task.row()
            if row["status"] not in wanted:
                failed.append((task, code))
            self.say(f"{ended}/{len(tasks)}  {report.line(row, code)}, {seconds:.0f} s")

        jobs = [Job(task.path, self._command(task, *more)) for task in by_path.values()]
        launching.work(jobs, self.at_once, self.lock, done)
        if failed:
            raise _failure(failed)

    def _command(self, task: Task, *more: str) -> list[str]:
        return [str(self.script), *to_flags(task.run.config), "--out", str(task.path), "--resume", *more]


def sweep(folder: Path, space: Space, script: Path, at_once: int = 0) -> None:
    """Trains, chooses, tests the chosen, writes and prints the report; goes on with a sweep that was cut.

    Args:
        folder: new, or that of a sweep with the same plan.
        space: the settings.
        script: train_svi.py.
        at_once: processes; 0 for one a core, where there are so many runs.

    Raises:
        UsageError: settings that can not be built or do not compare; a folder that holds another sweep, or a run.
        DivergenceError: every setting has a run that diverged.
        PyroVAEError: runs that failed; the same call takes them up again.
    """
    if at_once < 0:
        raise UsageError(f"--jobs must be 1 or more, or 0 for one a core; got {at_once}")
    search = _search() if space.trials else None
    settings = space.choices() if search else space.settings()
    runs = (space.trials or len(settings)) * space.seeds
    card = check_settings(settings)
    if Run(folder, settings[0].config).exists():
        raise UsageError(f"{folder} is a run, whose report a sweep would replace: use another --out")
    with launching.locked(folder) as lock:
        this = Sweep(folder, space.seeds, script, at_once or min(launching.cores(), runs), lock, _say)
        this.begin(space.plan())
        if search:
            settings = search(this, space)
        else:
            this.train(settings)
        text = finish(this, settings, card)
    print(f"\n{text}\n\nIn {folder}: report.txt, report.json, table.csv, pictures (*.png), and a folder for each run.")


def _search() -> Callable[[Sweep, Space], list[Setting]]:
    try:
        from pyro_vae.experiment.search import search
    except ImportError as error:
        raise UsageError("--search needs Optuna: pip install -e '.[search]'") from error
    return search


def check_settings(settings: Sequence[Setting]) -> dict[str, str]:
    """Builds every program once, before anything is trained. Returns the protocol card, which all have in common.

    Raises:
        UsageError: a program that can not be built, one without an ELBO, or numbers that do not compare.
        DataError: the data are not there, or do not go with a likelihood.
    """
    facts: dict[tuple[Any, ...], tuple[Form, dict[str, Any]]] = {}
    found = []
    for setting in settings:
        config = replace(setting.config, device="cpu")
        if config.posterior == "delta":
            raise UsageError(f"{setting.name}: --posterior delta is a plain autoencoder, with no ELBO to choose by")
        kind = tuple(getattr(config, name) for name in _OF_THE_DATA)
        if kind not in facts:
            data = build.data(config)
            facts[kind] = data.form, data.protocol
        form, protocol = facts[kind]
        try:
            build.vae(config, *form)
        except UsageError as error:
            raise UsageError(f"{setting.name}: {error}") from error
        card = tested(config, protocol, config.test_data)
        found.append(Candidate(setting.name, Path(setting.name), config, card))
    if differing := disagreements(found):
        raise UsageError(
            f"these settings are not measured alike: {'; '.join(map(str, differing))}. Their ELBOs do not compare: "
            "sweep them apart, each with an --out of its own"
        )
    return found[0].card


def finish(sweep: Sweep, settings: Sequence[Setting], card: dict[str, str]) -> str:
    """Chooses a setting, once and for all, has its runs tested, and writes the report. Returns its text."""
    tasks = {setting.name: sweep.tasks(setting) for setting in settings}
    runs = [task.row() for found in tasks.values() for task in found]
    groups = report.groups({setting.name: setting.values for setting in settings}, runs)
    chosen = sweep.chosen() or report.best(groups)
    if chosen is None:
        write(sweep.folder, report.content(groups, runs, None, [], card))
        raise DivergenceError(f"every setting has a run that diverged, none can be chosen: {sweep.folder}/report.txt")
    if chosen not in tasks:
        raise CheckpointError(f"{sweep.folder}/sweep.json names {chosen!r}, which is none of its settings")
    sweep.choose(chosen)
    sweep.test(next(setting for setting in settings if setting.name == chosen))
    tests = [report.tested(task.row(), storage.from_json(task.path / "report.json")) for task in tasks[chosen]]
    runs = [task.row() for found in tasks.values() for task in found]  # again: some are tested now
    weighted = any(setting.config.objective == "iwae" for setting in settings)
    return write(sweep.folder, report.content(groups, runs, chosen, tests, card, importance_weighted=weighted))


def write(folder: Path, found: dict[str, Any]) -> str:
    """Writes report.json, report.txt, table.csv and the pictures, and returns the text."""
    text = report.to_text(found)
    storage.write(folder / "report.json", storage.to_json(found))
    storage.write(folder / "report.txt", (text + "\n").encode())
    storage.write(folder / "table.csv", report.to_csv(found).encode())
    storage.write(folder / "rate_distortion.png", pictures.rate_distortion(found))
    if (curve := pictures.curve(found)) is not None:
        storage.write(folder / "curve.png", curve)
    return text


def _with_newer_settings(before: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """A plan of an earlier version, whose runs had the default of every setting that it did not know."""
    defaults = Config().to_dict()
    known = before.get("base")
    if not isinstance(known, dict):
        return before
    return {**before, "base": {**{name: defaults[name] for name in now["base"] if name in defaults}, **known}}


def _differing(before: Any, now: Any) -> tuple[Any, Any]:
    """The first difference, by its name where these are mappings."""
    if not isinstance(before, dict) or not isinstance(now, dict):
        return before, now
    name = next(name for name in {**before, **now} if before.get(name) != now.get(name))
    return f"{name}={before.get(name)}", f"{name}={now.get(name)}"


def _failure(failed: Sequence[tuple[Task, int]]) -> PyroVAEError:
    task, code = failed[0]
    kinds = {kind.exit_code: kind for kind in PyroVAEError.__subclasses__()}
    lines = (task.path / "train.log").read_text(encoding="utf-8", errors="replace").splitlines()
    return kinds.get(code, PyroVAEError)(
        f"{len(failed)} of the runs failed, the first of them {task.path.name} with exit code {code}: "
        f"{lines[-1][:300] if lines else ''} (see {task.path}/train.log). The same command takes them up again"
    )


def _say(line: str) -> None:
    print(line, flush=True)
