"""Against what transformers 4.57.6 gives: `tests/golden/README.md` describes the files.

Where its two classes differ both of ours do what GPT2TokenizerFast does, but for the calls in
`OURS`, which docs/tokenizers.md explains.
"""

import json

import pytest

from gpt2x.tokenization import AddedToken
from support.golden_data import load_json

ENCODED = load_json("tokenizer/encode.json")
CALLS = load_json("tokenizer/calls.json")
ADDED = load_json("tokenizer/added_tokens.json")
DECODED = load_json("tokenizer/decode.json")
TINY = load_json("tokenizer/tiny_encode.json")

WORDS = [18435, 995, 968, 1971, 836, 470, 30325, 222]

#: input_ids of the calls in which we follow the slow class, or neither.
OURS = {
    # transformers' fast class refuses; words are always encoded as if after a space.
    "words_without_prefix_space": WORDS,
    # Its fast class forgets the second one.
    "add_bos_token_pair": CALLS["add_bos_token_pair"]["slow"]["fields"]["input_ids"],
}


def test_ids(gpt2):
    for case in ENCODED:
        assert gpt2(case["text"])["input_ids"] == case["ids"]


def test_decoding_gives_the_text_back(gpt2):
    for case in ENCODED:
        assert gpt2.decode(case["ids"]) == case["text"]


def test_offsets(gpt2_tokenizers):
    for case in ENCODED:
        encoded = gpt2_tokenizers["fast"](case["text"], return_offsets_mapping=True)
        assert list(map(list, encoded["offset_mapping"])) == case["offsets"]


@pytest.mark.parametrize("name", CALLS)
def test_call(name, kind, tokenizer_class, gpt2_files):
    case = CALLS[name]
    arguments = dict(case["arguments"])
    tokenizer = tokenizer_class(*gpt2_files, **{"pad_token": "<|endoftext|>", **case["options"]})
    if name in OURS:
        assert tokenizer(**arguments)["input_ids"] == OURS[name]
        return
    if kind == "slow" and arguments.get("return_offsets_mapping"):
        with pytest.raises(NotImplementedError, match="GPT2TokenizerFast"):
            tokenizer(**arguments)
        return
    expected = case["fast"]
    if "error" in expected:
        with pytest.raises(ValueError):
            tokenizer(**arguments)
        return
    encoded = tokenizer(**arguments)
    assert as_json(dict(encoded)) == expected["fields"]
    if kind == "fast":
        for attribute in ("word_ids", "sequence_ids", "tokens"):
            rows = [getattr(row, attribute) for row in encoded.encodings]
            assert as_json(rows) == expected[attribute]


def as_json(value):
    return json.loads(json.dumps(value, default=lambda array: array.tolist()))


@pytest.mark.parametrize("name", ADDED)
def test_added_tokens(name, tokenizer_class, gpt2_files):
    case = ADDED[name]
    tokenizer = tokenizer_class(*gpt2_files)
    tokenizer.add_tokens([AddedToken(**options) for options in case["tokens"]])
    assert len(tokenizer) == case["length"]["fast"]
    for row in case["texts"]:
        ids = tokenizer(row["text"])["input_ids"]
        assert ids == row["fast"]["ids"]
        if name != "unicode":  # transformers spoils added tokens that are not ASCII
            assert tokenizer.decode(ids) == row["fast"]["decoded"]
            without = tokenizer.decode(ids, skip_special_tokens=True)
            assert without == row["fast"]["without_special"]


def test_added_tokens_beyond_ascii_come_back(tokenizer_class, gpt2_files):
    tokenizer = tokenizer_class(*gpt2_files)
    tokenizer.add_tokens(["été", "😀"])
    text = "un été 😀😀 é"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_decode(gpt2):
    for case in DECODED:
        assert gpt2.decode(case["ids"], **case["options"]) == case["fast"]


@pytest.mark.parametrize("folder", ["tiny_slow_4", "tiny_fast_4", "tiny_5"])
def test_folders_that_transformers_saved(folder, tiny_folder, tokenizer_class):
    tokenizer = tokenizer_class.from_pretrained(tiny_folder.parent / folder)
    for case in TINY:
        assert tokenizer(case["text"])["input_ids"] == case["ids"]
    assert tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<sep>", "extra"]) == [406, 407, 408]
    ids = tokenizer("a<|endoftext|>b<sep>c extra")["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "abc extra"
    assert tokenizer.model_max_length == 40
