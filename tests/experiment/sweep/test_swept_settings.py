"""Grids and ranges of flags: crossed, read by the parser of the flags, refused in a sentence."""

import pytest

from pyro_vae.cli.parser import config_from, config_parser
from pyro_vae.cli.sweep_command import _values, space
from pyro_vae.command_lines import flags
from pyro_vae.errors import UsageError
from pyro_vae.experiment.checked_fields import settings_of
from pyro_vae.experiment.config import Config
from pyro_vae.experiment.own_members import FAMILIES
from pyro_vae.experiment.presets import changed
from pyro_vae.experiment.sweep.swept_settings import Range

PARSER = config_parser("sweep", "For tests.")


def made(*grids, ranges=(), search=0, seeds=1, command=()):
    return space(PARSER, list(command), grids, ranges, search, seeds)


def test_grids_are_crossed_and_their_values_are_those_of_the_flags():
    found = made("kl_weight=0.5,1,2", "hidden=256,300 300", "dequantize=yes,no", command=["--lr", "1e-2"]).settings()
    assert len(found) == 12
    assert [setting.name for setting in found[:3]] == [
        "kl_weight=0.5,hidden=256,dequantize=yes",
        "kl_weight=0.5,hidden=256,dequantize=no",
        "kl_weight=0.5,hidden=300-300,dequantize=yes",
    ]
    assert found[2].values == {"kl_weight": 0.5, "hidden": (300, 300), "dequantize": True}
    assert found[2].config == Config(kl_weight=0.5, hidden=(300, 300), dequantize=True, lr=1e-2)
    assert {setting.config.lr for setting in found} == {1e-2}


def test_a_flag_may_be_written_as_on_the_command_line():
    (found,) = made("--learn-scale=one").settings()
    assert found.config.learn_scale == "one"


def test_code_in_a_grid_must_have_been_typed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(
        "import pyro_vae as pv\nclass Mine(pv.priors.StandardNormal):\n    def __init__(self, latent_dim, at=0.0):\n"
        "        super().__init__(latent_dim)\nclass Other(Mine): pass\n"
    )
    grid = "prior=standard,./mine.py:Mine"
    with pytest.raises(UsageError, match="in a file names code, and you must name code yourself"):
        made(grid)
    parser = config_parser("sweep", "For tests.")
    parser.add_argument("--grid", action="append", type=str, default=[])
    found = space(parser, ["--grid", grid], [grid], [], 0, 1)
    assert [setting.name for setting in found.settings()] == ["prior=standard", "prior=Mine"]
    assert found.plan()["grids"] == {"prior": ["standard", "mine.py:Mine"]}
    assert found.settings()[1].config.own.prior.typed == "./mine.py:Mine"


def test_arguments_and_pairs_of_networks_have_commas_of_their_own():
    assert _values("prior_args", '{"df": 3, "at": 1},{"df": 5}') == ['{"df": 3, "at": 1}', '{"df": 5}']
    assert _values("network", "mlp,n.py:E,D,a.b:E,D,cnn") == ["mlp", "n.py:E,D", "a.b:E,D", "cnn"]


def test_without_a_grid_there_is_the_command_itself():
    (found,) = made(command=["--prior", "vamp"]).settings()
    assert (found.name, found.config) == ("as-given", Config(prior="vamp"))


@pytest.mark.parametrize(
    ("grid", "words"),
    [
        ("kl_wieght=1", "unknown flag 'kl_wieght'; did you mean 'kl_weight'"),
        ("prior=standard,vampp", "unknown prior 'vampp'; did you mean 'vamp'"),
        ("prior", "e.g. --grid kl_weight=0.5,1,2; got 'prior'"),
        ("lr=", "got 'lr='"),
        ("lr=1,,2", "empty value"),
        ("lr=1e-3,0.001", "lr=0.001 is in the grids twice"),
        ("lr=0", "lr=0: `lr` must be above 0"),
        ("seed=1,2", "--seeds N trains every setting"),
        ("data_seed=1,2", "numbers on other data do not compare"),
        ("valid_data=1,2", "numbers on other data do not compare"),
        ("test_samples=1,2", "changes the test report and no training"),
        ("batch_size=10,20", "batch_size is given twice"),
        ("posterior=diagonal,delta", "^posterior=delta: `posterior='delta'` is a plain autoencoder, with no ELBO"),
        ("objective=iwae", "its loss weights must be 1; got `kl_weight=2`"),
        ("conditional=maybe", "--conditional takes yes or no; got 'maybe'"),
    ],
)
def test_mistakes_in_a_grid_are_answered_in_a_sentence(grid, words):
    with pytest.raises(UsageError, match=words):
        made(grid, command=["--batch-size=10", "--kl-weight=2"]).settings()


@pytest.mark.parametrize(("grid", "words"), [("lr=1,x", "--lr"), ("hidden=8,x", "--hidden takes whole numbers; got x")])
def test_a_value_that_the_flag_does_not_take_is_answered_by_its_parser(grid, words, capsys):
    with pytest.raises(SystemExit, match="2"):
        made(grid).settings()
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"ranges": ["lr=1..2"]}, "add --search N"),
        ({"search": 3}, "nothing to choose"),
        ({"seeds": 0}, "--seeds must be 1 or more"),
        ({"command": ["--seed", "3"]}, "--seed is what distinguishes the runs of a setting"),
        ({"ranges": ["lr=2..1"], "search": 1}, "low must be below high"),
        ({"ranges": ["lr=1..inf"], "search": 1}, "both finite"),
        ({"ranges": ["latent_dim=1..2.5"], "search": 1}, "takes two whole numbers"),
        ({"ranges": ["lr=1,2"], "search": 1}, "takes two numbers, low..high; got '1,2'"),
        ({"ranges": ["prior=a..b"], "search": 1}, "Use --grid prior="),
        ({"ranges": ["lr=0..1"], "search": 1}, "`lr` must be above 0"),
    ],
)
def test_mistakes_in_a_search_are_answered_in_a_sentence(options, words):
    with pytest.raises(UsageError, match=words):
        made(**options).choices()


