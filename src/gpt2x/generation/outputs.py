"""What `generate(return_dict_in_generate=True)` returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gpt2x.generation.ops import Array
from gpt2x.models.outputs import ModelOutput


@dataclass(eq=False, repr=False)
class GenerateDecoderOnlyOutput(ModelOutput):
    """The result of greedy decoding or sampling.

    sequences: int [R, length], the prompt included.
    scores: for each step, the scores that chose the token, float [R, V]; with `output_scores`.
    logits: for each step, the logits of the model, float [R, V]; with `output_logits`.
    attentions: for each step, for each layer [R, H, T, S]; with `output_attentions`.
    hidden_states: for each step, for each layer and the embeddings [R, T, E]; with
        `output_hidden_states`. T is the prompt's length in the first step, and 1 later.
    past_key_values: the cache after the last step, unless `use_cache=False`.
    """

    sequences: Array
    scores: tuple[Array, ...] | None = None
    logits: tuple[Array, ...] | None = None
    attentions: tuple[tuple[Array, ...], ...] | None = None
    hidden_states: tuple[tuple[Array, ...], ...] | None = None
    past_key_values: Any = None


@dataclass(eq=False, repr=False)
class GenerateBeamDecoderOnlyOutput(ModelOutput):
    """The result of beam search.

    sequences: int [B x returned sequences, length], the prompt included, the best of each prompt
        first.
    sequences_scores: their length-normalised log-probabilities, float [B x returned sequences];
        with `output_scores`.
    scores: for each step, the processed log-probabilities of all beams, float [B x K, V].
    logits: for each step, the logits of the model, float [B x K, V].
    beam_indices: for each generated token, the row of `scores` that it came from, int
        [B x returned sequences, generated]; -1 after the end of a text.
    attentions, hidden_states, past_key_values: as in `GenerateDecoderOnlyOutput`, of all beams.
    """

    sequences: Array
    sequences_scores: Array | None = None
    scores: tuple[Array, ...] | None = None
    logits: tuple[Array, ...] | None = None
    beam_indices: Array | None = None
    attentions: tuple[tuple[Array, ...], ...] | None = None
    hidden_states: tuple[tuple[Array, ...], ...] | None = None
    past_key_values: Any = None


# The names that transformers 4 had before these two.
GreedySearchDecoderOnlyOutput = GenerateDecoderOnlyOutput
ContrastiveSearchDecoderOnlyOutput = GenerateDecoderOnlyOutput
SampleDecoderOnlyOutput = GenerateDecoderOnlyOutput
BeamSearchDecoderOnlyOutput = GenerateBeamDecoderOnlyOutput
BeamSampleDecoderOnlyOutput = GenerateBeamDecoderOnlyOutput
