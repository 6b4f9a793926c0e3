"""From the options of `gpt2x generate` to the arguments of a model's `generate`."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from typer.testing import CliRunner

from gpt2x import EMBEDDED_MODEL, GPT2Config, GPT2TokenizerFast, backends, cli
from gpt2x.cli._decoding import decoding_fields, grammar_arguments, word_fields
from gpt2x.errors import InvalidInputError
from gpt2x.generation import WatermarkDetector, WatermarkingConfig

PROMPT = "And the king said"

needs_a_framework = pytest.mark.skipif(not backends.installed(), reason="no framework is installed")


def generate(*arguments: str):
    return CliRunner().invoke(cli.app, ["generate", *arguments])


def lines(*arguments: str) -> list[dict]:
    """Run `gpt2x generate` with --json, and parse what it prints."""
    result = generate(*arguments, "--json")
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    return [json.loads(line) for line in result.stdout.splitlines()]


def tokenizer() -> GPT2TokenizerFast:
    return GPT2TokenizerFast.from_pretrained(EMBEDDED_MODEL)


# --- without a model ---


def test_options_that_were_not_given_are_left_to_the_model():
    given = {"max_new_tokens": None, "eos_token_id": (), "suppress_tokens": [], "prompt": "x"}
    assert decoding_fields(given) == {}


@pytest.mark.parametrize(
    "parameters",
    [
        {"num_beams": 4, "top_k": 5},
        {"penalty_alpha": 0.6, "top_k": 4},
        {"force_words": ("rain",), "num_beams": 4},
    ],
)
def test_a_search_draws_nothing_unless_told_to(parameters):
    assert decoding_fields(parameters)["do_sample"] is False
    assert decoding_fields({**parameters, "do_sample": True})["do_sample"] is True


def test_without_draws_the_sampling_options_of_the_model_are_off():
    fields = decoding_fields({"do_sample": False, "top_k": 7})
    assert (fields["temperature"], fields["top_p"], fields["top_k"]) == (1.0, 1.0, 7)


@pytest.mark.parametrize(
    ("text", "layers"), [("low", "low"), ("high", "high"), ("0,2", [0, 2]), ("3", [3])]
)
def test_layers_of_dola(text, layers):
    assert decoding_fields({"dola_layers": text})["dola_layers"] == layers


def test_other_layers_are_an_error():
    with pytest.raises(InvalidInputError, match="allowed are low, high, or numbers"):
        decoding_fields({"dola_layers": "middle"})


def test_forced_words_begin_with_a_space_and_bad_words_as_they_are():
    asked = []
    word_fields({"force_words": ("rain", " cold", "\nA"), "bad_words": ("dog",)}, asked.append)
    assert asked == ["dog", " rain", " cold", "\nA"]


def test_a_schema_is_text_or_a_file(tmp_path):
    file = tmp_path / "schema.json"
    file.write_text('{"type": "object"}', "utf-8")
    for given in (str(file), ' {"type": "object"}'):
        found = grammar_arguments({"json_schema": given, "choices": ()})
        assert {name: text.strip() for name, text in found.items()} == {
            "json_schema": '{"type": "object"}'
        }
    assert grammar_arguments({"grammar": file}) == {"grammar": '{"type": "object"}'}
    file.write_bytes(b"\xff")
    with pytest.raises(InvalidInputError, match="is not UTF-8 text"):
        grammar_arguments({"grammar": file})


# --- with the embedded model ---


@needs_a_framework
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("x", "--force-words", "rain"), "needs num_beams > 1"),
        (("x", "--negative-prompt", "y"), "no effect without guidance_scale"),
        (("x", "--num-beams", "3", "--num-beam-groups", "2"), "num_beam_groups"),
        (("x", "--logprobs", "2"), "--logprobs are part of the JSON output; add --json."),
        (("x", "--json", "--logprobs", "-1"), "it must be an integer of at least 0"),
        (("x", "--batch-size", "0"), "it must be an integer of at least 1"),
        (("x", "--json-schema", "no-such-file"), "No such file or directory: 'no-such-file'"),
        (("x", "--dola-layers", "low", "--num-beams", "2"), "dola_layers works with"),
        (("x", "--prompt-lookup", "2", "--num-beams", "2"), "cannot be combined with num_beams"),
    ],
)
def test_options_that_do_not_go_together_give_one_line(arguments, message):
    result = generate(*arguments)
    assert result.exit_code == 1
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


@needs_a_framework
def test_log_probabilities_are_those_of_each_token_and_the_likeliest():
    (found,) = lines(PROMPT, "--greedy", "-n", "4", "--logprobs", "2")
    assert [entry["token_id"] for entry in found["logprobs"]] == found["token_ids"]
    for entry in found["logprobs"]:
        first, second = entry["top"]
        assert first == {name: value for name, value in entry.items() if name != "top"}
        assert second["logprob"] <= first["logprob"] < 0
        assert first["token"] == tokenizer().decode([first["token_id"]])
    # The first of a sampled text has the same alternatives, whatever was drawn.
    (drawn,) = lines(PROMPT, "--sample", "--seed", "3", "-n", "1", "--logprobs", "2")
    likeliest = [entry["token_id"] for entry in drawn["logprobs"][0]["top"]]
    assert likeliest == [entry["token_id"] for entry in found["logprobs"][0]["top"]]


@needs_a_framework
def test_log_probabilities_of_beams_follow_their_texts():
    best, second = lines(
        PROMPT, "--num-beams", "3", "--num-return-sequences", "2", "-n", "4", "--logprobs", "0"
    )
    before = PROMPT + tokenizer().decode(best["token_ids"][:-1])
    (alone,) = lines(before, "--greedy", "-n", "1", "--logprobs", "50")
    for found in (best, second):
        assert [entry["token_id"] for entry in found["logprobs"]] == found["token_ids"]
        assert all(entry["top"] == [] for entry in found["logprobs"])
    scores = {entry["token_id"]: entry["logprob"] for entry in alone["logprobs"][0]["top"]}
    last = best["logprobs"][-1]
    assert scores[last["token_id"]] == pytest.approx(last["logprob"], abs=1e-4)
    sums = [sum(entry["logprob"] for entry in found["logprobs"]) for found in (best, second)]
    assert sums[0] >= sums[1]


@needs_a_framework
def test_diverse_and_constrained_beams():
    plain, diverse = (
        lines(PROMPT, "--num-beams", "4", "-n", "6", "--num-return-sequences", "4", *options)
        for options in ((), ("--num-beam-groups", "2", "--diversity-penalty", "5"))
    )
    assert [one["token_ids"] for one in plain] != [one["token_ids"] for one in diverse]
    (found,) = lines(
        PROMPT, "--num-beams", "4", "-n", "10", "--force-words", "rain", "--force-words", "bed"
    )
    assert " rain" in found["continuation"]
    assert " bed" in found["continuation"]


@needs_a_framework
def test_guidance_moves_away_from_the_negative_prompt():
    plain, guided, other = (
        lines(PROMPT, "--greedy", "-n", "8", *options)[0]["token_ids"]
        for options in (
            (),
            ("--guidance-scale", "3"),
            ("--guidance-scale", "3", "--negative-prompt", "And the queen said"),
        )
    )
    assert plain != guided != other != plain


@needs_a_framework
def test_a_watermark_is_found_by_the_detector():
    (found,) = lines(PROMPT, "-n", "40", "--seed", "1", "--watermark")
    config = GPT2Config.from_pretrained(EMBEDDED_MODEL)
    detector = WatermarkDetector(config, watermarking_config=WatermarkingConfig())
    score = detector(np.array([found["token_ids"]]), return_dict=True).z_score[0]
    (plain,) = lines(PROMPT, "-n", "40", "--seed", "1")
    unmarked = detector(np.array([plain["token_ids"]]), return_dict=True).z_score[0]
    assert score > 3 > unmarked


@needs_a_framework
def test_the_form_of_a_text(tmp_path):
    pytest.importorskip("llguidance")
    schema = {
        "type": "object",
        "properties": {"mood": {"enum": ["glad", "sad"]}},
        "required": ["mood"],
        "additionalProperties": False,
    }
    (found,) = lines(PROMPT, "--json-schema", json.dumps(schema))
    assert json.loads(found["continuation"])["mood"] in ("glad", "sad")
    assert found["ended"]
    (found,) = lines(PROMPT, "--choices", " yes", "--choices", " no")
    assert found["continuation"] in (" yes", " no")
    grammar = tmp_path / "grammar.lark"
    grammar.write_text('start: " a" "b"*', "utf-8")
    (found,) = lines(PROMPT, "--grammar", str(grammar), "-n", "5")
    assert found["continuation"].rstrip("b") == " a"


@needs_a_framework
def test_a_grammar_without_its_library_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "llguidance", None)
    result = generate(PROMPT, "--regex", "[a-z]+")
    assert result.exit_code == 1
    assert 'pip install "gpt2x[guided]"' in result.stderr


@needs_a_framework
def test_a_batch_of_prompts_gives_the_texts_of_single_ones(tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("To be\nAnd God said, Let there\nNow\nAnd the king said\n", "utf-8")
    options = ("--prompts-file", str(file), "--seed", "4", "--stop", ",", "--stop", " the")
    for more in (("-n", "9"), ("--max-length", "12"), ("-n", "6", "--num-return-sequences", "2")):
        alone = lines(*options, *more)
        assert lines(*options, *more, "--batch-size", "3") == alone
    printed = generate(*options, "-n", "9")
    assert generate(*options, "-n", "9", "--batch-size", "2").stdout == printed.stdout


@needs_a_framework
def test_contrasts_write_other_texts():
    plain, contrastive, dola = (
        lines(PROMPT, "--greedy", "-n", "8", *options)[0]["token_ids"]
        for options in (
            (),
            ("--contrastive-alpha", "0.6", "--top-k", "4"),
            ("--dola-layers", "low"),
        )
    )
    assert contrastive != plain != dola


@needs_a_framework
def test_drafts_write_the_same_text():
    plain, looked_up, assisted, early = (
        lines(PROMPT, "--seed", "2", "-n", "8", *options)[0]["token_ids"]
        for options in (
            (),
            ("--prompt-lookup", "4"),
            ("--assistant", str(EMBEDDED_MODEL)),
            ("--early-exit", "1"),
        )
    )
    assert plain == looked_up == assisted == early
