"""Which runs compare and which do not, which belong together, and that every number is the one it is said to be."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from finished import content, finished_run, images

import pyro_vae as pv
from pyro_vae.errors import CheckpointError, DivergenceError, UsageError
from pyro_vae.experiment.compare import comparing
from pyro_vae.experiment.compare.comparable_runs import candidates, disagreements, groups, refusal
from pyro_vae.experiment.compare.comparing import Evaluation, compare, measure
from pyro_vae.experiment.run.run_folder import Run
from pyro_vae.experiment.run.trained_run import open_run

K = Evaluation(num_samples=40, seed=3)
BASE = {"likelihood": "bernoulli", "binarize": "threshold"}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return images(tmp_path_factory.mktemp("data") / "grey.npz")


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    """Finished runs by their settings, each trained once."""
    made = {}

    def find(**settings):
        key = repr(settings)
        if key not in made:
            folder = tmp_path_factory.mktemp("runs") / f"run-{len(made)}"
            made[key] = finished_run(folder, settings.pop("dataset", data), **{**BASE, **settings})
        return made[key]

    return find


def rows(found):
    return {row["label"]: row for row in found["groups"]}


# What compares.


@pytest.mark.parametrize(
    ("settings", "lines"),
    [
        ({"prior": "laplace", "latent_dim": 3, "epochs": 1}, {}),
        ({"seed": 1, "test_samples": 7, "elbo_samples": 7}, {}),
        ({"binarize": "dynamic"}, {"binarisation": {"threshold", "dynamic"}}),
        ({"likelihood": "continuous_bernoulli"}, {"values": {"masses", "densities"}}),
        ({"conditional": True}, {"quantity": {"log p(x)", "log p(x|y)"}}),
        ({"test_data": 7}, {"test data": {"all 16", "7 of 16, drawn at random"}}),
        ({"data_seed": 1}, {"data seed": {"0", "1"}, "contents": None, "split": None}),
        ({"split": "contiguous"}, {"data seed": {"0", "none, nothing is drawn"}, "contents": None, "split": None}),
        (
            {"likelihood": "normal", "binarize": "none", "dequantize": True},
            {
                "binarisation": {"threshold", "none"},
                "dequantisation": {"none", "within 256 levels"},
                "quantity": {"log p(x)", "log p(level)"},
                "values": {"masses", "densities per level"},
            },
        ),
    ],
    ids=lambda value: ",".join(value),
)
def test_what_the_protocol_cards_differ_in_is_named_with_all_values(run, settings, lines):
    found = {line.what: line for line in disagreements(candidates([run(), run(**settings)]))}
    assert set(found) == set(lines)
    for what, values in lines.items():
        assert values is None or set(found[what].values) == values
        assert " against " in str(found[what])


def test_a_data_seed_that_draws_nothing_is_no_difference(tmp_path):
    x = np.random.default_rng(0).integers(0, 2, (40, 4, 4), np.uint8)
    np.savez(tmp_path / "given.npz", x_train=x, x_valid=x[:9], x_test=x[9:20])
    paths = [finished_run(tmp_path / str(i), str(tmp_path / "given.npz"), data_seed=i) for i in range(2)]
    assert disagreements(candidates(paths)) == []
    assert [line.what for line in disagreements(candidates(paths, test_data=5))] == ["data seed"]


def test_other_files_are_a_difference_and_digests_are_shown_short(run, tmp_path):
    runs = candidates([run(), run(dataset=images(tmp_path / "grey.npz", seed=1), seed=1)])
    found = disagreements(runs)
    assert [line.what for line in found] == ["files", "contents"]
    said = str(refusal(found))
    digest = runs[0].card["contents"]
    assert digest not in said
    assert f"contents: {digest[:12]}... ({runs[0].name}) against " in said
    assert [group.label for group in groups(runs)] == [each.name for each in runs]  # one seed each, and not pooled
    assert said.endswith("To compare them anyway, with a warning in the report: `force=True`")


def test_the_same_test_data_can_be_asked_for(run):
    paths = [run(), run(test_data=7), run(test_data=9)]
    said = str(refusal(disagreements(candidates(paths))))
    assert "test data: all 16" in said
    assert "`test_data=N` takes the same subset" in said
    assert disagreements(candidates(paths, test_data=5)) == disagreements(candidates(paths, test_data=0)) == []


def test_what_can_not_be_compared_is_refused_in_a_sentence(run, tmp_path):
    with pytest.raises(UsageError, match="two runs or more"):
        candidates([run()])
    with pytest.raises(UsageError, match="is named twice"):
        candidates([run(), run(seed=1), f"{run()}/../{run().name}/"])
    with pytest.raises(CheckpointError, match="holds no trained run"):
        candidates([run(), tmp_path / "nothing"])
    with pytest.raises(UsageError, match=r"is a plain autoencoder: it has no log p\(x\)"):
        candidates([run(), run(posterior="delta", kl_weight=0.0)])
    cut = finished_run(tmp_path / "cut", str(open_run(run()).config.dataset), **BASE)
    Run(cut, open_run(cut).config).status.set("interrupted")
    with pytest.raises(CheckpointError, match=r"is not finished \(interrupted, 2 of 2 epochs\).*--resume"):
        candidates([run(), cut])
    for wrong in ({"num_samples": 0}, {"num_samples": 1 << 18}, {"seed": -1}, {"test_data": -1}):
        with pytest.raises(UsageError, match=r"`(num_samples|seed|test_data)` must be"):
            Evaluation(**wrong)


# What belongs together.


def test_runs_that_differ_only_in_their_seed_are_pooled_and_labels_say_the_rest(run):
    paths = [run(), run(prior="laplace"), run(seed=1), run(prior="laplace", seed=1, test_samples=3), run(prior="full")]
    assert [(group.label, group.members) for group in groups(candidates(paths))] == [
        ("prior=standard", [0, 2]),
        ("prior=laplace", [1, 3]),
        ("prior=full", [4]),
    ]
    assert groups(candidates(paths[:3:2]))[0].label == "seeds 0, 1"


def test_a_label_names_the_data_first_and_counts_what_does_not_fit(run):
    other = {"prior": "mixture", "num_components": 4, "hidden": (9, 10), "lr": 0.02}
    first, second = groups(candidates([run(), run(**other)]))
    assert (first.label, second.label) == (
        "prior=standard, hidden=8, and 2 more",
        "prior=mixture, hidden=9,10, and 2 more",
    )
    assert second.settings == {"prior": "mixture", "hidden": [9, 10], "num_components": 4, "lr": 0.02}


def test_two_runs_of_one_seed_stay_apart_under_the_names_of_their_folders(run, data, tmp_path):
    again = finished_run(tmp_path / "again", data, **BASE)
    assert [(g.label, g.members) for g in groups(candidates([run(), again]))] == [(run().name, [0]), ("again", [1])]
    found = groups(candidates([run(), again, run(seed=1), run(prior="full")]))
    assert [g.members for g in found] == [[0, 2], [1], [3]]
    assert [g.label for g in found] == [f"{run().name} prior=standard", "again prior=standard", "prior=full"]


def test_runs_that_started_from_the_weights_of_another_are_no_further_seeds_of_it(run, data, tmp_path):
    started = [finished_run(tmp_path / name, data, **BASE, seed=i) for i, name in enumerate("bc", 2)]
    for path in started:
        record = {"run": str(run()), "sha256": "90cf", "config": {}}
        Run(path, open_run(path).config).status.set("finished", started_from=[record])
    found = groups(candidates([run(), run(seed=1), *started]))
    assert [group.members for group in found] == [[0, 1], [2], [3]]
    assert [group.label for group in found] == [run().name, f"b, from {run().name}", f"c, from {run().name}"]


def test_folders_of_one_name_go_by_their_paths(data, tmp_path):
    paths = [finished_run(tmp_path / name / "run", data, seed=i) for i, name in enumerate("ab")]
    assert [each.name for each in candidates(paths)] == [str(path) for path in paths]


# What is measured.


@pytest.mark.thorough
@pytest.mark.parametrize("settings", [{}, {"conditional": True}, {"prior": "mixture", "num_components": 3}])
def test_every_number_is_that_of_the_public_estimators(run, settings):
    path = run(**settings)
    before = content(path)
    found = measure(candidates([path, run(seed=5)])[0], K)
    trained = open_run(path)
    test = trained.test()
    weights = pv.evaluation.log_weights(trained.vae, test.x, 40, test.y, seed=3)
    bound = pv.evaluation.iwae(trained.vae, test.x, 40, test.y, seed=3)
    assert found.log_likelihood.value.allclose(bound.value, rtol=1e-12)
    assert found.log_likelihood.value_error.allclose(bound.value_error, rtol=1e-6)
    assert found.elbo.value.allclose(weights.mean(0), rtol=1e-12)
    assert found.elbo.value_error.allclose(weights.std(0) / math.sqrt(40), rtol=1e-12)
    assert torch.equal(found.khat, pv.evaluation.psis_khat(weights))
    assert found.khat_above == (found.khat > 0.7).double().mean()
    assert content(path) == before


def test_dequantised_data_are_measured_on_the_scale_of_their_levels(run):
    path = run(likelihood="normal", binarize="none", dequantize=True)
    one = candidates([path, run()])[0]
    found, trained = measure(one, K), open_run(path)
    density = pv.evaluation.iwae(trained.vae, trained.test().x, 40, seed=3)
    assert found.log_likelihood.name == "log p(level)"
    assert found.log_likelihood.value.allclose(density.value - 16 * math.log(256), rtol=1e-12)
    assert found.elbo.mean < found.log_likelihood.mean


def test_a_subset_and_a_few_draws(run):
    found = measure(candidates([run(), run(seed=1)])[0], Evaluation(num_samples=1, test_data=5))
    assert found.log_likelihood.num_data == 5
    assert torch.equal(found.log_likelihood.value, found.elbo.value)
    assert found.khat_above is None


def test_a_bound_that_is_not_finite_is_no_number(run, monkeypatch):
    trained = open_run(run())
    with torch.no_grad():
        next(trained.vae.likelihood.parameters()).fill_(math.nan)
    monkeypatch.setattr(comparing, "open_run", lambda *_, **__: trained)
    with pytest.raises(DivergenceError, match=r"log p\(x\) of run-0 is not finite"):
        measure(candidates([run(), run(seed=1)])[0], K)


# What is compared.


@pytest.fixture
def compared(run):
    def find(*paths, evaluation=K, **options):
        runs = candidates(paths, evaluation.test_data)
        return compare(runs, [measure(each, evaluation) for each in runs], evaluation, **options)

    return find


def test_groups_are_means_over_seeds_and_their_differences_are_paired(run, compared):
    seeds = [run(), run(seed=1)], [run(prior="laplace"), run(prior="laplace", seed=1)]
    found = rows(compared(*seeds[0], *seeds[1], reference="first"))
    bounds = [measure(each, K).log_likelihood for each in candidates([*seeds[0], *seeds[1]])]
    values = np.stack([bound.value.numpy() for bound in bounds]).reshape(2, 2, -1)
    standard, laplace = found["prior=standard"], found["prior=laplace"]
    for row, own in zip((standard, laplace), values, strict=True):
        assert row["log_likelihood"]["mean"] == pytest.approx(own.mean())
        assert row["run_means"] == pytest.approx(own.mean(1).tolist())
        assert row["seed_deviation"] == pytest.approx(own.mean(1).std(ddof=1))
        assert row["seeds"] == [0, 1]
    d = (values[1] - values[0]).mean(0)
    assert laplace["difference"]["is_paired"]
    assert laplace["difference"]["mean"] == pytest.approx(d.mean())
    assert laplace["difference"]["standard_error"] == pytest.approx(d.std(ddof=1) / 4)
    direct = pv.evaluation.paired(pv.evaluation.pooled(bounds[2:]), pv.evaluation.pooled(bounds[:2]), seed=K.seed)
    assert laplace["difference"] == direct.to_dict()
    welch = pv.evaluation.between_seeds(values[1].mean(1).tolist(), values[0].mean(1).tolist())
    assert laplace["difference_over_seeds"]["interval"] == pytest.approx(list(welch.interval))
    assert standard["difference"] is standard["difference_over_seeds"] is None


def test_runs_of_a_preset_are_judged_by_their_mean_over_seeds(run, compared):
    found = compared(
        *(run(seed=seed, preset="iwae_1l_k1") for seed in (0, 1)),
        run(prior="laplace", preset="iwae_1l_k1"),
        run(prior="student_t"),
    )
    by_seeds = {tuple(group["seeds"]): group for group in found["groups"]}
    both, alone = by_seeds[0, 1], next(group for group in found["groups"] if "laplace" in group["label"])
    verdict = both["preset"]
    assert verdict["result"] == pytest.approx(np.mean(both["run_means"]))
    assert verdict["seed_deviation"] == pytest.approx(np.std(both["run_means"], ddof=1))
    assert (verdict["seeds"], verdict["target"], verdict["changed"]["test_samples"]) == (2, -86.76, 40)
    assert (alone["preset"]["seeds"], alone["preset"]["seed_deviation"]) == (1, None)
    assert next(group for group in found["groups"] if "student_t" in group["label"])["preset"] is None
    sentences = [note for note in found["notes"] if note.startswith("preset iwae_1l_k1: published log p(x) -86.76")]
    assert [", mean of 2 training seeds with SD 0." in sentence for sentence in sentences].count(True) == 1
    assert len(sentences) == 2
    assert not any("as many draws as the preset" in sentence for sentence in sentences)  # which would not be enough


@pytest.mark.thorough
def test_the_best_stands_first_and_any_run_can_be_the_reference(run, compared):
    paths = [run(epochs=40, lr=0.05), run(), run(epochs=4)]
    means = {each.name: measure(each, K).log_likelihood.mean for each in candidates(paths)}
    order = sorted(means, key=means.__getitem__, reverse=True)
    assert order[0] != paths[0].name
    for reference, name in (("best", order[0]), ("first", paths[0].name), (order[1], order[1]), (f"{paths[2]}/", "")):
        name = name or paths[2].name
        found = compared(*paths, reference=reference)
        assert [row["runs"][0] for row in found["groups"]] == order
        for row in found["groups"]:
            own = row["runs"][0]
            difference = row["difference"]["mean"] if row["difference"] else None
            assert difference == (None if own == name else pytest.approx(means[own] - means[name]))
            assert row["difference_over_seeds"] is None
        assert found["reference"]["is_best_of"] == (3 if reference == "best" else None)
    with pytest.raises(UsageError, match="best, first or one of the runs"):
        compared(*paths, reference="other")


def test_forced_on_other_test_data_the_difference_is_unpaired(run, compared):
    found = compared(run(), run(test_data=9), reference="first")
    own, other = found["groups"] if found["groups"][1]["difference"] else found["groups"][::-1]
    assert other["difference"]["is_paired"] is False
    assert sorted(other["difference"]["num_data"]) == [9, 16]
    errors = [row["log_likelihood"]["standard_error"] for row in (own, other)]
    assert other["difference"]["standard_error"] == pytest.approx(math.hypot(*errors))
    assert [line["what"] for line in found["disagreements"]] == ["test data"]
    assert "test data" not in found["protocol"]
    assert found["protocol"]["binarisation"] == "threshold"


def test_forced_on_the_same_images_it_is_paired_however_they_are_binarised(run, compared):
    levels = {"likelihood": "categorical", "binarize": "none"}
    noisy = {"likelihood": "normal", "binarize": "none", "dequantize": True}
    for settings in ({"binarize": "dynamic"}, {"conditional": True}):
        assert compared(run(), run(**settings))["groups"][1]["difference"]["is_paired"]
    found = compared(run(**levels), run(**noisy))
    assert found["groups"][1]["difference"]["is_paired"]
    assert found["quantities"] == ["log p(level)", "log p(x)"]
    assert not compared(run(), run(data_seed=1))["groups"][1]["difference"]["is_paired"]


def test_the_same_run_in_two_folders_differs_by_nothing(run, data, tmp_path, compared):
    again = finished_run(tmp_path / "again", data, **BASE)
    difference = compared(run(), again)["groups"][1]["difference"]
    assert (difference["mean"], difference["standard_error"], difference["interval"]) == (0.0, 0.0, [0.0, 0.0])


def test_what_is_written_is_the_same_each_time_and_is_json(run, compared, tmp_path):
    for name in "ab":
        comparing.write(tmp_path / name, compared(run(), run(prior="laplace")))
    assert content(tmp_path / "a") == content(tmp_path / "b")
    assert set(content(tmp_path / "a")) == {f"comparison.{kind}" for kind in ("json", "txt", "md", "csv", "png")}
    found = json.loads((tmp_path / "a" / "comparison.json").read_bytes())
    assert found["evaluation"] == {"num_samples": 40, "seed": 3}
    assert any("leaves out the variance over training seeds" in note for note in found["notes"])
    assert str(tmp_path) not in json.dumps(found)


def test_nothing_of_the_machine_divides_groups(run):
    one = candidates([run(), run(seed=1)])
    moved = one[1]._replace(config=replace(one[1].config, device="cuda", data_dir="elsewhere"))
    assert len(groups([one[0], moved])) == 1
