"""share.py: a folder that another process loads, and a hub that is asked only where it is wanted."""

import runpy
import subprocess
import sys
import types
from pathlib import Path

import pytest
from finished import finished_run, images
from scripted import exit_code

import pyro_vae as pv
from pyro_vae.experiment.share import sharing

PATH = Path(__file__).parents[2] / "scripts" / "share.py"
MAIN = runpy.run_path(str(PATH))["main"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return finished_run(folder / "digits", images(folder / "grey.npz"))


@pytest.mark.thorough
def test_a_run_is_shared_and_another_process_loads_it_in_another_place(run, tmp_path, capsys):
    assert exit_code(MAIN, [run, "--out", tmp_path / "a", "--license", "mit", "--name", "Digits"]) == 0
    out = capsys.readouterr().out
    files = "model.safetensors, config.json, README.md"
    assert out == f"Written, in {tmp_path / 'a'}: {files}. Check README.md before you share it.\n"
    (tmp_path / "a").rename(tmp_path / "b")
    code = "import pyro_vae as pv; print(sum(t.double().sum().item() for t in pv.load('b').tensors().values()))"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert float(done.stdout) == sum(t.double().sum().item() for t in pv.load(run).tensors().values())
    text = (tmp_path / "b" / "README.md").read_text()
    assert "license: mit" in text
    assert "\n# Digits\n" in text


def test_every_mistake_has_its_exit_code(run, tmp_path, capsys, monkeypatch):
    (tmp_path / "README.md").write_text("mine")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    wrong = {
        (run, "--out", tmp_path): (2, "which is not a shared model"),
        (tmp_path / "none", "--out", tmp_path / "a"): (4, "holds no trained run"),
        (run, "--out", tmp_path / "a", "--push", "digits"): (2, "write user/name"),
        (run, "--out", tmp_path / "a", "--push", "me/digits"): (2, "pip install 'pyro-vae[hub]'"),
        (run, "--out", tmp_path / "README.md" / "a"): (6, "Not a directory"),
        (run,): (2, "arguments are required: out"),
    }
    for arguments, (code, words) in wrong.items():
        assert exit_code(MAIN, arguments) == code
        assert words in capsys.readouterr().err
    assert not (tmp_path / "a").exists()


def test_push_sends_the_files_it_wrote_to_a_private_model_and_no_others(run, tmp_path, capsys, monkeypatch):
    calls = []

    class Api:
        def create_repo(self, repo_id, **options):
            calls.append((repo_id, options))

        def upload_folder(self, **options):
            calls.append(options)
            return types.SimpleNamespace(commit_url="https://hub/me/digits/commit/1")

    monkeypatch.setitem(sys.modules, "huggingface_hub", types.SimpleNamespace(HfApi=Api))
    folder = tmp_path / "shared"
    folder.mkdir()
    (folder / "secret.txt").write_text("mine")
    assert exit_code(MAIN, [run, "--out", folder, "--push", "me/digits"]) == 0
    created, sent = calls
    assert created == ("me/digits", {"private": True, "exist_ok": True})
    assert (sent["repo_id"], sent["folder_path"]) == ("me/digits", str(folder))
    assert sent["allow_patterns"] == ["model.safetensors", "config.json", "README.md"]
    assert set(sent["allow_patterns"]) <= set(sharing.FILES)
    assert "Sent: https://hub/me/digits/commit/1" in capsys.readouterr().out


def test_help_answers_without_torch():
    code = f"import runpy, sys; main = runpy.run_path({str(PATH)!r})['main']; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
