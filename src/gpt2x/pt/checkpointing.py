"""Gradient checkpointing of a model's blocks, and gradients that reach frozen embeddings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle


class CheckpointingMixin:
    """Transformers' methods to train a model in less memory."""

    base_model: Any
    get_input_embeddings: Callable[[], nn.Embedding]
    _input_hook: RemovableHandle | None

    def gradient_checkpointing_enable(
        self, gradient_checkpointing_kwargs: dict[str, Any] | None = None
    ) -> None:
        """Recompute each block in the backward pass instead of keeping its activations.

        `gradient_checkpointing_kwargs` go to `torch.utils.checkpoint.checkpoint`; by default
        `use_reentrant=False`.
        """
        body = self.base_model
        body.gradient_checkpointing = True
        body.gradient_checkpointing_kwargs = {
            "use_reentrant": False,
            **(gradient_checkpointing_kwargs or {}),
        }

    def gradient_checkpointing_disable(self) -> None:
        """Keep activations again."""
        self.base_model.gradient_checkpointing = False

    @property
    def is_gradient_checkpointing(self) -> bool:
        """Whether blocks are recomputed in training."""
        return getattr(self.base_model, "gradient_checkpointing", False)

    is_activation_checkpointing = is_gradient_checkpointing  # by transformers 5's name

    def enable_input_require_grads(self) -> None:
        """Give the embeddings' output gradients, even if the embeddings themselves are frozen.

        Reentrant checkpointing of a partly frozen model needs this to have gradients.
        """
        self.disable_input_require_grads()
        self._input_hook = self.get_input_embeddings().register_forward_hook(_require_grad)

    def disable_input_require_grads(self) -> None:
        """Undo `enable_input_require_grads`."""
        if self._input_hook is not None:
            self._input_hook.remove()
            self._input_hook = None


def _require_grad(module: nn.Module, inputs: Any, output: Tensor) -> None:
    output.requires_grad_()
