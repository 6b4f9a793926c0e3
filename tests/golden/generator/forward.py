"""Forward passes of GPT2Model and GPT2LMHeadModel in PyTorch, float32, eager attention."""

from pathlib import Path
from typing import Any

import torch
from transformers import DynamicCache
from transformers.modeling_outputs import ModelOutput

from .files import Case, write_group
from .models import PAD, compact_ids, load_model, random_floats, random_ids

FLAGS: dict[str, dict[str, Any]] = {
    "unscaled": {"scale_attn_weights": False},
    "inverse_layer_idx": {"scale_attn_by_inverse_layer_idx": True},
    "unscaled_inverse_layer_idx": {
        "scale_attn_weights": False,
        "scale_attn_by_inverse_layer_idx": True,
    },
    "reorder_and_upcast": {"reorder_and_upcast_attn": True},
    "inverse_layer_idx_reorder_and_upcast": {
        "scale_attn_by_inverse_layer_idx": True,
        "reorder_and_upcast_attn": True,
    },
    "unscaled_inverse_layer_idx_reorder_and_upcast": {
        "scale_attn_weights": False,
        "scale_attn_by_inverse_layer_idx": True,
        "reorder_and_upcast_attn": True,
    },
    "layer_norm_epsilon_large": {"layer_norm_epsilon": 0.1},
    "layer_norm_epsilon_small": {"layer_norm_epsilon": 1e-12},
}
ACTIVATIONS = (
    "gelu",
    "gelu_new",
    "gelu_fast",
    "gelu_pytorch_tanh",
    "quick_gelu",
    "relu",
    "silu",
    "swish",
    "tanh",
)
GRADIENTS = (
    "wte.weight",
    "wpe.weight",
    "h.0.ln_1.weight",
    "h.0.attn.c_attn.weight",
    "h.0.attn.c_proj.bias",
    "h.1.ln_2.bias",
    "h.1.mlp.c_fc.weight",
    "h.1.mlp.c_proj.weight",
    "ln_f.bias",
)


def write_forward(out: Path) -> None:
    """Every forward case of the models without a task head."""
    write_group(out / "plain/forward.npz", plain_cases(out))
    write_group(out / "plain/past.npz", past_cases(out))
    write_group(
        out / "plain/flags.npz",
        flag_cases(out, "plain", ("logits", "hidden_states", "attentions")),
    )
    write_group(out / "plain/activations.npz", activation_cases(out))
    write_group(out / "plain/loss.npz", loss_cases(out, "plain"))
    write_group(out / "untied/forward.npz", untied_cases(out))
    write_group(out / "untied/flags.npz", flag_cases(out, "untied", ("logits",)))
    write_group(out / "untied/loss.npz", loss_cases(out, "untied"))
    write_group(out / "cross_attention/forward.npz", cross_attention_cases(out))


def positions_of(mask: torch.Tensor) -> torch.Tensor:
    """``cumsum(mask) - 1``, and 0 at the padding before a text."""
    return (mask.cumsum(-1) - 1).clamp(min=0)


def positions_given(mask: torch.Tensor | None) -> dict[str, torch.Tensor]:
    """The positions that transformers has to be given: it counts padding before a text as text."""
    if mask is None or mask[..., 0].all():
        return {}
    return {"position_ids": positions_of(mask)}


def padded_mask(lengths: list[int], width: int, side: str) -> torch.Tensor:
    """int64 [B, width] with ``lengths`` ones in each row, padding on ``side``."""
    column = torch.arange(width)
    rows = [column < n if side == "right" else column >= width - n for n in lengths]
    return torch.stack(rows).long()


def arrays_of(output: ModelOutput) -> dict[str, Any]:
    """The output's fields as arrays.

    Tuples over layers are stacked on a new first axis, and the cache becomes ``past_keys`` and
    ``past_values`` [L, B, H, S, D]; with cross-attention, ``cross_keys`` and ``cross_values``
    hold the encoder's.
    """
    arrays = {}
    for key, value in output.items():
        if key == "past_key_values":
            cache = getattr(value, "self_attention_cache", value)
            arrays["past_keys"] = torch.stack([layer.keys for layer in cache.layers])
            arrays["past_values"] = torch.stack([layer.values for layer in cache.layers])
            layers = [] if cache is value else value.cross_attention_cache.layers
            if layers and layers[0].keys is not None:
                arrays["cross_keys"] = torch.stack([layer.keys for layer in layers])
                arrays["cross_values"] = torch.stack([layer.values for layer in layers])
        elif isinstance(value, tuple):
            arrays[key] = torch.stack(value)
        else:
            arrays[key] = value
    return {key: value.detach().numpy() for key, value in arrays.items()}


