"""A model and an engine in numpy: training without a framework, in milliseconds a step."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from gpt2x.corpus import Place
from gpt2x.models.checks import IGNORE_INDEX
from gpt2x.train.arguments import TrainingArguments
from gpt2x.train.checkpoints import Progress, found, read_moments, read_progress
from gpt2x.train.engine import Evaluated, OptimizerSettings, StepResult, World
from gpt2x.train.feed import ShuffledFeed
from gpt2x.train.loop import Loop, Reporter

VOCAB = 5
WEIGHTS = "weights.json"


class Bigrams:
    """Logits of the next token by the one before: weights [V, V]."""

    def __init__(self, weights):
        self.weights = np.asarray(weights, np.float64)

    def loss(self, ids, labels, keep=None):
        """Return the loss and its gradient; `keep` [B, T - 1] drops logits."""
        logits = self.weights[ids[:, :-1]]
        if keep is not None:
            logits = logits * keep[..., None]
        logits = logits - logits.max(-1, keepdims=True)
        p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        targets = labels[:, 1:]
        counts = targets != IGNORE_INDEX
        hot = np.eye(VOCAB)[np.where(counts, targets, 0)]
        losses = -np.log((p * hot).sum(-1))
        gradient = (p - hot) * (counts / max(1, counts.sum()))[..., None]
        if keep is not None:
            gradient = gradient * keep[..., None]
        total = np.zeros_like(self.weights)
        np.add.at(total, ids[:, :-1], gradient)
        return (losses * counts).sum() / max(1, counts.sum()), total


class NumpyEngine:
    """`gpt2x.train.engine.Engine` for `Bigrams`."""

    settings = OptimizerSettings(0.9, 0.99, 1e-8, 0.1, 1.0)

    def __init__(self, model):
        self.model, self.world = model, World()
        self.steps = []  # of micro-batches
        self._moments = [np.zeros_like(model.weights) for _ in range(2)]

    def step(self, micro_batches, number, learning_rate):
        s, w = self.settings, self.model.weights
        self.steps.append(list(micro_batches))
        total, gradient = 0.0, np.zeros_like(w)
        for batch in micro_batches:
            ids, labels = batch.inputs["input_ids"], batch.inputs["labels"]
            keep = np.random.default_rng(batch.seed).random(ids[:, 1:].shape) > 0.1
            loss, g = self.model.loss(ids, labels, keep)
            total += batch.weight * loss
            gradient += batch.weight * g
        norm = np.sqrt((gradient**2).sum())
        gradient = gradient * min(1.0, s.max_grad_norm / (norm + 1e-6))
        m, v = self._moments
        m[:] = s.beta1 * m + (1 - s.beta1) * gradient
        v[:] = s.beta2 * v + (1 - s.beta2) * gradient**2
        m_hat, v_hat = m / (1 - s.beta1**number), v / (1 - s.beta2**number)
        w -= learning_rate * (m_hat / (np.sqrt(v_hat) + s.epsilon) + s.weight_decay * w)
        return StepResult(total, norm)

    def evaluate(self, inputs, *, logits):
        loss, _ = self.model.loss(inputs["input_ids"], inputs["labels"])
        return Evaluated(loss, None)

    def total(self, values):
        return values

    def save(self, folder: Path):
        (folder / WEIGHTS).write_text(json.dumps(self.model.weights.tolist()))

    def state(self):
        return dict(zip(("exp_avg.w", "exp_avg_sq.w"), self._moments, strict=True))

    def restore(self, state, steps):
        self._moments = [state["exp_avg.w"].copy(), state["exp_avg_sq.w"].copy()]


class Sequences:
    """Rows of tokens that repeat a pattern; a tenth of them are noise."""

    def __init__(self, count, seed=0, labels=None):
        rng = np.random.default_rng(seed)
        starts = rng.integers(VOCAB, size=(count, 1))
        self.ids = (starts + np.arange(8)) % VOCAB
        noise = rng.random(self.ids.shape) < 0.1
        self.ids[noise] = rng.integers(VOCAB, size=noise.sum())
        self.labels = self.ids if labels is None else labels

    def __len__(self):
        return len(self.ids)

    def rows(self, indices):
        return {"input_ids": self.ids[indices], "labels": self.labels[indices]}

    def places(self, index):
        return [Place("rows.txt", index + 1)]


class NextToken:
    """The task of `Bigrams`."""

    needs_logits = False
    sample = None

    def labels(self, inputs):
        return (inputs["labels"][:, 1:] != IGNORE_INDEX).sum(axis=1)

    def metrics(self, loss, predictions):
        return {"eval_loss": loss}

    def save_tokenizer(self, folder):
        pass


def make_loop(output_dir, train=None, validation=None, steps=20, reporter=None, **arguments):
    """Return a loop that begins, or goes on from the newest checkpoint in the folder."""
    arguments = TrainingArguments(output_dir=str(output_dir), **{**DEFAULTS, **arguments})
    weights, progress, moments = np.zeros((VOCAB, VOCAB)), Progress(), None
    if checkpoints := [*found(Path(output_dir)).values()]:
        weights = json.loads((checkpoints[-1] / WEIGHTS).read_text())
        progress, moments = read_progress(checkpoints[-1]), read_moments(checkpoints[-1])
    engine = NumpyEngine(Bigrams(weights))
    if moments is not None:
        engine.restore(moments, progress.step)
    train = Sequences(30) if train is None else train
    size = arguments.per_device_train_batch_size * arguments.gradient_accumulation_steps
    feed = ShuffledFeed(train, arguments.seed, size)
    reporter = reporter or Reporter()
    return Loop(arguments, steps, engine, NextToken(), feed, validation, progress, reporter)


DEFAULTS = {"learning_rate": 0.1, "per_device_train_batch_size": 2, "logging_steps": 4}


def log_of(output_dir):
    """Return the lines of the log without what depends on the clock."""
    clock = {"tokens_per_second", "data_wait"}
    lines = map(json.loads, Path(output_dir, "log.jsonl").read_text().splitlines())
    return [{k: v for k, v in line.items() if k not in clock} for line in lines]
