"""Products with weights, each by the fastest kernel of the CPU.

Decoding one text multiplies every weight with a single vector, so the speed of reading weights from
memory limits it. Parameters are contiguous: (out, in) in a layer, and (in, out) in a `Conv1D`,
whose transpose is (out, in). MKL is fastest on Intel's processors. On others (measured on an AMD
EPYC) oneDNN multiplies several float32 rows 1.5 to 2 times as fast, and for one row MKL's batched
product reads a weight (out, in) twice as fast as `F.linear`. On an Intel Xeon (Sapphire Rapids)
`F.linear` is fastest for one float32 row: 2.3 times the batched product. For several rows, products
in parts are fastest, since MKL does not copy the weight then: 1.2 to 1.4 times `F.linear` by parts
of the sum, twice `F.linear` by parts of the output. In bfloat16 a weight (out, in) on the left is
read 1.5 times as fast as on the right, and twice as fast as one (in, out).

Where a weight (out, in) is faster, long generations multiply `copies` of weights that are
(in, out). Small weights fit into a cache of the CPU and go to `F.linear`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad

from gpt2x.pt.cpu import copies

# A weight of at least this many elements is large: 1 MiB of float32.
LARGE = 1 << 18

# Up to this many rows, reading the weight takes longer than multiplying it.
_FEW = 64

# Number of parts of a product; each part runs on one thread.
_PARTS = 16
_PARTS_OF_OUTPUT = 256

# The operator that torch.compile emits for a linear layer on a CPU.
_HAS_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(
    torch.ops.mkldnn, "_linear_pointwise"
)


def _is_intel() -> bool:
    """Return whether the processor is Intel's: only there MKL's kernels are fast."""
    if not hasattr(torch.cpu, "get_capabilities"):  # in older versions of torch
        return False
    return str(torch.cpu.get_capabilities().get("cpu_name", "")).startswith("Intel")


_PREFERS_MKL = torch.backends.mkl.is_available() and _is_intel()


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return ``x @ weight.T + bias``: x [..., in], weight [out, in], bias [out] -> [..., out]."""
    if (
        not isinstance(x, Tensor)  # a proxy of torch.fx
        or torch.is_grad_enabled()
        or torch.jit.is_tracing()  # the number of rows is a constant to a trace
        or weight.numel() < LARGE
        or weight.dtype != x.dtype
        or weight.dtype not in (torch.float32, torch.bfloat16)
        or weight.device.type != "cpu"
        or torch.compiler.is_compiling()
        or torch.is_autocast_enabled("cpu")
        or x.size(-1) != weight.size(1)  # an error to F.linear
    ):
        return F.linear(x, weight, bias)
    n_out, n_in = weight.shape
    rows = x.reshape(-1, n_in)
    out = _product(rows, weight, bias)
    if out is None:
        out = F.linear(rows, weight, bias)
    return out.view(*x.shape[:-1], n_out)


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor | None:
    """Return the product of rows [n, in] -> [n, out], or None where `F.linear` is fastest."""
    count = x.size(0)
    is_few, is_half, watched = 0 < count <= _FEW, weight.dtype == torch.bfloat16, is_watched()
    if (is_few if is_half else not _PREFERS_MKL) and not watched:
        weight = copies.out_in(weight)
    is_out_in = weight.is_contiguous()
    if is_half:
        is_counted = bias is None or not watched  # the FLOP counter does not know addmv
        return _weight_first_half(x, weight, bias) if is_few and is_out_in and is_counted else None
    if count == 1:
        return _weight_first(x, weight, bias) if is_out_in and not _PREFERS_MKL else None
    if not _PREFERS_MKL:
        if not _HAS_ONEDNN or count == 0 or watched:
            return None
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    if not is_few:
        return None
    if is_out_in:
        return _parts_of_output(x, weight, bias)
    return _parts_of_sum(x, weight, bias) if weight.t().is_contiguous() else None


def _weight_first(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Compute ``weight @ x.T``; for one row as a batch of products, [1, in] -> [1, out]."""
    count, (n_out, n_in) = x.size(0), weight.shape
    if count > 1:
        out = torch.mm(weight, x.t()).t().contiguous()
    else:
        body = n_out - n_out % _PARTS
        vectors = x.t().expand(_PARTS, n_in, 1)  # these strides select the fast kernel
        out = torch.bmm(weight[:body].view(_PARTS, -1, n_in), vectors).view(1, body)
        if body < n_out:
            out = torch.cat([out, F.linear(x, weight[body:])], dim=1)
    return out if bias is None else out + bias


def _weight_first_half(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Compute ``weight @ x.T + bias``, rounded once: x [n, in], weight [out, in] -> [n, out]."""
    if bias is None:
        return _weight_first(x, weight, None)
    if x.size(0) == 1:
        return torch.addmv(bias, weight, x[0])[None]
    return torch.addmm(bias[:, None], weight, x.t()).t().contiguous()


def _parts_of_output(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Compute the outputs in parts: x [n, in], weight contiguous as [out, in] -> [n, out]."""
    count, (n_out, n_in) = x.size(0), weight.shape
    body = n_out - n_out % _PARTS_OF_OUTPUT
    parts = weight[:body].view(_PARTS_OF_OUTPUT, -1, n_in)
    out = torch.bmm(x.expand(_PARTS_OF_OUTPUT, count, n_in), parts.transpose(1, 2))
    out = out.transpose(0, 1).reshape(count, body).contiguous()
    if body < n_out:
        out = torch.cat([out, F.linear(x, weight[body:])], dim=1)
    return out if bias is None else out + bias


def _parts_of_sum(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Add products over parts of the inputs: x [n, in], weight contiguous as [in, out]."""
    count, (n_out, n_in) = x.size(0), weight.shape
    body = n_in - n_in % _PARTS
    parts = weight.t()[:body].view(_PARTS, -1, n_out)
    out = torch.bmm(x[:, :body].reshape(count, _PARTS, -1).transpose(0, 1), parts).sum(dim=0)
    if body < n_in:
        out = out + F.linear(x[:, body:], weight[:, body:])
    return out if bias is None else out + bias


def is_watched() -> bool:
    """Return whether something counts or differentiates operators; it may not know oneDNN's."""
    return (
        forward_ad._current_level >= 0
        or torch._C._functorch.peek_interpreter_stack() is not None
        or torch._C._len_torch_dispatch_stack() > 0
    )


class Linear(nn.Linear):
    """`nn.Linear`, multiplied by `linear`."""

    def forward(self, input: Tensor) -> Tensor:
        """Map [..., in] to [..., out]."""
        return linear(input, self.weight, self.bias)
