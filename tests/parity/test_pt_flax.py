"""Flax against PyTorch: the same numbers within 1e-4, the same texts, the same errors."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
jax = pytest.importorskip("jax")
pytest.importorskip("flax")

import gpt2x.flax  # noqa: E402
import gpt2x.pt  # noqa: E402
from gpt2x.config import GPT2Config  # noqa: E402
from gpt2x.errors import InvalidInputError  # noqa: E402
from gpt2x.flax.parameters import flatten  # noqa: E402
from gpt2x.weights import FLAX, Head  # noqa: E402

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
RNG = np.random.default_rng(0)
IDS = RNG.integers(0, 58, (3, 7))
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


def pair(head: Head, folder, **fields):
    """A PyTorch model of random weights, and what Flax loads of it."""
    torch.manual_seed(0)
    ours = getattr(gpt2x.pt, f"GPT2{head.value}")(GPT2Config(**{**TINY, **fields})).eval()
    with torch.no_grad():
        for parameter in ours.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
    ours.save_pretrained(folder)
    return ours, getattr(gpt2x.flax, f"FlaxGPT2{head.value}").from_pretrained(folder)


def leaves(value):
    """The tensors of an output's field, whatever it is made of."""
    if hasattr(value, "to_tuple"):
        value = value.to_tuple()
    if isinstance(value, tuple):
        return [leaf for item in value for leaf in leaves(item)]
    return [np.asarray(value.detach() if isinstance(value, torch.Tensor) else value)]


def agree(theirs, ours):
    assert list(ours) == list(theirs)
    for name in theirs:
        for a, b in zip(leaves(theirs[name]), leaves(ours[name]), strict=True):
            np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-4, err_msg=name)


# A head only reads what the body returns, so every flag is tried with the language model alone.
CASES = [(head, "plain") for head in Head] + [
    (Head.LM, flags) for flags in FLAGS if flags != "plain"
]


@pytest.mark.parametrize(
    ("head", "flags"), CASES, ids=[f"{head.value}-{flags}" for head, flags in CASES]
)
def test_every_output_agrees(head, flags, tmp_path):
    theirs, ours = pair(head, tmp_path, **FLAGS[flags])
    ids, mask = (IDS[:, None], MASK[:, None]) if head is Head.DOUBLE else (IDS, MASK)
    inputs = {"input_ids": ids, "attention_mask": mask, **LABELS.get(head, {})}
    if flags == "cross attention" and head in (Head.NONE, Head.LM):
        inputs["encoder_hidden_states"] = RNG.normal(size=(3, 4, 24)).astype(np.float32)
        inputs["encoder_attention_mask"] = np.array([[1, 1, 0, 0], [1] * 4, [1, 0, 0, 0]])
    options = {"output_hidden_states": True, "output_attentions": True}
    with torch.no_grad():
        expected = theirs(**{k: torch.tensor(v) for k, v in inputs.items()}, **options)
    agree(expected, ours(**inputs, **options))


def test_gradients_agree(tmp_path):
    theirs, ours = pair(Head.LM, tmp_path)
    # Padded in front, and labels on the padding too.
    inputs = {"input_ids": IDS, "attention_mask": MASK, "labels": IDS}
    theirs(**{k: torch.tensor(v) for k, v in inputs.items()}).loss.backward()
    gradients = jax.grad(lambda params: ours(**inputs, params=params).loss)(ours.params)
    gradients = {"/".join(path): array for path, array in flatten(gradients)}
    for name, parameter in theirs.named_parameters():
        canonical = name.removeprefix("transformer.")
        gradient = FLAX.layout(canonical).to_canonical(np.asarray(gradients[FLAX.spell(canonical)]))
        np.testing.assert_allclose(
            gradient, parameter.grad.numpy(), rtol=1e-4, atol=1e-4, err_msg=name
        )


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


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return pair(Head.LM, tmp_path_factory.mktemp("model"))


@pytest.mark.parametrize("name", GENERATION)
def test_the_same_texts(name, models):
    theirs, ours = models
    options = {"max_new_tokens": 8, "pad_token_id": 58, **GENERATION[name]}
    expected = theirs.generate(
        torch.tensor(IDS), attention_mask=torch.tensor(MASK), **options
    ).numpy()
    np.testing.assert_array_equal(ours.generate(IDS, attention_mask=MASK, **options), expected)


@pytest.mark.parametrize(
    "inputs",
    [
        {"input_ids": IDS + 40},
        {"input_ids": IDS[0]},
        {"input_ids": IDS, "attention_mask": MASK[:, 1:]},
        {"input_ids": IDS, "position_ids": IDS + 20},
    ],
    ids=["ids", "rank", "mask", "positions"],
)
def test_the_same_errors(inputs, models):
    theirs, ours = models
    with pytest.raises(InvalidInputError) as expected:
        theirs(**{name: torch.tensor(value) for name, value in inputs.items()})
    with pytest.raises(InvalidInputError) as error:
        ours(**inputs)
    assert str(error.value) == str(expected.value)
