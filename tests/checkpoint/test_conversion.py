"""Every source into every target, and what the formats' own libraries read of it."""

from __future__ import annotations

import importlib.util
import json
import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from gpt2x.checkpoint import convert, open_checkpoint, open_source
from gpt2x.checkpoint.verify import largest_difference
from gpt2x.config import GPT2Config
from gpt2x.errors import CheckpointError, InvalidInputError, WeightsError
from gpt2x.formats import safetensors as safetensors_format
from gpt2x.formats.gguf import writer as gguf_writer
from gpt2x.formats.registry import weights_formats
from gpt2x.tokenization import GPT2TokenizerFast
from gpt2x.weights.lazy import LazyTensor
from gpt2x.weights.table import FLAX, Head
from support.golden_data import FILES, GOLDEN, SOURCE
from support.hub_server import files_of, serve_hub

TRANSFORMERS = [format.name for format in weights_formats(read=False)]
SHARDED = [format.name for format in weights_formats(read=False) if format.in_shards]


def tensors_of(path: Path) -> dict[str, np.ndarray]:
    with open_checkpoint(path) as checkpoint:
        return {name: tensor.read() for name, tensor in checkpoint.items()}


@pytest.mark.parametrize(
    ("to", "shards"), [*((to, "5GB") for to in TRANSFORMERS), *((to, "20KB") for to in SHARDED)]
)
def test_written_tensors_equal_the_source(tmp_path, to, shards):
    options = {"to": to, "max_shard_size": shards}
    made = convert(FILES / "gpt_2_simple", tmp_path / "new", verify=True, **options)
    assert made.difference == (0.0, "")
    assert {path.name for path in (tmp_path / "new").iterdir()} == {
        "config.json", "vocab.json", "merges.txt", *made.files
    }  # fmt: skip
    source = tensors_of(SOURCE)
    written = tensors_of(tmp_path / "new")
    assert {name: written[name].tobytes() for name in source} == {
        name: array.tobytes() for name, array in source.items()
    }
    assert bool(list((tmp_path / "new").glob("*.index.json"))) == (shards == "20KB")
    config = GPT2Config.from_pretrained(tmp_path / "new")
    assert (config.architectures, config.dtype) == (["GPT2LMHeadModel"], "float32")
    assert (tmp_path / "new" / "merges.txt").read_bytes() == (SOURCE / "merges.txt").read_bytes()


@pytest.mark.parametrize("to", TRANSFORMERS)
@pytest.mark.parametrize("model", ["small", "sequence_classification", "double_heads"])
def test_other_heads_survive(tmp_path, to, model):
    source = tensors_of(GOLDEN / model)
    made = convert(GOLDEN / model, tmp_path / "new", to=to)
    assert (
        made.head.architecture
        == json.loads((GOLDEN / model / "config.json").read_text())["architectures"][0]
    )
    written = tensors_of(tmp_path / "new")
    for name, array in source.items():
        np.testing.assert_array_equal(written[name], array, err_msg=name)


def test_a_body_alone_keeps_no_prefix(tmp_path):
    config = json.loads((SOURCE / "config.json").read_text())
    folder = shutil.copytree(SOURCE, tmp_path / "body")
    (folder / "config.json").write_text(json.dumps({**config, "architectures": ["GPT2Model"]}))
    made = convert(folder, tmp_path / "new")
    assert made.head is Head.NONE
    names = safetensors.numpy.load_file(tmp_path / "new" / "model.safetensors")
    assert "wte.weight" in names


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_dtype(tmp_path, dtype):
    convert(SOURCE, tmp_path / "new", dtype=dtype)
    source, written = tensors_of(SOURCE), tensors_of(tmp_path / "new")
    for name, array in source.items():
        assert written[name].dtype.name == dtype
        np.testing.assert_array_equal(written[name], array.astype(written[name].dtype))
    assert GPT2Config.from_pretrained(tmp_path / "new").dtype == dtype


