"""Uploading to a hub on localhost."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gpt2x.config import GPT2Config
from gpt2x.errors import CheckpointError, InvalidInputError
from gpt2x.generation import GenerationConfig
from gpt2x.models.loading import resolve
from gpt2x.models.saving import save_folder
from gpt2x.storage.publishing import PushToHubMixin, push_folder
from gpt2x.tokenization import GPT2Tokenizer
from gpt2x.weights.load_plan import plan_load
from gpt2x.weights.table import Head, parameter_shapes

CONFIG = GPT2Config(vocab_size=11, n_positions=4, n_embd=8, n_layer=1, n_head=2)
WEIGHTS = {
    name: np.full(shape, 0.5, np.float32)
    for name, shape in parameter_shapes(CONFIG, Head.LM).items()
}


class Model(PushToHubMixin):
    """Stands for a model of any backend."""

    def save_pretrained(self, folder, **options):
        save_folder(folder, CONFIG, WEIGHTS, Head.LM, **options)


def test_a_pushed_model_loads_by_its_name(hub):
    address = Model().push_to_hub("someone/mine", token="hf_write", max_shard_size="1KB")
    assert address.startswith(f"{hub.url}/someone/mine/commit/")
    with resolve("GPT2LMHeadModel", "someone/mine") as source:
        assert len(source.checkpoint.files) > 1
        plan = plan_load(source.checkpoint, source.config, Head.LM, strict=True)
        assert all((array == 0.5).all() for _, array in plan.arrays())


def test_a_card_is_written_unless_there_is_one(hub, tmp_path):
    Model().push_to_hub("mine", token="hf_write")
    files = hub.repositories["someone/mine"].revisions["main"]
    card = files["README.md"].decode()
    assert card.startswith("---\n")
    assert "pipeline_tag: text-generation" in card
    assert 'GPT2LMHeadModel.from_pretrained("someone/mine")' in card
    assert "| width | 8 |" in card
    files["README.md"] = b"my own"
    Model().push_to_hub("mine", token="hf_write")
    assert files["README.md"] == b"my own"
    (tmp_path / "README.md").write_text("from the folder")
    push_folder(tmp_path, "mine", token="hf_write")
    assert files["README.md"] == b"from the folder"


def test_tokenizers_and_configs_are_pushed_beside_a_model(hub):
    tokenizer = GPT2Tokenizer(vocab={"a": 0, "b": 1}, merges=[])
    tokenizer.push_to_hub("someone/mine", token="hf_write")
    GenerationConfig(do_sample=True, top_k=5).push_to_hub("someone/mine", token="hf_write")
    GPT2Config(n_layer=3).push_to_hub("someone/mine", token="hf_write")
    assert "README.md" not in hub.repositories["someone/mine"].revisions["main"]
    Model().push_to_hub("someone/mine", token="hf_write")
    files = hub.repositories["someone/mine"].revisions["main"]
    assert {"README.md", "tokenizer.json", "generation_config.json"} <= set(files)
    assert GPT2Tokenizer.from_pretrained("someone/mine").get_vocab() == tokenizer.get_vocab()
    assert GenerationConfig.from_pretrained("someone/mine").top_k == 5
    assert GPT2Config.from_pretrained("someone/mine").n_layer == 1


def test_saving_may_push(hub, tmp_path):
    tokenizer = GPT2Tokenizer(vocab={"a": 0, "b": 1}, merges=[], chat_template={"other": "x"})
    paths = tokenizer.save_pretrained(tmp_path / "saved", push_to_hub=True, token="hf_write")
    files = hub.repositories["someone/saved"].revisions["main"]
    assert set(files) == {str(Path(path).relative_to(tmp_path / "saved")) for path in paths}
    tokenizer.save_pretrained(
        tmp_path / "saved", push_to_hub=True, repo_id="someone/else", token="hf_write"
    )
    assert hub.repositories["someone/else"].revisions["main"] == files
    assert GPT2Tokenizer.from_pretrained("someone/else").chat_template == {"other": "x"}
    options = {"commit_message": "Next", "revision": "next", "repo_id": "someone/else"}
    tokenizer.save_pretrained(tmp_path / "saved", push_to_hub=True, token="hf_write", **options)
    assert hub.repositories["someone/else"].revisions["next"] == files
    with pytest.raises(InvalidInputError, match=r"'comit_message'. Did you mean 'commit_message'"):
        tokenizer.save_pretrained(tmp_path / "other", comit_message="Next")
    assert not (tmp_path / "other").exists()


def test_a_branch_gets_everything_in_one_commit(hub, tmp_path):
    Model().save_pretrained(tmp_path)
    for name in (".git", ".gpt2x-killed"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("")
    push_folder(tmp_path, "someone/mine", token="hf_write", revision="trial")
    revisions = hub.repositories["someone/mine"].revisions
    assert set(revisions["trial"]) == {"README.md", "config.json", "model.safetensors"}
    assert revisions["main"] == {}
    assert sum("/commit/" in request for request in hub.requests) == 1
    with resolve("GPT2LMHeadModel", "someone/mine", revision="trial") as source:
        assert source.config.n_embd == 8


def test_a_pull_request_leaves_the_branch_as_it_is(hub, tmp_path):
    hub.add("others/theirs", {"README.md": b"theirs", "config.json": b"{}"})
    address = Model().push_to_hub("others/theirs", token="hf_read", create_pr=True)
    assert address == f"{hub.url}/others/theirs/discussions/1"
    revisions = hub.repositories["others/theirs"].revisions
    assert set(revisions) == {"main", "refs/pr/1"}
    assert revisions["main"] == {"README.md": b"theirs", "config.json": b"{}"}
    assert revisions["refs/pr/1"]["README.md"] == b"theirs"
    with resolve("GPT2LMHeadModel", "others/theirs", revision="refs/pr/1") as source:
        assert source.config.n_embd == 8
    with pytest.raises(InvalidInputError, match="leave out one of them"):
        Model().push_to_hub("mine", token="hf_write", create_pr=True, revision="trial")
    assert set(hub.repositories) == {"others/theirs"}


def test_without_permission_it_says_what_is_needed(hub):
    with pytest.raises(CheckpointError, match=r"write permission: pass token="):
        Model().push_to_hub("mine", token="hf_wrong")
    assert hub.repositories == {}
