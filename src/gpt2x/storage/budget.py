"""Limits on the memory and time of reading, so that a small file cannot exhaust a machine."""

from __future__ import annotations

from gpt2x.errors import CheckpointError

#: Bytes that reading may take for each byte of the files, and in addition for any file. Charges are
#: estimates; with what they omit, reading takes at most 300 MB and `TIMES` the size.
TIMES = 10
ALLOWANCE = 250_000_000

#: The cost of the smallest things that readers make: a value (a number, an entry of a dictionary),
#: a tensor with its names, an open file.
VALUE = 128
TENSOR = 4096
FILE = 16_384


class Budget:
    """The bytes that reading the files of one checkpoint may cost.

    Readers charge for memory before they take it: for the objects they make, each tensor's values
    (though these are read later, if at all), and buffers between the two. They also charge for
    what they go through a second time (a key that is hashed again, arguments that are passed
    again), so that time stays in proportion as memory does.

    Args:
        name: the file or folder, for messages.
        size: bytes of the file; further files are added with `admit`.
    """

    __slots__ = ("_left", "_name", "_size")

    def __init__(self, name: str, size: int = 0) -> None:
        self._name = name
        self._size = size
        self._left = ALLOWANCE + TIMES * size

    def admit(self, size: int) -> None:
        """Add a file of `size` bytes to the budget."""
        self._size += size
        self._left += TIMES * size
        self.charge(FILE, "open files")

    def charge(self, nbytes: int, what: str) -> None:
        """Spend `nbytes` on `what`, a plural; raises CheckpointError if fewer are left."""
        self._left -= nbytes
        if self._left < 0:
            allowed = ALLOWANCE + TIMES * self._size
            raise CheckpointError(
                f"{self._name!r} asks for {allowed - self._left:,} bytes of memory or more, up to "
                f"its {what}; {self._size:,} bytes of file may take {allowed:,} ({TIMES} times as "
                f"much and {ALLOWANCE:,}). It is damaged, or made to exhaust the machine."
            )
