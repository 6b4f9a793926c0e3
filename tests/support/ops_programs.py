"""Every operation of the decoding core, to hold a backend's `Ops` against the numpy reference."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np

from gpt2x import generation
from gpt2x.generation import random
from gpt2x.generation.numpy_ops import NUMPY_OPS
from gpt2x.generation.ops import Ops

RNG = np.random.default_rng(0)
FLOATS = RNG.standard_normal((3, 7)).astype(np.float32)
TIED = np.array([[1, 3, 3, 2], [5, 5, 5, 5], [0, -1, 0, -2]], np.float32)
COLUMNS = np.array([[0, 2, 2], [6, 0, 6], [3, 3, 3]], np.int32)
PROCESSORS_OF_SCORES = (
    generation.TemperatureLogitsWarper(0.5),
    generation.TopKLogitsWarper(2, filter_value=-5.0),
    generation.TopPLogitsWarper(0.6),
    generation.MinPLogitsWarper(0.3, min_tokens_to_keep=3),
    generation.TypicalLogitsWarper(0.6),
    generation.EpsilonLogitsWarper(0.15),
    generation.EtaLogitsWarper(0.2),
    generation.SuppressTokensLogitsProcessor([1, 4]),
    generation.InfNanRemoveLogitsProcessor(),
    generation.LogitNormalization(),
)
PROCESSORS_OF_TEXT = (
    generation.RepetitionPenaltyLogitsProcessor(1.5, prompt_ignore_length=1),
    generation.EncoderRepetitionPenaltyLogitsProcessor(1.5, COLUMNS),
    generation.NoRepeatNGramLogitsProcessor(1),
    generation.EncoderNoRepeatNGramLogitsProcessor(2, COLUMNS[:1, ::-1]),
    generation.SequenceBiasLogitsProcessor({(3,): 2.0, (2, 2, 5): 1.0, (0, 6): -1.0}),
    generation.NoBadWordsLogitsProcessor([[6], [0, 2]], eos_token_id=6),
    generation.MinLengthLogitsProcessor(3, [0, 50256]),
    generation.MinNewTokensLengthLogitsProcessor(1, 2, 5),
    generation.ForcedBOSTokenLogitsProcessor(3),
    generation.ForcedEOSTokenLogitsProcessor(3, 4),
    generation.ForceTokensLogitsProcessor({2: 5}),
    generation.ExponentialDecayLengthPenalty((0, 1.5), 2, 1),
    generation.SuppressTokensAtBeginLogitsProcessor([0, 1], 2),
)
WORDS = RNG.integers(-(2**31), 2**31, (3, 5)).astype(np.int32)


def _programs(ops: Ops) -> Iterator[tuple[str, Any]]:
    floats, columns = ops.constant(FLOATS, "float"), ops.constant(COLUMNS, "int")
    tied, words = ops.constant(TIED, "float"), ops.words(ops.constant(WORDS, "int"))
    mask = ops.constant(FLOATS > 0, "bool")
    yield "full", ops.full((2, 3), 4, "int")
    yield "full of a scalar", ops.full((2,), ops.scalar(7, "int"), "float")
    yield "arange", ops.arange(5)
    yield "cast", ops.cast(floats, "bool")
    yield "reshape", ops.reshape(floats, (7, -1))
    yield "concat", ops.concat([floats, floats], 1)
    yield "where", ops.where(mask, floats, -np.inf)
    yield "where of numbers and arrays", ops.where(mask, 0, columns[:, :1])
    yield "take", ops.take(floats, columns[:, 1] % 3)
    yield "take_along", ops.take_along(floats, columns)
    yield "top_k values", ops.top_k(floats, 4)[0]
    yield "top_k indices", ops.top_k(tied, 3)[1]
    yield "argmax", ops.argmax(tied)
    yield "write a row", ops.write(floats + 0, ops.scalar(1, "int"), floats[2], 0)
    yield "write a column", ops.write(columns + 0, ops.scalar(2, "int"), columns[:, 0], 1)
    yield "scatter_add", ops.scatter_add(floats, columns, ops.constant(COLUMNS, "float"))
    yield "log_softmax", ops.log_softmax(ops.where(mask, floats, -np.inf))
    yield "exp", ops.exp(floats)
    yield "log", ops.log(abs(floats))
    yield "log1p", ops.log1p(abs(floats))
    yield "minimum", ops.minimum(floats, 0.25)
    yield "maximum", ops.maximum(floats, floats[:1])
    yield "sum", ops.sum(columns, 1)
    yield "max", ops.max(floats, 0)
    yield "any", ops.any(mask, 1)
    yield "any of all", ops.any(mask)
    yield "all", ops.all(mask, 0)
    yield "all of all", ops.all(mask)
    yield "upper halves", ops.word_halves(words)[0]
    yield "lower halves", ops.word_halves(words)[1]
    yield "shifts", ops.word_halves(ops.shift_left(words, 13) ^ ops.shift_right(words, 7))[1]
    yield "float_bits", ops.float_bits(floats)
    keys = random.row_keys(ops, (words[:, 0], words[:, 1]), ops.arange(3))
    yield "hash", ops.word_halves(keys[0])[0]
    yield "gumbel", random.gumbel_noise(ops, keys, ops.scalar(4, "int"), ops.arange(50)[None])
    total = ops.while_loop(
        lambda state: state["i"] < 5,
        lambda state: {"i": state["i"] + 1, "x": (state["x"][0] * 2, state["x"][1])},
        {"i": ops.scalar(0, "int"), "x": (floats, columns)},
    )
    yield "while_loop", total["x"][0]
    yield "cast_like", ops.cast_like(columns, floats)
    for processor in PROCESSORS_OF_SCORES:
        yield type(processor).__name__, processor(None, floats)
    for processor in PROCESSORS_OF_TEXT:
        yield type(processor).__name__, processor(columns, floats)
        yield f"{type(processor).__name__} of a buffer", processor(columns, floats, cur_len=2)


def run_programs(ops: Ops) -> dict[str, Any]:
    """Run every operation on the arrays above; return the results by name."""
    return dict(_programs(ops))


@functools.cache
def _expected() -> dict[str, np.ndarray]:
    return {name: np.asarray(value) for name, value in run_programs(NUMPY_OPS).items()}


def check_results(ops: Ops, results: dict[str, Any]) -> None:
    """Hold what `run_programs(ops)` gave to what numpy gives."""
    expected = _expected()
    assert results.keys() == expected.keys()
    for name, value in results.items():
        value = ops.to_numpy(value)
        assert value.shape == expected[name].shape, name
        assert value.dtype.kind == expected[name].dtype.kind, name  # PyTorch's ids are int64
        np.testing.assert_allclose(value, expected[name], rtol=2e-6, atol=2e-6, err_msg=name)
