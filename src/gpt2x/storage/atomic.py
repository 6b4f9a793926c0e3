"""Saving files: after an interrupted save, a load gives the old files, the new ones or an error.

A save writes to a hidden work folder, ``.gpt2x-*``, and then moves its files in:

1. It takes the lock of the destination, ``.gpt2x-lock``. One save at a time moves files; of two,
   the last one wins, whole. The operating system frees the lock when its process ends.
2. A note, ``.gpt2x-unfinished``, appears by one rename. It says what is replaced and what comes.
3. The old files go and the new ones come. Files that name other files go first and come last.
4. The note goes.

Readers refuse a folder with the note. The next save first finishes what the note describes, and
removes the work folders of processes that have ended. Other programs do not know the note; the
order of step 3 keeps them from reading a mixture.
"""

from __future__ import annotations

import errno
import fnmatch
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gpt2x.errors import CheckpointError, InvalidInputError
from gpt2x.storage.budget import Budget
from gpt2x.storage.json_files import load_json

if TYPE_CHECKING:
    from filelock import BaseFileLock

#: How the names of a save's temporary files begin.
WORK_PREFIX = ".gpt2x-"

_LOCK = f"{WORK_PREFIX}lock"
_NOTE = f"{WORK_PREFIX}unfinished"
# In a work folder: the files to move in, those moved out, and the lock that its process holds.
_NEW, _OLD, _ALIVE = "new", "old", "lock"

# The lock is held for a few renames: a process that holds it longer has stopped.
_PATIENCE_SECONDS = 3.0

