"""Flags made from dataclasses of settings, and settings made from flags: what every command shares."""

import argparse
import re
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import Field, replace
from typing import Any, NoReturn, TypeVar

from jsonargparse import ActionYesNo, ArgumentParser, DefaultHelpFormatter, Namespace

from pyro_vae.cli import own_code
from pyro_vae.cli.command_ending import in_flags, printable
from pyro_vae.cli.config_file import ConfigFile
from pyro_vae.command_lines import COMMANDS, command_line
from pyro_vae.errors import UsageError, nearest
from pyro_vae.experiment import build, presets, tables
from pyro_vae.experiment.checked_fields import kind_of, settings_of, words_of
from pyro_vae.experiment.compare.comparison_settings import Evaluation
from pyro_vae.experiment.config import GROUPS, MOST_USED, Config
from pyro_vae.experiment.own_members import FAMILIES

Settings = TypeVar("Settings")
_WRONG_TYPE = re.compile(  # in the words of jsonargparse 4, or of 5
    r"Parser key \"(\w+)\".*Expected (?:an? <class '|type: )(int|str|bool)(?:'>)?\. Got value: (.*)", re.DOTALL
)
_LONGEST_MESSAGE = 800
_OWN = "a {} of your own that a run has, as file.py:Class or module:Class"
_AGAIN = "repeat the flag for several runs"
_KINDS = {"int": "whole numbers", "str": "text", "bool": "true or false"}
_MOST_USED, _OWN_MEMBERS, _REPORT, _MACHINE = "most used", "members of your own", "report", "machine"
_GROUPS = (_MOST_USED, "data", "model", _OWN_MEMBERS, "training", _REPORT, _MACHINE)  # as a help lists them


class _Help(DefaultHelpFormatter):
    """jsonargparse's help, without the types and without the defaults that say nothing."""

    def _get_help_string(self, action: argparse.Action) -> str:
        default = action.default
        if default is None or default is False or default in ("", [], argparse.SUPPRESS):
            return action.help or ""
        return f"{action.help} (default: %(default)s)"


class Parser(ArgumentParser):
    """jsonargparse's parser; an unknown flag is answered with the nearest one, and a preset moves the defaults."""

    def __init__(self, command: str, description: str, places: str = "") -> None:
        prog = command_line(command)
        usage = f"{prog}{places and f' {places}'} [--flag value ...]".replace("%", "%%")
        super().__init__(
            prog=prog,
            usage=usage,
            description=description,
            default_env=False,
            allow_abbrev=False,
            formatter_class=_Help,
        )
        self._groups = {title: self.add_argument_group(title) for title in _GROUPS}  # an empty one is not shown
        self._examples = [f"  {prog} {rest}".rstrip() for rest in COMMANDS[command].examples]

    def group(self, title: str) -> Any:
        """Returns a group of flags, one of `_GROUPS`."""
        return self._groups[title]

    def format_help(self, *of: Any) -> str:
        """As argparse does, behind some examples."""
        return "\n".join([*self._examples, "", super().format_help(*of)])

    # jsonargparse's has more arguments, which no command gives.
    def parse_args(self, args: Sequence[str] | None = None, *, defaults: bool = True) -> Namespace:  # type: ignore[override]
        """As argparse does; without defaults there is only what was given, which settings of a preset are not."""
        line = sys.argv[1:] if args is None else args
        return super().parse_args(line, self._of_preset(line) if defaults else None, defaults=defaults)

    def _of_preset(self, line: Sequence[str]) -> Namespace | None:
        # Flags and files that stand before its name change it too, so the name is asked for first.
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
            near = nearest(unknown[1], flags)
            message = f"unknown flag {unknown[1]}" + (f"; did you mean {near}?" if near else "")
        elif stray := re.search(r"unrecognized arguments: (\S+)", message, re.IGNORECASE):
            message = f"{stray[1]!r} is neither a flag nor the value of one"
        elif wrong := _WRONG_TYPE.search(message):
            message = f"--{wrong[1].replace('_', '-')} takes {_KINDS[wrong[2]]}; got {wrong[3]}"
        message = printable(" ".join(message.split()))
        print(f"error: {message[:_LONGEST_MESSAGE]} (--help lists all flags)", file=sys.stderr)
        sys.exit(UsageError.exit_code)


_PLACE = ("data_dir", "device", "threads")  # of a run that a command looks back at


def config_parser(command: str, description: str) -> Parser:
    """A parser with one flat flag for each field of `Config`, `--config FILE` and `--print_config`."""
    parser = Parser(command, description)
    parser.add_argument("--config", action=ConfigFile, help="YAML or JSON file of flag values; later flags override it")
    add_flags(parser, Config)
    return parser


