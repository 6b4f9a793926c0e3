"""Train the model that gpt2x carries in `src/gpt2x/data/bard`: on a CPU, in some 80 minutes.

    pip install -e ".[pt]"
    python tools/train_demo_model.py --minutes 80

The text is that of `demo_corpus.py`. A byte-level BPE of 4,096 tokens is learnt from the training
documents, then a GPT-2 of 3.5 million parameters with AdamW, in bfloat16 over float32 weights. The
learning rate follows a cosine over the minutes given, so that a slow machine ends as orderly as a
fast one, on fewer tokens. The run continues from `.demo-model/` when it was interrupted, and
whenever the validation loss has fallen, the folder that it exports is complete and usable.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from demo_corpus import documents
from gpt2x import GenerationConfig, GPT2Config, GPT2LMHeadModel, GPT2TokenizerFast

ROOT = Path(__file__).resolve().parent.parent
END = "<|endoftext|>"
VOCAB_SIZE = 4096
CONTEXT = 256
BATCH = 8
PEAK_RATE = 2e-3
WARM_UP = 0.02  # of the time
EVALUATE_EVERY = 400  # steps


@dataclass
class Data:
    """Tokens of the training documents and of the held-out ones, each document after an END."""

    train: np.ndarray  # [tokens], uint16
    valid: np.ndarray  # [tokens], uint16
    valid_bytes: int  # of the held-out text, to give the loss in bits per byte


def train_tokenizer(texts: list[str], folder: Path) -> None:
    """Write vocab.json and merges.txt of a byte-level BPE whose last token is END."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE - 1,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.model.save(str(folder))
    vocab = json.loads((folder / "vocab.json").read_text("utf-8"))
    vocab[END] = len(vocab)
    (folder / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False), "utf-8")


def prepare(folder: Path) -> tuple[GPT2TokenizerFast, Data]:
    """Return the tokenizer and the tokens; every fortieth document is held out."""
    texts = documents(folder / "corpus")
    held_out, kept = texts[10::40], [t for i, t in enumerate(texts) if i % 40 != 10]
    if not (folder / "merges.txt").exists():
        train_tokenizer(kept, folder)
    tokenizer = GPT2TokenizerFast(str(folder / "vocab.json"), str(folder / "merges.txt"))
    end = tokenizer.convert_tokens_to_ids(END)

    def encode(texts: list[str]) -> np.ndarray:
        return np.concatenate([[end, *ids] for ids in tokenizer(texts)["input_ids"]]).astype("u2")

    data = Data(encode(kept), encode(held_out), sum(len(text.encode()) for text in held_out))
    tokenizer.model_max_length = CONTEXT  # only now: the documents are longer
    return tokenizer, data


def batches(tokens: np.ndarray, rng: np.random.Generator) -> torch.Tensor:
    """Return BATCH random windows, int64 [BATCH, CONTEXT]."""
    starts = rng.integers(0, len(tokens) - CONTEXT, size=BATCH)
    return torch.from_numpy(np.stack([tokens[s : s + CONTEXT] for s in starts]).astype(np.int64))


@torch.no_grad()
def evaluate(model: GPT2LMHeadModel, tokens: np.ndarray) -> float:
    """Return the mean loss in nats a token over all held-out windows."""
    model.eval()
    whole = tokens[: len(tokens) // CONTEXT * CONTEXT].reshape(-1, CONTEXT).astype(np.int64)
    with torch.autocast("cpu", torch.bfloat16):
        losses = [model(ids, labels=ids).loss.item() for ids in torch.tensor(whole).split(BATCH)]
    model.train()
    return float(np.mean(losses))


def learning_rate(progress: float) -> float:
    """Return the rate when `progress` (0 to 1) of the time is over: warm-up, then a cosine."""
    if progress < WARM_UP:
        return PEAK_RATE * max(progress, 1e-4) / WARM_UP
    fraction = min(1.0, (progress - WARM_UP) / (1 - WARM_UP))
    return PEAK_RATE * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * fraction)))


def make_optimizer(model: GPT2LMHeadModel) -> torch.optim.AdamW:
    """Return AdamW that decays the matrices and leaves biases and norms alone."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": 0.1},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=PEAK_RATE, betas=(0.9, 0.98))


def export(model: GPT2LMHeadModel, tokenizer: GPT2TokenizerFast, folder: Path, card: str) -> None:
    """Write the folder that the package carries: bfloat16 weights, configs, tokenizer and card."""
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.to(torch.bfloat16).save_pretrained(folder)
    model.to(torch.float32).load_state_dict(state)
    tokenizer.save_pretrained(folder)
    (folder / "README.md").write_text(card, "utf-8")


def model_card(model: GPT2LMHeadModel, data: Data, step: int, nats: float, bits: float) -> str:
    """Fill in the model card with what this run came to."""
    return (
        (ROOT / "tools/demo_model_card.md")
        .read_text("utf-8")
        .format(
            parameters=model.num_parameters(),
            context=CONTEXT,
            vocab_size=VOCAB_SIZE,
            steps=step,
            step_tokens=BATCH * CONTEXT,
            epochs=step * BATCH * CONTEXT / len(data.train),
            nats=nats,
            bits=bits,
            train_tokens=len(data.train),
            valid_tokens=len(data.valid),
        )
    )


def main() -> None:
    """Prepare, train, export."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=80.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--scratch", type=Path, default=ROOT / ".demo-model")
    parser.add_argument("--out", type=Path, default=ROOT / "src/gpt2x/data/bard")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)

    tokenizer, data = prepare(options.scratch)
    config = GPT2Config(
        vocab_size=VOCAB_SIZE,
        n_positions=CONTEXT,
        n_embd=192,
        n_layer=6,
        n_head=6,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=VOCAB_SIZE - 1,
        eos_token_id=VOCAB_SIZE - 1,
    )
    model = GPT2LMHeadModel(config).train()
    model.generation_config = GenerationConfig(
        do_sample=True,
        temperature=0.7,
        top_k=50,
        top_p=0.95,
        max_new_tokens=150,
        bos_token_id=VOCAB_SIZE - 1,
        eos_token_id=VOCAB_SIZE - 1,
        pad_token_id=VOCAB_SIZE - 1,
    )
    optimizer = make_optimizer(model)
    step, elapsed, best = 0, 0.0, math.inf
    checkpoint = options.scratch / "checkpoint.pt"
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        step, elapsed, best = saved["step"], saved["elapsed"], saved["best"]
    rng = np.random.default_rng(step)
    print(
        f"{sum(p.numel() for p in model.parameters())} parameters, "
        f"{len(data.train)} + {len(data.valid)} tokens, from step {step}",
        flush=True,
    )

    budget = options.minutes * 60
    began = time.monotonic()
    while elapsed < budget:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(elapsed / budget)
        ids = batches(data.train, rng)
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(ids, labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        elapsed, began = elapsed + time.monotonic() - began, time.monotonic()
        if step % EVALUATE_EVERY and elapsed < budget:
            continue
        valid = evaluate(model, data.valid)
        bits = valid * len(data.valid) / data.valid_bytes / math.log(2)
        print(
            f"step {step}, {elapsed / 60:.1f} min: train {loss.item():.3f}, "
            f"valid {valid:.3f} nats/token, {bits:.3f} bits/byte",
            flush=True,
        )
        if valid < best:
            best = valid
            export(model, tokenizer, options.out, model_card(model, data, step, valid, bits))
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
        beside = checkpoint.with_suffix(".new")
        torch.save({**state, "step": step, "elapsed": elapsed, "best": best}, beside)
        beside.replace(checkpoint)


if __name__ == "__main__":
    main()
