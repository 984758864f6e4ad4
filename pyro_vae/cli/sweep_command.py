"""Sweep over settings: the flags that say which, each value read by the flag that it is of."""

import math
import re
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from pyro_vae.cli import own_code
from pyro_vae.cli.command_ending import exit_codes, kept
from pyro_vae.cli.parser import Parser, config_from, config_parser, given_flags
from pyro_vae.command_lines import flags, module, script
from pyro_vae.errors import UsageError, unknown
from pyro_vae.experiment.checked_fields import kind_of, settings_of
from pyro_vae.experiment.config import Config
from pyro_vae.experiment.own_members import FAMILIES, is_place
from pyro_vae.experiment.run import files, places
from pyro_vae.experiment.sweep.swept_settings import Range, Space, check_swept

_FIELDS = {field.name: field for field in settings_of(Config)}
_NOT_SWEPT = {
    "seed": "--seeds N trains every setting from seeds 0 to N - 1",
    **dict.fromkeys(("dataset", "data_seed", "valid_data"), "numbers on other data do not compare"),
    **dict.fromkeys(Config.within("place"), "it says where to compute, not what"),
    **dict.fromkeys(Config.within("report"), "it changes the test report and no training"),
    "valid_samples": "all runs must be judged by equally many draws",
}
_EXAMPLES = {"--grid": "--grid kl_weight=0.5,1,2", "--range": "--range lr=1e-4..1e-2"}
_ARGUMENTS = {f"{family}_args" for family in FAMILIES}
_JSON_COMMA = re.compile(r"(?<=}),")  # between two objects
_BOOLS = {"yes": True, "true": True, "no": False, "false": False}


def main(argv: list[str] | None = None) -> None:
    """Trains every setting that the command line names, and writes and prints what came out."""
    parser = config_parser(
        "sweep",
        "Train every setting of some grids from several seeds, choose the best by its ELBO on validation data, and "
        f"test only that one. The other flags are those of {script('train')} and apply to all runs. To continue an "
        "interrupted sweep, repeat the command.",
    )
    listed: dict[str, Any] = {"action": "append", "type": str, "default": []}
    parser.add_argument(
        "--grid", **listed, help="values to try, as flag=value,value,...; several grids are fully crossed"
    )
    parser.add_argument(
        "--seeds", type=int, default=1, help="train each setting from seeds 0 to N - 1; 1 shows no spread"
    )
    parser.add_argument(
        "--jobs",
        type=int,
        default=0,
        help="number of parallel processes, 0 for one per core; they share the cores, unless OMP_NUM_THREADS sets "
        "the threads of each",
    )
    parser.add_argument(
        "--search", type=int, default=0, help="number of settings that Optuna chooses; 0 tries all of them"
    )
    parser.add_argument("--range", **listed, help="numbers that --search chooses from, as flag=low..high")
    parser.add_argument(
        "--list",
        action="store_true",
        help="train nothing, and print a command for each run, one per line, for xargs, GNU parallel, a SLURM array or "
        "Ray; afterwards the same command without --list ranks the runs",
    )
    parser.add_argument("--out", type=str, default="", help="folder of all runs, the table and the pictures (required)")
    arguments = parser.parse_args(argv)
    command = sys.argv[1:] if argv is None else argv
    with exit_codes(kept("the same command"), vars(arguments)):
        if not arguments.list:
            _sweep(parser, command, arguments)
            return
        with redirect_stdout(sys.stderr):  # whatever a library or a member of the user's own says
            lines = _sweep(parser, command, arguments)
        print("\n".join(lines))


def _sweep(parser: Parser, command: Sequence[str], arguments: Namespace) -> list[str]:
    """Makes the sweep, or lists its runs and makes none."""
    if not arguments.out:
        raise UsageError("a sweep needs a folder: add --out, e.g. --out runs/sweep")
    if arguments.list and arguments.search:
        raise UsageError(
            "--list goes with no --search, in which the results of runs choose the next ones: search without --list, "
            "or list a --grid"
        )
    wanted = space(parser, command, arguments.grid, arguments.range, arguments.search, arguments.seeds)
    if not arguments.search:
        wanted.settings()  # so that a wrong one is answered at once
    places.check_data(arguments.dataset)
    files.check_folder(Path(arguments.out))

    from pyro_vae.experiment.sweep import sweeping  # here, since --help needs no torch

    if arguments.list:
        return sweeping.lines(Path(arguments.out), wanted)
    sweeping.sweep(Path(arguments.out), wanted, module("train"), arguments.jobs)
    return []


