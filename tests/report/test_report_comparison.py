"""The comparison as text, Markdown, CSV and picture: it says what its numbers say, and what they leave out."""

import copy
import csv
import io
import json
import re

import matplotlib.colors
import matplotlib.image
import numpy as np
import pytest

from pyro_vae.report import palette
from pyro_vae.report.documents.comparison_document import comparison_document, comparison_notes, comparison_rows
from pyro_vae.report.draw.comparison_figure import picture
from pyro_vae.report.render import csv_file, markdown, plain_text


def estimate(mean, error=0.2, noise=0.002):
    counts = {"num_samples": 1000, "num_data": 360, "unit": "nats"}
    return {"mean": mean, "standard_error": error, "monte_carlo_error": noise, **counts}


def difference(mean, is_paired=True):
    return {
        "mean": mean,
        "standard_error": 0.05,
        "monte_carlo_error": 0.003,
        "interval": [mean - 0.11, mean + 0.12],
        "confidence": 0.95,
        "num_data": [360, 360],
        "is_paired": is_paired,
    }


def group(label, means, gap=None, *, khat=0.02, is_paired=True, **settings):
    mean = sum(means) / len(means)
    over_seeds = {"mean": gap, "standard_error": 0.03, "degrees_of_freedom": 3.4, "interval": [gap or 0 - 0.06, 0.0]}
    return {
        "label": label,
        "settings": settings,
        "runs": [f"{label}-{i}" for i in range(len(means))],
        "seeds": list(range(len(means))),
        "log_likelihood": estimate(mean),
        "elbo": estimate(mean - 0.4),
        "khat_above": khat,
        "run_means": means,
        "seed_deviation": float(np.std(means, ddof=1)) if len(means) > 1 else None,
        "difference": None if gap is None else difference(gap, is_paired),
        "difference_over_seeds": None if gap is None or len(means) == 1 else over_seeds,
    }


def comparison(*groups, disagreements=(), best=True, quantities=("log p(x)",)):
    reference = next(g["label"] for g in groups if not g["difference"])
    found = {
        "evaluation": {"num_samples": 1000, "seed": 7},
        "protocol": {"data set": "digits", "contents": "ab" * 32},
        "disagreements": list(disagreements),
        "quantities": list(quantities),
        "reference": {"label": reference, "is_best_of": len(groups) if best else None},
        "groups": list(groups),
        "runs": [
            {"name": name, "group": g["label"], "seed": i, "best_epoch": 5, "khat_above": g["khat_above"],
             "log_likelihood": estimate(g["run_means"][i]), "elbo": estimate(g["run_means"][i] - 0.4)}
            for g in groups for i, name in enumerate(g["runs"])
        ],
    }  # fmt: skip
    return {**found, "notes": comparison_notes(found)}


SEEDS = (
    group("prior=vamp", [-22.1, -22.2, -22.15], prior="vamp"),
    group("prior=standard", [-22.4, -22.5, -22.47], -0.307, prior="standard"),
)
FORCED = {"what": "quantity", "values": {"log p(x)": ["a", "b", "c", "d"], "log p(x|y)": ["e"]}}


def to_text(found):
    return plain_text.to_text(comparison_document(found))


def to_markdown(found):
    return markdown.to_markdown(comparison_document(found))


def to_csv(found):
    return csv_file.to_csv(comparison_rows(found))


def flat(text):
    return " ".join(text.split())


def line(text, start):
    return next(row for row in text.splitlines() if row.startswith(start))


def test_the_table_says_what_the_numbers_say():
    text = to_text(comparison(*SEEDS))
    assert line(text, "log p(x), nats").split()[3:] == [
        "mean", "±", "data", "difference", "±", "data", "95", "%", "interval", "k", ">", "0.7",
    ]  # fmt: skip
    assert line(text, "1 prior=vamp").split() == ["1", "prior=vamp", "-22.150", "0.200", "reference", "2.0", "%"]
    assert line(text, "2 prior=standard  ").split()[2:] == [
        "-22.457", "0.200", "-0.307", "0.050", "[-0.417,", "-0.187]", "2.0", "%",
    ]  # fmt: skip
    over_seeds = text[text.index("over training seeds") :]
    assert line(over_seeds, "1 prior=vamp").split()[2:] == ["3", "0.050", "-22.200", "-22.100", "reference"]
    assert line(over_seeds, "2 prior=standard").split()[2:8] == ["3", "0.051", "-22.500", "-22.400", "-0.307", "0.030"]
    assert line(text, "2 prior=standard-2").split()[2:] == [
        "2",
        "5",
        "-22.470",
        "0.200",
        "0.002",
        "-22.870",
        "2.0",
        "%",
    ]
    assert line(text, "prior ").split() == ["prior", "vamp", "1"]
    assert "standard  2" in text


