"""Watermarks: texts that PyTorch's greedy and beam search write, and what the detector says."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from transformers import (
    GPT2LMHeadModel,
    SynthIDTextWatermarkDetector,
    SynthIDTextWatermarkingConfig,
    WatermarkDetector,
    WatermarkingConfig,
)

from .files import Case, write_group
from .generation import BEAM_OUTPUTS, LEFT, LONG_PROMPTS, PROMPTS, generation_case, rows_alone
from .models import load_model, random_ids

LEFTHASH: dict[str, Any] = {"bias": 2.5}
SELFHASH: dict[str, Any] = {"bias": 2.5, "seeding_scheme": "selfhash"}
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "lefthash": (LEFTHASH, {}),
    "lefthash_width_3": ({**LEFTHASH, "context_width": 3, "greenlist_ratio": 0.5}, {}),
    "lefthash_key": ({**LEFTHASH, "hashing_key": 2**62 + 11, "greenlist_ratio": 0.1}, {}),
    "selfhash": (SELFHASH, {}),
    "selfhash_width_4": ({**SELFHASH, "context_width": 4}, {}),
    "selfhash_key": ({**SELFHASH, "hashing_key": -5, "greenlist_ratio": 0.6}, {}),
    "with_processors": (
        LEFTHASH,
        {"repetition_penalty": 1.3, "suppress_tokens": [94, 11], "renormalize_logits": True},
    ),
    "one_candidate": (SELFHASH, {"do_sample": True, "top_k": 1}),
    "beams_3": (LEFTHASH, {"num_beams": 3}),
    "beams_3_selfhash": ({**SELFHASH, "context_width": 2}, {"num_beams": 3, "eos_token_id": 94}),
}
SCORED = {"lefthash": ("scores",), "one_candidate": ("scores",)}
TOURNAMENTS: dict[str, Any] = {
    "ngram_len": 3,
    "keys": [654, 400, -836, 2**62 + 5, 340, 443],
    "sampling_table_size": 1000,
    "sampling_table_seed": 7,
}
SYNTHID: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "few_keys": (TOURNAMENTS, {}),
    "defaults": ({"ngram_len": 5, "keys": [654, 400, 836, 123, 340, 443, 597, 160, 57]}, {}),
    "short_history": ({**TOURNAMENTS, "ngram_len": 2, "context_history_size": 3}, {}),
    "skip_first": ({**TOURNAMENTS, "skip_first_ngram_calls": True}, {}),
    "debug": ({**TOURNAMENTS, "debug_mode": True}, {}),
    "with_processors": (TOURNAMENTS, {"suppress_tokens": [94, 11], "repetition_penalty": 1.3}),
}
DETECTED = (
    "num_tokens_scored",
    "num_green_tokens",
    "green_fraction",
    "z_score",
    "p_value",
    "prediction",
    "confidence",
)


def write_watermark(out: Path) -> None:
    """The texts of each case, and the detector's numbers for these and for a random text."""
    model = load_model(out, "plain")
    texts = {}
    for name, (watermark, options) in CASES.items():
        outputs = BEAM_OUTPUTS if "num_beams" in options else SCORED.get(name, ())
        config = WatermarkingConfig(**watermark)
        case = generation_case(
            model, PROMPTS, outputs=outputs, watermarking_config=config, **options
        )
        if name == "lefthash":
            require_effect(model, case)
        texts[name] = written(case, watermark)
    for name, pad in (("selfhash", generation_case), ("lefthash_width_3", rows_alone)):
        watermark = CASES[name][0]
        case = pad(model, LONG_PROMPTS, LEFT, watermarking_config=WatermarkingConfig(**watermark))
        texts[f"{name}_left_padded"] = written(case, watermark)
    write_group(out / "plain/watermark.npz", texts)
    write_group(out / "plain/watermark_detector.npz", detector_cases(model, texts))
    synthid = synthid_cases(model)
    write_group(out / "plain/synthid.npz", synthid)
    write_group(
        out / "plain/synthid_values.npz",
        {name: synthid_values(case.outputs["sequences"], name) for name, case in synthid.items()},
    )


