"""Training in many processes: the step, the records and the parameters of one, and nobody waits for ever."""

from dataclasses import replace

import pyro
import pytest
import torch
from cases import thorough
from finished import images
from worlds import SMALL, made, spread

import pyro_vae as pv
from pyro_vae.errors import DataError, DivergenceError, ProcessError
from pyro_vae.experiment import build
from pyro_vae.experiment.config import Config
from pyro_vae.inference import SharedSVI, World, fit
from pyro_vae.inference.distributed import shared_elbo_terms
from pyro_vae.inference.world import ALONE
from pyro_vae.randomness import block_stream, derive


@pytest.fixture(scope="module")
def grey(tmp_path_factory):
    return images(tmp_path_factory.mktemp("data") / "grey.npz", size=60)


def trained(world, config):
    """The records of a training and the parameters at its end."""
    data, vae, svi = made(config, world)
    options = {"conditional": config.conditional, "seed": config.seed, "world": world}
    records = [record.to_dict() for record in fit(vae, svi, data, build.schedule(config, len(data.train)), **options)]
    assert config.compile == "no" or svi.graphs.mode == "auto", "it fell back"
    return records, {name: tensor.tolist() for name, tensor in vae.tensors().items()}


# 42 data in batches of 16: slices of 6, 5 and 5, and at the end 10 data; in batches of 41, at the end a single one.
POINT = {"posterior": "delta", "kl_weight": 0.0}


GRAPHS = ["no", "auto"]  # which are graphs from the first step on, see `worlds`


@pytest.mark.parametrize(
    ("size", "batch_size", "mode"), [(2, 16, "auto"), *thorough((3, 41, "auto"), (3, 41, "no"), (2, 16, "no"))]
)
def test_without_draws_many_processes_do_what_one_does(grey, tmp_path, size, batch_size, mode):
    config = Config(dataset=grey, **{**SMALL, "batch_size": batch_size}, **POINT, max_grad_norm=0.02, conditional=True)
    records, tensors = trained(ALONE, config)
    found = spread(size, tmp_path, trained, replace(config, compile=mode))
    assert len(set(map(repr, found))) == 1  # that is, NaN where the others have it
    for one, many in zip(records, found[0][0], strict=True):
        known = {name: value for name, value in one.items() if value is not None}  # a point has no ELBO
        assert many.keys() == one.keys()
        assert {name: many[name] for name in known} == pytest.approx(known, rel=1e-12)
    for name, values in tensors.items():
        assert torch.allclose(torch.tensor(found[0][1][name]), torch.tensor(values), rtol=1e-11, atol=1e-14), name


# Objectives with draws: each process draws from a stream of its own, which one process can draw from in turn.
OBJECTIVES = [
    {"objective": "trace_elbo", "kl_weight": 0.5, "num_particles": 2},
    {"objective": "mean_field_elbo", "conditional": True, "prior": "conditional"},
    {"objective": "iwae", "num_particles": 3, "prior": "vamp", "num_components": 3},
    {"objective": "mean_field_elbo", "kl_weight": 0.0, "prior": "diagonal"},  # whose parameters get no gradient
    {"objective": "trace_elbo", "gradient": "sticking_the_landing", "kl_weight": 0.5, "num_particles": 2},
    {"objective": "iwae", "gradient": "doubly_reparametrised", "num_particles": 3, "prior": "vamp"},
]
SEED = 7


def one_step(world, config, size):
    """Loss and gradient of one step on 17 data under its noise; alone, those of `size` processes, in turn."""
    data, vae, svi = made(config, world)
    x = data.train.fixed()[:17].double()
    y = [data.train.one_hot(3)[:17]] if config.conditional else []
    seed, loss = derive(SEED, "noise", 0, size), 0.0
    svi.optimizer = torch.optim.SGD(vae.parameters(), lr=0.0)
    if world.size > 1:
        with world.noise(SEED, 0, 4):
            loss = svi.step(x, *y, kl_weight=config.kl_weight)
        return loss, gradients(vae)
    for rank in range(size):
        own = [value.tensor_split(size)[rank] for value in (x, *y)]
        with block_stream(seed, 4, rank):
            loss += svi.loss.loss_and_grads(*pv.inference.weighted(vae.model, vae.guide, kl=config.kl_weight), *own)
    return loss, gradients(vae)


