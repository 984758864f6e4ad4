"""Pyro's own persistence: what was saved from its store comes back, or is refused in a sentence, never dropped."""

import copy
import gc
import io
import subprocess
import sys

import pyro
import pytest
import torch
from cases import all_but
from exact import MixturePrior, binary_data, small_vae, two_layers
from pyro.infer import SVI, Predictive, Trace_ELBO

import pyro_vae as pv
from pyro_vae.model import parameter_store
from pyro_vae.model.parameter_store import store_kept
from pyro_vae.randomness import stream


def build(seed=0, name=None, **options):
    vae = small_vae(seed=seed, **options)
    return pv.VAE(vae.prior, vae.posterior, vae.likelihood, name=name)


def stepped(vae, x, steps=5, optimiser=None, seed=0):
    svi = SVI(vae.model, vae.guide, optimiser or pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO())
    with stream(seed, "noise"):
        return [svi.step(x) for _ in range(steps)]


@pytest.fixture
def x():
    return binary_data(16)


@pytest.fixture
def file(tmp_path):
    return str(tmp_path / "store.pt")


def trained_and_saved(x, file, name=None):
    """What was trained: its parameters and log p(x); its program is dead, and its values are in the file."""
    vae = build(name=name)
    stepped(vae, x)
    pyro.get_param_store().save(file)
    return [p.detach().clone() for p in vae.parameters()], pv.evaluation.iwae(vae, x, 10, seed=0)


def has(vae, values):
    return all(torch.equal(p, value) for p, value in zip(vae.parameters(), values, strict=True))


NAMES = pytest.mark.parametrize("name", [None, "left"], ids=["numbered", "named"])


@NAMES
def test_what_was_saved_comes_back(x, file, name):
    values, log_likelihood = trained_and_saved(x, file, name)
    pyro.clear_param_store()
    vae = build(seed=1, name=name)
    pyro.get_param_store().load(file)
    assert len(pyro.get_param_store()) == len(values)
    vae.load_from_store()
    assert has(vae, values)
    assert torch.equal(pv.evaluation.iwae(vae, x, 10, seed=0).value, log_likelihood.value)
    stepped(vae, x)
    assert not has(vae, values)
    assert {id(p) for p in pyro.get_param_store()._params.values()} == {id(p) for p in vae.parameters()}


def by_graph(vae, x):
    adam = torch.optim.Adam(vae.parameters(), lr=1e-2)
    return pv.inference.SVI(vae.model, vae.guide, adam, Trace_ELBO(), compile=True).step(x)


RUNS = {
    "stock": stepped,
    "ours": lambda vae, x: pv.inference.SVI(
        vae.model, vae.guide, torch.optim.Adam(vae.parameters()), Trace_ELBO(), compile=False
    ).step(x),
    "graph": by_graph,
    "objective": lambda vae, x: pv.inference.Objective(vae, Trace_ELBO())(x),
    "evaluate_loss": lambda vae, x: SVI(vae.model, vae.guide, pyro.optim.SGD({}), Trace_ELBO()).evaluate_loss(x),
    "elbo": lambda vae, x: pv.evaluation.elbo(vae, x, 4),
    "iwae": lambda vae, x: pv.evaluation.iwae(vae, x, 4),
    "log_weights": lambda vae, x: pv.evaluation.log_weights(vae, x, 4),
    "active_units": lambda vae, x: pv.evaluation.active_units(vae, x),
    "generate": lambda vae, x: vae.generate(2),
    "reconstruct": lambda vae, x: vae.reconstruct(x),
    "interpolate": lambda vae, x: vae.interpolate(x[:1], x[1:2]),
    "describe": lambda vae, x: vae.describe(x),
    "predictive": lambda vae, x: Predictive(vae.model, guide=vae.guide, num_samples=2)(x),
}


@NAMES
@pytest.mark.parametrize("run", all_but([*RUNS][::3], RUNS))
def test_nothing_runs_beside_values_that_it_would_drop(x, file, name, run, traced_only):
    values, _ = trained_and_saved(x, file, name)
    vae = build(seed=1, name=name)
    before = [p.detach().clone() for p in vae.parameters()]
    pyro.get_param_store().load(file)
    with pytest.raises(ValueError, match=r"load_from_store\(\).*state_dict"):
        RUNS[run](vae, x)
    assert len(pyro.get_param_store()) == len(values)  # they are still there,
    assert has(vae, before)
    vae.load_from_store()  # and can be taken
    assert has(vae, values)
    RUNS[run](vae, x)


