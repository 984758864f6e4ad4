"""sweep.json: the plan of a sweep, the setting chosen as soon as it is, and what its runs reported of test data."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyro_vae.errors import CheckpointError, UsageError
from pyro_vae.experiment.config import Config
from pyro_vae.experiment.run import files


@dataclass(frozen=True)
class Record:
    """The record of a sweep.

    Attributes:
        folder: of the sweep.
    """

    folder: Path

    def begin(self, plan: dict[str, Any]) -> None:
        """Keeps the plan in the folder.

        Args:
            plan: what makes it this sweep and no other, see `Space.plan`.

        Raises:
            UsageError: the folder holds a sweep with another plan.
            CheckpointError: its sweep.json is damaged.
        """
        plan = json.loads(files.to_json(plan))
        content = self._read()
        before = _with_newer_settings(content.get("plan", plan), plan)
        for what in plan:
            if before.get(what) != plan[what]:
                was, wanted = _differing(before.get(what), plan[what])
                named = "" if what == "base" else f"{what} "  # settings have their own names
                raise UsageError(
                    f"{self.folder} holds a sweep with {named}{was}, not {wanted}: give the flags that it was started "
                    "with, or use another `folder`"
                )
        if content.get("plan") != plan:  # else a sweep may be at work here, which writes too
            files.make_folder(self.folder)
            self._keep({**content, "plan": plan})

    def chosen(self) -> str | None:
        """Returns the name of the chosen setting; None before it is chosen."""
        return self._read().get("chosen")

    def choose(self, name: str) -> None:
        """Writes down the name of the chosen setting, before its runs see any test data."""
        self._keep({**self._read(), "chosen": name})

    def tests(self) -> dict[str, Any]:
        """Returns what runs reported of test data when the sweep first read it, by the names of their folders."""
        tests: dict[str, Any] = self._read().get("tests", {})
        return tests

    def keep_tests(self, tests: Mapping[str, Any]) -> None:
        """Writes down what runs reported of test data."""
        self._keep({**self._read(), "tests": dict(tests)})

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
