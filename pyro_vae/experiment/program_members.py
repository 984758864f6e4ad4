"""The members of a program, and their networks, from values by name.

An argument of a constructor that has the name of a value gets it. A class of the user's own gets only facts, and the
arguments that were given for it, see `own_members`.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from pyro_vae.experiment import own_members, tables
from pyro_vae.experiment.own_members import FACTS, OwnMember, is_place

if TYPE_CHECKING:
    from pyro_vae.experiment.config import Config
    from pyro_vae.model.likelihoods import Likelihood
    from pyro_vae.model.posteriors import Posterior

Values = dict[str, Any]
TABLES = {"prior": "PRIORS", "posterior": "POSTERIORS", "likelihood": "LIKELIHOODS"}


def find(config: Config, family: str) -> Any:
    """Returns the class of a member, which the config carries or names.

    Args:
        config: the settings.
        family: "prior", "posterior" or "likelihood".

    Raises:
        UsageError: the name is unknown, or a place whose class the config does not carry.

    Example:
        >>> from pyro_vae.experiment.config import Config
        >>> find(Config(), "likelihood").__name__
        'Bernoulli'
    """
    return _class_of(family, getattr(config.own, family) or getattr(config, family))


def takes(config: Config, family: str) -> set[str]:
    """Returns the names of the arguments that a member of the config takes."""
    return set(own_members.parameters(find(config, family)))


def one_layer(values: Values, given: Values) -> Values:
    """Returns the members of a `VAE`.

    Args:
        values: of settings and facts, by name.
        given: members that are there already.
    """
    # The prior last: it may need the posterior, and other priors leave the networks' first weights as they are.
    made = dict(given)
    if "posterior" not in made:
        made["posterior"] = _posterior(values["x_shape"], values)
    if "likelihood" not in made:
        made["likelihood"] = _likelihood(values)
    if "prior" not in made:
        made["prior"] = _made("prior", {**values, "posterior": made["posterior"]})
    return made


def two_layers(values: Values, given: Values) -> Values:
    """Returns the members of a `HierarchicalVAE`, for arguments as of `one_layer`.

    z1 has `latent_dim` dimensions, z2 `latent_dim2`, and `hidden2` is between them.
    """
    network = values["network"] if values["network"] in ("mlp", "gated_mlp") else "mlp"
    of_z2 = {**values, "latent_dim": values["latent_dim2"]}
    apart = {"network": network, "input_scale": 1.0, "data_scale": None, "masks": False}
    between = {**of_z2, "hidden": values["hidden2"], **apart}
    made = dict(given)
    if values["guide"] == "top_down":
        encoded, encoder2, y_dim = values["x_shape"], of_z2, values["latent_dim2"] + values["y_dim"]
    else:
        encoded, encoder2, y_dim = (values["latent_dim"],), between, values["y_dim"]
    if "posterior1" not in made:
        made["posterior1"] = _posterior(values["x_shape"], {**values, "y_dim": y_dim})
    if "posterior2" not in made:
        made["posterior2"] = _posterior(encoded, {**encoder2, "x_shape": encoded})
    if "likelihood" not in made:
        made["likelihood"] = _likelihood(values)
    if "middle" not in made:
        made["middle"] = _middle(between, values["latent_dim"])
    if "prior" not in made:
        made["prior"] = _made("prior", {**encoder2, "posterior": made["posterior2"], "x_shape": encoded})
    return made


def scalings(scaling: str, x_shape: tuple[int, ...], given: Values, *, missing: bool) -> Values:
    """Returns the scalings that members take by name: of networks that see x, of rates, and of a density's columns.

    Args:
        scaling: a word of `pyro_vae.option_words.Scaling`.
        x_shape: of a datum.
        given: members that are there already.
        missing: whether data have missing numbers.
    """
    from pyro_vae.model.scaling import Centred, ColumnMean, ColumnScale, LogCounts
    from pyro_vae.option_words import Scaling, check_word

    check_word("scaling", scaling, Scaling)
    if scaling == "counts":
        log = LogCounts()
        return {"data_scale": Centred(x_shape, log) if missing else log, "column_mean": ColumnMean(x_shape)}
    if scaling == "as_stored":
        return {"data_scale": Centred(x_shape) if missing else None}
    # One for all members, those that are given among them: they share its numbers.
    parts = (part for member in given.values() for part in member.modules())
    scale = next((part for part in parts if isinstance(part, ColumnScale)), None) or ColumnScale(x_shape)
    return {"data_scale": scale, "column_scale": scale}


def options(function: Any, values: Values) -> Values:
    """Returns those of some values that a function takes by name."""
    return {name: values[name] for name in inspect.signature(function).parameters if name in values}


def _posterior(encoded: tuple[int, ...], values: Values) -> Posterior:
    shape = _shape("posterior", "encoder_shape", values)
    return _made("posterior", {**values, "encoder": _encoder(encoded, shape, values)})


def _likelihood(values: Values) -> Likelihood:
    shape = _shape("likelihood", "decoder_shape", values)
    return _made("likelihood", {**values, "decoder": _network("DECODERS", (values["latent_dim"],), shape, values)})


def _middle(values: Values, latent_dim: int) -> Likelihood:
    """p(z1|z2): a normal whose mean and scales the network predicts, at first near N(0, I)."""
    from pyro_vae.model.likelihoods import Normal

    shape = Normal.decoder_shape((latent_dim,), "predicted")
    return Normal(_network("DECODERS", (values["latent_dim"],), shape, values), scale=1.0, learn_scale="predicted")


def _encoder(encoded: tuple[int, ...], shape: tuple[int, ...], values: Values) -> Any:
    """The network from data, or from z1: it sees data as they are scaled, and which numbers are missing."""
    from pyro_vae.model.networks import WithMask
    from pyro_vae.model.scaling import Rescaled, Times

    network: Any
    if values["masks"]:
        inner = _network("NETWORKS", WithMask.in_shape(encoded), shape, {**values, "input_scale": 1.0})
        network = WithMask(inner, values["input_scale"])
    else:
        network = _network("NETWORKS", encoded, shape, values)
        if isinstance(values["network"], OwnMember) and values["input_scale"] != 1.0:
            network = Rescaled(network, Times(values["input_scale"]))
    return network if values["data_scale"] is None else Rescaled(network, values["data_scale"])


def _network(table: str, in_shape: tuple[int, ...], out_shape: tuple[int, ...], values: Values) -> Any:
    own = values["network"]
    if isinstance(own, OwnMember):
        facts = {**_facts("network", values), "in_shape": in_shape, "out_shape": out_shape}
        made = own_members.called(own, own.classes[table == "DECODERS"], facts, values["network_args"])
        return own_members.checked_network(own, made)
    if is_place(own):
        raise own_members.without_code({"network": own})
    from pyro_vae.model.networks import initialise

    scale = {"input_scale": values["input_scale"]} if table == "NETWORKS" else {}
    network = tables.find(table, own)(
        in_shape,
        out_shape,
        hidden=values["hidden"],
        activation=tables.find("ACTIVATIONS", values["activation"]),
        y_dim=values["y_dim"],
        precision=values["precision"],
        **scale,
    )
    initialise(network, values["init"])
    return network


def _made(family: str, values: Values) -> Any:
    return _called(family, _class_of(family, values[f"{family}_class"]), values)


def _shape(family: str, says: str, values: Values) -> tuple[int, ...]:
    """What a member says its network must give."""
    return tuple(_called(family, getattr(_class_of(family, values[f"{family}_class"]), says), values))


def _called(family: str, function: Any, values: Values) -> Any:
    own = values[f"{family}_class"]
    if isinstance(own, OwnMember):
        return own_members.called(own, function, _facts(family, values), values[f"{family}_args"])
    return function(**options(function, values))


def _facts(family: str, values: Values) -> Values:
    return {name: values[name] for name in FACTS[family] if name in values}


def _class_of(family: str, named: OwnMember | str) -> Any:
    if isinstance(named, OwnMember):
        return named.classes[0]
    if is_place(named):
        raise own_members.without_code({family: named})
    return tables.find(TABLES[family], named)
