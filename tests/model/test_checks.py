"""The contract as a public function: built-in members keep it, and each of its lines is broken by a member here."""

import subprocess
import sys

import pyro
import pyro.distributions as dist
import pytest
import torch
from cases import all_but, thorough
from densities import members
from pyro.distributions import constraints
from spliced import Spliced, normal, per_dimension, whole_vectors
from torch import nn
from torch.distributions import register_kl

import pyro_vae as pv
from pyro_vae.cli import own_code
from pyro_vae.cli.check_command import main
from pyro_vae.model import checks

SHAPE = (1, 2, 4)
LABELS = torch.eye(3)[[0, 1, 2, 2, 1]]


def mlp(in_shape, out_shape, **options):
    return pv.networks.MLP(in_shape, out_shape, hidden=(8,), **options)


def encoder(D, numbers=2):
    return mlp(SHAPE, (numbers * D,))


# Built-in members


def diagonal(D, **options):
    return pv.posteriors.DiagonalNormal(mlp(SHAPE, (2 * D,), **options), D)


PRIORS = {
    "StandardNormal": pv.priors.StandardNormal,
    "DiagonalNormal": pv.priors.DiagonalNormal,
    "FullNormal": pv.priors.FullNormal,
    "Laplace": pv.priors.Laplace,
    "StudentT": pv.priors.StudentT,
    "MixtureOfNormals": lambda D: pv.priors.MixtureOfNormals(D, 5),
    "VampPrior": lambda D: pv.priors.VampPrior(diagonal(D), SHAPE, 5),
    "FlowPrior": lambda D: pv.priors.FlowPrior(D, "autoregressive", 2, (8,)),
    "FlowPrior spline": lambda D: pv.priors.FlowPrior(D, "spline", 1, (8,)),
    "ConditionalNormal": lambda D: pv.priors.ConditionalNormal(D, 3),
}
POSTERIORS = {
    **{name: {} for name in sorted(members(pv.posteriors, pv.posteriors.Posterior))},
    "FlowPosterior": {"flow_transforms": 2, "flow_hidden": (8,)},
}
LIKELIHOODS = {
    **{name: {} for name in sorted(members(pv.likelihoods, pv.likelihoods.Likelihood))},
    "DiscretizedLogistic": {"num_levels": 9},
    "Categorical": {"num_levels": 9},
}


def test_every_prior_has_a_case():
    assert {name.split()[0] for name in PRIORS} == members(pv.priors, pv.priors.Prior)


@pytest.mark.parametrize("name", all_but(PRIORS.keys() - {"FlowPrior spline"}, PRIORS))
@pytest.mark.parametrize("D", [2, *thorough(5)])
def test_priors_pass(name, D):
    report = pv.check_prior(PRIORS[name](D), LABELS if name == "ConditionalNormal" else None)
    report.raise_if_failed()
    assert {f.name for f in report.findings if f.passed} >= {"integral", "sampler", "saves", "moves"}


def test_a_prior_may_ignore_labels():
    pv.check_prior(pv.priors.StandardNormal(2), LABELS).raise_if_failed()


@pytest.mark.thorough
@pytest.mark.parametrize("name", POSTERIORS)
@pytest.mark.parametrize("D", [2, *thorough(5)])
def test_posteriors_pass(name, D):
    kind = getattr(pv.posteriors, name)
    posterior = kind(mlp(SHAPE, kind.encoder_shape(D)), D, **POSTERIORS[name])
    report = pv.check_posterior(posterior, torch.rand(5, *SHAPE))
    report.raise_if_failed()
    analytic = next(f.passed for f in report.findings if f.name == "analytic KL")
    assert analytic is (None if name in ("FlowPosterior", "Delta") else True)


@pytest.mark.thorough
@pytest.mark.parametrize("prior", ["FullNormal", "Laplace", "ConditionalNormal"])
def test_posteriors_with_labels_and_other_priors_pass(prior):
    report = pv.check_posterior(diagonal(3, y_dim=3), torch.rand(5, *SHAPE), LABELS, prior=PRIORS[prior](3))
    report.raise_if_failed()
    assert next(f.passed for f in report.findings if f.name == "analytic KL")


LONG = {"ContinuousBernoulli", "ExponentialNorm", "Laplace", "LowRankNormal"}


