"""The settings of a sweep: values of some fields of `Config`, crossed or between two ends, over what they share.

No torch is needed here, so a wrong name or value is reported at once.
"""

import itertools
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from pyro_vae.errors import UsageError
from pyro_vae.experiment import build
from pyro_vae.experiment.config import Config
from pyro_vae.experiment.own_members import FAMILIES, is_place, short_name, without_folder

_MOST_RUNS = 10_000


class Setting(NamedTuple):
    """One value of each field that is swept.

    Attributes:
        name: the beginning of the names of its runs' folders.
        values: field -> its value.
        config: the config that has them; each run has its own seed.
    """

    name: str
    values: dict[str, Any]
    config: Config


class Range(NamedTuple):
    """Numbers from low to high, both included; whole numbers where both ends are."""

    low: float
    high: float

    @property
    def is_logarithmic(self) -> bool:
        """True where the range spans a decade or more.

        Example:
            >>> Range(1e-4, 1e-2).is_logarithmic, Range(0, 10).is_logarithmic
            (True, False)
        """
        return self.low > 0 and self.high >= 10 * self.low


@dataclass(frozen=True, eq=False)
class Space:
    """All settings of a sweep.

    Attributes:
        read: makes the config of some values as they were typed, by the names of their fields.
        grids: name of a field -> its values as they were typed.
        ranges: name of a field -> the two ends between which a search may choose.
        search: how many settings a search tries; 0 means no search.
        seeds: how many seeds each setting is trained from: 0, 1, ..., seeds - 1.
    """

    read: Callable[[Mapping[str, str]], Config]
    grids: Mapping[str, Sequence[str]]
    ranges: Mapping[str, Range]
    search: int
    seeds: int

    def settings(self) -> list[Setting]:
        """Lists the product of the grids, the last one fastest.

        Raises:
            UsageError: there are too many, two are the same, or one cannot be made.
        """
        crossed = [self.setting(dict(zip(self.grids, texts, strict=True))) for texts in self._product()]
        names = [setting.name for setting in crossed]
        if twice := [name for i, name in enumerate(names) if name in names[:i]]:
            typed = {name: len({*texts}) == len(texts) for name, texts in self.grids.items() if name in FAMILIES}
            cure = "or give one of two files of the same name another" if any(typed.values()) else ""
            raise UsageError(f"{twice[0]} is in the grids twice: leave one out{cure and f', {cure}'}")
        return crossed

    def setting(self, texts: Mapping[str, str]) -> Setting:
        """Makes the setting with these values, as they are typed.

        Raises:
            UsageError: one does not go with the others, or is not a value of its field.
        """
        try:
            config = replace(self.read(texts), seed=0)
        except UsageError as error:
            typed = " ".join(f"{name}={text}" for name, text in texts.items())
            raise UsageError(f"{typed}: {error}" if texts else str(error)) from error
        values = {name: getattr(config, name) for name in texts}
        return Setting(label({name: self._named(name, value) for name, value in values.items()}), values, config)

    def _named(self, name: str, value: Any) -> Any:
        """A member of the user's own by its class, or by its file too where another one has the same."""
        if name not in FAMILIES or not is_place(value):
            return value
        places = {without_folder(text) for text in self.grids[name]}
        alike = [place for place in places if short_name(place) == short_name(value)]
        return (short_name(value) if len(alike) < 2 else value).replace(",", "-").replace(":", ".")

    def choices(self) -> list[Setting]:
        """Lists what a search chooses from: one setting for each value of each grid and each end of each range."""
        texts = {**self.grids, **{name: [f"{end!r}" for end in between] for name, between in self.ranges.items()}}
        first = {name: values[0] for name, values in texts.items()}
        return [self.setting({**first, name: text}) for name, values in texts.items() for text in values]

    def plan(self) -> dict[str, Any]:
        """Returns what makes it this sweep and no other, as plain values for JSON."""
        first = (self.choices() if self.search else self.settings())[0].config.scientific()
        base = {name: value for name, value in first.items() if name not in {*self.grids, *self.ranges, "seed"}}
        grids = {name: [_planned(name, text) for text in texts] for name, texts in self.grids.items()}
        ranges = {name: list(between) for name, between in self.ranges.items()}
        return {"base": base, "grids": grids, "ranges": ranges, "search": self.search, "seeds": self.seeds}

    def _product(self) -> list[tuple[str, ...]]:
        if (size := math.prod(map(len, self.grids.values())) * self.seeds) > _MOST_RUNS:
            raise UsageError(
                f"that would be {size:,} runs, and the most is {_MOST_RUNS:,}. Use `search` to try some of them"
            )
        return list(itertools.product(*self.grids.values()))


def _planned(name: str, text: str) -> str:
    return without_folder(text) if name in FAMILIES else text


def check_swept(config: Config) -> None:
    """Checks that a config can be one of a sweep, and its names.

    Raises:
        UsageError: the program has no ELBO, a name is unknown, or settings contradict each other.

    Example:
        >>> check_swept(Config(posterior="delta"))
        Traceback (most recent call last):
        ...
        pyro_vae.errors.UsageError: `posterior='delta'` is a plain autoencoder, with no ELBO to choose by
    """
    if config.posterior == "delta":
        raise UsageError("`posterior='delta'` is a plain autoencoder, with no ELBO to choose by")
    build.check_names(config)


def label(values: Mapping[str, Any]) -> str:
    """Makes the name of a setting, which a folder can have too.

    Example:
        >>> label({"lr": 1e-4, "hidden": (300, 300), "dequantize": False})
        'lr=0.0001,hidden=300-300,dequantize=no'
    """
    return ",".join(f"{name}={shown(value)}" for name, value in values.items()) or "as-given"


def shown(value: Any) -> str:
    """Writes a value for a name or a table: short, and another text for another value.

    Example:
        >>> shown(1000.0), shown(0.1 + 0.2), shown('{"df": 3, "at": [0, 1]}')
        ('1000', '0.30000000000000004', 'df=3,at=0-1')
    """
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str) and value.startswith("{"):
        return ",".join(f"{name}={_plain(argument)}" for name, argument in json.loads(value).items())
    return "-".join(map(str, value)) if isinstance(value, tuple) else str(value).replace(" ", "-")


def _plain(argument: Any) -> str:
    """An argument of a member of the user's own, with nothing that a folder cannot have."""
    listed = argument if isinstance(argument, list) else [argument]
    return "-".join(re.sub(r"[^\w.+-]", "_", shown(each)) for each in listed)
