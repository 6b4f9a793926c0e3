"""`gpt2x generate`: continue a prompt."""

from __future__ import annotations

import json
import secrets
import sys
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from gpt2x import backends
from gpt2x.cli import _decoding as decoding
from gpt2x.cli import _options as options
from gpt2x.cli._printing import Result, print_texts, results
from gpt2x.cli._session import converse
from gpt2x.cli._writer import Writer, load_model, load_writer
from gpt2x.config.generation_fields import DEFAULTS
from gpt2x.errors import InvalidInputError, check_count

app = typer.Typer(add_completion=False)

#: Parameters that say what is continued, by which model and where to: not how.
_FIXED = {
    "prompt",
    "prompts_file",
    "model",
    "revision",
    "local_files_only",
    "backend",
    "dtype",
    "device",
    "max_length",
    "negative_prompt",
    "assistant",
    "num_return_sequences",
    "batch_size",
    "as_json",
    "logprobs",
    "interactive",
}


@app.command()
def generate(
    context: typer.Context,
    prompt: Annotated[
        str | None,
        typer.Argument(help="The text to continue. Without it, standard input is read."),
    ] = None,
    prompts_file: Annotated[
        Path | None, typer.Option(help="Continue each line of this file.", dir_okay=False)
    ] = None,
    model: options.Model = None,
    revision: options.Revision = None,
    local_files_only: options.LocalFilesOnly = False,
    backend: options.Backend = None,
    dtype: options.Dtype = None,
    device: options.Device = None,
    max_new_tokens: options.MaxNewTokens = None,
    max_length: options.MaxLength = None,
    min_new_tokens: options.MinNewTokens = None,
    min_length: options.MinLength = None,
    max_time: options.MaxTime = None,
    stop: options.Stop = None,
    eos_token_id: options.EndTokens = None,
    do_sample: options.Sample = None,
    seed: options.Seed = None,
    temperature: options.Temperature = None,
    top_k: options.TopK = None,
    top_p: options.TopP = None,
    min_p: options.MinP = None,
    typical_p: options.TypicalP = None,
    epsilon_cutoff: options.EpsilonCutoff = None,
    eta_cutoff: options.EtaCutoff = None,
    repetition_penalty: options.RepetitionPenalty = None,
    no_repeat_ngram_size: options.NoRepeatNgramSize = None,
    bad_words: options.BadWords = None,
    suppress_tokens: options.SuppressTokens = None,
    num_beams: options.Beams = None,
    length_penalty: options.LengthPenalty = None,
    early_stopping: options.EarlyStopping = None,
    num_beam_groups: options.BeamGroups = None,
    diversity_penalty: options.DiversityPenalty = None,
    force_words: options.ForceWords = None,
    penalty_alpha: options.ContrastiveAlpha = None,
    dola_layers: options.DoLaLayers = None,
    guidance_scale: options.GuidanceScale = None,
    negative_prompt: options.NegativePrompt = None,
    watermark: options.Watermark = False,
    json_schema: options.JSONSchema = None,
    regex: options.Regex = None,
    choices: options.Choices = None,
    grammar: options.Grammar = None,
    assistant: options.Assistant = None,
    prompt_lookup_num_tokens: options.PromptLookup = None,
    assistant_early_exit: options.EarlyExit = None,
    num_return_sequences: options.Sequences = None,
    batch_size: options.BatchSize = None,
    as_json: options.JSONLines = False,
    logprobs: options.LogProbs = None,
    interactive: options.Interactive = False,
) -> None:
    """Continue a prompt with GPT-2, and print the text as it is written."""
    backend = backend or backends.default()
    backends.get(backend)
    check_count("--batch-size", batch_size, 1)
    check_count("--logprobs", logprobs)
    if logprobs is not None and not as_json:
        raise InvalidInputError("--logprobs are part of the JSON output; add --json.")
    if interactive:
        _check_interactive(context.params)
    prompts = [] if interactive else list(_prompts(prompt, prompts_file))
    hub = {"revision": revision, "local_files_only": local_files_only}
    writer = load_writer(model, backend, dtype, device, {k: v for k, v in hub.items() if v})
    _configure(writer, context.params)
    if logprobs is not None:
        writer.config.update(return_dict_in_generate=True, output_logits=True)
    writer.fits = max_new_tokens is None and max_length is None
    writer.seed = secrets.randbits(32) if seed is None else seed
    if negative_prompt is not None:
        writer.arguments["negative_prompt_ids"] = writer.batch([writer.prompt(negative_prompt)])[
            "input_ids"
        ]
    if assistant is not None:
        only_here = {"local_files_only": True} if local_files_only else {}
        writer.arguments["assistant_model"] = load_model(
            assistant, backend, dtype, device, only_here
        )

    if interactive:
        converse(writer, prompt, partial(_set, context))
    elif as_json:
        about = {"model": model or "embedded", "backend": backend, "seed": writer.seed}
        for result in results(writer, prompts, batch_size):
            found = {**_as_json(writer, result, logprobs), **about}
            typer.echo(json.dumps(found, ensure_ascii=False))
    else:
        print_texts(writer, prompts, batch_size)


