"""A step whose loss or gradient is not finite is never applied: all that a program learns is what it was, bit by bit.

By Pyro, as a traced graph, and with the kernel of the optimiser called directly; by Inductor in one test, and in all of
them with `pytest -m slow`.
"""

import contextlib
import copy
import json
import math
import runpy
from pathlib import Path

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from cases import all_but, needs_compiler, thorough
from exact import binary_data, small_vae
from pyro.infer import RenyiELBO, Trace_ELBO, TraceMeanField_ELBO
from scripted import exit_code
from torch import nn
from torch.distributions.transforms import ExpTransform

import pyro_vae as pv
from pyro_vae.data import Split, Splits
from pyro_vae.errors import DataError, DivergenceError
from pyro_vae.graphs.capture import Graph
from pyro_vae.inference import SVI, ImportanceWeightedELBO, MeanFieldELBO, Progress, Schedule, fit
from pyro_vae.inference.divergence import NO_SITE, fault_on_data

MODES = ["by Pyro", "traced", "steady", pytest.param("compiled", marks=pytest.mark.slow)]
OBJECTIVES = {
    "sampled": Trace_ELBO,
    "particles": lambda: Trace_ELBO(num_particles=3, vectorize_particles=True, max_plate_nesting=1),
    "analytic": TraceMeanField_ELBO,
    "ours": MeanFieldELBO,
    "importance": lambda: ImportanceWeightedELBO(3),
    "renyi": lambda: RenyiELBO(alpha=0, num_particles=3),
}
modes = pytest.mark.parametrize("mode", MODES)
shorter = pytest.mark.parametrize("mode", ["by Pyro", "steady", *MODES[3:]])


@pytest.fixture(autouse=True)
def without_compiler(request, monkeypatch):
    """compile=True without the compiler, but where a test or its mode says compiled."""
    if "compiled" not in request.node.name:
        monkeypatch.setattr(Graph, "compiled", lambda graph, given: graph)


class Rooted(nn.Module):
    """A decoder whose gradient in `weight` is not finite where that is 0, though its value is.

    |w| as the root of w^2 has the derivative 0 / 0 there, and the root of w an infinite one.
    """

    def __init__(self, decoder, kind):
        super().__init__()
        self.decoder, self.kind = decoder, kind
        self.weight = nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, z):
        root = self.weight.square().sqrt() if self.kind == "nan" else self.weight.sqrt()
        return self.decoder(z) + root


def rooted(kind):
    vae = small_vae()
    vae.likelihood.decoder = Rooted(vae.likelihood.decoder, kind)
    return vae


def break_bias(value):
    def broken(vae):
        vae.likelihood.decoder.output_bias[0] = value

    return broken


def break_sigma(vae):
    vae.posterior.encoder.output_bias[3:] = 1e4


def break_root(vae):
    vae.likelihood.decoder.weight.zero_()


FAULTS = {
    "a parameter is NaN": (small_vae, break_bias(math.nan), "loss is .*first at site x of the model"),
    "a parameter is infinite": (small_vae, break_bias(math.inf), "loss is .*first at site x of the model"),
    "sigma overflows": (small_vae, break_sigma, "loss is .*first at site z of the guide"),
    "one gradient is NaN": (
        lambda: rooted("nan"),
        break_root,
        r"gradient is not finite \(first at parameter likelihood.decoder.weight\)",
    ),
    "one gradient is infinite": (
        lambda: rooted("inf"),
        break_root,
        r"gradient is not finite \(first at parameter likelihood.decoder.weight\)",
    ),
}
faults = pytest.mark.parametrize("fault", FAULTS)


def ours(vae, mode="by Pyro", loss=None, **options):
    adam = torch.optim.Adam(vae.parameters(), lr=1e-3, fused=True)
    return SVI(vae.model, vae.guide, adam, loss or Trace_ELBO(), compile=mode != "by Pyro", **options)


def around(svi, mode):
    return svi.steady() if mode == "steady" else contextlib.nullcontext()


