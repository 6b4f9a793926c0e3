"""Every format that transformers 4.57 writes is read to the tensors that it was written from."""

from __future__ import annotations

import json

import ml_dtypes
import numpy as np
import pytest

from gpt2x.checkpoint import open_checkpoint
from gpt2x.config import GPT2Config
from gpt2x.weights.table import Head, parameter_shapes
from support.golden_data import GOLDEN

FORMATS = json.loads((GOLDEN / "formats" / "formats.json").read_text())
HEADS = {head.architecture: head for head in Head}

DTYPES = {
    "float32": np.dtype("f4"),
    "float16": np.dtype("f2"),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}


@pytest.mark.parametrize("name", FORMATS)
def test_tensors_equal_their_source(name):
    about = FORMATS[name]
    dtype = DTYPES[about.get("dtype", "float32")]
    config = GPT2Config.from_pretrained(GOLDEN / about["source"])
    expected = set(parameter_shapes(config, HEADS[about.get("class", "GPT2LMHeadModel")]))
    expected -= set(about.get("missing", ()))
    with (
        open_checkpoint(GOLDEN / "formats" / name) as checkpoint,
        open_checkpoint(GOLDEN / about["source"]) as source,
    ):
        # A tied output layer may stand in the file a second time.
        assert expected <= set(checkpoint) <= expected | {"lm_head.weight"}
        for key, tensor in checkpoint.items():
            known = "wte.weight" if key not in expected else key
            array = tensor.read()
            assert (array.shape, array.dtype) == (tensor.shape, tensor.dtype)
            assert array.dtype == dtype
            np.testing.assert_array_equal(array, source[known].read().astype(dtype), err_msg=key)
