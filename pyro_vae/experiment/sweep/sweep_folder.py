"""The folder of a sweep: its plan, the results of its runs, and what was read from their reports.

sweep.json      the plan, the setting chosen as soon as it is, and what its runs reported of test data
NAME,seed=S/    an ordinary run, with train.log
"""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from pyro_vae.command_lines import flags
from pyro_vae.errors import BY_EXIT_CODE, CheckpointError, ProcessError, PyroVAEError, UsageError
from pyro_vae.experiment import presets
from pyro_vae.experiment.config import Config
from pyro_vae.experiment.own_members import changed, in_sentences, places_of
from pyro_vae.experiment.run import files
from pyro_vae.experiment.run.run_folder import Run
from pyro_vae.experiment.sweep import launching
from pyro_vae.experiment.sweep.launching import Job
from pyro_vae.experiment.sweep.ranking import reported
from pyro_vae.experiment.sweep.swept_settings import Setting
from pyro_vae.progress import is_watched, stage
from pyro_vae.report.documents.sweep_document import ended_run

LONGEST_NAME = 200  # bytes of a setting's, which is the beginning of a folder's
_TRAINED = ("trained", "finished", "diverged")  # the status of a run may be any of these after its training


class Task(NamedTuple):
    """One run of a sweep: a setting, a seed, and the path of its folder."""

    setting: Setting
    seed: int
    path: Path

    @property
    def run(self) -> Run:
        """The folder of the run, with its settings."""
        return Run(self.path, replace(self.setting.config, seed=self.seed))

    def row(self) -> dict[str, Any]:
        """Reads what is known of the run: its status, its record of the epoch that it kept, what code made it.

        Raises:
            CheckpointError: its training has ended, and there is no such record.
        """
        kept, about = [record for record in self.run.history.records() if record["best"]], self.run.status.read()
        status = about.get("status", "new")
        if not kept and status in ("trained", "finished"):
            raise CheckpointError(
                f"{self.path / 'history.jsonl'} holds no epoch that was kept, and the training has ended: put a copy "
                f"of it back, or remove {self.path} and give the same command again"
            )
        return {
            "name": self.path.name,
            "setting": self.setting.name,
            "seed": self.seed,
            "status": status,
            "kept": kept[-1] if kept else None,
            "reported": self._report_path.exists(),
            "code": {"git": about.get("git"), **about.get("versions", {})},
        }

    def test(self) -> dict[str, Any]:
        """Reads what the run reported of test data, see `ranking.reported`.

        Raises:
            CheckpointError: its report cannot be read, or is of other data or draws than its settings say.
        """
        row = self.row()
        if row["status"] == "diverged":
            return reported(row, None)
        cure = f"remove report.json and report.txt from {self.path} and give the same command again"
        try:
            report = files.from_json(self._report_path)
            other, test = self._otherwise(report), reported(row, report)
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise CheckpointError(f"{self._report_path} cannot be read: {error!r:.200}; {cure}") from error
        if other:
            raise CheckpointError(f"{self._report_path} is not the report of the training, but of {other}: {cure}")
        return test

    def share(self) -> float:
        """Returns the share of its epochs that it has made."""
        return min(1.0, self.run.history.length() / max(1, self.setting.config.epochs))

    def is_trained(self) -> bool:
        """Returns whether the training has ended, also where it diverged."""
        return self.run.status.now() in _TRAINED

    def is_tested(self) -> bool:
        """Returns whether the run has ended with a report, or with none because it diverged."""
        status = self.run.status.now()
        return status == "diverged" or (status == "finished" and self._report_path.exists())

    def _otherwise(self, report: dict[str, Any]) -> str:
        """Names the draws and data of a report that another command than the training has written; else empty."""
        config, size = self.setting.config, report["protocol"]["split"]["sizes"]["test"]
        wanted = {"elbo": config.elbo_samples, "log_likelihood": config.test_samples}
        for name, draws in wanted.items():
            entry = report["test"][name]
            if (entry["num_samples"], entry["num_data"]) != (draws, min(config.test_data or size, size)):
                return f"{entry['num_samples']} draws for each of {entry['num_data']} test data"
        return ""

    @property
    def _report_path(self) -> Path:
        return self.path / "report.json"


