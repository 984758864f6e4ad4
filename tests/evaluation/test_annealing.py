"""Annealing against closed forms: unbiased weights, honest errors, bounds from both sides.

Unbiasedness is tested where it is exact: E[exp(estimate - log p(x))] = 1, with no bias of a logarithm in the way. Runs
are repeated by repeating data, as different data never share noise. Fixed seeds and, where nothing else is said, bounds
of 4 standard errors, 6e-5 a comparison.
"""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from cases import all_but, thorough
from exact import MixturePrior, ProbabilisticPCA, binary_data, small_vae
from shortened import few_pilots
from torch import nn

import pyro_vae as pv
from pyro_vae.errors import DataError
from pyro_vae.evaluation.annealing import annealed, hamiltonian
from pyro_vae.evaluation.annealing.annealed import ais, bdmc, schedule
from pyro_vae.evaluation.annealing.hamiltonian import Path, Steps
from pyro_vae.evaluation.memory import DATA_BLOCK
from pyro_vae.model.program import remembering
from pyro_vae.randomness import block_seed


@pytest.fixture(autouse=True)
def hasten(request, monkeypatch):
    if "default_pilots" not in request.fixturenames:
        few_pilots(monkeypatch)


@pytest.fixture
def default_pilots():
    """As the package has them."""


@pytest.fixture
def hasty(hasten, monkeypatch):
    """Pilots that hardly tune: right where only noise and bookkeeping are looked at."""
    few_pilots(monkeypatch, 1)


def assert_mean_is(values, wanted, largest_error):
    error = values.std() / len(values) ** 0.5
    assert error < largest_error  # or the test could not fail
    assert abs(values.mean() - wanted) < 4 * error


class TestTruth:
    @pytest.mark.parametrize(
        ("start", "latent_dim", "data_dim", "T"),
        [("guide", 2, 5, 10), *thorough(("prior", 2, 5, 60), ("guide", 10, 12, 60))],
    )
    def test_weights_are_unbiased_and_their_logarithm_is_a_bound(self, start, latent_dim, data_dim, T):
        """128 runs of 8 chains. The logarithm of a mean lies below by half its squared error, to second order."""
        truth = ProbabilisticPCA(latent_dim, data_dim)
        x, vae = truth.data(16).repeat(8, 1), truth.vae(widen=1.4, shift=0.3)
        exact = truth.evidence().log_prob(x)
        found = ais(vae, x, T, 8, seed=0, start=start, num_leapfrog=3)
        assert_mean_is((found.value - exact).exp(), 1.0, 0.05)
        bias = -found.value_error.square().mean() / 2
        assert_mean_is(found.value - exact - bias, 0.0, 0.05)
        assert 0.5 < found.acceptance.mean() < 0.85
        without = ais(vae, x, 0, 8, seed=0, start=start).value - exact
        assert without.mean() < 3 * (found.value - exact).mean() < 0

    @pytest.mark.thorough
    def test_the_claimed_monte_carlo_error_is_the_true_spread(self):
        """64 repeats of 4 data: the spread of a pooled standard deviation is 4.4 %, so 20 % is 4 standard errors."""
        truth = ProbabilisticPCA()
        x = truth.data(4).repeat(64, 1)
        found = ais(truth.vae(widen=1.4, shift=0.3), x, 10, 32, seed=0, num_leapfrog=3)
        spread = found.value.reshape(64, 4).var(0).mean().sqrt()
        claimed = found.value_error.square().mean().sqrt()
        assert 0.8 < spread / claimed < 1.25

    @pytest.mark.parametrize("K", [1, 40])
    def test_without_temperatures_it_is_importance_sampling_with_the_same_draws(self, K):
        vae, x = small_vae(), binary_data(DATA_BLOCK + 7)
        iwae, found = pv.evaluation.iwae(vae, x, K, seed=3), ais(vae, x, 0, K, seed=3)
        assert torch.allclose(found.value, iwae.value, rtol=0, atol=1e-12)
        assert torch.allclose(found.value_error, iwae.value_error, rtol=1e-9, equal_nan=True)
        assert math.isnan(found.acceptance.mean())
        assert found.to_dict()["acceptance"] is None

    def test_with_the_exact_posterior_for_a_guide_every_weight_is_the_evidence(self):
        truth = ProbabilisticPCA()
        x = truth.data(5) + 200.0
        found = ais(truth.vae(), x, 3, 5, seed=0)
        assert torch.allclose(found.value, truth.evidence().log_prob(x), rtol=1e-11)
        assert found.mean < -10_000

    def test_the_schedule_is_increasing_symmetric_and_densest_at_both_ends(self):
        b = torch.tensor(schedule(50), dtype=torch.float64)
        assert (b[0], b[-1], len(b)) == (0, 1, 52)
        assert torch.allclose(b, 1 - b.flip(0), atol=1e-12)
        assert (b.diff() > 0).all()
        assert b.diff().argmax() == 25


