"""fit: epochs, best state, early stopping, warm-up, and going on as if nothing had happened."""

import copy
import math

import pytest
import torch
from torch import nn

import pyro_vae as pv
from pyro_vae.errors import DivergenceError
from pyro_vae.inference import SVI, ImportanceWeightedELBO, MeanFieldELBO, Progress, Trace_ELBO, fit
from pyro_vae.inference.training import Schedule
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
        (MeanFieldELBO, {}),
        (Trace_ELBO, {"kl_warmup": 4, "lr_schedule": "cosine", "reconstruction_weight": 2.0}),
        (lambda: ImportanceWeightedELBO(3), {"lr_schedule": "step"}),
    ],
)
def test_going_on_is_bitwise_the_run_without_a_break(data, loss, options):
    schedule = Schedule(epochs=5, **options)
    vae, svi = build(loss())
    whole = []
    for record in fit(vae, svi, data, schedule, seed=3):
        whole.append(record)
        last = tensors(vae, svi)
    vae, svi = build(loss())
    progress, records = Progress(), []
    for record in fit(vae, svi, data, schedule, seed=3, progress=progress):
        records.append(record)
        if record.epoch == 2:
            break
    saved = copy.deepcopy((vae.state_dict(), svi.optimizer.state_dict(), progress))
    vae, svi = build(loss())
    vae.load_state_dict(saved[0])
    svi.optimizer.load_state_dict(saved[1])
    torch.manual_seed(12345)  # the caller's random state must not matter
    for record in fit(vae, svi, data, schedule, seed=3, progress=saved[2]):
        records.append(record)
        again = tensors(vae, svi)
    assert records == whole
    assert all(torch.equal(a, b) for a, b in zip(last, again, strict=True))


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
    for record in fit(vae, svi, data, Schedule(epochs=8), progress=progress):
        states[record.epoch] = [p.detach().clone() for p in vae.parameters()]
        assert record.best == (record.valid_elbo > best)
        best = max(best, record.valid_elbo)
    assert progress.best_score == pytest.approx(best, abs=1e-12)
    assert progress.best_epoch < 8
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


@pytest.mark.parametrize(("weights", "kl_rises"), [({"kl_weight": 0.0}, True), ({"reconstruction_weight": 0.0}, False)])
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
    with pytest.raises(DivergenceError, match="epoch 2: the validation ELBO is not finite"):
        next(records)
    best = progress.best_tensors
    assert all(torch.equal(best[name], tensor) for name, tensor in vae.tensors().items())
    assert progress.epoch == 1


def test_divergence_leaves_the_last_good_state(data):
    vae, svi = build(lr=1e25)
    with pytest.raises(DivergenceError):
        list(fit(vae, svi, data, Schedule(epochs=5)))
    assert all(torch.isfinite(p).all() for p in vae.parameters())
