"""Three programs as people bring them, with networks of their own, through all that there is for a program.

A decoder with batch norm; a sequence, read by one recurrent network and told by another; and an encoder and a decoder
that share a layer. Each is held to a loss written by hand and to an integral over a plain grid.
"""

import math

import pyro
import pytest
import torch
from cases import needs_compiler, thorough
from torch import nn
from torch.nn import functional

import pyro_vae as pv
from pyro_vae.randomness import stream

D, T = 2, 3


def dense(inputs, outputs):
    return nn.Sequential(nn.Linear(inputs, 8), nn.Tanh(), nn.Linear(8, outputs))


def normalising():
    # Without a bias, which batch norm takes away: Adam would make whole steps of the rounding that is its gradient.
    decoder = nn.Sequential(nn.Linear(D, 8, bias=False), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 6))
    return (6,), dense(6, 2 * D), decoder


class Reader(nn.Module):
    """Reads (B, T, 2) into (B, 2 D)."""

    def __init__(self):
        super().__init__()
        self.cell, self.head = nn.GRU(2, 5, batch_first=True), nn.Linear(5, 2 * D)

    def forward(self, x):
        return self.head(self.cell(x)[1][0])


class Teller(nn.Module):
    """Tells (B, T, 2) from z (B, D), one time after another."""

    def __init__(self):
        super().__init__()
        self.first, self.cell, self.head = nn.Linear(D, 5), nn.GRUCell(2, 5), nn.Linear(5, 2)

    def forward(self, z):
        state, told = self.first(z).tanh(), [z.new_zeros(len(z), 2)]
        for _ in range(T):
            state = self.cell(told[-1], state)
            told.append(self.head(state))
        return torch.stack(told[1:], 1)


def recurrent():
    return (T, 2), Reader(), Teller()


class Transposed(nn.Module):
    """A linear layer with another's weights, transposed."""

    def __init__(self, layer):
        super().__init__()
        self.weight, self.bias = layer.weight, nn.Parameter(torch.zeros(layer.in_features))

    def forward(self, h):
        return functional.linear(h, self.weight.T, self.bias)


def shared():
    layer = nn.Linear(6, 8)
    encoder = nn.Sequential(layer, nn.Tanh(), nn.Linear(8, 2 * D))
    return (6,), encoder, nn.Sequential(nn.Linear(D, 8), nn.Tanh(), Transposed(layer))


@pytest.fixture(params=[normalising, *thorough(recurrent), shared], ids=lambda build: build.__name__)
def make(request):
    """Makes the same program each time, in float64, and data for it."""

    def made():
        with stream(3, "init"):
            x_shape, encoder, decoder = request.param()
            posterior = pv.posteriors.DiagonalNormal(encoder, D)
            vae = pv.VAE(pv.priors.StandardNormal(D), posterior, pv.likelihoods.Bernoulli(decoder)).double()
            return vae, torch.randint(0, 2, (12, *x_shape)).double()

    return made


@pytest.fixture
def trained(make):
    """The program after 60 stock steps, evaluating, and data."""
    vae, x = make()
    svi = pyro.infer.SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-2}), pyro.infer.Trace_ELBO())
    for _ in range(60):
        svi.step(x)
    return vae.eval(), x


def by_hand(vae, x, noise, analytic):
    """Minus the ELBO, summed over the data, with torch alone."""
    loc, raw = vae.posterior.encoder(x).chunk(2, -1)
    scale = 1e-4 + raw.exp()
    z = loc + scale * noise
    normal, standard = torch.distributions.Normal(loc, scale), torch.distributions.Normal(0.0, 1.0)
    kl = normal.log_prob(z) - standard.log_prob(z)
    if analytic:
        kl = scale.square() / 2 + loc.square() / 2 - 0.5 - scale.log()
    return functional.binary_cross_entropy_with_logits(vae.likelihood.decoder(z), x, reduction="sum") + kl.sum()


