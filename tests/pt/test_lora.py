"""LoRA adapters in PyTorch."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace

import torch
from safetensors.numpy import load_file

from support.contract.adapters import LANGUAGE_MODEL, WEIGHTS, AdapterContract, outputs
from support.pt_models import BACKEND


class TestAdapters(AdapterContract):
    backend = replace(BACKEND, array=lambda tensor: tensor.detach().numpy())

    def trainable(self, model):
        return [tuple(p.shape) for p in model.parameters() if p.requires_grad]

    def losses(self, model, ids):
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
        ids, found = torch.tensor(ids), []
        for _ in range(3):
            optimizer.zero_grad()
            loss = model(input_ids=ids, labels=ids).loss
            loss.backward()
            optimizer.step()
            found.append(loss.item())
        return found

    def training_logits(self, model, ids):
        return self.backend.logits(model.train(), ids)

    def test_copies_and_half_precision_keep_the_adapter(self):
        model, expected = self.base(), outputs("language_model")
        model.load_adapter(LANGUAGE_MODEL)
        for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            self.assert_computes(other, expected)
        half = self.base().to(torch.bfloat16)
        half.load_adapter(LANGUAGE_MODEL)
        block = half.transformer.h[0].attn.c_attn
        assert (block.weight.dtype, block.lora.A.dtype) == (torch.bfloat16, torch.float32)
        half.merge_adapter()
        assert half.dtype == torch.bfloat16

    def test_a_state_dict_of_wrappers_is_saved(self, tmp_path):
        model = self.base()
        model.load_adapter(LANGUAGE_MODEL)
        state = {f"module.{name}": 2 * tensor for name, tensor in model.state_dict().items()}
        model.save_pretrained(tmp_path, state_dict=state)
        found, expected = load_file(tmp_path / WEIGHTS), load_file(LANGUAGE_MODEL / WEIGHTS)
        assert all((found[name] == 2 * expected[name]).all() for name in expected)

    def test_compiled_models_see_a_change_of_the_adapter(self):
        model, ids = self.base(), torch.tensor(outputs("language_model")["input_ids"])
        compiled = torch.compile(model, backend="eager")
        before = compiled(ids).logits
        model.load_adapter(LANGUAGE_MODEL)
        assert (compiled(ids).logits - before).abs().max() > 0.1
        model.merge_adapter()
        torch.testing.assert_close(compiled(ids).logits, model(ids).logits)
