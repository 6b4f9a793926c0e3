"""`Format`, the description of a file format, and `Checkpoint`, the result of reading a file."""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from io import RawIOBase
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from gpt2x.errors import CheckpointError, WeightsError
from gpt2x.formats.binary import BinaryFile
from gpt2x.storage.budget import Budget
from gpt2x.storage.hub import ModelFiles
from gpt2x.weights.lazy import LazyTensor, check_name
from gpt2x.weights.load_plan import numpy_dtype
from gpt2x.weights.names import Rename, to_canonical
from gpt2x.weights.table import Head, Spelling

if TYPE_CHECKING:
    from gpt2x.config import GPT2Config
    from gpt2x.tokenization import GPT2Tokenizer

Answer = TypeVar("Answer")
Open = TypeVar("Open", bound=BinaryFile | RawIOBase)

#: Called with each tensor's bytes once they are written.
Progress = Callable[[int], None]


class Checkpoint(Mapping[str, LazyTensor]):
    """An open checkpoint: canonical name (see `gpt2x.weights.table`) -> tensor in canonical layout.

    A context manager; tensors cannot be read after it is closed. The reader of a format gets an
    empty checkpoint and fills it.

    Attributes:
        format: the format's name, as ``gpt2x convert --to`` spells it.
        path: the folder or file it was opened from.
        config: the config in the files, as a GPT2Config dictionary; None if there is none.
        ignored: name in the file -> why it is not a tensor of the model (buffer, optimizer slot).
        source_names: canonical name -> name in the file.
        quantised: canonical name -> type in the file, for tensors that are read as another type.
        metadata: other entries of the file's header, such as safetensors' ``format``.
        files: the files it reads.
        tokenizer_files: transformers' file name -> contents, for a tokenizer in the same file as
            the weights (GGUF).
    """

    def __init__(
        self,
        format: str,
        path: Path,
        tensors: Mapping[str, LazyTensor] = MappingProxyType({}),
    ) -> None:
        self.format = format
        self.path = path
        self.config: dict[str, Any] | None = None
        self.ignored: dict[str, str] = {}
        self.source_names: dict[str, str] = {}
        self.quantised: dict[str, str] = {}
        self.metadata: dict[str, Any] = {}
        self.files: tuple[Path, ...] = (path,)
        self.tokenizer_files: dict[str, bytes] = {}
        self._tensors = dict(tensors)
        self._held = ExitStack()

    def __getitem__(self, name: str) -> LazyTensor:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def hold(self, file: Open) -> Open:
        """Close a file with the checkpoint; return the file."""
        self._held.callback(file.close)
        return file

    def add(self, canonical: str, source: str, tensor: LazyTensor) -> None:
        """Add a tensor; raises CheckpointError if the file has another for the same parameter."""
        if canonical in self._tensors:
            raise CheckpointError(
                f"{str(self.path)!r} holds the parameter {canonical!r} twice, as "
                f"{self.source_names[canonical]!r} and as {source!r}; remove one of them."
            )
        self._tensors[canonical] = tensor
        self.source_names[canonical] = source

    def add_renamed(self, tensors: Mapping[str, LazyTensor], rename: Rename) -> None:
        """Add a file's tensors under canonical names, in canonical layout, without the buffers."""
        for source, tensor in tensors.items():
            place = rename(check_name(self.path, source))
            if place is None:
                self.ignored[source] = "causal-mask buffer"
            else:
                self.add(place.name, source, to_canonical(tensor, place.layout))

    def replace(self, tensors: Mapping[str, LazyTensor]) -> None:
        """Replace the tensors of these names."""
        self._tensors |= tensors

    def __repr__(self) -> str:
        return f"<Checkpoint {self.format} {str(self.path)!r}: {len(self)} tensors>"

    def close(self) -> None:
        """Close the files; calling it again does nothing."""
        self._held.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


@dataclass(frozen=True)
class UnknownFile:
    """A file of unknown format, which each format may recognise.

    Attributes:
        path: of the file.
        start: its first 16 bytes, or all if it has fewer.
    """

    path: Path
    start: bytes
    _answers: dict[Any, Any] = field(default_factory=dict, repr=False)

    def ask(self, question: Callable[[Path], Answer]) -> Answer:
        """Return the answer of `question` on the file; several formats share one reading."""
        if question not in self._answers:
            self._answers[question] = question(self.path)
        return self._answers[question]


@dataclass(frozen=True, kw_only=True)
class ModelToWrite:
    """The arguments of a format's writer.

    Attributes:
        config: the model's, with `architectures` and `dtype` set.
        head: of the model.
        tensors: canonical name -> tensor in canonical layout, in the source's dtype.
        stored: canonical name -> dtype in the written file.
        dtype: the requested dtype.
        name: the model's name, for users.
        generation_config: its file, if the source has one.
        tokenizer: returns the model's tokenizer; None if the source has no vocabulary.
        progress: called with each tensor's bytes once they are written.
    """

    config: GPT2Config
    head: Head
    tensors: Mapping[str, LazyTensor]
    stored: Mapping[str, str]
    dtype: str | None
    name: str
    generation_config: Path | None
    tokenizer: Callable[[], GPT2Tokenizer | None]
    progress: Progress

    def cast(self) -> dict[str, LazyTensor]:
        """Return the tensors in the dtypes of the written file."""
        return cast_tensors(self.tensors, self.stored)


def cast_tensors(
    tensors: Mapping[str, LazyTensor], dtypes: Mapping[str, str]
) -> dict[str, LazyTensor]:
    """Convert tensors, as they are read, to the dtypes of these names."""
    return {name: tensor.astype(numpy_dtype(dtypes[name])) for name, tensor in tensors.items()}


