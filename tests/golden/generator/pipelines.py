"""What transformers' pipelines return, in PyTorch, for the tiny models of ``pipelines/``."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig, GPT2TokenizerFast, pipeline

from .chat import TEMPLATES
from .files import write_json
from .models import load_model

SHORT = "The cat sat on the mat."
LONG = "A dog and its owner walked along the river until it was dark."
NAMES = "Anna Schmidt met Mr. Brown-Jones in New York, and then in Paris."
WORDS = ["Anna", "Schmidt", "lives", "in", "New", "York-City", "."]
QUESTION = "Where did the owner walk?"
GREEDY = {"do_sample": False, "max_new_tokens": 6}
SYSTEM = {"role": "system", "content": "Be brief."}
USER = {"role": "user", "content": "The cat sat on the mat. "}
CHAT = [SYSTEM, USER]
ANSWERED = [*CHAT, {"role": "assistant", "content": "It did"}]

# By task and name. `call` holds the options of the call, beside its `inputs`, which a case with
# `stream` gives from a generator; `make` those of the pipeline, `load` those with which the
# tokenizer is loaded, `tokenizer` and `config` attributes that are set on it and on the model's
# config. A `generation_config` is given by its fields.
CASES: dict[str, dict[str, dict[str, Any]]] = {
    "text-generation": {
        "text": {"inputs": SHORT, "call": GREEDY},
        "new_text": {"inputs": SHORT, "call": {**GREEDY, "return_full_text": False}},
        "ids": {"inputs": SHORT, "call": {**GREEDY, "return_tensors": True}},
        "return_text": {"inputs": SHORT, "call": {**GREEDY, "return_text": True}},
        "texts": {"inputs": [SHORT, LONG], "call": GREEDY},
        "one_text_in_a_list": {"inputs": [SHORT], "call": GREEDY},
        "batch": {
            "inputs": [SHORT, LONG, "A"],
            "call": {**GREEDY, "batch_size": 2},
            "tokenizer": {"padding_side": "left"},
        },
        "stream": {"inputs": [SHORT, LONG], "call": GREEDY, "stream": True},
        "made_with_options": {"inputs": SHORT, "make": {**GREEDY, "return_full_text": False}},
        "overridden": {
            "inputs": SHORT,
            "make": {**GREEDY, "return_full_text": False},
            "call": {"max_new_tokens": 3, "return_tensors": True},
        },
        "beams": {
            "inputs": [SHORT, LONG],
            "call": {**GREEDY, "num_beams": 3, "num_return_sequences": 2},
        },
        "repetition": {"inputs": SHORT, "call": {**GREEDY, "repetition_penalty": 1.4}},
        "generation_config": {
            "inputs": SHORT,
            "call": {"generation_config": {"max_new_tokens": 4, "num_beams": 2}},
        },
        "max_length": {"inputs": SHORT, "make": {"do_sample": False, "max_length": 22}},
        "stop_sequence": {"inputs": SHORT, "call": {**GREEDY, "stop_sequence": " w"}},
        "prefix": {"inputs": SHORT, "call": {**GREEDY, "prefix": "He said: "}},
        "hole": {
            "inputs": LONG * 3,
            "call": {**GREEDY, "handle_long_generation": "hole"},
        },
        "truncation": {
            "inputs": LONG,
            "call": {
                **GREEDY,
                "truncation": True,
                "tokenizer_encode_kwargs": {"max_length": 9},
            },
        },
        "special_tokens": {
            "inputs": "One<|endoftext|>two<sep>",
            "call": {**GREEDY, "skip_special_tokens": False},
        },
        "special_tokens_skipped": {"inputs": "One<|endoftext|>two<sep>", "call": GREEDY},
        "spaces": {"inputs": "Is it n't ? No .", "call": GREEDY},
        "spaces_kept": {
            "inputs": "Is it n't ? No .",
            "call": {**GREEDY, "clean_up_tokenization_spaces": False},
        },
        "empty": {"inputs": "", "call": GREEDY},
        "scores": {
            "inputs": "A",
            "call": {
                "do_sample": False,
                "max_new_tokens": 1,
                "return_dict_in_generate": True,
                "output_scores": True,
            },
        },
        "beam_scores": {
            "inputs": "A",
            "call": {
                **GREEDY,
                "num_beams": 2,
                "return_dict_in_generate": True,
                "output_scores": True,
            },
        },
        "chat": {"inputs": CHAT, "call": GREEDY},
        "chats": {"inputs": [CHAT, ANSWERED], "call": GREEDY},
        "chat_stream": {"inputs": [CHAT, ANSWERED], "call": GREEDY, "stream": True},
        "chat_new_text": {"inputs": CHAT, "call": {**GREEDY, "return_full_text": False}},
        "chat_new_message": {
            "inputs": ANSWERED,
            "call": {**GREEDY, "continue_final_message": False},
        },
        "chat_continued": {"inputs": CHAT, "call": {**GREEDY, "continue_final_message": True}},
    },
    "text-classification": {
        "text": {"inputs": SHORT},
        "texts": {"inputs": [SHORT, LONG]},
        "batch": {"inputs": [SHORT, LONG, "A"], "call": {"batch_size": 2}},
        "stream": {"inputs": [SHORT, LONG], "stream": True},
        "best": {"inputs": SHORT, "call": {"top_k": 1}},
        "two": {"inputs": SHORT, "call": {"top_k": 2}},
        "all": {"inputs": [SHORT, LONG], "call": {"top_k": None}},
        "made_with_all": {"inputs": SHORT, "make": {"top_k": None}},
        "made_with_one": {"inputs": SHORT, "make": {"top_k": 1}},
        "all_scores": {"inputs": SHORT, "call": {"return_all_scores": True}},
        "not_all_scores": {"inputs": [SHORT], "call": {"return_all_scores": False}},
        "sigmoid": {"inputs": SHORT, "call": {"function_to_apply": "sigmoid", "top_k": None}},
        "no_function": {"inputs": SHORT, "call": {"function_to_apply": "none", "top_k": None}},
        "made_with_function": {"inputs": SHORT, "make": {"function_to_apply": "none"}},
        "pair": {"inputs": {"text": SHORT, "text_pair": LONG}},
        "pairs": {"inputs": [{"text": SHORT, "text_pair": LONG}, {"text": LONG}]},
        "nested_pair": {"inputs": [[[SHORT, LONG]]]},
        "truncation": {"inputs": LONG, "call": {"truncation": True, "max_length": 5}},
        "several_labels": {
            "inputs": SHORT,
            "call": {"top_k": None},
            "config": {"problem_type": "multi_label_classification"},
        },
        "regression": {"inputs": SHORT, "config": {"problem_type": "regression"}},
    },
    "token-classification": {
        "text": {"inputs": NAMES},
        "texts": {"inputs": [NAMES, SHORT]},
        "batch": {"inputs": [NAMES, SHORT, "A"], "call": {"batch_size": 2}},
        "stream": {"inputs": [NAMES, SHORT], "stream": True},
        **{
            strategy: {"inputs": NAMES, "call": {"aggregation_strategy": strategy}}
            for strategy in ("simple", "first", "average", "max")
        },
        "made_with_simple": {"inputs": NAMES, "make": {"aggregation_strategy": "simple"}},
        "every_label": {"inputs": NAMES, "call": {"ignore_labels": []}},
        "other_label": {"inputs": NAMES, "call": {"ignore_labels": ["B-PER", "O"]}},
        "groups_of_every_label": {
            "inputs": NAMES,
            "call": {"ignore_labels": [], "aggregation_strategy": "simple"},
        },
        "grouped_entities": {"inputs": NAMES, "call": {"grouped_entities": True}},
        "stride": {
            "inputs": NAMES + " " + LONG,
            "make": {"aggregation_strategy": "simple", "stride": 4},
            "tokenizer": {"model_max_length": 16},
        },
        "strides": {
            "inputs": [NAMES + " " + LONG, SHORT, LONG],
            "make": {"aggregation_strategy": "max", "stride": 3},
            "call": {"batch_size": 2},
            "tokenizer": {"model_max_length": 16},
        },
        "cut": {"inputs": NAMES, "tokenizer": {"model_max_length": 9}},
        "words": {
            "inputs": WORDS,
            "load": {"add_prefix_space": True},
            "call": {"is_split_into_words": True, "aggregation_strategy": "simple"},
        },
        "texts_in_words": {
            "inputs": [WORDS, ["Paris"]],
            "load": {"add_prefix_space": True},
            "call": {"is_split_into_words": True, "delimiter": "_"},
        },
        "special_tokens": {"inputs": "Anna<|endoftext|> met<sep> Bob"},
    },
    "question-answering": {
        "answer": {"call": {"question": QUESTION, "context": LONG}},
        "answers": {"call": {"question": QUESTION, "context": LONG, "top_k": 3}},
        "questions": {"call": {"question": [QUESTION, "Who?"], "context": LONG}},
        "contexts": {"call": {"question": [QUESTION, "Who?"], "context": [LONG, NAMES]}},
        "example": {"inputs": {"question": QUESTION, "context": LONG}},
        "one_example_in_a_list": {"inputs": [{"question": QUESTION, "context": LONG}]},
        "examples": {
            "inputs": [
                {"question": QUESTION, "context": LONG},
                {"question": "Who?", "context": NAMES},
            ],
            "call": {"batch_size": 2, "top_k": 2},
        },
        "stream": {
            "inputs": [
                {"question": QUESTION, "context": LONG},
                {"question": "Who?", "context": NAMES},
            ],
            "stream": True,
        },
        "impossible": {
            "call": {
                "question": QUESTION,
                "context": LONG,
                "handle_impossible_answer": True,
                "top_k": 4,
            },
        },
        "short_answer": {
            "call": {"question": QUESTION, "context": LONG, "max_answer_len": 2, "top_k": 2},
        },
        "tokens": {
            "call": {"question": QUESTION, "context": LONG, "align_to_words": False, "top_k": 3},
        },
        "windows": {
            "call": {
                "question": QUESTION,
                "context": f"{NAMES} {LONG} {SHORT}",
                "max_seq_len": 40,
                "doc_stride": 10,
                "top_k": 3,
            },
        },
        "made_with_options": {
            "call": {"question": QUESTION, "context": LONG},
            "make": {"top_k": 2, "max_answer_len": 3},
        },
    },
    "feature-extraction": {
        "text": {"inputs": "The cat"},
        "texts": {"inputs": ["The cat", "A"]},
        "truncation": {
            "inputs": LONG,
            "call": {"truncation": True},
            "tokenizer": {"model_max_length": 3},
        },
        "tokenizer_options": {
            "inputs": LONG,
            "call": {"tokenize_kwargs": {"truncation": True, "max_length": 2}},
        },
    },
}


def write_pipelines(out: Path) -> None:
    """The result of every case, by task and name."""
    results = {
        task: {name: {**case, "result": result(out, task, case)} for name, case in cases.items()}
        for task, cases in CASES.items()
    }
    write_json(out / "pipelines/cases.json", results)


def result(out: Path, task: str, case: dict[str, Any]) -> Any:
    """Make a pipeline for a case, and call it."""
    folder = out / "tokenizer/tiny_fast_4"
    tokenizer = GPT2TokenizerFast.from_pretrained(folder, **case.get("load", {}))
    tokenizer.chat_template = TEMPLATES["chatml"]
    model = load_model(out, f"pipelines/{task.replace('-', '_')}")
    for owner, name in ((tokenizer, "tokenizer"), (model.config, "config")):
        for attribute, value in case.get(name, {}).items():
            setattr(owner, attribute, value)
    call = dict(case.get("call", {}))
    if "generation_config" in call:
        call["generation_config"] = GenerationConfig(**call["generation_config"])
    inputs = (case["inputs"],) if "inputs" in case else ()
    if case.get("stream"):
        inputs = ((value for value in inputs[0]),)
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        answer = pipeline(task, model, tokenizer=tokenizer, **case.get("make", {}))(*inputs, **call)
    return plain(list(answer) if case.get("stream") else answer)


def plain(value: Any) -> Any:
    """The value with numbers of numpy as those of Python."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value.item() if isinstance(value, np.generic) else value
