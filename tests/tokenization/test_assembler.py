"""The assembler of rows, without a tokenizer around it."""

from __future__ import annotations

import pytest
from tokenizers import AddedToken

from gpt2x.errors import InvalidInputError
from gpt2x.tokenization.assembler import Assembler, as_entries, as_rows, tensor_kind
from gpt2x.tokenization.encoding import EncodedSequence
from gpt2x.tokenization.options import Padding, Truncation
from gpt2x.tokenization.template import Template
from gpt2x.tokenization.token_table import TokenTable
from gpt2x.tokenization.vocabulary import Vocabulary


@pytest.fixture
def assembler():
    """Puts <s> (8) before each sequence, and pads with <p> (9) of type 3."""
    table = TokenTable(Vocabulary({"a": 7}, []))
    for token in ("<s>", "<p>"):
        table.add(AddedToken(token, special=True))
    table.special.set("pad_token", "<p>")
    return Assembler(table, Template.with_bos("<s>"), pad_type_id=3)


def test_rows_of_ids(assembler):
    row = assembler.row_of_ids([1, 2], [3])
    assert row.ids == [8, 1, 2, 8, 3]
    assert row.type_ids == [0, 0, 0, 1, 1]
    assert row.special_tokens_mask == [1, 0, 0, 1, 0]
    assert Assembler(assembler.table).row_of_ids([1, 2]).ids == [1, 2]


def test_truncation_leaves_room_for_special_tokens(assembler):
    sequence = EncodedSequence([1, 2, 3, 4, 5])
    truncation = Truncation("longest_first", max_length=4, stride=1)
    row = assembler.row(sequence, truncation=truncation, with_overflow=True)
    assert [part.ids for part in (row, *row.overflowing)] == [[8, 1, 2, 3], [8, 3, 4, 5]]
    left = Truncation("longest_first", max_length=4, side="left")
    assert assembler.row(sequence, truncation=left).ids == [8, 3, 4, 5]
    assert assembler.row(sequence, truncation=left).overflowing == []


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding(assembler, side):
    rows = [assembler.row_of_ids([1]), assembler.row_of_ids([1, 2])]
    assembler.pad(rows, Padding("longest", multiple=2, side=side))
    order = 1 if side == "right" else -1
    assert rows[0].ids == ([8, 1, 9, 9] if side == "right" else [9, 9, 8, 1])
    assert rows[0].attention_mask == [1, 1, 0, 0][::order]
    assert rows[0].type_ids == [0, 0, 3, 3][::order]
    assert [len(row) for row in rows] == [4, 4]
    entries = {"ids": [[5], [5, 6]], "attention_mask": [[1], [1, 1]], "labels": [0, 1]}
    padded = assembler.pad_entries(entries, "ids", Padding("max_length", length=2, side=side))
    assert padded == {
        "ids": [[5, 9][::order], [5, 6]],
        "attention_mask": [[1, 0][::order], [1, 1]],
        "labels": [0, 1],
    }


def test_entries_in_every_form():
    assert as_entries([{"x": [1]}, {"x": [2]}], "x") == {"x": [[1], [2]]}
    with pytest.raises(InvalidInputError, match="no 'x' to pad among"):
        as_entries({"y": [1]}, "x")
    with pytest.raises(InvalidInputError, match="a dictionary, or a list of dictionaries, not int"):
        as_entries(5, "x")
    assert as_rows({"x": [1, 2]}, "x") == ({"x": [[1, 2]]}, False)
    with pytest.raises(InvalidInputError, match="'x' has 2 rows, but 'y' has 1"):
        as_rows({"x": [[1], [2]], "y": [3]}, "x")
    assert tensor_kind([[1]]) is None
