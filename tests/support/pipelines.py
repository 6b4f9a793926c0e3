"""The pipelines of the golden cases, called as transformers' were."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np

import gpt2x
from gpt2x.pipelines import TASKS
from support.golden_data import GOLDEN, load_json

CASES = load_json("pipelines/cases.json")
TEMPLATE = load_json("tokenizer/chat.json")["templates"]["chatml"]
#: The largest difference of a number.
TOLERANCE = 1e-4

#: Cases of text generation for frameworks that compile for each kind of decoding.
FEW = ("batch", "stream", "max_length", "beams", "empty", "chats", "scores", "hole")
#: Tasks and cases of all that does not write, and some of each, for the same frameworks.
READING = [
    (task, name) for task, cases in CASES.items() if task != "text-generation" for name in cases
]
SOME = {
    "text-classification": ("batch", "stream", "all", "pair", "regression"),
    "token-classification": ("batch", "average", "strides", "words"),
    "question-answering": ("questions", "examples", "impossible", "windows"),
    "feature-extraction": ("texts", "truncation"),
}
FEW_READING = [(task, name) for task, cases in SOME.items() for name in cases]


def folder(task: str) -> Any:
    """Return where the model of a task is."""
    return GOLDEN / "pipelines" / task.replace("-", "_")


def names(task: str) -> list[str]:
    """Return the names of a task's cases."""
    return list(CASES[task])


def tokenizer(**options: Any) -> gpt2x.GPT2TokenizerFast:
    """Return the tokenizer of these models, with a chat template."""
    made = gpt2x.GPT2TokenizerFast.from_pretrained(GOLDEN / "tokenizer/tiny_fast_4", **options)
    made.chat_template = TEMPLATE
    return made


def make(task: str, framework: str, tokens: Any = None, model: Any = None, **options: Any) -> Any:
    """Return the pipeline of a task, on its golden model unless another is given."""
    tokens, model = tokens or tokenizer(), model or folder(task)
    return gpt2x.pipeline(task, model, tokenizer=tokens, framework=framework, device=-1, **options)


def check_case(task: str, name: str, framework: str, pipelines: dict[str, Any]) -> None:
    """Call the pipeline of a case and compare; `pipelines` keeps the models of tasks."""
    case = CASES[task][name]
    tokens = tokenizer(**case.get("load", {}))
    for attribute, value in case.get("tokenizer", {}).items():
        setattr(tokens, attribute, value)
    if task not in pipelines:
        pipelines[task] = make(task, framework)
    model = pipelines[task].model
    pipe = TASKS[task](model, tokens, framework=framework, task=task, **case.get("make", {}))
    fields = case.get("config", {})
    before = {field: getattr(model.config, field) for field in fields}
    try:
        for field, value in fields.items():
            setattr(model.config, field, value)
        check_equal(_called(pipe, case), case["result"])
    finally:
        for field, value in before.items():
            setattr(model.config, field, value)


def _called(pipe: Any, case: dict[str, Any]) -> Any:
    call = dict(case.get("call", {}))
    if "generation_config" in call:
        call["generation_config"] = gpt2x.GenerationConfig(**call["generation_config"])
    inputs = [case["inputs"]] if "inputs" in case else []
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning)  # of options' old names
        if not case.get("stream"):
            return pipe(*inputs, **call)
        answers = pipe((value for value in inputs[0]), **call)
        assert isinstance(answers, Iterator)
        return list(answers)


def check_equal(found: Any, expected: Any) -> None:
    """Assert that two answers have the same form and strings, and nearly the same numbers."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            check_equal(found[key], value)
    elif isinstance(expected, list):
        assert isinstance(found, list)
        assert len(found) == len(expected)
        for item, value in zip(found, expected, strict=True):
            check_equal(item, value)
    elif isinstance(expected, float):
        assert isinstance(found, float)
        np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)
    else:
        assert found == expected
        assert type(found) is type(expected)


def check_sampling(framework: str, pipelines: dict[str, Any]) -> None:
    """Assert that a seed repeats samples, and that they are the same in batches and one by one."""
    task = "text-generation"
    if task not in pipelines:
        pipelines[task] = make(task, framework)
    pipe, texts = pipelines[task], ["The cat", "A dog and its owner", ""]
    options = {"max_new_tokens": 6, "num_return_sequences": 2, "return_tensors": True}
    alone = pipe(texts, seed=5, **options)
    assert pipe(texts, seed=5, batch_size=3, **options) == alone
    assert pipe(texts[0], seed=5, **options) == alone[0]
    assert pipe(texts, seed=6, **options) != alone
    gpt2x.set_seed(1)
    drawn = pipe(texts[1], **options)
    assert pipe(texts[1], **options) != drawn
    gpt2x.set_seed(1)
    assert pipe(texts[1], **options) == drawn
