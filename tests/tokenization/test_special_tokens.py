"""Special and added tokens, and the vocabulary's accessors."""

from __future__ import annotations

import shutil

import pytest

from gpt2x.errors import CheckpointError, InvalidInputError
from gpt2x.tokenization import AddedToken, GPT2TokenizerFast
from gpt2x.unavailable import TOKENIZER
from support.golden_data import load_json

INIT_KWARGS = load_json("tokenizer/init_kwargs.json")


def test_roles_are_attributes_and_ids(tiny):
    assert tiny.eos_token == "<|endoftext|>"
    assert tiny.eos_token_id == 406
    assert tiny.cls_token is None
    assert tiny.cls_token_id is None
    tiny.cls_token = "<sep>"
    assert tiny.cls_token_id == 407
    tiny.mask_token_id = 408
    assert tiny.mask_token == "extra"
    tiny.cls_token = None
    assert "cls_token" not in tiny.special_tokens_map
    assert tiny.special_tokens_map["mask_token"] == "extra"
    assert tiny.all_special_tokens == ["<|endoftext|>", "extra"]
    assert tiny.all_special_ids == [406, 408]


def test_pad_token_as_in_the_error_message(tiny):
    tiny.pad_token = tiny.eos_token
    assert tiny.pad_token_id == tiny.eos_token_id
    assert len(tiny) == 409


def test_a_role_whose_token_is_not_in_the_vocabulary(tiny):
    tiny.pad_token = "[PAD]"
    assert len(tiny) == 409
    with pytest.raises(InvalidInputError, match=r"add_special_tokens\({'pad_token': '\[PAD\]'}\)"):
        _ = tiny.pad_token_id
    assert tiny.add_special_tokens({"pad_token": "[PAD]"}) == 1
    assert tiny.pad_token_id == 409


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("pad_token", 5, "must be a string or an AddedToken"),
        ("pad_token_id", 9999, "pad_token_id is 9999, and no token has that id"),
        ("additional_special_tokens", "<a>", "must be a list"),
    ],
)
def test_values_that_a_role_refuses(tiny, name, value, message):
    with pytest.raises(InvalidInputError, match=message):
        setattr(tiny, name, value)


def test_unknown_attributes_name_the_nearest(tiny):
    with pytest.raises(AttributeError, match="Did you mean 'pad_token'"):
        _ = tiny.padtoken
    assert not hasattr(tiny, "img_token")


def test_the_roles_by_transformers_private_name(tiny):
    tiny.add_special_tokens({"pad_token": AddedToken("<pad>", lstrip=True)})
    assert tiny._special_tokens_map["pad_token"] == AddedToken("<pad>", lstrip=True)
    assert tiny._special_tokens_map["cls_token"] is None


def test_add_special_tokens(tiny):
    added = tiny.add_special_tokens(
        {"pad_token": "<pad>", "additional_special_tokens": ["<a>", AddedToken("<b>", lstrip=True)]}
    )
    assert added == 3
    assert tiny.additional_special_tokens == ["<a>", "<b>"]
    assert tiny.additional_special_tokens_ids == [410, 411]
    ids = tiny("x <b><a><pad>y")["input_ids"]
    assert tiny.decode(ids, skip_special_tokens=True) == "xy"
    kept = {"additional_special_tokens": ["<c>", "<a>"]}
    assert tiny.add_special_tokens(kept, replace_additional_special_tokens=False) == 1
    assert tiny.additional_special_tokens == ["<a>", "<b>", "<c>"]
    assert tiny.add_special_tokens({"additional_special_tokens": ["<d>"]}) == 1
    assert tiny.additional_special_tokens == ["<d>"]
    assert tiny.add_special_tokens({}) == 0


def test_add_special_tokens_refuses_unknown_roles_and_changes_nothing(tiny):
    with pytest.raises(InvalidInputError, match="Did you mean 'pad_token'"):
        tiny.add_special_tokens({"eos_token": "<e>", "pad_tokn": "<pad>"})
    assert tiny.eos_token == "<|endoftext|>"


def test_add_tokens_counts_new_ones(tiny):
    assert tiny.add_tokens("new") == 1
    assert tiny.add_tokens(["new", "newer", "The"]) == 2
    assert tiny.add_tokens([]) == 0
    assert tiny.add_tokens("") == 0
    assert len(tiny) == 412
    assert tiny.vocab_size == 407  # <sep> and extra were added before
    with pytest.raises(InvalidInputError, match="5 is not a token"):
        tiny.add_tokens([5])


def test_ids_of_added_tokens(tiny):
    tiny.add_tokens(["new"])
    assert tiny.get_vocab()["new"] == 409
    assert tiny.added_tokens_encoder["new"] == 409
    assert tiny.added_tokens_decoder[409].content == "new"
    assert tiny.convert_ids_to_tokens(409) == "new"
    assert tiny.convert_ids_to_tokens([409, 406], skip_special_tokens=True) == ["new"]
    assert tiny("a new")["input_ids"][-1] == 409


