"""How commands are called: the one place that knows.

A library function that advises a command asks here for the line to type, and names its settings by their arguments. The
line begins as the user began this process, so that it works where he typed:

    pyro-vae evaluate runs/a                   the installed command, and from a notebook or another program
    python -m pyro_vae evaluate runs/a         the package
    python ../x/scripts/evaluate.py runs/a     a script of a checkout
"""

import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any, Literal, NamedTuple

_PACKAGE, _INSTALLED = __name__.partition(".")[0], "pyro-vae"


class Command(NamedTuple):
    """What is known of a command before it runs.

    Attributes:
        does: what it does, in a few words.
        script: its name in the folder scripts of a checkout; "" where it has none.
        examples: what may stand behind its name.
    """

    does: str
    script: str
    examples: tuple[str, ...]


COMMANDS = {
    "train": Command(
        "train a model and report how good it is",
        "train_svi.py",
        ("--out runs/digits", "--dataset data.npy --epochs 300 --out runs/a", "--out runs/a --resume"),
    ),
    "evaluate": Command(
        "measure a trained run, with a page of numbers and pictures",
        "evaluate.py",
        ("runs/a", "runs/a --test-data 1000 --num-samples 5000"),
    ),
    "score": Command(
        "compute log p(x) for each row of a file",
        "score.py",
        ("runs/a --data new.npy --out scores.csv", "runs/a --split test --out scores.npz --reconstructions"),
    ),
    "compare": Command(
        "compare trained runs on the same test data",
        "compare.py",
        ("runs/a runs/b", "runs/a-* runs/b-* --reference first --out runs/a-and-b"),
    ),
    "sample": Command(
        "draw samples, reconstructions and other pictures of a run",
        "sample.py",
        ("runs/a", "runs/a --between 3 5"),
    ),
    "sweep": Command(
        "train over grids of settings and several seeds",
        "sweep.py",
        (
            "--grid kl_weight=0.5,1,2 --grid prior=standard,vamp --seeds 3 --out runs/sweep",
            "--range lr=1e-4..1e-2 --search 30 --out runs/search",
        ),
    ),
    "refit": Command(
        "fit another prior to a trained run",
        "refit_prior.py",
        ("runs/a --prior vamp", "runs/a --prior mixture --num-components 50 --out runs/a-mixture-50"),
    ),
    "ablate": Command(
        "train with only reconstruction, only KL, and both",
        "loss_ablation.py",
        ("--out runs/ablation", "--out runs/ablation --resume"),
    ),
    "share": Command(
        "write a run as a folder for others, or send it to the hub",
        "share.py",
        ("runs/a --out shared/a --license apache-2.0", "runs/a --out shared/a --push user/name"),
    ),
    "selfcheck": Command(
        "check every estimator against known answers",
        "selfcheck.py",
        ("", "--json selfcheck.json"),
    ),
    "check": Command(
        "check a prior, posterior or likelihood of your own",
        "",
        ("student.py:StudentPrior --latent-dim 3",),
    ),
}
_SCRIPTS = {about.script: command for command, about in COMMANDS.items() if about.script}


def script(command: str) -> str:
    """The name of a command, for a sentence.

    >>> script("refit")
    'pyro-vae refit'
    """
    return command_line(command)


def command_line(command: str, *places: Any, processes: int = 1, everywhere: bool = False, **settings: Any) -> str:
    """The line that is typed to run a command.

    Args:
        command: its name.
        places: what it takes by place, such as the folder of a run.
        processes: above 1, torchrun starts this many.
        everywhere: whether the program must be found from every folder; else its path is as it was typed.
        settings: its flags, see `flags`.

    Example:
        >>> command_line("train", out="runs/a", resume=True)
        'pyro-vae train --out runs/a --resume'
        >>> command_line("train", processes=2)
        'torchrun --nproc-per-node 2 -m pyro_vae train'
    """
    begun = _begun(command, processes)
    begun = [_absolute(word) for word in begun] if everywhere else begun
    return shlex.join([*begun, *map(str, places), *flags(settings)])


