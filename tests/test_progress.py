"""What long work says of itself: shares that add up, sections that are all there, and silence where no one asked."""

import os
import re
import subprocess
import sys
from contextlib import suppress
from types import SimpleNamespace

import pytest
import torch
from cases import thorough

import pyro_vae as pv
from pyro_vae import progress
from pyro_vae.evaluation.annealing import annealed
from pyro_vae.experiment.evaluate import expected_work
from pyro_vae.experiment.evaluate.evaluated_run import HeadlinePlan, Subject
from pyro_vae.experiment.evaluate.evaluation_plan import Plan
from pyro_vae.experiment.evaluate.given_program import GivenProgram
from pyro_vae.progress import planned, section, stage, through, watched
from pyro_vae.progress_display import Lines, view

QUICK = {"num_samples": 60, "elbo_samples": 10, "annealed_data": 3, "num_temperatures": 3, "num_chains": 2,
         "latent_samples": 2, "latent_data": 40}  # fmt: skip

CHAINS = {"num_draws": 4, "num_warmup": 3, "num_chains": 2, "max_tree_depth": 2}


class Recorder(progress.Watcher):
    """Keeps the share of the whole at each change, and the names of all stages."""

    def __init__(self):
        super().__init__()
        self.shares, self.names, self.places = [], [], []

    def changed(self):
        known = self.fractions()
        if known:
            self.shares.append(known[0][1])
            self.names.append(known[-1][0].says)
            if isinstance(known[0][0], progress.Plan):
                self.places.append((known[0][0].place, known[0][0].size))


@pytest.fixture
def recorder():
    recorder = Recorder()
    with watched(recorder):
        yield recorder
    assert not recorder.stages  # all have ended


def small_vae():
    posterior = pv.posteriors.DiagonalNormal(pv.networks.MLP((6,), (4,)), 2)
    return pv.VAE(pv.priors.StandardNormal(2), posterior, pv.likelihoods.Bernoulli(pv.networks.MLP((2,), (6,))))


def climbs_to_one(shares):
    return shares == sorted(shares) and max(shares) == pytest.approx(1.0)


def test_loops_within_loops_fill_the_whole(recorder):
    for _ in through("blocks", range(4), parts=2):
        for _ in through("first", range(5)):
            pass
        for _ in through("second", (i for i in range(2)), 2):
            pass
    assert climbs_to_one(recorder.shares)
    assert any(share == pytest.approx(0.25 + 0.25 / 2 * (3 / 5)) for share in recorder.shares)
    assert any(share == pytest.approx(0.25 + 0.25 / 2 * (1 + 1 / 2)) for share in recorder.shares)


def test_the_parts_of_a_single_item_share_it(recorder):
    """A block of data that is alone has its pilots and its walk like any other."""
    for _ in through("all", range(1)):
        for _ in through("", range(1), parts=2):
            for _ in through("", range(4)):
                pass
            assert recorder.fractions()[0][1] == 0.5
            for _ in through("", range(4)):
                pass
    assert climbs_to_one(recorder.shares)


def test_what_is_not_counted_fills_nothing(recorder):
    with stage("whole", total=2) as whole:
        with stage("compiling"):
            assert whole.fraction(0.0) == 0.0
        assert whole.fraction(0.0) == 0.0


def test_a_loop_that_is_left_ends_its_stage(recorder):
    with stage("whole", total=2):
        for _ in through("inner", range(3)):
            break
        with pytest.raises(KeyError), stage("failing", total=1):
            raise KeyError
        assert [each.says for each in recorder.stages] == ["whole"]


def test_sections_that_are_left_out_leave_the_plan(recorder):
    with planned({"a": 1.0, "b": 6.0, "c": 3.0}):
        with section("a", "first"):
            pass
        with section("c", "third"):
            plan = recorder.stages[0]
            assert (plan.place, plan.size, plan.total) == (2, 2, 4.0)
            assert recorder.fractions()[0][1] == 0.25
    assert climbs_to_one(recorder.shares)


def test_a_section_without_a_plan_is_a_stage(recorder):
    with section("a", "alone"):
        assert [each.says for each in recorder.stages] == ["alone"]


def test_nothing_is_kept_where_no_one_watches(monkeypatch):
    monkeypatch.setattr(progress.Watcher, "changed", lambda self: pytest.fail("somebody watches"))
    assert not progress.is_watched()
    assert list(through("letters", iter("ab"))) == ["a", "b"]
    with planned({"a": 1.0}), section("a", "first"), stage("inner", total=1) as inner:
        inner.step()


