"""A VAE inside a larger model: subsampled plates, two programs, outer programs, and what is refused."""

import copy
import itertools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from cases import thorough
from exact import ProbabilisticPCA, binary_data, small_vae
from halves import MLP, SHAPE, C, D, bernoulli, diagonal, latents, two_layers, under
from pyro import poutine
from pyro.contrib.autoname import scope
from pyro.infer import Predictive, Trace_ELBO, TraceMeanField_ELBO
from torch import nn

import pyro_vae as pv
from pyro_vae.errors import UsageError
from pyro_vae.model.traces import holding

# Subsampled plates


def test_the_losses_of_all_subsamples_have_the_loss_of_all_data_as_their_mean():
    vae, x = small_vae(), binary_data(6)
    z = latents(vae, x, None)["z"]

    def loss(index):
        def program(half):
            with pyro.plate("data", len(x), subsample=index, dim=-1) as drawn:
                half(x[drawn])

        guide = poutine.replay(lambda: program(vae.recognition), trace=holding({"z": z[index]}))
        return Trace_ELBO().loss(lambda: program(vae.generative), guide)

    each = [loss(torch.tensor(index)) for index in itertools.combinations(range(6), 2)]
    assert len(set(each)) == 15
    assert sum(each) / 15 == pytest.approx(loss(torch.arange(6)), rel=1e-12)
    whole = poutine.replay(vae.guide, trace=holding({"z": z}))
    assert loss(torch.arange(6)) == pytest.approx(Trace_ELBO().loss(vae.model, whole, x), rel=1e-12)


def test_both_halves_see_one_subsample():
    vae, x = small_vae(), binary_data(50)
    seen = []

    def program(half):
        with pyro.plate("data", len(x), subsample_size=4) as index:
            seen.append(index)
            return half(x[index])

    Trace_ELBO().loss(lambda: program(vae.generative), lambda: program(vae.recognition))
    assert torch.equal(*seen)
    assert seen[0].shape == (4,)


# The halves are the program


@pytest.mark.parametrize("options", [{}, {"num_particles": 3, "vectorize_particles": True}], ids=["", "particles"])
@pytest.mark.parametrize("loss", [Trace_ELBO, TraceMeanField_ELBO])
def test_under_a_plate_of_all_data_the_halves_are_the_program(loss, options):
    vae, x = small_vae(), binary_data(9)
    halves = [under([("data", 9)], half, x) for half in (vae.generative, vae.recognition)]
    losses = []
    for model, guide in (halves, [lambda: vae.model(x), lambda: vae.guide(x)]):
        torch.manual_seed(5)
        losses.append(loss(**options, max_plate_nesting=1).loss(model, guide))
    assert losses[0] == losses[1]


@pytest.mark.parametrize("guide", ["top_down", "bottom_up"])
def test_two_layers_have_sites_of_their_names_under_one_plate(guide):
    program, x = two_layers(guide).double(), binary_data(4, SHAPE)
    y = torch.eye(C).double()[[0, 1, 2, 0]]
    z1, z2 = under([("data", 4)], program.recognition, x, y)()
    assert (z1.shape, z2.shape) == ((4, D), (4, 2))
    sites = poutine.trace(under([("data", 4)], program.generative, x, y)).get_trace()
    assert [name for name in sites.nodes if name in ("z2", "z1", "x")] == ["z2", "z1", "x"]


def test_without_data_there_is_a_datum_for_each_place_of_the_plates():
    vae = small_vae()
    assert vae.generative().shape == (6,)
    assert vae.recognition(vae.generative()).shape == (3,)
    x = under([("data", 5), ("sets", 2)], vae.generative)()
    assert x.shape == (2, 5, 6)
    assert len(x.flatten(0, 1).unique(dim=0)) > 1
    drawn = Predictive(under([("data", 5)], vae.generative), num_samples=7, parallel=True)()
    assert {name: value.shape for name, value in drawn.items()} == {"z": (7, 5, 3), "x": (7, 5, 6)}
    labelled = pv.VAE(pv.priors.ConditionalNormal(D, C), diagonal(), bernoulli()).double()
    y = torch.eye(C).double()[[0, 1, 2, 0]]
    assert under([("data", 4), ("sets", 2)], labelled.generative, None, y)().shape == (2, 4, *SHAPE)


# Names


