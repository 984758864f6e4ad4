"""Verdicts on estimators that are made up: honest ones pass at the stated rate, each kind of fault is named."""

import json
import math

import pytest
import torch

from pyro_vae.evaluation import Estimate
from pyro_vae.experiment.run import files
from pyro_vae.selfcheck.verdicts import (
    Row,
    Runs,
    heading,
    judge,
    judge_below,
    judge_each,
    judge_independent,
    sentences,
)

N, R, E = 200, 5, 0.3
TRUTH = torch.linspace(-30, -10, N, dtype=torch.float64)


def noise(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def honest(seed, bias=0.0, claim=1.0, shared=0.0):
    """R runs with normal noise of sd E around the truth."""
    value = TRUTH + bias + E * noise(seed, R, N) + shared * noise(seed + 10**6, R, 1)
    return Runs(value, torch.full((R, N), claim * E, dtype=torch.float64))


def faults(runs, stated=0.0, leading=0.0):
    return judge("rung", "name", runs, TRUTH, stated, leading).faults


def test_an_honest_estimator_passes():
    """1000 seeds of three checks of 6e-5 each: 0.2 false alarms are expected, 3 have a probability of 1e-3."""
    assert sum(bool(faults(honest(seed))) for seed in range(1000)) < 3


def test_a_bias_is_found_unless_it_is_stated():
    error = E / math.sqrt(R * N)
    (fault,) = faults(honest(0, bias=0.1))
    assert "nats from the truth, where theory states +0.00000" in fault
    assert not faults(honest(0, bias=0.1), stated=0.1)
    assert faults(honest(0, bias=8 * error))
    assert faults(honest(0, bias=-8 * error))
    assert not faults(honest(0, bias=8 * error), leading=60 * error)
    assert faults(honest(0, bias=8 * error), leading=20 * error)
    assert sum(bool(faults(honest(seed, bias=5 * error))) for seed in range(200)) > 100


@pytest.mark.parametrize("claim", [0.5, 2.0])
def test_a_claimed_error_that_is_wrong_by_two_is_found(claim):
    (fault,) = faults(honest(0, claim=claim))
    assert fault.startswith("the Monte Carlo error that it claims is ")
    assert float(fault.split(" is ")[1].split()[0]) == pytest.approx(claim, rel=0.1)


def test_a_claim_within_twenty_percent_passes_and_none_is_not_held_against_it():
    assert not faults(honest(0, claim=0.85)) + faults(honest(0, claim=1.2))
    row = judge("rung", "name", Runs(honest(0).value), TRUTH, 0.0, 0.0)
    assert (row.claimed, row.spread, row.faults) == (None, None, ())


def test_noise_that_data_share_is_found():
    found = faults(honest(0, shared=0.3))
    assert any("different data share noise" in fault for fault in found)
    weak = [judge("rung", "name", Runs(honest(s, shared=0.08).value), TRUTH, 0.0, 1.0).faults for s in range(50)]
    assert sum(map(bool, weak)) > 25  # the variance of a mean is 15 times too large, where 6 times is allowed


def test_what_is_no_number_is_off():
    for value, claim in ((math.nan, E), (-10.0, math.nan), (math.inf, E)):
        runs = Runs(honest(0).value.clone(), honest(0).claimed.clone())
        runs.value[0, 0], runs.claimed[0, 0] = value, claim
        row = judge("rung", "name", runs, TRUTH, 0.0, 0.0)
        assert row.faults
        files.to_json(row.to_dict())


def test_without_a_statement_the_bias_is_half_the_squared_spread():
    """log of a log-normal weight of mean 1: its mean is -s^2 / 2."""
    runs = honest(0, bias=-(E**2) / 2)
    row = judge("rung", "name", runs, TRUTH)
    assert row.stated == pytest.approx(-(E**2) / 2, rel=0.2)
    assert not row.faults
    assert judge("rung", "name", honest(0), TRUTH).faults


def test_spread_and_claim_are_those_of_the_mean_of_one_run():
    row = judge("rung", "name", honest(3), TRUTH, 0.0, 0.0)
    assert row.claimed == pytest.approx(E / math.sqrt(N))
    assert row.spread == pytest.approx(E / math.sqrt(N), rel=0.15)
    assert row.error == pytest.approx(row.spread / math.sqrt(R))


@pytest.mark.parametrize("sign", [-1, 1])
def test_single_runs_of_independent_data(sign):
    value = TRUTH + sign * E**2 / 2 + E * noise(1, N)
    assert not judge_independent("rung", "name", value, TRUTH, sign).faults
    assert judge_independent("rung", "name", value, TRUTH, -sign).stated == pytest.approx(-sign * E**2 / 2, rel=0.3)
    assert judge_independent("rung", "name", value + 0.2, TRUTH, sign).faults
    assert judge_independent("rung", "name", value - 0.2, TRUTH, sign).faults


def test_one_datum_is_enough_where_there_is_no_noise():
    value = TRUTH.clone()
    value[17] += 2e-4
    assert not judge_each("rung", "name", value, TRUTH, 3e-4).faults
    assert judge_each("rung", "name", value, TRUTH, 1e-4).faults == (
        "one datum is 2.0e-04 nats from the truth, where 0.0001 is allowed",
    )
    value[17] = math.nan
    assert judge_each("rung", "name", value, TRUTH, 1e-4).faults


def test_a_lower_bound_may_be_below_and_not_above():
    upper = TRUTH + 0.1 * noise(0, N)
    assert not judge_below("rung", "name", TRUTH - 5, upper).faults
    assert not judge_below("rung", "name", upper + 0.1 * noise(1, N), upper).faults
    (fault,) = judge_below("rung", "name", upper + 0.1 + 0.1 * noise(1, N), upper).faults
    assert "from an upper bound" in fault
    assert judge_below("rung", "name", TRUTH * math.nan, upper).faults


def test_runs_are_made_of_estimates():
    estimates = [Estimate("x", torch.tensor([1.0, 2.0]), torch.tensor([0.1, 0.2]), 3) for _ in range(4)]
    runs = Runs.of(estimates)
    assert (runs.value.shape, runs.claimed.shape) == ((4, 2), (4, 2))
    assert runs.claimed[0].tolist() == pytest.approx([0.1, 0.2])


def test_a_row_prints_under_its_heading_and_every_fault_is_a_sentence():
    off = judge("rung 1", "iwae", honest(0, bias=0.1, claim=0.5), TRUTH, 0.0, 0.0)
    good = judge("rung 1", "elbo", honest(0), TRUTH, 0.0, 0.0)
    title, head = heading("rung 1").splitlines()
    assert title == "rung 1"
    assert str(off).endswith("OFF")
    assert str(good).endswith("ok")
    assert len(str(off)) == len(str(good))
    assert str(good).split()[2] == f"{TRUTH.mean():.4f}"
    assert head.index("estimate") + len("estimate") == str(good).index(f"{good.estimate:.4f}") + 8
    found = sentences([good, off])
    assert [line.startswith("OFF: iwae (rung 1): ") for line in found] == [True, True]
    assert "None of 1 rows is off" in sentences([good])[0]
    assert json.loads(files.to_json(off.to_dict()))["ok"] is False
    assert Row("a", "b", 1.0, 1.5).bias == 0.5
