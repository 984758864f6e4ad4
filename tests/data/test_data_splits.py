"""What a model sees: recipes against their formulas, draws as functions of (seed, epoch) alone."""

import math

import pytest
import torch

from pyro_vae.data import Form, Split, Splits, one_hot
from pyro_vae.errors import DataError, UsageError
from pyro_vae.randomness import generator

LEVELS = torch.tensor([0, 16, 64, 100, 128, 200, 254, 255], dtype=torch.uint8)
MANY = LEVELS.repeat(50, 1)


def make(recipe, levels=MANY, num_levels=256, seed=0, name="train", labels=None):
    return Split.make(name, levels, labels, num_levels, recipe, seed)


def epoch_of(split, batch_size=7, seed=0, epoch=0):
    return torch.cat([x for x, _ in split.batches(batch_size, seed=seed, epoch=epoch)])


NAMES = ("train", "valid", "test")
RANDOM = ["dynamic", "dequantize"]
RECIPES = ["none", "static", "threshold", "levels", *RANDOM]


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_pass_covers_each_datum_once_and_ends_with_a_short_batch(recipe):
    split = make(recipe, levels=torch.arange(100, dtype=torch.uint8)[:, None], labels=torch.arange(100))
    batches = list(split.batches(30, seed=0, epoch=3))
    assert [len(x) for x, _ in batches] == [30, 30, 30, 10]
    assert all(x.dtype == torch.float32 for x, _ in batches)
    labels = torch.cat([y for _, y in batches])
    assert labels.sort().values.tolist() == list(range(100))
    assert labels.tolist() != list(range(100))


