"""Checkpoints: what is saved comes back bit by bit, and what was damaged is refused."""

import json
import math
import os
import random
import resource
import shutil
from dataclasses import replace

import pyro
import pyro.distributions as dist
import pytest
import safetensors.torch
import torch
from finished import flip

import pyro_vae as pv
from pyro_vae.data import Form
from pyro_vae.errors import CheckpointError, StorageError, UsageError
from pyro_vae.experiment import build, tables
from pyro_vae.experiment.config import Config
from pyro_vae.experiment.run import checkpoint, files
from pyro_vae.experiment.run.checkpoint import Checkpoint
from pyro_vae.inference import Part, Progress


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def edit(manifest, change):
    """Alters a manifest as someone would who knows how it is hashed."""
    body = json.loads(manifest.read_bytes())
    del body["sha256"]
    change(body)
    manifest.write_bytes(files.to_json({**body, "sha256": files.sha256(files.to_json(body))}))


class StudentPrior(pv.priors.Prior):
    def forward(self, y=None):
        return dist.StudentT(5.0, self.loc, self.scale).to_event(1)


@pytest.fixture
def last(trained):
    return trained.folder / "epoch-00005.json"


# What comes back.


@pytest.mark.parametrize("optimizer", tables.OPTIMIZERS)
def test_a_restored_fit_is_bitwise_the_saved_one(config, tmp_path, optimizer):
    config = replace(config, optimizer=optimizer, weight_decay=0.1)
    x = torch.ones(7, 6)
    saved, fresh = (build.vae(config, (6,)) for _ in range(2))
    steps = [build.svi(config, vae) for vae in (saved, fresh)]
    for _ in range(3):
        steps[0].step(x)
    progress = Progress(3, 2, -1 / 3, {name: t.detach() / 7 for name, t in saved.tensors().items()})
    state = steps[0].optimizer.state_dict()
    manifest = checkpoint.save(tmp_path, Checkpoint(config, Form((6,)), progress, saved.tensors(), state))

    found = checkpoint.read(manifest)
    restored = found.restore(fresh, steps[1].optimizer)
    assert (found.config, found.form) == (config, Form((6,)))
    assert same(fresh.tensors(), saved.tensors())
    assert (restored.epoch, restored.best_epoch, restored.best_score) == (3, 2, -1 / 3)
    assert same(restored.best_tensors, progress.best_tensors)
    states = [step.optimizer.state_dict()["state"] for step in steps]
    assert states[0].keys() == states[1].keys()
    assert all(same(states[0][i], states[1][i]) for i in states[0])

    for step in steps:  # and so is the step after it
        pyro.set_rng_seed(0)
        step.step(x)
    assert same(fresh.tensors(), saved.tensors())


def test_equal_states_give_equal_bytes(trained, tmp_path):
    (tmp_path / "again").mkdir()
    manifest = trained.save(tmp_path / "again")
    for suffix in (".json", ".safetensors"):
        again, first = (folder / manifest.with_suffix(suffix).name for folder in (manifest.parent, trained.folder))
        assert again.read_bytes() == first.read_bytes()


def test_a_state_that_was_restored_gives_the_bytes_it_came_from(trained, config, last, tmp_path):
    vae = build.vae(replace(config, seed=1), (6,))
    optimizer = build.optimizer(config, vae)
    progress = checkpoint.read(last).restore(vae, optimizer)
    (tmp_path / "again").mkdir()
    reached = Checkpoint(config, trained.data.form, progress, vae.tensors(), optimizer.state_dict())
    again = checkpoint.save(tmp_path / "again", reached)
    assert again.read_bytes() == last.read_bytes()


def test_an_average_is_restored_where_the_program_is(trained, config, last):
    """The meta device stands for an accelerator."""
    saved = checkpoint.read(last)
    saved.progress.average = {name: tensor.clone() for name, tensor in saved.program.items()}
    vae = build.vae(config, (6,)).to("meta")
    with torch.device("meta"):
        average = saved.restore(vae, build.optimizer(config, vae)).average
    assert {tensor.device.type for tensor in vae.tensors().values()} == {"meta"}
    assert {tensor.device.type for tensor in average.values()} == {"meta"}