@pytest.mark.thorough
@pytest.mark.parametrize("how", ["load", "set", "state"])
def test_a_living_program_takes_what_was_put_under_its_names(x, file, how, traced_only):
    """After steps, which have listed it; eager steps and graphs of the same SVI."""
    vae = build()
    svi = pv.inference.SVI(
        vae.model, vae.guide, torch.optim.Adam(vae.parameters(), lr=1e-2), Trace_ELBO(), compile=True
    )
    svi.step(x)
    store = pyro.get_param_store()
    store.save(file)
    best, values = copy.deepcopy(store.get_state()), [p.detach().clone() for p in vae.parameters()]
    svi.step(x)
    name = next(iter(store))
    {"load": lambda: store.load(file), "set": lambda: store.__setitem__(name, torch.zeros(store[name].shape)),
     "state": lambda: store.set_state(best)}[how]()  # fmt: skip
    for step in (svi.step, lambda x: stepped(vae, x), lambda x: pv.evaluation.elbo(vae, x, 4)):
        with pytest.raises(ValueError, match=r"load_from_store\(\)"):
            step(x)
    vae.load_from_store()
    if how == "set":
        assert (vae.get_parameter(name.partition(".")[2]) == 0).all()
    else:
        assert has(vae, values)
    svi.step(x)


def test_a_cleared_store_is_filled_again_by_graphs_without_another_capture(x, file, traced_only):
    vae = build(name="left")
    svi = pv.inference.SVI(vae.model, vae.guide, torch.optim.Adam(vae.parameters()), Trace_ELBO(), compile=True)
    svi.step(x)
    pyro.clear_param_store()
    svi.step(x)
    assert svi.graphs._captures == 1
    pyro.get_param_store().save(file)
    state = torch.load(file, weights_only=False)["params"]
    assert all(torch.equal(state[f"pyro_vae:left.{name}"], p) for name, p in vae.named_parameters())


def test_a_member_that_was_replaced_is_not_taken_for_a_loaded_one(x):
    """Neither in the store that an evaluation brings back, nor in a scope of the user's."""
    vae = small_vae(prior=MixturePrior(3))
    store = pyro.get_param_store()
    with store.scope() as scope:
        stepped(vae, x)
    stepped(vae, x)
    vae.prior = MixturePrior(3).double()
    pv.evaluation.elbo(vae, x, 4)
    stepped(vae, x)
    with store.scope(scope):
        stepped(vae, x)


def test_left_and_right_each_take_their_own(x, file):
    first, second = build(0, "left"), build(1, "right")
    stepped(first, x), stepped(second, x)
    values = [[p.detach().clone() for p in vae.parameters()] for vae in (first, second)]
    pyro.get_param_store().save(file)
    del first, second
    gc.collect()
    assert not list(pyro.get_param_store())
    right, left = build(2, "right"), build(3, "left")  # in another order
    pyro.get_param_store().load(file)
    left.load_from_store()
    stepped(left, x, steps=0), left.model(x)  # what is right's does not keep left from running
    with pytest.raises(ValueError, match="pyro_vae:right"):
        right.model(x)
    right.load_from_store()
    assert has(left, values[0])
    assert has(right, values[1])


def test_what_was_saved_of_two_programs_without_names_is_asked_for(x, file):
    first, second = build(0), build(1)
    stepped(first, x), stepped(second, x)
    values = [p.detach().clone() for p in second.parameters()]
    pyro.get_param_store().save(file)
    numbers = sorted({name.partition(".")[0].partition(":")[2] for name in pyro.get_param_store()})
    del first, second
    gc.collect()
    vae = build(2)
    pyro.get_param_store().load(file)
    with pytest.raises(ValueError, match=rf"several programs.*{', '.join(numbers)}"):
        vae.load_from_store()
    vae.load_from_store(max(numbers, key=lambda name: int(name.partition("-")[2])))
    assert has(vae, values)


@pytest.mark.parametrize(("saved", "built"), [(None, "left"), ("left", None), ("left", "right")])
def test_values_of_another_name_are_refused_where_they_may_be_meant(x, file, saved, built, monkeypatch):
    values, _ = trained_and_saved(x, file, saved)
    vae = build(1, built)
    pyro.get_param_store().load(file)
    if saved and built:  # names tell them apart, which is said once
        monkeypatch.setattr(parameter_store, "_warned_of", set())
        with pytest.warns(UserWarning, match=r"holds values for a program 'left'.*'right' does not use them"):
            vae.model(x)
        vae.model(x), pv.evaluation.elbo(vae, x, 4)
        assert len([name for name in pyro.get_param_store() if name.startswith("pyro_vae:left.")]) == len(values)
        with pytest.raises(ValueError, match=r"nothing that could be meant for right.*: left"):
            vae.load_from_store()
    else:
        with pytest.raises(ValueError, match=r"load_from_store\(\)"):
            vae.model(x)
    vae.load_from_store(saved)
    assert has(vae, values)


def test_shapes_are_checked_and_nothing_is_changed(x, file):
    trained_and_saved(x, file)
    wider = build(hidden=(9,))
    before = [p.detach().clone() for p in wider.parameters()]
    pyro.get_param_store().load(file)
    with pytest.raises(ValueError, match="has shape"):
        wider.load_from_store()
    assert has(wider, before)
    with pytest.raises(ValueError, match="one side only"):
        two_layers().load_from_store()
    pyro.clear_param_store()
    with pytest.raises(ValueError, match=r"nothing that could be meant .* first load it"):
        wider.load_from_store()


