"""Code of a user's own that the command line names: the one place that imports any.

    --prior horseshoe.py:Horseshoe      a class of a file, by a path from the folder where the command is typed
    --prior my_package.priors:Horseshoe a class of a module that Python finds, in that folder too
    --network nets.py:Encoder,Decoder   two classes, or functions that return a module

The person who types a command decides what code it runs. A place in a file, such as that of `--config`, is refused.
"""

import importlib
import importlib.util
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from pkgutil import resolve_name
from types import ModuleType
from typing import Any

from pyro_vae import system
from pyro_vae.errors import UsageError, listed, unknown
from pyro_vae.experiment.config import Config
from pyro_vae.experiment.own_members import (
    FAMILIES,
    FORM,
    OwnMember,
    OwnMembers,
    is_place,
    where_raised,
    without_folder,
)
from pyro_vae.experiment.own_sources import check_neighbours, file_of

_BASES: dict[str, tuple[str, ...]] = {
    "prior": ("pyro_vae.priors.Prior",),
    "posterior": ("pyro_vae.posteriors.Posterior",),
    "likelihood": ("pyro_vae.likelihoods.Likelihood",),
    "network": ("torch.nn.Module",),
}
_BASES["member"] = _BASES["prior"] + _BASES["posterior"] + _BASES["likelihood"]
_files: dict[str, tuple[Path, str]] = {}  # what this module has put into sys.modules: the file and its SHA-256


@dataclass(frozen=True)
class Place:
    """Where a member of a user's own is.

    Attributes:
        family: "prior", "posterior", "likelihood" or "network"; "member" for any of the first three.
        source: the path of a file, or the name of a module.
        classes: the names in it, one or two.
    """

    family: str
    source: str
    classes: tuple[str, ...]

    @property
    def is_file(self) -> bool:
        """True where the source is a file, and no module."""
        return self.source.endswith(".py") or "/" in self.source or "\\" in self.source

    @property
    def name(self) -> str:
        """What a config says: only the name of a file, since no one else has its folder."""
        return without_folder(self.typed)

    def __str__(self) -> str:
        return repr(self.name) if self.family == "member" else f"`{self.family}={self.name!r}`"

    @property
    def typed(self) -> str:
        """The place as the command line named it."""
        return f"{self.source}:{','.join(self.classes)}"


def place(family: str, text: str) -> Place:
    """Reads the place of a member, without importing anything.

    Raises:
        UsageError: it is none, or its file is not there.

    Example:
        >>> place("network", "my_nets:Encoder,Decoder").classes
        ('Encoder', 'Decoder')
    """
    source, _, named = text.rpartition(":")
    classes = tuple(name.strip() for name in named.split(","))
    found = Place(family, source, classes)
    said = repr(text) if family == "member" else f"`{family}={text!r}`"
    wanted = 2 if family == "network" else 1
    is_module = not found.is_file and all(part.isidentifier() for part in source.split("."))
    if len(classes) != wanted or not all(name.isidentifier() for name in classes) or not (is_module or found.is_file):
        form = FORM.get(family, FORM["prior"])
        raise UsageError(f"{said} does not name a {family}: write {form}")
    if found.is_file and not Path(source).is_file():
        raise UsageError(f"{said}: there is no file {source} (relative paths start in {Path.cwd()})")
    return found


def places(config: Config, argv: Sequence[str]) -> list[Place]:
    """Lists the places in a config, each of which must have been typed.

    Args:
        config: as its flags say it.
        argv: the command line.

    Raises:
        UsageError: a place is none, or comes from a file.
    """
    found = []
    for family in FAMILIES:
        text = getattr(config, family)
        if is_place(text):
            if text not in typed(family, argv):
                raise UsageError(
                    f"the {family} {text!r} is code named in a file, and you must name code yourself to run it. Type "
                    f"it as a flag, `{family}={text!r}`"
                )
            found.append(place(family, text))
    return found


def typed(name: str, argv: Sequence[str]) -> list[str]:
    """Lists the values that a command line itself gives a flag.

    >>> typed("prior", ["--prior", "a.py:A", "--lr", "1", "--prior=b.py:B"])
    ['a.py:A', 'b.py:B']
    """
    flag = f"--{name}"
    after = [word for before, word in pairwise(argv) if before == flag]
    return after + [word.removeprefix(f"{flag}=") for word in argv if word.startswith(f"{flag}=")]


def imported(found: Iterable[Place]) -> OwnMembers:
    """Imports the classes of some places.

    Raises:
        UsageError: a module does not import, or has no such class, or the class is not a member.
    """
    return OwnMembers(**{each.family: member(each) for each in found})