def test_only_the_last_three_are_kept(trained):
    assert names(trained.folder) == [f"epoch-0000{i}.{end}" for i in (3, 4, 5) for end in ("json", "safetensors")]


def test_epoch_100000_is_newer_than_99999_and_steps_are_newer_than_their_epoch(tmp_path):
    ordered = ["100000", "99999-step-100000", "99999-step-99999", "99999", "00009-step-00012", "00009"]
    for name in (*ordered[::2], *ordered[1::2], "notes", "00001-step-x", "00001-step-00001-copy"):
        (tmp_path / f"epoch-{name}.json").touch()
    assert [path.stem for path in checkpoint.manifests(tmp_path)] == [f"epoch-{name}" for name in ordered]


def test_a_checkpoint_within_an_epoch_gives_way_to_the_next_one(trained):
    noise = {"cpu": torch.get_rng_state()}
    for steps in (7, 9):
        trained.progress.part = Part(steps, -1 / 3, noise)
        trained.save(trained.folder)
        newest, _ = checkpoint.newest(trained.folder)
        assert (newest.progress.epoch, newest.progress.part.steps, newest.progress.part.loss) == (5, steps, -1 / 3)
        assert torch.equal(newest.progress.part.noise["cpu"], noise["cpu"])
        assert [path.stem[6:] for path in checkpoint.manifests(trained.folder)] == [
            f"00005-step-0000{steps}", "00005", "00004", "00003",
        ]  # fmt: skip
    trained.progress.epoch, trained.progress.part = 6, None
    trained.save(trained.folder)
    assert names(trained.folder) == [f"epoch-0000{i}.{end}" for i in (4, 5, 6) for end in ("json", "safetensors")]


def test_what_was_just_written_is_kept_though_a_damaged_one_is_newer(trained):
    flip(trained.folder / "epoch-00005.json", 99)
    trained.progress.epoch, trained.progress.best_epoch = 4, 4
    trained.progress.part = Part(3, 1.0, {"cpu": torch.get_rng_state()})
    written = trained.save(trained.folder)
    assert checkpoint.newest(trained.folder)[0].progress.steps == 3
    assert (written.exists(), written.with_suffix(".safetensors").exists()) == (True, True)


def test_before_the_first_epoch_there_is_no_best_score(trained, tmp_path):
    trained.progress = Progress(part=Part(1, 2.0, {"cpu": torch.get_rng_state()}))
    (tmp_path / "first").mkdir()
    manifest = trained.save(tmp_path / "first")
    assert json.loads(manifest.read_bytes())["progress"]["best_score"] is None
    found = checkpoint.read(manifest).progress
    assert (found.best_score, found.best_epoch, found.best_tensors) == (-math.inf, 0, {})
    assert same(pv.load(manifest).tensors(), trained.vae.tensors())


def test_a_full_disk_leaves_the_older_checkpoints(trained, monkeypatch):
    before = names(trained.folder)
    trained.progress.epoch += 1
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", lambda fd: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(StorageError, match="No space left"):
            trained.save(trained.folder)
    assert names(trained.folder) == before
    assert checkpoint.newest(trained.folder)[0].progress.epoch == 5


def test_a_tensor_file_is_a_json_header_and_numbers_and_nothing_else(last):
    content = last.with_suffix(".safetensors").read_bytes()
    size = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:size])
    assert sorted(offset for entry in header.values() for offset in entry["data_offsets"])[-1] == len(content) - size
    assert sum(4 * math.prod(entry["shape"]) for entry in header.values()) == len(content) - size


