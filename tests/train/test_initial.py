"""New weights."""

import numpy as np
import pytest

from gpt2x.checkpoint import open_checkpoint
from gpt2x.config import GPT2Config
from gpt2x.train.initial import write_initial
from gpt2x.weights.lazy import LazyTensor
from gpt2x.weights.table import Head

CONFIG = GPT2Config(n_layer=2, n_embd=48, n_head=4, n_inner=40, vocab_size=300, n_positions=32)


def read(folder):
    with open_checkpoint(folder) as checkpoint:
        return {name: checkpoint[name].read() for name in checkpoint}


def test_they_follow_the_paper_and_the_seed(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_initial(tmp_path / name, CONFIG, Head.LM, seed)
    first, again, other = (read(tmp_path / name) for name in "abc")
    for name, array in first.items():
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, again[name])
        if name.endswith("bias") or ".ln_" in name or "ln_f" in name:
            assert np.ptp(array) == 0
            assert array.flat[0] == (not name.endswith("bias"))
            continue
        assert not np.array_equal(array, other[name])
        std = CONFIG.initializer_range / (2 if name.endswith("c_proj.weight") else 1)
        assert array.std() == pytest.approx(std, rel=0.1)
        assert abs(array.mean()) < std / 10
    assert not np.array_equal(first["h.0.mlp.c_fc.weight"], first["h.1.mlp.c_fc.weight"])


def test_known_weights_stay(tmp_path):
    wpe = np.ones((32, 48), np.float32)
    write_initial(tmp_path, CONFIG, Head.LM, 0, {"wpe.weight": LazyTensor.of(wpe)})
    np.testing.assert_array_equal(read(tmp_path)["wpe.weight"], wpe)
