"""The tables of names: each maps a name of the command line to "module:attribute", and nothing is imported until a name
is used. To offer a new member, add its row.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from pyro_vae import data as data_room
from pyro_vae.errors import unknown
from pyro_vae.experiment import own_members, presets

PRESETS = tuple(presets.names())
DATASETS = data_room.SOURCES
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
    "trace_elbo": "pyro_vae.inference.sampled_elbo:SampledELBO",
    "mean_field_elbo": "pyro_vae.inference.objectives:MeanFieldELBO",
    "iwae": "pyro_vae.inference.objectives:ImportanceWeightedELBO",
}
OPTIMIZERS = {"adam": "torch.optim:Adam", "adamw": "torch.optim:AdamW", "adamax": "torch.optim:Adamax"}


def check_name(table: str, name: str) -> str:
    """Returns the name if the table has it, or if it is the place of a user's own member.

    Args:
        table: the table's name in this module.
        name: a name of the command line.

    Raises:
        UsageError: it does not; the error says the nearest valid name.

    Example:
        >>> check_name("OPTIMIZERS", "adan")
        Traceback (most recent call last):
        ...
        pyro_vae.errors.UsageError: unknown optimizer 'adan'; did you mean 'adam'? (adam, adamw, adamax)
    """
    names, kind = globals()[table], table.removesuffix("S").lower()
    is_path = table == "DATASETS" and data_room.is_path(name)
    is_own = kind in own_members.FAMILIES and own_members.is_place(name)
    if name in names or is_path or is_own or (table == "PRESETS" and not name):
        return name
    also = {"DATASETS": f", or {data_room.PATHS}"}.get(table, "")
    if kind in own_members.FAMILIES:
        also = f", or one of your own, {own_members.FORM[kind]}"
    raise unknown(kind, name, names, also)


def find(table: str, name: str) -> Any:
    """Imports what a name of a table stands for.

    Raises:
        UsageError: the table has no such name.
    """
    module, _, attribute = globals()[table][check_name(table, name)].partition(":")
    return getattr(import_module(module), attribute)
