"""The products with weights, each by the kernel and memory order that a CPU computes fastest.

Decoding one text multiplies every weight with a single vector, so its speed is that of reading the
weights from memory. In float32, MKL's batched product reads 28 GB/s in each thread where `F.linear`
reads 16 and `addmm` with an (in, out) weight 22. With more rows, oneDNN is 1.5 to 2 times as fast
as the MKL behind `F.linear` (measured on an AMD EPYC). In bfloat16, `F.linear` on an (out, in)
weight reads 15 GB/s and `addmm` 10; in float16, a twentieth of that. So large weights lie as (out,
in). Small ones fit a cache, where the order does not matter: they lie as transformers' do, and are
multiplied by the same kernel, so that rounding is the same too.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpt2x.pt.recognition import Recognised

# Elements from which a weight counts as large: 1 MiB of float32.
LARGE = 1 << 18

# Products that one is cut into; threads take whole ones.
_PARTS = 16

# The operator that torch.compile emits for a linear layer on a CPU.
_HAS_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(
    torch.ops.mkldnn, "_linear_pointwise"
)


def empty_weight(n_in: int, n_out: int) -> Tensor:
    """Return an uninitialised weight [in, out], in the order in memory that suits its size."""
    if n_in * n_out >= LARGE:
        return torch.empty(n_out, n_in).t()
    return torch.empty(n_in, n_out)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return ``x @ weight.T + bias``: x [..., in], weight [out, in], bias [out] -> [..., out]."""
    if (
        torch.is_grad_enabled()  # oneDNN's kernel has no derivative
        or torch.jit.is_tracing()  # a trace cannot hold oneDNN's operator
        or weight.numel() < LARGE
        or not (weight.dtype == x.dtype == torch.float32)
        or weight.device.type != "cpu"
        or not weight.is_contiguous()
        or torch.compiler.is_compiling()
        or torch.is_autocast_enabled("cpu")
    ):
        return F.linear(x, weight, bias)
    n_out, n_in = weight.shape
    count = x.numel() // n_in
    if count == 1:
        out = _matrix_vector(x.reshape(1, n_in), weight, bias)
    elif _HAS_ONEDNN:
        rows = x.reshape(count, n_in)
        out = torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "none", [], "")
    else:
        out = F.linear(x, weight, bias)
    return out.view(*x.shape[:-1], n_out)


def _matrix_vector(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return the same for one vector, x [1, in] -> [out], as a batch of products."""
    n_out, n_in = weight.shape
    size = n_out // _PARTS
    body = size * _PARTS
    vectors = x.t().expand(_PARTS, n_in, 1)  # these strides select the fast kernel
    out = torch.bmm(weight[:body].view(_PARTS, size, n_in), vectors).view(-1)
    if body < n_out:
        out = torch.cat([out, F.linear(x[0], weight[body:])])
    return out if bias is None else out + bias


class Linear(nn.Linear):
    """`nn.Linear`, multiplied by `linear`."""

    def forward(self, input: Tensor) -> Tensor:
        """Map [..., in] to [..., out]."""
        return linear(input, self.weight, self.bias)


class Conv1D(Recognised):
    """A linear layer whose weight has the shape (in, out), as OpenAI's 1x1 convolutions had.

    Its order in memory is another matter, see above.

    `adds_to_residual` says that a block adds the result to its input: such layers start smaller,
    see `GPT2PreTrainedModel._init_weights`.
    """

    _stands_for = ("transformers.pytorch_utils", "Conv1D")

    def __init__(self, nf: int, nx: int, *, adds_to_residual: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(empty_weight(nx, nf))
        self.bias = nn.Parameter(torch.empty(nf))
        self.adds_to_residual = adds_to_residual

    @property
    def nx(self) -> int:
        """Size of the input, by transformers' name."""
        return self.weight.size(0)

    @property
    def nf(self) -> int:
        """Size of the output, by transformers' name."""
        return self.weight.size(1)

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight.t(), self.bias)

    def extra_repr(self) -> str:
        n_in, n_out = self.weight.shape
        return f"in_features={n_in}, out_features={n_out}"