# Programs whose evidence is known: (program, labels, x -> log p(x)), each with a guide that is wrong.


class Affine(nn.Module):
    def __init__(self, weight, bias):
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight.clone()), nn.Parameter(bias.clone())

    def forward(self, z, y=None):
        return z @ self.weight.T + self.bias


def single(prior, posterior=None, truth=None):
    truth = truth or ProbabilisticPCA()
    posterior = posterior or truth.vae(widen=1.3, shift=0.3).posterior
    return pv.VAE(prior, posterior, pv.likelihoods.Normal(Affine(truth.W, truth.b), scale=truth.scale)).double()


def evidence(mean, covariance):
    """log p(x) where z ~ N(mean, covariance), x ~ N(W z + b, s^2 I)."""
    truth = ProbabilisticPCA()
    whole = truth.W @ covariance @ truth.W.T + truth.scale**2 * torch.eye(5).double()
    return dist.MultivariateNormal(mean @ truth.W.T + truth.b, whole)


def mixture(means, covariance):
    return lambda x: evidence(means, covariance).log_prob(x[:, None]).logsumexp(1) - math.log(len(means))


def with_mixture_prior():
    prior, identity = MixturePrior(2).double(), torch.eye(2).double()
    return single(prior), None, mixture(prior.centres.detach(), identity)


def with_vamp_prior():
    posterior = ProbabilisticPCA().vae(widen=1.5, shift=0.3).posterior
    prior = pv.priors.VampPrior(posterior, (5,), num_components=4)
    program = single(prior, posterior)
    q = posterior(prior.pseudo_x.detach())
    return program, None, mixture(q.mean, q.covariance_matrix[0])


def with_labels():
    prior = pv.priors.ConditionalNormal(2, y_dim=3)
    prior.means.data = torch.randn(3, 2, generator=torch.Generator().manual_seed(5))
    program, y = single(prior), torch.eye(3).double().repeat(43, 1)[:128]
    return program, y, evidence(y @ prior.means.detach(), torch.eye(2).double()).log_prob


def with_a_student_prior():
    """No closed form: a fine sum over a one-dimensional z."""
    truth = ProbabilisticPCA(1, 5)
    z = torch.linspace(-60, 60, 20001).double()[:, None]
    log_prior = dist.StudentT(torch.tensor(5.0).double()).log_prob(z[:, 0])

    def exact(x):
        log_likelihood = dist.Normal(z @ truth.W.T + truth.b, truth.scale).to_event(1).log_prob(x[:, None])
        return (log_prior + log_likelihood).logsumexp(1) + math.log(120 / 20000)

    return single(pv.priors.StudentT(1), truth=truth), None, exact


def two_layers(order):
    def program():
        truth, normal = ProbabilisticPCA(), pv.likelihoods.Normal
        noise = torch.Generator().manual_seed(1)
        A = torch.randn(2, 2, generator=noise).double()
        top_down = order == "top_down"
        vae = pv.HierarchicalVAE(
            pv.priors.StandardNormal(2),
            normal(Affine(A, torch.ones(2).double()), scale=0.8),
            normal(Affine(truth.W, truth.b), scale=truth.scale),
            pv.posteriors.DiagonalNormal(pv.networks.MLP((5,), (4,), (4,), y_dim=2 * top_down), 2),
            pv.posteriors.DiagonalNormal(pv.networks.MLP((5,) if top_down else (2,), (4,), (4,)), 2),
            guide=order,
        ).double()
        exact = evidence(torch.ones(2).double(), A @ A.T + 0.64 * torch.eye(2).double())
        return vae, None, exact.log_prob

    return program


PROGRAMS = {
    "mixture": with_mixture_prior,
    "vamp": with_vamp_prior,
    "labels": with_labels,
    "student": with_a_student_prior,
    "top_down": two_layers("top_down"),
    "bottom_up": two_layers("bottom_up"),
}


