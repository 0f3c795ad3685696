"""Tensors that are not a whole storage in C order: read as their values, and written back as they lay."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn

import ckptconv
from tests.support.craft import saved
from tests.support.nodes import image, load, same_object

if TYPE_CHECKING:
    from pathlib import Path


def counting(*shape: int) -> torch.Tensor:
    return torch.arange(torch.Size(shape).numel(), dtype=torch.float32).reshape(shape)


WAVES = torch.complex(counting(3, 4), -counting(3, 4))
VIEWS = {
    "offset": counting(10)[4:9],
    "transposed": counting(5, 7).t(),
    "permuted": counting(2, 3, 4).permute(2, 0, 1),
    "channels_last": counting(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
    "channels_last_3d": counting(2, 3, 2, 4, 5).contiguous(memory_format=torch.channels_last_3d),
    "expanded": counting(3, 1).expand(3, 8),
    "expanded scalar": torch.tensor(7.0).expand(2, 3),
    "stepped": counting(12)[1::3],
    "stepped twice": counting(8, 9)[::2, ::3],
    "diagonal": counting(4, 4).diagonal(),
    "unfolded": counting(10).unfold(0, 4, 2),
    "conj": WAVES.clone().conj(),
    "conj transposed": WAVES.mH,
    "neg": WAVES.clone().conj().imag,
    "real part": WAVES.real,
    "half a bfloat16": counting(4, 6).bfloat16()[:, ::2],
    "bytes": torch.arange(24, dtype=torch.uint8).reshape(4, 6).t(),
    "empty view": counting(4, 4)[2:2],
    "scalar of a vector": counting(4)[2],
    "one row": counting(5, 7)[3],
    "a column": counting(5, 7)[:, 3],
    "float8": torch.arange(24, dtype=torch.uint8).view(torch.float8_e4m3fn).reshape(4, 6).t(),
    "big stride": counting(40, 50)[:, 7:9].t(),
}


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS.keys())
def test_a_view_is_read_as_its_values_whatever_range_is_asked_for(view: torch.Tensor, tmp_path: Path) -> None:
    path = saved(tmp_path / "v.pth", {"v": view})
    expected = image(view)
    with ckptconv.open(path) as checkpoint:
        tensor = checkpoint["v"]
        assert bytes(tensor.read()) == expected
        for start in range(0, len(expected), max(1, len(expected) // 13)):
            for stop in (start, start + 1, start + 5, len(expected)):
                if start <= stop <= len(expected):
                    assert bytes(tensor.read(start, stop)) == expected[start:stop]


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS.keys())
def test_a_view_goes_to_safetensors_and_back_with_its_values(view: torch.Tensor, tmp_path: Path) -> None:
    path = saved(tmp_path / "v.pth", {"v": view, "w": torch.ones(2)})
    ckptconv.convert(path, tmp_path / "v.safetensors")
    ckptconv.convert(tmp_path / "v.safetensors", tmp_path / "back.pth")
    assert same_object(load(tmp_path / "back.pth"), {"v": view, "w": torch.ones(2)})


@pytest.mark.parametrize("name", ["transposed", "permuted", "channels_last", "channels_last_3d"])
def test_a_dense_layout_comes_back_through_safetensors_with_its_strides(name: str, tmp_path: Path) -> None:
    path = saved(tmp_path / "v.pth", {"v": VIEWS[name].clone(memory_format=torch.preserve_format)})
    ckptconv.convert(path, tmp_path / "v.safetensors")
    ckptconv.convert(tmp_path / "v.safetensors", tmp_path / "back.pth")
    assert load(tmp_path / "back.pth")["v"].stride() == VIEWS[name].stride()


def test_views_of_one_storage_share_one_again_in_a_pth(tmp_path: Path) -> None:
    base = counting(6, 4)
    state = {"base": base, "rows": base[2:5], "turned": base.t(), "alone": counting(3)}
    ckptconv.convert(saved(tmp_path / "v.pth", state), tmp_path / "back.pth")
    back = load(tmp_path / "back.pth")
    assert isinstance(back, dict)
    start = back["base"].untyped_storage().data_ptr()
    assert [back[name].untyped_storage().data_ptr() == start for name in back] == [True, True, True, False]
    assert same_object(back, state)


def test_a_small_view_of_a_large_storage_does_not_drag_it_along(tmp_path: Path) -> None:
    state = {"part": counting(100_000)[5:9]}
    path = saved(tmp_path / "v.pth", state)
    ckptconv.convert(path, tmp_path / "back.pth")
    assert (tmp_path / "back.pth").stat().st_size < 3000 < path.stat().st_size
    assert same_object(load(tmp_path / "back.pth"), state)


@pytest.mark.parametrize("between", ["direct.pth", "m.safetensors"])
def test_views_of_one_storage_as_several_element_types_keep_their_values(between: str, tmp_path: Path) -> None:
    flat = torch.arange(64, dtype=torch.uint8)
    state = {"bytes": flat[:16], "scale": flat[16:32].view(torch.float8_e4m3fn), "odd": flat.view(torch.uint16)[1::2]}
    empty = torch.empty(0)
    state |= {"empty": empty, "empty too": empty.view(torch.bfloat16)}
    ckptconv.convert(saved(tmp_path / "a.pth", state), tmp_path / between)
    result = ckptconv.convert(tmp_path / "a.pth", tmp_path / "b.pth", dry_run=True)
    assert [finding.where for finding in result.findings if finding.code == "retyped"] == ["scale"]
    ckptconv.convert(tmp_path / between, tmp_path / "back.pth")
    assert same_object(load(tmp_path / "back.pth"), load(tmp_path / "a.pth"))


def test_ties_are_groups_of_names_and_views_are_none(tmp_path: Path) -> None:
    base = counting(4, 4)
    state = {"a": base, "b": base, "part": base[:2], "turned": base.t(), "copy": base.clone(), "c": base}
    with ckptconv.open(saved(tmp_path / "t.pth", state)) as checkpoint:
        assert checkpoint.ties == [["a", "b", "c"]]
        assert checkpoint.tied_to == {"b": "a", "c": "a"}


def test_tied_names_share_one_storage_again_after_safetensors(tmp_path: Path) -> None:
    shared = nn.Parameter(counting(4, 2))
    state = {"head.weight": shared, "body": counting(3), "embed.weight": shared}
    path = saved(tmp_path / "t.pth", state)
    ckptconv.convert(path, tmp_path / "t.safetensors")
    ckptconv.convert(tmp_path / "t.safetensors", tmp_path / "back.pth")
    back = load(tmp_path / "back.pth")
    assert isinstance(back, dict)
    assert list(back) == list(state)
    assert back["head.weight"].data_ptr() == back["embed.weight"].data_ptr()
    assert same_object(back, state)
