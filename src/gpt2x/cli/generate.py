"""`gpt2x generate`: continue a prompt."""

from __future__ import annotations

import json
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from gpt2x import backends
from gpt2x.cli import _decoding as decoding
from gpt2x.cli import _options as options
from gpt2x.cli._printing import Result, print_texts, results
from gpt2x.cli._session import converse
from gpt2x.cli._writer import Writer, load_model, load_writer
from gpt2x.errors import InvalidInputError, check_count

app = typer.Typer(add_completion=False)


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
    settings = decoding.decoding_fields(context.params)
    arguments = decoding.grammar_arguments(context.params)

    hub = {"revision": revision, "local_files_only": local_files_only}
    writer = load_writer(model, backend, dtype, device, {k: v for k, v in hub.items() if v})
    settings |= decoding.word_fields(context.params, writer.ids)
    if logprobs is not None:
        settings |= {"return_dict_in_generate": True, "output_logits": True}
    if "max_length" in settings and "max_new_tokens" not in settings:
        writer.config.max_new_tokens = None  # the user's total, not the model's default
    writer.config.update(**settings)
    writer.fits = max_new_tokens is None and max_length is None
    writer.seed = secrets.randbits(32) if seed is None else seed
    writer.arguments = arguments
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
        converse(writer, prompt)
    elif as_json:
        about = {"model": model or "embedded", "backend": backend, "seed": writer.seed}
        for result in results(writer, prompts, batch_size):
            found = {**_as_json(writer, result, logprobs), **about}
            typer.echo(json.dumps(found, ensure_ascii=False))
    else:
        print_texts(writer, prompts, batch_size)


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
