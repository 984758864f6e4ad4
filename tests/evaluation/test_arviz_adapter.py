"""ArviZ 0.23 and 1.x say the same of the same chains and read each other's files; neither touches anybody's home."""

import os
import subprocess
import sys
from importlib.metadata import version

import pytest
import torch
from cases import thorough
from exact import binary_data, small_vae

from pyro_vae.evaluation.trust import arviz_adapter
from pyro_vae.evaluation.trust.diagnostics import draw_tree, draws_to_inference_data, guide_draws, mixing

SPEAKS_0 = version("arviz").startswith("0.")


def chains():
    """Three numbers drawn by four chains, the same on every machine: fractions of multiples of the golden ratio."""
    place = torch.arange(1, 4 * 500 * 3 + 1, dtype=torch.float64).reshape(4, 500, 3)
    draws = torch.special.ndtri(place * (5**0.5 - 1) / 2 % 1)
    for i in range(1, 500):
        draws[:, i, 1:] = 0.6 * draws[:, i - 1, 1:] + 0.8 * draws[:, i, 1:]
    draws[0, :, 2] += 0.3
    return draws


# Of ArviZ 0.23.4, and of 1.3.0.
RECORDED = {
    "rhat": [0.9981420914182701, 0.9984135381535008, 1.0164284106567258],
    "ess_bulk": [1615.741210270334, 923.1491030575809, 903.5354630978948],
    "ess_tail": [2253.228911642903, 1062.9761440917543, 926.8359275357333],
    "error": [0.02488331301390048, 0.028558077407491864, 0.029178574380126148],
}


@pytest.mark.parametrize("number", RECORDED)
def test_both_versions_say_the_same_of_the_same_chains(number):
    assert getattr(mixing(chains()), number).tolist() == pytest.approx(RECORDED[number], rel=1e-10, abs=1e-10)


@pytest.fixture(scope="module")
def tree():
    return draw_tree(guide_draws(small_vae(), binary_data(20), 30, seed=0))


def assert_same(one, other):
    assert list(one) == list(other) == ["posterior", "log_likelihood", "sample_stats", "observed_data"]
    for name in one:
        assert contents(one[name]) == contents(other[name])
        assert one[name].attrs["sampling"] == other[name].attrs["sampling"] == one.attrs["sampling"]


def contents(group):
    """Every variable and coordinate of a group, with its dimensions."""
    return {name: (values.dims, values.values.tolist()) for name, values in group.variables.items()}


def test_the_container_is_that_of_the_arviz_that_is_installed(tree):
    made = arviz_adapter.container(tree)
    assert type(made).__name__ == ("InferenceData" if SPEAKS_0 else "DataTree")
    assert_same(made, tree)


def test_a_file_comes_back(tree, tmp_path):
    arviz_adapter.write_netcdf(tree, tmp_path / "draws.nc")
    assert_same(arviz_adapter.read_netcdf(tmp_path / "draws.nc"), tree)


def test_a_file_that_the_container_of_either_version_writes_is_read(tree, tmp_path):
    tree.to_netcdf(tmp_path / "of_1.nc", engine="h5netcdf")
    arviz_adapter.container(tree).to_netcdf(str(tmp_path / "of_this.nc"))
    for name in ("of_1.nc", "of_this.nc"):
        assert_same(arviz_adapter.read_netcdf(tmp_path / name), tree)


@pytest.mark.skipif(not SPEAKS_0, reason="needs ArviZ 0.23")
def test_a_file_is_byte_for_byte_that_of_arviz_0(tree, tmp_path):
    arviz_adapter.write_netcdf(tree, tmp_path / "ours.nc")
    arviz_adapter.container(tree).to_netcdf(str(tmp_path / "theirs.nc"))
    assert (tmp_path / "ours.nc").read_bytes() == (tmp_path / "theirs.nc").read_bytes()


def test_data_keep_their_places():
    drawn = guide_draws(small_vae(), binary_data(3), 30, seed=0)
    groups = draw_tree(drawn, torch.tensor([7, 8, 30]))
    assert all(group["data"].values.tolist() == [7, 8, 30] for group in groups.values())
    assert draws_to_inference_data(drawn).posterior["data"].values.tolist() == [0, 1, 2]


STATE = """
import logging, os, sys, warnings
import torch, xarray
import pyro_vae as pv
from pyro_vae.evaluation.trust import diagnostics

try: import platformdirs
except ImportError: platformdirs = None
names = {**os.environ, "MPLCONFIGDIR": ""}  # which Matplotlib sets where it cannot write
before = logging.getLogger("matplotlib").level, list(warnings.filters), getattr(platformdirs, "user_cache_dir", None)
pv.evaluation.psis_khat(torch.randn(100, 3))
assert "arviz" not in sys.modules
assert diagnostics.mixing(torch.randn(2, 50, 3)).rhat.isfinite().all()
import pyro_vae.report.draw.images
after = logging.getLogger("matplotlib").level, list(warnings.filters), getattr(platformdirs, "user_cache_dir", None)
assert after == before
assert {**os.environ, "MPLCONFIGDIR": ""} == names
print("as before")
"""


@pytest.mark.thorough
@pytest.mark.parametrize("home", ["nowhere", *thorough("fresh")])
def test_nothing_is_said_changed_or_left_behind(home, tmp_path):
    place = {"fresh": str(tmp_path), "nowhere": "/dev/null/x"}[home]
    names = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "MPLCONFIGDIR"))}
    command = [sys.executable, "-W", "error", "-c", STATE]
    ran = subprocess.run(command, env={**names, "HOME": place}, capture_output=True, text=True, check=False)
    assert (ran.stderr, ran.stdout) == ("", "as before\n")
    assert not list(tmp_path.rglob("*arviz*"))
