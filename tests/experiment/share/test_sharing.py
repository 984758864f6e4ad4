"""A shared folder is the program to the last bit; its card is true and cannot be broken; a bad one is refused."""

import json
import re
import shlex
import shutil
import sys
import tracemalloc
import types
from itertools import zip_longest
from pathlib import Path

import pytest
import torch
import yaml
from cases import all_but
from evaluated import autoencoder, full
from finished import content, finished_run, flip, images, make_run
from markdown_it import MarkdownIt
from safetensors.torch import load_file

import pyro_vae as pv
from pyro_vae.errors import CheckpointError, StorageError, UsageError
from pyro_vae.experiment import tables
from pyro_vae.experiment.run import files, manifest
from pyro_vae.experiment.run.run_folder import Run
from pyro_vae.experiment.run.trained_run import newest_checkpoint
from pyro_vae.experiment.share import hub, sharing
from pyro_vae.randomness import stream
from pyro_vae.report.cells import clean
from pyro_vae.report.render.markdown import escaped

pytestmark = pytest.mark.usefixtures("sketched")

PNG = b"\x89PNG\r\n\x1a\n, the rest of a picture"


class Own(pv.priors.Prior):
    """One without parameters: a program with it has the tensors of one with the standard normal."""

    def forward(self, y=None):
        return pv.priors.StandardNormal(len(self.loc))(y)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run that was trained and evaluated, with pictures."""
    folder = tmp_path_factory.mktemp("run")
    path = finished_run(folder / "digits-vamp", images(folder / "labelled.npz"), prior="vamp", num_components=5)
    measured(path, full())
    for name in sharing.PICTURES:
        (path / name).write_bytes(PNG)
    return path


@pytest.fixture
def shared(run, tmp_path):
    return pv.share(run, tmp_path / "shared")


def measured(run, report):
    """Puts a report into a run, as of its best epoch."""
    best = max(record["epoch"] for record in Run(run, None).history.records() if record["best"])
    report["training"]["best_epoch"] = best
    (run / "report.json").write_bytes(files.to_json(report))


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# The program, to the last bit.

# Every member that a table names, the first of each table together and so on; a point has no KL and goes apart.
TABLES = {
    "prior": tables.PRIORS,
    "posterior": [name for name in tables.POSTERIORS if name != "delta"],
    "likelihood": tables.LIKELIHOODS,
    "network": [name for name in tables.NETWORKS if name != "conv"],
    "activation": tables.ACTIVATIONS,
}
PROGRAMS = [
    {key: name for key, name in zip(TABLES, names, strict=True) if name} for names in zip_longest(*TABLES.values())
]
APART = [
    {"posterior": "delta", "kl_weight": 0.0},
    {"network": "conv", "hidden": (4,)},
    {"likelihood": "normal", "learn_scale": "predicted", "precision": "bfloat16"},
    {"prior": "vamp", "posterior": "flow", "conditional": True},
    {"layers": 2, "latent_dim2": 3, "prior": "vamp"},
    {"layers": 2, "guide": "bottom_up", "objective": "trace_elbo", "conditional": True},
]


# A mixture of logistics takes longest.
QUICK = [settings for settings in PROGRAMS if settings.get("likelihood") != "discretized_logistic"]


@pytest.mark.parametrize(
    "settings",
    [*all_but(QUICK, PROGRAMS), *APART],
    ids=lambda settings: "-".join(map(str, settings.values())),
)
def test_every_program_that_can_be_named_comes_back(settings, tmp_path):
    few = {"flow_hidden": (4,), "num_components": 3, "epochs": 1, "conditional": settings.get("prior") == "conditional"}
    trained = make_run(tmp_path, **{**few, **settings})
    shared = pv.load(pv.share(trained.run.path, tmp_path / "shared"))
    x, y, _ = trained.test()
    assert same(trained.vae.tensors(), shared.tensors())
    assert not shared.training
    assert torch.equal(*(rebuilt(vae, x, y) for vae in (trained.vae, shared)))
    if settings.get("posterior") != "delta":
        for measure in (pv.evaluation.elbo, pv.evaluation.iwae):
            first, second = (measure(vae, x, 5, y, seed=0) for vae in (trained.vae, shared))
            assert torch.equal(first.value, second.value)
            assert torch.equal(first.value_error, second.value_error)


def rebuilt(vae, x, y):
    with stream(0, "rebuilt"):
        return vae.reconstruct(x, y, num_samples=2)


def test_the_folder_holds_the_best_epoch_under_the_names_of_the_program_and_no_optimiser(run, shared):
    found = load_file(shared / "model.safetensors")
    assert same(found, newest_checkpoint(run).progress.best_tensors)
    assert found.keys() == pv.load(run).tensors().keys()


def test_runs_and_checkpoints_load_as_before(run):
    newest = max((run / "checkpoints").glob("*.json"))
    assert same(pv.load(run).tensors(), pv.load(newest).tensors())
    assert same(pv.load(run).tensors(), pv.load(str(newest.with_suffix(".safetensors"))).tensors())


def test_equal_runs_give_equal_folders(run, shared, tmp_path):
    assert content(pv.share(run, tmp_path / "again")) == content(shared)


def test_a_members_own_class_is_passed_in_and_its_absence_is_noticed(tmp_path):
    path = finished_run(tmp_path / "run", images(tmp_path / "grey.npz"))
    shared = pv.share(path, tmp_path / "shared", prior=Own(2))
    # The tensors would fit the standard normal that the settings name.
    with pytest.raises(CheckpointError, match=r"holds a program of .*prior Own, not of .*prior StandardNormal: pass"):
        pv.load(shared)
    assert isinstance(pv.load(shared, prior=Own(2)).prior, Own)
    with pytest.raises(UsageError, match=r"has the members prior, posterior, likelihood; got \['decoder'\]"):
        pv.load(shared, decoder=Own(2))
    assert "prior=YOUR\\_PRIOR" not in card(shared)
    assert "prior=YOUR_PRIOR" in card(shared)
    assert "Not part of pyro\\_vae or of this folder, so you must pass them in: the prior Own." in card(shared)


# What the card says.


def card(folder):
    return (folder / "README.md").read_text(encoding="utf-8")


def front_matter(folder):
    begin, front, _ = card(folder).split("---\n", 2)
    assert begin == ""
    return yaml.safe_load(front)


def test_the_card_has_the_numbers_of_the_report_with_both_errors_and_units(shared):
    report, text = full(), card(shared)
    elbo = "| ELBO | lower | -22.506 | 0.200 | 0.004 | 100 | 6 | at most log p(x), in expectation |"
    log_p = "| log p(x) | lower | -22.148 | 0.191 | 0.002\\* | 1000 | 6 | importance-weighted from q(z\\|x) |"
    bits = "| -log p(x), bits/dim | upper | 0.499 | 0.004 | \\<0.001\\* | 1000 | 6 |"
    annealed = "| AIS from q, T = 200 | lower | -22.030 | 0.362 | 0.003 | 16 | 4 |"
    tail = "| data with k-hat above 0.7 |  | 33 % | n/a | n/a | 1000 | 6 |"
    assert [row for row in (elbo, log_p, bits, annealed, tail) if row not in text] == []
    assert "- **± Monte Carlo \\***: Too small, because some k-hat is above 0.7" in text
    assert "nats per datum" in text
    metrics = front_matter(shared)["model-index"][0]["results"][0]["metrics"]
    values = {metric["type"]: metric["value"] for metric in metrics}
    assert values == {name: found["mean"] for name, found in report["test"].items()}
    assert metrics[0]["name"] == "ELBO, nats, K = 100"


def test_the_card_says_on_what_data_from_which_command_and_with_which_limits(run, shared):
    text, about = card(shared), Run(run, newest_checkpoint(run).config).status.read()
    protocol = about["protocol"]
    rows = [
        f"| contents | {protocol['sha256']} |",
        f"| split | random 56 / 8 / 16, test {protocol['split']['index_sha256']['test']} |",
        "| binarisation | dynamic |",
        "| seeds | training 0, data 0 |",
        "| training | 2 epochs of batches of 7; epoch ",
        f"| torch | {about['versions']['torch']} |",
    ]
    assert [row for row in rows if row not in text] == []
    assert "value 1 | 2" in text  # the table of shapes
    assert "top row shows test data of labelled.npz" in text
    assert "pseudo-inputs of this prior began as training data" in text
    assert "Not for: decisions about people" in text
    assert "- **k-hat**: The tail of each datum's importance weights" in text


def test_the_card_has_the_hash_of_every_file(shared):
    found = content(shared)
    assert found.keys() == set(sharing.FILES)
    assert all(
        f"| {escaped(name)} | {digest} |" in card(shared) for name, digest in found.items() if name != "README.md"
    )


def test_no_licence_is_claimed_unless_one_is_given(run, shared, tmp_path):
    assert "license" not in front_matter(shared)
    assert "No licence is stated for the weights" in card(shared)
    given = pv.share(run, tmp_path / "given", license_id="apache-2.0")
    assert front_matter(given)["license"] == "apache-2.0"
    assert "Licence of the weights: apache-2.0." in card(given)


def test_a_plain_autoencoder_and_a_run_without_a_report_claim_no_density(run, tmp_path):
    bare = copied(run, tmp_path)
    measured(bare, autoencoder())
    text = card(pv.share(bare, tmp_path / "plain"))
    assert "A plain autoencoder of" in text
    assert "| RMSE, per number |" in text
    assert "iwae" not in text
    (bare / "report.json").unlink()
    found = pv.share(bare, tmp_path / "bare")
    assert "Nothing: the run has no report." in card(found)
    assert "model-index" not in front_matter(found)


def test_a_refitted_prior_names_the_run_whose_encoder_it_kept(run, tmp_path):
    path = copied(run, tmp_path)
    Run(path, newest_checkpoint(path).config).status.set("finished", refitted_from={"run": "/home/me/runs/standard"})
    assert "encoder and decoder are those of the run standard |" in card(pv.share(path, tmp_path / "shared"))


def test_no_folder_of_this_machine_is_named(run, tmp_path):
    path = copied(run, tmp_path)
    command = f"python /opt/x/train.py --dataset {tmp_path}/a.npz --data-dir=/home/me/data --out ../mine/run --lr 1e-3"
    Run(path, newest_checkpoint(path).config).status.set("finished", command=command)
    shared = pv.share(path, tmp_path / "shared")
    text = card(shared) + (shared / "config.json").read_text()
    assert "python train.py --dataset a.npz --data-dir=data --out run --lr 1e-3" in text
    assert not [place for place in (str(tmp_path), str(run.parent), "/home/me", "/opt", "../") if place in text]


HOSTILE = {
    "markdown": "**a** | `b` [c](http://d) # e",
    "html": "<script>alert(1)</script><img src=x>",
    "yaml": "a: b\n---\n'\"{}[]!!python/object:os.system # x",
    "terminal": "a\x1b[31m\u202eb\r\n# c",
    "fence": "```\n# d\n~~~",
    "formula": "$x$ =1+1",
}


@pytest.mark.thorough
@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE)
def test_names_can_not_break_the_card(run, tmp_path, name):
    """A card of it has the structure of one of a harmless name, as a parser of Markdown sees it."""
    shared, plain = (named(run, tmp_path / folder, text) for folder, text in (("hostile", name), ("plain", "x")))
    assert structure(card(shared)) == structure(card(plain))
    model = front_matter(shared)["model-index"][0]
    assert model["name"] == model["results"][0]["dataset"]["name"] == front_matter(shared)["license"] == clean(name)
    assert "".join(tokens(card(shared))[1].content).startswith(escaped(name))
    assert all(sign.isprintable() for sign in card(shared).replace("\n", ""))


def named(run, folder, name):
    """A shared copy of the run with this text in every place that anybody can write to."""
    path = copied(run, folder)
    saved = Run(path, newest_checkpoint(path).config)
    protocol = {**saved.status.read()["protocol"], "name": name, "source": name}
    saved.status.set("finished", protocol=protocol, command=f"python {shlex.quote(name)}")
    report = full()
    report["protocol"] |= {"notes": [name], "name": name}
    report["reference"]["rows"][0]["label"] = report["run"]["command"] = name.replace("'", "").replace('"', "")
    measured(path, report)
    return pv.share(path, folder / "shared", name=name, license_id=name)


def tokens(text):
    return MarkdownIt("commonmark", {"html": True}).enable("table").parse(text.split("---\n", 2)[2])


def structure(text):
    """What a reader would see as markup, in order."""
    return [(token.type, token.tag, [inner.type for inner in token.children or ()]) for token in tokens(text)]


def copied(run, folder):
    return Path(shutil.copytree(run, folder / "digits-vamp"))


# What is not written.


def test_what_is_there_already_is_not_replaced_unless_it_was_shared(run, shared, tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "README.md").write_text("mine")
    for folder, why in ((mine, "holds README.md, which is not a shared model"), (run, "is a run")):
        before = content(folder)
        with pytest.raises(UsageError, match=f"{why}.*use another `folder`"):
            pv.share(run, folder)
        assert content(folder) == before
    with pytest.raises(UsageError, match="is not a folder"):
        pv.share(run, mine / "README.md")
    (shared / ".gitattributes").write_text("*.safetensors filter=lfs")
    pv.share(run, shared, pictures=False)
    assert {path.name for path in shared.iterdir()} == {
        ".gitattributes",
        "README.md",
        "config.json",
        "model.safetensors",
    }
    assert "## Pictures" not in card(shared)


def test_a_report_of_another_epoch_is_not_shared(run, tmp_path):
    path = copied(run, tmp_path)
    report = json.loads((path / "report.json").read_bytes())
    report["training"]["best_epoch"] += 7
    (path / "report.json").write_bytes(files.to_json(report))
    with pytest.raises(CheckpointError, match=r"is of epoch \d, but the best epoch is now \d: .* --resume"):
        pv.share(path, tmp_path / "shared")
    assert not (tmp_path / "shared").exists()


def test_a_damaged_run_is_not_shared(run, tmp_path):
    path = copied(run, tmp_path)
    for name, text in (("report.json", "{"), ("report.json", '{"training": 3}'), ("run.json", "{}")):
        before = (path / name).read_bytes()
        (path / name).write_text(text)
        with pytest.raises(CheckpointError, match=r"run.json or report.json in .* is damaged|run.json is damaged"):
            pv.share(path, tmp_path / "shared")
        (path / name).write_bytes(before)
    flip(max((path / "checkpoints").glob("*.safetensors")), 999)
    with pytest.raises(CheckpointError, match=r"is damaged: SHA-256 should be .* Repair the run first"):
        pv.share(path, tmp_path / "shared")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="holds no trained run"):
        pv.share(tmp_path / "empty", tmp_path / "shared")
    assert not (tmp_path / "shared").exists()


def test_a_disk_that_fills_up_leaves_no_other_program_and_with_space_the_same_command_goes_on(
    run, tmp_path, monkeypatch
):
    other = finished_run(tmp_path / "other", images(tmp_path / "grey.npz"), seed=1, prior="vamp", num_components=5)
    shared = pv.share(other, tmp_path / "shared")
    write, written = files.write, []

    def full_after_one(path, content):
        if len(written) == 1:
            raise StorageError("no space left")
        written.append(path.name)
        write(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(files, "write", full_after_one)
        with pytest.raises(StorageError):
            pv.share(run, shared)
    assert written == ["config.json"]
    with pytest.raises(CheckpointError, match=r"model.safetensors is damaged: SHA-256 should be"):
        pv.load(shared)
    pv.share(run, shared)
    again, first = pv.load(shared), pv.load(run)
    assert all(torch.equal(value, first.tensors()[name]) for name, value in again.tensors().items())


# What is not read.


def body_of(shared):
    body = json.loads((shared / "config.json").read_bytes())
    del body["sha256"]
    return body


def seal(shared, body):
    """A config.json whose hash fits, as someone writes it who knows how."""
    (shared / "config.json").write_bytes(manifest.sealed(body))


def complaint(shared):
    with pytest.raises(CheckpointError) as caught:
        pv.load(shared)
    assert len(str(caught.value)) < 2000
    assert shared.name in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("place", [0.0, 0.1, 0.5, 0.999])
def test_one_flipped_bit_of_the_tensors_is_refused_with_both_hashes(shared, place):
    path = shared / "model.safetensors"
    wanted = files.sha256(path.read_bytes())
    flip(path, int(place * 8 * path.stat().st_size))
    said = complaint(shared)
    assert "model.safetensors is damaged" in said
    assert wanted in said
    assert files.sha256(path.read_bytes()) in said


@pytest.mark.thorough
def test_one_flipped_bit_of_the_settings_is_refused_wherever_it_is(shared):
    path = shared / "config.json"
    before = path.read_bytes()
    for bit in range(3, 8 * len(before), 97):
        flip(path, bit)
        assert "config.json" in complaint(shared)
        path.write_bytes(before)
    path.write_bytes(before.replace(b'"rate": 1000.0', b'"rate": 2000.0'))
    assert re.search(r"config.json was altered: its content should have SHA-256 \w{64}, has \w{64}", complaint(shared))


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_missing_file_is_named(shared, name):
    (shared / name).unlink()
    assert f"{name} cannot be read: No such file" in complaint(shared)


def test_a_folder_of_other_tensors_is_refused(run, shared, tmp_path):
    other = finished_run(tmp_path / "other", images(tmp_path / "grey.npz"), seed=1, prior="vamp", num_components=5)
    shutil.copy(pv.share(other, tmp_path / "second") / "model.safetensors", shared)
    assert "model.safetensors is damaged: SHA-256 should be" in complaint(shared)


HUGE = int("9" * 400)
CHANGES = {
    "a newer schema": ({"schema": 99}, "schema 99, this version reads up to"),
    "an unknown field": ({"auto_map": {"AutoModel": "evil.Model"}}, "auto_map"),
    "a missing field": ({"members": None}, "members"),
    "an unknown setting": ({"config": {"evil": 1}}, "unknown settings"),
    "an unknown prior": ({"config": {"prior": "os.system"}}, "unknown prior 'os.system'"),
    "a prior of the wrong type": ({"config": {"prior": ["vamp"]}}, "prior must be of type str"),
    "settings of terabytes": ({"config": {"latent_dim": 10**6, "hidden": [10**6]}}, "its config describes about"),
    "a huge number": ({"config": {"latent_dim": HUGE}}, ""),
    "a huge shape": ({"x_shape": [HUGE]}, "whole and not negative"),
    "a negative shape": ({"x_shape": [-1]}, "whole and not negative"),
    "another file": ({"tensors": {"file": "../../etc/passwd"}}, "belongs to ../../etc/passwd"),
    "10 GB claimed": ({"tensors": {"bytes": 10 << 30}}, f"of {10 << 30} bytes, is"),
    "another member": ({"members": {"prior": "Evil"}}, "prior Evil, not of"),
    "members no mapping": ({"members": 3}, "has not the form"),
}


@pytest.mark.parametrize(("change", "words"), CHANGES.values(), ids=CHANGES)
def test_a_sealed_config_that_was_made_to_harm_is_refused_in_little_memory(shared, change, words):
    body = body_of(shared)
    for key, value in change.items():
        if value is None:
            del body[key]
        else:
            body[key] = {**body[key], **value} if isinstance(value, dict) and key in body else value
    seal(shared, body)
    tracemalloc.start()
    try:
        assert words in complaint(shared)
        assert tracemalloc.get_traced_memory()[1] < 30 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.thorough
@pytest.mark.parametrize("key", sorted(sharing._KEYS))
@pytest.mark.parametrize("other", [None, [], {}, -1, 0.5, True, [[]], HUGE, "x"], ids=lambda value: repr(value)[:9])
def test_a_field_of_another_type_is_refused_or_harmless(shared, key, other):
    seal(shared, {**body_of(shared), key: other})
    if key in ("library_name", "versions") or (key, other) in (("num_levels", None), ("schema", True)):
        pv.load(shared)
    elif (key, other) in (("schema", -1), ("schema", 0.5)):
        pv.load(shared)  # older than any
    else:
        complaint(shared)


def test_a_header_that_claims_10_gb_is_refused(shared):
    header = json.dumps({"x": {"dtype": "F32", "shape": [10 << 28], "data_offsets": [0, 10 << 30]}}).encode()
    whole = len(header).to_bytes(8, "little") + header + bytes(64)
    (shared / "model.safetensors").write_bytes(whole)
    entry = {"file": "model.safetensors", "sha256": files.sha256(whole), "bytes": len(whole)}
    seal(shared, {**body_of(shared), "tensors": entry})
    assert "model.safetensors is not a safetensors file" in complaint(shared)


def test_nothing_is_unpickled_and_no_code_beside_it_is_imported(shared, monkeypatch):
    (shared / "prior.py").write_text("raise SystemExit('imported')")
    (shared / "__init__.py").write_text("raise SystemExit('imported')")

    def refuse(*arguments, **options):
        raise AssertionError("a shared folder must not be unpickled")

    for place in ("pickle.load", "pickle.loads", "pickle.Unpickler", "torch.load"):
        monkeypatch.setattr(place, refuse)
    modules = set(sys.modules)
    pv.load(shared)
    assert not {name for name in set(sys.modules) - modules if "prior" in name and "pyro" not in name}


# The hub, whose client is another one here.


class Client(types.ModuleType):
    """What is used of huggingface_hub, over folders below `root`."""

    def __init__(self, root):
        super().__init__("huggingface_hub")
        self.root, self.calls = root, []

    def snapshot_download(self, repo_id, *, revision=None, allow_patterns=None):
        self.calls.append(("download", repo_id, revision, allow_patterns))
        if not (self.root / repo_id).exists():
            raise ConnectionError("no such model\nand more")
        return str(self.root / repo_id)

    def HfApi(self):  # noqa: N802 - its name
        return self

    def create_repo(self, repo_id, *, private, exist_ok):
        self.calls.append(("create", repo_id, private, exist_ok))

    def upload_folder(self, *, repo_id, folder_path, allow_patterns, commit_message):
        self.calls.append(("upload", repo_id, folder_path, allow_patterns))
        return types.SimpleNamespace(commit_url=f"https://hub/{repo_id}/commit/1")


@pytest.fixture
def client(tmp_path, monkeypatch):
    made = Client(tmp_path / "hub")
    monkeypatch.setitem(sys.modules, "huggingface_hub", made)
    return made


def test_a_model_of_the_hub_is_fetched_and_read_like_a_folder(shared, client):
    shutil.copytree(shared, client.root / "me" / "digits")
    wanted = ["model.safetensors", "config.json"]
    assert same(pv.load("hf://me/digits").tensors(), pv.load(shared).tensors())
    assert same(pv.load("hf://me/digits@v1.0").tensors(), pv.load(shared).tensors())
    assert client.calls == [("download", "me/digits", None, wanted), ("download", "me/digits", "v1.0", wanted)]
    flip(client.root / "me" / "digits" / "model.safetensors", 5000)
    with pytest.raises(CheckpointError, match=r"model.safetensors is damaged"):
        pv.load("hf://me/digits")


def test_what_can_not_be_fetched_or_sent_is_said_in_a_sentence(shared, client, monkeypatch):
    with pytest.raises(CheckpointError, match=r"hf://me/none cannot be fetched \(ConnectionError: no such model\)$"):
        pv.load("hf://me/none")
    monkeypatch.setattr(client, "create_repo", lambda *a, **o: (_ for _ in ()).throw(PermissionError("log in")))
    with pytest.raises(StorageError, match=r"cannot be sent to me/digits, but is whole \(PermissionError: log in\)"):
        hub.send(shared, "me/digits", sharing.FILES)


@pytest.mark.parametrize("address", ["hf://", "hf://digits", "hf://a/b/c", "hf://a/b@", "hf://../x", "hf://a/b@../c"])
def test_an_address_of_another_form_is_refused_before_anything_is_asked(client, address):
    with pytest.raises(UsageError, match="write hf://user/name, or hf://user/name@revision"):
        pv.load(address)
    assert client.calls == []


def test_without_the_package_the_cure_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UsageError, match=r"pip install 'pyro-vae\[hub\]'"):
        pv.load("hf://me/digits")
