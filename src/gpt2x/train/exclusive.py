"""One run at a time in a folder: two would delete each other's checkpoints and mix their logs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gpt2x.errors import InvalidInputError
from gpt2x.storage.atomic import WITHOUT_LOCKS

_LOCK = ".gpt2x-run"


@contextmanager
def only_run(output_dir: Path) -> Iterator[None]:
    """Hold a folder, which is made if need be; the system frees it when its process ends.

    A file system without locks does not keep a second run out.

    Raises:
        InvalidInputError: if another run holds it.
    """
    from filelock import FileLock, Timeout

    output_dir.mkdir(parents=True, exist_ok=True)
    path = output_dir / _LOCK
    lock = FileLock(path, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise InvalidInputError(
            f"Another run is training into {str(output_dir)!r}. Wait until it ends, or give "
            "another output_dir."
        ) from None
    except OSError as error:
        if error.errno not in WITHOUT_LOCKS:
            raise
    try:
        yield
    finally:
        with suppress(OSError):  # Windows removes the file when it is released
            path.unlink()
        lock.release()
