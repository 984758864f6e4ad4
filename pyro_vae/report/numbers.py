"""From a program and test data to the numbers of a report, as plain values and as text."""

import math
import textwrap
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from pyro_vae import evaluation
from pyro_vae.errors import divergence
from pyro_vae.evaluation import Estimate


def measure(vae: Any, x: Tensor, *, elbo_samples: int, likelihood_samples: int, seed: int) -> dict[str, Estimate]:
    """The estimates of a report: ELBO, reconstruction, KL and log p(x), each per datum, in nats.

    Args:
        vae: anything with `.model` and `.guide`.
        x: test data (N, *x_shape).
        elbo_samples: draws per datum for the ELBO and its parts.
        likelihood_samples: draws per datum for log p(x).
        seed: of all draws.

    Raises:
        DivergenceError: an estimate is not finite.
    """
    with divergence("an estimate on the test data"):
        elbo, reconstruction, kl = evaluation.elbo_terms(vae, x, elbo_samples, seed=seed)
        log_likelihood = evaluation.iwae(vae, x, likelihood_samples, seed=seed)
        for estimate in (elbo, log_likelihood):
            if not math.isfinite(estimate.mean):
                worst = int((~estimate.value.isfinite()).nonzero()[0])
                raise ValueError(f"{estimate.name} is {estimate.mean}, first at datum {worst}")
    return {"elbo": elbo, "reconstruction": reconstruction, "kl": kl, "log_likelihood": log_likelihood}


def to_dict(
    estimates: Mapping[str, Estimate],
    protocol: Mapping[str, Any],
    training: Mapping[str, Any],
    config: Mapping[str, Any],
) -> dict[str, Any]:
    """What report.json holds: {"test": ..., "objective": ..., "training": ..., "config": ..., "protocol": ...}.

    Args:
        estimates: what `measure` gave.
        protocol: the data's card.
        training: how long it took, in epochs.
        config: the settings, by name; `objective`, `num_particles` and the two weights are read here.
    """
    test = {name: estimate.to_dict() for name, estimate in estimates.items()}
    if protocol["dequantized"] is not None:
        test |= _on_the_levels(estimates, protocol)
    names = ("objective", "num_particles", "kl_weight", "reconstruction_weight")
    objective = {name: config[name] for name in names}
    if not config["kl_weight"] == config["reconstruction_weight"] == 1.0:
        terms = estimates["reconstruction"].mean, estimates["kl"].mean
        objective["loss"] = -config["reconstruction_weight"] * terms[0] + config["kl_weight"] * terms[1]
    return {
        "test": test,
        "objective": objective,
        "training": dict(training),
        "config": dict(config),
        "protocol": dict(protocol),
    }


def to_text(report: Mapping[str, Any]) -> str:
    """The report as a table: every line names both errors."""
    test, protocol, training = report["test"], report["protocol"], report["training"]
    head = f"{'test, per datum':<24}{'mean':>11}{'± over data':>14}{'± Monte Carlo':>16}{'draws':>8}{'data':>8}"
    lines = [head, *(_row(_LABELS[name], test[name]) for name in _LABELS if name in test)]
    kinds = ", ".join(f"{site} {kind}" for site, kind in test["kl"].get("kind", {}).items())
    notes = [
        "± over data: standard error of the mean over other test data; ± Monte Carlo: over other draws of z.",
        f"KL: {kinds}. log p(x): by importance sampling from q(z|x), a lower bound in expectation; how far below it "
        "lies is no part of its ±, and shrinks with the number of draws.",
        f"model: epoch {training['best_epoch']} of {training['epochs']}, the best on validation data.",
        *_weights_note(report["objective"]),
        f"data: {protocol['name']}, {_split(protocol, test['elbo']['num_data'])}. {_recipe(protocol)}",
        *protocol["notes"],
    ]
    return "\n".join([*lines, "", *(textwrap.fill(note, 92, subsequent_indent="  ") for note in notes)])


_LABELS = {
    "elbo": "ELBO",
    "reconstruction": "reconstruction",
    "kl": "KL",
    "log_likelihood": "log p(x)",
    "log_likelihood_of_levels": "log p(level)",
    "bits_per_dim": "-log p(level)",
}


def _row(label: str, numbers: Mapping[str, Any]) -> str:
    errors = [numbers["standard_error"], numbers["monte_carlo_error"]]
    data, draws = ("n/a" if e is None else f"{e:.3f}" for e in errors)
    unit = numbers["unit"]
    return (
        f"{label + ', ' + unit:<24}{numbers['mean']:>11.3f}{data:>14}{draws:>16}"
        f"{numbers['num_samples']:>8}{numbers['num_data']:>8}"
    )


def _on_the_levels(estimates: Mapping[str, Estimate], protocol: Mapping[str, Any]) -> dict[str, Any]:
    # log p(x) of dequantised x, plus the Jacobian, bounds log p of the level from below (Theis et al. 2016, eq. 2-6).
    dim = math.prod(protocol["shape"])
    nats = estimates["log_likelihood"].to_dict()
    nats["mean"] += protocol["dequantized"]["log_jacobian"]
    bits = {name: value for name, value in nats.items() if name in ("num_samples", "num_data")}
    factor = 1 / (dim * math.log(2))
    bits |= {
        name: None if nats[name] is None else nats[name] * factor
        for name in ("mean", "standard_error", "monte_carlo_error")
    }
    bits["mean"] *= -1
    return {"log_likelihood_of_levels": nats, "bits_per_dim": {**bits, "unit": "bits/dim"}}


def _weights_note(objective: Mapping[str, Any]) -> list[str]:
    if "loss" not in objective:
        return []
    return [
        f"objective: a weighted loss, reconstruction_weight={objective['reconstruction_weight']:g}, "
        f"kl_weight={objective['kl_weight']:g}: its test value is {objective['loss']:.3f} nats, which is no bound. "
        "The ELBO above is that of the model itself."
    ]


def _recipe(protocol: Mapping[str, Any]) -> str:
    # Dequantised data are "not binarised" as well, and the sentence for those would describe another x.
    return (protocol["dequantized"] or protocol["binarization"])["sentence"]


def _split(protocol: Mapping[str, Any], num_data: int) -> str:
    split = protocol["split"]
    sizes = " / ".join(str(size) for size in split["sizes"].values())
    given = f", {' and '.join(split['given'])} as published" if split["given"] else ""
    some = f", {num_data} of the test data drawn at random" if num_data < split["sizes"]["test"] else ""
    return f"{split['kind']} split {sizes}{given}{some}"
