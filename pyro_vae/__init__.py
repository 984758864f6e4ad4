"""Variational autoencoders as Pyro programs.

A VAE is three conditional distributions, p(z), q(z|x) and p(x|z). Each is a module whose `forward` returns a Pyro
distribution; the program samples them and never asks for their type. The packages, in the order of the data:

    data         a name or a path -> Splits(train, valid, test, protocol)
    model        networks; priors, posteriors, likelihoods; Program and VAE; the checks of members
    graphs       a program as one graph of tensor operations
    evaluation   per-datum estimates in nats, with their errors
    inference    objectives, SVI, fit
    report       documents of numbers -> text, Markdown, CSV, LaTeX, HTML, pictures
    experiment   a run on disk: config, build, train, evaluate, compare, sweep, share
    selfcheck    estimators compared with programs whose answers are known
    cli          the commands

Imports are lazy: torch is loaded when a name that needs it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyro_vae import data, evaluation, experiment, inference, report
    from pyro_vae.experiment.evaluate.program_evaluation import evaluate
    from pyro_vae.experiment.share.sharing import load, share
    from pyro_vae.experiment.train.program_training import train
    from pyro_vae.model import likelihoods, networks, posteriors, priors, scaling
    from pyro_vae.model.checks import check_likelihood, check_posterior, check_prior
    from pyro_vae.model.hierarchical import HierarchicalVAE
    from pyro_vae.model.program import Program
    from pyro_vae.model.vae import VAE

__version__ = "0.1.0"

_PLACES = {
    "Program": "pyro_vae.model.program:Program",
    "VAE": "pyro_vae.model.vae:VAE",
    "HierarchicalVAE": "pyro_vae.model.hierarchical:HierarchicalVAE",
    "train": "pyro_vae.experiment.train.program_training:train",
    "evaluate": "pyro_vae.experiment.evaluate.program_evaluation:evaluate",
    "load": "pyro_vae.experiment.share.sharing:load",
    "share": "pyro_vae.experiment.share.sharing:share",
    "check_prior": "pyro_vae.model.checks:check_prior",
    "check_posterior": "pyro_vae.model.checks:check_posterior",
    "check_likelihood": "pyro_vae.model.checks:check_likelihood",
    "networks": "pyro_vae.model.networks",
    "priors": "pyro_vae.model.priors",
    "posteriors": "pyro_vae.model.posteriors",
    "likelihoods": "pyro_vae.model.likelihoods",
    "scaling": "pyro_vae.model.scaling",
    "data": "pyro_vae.data",
    "inference": "pyro_vae.inference",
    "evaluation": "pyro_vae.evaluation",
    "report": "pyro_vae.report",
    "experiment": "pyro_vae.experiment",
}

__all__ = [  # noqa: RUF022 - in the order of the rooms
    "Program",
    "VAE",
    "HierarchicalVAE",
    "train",
    "evaluate",
    "load",
    "share",
    "check_prior",
    "check_posterior",
    "check_likelihood",
    "networks",
    "priors",
    "posteriors",
    "likelihoods",
    "scaling",
    "data",
    "inference",
    "evaluation",
    "report",
    "experiment",
]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'pyro_vae' has no attribute {name!r}")
    module, _, attribute = _PLACES[name].partition(":")
    value = import_module(module)
    return getattr(value, attribute) if attribute else value


def __dir__() -> list[str]:
    return sorted([*globals(), *_PLACES])
