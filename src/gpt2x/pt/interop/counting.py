"""What a model costs: its parameters, and the operations of a step, as transformers' Trainer asks.

Source: transformers 4.57, `ModuleUtilsMixin`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn


class CountingMixin(nn.Module):
    """Gives a model the methods that count."""

    main_input_name: ClassVar[str]
    num_parameters: Callable[..., int]

    @property
    def dummy_inputs(self) -> dict[str, Tensor]:
        """Token ids [3, 5] to try the model with."""
        return {"input_ids": torch.tensor([[7, 6, 0, 0, 1], [1, 2, 3, 0, 0], [0, 0, 0, 4, 5]])}

    def _sizes(self, only_trainable: bool) -> Iterator[tuple[int, bool]]:
        """Yield how many numbers each parameter has, and whether it is an embedding's."""
        embeddings = {id(m.weight) for m in self.modules() if isinstance(m, nn.Embedding)}
        for parameter in self.parameters():
            if parameter.requires_grad or not only_trainable:
                yield parameter.numel(), id(parameter) in embeddings

    def estimate_tokens(self, input_dict: Mapping[str, Any]) -> int:
        """Count the tokens of a batch, including padding; 0 without token ids."""
        ids = input_dict.get(self.main_input_name)
        return 0 if ids is None else ids.numel()

    def floating_point_ops(
        self, input_dict: Mapping[str, Any], exclude_embeddings: bool = True
    ) -> int:
        """Estimate the operations of a training step: six for each token and parameter
        (arXiv:2001.08361), without attention.
        """
        parameters = self.num_parameters(exclude_embeddings=exclude_embeddings)
        return 6 * self.estimate_tokens(input_dict) * parameters
