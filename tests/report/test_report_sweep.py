"""The report of a sweep: ranks and errors by hand, what the text admits, what the pictures show."""

import csv
import io
import json
import math

import numpy as np
import pytest

from pyro_vae.experiment.sweep import ranking
from pyro_vae.report.documents.sweep_document import ended_run, sweep_document, sweep_rows
from pyro_vae.report.draw import sweep_figures as pictures
from pyro_vae.report.render import csv_file, plain_text

CARD = {"data set": "digits", "files": "x 00", "quantity": "log p(x|y)"}


def run(setting, seed, elbo, kl=5.0, status="trained", epoch=7):
    kept = {
        "epoch": epoch,
        "valid_elbo": elbo,
        "valid_standard_error": 0.25,
        "valid_kl": kl,
        "valid_reconstruction": elbo + kl,
    }
    return {"name": f"{setting},seed={seed}", "setting": setting, "seed": seed, "status": status, "kept": kept}


def found(settings, runs, tests=()):
    groups = ranking.ranked(settings, runs)
    return ranking.content(groups, runs, CARD, chosen=ranking.best(groups), test=tests)


def grid(**priors):
    """Two seeds of each kl_weight under each prior; prior -> kl_weight -> the mean of the ELBO."""
    settings = {f"w={w},prior={p}": {"w": w, "prior": p} for p, means in priors.items() for w in means}
    runs = [
        run(f"w={w},prior={p}", seed, mean + (seed - 0.5), kl=10 - w)
        for p, means in priors.items() for w, mean in means.items() for seed in (0, 1)
    ]  # fmt: skip
    return found(settings, runs)


GRID = grid(vamp={1.0: -21.0, 0.1: -23.0, 10.0: -25.0}, flow={1.0: -22.0, 0.1: -24.0, 10.0: -26.0})

CORNERS = found(
    {f"prior={name}": {"prior": name} for name in ("mixture", "standard")},
    [run("prior=mixture", 0, -26.17, kl=1.41), run("prior=standard", 0, -25.33, kl=2.48)],
)


def to_text(shown):
    return plain_text.to_text(sweep_document(shown, ranking.over_seeds(shown["test"])))


def to_csv(shown):
    return csv_file.to_csv(sweep_rows(shown))


def flat(text):
    return " ".join(text.split())


def test_settings_are_ranked_by_the_mean_over_seeds_with_its_standard_error():
    runs = [run("a", 0, -10.0), run("a", 1, -14.0), run("a", 2, -12.0), run("b", 0, -9.0), run("b", 1, -20.0)]
    first, second = found({"b": {}, "a": {}}, runs)["groups"]
    assert (first["name"], second["name"]) == ("a", "b")  # though the best run is one of b
    assert first["elbo"] == {"mean": -12.0, "standard_error": pytest.approx(2 / math.sqrt(3)), "runs": [-10, -14, -12]}
    assert first["rate"]["mean"] == 5.0
    assert first["distortion"]["mean"] == 7.0
    assert first["elbo"]["mean"] == -(first["rate"]["mean"] + first["distortion"]["mean"])
    assert first["data_error"] == 0.25
    assert second["elbo"]["standard_error"] == pytest.approx(5.5)


def test_a_setting_with_a_run_that_diverged_is_the_last_and_is_never_chosen():
    runs = [run("a", 0, -1.0), run("a", 1, -1.0, status="diverged"), run("b", 0, -30.0), run("b", 1, -31.0)]
    shown = found({"a": {}, "b": {}}, runs)
    assert shown["chosen"] == "b"
    assert [group["diverged"] for group in shown["groups"]] == [[], [1]]
    last = next(line for line in to_text(shown).splitlines() if line.startswith("a "))
    assert last.split() == ["a", "2", "diverged", "seeds", "1"]
    assert ranking.best(ranking.ranked({"a": {}}, runs[:2])) is None


def test_equal_settings_keep_the_order_of_the_plan():
    assert found({"b": {}, "a": {}}, [run("a", 0, -1.0), run("b", 0, -1.0)])["chosen"] == "b"


def test_one_seed_has_no_error_over_seeds_and_the_text_says_so():
    shown = found({"a": {}, "b": {}}, [run("a", 0, -1.0), run("b", 0, -2.0)])
    text = to_text(shown)
    assert next(line for line in text.splitlines() if line.startswith("a *")).split()[2:6] == [
        "1",
        "-1.000",
        "n/a",
        "0.250",
    ]
    assert "a leads b by 1.000 nats, from one seed each: it is not known whether other seeds would agree." in flat(text)


@pytest.mark.parametrize(("gap", "is_told"), [(20.0, True), (0.1, False)])
def test_the_lead_of_the_first_has_its_interval_over_seeds(gap, is_told):
    """Two seeds at mean ± 1 on both sides: Welch's error is sqrt(2) with 2 degrees of freedom, t = 4.303."""
    runs = [run("a", 0, -1.0), run("a", 1, 1.0), run("b", 0, -1.0 - gap), run("b", 1, 1.0 - gap)]
    text = flat(to_text(found({"a": {}, "b": {}}, runs)))
    low = gap - 4.30265 * math.sqrt(2)
    assert f"a leads b by {gap:.3f} ± 1.414 nats over seeds, 95 % interval [{low:.3f}, " in text
    assert ("other seeds could well choose another" in text) is not is_told


