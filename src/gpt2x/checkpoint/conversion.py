"""From any checkpoint that gpt2x reads to any format that it writes."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpt2x.checkpoint.source import Source, open_source
from gpt2x.checkpoint.verify import Difference, largest_difference
from gpt2x.checkpoint.writing import STYLES, Progress, plan_files, write_weights
from gpt2x.config import GPT2Config
from gpt2x.config.generation import GENERATION_CONFIG_NAME
from gpt2x.errors import CheckpointError, InvalidInputError, WeightsError, check_choice
from gpt2x.formats.flax import orbax
from gpt2x.formats.gguf import tokenizer as gguf_tokenizer
from gpt2x.formats.gguf import writer as gguf_writer
from gpt2x.formats.keras import model as keras_tf
from gpt2x.formats.known import WEIGHTS_FILES
from gpt2x.formats.shards import parse_size
from gpt2x.formats.tokenizer_files import write_tokenizer_files
from gpt2x.formats.torch import nanogpt
from gpt2x.storage.atomic import atomic_file, atomic_folder
from gpt2x.weights.lazy import LazyTensor
from gpt2x.weights.load_plan import numpy_dtype, plan_load
from gpt2x.weights.table import Head, parameter_shapes


@dataclass(frozen=True)
class SingleFile:
    """How a format that is one file calls it in a folder, and how a destination ends that is it."""

    name: str
    suffixes: tuple[str, ...]


_SINGLE_FILES: Mapping[str, SingleFile] = {
    "nanogpt": SingleFile("ckpt.pt", (".pt",)),
    "gguf": SingleFile("model.gguf", (".gguf",)),
    "keras-tf": SingleFile("model.keras", (".keras", ".weights.h5")),
}
#: What `convert` writes: transformers' formats and Orbax's, in a folder, and those of one file.
TARGETS = (*STYLES, *_SINGLE_FILES, "orbax")
#: Types of tensors; q8_0 is GGUF's.
DTYPES = ("float32", "float16", "bfloat16", "q8_0")

_SHARD_SIZE = "5GB"  # transformers' own default
_GGUF_TYPES = {"float32": "f32", "float16": "f16", "bfloat16": "bf16", "q8_0": "q8_0"}
_Q8_0_BYTES = 34 / 32  # a block of 32 values is stored with its scale
_FILE_SUFFIXES = (".bin", ".gguf", ".h5", ".keras", ".msgpack", ".pt", ".safetensors")

# The weights that a model may be read from, of all formats, as patterns of names; indices last.
_WEIGHTS = (
    *(file.name.replace(".", "*.") + "*" for file in WEIGHTS_FILES),
    *(file.name for file in _SINGLE_FILES.values()),
    orbax.PARAMS_NAME,
    *(file.name.replace(".", "*.") + ".index*.json" for file in WEIGHTS_FILES),
)


@dataclass
class Conversion:
    """What `convert` does or has done.

    Attributes:
        source: format it reads.
        target: format it writes.
        destination: the folder or file.
        config: of the model.
        head: which model class.
        tensors: canonical name -> tensor of the source.
        stored: canonical name -> the dtype that it has in what is written.
        files: names of the files, or the folder, that hold the weights.
        tokenizer: names of the tokenizer's files that travel along.
        difference: how far what was written is from the source, if that was asked for.
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

    @property
    def is_file(self) -> bool:
        """Whether the destination is the one file and not a folder."""
        return self.destination.name.endswith(_suffixes(self.target))

    def cast(self) -> dict[str, LazyTensor]:
        """The tensors in the dtypes that are written; not for GGUF, whose writer quantises."""
        return {
            name: tensor.astype(numpy_dtype(self.stored[name]))
            for name, tensor in self.tensors.items()
        }

    @property
    def nbytes(self) -> int:
        """How many bytes the tensors take in what is written."""
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
    progress: Progress = lambda nbytes: None,
    **where: Any,
) -> Conversion:
    """Write a model in another format, with its config and tokenizer; nothing half-written stays.

    Tensors pass through one at a time, but for keras-tf and orbax, whose libraries want them all.

    Args:
        source: a folder, a file, a name on the hub, or what `open_source` has opened.
        destination: folder to write; for nanogpt, gguf and keras-tf also the name of the one file.
        to: one of `TARGETS`; by default as the destination is called (``model.gguf``), or else
            safetensors.
        dtype: one of `DTYPES`; by default the source's own (GGUF: float16 for float32).
        max_shard_size: bytes of a file at most, or a string such as "5GB"; by default 5GB for
            the formats that can be split, and any size for the others.
        overwrite: allow a destination that exists.
        dry_run: plan, check and return, but write nothing.
        verify: read back what was written and compare it with the source, before it takes its
            place.
        progress: called with each tensor's bytes once they are written.
        **where: further arguments of `open_source`.

    Raises:
        CheckpointError: if the source cannot be found or read.
        InvalidInputError: for a bad option, or a destination that exists.
        MissingBackendError: if the target's framework or library is not installed.
        WeightsError: for weights that do not fit the config, or a target that cannot hold them.
    """
    opening = nullcontext(source) if isinstance(source, Source) else open_source(source, **where)
    with opening as opened:
        made = _plan(opened, Path(destination).expanduser(), to, dtype, max_shard_size, overwrite)
        if not dry_run:
            _write(opened, made, dtype, max_shard_size, overwrite, verify, progress)
    return made


