"""Presets: settings that build, numbers with a source, and verdicts that say what was changed."""

import math
from dataclasses import asdict, replace

import pytest
from finished import make_run

from pyro_vae.cli.parser import config_from, config_parser, given_flags
from pyro_vae.data import Form
from pyro_vae.errors import UsageError
from pyro_vae.experiment import build, presets
from pyro_vae.experiment.config import Config
from pyro_vae.experiment.evaluate.evaluation_plan import Plan
from pyro_vae.experiment.evaluate.measurements import evaluate
from pyro_vae.experiment.run import files
from pyro_vae.experiment.run.changes_on_resume import config_for_resume
from pyro_vae.report.documents.training_document import preset_sentence

pytestmark = pytest.mark.usefixtures("sketched")

NAMES = presets.names()
FORMS = {"frey_faces": Form((1, 28, 20), 256, 0)}


def config_of(name, **changes):
    return replace(Config(preset=name, **presets.preset(name).settings), **changes)


def estimated(mean, quantity="log_likelihood", num_samples=5000):
    return {quantity: {"mean": mean, "standard_error": 0.25, "num_samples": num_samples}}


@pytest.mark.parametrize("name", NAMES)
def test_every_preset_can_be_built_and_names_its_source(name):
    config, target = config_of(name), presets.preset(name).target
    build.check_names(config)
    assert build.num_described(config, *FORMS.get(config.dataset, Form((1, 28, 28), 256, 10))) > 1e5
    assert target.quantity in ("log_likelihood", "elbo")
    assert target.unit in ("nats", "bits/dim")
    assert target.tolerance >= 0
    assert math.isfinite(target.value)
    assert min(len(target.source), len(target.protocol)) > 20
    assert build.unused(config) == []


@pytest.mark.parametrize("line", [["--preset", "iwae_1l_k5", "--epochs", "7"], ["--epochs=7", "--preset=iwae_1l_k5"]])
def test_a_flag_changes_a_preset_wherever_it_stands(line):
    parser = config_parser("train", "A test.")
    assert config_from(parser.parse_args(line)) == config_of("iwae_1l_k5", epochs=7)
    assert given_flags(parser, line) == {"preset", "epochs"}


def test_a_preset_in_a_config_file_brings_its_settings_and_those_of_the_file_change_them(tmp_path):
    (tmp_path / "flags.yaml").write_text("preset: iwae_1l_k5\nepochs: 7\n")
    parser, line = config_parser("train", "A test."), ["--config", str(tmp_path / "flags.yaml")]
    assert config_from(parser.parse_args(line)) == config_of("iwae_1l_k5", epochs=7)
    assert config_from(parser.parse_args([*line, "--epochs", "9"])) == config_of("iwae_1l_k5", epochs=9)
    assert given_flags(parser, line) == {"preset", "epochs"}


def test_a_preset_after_a_config_file_takes_the_place_of_its_own(tmp_path):
    (tmp_path / "flags.yaml").write_text("preset: iwae_1l_k5\nepochs: 7\n")
    line = ["--config", str(tmp_path / "flags.yaml"), "--preset", "vamp_dynamic_mnist"]
    found = config_from(config_parser("train", "A test.").parse_args(line))
    assert found == config_of("vamp_dynamic_mnist", epochs=7)


def test_the_printed_config_has_the_settings_of_a_preset(tmp_path, capsys):
    parser = config_parser("train", "A test.")
    with pytest.raises(SystemExit):
        parser.parse_args(["--preset", "iwae_1l_k5", "--epochs", "7", "--print_config"])
    (tmp_path / "flags.yaml").write_text(capsys.readouterr().out)
    found = config_from(parser.parse_args(["--config", str(tmp_path / "flags.yaml")]))
    assert found == config_of("iwae_1l_k5", epochs=7)


@pytest.mark.parametrize("second", [["--preset", "gated_dynamic_mnist"], ["--preset=vamp_static_mnist"]])
def test_a_second_preset_is_refused(second, capsys):
    with pytest.raises(SystemExit) as end:
        config_parser("train", "A test.").parse_args(["--epochs", "7", "--preset", "vamp_static_mnist", *second])
    assert end.value.code == 2
    assert capsys.readouterr().err.startswith("error: --preset is given twice: leave one out (")


