"""pv.train: the loop of `fit` with the defaults of the command line; its program, records and errors are the loop's."""

import signal

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from cases import thorough
from exact import small_vae
from torch import nn

import pyro_vae as pv
from pyro_vae.errors import DataError, UsageError
from pyro_vae.experiment import build
from pyro_vae.experiment.config import Config
from pyro_vae.experiment.train.program_training import SETTINGS

DATA = pv.data.from_arrays((np.random.default_rng(0).random((60, 6)) < 0.4).astype(np.uint8), np.arange(60) % 3)
FEW = {"epochs": 3, "batch_size": 20, "lr": 0.01, "quiet": True}


def vae(seed=0, **networks):
    MLP = pv.networks.MLP
    torch.manual_seed(seed)
    return pv.VAE(
        pv.priors.StandardNormal(2),
        pv.posteriors.DiagonalNormal(MLP((6,), (4,), hidden=(8,), **networks), 2),
        pv.likelihoods.Bernoulli(MLP((2,), (6,), hidden=(8,), **networks)),
    )


class Own(pv.Program):
    """A program of a user's own, that can neither start nor check data."""

    def __init__(self, law=lambda logits: dist.Bernoulli(logits=logits)):
        super().__init__()
        self.encoder, self.decoder, self.law = nn.Linear(6, 2), nn.Linear(2, 6), law

    def model(self, x=None, y=None):
        self.list_parameters()
        with pyro.plate("data", 1 if x is None else len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            return pyro.sample("x", self.law(self.decoder(z)).to_event(1), obs=x)

    def guide(self, x, y=None):
        self.list_parameters()
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(self.encoder(x), 0.5).to_event(1))


def test_it_trains_what_the_command_line_trains():
    """As a run of the same settings and seed would, from the same first parameters."""
    config = Config(epochs=3, batch_size=20, lr=0.01, seed=4, conditional=False)
    by_hand, ours = vae(), vae()
    build.start(config, by_hand, DATA)
    schedule = build.schedule(config, len(DATA.train))
    records = list(pv.inference.fit(by_hand, build.svi(config, by_hand), DATA, schedule, seed=4))
    trained = pv.train(ours, DATA, seed=4, **FEW)
    assert trained.history == records
    assert trained.best_epoch == max(record.epoch for record in records if record.best)
    assert trained.program is ours
    tensors = by_hand.tensors()
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in ours.tensors().items())


def test_defaults_and_ranges_are_those_of_the_flags():
    names = {field.name for field in Config.__dataclass_fields__.values()}
    assert names >= set(SETTINGS)
    with pytest.raises(UsageError, match="`lr` must be above 0; got -1"):
        pv.train(vae(), DATA, **{**FEW, "lr": -1.0})


@pytest.mark.thorough
def test_labels_are_given_where_a_program_does_not_run_without():
    told = []
    program = vae(y_dim=3)
    pv.train(program, DATA, callback=told.append, **FEW)
    assert [record.epoch for record in told] == [1, 2, 3]
    x, y = DATA.test.fixed(), DATA.test.one_hot(3)
    assert pv.evaluation.elbo(program, x, 4, y, seed=0).mean < 0


@pytest.mark.thorough
def test_an_objective_and_an_optimiser_of_ones_own():
    program = Own()
    steps = torch.optim.SGD(program.parameters(), lr=1e-3)
    settings = {name: value for name, value in FEW.items() if name != "lr"}
    before = {name: tensor.clone() for name, tensor in program.tensors().items()}
    trained = pv.train(
        program,
        DATA,
        objective=pv.inference.ImportanceWeightedELBO(3),
        optimizer=steps,
        lr_schedule="constant",
        **settings,
    )
    assert trained.history[0].valid_bound is not None
    assert "bound" in str(trained)
    assert all(not torch.equal(tensor, before[name]) for name, tensor in program.tensors().items())
    assert trained.history[-1].learning_rate == 1e-3


@pytest.mark.thorough
def test_it_goes_on_without_a_new_start():
    program = vae()
    pv.train(program, DATA, **FEW)
    bias = program.likelihood.decoder.output_bias.clone()
    first = pv.evaluation.elbo(program, DATA.valid.fixed(), 200, seed=0).mean
    again = pv.train(program, DATA, start=False, **{**FEW, "epochs": 1, "lr": 1e-12})
    assert torch.allclose(program.likelihood.decoder.output_bias, bias, atol=1e-6)
    assert again.best.valid_elbo == pytest.approx(first, abs=0.2)


