"""Three runs that differ in their weights alone, taken up again, measured and drawn."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from pyro_vae import evaluation
from pyro_vae.errors import UsageError
from pyro_vae.experiment.config import Config
from pyro_vae.experiment.evaluate.evaluation_plan import Plan
from pyro_vae.experiment.run.run_folder import Run
from pyro_vae.experiment.run.trained_run import open_run
from pyro_vae.experiment.studies import loss_ablation

pytestmark = pytest.mark.usefixtures("sketched")

PLAN = Plan(elbo_samples=10, num_samples=30, latent_data=40, latent_samples=2)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    x = np.random.default_rng(0).random((80, 4, 4)) < np.linspace(0.1, 0.9, 4)
    np.savez(folder / "tiny.npz", x=x, y=np.arange(80) % 3)
    return Config(
        dataset=str(folder / "tiny.npz"), latent_dim=3, hidden=(8,), epochs=2, test_samples=20, elbo_samples=5, lr=0.02
    )


@pytest.fixture(scope="module")
def trained(config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ablation")
    loss_ablation.train(folder, config, set())
    return folder


def runs(folder):
    return {name: open_run(loss_ablation.place(folder, name)) for name in loss_ablation.WEIGHTS}


def test_the_three_runs_differ_in_their_weights_alone(trained):
    settings = {name: run.config.to_dict() for name, run in runs(trained).items()}
    weights = {n: (s.pop("reconstruction_weight"), s.pop("kl_weight")) for n, s in settings.items()}
    assert weights == {"only reconstruction": (1, 0), "only KL": (0, 1), "both": (1, 1)}
    assert settings["only reconstruction"] == settings["only KL"] == settings["both"]


def test_the_numbers_are_those_of_the_estimators(trained):
    both = runs(trained)["both"]
    found = loss_ablation.measure(both, PLAN)
    for held, data in (("test", both.test()), ("train", both.training(40))):
        assert len(data.x) == found.bounds[held]["elbo"].num_data
        again = evaluation.elbo_terms(both.vae, data.x, 300, seed=5)
        for name, other in again._asdict().items():
            mine = found.bounds[held][name]
            assert abs(mine.mean - other.mean) <= 4 * (mine.monte_carlo_error + other.monte_carlo_error) + 1e-6
        weights = evaluation.log_weights(both.vae, data.x, 30, seed=loss_ablation.derive(0, "ablation"))
        assert torch.allclose(found.bounds[held]["log_likelihood"].value, weights.logsumexp(0) - np.log(30))
        khat = evaluation.psis_khat(weights).tolist()
        assert found.khat[held] == sum(k > 0.7 for k in khat) / len(data.x)
    assert loss_ablation.measure(both, dataclasses.replace(PLAN, num_samples=20)).khat == {"test": None, "train": None}
    assert (found.latent_dim, found.epochs) == (3, 2)


@pytest.mark.thorough
def test_only_one_term_leaves_the_other_alone(config, tmp_path, capsys):
    """After 40 epochs: without the KL it is large; with nothing else it is 0, and no latent is used."""
    loss_ablation.train(tmp_path, Config.from_dict({**config.to_dict(), "epochs": 40}), set())
    columns = {name: loss_ablation.measure(run, PLAN) for name, run in runs(tmp_path).items()}
    kl = {name: column.bounds["train"]["kl"].mean for name, column in columns.items()}
    assert kl["only KL"] < 0.02
    assert kl["only KL"] < kl["both"] < 0.5 * kl["only reconstruction"]
    assert columns["only KL"].active_units == 0
    reconstruction = {name: column.bounds["train"]["reconstruction"].mean for name, column in columns.items()}
    assert reconstruction["only reconstruction"] > max(reconstruction["both"], reconstruction["only KL"])


def test_a_finished_run_is_skipped_and_a_missing_one_made_like_the_others(trained, config, tmp_path, capsys):
    first = loss_ablation.place(tmp_path, "only reconstruction")
    first.parent.mkdir(exist_ok=True)
    first.symlink_to(loss_ablation.place(trained, "only reconstruction"))
    before = {path: path.read_bytes() for path in first.rglob("*") if path.is_file()}
    loss_ablation.train(tmp_path, Config(), set(), resume=True)  # without the flags of the first start
    assert capsys.readouterr().out.count("is finished: skipped") == 1
    assert before == {path: path.read_bytes() for path in first.rglob("*") if path.is_file()}
    for name in loss_ablation.WEIGHTS:
        whole, again = (loss_ablation.place(folder, name) for folder in (trained, tmp_path))
        assert (whole / "history.jsonl").read_bytes() == (again / "history.jsonl").read_bytes()


def test_the_report_is_text_numbers_and_a_picture(trained):
    text = loss_ablation.report(trained, PLAN)
    assert (trained / "ablation.txt").read_text() == text + "\n"
    found = json.loads((trained / "ablation.json").read_text())
    assert list(found) == sorted(loss_ablation.WEIGHTS)
    assert (trained / "ablation.csv").read_text().count("\n") == 1 + 3 * 14
    assert (trained / "ablation.png").read_bytes().startswith(b"\x89PNG")
    picture = (trained / "ablation.png").read_bytes()
    assert loss_ablation.report(trained, PLAN) == text
    assert (trained / "ablation.png").read_bytes() == picture


def test_a_panel_shows_draws_on_the_axes_where_the_means_spread_most(trained):
    run = runs(trained)["both"]
    panel = loss_ablation.view(run, 0)
    means = run.vae.posterior.centre(run.test().x)
    _, _, axes = torch.linalg.svd(means - means.mean(0))
    spread = ((means - means.mean(0)) @ axes[:2].T).var(0)
    assert panel.cloud.shape == panel.prior.shape == (len(means), 2)
    assert spread[0] >= spread[1]
    assert panel.ellipses is None
    assert (panel.labels == run.test().labels).all()
    assert panel.samples.shape == (64, 1, 4, 4)
    assert panel.reconstructions.shape == (4, 8, 1, 4, 4)
    state = torch.random.get_rng_state()
    assert torch.equal(panel.cloud, loss_ablation.view(run, 0).cloud)
    assert torch.equal(state, torch.random.get_rng_state())


@pytest.mark.thorough
def test_in_two_dimensions_the_axes_are_those_of_z_with_ellipses(config, tmp_path, capsys):
    small = Config.from_dict({**config.to_dict(), "latent_dim": 2, "epochs": 1, "conditional": True})
    loss_ablation.train(tmp_path, small, set())
    run = runs(tmp_path)["both"]
    x, y, _ = run.test()
    q, panel = run.vae.posterior(x, y), loss_ablation.view(run, 0)
    assert panel.axes == ("z1", "z2")
    assert torch.allclose(panel.ellipses, torch.stack([q.mean, q.stddev], 1)[:60])
    assert ((panel.cloud - q.mean).abs() < 6 * q.stddev).all()
    loss_ablation.report(tmp_path, PLAN)


@pytest.mark.thorough
def test_where_each_label_has_its_prior_the_marginal_kl_is_not_there(config, tmp_path, capsys):
    labelled = {"conditional": True, "prior": "conditional", "epochs": 5, "lr": 0.1}
    loss_ablation.train(tmp_path, Config.from_dict({**config.to_dict(), **labelled}), set())
    text = loss_ablation.report(tmp_path, PLAN)
    assert "n/a" in text
    assert "log p(x|y), test" in text
    found = json.loads((tmp_path / "ablation.json").read_text())["both"]
    both = runs(tmp_path)["both"]
    x, y, _ = both.training(PLAN.latent_data)
    other = evaluation.mutual_information(both.vae, x, 50, y, seed=3)
    errors = found["mutual_information"]["monte_carlo_error"] + other.monte_carlo_error
    assert found["marginal_kl"] is None
    assert abs(found["mutual_information"]["mean"] - other.mean) < 4 * errors


def test_test_data_are_those_of_the_runs_own_report_unless_a_plan_says_how_many(trained):
    both = runs(trained)["both"]
    few = dataclasses.replace(both, run=Run(both.run.path, dataclasses.replace(both.config, test_data=5)))
    for wanted, size in ((None, 5), (3, 3), (0, len(both.data.test))):
        measured = loss_ablation.measure(few, dataclasses.replace(PLAN, test_data=wanted))
        assert measured.bounds["test"]["elbo"].num_data == size


def test_mistakes_are_answered(trained, config, tmp_path):
    with pytest.raises(UsageError, match="`kl_weight` is set by the three runs"):
        loss_ablation.train(tmp_path, config, {"kl_weight"})
    with pytest.raises(UsageError, match="no finite KL"):
        loss_ablation.train(tmp_path, Config(posterior="delta", kl_weight=0.0), set())
    with pytest.raises(UsageError, match="already holds a run: add `resume=True`"):
        loss_ablation.train(trained, config, set())
    with pytest.raises(UsageError, match="was started with latent_dim=3"):
        loss_ablation.train(trained, Config(latent_dim=4), {"latent_dim"}, resume=True)
    with pytest.raises(UsageError, match="its loss weights must be 1"):
        loss_ablation.train(tmp_path, Config.from_dict({**config.to_dict(), "objective": "iwae"}), set())