@pytest.mark.parametrize("loss", [pyro.infer.Trace_ELBO, pyro.infer.TraceMeanField_ELBO])
def test_stock_steps_are_those_of_a_loss_by_hand(loss, make):
    vae, x = make()
    svi = pyro.infer.SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-2}), loss())
    twin, _ = make()
    adam = torch.optim.Adam(twin.parameters(), lr=1e-2)
    for seed in range(4):
        torch.manual_seed(seed)
        expected = by_hand(twin, x, torch.randn(len(x), D, dtype=x.dtype), loss is not pyro.infer.Trace_ELBO)
        adam.zero_grad()
        expected.backward()
        adam.step()
        torch.manual_seed(seed)
        assert svi.step(x) == pytest.approx(expected.item(), rel=1e-10)
    for parameter, by_torch in zip(vae.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(parameter, by_torch, rtol=0, atol=1e-8)


def steps(make, mode, loss):
    vae, x = make()
    adam = torch.optim.Adam(vae.parameters(), lr=1e-2)
    svi = pv.inference.SVI(vae.model, vae.guide, adam, loss(), compile=mode)
    with stream(0, "noise"):
        losses = [svi.step(x[: 12 if step % 3 else 7]) for step in range(8)]
    assert svi.graphs.mode == mode, "it fell back"
    return losses, {name: value.clone() for name, value in vae.state_dict().items()}


LOSSES = [
    pv.inference.MeanFieldELBO,
    *thorough(pyro.infer.Trace_ELBO, pyro.infer.TraceMeanField_ELBO, lambda: pv.inference.ImportanceWeightedELBO(4)),
]


@pytest.mark.thorough
@pytest.mark.parametrize("loss", LOSSES)
def test_traced_steps_are_the_same_to_the_last_bit(loss, make, traced_only):
    losses, state = steps(make, True, loss)
    expected_losses, expected = steps(make, False, loss)
    assert losses == expected_losses
    assert all(torch.equal(state[name], expected[name]) for name in expected)


@needs_compiler
@pytest.mark.thorough
def test_compiled_steps_are_the_same_but_for_rounding(make):
    losses, state = steps(make, True, pv.inference.MeanFieldELBO)
    expected_losses, expected = steps(make, False, pv.inference.MeanFieldELBO)
    assert losses == pytest.approx(expected_losses, rel=1e-9)
    for name in expected:
        torch.testing.assert_close(state[name], expected[name], rtol=1e-7, atol=1e-9)


@pytest.mark.thorough
def test_checks_pass_except_for_what_batch_norm_does_in_training(trained):
    vae, x = trained
    torch.manual_seed(0)
    normalises = any(isinstance(module, nn.BatchNorm1d) for module in vae.modules())
    failed = pv.check_likelihood(vae.likelihood, torch.randn(5, D, dtype=x.dtype)).failed
    assert failed == (("batch order",) if normalises else ())
    pv.check_posterior(vae.posterior, x).raise_if_failed()


def evidence(vae, x):
    """log p(x) (B,): the trapezoidal rule, one row of a plain grid after another."""
    ends = torch.linspace(-8, 8, 161, dtype=x.dtype)
    rows = []
    for first in ends:
        z = torch.stack([first.expand(len(ends)), ends], -1)
        logits = vae.likelihood.decoder(z)[:, None]
        log_x = -functional.binary_cross_entropy_with_logits(
            logits.expand(len(ends), *x.shape), x.expand(len(ends), *x.shape), reduction="none"
        )
        log_z = -z.square().sum(-1) / 2 - math.log(2 * math.pi)
        rows.append((log_x.flatten(2).sum(-1) + log_z[:, None]).logsumexp(0))
    return torch.stack(rows).logsumexp(0) + 2 * math.log(16 / 160)


@torch.no_grad()
@pytest.mark.thorough
def test_estimators_find_the_integral(trained):
    """Within 5 standard errors for each of 12 data (7e-6), and the ELBO below."""
    vae, x = trained
    exact = evidence(vae, x)
    grid = pv.evaluation.quadrature(vae, x)
    assert grid.reliable.all()
    torch.testing.assert_close(grid.value, exact, rtol=0, atol=1e-4)
    for estimate in (
        pv.evaluation.iwae(vae, x, 4000, seed=0),
        pv.evaluation.ais(vae, x, 30, 16, seed=0),
    ):
        assert ((estimate.value - exact).abs() < 5 * estimate.value_error).all()
    terms = pv.evaluation.elbo_terms(vae, x, 400, seed=0)
    assert ((terms.elbo.value - exact) < 5 * terms.elbo.value_error).all()
    assert (pv.evaluation.psis_khat(pv.evaluation.log_weights(vae, x, 1000, seed=0)) < 0.7).all()


def moments(vae, x):
    """E[z|x] (B, D), by the same grid."""
    ends = torch.linspace(-8, 8, 161, dtype=x.dtype)
    z = torch.cartesian_prod(ends, ends)
    log_p = vae.likelihood(z[:, None]).log_prob(x) - z.square().sum(-1, keepdim=True) / 2
    return log_p.softmax(0).T @ z


@pytest.mark.thorough
def test_all_that_looks_at_a_program_takes_them(trained):
    """Held to the integral where there is one, within 5 errors, and to what one says of another elsewhere."""
    vae, x = trained
    with torch.no_grad():
        exact = evidence(vae, x)
    ev = pv.evaluation
    curve = ev.iwae_curve(vae, x, 500, seed=0)
    assert all(bound.mean - exact.mean() < 5 * bound.monte_carlo_error for bound in curve.bounds.values())
    both = ev.bdmc(vae, 12, 50, 16, seed=0)
    assert both.forward.mean < both.reverse.mean + 4 * (both.forward.monte_carlo_error + both.reverse.monte_carlo_error)
    taken = ev.escalate(vae, x, num_samples=100, threshold=-9.0, num_temperatures=20, num_chains=8, seed=0)
    assert len(taken.rows) == 12
    assert all(abs(row.answer.value - exact[row.datum]) < 5 * row.answer.error + 0.05 for row in taken.rows)
    terms = ev.identity(vae, x)
    assert terms.residual.abs().max() < 1e-3
    torch.testing.assert_close(terms.evidence.value, exact, rtol=0, atol=1e-4)
    draws = ev.nuts(vae, x[:1], num_draws=400, num_warmup=100, num_chains=2, seed=0)
    with torch.no_grad():
        expected = moments(vae, x[:1])[0]
    assert ((draws.draws["z"].mean((0, 1)) - expected).abs() < 5 * draws.mixing["z"].error).all()
    fitted = ev.refine(vae, x, steps=100, seed=0)
    assert (fitted.refined.value < exact + 5 * fitted.refined.value_error).all()
    assert fitted.gap.mean > -4 * fitted.gap.monte_carlo_error
    gaps = ev.gap_budget(vae, x, ev.iwae(vae, x, 500, seed=0), steps=20, seed=0)
    torch.testing.assert_close(gaps.inference.value, gaps.reference.value - gaps.elbo.value)
    parts = ev.aggregate_terms(vae, x, 20, seed=0)
    torch.testing.assert_close(parts.rate.value, parts.mutual_information.value + parts.marginal_kl.value)
    assert ev.total_correlation(vae, x, 20, seed=0).mean >= ev.total_correlation(vae, x, 20, seed=0).leave_one_out.mean
    assert ev.active_units(vae, x, seed=0).count["z"] <= D
    analytic = ev.kl_per_dimension(vae, x, 20, seed=0)["z"].value.sum(-1)
    torch.testing.assert_close(analytic, ev.elbo_terms(vae, x, 20, seed=0).kl.value)
    plane = ev.rate_distortion(vae, x, 20, seed=0)
    elbo = ev.elbo(vae, x, 20, seed=0)
    assert plane.rate.mean + plane.distortion.mean == pytest.approx(-elbo.mean)
    grid = ev.posterior_on_grid(vae, x[:1])
    cell = math.prod((axis[1] - axis[0]).item() for axis in grid.axes)
    assert grid.posterior.exp().sum() * cell == pytest.approx(1, abs=0.01)
    assert ev.to_inference_data(vae, x, 10, seed=0).posterior["z"].shape[-1] == D
    with ev.compiled():
        assert ev.iwae(vae, x, 500, seed=0).mean == pytest.approx(curve.bounds[500].mean, abs=0.2)
