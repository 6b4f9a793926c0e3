"""Calls of `generate` that one compilation serves: of a strategy, a batch size and a bucket; and
how often XLA compiles.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

_SAMPLING = {"do_sample": True, "temperature": 0.7, "top_k": 5, "top_p": 0.9}
_BEAMS = {"num_beams": 2, "length_penalty": 0.5}
_SAMPLINGS = [{"temperature": 1.5}, {"top_p": 0.6, "seed": 9}, {"top_k": 7}]
_PENALTIES = [{"length_penalty": 2.0}, {"num_return_sequences": 1}, {"length_penalty": 0.0}]
#: The options of each strategy, and what changes from call to call: values, not shapes.
STRATEGIES: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = {
    "greedy": (
        {"repetition_penalty": 1.2},
        [{"repetition_penalty": 1.5}, {"eos_token_id": 7}, {"pad_token_id": 3}],
    ),
    "sampling": (_SAMPLING, _SAMPLINGS),
    "beams": (_BEAMS, _PENALTIES),
    "beam sampling": ({**_BEAMS, **_SAMPLING}, _SAMPLINGS),
    "group beams": (
        {**_BEAMS, "num_beam_groups": 2, "diversity_penalty": 0.5},
        [*_PENALTIES[:2], {"diversity_penalty": 1.5}],
    ),
    "constrained beams": (
        {**_BEAMS, "force_words_ids": [[3], [5, 6]]},
        [{"force_words_ids": [[9], [8, 2]]}, {"force_words_ids": [[1], [1, 4]]}, _PENALTIES[0]],
    ),
    "guidance": (
        {"guidance_scale": 1.5, "negative_prompt_ids": np.array([[5, 6]])},
        [
            {"guidance_scale": 0.5},
            {"negative_prompt_ids": np.array([[4, 8, 9]])},
            {"negative_prompt_ids": np.array([[2]])},
        ],
    ),
    "prompt lookup": (
        {"prompt_lookup_num_tokens": 3},
        [{"eos_token_id": 7}, {"eos_token_id": 9}, {"pad_token_id": 3}],
    ),
    "contrastive": (
        {"penalty_alpha": 0.6, "top_k": 3},
        [{"penalty_alpha": 0.3}, {"penalty_alpha": 0.1}, {"eos_token_id": 7}],
    ),
    "DoLa": (
        {"dola_layers": [0], "repetition_penalty": 1.2},
        [{"repetition_penalty": 1.5}, {"eos_token_id": 7}, {"pad_token_id": 3}],
    ),
}


def calls(strategy: str) -> Iterator[tuple[np.ndarray, dict[str, Any]]]:
    """Yield prompts and options of calls, each of other lengths and values than the others."""
    options, changes = STRATEGIES[strategy]
    rng = np.random.default_rng(0)
    for change, width, new in zip([{}, *changes], (5, 1, 9, 8), (4, 7, 5, 6), strict=True):
        ids = rng.integers(0, 50, (1, width)).astype(np.int32)
        common = {"eos_token_id": 60, "pad_token_id": 59, "max_new_tokens": new}
        if width == 8:  # one of them with padding
            common["attention_mask"] = (np.arange(width) > 2)[None].astype(np.int32)
        yield ids, {**common, **options, **change}


class Compilations:
    """Counts of the computations that XLA has compiled: by JAX itself, and of TensorFlow's graphs.

    Args:
        folder: where XLA dumps the modules of TensorFlow; `flags` makes it do so.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._counts = {"flax": 0, "tf": 0}

    @staticmethod
    def flags(folder: Path) -> str:
        """Return what `XLA_FLAGS` must hold before TensorFlow is imported."""
        return f"--xla_dump_to={folder} --xla_dump_hlo_as_text --xla_dump_hlo_module_re=inference"

    def listen(self) -> None:
        """Count what JAX compiles from now on."""
        import jax

        def count(name: str, duration: float, **_: Any) -> None:
            self._counts["flax"] += name == "/jax/core/compile/backend_compile_duration"

        jax.monitoring.register_event_duration_secs_listener(count)

    def take(self) -> dict[str, int]:
        """Return how many there were since the last time, for each backend."""
        for file in filter(Path.is_file, self._folder.iterdir()):
            self._counts["tf"] += file.name.endswith("before_optimizations.txt")
            file.unlink()
        counts, self._counts = self._counts, {"flax": 0, "tf": 0}
        return counts
