"""Quantized and sparse tensors on their way: renamed, cast, left out whole, never torn apart."""

from __future__ import annotations

import json
import warnings
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import torch

import ckptconv
from ckptconv.edits.name_rule import NameRule
from ckptconv.errors import EditError
from tests.support.composites import MAKERS, quiet, same_tensor

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.filterwarnings("ignore:.*:UserWarning", "ignore:.*:DeprecationWarning")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A quantized matrix, a sparse one and a plain one, as a wrapper would name them."""
    tensors = {"q": MAKERS["per channel 0"], "s": MAKERS["csr"], "plain": lambda: torch.ones(2, 2)}
    torch.save({f"module.{name}.weight": quiet(make) for name, make in tensors.items()}, tmp_path / "a.pth")
    return tmp_path / "a.pth"


def edited(model: Path, **edits: Any) -> dict[str, torch.Tensor]:
    """What torch loads after `edits`, by way of a safetensors."""
    ckptconv.convert(model, model.with_name("b.safetensors"), edits=ckptconv.Edits(**edits))
    ckptconv.convert(model.with_name("b.safetensors"), model.with_name("c.pth"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.load(model.with_name("c.pth"))


def test_a_prefix_is_taken_off_of_all_parts(model: Path) -> None:
    back = edited(model, names=[NameRule("strip-prefix", "module.")])
    assert list(back) == ["q.weight", "s.weight", "plain.weight"]
    assert same_tensor(back["q.weight"], quiet(MAKERS["per channel 0"]))
    assert same_tensor(back["s.weight"], quiet(MAKERS["csr"]))


@pytest.mark.parametrize("glob", ["*.s.weight", "*.s.weight.values", "*.s.*"])
def test_a_sparse_tensor_is_dropped_and_selected_whole(model: Path, glob: str) -> None:
    assert list(edited(model, drop=[glob])) == ["module.q.weight", "module.plain.weight"]
    model.with_name("b.safetensors").unlink()
    model.with_name("c.pth").unlink()
    assert list(edited(model, select=[glob])) == ["module.s.weight"]


def test_casting_leaves_scales_and_indices_as_they_are(model: Path) -> None:
    back = edited(model, dtype=["BF16"])
    assert same_tensor(back["module.q.weight"], quiet(MAKERS["per channel 0"]))
    assert same_tensor(back["module.s.weight"], quiet(lambda: MAKERS["csr"]().bfloat16()))
    assert back["module.plain.weight"].dtype == torch.bfloat16


@pytest.mark.parametrize(
    "edit",
    [
        {"kind": "transpose", "sources": ["module.q.weight"], "targets": ["module.q.weight"], "axes": [1, 0]},
        {"kind": "drop", "sources": ["module.q.weight.scale"], "targets": []},
        {"kind": "drop", "sources": ["module.s.weight.values"], "targets": []},
        {"kind": "cast", "sources": ["module.q.weight.scale"], "targets": ["module.q.weight.scale"], "dtype": "F32"},
    ],
)
def test_what_would_tear_one_apart_is_refused_by_name(model: Path, edit: dict[str, object]) -> None:
    rules = model.with_name("rules.json")
    rules.write_text(json.dumps({"edits": [edit]}))
    with pytest.raises(EditError, match=r"'module\.[qs]\.weight' is .* cannot be changed alone") as caught:
        edited(model, names=[rules])
    assert caught.value.hint


def test_diff_says_what_became_of_the_whole(model: Path) -> None:
    values = torch.load(model)
    other = dict(values)
    other["module.s.weight"] = quiet(lambda: torch.ones(4, 6).to_sparse_csr())
    scales, points = torch.arange(4) / 7 + 0.1, torch.arange(4)
    square = torch.arange(16.0).reshape(4, 4)
    paths = []
    for axis in (0, 1):
        values["module.q.weight"] = quiet(
            partial(torch._make_per_channel_quantized_tensor, square.to(torch.int8), scales, points, axis)
        )
        paths.append(model.with_name(f"axis{axis}.pth"))
        torch.save(values, paths[-1])
    found = ckptconv.diff(*paths)
    assert [finding.code for finding in found.findings] == ["composite-changed"]
    assert "axis 0" in found.findings[0].message
    assert "axis 1" in found.findings[0].message
    torch.save(other, model.with_name("other.pth"))
    assert not ckptconv.diff(model, model.with_name("other.pth")).equal


def test_a_prefix_is_one_rename_and_no_other_difference(model: Path) -> None:
    ckptconv.convert(model, model.with_name("b.pth"), edits=ckptconv.Edits(names=[NameRule("strip-prefix", "module.")]))
    assert {finding.code for finding in ckptconv.diff(model, model.with_name("b.pth")).findings} == {"renamed"}
