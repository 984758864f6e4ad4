"""Fields of dataclasses that are settings: the default with its reason, the values that make sense, and their check.

`check` reads what a field says, and so does the command line, which makes a flag of it. A reason names other settings
in backticks, as messages do, see `pyro_vae.errors`.
"""

import math
from dataclasses import Field, dataclass, field, fields
from typing import Any, Literal, get_args, get_origin

from pyro_vae.errors import UsageError
from pyro_vae.option_words import check_word

MOST_LAYERS = 100


@dataclass(frozen=True)
class Limits:
    """The limits of a number.

    Attributes:
        above: what it must be above.
        least, most: the least and the most that it may be.
        finite: True where infinity is refused.

    Example:
        >>> Limits(above=0).complaint(0), str(Limits(least=1, most=9))
        ('above 0', 'at least 1, at most 9')
    """

    above: float | None = None
    least: float | None = None
    most: float | None = None
    finite: bool = True

    def complaint(self, number: float) -> str:
        """Returns what the number must be and is not; empty if nothing is wrong. NaN is always wrong."""
        if self.above is not None and not number > self.above:
            return f"above {self.above}"
        if self.least is not None and not number >= self.least:
            return f"at least {self.least}"
        if self.finite and not math.isfinite(number):
            return "finite"
        return f"at most {self.most}" if self.most is not None and not number <= self.most else ""

    def __str__(self) -> str:
        named = {"above": self.above, "at least": self.least, "at most": self.most}
        return ", ".join(f"{words} {limit}" for words, limit in named.items() if limit is not None)


def flag(default: Any, reason: str, *, table: str = "", scope: str = "", before: Any = None, **limits: Any) -> Any:
    """Makes a dataclass field that is a flag. One of a `Literal` type takes the words of that type.

    Args:
        default: the value of the field if it is not given.
        reason: what the flag does, and why its default is what it is.
        table: the table of `build` that has its names.
        scope: "place" for a field that says where to compute, and not what; "report" for one that changes
            the report on test data, and no training.
        before: the value in a saved config that is older than the setting; None for the default.
        limits: `above`, `least`, `most`, `finite` of a number, or of each of several, see `Limits`.

    Returns:
        What stands behind `name: type =` in the dataclass.
    """
    before = default if before is None else before
    told = {"help": reason, "table": table, "scope": scope, "before": before, "limits": Limits(**limits)}
    return field(default=default, metadata=told)


def settings_of(kind: type) -> tuple[Field[Any], ...]:
    """Returns those fields of a dataclass that are settings, made by `flag`; it can have other fields too.

    Example:
        >>> @dataclass
        ... class Options:
        ...     size: int = flag(1, "how large")
        ...     note: str = ""
        >>> [setting.name for setting in settings_of(Options)]
        ['size']
    """
    return tuple(each for each in fields(kind) if "help" in each.metadata)


def words_of(setting: Field[Any]) -> tuple[str, ...]:
    """Returns the words that a field of a `Literal` type takes, alone or with numbers; none for any other."""
    kinds = (setting.type, *get_args(setting.type))
    return next((get_args(kind) for kind in kinds if get_origin(kind) is Literal), ())


def kind_of(setting: Field[Any]) -> type:
    """Returns the type of the value of a field, or of each of several.

    It is str for words, and int for `int | None` and for `Literal["auto"] | int`.
    """
    inner = get_args(setting.type)
    # The annotations of settings are types, not text, which mypy cannot know.
    return setting.type if not inner else next((kind for kind in inner if isinstance(kind, type)), str)  # type: ignore[return-value]


def check(settings: Any) -> None:
    """Checks every field of a dataclass made of `flag`: its type, its words and its limits. Names are for `build`.

    Args:
        settings: an instance of the dataclass.

    Raises:
        UsageError: a field does not take its value; the error gives its name, its value, and what it must be.
    """
    for setting in settings_of(type(settings)):
        value = getattr(settings, setting.name)
        if isinstance(setting.default, tuple):
            _check_several(setting, value)
        elif value is not None or setting.default is not None:
            _check_one(setting, value)


def _check_one(setting: Field[Any], value: Any) -> None:
    kind, words = kind_of(setting), words_of(setting)
    if kind is not str and value in words:
        return
    either = "".join(f"{word} or " for word in words if kind is not str)
    # A null in a config file, or an edited config.json, comes through every parser.
    if type(value) is not kind and not (kind is float and type(value) is int):
        raise UsageError(f"`{setting.name}` must be {either}of type {kind.__name__}; got {value!r}")
    if words and kind is str:
        check_word(setting.name, str(value), setting.type)
    elif kind is not str and (wanted := setting.metadata["limits"].complaint(value)):
        raise UsageError(f"`{setting.name}` must be {either}{wanted}; got {value}")


def _check_several(setting: Field[Any], values: Any) -> None:
    if kind_of(setting) is str:
        if not isinstance(values, list | tuple) or any(type(value) is not str for value in values):
            raise UsageError(f"`{setting.name}` must be a list of names; got {values!r:.80}")
        return
    if not isinstance(values, list | tuple) or any(type(value) is not int for value in values):
        raise UsageError(f"`{setting.name}` must be a list of whole numbers; got {values!r:.80}")
    if not 0 < len(values) <= MOST_LAYERS:
        raise UsageError(f"`{setting.name}` must have 1 to {MOST_LAYERS} numbers, one per layer; got {len(values)}")
    if wanted := next(filter(None, map(setting.metadata["limits"].complaint, values)), ""):
        raise UsageError(f"`{setting.name}` must have numbers {wanted}; got {list(values)}")
