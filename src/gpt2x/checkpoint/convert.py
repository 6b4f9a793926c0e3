"""From any checkpoint that gpt2x reads to any format that it writes."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gpt2x.checkpoint import gguf_writer, nanogpt
from gpt2x.checkpoint.base import BLOCK_BYTES, Checkpoint, LazyTensor
from gpt2x.checkpoint.folder import atomic_folder
from gpt2x.checkpoint.infer import infer_config
from gpt2x.checkpoint.opening import open_checkpoint, open_model
from gpt2x.checkpoint.shards import parse_size
from gpt2x.checkpoint.tokenizer_files import find_tokenizer_files, write_tokenizer_files
from gpt2x.checkpoint.writing import STYLES, Progress, write_weights
from gpt2x.config import GPT2Config
from gpt2x.errors import CheckpointError, InvalidInputError, check_choice
from gpt2x.hub import ModelFiles
from gpt2x.load_plan import check_depth, numpy_dtype, plan_load
from gpt2x.pretrained import GENERATION_CONFIG_NAME
from gpt2x.weights import Head

#: What `convert` writes: transformers' formats in a folder, and two that are one file.
TARGETS = (*STYLES, "nanogpt", "gguf")
#: Types of tensors; q8_0 is GGUF's.
DTYPES = ("float32", "float16", "bfloat16", "q8_0")

_SINGLE_FILES = {"nanogpt": "ckpt.pt", "gguf": "model.gguf"}
_GGUF_TYPES = {"float32": "f32", "float16": "f16", "bfloat16": "bf16", "q8_0": "q8_0"}


@dataclass
class Source:
    """A model found by path or name: its open weights, and what they say of it.

    Attributes:
        checkpoint: the weights.
        config: the model's config, inferred from shapes if it brings none.
        inferred: whether it was.
        head: which model class the tensors make.
        files: where its other files are.
        tokenizer: transformers' file name -> path or contents.
    """

    checkpoint: Checkpoint
    config: GPT2Config
    inferred: bool
    head: Head
    files: ModelFiles
    tokenizer: dict[str, Path | bytes]


@contextmanager
def open_source(
    name_or_path: str | Path,
    *,
    format: str | None = None,
    n_head: int | None = None,
    **where: Any,
) -> Iterator[Source]:
    """Open a folder, a file, or a model of the hub, with its config and tokenizer.

    Args:
        name_or_path: what to open.
        format: its format, if detection should not decide.
        n_head: number of heads, for a checkpoint that does not tell.
        **where: `revision`, `subfolder`, `cache_dir`, `token`, `local_files_only` of the hub.

    Raises:
        CheckpointError: if it cannot be found or read.
    """
    files, checkpoint = open_model(name_or_path, format=format, **where)
    with checkpoint:
        inferred = checkpoint.config is None
        values = checkpoint.config or infer_config(checkpoint, n_head)
        if n_head is not None:
            values = {**values, "n_head": n_head}
        config = GPT2Config.from_dict(values)
        check_depth(config, checkpoint, files.name)
        tokenizer: dict[str, Path | bytes] = {
            **checkpoint.tokenizer_files,
            **find_tokenizer_files(files, checkpoint.format),
        }
        yield Source(checkpoint, config, inferred, find_head(checkpoint), files, tokenizer)


def find_head(checkpoint: Checkpoint) -> Head:
    """Which model class the tensors make, by the heads among them and by the config."""
    named = {
        "score.weight": Head.SEQUENCE_CLASSIFICATION,
        "classifier.weight": Head.TOKEN_CLASSIFICATION,
        "qa_outputs.weight": Head.QUESTION_ANSWERING,
        "multiple_choice_head.summary.weight": Head.DOUBLE,
    }
    for name, head in named.items():
        if name in checkpoint:
            return head
    architectures = (checkpoint.config or {}).get("architectures") or []
    wanted = {f"{prefix}GPT2{Head.NONE.value}" for prefix in ("", "TF", "Flax")}
    is_body = bool(architectures) and set(architectures) <= wanted
    return Head.NONE if is_body and "lm_head.weight" not in checkpoint else Head.LM


@dataclass
class Conversion:
    """What `convert` does or has done.

    Attributes:
        source: format it reads.
        target: format it writes.
        destination: the folder or file.
        config: of the model.
        head: which model class.
        tensors: canonical name -> tensor, in the dtype to write (GGUF: in the source's).
        stored: canonical name -> the dtype that it has in what is written.
        tokenizer: names of the tokenizer's files that travel along.
    """

    source: str
    target: str
    destination: Path
    config: GPT2Config
    head: Head
    tensors: dict[str, LazyTensor]
    stored: dict[str, str]
    tokenizer: list[str]


def convert(
    source: Source,
    destination: str | Path,
    *,
    to: str = "safetensors",
    dtype: str | None = None,
    max_shard_size: int | str = "5GB",
    overwrite: bool = False,
    dry_run: bool = False,
    progress: Progress = lambda nbytes: None,
) -> Conversion:
    """Write a model in another format, with its config and tokenizer; nothing half-written stays.

    Args:
        source: the open model, from `open_source`.
        destination: folder to write; for nanogpt and gguf also the name of the one file.
        to: one of `TARGETS`.
        dtype: one of `DTYPES`; by default the source's own (GGUF: float16 for float32).
        max_shard_size: bytes of a file at most, or a string such as "5GB".
        overwrite: allow a destination that exists.
        dry_run: plan, check and return, but write nothing.
        progress: called with each tensor's bytes once they are written.

    Raises:
        InvalidInputError: for a bad option, or a destination that exists.
        WeightsError: for weights that do not fit the config, or a target that cannot hold them.
    """
    check_choice("to", to, TARGETS)
    if dtype is not None:
        check_choice("dtype", dtype, DTYPES if to == "gguf" else DTYPES[:-1])
    target = Path(destination).expanduser()
    _check_destination(target, overwrite)
    parse_size(max_shard_size)
    if to in _SINGLE_FILES:
        {"nanogpt": nanogpt, "gguf": gguf_writer}[to].check_expressible(source.config)
    plan = plan_load(source.checkpoint, source.config, source.head, name=source.files.name)
    tensors = plan.tensors
    if dtype is not None and to != "gguf":
        tensors = {key: tensor.astype(numpy_dtype(dtype)) for key, tensor in tensors.items()}
    made = Conversion(
        source.checkpoint.format,
        to,
        target,
        source.config,
        source.head,
        tensors,
        _stored_dtypes(tensors, _gguf_type(dtype, tensors) if to == "gguf" else None),
        sorted(source.tokenizer),
    )
    if not dry_run:
        _write(source, made, dtype, max_shard_size, overwrite, progress)
    return made


def _stored_dtypes(tensors: Mapping[str, LazyTensor], gguf_type: str | None) -> dict[str, str]:
    if gguf_type is None:
        return {name: tensor.dtype.name for name, tensor in tensors.items()}
    names = {type: dtype for dtype, type in _GGUF_TYPES.items()}
    return {
        name: names[gguf_writer.stored_type(name, tensor, gguf_type)]
        for name, tensor in tensors.items()
    }


def _check_destination(target: Path, overwrite: bool) -> None:
    occupied = target.is_file() or (target.is_dir() and any(target.iterdir()))
    if occupied and not overwrite:
        raise InvalidInputError(
            f"{str(target)!r} exists; choose another destination or allow it to be overwritten."
        )


def _write(
    source: Source,
    made: Conversion,
    dtype: str | None,
    max_shard_size: int | str,
    overwrite: bool,
    progress: Progress,
) -> None:
    if made.target in _SINGLE_FILES and made.destination.suffix in (".pt", ".gguf"):
        with atomic_file(made.destination) as path:
            _write_single(path, source, made, dtype, progress)
        return
    stale = ("model*.safetensors*", "pytorch_model*.bin*", "flax_model*.msgpack*")
    with atomic_folder(made.destination, replaces=stale if overwrite else ()) as folder:
        if made.target in _SINGLE_FILES:
            single = folder / _SINGLE_FILES[made.target]
            _write_single(single, source, made, dtype, progress)
        else:
            config = GPT2Config.from_dict(made.config.to_dict())
            config.architectures = [made.head.architecture]
            config.dtype = next(iter(made.tensors.values())).dtype.name
            write_weights(
                folder,
                made.tensors,
                config,
                made.head,
                made.target,
                max_shard_size,
                progress=progress,
            )
            config.save_pretrained(folder)
            generation = source.files.find(GENERATION_CONFIG_NAME)
            if generation is not None:
                shutil.copyfile(generation, folder / GENERATION_CONFIG_NAME)
        write_tokenizer_files(folder, source.tokenizer)


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`, which takes its place when the body succeeds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".gpt2x-", dir=path.parent) as work:
        beside = Path(work, path.name)
        yield beside
        beside.replace(path)


def _write_single(
    path: Path, source: Source, made: Conversion, dtype: str | None, progress: Progress
) -> None:
    if made.target == "nanogpt":
        nanogpt.write(path, made.config, made.tensors, progress)
        return
    vocabulary, merges = read_vocabulary(source.tokenizer)
    gguf_writer.write(
        path,
        made.config,
        made.tensors,
        type=_gguf_type(dtype, made.tensors),
        vocabulary=vocabulary,
        merges=merges,
        name=Path(source.files.name).name or "gpt2",
        progress=progress,
    )


def _gguf_type(dtype: str | None, tensors: Mapping[str, LazyTensor]) -> str:
    if dtype is not None:
        return _GGUF_TYPES[dtype]
    return "bf16" if tensors["wte.weight"].dtype.name == "bfloat16" else "f16"


def read_vocabulary(
    tokenizer: Mapping[str, Path | bytes],
) -> tuple[dict[str, int] | None, list[str] | None]:
    """The vocabulary and merges of a tokenizer's files; None where they are missing."""

    def text(name: str) -> str:
        contents = tokenizer[name]
        data = contents if isinstance(contents, bytes) else contents.read_bytes()
        return data.decode("utf-8")

    try:
        if {"vocab.json", "merges.txt"} <= tokenizer.keys():
            lines = text("merges.txt").splitlines()
            merges = [line for line in lines if line and not line.startswith("#version")]
            return json.loads(text("vocab.json")), merges
        if "tokenizer.json" in tokenizer:
            model = json.loads(text("tokenizer.json"))["model"]
            pairs = [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]
            return model["vocab"], pairs
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"The tokenizer's files cannot be read: {error}.") from error
    return None, None


