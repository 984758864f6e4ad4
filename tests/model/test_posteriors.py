"""Posteriors against scipy and Jacobians, and by their contract: one table with a case for each member."""

import copy
import math

import numpy as np
import pytest
import torch
from densities import check_sampler, members, moments, one_after_another, perturbed, posterior_log_prob
from torch import nn

import pyro_vae as pv

D, C, SHAPE, FLOOR = 3, 2, (1, 2, 4), 1e-3


class Case:
    """A posterior with an encoder that fits, and the numbers that it must ask of it for D = 3."""

    def __init__(self, kind, numbers, floor=FLOOR, encoder_options=None, **options):
        self.kind, self.numbers = getattr(pv.posteriors, kind), numbers
        self.encoder_options = encoder_options or {}
        self.options = {**self.encoder_options, **options, **({} if floor is None else {"floor": floor})}

    def build(self, latent_dim=D, y_dim=0):
        shape = self.kind.encoder_shape(latent_dim, **self.encoder_options)
        encoder = pv.networks.MLP(SHAPE, shape, hidden=(5,), activation=nn.Tanh, y_dim=y_dim)
        return perturbed(self.kind(encoder, latent_dim, **self.options))

    def over(self, row):
        """The posterior for every datum of which the encoder returns this row."""
        member = self.kind(lambda x: row.expand(len(x), -1), D, **self.options)
        return member.to(row.dtype)


GAUSSIANS = {
    "DiagonalNormal, log sigma": Case("DiagonalNormal", 6),
    "DiagonalNormal, log variance": Case("DiagonalNormal", 6, encoder_predicts="log_variance"),
    "FullNormal": Case("FullNormal", 9),
    "LowRankNormal of rank 1": Case("LowRankNormal", 9, encoder_options={"rank": 1}),
    "LowRankNormal": Case("LowRankNormal", 12),
}
CASES = {
    **GAUSSIANS,
    "FlowPosterior": Case("FlowPosterior", 9, flow_transforms=3, flow_hidden=(6,)),
    "Delta": Case("Delta", 3, floor=None),
}
DENSE = {name: case for name, case in CASES.items() if name != "Delta"}


def over(cases):
    return pytest.mark.parametrize("case", cases.values(), ids=cases)


def data(size=4):
    return torch.rand(size, *SHAPE, dtype=torch.float64)


def labels(*shape):
    return torch.eye(C, dtype=torch.float64)[torch.randint(C, shape)]


def test_every_member_has_a_case():
    assert members(pv.posteriors, pv.posteriors.Posterior) == {case.kind.__name__ for case in CASES.values()}


@over(CASES)
def test_it_asks_for_as_many_numbers_as_it_reads(case):
    assert case.kind.encoder_shape(D, **case.encoder_options) == (case.numbers,)
    x = data()
    for wrong in (case.numbers - 1, case.numbers + 1):
        member = case.kind(lambda x, wrong=wrong: x.new_zeros(len(x), wrong), D, **case.options)
        message = rf"{case.kind.__name__}\(latent_dim=3\) needs .* \(B, {case.numbers}\); got \(4, {wrong}\)"
        with pytest.raises(ValueError, match=message):
            member(x)
    with pytest.raises(ValueError, match=r"A single datum needs a batch dimension, x\[None\]"):
        case.build()(x[0])


@over(CASES)
def test_shapes_with_and_without_labels(case):
    x, member = data(), case.build()
    assert (member(x).batch_shape, member(x).event_shape, member(x).has_rsample) == ((4,), (D,), True)
    member = case.build(y_dim=C)
    for y, lead in ((labels(4), (4,)), (labels(6, 4), (6, 4)), (labels(6, 1), (6, 4))):
        q = member(x, y)
        assert (q.batch_shape, q.event_shape) == (lead, (D,))
        z = q.rsample((2,))
        assert z.shape == (2, *lead, D)
        assert q.log_prob(z).shape == (2, *lead)
        assert member.centre(x, y).shape == (*lead, D)


@over(CASES)
def test_labels_of_every_draw_are_its_own(case):
    member, x, y = case.build(y_dim=C), data(), labels(6, 4)
    whole = member.centre(x, y)
    for k in range(6):
        assert torch.allclose(whole[k], member.centre(x, y[k]), rtol=1e-12)
    assert not torch.allclose(member.centre(x, y), member.centre(x, 1 - y))


