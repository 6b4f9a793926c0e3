"""Finding a model's files: local folders, and a hub on localhost."""

from __future__ import annotations

import json

import pytest
from huggingface_hub import snapshot_download

from gpt2x.errors import CheckpointError, InvalidInputError
from gpt2x.formats.opening import fetch_checkpoint
from gpt2x.storage.hub import ModelFiles, resolve_files
from support.golden_data import GOLDEN
from support.hub_server import HubServer, commit_of, files_of

NAME = "someone/tiny-gpt2"


def downloads(hub: HubServer) -> list[str]:
    return [line for line in hub.requests if line.startswith("GET") and "/resolve/" in line]


def test_a_folder_is_read_in_place_without_the_network(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "config.json").write_text("{}")
    found = resolve_files(tmp_path, ["config.json", "vocab.json"], subfolder="inner")
    assert found == {"config.json": tmp_path / "inner" / "config.json", "vocab.json": None}
    with pytest.raises(CheckpointError, match="no folder 'absent'"):
        resolve_files(tmp_path, ["config.json"], subfolder="absent")


@pytest.mark.parametrize("name", ["./nowhere", "a/b/c", "/no/such/folder", "what is this"])
def test_what_is_neither_a_folder_nor_a_name_says_so(name):
    with pytest.raises(CheckpointError, match="There is no folder"):
        resolve_files(name, ["config.json"])


def test_bad_arguments(tmp_path):
    with pytest.raises(InvalidInputError, match="must be a folder or a name"):
        resolve_files("", ["config.json"])
    with pytest.raises(InvalidInputError, match="contradict"):
        resolve_files("gpt2", ["config.json"], local_files_only=True, force_download=True)
    file = tmp_path / "config.json"
    file.write_text("{}")
    with pytest.raises(CheckpointError, match="is a file"):
        resolve_files(file, ["config.json"])


def test_files_are_downloaded_once(hub: HubServer):
    hub.add(NAME, {"config.json": b"{}"})
    for _ in range(2):
        found = resolve_files(NAME, ["config.json", "generation_config.json"])
        assert found["config.json"].read_bytes() == b"{}"
        assert found["generation_config.json"] is None
    assert len(downloads(hub)) == 1


def test_force_download_downloads_again(hub: HubServer):
    hub.add(NAME, {"config.json": b"{}"})
    for _ in range(2):
        resolve_files(NAME, ["config.json"], force_download=True)
    assert len(downloads(hub)) == 2


def test_revision_and_subfolder(hub: HubServer):
    repository = hub.add(NAME, {"a/config.json": b"1", "config.json": b"2"})
    repository.revisions["v2"] = {"a/config.json": b"3"}

    def read(**options):
        return resolve_files(NAME, ["config.json"], **options)["config.json"].read_bytes()

    assert read() == b"2"
    assert read(subfolder="a") == b"1"
    assert read(subfolder="a", revision="v2") == b"3"
    assert read(subfolder="a", revision=commit_of(repository.revisions["v2"])) == b"3"
    with pytest.raises(CheckpointError, match="no branch, tag or commit 'v3'"):
        read(revision="v3")


def test_all_files_come_from_the_commit_of_the_first(hub: HubServer):
    repository = hub.add(NAME, {"config.json": b"old", "vocab.json": b"old"})
    repository.revisions["first"] = repository.revisions["main"]
    files = ModelFiles(NAME)
    assert files.find("config.json").read_bytes() == b"old"
    repository.revisions["main"] = {"config.json": b"new", "vocab.json": b"new"}
    assert files.find("vocab.json").read_bytes() == b"old"
    assert ModelFiles(NAME).find("vocab.json").read_bytes() == b"new"


def test_an_unknown_name(hub: HubServer):
    with pytest.raises(CheckpointError, match=r"neither a local folder nor a model at http://127"):
        resolve_files(NAME, ["config.json"])