@pytest.mark.parametrize("name", all_but(LIKELIHOODS.keys() - LONG, LIKELIHOODS))
def test_likelihoods_pass(name):
    kind, options = getattr(pv.likelihoods, name), LIKELIHOODS[name]
    shape = kind.decoder_shape(SHAPE, **options) if name == "Categorical" else kind.decoder_shape(SHAPE)
    report = pv.check_likelihood(kind(mlp((3,), shape), **options), torch.randn(5, 3))
    report.raise_if_failed()
    assert all(f.passed for f in report.findings)


class ZeroInflated(pv.likelihoods.Likelihood):
    """One number of three, the gate or its logits, with Pyro's own distributions, whose batch shape is a tuple."""

    support = constraints.nonnegative_integer

    def __init__(self, decoder, make):
        super().__init__(decoder)
        self.make = make

    def forward(self, z, y=None):
        return self.make(*self.decode(z, y).unbind(-2)).to_event(1)


ZERO_INFLATED = {
    "Poisson, gate": lambda rate, gate: dist.ZeroInflatedPoisson(rate.exp(), gate=gate.sigmoid()),
    "Poisson, logits": lambda rate, gate: dist.ZeroInflatedPoisson(rate.exp(), gate_logits=gate),
    "negative binomial": lambda logits, gate: dist.ZeroInflatedNegativeBinomial(
        torch.tensor(3.0).to(logits), logits=logits, gate_logits=gate
    ),
}


@pytest.mark.parametrize("name", ZERO_INFLATED)
def test_zero_inflated_counts_pass(name):
    likelihood = ZeroInflated(mlp((3,), (2, 4)), ZERO_INFLATED[name])
    report = pv.check_likelihood(likelihood, torch.randn(5, 3))
    report.raise_if_failed()
    assert all(f.passed for f in report.findings)


class StudentPrior(pv.priors.Prior):
    def forward(self, y=None):
        return dist.StudentT(5.0, self.loc, self.scale).to_event(1)


@pytest.mark.parametrize("D", [1, 3, 20])
def test_a_prior_of_three_lines_passes(D):
    assert pv.check_prior(StudentPrior(D)).passed


# Members that break one line each


class Bad(pv.priors.Prior):
    """A standard normal; each subclass spoils one thing."""

    def __init__(self, latent_dim=2):
        super().__init__(latent_dim)
        self.shift = nn.Parameter(torch.zeros(latent_dim))

    def forward(self, y=None):
        return dist.Normal(self.shift, self.scale).to_event(1)


class OffByAFactor(Bad):
    def forward(self, y=None):
        return Spliced(normal(self.latent_dim, loc=self.shift), factor=1.1)


class TooWide(Bad):
    def forward(self, y=None):
        return Spliced(normal(self.latent_dim, loc=self.shift), normal(self.latent_dim, 1.1, loc=self.shift))


class DrawnPerDimension(Bad):
    def forward(self, y=None):
        D = self.latent_dim
        return Spliced(whole_vectors(D, loc=self.shift), per_dimension(D, loc=self.shift))


class DrawnAsWholeVectors(Bad):
    def forward(self, y=None):
        D = self.latent_dim
        return Spliced(per_dimension(D, loc=self.shift), whole_vectors(D, loc=self.shift))


class NotPyro(Bad):
    def forward(self, y=None):
        return torch.distributions.Independent(torch.distributions.Normal(self.shift, self.scale), 1)


class NoEvent(Bad):
    def forward(self, y=None):
        return dist.Normal(self.shift, self.scale)


class NeedlessBatch(Bad):
    def forward(self, y=None):
        return super().forward().expand((3,))


class NotExpandable(Bad):
    def forward(self, y=None):
        p = Spliced(normal(self.latent_dim, loc=self.shift))
        p.expand = lambda batch_shape: p
        return p


class Unbounded(Bad):
    def forward(self, y=None):
        p = dist.Normal(self.shift, self.scale).to_event(1)
        return Spliced(dist.HalfNormal(self.shift.exp()).to_event(1), p)