# Each target, as its owner's code reads it


@pytest.mark.parametrize("shards", ["5GB", "20KB"])
def test_msgpack_as_the_msgpack_package_reads_it(tmp_path, shards):
    msgpack = pytest.importorskip("msgpack")
    convert(SOURCE, tmp_path, to="flax-msgpack", max_shard_size=shards)

    def array(code, data):
        shape, dtype, raw = msgpack.unpackb(data)
        assert code == 1
        return np.frombuffer(raw, dtype).reshape(shape)

    def flat(tree, path=()):
        for name, branch in tree.items():
            if isinstance(branch, dict):
                yield from flat(branch, (*path, name))
            else:
                yield "/".join((*path, name)), branch

    found = {}
    for file in tmp_path.glob("*.msgpack"):
        found |= dict(flat(msgpack.unpackb(file.read_bytes(), ext_hook=array)))
    for name, expected in tensors_of(SOURCE).items():
        layout = FLAX.layout(name)
        np.testing.assert_array_equal(found[FLAX.spell(name)], layout.from_canonical(expected))


def test_msgpack_as_flax_reads_it(tmp_path):
    serialization = pytest.importorskip("flax.serialization")
    convert(SOURCE, tmp_path, to="flax-msgpack")
    tree = serialization.msgpack_restore((tmp_path / "flax_model.msgpack").read_bytes())
    expected = tensors_of(SOURCE)
    np.testing.assert_array_equal(tree["transformer"]["wte"]["embedding"], expected["wte.weight"])
    kernel = tree["transformer"]["h"]["1"]["mlp"]["c_fc"]["kernel"]
    np.testing.assert_array_equal(kernel, expected["h.1.mlp.c_fc.weight"].T)


def test_arrays_beyond_a_gigabyte_are_chunked(tmp_path, monkeypatch):
    monkeypatch.setattr("gpt2x.formats.flax.msgpack._CHUNK_BYTES", 1000)
    made = convert(SOURCE, tmp_path, to="flax-msgpack", verify=True)
    assert b"__msgpack_chunked_array__" in (tmp_path / "flax_model.msgpack").read_bytes()
    assert made.difference == (0.0, "")


def test_chunked_arrays_as_flax_reads_and_writes_them(tmp_path, monkeypatch):
    serialization = pytest.importorskip("flax.serialization")
    monkeypatch.setattr("gpt2x.formats.flax.msgpack._CHUNK_BYTES", 1000)
    monkeypatch.setattr(serialization, "MAX_CHUNK_SIZE", 1000)
    convert(SOURCE, tmp_path, to="flax-msgpack")
    path = tmp_path / "flax_model.msgpack"
    tree = serialization.msgpack_restore(path.read_bytes())
    expected = tensors_of(SOURCE)
    np.testing.assert_array_equal(tree["transformer"]["wte"]["embedding"], expected["wte.weight"])
    path.write_bytes(serialization.msgpack_serialize(tree))
    for name, array in tensors_of(tmp_path).items():
        np.testing.assert_array_equal(array, expected[name], err_msg=name)


def test_flax_safetensors_says_so(tmp_path):
    convert(SOURCE, tmp_path, to="flax-safetensors")
    with safetensors.safe_open(tmp_path / "model.safetensors", "np") as file:
        assert file.metadata() == {"format": "flax"}
        assert "transformer.h.0.ln_1.scale" in file.keys()  # noqa: SIM118


@pytest.mark.parametrize("name", ["out.pt", "folder"])
def test_nanogpt(tmp_path, name):
    with pytest.warns(UserWarning, match="exact GELU"):
        made = convert(SOURCE, tmp_path / name, to="nanogpt", verify=True)
    assert made.difference == (0.0, "")
    path = tmp_path / name / "ckpt.pt" if name == "folder" else tmp_path / name
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.format == "nanogpt"
        assert checkpoint.config["n_positions"] == 16


