"""The output classes under TensorFlow's names, registered as pytrees of TensorFlow and Keras."""

from __future__ import annotations

from typing import Any

import optree

from gpt2x.generation import GenerateBeamDecoderOnlyOutput, GenerateDecoderOnlyOutput
from gpt2x.models.outputs import (
    BaseModelOutputWithPastAndCrossAttentions,
    CausalLMOutputWithCrossAttentions,
    DoubleHeadsModelOutput,
    ModelOutput,
    QuestionAnsweringModelOutput,
    SequenceClassifierOutputWithPast,
    TokenClassifierOutput,
)


class _Pytree(ModelOutput):
    """TensorFlow's protocol of a pytree, for `tf.function`, `tf.data` and `tf.cond`."""

    def __tf_flatten__(self) -> tuple[tuple[str, ...], tuple[Any, ...]]:
        return tuple(self), self.to_tuple()

    @classmethod
    def __tf_unflatten__(cls, names: tuple[str, ...], values: Any) -> ModelOutput:
        return cls(**dict(zip(names, values, strict=True)))


class TFBaseModelOutputWithPastAndCrossAttentions(
    BaseModelOutputWithPastAndCrossAttentions, _Pytree
):
    __doc__ = BaseModelOutputWithPastAndCrossAttentions.__doc__


class TFCausalLMOutputWithCrossAttentions(CausalLMOutputWithCrossAttentions, _Pytree):
    __doc__ = CausalLMOutputWithCrossAttentions.__doc__


class TFGPT2DoubleHeadsModelOutput(DoubleHeadsModelOutput, _Pytree):
    __doc__ = DoubleHeadsModelOutput.__doc__


class TFSequenceClassifierOutputWithPast(SequenceClassifierOutputWithPast, _Pytree):
    __doc__ = SequenceClassifierOutputWithPast.__doc__


class TFTokenClassifierOutput(TokenClassifierOutput, _Pytree):
    __doc__ = TokenClassifierOutput.__doc__


class TFQuestionAnsweringModelOutput(QuestionAnsweringModelOutput, _Pytree):
    __doc__ = QuestionAnsweringModelOutput.__doc__


class TFGenerateDecoderOnlyOutput(GenerateDecoderOnlyOutput, _Pytree):
    __doc__ = GenerateDecoderOnlyOutput.__doc__


class TFGenerateBeamDecoderOnlyOutput(GenerateBeamDecoderOnlyOutput, _Pytree):
    __doc__ = GenerateBeamDecoderOnlyOutput.__doc__


# Other names of these two in transformers.
TFGreedySearchDecoderOnlyOutput = TFGenerateDecoderOnlyOutput
TFSampleDecoderOnlyOutput = TFGenerateDecoderOnlyOutput
TFBeamSearchDecoderOnlyOutput = TFGenerateBeamDecoderOnlyOutput
TFBeamSampleDecoderOnlyOutput = TFGenerateBeamDecoderOnlyOutput


def generation_output(output: Any) -> Any:
    """Convert an output of the decoding core to TensorFlow's class; plain ids stay."""
    for core, ours in (
        (GenerateDecoderOnlyOutput, TFGenerateDecoderOnlyOutput),
        (GenerateBeamDecoderOnlyOutput, TFGenerateBeamDecoderOnlyOutput),
    ):
        if isinstance(output, core):
            return ours(**output)
    return output


def _register(output_class: type[_Pytree]) -> None:
    # Keras walks through outputs (`predict`, functional models) with optree.
    optree.register_pytree_node(
        output_class,
        lambda output: (output.to_tuple(), tuple(output)),
        output_class.__tf_unflatten__,
        namespace="keras",
    )


for _output_class in _Pytree.__subclasses__():
    _register(_output_class)
