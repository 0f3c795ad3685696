"""The files that the benchmarks work on: ``python inputs.py KIND PATH BYTES [SEED]``.

A process of its own makes each one, because a child's peak memory counts what its parent held when it started it.
Needs torch, and as much memory as the file has bytes.
"""

from __future__ import annotations

import sys
from itertools import pairwise
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

GIB = 1 << 30
EXPERTS, MATRICES = 100, 3  # of a layer of the many-tensors file
FINITE = 0xBFFF_BFFF_BFFF_BFFF - (1 << 64)  # clears the top bit of four bf16 exponents: no NaN, no Inf, below 2


def llama(size: int) -> dict[str, torch.Tensor]:
    """A decoder's state_dict of about `size` bytes of bf16, under the names that transformers gives."""
    width, vocab = (2048, 32_000) if size >= GIB else (256, 4_000)
    layer = layer_shapes(width)
    ends = {
        "model.embed_tokens.weight": (vocab, width),
        "model.norm.weight": (width,),
        "lm_head.weight": (vocab, width),
    }
    layers = max(1, (size - nbytes(ends)) // nbytes(layer))
    shapes = {f"model.layers.{i}.{name}": shape for i in range(layers) for name, shape in layer.items()}
    return {name: noise(*shape) for name, shape in {**ends, **shapes}.items()}


def trained_llama(size: int) -> dict[str, torch.Tensor]:
    """The same with random numbers of a trained layer's scale, for what computes with them."""
    return {name: (torch.randn(tensor.shape) * 0.02).bfloat16() for name, tensor in llama(size).items()}


def wide_llama(size: int) -> dict[str, torch.Tensor]:
    """The same of about `size` bytes of f32."""
    return {name: torch.randn(tensor.shape) * 0.02 for name, tensor in llama(size // 2).items()}


def layer_shapes(width: int) -> dict[str, tuple[int, ...]]:
    """One layer: grouped-query attention, a gated MLP and two norms."""
    inner = width * 11 // 4
    return {
        "self_attn.q_proj.weight": (width, width),
        "self_attn.k_proj.weight": (width // 8, width),
        "self_attn.v_proj.weight": (width // 8, width),
        "self_attn.o_proj.weight": (width, width),
        "mlp.gate_proj.weight": (inner, width),
        "mlp.up_proj.weight": (inner, width),
        "mlp.down_proj.weight": (width, inner),
        "input_layernorm.weight": (width,),
        "post_attention_layernorm.weight": (width,),
    }


def nbytes(shapes: dict[str, tuple[int, ...]]) -> int:
    """What tensors of these shapes take in bf16."""
    return 2 * sum(torch.Size(shape).numel() for shape in shapes.values())


def noise(*shape: int) -> torch.Tensor:
    """A finite bf16 tensor with random bits."""
    words = (torch.Size(shape).numel() + 3) // 4
    bits = torch.randint(-(1 << 63), (1 << 63) - 1, (words,), dtype=torch.int64).bitwise_and_(FINITE)
    return bits.view(torch.bfloat16)[: torch.Size(shape).numel()].view(shape)


def many_tensors(_: int) -> dict[str, torch.Tensor]:
    """30,000 small tensors, as a mixture of experts has."""
    names = (
        f"model.layers.{layer}.block_sparse_moe.experts.{expert}.w{matrix}.weight"
        for layer in range(30_000 // (EXPERTS * MATRICES))
        for expert in range(EXPERTS)
        for matrix in range(1, MATRICES + 1)
    )
    return {name: noise(8, 8) for name in names}


def one_tensor(_: int) -> dict[str, torch.Tensor]:
    """A single tensor of 1 GiB."""
    return {"embed_tokens.weight": noise(GIB // 2 // 8192, 8192)}


def transposed(_: int) -> dict[str, torch.Tensor]:
    """A 512 MiB tensor that lies in its file in the other order: the worst case for streaming."""
    return {"lm_head.weight": noise(GIB // 4 // 8192, 8192).t()}


def small(_: int) -> dict[str, object]:
    """A 2 MB classifier with the metadata that rebuilds it."""
    widths = [784, 512, 256, 128, 10]
    names = ["hidden_layers.0", "hidden_layers.1", "hidden_layers.2", "output"]
    state: dict[str, torch.Tensor] = {}
    for name, (before, after) in zip(names, pairwise(widths), strict=True):
        state |= {f"{name}.weight": torch.randn(after, before), f"{name}.bias": torch.randn(after)}
    return {"input_size": 784, "output_size": 10, "hidden_layers": widths[1:-1], "state_dict": state}


KINDS: dict[str, Callable[[int], object]] = {
    "llama": llama,
    "trained-llama": trained_llama,
    "wide-llama": wide_llama,
    "many-tensors": many_tensors,
    "one-tensor": one_tensor,
    "transposed": transposed,
    "small": small,
}


def main(kind: str, path: str, size: str, seed: str = "0") -> None:
    """Save one input; the same bytes every time."""
    torch.manual_seed(int(seed))
    torch.save(KINDS[kind](int(size)), path)


if __name__ == "__main__":
    main(*sys.argv[1:])
