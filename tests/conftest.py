import os
from pathlib import Path

import pyro
import pytest
import torch


@pytest.fixture(autouse=True)
def clean_process():
    """Each test starts with an empty parameter store and a fixed random state, and must leave torch's globals alone."""
    pyro.clear_param_store()
    torch.manual_seed(0)
    before = torch.get_default_dtype(), torch.get_num_threads(), torch.is_grad_enabled()
    yield
    assert (torch.get_default_dtype(), torch.get_num_threads(), torch.is_grad_enabled()) == before


@pytest.fixture
def real_data():
    """The folder of real data sets, beside the repository or where PYRO_VAE_DATA says."""
    folder = Path(os.environ.get("PYRO_VAE_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}: set PYRO_VAE_DATA")
    return folder
