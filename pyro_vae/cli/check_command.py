"""Check a prior, posterior or likelihood of your own."""

import argparse
from collections.abc import Sequence

from pyro_vae.cli import own_code
from pyro_vae.cli.command_ending import exit_codes
from pyro_vae.command_lines import command_line
from pyro_vae.errors import CheckError, UsageError

_PLACE = "FILE.py:CLASS or MODULE:CLASS"


def main(arguments: Sequence[str] | None = None) -> int:
    """Checks the class that the command line names, prints the report, and returns the exit code."""
    parser = argparse.ArgumentParser(
        prog=command_line("check"),
        description="Check a prior, posterior or likelihood of your own against the contract of its family.",
        epilog=f"Exit codes: 0 passed, {CheckError.exit_code} failed, {UsageError.exit_code} usage.",
    )
    parser.add_argument("member", metavar=_PLACE, help="subclass of Prior, Posterior or Likelihood")
    parser.add_argument(
        "--latent-dim",
        type=_size,
        default=2,
        metavar="D",
        help="dimensions of z; densities are integrated up to 3 (default 2)",
    )
    parser.add_argument(
        "--x-shape", type=_size, nargs="+", default=[1, 4, 4], metavar="N", help="shape of a datum (default 1 4 4)"
    )
    parser.add_argument("--y-dim", type=_size, default=0, metavar="C", help="number of classes, if it takes labels")
    parser.add_argument(
        "--num-levels", type=_size, metavar="L", help="number of levels of data 0, 1, ... L - 1, if it takes them"
    )
    parser.add_argument(
        "--args", type=str, default="", metavar="JSON", help="arguments of its constructor, e.g. '{\"df\": 3}'"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of networks, data and draws (default 0)")
    options = parser.parse_args(arguments)
    with exit_codes(arguments=vars(options)):
        place = _place(options.member)

        from pyro_vae.cli import member_check  # here, since --help needs no torch

        report = member_check.report_on(place, options)
        print(report)
        return 0 if report.passed else CheckError.exit_code


def _size(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return int(text)


def _place(text: str) -> own_code.Place:
    if ":" not in text.strip(":"):
        raise UsageError(f"{text!r} names no class: write {_PLACE}, e.g. pyro_vae.model.priors:StandardNormal")
    return own_code.place("member", text)
