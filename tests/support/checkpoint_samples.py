"""Objects that the tests of the PyTorch reader and writer save and load."""

import numpy as np

from gpt2x.weights.lazy import BFLOAT16, LazyTensor

ARRAYS = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b": np.arange(4).astype(BFLOAT16),
    "c": np.array(3, dtype=np.int64),
    "d": np.arange(6, dtype=np.float16).reshape(2, 3).T,
    "e": np.array([True, False]),
    "f": np.zeros((0, 2), np.float64),
}
SAVED = {
    "model": {name: LazyTensor.of(array) for name, array in ARRAYS.items()},
    "args": {"n_layer": 12, "dropout": 0.5, "bias": True, "none": None, "big": -(2**70)},
    "list": [1, "two", (3, 4), []],
    "ключ": "значение",
}
