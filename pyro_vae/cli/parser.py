"""Flags made from `Config`, and exit codes made from errors: what every script shares."""

import difflib
import os
import re
import signal
import sys
from argparse import SUPPRESS
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, Field, fields
from types import FrameType
from typing import Any, NoReturn

from jsonargparse import ActionYesNo, ArgumentParser, Namespace

from pyro_vae import system
from pyro_vae.cli.config_file import ConfigFile
from pyro_vae.errors import PyroVAEError, StorageError, UsageError
from pyro_vae.experiment import build, presets
from pyro_vae.experiment.config import Config

RESUMABLE = "what was reached is kept; --out FOLDER --resume goes on"
_WRONG_TYPE = re.compile(  # in the words of jsonargparse 4, or of 5
    r"Parser key \"(\w+)\".*Expected (?:an? <class '|type: )(int|str|bool)(?:'>)?\. Got value: (.*)", re.DOTALL
)
_LONGEST_MESSAGE = 800
_KINDS = {"int": "whole numbers", "str": "text", "bool": "true or false"}


class Parser(ArgumentParser):
    """jsonargparse's parser; an unknown flag is answered with the nearest one, and a preset moves the defaults."""

    def parse_args(self, args: Sequence[str] | None = None, *, defaults: bool = True) -> Namespace:  # type: ignore[override]
        """As argparse does; without defaults there is only what was given, which settings of a preset are not."""
        line = sys.argv[1:] if args is None else args
        return super().parse_args(line, self._of_preset(line) if defaults else None, defaults=defaults)

    def _of_preset(self, line: Sequence[str]) -> Namespace | None:
        # Flags and files that stand before its name change it as well, so that the name is asked for first.
        given = super().parse_args([word for word in line if not word.startswith("--print_config")], defaults=False)
        if not isinstance(name := given.get("preset"), str) or not name:
            return None
        if sum(word.partition("=")[0] == "--preset" for word in line) > 1:
            self.error("--preset is given twice: leave one out")
        try:
            return Namespace(presets.preset(name).settings)
        except UsageError as error:
            self.error(str(error))

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Exits with code 2 and one sentence."""
        if unknown := re.search(r"unrecognized arguments: (--[^\s=]+)", message, re.IGNORECASE):
            flags = [flag for action in self._actions for flag in action.option_strings]
            near = difflib.get_close_matches(unknown[1], flags, n=1, cutoff=0.0)[0]
            message = f"unknown flag {unknown[1]}; did you mean {near}?"
        elif wrong := _WRONG_TYPE.search(message):
            message = f"--{wrong[1].replace('_', '-')} takes {_KINDS[wrong[2]]}; got {wrong[3]}"
        message = _printable(" ".join(message.split()))
        print(f"error: {message[:_LONGEST_MESSAGE]} (--help lists all flags)", file=sys.stderr)
        sys.exit(UsageError.exit_code)


def config_parser(description: str) -> ArgumentParser:
    """A parser with one flat flag for each field of `Config`, `--config FILE` and `--print_config`."""
    parser = Parser(
        description=description,
        usage="%(prog)s [--flag value ...]   (--help lists all flags)",
        default_env=False,
        allow_abbrev=False,
    )
    parser.add_argument("--config", action=ConfigFile, help="YAML or JSON file of flag values; later flags override it")
    add_flags(parser, Config)
    return parser


def add_flags(parser: ArgumentParser, settings: type, only: Collection[str] = ()) -> None:
    """One flat flag for each field of a dataclass made of `config.flag`, or for some of them."""
    for field in fields(settings):
        if not only or field.name in only:
            _add_flag(parser, field)


def run_parser(description: str, *, many: bool = False) -> ArgumentParser:
    """A parser for scripts that look back at trained runs: their folders, where the data are, where to compute."""
    parser = Parser(description=description, default_env=False, allow_abbrev=False)
    if many:
        parser.add_argument("runs", nargs="+", type=str, help="folders of trained runs")
    else:
        parser.add_argument("run", type=str, help="folder of a trained run")
    parser.add_argument("--data-dir", type=str, default="", help="where the data are, if not where training found them")
    parser.add_argument("--device", type=str, default="cpu", help="cpu, cuda, ...; not where it was trained")
    return parser


def config_from(arguments: Namespace) -> Config:
    """The `Config` among parsed arguments, with every name checked."""
    config = Config(**{field.name: arguments[field.name] for field in fields(Config)})
    build.check_names(config)
    return config


def given_flags(parser: ArgumentParser, argv: Sequence[str] | None) -> set[str]:
    """The names of `Config` fields that were set on the command line or in a `--config` file, and by no preset."""
    given = parser.parse_args(argv, defaults=False)
    return {field.name for field in fields(Config) if field.name in given}


def _printable(message: str) -> str:
    """Without characters that steer a terminal; names of files and what lies in them may hold any."""
    return "".join(sign if sign.isprintable() or sign == "\n" else " " for sign in message)


@contextmanager
def exit_codes(kept: str = "") -> Iterator[None]:
    """Turns errors of this package into one sentence and their exit code, and signals into 128 + their number.

    Args:
        kept: what an interrupted script leaves, and how to go on.
    """

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    previous = {number: signal.signal(number, interrupt) for number in system.STOPPING}
    try:
        yield
    except SystemExit as end:
        if end.code in (130, 143):
            print(f"interrupted{kept and f': {kept}'}", file=sys.stderr)
        raise
    except BrokenPipeError:  # whoever read the output, e.g. head, has gone
        print(f"interrupted: nobody reads the output{kept and f': {kept}'}", file=sys.stderr)
        _drop_output()
        sys.exit(system.BROKEN_PIPE)
    except PyroVAEError as error:
        print(f"error: {_printable(str(error))}", file=sys.stderr)
        sys.exit(error.exit_code)
    except OSError as error:  # such as output that goes to a full disk
        print(f"error: {_printable(str(error))}", file=sys.stderr)
        _drop_output()
        sys.exit(StorageError.exit_code)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _drop_output() -> None:
    # What Python still holds back would be written at its end, and fail once more.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class _Float:
    """Like `float`, and unlike jsonargparse's reading of it, takes "inf" on the command line and in a config.json."""

    def __call__(self, value: Any) -> float:
        return float(value)

    def __repr__(self) -> str:
        return "float"


def _add_flag(parser: ArgumentParser, field: Field[Any]) -> None:
    flag = "--" + field.name.replace("_", "-")
    default = field.default if field.default is not MISSING else SUPPRESS
    table, reason = field.metadata["table"], field.metadata["help"]
    if field.type is bool:
        parser.add_argument(flag, action=ActionYesNo(no_prefix="no-"), default=default, help=reason)
    elif isinstance(default, tuple):
        parser.add_argument(flag, nargs="+", type=int, default=list(default), help=reason)
    elif table:
        names = ", ".join(getattr(build, table))
        parser.add_argument(flag, type=str, default=default, help=f"{names}: {reason}")
    else:
        kind = _Float() if field.type is float else field.type
        parser.add_argument(flag, type=kind, default=default, help=reason)