def bits(tensors):
    return {name: tensor.detach().cpu().numpy().tobytes() for name, tensor in tensors.items()}


def state(vae, svi):
    """All that a step may change, to the last bit, NaN or not."""
    store = pyro.get_param_store()
    optimizer = svi.optimizer.state_dict()
    slots = {f"{i} {name}": t for i, slot in optimizer["state"].items() for name, t in slot.items()}
    return (
        bits(vae.state_dict()),
        bits(slots),
        json.dumps(optimizer["param_groups"]),
        {name: (id(tensor), *bits({"": tensor}).values()) for name, tensor in store.named_parameters()},
        svi.num_steps,
        [module.training for module in vae.modules()],
    )


def check_refused(vae, svi, message, *arguments, **options):
    before = state(vae, svi)
    with pytest.raises(DivergenceError, match=f"^step {svi.num_steps + 1}: the {message}.*step was not applied"):
        svi.step(*arguments, **options)
    assert state(vae, svi) == before
    assert all(parameter.grad is None for parameter in vae.parameters())


def check_fault(fault, mode, loss, **options):
    build, breaks, message = FAULTS[fault]
    vae, x = build(), binary_data(16)
    svi = ours(vae, mode, loss(), **options)
    with around(svi, mode):
        svi.step(x)
        svi.step(x)
        sound = copy.deepcopy(vae.state_dict())
        with torch.no_grad():
            breaks(vae)
        check_refused(vae, svi, message, x)
        with torch.no_grad():
            for name, tensor in vae.state_dict().items():
                tensor.copy_(sound[name])
        assert math.isfinite(svi.step(x))
        assert svi.num_steps == 3
    assert all(p.isfinite().all() for p in vae.parameters())


@shorter
@pytest.mark.parametrize("fault", all_but(["sigma overflows", "one gradient is NaN"], FAULTS))
def test_a_step_that_is_not_finite_is_not_applied(fault, mode):
    check_fault(fault, mode, Trace_ELBO)


@pytest.mark.parametrize("fault", ["sigma overflows", "one gradient is NaN"])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_nor_is_it_under_any_objective(fault, name):
    check_fault(fault, "by Pyro", OBJECTIVES[name])


@pytest.mark.parametrize("name", [*thorough("particles", "ours"), "importance"])
def test_nor_under_those_that_are_traced(name):
    check_fault("one gradient is NaN", "traced", OBJECTIVES[name])


@pytest.mark.thorough
@modes
def test_clipping_does_not_turn_an_infinite_gradient_into_another(mode):
    check_fault("one gradient is infinite", mode, Trace_ELBO, max_grad_norm=1.0)


@pytest.mark.thorough
@needs_compiler
def test_a_compiled_step_that_is_not_finite_is_not_applied():
    vae, x = rooted("nan"), binary_data(16)
    svi = ours(vae, "compiled")
    svi.step(x)
    with torch.no_grad():
        break_root(vae)
    check_refused(vae, svi, FAULTS["one gradient is NaN"][2], x)
    with torch.no_grad():
        vae.likelihood.decoder.weight.fill_(1.0)
        vae.likelihood.decoder.decoder.output_bias.fill_(math.nan)
    check_refused(vae, svi, "loss is .*first at site x of the model", x)
    (graph,) = svi.graphs._graphs.values()
    assert graph.is_compiled


@pytest.mark.parametrize("mode", MODES[:2])
@pytest.mark.parametrize("fault", ["a parameter is NaN", "one gradient is NaN"])
def test_the_first_step_is_refused_like_the_others(fault, mode):
    build, breaks, message = FAULTS[fault]
    vae = build()
    svi = ours(vae, mode)
    svi.evaluate_loss(binary_data(16))  # which lists the parameters in Pyro's store
    with torch.no_grad():
        breaks(vae)
    check_refused(vae, svi, message, binary_data(16))
    assert not svi.optimizer.state


