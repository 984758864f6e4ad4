"""Scalings inside the program: densities stay those of x in its own units, held against scipy and closed forms."""

import copy
import math
import pickle

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import scipy.stats
import torch
from cases import all_but
from exact import ProbabilisticPCA
from torch import nn
from torch.nn.functional import softplus

import pyro_vae as pv
from pyro_vae.errors import DataError
from pyro_vae.evaluation import iwae, log_weights, quadrature
from pyro_vae.evaluation.simple_densities import poisson
from pyro_vae.model.scaling import Centred, ColumnMean, ColumnScale, LogCounts, Rescaled

D = 5
UNITS = np.array([1.0, 40.0, 1e-3, 1e4, 0.01])
likelihoods = pv.likelihoods


def table(rows=200, seed=0):
    """Columns of unequal spread, each a few spreads away from 0."""
    x = np.random.default_rng(seed).normal(size=(rows, D)) @ np.triu(np.ones((D, D)))
    return torch.tensor(x * UNITS + 3 * UNITS)


def fitted(x=None):
    scale = ColumnScale((D,)).double()
    scale.fit(table() if x is None else x)
    return scale


def mlp(in_size, out_shape, **options):
    return pv.networks.MLP((in_size,), out_shape, hidden=(6,), activation=nn.Tanh, **options)


def test_moments_are_those_of_float64_without_missing_numbers():
    x = table()
    x[::3, 1] = math.nan
    x[:, 4] = 7.0
    scale = fitted(x)
    assert np.allclose(scale.centre, np.nanmean(x, 0), rtol=1e-12)
    assert np.allclose(scale.spread, [*np.nanstd(x, 0)[:4], 1.0], rtol=1e-12)
    late = torch.tensor([[16_777_216.0 - 2], [16_777_216.0]], dtype=torch.float32).repeat(5000, 1)
    alone = ColumnScale((1,))
    alone.fit(late)
    assert (alone.centre.item(), alone.spread.item()) == (16_777_215.0, 1.0)


def test_moments_are_the_same_in_blocks(monkeypatch):
    whole = fitted()
    monkeypatch.setattr("pyro_vae.model.scaling._BLOCK", 17)
    assert torch.allclose(fitted().spread, whole.spread, rtol=1e-12)


@pytest.mark.parametrize("value", [0.1, 1234.567, -1e9 / 3, 0.0])
def test_a_column_that_never_changes_keeps_its_unit_in_float64(value):
    scale = ColumnScale((1,)).double()
    scale.fit(torch.full((1001, 1), value, dtype=torch.float64))
    assert scale.spread.item() == 1
    scale.fit(value + 1e-9 * (abs(value) + 1) * torch.tensor([[-1.0], [1.0]], dtype=torch.float64))
    assert scale.spread.item() == pytest.approx(1e-9 * (abs(value) + 1), rel=1e-3)


def test_half_a_count_more_is_of_the_observed_counts():
    x = torch.tensor([[0.0, 3.0, math.nan], [0.0, math.nan, math.nan], [4.0, math.nan, math.nan]])
    expected = [4.5 / 3, 3.5, 0.5]
    scale, likelihood = ColumnMean((3,)), likelihoods.Poisson(mlp(2, (3,)))
    scale.fit(x)
    assert scale.mean.tolist() == pytest.approx(expected)
    likelihood.start_at(x)
    assert softplus(likelihood.decoder.output_bias).tolist() == pytest.approx(expected, rel=1e-5)
    rates = -poisson(torch.cat([x, torch.full((1, 3), math.nan)]))(torch.zeros(1, 3))  # -log p(0) is the rate
    assert rates.item() == pytest.approx(sum(expected))


def test_a_column_without_numbers_stays_as_it_is():
    scale = fitted(torch.full((4, D), math.nan))
    assert (scale.centre == 0).all()
    assert (scale.spread == 1).all()


@pytest.mark.parametrize("unit", [1e-30, 1e30])
def test_a_spread_that_float32_cannot_square_is_refused_and_another_unit_is_the_cure(unit):
    x = table()
    x[:, 3] *= unit
    with pytest.raises(DataError, match=r"column 3 has the standard deviation \S+, .*: use another uni"):
        fitted(x)
    x[:, 3] /= unit
    fitted(x)


@pytest.mark.parametrize("scale", [fitted(), LogCounts()], ids=["columns", "counts"])
def test_undo_is_the_inverse_and_missing_numbers_stay_missing(scale):
    x = table()
    x[0, 2] = math.nan
    assert torch.allclose(scale.undo(scale.see(x)), x, rtol=1e-12, equal_nan=True)
    assert scale.see(x).isnan().nonzero().tolist() == [[0, 2]]