def test_nanogpt_as_torch_reads_it(tmp_path):
    torch = pytest.importorskip("torch")
    with pytest.warns(UserWarning, match="exact GELU"):
        convert(SOURCE, tmp_path / "ckpt.pt", to="nanogpt")
    saved = torch.load(tmp_path / "ckpt.pt", weights_only=True)
    ours = torch.load(FILES / "nanogpt" / "ckpt.pt", weights_only=True)
    theirs = {k.removeprefix("_orig_mod."): v for k, v in ours["model"].items()}
    assert saved["model"].keys() == theirs.keys()
    assert all(torch.equal(saved["model"][name], theirs[name]) for name in theirs)
    assert saved["model_args"].keys() == ours["model_args"].keys()


def test_what_nanogpt_and_llama_cpp_cannot_hold(tmp_path):
    with pytest.raises(WeightsError, match="nanoGPT has no model with n_inner"):
        convert(GOLDEN / "plain", tmp_path / "x", to="nanogpt")
    with pytest.raises(WeightsError, match=r"llama\.cpp has no GPT-2 with activation"):
        convert(FILES / "nanogpt" / "ckpt.pt", tmp_path / "x", to="gguf")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "q8_0"])
def test_gguf_as_the_gguf_package_writes_it(tmp_path, dtype):
    package = pytest.importorskip("gguf")
    made = convert(SOURCE, tmp_path / "new.gguf", to="gguf", dtype=dtype, verify=True)
    assert (
        made.difference.largest
        <= {"float32": 0, "float16": 1e-3, "bfloat16": 8e-3, "q8_0": 0.02}[dtype]
    )
    name = {"float32": "f32", "float16": "f16", "bfloat16": "bf16", "q8_0": "q8_0"}[dtype]
    ours = package.GGUFReader(tmp_path / "new.gguf")
    theirs = package.GGUFReader(FILES / "gguf" / f"gpt2-{name}.gguf")
    expected = {tensor.name: tensor for tensor in theirs.tensors}
    assert {tensor.name for tensor in ours.tensors} == set(expected)
    for tensor in ours.tensors:
        assert tensor.tensor_type == expected[tensor.name].tensor_type
        assert tensor.shape.tolist() == expected[tensor.name].shape.tolist()
        np.testing.assert_array_equal(tensor.data, expected[tensor.name].data)
    for key, field in theirs.fields.items():
        if key.startswith(("gpt2.", "tokenizer.")):
            assert ours.fields[key].contents() == field.contents(), key


def test_gguf_is_quantised_by_pieces(tmp_path):
    """A source that gives no rows, as a checksum's, must not cost several copies of a tensor."""
    values = np.random.default_rng(0).normal(size=(2**14, 256)).astype(np.float32)
    tensor = LazyTensor(values.shape, values.dtype, values.copy)
    config = GPT2Config(vocab_size=2**14, n_embd=256, n_head=4)
    tracemalloc.start()
    try:
        gguf_writer.write(tmp_path / "x.gguf", config, {"wte.weight": tensor}, type="q8_0")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2 * values.nbytes
    with open_checkpoint(tmp_path / "x.gguf") as checkpoint:
        np.testing.assert_allclose(checkpoint["wte.weight"].read(), values, rtol=0, atol=0.03)


def test_gguf_in_a_folder_and_back(tmp_path):
    convert(SOURCE, tmp_path / "a", to="gguf", dtype="float32")
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == [
        "merges.txt",
        "model.gguf",
        "vocab.json",
    ]
    convert(tmp_path / "a" / "model.gguf", tmp_path / "b")
    source, written = tensors_of(SOURCE), tensors_of(tmp_path / "b")
    assert all(np.array_equal(written[name], source[name]) for name in source)
    vocabulary = json.loads((tmp_path / "b" / "vocab.json").read_text())
    assert vocabulary == json.loads((SOURCE / "vocab.json").read_text())


