"""The embedded model: small enough to ship, complete, and worth reading."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors import safe_open

import gpt2x
from gpt2x import EMBEDDED_MODEL, GPT2Config, GPT2Tokenizer, GPT2TokenizerFast, backends

VERSE = "And the LORD spake unto Moses, saying,"
SPEECH = "ROMEO.\nBut, soft! what light through yonder window breaks?"


def test_it_is_at_most_8_megabytes():
    files = [
        file for file in EMBEDDED_MODEL.parent.rglob("*") if file.suffix not in (".py", ".pyc")
    ]
    assert sum(file.stat().st_size for file in files if file.is_file()) <= 8_000_000


def test_the_weights_are_bfloat16():
    with safe_open(EMBEDDED_MODEL / "model.safetensors", "np") as file:
        dtypes = {file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
    assert dtypes == {"BF16"}


def test_the_card_says_what_it_was_trained_on_and_how_to_make_it_again():
    card = (EMBEDDED_MODEL / "README.md").read_text("utf-8")
    for word in ("Shakespeare", "King James", "license", "nats a token", "train_demo_model.py"):
        assert word in card
    assert "{" not in card


@pytest.mark.parametrize("text", [VERSE, SPEECH, "Thou’rt 3 £\n\n  naïve 你好"])
def test_both_tokenizers_read_the_same_folder(text):
    slow, fast = (c.from_pretrained(EMBEDDED_MODEL) for c in (GPT2Tokenizer, GPT2TokenizerFast))
    ids = slow(text)["input_ids"]
    assert ids == fast(text)["input_ids"]
    assert slow.decode(ids) == fast.decode(ids) == text
    assert max(ids) < GPT2Config.from_pretrained(EMBEDDED_MODEL).vocab_size
    assert slow.model_max_length == fast.model_max_length == 256


def test_end_of_text_is_one_token_in_every_file():
    end = GPT2Tokenizer.from_pretrained(EMBEDDED_MODEL).eos_token_id
    for name in ("config.json", "generation_config.json"):
        values = json.loads((EMBEDDED_MODEL / name).read_text("utf-8"))
        assert (values["bos_token_id"], values["eos_token_id"]) == (end, end)


@pytest.mark.parametrize("backend", backends.installed())
def test_it_loads_as_float32_and_knows_its_language(backend):
    name = backends.get(backend).prefix + "LMHeadModel"
    model = getattr(gpt2x, name).from_pretrained(EMBEDDED_MODEL)
    kind = {"pt": "pt", "tf": "tf", "flax": "jax"}[backend]
    tokenizer = GPT2TokenizerFast.from_pretrained(EMBEDDED_MODEL)

    def loss(text: str) -> float:
        ids = tokenizer(text, return_tensors=kind)["input_ids"]
        logits = model(ids).logits
        assert "float32" in str(logits.dtype)
        scores = np.asarray(logits if kind != "pt" else logits.detach(), np.float64)[0, :-1]
        targets = np.asarray(ids)[0, 1:]
        log_sum = np.log(np.exp(scores).sum(-1))
        return float(np.mean(log_sum - scores[np.arange(len(targets)), targets]))

    # In nats a token; one that knows nothing has log(4096) = 8.3.
    assert loss(VERSE) < 2
    assert loss(SPEECH) < 5
    assert loss("def main(): return os.path.join(a, b)") > 7