@pytest.mark.parametrize("mode", ["by Pyro", "steady"])
@pytest.mark.parametrize("fault", ["a parameter is NaN", *thorough("one gradient is NaN")])
def test_the_random_state_is_as_after_any_step(fault, mode):
    build, breaks, _ = FAULTS[fault]
    after = []
    for broken in (False, True):
        vae, x = build(), binary_data(16)
        svi = ours(vae, mode)
        with around(svi, mode):
            svi.step(x)
            with torch.no_grad():
                breaks(vae) if broken else None
            torch.manual_seed(1)
            with pytest.raises(DivergenceError) if broken else contextlib.nullcontext():
                svi.step(x)
        after.append(torch.get_rng_state())
    assert torch.equal(*after)


@faults
def test_without_pyros_validation_it_is_refused_as_well(fault):
    with pyro.validation_enabled(False):
        check_fault(fault, "by Pyro", Trace_ELBO)


@pytest.mark.parametrize("mode", MODES[:2])
def test_a_gradient_whose_norm_overflows_is_refused(mode):
    """Each number is finite; Adam would keep their squares, which are not."""
    vae = small_vae(likelihood=pv.likelihoods.Normal, scale=1e-10).float()
    svi = ours(vae, mode)
    svi.evaluate_loss(torch.ones(4, 6))
    check_refused(vae, svi, "gradient is not finite; the ", torch.ones(4, 6))


def test_hooks_on_parameters_are_heard_and_what_they_return_is_refused():
    vae, x = small_vae(), binary_data(16)
    svi, heard = ours(vae, "traced"), []
    svi.step(x)
    bias = vae.likelihood.decoder.output_bias
    handle = bias.register_hook(lambda gradient: heard.append(1) or gradient * math.inf)
    check_refused(vae, svi, r"gradient is not finite \(first at parameter likelihood.decoder.output_bias\)", x)
    assert heard
    handle.remove()
    svi.step(x)


# One draw of many.


