"""Records out of files: all of their fields, and the places that errors name."""

from __future__ import annotations

import pytest

from gpt2x.corpus import Place, read_records
from gpt2x.errors import DataError, InvalidInputError


def test_fields_and_places(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"a": 1, "b": ["x"]}\n\n{"a": 2}\n', "utf-8")
    (tmp_path / "b.csv").write_text('a,b\n1,"x\ny"\n2,z\n', "utf-8")
    records = list(read_records([tmp_path / "*.jsonl", tmp_path / "*.csv"]))
    assert [record.fields for record in records] == [
        {"a": 1, "b": ["x"]},
        {"a": 2},
        {"a": "1", "b": "x\ny"},
        {"a": "2", "b": "z"},
    ]
    assert [record.place.number for record in records] == [1, 3, 2, 4]
    assert str(records[1].place) == f"{tmp_path / 'a.jsonl'}, line 3"


def test_a_file_of_unknown_form_is_refused_at_once(tmp_path):
    (tmp_path / "a.txt").write_text('{"a": 1}\n')
    with pytest.raises(InvalidInputError, match="give file_format, one of json, csv"):
        read_records([tmp_path / "a.txt"])
    (record,) = read_records([tmp_path / "a.txt"], file_format="json")
    assert record.place == Place(str(tmp_path / "a.txt"), 1)


def test_a_damaged_array_is_an_error_of_the_file(tmp_path):
    (tmp_path / "a.json").write_text('[{"a": 1},\n')
    with pytest.raises(DataError, match=r"a\.json: is not JSON"):
        list(read_records([tmp_path / "a.json"]))
    (tmp_path / "a.json").write_text('[{"a": 1}, 2, {"a": 3}]')
    errors = []
    records = list(read_records([tmp_path / "a.json"], on_bad=errors.append))
    assert [record.fields["a"] for record in records] == [1, 3]
    assert "record 2" in str(errors[0])
