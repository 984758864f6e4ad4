"""Checks the user's own members against their contract, once, before a training begins."""

import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from pyro_vae.data import Splits
from pyro_vae.errors import UsageError
from pyro_vae.experiment.config import Config
from pyro_vae.experiment.own_members import sentences_of
from pyro_vae.model.autoencoder import Autoencoder
from pyro_vae.model.checks import Report, check_likelihood, check_posterior, check_prior, moderation
from pyro_vae.model.hierarchical import HierarchicalVAE
from pyro_vae.model.program import undisturbed
from pyro_vae.randomness import stream

_DATA = 4


def check(config: Config, program: Autoencoder, data: Splits, *, contract: bool = True) -> None:
    """Checks every member of a program that is a class of the user's own, by the contract of its family.

    Networks have no contract: their output for a few data must have the shape that their member asks for.

    Args:
        config: the settings, which carry the classes.
        program: it stays as it is.
        data: a few of them are used.
        contract: False leaves out the slow checks, and only runs the program once, for its shapes.

    Raises:
        UsageError: a member fails; its table has been printed, where it fails the contract.
    """
    own = config.own
    if not own.given():
        return
    train = data.train.in_memory()
    x = train.fixed()[:_DATA].to(next(program.parameters()).device)
    y = train.one_hot(data.num_classes)[:_DATA].to(x) if config.conditional else None
    with stream(config.seed, "checks", device=x.device), undisturbed(program), torch.no_grad():
        with moderation.moderated(program) as hooks, sentences_of(*own.given().values(), doing="take data"):
            z = _pass_through(config, program, x, y)
            if not contract:
                _check_shapes(config, program, z, x, y)
        _tell_of_large_numbers(x, hooks)
        called = list(_calls(config, program, z, x, y)) if contract else []
    for family, report in called:
        if report.failed:
            print(report, file=sys.stderr)
            raise UsageError(
                f"`{family}={getattr(config, family)!r}` fails the contract of its family, in "
                f"{', '.join(report.failed)} (see the lines above): correct it, or pick another `{family}`"
            )


def _pass_through(config: Config, program: Autoencoder, x: Tensor, y: Tensor | None) -> Tensor:
    """Runs guide and model once, as a training does, with networks in range; compares shapes, and returns z."""
    z = program.from_guide(x, 1, y)[0]
    event = tuple(program.likelihood(z, y).event_shape)
    if event != tuple(x.shape[1:]):
        named = " and ".join(f"`{family}={member.name!r}`" for family, member in config.own.given().items())
        raise UsageError(
            f"p(x|z) is over data of shape {event}, but these have shape {tuple(x.shape[1:])}: correct {named}"
        )
    return z


def _check_shapes(config: Config, program: Autoencoder, z: Tensor, x: Tensor, y: Tensor | None) -> None:
    """Calls every density of the user's own once, and compares shapes."""
    own = config.own
    called: list[tuple[str, Any, Any]] = []
    if own.prior is not None:
        called.append((own.prior.name, program.prior, program.prior(y)))
    if own.posterior is not None:
        named = own.posterior.name
        called.extend((named, each, each(*given)) for each, *given in _posteriors(program, x, z, y))
    for name, member, found in called:
        event, wanted = tuple(found.event_shape), (member.latent_dim,)
        if event != wanted:
            raise UsageError(
                f"{name} gives a distribution over z of event shape {event}, and not {wanted}: end it in .to_event(1)"
            )
        found.log_prob(found.sample())
    if own.likelihood is not None:
        program.likelihood(z, y).log_prob(x)


def _tell_of_large_numbers(x: Tensor, hooks: dict[str, moderation.Gain]) -> None:
    """Prints a note if a network that sees data returns large numbers: a correct class can still fail to train."""
    if any(hook.gain not in (None, 1.0) for name, hook in hooks.items() if name.endswith("encoder")):
        largest = x.abs().nan_to_num(0.0).max().item()
        print(
            f"note: networks see the data as they are stored, numbers up to {largest:.2g}, and training may fail: "
            "store columns in units of about 1, or give your likelihood the argument column_scale, by which they are "
            "standardised",
            file=sys.stderr,
        )


def _calls(
    config: Config, program: Autoencoder, z: Tensor, x: Tensor, y: Tensor | None
) -> Iterator[tuple[str, Report]]:
    own = config.own
    if own.prior is not None:
        yield "prior", check_prior(program.prior, y)
    if own.posterior is not None:
        for posterior, *given in _posteriors(program, x, z, y):
            yield "posterior", check_posterior(posterior, *given)
    if own.likelihood is not None:
        yield "likelihood", check_likelihood(program.likelihood, z, x, y)


def _posteriors(program: Autoencoder, x: Tensor, z: Tensor, y: Tensor | None) -> Iterator[tuple[Any, ...]]:
    """Each posterior with what it is called with."""
    if not isinstance(program, HierarchicalVAE):
        yield program.posterior, x, y
    elif program.top_down:
        with moderation.moderated(program):
            z2 = program.posterior2(x, y).sample()
        yield program.posterior2, x, y
        yield program.posterior1, x, z2 if y is None else torch.cat([z2, y], -1)
    else:
        yield program.posterior1, x, y
        yield program.posterior2, z, y
