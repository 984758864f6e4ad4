"""What losses require of their weights and of the guide: rules that need no torch, each in one place.

`pyro_vae.inference` checks losses and programs against them, and `pyro_vae.experiment.build` the names in a config, so
that a clash of settings is reported at once.
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
    """Checks that an importance-weighted bound has no KL warm-up, even if its weight is 1 at some step.

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
    """Checks that a loss with an analytic KL has a guide that samples in the model's order.

    Args:
        wanted, order: the latent sites in the order of the model, and in that of the guide.

    Raises:
        ValueError: the guide samples in another order.
    """
    if order != wanted:
        raise ValueError(
            f"the analytic KL needs a guide that samples its sites in the model's order, {wanted}; this one "
            f"samples {order}. Use Trace_ELBO (`objective='trace_elbo'`)"
        )


def check_point_guide(kl: float) -> None:
    """Checks the weight of the KL if the guide is a point (`Delta`), which has no density.

    Args:
        kl: the weight.

    Raises:
        ValueError: it is not 0.
    """
    if kl != 0:
        raise ValueError(
            "a guide that is a point (Delta) has an infinite KL: train a plain autoencoder with `kl_weight=0`, not "
            f"{kl:g}"
        )


def check_gradient(gradient: str, num_particles: int, *, importance_weighted: bool = False) -> None:
    """Checks that a gradient has the same mean as the gradient of a sampled loss.

    Args:
        gradient: one of `pyro_vae.option_words.Gradient`.
        num_particles: K.
        importance_weighted: whether the loss is the importance-weighted bound rather than the sampled ELBO.

    Raises:
        ValueError: it has another mean.

    Example:
        >>> check_gradient("sticking_the_landing", 8)
        >>> check_gradient("sticking_the_landing", 8, importance_weighted=True)
        Traceback (most recent call last):
        ...
        ValueError: `gradient='sticking_the_landing'` is biased for the importance-weighted bound of 8 ...
    """
    if gradient == "sticking_the_landing" and importance_weighted and num_particles > 1:
        raise ValueError(
            f"`gradient='sticking_the_landing'` is biased for the importance-weighted bound of {num_particles} "
            "particles. Use `gradient='doubly_reparametrised'`"
        )
    if gradient == "doubly_reparametrised" and not importance_weighted:
        raise ValueError(
            "`gradient='doubly_reparametrised'` belongs to the importance-weighted bound (`objective='iwae'`). For "
            "the sampled ELBO use `gradient='sticking_the_landing'`, which is the same for one particle"
        )


def check_total_gradient(gradient: str) -> None:
    """Checks the gradient of a loss with an analytic KL, which samples only the reconstruction term.

    Args:
        gradient: one of `pyro_vae.option_words.Gradient`.

    Raises:
        ValueError: it is not "total".
    """
    if gradient != "total":
        raise ValueError(
            f"`gradient={gradient!r}` leaves out the score of a sampled log q(z|x), but an analytic KL samples none. "
            "Use the sampled ELBO, `objective='trace_elbo'`"
        )


def check_reparametrised(site: str, has_rsample: bool) -> None:
    """Checks a latent of a loss whose gradient flows only through draws.

    Args:
        site: its name.
        has_rsample: whether its distribution is reparametrised.

    Raises:
        ValueError: it is not.
    """
    if not has_rsample:
        raise ValueError(f"site {site} has no reparametrised sampler: its gradient would be wrong")
