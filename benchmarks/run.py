"""Timings of this project beside its peers: python benchmarks/run.py [--only step] [--quick]."""

import argparse
import os
import platform
import sys
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # the folder above, so that `benchmarks` is a package

from benchmarks.plan import LOADS, QUICK_SIZES, SIZES, Plan
from benchmarks.problem import parse_size
from benchmarks.tables import write
from benchmarks.team import Setting

SECTIONS = ("step", "likelihood", "growth", "start", "processes", "target", "busy")
PACKAGES = ("torch", "pyro-ppl", "numpyro", "jax", "pythae", "numpy")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(description=__doc__)
    found.add_argument("--only", action="append", choices=SECTIONS, help="a section; may be given again")
    found.add_argument(
        "--sizes",
        nargs="+",
        help=f"batch x hidden, batch x hidden x pixels, or batch x conv; default {' '.join(SIZES)}",
    )
    found.add_argument("--loads", nargs="+", type=int, default=LOADS, help="busy loops beside the rows of `busy`")
    found.add_argument("--rows", nargs="+", default=[], help="keys of benchmarks/rows.py; default all")
    found.add_argument("--repeats", type=int, help="rounds in which every row has its turn; default 15")
    found.add_argument("--seconds", type=float, help="length of one row's turn; default 0.3")
    found.add_argument("--cores", type=int, default=Setting.cores, help="processor cores for every row; default all")
    found.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="where the tensors live")
    found.add_argument("--target", type=float, default=Plan.target, help="validation ELBO on MNIST to reach, in nats")
    found.add_argument(
        "--data-dir", type=Path, default=Path(os.environ.get("PYRO_VAE_DATA", "data")), help="the folder with MNIST"
    )
    found.add_argument("--out", type=Path, default=Path("benchmarks/results"), help="folder for the tables")
    found.add_argument("--quick", action="store_true", help="tiny sizes, two rounds: shows only that everything runs")
    return found


def plan(arguments: argparse.Namespace) -> Plan:
    """What the command line asks for."""
    quick = arguments.quick
    return Plan(
        sizes=[parse_size(text) for text in arguments.sizes or (QUICK_SIZES if quick else SIZES)],
        sizes_given=bool(arguments.sizes),
        loads=arguments.loads,
        repeats=arguments.repeats or (2 if quick else Plan.repeats),
        seconds=arguments.seconds or (0.02 if quick else Plan.seconds),
        rows=arguments.rows,
        quick=quick,
        data_dir=arguments.data_dir,
        target=arguments.target,
        setting=Setting(arguments.device, arguments.cores),
    )


def machine(arguments: argparse.Namespace) -> dict[str, str]:
    """What the numbers depend on."""
    return {
        "processor": f"{_processor()}, {arguments.cores} cores used",
        "device": arguments.device,
        "system": platform.platform(),
        "python": platform.python_version(),
        **{package: _version(package) for package in PACKAGES},
        **({"quick": "the numbers mean nothing"} if arguments.quick else {}),
    }


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def main() -> None:
    """Measures section by section; each is on disk as soon as it is done."""
    arguments = parser().parse_args()
    wanted, tables = plan(arguments), []
    for section in arguments.only or SECTIONS:
        for table in import_module(f"benchmarks.sections.{section}").tables(wanted):
            tables.append(table)
            print(table.markdown(), end="\n\n", flush=True)
            report = write(arguments.out, machine(arguments), tables)
    print(f"Written to {report} and {report.with_suffix('.json')}")


if __name__ == "__main__":
    main()
