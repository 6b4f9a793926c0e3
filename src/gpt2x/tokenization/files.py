"""Tokenizer folders: reading those of transformers 2 to 5 and OpenAI, writing for 4 and 5."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from tokenizers import AddedToken

from gpt2x.errors import CheckpointError, InvalidInputError
from gpt2x.storage.atomic import atomic_folder
from gpt2x.storage.hub import ModelFiles
from gpt2x.storage.json_files import read_object, read_text
from gpt2x.storage.loading import drop_model_options, take_where
from gpt2x.tokenization.settings import KNOWN, OPTIONAL, SETTINGS
from gpt2x.tokenization.special_tokens import ADDITIONAL, NAMED_TOKENS
from gpt2x.tokenization.template import Template
from gpt2x.tokenization.vocabulary import (
    PathLike,
    Vocabulary,
    added_token,
    added_token_state,
)

if TYPE_CHECKING:
    from gpt2x.tokenization.base import GPT2TokenizerBase

    AnyTokenizer = TypeVar("AnyTokenizer", bound=GPT2TokenizerBase)

TOKENIZER_FILE = "tokenizer.json"
VOCAB_FILE, MERGES_FILE = "vocab.json", "merges.txt"
OPENAI_VOCAB_FILE, OPENAI_MERGES_FILE = "encoder.json", "vocab.bpe"
CONFIG_FILE = "tokenizer_config.json"
SPECIAL_TOKENS_FILE = "special_tokens_map.json"
ADDED_TOKENS_FILE = "added_tokens.json"
CHAT_TEMPLATE_FILE = "chat_template.jinja"
CHAT_TEMPLATES_FOLDER = "additional_chat_templates"
_JINJA = ".jinja"

VOCAB_FILES_NAMES = {
    "vocab_file": VOCAB_FILE,
    "merges_file": MERGES_FILE,
    "tokenizer_file": TOKENIZER_FILE,
}

# Options of tokenizers that have no meaning here, since there is one way to load.
_IGNORED_OPTIONS = ("use_fast", "from_slow", "do_lower_case")

# Keys of tokenizer_config.json that say where and how it was written; they are not settings.
_NOT_SETTINGS = {
    "tokenizer_class",
    "name_or_path",
    "vocab_file",
    "merges_file",
    "tokenizer_file",
    "special_tokens_map_file",
    "device_map",
    "init_inputs",
    "backend",
    "is_local",
    "local_files_only",
}

_TOKEN_SETTINGS = (*NAMED_TOKENS, ADDITIONAL, "extra_special_tokens")


# Reading ------------------------------------------------------------------------------------------


def load(
    cls: type[AnyTokenizer], name_or_path: PathLike, options: Mapping[str, Any]
) -> AnyTokenizer:
    """Load a tokenizer: see `GPT2TokenizerBase.from_pretrained`."""
    given = {name: value for name, value in options.items() if name not in _IGNORED_OPTIONS}
    drop_model_options(given)
    where = take_where(given)
    where["subfolder"] = where.get("subfolder") or ""
    gguf_file = given.pop("gguf_file", None)
    with _tokenizer_folder(name_or_path, gguf_file, where) as model_files:
        vocabulary = _read_vocabulary(model_files)
        config = _read_config(model_files)
        model_files.check_unchanged()
        paths = _paths(cls, model_files.folder if gguf_file is None else None)
    settings = {name: value for name, value in config.items() if name in KNOWN}
    if vocabulary.template not in (None, Template()):
        settings.pop("add_bos_token", None)  # tokenizer.json says it, and more exactly
    tokenizer = cls.from_vocabulary(
        vocabulary, **{**settings, "name_or_path": str(name_or_path), **given}
    )
    others = {k: v for k, v in config.items() if k not in KNOWN}
    tokenizer.init_kwargs = {**others, **tokenizer.init_kwargs, **paths}
    return tokenizer


def _paths(cls: type[AnyTokenizer], folder: Path | None) -> dict[str, str | None]:
    """Return the files whose paths transformers' classes keep, by argument of the constructor."""

    def path_of(name: str) -> str | None:
        path = None if folder is None else folder / VOCAB_FILES_NAMES[name]
        return str(path) if path is not None and path.is_file() else None

    paths = {name: path_of(name) for name in VOCAB_FILES_NAMES}
    tokenizer_file = paths.pop("tokenizer_file")
    if not cls.is_fast:
        return {"tokenizer_file": tokenizer_file}
    return paths if tokenizer_file else {**paths, "tokenizer_file": None}


