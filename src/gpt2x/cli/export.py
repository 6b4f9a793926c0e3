"""`gpt2x export`: a model as an artifact of one framework, which runs without gpt2x."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from gpt2x import backends
from gpt2x.cli._quiet import quiet_imports

app = typer.Typer(add_completion=False, no_args_is_help=True)


@app.callback()
def export() -> None:
    """Export a model to run without gpt2x."""


@app.command()
def tf(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder to write.")],
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            help="A folder or a name on the hub.",
            show_default="the embedded model",
        ),
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit on the hub.")] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option("--max-new-tokens", "-n", help="Tokens to write.")
    ] = None,
    do_sample: Annotated[
        bool | None,
        typer.Option(
            "--sample/--greedy",
            help="Draw tokens, or take the likeliest.",
            show_default="as the model's generation config says",
        ),
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(help="Below 1 bolder, above 1 more varied.")
    ] = None,
    top_k: Annotated[int | None, typer.Option(help="Draw from the k likeliest tokens.")] = None,
    top_p: Annotated[
        float | None, typer.Option(help="Draw from the likeliest that make up this share.")
    ] = None,
    num_beams: Annotated[
        int | None, typer.Option(help="Beam search: how many texts are followed at once.")
    ] = None,
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
    given: dict[str, Any] = {
        "max_new_tokens": max_new_tokens,
        "do_sample": do_sample,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "num_beams": num_beams,
    }
    settings = {field: value for field, value in given.items() if value is not None}
    if do_sample is None and any(field in settings for field in ("temperature", "top_k", "top_p")):
        settings["do_sample"] = True
    config = language_model.generation_config
    config.update(**settings)
    tokenizer = package.TFGPT2Tokenizer.from_pretrained(name, **where)
    package.TextGenerator(language_model, tokenizer, config, jit_compile=jit_compile).save(folder)
    typer.echo(f"Wrote {folder}. Its signature serving_default takes prompts and returns texts.")
