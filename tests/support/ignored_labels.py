"""Labels that all losses leave out, for the backends' tests: 2 texts of 6 tokens, 2 choices each.

By the class's name without prefix; the values are those that transformers leaves out.
"""

from __future__ import annotations

import numpy as np

TOKENS = np.full((2, 6), -100)
IGNORED = {
    "LMHeadModel": {"labels": TOKENS},
    "DoubleHeadsModel": {"labels": np.full((2, 2, 6), -100), "mc_labels": np.full(2, -100)},
    "ForSequenceClassification": {"labels": np.full(2, -100)},
    "ForTokenClassification": {"labels": TOKENS},
    "ForQuestionAnswering": {"start_positions": np.full(2, 6), "end_positions": np.full(2, 9)},
}


def ids_for(name: str) -> np.ndarray:
    """Return ids [2, 6], or [2, 2, 6] for the model of choices."""
    shape = (2, 2, 6) if name == "DoubleHeadsModel" else (2, 6)
    return np.random.default_rng(0).integers(0, 60, shape)