def cache_of(inputs: dict[str, torch.Tensor]) -> DynamicCache:
    """A cache that holds the ``past_keys`` and ``past_values`` of a case's inputs."""
    pairs = zip(inputs["past_keys"], inputs["past_values"], strict=True)
    return DynamicCache.from_legacy_cache(tuple(pairs))


def forward_case(
    model: torch.nn.Module,
    inputs: dict[str, torch.Tensor],
    *,
    reference: dict[str, torch.Tensor] | None = None,
    config: dict[str, Any] | None = None,
    keep: tuple[str, ...] | None = None,
    **call: Any,
) -> Case:
    """Call the model and record it; ``keep`` names the outputs to store (all if None)."""
    reference = reference or {}
    arguments = {**inputs, **reference}
    if "past_keys" in arguments:
        arguments["past_key_values"] = cache_of(arguments)
        del arguments["past_keys"], arguments["past_values"]
    with torch.no_grad():
        output = model(**arguments, **call)
    outputs = arrays_of(output)
    settings: dict[str, Any] = {"class": type(model).__name__}
    if call:
        settings["call"] = call
    if config:
        settings["config"] = config
    return Case(
        settings=settings,
        inputs={key: value.numpy() for key, value in inputs.items()},
        reference={key: value.numpy() for key, value in reference.items()},
        outputs=outputs if keep is None else {key: outputs[key] for key in keep},
    )


EVERYTHING = {"output_hidden_states": True, "output_attentions": True}


def plain_cases(out: Path) -> dict[str, Case]:
    """Each form of input, once, on the plain model."""
    model = load_model(out, "plain")
    base = load_model(out, "plain", "GPT2Model")
    ids = random_ids(100, 3, 8)
    embeddings = random_floats(101, 3, 8, 24, scale=0.5)
    right = padded_mask([8, 6, 4], 8, "right")
    left = padded_mask([8, 6, 4], 8, "left")
    packed = torch.tensor([[0, 1, 2, 3, 0, 1, 0, 1]])
    jumping = torch.tensor([[0, 1, 2, 7, 8, 3, 3, 39]]).repeat(3, 1)
    logits = ("logits",)
    cases = {
        "ids": forward_case(model, {"input_ids": ids}, **EVERYTHING),
        "base_model": forward_case(base, {"input_ids": ids}, keep=("last_hidden_state",)),
        "base_model_right_padded": forward_case(
            base, {"input_ids": ids, "attention_mask": right}, keep=("last_hidden_state",)
        ),
        "one_token": forward_case(model, {"input_ids": ids[:, :1]}),
        "full_length": forward_case(model, {"input_ids": random_ids(102, 1, 40)}, keep=logits),
        "token_type_ids": forward_case(
            model, {"input_ids": ids, "token_type_ids": random_ids(103, 3, 8)}, keep=logits
        ),
        "inputs_embeds": forward_case(model, {"inputs_embeds": embeddings}, keep=logits),
        "inputs_embeds_left_padded": forward_case(
            model,
            {"inputs_embeds": embeddings, "attention_mask": left},
            reference=positions_given(left),
            keep=logits,
        ),
        "position_ids": forward_case(
            model,
            {"input_ids": ids, "position_ids": torch.arange(8) + torch.tensor([[0], [5], [32]])},
            keep=logits,
        ),
        "position_ids_and_mask": forward_case(
            model,
            {"input_ids": ids, "attention_mask": right, "position_ids": jumping},
            keep=logits,
        ),
        "position_ids_packed": forward_case(
            model, {"input_ids": ids[:1], "position_ids": packed}, keep=logits, use_cache=False
        ),
        "mask_rank_4": forward_case(
            model, {"input_ids": ids, "attention_mask": banded_mask(3, 8)}, keep=logits
        ),
        "logits_to_keep": forward_case(model, {"input_ids": ids}, keep=logits, logits_to_keep=3),
        "logits_to_keep_indices": forward_case(
            model, {"input_ids": ids, "logits_to_keep": torch.tensor([0, 4, 7])}, keep=logits
        ),
    }
    for side, mask in (("right", right), ("left", left)):
        cases[f"{side}_padded"] = forward_case(
            model,
            {"input_ids": torch.where(mask.bool(), ids, PAD), "attention_mask": mask},
            reference=positions_given(mask),
            **EVERYTHING,
        )
    return cases