@pytest.mark.thorough
@pytest.mark.parametrize("estimate", [
    lambda vae, x: pv.evaluation.log_weights(vae, x, 300, seed=0),
    *thorough(
        lambda vae, x: annealed.ais(vae, x, 4, 2, seed=0, num_leapfrog=1).value,
        lambda vae, x: annealed.bdmc(vae, 130, 3, 2, seed=0, num_leapfrog=1).reverse.value,
    ),
    lambda vae, x: pv.evaluation.refine(vae, x[:3], steps=5, num_samples=4, seed=0).gap.value,
    lambda vae, x: pv.evaluation.marginal_kl(vae, x, 2, seed=0).value,
    lambda vae, x: pv.evaluation.nuts(vae, x[:1], seed=0, **CHAINS).draws["z"],
], ids=["weights", "ais", "bdmc", "refine", "marginal KL", "nuts"])  # fmt: skip
def test_estimators_count_to_their_ends_and_give_the_same_numbers(estimate):
    torch.manual_seed(0)
    vae, x = small_vae(), (torch.rand(130, 6) < 0.5).float()
    alone, recorder = estimate(vae, x), Recorder()
    with watched(recorder), stage("whole", total=1):
        seen = estimate(vae, x)
    assert seen.equal(alone)
    assert climbs_to_one(recorder.shares)
    assert len(set(recorder.shares)) > 2  # steps in between


def evaluated(recorder=None, **more):
    """The sections of a report that were begun, by their names, and the report."""
    torch.manual_seed(0)
    vae, x = small_vae(), (torch.rand(60, 6) < 0.5).float()
    data = pv.data.from_arrays(x)
    if recorder is None:
        return pv.evaluate(vae, data, quiet=True, **QUICK, **more)
    with watched(recorder):
        return pv.evaluate(vae, data, quiet=True, **QUICK, **more)


@pytest.mark.thorough
def test_a_watcher_sees_every_section_of_an_evaluation(tmp_path):
    recorder = Recorder()
    seen = evaluated(recorder, out=tmp_path / "seen")
    alone = evaluated(out=tmp_path / "alone")
    steps = {"ELBO of", "log p(x) of", "simple densities", "aggregate posterior", "annealing", "on a grid", "simulated",
             "the guide refined", "training data", "true posterior", "to keep", "pictures and files"}  # fmt: skip
    said = "\n".join(recorder.names)
    assert not {step for step in steps if step not in said}
    assert climbs_to_one(recorder.shares)
    assert recorder.places[-1][0] == recorder.places[-1][1]  # the last section of all
    sizes = [size for _, size in recorder.places]
    assert sizes == sorted(sizes, reverse=True)  # no section that was not planned
    assert (tmp_path / "seen" / "report.json").read_bytes() == (tmp_path / "alone" / "report.json").read_bytes()
    assert seen.log_likelihood.value.equal(alone.log_likelihood.value)


@pytest.mark.thorough
def test_the_plan_of_an_evaluation_has_its_sections_whole_or_in_pieces(tmp_path, monkeypatch):
    begun, begin, take = [], progress.Plan.begin, progress.Plan.take

    def noted(function):
        def begins(plan, name, *share):
            begun.append((name, name in plan.expected or name in plan._in_pieces))
            return function(plan, name, *share)

        return begins

    monkeypatch.setattr(progress.Plan, "begin", noted(begin))
    monkeypatch.setattr(progress.Plan, "take", noted(take))
    evaluated(Recorder(), out=tmp_path / "seen")
    names = [name for name, _ in begun]
    assert [name for name, known in begun if not known] == []
    assert {"elbo", "iwae", "annealing", "simulated", "gaps", "latent", "posterior"} <= set(names)
    assert names.count("draws") == 2  # those of an escalation, and those to keep


def test_a_headline_expects_no_more_than_it_computes():
    given = GivenProgram(small_vae(), torch.ones(5, 6))
    work = expected_work.expected(Subject(given, HeadlinePlan(elbo_samples=10, num_samples=20)))
    assert list(work) == ["elbo", "log_likelihood", "baselines", "files"]
    more = expected_work.expected(Subject(given, Plan(annealed_data=4)))
    assert "log_likelihood" not in more
    assert more["simulated"] > more["annealing"] > 0