def offered(arguments: Mapping[str, Any]) -> list[OwnMember]:
    """Imports the members that a command that looks back at runs was given, for those runs that name them.

    Args:
        arguments: of the command, in which each family has a list of places.

    Raises:
        UsageError: as `place` and `imported` do.
    """
    found = [place(family, text) for family in FAMILIES for text in arguments.get(family) or []]
    return [member(each) for each in found]


def check_served(own: Iterable[OwnMember], *configs: Config) -> None:
    """Refuses a member that none of the runs has.

    Args:
        own: the members that were given.
        configs: of the runs.

    Raises:
        UsageError: no run names it; the error says what they name.
    """
    for each in own:
        named = list(dict.fromkeys(str(getattr(config, each.family)) for config in configs))
        if each.name not in named:
            raise UsageError(
                f"`{each.family}={each.name!r}` belongs to none of the runs, whose {each.family} is "
                f"{', '.join(named)}: leave it out"
            )


def member(found: Place) -> OwnMember:
    """Imports the classes of a place.

    Raises:
        UsageError: as for `imported`.
    """
    module = _module(found)
    classes = [_class(found, module, name) for name in found.classes]
    return OwnMember.of(found.family, found.name, *classes, typed=found.typed)


def _module(found: Place) -> ModuleType:
    path = Path(found.source).resolve() if found.is_file else None
    with _on_path(Path.cwd() if path is None else path.parent):
        try:
            return importlib.import_module(found.source) if path is None else _module_of_file(path)
        except UsageError:
            raise
        except (Exception, SystemExit) as error:  # whatever the user's module raises
            if isinstance(error, SystemExit) and error.code in system.INTERRUPTED:
                raise
            files = {str(path)} if path is not None else set[str]()
            said = " ".join(str(error).split())[:300]
            raise UsageError(
                f"{found}: {found.name.rpartition(':')[0]} cannot be imported: "
                f"{type(error).__name__}{where_raised(error, files)}: {said}"
            ) from error


@contextmanager
def _on_path(folder: Path) -> Iterator[None]:
    """Lets modules be found in a folder, while one of them is imported."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        if str(folder) in sys.path:
            sys.path.remove(str(folder))


def _module_of_file(path: Path) -> ModuleType:
    """Imports a file under its own name, under which its classes can be pickled."""
    name, this = path.stem, (path, sha256(path.read_bytes()).hexdigest())
    loaded = sys.modules.get(name)
    if loaded is not None and (_files.get(name) == this or (name not in _files and file_of(loaded) == path)):
        return loaded  # a neighbour that a file before it has imported is the same module
    if name not in _files and _is_taken(name, path):
        raise UsageError(f"{path.name} has the name of a module that Python has already: give the file another one")
    check_neighbours(path)
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{path.name} is not a Python file: its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    before = sys.modules.get(name)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(name)
        if before is not None:
            sys.modules[name] = before
        raise
    _files[name] = this
    return module


def _is_taken(name: str, path: Path) -> bool:
    if name in sys.modules or name in sys.stdlib_module_names:
        return True
    spec = importlib.util.find_spec(name)
    return spec is not None and (spec.origin is None or Path(spec.origin).resolve() != path)


def _class(found: Place, module: ModuleType, name: str) -> Any:
    source, able = found.name.rpartition(":")[0], _members(found.family, module)
    kind = getattr(module, name, None)
    if kind is None:
        if not able:
            raise UsageError(f"{source} has no {name!r}, nor any {found.family}: {_derive(found.family)}")
        raise unknown(f"{found.family} of {source}", name, able)
    if not _is_member(found.family, kind):
        raise UsageError(f"{name} of {source} is not a {found.family}{_what_else(kind)}: {_derive(found.family)}")
    return kind


def _members(family: str, module: ModuleType) -> list[str]:
    own = {n: k for n, k in vars(module).items() if getattr(k, "__module__", "") == module.__name__}
    return [name for name, kind in own.items() if not name.startswith("_") and _is_member(family, kind)]


def _is_member(family: str, kind: Any) -> bool:
    if family == "network" and callable(kind) and not isinstance(kind, type):
        return True
    bases = _bases(family)
    return isinstance(kind, type) and issubclass(kind, bases) and kind not in bases


def _what_else(kind: Any) -> str:
    other = [family for family in FAMILIES if family != "network" and _is_member(family, kind)]
    return f" but a {other[0]}" if other else ""


def _derive(family: str) -> str:
    return f"derive it from {listed(_BASES[family], 'or')}"


def _bases(family: str) -> tuple[type, ...]:
    return tuple(map(resolve_name, _BASES[family]))  # now, since torch takes a second and errors before this need none
