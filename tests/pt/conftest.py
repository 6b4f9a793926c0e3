"""The tests of the PyTorch backend; left out where PyTorch is not installed."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

# Not importorskip: pytest cannot skip from a conftest that is named on its command line.
collect_ignore_glob = [] if find_spec("torch") else ["*test_*.py"]


def pytest_addoption(parser):
    parser.addoption(
        "--all-large",
        action="store_true",
        help="multiply weights of every size by the kernels for large ones",
    )


@pytest.fixture(autouse=True)
def _all_large(request, monkeypatch):
    """Tiny models have no large weight: what concerns those is tested in a run with the option."""
    if request.config.getoption("--all-large", default=False):
        monkeypatch.setattr("gpt2x.pt.cpu.linear.LARGE", 0)


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    """Tiny models are fastest on one thread."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seed():
    import torch

    torch.manual_seed(0)