@over(CASES)
def test_plates_expand_it(case):
    q = case.build()(data())
    wide = q.expand((6, 4))
    assert (wide.batch_shape, wide.event_shape) == ((6, 4), (D,))
    z = wide.rsample()
    assert z.shape == (6, 4, D)
    assert torch.allclose(wide.log_prob(z), q.log_prob(z.clone()), rtol=1e-9)
    assert len(z.flatten(0, 1).unique(dim=0)) == (4 if case.kind is pv.posteriors.Delta else 24)


@over(DENSE)
def test_density_equals_the_slow_reference_at_its_own_and_at_foreign_points(case):
    member, x = case.build(), data()
    q, output = member(x), member.encoder(x).detach()
    own = q.rsample((5,))
    foreign = 1.5 * torch.randn(5, 4, D, dtype=torch.float64)
    for z in (own, own.detach().clone(), foreign):
        found = q.log_prob(z).detach().numpy()
        for b in range(4):
            expected = posterior_log_prob(member, output[b], z[:, b].detach())
            np.testing.assert_allclose(found[:, b], expected, rtol=1e-8, atol=1e-8)


@over(GAUSSIANS)
def test_mean_and_covariance_are_those_of_the_docstring(case):
    member, x = case.build(), data()
    q, output = member(x), member.encoder(x).detach()
    for b in range(4):
        loc, covariance = moments(member, output[b].numpy())
        np.testing.assert_allclose(q.mean[b].detach().numpy(), loc, rtol=1e-12)
        np.testing.assert_allclose(member.centre(x)[b].detach().numpy(), loc, rtol=1e-12)
        np.testing.assert_allclose(q.variance[b].detach().numpy(), covariance.diagonal(), rtol=1e-12)


@over(DENSE)
def test_draws_have_the_density(case):
    q = case.build(latent_dim=2)(data(1))
    check_sampler(_First(q))


class _First:
    """The distribution of the only datum, with batch shape ()."""

    def __init__(self, q):
        self.q = q

    def log_prob(self, z):
        return self.q.log_prob(z[:, None])[:, 0]

    def sample(self, shape):
        return self.q.sample(shape)[:, 0]


@over(CASES)
def test_a_draw_moves_every_parameter(case):
    member = case.build()
    weights = torch.randn(7, 4, D, dtype=torch.float64)
    (member(data()).rsample((7,)) * weights).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in member.parameters())


@over(CASES)
def test_gradients_through_draws_are_those_of_the_same_noise(case):
    member, x = case.build(), data()
    bias = member.encoder.output_bias
    weights = torch.randn(7, 4, D, dtype=torch.float64)

    def value():
        torch.manual_seed(3)
        z = member(x).rsample((7,))
        return (z * weights + z.square()).sum()

    value().backward()
    for i in range(len(bias)):
        ends = []
        for step in (1e-6, -1e-6):
            with torch.no_grad():
                bias[i] += step
                ends.append(value().item())
                bias[i] -= step
        assert math.isclose((ends[0] - ends[1]) / 2e-6, bias.grad[i].item(), rel_tol=1e-5, abs_tol=1e-6)


@over(CASES)
def test_it_moves_and_copies(case):
    member, x = case.build(), data()
    twin = copy.deepcopy(member)
    assert torch.equal(twin.centre(x), member.centre(x))
    assert member.float()(x.float()).sample().dtype == torch.float32
    assert twin(x).sample().dtype == torch.float64


@pytest.mark.parametrize("floor", [1e-3, 0.5])
@over(DENSE)
def test_no_sigma_is_below_the_floor(case, floor):
    row = torch.full((case.numbers,), -1e4, dtype=torch.float64)
    q = Case(case.kind.__name__, case.numbers, floor, case.encoder_options).over(row)(data())
    smallest = {
        "DiagonalNormal": lambda: q.base_dist.scale,
        "FullNormal": lambda: q.scale_tril.diagonal(dim1=-2, dim2=-1),
        "LowRankNormal": lambda: q.cov_diag.sqrt(),
        "FlowPosterior": lambda: q.dist.base.base_dist.scale,
    }[case.kind.__name__]()
    assert torch.allclose(smallest, torch.tensor(floor, dtype=torch.float64), rtol=1e-12)


