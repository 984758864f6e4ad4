"""The folder of a sweep: how its runs are made, and what they came to.

sweep.json      its plan and results: see `sweep_record`
NAME,seed=S/    an ordinary run, with train.log where the sweep itself has made it
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from pyro_vae.command_lines import flags
from pyro_vae.errors import BY_EXIT_CODE, CheckpointError, ProcessError, PyroVAEError, UsageError
from pyro_vae.experiment import presets
from pyro_vae.experiment.own_members import changed, in_sentences, places_of
from pyro_vae.experiment.run import files
from pyro_vae.experiment.run.run_folder import Run, saved_config
from pyro_vae.experiment.sweep import launching
from pyro_vae.experiment.sweep.launching import Job
from pyro_vae.experiment.sweep.ranking import reported
from pyro_vae.experiment.sweep.sweep_record import Record
from pyro_vae.experiment.sweep.swept_settings import Setting
from pyro_vae.experiment.train import training_lock
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
            CheckpointError: its training has ended, and there is no such record; or it had other settings.
        """
        self._check_settings()
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

    def settings(self, **more: Any) -> dict[str, Any]:
        """Returns the flags of the training that makes the run or goes on with it.

        Args:
            more: further ones, such as `test=False`.
        """
        config = self.run.config
        # The user's own members have been checked, and their places are valid wherever a process starts.
        own = {**places_of(config, absolute=True), "no_check": True} if config.own.given() else {}
        return {**presets.changed(config), **own, "out": self.path, "resume": True, **more}

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

    def _check_settings(self) -> None:
        """Refuses a run that someone has trained here with other settings than its name says."""
        if not self.run.exists():
            return
        was, wanted = (config.portable().scientific() for config in (saved_config(self.path), self.run.config))
        if other := [name for name in wanted if was[name] != wanted[name]]:
            name = other[0]
            raise CheckpointError(
                f"{self.path} was trained with {name}={was[name]}, not {wanted[name]}: remove it and give the same "
                "command again"
            )

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


def tasks(folder: Path, setting: Setting, seeds: int) -> list[Task]:
    """Lists the runs of a setting, from this many seeds, below the folder of a sweep."""
    return [Task(setting, seed, folder / f"{setting.name},seed={seed}") for seed in range(seeds)]


def changed_members(runs: Iterable[Task]) -> list[str]:
    """Lists, in sentences, the members of the user's own that are not those that these runs were trained with."""
    own = [task for task in runs if task.setting.config.own.given()]
    told = (changed(task.run.status.read().get("own", {}), task.setting.config.own) for task in own)
    return in_sentences(name for names in told for name in names)


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

    @property
    def record(self) -> Record:
        """Its sweep.json."""
        return Record(self.folder)

    def tasks(self, setting: Setting) -> list[Task]:
        """Lists the runs of a setting."""
        return tasks(self.folder, setting, self.seeds)

    def train(self, settings: Iterable[Setting]) -> None:
        """Trains the runs that are not trained yet. One that diverges has ended too, and is not trained again.

        Raises:
            UsageError: other processes train some of them; it is raised when all others have ended.
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
        known = self.record.tests()
        tests = {task.path.name: known.get(task.path.name) or task.test() for task in self.tasks(setting)}
        self.record.keep_tests(tests)
        return list(tests.values())

    def _row(self, task: Task) -> dict[str, Any]:
        row = task.row()
        if row["status"] == "diverged" and row["setting"] == self.record.chosen():
            row["status"] = "test diverged"  # or it could not have been chosen
        return row

    def _work(self, tasks: Sequence[Task], is_done: Callable[[Task], bool], **more: bool) -> None:
        left, trains = [task for task in tasks if not is_done(task)], is_done is Task.is_trained
        elsewhere = {task.path.name: who for task in left if (who := training_lock.holder(task.path))}
        by_path = {task.path: task for task in left if task.path.name not in elsewhere}
        failed: list[tuple[Task, int]] = []
        ended = len(tasks) - len(left)

        def done(job: Job, code: int, seconds: float) -> None:
            nonlocal ended
            ended += 1
            task = by_path[job.folder]
            if not is_done(task):
                failed.append((task, code))
            self.say(f"{ended}/{len(tasks)}  {ended_run(self._row(task), code)}, {seconds:.0f} s")

        kept = {name: row for name, row in self.record.tests().items() if self.folder / name not in by_path}
        self.record.keep_tests(kept)  # a run that is made again reports again
        jobs = [Job(path, [*self.trainer, *flags(task.settings(**more))]) for path, task in by_path.items()]
        with stage("runs" if trains else "tests of runs", len(tasks), done=ended) as going:

            def looked(working: Sequence[Job]) -> None:
                begun = sum(by_path[job.folder].share() for job in working) if trains and is_watched() else 0.0
                going.reach(ended + begun)

            launching.work(jobs, self.at_once, self.lock, done, looked)
        if failed:
            raise _failure(failed)
        if elsewhere:
            name, who = next(iter(elsewhere.items()))
            raise UsageError(
                f"{len(elsewhere)} of the runs {'is' if len(elsewhere) == 1 else 'are'} still at work elsewhere, the "
                f"first of them {name} (process {who}): give the same command again when they have ended"
            )


def _failure(failed: Sequence[tuple[Task, int]]) -> PyroVAEError:
    task, code = failed[0]
    lines = (task.path / "train.log").read_text(encoding="utf-8", errors="replace").splitlines()
    return BY_EXIT_CODE.get(code, ProcessError)(
        f"{len(failed)} of the runs failed, the first of them {task.path.name} with exit code {code}: "
        f"{lines[-1][:300] if lines else ''} (see {task.path}/train.log). The same command takes them up again"
    )
