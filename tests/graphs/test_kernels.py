"""Products by oneDNN are the products, in float32 alone, and only where they are large; functions are exact to two
units in the last place."""

import math
from functools import partial

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from pyro_vae.graphs import kernels
from pyro_vae.graphs.kernels import by_onednn, decompositions, sigmoid

needs_onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch without oneDNN")


def targets(module):
    return [node.target for node in module.graph.nodes if node.op == "call_function"]


@pytest.fixture
def any_size(monkeypatch):
    monkeypatch.setattr(kernels, "_FEWEST", 0)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")


def draw(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape)))


@needs_onednn
@pytest.mark.parametrize(
    "product",
    [
        lambda a, b: a @ b,
        lambda a, b: b.t() @ a.t(),
        lambda a, b: (a.t() @ a) @ b,
        lambda a, b: torch.addmm(a.sum() * torch.arange(5, dtype=a.dtype), a, b),
        lambda a, b: a[::2] @ b[:, ::2],
    ],
)
def test_products(product, any_size):
    a, b = draw(7, 3), draw(3, 5)
    module = by_onednn(make_fx(product)(a, b))
    assert torch.ops.pyro_vae.linear.default in targets(module)
    assert not {torch.ops.aten.mm.default, torch.ops.aten.addmm.default} & set(targets(module))
    torch.testing.assert_close(module(a, b).double(), product(a.double(), b.double()).double(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "inputs",
    [(draw(7, 3).double(), draw(3, 5).double()), (draw(7, 3).bfloat16(), draw(3, 5).bfloat16())],
    ids=["float64", "bfloat16"],
)
def test_other_types_are_left_alone(inputs, any_size):
    module = make_fx(lambda a, b: a @ b)(*inputs)
    assert targets(by_onednn(module)) == [torch.ops.aten.mm.default]


def test_a_bias_that_is_a_matrix_and_scaled_sums_are_left_alone(any_size):
    a, b = draw(7, 3), draw(3, 5)
    matrix = make_fx(lambda a, b: torch.addmm(torch.ones(7, 5), a, b))(a, b)
    scaled = make_fx(lambda a, b: torch.addmm(torch.ones(5), a, b, beta=0.5))(a, b)
    for module in (matrix, scaled):
        assert torch.ops.pyro_vae.linear.default not in targets(by_onednn(module))


def test_small_products_are_left_alone(monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    a, b = draw(7, 3), draw(3, 5)
    assert targets(by_onednn(make_fx(lambda a, b: a @ b)(a, b))) == [torch.ops.aten.mm.default]


@needs_onednn
def test_gradients_of_weights_are_left_alone_with_vectors_of_256_bits(any_size, monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    a, b = draw(7, 3), draw(7, 5)
    of_weight, forward = (by_onednn(make_fx(f)(a, b)) for f in (lambda a, b: a.t() @ b, lambda a, b: b @ b.t()))
    assert torch.ops.pyro_vae.linear.default not in targets(of_weight)
    assert torch.ops.pyro_vae.linear.default in targets(forward)


@needs_onednn
@pytest.mark.parametrize(("product", "copies"), [(lambda a, b: a.t() @ b, 1), (lambda a, b: a @ b.t(), 0)])
def test_the_compiler_copies_a_left_factor_that_onednn_would_copy(product, copies, any_size):
    a, b = draw(7, 5), draw(7, 5)
    found = by_onednn(make_fx(product)(a, b))
    assert targets(found).count(torch.ops.aten.clone.default) == copies
    torch.testing.assert_close(found(a, b), product(a, b), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("capability", ["DEFAULT", "SVE256"])
def test_other_processors_are_left_alone(capability, any_size, monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    a, b = draw(7, 3), draw(3, 5)
    assert targets(by_onednn(make_fx(lambda a, b: a @ b)(a, b))) == [torch.ops.aten.mm.default]


@pytest.mark.parametrize(
    "drawn",
    [
        torch.bernoulli,
        lambda x: torch.bernoulli(x, 0.3),
        lambda x: torch.empty_like(x).bernoulli_(x),
        lambda x: torch.empty_like(x).bernoulli_(0.8),
        lambda x: torch.empty_like(x).bernoulli_(),
    ],
)
def test_a_graph_draws_what_torch_draws(drawn):
    x = torch.rand(1000, generator=torch.Generator().manual_seed(0))
    module = make_fx(drawn, kernels.decompositions())(x)
    assert any(target.namespace == "pyro_vae" for target in targets(module))
    draws = []
    for draw in (module, drawn):
        torch.manual_seed(1)
        draws.append(draw(x))
    assert torch.equal(*draws)
    assert 0 < draws[0].mean() < 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sigmoid(dtype):
    mpmath = pytest.importorskip("mpmath")
    mpmath.mp.dps = 40
    positive = torch.cat([torch.logspace(-20, 0, 41, dtype=dtype), torch.linspace(1, 80, 160, dtype=dtype)])
    x = torch.cat([positive, -positive, torch.zeros(1, dtype=dtype)])
    found, unit = sigmoid(x), torch.finfo(dtype).eps
    for value, argument in zip(found.tolist(), x.tolist(), strict=True):
        truth = 1 / (1 + mpmath.exp(-mpmath.mpf(argument)))
        assert abs((value - truth) / truth) <= 2 * unit, argument


def test_sigmoid_at_the_edges():
    found = sigmoid(torch.tensor([math.inf, -math.inf, math.nan]))
    assert found[:2].tolist() == [1.0, 0.0]
    assert found[2].isnan()


def decomposed(function, *given):
    return make_fx(function, decompositions(), tracing_mode="fake")(*given)


def test_a_sigmoid_of_a_compiled_graph_is_as_exact():
    x = torch.linspace(-87, 87, 100_001)
    truth = x.double().sigmoid()
    assert ((decomposed(torch.sigmoid, x)(x).double() - truth).abs() <= 3 * torch.finfo(x.dtype).eps * truth).all()


@pytest.mark.parametrize("shape", [(), (5,), (3, 1), (2, 3, 4)])
def test_whether_all_are_true(shape):
    each = [{}, *({"dim": dim, "keepdim": keep} for dim in range(len(shape)) for keep in (False, True))]
    cases = [torch.ones(shape, dtype=torch.bool), torch.zeros(shape, dtype=torch.bool), torch.rand(shape) < 0.7]
    for arguments in each:
        graph = decomposed(partial(torch.all, **arguments), cases[0])
        assert not any("aten.all" in str(target) for target in targets(graph))
        for x in cases:
            found = graph(x)
            assert found.dtype == torch.bool
            assert found.equal(x.all(**arguments))


def test_whether_all_of_none_are_true():
    assert decomposed(lambda x: x.all(), torch.ones(0, dtype=torch.bool))(torch.ones(0, dtype=torch.bool))