def test_it_says_what_the_errors_leave_out():
    text = flat(to_text(comparison(*SEEDS)))
    assert "It leaves out the variance over training seeds" in text
    assert "these leave out the variance over test data" in text
    assert "K = 1000 draws and seed 7 for every run" in text
    assert "paired datum by datum" in text
    assert "at most 0.003." in text
    assert "same for all runs: data set digits; contents abababababab..." in text
    for absent in ("WARNING", "FORCED", "unpaired", "best of", "single run"):
        assert absent not in text


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (", and 6 more", '"and 6 more" in a name: 6 more settings differ.'),
        (", and 1 more", '"and 1 more" in a name: one more setting differs.'),
        ("", ""),
    ],
)
def test_settings_that_a_name_has_no_room_for_are_said_to_be_in_their_table(more, told):
    found = comparison(
        group(f"prior=vamp{more}", [-22.1], prior="vamp"),
        group(f"prior=standard{more}", [-22.4], -0.3, prior="standard"),
    )
    assert ("in a name" in flat(to_text(found))) == bool(told)
    assert f"{told} The table of settings lists them all." in flat(to_text(found)) or not told


def test_one_run_of_a_kind_is_said_to_tell_nothing_of_its_seed():
    text = flat(to_text(comparison(group("a", [-1.0]), group("b", [-2.0, -2.1], -1.05))))
    assert "The effect of the training seed is not known" in text
    assert line(to_text(comparison(group("a", [-1.0]), group("b", [-2.0, -2.1], -1.0))), "2 b  ")
    assert "over training seeds  " not in to_text(comparison(group("a", [-1.0]), group("b", [-2.0], -1.0)))


def test_the_best_of_many_is_said_to_be_flattered():
    three = [group("a", [-1.0]), group("b", [-2.0], -1.0), group("c", [-3.0], -2.0)]
    assert "The reference is the best of 3 on these same test data" in flat(to_text(comparison(*three)))
    assert "best of" not in flat(to_text(comparison(*three, best=False)))


@pytest.mark.parametrize(("shares", "warned"), [((0.02, 0.06), False), ((0.02, 0.08), True), ((0.3, 0.02), True)])
def test_bounds_of_unequal_tightness_are_warned_of(shares, warned):
    text = flat(to_text(comparison(group("a", [-1.0], khat=shares[0]), group("b", [-2.0], -1.0, khat=shares[1]))))
    assert ("WARNING: these bounds are not equally tight" in text) is warned
    if warned:
        worse, share = ("a", "30") if shares[0] > shares[1] else ("b", "8.0")
        assert f"for {share} % of the data under {worse} and for 2.0 % under" in text


def test_unknown_numbers_are_said_to_be_unknown():
    found = comparison(group("a", [-1.0], khat=None), group("b", [-2.0], -1.0, khat=None))
    found["groups"][1]["difference"] |= {"monte_carlo_error": None, "standard_error": None, "interval": None}
    found["groups"][0]["log_likelihood"] |= {"standard_error": None}
    text = to_text({**found, "notes": comparison_notes(found)})
    assert line(text, "2 b").split() == ["2", "b", "-2.000", "0.200", "-1.000", "n/a", "n/a", "n/a"]
    assert "k-hat needs 25 draws" in text
    assert "unknown, from one draw" in flat(text)
    assert read(picture(found)).shape[2] == 3