class TestAnyProgram:
    @pytest.mark.parametrize("name", all_but(["student"], PROGRAMS))
    def test_both_bounds_hold_and_their_weights_are_unbiased(self, name):
        """128 simulated data: E[exp(forward)] = p(x), E[exp(-reverse)] = 1 / p(x): bounds, in expectation."""
        program, y, exact = PROGRAMS[name]()
        start, T = ("prior", 60) if name in ("top_down", "bottom_up") else ("guide", 10)
        bounds = bdmc(program, None if y is not None else 128, T, 4, y=y, seed=1, start=start, num_leapfrog=3)
        with torch.no_grad():
            log_p = exact(bounds.x)
        below, above = bounds.forward.value - log_p, bounds.reverse.value - log_p
        assert_mean_is(below.exp(), 1.0, 0.15)
        assert_mean_is((-above).exp(), 1.0, 0.15)
        assert below.mean() < 4 * below.std() / 128**0.5
        assert above.mean() > -4 * above.std() / 128**0.5
        assert all(0.4 < side.acceptance.mean() < 0.95 for side in (bounds.forward, bounds.reverse))

    @pytest.mark.thorough
    @pytest.mark.parametrize("order", ["bottom_up", *thorough("top_down")])
    def test_two_layers_from_their_guide(self, order):
        program, _, exact = PROGRAMS[order]()
        x = torch.zeros(128, 5).double()
        found = ais(program, x, 20, 8, seed=0, num_leapfrog=3)
        assert_mean_is((found.value - exact(x)).exp(), 1.0, 0.15)

    def test_the_components_of_a_vamp_prior_are_made_once(self, hasty):
        program, _, _ = with_vamp_prior()
        passes = []
        program.posterior.register_forward_hook(lambda module, args, output: passes.append(len(args[0])))
        ais(program, ProbabilisticPCA().data(DATA_BLOCK + 6), 2, 3, seed=0)
        assert passes.count(4) == 1  # the pseudo-inputs
        assert passes.count(6) > 20  # the data

    @pytest.mark.thorough
    def test_labels_are_used(self):
        program, y, _ = with_labels()
        x = ProbabilisticPCA().data(6)
        a, b = (ais(program, x, 2, 3, y=labels, seed=0).value for labels in (y[:6], y[1:7]))
        assert (a - b).abs().min() > 0.1


class TestTwoSides:
    @pytest.mark.thorough
    def test_the_gap_is_that_of_its_sides_and_closes_with_temperatures(self):
        truth = ProbabilisticPCA()
        loose, tight = (bdmc(truth.vae(widen=1.5, shift=0.5), 100, T, 4, seed=0, num_leapfrog=3) for T in (3, 60))
        assert loose.gap == pytest.approx(loose.reverse.mean - loose.forward.mean, abs=1e-12)
        gaps = loose.reverse.value - loose.forward.value
        assert loose.gap_error == pytest.approx(gaps.std().item() / 10)
        assert loose.gap - tight.gap > 4 * (loose.gap_error + tight.gap_error)
        assert torch.equal(loose.x, tight.x)

    def test_simulated_data_are_draws_of_the_model(self):
        """Mean and covariance of 2000 simulated x, each entry within 5 standard errors (30 entries, 2e-5)."""
        truth = ProbabilisticPCA()
        x, marginal = bdmc(truth.vae(), 2000, 0, 1, seed=0).x, truth.evidence()
        scale = marginal.covariance_matrix.diagonal()
        assert ((x.mean(0) - truth.b).abs() < 5 * (scale / 2000).sqrt()).all()
        assert ((x.T.cov() - marginal.covariance_matrix).abs() < 5 * (2 * scale[:, None] * scale / 2000).sqrt()).all()

    def test_it_prints_both_bounds_and_the_gap(self):
        lines = str(bdmc(ProbabilisticPCA().vae(), 3, 2, 2, seed=0, num_leapfrog=1)).splitlines()
        assert [line.split("  ")[0] for line in lines] == ["log p(x), forward", "log p(x), reverse", "gap"]
        assert all(part in lines[0] for part in ("nats", "over 3 data", "K = 2", "T = 2", "acceptance 0."))
        assert lines[2].endswith("simulated data only")


