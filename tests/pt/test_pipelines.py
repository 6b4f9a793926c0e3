"""Pipelines of PyTorch models return what transformers 4.57.6 returns, within 1e-4."""

from __future__ import annotations

import pytest
import torch

from gpt2x import GPT2Tokenizer, pipeline
from gpt2x.pipelines import TASKS, FeatureExtractionPipeline
from support.golden_data import GOLDEN
from support.pipelines import (
    READING,
    check_case,
    check_equal,
    check_sampling,
    folder,
    make,
    names,
    tokenizer,
)


def pipe_model(task: str):
    """The golden model of a task."""
    return make(task, "pt").model


@pytest.fixture(scope="module")
def pipelines() -> dict:
    """Pipelines by their tasks, made once."""
    return {}


@pytest.mark.parametrize("name", names("text-generation"))
def test_text_generation(name: str, pipelines: dict):
    check_case("text-generation", name, "pt", pipelines)


@pytest.mark.parametrize(("task", "name"), READING)
def test_reading(task: str, name: str, pipelines: dict):
    check_case(task, name, "pt", pipelines)


def test_sampling_repeats_whatever_the_batch(pipelines: dict):
    check_sampling("pt", pipelines)


# --- what needs no golden answer, in one framework ---


def test_the_embedded_model_is_the_default():
    pipe = pipeline("text-generation", backend="pt")
    assert pipe.task == "text-generation"
    assert pipe.framework == "pt"
    assert pipe.model.dtype == torch.float32
    assert pipe.generation_config.top_p == 0.95  # of the model
    assert pipe.generation_config.max_new_tokens == 256
    (answer,) = pipe("To be", max_new_tokens=3)
    assert answer["generated_text"].startswith("To be")


def test_a_task_is_that_of_the_head():
    for task in TASKS:
        pipe = pipeline(model=folder(TASKS[task].name), tokenizer=tokenizer(), framework="pt")
        assert type(pipe) is TASKS[task]
        again = pipeline(model=pipe.model, tokenizer=pipe.tokenizer)
        assert type(again) is TASKS[task]
        assert again.model is pipe.model
    assert pipeline("ner", pipe_model("token-classification"), tokenizer=tokenizer()).task == "ner"


def test_the_dtype_can_be_asked_for_in_each_way():
    for options in (
        {"dtype": "bfloat16"},
        {"torch_dtype": torch.bfloat16},
        {"model_kwargs": {"torch_dtype": "bfloat16"}},
        {"model_kwargs": {"dtype": torch.bfloat16}},
    ):
        pipe = make("text-classification", "pt", **options)
        assert pipe.model.dtype == torch.bfloat16
        assert isinstance(pipe("A cat")[0]["score"], float)
    assert make("text-classification", "pt").model.dtype == torch.float32


def test_a_model_without_the_head_is_refused():
    for task in ("text-classification", "ner", "question-answering"):
        with pytest.raises(ValueError, match=r"GPT2LMHeadModel has no head for .*; that needs a"):
            pipeline(task, pipe_model("text-generation"), tokenizer=tokenizer())
    with pytest.raises(ValueError, match="needs a GPT2LMHeadModel or GPT2DoubleHeadsModel"):
        pipeline("text-generation", pipe_model("feature-extraction"), tokenizer=tokenizer())


def test_a_named_model_without_the_head_gets_a_new_one():
    with pytest.warns(UserWarning, match="score.weight"):
        pipe = pipeline("text-classification", folder("text-generation"), tokenizer=tokenizer())
    assert pipe("A")[0].keys() == {"label", "score"}


def test_another_framework_than_the_models_is_refused():
    with pytest.raises(ValueError, match="framework is 'tf', but the model is of PyTorch"):
        pipeline(
            "text-generation", pipe_model("text-generation"), None, tokenizer(), framework="tf"
        )


def test_features_as_tensors_and_of_a_batch_have_no_padding():
    pipe = make("feature-extraction", "pt")
    texts = ["The cat", "A dog and its owner", "B"]
    alone = [pipe(text, return_tensors=True) for text in texts]
    assert all(isinstance(features, torch.Tensor) for features in alone)
    for batch_size in (2, 3):
        for found, features in zip(pipe(texts, batch_size=batch_size), alone, strict=True):
            torch.testing.assert_close(torch.tensor(found), features)
    logits = FeatureExtractionPipeline(pipe_model("text-classification"), tokenizer())("The cat")
    assert torch.tensor(logits).shape == (1, 3)


@pytest.mark.parametrize("task", ["text-classification", "token-classification", "text-generation"])
def test_batches_need_no_pad_token(task: str):
    tokens = tokenizer()
    tokens.pad_token = None
    pipe = make(task, "pt", tokens)
    texts = ["The cat", "A dog and its owner", "B"]
    options = {"do_sample": False, "max_new_tokens": 4} if task == "text-generation" else {}
    check_equal(pipe(texts, batch_size=3, **options), pipe(texts, **options))