def banded_mask(batch: int, length: int) -> torch.Tensor:
    """Additive float32 [B, 1, T, T]: causal, and row b sees its last 2 + b positions only."""
    query, key = torch.arange(length)[:, None], torch.arange(length)[None, :]
    seen = torch.stack([(key <= query) & (key > query - 2 - row) for row in range(batch)])
    lowest = torch.finfo(torch.float32).min
    return torch.where(seen, 0.0, lowest)[:, None]


def past_cases(out: Path) -> dict[str, Case]:
    """Continuations of a cache, given as past keys and values [L, B, H, S, D]."""
    model = load_model(out, "plain")
    ids = random_ids(105, 3, 8)
    mask = padded_mask([8, 6, 4], 8, "left")
    embeddings = {"inputs_embeds": random_floats(106, 3, 8, 24, scale=0.5)}
    padded = {"input_ids": torch.where(mask.bool(), ids, PAD)}
    right = padded_mask([8, 6, 4], 8, "right")
    right_padded = {"input_ids": torch.where(right.bool(), ids, PAD)}
    return {
        "ids": past_case(model, {"input_ids": ids}, **EVERYTHING),
        "left_padded": past_case(model, padded, mask, **EVERYTHING),
        "one_token": past_case(model, padded, mask, split=7, keep=("logits",)),
        "right_padded": past_case(model, right_padded, right, **EVERYTHING),
        "inputs_embeds": past_case(model, embeddings, keep=("logits",)),
    }


def past_case(
    model: torch.nn.Module,
    tokens: dict[str, torch.Tensor],
    mask: torch.Tensor | None = None,
    *,
    split: int = 5,
    **options: Any,
) -> Case:
    """The columns from ``split`` on, after the columns before it have filled a cache."""
    past_arguments = {key: value[:, :split] for key, value in tokens.items()}
    inputs = {key: value[:, split:] for key, value in tokens.items()}
    reference = positions_given(mask)
    if mask is not None:
        past_arguments["attention_mask"] = mask[:, :split]
        inputs["attention_mask"] = mask
    for name, positions in reference.items():
        past_arguments[name], reference[name] = positions[:, :split], positions[:, split:]
    with torch.no_grad():
        cache = model(**past_arguments, use_cache=True).past_key_values
    inputs["past_keys"] = torch.stack([layer.keys for layer in cache.layers])
    inputs["past_values"] = torch.stack([layer.values for layer in cache.layers])
    return forward_case(model, inputs, reference=reference, **options)


def flag_cases(out: Path, folder: str, keep: tuple[str, ...]) -> dict[str, Case]:
    """Each flag of the config on one folder's weights, for the plain ones also padded."""
    ids = random_ids(110, 2, 7)
    cases = {}
    for name, config in FLAGS.items():
        model = load_model(out, folder, **config)
        cases[name] = forward_case(
            model,
            {"input_ids": ids},
            config=config,
            keep=keep,
            **EVERYTHING,
        )
        for side in ("left", "right") if folder == "plain" else ():
            mask = padded_mask([7, 4], 7, side)
            cases[f"{name}_{side}_padded"] = forward_case(
                model,
                {"input_ids": torch.where(mask.bool(), ids, PAD), "attention_mask": mask},
                reference=positions_given(mask),
                config=config,
                keep=("logits",),
            )
    return cases


