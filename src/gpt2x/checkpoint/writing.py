"""Writing the weights files of transformers, in PyTorch's or Flax's names and layouts.

Any number of shards, with transformers' index; one tensor in memory at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from gpt2x.checkpoint import flax_msgpack, safetensors, shards, torch_writer
from gpt2x.checkpoint.base import LazyTensor
from gpt2x.checkpoint.formats import FLAX, PYTORCH, SAFETENSORS, WeightsFile
from gpt2x.checkpoint.names import from_canonical
from gpt2x.config import GPT2Config
from gpt2x.weights import FLAX as FLAX_SPELLING
from gpt2x.weights import PYTORCH as PYTORCH_SPELLING
from gpt2x.weights import Head, Spelling

Progress = Callable[[int], None]


@dataclass(frozen=True)
class Style:
    """How one of transformers' formats names its files and tensors."""

    file: WeightsFile
    spelling: Spelling
    separator: str  # of the parts of a name
    keeps_tied_head: bool = False


#: Format -> how transformers writes it.
STYLES: Mapping[str, Style] = {
    "safetensors": Style(SAFETENSORS, PYTORCH_SPELLING, "."),
    "pytorch": Style(PYTORCH, PYTORCH_SPELLING, ".", keeps_tied_head=True),
    "flax-msgpack": Style(FLAX, FLAX_SPELLING, "/"),
    "flax-safetensors": Style(SAFETENSORS, FLAX_SPELLING, "."),
}


def write_weights(
    folder: Path,
    tensors: Mapping[str, LazyTensor],
    config: GPT2Config,
    head: Head,
    format: str,
    max_shard_size: int | str,
    *,
    variant: str | None = None,
    progress: Progress = lambda nbytes: None,
) -> None:
    """Write weights into a folder, in shards with an index if one file would be too large.

    Args:
        folder: an existing folder.
        tensors: canonical name -> tensor in canonical layout.
        config: of the model; says whether the output layer is tied.
        head: which model class; a body alone is written without the prefix ``transformer``.
        format: a name of `STYLES`.
        max_shard_size: bytes of a file at most, or a string such as "5GB".
        variant: put into the files' names.
        progress: called with each tensor's bytes once they are written.
    """
    style = STYLES[format]
    named, aliases = _spelled(tensors, config, head, style)
    sizes = {name: tensor.nbytes for name, tensor in named.items()}
    plan = shards.plan_shards(sizes, shards.parse_size(max_shard_size), style.file.single(variant))
    for shard in plan:
        part = {name: named[name] for name in shard.names}
        path = folder / shard.file
        if format == "pytorch":
            inside = {alias: name for alias, name in aliases.items() if name in part}
            torch_writer.write(path, part, inside, progress)
        elif format == "flax-msgpack":
            flax_msgpack.write(path, part, progress)
        else:
            framework = "pt" if format == "safetensors" else "flax"
            safetensors.write(path, part, {"format": framework}, progress)
    if len(plan) > 1:
        parameters = sum(tensor.size for tensor in named.values())
        text = shards.index_json(plan, sum(sizes.values()), parameters, aliases)
        (folder / style.file.index(variant)).write_text(text, encoding="utf-8")


def _spelled(
    tensors: Mapping[str, LazyTensor], config: GPT2Config, head: Head, style: Style
) -> tuple[dict[str, LazyTensor], dict[str, str]]:
    """Tensors by their names in the file, and names that stand for another's values."""
    prefix, spelling = head is not Head.NONE, style.spelling

    def spell(name: str) -> str:
        return spelling.spell(name, prefix=prefix).replace(spelling.separator, style.separator)

    tied = config.tie_word_embeddings and head in (Head.LM, Head.DOUBLE)
    named = {
        spell(name): from_canonical(tensor, spelling.layout(name))
        for name, tensor in tensors.items()
        if not (tied and name == "lm_head.weight")
    }
    repeated = tied and style.keeps_tied_head
    return named, {spell("lm_head.weight"): spell("wte.weight")} if repeated else {}
