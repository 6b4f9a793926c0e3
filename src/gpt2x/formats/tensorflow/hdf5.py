"""HDF5 weights of transformers' TensorFlow models: ``tf_model.h5`` and Keras 2's `save_weights`.

One dataset per variable, under groups named for the layer and the variable's scope; the scope
begins with the model's name, except in shards. Read with h5py, without TensorFlow.
"""

from __future__ import annotations

import enum
import io
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from gpt2x.backends import require_library
from gpt2x.errors import CheckpointError
from gpt2x.formats.base import Checkpoint, UnknownFile, WeightsFormat, reading
from gpt2x.formats.binary import check_shape
from gpt2x.storage.budget import ALLOWANCE, TENSOR, Budget
from gpt2x.weights.lazy import BFLOAT16, LazyTensor, check_name
from gpt2x.weights.names import tensorflow_name
from gpt2x.weights.table import TENSORFLOW

_OPAQUE = np.dtype("V2")  # HDF5's type for bfloat16, which Keras names in an attribute
_MAX_DEPTH = 32
_OPTIMIZER = "optimizer_weights"
_MODEL = "model_weights"  # the group of a whole model saved by Keras 2
_LINK = 256  # bytes of memory for the name of a link

# The filters that are read, by HDF5's numbers.
_DEFLATE = 1
_FILTERS = {_DEFLATE: "gzip", 2: "shuffle", 3: "fletcher32"}
_CHECKSUM_BYTES = 4  # bytes that fletcher32 adds
_MAX_INFLATION = 1032  # bytes that deflate compresses into one, at most


def read_file(
    checkpoint: Checkpoint, path: Path, budget: Budget, *, stream: io.RawIOBase | None = None
) -> dict[str, LazyTensor]:
    """Return the tensors of an HDF5 file, or of an open stream that is part of the file at `path`.

    Raises CheckpointError for a file that is damaged, or whose tensors lie outside of it or would
    take more memory than `budget` allows; MissingBackendError without h5py.
    """
    with reading(path, "HDF5 file", _DAMAGE):
        collector = _Collector(checkpoint.hold(_open(path, stream)), path, budget)
        collector.collect(collector.root())
    if not collector.tensors:
        raise CheckpointError(f"{str(path)!r} holds no weights.")
    return collector.tensors


def _h5py() -> Any:
    return require_library("h5py", "Reading HDF5 weights")


def _open(path: Path, stream: io.RawIOBase | None = None) -> Any:
    return _h5py().File(stream or path, "r")


def _has_link(file: Any, name: str) -> bool:
    """Return whether an h5py file has a link of this name at its root.

    ``name in file`` would open the target of the link, which may be another file.
    """
    return file.id.links.exists(name.encode())


class Kind(enum.Enum):
    """Whose HDF5 file it is."""

    KERAS_2 = "Keras 2"
    FUNCTIONAL = "a functional model of Keras 3, as KerasHub's are"
    SUBCLASSED = "another model of Keras 3"


def kind_of(file: UnknownFile) -> Kind | None:
    """Whose HDF5 file it is; None if it is not one. Raises CheckpointError if it is damaged."""
    return file.ask(_kind) if file.start[:8] == b"\x89HDF\r\n\x1a\n" else None


def _kind(path: Path) -> Kind:
    with reading(path, "HDF5 file", _DAMAGE), _open(path) as file:
        if "layer_names" in file.attrs or _has_link(file, _MODEL):
            return Kind.KERAS_2
        groups_layers = any(_has_link(file, name) for name in ("layers", "_backbone", "backbone"))
        return Kind.FUNCTIONAL if groups_layers else Kind.SUBCLASSED


_DAMAGE = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    RuntimeError,
    OverflowError,
    MemoryError,
    zlib.error,
)


