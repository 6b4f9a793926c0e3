"""The stages of a body's forward, the same in the three backends.

    _prepare      before the blocks: add the embeddings, make the masks additive
    _run_blocks   the blocks, one after the other
    _finish       after the blocks: the final layer norm, the output object

B batch, T query length, S key length (past and new), E n_embd, H heads, L layers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from gpt2x.config import GPT2Config
from gpt2x.errors import InvalidInputError

FORWARD = """
Args:
    input_ids: token ids [B, T], integers; further leading dimensions are kept in the output. With
        a past, only the tokens that are not in it.
    attention_mask: [B, S], nonzero where a token, past or new, may be attended to; or
        [B, 1 or H, T, S], boolean or additive, which replaces the causal order; or
        [B, 1 or H, 1, S], which is added to it.
    token_type_ids: [B, T], embedded with the tokens' embedding and added.
    position_ids: [B, T]. Default: the number of attended tokens before each token, where a mask of
        rank 2 is given, so that a padded row gives what it gives alone (padding behind the last of
        them counts on by one); else the positions that follow the past. Without mask and cache,
        positions that start again keep packed texts apart.
    head_mask: [H] or [L, H] (or [L, B, H, T, S]), multiplied with the attention weights; the call
        then computes attention eagerly.
    inputs_embeds: [B, T, E] in place of `input_ids`.
    encoder_hidden_states: [B, encoder length, E], for cross-attention. Once a cache has seen them
        they may be left out.
    encoder_attention_mask: [B, encoder length] or [B, T, encoder length], nonzero where it may be
        attended to, or rank 4 as above.
    use_cache: return the keys and values; the config decides by default.
    output_attentions: return attention weights, which are then computed eagerly.
    output_hidden_states: return the hidden states of every layer.
    return_dict: an output object (default) or the tuple of its fields that are not None.

Raises:
    InvalidInputError: if an input cannot be used or a keyword is unknown. Ids are checked only
        where that is free: on the CPU, outside of compilation.
"""


class BlockInputs(NamedTuple):
    """The inputs of the blocks, made by `_prepare`; arrays are those of the backend.

    Attributes:
        hidden_states: [B, T, E], the embeddings.
        mask: additive, broadcast to [B, H, T, S]; None hides nothing.
        head_masks: for each of L layers a mask that broadcasts to [B, H, T, S], or None.
        cross_attend: whether the blocks attend to an encoder.
        encoder_hidden_states: [B, encoder length, E]; None without an encoder, or if the cache has
            seen it.
        encoder_mask: additive, broadcast to [B, H, T, encoder length]; None hides nothing.
        shape: of the given tokens, [..., T].
    """

    hidden_states: Any
    mask: Any
    head_masks: Sequence[Any]
    cross_attend: bool
    encoder_hidden_states: Any
    encoder_mask: Any
    shape: Sequence[Any]


class Records(NamedTuple):
    """The requested outputs of the single blocks, by their names in the output."""

    hidden_states: tuple[Any, ...] = ()
    attentions: tuple[Any, ...] = ()
    cross_attentions: tuple[Any, ...] = ()


def asked(config: GPT2Config, **options: bool | None) -> list[bool]:
    """Return the options of a call in order; the config decides those that are None."""
    return [getattr(config, name) if value is None else value for name, value in options.items()]


def is_empty(past: Any) -> bool:
    """Return whether a past is one of transformers' forms without any layer."""
    return isinstance(past, tuple | list | Mapping) and len(past) == 0


def check_layers(cache: Any, layers: int) -> None:
    """Raise unless a cache has as many layers as the model."""
    if len(cache) != layers:
        raise InvalidInputError(
            f"past_key_values has {len(cache)} layers; this model has {layers}."
        )


def attends_to_encoder(encoder_hidden_states: Any, cache: Any) -> bool:
    """Return whether there is an encoder: its states are given, or the cache has seen them."""
    return encoder_hidden_states is not None or (cache is not None and cache.cross(0) is not None)
