"""Two automatic guides over sites of one name, in one process."""

import gc

import pyro
import pyro.distributions as dist
import pytest
import torch
from cases import thorough
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoMultivariateNormal, AutoNormal
from torch import nn

from pyro_vae.inference import unshared


def model(x):
    shift = pyro.sample("shift", dist.Normal(0.0, 10.0))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(shift, 1.0), obs=x)


def mean(guide):
    with pyro.poutine.block():
        return guide.median(torch.zeros(2))["shift"]


@pytest.mark.parametrize("kind", [AutoNormal, *thorough(AutoMultivariateNormal)])
def test_the_training_of_the_second_leaves_the_first_alone(kind):
    """Which stock Pyro does not (when this test fails there, `unshared` has had its time)."""
    pyro.clear_param_store()
    for name in (lambda guide: guide, unshared):
        found = []
        guides = [name(kind(model)) for _ in range(2)]
        for guide, loc in zip(guides, (5.0, -5.0), strict=True):
            svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.3}), Trace_ELBO())
            for _ in range(50):
                svi.step(torch.full((20,), loc))
            guides[0](torch.zeros(2))
            found.append(mean(guides[0]).item())
        assert (abs(found[1] - found[0]) < 1e-6) == (name is unshared)


def test_a_dead_guide_leaves_the_store():
    pyro.clear_param_store()
    guide = unshared(AutoNormal(model), "left")
    guide(torch.zeros(2))
    assert set(pyro.get_param_store().keys()) == {"left.locs.shift", "left.scales.shift"}
    del guide
    gc.collect()
    assert not list(pyro.get_param_store().keys())


def test_what_cannot_get_a_name_is_refused():
    with pytest.raises(TypeError, match="a PyroModule, which has a name in the store; got Linear"):
        unshared(nn.Linear(1, 1))
    guide = AutoNormal(model)
    guide(torch.zeros(2))
    with pytest.raises(ValueError, match="this AutoNormal has run"):
        unshared(guide)
