"""A training step piece by piece, here and in XLA: products, densities, draws, update, and what is left for the rest.

    python benchmarks/kernels.py --sizes 64x64 128x400 --threads 1

Each piece runs alone, on arrays of the shapes that it has in the step, as our compiler or XLA makes it: so a sum of
pieces can differ from the whole, in which they share a cache. The rest is dispatch, and memory between the pieces. XLA
uses all cores; to compare one thread with one core start it by `taskset -c 0`.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch
from torch import Tensor

from benchmarks.peers.pyro_peers import Ours
from benchmarks.problem import RATE, X_DIM, Size, draw_data, draw_parameters, parse_size
from pyro_vae.graphs.capture import capture

Piece = Callable[[], int]  # one call, or several; it returns how many
ROUNDS, SECONDS, SCAN = 15, 0.05, 20


def main(argv: Sequence[str] | None = None) -> None:
    """Prints a table for each size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["64x64", "128x400", "256x1000"], help="batch x hidden")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    for size in map(parse_size, arguments.sizes):
        here, there = ours(size), xla(size)
        times = timed({**{f"ours {name}": p for name, p in here.items()}, **{f"XLA {n}": p for n, p in there.items()}})
        print(f"\n{size.name}, {arguments.threads} thread(s) of torch: microseconds, medians of {ROUNDS} rounds\n")
        print(f"| {'piece':10} |   ours |    XLA |\n|---|---:|---:|")
        for name in here:
            print(f"| {name:10} | {times[f'ours {name}']:6.0f} | {times[f'XLA {name}']:6.0f} |")
        left = [2 * times[f"{of} step"] - sum(times[f"{of} {name}"] for name in here) for of in ("ours", "XLA")]
        print(f"| {'the rest':10} | {left[0]:6.0f} | {left[1]:6.0f} |")


def timed(pieces: dict[str, Piece]) -> dict[str, float]:
    """Microseconds of one call of each piece, which take turns."""
    for piece in pieces.values():
        _seconds(piece, 3)
    counts = {name: max(1, int(SECONDS / _seconds(piece, 3))) for name, piece in pieces.items()}
    found: dict[str, list[float]] = {name: [] for name in pieces}
    for _ in range(ROUNDS):
        for name, piece in pieces.items():
            found[name].append(1e6 * _seconds(piece, counts[name]))
    return {name: statistics.median(times) for name, times in found.items()}


def _seconds(piece: Piece, number: int) -> float:
    begin = time.perf_counter()
    calls = sum(piece() for _ in range(number))
    return (time.perf_counter() - begin) / calls


def arrays(size: Size) -> dict[str, np.ndarray[Any, Any]]:
    """What the pieces compute on."""
    random, B, D = np.random.default_rng(0), size.batch, size.latent_dim
    normal = {"mu": (B, D), "log_variance": (B, D), "logits": (B, X_DIM), "hidden": (B, size.hidden), "z": (B, D)}
    drawn = {name: random.standard_normal(shape).astype(np.float32) for name, shape in normal.items()}
    return {**drawn, "x": draw_data(B), "out": random.standard_normal((B, 2 * D)).astype(np.float32)}


