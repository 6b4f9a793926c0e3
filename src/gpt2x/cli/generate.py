"""`gpt2x generate`: continue a prompt."""

from __future__ import annotations

import json
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from gpt2x import backends
from gpt2x.cli import _options as options
from gpt2x.cli._writer import Writer, load_writer
from gpt2x.errors import InvalidInputError, check_choice

app = typer.Typer(add_completion=False)

_EARLY_STOPPING = {"true": True, "false": False, "never": "never"}


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
    num_return_sequences: options.Sequences = None,
    as_json: options.JSONLines = False,
) -> None:
    """Continue a prompt with GPT-2, and print the text as it is written."""
    backend = backend or backends.default()
    backends.get(backend)
    prompts = list(_prompts(prompt, prompts_file))
    settings = options.decoding_fields(context.params)
    if early_stopping is not None:
        check_choice("--early-stopping", early_stopping, _EARLY_STOPPING)
        settings["early_stopping"] = _EARLY_STOPPING[early_stopping]
    if do_sample is None and (num_beams or 1) > 1:
        settings["do_sample"] = False
    if stop:
        settings["stop_strings"] = stop

    hub = {"revision": revision, "local_files_only": local_files_only}
    writer = load_writer(model, backend, dtype, device, {k: v for k, v in hub.items() if v})
    if bad_words:
        settings["bad_words_ids"] = [writer.ids(words) for words in bad_words]
    if "max_length" in settings and "max_new_tokens" not in settings:
        writer.config.max_new_tokens = None  # the user's total, not the model's default
    writer.config.update(**settings)
    writer.fits = max_new_tokens is None and max_length is None
    writer.seed = secrets.randbits(32) if seed is None else seed

    if as_json:
        about = {"model": model or "embedded", "backend": backend, "seed": writer.seed}
        for line in _json_lines(writer, prompts, about):
            typer.echo(line)
    else:
        _print_texts(writer, prompts)


def _prompts(prompt: str | None, prompts_file: Path | None) -> Iterator[str]:
    """Yield the prompts: the one given, the lines of the file, or standard input as one."""
    if prompt is not None and prompts_file is not None:
        raise InvalidInputError("Give either a PROMPT or --prompts-file, not both.")
    if prompts_file is not None:
        try:
            lines = prompts_file.read_text("utf-8").split("\n")
        except UnicodeDecodeError as error:
            raise InvalidInputError(f"{prompts_file} is not UTF-8 text: {error}.") from error
        if not any(lines):
            raise InvalidInputError(f"{prompts_file} holds no prompts; give one on each line.")
        yield from filter(None, lines)
    elif prompt is not None:
        yield prompt
    else:  # at a terminal there is nothing to wait for: begin from nothing
        yield "" if sys.stdin.isatty() else sys.stdin.read().removesuffix("\n")


def _json_lines(writer: Writer, prompts: list[str], about: dict[str, Any]) -> Iterator[str]:
    """Yield one JSON object for each text, as soon as its prompt is done."""
    for number, prompt in enumerate(prompts):
        for row, tokens in enumerate(writer.write(prompt, number)):
            result = {
                "prompt": prompt,
                "continuation": writer.text(tokens),
                "token_ids": tokens,
                "ended": writer.ended(tokens),
                "prompt_index": number,
                "sequence_index": row,
            }
            yield json.dumps({**result, **about}, ensure_ascii=False)


def _print_texts(writer: Writer, prompts: list[str]) -> None:
    """Print each prompt and its continuations, a single one as it is written."""
    rows = writer.config.num_return_sequences
    texts = len(prompts) * rows
    for number, prompt in enumerate(prompts):
        if rows == 1 and writer.config.num_beams == 1:
            _stream(writer, prompt, number, texts)
            continue
        for row, tokens in enumerate(writer.write(prompt, number)):
            _print_prompt(prompt, number * rows + row, texts)
            typer.echo(writer.text(tokens))


def _stream(writer: Writer, prompt: str, number: int, texts: int) -> None:
    """Print one text word by word. What was printed stays, and ends its line, if it breaks off."""
    from gpt2x import TextStreamer

    class Printer(TextStreamer):
        started = False

        def put(self, value: np.ndarray) -> None:
            if not self.started:  # only now: the options were found to be good
                _print_prompt(prompt, number, texts)
            self.started = True
            super().put(value)

    printer = Printer(writer.tokenizer, skip_prompt=True, skip_special_tokens=True)
    try:
        writer.write(prompt, number, printer)
    except BaseException:
        if printer.started:
            printer.end()
        raise


def _print_prompt(prompt: str, place: int, texts: int) -> None:
    """Print a prompt, and a heading where there are several texts to tell apart."""
    if texts > 1:
        typer.secho(f"--- {place + 1} of {texts} ---", dim=True)
    typer.secho(prompt, bold=True, nl=False)
