"""The one place where strings become objects.

Each table maps a name of the command line to "module:attribute"; nothing is imported until a name is used. To offer a
new member, add its row. A constructor argument that has the name of a `Config` field gets that field's value; so do
`x_shape`, `num_levels` and `y_dim`, which the data say, and the program's `posterior`. A member with an option needs no
code here.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyro_vae import data as data_room
from pyro_vae.errors import DataError, PyroVAEError, UsageError, unknown
from pyro_vae.experiment import presets
from pyro_vae.experiment.config import Config

if TYPE_CHECKING:
    import torch

    from pyro_vae.data import Form, Splits
    from pyro_vae.inference import SVI
    from pyro_vae.inference.compiled import Compile
    from pyro_vae.inference.training import Schedule
    from pyro_vae.model.vae import VAE

PRESETS = tuple(presets.names())
DATASETS = data_room.SOURCES
SPLITS = data_room.SPLITS
BINARIZATIONS = ("auto", *data_room.BINARIZE)
PRIORS = {
    "standard": "pyro_vae.model.priors:StandardNormal",
    "diagonal": "pyro_vae.model.priors:DiagonalNormal",
    "full": "pyro_vae.model.priors:FullNormal",
    "laplace": "pyro_vae.model.priors:Laplace",
    "student_t": "pyro_vae.model.priors:StudentT",
    "mixture": "pyro_vae.model.priors:MixtureOfNormals",
    "vamp": "pyro_vae.model.priors:VampPrior",
    "flow": "pyro_vae.model.priors:FlowPrior",
    "conditional": "pyro_vae.model.priors:ConditionalNormal",
}
POSTERIORS = {
    "diagonal": "pyro_vae.model.posteriors:DiagonalNormal",
    "full": "pyro_vae.model.posteriors:FullNormal",
    "low_rank": "pyro_vae.model.posteriors:LowRankNormal",
    "flow": "pyro_vae.model.posteriors:FlowPosterior",
    "delta": "pyro_vae.model.posteriors:Delta",
}
LIKELIHOODS = {
    "bernoulli": "pyro_vae.model.likelihoods:Bernoulli",
    "continuous_bernoulli": "pyro_vae.model.likelihoods:ContinuousBernoulli",
    "normal": "pyro_vae.model.likelihoods:Normal",
    "low_rank_normal": "pyro_vae.model.likelihoods:LowRankNormal",
    "laplace": "pyro_vae.model.likelihoods:Laplace",
    "exponential_norm": "pyro_vae.model.likelihoods:ExponentialNorm",
    "discretized_logistic": "pyro_vae.model.likelihoods:DiscretizedLogistic",
    "categorical": "pyro_vae.model.likelihoods:Categorical",
    "poisson": "pyro_vae.model.likelihoods:Poisson",
    "negative_binomial": "pyro_vae.model.likelihoods:NegativeBinomial",
}
FLOWS = ("spline", "autoregressive")
PSEUDO_INPUTS = ("data", "random")
ENCODER_PREDICTS = ("log_sigma", "log_variance")
LEARN_SCALES = ("no", "one", "pixel", "predicted")
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
PRECISIONS = ("float32", "bfloat16")
OBJECTIVES = {
    "trace_elbo": "pyro.infer:Trace_ELBO",
    "mean_field_elbo": "pyro_vae.inference.objectives:MeanFieldELBO",
    "iwae": "pyro_vae.inference.objectives:ImportanceWeightedELBO",
}
OPTIMIZERS = {"adam": "torch.optim:Adam", "adamw": "torch.optim:AdamW", "adamax": "torch.optim:Adamax"}
SCHEDULES = ("constant", "cosine", "step")
COMPILE = ("auto", "yes", "no")


def check_name(table: str, name: str) -> str:
    """Returns the name if the table has it.

    Raises:
        UsageError: with the nearest valid name.

    Example:
        >>> check_name("OPTIMIZERS", "adan")
        Traceback (most recent call last):
        ...
        pyro_vae.errors.UsageError: unknown optimizer 'adan'; did you mean 'adam'? (adam, adamw, adamax)
    """
    names = globals()[table]
    if (
        name in names
        or (table == "PRESETS" and not name)
        or (table == "DATASETS" and Path(name).suffix in (".npy", ".npz"))
    ):
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
    if config.prior == "conditional" and not config.conditional:
        raise UsageError("--prior conditional is p(z|y) and needs labels: add --conditional")


def data(config: Config) -> Splits:
    """The three splits, binarised, dequantised or left as levels, as the config and its likelihood say."""
    from pyro.distributions import constraints

    from pyro_vae.data import load

    likelihood = _find("LIKELIHOODS", config.likelihood)
    binarize = config.binarize
    if binarize == "auto":
        binarize = "dynamic" if likelihood.support is constraints.boolean else "none"
    splits = load(
        config.dataset,
        data_dir=config.data_dir,
        download=config.download,
        binarize=binarize,
        dequantize=config.dequantize,
        levels=_takes_levels(likelihood),
        split=config.split,
        data_seed=config.data_seed,
    )
    if config.conditional and not splits.num_classes:
        raise UsageError(f"{config.dataset} has no labels, which --conditional needs: leave it out")
    return splits


def vae(
    config: Config,
    x_shape: tuple[int, ...],
    num_levels: int | None = None,
    num_classes: int = 0,
    **members: Any,
) -> VAE:
    """The program that the config names, with parameters drawn from the stream (seed, "init").

    Args:
        config: names and sizes.
        x_shape, num_levels, num_classes: what must be known of the data, see `pyro_vae.data.Form`.
        members: `prior`, `posterior` or `likelihood` to use instead of the ones that the config names.

    Raises:
        UsageError: members that can not be built, or make no sense together.
    """
    from pyro_vae.model.vae import VAE
    from pyro_vae.randomness import stream

    if unknown := set(members) - {"prior", "posterior", "likelihood"}:
        raise UsageError(f"a VAE has a prior, a posterior and a likelihood; got {sorted(unknown)}")
    facts: dict[str, Any] = {"x_shape": x_shape, "y_dim": num_classes if config.conditional else 0}
    facts["input_scale"] = 1.0
    if num_levels is not None and _takes_levels(members.get("likelihood", _find("LIKELIHOODS", config.likelihood))):
        facts |= {"num_levels": num_levels, "input_scale": 1 / (num_levels - 1)}
    with stream(config.seed, "init"), _usage_errors():
        made = VAE(**_members({**_values(config), **facts}, members))
    _check_autoencoder(config, made)
    return made.to(_device(config.device))


def num_described(config: Config, *form: Any, **members: Any) -> int:
    """About how many numbers the program of a config has, found without taking memory for them.

    Args:
        config: as for `vae`.
        form: x_shape, num_levels and num_classes, as for `vae`.
        members: as for `vae`; they are moved away from their device.

    Example:
        >>> num_described(Config(latent_dim=10**6, hidden=(10**6,)), (784,))
        3001572000784
    """
    import torch

    # A flow can not be laid out without its numbers: its layers are counted by hand, and the rest stands in for it.
    plain = replace(
        config,
        device="meta",
        prior="standard" if config.prior == "flow" else config.prior,
        posterior="diagonal" if config.posterior == "flow" else config.posterior,
    )
    layers = [config.latent_dim, *config.flow_hidden, config.latent_dim]
    flow = config.latent_dim**2 + sum(a * b for a, b in pairwise(layers))
    flows = config.flow_transforms * [config.prior, config.posterior].count("flow")
    with torch.device("meta"):
        return flows * flow + sum(tensor.numel() for tensor in vae(plain, *form, **members).tensors().values())


def unused(config: Config) -> list[str]:
    """Names of the settings that were changed and reach none of the three members, since others take them.

    Example:
        >>> unused(Config(prior="vamp", num_components=50)), unused(Config(prior="standard", num_components=50))
        ([], ['num_components'])
    """
    chosen = {"PRIORS": config.prior, "POSTERIORS": config.posterior, "LIKELIHOODS": config.likelihood}
    taken = set().union(*(_takes(table, name) for table, name in chosen.items()))
    known = set().union(*(_takes(table, name) for table in chosen for name in globals()[table]))
    known -= {"posterior"}  # that of the program, which a VampPrior takes: here the name of a member
    return [f.name for f in fields(config) if f.name in known - taken and getattr(config, f.name) != f.default]


def start(config: Config, program: VAE, data: Splits) -> None:
    """Before training: the decoder at the mean of the training data, the prior where it wants to be among them.

    Data in a mapped file are checked block by block, and mean and prior are those of a sample, see `Split.in_memory`.

    Raises:
        DataError: data outside the support of the likelihood.
    """
    from pyro_vae.randomness import stream

    for part in (data.valid, data.test, data.train):
        with _named(f"{data.protocol['name']}, {part.name} data"):
            for first, x in part.blocks():
                program.likelihood.check(x, first)
    train = data.train.in_memory()
    y = train.one_hot(data.num_classes) if config.conditional else None
    program.likelihood.start_at(train.expected())
    with stream(config.seed, "start"):
        program.prior.start_at(program.posterior, train.fixed(), y)


def is_discrete(config: Config) -> bool:
    """Whether p(x|z) gives masses, not densities.

    >>> is_discrete(Config(likelihood="bernoulli")), is_discrete(Config(likelihood="normal"))
    (True, False)
    """
    return _find("LIKELIHOODS", config.likelihood).support.is_discrete


def white(config: Config, form: Form) -> float:
    """The value of x that a picture shows white: the highest level, or 1."""
    levels = _takes_levels(_find("LIKELIHOODS", config.likelihood)) and form.num_levels
    return float(levels - 1) if levels else 1.0


def optimizer(config: Config, program: VAE) -> torch.optim.Optimizer:
    """One optimiser over all parameters."""
    kind = _find("OPTIMIZERS", config.optimizer)
    options = {"fused": True} if "fused" in inspect.signature(kind).parameters else {}
    return kind(program.parameters(), **_options(kind, _values(config)), **options)


def svi(config: Config, program: VAE) -> SVI:
    """The step that the config names, over all parameters of the program."""
    from pyro_vae.inference.svi import SVI

    kind = _find("OBJECTIVES", config.objective)
    # One plate, the data; told so, Pyro need not run the program once to find out.
    batched = {"vectorize_particles": True, "max_plate_nesting": 1} if config.num_particles > 1 else {}
    extra = batched if "vectorize_particles" in inspect.signature(kind).parameters else {}
    loss = kind(**_options(kind, _values(config)), **extra)
    step = program.model, program.guide, optimizer(config, program), loss
    return SVI(*step, config.max_grad_norm, _compile(config))


def _compile(config: Config) -> Compile:
    return "auto" if config.compile == "auto" else config.compile == "yes"


@contextmanager
def estimating(config: Config, num_draws: int) -> Iterator[None]:
    """Inside, estimates run as compiled graphs where the config wants them; "auto" from some millions of draws on.

    Args:
        config: of the run.
        num_draws: of latents in all, data times draws for each. Whoever splits an estimate over processes passes the
            whole, so that all round alike.
    """
    from pyro_vae.evaluation.compiled import MANY_DRAWS, compiled

    wanted = _compile(config)
    if wanted is True or (wanted == "auto" and num_draws >= MANY_DRAWS):
        with compiled():
            yield
    else:
        yield


def schedule(config: Config) -> Schedule:
    """Epochs, batches, weights."""
    from pyro_vae.inference.training import Schedule

    return Schedule(**{f.name: getattr(config, f.name) for f in fields(Schedule)})


@contextmanager
def _named(what: str) -> Iterator[None]:
    try:
        yield
    except DataError as error:
        raise DataError(f"{what}: {error}") from error


@contextmanager
def _usage_errors() -> Iterator[None]:
    # A network or member that can not be built from what the flags say, e.g. a convolution on vectors.
    try:
        yield
    except PyroVAEError:
        raise
    except ValueError as error:
        raise UsageError(str(error)) from error


def _members(values: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    # The prior last: it may need the posterior, and other priors leave the networks' first weights as they are.
    made = dict(given)
    if "posterior" not in made:
        kind = _find("POSTERIORS", values["posterior"])
        shape = kind.encoder_shape(**_options(kind.encoder_shape, values))
        made["posterior"] = kind(_network("NETWORKS", values["x_shape"], shape, values), **_options(kind, values))
    if "likelihood" not in made:
        kind = _find("LIKELIHOODS", values["likelihood"])
        shape = kind.decoder_shape(**_options(kind.decoder_shape, values))
        made["likelihood"] = kind(
            _network("DECODERS", (values["latent_dim"],), shape, values), **_options(kind, values)
        )
    if "prior" not in made:
        kind = _find("PRIORS", values["prior"])
        made["prior"] = kind(**_options(kind, {**values, "posterior": made["posterior"]}))
    return made


def _network(table: str, in_shape: tuple[int, ...], out_shape: tuple[int, ...], values: dict[str, Any]) -> Any:
    scale = {"input_scale": values["input_scale"]} if table == "NETWORKS" else {}
    return _find(table, values["network"])(
        in_shape,
        out_shape,
        hidden=values["hidden"],
        activation=_find("ACTIVATIONS", values["activation"]),
        y_dim=values["y_dim"],
        precision=values["precision"],
        **scale,
    )


def _takes_levels(likelihood: Any) -> bool:
    """Whether x is whole numbers 0, 1, 2, ... under this likelihood."""
    from pyro.distributions import constraints

    return likelihood.support.is_discrete and likelihood.support is not constraints.boolean


def _check_autoencoder(config: Config, program: VAE) -> None:
    from pyro_vae.model.posteriors import Delta

    if not isinstance(program.posterior, Delta):
        return
    if config.kl_weight != 0.0:
        raise UsageError(
            "--posterior delta is the plain autoencoder: its KL is infinite, so that it trains under only "
            "reconstruction. Add --kl-weight 0"
        )
    if list(program.prior.parameters()):
        raise UsageError(
            f"--posterior delta trains without the KL, so that the parameters of --prior {config.prior} would not "
            "train. Use --prior standard"
        )


def _device(name: str) -> torch.device:
    import torch

    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0].split(". ")[0][:100]
        raise UsageError(f"device {name!r} can not be used here ({reason}): try --device cpu") from error
    return device


def _values(config: Config) -> dict[str, Any]:
    return {f.name: getattr(config, f.name) for f in fields(config)}


def _options(kind: Any, values: dict[str, Any]) -> dict[str, Any]:
    return {name: values[name] for name in inspect.signature(kind).parameters if name in values}


def _takes(table: str, name: str) -> set[str]:
    return set(inspect.signature(_find(table, name)).parameters)


def _find(table: str, name: str) -> Any:
    module, _, attribute = globals()[table][check_name(table, name)].partition(":")
    return getattr(import_module(module), attribute)
