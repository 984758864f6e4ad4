"""A file that is mapped: the numbers of the same data in memory, and no memory."""

import json
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch

from pyro_vae.data import Split, load
from pyro_vae.errors import DataError, UsageError
from pyro_vae.experiment import build
from pyro_vae.experiment.config import Config

RNG = np.random.default_rng(0)
BYTES = RNG.integers(0, 256, (60, 3, 2), dtype=np.uint8)
UNIT = RNG.random((60, 5), dtype=np.float32)
NAMES = ("train", "valid", "test")


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    monkeypatch.setattr("pyro_vae.data.formats._BLOCK", 64)
    monkeypatch.setattr("pyro_vae.data.splits._BLOCK_NUMBERS", 42)


def saved(tmp_path, array):
    np.save(tmp_path / "own.npy", array)
    return tmp_path / "own.npy"


def both(path, **choices):
    return load(path, **choices), load(path, map_above=0, **choices)


def parts(splits):
    return [getattr(splits, name) for name in NAMES]


def without_equal_rows(splits):
    """The protocol without the note on equal data, which are not looked for in a mapped file."""
    notes = [note for note in splits.protocol["notes"] if "equal to a training datum" not in note]
    return {**splits.protocol, "notes": notes}


def same(a, b):
    assert a.dtype == b.dtype
    torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(
    ("array", "choices"),
    [
        (BYTES, {}),
        (BYTES, {"binarize": "dynamic"}),
        (BYTES, {"binarize": "dynamic", "split": "contiguous"}),
        (BYTES[:, None].repeat(3, 1), {"binarize": "threshold"}),
        (BYTES, {"dequantize": True}),
        (BYTES, {"levels": True}),
        (BYTES > 99, {"binarize": "dynamic"}),
        (BYTES.astype(np.int32), {"dequantize": True}),
        (BYTES.astype(np.int32) * 200, {"binarize": "dynamic"}),
        (BYTES.astype(np.int32) * 200, {"counts": True}),
        (BYTES, {"counts": True}),
        (np.where(BYTES > 99, UNIT[:, :3, None], np.nan).astype(np.float32), {"missing": True, "binarize": "dynamic"}),
        (np.where(BYTES > 99, BYTES > 200, np.nan).astype(np.float32), {"missing": True}),
        ((BYTES > 99).astype(np.uint8), {}),
        ((BYTES > 99).astype(np.float32), {}),
        (UNIT, {"binarize": "dynamic"}),
        (RNG.normal(size=(60, 5)).astype(np.float32), {}),
    ],
)
def test_the_numbers_are_those_of_the_data_in_memory(tmp_path, array, choices):
    memory, mapped = both(saved(tmp_path, array), **choices)
    assert without_equal_rows(mapped) == without_equal_rows(memory)
    assert mapped.form == memory.form
    for a, b in zip(parts(memory), parts(mapped), strict=True):
        assert (a.rows, len(b.rows)) == (None, len(a))
        for made in (Split.fixed, Split.expected, Split.intensities):
            same(made(a), made(b))
        same(a.levels, b.in_memory().levels)
        some = torch.tensor([len(a) - 1, 0, 2])
        same(a.fixed()[some], b.fixed(some))
        for raw, other in zip(a.raw_batches(9, seed=1, epoch=2), b.raw_batches(9, seed=1, epoch=2), strict=True):
            same(raw.levels, other.levels)
            assert (raw.noise is None) == (other.noise is None)
            assert raw.noise is None or torch.equal(raw.noise, other.noise)
            same(a.x(raw.levels, raw.noise), b.x(other.levels, other.noise))


def test_the_start_of_training_is_the_same(tmp_path):
    config = Config(prior="vamp", num_components=8, hidden=(16,), latent_dim=2)
    started = []
    for data in both(saved(tmp_path, BYTES), binarize="dynamic"):
        vae = build.vae(config, *data.form)
        build.start(config, vae, data)
        started.append(vae.state_dict())
    assert all(torch.equal(tensor, started[1][name]) for name, tensor in started[0].items())


def test_a_file_is_mapped_above_the_threshold_only(tmp_path):
    path = saved(tmp_path, BYTES)
    size = path.stat().st_size
    assert load(path, map_above=size).train.rows is None
    assert load(path, map_above=size - 1).train.rows is not None
    assert load(path).train.rows is None


def test_the_three_splits_share_one_map(tmp_path):
    splits = load(saved(tmp_path, BYTES), map_above=0)
    assert len({split.levels.data_ptr() for split in parts(splits)}) == 1
    rows = torch.cat([split.rows for split in parts(splits)])
    assert rows.sort().values.tolist() == list(range(60))


def test_batches_of_a_map_are_read_ahead_and_end_with_their_iterator(tmp_path):
    def readers():
        return [thread for thread in threading.enumerate() if thread.name.startswith("read-ahead")]

    memory, mapped = both(saved(tmp_path, BYTES))
    for split, expected in ((memory.train, 0), (mapped.train, 1)):
        for made in (split.batches, split.raw_batches):
            batches = made(5, seed=0, epoch=0)
            next(batches)
            assert len(readers()) == expected
            batches.close()
            assert not readers()


def changed(array, where, value):
    array = array.copy()
    array[where] = value
    return array


