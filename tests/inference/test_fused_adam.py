"""The update made apart from the optimiser, and the steps of a program that is left alone, are the ordinary ones."""

import copy
from contextlib import nullcontext
from functools import partial
from itertools import count

import pytest
import torch
from cases import thorough
from exact import binary_data, small_vae
from pyro.infer import Trace_ELBO
from torch.optim.optimizer import register_optimizer_step_pre_hook

from pyro_vae.data.splits import Split, Splits
from pyro_vae.errors import DivergenceError
from pyro_vae.inference import SVI, Schedule, fit
from pyro_vae.inference.fused_adam import Update
from pyro_vae.inference.step_graphs import StepGraph
from pyro_vae.randomness import stream


def parameters(dtype=torch.float32):
    noise = torch.Generator().manual_seed(1)
    return [torch.nn.Parameter(torch.randn(shape, generator=noise, dtype=dtype)) for shape in ((3, 40), (5,), ())]


def gradients(made, step):
    noise = torch.Generator().manual_seed(step)
    return [torch.randn(p.shape, generator=noise, dtype=p.dtype) for p in made]


def step_by_optimizer(optimizer, made, step):
    for parameter, gradient in zip(made, gradients(made, step), strict=True):
        parameter.grad = gradient
    optimizer.step()
    optimizer.zero_grad()


def check_same_state(one, other):
    assert one["param_groups"] == other["param_groups"]
    for now, then in zip(one["state"].values(), other["state"].values(), strict=True):
        assert now.keys() == then.keys()
        assert all(torch.equal(now[name], then[name]) for name in then)


def test_updates_of_all_parameters_and_of_some_count_the_same_steps():
    """Graphs of a full and of a short batch, and one whose loss does not depend on every parameter, take turns."""
    results = []
    for directly in (True, False):
        made = parameters()
        adam = torch.optim.Adam(made, lr=0.1, fused=True)
        step_by_optimizer(adam, made, 0)
        chosen = [made, made, made[1:]]
        updates = [Update.of(adam, some) for some in chosen] if directly else []
        for step in (1, 2, 3, 4, 5, 6, 7):
            some = chosen[step % 3]
            if directly:
                updates[step % 3](gradients(some, step))
            else:
                step_by_optimizer(adam, some, step)
        results.append((made, adam.state_dict()))
    (ours, our_state), (theirs, their_state) = results
    assert all(torch.equal(*pair) for pair in zip(ours, theirs, strict=True))
    check_same_state(our_state, their_state)
    assert [state["step"].item() for state in our_state["state"].values()] == [6.0, 8.0, 8.0]


# Which kernel it is, the group says, and not the class.
DECOUPLED = {"weight_decay": 0.5, "decoupled_weight_decay": True}
SETTINGS = [{}, {"weight_decay": 0.1, "betas": (0.5, 0.9)}, {"maximize": True}, DECOUPLED]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW])
def test_the_update_is_that_of_the_optimiser_to_the_last_bit(kind, settings, dtype):
    results = []
    for directly in (True, False):
        made = parameters(dtype)
        groups = [{"params": made[:1], "lr": 0.1}, {"params": made[1:], "lr": 0.01, "eps": 1e-3}]
        groups = [{**group, **settings} for group in groups]
        optimizer = kind(groups, fused=True)
        step_by_optimizer(optimizer, made, 0)
        update = Update.of(optimizer, made[::-1])
        for step in range(1, 6):
            optimizer.param_groups[0]["lr"] = 0.1 / (1 + step)
            if directly:
                update(gradients(made, step)[::-1])
            else:
                step_by_optimizer(optimizer, made, step)
        results.append((made, optimizer.state_dict()))
    assert all(torch.equal(p, q) for p, q in zip(results[0][0], results[1][0], strict=True))
    check_same_state(results[0][1], results[1][1])
    assert {int(state["step"]) for state in results[0][1]["state"].values()} == {6}


def test_parameters_without_a_gradient_stay_as_they_are():
    made = parameters()
    optimizer = torch.optim.Adam(made, lr=0.1, fused=True)
    step_by_optimizer(optimizer, made, 0)
    before = made[1].detach().clone()
    Update.of(optimizer, [made[0], made[2]])([gradients(made, 1)[0], gradients(made, 1)[2]])
    assert torch.equal(made[1], before)
    assert [int(optimizer.state[p]["step"]) for p in made] == [2, 1, 2]


class OwnAdam(torch.optim.Adam):
    pass


