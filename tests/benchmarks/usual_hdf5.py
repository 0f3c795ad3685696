"""What h5py does, as the benchmarks' peer: ``python usual_hdf5.py write A.pth B.h5``, or ``list B.h5``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import h5py

if TYPE_CHECKING:
    from collections.abc import Callable


def write(source: str, target: str) -> None:
    """Save a state_dict as Keras saves weights: each module is a group."""
    import torch

    with h5py.File(target, "w") as file:
        for name, tensor in torch.load(source, weights_only=True).items():
            file.create_dataset(name.replace(".", "/"), data=tensor.float().numpy())


def list_datasets(path: str) -> None:
    """Print the name, type and shape of every dataset."""

    def show(name: str, item: h5py.Group | h5py.Dataset) -> None:
        if isinstance(item, h5py.Dataset):
            print(name, item.dtype, item.shape)

    with h5py.File(path) as file:
        file.visititems(show)


WORKS: dict[str, Callable[..., None]] = {"write": write, "list": list_datasets}

if __name__ == "__main__":
    WORKS[sys.argv[1]](*sys.argv[2:])
