"""Formats are found, each once, and look at folders and files in one order."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import safetensors.numpy

from gpt2x.checkpoint import FORMATS, open_checkpoint
from gpt2x.checkpoint.conversion import TARGETS
from gpt2x.errors import CheckpointError
from gpt2x.formats.base import UnknownFile, reading
from gpt2x.formats.registry import all_formats, find_announced, recognise, weights_formats
from gpt2x.storage.hub import ModelFiles


def test_every_format_is_found():
    assert FORMATS == (
        "safetensors", "pytorch", "tf-h5", "flax-msgpack",
        "tf-checkpoint", "keras-hub", "keras-tf", "gguf", "llm.c", "nanogpt", "megatron", "orbax",
    )  # fmt: skip
    assert TARGETS == (
        "safetensors", "pytorch", "flax-msgpack", "flax-safetensors",
        "keras-tf", "gguf", "nanogpt", "orbax",
    )  # fmt: skip
    formats = all_formats().values()
    assert len({format.rank for format in formats}) == len(formats)
    assert all(format.is_read or format.is_written for format in formats)


def test_a_new_format_is_one_file(tmp_path, monkeypatch):
    module = tmp_path / "shouting.py"
    module.write_text("""
from gpt2x.formats.base import Format
from gpt2x.weights.lazy import LazyTensor
import numpy as np

def read(checkpoint, files):
    checkpoint.add("WTE", "wte", LazyTensor.of(np.ones(3)))

FORMAT = Format(
    name="shouting",
    rank=1,
    patterns=("*.shout",),
    recognises=lambda file: file.start == b"HELLO",
    read=read,
)
""")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "x.shout").write_text("HELLO")
    monkeypatch.setattr(
        "gpt2x.formats.__path__", [*sys.modules["gpt2x.formats"].__path__, str(tmp_path)]
    )
    all_formats.cache_clear()
    try:
        with open_checkpoint(tmp_path / "model") as checkpoint:
            assert checkpoint.format == "shouting"
            assert checkpoint.files == (tmp_path / "model" / "x.shout",)
            assert list(checkpoint) == ["WTE"]
    finally:
        all_formats.cache_clear()
        sys.modules.pop("gpt2x.formats.shouting", None)


# In the order of looking: each name is found before those behind it.
ANNOUNCED = [
    "mp_rank_00/model_optim_rng.pt", "model_rng.pt", "params/_METADATA",
    "checkpoint", "model.index", "model.weights.json", "a.keras", "a.weights.h5", "a.h5", "a.gguf",
    "ckpt.pt", "a.pth", "a.ckpt", "a.bin", "a.safetensors", "a.msgpack",
]  # fmt: skip


def test_the_order_of_looking_in_a_folder(tmp_path):
    for name in ANNOUNCED:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    for name in ANNOUNCED:
        assert find_announced(ModelFiles(tmp_path)) == tmp_path / name
        (tmp_path / name).unlink()
    assert find_announced(ModelFiles(tmp_path)) is None


def test_the_order_of_looking_for_transformers_files():
    assert [format.weights for format in weights_formats()] == [
        "model.safetensors", "pytorch_model.bin", "tf_model.h5", "flax_model.msgpack"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "start", "format"),
    [
        ("_METADATA", b"12345678{", "orbax"),  # named so, and in the middle like safetensors
        ("model.weights.json", b'{"meta":{', "keras-hub"),
        ("x.index", b"12345678{", "tf-checkpoint"),
        ("x", b"GGUF\3\0\0\0{", "gguf"),  # of 123 tensors
        ("x", (20240326).to_bytes(4, "little") + b"\3\0\0\0{", "llm.c"),  # of so many positions
        ("x", b"\x80\x02\0\0\0\0\0\0{", "safetensors"),  # a size that begins like a pickle
        ("x", b"\x89\0\0\0\0\0\0\0{", "safetensors"),  # or like a map
        ("x", b"\x89aaaaaaaaaaaa", "flax-msgpack"),
    ],
)
def test_the_order_of_asking_of_a_file(tmp_path, name, start, format):
    (tmp_path / name).write_bytes(start)
    assert recognise(tmp_path / name).name == format


def test_zip_archives_are_told_apart(tmp_path):
    def saved(name: str, entries: dict[str, str]) -> str:
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            for entry, content in entries.items():
                archive.writestr(entry, content)
        return recognise(tmp_path / name).name

    for module, format in (("keras_hub.src.models", "keras-hub"), ("gpt2x.tf.heads", "keras-tf")):
        config = json.dumps({"module": module, "config": {}})
        entries = {"config.json": config, "model.weights.h5": ""}
        assert saved(format, entries) == format
    assert saved("torch", {"archive/data.pkl": "N."}) == "pytorch"


def test_a_file_is_read_once_however_many_formats_ask(tmp_path):
    asked = []
    file = UnknownFile(tmp_path, b"")

    def question(path):
        asked.append(path)

    assert file.ask(question) is file.ask(question) is None
    assert asked == [tmp_path]


def test_damage_names_the_file_and_other_errors_pass():
    with (
        pytest.raises(
            CheckpointError, match=r"^'x.bin' is not a sound GGUF file: it ends early\.$"
        ),
        reading("x.bin", "GGUF file"),
    ):
        raise CheckpointError("it ends early")
    with (
        pytest.raises(CheckpointError, match=r"not a sound GGUF file: 3"),
        reading("x.bin", "GGUF file", (OSError,)),
    ):
        raise OSError(3)
    with (
        pytest.raises(CheckpointError, match=r"^'x.bin' is closed$"),
        reading("x.bin", "GGUF file"),
    ):
        raise CheckpointError("'x.bin' is closed")
    with pytest.raises(ValueError, match="mine"), reading("x.bin", "GGUF file", (OSError,)):
        raise ValueError("mine")


def test_opening_safetensors_loads_no_library_of_another_format(tmp_path):
    safetensors.numpy.save_file({"wte.weight": np.ones((2, 2))}, tmp_path / "model.safetensors")
    code = """
import sys
from gpt2x.checkpoint import open_checkpoint
with open_checkpoint(sys.argv[1]) as checkpoint:
    checkpoint["wte.weight"].read()
print(*sys.modules)
"""
    command = [sys.executable, "-c", code, str(tmp_path)]
    loaded = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    others = {"h5py", "tensorstore", "gguf", "msgpack", "torch", "tensorflow", "keras", "jax"}
    assert others.isdisjoint(name.partition(".")[0] for name in loaded)