class _Collector:
    """Gathers the datasets of a file as tensors, by their paths."""

    def __init__(self, file: Any, path: Path, budget: Budget) -> None:
        self.tensors: dict[str, LazyTensor] = {}
        self._h5py = _h5py()
        self._file = file
        self._path = path
        self._size = path.stat().st_size
        self._budget = budget
        self._budget.admit(self._size)
        self._seen: set[int] = set()
        self._inflated: set[str] = set()

    def root(self) -> Any:
        """Return the group of the weights: in the file of a whole model, one of its groups."""
        if not _has_link(self._file, _MODEL):
            return self._file
        group = self._member(self._file, _MODEL)
        if not isinstance(group, self._h5py.Group):
            raise CheckpointError(
                f"{str(self._path)!r} holds {_MODEL!r}, but not as a group of weights."
            )
        return group

    def collect(self, group: Any, depth: int = 0) -> None:
        """Gather the datasets below a group.

        A group in two places is refused: a few groups that contain each other have more paths than
        anyone can follow.
        """
        if depth > _MAX_DEPTH:
            raise CheckpointError(f"{str(self._path)!r} nests groups more than {_MAX_DEPTH} deep.")
        address = self._h5py.h5o.get_info(group.id).addr
        if address in self._seen:
            raise CheckpointError(
                f"{str(self._path)!r} links to {group.name!r} from two places; refused."
            )
        self._seen.add(address)
        self._budget.charge(len(group) * _LINK, "links")
        for name in group:
            if depth == 0 and name == _OPTIMIZER:
                continue
            item = self._member(group, name)
            if isinstance(item, self._h5py.Dataset):
                # The group of a layer repeats the layer's name; the scope contains it too.
                source = item.name.strip("/").removeprefix(f"{_MODEL}/")
                self.tensors[source] = self._tensor(item)
            elif isinstance(item, self._h5py.Group):
                self.collect(item, depth + 1)

    def _member(self, group: Any, name: str) -> Any:
        """Return a member of a group; a link is refused, since it may lead out of the file."""
        check_name(self._path, f"{group.name}/{name}")
        if not isinstance(group.get(name, getlink=True), self._h5py.HardLink):
            raise CheckpointError(f"{str(self._path)!r} links to {name!r} elsewhere; refused.")
        return group[name]

    def _tensor(self, dataset: Any) -> LazyTensor:
        what = f"{str(self._path)!r}: {dataset.name!r}"
        shape = check_shape(dataset.shape, what)
        dtype = np.dtype(dataset.dtype)
        if dtype == _OPAQUE and _is_bfloat16(dataset):
            dtype = BFLOAT16
        stored = dataset.id.get_storage_size()
        if (
            dataset.external
            or dataset.is_virtual
            or not (dtype == BFLOAT16 or dtype.kind in "fiub")
        ):
            raise CheckpointError(f"{what} is not a plain array of numbers.")
        if stored > self._size or (dataset.nbytes and not stored):
            raise CheckpointError(
                f"{what} claims {dataset.nbytes} bytes, of which the file holds {stored}."
            )
        filters = _filters(dataset)
        if unknown := [code for code in filters if code not in _FILTERS]:
            raise CheckpointError(
                f"{what} is stored through the filters {unknown} of HDF5; read are "
                f"{', '.join(_FILTERS.values())}. Rewrite the file with h5repack."
            )
        # A chunk is always inflated whole. In memory beside the values are the chunk that they come
        # from, or the values in their old layout.
        nbytes = max(dataset.nbytes, _chunk_bytes(dataset))
        copies = 3 if filters else 1
        self._budget.charge(TENSOR + len(dataset.name) + copies * nbytes, "tensors")
        name = dataset.name

        def read(key: Any) -> np.ndarray:
            try:
                array = np.asarray(self._sound(name)[key])
            except _DAMAGE as error:
                raise CheckpointError(f"{what} cannot be read: {error}") from error
            if dtype == BFLOAT16:
                return array.view(BFLOAT16)
            return array.astype(dtype.newbyteorder("="), copy=False)

        return LazyTensor(
            shape,
            dtype.newbyteorder("="),
            lambda: read(()),
            (lambda first, last: read(slice(first, last))) if shape else None,
        )

    def _sound(self, name: str) -> Any:
        """Return the dataset of this name, after a check that its chunks inflate to their own size.

        It is opened again each time, since an open dataset takes many kilobytes. HDF5 inflates a
        chunk, however large it becomes, before it compares the sizes.
        """
        dataset = self._file[name]
        if name not in self._inflated and _DEFLATE in _filters(dataset):
            _check_chunks(dataset)
        self._inflated.add(name)
        return dataset


def _filters(dataset: Any) -> list[int]:
    properties = dataset.id.get_create_plist()
    return [properties.get_filter(number)[0] for number in range(properties.get_nfilters())]


def _chunk_bytes(dataset: Any) -> int:
    return math.prod(dataset.chunks) * dataset.dtype.itemsize if dataset.chunks else 0


def _check_chunks(dataset: Any) -> None:
    limit = _chunk_bytes(dataset) + _CHECKSUM_BYTES
    skipped = 1 << _filters(dataset).index(_DEFLATE)  # of a chunk that deflate does not shrink
    for number in range(dataset.id.get_num_chunks()):
        chunk = dataset.id.get_chunk_info(number)
        if chunk.size * _MAX_INFLATION <= ALLOWANCE:
            continue
        mask, raw = dataset.id.read_direct_chunk(chunk.chunk_offset)
        if not mask & skipped and len(zlib.decompressobj().decompress(raw, limit + 1)) > limit:
            raise ValueError(f"a chunk of it holds more than {limit} bytes")


def _is_bfloat16(dataset: Any) -> bool:
    if "dtype" not in dataset.attrs or dataset.attrs.get_id("dtype").shape != ():
        return False
    return dataset.attrs["dtype"] == "bfloat16"


FORMAT = WeightsFormat(
    name="tf-h5",
    rank=40,
    place=3,
    weights="tf_model.h5",
    patterns=("*.h5",),
    recognises=lambda file: kind_of(file) is Kind.KERAS_2,
    read_file=read_file,
    rename=lambda metadata: tensorflow_name,
    spelling=TENSORFLOW,
)
