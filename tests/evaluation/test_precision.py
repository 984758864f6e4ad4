"""What bfloat16 networks change in the ELBO: a loop over draws, and nothing where nothing is rounded."""

import math

import pyro
import pytest
import torch
from exact import MixturePrior, two_layers

import pyro_vae as pv
from pyro_vae.evaluation import elbo, is_rounded, rounding_loss
from pyro_vae.model.networks import MLP, in_precision, networks

K = 40


def program(precision="bfloat16", y_dim=0, prior=None, posterior=pv.posteriors.DiagonalNormal):
    torch.manual_seed(5)
    sizes = {"hidden": (50,), "y_dim": y_dim, "precision": precision}
    numbers = posterior.encoder_shape(3)[0]
    return pv.VAE(
        prior or pv.priors.StandardNormal(3),
        posterior(MLP((30,), (numbers,), **sizes), 3),
        pv.likelihoods.Bernoulli(MLP((3,), (30,), **sizes)),
    )


def data(size, seed=0):
    return torch.randint(0, 2, (size, 30), generator=torch.Generator().manual_seed(seed)).float()


def looped(vae, x, K, seed, y=None):
    """The draws by hand, all in one block: (K, N)."""
    labels = () if y is None else (y,)
    with torch.no_grad(), pv.evaluation.weights.block_stream(seed, 0, 0):
        q, p = vae.posterior(x, *labels), vae.prior(*labels)
        z = q.rsample((K,))
        reconstruction = vae.likelihood(z, *labels).log_prob(x).double()
        return reconstruction - torch.distributions.kl_divergence(q.base_dist, p.base_dist).sum(-1).double()


@pytest.mark.parametrize("y_dim", [0, 2])
def test_it_is_the_difference_of_a_loop_over_the_same_draws(y_dim):
    vae, x, K = program(y_dim=y_dim), data(9), 20  # one block
    y = torch.eye(2)[[0, 1, 1, 0, 1, 0, 0, 0, 1]] if y_dim else None
    found = rounding_loss(vae, x, K, y, seed=7)
    with in_precision(vae, "float32"):
        exact = looped(vae, x, K, 7, y)
    lost = exact - looped(vae, x, K, 7, y)
    # A sum over pixels of float32 terms in another order.
    assert torch.allclose(found.value, lost.mean(0), rtol=0, atol=2e-5)
    assert torch.allclose(found.value_error, lost.std(0) / math.sqrt(K), rtol=0, atol=2e-5)
    assert 1e-4 < found.value.abs().mean() < 0.1
    assert (found.name, found.num_samples, found.unit) == ("ELBO, float32 - bfloat16", K, "nats")


@pytest.mark.parametrize("prior", [None, MixturePrior(3)])
def test_it_is_the_difference_of_two_elbos_of_one_seed(prior):
    vae, x = program(prior=prior), data(140)  # two blocks of data, two of draws
    found = rounding_loss(vae, x, K, seed=2)
    rounded = elbo(vae, x, K, seed=2)
    with in_precision(vae, "float32"):
        exact = elbo(vae, x, K, seed=2)
    assert torch.allclose(found.value, exact.value - rounded.value, rtol=0, atol=1e-12)
    assert found.monte_carlo_error < exact.monte_carlo_error / 20
    assert (found.value != 0).all()


def test_the_monte_carlo_error_is_the_spread_over_other_draws():
    found = rounding_loss(program(), data(30).repeat(60, 1), K, seed=0)  # different data never share noise
    spread = found.value.reshape(60, 30).mean(1).std().item()
    claimed = found.monte_carlo_error * math.sqrt(60)
    assert spread == pytest.approx(claimed, rel=4 / math.sqrt(2 * 59))  # four standard errors of a deviation


def test_one_draw_can_not_tell_its_error():
    assert rounding_loss(program(), data(3), 1, seed=0).value_error.isnan().all()


def test_nothing_is_lost_where_nothing_is_rounded():
    assert (rounding_loss(program("float32"), data(3), 5, seed=0).value == 0).all()
    assert (rounding_loss(program().double(), data(3).double(), 5, seed=0).value == 0).all()


def test_an_autoencoder_has_only_its_reconstruction():
    vae, x = program(posterior=pv.posteriors.Delta), data(6)
    found = rounding_loss(vae, x, 3, seed=0)
    assert found.name == "reconstruction, float32 - bfloat16"

    def reconstruction():
        with torch.no_grad():
            return vae.likelihood(vae.posterior(x).v).log_prob(x).double()

    rounded = reconstruction()
    with in_precision(vae, "float32"):
        assert torch.allclose(found.value, reconstruction() - rounded, rtol=0, atol=2e-5)


def test_any_program_with_networks_will_do():
    vae = two_layers().float()
    x = torch.ones(4, 6)
    assert (rounding_loss(vae, x, 5, seed=0).value == 0).all()
    networks(vae)[-1].precision = "bfloat16"
    assert (rounding_loss(vae, x, 5, seed=0).value != 0).all()


def test_a_program_is_rounded_if_one_network_is():
    vae = program("float32")
    assert not is_rounded(vae)
    vae.likelihood.decoder.precision = "bfloat16"
    assert is_rounded(vae)
    assert not is_rounded(torch.nn.Linear(2, 2))
    assert not is_rounded(object())


def test_it_changes_nothing():
    vae = program().train()
    vae.posterior.encoder.precision = "float32"
    torch.manual_seed(11)
    state, store = torch.get_rng_state(), dict(pyro.get_param_store().items())
    rounding_loss(vae, data(3), 5, seed=0)
    assert torch.equal(torch.get_rng_state(), state)
    assert dict(pyro.get_param_store().items()) == store
    assert [net.precision for net in networks(vae)] == ["float32", "bfloat16"]
    assert vae.training
    assert all(p.grad is None for p in vae.parameters())