def test_a_token_of_the_vocabulary_can_be_marked(tiny):
    """It keeps its id, and from then on is found before words are split."""
    token = "at"
    token_id = tiny.convert_tokens_to_ids(token)
    assert tiny.add_tokens(AddedToken(token, single_word=True)) == 0
    assert tiny("cat at")["input_ids"][-1] == token_id
    assert tiny.tokenize("at at") == ["at", "Ġ", "at"]


def test_added_token_options(tiny):
    tiny.add_tokens(
        [
            AddedToken("<l>", lstrip=True),
            AddedToken("<r>", rstrip=True),
            AddedToken("word", single_word=True),
        ]
    )
    assert tiny.tokenize("a \u3000<l> b") == ["a", "<l>", "Ġb"]
    assert tiny.tokenize("a <r> \n b") == ["a", "Ġ", "<r>", "b"]
    assert tiny.tokenize("<r>  <l>") == ["<r>", "<l>"]
    assert "word" in tiny.tokenize("(word)")
    for neighbour in ("s", "_", "1", "\u0301", "é", "\u203f"):
        assert "word" not in tiny.tokenize(f"word{neighbour}")
        assert "word" not in tiny.tokenize(f"{neighbour}word")
    for neighbour in ("²", "-", "😀", "\u200b"):
        assert "word" in tiny.tokenize(f"word{neighbour}")


def test_the_leftmost_token_wins_and_the_longest_of_those(tiny):
    tiny.add_tokens(["ab", "abc", "bcd", "cd"])
    assert tiny.tokenize("abcd") == ["abc", "d"]
    assert tiny.tokenize("abd bcd") == ["ab", "d", "Ġ", "bcd"]


def test_tokens_that_are_not_normalized_are_found_first(tiny):
    tiny.add_tokens([AddedToken("abc"), AddedToken("bcd", normalized=False)])
    assert tiny.tokenize("abcd") == ["a", "bcd"]


def test_constructor_adds_special_tokens_in_the_order_of_the_roles(tokenizer_class, tiny_folder):
    tokenizer = tokenizer_class.from_pretrained(
        tiny_folder, pad_token="<pad>", bos_token="<bos>", additional_special_tokens=["<a>"]
    )
    assert tokenizer.get_added_vocab()["<bos>"] == 409
    assert (tokenizer.pad_token_id, tokenizer.additional_special_tokens_ids) == (410, [411])


def test_extra_special_tokens_become_attributes(tokenizer_class, tiny_folder):
    tokenizer = tokenizer_class.from_pretrained(
        tiny_folder, extra_special_tokens={"image_token": "<image>"}
    )
    assert tokenizer.image_token == "<image>"
    assert tokenizer.image_token_id == 409
    assert "<image>" in tokenizer.all_special_tokens


def test_conflicting_added_tokens_are_refused(tokenizer_class, tiny_folder):
    for token_id, content in ((5, "<sep>"), (406, "other"), (3, "other")):
        with pytest.raises(CheckpointError, match="id"):
            tokenizer_class.from_pretrained(
                tiny_folder, added_tokens_decoder={token_id: AddedToken(content)}
            )


def test_unknown_arguments_are_kept_and_warned_of(tokenizer_class, tiny_folder, caplog):
    given = {"paddding_side": "left", "other": {"a": [1]}}
    tokenizer = tokenizer_class.from_pretrained(tiny_folder, **given)
    (record,) = caplog.records
    assert "2 unknown arguments: 'other'. 'paddding_side'. Did you mean 'padding_side'?" in (
        record.message
    )
    assert "kept in init_kwargs" in record.message
    assert {name: tokenizer.init_kwargs[name] for name in given} == given
    assert tokenizer.init_kwargs["other"] is not given["other"]
    tokenizer_class.from_pretrained(tiny_folder, other=1, verbose=False)
    assert len(caplog.records) == 1
    tokenizer_class.from_pretrained(tiny_folder, revison="main")
    assert "Did you mean 'revision'?" in caplog.records[1].message


@pytest.mark.parametrize("name", ["add_special_tokens", "get_vocab", "vocab_size"])
def test_an_argument_with_the_name_of_a_method(tokenizer_class, tiny_folder, name):
    if name == "vocab_size":  # a property, which old files of tokenizers hold
        assert tokenizer_class.from_pretrained(tiny_folder, vocab_size=3).vocab_size == 407
        return
    with pytest.raises(AttributeError, match=f"'{name}' cannot be an argument of GPT2Tokenizer"):
        tokenizer_class.from_pretrained(tiny_folder, **{name: True})


