"""A run on disk: one folder that says what was computed, how far it came and what it found.

config.json     the Config
run.json        versions, git commit, seeds, data protocol, status (running, trained, finished, interrupted, ...)
history.jsonl   one Record a line
checkpoints/    the last few epochs, see `checkpoint`
train.lock      there while a process trains, or where one was killed: which one
report.*        numbers; pictures beside them
"""

import hashlib
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pyro_vae.data import Form
from pyro_vae.errors import CheckpointError, DivergenceError, ProcessError, StorageError, UsageError
from pyro_vae.experiment.config import Config
from pyro_vae.experiment.run import checkpoint, files
from pyro_vae.inference import SVI, Progress, Record
from pyro_vae.model.autoencoder import Autoencoder

_FREE_TO_CHANGE = (*Config.within("place"), *Config.within("report"))
_WHAT_THE_MODEL_SEES = ("sha256", "split", "binarization", "dequantized")


class Run:
    """The folder of one run.

    Args:
        path: the folder; it is made when something is first written.
        config: what is run in it.
    """

    def __init__(self, path: Path, config: Config) -> None:
        self.path, self.config = path, config
        self.checkpoints = path / "checkpoints"
        self._history = hashlib.sha256()  # of history.jsonl, as far as it is kept

    def mark(self) -> bytes:
        """What is another as soon as somebody trains in the folder."""
        with suppress(OSError):
            return (self.path / "run.json").read_bytes()
        return b""

    @contextmanager
    def locked(self, mark: bytes | None = None) -> Iterator[None]:
        """Holds the folder, so that no other process trains in it. Whoever only reads needs no lock.

        Args:
            mark: what `mark` said when it was decided what to do here; None where that does not matter.

        Raises:
            UsageError: another process trains in it, or did since that was decided.
            StorageError: it can not be written to.
        """
        files.make_folder(self.path)

        def refusal(holder: str) -> str:
            return (
                f"another training is at work in {self.path} (process {holder}): wait for it, or end it by kill, which "
                "keeps its step; or use another `folder`"
            )

        with files.locked(self.path / "train.lock", refusal) as lock:
            try:
                lock.sign(f"{os.getpid()} on {platform.node()}")
                if mark not in (None, self.mark()):
                    raise UsageError(
                        f"another training was at work in {self.path} since this one began: give the command again, or "
                        "use another `folder`"
                    )
                yield
            finally:
                lock.remove()

    def open(
        self, vae: Autoencoder, svi: SVI, protocol: dict[str, Any], processes: int = 1
    ) -> tuple[Progress, list[str]]:
        """Starts the run, or puts program and optimiser where its newest whole checkpoint left them.

        Args:
            vae, svi: of this config.
            protocol: of the data.
            processes: how many train together, of which the first calls this and the others `follow`.

        Returns:
            how far the run had come, and what was wrong with newer checkpoints.
        """
        files.make_folder(self.checkpoints)
        self.sweep()
        found, complaints = checkpoint.newest(self.checkpoints)
        if found is not None:
            self._check_same_config(found.config)
            self.check_same_data(protocol)
        checkpoint.remove_orphans(self.checkpoints)
        if found is None and (epochs := len(self.history())) > 1:  # a kill before the first checkpoint leaves one line
            raise CheckpointError(
                f"{self.checkpoints} is empty, and {self.path / 'history.jsonl'} knows {epochs} epochs: "
                "put the checkpoints back, or use another `folder`"
            )
        progress = found.restore(vae, svi.optimizer) if found is not None else Progress()
        self._cut_history(self.checked_history(found) if found is not None else b"")
        files.write(self.path / "config.json", files.to_json(self.config.to_dict()))
        self._describe(protocol, self._teams(progress, processes))
        return progress, complaints

    def follow(self, vae: Autoencoder, svi: SVI) -> tuple[Progress, list[str]]:
        """What `open` says and does, with nothing written: for the other processes, after the first."""
        found, complaints = checkpoint.newest(self.checkpoints)
        return found.restore(vae, svi.optimizer) if found is not None else Progress(), complaints

    def save(self, record: Record, vae: Autoencoder, svi: SVI, progress: Progress, form: Form) -> None:
        """Keeps one epoch: its record first, so that a checkpoint never lacks its history."""
        line = json.dumps(record.to_dict(), allow_nan=False)
        files.append(self.path / "history.jsonl", line)
        self._history.update(f"{line}\n".encode())
        self._checkpoint(vae, svi, progress, form)

    def save_part(self, vae: Autoencoder, svi: SVI, progress: Progress, form: Form) -> None:
        """Keeps the steps of an epoch that was stopped; where it was stopped at its end, that is kept already."""
        if progress.part is not None:
            self._checkpoint(vae, svi, progress, form)

    def _checkpoint(self, vae: Autoencoder, svi: SVI, progress: Progress, form: Form) -> None:
        history = self._history.hexdigest()
        checkpoint.save(self.checkpoints, self.config, form, vae, svi.optimizer, progress, history)

    def exists(self) -> bool:
        """Whether the folder holds a run, be it a damaged one."""
        return (self.path / "config.json").exists() or bool(checkpoint.manifests(self.checkpoints))

    def sweep(self) -> None:
        """Removes what a killed write left."""
        files.sweep(self.path)
        files.sweep(self.checkpoints)

    def is_finished(self) -> bool:
        """Whether the report was written and is there, for this config: more epochs or draws are new work."""
        same = _read_config(self.path / "config.json") == self.config
        written = all((self.path / f"report.{kind}").exists() for kind in ("json", "txt"))
        return same and self.status() == "finished" and written

    def history(self) -> list[dict[str, Any]]:
        """The records, oldest first; a torn last line is dropped."""
        path = self.path / "history.jsonl"
        try:
            lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
            return [dict(json.loads(line)) for line in lines]
        except (ValueError, TypeError, RecursionError) as error:
            raise _damaged(path, error) from error

    def about(self) -> dict[str, Any]:
        """run.json; empty before the run has begun."""
        path = self.path / "run.json"
        return _read_json(path) if path.exists() else {}

    def status(self) -> str:
        """What run.json says, or "new"."""
        return self.about().get("status", "new")

    def set_status(self, status: str, **more: Any) -> None:
        """Updates run.json."""
        path = self.path / "run.json"
        files.write(path, files.to_json({**_read_json(path), "status": status, **more}))

    @contextmanager
    def status_on_exit(self) -> Iterator[None]:
        """run.json says "interrupted", "diverged" or "failed" when the block ends so."""
        try:
            yield
        except BaseException as error:
            cut = dict.fromkeys((SystemExit, KeyboardInterrupt, BrokenPipeError, ProcessError), "interrupted")
            ends: dict[type[BaseException], str] = {DivergenceError: "diverged", **cut}
            with suppress(StorageError):  # the first error is the one to report
                self.set_status(ends.get(type(error), "failed"))
            raise

    def checked_history(self, found: checkpoint.Checkpoint) -> bytes:
        """The lines of history.jsonl that belong to a checkpoint.

        Raises:
            CheckpointError: they are not there, or not those that the checkpoint knows.
        """
        path, epochs = self.path / "history.jsonl", found.progress.epoch
        numbers = [record.get("epoch") for record in self.history()[:epochs]]
        if len(numbers) < epochs or numbers != list(range(1, epochs + 1)):
            raise CheckpointError(f"{path} does not hold epochs 1 to {epochs} of the checkpoint: use another `folder`")
        lines = b"".join(path.read_bytes().splitlines(keepends=True)[:epochs]) if epochs else b""
        if found.history and (here := files.sha256(lines)) != found.history:
            raise CheckpointError(
                f"{path} is damaged: the SHA-256 of its first {epochs} lines should be {found.history}, is {here}. "
                "Put a copy of it back, or use another `folder`"
            )
        return lines

    def _cut_history(self, lines: bytes) -> None:
        # Records past the checkpoint belong to epochs that will be run again.
        path = self.path / "history.jsonl"
        if path.exists() and path.read_bytes() != lines:
            files.write(path, lines)
        self._history = hashlib.sha256(lines)

    def _check_same_config(self, before: Config) -> None:
        # Flags were compared with config.json; this is for a config.json that was edited, or lost.
        free = {*_FREE_TO_CHANGE, *(["epochs"] if before.lr_schedule == "constant" else [])}
        for name, value in self.config.to_dict().items():
            if name not in free and value != (saved := before.to_dict()[name]):
                raise CheckpointError(
                    f"{self.checkpoints} was made with {name}={saved}, and {self.path / 'config.json'} says {value}: "
                    "put that back, or use another `folder`"
                )

    def check_same_data(self, protocol: dict[str, Any]) -> None:
        """Raises CheckpointError where these are not the data that run.json describes."""
        before = self.about().get("protocol", protocol)
        now = json.loads(files.to_json(protocol))
        known = before if isinstance(before, dict) else {}
        changed = [key for key in _WHAT_THE_MODEL_SEES if known.get(key, "nothing") != now[key]]
        if changed:
            raise CheckpointError(f"{self.path} was trained on other data: {changed} differ. Use another `folder`")

    def _teams(self, progress: Progress, processes: int) -> list[dict[str, int]]:
        """How many processes trained together, on which the draws of z depend, each with where it began."""
        here = {"epoch": progress.epoch, "steps": progress.steps, "processes": processes}
        first = {"epoch": 0, "steps": 0, "processes": (about := self.about()).get("processes", processes)}
        try:
            teams = [team for team in about.get("teams", [first]) if _place(team) < _place(here)]
            return teams if teams and teams[-1]["processes"] == processes else [*teams, here]
        except (TypeError, LookupError) as error:
            raise _damaged(self.path / "run.json", "its teams are none") from error

    def _describe(self, protocol: dict[str, Any], teams: list[dict[str, int]]) -> None:
        path = self.path / "run.json"
        now = datetime.now(UTC).isoformat(timespec="seconds")
        files.write(
            path,
            files.to_json(
                {
                    "status": "running",
                    "command": command(),
                    "started": self.about().get("started", now),
                    "session_started": now,
                    "processes": teams[-1]["processes"],
                    "teams": teams,
                    "seeds": {"seed": self.config.seed, "data_seed": self.config.data_seed},
                    "protocol": protocol,
                    **surroundings(self.config.device),
                }
            ),
        )


