"""Config: what is written comes back, and what makes no sense is refused by name and value."""

import json
import math
from dataclasses import replace

import pytest

from pyro_vae.cli.parser import config_parser
from pyro_vae.cli.sweep_command import space
from pyro_vae.errors import UsageError
from pyro_vae.evaluation import memory
from pyro_vae.experiment.checked_fields import kind_of, settings_of, words_of
from pyro_vae.experiment.compare.comparable_runs import Candidate, groups
from pyro_vae.experiment.config import Config
from pyro_vae.experiment.own_members import FAMILIES
from pyro_vae.experiment.run import files
from pyro_vae.experiment.run.changes_on_resume import config_for_resume
from pyro_vae.randomness import block_seed

NUMBERS = [f.name for f in settings_of(Config) if f.type in (int, float)]
FLOATS = [f.name for f in settings_of(Config) if f.type is float]
MAY_BE_ZERO = {
    "reconstruction_weight", "kl_weight", "kl_warmup", "weight_decay", "patience", "test_data", "seed", "data_seed",
    "levels", "image_size", "scale", "valid_data", "average",
}  # fmt: skip
OTHER_THAN_DEFAULT = {
    bool: lambda value: not value,
    int: lambda value: value + 7,
    float: lambda value: 0.1 + 0.2,  # has no short decimal form
    tuple[int, ...]: lambda value: (3, 1, 2),
    tuple[str, ...]: lambda value: ("b", "a"),
    str: lambda value: "inf",  # a name, not the infinite bound of that spelling
}


def through_json(config):
    return Config.from_dict(json.loads(files.to_json(config.to_dict())))


def test_the_defaults_survive_json():
    assert through_json(Config()) == Config()
    assert through_json(Config()).max_grad_norm == math.inf


def test_every_field_survives_json():
    plain = {f.name: OTHER_THAN_DEFAULT[f.type](f.default) for f in settings_of(Config) if not words_of(f)}
    words = {f.name: (*words_of(f), 2)[words_of(f)[0] == f.default] for f in settings_of(Config) if words_of(f)}
    own = {f"{family}_args": '{"df": 3}' for family in FAMILIES}
    config = Config(**{**plain, **words, **own, "layers": 2, "reader": 1})
    assert all(getattr(config, f.name) != f.default for f in settings_of(Config))
    assert through_json(config) == config


OTHERWISE = {
    "place": {"data_dir": "elsewhere", "download": True, "device": "meta", "threads": 2},
    "report": {"test_data": 3, "test_samples": 7, "elbo_samples": 8},
}
SCOPES = [(scope, name) for scope, values in OTHERWISE.items() for name in values]


@pytest.mark.parametrize("scope", OTHERWISE)
def test_every_field_of_a_scope_is_known_here(scope):
    assert set(Config.within(scope)) == set(OTHERWISE[scope])


@pytest.mark.parametrize(("scope", "name"), SCOPES)
def test_what_does_not_concern_training_is_free_to_change_not_swept_and_tells_no_runs_apart(scope, name, tmp_path):
    config = Config(data_dir=str(tmp_path))
    other = replace(config, **{name: OTHERWISE[scope][name]})
    assert (other.scientific() == config.scientific()) == (scope == "place")
    (tmp_path / "config.json").write_bytes(files.to_json(config.to_dict()))
    assert config_for_resume(tmp_path, other, {name}) == other
    with pytest.raises(UsageError, match=f"--grid {name}: it cannot be swept"):
        space(config_parser("train", "A test."), [], [f"{name}=1,2"], [], 0, 1)
    runs = [Candidate(f"run-{i}", tmp_path, replace(c, seed=i), {}) for i, c in enumerate((config, other))]
    assert [group.members for group in groups(runs)] == [[0, 1]]


@pytest.mark.parametrize("name", NUMBERS)
def test_a_negative_number_is_refused_by_name_and_value(name):
    with pytest.raises(UsageError, match=rf"`{name}` must be (above|at least) .*; got -3"):
        Config(**{name: -3})


@pytest.mark.parametrize("name", NUMBERS)
def test_zero_is_refused_where_it_makes_no_sense(name):
    if name in MAY_BE_ZERO:
        assert getattr(Config(**{name: 0}), name) == 0
        return
    with pytest.raises(UsageError, match=f"`{name}` must be .*; got 0"):
        Config(**{name: 0})


@pytest.mark.parametrize("name", FLOATS)
def test_not_a_number_is_refused(name):
    with pytest.raises(UsageError, match=f"{name}.*nan"):
        Config(**{name: math.nan})


@pytest.mark.parametrize("name", FLOATS)
def test_infinity_is_a_bound_and_nothing_else(name):
    if name == "max_grad_norm":
        assert Config(max_grad_norm=math.inf).max_grad_norm == math.inf
        return
    with pytest.raises(UsageError, match=f"`{name}` must be finite; got inf"):
        Config(**{name: math.inf})


@pytest.mark.parametrize("name", ["valid_samples", "test_samples", "elbo_samples"])
def test_more_draws_than_a_seed_keeps_apart_are_refused_before_training(name):
    most = 4096 * memory.SAMPLE_BLOCK
    assert getattr(Config(**{name: most}), name) == most
    block_seed(0, 0, most // memory.SAMPLE_BLOCK - 1)
    with pytest.raises(UsageError, match=f"`{name}` must be at most {most}; got {most + 1}"):
        Config(**{name: most + 1})
    with pytest.raises(ValueError, match="beyond"):
        block_seed(0, 0, most // memory.SAMPLE_BLOCK)


@pytest.mark.parametrize("hidden", [(), (8, 0), (8, -1), 8, (8.5,), None, "88", (8,) * 101])
def test_widths_that_make_no_layers_are_refused(hidden):
    with pytest.raises(UsageError, match="`hidden` must"):
        Config(hidden=hidden)


@pytest.mark.parametrize("name", [f.name for f in settings_of(Config)])
def test_a_null_is_refused_by_name(name):
    with pytest.raises(UsageError, match=f"`{name}` must be .*None"):
        replace(Config(), **{name: None})


@pytest.mark.parametrize(("name", "value"), [("epochs", "ten"), ("epochs", 2.5), ("download", 1), ("device", 0)])
def test_an_edited_config_with_a_wrong_type_is_refused(name, value):
    with pytest.raises(UsageError, match=f"{name} must be of type"):
        Config.from_dict({**Config().to_dict(), name: value})


def test_a_setting_of_another_version_is_refused_by_name():
    with pytest.raises(UsageError, match=r"unknown settings \['temperature'\]"):
        Config.from_dict({**Config().to_dict(), "temperature": 1.0})


@pytest.mark.parametrize(
    "field", [f for f in settings_of(Config) if kind_of(f) is str and words_of(f)], ids=lambda f: f.name
)
def test_a_word_that_a_setting_does_not_take_is_answered_with_the_nearest(field):
    near = max(words_of(field), key=len)
    with pytest.raises(UsageError, match=f"unknown {field.name} '{near[:-1]}_'; did you mean '{near}'"):
        Config(**{field.name: f"{near[:-1]}_"})


def test_a_value_in_a_file_is_named_as_it_stands_there():
    with pytest.raises(UsageError, match=r"^lr must be above 0; got 0$"):
        Config.from_dict({**Config().to_dict(), "lr": 0})


def test_a_loss_without_a_term_is_refused():
    with pytest.raises(UsageError, match="nothing to train"):
        Config(kl_weight=0.0, reconstruction_weight=0.0)
