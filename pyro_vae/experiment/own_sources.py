"""The code of a user's own classes: the file of a class, those next to it that it imports, and one SHA-256 of all.

Imports are read from the text, so that the hash does not depend on how the class was imported. Code that is found
only at run time, what lies elsewhere, and installed packages are not counted.
"""

import ast
import hashlib
import inspect
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from pyro_vae.errors import UsageError

_INSTALLED = {"site-packages", "dist-packages"}
_HERE = Path(__file__).resolve().parents[1]


def source(kind: Callable[..., Any]) -> str:
    """Returns the file of a class or function; "" where there is none, as in a notebook."""
    try:
        return inspect.getsourcefile(kind) or ""
    except (TypeError, OSError):
        return ""


def sha256_of(classes: Iterable[Any]) -> str:
    """Returns the SHA-256 of the code of some classes; "" where a file of theirs is not there.

    A single file has its own hash. Several files have a hash of their names, relative to the folder of the first class,
    and their hashes.
    """
    roots = {file: _roots(file, kind) for kind in classes if (file := _file(kind))}
    try:
        paths = {each for file, folders in roots.items() for each in [file, *neighbours(file, folders).values()]}
        hashes = {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}
    except OSError:
        return ""
    if len(hashes) < 2:
        return next(iter(hashes.values()), "")
    start = next(iter(roots)).parent
    named = sorted((os.path.relpath(path, start).replace(os.sep, "/"), each) for path, each in hashes.items())
    return hashlib.sha256("".join(f"{name}\0{each}\n" for name, each in named).encode()).hexdigest()


def neighbours(file: Path, roots: Iterable[Path]) -> dict[str, Path]:
    """Lists the files that a file imports, and those that these import, by the names under which Python has them.

    Args:
        file: the file.
        roots: the folders in which modules are looked for, in addition to that of the file.
    """
    roots = list(dict.fromkeys([file.parent, *roots]))
    found: dict[str, Path] = {}
    waiting = [file]
    while waiting:
        importing = waiting.pop()
        for folder, dotted in _imported(importing, roots):
            for name, path in _along(folder, dotted):
                if path != file and path not in found.values():
                    found[name if folder in roots else str(path)] = path
                    waiting.append(path)
    return found


def check_neighbours(file: Path) -> None:
    """Refuses a file that would get another module for a neighbour, since Python has one under that name already.

    Raises:
        UsageError: the files of the two differ.
    """
    for name, neighbour in neighbours(file, ()).items():
        other = file_of(sys.modules.get(name))
        if other is not None and other != neighbour:
            raise UsageError(
                f"{file} imports {name}, which is {neighbour} next to it, but Python already has {other} under that "
                f"name: rename one of the two"
            )


def file_of(module: ModuleType | None) -> Path | None:
    """Returns the file of a module; None where there is none."""
    file = getattr(module, "__file__", None)
    return Path(file).resolve() if file else None


def _file(kind: Any) -> Path | None:
    return Path(file).resolve() if (file := source(kind)) else None


def _roots(file: Path, kind: Any) -> list[Path]:
    """The folder in which the top package of a class lies."""
    depth = str(getattr(kind, "__module__", "")).count(".") + (file.name == "__init__.py")
    return [file.parents[depth]] if 0 < depth < len(file.parents) else []


def _imported(file: Path, roots: list[Path]) -> Iterator[tuple[Path, str]]:
    """What a file imports, each with a folder in which it may lie."""
    if _INSTALLED & {*file.parts} or file.is_relative_to(_HERE):
        return
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((root, alias.name) for alias in node.names for root in roots)
        elif isinstance(node, ast.ImportFrom):
            parts = [node.module] if node.module else []
            dotted = [".".join([*parts, alias.name]) for alias in node.names]
            folders = [file.parents[node.level - 1]] if 0 < node.level <= len(file.parents) else roots
            yield from ((folder, name) for name in dotted for folder in folders)


def _along(folder: Path, dotted: str) -> Iterator[tuple[str, Path]]:
    """The files that Python reads in a folder to import a name: those of its packages, and its own."""
    parts = dotted.split(".")
    if parts[0] in sys.stdlib_module_names or parts[0] == _HERE.name:
        return
    for i in range(1, len(parts) + 1):
        place = folder.joinpath(*parts[:i])
        path = next((p for p in (place / "__init__.py", place.with_name(f"{place.name}.py")) if p.is_file()), None)
        if path is not None:
            yield ".".join(parts[:i]), path.resolve()
        elif not place.is_dir():
            return