class CopulaOfNormals(dist.TorchDistribution):
    """Right, but for tails in which cdf is 0 or 1, icdf infinite and infinity less infinity no number."""

    arg_constraints = {}  # noqa: RUF012
    support = constraints.independent(constraints.real, 1)
    has_rsample = False

    def __init__(self, loc, batch_shape=()):
        correlation = 0.5 + 0.5 * torch.eye(len(loc)).to(loc)
        self.loc, self.joint = loc, dist.MultivariateNormal(torch.zeros_like(loc), correlation)
        super().__init__(torch.Size(batch_shape), loc.shape, validate_args=False)

    def expand(self, batch_shape, _instance=None):
        return CopulaOfNormals(self.loc, batch_shape)

    def log_prob(self, value):
        one = dist.Normal(torch.zeros_like(self.loc), 1.0)
        w = one.icdf(one.cdf(value - self.loc))
        log_prob = self.joint.log_prob(w) - one.log_prob(w).sum(-1) + one.log_prob(value - self.loc).sum(-1)
        return log_prob.expand(torch.broadcast_shapes(log_prob.shape, self.batch_shape))

    def sample(self, sample_shape=()):
        with torch.no_grad():
            return self.loc + self.joint.sample(torch.Size(sample_shape) + self.batch_shape)


class NoTails(Bad):
    def forward(self, y=None):
        return CopulaOfNormals(self.shift)


class Raises(Bad):
    def forward(self, y=None):
        raise RuntimeError("no such thing")


class Detached(Bad):
    def forward(self, y=None):
        return dist.Normal(self.shift.detach(), self.scale).to_event(1)


class HalfDetached(Bad):
    def forward(self, y=None):
        return dist.Normal(self.shift + self.shift.detach().sin(), self.scale).to_event(1)


class PlainConstant(Bad):
    def __init__(self, latent_dim=2):
        super().__init__(latent_dim)
        self.widths = {"all": torch.ones(latent_dim)}

    def forward(self, y=None):
        return dist.Normal(self.shift, self.widths["all"]).to_event(1)


class StuckInSingle(Bad):
    def forward(self, y=None):
        return dist.Normal(self.shift.float(), 1.0).to_event(1)


class Forgets(Bad):
    """A running state that `state_dict` does not know."""

    steps = 0

    def forward(self, y=None):
        if self.training and torch.is_grad_enabled():
            self.steps += 1
        return dist.Normal(self.shift, 1.0 + 0.1 * self.steps).to_event(1)


BAD_PRIORS = [
    (OffByAFactor, {"integral"}),
    (TooWide, {"sampler"}),
    (DrawnPerDimension, {"sampler"}),
    (DrawnAsWholeVectors, {"sampler"}),
    (NotPyro, {"distribution"}),
    (NoEvent, {"shapes"}),
    (NeedlessBatch, {"shapes"}),
    (NotExpandable, {"plates"}),
    (Unbounded, {"support"}),
    (NoTails, {"support"}),
    (Raises, {"distribution"}),
    (Detached, {"gradients", "slopes"}),
    (HalfDetached, {"slopes"}),
    (PlainConstant, {"moves"}),
    (StuckInSingle, {"moves", "slopes"}),
    (Forgets, {"saves"}),
]


@pytest.mark.parametrize("D", [2, *thorough(10)])
@pytest.mark.parametrize(("kind", "failed"), BAD_PRIORS)
def test_a_bad_prior_is_found_by_its_line(kind, failed, D):
    assert set(pv.check_prior(kind(D)).failed) == failed


class BadPosterior(pv.posteriors.Posterior):
    """A diagonal normal; each subclass spoils one thing."""

    @staticmethod
    def encoder_shape(latent_dim):
        return (2 * latent_dim,)

    def numbers(self, x):
        loc, log_scale = self.encode(x).chunk(2, -1)
        return loc, log_scale.exp()

    def forward(self, x, y=None):
        return dist.Normal(*self.numbers(x)).to_event(1)


class NoReparametrisation(BadPosterior):
    def forward(self, x, y=None):
        q = super().forward(x)
        halves = dist.Categorical(torch.ones(len(x), 1).to(x))
        components = dist.Normal(q.base_dist.loc[:, None], q.base_dist.scale[:, None]).to_event(1)
        return dist.MixtureSameFamily(halves, components)


class SilentSamples(BadPosterior):
    def forward(self, x, y=None):
        class Silent(dist.Normal):
            def rsample(self, sample_shape=()):
                return super().rsample(sample_shape).detach()

        return Silent(*self.numbers(x)).to_event(1)


