"""The settings of a sweep: grids and ranges of flags over a common command, read by the parser of the flags.

No torch is needed here, so that a wrong name or value is answered at once.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

from jsonargparse import ArgumentParser

from pyro_vae.cli.parser import config_from, given_flags
from pyro_vae.errors import UsageError, unknown
from pyro_vae.experiment import presets
from pyro_vae.experiment.config import Config

_FIELDS = {field.name: field for field in fields(Config)}
_MOST_RUNS = 10_000
_NOT_SWEPT = {
    "seed": "--seeds N trains every setting from seeds 0 to N - 1",
    **dict.fromkeys(("dataset", "data_seed"), "numbers on other data do not compare"),
    **dict.fromkeys(Config.within("place"), "it says where to compute, not what"),
    **dict.fromkeys(Config.within("report"), "it changes the test report and no training"),
    "valid_samples": "all runs are to be judged by equally many draws",
}


class Setting(NamedTuple):
    """One value of each flag that is swept, and the config that has them; its seed is that of the run."""

    name: str
    values: dict[str, Any]
    config: Config


class Range(NamedTuple):
    """Numbers from low to high, both included; whole ones where both are."""

    low: float
    high: float

    @property
    def is_logarithmic(self) -> bool:
        """Whether it spans a decade or more.

        >>> Range(1e-4, 1e-2).is_logarithmic, Range(0, 10).is_logarithmic
        (True, False)
        """
        return spans_decades([self.low, self.high])


@dataclass(frozen=True, eq=False)
class Space:
    """All settings of a sweep.

    Attributes:
        parser: of the command.
        command: its arguments.
        grids: flag -> its values as they were typed.
        ranges: flag -> between what a search may choose.
        trials: of the search; 0 is none.
        seeds: each setting is trained from seeds 0 to seeds - 1.
    """

    parser: ArgumentParser
    command: Sequence[str]
    grids: Mapping[str, Sequence[str]]
    ranges: Mapping[str, Range]
    trials: int
    seeds: int

    def settings(self) -> list[Setting]:
        """The product of the grids, the last one fastest."""
        found = [self.setting(dict(zip(self.grids, texts, strict=True))) for texts in self._product()]
        names = [setting.name for setting in found]
        if twice := [name for i, name in enumerate(names) if name in names[:i]]:
            raise UsageError(f"{twice[0]} is in the grids twice: leave one out")
        return found

    def setting(self, texts: Mapping[str, str]) -> Setting:
        """The setting with these values, as they are typed.

        Raises:
            UsageError: one that does not go with the others; the parser answers one that is no value of its flag.
        """
        flags = [word for name, text in texts.items() for word in _flag(name, text)]
        arguments = self.parser.parse_args([*self.command, *flags])
        try:
            config = replace(config_from(arguments), seed=0)
        except UsageError as error:
            typed = " ".join(f"{name}={text}" for name, text in texts.items())
            raise UsageError(f"{typed}: {error}" if texts else str(error)) from error
        values = {name: getattr(config, name) for name in texts}
        return Setting(label(values), values, config)

    def choices(self) -> list[Setting]:
        """Where a search is made, one setting for each value of each grid and each end of each range."""
        ends = {name: [f"{end!r}" for end in found] for name, found in self.ranges.items()}
        first = {name: texts[0] for name, texts in {**self.grids, **ends}.items()}
        return [self.setting({**first, name: text}) for name, texts in {**self.grids, **ends}.items() for text in texts]

    def plan(self) -> dict[str, Any]:
        """What makes it this sweep and no other, for JSON."""
        first = (self.choices() if self.trials else self.settings())[0].config.scientific()
        base = {name: value for name, value in first.items() if name not in {*self.grids, *self.ranges, "seed"}}
        found = {name: list(texts) for name, texts in self.grids.items()}
        ranges = {name: list(between) for name, between in self.ranges.items()}
        return {"base": base, "grids": found, "ranges": ranges, "search": self.trials, "seeds": self.seeds}

    def _product(self) -> list[tuple[str, ...]]:
        if (size := math.prod(map(len, self.grids.values())) * self.seeds) > _MOST_RUNS:
            raise UsageError(
                f"that would be {size:,} runs; at most {_MOST_RUNS:,} make sense. --search tries some of them"
            )
        return list(itertools.product(*self.grids.values()))


def space(
    parser: ArgumentParser, command: Sequence[str], grids: Sequence[str], ranges: Sequence[str], trials: int, seeds: int
) -> Space:
    """What `--grid`, `--range`, `--search` and `--seeds` say.

    Args:
        parser: of the command, with the flags of `Config`.
        command: its arguments.
        grids: each "flag=value,value,..."; a list of widths has spaces between them.
        ranges: each "flag=low..high".
        trials: of the search, 0 where there is none.
        seeds: how many for each setting.

    Raises:
        UsageError: an unknown flag, one that can not be swept, or that is named twice; numbers out of range.
    """
    if seeds < 1 or trials < 0:
        raise UsageError(f"--seeds must be 1 or more, --search 0 or more; got {seeds} and {trials}")
    if ranges and not trials:
        raise UsageError("a --range is searched: add --search N, the number of trials, or give a --grid instead")
    if trials and not (grids or ranges):
        raise UsageError("--search has nothing to choose: add a --range flag=low..high, or a --grid")
    given = given_flags(parser, command)
    named = set(given)
    if "seed" in given:
        raise UsageError(f"--seed is what the runs of a setting differ in: {_NOT_SWEPT['seed']}")
    found = [_named("--grid", text, named) for text in grids]
    between = [_named("--range", text, named) for text in ranges]
    lists = {name: _values(name, text) for name, text in found}
    return Space(parser, command, lists, {n: _range(n, t) for n, t in between}, trials, seeds)


def to_flags(config: Config) -> list[str]:
    """The flags that make this config: what is not so by default, or by its preset.

    >>> to_flags(Config(hidden=(300, 300), prior="vamp", dequantize=True))
    ['--dequantize', '--prior=vamp', '--hidden', '300', '300']
    """
    of_preset = presets.preset(config.preset).settings if config.preset else {}
    else_so = replace(Config(), **of_preset)
    changed = {name: getattr(config, name) for name in _FIELDS if getattr(config, name) != getattr(else_so, name)}
    return [word for name, value in changed.items() for word in _flag(name, _typed(value))]


def label(values: Mapping[str, Any]) -> str:
    """A name of a setting that is also that of a folder.

    >>> label({"lr": 1e-4, "hidden": (300, 300), "dequantize": False})
    'lr=0.0001,hidden=300-300,dequantize=no'
    """
    return ",".join(f"{name}={shown(value)}" for name, value in values.items()) or "as-given"


def shown(value: Any) -> str:
    """A value in a name or a table: short, and another one for another value.

    >>> shown(1000.0), shown(0.1 + 0.2)
    ('1000', '0.30000000000000004')
    """
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    return _typed(value).replace(" ", "-")


def spans_decades(values: Sequence[float]) -> bool:
    """Whether values are told apart better on a logarithmic axis."""
    return min(values) > 0 and max(values) >= 10 * min(values)


def _named(flag: str, text: str, named: set[str]) -> tuple[str, str]:
    """The name before the "=" and what stands behind it; the name joins those that were named."""
    name, equals, values = text.partition("=")
    name = name.strip().lstrip("-").replace("-", "_")
    if not equals or not values:
        raise UsageError(f"{flag} is flag=values, e.g. {_EXAMPLES[flag]}; got {text!r}")
    if name not in _FIELDS:
        raise unknown("flag", name, _FIELDS)
    if name in _NOT_SWEPT:
        raise UsageError(f"{flag} {name}: it can not be swept; {_NOT_SWEPT[name]}")
    if name in named:
        raise UsageError(f"{name} is given twice, as a flag or in a --grid or --range: leave one out")
    named.add(name)
    return name, values


_EXAMPLES = {"--grid": "--grid kl_weight=0.5,1,2", "--range": "--range lr=1e-4..1e-2"}


def _values(name: str, text: str) -> list[str]:
    values = [" ".join(value.split()) for value in text.split(",")]
    if not all(values):
        raise UsageError(f"--grid {name}={text} has an empty value: leave the comma out")
    return values


def _range(name: str, text: str) -> Range:
    kind = _FIELDS[name].type
    if kind not in (int, float):
        raise UsageError(f"--range {name}: its values are no numbers. Use --grid {name}=...")
    low, _, high = text.partition("..")
    try:
        found = Range(kind(low), kind(high))
    except ValueError as error:
        numbers = "whole numbers" if kind is int else "numbers"
        raise UsageError(f"--range {name} takes two {numbers}, low..high; got {text!r}") from error
    if not -math.inf < found.low < found.high < math.inf:
        raise UsageError(f"--range {name}: low must be below high, and both finite; got {text!r}")
    return found


def _flag(name: str, text: str) -> list[str]:
    flag = name.replace("_", "-")
    kind = _FIELDS[name].type
    if kind is bool:
        if text.lower() not in _BOOLS:
            raise UsageError(f"--{flag} takes yes or no; got {text!r}")
        return [f"--{flag}" if _BOOLS[text.lower()] else f"--no-{flag}"]
    return [f"--{flag}", *text.split()] if isinstance(_FIELDS[name].default, tuple) else [f"--{flag}={text}"]


_BOOLS = {"yes": True, "true": True, "no": False, "false": False}


def _typed(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
