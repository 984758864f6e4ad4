"""The numbers that every report begins with: the part of report.json on the test data, and how they came about."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from pyro_vae.errors import not_finite
from pyro_vae.evaluation import Estimate
from pyro_vae.experiment.run.program_and_data import ProgramAndData
from pyro_vae.model.likelihoods import Likelihood

_MOST_COLUMNS = 30  # of a table, whose scales are listed
ON_TEST_DATA = "an estimate on the test data"


def headline(
    trained: ProgramAndData,
    estimates: Mapping[str, Estimate],
    classes: Mapping[str, Any] | None = None,
    precision: Mapping[str, Any] | None = None,
    observed: Tensor | None = None,
) -> dict[str, Any]:
    """Makes the part of report.json on these estimates, with the verdict on the preset of a run that has one.

    Args:
        trained: the program and its data.
        estimates: the estimates on the test data, by name.
        classes: how a conditional program classifies these data, see `Classification.summary`.
        precision: what networks in bfloat16 change, see `evaluation.precision`.
        observed: (N,), how many numbers of each test datum were observed; None where none is missing.
    """
    likelihood = getattr(trained.vae, "likelihood", None)
    scales = (
        {
            "likelihood": likelihood.scales(),
            "scale_by_column": scale_by_column(likelihood, trained.card),
        }
        if isinstance(likelihood, Likelihood)
        else {}
    )
    report = numbers(
        estimates,
        trained.card,
        trained.progress,
        trained.facts.settings,
        discrete=trained.facts.is_discrete,
        observed=observed,
        more={**scales, "classification": classes, "precision": precision},
    )
    if trained.data is not None and trained.data.about:
        report["about"] = trained.data.about
    verdict = trained.verdict(report["test"], estimates["reconstruction"].num_data)
    return report if verdict is None else {**report, "preset": verdict}


def numbers(
    estimates: Mapping[str, Estimate],
    protocol: Mapping[str, Any],
    training: Mapping[str, Any],
    config: Mapping[str, Any],
    *,
    discrete: bool = False,
    observed: Tensor | None = None,
    more: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Makes the part of report.json on some estimates, which contain no loss weights.

    Args:
        estimates: the estimates on the test data, by name.
        protocol: the protocol of the data.
        training: how long it took, in epochs; empty where that is not known.
        config: the settings, by name; `objective`, `num_particles`, the two weights (where they are known) and
            `latent_dim` are read here.
        discrete: whether p(x|z) gives masses and not densities, so that log p(x) has a meaning in bits.
        observed: (N,), how many numbers of each test datum were observed; None where none is missing.
        more: parts by name, of which empty ones are left out: "likelihood", its scales and their floors;
            "scale_by_column", see `scale_by_column`; "classification" and "precision".

    Returns:
        "test", "objective", "training", "config", "protocol" and these parts, each with plain values.

    Reference:
        Theis, van den Oord & Bethge, "A note on the evaluation of generative models", ICLR 2016, equations 2 to 6, for
        the bound on log p of the levels of dequantised data. https://arxiv.org/abs/1511.01844
    """
    parts = {name: dict(part) for name, part in (more or {}).items() if part}
    if "rmse" in estimates:
        parts["autoencoder"] = {"numbers_in": math.prod(protocol["shape"]), "numbers_in_code": config["latent_dim"]}
    trained = {"objective": _objective(estimates, config)} if "objective" in config else {}
    return {
        "test": _on_test_data(estimates, protocol, observed, discrete=discrete),
        **parts,
        **trained,
        "training": dict(training),
        "config": dict(config),
        "protocol": dict(protocol),
    }


def scale_by_column(likelihood: Likelihood, protocol: Mapping[str, Any]) -> dict[str, Any]:
    """Lists scales and floors of each column of a table in the column's own unit.

    Args:
        likelihood: of the program.
        protocol: of the data, which names up to 30 columns; of others nothing is listed.

    Returns:
        "names", such as ["sigma", "floor"], and "rows", [column, sigma, floor] in the order of the table; empty where
        the likelihood has no such numbers.
    """
    scales, columns = likelihood.scale_by_column(), protocol.get("columns") or ()
    if not scales or len(columns) > _MOST_COLUMNS or {len(columns)} != {len(values) for values in scales.values()}:
        return {}
    rows = zip(columns, *(values.tolist() for values in scales.values()), strict=True)
    return {"names": list(scales), "rows": list(map(list, rows))}


