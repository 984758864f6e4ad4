"""The evaluation of a run: every number is that of the free function on the data that the plan names."""

import json
import math
import re
import shutil
from dataclasses import replace

import pytest
import torch
from cases import thorough
from finished import content, finished_run, images
from shortened import quick_evaluations

import pyro_vae as pv
from pyro_vae.errors import DivergenceError, UsageError
from pyro_vae.evaluation import subset
from pyro_vae.evaluation.trust import arviz_adapter
from pyro_vae.experiment.compare.comparable_runs import candidates
from pyro_vae.experiment.evaluate import report_files
from pyro_vae.experiment.evaluate.evaluation_plan import Plan
from pyro_vae.experiment.evaluate.measurements import Look, evaluate
from pyro_vae.experiment.run import files
from pyro_vae.experiment.run.trained_run import open_run
from pyro_vae.experiment.train import training_report
from pyro_vae.inference import Progress
from pyro_vae.randomness import MOST_SAMPLES, derive

QUICK = Plan(
    elbo_samples=20,
    num_samples=60,
    annealed_data=6,
    num_temperatures=4,
    num_chains=3,
    latent_data=20,
    latent_samples=2,
    posterior_draws=0,
    escalated_draws=3_000,
)


@pytest.fixture(scope="module", autouse=True)
def quick():
    with pytest.MonkeyPatch.context() as patch:
        quick_evaluations(patch)
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Runs made once a module, by their settings."""
    folder, made = tmp_path_factory.mktemp("runs"), {}

    def find(**settings):
        key = repr(sorted(settings.items()))
        if key not in made:
            made[key] = finished_run(folder / str(len(made)), images(folder / "images.npz"), **settings)
        return open_run(made[key])

    return find


def look_at(trained, **changes):
    return evaluate(trained, replace(QUICK, **changes))


class TestNumbers:
    def test_the_headline_is_that_of_the_training_report(self, run, tmp_path):
        trained = run(test_samples=60, elbo_samples=20)
        at_training = Progress(epoch=trained.epochs, best_epoch=trained.best_epoch)
        old = trained.run.path
        trained.run.path = tmp_path  # the report goes elsewhere
        (tmp_path / "history.jsonl").write_bytes((old / "history.jsonl").read_bytes())
        training_report.write(trained.run, trained.vae, trained.data, at_training)
        trained.run.path = old
        before, after = json.loads((tmp_path / "report.json").read_bytes()), look_at(trained).report
        assert set(before) <= set(after)
        for name, numbers in before["test"].items():
            for key, value in numbers.items():
                assert after["test"][name][key] == (pytest.approx(value, rel=1e-12) if type(value) is float else value)

    def test_every_section_is_its_free_function(self, run):
        trained = run(latent_dim=2)
        found, vae, x, seed = look_at(trained).report, trained.vae, trained.test().x, derive(0, "evaluation")
        curve = pv.evaluation.iwae_curve(vae, x, 60, None, seed)
        assert found["curve"] == [bound.to_dict() for bound in curve.bounds.values()]
        assert found["jackknife"] == curve.jackknife.to_dict()
        assert found["khat"]["values"] == curve.khat.tolist()
        assert found["khat"]["ess"] == curve.effective.tolist()
        assert found["khat"]["worst"][0]["datum"] == int(curve.khat.argmax())
        chosen = subset(len(x), 6, 0)
        rows = {row["name"]: row for row in found["reference"]["rows"]}
        assert list(rows) == ["ELBO", "IWAE", "AIS", "grid"]
        assert rows["AIS"]["mean"] == pv.evaluation.ais(vae, x[chosen], 4, 3, None, seed).mean
        assert rows["grid"]["mean"] == pv.evaluation.quadrature(vae, x[chosen]).mean
        assert rows["IWAE"]["mean"] == curve.bounds[60].value[chosen].mean().item()
        gain = found["reference"]["differences"][1]
        assert gain["label"] == "AIS - IWAE"
        assert gain["mean"] == pytest.approx(rows["AIS"]["mean"] - rows["IWAE"]["mean"], abs=1e-12)
        simulated = pv.evaluation.bdmc(vae, 6, 4, 3, None, derive(seed, "simulated"))
        assert (found["simulated"]["gap"], found["simulated"]["forward"]) == (
            simulated.gap,
            simulated.forward.to_dict(),
        )
        train = trained.training(20)
        terms = pv.evaluation.aggregate_terms(vae, train.x, 2, None, seed)
        assert found["latent"]["marginal_kl"] == terms.marginal_kl.to_dict()
        assert (
            found["latent"]["active"]["z"]["variance"]
            == pv.evaluation.active_units(vae, train.x).variance["z"].tolist()
        )
        gaps = found["gaps"]
        parts = [gaps[name]["mean"] for name in ("inference", "approximation", "amortisation")]
        assert parts[0] == pytest.approx(parts[1] + parts[2], abs=1e-9)
        assert gaps["reference"].startswith("grid, n^D = ")
        assert found["posterior"]["method"] == "grid"

    @pytest.mark.thorough
    def test_above_three_dimensions_there_is_no_grid_and_nuts_draws_the_posterior(self, run):
        look = look_at(run(latent_dim=4), posterior_draws=20)
        assert [row["name"] for row in look.report["reference"]["rows"]] == ["ELBO", "IWAE", "AIS"]
        assert look.report["posterior"]["method"] == "NUTS"
        assert look.report["posterior"]["num_draws"] == 20
        assert look.report["posterior"]["datum"] == int(look.curve.khat.argsort(stable=True)[8])

    def test_what_is_switched_off_is_not_there(self, run):
        found = look_at(run(latent_dim=4), annealed_data=0).report
        assert not {"reference", "simulated", "posterior"} & set(found)
        assert set(found["gaps"]) == {"train_test"}

    def test_another_evaluation_seed_draws_anew(self, run):
        trained = run(latent_dim=4)
        first, again, other = (look_at(trained, annealed_data=0, evaluation_seed=s).report["curve"] for s in (0, 0, 1))
        assert first == again
        assert first[-1]["mean"] != other[-1]["mean"]
        error = max(first[-1]["monte_carlo_error"], other[-1]["monte_carlo_error"])
        assert first[-1]["mean"] == pytest.approx(other[-1]["mean"], abs=6 * error)

    @pytest.mark.thorough
    def test_labels_go_to_every_estimator(self, run):
        trained = run(conditional=True, likelihood="normal")
        found, test, seed = look_at(trained).report, trained.test(), derive(0, "evaluation")
        expected = pv.evaluation.iwae(trained.vae, test.x, 60, test.y, seed)
        assert found["test"]["log_likelihood"]["mean"] == pytest.approx(expected.mean, rel=1e-12)
        assert "classification" in found
        assert {"reference", "simulated", "latent", "gaps", "posterior"} <= set(found)  # two dimensions: a grid

    def test_baselines_are_those_of_the_headline_s_data(self, run):
        trained = run(conditional=True)
        found, test = look_at(trained, annealed_data=0, test_data=9).report, trained.test(9)
        made = pv.evaluation.baselines(trained.data.train, test.x, test.y, support=trained.vae.likelihood.support)
        program = pv.evaluation.iwae(trained.vae, test.x, 60, test.y, derive(0, "evaluation"))
        (row,) = found["baselines"]["rows"]
        assert row["mean"] == made.estimates["Bernoulli by pixel"].mean
        assert row["difference"]["mean"] == pytest.approx(program.mean - row["mean"], rel=1e-10)
        assert row["num_data"] == 9

    @pytest.mark.thorough
    def test_what_can_not_be_asked_is_left_out_with_its_reason(self, run):
        found = look_at(run(conditional=True, prior="conditional", posterior="full")).report
        gaps = "approximation and amortisation gap"
        assert set(found["left_out"]) == {"marginal KL", "total correlation", gaps}
        assert "differs between" in found["left_out"]["marginal KL"]
        assert found["latent"]["marginal_kl"] is None
        assert found["latent"]["mutual_information"]["bound"] > 0
        assert found["latent"]["kl_per_dimension"] == {"z": None}

    @pytest.mark.thorough
    def test_data_with_heavy_tails_are_taken_further_apart_from_the_headline(self, run):
        trained = run(latent_dim=3)
        with torch.no_grad():  # a guide far narrower than the posterior
            list(trained.vae.posterior.encoder.parameters())[-1][3:] -= 2.5
        look = look_at(trained, escalated_draws=20_000)
        found = look.report["escalation"]
        assert found["of"] == int((look.curve.khat > 0.7).sum()) > 0
        assert found["taken"] > 0
        assert found["num_data"] == 16
        assert look.report["test"]["log_likelihood"]["mean"] == look.curve.bounds[60].mean
        assert "escalation" not in look_at(trained, escalated_draws=0).report

    def test_an_autoencoder_has_its_reconstruction_alone(self, run):
        look = look_at(run(posterior="delta", kl_weight=0.0))
        assert set(look.report["test"]) == {"reconstruction", "rmse"}
        assert not {"curve", "khat", "latent", "gaps"} & set(look.report)

    def test_a_subset_says_where_its_data_stand(self, run):
        trained = run(latent_dim=4)
        look = look_at(trained, test_data=5, annealed_data=0)
        places = look.report["per_datum"]["position"]
        assert torch.equal(trained.test(0).x[places], look.test.at(torch.arange(5))[0])
        assert look.report["per_datum"]["label"] == trained.test(0).labels[places].tolist()
        assert "position" not in look_at(trained, test_data=0, annealed_data=0).report["per_datum"]

    def test_training_that_was_cut_short_is_named(self, run):
        trained = run(latent_dim=4, seed=5)
        trained.run.status.set("interrupted")
        found = look_at(trained, annealed_data=0).report
        assert found["unfinished"] == "Training is interrupted: these are the numbers after 2 of 2 epochs."
        trained.run.status.set("finished")
        assert "unfinished" not in look_at(trained, annealed_data=0).report

    def test_networks_in_bfloat16_are_held_against_float32_ones_as_at_training(self, run):
        trained = run(precision="bfloat16", latent_dim=4)
        found = look_at(trained, annealed_data=0).report
        expected = pv.evaluation.rounding_loss(trained.vae, trained.test().x, 20, seed=derive(0, "evaluation"))
        assert found["precision"]["mean"] == expected.mean != 0
        assert {name: found["precision"][name] for name in expected.to_dict()} == expected.to_dict()
        assert "precision" not in look_at(run(latent_dim=4), annealed_data=0).report

    def test_a_weighted_run_is_measured_without_weights(self, run):
        trained = run(kl_weight=0.2, latent_dim=4)
        found = look_at(trained, annealed_data=0).report
        expected = pv.evaluation.elbo(trained.vae, trained.test().x, 20, None, derive(0, "evaluation"))
        assert found["test"]["elbo"] == expected.to_dict()
        assert "loss" in found["objective"]


@pytest.mark.thorough
def test_evaluation_changes_nothing(run):
    import pyro

    trained = run(prior="vamp", latent_dim=2, num_components=3)

    def state():
        store = {name: value.detach().clone() for name, value in pyro.get_param_store().items()}
        flags = [parameter.requires_grad for parameter in trained.vae.parameters()]
        return {**trained.vae.tensors(), **store, "random": torch.get_rng_state()}, flags, trained.vae.training

    (before, *flags), files = state(), content(trained.run.path)
    before = {name: value.clone() for name, value in before.items()}
    look_at(trained)
    after, *now = state()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert flags == now
    assert content(trained.run.path) == files
    assert all(parameter.grad is None for parameter in trained.vae.parameters())


class TestFiles:
    @pytest.fixture(scope="class")
    @staticmethod
    def written(run, tmp_path_factory):
        look, folder = look_at(run(latent_dim=2)), tmp_path_factory.mktemp("report")
        text, names = report_files.write(look, folder)
        return look, folder, text, names

    def test_every_file_is_there_and_whole(self, written):
        look, folder, text, names = written
        assert {path.name for path in folder.iterdir()} == set(names)
        assert (folder / "report.txt").read_text(encoding="utf-8") == text + "\n"
        report = json.loads((folder / "report.json").read_bytes())
        assert report["curve"] == look.report["curve"]
        assert report["run"]["members"] == {
            "prior": "StandardNormal",
            "posterior": "DiagonalNormal",
            "likelihood": "Bernoulli",
        }
        assert dict(report["protocol_card"])["test data"] == "all 16"

    @pytest.mark.thorough
    @pytest.mark.parametrize("written_before", [1, *thorough(0, 4)])
    def test_files_of_two_evaluations_are_never_beside_times(self, written, tmp_path, monkeypatch, written_before):
        look, folder, _, names = written
        shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
        assert names[-1] == "timings.json"
        write, done = files.write, []

        def killed(path, content):
            if len(done) == written_before:
                raise KeyboardInterrupt
            done.append(path.name)
            write(path, content)

        monkeypatch.setattr(files, "write", killed)
        with pytest.raises(KeyboardInterrupt):
            report_files.write(look, tmp_path)
        assert {path.name for path in tmp_path.iterdir()} == set(names) - {"timings.json"}

    @pytest.mark.parametrize(
        ("settings", "plan"), [({}, {}), ({"test_data": 9}, {}), ({}, {"test_data": 7}), ({"conditional": True}, {})]
    )
    def test_the_card_begins_with_the_rows_by_which_runs_compare(self, run, settings, plan):
        trained, other = run(**settings), run(seed=1)
        look = Look(trained, replace(QUICK, **plan))
        compared = candidates([trained.run.path, other.run.path], plan.get("test_data"))[0].card
        assert list(report_files.card(look).items())[: len(compared)] == list(compared.items())

    def test_the_card_names_what_was_estimated_and_how(self, run):
        trained, found = run(latent_dim=2), {"curve": [], "test": {"kl": {"kind": {"z": "analytic", "w": "sampled"}}}}
        escalation = {"threshold": 0.7, "num_temperatures": 500, "num_chains": 16, "rows": [{"more_samples": 600}]}
        report = {**found, "reference": {"num_data": 6}, "escalation": escalation}
        card = report_files.card(Look(trained, replace(QUICK, escalated_draws=12345), report=report))
        assert card["ELBO"] == "20 draws; KL z analytic, w sampled"
        assert card["annealing"].endswith("; 6 test data chosen at random")
        assert card["escalation"].startswith("test data with k-hat above 0.7: 600 new draws, then annealing")
        assert card["escalation"].endswith("T = 500 temperatures, 16 chains; budget 12,345 evaluations of the decoder")
        report["reference"]["num_data"] = 16
        assert report_files.card(Look(trained, QUICK, report=report))["annealing"].endswith("; all 16 test data")
        assert not {"annealing", "escalation", "ELBO"} & report_files.card(Look(trained, QUICK)).keys()

    def test_the_page_stands_alone(self, written):
        page = (written[1] / "report.html").read_text(encoding="utf-8")
        assert "<script" not in page
        assert "http://" not in page.replace("http://www.w3.org", "")
        assert "https://" not in page
        for title in (
            "Reconstructions",
            "Samples",
            "Interpolation",
            "Latent cloud",
            "Traversal",
            "Training",
            "On a grid",
        ):
            assert title in page

    def test_the_draws_come_back_as_inference_data(self, written):
        found = arviz_adapter.read_netcdf(written[1] / "log_likelihood.nc")
        assert found.posterior["z"].shape == (1, 60, 16, 2)
        assert "not MCMC" in found.attrs["sampling"]
        torch.testing.assert_close(torch.tensor(found.sample_stats["khat"].values), written[0].curve.khat)

    @pytest.mark.thorough
    def test_there_are_as_many_draws_as_numbers_may_be_saved(self, run, tmp_path):
        look = look_at(run(latent_dim=2), saved_numbers=55 * 32, annealed_data=0)
        report_files.write(look, tmp_path)
        assert arviz_adapter.read_netcdf(tmp_path / "log_likelihood.nc").posterior.sizes["draw"] == 55

    @pytest.mark.thorough
    @pytest.mark.parametrize(
        "settings",
        [
            {"posterior": "delta", "kl_weight": 0.0},
            *thorough(
                {"conditional": True, "prior": "conditional", "posterior": "full"},
                {"latent_dim": 4, "posterior": "full", "plan": {"annealed_data": 0}},
                {"latent_dim": 1},
                {"latent_dim": 4, "posterior": "flow", "prior": "flow"},
                {"latent_dim": 4, "plan": {"num_samples": 10, "test_data": 1}},
                {"likelihood": "normal", "dequantize": True, "kl_weight": 0.5, "plan": {"annealed_data": 400}},
            ),
        ],
        ids=["autoencoder", "conditional", "no annealing", "one dimension", "flows", "one datum", "dequantised"],
    )
    def test_every_kind_of_run_has_its_report(self, run, tmp_path, settings):
        plan = settings.get("plan", {})
        look = look_at(run(**{name: value for name, value in settings.items() if name != "plan"}), **plan)
        text, names = report_files.write(look, tmp_path)
        assert "report.html" in names
        assert ("log_likelihood.nc" in names) == ("curve" in look.report)
        assert text == (tmp_path / "report.txt").read_text(encoding="utf-8").removesuffix("\n")
        page = (tmp_path / "report.html").read_text(encoding="utf-8")
        for written in (text, re.sub(r"base64,[^\"]*", "", page), (tmp_path / "report.md").read_text(encoding="utf-8")):
            assert not re.search(r"\b(None|nan|inf)\b", written)
            assert ("amortisation gap" in written) == ("inference" in look.report.get("gaps", {}))
            assert ("random subset" in written) == (
                0 < look.plan.annealed_data < len(look.test) and "curve" in look.report
            )


@pytest.mark.parametrize("name", ["elbo_samples", "num_chains", "latent_data"])
def test_a_plan_that_makes_no_sense_is_refused(name):
    with pytest.raises(UsageError, match=f"`{name}` must be at least 2; got 1"):
        Plan(**{name: 1})


@pytest.mark.parametrize("name", ["elbo_samples", "num_samples", "num_chains", "latent_samples"])
def test_more_draws_than_a_seed_keeps_apart_are_refused_before_the_run_is_opened(name):
    with pytest.raises(UsageError, match=f"`{name}` must be at most {MOST_SAMPLES}; got {MOST_SAMPLES + 1}"):
        Plan(**{name: MOST_SAMPLES + 1})


@pytest.mark.parametrize("fault", [math.nan, 1e30])
def test_numbers_that_are_none_are_said_to_be_so_without_advice_for_a_training(run, fault):
    """NaN is refused by the distribution; so large a bias has a log p(x) of minus infinity."""
    trained = open_run(run(likelihood="normal").run.path)
    with torch.no_grad():
        trained.vae.likelihood.decoder.output_bias.fill_(fault)
    infinite = (
        rf"ELBO is -inf, first at row {trained.data.test.row(0)}: log p of site x \(Normal\) is -inf at \([^`]*\)"
    )
    reason = "Expected parameter loc [^`]*" if math.isnan(fault) else infinite
    with pytest.raises(DivergenceError, match=rf"^an estimate on the test data is not finite \({reason}\)$"):
        evaluate(trained, QUICK)


def test_a_mistake_in_an_evaluation_is_not_called_divergence(run):
    trained = open_run(run().run.path)
    trained.vae.prior = pv.priors.StandardNormal(3)
    with pytest.raises(ValueError, match="prior and posterior must be over the same z") as caught:
        evaluate(trained, QUICK)
    assert not isinstance(caught.value, DivergenceError)


@pytest.mark.slow
def test_draws_in_smaller_blocks_than_usual_may_be_too_many_for_a_seed(run, monkeypatch):
    monkeypatch.setattr("pyro_vae.evaluation.weights.sample_block", lambda *_: 1)
    with pytest.raises(UsageError, match=r"beyond the \d+ blocks of data .* take fewer draws"):
        evaluate(open_run(run().run.path), replace(QUICK, elbo_samples=4097))


@pytest.mark.parametrize("size", [1, 2, 3])
def test_nuts_needs_four_draws(size):
    with pytest.raises(UsageError, match="`posterior_draws` must be 0, or at least 4"):
        Plan(posterior_draws=size)
