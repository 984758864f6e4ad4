"""What a process keeps: nothing of steps that were made, of programs that are gone, and of its globals as they were.

Each question is a function below, asked in a process of its own, `python test_leaks.py NAME`, whose memory no other
test has touched. It prints its answer as JSON.
"""

import gc
import json
import logging
import os
import random
import runpy
import signal
import subprocess
import sys
import threading
import warnings
from dataclasses import fields
from operator import attrgetter
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pyro
import pytest
import torch
from matplotlib._pylab_helpers import Gcf

import pyro_vae as pv

ROOT = Path(__file__).parents[1]
MOST = 10.0  # MiB
LOGGERS = [None, "pyro_vae", "pyro", "torch", "torch.utils.cpp_extension", "matplotlib"]
WARM = 100  # steps, after which lasting buffers are there


def answer(question, *arguments):
    """What this file says as a script, of its own process."""
    command = [sys.executable, __file__, question, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


# Memory, threads and files of steps and of programs.

NUMBERS = {
    "steps": {"eager": 500, "traced": 1_000},
    "programs": {"eager": 10, "traced": 3, "evaluated": 3},
}
MANY = {
    "steps": {"eager": 10_000, "traced": 10_000},
    "programs": {"eager": 100, "traced": 100, "evaluated": 100},
}
needs_proc = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc")
pytestmark = needs_proc


def few(kind):
    return answer("held", json.dumps({"steps": {}, "programs": {}, kind: NUMBERS[kind]}))[kind]


@pytest.fixture(scope="module")
def many():
    return answer("held", json.dumps(MANY))


@pytest.mark.thorough
def test_steps_leave_neither_memory_nor_objects_nor_threads_nor_files():
    for mode, found in few("steps").items():
        check_steps(found, NUMBERS["steps"][mode])


@pytest.mark.thorough
def test_programs_that_are_gone_leave_nothing():
    for mode, found in few("programs").items():
        check_programs(found, NUMBERS["programs"][mode])


@pytest.mark.slow
@pytest.mark.parametrize("mode", MANY["steps"])
def test_ten_thousand_steps_leave_nothing(many, mode):
    check_steps(many["steps"][mode], MANY["steps"][mode])


@pytest.mark.slow
@pytest.mark.parametrize("mode", MANY["programs"])
def test_a_hundred_programs_that_are_gone_leave_nothing(many, mode):
    check_programs(many["programs"][mode], MANY["programs"][mode])


def check_steps(found, steps):
    before, after = found
    assert after["resident"] - before["resident"] < MOST
    assert abs(after["objects"] - before["objects"]) < steps / 10  # not one for each step
    assert (after["threads"], after["files"]) == (before["threads"], before["files"])


def check_programs(found, programs):
    before, after = found
    assert after["resident"] - before["resident"] < MOST
    assert (after["programs"], after["entries"]) == (0, 0)
    same = ("threads", "files", "sources")
    assert {kind: after[kind] for kind in same} == {kind: before[kind] for kind in same}
    assert abs(after["objects"] - before["objects"]) < 10 + programs  # each has dozens


def held(numbers):
    """What the process holds before and after so many steps, and so many programs that were used and dropped."""
    wanted = json.loads(numbers)
    steps = {mode: _after_steps(mode, number) for mode, number in wanted["steps"].items()}
    return {"steps": steps, "programs": {mode: _after_programs(mode, n) for mode, n in wanted["programs"].items()}}


def _after_steps(mode, steps):
    svi, x = _svi(_vae(), mode), torch.ones(16, 6)
    found = []
    for number in (WARM, steps):
        for _ in range(number):
            svi.step(x)
        found.append(_held())
    return found


def _after_programs(mode, programs):
    found = []
    for number in (3, programs):  # the first of them fill the caches of torch
        for _ in range(number):
            _use(_vae(), mode)
        found.append(_held())
    return found


def _use(vae, mode):
    if mode == "evaluated":
        return _evaluate(vae)
    svi = _svi(vae, mode)
    return [svi.step(torch.ones(16, 6)) for _ in range(3)]


def _evaluate(vae):
    x = torch.ones(16, 6)
    pv.evaluation.elbo(vae, x, 50, seed=0)
    pv.evaluation.iwae(vae, x, 50, seed=0)
    pv.evaluation.ais(vae, x, 3, 2, seed=0, num_leapfrog=1)


def _vae():
    networks = pv.networks.MLP((6,), (4,), hidden=(16,)), pv.networks.MLP((2,), (6,), hidden=(16,))
    posterior, likelihood = pv.posteriors.DiagonalNormal(networks[0], 2), pv.likelihoods.Bernoulli(networks[1])
    return pv.VAE(pv.priors.StandardNormal(2), posterior, likelihood)


def _svi(vae, mode):
    adam = torch.optim.Adam(vae.parameters(), lr=1e-3, fused=True)
    svi = pv.inference.SVI(vae.model, vae.guide, adam, pyro.infer.TraceMeanField_ELBO())
    svi.expect(10_000 if mode == "traced" else 0)
    if mode == "eager":
        svi.graphs.mode = False
    return svi


def _held():
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    objects = gc.get_objects()
    return {
        "resident": pages * os.sysconf("SC_PAGE_SIZE") / 2**20,
        "objects": len(objects),
        "programs": sum(issubclass(type(found), pv.Program) for found in objects),
        "threads": threading.active_count(),
        "files": len(os.listdir("/proc/self/fd")),
        "sources": len(sys.modules["linecache"].cache),
        "entries": len(list(pyro.get_param_store())),
    }


# Globals.

# When imported, rich draws a random number, scipy and sympy filter their own warnings, scikit-learn sets two variables.
OTHERS = ["rich.style", "scipy.stats", "sympy", "sklearn"]
INDUCTORS = "TORCHINDUCTOR_"  # variables of torch's compiler for its own processes


@pytest.fixture(scope="module")
def changes(tmp_path_factory):
    return answer("changed", tmp_path_factory.mktemp("elsewhere"))


@pytest.mark.thorough
@pytest.mark.parametrize("use", ["importing", "library", "scripts"])
def test_no_global_is_changed_by(changes, use):
    assert changes[use] == {}


def changed(folder):
    """Which globals are changed by importing every module of the package, by the library's functions, by scripts."""
    for other in OTHERS:
        __import__(other)
    os.chdir(folder)
    found = {}
    for use in (_importing, _library, _scripts):
        before = _globals()
        use(Path(folder))
        after = _globals()
        different = {name: [before[name], after[name]] for name in before if before[name] != after[name]}
        found[use.__name__.removeprefix("_")] = different
    return found


def _importing(folder):
    for path in sorted((ROOT / "pyro_vae").rglob("*.py")):
        if not path.stem.startswith("__"):
            __import__(".".join(path.relative_to(ROOT).with_suffix("").parts))


def _library(folder):
    from pyro_vae.report.draw import images

    x, record = torch.ones(16, 6), dict.fromkeys(map(attrgetter("name"), fields(pv.inference.Record)), 1.0)
    with torch.random.fork_rng():  # what is built, and steps, draw from the caller's stream, as Pyro's do
        vae = _vae()
        for mode in ("eager", "traced"):
            _use(_vae(), mode)
        vae.generate(3)
    _evaluate(vae)
    pv.evaluation.iwae_curve(vae, x, 50, seed=0)
    pv.evaluation.quadrature(vae, x[:2])
    pv.evaluation.nuts(vae, x[:1], num_draws=10, num_warmup=5, num_chains=2, seed=0)
    pv.evaluation.to_inference_data(vae, x, 30, seed=0)
    pv.check_prior(pv.priors.StandardNormal(2))
    images.training([record])
    with torch.random.fork_rng():
        pv.priors.FlowPrior(2)  # the last, since Pyro's validation_enabled would put back what zuko changes


def _scripts(folder):
    np.save(folder / "tiny.npy", np.random.default_rng(0).integers(0, 256, (60, 4, 4), np.uint8))
    small = ["--epochs", "2", "--hidden", "8", "--latent-dim", "2", "--test-samples", "20", "--out", "run"]
    quick = ["--num-samples", "30", "--elbo-samples", "5", "--annealed-data", "2", "--posterior-draws", "0"]
    _main("train_svi", "--dataset", "tiny.npy", *small)
    _main("evaluate", "run", *quick, "--num-temperatures", "5")
    _main("sample", "run")
    _main("train_svi", "--kl-weight", "-1", code=2)
    _main("evaluate", "nowhere", code=4)


def _main(script, *arguments, code=0):
    try:
        runpy.run_path(str(ROOT / "scripts" / f"{script}.py"))["main"](list(arguments))
        found = 0
    except SystemExit as end:
        found = end.code
    assert found == code, f"{script} ended with {found}"


def _globals():
    """What the whole process shares, as text."""
    settings = {
        "default dtype": torch.get_default_dtype(),
        "default device": torch.get_default_device(),
        "threads": torch.get_num_threads(),
        "deterministic": (torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.deterministic),
        "matmul precision": torch.get_float32_matmul_precision(),
        "mkldnn": torch.backends.mkldnn.enabled,
        "gradients": (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_anomaly_enabled()),
        "multithreaded gradients": torch.autograd.is_multithreading_enabled(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "validation": (torch.distributions.Distribution._validate_args, pyro.distributions.is_validation_enabled()),
        "pyro's settings": pyro.settings.get(),
        "pyro's handlers": pyro.poutine.runtime._PYRO_STACK,
        "parameter store": list(pyro.get_param_store()),
        "pyro's losses": [pyro.infer.trace_elbo.torch_item, pyro.infer.trace_mean_field_elbo.warn_if_nan],
        "random numbers of torch": torch.get_rng_state().sum().item(),
        "random numbers of numpy": str(np.random.get_state()),  # noqa: NPY002 - the caller's
        "random numbers of Python": random.getstate(),
        "numpy's errors": np.geterr(),
        "numpy's printing": np.get_printoptions(),
        "torch's printing": torch._tensor_str.PRINT_OPTS,
        "filters of warnings": warnings.filters,
        "signals": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE)],
        "backend": mpl.rcParams._get("backend"),
        "rcParams": {name: mpl.rcParams._get(name) for name in mpl.rcParams if not name.startswith("backend")},
        "path": sys.path,
        "environment": {k: hash(v) for k, v in os.environ.items() if not k.startswith(INDUCTORS)},
        "folder": os.getcwd(),
        "log handlers": [logger.handlers for logger in map(logging.getLogger, LOGGERS)],
        "log levels": [logger.level for logger in map(logging.getLogger, LOGGERS)],
        "hooks": (sys.excepthook, sys.displayhook, threading.excepthook, sys.stdout, sys.stderr),
        "collector": (gc.isenabled(), gc.get_threshold()),
        "recursion": sys.getrecursionlimit(),
        "open figures": list(Gcf.figs),
    }  # fmt: skip
    return {name: str(value) for name, value in settings.items()}


if __name__ == "__main__":
    print(json.dumps(globals()[sys.argv[1]](*sys.argv[2:])))
