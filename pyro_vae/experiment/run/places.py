"""Folders and files that a command names. They are checked before torch is imported."""

from collections.abc import Iterable
from pathlib import Path

from pyro_vae.command_lines import script
from pyro_vae.errors import CheckpointError, DataError, UsageError
from pyro_vae.experiment import tables


def check_run(path: str | Path) -> None:
    """Checks that a folder holds a run.

    Raises:
        CheckpointError: it holds none.

    Example:
        >>> check_run("no-such-run")
        Traceback (most recent call last):
        ...
        pyro_vae.errors.CheckpointError: no-such-run holds no trained run (there is no such folder): ...
    """
    if not (Path(path) / "config.json").exists():
        raise untrained(path)


def untrained(path: str | Path) -> CheckpointError:
    """The error for a folder that holds no run, where one is read.

    >>> print(untrained("runs/none"))
    runs/none holds no trained run (there is no such folder): name the folder that pyro-vae train wrote
    """
    missing = "" if Path(path).exists() else " (there is no such folder)"
    return CheckpointError(f"{path} holds no trained run{missing}: name the folder that {script('train')} wrote")


def check_free(path: str | Path) -> None:
    """Checks that a folder holds no run, so that a new one can begin there.

    Raises:
        UsageError: it holds one.
    """
    if (Path(path) / "config.json").exists():
        raise taken(path)


def taken(path: str | Path) -> UsageError:
    """The error for a folder that holds a run, where a new one should begin.

    >>> print(taken("runs/a"))
    runs/a already holds a run: add `resume=True` to continue it, or use another `folder`
    """
    return UsageError(f"{path} already holds a run: add `resume=True` to continue it, or use another `folder`")


def check_runs(paths: Iterable[str | Path]) -> None:
    """Checks that folders hold runs that can be compared: two or more, none of them twice.

    Raises:
        CheckpointError: one of them holds no run.
        UsageError: there are fewer than two, or one is named twice.
    """
    folders = [Path(path) for path in paths]
    for folder in folders:
        check_run(folder)
    if len(folders) < 2:
        raise UsageError(f"a comparison needs two runs or more; got only {folders[0]}")
    resolved = [folder.resolve() for folder in folders]
    if twice := [str(f) for i, f in enumerate(folders) if resolved[i] in resolved[:i]]:
        raise UsageError(f"{twice[0]} is named twice: a run compared with itself says nothing")


def check_reference(reference: str, runs: Iterable[str | Path]) -> None:
    """Checks that what runs are compared with is one of them, or one of the words.

    Raises:
        UsageError: it is neither.

    Example:
        >>> check_reference("c", ["runs/a", "runs/b"])
        Traceback (most recent call last):
        ...
        pyro_vae.errors.UsageError: `reference` is best, first or one of the runs (runs/a, runs/b); got 'c'
    """
    folders = [Path(path) for path in runs]
    if reference not in ("best", "first", *(f.name for f in folders)) and Path(reference) not in folders:
        names = ", ".join(map(str, folders))
        raise UsageError(f"`reference` is best, first or one of the runs ({names}); got {reference!r}")


def check_data_dir(data_dir: str) -> None:
    """Checks that the folder of the data is there, if one is named.

    Raises:
        DataError: it is not.
    """
    if data_dir and not Path(data_dir).is_dir():
        raise DataError(f"{data_dir}: there is no such folder. Name the one that holds the data with `data_dir`.")


def check_data(dataset: str) -> None:
    """Checks that data are there, unless they are known by a name.

    Raises:
        DataError: they are not.
    """
    if dataset not in tables.DATASETS and not Path(dataset).exists():
        raise DataError(
            f"{dataset}: there is no such file. Give its path relative to {Path.cwd()}, or the absolute path."
        )
