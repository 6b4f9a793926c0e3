"""What tests of training with labels share."""

import pytest

from support.labelled import tiny_model


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """The folder of a tiny language model."""
    return tiny_model(tmp_path_factory.mktemp("models") / "tiny")
