"""One command whose first word names what is run: its help, wrong words, and output that shows few letters."""

import argparse
import inspect
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pyro_vae import __version__, command_lines, system
from pyro_vae.cli import front_door
from pyro_vae.command_lines import COMMANDS, command_line

ROOT = Path(__file__).parents[2]

# Command line, exit code, what is said. "run" and "other" are runs.
WRONG = [
    ("train --dataset nope.npy", 3, "nope.npy: there is no such file"),
    ("train --posterior gaussian", 2, "unknown posterior 'gaussian'; choose from diagonal, full"),
    ("evaluate runs/nope", 4, "runs/nope holds no trained run (there is no such folder)"),
    ("score runs/nope --data x.npy --out s.csv", 4, "runs/nope holds no trained run"),
    ("compare runs/nope", 4, "runs/nope holds no trained run"),
    ("compare run other --reference b", 2, "--reference is best, first or one of the runs (run, other); got 'b'"),
    ("sample runs/nope", 4, "runs/nope holds no trained run"),
    ("sample run --only sample", 2, "unknown picture 'sample'; did you mean 'samples'?"),
    ("sweep --grid prior=standard --out file/s", 6, "Not a directory"),
    ("sweep --grid priro=vamp --out s", 2, "unknown flag 'priro'; did you mean 'prior'?"),
    ("sweep --grid prior=vamp --out s --seeds 2 3", 2, "'3' is neither a flag nor the value of one"),
    ("refit runs/nope --prior vamp", 4, "runs/nope holds no trained run"),
    ("refit run --prior vampp", 2, "unknown prior 'vampp'; did you mean 'vamp'?"),
    ("ablate --dataset nope.npy --out a", 3, "nope.npy: there is no such file"),
    ("share runs/nope --out s", 4, "runs/nope holds no trained run"),
    ("selfcheck --json nope/x.json", 6, "nope/x.json"),
    ("check nope.py:Prior", 2, "there is no file nope.py"),
]

BEGIN = "from pyro_vae.cli.front_door import main; sys.exit(main({}))"
ALL_WRONG = """
import contextlib, io, json, sys
from pyro_vae.cli.front_door import main

answers = []
for words in json.loads(sys.argv[1]):
    with contextlib.redirect_stderr(io.StringIO()) as said:
        try:
            code = main(words.split())
        except SystemExit as end:
            code = end.code
    heavy = [name for name in ("torch", "pyro", "pandas") if name in sys.modules]
    answers.append((code, said.getvalue(), heavy))
print(json.dumps(answers))
"""


def process(*words, folder, **environment):
    """Runs Python outside of the checkout."""
    variables = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run([sys.executable, *words], cwd=folder, env=variables, capture_output=True, timeout=120)


def test_every_wrong_path_and_name_is_answered_without_torch(tmp_path):
    (tmp_path / "file").touch()
    for run in ("run", "other"):
        (tmp_path / run).mkdir()
        (tmp_path / run / "config.json").write_text("{}")
    done = process("-c", ALL_WRONG, json.dumps([words for words, *_ in WRONG]), folder=tmp_path)
    assert done.returncode == 0, done.stderr.decode()
    assert {words.split()[0] for words, *_ in WRONG} == set(COMMANDS)
    for (words, code, sentence), (ended, said, heavy) in zip(WRONG, json.loads(done.stdout), strict=True):
        assert (ended, heavy) == (code, []), words
        assert sentence in said


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"]])
def test_the_help_fits_a_screen_and_has_a_line_for_each_command(words, capsys):
    assert front_door.main(words) is None
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    assert [line.split()[0] for line in lines[-len(COMMANDS) :]] == list(COMMANDS)


def test_the_version_is_said(capsys):
    assert front_door.main(["--version"]) is None
    assert capsys.readouterr().out == f"pyro-vae {__version__}\n"


def test_an_unknown_command_is_answered_with_the_nearest_one(capsys):
    assert front_door.main(["trian", "--epochs", "3"]) == 2
    assert "unknown command 'trian'; did you mean 'train'?" in capsys.readouterr().err


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_module_and_a_script_that_call_it(name, capsys):
    with pytest.raises(SystemExit) as end:
        front_door.main([name, "--help"])
    assert end.value.code == 0
    assert f"usage: pyro-vae {name}" in capsys.readouterr().out
    if script := COMMANDS[name].script:
        assert f'command("{name}")' in (ROOT / "scripts" / script).read_text(encoding="utf-8")


