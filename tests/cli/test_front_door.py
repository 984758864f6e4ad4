"""One command whose first word names what is run: its help, wrong words, and output that shows few letters."""

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

WRONG = {
    "train": (["--dataset", "nope.npy"], 3, "nope.npy: there is no such file"),
    "evaluate": (["runs/nope"], 4, "runs/nope holds no trained run"),
    "score": (["runs/nope", "--data", "x.npy", "--out", "s.csv"], 4, "runs/nope holds no trained run"),
    "compare": (["runs/nope"], 4, "runs/nope holds no trained run"),
    "sample": (["runs/nope"], 4, "runs/nope holds no trained run"),
    "sweep": (["--grid", "prior=standard", "--out", "file/s"], 6, "Not a directory"),
    "refit": (["runs/nope", "--prior", "vamp"], 4, "runs/nope holds no trained run"),
    "ablate": (["--dataset", "nope.npy", "--out", "a"], 3, "nope.npy: there is no such file"),
    "share": (["runs/nope", "--out", "s"], 4, "runs/nope holds no trained run"),
    "selfcheck": (["--json", "nope/x.json"], 6, "nope/x.json"),
    "check": (["nope.py:Prior"], 2, "there is no file nope.py"),
}

NAMES = {  # of a run that is there
    "sample": (["run", "--only", "sample"], "unknown picture 'sample'; did you mean 'samples'?"),
    "refit": (["run", "--prior", "vampp"], "unknown prior 'vampp'; did you mean 'vamp'?"),
    "compare": (["run", "other", "--reference", "b"], "b"),
    "train": (["--posterior", "gaussian"], "unknown posterior 'gaussian'; choose from diagonal, full"),
    "sweep": (["--grid", "priro=vamp", "--out", "s"], "unknown flag 'priro'; did you mean 'prior'?"),
}

BEGIN = "from pyro_vae.cli.front_door import main; sys.exit(main({}))"
ALL_WRONG = """
import contextlib, io, json, sys
from pyro_vae.cli.front_door import main

answers = {}
for name, (words, *_) in json.loads(sys.argv[1]).items():
    with contextlib.redirect_stderr(io.StringIO()) as said:
        try:
            code = main([name, *words])
        except SystemExit as end:
            code = end.code
    answers[name] = code, said.getvalue(), [heavy for heavy in ("torch", "pyro", "pandas") if heavy in sys.modules]
print(json.dumps(answers))
"""


def process(*words, folder, **environment):
    """Runs Python outside of the checkout."""
    variables = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run([sys.executable, *words], cwd=folder, env=variables, capture_output=True, timeout=120)


def test_every_wrong_path_is_answered_without_torch(tmp_path):
    (tmp_path / "file").touch()
    done = process("-c", ALL_WRONG, json.dumps(WRONG), folder=tmp_path)
    assert done.returncode == 0, done.stderr.decode()
    answers = json.loads(done.stdout)
    assert set(answers) == set(COMMANDS)
    for name, (_, code, said) in WRONG.items():
        assert answers[name][0] == code, answers[name]
        assert said in answers[name][1]
        assert answers[name][2] == [], name


def test_every_wrong_name_is_answered_without_torch(tmp_path):
    for run in ("run", "other"):
        (tmp_path / run).mkdir()
        (tmp_path / run / "config.json").write_text("{}")
    done = process("-c", ALL_WRONG, json.dumps(NAMES), folder=tmp_path)
    assert done.returncode == 0, done.stderr.decode()
    for name, (code, said, heavy) in json.loads(done.stdout).items():
        assert NAMES[name][1] in said
        assert (code, heavy) == (2, []), name


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

    def test_the_package(self, begun):
        begun("package", "/x/pyro_vae/__main__.py", "train", "--lr", "1", python="python3")
        assert command_line("evaluate", "a") == "python3 -m pyro_vae evaluate a"
        assert command_lines.typed(sys.argv) == "python3 -m pyro_vae train --lr 1"
        assert command_lines.program() == "python3 -m pyro_vae"

    def test_a_script(self, begun):
        begun("script", "../x/scripts/train_svi.py", "--lr", "1")
        assert command_line("refit", "a") == "python ../x/scripts/refit_prior.py a"
        assert command_lines.typed(sys.argv) == "python ../x/scripts/train_svi.py --lr 1"
        assert command_line("train", processes=2) == "torchrun --nproc-per-node 2 ../x/scripts/train_svi.py"


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


@pytest.mark.parametrize("words", ["--help", "train --help"])
def test_a_reader_that_leaves_is_no_error(words, tmp_path):
    closed = f"import os, sys; os.close(1); r, w = os.pipe(); os.close(r); os.dup2(w, 1); {BEGIN.format(words.split())}"
    done = process("-c", closed, folder=tmp_path)
    assert done.stderr == b""
    # argparse hides the error of a closed pipe, from Python 3.11.4 on
    assert done.returncode in ({system.BROKEN_PIPE, 0} if words == "train --help" else {system.BROKEN_PIPE})
