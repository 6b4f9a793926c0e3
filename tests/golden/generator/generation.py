"""Generation in PyTorch: greedy and beam search, each processor alone and combined."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import GPT2LMHeadModel

from .files import Case, write_group
from .forward import padded_mask
from .models import PAD, compact_ids, load_model, random_floats, random_ids

NEW_TOKENS = 20
PROMPTS = random_ids(200, 3, 5)
LONG_PROMPTS = random_ids(201, 3, 9)
LEFT = padded_mask([9, 6, 2], 9, "left")

# Ids that greedy search writes on PROMPTS without processors: what is forbidden below would
# otherwise come. Each entry: settings that both runs share, and those of the processor.
PROCESSORS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "repetition_penalty": ({}, {"repetition_penalty": 1.3}),
    "repetition_penalty_below_one": ({}, {"repetition_penalty": 0.9}),
    "no_repeat_ngram_1": ({}, {"no_repeat_ngram_size": 1}),
    "no_repeat_ngram_2": ({}, {"no_repeat_ngram_size": 2}),
    "no_repeat_ngram_3": ({}, {"no_repeat_ngram_size": 3}),
    "bad_words_single": ({}, {"bad_words_ids": [[94], [14]]}),
    "bad_words_several": ({}, {"bad_words_ids": [[11, 35], [94, 94, 4], [68, 29, 14, 61]]}),
    "eos": ({}, {"eos_token_id": 94}),
    "eos_several": ({}, {"eos_token_id": [14, 76, 92]}),
    "min_length": ({"eos_token_id": 94}, {"min_length": 14}),
    "min_new_tokens": ({"eos_token_id": [14, 76, 94]}, {"min_new_tokens": 8}),
    "forced_eos": ({}, {"forced_eos_token_id": 51}),
    "forced_eos_several": ({}, {"forced_eos_token_id": [51, 7]}),
    "suppress_tokens": ({}, {"suppress_tokens": [94, 11, 4]}),
    "begin_suppress_tokens": ({}, {"begin_suppress_tokens": [35, 66, 68]}),
    "sequence_bias": ({}, {"sequence_bias": [[[94], -6.5], [[11, 35], 5.5], [[4, 4, 38], -9.5]]}),
    "exponential_decay": (
        {"eos_token_id": 50},
        {"exponential_decay_length_penalty": [6, 1.6]},
    ),
    "combined": (
        {"eos_token_id": [14, 34]},
        {
            "repetition_penalty": 1.15,
            "no_repeat_ngram_size": 2,
            "bad_words_ids": [[94], [11, 35]],
            "min_new_tokens": 10,
            "suppress_tokens": [66],
            "begin_suppress_tokens": [68],
            "forced_eos_token_id": 14,
        },
    ),
}
# Those whose outcome does not depend on padding ids before a text; transformers 4 counts them
# in a repetition penalty, and gpt2x does not.
PADDED = (
    "no_repeat_ngram_2",
    "bad_words_several",
    "eos_several",
    "min_new_tokens",
    "suppress_tokens",
    "begin_suppress_tokens",
    "sequence_bias",
)

ENDS = {"eos_token_id": [94, 29]}
BEAMS: dict[str, dict[str, Any]] = {
    "beams_2": {"num_beams": 2},
    "beams_3": {"num_beams": 3},
    "beams_4": {"num_beams": 4},
    "one_new_token": {"num_beams": 3, "max_new_tokens": 1},
    "return_all": {"num_beams": 3, "num_return_sequences": 3, **ENDS},
    "return_2_of_4": {"num_beams": 4, "num_return_sequences": 2, **ENDS},
    "eos_one": {"num_beams": 3, "eos_token_id": 94},
    "eos_three": {"num_beams": 2, "eos_token_id": [94, 29, 11], "num_return_sequences": 2},
    "min_new_tokens": {"num_beams": 3, "min_new_tokens": 9, **ENDS},
    "repetition_penalty": {"num_beams": 3, "repetition_penalty": 1.4, **ENDS},
    "no_repeat_ngram": {"num_beams": 3, "no_repeat_ngram_size": 2},
    "bad_words": {"num_beams": 3, "bad_words_ids": [[94], [11, 35]]},
    "sequence_bias": {"num_beams": 3, "sequence_bias": [[[94], -3.5], [[11, 35], 2.5]]},
    "forced_eos": {"num_beams": 3, "forced_eos_token_id": 51},
    "exponential_decay": {
        "num_beams": 3,
        "exponential_decay_length_penalty": [4, 1.4],
        "eos_token_id": 50,
    },
    "renormalize_logits": {
        "num_beams": 3,
        "suppress_tokens": [94, 4],
        "renormalize_logits": True,
    },
    "combined": {
        "num_beams": 4,
        "num_return_sequences": 2,
        "repetition_penalty": 1.2,
        "no_repeat_ngram_size": 3,
        "min_new_tokens": 5,
        "length_penalty": 1.5,
        "early_stopping": True,
        **ENDS,
    },
}
LENGTH_PENALTIES = {"minus_1": -1.0, "0": 0.0, "half": 0.5, "1": 1.0, "2": 2.0}
EARLY_STOPPING = {"true": True, "false": False, "never": "never"}
BEAM_OUTPUTS = ("sequences_scores", "beam_indices")


def write_generation(out: Path) -> None:
    """Every generation case; each is also run with other arithmetic, to rule out near ties."""
    plain = load_model(out, "plain")
    untied = load_model(out, "untied")
    write_group(out / "plain/greedy.npz", greedy_cases(plain))
    write_group(out / "untied/greedy.npz", greedy_cases(untied))
    write_group(out / "plain/processors.npz", processor_cases(plain))
    write_group(out / "plain/beams.npz", beam_cases(plain))
    write_group(out / "plain/beam_endings.npz", beam_ending_cases(plain))
    write_group(out / "untied/beams.npz", untied_beam_cases(untied))
    encoded = load_model(out, "cross_attention")
    write_group(out / "cross_attention/generation.npz", cross_attention_cases(encoded))
    double_heads = load_model(out, "double_heads")
    prompts = compact_ids(206, 2, 4)
    cases = {"greedy": generation_case(double_heads, prompts, max_new_tokens=12)}
    write_group(out / "double_heads/generation.npz", cases)


def generation_case(
    model: GPT2LMHeadModel,
    input_ids: torch.Tensor,
    mask: torch.Tensor | None = None,
    *,
    extra: dict[str, torch.Tensor] | None = None,
    outputs: tuple[str, ...] = (),
    transitions: bool = False,
    keep_scores: bool = True,
    **generate: Any,
) -> Case:
    """Generate and record.

    ``extra`` holds inputs beside the ids and their mask; the model is given embeddings instead of
    ids where it has ``inputs_embeds``, and the sequences are then the new tokens alone.
    ``outputs`` names what to store beside the sequences: ``scores`` and ``logits`` become
    [N, rows, V]; ``beam_indices`` and ``sequences_scores`` are as transformers returns them.
    """
    generate = {"do_sample": False, "max_new_tokens": NEW_TOKENS, "pad_token_id": PAD, **generate}
    inputs = {"input_ids": input_ids}
    if mask is not None:
        inputs = {"input_ids": torch.where(mask.bool(), input_ids, PAD), "attention_mask": mask}
    inputs |= extra or {}
    if "inputs_embeds" in inputs:
        del inputs["input_ids"]
    arguments = {
        "attention_mask": torch.ones_like(input_ids),
        **inputs,
        **generate,
        "return_dict_in_generate": True,
        "output_scores": keep_scores,
        "output_logits": True,
    }
    result = model.generate(**arguments)
    require_clear_choices(model, arguments, result)
    recorded = {"sequences": result.sequences}
    for key in outputs:
        value = result[key]
        recorded[key] = torch.stack(value) if isinstance(value, tuple) else value
    if transitions:
        for normalised in (False, True):
            name = "transition_scores_normalized" if normalised else "transition_scores"
            recorded[name] = model.compute_transition_scores(
                result.sequences,
                result.scores,
                result.get("beam_indices"),
                normalize_logits=normalised,
            )
    return Case(
        settings={"class": type(model).__name__, "generate": generate},
        inputs={key: value.numpy() for key, value in inputs.items()},
        outputs={key: value.numpy() for key, value in recorded.items()},
    )


def variants(model: GPT2LMHeadModel) -> Iterator[GPT2LMHeadModel]:
    """The model in float64, and with weights that differ by one part in 100,000."""
    state = {key: value.clone() for key, value in model.state_dict().items()}
    try:
        yield model.double()
        model.float()
        for seed in range(2):
            generator = torch.Generator().manual_seed(seed)
            noise = {
                key: 1 + 1e-5 * torch.randn(value.shape, generator=generator)
                for key, value in state.items()
            }
            model.load_state_dict({key: value * noise[key] for key, value in state.items()})
            yield model
    finally:
        model.float()
        model.load_state_dict(state)


def require_clear_choices(model: GPT2LMHeadModel, arguments: dict[str, Any], result: Any) -> None:
    """Raise if rounding alone could change a token or a beam: such a case would test luck."""
    for variant in variants(model):
        typed = {
            key: value.to(variant.dtype)
            if torch.is_tensor(value) and value.is_floating_point()
            else value
            for key, value in arguments.items()
        }
        # Diverse beam search of transformers 4.49 cannot keep scores in float64.
        typed["output_scores"] &= arguments.get("num_beam_groups", 1) == 1
        other = variant.generate(**typed)
        for key in ("sequences", "beam_indices"):
            if key in result and key in other and not torch.equal(other[key], result[key]):
                settings = {k: v for k, v in arguments.items() if not torch.is_tensor(v)}
                raise RuntimeError(f"a near tie decides {key}; change the inputs: {settings}")


def greedy_cases(model: GPT2LMHeadModel) -> dict[str, Case]:
    """Greedy search without processors: whole and padded batches, short and long prompts."""
    last = {"max_new_tokens": None, "max_length": model.config.n_positions}
    return {
        "plain": generation_case(model, PROMPTS, outputs=("scores", "logits"), transitions=True),
        "left_padded": generation_case(model, LONG_PROMPTS, LEFT),
        "one_row": generation_case(model, PROMPTS[:1]),
        "one_token_prompt": generation_case(model, PROMPTS[:, :1]),
        "to_last_position": generation_case(model, LONG_PROMPTS[:1], **last),
        "token_type_ids": generation_case(
            model, PROMPTS, extra={"token_type_ids": random_ids(202, *PROMPTS.shape)}
        ),
        "inputs_embeds": generation_case(
            model,
            PROMPTS,
            extra={"inputs_embeds": random_floats(203, 3, 5, model.config.n_embd, scale=0.5)},
        ),
    }


def cross_attention_cases(model: GPT2LMHeadModel) -> dict[str, Case]:
    """Greedy and beam search that attend to an encoder's hidden states."""
    prompts = compact_ids(204, 3, 4)
    extra = {
        "encoder_hidden_states": random_floats(205, 3, 5, model.config.n_embd),
        "encoder_attention_mask": padded_mask([5, 3, 1], 5, "right"),
    }
    left = padded_mask([4, 3, 1], 4, "left")
    return {
        "greedy": generation_case(model, prompts, extra=extra, max_new_tokens=12),
        "left_padded": generation_case(model, prompts, left, extra=extra, max_new_tokens=12),
        "beams_3": generation_case(
            model, prompts, extra=extra, outputs=BEAM_OUTPUTS, max_new_tokens=12, num_beams=3
        ),
    }


