"""Objects that are a part of themselves, as every child in OmegaConf's trees knows its parent."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
import torch
from click.testing import CliRunner
from omegaconf import OmegaConf

import ckptconv
from ckptconv.cli.main import program
from ckptconv.core.metadata import Opaque, walk
from ckptconv.errors import LossError
from tests.support.craft import FOUR_FLOATS, archive, saved, state_dict, tensor, text

if TYPE_CHECKING:
    from pathlib import Path


class Parent:
    """A module-like object that its child points back to."""

    def __init__(self) -> None:
        self.child = {"owner": self}


def cyclic_list() -> list[Any]:
    made: list[Any] = [1]
    made.append((2, made))
    return made


def cyclic_dict() -> dict[str, Any]:
    made: dict[str, Any] = {"n": 1}
    made["self"] = [made]
    return made


class Kind(enum.Enum):
    A = 1


@dataclass
class Optimizer:
    lr: float = 0.1
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    steps: int = "???"  # type: ignore[assignment]
    most: int | None = None
    named: dict[str, float | int] = field(default_factory=lambda: {"x": 0.5})
    raw: bytes = b"\x00\xff"


SETTINGS = {
    "a dict": {"size": 4, "twice": "${size}", "deep": {"list": [1, 2.5, None, {"x": "y"}], 3: True}, "none": None},
    "a tuple": (1, (2, [3])),
    "a list": [1, [2, {"three": 3}]],
    "typed nodes": OmegaConf.structured(Optimizer),
}


@pytest.mark.parametrize(
    ("value", "whole", "cls"),
    [
        (cyclic_list(), "m", "builtins.list"),
        (cyclic_dict(), "m", "builtins.dict"),
        ({"a": Parent()}, "m.a", f"{__name__}.Parent"),
    ],
    ids=["a list", "a dict", "an object"],
)
def test_a_part_that_is_the_whole_is_reported_as_that(value: Any, whole: str, cls: str, tmp_path: Path) -> None:
    path, between = saved(tmp_path / "a.pth", {"w": torch.ones(2), "m": value}), tmp_path / "b.safetensors"
    ckptconv.convert(path, between)
    assert ckptconv.diff(path, between).equal
    for file in (path, between):
        with ckptconv.open(file) as checkpoint:
            found = [(node.name, node.how, node.args) for node in opaque(checkpoint.root) if node.how == "enclosing"]
        assert found == [(cls, "enclosing", (whole,))]
        with pytest.raises(LossError) as refused:
            ckptconv.convert(file, tmp_path / "c.pth")
        assert any(whole in line for line in refused.value.details)
    result = ckptconv.convert(between, tmp_path / "c.pth", allow_loss=["opaque"])
    assert [loss.code for loss in result.losses] == ["opaque"]
    assert torch.equal(torch.load(tmp_path / "c.pth")["w"], torch.ones(2))
    page = CliRunner().invoke(program, ["inspect", str(path)])
    assert page.exit_code == 0
    assert f"<the enclosing {whole}>" in page.output


def test_a_root_that_contains_itself_is_read(tmp_path: Path) -> None:
    root: dict[str, Any] = {"state_dict": {"w": torch.ones(2)}}
    root["self"] = root
    path = saved(tmp_path / "a.pth", root)
    assert "<the enclosing object>" in CliRunner().invoke(program, ["inspect", str(path)]).output
    ckptconv.convert(path, tmp_path / "b.pth", bare=True)
    assert list(torch.load(tmp_path / "b.pth")) == ["w"]


def opaque(node: Any) -> list[Opaque]:
    return [one for _, one in walk(node) if isinstance(one, Opaque)]


@pytest.mark.parametrize("value", SETTINGS.values(), ids=SETTINGS)
def test_omegaconf_settings_are_shown_and_given_up_as_plain_values(value: Any, tmp_path: Path) -> None:
    config = OmegaConf.create({"whole": value, "beside": 1})
    path = saved(tmp_path / "a.ckpt", {"state_dict": {"w": torch.ones(2)}, "hparams": config, "part": config.whole})
    inspection = ckptconv.inspect(path)
    assert inspection.verdict == "opaque"
    between, back = tmp_path / "b.safetensors", tmp_path / "c.pth"
    ckptconv.convert(path, between)
    assert ckptconv.diff(path, between).equal
    with pytest.raises(LossError):
        ckptconv.convert(between, back)
    ckptconv.convert(between, back, allow_loss=["opaque"])
    loaded = torch.load(back)
    assert loaded["hparams"] == OmegaConf.to_container(config)
    assert loaded["part"] == OmegaConf.to_container(config.whole)
    page = CliRunner().invoke(program, ["inspect", str(path)]).output
    assert "hparams  OmegaConf" in page
    assert page.count("kept as data") == 2  # the trees, and none of their nodes


def test_a_call_in_omegaconf_settings_is_reported_wherever_it_stands(tmp_path: Path) -> None:
    config = OmegaConf.create({"deep": {"kind": Kind.A, "n": 1}})
    path = saved(tmp_path / "a.ckpt", {"w": torch.ones(2), "hparams": config})
    inspection = ckptconv.inspect(path)
    assert inspection.verdict == "would run code"
    assert [use.node.name for use in inspection.opaque if not use.part] == [
        "omegaconf.dictconfig.DictConfig", f"{__name__}.Kind"
    ]  # fmt: skip


def test_content_that_is_no_tree_of_settings_is_shown_as_it_is(tmp_path: Path) -> None:
    odd = b"comegaconf.dictconfig\nDictConfig\n)\x81}" + text("_content") + b"K\x05sb"
    none = b"comegaconf.dictconfig\nDictConfig\n)\x81"
    path = archive(tmp_path / "a.pth", state_dict(w=tensor(), odd=odd, none=none), {"0": FOUR_FLOATS})
    page = CliRunner().invoke(program, ["inspect", str(path)])
    assert page.exit_code == 0
    assert "<omegaconf.dictconfig.DictConfig with state {'_content': 5}>" in page.output
    ckptconv.convert(path, tmp_path / "b.pth", allow_loss=["opaque"])
    assert torch.load(tmp_path / "b.pth")["odd"]["state"] == {"_content": 5}
