"""Keys that a model's `load_state_dict` accepts besides its own."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from gpt2x.weights.table import canonical_pytorch_name, without_wrappers


class StateDictMixin(nn.Module):
    """Lets a model load state dicts of its wrappers and of older versions of GPT-2."""

    config: Any
    base_model_prefix: ClassVar[str]
    tie_weights: Callable[[], None]

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Load a state dict; see `torch.nn.Module.load_state_dict`.

        The keys may have the prefixes of DistributedDataParallel, FSDP or `torch.compile`
        (``module.``, ``_orig_mod.``), the causal masks of older versions (``attn.bias``,
        ``attn.masked_bias``) may be among them, and a tied output layer may be missing: this is
        neither an error nor reported. `from_pretrained` accepts more, such as another head.
        """
        result = super().load_state_dict(state_dict, strict=strict, assign=assign)
        if assign:  # which puts a parameter of its own in each place
            self.tie_weights()
        return result

    def _load_from_state_dict(
        self, state_dict: dict[str, Tensor], prefix: str, *arguments: Any
    ) -> None:
        # PyTorch has copied the dictionary, so a module may change it for its children.
        own = {
            prefix + name
            for name, _ in itertools.chain(
                self.named_parameters(remove_duplicate=False),
                self.named_buffers(remove_duplicate=False),
            )
        }
        for key in [key for key in state_dict if key.startswith(prefix) and key not in own]:
            name = without_wrappers(key.removeprefix(prefix))
            if canonical_pytorch_name(name) is None:
                del state_dict[key]
            elif prefix + name in own and prefix + name not in state_dict:
                state_dict[prefix + name] = state_dict.pop(key)
        output = f"{prefix}lm_head.weight"
        embedding = f"{prefix}{self.base_model_prefix}.wte.weight"
        if output in own and self.config.tie_word_embeddings and embedding in state_dict:
            state_dict.setdefault(output, state_dict[embedding])
        super()._load_from_state_dict(state_dict, prefix, *arguments)
