"""The one place where strings become objects.

To offer a new member, add its row to `tables`. An argument of its constructor that has the name of a `Config` field
gets the value of that field; `x_shape`, `num_levels`, `y_dim` and the scalings (`column_scale`, `column_mean`,
`data_scale`) come from the data, and `posterior` is that of the program. So a member with an option needs no code here.
A class of the user's own, which the config carries, gets only facts, and arguments of its own, see `own_members`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import fields, replace
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from pyro_vae.errors import PyroVAEError, UsageError, first_line, of_data
from pyro_vae.experiment import own_members, program_members, tables
from pyro_vae.experiment.checked_fields import settings_of
from pyro_vae.experiment.config import Config
from pyro_vae.experiment.own_members import OwnMembers, check_arguments, is_place, sentences_of
from pyro_vae.experiment.program_members import Values, find, options, takes
from pyro_vae.loss_requirements import (
    check_gradient,
    check_no_warm_up,
    check_order,
    check_point_guide,
    check_total_gradient,
    check_unweighted,
)

if TYPE_CHECKING:
    import torch

    from pyro_vae.data import Form, Split, Splits
    from pyro_vae.inference import SVI
    from pyro_vae.inference.fitting import Schedule
    from pyro_vae.inference.step_graphs import Compile
    from pyro_vae.model.autoencoder import Autoencoder

# Which of them have no separate KL, and which a KL in closed form: a test compares both with the classes.
_IMPORTANCE_WEIGHTED = frozenset({"iwae"})
_ANALYTIC = frozenset({"mean_field_elbo"})


def check_names(config: Config) -> None:
    """Checks every name in the config, and settings that contradict each other, without importing torch.

    Raises:
        UsageError: a name is unknown, or does not go with another setting.
    """
    check_each_name(config)
    check_clashes(config)


def check_each_name(config: Config) -> None:
    """Checks each name in the config, without the clashes between settings.

    Raises:
        UsageError: a name is unknown.
    """
    for field in settings_of(Config):
        if table := field.metadata["table"]:
            tables.check_name(table, getattr(config, field.name))
    for family in own_members.FAMILIES:
        if getattr(config, f"{family}_args") and not _is_own(config, family):
            raise UsageError(
                f"`{family}_args` belong to a member of your own, and `{family}={getattr(config, family)!r}` is "
                "not one: its options are settings of their own. Leave them out"
            )


def _is_own(config: Config, family: str) -> bool:
    return is_place(getattr(config, family)) or getattr(config.own, family) is not None


def check_own(config: Config, built: Collection[str] = ()) -> None:
    """Checks that the config carries every class that it names by place, and that these take their arguments.

    Args:
        config: the settings.
        built: the names of members that are there already, and are not built.

    Raises:
        UsageError: a class is not there, or does not take an argument that it is given.
    """
    wanted = [family for family in own_members.FAMILIES if family not in built]
    if {"posterior1", "posterior2"} <= {*built}:
        wanted.remove("posterior")
    named = {family: getattr(config, family) for family in wanted if not getattr(config.own, family)}
    if missing := {family: name for family, name in named.items() if is_place(name)}:
        raise own_members.without_code(missing)
    for family in wanted:
        if own := getattr(config.own, family):
            check_arguments(own, getattr(config, f"{family}_args"))


def check_clashes(config: Config) -> None:
    """Checks a config for settings that contradict each other, as far as this can be known without data and torch.

    Raises:
        UsageError: a setting does not go with another.

    Example:
        >>> check_clashes(Config(objective="iwae", kl_warmup=3))
        Traceback (most recent call last):
        ...
        pyro_vae.errors.UsageError: `objective='iwae'`: an importance-weighted bound has no separate KL that could ...
    """
    if config.prior == "conditional" and not config.conditional:
        raise UsageError("`prior='conditional'` is p(z|y) and needs labels: train with `conditional=True`")
    if config.layers == 2 and config.posterior == "delta":
        raise UsageError("`posterior='delta'` is the plain autoencoder, which has one layer: leave `layers=2` out")
    if config.posterior == "delta":
        with _usage_errors("`posterior='delta'`: "):
            check_point_guide(config.kl_weight)
    with _usage_errors(f"`objective={config.objective!r}`: "):
        if config.objective in _IMPORTANCE_WEIGHTED:
            check_no_warm_up(config.kl_warmup)
            check_unweighted(config.reconstruction_weight, config.kl_weight)
        if config.objective in _ANALYTIC:
            check_total_gradient(config.gradient)
        else:
            weighted = config.objective in _IMPORTANCE_WEIGHTED
            check_gradient(config.gradient, config.num_particles, importance_weighted=weighted)
        if config.objective in _ANALYTIC and config.layers == 2:
            check_order(["z2", "z1"], ["z2", "z1"] if config.guide == "top_down" else ["z1", "z2"])


def data(config: Config) -> Splits:
    """Loads the three splits: binarised, dequantised or left as levels, as the config and its likelihood say.

    Raises:
        DataError: the data are not there, damaged, or do not go with the settings.
        UsageError: a name is unknown, or a conditional program would be trained on data without labels.
    """
    from pyro_vae.data import load

    likelihood = find(config, "likelihood")
    splits = load(
        config.dataset,
        data_dir=config.data_dir,
        download=config.download,
        binarize=_binarize(config),
        dequantize=config.dequantize,
        levels=_takes_levels(likelihood.support),
        standardize=_standardize(config),
        split=config.split,
        data_seed=config.data_seed,
        valid_data=config.valid_data,
        **reading(config),
    )
    if config.conditional and not splits.num_classes:
        text = [note for note in splits.protocol["notes"] if "hold no numbers" in note]
        raise UsageError(
            f"{config.dataset} has no labels, which `conditional=True` needs: leave it out, or name the column or "
            f"array of labels by `label`. {' '.join(text)}".rstrip(" .")
        )
    return splits


def recipe(config: Config, num_levels: int | None) -> str:
    """Returns the recipe of x that the settings name, a key of `pyro_vae.data.recipes.RECIPES`.

    Args:
        config: the settings.
        num_levels: L of the data; None for counts and reals.

    Example:
        >>> recipe(Config(), 17), recipe(Config(likelihood="normal"), 17), recipe(Config(), 2)
        ('dynamic', 'none', 'none')
    """
    if _takes_levels(find(config, "likelihood").support):
        return "levels"
    return "dequantize" if config.dequantize else "none" if num_levels == 2 else _binarize(config)


def _binarize(config: Config) -> str:
    from pyro.distributions import constraints

    if config.binarize != "auto":
        return config.binarize
    return "dynamic" if find(config, "likelihood").support is constraints.boolean else "none"


def reading(config: Config) -> Values:
    """Returns the settings for a file of the user's own, as the arguments of `pyro_vae.data.Reading`."""
    from pyro.distributions import constraints

    support, has_levels = find(config, "likelihood").support, "num_levels" in takes(config, "likelihood")
    return {
        **{
            name: getattr(config, name)
            for name in ("label", "id", "group", "columns", "image_size", "colour", "channels")
        },
        "num_levels": config.levels,
        "counts": support is constraints.nonnegative_integer and not has_levels and config.reader > 1,
        "reals": support is constraints.real,
        "missing": config.missing == "nan",
        "needs_labels": config.conditional,
        "version": config.reader,
    }


