"""The ladder finds errors that are planted in the estimators, and finds none where there is none."""

import dataclasses

import pytest
import torch
from shortened import few_pilots

from pyro_vae import evaluation
from pyro_vae.evaluation.annealing import annealed
from pyro_vae.evaluation.exact import grid_search
from pyro_vae.selfcheck import ladder, misleading_cases
from pyro_vae.selfcheck.known_programs import LinearGaussian
from pyro_vae.selfcheck.ladder import FULL, MISMATCH, QUICK, Budget, Target

TINY = Budget(64, 4, 2, (2,), 10, 100, (50,), (4, 12, 12), 16)


@pytest.fixture
def hasty(monkeypatch):
    """Few pilot transitions: steps that are tuned badly, which cost spread and no bias."""
    few_pilots(monkeypatch, 12)


@pytest.fixture(scope="module")
def target():
    truth = LinearGaussian(2)
    x = truth.sample(TINY.num_data, 0)
    log_p = truth.log_evidence(x)
    bias = MISMATCH.iwae_bias
    return Target("rung", truth.program(MISMATCH), x, log_p, log_p - MISMATCH.kl(2), lambda K: bias(K, 2))


def row(rows, name):
    """The first row of that name; what comes after it is not computed."""
    return next(found for found in rows if found.estimator.startswith(name))


def changed(monkeypatch, name, change):
    """Plants an error: what the estimator of that name returns goes through `change`."""
    good = getattr(evaluation, name)
    monkeypatch.setattr(evaluation, name, lambda *args, **options: change(good(*args, **options)))


def higher(estimate, by=0.1):
    return dataclasses.replace(estimate, value=estimate.value + by)


def less_sure(estimate, factor=0.5):
    return dataclasses.replace(estimate, value_error=factor * estimate.value_error)


def test_no_estimator_of_the_first_rung_is_off(target, hasty):
    truth = LinearGaussian(2)
    rows = [
        *ladder.grids(target),
        *ladder.estimators(target, TINY, 0),
        *ladder.two_sides(target, TINY, 0, truth.log_evidence),
    ]
    assert [found.faults for found in rows] == [()] * 12
    names = [found.estimator.split(",")[0] for found in rows]
    assert names == [
        "quadrature", "identity", "identity", "elbo", "iwae_curve", "iwae_curve", "jackknife", "iwae",
        "ais from guide", "ais from prior", "bdmc forward", "bdmc reverse",
    ]  # fmt: skip


@pytest.mark.thorough
@pytest.mark.parametrize(("function", "name"), [("elbo", "elbo"), ("iwae", "iwae, "), ("ais", "ais from guide")])
def test_a_tenth_of_a_nat_is_found_and_named(monkeypatch, target, hasty, function, name):
    changed(monkeypatch, function, lambda estimate: higher(estimate, 0.3 if function == "elbo" else 0.1))
    (fault,) = row(ladder.estimators(target, TINY, 0), name).faults
    assert "nats from the truth" in fault


@pytest.mark.parametrize(("function", "name"), [("elbo", "elbo"), ("iwae", "iwae, ")])
def test_a_claimed_error_of_half_the_true_one_is_found(monkeypatch, target, function, name):
    changed(monkeypatch, function, less_sure)
    found = row(ladder.estimators(target, dataclasses.replace(TINY, num_runs=10), 0), name)
    assert len(found.faults) == 1
    assert found.faults[0].startswith("the Monte Carlo error that it claims is 0.5")


def test_a_curve_and_a_jackknife_that_are_off_are_found(monkeypatch, target):
    def bent(curve):
        bounds = {k: higher(bound, 0.1) for k, bound in curve.bounds.items()}
        return dataclasses.replace(curve, bounds=bounds, jackknife=higher(curve.jackknife, 0.1))

    changed(monkeypatch, "iwae_curve", bent)
    found = [r for r, _ in zip(ladder.estimators(target, TINY, 0), range(4), strict=False)]
    assert [bool(r.faults) for r in found] == [False, True, True, True]


def test_one_seed_for_all_data_is_found(monkeypatch, target):
    """An estimator that gives all data the same noise, here that of its first datum."""

    def shared(estimate):
        # Under this guide all data have the same distribution of weights.
        noise = (estimate.value - target.log_p)[:1]
        return dataclasses.replace(estimate, value=target.log_p + noise)

    changed(monkeypatch, "iwae", shared)
    assert any("share noise" in fault for fault in row(ladder.estimators(target, TINY, 0), "iwae, ").faults)