def test_data_of_another_shape_are_not_broadcast():
    for scale in (fitted(), ColumnMean((D,))):
        for turn in (scale.see, scale.undo, scale.fit):
            with pytest.raises(ValueError, match=r"was built for x_shape=\(5,\); got \(3, 1\)"):
                turn(torch.ones(3, 1))
            with pytest.raises(ValueError, match=r"x_shape=\(5,\); got \(\)"):
                turn(torch.tensor(1.0))


def test_the_logarithm_of_counts_goes_on_below_0_with_a_slope():
    """Pseudo-inputs that start at a count of 0 may move either way, and back."""
    for turn, known in ((LogCounts().see, np.log1p), (LogCounts().undo, np.expm1)):
        x = torch.tensor([-2.0, -0.5, 0.0, 0.5, 2.0], requires_grad=True)
        y = turn(x)
        at = x.detach().numpy()
        assert np.allclose(y.detach().numpy(), np.sign(at) * known(abs(at)))
        y.sum().backward()
        assert x.grad[2] == 1
        assert torch.allclose(x.grad, x.grad.flip(0))


def test_a_network_sees_scaled_data_and_labels_as_they_are():
    x, y, scale = table().float(), torch.eye(2)[torch.arange(200) % 2], fitted().float()
    network = mlp(D, (3,), y_dim=2)
    assert torch.equal(Rescaled(network, scale)(x, y), network(scale.see(x), y))
    assert Rescaled(nn.Flatten(), LogCounts())(torch.tensor([[1.0, math.nan]])).isnan().tolist() == [[False, True]]


@pytest.mark.parametrize("kind", [torch.float64, torch.uint8, torch.int64])
def test_data_of_another_type_reach_the_network_which_refuses_them(kind):
    with pytest.raises(ValueError, match=f"MLP computes in torch.float32; got {kind}"):
        Rescaled(mlp(D, (3,)), ColumnScale((D,)))(torch.ones(2, D).to(kind))


# Likelihoods

MODES = ("no", "one", "pixel", "predicted")


def location_scale(kind, mode, column_scale):
    kind = getattr(likelihoods, kind)
    decoder = mlp(2, kind.decoder_shape((D,), mode))
    return kind(decoder, 0.7, mode, x_shape=(D,), column_scale=column_scale).double()


def low_rank(column_scale):
    return likelihoods.LowRankNormal(mlp(2, (4, D)), rank=2, scale=0.7, column_scale=column_scale).double()


def parts(member, output):
    """Location and scale in units of the spread."""
    if member.learn_scale == "predicted":
        return output[:, 0], 1e-3 + np.exp(output[:, 1])
    return output, 0.7 if member.learn_scale == "no" else 1e-3 + np.exp(member.learned_scale.raw.detach().numpy())


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("kind", "law"), [("Normal", scipy.stats.norm), ("Laplace", scipy.stats.laplace)])
def test_the_density_is_scipys_in_the_datas_own_units(kind, law, mode):
    x, z, scale = table(20), torch.randn(20, 2, dtype=torch.float64), fitted()
    member = location_scale(kind, mode, scale)
    loc, width = parts(member, member.decoder(z).detach().numpy())
    c, s = scale.centre.numpy(), scale.spread.numpy()
    found = member(z).log_prob(x).detach().numpy()
    assert np.allclose(found, law.logpdf(x, c + s * loc, s * width).sum(-1), rtol=1e-10)
    # The density of standardised data, and the Jacobian.
    plain = copy.deepcopy(member)
    plain.column_scale = None
    of_u = plain(z).log_prob(scale.see(x)).detach().numpy()
    assert np.allclose(found, of_u - np.log(s).sum(), rtol=1e-10)


def test_the_low_rank_density_is_scipys_in_the_datas_own_units():
    x, z, scale = table(20), torch.randn(20, 2, dtype=torch.float64), fitted()
    member, S = low_rank(scale), np.diag(scale.spread)
    found = member(z).log_prob(x).detach().numpy()
    for i, (loc, raw, *columns) in enumerate(member.decoder(z).detach().numpy()):
        covariance = np.diag((1e-3 + np.exp(raw)) ** 2) + sum(np.outer(w, w) for w in columns)
        known = scipy.stats.multivariate_normal(np.zeros(D), covariance)
        error = np.linalg.solve(S, (x[i] - scale.centre).numpy()) - loc
        assert found[i] == pytest.approx(known.logpdf(error) - np.log(np.diag(S)).sum(), rel=1e-9)
    plain = copy.deepcopy(member)
    plain.column_scale = None
    of_u = plain(z).log_prob(scale.see(x)) - scale.spread.log().sum()
    assert torch.allclose(torch.tensor(found), of_u, rtol=1e-10)


