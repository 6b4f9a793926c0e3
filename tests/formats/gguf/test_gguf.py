"""GGUF against llama.cpp: what it ran of ours, what it quantised, and how it splits text."""

from __future__ import annotations

import hashlib
import json
import shutil
import struct

import numpy as np
import pytest

from gpt2x.checkpoint import convert, describe, open_checkpoint, open_source
from gpt2x.config import GPT2Config
from gpt2x.errors import CheckpointError, InvalidInputError, WeightsError
from gpt2x.formats.gguf import (
    layout as gguf_format,
)
from gpt2x.formats.gguf import (
    tokenizer as gguf_tokenizer,
)
from gpt2x.formats.gguf import (
    writer as gguf_writer,
)
from gpt2x.tokenization import GPT2Tokenizer, GPT2TokenizerFast
from support.golden_data import GOLDEN, SOURCE, load_json
from support.llama_cpp_models import DTYPES, MODELS, TOKENIZER, write_gguf, write_model

LLAMA_CPP = load_json("llama_cpp/llama_cpp.json")
QUANTISED = GOLDEN / "llama_cpp" / "q8_0.gguf"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", MODELS)
def test_llama_cpp_ran_the_files_that_are_written_today(tmp_path, name, dtype):
    """Where one has changed with reason, make the golden files again: llama.cpp must run it."""
    path = write_gguf(name, dtype, tmp_path)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == LLAMA_CPP["sha256"][path.name]


def test_what_llama_cpp_quantised(tmp_path):
    ours = write_gguf("tokenized", "q8_0", tmp_path)
    with (
        open_checkpoint(QUANTISED) as theirs,
        open_checkpoint(ours) as written,
        open_checkpoint(tmp_path / "tokenized") as source,
    ):
        assert set(theirs) == set(written) == set(source)
        assert theirs.metadata == written.metadata
        assert theirs.tokenizer_files == written.tokenizer_files
        for name, tensor in theirs.items():
            array, original = tensor.read(), source[name].read()
            assert array.tobytes() == written[name].read().tobytes(), name
            exact = len(tensor.shape) == 1 or name == "wpe.weight"
            step = 0 if exact else np.abs(original).max() / 127
            np.testing.assert_allclose(array, original, rtol=0, atol=step, err_msg=name)
        config = GPT2Config.from_dict(theirs.config)
    sizes = ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head", "n_inner")
    assert [getattr(config, size) for size in sizes] == [412, 24, 32, 2, 2, 96]
    assert (config.bos_token_id, config.eos_token_id) == (LLAMA_CPP["bos"], LLAMA_CPP["eos"])
    assert config.tie_word_embeddings


def test_the_types_in_the_file_are_told():
    with open_source(QUANTISED) as source:
        dtypes = {entry["name"]: entry["dtype"] for entry in describe(source)["tensors"]}
        assert source.checkpoint["wte.weight"].dtype == np.float32
    assert dtypes["wte.weight"] == dtypes["h.1.mlp.c_fc.weight"] == "q8_0"
    assert dtypes["wpe.weight"] == dtypes["ln_f.bias"] == "float32"


# The tokenizer


def test_text_becomes_the_ids_that_llama_cpp_gives(tmp_path):
    convert(QUANTISED, tmp_path / "model")
    tokenizer = GPT2Tokenizer.from_pretrained(tmp_path / "model")
    for case in LLAMA_CPP["tokens"]:
        assert tokenizer.encode(case["text"]) == case["ids"], case["text"]
    assert sorted(tokenizer.all_special_ids) == LLAMA_CPP["control"]