class ScaleDetached(BadPosterior):
    def __init__(self, *args):
        super().__init__(*args)
        self.log_width = nn.Parameter(torch.zeros(()))

    def forward(self, x, y=None):
        loc, scale = self.numbers(x)
        return dist.Normal(loc, scale * self.log_width.detach().exp()).to_event(1)


class Centred(BadPosterior):
    def forward(self, x, y=None):
        loc, scale = self.numbers(x)
        return dist.Normal(loc - loc.mean(0), scale).to_event(1)


class CentredInTraining(BadPosterior):
    def __init__(self, net, latent_dim):
        super().__init__(net, latent_dim)
        self.norm = nn.BatchNorm1d(latent_dim)

    def forward(self, x, y=None):
        loc, scale = self.numbers(x)
        return dist.Normal(self.norm(loc), scale).to_event(1)


class OneForAll(BadPosterior):
    def forward(self, x, y=None):
        loc, scale = self.numbers(x)
        return dist.Normal(loc[0], scale[0]).to_event(1)


class OneNetworkScaleDetached(BadPosterior):
    def forward(self, x, y=None):
        loc, scale = self.numbers(x)
        return dist.Normal(loc, scale.detach()).to_event(1)


class DrawnByRejection(BadPosterior):
    """Nothing wrong with it: under the same noise its draws jump."""

    def forward(self, x, y=None):
        loc, scale = self.numbers(x)
        return dist.Gamma(loc.exp(), scale).to_event(1)


def test_draws_by_rejection_are_no_wrong_slope():
    pv.check_posterior(DrawnByRejection(encoder(2), 2), torch.rand(6, *SHAPE)).raise_if_failed()


class Private(dist.Normal):
    """A normal whose registered KL lacks its 1/2."""


@register_kl(Private, dist.Normal)
def _twice_the_kl(q, p):
    return 2 * torch.distributions.kl_divergence(dist.Normal(q.loc, q.scale), p)


class WrongKL(BadPosterior):
    def forward(self, x, y=None):
        return Private(*self.numbers(x)).to_event(1)


BAD_POSTERIORS = [
    (NoReparametrisation, {"reparametrised"}),
    (SilentSamples, {"gradients", "slopes"}),
    (ScaleDetached, {"gradients", "slopes"}),
    (OneNetworkScaleDetached, {"slopes"}),
    (Centred, {"batch order"}),
    (CentredInTraining, {"batch order"}),
    (OneForAll, {"shapes"}),
    (WrongKL, {"analytic KL"}),
]


@pytest.mark.thorough
@pytest.mark.parametrize(("kind", "failed"), all_but(BAD_POSTERIORS[:2] + BAD_POSTERIORS[5:], BAD_POSTERIORS))
def test_a_bad_posterior_is_found_by_its_line(kind, failed):
    pv.check_posterior(BadPosterior(encoder(2), 2), torch.rand(6, *SHAPE)).raise_if_failed()
    assert set(pv.check_posterior(kind(encoder(2), 2), torch.rand(6, *SHAPE)).failed) == failed


class BadLikelihood(pv.likelihoods.Likelihood):
    """A normal; each subclass spoils one thing."""

    scale, kind = 0.5, dist.Normal

    def forward(self, z, y=None):
        return self.kind(self.decode(z), self.scale).to_event(len(SHAPE))


class Grey(BadLikelihood):
    support = constraints.boolean


class WidePixels(BadLikelihood):
    class kind(dist.Normal):  # noqa: N801
        def sample(self, sample_shape=()):
            with torch.no_grad():
                return self.loc + 1.1 * (super().sample(sample_shape) - self.loc)


class BrightPixels(BadLikelihood):
    class kind(dist.Normal):  # noqa: N801
        def log_prob(self, value):
            return super().log_prob(value) + 0.0953


class WrongMean(BadLikelihood):
    class kind(dist.Normal):  # noqa: N801
        @property
        def mean(self):
            return self.loc + 0.1


class OneBatchDimension(BadLikelihood):
    def forward(self, z, y=None):
        return super().forward(z.reshape(-1, z.shape[-1]))


