"""Task heads in PyTorch: logits and losses of the four classes beside the language model."""

from pathlib import Path
from typing import Any

import torch

from .files import Case, write_group
from .forward import forward_case, padded_mask, positions_given
from .models import PAD, compact_ids, load_model, random_floats


def write_heads(out: Path) -> None:
    """One group ``heads`` in each folder whose model has a task head."""
    groups = {
        "double_heads": double_heads_cases(out),
        "double_heads_hidden": double_heads_hidden_cases(out),
        "regression": regression_cases(out),
        "sequence_classification": sequence_classification_cases(out),
        "token_classification": token_classification_cases(out),
        "question_answering": question_answering_cases(out),
    }
    for folder, cases in groups.items():
        write_group(out / folder / "heads.npz", cases)


def head_case(out: Path, folder: str, inputs: dict[str, torch.Tensor], **options: Any) -> Case:
    """A call of a freshly loaded model (a labelled call may change its config), without cache."""
    config = options.pop("config", {})
    model = load_model(out, folder, **config)
    case = forward_case(model, inputs, config=config, **options)
    for key in ("past_keys", "past_values"):
        case.outputs.pop(key, None)
    return case


def double_heads_cases(out: Path) -> dict[str, Case]:
    """Choices in the shape [B, C, T]: 2 questions, 3 choices, 6 tokens."""
    ids = compact_ids(300, 2, 3, 6)
    chosen = torch.tensor([[5, 3, 4], [2, 5, 0]])
    labels = ids.clone()
    labels[0, 0, :2] = -100
    labels[1] = -100
    both = {"labels": labels, "mc_labels": torch.tensor([2, 0])}
    lengths = [6, 4, 5, 3, 6, 1]
    right = padded_mask(lengths, 6, "right")
    left = padded_mask(lengths, 6, "left")
    summaries: dict[str, dict[str, Any]] = {
        "summary_last": {"summary_type": "last"},
        "summary_first": {"summary_type": "first"},
        "summary_mean": {"summary_type": "mean"},
        "summary_tanh": {"summary_activation": "tanh"},
        "summary_without_projection": {"summary_use_proj": False},
    }

    def case(inputs: dict[str, torch.Tensor], **options: Any) -> Case:
        return head_case(out, "double_heads", inputs, **options)

    cases = {
        "ids": case({"input_ids": ids, "mc_token_ids": chosen}),
        "mc_token_ids_absent": case({"input_ids": ids}),
        "labels": case({"input_ids": ids, "mc_token_ids": chosen, **both}),
        "labels_only": case({"input_ids": ids, "mc_token_ids": chosen, "labels": labels}),
        "mc_labels_only": case({"input_ids": ids, "mc_labels": both["mc_labels"]}),
        "token_type_ids": case(
            {
                "input_ids": ids,
                "mc_token_ids": chosen,
                "token_type_ids": compact_ids(301, 2, 3, 6),
            }
        ),
        "rank_2": case({"input_ids": ids[:, 0], "mc_token_ids": chosen[:, 0]}),
        "right_padded": case(
            {
                "input_ids": torch.where(right.bool(), ids.flatten(0, 1), PAD).view_as(ids),
                "attention_mask": right.view_as(ids),
                "mc_token_ids": torch.tensor(lengths).view(2, 3) - 1,
                "labels": torch.where(right.bool(), ids.flatten(0, 1), -100).view_as(ids),
                "mc_labels": both["mc_labels"],
            }
        ),
        "right_padded_mc_token_ids_absent": case(
            {
                "input_ids": torch.where(right.bool(), ids.flatten(0, 1), PAD).view_as(ids),
                "attention_mask": right.view_as(ids),
                "labels": ids,
                "mc_labels": both["mc_labels"],
            }
        ),
        "left_padded": case(
            {
                "input_ids": torch.where(left.bool(), ids.flatten(0, 1), PAD).view_as(ids),
                "attention_mask": left.view_as(ids),
                "mc_labels": both["mc_labels"],
            },
            # transformers adds the positions to flattened choices, so it needs them flattened
            reference=positions_given(left),
        ),
        "hidden_states": case(
            {"input_ids": ids, "mc_token_ids": chosen},
            keep=("logits", "mc_logits", "attentions"),
            output_attentions=True,
        ),
    }
    for name, config in summaries.items():
        labelled = {} if name == "summary_without_projection" else both
        cases[name] = case(
            {"input_ids": ids, "mc_token_ids": chosen, **labelled},
            config=config,
            keep=("mc_loss", "mc_logits") if labelled else ("mc_logits",),
        )
    return cases


def double_heads_hidden_cases(out: Path) -> dict[str, Case]:
    """A summary projected to the embedding width instead of to one score."""
    ids = compact_ids(310, 2, 3, 6)
    inputs = {"input_ids": ids, "mc_token_ids": torch.tensor([[5, 3, 4], [2, 5, 0]])}
    return {"ids": head_case(out, "double_heads_hidden", inputs, keep=("mc_logits",))}


