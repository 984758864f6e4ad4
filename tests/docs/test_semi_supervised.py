"""The program of docs/semi_supervised.md: its two sums over y against each other, loops and a closed form."""

import math
import re
import runpy
from pathlib import Path

import pyro
import pytest
import torch
from exact import ConditionalProbabilisticPCA
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceEnum_ELBO
from torch import nn

import pyro_vae as pv

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "docs" / "programs" / "semi_supervised.py"
PAGE = (ROOT / "docs" / "semi_supervised.md").read_text(encoding="utf-8")
M2, Objective, build, divide, batches, train_on_labels, arguments, main = map(
    runpy.run_path(str(SCRIPT)).get,
    ("M2", "Objective", "build", "divide", "batches", "train_on_labels", "arguments", "main"),
)
ENUMERATED = TraceEnum_ELBO(max_plate_nesting=1)


@pytest.fixture(scope="module")
def digits():
    return pv.data.load("digits", binarize="dynamic")


@pytest.fixture
def program(digits):
    """In float64, with weights large enough for y and z to matter."""
    m2 = build(digits, "bernoulli", latent_dim=3, hidden=8).double()
    with torch.no_grad():
        for parameter in m2.parameters():
            parameter.mul_(2.0)
    return m2


@pytest.fixture
def x(digits):
    return digits.test.fixed()[:6].double()


def bound(objective, model, guide, *args):
    """Minus a bound, and its gradient."""
    torch.manual_seed(7)
    loss = objective.differentiable_loss(model, guide, *args)
    loss.backward()
    owner = model.__self__
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in owner.parameters()]
    owner.zero_grad()
    return loss.detach(), gradients


def in_a_loop(m2, x):
    """Minus the bound of each datum and class in turn, at the draws of z that the guide makes under the same seed."""
    torch.manual_seed(7)
    C = len(m2.classes)
    with poutine.trace() as traced:
        m2.summed_guide(x)
    eps = traced.trace.nodes["z"]["value"].detach(), m2.vae.posterior(x.expand(C, *x.shape), m2.classes)
    eps = ((eps[0] - eps[1].mean) / eps[1].stddev).detach()
    loss = 0.0
    for b, datum in enumerate(x):
        log_q = m2.classifier(datum[None])[0].log_softmax(0)
        for c, y in enumerate(torch.eye(C).double()):
            q = m2.vae.posterior(datum[None], y[None])
            z = q.mean + q.stddev * eps[c, b]
            log_p = m2.vae.likelihood(z, y[None]).log_prob(datum[None]) + m2.vae.prior(y[None]).log_prob(z)
            elbo = log_p - math.log(C) - q.log_prob(z)
            loss = loss - log_q[c].exp() * (elbo.sum() - log_q[c])
    return loss


def test_enumeration_the_sum_by_hand_and_a_loop_are_one_bound_with_one_gradient(program, x):
    enumerated, its_gradient = bound(ENUMERATED, program.model, program.guide, x)
    summed, gradient = bound(Trace_ELBO(), program.summed_model, program.summed_guide, x)
    looped = in_a_loop(program, x)
    looped.backward()
    assert enumerated.item() == pytest.approx(looped.item(), rel=1e-12)
    assert summed.item() == pytest.approx(looped.item(), rel=1e-12)
    for parameter, one, other in zip(program.parameters(), its_gradient, gradient, strict=True):
        size = parameter.grad.abs().max().item()
        assert size > 0
        assert (one - parameter.grad).abs().max() < 1e-11 * size
        assert (other - parameter.grad).abs().max() < 1e-11 * size


class LogPosterior(nn.Module):
    """The exact q(y|x) of a linear-Gaussian program whose classes are as probable."""

    def __init__(self, truth):
        super().__init__()
        self.truth = truth

    def forward(self, x):
        return self.truth.log_likelihood(x).T


def test_with_the_exact_posterior_both_bounds_are_log_p_for_any_draw():
    truth = ConditionalProbabilisticPCA()
    m2 = M2(truth.vae(), LogPosterior(truth), 3).double()
    x, labels = truth.data(40, torch.full((3,), 1 / 3).double())
    each = truth.log_likelihood(x) - math.log(3)
    for loss, pair in ((ENUMERATED, (m2.model, m2.guide)), (Trace_ELBO(), (m2.summed_model, m2.summed_guide))):
        assert loss.loss(*pair, x) == pytest.approx(-each.logsumexp(0).sum().item(), rel=1e-12)
    known = Trace_ELBO().loss(m2.model, m2.guide, x, torch.eye(3).double()[labels])
    assert known == pytest.approx(-each.gather(0, labels[None]).sum().item(), rel=1e-12)