@pytest.mark.parametrize("tokenizer_class", [GPT2Tokenizer, GPT2TokenizerFast])
def test_a_tokenizer_from_the_file_itself(tmp_path, tokenizer_class):
    expected = GPT2Tokenizer.from_pretrained(TOKENIZER)
    for where in ({"gguf_file": QUANTISED.name}, {}):
        name = QUANTISED.parent if where else QUANTISED
        tokenizer = tokenizer_class.from_pretrained(name, **where)
        assert tokenizer.encode("a<sep> extra b") == expected.encode("a<sep> extra b")
        assert tokenizer.name_or_path == str(name)
    path = write_gguf("plain", "float32", tmp_path)
    with pytest.raises(CheckpointError, match="holds no tokenizer"):
        tokenizer_class.from_pretrained(path)


@pytest.mark.parametrize("templates", ["{{ messages }}", {"default": "{{ messages }}", "x": "y"}])
def test_the_tokenizer_survives(tmp_path, templates):
    """Roles, special and other added tokens, the template and the rule about the first token."""
    folder = write_model(tmp_path / "model")
    tokenizer = GPT2Tokenizer.from_pretrained(folder, chat_template=templates)
    tokenizer.add_special_tokens({"pad_token": "<pad>", "mask_token": "a mask"})
    tokenizer.add_tokens(["ein Wort"])
    tokenizer.bos_token = "a mask"
    tokenizer.add_bos_token = True
    tokenizer.save_pretrained(folder)
    convert(folder, tmp_path / "model.gguf")
    convert(tmp_path / "model.gguf", tmp_path / "back")
    back = GPT2Tokenizer.from_pretrained(tmp_path / "back")
    assert back.special_tokens_map == tokenizer.special_tokens_map
    assert back.added_tokens_encoder == tokenizer.added_tokens_encoder
    assert back.chat_template == "{{ messages }}"
    assert back.model_max_length == 24
    text = "ein Wort <pad>a mask extra words"
    assert back.encode(text) == tokenizer.encode(text)
    assert back.encode("")[:1] == [tokenizer.convert_tokens_to_ids("a mask")]


def test_a_model_without_tokenizer(tmp_path):
    path = write_gguf("plain", "float16", tmp_path)
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.tokenizer_files == {}
        assert checkpoint.metadata["tokenizer.ggml.model"] == "none"
        assert checkpoint.metadata["gpt2.vocab_size"] == 97
        assert (checkpoint.config["bos_token_id"], checkpoint.config["eos_token_id"]) == (95, 96)


def test_an_ordinary_token_that_ends_texts_stays_ordinary(tmp_path):
    folder = write_model(tmp_path / "model")
    config = GPT2Config.from_pretrained(folder)
    config.eos_token_id = [300, 301]
    config.save_pretrained(folder)
    convert(folder, tmp_path / "model.gguf")
    with open_checkpoint(tmp_path / "model.gguf") as checkpoint:
        assert checkpoint.config["eos_token_id"] == 300
        settings = json.loads(checkpoint.tokenizer_files["tokenizer_config.json"])
    assert "eos_token" not in settings
    assert sorted(settings["added_tokens_decoder"]) == ["406", "407", "408"]


def test_tokens_that_the_model_has_no_rows_for(tmp_path):
    tokenizer = GPT2Tokenizer.from_pretrained(TOKENIZER)
    config = GPT2Config(vocab_size=408)
    with pytest.warns(UserWarning, match=r"no rows for the added tokens {408: 'extra'}"):
        pairs = gguf_tokenizer.to_pairs(tokenizer, config)
    assert len(pairs["tokenizer.ggml.tokens"][1][1]) == 408
    with pytest.raises(InvalidInputError, match="has the id 405, but the model only 400 rows"):
        gguf_tokenizer.to_pairs(tokenizer, GPT2Config(vocab_size=400))


def test_a_tokenizer_of_another_kind(tmp_path):
    folder = shutil.copytree(SOURCE, tmp_path / "model")
    model = {"type": "WordPiece", "vocab": {"a": 0}}
    (folder / "tokenizer.json").write_text(json.dumps({"model": model}))
    with pytest.raises(CheckpointError, match=r"tokenizer: tokenizer\.json is not GPT-2's.*alone"):
        convert(folder, tmp_path / "model.gguf")
    assert not (tmp_path / "model.gguf").exists()


