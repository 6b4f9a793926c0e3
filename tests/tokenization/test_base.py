"""Copies of tokenizers, and classes of users that derive from them."""

from __future__ import annotations

import copy
import pickle

import pytest

from gpt2x.tokenization import GPT2TokenizerFast


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_are_alike_and_apart(tiny, duplicate):
    tiny.add_bos_token = True
    tiny.pad_token = "<sep>"
    ids = tiny("a extra<sep>b")["input_ids"]  # fills the engine's caches
    other = duplicate(tiny)
    assert repr(other) == repr(tiny)
    assert other.init_kwargs == tiny.init_kwargs
    assert other("a extra<sep>b")["input_ids"] == ids
    assert other.decode(ids) == tiny.decode(ids)
    assert other != tiny
    assert tiny == tiny
    other.add_tokens("new")
    other.pad_token = "new"
    other.add_bos_token = False
    assert (len(other), len(tiny)) == (410, 409)
    assert (other.pad_token, tiny.pad_token) == ("new", "<sep>")
    assert other("new")["input_ids"] == [409]
    assert 409 not in tiny("new")["input_ids"]


def test_the_librarys_object_learns_tokens_while_it_is_held(tiny_folder):
    fast = GPT2TokenizerFast.from_pretrained(tiny_folder)
    backend = fast.backend_tokenizer
    fast.add_special_tokens({"pad_token": "<pad>"})
    fast.add_bos_token = True
    assert backend.encode("<pad>").ids == [406, 409]
    assert pickle.loads(pickle.dumps(fast)).backend_tokenizer.encode("<pad>").ids == [406, 409]


def test_overridden_methods_are_called(tokenizer_class, tiny_folder):
    class Own(tokenizer_class):
        def __init__(self, *args, mark="!", **options):
            super().__init__(*args, **options)
            self.mark = mark

        def convert_tokens_to_ids(self, tokens):
            if isinstance(tokens, list):
                return [7] * len(tokens)
            return super().convert_tokens_to_ids(tokens)

        def encode_plus(self, *args, **options):
            encoded = super().encode_plus(*args, **options)
            encoded["input_ids"] = [1, *encoded["input_ids"]]
            return encoded

        def decode(self, *args, **options):
            return super().decode(*args, **options) + self.mark

        def num_special_tokens_to_add(self, pair=False):
            return 3

        def build_inputs_with_special_tokens(self, token_ids_0, token_ids_1=None):
            return [9, *token_ids_0]

        def warn_once(self, topic, message):
            self.mark += topic

    tokenizer = Own.from_pretrained(tiny_folder, mark="?")
    assert tokenizer.encode("a") == [1, 64]
    assert len(tokenizer.tokenize("a")) == 2
    assert tokenizer.encode_plus(["x", "y"])["input_ids"] == [1, 7, 7]
    assert tokenizer.batch_decode([[64]]) == ["a?"]
    assert tokenizer.max_len_single_sentence == 37
    assert tokenizer.build_inputs_with_special_tokens([1]) == [9, 1]
    tokenizer("a", nonsense=1)
    assert tokenizer.mark == "?unknown ['nonsense']"