def processor_cases(model: GPT2LMHeadModel) -> dict[str, Case]:
    """Greedy search under each processor, which must change what is written."""
    cases = {}
    for name, (common, processor) in PROCESSORS.items():
        case = generation_case(model, PROMPTS, **common, **processor)
        without = generation_case(model, PROMPTS, **common)
        if np.array_equal(case.outputs["sequences"], without.outputs["sequences"]):
            raise RuntimeError(f"{name} changes nothing; choose other values")
        cases[name] = case
        if name in PADDED:
            cases[f"{name}_left_padded"] = generation_case(
                model, LONG_PROMPTS, LEFT, **common, **processor
            )
    cases["forced_bos"] = generation_case(model, PROMPTS[:, :1], forced_bos_token_id=51)
    cases["repetition_penalty_left_padded"] = rows_alone(
        model, LONG_PROMPTS, LEFT, repetition_penalty=1.3
    )
    return cases


def rows_alone(
    model: GPT2LMHeadModel, input_ids: torch.Tensor, mask: torch.Tensor, **generate: Any
) -> Case:
    """A padded batch, with what transformers writes for each row given alone, unpadded."""
    rows = []
    for row, seen in zip(input_ids, mask.bool(), strict=True):
        case = generation_case(model, row[seen][None], **generate)
        rows.append(case.outputs["sequences"][0, int(seen.sum()) :])
    padded = torch.where(mask.bool(), input_ids, PAD).numpy()
    return Case(
        settings=case.settings,
        inputs={"input_ids": padded, "attention_mask": mask.numpy()},
        outputs={"sequences": np.concatenate([padded, np.stack(rows)], axis=1)},
    )