def standardising(column_scale):
    return [
        *(location_scale(kind, mode, column_scale) for kind in ("Normal", "Laplace") for mode in MODES),
        low_rank(column_scale),
    ]


def test_moments_and_draws_are_in_the_datas_own_units():
    z = torch.randn(1, 2, dtype=torch.float64)
    for member in standardising(fitted()):
        p = member(z)
        draws = p.sample((20_000,))[:, 0]
        assert ((draws.mean(0) - p.mean[0]).abs() < 5 * (p.variance[0] / 20_000).sqrt()).all()
        assert ((p.variance[0].sqrt() / torch.tensor(UNITS)).log().abs() < 3).all()


def test_a_decoder_starts_at_the_mean_of_the_data():
    x, silent = table(), torch.zeros(1, 2, dtype=torch.float64)
    for member in standardising(fitted(x[:50])):
        nn.init.zeros_(member.decoder.head.weight)
        member.start_at(x)
        assert torch.allclose(member(silent).mean[0], x.mean(0), rtol=1e-9)


def test_scales_and_floors_are_told_in_the_datas_own_units():
    scale, told = fitted(), {}
    for member in standardising(scale):
        told[type(member).__name__, getattr(member, "learn_scale", "")] = member.scales()
    s = scale.spread

    def of(width):
        return {name: pytest.approx(width * value) for name, value in known.items()}

    known = {"min": s.min().item(), "median": s.median().item(), "max": s.max().item()}
    unit = {"unit": "that of each column"}
    assert told["Normal", "no"] == {"sigma": of(0.7), **unit}
    assert told["Laplace", "no"] == {"b": of(0.7), **unit}
    assert told["Normal", "one"] == {"sigma": of(0.7), "floor": of(1e-3), "learned": "one number", **unit}
    assert told["Normal", "pixel"] == {"sigma": of(0.7), "floor": of(1e-3), "learned": "per column", **unit}
    assert told["Laplace", "predicted"] == {"b": "predicted from z", "floor": of(1e-3), **unit}
    assert told["LowRankNormal", ""] == {"sigma": "predicted from z", "floor": of(1e-3), "rank": 2, **unit}


def contract_cases():
    scale, mean = ColumnScale((D,)), ColumnMean((D,))
    scale.fit(table(seed=1))
    mean.fit(torch.tensor([[0.0, 3.0, 20.0, 150.0, 1000.0]]).repeat(4, 1))
    posterior = pv.posteriors.DiagonalNormal(Rescaled(mlp(D, (4,)), scale), 2)
    pixel, predicted = {"learn_scale": "pixel", "x_shape": (D,)}, {"learn_scale": "predicted"}
    z = torch.randn(5, 2)
    return {
        "Normal": lambda: pv.check_likelihood(likelihoods.Normal(mlp(2, (D,)), column_scale=scale, **pixel), z),
        "Laplace": lambda: pv.check_likelihood(likelihoods.Laplace(mlp(2, (2, D)), column_scale=scale, **predicted), z),
        "LowRankNormal": lambda: pv.check_likelihood(likelihoods.LowRankNormal(mlp(2, (4, D)), column_scale=scale), z),
        "Poisson": lambda: pv.check_likelihood(likelihoods.Poisson(mlp(2, (D,)), column_mean=mean), z),
        "NegativeBinomial": lambda: pv.check_likelihood(
            likelihoods.NegativeBinomial(mlp(2, (D,)), column_mean=mean), z
        ),
        "DiagonalNormal": lambda: pv.check_posterior(posterior, table().float()[:5]),
        "VampPrior": lambda: pv.check_prior(pv.priors.VampPrior(posterior, (D,), 4, data_scale=scale)),
    }


@pytest.mark.parametrize("name", all_but(["Normal"], contract_cases()))
def test_members_with_a_scaling_keep_the_contract(name):
    contract_cases()[name]().raise_if_failed()


# Counts


def of_counts(kind, x, dtype=torch.float64):
    mean = ColumnMean((x.shape[1],))
    member = getattr(likelihoods, kind)(mlp(2, (x.shape[1],)), column_mean=mean).to(dtype)
    mean.fit(x)
    return member