def space(
    parser: Parser, command: Sequence[str], grids: Sequence[str], ranges: Sequence[str], search: int, seeds: int
) -> Space:
    """What `--grid`, `--range`, `--search` and `--seeds` say.

    Args:
        parser: of the command, with the flags of `Config`.
        command: its arguments.
        grids: each "flag=value,value,..."; a list of widths has spaces between them.
        ranges: each "flag=low..high".
        search: how many settings are tried, 0 where there is no search.
        seeds: how many for each setting.

    Raises:
        UsageError: an unknown flag, one that cannot be swept, or that is named twice; numbers out of range.
    """
    if seeds < 1 or search < 0:
        raise UsageError(f"--seeds must be 1 or more, --search 0 or more; got {seeds} and {search}")
    if ranges and not search:
        raise UsageError("a --range is searched: add --search N, the number of trials, or give a --grid instead")
    if search and not (grids or ranges):
        raise UsageError("--search has nothing to choose: add a --range flag=low..high, or a --grid")
    given = given_flags(parser, command)
    if "seed" in given:
        raise UsageError(f"--seed is what distinguishes the runs of a setting: {_NOT_SWEPT['seed']}")
    crossed = _named("--grid", grids, given)
    _check_typed(grids, command)
    between = _named("--range", ranges, given | crossed.keys())
    lists = {name: _values(name, text) for name, text in crossed.items()}
    ends = {name: _range(name, text) for name, text in between.items()}
    return Space(_reader(parser, command), lists, ends, search, seeds)


def _reader(parser: Parser, command: Sequence[str]) -> Callable[[Mapping[str, str]], Config]:
    """Reads values of flags beyond those of a command; the parser refuses a value that its flag does not take."""

    def read(texts: Mapping[str, str]) -> Config:
        typed = {name: _typed(name, text) for name, text in texts.items()}
        line = [*command, *flags(typed)]
        return config_from(parser.parse_args(line), check_swept, line)

    return read


def _named(flag: str, texts: Sequence[str], taken: Collection[str]) -> dict[str, str]:
    """The name before each "=", of a flag that is not taken, and what stands behind it."""
    named: dict[str, str] = {}
    for text in texts:
        name, equals, values = text.partition("=")
        name = name.strip().lstrip("-").replace("-", "_")
        if not equals or not values:
            raise UsageError(f"{flag} is flag=values, e.g. {_EXAMPLES[flag]}; got {text!r}")
        if name not in _FIELDS:
            raise unknown("flag", name, _FIELDS)
        if name in _NOT_SWEPT:
            raise UsageError(f"{flag} {name}: it cannot be swept; {_NOT_SWEPT[name]}")
        if name in taken or name in named:
            raise UsageError(f"{name} is given twice, as a flag or in a --grid or --range: leave one out")
        named[name] = values
    return named


def _check_typed(grids: Sequence[str], command: Sequence[str]) -> None:
    """Refuses code of a user's own in a grid that a file holds."""
    here = own_code.typed("grid", command)
    for text in grids:
        name, _, values = text.partition("=")
        if name.strip().lstrip("-") in FAMILIES and is_place(values) and text not in here:
            raise UsageError(
                f"the grid {text!r} in a file names code, and you must name code yourself to run it. Type it, "
                f"--grid {text}"
            )


def _values(name: str, text: str) -> list[str]:
    pieces = _JSON_COMMA.split(text) if name in _ARGUMENTS else text.split(",")
    values = [" ".join(value.split()) for value in pieces]
    if name == "network":
        values = _pairs(values)
    if not all(values):
        raise UsageError(f"--grid {name}={text} has an empty value: leave the comma out")
    return values


def _pairs(pieces: Sequence[str]) -> list[str]:
    """Puts the two classes of each place of networks together again: a decoder follows its encoder."""
    values: list[str] = []
    for piece in pieces:
        if values and is_place(values[-1]) and "," not in values[-1] and not is_place(piece):
            values[-1] = f"{values[-1]},{piece}"
        else:
            values.append(piece)
    return values


def _range(name: str, text: str) -> Range:
    kind = _FIELDS[name].type
    if kind not in (int, float):
        raise UsageError(f"--range {name}: its values are not numbers. Use --grid {name}=...")
    low, _, high = text.partition("..")
    try:
        between = Range(kind(low), kind(high))
    except ValueError as error:
        numbers = "whole numbers" if kind is int else "numbers"
        raise UsageError(f"--range {name} takes two {numbers}, low..high; got {text!r}") from error
    if not -math.inf < between.low < between.high < math.inf:
        raise UsageError(f"--range {name}: low must be below high, and both finite; got {text!r}")
    return between


def _typed(name: str, text: str) -> Any:
    """A text as its flag takes it: yes or no, or several numbers."""
    if kind_of(_FIELDS[name]) is bool:
        if text.lower() not in _BOOLS:
            raise UsageError(f"--{name.replace('_', '-')} takes yes or no; got {text!r}")
        return _BOOLS[text.lower()]
    return text.split() if isinstance(_FIELDS[name].default, tuple) else text
