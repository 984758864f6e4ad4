"""Several groups of runs side by side: what comparison.json holds, as text, as Markdown and as CSV."""

import csv
import io
import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from pyro_vae.evaluation.trust.diagnostics import KHAT_THRESHOLD
from pyro_vae.report.render.texts import WIDTH, markdown, markdown_rows
from pyro_vae.report.tables import Table, cell, clean, number, share

FORCED = "FORCED: these runs were not tested alike, and their numbers do not compare as they stand."
_UNEQUAL = 0.05  # shares of k-hat above 0.7 that far apart: many more data whose bound is loose in one than in another
_NARROWEST = 12  # that the first column of a table becomes to fit into 100 columns
_LONGEST = 40
_UNKNOWN = "n/a"


def notes(found: Mapping[str, Any]) -> list[str]:
    """What a reader must know of the numbers: what each error leaves out, and where bounds are not equally tight.

    Args:
        found: the content of comparison.json, but for its notes.
    """
    groups, reference = found["groups"], found["reference"]
    differences = [group["difference"] for group in groups if group["difference"]]
    given = [*_bound_note(found), *_tightness_note(groups)]
    if differences:
        given += _difference_notes(differences, reference)
    return [*given, *_seed_notes(groups)]


def to_text(found: Mapping[str, Any]) -> str:
    """The comparison for a terminal of 100 columns; what was forced stands on top."""
    found = _cleaned(found)
    blocks = [_forced(found), _aligned(_main(found))]
    blocks += [_aligned(table) for table in _more(found)]
    blocks.append("\n".join(textwrap.fill(note, WIDTH, subsequent_indent="  ") for note in found["notes"]))
    blocks.append("\n".join(_protocol_lines(found)))
    return "\n\n".join(block for block in blocks if block)


def to_markdown(found: Mapping[str, Any]) -> str:
    """The same as Markdown."""
    found = _cleaned(found)
    forced = "\n".join(f"> {markdown(line)}  " for line in _forced(found).splitlines())
    blocks = ["# Comparison", forced, "![Means and differences](comparison.png)"]
    blocks += [markdown_rows(table.header, table.rows, _right(table)) for table in (_main(found), *_more(found))]
    blocks += ["\n".join(f"- {markdown(note)}" for note in found["notes"])]
    blocks += ["## Protocol", "\n".join(f"- {markdown(line)}" for line in _protocol_lines(found))]
    return "\n\n".join(block for block in blocks if block)


