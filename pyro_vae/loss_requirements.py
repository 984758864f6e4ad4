"""What losses ask of their weights, and of the guide: rules that need no torch, each said once.

`pyro_vae.inference` holds losses and programs to them, and `pyro_vae.experiment.build` the names of a config, so that a
clash of settings is answered at once.
"""

from collections.abc import Sequence


def check_unweighted(reconstruction: float, kl: float) -> None:
    """Checks the weights of an importance-weighted bound.

    Args:
        reconstruction, kl: the weights.

    Raises:
        ValueError: one of them is not 1.

    Example:
        >>> check_unweighted(1.0, 0.5)
        Traceback (most recent call last):
        ...
        ValueError: an importance-weighted bound has no separate KL, so its loss weights must be 1; got `kl_weight=0.5`
    """
    weights = {"reconstruction_weight": reconstruction, "kl_weight": kl}
    if others := [f"`{name}={weight:g}`" for name, weight in weights.items() if weight != 1]:
        raise ValueError(
            f"an importance-weighted bound has no separate KL, so its loss weights must be 1; got {', '.join(others)}"
        )


def check_no_warm_up(kl_warmup: int) -> None:
    """Checks that an importance-weighted bound has no KL warm-up, be its product with the weight 1 at some step.

    Args:
        kl_warmup: how many epochs it lasts.

    Raises:
        ValueError: it is not 0.
    """
    if kl_warmup:
        raise ValueError(
            f"an importance-weighted bound has no separate KL that could warm up; got `kl_warmup={kl_warmup}`. "
            "Use `kl_warmup=0`"
        )


def check_order(wanted: Sequence[str], order: Sequence[str]) -> None:
    """Checks that a loss with an analytic KL meets a guide that samples in the model's order.

    Args:
        wanted, order: the latent sites in the order of the model, and in that of the guide.

    Raises:
        ValueError: it does not.
    """
    if order != wanted:
        raise ValueError(
            f"the analytic KL needs a guide that samples its sites in the model's order, {wanted}; this one "
            f"samples {order}. Use Trace_ELBO (`objective='trace_elbo'`)"
        )


def check_point_guide(kl: float) -> None:
    """Checks the weight of the KL where the guide is a point (`Delta`), which has no density.

    Args:
        kl: the weight.

    Raises:
        ValueError: it is not 0.
    """
    if kl != 0:
        raise ValueError(
            "a guide that is a point (Delta) has an infinite KL: a plain autoencoder trains with `kl_weight=0`, "
            f"not {kl:g}"
        )
