"""Damage of every kind, at random places: refused by name and hash, and the newest whole checkpoint is used instead."""

import random
import re
import runpy
import shutil
from pathlib import Path

import pytest
from cases import thorough
from scripted import exit_code, save_tiny

import pyro_vae as pv
from pyro_vae.errors import CheckpointError
from pyro_vae.experiment.run import checkpoint

SCRIPTS = Path(__file__).parents[3] / "scripts"
HASH = re.compile(r"(?:should be|SHA-256|is|has) (?=.{64})([!-~]{64,80})")  # a bit of it may be flipped
PAGE = 512  # of a disk; a manifest has four of them


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run with checkpoints of epochs 4 to 6, and the weights it ended with."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("whole")
        patch.chdir(folder)
        save_tiny()
        flags = "--dataset tiny.npy --hidden 8 --latent-dim 2 --batch-size 16 --epochs 6 --test-samples 20"
        assert call("train_svi", *flags.split(), "--elbo-samples", "5", "--out", "run") == 0
        for path in folder.glob("run/report.*"):
            path.unlink()  # so that there is something left to do
    return folder


def call(name, *arguments):
    return exit_code(runpy.run_path(str(SCRIPTS / f"{name}.py"))["main"], arguments)


def truncate(paths, chance):
    content = paths[0].read_bytes()
    paths[0].write_bytes(content[: chance.randrange(len(content))])
    return paths[:1]


def flip_a_bit(paths, chance):
    content = bytearray(paths[0].read_bytes())
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    paths[0].write_bytes(content)
    return paths[:1]


