"""h5py, which is asked about files that are written, where it is installed: whether it opens them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.errors import RejectedOutputError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


def open_with_h5py(path: Path, datasets: Iterable[str]) -> None:
    """Let h5py open the file, and the headers of these datasets. Raises RejectedOutputError."""
    try:
        import h5py
    except ImportError:
        return
    try:
        with path.open("rb", buffering=0) as unnamed, h5py.File(unnamed, "r") as file:  # it asks a path for its name
            for name in datasets:
                file[name].id.get_space()
    except (OSError, KeyError, RuntimeError) as error:
        raise RejectedOutputError(f"h5py refuses what was written: {error}") from error
