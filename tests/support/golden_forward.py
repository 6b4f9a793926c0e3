"""Hold a backend's forward pass against the golden cases, which the backends' tests share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from support.golden_data import GoldenCase, case_names

#: What transformers' PyTorch models compute.
GROUPS = [
    "plain/forward",
    "plain/past",
    "plain/flags",
    "plain/activations",
    "plain/loss",
    "untied/forward",
    "untied/flags",
    "untied/loss",
    "cross_attention/forward",
    "double_heads/heads",
    "double_heads_hidden/heads",
    "regression/heads",
    "sequence_classification/heads",
    "token_classification/heads",
    "question_answering/heads",
]
GRADIENT_CASES = ["plain/loss/labels_ignored", "untied/loss/labels_ignored"]

# Batch and token axes of what has an entry for every token.
_TOKEN_AXES = {
    "last_hidden_state": (0, 1),
    "logits": (0, 1),
    "start_logits": (0, 1),
    "end_logits": (0, 1),
    "hidden_states": (1, 2),
    "attentions": (1, 3),
    "past_keys": (1, 3),
    "past_values": (1, 3),
}
_PASTS = ("past_keys", "past_values", "cross_keys", "cross_values")
_LAYERS = ("hidden_states", "attentions", "cross_attentions")


def cases_of(*groups: str) -> list[str]:
    """Full names of the cases of several groups."""
    return [name for group in groups for name in case_names(group)]


def check_outputs(
    case: GoldenCase,
    model: Any,
    to_tensor: Callable[[np.ndarray], Any],
    to_numpy: Callable[[Any], np.ndarray],
    tolerance: float,
) -> None:
    """Call the model as the case says; hold every output to the case's, but for gradients."""
    inputs = {name: to_tensor(array) for name, array in case.inputs.items()}
    if "past_keys" in inputs:
        pairs = zip(inputs.pop("past_keys"), inputs.pop("past_values"), strict=True)
        inputs["past_key_values"] = tuple(pairs)
    output = model(**inputs, **case.settings.get("call", {}))

    for name, theirs in case.outputs.items():
        if name.startswith("gradients/"):
            continue
        if name in _PASTS:
            past = output.past_key_values
            past = past if isinstance(past, tuple) else past.to_tuple()
            ours = np.stack([to_numpy(layer[_PASTS.index(name)]) for layer in past])
        elif name in _LAYERS:
            ours = np.stack([to_numpy(layer) for layer in output[name]])
        else:
            ours = to_numpy(output[name])
        assert ours.shape == theirs.shape, name
        ours, theirs = (_from_text_on(case, name, array) for array in (ours, theirs))
        np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance, err_msg=name)


def check_gradients(
    case: GoldenCase, gradient_of: Callable[[str], np.ndarray], tolerance: float
) -> None:
    """Hold `gradient_of(canonical name)`, in canonical layout, to the case's gradients."""
    prefix = "gradients/"
    compared = [name for name in case.outputs if name.startswith(prefix)]
    assert compared
    for name in compared:
        np.testing.assert_allclose(
            gradient_of(name.removeprefix(prefix)),
            case.outputs[name],
            rtol=tolerance,
            atol=tolerance,
            err_msg=name,
        )


def _from_text_on(case: GoldenCase, name: str, array: np.ndarray) -> np.ndarray:
    """Leave out the padding before a text, where what is computed has no meaning."""
    mask = case.inputs.get("attention_mask")
    pooled = case.settings["class"].endswith("SequenceClassification") and name == "logits"
    if mask is None or mask.ndim == 4 or name not in _TOKEN_AXES or pooled:
        return array
    axes = _TOKEN_AXES[name] if mask.ndim == 2 else tuple(range(mask.ndim))
    tokens_first = np.moveaxis(array, axes, range(mask.ndim))
    begun = mask.cumsum(axis=-1) != 0
    return tokens_first[begun[..., -tokens_first.shape[mask.ndim - 1] :]]  # of the new tokens
