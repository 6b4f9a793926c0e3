"""The call API: options, what they raise, and the methods around `__call__`."""

from __future__ import annotations

import logging
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt2x.errors import InvalidInputError
from gpt2x.tokenization import BatchEncoding, GPT2Tokenizer, GPT2TokenizerFast
from gpt2x.tokenization.encoding import windows

TEXT = "The cat sat on the mat."


@pytest.fixture(scope="module")
def both(tiny_folder):
    return [cls.from_pretrained(tiny_folder) for cls in (GPT2Tokenizer, GPT2TokenizerFast)]


# What both give -----------------------------------------------------------------------------------

OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "add_special_tokens": st.booleans(),
        "padding": st.sampled_from([True, False, "longest", "max_length", "do_not_pad"]),
        "truncation": st.sampled_from([None, True, False, "only_first", "only_second"]),
        "max_length": st.integers(0, 20),
        "stride": st.integers(0, 3),
        "pad_to_multiple_of": st.integers(1, 4),
        "padding_side": st.sampled_from(["left", "right"]),
        "return_token_type_ids": st.booleans(),
        "return_attention_mask": st.booleans(),
        "return_overflowing_tokens": st.booleans(),
        "return_special_tokens_mask": st.booleans(),
        "return_length": st.booleans(),
        "verbose": st.just(False),
    },
)
SOME_TEXT = st.sampled_from(
    ["", "a", "the cat sat", "naïve<sep> 語", "one two three four five six"]
)
INPUTS = st.one_of(
    st.tuples(SOME_TEXT),
    st.tuples(SOME_TEXT, SOME_TEXT),
    st.tuples(st.lists(SOME_TEXT)),
    st.lists(st.tuples(SOME_TEXT, SOME_TEXT), min_size=1).map(
        lambda pairs: tuple(map(list, zip(*pairs, strict=True)))
    ),
)


@given(INPUTS, OPTIONS, st.booleans(), st.sampled_from(["left", "right"]))
def test_both_classes_return_the_same(both, inputs, options, add_bos_token, side):
    results = []
    for tokenizer in both:
        tokenizer.add_bos_token = add_bos_token
        tokenizer.truncation_side = side
        try:
            results.append(dict(tokenizer(*inputs, **options)))
        except InvalidInputError as error:
            results.append(str(error))
    assert results[0] == results[1]


@given(
    st.integers(0, 40), st.integers(1, 12), st.integers(0, 11), st.sampled_from(["left", "right"])
)
def test_windows_cover_everything_in_order(length, max_length, stride, side):
    if stride >= max_length:
        return
    spans = windows(length, max_length, stride, side)
    if side == "left":
        spans = [(length - stop, length - start) for start, stop in spans]
    assert spans[0][0] == 0
    assert spans[-1][1] == length
    for (_, stop), (start, _) in pairwise(spans):
        assert start == stop - stride
    assert all(stop - start == max_length for start, stop in spans[:-1])


# Padding ------------------------------------------------------------------------------------------


def test_padding_without_a_padding_token_names_the_line_that_sets_it(tiny):
    tiny.pad_token = None
    with pytest.raises(InvalidInputError) as caught:
        tiny(["a", "b c"], padding=True)
    line = "tokenizer.pad_token = tokenizer.eos_token"
    assert line in str(caught.value)
    tokenizer = tiny
    exec(line)
    assert tokenizer(["a", "b c"], padding=True)["attention_mask"][0][-1] == 0


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_sides(tiny, side):
    tiny.padding_side = side
    short, long = tiny(["a", "b c d"], padding=True)["input_ids"]
    assert len(short) == len(long)
    alone = tiny("a")["input_ids"]
    padding = [tiny.pad_token_id] * (len(long) - len(alone))
    assert short == (padding + alone if side == "left" else alone + padding)
    other = "left" if side == "right" else "right"
    assert tiny(["a", "b c d"], padding=True, padding_side=other)["input_ids"][0] != short


def test_pad_to_multiple_of(tiny):
    ids = tiny(["a", "b c d"], padding=True, pad_to_multiple_of=8)["input_ids"]
    assert [len(row) for row in ids] == [8, 8]


def test_padding_to_the_models_length(tiny):
    assert len(tiny("a", padding="max_length")["input_ids"]) == tiny.model_max_length == 40


def test_pad_collates(tiny):
    rows = [tiny("a"), tiny("b c d")]
    batch = tiny.pad(rows, return_tensors="np")
    assert batch["input_ids"].shape == batch["attention_mask"].shape
    assert batch["input_ids"].tolist() == tiny(["a", "b c d"], padding=True)["input_ids"]