def _standardize(config: Config) -> str:
    """Leaves tables as they are under likelihoods that have no scale of their own for each column."""
    wanted = config.standardize
    return wanted if takes_column_scale(config) or wanted == "yes" else "no"


def vae(
    config: Config,
    x_shape: tuple[int, ...],
    num_levels: int | None = None,
    num_classes: int = 0,
    scaling: str = "as_stored",
    **members: Any,
) -> Autoencoder:
    """Builds the program that the config names, with parameters drawn from the stream (seed, "init").

    Args:
        config: the names and sizes.
        x_shape, num_levels, num_classes, scaling: what must be known of the data, see `pyro_vae.data.Form`.
        members: `prior`, `posterior` or `likelihood` to use instead of the ones that the config names; of two layers
            `prior`, `middle`, `likelihood`, `posterior1` or `posterior2`.

    Returns:
        A `VAE`, or a `HierarchicalVAE` of two layers, on the device of the config.

    Raises:
        UsageError: a member cannot be built, or members make no sense together.

    Example:
        >>> type(vae(Config(latent_dim=2), (1, 8, 8)).posterior).__name__
        'DiagonalNormal'
    """
    from pyro_vae.model.hierarchical import HierarchicalVAE
    from pyro_vae.model.vae import VAE
    from pyro_vae.randomness import stream

    names = members_of(config)
    if others := sorted(set(members) - set(names)):
        raise UsageError(f"a program of {config.layers} layer(s) has the members {', '.join(names)}; got {others}")
    check_own(config, members)
    likelihood = members["likelihood"] if "likelihood" in members else find(config, "likelihood")
    facts: Values = {"x_shape": x_shape, "y_dim": num_classes if config.conditional else 0, "input_scale": 1.0}
    facts["masks"] = missing = config.missing == "nan"
    if num_levels is not None and _takes_levels(likelihood.support):
        facts |= {"num_levels": num_levels}
        if scaling == "as_stored":
            facts |= {"input_scale": 1 / (num_levels - 1)}
    with stream(config.seed, "init"), _usage_errors():
        values = {
            **_values(config),
            **_resolved(config, scaling),
            **program_members.scalings(scaling, x_shape, members, missing=missing),
            **facts,
        }
        if "likelihood" not in members:
            _check_scaling(config, scaling)
        made: Autoencoder
        if config.layers == 1:
            made = VAE(**program_members.one_layer(values, members), missing=missing)
        else:
            two = program_members.two_layers(values, members)
            made = HierarchicalVAE(**two, guide=config.guide, missing=missing)
    _check_autoencoder(config, made)
    return made.to(_device(config.device))


