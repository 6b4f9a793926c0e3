"""Training with labels in Flax."""

import pytest

from support.contract.labelled import LabelledContract

pytest.importorskip("seqeval")


class TestLabelled(LabelledContract):
    backend = "flax"
