"""Checkpoints, run folders and config files made to harm: refused with their exit code, and nothing of them runs."""

import contextlib
import json
import pickle
import resource
import shutil
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest
import torch
from cases import all_but, thorough
from finished import finished_run, images

import pyro_vae as pv
from pyro_vae.errors import CheckpointError, UsageError
from pyro_vae.experiment.compare.comparable_runs import candidates
from pyro_vae.experiment.config import Config
from pyro_vae.experiment.run import files
from pyro_vae.experiment.run.trained_run import open_run
from pyro_vae.experiment.train import training

SCRIPTS = Path(__file__).parents[3] / "scripts"
DEEP = 100_000
HUGE = int("9" * 400)


@pytest.fixture
def last(trained):
    return trained.folder / "epoch-00005.json"


def content_of(manifest):
    body = json.loads(manifest.read_bytes())
    del body["sha256"]
    return body


def sealed(body):
    """A manifest whose hash fits, as someone writes it who knows how."""
    return files.to_json({**body, "sha256": files.sha256(files.to_json(body))})


def hold(manifest, tensors):
    """Puts a tensor file of this content beside a manifest that vouches for it."""
    path, body = manifest.with_suffix(".safetensors"), content_of(manifest)
    path.write_bytes(tensors)
    body["tensors"] = {"file": path.name, "sha256": files.sha256(tensors), "bytes": len(tensors)}
    manifest.write_bytes(sealed(body))


def complaint(path):
    with pytest.raises(CheckpointError) as caught:
        pv.load(path)
    sentence = str(caught.value)
    assert len(sentence) < 2000
    return sentence


# Manifests.

TEXTS = {
    "deep list": "[" * DEEP,
    "deep object": '{"a":' * DEEP,
    "deep and closed": "[" * DEEP + "]" * DEEP,
    "deep inside": '{"schema": 1, "sha256": "", "config": ' + "[" * DEEP + "]" * DEEP + "}",
    "huge schema": '{"schema": ' + "9" * 5000 + ', "sha256": ""}',
    "large schema": '{"schema": 1e308, "sha256": ""}',
    "infinite schema": '{"schema": 1e999, "sha256": ""}',
    "NaN": '{"schema": NaN, "sha256": ""}',
    "NaN inside": '{"schema": 1, "lr": NaN, "sha256": ""}',
    "half a surrogate": '{"schema": 1, "sha256": "\\ud800", "a": "\\ud800"}',
    "UTF-16": '{"schema": 1}'.encode("utf-16"),
    "no text": bytes(range(256)),
    "a pickle": pickle.dumps({"schema": 1}),
}


@pytest.mark.thorough
@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_what_is_no_manifest_is_refused(last, text):
    last.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert last.name in complaint(last)


def test_a_manifest_of_100_megabytes_is_not_read(last):
    with last.open("r+b") as file:
        file.truncate(100 << 20)
    tracemalloc.start()
    try:
        assert last.name in complaint(last)
        assert tracemalloc.get_traced_memory()[1] < 30 << 20
    finally:
        tracemalloc.stop()


def test_a_key_that_is_there_twice_changes_nothing(trained, last):
    before = pv.load(last).tensors()
    twice = last.read_bytes().replace(b'"schema": 1', b'"x_shape": [7], "schema": 9, "schema": 1')
    last.write_bytes(twice)
    with contextlib.suppress(CheckpointError):
        after = pv.load(last).tensors()
        assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


ODD = [None, [], {}, "../../etc/passwd", -1, 0.5, True, [[]], [None], HUGE, [HUGE], "\U0001f600"]


def places(body, path=()):
    for key, value in body.items():
        yield (*path, key)
        if isinstance(value, dict):
            yield from places(value, (*path, key))


def altered(body, place, value):
    """The body with another value at a place, or without the key."""
    copy = json.loads(json.dumps(body))
    inside = copy
    for key in place[:-1]:
        inside = inside[key]
    if value is KeyError:
        del inside[place[-1]]
    else:
        inside[place[-1]] = value
    return copy


@pytest.mark.thorough
@pytest.mark.parametrize(
    "other", all_but([None, {}, "../../etc/passwd"], [*ODD, KeyError]), ids=lambda value: repr(value)[:20]
)
def test_a_manifest_of_wrong_types_is_refused_or_loads(trained, last, other):
    """At every place of it; a setting may be another one, and harmless."""
    body, wrong = content_of(last), []
    for place in places(body):
        last.write_bytes(sealed(altered(body, place, other)))
        try:
            pv.load(last)
        except (CheckpointError, UsageError):
            continue
        except Exception as error:
            wrong.append(f"{'.'.join(place)}: {type(error).__name__}: {str(error)[:60]}")
    assert not wrong


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["../../canary", "/etc/passwd", "epoch-00004.safetensors", "", ".", "a\0b"])
def test_a_manifest_that_names_another_file_is_refused(last, name):
    body = content_of(last)
    body["tensors"]["file"] = name
    last.write_bytes(sealed(body))
    assert last.name in complaint(last)


