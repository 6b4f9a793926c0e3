"""transformers' `Trainer` trains, saves and resumes the models, whose output layer is tied."""

from __future__ import annotations

import shutil

import pytest
import torch

from gpt2x import EMBEDDED_MODEL, GPT2Config, GPT2LMHeadModel, GPT2TokenizerFast
from gpt2x.train import DataCollatorForLanguageModeling

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")


def train(folder, resume):
    """Train six steps; return the losses and the model."""
    tokenizer = GPT2TokenizerFast.from_pretrained(EMBEDDED_MODEL)
    texts = [f"In the beginning {number} God created" for number in range(32)]
    torch.manual_seed(0)
    config = GPT2Config(n_layer=1, n_embd=16, n_head=2, n_positions=32, vocab_size=len(tokenizer))
    model = GPT2LMHeadModel(config)
    arguments = transformers.TrainingArguments(
        str(folder),
        max_steps=6,
        per_device_train_batch_size=4,
        save_steps=3,
        logging_steps=1,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
    )
    trainer = transformers.Trainer(
        model,
        arguments,
        train_dataset=[{"input_ids": tokenizer(text)["input_ids"]} for text in texts],
        data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False),
    )
    trainer.train(resume_from_checkpoint=resume)
    trainer.save_model(str(folder / "final"))
    return [line["loss"] for line in trainer.state.log_history if "loss" in line], model


def test_a_run_that_goes_on_gives_the_weights_of_an_unbroken_one(tmp_path):
    losses, model = train(tmp_path, None)
    assert losses[-1] < losses[0]
    shutil.rmtree(tmp_path / "checkpoint-6")
    again, resumed = train(tmp_path, True)
    assert again == losses
    assert resumed.lm_head.weight is resumed.transformer.wte.weight
    loaded = GPT2LMHeadModel.from_pretrained(tmp_path / "final")
    for name, weight in model.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], weight)
        assert torch.equal(loaded.state_dict()[name], weight)
