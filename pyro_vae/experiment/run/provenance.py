"""Where a number comes from: the command line, the commit of this package, versions and the machine."""

import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pyro_vae.command_lines import typed


def command(processes: int = 1) -> str:
    """The line that started this process.

    Args:
        processes: how many torchrun started.
    """
    return typed(sys.argv, processes)


def surroundings(device: str) -> dict[str, Any]:
    """Lists what a number depends on in addition to the config: the commit of this package, versions, the machine."""
    names = ("pyro-vae", "pyro-ppl", "torch", "numpy", "scikit-learn")
    system = {"python": platform.python_version(), "system": platform.platform(), "device": device}
    return {"git": _git_commit(), "versions": {name: version(name) for name in names}, "machine": system}


def _git_commit() -> str | None:
    folder = Path(__file__).parents[3]
    if not (folder / ".git").exists():  # installed, perhaps inside another repository
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