def test_lines_come_once_a_minute_at_most():
    clock, said = SimpleNamespace(now=0.0), []
    lines = Lines(said.append, lambda: clock.now)
    with watched(lines):
        for _ in through("blocks", range(1000)):
            clock.now += 1.0
    assert len(said) == 1000 // 60
    assert said[0].startswith("blocks 60/1000 6 %")


def test_a_short_run_says_nothing():
    clock, said = SimpleNamespace(now=0.0), []
    with watched(Lines(said.append, lambda: clock.now)):
        for _ in through("blocks", range(59)):
            clock.now += 1.0
    assert said == []


def far(total, done, seconds, *, already=0.0, narrow=False):
    watcher = progress.Watcher()
    with watched(watcher), stage("epochs", total=total, done=already) as going:
        going.done, going.begun = done, 0.0
        found = view(watcher, seconds, narrow=narrow)
    return found.whole, found.far


def test_the_rest_is_said_to_take_as_long_as_the_work_so_far():
    assert far(600, 200, 60.0) == ("epochs 200/600", "33 %, 2:00 left")
    assert far(600, 500, 60.0, already=400) == ("epochs 500/600", "83 %, 1:00 left")  # 100 in this minute
    assert far(600, 6, 5.0) == ("epochs 6/600", "1 %, 0:05 so far")  # too early to say
    assert far(600, 300, 7200.0, narrow=True) == ("300/600", "50 %, 2:00:00 left")


def on_terminal(code, columns=40, **environment):
    """What a process writes to a terminal."""
    pty = pytest.importorskip("pty")
    ours, theirs = pty.openpty()
    around = {**os.environ, "COLUMNS": str(columns), "TERM": "xterm", **environment}
    process = subprocess.Popen([sys.executable, "-c", code], stdout=theirs, stderr=theirs, env=around)
    os.close(theirs)
    written = b""
    with suppress(OSError):  # the other end is closed
        while piece := os.read(ours, 4096):
            written += piece
    assert process.wait() == 0
    os.close(ours)
    return written.decode()


SHOWN = """
import sys, time
from pyro_vae.progress import through
from pyro_vae.progress_display import shown
with shown("starting"):
    time.sleep(0.4)
    for block in through("blocks", range(3)):
        print("row", block, "x" * 100)
        time.sleep(0.3)
    print("a note", file=sys.stderr)
    print("no end", end="")
"""


@pytest.mark.thorough
def test_what_is_printed_on_a_terminal_stands_whole_above_the_display():
    written = on_terminal(SHOWN)
    assert "starting 0:00" in written
    plain = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", written)
    assert "2/3 ━" in plain  # 40 columns: without words
    assert [f"row {i} {'x' * 100}\r\n" in written for i in range(3)] == [True] * 3
    assert "a note\r\n" in written
    assert written.endswith("no end")
    assert max(len(piece.strip("\n")) for piece in plain.split("\r") if "/3" in piece) <= 40
    assert written.index("\x1b[?25l") < written.index("\x1b[?25h")  # the cursor is back


@pytest.mark.thorough
@pytest.mark.parametrize("environment", [{"TERM": "dumb"}, {"RANK": "1"}])
def test_other_terminals_and_other_processes_show_nothing(environment):
    written = on_terminal(SHOWN, **environment)
    assert "\x1b" not in written
    assert "row 2" in written


@pytest.mark.thorough
def test_colours_are_left_out_where_they_are_not_wanted():
    assert "\x1b[36m" in on_terminal(SHOWN)
    assert "\x1b[36m" not in on_terminal(SHOWN, NO_COLOR="1")


@pytest.mark.thorough
def test_the_library_shows_nothing_by_itself():
    code = (
        "import torch, pyro_vae as pv\n"
        "vae = pv.VAE(pv.priors.StandardNormal(2), pv.posteriors.DiagonalNormal(pv.networks.MLP((6,), (4,)), 2),"
        " pv.likelihoods.Bernoulli(pv.networks.MLP((2,), (6,))))\n"
        "pv.evaluation.iwae(vae, torch.ones(3, 6), 10, seed=0)\n"
        "pv.train(vae, pv.data.from_arrays(torch.ones(20, 6)), epochs=1, quiet=True)\n"
        "import sys; assert 'rich.live' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == ""
