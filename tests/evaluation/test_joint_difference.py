"""Intervals over data, over seeds and over both: how often they hold a difference that is known."""

import math

import numpy as np
import pytest
import torch

from pyro_vae.evaluation import Estimate, between_seeds, over_data_and_seeds, paired, pooled, unpaired

RESAMPLES = 200


def runs(noise, num_seeds, num_data, common, seed_spread):
    """The true mean is 0: data vary by 1 in common and 0.5 of each kind's own, runs by the spread of their seeds."""
    own = 0.5 * noise.standard_normal(num_data) + common
    shifts = seed_spread * noise.standard_normal((num_seeds, 1))
    values = torch.from_numpy(own + shifts + 0.05 * noise.standard_normal((num_seeds, num_data)))
    return [Estimate("log p(x)", value, torch.zeros(num_data), 10) for value in values]


def intervals(noise, num_seeds=3, num_data=360, seed_spread=0.05):
    common = noise.standard_normal(num_data)
    first, second = (runs(noise, num_seeds, num_data, common, seed_spread) for _ in range(2))
    over_data = paired(pooled(first), pooled(second), resamples=RESAMPLES)
    joint = over_data_and_seeds(over_data, [run.mean for run in first], [run.mean for run in second])
    return over_data.interval, joint.interval


def coverage(repeats, make):
    """How often each interval holds 0."""
    ends = np.array([make(np.random.default_rng(seed)) for seed in range(repeats)])
    return ((ends[..., 0] <= 0) & (ends[..., 1] >= 0)).mean(0)


class TestCoverage:
    @pytest.mark.thorough
    @pytest.mark.parametrize(
        ("num_seeds", "num_data", "seed_spread"),
        [(3, 360, 0.1), (2, 360, 0.05), (3, 360, 0.05), (5, 360, 0.05), (5, 2000, 0.05), (3, 100, 0.0)],
    )
    def test_the_joint_interval_holds_the_truth_as_often_as_it_says(self, num_seeds, num_data, seed_spread):
        """Of 400: a share of 0.95 is known to 0.011. Unlike the data's alone, which leaves out what seeds do."""
        settings = {"num_seeds": num_seeds, "num_data": num_data, "seed_spread": seed_spread}
        over_data, joint = coverage(400, lambda noise: intervals(noise, **settings))
        assert joint > 0.95 - 4 * 0.011
        if seed_spread**2 / num_seeds > 0.5 / num_data:
            assert over_data < 0.75

    @pytest.mark.thorough
    @pytest.mark.parametrize(
        ("difference", "num_data"), [(paired, 5), (paired, 10), (paired, 20), (unpaired, 5), (unpaired, 10)]
    )
    def test_few_data_are_covered_as_well(self, difference, num_data):
        """Of 1,000 normal samples, a share known to 0.007; the BCa bootstrap alone holds 85 % at 5 and 90 % at 10."""

        def interval(noise):
            pair = (
                Estimate("v", torch.from_numpy(noise.standard_normal(num_data)), torch.zeros(num_data), 1) for _ in "ab"
            )
            return [difference(*pair, resamples=RESAMPLES).interval]

        (share,) = coverage(1000, interval)
        assert share > 0.95 - 4 * 0.007


def test_variances_add_up_and_the_degrees_are_those_of_satterthwaite():
    noise = np.random.default_rng(0)
    first, second = (runs(noise, size, 50, 0.0, 0.1) for size in (3, 4))
    over_data = paired(pooled(first), pooled(second))
    means = [run.mean for run in first], [run.mean for run in second]
    seeds, joint = between_seeds(*means), over_data_and_seeds(over_data, *means)
    a, b = over_data.standard_error**2, seeds.standard_error**2
    assert joint.mean == over_data.mean == pytest.approx(seeds.mean)
    assert joint.standard_error == pytest.approx(math.sqrt(a + b))
    assert joint.degrees_of_freedom == pytest.approx((a + b) ** 2 / (a**2 / 49 + b**2 / seeds.degrees_of_freedom))
    assert joint.interval[0] < min(over_data.interval[0], joint.mean)
    assert joint.to_dict()["interval"] == list(joint.interval)
    assert (joint.num_data, joint.num_seeds) == ((50, 50), (3, 4))


def test_seeds_that_agree_leave_the_interval_over_the_data():
    first, second = ([Estimate("v", torch.tensor([level, 2.0, 5.0]), torch.zeros(3), 1)] * 2 for level in (1.0, 3.0))
    over_data = paired(pooled(first), pooled(second))
    joint = over_data_and_seeds(over_data, *([run.mean for run in side] for side in (first, second)))
    assert joint.standard_error == pytest.approx(over_data.standard_error)
    assert joint.interval == pytest.approx(over_data.interval)
    same = over_data_and_seeds(paired(first[0], first[0]), [1.0, 1.0], [1.0, 1.0])
    assert (same.interval, same.standard_error, same.to_dict()["degrees_of_freedom"]) == ((0.0, 0.0), 0.0, None)


def test_a_single_datum_and_a_single_seed_tell_too_little():
    one = Estimate("v", torch.tensor([1.0]), torch.zeros(1), 1)
    joint = over_data_and_seeds(paired(one, one), [1.0, 2.0], [1.0, 2.5])
    assert joint.to_dict()["interval"] is None
    with pytest.raises(ValueError, match="two or more runs on each side; got 1 and 2"):
        over_data_and_seeds(paired(one, one), [1.0], [1.0, 2.0])
