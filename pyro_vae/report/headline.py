"""From a program and test data to the numbers of a report, as plain values and as text."""

import math
import textwrap
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pyro_vae import evaluation
from pyro_vae.errors import divergence
from pyro_vae.evaluation import Classification, Estimate
from pyro_vae.randomness import stream
from pyro_vae.report.tables import clean

_BLOCK = 1024  # data reconstructed at once


def measure(
    vae: Any, x: Tensor, y: Tensor | None = None, *, elbo_samples: int, likelihood_samples: int, seed: int
) -> dict[str, Estimate]:
    """The estimates of a report: ELBO, reconstruction, KL and log p(x), each per datum, in nats.

    For a plain autoencoder, whose guide has no density: reconstruction, and the RMSE of the mean of p(x|z).

    Args:
        vae: anything with `.model` and `.guide`; a plain autoencoder must have `.reconstruct` too.
        x: test data (N, *x_shape).
        y: one-hot labels (N, C) for a conditional program, whose log p(x|y) it is then.
        elbo_samples: draws per datum for the ELBO and its parts.
        likelihood_samples: draws per datum for log p(x).
        seed: of all draws.

    Raises:
        DivergenceError: an estimate is not finite.
    """
    with divergence("an estimate on the test data"):
        elbo, reconstruction, kl = evaluation.elbo_terms(vae, x, elbo_samples, y, seed)
        if "infinite" in elbo.kind.values():
            return finite({"reconstruction": reconstruction, "rmse": _rmse(vae, x, y, elbo.kind, seed)})
        log_likelihood = evaluation.iwae(vae, x, likelihood_samples, y, seed)
        return finite({"elbo": elbo, "reconstruction": reconstruction, "kl": kl, "log_likelihood": log_likelihood})


def finite(estimates: dict[str, Estimate]) -> dict[str, Estimate]:
    """These estimates. Raises ValueError where a mean is not finite."""
    for estimate in estimates.values():
        if not math.isfinite(estimate.mean):
            worst = int((~estimate.value.isfinite()).nonzero()[0])
            raise ValueError(f"{estimate.name} is {estimate.mean}, first at datum {worst}")
    return estimates


def _rmse(vae: Any, x: Tensor, y: Tensor | None, kind: Mapping[str, str], seed: int) -> Estimate:
    blocks = x.split(_BLOCK)
    labels = [None] * len(blocks) if y is None else y.split(_BLOCK)
    with stream(seed, "rmse", device=x.device):
        means = [vae.reconstruct(block, label)[0] for block, label in zip(blocks, labels, strict=True)]
    value = (torch.cat(means) - x).double().flatten(1).square().mean(1).sqrt().cpu()
    is_exact = set(kind.values()) == {"infinite"}  # every latent is a point: other draws would be the same
    return Estimate("RMSE", value, torch.full_like(value, 0.0 if is_exact else math.nan), 1, unit="per number")


def classification(found: Classification, labels: Tensor) -> dict[str, Any]:
    """What a report says of Bayes classification: accuracy with its error, K, and how far the weights can be trusted.

    Args:
        found: for N data.
        labels: (N,), the true classes.
    """
    right = (found.prediction == labels).double()
    true = torch.nn.functional.one_hot(labels, len(found.khat)).T.bool()
    log_posterior = found.log_posterior.gather(0, labels[None])[0]
    return {
        "accuracy": right.mean().item(),
        "standard_error": (right.mean() * (1 - right.mean()) / len(right)).sqrt().item(),
        # A class that the training data lack has p(y) = 0, and JSON has no infinity.
        "log_p_of_true_class": log_posterior.mean().item() if log_posterior.isfinite().all() else None,
        "num_samples": found.num_samples,
        "num_data": len(labels),
        "khat_above_0.7": {
            name: evaluation.share_above(khat)
            for name, khat in (("true_class", found.khat[true]), ("other_classes", found.khat[~true]))
        },
    }


def rounding(found: Estimate) -> dict[str, Any]:
    """What a report says of networks in bfloat16: the change of a mean, and how far single data moved either way.

    Args:
        found: what `evaluation.rounding_loss` gave.
    """
    size = found.value.abs()
    absolute = {"mean_absolute": size.mean().item(), "largest": size.max().item()}
    return {"name": found.name, **found.to_dict(), **absolute}