def zero_a_page(paths, chance):
    content = bytearray(paths[0].read_bytes())
    start = PAGE * chance.randrange(len(content) // PAGE)
    content[start : start + PAGE] = bytes(PAGE)
    paths[0].write_bytes(content)
    return paths[:1]


def put_a_page_elsewhere(paths, chance):
    content = bytearray(paths[0].read_bytes())
    a, b = (PAGE * chance.randrange(len(content) // PAGE) for _ in range(2))
    content[a : a + PAGE] = content[b : b + PAGE]
    paths[0].write_bytes(content)
    return paths[:1]


def append(paths, chance):
    with paths[0].open("ab") as file:
        file.write(chance.randbytes(1 + chance.randrange(5000)))
    return paths[:1]


def swap(paths, chance):
    contents = [path.read_bytes() for path in paths]
    for path, content in zip(paths, reversed(contents), strict=True):
        path.write_bytes(content)
    return paths


def edit(paths, chance):
    """Another digit in a number of a manifest, its hash left as it was."""
    manifest = paths[0].with_suffix(".json")
    text = manifest.read_text("latin-1")  # it may be damaged already
    digits = [match.start() for match in re.finditer(r"(?<=[ .])[0-9]", text)]
    for digit in digits and [chance.choice(digits)]:
        other = str((int(text[digit]) + 1 + chance.randrange(8)) % 10)
        manifest.write_text(text[:digit] + other + text[digit + 1 :], "latin-1")
    return [manifest]


KINDS = [truncate, flip_a_bit, zero_a_page, put_a_page_elsewhere, append, swap, edit]


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def damaged(folder, chance):
    """Damages one checkpoint, or two, in a random way. Returns the manifests of those that are no longer whole."""
    before = files(folder)
    kind = chance.choice(KINDS)
    suffix = chance.choice([".json", ".safetensors"])
    first, second = (path.with_suffix(suffix) for path in chance.sample(checkpoint.manifests(folder), 2))
    touched = kind([first, second], chance)
    after = files(folder)
    return kind.__name__, [path.with_suffix(".json") for path in touched if before[path.name] != after[path.name]]


@pytest.mark.thorough
@pytest.mark.parametrize("mutations", [200, pytest.param(1000, marks=pytest.mark.slow)])
def test_a_damaged_checkpoint_is_refused_by_name_and_hash_and_the_newest_whole_one_is_found(run, tmp_path, mutations):
    chance = random.Random(mutations)  # noqa: S311 - no secret
    whole, folder = run / "run" / "checkpoints", tmp_path / "checkpoints"
    done: dict[str, int] = {}
    while sum(done.values()) < mutations:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(whole, folder)
        kind, broken = damaged(folder, chance)
        if not broken:
            continue  # a page of zeros was zeroed
        done[kind] = done.get(kind, 0) + 1
        for manifest in broken:
            with pytest.raises(CheckpointError) as refused:
                checkpoint.read(manifest)
            assert (refused.value.exit_code, manifest.stem in str(refused.value)) == (4, True)
            hashes = HASH.findall(str(refused.value))
            assert len(hashes) == 2 or "the SHA-256 that it should have is lost" in str(refused.value)
        found, complaints = checkpoint.newest(folder)
        left = [path for path in checkpoint.manifests(folder) if path not in broken]
        assert f"epoch-{found.progress.epoch:05d}.json" == left[0].name
        newer = [path for path in broken if path.name > left[0].name]
        named = [
            path.stem in complaint for path, complaint in zip(sorted(newer, reverse=True), complaints, strict=True)
        ]
        assert all(named)
    assert done.keys() == {kind.__name__ for kind in KINDS}


@pytest.mark.parametrize(
    "seed", [0, 3, *thorough(1, 2, 4, 5), *(pytest.param(i, marks=pytest.mark.slow) for i in range(6, 40))]
)
def test_resume_goes_on_from_the_newest_whole_checkpoint_and_says_so(run, tmp_path, monkeypatch, capsys, seed):
    chance = random.Random(seed)  # noqa: S311
    copied(run, tmp_path, monkeypatch)
    last = files(tmp_path / "run" / "checkpoints")
    broken: list[Path] = []
    while not any("00006" in path.name for path in broken):
        broken += damaged(tmp_path / "run" / "checkpoints", chance)[1]
    left = [path for path in checkpoint.manifests(tmp_path / "run" / "checkpoints") if path not in broken]
    code = call("train_svi", "--out", "run", "--resume")
    out, err = capsys.readouterr()
    if not left:
        assert (code, err.startswith("error: no checkpoint in run/checkpoints is whole.")) == (4, True)
        return
    assert code == 0
    assert err.startswith("warning: ")
    assert err.count("Going on from an older checkpoint.") == err.count("\n") >= 1
    assert f"going on after epoch {int(left[0].stem[-5:])}" in out
    name = "epoch-00006.safetensors"
    assert (tmp_path / "run" / "checkpoints" / name).read_bytes() == last[name]


def copied(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(run, tmp_path, dirs_exist_ok=True)


@pytest.mark.parametrize("name", ["train_svi", "evaluate", "sample"])
def test_a_run_without_a_whole_checkpoint_is_refused_by_every_script(run, tmp_path, monkeypatch, capsys, name):
    copied(run, tmp_path, monkeypatch)
    for path in Path("run/checkpoints").glob("*.safetensors"):
        flip_a_bit([path], random.Random(0))  # noqa: S311
    assert call(name, *(["--out", "run", "--resume"] if name == "train_svi" else ["run"])) == 4
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert len(HASH.findall(err)) == 6
    with pytest.raises(CheckpointError, match=r"no checkpoint in .* is whole"):
        pv.load("run")


@pytest.mark.thorough
@pytest.mark.parametrize("kind", [truncate, flip_a_bit, zero_a_page, append])
@pytest.mark.parametrize("name", ["history.jsonl", "config.json", "run.json"])
@pytest.mark.parametrize("seed", [0, *thorough(1, 2, 3)])
def test_no_damage_beside_the_checkpoints_changes_what_is_trained(run, tmp_path, monkeypatch, capsys, name, kind, seed):
    """Either it is refused in a sentence, or it was in what does not matter: a date, a line past the checkpoint."""
    copied(run, tmp_path, monkeypatch)
    shutil.rmtree("run/checkpoints")
    shutil.copytree(run / "run" / "checkpoints", "run/checkpoints")
    for path in Path("run/checkpoints").glob("epoch-00006*"):
        path.unlink()  # something is left to be trained
    kind([Path("run") / name], random.Random(seed))  # noqa: S311
    code = call("train_svi", "--out", "run", "--resume")
    err = capsys.readouterr().err
    if code:
        assert code in ({4} if name == "history.jsonl" else {2, 3, 4})
        assert (err.startswith("error: "), err.count("\n")) == (True, 1)
        return
    ends = [folder / "run/checkpoints/epoch-00006.safetensors" for folder in (run, tmp_path)]
    assert ends[0].read_bytes() == ends[1].read_bytes()


def test_a_changed_history_is_refused_by_training_and_evaluation(run, tmp_path, monkeypatch, capsys):
    copied(run, tmp_path, monkeypatch)
    path = Path("run/history.jsonl")
    loss = re.search(r'"loss": (\d+)', path.read_text())[1]
    path.write_text(path.read_text().replace(f'"loss": {loss}', f'"loss": {int(loss) + 1}', 1))
    for name, arguments in (("train_svi", ["--out", "run", "--resume"]), ("evaluate", ["run"])):
        assert call(name, *arguments) == 4
        err = capsys.readouterr().err
        assert "history.jsonl is damaged" in err
        assert len(set(HASH.findall(err))) == 2
