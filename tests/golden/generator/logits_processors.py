"""Logits processors on fixed rows of logits: those that look at the ids, and those of sampling."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig, GPT2Config, GPT2LMHeadModel

from .files import Case, write_group
from .models import SMALL

VOCABULARY = 97
PROMPT_LENGTH = 4
# Short alphabets, so that n-grams repeat; the first PROMPT_LENGTH columns are the prompt.
HISTORY = torch.tensor(
    [
        [5, 6, 7, 5, 6, 8, 5, 6, 7, 5],
        [9, 9, 9, 9, 9, 9, 9, 9, 9, 9],
        [11, 12, 13, 14, 15, 16, 12, 13, 17, 12],
    ]
)

IDS: dict[str, dict[str, Any]] = {
    "repetition_penalty": {"repetition_penalty": 1.7},
    "repetition_penalty_below_one": {"repetition_penalty": 0.6},
    "encoder_repetition_penalty": {"encoder_repetition_penalty": 1.7},
    "no_repeat_ngram_1": {"no_repeat_ngram_size": 1},
    "no_repeat_ngram_2": {"no_repeat_ngram_size": 2},
    "no_repeat_ngram_3": {"no_repeat_ngram_size": 3},
    "no_repeat_ngram_11": {"no_repeat_ngram_size": 11},
    "encoder_no_repeat_ngram_2": {"encoder_no_repeat_ngram_size": 2},
    "bad_words_ids": {"bad_words_ids": [[3], [7, 5, 20], [9, 9, 21], [5, 22], [17, 12, 23], [24]]},
    "bad_words_longer_than_history": {"bad_words_ids": [[9] * 11, [9] * 10]},
    "sequence_bias": {"sequence_bias": [[[3], -2.5], [[7, 5, 20], 3.5], [[9, 9], 1.25]]},
    "min_length": {"min_length": 11, "eos_token_id": [40, 41]},
    "min_length_reached": {"min_length": 10, "eos_token_id": 40},
    "min_new_tokens": {"min_new_tokens": 7, "eos_token_id": 40},
    "min_new_tokens_reached": {"min_new_tokens": 6, "eos_token_id": 40},
    "forced_eos": {"forced_eos_token_id": [42, 43], "max_length": 11},
    "forced_eos_not_yet": {"forced_eos_token_id": 42, "max_length": 12},
    "exponential_decay": {
        "exponential_decay_length_penalty": [2, 1.3],
        "eos_token_id": [40, 41],
    },
    "exponential_decay_not_yet": {
        "exponential_decay_length_penalty": [6, 1.3],
        "eos_token_id": 40,
    },
    "suppress_tokens": {"suppress_tokens": [0, 50, 96]},
    "begin_suppress_tokens_past": {"begin_suppress_tokens": [50]},
    "remove_invalid_values": {"remove_invalid_values": True},
    "renormalize_logits": {"renormalize_logits": True},
    "combined": {
        "sequence_bias": [[[30], 2.0]],
        "repetition_penalty": 1.2,
        "no_repeat_ngram_size": 3,
        "bad_words_ids": [[3]],
        "min_new_tokens": 6,
        "eos_token_id": 40,
        "exponential_decay_length_penalty": [3, 1.1],
        "suppress_tokens": [60],
        "renormalize_logits": True,
    },
}
# Cases on a shorter history: the number of columns, then the settings.
BEGINNINGS: dict[str, tuple[int, dict[str, Any]]] = {
    "forced_bos": (1, {"forced_bos_token_id": 44}),
    "forced_bos_past": (2, {"forced_bos_token_id": 44}),
    "begin_suppress_tokens": (PROMPT_LENGTH, {"begin_suppress_tokens": [50, 51]}),
}

SAMPLING: dict[str, dict[str, Any]] = {
    "temperature_low": {"temperature": 0.3},
    "temperature_high": {"temperature": 1.9},
    "top_k_1": {"top_k": 1},
    "top_k_5": {"top_k": 5},
    "top_k_beyond_vocabulary": {"top_k": 500},
    "top_p_03": {"top_p": 0.3},
    "top_p_09": {"top_p": 0.9},
    "top_p_0999": {"top_p": 0.999},
    "top_p_0": {"top_p": 0.0},
    "min_p_005": {"min_p": 0.05},
    "min_p_05": {"min_p": 0.5},
    "typical_p_02": {"typical_p": 0.2},
    "typical_p_09": {"typical_p": 0.9},
    "epsilon_cutoff": {"epsilon_cutoff": 0.02},
    "epsilon_cutoff_high": {"epsilon_cutoff": 0.9},
    "eta_cutoff": {"eta_cutoff": 0.003},
    "eta_cutoff_high": {"eta_cutoff": 0.3},
    "default_top_k": {"top_k": 50},
    "temperature_top_k": {"temperature": 0.7, "top_k": 12},
    "temperature_top_k_top_p": {"temperature": 1.3, "top_k": 20, "top_p": 0.8},
    "top_k_min_p": {"top_k": 30, "min_p": 0.08},
    "all": {
        "temperature": 1.5,
        "top_k": 60,
        "top_p": 0.97,
        "min_p": 0.01,
        "typical_p": 0.95,
        "epsilon_cutoff": 0.004,
        "eta_cutoff": 0.002,
    },
    "all_renormalized": {
        "temperature": 0.8,
        "top_k": 40,
        "top_p": 0.9,
        "renormalize_logits": True,
    },
    "beams_top_k_1": {"top_k": 1, "num_beams": 2},
    "beams_two_eos_top_p_0": {"top_p": 0.0, "num_beams": 2, "eos_token_id": [3, 4]},
    "beams_min_p": {"min_p": 0.9, "num_beams": 3, "eos_token_id": 3},
    "beams_typical_p": {"typical_p": 0.05, "num_beams": 3, "eos_token_id": 3},
    "beams_cutoffs": {
        "epsilon_cutoff": 0.9,
        "eta_cutoff": 0.9,
        "num_beams": 3,
        "eos_token_id": 3,
    },
}


def write_logits_processors(out: Path) -> None:
    """The groups ``ids`` and ``sampling`` of a folder that holds no model."""
    write_group(out / "logits_processors/ids.npz", id_cases())
    write_group(out / "logits_processors/sampling.npz", sampling_cases())


def processed(input_ids: torch.Tensor, logits: torch.Tensor, settings: dict[str, Any]) -> Any:
    """The scores [B, V] after transformers' own list of processors, in its own order."""
    prompt_length = min(PROMPT_LENGTH, input_ids.shape[1])
    config = GenerationConfig(**settings)
    eos = config.eos_token_id
    config._eos_token_tensor = None if eos is None else torch.tensor(eos).view(-1)
    model = GPT2LMHeadModel(GPT2Config(**SMALL))  # the list is a method's, and needs no weight
    processors = model._get_logits_processor(
        generation_config=config,
        input_ids_seq_length=prompt_length,
        encoder_input_ids=input_ids[:, :prompt_length],
        device="cpu",
    )
    return processors(input_ids, logits.clone())


