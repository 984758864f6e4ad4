"""Data that must not be trained on end a script with exit code 3, one sentence and no folder, under python -O too."""

import contextlib
import functools
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cases import thorough

import pyro_vae.data

SCRIPTS = Path(__file__).parents[2] / "scripts"
RNG = np.random.default_rng(0)
BYTES = RNG.integers(2, 256, (30, 2, 3), dtype=np.uint8)
BITS = (BYTES > 99).astype(np.float32)
BERNOULLI = ["--binarize", "none"]
NORMAL = ["--likelihood", "normal"]
LABELS = ["--conditional"]
MANY = np.zeros((1001, 2), np.uint8)


def changed(array, value, where=(17, 1, 2), dtype=None):
    array = array.astype(dtype or array.dtype)
    array[where] = value
    return array


PLACE = r"at row 17, position \(0, 1, 2\)"
TABLE = {
    # What no likelihood takes.
    "nan": (changed(BITS, np.nan), [], f"array x has nan {PLACE}, which is not a finite float32. Remove"),
    "inf": (changed(BITS, np.inf), NORMAL, f"inf {PLACE}"),
    "minus-inf": (changed(BITS, -np.inf, dtype="f8"), NORMAL, f"-inf {PLACE}"),
    "beyond-float32": (changed(BITS, 1e39, dtype="f8"), NORMAL, rf"1e\+39 {PLACE}, which is not a finite float32"),
    "half-inf": (changed(BITS, np.inf, dtype="f2"), NORMAL, f"inf {PLACE}"),
    "minus-one": (changed(BYTES, -1, dtype="i2"), [], f"-1 {PLACE}; integers are read as levels 0, 1, "),
    "minus-one-8": (changed(BYTES // 2, -1, dtype="i1"), [], f"-1 {PLACE}"),
    "minus-one-64": (changed(BYTES, -1, dtype="i8"), [], f"-1 {PLACE}"),
    "level-65536": (changed(BYTES, 65536, dtype="u4"), [], f"65536 {PLACE}.*--likelihood negative_binomial"),
    "level-2**40": (changed(BYTES, 2**40, dtype="u8"), [], f"1099511627776 {PLACE}"),
    "level-2**63": (changed(BYTES, 2**63, dtype="u8"), [], f"9223372036854775808 {PLACE}"),
    # What a Bernoulli does not take, at its row of the file.
    "half": (changed(BITS, 0.5), BERNOULLI, r"half.npy: Bernoulli needs x in \{0, 1\}; got 0.5 at row 17"),
    "two": (changed(BITS, 2.0), BERNOULLI, r"got 2 at row 17.*--binarize dynamic"),
    "minus": (changed(BITS, -1.0), BERNOULLI, r"got -1 at row 17"),
    "full": (changed(BITS, 255.0, dtype="f8"), BERNOULLI, r"got 255 at row 17"),
    "grey": (BYTES, BERNOULLI, r"Bernoulli needs x in \{0, 1\}; got 0\.\d+ at row"),
    "two-drawn": (changed(BITS, 2.0), [], r"--binarize dynamic needs intensities in \[0, 1\]; got 2 at row 17. Save x"),
    "minus-drawn": (changed(BITS, -1.0), [], r"got -1 at row 17. Save \(x - x.min\(\)\) / "),
    # What other likelihoods do not take.
    "unit": (changed(BITS, 1.5), ["--likelihood", "continuous_bernoulli"], r"needs x in \[0, 1\]; got 1.5 at row 17"),
    "count": (changed(BITS, 1.5), ["--likelihood", "poisson"], f"1.5 {PLACE}; counts are whole .*--likelihood normal"),
    "minus-count": (changed(BITS, -3.0), ["--likelihood", "negative_binomial"], f"-3.0 {PLACE}; counts are"),
    "no-level": (changed(BITS, 0.5), ["--likelihood", "categorical"], r"whole number from 0 to 255; got 0.5"),
    "no-level-either": (changed(BITS, 256.0), ["--likelihood", "discretized_logistic"], "from 0 to 255; got 256"),
    # Shapes.
    "vector": (np.arange(30.0), [], r"shape \(30,\); expected \(N, D\).*x\[:, None\]"),
    "number": (np.float32(1.0), [], r"shape \(\); expected \(N, D\)"),
    "film": (BYTES[None, None], [], r"shape \(1, 1, 30, 2, 3\); expected"),
    "empty": (BYTES[:0], [], r"array x is empty, its shape is \(0, 2, 3\)"),
    "no-pixels": (BYTES[:, :, :0], [], r"array x is empty, its shape is \(30, 2, 0\)"),
    "one": (BYTES[:1], [], r"1 data are too few to split \(train 0 / valid 0 / test 1\)"),
    "four": (BYTES[:4], [], r"4 data are too few to split"),
    # Types.
    "complex": (BITS.astype(complex), [], "type complex128 is not supported; save bool, integers or floating-point"),
    "text": (BYTES.astype(str), [], "type <U3 is not supported"),
    "bytes": (BYTES.astype("S3"), [], r"type \|S3 is not supported"),
    "nothing": (np.zeros((30, 2), "V0"), [], r"type \|V0 is not supported"),
    "dates": (BYTES.astype("M8[s]"), [], r"type datetime64\[s\] is not supported"),
    "spans": (BYTES.astype("m8[s]"), [], r"type timedelta64\[s\] is not supported"),
    "records": (np.zeros((30, 2), [("a", "f4"), ("b", "u1")]), [], "is not supported; save bool"),
    "objects": (BYTES.astype(object), [], "Python objects need pickle, which can run code, and are never loaded"),
    # Archives.
    "labels-few": ({"x": BYTES, "y": np.arange(29)}, LABELS, "labels of x are int64 .29,.; expected one for each of"),
    "labels-nan": ({"x": BYTES, "y": np.full(30, np.nan)}, LABELS, "label of row 0 of x is missing. Drop such"),
    "labels-blank": ({"x": BYTES, "y": np.array([*"ab" * 14, "", "b"])}, LABELS, "label of row 28 of x is missing"),
    "labels-dates": ({"x": BYTES, "y": np.zeros(30, "M8[s]")}, LABELS, r"of type datetime64\[s\]; save strings"),
    "labels-two": ({"x": BYTES, "y": np.ones((30, 2))}, LABELS, r"float64 \(30, 2\); expected one .* or one-hot rows"),
    "labels-many": ({"x": MANY, "y": np.arange(1001)}, LABELS, r"1001 different values, and at most 1000 classes"),
    "labels-some": ({"x_train": BYTES, "x_test": BYTES, "y_train": np.arange(30)}, LABELS, "labels only for x_train"),
    "no-images": ({"y": np.arange(30)}, [], "holds the arrays y. Name the data x"),
    "two-images": ({"x": BYTES, "data": BYTES}, [], "both x and data could be x. Name the data x"),
    "sparse": ({"indices": BITS, "indptr": BITS, "shape": BITS, "data": BITS}, [], r"scipy.sparse.*\.toarray\(\)"),
    "mask": ({"x": BYTES, "mask": BYTES > 9}, [], r"holds a mask of missing numbers: use .*missing"),
    "channels-last": (BYTES[..., None], [], r"use --channels last, or save x.transpose\(0, 3, 1, 2\)"),
    "level-17": (BYTES, ["--levels", "17"], r"--levels 17 means whole numbers 0 ... 16"),
    "channels": ({"x_train": BYTES, "x_test": BYTES[:, :1]}, [], "must have one type and one shape per datum"),
    "types": ({"x_train": BYTES, "x_test": BITS}, [], "must have one type and one shape per datum"),
    "no-test": ({"x_test": BYTES[:0], "x_train": BYTES}, [], r"array x_test is empty"),
    "few-given": ({"x_test": BYTES, "x_train": BYTES[:5]}, [], r"5 data are too few to split \(train 5 / valid 0\)"),
}  # fmt: skip
MAPPED = {n: row for n, row in TABLE.items() if not isinstance(row[0], dict) and row[0].dtype.str in ("<f4", "|u1")}
CASES = [*((name, False) for name in TABLE), *((name, True) for name in MAPPED)]

# Legal, if odd.
DEGENERATE = {
    "all-0": (np.zeros((30, 5), np.uint8), []),
    "all-1": (np.ones((30, 5), bool), []),
    "all-grey": (np.full((30, 2, 3), 0.25, np.float32), []),
    "all-7": (np.full((30, 2, 3), 7, np.uint8), ["--likelihood", "discretized_logistic"]),
    "all-5": (np.full((30, 2, 3), 5, np.int64), ["--likelihood", "categorical"]),
    "no-counts": (np.zeros((30, 3), np.float32), ["--likelihood", "poisson"]),
    "all-minus": (np.full((30, 3), -2.5), [*NORMAL, "--learn-scale", "one"]),
    "all-half": (np.full((30, 2, 2), 0.5, np.float16), ["--likelihood", "continuous_bernoulli"]),
    "fewest": (BYTES[:5], ["--dequantize", *NORMAL]),
}
FEW = ["--epochs=2", "--latent-dim=2", "--hidden", "4", "--test-samples=20", "--elbo-samples=5", "--valid-samples=1"]


def named(folder, name, content):
    return folder / f"{name}{'.npz' if isinstance(content, dict) else '.npy'}"


def write(folder, table):
    for name, (content, *_) in table.items():
        path = named(folder, name, content)
        if isinstance(content, dict):
            np.savez(path, **content)
        else:
            np.save(path, content)


def said(main, arguments):
    """The exit code of a script, and what it wrote to stderr."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(arguments)
        except SystemExit as end:
            return end.code, err.getvalue()
        except BaseException as error:
            return repr(error), err.getvalue()
    return 0, err.getvalue()


def ask(folder, cases=CASES):
    """Cases in this one process: case -> exit code, stderr, the files that it left."""
    from train_svi import main

    folder, found = Path(folder), {}
    load = pyro_vae.data.load
    for name, is_mapped in cases:
        content, flags, _ = TABLE[name]
        pyro_vae.data.load = functools.partial(load, map_above=0) if is_mapped else load  # put back by the caller
        out = folder / "runs" / name
        arguments = ["--dataset", str(named(folder, name, content)), "--out", str(out), *FEW, *flags]
        found[f"{name} {is_mapped}"] = [*said(main, arguments), out.exists() or out.parent.exists()]
    return found


@pytest.fixture(scope="module", params=["", *thorough("-O")])
def answers(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("refused")
    write(folder, TABLE)
    if not request.param:
        with pytest.MonkeyPatch.context() as patch:
            patch.syspath_prepend(str(SCRIPTS))
            patch.setattr(pyro_vae.data, "load", pyro_vae.data.load)
            return ask(folder)
    places = [str(SCRIPTS), *map(str, Path(__file__).parents[:2])]
    code = f"import json, sys; sys.path[:0] = {places}; import {Path(__file__).stem} as cases; "
    code += f"print(json.dumps([__debug__, cases.ask({str(folder)!r})]))"
    run = subprocess.run([sys.executable, "-O", "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    debug, found = json.loads(run.stdout)
    assert not debug
    return found


@pytest.mark.parametrize(("name", "is_mapped"), CASES, ids=[f"{name}{' mapped' * m}" for name, m in CASES])
def test_it_is_refused_in_one_sentence_and_leaves_nothing(answers, name, is_mapped):
    check_refused(answers, name, is_mapped)


def check_refused(answers, name, is_mapped):
    content, _, message = TABLE[name]
    code, sentence, is_left = answers[f"{name} {is_mapped}"]
    assert (code, is_left) == (3, False), sentence
    assert sentence.count("\n") == 1
    assert sentence.startswith("error: ")
    assert re.search(message, sentence), sentence
    assert named(Path(), name, content).name in sentence


@pytest.mark.thorough
def test_data_that_never_vary_train(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    from train_svi import main

    write(tmp_path, DEGENERATE)
    for name, (content, flags) in DEGENERATE.items():
        out = tmp_path / "runs" / name
        assert said(main, ["--dataset", str(named(tmp_path, name, content)), "--out", str(out), *FEW, *flags])[0] == 0
        found = json.loads((out / "report.json").read_text())
        assert np.isfinite(found["test"]["log_likelihood"]["mean"]), name
        assert found["protocol"]["split"]["sizes"]["train"] == 7 * len(content) // 10
