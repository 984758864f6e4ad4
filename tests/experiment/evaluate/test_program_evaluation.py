"""pv.evaluate: the report of a program has the numbers of its run's, and says nothing that nobody has told it."""

import json
import re
from html import unescape
from types import SimpleNamespace

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from cases import thorough
from exact import ProbabilisticPCA, small_vae, two_layers
from finished import finished_run, images
from pyro import poutine
from shortened import quick_evaluations
from torch import nn

import pyro_vae as pv
from pyro_vae.errors import DataError, UsageError
from pyro_vae.experiment.evaluate.evaluation_plan import Plan
from pyro_vae.experiment.evaluate.given_program import GivenProgram
from pyro_vae.experiment.evaluate.measurements import evaluate as evaluated
from pyro_vae.experiment.evaluate.report_files import NAMES
from pyro_vae.experiment.evaluate.seen_program import arguments, look_at
from pyro_vae.experiment.run.trained_run import open_run

QUICK = {
    "elbo_samples": 20,
    "num_samples": 60,
    "annealed_data": 4,
    "num_temperatures": 4,
    "num_chains": 3,
    "latent_data": 20,
    "latent_samples": 2,
    "posterior_draws": 0,
    "escalated_draws": 3_000,
}
HEADLINE = {**QUICK, "annealed_data": 0}
OF_A_RUN = {
    "run",
    "protocol_card",
    "config",
    "objective",
    "training",
}  # keys that a program alone has otherwise, or not


@pytest.fixture(scope="module", autouse=True)
def quick():
    with pytest.MonkeyPatch.context() as patch:
        quick_evaluations(patch)
        yield


def evaluate(vae, data, out=None, **changes):
    return pv.evaluate(vae, data, out, quiet=True, **{**HEADLINE, **changes})


class Ratio(pv.Program):
    """z ~ N(0, 1), x_j | z ~ N(z, 1): a program of a user's own, that generates where `generates`."""

    def __init__(self, generates=True):
        super().__init__()
        self.gain, self.generates = nn.Parameter(torch.tensor(0.25, dtype=torch.float64)), generates

    def model(self, x=None, y=None):
        self.list_parameters()
        size = len(x) if x is not None or not self.generates else 1
        with pyro.plate("data", size, dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=torch.float64), 1.0))
            return pyro.sample("x", dist.Normal(z[..., None].expand(*z.shape, 3), 1.0).to_event(1), obs=x)

    def guide(self, x, y=None):
        self.list_parameters()
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(self.gain * x.sum(-1), 0.5))  # at 1/4 the posterior


def log_evidence(x):
    covariance = torch.eye(3, dtype=torch.float64) + 1
    return torch.distributions.MultivariateNormal(torch.zeros(3, dtype=torch.float64), covariance).log_prob(x)


