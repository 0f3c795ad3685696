"""Whether a checkpoint mentions torchao at all: every file that is opened is asked, so this imports nothing more."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ckptconv.core.checkpoint import Checkpoint

PACKAGE = "torchao."
NAMES = "tensor_names"
"""The metadata key for the names of all tensors, a text in JSON."""


def mentions_torchao(checkpoint: Checkpoint) -> bool:
    """Whether its metadata lists tensors as torchao does in safetensors, or its pickle names a class of torchao."""
    root = checkpoint.root
    is_listed = isinstance(root, dict) and NAMES in root
    return is_listed or any(use.name.startswith(PACKAGE) for use in checkpoint.notes.globals)
