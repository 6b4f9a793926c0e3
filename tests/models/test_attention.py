"""The registry of attention implementations, and the scaling of scores."""

from __future__ import annotations

import pytest

from gpt2x import GPT2Config
from gpt2x.errors import InvalidInputError
from gpt2x.models.attention import AttentionRegistry, attention_scaling


def built_in(query, key, value, mask, *, scaling, dropout):
    return value


def own(query, key, value, mask, *, scaling, dropout):
    return query


def test_functions_are_found_by_name():
    registry = AttentionRegistry({"eager": built_in})
    registry.register("own", own)
    assert registry.get("eager") is built_in
    assert registry.get("own") is own
    registry.register("own", built_in)  # a name of a user's own may be given again
    assert registry.get("own") is built_in


def test_built_in_names_are_kept():
    registry = AttentionRegistry({"eager": built_in})
    with pytest.raises(InvalidInputError, match="'eager' is a built-in attention implementation"):
        registry.register("eager", own)
    assert registry.get("eager") is built_in


def test_unknown_names_raise_and_are_guessed():
    with pytest.raises(InvalidInputError, match=r"attn_implementation is 'eagr'.*mean 'eager'"):
        AttentionRegistry({"eager": built_in}).get("eagr")


@pytest.mark.parametrize(
    ("by_width", "by_layer", "expected"),
    [(True, False, 0.25), (False, False, 1.0), (True, True, 0.25 / 3), (False, True, 1 / 3)],
)
def test_scaling_of_scores(by_width: bool, by_layer: bool, expected: float):
    config = GPT2Config(
        n_embd=64,
        n_head=4,
        scale_attn_weights=by_width,
        scale_attn_by_inverse_layer_idx=by_layer,
    )
    assert attention_scaling(config, 2) == pytest.approx(expected, rel=1e-15)
