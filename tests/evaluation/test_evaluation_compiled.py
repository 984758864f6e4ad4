"""Compiled blocks of draws are the program's own, but for the order of sums, and only where they are asked for."""

import logging
import random

import pyro
import pyro.distributions as dist
import pytest
import torch
from cases import needs_compiler, thorough
from exact import ProbabilisticPCA, binary_data, small_vae, two_layers

import pyro_vae as pv
from pyro_vae import evaluation
from pyro_vae.errors import DataError
from pyro_vae.evaluation import compiled
from pyro_vae.evaluation.block_graphs import FEWEST_DRAWS, BlockGraph
from pyro_vae.evaluation.estimators import read_terms

K = FEWEST_DRAWS + 8  # the last block is not a whole one


@pytest.fixture
def drawn(monkeypatch):
    """How many blocks were drawn by graphs."""
    calls = []
    own = BlockGraph.draw
    monkeypatch.setattr(BlockGraph, "draw", lambda self, prepared: calls.append(1) or own(self, prepared))
    return calls


def vamp():
    posterior = pv.posteriors.DiagonalNormal(pv.networks.MLP((6,), (6,), hidden=(8,)), 3)
    decoder = pv.networks.MLP((3,), (6,), hidden=(8,))
    return pv.VAE(pv.priors.VampPrior(posterior, (6,), 5), posterior, pv.likelihoods.Bernoulli(decoder)).double()


PROGRAMS = [small_vae, vamp, *thorough(two_layers, lambda: two_layers("bottom_up"))]


@pytest.mark.parametrize("make", PROGRAMS)
def test_graphs_draw_the_same_numbers(make, traced_only, drawn):
    vae, x = make(), binary_data(130)
    expected = evaluation.log_weights(vae, x, K, seed=3)
    assert not drawn
    with compiled():
        found = evaluation.log_weights(vae, x, K, seed=3)
    assert len(drawn) == FEWEST_DRAWS // 32  # the short block of data and the short block of draws are the program's
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=0)


@pytest.mark.thorough
@needs_compiler
def test_compiled_graphs_agree(drawn):
    vae, x = small_vae(), binary_data(40)
    expected = evaluation.iwae(vae, x, K, seed=3)
    with compiled():
        found = evaluation.iwae(vae, x, K, seed=3)
    assert drawn
    torch.testing.assert_close(found.value, expected.value, rtol=1e-12, atol=0)
    torch.testing.assert_close(found.value_error, expected.value_error, rtol=1e-9, atol=0)


def test_the_exact_posterior_has_constant_weights(traced_only, drawn):
    truth = ProbabilisticPCA()
    x = truth.data(20)
    with compiled():
        weights = evaluation.log_weights(truth.vae(), x, K, seed=0)
    assert drawn
    torch.testing.assert_close(weights, truth.evidence().log_prob(x).expand(K, -1), rtol=1e-9, atol=1e-9)


def test_named_results_and_what_never_changes(traced_only):
    vae, x = small_vae(), binary_data(5)
    plain = evaluation.elbo_terms(vae, x, K, seed=1)
    with compiled():
        found = evaluation.elbo_terms(vae, x, K, seed=1)
    assert found.elbo.kind == {"z": "analytic"}
    torch.testing.assert_close(found.elbo.value, plain.elbo.value, rtol=1e-13, atol=0)
    torch.testing.assert_close(found.kl.value, plain.kl.value, rtol=1e-13, atol=0)


def test_an_encoder_runs_once_for_each_datum(traced_only):
    graph = BlockGraph(small_vae().eval(), read_terms, 32, (binary_data(5),))
    early, late = (
        [str(node.target) for node in part.module.graph.nodes if node.op == "call_function"]
        for part in (graph._before, graph._after)
    )
    assert sum("mm" in name for name in early) == 2  # products of matrices: those of the encoder
    assert sum("mm" in name for name in late) == 2  # those of the decoder
    assert sum("normal" in name for name in late) == 1


def test_values_may_change_and_so_may_members(traced_only, drawn):
    vae, x = small_vae(), binary_data(5)
    with compiled():
        for _ in range(2):
            with torch.no_grad():
                vae.likelihood.decoder.output_bias += 0.3
            check_same(vae, x)
        vae.prior = pv.priors.Laplace(3).double()
        check_same(vae, x)
        vae.posterior.encoder.precision = "bfloat16"
        check_same(vae, x)
    assert len(drawn) == 4 * FEWEST_DRAWS // 32


def check_same(vae, x):
    found = evaluation.log_weights(vae, x, FEWEST_DRAWS, seed=5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pyro_vae.evaluation.weights.FEWEST_DRAWS", 10**9)
        expected = evaluation.log_weights(vae, x, FEWEST_DRAWS, seed=5)
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=0)


def test_few_draws_are_left_alone(traced_only, drawn):
    with compiled():
        evaluation.iwae(small_vae(), binary_data(5), FEWEST_DRAWS - 1, seed=0)
    assert not drawn