def _place(team: dict[str, int]) -> tuple[int, int]:
    return team["epoch"], team["steps"]


def config_for_resume(path: Path, wanted: Config, given: set[str]) -> Config:
    """The saved config, with the flags given now that may change between sessions.

    Args:
        path: the run folder.
        wanted: the config of the command line.
        given: the names of the flags that were given explicitly.

    Raises:
        UsageError: a flag was given that contradicts the saved run.
    """
    saved = _read_config(path / "config.json")
    changed = {name for name in given if getattr(wanted, name) != getattr(saved, name)}
    longer = {"epochs"} if saved.lr_schedule == "constant" and wanted.epochs > saved.epochs else set()
    if refused := sorted(changed - set(_FREE_TO_CHANGE) - longer):
        name = refused[0]
        raise UsageError(
            f"{path} was started with {name}={getattr(saved, name)}, not {getattr(wanted, name)}: leave the flag out, "
            "or start another run with another `folder`"
        )
    return replace(saved, **{name: getattr(wanted, name) for name in changed})


def new_folder(root: Path, name: str) -> Path:
    """A folder that is not there yet: the time, and this name."""
    stem = f"{datetime.now():%Y%m%d-%H%M%S}-{name}"
    names = (root / (stem if i == 1 else f"{stem}-{i}") for i in range(1, 1000))
    return next(name for name in names if not name.exists())


