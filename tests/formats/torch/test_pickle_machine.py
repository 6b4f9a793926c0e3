"""The pickle machine: agrees with Python's own on plain data, and runs nothing."""

from __future__ import annotations

import collections
import contextlib
import os
import pickle
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt2x.errors import CheckpointError
from gpt2x.formats.torch.pickle_machine import Inert, PickleMachine

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
DATA = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text() | st.integers() | st.tuples(st.integers(), st.text()), inner)
    ),
)


def refuse(identity):
    raise CheckpointError("no storages here")


def load(data: bytes, known=None):
    return PickleMachine(data, known or {}, refuse).load()


@given(DATA, st.integers(1, 5))
def test_plain_data_as_python_reads_it(value, protocol):
    assert load(pickle.dumps(value, protocol)) == pickle.loads(pickle.dumps(value, protocol))


@given(st.recursive(SCALARS, lambda inner: st.lists(inner)))
def test_protocol_0(value):
    assert load(pickle.dumps(value, 0)) == value


@given(st.lists(st.binary()), st.integers(3, 5))
def test_bytes(value, protocol):
    assert load(pickle.dumps(value, protocol)) == value


def test_pickles_may_follow_one_another():
    data = pickle.dumps([1], 2) + pickle.dumps("two", 2)
    first = PickleMachine(data, {}, refuse)
    assert first.load() == [1]
    assert PickleMachine(data, {}, refuse, first.position).load() == "two"


class Harmful:
    def __reduce__(self):
        return os.system, ("touch harmed",)


class HarmfulState:
    def __reduce__(self):
        return subprocess.Popen, (["touch", "harmed"],), {"state": 1}, iter([1]), iter([("a", 2)])


@pytest.mark.parametrize("protocol", range(6))
def test_no_function_of_the_file_is_called(protocol, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (loaded,) = load(pickle.dumps([Harmful()], protocol))
    assert isinstance(loaded, Inert)
    assert loaded.name.endswith(".system")
    assert loaded.arguments == ("touch harmed",)
    (loaded,) = load(pickle.dumps([HarmfulState()], protocol))
    assert loaded.name in ("subprocess.Popen", "commands.Popen")  # Python 2's name
    assert loaded.state == {"state": 1}
    assert loaded.items == [1]
    assert loaded.entries == {"a": 2}
    assert list(tmp_path.iterdir()) == []


def test_only_the_names_of_the_table_are_called():
    ordered = pickle.dumps(collections.OrderedDict(a=1), 2)
    assert load(ordered, {"collections.OrderedDict": dict}) == {"a": 1}
    assert isinstance(load(ordered), Inert)
    # A known name is not a way to reach what hangs on it.
    data = b"\x80\x04\x8c\x0bcollections\x8c\x14OrderedDict.fromkeys\x93."
    assert load(data, {"collections.OrderedDict": dict}).name == "collections.OrderedDict.fromkeys"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x80\x02",
        b"\x80\x09N.",
        b".",
        b"0.",
        b"\x80\x02}q",
        b"h\x05.",  # a memo entry that is not there
        b"(t",  # no stop
        b"]N}s.",  # sets an item of a list
        b"}(]Nu.",  # a list as a key
        b"NNa.",  # appends to None
        b"N)R.",  # calls None
        b"X\xff\xff\xff\xffabc.",  # a string longer than the file
        b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7fabc.",
        b"\x8b\xff\xff\xff\xff1.",
        b"I12three\n.",
        b"cos\nsystem",
        b"\x80\x02(K\x01K\x02K\x03d.",  # a dictionary of three items
        b"S'unclosed\n.",
    ],
)
def test_what_is_no_sound_pickle_is_refused(data):
    with pytest.raises(CheckpointError):
        load(data)


def test_a_memo_index_costs_no_memory():
    # Python's own unpickler allocates an array of 2**32 pointers here.
    assert load(b"Nr\xff\xff\xff\xff.") is None


def test_deep_nesting_neither_overflows_nor_hangs():
    depth = 200_000
    assert load(b"]" * depth + b"a" * (depth - 1) + b".") is not None
    with pytest.raises(CheckpointError, match="key of a dictionary"):
        load(b"}" + b")" + b"\x85" * depth + b"Ns.")


@given(st.binary(max_size=200))
def test_any_bytes_give_an_object_or_a_clear_error(data):
    with contextlib.suppress(CheckpointError):
        load(data)