def test_the_callers_state_is_left_alone():
    program = vae().eval()
    state = torch.get_rng_state()
    pv.train(program, DATA, **{**FEW, "epochs": 1})
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(module.training for module in program.modules())


@pytest.mark.parametrize("signals", [signal.SIGINT])
def test_an_interruption_leaves_the_best_epoch_and_is_raised(signals, capfd):
    program, told = vae(), []

    def stop(record):
        told.append((record, {name: tensor.clone() for name, tensor in program.tensors().items()}))
        if record.epoch == 3:
            signal.raise_signal(signals)

    with pytest.raises(KeyboardInterrupt):
        pv.train(program, DATA, callback=stop, **{**FEW, "epochs": 50, "lr": 0.5})
    assert len(told) == 3
    best = [tensors for record, tensors in told if record.best][-1]
    assert all(torch.equal(tensor, best[name]) for name, tensor in program.tensors().items())
    assert "interrupted" in capfd.readouterr().err


class TestWhatIsShown:
    @pytest.mark.thorough
    def test_lines_where_there_is_no_terminal(self, capsys):
        pv.train(vae(), DATA, **{**FEW, "quiet": False})
        lines = capsys.readouterr().out.splitlines()
        assert [line.split()[1] for line in lines] == ["1/3", "2/3", "3/3"]
        pv.train(vae(), DATA, **FEW)
        assert capsys.readouterr().out == ""

    @pytest.mark.thorough
    def test_the_result(self):
        trained = pv.train(vae(), DATA, **FEW)
        first, second = str(trained).splitlines()
        assert first.startswith("VAE: 3 epochs in ")
        assert second.startswith(
            f"best on validation data: epoch {trained.best_epoch}, ELBO {trained.best.valid_elbo:.3f}"
        )
        (axes,) = trained.plot().axes
        assert [len(line.get_xdata()) for line in axes.lines] == [3, 3, 1]
        assert trained._repr_html_().startswith("<p>VAE: 3 epochs")
        assert 'src="data:image/png;base64,' in trained._repr_html_()


class TestBadInput:
    @pytest.mark.parametrize(
        ("program", "more", "error", "told"),
        [
            (vae, {"lrr": 1}, UsageError, "unknown setting 'lrr'; did you mean 'lr'"),
            *thorough(
                (object, {}, UsageError, "object has no model and no guide"),
                (lambda: nn.Linear(2, 2), {}, UsageError, "Linear has no model and no guide"),
                (vae, {"objective": "iwa"}, UsageError, "unknown objective 'iwa'; did you mean 'iwae'"),
                (vae, {"objective": "iwae", "kl_warmup": 2}, UsageError, "no separate KL"),
                (
                    vae,
                    {"objective": pyro.infer.Trace_ELBO(), "num_particles": 2},
                    UsageError,
                    "belongs to the objective",
                ),
                (vae, {"optimizer": pyro.optim.Adam({"lr": 1.0})}, UsageError, "`lr` belongs to the optimiser"),
                (lambda: vae(y_dim=4), {}, ValueError, "pass one-hot labels"),
                (lambda: small_vae(2), {}, ValueError, "torch.float64; got torch.float32"),
            ),
        ],
    )
    def test_is_one_sentence_with_the_cure(self, program, more, error, told):
        with pytest.raises(error, match=told):
            pv.train(program(), DATA, **{**FEW, **more})

    @pytest.mark.parametrize("program", [vae, *thorough(Own)])
    def test_data_outside_the_support_are_named_by_their_row(self, program):
        x = np.zeros((40, 6), np.float32)
        x[17, 3] = 0.25
        data = pv.data.from_arrays(x)
        with pytest.raises(DataError, match=r"0\.25 at row 17"):
            pv.train(program(), data, **FEW)

    def test_data_are_splits(self):
        with pytest.raises(UsageError, match=r"`data` must be Splits, .* got Tensor: pv\.data"):
            pv.train(vae(), torch.zeros(9, 6), **FEW)