def test_an_open_length_ends_with_the_models_positions():
    pipe = make("text-generation", "pt", do_sample=False)
    limit = pipe.model.config.n_positions
    texts = ["The cat sat on the mat." * 10, "A"]
    answers = pipe(texts, return_tensors=True, batch_size=2, eos_token_id=None)
    assert [len(answer[0]["generated_token_ids"]) for answer in answers] == [limit, limit]
    with pytest.raises(ValueError, match="n_positions"):
        pipe(texts[0], max_new_tokens=100)


def test_a_length_in_all_replaces_the_default():
    pipe = make("text-generation", "pt", do_sample=False)
    (answer,) = pipe("The cat", max_length=9, return_tensors=True, eos_token_id=None)
    assert len(answer["generated_token_ids"]) == 9
    prefixed = pipe("The cat", max_length=9, prefix="A ", return_tensors=True, eos_token_id=None)
    n_prefix = len(tokenizer()("A ")["input_ids"])
    assert len(prefixed[0]["generated_token_ids"]) == 9 + n_prefix


@pytest.mark.parametrize(
    ("task", "inputs", "options", "message"),
    [
        ("text-generation", "A", {"max_new_tokns": 3}, "Did you mean 'max_new_tokens'"),
        ("text-generation", "A", {"handle_long_generation": "cut"}, "allowed are 'hole'"),
        (
            "text-generation",
            "A",
            {"return_text": True, "return_tensors": True},
            "return_tensors and return_text exclude each other",
        ),
        ("text-generation", [{"role": "user"}], {}, 'needs a "role" and a "content"'),
        ("text-generation", [3], {}, "A prompt is a text, or a chat"),
        ("text-generation", "A", {"generation_config": {}}, "must be a GenerationConfig; got dict"),
        (
            "text-generation",
            "A",
            {"handle_long_generation": "hole", "max_new_tokens": 50},
            "cannot make room for 50 new tokens",
        ),
        ("text-classification", [["A", "B"]], {}, "dicts of text and text_pair"),
        ("text-classification", "", {}, "cannot read a text without tokens"),
        ("text-classification", "A", {"top_k": 0}, "top_k is 0"),
        ("text-classification", "A", {"function_to_apply": "tanh"}, "allowed are 'sigmoid'"),
        ("token-classification", "A", {"aggregation_strategy": "mean"}, "allowed are 'none'"),
        ("token-classification", "A", {"stride": 40}, "stride is 40; it must be less"),
        ("token-classification", "A", {"is_split_into_words": True}, "takes lists of words"),
        ("token-classification", ["A", ["B"]], {}, "takes texts, or lists of words"),
        ("question-answering", {"question": "A"}, {}, "dicts of these two"),
        ("question-answering", {"question": "", "context": "A"}, {}, "question must be a text"),
        ("question-answering", "A", {}, "dicts of these two"),
        ("feature-extraction", "A", {"pooling": "mean"}, "unknown argument 'pooling'"),
    ],
)
def test_what_cannot_be_used_is_refused(task, inputs, options, message, pipelines):
    if task not in pipelines:
        pipelines[task] = make(task, "pt")
    with pytest.raises(ValueError, match=message):
        pipelines[task](inputs, **options)


def test_tasks_that_need_characters_refuse_a_slow_tokenizer():
    slow = GPT2Tokenizer.from_pretrained(GOLDEN / "tokenizer/tiny_slow_4")
    pipe = TASKS["ner"](pipe_model("token-classification"), slow)
    assert pipe("A cat")[0]["start"] is None
    with pytest.raises(ValueError, match="only GPT2TokenizerFast knows"):
        pipe("A cat", aggregation_strategy="max")
    with pytest.raises(ValueError, match="only GPT2TokenizerFast knows"):
        TASKS["question-answering"](pipe_model("question-answering"), slow)


def test_a_pipeline_is_saved_and_loaded(tmp_path):
    pipe = make("text-classification", "pt")
    pipe.save_pretrained(tmp_path / "model")
    again = pipeline("sentiment-analysis", tmp_path / "model")
    assert again("The cat") == pipe("The cat")


def test_a_context_longer_than_a_row_is_read_in_rows_of_any_batch():
    pipe = make("question-answering", "pt")
    example = {"question": "Who?", "context": "Anna met Bob in New York. " * 12}
    options = {"max_seq_len": 30, "doc_stride": 8, "top_k": 4}
    check_equal(pipe(example, batch_size=3, **options), pipe(example, **options))


def test_on_the_left_the_context_comes_first():
    tokens = tokenizer()
    tokens.padding_side = "left"
    pipe = make("question-answering", "pt", tokens)
    context = "Anna met Bob in New York."
    for answer in pipe(question="Who?", context=context, top_k=5):
        assert context[answer["start"] : answer["end"]] == answer["answer"]
