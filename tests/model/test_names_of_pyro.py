"""Names of Pyro that are private, or compared as strings, and what is read from them: a release may rename one."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Predictive, Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from pyro.poutine.enum_messenger import EnumMessenger
from pyro.poutine.indep_messenger import IndepMessenger

from pyro_vae.model.open_plates import _OF_HANDLERS, open_plates

WHERE = "Pyro renamed {}, which {} reads"


def held(owner, name, reader):
    assert hasattr(owner, name), WHERE.format(name, reader)
    return getattr(owner, name)


def test_the_stack_of_handlers_holds_those_that_are_open():
    stack = held(poutine.runtime, "_PYRO_STACK", "model/open_plates.py")
    with pyro.plate("data", 3) as _, poutine.trace() as tracer:
        assert any(isinstance(frame, IndepMessenger) and frame.name == "data" for frame in stack)
        assert tracer in stack


def test_a_plate_knows_whether_it_is_vectorised():
    with pyro.plate("data", 3):
        frame = poutine.runtime._PYRO_STACK[-1]
        assert held(frame, "_vectorized", "model/open_plates.py") is True
        assert (held(frame, "subsample_size", "model/open_plates.py"), frame.dim) == (3, -1)
    for _ in pyro.plate("each", 2):
        assert held(poutine.runtime._PYRO_STACK[-1], "_vectorized", "model/open_plates.py") is False


def test_enumeration_tells_its_dimensions():
    allocator = held(poutine.runtime, "_ENUM_ALLOCATOR", "model/open_plates.py")
    with EnumMessenger(first_available_dim=-3):
        assert held(allocator, "next_available_dim", "model/open_plates.py") == -3
        site = pyro.poutine.trace(lambda: pyro.sample("y", dist.Bernoulli(0.5), infer={"enumerate": "parallel"}))
        infer = site.get_trace().nodes["y"]["infer"]
        assert list(held(allocator, "dim_to_id", "model/open_plates.py")) == [-3]
        assert infer.get("_enumerate_dim") == -3, WHERE.format("_enumerate_dim", "model/open_plates.py")


@pytest.mark.parametrize("name", _OF_HANDLERS)
def test_the_plates_that_handlers_open_have_these_names(name):
    seen = []

    def model():
        seen.extend(plate.name for plate in open_plates().values())
        pyro.sample("z", dist.Normal(0.0, 1.0))

    if name == "num_particles_vectorized":
        Trace_ELBO(num_particles=2, vectorize_particles=True, max_plate_nesting=0).loss(model, model)
    else:
        Predictive(model, num_samples=2, parallel=True)()
    assert name in seen, WHERE.format(name, "model/open_plates.py")


def test_a_plate_asks_for_its_rows_by_a_site_of_the_subsample():
    nodes = poutine.trace(lambda: pyro.plate("data", 5, 2)).get_trace().nodes
    assert poutine.util.site_is_subsample(nodes["data"]), WHERE.format("_Subsample", "model/subsampled.py")
    assert (nodes["data"]["fn"].size, nodes["data"]["fn"].subsample_size) == (5, 2)


def test_two_sites_of_one_name_are_refused_in_these_words():
    def twice():
        return [pyro.sample("z", dist.Normal(0.0, 1.0)) for _ in range(2)]

    with pytest.raises(RuntimeError, match="Multiple sample sites named"):
        poutine.trace(twice).get_trace()


def test_a_guide_can_get_a_name_and_its_parameters_leave():
    guide = AutoNormal(lambda: pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1)))
    held(held(guide, "_pyro_context", "inference/unshared_guides.py"), "used", "inference/unshared_guides.py")
    held(guide, "_pyro_set_supermodule", "inference/unshared_guides.py")("left", guide._pyro_context)
    guide()
    assert {n for n in held(pyro.get_param_store(), "_params", "inference/unshared_guides.py") if n[:5] == "left."}
    pyro.clear_param_store()
