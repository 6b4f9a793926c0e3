"""Writing model folders, so that a save that is cut short leaves nothing that looks whole."""

from __future__ import annotations

import fnmatch
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gpt2x.errors import InvalidInputError

_CONFIG_NAME = "config.json"


@contextmanager
def atomic_folder(
    path: str | os.PathLike[str], *, replaces: tuple[str, ...] = ()
) -> Iterator[Path]:
    """Give a temporary folder whose files appear at `path` together, once all are written.

    A new folder appears by one rename. In one that exists, files are moved in one by one, each
    whole, and those matching a pattern of `replaces` that were not written anew are deleted (the
    shards of an earlier save, say); config.json is taken away first and put in last, so that old
    and new never pass for one model. If the body raises, `path` stays as it was.

    Raises InvalidInputError if `path` is a file.
    """
    target = Path(path).expanduser()
    if target.exists() and not target.is_dir():
        raise InvalidInputError(f"{str(path)!r} is a file; give a folder to save to.")
    target.parent.mkdir(parents=True, exist_ok=True)
    # Inside an existing folder, so that moving stays on one file system; else beside it.
    parent = target if target.is_dir() else target.parent
    work = Path(tempfile.mkdtemp(prefix=".gpt2x-", dir=parent))
    work.chmod(0o777 & ~_umask())
    try:
        yield work
        if target.is_dir():
            _move_in(work, target, replaces)
        else:
            work.rename(target)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _move_in(work: Path, target: Path, replaces: tuple[str, ...]) -> None:
    written = {file.name for file in work.iterdir()}
    if _CONFIG_NAME in written:
        (target / _CONFIG_NAME).unlink(missing_ok=True)
    for name in sorted(written - {_CONFIG_NAME}):
        os.replace(work / name, target / name)
    for file in list(target.iterdir()):
        stale = any(fnmatch.fnmatchcase(file.name, pattern) for pattern in replaces)
        if stale and file.name not in written and file.is_file():
            file.unlink()
    if _CONFIG_NAME in written:
        os.replace(work / _CONFIG_NAME, target / _CONFIG_NAME)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