def scheduled(made):
    optimizer = torch.optim.Adam(made, lr=0.1, fused=True)
    optimizer.scheduler = torch.optim.lr_scheduler.ConstantLR(optimizer)
    return optimizer


def mixed(made):
    made[2].data = made[2].data.double()
    return torch.optim.Adam(made, lr=0.1, fused=True)


def hooked(made):
    optimizer = torch.optim.Adam(made, lr=0.1, fused=True)
    optimizer.register_step_post_hook(lambda *_: None)
    return optimizer


@pytest.mark.parametrize(
    "make",
    [
        lambda made: torch.optim.SGD(made, lr=0.1),
        lambda made: torch.optim.Adam(made, lr=0.1),
        lambda made: torch.optim.Adam(made, lr=0.1, fused=True, amsgrad=True),
        lambda made: torch.optim.Adam(made, lr=torch.tensor(0.1), fused=True),
        lambda made: OwnAdam(made, lr=0.1, fused=True),
        mixed,
        scheduled,
        hooked,
    ],
)
def test_what_is_more_than_fused_adam_is_left_to_the_optimiser(make):
    made = parameters()
    optimizer = make(made)
    step_by_optimizer(optimizer, made, 0)
    assert Update.of(optimizer, made) is None


def test_a_hook_of_everyones_is_heard():
    made = parameters()
    optimizer = torch.optim.Adam(made, lr=0.1, fused=True)
    step_by_optimizer(optimizer, made, 0)
    handle = register_optimizer_step_pre_hook(lambda *_: None)
    try:
        assert Update.of(optimizer, made) is None
    finally:
        handle.remove()
    assert Update.of(optimizer, made).is_current(optimizer)


def test_an_optimiser_without_state_is_left_alone():
    made = parameters()
    optimizer = torch.optim.Adam(made, lr=0.1, fused=True)
    assert Update.of(optimizer, made) is None
    assert not optimizer.state


def ours(vae, mode=True, kind=torch.optim.Adam, **settings):
    return SVI(vae.model, vae.guide, kind(vae.parameters(), lr=1e-2, **settings), Trace_ELBO(), compile=mode)


def stepped(svi, num_steps):
    """Batches of two sizes, with a warm-up and a falling rate."""
    x, losses = binary_data(16), []
    for step in range(num_steps):
        svi.optimizer.param_groups[0]["lr"] = 1e-2 / (1 + step)
        losses.append(svi.step(x[: 8 if step % 3 == 2 else 16], kl_weight=min(1.0, (step + 1) / 4)))
    return losses


@pytest.mark.parametrize("mode", [True, *thorough(False)])
@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (torch.optim.Adam, {"fused": True}),
        *thorough((torch.optim.AdamW, {"fused": True}), (torch.optim.SGD, {})),
    ],
    ids=["adam", "adamw", "sgd"],
)
def test_steady_steps_are_the_same_to_the_last_bit(kind, settings, mode, traced_only):
    results = []
    for steady in (True, False):
        with stream(0, "init"):
            svi = ours(small_vae(), mode, kind, **settings)
        with stream(0, "noise"):
            losses = stepped(svi, 2)
            if steady:
                with svi.steady():
                    losses += stepped(svi, 8)
            else:
                losses += stepped(svi, 8)
            losses += stepped(svi, 2)
        results.append((losses, [p.detach().clone() for p in svi.held()], svi.optimizer.state_dict(), svi.num_steps))
    assert results[0][0] == results[1][0]
    assert all(torch.equal(p, q) for p, q in zip(results[0][1], results[1][1], strict=True))
    check_same_state(results[0][2], results[1][2])
    assert results[0][3] == results[1][3] == 12


def test_steady_steps_do_not_call_the_optimiser(traced_only, monkeypatch):
    svi = ours(small_vae(), fused=True)
    svi.step(binary_data(16))
    monkeypatch.setattr(torch.optim.Adam, "step", lambda *_: pytest.fail("called"))
    with svi.steady():
        svi.step(binary_data(16))
    assert all(parameter.grad is None for parameter in svi.held())


