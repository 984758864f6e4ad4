"""A team: who does the pieces, what becomes of errors and of processes that end, and what is said meanwhile."""

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # processes of a team get this path

import pieces

from pyro_vae import progress
from pyro_vae.errors import DivergenceError, ProcessError
from pyro_vae.experiment.team.team import Team
from pyro_vae.experiment.team.worker import Piece

HERE = os.getpid()


def elsewhere(step, opener=pieces.open_quietly):
    """The answer to a piece that a worker does, which has nothing else to do."""
    with Team(opener, 1) as team:
        wait_for_worker(team)
        team.offer(Piece(step))
        return team.answer(Piece(step), lambda piece, given: pytest.fail("it was done here"))


def wait_for_worker(team):
    """Offers pieces until a worker has done one."""
    for number in range(1000):
        team.offer(Piece("slow", number), 0.02)
        if team.answer(Piece("slow", number), pieces.work) != HERE:
            return
        time.sleep(0.02)
    raise AssertionError("no worker came")


class TestAnswers:
    def test_alone_each_piece_is_done_when_it_is_asked_for(self):
        said, done = [], []
        team = Team(say=said.append)
        for number in range(3):
            team.offer(Piece("square", number), cost=number, says=f"squares {number}")
        for number in (1, 0, 1):
            team.answer(Piece("square", number), lambda piece, given: done.append(piece.number))
        assert (done, said) == ([1, 0], ["squares 1"])
        assert team.seconds.keys() == {"square"}

    def test_every_piece_is_done_once_and_has_its_own_answer(self):
        with Team(pieces.open_quietly, 2) as team:
            for number in range(60):
                team.offer(Piece("square", number), "given", number)
                team.offer(Piece("slow", number), 0.02)
            found = [team.answer(Piece("square", number), pieces.work) for number in range(60)]
            by = {team.answer(Piece("slow", number), pieces.work) for number in range(60)}
        assert [square for square, _, _ in found] == [number**2 for number in range(60)]
        assert [given for _, _, given in found] == [("given", number) for number in range(60)]
        assert HERE in by
        assert len(by) > 1

    def test_what_others_wait_for_comes_first_then_what_takes_longest(self):
        team, done = Team(), []
        for number, cost in enumerate([1.0, 3.0, 2.0, 1.0]):
            team.offer(Piece("x", number), cost=cost, first=number == 0)
        team._workers.append(SimpleNamespace(is_ready=False))  # a process that is still being started
        team.answer(Piece("x", 3), lambda piece, given: done.append(piece.number))
        assert done == [0, 1, 2, 3]


