"""Which programs can be a graph: what would not be heard, and what runs besides tensors, is told and undone."""

import random

import numpy as np
import pyro
import pytest
import torch
from pyro import poutine
from torch import nn

from pyro_vae.graphs.suitability import NoGraph, check_hooks, drawing_by_torch, is_surrounded, setting_nothing
from pyro_vae.graphs.watch import Watch


def test_handlers_and_autocast_are_around_a_program():
    assert not is_surrounded()
    with poutine.scale(scale=2.0):
        assert is_surrounded()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert is_surrounded()
    with pyro.poutine.trace():
        assert is_surrounded()
    assert not is_surrounded()


@pytest.mark.parametrize(
    "add",
    [
        lambda net: net[0].register_forward_hook(lambda *_: None),
        lambda net: net[0].register_forward_pre_hook(lambda *_: None),
        lambda net: net.register_full_backward_hook(lambda *_: None),
        lambda net: net[1].register_full_backward_pre_hook(lambda *_: None),
        lambda net: net[0].weight.register_hook(lambda gradient: None),
        lambda net: net[1].bias.register_post_accumulate_grad_hook(lambda parameter: None),
    ],
)
def test_a_hook_anywhere_keeps_pyro(add):
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    check_hooks([net], net.parameters())
    handle = add(net)
    with pytest.raises(NoGraph, match="has a hook"):
        check_hooks([net], net.parameters())
    handle.remove()
    check_hooks([net], net.parameters())


@pytest.mark.parametrize("draw", [random.random, lambda: np.random.rand(3)])  # noqa: NPY002 - the caller's
def test_draws_of_python_and_numpy_are_told_and_put_back(draw):
    draw()
    before = random.getstate(), np.random.get_state()  # noqa: NPY002
    expected = draw()
    random.setstate(before[0])
    np.random.set_state(before[1])  # noqa: NPY002
    with pytest.raises(NoGraph), drawing_by_torch():
        draw()
    assert np.array_equal(draw(), expected)


def test_draws_of_torch_are_part_of_a_graph():
    with drawing_by_torch():
        torch.rand(3)


def test_what_runs_may_set_nothing_that_is_watched():
    module = nn.Dropout(0.1)
    with setting_nothing(Watch([module])):
        module(torch.ones(3))
    with pytest.raises(NoGraph, match=r"running it sets .*p"), setting_nothing(Watch([module])):
        module.p = 0.2
    assert module.p == 0.1
