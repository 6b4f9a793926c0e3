"""Orbax checkpoints: the parameters of a Flax model in a folder ``params``, beside config.json.

A file ``_METADATA`` lists the arrays; each is a Zarr array, all of them in one OCDBT database or
each in a folder. They are read with tensorstore, the library of Orbax itself and a part of every
installation of Flax, and written by Orbax. Parameters may also be in the opened folder itself, and
may be those of an `nnx.State`.

Source: ``orbax/checkpoint/_src/metadata/tree.py`` and ``_src/serialization/tensorstore_utils.py``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gpt2x import backends
from gpt2x.backends import require_library
from gpt2x.errors import CheckpointError
from gpt2x.formats import shards
from gpt2x.formats.base import Checkpoint, Format, ModelToWrite
from gpt2x.formats.binary import check_shape
from gpt2x.storage.budget import Budget
from gpt2x.storage.hub import ModelFiles
from gpt2x.storage.json_files import read_object
from gpt2x.weights.lazy import LazyTensor
from gpt2x.weights.names import Place, flax_name, from_canonical
from gpt2x.weights.table import FLAX, Head

PARAMS_NAME = "params"
METADATA_NAME = "_METADATA"
_CONFIG_NAME = "config.json"
_DATABASE_NAME = "manifest.ocdbt"
_ARRAY = 20_000  # bytes of an open array of tensorstore's


def _find_params(folder: Path) -> Path | None:
    """Return the file that lists the parameters, in a checkpoint folder or its ``params``."""
    for inside in (folder / PARAMS_NAME, folder):
        if (inside / METADATA_NAME).is_file():
            return inside / METADATA_NAME
    return None


def _read(checkpoint: Checkpoint, files: ModelFiles) -> None:
    """Read a checkpoint by its ``_METADATA``.

    Raises CheckpointError if it is damaged, MissingBackendError without tensorstore.
    """
    folder = checkpoint.path.parent
    checkpoint.path, checkpoint.files = folder, (folder,)
    tensors = {"/".join(keys): tensor for keys, tensor in open_arrays(folder).items()}
    checkpoint.add_renamed(tensors, _rename)
    beside = folder.parent / _CONFIG_NAME
    if folder.name == PARAMS_NAME and beside.is_file():
        checkpoint.config = read_object(beside)


def _rename(source: str) -> Place | None:
    return flax_name(source.removesuffix("/value"))  # of the variables of an nnx.State


def open_arrays(folder: Path) -> dict[tuple[str, ...], LazyTensor]:
    """Return the arrays of a folder that Orbax wrote, by their keys in the tree.

    Raises CheckpointError if they are damaged or claim more memory than the files can hold.
    """
    tensorstore = require_library("tensorstore", "Reading Orbax checkpoints", extra="flax")
    folder = folder.expanduser().absolute()
    stored = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    budget = Budget(str(folder), stored)
    metadata = read_object(folder / METADATA_NAME, budget)
    arrays = {
        keys: _open_array(tensorstore, folder, keys, metadata, budget)
        for keys in _keys(folder, metadata)
    }
    if not arrays:
        raise CheckpointError(f"{str(folder)!r} holds no arrays.")
    return arrays


def _keys(folder: Path, metadata: Mapping[str, Any]) -> list[tuple[str, ...]]:
    try:
        return [
            tuple(str(key["key"]) for key in entry["key_metadata"])
            for entry in metadata["tree_metadata"].values()
        ]
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{str(folder / METADATA_NAME)!r} lists no arrays.") from error


def _open_array(
    tensorstore: Any,
    folder: Path,
    keys: tuple[str, ...],
    metadata: Mapping[str, Any],
    budget: Budget,
) -> LazyTensor:
    name = ".".join(keys)
    what = f"{str(folder)!r}: {name!r}"
    if (folder / _DATABASE_NAME).is_file():
        place = {"driver": "ocdbt", "base": f"{folder.as_uri()}/", "path": f"{name}/"}
    else:
        shards.check_shard_name(folder / METADATA_NAME, name)
        place = {"driver": "file", "path": f"{folder / name}/"}
    driver = "zarr3" if metadata.get("use_zarr3") else "zarr"
    budget.charge(_ARRAY, "arrays")
    try:
        array = tensorstore.open(
            {"driver": driver, "kvstore": place}, open=True, read=True
        ).result()
        shape, dtype = check_shape(array.shape, what), np.dtype(array.dtype.numpy_dtype)
        piece = math.prod(array.chunk_layout.read_chunk.shape or ()) * dtype.itemsize
    except CheckpointError:
        raise
    except Exception as error:  # tensorstore raises many kinds of exceptions
        raise _damaged(what, error) from error
    # A chunk is always decompressed whole; it is in memory beside the values, and so are values
    # whose layout changes.
    budget.charge(3 * max(math.prod(shape) * dtype.itemsize, piece), "arrays")

    def read(part: Any) -> np.ndarray:
        try:
            return np.ascontiguousarray(part.read().result())
        except Exception as error:
            raise _damaged(what, error) from error

    return LazyTensor(
        shape,
        dtype,
        lambda: read(array),
        (lambda first, last: read(array[first:last])) if shape else None,
    )


def _damaged(what: str, error: Exception) -> CheckpointError:
    first_line = str(error).strip().partition("\n")[0]
    return CheckpointError(f"{what} is not a sound array of an Orbax checkpoint: {first_line:.300}")


def _write(folder: Path, model: ModelToWrite) -> None:
    """Write the folder ``params`` of a checkpoint folder; all tensors are in memory at once.

    Raises MissingBackendError without JAX and Flax.
    """
    backend = backends.load("flax", "Writing Orbax checkpoints", module="orbax")
    params = {}
    for name, tensor in model.cast().items():
        keys = FLAX.spell(name, prefix=model.head is not Head.NONE).split("/")
        params[tuple(keys)] = from_canonical(tensor, FLAX.layout(name)).read()
    backend.save_params(folder / PARAMS_NAME, params)
    model.progress(sum(array.nbytes for array in params.values()))


FORMAT = Format(
    name="orbax",
    rank=90,
    find=_find_params,
    recognises=lambda file: file.path.name == METADATA_NAME,
    read=_read,
    write=_write,
    weights=PARAMS_NAME,
)
