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


def check_gradient(gradient: str, num_particles: int, *, importance_weighted: bool = False) -> None:
    """Checks that a gradient has the mean of the gradient of a sampled loss.

    Args:
        gradient: one of `pyro_vae.option_words.Gradient`.
        num_particles: K.
        importance_weighted: whether the loss is the importance-weighted bound, and not the sampled ELBO.

    Raises:
        ValueError: it has not.

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
            "`gradient='doubly_reparametrised'` is that of the importance-weighted bound (`objective='iwae'`). Of the "
            "sampled ELBO use `gradient='sticking_the_landing'`, which is the same for one particle"
        )


def check_total_gradient(gradient: str) -> None:
    """Checks the gradient of a loss with an analytic KL, where only the reconstruction term is sampled.

    Args:
        gradient: one of `pyro_vae.option_words.Gradient`.

    Raises:
        ValueError: it is not "total".
    """
    if gradient != "total":
        raise ValueError(
            f"`gradient={gradient!r}` leaves the score of a sampled log q(z|x) out, and an analytic KL samples none. "
            "Use the sampled ELBO, `objective='trace_elbo'`"
        )


def check_reparametrised(site: str, has_rsample: bool) -> None:
    """Checks a latent of a loss whose gradient flows through draws alone.

    Args:
        site: its name.
        has_rsample: whether its distribution is reparametrised.

    Raises:
        ValueError: it is not.
    """
    if not has_rsample:
        raise ValueError(f"site {site} has no reparametrised sampler: its gradient would be wrong")
