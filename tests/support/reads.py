"""Checks of how much is read from a file, and of ranges of its tensors."""

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
    """How many bytes were read so far, from the checkpoint's file or all files of its folder."""
    assert isinstance(checkpoint.file, (Source, Folder))
    return checkpoint.file.bytes_read


def expect_any_range(tensor: LazyTensor, whole: bytes, count: int = 40) -> None:
    """Check `count` random ranges of a tensor against its bytes, `whole`."""
    rng = random.Random(0)
    for _ in range(count):
        start, stop = sorted(rng.randrange(len(whole) + 1) for _ in range(2))
        assert bytes(tensor.read(start, stop)) == whole[start:stop]


def expect_no_cut_to_open(path: Path, whole: bytes, format: str | None = None) -> None:
    """Check that the file is refused when it is truncated to any length."""
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(CkptconvError):
            ckptconv.open(path, format=format)
