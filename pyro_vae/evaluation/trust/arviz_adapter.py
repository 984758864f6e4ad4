"""ArviZ, which checks chains and stores draws: versions 0.23 and 1.x behind the same functions. Nothing else imports
it.

It is imported when one of them is called. Draws are passed as an xarray `DataTree`, which is the container of ArviZ
1.x; the container of 0.23 is `InferenceData`. Both versions write the same files, and read each other's.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from pyro_vae.quiet_matplotlib import quiet_matplotlib

if TYPE_CHECKING:
    from arviz import InferenceData
    from xarray import Dataset, DataTree

TAIL = (0.05, 0.95)  # the quantiles of 0.23; 1.x has others


def chain_statistics(chains: "Dataset") -> tuple["Dataset", "Dataset", "Dataset", "Dataset"]:
    """Computes R-hat, the bulk and tail effective sample sizes, and the Monte Carlo error of the mean.

    Args:
        chains: variables of dimensions (chain, draw, ...).
    """
    with quiet_arviz() as arviz:
        return (
            arviz.rhat(chains),
            arviz.ess(chains, method="bulk"),
            arviz.ess(chains, method="tail", prob=TAIL),
            arviz.mcse(chains, method="mean"),
        )


def container(tree: "DataTree") -> "InferenceData | DataTree":
    """Puts groups of draws into the container of the installed ArviZ."""
    if not version("arviz").startswith("0."):
        return tree
    with quiet_arviz() as arviz:
        return arviz.InferenceData(attrs=tree.attrs, **{name: node.to_dataset() for name, node in tree.items()})


def write_netcdf(tree: "DataTree", path: Path) -> None:
    """Writes groups of draws to a file that ArviZ 0.23 and 1.x read, with the same bytes as 0.23 writes."""
    from xarray import Dataset

    Dataset(attrs=tree.attrs).to_netcdf(path, mode="w", engine="h5netcdf")
    for name, node in tree.items():
        group = node.to_dataset()
        encoding = {variable: {"zlib": True} for variable in group.variables}
        group.to_netcdf(path, mode="a", group=name, engine="h5netcdf", encoding=encoding)


def read_netcdf(path: Path) -> "InferenceData | DataTree":
    """Opens a file of draws, in the container of the installed ArviZ."""
    with quiet_arviz() as arviz:
        return arviz.from_netcdf(str(path))


@contextmanager
def quiet_arviz() -> Iterator[Any]:
    """Yields ArviZ without its warnings: 0.23 announces the next version, and both warn about constant chains."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield _loaded()


@cache
def _loaded() -> Any:
    with quiet_matplotlib(), _cache_folder_aside():
        import arviz
    return arviz


@contextmanager
def _cache_folder_aside() -> Iterator[None]:
    """Gives 0.23 a folder for the day of its last notice: it uses the user's cache, and does not load without one."""
    if find_spec("platformdirs") is None:  # 0.23 finds that folder by it; 1.x does not need it
        yield
        return
    platformdirs: Any = import_module("platformdirs")
    before = platformdirs.user_cache_dir
    with TemporaryDirectory() as folder:
        platformdirs.user_cache_dir = lambda *names, **options: folder
        try:
            yield
        finally:
            platformdirs.user_cache_dir = before