def run_parser(command: str, description: str, *, many: bool = False, own: bool = False) -> Parser:
    """A parser for commands that look back at trained runs: their folders, where the data are, where to compute.

    Args:
        command: its name.
        description: what it does.
        many: whether it takes several runs.
        own: whether it takes members of the user's own, each flag perhaps several times.
    """
    parser = Parser(command, description, "RUN ..." if many else "RUN")
    if many:
        parser.add_argument("runs", nargs="+", type=str, help="folders of trained runs")
    else:
        parser.add_argument("run", type=str, help="folder of a trained run")
    add_flags(parser, Evaluation, _PLACE)
    if own:
        add_places(parser)
    return parser


def placed(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Where the data of a run are, and how it computes, as the flags of `run_parser` say it and `open_run` takes it."""
    return {name: arguments[name] for name in _PLACE}


def add_places(parser: Parser, families: Collection[str] = FAMILIES) -> None:
    """Flags for members of the user's own that runs have, each perhaps several times."""
    group = parser.group(_OWN_MEMBERS)
    for family in families:
        which = (
            "networks of your own that a run has, as nets.py:Encoder,Decoder"
            if family == "network"
            else _OWN.format(family)
        )
        group.add_argument(
            f"--{family}",
            type=str,
            action="append",
            default=[],
            help=f"{which}; {_AGAIN}",
        )


def add_flags(parser: Parser, settings: type, only: Collection[str] = ()) -> None:
    """One flat flag for each field of a dataclass made of `checked_fields.flag`, or for some of them, in groups."""
    title = _REPORT
    for field in settings_of(settings):
        title = GROUPS.get(field.name, title) if settings is Config else title
        if only and field.name not in only:
            continue
        is_most_used = settings is Config and not only and field.name in MOST_USED
        here = _MACHINE if field.metadata["scope"] == "place" else _MOST_USED if is_most_used else title
        _add_flag(parser.group(here), field)


def settings_from(arguments: Namespace, kind: type[Settings]) -> Settings:
    """A dataclass of settings, of those of its fields that have a flag; the others have their defaults."""
    named = [setting.name for setting in settings_of(kind) if setting.name in arguments]
    return kind(**{name: arguments[name] for name in named})


def config_from(
    arguments: Namespace, check: Callable[[Config], object] = build.check_names, argv: Sequence[str] | None = None
) -> Config:
    """The `Config` among parsed arguments, with every name checked, and with the user's own code that the line names.

    Args:
        arguments: what the line says.
        check: checks the names.
        argv: the line, where code of a user's own must stand; by default that of the process.
    """
    config = settings_from(arguments, Config)
    places = own_code.places(config, sys.argv[1:] if argv is None else argv)
    named: dict[str, Any] = {place.family: place.name for place in places}
    config = replace(config, **named)
    check(config)
    return replace(config, own=own_code.imported(places)) if places else config


def given_flags(parser: Parser, argv: Sequence[str] | None) -> set[str]:
    """The names of `Config` fields that were set on the command line or in a `--config` file, and by no preset."""
    given = parser.parse_args(argv, defaults=False)
    return {field.name for field in settings_of(Config) if field.name in given}


class _Float:
    """Like `float`, and unlike jsonargparse's reading of it, takes "inf" on the command line and in a config.json."""

    def __call__(self, value: Any) -> float:
        return float(value)

    def __repr__(self) -> str:
        return "float"


class _WordOrNumber:
    """Takes one of some words, or a whole number."""

    def __init__(self, words: Collection[str]) -> None:
        self.words = words

    def __call__(self, value: Any) -> str | int:
        return value if value in self.words else int(value)

    def __repr__(self) -> str:
        return " or ".join((*self.words, "int"))


def _add_flag(place: Any, field: Field[Any]) -> None:
    kind = kind_of(field)
    options: dict[str, Any] = {"default": field.default, "help": help_of(field)}
    if kind is bool:
        options["action"] = ActionYesNo(no_prefix="no-")
    else:
        words = words_of(field) if kind is int else ()
        options["type"] = _Float() if kind is float else _WordOrNumber(words) if words else kind
    if isinstance(field.default, tuple):
        options |= {"nargs": "+", "default": list(field.default)}
    place.add_argument("--" + field.name.replace("_", "-"), **options)


def help_of(field: Field[Any]) -> str:
    """The words that a flag takes, what it does, and the limits of its numbers."""
    words = getattr(tables, field.metadata["table"]) if field.metadata["table"] else words_of(field)
    words = (*words, "N") if words and kind_of(field) is int else words
    reason, limits = in_flags(field.metadata["help"]), str(field.metadata["limits"])
    return f"{', '.join(words)}: {reason}" if words else f"{reason} ({limits})" if limits else reason