@pytest.mark.parametrize("kind", ["Poisson", "NegativeBinomial"])
def test_rates_are_relative_to_the_mean_of_each_column(kind):
    x = torch.tensor(np.random.default_rng(0).poisson([0.1, 3, 40, 1e3, 1e5], (20, D)), dtype=torch.float64)
    member, z = of_counts(kind, x), torch.randn(20, 2, dtype=torch.float64)
    output, mean = member.decoder(z).detach().numpy(), x.mean(0).numpy() + 0.5 / 20
    m = mean * np.log1p(np.exp(output)) / np.log(2) + 1e-6
    law = scipy.stats.poisson(m) if kind == "Poisson" else scipy.stats.nbinom(10, 10 / (10 + m))
    assert np.allclose(member(z).log_prob(x).detach(), law.logpmf(x).sum(-1), rtol=1e-7)


@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("kind", ["Poisson", "NegativeBinomial"])
def test_rates_start_at_the_mean_of_counts_of_any_size_in_float32(kind, relative):
    rates = [0.0, 1e-2, 1.0, 50.0, 700.0, 1e4, 1e6]
    x = torch.tensor(np.random.default_rng(0).poisson(rates, (400, 7)), dtype=torch.float32)
    member = of_counts(kind, x, torch.float32)
    member.column_mean = member.column_mean if relative else None
    nn.init.zeros_(member.decoder.head.weight)
    member.start_at(x)
    started = member(torch.zeros(1, 2)).mean[0].double()
    assert torch.allclose(started, x.double().mean(0) + 0.5 / 400, rtol=1e-5, atol=2e-6)
    assert not relative or torch.allclose(member.decoder.output_bias, torch.zeros(7), atol=1e-5)


# Programs


class _Seeing(pv.posteriors.Posterior):
    """The exact posterior of standardised data."""

    def __init__(self, truth, scale):
        super().__init__(nn.Identity(), truth.latent_dim)
        self.truth, self.scale = truth, scale

    def forward(self, x, y=None):
        return self.truth.posterior(self.scale.see(x))


def test_the_evidence_of_a_linear_gaussian_program_is_that_in_the_datas_own_units():
    truth, scale = ProbabilisticPCA(latent_dim=2, data_dim=D), fitted()
    vae = truth.vae()
    vae.likelihood.column_scale, vae.posterior = scale, _Seeing(truth, scale)
    c, S, of_u = scale.centre, scale.spread.diag(), truth.evidence()
    known = dist.MultivariateNormal(c + S @ of_u.loc, S @ of_u.covariance_matrix @ S)
    x = known.sample((6,))
    assert torch.allclose(log_weights(vae, x, 7, seed=0), known.log_prob(x).expand(7, 6), rtol=1e-8)
    assert torch.allclose(iwae(vae, x, 10, seed=0).value, known.log_prob(x), rtol=1e-8)
    assert torch.allclose(quadrature(vae, x).value, known.log_prob(x), rtol=1e-6)
    simulated = vae.generate(40_000)
    error = 5 * known.variance.sqrt() / 200
    assert ((simulated.mean(0) - known.mean).abs() < error).all()


def vamp(scale, **options):
    posterior = pv.posteriors.DiagonalNormal(Rescaled(mlp(D, (4,)), scale), 2)
    return pv.priors.VampPrior(posterior, (D,), 3, data_scale=scale, **options).double()


@pytest.mark.parametrize("scale", [fitted(), LogCounts()], ids=["columns", "counts"])
def test_a_vamp_prior_is_the_mixture_at_inputs_in_the_datas_own_units(scale):
    prior, z = vamp(scale), torch.randn(6, 2, dtype=torch.float64)
    u = prior.pseudo_x.detach()
    x = scale.centre + scale.spread * u if isinstance(scale, ColumnScale) else u.exp() - 1
    parts = torch.stack([prior.posterior(x[k : k + 1]).log_prob(z) for k in range(3)])
    assert torch.allclose(prior().log_prob(z), parts.logsumexp(0) - math.log(3), rtol=1e-9)


