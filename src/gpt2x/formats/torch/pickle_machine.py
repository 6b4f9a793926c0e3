"""A pickle machine that runs no code.

Python's own unpickler imports what a file names and calls it; overriding ``find_class`` still
leaves it open to exhausting memory (its memo is an array that the file indexes) and to setting
attributes on every object it can reach. This machine interprets the opcodes of protocols 0 to 5
itself. Names resolve only to the caller's table; every other name becomes an `Inert` record with
the arguments that the file would have passed to it. A budget is charged for every opcode, and for
every operation whose time or memory grows with its operands.
"""

from __future__ import annotations

import mmap
import pickle
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from gpt2x.errors import CheckpointError
from gpt2x.storage.budget import VALUE, Budget

Constructor = Callable[..., Any]

MAX_PROTOCOL = 5

# Charges, in memory and time, for an opcode and for the use of a key.
_OPERATION, _KEY = 2 * VALUE, 4 * VALUE
_RECORD = 512  # bytes of an `Inert`, or of a name with its entry in the table
_REFERENCE = 8  # bytes of one item of a tuple
_MAX_CHARACTER = 4  # bytes in memory, of a string, for one in the file
# A file can choose numbers whose hashes all collide when they are keys.
_COLLIDING = 32_768


@dataclass(eq=False, slots=True)
class Inert:
    """Replaces an object of a class that this machine does not know, or the class itself.

    It is never imported or called. `name` is the dotted name in the file; `arguments`, `state`,
    `items` and `entries` are what the file would have given to the constructor, to
    ``__setstate__``, ``extend`` and ``__setitem__``. The representation shows none of them: a tuple
    of a hundred bytes that contains itself twice at each level would take for ever to print.
    """

    name: str
    arguments: tuple[Any, ...] | None = field(default=None, repr=False)
    state: Any = field(default=None, repr=False)
    items: list[Any] = field(default_factory=list, repr=False)
    entries: dict[Any, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class Known:
    """A name of the caller's table, with its function."""

    name: str
    construct: Constructor = field(repr=False)


class _Mark:
    pass


_MARK = _Mark()


def plain_key(key: Any, budget: Budget) -> Any:
    """Return `key` if it is a scalar or a flat tuple of scalars, the only keys that are allowed.

    Hashing a tuple that is nested a million deep overflows the interpreter's stack. The most that a
    look-up can cost is charged.
    """
    scalars = (str, bytes, int, float, bool, type(None))
    parts = key if isinstance(key, tuple) else (key,)
    budget.charge(_KEY * len(parts), "keys")
    if not all(isinstance(part, scalars) for part in parts):
        raise CheckpointError("the pickle uses an object as the key of a dictionary")
    budget.charge(sum(map(_key_length, parts)), "keys")
    if isinstance(key, tuple) and any(isinstance(part, int | float) for part in key):
        budget.charge(_COLLIDING, "keys of numbers")
    return key


def _key_length(part: Any) -> int:
    if isinstance(part, str | bytes):
        return len(part)
    wide = isinstance(part, int) and part.bit_length() > 64
    return _COLLIDING + part.bit_length() // 8 if wide else 0


class PickleMachine:
    """Interprets one pickle; `load` returns its object and `position` is where it ended.

    Args:
        data: the bytes, or a map of the file; several pickles may follow one another.
        known: dotted name -> function called in place of that global.
        persistent: called with a persistent id, as ``persistent_load`` is.
        position: where the pickle starts in `data`.
        budget: the limit of the charges; by default that of a file as long as `data`.

    `load` raises CheckpointError for anything that is not a sound pickle.
    """

    def __init__(
        self,
        data: bytes | mmap.mmap,
        known: Mapping[str, Constructor],
        persistent: Callable[[Any], Any],
        position: int = 0,
        budget: Budget | None = None,
    ) -> None:
        self.position = position
        self._data = data
        self._known = known
        self._persistent = persistent
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._globals: dict[tuple[str, str], Inert | Known] = {}
        self._budget = Budget("the pickle", len(data)) if budget is None else budget

    def load(self) -> Any:
        try:
            while True:
                self._budget.charge(_OPERATION, "objects")
                code = self._take(1)
                if code == pickle.STOP:
                    return self._stack.pop()
                operation = _OPERATIONS.get(code)
                if operation is None:
                    raise CheckpointError(f"the pickle uses the unknown opcode {code!r}")
                operation(self)
        except CheckpointError:
            raise
        except (ValueError, TypeError, IndexError, KeyError, AttributeError, struct.error) as error:
            raise CheckpointError(f"the pickle is corrupt ({type(error).__name__})") from error
        except (RecursionError, OverflowError, MemoryError) as error:
            raise CheckpointError("the pickle is nested or sized beyond reason") from error

    # Reading the bytes

    def _take(self, count: int) -> bytes:
        end = self.position + count
        if count < 0 or end > len(self._data):
            raise CheckpointError("the pickle ends in the middle")
        taken = self._data[self.position : end]
        self.position = end
        return taken

    def _line(self, encoding: str = "utf-8") -> str:
        end = self._data.find(b"\n", self.position)
        if end < 0:
            raise CheckpointError("the pickle ends in the middle")
        self._budget.charge(_MAX_CHARACTER * (end - self.position), "texts")
        return self._take(end + 1 - self.position)[:-1].decode(encoding)

    def _number(self, format: str) -> Any:
        return struct.unpack(format, self._take(struct.calcsize(format)))[0]

    def _sized(self, format: str) -> bytes:
        count = self._number(format)
        self._budget.charge(_MAX_CHARACTER * max(count, 0), "texts")
        return self._take(count)

    # The stack

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _pop_to_mark(self) -> list[Any]:
        for index in range(len(self._stack) - 1, -1, -1):
            if self._stack[index] is _MARK:
                items = self._stack[index + 1 :]
                del self._stack[index:]
                return items
        raise CheckpointError("the pickle lacks a mark")

    def _pop_pairs(self) -> list[tuple[Any, Any]]:
        items = self._pop_to_mark()
        return list(zip(items[::2], items[1::2], strict=True))

    def _push_tuple(self, count: int) -> None:
        items = tuple(self._stack[len(self._stack) - count :])
        if len(items) != count:
            raise CheckpointError("the pickle's stack is too short")
        del self._stack[len(self._stack) - count :]
        self._push(items)

    # Containers

    def _append(self, values: list[Any]) -> None:
        target = self._stack[-1]
        if isinstance(target, Inert):
            target.items.extend(values)
        elif isinstance(target, list):
            target.extend(values)
        else:
            raise CheckpointError("the pickle appends to something that is not a list")

    def _set_items(self, pairs: list[tuple[Any, Any]]) -> None:
        target = self._stack[-1]
        entries = target.entries if isinstance(target, Inert) else target
        if not isinstance(entries, dict):
            raise CheckpointError("the pickle sets items of something that is not a dictionary")
        for key, value in pairs:
            entries[plain_key(key, self._budget)] = value

    def _new_dictionary(self) -> None:
        pairs = self._pop_pairs()
        self._push({})
        self._set_items(pairs)

    # Objects

    def _global(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise CheckpointError("the pickle names a global by something that is not a string")
        if (module, name) not in self._globals:
            self._budget.charge(_RECORD + _MAX_CHARACTER * (len(module) + len(name)), "names")
            dotted = f"{module}.{name}"
            construct = self._known.get(dotted)
            known = Inert(dotted) if construct is None else Known(dotted, construct)
            self._globals[module, name] = known
        self._push(self._globals[module, name])

    def _construct(self, target: Any, arguments: Any) -> None:
        if not isinstance(arguments, tuple):
            raise CheckpointError("the pickle calls with something that is not a tuple")
        if isinstance(target, Known):
            self._budget.charge(_REFERENCE * len(arguments), "arguments")
            self._push(target.construct(*arguments))
        elif isinstance(target, Inert):
            self._budget.charge(_RECORD, "objects")
            self._push(Inert(target.name, arguments))
        else:
            raise CheckpointError("the pickle calls something that is not a global")

    def _reduce(self) -> None:
        arguments, target = self._stack.pop(), self._stack.pop()
        self._construct(target, arguments)

    def _new_with_keywords(self) -> None:
        keywords, arguments, target = self._stack.pop(), self._stack.pop(), self._stack.pop()
        self._construct(target, arguments)
        if isinstance(self._stack[-1], Inert):
            self._stack[-1].state = keywords

    def _instance(self) -> None:
        module, name = self._line(), self._line()
        arguments = tuple(self._pop_to_mark())
        self._global(module, name)
        self._construct(self._stack.pop(), arguments)

    def _object(self) -> None:
        target, *arguments = self._pop_to_mark()
        self._construct(target, tuple(arguments))

    def _stack_global(self) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        self._global(module, name)

    def _build(self) -> None:
        state = self._stack.pop()
        if isinstance(self._stack[-1], Inert):
            self._stack[-1].state = state  # other objects keep only their contents

    def _text_integer(self) -> None:
        text = self._line()
        booleans = {"00": False, "01": True}
        self._push(booleans[text] if text in booleans else int(text))

    def _text_string(self) -> None:
        text = self._line("latin-1")
        if len(text) < 2 or text[0] != text[-1] or text[0] not in "'\"":
            raise CheckpointError("the pickle holds an unquoted string")
        self._push(text[1:-1].encode("latin-1").decode("unicode_escape"))

    def _push_persistent(self, identity: Any) -> None:
        self._push(self._persistent(identity))

    def _protocol(self) -> None:
        if (version := self._take(1)[0]) > MAX_PROTOCOL:
            raise CheckpointError(f"the pickle is of the unknown protocol {version}")

    def _remember(self, index: int) -> None:
        self._memo[index] = self._stack[-1]


def _little_endian(data: bytes) -> int:
    return int.from_bytes(data, "little", signed=True)


def _decode(data: bytes) -> str:
    return data.decode("utf-8", "surrogatepass")


_Operation = Callable[[PickleMachine], object]
_OPERATIONS: dict[bytes, _Operation] = {
    pickle.PROTO: lambda m: m._protocol(),
    pickle.FRAME: lambda m: m._number("<Q"),
    pickle.MARK: lambda m: m._push(_MARK),
    pickle.POP: lambda m: m._stack.pop(),
    pickle.POP_MARK: lambda m: m._pop_to_mark(),
    pickle.DUP: lambda m: m._push(m._stack[-1]),
    # Scalars
    pickle.NONE: lambda m: m._push(None),
    pickle.NEWTRUE: lambda m: m._push(True),
    pickle.NEWFALSE: lambda m: m._push(False),
    pickle.INT: lambda m: m._text_integer(),
    pickle.BININT: lambda m: m._push(m._number("<i")),
    pickle.BININT1: lambda m: m._push(m._number("<B")),
    pickle.BININT2: lambda m: m._push(m._number("<H")),
    pickle.LONG: lambda m: m._push(int(m._line().removesuffix("L"))),
    pickle.LONG1: lambda m: m._push(_little_endian(m._sized("<B"))),
    pickle.LONG4: lambda m: m._push(_little_endian(m._sized("<i"))),
    pickle.FLOAT: lambda m: m._push(float(m._line())),
    pickle.BINFLOAT: lambda m: m._push(m._number(">d")),
    pickle.STRING: lambda m: m._text_string(),
    pickle.BINSTRING: lambda m: m._push(m._sized("<i").decode("latin-1")),
    pickle.SHORT_BINSTRING: lambda m: m._push(m._sized("<B").decode("latin-1")),
    pickle.UNICODE: lambda m: m._push(m._line("raw-unicode-escape")),
    pickle.BINUNICODE: lambda m: m._push(_decode(m._sized("<I"))),
    pickle.SHORT_BINUNICODE: lambda m: m._push(_decode(m._sized("<B"))),
    pickle.BINUNICODE8: lambda m: m._push(_decode(m._sized("<Q"))),
    pickle.BINBYTES: lambda m: m._push(m._sized("<I")),
    pickle.SHORT_BINBYTES: lambda m: m._push(m._sized("<B")),
    pickle.BINBYTES8: lambda m: m._push(m._sized("<Q")),
    pickle.BYTEARRAY8: lambda m: m._push(m._sized("<Q")),
    pickle.READONLY_BUFFER: lambda m: None,
    # Containers
    pickle.EMPTY_TUPLE: lambda m: m._push(()),
    pickle.TUPLE: lambda m: m._push(tuple(m._pop_to_mark())),
    pickle.TUPLE1: lambda m: m._push_tuple(1),
    pickle.TUPLE2: lambda m: m._push_tuple(2),
    pickle.TUPLE3: lambda m: m._push_tuple(3),
    pickle.EMPTY_LIST: lambda m: m._push([]),
    pickle.LIST: lambda m: m._push(m._pop_to_mark()),
    pickle.APPEND: lambda m: m._append([m._stack.pop()]),
    pickle.APPENDS: lambda m: m._append(m._pop_to_mark()),
    pickle.EMPTY_DICT: lambda m: m._push({}),
    pickle.DICT: lambda m: m._new_dictionary(),
    pickle.SETITEM: lambda m: m._set_items([(m._stack.pop(-2), m._stack.pop())]),
    pickle.SETITEMS: lambda m: m._set_items(m._pop_pairs()),
    # No checkpoint needs a set; a list holds its items without hashing them.
    pickle.EMPTY_SET: lambda m: m._push([]),
    pickle.ADDITEMS: lambda m: m._append(m._pop_to_mark()),
    pickle.FROZENSET: lambda m: m._push(m._pop_to_mark()),
    # The memo
    pickle.PUT: lambda m: m._remember(int(m._line())),
    pickle.BINPUT: lambda m: m._remember(m._number("<B")),
    pickle.LONG_BINPUT: lambda m: m._remember(m._number("<I")),
    pickle.MEMOIZE: lambda m: m._remember(len(m._memo)),
    pickle.GET: lambda m: m._push(m._memo[int(m._line())]),
    pickle.BINGET: lambda m: m._push(m._memo[m._number("<B")]),
    pickle.LONG_BINGET: lambda m: m._push(m._memo[m._number("<I")]),
    # Objects
    pickle.GLOBAL: lambda m: m._global(m._line(), m._line()),
    pickle.STACK_GLOBAL: lambda m: m._stack_global(),
    pickle.REDUCE: lambda m: m._reduce(),
    pickle.NEWOBJ: lambda m: m._reduce(),
    pickle.NEWOBJ_EX: lambda m: m._new_with_keywords(),
    pickle.INST: lambda m: m._instance(),
    pickle.OBJ: lambda m: m._object(),
    pickle.BUILD: lambda m: m._build(),
    pickle.PERSID: lambda m: m._push_persistent(m._line()),
    pickle.BINPERSID: lambda m: m._push_persistent(m._stack.pop()),
}