class Cliff(nn.Module):
    """A decoder without a value where z is below -2, one draw of 44."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, z):
        return self.weight * (z + 2).log()


def cliff(mode, loss):
    encoder = nn.Linear(1, 2)
    nn.init.zeros_(encoder.weight)
    nn.init.zeros_(encoder.bias)
    vae = pv.VAE(pv.priors.StandardNormal(1), pv.posteriors.DiagonalNormal(encoder, 1), pv.likelihoods.Normal(Cliff()))
    return vae, ours(vae, mode, loss())


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("mode", "loss"),
    [
        ("by Pyro", lambda: Trace_ELBO(num_particles=20)),
        ("by Pyro", lambda: Trace_ELBO(num_particles=20, vectorize_particles=True, max_plate_nesting=1)),
        ("traced", lambda: Trace_ELBO(num_particles=20, vectorize_particles=True, max_plate_nesting=1)),
        ("by Pyro", lambda: ImportanceWeightedELBO(20)),
        ("traced", lambda: ImportanceWeightedELBO(20)),
    ],
)
@pytest.mark.parametrize("validates", [True, *thorough(False)])
def test_one_particle_of_many_is_enough_and_is_the_one_that_is_named(mode, loss, validates):
    """20 draws are all above -2 in two thirds of all steps, so that another draw would hardly show it."""
    with pyro.validation_enabled(validates):
        vae, svi = cliff(mode, loss)
        refused = 0
        torch.manual_seed(0)
        for _ in range(12):
            before, told = state(vae, svi), ""
            try:
                svi.step(torch.zeros(1, 1))
            except DivergenceError as error:
                refused, told = refused + 1, str(error)
            assert not told or "first at site x of the model" in told
            assert not told or state(vae, svi)[:3] == before[:3]
    assert 0 < refused < 12
    assert all(p.isfinite().all() for p in vae.parameters())


# Its cause.


class NoTail(dist.Normal):
    """A normal whose log_prob is written as the logarithm of what is 0 in float32 beyond 14 standard deviations."""

    def log_prob(self, value):
        return super().log_prob(value).exp().log()


class NoTailPrior(pv.priors.Prior):
    def forward(self, y=None):
        return NoTail(self.loc, self.scale).to_event(1)


def counting(prior):
    """Counts, with an encoder whose scale is the exponential of what it makes of them."""
    torch.manual_seed(0)
    encoder, decoder = nn.Linear(4, 4), pv.networks.MLP((2,), (4,), hidden=(8,))
    nn.init.constant_(encoder.weight, 1e-3)
    return pv.VAE(prior, pv.posteriors.DiagonalNormal(encoder, 2), pv.likelihoods.Poisson(decoder)).float()


def move_far(vae):
    vae.posterior.encoder.bias[:2] = -20.0


def break_decoder(vae):
    vae.likelihood.decoder.output_bias[0] = math.inf


CAUSES = {
    "density": (
        NoTailPrior,
        move_far,
        1.0,
        r"at site z of the model.* not applied: log p of site z \(NoTail\) is -inf at \(-[12]\d.*Correct log_prob",
        "learning rate",
    ),
    "data": (
        pv.priors.StandardNormal,
        lambda vae: None,
        1e9,
        r"site z of the guide.* the scale of site z is inf, because the data reach 1e\+09 at datum 1 of .*Scale",
        "learning rate",
    ),
    "step size": (
        pv.priors.StandardNormal,
        break_decoder,
        1.0,
        r"at site x of the model.* the [a-z_]+ of site x is (inf|nan). Use a smaller learning rate",
        "datum",
    ),
}


@pytest.mark.parametrize("mode", MODES[:2])
@pytest.mark.parametrize("name", CAUSES)
def test_the_cause_is_named_and_no_other(name, mode):
    prior, breaks, largest, message, other = CAUSES[name]
    vae, x = counting(prior(2)), torch.tensor([[0.0, 2, 0, 1], [1, 0, largest, 0]])
    svi = ours(vae, mode)
    svi.step(x.clamp(max=1))
    with torch.no_grad():
        breaks(vae)
    with pytest.raises(DivergenceError, match=message) as caught:
        svi.step(x)
    assert other not in str(caught.value)


@pytest.mark.parametrize("far", [False, True])
def test_the_datum_is_named_where_a_density_is_not_finite_in_validation(far):
    """The encoder takes the first number for the mean, and only the datum 7 lies where the prior has no tail."""
    vae, x = counting(NoTailPrior(2)), torch.zeros(12, 4)
    x[7] = 9.0 if far else 0.0
    with torch.no_grad():
        vae.posterior.encoder.weight[:2], vae.posterior.encoder.bias[:] = -1.0, 0.0
    fault = fault_on_data(vae, 5, x)
    assert ("site z of the model, datum 7)" in fault.where) == far == ("is -inf at (" in fault.cause)
    assert (fault == NO_SITE) != far


class Skewed(pv.priors.Prior):
    """A Gumbel, which is a transformed Uniform."""

    def forward(self, y=None):
        return dist.Gumbel(self.loc, self.scale).to_event(1)


class Bent(pv.priors.Prior):
    """A transformed law without a name, whose density is not finite below -88."""

    def forward(self, y=None):
        law = dist.TransformedDistribution(dist.Exponential(torch.ones(2)), [ExpTransform().inv, ExpTransform()])
        return law.to_event(1)


@pytest.mark.parametrize(("prior", "name"), [(Skewed, "Gumbel"), (Bent, "TransformedDistribution of Exponential")])
def test_the_distribution_is_named_and_not_its_base(prior, name):
    vae = counting(prior(2))
    with torch.no_grad():
        vae.posterior.encoder.bias[:2] = -1000.0
    assert f"log p of site z ({name}) is " in fault_on_data(vae, 2, torch.zeros(3, 4)).cause


def test_data_are_scaled_by_what_a_program_of_ones_own_and_a_run_have():
    fault = fault_on_data(counting(pv.priors.StandardNormal(2)), 2, torch.full((1, 4), 1e9))
    assert "pv.scaling.ColumnScale does so in a program of your own, `standardize='yes'` in a run" in fault.cure
    assert pv.scaling.ColumnScale


def test_data_that_are_refused_when_cut_are_not_the_cause():
    class Large(pv.likelihoods.Poisson):
        support = dist.constraints.integer_interval(5, 10**9)

    vae = counting(pv.priors.StandardNormal(2))
    vae.likelihood = Large(vae.likelihood.decoder)
    svi = ours(vae)
    with torch.no_grad():
        break_decoder(vae)
    with pytest.raises(DivergenceError, match="No step was made yet"):
        svi.step(torch.full((2, 4), 20.0))


# What is the user's mistake stays it; what a diverged network does is divergence.


class Factorised(pv.posteriors.DiagonalNormal):
    """A member of one's own with a factorisation, which breaks off where its matrix is not positive."""

    def forward(self, x, y=None):
        loc, s = self.encode(x, y).chunk(2, -1)
        return dist.MultivariateNormal(loc, scale_tril=torch.linalg.cholesky(s.diag_embed() + torch.eye(3)))