def members_of(config: Config) -> tuple[str, ...]:
    """Lists the names of a program's members.

    Example:
        >>> members_of(Config()), members_of(Config(layers=2))[:2]
        (('prior', 'posterior', 'likelihood'), ('prior', 'middle'))
    """
    two = ("prior", "middle", "likelihood", "posterior1", "posterior2")
    return two if config.layers == 2 else ("prior", "posterior", "likelihood")


def num_described(config: Config, *form: Any, **members: Any) -> int:
    """Counts about how many numbers the program of a config has, without taking memory for them.

    Args:
        config: as for `vae`.
        form: x_shape and what else must be known of the data, as for `vae`.
        members: as for `vae`; they are moved away from their device.

    Raises:
        UsageError: as for `vae`.

    Example:
        >>> num_described(Config(latent_dim=10**6, hidden=(10**6,)), (784,))
        3001572000784
    """
    import torch

    # A flow cannot be laid out without its numbers: its layers are counted by hand, and a plain member stands in. So it
    # does for a class of the user's own, which may not allow it.
    plain = _without_own(config)
    plain = replace(
        plain,
        device="meta",
        prior="standard" if config.prior == "flow" else plain.prior,
        posterior="diagonal" if config.posterior == "flow" else plain.posterior,
    )
    layers = [config.latent_dim, *config.flow_hidden, config.latent_dim]
    flow = config.latent_dim**2 + sum(a * b for a, b in pairwise(layers))
    flows = config.flow_transforms * [config.prior, config.posterior].count("flow")
    with torch.device("meta"):
        return flows * flow + sum(tensor.numel() for tensor in vae(plain, *form, **members).tensors().values())


_STAND_INS: dict[str, Values] = {
    "prior": {"prior": "standard", "prior_args": ""},
    "posterior": {"posterior": "diagonal", "posterior_args": ""},
    "likelihood": {"likelihood": "normal", "likelihood_args": ""},
    "network": {"network": "mlp", "network_args": "", "hidden": (1,)},
}


def _without_own(config: Config) -> Config:
    plain: Values = {}
    for family in own_members.FAMILIES:
        plain |= _STAND_INS[family] if _is_own(config, family) else {}
    return replace(config, own=OwnMembers(), **plain)


def unused(config: Config) -> list[str]:
    """Lists the settings that were changed but reach none of the three members, since only other members take them.

    Example:
        >>> unused(Config(prior="vamp", num_components=50)), unused(Config(prior="standard", num_components=50))
        ([], ['num_components'])
    """
    families = program_members.TABLES
    taken = set().union(*(takes(config, family) for family in families if not getattr(config.own, family)))
    known = set().union(*(_takes(table, name) for table in families.values() for name in getattr(tables, table)))
    known -= {"posterior"}  # a VampPrior takes that of the program; as a setting it is the name of a member
    known -= {name for names in own_members.FACTS.values() for name in names}
    if config.own.network and config.layers == 1:
        known |= {"hidden", "activation", "init", "precision"}
    if config.layers == 1:
        known |= {"latent_dim2", "hidden2", "guide"}
    return [f.name for f in settings_of(Config) if f.name in known - taken and getattr(config, f.name) != f.default]


