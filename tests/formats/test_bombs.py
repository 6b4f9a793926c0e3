"""Files of a few bytes that would take longer than there is time, or more than there is memory.

A pickle can nest an object in itself doubling at each level, an HDF5 file can link groups so that
they have more paths than can be followed, and any number may stand where a size is read.
"""

from __future__ import annotations

import json
import pickle
import struct
import sys
import zipfile

import numpy as np
import pytest
import safetensors.numpy

from gpt2x.checkpoint import open_checkpoint
from gpt2x.checkpoint.source import open_source
from gpt2x.config import GPT2Config
from gpt2x.errors import CheckpointError, InvalidInputError, WeightsError
from gpt2x.models.loading import resolve
from gpt2x.weights.table import Head
from support.measuring import cost

LEVELS = 60
EMPTY_BODY = {
    "wte.weight": np.zeros((70, 64), np.float32),
    "wpe.weight": np.zeros((8, 64), np.float32),
    "h.0.mlp.c_fc.weight": np.zeros((64, 256), np.float32),
}


def text(value: str) -> bytes:
    return pickle.BINUNICODE + struct.pack("<I", len(value)) + value.encode()


def doubled() -> bytes:
    """A tuple of 2^60 empty tuples."""
    steps = (
        pickle.BINPUT + bytes([n]) + pickle.BINGET + bytes([n]) + pickle.TUPLE2
        for n in range(LEVELS)
    )
    return pickle.EMPTY_TUPLE + b"".join(steps)


def tensor(shape: bytes) -> bytes:
    """A tensor of one element, with something else for its shape."""
    storage = text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + b"K\1"
    return b"ctorch._utils\n_rebuild_tensor_v2\n((" + storage + b"tQK\0" + shape + b"K\1\x85\x89NtR"


def save_zip(path, pickled: bytes) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + pickled + pickle.STOP)
        archive.writestr("archive/data/0", bytes(4))


def test_an_object_that_cannot_be_spelled(tmp_path):
    path = tmp_path / "pytorch_model.bin"
    record = b"cos\nsystem\n" + doubled() + pickle.TUPLE1 + pickle.REDUCE
    items = text("a") + record + text("b") + tensor(b"K\1\x85")
    save_zip(path, b"}(" + items + pickle.SETITEMS)
    with pytest.raises(CheckpointError, match=r"Inert\(name='os\.system'\) as 'a'"):
        open_checkpoint(path)


def test_a_shape_that_cannot_be_spelled(tmp_path):
    path = tmp_path / "pytorch_model.bin"
    save_zip(path, b"}(" + text("a") + tensor(doubled()) + pickle.SETITEMS)
    with pytest.raises(CheckpointError, match="impossible shape"):
        open_checkpoint(path)


def test_a_protocol_that_cannot_be_spelled(tmp_path):
    path = tmp_path / "pytorch_model.bin"
    magic = b"\x80\x02\x8a\x0a" + (0x1950A86A20F9469CFC6C).to_bytes(10, "little") + b"."
    path.write_bytes(magic + b"\x80\x02" + doubled() + b".")
    with pytest.raises(CheckpointError, match="unknown protocol"):
        open_checkpoint(path)


def test_megatron_dictionaries_within_each_other(tmp_path):
    levels = pickle.EMPTY_DICT + pickle.BINPUT + b"\0" + pickle.POP
    for level in range(7):
        branches = b"".join(text(f"{n}") + pickle.BINGET + bytes([level]) for n in range(40))
        levels += b"}" + pickle.BINPUT + bytes([level + 1]) + b"(" + branches + b"u" + pickle.POP
    model = text("model") + b"}(" + text("language_model") + pickle.BINGET + b"\x07u"
    save_zip(tmp_path / "model_optim_rng.pt", levels + b"}(" + model + b"u")
    with pytest.raises(CheckpointError, match="one dictionary twice"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("field", "value"),
    [("n_layer", 10**5000), ("n_head", -1), ("vocab_size", 2**31), ("n_embd", True)],
    ids=["many digits", "negative", "large", "boolean"],
)
def test_nanogpt_sizes(tmp_path, field, value):
    sizes = {"n_layer": 1, "n_head": 1, "n_embd": 1, "block_size": 1, "vocab_size": 1, field: value}

    def packed(value):
        return pickle.dumps(value, protocol=2)[2:-1]

    items = b"".join(text(name) + packed(size) for name, size in sizes.items())
    model = text("model") + b"}(" + text("wte.weight") + tensor(b"K\1\x85") + b"u"
    save_zip(tmp_path / "ckpt.pt", b"}(" + model + text("model_args") + b"}(" + items + b"uu")
    with pytest.raises(CheckpointError, match="model_args lacks"):
        open_checkpoint(tmp_path)


