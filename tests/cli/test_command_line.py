"""Flags are made from the config, errors become one sentence and an exit code."""

import json
import logging
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from pyro_vae import errors, system
from pyro_vae.cli.command_ending import exit_codes, in_flags
from pyro_vae.cli.parser import config_from, config_parser, given_flags, help_of
from pyro_vae.experiment import tables
from pyro_vae.experiment.checked_fields import settings_of
from pyro_vae.experiment.compare.comparison_settings import Evaluation
from pyro_vae.experiment.config import Config
from pyro_vae.experiment.evaluate.evaluation_plan import Plan
from pyro_vae.experiment.own_members import FAMILIES
from pyro_vae.model.conditions import IF_MISSING

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "train_svi.py"


@pytest.fixture
def parser():
    return config_parser("train", "A test.")


def parse(parser, *arguments):
    return config_from(parser.parse_args(list(arguments)))


def complaint(parser, capsys, *arguments):
    """The one line that a refused command line is answered with."""
    with pytest.raises(SystemExit) as end:
        parser.parse_args(list(arguments))
    out, err = capsys.readouterr()
    assert (end.value.code, out, err.count("\n")) == (2, "", 1)
    return err


def test_without_flags_the_config_is_the_default(parser):
    assert parse(parser) == Config()


FLAGS = {
    "--dataset": "x.npy", "--data-dir": "d", "--binarize": "static", "--split": "contiguous", "--data-seed": 3,
    "--prior": "standard", "--posterior": "diagonal", "--likelihood": "normal", "--latent-dim": 7,
    "--network": "gated_mlp", "--hidden": (5, 6), "--activation": "tanh", "--scale": 0.25, "--objective": "trace_elbo",
    "--num-particles": 2, "--reconstruction-weight": 0.5, "--kl-weight": 0.0, "--kl-warmup": 4, "--epochs": 11,
    "--batch-size": 9, "--optimizer": "adamax", "--lr": 1e-5, "--lr-schedule": "step", "--weight-decay": 0.125,
    "--max-grad-norm": 3.5, "--patience": 8, "--valid-samples": 12, "--test-samples": 13, "--elbo-samples": 14,
    "--conditional": True, "--df": 3.0, "--num-components": 21, "--pseudo-inputs": "random", "--flow": "autoregressive",
    "--flow-transforms": 2, "--flow-hidden": (9,), "--encoder-predicts": "log_variance", "--rank": 4,
    "--learn-scale": "one", "--scale-floor": 0.0625, "--rate": 77.0, "--test-data": 15, "--seed": 16,
    "--device": "meta", "--threads": 3, "--download": True, "--dequantize": True, "--missing": "nan",
    "--precision": "bfloat16", "--compile": "no", "--layers": 2, "--latent-dim2": 8, "--hidden2": (4, 3),
    "--guide": "bottom_up", "--standardize": "no", "--fewest-steps": 5,
    "--label": "kind", "--id": "name", "--group": "patient", "--columns": ("b", "a"), "--channels": "last",
    "--levels": 17, "--image-size": 32, "--colour": "grey", "--reader": 1, "--gradient": "sticking_the_landing",
    "--init": "he", "--average": 0.25, "--valid-data": 40,
}  # fmt: skip


def test_every_field_has_a_flag_and_every_flag_reaches_its_field(parser):
    assert {*FLAGS, "--preset", *(f"--{family}-args" for family in FAMILIES)} == {
        "--" + f.name.replace("_", "-") for f in settings_of(Config)
    }
    for flag, value in FLAGS.items():
        given = [] if value is True else map(str, value if isinstance(value, tuple) else [value])
        name = flag.removeprefix("--").replace("-", "_")
        sampled = {"objective": "trace_elbo"} if name == "gradient" else {}
        also = [word for other, chosen in sampled.items() for word in (f"--{other}", chosen)]
        assert parse(parser, flag, *given, *also) == replace(Config(), **{name: value}, **sampled)


def test_every_flag_is_explained_in_help(parser):
    text = " ".join(parser.format_help().split())
    for field in settings_of(Config):
        reason = in_flags(field.metadata["help"])
        assert reason in text
        assert len(reason.split()) >= 3, field.name
        assert "`" not in reason
        if table := field.metadata["table"]:
            assert f"{', '.join(getattr(tables, table))}: {reason}" in text


def test_a_program_that_takes_missing_numbers_is_a_word_on_the_command_line():
    assert in_flags(f"got nan. {IF_MISSING}").endswith(
        "build the program with --missing nan; otherwise leave such data out."
    )


def test_what_a_field_says_of_its_values_stands_in_its_help(parser):
    text = " ".join(parser.format_help().split())
    assert "no, one, pixel, predicted: learn the likelihood's sigma" in text
    assert "falls by then (above 0" not in text
    helps = {field.name: help_of(field) for kind in (Evaluation, Plan, Config) for field in settings_of(kind)}
    assert helps["flow_transforms"].endswith(" (above 0, at most 100)")
    assert helps["latent_data"].endswith(" (at least 2)")
    assert helps["conditional"] == Config.__dataclass_fields__["conditional"].metadata["help"]
    assert all(": " in helps[name] for name in ("split", "guide", "compile", "prior"))