# Tensor files, each with a manifest that vouches for it.


def safetensors(header, body=b"", size=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if size is None else size).to_bytes(8, "little") + text + body


def entry(dtype="F32", shape=(2,), start=0, end=8):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}


FILES = {
    "empty": b"",
    "short": b"\1\0\0",
    "a pickle": pickle.dumps([1]),
    "header beyond the file": safetensors({}, size=1 << 20),
    "header of all memory": safetensors({}, size=(1 << 64) - 1),
    "header of 100 MB": safetensors(b"{" + b" " * (100 << 20) + b"}"),
    "no header": safetensors({}),
    "header no JSON": safetensors(b"hello"),
    "header no UTF-8": safetensors(b"\xff\xfe{}"),
    "header a list": safetensors([]),
    "deep header": safetensors(b'{"a":' * 10_000 + b"1" + b"}" * 10_000),
    "deep metadata": safetensors(b'{"__metadata__":' * 10_000),
    "overlapping": safetensors({"program/a": entry(), "program/b": entry(start=4, end=12)}, bytes(12)),
    "the same twice": safetensors({"program/a": entry(), "program/b": entry()}, bytes(8)),
    "with a gap": safetensors({"program/a": entry(), "program/b": entry(start=12, end=20)}, bytes(20)),
    "beyond the end": safetensors({"program/a": entry(end=80, shape=(20,))}, bytes(8)),
    "more than declared": safetensors({"program/a": entry()}, bytes(16)),
    "backwards": safetensors({"program/a": entry(start=8, end=0)}, bytes(8)),
    "negative offset": safetensors({"program/a": entry(start=-8, end=0)}, bytes(8)),
    "negative shape": safetensors({"program/a": entry(shape=(-2,))}, bytes(8)),
    "both negative": safetensors({"program/a": entry(shape=(-1, -2))}, bytes(8)),
    "overflowing shape": safetensors({"program/a": entry(shape=(1 << 62, 1 << 3))}, bytes(8)),
    "shape of no size": safetensors({"program/a": entry(shape=(0, 1 << 63), end=0)}),
    "fraction": safetensors({"program/a": entry(shape=(2.5,))}, bytes(8)),
    "unknown type": safetensors({"program/a": entry(dtype="OBJ")}, bytes(8)),
    "type no text": safetensors({"program/a": entry(dtype=7)}, bytes(8)),
    "bytes that do not fit": safetensors({"program/a": entry(dtype="F64")}, bytes(8)),
    "no dtype": safetensors({"program/a": {"shape": [2], "data_offsets": [0, 8]}}, bytes(8)),
    # Good safetensors files that are no checkpoint.
    "another part": safetensors({"evil/a": entry()}, bytes(8)),
    "a place": safetensors({"../../canary": entry()}, bytes(8)),
    "no part": safetensors({"": entry()}, bytes(8)),
    "optimiser's no number": safetensors(
        {"program/a": entry(end=8), "optimizer/x/y": entry(start=8, end=16)}, bytes(16)
    ),
    "whole numbers": safetensors({"program/a": entry(dtype="I32")}, bytes(8)),
    "no program": safetensors({"optimizer/0/step": entry(shape=(), end=4)}, bytes(4)),
}


@pytest.mark.thorough
@pytest.mark.parametrize("name", FILES)
def test_a_tensor_file_made_to_harm_is_refused(last, name):
    hold(last, FILES[name])
    assert "epoch-00005" in complaint(last)


@pytest.mark.thorough
@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64, torch.float8_e4m3fn])
def test_tensors_of_a_type_that_no_program_has_are_refused(trained, last, dtype):
    from safetensors.torch import save

    tensors = {f"program/{name}": tensor.to(dtype) for name, tensor in trained.vae.tensors().items()}
    hold(last, save(tensors))
    assert "epoch-00005" in complaint(last)


def test_a_pickle_in_place_of_a_run_is_not_opened(tmp_path):
    for name in ("model.pt", "epoch-00001.json", "epoch-00001.safetensors"):
        (tmp_path / name).write_bytes(pickle.dumps(Payload(tmp_path / "canary")))
        complaint(tmp_path / name)
    complaint(tmp_path)
    assert not (tmp_path / "canary").exists()