class TestWhatWasTyped:
    """Of a process that began in one of four ways."""

    @pytest.fixture
    def begun(self, monkeypatch):
        def begin(how, *argv, python="python"):
            monkeypatch.setattr(command_lines, "_started", lambda: how)
            monkeypatch.setattr(sys, "argv", list(argv))
            monkeypatch.setattr(sys, "orig_argv", [python])

        return begin

    def test_the_installed_command(self, begun):
        begun("installed", "my bin/pyro-vae", "train", "--lr", "1")
        assert command_line("evaluate", "a b") == "'my bin/pyro-vae' evaluate 'a b'"
        assert command_lines.typed(sys.argv) == "'my bin/pyro-vae' train --lr 1"
        assert command_lines.typed(sys.argv, 2) == "torchrun --nproc-per-node 2 -m pyro_vae train --lr 1"
        assert command_line("train", everywhere=True) == f"'{Path.cwd()}/my bin/pyro-vae' train"
        begun("installed", "pyro-vae", "train")
        assert command_line("train", everywhere=True, out="-a") == "pyro-vae train --out=-a"

    def test_the_package(self, begun):
        begun("package", "/x/pyro_vae/__main__.py", "train", "--lr", "1", python="python3")
        assert command_line("evaluate", "a") == "python3 -m pyro_vae evaluate a"
        assert command_lines.typed(sys.argv) == "python3 -m pyro_vae train --lr 1"
        assert command_lines.program() == "python3 -m pyro_vae"
        assert command_line("train", everywhere=True) == "python3 -m pyro_vae train"
        begun("package", "/x/pyro_vae/__main__.py", "train", python=".venv/bin/python")
        assert command_line("train", everywhere=True) == f"{Path.cwd()}/.venv/bin/python -m pyro_vae train"

    def test_a_script(self, begun):
        begun("script", "../x/scripts/train_svi.py", "--lr", "1")
        assert command_line("refit", "a") == "python ../x/scripts/refit_prior.py a"
        assert command_lines.typed(sys.argv) == "python ../x/scripts/train_svi.py --lr 1"
        assert command_line("train", processes=2) == "torchrun --nproc-per-node 2 ../x/scripts/train_svi.py"
        assert command_line("train", everywhere=True) == f"python {Path.cwd()}/../x/scripts/train_svi.py"
        begun("script", "sweep.py", "--list")
        assert command_line("train", everywhere=True) == f"python {Path.cwd()}/train_svi.py"


@pytest.mark.parametrize(
    "start",
    [["-m", "pyro_vae", "evaluate"], [ROOT / "scripts" / "evaluate.py"], ["-X", "utf8", "-m", "pyro_vae", "evaluate"]],
)
def test_a_message_names_the_command_as_it_was_typed(start, tmp_path):
    said = process(*map(str, start), "nope", folder=tmp_path).stderr.decode()
    typed = f" {start[0]}".replace("evaluate.py", "train_svi.py") if len(start) == 1 else " -m pyro_vae train"
    assert f"{typed} wrote" in said


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "ascii:strict"])
def test_output_that_cannot_show_a_letter_gets_a_stand_in(encoding, tmp_path):
    done = process(
        "-c",
        "import sys; from pyro_vae.cli.front_door import main; main(['--version'])\n"
        "print('1 \\u00b1 2, \\u2265 3, \\u0448 x'); print('\\u00b1', file=sys.stderr)",
        folder=tmp_path,
        PYTHONIOENCODING=encoding,
        PYTHONUTF8="0",
    )
    assert done.returncode == 0, done.stderr
    assert rb", >= 3, \u0448 x" in done.stdout
    assert (b"1 +- 2" in done.stdout) is encoding.startswith("ascii")


def test_flags_are_listed_in_groups_and_those_most_used_come_first(capsys):
    with pytest.raises(SystemExit):
        front_door.main(["train", "--help"])
    lines = capsys.readouterr().out.splitlines()
    titles = [line[:-1] for line in lines if line.endswith(":") and not line.startswith(" ")]
    assert titles == ["options", "most used", "data", "model", "training", "report", "machine"]
    flags = [line.split()[0].rstrip(",") for line in lines if line.startswith("  --")]
    here = flags[flags.index("--dataset") :]
    assert here.index("--seed") < here.index("--preset")
    assert here.index("--device") > here.index("--test-data")
    assert not any("default: )" in line or "type: " in line for line in lines)


# The argparse of newer Pythons hides the error that its own help meets.
HIDDEN = "OSError" in inspect.getsource(argparse.ArgumentParser._print_message)


@pytest.mark.parametrize(
    ("words", "code"), [("--help", system.BROKEN_PIPE), ("train --help", 0 if HIDDEN else system.BROKEN_PIPE)]
)
def test_a_reader_that_leaves_is_no_error(words, code, tmp_path):
    closed = f"import os, sys; os.close(1); r, w = os.pipe(); os.close(r); os.dup2(w, 1); {BEGIN.format(words.split())}"
    done = process("-c", closed, folder=tmp_path)
    assert (done.returncode, done.stderr) == (code, b"")
