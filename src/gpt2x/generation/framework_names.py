"""The names of transformers' processors for TensorFlow and Flax.

Here one class serves every framework, so they are names of the same classes.
"""

from gpt2x.generation.processors import (
    LogitsProcessor,
    LogitsProcessorList,
)
from gpt2x.generation.processors.constraints import (
    ForcedBOSTokenLogitsProcessor,
    ForcedEOSTokenLogitsProcessor,
    ForceTokensLogitsProcessor,
    MinLengthLogitsProcessor,
    SuppressTokensAtBeginLogitsProcessor,
    SuppressTokensLogitsProcessor,
)
from gpt2x.generation.processors.history import (
    NoBadWordsLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
)
from gpt2x.generation.processors.warpers import (
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
