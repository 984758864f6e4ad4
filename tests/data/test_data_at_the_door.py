"""Data outside the support are refused by every likelihood and by whoever calls the program, under python -O too."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pyro
import pytest
import torch
from cases import thorough

import pyro_vae as pv
from pyro_vae.errors import DataError, PyroVAEError

SIZE = 3
IS_WHOLE = float.is_integer
# What each likelihood takes, in plain words of Python.
TAKES = {
    "Bernoulli": lambda v: v in (0.0, 1.0),
    "ContinuousBernoulli": lambda v: 0.0 <= v <= 1.0,
    "Normal": math.isfinite,
    "LowRankNormal": math.isfinite,
    "Laplace": math.isfinite,
    "ExponentialNorm": math.isfinite,
    "DiscretizedLogistic": lambda v: v in (0.0, 1.0, 2.0, 3.0, 4.0),
    "Categorical": lambda v: v in (0.0, 1.0, 2.0, 3.0, 4.0),
    "Poisson": lambda v: math.isfinite(v) and v >= 0 and IS_WHOLE(v),
    "NegativeBinomial": lambda v: math.isfinite(v) and v >= 0 and IS_WHOLE(v),
}
OPTIONS = {"DiscretizedLogistic": {"num_levels": 5}, "Categorical": {"num_levels": 5}}
SHAPES = {"Categorical": (5, SIZE), "LowRankNormal": (4, SIZE)}
VALUES = [math.nan, -1.0, 0.5, 2.0, -math.inf, 255.0, math.inf, -1e-7, 0.0, 1e-7, 1.0, 1.0 + 1e-6, 4.0, 4.5, 5.0]
FEW = VALUES[:4]  # for all but the check itself
DOORS = ("check", "model", "elbo", "iwae", "stock step", "step")


def program(name):
    torch.manual_seed(0)
    kind = getattr(pv.likelihoods, name)
    decoder = pv.networks.MLP((2,), SHAPES.get(name, (SIZE,)), hidden=(4,))
    encoder = pv.networks.MLP((SIZE,), (4,), hidden=(4,), input_scale=1 / 255)
    posterior = pv.posteriors.DiagonalNormal(encoder, 2)
    return pv.VAE(pv.priors.StandardNormal(2), posterior, kind(decoder, **OPTIONS.get(name, {})))


def through(door, vae, x):
    if door == "check":
        vae.likelihood.check(x)
    elif door == "model":
        vae.model(x)
    elif door in ("elbo", "iwae"):
        getattr(pv.evaluation, door)(vae, x, 2, seed=0)
    elif door == "stock step":
        adam = pyro.optim.Adam({"lr": 0.0})
        pyro.infer.SVI(vae.model, vae.guide, adam, pyro.infer.Trace_ELBO()).step(x)
    else:
        adam = torch.optim.Adam(vae.parameters(), lr=0.0)
        pv.inference.SVI(vae.model, vae.guide, adam, pyro.infer.Trace_ELBO()).step(x)


def answers(doors=DOORS):
    """(likelihood, door, place of the value) -> the kind of refusal and its sentence, or "taken"."""
    found = {}
    for name in TAKES:
        vae = program(name)
        for door in doors:
            for i, value in enumerate(VALUES if door == "check" else FEW):
                x = torch.ones(4, SIZE)
                x[2, 1] = value
                found[f"{name}, {door}, {i}"] = answer(door, vae, x)
    return found


def answer(door, vae, x):
    try:
        through(door, vae, x)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "taken"


@pytest.fixture(scope="module", params=["", *thorough("-O")])
def found(request):
    if not request.param:
        return answers()
    here = Path(__file__)
    code = f"import json, sys; sys.path[:0] = {[str(here.parent), str(here.parents[1])]}; import {here.stem} as door; "
    code += "print(json.dumps([__debug__, door.answers()]))"
    run = subprocess.run([sys.executable, "-O", "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    debug, seen = json.loads(run.stdout)
    assert not debug
    return seen


@pytest.mark.parametrize("name", TAKES)
@pytest.mark.parametrize("door", DOORS)
def test_what_is_outside_the_support_is_refused_and_what_is_inside_is_taken(found, name, door):
    check_answers(found, name, door)


def check_answers(found, name, door):
    for i, value in enumerate(VALUES if door == "check" else FEW):
        said = found[f"{name}, {door}, {i}"]
        if TAKES[name](value):
            assert said == "taken", value
        else:
            assert said.startswith("DataError: "), (value, said)
            assert "at datum 2, position (1,)" in said
            assert f"{value:.6g}" in said


def test_every_likelihood_is_in_the_table():
    members = {name for name in pv.likelihoods.__all__ if name != "Likelihood"}
    assert members == set(TAKES)


@pytest.mark.parametrize("name", TAKES)
@pytest.mark.parametrize("x", [torch.ones(4, SIZE, dtype=torch.complex64), torch.full((4, SIZE), 1j)])
def test_complex_numbers_are_refused(name, x):
    with pytest.raises(DataError, match=f"{name} needs x to be real; got torch.complex64"):
        program(name).likelihood.check(x)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bool, torch.int64, torch.float16, torch.float64])
@pytest.mark.parametrize("door", DOORS[2:])
def test_numbers_of_another_type_are_refused_with_the_cure(dtype, door):
    cure = (
        r"x.to\(torch.float32\)" if dtype.is_floating_point else r"x\.float\(\)\. Pass levels .* for uint8 is x / 255;"
    )
    with pytest.raises(ValueError, match=f"computes in torch.float32; got {dtype}: {cure}"):
        through(door, program("Bernoulli"), torch.ones(4, SIZE, dtype=dtype))


@pytest.mark.parametrize("door", DOORS[1:])
@pytest.mark.parametrize("x", [torch.ones(SIZE), torch.ones(4, SIZE + 1), torch.ones(4, 1, SIZE), torch.ones(4)])
def test_data_of_another_shape_are_refused(door, x):
    with pytest.raises((ValueError, PyroVAEError)):
        through(door, program("Bernoulli"), x)
