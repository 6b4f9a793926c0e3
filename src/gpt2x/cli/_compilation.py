"""Keep what JAX compiles for the next run of the command line."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

#: The folder of what is compiled; "off" keeps nothing.
VARIABLE = "GPT2X_COMPILATION_CACHE"


def keep_compiled() -> None:
    """Let JAX, which must not be imported yet, read and write a cache of compiled computations.

    A variable of JAX's own that is set already has its say. A folder that cannot be written is a
    warning.
    """
    if os.environ.get(VARIABLE) == "off" or "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    folder = _folder()
    try:
        # Others must not write here what this user will run.
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        is_writable = os.access(folder, os.W_OK | os.X_OK)
    except OSError:
        is_writable = False
    if not is_writable:
        warnings.warn(
            f"What is compiled cannot be kept for the next run, since {folder} cannot be written; "
            f"set {VARIABLE} to another folder, or to off.",
            UserWarning,
            stacklevel=2,
        )
        return
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)
    # By default only what took a second: less than the parts of a small model take.
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")


def _folder() -> Path:
    given = os.environ.get(VARIABLE)
    if given:
        return Path(given).expanduser().absolute()
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(caches).expanduser() / "gpt2x" / "jax"
