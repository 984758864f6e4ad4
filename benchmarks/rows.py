"""The registry: which rows each table has, in which class of which module, and what they need."""

from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from benchmarks.peers.peer import NotAvailableError, Peer
from benchmarks.problem import Size


@dataclass(frozen=True)
class Row:
    """One row: its title, where its class is, the distribution packages that it needs, and constructor options."""

    title: str
    place: str
    needs: tuple[str, ...]
    options: dict[str, Any] = field(default_factory=dict)

    def load(self) -> type[Peer]:
        """The class, imported.

        Raises:
            NotAvailableError: a package that it needs is not installed.
        """
        for package in self.needs:
            if find_spec(package) is None:
                raise NotAvailableError(f"{package} is not installed")
        module, _, name = self.place.partition(":")
        found: type[Peer] = getattr(import_module(module), name)
        return found

    def build(self, size: Size, device: str) -> Peer:
        """The peer.

        Raises:
            NotAvailableError: see `load`; or the peer says why it cannot be built.
        """
        return self.load()(size, device, **self.options)


_PLAIN, _PYRO = "benchmarks.peers.plain:Twin", ("torch", "pyro")
_OURS = "benchmarks.peers.pyro_peers:Ours"
_NUMPYRO, _JAX = "benchmarks.peers.numpyro_peer:NumPyro", ("jax", "numpyro")

STEP: dict[str, Row] = {
    "pyro": Row("stock pyro.infer.SVI", "benchmarks.peers.pyro_peers:Stock", _PYRO),
    "pyro-unchecked": Row(
        "stock pyro.infer.SVI, validation off", "benchmarks.peers.pyro_peers:Stock", _PYRO, {"validation": False}
    ),
    "eager": Row("pyro_vae, eager", _OURS, _PYRO),
    "compiled": Row("pyro_vae, compiled", _OURS, _PYRO, {"compiled": True}),
    "bfloat16": Row("pyro_vae, compiled, bfloat16", _OURS, _PYRO, {"compiled": True, "bfloat16": True}),
    "twin": Row("plain torch, eager", _PLAIN, ("torch",)),
    "twin-compiled": Row("plain torch, compiled", _PLAIN, ("torch",), {"compiled": True}),
    "twin-compiled-update": Row(
        "plain torch, compiled, the update too", _PLAIN, ("torch",), {"compiled": True, "compiled_optimizer": True}
    ),
    "numpyro-update": Row("NumPyro, jitted update", _NUMPYRO, _JAX, {"scan": 1}),
    "numpyro": Row("NumPyro, jitted scan over 20 steps", _NUMPYRO, _JAX, {"scan": 20}),
    "pythae": Row("pythae", "benchmarks.peers.pythae_peer:Pythae", ("torch", "pythae")),
}

LIKELIHOOD: dict[str, Row] = {
    "eager": Row("pyro_vae.evaluation.iwae, eager", _OURS, _PYRO),
    "compiled": Row("pyro_vae.evaluation.iwae, compiled", _OURS, _PYRO, {"compiled": True}),
    "bfloat16": Row("pyro_vae.evaluation.iwae, compiled, bfloat16", _OURS, _PYRO, {"compiled": True, "bfloat16": True}),
    "twin": Row("plain torch loop, eager", _PLAIN, ("torch",)),
    "twin-compiled": Row("plain torch loop, compiled", _PLAIN, ("torch",), {"compiled": True}),
    "numpyro": Row("NumPyro handlers, jitted", _NUMPYRO, _JAX),
    "pythae": Row("pythae get_nll", "benchmarks.peers.pythae_peer:Pythae", ("torch", "pythae")),
}

BUSY: dict[str, Row] = {
    "pyro": STEP["pyro"],
    "one-thread": Row("pyro_vae, compiled, 1 thread", _OURS, _PYRO, {"compiled": True, "threads": 1}),
    "all-cores": Row("pyro_vae, compiled, a thread for each core", _OURS, _PYRO, {"compiled": True}),
    "numpyro": STEP["numpyro"],
}

FLOOR: dict[str, Row] = {"floor": Row("matrix products", "benchmarks.peers.floor:Floor", ("torch",))}

TASKS = {"step": STEP, "busy": BUSY, "likelihood": LIKELIHOOD, "floor": FLOOR}