@pytest.mark.thorough
def test_what_was_forced_stands_on_top_everywhere():
    found = comparison(*SEEDS, disagreements=[FORCED], quantities=("log p(x)", "log p(x|y)"))
    text = to_text(found)
    assert text.startswith("FORCED: these runs were not tested in the same way")
    assert "quantity: log p(x) (a, b and 2 more) against log p(x|y) (e)" in flat(text)
    marked = to_markdown(found)
    assert marked.index("FORCED") < marked.index("| log p, nats |")
    assert line(text, "log p, nats")
    assert red(picture(found))[:, 0].min() < 25 < red(picture(comparison(*SEEDS)))[:, 0].min()


def test_an_unpaired_difference_is_marked_and_explained():
    found = comparison(SEEDS[0], group("b", [-23.0], -0.9, is_paired=False, prior="b"))
    text = to_text(found)
    assert "-0.900*" in line(text, "2 b")
    assert "* unpaired, since the test data are not the same" in flat(text)
    assert "paired datum by datum" not in flat(text)
    assert "\\* unpaired" in to_markdown(found)


@pytest.mark.parametrize("length", [1, 34, 90])
@pytest.mark.parametrize("scale", [1.0, 1000.0, 54321.0])
def test_no_line_is_longer_than_a_terminal(length, scale):
    labels = [f"{'x' * length}={i}" for i in range(3)]
    means, hidden = [-22.0 * scale, -21.0 * scale], [length] * 30
    rows = [group(label, means, gap, hidden=hidden) for label, gap in zip(labels, (None, -scale, scale), strict=True)]
    found = comparison(*rows, disagreements=[{"what": "files", "values": {label * 3: [label] for label in labels}}])
    text = to_text(found)
    assert max(map(len, text.splitlines())) <= 100
    assert all(re.search(rf"^{place} x", text, re.MULTILINE) for place in (1, 2, 3))


def test_markdown_has_whole_tables_and_nothing_that_marks_up():
    name = "a|b*c_d<e>`f"
    found = comparison(group(name, [-1.0]), group("b", [-2.0], -1.0), quantities=("log p(x|y)",))
    marked = to_markdown(found)
    rows = [row for row in marked.splitlines() if row.startswith("|")]
    tables = [list(map(len, map(cells, block.splitlines()))) for block in "\n".join(rows).split("\n\n")]
    assert {len(set(widths)) for widths in tables if widths} <= {1, 2}
    assert r"1 a\|b\*c\_d\<e\>\`f" in marked
    assert r"| log p(x\|y), nats | mean |" in marked
    assert "![Means and differences](comparison.png)" in marked


def test_a_small_share_is_never_said_to_be_none():
    text = to_text(comparison(group("a", [-1.0], khat=0.0), group("b", [-2.0], -1.0, khat=0.0004)))
    assert line(text, "1 a").endswith("  0 %")
    assert line(text, "2 b").endswith("  <0.1 %")


def test_nothing_steers_the_terminal_or_breaks_a_line():
    name = "a\x1b[31m\nb\u202ec"
    row = group(name, [-1.0], lr=name)
    found = comparison(row, group("b", [-2.0], -1.0, khat=0.3, lr="1"), disagreements=[FORCED | {"what": name}])
    found = {**found, "protocol": {name: name}}
    for text in (to_text(found), to_markdown(found)):
        assert all(map(str.isprintable, text.split("\n")))
    assert line(to_text(found), "1 a [31m b c").endswith("2.0 %")


def cells(row):
    return re.split(r"(?<!\\)\|", row)


def test_csv_gives_all_digits_back():
    found = comparison(SEEDS[0], group('with "quotes", and commas', [-22.4567890123], -0.3, prior="standard"))
    rows = list(csv.DictReader(io.StringIO(to_csv(found))))
    assert [row["group"] for row in rows] == ["prior=vamp", 'with "quotes", and commas']
    assert float(rows[1]["log_likelihood"]) == -22.4567890123
    assert (float(rows[1]["difference_low"]), float(rows[1]["difference_high"])) == tuple(difference(-0.3)["interval"])
    assert (rows[0]["difference"], rows[0]["is_paired"], rows[1]["is_paired"]) == ("", "", "True")
    assert (rows[0]["seeds"], rows[1]["seed_difference"]) == ("0 1 2", "")


