"""The one place where strings become objects.

Each table maps a name of the command line to "module:attribute"; nothing is imported until a name is used. To offer a
new member, add its row. A constructor argument that has the name of a `Config` field gets that field's value, so a
member with an option needs no code here.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyro_vae import data as data_room
from pyro_vae.errors import PyroVAEError, UsageError, unknown
from pyro_vae.experiment.config import Config

if TYPE_CHECKING:
    import torch

    from pyro_vae.data import Splits
    from pyro_vae.inference import SVI
    from pyro_vae.inference.training import Schedule
    from pyro_vae.model.vae import VAE

DATASETS = data_room.SOURCES
SPLITS = data_room.SPLITS
BINARIZATIONS = ("auto", *data_room.BINARIZE)
PRIORS = {"standard": "pyro_vae.model.priors:StandardNormal"}
POSTERIORS = {"diagonal": "pyro_vae.model.posteriors:DiagonalNormal"}
LIKELIHOODS = {
    "bernoulli": "pyro_vae.model.likelihoods:Bernoulli",
    "normal": "pyro_vae.model.likelihoods:Normal",
}
NETWORKS = {
    "mlp": "pyro_vae.model.networks:MLP",
    "gated_mlp": "pyro_vae.model.networks:GatedMLP",
    "conv": "pyro_vae.model.networks:ConvEncoder",
}
DECODERS = {**NETWORKS, "conv": "pyro_vae.model.networks:ConvDecoder"}
ACTIVATIONS = {
    "relu": "torch.nn:ReLU",
    "tanh": "torch.nn:Tanh",
    "silu": "torch.nn:SiLU",
    "gelu": "torch.nn:GELU",
    "softplus": "torch.nn:Softplus",
}
OBJECTIVES = {
    "trace_elbo": "pyro.infer:Trace_ELBO",
    "mean_field_elbo": "pyro_vae.inference.objectives:MeanFieldELBO",
    "iwae": "pyro_vae.inference.objectives:ImportanceWeightedELBO",
}
OPTIMIZERS = {"adam": "torch.optim:Adam", "adamw": "torch.optim:AdamW", "adamax": "torch.optim:Adamax"}
SCHEDULES = ("constant", "cosine", "step")


def check_name(table: str, name: str) -> str:
    """Returns the name if the table has it.

    Raises:
        UsageError: with the nearest valid name.

    Example:
        >>> check_name("LIKELIHOODS", "bernouli")
        Traceback (most recent call last):
        ...
        pyro_vae.errors.UsageError: unknown likelihood 'bernouli'; did you mean 'bernoulli'? (bernoulli, normal)
    """
    names = globals()[table]
    if name in names or (table == "DATASETS" and Path(name).suffix in (".npy", ".npz")):
        return name
    also = ", or a path that ends in .npy or .npz" if table == "DATASETS" else ""
    raise unknown(table.removesuffix("S").lower(), name, names, also)


def check_names(config: Config) -> None:
    """Checks every name in the config, and what can be known to clash, without importing torch.

    Raises:
        UsageError: an unknown name, or settings that contradict each other.
    """
    for field in fields(config):
        if table := field.metadata["table"]:
            check_name(table, getattr(config, field.name))
    if config.kl_weight == config.reconstruction_weight == 0.0:
        raise UsageError("kl_weight and reconstruction_weight are both 0: there is nothing to train")
    if config.objective == "iwae" and not config.kl_weight == config.reconstruction_weight == 1.0:
        raise UsageError(
            "an importance-weighted bound has no separate KL: with --objective iwae both weights must be 1"
        )
    if config.objective == "iwae" and config.kl_warmup:
        raise UsageError("a KL warm-up is a weight, and --objective iwae has none: leave --kl-warmup out")


def data(config: Config) -> Splits:
    """The three splits, binarised and dequantised as the config says."""
    from pyro.distributions import constraints

    from pyro_vae.data import load

    binarize = config.binarize
    if binarize == "auto":
        binarize = "dynamic" if _find("LIKELIHOODS", config.likelihood).support is constraints.boolean else "none"
    return load(
        config.dataset,
        data_dir=config.data_dir,
        download=config.download,
        binarize=binarize,
        dequantize=config.dequantize,
        split=config.split,
        data_seed=config.data_seed,
    )


def vae(config: Config, x_shape: tuple[int, ...], **members: Any) -> VAE:
    """The program that the config names, with parameters drawn from the stream (seed, "init").

    Args:
        config: names and sizes.
        x_shape: event shape of the data.
        members: `prior`, `posterior` or `likelihood` to use instead of the ones that the config names.
    """
    from pyro_vae.model.vae import VAE
    from pyro_vae.randomness import stream

    if unknown := set(members) - {"prior", "posterior", "likelihood"}:
        raise UsageError(f"a VAE has a prior, a posterior and a likelihood; got {sorted(unknown)}")
    with stream(config.seed, "init"), _usage_errors():
        made = VAE(**{**_members(config, x_shape, skip=members), **members})
    return made.to(_device(config.device))


def optimizer(config: Config, program: VAE) -> torch.optim.Optimizer:
    """One optimiser over all parameters."""
    kind = _find("OPTIMIZERS", config.optimizer)
    options = {"fused": True} if "fused" in inspect.signature(kind).parameters else {}
    return kind(program.parameters(), **_options(kind, config), **options)


def svi(config: Config, program: VAE) -> SVI:
    """The step that the config names, over all parameters of the program."""
    from pyro_vae.inference.svi import SVI

    kind = _find("OBJECTIVES", config.objective)
    # One plate, the data; told so, Pyro need not run the program once to find out.
    batched = {"vectorize_particles": True, "max_plate_nesting": 1} if config.num_particles > 1 else {}
    extra = batched if "vectorize_particles" in inspect.signature(kind).parameters else {}
    loss = kind(**_options(kind, config), **extra)
    return SVI(program.model, program.guide, optimizer(config, program), loss, config.max_grad_norm)


def schedule(config: Config) -> Schedule:
    """Epochs, batches, weights."""
    from pyro_vae.inference.training import Schedule

    return Schedule(**{f.name: getattr(config, f.name) for f in fields(Schedule)})


@contextmanager
def _usage_errors() -> Iterator[None]:
    # A network or member that can not be built from what the flags say, e.g. a convolution on vectors.
    try:
        yield
    except PyroVAEError:
        raise
    except ValueError as error:
        raise UsageError(str(error)) from error


def _members(config: Config, x_shape: tuple[int, ...], skip: Any) -> dict[str, Any]:
    made: dict[str, Any] = {}
    if "prior" not in skip:
        kind = _find("PRIORS", config.prior)
        made["prior"] = kind(**_options(kind, config))
    network = {"hidden": config.hidden, "activation": _find("ACTIVATIONS", config.activation)}
    if "posterior" not in skip:
        kind = _find("POSTERIORS", config.posterior)
        encoder = _find("NETWORKS", config.network)(x_shape, kind.encoder_shape(config.latent_dim), **network)
        made["posterior"] = kind(encoder, **_options(kind, config))
    if "likelihood" not in skip:
        kind = _find("LIKELIHOODS", config.likelihood)
        decoder = _find("DECODERS", config.network)((config.latent_dim,), kind.decoder_shape(x_shape), **network)
        made["likelihood"] = kind(decoder, **_options(kind, config))
    return made


def _device(name: str) -> torch.device:
    import torch

    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0].split(". ")[0][:100]
        raise UsageError(f"device {name!r} can not be used here ({reason}): try --device cpu") from error
    return device


def _options(kind: Any, config: Config) -> dict[str, Any]:
    return {f.name: getattr(config, f.name) for f in fields(config) if f.name in inspect.signature(kind).parameters}


def _find(table: str, name: str) -> Any:
    module, _, attribute = globals()[table][check_name(table, name)].partition(":")
    return getattr(import_module(module), attribute)
