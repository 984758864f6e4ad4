"""The page about the report shows what its own commands print."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import fenced
import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "report.md").read_text(encoding="utf-8")


def printed(command, folder):
    """What a command prints in this folder, as lines."""
    name, *arguments = shlex.split(command)
    assert name == "pyro-vae"
    words = [sys.executable, "-m", "pyro_vae", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


@pytest.mark.slow
def test_every_table_of_the_page_is_in_the_reports(tmp_path):
    """Word for word, with numbers as `fenced.agree` compares them."""
    lines = [
        line
        for code in fenced.blocks(PAGE, "sh")
        for command in code.splitlines()
        for line in printed(command, tmp_path)
    ]
    for block in fenced.blocks(PAGE, "text"):
        size = len(block.splitlines())
        windows = ("\n".join(lines[i : i + size]) for i in range(len(lines)))
        assert any(fenced.agree(block, window) for window in windows), f"nowhere in the reports:\n{block}"
