"""Data of a tagger: words, their tokens and labels."""

import numpy as np
import pytest

from gpt2x.checkpoint.source import open_source
from gpt2x.errors import DataError
from gpt2x.models.checks import IGNORE_INDEX
from gpt2x.train.arguments import TagArguments
from gpt2x.train.tagging import TaggingJob
from support.labelled import tagged, write_jsonl

pytest.importorskip("seqeval")


@pytest.fixture
def start(tmp_path, model):
    """A function that starts a run on records: its job, config, data, and errors."""

    def start(rows, **options):
        train = rows if isinstance(rows, str) else write_jsonl(tmp_path / "train.jsonl", rows)
        options = {"model_name_or_path": model, "train_file": train, **options}
        bad = []
        arguments = TagArguments(output_dir=str(tmp_path / "out"), **options)
        job = TaggingJob(arguments, "pt", None, bad.append)
        job.start(tmp_path / "start", None)
        with open_source(tmp_path / "start") as source:
            config = source.config
        return job, config, job.data(config), bad

    return start


def test_the_first_token_of_a_word_has_its_label(start):
    job, config, data, _ = start(tagged())
    assert config.id2label == {0: "B-LOC", 1: "B-PER", 2: "I-LOC", 3: "O"}
    assert config.architectures == ["GPT2ForTokenClassification"]
    batch = data.train.rows(np.array([0]))
    words = tagged()[0]["tokens"]
    ids, labels = [], []
    for word, label in zip(words, tagged()[0]["ner_tags"], strict=True):
        pieces = job.tokenizer(f" {word}", add_prefix_space=False)["input_ids"]
        ids += pieces
        labels += [config.label2id[label]] + [IGNORE_INDEX] * (len(pieces) - 1)
    assert len(ids) > len(words)
    assert batch["input_ids"][0, : len(ids)].tolist() == ids
    assert batch["labels"][0].tolist() == labels + [IGNORE_INDEX] * (16 - len(ids))
    assert job.task.labels(batch).tolist() == [len(words)]
    assert data.counts == {"texts": 4, "words": 16, "truncated_words": 0}


def test_all_tokens_of_a_word_can_have_its_label(start):
    job, _, data, _ = start(tagged(), label_all_tokens=True)
    batch = data.train.rows(np.arange(4))
    np.testing.assert_array_equal(batch["labels"] != IGNORE_INDEX, batch["attention_mask"] == 1)
    # Words, not tokens, are measured.
    logits = np.eye(4, dtype=np.float32)[np.where(batch["labels"] < 0, 0, batch["labels"])]
    scores = job.task.scores(data.train.examples, [*logits])
    assert (scores["words"], scores["accuracy"], scores["f1"]) == (16, 1.0, 1.0)


def test_csv_and_numbers(start, tmp_path):
    path = tmp_path / "train.csv"
    path.write_text('tokens,tags\nTom sings,1 0\n"[""in"", ""Rome""]","[0, 10]"\n', "utf-8")
    job, config, data, bad = start(str(path))
    assert config.label2id == {"0": 0, "1": 1, "10": 2}
    assert job.task.labels(data.train.rows(np.array([0, 1]))).tolist() == [2, 2]
    assert not bad


def test_words_that_are_cut_off_are_counted_and_have_no_prediction(start, tmp_path):
    path = write_jsonl(tmp_path / "test.jsonl", [{"tokens": ["Tom", "sang", "in", "Rome"]}])
    validation = write_jsonl(tmp_path / "validation.jsonl", tagged())
    options = {"max_seq_length": 3, "test_file": path, "validation_file": validation}
    job, config, data, _ = start(tagged(), **options)
    assert data.counts["truncated_words"] > 0
    (example,) = data.prediction.rows.examples
    logits = np.zeros((3, config.num_labels), np.float32)
    logits[:, config.label2id["O"]] = 1
    (line,) = data.prediction.lines([logits])
    read = sum(place is not None for place in example.words)
    assert 0 < read < 4
    assert line == {
        "tokens": ["Tom", "sang", "in", "Rome"],
        "predictions": ["O"] * read + [None] * (4 - read),
    }
    metrics = job.task.metrics(0.5, [({}, np.stack([logits] * 4))])
    assert metrics["eval_loss"] == 0.5
    assert metrics["eval_words"] + metrics["eval_truncated_words"] == 16


def test_bad_records_are_named(start, tmp_path):
    bad = [
        {"tokens": ["a", "b"], "ner_tags": ["O"]},
        {"tokens": ["a", ""], "ner_tags": ["O", "O"]},
        {"tokens": ["a", 5], "ner_tags": ["O", "O"]},
        {"tokens": [], "ner_tags": []},
        {"tokens": ["a"], "ner_tags": [None]},
        {"tokens": ["a"], "ner_tags": 3},
        {"tokens": ["a"]},
    ]
    *_, errors = start([*tagged(), *bad])
    found = {int(str(e).split("line ")[1].split(":")[0]): str(e).split(": ", 1)[1] for e in errors}
    assert found == {
        5: "has 2 words, but 1 labels.",
        6: "'tokens' has an empty word, number 2.",
        7: "'tokens[1]' is 5, not a string.",
        8: "'tokens' has no words.",
        9: "the labels are [None], not a list of texts or numbers.",
        10: "the labels are 3, not a list of texts or numbers.",
        11: "has no column 'ner_tags', but 'tokens'.",
    }


def test_a_label_alone_is_nothing_to_learn(start):
    with pytest.raises(DataError, match=r"or one alone \(O\); a tagger needs"):
        start([{"tokens": ["a", "b"], "ner_tags": ["O", "O"]}])