def to_csv(found: Mapping[str, Any]) -> str:
    """One row for each group, all digits; empty where there is no number."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    rows = [_flat(group, found) for group in found["groups"]]
    writer.writerow(rows[0])
    writer.writerows(map(cell, row.values()) for row in rows)
    return text.getvalue()


def plain(value: Any) -> str:
    """A setting as one types it.

    >>> plain([256, 256]), plain(True), plain(0.001), plain("vamp")
    ('256,256', 'true', '0.001', 'vamp')
    """
    if isinstance(value, list | tuple):
        return ",".join(map(plain, value))
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)


def against(values: Mapping[str, Sequence[str]]) -> str:
    """On what runs disagree: each value with the names of the runs that have it, digests shortened.

    >>> against({"dynamic": ["a", "b"], "static": ["c"]})
    'dynamic (a, b) against static (c)'
    """
    return " against ".join(f"{_shortened(value)} ({_some(names)})" for value, names in values.items())


def _main(found: Mapping[str, Any]) -> Table:
    quantities = found["quantities"]
    name = f"{quantities[0] if len(quantities) == 1 else 'log p'}, nats"
    head = (name, "mean", "± data", "difference", "± data", interval_head(found), f"k > {KHAT_THRESHOLD}")
    rows = tuple(_main_row(i, group) for i, group in enumerate(found["groups"], 1))
    return Table("main", "", head, rows)


def interval_head(found: Mapping[str, Any]) -> str:
    """Of the intervals, e.g. "95 % interval"."""
    confidences = [group["difference"]["confidence"] for group in found["groups"] if group["difference"]]
    return f"{confidences[0] * 100:g} % interval" if confidences else "interval"


def _main_row(place: int, group: Mapping[str, Any]) -> tuple[str, ...]:
    mean, difference = group["log_likelihood"], group["difference"]
    cells = ("reference", "", "")
    if difference:
        mark = "" if difference["is_paired"] else "*"
        cells = (f"{_signed(difference['mean'])}{mark}", _number(difference["standard_error"]), _interval(difference))
    return (
        f"{place} {clipped(group['label'])}",
        _number(mean["mean"]),
        _number(mean["standard_error"]),
        *cells,
        share(group["khat_above"]),
    )


def _more(found: Mapping[str, Any]) -> list[Table]:
    tables = [_seed_table(found), _run_table(found), _settings_table(found["groups"])]
    return [table for table in tables if table.rows]


def _seed_table(found: Mapping[str, Any]) -> Table:
    head = ("over training seeds", "seeds", "SD", "lowest", "highest", "difference", "± seeds", interval_head(found))
    rows = (_seed_row(i, group) for i, group in enumerate(found["groups"], 1) if len(group["seeds"]) > 1)
    return Table("seeds", "", head, tuple(rows))


def _seed_row(place: int, group: Mapping[str, Any]) -> tuple[str, ...]:
    means, welch = group["run_means"], group["difference_over_seeds"]
    cells = (_UNKNOWN if group["difference"] else "reference", "", "")
    if welch:
        cells = (_signed(welch["mean"]), _number(welch["standard_error"]), _interval(welch))
    spread = (str(len(means)), *map(_number, (group["seed_deviation"], min(means), max(means))))
    return (f"{place} {clipped(group['label'])}", *spread, *cells)


def _run_table(found: Mapping[str, Any]) -> Table:
    places = {group["label"]: place for place, group in enumerate(found["groups"], 1)}
    head = ("run", "seed", "epoch", "mean", "± data", "± Monte Carlo", "ELBO", f"k > {KHAT_THRESHOLD}")
    rows = [
        (
            f"{places[run['group']]} {clipped(run['name'])}",
            str(run["seed"]),
            str(run["best_epoch"]),
            *(_number(run["log_likelihood"][name]) for name in ("mean", "standard_error", "monte_carlo_error")),
            _number(run["elbo"]["mean"]),
            share(run["khat_above"]),
        )
        for run in found["runs"]
    ]
    return Table("runs", "", head, tuple(rows))


def _settings_table(groups: Sequence[Mapping[str, Any]]) -> Table:
    rows = []
    for name in groups[0]["settings"]:
        values: dict[str, list[str]] = {}
        for place, group in enumerate(groups, 1):
            values.setdefault(plain(group["settings"][name]), []).append(str(place))
        lines = [(clipped(value), ", ".join(places)) for value, places in values.items()]
        rows += [(name if i == 0 else "", *line) for i, line in enumerate(lines)]
    return Table("settings", "", ("settings that differ", "value", "groups"), tuple(rows))


def _forced(found: Mapping[str, Any]) -> str:
    if not found["disagreements"]:
        return ""
    lines = [f"  {line['what']}: {against(line['values'])}" for line in found["disagreements"]]
    return "\n".join([FORCED, *(textwrap.fill(line, WIDTH, subsequent_indent="    ") for line in lines)])


def _bound_note(found: Mapping[str, Any]) -> list[str]:
    quantity, evaluation = " and ".join(found["quantities"]), found["evaluation"]
    return [
        f"{quantity}: by importance sampling from q(z|x), a lower bound in expectation, with K = "
        f"{evaluation['num_samples']} draws and seed {evaluation['seed']} for every run. ± data: standard error of the "
        "mean over other test data; ± Monte Carlo: over other draws of z. ELBO: from the same draws, its KL sampled."
    ]


def _tightness_note(groups: Sequence[Mapping[str, Any]]) -> list[str]:
    shares = {group["label"]: group["khat_above"] for group in groups if group["khat_above"] is not None}
    if not shares:
        return ["PSIS k-hat needs 25 draws or more; with fewer nobody knows how tight these bounds are."]
    worst, best = max(shares, key=shares.__getitem__), min(shares, key=shares.__getitem__)
    meaning = (
        f"k > {KHAT_THRESHOLD}: share of the data whose PSIS k-hat lies above {KHAT_THRESHOLD}, where the bound may be "
        "loose and its ± Monte Carlo too small."
    )
    if shares[worst] - shares[best] <= _UNEQUAL:
        return [meaning]
    return [
        meaning,
        f"WARNING: bounds of unequal tightness are compared. k-hat is above {KHAT_THRESHOLD} for "
        f"{share(shares[worst])} of the data under {worst} and for {share(shares[best])} under {best}, so "
        "that the former's log p(x) may be understated by more: see whether the difference stays with more draws "
        "(--num-samples).",
    ]


def _difference_notes(differences: Sequence[Mapping[str, Any]], reference: Mapping[str, Any]) -> list[str]:
    first, noises = differences[0], [difference["monte_carlo_error"] for difference in differences]
    noise = "unknown, from one draw" if None in noises else f"at most {max(noises):.3f}"
    pairing = ", paired datum by datum" if any(difference["is_paired"] for difference in differences) else ""
    given = [
        f"difference: to {reference['label']}{pairing}; {first['confidence'] * 100:g} % interval by the BCa bootstrap "
        "over the data, for one difference at a time. It leaves out the variance over training seeds: it holds for "
        f"these trained programs. The Monte Carlo error of the differences is {noise}."
    ]
    if (reference["is_best_of"] or 0) > 2:
        given.append(
            f"The reference is the best of {reference['is_best_of']} on these very test data, which flatters it a "
            "little; --reference names another."
        )
    if not all(difference["is_paired"] for difference in differences):
        given.append(
            "* unpaired, since the test data are not the same: the standard error is that of two independent means, "
            "the interval from the bootstrap over both sets of data; a part of the difference is one of the data."
        )
    return given


def _seed_notes(groups: Sequence[Mapping[str, Any]]) -> list[str]:
    given = []
    if any(len(group["seeds"]) > 1 for group in groups):
        given.append(
            "Runs that differ only in their seed are pooled: the mean over seeds of each datum. SD, lowest, highest: "
            "of the means of the runs."
        )
    if any(group["difference_over_seeds"] for group in groups):
        given.append(
            "± seeds: standard error of the difference of the means over other training seeds, and its interval by "
            "Welch's t; these leave out the variance over test data."
        )
    if any(len(group["seeds"]) == 1 for group in groups):
        given.append("What a single run of a kind owes to its training seed is not known: train it from other seeds.")
    return given


def _protocol_lines(found: Mapping[str, Any]) -> list[str]:
    text = "; ".join(f"{label} {_shortened(value)}" for label, value in found["protocol"].items())
    return textwrap.wrap(f"tested alike: {text}", WIDTH, subsequent_indent="  ", break_on_hyphens=False)


def _aligned(table: Table) -> str:
    columns, right = list(zip(table.header, *table.rows, strict=True)), _right(table)
    widths = [max(map(len, column)) for column in columns]
    widths[0] = max(min(widths[0], _NARROWEST), min(widths[0], WIDTH - sum(widths[1:]) - 2 * len(widths) + 2))
    lines = []
    for first, *others in (table.header, *table.rows):
        cells = zip((clipped(first, widths[0]), *others), widths, range(len(widths)), strict=True)
        lines.append("  ".join(f"{cell:{'>' if i in right else '<'}{width}}" for cell, width, i in cells).rstrip())
    return "\n".join(lines)


def _right(table: Table) -> range:
    """The columns of numbers, flush right; settings are words."""
    return range(len(table.header) if table.name == "settings" else 1, len(table.header))


def _cleaned(found: Any) -> Any:
    if isinstance(found, Mapping):
        return {_cleaned(name): _cleaned(value) for name, value in found.items()}
    if isinstance(found, list | tuple):
        return [*map(_cleaned, found)]
    return clean(found) if isinstance(found, str) else found


def _flat(group: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, Any]:
    mean, difference, seeds = group["log_likelihood"], group["difference"] or {}, group["difference_over_seeds"] or {}
    low, high = difference.get("interval") or (None, None)
    seed_low, seed_high = seeds.get("interval") or (None, None)
    return {
        "group": group["label"],
        "runs": " ".join(group["runs"]),
        "seeds": " ".join(map(str, group["seeds"])),
        "num_samples": mean["num_samples"],
        "num_data": mean["num_data"],
        "log_likelihood": mean["mean"],
        "standard_error": mean["standard_error"],
        "monte_carlo_error": mean["monte_carlo_error"],
        "seed_deviation": group["seed_deviation"],
        "elbo": group["elbo"]["mean"],
        "khat_above": group["khat_above"],
        "reference": found["reference"]["label"],
        "difference": difference.get("mean"),
        "difference_standard_error": difference.get("standard_error"),
        "difference_monte_carlo_error": difference.get("monte_carlo_error"),
        "difference_low": low,
        "difference_high": high,
        "is_paired": difference.get("is_paired"),
        "seed_difference": seeds.get("mean"),
        "seed_difference_standard_error": seeds.get("standard_error"),
        "seed_difference_low": seed_low,
        "seed_difference_high": seed_high,
    }


def _number(value: float | None) -> str:
    return number(value, _decimals(value or 0.0))


def _signed(value: float) -> str:
    return f"{value:+.{_decimals(value)}f}"


def _decimals(value: float) -> int:
    return 3 if abs(value) < 1000 else 1


def _interval(numbers: Mapping[str, Any]) -> str:
    ends = numbers["interval"]
    return f"[{_signed(ends[0])}, {_signed(ends[1])}]" if ends else _UNKNOWN


def clipped(text: str, width: int = _LONGEST) -> str:
    """At most so many characters of it: the middle goes, since paths differ at their ends.

    >>> clipped("runs/2026/standard-0", 11)
    'runs...rd-0'
    """
    if len(text) <= width:
        return text
    kept = (width - 3) // 2
    return f"{text[: width - 3 - kept]}...{text[-kept:]}"


def _shortened(text: str) -> str:
    return re.sub(r"\b([0-9a-f]{12})[0-9a-f]{52}\b", r"\1...", text)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 3 else f"{', '.join(names[:2])} and {len(names) - 2} more"
