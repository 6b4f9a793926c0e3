"""GPT-2 in Flax NNX, on JAX.

Attention, Block and Model are in `model.py`, the heads and losses in `heads.py`; `cache.py` holds
the keys and values, `generation.py` generates, `pretrained.py` loads and saves. `gpt2x.pt` and
`gpt2x.tf` have the same files with the same classes in the same order.
"""

from gpt2x.flax.attention import register_attention
from gpt2x.flax.cache import KVCache
from gpt2x.flax.heads import (
    FlaxGPT2DoubleHeadsModel,
    FlaxGPT2ForQuestionAnswering,
    FlaxGPT2ForSequenceClassification,
    FlaxGPT2ForTokenClassification,
    FlaxGPT2LMHeadModel,
)
from gpt2x.flax.model import FlaxGPT2Model
from gpt2x.flax.outputs import (
    FlaxBaseModelOutputWithPastAndCrossAttentions,
    FlaxCausalLMOutputWithCrossAttentions,
    FlaxGPT2DoubleHeadsModelOutput,
    FlaxQuestionAnsweringModelOutput,
    FlaxSequenceClassifierOutputWithPast,
    FlaxTokenClassifierOutput,
    ModelOutput,
)
from gpt2x.flax.pretrained import FlaxGPT2PreTrainedModel
from gpt2x.flax.sharding import param_shardings, partition_rule, shard_params

__all__ = [
    "FlaxGPT2PreTrainedModel",
    "FlaxGPT2Model",
    "FlaxGPT2LMHeadModel",
    "FlaxGPT2DoubleHeadsModel",
    "FlaxGPT2ForSequenceClassification",
    "FlaxGPT2ForTokenClassification",
    "FlaxGPT2ForQuestionAnswering",
    "KVCache",
    "register_attention",
    "partition_rule",
    "param_shardings",
    "shard_params",
    "ModelOutput",
    "FlaxBaseModelOutputWithPastAndCrossAttentions",
    "FlaxCausalLMOutputWithCrossAttentions",
    "FlaxGPT2DoubleHeadsModelOutput",
    "FlaxSequenceClassifierOutputWithPast",
    "FlaxTokenClassifierOutput",
    "FlaxQuestionAnsweringModelOutput",
]