def _plan(
    source: Source,
    destination: Path,
    to: str | None,
    dtype: str | None,
    max_shard_size: int | str | None,
    overwrite: bool,
) -> Conversion:
    to = to or next((t for t in _SINGLE_FILES if destination.name.endswith(_suffixes(t))), None)
    to = to or TARGETS[0]
    check_choice("to", to, TARGETS)
    if dtype is not None:
        check_choice("dtype", dtype, DTYPES if to == "gguf" else DTYPES[:-1])
    _check_destination(destination, to, overwrite)
    if to == "nanogpt":
        nanogpt.check_expressible(source.config)
    tensors = _planned_tensors(source)
    if to == "gguf":
        gguf_writer.check_expressible(source.config, tensors)
        stored = _stored_in_gguf(tensors, _gguf_type(dtype, tensors))
    else:
        if to == "keras-tf" and len({tensor.dtype for tensor in tensors.values()}) > 1:
            dtype = dtype or "float32"  # a Keras model has one dtype
        stored = {name: dtype or tensor.dtype.name for name, tensor in tensors.items()}
    plan = Conversion(
        source.checkpoint.format, to, destination, source.config, source.head, tensors, stored
    )
    plan.tokenizer = sorted(source.tokenizer)
    if to in STYLES:
        size = _SHARD_SIZE if max_shard_size is None else max_shard_size
        plan.files = plan_files(plan.cast(), plan.config, plan.head, to, size).files
        return plan
    if max_shard_size is not None and plan.nbytes > parse_size(max_shard_size):
        raise InvalidInputError(
            f"{to} would take {plan.nbytes / 1e6:,.1f} MB, more than max_shard_size="
            f"{max_shard_size!r}, and cannot be split. Leave max_shard_size out, or choose one of "
            f"{', '.join(STYLES)}."
        )
    if to in _SINGLE_FILES:
        plan.files = [destination.name if plan.is_file else _SINGLE_FILES[to].name]
    else:
        plan.files = [orbax.PARAMS_NAME]
    return plan


def _planned_tensors(source: Source) -> dict[str, LazyTensor]:
    """The tensors of the model that the source is; all must be there, since none is initialised."""
    expected = parameter_shapes(source.config, source.head)
    if missing := [name for name in expected if name not in source.checkpoint]:
        raise WeightsError(
            f"{source.files.name!r} lacks {len(missing)} of the weights of "
            f"{source.head.architecture}: {', '.join(missing)}. It is incomplete, or of another "
            "architecture than its config says."
        )
    return plan_load(source.checkpoint, source.config, source.head, name=source.files.name).tensors


def _suffixes(to: str) -> tuple[str, ...]:
    return _SINGLE_FILES[to].suffixes if to in _SINGLE_FILES else ()