def finite(
    estimates: dict[str, Estimate], cause: Callable[[int], str], place: Callable[[int], str] = "datum {}".format
) -> dict[str, Estimate]:
    """Checks the means of estimates, and returns the estimates.

    Args:
        estimates: by name.
        cause: why an estimate is not finite at a datum; '' where that is not known.
        place: names that datum.

    Raises:
        DivergenceError: a mean is not finite.
    """
    for estimate in estimates.values():
        if not math.isfinite(estimate.mean):
            worst = int((~estimate.value.isfinite()).nonzero()[0])
            reason = f"{estimate.name} is {estimate.mean}, first at {place(worst)}"
            raise not_finite(ON_TEST_DATA, ": ".join(filter(None, (reason, cause(worst)))))
    return estimates


def _on_test_data(
    estimates: Mapping[str, Estimate], protocol: Mapping[str, Any], observed: Tensor | None, *, discrete: bool
) -> dict[str, Any]:
    test = {name: estimate.to_dict() for name, estimate in estimates.items()}
    noise, has_bits = protocol["dequantized"], "log_likelihood" in estimates
    if has_bits and observed is not None and (noise or discrete):
        test |= _of_observed(estimates["log_likelihood"], observed.double(), noise)
    elif has_bits and noise is not None:
        # With the Jacobian log p(x) of dequantised x bounds log p of the level from below.
        nats = {**test["log_likelihood"], "mean": test["log_likelihood"]["mean"] + noise["log_jacobian"]}
        test |= {"log_likelihood_of_levels": nats, "bits_per_dim": _in_bits(nats, math.prod(protocol["shape"]))}
    elif has_bits and discrete:
        test["bits_per_dim"] = _in_bits(test["log_likelihood"], math.prod(protocol["shape"]))
    return test


def _of_observed(estimate: Estimate, observed: Tensor, noise: Mapping[str, Any] | None) -> dict[str, Any]:
    """Adds the Jacobian, that of each datum's observed numbers, and bits for each of these; without any, no bits.

    Bits are a ratio, mean nats to mean number. Its error over the data is that of nats minus the ratio times the
    number.
    """
    levels = estimate if noise is None else replace(estimate, value=_with_jacobian(estimate, observed, noise))
    told = {} if noise is None else {"log_likelihood_of_levels": levels.to_dict()}
    if not (size := observed.mean().item()):
        return told
    around = replace(levels, value=levels.value - levels.mean / size * observed)
    nats = {**levels.to_dict(), "standard_error": around.to_dict()["standard_error"]}
    return {**told, "bits_per_dim": _in_bits(nats, size)}


def _with_jacobian(estimate: Estimate, observed: Tensor, noise: Mapping[str, Any]) -> Tensor:
    return estimate.value - observed * math.log(noise["num_levels"])


def _in_bits(nats: Mapping[str, Any], size: float) -> dict[str, Any]:
    """Converts nats per datum to bits per number; a datum has `size` numbers, or on average this many observed ones."""
    factor = 1 / (size * math.log(2))
    errors = {name: nats[name] and nats[name] * factor for name in ("standard_error", "monte_carlo_error")}
    counts = {name: nats[name] for name in ("num_samples", "num_data")}
    return {"mean": -nats["mean"] * factor, **errors, **counts, "unit": "bits/dim"}


def _objective(estimates: Mapping[str, Estimate], config: Mapping[str, Any]) -> dict[str, Any]:
    """Describes what was trained on; with weights other than 1 also the value of that loss on the test data."""
    about = {name: config[name] for name in ("objective", "num_particles", "kl_weight", "reconstruction_weight")}
    about["gradient"] = config.get("gradient", "total")
    if not config["kl_weight"] == config["reconstruction_weight"] == 1.0:
        weights = {"reconstruction": -config["reconstruction_weight"], "kl": config["kl_weight"]}
        about["loss"] = sum(weight * estimates[name].mean for name, weight in weights.items() if weight != 0)
    return about
