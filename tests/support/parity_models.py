"""What the parity tests share: PyTorch models of random weights, inputs, how outputs agree."""

from __future__ import annotations

from collections.abc import Callable
from os import PathLike
from typing import Any

import numpy as np
import pytest
import torch

from gpt2x import pt
from gpt2x.config import GPT2Config
from gpt2x.errors import InvalidInputError
from gpt2x.weights.table import Head

TINY = {
    "vocab_size": 61,
    "n_positions": 32,
    "n_embd": 24,
    "n_layer": 2,
    "n_head": 3,
    "bos_token_id": 60,
    "eos_token_id": 59,
    "pad_token_id": 58,
    "initializer_range": 0.3,
    "num_labels": 3,
}
FLAGS = {
    "plain": {},
    "untied": {"tie_word_embeddings": False},
    "unscaled": {"scale_attn_weights": False},
    "inverse_layer_idx": {"scale_attn_by_inverse_layer_idx": True},
    "reorder_and_upcast": {"reorder_and_upcast_attn": True},
    "all attention flags": {
        "scale_attn_weights": False,
        "scale_attn_by_inverse_layer_idx": True,
        "reorder_and_upcast_attn": True,
    },
    "inner": {"n_inner": 40, "activation_function": "relu2", "layer_norm_epsilon": 0.1},
    "cross attention": {"add_cross_attention": True},
}
_RNG = np.random.default_rng(0)
IDS = _RNG.integers(0, 58, (3, 7))
MASK = np.array([[0, 0, 0, 1, 1, 1, 1], [1] * 7, [0, 1, 1, 1, 1, 1, 1]])
LABELS = {
    Head.LM: {"labels": np.where(MASK == 1, IDS, -100)},
    Head.DOUBLE: {"labels": IDS[:, None], "mc_labels": np.array([0, 0, 0])},
    Head.SEQUENCE_CLASSIFICATION: {"labels": np.array([2, 0, 1])},
    Head.TOKEN_CLASSIFICATION: {"labels": np.where(MASK == 1, IDS % 3, -100)},
    Head.QUESTION_ANSWERING: {
        "start_positions": np.array([3, 0, 9]),
        "end_positions": np.array([4, 6, 2]),
    },
}
ENCODER = {
    "encoder_hidden_states": _RNG.normal(size=(3, 4, 24)).astype(np.float32),
    "encoder_attention_mask": np.array([[1, 1, 0, 0], [1] * 4, [1, 0, 0, 0]]),
}
GENERATION = {
    "greedy": {},
    "sampling": {"do_sample": True, "top_k": 20, "top_p": 0.9, "temperature": 1.5, "seed": 11},
    "all of the vocabulary": {"do_sample": True, "top_k": 0, "seed": [(1, 4), (1, 0), (2, 0)]},
    "many at once": {"do_sample": True, "num_return_sequences": 3, "min_p": 0.01, "seed": 2},
    "beams": {"num_beams": 3, "num_return_sequences": 2, "length_penalty": 0.5},
    "processors": {
        "repetition_penalty": 1.3,
        "no_repeat_ngram_size": 2,
        "min_new_tokens": 3,
        "bad_words_ids": [[5], [6, 7]],
    },
}
BAD_INPUTS = {
    "none": {},
    "rank": {"input_ids": IDS[0]},
    "ids": {"input_ids": IDS + 40},
    "mask": {"input_ids": IDS, "attention_mask": MASK[:, 2:]},
    "token types": {"input_ids": IDS, "token_type_ids": IDS[:, 1:]},
    "positions": {"input_ids": IDS, "position_ids": IDS + 20},
    "labels": {"input_ids": IDS, "labels": IDS + 10},
    "length": {"input_ids": np.zeros((1, 40), np.int64)},
}


def save_reference(head: Head, folder: str | PathLike[str], **fields: Any) -> Any:
    """Save a PyTorch model of random weights, biases and layer norms in a folder; return it."""
    torch.manual_seed(0)
    model = getattr(pt, f"GPT2{head.value}")(GPT2Config(**{**TINY, **fields})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return model


def tensors(inputs: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(array) for name, array in inputs.items()}


def assert_outputs_agree(reference: Any, model: Any, head: Head, flags: str) -> None:
    """Compare every output of two models of one head: losses, hidden states, cache and all."""
    ids, mask = (IDS[:, None], MASK[:, None]) if head is Head.DOUBLE else (IDS, MASK)
    inputs = {"input_ids": ids, "attention_mask": mask, **LABELS.get(head, {})}
    if flags == "cross attention" and head in (Head.NONE, Head.LM):
        inputs |= ENCODER
    options = {"output_hidden_states": True, "output_attentions": True}
    with torch.no_grad():
        expected = reference(**tensors(inputs), **options)
    output = model(**inputs, **options)
    assert list(output) == list(expected)
    for name in expected:
        for a, b in zip(_leaves(expected[name]), _leaves(output[name]), strict=True):
            np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-4, err_msg=name)


def assert_texts_agree(reference: Any, model: Any, **options: Any) -> None:
    """Compare what two models write after left-padded prompts."""
    options = {"max_new_tokens": 8, "pad_token_id": 58, **options}
    expected = reference.generate(
        torch.tensor(IDS), attention_mask=torch.tensor(MASK), **options
    ).numpy()
    np.testing.assert_array_equal(model.generate(IDS, attention_mask=MASK, **options), expected)


def assert_errors_agree(
    reference: Any, model: Any, inputs: dict[str, np.ndarray], convert: Callable = np.asarray
) -> None:
    """Compare what two models say to inputs that cannot be used."""
    with pytest.raises(InvalidInputError) as expected:
        reference(**tensors(inputs))
    with pytest.raises(InvalidInputError) as error:
        model(**{name: convert(value) for name, value in inputs.items()})
    assert str(error.value) == str(expected.value)


def _leaves(value: Any) -> list[np.ndarray]:
    """The arrays of an output's field, whatever it is made of."""
    if hasattr(value, "to_tuple"):
        value = value.to_tuple()
    if isinstance(value, tuple):
        return [leaf for item in value for leaf in _leaves(item)]
    return [np.asarray(value.detach() if isinstance(value, torch.Tensor) else value)]
