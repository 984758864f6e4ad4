"""What the page on loops of one's own shows of packages that are no dependencies, where they are installed."""

import copy
import warnings
from pathlib import Path

import fenced
import pandas as pd
import pyro
import pytest
import torch
from torch.utils.data import DataLoader, Subset, TensorDataset

import pyro_vae as pv
from pyro_vae.inference import SVI, Objective, Schedule, fit

PAGE = Path(__file__).parents[2] / "docs" / "own_loops.md"
TEXT = PAGE.read_text(encoding="utf-8")
SHOWN = {block.splitlines()[0].split()[-1]: block for block in fenced.blocks(TEXT, "py")}  # by what they begin with
X = torch.rand(70, 4, generator=torch.Generator().manual_seed(0)).round()
LABELS = torch.arange(70) % 3


def build(y_dim=0, seed=0):
    pyro.set_rng_seed(seed)
    encoder, decoder = pv.networks.MLP((4,), (4,), y_dim=y_dim), pv.networks.MLP((2,), (4,), y_dim=y_dim)
    return pv.VAE(
        pv.priors.StandardNormal(2), pv.posteriors.DiagonalNormal(encoder, 2), pv.likelihoods.Bernoulli(decoder)
    )


def step_of(vae, **options):
    adam = torch.optim.Adam(vae.parameters(), lr=1e-2)
    return SVI(vae.model, vae.guide, adam, pyro.infer.Trace_ELBO(), **options)


class TestBatches:
    def test_a_short_last_batch_weighs_by_its_size(self):
        """A step that changes nothing: the losses of the batches are those of all data."""
        vae = build()
        still = torch.optim.SGD(vae.parameters(), lr=0.0)
        svi = SVI(vae.model, vae.guide, still, pv.inference.MeanFieldELBO(), compile=False)
        loader = DataLoader(Subset(TensorDataset(X), range(69)), batch_size=32)
        assert [len(x) for (x,) in loader] == [32, 32, 5]
        losses = torch.tensor([sum(svi.step(x) for (x,) in loader) for _ in range(10)])
        whole = -pv.evaluation.elbo(vae, X[:69], 300, seed=0).value.sum()
        assert abs(losses.mean() - whole) < 4 * losses.std() / 10**0.5 + 0.1

    @pytest.mark.parametrize("step", ["svi", "objective", "stock"])
    def test_a_whole_batch_is_refused_with_the_line_that_takes_it_apart(self, step):
        vae = build()
        (batch, *_) = DataLoader(TensorDataset(X), 32)
        calls = {
            "svi": step_of(vae).step,
            "objective": Objective(vae, pyro.infer.Trace_ELBO()),
            "stock": pyro.infer.SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-3}), pyro.infer.Trace_ELBO()).step,
        }
        with pytest.raises(TypeError, match=r"got list: it holds tensors, like a batch of a DataLoader.*x, \*_ in"):
            calls[step](batch)
        calls[step](*batch)

    def test_other_things_that_are_no_tensor_have_their_own_cure(self):
        vae = build()
        with pytest.raises(TypeError, match=r"got dict: x is one of its values, under one of the keys image, label"):
            step_of(vae).step({"image": X, "label": LABELS})
        with pytest.raises(TypeError, match=r"got DataLoader: .* torch.cat\(\[x for x, \*_ in loader\]\)"):
            pv.evaluation.iwae(vae, DataLoader(TensorDataset(X)), 2)
        pv.evaluation.iwae(vae, torch.cat([x for x, *_ in DataLoader(TensorDataset(X, LABELS), 32)]), 2)

    def test_labels_of_a_loader_become_one_hot_of_any_type(self):
        vae = build(y_dim=3)
        for x, y in DataLoader(TensorDataset(X, LABELS), 32):
            with pytest.raises(ValueError, match=r"labels y are one-hot, \(B, C\); got shape \(\d+,\).*one_hot"):
                step_of(vae).step(x, y)
            hot, losses = pv.data.one_hot(y, 3), []
            for given in (hot, hot.long(), hot.double()):
                torch.manual_seed(0)
                losses.append(step_of(vae).evaluate_loss(x, given))
            assert losses[0] == losses[1] == losses[2]


