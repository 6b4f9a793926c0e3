"""The formats that gpt2x reads, the file names that announce them, and telling files apart."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gpt2x.backends import require_library
from gpt2x.errors import CheckpointError
from gpt2x.formats.binary import BinaryFile
from gpt2x.formats.keras import archive as keras_archive
from gpt2x.storage.hub import ModelFiles


@dataclass(frozen=True)
class WeightsFile:
    """A file name under which transformers keeps the weights of a model."""

    format: str
    name: str

    def single(self, variant: str | None) -> str:
        """The file's name; a variant such as "fp16" stands before the last dot."""
        return _with_variant(self.name, variant)

    def index(self, variant: str | None) -> str:
        """The name of the index of its shards."""
        return _with_variant(f"{self.name}.index.json", variant)


def _with_variant(name: str, variant: str | None) -> str:
    stem, dot, suffix = name.rpartition(".")
    return f"{stem}.{variant}{dot}{suffix}" if variant else name


SAFETENSORS = WeightsFile("safetensors", "model.safetensors")
PYTORCH = WeightsFile("pytorch", "pytorch_model.bin")
TENSORFLOW = WeightsFile("tf-h5", "tf_model.h5")
FLAX = WeightsFile("flax-msgpack", "flax_model.msgpack")

#: In transformers' order of looking; its own TensorFlow and Flax classes look at theirs first.
WEIGHTS_FILES = (SAFETENSORS, PYTORCH, TENSORFLOW, FLAX)

#: Format -> the module that reads it.
MODULES: Mapping[str, str] = {
    "safetensors": "gpt2x.formats.safetensors",
    "pytorch": "gpt2x.formats.torch.pickle",
    "tf-h5": "gpt2x.formats.tensorflow.h5",
    "flax-msgpack": "gpt2x.formats.flax.msgpack",
    "tf-checkpoint": "gpt2x.formats.tensorflow.checkpoint",
    "nanogpt": "gpt2x.formats.torch.nanogpt",
    "llm.c": "gpt2x.formats.torch.llmc",
    "megatron": "gpt2x.formats.torch.megatron",
    "keras-hub": "gpt2x.formats.keras.hub",
    "keras-tf": "gpt2x.formats.keras.model",
    "orbax": "gpt2x.formats.flax.orbax",
    "gguf": "gpt2x.formats.gguf.reader",
}

#: Formats whose tensors may be spread over shards with transformers' index.
SHARDED = frozenset(file.format for file in WEIGHTS_FILES)

# What other projects call the files they save, in the order of looking.
_FOREIGN = (
    "checkpoint",  # TensorFlow's note of its latest checkpoint
    "*.index",
    "model.weights.json",  # KerasHub's list of shards
    "*.keras",
    "*.weights.h5",
    "*.h5",
    "*.gguf",
    "ckpt.pt",
    "model_optim_rng.pt",
    "model_rng.pt",
    "*.pt",
    "*.pth",
    "*.ckpt",
    "*.bin",
    "*.safetensors",
    "*.msgpack",
)
_SHARD = re.compile(r"-\d{5}-of-\d{5}\.")
# Of no interest among them: a trainer's state.
_TRAINING = ("training_args.bin", "optimizer.*", "scheduler.*", "rng_state*", "scaler.*")


def find_foreign(files: ModelFiles) -> Path | None:
    """The file to open in a folder without any of transformers' names.

    Raises CheckpointError if there are several of a kind to choose from, or shards without index.
    """
    if files.folder is not None:
        from gpt2x.formats.flax import orbax
        from gpt2x.formats.torch import megatron

        for find in (megatron.find_ranks, orbax.find_params):
            if (found := find(files.folder)) is not None:
                return found
    names = [n for n in files.names() if not any(fnmatch.fnmatchcase(n, t) for t in _TRAINING)]
    for pattern in _FOREIGN:
        matches = fnmatch.filter(names, pattern)
        if shards := [name for name in matches if _SHARD.search(name)]:
            raise CheckpointError(
                f"{files.name!r} holds shards ({', '.join(shards)}), but not the index that lists "
                "them, such as model.safetensors.index.json. Download or copy it as well."
            )
        if len(matches) > 1:
            raise CheckpointError(
                f"{files.name!r} holds several checkpoints ({', '.join(matches)}); give the path "
                "of one."
            )
        if matches:
            return files.find(matches[0])
    return None


def sniff(path: Path) -> str:
    """The format of a single file, by its content; raises CheckpointError if it is unknown."""
    from gpt2x.formats.flax import orbax
    from gpt2x.formats.gguf import layout as gguf_format
    from gpt2x.formats.keras import hub as keras_hub
    from gpt2x.formats.torch import llmc

    with BinaryFile(path) as file:
        start = file.read(0, min(file.size, 16))
    if path.name == orbax.METADATA_NAME:
        return "orbax"
    if path.name == "checkpoint" or path.suffix == ".index":
        return "tf-checkpoint"
    if path.name == keras_hub.SHARDS_NAME:
        return "keras-hub"
    if start[:4] == gguf_format.MAGIC:
        return "gguf"
    if llmc.recognises(start):
        return "llm.c"
    if start[8:9] == b"{":
        return "safetensors"
    if start[:2] == b"PK" and keras_archive.is_archive(path):
        return _sniff_keras(path)
    if start[:2] == b"PK" or (start[:1] == b"\x80" and start[1:2] in (b"\x02", b"\x03", b"\x04")):
        return _sniff_pytorch(path)
    if start[:8] == b"\x89HDF\r\n\x1a\n":
        return _sniff_hdf5(path)
    if start[:1] and (start[0] & 0xF0 == 0x80 or start[0] in (0xDE, 0xDF)):
        return "flax-msgpack"
    raise CheckpointError(
        f"{str(path)!r} is of no known format; known are {', '.join(sorted(MODULES))}."
    )


def _sniff_pytorch(path: Path) -> str:
    from gpt2x.formats.torch import megatron, nanogpt
    from gpt2x.formats.torch import pickle as torch_pickle

    with BinaryFile(path) as file:
        saved = torch_pickle.load(file)
    if nanogpt.recognises(saved):
        return "nanogpt"
    return "megatron" if megatron.recognises(saved) else "pytorch"


def _sniff_keras(path: Path) -> str:
    """Whose model a ``.keras`` file is; what is not KerasHub's is left to the reader of ours."""
    archive = keras_archive.open_archive(path)
    archive.weights.close()
    return "keras-hub" if str(archive.saved.get("module")).startswith("keras_hub") else "keras-tf"


def _sniff_hdf5(path: Path) -> str:
    from gpt2x.formats.tensorflow import h5 as tf_h5

    h5py = require_library("h5py", "Reading HDF5 weights")
    try:
        with h5py.File(path, "r") as file:
            if "layer_names" in file.attrs or tf_h5.has_link(file, "model_weights"):
                return "tf-h5"  # Keras 2 lists its layers in an attribute
            # In Keras 3 a functional model, as KerasHub's are, groups its layers.
            functional = any(tf_h5.has_link(file, n) for n in ("layers", "_backbone", "backbone"))
            return "keras-hub" if functional else "keras-tf"
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        raise CheckpointError(f"{str(path)!r} is not a sound HDF5 file: {error}.") from error
