"""Objectives against each other, against Pyro's and against gradients worked out by hand."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from exact import MixturePrior, ProbabilisticPCA, binary_data, small_vae
from pyro.infer import RenyiELBO, Trace_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoNormal, init_to_value
from torch import nn

import pyro_vae as pv
from pyro_vae.inference import ImportanceWeightedELBO, MeanFieldELBO, Objective, weighted
from pyro_vae.inference.epochs import learning_rate_factor, warm_up
from pyro_vae.inference.objectives import log_mean_exp


@pytest.fixture
def x():
    return binary_data(8)


def loss_and_gradients(loss, vae, x, seed=5, **weights):
    """The loss and its gradient with a given noise."""
    vae.zero_grad()
    torch.manual_seed(seed)
    value = loss.loss_and_grads(*weighted(vae.model, vae.guide, **weights), x)
    return value, [p.grad.clone() if p.grad is not None else torch.zeros_like(p) for p in vae.parameters()]


def close(a, b, atol=1e-9):
    return all(torch.allclose(s, t, rtol=0, atol=atol) for s, t in zip(a, b, strict=True))


class Scalar(nn.Module):
    """z -> a z + c: a decoder whose gradients can be written down."""

    def __init__(self):
        super().__init__()
        self.a = nn.Parameter(torch.tensor([0.8]))
        self.c = nn.Parameter(torch.tensor([0.2]))

    def forward(self, z):
        return self.a * z + self.c


class Encoder(nn.Module):
    """x -> (m x, s): location and log sigma."""

    def __init__(self):
        super().__init__()
        self.m = nn.Parameter(torch.tensor([0.5]))
        self.s = nn.Parameter(torch.tensor([-0.3]))

    def forward(self, x):
        return torch.cat([self.m * x, self.s.expand_as(x)], -1)


FLOOR, SIGMA = 1e-4, 0.6
WEIGHTS = [(1.0, 1.0), (0.7, 2.5)]


def scalar_vae():
    return pv.VAE(
        pv.priors.StandardNormal(1),
        pv.posteriors.DiagonalNormal(Encoder(), 1, floor=FLOOR),
        pv.likelihoods.Normal(Scalar(), scale=SIGMA),
    ).double()


@pytest.mark.parametrize(
    ("loss", "reconstruction", "kl"),
    [
        *((loss, *weights) for loss in (Trace_ELBO(), MeanFieldELBO(), TraceMeanField_ELBO()) for weights in WEIGHTS),
        (ImportanceWeightedELBO(1), 1.0, 1.0),
    ],
)
def test_gradients_are_those_worked_out_by_hand(loss, reconstruction, kl):
    """z = m x + t e with t = floor + exp(s); r = x - a z - c. All derivatives on paper."""
    vae = scalar_vae()
    data = torch.linspace(-2, 2, 5, dtype=torch.float64)[:, None]
    _, (m_grad, s_grad, a_grad, c_grad) = loss_and_gradients(loss, vae, data, reconstruction=reconstruction, kl=kl)
    m, s, a, c = (p.detach() for p in vae.parameters())
    t = FLOOR + s.exp()
    torch.manual_seed(5)
    e = torch.normal(torch.zeros(5, 1).double(), torch.ones(5, 1).double())
    z = m * data + t * e
    r = data - a * z - c
    # loss = w_r r^2 / (2 SIGMA^2) + w_k KL
    by_z = -reconstruction * a * r / SIGMA**2
    if isinstance(loss, TraceMeanField_ELBO):  # KL = (mu^2 + t^2 - 1) / 2 - log t
        by_mu, by_t = by_z + kl * m * data, by_z * e + kl * (t - 1 / t)
    else:  # log q - log p = -log t - e^2 / 2 + z^2 / 2
        by_mu, by_t = by_z + kl * z, by_z * e + kl * (z * e - 1 / t)
    expected = [
        (by_mu * data).sum(),
        (by_t * s.exp()).sum(),
        -(reconstruction * r * z).sum() / SIGMA**2,
        -(reconstruction * r).sum() / SIGMA**2,
    ]
    found = [m_grad, s_grad, a_grad, c_grad]
    assert close([g.squeeze() for g in found], expected)


class TestWeights:
    @pytest.mark.parametrize("prior", [pv.priors.StandardNormal, MixturePrior])
    @pytest.mark.parametrize(("reconstruction", "kl"), [(1.0, 0.3), (2.0, 1.0), (0.5, 4.0), (1.0, 0.0), (0.0, 1.0)])
    def test_mean_the_same_under_both_losses(self, prior, reconstruction, kl, x):
        """The weighted loss is reconstruction_weight * R + kl_weight * KL, with R and KL of the unweighted loss."""
        for loss in (Trace_ELBO(), MeanFieldELBO()):
            vae = small_vae(prior=prior(3))
            only_r, r_gradients = loss_and_gradients(loss, vae, x, kl=0.0)
            only_kl, kl_gradients = loss_and_gradients(loss, vae, x, reconstruction=0.0)
            both, gradients = loss_and_gradients(loss, vae, x, reconstruction=reconstruction, kl=kl)
            assert both == pytest.approx(reconstruction * only_r + kl * only_kl, abs=1e-9)
            mixed = [reconstruction * r + kl * k for r, k in zip(r_gradients, kl_gradients, strict=True)]
            assert close(gradients, mixed)
            assert only_kl > 1

    @pytest.mark.thorough
    @pytest.mark.parametrize("prior", [pv.priors.StandardNormal, MixturePrior])
    def test_the_two_losses_have_the_same_mean_under_a_weight(self, prior, x):
        vae, x = small_vae(prior=prior(3)), x.repeat(15, 1)  # 15 draws of each datum in one
        pair = weighted(vae.model, vae.guide, reconstruction=0.5, kl=3.0)
        draws = [
            torch.tensor([loss.loss(*pair, x) for _ in range(100)]).double() for loss in (Trace_ELBO(), MeanFieldELBO())
        ]
        error = sum(d.var() / len(d) for d in draws).sqrt()
        assert abs(draws[0].mean() - draws[1].mean()) < 4 * error

    def test_an_unweighted_program_is_itself(self, x):
        vae = small_vae()
        assert weighted(vae.model, vae.guide) == (vae.model, vae.guide)

    def test_do_not_leak_into_the_program(self, x):
        vae = small_vae()
        before = pv.evaluation.elbo(vae, x, 5, seed=0).mean
        Trace_ELBO().loss(*weighted(vae.model, vae.guide, kl=9.0), x)
        assert pv.evaluation.elbo(vae, x, 5, seed=0).mean == before

    @pytest.mark.parametrize("value", [-0.1, math.nan, math.inf])
    @pytest.mark.parametrize("name", ["reconstruction", "kl"])
    def test_must_be_finite_and_not_negative(self, name, value):
        with pytest.raises(ValueError, match=f"{name}_weight.*got {value}"):
            weighted(lambda: None, lambda: None, **{name: value})


class TestImportanceWeighted:
    @pytest.mark.parametrize("K", [2, 5])
    def test_is_renyi_at_order_zero_loss_and_gradients(self, K, x):
        vae = small_vae()
        ours = loss_and_gradients(ImportanceWeightedELBO(K), vae, x)
        stock = RenyiELBO(alpha=0, num_particles=K, vectorize_particles=True, max_plate_nesting=1)
        theirs = loss_and_gradients(stock, vae, x)
        assert ours[0] == pytest.approx(theirs[0], abs=1e-10)
        assert close(ours[1], theirs[1])

    def test_with_one_particle_is_the_sampled_elbo(self, x):
        vae = small_vae()
        ours, theirs = (loss_and_gradients(loss, vae, x) for loss in (ImportanceWeightedELBO(1), Trace_ELBO()))
        assert ours[0] == pytest.approx(theirs[0], abs=1e-10)
        assert close(ours[1], theirs[1])

    def test_keeps_data_apart(self):
        """The bound of a batch is the sum of the bounds of its data, each with its own draws."""
        truth = ProbabilisticPCA()
        x = truth.data(20)
        bound = -ImportanceWeightedELBO(50).loss(truth.vae().model, truth.vae().guide, x)
        assert bound == pytest.approx(truth.evidence().log_prob(x).sum().item(), abs=1e-8)

    @pytest.mark.parametrize("weights", [{"kl": 0.5}, {"reconstruction": 2.0}, {"kl": 0.0}, {"reconstruction": 0.0}])
    def test_refuses_weights(self, weights, x):
        vae = small_vae()
        with pytest.raises(ValueError, match="carries a loss weight"):
            ImportanceWeightedELBO(3).loss(*weighted(vae.model, vae.guide, **weights), x)

    def test_refuses_a_latent_outside_the_data_plate(self, x):
        def half():
            return pyro.sample("w", dist.Normal(torch.zeros(3), 1.0).to_event(1))

        with pytest.raises(ValueError, match="site w is outside the data plate"):
            ImportanceWeightedELBO(3).loss(half, half)

    def test_refuses_a_latent_without_reparametrised_sampler(self):
        def half():
            with pyro.plate("data", 4, dim=-1):
                pyro.sample("z", dist.Poisson(2.0))

        with pytest.raises(ValueError, match="site z has no reparametrised sampler"):
            ImportanceWeightedELBO(3).loss(half, half)

    @pytest.mark.parametrize("K", [0, -1])
    def test_refuses_no_particles(self, K):
        with pytest.raises(ValueError, match=f"at least one particle; got {K}"):
            ImportanceWeightedELBO(K)

    def test_log_mean_exp_survives_weights_of_any_size(self):
        for shift in (0.0, -10_000.0, 10_000.0):
            weights = torch.tensor([[0.0], [1.0]], dtype=torch.float64) + shift
            assert log_mean_exp(weights).item() == pytest.approx(math.log((1 + math.e) / 2) + shift, abs=1e-9)


class TestMeanField:
    @staticmethod
    def model():
        with pyro.plate("data", 4, dim=-1):
            top = pyro.sample("z2", dist.Normal(torch.zeros(4), 1.0))
            pyro.sample("z1", dist.Normal(top, 1.0))

    @staticmethod
    def bottom_up():
        with pyro.plate("data", 4, dim=-1):
            low = pyro.sample("z1", dist.Normal(torch.ones(4), 1.0))
            pyro.sample("z2", dist.Normal(low, 0.1))

    def test_a_guide_in_another_order_is_an_error_not_a_warning(self):
        with (
            pytest.warns(UserWarning, match="mean field restriction"),
            pytest.raises(ValueError, match=r"in the model's order, \['z2', 'z1'\]; this one samples \['z1', 'z2'\]"),
        ):
            MeanFieldELBO().loss(self.model, self.bottom_up)

    def test_the_check_does_not_need_pyros_validation(self):
        with pyro.validation_enabled(False), pytest.raises(ValueError, match="in the model's order"):
            MeanFieldELBO().loss(self.model, self.bottom_up)

    def test_equals_stock_pyro_elsewhere(self, x):
        vae = small_vae()
        ours, theirs = (loss_and_gradients(loss, vae, x) for loss in (MeanFieldELBO(), TraceMeanField_ELBO()))
        assert ours[0] == theirs[0]
        assert close(ours[1], theirs[1], atol=0)


class TestObjective:
    def test_has_the_programs_parameters_and_the_loss(self, x):
        vae = small_vae()
        objective = Objective(vae, MeanFieldELBO())
        assert {id(p) for p in objective.parameters()} == {id(p) for p in vae.parameters()}
        torch.manual_seed(5)
        objective(x, kl_weight=0.3).backward()
        ours = [p.grad.clone() for p in vae.parameters()]
        _, theirs = loss_and_gradients(MeanFieldELBO(), vae, x, kl=0.3)
        assert close(ours, theirs)

    def test_refuses_a_loss_that_can_not_be_differentiated(self):
        with pytest.raises(ValueError, match="RenyiELBO has no differentiable_loss"):
            Objective(small_vae(), RenyiELBO())


class TestSchedules:
    def test_warm_up_rises_linearly_to_one_and_starts_above_zero(self):
        assert [warm_up(step, 5) for step in range(7)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 1, 1])
        assert warm_up(0, 0) == 1

    def test_learning_rates(self):
        assert learning_rate_factor("constant", 7, 10) == 1
        assert learning_rate_factor("cosine", 0, 10) == 1
        assert learning_rate_factor("cosine", 10, 10) == pytest.approx(0)
        cooling = [learning_rate_factor("cooldown", epoch, 20) for epoch in range(21)]
        assert cooling == pytest.approx([1.0] * 16 + [1.0, 0.75, 0.5, 0.25, 0.0])

    def test_step_schedule_is_the_papers(self):
        """3280 epochs: 3^i epochs at 10^(-i/7), i = 0 ... 7."""
        rates = [learning_rate_factor("step", epoch, 3280) for epoch in range(3280)]
        expected = [10 ** (-i / 7) for i in range(8) for _ in range(3**i)]
        assert rates == pytest.approx(expected)

    def test_an_unknown_schedule_is_refused(self):
        with pytest.raises(ValueError, match="unknown lr_schedule 'linear'; choose from constant, cosine"):
            learning_rate_factor("linear", 0, 1)


class TestMeanFieldOfAutomaticGuides:
    """Pyro's KL of a Delta knows nothing of the Jacobian that an automatic guide writes into it."""

    @pytest.mark.parametrize("loss", [TraceMeanField_ELBO, MeanFieldELBO])
    def test_a_constrained_site_is_refused_where_pyro_is_wrong(self, loss):
        def model(x):
            scale = pyro.sample("scale", dist.Gamma(2.0, 1.0))
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("x", dist.Normal(0.0, scale), obs=x)

        x, guide = torch.ones(3), AutoNormal(model, init_loc_fn=init_to_value(values={"scale": torch.tensor(2.0)}))
        guide(x)
        if loss is MeanFieldELBO:
            with pytest.raises(ValueError, match=r"site scale has the support GreaterThan.* Jacobian. Use Trace_ELBO"):
                loss().loss(model, guide, x)
            return
        wrong, right = (
            torch.tensor([each().loss(model, guide, x) for _ in range(200)]).mean() for each in (loss, Trace_ELBO)
        )
        assert abs(wrong - right - math.log(2)) < 0.1  # E log |d exp(u) / du|; were it right, ours could take it

    def test_a_site_over_all_real_numbers_is_taken(self):
        def model(x):
            shift = pyro.sample("shift", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("x", dist.Normal(shift, 1.0).to_event(1), obs=x)

        guide, losses = AutoNormal(model), []
        guide(torch.ones(3, 2))
        for loss in (MeanFieldELBO, Trace_ELBO):
            torch.manual_seed(0)
            losses.append(loss().loss(model, guide, torch.ones(3, 2)))
        assert losses[0] == pytest.approx(losses[1], abs=1e-4)
