"""TensorFlow's checkpoints: OpenAI's original GPT-2, Keras 2's `save_weights`, and those of
`tf.train.Checkpoint` for a model of transformers or of `gpt2x.tf`.

A checkpoint of TensorFlow's second format is ``PREFIX.index``, a sorted table in LevelDB's format
that maps each variable's name to a protocol-buffer entry (dtype, shape, shard, offset, size,
checksum), and ``PREFIX.data-00000-of-0000N``, the bytes. PREFIX is ``model.ckpt``, or named in a
file ``checkpoint`` (``model-1000``, from gpt-2-simple).

OpenAI's variables are called ``model/h0/attn/c_attn/w``, beside hparams.json, encoder.json and
vocab.bpe; projections are [1, in, out]. Variables of a Keras model are named for their path of
attributes, ``transformer/h/0/attn/c_attn/weight/.ATTRIBUTES/VARIABLE_VALUE``.

Sources: ``tensorflow/core/util/tensor_bundle`` and ``tensorflow/core/lib/io/format.cc``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gpt2x.errors import CheckpointError, listed
from gpt2x.formats.base import Checkpoint, Format, UnknownFile, reading
from gpt2x.formats.binary import BinaryFile, check_shape
from gpt2x.formats.tensorflow.crc32c import crc32c, masked
from gpt2x.storage.budget import TENSOR, Budget
from gpt2x.storage.hub import ModelFiles
from gpt2x.storage.json_files import read_object
from gpt2x.weights.infer import end_of_text_ids
from gpt2x.weights.lazy import BFLOAT16, LazyTensor, check_name
from gpt2x.weights.names import Place, tensorflow_name, to_canonical
from gpt2x.weights.table import Layout, Shape

HPARAMS_NAME = "hparams.json"

_INDEX = "index of a TensorFlow checkpoint"
_FOOTER_BYTES = 48
_TABLE_MAGIC = 0xDB4775248B80FB57
_MAX_BLOCK = 2**26
_BLOCK_PASSES = 8  # charge for each byte of a block that is read, including its checksum
_DTYPES: dict[int, np.dtype[Any]] = {
    1: np.dtype("<f4"),
    2: np.dtype("<f8"),
    3: np.dtype("<i4"),
    9: np.dtype("<i8"),
    14: BFLOAT16,
    19: np.dtype("<f2"),
}
# Keras: the path of attributes of a variable; optimizer slots come after the path of the weight.
_ATTRIBUTE = re.compile(r"(.+)/\.ATTRIBUTES/VARIABLE_VALUE")
_SLOT = "/.OPTIMIZER_SLOT/"

# Of OpenAI.
_LEAVES = {"g": "weight", "b": "bias", "w": "weight"}
_VARIABLE = re.compile(
    r"(?:.*/)?model/(?:(wte|wpe)|(?:h(\d{1,9})/)?(ln_1|ln_2|ln_f|attn/c_attn|attn/c_proj|mlp/c_fc|mlp/c_proj)/([gbw]))"
)


def _read(checkpoint: Checkpoint, files: ModelFiles) -> None:
    """Read a checkpoint by its ``.index`` file or by the ``checkpoint`` file that names it."""
    path = checkpoint.path
    prefix = _latest(path) if path.name == "checkpoint" else path.name.removesuffix(".index")
    index = files.find(f"{prefix}.index")
    if index is None:
        raise CheckpointError(f"{files.name!r} names the checkpoint {prefix!r} but has no index.")
    checkpoint.path = index
    budget = Budget(str(index))
    entries, shard_count = _read_index(index, budget)
    paths = _find_data(files, prefix, shard_count)
    data = [checkpoint.hold(BinaryFile(path, budget)) for path in paths]
    checkpoint.files = (index, *paths)
    for variable, entry in entries.items():
        place = _place(check_name(index, variable))
        if place is None:
            checkpoint.ignored[variable] = "no weight of the model (optimizer slot or counter)"
            continue
        tensor = entry.tensor(data, variable)
        if place.name.endswith(".weight") and len(tensor.shape) == 3 and tensor.shape[0] == 1:
            tensor = tensor.reshaped(*tensor.shape[1:])
        checkpoint.add(place.name, variable, to_canonical(tensor, place.layout))
    hparams = files.find(HPARAMS_NAME)
    if hparams is None:
        checkpoint.metadata["format"] = "tf"
    else:
        checkpoint.config = _config(hparams)


def _recognises(file: UnknownFile) -> bool:
    return file.path.name == "checkpoint" or file.path.suffix == ".index"


def _latest(path: Path) -> str:
    """Return the checkpoint that TensorFlow's ``checkpoint`` file names, without its folder."""
    with path.open(encoding="utf-8", errors="replace") as stream:
        text = stream.read(2**16)
    match = re.search(r'^model_checkpoint_path:\s*"([^"\n]+)"', text, re.MULTILINE)
    name = re.split(r"[/\\]", match[1])[-1] if match else ""
    if name in ("", ".", "..") or len(name) > 200:  # no file is called so
        raise CheckpointError(f"{str(path)!r} names no checkpoint (model_checkpoint_path).")
    return name