def test_a_factorisation_that_breaks_off_is_divergence():
    vae, x = small_vae(), binary_data(16)
    vae.posterior = Factorised(vae.posterior.encoder, 3)
    svi = ours(vae)
    svi.step(x)
    with torch.no_grad():
        vae.posterior.encoder.output_bias[3:] = -1e4
    check_refused(vae, svi, "loss is not finite", x)


@pytest.mark.parametrize("mode", MODES[:2])
def test_a_label_that_is_no_number_is_never_learned_from(mode):
    encoder, decoder = pv.networks.MLP((6,), (4,), y_dim=2), pv.networks.MLP((2,), (6,), y_dim=2)
    vae = pv.VAE(
        pv.priors.ConditionalNormal(2, 2), pv.posteriors.DiagonalNormal(encoder, 2), pv.likelihoods.Bernoulli(decoder)
    )
    svi, x, y = ours(vae, mode), binary_data(4).float(), torch.eye(2)[[0, 1, 1, 0]]
    svi.step(x, y)
    wrong = y.clone()
    wrong[2, 0] = math.nan
    before = state(vae, svi)
    with pytest.raises((DivergenceError, DataError)):
        svi.step(x, wrong)
    assert state(vae, svi) == before
    svi.step(x, y)


# Epochs.

BATCH, SIZE = 8, 42


def splits(bad=(), valid=0.0):
    """Real data, of which some are too large to be squared in float32."""
    made = {}
    for name, size in (("train", SIZE), ("valid", 10), ("test", 10)):
        levels = np.random.default_rng(0).normal(size=(size, 4)).astype(np.float32)
        if name == "train":
            levels[list(bad)] = 1e30
        levels = levels + (valid if name == "valid" else 0.0)
        made[name] = Split.make(name, torch.from_numpy(levels.astype(np.float32)), None, 0, "none", 0)
    return Splits(**made, x_shape=(4,), num_classes=0, protocol={})


class Watched(SVI):
    """Keeps the state before each step."""

    def step_from(self, *args, **kwargs):
        self.before = state(self.vae, self)
        return super().step_from(*args, **kwargs)


def program(mode="by Pyro"):
    torch.manual_seed(0)
    vae = pv.VAE(
        pv.priors.StandardNormal(2),
        pv.posteriors.DiagonalNormal(pv.networks.MLP((4,), (4,), hidden=(8,)), 2),
        pv.likelihoods.Normal(pv.networks.MLP((2,), (4,), hidden=(8,)), scale=1.0),
    )
    vae.list_parameters()
    adam = torch.optim.Adam(vae.parameters(), lr=1e-3, fused=True)
    svi = Watched(vae.model, vae.guide, adam, MeanFieldELBO(), compile=mode != "by Pyro")
    svi.vae = vae
    return vae, svi


