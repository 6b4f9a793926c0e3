"""Make the golden files of ``llama_cpp`` with llama.cpp, of GGUF files that gpt2x writes.

The environment: the core of gpt2x, and ``pip install cyllama==0.2.18``, a Python package that
holds llama.cpp b9190 compiled for CPUs. From the root of the repository::

    PYTHONPATH=src:tests python tests/golden/make_llama_cpp.py

Run it again whenever what gpt2x writes changes: the tests compare it with the files that llama.cpp
ran. It stops where llama.cpp disagrees with gpt2x on what a quantised file holds.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path

import numpy as np
from cyllama.llama import llama_cpp

from gpt2x.checkpoint import open_checkpoint
from support.golden_data import GOLDEN, load_json
from support.llama_cpp_models import DTYPES, MODELS, write_gguf

RELEASE = "b9190"
FOLDER = GOLDEN / "llama_cpp"
# llama.cpp's numbers of the file types that its quantiser can write.
FILE_TYPES = {"float16": 1, "q8_0": 7, "bfloat16": 32}
MORE_TEXTS = ["a<|endoftext|>b", "<sep>extra<sep>", "an extra  <|endoftext|> \n", "\n\n\t x\r\n"]


class Model(llama_cpp.LlamaModel):
    """A model of llama.cpp on one thread."""

    @property
    def n_vocab(self) -> int:
        """What `LlamaContext.get_logits` looks for here."""
        return self.get_vocab().n_vocab

    @classmethod
    def load(cls, path: Path) -> Model:
        """Load a GGUF file."""
        return cls(path_model=str(path), verbose=False)

    def logits(self, ids: list[int]) -> np.ndarray:
        """The logits [T, V] after each of the ids, which are run one at a time."""
        context = self._context()
        return np.stack([self._step(context, at, token) for at, token in enumerate(ids)])

    def greedy(self, ids: list[int], count: int) -> list[int]:
        """Generate `count` tokens, each the likeliest."""
        context, ids = self._context(), list(ids)
        logits = [self._step(context, at, token) for at, token in enumerate(ids)][-1]
        for _ in range(count):
            ids.append(int(logits.argmax()))
            logits = self._step(context, len(ids) - 1, ids[-1])
        return ids[-count:]

    def _context(self) -> llama_cpp.LlamaContext:
        options = llama_cpp.LlamaContextParams()
        options.n_ctx = options.n_batch = self.n_ctx_train
        options.n_threads = options.n_threads_batch = 1
        options.type_k = options.type_v = 0  # the cache in float32
        return llama_cpp.LlamaContext(model=self, params=options, verbose=False)

    def _step(self, context: llama_cpp.LlamaContext, at: int, token: int) -> np.ndarray:
        batch = llama_cpp.LlamaBatch(n_tokens=1, embd=0, n_seq_max=1)
        batch.set_batch([token], at, False)
        context.decode(batch)
        return np.array(context.get_logits(), np.float32)


def quantise(source: Path, destination: Path, dtype: str) -> None:
    """Run llama.cpp's quantiser."""
    options = llama_cpp.LlamaModelQuantizeParams()
    options.ftype, options.nthread = FILE_TYPES[dtype], 1
    llama_cpp.model_quantize(str(source), str(destination), options)


def check_equal(ours: Path, theirs: Path) -> None:
    """Stop if two files hold other tensors, or other entries in their headers."""
    with open_checkpoint(ours) as one, open_checkpoint(theirs) as other:
        assert one.metadata == other.metadata, (one.metadata, other.metadata)
        assert one.tokenizer_files == other.tokenizer_files
        assert set(one) == set(other)
        for name, tensor in one.items():
            assert tensor.dtype == other[name].dtype, name
            assert tensor.read().tobytes() == other[name].read().tobytes(), name


def main() -> None:
    """Write the files."""
    FOLDER.mkdir(exist_ok=True)
    llama_cpp.disable_logging()
    llama_cpp.llama_backend_init()
    arrays: dict[str, np.ndarray] = {}
    notes: dict[str, object] = {"release": RELEASE, "sha256": {}}
    with tempfile.TemporaryDirectory() as folder:
        for name in MODELS:
            for dtype in DTYPES:
                path = write_gguf(name, dtype, Path(folder))
                notes["sha256"][path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
                model = Model.load(path)
                ids = np.random.default_rng(1).integers(0, 97, 8).tolist()
                arrays[f"{name}/{dtype}/ids"] = np.array(ids)
                arrays[f"{name}/{dtype}/logits"] = model.logits(ids)
                arrays[f"{name}/{dtype}/greedy"] = np.array(model.greedy(ids, 8))
        for dtype in FILE_TYPES:
            theirs = Path(folder, "quantised.gguf")
            quantise(Path(folder, "tokenized-float32.gguf"), theirs, dtype)
            check_equal(Path(folder, f"tokenized-{dtype}.gguf"), theirs)
            if dtype == "q8_0":
                (FOLDER / "q8_0.gguf").write_bytes(theirs.read_bytes())
        model = Model.load(Path(folder, "tokenized-float32.gguf"))
        vocabulary = model.get_vocab()  # valid as long as the model
        texts = [case["text"] for case in load_json("tokenizer/tiny_encode.json")] + MORE_TEXTS
        notes |= {
            "n_vocab": vocabulary.n_vocab,
            "bos": vocabulary.token_bos(),
            "eos": vocabulary.token_eos(),
            "control": [i for i in range(vocabulary.n_vocab) if vocabulary.is_control(i)],
            "tokens": [
                {"text": text, "ids": list(vocabulary.tokenize(text, True, True))} for text in texts
            ],
        }
    np.savez_compressed(FOLDER / "runs.npz", **arrays)
    (FOLDER / "llama_cpp.json").write_text(json.dumps(notes) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
