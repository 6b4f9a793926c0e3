"""Loops of users in PyTorch, and processes that generate together."""

from __future__ import annotations

import multiprocessing

import torch

from support.contract.custom import CustomContract
from support.processes import generate_together
from support.pt_models import BACKEND


def search(
    model, input_ids, logits_processor, stopping_criteria, generation_config, **model_kwargs
):
    """Continues as a loop for transformers does, through the model's own preparation."""
    model_kwargs["cache_position"] = torch.arange(input_ids.size(1))
    pad, running = generation_config._pad_token_tensor, torch.ones(len(input_ids), dtype=torch.bool)
    while running.any():
        inputs = model.prepare_inputs_for_generation(input_ids, **model_kwargs)
        outputs = model(**inputs, return_dict=True)
        model_kwargs = model._update_model_kwargs_for_generation(outputs, model_kwargs)
        scores = logits_processor(input_ids, outputs.logits[:, -1].float())
        tokens = torch.where(running, scores.argmax(dim=-1), pad)
        input_ids = torch.cat([input_ids, tokens[:, None]], dim=-1)
        running = running & ~stopping_criteria(input_ids, None)
    return input_ids


class TestCustom(CustomContract):
    backend = BACKEND

    def test_a_loop_may_use_the_cache_and_the_methods_of_the_model(self, model):
        ends = self.write(model)[0, 6:7].tolist()
        for options in ({}, {"eos_token_id": ends, "do_sample": True, "top_k": 1}):
            plain = self.write(model, **options)
            assert torch.equal(self.write(model, custom_generate=search, **options), plain)


def test_processes_run_the_model_equally_often(tmp_path):
    context = multiprocessing.get_context("forkserver")  # imports PyTorch once, and no JAX
    context.set_forkserver_preload(["gpt2x.pt"])
    results, address = context.Queue(), f"file://{tmp_path}/group"
    processes = [
        context.Process(target=generate_together, args=(rank, address, results)) for rank in (0, 1)
    ]
    for process in processes:
        process.start()
    assert sorted(results.get(timeout=600) for _ in processes) == [(0, 5, 7), (1, 9, 7)]
    for process in processes:
        process.join()
