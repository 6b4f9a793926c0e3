"""GPT-2 in PyTorch, TensorFlow/Keras 3 and Flax NNX around one framework-neutral core.

>>> from gpt2x import GPT2LMHeadModel, GPT2Tokenizer
>>> model = GPT2LMHeadModel.from_pretrained("gpt2")
>>> tokenizer = GPT2Tokenizer.from_pretrained("gpt2")

`import gpt2x` imports no framework: a public name is resolved when it is first used (PEP 562), so
`from gpt2x import GPT2LMHeadModel` imports PyTorch and nothing else.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what editors and type checkers see of the names below
    from gpt2x.backends import set_seed
    from gpt2x.config import GPT2Config, LoraConfig
    from gpt2x.data import EMBEDDED_MODEL
    from gpt2x.errors import CheckpointError, InvalidInputError, MissingBackendError, WeightsError
    from gpt2x.flax import (
        FlaxGPT2DoubleHeadsModel,
        FlaxGPT2ForQuestionAnswering,
        FlaxGPT2ForSequenceClassification,
        FlaxGPT2ForTokenClassification,
        FlaxGPT2LMHeadModel,
        FlaxGPT2Model,
        FlaxGPT2PreTrainedModel,
    )
    from gpt2x.generation import *
    from gpt2x.generation.framework_names import *
    from gpt2x.pipelines import pipeline
    from gpt2x.pt import (
        GPT2DoubleHeadsModel,
        GPT2ForQuestionAnswering,
        GPT2ForSequenceClassification,
        GPT2ForTokenClassification,
        GPT2LMHeadModel,
        GPT2Model,
        GPT2PreTrainedModel,
        UnbatchedClassifierFreeGuidanceLogitsProcessor,
    )
    from gpt2x.tf import (
        AdamWeightDecay,
        KerasMetricCallback,
        PushToHubCallback,
        TFGPT2DoubleHeadsModel,
        TFGPT2ForQuestionAnswering,
        TFGPT2ForSequenceClassification,
        TFGPT2ForTokenClassification,
        TFGPT2LMHeadModel,
        TFGPT2MainLayer,
        TFGPT2Model,
        TFGPT2PreTrainedModel,
        TFGPT2Tokenizer,
        WarmUp,
        create_optimizer,
    )
    from gpt2x.tokenization import AddedToken, BatchEncoding, GPT2Tokenizer, GPT2TokenizerFast

__version__ = "0.1.0"

# The processors that transformers has for TensorFlow and for Flax, after its prefix.
_PROCESSORS = (
    "LogitsProcessor",
    "LogitsWarper",
    "LogitsProcessorList",
    "ForcedBOSTokenLogitsProcessor",
    "ForcedEOSTokenLogitsProcessor",
    "ForceTokensLogitsProcessor",
    "MinLengthLogitsProcessor",
    "SuppressTokensAtBeginLogitsProcessor",
    "SuppressTokensLogitsProcessor",
    "TemperatureLogitsWarper",
    "TopKLogitsWarper",
    "TopPLogitsWarper",
)

# What needs no framework, by the module that defines it.
_CORE_MODULES: dict[str, tuple[str, ...]] = {
    "gpt2x.config": ("GPT2Config", "LoraConfig"),
    "gpt2x.tokenization": ("GPT2Tokenizer", "GPT2TokenizerFast", "AddedToken", "BatchEncoding"),
    "gpt2x.generation": (
        "GenerationConfig",
        "GenerationMode",
        "CompileConfig",
        "GenerateDecoderOnlyOutput",
        "GenerateBeamDecoderOnlyOutput",
        "GreedySearchDecoderOnlyOutput",
        "ContrastiveSearchDecoderOnlyOutput",
        "SampleDecoderOnlyOutput",
        "BeamSearchDecoderOnlyOutput",
        "BeamSampleDecoderOnlyOutput",
        "LogitsProcessor",
        "LogitsWarper",
        "LogitsProcessorList",
        "MinLengthLogitsProcessor",
        "MinNewTokensLengthLogitsProcessor",
        "TemperatureLogitsWarper",
        "TopKLogitsWarper",
        "TopPLogitsWarper",
        "MinPLogitsWarper",
        "TypicalLogitsWarper",
        "EpsilonLogitsWarper",
        "EtaLogitsWarper",
        "RepetitionPenaltyLogitsProcessor",
        "NoRepeatNGramLogitsProcessor",
        "EncoderRepetitionPenaltyLogitsProcessor",
        "EncoderNoRepeatNGramLogitsProcessor",
        "SequenceBiasLogitsProcessor",
        "NoBadWordsLogitsProcessor",
        "PrefixConstrainedLogitsProcessor",
        "ForcedBOSTokenLogitsProcessor",
        "ForcedEOSTokenLogitsProcessor",
        "ForceTokensLogitsProcessor",
        "InfNanRemoveLogitsProcessor",
        "ExponentialDecayLengthPenalty",
        "SuppressTokensLogitsProcessor",
        "SuppressTokensAtBeginLogitsProcessor",
        "LogitNormalization",
        "WatermarkLogitsProcessor",
        "WatermarkingConfig",
        "WatermarkDetector",
        "WatermarkDetectorOutput",
        "SynthIDTextWatermarkLogitsProcessor",
        "SynthIDTextWatermarkingConfig",
        "SynthIDTextWatermarkDetector",
        "HammingDiversityLogitsProcessor",
        "Constraint",
        "ConstraintListState",
        "DisjunctiveConstraint",
        "PhrasalConstraint",
        "StoppingCriteria",
        "StoppingCriteriaList",
        "MaxLengthCriteria",
        "MaxTimeCriteria",
        "StopStringCriteria",
        "EosTokenCriteria",
        "ConfidenceCriteria",
        "validate_stopping_criteria",
        "BaseStreamer",
        "TextStreamer",
        "TextIteratorStreamer",
        "AsyncTextIteratorStreamer",
    ),
    "gpt2x.generation.framework_names": (
        *("TF" + name for name in _PROCESSORS),
        *("Flax" + name for name in _PROCESSORS),
        "TFNoBadWordsLogitsProcessor",
        "TFNoRepeatNGramLogitsProcessor",
        "TFRepetitionPenaltyLogitsProcessor",
    ),
    "gpt2x.pipelines": ("pipeline",),
    "gpt2x.backends": ("set_seed",),
    "gpt2x.data": ("EMBEDDED_MODEL",),
    "gpt2x.errors": (
        "InvalidInputError",
        "CheckpointError",
        "WeightsError",
        "MissingBackendError",
    ),
}
_CORE_NAMES = {name: module for module, names in _CORE_MODULES.items() for name in names}

# The classes that every backend has, after its prefix (GPT2, TFGPT2, FlaxGPT2).
_MODEL_CLASSES = (
    "PreTrainedModel",
    "Model",
    "LMHeadModel",
    "DoubleHeadsModel",
    "ForSequenceClassification",
    "ForTokenClassification",
    "ForQuestionAnswering",
)

# Which backend defines each of the other names.
_BACKEND_NAMES: dict[str, str] = {
    **{"GPT2" + name: "pt" for name in _MODEL_CLASSES},
    "UnbatchedClassifierFreeGuidanceLogitsProcessor": "pt",
    **{"TFGPT2" + name: "tf" for name in (*_MODEL_CLASSES, "MainLayer", "Tokenizer")},
    **dict.fromkeys(
        (
            "AdamWeightDecay",
            "WarmUp",
            "create_optimizer",
            "KerasMetricCallback",
            "PushToHubCallback",
        ),
        "tf",
    ),
    **{"FlaxGPT2" + name: "flax" for name in _MODEL_CLASSES},
}

# A star import brings what needs no framework: one that brought everything would fail wherever a
# framework is missing.
__all__ = ["__version__", *_CORE_NAMES]


def __getattr__(name: str) -> Any:
    """Import what defines the public name `name`, and remember it.

    Raises:
        MissingBackendError: if that is a framework's class and the framework is not installed.
        AttributeError: if there is no such name.
    """
    if name in _CORE_NAMES:
        module = import_module(_CORE_NAMES[name])
    elif name in _BACKEND_NAMES:
        from gpt2x import backends

        module = backends.load(_BACKEND_NAMES[name], wanted_by=name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(module, name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_CORE_NAMES, *_BACKEND_NAMES})