def test_a_model_of_the_hub(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    with serve_hub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        for name in ("openai", "keras_hub"):
            if name == "keras_hub" and importlib.util.find_spec("h5py") is None:
                continue
            hub.add(f"someone/{name}", files_of(FILES / name))
            convert(f"someone/{name}", tmp_path / name)
            written, source = tensors_of(tmp_path / name), tensors_of(SOURCE)
            assert all(np.array_equal(written[key], source[key]) for key in source)
            assert (tmp_path / name / "merges.txt").is_file()


# Safety


def test_a_dry_run_writes_nothing(tmp_path):
    made = convert(SOURCE, tmp_path / "new", dry_run=True)
    assert len(made.tensors) == 28
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_tells_what_gguf_will_hold(tmp_path):
    options = {"to": "gguf", "dry_run": True}
    made = convert(SOURCE, tmp_path / "x.gguf", **options)
    assert made.stored["wte.weight"] == "float16"
    assert made.stored["wpe.weight"] == made.stored["h.0.ln_1.bias"] == "float32"
    made = convert(SOURCE, tmp_path / "x.gguf", dtype="q8_0", **options)
    assert made.stored["h.0.mlp.c_fc.weight"] == "q8_0"
    with pytest.raises(WeightsError, match="nanoGPT has no model with n_inner"):
        convert(GOLDEN / "plain", tmp_path / "x", to="nanogpt", dry_run=True)
    with pytest.raises(InvalidInputError, match="max_shard_size is 'much'"):
        convert(SOURCE, tmp_path / "x", max_shard_size="much", dry_run=True)


def test_an_existing_destination_is_kept_unless_told(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InvalidInputError, match="exists"):
        convert(SOURCE, tmp_path)
    convert(SOURCE, tmp_path, overwrite=True, max_shard_size="20KB")
    convert(SOURCE, tmp_path, overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "config.json",
        "merges.txt",
        "model.safetensors",
        "notes.txt",
        "vocab.json",
    ]


@pytest.mark.parametrize("to", ["safetensors", "gguf", "nanogpt", "flax-msgpack"])
@pytest.mark.filterwarnings("ignore:nanoGPT computes")
def test_a_conversion_that_is_killed_leaves_nothing(tmp_path, to):
    def stop(nbytes):
        raise KeyboardInterrupt

    for destination in ("folder", {"gguf": "file.gguf", "nanogpt": "file.pt"}.get(to, "other")):
        with pytest.raises(KeyboardInterrupt):
            convert(SOURCE, tmp_path / destination, to=to, progress=stop)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"to": "onnx"}, "to is 'onnx'; allowed are 'safetensors'"),
        ({"dtype": "q8_0"}, "dtype is 'q8_0'"),
        ({"max_shard_size": "much"}, "max_shard_size is 'much'"),
    ],
)
def test_bad_options(tmp_path, options, message):
    with pytest.raises(InvalidInputError, match=message):
        convert(SOURCE, tmp_path / "new", **options)
    assert list(tmp_path.iterdir()) == []


def test_verification_sees_a_difference(tmp_path):
    path = tmp_path / "new" / "model.safetensors"
    with open_source(SOURCE) as source:
        made = convert(source, tmp_path / "new")
        arrays = safetensors.numpy.load_file(path)
        arrays["transformer.ln_f.bias"][3] += 0.25
        safetensors.numpy.save_file(arrays, path, {"format": "pt"})
        difference, name = largest_difference(path, made.tensors)
        assert (round(difference, 5), name) == (0.25, "ln_f.bias")
        del arrays["transformer.ln_f.bias"]
        safetensors.numpy.save_file(arrays, path, {"format": "pt"})
        with pytest.raises(CheckpointError, match=r"does not hold 'ln_f\.bias'"):
            largest_difference(path, made.tensors)


