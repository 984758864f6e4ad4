import itertools

import pytest
import torch
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

from pyro_vae.errors import UsageError
from pyro_vae.model import networks as home
from pyro_vae.model.networks import MLP, ConvDecoder, ConvEncoder, GatedMLP, in_precision, networks
from pyro_vae.option_words import Precision, words

IMAGES = [(1, 8, 8), (1, 28, 28), (1, 28, 20), (3, 32, 32), (2, 7, 5)]


def build(kind, y_dim=0):
    cases = {
        "mlp": lambda: MLP((2, 3), (4,), hidden=(5, 6), y_dim=y_dim),
        "gated": lambda: GatedMLP((2, 3), (4,), hidden=(5, 6), y_dim=y_dim),
        "conv_encoder": lambda: ConvEncoder((1, 6, 5), (4,), hidden=(3, 2), y_dim=y_dim),
        "conv_decoder": lambda: ConvDecoder((3,), (1, 6, 5), hidden=(3, 2), y_dim=y_dim),
    }
    return cases[kind]().double()


KINDS = ["mlp", "gated", "conv_encoder", "conv_decoder"]


@pytest.mark.parametrize("y_dim", [0, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_leading_dimensions_are_a_loop(kind, y_dim):
    net = build(kind, y_dim)
    x = torch.randn(4, 2, *net.in_shape, dtype=torch.float64)
    y = torch.randn(2, y_dim, dtype=torch.float64) if y_dim else None
    whole = net(x, y)
    assert whole.shape == (4, 2, *net.out_shape)
    for k in range(4):
        for b in range(2):
            one = net(x[k, b], None if y is None else y[b])
            assert torch.allclose(whole[k, b], one, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("x_lead", "y_lead"), [((2,), (4, 2)), ((), (2,)), ((4, 1), (2,)), ((2,), (4, 1)), ((2,), ())])
@pytest.mark.parametrize("kind", KINDS)
def test_leading_dimensions_of_data_and_labels_are_broadcast(kind, x_lead, y_lead):
    net = build(kind, y_dim=3)
    x = torch.randn(*x_lead, *net.in_shape, dtype=torch.float64)
    y = torch.randn(*y_lead, 3, dtype=torch.float64)
    lead = torch.broadcast_shapes(x_lead, y_lead)
    whole, wide_x, wide_y = net(x, y), x.expand(*lead, *net.in_shape), y.expand(*lead, 3)
    assert whole.shape == (*lead, *net.out_shape)
    for index in itertools.product(*map(range, lead)):
        assert torch.allclose(whole[index], net(wide_x[index], wide_y[index]), rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_leading_dimensions_that_do_not_fit_are_refused(kind):
    net = build(kind, y_dim=3)
    with pytest.raises((ValueError, RuntimeError), match="broadcast"):
        net(torch.randn(2, *net.in_shape, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64))


@pytest.mark.parametrize("y_dim", [0, 3])
@pytest.mark.parametrize("kind", [MLP, GatedMLP, ConvEncoder])
def test_input_scale_is_a_factor_on_the_data_alone(kind, y_dim):
    torch.manual_seed(1)
    plain = kind((1, 6, 5), (4,), hidden=(3, 2), y_dim=y_dim).double()
    torch.manual_seed(1)
    scaled = kind((1, 6, 5), (4,), hidden=(3, 2), y_dim=y_dim, input_scale=1 / 255).double()
    x = 255 * torch.rand(7, 2, 1, 6, 5, dtype=torch.float64)
    y = torch.randn(2, y_dim, dtype=torch.float64) if y_dim else None
    before = x.clone()
    assert torch.allclose(scaled(x, y), plain(x / 255, y), rtol=0, atol=1e-12)
    assert not torch.allclose(scaled(x, y), plain(x, y))
    assert torch.equal(x, before)
    assert plain.state_dict().keys() == scaled.state_dict().keys()


@pytest.mark.parametrize("kind", KINDS)
def test_labels_reach_the_output(kind):
    net = build(kind, y_dim=3)
    x = torch.randn(2, *net.in_shape, dtype=torch.float64)
    assert not torch.allclose(net(x, torch.eye(3).double()[:2]), net(x, torch.eye(3).double()[1:]))


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_gets_a_gradient_and_the_bias_is_added(kind):
    net = build(kind)
    x = torch.randn(8, *net.in_shape, dtype=torch.float64)
    plain = net(x)
    plain.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())
    with torch.no_grad():
        net.output_bias.copy_(torch.arange(net.output_bias.numel()).reshape(net.out_shape))
    assert torch.allclose(net(x), plain + net.output_bias, rtol=0, atol=1e-12)


def test_the_only_bias_of_the_output_is_output_bias():
    for kind in KINDS:
        net = build(kind)
        with torch.no_grad():
            for p in net.parameters():
                p.mul_(0) if p is net.output_bias else p.fill_(0 if p.dim() > 1 else 3)
        assert (net(torch.zeros(1, *net.in_shape).double()) == 0).all(), kind


def test_numbers_of_another_precision_are_refused_with_the_cure():
    with pytest.raises(ValueError, match=r"computes in torch.float64; got torch.float32: x.to\(torch.float64\)"):
        build("mlp")(torch.zeros(2, 3))


def test_gated_layer_is_the_papers_formula():
    net = GatedMLP((3,), (2,), hidden=(4,)).double()
    x = torch.randn(5, 3, dtype=torch.float64)
    linear = net.body[0]
    a, g = linear.weight[:4], linear.weight[4:]
    h = (x @ a.T + linear.bias[:4]) * torch.sigmoid(x @ g.T + linear.bias[4:])
    assert torch.allclose(net(x), h @ net.head.weight.T, rtol=0, atol=1e-12)


def test_mlp_is_its_formula():
    net = MLP((3,), (2,), hidden=(4,), activation=nn.Tanh).double()
    x = torch.randn(5, 3, dtype=torch.float64)
    h = torch.tanh(x @ net.body[0].weight.T + net.body[0].bias)
    assert torch.allclose(net(x), h @ net.head.weight.T, rtol=0, atol=1e-12)


@pytest.mark.parametrize("hidden", [(4,), (4, 3), (4, 3, 2)])
@pytest.mark.parametrize("shape", IMAGES)
def test_convolutions_fit_images_of_any_size(shape, hidden):
    assert ConvEncoder(shape, (7,), hidden=hidden)(torch.zeros(2, *shape)).shape == (2, 7)
    assert ConvDecoder((7,), shape, hidden=hidden)(torch.zeros(2, 7)).shape == (2, *shape)
    assert ConvDecoder((7,), (2, *shape), hidden=hidden)(torch.zeros(2, 7)).shape == (2, 2, *shape)


@pytest.mark.parametrize(
    ("shape", "labels", "message"),
    [
        ((5, 7), None, r"MLP takes tensors \(\*, 2, 3\); got \(5, 7\)"),
        ((3,), None, r"takes tensors \(\*, 2, 3\)"),
        ((5, 2, 3), torch.eye(5), r"built without labels"),
    ],
)
def test_wrong_shapes_are_refused_at_the_door(shape, labels, message):
    with pytest.raises(ValueError, match=message):
        build("mlp")(torch.zeros(shape).double(), labels)


@pytest.mark.parametrize("labels", [None, torch.eye(4)])
def test_missing_or_wrong_labels_are_refused(labels):
    with pytest.raises(ValueError, match=r"y_dim=3.*pass one-hot labels \(B, 3\)"):
        build("mlp", y_dim=3)(torch.zeros(4, 2, 3).double(), labels)


def test_convolutions_refuse_vectors():
    with pytest.raises(ValueError, match="needs images"):
        ConvEncoder((64,), (4,))


# Precision. One rounding to bfloat16 is a relative error of 2^-9 at most; a network makes several a layer.

ROUNDING = 2.0**-8
SIXTEEN = {
    "mlp": lambda **options: MLP((2, 30), (40,), hidden=(50, 60), **options),
    "gated": lambda **options: GatedMLP((2, 30), (40,), hidden=(50, 60), **options),
    "conv_encoder": lambda **options: ConvEncoder((1, 12, 10), (40,), hidden=(8, 9), **options),
    "conv_decoder": lambda **options: ConvDecoder((30,), (1, 12, 10), hidden=(8, 9), **options),
}


def pair(kind, **options):
    """The same network in both precisions, and data."""
    made = []
    for precision in words(Precision):
        torch.manual_seed(3)
        made.append(SIXTEEN[kind](precision=precision, **options))
    return *made, torch.randn(7, 5, *made[0].in_shape)


def relative(found, expected):
    return ((found - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("y_dim", [0, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_is_float32_but_for_its_rounding(kind, y_dim):
    exact, rounded, x = pair(kind, y_dim=y_dim)
    labels = [torch.eye(3)[[0, 1, 2, 1, 0]]] if y_dim else []
    assert rounded(x, *labels).dtype == torch.float32
    assert ROUNDING / 8 < relative(rounded(x, *labels), exact(x, *labels)) < 4 * ROUNDING


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_in_bfloat16_are_float32_ones_but_for_rounding(kind):
    exact, rounded, x = pair(kind, activation=nn.Tanh)  # smooth: rounding cannot switch a unit off
    for net in (exact, rounded):
        net(x).square().mean().backward()
    for p, q in zip(exact.parameters(), rounded.parameters(), strict=True):
        assert p.dtype == q.dtype == q.grad.dtype == torch.float32
        assert 0 < relative(q.grad, p.grad) < 8 * ROUNDING


def test_bfloat16_is_its_formula():
    """Every operand is rounded and every layer's output, up to the bias of the output."""
    _, net, x = pair("mlp")
    with torch.no_grad():
        net.output_bias.copy_(torch.linspace(-5, 5, 40))
        h = x.bfloat16().double().flatten(2)
        for layer in (net.body[0], net.body[2]):
            h = h @ layer.weight.bfloat16().double().T + layer.bias.bfloat16().double()
            h = h.bfloat16().double().relu()
        expected = (h @ net.head.weight.bfloat16().double().T).bfloat16().double() + net.output_bias
        found = net(x)
    # Sums in another order, float32 against float64, turn a rounding here and there.
    assert relative(found, expected) < ROUNDING / 8
    assert ((found - expected).abs() < 1e-6).double().mean() > 0.5


@pytest.mark.parametrize("kind", KINDS)
def test_a_large_output_bias_is_added_in_float32(kind):
    exact, rounded, x = pair(kind)
    with torch.no_grad():
        before = (rounded(x) - exact(x)).abs().max()
        for net in (exact, rounded):
            net.output_bias.fill_(1000.0)
        after = (rounded(x) - exact(x)).abs().max()
    assert after < before + 2e-4  # float32 has 6e-5 at 1000, bfloat16 has 4


@pytest.mark.parametrize("kind", KINDS)
def test_the_default_is_plain_float32(kind):
    net, _, x = pair(kind)
    flat = net.run(x.flatten(0, 1), None).reshape(7, 5, *net.out_shape)
    assert net.precision == "float32"
    assert torch.equal(net(x), flat + net.output_bias)
    assert "precision" not in repr(net)


@pytest.mark.parametrize("kind", KINDS)
def test_a_state_of_either_precision_is_one_of_the_other(kind):
    exact, rounded, _ = pair(kind)
    a, b = exact.state_dict(), rounded.state_dict()
    assert list(a) == list(b)
    assert all(torch.equal(a[name], b[name]) and b[name].dtype == torch.float32 for name in a)
    assert "precision='bfloat16'" in repr(rounded)


@pytest.mark.parametrize("kind", KINDS)
def test_a_program_in_float64_computes_in_float64(kind):
    exact, rounded, x = (part.double() for part in pair(kind))
    assert rounded(x).dtype == torch.float64
    assert torch.equal(rounded(x), exact(x))


def test_weights_are_rounded_anew_inside_an_autocast_of_the_callers():
    _, net, x = pair("mlp")
    with torch.autocast("cpu", torch.bfloat16):
        net(x)
        with torch.no_grad():
            net.head.weight.zero_()
        assert (net(x) == 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_traced_graph_of_gradients_takes_other_parameters(kind):
    _, net, x = pair(kind)
    values = {name: p.detach() for name, p in net.named_parameters()}

    def gradients(values, x):
        leaves = {name: value.detach().requires_grad_() for name, value in values.items()}
        loss = torch.func.functional_call(net, leaves, (x,)).square().mean()
        return loss, dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))

    graph = make_fx(gradients)(values, x)
    other = {name: value + 0.1 * torch.randn_like(value) for name, value in values.items()}
    (loss, found), (expected_loss, expected) = graph(other, 2 * x), gradients(other, 2 * x)
    assert torch.bfloat16 in {
        node.meta["val"].dtype for node in graph.graph.nodes if hasattr(node.meta.get("val"), "dtype")
    }
    assert torch.equal(loss, expected_loss)
    assert loss != gradients(values, x)[0]
    assert all(torch.equal(found[name], expected[name]) for name in values)


def test_in_precision_sets_every_network_and_puts_each_back():
    module = nn.Sequential(MLP((2,), (3,)), nn.Linear(3, 3), MLP((3,), (2,), precision="bfloat16"))
    found = networks(module)
    assert found == [module[0], module[2]]
    for precision in words(Precision):
        with in_precision(module, precision):
            assert {net.precision for net in found} == {precision}
        assert [net.precision for net in found] == ["float32", "bfloat16"]
        with pytest.raises(ValueError, match="takes tensors"), in_precision(module, precision):
            module(torch.zeros(7))
        assert [net.precision for net in found] == ["float32", "bfloat16"]


def test_in_precision_is_the_constructors():
    exact, rounded, x = pair("gated")
    with in_precision(exact, "bfloat16"), in_precision(rounded, "float32"):
        swapped = exact(x), rounded(x)
    assert torch.equal(swapped[0], rounded(x))
    assert torch.equal(swapped[1], exact(x))


def test_an_unknown_precision_is_refused_wherever_it_is_said():
    net, said = MLP((2,), (3,)), r"unknown precision 'bfloat'; did you mean 'bfloat16'\? \(float32, bfloat16\)"
    with pytest.raises(UsageError, match=said):
        MLP((2,), (3,), precision="bfloat")
    with pytest.raises(UsageError, match=said), in_precision(net, "bfloat"):
        pass
    assert net.precision == "float32"
    net.precision = "bfloat"
    with pytest.raises(UsageError, match=said):
        net(torch.zeros(2))


def test_a_module_without_networks_has_no_precision_to_set():
    with (
        pytest.raises(ValueError, match="Linear holds no network from pyro_vae"),
        in_precision(nn.Linear(2, 2), "float32"),
    ):
        pass


def test_every_layer_but_the_last_of_a_decoder_has_a_bias():
    decoder = ConvDecoder((3,), (1, 6, 5), hidden=(4, 3, 2))
    layers = [layer for layer in decoder.modules() if isinstance(layer, torch.nn.ConvTranspose2d)]
    assert [layer.bias is not None for layer in layers] == [True, True, False]


@pytest.mark.parametrize(("vectors", "times"), [("AVX2", 1), ("AVX512", 0), ("SVE256", 0)])
def test_a_processor_without_bfloat16_is_named_once(monkeypatch, caplog, vectors, times):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: vectors)
    home._note_slow.cache_clear()
    net = MLP((3,), (2,), (4,), precision="bfloat16")
    with in_precision(net, "float32"):
        net(torch.zeros(5, 3))
    assert not caplog.records
    for _ in range(2):
        net(torch.zeros(5, 3))
    assert [record.getMessage().partition(",")[0] for record in caplog.records] == [
        "this processor has no instructions for bfloat16"
    ] * times
