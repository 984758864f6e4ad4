"""Networks of any user's see rows alone: values for more leading dimensions are those of a slow loop over slices."""

import itertools

import pyro
import pyro.distributions as dist
import pytest
import torch
from cases import all_but
from torch import nn

import pyro_vae as pv
from pyro_vae.errors import UsageError
from pyro_vae.model import traces
from pyro_vae.model.folding import folded

D, X, C = 3, 4, 2


def seeded(build):
    torch.manual_seed(3)
    return build().double()


def normalising():
    net = nn.Sequential(nn.Linear(D, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, X))
    net(torch.randn(50, D))  # statistics of its own
    return net


class Viewing(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(D, X)

    def forward(self, z):
        return self.head(z).view(-1, X)


class Recurrent(nn.Module):
    """A sequence of X numbers, each from the state of a GRU that starts at z."""

    def __init__(self):
        super().__init__()
        self.step, self.head = nn.GRU(1, D, batch_first=True), nn.Linear(D, 1)

    def forward(self, z):
        return self.head(self.step(z.new_ones(len(z), X, 1), z[None])[0]).squeeze(-1)


class Rescaled(pv.networks.MLP):
    """One of ours with a forward of the user's around it."""

    def forward(self, z, y=None):
        return super().forward(z, y).softmax(1)


class Centred(nn.Module):
    """A layer of the user's inside one of ours."""

    def forward(self, h):
        return h - h.mean(1, keepdim=True)


DECODERS = {
    "batch norm": normalising,
    "softmax(dim=1)": lambda: nn.Sequential(nn.Linear(D, X), nn.Softmax(dim=1)),
    "transposed convolution": lambda: nn.Sequential(
        nn.Linear(D, 2), nn.Unflatten(1, (2, 1)), nn.ConvTranspose1d(2, 1, X), nn.Flatten()
    ),
    "view(-1, ...)": Viewing,
    "recurrent": Recurrent,
    "ours inside": lambda: nn.Sequential(pv.networks.MLP((D,), (6,)), nn.LayerNorm(6), nn.Linear(6, X)),
    "inside ours": lambda: pv.networks.MLP((D,), (X,), (6,), activation=Centred),
    "around ours": lambda: Rescaled((D,), (X,), (6,)),
}


def vae(decoder, encoder=None):
    encoder = encoder or pv.networks.MLP((X,), (2 * D,), (6,))
    return pv.VAE(
        pv.priors.StandardNormal(D),
        pv.posteriors.DiagonalNormal(encoder, D),
        pv.likelihoods.Bernoulli(decoder),
    ).double()


def x(size=5):
    return torch.randint(0, 2, (size, X), generator=torch.Generator().manual_seed(1)).double()


def over_slices(member, z, value):
    """log p(x|z) by a loop over all leading dimensions but that of the data."""
    lead = z.shape[:-2]
    each = [member(z[index]).log_prob(value) for index in itertools.product(*map(range, lead))]
    return torch.stack(each).reshape(*lead, len(value))


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("lead", [(), (4,), (4, 1), (2, 3)])
def test_a_likelihood_is_a_loop_over_slices(name, lead):
    likelihood = pv.likelihoods.Bernoulli(seeded(DECODERS[name])).eval()
    z = torch.randn(*lead, 5, D, dtype=torch.float64)
    p = likelihood(z)
    assert p.batch_shape == (*lead, 5)
    torch.testing.assert_close(p.log_prob(x()), over_slices(likelihood, z, x()))


@pytest.mark.parametrize("name", DECODERS)
def test_evaluations_are_those_of_a_loop_over_draws(name):
    program = vae(seeded(DECODERS[name]))
    pyro.set_rng_seed(0)
    with torch.no_grad():
        pair = traces.run(program.eval().model, program.guide, 6, x())
        z = pair.guide.nodes["z"]["value"]
        expected = over_slices(program.likelihood, z, x())
        expected = expected + program.prior().log_prob(z) - program.posterior(x()).log_prob(z)
    torch.testing.assert_close(traces.log_weights(pair), expected)
    assert program.reconstruct(x(), num_samples=7).shape == (7, 5, X)
    assert program.interpolate(x()[:2], x()[2:4], steps=3).shape == (3, 2, X)
    ends = program.interpolate(x()[:2], x()[2:4], steps=3)[0]
    torch.testing.assert_close(ends, program.likelihood(program.centre(x()[:2])).mean)


@pytest.mark.thorough
@pytest.mark.parametrize("name", all_but(["batch norm", "recurrent", "inside ours", "around ours"], DECODERS))
def test_checks_pass_except_for_batch_norm_in_training(name):
    torch.manual_seed(0)
    report = pv.check_likelihood(pv.likelihoods.Normal(seeded(DECODERS[name])), torch.randn(5, D))
    assert set(report.failed) <= ({"batch order"} if name == "batch norm" else set())


def losses(compiled, loss):
    program = vae(seeded(normalising))
    pyro.set_rng_seed(0)
    svi = pv.inference.SVI(
        program.model, program.guide, torch.optim.Adam(program.parameters(), lr=1e-2), loss, compile=compiled
    )
    return [svi.step(x(8)) for _ in range(4)], program


@pytest.mark.thorough
@pytest.mark.parametrize("loss", [pv.inference.MeanFieldELBO, lambda: pv.inference.ImportanceWeightedELBO(3)])
def test_compiled_steps_are_those_of_pyro(loss):
    (eager, one), (compiled, other) = losses(False, loss()), losses(True, loss())
    torch.testing.assert_close(torch.tensor(eager), torch.tensor(compiled))
    torch.testing.assert_close(one.state_dict(), other.state_dict())


@pytest.mark.thorough
def test_compiled_blocks_of_draws_are_those_of_pyro():
    program = vae(seeded(normalising))
    eager = pv.evaluation.log_weights(program, x(), 256, seed=0)
    with pv.evaluation.compiled():
        torch.testing.assert_close(pv.evaluation.log_weights(program, x(), 256, seed=0), eager)


class Rows(nn.Module):
    """Keeps the shapes that a network sees."""

    def __init__(self, network):
        super().__init__()
        self.network, self.seen = network, []

    def forward(self, *given):
        self.seen.append(tuple(tuple(a.shape) for a in given))
        return self.network(torch.cat(given, -1))


def test_batch_norm_sees_the_rows_of_all_vectorised_particles_of_stock_pyro():
    decoder = seeded(lambda: nn.Sequential(nn.Linear(D, X), nn.BatchNorm1d(X)))
    program = vae(decoder)
    loss = pyro.infer.Trace_ELBO(num_particles=6, vectorize_particles=True, max_plate_nesting=1)
    pyro.set_rng_seed(0)
    value = loss.loss(program.model, program.guide, x())
    pyro.set_rng_seed(0)
    with pyro.plate("particles", 6, dim=-2), torch.no_grad():
        z = program.guide(x())
        logits = decoder[0](z.flatten(0, 1))
        p = dist.Bernoulli(logits=(logits - logits.mean(0)) / (logits.var(0, unbiased=False) + 1e-5).sqrt()).to_event(1)
        log_p = p.log_prob(x().repeat(6, 1)).reshape(6, 5)
        bound = log_p + program.prior().log_prob(z) - program.posterior(x()).log_prob(z)
    assert value == pytest.approx(-bound.sum(-1).mean().item())


def test_labels_and_latents_are_broadcast_before_the_decoder():
    decoder = Rows(nn.Linear(D + C, 2 * X)).double()
    likelihood = pv.likelihoods.Normal(_Parts(decoder), learn_scale="predicted", scale=1.0)
    z, y = torch.randn(4, 5, D, dtype=torch.float64), torch.eye(C, dtype=torch.float64)[[0, 1, 1, 0, 0]]
    value = torch.randn(5, X, dtype=torch.float64)
    torch.testing.assert_close(
        likelihood(z, y).log_prob(value), torch.stack([likelihood(part, y).log_prob(value) for part in z])
    )
    assert decoder.seen[0] == ((20, D), (20, C))
    along = y.expand(4, 5, C)
    torch.testing.assert_close(
        likelihood(z[0], along).log_prob(value), likelihood(z[0].expand_as(z), along).log_prob(value)
    )
    assert likelihood(z[0], along).batch_shape == (4, 5)


class _Parts(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, z, y):
        return self.network(z, y).unflatten(1, (2, X))


@pytest.mark.parametrize("name", ["Bernoulli", "LowRankNormal", "ExponentialNorm", "Categorical", "Normal"])
def test_labels_with_more_leading_dimensions_than_latents_are_a_loop(name):
    kind = getattr(pv.likelihoods, name)
    shape = kind.decoder_shape((X,), num_levels=5) if name == "Categorical" else kind.decoder_shape((X,))
    options = {"num_levels": 5} if name == "Categorical" else {}
    likelihood = kind(pv.networks.MLP((D,), shape, (6,), y_dim=C), **options)
    z, y = torch.randn(5, D), torch.rand(3, 5, C)
    value = likelihood(z, y[0]).sample()
    p = likelihood(z, y)
    assert (p.batch_shape, p.event_shape) == ((3, 5), (X,))
    torch.testing.assert_close(p.log_prob(value), torch.stack([likelihood(z, row).log_prob(value) for row in y]))


@pytest.mark.parametrize("guide", ["top_down", "bottom_up"])
@pytest.mark.parametrize("y_dim", [0, C])
def test_both_layers_of_two_fold(guide, y_dim):
    top_down = guide == "top_down"

    def rows(*sizes):
        return Rows(nn.Sequential(nn.Linear(sum(sizes[:-1]), sizes[-1]), nn.BatchNorm1d(sizes[-1])))

    encoder1, encoder2 = rows(X, y_dim + 2 * top_down, 2 * D), rows(X if top_down else D, y_dim, 4)
    middle, decoder = rows(2, y_dim, D), rows(D, y_dim, X)
    program = pv.HierarchicalVAE(
        pv.priors.StandardNormal(2),
        pv.likelihoods.Normal(middle, scale=1.0),
        pv.likelihoods.Bernoulli(decoder),
        pv.posteriors.DiagonalNormal(encoder1, D),
        pv.posteriors.DiagonalNormal(encoder2, 2),
        guide=guide,
    ).double()
    y = (torch.eye(C, dtype=torch.float64)[[0, 1, 1, 0, 0]],) if y_dim else ()
    program.eval()
    with torch.no_grad():
        pair = traces.run(program.model, program.guide, 6, x(), *y)
        every = [encoder1, encoder2, middle, decoder]
        assert all(len(shape) == 2 for net in every for call in net.seen for shape in call)
        z1, z2 = (pair.guide.nodes[name]["value"] for name in ("z1", "z2"))
        expected = torch.stack([_log_weight(program, z1[k], z2[k], y) for k in range(6)])
    torch.testing.assert_close(traces.log_weights(pair), expected)
    assert program.reconstruct(x(), *y, num_samples=2).shape == (2, 5, X)


def _log_weight(program, z1, z2, y):
    label = y[0] if y else None
    log_p = program.prior().log_prob(z2) + program.middle(z2, label).log_prob(z1)
    log_p = log_p + program.likelihood(z1, label).log_prob(x())
    if program.top_down:
        above = torch.cat([z2, *y], -1)
        return log_p - program.posterior2(x(), label).log_prob(z2) - program.posterior1(x(), above).log_prob(z1)
    return log_p - program.posterior1(x(), label).log_prob(z1) - program.posterior2(z1, label).log_prob(z2)


def test_a_replaced_posterior_of_latents_is_told_so():
    program = seeded(
        lambda: pv.HierarchicalVAE(
            pv.priors.StandardNormal(2),
            pv.likelihoods.Normal(pv.networks.MLP((2,), (D,))),
            pv.likelihoods.Bernoulli(pv.networks.MLP((D,), (X,))),
            pv.posteriors.DiagonalNormal(pv.networks.MLP((X,), (2 * D,)), D),
            pv.posteriors.DiagonalNormal(pv.networks.MLP((D,), (4,)), 2),
            guide="bottom_up",
        )
    )
    program.posterior2 = pv.posteriors.DiagonalNormal(Rows(nn.Linear(D, 4)), 2).double()
    program.reconstruct(x())
    traces.run(program.model, program.guide, 6, x())
    assert program.posterior2.encoder.seen[-1] == ((30, D),)
    pv.check_posterior(program.posterior2, torch.randn(4, D)).raise_if_failed()


def test_pseudo_inputs_move_the_statistics_of_the_encoder():
    encoder = seeded(lambda: nn.Sequential(nn.BatchNorm1d(X, momentum=1.0), nn.Linear(X, 2 * D)))
    posterior = pv.posteriors.DiagonalNormal(encoder, D)
    prior = pv.priors.VampPrior(posterior, (X,), num_components=7)
    program = pv.VAE(prior, posterior, pv.likelihoods.Bernoulli(pv.networks.MLP((D,), (X,)))).double()
    program.guide(x())
    torch.testing.assert_close(encoder[0].running_mean, x().mean(0))
    program.model(x())
    torch.testing.assert_close(encoder[0].running_mean, prior.pseudo_x.mean(0).detach())


# What a network may return


def test_a_network_that_returns_no_tensor_is_refused():
    with pytest.raises(TypeError, match="Twice must return one tensor; got a tuple"):
        folded(Twice(), torch.zeros(2, 5, D), None, 1)


class Twice(nn.Module):
    def forward(self, z):
        return z, z


@pytest.mark.parametrize("network", [lambda z: z[:1], lambda z: z.sum(), lambda z: z.mean(0)])
def test_a_network_that_loses_rows_is_refused(network):
    with pytest.raises(ValueError, match="one row for each"):
        folded(network, torch.zeros(2, 5, D), None, 1)


@pytest.mark.parametrize(
    ("sizes", "dtype", "match"),
    [
        ((X, D), torch.float64, r"encoder of DiagonalNormal, Linear, cannot take x \(5, 4\) of float64: .*program.to"),
        ((X, D), torch.int64, r"encoder of DiagonalNormal, Linear, .* x\.to\(torch\.float32\)$"),
        ((X + 1, D), torch.float32, r"encoder of DiagonalNormal, .*5x4 and 5x6.* Build it for x \(N, 4\), or pass"),
        (
            (X, D + 1),
            torch.float32,
            r"decoder of Bernoulli, Linear, cannot take z .*5, 3\) .* Build it for z \(N, 3\)",
        ),
    ],
)
def test_what_a_network_does_not_take_is_named_with_its_member(sizes, dtype, match):
    program = vae(nn.Linear(sizes[1], X), nn.Linear(sizes[0], 2 * D)).float()
    with pytest.raises(UsageError, match=match) as caught:
        pv.evaluation.elbo(program, torch.zeros(5, X, dtype=dtype), num_samples=1)
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_other_errors_of_a_network_are_its_own():
    def broken(z):
        raise RuntimeError("no such thing")

    with pytest.raises(RuntimeError, match="no such thing"):
        folded(broken, torch.zeros(2, 5, D), None, 1)


# Checks


class Unfolded(pv.likelihoods.Likelihood):
    """It calls its decoder itself, which then takes data for pixels."""

    def forward(self, z, y=None):
        return dist.Normal(self.decoder(z), 1.0).to_event(1)


def test_a_likelihood_that_calls_its_decoder_unfolded_fails():
    likelihood = Unfolded(nn.Sequential(nn.Linear(D, X), nn.Softmax(dim=1)))
    assert pv.check_likelihood(likelihood, torch.randn(6, D)).failed == ("slices",)


class Mixing(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(D, X)

    def forward(self, z):
        return self.head(z - z.mean(0))


def test_a_decoder_that_mixes_data_fails():
    assert "batch order" in pv.check_likelihood(pv.likelihoods.Bernoulli(Mixing()), torch.randn(6, D)).failed


class UnfoldedPosterior(pv.posteriors.DiagonalNormal):
    def forward(self, x, y=None):
        lead = torch.broadcast_shapes(x.shape[:-1], y.shape[:-1])
        h = self.encoder(torch.cat([x.expand(*lead, -1), y.expand(*lead, -1)], -1))
        return dist.Normal(*h.chunk(2, -1)[:1], 1.0).to_event(1)


@pytest.mark.parametrize(("kind", "failed"), [(UnfoldedPosterior, ("slices",)), (pv.posteriors.DiagonalNormal, ())])
def test_a_posterior_whose_labels_differ_between_draws_is_checked(kind, failed):
    network = nn.Sequential(nn.Linear(X + C, 2 * D), nn.Softmax(dim=1))
    encoder = network if kind is UnfoldedPosterior else Rows(network)
    labels = torch.eye(C)[[0, 1, 1, 0, 0]]
    report = pv.check_posterior(kind(encoder, D), x().float(), labels)
    assert [name for name in report.failed if name == "slices"] == list(failed)
    assert any(finding.name == "slices" and finding.passed is not None for finding in report.findings)
