"""Traps of Pyro's parameter store: programs in one process must not train each other's tensors, or stop training."""

import copy
import gc
import io

import pyro
import pytest
import torch
from exact import MixturePrior, binary_data, small_vae
from pyro.infer import SVI, Trace_ELBO
from pyro.nn import PyroModule

import pyro_vae as pv
from pyro_vae.model.program import undisturbed


def loss():
    return Trace_ELBO(num_particles=10, vectorize_particles=True, max_plate_nesting=1)


def trains(vae, x, svi=None, steps=20):
    """Whether every parameter that requires a gradient moves under stock Pyro, and the loss goes down."""
    svi = svi or SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-2}), loss())
    before = {name: p.detach().clone() for name, p in vae.named_parameters() if p.requires_grad}
    losses = [svi.step(x) for _ in range(steps)]
    moved = [not torch.equal(before[name], p) for name, p in vae.named_parameters() if p.requires_grad]
    return all(moved) and sum(losses[-5:]) < sum(losses[:5])


@pytest.fixture
def x():
    return binary_data(32)


def test_two_programs_of_one_process_both_train(x):
    first, second = small_vae(seed=0), small_vae(seed=1)
    assert trains(first, x)
    assert trains(second, x)


def test_training_one_program_leaves_the_other_alone(x):
    first, second = small_vae(seed=0), small_vae(seed=1)
    trains(first, x)
    frozen = copy.deepcopy(first.state_dict())
    trains(second, x)
    assert all(torch.equal(frozen[name], tensor) for name, tensor in first.state_dict().items())


def test_a_copy_trains_and_its_original_stays(x):
    original = small_vae()
    trains(original, x)
    twin = copy.deepcopy(original)
    before = copy.deepcopy(original.state_dict())
    assert trains(twin, x)
    assert all(torch.equal(before[name], tensor) for name, tensor in original.state_dict().items())


def test_a_copy_trains_under_the_same_svi_object(x):
    # The store may not hand the original's tensors to the copy.
    original = small_vae()
    optimiser = pyro.optim.Adam({"lr": 1e-2})
    trains(original, x, SVI(original.model, original.guide, optimiser, loss()))
    twin = copy.deepcopy(original)
    assert trains(twin, x, SVI(twin.model, twin.guide, optimiser, loss()))


def test_a_swapped_member_trains_under_the_same_svi(x):
    vae = small_vae(prior=MixturePrior(3))
    svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-2}), loss())
    svi.step(x)
    vae.prior = MixturePrior(3).double()
    assert trains(vae, x, svi)


def test_channels_last_weights_train():
    vae = pv.VAE(
        pv.priors.StandardNormal(2),
        pv.posteriors.DiagonalNormal(pv.networks.ConvEncoder((3, 8, 8), (4,), hidden=(4,)), 2),
        pv.likelihoods.Bernoulli(pv.networks.ConvDecoder((2,), (3, 8, 8), hidden=(4,))),
    ).to(memory_format=torch.channels_last)
    assert any(not p.is_contiguous() for p in vae.parameters())  # else this would test nothing
    assert trains(vae, binary_data(16, (3, 8, 8)).float(), steps=30)


def test_a_stepped_program_survives_torch_save(x):
    vae = small_vae()
    trains(vae, x)
    file = io.BytesIO()
    torch.save(vae, file)
    file.seek(0)
    again = torch.load(file, weights_only=False)
    assert all(torch.equal(a, b) for a, b in zip(vae.parameters(), again.parameters(), strict=True))
    assert trains(again, x)
    assert trains(vae, x)  # saving must not disturb the program that was saved


def test_a_frozen_member_stays_and_the_rest_trains(x):
    vae = small_vae()
    trains(vae, x)
    vae.likelihood.requires_grad_(False)
    before = copy.deepcopy(vae.likelihood.state_dict())
    assert trains(vae, x)
    assert all(torch.equal(before[name], tensor) for name, tensor in vae.likelihood.state_dict().items())


def test_programs_may_share_members(x):
    first = small_vae()
    second = pv.VAE(MixturePrior(3).double(), first.posterior, first.likelihood)
    assert trains(first, x)
    assert trains(second, x)
    del second
    gc.collect()
    assert trains(first, x)