def test_bad_data_are_refused_as_ever(traced_only):
    x = binary_data(200)
    x[150, 2] = 0.5
    with compiled(), pytest.raises(DataError, match=r"got 0\.5 at datum 22"):
        evaluation.iwae(small_vae(), x, K, seed=0)
    x[3, 1] = 0.25
    with compiled(), pytest.raises(DataError, match=r"got 0\.25 at datum 3"):
        evaluation.iwae(small_vae(), x, K, seed=0)


def test_what_is_no_graph_is_run_by_pyro(caplog):
    class Branching(pv.posteriors.DiagonalNormal):
        def forward(self, x, y=None):
            return super().forward(x if x.sum() > 0 else -x, y)

    vae, x = small_vae(), binary_data(5)
    vae.posterior = Branching(vae.posterior.encoder, 3)
    expected = evaluation.iwae(vae, x, K, seed=0)
    with caplog.at_level(logging.WARNING, logger="pyro_vae"), compiled():
        found = evaluation.iwae(vae, x, K, seed=0)
    assert torch.equal(found.value, expected.value)
    assert sum("draws are made by Pyro" in record.message for record in caplog.records) == 1


class Wrapped:
    """A program that is not a module, and cannot be watched."""

    def __init__(self, vae, factor=1.0):
        self.vae, self.factor = vae, factor

    def model(self, x):
        return self.vae.model(x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            q = self.vae.posterior(x).base_dist
            pyro.sample("z", dist.Normal(q.loc * self.factor, q.scale).to_event(1))


class Counting(pv.posteriors.DiagonalNormal):
    def forward(self, x, y=None):
        self.calls += 1
        return super().forward(x * self.calls, y)


def test_what_can_not_be_watched_is_run_by_pyro(traced_only, drawn, caplog):
    wrapped, x = Wrapped(small_vae()), binary_data(5)
    with caplog.at_level(logging.WARNING, logger="pyro_vae"), compiled():
        for wrapped.factor in (1.0, 2.0):
            check_same(wrapped, x)
    assert not drawn
    assert [r.message for r in caplog.records if "Wrapped is not a torch module" in r.message]


def test_a_program_that_counts_is_run_by_pyro(traced_only, drawn, caplog):
    vae, x = small_vae(), binary_data(5)
    vae.posterior = Counting(vae.posterior.encoder, 3)
    vae.posterior.calls = 0
    expected = evaluation.log_weights(vae, x, FEWEST_DRAWS, seed=5)
    vae.posterior.calls = 0
    with caplog.at_level(logging.WARNING, logger="pyro_vae"), compiled():
        found = evaluation.log_weights(vae, x, FEWEST_DRAWS, seed=5)
    assert not drawn
    assert torch.equal(found, expected)
    assert "running it sets calls" in caplog.text


class Jittered(pv.posteriors.DiagonalNormal):
    def forward(self, x, y=None):
        return super().forward(x * (1 + 0.1 * random.random()), y)  # noqa: S311 - whether Python's own are seen


def hooked(vae):
    vae.posterior.encoder.register_forward_hook(lambda net, x, h: 2 * h)


def jittered(vae):
    vae.posterior = Jittered(vae.posterior.encoder, 3)


@pytest.mark.parametrize(("change", "reason"), [(hooked, "has a hook"), (jittered, "something different at each call")])
def test_hooks_and_other_random_numbers_are_heard(change, reason, traced_only, drawn, caplog):
    vae, x = small_vae(), binary_data(5)
    change(vae)
    random.seed(1)
    expected = evaluation.log_weights(vae, x, FEWEST_DRAWS, seed=5)
    random.seed(1)
    with caplog.at_level(logging.WARNING, logger="pyro_vae"), compiled():
        found = evaluation.log_weights(vae, x, FEWEST_DRAWS, seed=5)
    assert not drawn
    assert torch.equal(found, expected)
    assert reason in caplog.text


def test_what_is_around_an_estimate_is_heard(traced_only, drawn):
    vae, x = small_vae(), binary_data(5)
    with compiled(), SiteNames() as seen:
        evaluation.log_weights(vae, x, FEWEST_DRAWS, seed=5)
    assert not drawn
    assert {"z", "x"} <= seen.names


class SiteNames(pyro.poutine.messenger.Messenger):
    def __init__(self):
        super().__init__()
        self.names = set()

    def _pyro_post_sample(self, msg):
        self.names.add(msg["name"])


def test_nothing_is_left_behind(traced_only):
    vae, x = small_vae(), binary_data(5)
    before, state = {n: t.clone() for n, t in vae.tensors().items()}, torch.get_rng_state()
    with compiled():
        evaluation.iwae(vae, x, K, seed=0)
    assert all(torch.equal(t, before[n]) for n, t in vae.tensors().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert vae.training
    assert all(p.grad is None for p in vae.parameters())
