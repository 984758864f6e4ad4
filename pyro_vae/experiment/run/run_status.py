"""run.json: the status of a run (running, trained, finished, interrupted, ...), its data, its processes and the code.

A run can be trained by teams of processes, one after another. The draws of z depend on their sizes, so each team is
written down with the epoch and the step at which it began.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pyro_vae.command_lines import command_line
from pyro_vae.errors import DivergenceError, ProcessError, StorageError
from pyro_vae.experiment.config import Config
from pyro_vae.experiment.own_members import places_of
from pyro_vae.experiment.run import files, lineage, provenance
from pyro_vae.experiment.run.damaged_files import damaged, read_json
from pyro_vae.inference import Progress

_CUT = (SystemExit, KeyboardInterrupt, BrokenPipeError, ProcessError)
_ENDS: dict[type[BaseException], str] = {DivergenceError: "diverged", **dict.fromkeys(_CUT, "interrupted")}


class RunStatus:
    """The status of one run, and all else that its run.json says.

    Args:
        path: the path of run.json, which is made when the first training begins.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> dict[str, Any]:
        """Reads all that run.json says; it is empty before the run has begun.

        Raises:
            CheckpointError: the file is damaged.
        """
        return read_json(self.path) if self.path.exists() else {}

    def started_from(self) -> list[lineage.Record]:
        """Returns the runs whose weights this one started from, the newest first, see `lineage`."""
        return lineage.of(self.read(), self.path)

    def trained_for(self) -> float:
        """Returns the seconds of training over all sessions; the last minute of one that was killed is not in them.

        Raises:
            CheckpointError: the file is damaged.
        """
        told = self.read().get("seconds", {})
        seconds = told.get("training", 0.0) if isinstance(told, dict) else None
        if not isinstance(seconds, int | float) or not 0 <= seconds < math.inf:
            raise damaged(self.path, "its seconds of training are none")
        return float(seconds)

    def now(self) -> str:
        """The status, "new" before the run has begun."""
        return self.read().get("status", "new")

    def begin(
        self,
        config: Config,
        protocol: dict[str, Any],
        progress: Progress,
        processes: int,
        started_from: Sequence[lineage.Record] = (),
    ) -> None:
        """Writes run.json again, for a training that begins or goes on now.

        Args:
            config: what is trained.
            protocol: the protocol of the data.
            progress: where the training begins.
            processes: how many processes train together.
            started_from: the lineage of the run.
        """
        before = self.read()
        spent = {"seconds": {"training": self.trained_for()}} if "seconds" in before else {}
        teams = self._teams(before, progress, processes)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        goes_on = progress.epoch or progress.steps
        about = {
            "status": "running",
            "command": self._repeated(config, processes, started_from) if goes_on else provenance.command(processes),
            "started": before.get("started", now),
            "session_started": now,
            "processes": processes,
            "teams": teams,
            **spent,
            "seeds": {"seed": config.seed, "data_seed": config.data_seed},
            "protocol": protocol,
            **({lineage.KEY: list(started_from)} if started_from else {}),
            **({"own": config.own.recorded()} if config.own.given() else {}),
            **provenance.surroundings(config.device),
        }
        files.write(self.path, files.to_json(about))

    def set(self, status: str, **more: Any) -> None:
        """Changes the status, and what else is named, in a run.json that is there."""
        files.write(self.path, files.to_json({**read_json(self.path), "status": status, **more}))

    @contextmanager
    def on_exit(self) -> Iterator[None]:
        """Sets the status to "interrupted", "diverged" or "failed" where an error ends the block."""
        try:
            yield
        except BaseException as error:
            with suppress(StorageError):  # the first error is the one to report
                self.set(_ENDS.get(type(error), "failed"))
            raise

    def _repeated(self, config: Config, processes: int, started_from: Sequence[lineage.Record]) -> str:
        """The command line that repeats the whole run, if the one that was typed only continued it."""
        default = lineage.default_settings(config.preset, started_from, self.path).to_dict()
        earlier = {"start_from": started_from[0]["run"]} if started_from else {}
        settings = {name: value for name, value in config.to_dict().items() if value != default[name]}
        settings |= places_of(config)
        return command_line("train", processes=processes, **earlier, **settings, out=self.path.parent)

    def _teams(self, before: dict[str, Any], progress: Progress, processes: int) -> list[dict[str, int]]:
        """Lists the teams that began before this point, with this one where its size is another."""
        here = {"epoch": progress.epoch, "steps": progress.steps, "processes": processes}
        first = {"epoch": 0, "steps": 0, "processes": before.get("processes", processes)}
        try:
            teams = [team for team in before.get("teams", [first]) if _place(team) < _place(here)]
            return teams if teams and teams[-1]["processes"] == processes else [*teams, here]
        except (TypeError, LookupError) as error:
            raise damaged(self.path, "its teams are none") from error


def _place(team: dict[str, int]) -> tuple[int, int]:
    return team["epoch"], team["steps"]