@pytest.mark.parametrize("scale", [fitted(), LogCounts()], ids=["columns", "counts"])
def test_a_vamp_prior_starts_on_data_or_in_their_range_as_the_encoder_sees_them(scale):
    prior, x = vamp(scale), table().abs()
    prior.start_at(prior.posterior, x)
    found = scale.undo(prior.pseudo_x.detach())
    assert (torch.cdist(found / torch.tensor(UNITS), x / torch.tensor(UNITS)).min(1).values < 1e-6).all()
    spread = vamp(scale, pseudo_inputs="random")
    spread.start_at(spread.posterior, x)
    seen, u = scale.see(x), spread.pseudo_x.detach()
    assert seen.min() <= u.min() < u.max() <= seen.max()
    assert u.max() - u.min() > (seen.max() - seen.min()) / 2


def scaled_vae():
    """One scaling in the encoder, the likelihood and the prior."""
    scale = ColumnScale((D,))
    posterior = pv.posteriors.DiagonalNormal(Rescaled(mlp(D, (4,)), scale), 2)
    likelihood = likelihoods.Normal(mlp(2, (D,)), 1.0, "pixel", x_shape=(D,), column_scale=scale)
    return pv.VAE(pv.priors.VampPrior(posterior, (D,), 4, data_scale=scale), posterior, likelihood)


def test_a_program_fits_its_scaling_before_it_starts_and_keeps_it_once():
    vae, x = scaled_vae(), table().float()
    vae.start_at(x, x)
    scale = vae.likelihood.column_scale
    assert torch.allclose(scale.spread.double(), x.double().std(0, correction=0), rtol=1e-5)
    assert vae.prior.pseudo_x.abs().max() < 6
    names = [name for name in vae.tensors() if "centre" in name or "spread" in name]
    assert names == ["posterior.encoder.scale.centre", "posterior.encoder.scale.spread"]


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda vae: pickle.loads(pickle.dumps(vae))])  # noqa: S301
def test_a_copy_shares_its_own_scaling_among_its_members(copied):
    vae, x = scaled_vae(), table().float()
    vae.start_at(x, x)
    other = copied(vae).double()
    scale = other.likelihood.column_scale
    assert scale is other.posterior.encoder.scale is other.prior.data_scale is not vae.likelihood.column_scale
    assert scale.spread.dtype == torch.float64
    fresh = scaled_vae().double()
    fresh.set_tensors(other.tensors())
    found = iwae(fresh, x.double(), 5, seed=0).value
    assert torch.equal(found, iwae(other, x.double(), 5, seed=0).value)
    assert torch.allclose(found, iwae(vae.double(), x.double(), 5, seed=0).value)


def test_the_steps_of_pseudo_inputs_suit_columns_of_any_unit():
    vae, x = scaled_vae(), table().float()
    vae.start_at(x, x)
    before = vae.likelihood.column_scale.undo(vae.prior.pseudo_x.detach())
    adam = torch.optim.Adam(vae.parameters(), lr=0.01)

    svi = pv.inference.SVI(vae.model, vae.guide, adam, pyro.infer.Trace_ELBO())
    for _ in range(3):
        svi.step(x)
    moved = (vae.likelihood.column_scale.undo(vae.prior.pseudo_x.detach()) - before).abs().max(0).values
    assert ((moved / vae.likelihood.column_scale.spread) > 0.005).all()


def test_a_top_down_encoder_is_asked_for_its_labels_behind_a_scaling():
    MLP, Normal = pv.networks.MLP, pv.posteriors.DiagonalNormal
    with pytest.raises(ValueError, match="build posterior1's MLP with y_dim=2"):
        pv.HierarchicalVAE(
            pv.priors.StandardNormal(2),
            likelihoods.Normal(MLP((2,), (3,))),
            likelihoods.Normal(MLP((3,), (D,))),
            Normal(Rescaled(MLP((D,), (6,)), ColumnScale((D,))), 3),
            Normal(MLP((D,), (4,)), 2),
        )


@pytest.mark.parametrize("inner", [None, LogCounts()], ids=["as stored", "counts"])
def test_centred_data_have_mean_0_over_the_observed_ones_and_come_back(inner):
    x = torch.from_numpy(np.random.default_rng(0).poisson(50, (40, 3)).astype(float))
    x[::3, 1], x[:, 2] = math.nan, math.nan
    centred = Centred((3,), inner).double()
    centred.fit(x)
    seen = centred.see(x)
    truth = (x if inner is None else x.log1p())[:, :2].numpy()
    torch.testing.assert_close(seen[:, :2], torch.from_numpy(truth - np.nanmean(truth, 0)), equal_nan=True)
    torch.testing.assert_close(centred.undo(seen), x, equal_nan=True)
    assert centred.centre[2] == 0  # a column that nobody saw