class DataForDimensions(BadLikelihood):
    def forward(self, z, y=None):
        return super().forward(z.softmax(1))


BAD_LIKELIHOODS = [
    (Grey, {"support"}),
    (WidePixels, {"sampler"}),
    (BrightPixels, {"integral"}),
    (WrongMean, {"mean"}),
    (OneBatchDimension, {"shapes"}),
    (DataForDimensions, {"slices"}),
]


@pytest.mark.thorough
def test_what_the_bad_likelihoods_spoil_passes():
    pv.check_likelihood(BadLikelihood(mlp((3,), SHAPE)), torch.randn(5, 3)).raise_if_failed()


@pytest.mark.parametrize(("kind", "failed"), all_but(BAD_LIKELIHOODS[:1] + BAD_LIKELIHOODS[3:], BAD_LIKELIHOODS))
def test_a_bad_likelihood_is_found_by_its_line(kind, failed):
    assert set(pv.check_likelihood(kind(mlp((3,), SHAPE)), torch.randn(5, 3)).failed) == failed


def test_a_forgotten_event_is_named():
    class NoEventPixels(BadLikelihood):
        def forward(self, z, y=None):
            return self.kind(self.decode(z), self.scale)

    report = pv.check_likelihood(NoEventPixels(mlp((3,), SHAPE)), torch.randn(5, 3))
    assert f"add .to_event({len(SHAPE)})" in str(report)
    assert "add .to_event(2)" not in str(pv.check_prior(NeedlessBatch(2)))


def test_a_mean_that_is_infinite_is_not_checked():
    class Cauchy(BadLikelihood):
        kind = dist.Cauchy

    pv.check_likelihood(Cauchy(mlp((3,), SHAPE)), torch.randn(5, 3)).raise_if_failed()


def test_where_a_tail_is_not_finite_is_said():
    assert "log_prob is nan at (" in str(pv.check_prior(NoTails(2)))


def test_every_line_is_broken_by_a_member():
    broken = set().union(*(failed for _, failed in BAD_PRIORS + BAD_POSTERIORS + BAD_LIKELIHOODS))
    assert broken == {*checks.contract.POSTERIOR, *checks.contract.LIKELIHOOD}


def test_given_data_are_checked():
    likelihood = pv.likelihoods.Bernoulli(mlp((3,), SHAPE))
    report = pv.check_likelihood(likelihood, torch.randn(5, 3), torch.full((5, *SHAPE), 0.5))
    assert "support" in report.failed
    assert "needs x in {0, 1}" in str(report)


# The report, and what a check leaves behind


def test_a_report_can_be_raised_and_printed():
    report = pv.check_prior(NoEvent(2))
    with pytest.raises(ValueError, match="FAIL  shapes"):
        report.raise_if_failed()
    assert "not checked until the failures above are fixed" in str(report)
    assert str(report).startswith("NoEvent: FAILED (2 passed, 1 failed, ")


@pytest.mark.thorough
def test_the_same_seed_gives_the_same_report():
    prior = pv.priors.MixtureOfNormals(2, 3)
    first, second, other = (str(pv.check_prior(prior, seed=seed)) for seed in (1, 1, 2))
    assert first == second != other


@pytest.mark.parametrize(
    ("check", "message"),
    [
        (
            lambda: pv.check_prior(StudentPrior),
            "prior must be an instance of .*priors.Prior; got the class StudentPrior",
        ),
        (lambda: pv.check_posterior(StudentPrior(2), torch.rand(5, 3)), "posterior must be .*; got a StudentPrior"),
        (lambda: pv.check_posterior(diagonal(2), [[1.0]]), "torch.as_tensor"),
        (lambda: pv.check_likelihood(None, torch.rand(5, 3)), "likelihood must be .*; got a NoneType"),
    ],
)
def test_what_is_no_member_is_refused(check, message):
    with pytest.raises(TypeError, match=message):
        check()


