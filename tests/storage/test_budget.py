"""What a file may cost: ten times its size and 300 MB of memory, and time in proportion."""

from __future__ import annotations

import json
import os
import pickle
import signal
import struct
import sys
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from gpt2x.checkpoint import open_checkpoint
from gpt2x.config.model import MAX_LABELS, GPT2Config
from gpt2x.errors import CheckpointError
from gpt2x.formats.tensorflow.crc32c import crc32c, masked
from gpt2x.storage.budget import ALLOWANCE, TIMES, Budget
from gpt2x.tokenization import GPT2Tokenizer
from support.measuring import Cost, cost

measured = pytest.mark.skipif(sys.platform != "linux", reason="measures memory through /proc")


def read_whole(path: Path) -> str:
    with open_checkpoint(path) as checkpoint:
        held = [tensor.read() for tensor in checkpoint.values()]
    return f"read {len(held)}"


def cost_of_reading(path: Path) -> Cost:
    """What opening a checkpoint and reading all of it costs; asserts that it is in proportion."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    size = sum(file.stat().st_size for file in files)
    found = cost(lambda: read_whole(path))
    assert found.megabytes < 300 + 10 * size / 1e6, found
    assert found.seconds < 5 + size / 1e6, found
    return found


def refused(path: Path, message: str = "bytes of memory") -> None:
    said = cost_of_reading(path).said
    assert said.startswith("CheckpointError"), said
    assert message in said


def test_a_budget_grows_with_the_files():
    budget = Budget("folder")
    budget.charge(ALLOWANCE, "tensors")
    budget.admit(10**6)
    budget.charge(TIMES * 10**6 - 10**5, "tensors")
    with pytest.raises(CheckpointError, match=r"'folder' asks for 260,0.*its 1 more.*10 times"):
        budget.charge(10**5, "1 more")


# HDF5


@measured
def test_hdf5_a_chunk_of_a_gigabyte_for_ten_numbers(tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "tf_model.h5", "w") as file:
        options = {"maxshape": (None,), "chunks": (2**28,), "compression": "gzip"}
        file.create_dataset("a", (10,), np.float32, **options)
        file["a"].id.write_direct_chunk((0,), zlib.compress(bytes(10**8), 1))
    refused(tmp_path)


@measured
def test_hdf5_a_chunk_that_inflates_beyond_its_size(tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "tf_model.h5", "w") as file:
        options = {"maxshape": (None,), "chunks": (2**20,), "compression": "gzip"}
        file.create_dataset("a", (10,), np.float32, **options)
        file["a"].id.write_direct_chunk((0,), zlib.compress(bytes(33 * 10**7), 1))
    refused(tmp_path, "a chunk of it holds more than")


@measured
@pytest.mark.parametrize(("megabytes", "message"), [(80, "read 1"), (200, "CheckpointError")])
def test_hdf5_zeros_that_shrink_a_thousandfold(tmp_path, megabytes, message):
    h5py = pytest.importorskip("h5py")
    size = megabytes * 10**6
    with h5py.File(tmp_path / "tf_model.h5", "w") as file:
        options = {"chunks": (1, size // 4), "compression": "gzip"}
        file.create_dataset("a", (1, size // 4), np.float32, **options)
        file["a"].id.write_direct_chunk((0, 0), zlib.compress(bytes(size), 1))
    assert cost_of_reading(tmp_path).said.startswith(message)


@pytest.mark.parametrize(
    "options",
    [
        {"compression": "gzip"},
        {"compression": "gzip", "shuffle": True, "fletcher32": True},
        {"fletcher32": True},
        {"chunks": (7,)},
    ],
    ids=str,
)
@pytest.mark.parametrize("values", ["random", "zeros"])
def test_hdf5_stored_in_chunks(tmp_path, options, values):
    h5py = pytest.importorskip("h5py")
    array = np.zeros(50_000, np.float32)
    if values == "random":
        array.view(np.uint8)[:] = np.random.default_rng(0).integers(0, 120, array.nbytes)
    with h5py.File(tmp_path / "tf_model.h5", "w") as file:
        file.create_dataset("model_weights/a", data=array, **options)
    with open_checkpoint(tmp_path) as checkpoint:
        np.testing.assert_array_equal(checkpoint["a"].read(), array)
        assert len(list(checkpoint["a"].blocks(10_000))) > 1


def test_hdf5_other_filters_are_refused(tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "tf_model.h5", "w") as file:
        file.create_dataset("a", data=np.ones(10, np.float32), compression="lzf")
    with pytest.raises(CheckpointError, match=r"filters \[32000\] of HDF5; read are gzip"):
        open_checkpoint(tmp_path)


def test_hdf5_weights_that_are_a_link_or_no_group(tmp_path):
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "tf_model.h5"
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["a"] = np.ones(3, np.float32)
    os.mkfifo(tmp_path / "fifo")  # whoever opens it waits for a writer
    for target in ("other.h5", str(tmp_path / "fifo"), "missing.h5"):
        with h5py.File(path, "w") as file:
            file["model_weights"] = h5py.ExternalLink(target, "/")
        signal.alarm(10)
        with pytest.raises(CheckpointError, match="links to 'model_weights' elsewhere"):
            open_checkpoint(path)
        signal.alarm(0)
    with h5py.File(path, "w") as file:
        file["model_weights"] = np.ones(3, np.float32)
    with pytest.raises(CheckpointError, match="not as a group"):
        open_checkpoint(path)


@measured
def test_hdf5_long_names_above_many_arrays(tmp_path):
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "tf_model.h5"
    with h5py.File(path, "w") as file:
        group = file.create_group("/".join(["x" * 30_000] * 4))
        for number in range(100):
            group[str(number)] = np.ones(1, np.float32)
    refused(tmp_path, "8192 are allowed")


# Pickles

TEXT = struct.Struct("<I")


def text(value: str) -> bytes:
    return pickle.BINUNICODE + TEXT.pack(len(value.encode())) + value.encode()


REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"
STORAGE = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + b"K\1tQ"
ARGUMENTS = b"(" + STORAGE + b"K\0K\1\x85K\1\x85\x89Nt"
TENSOR = text("a") + REBUILD + ARGUMENTS + b"R"


def torch_file(path: Path, pickled: bytes, *, deflated: bool = False, entry: bytes = b"") -> None:
    """A state dict of one tensor, and below it on the stack what `pickled` leaves there."""
    method = zipfile.ZIP_DEFLATED if deflated else zipfile.ZIP_STORED
    body = b"\x80\x02" + pickled + b"}(" + TENSOR + b"u."
    with zipfile.ZipFile(path / "pytorch_model.bin", "w", method) as archive:
        archive.writestr("archive/data.pkl", body)
        archive.writestr("archive/data/0", entry or bytes(4))


def wide_key(number: int) -> bytes:
    return b"\x8a\x14" + (number * (2**61 - 1) * 2**80).to_bytes(20, "little")


PICKLES = {
    "a tuple as key again and again": b"(" + b"N" * 60_000 + b"tq\1}" + b"h\1Ns" * 15_000,
    "arguments again and again": b"ctorch._utils\n_rebuild_parameter\nq\3("
    + b"N" * 10**6
    + b"tq\1"
    + b"h\3h\1R0" * 200_000,
    "empty dictionaries": b"(" + b"}" * 10**7 + b"l",
    "records": b"cx\ny\nq\1(" + b"h\1)R" * 10**6 + b"l",
    "tensors of two remembered objects": REBUILD
    + b"q\4"
    + ARGUMENTS
    + b"q\5("
    + b"h\4h\5R" * 600_000,
    "storages of one remembered id": b"(" + STORAGE[:-2] + b"tq\1(" + b"h\1Q" * 10**6 + b"l",
    "dictionaries of one remembered list": b"ccollections\nOrderedDict\nq\1((K\1K\1tq\2"
    + b"0("
    + b"h\2" * 10**5
    + b"l\x85q\3("
    + b"h\1h\3R" * 10**4
    + b"l",
    "keys that collide": b"}(" + b"".join(wide_key(n) + b"N" for n in range(1, 40_000)) + b"u",
    "a long key again and again": b"}" + text("k" * 10**6) + b"q\1Ns" + b"h\1Ns" * 10**5,
    "opcodes": b"N0" * 2 * 10**7,
}


@measured
@pytest.mark.parametrize("name", PICKLES)
def test_pickles(tmp_path, name):
    torch_file(tmp_path, PICKLES[name], deflated=True)
    refused(tmp_path)


@measured
def test_names_of_a_pickle_are_shared(tmp_path):
    torch_file(tmp_path, b"(" + text("x" * 100_000) + b"q\1" + b"h\1h\1\x93" * 20_000 + b"l")
    assert cost_of_reading(tmp_path).said == "read 1"


@measured
def test_a_shape_of_very_large_integers(tmp_path):
    integer = b"\x8b" + struct.pack("<i", 4 * 10**6) + b"\xff" * (4 * 10**6 - 1) + b"\x7f"
    shape = integer + b"q\1h\1h\1\x87"
    torch_file(tmp_path, REBUILD + b"(" + STORAGE + b"K\0" + shape + b"K\1\x85\x89NtR")
    refused(tmp_path, "impossible shape")


# Flax


def packed_array(count: int) -> bytes:
    """An array of so many bytes, all zero."""
    header = (
        b"\x93\x91\xce" + struct.pack(">I", count) + b"\xa5uint8\xc6" + struct.pack(">I", count)
    )
    return b"\xc9" + struct.pack(">Ib", len(header) + count, 1) + header + bytes(count)


def packed_map(entries: list[bytes]) -> bytes:
    return b"\xdf" + struct.pack(">I", len(entries)) + b"".join(entries)


def key(name: str) -> bytes:
    return b"\xdb" + struct.pack(">I", len(name)) + name.encode()


MESSAGES = {
    "empty bytes in a list": b"\x81\xa1a\xdd" + struct.pack(">I", 10**6) + b"\xc4\0" * 10**6,
    "empty maps": packed_map([key(f"{n}") + b"\x80" for n in range(300_000)]),
    "empty arrays": packed_map([key(f"{n}") + packed_array(0) for n in range(100_000)]),
    "long names above many arrays": key("x" * 65_000).join(
        [b"\x81"] * 40 + [packed_map([key(f"{n}") + packed_array(1) for n in range(1000)])]
    ),
}


@measured
@pytest.mark.parametrize("name", MESSAGES)
def test_flax(tmp_path, name):
    (tmp_path / "flax_model.msgpack").write_bytes(MESSAGES[name])
    refused(tmp_path, "list of 1000000" if "list" in name else "bytes of memory")


# GGUF


def gguf_text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def gguf_file(path: Path, pairs: list[bytes], tensors: list[bytes], data: bytes = b"") -> None:
    pairs = [gguf_text(b"general.architecture") + struct.pack("<I", 8) + gguf_text(b"gpt2"), *pairs]
    header = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(pairs))
    written = header + b"".join(pairs) + b"".join(tensors)
    (path / "model.gguf").write_bytes(written + bytes(-len(written) % 32) + data)


def gguf_tensor(name: str, elements: int, kind: int = 0) -> bytes:
    return gguf_text(name.encode()) + struct.pack("<IQIQ", 1, elements, kind, 0)


def gguf_array(name: str, kind: int, count: int, data: bytes) -> bytes:
    return gguf_text(name.encode()) + struct.pack("<IIQ", 9, kind, count) + data


def gguf_tokens(count: int) -> list[bytes]:
    tokens = b"".join(gguf_text(b"%d" % number) for number in range(count))
    return [
        gguf_text(b"tokenizer.ggml.model") + struct.pack("<I", 8) + gguf_text(b"gpt2"),
        gguf_array("tokenizer.ggml.tokens", 8, count, tokens),
        gguf_array("tokenizer.ggml.merges", 8, 0, b""),
        gguf_array("tokenizer.ggml.token_type", 0, count, b"\3" * count),
    ]


GGUF_SIZES = [
    gguf_text(f"gpt2.{name}".encode()) + struct.pack("<I", 4) + struct.pack("<I", 1)
    for name in ("block_count", "context_length", "embedding_length", "feed_forward_length")
] + [
    gguf_text(b"gpt2.attention.head_count") + struct.pack("<II", 4, 1),
    gguf_text(b"gpt2.attention.layer_norm_epsilon") + struct.pack("<If", 6, 1e-5),
]


@measured
@pytest.mark.parametrize(
    ("pairs", "tensors", "data"),
    [
        ([], [gguf_tensor(f"{n}", 10**6) for n in range(100)], 4 * 10**6),
        ([], [gguf_tensor(f"{n}", 32 * 10**5, 8) for n in range(30)], 34 * 10**5),
        ([], [gguf_tensor(f"{n}", 0) for n in range(100_000)], 0),
        (GGUF_SIZES + gguf_tokens(200_000), [], 0),
    ],
    ids=["one stretch", "blocks", "empty tensors", "added tokens"],
)
def test_gguf(tmp_path, pairs, tensors, data):
    gguf_file(tmp_path, pairs, tensors, bytes(data))
    refused(tmp_path)


# TensorFlow


def varint(number: int) -> bytes:
    groups = [number >> shift & 0x7F for shift in range(0, max(number.bit_length(), 1), 7)]
    return bytes([*(group | 0x80 for group in groups[:-1]), groups[-1]])


def block(entries: list[tuple[int, bytes, bytes]]) -> bytes:
    """A block of (characters shared with the name before, rest of the name, value)."""
    data = b"".join(
        varint(shared) + varint(len(rest)) + varint(len(value)) + rest + value
        for shared, rest, value in entries
    )
    data += struct.pack("<II", 0, 1) + b"\0"
    return data + struct.pack("<I", masked(crc32c(data)))


def tensorflow_index(path: Path, entries: list[tuple[int, bytes, bytes]], times: int = 1) -> None:
    """The index of a checkpoint, which lists its block of variables so many times."""
    variables = block(entries)
    place = varint(0) + varint(len(variables) - 5)
    handles = block([(0, b"%08d" % number, place) for number in range(times)])
    footer = varint(0) * 2 + varint(len(variables)) + varint(len(handles) - 5)
    table = variables + handles + footer.ljust(40, b"\0") + struct.pack("<Q", 0xDB4775248B80FB57)
    (path / "model.ckpt.index").write_bytes(table)
    (path / "model.ckpt.data-00000-of-00001").write_bytes(bytes(10**6))


def variable(elements: int) -> bytes:
    shape = b"\x12" + varint(1 + len(varint(elements))) + b"\x08" + varint(elements)
    fields = b"\x08\1\x12" + varint(len(shape)) + shape
    return fields + (b"\x28" + varint(4 * elements) if elements else b"")


HEADER = (0, b"", b"\x08\1")
LONG_NAMES = [
    (0, b"x" * 8000, variable(0)),
    *((7999, b"%d" % number, variable(0)) for number in range(5000)),
]


@measured
@pytest.mark.parametrize(
    ("entries", "times"),
    [
        ([(0, b"model/h%d/ln_1/g" % n, variable(250_000)) for n in range(400)], 1),
        (LONG_NAMES, 1),
        ([(0, b"%d" % n, variable(0)) for n in range(10**5)], 1),
        ([(0, b"%d" % n, variable(0)) for n in range(10**4)], 10**4),
    ],
    ids=["one stretch", "long names", "variables", "one block again and again"],
)  # fmt: skip
def test_tensorflow_index(tmp_path, entries, times):
    tensorflow_index(tmp_path, [HEADER, *entries], times)
    refused(tmp_path)


# JSON, and what it heads


@measured
@pytest.mark.parametrize(
    "content",
    [b"[]," * 10**7, b"{}," * 10**7, b"1000," * 10**7, b'"abc",' * 10**7],
    ids=["lists", "objects", "numbers", "strings"],
)
def test_json(tmp_path, content):
    path = tmp_path / "config.json"
    path.write_bytes(b'{"a": [' + content[:-1] + b"]}")
    found = cost(lambda: GPT2Config.from_pretrained(tmp_path).n_layer)
    assert found.megabytes < 300 + 10 * path.stat().st_size / 1e6
    assert found.seconds < 20


@measured
def test_safetensors_of_empty_tensors(tmp_path):
    entry = '"{}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}'
    header = "{" + ",".join(entry.format(number) for number in range(100_000)) + "}"
    data = struct.pack("<Q", len(header)) + header.encode()
    (tmp_path / "model.safetensors").write_bytes(data)
    refused(tmp_path)


@measured
def test_an_index_of_many_tensors(tmp_path):
    listed = ",".join(f'"{number}":"a"' for number in range(800_000))
    (tmp_path / "model.safetensors.index.json").write_text(f'{{"weight_map":{{{listed}}}}}')
    refused(tmp_path)


@measured
def test_llmc_of_many_blocks(tmp_path):
    layers = 30_000
    header = np.zeros(256, np.int32)
    header[:8] = 20240326, 3, 1, 1, layers, 1, 1, 1
    parameters = 1 + 1 + layers * 25 + 2
    (tmp_path / "model.bin").write_bytes(header.tobytes() + bytes(4 * parameters))
    refused(tmp_path / "model.bin")


@measured
def test_merges_of_a_tokenizer(tmp_path):
    path = tmp_path / "merges.txt"
    path.write_text("#version: 0.2\n" + "a b\n" * 10**6)
    (tmp_path / "vocab.json").write_text("{}")
    found = cost(lambda: GPT2Tokenizer.from_pretrained(tmp_path))
    assert "its merges" in found.said
    assert found.megabytes < 300


@measured
def test_as_many_labels_as_a_config_may_name(tmp_path):
    (tmp_path / "config.json").write_text(f'{{"num_labels": {MAX_LABELS}}}')
    found = cost(lambda: GPT2Config.from_pretrained(tmp_path).to_json_string().count("LABEL_"))
    assert found.said == str(2 * MAX_LABELS)
    assert found.megabytes < 300


def test_a_name_that_no_tensor_has(tmp_path):
    safetensors.numpy.save_file({"x" * 9000: np.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="a name of 9000 characters"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("name", ["9" * 5000, "x" * 300])
def test_names_of_files_too_long_to_be_any(tmp_path, name):
    (tmp_path / "latest_checkpointed_iteration.txt").write_text(name)
    (tmp_path / "checkpoint").write_text(f'model_checkpoint_path: "{name}"')
    with pytest.raises(CheckpointError, match="names no checkpoint"):
        open_checkpoint(tmp_path)
    index = json.dumps({"weight_map": {"a": name}})
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(CheckpointError, match="names the shard"):
        open_checkpoint(tmp_path)


# Orbax


@measured
@pytest.mark.parametrize(
    ("chunk", "message"),
    [(2**28, "bytes of memory"), (10, "not a sound array")],
    ids=["a large chunk", "a chunk that inflates beyond its size"],
)
def test_orbax(tmp_path, chunk, message):
    pytest.importorskip("tensorstore")
    array = tmp_path / "params" / "wte.embedding"
    array.mkdir(parents=True)
    keys = [{"key": "wte", "key_type": 2}, {"key": "embedding", "key_type": 2}]
    metadata = {"tree_metadata": {"wte": {"key_metadata": keys}}}
    (tmp_path / "params" / "_METADATA").write_text(json.dumps(metadata))
    header = {"zarr_format": 2, "shape": [10], "chunks": [chunk], "dtype": "<f4", "order": "C"}
    header |= {"compressor": {"id": "zlib", "level": 1}, "fill_value": None, "filters": None}
    (array / ".zarray").write_text(json.dumps(header))
    (array / "0").write_bytes(zlib.compress(bytes(33 * 10**7), 1))
    refused(tmp_path, message)