def _place(variable: str) -> Place | None:
    """Return the place of a variable; None if it is not a weight of a GPT-2."""
    if match := _VARIABLE.fullmatch(variable):
        embedding, layer, module, leaf = match.groups()
        if embedding:
            return Place(f"{embedding}.weight", Layout.SAME)
        if (layer is None) != (module == "ln_f"):
            return None
        prefix = "" if layer is None else f"h.{int(layer)}."
        return Place(f"{prefix}{module.replace('/', '.')}.{_LEAVES[leaf]}", Layout.SAME)
    match = _ATTRIBUTE.fullmatch(variable)
    if match is None or match[1].startswith("optimizer/") or _SLOT in variable:
        return None
    path = re.sub(r"(^|/)h/(\d{1,9})/", r"\1h_._\2/", match[1])
    path = re.sub(r"/_(embeddings|kernel)$", r"/\1", path.replace("..", "."))  # Keras 3; escaped
    place = tensorflow_name(path)
    return None if place is None or place.name == path else place


def _config(path: Path) -> dict[str, Any]:
    hparams = read_object(path)
    fields = {"n_vocab": "vocab_size", "n_ctx": "n_positions"}
    config = {fields.get(name, name): value for name, value in hparams.items()}
    known = ("vocab_size", "n_positions", "n_embd", "n_head", "n_layer")
    if missing := [name for name in known if not isinstance(config.get(name), int)]:
        raise CheckpointError(f"{str(path)!r} lacks {', '.join(missing)}.")
    return {name: config[name] for name in known} | end_of_text_ids(config["vocab_size"])


def _find_data(files: ModelFiles, prefix: str, count: int) -> list[Path]:
    names = [f"{prefix}.data-{number:05d}-of-{count:05d}" for number in range(count)]
    paths = {name: files.find(name) for name in names}
    if missing := [name for name, path in paths.items() if path is None]:
        raise CheckpointError(f"{files.name!r} lacks {listed(missing)}.")
    return [path for path in paths.values() if path is not None]


@dataclass(frozen=True)
class _Entry:
    """The entry of a variable in the index."""

    dtype: int
    shape: Shape
    shard: int
    offset: int
    size: int
    checksum: int | None

    def tensor(self, data: list[BinaryFile], variable: str) -> LazyTensor:
        """Return the variable; reading verifies its checksum."""
        if self.dtype not in _DTYPES or not 0 <= self.shard < len(data):
            raise CheckpointError(f"The variable {variable!r} is of an unknown dtype or shard.")
        file, dtype = data[self.shard], _DTYPES[self.dtype]
        tensor = file.tensor(self.offset, self.shape, dtype, variable)
        if tensor.nbytes != self.size:
            raise CheckpointError(
                f"{str(file.path)!r}: {variable!r} of shape {list(self.shape)} should take "
                f"{tensor.nbytes} bytes; the index says {self.size}."
            )

        def read() -> np.ndarray:
            array = tensor.read()
            little = array.astype(dtype, copy=False)
            if self.checksum not in (None, masked(crc32c(little.reshape(-1)))):
                raise CheckpointError(
                    f"{str(file.path)!r}: the checksum of {variable!r} is wrong; the file is "
                    "damaged. Download or copy it again."
                )
            return array

        return LazyTensor(self.shape, tensor.dtype, read)