def processor_case(input_ids: torch.Tensor, logits: torch.Tensor, settings: dict[str, Any]) -> Case:
    """One case: ``settings`` are fields of GenerationConfig."""
    return Case(
        settings={
            "generate": settings,
            "prompt_length": min(PROMPT_LENGTH, input_ids.shape[1]),
        },
        inputs={"input_ids": input_ids.numpy(), "logits": logits.numpy()},
        outputs={"scores": processed(input_ids, logits, settings).numpy()},
    )


def id_cases() -> dict[str, Case]:
    """Processors that read the ids so far, or count them."""
    generator = np.random.default_rng(400)
    logits = torch.from_numpy(generator.normal(0, 2, (3, VOCABULARY)).astype(np.float32))
    invalid = logits.clone()
    invalid[0, 3], invalid[1, 4], invalid[2, 5] = torch.nan, torch.inf, -torch.inf
    cases = {
        name: processor_case(
            HISTORY, invalid if name == "remove_invalid_values" else logits, settings
        )
        for name, settings in IDS.items()
    }
    for name, (columns, settings) in BEGINNINGS.items():
        cases[name] = processor_case(HISTORY[:, :columns], logits, settings)
    return cases


def sampling_rows() -> torch.Tensor:
    """float32 [6, V]: peaked, usual, flat, one certain token, -inf from before, ties."""
    generator = np.random.default_rng(401)
    scales = np.array([4.0, 1.5, 0.2, 1.0, 2.0, 1.5])[:, None]
    rows = scales * generator.standard_normal((6, VOCABULARY))
    rows[3, 17] += 30.0
    rows[4, ::3] = -np.inf
    rows[5] = np.round(rows[5] * 2) / 2
    return torch.from_numpy(rows.astype(np.float32))


def sampling_cases() -> dict[str, Case]:
    """What sampling draws from, under each setting alone and several in their order."""
    rows = sampling_rows()
    cases = {}
    for name, given in SAMPLING.items():
        settings = {"do_sample": True, "top_k": 0, **given}
        # which of several equal tokens top-p keeps depends on the sort, so it gets no ties
        used = rows[:-1] if "top_p" in given else rows
        input_ids = HISTORY[:1].repeat(len(used), 1)
        cases[name] = processor_case(input_ids, used, settings)
        require_clear_thresholds(cases[name], input_ids, used, name)
    return cases


def require_clear_thresholds(
    case: Case, input_ids: torch.Tensor, rows: torch.Tensor, name: str
) -> None:
    """Raise if rounding alone could move a token across a threshold; ties stay ties."""
    kept = np.isfinite(case.outputs["scores"])
    for factor in (1 - 2e-6, 1 + 2e-6):
        scores = processed(input_ids, rows * factor, case.settings["generate"])
        if not np.array_equal(np.isfinite(scores.numpy()), kept):
            raise RuntimeError(f"{name}: a token lies at the threshold; change the setting")
