"""The tables, the measurements and the command from start to end."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import measure, quiet
from benchmarks.problem import Size, parse_size
from benchmarks.tables import Table, show, write

ROOT = Path(__file__).parents[2]


def test_sizes():
    assert parse_size("128x400") == Size(128, 400)
    assert parse_size("64xconv").convolutional
    assert parse_size("128x256x64") == Size(128, 256, x_dim=64)
    for text in ("128x400", "128x256x64", "64xconv"):
        assert parse_size(text).name == text
    assert parse_size("128x400").decoder_flops == 2 * (20 * 400 + 400 * 784)


@pytest.mark.parametrize(
    "text", ["128", "x400", "128x", "0x400", "128x0", "128xdeep", "128x256x", "1x2x3x4", "8xconvx64"]
)
def test_what_is_no_size_is_refused(text):
    with pytest.raises(ValueError, match="a size is batch x hidden"):
        parse_size(text)


def test_cells():
    assert [show(x) for x in (0.012345, 1.2345, 12.345, 12345.6, 7, "a", None)] == [
        *("0.0123", "1.23", "12.3", "12346", "7", "a", "")
    ]


def test_tables_are_written_for_people_and_for_programs(tmp_path):
    table = Table("Steps", ["row", "ms"], [{"row": "a", "ms": 1.2345}, {"row": "b"}], ["Two rows."])
    report = write(tmp_path / "out", {"cores": 2}, [table])
    assert "| row | ms |\n|---|---:|\n| a | 1.23 |\n| b |  |\n\nTwo rows." in report.read_text()
    found = json.loads(report.with_suffix(".json").read_text())
    assert found["tables"][0]["rows"][0] == {"row": "a", "ms": 1.2345}
    assert found["machine"] == {"cores": 2}


class Stub:
    """A worker that takes a second a unit, and rounds units up to tens."""

    def __init__(self, order, name):
        self.order, self.name, self.seconds = order, name, 0.0

    def call(self, method, num_steps):
        done = -(-num_steps // 10) * 10
        self.order.append(self.name)
        self.seconds = float(done)
        return done

    def ask(self, call):
        assert call == "reset_peak"


def test_rows_take_turns_and_time_is_divided_by_the_units_done():
    order = []
    turns = {name: measure.Turn(Stub(order, name), "steps", "num_steps") for name in "ab"}
    timings, failed = measure.alternate(turns, 3, 15.0, quiet.Watch(1))
    assert order[2 * measure.TRIALS :] == list("abbaab")
    assert not failed
    assert [timing.seconds for timing in timings.values()] == [[1.0] * 3] * 2
    assert turns["a"].length == 15


class Silent(Stub):
    """A worker that does as many units as it is asked for, and says nothing."""

    def call(self, method, num_steps):
        self.seconds = float(num_steps)


def test_a_worker_that_says_nothing_did_what_it_was_asked_for():
    timings, _ = measure.alternate({"a": measure.Turn(Silent([], "a"), "steps", "num_steps")}, 3, 15.0, None)
    assert timings["a"].seconds == [1.0] * 3


def test_a_busy_machine_is_told_from_a_quiet_one():
    watch = quiet.Watch(1, load_before=0.0)
    watch.spins = [1.0] * 20
    assert "was quiet" in watch.verdict()
    watch.spins[:3] = [2.0] * 3
    assert "NOT quiet" in watch.verdict()
    watch.spins, watch.load_before = [1.0] * 20, 1.5
    assert "NOT quiet" in watch.verdict()


@pytest.mark.thorough
def test_the_command_from_start_to_end(tmp_path):
    command = [sys.executable, "benchmarks/run.py", "--only", "step", "--quick", "--rows", "eager", "twin"]
    subprocess.run(
        [*command, "--repeats", "1", "--cores", "1", "--out", str(tmp_path)], cwd=ROOT, check=True, capture_output=True
    )
    (table,) = json.loads((tmp_path / "benchmarks.json").read_text())["tables"]
    assert [row["row"] for row in table["rows"]] == ["pyro_vae, eager", "plain torch, eager"]
    assert all(row["ms"] > 0 and row["peak MiB"] > row["above imports"] > 0 for row in table["rows"])
