"""fit: epochs, best state, early stopping, warm-up, and going on as if nothing had happened."""

import copy
import json
import math
import threading
from dataclasses import replace
from functools import partial

import numpy
import pytest
import torch
from cases import thorough
from torch import nn

import pyro_vae as pv
from pyro_vae.data import Split, Splits
from pyro_vae.errors import DataError, DivergenceError, UsageError
from pyro_vae.inference import (
    SVI,
    ImportanceWeightedELBO,
    MeanFieldELBO,
    Part,
    Progress,
    Trace_ELBO,
    averaging,
    fit,
    step_graphs,
)
from pyro_vae.inference.fitting import Schedule
from pyro_vae.randomness import derive, stream


@pytest.fixture(scope="module")
def data():
    return pv.data.load("digits", binarize="dynamic")


def build(loss=None, lr=3e-3):
    with stream(0, "init"):
        vae = pv.VAE(
            pv.priors.StandardNormal(2),
            pv.posteriors.DiagonalNormal(pv.networks.MLP((1, 8, 8), (4,), hidden=(16,)), 2),
            pv.likelihoods.Bernoulli(pv.networks.MLP((2,), (1, 8, 8), hidden=(16,))),
        )
    return vae, SVI(
        vae.model, vae.guide, torch.optim.Adam(vae.parameters(), lr=lr, fused=True), loss or MeanFieldELBO()
    )


def tensors(vae, svi):
    slots = svi.optimizer.state_dict()["state"].values()
    return [*(t.detach().clone() for t in vae.parameters()), *(t.clone() for slot in slots for t in slot.values())]


@pytest.mark.parametrize(
    ("loss", "options"),
    [
        *thorough((MeanFieldELBO, {})),
        (Trace_ELBO, {"kl_warmup": 4, "lr_schedule": "cosine", "reconstruction_weight": 2.0}),
        *thorough((lambda: ImportanceWeightedELBO(3), {"lr_schedule": "step"})),
    ],
)
def test_going_on_is_bitwise_the_run_without_a_break(data, loss, options):
    check_going_on(lambda: build(loss()), data, Schedule(epochs=5, **options))


def check_going_on(made, data, schedule, **options):
    """Trains what `made` gives in one go, and again with a break after two epochs, after which all is made anew."""
    vae, svi = made()
    whole = []
    for record in fit(vae, svi, data, schedule, seed=3, **options):
        whole.append(record)
        last = tensors(vae, svi)
    vae, svi = made()
    progress, records = Progress(), []
    for record in fit(vae, svi, data, schedule, seed=3, progress=progress, **options):
        records.append(record)
        if record.epoch == 2:
            break
    saved = copy.deepcopy((vae.state_dict(), svi.optimizer.state_dict(), progress))
    vae, svi = made()
    vae.load_state_dict(saved[0])
    svi.optimizer.load_state_dict(saved[1])
    torch.manual_seed(12345)  # the caller's random state must not matter
    for record in fit(vae, svi, data, schedule, seed=3, progress=saved[2], **options):
        records.append(record)
        again = tensors(vae, svi)
    assert records == whole
    assert all(torch.equal(a, b) for a, b in zip(last, again, strict=True))


@pytest.mark.parametrize(
    ("recipe", "mode", "stops", "average"),
    [
        ("dynamic", False, range(7), 0.0),
        ("static", False, [4], 0.5),
        *thorough(("dynamic", "auto", [2, 4], 0.5)),  # with the short batch to come, and within an epoch
        pytest.param("dynamic", True, range(7), 0.5, marks=pytest.mark.slow),
    ],
)
def test_a_fit_stopped_after_any_step_goes_on_as_if_it_had_not_been(recipe, mode, stops, average, monkeypatch):
    monkeypatch.setattr("pyro_vae.inference.averaging._EVERY", 2)
    monkeypatch.setattr("pyro_vae.inference.step_graphs.TRACE_AFTER", 2)
    data = pv.data.load("digits", binarize=recipe)
    weights = {"kl_warmup": 2, "average": average}
    schedule = Schedule(epochs=2, batch_size=500, lr_schedule="cosine", **weights)  # 500 + 500 + 257

    def made():
        vae, svi = build()
        svi.graphs.mode = mode
        return vae, svi, Progress()

    whole = made()
    records = list(fit(*whole[:2], data, schedule, seed=3, progress=whole[2]))
    for stopped in stops:
        vae, svi, progress = made()
        found = list(fit(vae, svi, data, schedule, seed=3, progress=progress, stop=partial(has_made, svi, stopped)))
        reached = progress.epoch * 3 + progress.steps
        assert reached == stopped
        saved = copy.deepcopy((vae.state_dict(), svi.optimizer.state_dict(), progress))
        vae, svi, _ = made()
        vae.load_state_dict(saved[0])
        svi.optimizer.load_state_dict(saved[1])
        torch.manual_seed(12345)
        found += fit(vae, svi, data, schedule, seed=3, progress=saved[2])
        assert found == records
        assert svi.graphs.largest == 500  # though 257 may be the first it saw
        assert all(torch.equal(a, b) for a, b in zip(tensors(vae, svi), tensors(*whole[:2]), strict=True))