def beam_cases(model: GPT2LMHeadModel) -> dict[str, Case]:
    """Beam search of different widths, with processors, padding and several eos ids."""
    cases = {
        name: generation_case(model, PROMPTS, outputs=BEAM_OUTPUTS, **settings)
        for name, settings in BEAMS.items()
    }
    cases["scores"] = generation_case(
        model,
        PROMPTS[:2],
        outputs=(*BEAM_OUTPUTS, "scores", "logits"),
        transitions=True,
        num_beams=2,
        max_new_tokens=10,
        **ENDS,
    )
    for name, settings in (
        ("left_padded", {"num_beams": 2}),
        ("left_padded_eos", {"num_beams": 3, "num_return_sequences": 2, **ENDS}),
    ):
        cases[name] = generation_case(model, LONG_PROMPTS, LEFT, outputs=BEAM_OUTPUTS, **settings)
    return cases


def beam_ending_cases(model: GPT2LMHeadModel) -> dict[str, Case]:
    """Every length penalty with every rule of early stopping, on beams that do end."""
    cases = {}
    for stop_name, early_stopping in EARLY_STOPPING.items():
        for penalty_name, length_penalty in LENGTH_PENALTIES.items():
            cases[f"early_stopping_{stop_name}_length_penalty_{penalty_name}"] = generation_case(
                model,
                PROMPTS,
                outputs=BEAM_OUTPUTS,
                num_beams=3,
                num_return_sequences=2,
                early_stopping=early_stopping,
                length_penalty=length_penalty,
                **ENDS,
            )
    outcomes = {case.outputs["sequences"].tobytes() for case in cases.values()}
    if len(outcomes) < 5:
        raise RuntimeError("the endings hardly differ; choose other eos ids")
    return cases


def untied_beam_cases(model: GPT2LMHeadModel) -> dict[str, Case]:
    """A few beam searches on the second model."""
    return {
        "beams_4": generation_case(model, PROMPTS, outputs=BEAM_OUTPUTS, num_beams=4),
        "left_padded": generation_case(
            model, LONG_PROMPTS, LEFT, outputs=BEAM_OUTPUTS, num_beams=3
        ),
    }