def test_the_objective_is_the_sum_of_its_three_terms(program, x, digits):
    labels = digits.test.labels[:4]
    known, y = x[:4], torch.eye(10).double()[labels]
    objective = Objective(program, labelled=0.3, classification=0.7)
    torch.manual_seed(3)
    total = Trace_ELBO().loss(objective.model, objective.guide, x, known, y)
    torch.manual_seed(3)  # the draws of the one bound and then of the other
    unlabelled = Trace_ELBO().loss(program.summed_model, program.summed_guide, x)
    labelled = Trace_ELBO().loss(program.model, program.guide, known, y)
    classified = nn.functional.cross_entropy(program.classifier(known), labels, reduction="sum").item()
    assert total == pytest.approx(unlabelled + 0.3 * labelled + 0.7 * classified, rel=1e-12)


def test_a_class_that_is_ruled_out_breaks_neither_loss_nor_gradient(program, x):
    with torch.no_grad():
        program.classifier.output_bias[0] = -1e4
    loss, gradient = bound(Trace_ELBO(), program.summed_model, program.summed_guide, x)
    assert loss.isfinite()
    assert all(part.isfinite().all() for part in gradient)
    assert loss.item() == pytest.approx(bound(ENUMERATED, program.model, program.guide, x)[0].item(), rel=1e-12)


def test_data_are_divided_evenly_over_classes(digits):
    known, unknown = divide(digits.train, 50, 10, seed=0)
    assert known.labels.bincount().tolist() == [5] * 10
    assert len(known) + len(unknown) == len(digits.train)
    rows = torch.cat([known.levels, unknown.levels]).flatten(1)
    assert torch.equal(rows.unique(dim=0), digits.train.levels.flatten(1).unique(dim=0))
    x, y = next(batches(known, 50, 10, seed=0))
    assert (x.shape, y.sum(0).tolist()) == ((50, 1, 8, 8), [5.0] * 10)


@pytest.mark.parametrize("labels", [5, 101, 5000])
def test_labels_that_are_too_few_uneven_or_too_many_are_refused(labels, digits):
    with pytest.raises(ValueError, match=f"labels={labels}"):
        divide(digits.train, labels, 10, seed=0)


def test_stock_svi_trains_all_of_it(program, x):
    before = [p.detach().clone() for p in program.parameters()]
    svi = pyro.infer.SVI(program.model, program.guide, pyro.optim.Adam({"lr": 0.01}), ENUMERATED)
    svi.step(x)
    moved = [(p - old).abs().max().item() for p, old in zip(program.parameters(), before, strict=True)]
    assert min(moved) > 0.009  # by the rate, once: a parameter listed twice would move twice
    assert max(moved) < 0.011


def test_the_page_shows_the_program_and_flags_that_it_has():
    source = SCRIPT.read_text(encoding="utf-8")
    assert re.search(r"class M2.*?(?=\n\n\n)", source, re.DOTALL)[0] in PAGE
    commands = re.findall(r"python docs/programs/semi_supervised.py (.*)", PAGE.replace("\\\n", " "))
    assert len(commands) >= 3
    for flags in commands:
        arguments(flags.split())


@pytest.mark.thorough
def test_importance_sampling_with_y_drawn_finds_the_same_evidence(program, digits):
    """y from q(y|x), or summed out: 100 data, within 4 standard errors of their difference."""
    x, p = digits.test.fixed()[:100].double(), torch.full((10,), 0.1)
    summed = pv.evaluation.evidence(program.vae, x, p, 500, seed=0)
    drawn = pv.evaluation.iwae(program, x, 5000, seed=0)
    error = math.hypot(summed.monte_carlo_error, drawn.monte_carlo_error)
    assert abs(summed.mean - drawn.mean) < 4 * error


@pytest.mark.thorough
def test_the_script_beats_labels_alone(capsys):
    """By more than 4 standard errors of the paired difference, over the 1,697 digits whose labels it has not seen."""
    m2 = main(["--labels", "100"])
    printed = capsys.readouterr().out
    for line in (r"labels only +[\d.]+%", r"M2, q\(y\|x\) +[\d.]+%", r"M2, p\(y\|x\) +[\d.]+%", r"log p\(x\) +-\d"):
        assert re.search(line, printed)
    data = pv.data.load("digits", dequantize=True)
    known, unknown = divide(data.train, 100, 10, seed=0)
    torch.manual_seed(0)
    alone = build(data, "normal", latent_dim=10, hidden=200)
    train_on_labels(alone.classifier, known, seed=0)
    splits = unknown, data.valid, data.test
    with torch.no_grad():
        gain = torch.cat([right(m2, split) - right(alone, split) for split in splits])
    assert len(gain) == 1697
    assert gain.mean() > 4 * gain.std() / math.sqrt(len(gain))


def right(m2, split):
    return (m2.classifier(split.fixed()).argmax(-1) == split.labels).double()