def test_nothing_is_left_behind():
    vae = pv.VAE(pv.priors.DiagonalNormal(2), diagonal(2), pv.likelihoods.Bernoulli(mlp((2,), SHAPE)))
    x = torch.rand(5, *SHAPE).round()
    pyro.infer.SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-3}), pyro.infer.Trace_ELBO()).step(x)
    vae.likelihood.eval()
    vae.prior.mean.requires_grad_(False)

    def state():
        flags = [module.training for module in vae.modules()]
        grads = [(p.requires_grad, None if p.grad is None else p.grad.clone()) for p in vae.parameters()]
        values = [p.detach().clone() for p in vae.parameters()]
        store = {name: id(p) for name, p in pyro.get_param_store()._params.items()}
        return flags, grads, values, [p.dtype for p in vae.parameters()], store, torch.get_rng_state()

    before = state()
    pv.check_prior(vae.prior).raise_if_failed()
    pv.check_posterior(vae.posterior, x).raise_if_failed()
    pv.check_likelihood(vae.likelihood, torch.randn(5, 2, generator=torch.Generator())).raise_if_failed()
    after = state()
    assert before[0] == after[0]
    assert before[3:5] == after[3:5]
    for (needs, grad), (needs_now, grad_now) in zip(before[1], after[1], strict=True):
        assert needs == needs_now
        assert (grad is None) == (grad_now is None)
        assert grad is None or grad.equal(grad_now)
    assert all(old.equal(new) for old, new in zip(before[2], after[2], strict=True))
    assert before[5].equal(after[5])


# The command line


USER_FILE = """
import pyro.distributions as dist, torch
import pyro_vae as pv

class Good(pv.priors.Prior):
    def forward(self, y=None):
        return dist.StudentT(5.0, self.loc, self.scale).to_event(1)

class NoEvent(pv.priors.Prior):
    def forward(self, y=None):
        return dist.Normal(self.loc, self.scale)

class Wants(pv.priors.Prior):
    def __init__(self, latent_dim, colour):
        super().__init__(latent_dim)

class Columns(pv.likelihoods.Likelihood):
    def __init__(self, decoder, column_scale, column_mean):
        super().__init__(decoder)
        self.column_scale = column_scale

    def forward(self, z, y=None):
        return dist.Cauchy(self.column_scale.undo(self.decode(z, y)), self.column_scale.spread).to_event(1)

class Levels(pv.likelihoods.Likelihood):
    support = dist.constraints.nonnegative_integer

    def __init__(self, decoder, num_levels):
        super().__init__(decoder)
        self.num_levels = num_levels

    def forward(self, z, y=None):
        return dist.Binomial(self.num_levels - 1, logits=self.decode(z, y)).to_event(1)

number = 3
"""


@pytest.fixture
def user_folder(tmp_path, monkeypatch):
    (tmp_path / "user_members.py").write_text(USER_FILE)
    (tmp_path / "user_broken.py").write_text("import no_such_thing_at_all")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "user_members", raising=False)  # of an earlier folder
    monkeypatch.setattr(own_code, "_files", {})
    return tmp_path