def test_verification_allows_what_the_dtype_rounds_and_nothing_else(tmp_path, monkeypatch):
    made = convert(SOURCE, tmp_path / "half", dtype="bfloat16", verify=True)
    assert 0 < made.difference.largest < 0.01
    write = safetensors_format.write

    def write_wrongly(path, *arguments):
        write(path, *arguments)
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)

    monkeypatch.setattr(safetensors_format, "write", write_wrongly)
    with pytest.raises(CheckpointError, match="differs from the source by"):
        convert(SOURCE, tmp_path / "new", verify=True)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", ["bin_sharded", "safetensors_sharded", "flax_msgpack"])
def test_a_model_in_place_of_itself(tmp_path, name):
    folder = shutil.copytree(GOLDEN / "formats" / name, tmp_path / name)
    before = tensors_of(folder)
    made = convert(folder, folder, overwrite=True, verify=True)
    assert made.difference == (0.0, "")
    after = tensors_of(folder)
    assert all(np.array_equal(after[key], before[key]) for key in after)
    assert made.files == [path.name for path in folder.iterdir() if path.suffix != ".json"]


def test_a_destination_tells_the_format_or_is_a_folder(tmp_path):
    assert convert(SOURCE, tmp_path / "a.gguf", dry_run=True).target == "gguf"
    assert convert(SOURCE, tmp_path / "a.weights.h5", dry_run=True).target == "keras-tf"
    assert convert(SOURCE, tmp_path / "a", dry_run=True).target == "safetensors"
    for name in ("model.safetensors", "pytorch_model.bin", "flax_model.msgpack"):
        with pytest.raises(InvalidInputError, match="safetensors is written as a folder"):
            convert(SOURCE, tmp_path / name)
    with pytest.raises(InvalidInputError, match="is the name of a file, and nanogpt"):
        convert(SOURCE, tmp_path / "a.gguf", to="nanogpt")
    (tmp_path / "b.pt").mkdir()
    with pytest.raises(InvalidInputError, match="is a folder"):
        convert(SOURCE, tmp_path / "b.pt")


def test_flax_safetensors_in_shards_would_not_be_read(tmp_path):
    options = {"to": "flax-safetensors", "max_shard_size": "20KB"}
    for dry_run in (True, False):
        with pytest.raises(InvalidInputError, match="7 files of at most 20KB, but transformers"):
            convert(SOURCE, tmp_path / "new", dry_run=dry_run, **options)
    assert list(tmp_path.iterdir()) == []


def test_a_head_that_is_missing_is_not_made_up(tmp_path):
    folder = shutil.copytree(SOURCE, tmp_path / "source")
    config = json.loads((folder / "config.json").read_text())
    for fields, message in [
        ({"tie_word_embeddings": False}, r"GPT2LMHeadModel: lm_head\.weight"),
        ({"architectures": ["GPT2ForSequenceClassification"]}, r"score\.weight"),
    ]:
        (folder / "config.json").write_text(json.dumps(config | fields))
        with pytest.raises(WeightsError, match=f"lacks 1 of the weights of .*{message}"):
            convert(folder, tmp_path / "new")


def test_a_tokenizer_json_alone_serves_gguf(tmp_path):
    folder = shutil.copytree(SOURCE, tmp_path / "source")
    GPT2TokenizerFast.from_pretrained(SOURCE).save_pretrained(folder)
    (folder / "vocab.json").unlink()
    (folder / "merges.txt").unlink()
    convert(folder, tmp_path / "x.gguf")
    with open_checkpoint(tmp_path / "x.gguf") as checkpoint:
        vocabulary = json.loads(checkpoint.tokenizer_files["vocab.json"])
        assert vocabulary == json.loads((SOURCE / "vocab.json").read_text())
        assert checkpoint.tokenizer_files["merges.txt"] == (SOURCE / "merges.txt").read_bytes()