def largest_difference(made: Conversion) -> tuple[float, str]:
    """Read back what was written; return the largest difference from the source, and where.

    Raises CheckpointError if a tensor is missing or has another shape.
    """
    path = made.destination
    if path.is_dir() and made.target in _SINGLE_FILES:
        path = path / _SINGLE_FILES[made.target]
    worst = (0.0, "")
    with open_checkpoint(path) as written:
        for name, tensor in made.tensors.items():
            if name not in written or written[name].shape != tensor.shape:
                raise CheckpointError(f"{str(path)!r} does not hold {name!r} as the source does.")
            difference = _difference(tensor, written[name])
            if difference > worst[0]:
                worst = difference, name
    return worst


def _difference(one: LazyTensor, other: LazyTensor) -> float:
    largest = 0.0
    for a, b in _blocks_of_both(one, other):
        a, b = a.astype(np.float32), b.astype(np.float32)
        same = (a == b) | (np.isnan(a) & np.isnan(b))
        gap = np.abs(np.subtract(a, b, where=~same, out=np.zeros_like(a)))
        largest = max(largest, float(np.nan_to_num(gap, nan=np.inf).max(initial=0.0)))
    return largest


def _blocks_of_both(one: LazyTensor, other: LazyTensor) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the same rows of both, a few at a time, so that comparing takes little memory."""
    read_one, read_other = (tensor.rows or _rows_of(tensor.read()) for tensor in (one, other))
    length = one.shape[0]
    step = max(1, BLOCK_BYTES * length // max(1, one.nbytes))
    for start in range(0, length, step):
        end = min(start + step, length)
        yield read_one(start, end), read_other(start, end)


def _rows_of(array: np.ndarray) -> Callable[[int, int], np.ndarray]:
    return lambda start, end: array[start:end]
