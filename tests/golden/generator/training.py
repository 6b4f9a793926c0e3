"""Losses of training steps, and learning rates of schedules."""

import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch
from transformers import Trainer, TrainingArguments, get_scheduler

from .files import Case, write_group, write_json
from .models import load_model, random_ids

STEPS, WARMUP, DECAY = 40, 7, 10
# Name of the schedule -> further arguments.
SCHEDULES = {
    "linear": {},
    "cosine": {},
    "constant": {},
    "constant_with_warmup": {},
    "inverse_sqrt": {},
    "warmup_stable_decay": {"num_decay_steps": DECAY},
}
# Arguments of transformers' Trainer.
RUNS = {
    "plain": {"max_grad_norm": 1e9, "learning_rate": 1e-2},
    "clipped": {"max_grad_norm": 0.5, "learning_rate": 1e-2, "weight_decay": 0.1},
    "accumulated": {
        "gradient_accumulation_steps": 3,
        "weight_decay": 0.3,
        "adam_beta2": 0.9,
        "adam_epsilon": 1e-3,
        "learning_rate": 3e-2,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 3,
    },
}
# Steps and rows of a batch; tokens of a row.
LENGTH, ROWS, TOKENS = 12, 2, 16


def write_training(out: Path) -> None:
    """Learning rates by the schedules' names, and the losses of transformers' Trainer."""
    write_json(out / "training" / "schedules.json", _schedules())
    write_group(
        out / "plain" / "training.npz", {name: _run(out, run) for name, run in RUNS.items()}
    )


def _schedules() -> dict[str, list[float]]:
    """The factor of each step, by ``name/warmup``."""
    found = {}
    for name, options in SCHEDULES.items():
        for warmup in (0, WARMUP):
            optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
            schedule = get_scheduler(name, optimizer, warmup, STEPS, options)
            found[f"{name}/{warmup}"] = rates = []
            for _ in range(STEPS):
                rates.append(schedule.get_last_lr()[0])
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # the optimizer makes no step
                    schedule.step()
    return found


class _InOrder(Trainer):
    """Takes the rows as they come."""

    def _get_train_sampler(self, *_):
        return torch.utils.data.SequentialSampler(self.train_dataset)


def _run(out: Path, run: dict) -> Case:
    """Train without dropout; labels of the second half of some rows are left out."""
    model = load_model(out, "plain", resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
    count = LENGTH * ROWS * run.get("gradient_accumulation_steps", 1)
    ids = random_ids(7, count, TOKENS)
    labels = ids.clone()
    labels[::3, TOKENS // 2 :] = -100
    labels[:, 0] = -100  # the trainer divides by it, though nothing predicts it
    rows = [{"input_ids": i, "labels": t} for i, t in zip(ids, labels, strict=True)]
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            per_device_train_batch_size=ROWS,
            num_train_epochs=1,
            logging_steps=1,
            logging_nan_inf_filter=False,
            save_strategy="no",
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
            **run,
        )
        trainer = _InOrder(model, arguments, train_dataset=rows)
        trainer.train()
    lines = [line for line in trainer.state.log_history if "loss" in line]
    assert len(lines) == LENGTH
    outputs = {
        name: np.array([line[name] for line in lines], np.float64)
        for name in ("loss", "learning_rate", "grad_norm")
    }
    outputs["wte"] = model.transformer.wte.weight.detach().numpy()
    return Case(
        settings={"class": "GPT2LMHeadModel", "training": run},
        inputs={"input_ids": ids.numpy(), "labels": labels.numpy()},
        outputs=outputs,
    )