def test_a_run_of_a_changed_preset_goes_on_with_its_own_settings(tmp_path):
    saved = config_of("gated_static_mnist", epochs=20, test_samples=7)
    (tmp_path / "config.json").write_bytes(files.to_json(saved.to_dict()))
    parser = config_parser("train", "A test.")

    def resumed(*line):
        wanted = config_from(parser.parse_args(["--preset", "gated_static_mnist", *line]))
        return config_for_resume(tmp_path, wanted, given_flags(parser, ["--preset", "gated_static_mnist", *line]))

    assert resumed() == saved
    assert resumed("--test-samples", "5000") == replace(saved, test_samples=5000)
    with pytest.raises(UsageError, match=r"was started with epochs=20, not 100, .* Leave `epochs` out$"):
        resumed("--epochs", "100")


@pytest.mark.parametrize("in_file", [False, True])
def test_an_unknown_preset_is_answered_with_the_nearest(in_file, tmp_path, capsys):
    (tmp_path / "flags.yaml").write_text("preset: iwae_1l_k6\n")
    line = ["--config", str(tmp_path / "flags.yaml")] if in_file else ["--preset", "iwae_1l_k6"]
    with pytest.raises(SystemExit) as end:
        config_parser("train", "A test.").parse_args(line)
    assert end.value.code == 2
    assert "unknown preset 'iwae_1l_k6'; did you mean 'iwae_1l_k5'?" in capsys.readouterr().err
    with pytest.raises(UsageError, match="did you mean 'vamp_static_mnist'"):
        presets.preset("vamp_static")


@pytest.mark.parametrize(
    ("result", "verdict", "shortfall"), [(-85.4, "reached", 0.95), (-84.0, "reached", -0.45), (-85.5, "missed", 1.05)]
)
def test_a_result_within_the_tolerance_is_reached(result, verdict, shortfall):
    found = presets.verdict(config_of("gated_dynamic_mnist", seed=3), estimated(result), 784)
    assert (found["verdict"], found["changed"]) == (verdict, {})
    assert found["shortfall"] == pytest.approx(shortfall)
    assert (found["target"], found["result"], found["standard_error"]) == (-84.45, result, 0.25)


def test_changed_settings_make_a_number_incomparable_and_are_named():
    found = presets.verdict(config_of("gated_dynamic_mnist", epochs=2, hidden=(8,)), estimated(-84.0), 784)
    assert (found["verdict"], found["changed"]) == ("not comparable", {"epochs": 2, "hidden": [8]})
    assert "not comparable (changed: hidden=[8], epochs=2)" in preset_sentence(found)


@pytest.mark.parametrize("num_samples", [50, 1_000_000])
def test_draws_that_are_not_those_of_the_preset_make_a_number_incomparable(num_samples):
    found = presets.verdict(config_of("gated_dynamic_mnist"), estimated(-84.0, num_samples=num_samples), 784)
    assert (found["verdict"], found["changed"]) == ("not comparable", {"test_samples": num_samples})
    nats = estimated(-560 * 4.5 * math.log(2), "elbo", num_samples)
    found = presets.verdict(config_of("categorical_frey_faces"), nats, 560)
    assert (found["verdict"], found["changed"]) == ("not comparable", {"elbo_samples": num_samples})


@pytest.mark.parametrize("settings", [{"test_samples": 100_000}, {"test_samples": 7}, {"elbo_samples": 200}])
def test_draws_are_counted_in_the_result_and_those_of_another_quantity_are_not(settings):
    found = presets.verdict(config_of("gated_dynamic_mnist", **settings), estimated(-84.0), 784)
    assert (found["verdict"], found["changed"]) == ("reached", {})
    nats = estimated(-560 * 4.5 * math.log(2), "elbo", 100)
    assert presets.verdict(config_of("categorical_frey_faces", test_samples=7), nats, 560)["verdict"] == "reached"


def test_fewer_test_data_make_a_number_incomparable():
    found = presets.verdict(config_of("gated_dynamic_mnist"), estimated(-84.0), 784, {"test_data": 100})
    assert (found["verdict"], found["changed"]) == ("not comparable", {"test_data": 100})


def test_a_report_says_what_it_did_otherwise_than_its_preset(tmp_path, monkeypatch):
    target = presets.Target("log_likelihood", -10.0, 1.0, "a paper, table 1", "as there")
    trained = make_run(tmp_path, epochs=2, test_samples=20)
    same = presets.Preset("small", asdict(trained.config), target)
    monkeypatch.setattr(presets, "preset", lambda name: same)
    monkeypatch.setattr(trained.run, "config", replace(trained.config, preset="small"))
    plan = Plan(annealed_data=0, posterior_draws=0, num_samples=20, latent_data=10, escalated_draws=0)

    def changed(**otherwise):
        return evaluate(trained, replace(plan, **otherwise)).report["preset"]["changed"]

    assert changed() == {}
    assert changed(num_samples=10, test_data=5) == {"test_samples": 10, "test_data": 5}
    assert changed(num_samples=40, elbo_samples=3) == {"test_samples": 40}
    monkeypatch.setattr(trained.run, "config", replace(trained.config, test_data=5, preset="small"))
    assert changed() == {"test_data": 5}
    assert changed(test_data=0) == {}
    monkeypatch.setattr(trained.run, "config", replace(trained.config, epochs=3, test_data=0))
    assert changed() == {"epochs": 2}


