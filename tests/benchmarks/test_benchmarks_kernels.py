"""The products of the table of kernels are those of a training step."""

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import kernels
from benchmarks.peers.pyro_peers import PyroPeer
from benchmarks.problem import Size, draw_data, draw_parameters
from pyro_vae.inference import MeanFieldELBO


def flops(function):
    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


def test_the_products_are_those_of_a_step():
    size = Size(16, 32)
    program, x = PyroPeer(size).module, torch.from_numpy(draw_data(16))
    given = kernels.of_products(kernels.arrays(size), draw_parameters(size))
    products = flops(lambda: kernels.products(*map(torch.from_numpy, given)))
    assert products == flops(lambda: MeanFieldELBO().loss_and_grads(program.model, program.guide, x))


def test_products_of_arrays_of_any_kind_are_the_same():
    size = Size(4, 6)
    given = kernels.of_products(kernels.arrays(size), draw_parameters(size))
    by_torch = kernels.products(*map(torch.from_numpy, given))
    for one, other in zip(kernels.products(*given), by_torch, strict=True):
        np.testing.assert_allclose(one, other.numpy(), rtol=1e-5, atol=1e-5)