def program() -> str:
    """What is typed before the name of a command. A script is one command, and there it is that of the installed one.

    >>> program()
    'pyro-vae'
    """
    return _INSTALLED if _started() == "script" else shlex.join(_begun("train")[:-1])


def typed(argv: Sequence[str], processes: int = 1) -> str:
    """The line that repeats this process, however it was started.

    Args:
        argv: as `sys.argv`.
        processes: above 1, torchrun started this many.

    Example:
        >>> typed(["mine.py", "a b"])
        "python mine.py 'a b'"
    """
    how = _started()
    if not how:
        return shlex.join(["python", *argv])
    command, rest = (_SCRIPTS[PurePath(argv[0]).name], argv[1:]) if how == "script" else (argv[1], argv[2:])
    return shlex.join([*_begun(command, processes), *rest])


def for_others(line: str) -> list[str]:
    """A recorded line as one types it elsewhere, where the package is installed: its words, those of its folders kept.

    >>> for_others("/opt/bin/python x/scripts/train_svi.py --lr 1e-3"), for_others("python mine.py")
    (['pyro-vae', 'train', '--lr', '1e-3'], ['python', 'mine.py'])
    >>> " ".join(for_others("torchrun --nproc-per-node 2 x/scripts/train_svi.py --lr 1e-3"))
    'torchrun --nproc-per-node 2 -m pyro_vae train --lr 1e-3'
    """
    words = shlex.split(line)
    for place, word in enumerate(words[:5]):  # torchrun has flags of its own
        path = PurePath(word)
        if path.name in _SCRIPTS and path.parent.name == "scripts":
            several = ["torchrun", *words[1:place], "-m", _PACKAGE]
            begun = several if PurePath(words[0]).name == "torchrun" else [_INSTALLED]
            return [*begun, _SCRIPTS[path.name], *words[place + 1 :]]
    return [_INSTALLED, *words[3:]] if words[1:3] == ["-m", _PACKAGE] else words


def module(command: str) -> list[str]:
    """What starts a command wherever the package is installed, as arguments of Python.

    >>> module("train")
    ['-P', '-m', 'pyro_vae', 'train']
    """
    return ["-P", "-m", _PACKAGE, command]  # -P: no file of the folder where it starts is a module


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


def _started() -> Literal["installed", "package", "script", ""]:
    """How the user started this process; "" where it is a notebook, a test or a program of his own."""
    main, name = sys.modules["__main__"], PurePath(sys.argv[0])
    if (spec := getattr(main, "__spec__", None)) and spec.name.startswith(f"{_PACKAGE}."):
        return "package"
    if not getattr(getattr(main, "main", None), "__module__", "").startswith(f"{_PACKAGE}.cli."):
        return ""
    return "script" if name.name in _SCRIPTS else "installed" if name.stem == _INSTALLED else ""


def _begun(command: str, processes: int = 1) -> list[str]:
    """The words that start a command as this process was started."""
    how = _started()
    python = [_short(sys.orig_argv[0])] if processes == 1 else ["torchrun", "--nproc-per-node", str(processes)]
    if how == "script" and COMMANDS[command].script:
        return [*python, str(PurePath(sys.argv[0]).with_name(COMMANDS[command].script))]
    if how == "package" or processes > 1:
        return [*python, "-m", _PACKAGE, command]
    return [_short(sys.argv[0]) if how == "installed" else _INSTALLED, command]


def _absolute(word: str) -> str:
    """The path of a program or a script; another word, or a program that the shell finds, stays."""
    path = Path(word)
    return str(path.absolute()) if path.name != word or path.suffix == ".py" else word


def _short(word: str) -> str:
    """The bare name of a program that the shell finds."""
    name = PurePath(word).name
    return name if shutil.which(name) == word else word
