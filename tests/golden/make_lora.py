"""Make `lora/`: adapters as PEFT saves them, and what they make of transformers' models.

    python tests/golden/make_lora.py

in an environment with PyTorch, transformers 4.57.6 and PEFT 0.21.2. All factors are random, B too.
The models are those of `plain`, `sequence_classification` and `token_classification`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch
import transformers

HERE = Path(__file__).parent
IDS = [[3, 28, 40, 41, 7], [12, 51, 21, 22, 9]]
CASES: dict[str, dict[str, Any]] = {
    "language_model": {
        "model": "plain",
        "class": "GPT2LMHeadModel",
        "options": {
            "task_type": "CAUSAL_LM",
            "target_modules": ["c_attn", "c_proj", "mlp.c_fc"],
            "lora_alpha": 3,
            "use_rslora": True,
            "modules_to_save": ["ln_f"],
        },
    },
    "classifier": {
        "model": "sequence_classification",
        "class": "GPT2ForSequenceClassification",
        "options": {"task_type": "SEQ_CLS", "target_modules": r".*h\.1\..*c_attn"},
    },
    "tagger": {
        "model": "token_classification",
        "class": "GPT2ForTokenClassification",
        "options": {"task_type": "TOKEN_CLS", "target_modules": ["attn.c_proj", "c_fc"]},
    },
}


def losses(model: Any) -> np.ndarray:
    """Train what PEFT trains for two steps of gradient descent; return the losses around them."""
    ids = torch.tensor(IDS)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    found = []
    for _ in range(3):
        optimizer.zero_grad()
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    return np.array(found)


def main() -> None:
    """Write the adapters, their outputs and `cases.json`."""
    for seed, (name, case) in enumerate(CASES.items()):
        torch.manual_seed(seed)
        kind = getattr(transformers, case["class"])
        base = kind.from_pretrained(HERE / case["model"], attn_implementation="eager")
        base.name_or_path = ""
        config = peft.LoraConfig(
            r=4, fan_in_fan_out=True, init_lora_weights=False, **case["options"]
        )
        model = peft.get_peft_model(base, config).eval()
        with torch.no_grad():
            for name_, parameter in model.named_parameters():
                if "modules_to_save" in name_:
                    parameter.add_(0.3 * torch.randn_like(parameter))
        model.save_pretrained(HERE / "lora" / name)
        (HERE / "lora" / name / "README.md").unlink()
        outputs = {"logits": model(torch.tensor(IDS)).logits.detach().numpy()}
        if name == "language_model":
            options = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None}
            text = model.generate(input_ids=torch.tensor(IDS), pad_token_id=0, **options)
            outputs["sequences"] = text.numpy()
            outputs["losses"] = losses(model)
        np.savez(HERE / "lora" / name / "outputs.npz", input_ids=np.array(IDS), **outputs)
    described = {name: {k: case[k] for k in ("model", "class")} for name, case in CASES.items()}
    (HERE / "lora" / "cases.json").write_text(json.dumps(described, indent=1) + "\n")


if __name__ == "__main__":
    main()