@pytest.mark.parametrize("text", ["inf", "Infinity", "1e400"])
def test_a_bound_can_be_taken_off(parser, text):
    assert parse(parser, "--max-grad-norm", text).max_grad_norm == float("inf")


def test_print_config_gives_a_file_that_gives_the_config_back(parser, capsys, tmp_path):
    given = ["--hidden", "3", "4", "--lr", "1e-5", "--max-grad-norm", "inf", "--download", "--data-dir", "a b"]
    with pytest.raises(SystemExit):
        parser.parse_args([*given, "--print_config"])
    (tmp_path / "c.yaml").write_text(capsys.readouterr().out)
    assert parse(parser, "--config", str(tmp_path / "c.yaml")) == parse(parser, *given)


def test_the_config_json_of_a_run_is_a_config_file(parser, tmp_path):
    config = Config(latent_dim=3, hidden=(8, 9), lr=0.1 + 0.2)
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))
    assert parse(parser, "--config", str(tmp_path / "config.json")) == config


def test_flags_override_the_file(parser, tmp_path):
    (tmp_path / "c.yaml").write_text("latent_dim: 3\nlr: 0.5\nhidden: [1, 2]\n")
    found = parse(parser, "--config", str(tmp_path / "c.yaml"), "--lr", "0.25", "--hidden", "4")
    assert found == Config(latent_dim=3, lr=0.25, hidden=(4,))


def test_given_flags_are_those_of_line_and_file(parser, tmp_path):
    (tmp_path / "c.yaml").write_text("latent_dim: 3\n")
    assert given_flags(parser, ["--config", str(tmp_path / "c.yaml"), "--lr", "0.003"]) == {"latent_dim", "lr"}
    assert given_flags(parser, ["--download"]) == {"download"}
    assert given_flags(parser, []) == set()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--latent-dims", "3"], ["--latent-dims", "did you mean --latent-dim?"]),
        (["--epoch", "3"], ["--epoch", "did you mean --epochs?"]),  # a prefix is a mistake, not an abbreviation
        (["--latent_dim=3"], ["--latent_dim", "did you mean --latent-dim?"]),
        (["stray"], ["stray"]),
        (["--epochs", "1.5"], ["--epochs", "1.5", "whole numbers"]),
        (["--epochs", "many"], ["--epochs", "many"]),
        (["--hidden", "8", "x"], ["--hidden", "x", "whole numbers"]),
        (["--hidden"], ["--hidden", "at least one"]),
        (["--lr", "fast"], ["--lr", "fast", "float"]),
        (["--lr"], ["--lr"]),
        (["--config", "nonesuch.yaml"], ["nonesuch.yaml", "not exist"]),
    ],
    ids=lambda value: value[0],
)
def test_a_mistyped_flag_is_named_in_one_line(parser, capsys, arguments, words):
    said = complaint(parser, capsys, *arguments)
    assert said.startswith("error: ")
    assert [word for word in words if word not in said] == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("epoch: 3", ["epoch"]),
        ("epochs: x", ["--epochs", "x"]),
        ("lr: [1]", ["lr"]),
        ("[", ["config"]),
        ("", ["config"]),
    ],
)
def test_a_wrong_config_file_is_refused_in_one_line(parser, capsys, tmp_path, text, words):
    (tmp_path / "c.yaml").write_text(text)
    said = complaint(parser, capsys, "--config", str(tmp_path / "c.yaml"))
    assert [word for word in words if word not in said] == []


def test_a_null_in_a_config_file_is_refused(parser, tmp_path):
    (tmp_path / "c.yaml").write_text("epochs: null")
    with pytest.raises(errors.UsageError, match="`epochs` must be of type int; got None"):
        parse(parser, "--config", str(tmp_path / "c.yaml"))


CODES = {
    "UsageError": 2,
    "DataError": 3,
    "CheckpointError": 4,
    "DivergenceError": 5,
    "StorageError": 6,
    "ProcessError": 7,
    "CheckError": 8,
}


def test_every_error_has_a_code_of_its_own():
    kinds = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, Exception)]
    kinds.remove(errors.PyroVAEError)
    assert {kind.__name__: kind.exit_code for kind in kinds} == CODES
    assert {kind.__name__: code for code, kind in errors.BY_EXIT_CODE.items()} == CODES
    assert all("exit_code" in vars(kind) for kind in kinds)


