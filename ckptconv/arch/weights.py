"""Turns a checkpoint's tensors into what a module's ``load_state_dict`` takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    import torch

    from ckptconv.core.tensor import LazyTensor


def read_state(tensors: Mapping[str, LazyTensor]) -> dict[str, torch.Tensor]:
    """All tensors, each in contiguous memory of its own; tied names share one. Reads all of them."""
    shared: dict[object, torch.Tensor] = {}
    state: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        key = tensor.identity(name)
        if key not in shared:
            shared[key] = tensor.to_torch().contiguous()
        state[name] = shared[key]
    return state


def tied_in(module: torch.nn.Module, names: Collection[str]) -> dict[str, str]:
    """Absent names whose tensor the module shares with a name that is there: absent → there.

    A safetensors file that save_pretrained wrote leaves such names out, and does not say what they are tied to.
    """
    state = module.state_dict(keep_vars=True)
    kept = {id(tensor): name for name, tensor in reversed(state.items()) if name in names}
    return {name: kept[id(tensor)] for name, tensor in state.items() if name not in names and id(tensor) in kept}


def load_state(module: torch.nn.Module, state: Mapping[str, torch.Tensor]) -> None:
    """``load_state_dict(strict=True, assign=True)``, with absent names filled in that the module ties.

    ``num_batches_tracked`` may be absent, because evaluation does not use it. Raises RuntimeError, as torch does.
    """
    whole = dict(state) | {name: state[kept] for name, kept in tied_in(module, state.keys()).items()}
    for name, value in module.state_dict().items():
        if name.endswith("num_batches_tracked"):
            whole.setdefault(name, value.new_zeros(value.shape, device="cpu"))
    module.load_state_dict(whole, strict=True, assign=True)