def to_dict(
    estimates: Mapping[str, Estimate],
    protocol: Mapping[str, Any],
    training: Mapping[str, Any],
    config: Mapping[str, Any],
    *,
    discrete: bool = False,
    scales: Mapping[str, Any] | None = None,
    classification: Mapping[str, Any] | None = None,
    precision: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What report.json holds: {"test": ..., "objective": ..., "training": ..., "config": ..., "protocol": ...}.

    Args:
        estimates: what `measure` gave.
        protocol: the data's card.
        training: how long it took, in epochs.
        config: the settings, by name; `objective`, `num_particles`, the two weights and `latent_dim` are read here.
        discrete: whether p(x|z) gives masses, not densities, so that log p(x) has a meaning in bits.
        scales: what `Likelihood.scales` says of its scales and their floors.
        classification: what `classification` gave, for a conditional program.
        precision: what `rounding` gave, for networks in bfloat16.
    """
    test = {name: estimate.to_dict() for name, estimate in estimates.items()}
    if "log_likelihood" in estimates and protocol["dequantized"] is not None:
        test |= _on_the_levels(estimates, protocol)
    elif "log_likelihood" in estimates and discrete:
        test["bits_per_dim"] = _in_bits(test["log_likelihood"], protocol)
    names = ("objective", "num_particles", "kl_weight", "reconstruction_weight")
    objective = {name: config[name] for name in names}
    if not config["kl_weight"] == config["reconstruction_weight"] == 1.0:
        weights = {"reconstruction": -config["reconstruction_weight"], "kl": config["kl_weight"]}
        objective["loss"] = sum(weight * estimates[name].mean for name, weight in weights.items() if weight != 0)
    more: dict[str, Any] = {"likelihood": dict(scales)} if scales else {}
    if classification is not None:
        more["classification"] = dict(classification)
    if precision is not None:
        more["precision"] = dict(precision)
    if "rmse" in estimates:
        more["autoencoder"] = {"numbers_in": math.prod(protocol["shape"]), "numbers_in_code": config["latent_dim"]}
    return {
        "test": test,
        **more,
        "objective": objective,
        "training": dict(training),
        "config": dict(config),
        "protocol": dict(protocol),
    }


def to_text(report: Mapping[str, Any]) -> str:
    """The report as a table: every line names both errors."""
    test, protocol, training = report["test"], report["protocol"], report["training"]
    given = "|y" if report["config"].get("conditional") else ""
    of = "level" if "log_likelihood_of_levels" in test else "x"
    found = [(_LABELS[name].format(of=of, y=given), test[name]) for name in _LABELS if name in test]
    rows = {f"{label}, {entry['unit']}": entry for label, entry in found}
    width = max(24, *(len(label) + 1 for label in rows))
    head = f"{'mean':>11}{'± over data':>14}{'± Monte Carlo':>16}{'draws':>8}{'data':>8}"
    lines = [f"{'test, per datum':<{width}}{head}", *(f"{label:<{width}}{_row(rows[label])}" for label in rows)]
    notes = [
        "± over data: standard error of the mean over other test data; ± Monte Carlo: over other draws of z.",
        *_estimation_notes(report, given),
        *([f"precision: {rounding_sentence(report['precision'])}"] if "precision" in report else []),
        *_scales_note(report.get("likelihood", {})),
        *_classification_note(report.get("classification")),
        f"model: epoch {training['best_epoch']} of {training['epochs']}, the best on validation data.",
        *_weights_note(report["objective"], "elbo" in test),
        *([f"preset: {preset_sentence(report['preset'])}"] if "preset" in report else []),
        f"data: {protocol['name']}, {_split(protocol, test['reconstruction']['num_data'])}. {_recipe(protocol)}",
        *protocol["notes"],
    ]
    return "\n".join([*lines, "", *(textwrap.fill(clean(note), 92, subsequent_indent="  ") for note in notes)])


_LABELS = {
    "elbo": "ELBO",
    "reconstruction": "reconstruction",
    "kl": "KL",
    "log_likelihood": "log p(x{y})",
    "log_likelihood_of_levels": "log p(level{y})",
    "bits_per_dim": "-log p({of}{y})",
    "rmse": "RMSE",
}


def _estimation_notes(report: Mapping[str, Any], given: str) -> list[str]:
    if "autoencoder" in report:
        numbers = report["autoencoder"]
        return [
            f"plain autoencoder, {numbers['numbers_in']} numbers in, {numbers['numbers_in_code']} in the code: q(z|x) "
            "is a point without a density, its KL is infinite, and there is no ELBO and no log p(x). Reconstruction is "
            "log p(x|z) at the code."
        ]
    kinds = ", ".join(f"{site} {kind}" for site, kind in report["test"]["kl"].get("kind", {}).items())
    return [
        f"KL: {kinds}. log p(x{given}): by importance sampling from q(z|x), a lower bound in expectation; "
        "how far below it lies is no part of its ±, and shrinks with the number of draws."
    ]


def _scales_note(scales: Mapping[str, Any]) -> list[str]:
    return [f"likelihood: {', '.join(f'{name} {_plain(value)}' for name, value in scales.items())}."] if scales else []


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_plain(inner)}" for name, inner in value.items())
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def rounding_sentence(found: Mapping[str, Any]) -> str:
    """What `rounding` found, with two digits of each number, however small.

    Example:
        >>> elbo = {"name": "ELBO, float32 - bfloat16", "mean": 0.00043, "standard_error": 0.00028, "num_data": 360}
        >>> print(rounding_sentence({**elbo, "monte_carlo_error": None, "mean_absolute": 0.004, "largest": 0.019}))
        networks in bfloat16. ELBO, float32 - bfloat16, from the same parameters and draws: +0.00043 nats, ± 0.00028
        over 360 data, ± n/a Monte Carlo; a single datum moves by 0.004 on average, by 0.019 at most.
    """
    over_data, over_draws = (
        "n/a" if found[name] is None else f"{found[name]:.2g}" for name in ("standard_error", "monte_carlo_error")
    )
    return (
        f"networks in bfloat16. {found['name']}, from the same parameters and draws: {found['mean']:+.2g} nats, "
        f"± {over_data} over {found['num_data']} data, ± {over_draws} Monte Carlo; a single datum "
        f"moves by {found['mean_absolute']:.2g} on average, by {found['largest']:.2g} at most."
    )


def preset_sentence(found: Mapping[str, Any]) -> str:
    """The target of a preset, the result, the verdict, and what was done otherwise than published.

    Example:
        >>> numbers = {"target": -84.45, "tolerance": 1.0, "result": -85.2, "standard_error": 0.26, "num_samples": 5000}
        >>> words = {"name": "gated", "unit": "nats", "quantity": "log_likelihood", "source": "A & B, table 1"}
        >>> print(preset_sentence({**numbers, **words, "shortfall": 0.75, "verdict": "reached", "changed": {},
        ...                        "protocol": "Fewer epochs."}))
        gated: published log p(x) -84.45 nats (A & B, table 1); here -85.20 ± 0.26, K = 5000, which is 0.75 nats worse:
        reached. Tolerance: 1 nats. Fewer epochs.
    """
    changed = ", ".join(f"{name}={_plain(value)}" for name, value in found["changed"].items())
    worse = found["shortfall"]
    side = f"{abs(worse):.2f} {found['unit']} {'worse' if worse > 0 else 'better'}"
    verdict = f"not comparable (changed: {changed})" if changed else found["verdict"]
    error = "n/a" if found["standard_error"] is None else f"{found['standard_error']:.2f}"
    return (
        f"{found['name']}: published {_QUANTITIES[found['quantity']]} {found['target']:.2f} {found['unit']} "
        f"({found['source']}); here {found['result']:.2f} ± {error}, K = {found['num_samples']}, which is {side}: "
        f"{verdict}. Tolerance: {found['tolerance']:g} {found['unit']}. {found['protocol']}"
    )


_QUANTITIES = {"log_likelihood": "log p(x)", "elbo": "ELBO"}


def _classification_note(found: Mapping[str, Any] | None) -> list[str]:
    if found is None:
        return []
    khat = found["khat_above_0.7"]
    shares = {name: "n/a" if share is None else f"{share:.0%}" for name, share in khat.items()}
    return [
        f"classes by Bayes' rule from log p(x|y) and p(y): {found['accuracy']:.1%} right "
        f"(± {found['standard_error']:.1%}) of {found['num_data']}, K = {found['num_samples']}. PSIS k-hat is "
        f"above 0.7 for {shares['true_class']} of the estimates for the true class and {shares['other_classes']} of "
        "those for the others, whose bounds are looser; that flatters the accuracy."
    ]


def _row(numbers: Mapping[str, Any]) -> str:
    errors = [numbers["standard_error"], numbers["monte_carlo_error"]]
    data, draws = ("n/a" if e is None else f"{e:.3f}" for e in errors)
    return f"{numbers['mean']:>11.3f}{data:>14}{draws:>16}{numbers['num_samples']:>8}{numbers['num_data']:>8}"


def _on_the_levels(estimates: Mapping[str, Estimate], protocol: Mapping[str, Any]) -> dict[str, Any]:
    # log p(x) of dequantised x, plus the Jacobian, bounds log p of the level from below (Theis et al. 2016, eq. 2-6).
    nats = estimates["log_likelihood"].to_dict()
    nats["mean"] += protocol["dequantized"]["log_jacobian"]
    return {"log_likelihood_of_levels": nats, "bits_per_dim": _in_bits(nats, protocol)}


def _in_bits(nats: Mapping[str, Any], protocol: Mapping[str, Any]) -> dict[str, Any]:
    factor = 1 / (math.prod(protocol["shape"]) * math.log(2))
    errors = {name: nats[name] and nats[name] * factor for name in ("standard_error", "monte_carlo_error")}
    counts = {name: nats[name] for name in ("num_samples", "num_data")}
    return {"mean": -nats["mean"] * factor, **errors, **counts, "unit": "bits/dim"}


def _weights_note(objective: Mapping[str, Any], has_elbo: bool) -> list[str]:
    if "loss" not in objective or not has_elbo:
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
    sizes = " / ".join(str(split["sizes"][part]) for part in ("train", "valid", "test"))  # JSON sorted them
    given = f", {' and '.join(split['given'])} as published" if split["given"] else ""
    some = f", {num_data} of the test data drawn at random" if num_data < split["sizes"]["test"] else ""
    return f"{split['kind']} split {sizes}{given}{some}"
