"""The names under which transformers has some processors once more for TensorFlow and for Flax.

Here one class serves every framework.
"""

from gpt2x.generation.processors import (
    ForcedBOSTokenLogitsProcessor,
    ForcedEOSTokenLogitsProcessor,
    ForceTokensLogitsProcessor,
    LogitsProcessor,
    LogitsProcessorList,
    MinLengthLogitsProcessor,
    NoBadWordsLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    SuppressTokensAtBeginLogitsProcessor,
    SuppressTokensLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

TFLogitsProcessor = FlaxLogitsProcessor = LogitsProcessor
TFLogitsWarper = FlaxLogitsWarper = LogitsProcessor
TFLogitsProcessorList = FlaxLogitsProcessorList = LogitsProcessorList
TFForcedBOSTokenLogitsProcessor = FlaxForcedBOSTokenLogitsProcessor = ForcedBOSTokenLogitsProcessor
TFForcedEOSTokenLogitsProcessor = FlaxForcedEOSTokenLogitsProcessor = ForcedEOSTokenLogitsProcessor
TFForceTokensLogitsProcessor = FlaxForceTokensLogitsProcessor = ForceTokensLogitsProcessor
TFMinLengthLogitsProcessor = FlaxMinLengthLogitsProcessor = MinLengthLogitsProcessor
TFNoBadWordsLogitsProcessor = NoBadWordsLogitsProcessor
TFNoRepeatNGramLogitsProcessor = NoRepeatNGramLogitsProcessor
TFRepetitionPenaltyLogitsProcessor = RepetitionPenaltyLogitsProcessor
TFSuppressTokensAtBeginLogitsProcessor = SuppressTokensAtBeginLogitsProcessor
FlaxSuppressTokensAtBeginLogitsProcessor = SuppressTokensAtBeginLogitsProcessor
TFSuppressTokensLogitsProcessor = FlaxSuppressTokensLogitsProcessor = SuppressTokensLogitsProcessor
TFTemperatureLogitsWarper = FlaxTemperatureLogitsWarper = TemperatureLogitsWarper
TFTopKLogitsWarper = FlaxTopKLogitsWarper = TopKLogitsWarper
TFTopPLogitsWarper = FlaxTopPLogitsWarper = TopPLogitsWarper

__all__ = [
    "TFLogitsProcessor",
    "TFLogitsWarper",
    "TFLogitsProcessorList",
    "TFForcedBOSTokenLogitsProcessor",
    "TFForcedEOSTokenLogitsProcessor",
    "TFForceTokensLogitsProcessor",
    "TFMinLengthLogitsProcessor",
    "TFNoBadWordsLogitsProcessor",
    "TFNoRepeatNGramLogitsProcessor",
    "TFRepetitionPenaltyLogitsProcessor",
    "TFSuppressTokensAtBeginLogitsProcessor",
    "TFSuppressTokensLogitsProcessor",
    "TFTemperatureLogitsWarper",
    "TFTopKLogitsWarper",
    "TFTopPLogitsWarper",
    "FlaxLogitsProcessor",
    "FlaxLogitsWarper",
    "FlaxLogitsProcessorList",
    "FlaxForcedBOSTokenLogitsProcessor",
    "FlaxForcedEOSTokenLogitsProcessor",
    "FlaxForceTokensLogitsProcessor",
    "FlaxMinLengthLogitsProcessor",
    "FlaxSuppressTokensAtBeginLogitsProcessor",
    "FlaxSuppressTokensLogitsProcessor",
    "FlaxTemperatureLogitsWarper",
    "FlaxTopKLogitsWarper",
    "FlaxTopPLogitsWarper",
]
