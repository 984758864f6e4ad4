"""The figures that a report can draw of itself, with captions that say what they show and what they do not."""

from collections.abc import Iterator

from pyro_vae.report.draw import latent_figures, likelihood_figures
from pyro_vae.report.entries import Report, of_x
from pyro_vae.report.render.html import Panel


def of_report(report: Report) -> list[Panel]:
    """Panels of all that a report holds numbers for, in the order of the page.

    Pictures of data, of training and of the posterior of one datum need more than the report, and are not here.

    Args:
        report: what report.json holds.

    Example:
        >>> of_report({"test": {}})
        []
    """
    return [*_latent(report), *_likelihood(report), *_trust(report), *_posterior(report)]


def _latent(report: Report) -> Iterator[Panel]:
    latent = report.get("latent", {})
    size = latent.get("num_data")
    if any(found is not None for found in latent.get("kl_per_dimension", {}).values()):
        caption = (
            f"KL(q(z_j|x) || p(z_j)) by dimension, mean over {size} training data, with the standard error over them. "
            "Filled: the mean of q(z_j|x) varies with x by more than the threshold."
        )
        yield Panel("KL by dimension", caption, latent_figures.kl_spectrum(latent), "latent")
    if latent.get("active"):
        caption = (
            f"How much the mean of q(z_j|x) varies over {size} training data. Above the dashed line a dimension counts "
            "as active. Under a prior that learns its scale, see the count relative to the prior."
        )
        yield Panel("Active dimensions", caption, latent_figures.active_units(latent), "latent")


def _likelihood(report: Report) -> Iterator[Panel]:
    of = of_x(report)
    if curve := report.get("curve"):
        caption = (
            f"Lower bounds on log p({of}) rise with the number of draws, here all from one pass over "
            f"{curve[0]['num_data']} test data. A curve that still rises at its end is loose. The jackknife takes away "
            "the first term of the bias; it is no bound, and stands apart."
        )
        picture = likelihood_figures.bounds(curve, report.get("jackknife"), of=of)
        yield Panel("Importance-weighted bounds", caption, picture, "likelihood")
    if found := report.get("reference"):
        caption = (
            f"The same {found['num_data']} test data in every row, in order of cost. The grey bars are the error over "
            "the data, by which all rows move together: which bound is tighter, the paired differences tell."
        )
        yield Panel("Bounds of growing cost", caption, likelihood_figures.reference(found, of=of), "likelihood")
    if found := report.get("simulated"):
        caption = (
            f"Simulated from the model: {found['num_data']} data, each with an exact draw from its posterior, so that "
            "AIS bounds the truth from both sides. The gap is evidence about AIS with these settings. On real data "
            "there is no upper bound."
        )
        yield Panel(
            "Simulated data only: the truth bracketed",
            caption,
            likelihood_figures.simulated(found, of=of),
            "likelihood",
        )


def _trust(report: Report) -> Iterator[Panel]:
    if (found := report.get("khat")) and any(value is not None for value in found["values"]):
        caption = (
            f"One point for each test datum, {found['num_samples']} weights each. Below 0.5 the weights have a finite "
            f"variance; above {found['threshold']:g} the bound of that datum may be loose, and its error too small."
        )
        yield Panel("k-hat of every datum", caption, likelihood_figures.khat(found), "trust")
    if found and found.get("ess"):
        caption = "How many of the weighted draws count. Where the tail is heavy it may be fewer than are shown."
        yield Panel("Effective sample size", caption, likelihood_figures.effective_sample_size(found), "trust")
    if (found := report.get("escalation")) and found.get("rows"):
        caption = (
            f"More draws, then annealing, for {found['taken']} of the {found['of']} data above the threshold "
            f"({found['budget']}). Shown apart: the numbers at the top are at one K for all data."
        )
        if len(found["rows"]) > likelihood_figures.LISTED:
            caption += f" The {likelihood_figures.LISTED} with the largest k-hat; all are in the table."
        yield Panel("More work on the worst data", caption, likelihood_figures.escalation(found), "trust")


def _posterior(report: Report) -> Iterator[Panel]:
    if "inference" in (found := report.get("gaps", {})):
        parts = ", and what a better encoder (amortisation) or a richer posterior (approximation) could win back"
        caption = (
            f"What the ELBO loses against the reference{parts if found.get('amortisation') else ''}. As far as the "
            "reference is a lower bound, more is lost."
        )
        yield Panel("Where the ELBO loses", caption, likelihood_figures.gaps(found), "posterior")
