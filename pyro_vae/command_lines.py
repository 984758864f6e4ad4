"""How commands are called: the one place that knows.

A library function that advises a command asks here for the line to type, and names its settings by their arguments.
"""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

_SCRIPTS = {
    "train": "train_svi.py",
    "evaluate": "evaluate.py",
    "score": "score.py",
    "compare": "compare.py",
    "sample": "sample.py",
    "sweep": "sweep.py",
    "refit": "refit_prior.py",
    "ablate": "loss_ablation.py",
    "share": "share.py",
    "selfcheck": "selfcheck.py",
}


def script(command: str) -> str:
    """The name of a command, for a sentence.

    >>> script("refit")
    'refit_prior.py'
    """
    return _SCRIPTS[command]


def command_line(command: str, *places: Any, processes: int = 1, **settings: Any) -> str:
    """The line that is typed to run a command.

    Args:
        command: its name.
        places: what it takes by place, such as the folder of a run.
        processes: above 1, torchrun starts so many.
        settings: its flags, see `flags`.

    Example:
        >>> command_line("train", out="runs/a", resume=True)
        'python scripts/train_svi.py --out runs/a --resume'
        >>> command_line("train", processes=2)
        'torchrun --nproc-per-node 2 scripts/train_svi.py'
    """
    start = ["python"] if processes == 1 else ["torchrun", "--nproc-per-node", str(processes)]
    return shlex.join([*start, f"scripts/{_SCRIPTS[command]}", *map(str, places), *flags(settings)])


def typed(argv: Sequence[str]) -> str:
    """The line that repeats a process, by its name and its arguments, however the command was started.

    >>> typed(["lib/pyro_vae/cli/train_command.py", "--prior", "vamp"]), typed(["mine.py", "a b"])
    ('python scripts/train_svi.py --prior vamp', "python mine.py 'a b'")
    """
    started = {f"{command}_command.py": f"scripts/{name}" for command, name in _SCRIPTS.items()}
    return shlex.join(["python", started.get(PurePath(argv[0]).name, argv[0]), *argv[1:]])


def module(command: str) -> list[str]:
    """What starts a command wherever the package is installed, as arguments of Python.

    >>> module("train")
    ['-P', '-m', 'pyro_vae.cli.train_command']
    """
    return ["-P", "-m", f"pyro_vae.cli.{command}_command"]  # -P: no file of the folder where it starts is a module


def flags(settings: Mapping[str, Any]) -> list[str]:
    """Settings as flags.

    >>> flags({"kl_weight": 0.5, "hidden": (300, 300), "dequantize": True, "test": False})
    ['--kl-weight', '0.5', '--hidden', '300', '300', '--dequantize', '--no-test']
    """
    return [word for name, value in settings.items() for word in _flag(name.replace("_", "-"), value)]


def _flag(name: str, value: Any) -> list[str]:
    if isinstance(value, bool):
        return [f"--{name}" if value else f"--no-{name}"]
    if isinstance(value, list | tuple):
        return [f"--{name}", *map(str, value)]
    text = str(value)
    return [f"--{name}={text}"] if text.startswith("-") else [f"--{name}", text]
