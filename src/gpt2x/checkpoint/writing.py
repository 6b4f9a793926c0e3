"""Writing the weights files of transformers, in PyTorch's or Flax's names and layouts.

Any number of shards, with transformers' index; one tensor in memory at a time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from gpt2x.config import GPT2Config
from gpt2x.errors import InvalidInputError
from gpt2x.formats.base import Progress, WeightsFormat
from gpt2x.formats.registry import weights_format
from gpt2x.formats.shards import Shard, index_json, parse_size, plan_shards
from gpt2x.weights.lazy import LazyTensor
from gpt2x.weights.names import from_canonical
from gpt2x.weights.table import Head


@dataclass(frozen=True)
class WeightsPlan:
    """The tensors of each file of a folder.

    Attributes:
        format: of the files.
        tensors: name in the files -> tensor in their layout.
        aliases: further name of a tensor -> its name.
        shards: the files, in order.
        index: the name of the file that lists the shards, if there are several.
    """

    format: WeightsFormat
    tensors: dict[str, LazyTensor]
    aliases: dict[str, str]
    shards: list[Shard]
    index: str | None

    @property
    def files(self) -> list[str]:
        """Return the names of all files."""
        return [shard.file for shard in self.shards] + ([self.index] if self.index else [])

    def write(self, folder: Path, progress: Progress = lambda nbytes: None) -> None:
        """Write the files into an existing folder.

        `progress` is called with each tensor's bytes once they are written.
        """
        assert self.format.write_file is not None
        for shard in self.shards:
            part = {name: self.tensors[name] for name in shard.names}
            aliases = {alias: name for alias, name in self.aliases.items() if name in part}
            self.format.write_file(folder / shard.file, part, aliases, progress)
        if self.index is not None:
            size = sum(tensor.nbytes for tensor in self.tensors.values())
            parameters = sum(tensor.size for tensor in self.tensors.values())
            text = index_json(self.shards, size, parameters, self.aliases)
            (folder / self.index).write_text(text, encoding="utf-8")


def plan_weights(
    tensors: Mapping[str, LazyTensor],
    config: GPT2Config,
    head: Head,
    format: str,
    max_shard_size: int | str,
    *,
    variant: str | None = None,
    others: Mapping[str, LazyTensor] = MappingProxyType({}),
    prefix: bool | None = None,
) -> WeightsPlan:
    """Plan the files of a model's weights: one, or shards with an index if it would be too large.

    Args:
        tensors: canonical name -> tensor in canonical layout.
        config: of the model; says whether the output layer is tied.
        head: of the model; a body is written without the prefix ``transformer``.
        format: the name of one of transformers' formats.
        max_shard_size: largest size of a file in bytes, or a string such as "5GB".
        variant: part of the files' names.
        others: name in the file -> tensor that is not GPT-2's, written as it is.
        prefix: put the body's names under ``transformer``; by default if there is a head.

    Raises:
        InvalidInputError: for several files, if transformers reads the format only from one.
    """
    style = weights_format(format)
    with_prefix = head is not Head.NONE if prefix is None else prefix
    named, aliases = _spelled(tensors, config, head, style, with_prefix)
    named |= others
    sizes = {name: tensor.nbytes for name, tensor in named.items()}
    plan = plan_shards(sizes, parse_size(max_shard_size), style.single(variant))
    if len(plan) > 1 and not style.in_shards:
        raise InvalidInputError(
            f"{format} would need {len(plan)} files of at most {max_shard_size}, but transformers "
            "reads it from one file alone. Allow a larger max_shard_size, or write flax-msgpack, "
            "which may come in shards."
        )
    return WeightsPlan(style, named, aliases, plan, style.index(variant) if plan[1:] else None)


def _spelled(
    tensors: Mapping[str, LazyTensor],
    config: GPT2Config,
    head: Head,
    style: WeightsFormat,
    prefix: bool,
) -> tuple[dict[str, LazyTensor], dict[str, str]]:
    """Return the tensors by their names in the file, and further names of tensors."""
    spelling = style.spelling

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