def test_pad_keeps_what_it_does_not_pad_and_the_kind_of_arrays(tiny):
    given_ = {"input_ids": [np.array([1, 2]), np.array([3])], "labels": [np.array(1), np.array(0)]}
    padded = tiny.pad(given_)
    assert isinstance(padded["input_ids"], np.ndarray)
    assert padded["labels"].tolist() == [1, 0]
    assert padded["attention_mask"].tolist() == [[1, 1], [1, 0]]


def test_pad_a_single_text(tiny):
    padded = tiny.pad({"input_ids": [5, 6]}, padding="max_length", max_length=4)
    assert padded["input_ids"] == [5, 6, tiny.pad_token_id, tiny.pad_token_id]


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"ids": [[1]]}, "no 'input_ids'"),
        ([1, 2], "takes what the tokenizer returned"),
        ({"input_ids": [[1], [2]], "labels": [1]}, "2 rows, but 'labels' has 1"),
    ],
)
def test_pad_refuses(tiny, inputs, message):
    with pytest.raises(InvalidInputError, match=message):
        tiny.pad(inputs)


# Truncation ---------------------------------------------------------------------------------------


def test_max_length_alone_truncates_and_says_so_once(tiny, caplog):
    for _ in range(2):
        assert len(tiny(TEXT, max_length=3)["input_ids"]) == 3
    assert caplog.text.count("max_length is given without truncation") == 1


def test_texts_that_are_too_long_for_the_model_are_named_once(tiny, caplog):
    for _ in range(2):
        assert len(tiny("a" * 50)["input_ids"]) == 50
    assert caplog.text.count("A text has 50 tokens, and the model takes 40 at most") == 1
    assert len(tiny("a" * 50, truncation=True)["input_ids"]) == 40


def test_truncation_without_any_length_has_no_effect(tiny, caplog):
    tiny.model_max_length = int(1e30)
    assert len(tiny("a" * 50, truncation=True)["input_ids"]) == 50
    assert "has no effect" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        tiny("a" * 50, padding="max_length", verbose=False)
    assert caplog.text == ""


def test_truncation_side(tiny):
    ids = tiny(TEXT)["input_ids"]
    assert tiny(TEXT, truncation=True, max_length=4)["input_ids"] == ids[:4]
    tiny.truncation_side = "left"
    assert tiny(TEXT, truncation=True, max_length=4)["input_ids"] == ids[-4:]


def test_overflow_rows_hold_the_whole_text(tiny):
    ids = tiny(TEXT)["input_ids"]
    encoded = tiny(
        ["a", TEXT], truncation=True, max_length=5, stride=2, return_overflowing_tokens=True
    )
    assert encoded["overflow_to_sample_mapping"][:2] == [0, 1]
    rows = encoded["input_ids"][1:]
    assert rows[0] + [i for row in rows[1:] for i in row[2:]] == ids


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"truncation": "only_second"}, "needs a pair"),
        ({"truncation": True, "stride": 3}, "stride is 3; it must be less than the 3 tokens"),
        ({"truncation": "longest"}, "Did you mean 'longest_first'"),
        ({"padding": "max"}, "allowed are 'longest', 'max_length', 'do_not_pad'"),
        ({"padding_side": "top"}, "padding_side is 'top'"),
        ({"max_length": -1}, "max_length is -1"),
        ({"stride": 1.5}, "stride is 1.5"),
        ({"pad_to_multiple_of": 0}, "pad_to_multiple_of is 0"),
        ({"pad_to_multiple_of": 2, "padding": True, "truncation": True}, "not a multiple"),
        ({"return_tensors": "torch"}, "allowed are 'np', 'pt', 'tf', 'jax'"),
    ],
)
def test_options_that_are_refused(tiny, options, message):
    with pytest.raises(InvalidInputError, match=message):
        tiny(TEXT, **{"max_length": 3, **options})


def test_unknown_options_are_named_in_a_warning(tiny, caplog):
    expected = tiny(TEXT)
    assert tiny(TEXT, paddding=True) == expected == tiny(TEXT, paddding=True)
    (record,) = caplog.records
    assert record.name == "gpt2x.tokenization.base"  # users silence warnings by this name
    assert (
        "unknown argument 'paddding'. Did you mean 'padding'? It has no effect." in record.message
    )
    caplog.clear()
    assert tiny(TEXT, nonsense=1, verbose=False) == expected
    assert not caplog.records
    tiny.encode_plus(TEXT, nonsense=1)
    tiny.batch_encode_plus([TEXT], other=1)
    tiny.prepare_for_model([1], third=1)
    assert [record.message[:30] for record in caplog.records] == [
        "encode_plus() got an unknown a",
        "batch_encode_plus() got an unk",
        "prepare_for_model() got an unk",
    ]


