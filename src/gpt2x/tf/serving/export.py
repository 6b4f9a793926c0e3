"""A SavedModel from text to text: tokenizer, generation compiled with XLA, and detokenizer.

It needs TensorFlow alone. B prompts; T tokens of the longest prompt; W the width that prompts are
padded to.
"""

from __future__ import annotations

import os
from typing import Any

import tensorflow as tf

from gpt2x.errors import InvalidInputError
from gpt2x.generation import GenerationConfig
from gpt2x.generation.lengths import DEFAULT_NEW_TOKENS, bucket
from gpt2x.generation.plan import eos_tokens, pad_token
from gpt2x.generation.prompt import bos_token
from gpt2x.tf.serving.functions import write_saved_model


class TextGenerator(tf.Module):
    """A language model that takes strings and returns strings.

    Prompts are padded on the left to a power of two of tokens, at least 16, and the loop is
    compiled once for each of these widths. A prompt that leaves no room for the new tokens loses
    its beginning. An empty prompt starts from bos.

    Args:
        model: a `TFGPT2LMHeadModel`.
        tokenizer: its `TFGPT2Tokenizer`.
        generation_config: how to decode; the model's own by default. Its length is
            `max_new_tokens` (20 if that is None).
        jit_compile: whether the loop is compiled with XLA.

    Raises:
        InvalidInputError: for options that need Python while they run (`stop_strings`,
            `max_time`), for `return_dict_in_generate`, or if the new tokens leave no position for
            a prompt.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        generation_config: GenerationConfig | None = None,
        *,
        jit_compile: bool = True,
    ) -> None:
        super().__init__(name="text_generator")
        config = model.generation_config if generation_config is None else generation_config
        if config.return_dict_in_generate:
            raise InvalidInputError("Set return_dict_in_generate=False: only texts are exported.")
        for name in ("stop_strings", "max_time"):
            if getattr(config, name) is not None:
                raise InvalidInputError(
                    f"Set {name}=None: Python checks it after every step, and a SavedModel runs "
                    "without Python."
                )
        new_tokens = config.max_new_tokens or DEFAULT_NEW_TOKENS
        # The model never reads the last token, so that token needs no position.
        longest = model.config.n_positions + 1 - new_tokens
        if longest < 1:
            raise InvalidInputError(
                f"max_new_tokens is {new_tokens}, but the model has {model.config.n_positions} "
                "positions (n_positions), and a prompt takes at least one."
            )
        self._model = model
        self._tokenizer = tokenizer
        self._bos = bos_token(config)
        pad = pad_token(config)
        self._pad = self._bos if pad is None else pad
        self._eos = tf.constant(eos_tokens(config), tf.int32)
        self._copies = config.num_return_sequences
        self._buckets = sorted({bucket(length, longest) for length in range(1, longest + 1)})

        def decode(ids: tf.Tensor, mask: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
            return model.generate(
                ids,
                attention_mask=mask,
                generation_config=config,
                use_model_defaults=False,
                max_new_tokens=new_tokens,
                pad_token_id=self._pad,
                seed=seed,
            )

        ids = tf.TensorSpec([None, None], tf.int32)
        self._decode = tf.function(
            decode,
            input_signature=[ids, ids, tf.TensorSpec([], tf.int64)],
            jit_compile=jit_compile,
            autograph=False,
        )

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "prompts")])
    def generate(self, prompts: tf.Tensor) -> dict[str, tf.Tensor]:
        """Continue prompts [B]; if the model samples, each call draws a new seed."""
        seed = tf.random.uniform([], tf.int64.min, tf.int64.max, tf.int64)
        return self._generate(prompts, seed)

    @tf.function(
        input_signature=[
            tf.TensorSpec([None], tf.string, "prompts"),
            tf.TensorSpec([], tf.int64, "seed"),
        ]
    )
    def generate_with_seed(self, prompts: tf.Tensor, seed: tf.Tensor) -> dict[str, tf.Tensor]:
        """Continue prompts [B]; the same seed gives the same texts, as in `model.generate`."""
        return self._generate(prompts, seed)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "texts")])
    def tokenize(self, texts: tf.Tensor) -> dict[str, tf.Tensor]:
        """Return the ids of texts [B] and their mask, int32 [B, T], padded on the right."""
        return self._tokenizer(
            texts, padding="longest", pad_token_id=self._pad, padding_side="right"
        )

    @tf.function(input_signature=[tf.TensorSpec([None, None], tf.int32, "ids")])
    def detokenize(self, ids: tf.Tensor) -> dict[str, tf.Tensor]:
        """Return the texts [B] of ids [B, T], without special tokens."""
        return {"texts": self._tokenizer.detokenize(ids, skip_special_tokens=True)}

    def signatures(self) -> dict[str, Any]:
        """Return the signatures of the SavedModel by name."""
        return {
            "serving_default": self.generate,
            "generate_with_seed": self.generate_with_seed,
            "tokenize": self.tokenize,
            "detokenize": self.detokenize,
        }

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the SavedModel; it appears whole or not at all."""
        write_saved_model(self, path, self.signatures())

    def _generate(self, prompts: tf.Tensor, seed: tf.Tensor) -> dict[str, tf.Tensor]:
        encoded = self._tokenizer(
            prompts,
            max_length=self._buckets[-1],
            truncation_side="left",
            padding="longest",
            padding_side="left",
            pad_token_id=self._pad,
        )
        ids, mask = encoded["input_ids"], encoded["attention_mask"]  # [B, T]
        T = tf.shape(ids)[1]
        W = tf.gather(self._buckets, tf.searchsorted(self._buckets, [T]))[0]
        ids, mask = (tf.pad(x, [[0, 0], [W - T, 0]]) for x in (ids, mask))  # [B, W]
        is_empty = tf.reduce_max(mask, axis=1, keepdims=True) == 0  # [B, 1]
        starts = is_empty & (tf.range(W) == W - 1)
        ids = tf.where(starts, self._bos, ids)
        mask = tf.where(starts, 1, mask)

        written = self._decode(ids, mask, seed)[:, W:]
        is_end = tf.reduce_any(written[:, :, None] == self._eos, axis=-1)
        follows_end = tf.cumsum(tf.cast(is_end, tf.int32), axis=1, exclusive=True)
        continuations = self._tokenizer.detokenize(
            written,
            attention_mask=tf.cast(follows_end == 0, tf.int32),
            skip_special_tokens=True,
        )
        texts = tf.strings.join([tf.repeat(prompts, self._copies), continuations])
        return {"texts": texts, "continuations": continuations}
