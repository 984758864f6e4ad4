"""Every row does the same work, the reference is right, and a row that does other work is refused."""

import math

import numpy as np
import pytest
import torch
from cases import thorough
from scipy import integrate, stats
from torch.nn import functional

from benchmarks import rows
from benchmarks.agreement import LikelihoodTruth, StepTruth
from benchmarks.peers.peer import NotAvailableError
from benchmarks.peers.plain import Twin
from benchmarks.problem import X_DIM, Size, draw_data, draw_parameters, sharpen
from benchmarks.reference import Reference
from benchmarks.team import FailedError
from benchmarks.worker import Server

MLP, CONV, FEW_PIXELS = Size(8, 16, 3), Size(8, 0, 3), Size(8, 16, 3, 64)
EAGER = ("pyro", "eager", "twin", "pythae")


class Local:
    """A worker in this process."""

    def __init__(self, peer, size):
        self.server = Server()
        self.server.peer, self.server.size, self.tolerance = peer, size, peer.tolerance

    def ask(self, call, **arguments):
        return getattr(self.server, call)(**arguments)

    def call(self, method, **arguments):
        return getattr(self.server.peer, method)(**arguments)


def built(table, key, size):
    torch.manual_seed(0)
    try:
        return Local(table[key].build(size, "cpu"), size)
    except NotAvailableError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("size", [MLP, FEW_PIXELS, *thorough((CONV,))], ids=["mlp", "few pixels", "conv"])
@pytest.mark.parametrize("key", EAGER)
def test_rows_step_alike(key, size):
    StepTruth(size).check(built(rows.STEP, key, size))


@pytest.mark.thorough
@pytest.mark.parametrize("key", ["eager", "twin", "pythae"])
def test_rows_estimate_the_same_log_likelihood(key):
    LikelihoodTruth(MLP).check(built(rows.LIKELIHOOD, key, MLP))


@pytest.mark.parametrize("size", [MLP, CONV], ids=["mlp", "conv"])
def test_parameters_come_back_as_they_went_in(size):
    wanted = draw_parameters(size)
    peer = built(rows.STEP, "eager", size).server.peer
    peer.set_parameters(wanted)
    found = peer.parameters()
    assert found.keys() == wanted.keys()
    assert all(np.array_equal(found[name].ravel(), wanted[name].ravel()) for name in wanted)


def test_reference_is_the_integral():
    """One latent dimension: log p(x) by quadrature, in NumPy and SciPy alone."""
    size = Size(1, 2, 1)
    p, x = {name: value.astype(float) for name, value in draw_parameters(size).items()}, draw_data(1)[0]

    def joint(z):
        hidden = np.maximum(p["decoder.first.weight"] @ [z] + p["decoder.first.bias"], 0)
        logits = p["decoder.out.weight"] @ hidden + p["decoder.out.bias"]
        return stats.norm.pdf(z) * math.exp((x * logits - np.logaddexp(0, logits)).sum() + 500)

    truth = math.log(integrate.quad(joint, -10, 10, limit=500)[0]) - 500
    draws = [Reference(size, draw_parameters(size)).log_p(x[None], 2000, seed)[0] for seed in range(8)]
    assert abs(np.mean(draws) - truth) < 4 * stats.sem(draws) + 1e-3


def test_reference_loss_with_a_blind_decoder_is_closed_form():
    parameters = {name: np.zeros_like(value) for name, value in draw_parameters(MLP).items()}
    parameters["encoder.out.bias"][:] = [0.5, 0.5, 0.5, -1.0, -1.0, -1.0]
    kl = 0.5 * 3 * (0.5**2 + math.exp(-1) - 1 + 1)
    wanted = 8 * (X_DIM * math.log(2) + kl)
    assert Reference(MLP, parameters).losses(draw_data(8), 1)[0] == pytest.approx(wanted, rel=1e-9)


def test_sharp_losses_hardly_vary():
    losses = Reference(MLP, sharpen(draw_parameters(MLP))).losses(draw_data(8), 5)
    assert np.ptp(losses) < 1e-8 * losses[0]


class HalfKL(torch.nn.Module):
    def __init__(self, vae):
        super().__init__()
        self.vae = vae

    def forward(self, x):
        mu, s = self.vae.encoder(x).chunk(2, -1)
        return self.vae(x) + 0.25 * (1 + s - mu.square() - s.exp()).sum()


def test_another_loss_is_refused():
    peer = Twin(MLP)
    peer.loss = HalfKL(peer.module)
    with pytest.raises(FailedError, match="its loss at equal parameters is"):
        StepTruth(MLP).check(Local(peer, MLP))


class Restless(torch.nn.Module):
    """Twice the noise: right where there is none."""

    def __init__(self, vae):
        super().__init__()
        self.vae = vae

    def forward(self, x):
        mu, s = self.vae.encoder(x).chunk(2, -1)
        z = mu + 2 * (0.5 * s).exp() * torch.randn_like(mu)
        cross_entropy = functional.binary_cross_entropy_with_logits(self.vae.decoder(z), x, reduction="sum")
        return cross_entropy - 0.5 * (1 + s - mu.square() - s.exp()).sum()


def test_noise_of_another_size_is_refused():
    peer = Twin(MLP)
    peer.loss = Restless(peer.module)
    truth, worker = StepTruth(MLP), Local(peer, MLP)
    truth.check_sharp(worker)
    with pytest.raises(FailedError, match="its mean loss at equal parameters is"):
        truth.check_mean(worker)


@pytest.mark.parametrize("factor", [0.0, 0.5, 2.0])
def test_another_learning_rate_is_refused(factor):
    peer = Twin(MLP)
    peer.optimizer.param_groups[0]["lr"] *= factor
    with pytest.raises(FailedError, match="steps lower the loss by"):
        StepTruth(MLP).check(Local(peer, MLP))


def test_another_log_likelihood_is_refused():
    peer = Twin(MLP)
    log_weights = peer.log_weights
    peer.log_weights = lambda *arguments: log_weights(*arguments) + 1.0
    with pytest.raises(FailedError, match=r"its mean log p\(x\)"):
        LikelihoodTruth(MLP).check(Local(peer, MLP))


def test_a_peer_that_is_not_installed_says_so():
    row = rows.Row("nobody", "nowhere:Nobody", ("no_such_package",))
    with pytest.raises(NotAvailableError, match="no_such_package is not installed"):
        row.build(MLP, "cpu")
