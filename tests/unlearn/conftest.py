"""One thread for torch, and no run that depends on another's random state."""

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def fixed_torch_seed():
    """Models made without a seed are the same in every run."""
    torch.manual_seed(0)
