"""How a torch module runs what transformers add to a network: attention, positions, tensors that belong to no layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from torch import nn

    from ckptconv.arch.recipe.program import Operation


def _plus(root: nn.Module, operation: Operation, x: torch.Tensor) -> torch.Tensor:
    return x + root.get_parameter(operation.name)


def _times(root: nn.Module, operation: Operation, x: torch.Tensor) -> torch.Tensor:
    return root.get_parameter(operation.name) * x


def _prepend(root: nn.Module, operation: Operation, x: torch.Tensor) -> torch.Tensor:
    import torch

    return torch.cat([root.get_parameter(operation.name).expand(x.shape[0], -1, -1), x], dim=1)


def _positions(root: nn.Module, operation: Operation, x: torch.Tensor) -> torch.Tensor:
    weight = root.get_parameter(f"{operation.name}.weight")
    return weight[: x.shape[1]].unsqueeze(0)


def _self_attention(root: nn.Module, operation: Operation, x: torch.Tensor) -> torch.Tensor:
    output: torch.Tensor = root.get_submodule(operation.name)(x, x, x, need_weights=False)[0]
    return output


def _attention(
    root: nn.Module, operation: Operation, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
) -> torch.Tensor:
    from torch.nn import functional

    heads = int(operation.attributes["heads"])
    q, k, v = (each.view(*each.shape[:2], heads, -1).transpose(1, 2) for each in (query, key, value))
    output = functional.scaled_dot_product_attention(q, k, v, is_causal=bool(operation.attributes["causal"]))
    return output.transpose(1, 2).flatten(2)


def _tokens(root: nn.Module, operation: Operation, x: torch.Tensor) -> torch.Tensor:
    return x.flatten(2).transpose(1, 2)


def _channels_last(root: nn.Module, operation: Operation, x: torch.Tensor) -> torch.Tensor:
    return x.permute(0, 2, 3, 1)


def _channels_first(root: nn.Module, operation: Operation, x: torch.Tensor) -> torch.Tensor:
    return x.permute(0, 3, 1, 2)


def _select(root: nn.Module, operation: Operation, x: torch.Tensor) -> torch.Tensor:
    return x[:, int(operation.attributes["index"])]


def _chunk(root: nn.Module, operation: Operation, x: torch.Tensor) -> torch.Tensor:
    return x.chunk(int(operation.attributes["count"]), dim=-1)[int(operation.attributes["index"])]


TOKENS: dict[str, Callable[..., torch.Tensor]] = {
    "plus": _plus, "times": _times, "prepend": _prepend, "positions": _positions, "self_attention": _self_attention,
    "attention": _attention, "tokens": _tokens, "channels_last": _channels_last, "channels_first": _channels_first,
    "select": _select, "chunk": _chunk,
}  # fmt: skip
"""By the operation's kind; each takes the whole module, the operation, and its inputs."""
