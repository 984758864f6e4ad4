"""Scores of single data: those of the estimators that they are made of, and of a closed form."""

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyro_vae as pv
from pyro_vae.evaluation import classify, elbo_terms, iwae, log_weights, psis_khat, score


def small(y_dim=0, posterior=None):
    torch.manual_seed(0)
    net = pv.networks.MLP
    return pv.VAE(
        pv.priors.StandardNormal(2),
        posterior or pv.posteriors.DiagonalNormal(net((6,), (4,), (8,), y_dim=y_dim), 2),
        pv.likelihoods.Bernoulli(net((2,), (6,), (8,), y_dim=y_dim)),
    )


@pytest.fixture
def x():
    return (torch.rand(300, 6, generator=torch.Generator().manual_seed(1)) < 0.5).float()


def test_they_are_those_of_the_estimators(x):
    vae = small()
    found = score(vae, x, num_samples=50, seed=3, elbo_samples=7, reconstructions=True)
    bound, terms = iwae(vae, x, 50, seed=3), elbo_terms(vae, x, 7, seed=3)
    assert torch.allclose(found.log_likelihood, bound.value, atol=1e-12)
    assert torch.allclose(found.log_likelihood_error, bound.value_error, atol=1e-9)
    assert torch.equal(found.khat, psis_khat(log_weights(vae, x, 50, seed=3)))
    for name in ("elbo", "reconstruction", "kl"):
        assert torch.equal(getattr(found, name), getattr(terms, name).value)
    with torch.no_grad():
        q = vae.posterior(x)
        assert torch.allclose(found.mean, q.mean.double(), atol=1e-6)
        assert torch.allclose(found.spread, q.stddev.double(), atol=1e-6)
        assert torch.allclose(found.reconstructed, vae.likelihood(q.mean).mean, atol=1e-6)
    assert len(found) == 300
    assert str(found).startswith(f"log p(x) of 300 data: mean {bound.mean:.3f} nats, from ")


@pytest.mark.parametrize("labelled", [False, True])
def test_blocks_give_the_numbers_of_the_whole(labelled, x):
    vae, y = small(y_dim=3 * labelled), torch.eye(3)[torch.arange(300) % 3] if labelled else None

    def part(rows, first=0):
        return score(vae, x[rows], None if y is None else y[rows], num_samples=30, seed=0, first_block=first)

    whole, parts = part(slice(None)), [part(slice(256)), part(slice(256, None), 2)]
    for name, column in whole.columns().items():
        assert torch.equal(column, torch.cat([each.columns()[name] for each in parts]))


def test_classes_are_those_of_bayes_rule_with_labels_and_without(x):
    vae, p = small(y_dim=3), torch.tensor([0.5, 0.3, 0.2])
    y = torch.eye(3)[torch.arange(300) % 3]
    known = score(vae, x, y, 20, 0, elbo_samples=9, class_probabilities=p)
    assert torch.equal(known.log_posterior, classify(vae, x, p, 9, 0).log_posterior.T)
    assert torch.allclose(known.log_likelihood, iwae(vae, x, 20, y, 0).value, atol=1e-12)
    found = score(vae, x, num_samples=20, seed=0, class_probabilities=p)
    classes = classify(vae, x, p, 20, 0)
    assert torch.allclose(found.log_posterior, classes.log_posterior.T, atol=1e-9)
    joint = classes.log_likelihood + p.double().log()[:, None]
    assert torch.allclose(found.log_likelihood, joint.logsumexp(0), atol=1e-9)
    likely = torch.eye(3)[classes.prediction]
    assert torch.equal(found.elbo, elbo_terms(vae, x, 100, likely, 0).elbo.value)


@pytest.mark.thorough
def test_the_error_of_a_sum_over_classes_is_its_spread_over_seeds(x):
    vae, p = small(y_dim=3), torch.tensor([0.5, 0.3, 0.2])
    found = score(vae, x, num_samples=20, seed=0, class_probabilities=p)
    again = torch.stack(
        [score(vae, x[:1], num_samples=20, seed=s, class_probabilities=p).log_likelihood for s in range(300)]
    )
    assert found.log_likelihood_error[0] == pytest.approx(again.std().item(), rel=0.35)


def test_a_point_guide_has_no_log_p(x):
    vae = small(posterior=pv.posteriors.Delta(pv.networks.MLP((6,), (2,)), 2))
    found = score(vae, x, num_samples=20, seed=0)
    assert found.log_likelihood is None
    assert found.elbo is None
    assert (found.spread == 0).all()
    assert str(found).startswith("reconstruction of 300 data")


def test_any_pair_of_functions_is_scored():
    """log p(x) of x ~ N(z, 1), z ~ N(0, 1) is that of N(0, 2); the guide is the exact posterior N(x / 2, 1 / 2)."""

    class Pair:
        def model(self, x, y=None):
            with pyro.plate("data", len(x), dim=-1):
                z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([1]).to_event(1))
                return pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

        def guide(self, x, y=None):
            with pyro.plate("data", len(x), dim=-1):
                return pyro.sample("z", dist.Normal(x / 2, 0.5**0.5).to_event(1))

    x = torch.linspace(-3, 3, 200)[:, None]
    found = score(Pair(), x, num_samples=30, seed=0)
    truth = dist.Normal(0.0, 2.0**0.5).log_prob(x)[:, 0].double()
    assert torch.allclose(found.log_likelihood, truth, atol=1e-5)
    assert torch.allclose(found.log_likelihood_error, torch.zeros(200).double(), atol=1e-5)
    assert (abs(found.mean[:, 0] - x[:, 0] / 2) < 4.5 * 0.5**0.5 / 10).all()
    assert found.spread.mean().item() == pytest.approx(0.5**0.5, abs=0.02)