@contextmanager
def _tokenizer_folder(
    name_or_path: PathLike, gguf_file: str | None, where: Mapping[str, Any]
) -> Iterator[ModelFiles]:
    """Give the folder of the files; those in a GGUF file are unpacked temporarily."""
    path = Path(name_or_path)
    if gguf_file is None and not (path.suffix == ".gguf" and path.is_file()):
        yield ModelFiles(str(name_or_path), **where)
        return
    # Not above: checkpoints are not needed for a folder's tokenizer.
    from gpt2x.formats.opening import fetch_checkpoint
    from gpt2x.formats.tokenizer_files import write_tokenizer_files

    _, checkpoint = fetch_checkpoint(str(name_or_path), file=gguf_file, **where)
    with checkpoint, tempfile.TemporaryDirectory() as folder:
        if not checkpoint.tokenizer_files:
            raise CheckpointError(f"{str(checkpoint.path)!r} holds no tokenizer.")
        write_tokenizer_files(Path(folder), checkpoint.tokenizer_files)
        yield ModelFiles(folder)


def _read_vocabulary(model_files: ModelFiles) -> Vocabulary:
    path = model_files.find(TOKENIZER_FILE)
    if path is not None:
        return Vocabulary.from_tokenizer_json(path)
    for names in ((VOCAB_FILE, MERGES_FILE), (OPENAI_VOCAB_FILE, OPENAI_MERGES_FILE)):
        vocab, merges = map(model_files.find, names)
        if vocab is not None and merges is not None:
            return Vocabulary.from_parts(vocab, merges)
    raise CheckpointError(
        f"{model_files.name!r} holds no tokenizer: neither {TOKENIZER_FILE} nor both {VOCAB_FILE} "
        f"and {MERGES_FILE}."
    )


def _read_config(model_files: ModelFiles) -> dict[str, Any]:
    """Read the settings in the folder as constructor arguments."""
    path = model_files.find(CONFIG_FILE)
    config = read_object(path) if path is not None else {}
    config = {name: value for name, value in config.items() if name not in _NOT_SETTINGS}
    if "added_tokens_decoder" in config:
        entries = config["added_tokens_decoder"]
        config["added_tokens_decoder"] = {
            int(token_id): added_token(entry) for token_id, entry in entries.items()
        }
    else:
        _read_older_files(model_files, config)
    for name, value in config.items():
        is_token = isinstance(value, dict) and value.get("__type") == "AddedToken"
        if is_token or (name in _TOKEN_SETTINGS and value is not None):
            config[name] = _read_tokens(value)
    templates = _read_chat_templates(model_files)
    if templates:
        only_default = list(templates) == ["default"]
        config["chat_template"] = templates["default"] if only_default else templates
    return config


def _read_chat_templates(model_files: ModelFiles) -> dict[str, str]:
    """Read the chat templates that are separate files, by name."""
    paths = {"default": model_files.find(CHAT_TEMPLATE_FILE)}
    for file in model_files.names(CHAT_TEMPLATES_FOLDER):
        if file.endswith(_JINJA):
            paths[file.removesuffix(_JINJA)] = model_files.find(f"{CHAT_TEMPLATES_FOLDER}/{file}")
    return {name: read_text(path) for name, path in paths.items() if path is not None}


def _read_older_files(model_files: ModelFiles, config: dict[str, Any]) -> None:
    """Read the two files that tokenizer_config.json replaced in transformers 4.34."""
    path = model_files.find(SPECIAL_TOKENS_FILE)
    if path is not None:
        config.update(read_object(path))
    path = model_files.find(ADDED_TOKENS_FILE)
    if path is not None:
        roles = [config.get(role) for role in NAMED_TOKENS]
        special = {str(_read_tokens(token)) for token in [*roles, *config.get(ADDITIONAL, [])]}
        config["added_tokens_decoder"] = {
            token_id: added_token(
                {"content": content, "normalized": content not in special},
                special=content in special,
            )
            for content, token_id in read_object(path).items()
        }


def _read_tokens(value: Any) -> Any:
    """Convert the JSON form of tokens to strings and AddedTokens."""
    if isinstance(value, list):
        return [_read_tokens(item) for item in value]
    if isinstance(value, dict) and isinstance(value.get("content"), str):
        return added_token(value)
    if isinstance(value, dict):
        return {name: _read_tokens(item) for name, item in value.items()}
    return value


# Writing ------------------------------------------------------------------------------------------


def save(
    tokenizer: GPT2TokenizerBase,
    folder: PathLike,
    legacy_format: bool | None = None,
    filename_prefix: str | None = None,
    save_jinja_files: bool = True,
) -> tuple[str, ...]:
    """Write a tokenizer's files: see `GPT2TokenizerBase.save_pretrained`."""
    vocabulary = tokenizer.current_vocabulary()
    added = {
        content: token_id
        for content, token_id in tokenizer.added_tokens_encoder.items()
        if content not in vocabulary.tokens
    }
    config = _config(tokenizer)
    templates = _chat_template_files(tokenizer) if save_jinja_files else {}
    if tokenizer.chat_template is not None and not save_jinja_files:
        config["chat_template"] = _chat_template_entry(tokenizer.chat_template)
    contents = {
        CONFIG_FILE: _json(config),
        SPECIAL_TOKENS_FILE: _json(_special_tokens(tokenizer)),
        **templates,
    }
    if legacy_format is not False:
        contents[VOCAB_FILE] = vocabulary.vocab_json()
        contents[MERGES_FILE] = vocabulary.merges_txt()
        if added:
            contents[ADDED_TOKENS_FILE] = _json(added)
    if legacy_format is not True:
        contents[TOKENIZER_FILE] = _json(vocabulary.to_tokenizer_json())
    return _write(folder, contents, filename_prefix)