def start(config: Config, program: Autoencoder, data: Splits, *, tell: bool = True) -> None:
    """Prepares training: the decoder starts at the mean of the training data, and a prior may start among their codes.

    Scalings of columns are fitted to the training data first.

    Data in a mapped file are checked block by block, and mean and prior come from a sample, see `Split.in_memory`.

    Args:
        config: the settings of the program.
        program: it is changed in place.
        data: all three splits are checked.
        tell: whether the log mentions a decoder that stays where it is.

    Raises:
        DataError: a datum lies outside the support of the likelihood.
    """
    from pyro_vae.model.likelihoods import likelihood
    from pyro_vae.randomness import stream

    check_data(program, data)
    train = data.train.in_memory()
    y = train.one_hot(data.num_classes) if config.conditional else None
    own, notes = config.own.given().values(), nullcontext() if tell else likelihood.unsaid()
    with stream(config.seed, "start"), notes, sentences_of(*own, doing="start at the data"):
        program.start_at(train.expected(), train.fixed(), y)


def check_data(program: Autoencoder, data: Splits) -> None:
    """Checks all three splits, block by block.

    Args:
        program: what will be trained.
        data: the splits.

    Raises:
        DataError: a datum lies outside the support of the likelihood; the error names its row.
    """
    for split in (data.valid, data.test, data.train):
        with of_data(data.protocol["name"]):
            for first, x in split.blocks():
                program.check_data(x, first, partial(_place, split, data.protocol["split"]["given"]))


def _place(split: Split, given: Collection[str], position: int) -> str:
    """Names a datum by its row in the array that was cut, or in that of its split."""
    return split.place(position) + (f" of the {split.name} data" if split.name in given else "")


def is_discrete(config: Config) -> bool:
    """Returns whether p(x|z) gives masses, not densities.

    Example:
        >>> is_discrete(Config(likelihood="bernoulli")), is_discrete(Config(likelihood="normal"))
        (True, False)
    """
    return bool(find(config, "likelihood").support.is_discrete)


def shown_range(config: Config, form: Form, protocol: Mapping[str, Any]) -> tuple[float, float]:
    """Returns the values of x that a picture shows black and white: 0 and the highest level, else the data's own.

    Args:
        config: the settings of the program.
        form: what must be known of the data.
        protocol: of the data.
    """
    return range_under(find(config, "likelihood").support, form, protocol)


def range_under(support: Any, form: Form, protocol: Mapping[str, Any]) -> tuple[float, float]:
    """Returns what `shown_range` does, by the support of the likelihood, or None where that is not known."""
    levels = support is not None and _takes_levels(support) and form.num_levels
    low, high = (0, levels - 1) if levels else protocol.get("range", (0, 1))
    return float(low), float(high)


def optimizer(config: Config, program: Autoencoder) -> torch.optim.Optimizer:
    """Builds the optimiser that the config names, one over all parameters of the program."""
    optimizer_class = tables.find("OPTIMIZERS", config.optimizer)
    wanted = {**options(optimizer_class, _values(config)), **options(optimizer_class, {"fused": True})}
    return optimizer_class(program.parameters(), **wanted)


def svi(config: Config, program: Autoencoder) -> SVI:
    """Builds the step that the config names, over all parameters of the program.

    Args:
        config: the objective and its weights, the optimiser, and whether steps are compiled.
        program: it stays on its device.

    Raises:
        UsageError: the objective does not go with the weights, or with the order in which the guide samples.
    """
    from pyro_vae.inference.svi import SVI

    check_clashes(config)
    objective = tables.find("OBJECTIVES", config.objective)
    # One plate, the data; told so, Pyro need not run the program once to find out.
    batched = {"vectorize_particles": True, "max_plate_nesting": 1} if config.num_particles > 1 else {}
    loss = objective(**options(objective, {**_values(config), **batched}))
    step = program.model, program.guide, optimizer(config, program), loss
    return SVI(*step, config.max_grad_norm, _compile(config))


def _compile(config: Config) -> Compile:
    return "auto" if config.compile == "auto" else config.compile == "yes"


