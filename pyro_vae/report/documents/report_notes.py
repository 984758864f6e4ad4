"""The notes of a report: what each number means, and what it does not mean."""

from collections.abc import Collection, Mapping
from typing import Any

from pyro_vae.evaluation.trust.diagnostics import NO_KHAT
from pyro_vae.report.cells import clean, number, share
from pyro_vae.report.document import Note
from pyro_vae.report.documents.baseline_section import baseline_sentence
from pyro_vae.report.documents.estimate_sections import Report, of_x
from pyro_vae.report.documents.training_document import collapsed, levels_as_reals, preset_sentence, rounding_sentence


def notes(report: Report, without: Collection[str] = ()) -> list[Note]:
    """Lists the notes on what a report holds.

    Args:
        report: what report.json holds.
        without: keys of the report whose notes are left out.

    Example:
        >>> [term for term, text in notes({"jackknife": {"mean": -3.0}})]
        ['jackknife']
    """
    values = _values(report)
    kept = ((key, term, text) for key, term, text in _NOTES if key.split(".")[0] not in without and _has(report, key))
    said = (Note(term.format(**values), clean(text.format(**values))) for _, term, text in kept)
    return [note for note in said if note.text]


def _has(report: Report, key: str) -> bool:
    part: Any = report
    for name in key.split("."):
        if name == "AIS":
            return any(row["name"] == "AIS" for row in part)
        if not isinstance(part, Mapping) or part.get(name) in (None, False, {}, []):
            return False
        part = part[name]
    return True


def _values(report: Report) -> dict[str, Any]:
    """The values that the notes fill in."""
    khat, objective, posterior = (report.get(key, {}) for key in ("khat", "objective", "posterior"))
    return {
        "of": of_x(report),
        "subset": report.get("reference", {}).get("num_data"),
        "khat": _khat(khat),
        "threshold": khat.get("threshold"),
        "reference": report.get("gaps", {}).get("reference", "the reference"),
        "draws": _DRAWS.get(posterior.get("method", ""), ""),
        "weights": ", ".join(f"{name}={objective.get(name)}" for name in ("reconstruction_weight", "kl_weight")),
        "loss": number(objective.get("loss")),
        "unfinished": report.get("unfinished", ""),
        "precision": rounding_sentence(report["precision"]) if report.get("precision") else "",
        "levels": levels_as_reals(report),
        "collapsed": collapsed(report),
        "baselines": baseline_sentence(report) if report.get("baselines") else "",
        "preset": preset_sentence(report["preset"]) if report.get("preset") else "",
        "escalated": _escalated(report.get("escalation", {})),
        "agreement": _DISAGREE if posterior.get("agree") is False else "",
        "data": " ".join(report.get("protocol", {}).get("notes", ())),
        "left_out": _reasons(report.get("left_out", {})),
        "not_drawn": _reasons(report.get("not_drawn", {})),
    }


def _reasons(reasons: Mapping[str, str]) -> str:
    return " ".join(f"{name}: {reason}." for name, reason in reasons.items())


def _khat(khat: Mapping[str, Any]) -> str:
    if khat.get("above") is None:
        return f"There is {NO_KHAT}: nothing shows where the bound is loose."
    return (
        f"{share(khat['above'])} of the data lie above {khat['threshold']:g}, where the bound may be loose, its "
        f"Monte Carlo error too small and the effective sample size too large. If nearly all draws are effective, "
        f"the weights hardly differ, and a large k-hat does no harm."
    )


_DISAGREE = "The chains did NOT agree: these draws are not draws from the posterior. "


def _escalated(more: Mapping[str, Any]) -> str:
    if more and not more["taken"]:
        return f"The budget was too small for any of the {more['of']} data above the threshold: {more['budget']}."
    said = (
        "Estimates by more draws and by annealing for the data above the threshold. One large weight raises k-hat "
        "and the bound together. The draws that chose a datum therefore lie high, and are not a bound. "
    )
    if any("iwae_anew" in row for row in more.get("rows", ())):
        return f"{said}No such draw enters an answer, or the change of the mean, which is from the same K drawn again."
    return f"{said}In this report they do enter the answers by more draws and the change of the mean, which is too low."


_DRAWS = {
    "NUTS": "Draws by NUTS come from Markov chains; draws from q(z|x) are independent.",
    "grid": "p(z|x) is evaluated on a grid and normalised there.",
}

