"""What a model returns."""

from __future__ import annotations

from gpt2x.models.outputs import (
    BaseModelOutputWithPastAndCrossAttentions,
    SequenceClassifierOutputWithPast,
    TokenClassifierOutput,
)


def test_outputs_of_heads_take_over_what_the_body_returned():
    body = BaseModelOutputWithPastAndCrossAttentions(
        last_hidden_state="states", past_key_values="past", attentions=("weights",)
    )
    output = SequenceClassifierOutputWithPast.of(body, logits="logits", loss=None)
    assert dict(output) == {
        "logits": "logits",
        "past_key_values": "past",
        "attentions": ("weights",),
    }
    assert dict(TokenClassifierOutput.of(body, loss=1.0, logits="logits")) == {
        "loss": 1.0,
        "logits": "logits",
        "attentions": ("weights",),
    }
