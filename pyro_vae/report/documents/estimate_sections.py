"""The estimates of an evaluated run, in sections: where each belongs, what it bounds and what it is called."""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from pyro_vae.report.cells import interval, number, share, too_small
from pyro_vae.report.document import Column, Table

Report = Mapping[str, Any]


class Entry(NamedTuple):
    """One estimate.

    Attributes:
        name: a short name that stays the same, for files that programs read.
        label: its name for people.
        numbers: mean, standard_error, monte_carlo_error, num_samples, num_data, unit; what is unknown may be absent.
        bound: "lower" or "upper" for a bound in expectation, "no bound", or "" where the question does not arise.
        meaning: what it is, in a clause.
        has_small_error: whether its Monte Carlo error is known to be too small, which a mark then says.
    """

    name: str
    label: str
    numbers: Mapping[str, Any]
    bound: str = ""
    meaning: str = ""
    has_small_error: bool = False


class Estimates(NamedTuple):
    """Estimates that stand together: a short name, a title in words, and the entries in order."""

    name: str
    title: str
    entries: tuple[Entry, ...]

    @property
    def table(self) -> Table:
        """A table with a row for each estimate, with both errors."""
        return Table(self.name, COLUMNS, [_row(entry) for entry in self.entries], self.title)


COLUMNS = (
    Column("", width=34),
    Column("bound", width=10),
    Column("mean", right=True, width=11),
    Column("± over data", right=True, width=13),
    Column("± Monte Carlo", right=True, width=15),
    Column("draws", right=True, width=8),
    Column("data", right=True, width=8),
    Column("what it is"),
)


def _row(entry: Entry) -> tuple[Any, ...]:
    numbers, unit = entry.numbers, entry.numbers.get("unit", "nats")
    show = share if unit == "share" else number
    label = entry.label if unit in ("nats", "share") else f"{entry.label}, {unit}"
    mean, over_data, over_draws = (show(numbers.get(n)) for n in ("mean", "standard_error", "monte_carlo_error"))
    means = mean, over_data, too_small(over_draws) if entry.has_small_error else over_draws
    counts = (number(numbers.get(name), 0) for name in ("num_samples", "num_data"))
    return (label, entry.bound, *means, *counts, entry.meaning)


