"""Data and starting model of a classifier; none of it needs a framework."""

import json
import shutil

import numpy as np
import pytest

from gpt2x import GPT2TokenizerFast
from gpt2x.checkpoint.conversion import convert
from gpt2x.checkpoint.source import open_source
from gpt2x.errors import DataError, InvalidInputError
from gpt2x.train.arguments import ClassifyArguments
from gpt2x.train.classification import ClassificationJob
from gpt2x.train.job import Job
from gpt2x.weights.table import Head
from support.labelled import TEXTS, classified, tiny_model, write_jsonl

pytest.importorskip("sklearn")


@pytest.fixture
def start(tmp_path, model):
    """A function that starts a run on records: its job, config, data, and errors."""

    def start(rows, **options):
        train = rows if isinstance(rows, str) else write_jsonl(tmp_path / "train.jsonl", rows)
        options = {"model_name_or_path": model, "train_file": train, **options}
        arguments = ClassifyArguments(output_dir=str(tmp_path / "out"), **options)
        bad = []
        job: Job = ClassificationJob(arguments, "pt", None, bad.append)
        folder = tmp_path / f"start{len([*tmp_path.iterdir()])}"
        job.start(folder, None)
        with open_source(folder) as source:
            config = source.config
            tensors = {name: tensor.read() for name, tensor in source.checkpoint.items()}
        return job, config, job.data(config), tensors, bad

    return start


def targets(data):
    return data.train.rows(np.arange(len(data.train)))["labels"]


def test_names_of_labels_and_the_padding_token_go_to_the_config(start, tmp_path):
    job, config, data, _, bad = start(classified())
    assert config.id2label == {0: "bad", 1: "good"}
    assert config.problem_type == "single_label_classification"
    assert config.architectures == ["GPT2ForSequenceClassification"]
    assert config.pad_token_id == job.tokenizer.eos_token_id
    assert targets(data).tolist() == [1] * 4 + [0] * 4
    job.task.save_tokenizer(tmp_path / "tokenizer")
    saved = GPT2TokenizerFast.from_pretrained(tmp_path / "tokenizer")
    assert saved.pad_token == saved.eos_token
    assert data.counts == {"texts": 8, "truncated_texts": 0}
    assert not bad


def test_whole_numbers_are_labels_in_the_order_of_their_values(start):
    _, config, data, _, _ = start(classified({"good": 10, "bad": 9}))
    assert config.label2id == {"9": 0, "10": 1}
    assert targets(data).tolist() == [1] * 4 + [0] * 4


def test_other_numbers_are_a_regression(start, tmp_path):
    path = tmp_path / "train.csv"
    path.write_text("text,label\na fine day,0.5\na foul day,-1\nno day,\n", "utf-8")
    _, config, data, _, bad = start(str(path))
    assert (config.problem_type, config.num_labels) == ("regression", 1)
    assert targets(data).tolist() == [0.5, -1.0]
    assert [str(error) for error in bad] == [f"{path}, line 4: 'label' is empty."]


def test_the_format_of_a_file_can_be_given(start, tmp_path):
    path = tmp_path / "train.data"
    path.write_text("text\tlabel\na\tx\nb\ty\n", "utf-8")
    _, config, *_ = start(str(path), file_format="tsv")
    assert config.label2id == {"x": 0, "y": 1}


def test_lists_are_several_labels(start):
    rows = [{"text": "a", "labels": ["x", "y"]}, {"text": "b", "labels": []}]
    _, config, data, _, _ = start(rows)
    assert config.problem_type == "multi_label_classification"
    assert targets(data).tolist() == [[1.0, 1.0], [0.0, 0.0]]


def test_several_labels_in_a_cell_of_csv(start, tmp_path):
    path = tmp_path / "train.csv"
    path.write_text('text,label\na,"x, y"\nb,\nc,"[""y""]"\n', "utf-8")
    _, config, data, _, bad = start(str(path), problem_type="multi_label_classification")
    assert config.label2id == {"x": 0, "y": 1}
    assert targets(data).tolist() == [[1.0, 1.0], [0.0, 0.0], [0.0, 1.0]]
    assert not bad


def test_the_problem_type_can_be_given(start):
    _, config, data, _, _ = start(classified({"good": 1, "bad": 0}), problem_type="regression")
    assert config.problem_type == "regression"
    assert targets(data).tolist() == [1.0] * 4 + [0.0] * 4


def test_pairs_and_long_texts(start):
    rows = [
        {"a": "To be, or not to be", "b": "that is the question", "label": "x"},
        {"a": "word " * 50, "b": "another " * 50, "label": "y"},
    ]
    options = {"text_column": "a", "text_pair_column": "b", "max_seq_length": 24}
    job, _, data, _, _ = start(rows, **options)
    batch = data.train.rows(np.array([0, 1]))
    encode = job.tokenizer
    expected = encode(rows[0]["a"], rows[0]["b"])["input_ids"]
    assert batch["input_ids"][0, : len(expected)].tolist() == expected
    cut = encode(rows[1]["a"], rows[1]["b"], truncation=True, max_length=24)["input_ids"]
    assert batch["input_ids"][1].tolist() == cut
    assert data.counts["truncated_texts"] == 1


def test_the_body_is_the_models_and_the_head_is_new_but_drawn_from_the_seed(start, model):
    *_, tensors, _ = start(classified())
    with open_source(model) as source:
        for name, tensor in source.checkpoint.items():
            np.testing.assert_array_equal(tensors.pop(name), tensor.read())
    assert [*tensors] == ["score.weight"]
    assert tensors["score.weight"].std() == pytest.approx(0.02, rel=0.5)
    *_, again, _ = start(classified())
    np.testing.assert_array_equal(again["score.weight"], tensors["score.weight"])
    *_, other, _ = start(classified(), seed=7)
    assert (other["score.weight"] != tensors["score.weight"]).any()