class TestErrors:
    def test_an_error_is_raised_where_its_answer_is_asked_for(self):
        with pytest.raises(DivergenceError, match=r"^an estimate is not finite$") as raised:
            elsewhere("fails")
        assert raised.value.exit_code == 5

    @pytest.mark.parametrize(
        ("step", "kind", "told"),
        [
            ("fails_oddly", RuntimeError, "OddError: one and other"),
            ("refuses_oddly", ValueError, "^one and other$"),
            ("unsendable", TypeError, "cannot pickle 'frame'"),
        ],
    )
    def test_what_cannot_be_sent_is_told(self, step, kind, told):
        with pytest.raises(kind, match=told) as raised:
            elsewhere(step)
        assert "Traceback (most recent call last)" in str(raised.value.__cause__)

    def test_what_cannot_be_opened_is_an_error_of_the_work(self):
        with pytest.raises(DivergenceError, match="it cannot be opened"):
            elsewhere("slow", opener=partial(pieces.open_quietly, "refuses"))

    def test_where_it_cannot_be_opened_nothing_goes_on(self):
        said = []
        with Team(partial(pieces.open_quietly, "refuses"), 1, said.append) as team:
            team.offer(Piece("square"))
            with pytest.raises(DivergenceError):
                team.answer(Piece("square"), lambda piece, given: [time.sleep(0.01) for _ in range(3000)])
            while team.has_workers:
                time.sleep(0.02)
        assert said == []

    def test_an_error_of_the_thread_that_listens_is_raised_here(self):
        def say(sentence):
            raise BrokenPipeError(32, "no one reads")

        with Team(pieces.open_quietly, 1, say) as team:
            wait_for_worker(team)
            team.offer(Piece("slow", -1))
            team.offer(Piece("here"))
            team.offer(Piece("square", 1), cost=-1.0, says="handed out when the first is done")
            with pytest.raises(BrokenPipeError):
                team.answer(Piece("here"), lambda piece, given: [time.sleep(0.01) for _ in range(3000)])

    def test_one_that_ends_itself_is_not_said_to_lack_memory(self):
        with pytest.raises(
            ProcessError, match=r"ended with code 3 before its work was done.*`processes=1` shows where"
        ):
            elsewhere("ends")

    def test_a_killed_process_is_one_sentence(self):
        sentence = r"by signal 9 \(SIGKILL\); most often memory was short. Start again with `processes=1`"
        with pytest.raises(ProcessError, match=sentence):
            elsewhere("killed")

    def test_a_killed_process_interrupts_the_piece_of_the_first(self):
        begun = time.monotonic()
        with Team(pieces.open_quietly, 1) as team:
            wait_for_worker(team)
            team.offer(Piece("killed_soon"))
            team.offer(Piece("square"))
            with pytest.raises(ProcessError, match="SIGKILL"):
                team.answer(Piece("square"), lambda piece, given: [time.sleep(0.01) for _ in range(3000)])
        assert time.monotonic() - begun < 20

    def test_one_that_ends_before_it_began_is_done_without(self):
        said = []
        with Team(partial(pieces.open_quietly, "ends"), 1, said.append) as team:
            while team.has_workers:
                time.sleep(0.02)
            team.offer(Piece("square", 3))
            assert team.answer(Piece("square", 3), pieces.work)[:2] == (9, HERE)
        assert said == ["a process ended before it had begun: this evaluation goes on in 1 process"]

    def test_where_none_can_be_started_this_process_does_it_all(self, monkeypatch):
        def refuse(*a, **b):
            raise OSError(38, "Function not implemented")

        monkeypatch.setattr("multiprocessing.context.SpawnContext.Pipe", refuse)
        said = []
        with Team(pieces.open_quietly, 3, said.append) as team:
            team.offer(Piece("square", 3))
            assert team.answer(Piece("square", 3), pieces.work)[1] == HERE
        assert len(said) == 1
        assert "Function not implemented" in said[0]
        assert said[0].endswith("this evaluation goes on in 1 process")


class TestSaying:
    def test_a_line_of_all_is_said_once_and_what_is_printed_always(self, capsys):
        with Team(pieces.open_quietly, 2) as team:
            wait_for_worker(team)
            for number in range(8):
                team.offer(Piece("tells", number))
            by = {team.answer(Piece("tells", number), lambda piece, given: HERE) for number in range(8)}
        told = capsys.readouterr()
        assert by > {HERE}
        assert "opening" not in told.out + told.err
        assert "a printed line\n" in told.out
        assert told.err.count("UserWarning: a warning\n") == told.err.count("a line of a log\n") == 1

    def test_the_plan_counts_what_others_do(self):
        with progress.watched(progress.Watcher()), progress.planned({"slow": 4.0, "rest": 1.0}):
            plan = progress.current_plan()
            with Team(pieces.open_quietly, 1) as team:
                for number in range(8):
                    team.offer(Piece("slow", number), 0.1, share=1 / 8, says="slowly")
                by = {team.answer(Piece("slow", number), pieces.work) for number in range(8)}
                assert by
                assert plan.fraction(0.0) == pytest.approx(0.8)
            assert (plan.place, plan.size) == (1, 2)


SCRIPT = """
import os, sys
sys.path.insert(0, {folder!r})
import pieces
from pyro_vae.cli.command_ending import exit_codes
from pyro_vae.experiment.team.team import Team
from pyro_vae.experiment.team.worker import Piece
if __name__ == "__main__":
    with exit_codes(), Team(pieces.open_quietly, 2) as team:
        for number in range(3):
            team.offer(Piece("forever", number), {marks!r})
        team.answer(Piece("forever"), pieces.work)
"""


@pytest.mark.thorough
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_no_process_outlives_the_first(number, code, tmp_path):
    marks = tmp_path / "marks"
    marks.mkdir()
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(folder=str(Path(__file__).parent), marks=str(marks)), encoding="utf-8")
    with subprocess.Popen([sys.executable, str(script)], stderr=subprocess.PIPE, text=True) as process:
        until = time.monotonic() + 60
        while len(list(marks.iterdir())) < 3 and time.monotonic() < until:
            time.sleep(0.05)
        others = [int(path.name) for path in marks.iterdir() if int(path.name) != process.pid]
        process.send_signal(number)
        said = process.communicate(timeout=20)[1]
    assert process.returncode == code
    assert "Traceback" not in said
    assert len(others) == 2
    until = time.monotonic() + 10
    while any(map(is_alive, others)) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(map(is_alive, others))


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
