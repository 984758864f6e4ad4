"""Escalation against closed forms: it finds what the fixed K misses, keeps its budget, and leaves good data alone.

The guide of a linear-Gaussian program is exact for data of one sign and far too narrow for the others. Seeds are fixed;
bounds are 4 errors, and 0.1 nat for the bias that the text of each test states.
"""

import copy
import json
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from cases import thorough
from exact import ProbabilisticPCA, binary_data, small_vae
from shortened import few_pilots
from torch import nn

import pyro_vae as pv
from pyro_vae.evaluation import escalate, iwae, log_weights, psis_khat
from pyro_vae.evaluation.annealing import annealed, hamiltonian
from pyro_vae.evaluation.trust import escalation
from pyro_vae.evaluation.trust.diagnostics import Datum
from pyro_vae.evaluation.trust.escalation import EscalatedDatum, Escalation, Stage, annealing_cost

SHORT = {"num_temperatures": 60, "num_chains": 16}
SHORTEST = {"num_temperatures": 5, "num_chains": 4}  # where the answer is not looked at


@pytest.fixture(autouse=True)
def hasten(monkeypatch):
    few_pilots(monkeypatch)


def counted(vae):
    """Filled with the number of z's of each call of the decoder."""
    rows = []
    vae.likelihood.decoder.register_forward_hook(lambda module, z, output: rows.append(z[0][..., 0].numel()))
    return rows


class Uneven(pv.posteriors.Posterior):
    """The exact posterior; where the first number of x is positive, narrowed to 0.45 or 0.2 of its width."""

    def __init__(self, truth):
        super().__init__(nn.Identity(), truth.latent_dim)
        self.truth = truth

    def forward(self, x, y=None):
        exact = self.truth.posterior(x)
        ratio = torch.where(x[..., 0] > 0, torch.where(x[..., 1] > 0, 0.45, 0.2), 1.0)[..., None, None]
        return dist.MultivariateNormal(exact.mean, exact.covariance_matrix * ratio**2)


@pytest.fixture(scope="module")
def truth():
    return ProbabilisticPCA()


@pytest.fixture(scope="module")
def case(truth):
    """The program, 60 data and the weights of the headline."""
    vae = pv.VAE(pv.priors.StandardNormal(2), Uneven(truth), truth.vae().likelihood).double()
    x = truth.data(60)
    return vae, x, log_weights(vae, x, 200, seed=0)


@pytest.fixture(scope="module")
def found(case):
    vae, x, weights = case
    with pytest.MonkeyPatch.context() as patch:
        few_pilots(patch)
        return escalate(vae, x, weights=weights, **SHORT, seed=0)


def heavy(K, N):
    """Logarithms of weights whose tails are too heavy, k = 3."""
    noise = torch.Generator().manual_seed(7)
    return -3 * torch.rand(K, N, generator=noise, dtype=torch.float64).log()


def in_full(plan=SHORTEST):
    """What a datum costs that is annealed: samples that choose, the fixed K anew, and annealing."""
    return 9 * 200 + 200 + annealing_cost(**plan)