class Payload:
    """Unpickled, it touches a file."""

    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return Path.touch, (self.canary,)


# Run folders, as scripts open them.


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    return finished_run(folder / "run", images(folder / "labelled.npz"), test_samples=20, elbo_samples=5)


JSON = [
    "",
    "[]",
    "3",
    "null",
    '"x"',
    "{}",
    "[" * DEEP,
    "9" * 5000,
    "\ufeff{}",
    '{"status": [], "protocol": []}',
    "\0",
    "é" * 9,
]


DAMAGES = [
    lambda folder: open_run(folder),
    lambda folder: training.start_or_resume(folder, Config(), {"epochs"}, resume=True),
    lambda folder: candidates([folder, folder.parent]),
]


def outcome(damage, folder):
    try:
        damage(folder)
    except (CheckpointError, UsageError):
        return "refused"
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:60]}"
    return "taken"


@pytest.mark.parametrize("name", ["config.json", "run.json", "history.jsonl"])
@pytest.mark.parametrize("text", JSON, ids=lambda text: repr(text[:12]))
def test_a_damaged_run_folder_is_refused_or_harmless(run, name, text, monkeypatch):
    """Resuming is stopped where it would train: all is read by then."""
    monkeypatch.setattr("pyro_vae.experiment.train.training_session.fit", lambda *arguments, **options: iter(()))
    monkeypatch.setattr(training.training_report, "write", lambda *arguments: "")
    before = {path: path.read_bytes() for path in run.glob("*.json*")}
    (run / name).write_bytes(f"{text}\n{text}\n".encode() if name == "history.jsonl" else text.encode())
    try:
        found = {outcome(damage, run) for damage in DAMAGES}
    finally:
        for path, content in before.items():
            path.write_bytes(content)
    assert found <= {"refused", "taken"}


@pytest.mark.parametrize(
    ("script", "arguments", "name"),
    thorough(("train_svi.py", ["--resume", "--out", "run"], "config.json"), ("evaluate.py", ["run"], "run.json")),
)
def test_a_script_ends_with_exit_code_4(run, tmp_path, script, arguments, name):
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / name).write_text("[" * DEEP)
    asked = subprocess.run(
        [sys.executable, SCRIPTS / script, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (asked.returncode, asked.stderr.count("\n")) == (4, 1), asked.stderr[-300:]
    assert asked.stderr.startswith("error: ")


# Config files.

LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
CONFIGS = {
    "a tag": 'lr: !!python/object/apply:os.system ["touch canary"]',
    "a tag above": '!!python/object/apply:os.system ["touch canary"]',
    "a new object": "lr: !!python/object/new:pathlib.Path [canary]",
    "a name": "dataset: !!python/name:os.system",
    "a module": "dataset: !!python/module:os",
    "a class": "prior: {class_path: os.system, init_args: {command: touch canary}}",
    "another file": "config: /etc/passwd",
    "another config": "config: other.yaml",
    "a laugh": LAUGHS,
    "a laugh in a list": "hidden: [" + LAUGHS.replace("\n", ", ").replace(": ", "", 0).replace("a: &a", "&a", 1) + "]",
    "a laugh of settings": LAUGHS.replace("i: &i", "hidden: &i"),
    "itself": "hidden: &a [*a]",
    "itself above": "&a\nlr: *a",
    "deep": "[" * DEEP,
    "deep inside": "hidden: " + "[" * DEEP,
    "deep mappings": "{a: " * DEEP,
    "deep blocks": "\n".join(" " * i + "a:" for i in range(2000)),
    "a huge number": "epochs: " + "9" * 5000,
    "a huge key": "? [1, 2]\n: 3",
    "no text": bytes(range(256)),
    "UTF-16": "lr: 0.1".encode("utf-16"),
    "large": "# " + "x" * (50 << 20),
}


@pytest.mark.thorough
@pytest.mark.parametrize("name", all_but(list(CONFIGS)[::3], CONFIGS))
def test_a_config_file_made_to_harm_is_refused_with_exit_code_2(tmp_path, name):
    """In a process of its own, which may take 1 GiB and 20 seconds."""
    text = CONFIGS[name]
    (tmp_path / "c.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    asked = subprocess.run(
        [sys.executable, SCRIPTS / "train_svi.py", "--config", "c.yaml", "--out", "run"],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=20,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30)),
    )  # fmt: skip
    assert asked.returncode == 2, asked.stderr[-300:]
    assert asked.stderr.startswith("error: ")
    assert (asked.stderr.count("\n"), len(asked.stderr) < 1000) == (1, True)
    assert [path.name for path in tmp_path.iterdir()] == ["c.yaml"]
