"""Settings of the tests of the command line."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _keep_nothing(monkeypatch):
    """Leave the user's folder of compiled computations alone."""
    monkeypatch.setenv("GPT2X_COMPILATION_CACHE", "off")
