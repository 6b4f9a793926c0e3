"""Generation in PyTorch: greedy and beam search, each processor alone and combined."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import GPT2LMHeadModel

from .files import Case, write_group
from .forward import padded_mask
from .models import PAD, load_model, random_ids

NEW_TOKENS = 20
PROMPTS = random_ids(200, 3, 5)
LONG_PROMPTS = random_ids(201, 3, 9)
PADDED_LENGTHS = [9, 6, 2]


def write_generation(out: Path) -> None:
    """Every generation case; each is also run with other arithmetic, to rule out near ties."""
    write_group(out / "plain/greedy.npz", greedy_cases(out, "plain"))
    write_group(out / "untied/greedy.npz", greedy_cases(out, "untied"))


def generation_case(
    model: GPT2LMHeadModel,
    input_ids: torch.Tensor,
    mask: torch.Tensor | None = None,
    *,
    outputs: tuple[str, ...] = (),
    transitions: bool = False,
    **generate: Any,
) -> Case:
    """Generate and record.

    ``outputs`` names what to store beside the sequences: ``scores`` and ``logits`` become
    [N, B, V], and ``beam_indices`` and ``sequences_scores`` are as transformers returns them.
    """
    generate = {"do_sample": False, "max_new_tokens": NEW_TOKENS, "pad_token_id": PAD, **generate}
    inputs = {"input_ids": input_ids}
    if mask is not None:
        inputs = {"input_ids": torch.where(mask.bool(), input_ids, PAD), "attention_mask": mask}
    arguments = {"attention_mask": torch.ones_like(input_ids), **inputs, **generate}
    for key in ("scores", "logits"):
        arguments[f"output_{key}"] = key in outputs or transitions or "sequences_scores" in outputs
    result = model.generate(**arguments, return_dict_in_generate=True)
    require_clear_choices(model, arguments, result.sequences)
    recorded = {"sequences": result.sequences}
    for key in outputs:
        value = result[key]
        recorded[key] = torch.stack(value) if isinstance(value, tuple) else value
    if transitions:
        beams = result.get("beam_indices")
        for normalised in (False, True):
            name = "transition_scores_normalized" if normalised else "transition_scores"
            recorded[name] = model.compute_transition_scores(
                result.sequences, result.scores, beams, normalize_logits=normalised
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
        for seed in range(3):
            generator = torch.Generator().manual_seed(seed)
            model.float()
            model.load_state_dict(
                {
                    key: value * (1 + 1e-5 * torch.randn(value.shape, generator=generator))
                    for key, value in state.items()
                }
            )
            yield model
    finally:
        model.float()
        model.load_state_dict(state)
        model.tie_weights()


def require_clear_choices(
    model: GPT2LMHeadModel, arguments: dict[str, Any], sequences: torch.Tensor
) -> None:
    """Raise if rounding alone could change a token: such a case would test luck."""
    for variant in variants(model):
        if not torch.equal(variant.generate(**arguments), sequences):
            raise RuntimeError(f"a near tie decides a token; change the inputs: {arguments}")


def greedy_cases(out: Path, folder: str) -> dict[str, Case]:
    """Greedy search without processors: whole batches, padded ones, rows that end apart."""
    model = load_model(out, folder)
    left = padded_mask(PADDED_LENGTHS, 9, "left")
    return {
        "plain": generation_case(model, PROMPTS, outputs=("scores", "logits"), transitions=True),
        "left_padded": generation_case(model, LONG_PROMPTS, left),
        "one_row": generation_case(model, PROMPTS[:1]),
        "one_token_prompt": generation_case(model, PROMPTS[:, :1]),
        "to_last_position": generation_case(
            model, LONG_PROMPTS[:1], max_new_tokens=None, max_length=model.config.n_positions
        ),
    }
