"""A checkpoint with some of its parts replaced is the same in all others."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

import pytest
import torch

from ckptconv.api.open import open as open_checkpoint
from ckptconv.core.notes import Notes

if TYPE_CHECKING:
    from pathlib import Path

PARTS = ("extras", "composites", "root", "format", "notes", "findings", "file")


def test_what_is_not_replaced_stays(tmp_path: Path) -> None:
    sparse = torch.eye(3).to_sparse()
    torch.save({"state_dict": {"w": torch.ones(2)}, "average": torch.zeros(2), "mask": sparse}, tmp_path / "a.pth")
    with open_checkpoint(tmp_path / "a.pth") as checkpoint:
        assert checkpoint.extras
        assert checkpoint.composites
        same = checkpoint.replaced()
        assert dict(same) == dict(checkpoint)
        assert [getattr(same, part) for part in PARTS] == [getattr(checkpoint, part) for part in PARTS]

        other = checkpoint.replaced(tensors={}, extras={}, root=None, notes=Notes(source="x"))
        assert (list(other), other.extras, other.root, other.notes) == ([], {}, None, Notes(source="x"))
        assert other.composites == checkpoint.composites
        assert other.file is checkpoint.file
        assert list(checkpoint) == ["w"]


def test_metadata_beside_the_models_tensors_keeps_its_containers(tmp_path: Path) -> None:
    parts = OrderedDict(enc={"w": torch.ones(2)}, dec={"w": torch.ones(2)}, kind="x")
    torch.save({"models": parts, "list": [{"w": torch.ones(2)}, "y"], "lr": 1}, tmp_path / "a.pth")
    with open_checkpoint(tmp_path / "a.pth") as checkpoint:
        assert list(checkpoint.metadata.items()) == [("models", {"kind": "x"}), ("list", {1: "y"}), ("lr", 1)]
        assert type(checkpoint.metadata["models"]) is OrderedDict


def test_a_range_that_a_tensor_lacks_is_refused(tmp_path: Path) -> None:
    torch.save({"w": torch.arange(3.0), "t": torch.ones(2, 3).T}, tmp_path / "a.pth")
    with open_checkpoint(tmp_path / "a.pth") as checkpoint:
        for tensor in checkpoint.values():
            for start, stop in ((-1, 2), (3, 2), (0, tensor.info.nbytes + 1), (tensor.info.nbytes + 1, None)):
                with pytest.raises(IndexError, match=f"of a tensor of {tensor.info.nbytes} bytes"):
                    tensor.read(start, stop)
            assert bytes(tensor.read(tensor.info.nbytes)) == bytes(tensor.read(0, 0)) == b""
