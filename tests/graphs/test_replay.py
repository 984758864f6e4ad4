"""Functions that are replayed as graphs: the numbers of the function itself, to the last bit, and when Pyro goes on."""

import pytest
import torch
from exact import binary_data, small_vae
from torch import nn

import pyro_vae as pv
from pyro_vae.evaluation.annealing.hamiltonian import Path
from pyro_vae.graphs import replay
from pyro_vae.graphs.replay import Replay
from pyro_vae.model.conditions import require
from pyro_vae.model.program import remembering, undisturbed


@pytest.fixture(autouse=True)
def worth(monkeypatch):
    monkeypatch.setattr(replay, "WORTH", 3)


def vamp():
    encoder, decoder = pv.networks.MLP((6,), (6,)), pv.networks.MLP((3,), (6,))
    posterior = pv.posteriors.DiagonalNormal(encoder, 3)
    prior = pv.priors.VampPrior(posterior, (6,), num_components=4)
    return pv.VAE(prior, posterior, pv.likelihoods.Bernoulli(decoder)).double()


@pytest.mark.parametrize("make", [small_vae, vamp])
@pytest.mark.parametrize("start", ["guide", "prior"])
def test_densities_and_slopes_are_those_of_pyro_to_the_last_bit(make, start):
    vae = make()
    with undisturbed(vae), remembering({}):
        path = Path(vae, start, binary_data(6))
        for _ in range(5):
            z = torch.randn(3, 6, 3, dtype=torch.float64)
            for one, other in zip(path.at(z)[1:], path._both(z), strict=True):
                assert torch.equal(one, other)
        assert path._densities.is_graph


def test_what_does_not_move_is_computed_once_and_draws_are_made_anew():
    module, seen = nn.Linear(2, 2), []
    noisy = Replay(lambda z: [z + torch.rand(2) + module.weight.exp().sum()], module)
    for _ in range(3):
        noisy(torch.zeros(2))
    assert noisy.is_graph
    (graph,) = noisy._graphs.values()
    assert [node.target.__name__ for node in graph.module.graph.nodes if node.op == "call_function"] == [
        "rand.default", "add.Tensor", "add.Tensor",
    ]  # fmt: skip
    for call in (noisy, noisy._function, noisy):
        torch.manual_seed(0)
        seen += [call(torch.ones(2))[0], call(torch.ones(2))[0]]
    assert torch.equal(torch.stack(seen[:2]), torch.stack(seen[2:4]))
    assert torch.equal(torch.stack(seen[:2]), torch.stack(seen[4:]))
    assert not seen[0].equal(seen[1])


def test_forms_are_told_apart():
    module = nn.Linear(2, 1)
    double = Replay(lambda z: [module(z)], module)
    for size in (3, 3, 3, 5, 3):
        z = torch.randn(size, 2)
        assert torch.equal(double(z)[0], module(z))
    assert len(double._graphs) == 1


def test_a_condition_that_is_not_met_is_the_error_of_the_function():
    module = nn.Linear(2, 1)

    def function(z):
        require((z > 0).all(), lambda: ValueError("z must be positive"))
        return [module(z)]

    positive = Replay(function, module)
    for _ in range(4):
        positive(torch.ones(2))
    assert positive.is_graph
    with pytest.raises(ValueError, match="z must be positive"):
        positive(-torch.ones(2))


@pytest.mark.parametrize("kind", ["branches", "hook", "counts", "no module"])
def test_pyro_goes_on_where_there_can_be_no_graph(kind):
    module, program = nn.Linear(2, 1), nn.Linear(2, 1)
    if kind == "hook":
        program.register_forward_hook(lambda *_: None)
    program.calls = 0

    def function(z):
        if kind == "counts":
            program.calls += 1
        return [z if kind == "branches" and z.sum() > 0 else module(z)]

    called = Replay(function, function if kind == "no module" else program)
    for sign in (1, -1, 1, -1, 1):
        z = sign * torch.ones(2)
        assert torch.equal(called(z)[0], function(z)[0])
    assert not called.is_graph


@pytest.mark.thorough
def test_draws_of_nuts_and_of_annealing_are_those_of_pyro(monkeypatch):
    vae, x = small_vae(), binary_data(3)

    def numbers():
        draws = pv.evaluation.nuts(vae, x[:1], num_draws=12, num_warmup=8, num_chains=2, seed=1)
        bounds = pv.evaluation.bdmc(vae, 3, num_temperatures=2, num_chains=2, num_leapfrog=2, seed=1)
        return draws.draws["z"], draws.diverging, bounds.forward.value, bounds.reverse.value

    found = numbers()
    monkeypatch.setattr(replay, "WORTH", 10**9)
    for one, other in zip(found, numbers(), strict=True):
        assert torch.equal(one, other)
