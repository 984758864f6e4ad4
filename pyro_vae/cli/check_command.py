"""Check a prior, posterior or likelihood of your own."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from pyro_vae.cli import own_code
from pyro_vae.cli.command_ending import in_flags, printable
from pyro_vae.command_lines import command_line
from pyro_vae.errors import CheckError, UsageError
from pyro_vae.experiment.own_members import OwnMember, called, check_arguments, parameters
from pyro_vae.model.checks import Report, check_likelihood, check_posterior, check_prior
from pyro_vae.model.likelihoods import Likelihood
from pyro_vae.model.networks import MLP
from pyro_vae.model.posteriors import DiagonalNormal, Posterior
from pyro_vae.model.scaling import ColumnMean, ColumnScale
from pyro_vae.randomness import stream

_PLACE = "FILE.py:CLASS or MODULE:CLASS"


def main(arguments: Sequence[str] | None = None) -> int:
    """Checks the class that the command line names, prints the report, and returns the exit code."""
    parser = argparse.ArgumentParser(
        prog=command_line("check"),
        description="Checks a prior, posterior or likelihood of your own against the contract of its family.",
        epilog=f"Exit codes: 0 passed, {CheckError.exit_code} failed, {UsageError.exit_code} usage.",
    )
    parser.add_argument("member", metavar=_PLACE, help="subclass of Prior, Posterior or Likelihood")
    parser.add_argument("--latent-dim", type=_size, default=2, metavar="D", help="up to 3 it is integrated (default 2)")
    parser.add_argument("--x-shape", type=_size, nargs="+", default=[1, 4, 4], metavar="N", help="default 1 4 4")
    parser.add_argument("--y-dim", type=_size, default=0, metavar="C", help="number of classes, where it takes labels")
    parser.add_argument("--num-levels", type=_size, metavar="L", help="of data 0, 1, ... L - 1, where it takes them")
    parser.add_argument("--args", type=str, default="", metavar="JSON", help="of its constructor, e.g. '{\"df\": 3}'")
    parser.add_argument("--seed", type=int, default=0, help="of networks, data and draws (default 0)")
    options = parser.parse_args(arguments)
    try:
        report = _check_class(_find(options), options)
    except UsageError as error:
        print(f"error: {printable(in_flags(str(error), vars(options)))}", file=sys.stderr)
        return error.exit_code
    print(report)
    return 0 if report.passed else CheckError.exit_code


def _size(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return int(text)


def _find(options: argparse.Namespace) -> OwnMember:
    place = options.member
    if ":" not in place.strip(":"):
        raise UsageError(f"{place!r} names no class: write {_PLACE}, e.g. pyro_vae.model.priors:StandardNormal")
    found = own_code.member(own_code.place("member", place))
    return replace(found, family=_family(found.classes[0]), arguments="args")


def _family(kind: Any) -> str:
    return "posterior" if issubclass(kind, Posterior) else "likelihood" if issubclass(kind, Likelihood) else "prior"


def _check_class(own: OwnMember, options: argparse.Namespace) -> Report:
    """Builds the member as a training does, from facts by name and from arguments, and checks it."""
    B, D, C, x_shape = 6, options.latent_dim, options.y_dim, tuple(options.x_shape)
    _check_facts(own, options)
    with stream(options.seed, "checks", "command line"):
        x, z = torch.rand(B, *x_shape), torch.randn(B, D)
        y = torch.eye(C)[torch.arange(B) % C] if C else None
        member = _built(own, options)
    if isinstance(member, Posterior):
        return check_posterior(member, x, y, seed=options.seed)
    if isinstance(member, Likelihood):
        return check_likelihood(member, z, y=y, seed=options.seed)
    return check_prior(member, y, seed=options.seed)


def _check_facts(own: OwnMember, options: argparse.Namespace) -> None:
    check_arguments(own, options.args)
    wanted = parameters(own.classes[0]).get("num_levels")
    if wanted is not None and wanted.default is wanted.empty and options.num_levels is None:
        raise UsageError(f"{own.name} needs num_levels, the number of levels of its data: pass --num-levels 256, say")


def _built(own: OwnMember, options: argparse.Namespace) -> Any:
    D, C, x_shape = options.latent_dim, options.y_dim, tuple(options.x_shape)
    facts: dict[str, Any] = {"latent_dim": D, "x_shape": x_shape, "y_dim": C}
    facts |= {} if options.num_levels is None else {"num_levels": options.num_levels}
    kind = own.classes[0]
    if own.family == "posterior":
        facts["encoder"] = _network(x_shape, called(own, kind.encoder_shape, facts, options.args), C)
    elif own.family == "likelihood":
        facts |= {"column_scale": ColumnScale(x_shape), "column_mean": ColumnMean(x_shape)}
        facts["decoder"] = _network((D,), called(own, kind.decoder_shape, facts, options.args), C)
    else:
        facts["posterior"] = DiagonalNormal(_network(x_shape, (2 * D,), C), D)
    return called(own, kind, facts, options.args)


def _network(in_shape: Sequence[int], out_shape: Sequence[int], y_dim: int) -> MLP:
    return MLP(tuple(in_shape), tuple(out_shape), hidden=(32,), y_dim=y_dim)