def test_diagonal_normal_reads_location_and_log_sigma_or_log_variance():
    row = torch.tensor([1.0, 2.0, 3.0, 0.2, 0.4, 0.6])
    for predicts, half in (("log_sigma", 1.0), ("log_variance", 0.5)):
        q = pv.posteriors.DiagonalNormal(lambda x: row.expand(len(x), -1), D, FLOOR, predicts)(data()).base_dist
        assert torch.equal(q.loc[2], row[:3])
        assert torch.allclose(q.scale[2], FLOOR + (half * row[3:]).exp())


def test_full_normal_reads_its_triangle_row_by_row():
    row = torch.tensor([1.0, 2.0, 3.0, 0.0, 0.0, 0.0, 21.0, 31.0, 32.0])
    root = CASES["FullNormal"].over(row)(data()).scale_tril[1]
    one = 1 + FLOOR
    assert torch.allclose(root, torch.tensor([[one, 0.0, 0.0], [21.0, one, 0.0], [31.0, 32.0, one]]))


def test_low_rank_normal_reads_its_factor_row_by_row():
    row = torch.tensor([1.0, 2.0, 3.0, 0.0, 0.0, 0.0, 11.0, 12.0, 21.0, 22.0, 31.0, 32.0])
    q = CASES["LowRankNormal"].over(row)(data())
    assert torch.equal(q.cov_factor[1], torch.tensor([[11.0, 12.0], [21.0, 22.0], [31.0, 32.0]]))


def test_the_centre_of_a_flow_is_where_it_takes_the_mean_of_its_base():
    member, x = CASES["FlowPosterior"].build(), data()
    loc, _, context = member.encoder(x).chunk(3, -1)
    expected = one_after_another(member.transform.transform.transforms, context)(loc)
    assert torch.allclose(member.centre(x), expected, rtol=1e-12)


def test_the_context_of_a_flow_reaches_it():
    member, x, z = CASES["FlowPosterior"].build(), data(), torch.randn(4, D, dtype=torch.float64)
    before = member(x).log_prob(z)
    with torch.no_grad():
        member.encoder.output_bias[2 * D :] += 1.0
    assert not torch.allclose(member(x).log_prob(z), before)


def test_delta_is_the_encoders_output():
    member, x = CASES["Delta"].build(), data()
    assert torch.equal(member(x).rsample((7,)), member.encoder(x).expand(7, 4, D))
    assert torch.equal(member.centre(x), member.encoder(x))


def test_a_delta_has_no_log_p_of_x_and_can_not_be_mixed():
    delta = CASES["Delta"].build()
    likelihood = pv.likelihoods.Bernoulli(pv.networks.MLP((D,), SHAPE).double())
    vae = pv.VAE(pv.priors.StandardNormal(D).double(), delta, likelihood)
    with pytest.raises(ValueError, match="Delta"):
        pv.evaluation.iwae(vae, data().round(), num_samples=2, seed=0)
    with pytest.raises(ValueError, match="Delta posterior has no density"):
        pv.priors.VampPrior(delta, SHAPE)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        *((lambda c=c: c.kind(nn.Identity(), D, floor=0.0), "floor .* above 0; got 0.0") for c in DENSE.values()),
        (lambda: pv.posteriors.DiagonalNormal(nn.Identity(), D, floor=math.nan), "floor .* above 0; got nan"),
        (
            lambda: pv.posteriors.DiagonalNormal(nn.Identity(), D, encoder_predicts="sigma"),
            "unknown encoder_predicts 'sigma'; did you mean 'log_sigma'",
        ),
        (
            lambda: pv.posteriors.LowRankNormal(nn.Identity(), D, rank=0),
            "rank must be 1 or more; got 0. .*posterior='diagonal'",
        ),
        (lambda: pv.posteriors.FlowPosterior(nn.Identity(), D, flow_transforms=0), "flow_transforms=0"),
    ],
)
def test_impossible_posteriors_are_refused_by_name_and_value(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_a_posterior_of_ones_own_needs_encoder_shape_only_for_encode():
    class Own(pv.posteriors.Posterior):
        def forward(self, x, y=None):
            return torch.distributions.Normal(self.encoder(x), 1.0)

    member = Own(nn.Identity(), D)
    assert member(data()).mean.shape == (4, *SHAPE)
    with pytest.raises(NotImplementedError, match=r"encoder_shape\(\)"):
        member.encode(data())
    with pytest.raises(NotImplementedError, match=r"Posterior has no forward"):
        pv.posteriors.Posterior(nn.Identity(), D)(data())