def named(name=None):
    torch.manual_seed(3)
    posterior = pv.posteriors.DiagonalNormal(MLP((6,), (4,), (5,)), 2)
    return pv.VAE(
        pv.priors.DiagonalNormal(2), posterior, pv.likelihoods.Bernoulli(MLP((2,), (6,), (5,))), name=name
    ).double()


def both(*programs):
    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            for program in programs:
                program.generative(x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            for program in programs:
                program.recognition(x)

    return model, guide


def test_two_programs_in_one_model_have_the_sites_and_the_parameters_of_their_names():
    left, right = named("left"), named("right")
    x = binary_data(5)
    model, guide = both(left, right)
    sites = poutine.trace(model).get_trace(x).nodes
    assert [name for name in sites if name.partition("/")[0] in ("left", "right")] == [
        "left/z", "left/x", "right/z", "right/x",
    ]  # fmt: skip
    svi = pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO())
    before = copy.deepcopy([p for program in (left, right) for p in program.parameters()])
    svi.step(x)
    after = [p for program in (left, right) for p in program.parameters()]
    assert not any(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert {name.split(".")[0] for name in pyro.get_param_store()} == {"pyro_vae:left", "pyro_vae:right"}
    assert [name for name in poutine.trace(left.model).get_trace(x).nodes if name in ("z", "x")] == ["z", "x"]
    assert (left.site("z"), copy.deepcopy(left).site("z")) == ("left/z", "z")


def refused(program, match, error=UsageError):
    with pytest.raises(error, match=match):
        program()


def test_programs_without_a_name_collide_and_a_name_or_a_scope_is_the_cure():
    x, told = (
        binary_data(5),
        r"Multiple sample sites named '{}' in one model: give each program a name, `name=\"left\"`",
    )
    one, other = named(), named()
    model, guide = both(one, other)
    refused(lambda: poutine.trace(model).get_trace(x), told.format("z"))
    refused(lambda: poutine.trace(guide).get_trace(x), told.format("z"))
    refused(lambda: poutine.trace(lambda: (one.model(x), other.model(x))).get_trace(), told.format("data"))

    def scoped(half, other_half):
        with pyro.plate("data", len(x), dim=-1):
            half(x)
            scope(other_half, prefix="other")(x)

    loss = Trace_ELBO().loss(
        lambda: scoped(one.generative, other.generative), lambda: scoped(one.recognition, other.recognition)
    )
    assert math.isfinite(loss)


# Parameters, and evaluation, inside of an outer program


class Outer:
    """A VAE, and for each datum a local latent u of its own, which a second observation w sees: both exact."""

    def __init__(self, vae):
        super().__init__()
        self.vae = vae
        self.mean, self.gain = (nn.Parameter(torch.tensor(value).double()) for value in (0.3, 0.5))

    def listed(self):
        """How the parameters reach Pyro's store."""

    def model(self, x, y=None):
        self.listed()
        with pyro.plate("data", len(x), dim=-1):
            u = pyro.sample("u", dist.Normal(self.mean, 1.0))
            pyro.sample("w", dist.Normal(u, 1.0), obs=x.sum(-1))
            return self.vae.generative(x)

    def guide(self, x, y=None):
        self.listed()
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("u", dist.Normal(self.gain * (x.sum(-1) + self.mean), math.sqrt(0.5)))
            return self.vae.recognition(x)


class OuterProgram(Outer, pv.Program):
    def listed(self):
        self.list_parameters()


class Plain(Outer, nn.Module):
    """Stock Pyro's own way, which names the tensors of the VAE a second time."""

    def listed(self):
        pyro.module("outer", self)


class ByParam(Outer, nn.Module):
    """It names its own two alone."""

    def listed(self):
        pyro.param("mean", self.mean)
        pyro.param("gain", self.gain)


def by_pyro(outer):
    return pyro.infer.SVI(outer.model, outer.guide, pyro.optim.SGD({"lr": 1e-2, "momentum": 0.9}), Trace_ELBO())


def by_us(outer, how):
    optimizer = torch.optim.SGD(outer.parameters(), lr=1e-2, momentum=0.9)
    return pv.inference.SVI(outer.model, outer.guide, optimizer, Trace_ELBO(), compile=how)


def by_hand(outer, x):
    """Three steps of the sum of the two parts' losses, without a store."""
    optimizer = torch.optim.SGD(outer.parameters(), lr=1e-2, momentum=0.9)
    for _ in range(3):
        optimizer.zero_grad()
        drawn = poutine.trace(outer.guide).get_trace(x)
        joint = poutine.trace(poutine.replay(outer.model, trace=drawn)).get_trace(x)
        (drawn.log_prob_sum() - joint.log_prob_sum()).backward()
        optimizer.step()


ORDINARY = [(OuterProgram, "pyro"), (Plain, "pyro"), (Plain, True), (ByParam, "auto")]
ALL = list(itertools.product([OuterProgram, Plain, ByParam], ["pyro", False, "auto", True]))


@pytest.mark.parametrize(("kind", "how"), ORDINARY + thorough(*(case for case in ALL if case not in ORDINARY)))
def test_inside_of_an_outer_program_each_parameter_trains_once(kind, how, traced_only):
    x = binary_data(8)
    outer = kind(named())
    reference = kind(named())
    torch.manual_seed(5)
    by_hand(reference, x)
    pyro.clear_param_store()
    torch.manual_seed(5)
    svi = by_pyro(outer) if how == "pyro" else by_us(outer, how)
    for _ in range(3):
        svi.step(x)
    start = dict(kind(named()).named_parameters())
    trained, expected = dict(outer.named_parameters()), dict(reference.named_parameters())
    for name, parameter in trained.items():
        assert not torch.equal(parameter, start[name]), name
        torch.testing.assert_close(parameter, expected[name], rtol=1e-12, atol=1e-12)


def test_an_outer_program_is_evaluated_for_each_datum():
    """log p(w, x) = log N(w; mean, 2) + log p(x), both in closed form: any draw of exact guides weighs that."""
    truth = ProbabilisticPCA()
    outer, x = OuterProgram(truth.vae()), truth.data(6)
    u_mean = outer.mean.detach()
    exact = truth.log_evidence(x) + dist.Normal(u_mean, math.sqrt(2.0)).log_prob(x.sum(-1))
    torch.testing.assert_close(pv.evaluation.iwae(outer, x, 3, seed=0).value, exact, rtol=1e-10, atol=1e-10)
    elbo = pv.evaluation.elbo(outer, x, 1000, seed=0)  # of which the KL of u is analytic, so that it has noise
    assert abs(elbo.mean - exact.mean().item()) < 4 * elbo.monte_carlo_error
    weights = pv.evaluation.log_weights(outer, x, 3, seed=0)
    torch.testing.assert_close(weights, exact.expand(3, 6), rtol=1e-10, atol=1e-10)


class Pair(pv.Program):
    def __init__(self):
        super().__init__()
        self.left, self.right = named("left"), named("right")

    def model(self, x, y=None):
        self.list_parameters()
        both(self.left, self.right)[0](x)

    def guide(self, x, y=None):
        self.list_parameters()
        both(self.left, self.right)[1](x)


def test_evaluations_know_the_sites_of_two_programs_by_their_names(tmp_path):
    """xarray and NetCDF take "/" for a path."""
    pair, x = Pair(), binary_data(5)
    assert pv.evaluation.elbo(pair, x, 3, seed=0).kind == {"left/z": "analytic", "right/z": "analytic"}
    whole = pv.evaluation.iwae(pair, x, 500, seed=0)
    parts = [pv.evaluation.iwae(program, x, 500, seed=0) for program in (pair.left, pair.right)]
    error = math.sqrt(sum(part.monte_carlo_error**2 for part in (whole, *parts)))
    assert abs(whole.mean - sum(part.mean for part in parts)) < 4 * error
    drawn = pv.evaluation.to_inference_data(pair, x, 7, seed=0)
    drawn.to_netcdf(str(tmp_path / "drawn.nc"))
    assert {"left.z", "right.z"} <= set(drawn.posterior.data_vars)


def test_each_half_lists_its_own_parameters():
    """With the guide's blocked, the decoder trains alone."""
    vae, x = named(), binary_data(5)
    model, guide = both(vae)
    before = copy.deepcopy(dict(vae.named_parameters()))
    optimizer = pyro.optim.SGD({"lr": 0.1})
    pyro.infer.SVI(model, poutine.block(guide, hide_types=["param"]), optimizer, Trace_ELBO()).step(x)
    trained = {name.split(".")[0] for name, p in vae.named_parameters() if not torch.equal(p, before[name])}
    assert trained == {"prior", "likelihood"}
