"""Token healing: what becomes of prompts, with GPT-2's vocabulary and with a small one."""

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import GPT2Config, GPT2LMHeadModel, GPT2Tokenizer, GPT2TokenizerFast

from .files import write_json
from .tokenizer import copy_vocabulary

sys.path.insert(0, str(Path(__file__).parents[2]))
from support.healing import POSITIONS, VOCAB_SIZE, WIDTH, tables

# Each group is one batch. Left out are last tokens that are not ASCII, which raise a KeyError.
GPT2_PROMPTS = [
    *([text] for text in ('The link is <a href="http:', 'The link is <a href="http')),
    *([text] for text in ("I read a book about ", "I read a book about", "I", "", "   ", "a\n\n")),
    *([text] for text in ("def f(", "x = [1,2", "caf", "2024", "don'", "the =", "  lead", "a <")),
    ["Hello world <|endoftext|>"],
    ["def f(", "I", 'The link is <a href="http:', "print", "", "un"],
    ["def f(", "I"],
    ["", ""],
]
TINY_PROMPTS = [
    *([text] for text in ("In the beginn", "of the=i", "they/o", "and a(h", "on(the-a", "i")),
    ["the=w", "o", "Then he=s", "and the=e", "", "She-i"],
    ["one(tw", "three.fo"],
    ["th", "a"],
]


def write_healing(out: Path) -> None:
    """Both files, and the model of the small vocabulary."""
    with tempfile.TemporaryDirectory() as name:
        copy_vocabulary(Path(name))
        cases = [
            case
            for cls in (GPT2Tokenizer, GPT2TokenizerFast)
            for case in healed_cases(blind_model(), cls.from_pretrained(name), GPT2_PROMPTS)
        ]
    half = len(cases) // 2
    if cases[:half] != cases[half:]:
        raise RuntimeError("the two tokenizers differ")
    write_json(out / "healing/gpt2.json", cases[:half], indent=None)
    tokenizer = GPT2Tokenizer.from_pretrained(out / "tokenizer/tiny_slow_4")
    model = tiny_model(out / "healing", len(tokenizer))
    write_json(out / "healing/tiny.json", healed_cases(model, tokenizer, TINY_PROMPTS))


def blind_model() -> GPT2LMHeadModel:
    """The model of ``support.healing``."""
    config = GPT2Config(
        vocab_size=VOCAB_SIZE, n_positions=POSITIONS, n_embd=WIDTH, n_layer=1, n_head=1
    )
    model = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("c_proj.weight", "c_proj.bias")):
                parameter.zero_()
        for parameter, table in zip(
            (model.transformer.wte, model.transformer.wpe), tables(), strict=True
        ):
            parameter.weight.copy_(torch.from_numpy(table))
        model.transformer.ln_f.weight.fill_(1.5)
    return model


def tiny_model(folder: Path, vocab_size: int) -> GPT2LMHeadModel:
    """A model whose every tensor is random, so wide that the last token often changes."""
    config = GPT2Config(
        vocab_size=vocab_size,
        n_positions=40,
        n_embd=12,
        n_layer=2,
        n_head=2,
        bos_token_id=406,
        eos_token_id=406,
    )
    model = GPT2LMHeadModel(config).eval()
    random = np.random.default_rng(220)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.from_numpy(random.normal(scale=0.8, size=parameter.shape)))
    model.save_pretrained(folder)
    return model


def continued(model: GPT2LMHeadModel, tokenizer: Any, ids: torch.Tensor) -> list[list[int]]:
    """What greedy search writes after a prompt that it heals."""
    mask = torch.ones_like(ids)
    text = model.generate(
        ids, attention_mask=mask, tokenizer=tokenizer, token_healing=True, max_new_tokens=6
    )
    return text.tolist()


def healed_cases(model: GPT2LMHeadModel, tokenizer: Any, prompts: list[list[str]]) -> list[Any]:
    """Heal each batch with padding on each side; at least a third of the rows must change."""
    tokenizer.pad_token = tokenizer.eos_token
    cases = []
    for texts in prompts:
        for side in ("left", "right") if len(texts) > 1 else ("left",):
            tokenizer.padding_side = side
            ids = tokenizer(texts, padding=True, return_tensors="pt").input_ids.long()
            healed = model.heal_tokens(ids, tokenizer).long()
            case = {"padding_side": side, "input_ids": ids.tolist(), "healed": healed.tolist()}
            if len(texts) == 1 and healed.numel():
                case["text"] = continued(model, tokenizer, ids)
            cases.append(case)
    changed = sum(case["input_ids"] != case["healed"] for case in cases)
    if 3 * changed < len(cases):
        raise RuntimeError(f"only {changed} of {len(cases)} cases are healed; change the weights")
    return cases
