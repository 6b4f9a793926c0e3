"""From any checkpoint that gpt2x reads to any format that it writes."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt2x.checkpoint.adapter import Adapter, open_adapter
from gpt2x.checkpoint.source import Source, open_source
from gpt2x.checkpoint.verify import Difference, largest_difference
from gpt2x.checkpoint.writing import WeightsPlan, plan_weights
from gpt2x.config import GPT2Config
from gpt2x.config.generation import GENERATION_CONFIG_NAME
from gpt2x.errors import CheckpointError, InvalidInputError, WeightsError, check_choice
from gpt2x.formats.base import Format, ModelToWrite, Progress, WeightsFormat, cast_tensors
from gpt2x.formats.registry import all_formats, weights_formats
from gpt2x.formats.shards import parse_size
from gpt2x.formats.tokenizer_files import write_tokenizer_files
from gpt2x.storage.atomic import atomic_file, atomic_folder
from gpt2x.weights.lazy import LazyTensor
from gpt2x.weights.load_plan import numpy_dtype, plan_load
from gpt2x.weights.table import Head, parameter_shapes

if TYPE_CHECKING:
    from gpt2x.tokenization import GPT2Tokenizer

#: What `convert` writes: transformers' formats, then the others.
TARGETS = tuple(format.name for format in all_formats().values() if format.is_written)

_SHARD_SIZE = "5GB"  # transformers' own default
_Q8_0_BYTES = 34 / 32  # a block of 32 values is stored with its scale


@dataclass
class Conversion:
    """The plan of `convert`, and its result.

    Attributes:
        source: format it reads.
        target: format it writes.
        destination: the folder or file.
        config: of the model.
        head: of the model.
        tensors: canonical name -> tensor of the source.
        stored: canonical name -> dtype in the written files.
        files: names of the files, or of the folder, of the weights.
        tokenizer: names of the tokenizer's files that are copied.
        difference: the largest difference between result and source, if requested.
        dtype: the requested dtype.
        weights: the files of the tensors, for transformers' formats.
    """

    source: str
    target: str
    destination: Path
    config: GPT2Config
    head: Head
    tensors: dict[str, LazyTensor]
    stored: dict[str, str]
    files: list[str] = field(default_factory=list)
    tokenizer: list[str] = field(default_factory=list)
    difference: Difference | None = None
    dtype: str | None = None
    weights: WeightsPlan | None = field(default=None, repr=False)

    @property
    def is_file(self) -> bool:
        """Whether the destination is a single file and not a folder."""
        return self.destination.name.endswith(all_formats()[self.target].suffixes)

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors in the written files."""
        sizes = {"q8_0": _Q8_0_BYTES}
        return round(
            sum(
                tensor.size * (sizes.get(dtype) or numpy_dtype(dtype).itemsize)
                for tensor, dtype in zip(self.tensors.values(), self.stored.values(), strict=True)
            )
        )


def convert(
    source: Source | str | Path,
    destination: str | Path,
    *,
    to: str | None = None,
    dtype: str | None = None,
    max_shard_size: int | str | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
    verify: bool = False,
    merge_adapter: Adapter | str | Path | None = None,
    progress: Progress = lambda nbytes: None,
    **where: Any,
) -> Conversion:
    """Write a model in another format, with its config and tokenizer, whole or not at all.

    One tensor is in memory at a time, except for keras-tf and orbax, whose libraries need all.

    Args:
        source: a folder, a file, a name on the hub, or a `Source` of `open_source`.
        destination: folder to write; for nanogpt, gguf and keras-tf also the name of the file.
        to: one of `TARGETS`; by default the format of the destination's name (``model.gguf``), or
            else safetensors.
        dtype: float32, float16, bfloat16, or for GGUF q8_0; by default the source's own (GGUF:
            float16 for float32).
        max_shard_size: largest size of a file in bytes, or a string such as "5GB"; by default 5GB
            for formats that can be split, and unlimited for the others.
        overwrite: allow a destination that exists.
        dry_run: plan, check and return, but write nothing.
        verify: read the result back and compare it with the source, before it replaces the
            destination.
        merge_adapter: a LoRA adapter to add to the weights: a folder, a name on the hub, or an
            `Adapter` of `open_adapter`.
        progress: called with each tensor's bytes once they are written.
        **where: further arguments of `open_source`.

    Raises:
        CheckpointError: if the source cannot be found or read.
        InvalidInputError: for a bad option, or a destination that exists.
        MissingBackendError: if the target's framework or library is not installed.
        WeightsError: for weights that do not fit the config, or that the target cannot express.
    """
    with _opened(source, merge_adapter, where) as opened:
        path = Path(destination).expanduser()
        with _opened_adapter(merge_adapter, opened, where) as adapter:
            made = _plan(opened, path, to, dtype, max_shard_size, overwrite, adapter)
            if not dry_run:
                _write(opened, made, overwrite, verify, progress)
    return made