@dataclass(frozen=True, eq=False)
class Sweep:
    """The folder of a sweep, and how its runs are made.

    Attributes:
        folder: it holds the folders of all runs.
        seeds: how many seeds each setting is trained from.
        trainer: what trains one run, as arguments of Python; it takes the flags of a training.
        at_once: how many processes run side by side.
        lock: the lock on the folder.
        say: told of each run that has ended.
    """

    folder: Path
    seeds: int
    trainer: Sequence[str]
    at_once: int
    lock: files.Lock
    say: Callable[[str], None] = print

    def begin(self, plan: dict[str, Any]) -> None:
        """Keeps the plan in the folder.

        Args:
            plan: what makes it this sweep and no other, see `Space.plan`.

        Raises:
            UsageError: the folder holds a sweep with another plan.
            CheckpointError: its sweep.json is damaged.
        """
        plan = json.loads(files.to_json(plan))
        before = _with_newer_settings(self._read().get("plan", plan), plan)
        for what in plan:
            if before.get(what) != plan[what]:
                was, wanted = _differing(before.get(what), plan[what])
                named = "" if what == "base" else f"{what} "  # settings have their own names
                raise UsageError(
                    f"{self.folder} holds a sweep with {named}{was}, not {wanted}: give the flags that it was started "
                    "with, or use another `folder`"
                )
        self._keep({**self._read(), "plan": plan})

    def changed(self, settings: Iterable[Setting]) -> list[str]:
        """Lists, in sentences, the members of the user's own that are not those that runs here were trained with."""
        tasks = [task for setting in settings if setting.config.own.given() for task in self.tasks(setting)]
        told = (changed(task.run.status.read().get("own", {}), task.setting.config.own) for task in tasks)
        return in_sentences(name for names in told for name in names)

    def chosen(self) -> str | None:
        """Returns the name of the chosen setting; None before it is chosen."""
        return self._read().get("chosen")

    def choose(self, name: str) -> None:
        """Writes down the name of the chosen setting, before its runs see any test data."""
        self._keep({**self._read(), "chosen": name})

    def _read(self) -> dict[str, Any]:
        path = self.folder / "sweep.json"
        if not path.exists():
            return {}
        try:
            content = files.from_json(path)
            if not isinstance(content.get("plan"), dict) or not isinstance(content.get("tests", {}), dict):
                raise ValueError("it holds no plan")
        except ValueError as error:
            raise CheckpointError(
                f"{path} is damaged: {error}. Put a copy of it back, or use another `folder`"
            ) from error
        return content

    def _keep(self, content: dict[str, Any]) -> None:
        files.write(self.folder / "sweep.json", files.to_json(content))

    def tasks(self, setting: Setting) -> list[Task]:
        """Lists the runs of a setting."""
        return [Task(setting, seed, self.folder / f"{setting.name},seed={seed}") for seed in range(self.seeds)]

    def train(self, settings: Iterable[Setting]) -> None:
        """Trains the runs that are not trained yet. One that diverges has ended too, and is not trained again.

        Raises:
            PyroVAEError: runs failed in any other way; it is raised when all others have ended.
        """
        tasks = [task for setting in settings for task in self.tasks(setting)]
        self._work(tasks, Task.is_trained, test=False)

    def test(self, setting: Setting) -> None:
        """Makes the runs of one setting report on test data, if they have not yet.

        Raises:
            PyroVAEError: runs failed; it is raised when all others have ended.
        """
        self._work(self.tasks(setting), Task.is_tested)

    def rows(self, setting: Setting) -> list[dict[str, Any]]:
        """Reads what is known of the runs of a setting, see `Task.row`."""
        return [self._row(task) for task in self.tasks(setting)]

    def tests(self, setting: Setting) -> list[dict[str, Any]]:
        """Returns what the runs of a setting reported of test data, see `Task.test`, as this sweep first read it.

        It is kept, since a later evaluation overwrites their reports with other draws and data.

        Raises:
            CheckpointError: a report cannot be read, or is not the report of the training.
        """
        known = self._read().get("tests", {})
        tests = {task.path.name: known.get(task.path.name) or task.test() for task in self.tasks(setting)}
        self._keep({**self._read(), "tests": tests})
        return list(tests.values())

    def _row(self, task: Task) -> dict[str, Any]:
        row = task.row()
        if row["status"] == "diverged" and row["setting"] == self.chosen():  # which it was not when it was trained
            row["status"] = "test diverged"
        return row

    def _work(self, tasks: Sequence[Task], is_done: Callable[[Task], bool], **more: bool) -> None:
        by_path, trains = {task.path: task for task in tasks if not is_done(task)}, is_done is Task.is_trained
        failed: list[tuple[Task, int]] = []
        ended = len(tasks) - len(by_path)

        def done(job: Job, code: int, seconds: float) -> None:
            nonlocal ended
            ended += 1
            task = by_path[job.folder]
            if not is_done(task):
                failed.append((task, code))
            self.say(f"{ended}/{len(tasks)}  {ended_run(self._row(task), code)}, {seconds:.0f} s")

        before = self._read()
        kept = {name: row for name, row in before.get("tests", {}).items() if self.folder / name not in by_path}
        self._keep({**before, "tests": kept})  # a run that is made again reports again
        jobs = [Job(task.path, self._command(task, **more)) for task in by_path.values()]
        with stage("runs" if trains else "tests of runs", len(tasks), done=ended) as going:

            def looked(working: Sequence[Job]) -> None:
                begun = sum(by_path[job.folder].share() for job in working) if trains and is_watched() else 0.0
                going.reach(ended + begun)

            launching.work(jobs, self.at_once, self.lock, done, looked)
        if failed:
            raise _failure(failed)

    def _command(self, task: Task, **more: bool) -> list[str]:
        config = task.run.config
        # The user's own members have been checked, and their places are valid wherever a process starts.
        own = {**places_of(config, absolute=True), "no_check": True} if config.own.given() else {}
        return [*self.trainer, *flags({**presets.changed(config), **own, "out": task.path, "resume": True, **more})]


def _with_newer_settings(before: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """Completes a plan of an earlier version: its runs had the default of every setting that it did not know."""
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
    lines = (task.path / "train.log").read_text(encoding="utf-8", errors="replace").splitlines()
    return BY_EXIT_CODE.get(code, ProcessError)(
        f"{len(failed)} of the runs failed, the first of them {task.path.name} with exit code {code}: "
        f"{lines[-1][:300] if lines else ''} (see {task.path}/train.log). The same command takes them up again"
    )