def test_a_hundred_built_and_dropped_leave_nothing_in_the_store(x):
    for seed in range(100):
        vae = small_vae(seed=seed)
        vae.guide(x)
        vae.model(x), vae.guide(x)
    shared = pv.VAE(vae.prior, vae.posterior, vae.likelihood)
    shared.model(x)
    del vae, shared
    gc.collect()
    store = pyro.get_param_store()
    assert (len(store), len(store._param_to_name), len(store._constraints)) == (0, 0, 0)


def test_a_program_that_dies_inside_an_evaluation_leaves_the_store(x):
    survivor, victim = small_vae(), small_vae()
    survivor.model(x), survivor.guide(x)
    victim.model(x), victim.guide(x)
    with undisturbed(survivor):
        del victim
        gc.collect()
    assert len(pyro.get_param_store()) == len(list(survivor.parameters()))


def test_one_programs_listing_is_not_anothers_by_prefix(x):
    """VAE-1 dies, VAE-10 ... VAE-19 live."""
    programs = [small_vae() for _ in range(25)]
    for vae in programs:
        vae.model(x), vae.guide(x)
    kept = programs[1:]
    del programs, vae
    gc.collect()
    assert len(pyro.get_param_store()) == sum(len(list(vae.parameters())) for vae in kept)


def test_a_shared_tensor_keeps_a_name_when_one_program_dies(x):
    first = small_vae()
    second = pv.VAE(first.prior, first.posterior, first.likelihood)
    optimiser = pyro.optim.Adam({"lr": 1e-2})
    for vae in (first, second):
        SVI(vae.model, vae.guide, optimiser, Trace_ELBO()).step(x)
    del vae, first
    gc.collect()
    second.model(x)
    assert None not in optimiser.get_state()
    assert len(optimiser.get_state()) == len(list(second.parameters()))


def test_pyro_modules_are_refused_as_members():
    vae = small_vae()
    with pytest.raises(TypeError, match=r"likelihood holds a PyroModule.*plain torch\.nn"):
        vae.likelihood = pv.likelihoods.Bernoulli(PyroModule[torch.nn.Linear](3, 6))


def test_a_cleared_store_is_filled_again(x):
    vae = small_vae()
    trains(vae, x)
    pyro.clear_param_store()
    assert trains(vae, x)


def test_building_touches_neither_store_nor_random_state():
    pyro.param("mine", torch.tensor(1.0))
    state = torch.get_rng_state()
    first = pv.VAE(pv.priors.StandardNormal(2), *(small_vae(2).posterior, small_vae(2).likelihood))
    assert list(pyro.get_param_store()) == ["mine"]
    assert torch.equal(torch.get_rng_state(), state)
    del first


def test_tensors_name_a_shared_tensor_once_and_set_tensors_refuses_misfits():
    vae = small_vae()
    vae.twin = vae.posterior.encoder
    tensors = {name: tensor.detach().clone() + 1 for name, tensor in vae.tensors().items()}
    assert len(tensors) == len(list(vae.parameters()))
    vae.set_tensors(tensors)
    assert all(torch.equal(vae.tensors()[name], tensors[name]) for name in tensors)
    with pytest.raises(ValueError, match="one side only"):
        vae.set_tensors({})
    name = list(tensors)[-1]
    with pytest.raises(ValueError, match="has shape"):
        vae.set_tensors({**{name: tensor + 1 for name, tensor in tensors.items()}, name: torch.zeros(1)})
    assert all(torch.equal(vae.tensors()[name], tensors[name]) for name in tensors)  # all or nothing


def test_describe_prints_the_shape_table_and_changes_nothing(capsys):
    vae = small_vae(x_shape=(1, 2, 3))
    state = torch.get_rng_state()
    text = vae.describe(binary_data(5, (1, 2, 3)))
    assert capsys.readouterr().out.strip() == text.strip()
    assert "z dist 5 | 3" in " ".join(text.split())
    assert "x dist 5 | 1 2 3" in " ".join(text.split())
    assert "dist 1 | 3" in " ".join(vae.describe().split())
    assert torch.equal(torch.get_rng_state(), state)
    assert not list(pyro.get_param_store())


def test_an_unwritten_half_says_so():
    with pytest.raises(NotImplementedError, match="Program has no model"):
        pv.Program().model()
