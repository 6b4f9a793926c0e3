"""The table of tokens, without a tokenizer around it."""

from __future__ import annotations

import pickle

import pytest
from tokenizers import AddedToken

from gpt2x.errors import CheckpointError, InvalidInputError
from gpt2x.tokenization.token_table import TokenTable
from gpt2x.tokenization.vocabulary import Vocabulary


@pytest.fixture
def table():
    return TokenTable(Vocabulary({"a": 0, "Ġb": 1, "aĠb": 4}, [("a", "Ġb")]))


def test_texts_and_ids(table):
    assert (table.id_of("Ġb"), table.text_of(4), table.id_of("c"), table.text_of(2)) == (
        1, "aĠb", None, None,
    )  # fmt: skip
    table.add(AddedToken("c"))
    assert (table.id_of("c"), table.text_of(5), len(table)) == (5, "c", 4)
    assert table.ids() == {"a": 0, "Ġb": 1, "aĠb": 4, "c": 5}
    assert table.required_id("c") == 5
    with pytest.raises(InvalidInputError, match=r"add_tokens\(\['d'\], special_tokens=True\)"):
        table.required_id("d")


def test_a_token_that_is_marked_keeps_its_id_and_stands_for_itself(table):
    assert table.bytes_of[1] == b" b"
    table.add(AddedToken("Ġb"))
    assert table.id_of("Ġb") == 1
    assert table.bytes_of[1] == "Ġb".encode()
    assert len(table) == 3


def test_tokens_of_files_have_their_own_ids(table):
    table.register(9, AddedToken("c"))
    table.add(AddedToken("d"))
    assert (table.id_of("c"), table.id_of("d")) == (9, 10)
    for token_id, content in ((0, "e"), (7, "a"), (9, "e"), (8, "c")):
        with pytest.raises(CheckpointError, match="id"):
            table.register(token_id, AddedToken(content))


def test_roles_add_their_tokens_in_order(table):
    table.assign_roles({"pad_token": "<p>", "bos_token": "a"}, {"image_token": "<i>"})
    assert table.ids()["<p>"] == 5
    assert table.role_ids("bos_token") == 0
    assert table.role_ids("image_token") == 6
    assert table.special.texts() == {"bos_token": "a", "pad_token": "<p>", "image_token": "<i>"}
    assert table.special_ids() == {0, 5, 6}
    assert table.unknown_id() is None
    table.special.set("unk_token", "Ġb")
    assert table.unknown_id() == 1


def test_special_tokens_without_a_role_are_additional(table):
    table.add(table.as_added_token("<x>", special=True))
    assert table.special.text("additional_special_tokens") == ["<x>"]
    assert table.role_ids("additional_special_tokens") == [5]
    table.special.set("pad_token", "<new>")
    assert table.as_added_token("<new>", special=False).special
    with pytest.raises(InvalidInputError, match=r"'<new>', which has no id yet"):
        table.role_ids("pad_token")


def test_pickled_tables_do_not_share(table):
    table.add(AddedToken("c"))
    assert table.bytes_of[5] == b"c"
    other = pickle.loads(pickle.dumps(table))
    other.add(AddedToken("d"))
    assert other.bytes_of[6] == b"d"
    assert table.bytes_of[6] == b""
    assert (len(other), len(table)) == (5, 4)