@pytest.mark.parametrize("method", ["tokenize", "encode", "encode_plus", "batch_encode_plus"])
def test_none_is_no_text(tiny, method):
    with pytest.raises(InvalidInputError, match="None"):
        getattr(tiny, method)(None)


def test_padding_by_hand_is_warned_of_once(tiny, caplog):
    encoded = tiny(["a", "The cat"])
    for _ in range(2):
        tiny.pad(encoded)
    assert len(caplog.records) == tiny.is_fast
    topic = "Asking-to-pad-a-fast-tokenizer"
    assert tiny.deprecation_warnings == ({topic: True} if tiny.is_fast else {})
    tiny.deprecation_warnings = {}
    tiny.pad(encoded, verbose=False)
    tiny.deprecation_warnings[topic] = True
    tiny.pad(encoded)
    tiny(["a", "The cat"], padding=True)
    assert len(caplog.records) == tiny.is_fast


def test_warnings_come_again_once_their_topic_is_forgotten(tiny, caplog):
    tiny.model_max_length = 1
    topic = "sequence-length-is-longer-than-the-specified-maximum"
    for count in (1, 2):
        tiny(TEXT)
        tiny(TEXT)
        assert len(caplog.records) == count
        assert tiny.deprecation_warnings == {topic: True}
        tiny.deprecation_warnings = {}


def test_truncation_that_cannot_be(tiny):
    with pytest.raises(InvalidInputError, match="'only_first' cannot bring this pair"):
        tiny("a", TEXT, truncation="only_first", max_length=4)
    tiny.add_bos_token = True
    with pytest.raises(InvalidInputError, match="less than the 1 special tokens"):
        tiny(TEXT, truncation=True, max_length=0)


def test_truncate_sequences(tiny):
    first, second = list(range(10)), list(range(20, 25))
    assert tiny.truncate_sequences(first, None, 3, stride=2) == (
        list(range(7)), None, [5, 6, 7, 8, 9],
    )  # fmt: skip
    assert tiny.truncate_sequences(first, second, 4, "only_second") == (
        first, [20], [21, 22, 23, 24],
    )  # fmt: skip
    assert tiny.truncate_sequences(first, second, 7) == ([0, 1, 2, 3], [20, 21, 22, 23], [])
    assert tiny.truncate_sequences(first, second, 0) == (first, second, [])
    tiny.truncation_side = "left"
    assert tiny.truncate_sequences(first, None, 3, stride=1)[2] == [0, 1, 2, 3]


# Forms of input -----------------------------------------------------------------------------------


def test_ids_and_tokens_are_inputs_of_encode_plus(tiny):
    expected = tiny(TEXT)
    tokens = tiny.tokenize(TEXT)
    ids = tiny.convert_tokens_to_ids(tokens)
    for form in (TEXT, tokens, ids, list(np.array(ids))):
        assert tiny.encode_plus(form)["input_ids"] == expected["input_ids"]
    assert tiny.batch_encode_plus([TEXT, ids])["input_ids"] == [ids, ids]
    assert tiny.batch_encode_plus([(ids, ids)])["input_ids"] == [ids + ids]
    assert tiny.encode(TEXT) == ids
    assert tiny.prepare_for_model(ids)["input_ids"] == ids


def test_pairs(tiny):
    joined = tiny("a")["input_ids"] + tiny("b c")["input_ids"]
    pair = tiny("a", "b c", return_token_type_ids=True)
    assert pair["input_ids"] == joined
    assert pair["token_type_ids"] == [0] + [1] * (len(joined) - 1)
    assert tiny(["a"], ["b c"])["input_ids"] == [joined]
    assert tiny([["a", "b c"]])["input_ids"] == [joined]
    assert tiny.batch_encode_plus([("a", "b c")])["input_ids"] == [joined]
    assert tiny("a", "")["input_ids"] == tiny("a")["input_ids"]


def test_words(tiny):
    spaced = tiny(" The cat's mat")["input_ids"]
    assert tiny(["The", " cat's", "mat"], is_split_into_words=True)["input_ids"] == spaced
    batch = tiny([["The", "cat's"], ["mat"]], is_split_into_words=True)["input_ids"]
    assert batch[0] + batch[1] == spaced


def test_targets(tiny):
    both_ = tiny("a", text_target="b c")
    assert both_["labels"] == tiny("b c")["input_ids"]
    assert tiny(text_target="b c")["input_ids"] == both_["labels"]


