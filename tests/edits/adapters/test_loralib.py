"""Adapters as loralib saves them, which do not say their alpha."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

import ckptconv

if TYPE_CHECKING:
    from pathlib import Path


def test_a_loralib_adapter_is_merged_with_a_warning_unless_its_scale_is_given(tmp_path: Path) -> None:
    """loralib 0.1.2, layers.py: ``weight += lora_B @ lora_A * lora_alpha / r``; `lora_state_dict` saves these two."""
    weight, down, up = torch.randn(6, 5), torch.randn(2, 5), torch.randn(6, 2)
    torch.save({"q.weight": weight}, tmp_path / "base.pth")
    torch.save({"q.lora_A": down, "q.lora_B": up}, tmp_path / "lora.pt")
    found = ckptconv.inspect(tmp_path / "lora.pt").adapter
    assert found is not None
    assert found.maker == "loralib"
    for scale, codes in ((None, ["merged", "no-alpha"]), (1.0, ["merged"]), (4.0, ["merged"])):
        edits = ckptconv.Edits(names=[ckptconv.Lora(tmp_path / "lora.pt", scale)])
        result = ckptconv.convert(tmp_path / "base.pth", tmp_path / f"{scale}.pth", edits=edits)
        assert [finding.code for finding in result.findings] == codes
        torch.testing.assert_close(torch.load(tmp_path / f"{scale}.pth")["q.weight"], weight + (scale or 1) * up @ down)
