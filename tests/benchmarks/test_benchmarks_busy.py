"""Rows beside busy loops: what is in the table, and that no loop outlives it."""

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.load import beside
from benchmarks.measure import Timing
from benchmarks.problem import Size
from benchmarks.rows import BUSY
from benchmarks.sections import busy

ROOT = Path(__file__).parents[2]


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_loops_run_inside_and_end_with_an_error():
    found = []

    def interrupted():
        with beside(2) as loops:
            found.extend(loops)
            assert [loop.poll() for loop in loops] == [None, None]
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [loop.poll() for loop in found] == [-signal.SIGKILL] * 2


def test_loops_end_with_a_benchmark_that_is_killed():
    code = "from benchmarks.load import beside\nwith beside(1) as (loop,): print(loop.pid, flush=True), input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
    ) as benchmark:
        loop = int(benchmark.stdout.readline())
        assert is_alive(loop)
        benchmark.kill()
    deadline = time.monotonic() + 30
    while is_alive(loop):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_row_has_its_medians_and_its_ratios_under_the_same_load():
    timings = {
        0: {"one-thread": Timing([0.002, 0.004, 0.003]), "numpyro": Timing([0.001])},
        4: {"one-thread": Timing([0.006]), "numpyro": Timing([0.012])},
    }
    assert busy.row("one-thread", timings, "") == {
        "row": "pyro_vae, compiled, 1 thread",
        "alone, ms": 3.0, "alone, quartiles": "2.500 to 3.500", "alone, x NumPyro": 3.0,
        "beside 4, ms": 6.0, "beside 4, quartiles": "6.000 to 6.000", "beside 4, x NumPyro": 0.5,
    }  # fmt: skip
    reason = "numpyro is not installed"
    assert busy.row("numpyro", {0: {}}, reason) == {"row": BUSY["numpyro"].title, "alone, ms": reason}


def test_a_row_of_one_thread_computes_with_one():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        eager = replace(BUSY["one-thread"], options={**BUSY["one-thread"].options, "compiled": False})
        eager.build(Size(8, 16, 3), "cpu")
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_a_run_that_takes_too_long_is_ended_and_said_to(monkeypatch):
    monkeypatch.setattr(busy, "LINE", ("-c", "import time; time.sleep(60)"))
    monkeypatch.setattr(busy, "LINE_LIMIT", 0.1)
    assert busy.shown([3.0, busy.run_line([])]) == "more than 0.1"
    assert busy.shown([3.0, 4.0]) == 3.5


def test_the_readmes_first_line_is_the_one_that_is_timed():
    assert f"python {' '.join(busy.LINE)}" in (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.thorough
def test_the_section_from_start_to_end(tmp_path):
    command = [sys.executable, "benchmarks/run.py", "--only", "busy", "--quick", "--loads", "1"]
    given = ["--rows", "one-thread", "readme", "--repeats", "2", "--cores", "1", "--out", str(tmp_path)]
    subprocess.run([*command, *given], cwd=ROOT, check=True, capture_output=True)
    steps, line = json.loads((tmp_path / "benchmarks.json").read_text())["tables"]
    ((step,), (run,)) = steps["rows"], line["rows"]
    assert step["beside 1, ms"] > 0
    assert run["beside 1, s"] > 0