def test_what_the_store_does_not_hold_is_named(x, file):
    def build():
        encoder = torch.nn.Sequential(torch.nn.Linear(6, 6), torch.nn.BatchNorm1d(6)).double()
        rest = small_vae()
        return pv.VAE(rest.prior, pv.posteriors.DiagonalNormal(encoder, 3), rest.likelihood, name="left")

    vae = build()
    stepped(vae, x)
    pyro.get_param_store().save(file)
    del vae
    gc.collect()
    vae = build()
    vae.likelihood.requires_grad_(False)  # its values were saved all the same, and are taken
    pyro.get_param_store().load(file)
    with pytest.warns(UserWarning, match=r"no values for .*running_mean.*running_var"):
        vae.load_from_store()


@pytest.mark.thorough
@NAMES
def test_adam_goes_on_where_it_stood(x, tmp_path, file, name):
    """Held to a training that nobody interrupted."""
    whole = build()
    stepped(whole, x, 5, optimiser := pyro.optim.Adam({"lr": 1e-2}))
    stepped(whole, x, 5, optimiser, seed=1)
    wanted = [p.detach().clone() for p in whole.parameters()]
    del whole
    gc.collect()

    vae = build(name=name)
    stepped(vae, x, 5, optimiser := pyro.optim.Adam({"lr": 1e-2}))
    pyro.get_param_store().save(file)
    optimiser.save(tmp_path / "adam.pt")
    del vae
    gc.collect()

    vae, optimiser = build(seed=1, name=name), pyro.optim.Adam({"lr": 1e-2})
    pyro.get_param_store().load(file)
    optimiser.load(tmp_path / "adam.pt")
    vae.load_from_store()
    stepped(vae, x, 5, optimiser, seed=1)
    assert has(vae, wanted)
    assert not optimiser._state_waiting_to_be_consumed


def test_two_programs_of_one_name_are_refused_and_a_copy_gets_another(x):
    vae = build(name="left")
    with pytest.raises(ValueError, match="a program called 'left' is alive"):
        build(name="left")
    twin = copy.deepcopy(vae)
    stepped(vae, x), stepped(twin, x)
    prefixes = {name.partition(".")[0] for name in pyro.get_param_store()}
    assert len(prefixes) == 2
    assert "pyro_vae:left" in prefixes
    del vae
    gc.collect()
    assert not any(name.startswith("pyro_vae:left") for name in pyro.get_param_store())
    build(name="left").model(x)


def test_a_program_that_only_a_circle_of_references_keeps_leaves_its_name():
    vae = build(name="left")
    vae.itself = [vae]
    del vae
    assert build(name="left")


def test_a_program_that_was_pickled_has_its_name_again(x):
    vae, file = build(name="left"), io.BytesIO()
    torch.save(vae, file)
    file.seek(0)
    del vae
    gc.collect()
    vae = torch.load(file, weights_only=False)
    vae.model(x)
    assert {name.partition(".")[0] for name in pyro.get_param_store()} == {"pyro_vae:left"}


def test_a_program_that_could_not_be_built_takes_no_name():
    vae = small_vae()
    with pytest.raises(TypeError) as failure:  # which holds the frame, and the program in it
        pv.VAE(vae.prior, vae.likelihood, vae.posterior, name="left")
    build(name="left")
    assert failure


@pytest.mark.parametrize("name", ["", "VAE-0", "a.b", "a b"])
def test_a_name_is_an_identifier(name):
    with pytest.raises(ValueError, match="letters, digits and _"):
        build(name=name)


def test_an_evaluation_sweeps_nothing_that_was_loaded(x, file):
    trained_and_saved(x, file)
    gc.collect()
    pyro.get_param_store().load(file)
    names = set(pyro.get_param_store())

    with pyro.get_param_store().scope():
        pv.evaluation.elbo(build(2), x, 4)
    with store_kept():
        pass
    assert set(pyro.get_param_store()) == names


SCRIPT = """
import sys, torch, pyro
import pyro_vae as pv
def build(seed):
    torch.manual_seed(seed)
    return pv.VAE(pv.priors.StandardNormal(2), pv.posteriors.DiagonalNormal(pv.networks.MLP((6,), (4,)), 2),
                  pv.likelihoods.Bernoulli(pv.networks.MLP((2,), (6,))))
x = torch.eye(6)
if sys.argv[1] == "save":
    vae = build(0)
    svi = pyro.infer.SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-2}), pyro.infer.Trace_ELBO())
    for _ in range(50): svi.step(x)
    pyro.get_param_store().save(sys.argv[2])
else:
    vae = build(1)
    pyro.get_param_store().load(sys.argv[2])
    try:
        vae.model(x)
        print("it runs")
    except ValueError:
        vae.load_from_store()
print(pv.evaluation.iwae(vae, x, 100, seed=0).mean)
"""


@pytest.mark.thorough
def test_another_process_of_the_same_script_has_the_same_log_likelihood(file):
    printed = [
        subprocess.run([sys.executable, "-c", SCRIPT, what, file], capture_output=True, text=True, check=True).stdout
        for what in ("save", "load")
    ]
    assert printed[0] == printed[1]