# The key of the report that a note belongs to, the term, the sentences.
_NOTES = (
    (
        "test",
        "± over data",
        "Standard error of the mean over test data: how far the mean would change with another test set from the "
        "same distribution. Neither error includes the effect of another training seed.",
    ),
    ("test", "± Monte Carlo", "Standard error over draws of z for the same data. It does not include the bias."),
    (
        "test.elbo",
        "draws",
        "Independent draws of z from q(z|x) for each datum, not from a Markov chain; they follow p(z|x) only when "
        "weighted. For AIS this is the number of chains, for a grid the number of its points.",
    ),
    ("test.elbo", "ELBO", "E_q[log p(x|z)] - KL(q(z|x) || p(z)), a lower bound on log p({of}), without loss weights."),
    (
        "test.log_likelihood",
        "log p({of})",
        "By importance sampling from q(z|x): a lower bound in expectation, not in each run. Its distance from log "
        "p({of}) is not part of its ±, and shrinks with the number of draws.",
    ),
    ("likelihood", "caution", "{levels}"),
    ("test.kl", "caution", "{collapsed}"),
    ("baselines", "baselines", "{baselines}"),
    ("precision", "precision", "{precision}"),
    ("preset", "preset", "{preset}"),
    (
        "jackknife",
        "jackknife",
        "The bound, corrected for the first term of its bias. The result is not a bound: it can lie above log p({of}).",
    ),
    (
        "reference.rows.AIS",
        "AIS",
        "Annealed importance sampling, also a lower bound in expectation, on {subset} test data. Compare it with the "
        "other rows of its table, which saw the same data, not with the mean over all test data.",
    ),
    (
        "simulated",
        "gap",
        "Simulated data only: the model's own data come with one exact draw from their posterior, which gives an upper "
        "bound. Real data have no such draw. The gap shows how tight AIS is under these settings, not how well the "
        "model fits. A gap below 0 by no more than about two of its ± is Monte Carlo noise, and the bounds agree.",
    ),
    (
        "khat",
        "k-hat",
        "The tail of each datum's importance weights, by PSIS. {khat}",
    ),
    (
        "khat.above",
        "± Monte Carlo *",
        "Too small, because some k-hat is above {threshold:g}: the estimated error of the logarithm of a mean of "
        "weights cannot exceed 1 nat per datum, whatever its draws have missed. With the worst weights it is about "
        "half of the true error; for the jackknife it is two thirds to nine tenths of the true error.",
    ),
    (
        "escalation",
        "more work",
        "{escalated} These estimates are kept separate: all other numbers use one K for all data.",
    ),
    (
        "latent.active",
        "active",
        "A dimension is active if Var_x(E_q[z_j|x]) is above the threshold. If the prior learns its scale, read the "
        "count relative to the prior's variance, which no rescaling of z changes.",
    ),
    (
        "latent.mutual_information",
        "mutual information",
        "From exact mixtures over these training data; at most log N. If it is near log N, more data would raise it "
        "and lower the marginal KL.",
    ),
    (
        "latent.marginal_kl.leave_one_out",
        "marginal KL",
        "N data are nearer to their own mixture than to the mixture over the whole population. For the latter the "
        "plug-in value is too high in expectation, and leaving each datum out of its own mixture gives a value that "
        "is too low. If N is small for this many dimensions, both are off by more than their errors show. The truth "
        "lies between the two, and differs from 0 only if the lower end does. For the total correlation they are not "
        "ends: if dimensions copy each other, both values lie below the truth.",
    ),
    (
        "gaps.amortisation",
        "gaps",
        "inference = approximation + amortisation, relative to {reference}. If that is only a lower bound, the true "
        "gap is larger. A large amortisation gap calls for a better encoder, a large approximation gap for a richer "
        "posterior. The ELBO in these gaps has its own draws.",
    ),
    (
        "gaps.inference",
        "inference gap",
        "log p({of}) by the reference, {reference}, minus the ELBO. If the reference is only a lower bound, the true "
        "gap is larger.",
    ),
    (
        "gaps.loose",
        "loose reference",
        "{reference} lies below an ELBO here, so the inference and approximation gaps mean nothing. Only the "
        "amortisation gap is valid.",
    ),
    ("posterior", "true posterior", "{draws} {agreement}One datum illustrates; it does not prove."),
    ("left_out", "not computed", "{left_out}"),
    ("not_drawn", "not drawn", "{not_drawn}"),
    ("unfinished", "not finished", "{unfinished}"),
    (
        "autoencoder",
        "plain autoencoder",
        "q(z|x) is a point without a density: its KL is infinite, and there is no ELBO and no log p(x). Reconstruction "
        "is log p(x|z) at the code.",
    ),
    (
        "classification",
        "classes",
        "By Bayes' rule from bounds. The bounds are looser for the wrong classes, which flatters the accuracy.",
    ),
    (
        "objective.loss",
        "objective",
        "Trained on a weighted loss, {weights}: {loss} on the test data, which is not a bound.",
    ),
    ("protocol.notes", "data", "{data}"),
)