def _opened(
    source: Source | str | Path, adapter: Adapter | str | Path | None, where: Mapping[str, Any]
) -> AbstractContextManager[Source]:
    if isinstance(source, Source):
        return nullcontext(source)
    return open_source(source, adapter=None if isinstance(adapter, Adapter) else adapter, **where)


def _opened_adapter(
    adapter: Adapter | str | Path | None, source: Source, where: Mapping[str, Any]
) -> AbstractContextManager[Adapter | None]:
    if adapter is None or isinstance(adapter, Adapter):
        return nullcontext(adapter)
    # The rest of `where` says where the model is.
    shared = {n: where[n] for n in ("cache_dir", "token", "local_files_only") if n in where}
    return open_adapter(adapter, source.config, source.head, **shared)


def _plan(
    source: Source,
    destination: Path,
    to: str | None,
    dtype: str | None,
    max_shard_size: int | str | None,
    overwrite: bool,
    adapter: Adapter | None,
) -> Conversion:
    target = _target(destination, to)
    if dtype is not None:
        check_choice("dtype", dtype, target.dtypes)
    _check_destination(destination, target, overwrite)
    tensors = _planned_tensors(source)
    if adapter is not None:
        tensors = {name: adapter.merged(name, tensor) for name, tensor in tensors.items()}
    target.check(source.config, tensors)
    stored = target.stored(tensors, dtype)
    plan = Conversion(
        source.checkpoint.format,
        target.name,
        destination,
        source.config,
        source.head,
        tensors,
        stored,
        tokenizer=sorted(source.tokenizer),
        dtype=dtype,
    )
    _plan_files(plan, target, max_shard_size)
    return plan


def _target(destination: Path, to: str | None) -> Format:
    """Return the format to write: the given one, that of the destination's name, or safetensors."""
    if to is None:
        written = [format for format in all_formats().values() if format.is_written]
        named = [format for format in written if destination.name.endswith(format.suffixes)]
        return (named or written)[0]
    check_choice("to", to, TARGETS)
    return all_formats()[to]


def _plan_files(plan: Conversion, target: Format, max_shard_size: int | str | None) -> None:
    if isinstance(target, WeightsFormat):
        size = _SHARD_SIZE if max_shard_size is None else max_shard_size
        tensors = cast_tensors(plan.tensors, plan.stored)
        plan.weights = plan_weights(tensors, plan.config, plan.head, target.name, size)
        plan.files = plan.weights.files
        return
    if max_shard_size is not None and plan.nbytes > parse_size(max_shard_size):
        raise InvalidInputError(
            f"{target.name} would take {plan.nbytes / 1e6:,.1f} MB, more than max_shard_size="
            f"{max_shard_size!r}, and cannot be split. Leave max_shard_size out, or choose one of "
            f"{', '.join(format.name for format in weights_formats(read=False))}."
        )
    plan.files = [plan.destination.name if plan.is_file else target.weights]


def _planned_tensors(source: Source) -> dict[str, LazyTensor]:
    """Return the tensors of the source's model; missing ones raise, since none is initialised."""
    expected = parameter_shapes(source.config, source.head)
    if missing := [name for name in expected if name not in source.checkpoint]:
        raise WeightsError(
            f"{source.files.name!r} lacks {len(missing)} of the weights of "
            f"{source.head.architecture}: {', '.join(missing)}. It is incomplete, or of another "
            "architecture than its config says."
        )
    return plan_load(source.checkpoint, source.config, source.head, name=source.files.name).tensors


