"""The document at the end of a training: the headline of an evaluation, every number with both errors."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pyro_vae.evaluation.trust.diagnostics import NO_KHAT
from pyro_vae.report.cells import clean, fixed, plain, too_small
from pyro_vae.report.document import Column, Document, Notes, Section, Table
from pyro_vae.report.documents.baseline_section import baseline_sentence, baseline_table
from pyro_vae.report.documents.estimate_sections import Entry, Report, headline_entries, of_x

_WIDTH = 92  # columns of its notes
_SCALES_OF_DENSITIES = {"sigma", "b", "rate"}
_COLLAPSED = 0.01  # nats of KL, of all dimensions together
MOST_COLUMNS = 20  # of a table that have a picture


def training_document(report: Report) -> Document:
    """Makes the document of a training: a table of the numbers on test data, and what there is to know of them.

    Args:
        report: what report.json holds.
    """
    return Document("", (headline_section(report),))


def headline_section(report: Report) -> Section:
    """Makes the section that a training's report is made of, and that an evaluation begins with."""
    rows = [(f"{entry.label}, {entry.numbers['unit']}", *_numbers(entry)) for entry in headline_entries(report)]
    columns = (
        Column("test, per datum", width=max(24, *(len(row[0]) + 1 for row in rows))),
        Column("mean", right=True, width=11),
        Column("± over data", right=True, width=14),
        Column("± Monte Carlo", right=True, width=16),
        Column("draws", right=True, width=8),
        Column("data", right=True, width=8),
    )
    beside = [table for table in (baseline_table(report), scale_table(report)) if table.rows]
    return Section("", (Table("headline", columns, rows), *beside, Notes.of(_notes(report), _WIDTH)))


def _numbers(entry: Entry) -> Iterator[Any]:
    mean, over_data, over_draws = (fixed(entry.numbers[n]) for n in ("mean", "standard_error", "monte_carlo_error"))
    yield from (mean, over_data, too_small(over_draws) if entry.has_small_error else over_draws)
    yield from (entry.numbers[name] for name in ("num_samples", "num_data"))


def _notes(report: Report) -> Iterator[str]:
    protocol, training = report["protocol"], report["training"]
    yield "± over data: standard error of the mean over test data; ± Monte Carlo: over draws of z."
    yield _estimation(report)
    if report.get("baselines"):
        yield f"baselines: {baseline_sentence(report)}"
    if "precision" in report:
        yield f"precision: {rounding_sentence(report['precision'])}"
    if report.get("likelihood"):
        yield f"likelihood: {_likelihood(report)}."
        if caution := levels_as_reals(report):
            yield f"caution: {caution}"
    if caution := collapsed(report):
        yield f"caution: {caution}"
    if report.get("classification"):
        yield _classes(report["classification"])
    if training:
        what, how = trained(training, is_run="program" not in report.get("run", {}))
        yield f"{what}: {how}."
    if "loss" in report.get("objective", {}) and "elbo" in report["test"]:
        yield _weights(report["objective"])
    if (gradient := report.get("objective", {}).get("gradient", "total")) != "total":
        yield f"gradient: {gradient.replace('_', ' ')}, of the same bound, with the same mean as the total gradient."
    if "preset" in report:
        yield f"preset: {preset_sentence(report['preset'])}"
    if "split" in protocol:
        split = _split(protocol, report["test"]["reconstruction"]["num_data"])
        # Dequantised data are also "not binarised", and the sentence for those would describe another x.
        recipe = protocol["dequantized"] or protocol["binarization"]
        about = f", {report['about']}; " if report.get("about") else ", "
        yield f"data: {protocol['name']}{about}{split}. {recipe['sentence']}"
    yield from protocol["notes"]
    if pictures := _pictures(report):
        yield pictures


def trained(training: Mapping[str, Any], *, is_run: bool) -> tuple[str, str]:
    """Describes how long a program was trained, after a word for what is described.

    Args:
        training: `epochs` and `best_epoch`, `average` where the parameters are an average, and `started_from` where
            the weights of another run were the first.
        is_run: False for a program without a run, of which only its records are known.

    Example:
        >>> trained({"epochs": 9, "best_epoch": 7}, is_run=True)
        ('model', 'epoch 7 of 9, the best on validation data')
        >>> trained({"epochs": 9, "best_epoch": 7, "average": 0.1}, is_run=True)[1]
        'averaged parameters of epoch 7 of 9, the best on validation data'
        >>> earlier = {"run": "runs/a", "epoch": 5, "checkpoint": "epoch-00006.safetensors", "sha256": "90cfd0"}
        >>> print(trained({"epochs": 9, "best_epoch": 7, "started_from": [earlier | {"unseen": True}]}, is_run=True)[1])
        epoch 7 of 9, the best on validation data; training started from the weights of epoch 5 of runs/a
        (epoch-00006.safetensors, SHA-256 90cfd0)
    """
    epochs, best = training["epochs"], training["best_epoch"]
    if is_run:
        started = _started(training.get("started_from", []))
        average = "averaged parameters of " if training.get("average") else ""
        return "model", f"{average}epoch {best} of {epochs}, the best on validation data{started}"
    return "training", f"{epochs} epochs by its records; the best on validation data was epoch {best}"