def test_empty_inputs(tiny):
    assert tiny("")["input_ids"] == []
    assert tiny([])["input_ids"] == []
    assert tiny([], is_split_into_words=True)["input_ids"] == []
    assert tiny("", return_tensors="np")["input_ids"].shape == (1, 0)


@pytest.mark.parametrize(
    "text", [None, 5, ["a", 5], [["a", "b", "c"]], b"bytes", {"a": 1}, [["a"]]]
)
def test_inputs_that_are_refused(tiny, text):
    with pytest.raises(InvalidInputError):
        tiny(text)


def test_pairs_of_unequal_batches_are_refused(tiny):
    with pytest.raises(InvalidInputError, match="must have as many, not 1"):
        tiny(["a", "b"], ["c"])
    with pytest.raises(InvalidInputError, match="not a single text"):
        tiny(["a", "b"], "c")


# Special tokens around texts ----------------------------------------------------------------------


def test_add_bos_token(tiny):
    bos = tiny.bos_token_id
    plain = tiny("a")["input_ids"]
    assert tiny.num_special_tokens_to_add() == 0
    tiny.add_bos_token = True
    assert tiny("a")["input_ids"] == [bos, *plain]
    assert tiny("a", add_special_tokens=False)["input_ids"] == plain
    pair = tiny("a", "a", return_special_tokens_mask=True, return_token_type_ids=True)
    assert pair["input_ids"] == [bos, *plain, bos, *plain]
    assert pair["special_tokens_mask"] == [1, 0, 1, 0]
    assert pair["token_type_ids"] == [0, 0, 1, 1]
    assert tiny.build_inputs_with_special_tokens(plain, plain) == pair["input_ids"]
    assert tiny.create_token_type_ids_from_sequences(plain, plain) == pair["token_type_ids"]
    assert tiny.get_special_tokens_mask(plain, plain) == pair["special_tokens_mask"]
    mask = tiny.get_special_tokens_mask(pair["input_ids"], already_has_special_tokens=True)
    assert mask == pair["special_tokens_mask"]
    assert (tiny.num_special_tokens_to_add(), tiny.num_special_tokens_to_add(pair=True)) == (1, 2)
    assert (tiny.max_len_single_sentence, tiny.max_len_sentences_pair) == (39, 38)
    tiny.add_bos_token = False
    assert tiny("a")["input_ids"] == plain


def test_add_bos_token_follows_bos_token(tiny):
    tiny.add_bos_token = True
    tiny.bos_token = "<sep>"
    assert tiny("a")["input_ids"][0] == tiny.convert_tokens_to_ids("<sep>")
    tiny.bos_token = None
    assert not tiny.add_bos_token
    with pytest.raises(InvalidInputError, match="needs a bos_token"):
        tiny.add_bos_token = True


def test_prepare_for_model_returns_overflow(tiny):
    prepared = tiny.prepare_for_model(
        list(range(10)), truncation=True, max_length=6, stride=1, return_overflowing_tokens=True
    )
    assert prepared["input_ids"] == list(range(6))
    assert prepared["overflowing_tokens"] == [5, 6, 7, 8, 9]
    assert prepared["num_truncated_tokens"] == 4
    with pytest.raises(InvalidInputError, match="not defined for a pair"):
        tiny.prepare_for_model(
            [1], [2], truncation=True, max_length=1, return_overflowing_tokens=True
        )


def test_split_special_tokens(tiny):
    assert len(tiny("<sep>")["input_ids"]) == 1
    assert len(tiny("<sep>", split_special_tokens=True)["input_ids"]) > 1
    assert len(tiny("extra", split_special_tokens=True)["input_ids"]) == 1
    tiny.split_special_tokens = True
    assert len(tiny("<sep>")["input_ids"]) > 1


def test_call_of_a_batch_returns_a_batch_encoding(tiny):
    encoded = tiny(["a"])
    assert isinstance(encoded, BatchEncoding)
    assert encoded.is_fast is tiny.is_fast
    assert {**encoded} == {"input_ids": encoded.input_ids, "attention_mask": [[1]]}


def test_tokenize(gpt2):
    assert gpt2.tokenize(" Hello world's") == ["ĠHello", "Ġworld", "'s"]
    assert gpt2.tokenize("Hello", add_prefix_space=True) == ["ĠHello"]
    assert gpt2.tokenize("a", pair="b<|endoftext|>") == ["a", "b", "<|endoftext|>"]
    assert gpt2.tokenize("ñ") == ["Ã±"]
