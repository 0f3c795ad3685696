"""What converters do to attention heads is told by diff, and its list of edits does it again."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch

import ckptconv
from ckptconv.edits.heads import RowPermutation

if TYPE_CHECKING:
    from pathlib import Path

State = dict[str, torch.Tensor]

HEADS, SIZE, WIDTH = 6, 8, 20


def halves(weight: torch.Tensor) -> torch.Tensor:
    """``permute`` of transformers' convert_llama_weights_to_hf.py."""
    rows = weight.shape[0]
    return weight.view(HEADS, rows // HEADS // 2, 2, *weight.shape[1:]).transpose(1, 2).reshape(weight.shape)


def neighbours(weight: torch.Tensor) -> torch.Tensor:
    rows = weight.shape[0]
    return weight.view(HEADS, 2, rows // HEADS // 2, *weight.shape[1:]).transpose(1, 2).reshape(weight.shape)


def attention(layers: int = 3) -> State:
    state: State = {}
    for i in range(layers):
        for part in "qkvo":
            state[f"layers.{i}.attn.{part}.weight"] = torch.randn(HEADS * SIZE, WIDTH)
            state[f"layers.{i}.attn.{part}.bias"] = torch.randn(HEADS * SIZE)
    return state


def replayed(folder: Path, before: State, after: State) -> tuple[set[str], list[dict[str, Any]]]:
    """The codes and edits that diff gives, once its edits have made `after` out of `before`."""
    torch.save(before, folder / "a.pth")
    torch.save(after, folder / "b.pth")
    found = ckptconv.diff(folder / "a.pth", folder / "b.pth")
    (folder / "edits.json").write_text(json.dumps(found.to_dict()))
    edits = ckptconv.Edits(names=[folder / "edits.json"])
    ckptconv.convert(folder / "a.pth", folder / "c.pth", edits=edits, force=True)
    assert ckptconv.diff(folder / "c.pth", folder / "b.pth").equal
    return {finding.code for finding in found.findings}, [edit.to_dict() for edit in found.edits]


@pytest.mark.parametrize("how", [halves, neighbours])
@pytest.mark.parametrize("prefix", ["", "model."])
def test_rotary_heads_that_were_permuted_are_no_changed_values(tmp_path: Path, how: object, prefix: str) -> None:
    torch.manual_seed(0)
    before = attention()
    after = {prefix + n: how(t) if ".q." in n or ".k." in n else t for n, t in before.items()}  # type: ignore[operator]
    codes, edits = replayed(tmp_path, before, after)
    assert codes == {"heads-permuted", *(["renamed"] if prefix else [])}
    permuted = [edit for edit in edits if edit["kind"] == "permute"]
    shape = [HEADS, SIZE // 2, 2] if how is halves else [HEADS, 2, SIZE // 2]
    assert all((edit["axis"], edit["shape"], edit["axes"]) == (0, shape, [0, 2, 1]) for edit in permuted)
    assert sum(len(edit["steps"]) for edit in permuted) == 12


def test_a_fused_qkv_that_changes_from_part_by_part_to_head_by_head_is_permuted(tmp_path: Path) -> None:
    torch.manual_seed(0)
    before = {f"h.{i}.qkv.weight": torch.randn(3 * HEADS * SIZE, WIDTH) for i in range(2)}
    after = {n: t.view(3, HEADS, SIZE, WIDTH).transpose(0, 1).reshape(t.shape) for n, t in before.items()}
    assert replayed(tmp_path, before, after)[0] == {"heads-permuted"}
    assert replayed(tmp_path, after, before)[0] == {"heads-permuted"}


@pytest.mark.parametrize("groups", [HEADS, 2])
@pytest.mark.parametrize("transposed", [False, True])
def test_a_qkv_that_is_interleaved_head_by_head_is_a_concatenation(
    tmp_path: Path, groups: int, *, transposed: bool
) -> None:
    """GPT-NeoX, BLOOM: a q, k and v for each head. Falcon, Megatron: for each group, several q and one k and v."""
    torch.manual_seed(0)
    before: State = {}
    after: State = {}
    for i in range(3):
        parts = {part: torch.randn((HEADS if part == "q" else groups) * SIZE, WIDTH) for part in "qkv"}
        before |= {f"layers.{i}.attn.{part}.weight": tensor for part, tensor in parts.items()}
        pieces = [tensor.view(groups, -1, WIDTH) for tensor in parts.values()]
        after[f"layers.{i}.attn.qkv.weight"] = torch.cat(pieces, 1).reshape(-1, WIDTH)
        before[f"layers.{i}.attn.o.weight"] = after[f"layers.{i}.attn.o.weight"] = torch.randn(7, WIDTH)
    if transposed:
        before = {name: tensor.T.contiguous().T for name, tensor in before.items()}  # strided, the same values
    codes, edits = replayed(tmp_path, before, after)
    assert codes == {"concatenated"}
    assert [(edit["blocks"], len(edit["steps"])) for edit in edits] == [(groups, 3)]
    codes, edits = replayed(tmp_path, after, before)
    assert codes == {"split"}
    assert [(edit["blocks"], len(edit["steps"])) for edit in edits] == [(groups, 3)]


def test_a_permutation_with_one_value_changed_besides_is_a_change_of_values(tmp_path: Path) -> None:
    torch.manual_seed(0)
    before = attention(1)
    after = {n: halves(t) if ".q.weight" in n else t for n, t in before.items()}
    after["layers.0.attn.q.weight"][17, 19] += 1  # beyond the bytes of a row that are looked at first
    torch.save(before, tmp_path / "a.pth")
    torch.save(after, tmp_path / "b.pth")
    found = ckptconv.diff(tmp_path / "a.pth", tmp_path / "b.pth")
    assert [finding.code for finding in found.findings] == ["value-changed"]


@pytest.mark.parametrize("shape", [(3, 4, 2), (2, 6, 5), (5, 1, 3)])
@pytest.mark.parametrize("axes", [(0, 2, 1), (1, 0, 2), (2, 0, 1)])
def test_a_row_comes_from_where_torch_takes_it(shape: tuple[int, ...], axes: tuple[int, ...]) -> None:
    rows = torch.arange(shape[0] * shape[1] * shape[2])
    expected = rows.view(shape).permute(axes).reshape(-1)
    how = RowPermutation(shape, axes)
    assert [how.source(row) for row in range(len(rows))] == expected.tolist()
