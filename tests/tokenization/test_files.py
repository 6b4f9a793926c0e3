"""Tokenizer folders, read and written."""

from __future__ import annotations

import json
import shutil

import pytest

from gpt2x.errors import CheckpointError, InvalidInputError
from gpt2x.tokenization import AddedToken, GPT2Tokenizer, GPT2TokenizerFast
from support.hub_server import files_of

TEXTS = ["The cat<sep> sat", "extra <pad> b", " naïve 語\n", "a<|endoftext|>b <mask> c"]


@pytest.fixture
def changed(tiny):
    """A tokenizer with everything set that a folder can hold."""
    tiny.add_special_tokens({"pad_token": "<pad>", "additional_special_tokens": ["<a>"]})
    tiny.add_tokens([AddedToken("<mask>", lstrip=True, rstrip=True)])
    tiny.add_bos_token = True
    tiny.padding_side = "left"
    tiny.errors = "ignore"
    tiny.init_kwargs["unheard_of"] = {"kept": True}
    tiny.init_kwargs["token"] = AddedToken("<t>", lstrip=True)
    return tiny


def assert_same(one, other):
    assert one(TEXTS)["input_ids"] == other(TEXTS)["input_ids"]
    assert one(TEXTS, TEXTS)["input_ids"] == other(TEXTS, TEXTS)["input_ids"]
    assert one.get_vocab() == other.get_vocab()
    assert one.special_tokens_map == other.special_tokens_map
    assert one.settings() == other.settings()
    assert one.other_arguments() == other.other_arguments()
    assert {i: repr(t) for i, t in one.added_tokens_decoder.items()} == {
        i: repr(t) for i, t in other.added_tokens_decoder.items()
    }


@pytest.mark.parametrize("legacy_format", [None, True, False])
@pytest.mark.parametrize("other_class", [GPT2Tokenizer, GPT2TokenizerFast])
def test_round_trip(changed, tmp_path, legacy_format, other_class):
    changed.save_pretrained(tmp_path, legacy_format=legacy_format)
    assert_same(changed, other_class.from_pretrained(tmp_path))


def test_files_of_a_folder(changed, tmp_path):
    paths = changed.save_pretrained(str(tmp_path))
    names = {
        "tokenizer.json",
        "vocab.json",
        "merges.txt",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
    }
    assert {path.name for path in tmp_path.iterdir()} == names
    assert set(paths) == {str(tmp_path / name) for name in names}
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert config["tokenizer_class"] == "GPT2Tokenizer"
    assert config["pad_token"] == "<pad>"
    assert "name_or_path" not in config
    assert (tmp_path / "merges.txt").read_text().startswith("#version: 0.2\n")


def test_both_classes_write_the_same_bytes(tiny_folder, tmp_path):
    for cls in (GPT2Tokenizer, GPT2TokenizerFast):
        cls.from_pretrained(tiny_folder).save_pretrained(tmp_path / cls.__name__)
    for path in (tmp_path / "GPT2Tokenizer").iterdir():
        assert path.read_bytes() == (tmp_path / "GPT2TokenizerFast" / path.name).read_bytes()