class TestChains:
    def test_chains_that_can_not_move_keep_their_importance_weights(self, monkeypatch):
        """A decoder that returns NaN far out stops nothing; the increments of b add up to 1."""

        class Overflowing(Affine):
            def forward(self, z, y=None):
                return super().forward(z.exp() - (2 * z).exp())

        def far(path, levels, num_leapfrog):
            return Steps(torch.ones(5, 2).double(), torch.full((len(levels), 5), 1e5).double())

        monkeypatch.setattr(annealed, "tune", far)
        truth = ProbabilisticPCA(2, 6)
        vae = small_vae(latent_dim=2)
        vae.likelihood = pv.likelihoods.Bernoulli(Overflowing(truth.W, truth.b))
        found, iwae = (ais(vae, binary_data(5), T, 8, seed=0) for T in (4, 0))
        assert torch.allclose(found.value, iwae.value, rtol=0, atol=1e-10)
        assert not found.acceptance.any()


class TestPilots:
    @pytest.mark.thorough
    @pytest.mark.parametrize("T", [40, 1, 410])
    @pytest.mark.usefixtures("default_pilots")
    def test_find_steps_that_give_the_wanted_acceptance(self, T):
        """Guides from 10 times too narrow to 3 times too wide; the chains that count accept about 0.65.

        Of 410 temperatures, three share a step size.
        """
        truth = ProbabilisticPCA()
        for widen in (0.1, 3.0):
            found = ais(truth.vae(widen=widen), truth.data(50), T, 16, seed=0, num_leapfrog=2)
            assert 0.6 < found.acceptance.mean() < 0.75

    def test_step_sizes_are_fixed_before_the_first_chain_counts(self, monkeypatch, hasty):
        """Three blocks of chains walk with the same steps, those that the pilots came to at each temperature."""
        seen, real = [], hamiltonian.transition

        def spy(path, point, b, step, num_leapfrog):
            seen.append((b, len(point.z), step.clone(), point.z))
            return real(path, point, b, step, num_leapfrog)

        for module in (annealed, hamiltonian):
            monkeypatch.setattr(module, "transition", spy)
        bounds = bdmc(small_vae(), 3, 4, 70, seed=0)
        assert bounds.forward.num_samples == 70
        pilots, rest = seen[:5], seen[5:]  # one more at the first temperature
        blocks = [rest[i : i + 4] for i in range(0, len(rest), 4)]
        levels = schedule(4)[1:-1]
        assert [[b for b, *_ in block] for block in blocks] == 3 * [levels] + 3 * [levels[::-1]]
        assert [block[0][1] for block in blocks] == [32, 32, 6] * 2
        for block in (*blocks[:3], *(block[::-1] for block in blocks[3:])):
            for t in range(4):
                assert torch.equal(block[t][2], blocks[0][t][2])
        for t in range(3):  # a pilot's next step is the one fixed at the temperature before, moved once
            ratio = blocks[0][t][2] / pilots[t + 1][2]
            assert (ratio.log().abs() <= hamiltonian.PILOT_RATE).all()
            assert not (ratio == 1).any()
        starts = torch.cat([seen[0][3].flatten(), *(block[0][3].flatten() for block in blocks[:3])])
        assert len(starts.unique()) == len(starts)  # no noise of theirs is that of a pilot

    @pytest.mark.parametrize(("T", "walked"), [(3, 3), (4, 2), (7, 3)])
    def test_neighbours_share_a_step_size_where_temperatures_are_many(self, T, walked, monkeypatch, hasty):
        """At most three are walked: the size found at one is also that of those after it, up to the next."""
        monkeypatch.setattr(hamiltonian, "PILOT_TEMPERATURES", 3)
        seen, real = [], hamiltonian.transition
        monkeypatch.setattr(hamiltonian, "transition", lambda *given: seen.append(given[2]) or real(*given))
        levels = schedule(T)[1:-1]
        size = hamiltonian.tune(Path(small_vae(), "guide", binary_data(3)), levels, 2).size
        shared = -(-T // 3)
        assert list(dict.fromkeys(seen)) == levels[::shared]
        assert len(size) == T
        assert len({tuple(row) for row in size.tolist()}) == walked
        assert all(torch.equal(size[t], size[t - t % shared]) for t in range(T))

    def test_steps_do_not_depend_on_the_chains_that_count(self):
        """How the chains went cannot be seen in the steps: other numbers of chains, the same pilots."""
        path = Path(small_vae(), "guide", binary_data(3))
        settings = [annealed._Settings(3, K, 2, "guide") for K in (1, 50)]
        few, many = (annealed._Block(path, each, 7, 0) for each in settings)
        before = few.steps.size.clone()
        few.forward(), many.forward()
        assert torch.equal(few.steps.size, before)
        assert torch.equal(few.steps.size, many.steps.size)


@pytest.mark.usefixtures("hasty")
class TestNoise:
    @pytest.fixture
    def case(self):
        return small_vae(), binary_data(2 * DATA_BLOCK + 10)

    @pytest.mark.parametrize("estimate", [ais, bdmc])
    def test_a_seed_is_reproducible_and_leaves_the_callers_stream_alone(self, estimate):
        def run(seed):
            found = estimate(small_vae(), binary_data(9) if estimate is ais else 9, 2, 3, seed=seed)
            return found.value if estimate is ais else torch.cat([found.forward.value, found.reverse.value])

        state = torch.get_rng_state()
        first = run(3)
        assert torch.equal(torch.get_rng_state(), state)
        torch.randn(7)
        assert torch.equal(first, run(3))
        assert not (first == run(4)).any()

    @pytest.mark.parametrize("estimate", [ais, bdmc])
    def test_without_a_seed_the_callers_stream_goes_on(self, estimate):
        def run():
            found = estimate(small_vae(), binary_data(9) if estimate is ais else 9, 2, 3)
            return found.value if estimate is ais else torch.cat([found.forward.value, found.reverse.value])

        torch.manual_seed(0)
        first, second = run(), run()
        assert not (first == second).any()
        torch.manual_seed(0)
        assert torch.equal(first, run())

    def test_shards_of_whole_blocks_of_data_repeat_the_numbers(self, case):
        vae, x = case
        whole = ais(vae, x, 2, 3, seed=3)
        first, second = x[:DATA_BLOCK], x[DATA_BLOCK:]
        assert torch.equal(whole.value[:DATA_BLOCK], ais(vae, first, 2, 3, seed=3).value)
        shard = ais(vae, second, 2, 3, seed=3, first_block=1)
        assert torch.equal(whole.value[DATA_BLOCK:], shard.value)
        assert torch.equal(whole.acceptance[DATA_BLOCK:], shard.acceptance)

    def test_different_data_never_share_noise(self):
        x = binary_data(1).expand(2 * DATA_BLOCK + 10, 6)
        assert len(ais(small_vae(), x, 2, 3, seed=0).value.unique()) == len(x)

    def test_data_pilots_and_chains_either_way_have_streams_of_their_own(self, monkeypatch):
        """Two blocks of data, two of chains: 2 x (simulation + pilots + 2 forward + 2 reverse) streams."""
        streams, real = [], annealed.block_stream

        def spy(seed, i, j, device=None):
            streams.append(block_seed(seed, i, j))
            return real(seed, i, j, device)

        monkeypatch.setattr(annealed, "block_stream", spy)
        bdmc(small_vae(), DATA_BLOCK + 1, 1, 33, seed=0, num_leapfrog=1)
        assert len(streams) == len(set(streams)) == 12


@pytest.mark.usefixtures("hasty")
class TestSideEffects:
    @pytest.mark.parametrize("estimate", [ais, bdmc])
    @pytest.mark.parametrize("grad", [True, False])
    def test_annealing_changes_nothing(self, estimate, grad):
        vae, x = small_vae().train(), binary_data(8)
        vae.posterior.encoder.body.append(nn.BatchNorm1d(8).double())
        vae.likelihood.decoder.body.append(nn.Dropout(0.5))
        pyro.infer.Trace_ELBO().loss_and_grads(vae.model, vae.guide, x)
        next(vae.parameters()).requires_grad_(False)
        store = pyro.get_param_store()
        held = {name: store._params[name] for name in store}
        state = {name: tensor.clone() for name, tensor in vae.state_dict().items()}
        grads = [None if p.grad is None else p.grad.clone() for p in vae.parameters()]
        flags = [p.requires_grad for p in vae.parameters()]
        noise, validation = torch.get_rng_state(), pyro.distributions.is_validation_enabled()
        with torch.set_grad_enabled(grad):
            found = estimate(vae, x if estimate is ais else 8, 2, 3, seed=0)
        assert not (found if estimate is ais else found.forward).value.requires_grad
        assert all(torch.equal(tensor, state[name]) for name, tensor in vae.state_dict().items())
        assert dict.fromkeys(store) == dict.fromkeys(held)
        assert all(store._params[name] is tensor for name, tensor in held.items())
        assert [p.requires_grad for p in vae.parameters()] == flags
        for parameter, before in zip(vae.parameters(), grads, strict=True):
            assert parameter.grad is before is None or torch.equal(parameter.grad, before)
        assert all(module.training for module in vae.modules())
        assert torch.equal(torch.get_rng_state(), noise)
        assert pyro.distributions.is_validation_enabled() == validation

    def test_caches_of_the_caller_are_not_used(self):
        """A VampPrior's components remembered for other parameters would be another prior."""
        program, _, _ = with_vamp_prior()
        x, memory = ProbabilisticPCA().data(4), {}
        with remembering(memory):
            program.prior()
            program.prior.pseudo_x.data += 1.0
            inside = ais(program, x, 2, 3, seed=0).value
        assert torch.equal(inside, ais(program, x, 2, 3, seed=0).value)

    def test_a_program_in_float32_is_summed_in_float64(self):
        found = ais(small_vae().float(), binary_data(4).float(), 2, 3, seed=0)
        assert found.value.dtype == found.value_error.dtype == torch.float64


class TestMistakes:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"num_temperatures": -1}, "num_temperatures must be at least 0; got -1"),
            ({"num_chains": 0}, "num_chains must be at least 1; got 0"),
            ({"num_leapfrog": 0}, "num_leapfrog must be at least 1; got 0"),
            ({"start": "posterior"}, "start.*posterior"),
            ({"y": torch.ones(3, 2)}, "4 data and 3 labels"),
        ],
    )
    def test_numbers_out_of_range_are_named(self, options, message):
        with pytest.raises(ValueError, match=message):
            ais(small_vae(), binary_data(4), **options)

    def test_nothing_to_do_is_refused(self):
        with pytest.raises(ValueError, match="no data"):
            ais(small_vae(), binary_data(0))
        with pytest.raises(ValueError, match="no data"):
            bdmc(small_vae(), 0)
        with pytest.raises(ValueError, match="num_data=3 does not fit 4 labels: leave num_data out"):
            bdmc(small_vae(), 3, y=torch.ones(4, 2))
        with pytest.raises(TypeError, match=r"x must be a tensor; got list"):
            ais(small_vae(), [1.0])

    @pytest.mark.parametrize("start", ["guide", "prior"])
    def test_data_outside_the_support(self, start):
        for value in (0.5, math.nan):
            with pytest.raises(DataError):
                ais(small_vae(), binary_data(4) + value, start=start)

    def test_a_guide_that_is_a_point_can_not_be_where_chains_start_but_its_model_has_a_prior(self, hasty):
        vae = small_vae()
        point = pv.VAE(vae.prior, pv.posteriors.Delta(pv.networks.MLP((6,), (3,), (8,)), 3), vae.likelihood).double()
        with pytest.raises(ValueError, match=r'site z is a point \(Delta\) .* Use `start="prior"`'):
            ais(point, binary_data(4))
        found = [ais(v, binary_data(4), 3, 4, seed=0, start="prior").value for v in (point, vae)]
        assert torch.equal(*found)

    @pytest.mark.parametrize("latent", [dist.Gamma(2.0, 1.0), dist.Poisson(2.0), dist.Beta(2.0, 2.0)])
    def test_a_latent_with_a_border_is_refused(self, latent):
        class Bordered:
            def model(self, x, y=None):
                with pyro.plate("data", len(x), dim=-1):
                    pyro.sample("x", dist.Normal(pyro.sample("rate", latent), 1.0), obs=x)

            def guide(self, x, y=None):
                with pyro.plate("data", len(x), dim=-1):
                    pyro.sample("rate", latent)

        with pytest.raises(ValueError, match=f"site rate is a {type(latent).__name__} over"):
            ais(Bordered(), torch.ones(4))

    def test_a_model_that_returns_no_data_can_not_be_simulated(self):
        class Silent:
            def model(self, x=None, y=None):
                pass

        with pytest.raises(TypeError, match="x must be a tensor; got NoneType"):
            bdmc(Silent(), 3)
