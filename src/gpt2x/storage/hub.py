"""Finding the files of a model by its folder or its name on the hub."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gpt2x.errors import CheckpointError, InvalidInputError
from gpt2x.storage.atomic import check_finished

Stamp = tuple[int, int, int]

# How long to wait for the list of a repository's files. Without one, the cache is listed.
_LISTING_SECONDS = 10.0


class ModelFiles:
    """The files of one model: a local folder, or a repository of the Hugging Face Hub.

    For a folder the network is never used. Files of a repository come through huggingface-hub and
    its cache. The first file fixes the commit, so that all files belong together even if the
    repository changes meanwhile.

    Args:
        name_or_path: a folder, or a repository such as ``"gpt2"`` or ``"user/model"``.
        revision: branch, tag or commit of the repository; ``main`` by default.
        subfolder: folder inside the folder or repository.
        cache_dir: where downloads are kept; huggingface-hub's own cache by default.
        token: access token; True or None use the one that ``hf auth login`` stored, False none.
        local_files_only: use only files in the cache, without a request to the hub.
        force_download: download files again that are in the cache.
    """

    def __init__(
        self,
        name_or_path: str | Path,
        *,
        revision: str | None = None,
        subfolder: str = "",
        cache_dir: str | Path | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
        force_download: bool = False,
    ) -> None:
        if not isinstance(name_or_path, str | Path) or str(name_or_path) == "":
            raise InvalidInputError(
                f"The model is {name_or_path!r}; it must be a folder or a name on the hub."
            )
        if local_files_only and force_download:
            raise InvalidInputError(
                "local_files_only=True and force_download=True contradict each other."
            )
        self.name = str(name_or_path)
        self.subfolder = subfolder or ""
        self._revision = revision
        self._cache_dir = cache_dir
        self._token = token
        self._local_files_only = self._offline = local_files_only
        self._force_download = force_download
        self._commit: str | None = None
        self._found: dict[str, Path | None] = {}
        self._seen: dict[Path, Stamp | None] = {}
        path = Path(name_or_path).expanduser()
        self.folder = path / self.subfolder if path.is_dir() else None
        if self.folder is None:
            self._check_repository_name(path)
        elif not self.folder.is_dir():
            raise CheckpointError(f"{self.name!r} has no folder {self.subfolder!r}.")
        else:
            check_finished(self.folder)

    def _check_repository_name(self, path: Path) -> None:
        from huggingface_hub.errors import HFValidationError
        from huggingface_hub.utils import validate_repo_id

        if path.is_file():
            raise CheckpointError(f"{self.name!r} is a file; give the folder that holds the model.")
        try:
            validate_repo_id(self.name)
        except HFValidationError as error:
            raise CheckpointError(
                f"There is no folder {self.name!r}, and it cannot be a model on the Hugging Face "
                "Hub, whose names read 'model' or 'user/model'."
            ) from error

    def find(self, filename: str) -> Path | None:
        """Return the local path of a file, which may be downloaded; None if the model has none.

        Raises CheckpointError if the repository or revision does not exist, is not open to this
        user, or cannot be reached while nothing of it is cached.
        """
        if self.folder is not None:
            path = self.folder / filename
            self._seen.setdefault(path, _stamp(path))
            return path if path.is_file() else None
        if filename not in self._found:
            self._found[filename] = self._download(filename)
        return self._found[filename]

    def check_unchanged(self) -> None:
        """Raise CheckpointError if a save has replaced files since they were looked for.

        Call it when all files are open: they may come from two saves.
        """
        if self.folder is None:
            return
        check_finished(self.folder)
        if any(_stamp(path) != stamp for path, stamp in self._seen.items()):
            raise CheckpointError(f"{self.name!r} was saved to while it was read; load it again.")

    def names(self, inside: str = "") -> list[str]:
        """The names of all files directly in the folder, or in the repository (one request).

        If the hub does not answer, those that are cached.

        Args:
            inside: list this folder in it instead; none are listed if it does not exist.
        """
        if self.folder is not None:
            return _file_names(self.folder / inside)
        from huggingface_hub.errors import HTTPError

        try:
            files = None if self._offline else self._list()
        except (HTTPError, OSError):
            files = None  # no connection, or a server without a listing
        if files is None:
            snapshot = self._snapshot()
            return _file_names(snapshot / self.subfolder / inside) if snapshot else []
        prefix = "".join(f"{folder}/" for folder in (self.subfolder, inside) if folder)
        names = [name.removeprefix(prefix) for name in files if name.startswith(prefix)]
        return sorted(name for name in names if "/" not in name)

    def _list(self) -> list[str]:
        """Return the names of all files, with their folders, from the hub."""
        from huggingface_hub import HfApi

        # Not list_repo_files: without a connection it tries for half a minute.
        info = HfApi(endpoint(), token=self._token).model_info(
            self.name, revision=self._commit or self._revision, timeout=_LISTING_SECONDS
        )
        return [file.rfilename for file in info.siblings or []]

    def _download(self, filename: str) -> Path | None:
        from huggingface_hub import errors, hf_hub_download

        if self._is_known_absent(filename):
            return None
        try:
            path = hf_hub_download(
                self.name,
                filename,
                subfolder=self.subfolder or None,
                revision=self._commit or self._revision,
                cache_dir=self._cache_dir,
                token=self._token,
                local_files_only=self._offline,
                force_download=self._force_download,
                library_name="gpt2x",
                endpoint=endpoint(),
            )
        except errors.LocalEntryNotFoundError as error:
            # No connection, or none allowed: from now on only the cache is used.
            self._offline = True
            if self._snapshot() is None:
                raise CheckpointError(self._unreachable()) from error
            return None
        except errors.EntryNotFoundError:
            return None
        except (errors.HTTPError, ValueError, OSError) as error:
            raise CheckpointError(self._refused(filename, error)) from error
        self._commit = self._commit or _commit_of(Path(path), filename, self.subfolder)
        return Path(path)

    def _is_known_absent(self, filename: str) -> bool:
        """Return whether the cache knows that this commit has no such file."""
        from huggingface_hub import _CACHED_NO_EXIST, try_to_load_from_cache  # its docs name both

        if self._force_download or (self._commit is None and not self._offline):
            return False
        inside = f"{self.subfolder}/{filename}" if self.subfolder else filename
        cached = try_to_load_from_cache(
            self.name, inside, cache_dir=self._cache_dir, revision=self._commit or self._revision
        )
        return cached is _CACHED_NO_EXIST

    def _snapshot(self) -> Path | None:
        """The cache's folder for this revision, if it has one."""
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import LocalEntryNotFoundError

        try:
            folder = snapshot_download(
                self.name,
                revision=self._commit or self._revision,
                cache_dir=self._cache_dir,
                local_files_only=True,
                allow_patterns=[],  # whichever files it has
            )
        except LocalEntryNotFoundError:
            return None
        return Path(folder)

    def _url(self) -> str:
        return f"{endpoint()}/{self.name}"

    def _refused(self, filename: str, error: Exception) -> str:
        from huggingface_hub import errors

        if isinstance(error, errors.GatedRepoError):  # which is a RepositoryNotFoundError as well
            return (
                f"Access to {self.name!r} is gated. Ask for it at {self._url()} and pass token=... "
                "or run `hf auth login`."
            )
        if isinstance(error, errors.RepositoryNotFoundError):
            return (
                f"{self.name!r} is neither a local folder nor a model at {self._url()}. Check the "
                "spelling; for a private model pass token=... or run `hf auth login`."
            )
        if isinstance(error, errors.RevisionNotFoundError):
            return (
                f"{self.name!r} has no branch, tag or commit {self._revision!r}; see {self._url()}."
            )
        return f"Cannot download {filename!r} of {self.name!r}: {error}"

    def _unreachable(self) -> str:
        revision = f" at revision {self._revision!r}" if self._revision else ""
        if self._local_files_only:
            return (
                f"{self.name!r}{revision} is not a local folder and not in the download cache, and "
                "local_files_only=True forbids downloading it."
            )
        return (
            f"{self.name!r}{revision} is not a local folder and not in the download cache, and "
            f"{self._url()} cannot be reached. Check the connection (and that HF_HUB_OFFLINE is "
            "not set), or give the path of a folder."
        )


def _file_names(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    return sorted(path.name for path in folder.iterdir() if path.is_file())


def _stamp(path: Path) -> Stamp | None:
    """Return an identity that changes when a file is replaced; None without a file."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size


def endpoint() -> str:
    """Return the hub's address, from HF_ENDPOINT now; huggingface-hub reads it at its import."""
    from huggingface_hub.constants import ENDPOINT

    return os.environ.get("HF_ENDPOINT", ENDPOINT).rstrip("/")


def _commit_of(path: Path, filename: str, subfolder: str) -> str | None:
    """The commit in a cached file's path, ``.../snapshots/COMMIT/subfolder/filename``."""
    depth = len(Path(subfolder, filename).parts)
    parents = path.parents
    if len(parents) > depth and parents[depth].name == "snapshots":
        return parents[depth - 1].name
    return None


def resolve_files(
    name_or_path: str | Path, filenames: Iterable[str], **where: Any
) -> dict[str, Path | None]:
    """Return file name -> local path, or None for a file that the model does not have.

    See `ModelFiles` for the keywords and the errors.
    """
    files = ModelFiles(name_or_path, **where)
    return {filename: files.find(filename) for filename in filenames}
