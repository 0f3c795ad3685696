"""Edits on checkpoints whose tensors stand anywhere: whatever carries the result, torch loads the same of it."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import pytest
import torch

import ckptconv
from tests.support.craft import saved
from tests.support.nodes import image, load

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


def layers(prefix: str = "") -> OrderedDict[str, torch.Tensor]:
    return OrderedDict((f"{prefix}{i}.weight", torch.full((2, 2), float(i))) for i in range(3))


def composites() -> dict[str, torch.Tensor]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates them
        return {"q": torch.quantize_per_tensor(torch.ones(2, 2), 0.1, 0, torch.qint8), "s": torch.eye(2).to_sparse()}


def trees() -> dict[str, Any]:
    tied = layers()
    return {
        "a list": [torch.ones(2), torch.zeros(2), "note"],
        "a pair": (layers(), {"epoch": 1}),
        "two networks": {"a": layers(), "b": layers(), "epoch": 1},
        "an optimizer": {"state_dict": layers(), "optimizer": {0: {"m": torch.ones(2)}}, "0.weight": torch.ones(1)},
        "one tensor": torch.ones(2),
        "deep": {"w": torch.ones(2), "cfg": {"x": [torch.ones(3), 2]}},
        "plain values": {**layers(), "number": 5, "0.tied": tied["0.weight"]},
        "composites": {**layers(), **composites()},
    }  # fmt: skip


EDITS: dict[str, Callable[[list[str]], ckptconv.Edits]] = {
    "prefix": lambda names: ckptconv.Edits(names=[ckptconv.NameRule("add-prefix", "p.")]),
    "the first": lambda names: ckptconv.Edits(select=names[:1]),
    "all but the last": lambda names: ckptconv.Edits(drop=names[1:][-1:]),
    "cast": lambda names: ckptconv.Edits(dtype=["BF16"]),
}
"""What is done to tensors of these names."""


def flat(value: object, path: tuple[object, ...] = ()) -> Iterator[tuple[tuple[object, ...], object]]:
    """Every leaf with the way to it; tensors as their type, shape and bits."""
    match value:
        case torch.Tensor():
            dense = value.dequantize() if value.is_quantized else value.to_dense()
            yield path, (str(value.dtype), tuple(value.shape), str(value.layout), image(dense))
        case dict():
            for key, item in value.items():
                yield from flat(item, (*path, key))
        case list() | tuple():
            for i, item in enumerate(value):
                yield from flat(item, (*path, i))
        case _:
            yield path, value


@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")
@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.parametrize("tree", trees())
def test_every_format_gives_the_same_back(tree: str, edit: str, tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pth", trees()[tree])
    with ckptconv.open(path) as checkpoint:
        edits = EDITS[edit](list(checkpoint))
    ckptconv.convert(path, tmp_path / "direct.pth", edits=edits)
    expected = list(flat(load(tmp_path / "direct.pth")))
    for name in ("m.safetensors", "m.npz", "folder"):
        if name == "folder" and tree == "composites":
            continue  # its parts are tensors there
        format = "torch-dcp" if name == "folder" else None
        ckptconv.convert(path, tmp_path / name, edits=edits, to_format=format)
        ckptconv.convert(tmp_path / name, tmp_path / "back.pth", force=True)
        assert sorted(flat(load(tmp_path / "back.pth")), key=str) == sorted(expected, key=str), name