# The index: a table of LevelDB's format


def _read_index(path: Path, budget: Budget) -> tuple[dict[str, _Entry], int]:
    """Return the entries by name and the number of data files."""
    damage = (ValueError, IndexError, TypeError)
    with BinaryFile(path, budget) as file, reading(path, _INDEX, damage):
        pairs = dict(_read_table(file))
        header = dict(_fields(pairs.pop(b"", b"")))
        count = header.get(1, 1)
        if header.get(2, 0) != 0:
            raise CheckpointError("it was written on a big-endian machine")
        if not isinstance(count, int) or not 0 < count <= 10_000:
            raise CheckpointError("its number of data files is impossible")
        return {name.decode("utf-8"): _entry(value) for name, value in pairs.items()}, count


def _read_table(file: BinaryFile) -> Iterator[tuple[bytes, bytes]]:
    footer = file.read(max(file.size - _FOOTER_BYTES, 0), min(_FOOTER_BYTES, file.size))
    if int.from_bytes(footer[-8:], "little") != _TABLE_MAGIC:
        raise CheckpointError("it does not end with the magic number of such a table")
    _, at = _handle(footer, 0)
    index, _ = _handle(footer, at)
    for _, value in _block(file, *index):
        handle, _ = _handle(value, 0)
        yield from _block(file, *handle)


def _handle(data: bytes, at: int) -> tuple[tuple[int, int], int]:
    """An offset and a size."""
    offset, at = _varint(data, at)
    size, at = _varint(data, at)
    return (offset, size), at


def _block(file: BinaryFile, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """Return the pairs of a block; each key omits the part that it shares with the one before."""
    if size > _MAX_BLOCK:
        raise CheckpointError("a block is larger than any that TensorFlow writes")
    file.budget.charge(_BLOCK_PASSES * size, "blocks")
    data, trailer = file.read(offset, size), file.read(offset + size, 5)
    if trailer[0] != 0:
        raise CheckpointError("it is compressed, and checkpoints never are")
    if int.from_bytes(trailer[1:], "little") != masked(crc32c(data + trailer[:1])):
        raise CheckpointError("the checksum of a block is wrong")
    restarts = int.from_bytes(data[-4:], "little")
    end, at, key = len(data) - 4 * (restarts + 1), 0, b""
    if end < 0:
        raise CheckpointError("a block is damaged")
    while at < end:
        shared, at = _varint(data, at)
        unshared, at = _varint(data, at)
        length, at = _varint(data, at)
        if shared > len(key) or at + unshared + length > end:
            raise CheckpointError("a block is damaged")
        # Fields of an entry take up to forty times their bytes; its name is expanded and parsed.
        file.budget.charge(TENSOR + 40 * length + 16 * (shared + unshared), "variables")
        key = key[:shared] + data[at : at + unshared]
        at += unshared
        yield key, data[at : at + length]
        at += length


# Protocol buffers


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise CheckpointError("a number is too long")


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """Return the fields of a message: number -> integer, or bytes for fields with a length."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        kind = tag & 7
        if kind == 0:
            value, at = _varint(data, at)
            yield tag >> 3, value
            continue
        length = {1: 8, 5: 4}.get(kind)
        if kind == 2:
            length, at = _varint(data, at)
        if length is None or at + length > len(data):
            raise CheckpointError("an entry is damaged")
        raw = data[at : at + length]
        yield tag >> 3, raw if kind == 2 else int.from_bytes(raw, "little")
        at += length


def _entry(data: bytes) -> _Entry:
    fields = dict(_fields(data))
    if 7 in fields:
        raise CheckpointError("it holds partitioned variables, and GPT-2 has none")
    sizes = [
        dict(_fields(dimension)).get(1, 0)
        for number, dimension in _fields(fields.get(2, b""))
        if number == 2
    ]
    return _Entry(
        fields.get(1, 0),
        check_shape(sizes, "a variable"),
        fields.get(3, 0),
        fields.get(4, 0),
        fields.get(5, 0),
        fields.get(6),
    )


FORMAT = Format(
    name="tf-checkpoint",
    rank=10,
    patterns=("checkpoint", "*.index"),
    recognises=_recognises,
    read=_read,
)
