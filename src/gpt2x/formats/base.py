"""What every format's reader returns: named tensors that are read one at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from gpt2x.weights.lazy import LazyTensor


class Checkpoint(Mapping[str, LazyTensor]):
    """An open checkpoint: canonical name (see `gpt2x.weights.table`) -> tensor in canonical layout.

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


class RawFile(NamedTuple):
    """The tensors of one file under the file's own names."""

    tensors: Mapping[str, LazyTensor]
    metadata: Mapping[str, Any]
    close: Callable[[], None]
