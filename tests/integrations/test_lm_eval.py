"""lm-eval measures our models as it measures GPT-2 of transformers, on tasks of local files."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("lm_eval")
pytest.importorskip("transformers")
pytest.importorskip("torch")

import lm_eval
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from gpt2x import EMBEDDED_MODEL, evaluation
from gpt2x.corpus import read_records
from gpt2x.errors import InvalidInputError
from gpt2x.integrations.lm_eval import GPT2XLM

VERSE = "In the beginning God created the heaven and the earth."
ROWS = [
    {"ctx": "In the beginning God", "endings": ["created the heaven", "slept"], "label": 0},
    {"ctx": "To be, or not to", "endings": ["xylophone players be", "be"], "label": 1},
    {"ctx": "", "endings": ["And the king said", "zq"], "label": 0},
]
TASKS = {
    "choices": """
output_type: multiple_choice
doc_to_text: "{{ctx}}"
doc_to_choice: "{{endings}}"
doc_to_target: label
metric_list: [{metric: acc}, {metric: acc_norm}]
""",
    "words": """
output_type: loglikelihood
doc_to_text: "{{ctx}}"
doc_to_target: "{{' ' + endings[0]}}"
metric_list: [{metric: perplexity}, {metric: acc}]
""",
    "rolling": """
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{long}}"
metric_list: [{metric: word_perplexity}, {metric: bits_per_byte}]
""",
    "writing": """
output_type: generate_until
doc_to_text: "{{ctx}} and"
doc_to_target: "{{endings[0]}}"
generation_kwargs: {until: ["e", "\\n"], max_gen_toks: 8, do_sample: false}
metric_list: [{metric: exact_match}]
""",
}


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks")
    rows = [row | {"long": (VERSE + " ") * (1 + 20 * number)} for number, row in enumerate(ROWS)]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), "utf-8")
    for name, task in TASKS.items():
        data = f"task: local_{name}\ndataset_path: json\ntest_split: test\n"
        data += f"dataset_kwargs: {{data_files: {{test: {folder / 'rows.jsonl'}}}}}\n"
        (folder / f"{name}.yaml").write_text(data + task, "utf-8")
    return folder


def evaluated(model, tasks, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tasks / "cache"))
    found = lm_eval.simple_evaluate(
        model=model,
        tasks=[f"local_{name}" for name in TASKS],
        task_manager=TaskManager(include_path=str(tasks), include_defaults=False),
        bootstrap_iters=0,
        log_samples=True,
    )
    written = [sample["resps"] for sample in found["samples"]["local_writing"]]
    return found["results"], written


@pytest.mark.filterwarnings("default")  # of lm-eval and the libraries that it brings
def test_the_numbers_are_those_of_transformers(tasks, monkeypatch):
    ours, texts = evaluated(GPT2XLM(batch_size=2), tasks, monkeypatch)
    theirs = HFLM(str(EMBEDDED_MODEL), device="cpu", dtype="float32", batch_size=2)
    expected, expected_texts = evaluated(theirs, tasks, monkeypatch)
    for task, results in expected.items():
        for name, value in results.items():
            if isinstance(value, float):
                assert ours[task][name] == pytest.approx(value, rel=1e-4), (task, name)
    assert texts == expected_texts
    assert all(texts)

    model = GPT2XLM()
    records = read_records([tasks / "rows.jsonl"])
    own = evaluation.multiple_choice(model.model, model.tokenizer, records)
    assert own["accuracy"] == ours["local_choices"]["acc,none"]


def test_bad_arguments():
    with pytest.raises(InvalidInputError, match="batch_size is 'x'"):
        GPT2XLM(batch_size="x")
    with pytest.raises(InvalidInputError, match="the model has 256 positions"):
        GPT2XLM(max_length=257)
