"""Constants outlive a stay on "meta" and `to_empty`, whose memory is filled here with NaN and the largest integers."""

import copy

import pytest
import torch
from densities import members

import pyro_vae as pv
from pyro_vae.model.constants import Constants

X, D, K = 6, 3, 4


def mlp(*shapes):
    return pv.networks.MLP(*shapes, hidden=(5,))


def diagonal():
    return pv.posteriors.DiagonalNormal(mlp((X,), (2 * D,)), D)


PRIORS = {
    "VampPrior": lambda: pv.priors.VampPrior(diagonal(), (X,), K),
    "ConditionalNormal": lambda: pv.priors.ConditionalNormal(D, 2),
}
POSTERIORS = members(pv.posteriors, pv.posteriors.Posterior)


@pytest.fixture
def poisoned():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def posterior(name):
    kind = getattr(pv.posteriors, name)
    return kind(mlp((X,), kind.encoder_shape(D)), D)


def prior(name):
    return PRIORS.get(name, lambda: getattr(pv.priors, name)(D))()


def emptied(member):
    """It, after its memory was lost and its state loaded."""
    other = copy.deepcopy(member).to("meta").to_empty(device="cpu")
    other.load_state_dict(member.state_dict())
    return other


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("name", sorted(members(pv.priors, pv.priors.Prior)))
def test_an_emptied_prior_is_the_same_density(name):
    member = prior(name)
    y = torch.eye(2) if name == "ConditionalNormal" else None
    z = torch.randn(2, D)
    torch.testing.assert_close(emptied(member)(y).log_prob(z), member(y).log_prob(z), rtol=0, atol=0)
    twice = copy.deepcopy(member).to_empty(device="cpu")  # from where it was, without "meta"
    assert twice.loc.eq(0).all()
    assert twice.scale.eq(1).all()


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("name", sorted(POSTERIORS - {"Delta"}))
def test_an_emptied_posterior_is_the_same_density(name):
    member, x, z = posterior(name), torch.rand(2, X), torch.randn(2, D)
    torch.testing.assert_close(emptied(member)(x).log_prob(z), member(x).log_prob(z), rtol=0, atol=0)


def built_twice():
    """A program, and another of the same kind on "meta"."""

    def build():
        return pv.VAE(prior("StandardNormal"), posterior("FullNormal"), pv.likelihoods.Bernoulli(mlp((D,), (X,))))

    vae = build()
    with torch.device("meta"):
        return vae, build()


@pytest.mark.usefixtures("poisoned")
def test_a_program_that_was_built_on_meta_is_the_one_whose_state_it_loads():
    vae, other, x = *built_twice(), torch.ones(2, X)
    other.to_empty(device="cpu").load_state_dict(vae.state_dict())
    for value in ("value", "monte_carlo_error"):
        estimates = [getattr(pv.evaluation.iwae(program, x, 5, seed=0), value) for program in (vae, other)]
        torch.testing.assert_close(*map(torch.as_tensor, estimates), rtol=0, atol=0)
    assert other.state_dict().keys() == vae.state_dict().keys()
    assert not {"prior.loc", "prior.scale", "posterior.layout"} & vae.state_dict().keys()


def test_values_that_were_set_stay_where_a_module_moves():
    member = prior("StandardNormal")
    member.loc.fill_(3.0)
    for moved in (copy.deepcopy(member).double(), member.to("cpu")):
        assert moved.loc.eq(3).all()
        assert moved.scale.eq(1).all()
    assert copy.deepcopy(member).double().loc.dtype == torch.float64


class Longer(Constants):
    """Its buffer was replaced by one of another shape, as a subclass may do."""

    def __init__(self):
        super().__init__()
        self.register_constants()
        self.register_buffer("one", torch.full((3,), 2.0), persistent=False)

    def constants(self):
        return {"one": torch.ones(2)}


def test_a_buffer_of_another_shape_is_left_alone():
    assert Longer().double().one.eq(2).all()
    assert Longer().double().one.shape == (3,)


@pytest.mark.usefixtures("poisoned")
def test_a_program_on_meta_that_is_assigned_a_state_has_its_constants():
    vae, other, x = *built_twice(), torch.ones(2, X)
    other.load_state_dict(vae.state_dict(), assign=True)
    first, second = (pv.evaluation.iwae(program, x, 5, seed=0).value for program in (vae, other))
    assert torch.equal(first, second)
