"""The golden cases of contrastive search and DoLa, and what the backends' tests do with them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from support.golden_data import GoldenCase, case_names

GROUPS = (
    "plain/contrastive",
    "untied/contrastive",
    "deep/dola",
    "deep_untied/dola",
    "plain/dola",
    "untied/dola",
)
ALL_CASES = [name for group in GROUPS for name in case_names(group)]
#: One of each kind, for backends that compile each.
CASES = [
    "plain/contrastive/processors",
    "untied/contrastive/left_padded_eos",
    "deep/dola/left_padded",
    "deep_untied/dola/repetition_penalty",
]


def check_case(
    case: GoldenCase, model: Any, to_tensor: Callable[[np.ndarray], Any], **options: Any
) -> None:
    """Generate as the case says; hold the texts to its own, and its scores within 1e-4."""
    recorded = [name for name in ("scores", "logits") if name in case.outputs]
    output = model.generate(
        **{name: to_tensor(array) for name, array in case.inputs.items()},
        **case.settings["generate"],
        **options,
        return_dict_in_generate=True,
        output_scores="scores" in recorded,
        output_logits="logits" in recorded,
    )
    np.testing.assert_array_equal(output.sequences, case.outputs["sequences"])
    for name in recorded:
        found = np.stack([np.asarray(step) for step in output[name]])
        # A contrast is the difference of two logarithms, each of a rounding of its own.
        np.testing.assert_allclose(found, case.outputs[name], rtol=1e-4, atol=2e-4)