def test_nothing_is_unpickled(last, monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError("a checkpoint must not be unpickled")

    for place in ("pickle.load", "pickle.loads", "pickle.Unpickler", "torch.load"):
        monkeypatch.setattr(place, refuse)
    assert checkpoint.read(last).progress.epoch == 5


# What is refused.


def test_a_truncated_tensor_file_is_refused_with_both_hashes_and_sizes(last):
    path = last.with_suffix(".safetensors")
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    sizes = [f"{files.sha256(part)} of {len(part)}" for part in (content, content[:-1])]
    with pytest.raises(CheckpointError, match=rf"{path.name} is damaged: .*be {sizes[0]} bytes, is {sizes[1]}\."):
        checkpoint.read(last)


@pytest.mark.parametrize("place", [0.0, 0.1, 0.5, 0.999])
def test_one_flipped_bit_in_the_tensors_is_refused_with_both_hashes(last, place):
    path = last.with_suffix(".safetensors")
    wanted = files.sha256(path.read_bytes())
    flip(path, int(place * 8 * path.stat().st_size))
    found = files.sha256(path.read_bytes())
    with pytest.raises(CheckpointError, match=f"{path.name} is damaged: SHA-256 should be {wanted} .* is {found}"):
        checkpoint.read(last)


@pytest.mark.thorough
def test_one_flipped_bit_in_the_manifest_is_refused(last):
    content = last.read_bytes()
    for byte in range(0, len(content), 3):
        flip(last, 8 * byte + random.Random(byte).randrange(8))  # noqa: S311 - no secret
        with pytest.raises(CheckpointError, match=last.name):
            checkpoint.read(last)
        last.write_bytes(content)


@pytest.mark.parametrize("alter", [lambda text: text.replace("e-08", "E-08"), lambda text: text + "\n"])
def test_a_manifest_that_says_the_same_in_another_form_is_refused(last, alter):
    assert "e-08" in last.read_text()
    last.write_text(alter(last.read_text()))
    with pytest.raises(CheckpointError, match="is written in another form"):
        checkpoint.read(last)


def test_a_manifest_without_end_is_not_read(last):
    with last.open("ab") as file:
        file.truncate(1 << 34)  # a hole: no disk is filled
    with pytest.raises(CheckpointError, match=rf"{last.name} is damaged: it has more than the 16777216 bytes"):
        checkpoint.read(last)


def test_an_edited_manifest_is_refused_with_both_hashes(last):
    content = last.read_bytes()
    claimed = json.loads(content)["sha256"]
    last.write_bytes(content.replace(b'"lr": 0.01,', b'"lr": 0.02,'))
    with pytest.raises(
        CheckpointError, match=rf"{last.name} was altered: .* should have SHA-256 {claimed}, has [0-9a-f]{{64}}\."
    ):
        checkpoint.read(last)


@pytest.mark.thorough
@pytest.mark.parametrize("text", ["", "{", "[]", "[1]", "3", "null", '"x"', "{}", '{"sha256": "x"}', "\xff"])
def test_what_is_no_manifest_is_refused(last, text):
    last.write_bytes(text.encode("latin-1"))
    with pytest.raises(CheckpointError, match=last.name):
        checkpoint.read(last)


@pytest.mark.thorough
@pytest.mark.parametrize("value", ["NaN", '"two"', "null", "[]"])
def test_an_impossible_schema_is_refused(last, value):
    last.write_bytes(last.read_bytes().replace(b'"schema": 3', f'"schema": {value}'.encode()))
    with pytest.raises(CheckpointError, match=last.name):
        checkpoint.read(last)


def test_a_newer_schema_is_refused(last):
    edit(last, lambda body: body.update(schema=4))
    with pytest.raises(CheckpointError, match=rf"{last.name} has schema 4, .* up to 3: update pyro_vae"):
        checkpoint.read(last)


def test_swapped_tensor_files_are_refused(trained, last):
    mine, other = (trained.folder / f"epoch-0000{i}.safetensors" for i in (5, 4))
    shutil.move(mine, trained.folder / "x")
    shutil.move(other, mine)
    shutil.move(trained.folder / "x", other)
    for manifest in (last, other.with_suffix(".json")):
        with pytest.raises(CheckpointError, match=manifest.stem):
            checkpoint.read(manifest)


def test_a_pair_under_another_name_is_refused(trained, last):
    for path in (last, last.with_suffix(".safetensors")):
        shutil.copy(path, path.with_name(path.name.replace("5", "6")))
    digest = files.sha256(last.with_suffix(".safetensors").read_bytes())
    words = (
        rf"epoch-00006\.json belongs to epoch-00005\.safetensors, .* {digest}, .* epoch-00006\.safetensors, .* {digest}"
    )
    with pytest.raises(CheckpointError, match=words):
        checkpoint.read(trained.folder / "epoch-00006.json")


def test_tensors_that_are_not_there_are_named(last):
    last.with_suffix(".safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"epoch-00005\.safetensors cannot be read: No such file"):
        checkpoint.read(last)


def test_a_file_of_the_right_hash_that_holds_no_tensors_is_refused(last):
    content = b"not safetensors"
    last.with_suffix(".safetensors").write_bytes(content)
    entry = {"file": "epoch-00005.safetensors", "sha256": files.sha256(content), "bytes": len(content)}
    edit(last, lambda body: body.update(tensors=entry))
    with pytest.raises(CheckpointError, match="is not a safetensors file"):
        checkpoint.read(last)


# Which one is taken.


def test_the_newest_whole_one_is_taken_and_newer_ones_are_complained_of(trained, last):
    flip(last, 99)
    (trained.folder / "epoch-00004.safetensors").unlink()
    found, complaints = checkpoint.newest(trained.folder)
    assert found.progress.epoch == 3
    assert ["epoch-00005" in complaints[0], "epoch-00004" in complaints[1], len(complaints)] == [True, True, 2]


def test_a_checkpoint_without_its_manifest_does_not_exist(trained, last):
    last.unlink()
    found, complaints = checkpoint.newest(trained.folder)
    assert (found.progress.epoch, complaints) == (4, [])


def test_nothing_is_no_error_but_nothing_whole_is(trained, tmp_path):
    (tmp_path / "empty").mkdir()
    assert checkpoint.newest(tmp_path / "empty") == (None, [])
    for path in trained.folder.glob("*.safetensors"):
        path.unlink()
    with pytest.raises(CheckpointError, match=r"no checkpoint in .* is whole.*00005.*00004.*00003"):
        checkpoint.newest(trained.folder)


# pv.load.


def log_probs(vae, x):
    return pv.evaluation.log_weights(vae, x, 3, seed=0)


def best_of(trained):
    vae = build.vae(Config(latent_dim=2, hidden=(8,), seed=9), (6,))
    vae.set_tensors(trained.progress.best_tensors)
    return vae


@pytest.mark.thorough
@pytest.mark.parametrize(
    "what", ["", "checkpoints", "checkpoints/epoch-00005.json", "checkpoints/epoch-00005.safetensors"]
)
def test_load_gives_the_best_program_of_a_run_or_checkpoint(trained, tmp_path, what):
    # The best epoch must be another than the last for this to tell them apart.
    trained.progress.best_tensors = {name: t + 0.1 for name, t in trained.progress.best_tensors.items()}
    trained.save(trained.folder)
    x = trained.data.test.fixed()
    found = log_probs(pv.load(tmp_path / what), x)
    assert torch.equal(found, log_probs(best_of(trained), x))
    assert not torch.equal(found, log_probs(trained.vae, x))


FIELDS = ("prior", "posterior", "likelihood")
ROWS = [(field, name) for field in FIELDS for name in getattr(tables, f"{field.upper()}S")]
COMBINATIONS = [
    *({field: name} for field, name in ROWS),
    *({"likelihood": name, "learn_scale": "one"} for name in ("normal", "laplace", "exponential_norm")),
    *({"likelihood": "normal", "learn_scale": how} for how in ("pixel", "predicted")),
    {"prior": "flow", "flow": "autoregressive"},
    {"encoder_predicts": "log_variance", "network": "conv"},
    {"prior": "vamp", "posterior": "flow"},
    {"prior": "vamp", "posterior": "full", "conditional": True, "likelihood": "categorical"},
]


def with_what_it_needs(settings):
    """The prior of the classes needs labels, a plain autoencoder no KL; all else is small."""
    more = {"conditional": True} if settings.get("prior") == "conditional" else {}
    more |= {"kl_weight": 0.0} if settings.get("posterior") == "delta" else {}
    sizes = {"latent_dim": 2, "hidden": (5,), "num_components": 4, "flow_transforms": 2, "flow_hidden": (6,), "rank": 3}
    return Config(**{**sizes, "df": 3.0, "scale": 0.3, "rate": 50.0, **settings, **more})


@pytest.mark.thorough
@pytest.mark.parametrize("settings", COMBINATIONS, ids=lambda settings: "-".join(map(str, settings.values())))
def test_whatever_the_tables_name_comes_back_bit_by_bit(settings, tmp_path):
    config = with_what_it_needs(settings)
    data = build.data(config)
    vae = build.vae(config, *data.form)
    build.start(config, vae, data)
    svi = build.svi(config, vae)
    x, y = data.test.fixed()[:9], data.test.one_hot(10)[:9] if config.conditional else None
    svi.step(x, y, kl_weight=config.kl_weight)
    state = svi.optimizer.state_dict()
    manifest = checkpoint.save(tmp_path, Checkpoint(config, data.form, Progress(1, 1, -1.0), vae.tensors(), state))

    found = pv.load(manifest)
    assert checkpoint.read(manifest).form == data.form
    assert same(found.tensors(), vae.tensors())
    for member in ("prior", "posterior", "likelihood"):
        assert type(getattr(found, member)) is type(getattr(vae, member))
    if settings.get("posterior") == "delta":
        assert torch.equal(found.reconstruct(x), vae.reconstruct(x))
    else:
        weights = [pv.evaluation.log_weights(program, x, 3, y, seed=0) for program in (found, vae)]
        assert torch.equal(*weights)


# What the config gained when a checkpoint learnt to hold more of the data than x_shape.
LATER = (
    "conditional", "df", "num_components", "pseudo_inputs", "flow", "flow_transforms", "flow_hidden",
    "encoder_predicts", "rank", "learn_scale", "scale_floor", "rate",
)  # fmt: skip


def test_a_manifest_that_knows_only_the_shape_still_loads(trained, last, config, tmp_path):
    before, x = pv.load(tmp_path), trained.data.test.fixed()

    def as_it_was(body):
        for name in ("num_levels", "num_classes"):
            del body[name]
        for name in LATER:
            del body["config"][name]

    edit(last, as_it_was)
    assert checkpoint.read(last).form == Form((6,), None, 0)
    assert checkpoint.read(last).config == config
    after = pv.load(last)
    assert same(after.tensors(), before.tensors())
    assert torch.equal(log_probs(after, x), log_probs(before, x))


def test_an_older_checkpoint_can_be_loaded_by_name(trained, tmp_path):
    older = checkpoint.read(trained.folder / "epoch-00003.json").progress.best_tensors
    assert same(pv.load(trained.folder / "epoch-00003.json").tensors(), older)


def test_load_says_when_it_falls_back(trained, last, tmp_path):
    flip(last, 99)
    with pytest.warns(UserWarning, match=r"epoch-00005\.json .* Loading an older checkpoint"):
        pv.load(tmp_path)


def test_load_takes_an_own_prior(trained, tmp_path):
    prior = StudentPrior(2)
    vae = pv.load(tmp_path, prior=prior)
    assert vae.prior is prior
    z = torch.randn(4, 2)
    assert torch.equal(vae.likelihood(z).mean, best_of(trained).likelihood(z).mean)
    assert log_probs(vae, trained.data.test.fixed()).isfinite().all()


class LearnedPrior(StudentPrior):
    def __init__(self, latent_dim):
        super().__init__(latent_dim)
        self.weight = torch.nn.Parameter(torch.zeros(3))


@pytest.mark.parametrize(
    ("member", "message"),
    [
        ({"prior": LearnedPrior(2)}, r"does not fit the program: .*prior\.weight"),
        ({"prior": StudentPrior(3)}, "latent_dim=2; the prior given has latent_dim=3"),
        ({"likelihood": pv.likelihoods.Bernoulli(pv.networks.MLP((2,), (6,), (9,)))}, "has shape"),
        ({"likelihood": pv.likelihoods.Bernoulli(pv.networks.MLP((2,), (6,), (8, 8)))}, "on one side only"),
    ],
)
def test_a_member_that_does_not_fit_is_refused(trained, tmp_path, member, message):
    with pytest.raises(CheckpointError, match=message):
        pv.load(tmp_path, **member)


def test_a_member_that_a_vae_has_not_is_refused(trained, tmp_path):
    with pytest.raises(UsageError, match=r"\['decoder'\]"):
        pv.load(tmp_path, decoder=None)


def test_load_of_nothing_is_an_error_with_a_cure(tmp_path):
    for path in (tmp_path, tmp_path / "x", tmp_path / "epoch-00001.json"):
        with pytest.raises(CheckpointError, match=r"no checkpoint at .*: pass a run folder"):
            pv.load(path)


def test_a_run_from_another_machine_loads_here(trained, last, tmp_path):
    edit(last, lambda body: body["config"].update(device="cuda:7"))
    assert next(pv.load(tmp_path).parameters()).device.type == "cpu"


def test_a_device_that_is_not_there_is_refused(trained, tmp_path):
    with pytest.raises(UsageError, match="device 'nonesuch' cannot be used"):
        pv.load(tmp_path, device="nonesuch")


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("settings", "fits"),
    [
        ({"latent_dim": 10**7, "hidden": [10**7]}, False),
        ({"hidden": [10**5, 10**5]}, False),
        ({"prior": "flow", "flow_hidden": [10**5, 10**5]}, False),
        ({"posterior": "flow", "flow_transforms": 100, "latent_dim": 10**6}, False),
        ({"latent_dim": 10**30}, False),
        ({"prior": "mixture", "num_components": 10**12}, False),
        ({"prior": "vamp", "pseudo_inputs": "random", "num_components": 10**12}, False),
        ({"likelihood": "low_rank_normal", "rank": 10**10}, False),
        ({}, True),
    ],
    ids=str,
)
def test_a_config_that_describes_more_than_its_file_holds_takes_no_memory(trained, last, tmp_path, settings, fits):
    pv.load(last)  # what it imports, and the memory of a config that fits, is there before memory is looked at
    edit(last, lambda body: body["config"].update(settings))
    if fits:
        pv.load(last)
        return
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CheckpointError, match="does not fit the program"):
        pv.load(last)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 16  # KiB


