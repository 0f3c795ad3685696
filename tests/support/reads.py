"""What a file is read for, and what its tensors give of it."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

import ckptconv
from ckptconv.errors import CkptconvError
from ckptconv.io.folder import Folder
from ckptconv.io.source import Source

if TYPE_CHECKING:
    from pathlib import Path

    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.core.tensor import LazyTensor


def bytes_read(checkpoint: Checkpoint) -> int:
    """Of its file, or of all files of its folder, so far."""
    assert isinstance(checkpoint.file, (Source, Folder))
    return checkpoint.file.bytes_read


def expect_any_range(tensor: LazyTensor, whole: bytes, count: int = 40) -> None:
    """Any range of a tensor is that part of its image."""
    chance = random.Random(0)
    for _ in range(count):
        start, stop = sorted(chance.randrange(len(whole) + 1) for _ in range(2))
        assert bytes(tensor.read(start, stop)) == whole[start:stop]


def expect_no_cut_to_open(path: Path, whole: bytes, format: str | None = None) -> None:
    """The file is refused, wherever it is cut short."""
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(CkptconvError):
            ckptconv.open(path, format=format)