def stored_dtypes(tensors: Mapping[str, LazyTensor], dtype: str | None) -> dict[str, str]:
    """Return the written dtype of each tensor: the requested one, or its own."""
    return {name: dtype or tensor.dtype.name for name, tensor in tensors.items()}


@dataclass(frozen=True, kw_only=True)
class Format:
    """One file format. Its module holds it as `FORMAT`, where `gpt2x.formats.registry` finds it.

    Attributes:
        name: as ``gpt2x convert --to`` spells it.
        rank: its place in the order in which formats look at folders and files; no two share one.
        patterns: what its files are called, where a folder has none of transformers' names; in the
            order of looking.
        find: returns the file that identifies a checkpoint in a folder where names do not tell.
        recognises: whether a file is of this format; formats of lower rank have said no.
        read: fills a checkpoint, whose `path` is the file that identifies it; further files are
            found through `ModelFiles`.
        write: writes into a file, or into a folder for a format that is not one file.
        weights: what the weights are called that it writes into a model's folder.
        suffixes: how a destination ends that is the weights alone, for a format that is one file;
            such a file holds the config too.
        dtypes: what its tensors may be converted to.
        stored: returns the dtype that each tensor gets for the dtype asked for.
        check: raises WeightsError for a config, or for tensors, that it has no place for.
    """

    name: str
    rank: int
    patterns: tuple[str, ...] = ()
    find: Callable[[Path], Path | None] = lambda folder: None
    recognises: Callable[[UnknownFile], bool] = lambda file: False
    read: Callable[[Checkpoint, ModelFiles], None] | None = None
    write: Callable[[Path, ModelToWrite], None] | None = None
    weights: str = ""
    suffixes: tuple[str, ...] = ()
    dtypes: tuple[str, ...] = ("float32", "float16", "bfloat16")
    stored: Callable[[Mapping[str, LazyTensor], str | None], dict[str, str]] = stored_dtypes
    check: Callable[[GPT2Config, Iterable[str]], None] = lambda config, tensors: None

    @property
    def is_read(self) -> bool:
        """Whether its checkpoints can be opened."""
        return self.read is not None

    @property
    def is_written(self) -> bool:
        """Whether models can be converted to it."""
        return self.write is not None


@dataclass(frozen=True, kw_only=True)
class WeightsFormat(Format):
    """A format of transformers: its weights are one file, or shards that an index lists.

    Attributes:
        place: in transformers' order of looking for `weights`, the name of the one file.
        read_file: returns the tensors of a file that belongs to a checkpoint, under the file's own
            names; the budget is that of all shards.
        rename: returns what reads the names in files that say this of themselves.
        write_file: writes one file: its path, tensors, aliases (further name -> name of a tensor),
            progress.
        spelling: how it spells names and lays out tensors.
        separator: of the parts of a name in the file.
        keeps_tied_head: whether a tied output layer is written too.
        in_shards: whether transformers reads it in shards.
    """

    place: int
    read_file: Callable[[Checkpoint, Path, Budget], dict[str, LazyTensor]] | None = None
    rename: Callable[[Mapping[str, Any]], Rename] | None = None
    write_file: (
        Callable[[Path, Mapping[str, LazyTensor], Mapping[str, str], Progress], None] | None
    ) = None
    spelling: Spelling
    separator: str = "."
    keeps_tied_head: bool = False
    in_shards: bool = True

    @property
    def is_read(self) -> bool:
        """Whether its checkpoints can be opened."""
        return self.read_file is not None

    @property
    def is_written(self) -> bool:
        """Whether models can be converted to it."""
        return self.write_file is not None

    def single(self, variant: str | None) -> str:
        """Return the file's name; a variant such as "fp16" comes before the last dot."""
        return _with_variant(self.weights, variant)

    def index(self, variant: str | None) -> str:
        """Return the name of the index of its shards."""
        return _with_variant(f"{self.weights}.index.json", variant)

    def names(self, variant: str | None = None) -> tuple[str, str]:
        """Return the names to search: of the one file, then of the index."""
        return self.single(variant), self.index(variant)


def _with_variant(name: str, variant: str | None) -> str:
    stem, dot, suffix = name.rpartition(".")
    return f"{stem}.{variant}{dot}{suffix}" if variant else name


#: What `zipfile` raises for an archive that is damaged.
ZIP_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    OSError,
    EOFError,
    KeyError,
    IndexError,
    ValueError,
    OverflowError,
    RuntimeError,  # an encrypted entry; JSON too deep; NotImplementedError: an unknown compression
)


@contextmanager
def reading(path: Path, kind: str, damage: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Convert the errors of a damaged file to a CheckpointError that names the file.

    Args:
        path: the file; its name comes before errors without it.
        kind: what the file should be, such as "GGUF file".
        damage: exceptions that mean damage, beside CheckpointError.
    """
    try:
        yield
    except Exception as error:
        is_named = isinstance(error, CheckpointError) and str(path) in str(error)
        if is_named or not isinstance(error, (CheckpointError, *damage)):
            raise
        raise CheckpointError(f"{str(path)!r} is not a sound {kind}: {error}.") from error


def check_fields(owner: str, config: GPT2Config, expressible: Mapping[str, bool]) -> None:
    """Raise WeightsError for fields of the config that `owner` cannot express (name -> whether)."""
    if found := [f"{name}={getattr(config, name)}" for name, can in expressible.items() if not can]:
        raise WeightsError(f"{owner} with {', '.join(found)}.")