def test_hdf5_groups_within_each_other(tmp_path):
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "gpt2.weights.h5"
    with h5py.File(path, "w") as file:
        group = file.create_group("z")
        for level in range(25):
            outer = file.create_group(f"y{level}")
            outer["a"] = outer["b"] = group
            group = outer
    with pytest.raises(CheckpointError, match="from two places"):
        open_checkpoint(path)


@pytest.mark.parametrize("index", ["99999999999", "100000000", "9" * 5000], ids=len)
def test_a_tensor_of_a_block_far_off(tmp_path, index):
    far = {f"h.{index}.ln_1.weight": np.zeros(64, np.float32)}
    safetensors.numpy.save_file(EMPTY_BODY | far, tmp_path / "model.safetensors")
    if len(index) > 9:  # no name of a GPT-2
        with open_source(tmp_path) as source:
            assert source.config.n_layer == 1
    else:
        with pytest.raises(CheckpointError, match="cannot be of 100000001 blocks"):
            open_source(tmp_path).__enter__()


def test_a_config_of_too_many_blocks(tmp_path):
    safetensors.numpy.save_file(EMPTY_BODY, tmp_path / "model.safetensors")
    sizes = {"n_layer": 10**11, "n_embd": 64, "n_head": 1, "vocab_size": 70, "n_positions": 8}
    (tmp_path / "config.json").write_text(json.dumps(sizes))
    message = "n_layer=100000000000, but only 3 tensors"
    with pytest.raises(WeightsError, match=message):
        resolve("GPT2Model", tmp_path)
    with pytest.raises(WeightsError, match=message):
        open_source(tmp_path).__enter__()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_labels": 10**11}, "num_labels is 100000000000"),
        ({"id2label": {"0": [0]}}, "id2label must be a dictionary"),
        ({"architectures": 1.5}, None),
    ],
)
def test_a_config_of_other_kinds(tmp_path, fields, message):
    safetensors.numpy.save_file(EMPTY_BODY, tmp_path / "model.safetensors")
    sizes = {"n_layer": 1, "n_embd": 64, "n_head": 1, "vocab_size": 70, "n_positions": 8}
    (tmp_path / "config.json").write_text(json.dumps(sizes | fields))
    if message is None:
        with open_source(tmp_path) as source:
            assert source.head is Head.LM
    else:
        with pytest.raises(InvalidInputError, match=message):
            open_source(tmp_path).__enter__()


@pytest.mark.skipif(sys.platform != "linux", reason="measures memory through /proc")
@pytest.mark.parametrize(("n_head", "layers"), [(10**9, 1), (2 * 10**5, 1000)])
def test_a_config_of_many_heads_some_of_them_pruned(tmp_path, n_head, layers):
    safetensors.numpy.save_file(EMPTY_BODY, tmp_path / "model.safetensors")
    sizes = {"n_layer": layers, "n_embd": n_head, "n_head": n_head}
    pruned = {str(layer): [0, n_head - 1] for layer in range(layers)}
    (tmp_path / "config.json").write_text(json.dumps(sizes | {"pruned_heads": pruned}))
    found = cost(lambda: GPT2Config.from_pretrained(tmp_path).pruned_heads[0])
    assert found.said == f"[0, {n_head - 1}]"
    assert found.megabytes < 50
    assert found.seconds < 5
    found = cost(lambda: open_source(tmp_path).__enter__().config.n_layer)
    assert found.said == str(layers)
    assert found.megabytes < 50
    assert found.seconds < 5


@pytest.mark.parametrize("head", [-1, 4])
def test_a_pruned_head_that_is_not_there(head):
    with pytest.raises(InvalidInputError, match=rf"heads \[0, {head}\]; .* heads 0 to 3"):
        GPT2Config(n_embd=8, n_head=4, pruned_heads={0: [0, head]})
