"""The options of commands, with their help; those of several commands are worded once."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

# Panels of the help of `gpt2x generate`.
_length = partial(typer.Option, rich_help_panel="Length")
_sampling = partial(typer.Option, rich_help_panel="Sampling")
_beams = partial(typer.Option, rich_help_panel="Beam search")
_contrast = partial(typer.Option, rich_help_panel="Contrast and guidance")
_form = partial(typer.Option, rich_help_panel="Form of the text: one of these")
_drafts = partial(typer.Option, rich_help_panel="Speed by drafts: the same text, sooner")
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

# --- files of texts ---

Files = Annotated[
    list[str],
    typer.Argument(
        metavar="FILE...",
        help="Texts: .txt, .jsonl, .csv, .tsv, .parquet, compressed or not; patterns; - for "
        "standard input.",
    ),
]
FileFormat = Annotated[
    str | None,
    typer.Option(
        help="text, lines, json, csv, tsv or parquet.", show_default="as each file is called"
    ),
]
TextColumn = Annotated[str, typer.Option(help="The field or column of the text.")]
SkipBadRecords = Annotated[
    bool, typer.Option("--skip-bad-records", help="Leave records out that cannot be used.")
]

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
BeamGroups = Annotated[int | None, _beams(help="Divide the beams into groups that differ.")]
DiversityPenalty = Annotated[
    float | None, _beams(help="Lowers a token for each beam of earlier groups that chose it.")
]
ForceWords = Annotated[
    list[str] | None, _beams(help="The text must contain these words. May be repeated.")
]

# --- what it is contrasted with ---

ContrastiveAlpha = Annotated[
    float | None,
    _contrast(
        "--contrastive-alpha",
        help="Contrastive search among the --top-k likeliest: the weight of being new, 0 to 1.",
    ),
]
DoLaLayers = Annotated[
    str | None,
    _contrast(
        "--dola-layers", help="DoLa: contrast with the layers low, high, or a list such as 0,2."
    ),
]
GuidanceScale = Annotated[
    float | None, _contrast(help="Above 1: move away from the negative prompt.")
]
NegativePrompt = Annotated[
    str | None,
    _contrast(help="What to move away from.", show_default="the prompt's last token"),
]
Watermark = Annotated[bool, _contrast("--watermark", help="Leave a watermark in the text.")]

# --- what form it must have ---

JSONSchema = Annotated[
    str | None, _form("--json-schema", help="JSON of this schema: a file, or the schema itself.")
]
Regex = Annotated[str | None, _form(help="A text that this regular expression matches.")]
Choices = Annotated[list[str] | None, _form(help="One of several texts. To be repeated.")]
Grammar = Annotated[
    Path | None, _form(help="A text of the grammar in this file (Lark).", dir_okay=False)
]

# --- how it is sped up ---

Assistant = Annotated[
    str | None, _drafts(help="A smaller model with the same tokenizer that writes drafts.")
]
PromptLookup = Annotated[
    int | None,
    _drafts("--prompt-lookup", help="Draft up to this many tokens from what the text repeats."),
]
EarlyExit = Annotated[
    int | None, _drafts("--early-exit", help="Draft with the model's first layers, this many.")
]

# --- what comes out ---

Sequences = Annotated[int | None, _output(help="Texts for each prompt.")]
JSONLines = Annotated[bool, _output("--json", help="One JSON object a line for each text.")]
LogProbs = Annotated[
    int | None,
    _output(
        "--logprobs",
        help="With --json: each token's log-probability, and this many of the likeliest tokens.",
    ),
]
BatchSize = Annotated[
    int | None,
    _output(help="Continue this many prompts of a file at once; the texts are the same."),
]
Interactive = Annotated[
    bool,
    _output("--interactive", "-i", help="Write in turns with the model; :help lists commands."),
]