def _read_config(path: Path) -> Config:
    """It may lack a field that is newer."""
    try:
        return Config.from_dict(_read_json(path))
    except UsageError as error:
        raise CheckpointError(f"{path} is damaged, or of another version: {error}. Put a copy of it back") from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return files.from_json(path)
    except ValueError as error:
        raise _damaged(path, error) from error
    except OSError as error:
        raise CheckpointError(f"{path} can not be read: {error.strerror}. Put a copy of it back") from error


def _damaged(path: Path, why: object) -> CheckpointError:
    return CheckpointError(f"{path} is damaged: {why}. Put a copy of it back, or use another `folder`")


def command() -> str:
    """The command line of this process."""
    return shlex.join(["python", *sys.argv])


def surroundings(device: str) -> dict[str, Any]:
    """What a number depends on beside the config: the commit of this package, versions, the machine."""
    names = ("pyro-vae", "pyro-ppl", "torch", "numpy", "scikit-learn")
    system = {"python": platform.python_version(), "system": platform.platform(), "device": device}
    return {"git": _git_commit(), "versions": {name: version(name) for name in names}, "machine": system}


def _git_commit() -> str | None:
    folder = Path(__file__).parents[3]
    if not (folder / ".git").exists():  # installed, perhaps inside somebody else's repository
        return None
    try:
        asked = subprocess.run(
            ["git", "-C", folder, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return asked.stdout.strip()