def _check_destination(destination: Path, to: str, overwrite: bool) -> None:
    if destination.name.endswith(_suffixes(to)):
        if destination.is_dir():
            raise InvalidInputError(f"{str(destination)!r} is a folder; name a file or another.")
    elif destination.is_file() or (
        destination.name.endswith(_FILE_SUFFIXES) and not destination.is_dir()
    ):
        raise InvalidInputError(
            f"{str(destination)!r} is the name of a file, and {to} is written as a folder; name a "
            "folder."
        )
    occupied = destination.is_file() or (destination.is_dir() and any(destination.iterdir()))
    if occupied and not overwrite:
        raise InvalidInputError(
            f"{str(destination)!r} exists; choose another destination, or allow it to be "
            "overwritten (--overwrite, or overwrite=True)."
        )


def _write(
    source: Source,
    made: Conversion,
    dtype: str | None,
    max_shard_size: int | str | None,
    overwrite: bool,
    verify: bool,
    progress: Progress,
) -> None:
    config = GPT2Config.from_dict(made.config.to_dict())
    config.architectures = [made.head.architecture]
    if made.target != "gguf":  # whose types go beyond dtypes
        config.dtype = made.stored["wte.weight"]
    if made.is_file:
        with atomic_file(made.destination) as path:
            _write_file(path, source, made, config, dtype, progress)
            made.difference = _verified(path, made) if verify else None
        return
    with atomic_folder(made.destination, replaces=_WEIGHTS if overwrite else ()) as folder:
        if made.target in _SINGLE_FILES:
            _write_file(folder / made.files[0], source, made, config, dtype, progress)
        else:
            if made.target == "orbax":
                orbax.write(folder, made.cast(), prefix=made.head is not Head.NONE)
                progress(made.nbytes)
            else:
                write_weights(
                    folder,
                    made.cast(),
                    config,
                    made.head,
                    made.target,
                    _SHARD_SIZE if max_shard_size is None else max_shard_size,
                    progress=progress,
                )
            config.save_pretrained(folder)
            generation = source.files.find(GENERATION_CONFIG_NAME)
            if generation is not None:
                shutil.copyfile(generation, folder / GENERATION_CONFIG_NAME)
        write_tokenizer_files(folder, source.tokenizer)
        if verify:  # before anything is replaced, which may be the source
            inside = folder / made.files[0] if made.target in _SINGLE_FILES else folder
            made.difference = _verified(inside, made)


def _verified(path: Path, made: Conversion) -> Difference:
    """The difference from the source; it must be none where the dtypes are the source's."""
    difference = largest_difference(path, made.tensors)
    kept = all(made.stored[name] == tensor.dtype.name for name, tensor in made.tensors.items())
    if kept and difference.largest > 0:
        raise CheckpointError(
            f"What was written for {str(made.destination)!r} differs from the source by "
            f"{difference.largest:.3g} in {difference.name!r}; the storage is not to be trusted."
        )
    return difference


def _write_file(
    path: Path,
    source: Source,
    made: Conversion,
    config: GPT2Config,
    dtype: str | None,
    progress: Progress,
) -> None:
    if made.target == "nanogpt":
        nanogpt.write(path, config, made.cast(), progress)
    elif made.target == "keras-tf":
        generation = source.files.find(GENERATION_CONFIG_NAME)
        keras_tf.write(path, config, made.head, made.cast(), generation)
        progress(made.nbytes)
    else:
        gguf_writer.write(
            path,
            config,
            made.tensors,
            type=_gguf_type(dtype, made.tensors),
            tokenizer=gguf_tokenizer.load(source.tokenizer),
            name=Path(source.files.name).name or "gpt2",
            progress=progress,
        )


def _gguf_type(dtype: str | None, tensors: Mapping[str, LazyTensor]) -> str:
    if dtype is not None:
        return _GGUF_TYPES[dtype]
    return "bf16" if tensors["wte.weight"].dtype.name == "bfloat16" else "f16"


def _stored_in_gguf(tensors: Mapping[str, LazyTensor], type: str) -> dict[str, str]:
    names = {gguf_type: dtype for dtype, gguf_type in _GGUF_TYPES.items()}
    return {
        name: names[gguf_writer.stored_type(name, tensor, type)] for name, tensor in tensors.items()
    }