def test_saving_removes_files_that_would_be_read_with_the_new_ones(tiny, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    tiny.save_pretrained(tmp_path)
    tiny.save_pretrained(tmp_path, legacy_format=True)
    assert not (tmp_path / "tokenizer.json").exists()
    assert (tmp_path / "config.json").exists()


def test_save_vocabulary(tiny, tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")
    vocab, merges = tiny.save_vocabulary(tmp_path, filename_prefix="my")
    assert (vocab, merges) == (str(tmp_path / "my-vocab.json"), str(tmp_path / "my-merges.txt"))
    assert GPT2Tokenizer(vocab, merges)("The cat")["input_ids"] == tiny("The cat")["input_ids"]
    assert (tmp_path / "tokenizer.json").exists()
    with pytest.raises(InvalidInputError, match="must not be a path"):
        tiny.save_vocabulary(tmp_path, filename_prefix="../x")


def test_saving_onto_a_file_is_refused(tiny, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InvalidInputError, match="is a file"):
        tiny.save_pretrained(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_tokenizer_json_is_what_the_tokenizers_library_reads(changed, tmp_path):
    from tokenizers import Tokenizer

    changed.save_pretrained(tmp_path)
    library = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for text in TEXTS:
        assert library.encode(text).ids == changed(text)["input_ids"]
        assert library.encode(text, "b").ids == changed(text, "b")["input_ids"]


# Reading ------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tiny_folder, tmp_path):
    """A copy of the tiny folder, to change."""
    return shutil.copytree(tiny_folder, tmp_path / "copy")


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_tokenizer_json_wins(tokenizer_class, folder):
    (folder / "vocab.json").write_text("no JSON")
    assert tokenizer_class.from_pretrained(folder)("The cat")["input_ids"]


def test_arguments_win_over_files(tokenizer_class, folder):
    tokenizer = tokenizer_class.from_pretrained(
        str(folder),
        model_max_length=7,
        add_prefix_space=True,
        pad_token="extra",
        do_lower_case=True,
    )
    assert tokenizer.model_max_length == 7
    assert tokenizer.tokenize("at")[0].startswith("Ġ")
    assert tokenizer.pad_token_id == 408
    assert tokenizer.name_or_path == str(folder)


def test_subfolder(tokenizer_class, folder):
    tokenizer = tokenizer_class.from_pretrained(folder.parent, subfolder="copy")
    assert len(tokenizer) == 409


@pytest.mark.parametrize("as_pairs", [True, False])
def test_both_forms_of_merges_in_tokenizer_json(tokenizer_class, folder, as_pairs):
    def change(content):
        pairs = [m.split(" ") if isinstance(m, str) else m for m in content["model"]["merges"]]
        content["model"]["merges"] = pairs if as_pairs else [" ".join(pair) for pair in pairs]

    edit(folder / "tokenizer.json", change)
    expected = tokenizer_class.from_pretrained(folder.parent / "copy")
    assert expected("The cat")["input_ids"] == [*map(expected.token_to_id, ["T", "he", "Ġc", "at"])]


@pytest.mark.parametrize("change", ["no final line break", "CRLF", "no version", "blank lines"])
def test_merges_files(tokenizer_class, tiny, folder, change):
    text = (folder / "merges.txt").read_text()
    changed_text = {
        "no final line break": text.removesuffix("\n"),
        "CRLF": text.replace("\n", "\r\n"),
        "no version": text.split("\n", 1)[1],
        "blank lines": text + "\n\n",
    }[change]
    path = folder / "merges.txt"
    path.write_bytes(changed_text.encode())
    assert tokenizer_class(folder / "vocab.json", path).bpe_ranks == tiny.bpe_ranks


def test_constructor_takes_content_too(tokenizer_class, tiny, folder):
    vocab, merges = folder / "vocab.json", folder / "merges.txt"
    ids = tiny("The cat")["input_ids"]
    pairs = list(tiny.bpe_ranks)
    for tokenizer in (
        tokenizer_class(str(vocab), str(merges)),
        tokenizer_class(vocab_file=vocab, merges_file=merges),
        tokenizer_class(vocab=str(vocab), merges=str(merges)),
        tokenizer_class(json.loads(vocab.read_text()), pairs),
        tokenizer_class(vocab=json.loads(vocab.read_text()), merges=[" ".join(p) for p in pairs]),
        tokenizer_class(tokenizer_file=folder / "tokenizer.json"),
    ):
        assert tokenizer("The cat")["input_ids"] == ids


def test_tokenizer_object(tiny_folder, tiny):
    from tokenizers import Tokenizer

    library = Tokenizer.from_file(str(tiny_folder / "tokenizer.json"))
    assert (
        GPT2TokenizerFast(tokenizer_object=library)(TEXTS)["input_ids"] == tiny(TEXTS)["input_ids"]
    )


def test_openais_folder(tokenizer_class, tiny, folder, tmp_path):
    openai = tmp_path / "openai"
    openai.mkdir()
    shutil.copy(folder / "vocab.json", openai / "encoder.json")
    shutil.copy(folder / "merges.txt", openai / "vocab.bpe")
    loaded = tokenizer_class.from_pretrained(openai)
    assert loaded("The cat")["input_ids"] == tiny("The cat")["input_ids"]
    assert loaded.eos_token_id == 406


def test_folders_from_before_transformers_4_34(tokenizer_class, tiny_folder, tmp_path):
    """Added tokens in added_tokens.json, special ones in special_tokens_map.json."""
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(tiny_folder / name, tmp_path / name)
    (tmp_path / "tokenizer_config.json").write_text('{"model_max_length": 1024}')
    (tmp_path / "special_tokens_map.json").write_text(
        json.dumps(
            {
                "eos_token": {
                    "content": "<|endoftext|>",
                    "lstrip": False,
                    "normalized": True,
                    "rstrip": False,
                    "single_word": False,
                },
                "pad_token": "<pad>",
            }
        )
    )
    vocab_size = len(json.loads((tmp_path / "vocab.json").read_text()))
    (tmp_path / "added_tokens.json").write_text(
        json.dumps({"<pad>": vocab_size + 1, "word": vocab_size})
    )
    tokenizer = tokenizer_class.from_pretrained(tmp_path)
    assert tokenizer.model_max_length == 1024
    assert tokenizer.pad_token_id == vocab_size + 1
    assert tokenizer.tokenize("a word") == ["a", "Ġ", "word"]
    assert tokenizer.added_tokens_decoder[vocab_size + 1].special
    assert not tokenizer.added_tokens_decoder[vocab_size].special


def test_template_of_tokenizer_json(tokenizer_class, folder):
    def change(content):
        content["post_processor"] = {
            "type": "TemplateProcessing",
            "single": [
                {"Sequence": {"id": "A", "type_id": 0}},
                {"SpecialToken": {"id": "<sep>", "type_id": 0}},
            ],
            "pair": [
                {"Sequence": {"id": "A", "type_id": 0}},
                {"SpecialToken": {"id": "<sep>", "type_id": 0}},
                {"Sequence": {"id": "B", "type_id": 1}},
            ],
            "special_tokens": {"<sep>": {"id": "<sep>", "ids": [407], "tokens": ["<sep>"]}},
        }

    edit(folder / "tokenizer.json", change)
    tokenizer = tokenizer_class.from_pretrained(folder)
    assert tokenizer("a")["input_ids"][1:] == [407]
    assert tokenizer("a", "a")["input_ids"][1] == 407
    assert len(tokenizer("a", "a")["input_ids"]) == 3
    tokenizer.save_pretrained(folder / "again")
    assert_same(tokenizer_class.from_pretrained(folder / "again"), tokenizer)


def test_chat_template_travels(tokenizer_class, folder, tmp_path):
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    tokenizer = tokenizer_class.from_pretrained(folder)
    assert tokenizer.chat_template == "{{ messages }}"
    tokenizer.save_pretrained(tmp_path / "again")
    assert tokenizer_class.from_pretrained(tmp_path / "again").chat_template == "{{ messages }}"


def test_unknown_keys_of_files_are_kept_without_a_word(tokenizer_class, folder, tmp_path, caplog):
    edit(folder / "tokenizer_config.json", lambda c: c.update(special=[1], add_special_tokens=True))
    tokenizer = tokenizer_class.from_pretrained(folder)
    assert not caplog.records
    assert tokenizer.init_kwargs["special"] == [1]
    tokenizer.save_pretrained(tmp_path / "new")
    config = json.loads((tmp_path / "new" / "tokenizer_config.json").read_text())
    assert config["special"] == [1]
    assert config["add_special_tokens"] is True
    assert "vocab_file" not in config
    assert "tokenizer_file" not in config


def test_arguments_that_json_cannot_hold(tiny, tmp_path):
    tiny.init_kwargs["thing"] = {1, 2}
    with pytest.raises(InvalidInputError, match=r"holds \{1, 2\}, .* JSON has no set"):
        tiny.save_pretrained(tmp_path / "new")
    assert not (tmp_path / "new").exists()


# Files that are refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("model"), "not a valid tokenizer.json"),
        (lambda c: c["model"].update(type="WordPiece"), "model 'WordPiece'"),
        (lambda c: c.update(pre_tokenizer={"type": "Whitespace"}), "pre_tokenizer 'Whitespace'"),
        (lambda c: c.update(pre_tokenizer=None), "pre_tokenizer None"),
        (lambda c: c.update(normalizer={"type": "NFC"}), "normalizer 'NFC'"),
        (lambda c: c["model"].update(dropout=0.1), "dropout=0.1"),
        (lambda c: c["pre_tokenizer"].update(use_regex=False), "use_regex=False"),
        (lambda c: c.update(post_processor={"type": "BertProcessing"}), "BertProcessing"),
        (lambda c: c["model"]["merges"].append("x"), "Merge 151 is 'x'"),
        (lambda c: c["model"]["merges"].append("T zz"), "needs the token 'zz'"),
        (lambda c: c["model"]["vocab"].update(new=5), "the same id"),
        (lambda c: c["model"]["vocab"].update(new=-1), "at least 0"),
        (lambda c: c["model"]["vocab"].update(new="5"), "at least 0"),
        (lambda c: c["model"]["vocab"].update(new=10**12), "below 2147483648"),
        (lambda c: c["added_tokens"][0].pop("content"), "not a valid tokenizer.json"),
        (lambda c: c["model"].update(vocab=[1]), "not a valid tokenizer.json"),
    ],
)
def test_tokenizer_json_that_is_refused(tokenizer_class, folder, change, message):
    edit(folder / "tokenizer.json", change)
    with pytest.raises(CheckpointError, match=message):
        tokenizer_class.from_pretrained(folder)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer.json", b"{", "not valid JSON"),
        ("tokenizer.json", b"[]", "not a valid tokenizer.json"),
        ("tokenizer.json", b'"\xff"', "Cannot read"),
        ("tokenizer_config.json", b"[]", "must hold a JSON object"),
        ("tokenizer_config.json", b"[" * 100_000, "not valid JSON"),
    ],
)
def test_broken_files(tokenizer_class, folder, name, content, message):
    (folder / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        tokenizer_class.from_pretrained(folder)


def test_missing_files(tokenizer_class, tmp_path):
    with pytest.raises(CheckpointError, match=r"neither tokenizer.json nor both vocab.json and"):
        tokenizer_class.from_pretrained(tmp_path)
    (tmp_path / "vocab.json").write_text("{}")
    with pytest.raises(CheckpointError, match="holds no tokenizer"):
        tokenizer_class.from_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="Cannot read"):
        tokenizer_class(tmp_path / "vocab.json", tmp_path / "merges.txt")


