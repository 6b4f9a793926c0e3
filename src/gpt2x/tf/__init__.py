"""GPT-2 in Keras 3 on TensorFlow.

Attention, Block and Model are in `model.py`, the heads and losses in `heads.py`; `cache.py` holds
the keys and values, `generation.py` generates, `pretrained.py` loads and saves. `gpt2x.pt` and
`gpt2x.flax` have the same files with the same classes in the same order. Three folders hold what is
particular to TensorFlow: `keras` trains, `serving` writes SavedModels, and `text` is the tokenizer
that runs inside a graph.
"""

import keras

from gpt2x.errors import MissingBackendError

if keras.config.backend() != "tensorflow":
    raise MissingBackendError(
        f"gpt2x.tf needs Keras with its TensorFlow backend, and Keras runs on "
        f"{keras.config.backend()!r} here. Set KERAS_BACKEND=tensorflow, or "
        '"backend": "tensorflow" in ~/.keras/keras.json, before Keras is imported; with JAX, use '
        "gpt2x.flax, with PyTorch gpt2x.pt."
    )

from gpt2x.tf.attention import register_attention
from gpt2x.tf.cache import KVCache
from gpt2x.tf.heads import (
    TFGPT2DoubleHeadsModel,
    TFGPT2ForQuestionAnswering,
    TFGPT2ForSequenceClassification,
    TFGPT2ForTokenClassification,
    TFGPT2LMHeadModel,
)
from gpt2x.tf.keras.callbacks import KerasMetricCallback, PushToHubCallback
from gpt2x.tf.keras.optimization import AdamWeightDecay, WarmUp, create_optimizer
from gpt2x.tf.model import TFGPT2MainLayer, TFGPT2Model
from gpt2x.tf.outputs import (
    ModelOutput,
    TFBaseModelOutputWithPastAndCrossAttentions,
    TFBeamSampleDecoderOnlyOutput,
    TFBeamSearchDecoderOnlyOutput,
    TFCausalLMOutputWithCrossAttentions,
    TFGenerateBeamDecoderOnlyOutput,
    TFGenerateDecoderOnlyOutput,
    TFGPT2DoubleHeadsModelOutput,
    TFGreedySearchDecoderOnlyOutput,
    TFQuestionAnsweringModelOutput,
    TFSampleDecoderOnlyOutput,
    TFSequenceClassifierOutputWithPast,
    TFTokenClassifierOutput,
)
from gpt2x.tf.pretrained import TFGPT2PreTrainedModel
from gpt2x.tf.serving.export import TextGenerator
from gpt2x.tf.text.tokenization import TFGPT2Tokenizer

__all__ = [
    "TFGPT2PreTrainedModel",
    "TFGPT2Model",
    "TFGPT2MainLayer",
    "TFGPT2LMHeadModel",
    "TFGPT2DoubleHeadsModel",
    "TFGPT2ForSequenceClassification",
    "TFGPT2ForTokenClassification",
    "TFGPT2ForQuestionAnswering",
    "TFGPT2Tokenizer",
    "TextGenerator",
    "KVCache",
    "register_attention",
    "ModelOutput",
    "TFBaseModelOutputWithPastAndCrossAttentions",
    "TFCausalLMOutputWithCrossAttentions",
    "TFGPT2DoubleHeadsModelOutput",
    "TFSequenceClassifierOutputWithPast",
    "TFTokenClassifierOutput",
    "TFQuestionAnsweringModelOutput",
    "TFGenerateDecoderOnlyOutput",
    "TFGenerateBeamDecoderOnlyOutput",
    "TFGreedySearchDecoderOnlyOutput",
    "TFSampleDecoderOnlyOutput",
    "TFBeamSearchDecoderOnlyOutput",
    "TFBeamSampleDecoderOnlyOutput",
    "AdamWeightDecay",
    "WarmUp",
    "create_optimizer",
    "KerasMetricCallback",
    "PushToHubCallback",
]
