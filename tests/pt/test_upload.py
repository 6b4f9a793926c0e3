"""What a run of training uploads to a hub on localhost."""

from __future__ import annotations

import pytest
import torch

from gpt2x import GPT2LMHeadModel, GPT2TokenizerFast
from gpt2x.errors import CheckpointError
from gpt2x.train import train
from support.labelled import tiny_model

IDS = torch.tensor([[3, 28, 40, 41, 7]])


@pytest.mark.parametrize("adapter", [{}, {"lora_r": 2}], ids=["model", "adapter"])
def test_a_model_or_adapter_is_uploaded_also_later(hub, tmp_path, adapter):
    (tmp_path / "text.txt").write_text("In the beginning was the word. " * 30)
    out = tmp_path / "poet"
    options = {
        "train_file": str(tmp_path / "text.txt"),
        "output_dir": str(out),
        "model_name_or_path": tiny_model(tmp_path / "model"),
        "max_steps": 2,
        "learning_rate": 0.1,
        "block_size": 16,
        "backend": "pt",
        "push_to_hub": True,
        **adapter,
    }
    with pytest.raises(CheckpointError, match="with resume: no step is left") as e:
        train(**options, hub_token="hf_wrong")
    assert "hf_wrong" not in str(e.value)
    left = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
    weights = "adapter_model.safetensors" if adapter else "model.safetensors"
    assert {weights, "tokenizer.json", "train_results.json", "README.md"} <= {*left}

    assert train(**options, hub_token="hf_write", resume=True)["steps"] == 2
    files = hub.repositories["someone/poet"].revisions["main"]
    assert files[weights] == left[weights]
    assert ("adapter_config.json" in files) == bool(adapter)
    assert not {"log.jsonl", "training_state.json", "optimizer.safetensors"} & {*files}
    assert not any("/" in name for name in files)
    assert b"hf_write" not in files["README.md"]
    ours = GPT2LMHeadModel.from_pretrained(out)
    loaded = GPT2LMHeadModel.from_pretrained("someone/poet")
    torch.testing.assert_close(loaded(IDS).logits, ours(IDS).logits)
    assert GPT2TokenizerFast.from_pretrained("someone/poet")("word")["input_ids"]
