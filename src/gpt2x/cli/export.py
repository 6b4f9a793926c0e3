"""`gpt2x export`: a model as an artifact of one framework, which runs without gpt2x."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gpt2x import backends
from gpt2x.cli import _options as options
from gpt2x.cli._decoding import decoding_fields
from gpt2x.cli._quiet import quiet_imports

app = typer.Typer(add_completion=False, no_args_is_help=True)


@app.callback()
def export() -> None:
    """Export a model to run without gpt2x."""


@app.command()
def tf(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder to write.")],
    model: options.Model = None,
    revision: options.Revision = None,
    max_new_tokens: options.MaxNewTokens = None,
    do_sample: options.Sample = None,
    temperature: options.Temperature = None,
    top_k: options.TopK = None,
    top_p: options.TopP = None,
    num_beams: options.Beams = None,
    jit_compile: Annotated[
        bool, typer.Option("--jit/--no-jit", help="Compile generation with XLA.")
    ] = True,
) -> None:
    """Write one TensorFlow SavedModel from text to text.

    It holds tokenizer, model and decoding loop, and runs where TensorFlow alone is installed:
    tf.saved_model.load(DIR).generate(tf.constant(["To be"]))["texts"]
    """
    from gpt2x import EMBEDDED_MODEL

    with quiet_imports():
        package = backends.load("tf", wanted_by="gpt2x export tf")
    name, where = model or str(EMBEDDED_MODEL), {"revision": revision} if revision else {}
    language_model = package.TFGPT2LMHeadModel.from_pretrained(name, **where)
    config = language_model.generation_config
    config.update(**decoding_fields(context.params))
    tokenizer = package.TFGPT2Tokenizer.from_pretrained(name, **where)
    package.TextGenerator(language_model, tokenizer, config, jit_compile=jit_compile).save(folder)
    typer.echo(f"Wrote {folder}. Its signature serving_default takes prompts and returns texts.")