@pytest.mark.parametrize(
    ("array", "choices", "message"),
    [
        (
            BYTES.astype(np.int64),
            {},
            r"own.npy: holds <i8 \(int64\) in C order.*uint8, bool, or little-endian float32 or int32",
        ),
        (UNIT.astype(np.float64), {}, "float64"),
        (UNIT.astype(">f4"), {}, "holds >f4"),
        (np.asfortranarray(BYTES), {}, r"in Fortran order.*np.ascontiguousarray"),
        (changed(UNIT, (41, 3), np.nan), {}, r"nan at row 41, position \(3,\)"),
        (changed(UNIT, (41, 3), 1.5), {"binarize": "dynamic"}, "got 1.5 at row 41"),
        (BYTES.astype(object), {}, "never loaded"),
    ],
)
def test_refuses(tmp_path, array, choices, message):
    with pytest.raises(DataError, match=message):
        load(saved(tmp_path, array), map_above=0, **choices)


def test_a_value_in_a_late_block_of_a_file_in_memory_is_named_by_its_row(tmp_path):
    with pytest.raises(DataError, match="nan at row 41"):
        load(saved(tmp_path, changed(UNIT, (41, 3), np.nan)))
    for value in (65536, -1):
        with pytest.raises(DataError, match=f"{value} at row 41"):
            load(saved(tmp_path, changed(BYTES.astype(np.int32), (41, 2, 0), value)))


def test_a_two_in_the_last_block_is_not_binary(tmp_path):
    array = changed((BYTES > 99).astype(np.uint8), (59, 2, 1), 2)
    assert {splits.train.num_levels for splits in both(saved(tmp_path, array))} == {3}


def test_a_static_draw_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"`binarize='static'` keeps its draw in memory.*`binarize='dynamic'`"):
        load(saved(tmp_path, BYTES), map_above=0, binarize="static")


def test_a_damaged_file(tmp_path):
    path = saved(tmp_path, BYTES)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DataError, match=r"own.npy: cannot be read"):
        load(path, map_above=0)
    path.write_bytes(b"0.1, 0.2\n" * 20)
    with pytest.raises(DataError, match=r"own.npy: is not a numpy file"):
        load(path, map_above=0)


def test_data_outside_the_support_are_named_by_their_row_of_the_file(tmp_path):
    config = Config(likelihood="bernoulli", binarize="none", latent_dim=2, hidden=(8,))
    array = changed((BYTES > 99).astype(np.float32)[:, 0], (31, 1), 0.5)
    for data in both(saved(tmp_path, array), split="contiguous", standardize="no"):
        with pytest.raises(DataError, match=r"got 0.5 at row 31, position \(1,\)"):
            build.start(config, build.vae(config, *data.form), data)


def test_a_large_split_is_sampled_where_a_sample_will_do(tmp_path, monkeypatch):
    monkeypatch.setattr("pyro_vae.data.splits._SAMPLE", 5)
    array = np.arange(60, dtype=np.uint8)[:, None]
    memory, mapped = both(saved(tmp_path, array))
    assert memory.train.in_memory() is memory.train
    sample = mapped.train.in_memory()
    assert (len(sample), sample.rows, mapped.train.sample_size) == (5, None, 5)
    order = mapped.train.rows.tolist()
    places = [order.index(int(level)) for level in sample.levels]
    assert places == sorted(places) != list(range(5))
    assert not any("validation looks" in note for note in memory.protocol["notes"])
    assert "validation looks at a random 5 of the 6 validation data" in mapped.protocol["notes"][-1]
    monkeypatch.setattr("pyro_vae.data.splits._SAMPLE_NUMBERS", 3)
    assert mapped.train.sample_size == 3


MEMORY = """
import json, sys, threading
import numpy as np
import torch
import pyro_vae as pv
from pyro_vae.experiment import build
from pyro_vae.experiment.config import Config

torch.set_num_threads(1)
def anonymous():
    return next(int(line.split()[1]) << 10 for line in open("/proc/self/status") if line.startswith("RssAnon"))

peak, stop = [0], threading.Event()
def watch():
    while not stop.wait(0.002):
        peak[0] = max(peak[0], anonymous())

config = Config(latent_dim=2, hidden=(8,), batch_size=256, dataset=sys.argv[1])
build.vae(config, (784,))  # all imports
before = anonymous()
thread = threading.Thread(target=watch)
thread.start()
data = pv.data.load(sys.argv[1], map_above=1 << 20, binarize="dynamic")
vae = build.vae(config, *data.form)
build.start(config, vae, data)
data.train.in_memory()
passes = sum(len(x) for x, _ in data.train.batches(256, seed=0, epoch=0))
stop.set()
thread.join()
print(json.dumps({"grown": peak[0] - before, "passes": passes, "mapped": data.train.rows is not None}))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.thorough
def test_memory_stays_far_below_the_size_of_the_file(tmp_path):
    """300 MB on disk, of which the training data would be 210 in memory; what may be held is a few blocks."""
    path, size = tmp_path / "large.npy", 96_000
    array = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(size, 784))
    array.reshape(96, 1000, 784)[:] = RNG.random((1000, 784), dtype=np.float32)
    array.flush()
    script = "import pyro_vae.data.splits as s; s._SAMPLE = 1024\n" + MEMORY
    run = subprocess.run([sys.executable, "-c", script, str(path)], check=False, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    seen = json.loads(run.stdout)
    assert (seen["passes"], seen["mapped"]) == (7 * size // 10, True)
    assert seen["grown"] < path.stat().st_size / 3, seen
