"""Layers that learn their width from their first input, saved before they had one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

import ckptconv

if TYPE_CHECKING:
    from pathlib import Path

WORDS = "run the model once before you save it"


@pytest.mark.parametrize("whole", [False, True])
def test_parameters_without_a_shape_are_reported_with_what_gives_them_one(whole: bool, tmp_path: Path) -> None:
    lazy = torch.nn.Sequential(torch.nn.LazyLinear(3), torch.nn.Linear(3, 2))
    torch.save(lazy if whole else lazy.state_dict(), tmp_path / "a.pth")
    (told,) = [one for one in ckptconv.inspect(tmp_path / "a.pth").findings if one.code == "uninitialized"]
    assert told.message.startswith("2 parameters have no shape yet, of lazy layers (")
    assert told.message.endswith(WORDS)
    if not whole:
        result = ckptconv.convert(tmp_path / "a.pth", tmp_path / "b.safetensors")
        assert any(WORDS in finding.message for finding in result.findings)
    lazy(torch.ones(1, 4))
    torch.save(lazy if whole else lazy.state_dict(), tmp_path / "a.pth")
    assert not [one for one in ckptconv.inspect(tmp_path / "a.pth").findings if one.code == "uninitialized"]