def gradients(vae):
    return {name: None if p.grad is None else p.grad.tolist() for name, p in vae.named_parameters()}


@pytest.mark.thorough
@pytest.mark.parametrize(
    "flags",
    [*OBJECTIVES[1:3], *thorough(OBJECTIVES[0], *OBJECTIVES[3:])],
    ids=lambda flags: "-".join(map(str, flags.values())),
)
def test_loss_and_gradient_are_the_sums_over_the_slices_each_with_noise_of_its_own(grey, tmp_path, flags):
    config = Config(dataset=grey, **SMALL, **flags)
    loss, expected = one_step(ALONE, config, 3)
    answers = spread(3, tmp_path, one_step, config, 3)
    assert answers[1:] == answers[:-1]
    assert answers[0][0] == pytest.approx(loss, rel=1e-12)
    for name, gradient in expected.items():
        found = answers[0][1][name]
        assert (found is None) == (gradient is None), name
        if found is not None:
            assert torch.allclose(torch.tensor(found), torch.tensor(gradient), rtol=1e-10, atol=1e-13), name


def draws(world):
    found = []
    for epoch, step in ((0, 0), (0, 1), (1, 0)):
        with world.noise(0, epoch, step):
            found += torch.rand(100, dtype=torch.float64).tolist()
    return found


def test_no_two_processes_steps_or_epochs_share_noise(tmp_path):
    found = [number for answer in spread(3, tmp_path, draws) for number in answer]
    assert len(set(found)) == len(found) == 900


def test_one_process_draws_what_it_always_has():
    torch.manual_seed(3)
    with ALONE.noise(0, 5, 6):
        drawn = torch.rand(3)
    torch.manual_seed(3)
    assert torch.equal(drawn, torch.rand(3))


def validated(world, config):
    _, vae, _ = made(config)
    x = build.data(config).train.fixed()
    terms = shared_elbo_terms(world, vae, x, 4, None, SEED)
    return len(x), [(term.value.tolist(), term.value_error.tolist(), term.kind) for term in terms]


@pytest.mark.thorough
def test_validation_is_that_of_one_process_to_the_last_bit(tmp_path):
    config = Config(dataset=images(tmp_path / "more.npz", size=430), **SMALL, prior="mixture", num_components=3)
    expected = validated(ALONE, config)
    assert expected[0] == 301  # three blocks, the last of 45 data
    for size in (2, 4):  # two blocks and one; one each, and one process without
        assert spread(size, tmp_path, validated, config) == [expected] * size


# What goes wrong in one process.


def poisoned(world, config):
    """A datum of the last process's slice has a density that is none."""
    data, vae, svi = made(config, world)
    x = data.train.fixed()[:17].double()
    svi.step(x)
    before = repr((vae.state_dict(), svi.optimizer.state_dict()))
    sound, x[-1] = x.clone(), 1e300
    with pytest.raises(DivergenceError) as caught:
        svi.step(x)
    assert repr((vae.state_dict(), svi.optimizer.state_dict())) == before
    svi.step(sound)
    world.check_same(vae.tensors(), "after a step that was refused")
    return str(caught.value)


@pytest.mark.thorough
@pytest.mark.parametrize("mode", GRAPHS)
def test_a_step_that_one_process_refuses_is_refused_by_all(grey, tmp_path, mode):
    config = Config(dataset=grey, **{**SMALL, "compile": mode}, likelihood="laplace")
    told = spread(3, tmp_path, poisoned, config)
    assert told[0] == told[1] == f"process 2 of 3: {told[2]}"
    assert told[2].startswith("step 2: the loss is")
    assert "the step was not applied" in told[2]