def _check_destination(destination: Path, target: Format, overwrite: bool) -> None:
    file_suffixes = tuple(
        suffix
        for format in all_formats().values()
        for suffix in (*format.suffixes, Path(format.weights).suffix)
        if suffix
    )
    if destination.name.endswith(target.suffixes):
        if destination.is_dir():
            raise InvalidInputError(f"{str(destination)!r} is a folder; name a file or another.")
    elif destination.is_file() or (
        destination.name.endswith(file_suffixes) and not destination.is_dir()
    ):
        raise InvalidInputError(
            f"{str(destination)!r} is the name of a file, and {target.name} is written as a "
            "folder; name a folder."
        )
    occupied = destination.is_file() or (destination.is_dir() and any(destination.iterdir()))
    if occupied and not overwrite:
        raise InvalidInputError(
            f"{str(destination)!r} exists; choose another destination, or allow it to be "
            "overwritten (--overwrite, or overwrite=True)."
        )


def _write(
    source: Source, made: Conversion, overwrite: bool, verify: bool, progress: Progress
) -> None:
    target = all_formats()[made.target]
    model = _model_to_write(source, made, progress)
    if made.is_file:
        with atomic_file(made.destination) as path:
            _write_weights(path, target, made, model, verify)
        return
    with atomic_folder(made.destination, replaces=_weights_names() if overwrite else ()) as folder:
        path = folder / target.weights if target.suffixes else folder
        if not target.suffixes:
            model.config.save_pretrained(folder)
            if model.generation_config is not None:
                shutil.copyfile(model.generation_config, folder / GENERATION_CONFIG_NAME)
        write_tokenizer_files(folder, source.tokenizer)
        _write_weights(path, target, made, model, verify)


def _model_to_write(source: Source, made: Conversion, progress: Progress) -> ModelToWrite:
    config = GPT2Config.from_dict(made.config.to_dict())
    config.architectures = [made.head.architecture]
    if made.stored["wte.weight"] != "q8_0":  # which is not a dtype of a model
        config.dtype = made.stored["wte.weight"]
    return ModelToWrite(
        config=config,
        head=made.head,
        tensors=made.tensors,
        stored=made.stored,
        dtype=made.dtype,
        name=Path(source.files.name).name or "gpt2",
        generation_config=source.files.find(GENERATION_CONFIG_NAME),
        tokenizer=lambda: _load_tokenizer(source.tokenizer),
        progress=progress,
    )


def _write_weights(
    path: Path, target: Format, made: Conversion, model: ModelToWrite, verify: bool
) -> None:
    """Write the weights into a temporary folder, or into the single file of a format."""
    if made.weights is not None:
        made.weights.write(path, model.progress)
    else:
        assert target.write is not None
        target.write(path, model)
    if verify:
        made.difference = _verified(path, made)


def _weights_names() -> tuple[str, ...]:
    """Return patterns of the weights files of all formats; indices last."""
    weights = weights_formats()
    return (
        *(format.weights.replace(".", "*.") + "*" for format in weights),
        *(format.weights for format in all_formats().values() if format.write is not None),
        *(format.weights.replace(".", "*.") + ".index*.json" for format in weights),
    )


def _load_tokenizer(sources: Mapping[str, Path | bytes]) -> GPT2Tokenizer | None:
    """Return the tokenizer of transformers' files; None if they contain no vocabulary.

    Args:
        sources: file name -> path or contents.

    Raises:
        CheckpointError: if they cannot be read, or are not those of a GPT-2 tokenizer.
    """
    if "tokenizer.json" not in sources and not {"vocab.json", "merges.txt"} <= sources.keys():
        return None
    from gpt2x.tokenization import GPT2Tokenizer  # which opening weights does not wait for

    with tempfile.TemporaryDirectory() as folder:
        write_tokenizer_files(Path(folder), sources)
        try:
            return GPT2Tokenizer.from_pretrained(folder)
        except CheckpointError as error:
            message = str(error).replace(f"{folder}{os.sep}", "")
            raise CheckpointError(
                f"GGUF cannot hold the tokenizer: {message} Without the tokenizer's files, the "
                "weights are converted alone."
            ) from error


def _verified(path: Path, made: Conversion) -> Difference:
    """Return the difference from the source; with the source's dtypes it must be zero."""
    difference = largest_difference(path, made.tensors)
    kept = all(made.stored[name] == tensor.dtype.name for name, tensor in made.tensors.items())
    if kept and difference.largest > 0:
        raise CheckpointError(
            f"The result for {str(made.destination)!r} differs from the source by "
            f"{difference.largest:.3g} in {difference.name!r}; the storage is not to be trusted."
        )
    return difference
