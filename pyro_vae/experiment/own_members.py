"""A user's own members: classes that a config carries next to their names, and how they are built.

A config names such a member by its place, "horseshoe.py:Horseshoe" or "module:Horseshoe". No file of a run holds its
code, and nothing is imported here: the caller passes the classes. A network is two classes, "nets.py:Encoder,Decoder".
"""

import inspect
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyro_vae.errors import PyroVAEError, UsageError, listed, unknown
from pyro_vae.experiment.own_sources import sha256_of, source

if TYPE_CHECKING:
    from pyro_vae.experiment.config import Config

_OF_ALL = ("latent_dim", "x_shape", "y_dim", "num_levels")
# What a class of each family gets by name. All others are its own arguments.
FACTS = {
    "prior": (*_OF_ALL, "posterior"),
    "posterior": (*_OF_ALL, "encoder"),
    "likelihood": (*_OF_ALL, "decoder", "column_scale", "column_mean"),
    "network": (*_OF_ALL, "in_shape", "out_shape"),
}
FAMILIES = tuple(FACTS)
# How a command line names one.
FORM = {
    **dict.fromkeys(FAMILIES, "file.py:Class or module:Class"),
    "network": "file.py:Encoder,Decoder or module:Encoder,Decoder",
}


@dataclass(frozen=True)
class OwnMember:
    """A member of a user's own.

    Attributes:
        family: "prior", "posterior", "likelihood" or "network".
        name: as a config has it.
        classes: the class; of a network those of encoder and decoder.
        sha256: of the source file and of the files next to it that it imports; "" if there is none.
        typed: the place as a command line named it, with its folder; "" where none did. No file keeps it.
        arguments: the setting that holds its arguments, for messages; "" is `prior_args` and the like.
    """

    family: str
    name: str
    classes: tuple[Any, ...]
    sha256: str = ""
    typed: str = ""
    arguments: str = ""

    @property
    def option(self) -> str:
        """The setting that holds its arguments."""
        return self.arguments or f"{self.family}_args"

    @classmethod
    def of(cls, family: str, name: str, *classes: Any, typed: str = "") -> "OwnMember":
        """Makes the member of these classes, with the SHA-256 of their code, see `own_sources`."""
        return cls(family, name, classes, sha256_of(classes), typed)


@dataclass(frozen=True)
class OwnMembers:
    """The members of a user's own that a config carries, by family; None where the tables have the member."""

    prior: OwnMember | None = None
    posterior: OwnMember | None = None
    likelihood: OwnMember | None = None
    network: OwnMember | None = None

    def given(self) -> dict[str, OwnMember]:
        """Returns those that are there, by family."""
        named = {field.name: getattr(self, field.name) for field in fields(self)}
        return {family: member for family, member in named.items() if member is not None}

    def recorded(self) -> dict[str, dict[str, str]]:
        """Returns what a run records of them: the name and the SHA-256 of the source."""
        return {family: {"name": own.name, "sha256": own.sha256} for family, own in self.given().items()}


def is_place(name: str) -> bool:
    """Returns whether the name of a member is the place of its class, and not a name in a table.

    Example:
        >>> is_place("horseshoe.py:Horseshoe"), is_place("standard")
        (True, False)
    """
    return ":" in name


def short_name(name: str) -> str:
    """Returns the class of a place, or a name of a table as it is.

    Example:
        >>> short_name("horseshoe.py:Horseshoe"), short_name("standard")
        ('Horseshoe', 'standard')
    """
    return name.rpartition(":")[2]


def without_folder(name: str) -> str:
    """Returns a place as a config has it: a file is named without its folder, which no one else has.

    Example:
        >>> without_folder("code/horseshoe.py:Horseshoe"), without_folder("my.priors:Horseshoe")
        ('horseshoe.py:Horseshoe', 'my.priors:Horseshoe')
    """
    source, colon, classes = name.rpartition(":")
    return f"{source.replace(chr(92), '/').rpartition('/')[2]}{colon}{classes}" if colon else name


def places_of(config: "Config", *, absolute: bool = False) -> dict[str, Any]:
    """Returns the flags that a command needs for the members of a user's own in a config: family -> place.

    Args:
        config: the settings, with the classes or without.
        absolute: whether paths must hold in every folder; else they are as they were typed.

    Example:
        >>> from pyro_vae.experiment.config import Config
        >>> places_of(Config(prior="horseshoe.py:Horseshoe"))
        {'prior': 'horseshoe.py:Horseshoe'}
    """
    named = {family: getattr(config, family) for family in FAMILIES if is_place(getattr(config, family))}
    given = config.own.given()
    typed = {family: given[family].typed or name if family in given else name for family, name in named.items()}
    return {family: _absolute(place) if absolute else place for family, place in typed.items()}