def gone(world, config):
    """The last process ends without a word in the middle of an epoch."""
    data, _, svi = made(config, world)
    x = data.train.fixed()[:17].double()
    svi.step(x)
    if world.rank == world.size - 1:
        return "gone"
    svi.step(x)
    return "went on"


@pytest.mark.thorough
@pytest.mark.parametrize("mode", GRAPHS)
def test_where_a_process_has_ended_the_others_say_so(grey, tmp_path, mode):
    *others, last = spread(3, tmp_path, gone, Config(dataset=grey, **{**SMALL, "compile": mode}))
    assert last == "gone"
    assert [(type(other), "has ended" in str(other)) for other in others] == [(ProcessError, True)] * 2


def raising(world, kind):
    with world.together():
        if world.rank == 1:
            raise kind("no file")
    return "went on"


def raising_each(world):
    with world.together():
        if world.rank:
            raise (DataError, ValueError)[world.rank - 1](f"by {world.rank}")


def test_all_raise_the_error_of_the_first_one_that_raises(tmp_path):
    errors = spread(3, tmp_path, raising_each)
    assert [type(error) for error in errors] == [DataError] * 3
    assert list(map(str, errors)) == ["process 1 of 3: by 1", "by 1", "process 1 of 3: by 1"]


@pytest.mark.thorough
@pytest.mark.parametrize(("kind", "told"), [(DataError, DataError), (KeyError, ProcessError)])
def test_what_one_process_raises_all_raise(tmp_path, kind, told):
    errors = spread(3, tmp_path, raising, kind)
    assert [type(error) for error in errors] == [told, kind, told]
    assert str(errors[0]).startswith("process 1 of 3: ")
    assert "no file" in str(errors[0])


def strayed(world, config):
    data, vae, svi = made(config, world)
    for record in fit(vae, svi, data, build.schedule(config, len(data.train)), world=world):
        if record.epoch == 2 and world.rank == 1:
            with torch.no_grad():
                next(vae.parameters()).flatten()[0].mul_(1 + 1e-15)
    return "went on"


def test_parameters_that_stray_by_one_bit_are_found_in_the_same_epoch(grey, tmp_path):
    for error in spread(2, tmp_path, strayed, Config(dataset=grey, **SMALL)):
        assert isinstance(error, ProcessError)
        assert "after 3 steps of epoch 3, the parameters of process 1 differ" in str(error)


def stopping(world, config):
    """One process is told to stop after four steps, and all stop there; then they go on."""
    data, vae, svi = made(config, world)
    progress, asked = pv.inference.Progress(), []

    def stop():
        asked.append(svi.num_steps)
        return world.largest(int(world.rank == 1 and len(asked) == 6)) > 0

    options = {"progress": progress, "world": world, "seed": config.seed}
    records = list(fit(vae, svi, data, build.schedule(config, len(data.train)), **options, stop=stop))
    stopped = progress.epoch, progress.steps
    records += fit(vae, svi, data, build.schedule(config, len(data.train)), **options)
    return stopped, [record.to_dict() for record in records], {n: t.tolist() for n, t in vae.tensors().items()}


@pytest.mark.thorough
@pytest.mark.parametrize("mode", GRAPHS)
def test_all_stop_at_the_step_where_one_is_told_to_and_go_on_to_the_same_bits(grey, tmp_path, mode):
    config = Config(dataset=grey, **{**SMALL, "compile": mode})
    undisturbed = spread(2, tmp_path, trained, config)[0]
    for stopped, *found in spread(2, tmp_path, stopping, config):
        assert stopped == (1, 1)
        assert tuple(found) == undisturbed


def test_an_objective_without_a_differentiable_loss_is_refused_before_it_is_trained(grey):
    _, vae, svi = made(Config(dataset=grey, **SMALL))
    with pytest.raises(ValueError, match="RenyiELBO has no differentiable_loss"):
        SharedSVI(vae, svi.optimizer, pyro.infer.RenyiELBO(alpha=0.5), World(0, 2))
