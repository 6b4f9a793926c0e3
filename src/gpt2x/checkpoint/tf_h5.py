"""HDF5 weights of transformers' TensorFlow models: ``tf_model.h5`` and Keras 2's `save_weights`.

One dataset per variable, under groups named for the layer and the variable's scope; the scope
begins with the model's name, shards leave it out. Read with h5py, without TensorFlow.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gpt2x.checkpoint.base import BFLOAT16, LazyTensor, RawFile
from gpt2x.checkpoint.binary import check_shape
from gpt2x.checkpoint.names import Rename, tensorflow_name
from gpt2x.checkpoint.optional import require
from gpt2x.errors import CheckpointError

_MAX_COMPRESSION = 100
_OPAQUE = np.dtype("V2")  # what HDF5 makes of bfloat16, which Keras names in an attribute
_MAX_DEPTH = 32
_OPTIMIZER = "optimizer_weights"
_MODEL = "model_weights"  # the group of a whole model saved by Keras 2


def open_raw(path: Path, stream: io.RawIOBase | None = None) -> RawFile:
    """Open one HDF5 file, or an open stream of one that is part of the file at `path`.

    Raises CheckpointError for a file that is damaged, or whose tensors lie outside of it or would
    take more memory than it can hold; MissingBackendError without h5py.
    """
    h5py = require("h5py", "Reading HDF5 weights")
    try:
        file = h5py.File(stream or path, "r")
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{str(path)!r} is not a sound HDF5 file: {error}.") from error
    try:
        tensors: dict[str, LazyTensor] = {}
        root = file.get(_MODEL, file)
        _collect(h5py, root, path, tensors, path.stat().st_size, set())
    except BaseException as error:
        file.close()
        if isinstance(error, CheckpointError) or not isinstance(error, _DAMAGE):
            raise
        raise CheckpointError(f"{str(path)!r} is not a sound HDF5 file: {error}.") from error
    if not tensors:
        file.close()
        raise CheckpointError(f"{str(path)!r} holds no weights.")
    return RawFile(tensors, {}, file.close)


def rename(metadata: Mapping[str, Any]) -> Rename:
    """How to read names."""
    return tensorflow_name


_DAMAGE = (OSError, ValueError, KeyError, TypeError, RuntimeError, OverflowError, MemoryError)


def _collect(
    h5py: Any,
    group: Any,
    path: Path,
    tensors: dict[str, LazyTensor],
    size: int,
    seen: set[int],
    depth: int = 0,
) -> None:
    """Gather the datasets below a group; links, which may lead out of the file, are refused.

    So is a group in two places: a few that hold each other have more paths than can be followed.
    """
    if depth > _MAX_DEPTH:
        raise CheckpointError(f"{str(path)!r} nests groups more than {_MAX_DEPTH} deep.")
    address = h5py.h5o.get_info(group.id).addr
    if address in seen:
        raise CheckpointError(f"{str(path)!r} links to {group.name!r} from two places; refused.")
    seen.add(address)
    for name in group:
        if depth == 0 and name == _OPTIMIZER:
            continue
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise CheckpointError(f"{str(path)!r} links to {name!r} elsewhere; refused.")
        item = group[name]
        if isinstance(item, h5py.Dataset):
            # The group of a layer repeats the layer's name, which the scope holds as well.
            source = item.name.strip("/").removeprefix(f"{_MODEL}/")
            tensors[source] = _tensor(item, path, size)
        elif isinstance(item, h5py.Group):
            _collect(h5py, item, path, tensors, size, seen, depth + 1)


def _tensor(dataset: Any, path: Path, size: int) -> LazyTensor:
    shape = check_shape(dataset.shape, f"{str(path)!r}: {dataset.name!r}")
    dtype = np.dtype(dataset.dtype)
    if dtype == _OPAQUE and dataset.attrs.get("dtype") == "bfloat16":
        dtype = BFLOAT16
    stored = dataset.id.get_storage_size()
    if dataset.external or dataset.is_virtual or not (dtype == BFLOAT16 or dtype.kind in "fiub"):
        raise CheckpointError(f"{str(path)!r}: {dataset.name!r} is no plain array of numbers.")
    if stored > size or dataset.nbytes > stored * _MAX_COMPRESSION:
        raise CheckpointError(
            f"{str(path)!r}: {dataset.name!r} claims {dataset.nbytes} bytes, of which the file "
            f"holds {stored}."
        )

    def read(key: Any) -> np.ndarray:
        try:
            array = dataset[key]
        except _DAMAGE as error:
            raise CheckpointError(
                f"{str(path)!r}: cannot read {dataset.name!r}: {error}"
            ) from error
        if dtype == BFLOAT16:
            return np.asarray(array).view(BFLOAT16)
        return np.asarray(array).astype(dtype.newbyteorder("="), copy=False)

    return LazyTensor(
        shape,
        dtype.newbyteorder("="),
        lambda: read(()),
        (lambda first, last: read(slice(first, last))) if shape else None,
    )