class TestTruth:
    def test_it_ends_at_the_exact_value_and_leaves_good_data_alone(self, truth, case, found):
        """Within 4 errors and 0.25 nat: the bias of 60 temperatures that begin at a fifth of the posterior's width."""
        _, x, weights = case
        khat, fixed = psis_khat(weights), weights.logsumexp(0) - math.log(200)
        taken = [row.datum for row in found.rows]
        assert [row.fixed.khat for row in found.rows] == sorted(khat[khat > 0.7].tolist(), reverse=True)
        assert (x[taken, 0] > 0).all()
        assert 0 < sum(row.annealed is not None for row in found.rows) < len(taken)
        exact = truth.evidence().log_prob(x)
        off = torch.tensor([row.answer.value for row in found.rows]) - exact[taken]
        error = torch.tensor([row.answer.error for row in found.rows])
        assert (off.abs() < 4 * error + 0.25).all()
        assert abs(off.mean()) < 4 * error.square().sum().sqrt() / len(off) + 0.1
        assert off.abs().mean() < (fixed - exact)[taken].abs().mean() / 2

    @pytest.mark.thorough
    def test_where_annealing_has_the_last_word_it_is_within_its_error(self, truth, case):
        """Two blocks of data, with a threshold that no k-hat meets. A logarithm lies low by half its squared error."""
        vae, x = case[0], truth.data(140)
        x[:, 0], x[:, 1] = x[:, 0].abs(), x[:, 1].abs()
        rows = escalate(vae, x, threshold=-5.0, more=2, **SHORT, seed=1).rows
        off = torch.tensor([row.answer.value for row in rows]) - truth.evidence().log_prob(x[[r.datum for r in rows]])
        bias = -torch.tensor([row.answer.error for row in rows]).square() / 2
        assert len(rows) == 140
        assert all(row.answer is row.annealed for row in rows)
        assert off.std() < 0.2
        assert abs((off - bias).mean()) < 4 * off.std() / 140**0.5

    @pytest.mark.thorough
    def test_draws_that_chose_the_data_are_in_no_answer(self, truth):
        """Every datum has the same distribution of weights, whose bias at K draws is that of many sets of K draws.

        The fixed K of the chosen data lies above the truth, though its bias is below. By draws of their own it has its
        bias again, the answers have that of 9 K draws, and the change of the mean that of what is missing at K.
        """
        vae, x = truth.vae(widen=0.5), truth.data(1000)
        noise = torch.Generator().manual_seed(1)

        def simulated(draws, sets):
            u = torch.randn(2, draws, sets, generator=noise, dtype=torch.float64)
            log_weight = 2 * math.log(0.5) + u.square().sum(0) * (1 - 0.5**2) / 2
            return (log_weight.logsumexp(0) - math.log(draws)).mean()

        bias, bias_of_more = simulated(100, 20_000), simulated(900, 5000)
        found = escalate(vae, x, num_samples=100, num_temperatures=20, num_chains=8, budget=10**8, seed=0)
        exact = truth.evidence().log_prob(x)

        def off(rows, name):
            values = torch.tensor([getattr(row, name).value for row in rows], dtype=torch.float64)
            values = values - exact[[row.datum for row in rows]]
            return values.mean(), values.std() / len(values) ** 0.5

        hard, easy = ([row for row in found.rows if (row.annealed is not None) is kind] for kind in (True, False))
        assert min(len(hard), len(easy)) > 100
        chose, chose_error = off(found.rows, "fixed")
        assert chose > 4 * chose_error
        for rows, name, expected in ((hard, "anew", bias), (easy, "anew", bias), (easy, "answer", bias_of_more)):
            value, error = off(rows, name)
            assert abs(value - expected) < 4 * error
        answer, answer_error = off(found.rows, "answer")
        assert bias < answer < 4 * answer_error
        assert (answer - chose) * len(found.rows) / 1000 < -4 * found.mean_change_error  # what it used to say
        missing = (answer - bias) * len(found.rows) / 1000
        assert abs(found.mean_change - missing) < 4 * found.mean_change_error
        assert found.mean_change > 3 * found.mean_change_error

    def test_the_change_of_the_mean(self, found):
        errors = [error for row in found.rows for error in (row.answer.error, row.anew.error)]
        change = sum(row.answer.value - row.anew.value for row in found.rows) / 60
        assert found.mean_change == pytest.approx(change, abs=1e-12)
        assert found.mean_change_error == pytest.approx(math.hypot(*errors) / 60, rel=1e-6)

    def test_each_stage_is_its_estimate(self, case, found):
        vae, x, weights = case
        headline, khat = iwae(vae, x, 200, seed=0), psis_khat(weights)
        for row in found.rows:
            assert row.fixed.value == pytest.approx(headline.value[row.datum].item(), abs=1e-12)
            assert row.fixed.error == pytest.approx(headline.value_error[row.datum].item(), rel=1e-9)
            assert row.fixed.khat == khat[row.datum]
            assert (row.annealed is None) == (row.more.khat <= 0.7)
            assert row.answer is (row.annealed or row.more)

    @pytest.mark.parametrize("khat", [*thorough(0.7), 99.0])
    def test_more_samples_are_new(self, case, monkeypatch, khat):
        """The draws of one datum are known; no value of a later stage holds any of the old weights."""
        vae, x, weights = case
        new = []
        draw = escalation.log_weights
        monkeypatch.setattr(escalation, "log_weights", lambda *args: new.append(draw(*args)) or new[-1])
        monkeypatch.setattr(escalation, "worst_data", lambda *_: [Datum(7, 1.0)])
        before, after = (
            escalate(vae, x, weights=old, threshold=khat, **SHORTEST, budget=in_full(), seed=0).rows[0]
            for old in (weights, weights + 5.0)
        )
        choosing, again = new[0][:, 0], new[1][:, 0]
        answering = choosing if before.annealed else again
        assert (len(choosing), len(again)) == (9 * 200, 200 if before.annealed else 9 * 200)
        assert not set(choosing.tolist()) & set(again.tolist())
        assert before.more.cost + before.anew.cost == len(choosing) + len(again)
        assert after.fixed.value == pytest.approx(before.fixed.value + 5)
        assert (after.more[:2], after.anew[:2]) == (before.more[:2], before.anew[:2])
        assert before.more.value == pytest.approx((answering.logsumexp(0) - math.log(1800)).item())
        assert before.more.khat == psis_khat(torch.cat([weights[:, 7], choosing])[:, None]).item()
        blocks = again.reshape(-1, 200).logsumexp(1) - math.log(200)
        assert before.anew.value == pytest.approx(blocks.mean().item())

    @pytest.mark.thorough
    def test_without_weights_it_draws_those_of_the_headline(self, case):
        vae, x, weights = case
        drawn = escalate(vae, x, num_samples=200, **SHORTEST, seed=0)
        assert drawn.to_dict() == escalate(vae, x, weights=weights, **SHORTEST, seed=0).to_dict()


