"""What every format's reader returns: named tensors that are read one at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import ml_dtypes
import numpy as np

from gpt2x.errors import CheckpointError
from gpt2x.weights import Shape

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
BLOCK_BYTES = 2 * 2**20
MAX_NAME = 8192  # characters of a tensor's name; far above any model's


@dataclass(frozen=True, slots=True)
class LazyTensor:
    """One tensor of a file: its shape and dtype are known, its values stay in the file.

    `read` returns a new array each time and allocates little more than that array; a layout change
    (`transposed`, `mapped`) happens as it is read. `rows`, where a format can give part of a
    tensor, returns the slice from one index to another along the first axis.
    """

    shape: Shape
    dtype: np.dtype[Any]
    reader: Callable[[], np.ndarray] = field(repr=False)
    rows: Callable[[int, int], np.ndarray] | None = field(default=None, repr=False)

    @classmethod
    def of(cls, array: np.ndarray) -> LazyTensor:
        """Wrap an array that is in memory already."""
        return cls(array.shape, array.dtype, lambda: array, lambda first, last: array[first:last])

    @property
    def size(self) -> int:
        """How many elements it has."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """How many bytes its values take in memory."""
        return self.size * self.dtype.itemsize

    def read(self, dtype: np.dtype[Any] | None = None) -> np.ndarray:
        """Return the values, converted to `dtype` if one is given.

        Raises CheckpointError where the file cannot give them.
        """
        if dtype is not None and dtype != self.dtype:
            return self._read_as(dtype)
        array = self.reader()
        assert array.shape == self.shape, (array.shape, self.shape)
        assert array.dtype == self.dtype, (array.dtype, self.dtype)
        return array

    def blocks(self, nbytes: int = BLOCK_BYTES) -> Iterator[np.ndarray]:
        """Yield the values in slices along the first axis, of about `nbytes` where it can."""
        if self.rows is None or self.nbytes <= nbytes:
            yield self.read()
            return
        step = max(1, nbytes * self.shape[0] // self.nbytes)
        for start in range(0, self.shape[0], step):
            yield self.rows(start, min(start + step, self.shape[0]))

    def _read_as(self, dtype: np.dtype[Any]) -> np.ndarray:
        # By blocks, so that the array before conversion is never whole in memory.
        converted = np.empty(self.shape, dtype)
        if self.rows is None or not self.shape:
            converted[...] = self.read()
            return converted
        start = 0
        for block in self.blocks():
            converted[start : start + len(block)] = block
            start += len(block)
        return converted

    def mapped(self, shape: Shape, change: Callable[[np.ndarray], np.ndarray]) -> LazyTensor:
        """The tensor that `change` makes of this one; `shape` is the shape it will have."""
        return LazyTensor(tuple(shape), self.dtype, lambda: change(self.read()))

    def transposed(self) -> LazyTensor:
        """The transpose of a matrix, row by row in memory."""
        return self.mapped(self.shape[::-1], lambda array: np.ascontiguousarray(array.T))

    def reshaped(self, *shape: int) -> LazyTensor:
        """The same values in row-major order under another shape."""
        return self.mapped(shape, lambda array: array.reshape(shape))

    def astype(self, dtype: np.dtype[Any]) -> LazyTensor:
        """The values converted to `dtype` as they are read."""
        if dtype == self.dtype:
            return self
        return LazyTensor(self.shape, dtype, lambda: self.read(dtype))


def concatenated(tensors: Sequence[LazyTensor], axis: int) -> LazyTensor:
    """The tensors joined along `axis` as they are read; shapes must agree elsewhere."""
    first = tensors[0]
    alike = [tensor.shape[:axis] + tensor.shape[axis:][1:] for tensor in tensors]
    same = len(set(alike)) == 1 and all(tensor.dtype == first.dtype for tensor in tensors)
    if not same or axis >= len(first.shape):
        raise CheckpointError(f"parts of shapes {[t.shape for t in tensors]} cannot be joined")
    shape = list(first.shape)
    shape[axis] = sum(tensor.shape[axis] for tensor in tensors)
    return LazyTensor(
        tuple(shape),
        first.dtype,
        lambda: np.concatenate([tensor.read() for tensor in tensors], axis=axis),
    )


class Checkpoint(Mapping[str, LazyTensor]):
    """An open checkpoint: canonical name (see `gpt2x.weights`) -> tensor in canonical layout.

    A context manager; tensors cannot be read once it is closed.

    Attributes:
        format: the format's name, as ``gpt2x convert --to`` spells it.
        path: the folder or file it was opened from.
        config: what the files say of the model, as a GPT2Config dictionary; None if nothing.
        ignored: name in the file -> why it is not among the tensors (buffers, optimizer slots).
        source_names: canonical name -> name in the file.
        quantised: canonical name -> its type in the file, of tensors that are read as another.
        metadata: what else the file says of itself, such as safetensors' ``format``.
        files: the files it reads.
        tokenizer_files: transformers' file name -> contents, of a tokenizer within the weights'
            own file (GGUF).
    """

    def __init__(
        self,
        format: str,
        path: Path,
        tensors: Mapping[str, LazyTensor],
        *,
        config: dict[str, Any] | None = None,
        ignored: Mapping[str, str] | None = None,
        source_names: Mapping[str, str] | None = None,
        quantised: Mapping[str, str] | None = None,
        metadata: Mapping[str, Any] | None = None,
        files: Iterable[Path] = (),
        tokenizer_files: Mapping[str, bytes] | None = None,
        close: Callable[[], None] = lambda: None,
    ) -> None:
        self.format = format
        self.path = Path(path)
        self.config = config
        self.ignored = dict(ignored or {})
        self.source_names = dict(source_names or {})
        self.quantised = dict(quantised or {})
        self.metadata = dict(metadata or {})
        self.files = tuple(files) or (self.path,)
        self.tokenizer_files = dict(tokenizer_files or {})
        self._tensors = dict(tensors)
        self._close = close

    def __getitem__(self, name: str) -> LazyTensor:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def replace(self, tensors: Mapping[str, LazyTensor]) -> None:
        """Put tensors in the place of those of the same names."""
        self._tensors |= tensors

    def __repr__(self) -> str:
        return f"<Checkpoint {self.format} {str(self.path)!r}: {len(self)} tensors>"

    def close(self) -> None:
        """Close the files; calling it again does nothing."""
        self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def check_name(path: Path, name: str) -> str:
    """Return a tensor's name, or raise CheckpointError if it is too long to be one."""
    if len(name) > MAX_NAME:
        raise CheckpointError(
            f"{str(path)!r} holds a name of {len(name)} characters; {MAX_NAME} are allowed."
        )
    return name


class RawFile(NamedTuple):
    """The tensors of one file under the file's own names."""

    tensors: Mapping[str, LazyTensor]
    metadata: Mapping[str, Any]
    close: Callable[[], None]


@dataclass
class CanonicalNames:
    """Collects a file's tensors under canonical names; refuses a name that comes twice."""

    path: Path
    tensors: dict[str, LazyTensor] = field(default_factory=dict)
    ignored: dict[str, str] = field(default_factory=dict)
    source_names: dict[str, str] = field(default_factory=dict)

    def add(self, canonical: str, source: str, tensor: LazyTensor) -> None:
        """Add one tensor; raises CheckpointError if another stood for the same parameter."""
        if canonical in self.tensors:
            raise CheckpointError(
                f"{str(self.path)!r} holds the parameter {canonical!r} twice, as "
                f"{self.source_names[canonical]!r} and as {source!r}; remove one of them."
            )
        self.tensors[canonical] = tensor
        self.source_names[canonical] = source

    def ignore(self, source: str, why: str) -> None:
        """Note a name of the file that is not a weight of the model."""
        self.ignored[source] = why
