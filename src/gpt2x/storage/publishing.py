"""Uploading the folders of `save_pretrained` to the Hugging Face Hub, with a model card."""

from __future__ import annotations

import inspect
import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from gpt2x.errors import CheckpointError, InvalidInputError, unknown_arguments
from gpt2x.storage.atomic import WORK_PREFIX, check_finished
from gpt2x.storage.hub import endpoint
from gpt2x.storage.json_files import read_object

CARD_NAME = "README.md"

# Folders that are not part of a model: git's, and the notes of the hub's library on downloads.
_PRIVATE = {".git", ".cache"}

# Class in config.json -> the hub's name of the task.
_TASKS = {
    "GPT2LMHeadModel": "text-generation",
    "GPT2DoubleHeadsModel": "text-generation",
    "GPT2ForSequenceClassification": "text-classification",
    "GPT2ForTokenClassification": "token-classification",
    "GPT2ForQuestionAnswering": "question-answering",
    "GPT2Model": "feature-extraction",
}


def push_folder(
    folder: str | os.PathLike[str],
    repo_id: str | None = None,
    *,
    commit_message: str = "Upload model",
    commit_description: str | None = None,
    private: bool | None = None,
    token: str | bool | None = None,
    create_pr: bool = False,
    revision: str | None = None,
) -> str:
    """Upload a folder to a repository, which is made if need be; return the commit's address, or
    the pull request's.

    It is one commit, with a new model card if neither the folder nor the repository has one.

    Args:
        folder: the folder to upload.
        repo_id: ``"name"`` (of the token's owner) or ``"user/name"``; by default the folder's name.
        commit_message: title of the commit.
        commit_description: text of the commit.
        private: whether a new repository is private.
        token: access token with write permission; by default the one that ``hf auth login`` stored.
        create_pr: open a pull request against ``main`` instead of committing; this needs no write
            permission for the repository.
        revision: branch to commit to, which is made if need be.

    Raises:
        CheckpointError: if the hub refuses or cannot be reached, or if a save into the folder was
            interrupted.
        InvalidInputError: for a pull request against another branch than ``main``.
    """
    if create_pr and revision not in (None, "main"):
        raise InvalidInputError(
            f"create_pr=True opens a pull request against 'main', but revision is {revision!r}; "
            "leave out one of them."
        )
    folder = Path(folder).expanduser()
    check_finished(folder)
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import HTTPError  # of huggingface-hub's HTTP library

    repo_id = repo_id or folder.resolve().name
    api = HfApi(endpoint(), token=token, library_name="gpt2x")
    try:
        if create_pr and api.repo_exists(repo_id):
            repository = repo_id  # the repository may be somebody else's
        else:
            repository = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        if revision is not None and not revision.startswith("refs/"):
            api.create_branch(repository, branch=revision, exist_ok=True)
        operations = [
            CommitOperationAdd(path.relative_to(folder).as_posix(), path)
            for path in sorted(folder.rglob("*"))
            if path.is_file() and not _is_private(path.relative_to(folder))
        ]
        added = {operation.path_in_repo for operation in operations}
        card = None if CARD_NAME in added else model_card(folder, repository)
        if card is not None and not api.file_exists(repository, CARD_NAME, revision=revision):
            operations.append(CommitOperationAdd(CARD_NAME, card.encode("utf-8")))
        commit = api.create_commit(
            repository,
            operations,
            commit_message=commit_message,
            commit_description=commit_description,
            create_pr=create_pr,
            revision=revision,
        )
    except (HTTPError, ValueError, OSError) as error:
        raise CheckpointError(
            f"Cannot upload to {repo_id!r} at {endpoint()}: {str(error).rstrip(' .')}. Uploading "
            "needs a connection, and a token with write permission: pass token=... or run "
            "`hf auth login`."
        ) from error
    return commit.pr_url or commit.commit_url


def check_push_options(where: str, options: Iterable[str], others: Iterable[str] = ()) -> None:
    """Raise InvalidInputError, in the name of `where`, for what `push_folder` does not take.

    `others` are further arguments of `where`, one of which a misspelt name may stand for.
    """
    allowed = [name for name in inspect.signature(push_folder).parameters if name != "folder"]
    unknown = [name for name in options if name not in allowed]
    if unknown:
        raise InvalidInputError(unknown_arguments(where, unknown, [*others, *allowed]))


def _is_private(path: Path) -> bool:
    """Whether a file lies in a folder that is not the model's, or was left by a killed save."""
    return any(part in _PRIVATE or part.startswith(WORK_PREFIX) for part in path.parts)


def model_card(folder: str | os.PathLike[str], repo_id: str) -> str | None:
    """The text of a model card for a saved model: metadata, sizes, and how to use it.

    None for a folder without a model, whose config names no architecture: a tokenizer's, say.
    """
    path = Path(folder, "config.json")
    config: Mapping[str, Any] = read_object(path) if path.is_file() else {}
    if not config.get("architectures"):
        return None
    architecture = config["architectures"][0]
    task = _TASKS.get(architecture, "text-generation")
    sizes = {
        "layers": config.get("n_layer"),
        "heads": config.get("n_head"),
        "width": config.get("n_embd"),
        "context": config.get("n_positions"),
        "vocabulary": config.get("vocab_size"),
    }
    rows = "\n".join(f"| {name} | {value} |" for name, value in sizes.items() if value is not None)
    return f"""---
library_name: transformers
pipeline_tag: {task}
tags:
- gpt2
- gpt2x
---

# {repo_id.rpartition("/")[2]}

A GPT-2 model (`{architecture}`), saved with gpt2x in the layout of transformers.

| | |
|---|---|
{rows}

## Use

```python
from gpt2x import {architecture}, GPT2Tokenizer

model = {architecture}.from_pretrained("{repo_id}")
tokenizer = GPT2Tokenizer.from_pretrained("{repo_id}")
```

What the model was trained on, how well it does, and under which licence it may be used: please add.
"""


class PushToHubMixin:
    """Gives a class with `save_pretrained` the method `push_to_hub`."""

    def push_to_hub(
        self,
        repo_id: str,
        *,
        commit_message: str | None = None,
        commit_description: str | None = None,
        private: bool | None = None,
        token: str | bool | None = None,
        create_pr: bool = False,
        revision: str | None = None,
        **save_options: Any,
    ) -> str:
        """Save to a temporary folder and upload it; return the commit's or pull request's address.

        `save_options` go to `save_pretrained` (`max_shard_size`, `safe_serialization` ...). The
        other arguments and the errors are those of `gpt2x.publishing.push_folder`.
        """
        with tempfile.TemporaryDirectory() as work:
            folder = Path(work, repo_id.rpartition("/")[2])
            self.save_pretrained(folder, **save_options)  # type: ignore[attr-defined]
            return push_folder(
                folder,
                repo_id,
                commit_message=commit_message or f"Upload {type(self).__name__}",
                commit_description=commit_description,
                private=private,
                token=token,
                create_pr=create_pr,
                revision=revision,
            )
