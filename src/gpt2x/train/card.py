"""The model card of a trained model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gpt2x.storage.publishing import model_card

# What says nothing about the training, or nothing for others to see.
_LEFT_OUT = ("hub_token", "output_dir", "resume", "overwrite_output_dir", "push_to_hub")


def training_card(
    name: str, arguments: Mapping[str, Any], results: Mapping[str, Any], folder: Path
) -> str:
    """Return the text of README.md: the card of the model in `folder`, and how it was trained."""
    card = model_card(folder, name) or f"# {name}\n"
    given = {key: value for key, value in arguments.items() if key not in _LEFT_OUT and value}
    return f"""{card.rstrip()}

## Training

{_table(results)}

Made by `gpt2x train` with

{_table(given)}
"""


def _table(rows: Mapping[str, Any]) -> str:
    lines = "\n".join(f"| {name} | {_shown(value)} |" for name, value in rows.items())
    return f"| | |\n|---|---|\n{lines}"


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return ", ".join(Path(str(item)).name for item in value)
    return str(value)
