"""Log-weights: constant at the exact posterior, a bound below it, the right noise, no side effects."""

import hashlib
import pickle
from itertools import pairwise

import pyro
import pyro.distributions as dist
import pytest
import torch
from exact import MixturePrior, ProbabilisticPCA, binary_data, small_vae
from pyro import poutine

import pyro_vae as pv
from pyro_vae.errors import DataError
from pyro_vae.evaluation.memory import DATA_BLOCK, SAMPLE_BLOCK
from pyro_vae.inference import SVI, Trace_ELBO


class TestTruth:
    @pytest.mark.parametrize(("latent_dim", "data_dim"), [(1, 3), (2, 5), (10, 20)])
    @pytest.mark.parametrize("K", [1, 7, 100])
    def test_with_the_exact_posterior_every_weight_is_the_evidence(self, latent_dim, data_dim, K):
        """log p(x, z) - log q(z|x) = log N(x; b, W W' + s^2 I) for every z: the best single test there is."""
        truth = ProbabilisticPCA(latent_dim, data_dim)
        x = truth.data(150)
        weights = pv.evaluation.log_weights(truth.vae(), x, K, seed=0)
        assert weights.shape == (K, 150)
        assert (weights - truth.evidence().log_prob(x)).abs().max() < 1e-8

    def test_block_means_of_one_pass_rise_with_k_and_stay_below_the_evidence(self):
        """Disjoint equal blocks of one pass, a mismatched guide; 4 Monte Carlo errors, over 200 data."""
        truth = ProbabilisticPCA()
        x = truth.data(200)
        weights = pv.evaluation.log_weights(truth.vae(widen=1.5, shift=0.5), x, 4096, seed=0)
        exact = truth.evidence().log_prob(x)
        bounds = []
        for K in (1, 4, 16, 64, 256, 1024):
            blocks = weights.reshape(4096 // K, K, 200)
            estimates = torch.logsumexp(blocks, 1) - torch.log(torch.tensor(K, dtype=torch.float64))
            per_block = (estimates - exact).mean(1)
            bounds.append((per_block.mean(), per_block.std() / len(per_block) ** 0.5))
        for (low, low_error), (high, high_error) in pairwise(bounds):
            assert high > low - 4 * (low_error + high_error)
        assert all(mean < 4 * error for mean, error in bounds)
        assert bounds[0][0] < -0.3  # the guide is mismatched indeed
        assert bounds[-1][0] > -0.01  # and the bound is nearly tight at the end

    def test_are_the_densities_of_the_members_at_the_drawn_z(self):
        """Against a slow loop that replays the noise by hand, for a prior without an analytic KL."""
        vae, x = small_vae(prior=MixturePrior(3)), binary_data(5)
        weights = pv.evaluation.log_weights(vae, x, 4, seed=0)
        with pv.evaluation.weights.block_stream(0, 0, 0):
            z = vae.posterior(x).expand((4, 5)).sample()
        for k in range(4):
            for b in range(5):
                q = vae.posterior(x[b : b + 1]).log_prob(z[k, b : b + 1])
                p = vae.prior().log_prob(z[k, b]) + vae.likelihood(z[k, b]).log_prob(x[b])
                assert weights[k, b].item() == pytest.approx((p - q).item(), abs=1e-10)


class TestNoise:
    @pytest.fixture
    def case(self):
        return small_vae(), binary_data(2 * DATA_BLOCK + 10)

    def test_a_seed_is_reproducible_and_leaves_the_callers_stream_alone(self, case):
        state = torch.get_rng_state()
        first = pv.evaluation.log_weights(*case, 5, seed=3)
        assert torch.equal(torch.get_rng_state(), state)
        torch.randn(7)
        assert torch.equal(first, pv.evaluation.log_weights(*case, 5, seed=3))
        assert not torch.equal(first, pv.evaluation.log_weights(*case, 5, seed=4))

    def test_without_a_seed_the_callers_stream_goes_on(self, case):
        torch.manual_seed(0)
        first, second = (pv.evaluation.log_weights(*case, 5) for _ in range(2))
        assert not torch.equal(first, second)
        torch.manual_seed(0)
        assert torch.equal(first, pv.evaluation.log_weights(*case, 5))

    def test_shards_of_whole_blocks_of_data_repeat_the_numbers(self, case):
        vae, x = case
        whole = pv.evaluation.log_weights(vae, x, 5, seed=3)
        first = pv.evaluation.log_weights(vae, x[:DATA_BLOCK], 5, seed=3)
        assert torch.equal(whole[:, :DATA_BLOCK], first)

    def test_a_shard_says_how_many_blocks_stand_before_it(self, case):
        vae, x = case
        for estimate in (pv.evaluation.elbo, pv.evaluation.iwae):
            whole = estimate(vae, x, 5, seed=3).value
            second = estimate(vae, x[DATA_BLOCK:], 5, seed=3, first_block=1).value
            assert torch.equal(whole[DATA_BLOCK:], second)
        same = x[:1].expand(DATA_BLOCK, 6)
        shards = [pv.evaluation.log_weights(vae, same, 5, seed=3, first_block=i) for i in (0, 1)]
        assert not (shards[0] == shards[1]).any()

    def test_more_samples_begin_with_the_same_ones(self, case):
        vae, x = case
        few = pv.evaluation.log_weights(vae, x, SAMPLE_BLOCK, seed=3)
        many = pv.evaluation.log_weights(vae, x, 3 * SAMPLE_BLOCK + 1, seed=3)
        assert torch.equal(many[:SAMPLE_BLOCK], few)

    def test_different_data_and_different_samples_never_share_noise(self):
        """One datum, repeated: if two of its copies shared noise, two weights would be equal."""
        vae = small_vae()
        x = binary_data(1).expand(2 * DATA_BLOCK + 10, 6)
        weights = pv.evaluation.log_weights(vae, x, SAMPLE_BLOCK + 5, seed=0)
        assert len(weights.unique()) == weights.numel()

    def test_noise_is_uncorrelated_between_blocks(self):
        # 3 x 3 correlations of 128 x 32 weights each; 5 standard errors of 1 / sqrt(4096).
        truth = ProbabilisticPCA()
        x = truth.data(1).expand(3 * DATA_BLOCK, 5)
        weights = pv.evaluation.log_weights(truth.vae(widen=1.5), x, 3 * SAMPLE_BLOCK, seed=0)
        blocks = weights.reshape(3, SAMPLE_BLOCK, 3, DATA_BLOCK).movedim(2, 1).reshape(9, -1)
        correlation = torch.corrcoef(blocks) - torch.eye(9)
        assert correlation.abs().max() < 5 / 4096**0.5


class TestSideEffects:
    def fingerprint(self, *objects):
        return hashlib.sha256(pickle.dumps([_plain(o) for o in objects])).hexdigest()

    @pytest.mark.parametrize("estimate", [pv.evaluation.log_weights, pv.evaluation.elbo, pv.evaluation.iwae])
    def test_evaluation_changes_nothing(self, estimate):
        vae, x = small_vae().train(), binary_data(20)
        vae.posterior.encoder.body.append(torch.nn.BatchNorm1d(8).double())
        vae.posterior.encoder.body.append(torch.nn.Dropout(0.5))
        svi = SVI(vae.model, vae.guide, torch.optim.Adam(vae.parameters(), lr=1e-2), Trace_ELBO())
        for _ in range(3):
            svi.step(x)
        store = pyro.get_param_store()
        before = self.fingerprint(vae.state_dict(), svi.optimizer.state_dict(), torch.get_rng_state(), sorted(store))
        held = {name: store._params[name] for name in store}
        grads = [p.grad.clone() for p in vae.parameters()]
        estimate(vae, x, 40, seed=0)
        after = self.fingerprint(vae.state_dict(), svi.optimizer.state_dict(), torch.get_rng_state(), sorted(store))
        assert after == before
        assert all(store._params[name] is tensor for name, tensor in held.items())
        assert all(torch.equal(p.grad, grad) for p, grad in zip(vae.parameters(), grads, strict=True))
        assert all(p.requires_grad for p in vae.parameters())
        assert all(module.training for module in vae.modules())
        svi.step(x)

    def test_mixed_training_flags_are_put_back_as_they_were(self):
        vae = small_vae().train()
        vae.posterior.eval()
        flags = [module.training for module in vae.modules()]
        pv.evaluation.elbo(vae, binary_data(4), 2, seed=0)
        assert [module.training for module in vae.modules()] == flags

    def test_flags_are_put_back_after_an_error(self):
        vae = small_vae().train()
        with pytest.raises(DataError):
            pv.evaluation.elbo(vae, binary_data(4) + 0.5, 2, seed=0)
        assert all(module.training for module in vae.modules())
        assert not list(pyro.get_param_store())


def _plain(value):
    if isinstance(value, torch.Tensor):
        return value.detach().numpy().tobytes()
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, list) else value


