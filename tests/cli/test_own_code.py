"""Members of a user's own are named on the command line alone, and what is wrong with one is one sentence."""

import copy
import importlib
import pickle
import subprocess
import sys
from pathlib import Path

import own_file
import pytest

from pyro_vae.cli import own_code
from pyro_vae.cli.command_ending import in_flags
from pyro_vae.cli.parser import config_from, config_parser
from pyro_vae.errors import UsageError
from pyro_vae.experiment import presets
from pyro_vae.experiment.config import Config
from pyro_vae.experiment.own_members import OwnMember, is_place, without_code

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own_file.write(tmp_path)


def config(*line):
    """The config of a command line."""
    return config_from(config_parser("train", "A test.").parse_args(list(line)), argv=line)


def sentence(*line):
    """What a command line is refused with, as whoever typed it reads it."""
    with pytest.raises(UsageError) as refused:
        config(*line)
    return in_flags(str(refused.value))


@pytest.mark.parametrize("folder", ["", "deep/er/"])
def test_a_file_is_named_without_its_folder_and_brings_its_classes(folder, tmp_path):
    (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    own_file.write(tmp_path / folder)
    found = config("--prior", f"{folder}horseshoe.py:Horseshoe", "--network", f"{folder}horseshoe.py:Encoder,decoder")
    assert (found.prior, found.network) == ("horseshoe.py:Horseshoe", "horseshoe.py:Encoder,decoder")
    assert [kind.__name__ for kind in found.own.network.classes] == ["Encoder", "decoder"]
    assert len(found.own.prior.sha256) == 64
    assert "own" not in found.to_dict()
    assert found == Config(prior=found.prior, network=found.network)


def test_an_absolute_path_and_a_drive_do():
    assert config("--prior", f"{Path.cwd()}/horseshoe.py:Horseshoe").prior == "horseshoe.py:Horseshoe"
    with pytest.raises(UsageError, match="there is no file"):
        own_code.place("prior", r"C:\code\x.py:Mine")
    assert own_code.Place("prior", r"C:\code\x.py", ("Mine",)).name == "x.py:Mine"


def test_a_module_is_found_in_the_folder_too_and_the_path_of_python_is_as_before(tmp_path):
    (tmp_path / "my_package").mkdir()
    own_file.write(tmp_path / "my_package", "horseshoes.py")
    before = list(sys.path)
    found = config("--prior", "my_package.horseshoes:Horseshoe")
    assert found.prior == "my_package.horseshoes:Horseshoe"
    assert found.own.prior.classes[0].__module__ == "my_package.horseshoes"
    assert sys.path == before


def test_a_file_imports_its_neighbour_and_its_classes_can_be_pickled_and_copied(tmp_path):
    (tmp_path / "my_neighbour.py").write_text("TAU = 0.25")
    own_file.write(tmp_path, "with_neighbour.py", "\nfrom my_neighbour import TAU\n")
    (kind,) = config("--prior", "with_neighbour.py:Horseshoe").own.prior.classes
    member = kind(2)
    assert type(pickle.loads(pickle.dumps(member))) is kind  # noqa: S301 - our own bytes
    assert type(copy.deepcopy(member)) is kind


def test_arguments_are_kept_in_one_form():
    line = ["--prior", "horseshoe.py:Horseshoe", "--prior-args"]
    assert config(*line, ' {"tau":2,"quantiles":3}').prior_args == '{"quantiles": 3, "tau": 2}'
    assert config(*line, "{}") == config(*line[:2])


BROKEN = {
    "needs_more.py": "import nothing_there",
    "half.py": "class A(",
    "leaves.py": "import sys\nsys.exit(3)",
    "empty.py": "",
    "random.py": "",
    "place.yaml": "prior: horseshoe.py:Horseshoe",
}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (["--prior", "horshoe.py:Horseshoe"], "--prior horshoe.py:Horseshoe: there is no file horshoe.py"),
        (["--prior", "horseshoe.py"], "unknown prior 'horseshoe.py'; choose from"),
        (["--prior", "horseshoe"], "or one of your own, file.py:Class or module:Class"),
        (["--prior", "horseshoe.py:Horsesho"], "unknown prior of horseshoe.py 'Horsesho'; did you mean 'Horseshoe'?"),
        (["--prior", "horseshoe.py:Horseshoe,Cauchy"], "does not name a prior: write file.py:Class"),
        (["--network", "horseshoe.py:Encoder"], "does not name a network: write file.py:Encoder,Decoder"),
        (["--prior", "horseshoe.py:Cauchy"], "Cauchy of horseshoe.py is not a prior but a likelihood: derive it from"),
        (
            ["--likelihood", "math:sqrt"],
            "sqrt of math is not a likelihood: derive it from pyro_vae.likelihoods.Likelihood",
        ),
        (["--prior", "no.such:Thing"], "no.such cannot be imported: ModuleNotFoundError: No module named 'no'"),
        (["--prior", "needs_more.py:A"], "ModuleNotFoundError (line 1 of needs_more.py): No module named 'nothing_"),
        (["--prior", "half.py:A"], "half.py cannot be imported: SyntaxError: '(' was never closed (half.py, line 1)"),
        (["--prior", "leaves.py:A"], "leaves.py cannot be imported: SystemExit (line 2 of leaves.py): 3"),
        (["--prior", "empty.py:A"], "empty.py has no 'A', nor any prior: derive it from pyro_vae.priors.Prior"),
        (["--prior", "random.py:A"], "random.py has the name of a module that Python has already: give the file an"),
        (
            ["--config", "place.yaml"],
            "is code named in a file, and you must name code yourself to run it. Type it as a flag, --prior ",
        ),
        (["--prior-args", '{"df": 3}'], "--prior-args belong to a member of your own, and --prior standard is not one"),
        (["--prior-args", '{"df":'], "--prior-args must be a JSON object, as in --prior-args '{\"df\": 3}'; got '{"),
        (["--prior-args", "[1]"], "must be a JSON object of numbers, words and lists of them"),
        (["--prior-args", '{"df": NaN}'], "NaN is not a JSON number"),
        (["--prior-args", '{"df": {"a": 1}}'], "must be a JSON object of numbers, words and lists of them"),
    ],
    ids=lambda value: " ".join(value)[:50] if isinstance(value, list) else "",
)
def test_what_is_wrong_with_a_place_is_one_sentence(line, words, tmp_path):
    for name, text in BROKEN.items():
        (tmp_path / name).write_text(text)
    said = sentence(*line)
    assert words in said
    assert "\n" not in said


