"""Lazy tensors: shape and dtype are known before anything is read."""

from __future__ import annotations

import numpy as np
import pytest

from gpt2x.errors import CheckpointError
from gpt2x.weights.lazy import BFLOAT16, LazyTensor, concatenated


def lazy(shape, dtype=np.float32):
    return LazyTensor.of(np.arange(np.prod(shape)).reshape(shape).astype(dtype))


def test_a_changed_tensor_knows_its_shape():
    tensor = lazy((4, 6))
    for changed, expected in [
        (tensor.transposed(), tensor.read().T),
        (tensor.reshaped(3, 8), tensor.read().reshape(3, 8)),
        (concatenated([tensor, tensor], 1), np.hstack([tensor.read()] * 2)),
        (concatenated([tensor, tensor], -1), np.hstack([tensor.read()] * 2)),
        (tensor.astype(BFLOAT16), tensor.read().astype(BFLOAT16)),
    ]:
        array = changed.read()
        assert (changed.shape, changed.dtype) == (expected.shape, expected.dtype)
        np.testing.assert_array_equal(array, expected)
    assert tensor.transposed().read().flags.c_contiguous
    assert (tensor.size, tensor.nbytes) == (24, 96)


def test_parts_of_other_shapes_do_not_join():
    for other, axis in [(lazy((4, 5)), 0), (lazy((4, 6), np.float64), 0), (lazy((4, 6)), 2)]:
        with pytest.raises(CheckpointError, match="cannot be joined"):
            concatenated([lazy((4, 6)), other], axis)