@pytest.mark.parametrize(("name", "code"), thorough(("NoEvent", 8), ("Good", 0), ("Missing", 2)))
def test_exit_codes_of_the_process(name, code, user_folder):
    command = [sys.executable, "-m", "pyro_vae.model.checks", f"user_members.py:{name}"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == code
    assert "Traceback" not in done.stderr
    assert done.stdout.startswith({0: "Good: passed", 8: "NoEvent: FAILED", 2: ""}[code])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([":Good"], "':Good' names no class: write FILE.py:CLASS or MODULE:CLASS"),
        (["user_members"], "'user_members' names no class: write FILE.py:CLASS or MODULE:CLASS"),
        (["user_memberz:Good"], "user_memberz cannot be imported: ModuleNotFoundError"),
        (["user_broken:Good"], "user_broken cannot be imported: ModuleNotFoundError"),
        (["user_members:Gold"], "unknown member of user_members 'Gold'; did you mean 'Good'?"),
        (["user_members.py:Gold"], "unknown member of user_members.py 'Gold'; did you mean 'Good'?"),
        (["no_such.py:Good"], "'no_such.py:Good': there is no file no_such.py"),
        (["user_members:number"], "number of user_members is not a member: derive it from pyro_vae.priors.Prior, "),
        (["pyro_vae.model.priors:Prior"], "Prior of pyro_vae.model.priors is not a member: derive it from"),
        (["user_members:Good", "--args", "{3}"], "--args must be a JSON object"),
        (
            ["user_members:Good", "--args", '{"d": 3}'],
            "takes no argument 'd', nor any of its own: leave --args out",
        ),
        (
            ["user_members:Good", "--args", '{"latent_dim": 5}'],
            "latent_dim of user_members:Good comes from data",
        ),
        (["user_members:Levels"], "Levels needs num_levels, the number of levels of its data: pass --num-levels 256"),
        (["user_members:Wants"], "needs 'colour', which has no default: give it, as in --args '{\"colour\": 1}'"),
        (["pyro_vae.model.priors:ConditionalNormal"], "p(z|y) needs at least one class; got y_dim=0"),
    ],
)
def test_usage_errors_are_one_sentence(arguments, message, user_folder, capsys):
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_sizes_must_be_sizes(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["pyro_vae.model.priors:StandardNormal", "--latent-dim", "0"])
    assert "'0' is not a whole number of 1 or more" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        *thorough(
            ["pyro_vae.model.priors:VampPrior", "--x-shape", "5", "--y-dim", "3"],
            ["pyro_vae.model.priors:ConditionalNormal", "--y-dim", "3", "--latent-dim", "5"],
        ),
        ["pyro_vae.model.posteriors:LowRankNormal", "--seed", "3"],
        ["pyro_vae.model.likelihoods:Poisson", "--x-shape", "2", "3", "--y-dim", "2"],
    ],
)
def test_built_in_members_pass_from_the_command_line(arguments, capsys):
    assert main(arguments) == 0
    assert ": passed" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments", [["user_members:Columns"], *thorough(["user_members.py:Levels", "--num-levels", "5"])]
)
def test_a_member_is_built_from_every_fact_of_a_training(arguments, user_folder, capsys):
    assert main([*arguments, "--x-shape", "3"]) == 0
    assert ": passed" in capsys.readouterr().out


def test_data_of_another_shape_than_the_likelihoods_are_found():
    likelihood = pv.likelihoods.Bernoulli(pv.networks.MLP((2,), (3, 4)))
    z = torch.randn(5, 2)
    pv.check_likelihood(likelihood, z, x=torch.ones(5, 3, 4)).raise_if_failed()
    assert pv.check_likelihood(likelihood, z, x=torch.ones(5, 2, 4)).failed


def test_the_factor_whose_integral_is_furthest_from_1_is_shown():
    class Uneven(dist.Normal):
        def log_prob(self, value):
            return super().log_prob(value) + torch.tensor([0.0, 1.1, 1.0]).to(value).clamp(min=1).log()

    class UnevenPrior(pv.priors.Prior):
        def forward(self, y=None):
            return Uneven(self.loc, self.scale).to_event(1)

    report = pv.check_prior(UnevenPrior(3))
    (integral,) = [finding.detail for finding in report.findings if finding.name == "integral"]
    assert integral.startswith("1.10000 +- ")


def test_a_density_that_its_registered_kl_does_not_know_is_found():
    class Wide(dist.Normal):
        """Twice as wide as torch's KL of a normal takes it to be."""

        def log_prob(self, value):
            return dist.Normal(self.loc, 2 * self.scale).log_prob(value)

        def rsample(self, sample_shape=()):
            return dist.Normal(self.loc, 2 * self.scale).rsample(sample_shape)

        def sample(self, sample_shape=()):
            return self.rsample(sample_shape).detach()

    class WidePrior(pv.priors.Prior):
        def forward(self, y=None):
            return Wide(self.loc, self.scale).to_event(1)

    assert pv.check_prior(WidePrior(3)).failed == ("analytic KL",)


def test_a_network_of_a_single_weight_passes():
    pv.check_likelihood(pv.likelihoods.Normal(nn.Linear(1, 1)), torch.randn(5, 1)).raise_if_failed()


def test_of_a_discrete_density_off_by_a_factor_the_draws_are_not_at_fault():
    class Off(dist.Bernoulli):
        def log_prob(self, value):
            return super().log_prob(value) + 0.5

    class OffLikelihood(pv.likelihoods.Likelihood):
        support = constraints.boolean

        def forward(self, z, y=None):
            return Off(logits=self.decode(z, y)).to_event(1)

    report = pv.check_likelihood(OffLikelihood(pv.networks.MLP((2,), (3,))), torch.randn(5, 2))
    assert report.failed == ("integral",)