def _started(lineage: Sequence[Mapping[str, Any]]) -> str:
    """Describes the weights that a training started from, and theirs, and whether they may have seen the test data."""
    weights = [
        f"from the weights of epoch {record['epoch']} of {clean(record['run'])} ({clean(record['checkpoint'])}, "
        f"SHA-256 {clean(record['sha256'])})"
        for record in lineage
    ]
    told = "".join(f"; {'training' if i == 0 else 'that training'} started {each}" for i, each in enumerate(weights))
    doubt = "; whether those weights were trained on some of these test data is not known"
    return told + (doubt if any(record["unseen"] is None for record in lineage) else "")


def scale_table(report: Report) -> Table:
    """Makes the table of scales and floors by column, in each column's unit; without rows where there are none.

    Args:
        report: what report.json holds.
    """
    found = report.get("scale_by_column") or {"names": [], "rows": []}
    rows = [(clean(name), *(f"{value:.4g}" for value in values)) for name, *values in found["rows"]]
    title = "scales of p(x|z), each in the unit of its column"
    return Table.of("scales", ("column", *found["names"]), rows, title, words=1)


def _likelihood(report: Report) -> str:
    """Describes the scales. If each column of a table has its own, the smallest and the largest mean nothing."""
    if not (listed := report.get("scale_by_column")):
        return plain(report["likelihood"])
    other = {n: v for n, v in report["likelihood"].items() if n != "unit" and not isinstance(v, Mapping)}
    return ", ".join(filter(None, (f"{listed['names'][0]} of each column: in the table of scales", plain(other))))


def levels_as_reals(report: Report) -> str:
    """Warns of a density of real numbers at the few values that grey levels take; '' where there is none.

    Args:
        report: what report.json holds.
    """
    protocol, scales = report.get("protocol", {}), report.get("likelihood", {})
    levels, recipe = protocol.get("num_levels") or 0, protocol.get("binarization", {}).get("kind")
    if not _SCALES_OF_DENSITIES & scales.keys() or levels <= 2 or recipe != "none" or protocol.get("dequantized"):
        return ""
    is_fixed = "learned" not in scales and "predicted from z" not in scales.values()
    what = (
        "log p(x) depends on the scale that was set, as it would on a unit"
        if is_fixed
        else "where pixels hardly change, log p(x) grows without limit as the scale shrinks to its floor"
    )
    return (
        f"x are {levels} grey levels and p(x|z) is a density of real numbers: {what}. It is not a log p of the "
        f"levels, and does not compare with one. For a log p of the levels, dequantise the data or choose a "
        f"likelihood of levels."
    )


def collapsed(report: Report) -> str:
    """Warns of latents that carry nothing about x; '' where they carry something, or the loss asks for nothing.

    Args:
        report: what report.json holds.
    """
    kl, objective = report.get("test", {}).get("kl", {}).get("mean"), report.get("objective", {})
    if kl is None or kl >= _COLLAPSED or objective.get("reconstruction_weight") == 0:
        return ""
    return (
        f"The KL is {kl:.3f} nats, so q(z|x) is almost the prior for every x, and the latents are not used "
        "(posterior collapse). A KL warm-up, or a longer one, often prevents this, for example `kl_warmup=20`."
    )


def _estimation(report: Report) -> str:
    if "autoencoder" in report:
        numbers = report["autoencoder"]
        return (
            f"plain autoencoder, {numbers['numbers_in']} numbers in, {numbers['numbers_in_code']} in the code: q(z|x) "
            "is a point without a density, its KL is infinite, and there is no ELBO and no log p(x). Reconstruction is "
            "log p(x|z) at the code."
        )
    return (
        f"KL: {plain(report['test']['kl'].get('kind', {}))}. log p({of_x(report)}): by importance sampling from "
        "q(z|x), a lower bound in expectation; its distance from log p is not part of its ±, and shrinks with the "
        "number of draws."
    )


def rounding_sentence(loss: Mapping[str, Any]) -> str:
    """Describes what networks in bfloat16 change, with two digits of each number, however small.

    Example:
        >>> elbo = {"name": "ELBO, float32 - bfloat16", "mean": 0.00043, "standard_error": 0.00028, "num_data": 360}
        >>> print(rounding_sentence({**elbo, "monte_carlo_error": None, "mean_absolute": 0.004, "largest": 0.019}))
        networks in bfloat16. ELBO, float32 - bfloat16, from the same parameters and draws: +0.00043 nats, ± 0.00028
        over 360 data, ± n/a Monte Carlo; a single datum moves by 0.004 on average, by 0.019 at most.
    """
    over_data, over_draws = (
        "n/a" if loss[name] is None else f"{loss[name]:.2g}" for name in ("standard_error", "monte_carlo_error")
    )
    return (
        f"networks in bfloat16. {loss['name']}, from the same parameters and draws: {loss['mean']:+.2g} nats, "
        f"± {over_data} over {loss['num_data']} data, ± {over_draws} Monte Carlo; a single datum "
        f"moves by {loss['mean_absolute']:.2g} on average, by {loss['largest']:.2g} at most."
    )