def synthid_cases(model: GPT2LMHeadModel) -> dict[str, Case]:
    """Texts with SynthID's watermark."""
    cases = {}
    for name, (watermark, options) in SYNTHID.items():
        config = SynthIDTextWatermarkingConfig(**watermark)
        outputs = ("scores",) if name == "few_keys" else ()
        case = generation_case(
            model, PROMPTS, outputs=outputs, watermarking_config=config, **options
        )
        require_effect(model, case)
        cases[name] = written(case, watermark)
    watermark = SYNTHID["few_keys"][0]
    config = SynthIDTextWatermarkingConfig(**watermark)
    case = generation_case(model, LONG_PROMPTS, LEFT, watermarking_config=config)
    return cases | {"left_padded": written(case, watermark)}


def synthid_values(sequences: np.ndarray, name: str) -> Case:
    """The bits and masks that a detector reads of the new tokens of texts."""
    watermark = SYNTHID.get(name, SYNTHID["few_keys"])[0]
    processor = SynthIDTextWatermarkingConfig(**watermark).construct_processor(0, "cpu")
    ids = torch.from_numpy(np.tile(sequences[:, -12:], 2))  # contexts repeat
    end = int(ids[0, 17])
    found: dict[str, Any] = {}

    def detect(g_values: torch.Tensor, mask: torch.Tensor) -> None:
        found.update(g_values=g_values.numpy(), mask=mask.numpy())

    SynthIDTextWatermarkDetector(detect, processor, SimpleNamespace(eos_token_id=end))(ids)
    return Case(
        settings={"watermarking_config": watermark, "eos_token_id": end},
        inputs={"input_ids": ids.numpy()},
        outputs=found,
    )


def require_effect(model: GPT2LMHeadModel, case: Case) -> None:
    """Raise if the watermark changes nothing."""
    without = generation_case(model, PROMPTS)
    if np.array_equal(case.outputs["sequences"], without.outputs["sequences"]):
        raise RuntimeError("the watermark changes nothing; choose another bias")


def written(case: Case, watermark: dict[str, Any]) -> Case:
    """The case with its watermark as JSON can hold it."""
    case.settings["generate"]["watermarking_config"] = watermark
    return case


def detector_cases(model: GPT2LMHeadModel, texts: dict[str, Case]) -> dict[str, Case]:
    """What the detector finds in the new tokens of each text, and in text without a watermark."""
    inputs = {
        name: torch.from_numpy(texts[name].outputs["sequences"])[:, PROMPTS.shape[1] :]
        for name in CASES
    }
    cases = {name: detector_case(model, CASES[name][0], ids) for name, ids in inputs.items()}
    others = random_ids(210, 2, 50)
    others[:, 0] = model.config.bos_token_id
    cases["no_watermark"] = detector_case(model, SELFHASH, others)
    cases["threshold"] = detector_case(model, LEFTHASH, inputs["lefthash"], z_threshold=4.5)
    return cases


def detector_case(
    model: GPT2LMHeadModel, watermark: dict[str, Any], ids: torch.Tensor, **call: Any
) -> Case:
    """Detect a watermark and record all numbers."""
    detector = WatermarkDetector(model.config, "cpu", watermark_defaults(watermark))
    result = detector(ids, return_dict=True, **call)
    return Case(
        settings={"watermarking_config": watermark, "call": call},
        inputs={"input_ids": ids.numpy()},
        outputs={name: getattr(result, name) for name in DETECTED},
    )


def watermark_defaults(watermark: dict[str, Any]) -> dict[str, Any]:
    """All fields of a watermark: transformers' detector takes no others from a dictionary."""
    return WatermarkingConfig(**watermark).to_dict()