@pytest.mark.parametrize("name", ["data_dir", "device", "seed", "compile", "download"])
def test_where_a_run_is_made_changes_no_verdict(name):
    other = {"data_dir": "x", "device": "meta", "seed": 5, "compile": "no", "download": True}
    found = presets.verdict(config_of("gated_dynamic_mnist", **{name: other[name]}), estimated(-84.0), 784)
    assert found["verdict"] == "reached"


def test_bits_per_dimension_count_down():
    # 560 pixels at 4.6 bits each are 560 * 4.6 * log 2 nats; 4.53 was published.
    nats = -560 * 4.6 * math.log(2)
    found = presets.verdict(config_of("categorical_frey_faces"), estimated(nats, "elbo"), 560)
    assert found["result"] == pytest.approx(4.6)
    assert found["shortfall"] == pytest.approx(4.6 - 4.53)
    assert found["standard_error"] == pytest.approx(0.25 / (560 * math.log(2)))
    assert "published ELBO 4.53 bits/dim" in preset_sentence(found)
    better = presets.verdict(config_of("categorical_frey_faces"), estimated(-560 * 4.5 * math.log(2), "elbo"), 560)
    assert better["shortfall"] == pytest.approx(-0.03)


def started(name, *earlier, epochs=None, **changes):
    config = config_of(name, **changes)
    record = {"run": f"runs/{name}", "config": config.to_dict(), "epochs": config.epochs if epochs is None else epochs}
    return [record, *earlier]


@pytest.mark.parametrize(
    ("lineage", "named"),
    [
        (started("iwae_1l_k5"), None),
        (started("iwae_1l_k5", seed=4), None),
        ([], "random weights"),
        (started("iwae_1l_k1"), "runs/iwae_1l_k1"),
        (started("iwae_1l_k5", lr=0.5), "runs/iwae_1l_k5"),
        (started("iwae_1l_k5", epochs=1), "runs/iwae_1l_k5"),
        (started("iwae_1l_k5", *started("gated_dynamic_mnist")), "runs/iwae_1l_k5"),
    ],
)
def test_weights_other_than_those_of_the_named_preset_are_a_change(lineage, named):
    assert presets.other_start("iwae_1l_k50", lineage) == ({} if named is None else {"start_from": named})
    assert presets.other_start("", lineage) == {}


def test_over_seeds_the_mean_is_judged_and_the_spread_is_said():
    results = [-85.3, -85.5, -85.6]  # the last two alone would miss
    runs = [
        presets.verdict(config_of("gated_dynamic_mnist", seed=seed), estimated(result), 784)
        for seed, result in enumerate(results)
    ]
    found = presets.over_seeds(runs)
    assert [run["verdict"] for run in runs] == ["reached", "missed", "missed"]
    assert (found["result"], found["verdict"], found["seeds"]) == (pytest.approx(-85.4667, abs=1e-4), "missed", 3)
    assert found["shortfall"] == pytest.approx(85.4667 - 84.45, abs=1e-4)
    assert found["seed_deviation"] == pytest.approx(0.152753, abs=1e-6)
    assert ", K = 5000, mean of 3 training seeds with SD 0.15, which is 1.02 nats worse: " in preset_sentence(found)
    assert presets.over_seeds(runs[:2])["verdict"] == "reached"


def test_over_seeds_what_one_run_changed_is_changed_and_two_presets_have_no_verdict():
    one, other = (
        presets.verdict(config_of("gated_dynamic_mnist", **c), estimated(-85.0), 784) for c in ({}, {"lr": 1.0})
    )
    found = presets.over_seeds([one, other])
    assert (found["verdict"], found["changed"]) == ("not comparable", {"lr": 1.0})
    of_another = presets.verdict(config_of("vamp_dynamic_mnist"), estimated(-85.0), 784)
    assert presets.over_seeds([one, of_another]) is presets.over_seeds([one, None]) is None


def test_without_a_preset_there_is_no_verdict():
    assert presets.verdict(Config(), estimated(-84.0), 784) is None


def test_a_preset_about_another_quantity_is_refused():
    with pytest.raises(UsageError, match="needs log_likelihood, which this program does not have"):
        presets.verdict(config_of("iwae_1l_k1"), {"reconstruction": {"mean": -3.0}}, 784)
