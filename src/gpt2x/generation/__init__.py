"""Decoding, written once for every framework.

A *strategy* (`strategies/`) is a pure function over arrays: it takes logits and says which token
comes next. A *logits processor* (`processors/`) is one too. Both are written against `Ops`
(`ops.py`), which each backend implements. The *driver* (`driver.py`) runs model and strategy in
turn, fused into one computation or step by step. A *plan* (`plan.py`) is what the arguments of
`generate` come to, all checks done.
"""

from gpt2x.config.compilation import CompileConfig
from gpt2x.config.generation import GenerationConfig, GenerationMode
from gpt2x.config.watermarking import SynthIDTextWatermarkingConfig, WatermarkingConfig
from gpt2x.generation.beam_constraints import (
    Constraint,
    ConstraintListState,
    DisjunctiveConstraint,
    PhrasalConstraint,
)
from gpt2x.generation.outputs import (
    BeamSampleDecoderOnlyOutput,
    BeamSearchDecoderOnlyOutput,
    ContrastiveSearchDecoderOnlyOutput,
    GenerateBeamDecoderOnlyOutput,
    GenerateDecoderOnlyOutput,
    GreedySearchDecoderOnlyOutput,
    SampleDecoderOnlyOutput,
)
from gpt2x.generation.processors import (
    LogitsProcessor,
    LogitsProcessorList,
)
from gpt2x.generation.processors.constraints import (
    ExponentialDecayLengthPenalty,
    ForcedBOSTokenLogitsProcessor,
    ForcedEOSTokenLogitsProcessor,
    ForceTokensLogitsProcessor,
    InfNanRemoveLogitsProcessor,
    LogitNormalization,
    MinLengthLogitsProcessor,
    MinNewTokensLengthLogitsProcessor,
    PrefixConstrainedLogitsProcessor,
    SuppressTokensAtBeginLogitsProcessor,
    SuppressTokensLogitsProcessor,
)
from gpt2x.generation.processors.diversity import HammingDiversityLogitsProcessor
from gpt2x.generation.processors.history import (
    EncoderNoRepeatNGramLogitsProcessor,
    EncoderRepetitionPenaltyLogitsProcessor,
    NoBadWordsLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
)
from gpt2x.generation.processors.synthid import SynthIDTextWatermarkLogitsProcessor
from gpt2x.generation.processors.warpers import (
    EpsilonLogitsWarper,
    EtaLogitsWarper,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)
from gpt2x.generation.processors.watermark import WatermarkLogitsProcessor
from gpt2x.generation.stopping import (
    ConfidenceCriteria,
    EosTokenCriteria,
    MaxLengthCriteria,
    MaxTimeCriteria,
    StoppingCriteria,
    StoppingCriteriaList,
    StopStringCriteria,
    validate_stopping_criteria,
)
from gpt2x.generation.streamers import (
    AsyncTextIteratorStreamer,
    BaseStreamer,
    TextIteratorStreamer,
    TextStreamer,
)
from gpt2x.generation.synthid import SynthIDTextWatermarkDetector
from gpt2x.generation.watermarking import WatermarkDetector, WatermarkDetectorOutput

#: transformers' name of the base class of processors for sampling.
LogitsWarper = LogitsProcessor

__all__ = [
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
]
