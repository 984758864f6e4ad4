"""The notes of a report: what each number means, and what it does not mean."""

from collections.abc import Collection, Mapping
from typing import Any

from pyro_vae.evaluation.trust.diagnostics import NO_KHAT
from pyro_vae.report.cells import clean, number, share
from pyro_vae.report.document import Note
from pyro_vae.report.documents.baseline_section import baseline_sentence
from pyro_vae.report.documents.estimate_sections import Report, of_x
from pyro_vae.report.documents.training_document import levels_as_reals, preset_sentence, rounding_sentence


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
        f"{share(khat['above'])} of the data lie above {khat['threshold']:g}, where the bound may be loose, and its "
        "Monte Carlo error and the effective sample size too good. Where nearly all draws are effective, the weights "
        "hardly differ, and a large k-hat does no harm."
    )


_DISAGREE = "The chains did NOT agree: these draws are not draws from the posterior. "


def _escalated(more: Mapping[str, Any]) -> str:
    if more and not more["taken"]:
        return f"The budget was too small for any of the {more['of']} data above the threshold: {more['budget']}."
    said = (
        "What more draws and annealing give for the data above the threshold. One large weight raises k-hat and the "
        "bound together, so that the draws that chose a datum lie high, and are no bound. "
    )
    if any("iwae_anew" in row for row in more.get("rows", ())):
        return f"{said}No such draw is in an answer, nor in the change of the mean, which is against the same K anew."
    return f"{said}Here they are in the answers by more draws, and in the change of the mean, which is too low."


_DRAWS = {
    "NUTS": "Draws of NUTS are those of Markov chains; those of q(z|x) are independent.",
    "grid": "p(z|x) on a grid, normalised there.",
}

# The key of the report that a note belongs to, the term, the sentences.
_NOTES = (
    (
        "test",
        "± over data",
        "Standard error of the mean over other test data of the same kind. Neither error includes what another "
        "training seed would change.",
    ),
    ("test", "± Monte Carlo", "Standard error over other draws of z for the same data. It does not include the bias."),
    (
        "test.elbo",
        "draws",
        "Independent draws of z from q(z|x) for each datum, not from a Markov chain; they follow p(z|x) only when "
        "weighted. For AIS the number of chains, for a grid of its points.",
    ),
    ("test.elbo", "ELBO", "E_q[log p(x|z)] - KL(q(z|x) || p(z)), a lower bound on log p({of}), without loss weights."),
    (
        "test.log_likelihood",
        "log p({of})",
        "By importance sampling from q(z|x): a lower bound in expectation, not in each run. How far below it lies is "
        "no part of its ±, and shrinks with the number of draws.",
    ),
    ("likelihood", "caution", "{levels}"),
    ("baselines", "baselines", "{baselines}"),
    ("precision", "precision", "{precision}"),
    ("preset", "preset", "{preset}"),
    (
        "jackknife",
        "jackknife",
        "The bound without the first term of its bias. It is not a bound: it can lie above log p({of}).",
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
        "bound. Real data have none. The gap says how tight AIS is under these settings, not how well the "
        "model fits. Below 0 by no more than about two of its ± it is Monte Carlo noise, and the bounds agree.",
    ),
    (
        "khat",
        "k-hat",
        "The tail of each datum's importance weights, by PSIS. {khat}",
    ),
    (
        "khat.above",
        "± Monte Carlo *",
        "Too small, because some k-hat is above {threshold:g}: the error of the logarithm of a mean of weights cannot "
        "exceed 1 nat for a datum, whatever its draws have missed. It is about half of the true error where "
        "weights are at their worst; the error of the jackknife is two thirds to nine tenths of the true one.",
    ),
    (
        "escalation",
        "more work",
        "{escalated} They stand apart: all other numbers use one K for all data, and stay as they are.",
    ),
    (
        "latent.active",
        "active",
        "Var_x(E_q[z_j|x]) above the threshold. Where the prior learns its scale, read the count relative to the "
        "prior's variance, which no rescaling of z changes.",
    ),
    (
        "latent.mutual_information",
        "mutual information",
        "Exact mixtures over these training data, at most log N. More data would raise it as long as it is near log N, "
        "and lower the marginal KL.",
    ),
    (
        "latent.marginal_kl.leave_one_out",
        "marginal KL",
        "N data are nearer to their own mixture than to that of all data that there could be: the plug-in value is too "
        "high for the latter, and leaving each datum out of its own mixture too low, in expectation, by more than "
        "either error tells where N is small for so many dimensions. The truth lies between, and is told apart from 0 "
        "only where the lower end is. Of the total correlation these are no ends: where dimensions copy each other "
        "both values lie below the truth.",
    ),
    (
        "gaps.amortisation",
        "gaps",
        "inference = approximation + amortisation, against {reference}. Where that is only a lower bound, the truth is "
        "larger. A large amortisation gap asks for a better encoder, a large approximation gap for a richer posterior. "
        "The ELBO in these gaps has its own draws.",
    ),
    (
        "gaps.inference",
        "inference gap",
        "log p({of}) by the reference, {reference}, minus the ELBO. Where the reference is only a lower bound, "
        "the truth is larger.",
    ),
    (
        "gaps.loose",
        "loose reference",
        "{reference} lies below an ELBO here, so that the inference and the approximation gap mean nothing: only the "
        "amortisation gap holds.",
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
        "By Bayes' rule from bounds, which are looser for the wrong classes; that flatters the accuracy.",
    ),
    (
        "objective.loss",
        "objective",
        "Trained on a weighted loss, {weights}: {loss} on the test data, which is no bound.",
    ),
    ("protocol.notes", "data", "{data}"),
)
