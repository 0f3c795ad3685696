"""Tensors outside of the model that are selected become the model: the average of a trainer's checkpoint."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
import torch

import ckptconv
from ckptconv.errors import EditError

if TYPE_CHECKING:
    from pathlib import Path

BARE_NAMES = ckptconv.NameRule("strip-prefix", "state_dict_ema.")


def trained(path: Path) -> dict[str, Any]:
    """A checkpoint as timm's saver has it."""
    model, average = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    made = {
        "epoch": 3, "arch": "linear", "state_dict": model.state_dict(), "optimizer": optimizer.state_dict(),
        "state_dict_ema": average.state_dict(),
    }  # fmt: skip
    torch.save(made, path)
    return made


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_the_average_is_the_model_beside_plain_metadata(tmp_path: Path, suffix: str) -> None:
    made = trained(tmp_path / "last.pth.tar")
    edits = ckptconv.Edits(select=["state_dict_ema.*"], names=[BARE_NAMES])
    result = ckptconv.convert(tmp_path / "last.pth.tar", tmp_path / f"ema{suffix}", edits=edits)
    assert [finding.code for finding in result.findings] == ["outside"]
    assert not result.losses
    ckptconv.convert(tmp_path / f"ema{suffix}", tmp_path / "back.pth", force=True)
    found = torch.load(tmp_path / "back.pth")
    assert found.keys() == {"epoch", "arch", "state_dict"}
    assert list(found["state_dict"]) == list(made["state_dict_ema"])
    assert all(torch.equal(tensor, made["state_dict_ema"][name]) for name, tensor in found["state_dict"].items())


def test_bare_is_a_bare_state_dict(tmp_path: Path) -> None:
    made = trained(tmp_path / "last.pth.tar")
    edits = ckptconv.Edits(select=["state_dict_ema.*"], names=[BARE_NAMES])
    ckptconv.convert(tmp_path / "last.pth.tar", tmp_path / "ema.pth", edits=edits, bare=True)
    torch.nn.Linear(3, 2).load_state_dict(found := torch.load(tmp_path / "ema.pth"))
    assert torch.equal(found["weight"], made["state_dict_ema"]["weight"])


def test_names_of_the_model_are_taken_as_before(tmp_path: Path) -> None:
    trained(tmp_path / "last.pth.tar")
    ckptconv.convert(tmp_path / "last.pth.tar", tmp_path / "a.pth", edits=ckptconv.Edits(select=["*weight"]))
    found = torch.load(tmp_path / "a.pth")
    assert list(found["state_dict"]) == ["weight"]
    assert len(found["state_dict_ema"]) == 2
    mixed = "--select 'state_dict_ema.*' matches tensors outside of the model alone, and 'weight' the model's"
    for select, message in (
        (["weight", "state_dict_ema.*"], mixed),
        (["nothing.*"], "'nothing.*' matches no tensor"),
        (["state_dict_ema.*", "nothing"], "'nothing' matches no tensor"),
    ):
        with pytest.raises(EditError, match=re.escape(message)):
            ckptconv.convert(tmp_path / "last.pth.tar", tmp_path / "b.pth", edits=ckptconv.Edits(select=select))


def test_a_list_at_the_root_leaves_a_bare_state_dict(tmp_path: Path) -> None:
    torch.save([{"state_dict": {"w": torch.ones(2)}}, torch.zeros(3), 5], tmp_path / "a.pth")
    with ckptconv.open(tmp_path / "a.pth") as checkpoint:
        (name,) = checkpoint.extras
    ckptconv.convert(tmp_path / "a.pth", tmp_path / "b.pth", edits=ckptconv.Edits(select=[name]))
    assert torch.equal(torch.load(tmp_path / "b.pth")[name], torch.zeros(3))


def test_of_basicsrs_two_the_average_is_the_model(tmp_path: Path) -> None:
    """As Real-ESRGAN and spandrel load it."""
    torch.save({"params": {"w": torch.zeros(2)}, "params_ema": {"w": torch.ones(2)}}, tmp_path / "x4.pth")
    with ckptconv.open(tmp_path / "x4.pth") as checkpoint:
        assert torch.equal(checkpoint["w"].to_torch(), torch.ones(2))
        assert list(checkpoint.extras) == ["params.w"]
