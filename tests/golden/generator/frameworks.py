"""Cross-checks: what transformers' TensorFlow and Flax classes compute from the same weights."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from .files import Case, write_group
from .formats import from_torch
from .forward import padded_mask, positions_given
from .models import PAD, compact_ids, load_model, random_ids

IDS = random_ids(500, 3, 8)
MASK = padded_mask([8, 6, 4], 8, "left")
PADDED_IDS = torch.where(MASK.bool(), IDS, PAD)
TOLERANCE = 1e-4


def write_frameworks(out: Path) -> None:
    """Groups named for the framework; none is stored that disagrees with PyTorch."""
    write_group(out / "plain/tensorflow.npz", tensorflow_cases(out))
    write_group(out / "double_heads/tensorflow.npz", tensorflow_double_heads(out))
    write_group(out / "sequence_classification/tensorflow.npz", tensorflow_classification(out))
    write_group(out / "plain/flax.npz", flax_cases(out))
    write_group(out / "untied/flax.npz", flax_untied(out))


def framework_case(
    out: Path,
    folder: str,
    model: Any,
    inputs: dict[str, torch.Tensor],
    keep: tuple[str, ...],
    reference: dict[str, torch.Tensor] | None = None,
) -> Case:
    """Call a TensorFlow or Flax model, and PyTorch's on the same inputs, which must agree."""
    arguments = {**inputs, **(reference or {})}
    output = model(**{key: value.numpy().astype(np.int32) for key, value in arguments.items()})
    outputs = {key: np.asarray(output[key]) for key in keep}
    torch_model = load_model(out, folder)
    with torch.no_grad():
        expected = torch_model(**arguments)
    seen = inputs["attention_mask"].bool().numpy() if "attention_mask" in inputs else ...
    for key, value in outputs.items():
        rows = seen if key == "logits" and value.ndim > 2 else ...
        difference = np.abs(value[rows] - expected[key].numpy()[rows]).max()
        if difference > TOLERANCE:
            raise RuntimeError(f"{type(model).__name__} differs in {key} by {difference}")
    return Case(
        settings={"class": type(torch_model).__name__, "made_by": type(model).__name__},
        inputs={key: value.numpy() for key, value in inputs.items()},
        reference={key: value.numpy() for key, value in (reference or {}).items()},
        outputs=outputs,
    )


def plain_inputs() -> dict[str, tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]]:
    """Inputs and reference arrays of a whole and of a left-padded batch."""
    return {
        "ids": ({"input_ids": IDS}, {}),
        "left_padded": (
            {"input_ids": PADDED_IDS, "attention_mask": MASK},
            positions_given(MASK),
        ),
    }


def tensorflow_cases(out: Path) -> dict[str, Case]:
    """Logits of TFGPT2LMHeadModel."""
    model = from_torch("TFGPT2LMHeadModel", out, "plain")
    return {
        name: framework_case(out, "plain", model, inputs, ("logits",), reference)
        for name, (inputs, reference) in plain_inputs().items()
    }


def tensorflow_double_heads(out: Path) -> dict[str, Case]:
    """Logits of TFGPT2DoubleHeadsModel, choices in the shape [B, C, T]."""
    model = from_torch("TFGPT2DoubleHeadsModel", out, "double_heads")
    inputs = {
        "input_ids": compact_ids(501, 2, 3, 6),
        "mc_token_ids": torch.tensor([[5, 3, 4], [2, 5, 0]]),
    }
    return {"ids": framework_case(out, "double_heads", model, inputs, ("logits", "mc_logits"))}


def tensorflow_classification(out: Path) -> dict[str, Case]:
    """Logits of TFGPT2ForSequenceClassification on rows padded on the right."""
    folder = "sequence_classification"
    model = from_torch("TFGPT2ForSequenceClassification", out, folder)
    ids = compact_ids(502, 3, 8)
    mask = padded_mask([8, 6, 4], 8, "right")
    inputs = {"input_ids": torch.where(mask.bool(), ids, PAD), "attention_mask": mask}
    reference = positions_given(mask)
    return {
        "ids": framework_case(out, folder, model, {"input_ids": ids}, ("logits",)),
        "right_padded": framework_case(out, folder, model, inputs, ("logits",), reference),
    }


def flax_cases(out: Path) -> dict[str, Case]:
    """Logits of FlaxGPT2LMHeadModel."""
    model = from_torch("FlaxGPT2LMHeadModel", out, "plain")
    return {
        name: framework_case(out, "plain", model, inputs, ("logits",), reference)
        for name, (inputs, reference) in plain_inputs().items()
    }


def flax_untied(out: Path) -> dict[str, Case]:
    """Logits of FlaxGPT2LMHeadModel with a head of its own."""
    model = from_torch("FlaxGPT2LMHeadModel", out, "untied")
    return {"ids": framework_case(out, "untied", model, {"input_ids": IDS}, ("logits",))}
