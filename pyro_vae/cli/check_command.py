"""The command line of the checks: python -m pyro_vae.model.checks student.py:StudentPrior --latent-dim 3."""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

import torch

from pyro_vae.cli import own_code
from pyro_vae.errors import CheckError, UsageError, unknown
from pyro_vae.experiment.own_members import arguments_of, parameters
from pyro_vae.model.checks import Report, check_likelihood, check_posterior, check_prior
from pyro_vae.model.likelihoods import Likelihood
from pyro_vae.model.networks import MLP
from pyro_vae.model.posteriors import DiagonalNormal, Posterior
from pyro_vae.randomness import stream

_PLACE = "FILE.py:CLASS or MODULE:CLASS"


def main(arguments: Sequence[str] | None = None) -> int:
    """Checks the class that the command line names, prints the report, and returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m pyro_vae.model.checks",
        description="Checks a prior, posterior or likelihood of your own against the contract of its family.",
        epilog=f"Exit codes: 0 passed, {CheckError.exit_code} failed, {UsageError.exit_code} usage.",
    )
    parser.add_argument("member", metavar=_PLACE, help="subclass of Prior, Posterior or Likelihood")
    parser.add_argument("--latent-dim", type=_size, default=2, metavar="D", help="up to 3 it is integrated (default 2)")
    parser.add_argument("--x-shape", type=_size, nargs="+", default=[1, 4, 4], metavar="N", help="default 1 4 4")
    parser.add_argument("--y-dim", type=_size, default=0, metavar="C", help="number of classes, where it takes labels")
    parser.add_argument("--args", type=str, default="", metavar="JSON", help="of its constructor, e.g. '{\"df\": 3}'")
    parser.add_argument("--seed", type=int, default=0, help="of networks, data and draws (default 0)")
    options = parser.parse_args(arguments)
    try:
        report = _check_class(_find(options.member), options)
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(report)
    return 0 if report.passed else CheckError.exit_code


def _size(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return int(text)


def _find(place: str) -> Any:
    if ":" not in place.strip(":"):
        raise UsageError(f"{place!r} names no class: write {_PLACE}, e.g. pyro_vae.model.priors:StandardNormal")
    return own_code.member(own_code.place("member", place)).classes[0]


def _check_class(member_class: Any, options: argparse.Namespace) -> Report:
    """Builds the member, as the scripts do: an argument with the name of a fact gets its value."""
    B, D, C, x_shape = 6, options.latent_dim, options.y_dim, tuple(options.x_shape)
    with stream(options.seed, "checks", "command line"):
        x, z = torch.rand(B, *x_shape), torch.randn(B, D)
        y = torch.eye(C)[torch.arange(B) % C] if C else None
        facts: dict[str, Any] = {"latent_dim": D, "x_shape": x_shape, "y_dim": C, **_arguments(member_class, options)}
        try:
            if issubclass(member_class, Posterior):
                facts["encoder"] = MLP(x_shape, _call(member_class.encoder_shape, facts), hidden=(32,), y_dim=C)
            elif issubclass(member_class, Likelihood):
                facts["decoder"] = MLP((D,), _call(member_class.decoder_shape, facts), hidden=(32,), y_dim=C)
            else:
                facts["posterior"] = DiagonalNormal(MLP(x_shape, (2 * D,), hidden=(32,), y_dim=C), D)
            member = _call(member_class, facts)
        except Exception as error:  # whatever the user's constructor raises
            raise UsageError(
                f"{member_class.__name__} cannot be built from {', '.join(facts)} ({type(error).__name__}: {error}): "
                "give labels (--y-dim C), its arguments (--args) or defaults to them, or call its check_ function"
            ) from error
    if isinstance(member, Posterior):
        return check_posterior(member, x, y, seed=options.seed)
    if isinstance(member, Likelihood):
        return check_likelihood(member, z, y=y, seed=options.seed)
    return check_prior(member, y, seed=options.seed)


def _arguments(member_class: Any, options: argparse.Namespace) -> dict[str, Any]:
    given, taken = arguments_of("--args", options.args), parameters(member_class)
    for name in given:
        if name not in taken:
            raise unknown(f"argument of {member_class.__name__}", name, taken)
    return given


def _call(function: Any, facts: dict[str, Any]) -> Any:
    return function(**{name: facts[name] for name in parameters(function) if name in facts})