def pooled_inputs(seed: int) -> dict[str, dict[str, torch.Tensor]]:
    """Rows of 7, 4 and 5 tokens, padded in each way that decides which token is pooled."""
    ids = compact_ids(seed, 3, 7)
    right = padded_mask([7, 4, 5], 7, "right")
    left = padded_mask([7, 4, 5], 7, "left")
    inside = torch.where(right.bool(), ids, PAD)
    inside[:, 1] = PAD
    return {
        "ids": {"input_ids": ids},
        "right_padded": {
            "input_ids": torch.where(right.bool(), ids, PAD),
            "attention_mask": right,
        },
        "right_padded_without_mask": {"input_ids": torch.where(right.bool(), ids, PAD)},
        "left_padded": {"input_ids": torch.where(left.bool(), ids, PAD), "attention_mask": left},
        "pads_inside_without_mask": {"input_ids": inside},
    }


def regression_cases(out: Path) -> dict[str, Case]:
    """One label: a mean squared error."""
    labels = torch.tensor([0.5, -1.25, 3.0])
    return {
        name: head_case(
            out,
            "regression",
            {**inputs, "labels": labels},
            reference=positions_given(inputs.get("attention_mask")),
        )
        for name, inputs in pooled_inputs(320).items()
    }


def sequence_classification_cases(out: Path) -> dict[str, Case]:
    """Three labels: one class a row, any of the classes, or three numbers."""
    folder = "sequence_classification"
    classes = torch.tensor([2, 0, 1])
    several = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    inputs = pooled_inputs(330)
    cases = {
        name: head_case(
            out,
            folder,
            {**arrays, "labels": classes},
            reference=positions_given(arrays.get("attention_mask")),
        )
        for name, arrays in inputs.items()
    }
    for name, problem in (
        ("multi_label", "multi_label_classification"),
        ("regression", "regression"),
        ("inferred_multi_label", None),
    ):
        cases[name] = head_case(
            out,
            folder,
            {**inputs["ids"], "labels": several},
            config={"problem_type": problem} if problem else {},
        )
    cases["unlabelled"] = head_case(out, folder, inputs["ids"])
    cases["inputs_embeds"] = head_case(
        out, folder, {"inputs_embeds": random_floats(331, 2, 5, 16, scale=0.5)}
    )
    cases["one_row_without_pad"] = head_case(
        out,
        folder,
        {"input_ids": inputs["right_padded"]["input_ids"][1:2]},
        config={"pad_token_id": None},
    )
    return cases


def token_classification_cases(out: Path) -> dict[str, Case]:
    """A class for each token, -100 where none counts."""
    ids = compact_ids(340, 2, 6)
    labels = torch.tensor([[-100, 1, 3, 0, -100, 2], [2, 2, 0, -100, -100, -100]])
    mask = padded_mask([6, 3], 6, "right")
    left = padded_mask([6, 3], 6, "left")

    def case(inputs: dict[str, torch.Tensor], **options: Any) -> Case:
        reference = positions_given(inputs.get("attention_mask"))
        return head_case(out, "token_classification", inputs, reference=reference, **options)

    return {
        "ids": case({"input_ids": ids}),
        "labels": case({"input_ids": ids, "labels": labels}),
        "right_padded": case(
            {
                "input_ids": torch.where(mask.bool(), ids, PAD),
                "attention_mask": mask,
                "labels": labels,
            }
        ),
        "left_padded": case(
            {
                "input_ids": torch.where(left.bool(), ids, PAD),
                "attention_mask": left,
                "labels": torch.where(left.bool(), ids % 4, -100),
            }
        ),
    }


def question_answering_cases(out: Path) -> dict[str, Case]:
    """The first and the last token of an answer; a position past the text is not counted."""
    ids = compact_ids(350, 3, 6)
    left = padded_mask([6, 4, 3], 6, "left")
    right = padded_mask([6, 4, 3], 6, "right")

    def case(inputs: dict[str, torch.Tensor]) -> Case:
        return head_case(
            out,
            "question_answering",
            inputs,
            reference=positions_given(inputs.get("attention_mask")),
        )

    return {
        "ids": case({"input_ids": ids}),
        "positions": case(
            {
                "input_ids": ids,
                "start_positions": torch.tensor([0, 2, 5]),
                "end_positions": torch.tensor([3, 2, 5]),
            }
        ),
        "positions_beyond": case(
            {
                "input_ids": ids,
                "start_positions": torch.tensor([0, 9, 5]),
                "end_positions": torch.tensor([3, 6, 40]),
            }
        ),
        "positions_rank_2": case(
            {
                "input_ids": ids,
                "start_positions": torch.tensor([[0], [2], [5]]),
                "end_positions": torch.tensor([[3], [2], [5]]),
            }
        ),
        "right_padded": case(
            {
                "input_ids": torch.where(right.bool(), ids, PAD),
                "attention_mask": right,
                "start_positions": torch.tensor([0, 2, 1]),
                "end_positions": torch.tensor([3, 3, 5]),
            }
        ),
        "left_padded": case(
            {
                "input_ids": torch.where(left.bool(), ids, PAD),
                "attention_mask": left,
                "start_positions": torch.tensor([0, 2, 3]),
                "end_positions": torch.tensor([3, 5, 4]),
            }
        ),
    }
