import os

# Before torch is imported: workers that run side by side share the cores.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

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
