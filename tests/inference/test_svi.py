"""SVI equals pyro.infer.SVI step for step, and never applies a step that is not finite."""

import copy
import math

import pyro
import pytest
import torch
from cases import thorough
from exact import MixturePrior, binary_data, small_vae
from pyro.infer import RenyiELBO, Trace_ELBO, TraceMeanField_ELBO

from pyro_vae.errors import DivergenceError
from pyro_vae.inference import SVI, ImportanceWeightedELBO


@pytest.fixture
def x():
    return binary_data(16)


def ours(vae, loss=None, lr=1e-2, **options):
    return SVI(
        vae.model, vae.guide, torch.optim.Adam(vae.parameters(), lr=lr, fused=True), loss or Trace_ELBO(), **options
    )


@pytest.mark.parametrize(
    "loss",
    [
        Trace_ELBO,
        lambda: Trace_ELBO(num_particles=3, vectorize_particles=True, max_plate_nesting=1),
        TraceMeanField_ELBO,
        *thorough(lambda: RenyiELBO(alpha=0, num_particles=3)),
    ],
)
def test_equals_pyros_svi_step_for_step(loss, x):
    mine, stock = small_vae(), small_vae()
    svi = ours(mine, loss())
    reference = pyro.infer.SVI(stock.model, stock.guide, pyro.optim.Adam({"lr": 1e-2}), loss())
    for seed in range(25):
        torch.manual_seed(seed)
        a = svi.step(x)
        torch.manual_seed(seed)
        assert a == pytest.approx(reference.step(x), abs=1e-9)
    for p, q in zip(mine.parameters(), stock.parameters(), strict=True):
        assert torch.allclose(p, q, rtol=0, atol=1e-10)
    torch.manual_seed(99)
    a = svi.evaluate_loss(x)
    torch.manual_seed(99)
    assert a == pytest.approx(reference.evaluate_loss(x), abs=1e-9)


def test_the_loss_is_the_sum_over_the_batch(x):
    vae = small_vae()
    many = torch.cat([x] * 50)
    few, all_of_them = ours(vae).evaluate_loss(x), ours(vae).evaluate_loss(many)
    assert all_of_them == pytest.approx(50 * few, rel=0.15)


def test_weights_are_arguments_of_the_step(x):
    vae = small_vae()
    svi = ours(vae, TraceMeanField_ELBO())
    only_kl = svi.evaluate_loss(x, reconstruction_weight=0.0)
    assert svi.evaluate_loss(x, reconstruction_weight=0.0, kl_weight=0.5) == pytest.approx(only_kl / 2)
    before = copy.deepcopy(vae.likelihood.state_dict())
    svi.step(x, reconstruction_weight=0.0)  # "only KL": the decoder gets no gradient
    assert all(torch.equal(before[name], tensor) for name, tensor in vae.likelihood.state_dict().items())


@pytest.mark.parametrize("loss", [ImportanceWeightedELBO(2), RenyiELBO(alpha=0, num_particles=2)])
def test_importance_weighted_bounds_refuse_weights(loss, x):
    with pytest.raises(ValueError, match="weight"):
        ours(small_vae(), loss).step(x, kl_weight=0.5)


def test_no_method_of_pyros_has_another_meaning():
    vae = small_vae()
    svi, pyros = ours(vae), pyro.infer.SVI(vae.model, vae.guide, pyro.optim.Adam({}), Trace_ELBO())
    common = {name for name in {*dir(svi)} & {*dir(pyros)} if callable(getattr(svi, name)) and name[0] != "_"}
    assert common == {"step", "evaluate_loss", "model", "guide", "loss"}
    assert not hasattr(svi, "refuse") | hasattr(svi, "step_by_pyro")


def test_pyros_optimisers_are_refused_in_a_sentence():
    vae = small_vae()
    with pytest.raises(TypeError, match=r"one torch optimiser.*got pyro\.optim.*use pyro\.infer\.SVI"):
        SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-3}), Trace_ELBO())


def test_a_parameter_outside_the_optimiser_is_an_error(x):
    vae = small_vae()
    svi = ours(vae)
    svi.step(x)
    vae.prior = MixturePrior(3).double()
    with pytest.raises(ValueError, match=r"prior\.centres is not in the optimiser"):
        svi.step(x)
    svi.optimizer.add_param_group({"params": list(vae.prior.parameters())})
    before = vae.prior.centres.detach().clone()
    svi.step(x)
    assert not torch.equal(before, vae.prior.centres)