def _absolute(place: str) -> str:
    source, _, classes = place.rpartition(":")
    return f"{Path(source).absolute()}:{classes}" if Path(source).is_file() else place


def without_code(missing: Mapping[str, str]) -> UsageError:
    """The error for places whose classes are not there, by family.

    >>> print(without_code({"prior": "horseshoe.py:Horseshoe"}))
    the prior is code of your own, which is not stored with the program: pass `prior=Horseshoe` of 'horseshoe.py'
    """
    what = f"the {listed(missing)} {'is' if len(missing) == 1 else 'are'} code of your own"
    cure = ", ".join(_as_argument(family, *name.rpartition(":")[::2]) for family, name in missing.items())
    return UsageError(f"{what}, which is not stored with the program: pass {cure}")


def _as_argument(family: str, source: str, classes: str) -> str:
    given = f"({', '.join(classes.split(','))})" if "," in classes else classes
    return f"`{family}={given}` of {source!r}"


def changes(recorded: Mapping[str, Mapping[str, str]], own: OwnMembers) -> list[str]:
    """Lists, in a sentence for each source, the members whose code differs from the recorded one.

    Args:
        recorded: what `OwnMembers.recorded` returned then.
        own: the members that are here now.
    """
    return in_sentences(changed(recorded, own))


def changed(recorded: Mapping[str, Mapping[str, str]], own: OwnMembers) -> list[str]:
    """Lists the names of the members that `changes` tells of."""
    return [
        recorded[family]["name"]
        for family, member in own.given().items()
        if family in recorded and member.sha256 and recorded[family]["sha256"] not in ("", member.sha256)
    ]


def in_sentences(names: Iterable[str]) -> list[str]:
    """Returns, for each source, a sentence that its members have changed."""
    sources: dict[str, list[str]] = {}
    for name in dict.fromkeys(names):
        sources.setdefault(name.rpartition(":")[0], []).append(name)
    return [_has_changed(each) for each in sources.values()]


def _has_changed(names: list[str]) -> str:
    have, they_were = ("has", "it was") if len(names) == 1 else ("have", "they were")
    return (
        f"{listed(names)} {have} changed since {they_were} trained (the file, or one next to it that it imports, has "
        "another SHA-256): the numbers may belong to another program."
    )


def arguments_of(option: str, text: str) -> dict[str, Any]:
    """Reads the arguments of a member from JSON: an object of numbers, words, true, false, null, and lists of them.

    Args:
        option: the setting that it is, for the message.
        text: JSON; "" is none.

    Raises:
        UsageError: it is not such an object.

    Example:
        >>> arguments_of("prior_args", '{"df": 3}')
        {'df': 3}
    """
    try:
        found = json.loads(text or "{}", parse_constant=_refused)
    except (ValueError, RecursionError) as error:
        raise UsageError(
            f"`{option}` must be a JSON object, as in `{option}='{{\"df\": 3}}'`; got {text!r:.200} ({error!s:.100})"
        ) from error
    if not isinstance(found, dict) or not all(map(_is_plain, found.values())):
        raise UsageError(
            f"`{option}` must be a JSON object of numbers, words and lists of them, as in `{option}='{{\"df\": 3}}'`; "
            f"got {text!r:.200}"
        )
    return found


def canonical(option: str, text: str) -> str:
    """Writes the arguments of a member in the one form that equal arguments have; "" for none.

    Example:
        >>> canonical("prior_args", ' {"b":1, "a":[2]} '), canonical("prior_args", "{}")
        ('{"a": [2], "b": 1}', '')
    """
    found = arguments_of(option, text)
    return json.dumps(found, sort_keys=True) if found else ""


def _refused(word: str) -> None:
    raise ValueError(f"{word} is not a JSON number")


def _is_plain(value: Any) -> bool:
    if isinstance(value, list):
        return all(not isinstance(each, list) and _is_plain(each) for each in value)
    return value is None or isinstance(value, bool | int | float | str)


def parameters(function: Any) -> dict[str, inspect.Parameter]:
    """Returns what can be passed by name; of a class whose constructor passes `**more` on, its parents' too.

    Example:
        >>> class Parent:
        ...     def __init__(self, latent_dim): ...
        >>> class Child(Parent):
        ...     def __init__(self, df=3.0, **more): super().__init__(**more)
        >>> list(parameters(Child))
        ['latent_dim', 'df']
    """
    if not inspect.isclass(function):
        return _named(function)[0]
    found: dict[str, inspect.Parameter] = {}
    constructors = [each.__dict__["__init__"] for each in function.__mro__ if "__init__" in each.__dict__]
    for constructor in constructors:
        named, passes_on = _named(constructor)
        found = {**{name: each for name, each in named.items() if name != "self"}, **found}
        if not passes_on:
            break
    return found