# What a GGUF file cannot be


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("sequence_classification", r"does not have score\.weight"),
        ("cross_attention", "no GPT-2 with add_cross_attention"),
    ],
)
def test_models_that_llama_cpp_has_no_place_for(tmp_path, model, message):
    for dry_run in (True, False):
        with pytest.raises(WeightsError, match=message):
            convert(GOLDEN / model, tmp_path / "model.gguf", dry_run=dry_run)
    assert list(tmp_path.iterdir()) == []


def test_one_file_is_not_split(tmp_path):
    with pytest.raises(InvalidInputError, match=r"gguf would take 0\.1 MB, more than max_shard_"):
        convert(SOURCE, tmp_path / "model.gguf", max_shard_size="20KB")
    with pytest.raises(InvalidInputError, match="max_shard_size is 'much'"):
        convert(SOURCE, tmp_path / "model.gguf", max_shard_size="much")
    convert(SOURCE, tmp_path / "model.gguf", max_shard_size="1MB")
    assert [path.name for path in tmp_path.iterdir()] == ["model.gguf"]


# Damaged headers

VALUES = {
    gguf_format.UINT32: 7,
    gguf_format.FLOAT32: 0.5,
    gguf_format.BOOL: True,
    gguf_format.STRING: "96",
    gguf_format.INT32: -1,
    gguf_format.ARRAY: (gguf_format.INT32, [3] * 97),
    10: 2**63,
}


def test_entries_of_other_types_are_refused_or_do_no_harm(tmp_path, monkeypatch):
    convert(SOURCE, tmp_path / "whole.gguf", dtype="q8_0")
    with open_checkpoint(tmp_path / "whole.gguf") as checkpoint:
        names = {*checkpoint.metadata, *(f"tokenizer.ggml.{x}" for x in ("tokens", "merges"))}
    names |= {"tokenizer.ggml.token_type", "general.alignment", "split.count", "gpt2.vocab_size"}
    to_pairs, refused = gguf_tokenizer.to_pairs, 0
    header = gguf_writer._pairs
    monkeypatch.setattr(gguf_writer, "_pairs", lambda *arguments: {})
    for name in sorted(names):
        for kind, value in VALUES.items():

            def changed(tokenizer, config, entry=(name, (kind, value))):
                pairs = header(config, "q8_0", "tiny") | to_pairs(tokenizer, config)
                return pairs | dict([entry])

            monkeypatch.setattr(gguf_writer, "to_pairs", changed)
            convert(SOURCE, tmp_path / "x.gguf", dtype="q8_0", overwrite=True)
            try:
                with open_checkpoint(tmp_path / "x.gguf") as checkpoint:
                    GPT2Config.from_dict(checkpoint.config)
            except (CheckpointError, InvalidInputError):
                refused += 1
    assert refused > 40


def test_an_output_layer_without_an_embedding(tmp_path):
    data = bytearray(write_gguf("untied", "float32", tmp_path).read_bytes())
    at = data.index(b"token_embd.weight")
    data[at : at + 17] = b"token_embx.weight"
    (tmp_path / "x.gguf").write_bytes(data)
    with open_checkpoint(tmp_path / "x.gguf") as checkpoint:
        assert "wte.weight" not in checkpoint
        assert "vocab_size" not in checkpoint.config


def test_an_array_of_many_small_numbers_is_read_in_the_space_of_the_file(tmp_path):
    import tracemalloc

    count = 2**22
    entry = struct.pack("<Q1s", 1, b"x") + struct.pack("<IIQ", gguf_format.ARRAY, 0, count)
    start = b"GGUF" + struct.pack("<IQQ", 3, 0, 1)
    (tmp_path / "x.gguf").write_bytes(start + entry + bytes(count))
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError, match="architecture None"):
            open_checkpoint(tmp_path / "x.gguf")
        assert tracemalloc.get_traced_memory()[1] < 3 * count
    finally:
        tracemalloc.stop()
