"""The attention of the three backends: names, contract, scaling and masks.

B batch, T query length, S key length, H heads, D head_dim.

**Functions.** An attention implementation is called as `AttentionRegistry.register` says.

**Masks.** They are float32 (or wider, as the queries are) and finite, so that a row that may attend
to nothing gives numbers, not NaN, and half-precision scores cannot outweigh them. They have two
levels: `finfo.min / 2` hides a padded key, and `finfo.min` hides a future key even from a row of
padded ones. If all keys of a query are padding, its row is raised (`raise_hidden_rows`): it attends
to the padding up to its own position as if that were text, in the same way in every implementation,
and never to the future.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from gpt2x.config import GPT2Config
from gpt2x.errors import InvalidInputError, check_choice

#: See the module.
AttentionFunction = Callable[..., Any]


class AttentionRegistry:
    """The attention implementations of a backend, by the names that `attn_implementation` takes.

    >>> registry = AttentionRegistry({"eager": max})
    >>> registry.register("mine", min)
    >>> registry.get("mine") is min
    True
    """

    def __init__(self, built_in: Mapping[str, AttentionFunction]) -> None:
        self.built_in = tuple(built_in)
        self.functions = dict(built_in)

    def register(self, name: str, function: AttentionFunction) -> None:
        """Make `function` available as `attn_implementation=name`.

        It is called as

            function(query, key, value, mask, *, scaling, dropout) -> out

        with query [B, H, T, D], key and value [B, H, S, D] and an additive mask (float32 or wider,
        broadcast to [B, H, T, S]), or None; out is [B, H, T, D]. `scaling` is the factor of the
        scores, with every config flag. `dropout` drops attention weights in the framework's way: in
        PyTorch it is a rate (0 in inference), in TensorFlow a Keras layer, in Flax a function of
        the weights (None in inference). PyTorch adds `is_causal`: if it is true, the mask is None,
        T equals S, and the function applies the causal order itself, which fused kernels do without
        a mask. Calls that ask for attention weights or pass a head mask use the eager
        implementation instead.

        Raises:
            InvalidInputError: for the name of a built-in implementation.
        """
        if name in self.built_in:
            raise InvalidInputError(
                f"{name!r} is a built-in attention implementation; choose another name."
            )
        self.functions[name] = function

    def get(self, name: str) -> AttentionFunction:
        """Return the implementation of a name; raises InvalidInputError for an unknown one."""
        if name not in self.functions:
            check_choice("attn_implementation", name, self.functions)
        return self.functions[name]


def attention_scaling(config: GPT2Config, layer_idx: int) -> float:
    """Return the factor of the scores of a layer; layers count from 0."""
    scaling = (config.n_embd // config.n_head) ** -0.5 if config.scale_attn_weights else 1.0
    return scaling / (layer_idx + 1) if config.scale_attn_by_inverse_layer_idx else scaling