@pytest.mark.parametrize(("labels", "keeps"), [(2, True), (3, False)])
def test_a_head_of_as_many_labels_is_kept(start, tmp_path, labels, keeps):
    names = dict(enumerate(["good", "bad", "none"][:labels]))
    folder = tiny_model(tmp_path / "head", Head.SEQUENCE_CLASSIFICATION, id2label=names)
    _, config, _, tensors, _ = start(classified(), model_name_or_path=folder)
    with open_source(folder) as source:
        before = source.checkpoint["score.weight"].read()
    assert (tensors["score.weight"].shape == before.shape) is keeps
    if keeps:
        np.testing.assert_array_equal(tensors["score.weight"], before)
        assert config.id2label == {0: "good", 1: "bad"}


def test_any_checkpoint_can_be_started_from(start, model, tmp_path):
    convert(model, tmp_path / "model.gguf", to="gguf", dtype="float32")
    *_, tensors, _ = start(classified(), model_name_or_path=str(tmp_path / "model.gguf"))
    with open_source(model) as source:
        np.testing.assert_array_equal(tensors["wte.weight"], source.checkpoint["wte.weight"].read())


def test_bad_records_are_named(start, tmp_path):
    bad = [{"text": "", "label": "good"}, {"label": "good"}, {"text": "x", "label": {"a": 1}}]
    *_, errors = start([*classified(), *bad])
    path = tmp_path / "train.jsonl"
    assert [str(error) for error in errors] == [
        f"{path}, line 9: has no text.",
        f"{path}, line 10: has no column 'text', but 'label'.",
        f"{path}, line 11: the label is {{'a': 1}}, not a text or number.",
    ]


def test_a_label_of_the_validation_data_alone_is_a_bad_record(start, tmp_path):
    rows = [{"text": "x", "label": "good"}, {"text": "y", "label": "ugly"}]
    path = write_jsonl(tmp_path / "validation.jsonl", rows)
    _, _, data, _, (error,) = start(classified(), validation_file=path)
    assert str(error).startswith(f"{path}, line 2: the label 'ugly' is not one of")
    assert len(data.validation) == 1


def test_rows_to_predict_need_no_label(start, tmp_path):
    rows = [{"text": "x"}, {"text": "y", "label": "ugly"}, {"text": "z", "label": "good"}]
    path = write_jsonl(tmp_path / "test.jsonl", rows)
    _, _, data, _, bad = start(classified(), test_file=path)
    logits = [np.array([0.0, 1.0], np.float32)] * 3
    lines = data.prediction.lines(logits)
    assert data.prediction.scores(logits) == {}
    assert [{k: v for k, v in line.items() if k != "scores"} for line in lines] == [
        {**row, "prediction": "good"} for row in rows
    ]
    assert lines[0]["scores"] == pytest.approx({"bad": 0.26894, "good": 0.73106}, abs=1e-4)
    assert data.prediction.rows.rows(np.arange(3))["labels"].shape == (3,)
    assert not bad
    json.dumps(lines)


def test_rows_to_predict_are_scored_if_all_have_labels(start, tmp_path):
    rows = [{"text": "y", "label": "bad"}, {"text": "z", "label": "good"}]
    path = write_jsonl(tmp_path / "test.jsonl", rows)
    _, _, data, _, _ = start(classified(), test_file=path)
    scores = data.prediction.scores([np.array([0.0, 1.0], np.float32)] * 2)
    assert scores == pytest.approx({"test_accuracy": 0.5, "test_f1": 1 / 3})
    # The validation data is scored by the evaluation.
    _, _, data, _, _ = start(classified(), validation_file=path)
    assert data.prediction.scores([np.array([0.0, 1.0], np.float32)] * 2) == {}


def test_rows_without_a_column_of_labels_have_none_rather_than_no_labels(start, tmp_path):
    path = tmp_path / "train.csv"
    path.write_text('text,label\na,"x, y"\nb,\n', "utf-8")
    test = write_jsonl(tmp_path / "test.jsonl", [{"text": "a"}])
    options = {"problem_type": "multi_label_classification", "test_file": test}
    _, _, data, _, _ = start(str(path), **options)
    assert not data.prediction.rows.examples[0].is_labelled
    assert "label" not in data.prediction.rows.examples[0].shown


def test_one_label_alone_is_refused(start):
    with pytest.raises(DataError, match=r"one alone \(same\)"):
        start([{"text": text, "label": "same"} for text in TEXTS["good"]])


def test_data_without_a_usable_record_is_refused(start):
    with pytest.raises(DataError, match=r"train\.jsonl: has no record that can be used"):
        start([{"words": "a"}])


def test_rows_longer_than_the_model_reads_are_refused(start):
    with pytest.raises(InvalidInputError, match=r"max_seq_length is 65; .* at most 64 tokens"):
        start(classified(), max_seq_length=65)


def test_an_unknown_problem_type_is_refused():
    with pytest.raises(InvalidInputError, match="problem_type is 'many'; allowed are"):
        ClassifyArguments(output_dir="x", problem_type="many")


def test_a_tokenizer_without_an_end_of_text_is_refused(start, model, tmp_path):
    folder = shutil.copytree(model, tmp_path / "tokenizer")
    (folder / "special_tokens_map.json").unlink()
    settings = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "eos_token": None}))
    with pytest.raises(InvalidInputError, match="neither a pad_token nor an eos_token"):
        start(classified(), tokenizer_name=str(folder))
