"""Builds a member of the user's own as a training does, and checks it. What it needs of torch is imported with it."""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from pyro_vae.cli import own_code
from pyro_vae.errors import UsageError
from pyro_vae.experiment.own_members import OwnMember, called, check_arguments, parameters
from pyro_vae.model.checks import Report, check_likelihood, check_posterior, check_prior
from pyro_vae.model.likelihoods import Likelihood
from pyro_vae.model.networks import MLP
from pyro_vae.model.posteriors import DiagonalNormal, Posterior
from pyro_vae.model.scaling import ColumnMean, ColumnScale
from pyro_vae.randomness import stream


def report_on(place: own_code.Place, options: argparse.Namespace) -> Report:
    """Imports the class of a place and checks it.

    Args:
        place: where it is.
        options: the flags of the command.

    Raises:
        UsageError: it cannot be imported, is not a member, or does not take its arguments.
    """
    found = own_code.member(place)
    return _check_class(replace(found, family=_family(found.classes[0]), arguments="args"), options)


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