def test_a_place_in_a_file_that_is_typed_too_is_the_typed_one(tmp_path):
    (tmp_path / "place.yaml").write_text("prior: horseshoe.py:Horseshoe\nlr: 0.5\n")
    found = config("--config", "place.yaml", "--prior", "horseshoe.py:Horseshoe")
    assert (found.own.prior.classes[0].__name__, found.lr) == ("Horseshoe", 0.5)
    (tmp_path / "place.yaml").write_text("prior: other.py:Horseshoe")
    assert "other.py:Horseshoe" in sentence("--prior", "horseshoe.py:Horseshoe", "--config", "place.yaml")


def test_no_preset_names_code():
    settings = [value for name in presets.names() for value in presets.preset(name).settings.values()]
    assert not any(is_place(value) for value in settings if isinstance(value, str))


def test_a_class_that_is_missing_is_asked_for_by_the_very_flags():
    error = without_code({"prior": "horseshoe.py:Horseshoe", "network": "nets.py:Encoder,Decoder"})
    assert str(error).endswith("`prior=Horseshoe` of 'horseshoe.py', `network=(Encoder, Decoder)` of 'nets.py'")
    assert in_flags(str(error)).endswith("--prior horseshoe.py:Horseshoe, --network nets.py:Encoder,Decoder")


def test_a_member_that_no_run_has_is_refused():
    own = own_code.offered({"prior": ["horseshoe.py:Horseshoe"], "likelihood": []})
    own_code.check_served(own, Config(), Config(prior="horseshoe.py:Horseshoe"))
    with pytest.raises(UsageError, match="belongs to none of the runs, whose prior is standard, vamp: leave it out"):
        own_code.check_served(own, Config(), Config(prior="vamp"))


def test_errors_that_need_no_torch_load_none(tmp_path):
    code = (
        "import sys; from pyro_vae.cli.train_command import main\n"
        "try: main(['--prior', 'nowhere.py:A'])\n"
        "except SystemExit as end: print(end.code, 'torch' in sys.modules)"
    )
    told = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}
    )
    assert told.stdout == "2 False\n"


def test_a_changed_neighbour_changes_the_hash_whoever_imports(tmp_path, monkeypatch):
    (tmp_path / "near").mkdir()
    (tmp_path / "near" / "first_block.py").write_text("def f(): from second_block import g")
    (tmp_path / "near" / "second_block.py").write_text("g = 1")
    (tmp_path / "near" / "untouched.py").write_text("")
    own_file.write(tmp_path / "near", "with_block.py", "\nfrom first_block import f\n")
    own_file.write(tmp_path, "with_near.py", "\nfrom near import second_block\n")

    def hashes():
        places = ["near/with_block.py:Horseshoe", "with_near:Horseshoe"]
        return [config("--prior", place).own.prior.sha256 for place in places]

    before = hashes()
    (tmp_path / "near" / "untouched.py").write_text("1")
    assert hashes() == before
    (tmp_path / "near" / "second_block.py").write_text("g = 2")
    assert all(now != then for now, then in zip(hashes(), before, strict=True))

    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.syspath_prepend(tmp_path / "near")
    imported = importlib.import_module("near.with_block").Horseshoe
    assert OwnMember.of("prior", "with_block.py:Horseshoe", imported).sha256 == hashes()[0]


def test_neighbours_of_one_name_in_two_folders_are_refused(tmp_path):
    for folder in ("left", "right"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "same_block.py").write_text(f"SIDE = {folder!r}")
        own_file.write(tmp_path / folder, f"of_{folder}.py", "\nfrom same_block import SIDE\n")
    config("--prior", "left/of_left.py:Horseshoe")
    said = sentence("--prior", "right/of_right.py:Horseshoe")
    assert all(str(tmp_path / folder / "same_block.py") in said for folder in ("left", "right"))
    assert "rename one" in said
    (tmp_path / "right" / "same_block.py").rename(tmp_path / "right" / "right_block.py")
    own_file.write(tmp_path / "right", "of_right.py", "\nfrom right_block import SIDE\n")
    config("--prior", "right/of_right.py:Horseshoe")


def test_a_file_that_another_one_has_imported_is_a_place_too(tmp_path):
    own_file.write(tmp_path, "as_neighbour.py")
    (tmp_path / "first_place.py").write_text("from as_neighbour import Horseshoe\nclass Mine(Horseshoe): pass\n")
    line = ["--prior", "first_place.py:Mine", "--likelihood", "as_neighbour.py:Cauchy"]
    assert config(*line).own.likelihood.classes[0].__module__ == "as_neighbour"
