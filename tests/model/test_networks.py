import itertools

import pytest
import torch
from torch import nn

from pyro_vae.model.networks import MLP, ConvDecoder, ConvEncoder, GatedMLP

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
