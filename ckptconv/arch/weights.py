"""A checkpoint's tensors as what a module's ``load_state_dict`` takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    import torch

    from ckptconv.core.tensor import LazyTensor


def read_state(tensors: Mapping[str, LazyTensor]) -> dict[str, torch.Tensor]:
    """The tensors in contiguous memory of their own; tied names share one. Reads all of them."""
    shared: dict[object, torch.Tensor] = {}
    state: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        key = tensor.identity(name)
        if key not in shared:
            shared[key] = tensor.to_torch().contiguous()
        state[name] = shared[key]
    return state


def tied_in(module: torch.nn.Module, names: Collection[str]) -> dict[str, str]:
    """Names that are absent and one tensor with one that is there, as the module has them: absent → there.

    A safetensors that save_pretrained wrote leaves them out and says nowhere what they are tied to.
    """
    state = module.state_dict(keep_vars=True)
    kept = {id(tensor): name for name, tensor in reversed(state.items()) if name in names}
    return {name: kept[id(tensor)] for name, tensor in state.items() if name not in names and id(tensor) in kept}


def load_state(module: torch.nn.Module, state: Mapping[str, torch.Tensor]) -> None:
    """``load_state_dict(strict=True)`` of the very tensors; absent ones that are tied in the module are filled in.

    ``num_batches_tracked`` may be absent: evaluation does not use it. Raises RuntimeError as torch does.
    """
    whole = dict(state) | {name: state[kept] for name, kept in tied_in(module, state.keys()).items()}
    for name, value in module.state_dict().items():
        if name.endswith("num_batches_tracked"):
            whole.setdefault(name, value.new_zeros(value.shape, device="cpu"))
    module.load_state_dict(whole, strict=True, assign=True)
