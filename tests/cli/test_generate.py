"""`gpt2x generate`, in each backend that is installed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from gpt2x import EMBEDDED_MODEL, GPT2TokenizerFast, backends, cli

BACKENDS = backends.installed()
PROMPT = "And the king said"

pytestmark = pytest.mark.skipif(not BACKENDS, reason="no framework is installed")
each_backend = pytest.mark.parametrize("backend", BACKENDS)


def generate(*arguments: str, stdin: str | None = None):
    """Run `gpt2x generate` in this process, in the first backend unless told otherwise."""
    return CliRunner().invoke(cli.app, ["generate", *arguments], input=stdin)


def lines(result) -> list[dict]:
    """Parse the output of --json."""
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


@each_backend
def test_the_embedded_model_continues_a_prompt(backend):
    result = generate(PROMPT, "--backend", backend, "--seed", "1", "-n", "12")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(PROMPT)
    assert result.stdout.endswith("\n")
    assert len(result.stdout) > len(PROMPT) + 12
    assert result.stderr == ""


@each_backend
def test_json_holds_what_is_printed_and_the_same_tokens(backend):
    options = (PROMPT, "--backend", backend, "--seed", "5", "-n", "8")
    (found,) = lines(generate(*options, "--json"))
    assert generate(*options).stdout == PROMPT + found["continuation"] + "\n"
    tokenizer = GPT2TokenizerFast.from_pretrained(EMBEDDED_MODEL)
    assert tokenizer.decode(found["token_ids"], skip_special_tokens=True) == found["continuation"]
    assert {k: found[k] for k in ("prompt", "model", "backend", "seed", "prompt_index")} == {
        "prompt": PROMPT,
        "model": "embedded",
        "backend": backend,
        "seed": 5,
        "prompt_index": 0,
    }


def test_every_backend_writes_the_same():
    texts = {
        backend: generate(PROMPT, "-b", backend, "--seed", "3", "-n", "8").stdout
        for backend in BACKENDS
    }
    assert len(set(texts.values())) == 1, texts


def test_a_seed_repeats_and_another_differs():
    one, again, other = (
        generate(PROMPT, "--seed", seed, "-n", "10").stdout for seed in ("1", "1", "2")
    )
    assert one == again != other


def test_without_a_seed_runs_differ():
    seeds = {lines(generate(PROMPT, "--json", "-n", "1"))[0]["seed"] for _ in range(2)}
    assert len(seeds) == 2


def test_greedy_needs_no_seed():
    one, two = (generate(PROMPT, "--greedy", "-n", "10").stdout for _ in range(2))
    assert one == two


def test_a_sampling_option_asks_for_sampling(tmp_path, greedy_model):
    texts = [
        generate(PROMPT, "-m", greedy_model, "-n", "8", "--seed", seed, *options).stdout
        for options in ((), ("--top-k", "100"))
        for seed in ("1", "2")
    ]
    assert texts[0] == texts[1]
    assert texts[2] != texts[3]


def test_beams_are_sampled_if_told_to_and_may_return_several_texts():
    options = ("--num-beams", "3", "--num-return-sequences", "2", "-n", "6", "--json")
    first, again = (lines(generate(PROMPT, *options, "--seed", seed)) for seed in ("1", "2"))
    assert [one["continuation"] for one in first] == [one["continuation"] for one in again]
    assert [one["sequence_index"] for one in first] == [0, 1]
    assert first[0]["continuation"] != first[1]["continuation"]
    drawn = lines(generate(PROMPT, *options, "--seed", "1", "--sample"))
    assert drawn[0]["continuation"] != first[0]["continuation"]


def test_lengths(tmp_path):
    def count(*options):
        (found,) = lines(generate(PROMPT, "--json", "--seed", "1", *options))
        return len(found["token_ids"])

    tokenizer = GPT2TokenizerFast.from_pretrained(EMBEDDED_MODEL)
    prompt_length = len(tokenizer(PROMPT)["input_ids"])
    assert count("-n", "7") == 7
    assert count("--max-length", str(prompt_length + 5)) == 5
    assert count("-n", "20", "--min-new-tokens", "20") == 20


def test_a_long_prompt_gets_the_room_that_is_left():
    prompt = "And God said " * 80
    (found,) = lines(generate(prompt, "--json", "--seed", "1", "--suppress-tokens", "4095"))
    tokenizer = GPT2TokenizerFast.from_pretrained(EMBEDDED_MODEL)
    assert len(found["token_ids"]) == 256 - len(tokenizer(prompt)["input_ids"])
    assert not found["ended"]
    result = generate(prompt, "-n", "100")
    assert result.exit_code == 1
    assert "256" in result.stderr


def test_a_prompt_longer_than_the_model_is_one_error(caplog):
    result = generate("word " * 300)
    assert result.exit_code == 1
    assert "the model has 256 positions" in result.stderr
    assert caplog.messages == []  # nor a warning about arguments that the command does not have


def test_it_ends_after_a_stop_string_or_a_token():
    (found,) = lines(generate(PROMPT, "--json", "--greedy", "-n", "30"))
    words = found["continuation"].split()
    (stopped,) = lines(generate(PROMPT, "--json", "--greedy", "-n", "30", "--stop", words[2]))
    assert stopped["continuation"].rstrip(",.;:").endswith(words[2].rstrip(",.;:"))
    assert len(stopped["token_ids"]) < len(found["token_ids"])
    assert stopped["ended"]
    third = found["token_ids"][2]
    (ended,) = lines(
        generate(PROMPT, "--json", "--greedy", "-n", "30", "--eos-token-id", str(third))
    )
    assert ended["ended"]
    assert ended["token_ids"] == found["token_ids"][: found["token_ids"].index(third) + 1]


def test_bad_words_and_suppressed_tokens_do_not_come():
    (found,) = lines(generate(PROMPT, "--json", "--greedy", "-n", "1"))
    first = found["token_ids"][0]
    options = (PROMPT, "--json", "--greedy", "-n", "1")
    (other,) = lines(generate(*options, "--suppress-tokens", str(first)))
    assert other["token_ids"] != [first]
    (other,) = lines(generate(*options, "--bad-words", found["continuation"]))
    assert other["token_ids"] != [first]


def test_a_file_gives_one_text_for_each_line_as_if_it_stood_alone(tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("To be\n\nAnd God\n", "utf-8")
    found = lines(generate("--prompts-file", str(file), "--json", "--seed", "4", "-n", "5"))
    assert [one["prompt"] for one in found] == ["To be", "And God"]
    assert [one["prompt_index"] for one in found] == [0, 1]
    (alone,) = lines(generate("To be", "--json", "--seed", "4", "-n", "5"))
    assert found[0]["token_ids"] == alone["token_ids"]
    printed = generate("--prompts-file", str(file), "--seed", "4", "-n", "5").stdout
    assert printed == "".join(
        f"--- {i} of 2 ---\n{one['prompt']}{one['continuation']}\n"
        for i, one in enumerate(found, 1)
    )


def test_standard_input_is_one_prompt():
    (found,) = lines(generate("--json", "-n", "2", stdin="ROMEO.\nO, she\n"))
    assert found["prompt"] == "ROMEO.\nO, she"


def test_an_empty_prompt_starts_from_nothing():
    (found,) = lines(generate("", "--json", "-n", "4"))
    assert len(found["token_ids"]) == 4


def test_lines_of_a_prompt_file_end_with_line_breaks_alone(tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("To\x1cbe\nAnd\x0bGod", "utf-8")
    found = lines(generate("--prompts-file", str(file), "--json", "-n", "1"))
    assert [one["prompt"] for one in found] == ["To\x1cbe", "And\x0bGod"]
    file.write_bytes(b"To be\nAnd \xff\n")
    result = generate("--prompts-file", str(file))
    assert result.exit_code == 1
    assert result.stderr.startswith(f"error: {file} is not UTF-8 text: ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("x", "--prompts-file", os.devnull), "error: Give either a PROMPT or --prompts-file"),
        (("--prompts-file", os.devnull), "holds no prompts; give one on each line."),
        (("--prompts-file", "no-such-file"), "No such file or directory: 'no-such-file'"),
        (("x", "--dtype", "int8"), "error: --dtype is 'int8'; allowed are 'float32'"),
        (("x", "--early-stopping", "maybe"), "error: --early-stopping is 'maybe'; allowed are"),
        (("x", "--model", "no/such/folder"), "error: "),
        (("x", "--temperature", "-1"), "temperature"),
        (("x", "-n", "0"), "max_new_tokens"),
        (("x", "-n", "100000"), "error: "),
        (("x", "--greedy", "--num-return-sequences", "2"), "num_return_sequences must be 1"),
    ],
)
def test_bad_options_give_one_line(arguments, message):
    result = generate(*arguments)
    assert result.exit_code == 1
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("error: ")


def test_a_missing_framework_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, backends.get(BACKENDS[0]).requires[0], None)
    result = generate("x", "--backend", BACKENDS[0])
    assert result.exit_code == 1
    assert f'pip install "gpt2x[{BACKENDS[0]}]"' in result.stderr


@pytest.mark.skipif("pt" not in BACKENDS, reason="needs PyTorch")
def test_dtype_and_device():
    result = generate(PROMPT, "--dtype", "bfloat16", "--device", "cpu", "-n", "3")
    assert result.exit_code == 0, result.output


@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT")
def test_an_interrupt_keeps_what_was_written(tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("And God said\n" * 500, "utf-8")
    # A shell's background jobs ignore the signal, and their children inherit that.
    heed_interrupts = (
        "import runpy, signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "runpy.run_module('gpt2x', run_name='__main__', alter_sys=True)"
    )
    command = [sys.executable, "-c", heed_interrupts, "generate", "--prompts-file", str(file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        streamed = process.stdout.read(40)  # arrives long before the end
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=600)
    assert process.returncode == 130
    assert streamed.startswith(b"--- 1 of 500 ---\nAnd God said")
    assert (streamed + rest).endswith(b"\n")
    assert errors == b""


@pytest.mark.skipif(os.name != "posix", reason="closes a pipe")
def test_a_closed_pipe_ends_it_quietly(tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("And God said\n" * 500, "utf-8")
    command = [sys.executable, "-m", "gpt2x", "generate", "--prompts-file", str(file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.read(40)
        process.stdout.close()
        errors = process.stderr.read()
    assert process.returncode == 1
    assert errors == b""


@pytest.fixture(scope="session")
def greedy_model(tmp_path_factory) -> str:
    """The embedded model without its decoding defaults."""
    folder = tmp_path_factory.mktemp("greedy")
    for file in EMBEDDED_MODEL.iterdir():
        if file.name != "generation_config.json":
            (folder / file.name).write_bytes(file.read_bytes())
    return str(folder)


def test_a_terminal_that_lacks_a_character_gets_a_substitute():
    environment = {**os.environ, "PYTHONIOENCODING": "latin-1"}
    done = subprocess.run(
        [sys.executable, "-m", "gpt2x", "generate", "caf\u00e9 \u2192", "-n", "1"],
        capture_output=True,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(b"caf\xe9 ?")
