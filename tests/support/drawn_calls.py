"""Calls of `generate` drawn at random: a function of a seed and two numbers, for every backend.

The first number is that of a *form*: all that shapes a computation, such as the strategy, the
processors, the batch size and the buckets of the lengths. The second is that of a call of the form,
which draws the values: lengths, padding, ids, temperatures, seeds. One compilation serves a form.

B prompts, T columns.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

#: Ids of the text of prompts; those of `parity_models.TINY` behind them are special.
TEXT_IDS = 58
PAD = 58


@dataclass(frozen=True)
class Call:
    """A call of `generate`.

    strategy: the name under which it was drawn.
    options: fields of a GenerationConfig, and `seed`; with the strategy "assistant", whoever runs
        the call adds the assistant.
    arrays: the prompts int [B, T], with what belongs to them; each has B rows.
    rows: rows of the computation for each prompt; returned: texts for each prompt.
    cached: columns of the prompts that are computed before, as a prompt cache.
    """

    strategy: str
    options: dict[str, Any]
    arrays: dict[str, np.ndarray]
    rows: int
    returned: int
    cached: int = 0

    @property
    def batch_size(self) -> int:
        return self.arrays["input_ids"].shape[0]

    def padding(self, prompt: int) -> int:
        """Return how many columns of a prompt hold no text."""
        mask = self.arrays.get("attention_mask")
        return 0 if mask is None else int((mask[prompt] == 0).sum())

    def alone(self, prompt: int) -> Call:
        """Return the call of one prompt without its padding, with the same random numbers."""
        padding = self.padding(prompt)
        arrays = {name: array[prompt : prompt + 1] for name, array in self.arrays.items()}
        if padding:
            text = arrays.pop("attention_mask")[0] != 0
            for name in ("input_ids", "token_type_ids"):
                if name in arrays:
                    arrays[name] = arrays[name][:, text]
        options = dict(self.options)
        for name in ("max_length", "min_length"):  # both count padding
            if name in options:
                options[name] = max(options[name] - padding, 0)
        if "seed" in options:
            first = prompt * self.rows
            options["seed"] = [(options["seed"], first + row) for row in range(self.rows)]
        cached = max(self.cached - padding, 0)
        return replace(self, arrays=arrays, options=options, cached=cached)

    def prefix(self) -> dict[str, np.ndarray]:
        """Return the arrays of the columns that are computed before."""
        names = ("input_ids", "attention_mask", "token_type_ids")
        return {name: self.arrays[name][:, : self.cached] for name in names if name in self.arrays}

    def without_drafts(self) -> Call | None:
        """Return the call that writes the same texts without drafts; None if this one has none."""
        if self.strategy not in _DRAFTING:
            return None
        strategy = "sampling" if self.options.get("do_sample") else "greedy"
        options = {name: value for name, value in self.options.items() if name not in _DRAFTS}
        return replace(self, strategy=strategy, options=options)


class _Draw(NamedTuple):
    """shape: draws what shapes a computation, the same for a form; value: the rest."""

    shape: np.random.Generator
    value: np.random.Generator

    def chance(self, probability: float) -> bool:
        return bool(self.shape.random() < probability)

    def size(self, low: int, high: int) -> int:
        """Draw a static size from low to high, both included."""
        return int(self.shape.integers(low, high + 1))

    def number(self, low: int, high: int) -> int:
        return int(self.value.integers(low, high + 1))

    def uniform(self, low: float, high: float) -> float:
        return round(float(self.value.uniform(low, high)), 3)

    def tokens(self, count: int) -> list[int]:
        """Draw different ids of text."""
        return self.value.choice(TEXT_IDS, count, replace=False).tolist()

    def sequences(self, most: int, longest: int) -> list[list[int]]:
        """Draw up to `most` different sequences of ids."""
        lengths = [self.size(1, longest) for _ in range(self.size(1, most))]
        sequences: list[list[int]] = []
        for length in lengths:
            tokens = self.tokens(length)
            while tokens in sequences:
                tokens = self.tokens(length)
            sequences.append(tokens)
        return sequences


_Option = Callable[[_Draw], Any]

#: Options of every strategy: how often they are drawn, and how.
_PROCESSORS: dict[str, tuple[float, _Option]] = {
    "guidance_scale": (0.15, lambda draw: draw.uniform(0.3, 2.5)),
    "sequence_bias": (
        0.1,
        lambda draw: [[ids, draw.uniform(-6, 6)] for ids in draw.sequences(3, 3)],
    ),
    "encoder_repetition_penalty": (0.1, lambda draw: draw.uniform(0.7, 1.6)),
    "repetition_penalty": (0.25, lambda draw: draw.uniform(0.8, 1.8)),
    "no_repeat_ngram_size": (0.25, lambda draw: draw.size(1, 3)),
    "encoder_no_repeat_ngram_size": (0.1, lambda draw: draw.size(1, 3)),
    "bad_words_ids": (0.15, lambda draw: draw.sequences(4, 3)),
    "remove_invalid_values": (0.05, lambda draw: True),
    "exponential_decay_length_penalty": (
        0.1,
        lambda draw: (draw.number(0, 4), draw.uniform(1.01, 1.6)),
    ),
    "suppress_tokens": (0.15, lambda draw: draw.tokens(draw.size(1, 6))),
    "begin_suppress_tokens": (0.1, lambda draw: draw.tokens(draw.size(1, 4))),
    "renormalize_logits": (0.1, lambda draw: True),
    "forced_eos_token_id": (0.08, lambda draw: draw.tokens(1)[0]),
    "watermarking_config": (
        0.06,
        lambda draw: {
            "bias": draw.uniform(1, 5),
            "greenlist_ratio": draw.uniform(0.2, 0.7),
            "hashing_key": draw.number(1, 2**40),
            "seeding_scheme": ("lefthash", "selfhash")[draw.size(0, 1)],
            "context_width": draw.size(1, 2),
        },
    ),
}
#: Options of sampling.
_WARPERS: dict[str, tuple[float, _Option]] = {
    "temperature": (0.6, lambda draw: draw.uniform(0.5, 2)),
    "top_k": (0.7, lambda draw: draw.size(0, 1) and draw.number(3, 30)),
    "top_p": (0.4, lambda draw: draw.uniform(0.5, 0.98)),
    "min_p": (0.2, lambda draw: draw.uniform(0.001, 0.1)),
    "typical_p": (0.2, lambda draw: draw.uniform(0.4, 0.95)),
    "epsilon_cutoff": (0.15, lambda draw: draw.uniform(0.001, 0.02)),
    "eta_cutoff": (0.15, lambda draw: draw.uniform(0.001, 0.02)),
}


def _greedy(draw: _Draw) -> dict[str, Any]:
    return {}


def _sampling(draw: _Draw) -> dict[str, Any]:
    return {"do_sample": True, "num_return_sequences": draw.size(1, 3), **_some(_WARPERS, draw)}


def _beams(draw: _Draw) -> dict[str, Any]:
    beams = draw.size(2, 4)
    return {
        "num_beams": beams,
        "num_return_sequences": draw.size(1, beams),
        "early_stopping": (False, True, "never")[draw.size(0, 2)],
        "length_penalty": draw.uniform(-1, 2),
    }


def _beam_sampling(draw: _Draw) -> dict[str, Any]:
    return {**_beams(draw), "do_sample": True, **_some(_WARPERS, draw)}


def _group_beams(draw: _Draw) -> dict[str, Any]:
    beams, groups = ((2, 2), (4, 2), (4, 4), (6, 3))[draw.size(0, 3)]
    return {
        **_beams(draw),
        "num_beams": beams,
        "num_return_sequences": draw.size(1, beams),
        "num_beam_groups": groups,
        "diversity_penalty": draw.uniform(0.1, 3),
    }


def _constrained_beams(draw: _Draw) -> dict[str, Any]:
    phrases: list[Any] = [draw.tokens(draw.size(1, 2)) for _ in range(draw.size(1, 2))]
    if draw.chance(0.4):  # one of two phrases is enough, and neither begins the other
        ids = draw.tokens(3)
        phrases.append([[ids[0]], ids[1:]])
    return {**_beams(draw), "force_words_ids": phrases}


def _prompt_lookup(draw: _Draw) -> dict[str, Any]:
    options = _sampling(draw) if draw.chance(0.5) else {}
    options["prompt_lookup_num_tokens"] = draw.size(1, 5)
    if draw.chance(0.6):
        options["max_matching_ngram_size"] = draw.size(1, 3)
    return options


def _assisted(draw: _Draw) -> dict[str, Any]:
    options = _sampling(draw) if draw.chance(0.5) else {}
    schedules = ("constant", "heuristic", "heuristic_transient")
    return {
        **options,
        "num_assistant_tokens": draw.size(1, 5),
        "num_assistant_tokens_schedule": schedules[draw.size(0, 2)],
        "assistant_confidence_threshold": draw.size(0, 1) and draw.uniform(0.01, 0.6),
    }


def _early_exit(draw: _Draw) -> dict[str, Any]:
    return {**_assisted(draw), "assistant_early_exit": 1}


def _contrastive(draw: _Draw) -> dict[str, Any]:
    return {"penalty_alpha": draw.uniform(0.1, 0.9), "top_k": draw.size(2, 5)}


def _dola(draw: _Draw) -> dict[str, Any]:
    options = _sampling(draw) if draw.chance(0.5) else {}
    return {**options, "dola_layers": ("low", "high", [0], [0, 1])[draw.size(0, 3)]}


#: The strategies, in turn.
STRATEGIES: dict[str, Callable[[_Draw], dict[str, Any]]] = {
    "greedy": _greedy,
    "sampling": _sampling,
    "beams": _beams,
    "beam sampling": _beam_sampling,
    "group beams": _group_beams,
    "constrained beams": _constrained_beams,
    "prompt lookup": _prompt_lookup,
    "assistant": _assisted,
    "early exit": _early_exit,
    "contrastive": _contrastive,
    "DoLa": _dola,
}
#: Strategies that draft, and their own options.
_DRAFTING = frozenset({"prompt lookup", "assistant", "early exit"})
_DRAFTS = frozenset(
    {
        "prompt_lookup_num_tokens",
        "max_matching_ngram_size",
        "num_assistant_tokens",
        "num_assistant_tokens_schedule",
        "assistant_confidence_threshold",
        "assistant_early_exit",
    }
)
#: Strategies that need a cache.
_CACHED = _DRAFTING | {"contrastive"}


def drawn_call(seed: int, form: int, number: int) -> Call:
    """Return a call of a form, of the series of a seed."""
    draw = _Draw(np.random.default_rng([seed, form]), np.random.default_rng([seed, form, number]))
    strategy = list(STRATEGIES)[form % len(STRATEGIES)]
    options = STRATEGIES[strategy](draw) | _some(_PROCESSORS, draw)
    sizes = _SIZES[int(draw.shape.choice(len(_SIZES), p=(0.7, 0.15, 0.15)))]
    width, new = draw.number(*sizes.width), draw.number(*sizes.new)
    is_cached = draw.chance(0.15) and strategy != "contrastive"
    width = max(width, 2) if is_cached else width
    arrays = _prompts(draw, width, is_cached)
    options |= _lengths(draw, width, new)
    _spare_eos(draw, options)
    if draw.chance(0.1) and strategy not in _CACHED and not is_cached:
        options["use_cache"] = False
    if options.get("do_sample"):
        options["seed"] = int(draw.value.integers(2**63))
    if "guidance_scale" in options and draw.chance(0.6):
        arrays |= _negative_prompts(
            draw, arrays["input_ids"].shape[0], draw.number(*sizes.negative)
        )
    cached = _cached(draw, arrays) if is_cached else 0
    returned = options.get("num_return_sequences", 1)
    return Call(strategy, options, arrays, options.get("num_beams", returned), returned, cached)


class _Sizes(NamedTuple):
    """The least and the most columns of a form, which have the same buckets."""

    width: tuple[int, int]  # of prompts
    new: tuple[int, int]  # of new tokens
    negative: tuple[int, int]  # of negative prompts


_SIZES = (
    _Sizes((1, 9), (2, 7), (1, 6)),  # all within 16
    _Sizes((4, 14), (13, 16), (4, 6)),  # texts of up to 32
    _Sizes((17, 24), (2, 8), (1, 6)),  # and prompts too
)


def _some(options: dict[str, tuple[float, _Option]], draw: _Draw) -> dict[str, Any]:
    return {name: make(draw) for name, (often, make) in options.items() if draw.chance(often)}


def _prompts(draw: _Draw, width: int, is_cached: bool) -> dict[str, np.ndarray]:
    """Draw prompts with padding, most of them at their left.

    is_cached: whether their first columns are computed before: each needs text there, and behind.
    """
    batch = draw.size(1, 3)
    arrays = {"input_ids": draw.value.integers(0, TEXT_IDS, (batch, width))}
    if draw.chance(0.2):
        arrays["token_type_ids"] = draw.value.integers(0, TEXT_IDS, (batch, width))
    if draw.chance(0.7):
        lengths = draw.value.integers(1 + is_cached, width + 1, batch)
        arrays["attention_mask"] = (np.arange(width) >= width - lengths[:, None]).astype(np.int64)
        if draw.value.random() < 0.15 and not is_cached:  # padding at the right, which is moved
            arrays = {name: array[:, ::-1].copy() for name, array in arrays.items()}
        arrays["input_ids"][arrays["attention_mask"] == 0] = PAD
    return arrays


def _lengths(draw: _Draw, width: int, new: int) -> dict[str, Any]:
    """Draw how long texts may and must be, and the tokens that end them."""
    eos = draw.tokens(draw.size(1, 4))
    options: dict[str, Any] = {"pad_token_id": PAD, "eos_token_id": eos}
    is_total = draw.value.random() < 0.3
    options |= {"max_length": width + new} if is_total else {"max_new_tokens": new}
    if draw.chance(0.15):
        options["min_new_tokens"] = draw.number(1, new)
    elif draw.chance(0.15):
        options["min_length"] = draw.number(1, width + new)
    return options


def _spare_eos(draw: _Draw, options: dict[str, Any]) -> None:
    """Replace bad words that are an eos: these are not banned, so that the shapes would differ."""
    words = options.get("bad_words_ids", [])
    for place, word in enumerate(words):
        while len(word) == 1 and (word[0] in options["eos_token_id"] or word in words[:place]):
            word = words[place] = draw.tokens(1)


def _negative_prompts(draw: _Draw, batch: int, width: int) -> dict[str, np.ndarray]:
    arrays = {"negative_prompt_ids": draw.value.integers(0, TEXT_IDS, (batch, width))}
    if draw.chance(0.5):
        lengths = draw.value.integers(1, width + 1, batch)
        mask = (np.arange(width) >= width - lengths[:, None]).astype(np.int64)
        arrays["negative_prompt_attention_mask"] = mask
    return arrays


def _cached(draw: _Draw, arrays: dict[str, np.ndarray]) -> int:
    """Draw how many columns a cache holds, so that every row has text in them and behind them."""
    width = arrays["input_ids"].shape[1]
    padding = int((arrays["attention_mask"] == 0).sum(1).max()) if "attention_mask" in arrays else 0
    return draw.number(padding + 1, width - 1)
