"""Reading text and JSON within a budget: JSON values take many times the memory of their text."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from gpt2x.errors import CheckpointError
from gpt2x.storage.budget import Budget

# Bytes of memory, at most: a list or dictionary without items; a string or the key of an entry; an
# item of a list or dictionary.
_CONTAINER, _STRING, _ITEM = 112, 80, 80


def read_text(path: str | os.PathLike[str]) -> str:
    """Read a UTF-8 file; line breaks are not changed.

    Raises:
        CheckpointError: if it cannot be read, or is not UTF-8.
    """
    try:
        with Path(path).open(encoding="utf-8", newline="") as file:
            return file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"Cannot read {os.fspath(path)!r}: {error}") from error


def read_json(path: str | os.PathLike[str], budget: Budget | None = None) -> Any:
    """Read a JSON file.

    Args:
        path: of the file.
        budget: the memory that reading it may take, including its size; by default its own.

    Raises:
        CheckpointError: if it cannot be read, is not JSON, or would take too much memory.
    """
    text = read_text(path)
    name = os.fspath(path)
    try:
        return load_json(text, Budget(name, len(text)) if budget is None else budget)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{name!r} is not valid JSON: {error}") from error


def read_object(path: str | os.PathLike[str], budget: Budget | None = None) -> dict[str, Any]:
    """Read a JSON file that holds an object; raises CheckpointError for anything else."""
    content = read_json(path, budget)
    if not isinstance(content, dict):
        raise CheckpointError(
            f"{os.fspath(path)!r} must hold a JSON object, not {type(content).__name__}."
        )
    return content


def load_json(text: str | bytes, budget: Budget, **options: Any) -> Any:
    """Parse JSON as `json.loads` does, after charging `budget` for what it will take.

    Raises:
        ValueError: if it is not JSON.
        RecursionError: if it is nested too deep.
        CheckpointError: if it would take too much memory.
    """
    budget.charge(sys.getsizeof(text), "texts")
    marks = {"{": _CONTAINER, "[": _CONTAINER, ",": _ITEM, '"': _STRING // 2}
    for mark, nbytes in marks.items():
        count = text.count(mark.encode()) if isinstance(text, bytes) else text.count(mark)
        budget.charge(count * nbytes, "JSON values")
    return json.loads(text, **options)
