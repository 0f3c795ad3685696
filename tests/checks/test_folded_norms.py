"""A network whose batch norms an exporter folded has one cause for all that is missing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

import ckptconv

if TYPE_CHECKING:
    from pathlib import Path


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(),
        nn.Conv2d(4, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(24, 2),
    ).eval()  # fmt: skip


def errors(tensors: dict[str, torch.Tensor], folder: Path) -> list[str]:
    torch.save(network().state_dict(), folder / "whole.pth")
    torch.save(tensors, folder / "other.pth")
    verdict = ckptconv.validate(folder / "other.pth", arch=folder / "whole.pth")
    return [finding.code for finding in verdict.findings if finding.severity == "error"]


def folded() -> dict[str, torch.Tensor]:
    model: Any = network()
    model[0], model[1] = fuse_conv_bn_eval(model[0], model[1]), nn.Identity()
    model[3], model[4] = fuse_conv_bn_eval(model[3], model[4]), nn.Identity()
    tensors: dict[str, torch.Tensor] = model.state_dict()
    return tensors


@pytest.mark.parametrize("renamed", [False, True])
def test_folded_norms_are_the_one_cause(renamed: bool, tmp_path: Path) -> None:
    tensors = folded()
    if renamed:  # as torch's older exporter does with what it computed
        tensors = {
            name if name[0] == "7" else f"onnx::Conv_{i}": tensor for i, (name, tensor) in enumerate(tensors.items())
        }
    assert errors(tensors, tmp_path) == ["norms-folded"]


def test_norms_under_other_names_are_not_called_folded(tmp_path: Path) -> None:
    names = {"0": "stem", "1": "first", "3": "body", "4": "second", "7": "head"}
    tensors = {f"{names[name[0]]}{name[1:]}": tensor for name, tensor in network().state_dict().items()}
    assert "norms-folded" not in errors(tensors, tmp_path)


def test_norms_without_any_bias_in_their_place_are_missing(tmp_path: Path) -> None:
    tensors = {name: tensor for name, tensor in network().state_dict().items() if name.split(".")[0] not in "14"}
    assert "norms-folded" not in errors(tensors, tmp_path)


def test_what_folding_does_not_explain_stays(tmp_path: Path) -> None:
    tensors = folded()
    del tensors["7.bias"]
    found = errors({**tensors, "more.scale": torch.ones(5)}, tmp_path)
    assert found == ["norms-folded", "missing-tensor", "unexpected-tensor"]
