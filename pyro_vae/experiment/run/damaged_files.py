"""Damaged files of a run: their error, and reading JSON with that error."""

from pathlib import Path
from typing import Any

from pyro_vae.errors import CheckpointError
from pyro_vae.experiment.run import files

A_COPY = "Put a copy of it back, or train again in another folder"  # no argument: most who read a run do not train


def damaged(path: Path, why: object) -> CheckpointError:
    """Makes the error for a file that does not hold what it should.

    >>> damaged(Path("run/run.json"), "its teams are none")
    CheckpointError('run/run.json is damaged: its teams are none. Put a copy of it back, or train again in another ...')
    """
    return CheckpointError(f"{path} is damaged: {why}. {A_COPY}")


def read_json(path: Path) -> dict[str, Any]:
    """Reads the JSON object in a file.

    Raises:
        CheckpointError: the file is damaged, or cannot be read.
    """
    try:
        return files.from_json(path)
    except ValueError as error:
        raise damaged(path, error) from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}. Put a copy of it back") from error
