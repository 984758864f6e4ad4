"""The ladder of ground truth: every estimator of log p(x) is compared with a truth that it cannot have copied.

    rung 1   linear-Gaussian programs, D = 2 and D = 10     log p(x) in closed form
    rung 2   a decoder that is not linear, D = 2            log p(x) by quadrature
    rung 3   the same with D = 20, on simulated data        forward annealing <= log p(x) <= reverse annealing
    cases    programs that can mislead an estimate          closed forms, see `misleading_cases`

`verdicts` says when an estimator is off. On rung 1 the guide misses the posterior by `MISMATCH`, so that
the bias of importance sampling has a closed form up to its second order; on rungs 2 and 3 no guide was ever fitted.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_vae import evaluation
from pyro_vae.evaluation import Estimate
from pyro_vae.progress import planned, section, through
from pyro_vae.randomness import derive, stream
from pyro_vae.selfcheck import misleading_cases
from pyro_vae.selfcheck.known_programs import LinearGaussian, Mismatch, non_linear
from pyro_vae.selfcheck.verdicts import Row, Runs, judge, judge_below, judge_each, judge_independent

GRID, RESIDUAL = 1e-4, 1e-3  # nats, for every datum
MISMATCH = Mismatch(widen=1.3, shift=0.3)
_LEAPFROG = 3
_PARTS = 7  # of a rung: estimators, each of several runs


@dataclass(frozen=True)
class Budget:
    """The amount of work on each rung.

    Attributes:
        num_data: N.
        num_runs: R, the runs of each estimator.
        annealed_runs: R of annealing, which costs most.
        dims: D of the linear-Gaussian programs.
        elbo_samples: K of the ELBO.
        curve_samples: K of the curve of bounds, of its jackknife and of classification; ten blocks of a tenth of them.
        iwae_samples: K of each `iwae`.
        temperatures: T of annealing from the guide, from the prior, and on rung 3.
        num_chains: K of annealing.
    """

    num_data: int = 200
    num_runs: int = 5
    annealed_runs: int = 3
    dims: tuple[int, ...] = (2, 10)
    elbo_samples: int = 50
    curve_samples: int = 1000
    iwae_samples: tuple[int, ...] = (100, 10_000)
    temperatures: tuple[int, int, int] = (20, 50, 80)
    num_chains: int = 16


FULL = Budget()
QUICK = Budget(128, 4, 2, (2,), 20, 200, (100,), (8, 25, 25))


class Target(NamedTuple):
    """A program, N data, and the truth about them: log p(x) and ELBO, (N,) each, and the bias of IWAE_K for any K."""

    rung: str
    vae: Any
    x: Tensor
    log_p: Tensor
    elbo: Tensor
    iwae_bias: Callable[[int], float] | None = None


def about(budget: Budget = FULL) -> str:
    """Explains the rows of all rungs, in the lines that stand above them.

    Example:
        >>> about().splitlines()[0]
        '200 data on rungs 1 and 2, 5 runs of each estimator, 3 of annealing.'
    """
    return (
        f"{budget.num_data} data on rungs 1 and 2, {budget.num_runs} runs of each estimator, {budget.annealed_runs} of "
        f"annealing.\nThe guide of rung 1 misses the exact posterior: {MISMATCH.widen:g} times as wide in every "
        f"direction, and shifted by {MISMATCH.shift:g} standard deviations in each.\n"
        "bias: estimate - truth, ± its error; stated: the bias that theory predicts; claimed ±: the Monte Carlo error\n"
        "that the estimator reports; true ±: its spread over runs. = or <=: it should equal the truth, or lie below."
    )


def check(budget: Budget = FULL, seed: int = 0) -> Iterator[Row]:
    """Climbs all rungs, and yields row by row.

    Args:
        budget: the amount of work; `FULL` takes two minutes of one core, `QUICK` a quarter of one.
        seed: the seed of programs, data and draws.
    """
    rungs = {
        **{f"rung 1, D = {D}": (9.0, linear_gaussian(D, budget, seed)) for D in budget.dims},
        "rung 1, classes": (0.5, classes(budget, seed)),
        "rung 2": (13.0, curved(budget, seed)),
        "rung 3": (9.0, simulated(budget, seed)),
        "a spike": (0.5, misleading_cases.spike(GRID)),
        "a program that meets its prior": (0.5, misleading_cases.meets_its_prior(3 * budget.num_data, seed)),
        "chosen data": (3.0, misleading_cases.chosen(4 * budget.num_data, seed)),
    }
    with planned({name: share for name, (share, _) in rungs.items()}):
        for name, (_, rows) in rungs.items():
            with section(name, name, parts=_PARTS):
                yield from rows


def linear_gaussian(latent_dim: int, budget: Budget = FULL, seed: int = 0) -> Iterator[Row]:
    """Yields the rows of rung 1: log p(x), the ELBO and the bias of importance sampling in closed form.

    Args:
        latent_dim: D.
        budget, seed: as for `check`.
    """
    truth = LinearGaussian(latent_dim, seed=seed)
    x = truth.sample(budget.num_data, seed)
    log_p = truth.log_evidence(x)
    target = Target(
        f"rung 1, linear-Gaussian, D = {latent_dim}",
        truth.program(MISMATCH),
        x,
        log_p,
        log_p - MISMATCH.kl(latent_dim),
        lambda K: MISMATCH.iwae_bias(K, latent_dim),
    )
    if latent_dim <= 3:
        yield from grids(target)
    yield from estimators(target, budget, seed)
    yield from two_sides(target, budget, seed, truth.log_evidence)


def classes(budget: Budget = FULL, seed: int = 0) -> Iterator[Row]:
    """Yields the rows of rung 1 with labels: log p(x|y) and log p(y|x) of three classes in closed form."""
    rung, truth, K = "rung 1, three classes, D = 2", LinearGaussian(2, num_classes=3, seed=seed), budget.curve_samples
    every, p = torch.eye(3, dtype=torch.float64), torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    x, vae = truth.sample(budget.num_data, seed, every[torch.arange(budget.num_data) % 3]), truth.program(MISMATCH)
    log_p = torch.stack([truth.log_evidence(x, y.expand(len(x), 3)) for y in every])
    classified = [evaluation.classify(vae, x, p, K, derive(seed, rung, run)) for run in range(budget.num_runs)]
    runs = Runs(torch.stack([run.log_likelihood[0] for run in classified]))
    yield judge(rung, f"classify, log p(x|y = 0), K = {K}", runs, log_p[0], MISMATCH.iwae_bias(K, 2))
    # The classes of a datum share their noise, and this guide misses all their posteriors by the same amount: it
    # cancels.
    posterior = (log_p + p.log()[:, None]).log_softmax(0)
    yield judge_each(rung, f"classify, log p(y|x), K = {K}", classified[0].log_posterior, posterior, GRID)


def curved(budget: Budget = FULL, seed: int = 0) -> Iterator[Row]:
    """Yields the rows of rung 2: posteriors that are not normal, in two dimensions, where a grid has the truth."""
    vae = non_linear(2, 16, gain=2.0, seed=seed)
    with stream(seed, "curved"):
        x = vae.generate(budget.num_data)
    terms = evaluation.identity(vae, x)
    target = Target("rung 2, non-linear decoder, D = 2", vae, x, terms.evidence.value, terms.elbo)
    yield judge_each(target.rung, "identity, ELBO + KL", terms.elbo + terms.kl, target.log_p, RESIDUAL)
    yield from estimators(target, budget, seed)
    yield from two_sides(target, budget, seed, lambda x: evaluation.quadrature(vae, x).value)


def simulated(budget: Budget = FULL, seed: int = 0) -> Iterator[Row]:
    """Yields the rows of rung 3: no truth, but a bound from either side, on data that the program simulates."""
    rung, vae, T = "rung 3, simulated data, D = 20", non_linear(20, 64, gain=2.0, seed=seed), budget.temperatures[2]
    bounds, K = _bdmc(vae, budget, T, derive(seed, rung, "bdmc")), budget.iwae_samples[-1]
    lower, upper, x = bounds.forward.value, bounds.reverse.value, bounds.x
    yield judge_below(rung, f"bdmc forward, T = {T}", lower, upper)
    # Forward weights have the mean p(x), reverse ones 1 / p(x), and they are independent: E[exp(difference)] = 1.
    yield judge_independent(rung, "bdmc forward - reverse", lower - upper, torch.zeros_like(upper), -1)
    noise = derive(seed, rung, "lower bounds")
    elbo = evaluation.elbo(vae, x, budget.elbo_samples, seed=noise)
    yield judge_below(rung, f"elbo, K = {budget.elbo_samples}", elbo.value, upper)
    yield judge_below(rung, f"iwae, K = {K}", evaluation.iwae(vae, x, K, seed=noise).value, upper)
    yield judge_below(rung, f"ais from prior, T = {T}", _ais(vae, x, budget, T, "prior", noise).value, upper)


def grids(target: Target) -> Iterator[Row]:
    """Yields quadrature, and both parts of the identity log p(x) = ELBO + KL(q(z|x) || p(z|x)), datum by datum."""
    terms = evaluation.identity(target.vae, target.x)
    for name, value, truth in (
        ("quadrature", terms.evidence.value, target.log_p),
        ("identity, ELBO", terms.elbo, target.elbo),
        ("identity, KL(q(z|x)||p(z|x))", terms.kl, target.log_p - target.elbo),
    ):
        yield judge_each(target.rung, name, value, truth, GRID)


def estimators(target: Target, budget: Budget, seed: int) -> Iterator[Row]:
    """Yields ELBO, importance-weighted bounds, their jackknife, and annealing from the guide and from the prior.

    Args:
        target: the program, its data, and the truth about them.
        budget: the amount of work.
        seed: the seed of the draws.
    """
    rung, vae, x, log_p, elbo, iwae_bias = target

    def repeated(name: str, num_runs: int, estimate: Callable[..., Estimate]) -> Runs:
        return Runs.of(estimate(seed=derive(seed, rung, name, run)) for run in through("", range(num_runs)))

    K = budget.elbo_samples
    runs = repeated("elbo", budget.num_runs, partial(evaluation.elbo, vae, x, K))
    yield judge(rung, f"elbo, K = {K}", runs, elbo, 0.0, 0.0)
    yield from _curve(target, budget, seed)
    for K in budget.iwae_samples:
        runs = repeated(f"iwae {K}", budget.num_runs, partial(evaluation.iwae, vae, x, K))
        yield judge(rung, f"iwae, K = {K}", runs, log_p, iwae_bias(K) if iwae_bias else None)
    for start, T in zip(("guide", "prior"), budget.temperatures[:2], strict=True):
        runs = repeated(start, budget.annealed_runs, partial(_ais, vae, x, budget, T, start))
        yield judge(rung, f"ais from {start}, T = {T}", runs, log_p)


def _curve(target: Target, budget: Budget, seed: int) -> Iterator[Row]:
    rung, vae, x, log_p, elbo, iwae_bias = target
    K, k = budget.curve_samples, budget.curve_samples // 10
    seeds = [derive(seed, rung, "curve", run) for run in range(budget.num_runs)]
    curves = [evaluation.iwae_curve(vae, x, K, seed=noise) for noise in seeds]
    single, tenth = (Runs.of(curve.bounds[size] for curve in curves) for size in (1, k))
    yield judge(rung, f"iwae_curve, k = 1 of {K}", single, elbo, 0.0, 0.0)
    leading = 10 * tenth.half_variance  # of a block: the value is the mean of ten
    yield judge(rung, f"iwae_curve, k = {k} of {K}", tenth, log_p, iwae_bias(k) if iwae_bias else -leading, leading)
    yield judge(rung, f"jackknife, K = {K}", Runs.of(curve.jackknife for curve in curves), log_p, 0.0)


def two_sides(target: Target, budget: Budget, seed: int, log_evidence: Callable[[Tensor], Tensor]) -> Iterator[Row]:
    """Yields annealing both ways, on data that the program simulates, against the truth of those data.

    Args:
        target: the program.
        budget: the amount of work.
        seed: the seed of data and draws.
        log_evidence: data (N, *x_shape) -> log p(x), (N,).
    """
    T, name = budget.temperatures[0], "bdmc {}, T = {}"
    bounds = _bdmc(target.vae, budget, T, derive(seed, target.rung, "bdmc"))
    truth = log_evidence(bounds.x)
    yield judge_independent(target.rung, name.format("forward", T), bounds.forward.value, truth, -1)
    yield judge_independent(target.rung, name.format("reverse", T), bounds.reverse.value, truth, 1)


def _ais(vae: Any, x: Tensor, budget: Budget, T: int, start: str, seed: int) -> Estimate:
    return evaluation.ais(vae, x, T, budget.num_chains, seed=seed, start=start, num_leapfrog=_LEAPFROG)


def _bdmc(vae: Any, budget: Budget, T: int, seed: int) -> evaluation.BidirectionalEstimate:
    return evaluation.bdmc(vae, budget.num_data, T, budget.num_chains, seed=seed, num_leapfrog=_LEAPFROG)