def test_the_table_of_codes_is_that_of_the_classes():
    page = (ROOT / "docs" / "guarantees.md").read_text(encoding="utf-8")
    table = page.split("| exit code |")[1].split("\n\n")[0]
    codes = [int(code) for row in re.findall(r"^\| ([0-9, ]+) \|", table, re.MULTILINE) for code in row.split(", ")]
    assert codes == [0, 1, *sorted(errors.BY_EXIT_CODE), *sorted(system.INTERRUPTED), system.BROKEN_PIPE]


@pytest.mark.parametrize(
    ("said", "heard"),
    [
        ("the `lr` is", "the --lr is"),
        ("`prior='vamp'`, `kl_weight=0`", "--prior vamp, --kl-weight 0"),
        ("`download=True` or `download=False`", "--download or --no-download"),
        ("use another `folder`", "use another --out"),
        ("add `resume=True`", "add --resume"),
        ("pass `dequantize=True`", "pass --dequantize of pyro-vae train"),  # which another command does not take
        ("`force=True`, `y_dim`", "`force=True`, `y_dim`"),  # no flags here
        ("lr=0.1,seed=0 in runs/kl_weight=1", "lr=0.1,seed=0 in runs/kl_weight=1"),  # names of folders
    ],
)
def test_arguments_in_a_sentence_become_flags(capsys, said, heard):
    with pytest.raises(SystemExit), exit_codes(arguments=["out", "resume", "lr", "prior", "kl_weight", "download"]):
        raise errors.UsageError(said)
    assert capsys.readouterr().err == f"error: {heard}\n"


def test_arguments_in_what_is_logged_become_flags_for_as_long_as_the_command_runs(capsys):
    logger = logging.getLogger("pyro_vae.some.module")
    with exit_codes(arguments=["threads"]):
        logger.warning("a step takes %d ms: `threads=1` or `precision='float32'`", 80)
    assert capsys.readouterr().err == "a step takes 80 ms: --threads 1 or --precision float32 of pyro-vae train\n"
    assert logging.getLogger("pyro_vae").handlers == []


def test_a_log_that_cannot_be_printed_ends_nothing(monkeypatch):
    class Full:
        def write(self, text):
            raise OSError(28, "No space left on device")

    with exit_codes():
        monkeypatch.setattr("sys.stderr", Full())
        logging.getLogger("pyro_vae").warning("a note")
        monkeypatch.undo()


def test_the_library_names_no_flag():
    """But cli/, the one module that knows how commands are called, and the checks, which are a command of their own."""
    ours = re.compile(r"(?<![\w`-])--(?!nproc-per-node|always|dirty|abbrev|exclude|help)[a-z][a-z-]+")
    files = [path for path in (ROOT / "pyro_vae").rglob("*.py") if not {"cli", "checks"} & set(path.parts)]
    files = [path for path in files if path.name not in ("command_lines.py", "errors.py")]
    lines = [f"{path.name}: {line}" for path in files for line in path.read_text().splitlines() if ours.search(line)]
    assert lines == []


@pytest.mark.parametrize("name", CODES)
def test_an_error_becomes_one_sentence_and_its_code(capsys, name):
    with pytest.raises(SystemExit) as end, exit_codes():
        raise getattr(errors, name)("what is wrong")
    assert (end.value.code, capsys.readouterr().err) == (CODES[name], "error: what is wrong\n")


def test_an_error_of_ours_is_not_hidden():
    with pytest.raises(ZeroDivisionError), exit_codes():
        raise ZeroDivisionError


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize(("kept", "said"), [("", "interrupted\n"), ("go on", "interrupted: go on\n")])
def test_a_signal_becomes_128_and_its_number(capsys, number, code, kept, said):
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as end, exit_codes(kept):
        os.kill(os.getpid(), number)
    assert end.value.code == code
    assert capsys.readouterr().err == said
    assert signal.getsignal(number) is before


ABLATE = ROOT / "scripts" / "loss_ablation.py"


@pytest.mark.parametrize(
    ("script", "arguments"),
    [
        (SCRIPT, ["--help"]),
        (SCRIPT, ["--latent-dims", "3"]),
        (SCRIPT, ["--likelihood", "bernouli"]),
        (SCRIPT, ["--objective", "iwae", "--kl-warmup", "1", "--dataset", "missing.npy"]),
        (SCRIPT, ["--layers", "2", "--guide", "bottom_up"]),
        (SCRIPT, ["--posterior", "delta"]),
        (ABLATE, ["--objective", "iwae", "--out", "missing"]),
    ],
)
def test_help_and_mistakes_do_not_wait_for_torch(script, arguments):
    asked = subprocess.run(
        [sys.executable, "-X", "importtime", script, *arguments], capture_output=True, text=True, check=False
    )
    loaded = set(re.findall(r"^import time:.*\| +(\w+)", asked.stderr, re.MULTILINE))
    assert asked.returncode == (0 if arguments == ["--help"] else 2)
    assert "jsonargparse" in loaded
    assert loaded.isdisjoint({"torch", "pyro", "numpy", "matplotlib", "sklearn"})
