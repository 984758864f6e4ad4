"""The figures that need only a report, with captions that say what they show and what they do not show."""

from collections.abc import Iterator

from pyro_vae.report.document import Picture
from pyro_vae.report.documents.estimate_sections import Report, of_x
from pyro_vae.report.draw import estimate_figures, latent_figures


def of_report(report: Report) -> list[Picture]:
    """Draws all that a report holds numbers for, in the order of the page.

    Pictures of data, of training and of the posterior of one datum need more than the report.

    Args:
        report: what report.json holds.

    Example:
        >>> of_report({"test": {}})
        []
    """
    return [*_latent(report), *_likelihood(report), *_trust(report), *_posterior(report)]


def _latent(report: Report) -> Iterator[Picture]:
    latent = report.get("latent", {})
    size = latent.get("num_data")
    if any(kl is not None for kl in latent.get("kl_per_dimension", {}).values()):
        caption = (
            f"KL(q(z_j|x) || p(z_j)) by dimension, mean over {size} training data, with the standard error over them. "
            "Filled: the mean of q(z_j|x) varies with x by more than the threshold."
        )
        yield Picture("KL by dimension", caption, latent_figures.kl_spectrum(latent), "latent")
    if latent.get("active"):
        caption = (
            f"How much the mean of q(z_j|x) varies over {size} training data. Above the dashed line a dimension counts "
            "as active. Under a prior that learns its scale, see the count relative to the prior."
        )
        yield Picture("Active dimensions", caption, latent_figures.active_units(latent), "latent")


def _likelihood(report: Report) -> Iterator[Picture]:
    of = of_x(report)
    if curve := report.get("curve"):
        caption = (
            f"Lower bounds on log p({of}) rise with the number of draws, here all from one pass over "
            f"{curve[0]['num_data']} test data. A curve that still rises at its end is loose. The jackknife removes "
            "the first term of the bias. It is not a bound, and stands apart."
        )
        picture = estimate_figures.bounds(curve, report.get("jackknife"), of=of)
        yield Picture("Importance-weighted bounds", caption, picture, "likelihood")
    if reference := report.get("reference"):
        caption = (
            f"The same {reference['num_data']} test data in every row, in order of cost. The grey bars are the error "
            "over the data, which moves all rows together. The paired differences tell which bound is tighter."
        )
        yield Picture("Bounds of growing cost", caption, estimate_figures.reference(reference, of=of), "likelihood")
    if simulated := report.get("simulated"):
        caption = (
            f"Simulated from the model: {simulated['num_data']} data, each with an exact draw from its posterior, so "
            "that AIS bounds the truth from both sides. The gap is evidence about AIS with these settings. On real "
            "data there is no upper bound."
        )
        yield Picture(
            "Simulated data only: the truth bracketed",
            caption,
            estimate_figures.simulated(simulated, of=of),
            "likelihood",
        )


def _trust(report: Report) -> Iterator[Picture]:
    if (khat := report.get("khat")) and any(value is not None for value in khat["values"]):
        caption = (
            f"One point for each test datum, {khat['num_samples']} weights each. Below 0.5 the weights have a finite "
            f"variance; above {khat['threshold']:g} the bound of that datum may be loose, and its error too small."
        )
        classes = report.get("protocol", {}).get("classes") or ()
        yield Picture("k-hat of every datum", caption, estimate_figures.khat(khat, classes), "trust")
    if khat and khat.get("ess"):
        caption = "How many of the weighted draws count. Where the tail is heavy, fewer may count than are shown."
        yield Picture("Effective sample size", caption, estimate_figures.effective_sample_size(khat), "trust")
    if (more := report.get("escalation")) and more.get("rows"):
        caption = (
            f"More draws, then annealing, for {more['taken']} of the {more['of']} data above the threshold "
            f"({more['budget']}). They stand apart: the numbers at the top use one K for all data."
        )
        if len(more["rows"]) > estimate_figures.LISTED:
            caption += f" Only the {estimate_figures.LISTED} with the largest k-hat are drawn; the table lists all."
        yield Picture("More work on the worst data", caption, estimate_figures.escalation(more), "trust")


def _posterior(report: Report) -> Iterator[Picture]:
    if "inference" in (gaps := report.get("gaps", {})):
        parts = ", and what a better encoder (amortisation) or a richer posterior (approximation) could win back"
        caption = (
            f"What the ELBO loses against the reference{parts if gaps.get('amortisation') else ''}. Where the "
            "reference is only a lower bound, more is lost."
        )
        yield Picture("Where the ELBO loses", caption, estimate_figures.gaps(gaps), "posterior")
