"""Adapters as loralib saves them, which do not say their alpha."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

import ckptconv
from ckptconv.errors import UnsupportedError

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


def merged(folder: Path, weight: torch.Tensor, module: str, down: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    torch.save({f"{module}.weight": weight}, folder / "base.pth")
    torch.save({f"{module}.lora_A": down, f"{module}.lora_B": up}, folder / "lora.pt")
    edits = ckptconv.Edits(names=[ckptconv.Lora(folder / "lora.pt", 2.0)])
    ckptconv.convert(folder / "base.pth", folder / "out.pth", edits=edits)
    found: torch.Tensor = torch.load(folder / "out.pth")[f"{module}.weight"]
    return found


def test_an_embedding_of_loralib_is_turned(tmp_path: Path) -> None:
    """loralib 0.1.2, layers.py: ``Embedding.weight += (lora_B @ lora_A).transpose(0, 1) * scaling``."""
    weight, down, up = torch.randn(9, 4), torch.randn(2, 9), torch.randn(4, 2)
    torch.testing.assert_close(merged(tmp_path, weight, "embed", down, up), weight + 2 * (up @ down).T)


@pytest.mark.parametrize(
    ("module", "shapes", "words"),
    [
        ("c_attn", ((12, 4), (4, 4), (8, 2)), "of loralib's MergedLinear"),
        ("tok_embeddings", ((4, 4), (2, 4), (4, 2)), "is square, and nothing in the file says"),
    ],
)
def test_what_a_loralib_file_does_not_tell_is_refused_by_name(
    module: str, shapes: tuple[tuple[int, int], ...], words: str, tmp_path: Path
) -> None:
    with pytest.raises(UnsupportedError, match=words) as caught:
        merged(tmp_path, torch.ones(shapes[0]), module, torch.ones(shapes[1]), torch.ones(shapes[2]))
    assert "model.eval() of loralib" in str(caught.value.hint)
