"""Damaged files give the right tensors or one clear error, quickly and in little memory."""

from __future__ import annotations

import contextlib
import shutil
import time
import tracemalloc

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpt2x.checkpoint import open_checkpoint
from gpt2x.errors import CheckpointError
from support.golden_data import FILES, GOLDEN

FORMATS = GOLDEN / "formats"

# What to open -> the file in it to damage.
SOURCES = {
    "safetensors": (FILES / "source", "model.safetensors"),
    "safetensors_index": (FORMATS / "safetensors_sharded", "model.safetensors.index.json"),
    "pytorch": (FORMATS / "bin", "pytorch_model.bin"),
    "pytorch_legacy": (FORMATS / "bin_legacy", "pytorch_model.bin"),
    "flax_msgpack": (FORMATS / "flax_msgpack", "flax_model.msgpack"),
    "tf_h5": (FORMATS / "tf_h5", "tf_model.h5"),
    "keras_hub": (FILES / "keras_hub", "model.weights.h5"),
    "keras_hub_model": (FILES / "keras_hub_model", "gpt2.keras"),
    "keras_tf": (FILES / "keras_tf", "gpt2.keras"),
    "orbax_metadata": (FILES / "orbax", "params/_METADATA"),
    "orbax_database": (FILES / "orbax", "params/manifest.ocdbt"),
    "openai_index": (FILES / "openai", "model.ckpt.index"),
    "openai_data": (FILES / "openai", "model.ckpt.data-00000-of-00001"),
    "nanogpt": (FILES / "nanogpt", "ckpt.pt"),
    "llmc": (FILES / "llmc", "gpt2_f32.bin"),
    "megatron": (FILES / "megatron_v3_tp1" / "iter_0000005" / "mp_rank_00", "model_optim_rng.pt"),
    "gguf": (FILES / "gguf", "gpt2-q8_0.gguf"),
}
# Where only one file of a folder is wanted, the others are left out.
ALONE = ("keras_tf", "nanogpt", "llmc", "gguf")

NUMBERS = [0, 1, 0x7F, 0xFF, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1]


def places(size: int) -> st.SearchStrategy[int]:
    """Positions in a file: headers stand at either end, so look there most."""
    return (
        st.integers(0, min(size - 1, 600))
        | st.integers(max(0, size - 3000), size - 1)
        | st.integers(0, size - 1)
    )


@st.composite
def damaged(draw: st.DrawFn, data: bytes) -> bytes:
    """Change some bytes, write extreme numbers, cut pieces out, or cut the file short."""
    changed = bytearray(data)
    for _ in range(draw(st.integers(1, 3))):
        if not changed:
            break
        at = draw(places(len(changed)))
        how = draw(st.sampled_from(["byte", "number", "cut", "end", "repeat"]))
        if how == "byte":
            changed[at] = draw(st.integers(0, 255))
        elif how == "number":
            width = draw(st.sampled_from([2, 4, 8]))
            order = draw(st.sampled_from(["little", "big"]))
            number = draw(st.sampled_from(NUMBERS)) % 2 ** (8 * width)
            changed[at : at + width] = number.to_bytes(width, order)
        elif how == "cut":
            del changed[at : at + draw(st.integers(1, 64))]
        elif how == "end":
            del changed[at:]
        else:
            changed[at:at] = changed[at : at + draw(st.integers(1, 64))]
    return bytes(changed)


@pytest.mark.parametrize("name", SOURCES)
def test_a_damaged_file_is_read_or_refused(name, tmp_path):
    source, file = SOURCES[name]
    if name.startswith("orbax"):
        pytest.importorskip("tensorstore")
    elif file.endswith((".h5", ".keras")):
        pytest.importorskip("h5py")
    folder = tmp_path / "model"
    if name in ALONE:
        folder.mkdir()
    else:
        shutil.copytree(source, folder)
    original = (source / file).read_bytes()
    target = folder / file
    budget = 40 * 2**20 + 4 * len(original)

    @settings(
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.data_too_large]
    )
    @given(damaged(original))
    def check(data):
        target.write_bytes(data)
        tracemalloc.reset_peak()
        before, started = tracemalloc.get_traced_memory()[0], time.process_time()
        with (
            contextlib.suppress(CheckpointError),
            open_checkpoint(target if name in ALONE else folder) as checkpoint,
        ):
            for tensor in checkpoint.values():
                assert tensor.read().shape == tensor.shape
        assert time.process_time() - started < 20  # of this process, however busy the machine
        assert tracemalloc.get_traced_memory()[1] - before < budget

    tracemalloc.start()
    try:
        check()
    finally:
        tracemalloc.stop()