def test_the_report_needs_nothing_but_the_json():
    found = comparison(*SEEDS, disagreements=[FORCED])
    again = json.loads(json.dumps(found))
    assert to_text(again) == to_text(found)
    assert to_csv(again) == to_csv(found)
    assert picture(again) == picture(found)


# The picture.


def read(png):
    return matplotlib.image.imread(io.BytesIO(png))[..., :3]


def red(png):
    return np.argwhere(abs(read(png) - matplotlib.colors.to_rgb(palette.RED)).sum(-1) < 0.05)


def test_the_picture_has_a_row_for_each_group_and_any_label():
    sizes = []
    for count in (1, 2, 8):
        others = [group(f"$x_{{{i}}}^$ {'y' * 60}", [-2.0 - i], -1.0 - i) for i in range(count - 1)]
        sizes.append(read(picture(comparison(group("a", [-1.0, -1.1]), *others))).shape[:2])
    assert sizes[0][0] < sizes[1][0] < sizes[2][0]
    assert {size[1] for size in sizes} == {1008}


def test_the_reference_is_red_and_stands_where_it_is():
    last = comparison(group("a", [-1.0], 1.0), group("b", [-2.0]), best=False)
    first = comparison(group("a", [-1.0]), group("b", [-2.0], -1.0))
    rows = [np.median(red(picture(found))[:, 0]) for found in (first, last)]
    assert rows[0] < rows[1]


def test_a_wider_interval_is_drawn_wider():
    def blue(interval):
        found = comparison(group("a", [-1.0]), group("b", [-2.0], -1.0))
        found["groups"][1]["difference"]["interval"] = interval
        image = read(picture(found))
        marks = np.argwhere(abs(image - matplotlib.colors.to_rgb(palette.BLUE)).sum(-1) < 0.05)
        height = image.shape[0]
        below = marks[(marks[:, 0] > 0.55 * height) & (marks[:, 0] < 0.8 * height)]  # of the differences
        return np.ptp(below[:, 1])

    assert blue([-1.4, -0.5]) > 2 * blue([-1.1, -0.95])


def with_both(found, label, low, high):
    """A copy that has the difference over data and seeds of one group."""
    found = copy.deepcopy(found)
    for each in found["groups"]:
        is_it = each["label"] == label
        both = {"mean": -0.307, "standard_error": 0.0777, "degrees_of_freedom": 4.2, "interval": [low, high]}
        each["difference_over_both"] = both if is_it else None
    found["notes"] = comparison_notes(found)
    return found


def test_the_headline_interval_is_that_over_data_and_seeds_where_there_are_several():
    found = with_both(comparison(*SEEDS), "prior=standard", -0.55, -0.06)
    text = to_text(found)
    assert "± both" in text
    main = next(line for line in text.splitlines() if line.startswith("2 prior=standard"))
    assert "0.078" in main
    assert "-0.550" in main
    alone = text[text.index("over test data only") :]
    assert "-0.417" in alone.split("over training seeds")[0]
    assert "This interval shows which kind is better" in " ".join(text.split())
    assert "†" not in text
    (row,) = [r for r in csv.DictReader(io.StringIO(csv_file.to_csv(comparison_rows(found)))) if r["both_low"]]
    assert (float(row["both_low"]), float(row["both_high"])) == (-0.55, -0.06)
    assert float(row["difference_low"]) == pytest.approx(-0.417)
    assert picture(found)


def test_a_single_seed_beside_several_is_marked():
    single = group("prior=flow", [-22.9], -0.75, prior="flow")
    text = to_text(with_both(comparison(*SEEDS, single), "prior=standard", -0.55, -0.06))
    main = next(line for line in text.splitlines() if line.startswith("3 prior=flow"))
    assert "-0.750†" in main
    assert "† over the data only, since one of the two has a single seed" in " ".join(text.split())


def test_a_comparison_of_an_older_version_is_shown_as_it_was():
    found = comparison(*SEEDS)
    assert "difference_over_both" not in found["groups"][1]
    text = to_text(found)
    assert "± both" not in text
    assert "over test data only" not in text