def _configure(writer: Writer, parameters: Mapping[str, Any]) -> None:
    """Let a writer decode as parameters of the command say, where they are given."""
    fields = decoding.decoding_fields(parameters) | decoding.word_fields(parameters, writer.ids)
    arguments = decoding.grammar_arguments(parameters)
    if "max_length" in fields and "max_new_tokens" not in fields:
        fields["max_new_tokens"] = None  # the user's total, not the model's default
    writer.config.update(**fields)
    writer.arguments |= arguments


def _set(context: Any, writer: Writer, words: list[str]) -> list[str]:
    """Set options during a session, and return all that differ from the defaults.

    Args:
        context: of the command, which reads them: ``temperature 0.9``, ``top-k=5``, ``--greedy``.
        writer: is to write by them.
        words: their parts.
    """
    options = [
        f"--{word}" if word[:1] != "-" and (number == 0 or "=" in word) else word
        for number, word in enumerate(words)
    ]
    try:
        read = context.command.make_context("generate", options, parent=context.parent)
    except Exception as error:
        # Usage errors are click's, which older versions of typer do not bring along.
        if not hasattr(error, "format_message"):
            raise
        raise InvalidInputError(error.format_message()) from error
    source = read.get_parameter_source
    given = {n: v for n, v in read.params.items() if source(n).name == "COMMANDLINE"}
    for name in _FIXED & given.keys():
        raise InvalidInputError(f"{name.replace('_', '-')} cannot be changed during a session.")
    _configure(writer, given)
    writer.fits = writer.fits and "max_new_tokens" not in given
    writer.seed = given.get("seed", writer.seed)
    values = {"seed": writer.seed, **writer.arguments}
    for name, default in DEFAULTS.items():
        value = getattr(writer.config, name)
        if value != default and not name.endswith("_token_id"):
            values[name] = value
    return [f"{name.replace('_', '-')}={value}" for name, value in values.items()]


def _check_interactive(parameters: dict[str, Any]) -> None:
    """Raise if an option does not go with --interactive."""
    others = {
        "--prompts-file": parameters["prompts_file"] is not None,
        "--json": parameters["as_json"],
        "--batch-size": parameters["batch_size"] is not None,
        "--num-return-sequences": (parameters["num_return_sequences"] or 1) > 1,
        "--max-length": parameters["max_length"] is not None,
    }
    given = [name for name, is_given in others.items() if is_given]
    if given:
        raise InvalidInputError(
            "--interactive writes one text in turns, of --max-new-tokens each; leave out "
            f"{given[0]}."
        )


def _prompts(prompt: str | None, prompts_file: Path | None) -> Iterator[str]:
    """Yield the prompts: the one given, the lines of the file, or standard input as one."""
    if prompt is not None and prompts_file is not None:
        raise InvalidInputError("Give either a PROMPT or --prompts-file, not both.")
    if prompts_file is not None:
        lines = decoding.read_text(prompts_file).split("\n")
        if not any(lines):
            raise InvalidInputError(f"{prompts_file} holds no prompts; give one on each line.")
        yield from filter(None, lines)
    elif prompt is not None:
        yield prompt
    else:  # at a terminal there is nothing to wait for: begin from nothing
        yield "" if sys.stdin.isatty() else sys.stdin.read().removesuffix("\n")


def _as_json(writer: Writer, result: Result, logprobs: int | None) -> dict[str, Any]:
    """Return what the JSON output says of a text."""
    tokens = result.text.tokens
    found = {
        "prompt": result.prompt,
        "continuation": writer.text(tokens),
        "token_ids": tokens,
        "ended": writer.ended(tokens),
        "prompt_index": result.number,
        "sequence_index": result.row,
    }
    if logprobs is not None:
        found["logprobs"] = writer.logprobs(result.text, logprobs)
    return found