def test_the_order_changes_from_epoch_to_epoch_and_with_the_seed():
    split = make("none", levels=torch.arange(100, dtype=torch.uint8)[:, None])
    orders = [epoch_of(split, seed=seed, epoch=epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert len({tuple(order.flatten().tolist()) for order in orders}) == 4


def test_labels_stay_with_their_images():
    split = make("none", levels=torch.arange(100, dtype=torch.uint8)[:, None], labels=torch.arange(100))
    for x, y in split.batches(9, seed=1, epoch=0):
        torch.testing.assert_close(x[:, 0] * 255, y.float())


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_same_seed_and_epoch_repeat_and_others_do_not(recipe):
    split = make(recipe)
    torch.testing.assert_close(epoch_of(split, epoch=4), epoch_of(split, epoch=4), rtol=0, atol=0)
    if recipe in RANDOM:
        assert not torch.equal(epoch_of(split, epoch=4), epoch_of(split, epoch=5))
        assert not torch.equal(epoch_of(split, seed=1), epoch_of(split, seed=2))


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_global_random_state_is_neither_read_nor_changed(recipe):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = make(recipe)
    seen = epoch_of(first), first.fixed()
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    second = make(recipe)
    assert torch.equal(seen[0], epoch_of(second))
    assert torch.equal(seen[1], second.fixed())


def test_the_mean_of_dynamic_draws_is_the_intensity():
    """20,000 draws for each of 8 levels, bound 5 standard errors: fails by chance in 1 of 200,000 seeds."""
    split = make("dynamic", levels=LEVELS.repeat(2000, 1))
    x = torch.cat([epoch_of(split, 1000, epoch=epoch) for epoch in range(10)])
    p = LEVELS / 255
    assert ((x == 0) | (x == 1)).all()
    assert ((x.mean(0) - p).abs() <= 5 * (p * (1 - p) / len(x)).sqrt()).all()


def test_static_training_data_are_the_fixed_draw_in_every_epoch():
    split = make("static", levels=torch.randint(0, 256, (64, 9), dtype=torch.uint8), labels=torch.arange(64))
    for epoch in range(2):
        for x, y in split.batches(10, seed=epoch, epoch=epoch):
            assert torch.equal(x, split.fixed()[y])
    assert torch.equal(split.fixed(), make("dynamic", levels=split.levels).fixed())


@pytest.mark.parametrize("recipe", RANDOM)
def test_the_fixed_draw_depends_on_data_seed_and_name_only(recipe):
    fixed = make(recipe, seed=3, name="test").fixed()
    assert torch.equal(fixed, make(recipe, seed=3, name="test").fixed())
    assert not torch.equal(fixed, make(recipe, seed=4, name="test").fixed())
    assert not torch.equal(fixed, make(recipe, seed=3, name="valid").fixed())
    assert fixed.dtype == torch.float32
    assert fixed.shape == (50, 8)


def test_a_fixed_draw_over_several_blocks_has_no_repeated_noise(monkeypatch):
    monkeypatch.setattr("pyro_vae.data.splits._BLOCK_NUMBERS", 80)
    x = make("dequantize", levels=torch.zeros(60, 4, dtype=torch.uint8)).fixed()
    assert len(x.unique(dim=0)) == 60


def test_threshold_puts_the_middle_up():
    levels = torch.arange(17, dtype=torch.uint8)[:, None]
    x = make("threshold", levels=levels, num_levels=17).fixed()
    assert x[:, 0].tolist() == [0.0] * 8 + [1.0] * 9


@pytest.mark.parametrize("num_levels", [2, 3, 4, 16, 255, 256, None])
def test_threshold_puts_up_what_is_at_least_one_half(num_levels):
    whole = torch.arange(num_levels or 9, dtype=torch.uint8)[:, None]
    levels = whole if num_levels else whole / 8
    x = make("threshold", levels=levels, num_levels=num_levels).fixed()
    assert x[:, 0].tolist() == [float(2 * v >= (num_levels or 9) - 1) for v in range(num_levels or 9)]


def test_intensities():
    split = make("dynamic", levels=torch.tensor([[0], [4], [16]], dtype=torch.uint8), num_levels=17)
    assert split.intensities().tolist() == [[0.0], [0.25], [1.0]]
    assert split.intensities(slice(1, 2)).tolist() == [[0.25]]
    assert split.intensities(torch.tensor([2, 0])).tolist() == [[1.0], [0.0]]


def test_floats_are_taken_as_they_are():
    levels = torch.tensor([[-3.5, 2.25]])
    split = make("none", levels=levels, num_levels=None)
    assert torch.equal(split.fixed(), levels)
    assert torch.equal(split.intensities(), levels)


@pytest.mark.parametrize("levels", [LEVELS[None], torch.tensor([[0.0, 3.0, 1e6]])], ids=["bytes", "counts"])
def test_levels_are_taken_as_the_whole_numbers_that_they_are(levels):
    split = make("levels", levels=levels, num_levels=256 if levels.dtype == torch.uint8 else None)
    for x in (split.fixed(), split.expected(), epoch_of(split)):
        assert x.dtype == torch.float32
        assert x.tolist() == [list(map(float, levels[0].tolist()))]
    assert split.log_jacobian == 0.0


@pytest.mark.parametrize("num_levels", [2, 16, 17, 256])
def test_dequantised_data_stay_inside_their_level_and_fill_it(num_levels):
    """Mean of u over 10,000 draws a level within 5 standard errors (1 / sqrt 12 / 100): p < 1e-6 a level."""
    levels = torch.arange(num_levels, dtype=torch.uint8).repeat(10_000, 1)
    x = make("dequantize", levels=levels, num_levels=num_levels).fixed()
    assert x.min() > 0
    assert x.max() < 1
    u = x.double() * num_levels - levels
    assert u.min() > -1e-5
    assert u.max() < 1 + 1e-5
    assert ((u.mean(0) - 0.5).abs() < 5 / math.sqrt(12) / 100).all()
    assert abs(u.var() - 1 / 12) < 1e-3


def test_no_level_of_eight_bits_is_lost_to_rounding():
    levels = torch.full((2000, 1000), 255, dtype=torch.uint8)
    assert ((make("dequantize", levels=levels).fixed() * 256).floor() == 255).all()


def test_the_log_jacobian_of_a_uniform_density_is_exact():
    """x ~ U[0,1]^d has log p(x) = 0, and each of the L**d discrete images has probability L**-d."""
    split = make("dequantize", levels=torch.zeros(5, 3, 4, 4, dtype=torch.uint8), num_levels=17)
    assert split.log_jacobian == pytest.approx(-48 * math.log(17), rel=1e-15)
    assert make("none").log_jacobian == make("dynamic").log_jacobian == 0.0


def test_the_jacobian_turns_a_density_into_a_lower_bound_on_the_discrete_probability():
    """p(x) = 2 x on [0, 1], L = 4: the integral over level v is P(v) = (2 v + 1) / 16 exactly.

    The bound is E_u log 2 (v + u) / 4 - log 4; its gap to log P(v) is Jensen's, at most 0.31 nats (v = 0).
    100,000 draws, standard error of the mean below 1 / sqrt(100,000); the margin is 5 of them.
    """
    split = make("dequantize", levels=torch.arange(4, dtype=torch.uint8).repeat(100_000, 1), num_levels=4)
    bound = (2 * split.fixed().double()).log().mean(0) + split.log_jacobian / 4
    log_p = ((2 * torch.arange(4, dtype=torch.float64) + 1) / 16).log()
    v = torch.arange(4, dtype=torch.float64)
    exact = torch.xlogy(v + 1, v + 1) - torch.xlogy(v, v) - 1 + math.log(2 / 16)
    margin = 5 / math.sqrt(100_000)
    assert ((bound - exact).abs() < margin).all()
    assert (bound <= log_p + margin).all()
    assert (exact <= log_p).all()
    assert bound.exp().sum() <= 1


@pytest.mark.parametrize("batch_size", [0, -3])
def test_a_batch_size_below_one_is_refused_at_the_call(batch_size):
    with pytest.raises(UsageError, match=f"at least 1; got {batch_size}"):
        make("none").batches(batch_size, seed=0, epoch=0)


def test_labels_become_one_hot_rows():
    labels = torch.tensor([2, 0, 3, 2])
    rows = [[float(c == label) for c in range(5)] for label in (2, 0, 3, 2)]
    for y in (one_hot(labels, 5), make("none", levels=MANY[:4], labels=labels).one_hot(5)):
        assert y.dtype == torch.float32
        assert y.tolist() == rows


@pytest.mark.parametrize("label", [-1, 5, 11])
def test_a_label_beyond_the_classes_is_no_row_of_zeros(label):
    with pytest.raises(DataError, match=f"labels must be whole numbers from 0 to 4; got {label}"):
        one_hot(torch.tensor([4, label, 0]), 5)


def test_data_without_labels_have_no_one_hot_ones():
    with pytest.raises(DataError, match=r"these data have none: leave out `conditional=True`"):
        make("none").one_hot(3)


@pytest.mark.parametrize(("num_levels", "classes"), [(17, 3), (None, 0)])
def test_the_form_is_what_a_program_must_know(num_levels, classes):
    parts = {name: make("none", num_levels=num_levels, name=name) for name in ("train", "valid", "test")}
    splits = Splits(**parts, x_shape=(8,), num_classes=classes, protocol={})
    assert splits.form == Form(x_shape=(8,), num_levels=num_levels, num_classes=classes)
    assert Form((8,)) == ((8,), None, 0, "as_stored")


def on_three(recipe, **options):
    parts = {name: make(recipe, name=name, labels=torch.arange(len(MANY)), **options) for name in NAMES}
    return Splits(**parts, x_shape=(8,), num_classes=0, protocol={})


@pytest.mark.parametrize("recipe", ["dynamic", "static"])
def test_on_the_device_where_they_are_nothing_is_copied(recipe):
    splits = on_three(recipe)
    moved = splits.to("cpu")
    for name in NAMES:
        before, after = getattr(splits, name), getattr(moved, name)
        assert after.levels is before.levels
        assert after.labels is before.labels
        assert after.drawn is before.drawn
        assert after.device == torch.device("cpu")


@pytest.mark.parametrize("recipe", ["none", "threshold", "static"])
def test_batches_are_made_on_the_device_of_the_data(recipe):
    """On the device without content, where shapes and types are all there is."""
    for split in (getattr(on_three(recipe).to("meta"), name) for name in NAMES):
        assert split.device.type == split.levels.device.type == split.labels.device.type == "meta"
        assert split.levels.dtype == torch.uint8
        batches = list(split.batches(20, seed=0, epoch=0))
        assert [(len(x), len(y)) for x, y in batches] == [(20, 20), (20, 20), (10, 10)]
        assert {t.device.type for batch in batches for t in batch} == {"meta"}
        assert split.fixed().device.type == "meta"


def test_the_noise_of_a_fixed_draw_is_that_of_the_cpu_and_moves(monkeypatch):
    drawn = []
    monkeypatch.setattr("pyro_vae.data.splits.generator", lambda *a, device=None: drawn.append(device) or generator(*a))
    split = make("dynamic").to("meta")
    assert split.fixed().device.type == "meta"
    assert drawn == [None]
    next(split.raw_batches(5, seed=0, epoch=0))
    assert drawn == [None, None, torch.device("meta")]  # the order on the CPU, the noise on the device


def test_a_mapped_split_stays_and_its_batches_move():
    rows = torch.arange(49, -1, -1)
    split = Split.make("train", MANY, torch.arange(50), 256, "none", 0, rows).to("meta")
    assert (split.levels.device.type, split.rows.device.type, split.device.type) == ("cpu", "cpu", "meta")
    assert {t.device.type for batch in split.batches(20, seed=0, epoch=0) for t in batch} == {"meta"}


def test_some_data_of_a_fixed_draw_are_those_of_all(monkeypatch):
    monkeypatch.setattr("pyro_vae.data.splits._BLOCK_NUMBERS", 80)
    split = make("dynamic", name="test")
    some = torch.tensor([49, 3, 3, 10, 9, 0])
    assert torch.equal(split.fixed(some), split.fixed()[some])
    assert [(first, len(x)) for first, x in split.blocks()] == [(0, 10), (10, 10), (20, 10), (30, 10), (40, 10)]
