"""`gpt2x generate`: continue a prompt."""

from __future__ import annotations

import copy
import json
import secrets
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from gpt2x import backends
from gpt2x.cli._quiet import quiet_imports
from gpt2x.errors import InvalidInputError, check_choice

app = typer.Typer(add_completion=False)

_LENGTH, _SAMPLING, _BEAMS, _OUTPUT = "Length", "Sampling", "Beam search", "Output"

# Options of `generate` that are fields of GenerationConfig of the same name.
_FIELDS = (
    "max_new_tokens",
    "max_length",
    "min_new_tokens",
    "min_length",
    "max_time",
    "do_sample",
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "typical_p",
    "epsilon_cutoff",
    "eta_cutoff",
    "repetition_penalty",
    "no_repeat_ngram_size",
    "suppress_tokens",
    "num_beams",
    "length_penalty",
    "num_return_sequences",
)
# Whoever sets one of these wants to sample.
_SAMPLING_FIELDS = (
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "typical_p",
    "epsilon_cutoff",
    "eta_cutoff",
)
_EARLY_STOPPING = {"true": True, "false": False, "never": "never"}
_DTYPES = ("float32", "bfloat16", "float16")
_NEW_TOKENS = 20  # what `generate` adds to a prompt unless it is told a length


@dataclass
class Writer:
    """A model and its tokenizer, and how they are to write.

    Attributes:
        model: the language model, of any backend.
        tokenizer: its tokenizer.
        tensors: the kind of tensors that the model takes, as in `return_tensors=`.
        config: how to decode.
        seed: of all prompts; row r of prompt p, of n rows, draws from stream p * n + r.
        fits: whether the user left the length open, so that a long prompt gets what room there is.
    """

    model: Any
    tokenizer: Any
    tensors: str
    config: Any
    seed: int = 0
    fits: bool = False

    def write(self, prompt: str, number: int, streamer: Any = None) -> list[list[int]]:
        """Return the new tokens of each text that continues prompt `number`."""
        inputs = self.tokenizer(
            prompt or self.tokenizer.bos_token,
            return_tensors=self.tensors,
            verbose=False,  # what is too long is an error of `generate`, not a hint to programmers
        )
        if self.tensors == "pt":
            inputs = inputs.to(self.model.device)
        config = self.config
        rows = config.num_beams if config.num_beams > 1 else config.num_return_sequences
        prompt_length = inputs["input_ids"].shape[1]
        if self.fits:
            room = self.model.config.n_positions - prompt_length
            config = copy.deepcopy(config)
            config.max_new_tokens = max(1, min(room, config.max_new_tokens or _NEW_TOKENS))
        output = self.model.generate(
            inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            generation_config=config,
            tokenizer=self.tokenizer,
            streamer=streamer,
            use_model_defaults=False,
            seed=[(self.seed, number * rows + row) for row in range(rows)],
        )
        sequences = np.asarray(getattr(output, "sequences", output))
        return [self._trim(row) for row in sequences[:, prompt_length:].tolist()]

    def text(self, tokens: list[int]) -> str:
        """Return the text of new tokens, without special ones."""
        return self.tokenizer.decode(tokens, skip_special_tokens=True)

    def ended(self, tokens: list[int]) -> bool:
        """Say whether an end token or a stop string, rather than the length, ended a text."""
        stops = self.config.stop_strings or []
        stops = [stops] if isinstance(stops, str) else stops
        text = self.text(tokens)
        return bool(tokens and tokens[-1] in self._ends()) or any(stop in text for stop in stops)

    def _trim(self, tokens: list[int]) -> list[int]:
        """Drop the padding after the first end token."""
        places = [place for place, token in enumerate(tokens) if token in self._ends()]
        return tokens[: places[0] + 1] if places else tokens

    def _ends(self) -> list[int]:
        ends = self.config.eos_token_id
        return ends if isinstance(ends, list) else [] if ends is None else [ends]


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
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            help="A folder, a .gguf file, or a name on the hub.",
            show_default="the embedded model",
        ),
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit on the hub.")] = None,
    local_files_only: Annotated[bool, typer.Option(help="Never ask the hub.")] = False,
    backend: Annotated[
        str | None,
        typer.Option("--backend", "-b", help="pt, tf or flax.", show_default="the one installed"),
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help="float32, bfloat16 or float16.", show_default="float32")
    ] = None,
    device: Annotated[str | None, typer.Option(help="PyTorch only: cpu, cuda, mps ...")] = None,
    max_new_tokens: Annotated[
        int | None,
        typer.Option("--max-new-tokens", "-n", help="Tokens to write.", rich_help_panel=_LENGTH),
    ] = None,
    max_length: Annotated[
        int | None, typer.Option(help="Tokens, prompt included.", rich_help_panel=_LENGTH)
    ] = None,
    min_new_tokens: Annotated[
        int | None, typer.Option(help="Do not end before this many.", rich_help_panel=_LENGTH)
    ] = None,
    min_length: Annotated[
        int | None, typer.Option(help="Tokens, prompt included.", rich_help_panel=_LENGTH)
    ] = None,
    max_time: Annotated[
        float | None, typer.Option(help="Seconds.", rich_help_panel=_LENGTH)
    ] = None,
    stop: Annotated[
        list[str] | None,
        typer.Option(help="End after this string. May be repeated.", rich_help_panel=_LENGTH),
    ] = None,
    eos_token_id: Annotated[
        list[int] | None,
        typer.Option(help="End after this token. May be repeated.", rich_help_panel=_LENGTH),
    ] = None,
    do_sample: Annotated[
        bool | None,
        typer.Option(
            "--sample/--greedy",
            help="Draw tokens, or take the likeliest.",
            show_default="as the model's generation config says",
            rich_help_panel=_SAMPLING,
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            help="The same seed gives the same text, in each backend.",
            show_default="a new one",
            rich_help_panel=_SAMPLING,
        ),
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(
            help="Below 1 bolder in its first choice, above 1 more varied.",
            rich_help_panel=_SAMPLING,
        ),
    ] = None,
    top_k: Annotated[
        int | None,
        typer.Option(help="Draw from the k likeliest tokens.", rich_help_panel=_SAMPLING),
    ] = None,
    top_p: Annotated[
        float | None,
        typer.Option(
            help="Draw from the likeliest tokens that make up this share.",
            rich_help_panel=_SAMPLING,
        ),
    ] = None,
    min_p: Annotated[
        float | None,
        typer.Option(
            help="Draw from tokens at least this share as likely as the likeliest.",
            rich_help_panel=_SAMPLING,
        ),
    ] = None,
    typical_p: Annotated[
        float | None,
        typer.Option(
            help="Locally typical sampling: the share to keep.", rich_help_panel=_SAMPLING
        ),
    ] = None,
    epsilon_cutoff: Annotated[
        float | None,
        typer.Option(help="Drop tokens less likely than this.", rich_help_panel=_SAMPLING),
    ] = None,
    eta_cutoff: Annotated[
        float | None,
        typer.Option(
            help="Drop unlikely tokens, by an entropy-dependent bound.", rich_help_panel=_SAMPLING
        ),
    ] = None,
    repetition_penalty: Annotated[
        float | None,
        typer.Option(
            help="Above 1: make tokens that are there already less likely.",
            rich_help_panel=_SAMPLING,
        ),
    ] = None,
    no_repeat_ngram_size: Annotated[
        int | None,
        typer.Option(
            help="Let no sequence of this many tokens come twice.", rich_help_panel=_SAMPLING
        ),
    ] = None,
    bad_words: Annotated[
        list[str] | None,
        typer.Option(help="Never write this. May be repeated.", rich_help_panel=_SAMPLING),
    ] = None,
    suppress_tokens: Annotated[
        list[int] | None,
        typer.Option(help="Never write this token. May be repeated.", rich_help_panel=_SAMPLING),
    ] = None,
    num_beams: Annotated[
        int | None,
        typer.Option(help="How many texts are followed at once.", rich_help_panel=_BEAMS),
    ] = None,
    length_penalty: Annotated[
        float | None,
        typer.Option(
            help="Above 0 favours long texts, below 0 short ones.", rich_help_panel=_BEAMS
        ),
    ] = None,
    early_stopping: Annotated[
        str | None, typer.Option(help="true, false or never.", rich_help_panel=_BEAMS)
    ] = None,
    num_return_sequences: Annotated[
        int | None, typer.Option(help="Texts for each prompt.", rich_help_panel=_OUTPUT)
    ] = None,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json", help="One JSON object a line for each text.", rich_help_panel=_OUTPUT
        ),
    ] = False,
) -> None:
    """Continue a prompt with GPT-2, and print the text as it is written."""
    backend = backend or backends.default()
    backends.get(backend)
    prompts = list(_prompts(prompt, prompts_file))
    settings = {name: context.params[name] for name in _FIELDS if context.params[name] is not None}
    if early_stopping is not None:
        check_choice("--early-stopping", early_stopping, _EARLY_STOPPING)
        settings["early_stopping"] = _EARLY_STOPPING[early_stopping]
    if do_sample is None and (num_beams or 1) > 1:
        settings["do_sample"] = False
    elif do_sample is None and any(name in settings for name in _SAMPLING_FIELDS):
        settings["do_sample"] = True
    if eos_token_id:
        settings["eos_token_id"] = eos_token_id
    if stop:
        settings["stop_strings"] = stop

    hub = {"revision": revision, "local_files_only": local_files_only}
    writer = _load(model, backend, dtype, device, {k: v for k, v in hub.items() if v})
    if bad_words:
        settings["bad_words_ids"] = [_ids(writer.tokenizer, words) for words in bad_words]
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


def _load(
    model: str | None, backend: str, dtype: str | None, device: str | None, hub: dict[str, Any]
) -> Writer:
    """Load model and tokenizer."""
    options = dict(hub)
    if dtype is not None:
        check_choice("--dtype", dtype, _DTYPES)
        options["dtype"] = dtype
    if device is not None and backend != "pt":
        raise InvalidInputError(f"--device is for the backend pt; {backend} chooses by itself.")
    from gpt2x import EMBEDDED_MODEL, GPT2TokenizerFast

    with quiet_imports():
        package = backends.load(backend, wanted_by="gpt2x generate")
    folder = model or str(EMBEDDED_MODEL)
    loader = getattr(package, backends.get(backend).prefix + "LMHeadModel")
    loaded = loader.from_pretrained(folder, **options)
    if device is not None:
        loaded = loaded.to(device)
    return Writer(
        model=loaded,
        tokenizer=GPT2TokenizerFast.from_pretrained(folder, **hub),
        tensors={"pt": "pt", "tf": "tf", "flax": "jax"}[backend],
        config=loaded.generation_config,
    )


def _ids(tokenizer: Any, words: str) -> list[int]:
    return tokenizer(words, add_special_tokens=False)["input_ids"]


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
