"""The engines that run a TensorFlow model for the decoding core: in one graph, or step by step.

B prompts, R rows given to the model (B x returned sequences or beams), T columns of the prompt, W
columns that it is padded to, S slots of the cache, V vocabulary, E n_embd.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from gpt2x.generation.plan import Plan
from gpt2x.tf.cache import KVCache
from gpt2x.tf.ops import TENSORFLOW_OPS as OPS


class Prompt(NamedTuple):
    """The tensors that an engine starts from; a pytree, so that traced functions take it.

    Attributes:
        input_ids: int32 [B, W]; what stands behind the prompt does not matter.
        inputs_embeds: [B, W', E] in place of the ids, or ().
        length: int32 scalar, the columns that the model is given: T, or those of the embeddings.
        hidden: int32 scalar, how many more those are than the ids.
        columns: for some arguments of the model, what they hold at each column: [B, S].
        fixed: arguments of the model that are the same at every step.
        past: a `KVCache` with the beginning of the prompt, or ().
    """

    input_ids: tf.Tensor
    inputs_embeds: Any
    length: tf.Tensor
    hidden: tf.Tensor
    columns: dict[str, tf.Tensor]
    fixed: dict[str, Any]
    past: Any

    def expanded(self, origins: tf.Tensor) -> Prompt:
        """Give every row its own copy of what belongs to its prompt, origins[r]."""
        fixed = {
            name: tf.gather(value, origins) if name.startswith("encoder") else value
            for name, value in self.fixed.items()
        }
        embeds = self.inputs_embeds
        return self._replace(
            input_ids=tf.gather(self.input_ids, origins),
            inputs_embeds=tf.gather(embeds, origins) if tf.is_tensor(embeds) else (),
            columns={name: tf.gather(value, origins) for name, value in self.columns.items()},
            fixed=fixed,
        )


class TensorFlowEngine:
    """A model with a language-model head, as `gpt2x.generation.driver.Engine`.

    The cache is a `KVCache` of S slots or, with `use_cache=False`, the tokens so far, int32 [R, S],
    which every step runs again.
    """

    def __init__(self, model: Any, plan: Plan, slots: int | tf.Tensor, prompt: Prompt) -> None:
        self._model = model
        self._slots = slots
        self._prompt = prompt
        self._use_cache = plan.config.use_cache
        self._is_expanded = plan.strategy.rows_per_prompt == 1
        self._options = {
            "use_cache": plan.config.use_cache,
            "output_attentions": plan.config.output_attentions,
            "output_hidden_states": plan.config.output_hidden_states,
            "return_dict": True,
        }
        #: What the last call of the model returned beside logits and cache.
        self.extras: dict[str, tuple[tf.Tensor, ...]] = {}

    def prefill(self) -> tuple[tf.Tensor, Any]:
        """Run the prompts; see `driver.Engine`."""
        prompt = self._prompt
        if not self._use_cache:
            # Ids stand at their columns, behind those that have embeddings only.
            before = self._slots - prompt.hidden - OPS.shape(prompt.input_ids)[1]
            text = tf.pad(prompt.input_ids, [[0, 0], [prompt.hidden, before]])
            return self._run_text(text, prompt.length), text
        if isinstance(prompt.past, KVCache):
            past, start = prompt.past, prompt.past.length
        else:
            rows = OPS.shape(prompt.input_ids)[0]
            dtype = self._model.get_input_embeddings().compute_dtype
            past, start = KVCache.create(self._model.config, rows, self._slots, dtype), 0
        if tf.is_tensor(prompt.inputs_embeds):
            inputs = {"inputs_embeds": prompt.inputs_embeds[:, start:]}
        else:
            inputs = {"input_ids": prompt.input_ids[:, start:]}
        logits, cache = self._run(inputs, past, start, prompt.length - start - 1)
        # What stands behind the prompt is to be overwritten by the text.
        return logits, cache.crop(prompt.length)

    def decode(
        self, tokens: tf.Tensor, cache: Any, length: int | tf.Tensor
    ) -> tuple[tf.Tensor, Any]:
        """Run one more token of each row; see `driver.Engine`."""
        if self._use_cache:
            return self._run({"input_ids": tokens[:, None]}, cache, cache.length, 0)
        column = length - 1 + self._prompt.hidden
        text = OPS.write(cache, column, tokens, axis=1)
        return self._run_text(text, column + 1), text

    def reorder(self, cache: Any, parents: tf.Tensor) -> Any:
        """Let row r continue row parents[r]; see `driver.Engine`."""
        if not self._is_expanded:  # first, prompts become rows; later, rows change places
            self._is_expanded = True
            self._prompt = self._prompt.expanded(parents)
        return cache.reorder(parents) if self._use_cache else tf.gather(cache, parents)

    def _run(
        self,
        inputs: dict[str, tf.Tensor],
        cache: KVCache | None,
        start: int | tf.Tensor,
        last: int | tf.Tensor,
    ) -> tuple[tf.Tensor, Any]:
        """Run columns from `start` on; return the logits of the one at `last`, float32 [R, V]."""
        (tensor,) = inputs.values()
        rows, count = OPS.shape(tensor)[:2]
        arguments = dict(self._prompt.fixed)
        for name, column in self._prompt.columns.items():
            if name != "attention_mask":
                arguments[name] = tf.slice(column, [0, start], [rows, count])
            elif isinstance(start, int):
                arguments[name] = column[:, : start + count]
            else:  # the model masks what is not filled yet
                arguments[name] = column
        is_one = tf.get_static_value(count) == 1
        if not is_one and "logits_to_keep" in self._model._call_parameters:
            arguments["logits_to_keep"], last = tf.reshape(last, [1]), 0
        outputs = self._model(**inputs, **arguments, past_key_values=cache, **self._options)
        self.extras = {
            name: outputs[name] for name in ("attentions", "hidden_states") if name in outputs
        }
        logits = outputs.logits[:, 0] if is_one else tf.gather(outputs.logits, last, axis=1)
        return tf.cast(logits, tf.float32), outputs.past_key_values

    def _run_text(self, text: tf.Tensor, length: int | tf.Tensor) -> tf.Tensor:
        """Run all tokens [R, S] without a cache; return the logits of the last of `length`."""
        embeds = self._prompt.inputs_embeds
        if not tf.is_tensor(embeds):
            return self._run({"input_ids": text}, None, 0, length - 1)[0]
        room = self._slots - OPS.shape(embeds)[1]
        given = tf.range(self._slots)[:, None] < self._prompt.length  # [S, 1]
        embedded = self._model.get_input_embeddings()(text)
        embeds = tf.where(given, tf.pad(embeds, [[0, 0], [0, room], [0, 0]]), embedded)
        return self._run({"inputs_embeds": embeds}, None, 0, length - 1)[0]


class SteppedEngine:
    """The same, each call a traced function, so that the host sees every step.

    Attributes:
        attentions: for each call, the attention weights that were asked for.
        hidden_states: for each call, the hidden states that were asked for.
    """

    def __init__(
        self, prompt: Prompt, use_cache: bool, prefill: Callable, decode: Callable
    ) -> None:
        self._prompt = prompt
        self._use_cache = use_cache
        self._prefill = prefill
        self._decode = decode
        self._rows: tf.Tensor | None = None
        self._columns = int(prompt.length)
        self.attentions: list[Any] = []
        self.hidden_states: list[Any] = []

    def prefill(self) -> tuple[tf.Tensor, Any]:
        """Run the prompts; see `driver.Engine`."""
        logits, cache, extras = self._prefill(self._prompt)
        past = self._prompt.past.length if isinstance(self._prompt.past, KVCache) else 0
        self._record(extras, self._columns - past)
        return logits, cache

    def decode(self, tokens: tf.Tensor, cache: Any, length: tf.Tensor) -> tuple[tf.Tensor, Any]:
        """Run one more token of each row; see `driver.Engine`."""
        self._columns += 1
        logits, cache, extras = self._decode(self._prompt, tokens, cache, length)
        self._record(extras, 1 if self._use_cache else self._columns)
        return logits, cache

    def reorder(self, cache: Any, parents: tf.Tensor) -> Any:
        """Let row r continue row parents[r]; see `driver.Engine`."""
        if parents.shape[0] != self._prompt.input_ids.shape[0]:
            self._prompt = self._prompt.expanded(parents)
            for record in (self.attentions, self.hidden_states):
                record[:] = [tuple(tf.gather(x, parents) for x in step) for step in record]
        return cache.reorder(parents) if self._use_cache else tf.gather(cache, parents)

    def _record(self, extras: dict[str, tuple[tf.Tensor, ...]], count: int) -> None:
        """Keep what a call returned for its `count` tokens, without what was padded."""
        if "attentions" in extras:
            self.attentions.append(
                tuple(layer[:, :, :count, : self._columns] for layer in extras["attentions"])
            )
        if "hidden_states" in extras:
            self.hidden_states.append(tuple(layer[:, :count] for layer in extras["hidden_states"]))