def test_too_many_runs_are_refused_before_they_are_laid_out():
    widths = ",".join(map(str, range(1, 200)))
    with pytest.raises(UsageError, match="39,601 runs"):
        made(f"latent_dim={widths}", f"hidden={widths}").settings()


def test_ranges_keep_their_kind_and_ask_for_a_logarithm_from_a_decade_on():
    found = made(ranges=["lr=1e-4..1e-2", "latent_dim=2..10", "weight_decay=0..1"], search=2).ranges
    assert found == {"lr": Range(1e-4, 1e-2), "latent_dim": Range(2, 10), "weight_decay": Range(0, 1)}
    assert [type(between.low) for between in found.values()] == [float, int, float]
    assert [between.is_logarithmic for between in found.values()] == [True, False, False]


def test_the_flags_of_a_config_make_it_again():
    """Each field at a value that is not its default, so that none can be left out."""
    other = {bool: lambda v: not v, int: lambda v: v + 1, float: lambda v: v / 3 if v < 1e300 else 7.1, str: str.upper}
    values = {field.name: other[field.type](field.default) for field in settings_of(Config) if field.type in other}
    named = {
        "dataset": "mnist", "data_dir": "a folder=1", "binarize": "none", "split": "contiguous", "prior": "vamp",
        "posterior": "full", "likelihood": "normal", "network": "conv", "activation": "tanh", "precision": "bfloat16",
        "flow": "autoregressive", "pseudo_inputs": "random", "encoder_predicts": "log_variance", "learn_scale": "one",
        "objective": "trace_elbo", "optimizer": "adamw", "lr_schedule": "step", "compile": "no", "kl_weight": 0.1,
        "reconstruction_weight": 0.3, "weight_decay": 1e-7, "hidden": (3, 4), "flow_hidden": (5,), "hidden2": (6,),
        "guide": "bottom_up", "preset": "iwae_1l_k5", "standardize": "yes", "scale": 0.3, "reader": 1, "label": "a",
        "id": "b", "group": "c", "columns": ("d", "e f"), "channels": "last", "colour": "grey", "missing": "nan",
        "gradient": "sticking_the_landing", "threads": 3, "init": "glorot", "average": 0.2,
    }  # fmt: skip
    config = Config(**{**values, **named})
    of_own_members = {f"{family}_args" for family in FAMILIES}  # which go with code that is typed
    assert {f.name for f in settings_of(Config) if getattr(config, f.name) == f.default} == of_own_members
    assert config_from(PARSER.parse_args(flags(changed(config)))) == config
    assert changed(Config()) == {}


def test_a_setting_of_a_preset_that_is_put_back_to_its_default_is_a_flag():
    line = ["--preset", "iwae_1l_k5", "--batch-size", "128", "--objective", "mean_field_elbo", "--num-particles", "1"]
    line += ["--gradient", "total"]
    (found,) = made("prior=vamp", command=line).settings()
    assert (found.config.batch_size, found.config.objective) == (128, "mean_field_elbo")
    assert config_from(PARSER.parse_args(flags(changed(found.config)))) == found.config


def test_the_plan_is_the_same_for_the_same_sweep_alone():
    plan = made("lr=1,2", command=["--prior=vamp", "--device=cpu"]).plan()
    assert plan == made("lr=1,2", command=["--prior", "vamp", "--data-dir", "elsewhere"]).plan()
    assert "lr" not in plan["base"]
    assert plan["base"]["prior"] == "vamp"
    for other in (
        made("lr=1,3", command=["--prior=vamp"]),
        made("lr=1,2"),
        made("lr=1,2", command=["--prior=vamp"], seeds=2),
    ):
        assert other.plan() != plan


@pytest.mark.parametrize("in_file", [False, True])
def test_a_setting_of_a_preset_can_be_swept_and_one_that_was_typed_can_not(in_file, tmp_path):
    (tmp_path / "flags.yaml").write_text("preset: iwae_1l_k5\n")
    line = ["--config", str(tmp_path / "flags.yaml")] if in_file else ["--preset", "iwae_1l_k5"]
    found = made("lr=0.001,0.01", command=line).settings()
    assert [(setting.config.lr, setting.config.num_particles) for setting in found] == [(0.001, 5), (0.01, 5)]
    with pytest.raises(UsageError, match="lr is given twice"):
        made("lr=0.001,0.01", command=[*line, "--lr", "0.1"])
    with pytest.raises(UsageError, match="preset is given twice"):
        made("preset=iwae_1l_k1,iwae_1l_k50", command=line)


def test_flags_change_every_preset_that_is_swept():
    found = made("preset=iwae_1l_k1,vamp_static_mnist", command=["--epochs", "1"]).settings()
    assert [(setting.config.epochs, setting.config.prior) for setting in found] == [(1, "standard"), (1, "vamp")]