def activation_cases(out: Path) -> dict[str, Case]:
    """Each activation function on the plain weights."""
    ids = random_ids(111, 1, 6)
    cases = {}
    for name in ACTIVATIONS:
        config = {"activation_function": name}
        model = load_model(out, "plain", **config)
        cases[name] = forward_case(model, {"input_ids": ids}, config=config, keep=("logits",))
    return cases


def untied_cases(out: Path) -> dict[str, Case]:
    """A model whose head has weights of its own, and three layers."""
    model = load_model(out, "untied")
    ids = random_ids(120, 3, 8)
    mask = padded_mask([8, 5, 3], 8, "left")
    return {
        "ids": forward_case(model, {"input_ids": ids}, **EVERYTHING),
        "left_padded": forward_case(
            model,
            {"input_ids": torch.where(mask.bool(), ids, PAD), "attention_mask": mask},
            reference=positions_given(mask),
            keep=("logits",),
        ),
    }


def cross_attention_cases(out: Path) -> dict[str, Case]:
    """Attention to an encoder's hidden states [B, S_encoder, E], with and without a mask."""
    model = load_model(out, "cross_attention")
    base = load_model(out, "cross_attention", "GPT2Model")
    ids = compact_ids(130, 3, 6)
    encoder = {
        "encoder_hidden_states": random_floats(131, 3, 5, 16),
        "encoder_attention_mask": padded_mask([5, 3, 1], 5, "right"),
    }
    mask = padded_mask([6, 4, 2], 6, "left")
    right = padded_mask([6, 4, 2], 6, "right")
    cases = {
        "ids": forward_case(model, {"input_ids": ids, **encoder}, **EVERYTHING),
        "base_model": forward_case(
            base, {"input_ids": ids, **encoder}, keep=("last_hidden_state",)
        ),
        "without_encoder": forward_case(model, {"input_ids": ids}, keep=("logits",)),
        "without_encoder_mask": forward_case(
            model,
            {"input_ids": ids, "encoder_hidden_states": encoder["encoder_hidden_states"]},
            keep=("logits",),
        ),
        "left_padded": forward_case(
            model,
            {"input_ids": torch.where(mask.bool(), ids, PAD), "attention_mask": mask, **encoder},
            reference=positions_given(mask),
        ),
        "right_padded": forward_case(
            model,
            {"input_ids": torch.where(right.bool(), ids, PAD), "attention_mask": right, **encoder},
            keep=("logits",),
        ),
    }
    for name in (
        "unscaled_inverse_layer_idx",
        "unscaled_inverse_layer_idx_reorder_and_upcast",
    ):
        flagged = load_model(out, "cross_attention", **FLAGS[name])
        cases[name] = forward_case(
            flagged, {"input_ids": ids, **encoder}, config=FLAGS[name], keep=("logits",)
        )
    return cases


def loss_cases(out: Path, folder: str) -> dict[str, Case]:
    """The language-model loss, and its gradients under canonical parameter names."""
    model = load_model(out, folder)
    ids = random_ids(140, 3, 8)
    labels = ids.clone()
    labels[0, :3] = -100
    labels[1, 5:] = -100
    mask = padded_mask([8, 6, 3], 8, "right")
    cases = {
        "labels": forward_case(model, {"input_ids": ids, "labels": ids}, keep=("loss", "logits")),
        "labels_ignored": forward_case(
            model, {"input_ids": ids, "labels": labels}, keep=("loss", "logits")
        ),
        "labels_right_padded": forward_case(
            model,
            {
                "input_ids": torch.where(mask.bool(), ids, PAD),
                "attention_mask": mask,
                "labels": torch.where(mask.bool(), ids, -100),
            },
            reference=positions_given(mask),
            keep=("loss",),
        ),
    }
    model.zero_grad()
    loss = model(input_ids=ids, labels=labels).loss
    loss.backward()
    parameters = dict(model.named_parameters())
    names = [*GRADIENTS, "lm_head.weight"] if folder == "untied" else GRADIENTS
    gradients = {
        f"gradients/{name}": parameters[name if name in parameters else f"transformer.{name}"].grad
        for name in names
    }
    case = cases["labels_ignored"]
    case.outputs.update({key: value.numpy() for key, value in gradients.items()})
    return cases
