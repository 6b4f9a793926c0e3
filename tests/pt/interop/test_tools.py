"""PyTorch's own tools on a model whose weights are large enough for kernels of their own."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest
import safetensors.torch
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.nn.utils import parameters_to_vector, parametrizations, prune, vector_to_parameters
from torch.utils.flop_counter import FlopCounterMode

from gpt2x import pt
from gpt2x.pt.cpu.linear import LARGE
from support.pt_models import random_ids, tiny_config

CLOSE = {"rtol": 1e-4, "atol": 1e-5}


@pytest.fixture
def model() -> pt.GPT2LMHeadModel:
    sizes = {"n_layer": 1, "n_embd": 512, "n_head": 4, "initializer_range": 0.05}
    model = pt.GPT2LMHeadModel(tiny_config(**sizes, vocab_size=LARGE // 512 + 1)).eval()
    block = model.transformer.h[0]
    projections = (block.attn.c_attn, block.attn.c_proj, block.mlp.c_fc, block.mlp.c_proj)
    assert all(layer.weight.numel() >= LARGE for layer in (*projections, model.lm_head))
    return model


@pytest.fixture
def ids() -> Tensor:
    return random_ids(2, 7)


@pytest.fixture
def _one_process(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1
    )
    yield
    dist.destroy_process_group()


@torch.no_grad()
def logits(model: nn.Module, ids: Tensor) -> Tensor:
    return model(ids).logits


def test_parameters_are_contiguous(model, tmp_path: Path):
    model.save_pretrained(tmp_path)
    torch.save(
        {
            name: w.t().contiguous().t() if w.dim() == 2 else w
            for name, w in model.state_dict().items()
        },
        tmp_path / "strided.bin",
    )
    strided = torch.load(tmp_path / "strided.bin")
    for each in (
        model,
        pt.GPT2LMHeadModel.from_pretrained(tmp_path),
        pt.GPT2LMHeadModel.from_pretrained(tmp_path, dtype="bfloat16"),
        pt.GPT2LMHeadModel.from_pretrained(None, config=model.config, state_dict=strided),
        model.to(memory_format=torch.channels_last),
        copy.deepcopy(model).half(),
    ):
        for name, parameter in each.named_parameters():
            assert parameter.is_contiguous(), name
            assert parameter.shape == strided[name].shape


def test_parameters_as_one_vector(model, ids):
    expected = logits(model, ids)
    vector = parameters_to_vector(model.parameters()).detach().clone()
    vector_to_parameters(0 * vector, model.parameters())
    vector_to_parameters(vector, model.parameters())
    torch.testing.assert_close(logits(model, ids), expected)
    loss = model(ids, labels=ids).loss
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    assert torch.cat([gradient.view(-1) for gradient in gradients]).shape == vector.shape


def test_lbfgs_lowers_the_loss(model, ids):
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=3)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = model(ids, labels=ids).loss
        loss.backward()
        return loss

    before = optimizer.step(closure)
    assert closure() < before


def test_pruning(model, ids):
    layer = model.transformer.h[0].attn.c_attn
    prune.l1_unstructured(layer, "weight", 0.3)
    expected = logits(model, ids)
    prune.remove(layer, "weight")
    assert (layer.weight == 0).float().mean().item() == pytest.approx(0.3, abs=1e-3)
    torch.testing.assert_close(logits(model, ids), expected)


def test_parametrizations(model, ids):
    expected = logits(model, ids)
    layer = model.transformer.h[0].mlp.c_fc
    parametrizations.weight_norm(layer)
    torch.testing.assert_close(logits(model, ids), expected, **CLOSE)
    model(ids, labels=ids).loss.backward()
    assert layer.parametrizations.weight.original1.grad.is_contiguous()


def test_other_libraries_files(model, ids, tmp_path: Path):
    expected = logits(model, ids)
    state = {name: w for name, w in model.state_dict().items() if name != "lm_head.weight"}
    safetensors.torch.save_file(state, tmp_path / "model.safetensors")
    torch.save(model.state_dict(), tmp_path / "model.pt")
    for loaded, strict, assign in (
        (safetensors.torch.load_file(tmp_path / "model.safetensors"), False, False),
        (torch.load(tmp_path / "model.pt"), True, False),
        (torch.load(tmp_path / "model.pt"), True, True),
    ):
        other = pt.GPT2LMHeadModel(model.config).eval()
        other.load_state_dict(loaded, strict=strict, assign=assign)
        torch.testing.assert_close(logits(other, ids), expected)


def test_copies(model, ids):
    expected = logits(model, ids)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), model.share_memory()):
        assert torch.equal(logits(other, ids), expected)


@pytest.mark.usefixtures("_one_process")
def test_fully_sharded_training(model, ids):
    plain = copy.deepcopy(model)
    for block in model.transformer.h:
        fully_shard(block)
    fully_shard(model)
    for each in (model, plain):
        optimizer = torch.optim.SGD(each.parameters(), lr=0.1)
        each(ids, labels=ids).loss.backward()
        optimizer.step()
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, plain(ids).logits, **CLOSE)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
def test_forward_mode_derivatives(model, ids):
    """Of the loss along a direction, with gradients recorded and without: as backward's."""
    model.set_attn_implementation("eager")  # torch has no such derivative of the fused kernel
    weights = {name: p.detach() for name, p in model.named_parameters()}
    directions = {name: torch.randn_like(weight) for name, weight in weights.items()}

    def loss(weights: dict[str, Tensor]) -> Tensor:
        inputs = {"labels": ids, "use_cache": False}
        return torch.func.functional_call(model, weights, (ids,), inputs).loss

    gradients = torch.func.grad(loss)(weights)
    expected = sum((gradients[name] * directions[name]).sum() for name in weights)
    for has_grad in (True, False):
        with torch.set_grad_enabled(has_grad):
            _, found = torch.func.jvp(loss, (weights,), (directions,))
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_operations_are_counted(model, ids):
    """As many with gradients as without, and in `generate` as in the calls that it makes."""

    def count(run) -> int:
        with FlopCounterMode(display=False) as counter:
            run()
        return counter.get_total_flops()

    assert count(lambda: model(ids)) == count(lambda: logits(model, ids)) > 4e7

    def decode() -> None:
        past = model(ids, logits_to_keep=1).past_key_values
        model(ids[:, :1], past_key_values=past)

    options = {"do_sample": False, "max_new_tokens": 2, "min_new_tokens": 2}
    assert count(lambda: model.generate(ids, **options)) == count(decode)
