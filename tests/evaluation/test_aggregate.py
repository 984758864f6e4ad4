"""The aggregate posterior: finite mixtures of normals against quadrature, any guide against a slow loop."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import scipy.integrate
import scipy.stats
import torch
from exact import ProbabilisticPCA, binary_data, small_vae, two_layers
from pyro import poutine
from torch import nn

import pyro_vae as pv
from pyro_vae.evaluation.latent import aggregate
from pyro_vae.evaluation.latent.aggregate import aggregate_terms, marginal_kl, mutual_information, total_correlation


class Given(pv.posteriors.Posterior):
    """x = [loc, scale]: the datum says what its q(z|x) is, so that q(z) can be any mixture of normals."""

    def forward(self, x, y=None):
        loc, scale = x.chunk(2, -1)
        return dist.Normal(loc, scale).to_event(1)


def given(loc, scale, prior=pv.priors.StandardNormal):
    loc, scale = (torch.tensor(part, dtype=torch.float64) for part in (loc, scale))
    D = loc.shape[1]
    likelihood = pv.likelihoods.Normal(pv.networks.MLP((D,), (2 * D,), (4,)))
    return pv.VAE(prior(D), Given(nn.Identity(), D), likelihood).double(), torch.cat([loc, scale], -1)


LOC, SCALE = [[-1.5], [0.2], [0.4], [2.5]], [[0.4], [0.3], [1.2], [0.5]]


@pytest.fixture(scope="module")
def line():
    return given(LOC, SCALE)


def density(z):
    return np.mean([scipy.stats.norm.pdf(z, m[0], s[0]) for m, s in zip(LOC, SCALE, strict=True)], axis=0)


def integral(function):
    return scipy.integrate.quad(function, -12, 12, points=[-1.5, 0.2, 2.5], epsabs=1e-11, limit=400)[0]


class TestTruth:
    def test_mutual_information_of_a_mixture_is_the_integral_datum_by_datum(self, line):
        """KL(q_n || q) for 4 data within 5 standard errors (2e-6), their mean within 4."""
        found = mutual_information(*line, 4000, seed=0)
        exact = []
        for (m,), (s,) in zip(LOC, SCALE, strict=True):
            q = scipy.stats.norm(m, s)
            exact.append(integral(lambda z, q=q: q.pdf(z) * (q.logpdf(z) - np.log(density(z)))))
        exact = torch.tensor(exact, dtype=torch.float64)
        assert ((found.value - exact).abs() < 5 * found.value_error).all()
        assert abs(found.mean - exact.mean()) < 4 * found.monte_carlo_error
        assert found.monte_carlo_error < 0.01
        assert 0.3 < found.mean < found.bound == math.log(4)

    def test_marginal_kl_of_a_mixture_is_the_integral(self, line):
        found = marginal_kl(*line, 4000, seed=0)
        exact = integral(lambda z: density(z) * (np.log(density(z)) - scipy.stats.norm.logpdf(z)))
        assert abs(found.mean - exact) < 4 * found.monte_carlo_error
        assert found.monte_carlo_error < 0.02
        assert exact > 0.3

    def test_the_rate_is_the_sum_of_both_and_the_closed_kl(self, line):
        vae, x = line
        terms = aggregate_terms(vae, x, 4000, seed=0)
        parts = terms.mutual_information.value + terms.marginal_kl.value
        assert torch.allclose(terms.rate.value, parts, rtol=0, atol=1e-12)
        closed = pv.evaluation.elbo_terms(vae, x, 2, seed=0).kl
        assert closed.kind == {"z": "analytic"}
        assert ((terms.rate.value - closed.value).abs() < 5 * terms.rate.value_error).all()
        alone = mutual_information(vae, x, 4000, seed=0)
        assert torch.equal(alone.value, terms.mutual_information.value)

    def test_total_correlation_of_a_mixture_in_the_plane_is_the_integral(self):
        """Three normals along a diagonal; the trapezoid rule on smooth densities is exact to 1e-9 here."""
        loc, scale = [[-1.0, -1.2], [0.3, 0.5], [1.5, 1.0]], [[0.5, 0.4], [0.6, 0.7], [0.4, 0.5]]
        grid = np.linspace(-8, 8, 801)
        each = [[scipy.stats.norm.pdf(grid, m[j], s[j]) for j in (0, 1)] for m, s in zip(loc, scale, strict=True)]
        joint = np.mean([np.outer(a, b) for a, b in each], axis=0)
        first, second = (np.mean([pair[j] for pair in each], axis=0) for j in (0, 1))
        with np.errstate(divide="ignore", invalid="ignore"):
            terms = np.where(joint > 0, joint * np.log(joint / np.outer(first, second)), 0)
        exact = np.trapezoid(np.trapezoid(np.nan_to_num(terms), grid), grid)
        found = total_correlation(*given(loc, scale), 4000, seed=0)
        assert abs(found.mean - exact) < 4 * found.monte_carlo_error
        assert found.monte_carlo_error < 0.01
        assert exact > 0.2

    def test_equal_codes_carry_nothing_and_distant_ones_log_n(self):
        same = aggregate_terms(*given([[0.5, -0.2]] * 150, [[0.4, 1.1]] * 150), 3, seed=0)
        assert same.mutual_information.value.abs().max() < 1e-9
        assert torch.allclose(same.marginal_kl.value, same.rate.value, rtol=0, atol=1e-9)
        assert total_correlation(*given([[0.5, -0.2]] * 150, [[0.4, 1.1]] * 150), 3, seed=0).value.abs().max() < 1e-9
        apart = mutual_information(*given([[100.0 * n] for n in range(150)], [[1.0]] * 150), 3, seed=0)
        assert torch.allclose(apart.value, torch.full_like(apart.value, math.log(150)), rtol=0, atol=1e-7)
        assert apart.bound == math.log(150)

    def test_when_the_aggregate_is_the_prior_its_kl_vanishes(self):
        """Exact posteriors of data from the model itself mix to the prior, up to N = 400 data: E KL is about 0.02."""
        truth = ProbabilisticPCA(latent_dim=1)
        terms = aggregate_terms(truth.vae(), truth.data(400), 5, seed=0)
        assert abs(terms.marginal_kl.mean) < 0.05
        exact = -0.5 * math.log(truth.covariance.item())  # I(x; z) of the linear-Gaussian model
        assert abs(terms.mutual_information.mean - exact) < 0.1
        assert exact > 1


class Scaled(pv.posteriors.Posterior):
    """N(0.8 x, 0.36 I): of x ~ N(0, I) the aggregate posterior is N(0, I)."""

    def forward(self, x, y=None):
        return dist.Normal(0.8 * x, 0.6).to_event(1)


def meets_its_prior(dim, num_data, seed):
    likelihood = pv.likelihoods.Normal(pv.networks.MLP((dim,), (dim,), (4,)))
    vae = pv.VAE(pv.priors.StandardNormal(dim), Scaled(nn.Identity(), dim), likelihood).double()
    noise = torch.Generator().manual_seed(seed)
    return vae, torch.randn(num_data, dim, generator=noise, dtype=torch.float64)


class TestBracket:
    """Where q(z) of all data that there could be is p(z), both measures are 0."""

    @pytest.mark.parametrize("measure", [marginal_kl, total_correlation])
    def test_0_lies_between_in_ten_dimensions_and_cannot_be_told_apart(self, measure):
        found = measure(*meets_its_prior(10, 600, 0), 4, seed=0)
        assert found.leave_one_out.mean < -4 * found.leave_one_out.standard_error
        assert found.mean > 4 * found.standard_error
        assert not found.is_above_zero

    @pytest.mark.thorough
    @pytest.mark.parametrize("measure", [marginal_kl, total_correlation])
    def test_the_ends_close_with_more_data(self, measure):
        """As 1 / N where N data fill the space: 40 times narrower in 2 dimensions from 25 to 1,000."""
        few, many = (measure(*meets_its_prior(2, size, 0), 40, seed=0) for size in (25, 1000))
        assert few.mean - few.leave_one_out.mean > 10 * (many.mean - many.leave_one_out.mean)
        assert abs(many.leave_one_out.mean) < 4 * many.leave_one_out.standard_error

    def test_the_lower_end_tells_what_is_not_0(self):
        """q(z) is N(0.5, I) against N(0, I): the KL is D / 8."""
        vae, x = meets_its_prior(2, 1000, 0)
        found = marginal_kl(vae, x + 0.5 / 0.8, 10, seed=0)
        assert found.is_above_zero
        assert abs(found.leave_one_out.mean - 0.25) < 4 * found.leave_one_out.standard_error
        assert found.leave_one_out.mean < found.mean

    @pytest.mark.thorough
    @pytest.mark.parametrize(("dim", "num_data", "most"), [(1, 100, 1.2), (10, 600, 1.2), (10, 150, 1.4)])
    def test_both_errors_are_the_spread_over_data(self, dim, num_data, most):
        """Of 100 data sets, or somewhat larger; the spread of a standard deviation is 7 %.

        They take the mixture as given, which is right to first order: at 150 data in ten dimensions it is not enough.
        """
        runs = [marginal_kl(*meets_its_prior(dim, num_data, s), 4, seed=s) for s in range(100)]
        for ends in (runs, [run.leave_one_out for run in runs]):
            claimed = torch.tensor([end.standard_error for end in ends]).square().mean().sqrt()
            assert 0.5 < torch.tensor([end.mean for end in ends]).std() / claimed < most

    @pytest.mark.parametrize("name", ["diagonal", "full", "top_down"])
    def test_each_datum_is_left_out_of_the_mixture_of_its_own_draws(self, name, monkeypatch):
        """By a loop over data, one mixture each; 7 data in blocks of 3, pools of 5 draws."""
        monkeypatch.setattr(aggregate, "POOL", 5)
        monkeypatch.setattr(aggregate, "DATA_BLOCK", 3)
        vae, x = PROGRAMS[name](), binary_data(7)
        draws = aggregate._draws(vae, x, 3, None, 0)
        found = marginal_kl(vae, x, 3, seed=0).leave_one_out
        for n in range(7):
            others = torch.cat([x[:n], x[n + 1 :]])
            z = {site: value.unflatten(0, (3, 7))[:, n] for site, value in draws.z.items()}
            mixture, _ = aggregate._log_mixtures(vae, others, None, z, aggregate._joint)
            assert found.value[n].item() == pytest.approx((mixture - draws.log_p[:, n]).mean().item(), abs=1e-9)

    def test_codes_far_apart_leave_nothing_for_their_own_draws(self):
        """log q(z_n) without datum n is that of the nearest others, 100 standard deviations away."""
        vae, x = given([[100.0 * n] for n in range(5)], [[1.0]] * 5)
        found = marginal_kl(vae, x, 3, seed=0)
        gap = found.value - found.leave_one_out.value
        assert ((gap > 4500) & (gap < 5500)).all()

    def test_a_single_datum_has_no_lower_end(self):
        found = marginal_kl(*given([[0.5]], [[0.4]]), 3, seed=0)
        assert found.to_dict()["leave_one_out"]["mean"] is None
        assert not found.is_above_zero

    def test_it_prints_both_ends(self):
        upper, lower = str(marginal_kl(*meets_its_prior(2, 50, 0), 4, seed=0)).splitlines()
        assert upper.startswith("KL(q(z)||p(z)) ")
        assert upper.endswith("at most")
        assert lower.startswith("  leave-one-out ")
        assert lower.endswith("at least")


@pytest.mark.thorough
def test_the_claimed_monte_carlo_errors_are_the_true_spreads(line):
    """200 repeats: the spread of a standard deviation is 5 %, so 20 % is 4 standard errors."""
    runs = [aggregate_terms(*line, 20, seed=s) for s in range(200)]
    for i in range(3):
        spread = torch.tensor([run[i].mean for run in runs]).std()
        claimed = torch.tensor([run[i].monte_carlo_error for run in runs]).square().mean().sqrt()
        assert 0.8 < spread / claimed < 1.25


def posterior_vae(kind):
    vae = small_vae()
    vae.posterior = kind(pv.networks.MLP((6,), kind.encoder_shape(3), (8,)), 3).double()
    return vae


PROGRAMS = {
    "diagonal": small_vae,
    "full": lambda: posterior_vae(pv.posteriors.FullNormal),
    "flow": lambda: posterior_vae(pv.posteriors.FlowPosterior),
    "top_down": lambda: two_layers("top_down"),
    "bottom_up": lambda: two_layers("bottom_up"),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_mixture_is_a_slow_loop_over_data_for_any_guide(name):
    vae, x = PROGRAMS[name](), binary_data(5)
    draws = aggregate._draws(vae, x, 3, None, 0)
    found = mutual_information(vae, x, 3, seed=0)
    columns = []
    with torch.no_grad():
        for n in range(5):
            fixed = poutine.condition(vae.guide, data=draws.z)
            trace = poutine.trace(fixed).get_trace(x[n : n + 1].expand(15, 6))
            trace.compute_log_prob()
            columns.append(sum(trace.nodes[site]["log_prob"] for site in draws.z))
    table = torch.stack(columns).reshape(5, 3, 5)  # given datum n, draw k of datum m
    own = torch.stack([table[n, :, n] for n in range(5)], 1)
    values = own - (torch.logsumexp(table, 0) - math.log(5))
    assert torch.allclose(draws.log_q, own, rtol=0, atol=1e-9)
    assert torch.allclose(found.value, values.mean(0), rtol=0, atol=1e-9)
    assert torch.allclose(found.value_error, values.std(0) / 3**0.5, rtol=0, atol=1e-9)


def test_neither_pools_nor_blocks_change_a_result(monkeypatch):
    vae, x = small_vae(), binary_data(140)
    first = aggregate_terms(vae, x, 5, seed=0), total_correlation(vae, x, 5, seed=0)
    monkeypatch.setattr(aggregate, "POOL", 37)
    monkeypatch.setattr(aggregate, "DATA_BLOCK", 50)
    again = aggregate_terms(vae, x, 5, seed=0), total_correlation(vae, x, 5, seed=0)
    for one, other in zip((*first[0], first[1]), (*again[0], again[1]), strict=True):
        assert torch.allclose(one.value, other.value, rtol=0, atol=1e-10)


def test_the_draws_are_those_of_the_weights():
    vae, x = small_vae(prior=pv.priors.StudentT(3)), binary_data(140)
    assert torch.allclose(
        aggregate_terms(vae, x, 40, seed=0).rate.value,
        pv.evaluation.elbo_terms(vae, x, 40, seed=0).kl.value,
        rtol=0, atol=1e-10,
    )  # fmt: skip


def test_a_seeded_call_is_reproducible_and_changes_nothing():
    vae, x = small_vae().train(), binary_data(10)
    state = torch.get_rng_state()
    first = aggregate_terms(vae, x, 3, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    torch.randn(3)
    assert torch.equal(aggregate_terms(vae, x, 3, seed=1).rate.value, first.rate.value)
    assert not torch.equal(aggregate_terms(vae, x, 3, seed=2).rate.value, first.rate.value)
    assert vae.training
    assert not list(pyro.get_param_store())
    unseeded = [mutual_information(vae, x, 3).value for _ in range(2)]
    assert not torch.equal(*unseeded)


def conditional():
    encoder, decoder = pv.networks.MLP((6,), (6,), (8,), y_dim=2), pv.networks.MLP((3,), (6,), (8,), y_dim=2)
    prior = pv.priors.ConditionalNormal(3, y_dim=2)
    prior.means.data[1] = 1.0
    return pv.VAE(prior, pv.posteriors.DiagonalNormal(encoder, 3), pv.likelihoods.Bernoulli(decoder)).double()


def test_a_prior_for_each_label_is_refused_unless_there_is_one_label():
    vae, x, y = conditional(), binary_data(10), torch.eye(2, dtype=torch.float64)[torch.arange(10) % 2]
    with pytest.raises(ValueError, match=r"differs between these labels, .* Pass the data of one label at a time"):
        marginal_kl(vae, x, 2, y, seed=0)
    assert 0 < mutual_information(vae, x, 50, y, seed=0).mean < math.log(10)
    one = aggregate_terms(vae, x[:5], 500, y[::2], seed=0)
    closed = pv.evaluation.elbo_terms(vae, x[:5], 2, y[::2], seed=0).kl
    assert ((one.rate.value - closed.value).abs() < 5 * one.rate.value_error).all()
    vae.prior = pv.priors.StandardNormal(3).double()
    assert aggregate_terms(vae, x, 2, y, seed=0).rate.num_data == 10


def test_what_does_not_factorise_is_refused():
    x = binary_data(4)
    with pytest.raises(ValueError, match="site z does not factorise over the dimensions"):
        total_correlation(PROGRAMS["full"](), x, 2, seed=0)
    with pytest.raises(ValueError, match=r"one latent site; the program has \['z1', 'z2'\]"):
        total_correlation(PROGRAMS["top_down"](), x, 2, seed=0)


@pytest.mark.parametrize("measure", [aggregate_terms, mutual_information, marginal_kl, total_correlation])
def test_a_point_has_no_density(measure):
    vae = small_vae()
    vae.posterior = pv.posteriors.Delta(pv.networks.MLP((6,), (3,)), 3).double()
    with pytest.raises(ValueError, match=r"is a point \(Delta\) and has no density"):
        measure(vae, binary_data(4), 2, seed=0)


def test_it_prints_n_and_log_n():
    found = mutual_information(small_vae(), binary_data(20), 2, seed=0)
    assert str(found).endswith("log N = 2.996 (N = 20)")
    assert found.to_dict()["bound"] == pytest.approx(math.log(20))


def test_one_draw_does_not_know_its_error():
    assert math.isnan(marginal_kl(small_vae(), binary_data(4), 1, seed=0).monte_carlo_error)


def test_of_the_total_correlation_no_end_is_claimed():
    """Ten copies of one number: a normal with a correlation close to 1, of which both values fall short by far."""
    D, scale = 10, 0.1
    truth = (D * math.log1p(scale**2) - (D - 1) * math.log(scale**2) - math.log(scale**2 + D)) / 2
    noise = torch.Generator().manual_seed(0)
    ends = []
    for _ in range(20):
        loc = torch.randn(50, 1, generator=noise).expand(-1, D)
        ends.append(total_correlation(*given(loc.tolist(), torch.full((50, D), scale).tolist()), 2, seed=0))
    for means in ([end.mean for end in ends], [end.leave_one_out.mean for end in ends]):
        assert np.mean(means) < truth - 1.5 * np.std(means, ddof=1) / 20**0.5
    assert np.mean([end.mean for end in ends]) < truth - 4 * np.std([end.mean for end in ends], ddof=1) / 20**0.5
    assert "at most" not in str(ends[0])
    assert "at least" not in str(ends[0])
    assert "at most" in str(marginal_kl(*given(LOC, SCALE), 2, seed=0))