def rows(size=12, seed=0):
    return torch.randn(size, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def words(page):
    """What is read on a page."""
    text = re.sub(r"<style>.*?</style>|<[^>]*>", " ", page, flags=re.DOTALL)
    return re.sub(r"\s+", " ", unescape(text))


class TestTheNumbersOfARun:
    @pytest.mark.parametrize(
        ("settings", "plan"),
        [
            ({"latent_dim": 2}, HEADLINE),
            *thorough(
                ({"latent_dim": 2}, QUICK),
                ({"conditional": True, "likelihood": "normal", "seed": 3}, QUICK),
                ({"layers": 2, "latent_dim": 3}, {**QUICK, "posterior_draws": 4}),
                ({"posterior": "delta", "kl_weight": 0.0}, QUICK),
                ({"likelihood": "normal", "dequantize": True, "learn_scale": "pixel", "test_data": 9}, QUICK),
                ({"likelihood": "discretized_logistic", "prior": "vamp", "num_components": 3}, QUICK),
            ),
        ],
        ids=lambda value: ",".join(f"{k}={v}" for k, v in value.items()) if len(value) < 8 else "",
    )
    def test_are_those_of_its_program_alone_to_the_last_digit(self, settings, plan, tmp_path):
        trained = open_run(finished_run(tmp_path / "run", images(tmp_path / "images.npz"), **settings))
        theirs = evaluated(trained, Plan(**plan, test_data=trained.config.test_data)).report
        vae, data, seed = pv.load(trained.run.path), trained.data, trained.config.seed
        wanted = {"test_data": trained.config.test_data, "history": trained.records}
        ours = pv.evaluate(vae, data, seed=seed, quiet=True, **wanted, **plan).report
        assert theirs.keys() - OF_A_RUN == ours.keys() - OF_A_RUN
        for key in theirs.keys() - OF_A_RUN:
            assert ours[key] == theirs[key], key
        assert ours["training"] == theirs["training"]

    @pytest.mark.thorough
    def test_are_so_where_numbers_are_missing(self, tmp_path):
        x = np.random.default_rng(0).normal(size=(80, 3))
        x[np.random.default_rng(1).random(x.shape) < 0.2] = np.nan
        np.savetxt(tmp_path / "table.csv", x, delimiter=",", header="a,b,c", comments="")
        trained = open_run(
            finished_run(tmp_path / "run", str(tmp_path / "table.csv"), likelihood="normal", missing="nan")
        )
        theirs = evaluated(trained, Plan(**QUICK)).report
        ours = pv.evaluate(pv.load(trained.run.path), trained.data, quiet=True, **QUICK).report
        assert all(ours[key] == theirs[key] for key in theirs.keys() - OF_A_RUN)


class TestClosedForms:
    """The guide is the exact posterior, so that ELBO and bound are log p(x) of each datum, whatever is drawn."""

    def test_a_program_of_ones_own(self):
        x = rows()
        found = evaluate(Ratio(), x)
        assert torch.allclose(found.log_likelihood.value, log_evidence(x), atol=1e-12)
        elbo = found.elbo  # the KL in closed form, the rest drawn
        assert elbo.kind == {"z": "analytic"}
        assert abs(elbo.mean - log_evidence(x).mean().item()) < 4 * elbo.monte_carlo_error
        assert found.khat.max() < 0.5  # weights that all agree
        assert found.report["test"]["log_likelihood"]["mean"] == pytest.approx(log_evidence(x).mean().item(), abs=1e-12)

    @pytest.mark.thorough
    def test_an_object_with_two_functions(self):
        program = Ratio()
        bare = SimpleNamespace(model=program.model, guide=program.guide)
        found = evaluate(bare, rows(), **QUICK)
        assert torch.allclose(found.log_likelihood.value, log_evidence(rows()), atol=1e-12)
        assert "num_parameters" not in found.report["run"]
        grid = found.report["reference"]["rows"][-1]
        assert grid["name"] == "grid"
        assert grid["mean"] == pytest.approx(found.report["reference"]["rows"][1]["mean"], abs=1e-6)

    @pytest.mark.thorough
    @pytest.mark.parametrize("missing", [False, True])
    def test_a_vae(self, missing):
        truth = ProbabilisticPCA()
        x = truth.gappy(20) if missing else truth.data(20)
        found = evaluate(truth.vae(missing=missing), x, **QUICK)
        assert torch.allclose(found.log_likelihood.value, truth.log_evidence(x), atol=1e-9)
        simulated = found.report["simulated"]
        for bound in ("iwae", "forward", "reverse"):
            assert simulated[bound]["mean"] == pytest.approx(simulated["iwae"]["mean"], abs=1e-9)

    @pytest.mark.thorough
    def test_splits_are_given_in_the_type_of_the_program(self):
        truth = ProbabilisticPCA()
        data = pv.data.from_arrays(truth.data(60).numpy())
        found = evaluate(truth.vae(), data)
        x = data.test.fixed().double()
        assert torch.allclose(found.log_likelihood.value, truth.log_evidence(x), atol=1e-9)
        assert found.report["baselines"]["num_fitted"] == len(data.train)


class TestWhatIsSaid:
    @pytest.mark.thorough
    def test_of_a_program_of_ones_own_only_what_is_there(self, tmp_path):
        found = evaluate(Ratio(generates=False), rows(), tmp_path / "report", **QUICK)
        assert sorted(path.name for path in found.files) == sorted(NAMES)
        assert sorted(path.name for path in (tmp_path / "report").iterdir()) == sorted(NAMES)
        page = words((tmp_path / "report" / "report.html").read_text())
        for told in ("Ratio on a tensor", "model, x Normal", "guide, z Normal", "1 parameter ", "12 test data"):
            assert told in page
        for unknown in ("epoch", "preset", "evaluate.py", "scripts", "columns.png", "training data against"):
            assert unknown not in page.replace("baselines: there are only test data", "")
        assert found.report["left_out"].keys() == {
            "baselines",
            "latents",
            "train - test",
            "approximation and amortisation gap",  # its site is no vector
            "simulated data",
            "pictures of draws",
            "pictures of the latent space",
        }
        assert "does not generate without x (TypeError, object of type 'NoneType'" in page
        assert json.loads((tmp_path / "report" / "report.json").read_text())["test"] == found.report["test"]
        assert str(found) + "\n" == (tmp_path / "report" / "report.txt").read_text()

    @pytest.mark.thorough
    def test_no_more_data_are_simulated_than_there_are(self):
        simulated = evaluate(Ratio(), rows(3), **{**QUICK, "annealed_data": 9}).report["simulated"]
        assert simulated["num_data"] == 3
        assert simulated["forward"]["num_data"] == simulated["iwae"]["num_data"] == 3

    @pytest.mark.thorough
    def test_gaps_of_a_guide_that_is_not_refined_are_said_to_be_left_out(self, tmp_path):
        full = small_vae(2)
        full.posterior = pv.posteriors.FullNormal(pv.networks.MLP((6,), (5,)), 2).double()
        for number, vae in enumerate((full, small_vae(2))):
            found = evaluate(vae, (rows(6).repeat(1, 2) > 0).double(), tmp_path / str(number), **QUICK)
            assert (found.report["gaps"]["amortisation"] is None) == (number == 0)
            for text in (str(found), words((tmp_path / str(number) / "report.html").read_text())):
                told = "approximation and amortisation gap: they need a guide fitted to single data, which"
                assert (told in re.sub(r"\s+", " ", text)) == (number == 0)

    @pytest.mark.thorough
    def test_labels_have_a_column_where_there_are_any(self):
        def heads(found):
            return next(line for line in str(found).splitlines() if "effective draws" in line)

        assert "label" not in heads(evaluate(labelled(False), torch.zeros(30, 3)))
        assert "label" in heads(evaluate(labelled(), torch.zeros(30, 3), y=torch.eye(3)[torch.arange(30) % 3]))

    @pytest.mark.thorough
    def test_pictures_of_a_program_without_members(self, tmp_path):
        evaluate(Ratio(), rows(), tmp_path, **QUICK)
        page = words((tmp_path / "report.html").read_text())
        assert "Columns" in page
        assert "pictures of draws" not in page

    @pytest.mark.thorough
    def test_of_members_class_and_arguments(self, tmp_path):
        class Heavy(pv.priors.Prior):
            def __init__(self, latent_dim, df=3.0):
                super().__init__(latent_dim)
                self.df = df

            def forward(self, y=None):
                return dist.StudentT(self.df, self.loc, self.scale).to_event(1)

        data = pv.data.from_arrays(np.random.default_rng(0).normal(size=(60, 6)))
        vae = small_vae(2, likelihood=pv.likelihoods.Normal, prior=Heavy(2)).float()
        evaluate(vae, data, tmp_path)
        page = words((tmp_path / "report.html").read_text())
        assert "p(z) Heavy(latent_dim=2, df=3.0)" in page
        # The splits would standardise for a program that asks them to; this one sees x as they are.
        assert "x is the number as stored." in page
        assert "the program sees" not in page

    @pytest.mark.thorough
    def test_of_two_layers_every_density(self, tmp_path):
        data = pv.data.from_arrays((np.random.default_rng(0).random((60, 6)) < 0.5).astype(np.uint8))
        evaluate(two_layers(), data, tmp_path)
        page = words((tmp_path / "report.html").read_text())
        assert all(part in page for part in ("p(z2) StandardNormal", "p(z1|z2) Normal", "q of z1 DiagonalNormal"))

    @pytest.mark.thorough
    def test_of_a_training_what_its_records_know(self, tmp_path):
        data = pv.data.from_arrays((np.random.default_rng(0).random((60, 6)) < 0.5).astype(np.uint8))
        vae = small_vae(2).float()
        trained = pv.train(vae, data, epochs=3, quiet=True)
        for number, history in enumerate((trained, trained.history, [r.to_dict() for r in trained.history])):
            found = evaluate(vae, data, tmp_path / str(number), history=history)
            said = f"3 epochs by its records; the best on validation data was epoch {trained.best_epoch}"
            assert f"training: {said}." in re.sub(r"\s+", " ", str(found))
            assert said in words((tmp_path / str(number) / "report.html").read_text())

    @pytest.mark.thorough
    def test_in_a_notebook_it_is_escaped(self, tmp_path):
        found = evaluate(Ratio(), rows(), tmp_path, name="<script>alert()</script>")
        assert "<script>" not in found._repr_html_()
        assert "&lt;script&gt;" in found._repr_html_()
        assert "report.html" in found._repr_html_()
        assert "<script>alert" not in (tmp_path / "report.html").read_text()


def labelled(conditional=True):
    MLP, y_dim = pv.networks.MLP, 3 if conditional else 0
    return pv.VAE(
        pv.priors.StandardNormal(2),
        pv.posteriors.DiagonalNormal(MLP((3,), (4,), y_dim=y_dim), 2),
        pv.likelihoods.Bernoulli(MLP((2,), (3,), y_dim=y_dim)),
    )


class TestLabels:
    @pytest.mark.parametrize(
        ("row", "told"),
        [
            ([2.0, -1.0, 0.0], r"row 1 is \[2, -1, 0\]: torch.nn.functional.one_hot"),
            ([0.5, 0.5, 0.0], r"row 1 is \[0.5, 0.5, 0\]"),
            ([1.0, 1.0, -1.0], r"row 1 is \[1, 1, -1\]"),
            ([0.0, 0.0, 0.0], r"row 1 is \[0, 0, 0\]"),
            ([1.0 - 1e-7, 1e-7, 0.0], "row 1 is"),
            ([float("nan"), 1.0, 0.0], r"row 1 is \[nan, 1, 0\]"),
        ],
    )
    def test_that_are_no_class_are_refused_with_their_row(self, row, told):
        y = torch.tensor([[0.0, 1.0, 0.0], row, [0.25, 0.25, 0.5]])
        with pytest.raises(DataError, match=told):
            pv.evaluate(labelled(), torch.zeros(3, 3), y=y, quiet=True)

    @pytest.mark.parametrize("kind", [torch.bool, torch.int64, torch.float16, torch.float64])
    def test_of_any_type_are_the_classes_that_they_are(self, kind):
        y = torch.eye(3)[[2, 0, 1, 1]].to(kind)
        given = GivenProgram(labelled(), torch.zeros(4, 3), y)
        assert given.reader("test").labels.tolist() == [2, 0, 1, 1]

    def test_are_contents_of_the_data(self):
        x, vae = torch.zeros(3, 3), labelled()
        orders = [0, 1, 2], [0, 1, 2], [0, 2, 1]
        first, again, other = (GivenProgram(vae, x, torch.eye(3)[order]).tested(0)["contents"] for order in orders)
        assert first == again != other

    @pytest.mark.thorough
    def test_without_training_data_classes_are_said_to_be_left_out(self):
        found = evaluate(labelled(), torch.zeros(3, 3), y=torch.eye(3))
        assert "training data" in found.report["left_out"]["classes"]
        assert "classes: there are only test data" in re.sub(r"\s+", " ", str(found))
        assert "classes" not in evaluate(labelled(False), torch.zeros(3, 3)).report["left_out"]

    @pytest.mark.thorough
    def test_are_given_where_a_program_does_not_run_without(self):
        data = pv.data.load("digits", binarize="threshold")
        MLP = pv.networks.MLP
        vae = pv.VAE(
            pv.priors.StandardNormal(2),
            pv.posteriors.DiagonalNormal(MLP((1, 8, 8), (4,), y_dim=10), 2),
            pv.likelihoods.Bernoulli(MLP((2,), (1, 8, 8), y_dim=10)),
        )
        found = evaluate(vae, data, test_data=20)
        assert found.report["config"]["conditional"]
        assert found.report["classification"]["num_data"] == 20
        x, y = data.test.fixed()[:20], data.test.one_hot(10)[:20]
        alone = evaluate(vae, x, y=y)
        other = pv.evaluation.iwae(vae, x, 60, y, seed=0)
        assert pv.evaluation.paired(alone.log_likelihood, other).mean == pytest.approx(
            (alone.log_likelihood.value - other.value).mean().item()
        )
        assert "classification" not in alone.report
        assert not evaluate(small_vae(2, (1, 8, 8)).float(), data, test_data=9).report["config"]["conditional"]

    def test_the_error_without_labels_is_the_one_that_is_told(self):
        def refuse(x, y=None):
            raise KeyError("without" if y is None else "with")

        bare = SimpleNamespace(model=refuse, guide=refuse)
        with pytest.raises(KeyError, match="without"):
            look_at(bare, rows(2), torch.eye(2), None)


def test_nothing_is_changed():
    vae = small_vae(2)
    vae.prior.eval()
    x = torch.zeros(3, 6, dtype=torch.float64)
    svi = pyro.infer.SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 0.01}), pyro.infer.Trace_ELBO())
    svi.step(x)

    def state():
        store = dict(pyro.get_param_store().items())
        return {**vae.tensors(), **store, "random": torch.get_rng_state()}, [m.training for m in vae.modules()]

    (before, flags) = ({name: tensor.clone() for name, tensor in state()[0].items()}, state()[1])
    evaluate(vae, x)
    after, flags_after = state()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert flags == flags_after


