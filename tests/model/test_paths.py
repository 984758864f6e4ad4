"""Paths between codes, against closed forms; through a flow, against its own base."""

import math

import pyro.distributions as dist
import pytest
import torch
from densities import perturbed
from exact import binary_data, small_vae
from torch.distributions.transforms import AffineTransform, ExpTransform, TanhTransform

import pyro_vae as pv
from pyro_vae.errors import UsageError
from pyro_vae.model import paths

DOUBLE = torch.float64


def ends(size, dims, seed=0):
    noise = torch.Generator().manual_seed(seed)
    return torch.randn(2, size, dims, generator=noise, dtype=DOUBLE)


def slow_slerp(a, b, t):
    """Shoemake's formula for unit vectors, in plain Python."""
    angle = math.acos(sum(x * y for x, y in zip(a, b, strict=True)))
    left, right = math.sin((1 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle)
    return [left * x + right * y for x, y in zip(a, b, strict=True)]


def test_the_spherical_path_of_unit_vectors_is_shoemakes():
    a, b = torch.nn.functional.normalize(ends(4, 5), dim=-1)
    points = paths.spherical(a, b, steps=7)
    expected = [[slow_slerp(*pair, i / 6) for pair in zip(a.tolist(), b.tolist(), strict=True)] for i in range(7)]
    assert torch.allclose(points, torch.tensor(expected, dtype=DOUBLE), rtol=0, atol=1e-13)
    angle = (points[:-1] * points[1:]).sum(-1).acos()
    assert torch.allclose(angle, angle[:1].expand_as(angle), rtol=0, atol=1e-7)
    assert torch.allclose(points.norm(dim=-1), torch.ones(7, 4, dtype=DOUBLE), rtol=0, atol=1e-14)


def test_the_norm_goes_linearly_and_the_ends_are_kept():
    a, b = ends(6, 20) * torch.tensor([[[0.5]], [[3.0]]], dtype=DOUBLE)
    points = paths.spherical(a, b, steps=5)
    norms = torch.stack([(1 - t) * a.norm(dim=-1) + t * b.norm(dim=-1) for t in (0, 0.25, 0.5, 0.75, 1)])
    assert torch.allclose(points.norm(dim=-1), norms, rtol=0, atol=1e-13)
    assert torch.allclose(points[[0, -1]], torch.stack([a, b]), rtol=0, atol=1e-13)
    assert (points[2].norm(dim=-1) > paths.straight(a, b, 5)[2].norm(dim=-1)).all()


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
@pytest.mark.parametrize("factor", [2.0, 1.0, 0.0, -1.0, -3.0])
def test_without_a_circle_between_the_ends_the_line_is_straight(factor, dtype):
    a = torch.tensor([[1.0, -2.0, 0.5], [0.0, 3.0, 1.0]], dtype=dtype)
    for start, end in ((a, factor * a), (factor * a, a)):
        assert torch.equal(paths.spherical(start, end, 5), paths.straight(start, end, 5))


@pytest.mark.parametrize("angle", [1e-1, 1e-2, 1e-3, 1e-4, math.pi - 1e-2, math.pi - 3e-3])
def test_small_and_large_angles_keep_their_digits_in_single_precision(angle):
    exact = torch.tensor([[[2.0, 0.0]], [[2 * math.cos(angle), 2 * math.sin(angle)]]], dtype=DOUBLE)
    points = paths.spherical(*exact.float(), steps=9)
    assert torch.allclose(points.double(), paths.spherical(*exact, steps=9), rtol=0, atol=4e-4)
    assert torch.allclose(points[[0, -1]].double(), exact, rtol=0, atol=1e-3)


@pytest.mark.parametrize("kind", ["spline", "autoregressive"])
@pytest.mark.parametrize("between", [paths.spherical, paths.straight])
def test_through_the_base_of_a_flow_the_ends_stay_and_the_norm_is_the_bases(kind, between):
    prior = perturbed(pv.priors.FlowPrior(4, flow=kind, flow_transforms=2, flow_hidden=(8,)))()
    a, b = ends(3, 4)
    with torch.no_grad():
        points = paths.through_base(a, b, 7, prior, between)
        base = prior.dist.transform(points)
        expected = between(prior.dist.transform(a), prior.dist.transform(b), 7)
    assert torch.allclose(points[[0, -1]], torch.stack([a, b]), rtol=0, atol=1e-5)
    assert torch.allclose(base, expected, rtol=0, atol=1e-5)
    assert (points - between(a, b, 7)).abs().max() > 0.01  # the flow is none that changes nothing
    norms = base.norm(dim=-1)
    if between is paths.spherical:
        assert torch.allclose(norms, torch.lerp(norms[:1], norms[-1:], torch.linspace(0, 1, 7).double()[:, None]))


def test_through_the_base_of_transforms_in_their_order():
    base = dist.Normal(torch.zeros(2, dtype=DOUBLE), 1.0)
    prior = dist.TransformedDistribution(base, [AffineTransform(1.0, 2.0), ExpTransform()]).to_event(1)
    a, b = ends(3, 2).exp()
    points = paths.through_base(a, b, 3, prior, paths.straight)
    assert torch.allclose(points[1], (a * b).sqrt(), rtol=1e-12)  # exp(1 + 2 u) is geometric in the middle
    assert torch.allclose(points[[0, -1]], torch.stack([a, b]), rtol=1e-12)
    circle = paths.through_base(a, b, 3, prior)[1]
    u = [((z.log() - 1) / 2) for z in (a, b)]
    assert torch.allclose(circle, (1 + 2 * paths.spherical(*u, 3)[1]).exp(), rtol=1e-12)
    squashed = dist.TransformedDistribution(base, [TanhTransform()]).to_event(1)
    assert paths.base_maps(squashed) is not None


def test_unknown_paths_and_priors_without_a_base_are_said_in_a_sentence():
    a, b = ends(3, 4)
    with pytest.raises(UsageError, match=r"unknown path 'sphere'; did you mean 'spherical'\? \(straight, spherical, b"):
        paths.path("sphere", a, b, 5)
    with pytest.raises(UsageError, match=r"base of a flow prior; here p.z. is a Normal. Use 'spherical'"):
        paths.path("base", a, b, 5, pv.priors.StandardNormal(4)())
    with pytest.raises(UsageError, match="there is none over these latents"):
        paths.path("base", a, b, 5)
    for kind in ("straight", "spherical"):
        with pytest.raises(ValueError, match="steps must be 2 or more; got 1"):
            paths.path(kind, a, b, 1)


class TestInAVAE:
    def test_the_path_is_chosen_by_its_name(self):
        vae = small_vae(prior=pv.priors.FlowPrior(3, flow_hidden=(8,)))
        perturbed(vae.prior)
        x = binary_data(4)
        start, end = vae.posterior(x[:2]).mean, vae.posterior(x[2:]).mean
        made = {
            "straight": paths.straight(start, end, 5),
            "spherical": paths.spherical(start, end, 5),
            "base": paths.through_base(start, end, 5, vae.prior()),
        }
        assert set(made) == set(paths.PATHS)
        for kind, z in made.items():
            assert torch.allclose(vae.latent_path(x[:2], x[2:], 5, path=kind), z, rtol=0, atol=1e-12)
            shown = vae.interpolate(x[:2], x[2:], 5, path=kind)
            assert torch.allclose(shown, vae.likelihood(z).mean, rtol=0, atol=1e-12)
            assert not shown.requires_grad
        assert torch.equal(vae.interpolate(x[:2], x[2:]), vae.interpolate(x[:2], x[2:], path="straight"))
        assert (made["base"] - made["spherical"]).abs().max() > 1e-3

    def test_what_it_can_not_walk_is_refused(self):
        vae, x = small_vae(), binary_data(2)
        with pytest.raises(UsageError, match="did you mean 'straight'"):
            vae.interpolate(x[:1], x[1:], path="strait")
        with pytest.raises(UsageError, match=r"the base of a flow prior; here p.z. is a Normal"):
            vae.interpolate(x[:1], x[1:], path="base")
        with pytest.raises(ValueError, match="needs labels y of the starts"):
            vae.interpolate(x[:1], x[1:], y_end=torch.eye(3)[:1].double())
