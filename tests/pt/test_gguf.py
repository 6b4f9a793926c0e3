"""GGUF files that gpt2x writes, run by llama.cpp and read back: the same logits and tokens."""

from __future__ import annotations

import numpy as np
import pytest

from support.golden_data import GOLDEN
from support.llama_cpp_models import DTYPES, MODELS, write_gguf

torch = pytest.importorskip("torch")

from gpt2x.pt import GPT2LMHeadModel  # noqa: E402

RUNS = np.load(GOLDEN / "llama_cpp" / "runs.npz")
# llama.cpp looks GELU up in a table of float16, multiplies matrices of half precision with vectors
# of that type, and rounds vectors to Q8_0 before it multiplies Q8_0 with them.
TOLERANCE = {"float32": 2e-3, "float16": 2e-3, "bfloat16": 1.5e-2, "q8_0": 3e-2}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", MODELS)
def test_llama_cpp_computes_the_same(tmp_path, name, dtype):
    ids, logits, greedy = (RUNS[f"{name}/{dtype}/{kind}"] for kind in ("ids", "logits", "greedy"))
    file = write_gguf(name, dtype, tmp_path).name
    model = GPT2LMHeadModel.from_pretrained(tmp_path, gguf_file=file, dtype="float32").eval()
    prompt = torch.tensor(ids)[None]
    with torch.no_grad():
        computed = model(prompt).logits[0].numpy()
    np.testing.assert_allclose(computed, logits, rtol=0, atol=TOLERANCE[dtype] * np.ptp(logits))
    settings = {"max_new_tokens": len(greedy), "eos_token_id": None, "pad_token_id": 0}
    tokens = model.generate(prompt, do_sample=False, **settings)[0, len(ids) :]
    assert tokens.tolist() == greedy.tolist()
