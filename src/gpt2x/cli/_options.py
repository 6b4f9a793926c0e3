"""The options of commands, with their help; those of several commands are worded once."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any

import typer

from gpt2x.config.generation_fields import DEFAULTS, SAMPLING_FIELDS

# Panels of the help of `gpt2x generate`.
_length = partial(typer.Option, rich_help_panel="Length")
_sampling = partial(typer.Option, rich_help_panel="Sampling")
_beams = partial(typer.Option, rich_help_panel="Beam search")
_output = partial(typer.Option, rich_help_panel="Output")

# --- where a model is ---

Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        help="A folder, a .gguf file, or a name on the hub.",
        show_default="the embedded model",
    ),
]
Source = Annotated[str, typer.Argument(help="Folder, file, or model on the hub.")]
SourceFormat = Annotated[
    str | None, typer.Option("--from", help="The source's format; detected by default.")
]
Heads = Annotated[
    int | None, typer.Option(help="Number of heads, for a source that does not tell.")
]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit on the hub.")]
Subfolder = Annotated[str, typer.Option(help="Folder within the source.")]
Token = Annotated[str | None, typer.Option(help="Access token of the hub.")]
LocalFilesOnly = Annotated[bool, typer.Option(help="Never ask the hub.")]

# --- where it runs ---

Backend = Annotated[
    str | None,
    typer.Option("--backend", "-b", help="pt, tf or flax.", show_default="the one installed"),
]
Dtype = Annotated[
    str | None, typer.Option(help="float32, bfloat16 or float16.", show_default="float32")
]
Device = Annotated[str | None, typer.Option(help="PyTorch only: cpu, cuda, mps ...")]

# --- how long a text becomes ---

MaxNewTokens = Annotated[int | None, _length("--max-new-tokens", "-n", help="Tokens to write.")]
MaxLength = Annotated[int | None, _length(help="Tokens, prompt included.")]
MinNewTokens = Annotated[int | None, _length(help="Do not end before this many.")]
MinLength = Annotated[int | None, _length(help="Tokens, prompt included.")]
MaxTime = Annotated[float | None, _length(help="Seconds.")]
Stop = Annotated[list[str] | None, _length(help="End after this string. May be repeated.")]
EndTokens = Annotated[list[int] | None, _length(help="End after this token. May be repeated.")]

# --- which tokens are drawn ---

Sample = Annotated[
    bool | None,
    _sampling(
        "--sample/--greedy",
        help="Draw tokens, or take the likeliest.",
        show_default="as the model's generation config says",
    ),
]
Seed = Annotated[
    int | None,
    _sampling(help="The same seed gives the same text, in each backend.", show_default="a new one"),
]
Temperature = Annotated[
    float | None, _sampling(help="Below 1 bolder in its first choice, above 1 more varied.")
]
TopK = Annotated[int | None, _sampling(help="Draw from the k likeliest tokens.")]
TopP = Annotated[
    float | None, _sampling(help="Draw from the likeliest tokens that make up this share.")
]
MinP = Annotated[
    float | None, _sampling(help="Draw from tokens at least this share as likely as the likeliest.")
]
TypicalP = Annotated[float | None, _sampling(help="Locally typical sampling: the share to keep.")]
EpsilonCutoff = Annotated[float | None, _sampling(help="Drop tokens less likely than this.")]
EtaCutoff = Annotated[
    float | None, _sampling(help="Drop unlikely tokens, by an entropy-dependent bound.")
]
RepetitionPenalty = Annotated[
    float | None, _sampling(help="Above 1: make tokens that are there already less likely.")
]
NoRepeatNgramSize = Annotated[
    int | None, _sampling(help="Let no sequence of this many tokens come twice.")
]
BadWords = Annotated[list[str] | None, _sampling(help="Never write this. May be repeated.")]
SuppressTokens = Annotated[
    list[int] | None, _sampling(help="Never write this token. May be repeated.")
]

# --- beam search ---

Beams = Annotated[int | None, _beams(help="How many texts are followed at once.")]
LengthPenalty = Annotated[
    float | None, _beams(help="Above 0 favours long texts, below 0 short ones.")
]
EarlyStopping = Annotated[str | None, _beams(help="true, false or never.")]

# --- what comes out ---

Sequences = Annotated[int | None, _output(help="Texts for each prompt.")]
JSONLines = Annotated[bool, _output("--json", help="One JSON object a line for each text.")]


def decoding_fields(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters of a command that are fields of GenerationConfig, where given.

    Whoever sets an option of sampling wants to sample.
    """
    fields = {n: v for n, v in parameters.items() if n in DEFAULTS and v not in (None, [])}
    if "do_sample" not in fields and not fields.keys().isdisjoint(SAMPLING_FIELDS):
        fields["do_sample"] = True
    return fields
