import atexit
import gc
import os
import pathlib
import shutil
import signal
import site
import tempfile

import pytest

collect_ignore = ["bare_system.py"]  # it takes names away from whatever process imports it

_VARIABLES = {"HOME": "", "XDG_CACHE_HOME": ".cache", "XDG_CONFIG_HOME": ".config", "MPLCONFIGDIR": ".matplotlib"}


def _move_home():
    """A home for this run of the tests alone, the same for all its processes, whoever's account it is."""
    os.environ.setdefault("PYTHONUSERBASE", site.getuserbase())  # where packages may be that the tests need
    home = os.environ["PYRO_VAE_TESTS_HOME"] = tempfile.mkdtemp(prefix="pyro-vae-tests-")
    os.environ |= {variable: os.path.join(home, folder) for variable, folder in _VARIABLES.items()}
    maker = os.getpid()
    atexit.register(lambda: os.getpid() == maker and shutil.rmtree(home, ignore_errors=True))


# Before anything is imported that looks for a home or, as torch does, for the number of threads.
if "PYRO_VAE_TESTS_HOME" not in os.environ:
    _move_home()
if "PYTEST_XDIST_WORKER" in os.environ:  # workers that run side by side share the cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # started in the background of a shell script
    signal.signal(signal.SIGINT, signal.default_int_handler)

os.fsync = lambda descriptor: None  # tests ask what a kill leaves, and none what a power cut does

import cpu_seconds
import pyro
import torch

from pyro_vae.graphs.capture import Graph


def pytest_collection_modifyitems(items):
    """Tests of whole processes come first: a worker that has them last ends after the other."""
    items.sort(key=lambda item: item.path.parent != pathlib.Path(__file__).parent)


def pytest_collection_finish():
    """What has been imported stays to the end: the collector need not look through it again and again."""
    gc.freeze()


def pytest_addoption(parser):
    parser.addoption("--name-above", type=float, metavar="SECONDS", help="name the tests that take more of a processor")


def pytest_configure(config):
    config.pluginmanager.register(cpu_seconds.Plugin(config.getoption("--name-above")))


@pytest.fixture(autouse=True)
def clean_process():
    """Each test starts with an empty parameter store and a fixed random state, and must leave torch's globals alone."""
    pyro.clear_param_store()
    torch.manual_seed(0)
    before = torch.get_default_dtype(), torch.get_num_threads(), torch.is_grad_enabled()
    yield
    assert (torch.get_default_dtype(), torch.get_num_threads(), torch.is_grad_enabled()) == before


@pytest.fixture
def traced_only(monkeypatch):
    """compile=True without the compiler."""
    monkeypatch.setattr(Graph, "compiled", lambda graph, given: graph)


@pytest.fixture
def sketched(monkeypatch):
    """PNG files hold the numbers that are shown: rendering them takes longer than all the rest of a small run."""
    from matplotlib.figure import Figure

    render = Figure.savefig

    def sketch(figure, file, format, **options):  # noqa: A002 - matplotlib's name
        if format != "png":
            return render(figure, file, format=format, **options)
        shown = [image.get_array() for axes in figure.axes for image in axes.images]
        shown += [line.get_xydata() for axes in figure.axes for line in axes.lines]
        shown += [points.get_offsets() for axes in figure.axes for points in axes.collections]
        return file.write(b"\x89PNG" + b"".join(numbers.tobytes() for numbers in shown))

    monkeypatch.setattr(Figure, "savefig", sketch)