def _named(function: Any) -> tuple[dict[str, inspect.Parameter], bool]:
    every = inspect.signature(function).parameters
    named = {n: p for n, p in every.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    return named, any(p.kind is p.VAR_KEYWORD for p in every.values())


def check_arguments(member: OwnMember, text: str) -> None:
    """Checks the names of the arguments that a user's own member is given.

    Args:
        member: the member.
        text: its arguments, as the config has them.

    Raises:
        UsageError: it has no argument of that name, or one that is filled in.
    """
    family, option = member.family, member.option
    given = arguments_of(option, text)
    taken = [name for kind in member.classes for name in parameters(kind)]
    free = sorted({name for name in taken if name not in FACTS[family]})
    for name in given:
        if name in taken and name in FACTS[family]:
            raise UsageError(f"`{option}`: {name} of {member.name} comes from data and settings: leave it out there")
        if name not in taken and free:
            raise UsageError(f"`{option}`: {unknown(f'argument of {member.name}', name, free)}")
        if name not in taken:
            raise UsageError(f"{member.name} takes no argument {name!r}, nor any of its own: leave `{option}` out")


def checked_network(member: OwnMember, made: Any) -> Any:
    """Returns a network that a user's own class or function made.

    Raises:
        UsageError: it is not a module, whose parameters could be trained.
    """
    from torch.nn import Module  # here, since a name needs no torch

    if not isinstance(made, Module):
        raise UsageError(f"{member.name} makes a {type(made).__name__}: a network must be a torch.nn.Module")
    return made


def called(member: OwnMember, function: Any, facts: Mapping[str, Any], text: str) -> Any:
    """Calls a function of a user's own member, most often its class, with the facts that it takes and its arguments.

    Args:
        member: the member.
        function: the class, or a static method of it that says a shape.
        facts: by name; those that it has no argument for are left out.
        text: the arguments, as the config has them.

    Raises:
        UsageError: it lacks an argument, raises an error, or leaves out the constructor of its family.
    """
    known = {**facts, **arguments_of(member.option, text)}
    taken = parameters(function)
    for name, each in taken.items():
        if each.default is each.empty and name not in known:
            raise _lacking(member, function, name)
    with sentences_of(member, doing=f"be built from `{member.option}='{text}'`" if text else "be built"):
        made = function(**{name: known[name] for name in taken if name in known})
    _check_initialised(member, made)
    return made


def _check_initialised(member: OwnMember, made: Any) -> None:
    """Refuses a module whose constructor does not call that of its family, which everything else relies on."""
    from torch.nn import Module  # here, since a name needs no torch

    wanted = {"prior": "latent_dim", "posterior": "encoder", "likelihood": "decoder"}.get(member.family)
    if isinstance(made, Module) and not ("_parameters" in vars(made) and (wanted is None or hasattr(made, wanted))):
        passed = {"prior": "latent_dim", "posterior": "encoder, latent_dim", "likelihood": "decoder"}
        raise UsageError(
            f"{member.name} is not set up: its __init__ must begin with "
            f"super().__init__({passed.get(member.family, '')})"
        )


def _lacking(member: OwnMember, function: Any, name: str) -> UsageError:
    family = member.family
    called_as = getattr(function, "__qualname__", function.__name__)
    what = f"{called_as} of {member.name.rpartition(':')[0]}"
    if name == "self":
        return UsageError(f"{what} is called without an instance: make it a static method, @staticmethod")
    if name in FACTS[family]:
        return UsageError(f"{what} needs {name}, which these data do not have: give it a default")
    cure = f"`{member.option}='{json.dumps({name: 1})}'`"
    return UsageError(f"{what} needs {name!r}, which has no default: give it, as in {cure}")


class sentences_of:  # noqa: N801 - a context manager, written as one is called
    """Turns any error that the user's own code raises inside into one sentence, with the place in its file.

    Args:
        members: whose code runs inside.
        doing: what it does.

    Raises:
        UsageError: the code raises an error that is not one of this package.
    """

    def __init__(self, *members: OwnMember, doing: str = "be built") -> None:
        self.members, self.doing = members, doing

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if not self.members or not isinstance(error, Exception) or isinstance(error, PyroVAEError):
            return
        names = " and ".join(member.name for member in self.members)
        said = " ".join(str(error).split())[:300]
        raise UsageError(
            f"{names} cannot {self.doing}: {type(error).__name__}{where_raised(error, self._files())}: {said}"
        ) from error

    def _files(self) -> set[str]:
        return {file for member in self.members for kind in member.classes if (file := source(kind))}


def where_raised(error: BaseException, files: Iterable[str]) -> str:
    """Returns the last line of these files that an error came through, as " (line 12 of horseshoe.py)"; "" for none."""
    found, trace = "", error.__traceback__
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if file in files:
            found = f" (line {trace.tb_lineno} of {Path(file).name})"
        trace = trace.tb_next
    return found