class TestPrecision:
    def test_log_weights_are_float64_whatever_the_program_and_carry_no_gradient(self):
        weights = pv.evaluation.log_weights(small_vae().float(), binary_data(3).float(), 5, seed=0)
        assert weights.dtype == torch.float64
        assert not weights.requires_grad


class TestMemory:
    def test_activations_do_not_depend_on_k_or_n(self):
        """The decoder never sees more than one block, however many data and samples there are."""
        vae, seen = small_vae(), []
        vae.likelihood.decoder.register_forward_hook(lambda module, args, output: seen.append(args[0].shape[:2]))
        pv.evaluation.iwae(vae, binary_data(300), 100, seed=0)
        assert max(k for k, _ in seen) == SAMPLE_BLOCK
        assert max(b for _, b in seen) == DATA_BLOCK
        assert sum(k * b for k, b in seen if k > 2) == 300 * 100  # one and two draws were for the size of blocks


class TestAnyProgram:
    """Latents are found by not being observed, never by name, in anything with a model and a guide."""

    class TwoLayers:
        def model(self, x, y=None):
            with pyro.plate("data", len(x), dim=-1):
                top = pyro.sample("top", dist.Normal(torch.zeros(1).double(), 1.0).to_event(1))
                low = pyro.sample("low", dist.Normal(top, 0.5).to_event(1))
                pyro.sample("obs", dist.Normal(low, 0.7).to_event(1), obs=x)

        def guide(self, x, y=None):
            with pyro.plate("data", len(x), dim=-1):
                low = pyro.sample("low", dist.Normal(0.7 * x, 0.55).to_event(1))
                pyro.sample("top", dist.Normal(0.8 * low, 0.45).to_event(1))

    def test_evidence_of_two_layers_under_a_bottom_up_guide(self):
        x = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
        estimate = pv.evaluation.iwae(self.TwoLayers(), x, 5000, seed=0)
        exact = dist.Normal(0.0, (1 + 0.25 + 0.49) ** 0.5).log_prob(x[:, 0])
        assert abs(estimate.mean - exact.mean().item()) < 4 * estimate.monte_carlo_error
        assert estimate.monte_carlo_error < 0.01

    def test_its_elbo_does_not_use_a_kl_that_does_not_hold(self):
        """Bottom-up, the analytic KL of each site is wrong: both are sampled, and the bound stays below."""
        x = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
        estimate = pv.evaluation.elbo(self.TwoLayers(), x, 5000, seed=0)
        weights = pv.evaluation.log_weights(self.TwoLayers(), x, 5000, seed=0)
        assert estimate.kind == {"low": "sampled", "top": "sampled"}
        assert torch.allclose(estimate.value, weights.mean(0), rtol=0, atol=1e-10)
        exact = dist.Normal(0.0, (1 + 0.25 + 0.49) ** 0.5).log_prob(x[:, 0]).mean()
        assert estimate.mean < exact

    def test_a_mask_counts_in_the_elbo_as_in_the_weights(self):
        """Datum 1 is masked out on both sides: its latent is free, and its ELBO that of nothing."""
        vae, x = small_vae(), binary_data(2)
        keep = torch.tensor([True, False])

        class Masked:
            model, guide = (staticmethod(poutine.mask(half, mask=keep)) for half in (vae.model, vae.guide))

        elbo = pv.evaluation.elbo(Masked(), x, 500, seed=0)
        weights = pv.evaluation.log_weights(Masked(), x, 500, seed=0)
        assert torch.allclose(elbo.value, weights.mean(0), rtol=0, atol=1e-10)
        assert elbo.value[1] == 0
        assert elbo.value[0] == pytest.approx(pv.evaluation.elbo(vae, x, 5000, seed=1).value[0].item(), abs=0.5)

    def test_a_missing_latent_is_named(self):
        program = self.TwoLayers()
        program.guide = lambda x: None
        with pytest.raises(ValueError, match=r"only one of them has \['low', 'top'\]$"):
            pv.evaluation.log_weights(program, torch.zeros(2, 1).double(), 3)

    def test_a_label_that_is_summed_out_in_training_is_told_so(self):
        class Summed:
            def model(self, x):
                with pyro.plate("data", len(x), dim=-1):
                    y = pyro.sample("y", dist.Bernoulli(0.5), infer={"enumerate": "parallel"})
                    pyro.sample("x", dist.Normal(y, 1.0), obs=x)

            def guide(self, x):
                pass

        with pytest.raises(ValueError, match=r"has \['y'\]. y is discrete: .* q\(y\|x\); or .*evidence\(program"):
            pv.evaluation.log_weights(Summed(), torch.zeros(2), 3)


