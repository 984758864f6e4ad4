"""Programs with global latents, held against a linear-Gaussian one whose every number is known."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from cases import needs_compiler, thorough
from exact import ProbabilisticPCA, SharedShift
from pyro import poutine
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import AutoMultivariateNormal, AutoNormal
from torch import nn

import pyro_vae as pv
from pyro_vae import evaluation
from pyro_vae.evaluation import (
    ais,
    bdmc,
    draw_globals,
    elbo,
    elbo_terms,
    given,
    iwae,
    log_weights,
    paired,
    pooled,
    predictive,
    psis_khat,
    quadrature,
)
from pyro_vae.inference import SVI, ImportanceWeightedELBO

TRUTH = SharedShift(latent_dim=2, data_dim=4)
TRAIN, TEST = TRUTH.shifted_data(30), TRUTH.shifted_data(40, seed=4)
LAW = TRUTH.shift_posterior(TRAIN)
U = LAW.mean + 0.3


def _shifted_model(vae, x):
    u = pyro.sample("u", dist.Normal(torch.zeros(4, dtype=torch.float64), 1.5).to_event(1))
    with pyro.plate("data", len(x), dim=-1):
        z = pyro.sample("z", vae.prior())
        pyro.sample("x", dist.Normal(vae.likelihood(z).mean + u, TRUTH.scale).to_event(1), obs=x)


def _shifted_guide(vae, x):
    u = pyro.sample("u", dist.Normal(torch.zeros(4, dtype=torch.float64), 1.5).to_event(1))
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("z", vae.posterior(x - u))


def at(u, x=TEST):
    """log p(x | u) by scipy."""
    return TRUTH.log_evidence(x - u)


def program(law=LAW, **options):
    return TRUTH.program(law, **options)


class TestGiven:
    @pytest.mark.parametrize(
        "options", [{}, *thorough({"size": 30}, {"size": 1000}, {"dims": True}, {"size": 7, "dims": True})], ids=str
    )
    def test_every_log_weight_is_log_p_of_x_given_the_globals(self, options):
        """With the exact q(z | x, u), at any number of data that the plate stands for."""
        law = dist.Normal(LAW.mean, 0.1).to_event(1) if options.get("dims") else LAW
        fixed = given(program(law, **options), {"u": U})
        for num_samples in (1, 4, 40):  # as many as data, too
            assert torch.allclose(log_weights(fixed, TEST, num_samples), at(U).expand(num_samples, -1), atol=1e-9)

    def test_estimators_agree_with_the_truth_where_the_guide_misses_the_posterior(self):
        fixed, x = given(program(widen=1.5), {"u": U}), TEST[:10]
        truth = at(U, x)
        bound = iwae(fixed, x, num_samples=2000, seed=0)
        assert ((bound.value - truth).abs() < 4 * bound.value_error).all()
        terms = elbo_terms(fixed, x, num_samples=500, seed=0)
        assert terms.elbo.kind == {"z": "analytic"}
        gap = 2 * ((1.5**2 - 1) / 2 - math.log(1.5))  # KL(q(z|x, u) || p(z|x, u)), in two dimensions
        assert abs(truth.mean().item() - terms.elbo.mean - gap) < 4 * terms.elbo.monte_carlo_error
        assert torch.allclose(quadrature(fixed, x).value, truth, atol=1e-4)

    @pytest.mark.thorough
    def test_annealing_too(self):
        fixed, x = given(program(widen=1.5), {"u": U}), TEST[:10]
        annealed = ais(fixed, x, num_temperatures=50, seed=0)
        assert abs(annealed.mean - at(U, x).mean()) < 4 * annealed.monte_carlo_error
        bounds = bdmc(fixed, 50, num_temperatures=10, seed=0)
        assert abs(bounds.gap) < 4 * bounds.gap_error + 0.2

    def test_an_automatic_guide_leaves_nothing_behind(self):
        """Neither its own site nor the auxiliary one of which it is made; the scale of the prior is half a line."""

        class Scaled(nn.Module):
            def __init__(self):
                super().__init__()
                self.auto = AutoNormal(poutine.block(self.model, expose=["scale"]))

            def model(self, x):
                scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
                with pyro.plate("data", 100, subsample=x, dim=-1):
                    z = pyro.sample("z", dist.Normal(0.0, 1.0))
                    pyro.sample("x", dist.Normal(z, scale), obs=x)

            def guide(self, x):
                scale = self.auto(x)["scale"]
                with pyro.plate("data", len(x), dim=-1):
                    precision = 1 + scale**-2
                    pyro.sample("z", dist.Normal(x / scale**2 / precision, precision**-0.5))

        x = torch.tensor([0.3, -2.0])
        scaled = Scaled()
        scaled.guide(x)  # makes the automatic guide
        found = log_weights(given(scaled, {"scale": 0.5}), x, 3)
        assert torch.allclose(found.float(), dist.Normal(0.0, 1.25**0.5).log_prob(x).expand(3, -1), atol=1e-5)
        median = scaled.auto.median()
        truth = dist.Normal(0.0, (1 + median["scale"] ** 2).sqrt()).log_prob(x)
        assert torch.allclose(iwae(given(scaled, median), x, 1).value.float(), truth, atol=1e-5)
        with pytest.raises(
            ValueError, match=r"site scale has the support GreaterThan\(lower_bound=0.0\); got a value outside"
        ):
            iwae(given(scaled, {"scale": -1.0}), x, 1)

    def test_a_factor_of_each_datum_counts(self):
        """Pyro marks it as auxiliary, as it does what automatic guides draw."""

        class Scaled:
            def model(self, x):
                scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
                with pyro.plate("data", len(x), dim=-1):
                    pyro.sample("x", dist.Normal(0.0, 1.0), obs=x / scale)
                    pyro.factor("unit", -scale.log())

            def guide(self, x):
                pyro.sample("scale", dist.LogNormal(0.0, 1.0))

        x = torch.tensor([0.3, -2.0])
        found = iwae(given(Scaled(), {"scale": 3.0}), x, 2).value
        assert torch.allclose(found.float(), dist.Normal(0.0, 3.0).log_prob(x), atol=1e-5)

    def test_a_given_program_generates_at_that_theta(self):
        with pv.randomness.stream(0, "generated"):
            x = torch.cat([given(program(), {"u": U + 100}).model() for _ in range(400)])
        error = TRUTH.evidence().covariance_matrix.diag().sqrt() / 20
        assert ((x.mean(0) - TRUTH.b - U - 100).abs() < 4 * error).all()

    def test_other_values_of_the_same_sites_take_their_place(self):
        fixed = given(program(), {"u": U})
        fixed.set_values({"u": U + 1})
        assert torch.allclose(iwae(fixed, TEST, 1).value, at(U + 1), atol=1e-9)
        assert fixed.float()._values()["u"].dtype == torch.float32

    @needs_compiler
    @pytest.mark.thorough
    def test_a_compiled_graph_sees_other_values(self, caplog):
        class Module(nn.Module):
            def __init__(self):
                super().__init__()
                self.vae = TRUTH.vae(widen=1.5)

            model, guide = (lambda self, x, half=half: half(self.vae, x) for half in (_shifted_model, _shifted_guide))

        fixed = given(Module(), {"u": U})
        by_pyro = [iwae(fixed, TEST, 300, seed=0).value]
        with evaluation.compiled():
            compiled = [iwae(fixed, TEST, 300, seed=0).value]
            fixed.set_values({"u": U + 1})
            compiled.append(iwae(fixed, TEST, 300, seed=0).value)
        by_pyro.append(iwae(fixed, TEST, 300, seed=0).value)
        assert not [each for each in caplog.records if each.name.startswith("pyro_vae")]
        assert all(torch.allclose(a, b, atol=1e-8) for a, b in zip(by_pyro, compiled, strict=True))

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ({"v": U}, "the model has no latent site v: its latent sites are u, z"),
            ({"u": U[:2]}, r"site u has shape \(4,\); got a value of \(2,\)"),
            ({"u": U, "x": U}, "site x is observed"),
            ({}, "site u is outside the data plate"),
        ],
        ids=["unknown", "shape", "observed", "left out"],
    )
    def test_values_that_do_not_fit_are_refused(self, values, message):
        with pytest.raises(ValueError, match=message):
            iwae(given(program(), values), TEST, 1)


CALLS = {
    "log_weights": lambda p, x: evaluation.log_weights(p, x, 40),
    "elbo": lambda p, x: elbo(p, x, 4),
    "iwae": lambda p, x: iwae(p, x, 4),
    "iwae, as many draws as data": lambda p, x: iwae(p, x, len(x)),
    "iwae_curve": lambda p, x: evaluation.iwae_curve(p, x, 4),
    "ais": lambda p, x: ais(p, x, 3, 2),
    "ais from the prior": lambda p, x: ais(p, x, 3, 2, start="prior"),
    "bdmc": lambda p, x: bdmc(p, 5, 3, 2),
    "quadrature": lambda p, x: quadrature(p, x),
    "posterior_on_grid": lambda p, x: evaluation.posterior_on_grid(p, x[:1]),
    "identity": lambda p, x: evaluation.identity(p, x),
    "nuts": lambda p, x: evaluation.nuts(p, x[:1], num_warmup=4, num_draws=4),
    "active_units": lambda p, x: evaluation.active_units(p, x),
    "aggregate_terms": lambda p, x: evaluation.aggregate_terms(p, x, 4),
    "kl_per_dimension": lambda p, x: evaluation.kl_per_dimension(p, x, 4),
    "refine": lambda p, x: evaluation.refine(p, x),
    "escalate": lambda p, x: evaluation.escalate(p, x),
    "to_inference_data": lambda p, x: evaluation.to_inference_data(p, x, 4),
    "score": lambda p, x: evaluation.score(p, x),
    "impute": lambda p, x: evaluation.impute(p, x, 4),
    "a step of the importance-weighted bound": lambda p, x: ImportanceWeightedELBO(2).loss(p.model, p.guide, x),
}


class TestRefused:
    @pytest.mark.parametrize("call", ["iwae", *thorough(*[name for name in CALLS if name != "iwae"])])
    def test_a_global_latent_is_named_with_its_cure_by_every_estimator(self, call):
        with pytest.raises(ValueError, match=r'site u is outside the data plate.*given\(program, {"u": value}\)'):
            CALLS[call](program(), TEST)

    @pytest.mark.parametrize("num_samples", [4, 40])
    def test_a_plate_of_its_own_at_the_place_of_the_data_plate_is_none(self, num_samples):
        """With as many numbers as data or draws it would be broadcast with them, and no number would be right."""
        law = dist.Normal(LAW.mean, 0.1).to_event(1)
        with pytest.raises(ValueError, match="site u is in plate dims, which is not the data plate"):
            log_weights(program(law, dims=True), TEST[:4], num_samples)

    def test_the_factor_of_a_plate_is_no_loss_weight(self):
        with pytest.raises(
            ValueError, match=r"^plate data stands for 50 data and was given 3, so .*given\(program, {}\)"
        ):
            iwae(_Plain(), torch.zeros(3), 1)
        assert iwae(given(_Plain(), {}), torch.zeros(3), 1).value.shape == (3,)

    @pytest.mark.parametrize("size", [2, 3])
    def test_a_plate_that_draws_its_rows_is_refused(self, size):
        """It would take 2 rows of its own data, whatever it is given, and numbers would come out for two."""
        with pytest.raises(ValueError, match=r"plate data draws 2 of its 5 rows at random.*'data', 5, subsample=x\)"):
            iwae(given(_Own(pyro.plate("data", 5, 2)), {}), torch.zeros(size), 1)

    @pytest.mark.parametrize("num_samples", [1, 9])
    def test_a_model_of_data_of_its_own_is_refused(self, num_samples):
        """Also where it has as many as it is given, which the guide reads."""
        with pytest.raises(ValueError, match="the model of _Own does not read the x that it is given"):
            iwae(_Own(pyro.plate("data", 5)), OWN[:5], num_samples)

    def test_a_plate_that_leaves_data_out_is_refused(self):
        with pytest.raises(ValueError, match=r"plate data uses 2 of the 3 data .* subsample=x"):
            iwae(given(_Plain(take=2), {}), torch.zeros(3), 1)


class _Plain:
    """N(x; z, 1), z standard normal, in a plate that stands for 50 data, or that takes some of those it is given."""

    def __init__(self, take=None):
        self.take = take

    def model(self, x):
        with self._plate(x) as rows:
            pyro.sample("x", dist.Normal(pyro.sample("z", dist.Normal(0.0, 1.0)), 1.0), obs=x[: len(rows)])

    def guide(self, x):
        with self._plate(x) as rows:
            pyro.sample("z", dist.Normal(x[: len(rows)] / 2, 0.5**0.5))

    def _plate(self, x):
        chosen = x if self.take is None else torch.arange(self.take)
        return pyro.plate("data", 50, subsample=chosen, dim=-1)


OWN = torch.zeros(5)


class _Own:
    """N(x; z, 1) of rows of its own data, in this plate."""

    def __init__(self, plate):
        self.plate = plate

    def model(self, x):
        with pyro.plate("data", self.plate.size, self.plate.subsample_size) as rows:
            pyro.sample("x", dist.Normal(pyro.sample("z", dist.Normal(0.0, 1.0)), 1.0), obs=OWN[rows])

    def guide(self, x):
        with pyro.plate("data", self.plate.size, self.plate.subsample_size):
            pyro.sample("z", dist.Normal(x / 2, 0.5**0.5))


@pytest.fixture(scope="module")
def many():
    """One draw of z is exact, for so is the guide of z."""
    return predictive(program(), TEST, num_samples=1, seed=0, num_globals=400)


class TestPredictive:
    @pytest.mark.thorough
    def test_it_is_log_p_of_x_given_the_training_data(self, many):
        """With q(u) the posterior."""
        truth = TRUTH.predictive(TRAIN).log_prob(TEST)
        assert ((many.value - truth).abs() < 4 * many.value_error + 1e-3).all()
        assert abs(many.mean - truth.mean()) < 4 * many.monte_carlo_error
        assert (psis_khat(many.at_each) < 0.7).all()

    def test_draws_of_another_making_take_the_place_of_the_guides(self):
        with pv.randomness.stream(0, "elsewhere"):
            draws = {"u": LAW.sample((100,))}
        found = predictive(program(dist.Delta(U, event_dim=1)), TEST, num_samples=1, draws=draws)
        assert abs(found.mean - TRUTH.predictive(TRAIN).log_prob(TEST).mean()) < 4 * found.monte_carlo_error
        assert torch.allclose(found.at_each[7], at(draws["u"][7]), atol=1e-9)

    def test_its_error_is_that_of_draws_that_the_data_share(self, many):
        """As 30,000 draws of u have it, of which p(x | u) is known; that of data with draws of their own is less."""
        with pv.randomness.stream(1, "spread"):
            u = LAW.sample((30_000, 1))
        ratio = TRUTH.evidence().log_prob(TEST - u) - TRUTH.predictive(TRAIN).log_prob(TEST)
        truth = ratio.exp().mean(1).std() / math.sqrt(400)
        assert many.monte_carlo_error == pytest.approx(truth.item(), rel=0.15)
        assert many.value_error.square().sum().sqrt() / 40 < 0.5 * truth

    @pytest.mark.thorough
    def test_its_error_covers_as_it_says(self):
        truth = TRUTH.predictive(TRAIN).log_prob(TEST).mean().item()
        found = [predictive(program(), TEST, 1, seed=seed, num_globals=40) for seed in range(150)]
        inside = torch.tensor([abs(e.mean - truth) < 1.96 * e.monte_carlo_error for e in found]).double().mean()
        assert abs(inside - 0.95) < 4 * math.sqrt(0.95 * 0.05 / 150)
        alone = [abs(e.mean - truth) < 1.96 * e.value_error.square().sum().sqrt() / 40 for e in found]
        assert torch.tensor(alone).double().mean() < 0.75

    def test_draws_of_z_are_within_its_error(self, many):
        truth = TRUTH.predictive(TRAIN).log_prob(TEST).mean().item()
        few = predictive(program(widen=2.0), TEST, num_samples=2, seed=1, num_globals=100)
        assert abs(few.mean - truth) < 4 * few.monte_carlo_error + 0.02
        assert few.monte_carlo_error > many.monte_carlo_error * math.sqrt(4)

    def test_a_seed_is_reproducible_and_leaves_the_random_state_alone(self):
        before = torch.get_rng_state()
        first, again = (predictive(program(size=30), TEST, 2, seed=5, num_globals=3) for _ in range(2))
        assert first.value.equal(again.value)
        assert torch.get_rng_state().equal(before)
        assert not predictive(program(size=30), TEST, 2, seed=6, num_globals=3).value.equal(first.value)

    def test_draws_of_z_are_new_at_each_theta(self):
        fixed = predictive(program(dist.Delta(U, event_dim=1), widen=2.0), TEST, 2, seed=0, num_globals=3)
        assert not (fixed.at_each[0] == fixed.at_each[1]).any()

    def test_labels_go_with_their_data(self):
        """log p(x | D, y) of data whose shift is one of two, chosen by y."""

        class Chosen:
            def model(self, x, y):
                shift = pyro.sample("shift", dist.Normal(torch.zeros(2), 1.0).to_event(1))
                with pyro.plate("data", len(x), dim=-1):
                    pyro.sample("x", dist.Normal(y @ shift, 1.0), obs=x)

            def guide(self, x, y):
                pyro.sample("shift", dist.Delta(torch.tensor([-3.0, 3.0]), event_dim=1))

        y, x = torch.eye(2)[[0, 1, 1]], torch.tensor([-3.0, 3.0, -3.0])
        estimate = predictive(Chosen(), x, 1, y, num_globals=2)
        assert torch.allclose(estimate.value.float(), dist.Normal(torch.tensor([-3.0, 3.0, 3.0]), 1.0).log_prob(x))
        assert estimate.quantity == "log p(x|y)"

    def test_shared_errors_survive_a_difference_and_a_pool(self):
        runs = [predictive(program(), TEST, 1, seed=seed, num_globals=20) for seed in (0, 1)]
        together = math.hypot(*(run.monte_carlo_error for run in runs))
        assert paired(*runs).monte_carlo_error == pytest.approx(together)
        assert pooled(runs).monte_carlo_error == pytest.approx(together / 2)
        assert paired(pooled(runs), runs[0]).name == "difference of log p(x), predictive"
        other = iwae(given(program(), {"u": U}), TEST, 1)
        assert paired(runs[0], other).mean == pytest.approx(runs[0].mean - other.mean)

    def test_it_prints_both_numbers_of_draws(self):
        estimate = predictive(program(), TEST, 2, seed=0, num_globals=3)
        assert str(estimate).endswith("Monte Carlo (S = 3 shared, K = 2)")
        assert estimate.to_dict()["num_globals"] == 3
        assert math.isnan(predictive(program(), TEST, 2, seed=0, num_globals=1).monte_carlo_error)

    def test_what_has_no_predictive_is_refused(self):
        vae = ProbabilisticPCA().vae()
        with pytest.raises(ValueError, match="no latent site outside its data plate: `iwae` estimates its log p"):
            predictive(vae, ProbabilisticPCA().data(3), 1)
        with pytest.raises(ValueError, match="num_globals must be at least 1; got 0"):
            draw_globals(program(), TEST, 0)
        with pytest.raises(ValueError, match="as many draws as the others"):
            predictive(program(), TEST, 1, draws={"u": torch.zeros(0, 4)})

    def test_draws_of_the_guide_are_its_own(self):
        drawn = draw_globals(program(), TEST, 500, seed=0)["u"]
        error = LAW.covariance_matrix.diag().div(500).sqrt()
        assert ((drawn.mean(0) - LAW.mean).abs() < 4 * error).all()


class TestWholeDataSet:
    def test_the_elbo_of_all_data_is_their_evidence_where_the_guide_is_exact(self):
        """Whatever is drawn; and in batches on average, where the KL of the global counts once."""
        exact = program()
        loss = Trace_ELBO().loss(exact.model, exact.guide, TRAIN)
        assert -loss == pytest.approx(TRUTH.log_evidence_of_all(TRAIN), abs=1e-7)

    @pytest.mark.thorough
    def test_batches_of_a_plate_add_up_to_the_whole(self):
        part = program(size=30)
        svi = SVI(part.model, part.guide, torch.optim.SGD([nn.Parameter(torch.zeros(()))], 0.0), Trace_ELBO())
        with pv.randomness.stream(0, "batches"):
            losses = [svi.evaluate_loss(rows) for _ in range(100) for rows in TRAIN.split(5)]
        each = torch.tensor(losses).reshape(100, 6).mean(1)
        assert abs(-each.mean() - TRUTH.log_evidence_of_all(TRAIN)) < 4 * each.std() / 10


@pytest.mark.thorough
@pytest.mark.parametrize("auto", [AutoMultivariateNormal, AutoNormal])
def test_an_automatic_guide_learns_the_posterior_of_the_global(auto):
    """By our SVI, in batches; a diagonal one falls short by the KL to it that is known."""
    inner = program(size=30)

    class Learned(nn.Module):
        def __init__(self):
            super().__init__()
            self.auto = auto(poutine.block(inner.model, expose=["u"]))

        def guide(self, x):
            u = self.auto(x)["u"]
            with pyro.plate("data", 30, subsample=x, dim=-1):
                pyro.sample("z", inner.vae.posterior(x - u))

    pyro.clear_param_store()
    learned = Learned()
    learned.guide(TRAIN)
    adam = torch.optim.Adam(learned.parameters(), lr=0.05)
    svi = SVI(inner.model, learned.guide, adam, Trace_ELBO(), compile=False)
    with pv.randomness.stream(0, "learned"):
        for i in range(400):
            adam.param_groups[0]["lr"] = 0.05 * (1 - i / 400)
            svi.step(TRAIN)
        bounds = -torch.tensor([svi.evaluate_loss(TRAIN) for _ in range(200)])
    inner.guide = learned.guide
    drawn = draw_globals(inner, TRAIN, 4000, seed=0)["u"]
    assert ((drawn.mean(0) - LAW.mean).abs() < 0.3 * LAW.stddev).all()
    precision = torch.linalg.inv(LAW.covariance_matrix)
    gap = 0.0 if auto is AutoMultivariateNormal else (precision.diag().log().sum() - precision.logdet()).item() / 2
    found, noise = TRUTH.log_evidence_of_all(TRAIN) - bounds.mean(), bounds.std() / math.sqrt(200)
    assert abs(found - gap) < 4 * noise + 0.05  # which training has left
