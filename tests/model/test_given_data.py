"""What models and guides refuse at the door: labels that would be broadcast or are no numbers, infinite densities."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyro_vae as pv
from pyro_vae.errors import DataError
from pyro_vae.model.given_data import check_ends

X, D, C = 4, 2, 3


class Own(pv.likelihoods.Likelihood):
    """Any distribution of two positive parameters a pixel."""

    def __init__(self, decoder, kind):
        super().__init__(decoder)
        self.kind = kind

    def forward(self, z, y=None):
        return self.kind(*self.decode_parts(z, y, 2).exp()).to_event(1)


def of_own(kind, y_dim=0):
    torch.manual_seed(0)
    return pv.VAE(
        pv.priors.StandardNormal(D),
        pv.posteriors.DiagonalNormal(pv.networks.MLP((X,), (2 * D,), (6,), y_dim=y_dim), D),
        Own(pv.networks.MLP((D,), (2, X), (6,), y_dim=y_dim), kind),
    )


def uses(vae, x, *y, compiled=False):
    label = y[0] if y else None
    svi = pyro.infer.SVI(vae.model, vae.guide, pyro.optim.Adam({}), pyro.infer.Trace_ELBO())
    yield lambda: svi.step(x, *y)
    for loss, in_a_graph in (
        (pv.inference.MeanFieldELBO(), False),
        (pv.inference.Trace_ELBO(), compiled),
        (pv.inference.ImportanceWeightedELBO(3), False),
    ):
        own = pv.inference.SVI(vae.model, vae.guide, torch.optim.Adam(vae.parameters()), loss, compile=in_a_graph)
        yield lambda own=own: own.step(x, *y)
    yield lambda: pv.evaluation.elbo(vae, x, 3, label)
    yield lambda: pv.evaluation.iwae(vae, x, 3, label)
    yield lambda: vae.model(x, *y)


# Ends of a closed support


@pytest.mark.parametrize(("end", "place"), [(0.0, 1), (1.0, 3)])
def test_data_at_the_end_of_a_beta_are_refused_everywhere(end, place, traced_only):
    vae, x = of_own(dist.Beta), torch.full((5, X), 0.3)
    for use in uses(vae, x, compiled=end == 0):
        use()
    x[2, place] = end
    for use in uses(vae, x, compiled=end == 0):
        with pytest.raises(DataError, match=rf"Beta is not finite at {end:g}, .* datum 2, position \({place},\)"):
            use()


@pytest.mark.parametrize(
    ("p", "x"),
    [
        (dist.Beta(0.5, 2.0), [0.2, 0.0]),  # a pole
        (dist.Beta(2.0, 2.0), [0.2, 1.0]),  # a zero
        (dist.Gamma(0.5, 1.0), [3.0, 0.0]),
        (dist.Chi2(torch.tensor(5.0)), [3.0, 0.0]),
        (dist.Dirichlet(torch.tensor([0.5, 2.0, 2.0])), [[0.2, 0.3, 0.5], [0.0, 0.5, 0.5]]),
    ],
)
def test_it_is_the_density_that_is_looked_at(p, x):
    x = torch.tensor(x)
    assert not p.log_prob(x)[1].isfinite()
    with pytest.raises(DataError, match=rf"{type(p).__name__} is not finite at [01], .* at datum 1"):
        check_ends(p, x)
    check_ends(p, x[:1])


@pytest.mark.parametrize(
    ("p", "x"),
    [
        (dist.Beta(1.0, 1.0), [0.0, 1.0]),
        (dist.Exponential(2.0), [0.0, 1.0]),
        (dist.HalfNormal(2.0), [0.0, 1.0]),
        (dist.Uniform(torch.zeros(3, 2), 2.0), [0.0, 1.0]),
        (dist.Bernoulli(0.5), [0.0, 1.0]),
        (dist.Poisson(0.5), [0.0, 1.0]),
        (pv.model.distributions.ContinuousBernoulli(torch.ones(())), [0.0, 1.0]),
        (dist.LogNormal(0.0, 1.0), [0.5, 1.0]),
        (dist.Normal(0.0, 1.0), [math.inf, 0.0]),  # no end of its support: what is not finite is refused elsewhere
    ],
)
def test_ends_with_a_finite_density_are_data(p, x):
    check_ends(p, torch.tensor(x))


# Labels


def labels(size=5):
    return torch.eye(C)[torch.arange(size) % C]


BAD = {
    "NaN": (labels().index_fill(0, torch.tensor([3]), math.nan), DataError, r"y holds nan at datum 3, position \(0,\)"),
    "one row": (labels(1), ValueError, "5 data and 1 labels"),
    "too many": (labels(6), ValueError, "5 data and 6 labels"),
    "classes": (torch.arange(5), ValueError, r"one-hot, \(B, C\); got shape \(5,\)"),
    "a list": ([0, 1, 2, 0, 1], TypeError, "must be a tensor; got list"),
}


@pytest.mark.parametrize("name", ["NaN", "one row", "too many", "classes"])
def test_labels_that_would_be_wrong_without_a_word_are_refused_everywhere(name, traced_only):
    y, error, message = BAD[name]
    vae, x = of_own(dist.Normal, C), torch.zeros(5, X)
    for use in uses(vae, x, labels()):
        use()
    for use in uses(vae, x, y, compiled=name == "NaN"):
        with pytest.raises(error, match=message):
            use()


@pytest.mark.parametrize("name", BAD)
def test_both_halves_and_all_pictures_refuse_them(name):
    y, error, message = BAD[name]
    vae, x = of_own(dist.Normal, C), torch.zeros(5, X)
    for call in (
        lambda: vae.guide(x, y),
        lambda: vae.model(x, y),
        lambda: vae.reconstruct(x, y),
        lambda: vae.interpolate(x, x, y=y),
        lambda: vae.interpolate(x, x, y=labels(), y_end=y),
    ):
        with pytest.raises(error, match=message):
            call()


@pytest.mark.parametrize("guide", ["top_down", "bottom_up"])
def test_two_layers_refuse_them_too(guide):
    MLP, q = pv.networks.MLP, pv.posteriors.DiagonalNormal
    top_down = guide == "top_down"
    vae = pv.HierarchicalVAE(
        pv.priors.StandardNormal(2),
        pv.likelihoods.Normal(MLP((2,), (D,), y_dim=C)),
        pv.likelihoods.Normal(MLP((D,), (X,), y_dim=C)),
        q(MLP((X,), (2 * D,), y_dim=C + 2 * top_down), D),
        q(MLP((X,) if top_down else (D,), (4,), y_dim=C), 2),
        guide=guide,
    )
    for half in (vae.model, vae.guide):
        with pytest.raises(ValueError, match="5 data and 1 labels"):
            half(torch.zeros(5, X), labels(1))
        with pytest.raises(DataError, match="y holds nan"):
            half(torch.zeros(5, X), BAD["NaN"][0])
