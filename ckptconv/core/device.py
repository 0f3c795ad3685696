"""Which device torch is to put tensors on, said before anything is read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.errors import MissingExtraError, UsageError

if TYPE_CHECKING:
    import torch


def torch_device(device: str) -> torch.device:
    """The device of that name. Raises MissingExtraError without torch, UsageError where there is none."""
    try:
        import torch
    except ModuleNotFoundError as error:
        raise MissingExtraError("torch", "verify") from error
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise UsageError(f"torch knows no device {device!r}", hint="cpu, cuda or cuda:0") from error
    if found.type != "cuda":
        return found
    if not torch.cuda.is_available():
        why = "" if torch.version.cuda else f", and torch {torch.__version__} is built without CUDA"
        raise UsageError(
            f"there is no CUDA device here{why}", hint="--device cpu, or a machine with a GPU and its driver"
        )
    if (found.index or 0) >= torch.cuda.device_count():
        raise UsageError(
            f"there is no device {device!r}: torch sees {torch.cuda.device_count()}", hint="--device cuda:0"
        )
    return found
