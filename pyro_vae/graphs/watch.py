"""Watch: detects whether modules are still as they were when a graph was made from them."""

import operator
from argparse import Namespace
from collections.abc import Iterable, Iterator
from dataclasses import is_dataclass
from types import SimpleNamespace
from typing import Any

import pyro
from torch import Tensor, nn

from pyro_vae.model.parameter_store import TAG

_flags = operator.attrgetter("requires_grad", "_backward_hooks", "_post_accumulate_grad_hooks")
_OF_EVERY_MODULE = frozenset(vars(nn.Module()))


class Watch:
    """Detects whether modules and other objects are still as they were: members, tensors, flags, plain attributes.

    A graph has baked in what its function saw in Python. A watch remembers that, and compares it in a few microseconds.
    It compares numbers and strings by value and everything else by identity: members, tensors, functions, the entries
    of dictionaries, lists and tuples. It looks into dataclasses and namespaces, where settings are kept, but not into
    other objects, classes, globals or closures.

    Args:
        objects: modules (with their submodules) and others, whose attributes matter.
        store: names in Pyro's parameter store that matter.

    Example:
        >>> module = nn.Dropout(0.1)
        >>> watch = Watch([module])
        >>> module.p = 0.2
        >>> watch.unchanged()
        False
    """

    _PLAIN = (int, float, str, type(None))

    def __init__(self, objects: Iterable[Any], store: Iterable[str] = ()) -> None:
        attributes = list(_attributes(objects))
        self._mappings = [inner for mapping in attributes for inner in _nested(mapping)]
        inside = [value for mapping in self._mappings for value in mapping.values()]
        self._sizes = list(map(len, self._mappings))
        self._sequences = [(value, tuple(value)) for value in inside if isinstance(value, list | set)]
        rows = [
            (mapping, key, value)
            for mapping in self._mappings
            for key, value in mapping.items()
            if not (key in _OF_EVERY_MODULE and isinstance(value, dict))  # their contents are compared
        ]
        self._plain = _columns([row for row in rows if isinstance(row[2], self._PLAIN)])
        self._types = list(map(type, self._plain[2]))
        self._same = _columns([row for row in rows if not isinstance(row[2], self._PLAIN)])
        held = pyro.get_param_store()._params
        self._listed = [(name, held[name]) for name in store if not name.startswith(TAG)]
        tensors = [value for value in self._same[2] if isinstance(value, Tensor)] + [value for _, value in self._listed]
        self._tensors = list({id(tensor): tensor for tensor in tensors}.values())
        self._flags = list(map(_flags, self._tensors))

    def unchanged(self) -> bool:
        """Whether everything is as it was."""
        held = pyro.get_param_store()._params  # another dictionary, after the store was cleared
        if not all(held.get(name) is tensor for name, tensor in self._listed):
            return False
        # In the interpreter's own loops, since this is asked at every step.
        mappings, keys, values = self._same
        if not all(map(operator.is_, map(dict.get, mappings, keys), values)):
            return False
        mappings, keys, values = self._plain
        now = list(map(dict.get, mappings, keys))
        return (
            list(map(type, now)) == self._types  # first, since == on a tensor has no single answer
            and now == values
            and list(map(len, self._mappings)) == self._sizes
            and all(len(a) == len(b) and all(map(operator.is_, a, b)) for a, b in self._sequences)
            and list(map(_flags, self._tensors)) == self._flags
        )

    def put_back(self) -> list[str]:
        """Restores changed numbers and tensors, forgets other objects, and returns the names of what was restored."""
        changed = [row for rows in (self._same, self._plain) for row in zip(*rows, strict=True) if not _is_there(*row)]
        state = [row for row in changed if isinstance(row[2], (Tensor, *self._PLAIN))]
        for mapping, key, value in state:
            mapping[key] = value
        self._same = _columns([row for row in zip(*self._same, strict=True) if _is_there(*row)])
        return [str(key) for _, key, _ in state]


def _is_there(mapping: dict[Any, Any], key: Any, value: Any) -> bool:
    now = mapping.get(key)
    return now is value or (isinstance(value, Watch._PLAIN) and type(now) is type(value) and now == value)


def has_hook(tensor: Tensor) -> bool:
    """Whether hooks of the user look at the gradient of this tensor."""
    return bool(tensor._backward_hooks) or bool(tensor._post_accumulate_grad_hooks)


def _columns(rows: list[tuple[Any, Any, Any]]) -> tuple[list[Any], list[Any], list[Any]]:
    return [row[0] for row in rows], [row[1] for row in rows], [row[2] for row in rows]


def _attributes(objects: Iterable[Any]) -> Iterator[dict[str, Any]]:
    parts = {id(part): part for one in objects for part in (one.modules() if isinstance(one, nn.Module) else [one])}
    for part in parts.values():
        yield vars(part)
        yield from (vars(value) for value in vars(part).values() if _is_settings(value))


def _nested(mapping: dict[Any, Any], depth: int = 4) -> Iterator[dict[Any, Any]]:
    yield mapping
    for value in mapping.values() if depth else ():
        if isinstance(value, dict):
            yield from _nested(value, depth - 1)


def _is_settings(value: Any) -> bool:
    known = isinstance(value, SimpleNamespace | Namespace) or is_dataclass(value)
    return known and not isinstance(value, type | nn.Module) and hasattr(value, "__dict__")