@pytest.mark.thorough
@pytest.mark.parametrize(
    "change",
    [
        lambda body: body.update(config=[]),
        lambda body: body["config"].update(hidden="wide"),
        lambda body: body["config"].update(prior="os:system"),
        lambda body: body["config"].update(latent_dim=None),
        lambda body: body.update(x_shape=6),
        lambda body: body.update(x_shape=[6.5]),
        lambda body: body.update(x_shape=[-6]),
        lambda body: body.update(num_levels="two"),
        lambda body: body.update(progress={"epoch": "x", "best_epoch": 0, "best_score": 1.0}),
        lambda body: body["progress"].update(best_score="high"),
        lambda body: body["progress"].update(epoch=1e308),
        lambda body: body["progress"].update(best_epoch=99),
        lambda body: body["progress"].update(part=0),
        lambda body: body["progress"].update(part={"steps": 3, "loss": 1.0}),  # and no noise
        lambda body: body["config"].update(hidden=[1] * 101),
        lambda body: body["progress"].update(epoch=-1),
        lambda body: body["progress"].update(part=[1]),
        lambda body: body.update(tensors="epoch-00005.safetensors"),
        lambda body: body["tensors"].update(file="../../secret.safetensors"),
        lambda body: body["tensors"].update(file=["epoch-00005.safetensors"]),
        lambda body: body["tensors"].update(bytes=10**30),
        lambda body: body["tensors"].update(sha256=None),
        lambda body: body.pop("optimizer"),
    ],
)
def test_a_manifest_of_the_right_hash_and_another_form_is_refused(last, change):
    edit(last, change)
    with pytest.raises(
        (CheckpointError, UsageError), match=r"epoch-00005|not stored with the program|input shape|shape"
    ):
        pv.load(last)


