"""The memory that a batch needs: an estimate; and what the machine has.

B prompts, R rows given to the model, W columns of the prompts, S columns of a cache.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from gpt2x.config import GPT2Config

#: Bytes of a number of logits and scores, float32 in every backend.
_FLOAT = 4
#: Arrays [R, V] that a step holds at once: logits, scores, and what a filter makes of them.
_CHOICES = 6
#: Arrays [B, W, E] that a block holds at once, without its MLP.
_STATES = 8


class Context(NamedTuple):
    """A model in a call, with the text that it runs.

    Attributes:
        config: of the model.
        width: W, columns of the prompts that are run at once.
        slots: S, columns of the cache.
        itemsize: bytes of a number of the model.
    """

    config: GPT2Config
    width: int
    slots: int
    itemsize: int


class Load(NamedTuple):
    """What decides how much memory a call of `generate` needs.

    Attributes:
        contexts: the model's and, if there are any, those of guidance and of an assistant.
        rows_per_prompt: R / B.
        columns: tokens of each row that a step runs.
        use_cache: whether keys and values are kept; if not, every step runs the whole text.
        records: arrays [R, V] that are kept for the result: those of scores and of logits.
    """

    contexts: tuple[Context, ...]
    rows_per_prompt: int
    columns: int
    use_cache: bool
    records: int


def estimated_bytes(load: Load, prompts: int) -> int:
    """Return about how many bytes a call needs for B prompts, beside the parameters.

    These are the caches of all contexts (a prompt's is copied for its rows), the largest block
    while the prompts run (attention scores, hidden states), and the scores of a step.
    """
    rows = prompts * load.rows_per_prompt
    held = prompts + rows if load.rows_per_prompt > 1 else rows
    caches = sum(_cache_bytes(context) for context in load.contexts) * held if load.use_cache else 0
    run = prompts if load.use_cache else rows
    block = max(_block_bytes(context, load.use_cache) for context in load.contexts) * run
    choices = _CHOICES * load.columns + load.records
    return caches + max(block, 0) + choices * rows * load.contexts[0].config.vocab_size * _FLOAT


def _cache_bytes(context: Context) -> int:
    """Return the bytes of a row's keys and values."""
    config = context.config
    return 2 * config.n_layer * context.slots * config.n_embd * context.itemsize


def _block_bytes(context: Context, use_cache: bool) -> int:
    """Return the bytes of a block that runs a row's text: attention [H, W, S], states [W, E]."""
    config = context.config
    width = context.width if use_cache else context.slots
    attention = 2 * config.n_head * width * context.slots * _FLOAT  # scores and probabilities
    inner = config.n_inner or 4 * config.n_embd
    return attention + width * (_STATES * config.n_embd + 2 * inner) * context.itemsize


def fitting_size(load: Load, prompts: int, available: int | None) -> int:
    """Return how many prompts to run at once, so that the estimate is not above what there is.

    B is halved until that is so: few sizes, for compilers. A single prompt always runs, since the
    estimate may be wrong, and so do all if nothing is known of the memory.
    """
    size = prompts
    while available is not None and size > 1 and estimated_bytes(load, size) > available:
        size = -(-size // 2)
    return size


def host_memory(root: Path = Path("/")) -> int | None:
    """Return the bytes that this process may still take from the operating system, if it says so.

    On Linux, this is what the kernel calls available or, if it is less, what the control groups
    (containers) of the process leave. Elsewhere nothing is known.

    root: the folder that holds `proc` and `sys`.
    """
    available = _fields(root / "proc/meminfo").get("MemAvailable:")
    if available is None:
        return None
    return min([available * 1024, *_left_by_groups(root)])


def _left_by_groups(root: Path) -> list[int]:
    """Return what each control group of the process leaves of its limit."""
    left = []
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            top, names = root / "sys/fs/cgroup", ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            top = root / "sys/fs/cgroup/memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        folder = top / path.strip("/")
        # In a container, the path may be one of the machine outside; the top is the container's.
        folders = [folder, *folder.parents]
        for group in folders[: folders.index(top) + 1]:
            limit, used = (_number(group / name) for name in names[:2])
            if limit is not None and used is not None:
                # Files that were read and are not in use give way.
                left.append(limit - used + _fields(group / "memory.stat").get(names[2], 0))
    return [max(number, 0) for number in left]


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []


def _number(path: Path) -> int | None:
    """Return the number that a file holds; None for "max", and if there is no such file."""
    lines = _lines(path)
    return int(lines[0]) if lines and lines[0].isdecimal() else None


def _fields(path: Path) -> dict[str, int]:
    """Return the numbers of a file whose lines are a name, a number and maybe a unit."""
    words = [line.split() for line in _lines(path)]
    return {name: int(number) for name, number, *_ in (w for w in words if len(w) > 1)}
