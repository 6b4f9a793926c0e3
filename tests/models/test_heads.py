"""What heads read from the config."""

from __future__ import annotations

import pytest

from gpt2x import GPT2Config
from gpt2x.errors import InvalidInputError
from gpt2x.models import heads


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"num_labels": 5}, 1),
        ({"summary_proj_to_labels": False}, 64),
        ({"summary_use_proj": False}, None),
    ],
)
def test_outputs_of_a_summary(fields: dict[str, object], expected: int | None):
    assert heads.summary_outputs(GPT2Config(n_embd=64, n_head=4, **fields)) == expected


def test_summaries_by_attention_are_refused():
    with pytest.raises(InvalidInputError, match="'attn' is not implemented"):
        heads.summary_outputs(GPT2Config(summary_type="attn"))


def test_rates_of_dropout():
    assert heads.last_dropout(GPT2Config()) == 0.0
    assert heads.last_dropout(GPT2Config(summary_last_dropout=0.3)) == 0.3
    assert heads.classifier_dropout(GPT2Config()) == 0.1
    assert heads.classifier_dropout(GPT2Config(hidden_dropout=0.2)) == 0.2
    both = GPT2Config(hidden_dropout=0.2, classifier_dropout=0.0)
    assert heads.classifier_dropout(both) == 0.0