@pytest.mark.parametrize("suffix", [".json", ".safetensors"])
def test_a_pipe_is_not_waited_for(trained, last, suffix):
    last.with_suffix(suffix).unlink()
    os.mkfifo(last.with_suffix(suffix))
    found, complaints = checkpoint.newest(trained.folder)
    assert (found.progress.epoch, "is not a file" in complaints[0]) == (4, True)


def test_a_position_in_a_stream_of_another_size_is_refused(trained, config):
    trained.progress.part = Part(3, 1.0, {"cpu": torch.zeros(7, dtype=torch.uint8)})
    found = checkpoint.read(trained.save(trained.folder))
    vae = build.vae(config, (6,))
    with pytest.raises(CheckpointError, match="does not fit the stream of noise"):
        found.restore(vae, build.optimizer(config, vae))


@pytest.mark.thorough
@pytest.mark.parametrize("slot", ["0/exp_avg", "0/nonsense/more", "x/exp_avg", "99/exp_avg"])
def test_a_state_of_the_optimiser_that_has_not_its_shape_is_refused(trained, last, config, slot):
    path = last.with_suffix(".safetensors")
    tensors = safetensors.torch.load(path.read_bytes())
    tensors[f"optimizer/{slot}"] = torch.zeros(3, 1, 2)
    content = safetensors.torch.save(tensors)
    path.write_bytes(content)
    entry = {"file": path.name, "sha256": files.sha256(content), "bytes": len(content)}
    edit(last, lambda body: body.update(tensors=entry))
    vae = build.vae(config, (6,))
    before = {name: tensor.clone() for name, tensor in vae.tensors().items()}
    with pytest.raises(CheckpointError):
        checkpoint.read(last).restore(vae, build.optimizer(config, vae))
    assert same(vae.tensors(), before)