class TestBadInput:
    @pytest.mark.parametrize(
        ("program", "data", "more", "error", "told"),
        [
            (Ratio, rows, {"num_sample": 3}, UsageError, "unknown setting 'num_sample'; did you mean 'num_samples'"),
            *thorough(
                (Ratio, rows, {"num_samples": 1}, UsageError, "`num_samples` must be at least 2; got 1"),
                (Ratio, rows, {"evaluation_seed": 1}, UsageError, "unknown setting 'evaluation_seed'"),
                (object, rows, {}, UsageError, "object has no model and no guide"),
                (Ratio, lambda: rows().numpy(), {}, UsageError, "got ndarray: pv.data.from_arrays"),
                (Ratio, lambda: rows(0), {}, ValueError, "x holds no data"),
                (lambda: small_vae(2), lambda: rows(), {}, ValueError, r"takes tensors \(\*, 6\)"),
                (lambda: small_vae(2), lambda: torch.full((3, 6), 0.5).double(), {}, DataError, "Bernoulli needs x in"),
                (Ratio, rows, {"y": torch.zeros(12)}, UsageError, r"one-hot labels \(12, C\) of 12 data; got \(12,\)"),
                (
                    lambda: labelled(False),
                    lambda: torch.ones(2, 3).int(),
                    {},
                    ValueError,
                    r"got torch.int32: x.float\(\)",
                ),
                (Ratio, rows, {"conditional": True}, UsageError, "these data have none"),
                (Ratio, rows, {"history": [{"epoch": 1}]}, UsageError, "dict lacks loss"),
            ),
        ],
    )
    def test_is_one_sentence_with_the_cure(self, program, data, more, error, told):
        with pytest.raises(error, match=told):
            evaluate(program(), data(), **more)

    def test_sites_that_differ_are_named(self):
        program = Ratio()
        renamed = SimpleNamespace(model=program.model, guide=poutine.infer_config(program.guide, lambda site: {}))
        assert evaluate(renamed, rows()).log_likelihood is not None

        def guide(x):
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("w", dist.Normal(x.sum(-1), 0.5))

        with pytest.raises(ValueError, match=r"same latent sites; only one of them has \['w', 'z'\]"):
            evaluate(SimpleNamespace(model=program.model, guide=guide), rows())

    def test_a_folder_with_a_run_is_left_as_it_is(self, tmp_path):
        (tmp_path / "config.json").write_text("{}")
        with pytest.raises(UsageError, match="is the folder of a run"):
            evaluate(Ratio(), rows(), tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["config.json"]

    @pytest.mark.thorough
    def test_a_folder_with_another_report_is_left_as_it_is(self, tmp_path):
        evaluate(Ratio(), rows(), tmp_path, name="one")
        (tmp_path / "log_likelihood.nc").write_bytes(b"older")
        evaluate(Ratio(), rows(), tmp_path, name="one")  # the same again
        assert (tmp_path / "log_likelihood.nc").read_bytes() != b"older"
        with pytest.raises(UsageError, match="is the report of 'one', and this is one of 'two'"):
            evaluate(Ratio(), rows(), tmp_path, name="two")
        (tmp_path / "report.json").write_text("{")
        with pytest.raises(UsageError, match="is the report of 'something that cannot be read'"):
            evaluate(Ratio(), rows(), tmp_path, name="one")


class TestWhatIsSeen:
    @pytest.mark.parametrize(
        ("law", "support"),
        [
            (lambda z: dist.Poisson(z.exp()), "discrete"),
            *thorough(
                (lambda z: dist.Dirichlet(torch.ones(*z.shape[:-1], 3)), None),
                (lambda z: dist.Binomial(torch.tensor([1.0, 2.0, 3.0]), logits=z), None),
                (lambda z: dist.Gamma(z.exp(), 1.0), "density"),
            ),
        ],
    )
    def test_the_support_is_that_of_the_site(self, law, support):
        def model(x=None):
            with pyro.plate("data", 1 if x is None else len(x), dim=-1):
                z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
                p = law(z)
                pyro.sample("counts", p if p.event_shape else p.to_event(1), obs=x)

        def guide(x):
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))

        x = torch.tensor([[1.0, 0.0, 0.0]]) if support is None else torch.ones(1, 3)
        if support is None:
            x = torch.full((1, 3), 1 / 3) if "Dirichlet" in law.__code__.co_names else x
        seen, _ = look_at(SimpleNamespace(model=model, guide=guide), x, None, None)
        assert seen.latents == {"z": 3}
        assert seen.silent == "the model does not generate without x (it returns NoneType, and not x)"
        if support is None:
            assert seen.support is None
        else:
            assert seen.support.is_discrete == (support == "discrete")

    def test_arguments_are_those_that_a_member_keeps(self):
        assert arguments(pv.priors.StudentT(2, df=7.0)) == "latent_dim=2, df=7.0"
        assert arguments(nn.Linear(3, 4)) == "in_features=3, out_features=4"