def test_a_private_model_needs_its_token(hub: HubServer):
    hub.add(NAME, {"config.json": b"{}"}, token="hf_secret")
    with pytest.raises(CheckpointError, match="private model pass token="):
        resolve_files(NAME, ["config.json"], token=False)
    assert resolve_files(NAME, ["config.json"], token="hf_secret")["config.json"]


def test_a_gated_model_says_where_to_ask(hub: HubServer):
    hub.add(NAME, {"config.json": b"{}"}, token="hf_secret", gated=True)
    with pytest.raises(CheckpointError, match=f"is gated. Ask for it at {hub.url}/{NAME}"):
        resolve_files(NAME, ["config.json"], token=False)


def test_without_the_network_the_cache_answers(hub: HubServer, monkeypatch):
    hub.add(NAME, {"config.json": b"{}"})
    resolve_files(NAME, ["config.json"])
    before = len(hub.requests)
    found = resolve_files(NAME, ["config.json", "vocab.json"], local_files_only=True)
    assert found["config.json"].read_bytes() == b"{}"
    assert found["vocab.json"] is None
    assert len(hub.requests) == before
    with pytest.raises(CheckpointError, match="local_files_only=True forbids"):
        resolve_files("someone/else", ["config.json"], local_files_only=True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert resolve_files(NAME, ["config.json"])["config.json"].read_bytes() == b"{}"
    with pytest.raises(CheckpointError, match="HF_HUB_OFFLINE"):
        resolve_files("someone/else", ["config.json"])


def test_an_incomplete_snapshot_of_another_program_will_do(hub: HubServer):
    hub.add(NAME, {"config.json": b"{}", "vocab.json": b"{}"})
    snapshot_download(NAME, allow_patterns=["config.json"], endpoint=hub.url)
    found = resolve_files(NAME, ["vocab.json", "config.json"], local_files_only=True)
    assert found["vocab.json"] is None
    assert found["config.json"].read_bytes() == b"{}"


def test_cache_dir(hub: HubServer, tmp_path):
    hub.add(NAME, {"config.json": b"{}"})
    found = resolve_files(NAME, ["config.json"], cache_dir=tmp_path / "mine")
    assert found["config.json"].is_relative_to(tmp_path / "mine")
    again = resolve_files(NAME, ["config.json"], cache_dir=tmp_path / "mine", local_files_only=True)
    assert again == found


def test_names_lists_a_repository(hub: HubServer):
    hub.add(NAME, {"config.json": b"{}", "a/b.gguf": b"", "c.gguf": b""})
    assert ModelFiles(NAME).names() == ["c.gguf", "config.json"]
    assert ModelFiles(NAME, subfolder="a").names() == ["b.gguf"]
    assert ModelFiles(NAME).names("a") == ["b.gguf"]
    assert ModelFiles(NAME).names("b") == []


def test_names_without_a_listing_are_those_in_the_cache(hub: HubServer, monkeypatch):
    def fail(*arguments, **options):
        raise ConnectionError("no listing")

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", fail)
    hub.add(NAME, {"config.json": b"{}", "a/b.gguf": b"", "c.gguf": b""})
    files = ModelFiles(NAME)
    assert files.names() == []
    files.find("a/b.gguf")
    assert files.names("a") == ["b.gguf"]
    assert files.find("config.json") is not None  # the hub is asked as before
    assert files.names() == ["config.json"]


def test_a_sharded_model_by_name(hub: HubServer):
    files = files_of(GOLDEN / "formats" / "safetensors_sharded")
    shards = sorted(name for name in files if name.endswith(".safetensors"))
    hub.add(NAME, files)
    with fetch_checkpoint(NAME)[1] as checkpoint:
        assert checkpoint.config == json.loads(files["config.json"])
        assert [file.name for file in checkpoint.files] == shards
        assert checkpoint["wte.weight"].read().shape == checkpoint["wte.weight"].shape
    del files[shards[2]]
    with pytest.raises(CheckpointError, match=f"lacks 1 of the .* shards .*{shards[2]}"):
        fetch_checkpoint(NAME)
