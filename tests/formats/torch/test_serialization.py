"""PyTorch files: what the reader refuses, and the writer's files read back."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest

from gpt2x.checkpoint import open_checkpoint
from gpt2x.errors import CheckpointError, InvalidInputError
from gpt2x.formats.binary import BinaryFile
from gpt2x.formats.torch import serialization
from gpt2x.formats.torch import writer as torch_writer
from gpt2x.formats.torch.pickle_machine import Inert
from gpt2x.weights.lazy import LazyTensor
from support.checkpoint_samples import ARRAYS, SAVED
from support.golden_data import GOLDEN

BIN = GOLDEN / "formats" / "bin" / "pytorch_model.bin"
LEGACY = GOLDEN / "formats" / "bin_legacy" / "pytorch_model.bin"


def load(path: Path):
    file = BinaryFile(path)
    try:
        return serialization.load(file)
    finally:
        file.close()


def repack(path: Path, target: Path, changes: dict[str, bytes | None], **options) -> Path:
    """Copy a zip archive with some entries changed, or dropped where None."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(target, "w", **options) as new:
        folder = old.namelist()[0].partition("/")[0]
        for name in old.namelist():
            contents = changes.get(name.removeprefix(f"{folder}/"), old.read(name))
            if contents is not None:
                new.writestr(name, contents)
    return target


def tensor_pickle(
    offset: int, shape: tuple, stride: tuple, numel: int = 4, key: str = "0"
) -> bytes:
    """The data.pkl of {"wte.weight": one float32 tensor} with this description."""
    writer = torch_writer._Pickler()
    writer._global("torch._utils", "_rebuild_tensor_v2")
    writer.parts.append(pickle.MARK + pickle.MARK)
    writer.save("storage")
    writer._global("torch", "FloatStorage")
    for part in (key, "cpu", numel):
        writer.save(part)
    writer.parts.append(pickle.TUPLE + pickle.BINPERSID)
    for part in (offset, shape, stride, False, {}):
        writer.save(part)
    writer.parts.append(pickle.TUPLE + pickle.REDUCE)
    return b"\x80\x02}X\x0a\x00\x00\x00wte.weight" + b"".join(writer.parts) + b"s."


def one_tensor_file(path: Path, data: bytes, **options) -> Path:
    with zipfile.ZipFile(path, "w", **options) as archive:
        archive.writestr("archive/data.pkl", data)
        archive.writestr("archive/data/0", np.arange(4, dtype="<f4").tobytes())
    return path


@pytest.mark.parametrize(
    ("offset", "shape", "stride", "expected"),
    [
        (0, (2, 2), (2, 1), [[0, 1], [2, 3]]),
        (0, (2, 2), (1, 2), [[0, 2], [1, 3]]),  # a transposed view
        (1, (2,), (2,), [1, 3]),  # every second element
        (3, (1, 1), (9, 9), [[3]]),
        (2, (2, 1), (1, 7), [[2], [3]]),
        (0, (3,), (0,), [0, 0, 0]),  # an expanded one
        (0, (), (), 0),
        (0, (0, 3), (3, 1), np.zeros((0, 3))),
    ],
)
def test_views_of_a_storage(tmp_path, offset, shape, stride, expected):
    path = one_tensor_file(tmp_path / "x.bin", tensor_pickle(offset, shape, stride))
    with open_checkpoint(path) as checkpoint:
        array = checkpoint["wte.weight"].read()
        np.testing.assert_array_equal(array, expected)
        assert array.shape == shape
        assert array.flags.c_contiguous
        blocks = list(checkpoint["wte.weight"].blocks(4)) if shape and shape[0] else [array]
        np.testing.assert_array_equal(np.concatenate(blocks) if shape else blocks[0], expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, (5,), (1,)), "does not fit its storage"),
        ((3, (2,), (1,)), "does not fit its storage"),
        ((0, (2**20, 2**20), (0, 0)), "does not fit its storage"),
        ((-1, (2,), (1,)), "impossible shape"),
        ((0, (2,), (-1,)), "impossible shape"),
        ((0, (2,), (1, 1)), "strides do not match"),
        ((0, (2,), (1,), 2**60), "impossible shape|should have"),
        ((0, (2,), (1,), 8), "should have 32 bytes and has 16"),
        ((0, (2,), (1,), 4, "1"), "lacks the storage '1'"),
    ],
)
def test_a_tensor_that_cannot_be_is_refused(tmp_path, arguments, message):
    path = one_tensor_file(tmp_path / "x.bin", tensor_pickle(*arguments))
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(path)


def test_big_endian_files(tmp_path):
    path = tmp_path / "x.bin"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", tensor_pickle(0, (4,), (1,)))
        archive.writestr("x/byteorder", "big")
        archive.writestr("x/data/0", np.arange(4, dtype=">f4").tobytes())
    with open_checkpoint(path) as checkpoint:
        np.testing.assert_array_equal(checkpoint["wte.weight"].read(), [0, 1, 2, 3])