def test_a_checkpoint_of_another_optimiser_is_refused(trained, last, config):
    vae = build.vae(config, (6,))
    split = torch.optim.Adam([{"params": [p]} for p in vae.parameters()])
    with pytest.raises(CheckpointError, match="does not fit the optimiser"):
        checkpoint.read(last).restore(vae, split)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_load_keeps_the_precision_whatever_the_callers_default(trained, tmp_path, dtype):
    trained.vae.to(dtype)
    trained.progress.best_tensors = {name: t.to(dtype) / 3 for name, t in trained.progress.best_tensors.items()}
    trained.save(trained.folder)
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64 if dtype is torch.float32 else torch.float32)
    try:
        vae = pv.load(tmp_path)
    finally:
        torch.set_default_dtype(default)
    assert {t.dtype for t in vae.tensors().values()} == {dtype}
    assert same(vae.tensors(), trained.progress.best_tensors)


def test_load_leaves_no_trace(trained, tmp_path):
    default, state = torch.get_default_dtype(), torch.random.get_rng_state()
    store = pyro.get_param_store()
    with store.scope():
        pyro.param("mine", torch.ones(1))
        pv.load(tmp_path)
        assert list(store) == ["mine"]
    assert torch.get_default_dtype() is default
    assert torch.equal(torch.random.get_rng_state(), state)