def save_vocabulary(
    vocabulary: Vocabulary, folder: PathLike, filename_prefix: str | None = None
) -> tuple[str, str]:
    """Write vocab.json and merges.txt; return their paths."""
    contents = {VOCAB_FILE: vocabulary.vocab_json(), MERGES_FILE: vocabulary.merges_txt()}
    vocab, merges = _write(folder, contents, filename_prefix, stale=())
    return vocab, merges


# In the order in which they move into a folder: the vocabulary last, since readers need it.
_ALL_FILES = (
    CHAT_TEMPLATE_FILE,
    CHAT_TEMPLATES_FOLDER,
    ADDED_TOKENS_FILE,
    SPECIAL_TOKENS_FILE,
    CONFIG_FILE,
    VOCAB_FILE,
    MERGES_FILE,
    TOKENIZER_FILE,
)


def _write(
    folder: PathLike,
    contents: Mapping[str, str],
    filename_prefix: str | None,
    stale: tuple[str, ...] = _ALL_FILES,
) -> tuple[str, ...]:
    """Write files together; remove `stale` files of an earlier save, which would be read too."""
    prefix = f"{filename_prefix}-" if filename_prefix else ""
    if Path(prefix).name != prefix:
        raise InvalidInputError(f"filename_prefix is {filename_prefix!r}; it must not be a path.")
    with atomic_folder(Path(folder), replaces=tuple(prefix + name for name in stale)) as work:
        for name, content in contents.items():
            path = work / (prefix + name)
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content.encode("utf-8"))
    return tuple(str(Path(folder) / (prefix + name)) for name in contents)


def _config(tokenizer: GPT2TokenizerBase) -> dict[str, Any]:
    """Return the content of tokenizer_config.json."""
    settings = {
        "add_bos_token": tokenizer.add_bos_token,
        "add_prefix_space": tokenizer.add_prefix_space,
        "added_tokens_decoder": {
            str(token_id): added_token_state(token)
            for token_id, token in tokenizer.added_tokens_decoder.items()
        },
        "clean_up_tokenization_spaces": tokenizer.clean_up_tokenization_spaces,
        "errors": tokenizer.errors,
        "extra_special_tokens": {
            role: getattr(tokenizer, role) for role in tokenizer.extra_special_tokens
        },
        "model_max_length": tokenizer.model_max_length,
        "padding_side": tokenizer.padding_side,
        "truncation_side": tokenizer.truncation_side,
        "tokenizer_class": "GPT2Tokenizer",
    }
    for name in OPTIONAL:
        if getattr(tokenizer, name) != SETTINGS[name]:
            settings[name] = getattr(tokenizer, name)
    others = tokenizer.other_arguments()
    return {
        **{name: value for name, value in others.items() if name not in _NOT_SETTINGS},
        **settings,
        **tokenizer.special_tokens_map,
    }


def _chat_template_files(tokenizer: GPT2TokenizerBase) -> dict[str, str]:
    """Return the chat templates by file name."""
    templates = tokenizer.chat_template or {}
    if isinstance(templates, str):
        return {CHAT_TEMPLATE_FILE: templates}
    for name in templates:
        if not name or Path(name).name != name or "\\" in name:
            raise InvalidInputError(
                f"A chat template is called {name!r}, which cannot be a file's name. Rename it, or "
                "save with save_jinja_files=False."
            )
    return {
        CHAT_TEMPLATE_FILE if name == "default" else f"{CHAT_TEMPLATES_FOLDER}/{name}{_JINJA}": text
        for name, text in templates.items()
    }


def _chat_template_entry(templates: str | Mapping[str, str]) -> Any:
    """Return the chat templates in the form of tokenizer_config.json."""
    if isinstance(templates, str):
        return templates
    return [{"name": name, "template": template} for name, template in templates.items()]


def _special_tokens(tokenizer: GPT2TokenizerBase) -> dict[str, Any]:
    """Return the content of special_tokens_map.json."""

    def state(token: Any) -> Any:
        if isinstance(token, str):
            return token
        return {k: v for k, v in added_token_state(token).items() if k != "special"}

    return {
        role: [state(token) for token in value] if isinstance(value, list) else state(value)
        for role, value in tokenizer.special_tokens_map_extended.items()
    }


def _json(content: Any) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False, default=_json_value) + "\n"


def _json_value(value: Any) -> Any:
    """Return the JSON form of the constructor's arguments beside its settings."""
    if isinstance(value, AddedToken):
        return {"__type": "AddedToken", **added_token_state(value)}
    raise InvalidInputError(
        f"init_kwargs holds {value!r}, which cannot be written to {CONFIG_FILE}: JSON has no "
        f"{type(value).__name__}. Remove it."
    )