class TestBudget:
    @pytest.mark.thorough
    def test_what_annealing_costs_is_what_it_runs(self, monkeypatch):
        """Every decoder call of `ais` on 5 data is counted."""
        vae, x = small_vae(), binary_data(5)
        rows = counted(vae)
        for T, K, pilots, most in ((0, 3, 20, 200), (7, 40, 10, 200), (10, 2, 25, 200), (10, 2, 25, 4)):
            monkeypatch.setattr(hamiltonian, "PILOT_TRANSITIONS", pilots)
            monkeypatch.setattr(hamiltonian, "PILOT_TEMPERATURES", most)
            rows.clear()
            annealed.ais(vae, x, T, K, seed=0)
            assert sum(rows) == 5 * annealing_cost(T, K)

    def test_what_is_spent_is_what_is_run(self, case):
        vae, x, weights = case
        vae = copy.deepcopy(vae)
        rows = counted(vae)
        found = escalate(vae, x, weights=weights, **SHORTEST, seed=0)
        probes = 2 * 3 * len(found.rows)  # one and two draws of each datum tell how large a block may be, twice
        assert sum(rows) == found.spent + probes > probes
        assert f"{found.spent:,} of at most 2,000,000 evaluations of the decoder" in str(found)

    @pytest.mark.parametrize("data", [0, 1, *thorough(3)])
    def test_it_is_kept_and_the_worst_come_first(self, case, data):
        vae, x, weights = case
        found = escalate(vae, x, weights=weights, **SHORTEST, budget=(data + 1) * in_full() - 1, seed=0)
        order = psis_khat(weights).argsort(descending=True).tolist()
        assert [row.datum for row in found.rows] == order[: len(found.rows)]
        assert found.left_out == order[len(found.rows) : found.above]
        assert len(found.left_out) > 0
        assert found.spent <= found.budget
        assert len(found.rows) >= data
        assert found.above == (psis_khat(weights) > 0.7).sum()

    def test_with_none_nothing_is_taken(self, case):
        found = escalate(*case[:2], weights=case[2], budget=0, seed=0)
        assert (found.rows, len(found.left_out)) == ([], found.above)
        assert found.above > 0

    def test_what_easy_data_save_goes_to_the_next_with_noise_of_their_own(self, truth):
        """Eight times one datum: old weights have heavy tails, but are lost among new ones. 3 rounds."""
        vae, x = truth.vae(widen=1.2), truth.data(1).expand(8, -1)
        weights = heavy(200, 8) - 100
        found = escalate(vae, x, weights=weights, **SHORTEST, budget=in_full() + 2 * 3600, seed=0)
        assert all(row.annealed is None for row in found.rows)
        assert len(found.rows) == 3
        assert found.spent == 3 * 3600
        assert len({row.more.value for row in found.rows}) == 3
        assert [row.to_dict()["more_samples"] for row in found.rows] == [1800] * 3


def test_nothing_above_the_threshold(truth):
    found = escalate(truth.vae(), truth.data(5), num_samples=100, **SHORT, seed=0)
    assert (found.rows, found.left_out, found.spent, found.mean_change) == ([], [], 0, 0.0)
    assert str(found).count("\n") == 0
    assert found.to_dict()["taken"] == found.to_dict()["of"] == 0