@pytest.mark.thorough
def test_a_step_that_follows_the_chain_it_moves_is_found(monkeypatch, target, hasty):
    """Steps in units of the slope where the chain stands: no transition of that kind leaves f_b as it is."""
    transition = annealed.transition

    def adapted(path, point, b, step, num_leapfrog):
        slope = (point.slope(b) * step).norm(dim=-1, keepdim=True)
        return transition(path, point, b, step / (0.3 + slope), num_leapfrog)

    monkeypatch.setattr(annealed, "transition", adapted)
    (fault,) = row(ladder.estimators(target, TINY, 0), "ais from guide").faults
    assert "nats from the truth" in fault


@pytest.mark.thorough
def test_grids_that_are_off_are_found(monkeypatch, target):
    changed(monkeypatch, "identity", lambda found: dataclasses.replace(found, kl=found.kl + 1e-3))
    assert [bool(r.faults) for r in ladder.grids(target)] == [False, False, True]


@pytest.mark.thorough
def test_reverse_annealing_that_is_too_low_is_found(monkeypatch, hasty):
    budget = dataclasses.replace(TINY, num_data=128)
    changed(monkeypatch, "bdmc", lambda found: dataclasses.replace(found, reverse=higher(found.reverse, -1.0)))
    (fault,) = row(ladder.simulated(budget), "bdmc forward").faults
    assert "from an upper bound" in fault


@pytest.mark.thorough
def test_classes_by_a_wrong_rule_are_found(monkeypatch):
    assert [found.faults for found in ladder.classes(TINY)] == [(), ()]

    def without_prior(found):
        return dataclasses.replace(found, log_posterior=found.log_likelihood.log_softmax(0))

    changed(monkeypatch, "classify", without_prior)
    assert [bool(found.faults) for found in ladder.classes(TINY)] == [False, True]


@pytest.mark.thorough
def test_the_second_rung_has_its_truth_from_a_grid(monkeypatch):
    changed(monkeypatch, "iwae", higher)
    found = [r for r, _ in zip(ladder.curved(dataclasses.replace(TINY, num_data=32)), range(6), strict=False)]
    names = ["identity", "elbo", "iwae_curve", "iwae_curve", "jackknife", "iwae"]
    assert [(r.estimator.split(",")[0], bool(r.faults)) for r in found] == [(n, n == "iwae") for n in names]


@pytest.mark.thorough
def test_a_grid_that_misses_a_spike_is_found(monkeypatch):
    assert [found.faults for found in misleading_cases.spike(ladder.GRID)] == [(), ()]
    monkeypatch.setattr(grid_search, "_at_spikes", lambda density, draws, height, before, tolerance: before)
    assert [bool(found.faults) for found in misleading_cases.spike(ladder.GRID)] == [True, True]


def test_a_plug_in_value_that_is_told_apart_from_0_is_found(monkeypatch):
    rows = list(misleading_cases.meets_its_prior(256, 0))
    assert [found.faults for found in rows] == [()] * 6

    def plug_in_alone(ends):
        return dataclasses.replace(ends, leave_one_out=ends)

    for name in ("marginal_kl", "total_correlation"):
        changed(monkeypatch, name, plug_in_alone)
    off = [found.estimator for found in misleading_cases.meets_its_prior(256, 0) if found.faults]
    assert [name.split(", ")[1] for name in off] == ["leave-one-out", "told from 0"] * 2


@pytest.mark.thorough
def test_a_change_by_draws_that_chose_the_data_is_found(monkeypatch):
    assert [found.faults for found in misleading_cases.chosen(500, 0)] == [(), ()]

    def by_old_draws(taken):
        return dataclasses.replace(taken, rows=[row._replace(anew=row.fixed) for row in taken.rows])

    changed(monkeypatch, "escalate", by_old_draws)
    assert [bool(found.faults) for found in misleading_cases.chosen(500, 0)] == [False, True]


def test_the_caller_is_left_as_it_was():
    before = torch.random.get_rng_state()
    list(ladder.classes(TINY))
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.slow
@pytest.mark.parametrize(("budget", "seed"), [(FULL, 0), (QUICK, 0), (QUICK, 1), (QUICK, 2)])
def test_nothing_is_off_on_the_whole_ladder(budget, seed):
    rows = list(ladder.check(budget, seed))
    assert [found for found in rows if found.faults] == []
    assert {found.rung[:6] for found in rows} == {"rung 1", "rung 2", "rung 3", "a spik", "an agg", "data c"}
