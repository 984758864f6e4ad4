"""Networks as in Pyro's tutorial: pairs of vectors are refused with the cure, probabilities for logits are told."""

import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pyro_vae as pv
from pyro_vae.data import Split, Splits
from pyro_vae.model.squashed_logits import warn_of_squashed_logits

X, D = 6, 2
TOLD = "all .* of them lie in .* Sigmoid"


class TutorialEncoder(nn.Module):
    """The one of https://pyro.ai/examples/vae.html: loc and scale."""

    def __init__(self):
        super().__init__()
        self.hidden, self.loc, self.log_scale = nn.Linear(X, 8), nn.Linear(8, D), nn.Linear(8, D)

    def forward(self, x):
        h = nn.functional.softplus(self.hidden(x))
        return self.loc(h), self.log_scale(h).exp()


class OneTensor(TutorialEncoder):
    """The same by the cure of the message."""

    def forward(self, x):
        loc, scale = super().forward(x)
        return torch.cat([loc, scale.log()], -1)


def test_an_encoder_that_returns_a_pair_is_refused_and_its_cure_is_the_same_posterior():
    with pytest.raises(TypeError, match=r"TutorialEncoder must return one tensor; got a tuple.*torch.cat"):
        pv.posteriors.DiagonalNormal(TutorialEncoder(), D)(torch.zeros(3, X))
    encoder = OneTensor()
    q = pv.posteriors.DiagonalNormal(encoder, D, floor=1e-12)(torch.ones(3, X)).base_dist
    loc, scale = TutorialEncoder.forward(encoder, torch.ones(3, X))
    torch.testing.assert_close((q.loc, q.scale), (loc, scale))


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.loc, self.log_scale = nn.Linear(D, X), nn.Linear(D, X)

    def forward(self, z):
        return self.loc(z), self.log_scale(z).exp()


class Stacked(Pair):
    def forward(self, z):
        loc, scale = super().forward(z)
        return torch.stack([loc, scale.log()], 1)


def test_a_decoder_that_returns_a_pair_is_refused_and_its_cure_is_the_same_likelihood():
    def normal(decoder):
        return pv.likelihoods.Normal(decoder, learn_scale="predicted", scale=1.0, scale_floor=1e-12)

    with pytest.raises(TypeError, match=r"Pair must return one tensor; got a tuple.*torch.stack"):
        normal(Pair())(torch.zeros(3, D))
    decoder = Stacked()
    p = normal(decoder)(torch.ones(4, 3, D))
    loc, scale = Pair.forward(decoder, torch.ones(4, 3, D))
    torch.testing.assert_close((p.base_dist.loc, p.base_dist.scale), (loc, scale))


def squashed(last=nn.Sigmoid):
    return nn.Sequential(nn.Linear(D, X), last())


class OwnBernoulli(pv.likelihoods.Likelihood):
    def forward(self, z, y=None):
        return dist.Bernoulli(logits=self.decode(z, y)).to_event(1)


class OfProbabilities(pv.likelihoods.Likelihood):
    def forward(self, z, y=None):
        return dist.Bernoulli(probs=self.decode(z, y)).to_event(1)


@pytest.mark.parametrize("kind", [pv.likelihoods.Bernoulli, pv.likelihoods.ContinuousBernoulli, OwnBernoulli])
def test_the_check_of_a_likelihood_tells_of_probabilities_for_logits(kind):
    with pytest.warns(UserWarning, match=TOLD):
        pv.check_likelihood(kind(squashed()), torch.randn(5, D))


def test_so_it_does_of_a_softmax_for_the_logits_of_levels():
    decoder = nn.Sequential(nn.Linear(D, 4 * X), nn.Unflatten(1, (4, X)), nn.Softmax(1))
    with pytest.warns(UserWarning, match=TOLD):
        pv.check_likelihood(pv.likelihoods.Categorical(decoder, num_levels=4), torch.randn(5, D))


@pytest.mark.thorough
@pytest.mark.parametrize(
    "likelihood",
    [
        lambda: pv.likelihoods.Bernoulli(squashed(nn.Identity)),
        lambda: OfProbabilities(squashed()),
        lambda: pv.likelihoods.Normal(squashed()),
        lambda: pv.likelihoods.NegativeBinomial(squashed()),
        lambda: pv.likelihoods.Poisson(squashed()),
    ],
)
def test_it_tells_of_nothing_else(likelihood):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pv.check_likelihood(likelihood(), torch.randn(5, D))


def test_probabilities_are_told_from_logits_after_their_use_too():
    probs = torch.rand(3)
    p, raw = dist.Bernoulli(probs=probs), dist.Bernoulli(logits=probs)
    p.log_prob(torch.ones(3)), raw.probs
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_squashed_logits("x", p.expand((2, 3)).to_event(1))
        warn_of_squashed_logits("x", dist.Bernoulli(logits=torch.zeros(3)))  # a decoder that starts at 0
    with pytest.warns(UserWarning, match="x is a distribution with logits, and all 6"):
        warn_of_squashed_logits("x", raw.expand((2, 3)).to_event(1))


@pytest.mark.parametrize(("last", "times"), [(nn.Sigmoid, 1), (nn.Identity, 0)])
def test_fit_tells_once(last, times):
    pyro.set_rng_seed(0)
    x = (torch.rand(40, X) < 0.1).float()
    parts = zip(("train", "valid", "test"), x.split([20, 10, 10]), strict=True)
    data = Splits(
        **{name: Split.make(name, part, None, None, "none", 0) for name, part in parts},
        x_shape=(X,),
        num_classes=0,
        protocol={},
    )
    encoder = pv.networks.MLP((X,), (2 * D,), (8,))
    vae = pv.VAE(
        pv.priors.StandardNormal(D), pv.posteriors.DiagonalNormal(encoder, D), pv.likelihoods.Bernoulli(squashed(last))
    )
    svi = pv.inference.SVI(vae.model, vae.guide, torch.optim.Adam(vae.parameters()), pv.inference.MeanFieldELBO())
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        before = torch.get_rng_state()
        records = list(pv.inference.fit(vae, svi, data, pv.inference.Schedule(epochs=3, batch_size=10)))
    assert len(records) == 3
    assert [str(warning.message)[:6] for warning in told] == ["site x"] * times
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    "make",
    [
        lambda p: dist.NegativeBinomial(3.0, logits=p),
        lambda p: dist.Geometric(logits=p),
        lambda p: dist.RelaxedBernoulli(torch.tensor(0.5), logits=p),
        lambda p: dist.MixtureSameFamily(dist.Categorical(torch.ones(3)), dist.Bernoulli(logits=p)),
    ],
)
def test_it_tells_of_every_distribution_of_logits(make):
    with pytest.warns(UserWarning, match="x is a distribution with logits, and all 3"):
        warn_of_squashed_logits("x", make(torch.tensor([0.2, 0.5, 0.7])))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_squashed_logits("x", make(torch.tensor([0.2, 0.5, -0.7])))