class Broadcast:
    """z of `of_model` numbers in the model, of `of_guide` in the guide."""

    def __init__(self, of_model, of_guide):
        self.of_model, self.of_guide = of_model, of_guide

    def model(self, x=None, y=None):
        with pyro.plate("data", 1 if x is None else len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(self.of_model), 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=x)

    def guide(self, x, y=None):
        with pyro.plate("data", len(x), dim=-1):
            return pyro.sample("z", dist.Normal(x[:, None].expand(-1, self.of_guide), 1.0).to_event(1))


@pytest.mark.parametrize("sizes", [(1, 3), (3, 1)])
@pytest.mark.parametrize(
    "estimate",
    [
        lambda program, x: pv.evaluation.log_weights(program, x, 3),
        lambda program, x: pv.evaluation.elbo(program, x, 3),
        lambda program, x: pv.evaluation.iwae(program, x, 3),
        lambda program, x: pv.evaluation.ais(program, x, 4),
        lambda program, x: pv.inference.ImportanceWeightedELBO(3).loss(program.model, program.guide, x),
    ],
)
def test_latents_of_another_shape_are_not_broadcast(sizes, estimate):
    with pytest.raises(ValueError, match=rf"site z has event shape \({sizes[0]},\) in the model but \({sizes[1]},\)"):
        estimate(Broadcast(*sizes), torch.zeros(4))


@pytest.mark.parametrize(("size", "K", "message"), [(0, 3, "no data"), (2, 0, "at least 1; got 0")])
def test_nothing_to_do_is_refused(size, K, message):
    for estimate in (pv.evaluation.log_weights, pv.evaluation.elbo, pv.evaluation.iwae):
        with pytest.raises(ValueError, match=message):
            estimate(small_vae(), binary_data(size), K)