def test_report(case):
    vae, x, weights = case
    found = escalate(vae, x, weights=weights, **SHORTEST, budget=4 * in_full(), seed=0)
    numbers = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert (numbers["taken"], numbers["of"], numbers["num_data"]) == (len(found.rows), found.above, len(x))
    assert numbers["left_out"] == len(found.left_out)
    assert numbers["budget"] == f"{found.spent:,} of at most {4 * in_full():,} evaluations of the decoder"
    assert numbers["mean_change"] == found.mean_change
    for row, wanted in zip(numbers["rows"], found.rows, strict=True):
        assert row["datum"] == wanted.datum
        assert [row[name] for name in ("iwae", "iwae_error", "khat")] == list(wanted.fixed[:3])
        assert [row[name] for name in ("iwae_more", "iwae_more_error", "khat_more")] == list(wanted.more[:3])
        assert [row[name] for name in ("iwae_anew", "iwae_anew_error")] == list(wanted.anew[:2])
        assert [row[name] for name in ("ais", "ais_error")] == list((wanted.annealed or (None, None))[:2])
        assert row["more_samples"] == 1800
        assert row["answer"] == ("AIS" if wanted.annealed else "more samples")
    lines = str(found).splitlines()
    assert [int(line.split()[0]) for line in lines[2:-1]] == [row.datum for row in found.rows]
    assert f"over 60 data by {found.mean_change:+.4f} nats" in lines[-1]


def test_the_draws_that_chose_a_datum_do_not_mark_its_annealing():
    high, low = Stage(-100.0, 0.1, 1.5, 10), Stage(-104.0, 0.1, 1.5, 10)
    assert not EscalatedDatum(7, high, low, low, low).missed


def test_annealing_far_below_the_samples_is_marked_and_long_tables_are_cut():
    first, lower, low = (Stage(value, 0.1, 1.5, 10) for value in (-100.0, -102.9, -103.1))
    fine, missed = EscalatedDatum(7, first, lower, lower, first), EscalatedDatum(8, lower, first, low, first)
    assert (fine.missed, missed.missed, EscalatedDatum(9, first, lower, None, first).missed) == (False, True, False)
    assert (fine.to_dict()["missed"], missed.to_dict()["missed"]) == (False, True)
    lines = str(Escalation([fine, missed] * 15, [], 40, 0.7, 1000, 5, 2)).splitlines()
    assert ["too low" in line for line in lines[2:26]] == [False, True] * 12
    assert lines[26] == "and 6 more"
    assert len(lines) == 28


@pytest.mark.thorough
def test_labels_go_with_their_data():
    """x = 10 y + noise, whatever z: a wrong label is off by far."""

    class Labelled(nn.Module):
        def forward(self, z, y=None):
            return (10 * y).expand(*z.shape[:-1], 2)

    noise = torch.Generator().manual_seed(0)
    y = torch.eye(2, dtype=torch.float64)[torch.arange(6) % 2]
    x = 10 * y + 0.1 * torch.randn(6, 2, generator=noise, dtype=torch.float64)
    posterior = pv.posteriors.DiagonalNormal(pv.networks.MLP((2,), (2,), (3,), y_dim=2), 1)
    vae = pv.VAE(pv.priors.StandardNormal(1), posterior, pv.likelihoods.Normal(Labelled(), scale=0.1)).double()
    found = escalate(vae, x, y, weights=heavy(50, 6), threshold=-9.0, **SHORT, seed=0)
    exact = vae.likelihood(torch.zeros(6, 1), y).log_prob(x)
    assert len(found.rows) == 6
    assert all(row.annealed is not None for row in found.rows)
    assert all(abs(row.answer.value - exact[row.datum]) < 0.5 for row in found.rows)


@pytest.mark.thorough
def test_it_is_reproducible_and_changes_nothing(case):
    vae, x, weights = case
    before, options = weights.clone(), {"weights": weights, **SHORTEST}
    found = escalate(vae, x, **options, seed=0)
    vae.train()
    state = torch.get_rng_state()
    assert escalate(vae, x, **options, seed=0).to_dict() == found.to_dict()
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(weights, before)
    assert vae.training
    assert not list(pyro.get_param_store())
    one = {**options, "budget": in_full()}
    first, other = (escalate(vae, x, **one, seed=seed).rows[0] for seed in (0, 2))
    assert other.more != first.more
    assert other.annealed != first.annealed is not None
    assert escalate(vae, x, **one).rows[0].more != escalate(vae, x, **one).rows[0].more


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"more": 1}, "more must be at least 2 and budget at least 0; got 1 and 2000000"),
        ({"budget": -1}, "got 10 and -1"),
        ({"num_samples": 24}, "k-hat needs 25 samples or more; got 24"),
        ({"weights": torch.zeros(30, 2)}, r"\(K, N\) of the same data; got \(30, 2\), but N = 3"),
        ({"weights": torch.zeros(3)}, r"\(K, N\) of the same data; got \(3,\), but N = 3"),
    ],
)
def test_mistakes(options, message):
    with pytest.raises(ValueError, match=message):
        escalate(small_vae(), binary_data(3), **options)