#: What a file system without locks answers.
WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP)
_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def atomic_folder(
    path: str | os.PathLike[str], *, replaces: tuple[str, ...] = ()
) -> Iterator[Path]:
    """Give a temporary folder whose files and folders appear at `path` together.

    A new folder appears by one rename. In an existing folder, files and folders of the same names
    are replaced; those that match a pattern of `replaces` are always removed, such as the shards of
    an earlier save. If the body raises, `path` stays as it was.

    Args:
        path: the folder, made if need be.
        replaces: patterns of names, in the order in which such files move in; files that match no
            pattern come first. Old files go in the opposite order. A file without which nothing is
            read, such as an index of shards, belongs last.

    Raises:
        CheckpointError: if another save does not end, or an interrupted save left too little.
        InvalidInputError: if `path` is a file, or a link to nothing.
        OSError: if the folder cannot be written to, or the disk is full.
    """
    target = Path(path).expanduser()
    check_folder(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    # Inside an existing folder, so that files move within a file system; else beside it.
    exists = target.is_dir()
    with _explained(target), _work_folder(target if exists else target.parent) as work:
        yield work / _NEW
        _flush(work / _NEW)
        if exists:
            _move_in(work, target, replaces)
        elif not _appears(work / _NEW, target):
            with _work_folder(target) as inside:
                (inside / _NEW).rmdir()
                os.replace(work / _NEW, inside / _NEW)
                _move_in(inside, target, replaces)


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Give a temporary path of the same name, which replaces `path` at the end.

    Its folder is made if need be. If the body raises, `path` stays as it was. Raises as
    `atomic_folder` does.
    """
    path = path.expanduser()
    path.parent.mkdir(parents=True, exist_ok=True)
    with _explained(path), _work_folder(path.parent) as work:
        beside = work / _NEW / path.name
        yield beside
        _flush(work / _NEW)
        os.replace(beside, path)


def check_folder(path: Path) -> None:
    """Raise InvalidInputError if this is the name of something other than a folder."""
    path = path.expanduser()
    if path.is_dir() or not os.path.lexists(path):
        return
    what = "a file" if path.exists() else "a link to nothing"
    raise InvalidInputError(f"{str(path)!r} is {what}; give a folder to save to.")


def check_finished(folder: Path) -> None:
    """Raise CheckpointError if a save into the folder was cut short, or is moving files just now.

    The files of such a folder may come from two saves.
    """
    if (folder / _NOTE).exists():
        raise CheckpointError(
            f"A save into {str(folder)!r} was cut short, or is just ending. If none is running, "
            "save into it again: that first finishes what was cut short."
        )


# Work folders -------------------------------------------------------------------------------------


@contextmanager
def _work_folder(directory: Path) -> Iterator[Path]:
    """A temporary folder with an empty folder ``new``; removes those that killed saves left."""
    with ExitStack() as stack:
        with _locked(directory):
            _finish(directory)
            leftovers = list(_leftovers(directory))
            work = Path(tempfile.mkdtemp(prefix=WORK_PREFIX, dir=directory))
            stack.callback(_remove, work)
            alive = _lock(work / _ALIVE, 0)
            if _acquire(alive):
                stack.callback(alive.release)
        for path in leftovers:
            shutil.rmtree(path, ignore_errors=True)
        (work / _NEW).mkdir()
        yield work


def _leftovers(directory: Path) -> Iterator[Path]:
    """Return the work folders whose processes have ended."""
    from filelock import Timeout

    for path in list(directory.iterdir()):
        if not path.name.startswith(WORK_PREFIX) or not path.is_dir() or path.is_symlink():
            continue
        try:
            with _lock(path / _ALIVE, 0):
                pass
        except (Timeout, OSError):  # of a running save, or of another user
            continue
        yield path


def _remove(work: Path) -> None:
    note = _read_note(work.parent)
    if note is None or note.work != work.name:  # else it is needed to finish
        shutil.rmtree(work, ignore_errors=True)


def _flush(folder: Path) -> None:
    """Wait until files are on the disk: the files that they replace are lost afterwards."""
    mode = "rb+" if os.name == "nt" else "rb"  # Windows flushes only writable files
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open(mode) as file:
                os.fsync(file.fileno())


@contextmanager
def _explained(target: Path) -> Iterator[None]:
    """Name the destination in errors that name a temporary file, or a full disk."""
    try:
        yield
    except OSError as error:
        if error.errno is None or not (error.errno in _FULL or _names_work(error)):
            raise
        raise OSError(
            error.errno,
            f"{os.strerror(error.errno)}: nothing was saved to {str(target)!r}",
        ) from error


def _names_work(error: OSError) -> bool:
    if not isinstance(error.filename, str | bytes):
        return False
    parts = Path(os.fsdecode(error.filename)).parts
    return any(part.startswith(WORK_PREFIX) for part in parts)


# Locks --------------------------------------------------------------------------------------------


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Hold the lock of a folder; a killed process leaves the lock's file behind, unlocked."""
    from filelock import Timeout

    path = directory / _LOCK
    lock = _lock(path, _PATIENCE_SECONDS)
    with ExitStack() as stack:
        try:
            is_held = _acquire(lock)
        except Timeout:
            raise CheckpointError(
                f"Another save into {str(directory)!r} has held {str(path)!r} for more than "
                f"{_PATIENCE_SECONDS:g} seconds. Wait until its process ends, or end it, and save "
                "again."
            ) from None
        if is_held:
            stack.callback(lock.release)
            stack.callback(
                _discard, path
            )  # a process that has opened it sees that it is gone, and retries
        else:
            warnings.warn(
                f"The file system of {str(directory)!r} has no locks; let no two saves into one "
                "folder run at once.",
                stacklevel=2,
            )
        yield


def _acquire(lock: BaseFileLock) -> bool:
    """Take a lock; return False on a file system without locks."""
    try:
        lock.acquire()
    except OSError as error:
        if error.errno not in WITHOUT_LOCKS:
            raise
        return False
    return True


def _discard(path: Path) -> None:
    with suppress(OSError):  # Windows does not remove an open file; there, releasing the lock does
        path.unlink()


def _lock(path: Path, timeout: float) -> BaseFileLock:
    """A lock that every user may take, that holds between threads too and ends with its process."""
    # Not above: loading needs no locks.
    from filelock import FileLock

    return FileLock(path, timeout=timeout, mode=0o666)


# Moving -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Note:
    """The moves of a save, so that the next save can finish them.

    Attributes:
        work: name of the work folder.
        old: names that go, in order.
        new: names that come, in order.
    """

    work: str
    old: list[str]
    new: list[str]


def _appears(new: Path, target: Path) -> bool:
    """Give a folder its name; False if another process has made one of that name."""
    try:
        new.rename(target)
    except OSError:
        if not target.is_dir():
            raise
        return False
    return True


def _move_in(work: Path, target: Path, replaces: tuple[str, ...]) -> None:
    def place(name: str) -> int:
        matching = (i for i, p in enumerate(replaces) if fnmatch.fnmatchcase(name, p))
        return max(matching, default=-1)

    new = sorted(os.listdir(work / _NEW), key=place)
    with _locked(target), ExitStack() as undo:
        _finish(target)
        old = [name for name in os.listdir(target) if name in new or place(name) >= 0]
        note = _Note(work.name, sorted(old, key=place, reverse=True), new)
        _write_note(note, target)
        undo.callback((target / _NOTE).unlink)
        _move(note, target, undo)
        undo.pop_all()
        (target / _NOTE).unlink()


def _finish(directory: Path) -> None:
    """Finish the save that was interrupted here, if there is one."""
    note = _read_note(directory)
    if note is None:
        return
    if not (directory / note.work / _NEW).is_dir():
        raise CheckpointError(
            f"A save into {str(directory)!r} was cut short and cannot be finished, since its files "
            f"in {note.work!r} are gone. Save to another folder, or empty this one."
        )
    with ExitStack() as kept:
        _move(note, directory, kept)
        kept.pop_all()
    (directory / _NOTE).unlink()


def _move(note: _Note, target: Path, undo: ExitStack) -> None:
    """Move the files that are not moved yet."""
    coming, aside = target / note.work / _NEW, target / note.work / _OLD
    aside.mkdir(exist_ok=True)

    def move(source: Path, destination: Path) -> None:
        os.replace(source, destination)
        undo.callback(os.replace, destination, source)

    for name in note.old:
        has_come = name in note.new and not os.path.lexists(coming / name)
        if not has_come and os.path.lexists(target / name):
            move(target / name, aside / name)
    for name in note.new:
        if os.path.lexists(coming / name):
            move(coming / name, target / name)


def _write_note(note: _Note, target: Path) -> None:
    path = target / note.work / _NOTE
    path.write_text(json.dumps(asdict(note)), encoding="utf-8")
    os.replace(path, target / _NOTE)


def _read_note(directory: Path) -> _Note | None:
    """The note in a folder, if there is one. It may be a stranger's, so it may not name paths."""
    path = directory / _NOTE
    try:
        text = path.read_text(encoding="utf-8")
        note = _Note(**load_json(text, Budget(str(path), len(text))))
        names = [note.work, *note.old, *note.new]
        is_sound = note.work.startswith(WORK_PREFIX) and all(map(_is_plain, names))
    except FileNotFoundError:
        return None
    except (AttributeError, TypeError, ValueError, RecursionError):
        is_sound = False
    if not is_sound:
        raise CheckpointError(
            f"{str(path)!r}, which a save that was cut short has left, is damaged. Save to another "
            "folder, or empty this one."
        )
    return note


def _is_plain(name: object) -> bool:
    return isinstance(name, str) and name not in ("", "..") and name == Path(name).name
