"""GPT-2 in PyTorch.

Attention, Block and Model are in `model.py`, the heads and losses in `heads.py`; `cache.py` holds
the keys and values, `generation.py` generates, `pretrained.py` loads and saves. `gpt2x.tf` and
`gpt2x.flax` have the same files with the same classes in the same order.
"""

from gpt2x.pt.attention import register_attention
from gpt2x.pt.cache import KVCache
from gpt2x.pt.generation import GenerationMixin
from gpt2x.pt.heads import (
    GPT2DoubleHeadsModel,
    GPT2ForQuestionAnswering,
    GPT2ForSequenceClassification,
    GPT2ForTokenClassification,
    GPT2LMHeadModel,
)
from gpt2x.pt.interop.guidance import UnbatchedClassifierFreeGuidanceLogitsProcessor
from gpt2x.pt.model import GPT2Model
from gpt2x.pt.outputs import (
    BaseModelOutputWithPastAndCrossAttentions,
    CausalLMOutputWithCrossAttentions,
    GPT2DoubleHeadsModelOutput,
    ModelOutput,
    QuestionAnsweringModelOutput,
    SequenceClassifierOutputWithPast,
    TokenClassifierOutput,
)
from gpt2x.pt.pretrained import GPT2PreTrainedModel

__all__ = [
    "GPT2PreTrainedModel",
    "GPT2Model",
    "GPT2LMHeadModel",
    "GPT2DoubleHeadsModel",
    "GPT2ForSequenceClassification",
    "GPT2ForTokenClassification",
    "GPT2ForQuestionAnswering",
    "GenerationMixin",
    "KVCache",
    "register_attention",
    "UnbatchedClassifierFreeGuidanceLogitsProcessor",
    "ModelOutput",
    "BaseModelOutputWithPastAndCrossAttentions",
    "CausalLMOutputWithCrossAttentions",
    "GPT2DoubleHeadsModelOutput",
    "SequenceClassifierOutputWithPast",
    "TokenClassifierOutput",
    "QuestionAnsweringModelOutput",
]
