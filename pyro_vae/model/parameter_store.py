"""What programs put into Pyro's parameter store, under which names, and how to tell it from what others put there.

A program lists its tensors under its own prefix: `pyro_vae:left` by its name, or `pyro_vae:VAE-0` by a number.

    listed    by a program of this process: it gives way if a member is replaced, and leaves when the program dies
    foreign   put under such a name by anyone else, for example by `pyro.get_param_store().load(file)`: it stays, and
              programs that it could be meant for refuse to run, since it would have no effect
"""

import gc
import itertools
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pyro
from pyro.distributions import constraints
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from pyro_vae.errors import UsageError

TAG = "pyro_vae:"  # the names of programs in Pyro's store begin with it

_serial = itertools.count()
_prefixes: set[str] = set()  # of live programs
_names: set[str] = set()  # under which they have listed tensors
_warned_of: set[str] = set()
_listed: Any = WeakIdKeyDictionary()  # every tensor that was listed; the values have no meaning


class Listing:
    """The place of one program in Pyro's store, from which its entries leave by `close`.

    Args:
        kind: the class of the program, which names it, with a number, if it has no name.
        name: of the program, which gives its entries the same names in every process.

    Attributes:
        prefix: the start of the names of its entries, before a dot.

    Raises:
        UsageError: the name is not an identifier, or belongs to a live program.

    Example:
        >>> listing = Listing("VAE", "left")
        >>> listing.prefix
        'pyro_vae:left'
        >>> listing.close()
    """

    def __init__(self, kind: str, name: str | None = None) -> None:
        if name is not None:
            _check_name(name)
        numbered = (f"{TAG}{kind}-{number}" for number in _serial)
        self.prefix = next(p for p in numbered if p not in _prefixes) if name is None else TAG + name
        _prefixes.add(self.prefix)

    @property
    def name(self) -> str | None:
        """The name that the program was given, if any."""
        return self.prefix.removeprefix(TAG) if _is_named(self.prefix) else None

    def close(self) -> None:
        """Removes the program's entries from the store."""
        _prefixes.discard(self.prefix)
        _names.difference_update([name for name in _names if _prefix_of(name) == self.prefix])
        sweep()

    def move(self, prefix: str) -> None:
        """Changes to a prefix that no live program has."""
        self.close()
        self.prefix = prefix
        _prefixes.add(prefix)

    def check(self) -> None:
        """Raises UsageError if the store holds entries that no program listed and that could be meant for this one."""
        if not (strangers := _strangers()):
            return
        sweep()  # of a program that died inside a scope
        for name in strangers:
            if name in _params() and self._may_mean(_prefix_of(name)):
                raise _foreign(name, self.prefix)
        self._warn_of({_prefix_of(name) for name in strangers if name in _params()} - _prefixes)

    def _warn_of(self, others: set[str]) -> None:
        """Warns, once for each, of names in the store that no live program has: they could be meant for this one."""
        for prefix in sorted(others - _warned_of):
            _warned_of.add(prefix)
            name = prefix.removeprefix(TAG)
            warnings.warn(
                f"Pyro's parameter store holds values for a program {name!r}, but no live program has this name: "
                f"{self.prefix.removeprefix(TAG)!r} does not use them. `load_from_store({name!r})` copies them in",
                stacklevel=2,
            )

    def clear_for(self, name: str, parameter: Tensor) -> None:
        """Makes room for a parameter under its name.

        Args:
            name: of the entry, with the prefix.
            parameter: the program's own tensor.

        Raises:
            UsageError: a foreign entry has this name.
        """
        held = _params().get(name)
        if held is None or held is parameter:
            return
        if held not in _listed:
            raise _foreign(name, self.prefix)
        unlist(name)

    def saved_under(self, name: str | None) -> str:
        """Returns the prefix of the foreign entries that belong to a program of this name, or to this program.

        Raises:
            UsageError: there are none, or several programs have such entries.
        """
        there = {_prefix_of(entry) for entry, tensor in _params().items() if _is_foreign(entry, tensor)}
        if name is not None:
            fitting = there & {TAG + name}
        else:
            fitting = there & {self.prefix} or {prefix for prefix in there if self._may_mean(prefix)}
        if len(fitting) == 1:
            return fitting.pop()
        listed = ", ".join(sorted(prefix.removeprefix(TAG) for prefix in there))
        wanted = f"of program {name!r}" if name else f"that could be meant for {self.prefix.removeprefix(TAG)}"
        raise UsageError(
            f"Pyro's parameter store has {'several programs' if fitting else 'nothing'} {wanted}; "
            + (f"choose one with `load_from_store(name)`: {listed}" if there else "first load it: store.load(file)")
        )

    def _may_mean(self, prefix: str) -> bool:
        """Whether entries with that prefix can belong to this program: names tell programs apart, numbers do not."""
        if prefix in _prefixes:
            return prefix == self.prefix
        return not (_is_named(prefix) and _is_named(self.prefix))