def test_a_compressed_archive_is_read(tmp_path):
    path = repack(BIN, tmp_path / "x.bin", {}, compression=zipfile.ZIP_DEFLATED)
    with open_checkpoint(path) as packed, open_checkpoint(BIN) as plain:
        for name in plain:
            np.testing.assert_array_equal(packed[name].read(), plain[name].read())


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path):
    path = tmp_path / "bomb.bin"
    repack(BIN, path, {"data.pkl": bytes(26 * 10**7)}, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(CheckpointError, match="unpacked bytes"):
        open_checkpoint(path)


def test_other_compressions_are_refused(tmp_path):
    path = repack(BIN, tmp_path / "x.bin", {}, compression=zipfile.ZIP_BZIP2)
    with pytest.raises(CheckpointError, match="by the method 12; only 0 and 8"):
        open_checkpoint(path)


@pytest.mark.parametrize("source", [BIN, LEGACY], ids=["zip", "legacy"])
def test_every_truncation_is_an_error(tmp_path, source):
    data = source.read_bytes()
    path = tmp_path / "pytorch_model.bin"
    for length in [0, 1, 2, 3, 50, 1000, *range(5000, len(data), 9973), len(data) - 1]:
        path.write_bytes(data[:length])
        with pytest.raises(CheckpointError, match=str(path)):
            open_checkpoint(tmp_path)


def test_a_missing_storage(tmp_path):
    path = repack(BIN, tmp_path / "x.bin", {"data/3": None})
    with pytest.raises(CheckpointError, match="lacks the storage '3'"):
        open_checkpoint(path)
    path = repack(BIN, tmp_path / "y.bin", {"data.pkl": None})
    with pytest.raises(CheckpointError, match=r"no data\.pkl"):
        open_checkpoint(path)


class Trap:
    def __reduce__(self):
        return print, ("run",)


def test_an_object_where_a_tensor_is_needed(tmp_path, capsys):
    data = pickle.dumps({"wte.weight": Trap(), "epoch": 3}, 2)
    one_tensor_file(tmp_path / "x.bin", data)
    with pytest.raises(CheckpointError, match="no state dict"):
        open_checkpoint(tmp_path / "x.bin")
    # Beside a tensor, so that it is a state dict but for the trap.
    data = tensor_pickle(0, (4,), (1,)).removesuffix(b"s.") + b"s"
    trap = pickle.dumps(Trap(), 2).removeprefix(b"\x80\x02").removesuffix(b".")
    one_tensor_file(tmp_path / "y.bin", data + b"X\x0a\x00\x00\x00wpe.weight" + trap + b"s.")
    with pytest.raises(CheckpointError, match=r"print.*as 'wpe.weight', where a tensor is needed"):
        open_checkpoint(tmp_path / "y.bin")
    assert capsys.readouterr().out == ""


def test_what_is_no_file_of_torch(tmp_path):
    path = tmp_path / "pytorch_model.bin"
    for contents, message in [
        (b"hello", "neither a zip archive nor a pickle"),
        (pickle.dumps([1, 2], 2), "none that torch.save writes"),
        (b"PK\x03\x04" + bytes(100), "damaged or truncated"),
    ]:
        path.write_bytes(contents)
        with pytest.raises(CheckpointError, match=message):
            open_checkpoint(tmp_path)


def test_the_reader_reads_what_the_writer_writes(tmp_path):
    torch_writer.write_object(tmp_path / "x.pt", SAVED)
    file = BinaryFile(tmp_path / "x.pt")
    loaded = serialization.load(file)
    for name, array in ARRAYS.items():
        got = loaded["model"][name].read()
        assert got.dtype == array.dtype
        np.testing.assert_array_equal(got, array)
    file.close()
    assert {k: v for k, v in loaded.items() if k != "model"} == {
        k: v for k, v in SAVED.items() if k != "model"
    }


def test_the_writer_refuses_what_it_cannot_write(tmp_path):
    with pytest.raises(InvalidInputError, match="cannot hold Inert"):
        torch_writer.write_object(tmp_path / "x.pt", {"a": Inert("x")})
    with pytest.raises(InvalidInputError, match="dtype uint16"):
        torch_writer.write(tmp_path / "x.pt", {"a": LazyTensor.of(np.zeros(1, np.uint16))})


def test_storages_are_aligned(tmp_path):
    torch_writer.write_object(tmp_path / "x.pt", SAVED)
    with zipfile.ZipFile(tmp_path / "x.pt") as archive, open(tmp_path / "x.pt", "rb") as stream:
        for info in archive.infolist():
            stream.seek(info.header_offset + 26)
            header = stream.read(4)
            sizes = int.from_bytes(header[:2], "little") + int.from_bytes(header[2:], "little")
            assert (info.header_offset + 30 + sizes) % 64 == 0
