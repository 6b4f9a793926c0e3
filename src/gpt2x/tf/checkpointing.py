"""Gradient checkpointing of a model's blocks."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf


class CheckpointingMixin:
    """Transformers' methods to train a model in less memory, as its PyTorch models have them."""

    transformer: Any

    def gradient_checkpointing_enable(self) -> None:
        """Recompute each block in the backward pass instead of keeping its activations.

        A model that is compiled, or in a `tf.function`, has to be compiled or traced again.
        """
        self.transformer.gradient_checkpointing = True

    def gradient_checkpointing_disable(self) -> None:
        """Keep activations again."""
        self.transformer.gradient_checkpointing = False

    @property
    def is_gradient_checkpointing(self) -> bool:
        """Whether blocks are recomputed in training."""
        return bool(self.transformer.gradient_checkpointing)


def recomputed(block: keras.layers.Layer, hidden_states: tf.Tensor, **options: Any) -> Any:
    """Call a block in training, and again in the backward pass.

    Gradients reach `hidden_states`, the weights and `encoder_hidden_states`.
    """
    encoder_hidden_states = options.pop("encoder_hidden_states")
    # Drawn here, so that dropout is the same both times.
    seeds = [(generator.state, generator.next()) for generator in seed_generators(block)]
    is_present: list[bool] = []

    @tf.recompute_grad
    def run(*states: tf.Tensor) -> list[tf.Tensor]:
        encoder = states[1] if len(states) > 1 else None
        with keras.StatelessScope(state_mapping=seeds):
            found = block(states[0], encoder_hidden_states=encoder, training=True, **options)
        is_present[:] = [output is not None for output in found]
        return [output for output in found if output is not None]

    states = [s for s in (hidden_states, encoder_hidden_states) if s is not None]
    outputs = iter(run(*states))
    return tuple(next(outputs) if present else None for present in is_present)


def seed_generators(layer: keras.layers.Layer) -> list[keras.random.SeedGenerator]:
    """Return the generators of the dropout in a layer, in the order of its layers."""
    found = (getattr(each, "seed_generator", None) for each in layer._flatten_layers())
    return [generator for generator in found if generator is not None]