@contextmanager
def estimating(config: Config, num_draws: int, kept: dict[Any, Any] | None = None) -> Iterator[None]:
    """Runs the estimates inside as compiled graphs where the config wants them; "auto" from some millions of draws on.

    Args:
        config: the settings of the run.
        num_draws: how many draws of latents there are, data times draws for each. If an estimate is split over
        processes, pass the total, so that all round in the same way.
        kept: where graphs are kept for the next estimates, see `evaluation.compiled`.
    """
    from pyro_vae.evaluation.block_graphs import MANY_DRAWS, compiled

    wanted = _compile(config)
    if wanted is True or (wanted == "auto" and num_draws >= MANY_DRAWS):
        with compiled(kept):
            yield
    else:
        yield


def schedule(config: Config, num_train: int) -> Schedule:
    """Returns what `fit` needs to know of the config: epochs, batches, weights, ...

    Args:
        config: the settings.
        num_train: how many data there are to train on, on which the size of batches depends.
    """
    from pyro_vae.inference.fitting import Schedule

    settings = {f.name: getattr(config, f.name) for f in fields(Schedule)}
    return Schedule(**{**settings, "batch_size": batch_size(config, num_train)})


def batch_size(config: Config, num_train: int) -> int:
    """Returns the data per step: `batch_size`, or fewer where an epoch would have fewer than `fewest_steps` steps.

    Example:
        >>> batch_size(Config(), 1257), batch_size(Config(), 124), batch_size(Config(fewest_steps=1), 124)
        (128, 15, 124)
    """
    return min(config.batch_size, max(1, num_train // config.fewest_steps))


@contextmanager
def _usage_errors(prefix: str = "") -> Iterator[None]:
    # A network or member that cannot be built from the settings, e.g. a convolution on vectors.
    try:
        yield
    except PyroVAEError:
        raise
    except ValueError as error:
        raise UsageError(f"{prefix}{error}") from error


def _resolved(config: Config, scaling: str) -> Values:
    """The settings whose default depends on how networks see the data."""
    standardized = scaling == "standardized"
    learn_scale = ("pixel" if standardized else "no") if config.learn_scale == "auto" else config.learn_scale
    return {"learn_scale": learn_scale, "scale": config.scale or (1.0 if standardized else 0.1)}


def _check_scaling(config: Config, scaling: str) -> None:
    if scaling == "standardized" and not takes_column_scale(config):
        able = [name for name in tables.LIKELIHOODS if "column_scale" in _takes("LIKELIHOODS", name)]
        raise UsageError(
            f"`likelihood={config.likelihood!r}` is not a density of columns in units of their own: use "
            f"`standardize='no'`, or `likelihood={able[0]!r}` ({', '.join(able)})"
        )


def takes_column_scale(config: Config) -> bool:
    """Returns whether the likelihood of a config is a density that data can be standardised for.

    Example:
        >>> takes_column_scale(Config(likelihood="normal")), takes_column_scale(Config(likelihood="poisson"))
        (True, False)
    """
    return "column_scale" in takes(config, "likelihood")


def _takes_levels(support: Any) -> bool:
    """Returns whether x is whole numbers 0, 1, 2, ... under a likelihood of this support."""
    from pyro.distributions import constraints

    return support.is_discrete and support is not constraints.boolean


def _check_autoencoder(config: Config, program: Autoencoder) -> None:
    from pyro_vae.model.posteriors import Delta

    if not any(isinstance(member, Delta) for member in program.children()):
        return
    with _usage_errors(f"`posterior={config.posterior!r}`: "):
        check_point_guide(config.kl_weight)
    if list(program.prior.parameters()):
        raise UsageError(
            f"`posterior='delta'` trains without the KL, so the parameters of `prior={config.prior!r}` would not be "
            f"trained. Use `prior='standard'`"
        )


def _device(name: str) -> torch.device:
    import torch

    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = first_line(error).split(". ")[0][:100]
        raise UsageError(f"device {name!r} cannot be used here ({reason}): try `device='cpu'`") from error
    return device


def _values(config: Config) -> Values:
    families = program_members.TABLES
    named = {f"{family}_class": getattr(config.own, family) or getattr(config, family) for family in families}
    settings = {f.name: getattr(config, f.name) for f in settings_of(Config)}
    return {**settings, **named, "network": config.own.network or config.network}


def _takes(table: str, name: str) -> set[str]:
    return set(own_members.parameters(tables.find(table, name)))