def ours(size: Size) -> dict[str, Piece]:
    """The pieces as our compiler makes them."""
    given = {name: torch.from_numpy(value) for name, value in arrays(size).items()}
    weights = {name: torch.from_numpy(value) for name, value in draw_parameters(size).items()}
    adam = torch.optim.Adam([torch.nn.Parameter(value) for value in weights.values()], lr=RATE, fused=True)
    for parameter in adam.param_groups[0]["params"]:
        parameter.grad = torch.full_like(parameter, 1e-3)
    peer = Ours(size, compiled=True)
    peer.feed(draw_data(16 * size.batch))
    peer.steps(50)

    def densities(logits: Tensor, x: Tensor, mu: Tensor, log_variance: Tensor) -> list[Tensor]:
        with torch.enable_grad():
            leaves = [tensor.detach().requires_grad_() for tensor in (logits, mu, log_variance)]
            negative = torch.nn.functional.binary_cross_entropy_with_logits(leaves[0], x, reduction="sum")
            kl = (leaves[1].square() + leaves[2].exp() - leaves[2] - 1).sum() / 2
            loss = negative + kl
            return [loss.detach(), *torch.autograd.grad(loss, leaves)]

    return {
        "products": _compiled(products, of_products(given, weights)),
        "densities": _compiled(densities, [given[name] for name in ("logits", "x", "mu", "log_variance")]),
        "draws": _once(lambda: torch.randn(size.batch, size.latent_dim)),
        "update": _once(adam.step),
        "step": _once(lambda: peer.steps(1)),
    }


def of_products(given: dict[str, Any], weights: dict[str, Any]) -> list[Any]:
    """The arguments of `products`."""
    named = ("encoder.first.weight", "encoder.out.weight", "decoder.first.weight", "decoder.out.weight")
    return [*(given[name] for name in ("x", "hidden", "out", "z", "logits")), *(weights[name] for name in named)]


def products(x: Any, hidden: Any, out: Any, z: Any, logits: Any, first: Any, second: Any, third: Any, last: Any) -> Any:
    """The products of both passes of both networks, each with the shapes that it has in the step."""
    forward = [x @ first.T, hidden @ second.T, z @ third.T, hidden @ last.T]
    to_inputs = [logits @ last, hidden @ third, out @ second]
    to_weights = [logits.T @ hidden, hidden.T @ z, out.T @ hidden, hidden.T @ x]
    return [*forward, *to_inputs, *to_weights]


def _compiled(function: Callable[..., Any], given: Sequence[Tensor]) -> Piece:
    graph = capture(function, given, []).compiled(given)
    return _once(lambda: graph(*given))


def _once(call: Callable[[], object]) -> Piece:
    def piece() -> int:
        call()
        return 1

    return piece


def xla(size: Size) -> dict[str, Piece]:
    """The pieces as XLA makes them."""
    import jax
    import jax.numpy as jnp
    from numpyro import optim

    from benchmarks.peers.numpyro_peer import NumPyro

    given = {name: jnp.asarray(value) for name, value in arrays(size).items()}
    weights = {name: jnp.asarray(value) for name, value in draw_parameters(size).items()}
    adam = optim.Adam(RATE)
    state, gradients = adam.init(weights), {name: jnp.full_like(value, 1e-3) for name, value in weights.items()}
    peer = NumPyro(size, scan=SCAN)
    peer.feed(draw_data(16 * size.batch))
    peer.steps(100)

    def loss(logits: Any, mu: Any, log_variance: Any, x: Any) -> Any:
        negative = (jax.nn.softplus(logits) - x * logits).sum()
        return negative + (mu**2 + jnp.exp(log_variance) - log_variance - 1).sum() / 2

    of_densities = [given[name] for name in ("logits", "mu", "log_variance", "x")]
    key = jax.random.PRNGKey(0)
    jitted: dict[str, tuple[Callable[..., Any], list[Any]]] = {
        "products": (jax.jit(products), of_products(given, weights)),
        "densities": (jax.jit(jax.value_and_grad(loss, (0, 1, 2))), of_densities),
        "draws": (jax.jit(lambda key: jax.random.normal(key, (size.batch, size.latent_dim))), [key]),
        "update": (jax.jit(adam.update), [gradients, state]),
    }
    pieces = {
        name: _once(partial(_awaited, jax, function, arguments)) for name, (function, arguments) in jitted.items()
    }
    return {**pieces, "step": lambda: peer.steps(SCAN)}


def _awaited(jax: Any, function: Callable[..., Any], arguments: list[Any]) -> None:
    jax.block_until_ready(function(*arguments))


if __name__ == "__main__":
    main()