def test_merges_that_files_cannot_hold(tmp_path):
    tokenizer = GPT2Tokenizer({"a": 0, " b": 1, "a b": 2}, [("a", " b")])
    with pytest.raises(InvalidInputError, match="holds white space"):
        tokenizer.save_pretrained(tmp_path / "new")
    assert not (tmp_path / "new").exists()


# Names on the hub ---------------------------------------------------------------------------------


def test_from_the_hub(hub, tokenizer_class, tiny, tiny_folder, tmp_path):
    hub.add("someone/tiny", files_of(tiny_folder))
    expected = tiny(TEXTS)["input_ids"]
    assert tokenizer_class.from_pretrained("someone/tiny")(TEXTS)["input_ids"] == expected
    before = len(hub.requests)
    again = tokenizer_class.from_pretrained("someone/tiny", local_files_only=True)
    assert again(TEXTS)["input_ids"] == expected
    assert len(hub.requests) == before
    assert again.name_or_path == "someone/tiny"
    elsewhere = tokenizer_class.from_pretrained("someone/tiny", cache_dir=tmp_path / "elsewhere")
    assert elsewhere(TEXTS)["input_ids"] == expected
    assert (tmp_path / "elsewhere").is_dir()


def test_revisions_and_subfolders_of_the_hub(hub, tokenizer_class, tiny_folder):
    files = files_of(tiny_folder)
    repository = hub.add("someone/tiny", {"README.md": b"elsewhere"})
    repository.revisions["v1"] = {f"tokenizer/{name}": data for name, data in files.items()}
    tokenizer = tokenizer_class.from_pretrained(
        "someone/tiny", revision="v1", subfolder="tokenizer"
    )
    assert len(tokenizer) == 409
    with pytest.raises(CheckpointError, match="'someone/tiny' holds no tokenizer"):
        tokenizer_class.from_pretrained("someone/tiny")
    with pytest.raises(CheckpointError, match="neither a local folder nor a model"):
        tokenizer_class.from_pretrained("someone/else")
