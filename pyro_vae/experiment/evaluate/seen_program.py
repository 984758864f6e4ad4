"""What running a program once shows: what it observes and how, its latent sites, and whether it needs labels.

This holds for any program with a model and a guide. Members are described by their classes, and by the arguments that
they keep.
"""

import inspect
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pyro_vae.errors import DataError, UsageError
from pyro_vae.model import traces
from pyro_vae.model.autoencoder import Autoencoder
from pyro_vae.model.conditions import base_constraint, law
from pyro_vae.model.likelihoods import Likelihood
from pyro_vae.model.program import undisturbed
from pyro_vae.randomness import stream


class Seen(NamedTuple):
    """What the traces of a program show.

    Attributes:
        latents: the numbers of each latent site.
        model, guide: the distribution at each site, by name.
        support: of x, see `Facts`.
        silent: why the model does not generate without x; "" where it does.
    """

    latents: dict[str, int]
    model: dict[str, str]
    guide: dict[str, str]
    support: Any
    silent: str


def check_program(vae: Any) -> None:
    """Raises UsageError unless there are a model and a guide to call."""
    lacking = [name for name in ("model", "guide") if not callable(getattr(vae, name, None))]
    if lacking:
        raise UsageError(
            f"a program is anything with functions `.model` and `.guide`; {type(vae).__name__} has no "
            f"{' and no '.join(lacking)}"
        )


def look_at(vae: Any, x: Tensor, y: Tensor | None, conditional: bool | None) -> tuple[Seen, bool]:
    """Runs a program once, and tells what it is.

    Args:
        vae: anything with `.model` and `.guide` over one data plate.
        x: data (B, *x_shape).
        y: their labels (B, C), if there are any.
        conditional: whether it is given these; None gives them where it does not run without.

    Returns:
        What was seen, and whether it was given labels.

    Raises:
        ValueError: model and guide do not fit each other, or x does not fit them.
        Exception: what the program itself raises.
    """
    if conditional:
        return _seen(vae, _traced(vae, x, y), x, y), True
    try:
        return _seen(vae, _traced(vae, x), x), False
    except DataError:
        raise
    except Exception:  # whatever a program raises without its labels
        if conditional is False or y is None:
            raise
        with_labels = _tried(vae, x, y)
        if with_labels is None:
            raise
        return _seen(vae, with_labels, x, y), True


def _tried(vae: Any, x: Tensor, y: Tensor) -> traces.Traces | None:
    try:
        return _traced(vae, x, y)
    except Exception:  # the error without labels is the one to tell
        return None


def _traced(vae: Any, x: Tensor, *y: Tensor | None) -> traces.Traces:
    with torch.no_grad(), undisturbed(vae), stream(0, "look", device=x.device):
        return traces.run(vae.model, vae.guide, 1, x, *y)


def _seen(vae: Any, pair: traces.Traces, x: Tensor, y: Tensor | None = None) -> Seen:
    latents = traces.latent_sites(pair.guide)
    own = (traces.latent_sites(pair.model), traces.observed_sites(pair.model), latents)
    of_model, of_x, of_guide = ({name: _kind(site["fn"]) for name, site in sites.items()} for sites in own)
    if not of_x:
        raise UsageError(f"the model of {type(vae).__name__} observes nothing: sample x with obs=x")
    sizes = {name: site["fn"].event_shape.numel() for name, site in latents.items()}
    support = _support(vae, list(traces.observed_sites(pair.model).values()), x)
    return Seen(sizes, of_model | of_x, of_guide, support, _silent(vae, x, y))


def _silent(vae: Any, x: Tensor, y: Tensor | None) -> str:
    try:
        with torch.no_grad(), undisturbed(vae), stream(0, "look", device=x.device):
            made = vae.model() if y is None else vae.model(None, y)
    except Exception as error:  # whatever a program raises without its data
        reason = f"{type(error).__name__}, {' '.join(str(error).split())[:150]}"
    else:
        if isinstance(made, Tensor) and made.shape[1:] == x.shape[1:]:
            return ""
        reason = f"it returns {type(made).__name__ if not isinstance(made, Tensor) else tuple(made.shape)}, and not x"
    return f"the model does not generate without x ({reason.rstrip('.')})"


def _kind(p: Any) -> str:
    return type(law(p)).__name__.removesuffix("Distribution")


def _support(vae: Any, observed: list[Any], x: Tensor) -> Any:
    """The support of single numbers of x: what the likelihood says, or else the site of x."""
    likelihood = getattr(vae, "likelihood", None)
    if isinstance(likelihood, Likelihood) and likelihood.support is not Likelihood.support:
        return likelihood.support
    if len(observed) != 1 or observed[0]["fn"].event_shape.numel() != x[0].numel():
        return None
    try:
        support = base_constraint(observed[0]["fn"].support)
    except NotImplementedError:
        return None
    bounds = [bound for bound in (getattr(support, "upper_bound", 0),) if isinstance(bound, Tensor)]
    if support.event_dim or any(bound.numel() > 1 for bound in bounds):
        return None
    return support


def densities(vae: Autoencoder, *, conditional: bool) -> dict[str, str]:
    """Maps each member to the density that it is.

    Args:
        vae: the program.
        conditional: whether members get labels.

    Example:
        >>> import pyro_vae as pv
        >>> vae = pv.VAE(pv.priors.StandardNormal(2),
        ...              pv.posteriors.DiagonalNormal(pv.networks.MLP((4,), (4,)), 2),
        ...              pv.likelihoods.Bernoulli(pv.networks.MLP((2,), (4,))))
        >>> densities(vae, conditional=True)
        {'prior': 'p(z|y)', 'posterior': 'q(z|x,y)', 'likelihood': 'p(x|z,y)'}
    """
    alone, also = ("|y", ",y") if conditional else ("", "")
    if hasattr(vae, "middle"):
        names = {
            "prior": f"p(z2{alone})",
            "middle": f"p(z1|z2{also})",
            "likelihood": f"p(x|z1{also})",
            "posterior1": "q of z1",
            "posterior2": "q of z2",
        }
    else:
        names = {"prior": f"p(z{alone})", "posterior": f"q(z|x{also})", "likelihood": f"p(x|z{also})"}
    return {member: density for member, density in names.items() if hasattr(vae, member)}


def arguments(member: nn.Module) -> str:
    """Writes the arguments of a module that it keeps as plain values, or as modules, under their own names.

    Example:
        >>> import torch, pyro_vae as pv
        >>> arguments(pv.priors.StudentT(2, df=3.0)), arguments(torch.nn.Linear(4, 2))
        ('latent_dim=2, df=3.0', 'in_features=4, out_features=2')
    """
    found = {name: getattr(member, name, None) for name in inspect.signature(type(member).__init__).parameters}
    shown = {
        name: type(value).__name__ if isinstance(value, nn.Module) else str(value)
        for name, value in found.items()
        if isinstance(value, bool | int | float | str | nn.Module) or (isinstance(value, tuple) and len(value) < 9)
    }
    return ", ".join(f"{name}={value[:60]}" for name, value in shown.items())
