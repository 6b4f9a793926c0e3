"""`return_tensors` in each framework that is installed."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest

from gpt2x.errors import MissingBackendError

MODULES = {"pt": "torch", "tf": "tensorflow", "jax": "jax"}


@pytest.mark.parametrize("kind_of_tensor", MODULES)
def test_return_tensors(tiny, kind_of_tensor):
    pytest.importorskip(MODULES[kind_of_tensor])
    encoded = tiny(["a", "b c"], padding=True, return_tensors=kind_of_tensor)
    for name, value in encoded.items():
        assert type(value).__module__.startswith(("torch", "tensorflow", "jax"))
        assert np.asarray(value).tolist() == tiny(["a", "b c"], padding=True)[name]
    assert tiny("", return_tensors=kind_of_tensor)["input_ids"].shape == (1, 0)
    single = tiny.encode("a b", return_tensors=kind_of_tensor)
    assert tiny.decode(single[0]) == "a b"
    assert tiny.batch_decode(encoded["input_ids"], skip_special_tokens=True) == ["a", "b c"]
    rows = [{"input_ids": row} for row in encoded["input_ids"]]
    assert type(tiny.pad(rows)["input_ids"]) is type(encoded["input_ids"])


def test_to_moves_pytorch_tensors(tiny):
    torch = pytest.importorskip("torch")
    encoded = tiny("a", return_tensors="pt", return_length=True).to("meta")
    assert encoded["input_ids"].device == torch.device("meta")
    assert encoded["input_ids"].dtype == torch.int64


@pytest.mark.parametrize("kind_of_tensor", MODULES)
def test_a_missing_framework_is_named_with_its_extra(tiny, kind_of_tensor):
    if find_spec(MODULES[kind_of_tensor]) is not None:
        pytest.skip("it is installed")
    with pytest.raises(MissingBackendError, match="pip install"):
        tiny("a", return_tensors=kind_of_tensor)
