"""The three losses of an ablation, as configs. No torch is needed here, so a clash is reported at once."""

from collections.abc import Collection
from dataclasses import replace

from pyro_vae.errors import UsageError
from pyro_vae.experiment import build
from pyro_vae.experiment.config import Config

WEIGHTS = {"only reconstruction": (1.0, 0.0), "only KL": (0.0, 1.0), "both": (1.0, 1.0)}


def ablated(config: Config, given: Collection[str]) -> dict[str, Config]:
    """Makes the configs of the three runs.

    Args:
        config: the settings of all three, except the weights.
        given: the names of the settings that were given explicitly.

    Returns:
        A key of `WEIGHTS` -> its config.

    Raises:
        UsageError: a weight is given, names clash, or the program has not one KL of one layer.

    Example:
        >>> ablated(Config(), ())["only KL"].reconstruction_weight
        0.0
    """
    if weights := sorted({*given} & {"kl_weight", "reconstruction_weight"}):
        raise UsageError(f"`{weights[0]}` is set by the three runs: leave it out")
    if config.posterior == "delta":
        raise UsageError("`posterior='delta'` has no finite KL, so two of the three losses do not exist")
    if config.layers == 2:
        raise UsageError("`layers=2` has two KLs, and these runs differ in only one: leave it out")
    configs = {
        name: replace(config, reconstruction_weight=reconstruction, kl_weight=kl)
        for name, (reconstruction, kl) in WEIGHTS.items()
    }
    for weighted in configs.values():
        build.check_names(weighted)
    return configs
