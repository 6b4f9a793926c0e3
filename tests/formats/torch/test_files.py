"""PyTorch files against torch itself: its files read here, files written here read by it."""

from __future__ import annotations

import argparse

import numpy as np
import pytest

from gpt2x.checkpoint import open_checkpoint
from gpt2x.formats.torch import writer as torch_writer
from gpt2x.weights.lazy import LazyTensor
from support.checkpoint_samples import ARRAYS, SAVED

torch = pytest.importorskip("torch")


def as_numpy(tensor):
    tensor = tensor.detach()
    return tensor.float().numpy() if tensor.dtype == torch.bfloat16 else tensor.numpy()


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("wrapped", [True, False])
def test_files_of_torch(tmp_path, zipped, wrapped):
    generator = torch.Generator().manual_seed(0)

    def randn(*shape):
        return torch.randn(*shape, generator=generator)

    state = {
        "transformer.wte.weight": torch.nn.Parameter(randn(11, 4)),
        "transformer.wpe.weight": randn(6, 4).half(),
        "transformer.h.0.ln_1.weight": randn(4).bfloat16(),
        "transformer.h.0.ln_1.bias": randn(4).double(),
        "transformer.h.0.mlp.c_fc.weight": randn(16, 4).t(),
        "transformer.h.0.mlp.c_fc.bias": randn(32)[3:19],
        "transformer.h.0.ln_2.weight": randn(8)[::2],
        "transformer.h.0.attn.bias": torch.tril(torch.ones(1, 1, 4, 4)).bool(),
    }
    state["lm_head.weight"] = state["transformer.wte.weight"]
    saved = {"model": state, "args": argparse.Namespace(lr=1), "step": 3} if wrapped else state
    torch.save(saved, tmp_path / "x.bin", _use_new_zipfile_serialization=zipped)
    with open_checkpoint(tmp_path / "x.bin") as checkpoint:
        assert list(checkpoint.ignored) == ["transformer.h.0.attn.bias"]
        assert len(checkpoint) == len(state) - 1
        for name, source in checkpoint.source_names.items():
            np.testing.assert_array_equal(
                checkpoint[name].read().astype(as_numpy(state[source]).dtype),
                as_numpy(state[source]),
            )


class Tagged(torch.Tensor):
    pass


def test_a_tensor_subclass(tmp_path):
    torch.save({"wte.weight": torch.ones(2, 3).as_subclass(Tagged)}, tmp_path / "x.bin")
    with open_checkpoint(tmp_path / "x.bin") as checkpoint:
        np.testing.assert_array_equal(checkpoint["wte.weight"].read(), np.ones((2, 3)))


@pytest.mark.parametrize("mmap", [True, False])
def test_torch_reads_what_is_written(tmp_path, mmap):
    torch_writer.write_object(tmp_path / "x.pt", SAVED)
    loaded = torch.load(tmp_path / "x.pt", weights_only=True, mmap=mmap)
    for name, array in ARRAYS.items():
        assert str(loaded["model"][name].dtype) == f"torch.{array.dtype}"
        np.testing.assert_array_equal(as_numpy(loaded["model"][name]), array)
    assert loaded["args"] == SAVED["args"]
    assert loaded["list"] == SAVED["list"]


def test_an_alias_shares_its_storage(tmp_path):
    tensors = {"transformer.wte.weight": LazyTensor.of(np.ones((3, 2), np.float32))}
    torch_writer.write(tmp_path / "x.bin", tensors, {"lm_head.weight": "transformer.wte.weight"})
    loaded = torch.load(tmp_path / "x.bin", weights_only=True)
    assert loaded["lm_head.weight"].data_ptr() == loaded["transformer.wte.weight"].data_ptr()
    assert list(loaded) == ["transformer.wte.weight", "lm_head.weight"]
