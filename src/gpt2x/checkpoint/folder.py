"""Writing model folders and files, so that what is cut short leaves nothing that looks whole."""

from __future__ import annotations

import fnmatch
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from gpt2x.errors import InvalidInputError

#: How the temporary folders are called that a killed process may leave.
WORK_PREFIX = ".gpt2x-"

_INDEX = "*.index*.json"


@contextmanager
def atomic_folder(
    path: str | os.PathLike[str], *, replaces: tuple[str, ...] = ()
) -> Iterator[Path]:
    """Give a temporary folder whose files appear at `path` together, once all are written.

    A new folder appears by one rename. In one that exists, files of the same names are replaced,
    and those that match a pattern of `replaces`, the weights, go even if they are not written anew
    (the shards of an earlier save, say). Old weights go first and new ones come last, an index
    after its shards: wherever the process is killed, the folder holds the old model, the new one,
    or none that can be read. If the body raises, `path` stays as it was.

    Raises InvalidInputError if `path` is a file.
    """
    target = Path(path).expanduser()
    if target.exists() and not target.is_dir():
        raise InvalidInputError(f"{str(path)!r} is a file; give a folder to save to.")
    target.parent.mkdir(parents=True, exist_ok=True)
    # Inside an existing folder, so that moving stays on one file system; else beside it.
    parent = target if target.is_dir() else target.parent
    work = Path(tempfile.mkdtemp(prefix=WORK_PREFIX, dir=parent))
    work.chmod(0o777 & ~_umask())
    try:
        yield work
        if target.is_dir():
            _move_in(work, target, replaces)
        else:
            work.rename(target)
    finally:
        shutil.rmtree(work, ignore_errors=True)


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`, which takes its place when the body succeeds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=WORK_PREFIX, dir=path.parent) as work:
        beside = Path(work, path.name)
        yield beside
        beside.replace(path)


def _move_in(work: Path, target: Path, replaces: tuple[str, ...]) -> None:
    def order(name: str) -> tuple[bool, bool]:
        # Shards without their index, or an index without its shards, are refused by every reader.
        is_weights = any(fnmatch.fnmatchcase(name, pattern) for pattern in replaces)
        return is_weights, is_weights and fnmatch.fnmatchcase(name, _INDEX)

    written = {entry.name for entry in work.iterdir()}
    old = [n for n in (entry.name for entry in target.iterdir()) if n in written or order(n)[0]]
    with tempfile.TemporaryDirectory(prefix=WORK_PREFIX, dir=target) as aside, ExitStack() as undo:
        moves = [(target, Path(aside), name) for name in sorted(old, key=order, reverse=True)]
        moves += [(work, target, name) for name in sorted(written, key=order)]
        for source, destination, name in moves:
            os.replace(source / name, destination / name)
            undo.callback(os.replace, destination / name, source / name)
        undo.pop_all()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