class TestParts:
    def test_an_objective_of_something_else_is_refused(self):
        vae = build()
        with pytest.raises(TypeError, match=r"a program has a model and a guide, Objective\(vae, loss\); got method"):
            Objective(vae.model, pyro.infer.Trace_ELBO())
        for loss in ("trace_elbo", pyro.infer.Trace_ELBO):
            with pytest.raises(TypeError, match=r"loss must be an ELBO, e\.g\. pyro\.infer\.Trace_ELBO\(\); got"):
                Objective(vae, loss)

    @pytest.mark.parametrize("data", [X, DataLoader(TensorDataset(X))], ids=["tensor", "loader"])
    def test_fit_says_what_it_takes(self, data):
        vae = build()
        with pytest.raises(TypeError, match=r"data must be Splits, pv\.data\.from_arrays\(x\); got .*svi\.step\(x\)"):
            next(fit(vae, step_of(vae), data, Schedule(epochs=1)))
        splits = pv.data.from_arrays(X)
        assert next(fit(vae, step_of(vae), splits, Schedule(epochs=1))).epoch == 1

    def test_fit_refuses_before_its_first_step_what_it_could_not_validate(self):
        vae = build()

        class Shared(pv.Program):
            def __init__(self):
                super().__init__()
                self.vae = build()

            def model(self, x=None, y=None):
                pyro.sample("shift", pyro.distributions.Normal(0.0, 1.0))
                return self.vae.model(x)

            def guide(self, x, y=None):
                pyro.sample("shift", pyro.distributions.Normal(0.0, 1.0))
                return self.vae.guide(x)

        svi, splits = step_of(vae), pv.data.from_arrays(X)
        with pytest.raises(ValueError, match="site shift is outside the data plate"):
            next(fit(Shared(), svi, splits, Schedule(epochs=1)))
        with pytest.raises(TypeError, match=r"fit trains a Program, such as pv\.VAE; got Linear\. .*svi\.step"):
            next(fit(torch.nn.Linear(1, 1), svi, splits, Schedule(epochs=1)))
        assert svi.num_steps == 0

    def test_a_scheduler_of_torch_moves_the_rate_of_steps(self):
        vae = build()
        svi = step_of(vae)
        halve = torch.optim.lr_scheduler.StepLR(svi.optimizer, 1, gamma=0.5)
        before = vae.likelihood.decoder.output_bias.detach().clone()
        svi.step(X)
        first = (vae.likelihood.decoder.output_bias - before).abs().max().item()
        assert first == pytest.approx(1e-2, rel=1e-3)  # Adam's first step is the rate
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            halve.step()
        assert svi.optimizer.param_groups[0]["lr"] == 5e-3

    def test_a_resumed_loop_steps_as_the_one_that_went_on(self):
        vae = build()
        svi = step_of(vae, compile=False)
        svi.step(X)
        again = build(seed=7)
        resumed = step_of(again, compile=False)
        again.load_state_dict(vae.state_dict())
        resumed.optimizer.load_state_dict(copy.deepcopy(svi.optimizer.state_dict()))  # torch would share its tensors
        losses = []
        for each in (svi, resumed):
            torch.manual_seed(1)
            losses.append([each.step(X) for _ in range(3)])
        assert losses[0] == losses[1]

    def test_a_program_in_evaluation_trains_and_stays_there(self):
        vae = build().eval()
        before = vae.likelihood.decoder.output_bias.detach().clone()
        step_of(vae).step(X)
        assert not vae.training
        assert not before.equal(vae.likelihood.decoder.output_bias)


def test_records_make_a_table():
    vae = build()
    records = fit(vae, step_of(vae), pv.data.from_arrays(X), Schedule(epochs=2))
    table = pd.DataFrame([record.to_dict() for record in records])
    assert table["epoch"].tolist() == [1, 2]
    assert table["valid_elbo"].dtype == float


def namespace():
    """What the blocks before have made, at a smaller size."""

    def show(vae):
        print(pv.evaluation.elbo(vae, X, 2, seed=0))

    loader = DataLoader(TensorDataset(X), batch_size=32)
    return {
        "pv": pv, "pyro": pyro, "torch": torch, "DataLoader": DataLoader, "TensorDataset": TensorDataset,
        "build": build, "show": show, "loader": loader, "valid_x": X,
    }  # fmt: skip


@pytest.mark.filterwarnings("ignore")  # of its own about workers and devices
def test_lightning_trains_by_its_own_step_and_by_ours():
    pytest.importorskip("lightning", reason="pip install lightning")
    names = namespace()
    exec(SHOWN["lightning"], names)  # noqa: S102 - the page is ours
    bound = names["trainer"].callback_metrics["valid_elbo"].item()
    assert bound == pytest.approx(pv.evaluation.elbo(names["vae"], X, 100, seed=0).mean, abs=0.5)
    before = pv.evaluation.elbo(build(), X, 100, seed=0).mean
    assert bound > before
    exec(SHOWN["Manual(Lit):"], names)  # noqa: S102
    vae = build()
    trainer = names["lightning"].Trainer(max_epochs=20, accelerator="cpu", **names["quiet"])
    trainer.fit(names["Manual"](vae), names["loader"])
    assert pv.evaluation.elbo(vae, X, 100, seed=0).mean > before


@pytest.mark.filterwarnings("ignore")
def test_mlflow_keeps_the_records(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="pip install mlflow")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # a data base needs more packages
    mlflow.set_tracking_uri(f"file://{tmp_path}/mlruns")
    names, vae = namespace(), build()
    names |= {"vae": vae, "svi": step_of(vae), "data": pv.data.from_arrays(X), "schedule": Schedule(epochs=2)}
    exec(SHOWN["mlflow"], names)  # noqa: S102
    assert mlflow.last_active_run().data.metrics["epoch"] == 2.0