def test_a_fit_that_goes_on_says_how_many_steps_are_done(data, monkeypatch):
    said = []
    monkeypatch.setattr(SVI, "expect", lambda svi, steps, **about: said.append((steps, about)))
    schedule, progress = Schedule(epochs=2, batch_size=500), Progress(epoch=1, part=Part(2, 0.0, {}))
    assert list(fit(*build(), data, schedule, progress=progress, stop=lambda: True)) == []
    assert said == [(2 * 3, {"largest": 500, "done": 3 + 2})]


@pytest.mark.parametrize(("share", "every"), [(0.25, 3), (1.0, 2)])
def test_the_average_that_is_validated_is_a_weighted_mean_of_the_values(data, share, every, monkeypatch):
    """Weights that fall like a power, by a slow sum; steps go on from the program's own parameters."""
    monkeypatch.setattr("pyro_vae.inference.averaging._EVERY", every)
    schedule = Schedule(epochs=4, batch_size=500)  # 3 steps an epoch
    vae, svi = build()
    values = {}

    def noted():
        if svi.num_steps % every == 0:
            values.setdefault(svi.num_steps, {name: tensor.clone() for name, tensor in vae.tensors().items()})
        return False

    plain = list(fit(vae, svi, data, schedule, stop=noted))
    final = tensors(vae, svi)
    vae, svi = build()
    progress = Progress()
    averaged = list(fit(vae, svi, data, replace(schedule, average=share), progress=progress))
    assert [record.loss for record in averaged] == [record.loss for record in plain]
    moments = len(list(vae.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(tensors(vae, svi)[moments:], final[moments:], strict=True))
    del values[0]  # before the first step
    power = 1 / share - 1
    weights = []
    for count in range(1, 12 // every + 1):
        new = (1 + power) / (count + power)
        weights = [weight * (1 - new) for weight in weights] + [new]
    assert sum(weights) == pytest.approx(1)
    for name, tensor in progress.average.items():
        mean = sum(weight * value[name].double() for weight, value in zip(weights, values.values(), strict=True))
        assert torch.allclose(tensor.double(), mean, rtol=0, atol=1e-6)
    assert progress.best_epoch == 4
    assert all(torch.equal(progress.best_tensors[name], tensor) for name, tensor in progress.average.items())
    elbo = pv.evaluation.elbo(vae, data.valid.fixed(), 4, seed=derive(0, "validation"))
    assert elbo.mean == pytest.approx(averaged[-1].valid_elbo, abs=1e-12)


def test_an_average_that_is_not_wanted_any_more_is_not_used(data):
    vae, svi = build()
    progress = Progress()
    list(fit(vae, svi, data, Schedule(epochs=2, average=0.5), progress=progress))
    (record,) = fit(vae, svi, data, Schedule(epochs=3, valid_samples=3), progress=progress)
    last = pv.evaluation.elbo(vae, data.valid.fixed(), 3, seed=derive(0, "validation"))
    assert progress.best_epoch == 3
    assert record.valid_elbo == pytest.approx(last.mean, abs=1e-12)


def test_a_buffer_with_an_infinity_can_be_averaged(data):
    vae, svi = build()
    vae.posterior.encoder.register_buffer("mask", torch.tensor([0.0, -math.inf]))
    progress = Progress()
    assert len(list(fit(vae, svi, data, Schedule(epochs=2, average=0.5), progress=progress))) == 2
    (mask,) = (tensor for name, tensor in progress.average.items() if name.endswith("mask"))
    assert mask.tolist() == [0.0, -math.inf]


def test_values_that_do_not_move_are_their_own_average():
    value = {"w": torch.tensor([1.0, -math.inf]), "count": torch.tensor(3)}
    average = averaging.updated({}, value, 1, 0.5)
    assert all(torch.equal(averaging.updated(average, value, 2, 0.5)[name], tensor) for name, tensor in value.items())


@pytest.mark.parametrize("share", [-0.1, 1.5, math.nan])
def test_an_average_over_no_share_is_refused(share):
    with pytest.raises(UsageError, match=r"`average` must be at least 0 and at most 1; got "):
        Schedule(average=share)


def has_made(svi, steps):
    return svi.num_steps == steps


def test_a_stopped_fit_gives_its_last_state_and_not_its_best(data):
    vae, svi = build()
    progress = Progress()
    asked = iter([False] * 12 + [True])
    assert len(list(fit(vae, svi, data, Schedule(epochs=5), progress=progress, stop=lambda: next(asked)))) == 1
    assert (progress.epoch, progress.steps) == (1, 1)
    best = progress.best_tensors
    assert not all(torch.equal(best[name], tensor) for name, tensor in vae.tensors().items())


def test_the_callers_random_state_is_left_alone(data):
    state = torch.get_rng_state()
    vae, svi = build()
    for _ in fit(vae, svi, data, Schedule(epochs=1), seed=0):
        assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(torch.get_rng_state(), state)


def test_another_seed_is_another_run(data):
    losses = [next(fit(*build(), data, Schedule(epochs=1), seed=seed)).loss for seed in (0, 0, 1)]
    assert losses[0] == losses[1] != losses[2]


def test_the_best_state_is_kept_and_given_back(data):
    vae, svi = build(lr=0.3)  # so fast that the last epoch is not the best
    best, states = -math.inf, {}
    progress = Progress()
    for record in fit(vae, svi, data, Schedule(epochs=10), progress=progress):
        states[record.epoch] = [p.detach().clone() for p in vae.parameters()]
        assert record.best == (record.valid_elbo > best)
        best = max(best, record.valid_elbo)
    assert progress.best_score == pytest.approx(best, abs=1e-12)
    assert progress.best_epoch < 10
    assert all(torch.equal(a, b) for a, b in zip(states[progress.best_epoch], vae.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(states[8], vae.parameters(), strict=True))
    elbo = pv.evaluation.elbo(vae, data.valid.fixed(), 4, seed=derive(0, "validation"))
    assert elbo.mean == pytest.approx(best, abs=1e-12)


def test_stops_early_after_epochs_without_a_better_one(data):
    vae, svi = build(lr=0.0)
    progress = Progress()
    records = list(fit(vae, svi, data, Schedule(epochs=50, patience=3), progress=progress))
    assert [r.epoch for r in records] == [1, 2, 3, 4]
    assert list(fit(vae, svi, data, Schedule(epochs=50, patience=3), progress=progress)) == []


def test_the_loss_weighs_a_short_last_batch_by_its_size(data):
    """With a learning rate of 0 the epoch's loss is that of the whole data, whatever the batch size."""
    losses = []
    for batch_size in (1257, 500):  # 500 + 500 + 257
        vae, svi = build(lr=0.0)
        losses.append(next(fit(vae, svi, data, Schedule(epochs=1, batch_size=batch_size))).loss)
    # Different noise; the loss per datum has a Monte Carlo spread of about 3.5 / sqrt(1257) = 0.1.
    assert losses[0] == pytest.approx(losses[1], abs=0.6)
    vae, svi = build(lr=0.0)
    assert -losses[0] == pytest.approx(pv.evaluation.elbo(vae, data.train.fixed(), 1, seed=0).mean, abs=0.6)


@pytest.mark.parametrize("schedule", [Schedule(kl_warmup=1), Schedule(kl_warmup=4, kl_weight=4.0)])
def test_an_importance_weighted_bound_has_no_kl_to_warm_up(data, schedule):
    vae, svi = build(ImportanceWeightedELBO(3))
    with pytest.raises(ValueError, match=rf"that could warm up; got `kl_warmup={schedule.kl_warmup}`"):
        next(fit(vae, svi, data, schedule))


def test_warm_up_and_learning_rate_are_recorded(data):
    vae, svi = build()
    schedule = Schedule(epochs=4, kl_warmup=2, kl_weight=0.5, lr_schedule="cosine", batch_size=1257)
    records = list(fit(vae, svi, data, schedule))
    assert [r.kl_weight for r in records] == pytest.approx([0.25, 0.5, 0.5, 0.5])
    three_steps = Schedule(epochs=3, kl_warmup=2, batch_size=500)
    assert [r.kl_weight for r in fit(*build(), data, three_steps)] == pytest.approx([0.5, 1, 1])
    expected = [3e-3 * (1 + math.cos(math.pi * epoch / 4)) / 2 for epoch in range(4)]
    assert [r.learning_rate for r in records] == pytest.approx(expected)


def test_the_validation_numbers_are_the_true_elbo_under_a_weighted_loss(data):
    vae, svi = build()
    record = next(fit(vae, svi, data, Schedule(epochs=1, kl_weight=0.0, reconstruction_weight=3.0)))
    assert record.valid_elbo == pytest.approx(record.valid_reconstruction - record.valid_kl, abs=1e-9)
    assert record.loss > 2 * -record.valid_reconstruction  # it was the weighted loss that was minimised


@pytest.mark.parametrize(
    ("weights", "kl_rises"), [*thorough(({"kl_weight": 0.0}, True)), ({"reconstruction_weight": 0.0}, False)]
)
def test_only_reconstruction_and_only_kl(data, weights, kl_rises):
    vae, svi = build(lr=1e-2)
    records = list(fit(vae, svi, data, Schedule(epochs=6, batch_size=64, **weights)))
    if kl_rises:
        assert records[-1].valid_kl > 5 * records[0].valid_kl or records[-1].valid_kl > 10
    else:
        assert records[-1].valid_kl < 1e-2


def test_training_mode_is_on_in_steps_and_evaluation_mode_in_validation(data):
    vae, svi = build()
    vae.eval()
    seen = []
    vae.posterior.encoder.body.append(nn.Dropout(0.5))
    vae.posterior.encoder.body[-1].register_forward_hook(lambda module, *_: seen.append(module.training))
    next(fit(vae, svi, data, Schedule(epochs=1, batch_size=1257)))
    assert seen[0] is True
    assert set(seen[1:]) == {False}
    assert vae.training


def test_under_a_weighted_loss_the_best_epoch_is_best_by_that_loss(data):
    """Only reconstruction: the ELBO falls from the first epoch on, and is not what was asked for."""
    vae, svi = build(lr=1e-2)
    progress = Progress()
    records = list(fit(vae, svi, data, Schedule(epochs=6, kl_weight=0.0), progress=progress))
    by_reconstruction = max(records, key=lambda r: r.valid_reconstruction)
    assert progress.best_epoch == by_reconstruction.epoch != max(records, key=lambda r: r.valid_elbo).epoch
    assert progress.best_score == pytest.approx(by_reconstruction.valid_reconstruction)


def test_divergence_seen_in_validation_is_divergence_and_gives_the_best_state_back(data):
    vae, svi = build()
    progress, schedule = Progress(), Schedule(epochs=3, batch_size=1257)
    records = fit(vae, svi, data, schedule, progress=progress)
    next(records)
    for group in svi.optimizer.param_groups:
        group["initial_lr"] = 1e30  # one step an epoch: its effect is first seen in validation
    with pytest.raises(DivergenceError, match=r"epoch 2: the validation ELBO .* \(first at site .*`lr`"):
        next(records)
    best = progress.best_tensors
    assert all(torch.equal(best[name], tensor) for name, tensor in vae.tensors().items())
    assert progress.epoch == 1


def test_divergence_leaves_the_last_good_state(data):
    vae, svi = build(lr=1e25)
    with pytest.raises(DivergenceError):
        list(fit(vae, svi, data, Schedule(epochs=5)))
    assert all(torch.isfinite(p).all() for p in vae.parameters())


# Labels.


def labelled(classes=3, labels=True):
    """Data whose every number is their label."""
    splits = {}
    for name, size in (("train", 50), ("valid", 20), ("test", 20)):
        y = torch.arange(size) * 7 % classes
        levels = y.to(torch.uint8)[:, None].repeat(1, 4)
        splits[name] = Split.make(name, levels, y if labels else None, classes, "levels", 0)
    return Splits(**splits, x_shape=(4,), num_classes=classes if labels else 0, protocol={})


class Spy(pv.VAE):
    """Keeps what model and guide are called with."""

    def model(self, x=None, y=None):
        self.seen.append(("model", self.training, x, y))
        return super().model(x, y)

    def guide(self, x, y=None):
        self.seen.append(("guide", self.training, x, y))
        return super().guide(x, y)


def conditional(y_dim, x_shape=(4,), likelihood=pv.likelihoods.Normal, kind=pv.VAE, lr=1e-2):
    with stream(0, "init"):
        vae = kind(
            pv.priors.ConditionalNormal(2, y_dim) if y_dim else pv.priors.StandardNormal(2),
            pv.posteriors.DiagonalNormal(pv.networks.MLP(x_shape, (4,), hidden=(16,), y_dim=y_dim), 2),
            likelihood(pv.networks.MLP((2,), x_shape, hidden=(16,), y_dim=y_dim)),
        )
    vae.seen = []
    return vae, SVI(vae.model, vae.guide, torch.optim.Adam(vae.parameters(), lr=lr), MeanFieldELBO())


def test_labels_reach_model_and_guide_one_hot_beside_their_data():
    vae, svi = conditional(3, kind=Spy)
    list(fit(vae, svi, labelled(), Schedule(epochs=2, batch_size=16), conditional=True))
    assert {(half, training) for half, training, _, _ in vae.seen} == {
        ("model", True), ("guide", True), ("model", False), ("guide", False),
    }  # fmt: skip
    for _, training, x, y in vae.seen:
        assert (y.shape, y.dtype) == ((len(x), 3), torch.float32)
        assert len(x) in ((16, 2) if training else (20,))
        assert all(row.tolist() == [float(c == int(v[0])) for c in range(3)] for v, row in zip(x, y, strict=True))


@pytest.mark.thorough
def test_the_steps_of_a_conditional_fit_can_be_graphs(monkeypatch):
    monkeypatch.setattr(step_graphs, "TRACE_AFTER", 0)
    vae, svi = conditional(3)
    traced = [record.loss for record in fit(vae, svi, labelled(), Schedule(epochs=2, batch_size=16), conditional=True)]
    assert (svi.graphs.mode, len(svi.graphs._graphs)) == ("auto", 2)
    vae, svi = conditional(3)
    svi.graphs.mode = False
    by_pyro = [record.loss for record in fit(vae, svi, labelled(), Schedule(epochs=2, batch_size=16), conditional=True)]
    assert traced == by_pyro


def test_a_label_that_is_no_class_is_refused_before_the_first_step():
    vae, svi = conditional(3)
    data = labelled()
    data.train.labels[5] = 7
    with pytest.raises(DataError, match="labels must be whole numbers from 0 to 2; got 7"):
        next(fit(vae, svi, data, Schedule(epochs=1), conditional=True))
    assert svi.num_steps == 0


def test_without_conditional_the_labels_stay_where_they_are():
    vae, svi = conditional(0, kind=Spy)
    next(fit(vae, svi, labelled(), Schedule(epochs=1)))
    assert {y for *_, y in vae.seen} == {None}


def test_a_program_without_labels_refuses_them():
    with pytest.raises(ValueError, match=r"was built without labels \(y_dim=0\) and got labels of 3 columns"):
        next(fit(*conditional(0), labelled(), Schedule(epochs=1), conditional=True))


def test_a_conditional_program_refuses_to_go_without():
    with pytest.raises(ValueError, match=r"y_dim=3 and got 0 label columns: pass one-hot labels \(B, 3\)"):
        next(fit(*conditional(3), labelled(), Schedule(epochs=1)))


@pytest.mark.parametrize("y_dim", [0, 3])
def test_data_without_labels_are_refused_before_the_first_step(y_dim):
    vae, svi = conditional(y_dim)
    with pytest.raises(DataError, match="a conditional program needs labels, and these data have none"):
        next(fit(vae, svi, labelled(labels=False), Schedule(epochs=1), conditional=True))
    assert svi.num_steps == 0


def test_a_conditional_fit_goes_on_bitwise(data):
    check_going_on(
        lambda: conditional(10, (1, 8, 8), pv.likelihoods.Bernoulli), data, Schedule(epochs=4), conditional=True
    )


def test_the_validation_numbers_are_those_given_the_labels():
    data = labelled()
    vae, svi = conditional(3)
    record = next(fit(vae, svi, data, Schedule(epochs=1), conditional=True))
    x, y = data.valid.fixed(), torch.eye(3)[data.valid.labels]
    seed = derive(0, "validation")
    assert record.valid_elbo == pv.evaluation.elbo(vae, x, 4, y, seed).mean
    assert record.valid_elbo != pytest.approx(pv.evaluation.elbo(vae, x, 4, y.roll(1, 1), seed).mean, rel=1e-3)


# The plain autoencoder.


@pytest.fixture(scope="module")
def still():
    return pv.data.load("digits", binarize="threshold")


def autoencoder(lr=3e-3):
    with stream(0, "init"):
        vae = pv.VAE(
            pv.priors.StandardNormal(5),
            pv.posteriors.Delta(pv.networks.MLP((1, 8, 8), (5,), hidden=(32,)), 5),
            pv.likelihoods.Bernoulli(pv.networks.MLP((5,), (1, 8, 8), hidden=(32,))),
        )
    return vae, SVI(vae.model, vae.guide, torch.optim.Adam(vae.parameters(), lr=lr), MeanFieldELBO())


@torch.no_grad()
def at_the_code(vae, x):
    return vae.likelihood(vae.posterior.encoder(x)).log_prob(x).double().mean().item()


@pytest.mark.parametrize("weight", [1.0, 2.0])
def test_the_loss_of_an_autoencoder_is_its_reconstruction_without_noise(still, weight):
    vae, svi = autoencoder(lr=0.0)
    progress, schedule = Progress(), Schedule(epochs=1, kl_weight=0.0, reconstruction_weight=weight)
    record = next(fit(vae, svi, still, schedule, progress=progress))
    assert record.loss == pytest.approx(-weight * at_the_code(vae, still.train.fixed()), rel=1e-5)
    assert record.valid_reconstruction == pytest.approx(at_the_code(vae, still.valid.fixed()), rel=1e-6)
    assert progress.best_score == pytest.approx(weight * record.valid_reconstruction)
    assert (progress.best_epoch, record.best) == (1, True)


def test_an_autoencoder_under_a_kl_is_refused(still):
    with pytest.raises(ValueError, match="train a plain autoencoder with `kl_weight=0`, not 1"):
        next(fit(*autoencoder(), still, Schedule(epochs=1)))


@pytest.mark.thorough
def test_an_autoencoder_keeps_the_epoch_that_reconstructs_best(still):
    vae, svi = autoencoder(lr=0.1)  # so fast that the last epoch is not the best
    progress = Progress()
    records = list(fit(vae, svi, still, Schedule(epochs=8, kl_weight=0.0, batch_size=64), progress=progress))
    best = max(records, key=lambda record: record.valid_reconstruction)
    assert progress.best_epoch == best.epoch < 8
    assert at_the_code(vae, still.valid.fixed()) == pytest.approx(best.valid_reconstruction, rel=1e-6)
    untrained = at_the_code(autoencoder()[0], still.valid.fixed())
    assert best.valid_reconstruction > untrained + 10


def test_the_record_of_an_autoencoder_says_nothing_where_a_bound_is_infinite(still):
    record = next(fit(*autoencoder(), still, Schedule(epochs=1, kl_weight=0.0)))
    assert (record.valid_elbo, record.valid_kl) == (-math.inf, math.inf)
    said = record.to_dict()
    assert [name for name, value in said.items() if value is None] == [
        "valid_elbo", "valid_standard_error", "valid_kl",
    ]  # fmt: skip
    assert said["valid_reconstruction"] == record.valid_reconstruction
    assert said["best"] is True
    json.dumps(said, allow_nan=False)


def test_a_mapped_file_trains_as_the_same_data_in_memory(tmp_path):
    levels = torch.randint(17, (300, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    numpy.save(tmp_path / "x.npy", levels.numpy())
    runs = []
    for map_above in (1 << 30, 0):
        data = pv.data.load(tmp_path / "x.npy", binarize="dynamic", map_above=map_above)
        vae, svi = build()
        records = [record.to_dict() for record in fit(vae, svi, data, Schedule(epochs=2, batch_size=32))]
        runs.append((records, tensors(vae, svi), data.train.rows is None))
    (memory, first, in_memory), (mapped, second, also_in_memory) = runs
    assert (in_memory, also_in_memory) == (True, False)
    assert memory == mapped
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("read-ahead")]


def test_the_data_are_moved_once_and_not_batch_by_batch(data, monkeypatch):
    moves = []
    to = Splits.to
    monkeypatch.setattr(Splits, "to", lambda self, device: moves.append(device) or to(self, device))
    vae, svi = build()
    list(fit(vae, svi, data, Schedule(epochs=2)))
    assert moves == [torch.device("cpu")]
