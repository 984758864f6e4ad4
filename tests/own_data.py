"""Arrays of a user's own, and what their splits are compared by."""

import numpy as np
import torch

RNG = np.random.default_rng(0)
BYTES = RNG.integers(0, 256, (60, 3, 2), dtype=np.uint8)
TABLE = RNG.normal(size=(60, 5))
Y = np.arange(60) % 3
NAMES = ("train", "valid", "test")


def parts(splits):
    return [getattr(splits, name) for name in NAMES]


def saved(tmp_path, **arrays):
    np.savez(tmp_path / "own.npz", **arrays)
    return tmp_path / "own.npz"


def notes(splits):
    return " ".join(splits.protocol["notes"])


def same(a, b):
    for one, other in zip(parts(a), parts(b), strict=True):
        torch.testing.assert_close(one.levels, other.levels, rtol=0, atol=0, equal_nan=True)
        torch.testing.assert_close(one.fixed(), other.fixed(), rtol=0, atol=0, equal_nan=True)
        assert one.file_rows.tolist() == other.file_rows.tolist()
        assert (one.labels is None) == (other.labels is None)
        assert one.labels is None or one.labels.tolist() == other.labels.tolist()
    for fact in ("sha256", "shape", "num_levels", "num_classes", "split", "notes"):
        assert a.protocol[fact] == b.protocol[fact], fact
    assert (a.form, a.classes) == (b.form, b.classes)
