"""What is decided in a folder before data and program are built."""

import pytest

from pyro_vae.errors import UsageError
from pyro_vae.experiment.config import Config
from pyro_vae.experiment.run import files
from pyro_vae.experiment.train.start_decision import decide

AUTOENCODER = Config(posterior="delta", kl_weight=0.0)


def test_settings_that_clash_are_refused_before_data_are_read(tmp_path):
    with pytest.raises(UsageError, match="Use `kl_warmup=0`"):
        decide(tmp_path / "run", Config(objective="iwae", kl_warmup=1, dataset="missing.npy"), set())
    assert not list(tmp_path.iterdir())


def test_settings_clash_only_together_with_those_of_the_run_that_is_taken_up(tmp_path):
    files.write(tmp_path / "config.json", files.to_json(AUTOENCODER.to_dict()))
    assert decide(tmp_path, Config(posterior="delta"), {"posterior"}, resume=True).config == AUTOENCODER