@pytest.mark.parametrize("name", ["bos_token", "pad_token", "additional_special_tokens"])
def test_roles_that_are_unset(tiny, name):
    setattr(tiny, name, None)
    assert getattr(tiny, name) is None
    assert name not in tiny.special_tokens_map
    tiny.add_tokens(["<new>"], special_tokens=True)
    assert "<new>" in tiny.additional_special_tokens
    setattr(tiny, name, None)
    tiny.add_special_tokens({"additional_special_tokens": ["<b>"]}, False)
    assert "<b>" in tiny.additional_special_tokens


def test_constructor_refuses_bad_arguments(tokenizer_class, tiny_folder):
    with pytest.raises(InvalidInputError, match="padding_side is 'top'"):
        tokenizer_class.from_pretrained(tiny_folder, padding_side="top")
    with pytest.raises(InvalidInputError, match="errors is 'none'"):
        tokenizer_class.from_pretrained(tiny_folder, errors="none")
    with pytest.raises(InvalidInputError, match="from_pretrained"):
        tokenizer_class()


def test_vocabulary_accessors(tiny):
    vocab = tiny.get_vocab()
    assert len(vocab) == len(tiny) == 409
    assert vocab == tiny.vocab
    assert tiny.convert_tokens_to_ids(["at", "<sep>"]) == [vocab["at"], 407]
    assert all(tiny.convert_ids_to_tokens(i) == token for token, i in vocab.items())
    (left, right), rank = next(iter(tiny.bpe_ranks.items()))
    assert rank == 0
    assert left + right in vocab
    assert bool(tiny)
    assert "vocab_size=407" in repr(tiny)


def test_openais_names(gpt2_tokenizers):
    slow = gpt2_tokenizers["slow"]
    assert slow.encoder["Ġworld"] == 995
    assert slow.decoder[995] == "Ġworld"
    assert slow.byte_encoder[32] == "Ġ"
    assert slow.byte_decoder["Ġ"] == 32
    assert len(slow.bpe_ranks) == 50000
    assert slow.bpe("Ġlowerings") == "Ġlower ings"
    assert slow.cache["Ġlowerings"] == "Ġlower ings"
    fast = gpt2_tokenizers["fast"]
    assert fast.backend_tokenizer.encode(" world").ids == [995]
    assert fast.decoder.decode(["Ġworld"]) == " world"


def test_the_backends_post_processor_is_where_special_tokens_are_kept(tiny_folder):
    from tokenizers import processors

    from gpt2x.tokenization import GPT2TokenizerFast

    fast = GPT2TokenizerFast.from_pretrained(tiny_folder)
    eos = fast.eos_token
    fast.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {eos}", pair=f"$A {eos} $B:1 {eos}:1", special_tokens=[(eos, 406)]
    )
    assert fast("a")["input_ids"][-1] == 406
    assert fast("a", "a", return_token_type_ids=True)["token_type_ids"] == [0, 0, 1, 1]
    fast.add_bos_token = True
    assert fast("a")["input_ids"][0] == 406
    assert fast.backend_tokenizer.encode("a").ids[0] == 406
    fast.add_tokens(["new"])
    assert fast.backend_tokenizer.encode("new").ids == [406, 409]


@pytest.mark.parametrize("name", INIT_KWARGS)
def test_init_kwargs(name, tokenizer_class, tiny_folder, tmp_path):
    case = INIT_KWARGS[name]
    if tokenizer_class.__name__ not in case:
        pytest.skip("transformers' Python class needs vocab.json")
    for file in case["files"]:
        shutil.copy(tiny_folder / file, tmp_path)
    if case["constructor"]:
        tokenizer = tokenizer_class(
            f"{tmp_path}/vocab.json", f"{tmp_path}/merges.txt", **case["options"]
        )
    else:
        tokenizer = tokenizer_class.from_pretrained(str(tmp_path), **case["options"])
    found = {
        key: str(value).replace(str(tmp_path), "") for key, value in tokenizer.init_kwargs.items()
    }
    assert found == case[tokenizer_class.__name__]
    assert tokenizer.init_inputs == ()


def test_init_kwargs_make_the_same_tokenizer_again(tiny_folder):
    one = GPT2TokenizerFast(
        str(tiny_folder / "vocab.json"),
        str(tiny_folder / "merges.txt"),
        pad_token="<pad>",
        padding_side="left",
        add_bos_token=True,
    )
    again = GPT2TokenizerFast(**one.init_kwargs)
    assert again.init_kwargs == one.init_kwargs
    assert again("a extra<pad>")["input_ids"] == one("a extra<pad>")["input_ids"]


def test_what_is_not_here_says_what_to_do_instead(tiny):
    for name in TOKENIZER:
        assert not hasattr(tiny, name)
    with pytest.raises(AttributeError, match=r"no .prepare_seq2seq_batch., .*text_target="):
        tiny.prepare_seq2seq_batch([])
