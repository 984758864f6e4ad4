"""The worked program with a shared shift: its closed form is right, and it prints what its page shows."""

import contextlib
import io
import runpy
from pathlib import Path

import fenced
import numpy as np
import pyro
import pytest
import scipy.stats
import torch

import pyro_vae as pv

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def program():
    return runpy.run_path(str(DOCS / "programs" / "global_latent.py"))


def test_its_closed_form_is_that_of_one_normal_vector(program):
    """All n d numbers together, by scipy; log p(x | D) is a difference of two such."""
    pyro.set_rng_seed(0)
    shared, x = program["SharedShift"](6), torch.randn(6, 4)
    W = shared.vae.likelihood.decoder.weight.detach().double().numpy()
    C = W @ W.T + np.eye(4)  # sigma starts at 1

    def log_p(x):
        n = len(x)
        law = scipy.stats.multivariate_normal(
            np.zeros(4 * n), np.kron(np.eye(n), C) + np.kron(np.ones((n, n)), program["SPREAD"] ** 2 * np.eye(4))
        )
        return law.logpdf(x.double().numpy().ravel())

    posterior, new, log_evidence = program["exact"](shared, x[:5])
    assert log_evidence.item() == pytest.approx(log_p(x[:5]), abs=1e-4)
    assert new.log_prob(x[5]).item() == pytest.approx(log_p(x) - log_p(x[:5]), abs=1e-4)
    assert posterior.event_shape == (4,)


def test_a_few_of_its_steps_move_the_shift_and_the_vae(program):
    x = torch.randn(40, 4) + 3
    shared, svi = program["train"](x, steps=3, batch_size=10)
    assert svi.num_steps == 3
    assert (shared.auto.median()["shift"] > 0).all()
    fixed = pv.evaluation.given(shared, shared.auto.median())
    assert pv.evaluation.iwae(fixed, x, num_samples=2, seed=0).value.isfinite().all()


@pytest.mark.thorough
def test_it_prints_what_its_page_shows(program):
    page = (DOCS / "global_latents.md").read_text(encoding="utf-8")
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        program["main"]()
    assert fenced.agree(fenced.blocks(page, "text")[0], printed.getvalue())


def test_the_page_shows_the_program_up_to_its_closed_form(program):
    lines = (DOCS / "programs" / "global_latent.py").read_text(encoding="utf-8").splitlines()
    page = (DOCS / "global_latents.md").read_text(encoding="utf-8")
    last = int(page.partition(":lines: 1-")[2].split("\n")[0])
    assert lines[last - 1].strip() == "return program, svi"