class TestClipping:
    def gradient_norm(self, vae):
        return torch.nn.utils.get_total_norm([p.grad for p in vae.parameters()]).item()

    def test_bounds_the_norm_of_the_whole_gradient_per_datum(self, x):
        free, bound = small_vae(), small_vae()
        torch.manual_seed(0)
        ours(free).step(x)
        torch.manual_seed(0)
        ours(bound, max_grad_norm=0.01).step(x)
        assert self.gradient_norm(free) > 0.01 * len(x)
        assert self.gradient_norm(bound) == pytest.approx(0.01 * len(x), rel=1e-4)
        scale = self.gradient_norm(bound) / self.gradient_norm(free)
        for p, q in zip(free.parameters(), bound.parameters(), strict=True):
            assert torch.allclose(p.grad * scale, q.grad, rtol=1e-6, atol=1e-12)

    def test_counts_the_data_by_name_as_by_place(self, x):
        vae = small_vae()
        ours(vae, max_grad_norm=0.01).step(x=x)
        assert self.gradient_norm(vae) == pytest.approx(0.01 * len(x), rel=1e-4)

    @pytest.mark.parametrize(
        ("args", "kwargs", "num_data"),
        [
            ((torch.ones(7),), {}, 7),  # one number a datum
            ((torch.ones(7, 1, 2, 2),), {}, 7),
            ((torch.tensor(3.0),), {}, 1),
            ((), {"x": torch.ones(5)}, 5),
            ((3,), {}, 1),
        ],
    )
    def test_the_bound_counts_the_data_of_any_shape(self, args, kwargs, num_data):
        assert ours(small_vae(), max_grad_norm=0.25).largest_norm(args, kwargs) == 0.25 * num_data

    def test_leaves_a_small_gradient_alone(self, x):
        free, bound = small_vae(), small_vae()
        for vae, limit in ((free, math.inf), (bound, 1e6)):
            torch.manual_seed(0)
            ours(vae, max_grad_norm=limit).step(x)
        assert all(torch.equal(p, q) for p, q in zip(free.parameters(), bound.parameters(), strict=True))


class TestDivergence:
    def state(self, vae, svi):
        return copy.deepcopy((vae.state_dict(), svi.optimizer.state_dict()))

    def unchanged(self, before, vae, svi):
        after = self.state(vae, svi)
        flat = lambda s: [*s[0].values(), *(t for slot in s[1]["state"].values() for t in slot.values())]  # noqa: E731
        return all(torch.equal(a, b) for a, b in zip(flat(before), flat(after), strict=True))

    def diverged(self, x, break_it, validation=True):
        vae = small_vae()
        svi = ours(vae)
        svi.step(x)
        mend = break_it(vae)
        before = self.state(vae, svi)
        with pyro.validation_enabled(validation), pytest.raises(DivergenceError) as caught:
            svi.step(x)
        assert self.unchanged(before, vae, svi)
        mend()
        svi.step(x)
        return str(caught.value)

    @pytest.mark.parametrize("validation", [True, False])
    def test_a_loss_that_is_not_finite_is_not_applied(self, x, validation):
        def overflow(vae):
            bias = vae.posterior.encoder.output_bias
            before = bias.detach().clone()
            bias.data[3:] = 1e4  # log sigma: sigma overflows
            return lambda: bias.data.copy_(before)

        message = self.diverged(x, overflow, validation)
        assert message.startswith("step 2: the loss is")
        assert "first at site z of the guide" in message
        assert "not applied" in message

    def test_a_gradient_that_is_not_finite_is_not_applied(self, x):
        def poison(vae):
            handle = vae.likelihood.decoder.output_bias.register_hook(lambda gradient: gradient * math.nan)
            return handle.remove

        assert self.diverged(x, poison).startswith("step 2: the gradient is not finite")


def test_the_diagnosis_of_divergence_draws_from_a_stream_of_its_own(x):
    """The failing step draws once; naming the site must not draw again from the caller's stream."""
    vae = small_vae()
    svi = ours(vae)
    vae.likelihood.decoder.output_bias.register_hook(lambda gradient: gradient * math.nan)
    torch.manual_seed(0)
    svi.evaluate_loss(x)
    after_one_draw = torch.get_rng_state()
    torch.manual_seed(0)
    with pytest.raises(DivergenceError):
        svi.step(x)
    assert torch.equal(torch.get_rng_state(), after_one_draw)


def test_frozen_parameters_need_not_be_in_the_optimiser(x):
    vae = small_vae()
    vae.likelihood.requires_grad_(False)
    svi = SVI(vae.model, vae.guide, torch.optim.Adam(vae.posterior.parameters(), lr=1e-2), Trace_ELBO())
    before = copy.deepcopy(vae.likelihood.state_dict())
    svi.step(x)
    assert all(torch.equal(before[name], tensor) for name, tensor in vae.likelihood.state_dict().items())


def test_evaluating_the_loss_builds_no_graph(x):
    vae, graphs = small_vae(), []
    vae.likelihood.decoder.register_forward_hook(lambda module, args, output: graphs.append(output.requires_grad))
    ours(vae).evaluate_loss(x)
    assert graphs == [False]


@pytest.mark.parametrize("loss", [Trace_ELBO(), ImportanceWeightedELBO(2)])
def test_labels_may_be_passed_by_name(loss, x):
    vae = small_vae()
    vae.likelihood.decode = lambda z, y: vae.likelihood.decoder(z)
    vae.posterior.encode = lambda x, y: vae.posterior.encoder(x)
    labels = torch.eye(16).double()
    torch.manual_seed(0)
    by_place = ours(vae, loss).step(x, labels)
    vae = small_vae()
    vae.likelihood.decode = lambda z, y: vae.likelihood.decoder(z)
    vae.posterior.encode = lambda x, y: vae.posterior.encoder(x)
    torch.manual_seed(0)
    assert ours(vae, loss).step(x, y=labels) == by_place


def test_a_mistake_of_the_user_is_not_called_divergence():
    vae = small_vae()
    with pytest.raises(ValueError, match="takes tensors") as caught:
        ours(vae).step(torch.zeros(2, 5).double())
    assert not isinstance(caught.value, DivergenceError)
