"""The converter that most people write, as the benchmarks' peer: ``python usual_script.py SRC DST``."""

from __future__ import annotations

import sys

import torch
from safetensors.torch import load_file, save_file


def main(source: str, target: str) -> None:
    """Convert a .pth of tensors, or of tensors under ``state_dict``, to .safetensors; or the other way round."""
    if source.endswith(".safetensors"):
        torch.save(load_file(source), target)
    else:
        checkpoint = torch.load(source, weights_only=True)
        state = checkpoint.get("state_dict", checkpoint)
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, target)


if __name__ == "__main__":
    main(*sys.argv[1:])
