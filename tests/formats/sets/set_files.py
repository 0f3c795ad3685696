"""A small sharded set, and what opening a folder says."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import save_file

import ckptconv
from ckptconv.errors import CkptconvError

if TYPE_CHECKING:
    from pathlib import Path

INDEX = "model.safetensors.index.json"
ONE, TWO = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


def make(folder: Path) -> Path:
    folder.mkdir()
    save_file({"a": torch.arange(4.0), "b": torch.ones(3)}, folder / ONE, metadata={"format": "pt"})
    save_file({"c": torch.zeros(2, 2)}, folder / TWO, metadata={"format": "pt"})
    write_index(folder, {"a": ONE, "b": ONE, "c": TWO})
    return folder


def write_index(folder: Path, weight_map: dict[str, Any], **metadata: Any) -> None:
    document = {"metadata": {"total_size": 44, **metadata}, "weight_map": weight_map}
    (folder / INDEX).write_text(json.dumps(document))


def error_of(path: Path) -> CkptconvError:
    with pytest.raises(CkptconvError) as caught:
        ckptconv.open(path).close()
    return caught.value


def findings(path: Path) -> list[tuple[str, str]]:
    with ckptconv.open(path) as checkpoint:
        return [(finding.code, finding.where) for finding in checkpoint.findings]
