"""The report of an evaluated run as a flat list: every estimate, where it belongs, and what it does not say."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

Report = Mapping[str, Any]


class Entry(NamedTuple):
    """One estimate.

    Attributes:
        name: short and stable, for files that programs read.
        label: for people.
        numbers: mean, standard_error, monte_carlo_error, num_samples, num_data, unit; what is unknown may be absent.
        bound: "lower" or "upper" bound in expectation, "no bound", or "" where the question does not arise.
        meaning: a clause.
    """

    name: str
    label: str
    numbers: Mapping[str, Any]
    bound: str = ""
    meaning: str = ""


class Section(NamedTuple):
    """Estimates that stand together: a short name, a title in words, and the entries in order."""

    name: str
    title: str
    entries: tuple[Entry, ...]


def sections(report: Report) -> list[Section]:
    """All estimates of a report but those of single data and single dimensions; parts that are absent are left out.

    Args:
        report: what report.json holds, as an evaluation fills it or as training left it.

    Example:
        >>> elbo = {"mean": -3.0, "standard_error": 0.1, "monte_carlo_error": 0.01, "num_samples": 9, "num_data": 50}
        >>> [(section.name, entry.name, entry.bound) for section in sections({"test": {"elbo": elbo}})
        ...  for entry in section.entries]
        [('test', 'elbo', 'lower')]
    """
    makers = (
        ("test", "test data, per datum", _test),
        ("curve", "importance-weighted bounds: at every k the same draws, in groups of k", _curve),
        ("jackknife", "beside them: the jackknife, no bound", _jackknife),
        ("reference", _reference_title(report), _reference),
        ("differences", "paired differences on that subset", _differences),
        ("simulated", _simulated_title(report), _simulated),
        ("khat", "k-hat of the importance weights", _khat),
        ("escalation", "more work on the worst data, apart from the numbers above", _escalation),
        ("latent", "the latent space, on training data", _latent),
        ("gaps", _gaps_title(report), _gaps),
        ("classification", "classes by Bayes' rule", _classification),
    )
    found = [Section(name, title, tuple(make(report))) for name, title, make in makers]
    return [section for section in found if section.entries]


def dimensions(report: Report) -> list[Section]:
    """Estimates of single latent dimensions: KL(q(z_j|x) || p(z_j)) and Var_x(E_q[z_j|x])."""
    latent = report.get("latent", {})
    size = latent.get("num_data")
    kl = [
        Entry(f"{site}[{j}]", f"KL of {site}[{j}]", _numbers(*pair, size, "nats"), "", f"KL, {found['kind']}")
        for site, found in latent.get("kl_per_dimension", {}).items()
        if found is not None
        for j, pair in enumerate(zip(found["mean"], found["standard_error"], strict=True))
    ]
    variance = [
        Entry(
            f"{site}[{j}]",
            f"variance of {site}[{j}]",
            _numbers(*pair, size, "squared units of z"),
            "",
            "Var_x(E_q[z_j|x])",
        )
        for site, found in latent.get("active", {}).items()
        for j, pair in enumerate(zip(found["variance"], found["variance_error"], strict=True))
    ]
    made = (Section("kl_per_dimension", "KL by dimension", tuple(kl)), Section("variance", "variance", tuple(variance)))
    return [section for section in made if section.entries]


def name(report: Report) -> str:
    """Of the run, or of its data where the run has none."""
    return report.get("run", {}).get("name") or report.get("protocol", {}).get("name") or "a run"


def commands(report: Report) -> list[str]:
    """The command lines that trained and evaluated the run, as far as they are known."""
    run = report.get("run", {})
    return [run[key] for key in ("trained_by", "command") if run.get(key)]


def of_x(report: Report) -> str:
    """What the density is of: "x", or "x|y" for a conditional program."""
    return "x|y" if report.get("config", {}).get("conditional") else "x"


def num_test(report: Report) -> int | None:
    """How many test data the headline numbers rest on."""
    return next((found["num_data"] for found in report.get("test", {}).values()), None)


def _test(report: Report) -> Iterator[Entry]:
    of, found = of_x(report), report.get("test", {})
    level = of.replace("x", "level")
    coded = level if "log_likelihood_of_levels" in found else of
    known = {
        "elbo": ("ELBO", "lower", f"at most log p({of}), in expectation"),
        "reconstruction": ("reconstruction", "", "E_q[log p(x|z)]"),
        "kl": ("KL", "", "KL(q(z|x) || p(z))"),
        "log_likelihood": (f"log p({of})", "lower", "importance-weighted from q(z|x)"),
        "log_likelihood_of_levels": (f"log p({level})", "lower", "the same with the Jacobian of the levels"),
        "bits_per_dim": (f"-log p({coded})", "upper", "the bound above, in bits per dimension"),
        "rmse": ("RMSE", "", "of the mean of p(x|z), for one z"),
    }
    for name in (*known, *(name for name in found if name not in known)):
        if (numbers := found.get(name)) is None:
            continue
        label, bound, meaning = known.get(name, (name, "", ""))
        kinds = ", ".join(f"{site} {kind}" for site, kind in numbers.get("kind", {}).items())
        yield Entry(name, label, numbers, bound, f"{meaning}; {kinds}" if name == "kl" and kinds else meaning)
    yield from _precision(report)


def _precision(report: Report) -> Iterator[Entry]:
    if (found := report.get("precision")) is None:
        return
    yield Entry("rounding_loss", found["name"], found, "", "networks in bfloat16; the same parameters and draws")
    size = {"mean": found["mean_absolute"], "num_samples": found["num_samples"], "num_data": found["num_data"]}
    meaning = f"of the same for single data, the largest {found['largest']:.2g}"
    yield Entry("rounding_size", "mean absolute value", size, "", meaning)


def _curve(report: Report) -> Iterator[Entry]:
    for numbers in report.get("curve", ()):
        k = numbers["num_samples"]
        label = "k = 1, the ELBO, sampled" if k == 1 else f"k = {k}"
        yield Entry(f"iwae_{k}", label, numbers, "lower", f"at most log p({of_x(report)}), in expectation")


def _jackknife(report: Report) -> Iterator[Entry]:
    if numbers := report.get("jackknife"):
        label = f"jackknife, K = {numbers['num_samples']}"
        yield Entry("jackknife", label, numbers, "no bound", f"may lie above log p({of_x(report)})")


_REFERENCE = {
    "ELBO": ("lower", "in expectation"),
    "IWAE": ("lower", "in expectation"),
    "AIS": ("lower", "in expectation"),
    "grid": ("no bound", "numerical integral over z"),
}
_FACTS = ("acceptance", "refinement", "boundary", "unreliable")


def _reference(report: Report) -> Iterator[Entry]:
    found = report.get("reference", {})
    for row in found.get("rows", ()):
        bound, meaning = _REFERENCE.get(row["name"], ("", ""))
        facts = [f"{name} {row[name]:.2g}" for name in _FACTS if row.get(name) is not None]
        label = row.get("label") or row["name"]
        yield Entry(row["name"], label, row, bound, ", ".join([part for part in (meaning, *facts) if part]))


def _reference_title(report: Report) -> str:
    size, of = report.get("reference", {}).get("num_data"), num_test(report)
    if size == of:
        return f"all {of} test data: bounds of growing cost"
    return f"one random subset, {size} of {of or 'the'} test data: bounds of growing cost"


def _differences(report: Report) -> Iterator[Entry]:
    found = report.get("reference", {})
    for row in found.get("differences", ()):
        numbers = _numbers(row["mean"], row["standard_error"], found.get("num_data"), "nats")
        yield Entry(row["label"], row["label"], numbers, "", "datum by datum")


def _simulated(report: Report) -> Iterator[Entry]:
    if (found := report.get("simulated")) is None:
        return
    known = {
        "elbo": ("ELBO", "lower"),
        "iwae": ("importance-weighted", "lower"),
        "forward": ("AIS, forward", "lower"),
        "reverse": ("AIS, reverse", "upper"),
    }
    for name, (label, bound) in known.items():
        if found.get(name) is not None:
            of = f", K = {found[name]['num_samples']}" if name == "iwae" else ""
            yield Entry(name, label + of, found[name], bound, "in expectation, on simulated data only")
    if found.get("gap") is not None:
        numbers = _numbers(found["gap"], found.get("gap_error"), found["num_data"], "nats")
        yield Entry("gap", "gap, simulated data only", numbers, "", "reverse - forward; of real data there is none")


def _simulated_title(report: Report) -> str:
    size = report.get("simulated", {}).get("num_data")
    return (
        f"{size} data simulated from the model: log p({of_x(report)}) lies between forward and reverse, in expectation"
    )


def _khat(report: Report) -> Iterator[Entry]:
    if (found := report.get("khat")) is None or found.get("above") is None:
        return
    numbers = {"mean": found["above"], "num_samples": found["num_samples"], "num_data": len(found["values"])}
    label = f"data with k-hat above {found['threshold']:g}"
    meaning = f"whose log p({of_x(report)}) may be too low, and its Monte Carlo error too small"
    yield Entry("share_above", label, {**numbers, "unit": "share"}, "", meaning)


def _escalation(report: Report) -> Iterator[Entry]:
    if (found := report.get("escalation")) is not None and found["taken"]:
        numbers = {"mean": found["mean_change"], "monte_carlo_error": found.get("mean_change_error"), "unit": "nats"}
        meaning = f"by {found['taken']} of the {found['of']} data above the threshold; {found['budget']}"
        name = f"change of the mean of log p({of_x(report)})"
        yield Entry("mean_change", name, {**numbers, "num_data": found["num_data"]}, "", meaning)


def _latent(report: Report) -> Iterator[Entry]:
    found = report.get("latent", {})
    known = {
        "rate": ("rate, KL(q(z|x) || p(z))", "mutual information + marginal KL"),
        "distortion": ("distortion, -E_q[log p(x|z)]", "-ELBO = rate + distortion"),
        "mutual_information": ("mutual information I(x; z)", "which datum a code came from"),
        "marginal_kl": ("marginal KL(q(z) || p(z))", "the codes of all data against the prior"),
        "total_correlation": ("total correlation of q(z)", "dependence between the dimensions"),
    }
    for name, (label, meaning) in known.items():
        if (numbers := found.get(name)) is not None:
            at_most = f", at most log N = {numbers['bound']:.3f}" if numbers.get("bound") is not None else ""
            yield Entry(name, label, numbers, "", meaning + at_most)


def _gaps(report: Report) -> Iterator[Entry]:
    found = report.get("gaps", {})
    reference = found.get("reference", "the reference")
    known = {
        "inference": ("inference gap", f"{reference} - ELBO; too small as far as the reference is a lower bound"),
        "approximation": ("approximation gap", f"{reference} - the ELBO of the best q for each datum"),
        "amortisation": ("amortisation gap", "ELBO of the best q for each datum - ELBO"),
    }
    for name, (label, meaning) in known.items():
        if (gap := found.get(name)) is not None:
            yield Entry(name, label, {"unit": "nats", "num_data": found["num_data"], **gap}, "", meaning)
    if (gap := found.get("train_test")) is not None:
        numbers = {name: gap.get(name) for name in ("mean", "standard_error", "monte_carlo_error")} | {"unit": "nats"}
        yield Entry("train_test", "train - test", numbers, "", "difference of the two ELBOs below, different data")
        for split in ("train", "test"):
            if gap.get(split) is not None:
                yield Entry(f"{split}_elbo", f"ELBO, {split} data", gap[split], "lower", "in expectation")


def _gaps_title(report: Report) -> str:
    found = report.get("gaps", {})
    loss = f"what the ELBO loses, {found['num_data']} test data; and " if "inference" in found else ""
    return f"{loss}training data against test data"


def _classification(report: Report) -> Iterator[Entry]:
    if (found := report.get("classification")) is None:
        return
    counts = {"num_samples": found["num_samples"], "num_data": found["num_data"]}
    numbers = {"mean": found["accuracy"], "standard_error": found["standard_error"], **counts, "unit": "share"}
    yield Entry("accuracy", "right class", numbers, "", "from bounds of log p(x|y) and the frequencies of the classes")
    if found.get("log_p_of_true_class") is not None:
        numbers = {"mean": found["log_p_of_true_class"], **counts, "unit": "nats"}
        yield Entry("log_p_of_true_class", "log p(true class|x)", numbers, "no bound", "a ratio of bounds")


def _numbers(mean: Any, standard_error: Any, num_data: int | None, unit: str) -> dict[str, Any]:
    return {"mean": mean, "standard_error": standard_error, "num_data": num_data, "unit": unit}


def per_datum(report: Report) -> dict[str, Sequence[Any]]:
    """The columns of numbers that a report holds for every single test datum: estimates, then k-hat and ess."""
    khat = report.get("khat", {})
    found = {name: khat[key] for name, key in (("khat", "values"), ("ess", "ess")) if key in khat}
    return {**report.get("per_datum", {}), **found}
