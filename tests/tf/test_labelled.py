"""Training with labels in TensorFlow."""

import pytest

from support.contract.labelled import LabelledContract

pytest.importorskip("seqeval")


class TestLabelled(LabelledContract):
    backend = "tf"
