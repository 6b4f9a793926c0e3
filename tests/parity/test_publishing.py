"""A model that one backend uploads, another loads by its name."""

from __future__ import annotations

import pytest

import gpt2x
from gpt2x import backends
from gpt2x.checkpoint import open_checkpoint
from gpt2x.config import GPT2Config
from gpt2x.errors import InvalidInputError
from support.hub_server import serve_hub


@pytest.mark.parametrize(("writer", "reader"), [("pt", "tf"), ("tf", "flax"), ("flax", "pt")])
def test_push_and_load_by_name(monkeypatch, tmp_path, writer, reader):
    for backend in (writer, reader):
        if not backends.is_installed(backend):
            pytest.skip(f"{backend} is not installed")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    classes = [getattr(gpt2x, f"{backends.get(b).prefix}LMHeadModel") for b in (writer, reader)]
    config = GPT2Config(vocab_size=11, n_positions=4, n_embd=8, n_layer=1, n_head=2)
    model = classes[0](config)
    with serve_hub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        address = model.push_to_hub("someone/tiny", token="hf_write", commit_message="First")
        assert address.startswith(hub.url)
        loaded = classes[1].from_pretrained("someone/tiny")
        model.save_pretrained(
            tmp_path / "a", push_to_hub=True, repo_id="someone/saved", token="hf_write"
        )
        saved = hub.repositories["someone/saved"].revisions
        assert "model.safetensors" in saved["main"]
        model.save_pretrained(
            tmp_path / "a",
            push_to_hub=True,
            repo_id="someone/saved",
            token="hf_write",
            create_pr=True,
            commit_message="Saved once more",
        )
        assert set(saved) == {"main", "refs/pr/1"}
        with pytest.raises(InvalidInputError, match="Did you mean 'max_shard_size'"):
            model.save_pretrained(tmp_path / "c", max_shards_size="1GB", commit_message="Third")
    loaded.save_pretrained(tmp_path / "b")
    with open_checkpoint(tmp_path / "a") as one, open_checkpoint(tmp_path / "b") as other:
        assert one.keys() == other.keys()
        assert all(one[name].read().tobytes() == other[name].read().tobytes() for name in one)
