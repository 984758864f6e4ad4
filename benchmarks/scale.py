"""What scale costs: log p(x) against N, K, D and processes, training against width, and on paper a billion images.

python benchmarks/scale.py                 # prints the tables of docs/scale.md, as Markdown
python benchmarks/scale.py --repeats 1 --quick

Each process has one thread. What is reported is processor time, which other processes on a busy machine lengthen far
less than they lengthen the clock's; where several processes share the work, both are.
"""

import argparse
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from pyro.infer import TraceMeanField_ELBO

import pyro_vae as pv
from pyro_vae.evaluation.memory import DATA_BLOCK

PIXELS = 784
IMAGES = 10**9


@dataclass(frozen=True)
class Point:
    """N data, K draws each, D latent numbers, H hidden units, shared out over so many processes."""

    N: int = 256
    K: int = 100
    D: int = 20
    H: int = 400
    processes: int = 1


def points(quick: bool) -> Iterator[Point]:
    """One of them grows, the others stay."""
    if quick:
        yield from (Point(N=128, K=8, H=32), Point(N=128, K=8, H=32, processes=2))
        return
    yield from (Point(N=N) for N in (128, 256, 512))
    yield from (Point(K=K) for K in (10, 1000))
    yield from (Point(D=D) for D in (2, 200))
    yield Point(N=512, processes=2)


def program(D: int, H: int) -> pv.VAE:
    """The MLP of the README's table: 784-H-D-H-784."""
    encoder, decoder = pv.networks.MLP((PIXELS,), (2 * D,), hidden=(H,)), pv.networks.MLP((D,), (PIXELS,), hidden=(H,))
    posterior = pv.posteriors.DiagonalNormal(encoder, latent_dim=D)
    return pv.VAE(pv.priors.StandardNormal(latent_dim=D), posterior, pv.likelihoods.Bernoulli(decoder))


def images(size: int) -> torch.Tensor:
    """(N, 784), binary."""
    return (torch.rand(size, PIXELS, generator=torch.Generator().manual_seed(0)) < 0.2).float()


def share(point: Point, place: int) -> float:
    """Seconds of the processor for the blocks of one process: every n-th of 128 data."""
    torch.set_num_threads(1)
    vae, x = program(point.D, point.H), images(point.N)
    blocks = [(i, block) for i, block in enumerate(x.split(DATA_BLOCK)) if i % point.processes == place]
    pv.evaluation.iwae(vae, x[:2], 9, seed=0)  # what is done once
    begun = time.process_time()
    for i, block in blocks:
        pv.evaluation.iwae(vae, block, point.K, seed=0, first_block=i)
    return time.process_time() - begun


def log_likelihood(point: Point, repeats: int) -> tuple[float, float]:
    """Seconds of the processor in all, and of the clock, for log p(x) of all N data: medians."""
    if point.processes == 1:
        return middle(lambda: [share(point, 0)], repeats)
    with multiprocessing.get_context("spawn").Pool(point.processes) as pool:
        pool.starmap(share, [(Point(N=DATA_BLOCK, K=9), 0)] * point.processes, chunksize=1)  # torch is imported
        wanted = [(point, place) for place in range(point.processes)]
        return middle(lambda: pool.starmap(share, wanted, chunksize=1), repeats)


def middle(ask: Callable[[], list[float]], repeats: int) -> tuple[float, float]:
    """Medians of the sum of what is returned, and of the seconds that it takes."""
    found = []
    for _ in range(repeats):
        begun = time.perf_counter()
        seconds = sum(ask())
        found.append((seconds, time.perf_counter() - begun))
    sums, clocks = zip(*found, strict=True)
    return statistics.median(sums), statistics.median(clocks)


def training(H: int, batch: int = 128, steps: int = 20) -> float:
    """Seconds of the processor a datum, of traced steps."""
    torch.set_num_threads(1)
    vae, x = program(20, H), images(batch)
    adam = torch.optim.Adam(vae.parameters(), lr=1e-3, fused=True)
    svi = pv.inference.SVI(vae.model, vae.guide, adam, TraceMeanField_ELBO())
    svi.expect(2_000)  # so many are traced from the first step on
    for _ in range(3):
        svi.step(x)
    begun = time.process_time()
    for _ in range(steps):
        svi.step(x)
    return (time.process_time() - begun) / (steps * batch)


def days(seconds: float) -> str:
    """A duration as a person says it.

    >>> days(90), days(7200), days(86400 * 800)
    ('1.5 min', '2.0 h', '2.2 years')
    """
    for unit, size in (("years", 365.25 * 86400), ("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:.1f} s"


def paper(few: float, many: float, datum: float) -> Iterator[str]:
    """What a billion images would cost, from seconds a draw, at K = 100 and at K = 1000, and a training datum."""
    yield "| 10⁹ images of 784 pixels | one core | 2 cores | 1,000 cores |"
    yield "|---|---:|---:|---:|"
    work = {"log p(x), K = 100": 100 * few, "log p(x), K = 5000": 5000 * many, "a training epoch, H = 400": datum}
    for name, each in work.items():
        yield f"| {name} | {' | '.join(days(IMAGES * each / cores) for cores in (1, 2, 1000))} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="shows that everything runs; the numbers mean nothing")
    options = parser.parse_args()
    print("| N | K | D | processes | processor, s | clock, s | µs a draw |\n|---:|---:|---:|---:|---:|---:|---:|")
    draws: dict[Point, float] = {}
    for point in points(options.quick):
        seconds, clock = log_likelihood(point, options.repeats)
        each = seconds / (point.N * point.K)
        draws[point] = each
        row = f"| {point.N} | {point.K} | {point.D} | {point.processes}"
        print(f"{row} | {seconds:.2f} | {clock:.2f} | {1e6 * each:.1f} |", flush=True)
    print("\n| H | training, µs a datum |\n|---:|---:|")
    widths = {}
    for H in (400,) if options.quick else (64, 400, 1000):
        widths[H] = statistics.median(training(H) for _ in range(options.repeats))
        print(f"| {H} | {1e6 * widths[H]:.1f} |", flush=True)
    few, many = (draws.get(point, each) for point in (Point(), Point(K=1000)))
    print("\n" + "\n".join(paper(few, many, widths[400])))
    print(f"\nLoad average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores.")


if __name__ == "__main__":
    main()