def test_the_text_fits_a_terminal_says_how_it_was_chosen_and_shows_the_test_apart():
    worth = {"mean": -20.5, "standard_error": 0.2, "monte_carlo_error": 0.01, "num_samples": 50, "num_data": 360}
    other = {**worth, "mean": -21.5}
    tests = [
        ranking.reported(
            run("a", seed, 0), {"test": {"elbo": of, "log_likelihood": of}, "likelihood": {"sigma": 0.0456789}}
        )
        for seed, of in enumerate((worth, other))
    ]
    text = to_text(found({"a": {}}, [run("a", 0, -20.0), run("a", 1, -20.2)], tests))
    assert max(map(len, text.splitlines())) <= 100
    for words in (
        "seed 0 -20.500 0.200 0.010 -20.500 0.200 50 360",
        "mean over seeds -21.000 -21.000 ± over seeds 0.500 0.500",
        "log p(x|y) ± data",
        "It chooses the setting whatever the training loss was, since losses with different weights are not comparable",
        "seed 0 sigma 0.045679",
        "same for all runs: data set digits; quantity log p(x|y)",
    ):
        assert words in flat(text)


def test_scales_of_many_columns_are_words():
    scales = {"floor": {"max": 0.06412345, "median": 0.02}, "sigma": 0.5, "learned": "one number"}
    test = {"test": {"elbo": worth(-1.0), "log_likelihood": worth(-1.0)}, "likelihood": scales}
    text = flat(to_text(found({"a": {}}, [run("a", 0, -1.0)], [ranking.reported(run("a", 0, 0), test)])))
    assert "Likelihood: seed 0 floor (max 0.064123, median 0.02); seed 0 sigma 0.5; seed 0 learned one number." in text
    assert "{" not in text


def worth(mean, **more):
    return {"mean": mean, "standard_error": 0.2, "monte_carlo_error": 0.01, "num_samples": 50, "num_data": 360, **more}


def test_of_dequantised_data_the_number_under_log_p_of_the_level_is_that():
    """The density of the data on [0, 1] is larger by the Jacobian, and no probability of anything that was measured."""
    test = {"elbo": worth(690.0), "log_likelihood": worth(700.0), "log_likelihood_of_levels": worth(-2400.0)}
    tests = [ranking.reported(run("a", seed, 0), {"test": test}) for seed in (0, 1)]
    groups = ranking.ranked({"a": {}}, [run("a", 0, 650.0), run("a", 1, 660.0)])
    shown = ranking.content(groups, [], {"quantity": "log p(level)"}, chosen="a", test=tests)
    text = flat(to_text(shown))
    assert "log p(level) ± data ± Monte Carlo ELBO, density" in text
    assert "seed 1 -2400.0 0.200 0.010 690.000" in text
    assert "mean over seeds -2400.0 690.000" in text
    assert "700" not in text
    assert "log p(level) includes the Jacobian of the levels, which adds -3100.0 nats" in text
    test = {"test": {"elbo": test["elbo"], "log_likelihood": test["elbo"]}}
    plain = ranking.content(groups, [], CARD, chosen="a", test=[ranking.reported(run("a", 0, 0), test)])
    assert "density" not in to_text(plain)
    assert "Jacobian" not in to_text(plain)


def test_a_test_that_diverged_has_no_number_and_the_seeds_no_mean():
    test = {"elbo": worth(-21.0), "log_likelihood": worth(-20.0)}
    tests = [ranking.reported(run("a", 0, 0), {"test": test}), ranking.reported(run("a", 1, 0), None)]
    text = to_text(found({"a": {}}, [run("a", 0, -20.0), run("a", 1, -20.2, status="test diverged")], tests))
    assert "seed 0 -20.000" in flat(text)
    assert "seed 1 diverged" in flat(text)
    assert "mean over seeds" not in text.split("ELBO: without loss weights")[0]
    assert ended_run(run("a", 1, -20.2, status="test diverged"), 5) == "a,seed=1: its test diverged"


def test_who_was_shown_test_data_is_what_was_found():
    settings, runs = {"a": {}, "b": {}}, [run("a", 0, -1.0), run("b", 0, -2.0)]
    assert "shown only to its runs, after the choice" in flat(to_text(found(settings, runs)))
    seen = [runs[0], {**runs[1], "reported": True}]
    assert "shown to others too, but not by the sweep: b,seed=0." in flat(to_text(found(settings, seen)))


def test_a_choice_that_would_be_another_by_now_says_so():
    runs = [run("a", 0, -1.0), run("b", 0, -2.0)]
    shown = ranking.content(ranking.ranked({"a": {}, "b": {}}, runs), runs, CARD, chosen="b")
    assert "b was chosen when it was the best of 2" in flat(to_text(shown))