def datum_of(step):
    """A datum that the first epoch comes to in this step, counted from 1."""
    train = splits().train
    batches = list(train.raw_batches(BATCH, seed=0, epoch=0))
    return int((train.levels == batches[step - 1][0][0]).all(-1).nonzero()[0])


@pytest.mark.parametrize(
    ("step", "mode"), [(1, "by Pyro"), (3, "by Pyro"), (6, "by Pyro"), (1, "traced"), (6, "traced")]
)
def test_an_epoch_ends_at_the_step_that_diverges_with_the_state_before_it(step, mode):
    """Step 1, one in the middle, and the last one, of the two data that are left over."""
    vae, svi = program(mode)
    progress = Progress()
    message = rf"^step {step}: the loss is .* \(first at site z of the guide\); the step was not applied"
    with pytest.raises(DivergenceError, match=message):
        list(fit(vae, svi, splits([datum_of(step)]), Schedule(epochs=2, batch_size=BATCH), progress=progress))
    assert state(vae, svi) == svi.before
    assert svi.num_steps == step - 1
    assert progress.epoch == 0
    assert all(p.isfinite().all() for p in vae.parameters())


def test_validation_that_is_not_finite_is_divergence_though_every_step_was_sound():
    vae, svi = program()
    progress = Progress()
    with pytest.raises(DivergenceError, match="epoch 1: the validation ELBO is not finite"):
        list(fit(vae, svi, splits(valid=1e30), Schedule(epochs=2, batch_size=BATCH), progress=progress))
    assert svi.num_steps == 6
    assert progress.epoch == 0
    assert all(p.isfinite().all() for p in vae.parameters())


# Runs.

SCRIPT = Path(__file__).parents[2] / "scripts" / "train_svi.py"
SMALL = ["--hidden", "8", "--latent-dim", "2", "--test-samples", "20", "--elbo-samples", "5", "--batch-size", "8"]


@pytest.fixture
def run(tmp_path):
    """A folder with data, and what runs the script on them: the exit code."""
    rng = np.random.default_rng(0)
    np.save(tmp_path / "data.npy", rng.random((60, 4, 4)) < np.linspace(0.1, 0.9, 4))
    main = runpy.run_path(str(SCRIPT))["main"]

    def start(*arguments):
        return exit_code(main, [*arguments, "--out", tmp_path / "run"])

    start.folder, start.data = tmp_path / "run", tmp_path / "data.npy"
    return start


def status(folder):
    return json.loads((folder / "run.json").read_text())["status"]


@pytest.mark.thorough
def test_a_run_that_diverged_can_be_taken_up_again_from_its_last_epoch(run, monkeypatch, capsys):
    """The same rate diverges at the same step again; whatever made it diverge gone, it ends as it would have."""
    from pyro_vae.inference import fitting

    rate = fitting.learning_rate_factor
    arguments = ["--dataset", run.data, "--epochs", 4, *SMALL]
    with monkeypatch.context() as patch:
        patch.setattr(fitting, "learning_rate_factor", lambda s, epoch, n: rate(s, epoch, n) * 1e9 ** (epoch > 1))
        assert run(*arguments) == 5
        first = capsys.readouterr().err
        kept = {path.name: path.read_bytes() for path in (run.folder / "checkpoints").iterdir()}
        assert status(run.folder) == "diverged"
        assert all(p.isfinite().all() for p in pv.load(run.folder).parameters())
        assert run("--resume") == 5
        assert capsys.readouterr().err.splitlines()[-1] == first.splitlines()[-1]
        assert first.splitlines()[-1].startswith("error: step ")
        assert {path.name: path.read_bytes() for path in (run.folder / "checkpoints").iterdir()} == kept
    assert run("--resume") == 0
    assert status(run.folder) == "finished"
    assert len((run.folder / "history.jsonl").read_text().splitlines()) == 4