def is_free(name: str) -> bool:
    """Whether no live program has this name."""
    return TAG + name not in _prefixes


def put(name: str, parameter: Tensor) -> None:
    """Lists the tensor itself (`store[name] = p` would copy one that is not contiguous, and train the copy)."""
    store = pyro.get_param_store()
    if name not in store._params:
        store.set_state({"params": {name: parameter}, "constraints": {name: constraints.real}})
        _listed[parameter] = True
        _names.add(name)
    # A tensor that two programs share has one name at a time, and must not lose its last one.
    store._param_to_name.setdefault(parameter, name)


def unlist(name: str) -> None:
    """Removes an entry from the store."""
    # `del store[name]` fails if two programs share a tensor: the store keeps one name for each tensor.
    store = pyro.get_param_store()
    parameter = store._params.pop(name)
    store._constraints.pop(name)
    if store._param_to_name.get(parameter) == name:
        del store._param_to_name[parameter]


def unlist_foreign(prefix: str) -> None:
    """Removes the foreign entries of a prefix from the store."""
    for name, tensor in list(_params().items()):
        if _prefix_of(name) == prefix and _is_foreign(name, tensor):
            unlist(name)


def sweep() -> None:
    """Removes what dead programs have listed from the store."""
    for name in _strangers():
        if _params()[name] in _listed and _prefix_of(name) not in _prefixes:
            unlist(name)


def entries(names: Iterable[str]) -> dict[str, Tensor]:
    """Returns the entries of the store under those of these names that belong to programs."""
    return {name: _params()[name] for name in names if name.startswith(TAG)}


def holds(entries: dict[str, Tensor]) -> bool:
    """Whether the store holds these entries."""
    params = _params()
    return all(params.get(name) is tensor for name, tensor in entries.items())


def has_strangers() -> bool:
    """Whether the store holds, under the name of a program, entries that no live program has listed."""
    return bool(_strangers())


@contextmanager
def store_kept() -> Iterator[None]:
    """Restores Pyro's parameter store, whatever runs inside."""
    store = pyro.get_param_store()
    try:
        with store.scope(store.get_state()):
            yield
    finally:
        # A program collected inside the scope could not leave the store that has just been restored.
        sweep()


def _params() -> dict[str, Tensor]:
    return pyro.get_param_store()._params  # another dictionary, after the store was cleared


def _strangers() -> list[str]:
    # With sets, since this is asked at every call.
    return [name for name in _params().keys() - _names if name.startswith(TAG)]


def _prefix_of(name: str) -> str:
    return name.partition(".")[0]


def _is_named(prefix: str) -> bool:
    return "-" not in prefix


def _is_foreign(name: str, tensor: Tensor) -> bool:
    return name.startswith(TAG) and tensor not in _listed


def _check_name(name: str) -> None:
    if not name.isidentifier():
        raise UsageError(f"the name of a program is made of letters, digits and _, such as 'left'; got {name!r}")
    if not is_free(name):
        gc.collect()  # one that nothing uses any more, but that a reference cycle keeps, for example from a traceback
    if not is_free(name):
        raise UsageError(
            f"a program called {name!r} is alive, and two would train each other's tensors: give this one another "
            "name, or first delete that one and what holds it, such as an SVI"
        )


def _foreign(name: str, prefix: str) -> UsageError:
    return UsageError(
        f"Pyro's parameter store holds {name}, which no program of this process put there (was it loaded?) and which "
        f"{prefix} would not use. `load_from_store()` of the program copies such values in; "
        "`pyro.clear_param_store()` drops them. `state_dict()` saves a whole program, with its buffers"
    )