def test_runs_of_several_versions_of_the_code_are_not_passed_over():
    runs = [{**run("a", seed, -1.0), "code": {"git": git, "torch": "2.9"}} for seed, git in enumerate("xyx")]
    assert "The runs were made by 2 versions of the code" in to_text(found({"a": {}}, runs))
    assert "versions of the code" not in to_text(found({"a": {}}, runs[::2]))


def test_the_table_as_csv_has_all_digits_and_a_column_for_each_flag():
    rows = list(csv.DictReader(io.StringIO(to_csv(GRID))))
    assert [(row["w"], row["prior"]) for row in rows[:2]] == [("1", "vamp"), ("1", "flow")]
    assert float(rows[0]["elbo_mean"]) == -21.0
    assert float(rows[0]["elbo_standard_error"]) == pytest.approx(0.5)
    assert rows[0]["seeds"] == "0 1"
    shown = found({"a": {"w": 1}}, [run("a", 0, -1.0, status="diverged")])
    (row,) = csv.DictReader(io.StringIO(to_csv(shown)))
    assert (row["diverged"], row["elbo_mean"]) == ("0", "")


def test_the_content_is_plain_json():
    assert json.loads(json.dumps(GRID, allow_nan=False)) == GRID


# Pictures.


@pytest.fixture
def drawn(monkeypatch):
    """The axes of each picture that is made."""
    kept, made = [], pictures.png

    def keep(figure):
        kept.append(figure.axes[0])
        return made(figure)

    monkeypatch.setattr(pictures, "png", keep)
    return kept


def curves(axes):
    """Label -> the points of its means, in the order in which a line joins them."""
    handles, labels = axes.get_legend_handles_labels()
    return {label: bars.lines[0].get_xydata().tolist() for bars, label in zip(handles, labels, strict=True)}


def test_rate_and_distortion_are_joined_in_the_order_of_the_values_under_each_prior(drawn):
    assert pictures.rate_distortion(GRID).startswith(b"\x89PNG")
    (axes,) = drawn
    assert curves(axes) == {
        "prior=flow": [[9.9, 24.0 - 9.9], [9.0, 22.0 - 9.0], [0.0, 26.0]],
        "prior=vamp": [[9.9, 23.0 - 9.9], [9.0, 21.0 - 9.0], [0.0, 25.0]],
    }
    assert {text.get_text() for text in axes.texts} >= {"0.1", "1", "10"}
    runs = np.concatenate([found.get_offsets() for found in axes.collections if len(found.get_offsets()) == 6])
    assert len(runs) == 12
    ringed = [line.get_xydata().tolist() for line in axes.lines if line.get_markersize() == 13]
    assert ringed == [[[9.0, 12.0]]]


def test_along_a_level_the_elbo_is_what_its_label_says(drawn):
    pictures.rate_distortion(GRID)
    (axes,) = drawn
    levels = {round(sum(line.get_xydata()[0]), 6) for line in axes.lines if line.get_zorder() == 0}
    sums = {round(sum(point), 6) for line in axes.lines if line.get_zorder() == 0 for point in line.get_xydata()}
    assert levels == sums
    assert {f"\N{MINUS SIGN}{level:g}" for level in levels} <= {text.get_text() for text in axes.texts}


def test_the_curve_has_the_values_on_a_logarithmic_axis_where_they_span_a_decade(drawn):
    assert pictures.curve(GRID).startswith(b"\x89PNG")
    assert pictures.curve(grid(vamp={1: -21.0, 2: -23.0})).startswith(b"\x89PNG")
    logarithmic, linear = drawn
    assert (logarithmic.get_xscale(), linear.get_xscale()) == ("log", "linear")
    assert (logarithmic.get_xlabel(), logarithmic.get_ylabel()) == ("w", "validation ELBO, nats per datum")
    assert curves(logarithmic)["prior=vamp"] == [[0.1, -23.0], [1.0, -21.0], [10.0, -25.0]]
    (bars, _) = logarithmic.get_legend_handles_labels()[0]
    (segments,) = [found.get_segments() for found in bars.lines[2] if np.ptp(found.get_segments()[0][:, 1])]
    assert np.ptp(segments[0][:, 1]) == pytest.approx(2 * 0.5)  # two seeds at mean ± 0.5: 0.5 on each side


def test_there_is_no_curve_without_numbers_and_a_picture_of_nothing_is_a_picture():
    words = found({"p=a": {"p": "a"}, "p=b": {"p": "b"}}, [run("p=a", 0, -1.0), run("p=b", 0, -2.0)])
    assert pictures.curve(words) is None
    assert pictures.curve(found({"w=1": {"w": 1}}, [run("w=1", 0, -1.0)])) is None
    nothing = found({"w=1": {"w": 1}}, [run("w=1", 0, -1.0, status="diverged")])
    assert pictures.rate_distortion(nothing).startswith(b"\x89PNG")


@pytest.mark.thorough
def test_the_pictures_are_the_same_bytes_again():
    assert pictures.rate_distortion(GRID) == pictures.rate_distortion(GRID)