def sections(report: Report) -> list[Estimates]:
    """Lists the estimates of a report, except those of single data and single dimensions; empty sections are left out.

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
        ("baselines", _baselines_title(report), _baselines),
        ("curve", "importance-weighted bounds: at every k the same draws, in groups of k", _curve),
        ("jackknife", "with the same draws: the jackknife, which is not a bound", _jackknife),
        ("reference", _reference_title(report), _reference),
        ("differences", "paired differences on that subset", _differences),
        ("simulated", _simulated_title(report), _simulated),
        ("khat", "k-hat of the importance weights", _khat),
        ("escalation", "more work on the worst data, not included in the numbers above", _escalation),
        ("latent", "the latent space, on training data", _latent),
        ("gaps", _gaps_title(report), _gaps),
        ("classification", "classes by Bayes' rule", _classification),
    )
    return _filled(Estimates(name, title, tuple(make(report))) for name, title, make in makers)


def _filled(made: Iterable[Estimates]) -> list[Estimates]:
    return [section for section in made if section.entries]


FILE_COLUMNS = ("section", "name", "mean", "standard_error", "monte_carlo_error", "num_samples", "num_data", "unit")


def estimate_rows(report: Report) -> Table:
    """Lists a row for each estimate, those of single dimensions too: what report.csv holds.

    Its columns are section, name, mean, standard_error (over the data), monte_carlo_error, num_samples, num_data, unit,
    bound ("lower" or "upper" in expectation, "no bound", or empty where the question does not arise) and label.
    """
    rows = [
        (
            section.name,
            entry.name,
            *(entry.numbers.get(name) for name in FILE_COLUMNS[2:7]),
            entry.numbers.get("unit", "nats"),
            entry.bound,
            f"(Monte Carlo error too small) {entry.label}" if entry.has_small_error else entry.label,
        )
        for section in (*sections(report), *dimensions(report))
        for entry in section.entries
    ]
    return Table.of("estimates", (*FILE_COLUMNS, "bound", "label"), rows)


def class_name(report: Report, label: Any) -> str:
    """Names a class as its data do, "" where there is none.

    Example:
        >>> class_name({"protocol": {"classes": ["cat", "dog"]}}, 1), class_name({}, 1), class_name({}, None)
        ('dog', '1', '')
    """
    names = report.get("protocol", {}).get("classes") or ()
    return "" if label is None else str(names[label] if label < len(names) else label)


def place(row: Mapping[str, Any]) -> str:
    """Names a datum by its row in the file, or, in an older report, by its place among the test data.

    Example:
        >>> place({"datum": 17, "row": 123}), place({"datum": 17})
        ('row 123', 'datum 17')
    """
    return f"row {row['row']}" if "row" in row else f"datum {row['datum']}"


def datum_rows(report: Report) -> Table:
    """Lists a row for each test datum, with its row in the file, estimates, k-hat and effective sample size: data.csv.

    The cell of a datum without a k-hat (weights that all agree, or fewer than 25 draws) is empty.
    """
    khat = report.get("khat", {})
    named = report.get("per_datum", {})
    if "label" in named:
        named = {**named, "label": [class_name(report, label) for label in named["label"]]}
    columns = {**named, **{n: khat[key] for n, key in _OF_WEIGHTS.items() if key in khat}}
    rows = ((i, *row) for i, row in enumerate(zip(*columns.values(), strict=True)))
    return Table.of("data", ("datum", *columns), rows)


_OF_WEIGHTS = {"khat": "values", "ess": "ess"}


def dimensions(report: Report) -> list[Estimates]:
    """Lists the estimates of single latent dimensions: KL(q(z_j|x) || p(z_j)) and Var_x(E_q[z_j|x])."""
    latent = report.get("latent", {})
    kl = {site: spectrum for site, spectrum in latent.get("kl_per_dimension", {}).items() if spectrum is not None}
    made = (
        ("kl_per_dimension", "KL", kl, "mean", "standard_error", "nats"),
        ("variance", "variance", latent.get("active", {}), "variance", "variance_error", "squared units of z"),
    )
    return _filled(
        Estimates(
            name,
            label,
            tuple(
                Entry(f"{site}[{j}]", f"{label} of {site}[{j}]", _numbers(*pair, latent.get("num_data"), unit))
                for site, numbers in sites.items()
                for j, pair in enumerate(zip(numbers[mean], numbers[error], strict=True))
            ),
        )
        for name, label, sites, mean, error, unit in made
    )


def run_name(report: Report) -> str:
    """The name of the run, or that of its data where the run has none."""
    return report.get("run", {}).get("name") or report.get("protocol", {}).get("name") or "a run"


def page_title(report: Report) -> str:
    """The name of the run, without the time that begins the name of its folder where none was given.

    Example:
        >>> page_title({"run": {"name": "20261101-101500-digits-bernoulli"}})
        'digits-bernoulli'
    """
    return re.sub(r"^\d{8}-\d{6}-(?=.)", "", run_name(report))


def commands(report: Report) -> list[str]:
    """Lists the command lines that trained and evaluated the run, as far as they are known."""
    run = report.get("run", {})
    return [run[key] for key in ("trained_by", "command") if run.get(key)]


def of_x(report: Report) -> str:
    """The argument of the density: "x", or "x|y" for a conditional program."""
    return "x|y" if report.get("config", {}).get("conditional") else "x"


def num_test(report: Report) -> int | None:
    """The number of test data that the headline numbers rest on; None where there are none."""
    return next((numbers["num_data"] for numbers in report.get("test", {}).values()), None)


def headline_entries(report: Report) -> list[Entry]:
    """Lists the numbers of the test data that every report begins with, in their order."""
    of, test = of_x(report), report.get("test", {})
    level = of.replace("x", "level")
    coded = level if "log_likelihood_of_levels" in test else of
    kinds = ", ".join(f"{site} {kind}" for site, kind in test.get("kl", {}).get("kind", {}).items())
    labels = {
        "elbo": ("ELBO", "lower", f"at most log p({of}), in expectation"),
        "reconstruction": ("reconstruction", "", "E_q[log p(x|z)]"),
        "kl": ("KL", "", f"KL(q(z|x) || p(z)){kinds and f'; {kinds}'}"),
        "log_likelihood": (f"log p({of})", "lower", "importance-weighted from q(z|x)"),
        "log_likelihood_of_levels": (f"log p({level})", "lower", "the same with the Jacobian of the levels"),
        "bits_per_dim": (f"-log p({coded})", "upper", "the bound above, in bits per dimension"),
        "rmse": ("RMSE", "", "of the mean of p(x|z), for one z"),
    }
    weighted = ("log_likelihood", "log_likelihood_of_levels", "bits_per_dim") if has_heavy_weights(report) else ()
    return [entry._replace(has_small_error=entry.name in weighted) for entry in _listed(test, labels)]


def has_heavy_weights(report: Report) -> bool:
    """Whether any datum has a k-hat above the threshold, so that the error of a mean of weights is too small."""
    return bool((report.get("khat") or {}).get("above"))


def _listed(numbers: Mapping[str, Any], labels: Mapping[str, tuple[str, str, str]]) -> Iterator[Entry]:
    """Yields those that are there, with their labels, bounds and meanings."""
    for name, (label, bound, meaning) in labels.items():
        if numbers.get(name) is not None:
            yield Entry(name, label, numbers[name], bound, meaning)


def _test(report: Report) -> Iterator[Entry]:
    headline = headline_entries(report)
    yield from headline
    for name, numbers in report.get("test", {}).items():
        if numbers is not None and name not in [entry.name for entry in headline]:
            yield Entry(name, name, numbers)
    if loss := report.get("precision"):
        yield Entry("rounding_loss", loss["name"], loss, "", "networks in bfloat16; the same parameters and draws")
        size = {"mean": loss["mean_absolute"], "num_samples": loss["num_samples"], "num_data": loss["num_data"]}
        meaning = f"of the same difference for single data; the largest is {loss['largest']:.2g}"
        yield Entry("rounding_size", "mean absolute value", size, "", meaning)


def _baselines(report: Report) -> Iterator[Entry]:
    """Yields each baseline, and the difference from it with the verdict."""
    for row in (report.get("baselines") or {}).get("rows", ()):
        name, difference = row["name"], row["difference"]
        yield Entry(name, name, row)
        counts = {"num_data": row["num_data"], "num_samples": _num_draws(report)}
        meaning = f"{100 * difference['confidence']:g} % in {interval(difference['interval'])}: {row['verdict']}"
        is_heavy = has_heavy_weights(report)
        yield Entry(f"program - {name}", f"program - {name}", {**difference, **counts}, "lower", meaning, is_heavy)


def _baselines_title(report: Report) -> str:
    of_class = ", one for each class" if (report.get("baselines") or {}).get("by_class") else ""
    return f"for comparison with log p({of_x(report)}): simple densities fitted only to the training data{of_class}"


def _num_draws(report: Report) -> int | None:
    return (report.get("test", {}).get("log_likelihood") or {}).get("num_samples")


def _curve(report: Report) -> Iterator[Entry]:
    curve, is_heavy = report.get("curve", ()), has_heavy_weights(report)
    num_samples = max((numbers["num_samples"] for numbers in curve), default=0)
    for numbers in curve:
        k = numbers["num_samples"]
        label = "k = 1, the ELBO, sampled" if k == 1 else f"k = {k}"
        meaning = f"at most log p({of_x(report)}), in expectation"
        yield Entry(f"iwae_{k}", label, numbers, "lower", meaning, is_heavy and 2 * k > num_samples)


def _jackknife(report: Report) -> Iterator[Entry]:
    if numbers := report.get("jackknife"):
        label = f"jackknife, K = {numbers['num_samples']}"
        meaning = f"can lie above log p({of_x(report)})"
        yield Entry("jackknife", label, numbers, "no bound", meaning, has_heavy_weights(report))


def _reference(report: Report) -> Iterator[Entry]:
    lower = ("lower", "in expectation")
    bounds = {"ELBO": lower, "IWAE": lower, "AIS": lower, "grid": ("no bound", "numerical integral over z")}
    for row in report.get("reference", {}).get("rows", ()):
        bound, meaning = bounds.get(row["name"], ("", ""))
        facts = (name for name in ("acceptance", "refinement", "boundary", "unreliable") if row.get(name) is not None)
        words = [meaning, *(f"{name} {row[name]:.2g}" for name in facts)]
        is_small = row["name"] == "IWAE" and has_heavy_weights(report)
        yield Entry(row["name"], row.get("label") or row["name"], row, bound, ", ".join(filter(None, words)), is_small)


def _reference_title(report: Report) -> str:
    size, of = report.get("reference", {}).get("num_data"), num_test(report)
    some = f"all {of} test data" if size == of else f"one random subset, {size} of {of or 'the'} test data"
    return f"{some}: bounds of growing cost"


def _differences(report: Report) -> Iterator[Entry]:
    reference = report.get("reference", {})
    for row in reference.get("differences", ()):
        numbers = _numbers(row["mean"], row["standard_error"], reference.get("num_data"))
        yield Entry(row["label"], row["label"], numbers, "", "datum by datum")


def _simulated(report: Report) -> Iterator[Entry]:
    bounds, meaning = report.get("simulated") or {}, "in expectation, on simulated data only"
    draws = f", K = {bounds['iwae']['num_samples']}" if bounds.get("iwae") else ""
    labels = {
        "elbo": ("ELBO", "lower", meaning),
        "iwae": (f"importance-weighted{draws}", "lower", meaning),
        "forward": ("AIS, forward", "lower", meaning),
        "reverse": ("AIS, reverse", "upper", meaning),
    }
    yield from _listed(bounds, labels)
    if bounds.get("gap") is not None:
        numbers = _numbers(bounds["gap"], bounds.get("gap_error"), bounds["num_data"])
        yield Entry("gap", "gap, simulated data only", numbers, "", "reverse - forward; real data have none")


def _simulated_title(report: Report) -> str:
    size, of = report.get("simulated", {}).get("num_data"), of_x(report)
    return f"{size} data simulated from the model: log p({of}) lies between forward and reverse, in expectation"


def _khat(report: Report) -> Iterator[Entry]:
    if (khat := report.get("khat")) is not None and khat.get("above") is not None:
        numbers = {"mean": khat["above"], "num_samples": khat["num_samples"], "num_data": len(khat["values"])}
        label = f"data with k-hat above {khat['threshold']:g}"
        meaning = f"whose log p({of_x(report)}) may be too low, and its Monte Carlo error too small"
        yield Entry("share_above", label, {**numbers, "unit": "share"}, "", meaning)


def _escalation(report: Report) -> Iterator[Entry]:
    if (more := report.get("escalation")) is not None and more["taken"]:
        numbers = {"mean": more["mean_change"], "monte_carlo_error": more.get("mean_change_error")}
        is_new = any("iwae_anew" in row for row in more.get("rows", ()))
        against = "the same K drawn again" if is_new else "the draws that chose the data, which makes it too low"
        taken = f"from {more['taken']} of the {more['of']} data above the threshold"
        meaning = f"{taken}, relative to {against}; {more['budget']}"
        label = f"change of the mean of log p({of_x(report)})"
        yield Entry("mean_change", label, {**numbers, "num_data": more["num_data"]}, "", meaning)


def _latent(report: Report) -> Iterator[Entry]:
    latent = report.get("latent", {})
    at_most = _at_most(latent.get("mutual_information") or {})
    labels = {
        "rate": ("rate, KL(q(z|x) || p(z))", "", "mutual information + marginal KL"),
        "distortion": ("distortion, -E_q[log p(x|z)]", "", "-ELBO = rate + distortion"),
        "mutual_information": ("mutual information I(x; z)", "", f"which datum a code came from{at_most}"),
        "marginal_kl": ("marginal KL(q(z) || p(z))", "", "the codes of all data against the prior"),
        "total_correlation": ("total correlation of q(z)", "", "dependence between the dimensions"),
    }
    for entry in _listed(latent, labels):
        yield from _bracket(entry) if entry.numbers.get("leave_one_out") else (entry,)


_BRACKETS = {"marginal_kl": ("marginal KL", "upper", "lower"), "total_correlation": ("total correlation", "", "")}


def _bracket(plug_in: Entry) -> Iterator[Entry]:
    """Yields both ends of a measure of the aggregate posterior, which are bounds where a theorem says so."""
    name, upper, lower = _BRACKETS[plug_in.name]
    high, low = (f", the {bound} end" if bound else "" for bound in (upper, lower))
    yield plug_in._replace(bound=upper, meaning=f"{plug_in.meaning}; plug-in{high}")
    meaning = f"each datum left out of its own mixture{low}"
    numbers = plug_in.numbers["leave_one_out"]
    yield Entry(f"{plug_in.name}_leave_one_out", f"leave-one-out, {name}", numbers, lower, meaning)


def _at_most(numbers: Mapping[str, Any]) -> str:
    return f", at most log N = {numbers['bound']:.3f}" if numbers.get("bound") is not None else ""


def _gaps(report: Report) -> Iterator[Entry]:
    gaps = report.get("gaps", {})
    reference, gap, counted = gaps.get("reference", "the reference"), gaps.get("train_test"), gaps.get("num_data")
    labels = {
        "inference": ("inference gap", "", f"{reference} - ELBO; too small if the reference is a lower bound"),
        "approximation": ("approximation gap", "", f"{reference} - the ELBO of the best q for each datum"),
        "amortisation": ("amortisation gap", "", "ELBO of the best q for each datum - ELBO"),
    }
    yield from _listed({name: {"num_data": counted, **gaps[name]} for name in labels if gaps.get(name)}, labels)
    if gap is not None:
        numbers = {name: gap.get(name) for name in ("mean", "standard_error", "monte_carlo_error")}
        yield Entry("train_test", "train - test", numbers, "", "difference of the two ELBOs below, on different data")
        for part in ("train", "test"):
            if gap.get(part) is not None:
                yield Entry(f"{part}_elbo", f"ELBO, {part} data", gap[part], "lower", "in expectation")


def _gaps_title(report: Report) -> str:
    gaps = report.get("gaps", {})
    loss = [f"what the ELBO loses, on {gaps['num_data']} test data"] if "inference" in gaps else []
    return "; and ".join((*loss, *(["training data against test data"] if "train_test" in gaps else [])))


def _classification(report: Report) -> Iterator[Entry]:
    if (classes := report.get("classification")) is None:
        return
    counts = {"num_samples": classes["num_samples"], "num_data": classes["num_data"]}
    numbers = {"mean": classes["accuracy"], "standard_error": classes["standard_error"], **counts, "unit": "share"}
    yield Entry("accuracy", "right class", numbers, "", "from bounds of log p(x|y) and the frequencies of the classes")
    if classes.get("majority_share") is not None:
        numbers = {"mean": classes["majority_share"], "num_data": classes["num_data"], "unit": "share"}
        yield Entry(
            "majority_share", "right class, by guessing", numbers, "", "always the commonest class of the training data"
        )
    if classes.get("log_p_of_true_class") is not None:
        numbers = {"mean": classes["log_p_of_true_class"], **counts}
        yield Entry("log_p_of_true_class", "log p(true class|x)", numbers, "no bound", "a ratio of bounds")


def _numbers(mean: Any, standard_error: Any, num_data: int | None, unit: str = "nats") -> dict[str, Any]:
    return {"mean": mean, "standard_error": standard_error, "num_data": num_data, "unit": unit}
