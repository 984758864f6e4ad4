"""The noise of gradients along a training on digits, and the time of their steps: python benchmarks/gradient_noise.py.

At some epochs, at the same parameters and on the same batch, many gradients are drawn of each kind. A row holds the
ratio of their variances, summed over all parameters of the guide, total / along paths; above 1 the path has less noise.
Beside it stand the same ratio of the model's parameters, which have one gradient under both, and how far the guide is
from the posterior: log p(x) - ELBO, the former by 1,000 draws.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator, Sequence
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import pyro_vae as pv
from pyro_vae.experiment import build
from pyro_vae.experiment.config import Config
from pyro_vae.option_words import Gradient

KINDS: dict[Gradient, dict[str, Any]] = {
    "sticking_the_landing": {"objective": "trace_elbo"},
    "doubly_reparametrised": {"objective": "iwae", "num_particles": 8},
}
MEASURED = (0, 1, 3, 10, 30, 100, 300, 600)  # epochs; ten steps each


class Spread(NamedTuple):
    """A variance summed over parameters, and its standard error."""

    value: float
    error: float


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=600, help="length of the training; its learning rate falls to 0")
    parser.add_argument("--draws", type=int, default=200, help="gradients of each kind and row")
    parser.add_argument("--rounds", type=int, default=15, help="turns of each row of the timings")
    parser.add_argument("--steps", type=int, default=100, help="steps of one turn")
    parser.add_argument("--data-dir", default=os.environ.get("PYRO_VAE_DATA", "data"))
    given = parser.parse_args(arguments)
    for gradient, settings in KINDS.items():
        config = Config(**settings, gradient=gradient, epochs=given.epochs, data_dir=given.data_dir)
        print(f"\n{config.objective}, K = {config.num_particles}: variance of total / {gradient}")
        print(f"{'steps':>6}  {'log p(x) - ELBO':>15}  {'guide':>14}  {'model':>14}", flush=True)
        for row in noise_along(config, given.draws):
            print(row, flush=True)
    print(f"\nmedian time of a step, ms, in {given.rounds} turns of {given.steps} steps; batches of 128")
    print(f"{'objective':<12}{'gradient':<24}{'Pyro':>8}{'traced':>8}{'compiled':>10}")
    for row in timings(given.rounds, given.steps, given.data_dir):
        print(row, flush=True)


def noise_along(config: Config, draws: int) -> Iterator[str]:
    """Trains by the total gradient, and yields a row at each epoch that is measured."""
    data = build.data(config)
    vae = build.vae(config, *data.form)
    build.start(config, vae, data)
    total = Config(**{**vars(config), "gradient": "total"})
    losses = [build.svi(each, vae).loss for each in (total, config)]
    step, x = build.svi(total, vae), data.train.fixed()[:128]
    records = pv.inference.fit(vae, step, data, build.schedule(total, len(data.train)), seed=0)
    for epoch in range(config.epochs + 1):
        if epoch:
            next(records)
        if epoch in MEASURED or epoch == config.epochs:
            yield _row(step.num_steps, vae, losses, x, draws)


def _row(steps: int, vae: Any, losses: Sequence[Any], x: Tensor, draws: int) -> str:
    estimates = pv.evaluation.iwae(vae, x, 1000, seed=0), pv.evaluation.elbo(vae, x, 1000, seed=0)
    vae.train()
    of_each = [_gradients(loss, vae, x, draws) for loss in losses]
    ratios = []
    for member in ([vae.posterior], [vae.prior, vae.likelihood]):
        own = {id(parameter) for part in member for parameter in part.parameters()}
        mine = torch.cat([torch.full((p.numel(),), id(p) in own) for p in vae.parameters()])
        ratios.append(_ratio(*(_spread(gradients[:, mine]) for gradients in of_each)))
    return f"{steps:>6}  {estimates[0].mean - estimates[1].mean:>15.3f}  {ratios[0]:>14}  {ratios[1]:>14}"


def _gradients(loss: Any, vae: nn.Module, x: Tensor, draws: int) -> Tensor:
    found = []
    for draw in range(draws):
        vae.zero_grad()
        torch.manual_seed(draw)
        loss.loss_and_grads(vae.model, vae.guide, x)
        found.append(
            torch.cat([torch.zeros(p.numel()) if p.grad is None else p.grad.flatten() for p in vae.parameters()])
        )
    return torch.stack(found)


def _spread(gradients: Tensor) -> Spread:
    squares = (gradients - gradients.mean(0)).double().square().sum(1)
    number = len(squares)
    return Spread(squares.sum().item() / (number - 1), squares.std().item() / number**0.5)


def _ratio(total: Spread, path: Spread) -> str:
    if not path.value:
        return "-"
    ratio = total.value / path.value
    return f"{ratio:.2f} ± {ratio * ((total.error / total.value) ** 2 + (path.error / path.value) ** 2) ** 0.5:.2f}"


def timings(rounds: int, steps: int, data_dir: str) -> Iterator[str]:
    """Yields the median time of a step of each kind; all take turns within one run."""
    rows = {(name, gradient): _Row(settings, gradient, data_dir) for name, gradient, settings in _timed()}
    times: dict[Any, list[list[float]]] = {key: [[], [], []] for key in rows}
    for _ in range(rounds):
        for key, row in rows.items():
            for kept, svi in zip(times[key], row.steps, strict=True):
                kept.append(row.time(svi, steps))
    for (name, gradient), each in times.items():
        by_pyro, traced, compiled = map(median, each)
        yield f"{name:<12}{gradient:<24}{by_pyro:>8.3f}{traced:>8.3f}{compiled:>10.3f}"


def _timed() -> Iterator[tuple[str, Gradient, dict[str, Any]]]:
    for gradient, settings in KINDS.items():
        yield settings["objective"], "total", settings
        yield settings["objective"], gradient, settings


class _Row:
    def __init__(self, settings: dict[str, Any], gradient: Gradient, data_dir: str) -> None:
        config = Config(**settings, gradient=gradient, data_dir=data_dir)
        data = build.data(config)
        self.x = data.train.fixed()[:128]
        self.steps = [self._step(config, data, mode) for mode in ("no", "auto", "yes")]

    def _step(self, config: Config, data: Any, mode: str) -> pv.inference.SVI:
        config = Config(**{**vars(config), "compile": mode})
        svi = build.svi(config, build.vae(config, *data.form))
        svi.expect(10_000)  # traced at once, and not compiled
        for _ in range(5):
            svi.step(self.x)
        return svi

    def time(self, svi: pv.inference.SVI, steps: int) -> float:
        """Milliseconds a step."""
        with svi.steady():
            start = time.perf_counter()
            for _ in range(steps):
                svi.step(self.x)
            return (time.perf_counter() - start) / steps * 1e3


if __name__ == "__main__":
    main()