def preset_sentence(verdict: Mapping[str, Any]) -> str:
    """Describes the target of a preset, the result, its spread over seeds, the verdict, and what was done otherwise.

    Example:
        >>> numbers = {"target": -84.45, "tolerance": 1.0, "result": -85.2, "standard_error": 0.26, "num_samples": 5000}
        >>> words = {"name": "gated", "unit": "nats", "quantity": "log_likelihood", "source": "A & B, table 1"}
        >>> print(preset_sentence({**numbers, **words, "shortfall": 0.75, "verdict": "reached", "changed": {},
        ...                        "protocol": "Fewer epochs."}))
        gated: published log p(x) -84.45 nats (A & B, table 1); here -85.20 ± 0.26, K = 5000, which is 0.75 nats worse:
        reached. Tolerance: 1 nats. Fewer epochs.
    """
    changed = ", ".join(f"{n}={plain(v) if isinstance(v, float) else v}" for n, v in verdict["changed"].items())
    worse, unit = verdict["shortfall"], verdict["unit"]
    quantity = {"log_likelihood": "log p(x)", "elbo": "ELBO"}[verdict["quantity"]]
    return (
        f"{verdict['name']}: published {quantity} {verdict['target']:.2f} {unit} ({verdict['source']}); here "
        f"{verdict['result']:.2f} ± {fixed(verdict['standard_error'], 2)}, K = {verdict['num_samples']}"
        f"{_over_seeds(verdict)}, which is "
        f"{abs(worse):.2f} {unit} {'worse' if worse > 0 else 'better'}: "
        f"{f'not comparable (changed: {changed})' if changed else verdict['verdict']}. Tolerance: "
        f"{verdict['tolerance']:g} {unit}. {verdict['protocol']}"
    )


def _over_seeds(verdict: Mapping[str, Any]) -> str:
    if verdict.get("seed_deviation") is None:
        return ""
    return f", mean of {verdict['seeds']} training seeds with SD {verdict['seed_deviation']:.2f}"


def _classes(classes: Mapping[str, Any]) -> str:
    majority = classes.get("majority_share")
    guess = "" if majority is None else f"Always guessing the commonest training class: {majority:.1%} right. "
    return (
        f"classes by Bayes' rule from log p(x|y) and p(y): {classes['accuracy']:.1%} right "
        f"(± {classes['standard_error']:.1%}) of {classes['num_data']}, K = {classes['num_samples']}. {guess}"
        f"{_khat_of_classes(classes['khat_above_0.7'])} The bounds of wrong classes are looser, which flatters the "
        f"accuracy."
    )


def _khat_of_classes(shares: Mapping[str, float | None]) -> str:
    if all(share is None for share in shares.values()):
        return f"{NO_KHAT[0].upper()}{NO_KHAT[1:]}, to show how far to trust these estimates."
    names = "true_class", "other_classes"  # JSON sorted them
    true, others = ("n/a" if shares[name] is None else f"{shares[name]:.0%}" for name in names)
    return (
        f"PSIS k-hat is above 0.7 for {true} of the estimates for the true class and {others} of the estimates for "
        f"the other classes."
    )


def _pictures(report: Report) -> str:
    """Explains why there are no pictures of data. For images this is explained where they are read."""
    shape = report["protocol"]["shape"]
    if len(shape) != 1 or "program" in report.get("run", {}):
        return ""
    instead = "; see columns.png" if shape[0] <= MOST_COLUMNS else ", and columns.png shows at most 20 columns"
    return f"Rows of a table have no pictures of samples and reconstructions{instead}."


def _weights(objective: Mapping[str, Any]) -> str:
    return (
        f"objective: a weighted loss, reconstruction_weight={objective['reconstruction_weight']:g}, "
        f"kl_weight={objective['kl_weight']:g}: its test value is {objective['loss']:.3f} nats, which is not a "
        f"bound. The ELBO above is the unweighted one."
    )


def _split(protocol: Mapping[str, Any], num_data: int) -> str:
    split = protocol["split"]
    sizes = " / ".join(str(split["sizes"][part]) for part in ("train", "valid", "test"))  # JSON sorted them
    given = f", {' and '.join(split['given'])} as published" if split["given"] else ""
    some = f", {num_data} of the test data drawn at random" if num_data < split["sizes"]["test"] else ""
    return f"{split['kind']} split {sizes}{given}{some}"