def test_a_diverged_steady_step_is_not_applied(traced_only):
    vae = small_vae()
    svi = ours(vae, fused=True)
    svi.step(binary_data(16))
    with svi.steady():
        svi.step(binary_data(16))
        before = {name: tensor.clone() for name, tensor in vae.state_dict().items()}
        state = copy.deepcopy(svi.optimizer.state_dict())
        with torch.no_grad():
            vae.likelihood.decoder.output_bias[0] = before["likelihood.decoder.output_bias"][0] = torch.inf
        with pytest.raises(DivergenceError):
            svi.step(torch.zeros_like(binary_data(16)))
    assert all(torch.equal(tensor, before[name]) for name, tensor in vae.state_dict().items())
    check_same_state(svi.optimizer.state_dict(), state)


def with_dropout():
    vae = small_vae()
    vae.posterior.encoder = torch.nn.Sequential(vae.posterior.encoder, torch.nn.Dropout(0.5))
    return vae


@pytest.mark.thorough
def test_a_change_after_steady_steps_is_seen(traced_only):
    vae = with_dropout()
    svi = ours(vae, fused=True)
    with svi.steady():
        svi.step(binary_data(16))
        svi.step(binary_data(16))
    vae.posterior.encoder[1].p = 0.0
    with svi.steady():
        svi.step(binary_data(16))
    assert svi.graphs._captures == 2


def test_inside_the_program_is_looked_at_once(traced_only, monkeypatch):
    looks = []
    own = StepGraph.is_current
    monkeypatch.setattr(StepGraph, "is_current", lambda self, svi: looks.append(1) or own(self, svi))
    svi = ours(small_vae(), fused=True)
    with svi.steady(), svi.steady():
        stepped(svi, 2)
        looks.clear()
        stepped(svi, 2)
        assert not looks
    stepped(svi, 2)
    assert len(looks) == 2


def test_contexts_may_end_in_any_order(traced_only):
    svi = ours(small_vae(), fused=True)
    one, other = svi.steady(), svi.steady()
    one.__enter__()
    other.__enter__()
    stepped(svi, 2)
    one.__exit__(None, None, None)
    assert svi.graphs._updates
    stepped(svi, 1)
    other.__exit__(None, None, None)
    assert not svi.graphs._updates
    svi.step(binary_data(16))
    assert not svi.graphs._updates


@pytest.mark.thorough
@pytest.mark.parametrize("another", [*thorough(False), True], ids=["state loaded", "another optimiser"])
def test_an_optimiser_that_was_changed_is_used_as_it_is_now(another, traced_only):
    results = []
    for steady in (True, False):
        vae = small_vae()
        svi = ours(vae, fused=True)
        with stream(0, "noise"), svi.steady() if steady else nullcontext():
            stepped(svi, 2)
            kept = copy.deepcopy(svi.optimizer.state_dict())
            stepped(svi, 2)
            if another:
                svi.optimizer = torch.optim.Adam(vae.parameters(), lr=1e-4, fused=True)
            else:
                svi.optimizer.load_state_dict(kept)
            losses = stepped(svi, 3)
        results.append((losses, svi.optimizer.state_dict()))
    assert results[0][0] == results[1][0]
    check_same_state(results[0][1], results[1][1])


class OwnDescent(torch.optim.SGD):
    def step(self):
        for parameter in self.param_groups[0]["params"]:
            parameter.data = parameter.data - 1e-3 * parameter.grad


@pytest.mark.thorough
@pytest.mark.parametrize(
    "case", ["a hook freezes", *thorough("a hook sets the rate of a dropout", "parameters move in memory")]
)
def test_code_of_the_users_in_the_step_of_the_optimiser_is_seen_in_fit(case, traced_only):
    found = []
    for mode in (True, False):
        vae = with_dropout()
        kind = OwnDescent if case == "parameters move in memory" else partial(torch.optim.Adam, fused=True)
        svi = SVI(vae.model, vae.guide, kind(vae.parameters(), lr=1e-2), Trace_ELBO(), compile=mode)
        if kind is not OwnDescent:
            svi.optimizer.register_step_post_hook(partial(change_at_step_3, vae, case, count()))
        x = binary_data(40)
        levels = (x > 0).to(torch.uint8)
        data = [Split.make(name, levels, None, 2, "none", 0) for name in ("train", "valid", "test")]
        schedule = Schedule(epochs=2, batch_size=8)
        found.append([record.loss for record in fit(vae.float(), svi, Splits(*data, (6,), 0, {}), schedule)])
    assert found[0] == found[1]


def change_at_step_3(vae, case, steps, *_):
    if next(steps) == 2:
        if "dropout" in case:
            vae.posterior.encoder[1].p = 0.0
        else:
            vae.posterior.requires_grad_(False)
