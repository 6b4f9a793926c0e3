"""The tests of the PyTorch backend; left out where PyTorch is not installed."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

# Not importorskip: pytest cannot skip from a conftest that is named on its command line.
collect_ignore_glob = [] if find_spec("torch") else ["test_*.py"]


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    """Tiny models are fastest on one thread."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seed():
    import torch

    torch.manual_seed(0)
