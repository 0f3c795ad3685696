"""What looks alike by a few bytes: `diff` has to tell it apart, so that its edits make NEW of OLD, and undo it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

import ckptconv
from tests.edits.test_diff_as_rules import redone, unlike

if TYPE_CHECKING:
    from pathlib import Path

    from tests.edits.chains import State


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def undone(folder: Path, new: State) -> State:
    torch.save(new, folder / "new.pth")
    edits = ckptconv.Edits(names=[folder / "edits.json"], reverse=True)
    ckptconv.convert(folder / "new.pth", folder / "old-again.pth", edits=edits)
    return torch.load(folder / "old-again.pth")


def test_a_removed_layer_that_begins_like_others_by_chance_is_the_one_removed(tmp_path: Path) -> None:
    old = {f"layers.{i}.{k}.weight": drawn(4, 4, seed=10 * i + k) for i in range(4) for k in range(6)}
    old["layers.2.3.weight"][0, 0] = old["layers.1.5.weight"][0, 0]
    kept = {0: 0, 1: 1, 3: 2}
    new = {f"layers.{j}.{k}.weight": old[f"layers.{i}.{k}.weight"] for i, j in kept.items() for k in range(6)}
    found, made = redone(tmp_path, old, new)
    assert [edit.details["layers"] for edit in found.edits if edit.kind == "remove-layers"] == [[2]]
    assert not unlike(made, new)


def test_counters_go_with_the_module_whose_name_lost_a_number(tmp_path: Path) -> None:
    def state(branch: str) -> State:
        made: State = {}
        for i in range(60):
            made[f"stage.{i}.{branch}.1.weight"] = drawn(3, 3, seed=i)
            made[f"stage.{i}.{branch}.1.num_batches_tracked"] = torch.tensor(0)
        return made

    old, new = state("branch2"), state("main")
    found, made = redone(tmp_path, old, new)
    assert {edit.kind for edit in found.edits} == {"rename"}
    assert not unlike(made, new)


@pytest.mark.parametrize(
    ("shape", "axes"), [((8, 4, 3, 3), (3, 2, 1, 0)), ((8, 4, 3, 3), (0, 1, 3, 2)), ((4, 6, 6), (0, 2, 1))]
)
def test_dimensions_of_one_size_are_told_apart(shape: tuple[int, ...], axes: tuple[int, ...], tmp_path: Path) -> None:
    old = {f"{i}.weight": drawn(*shape, seed=i) for i in range(3)}
    new = {name: tensor.permute(axes).contiguous() for name, tensor in old.items()}
    found, made = redone(tmp_path, old, new)
    assert [(edit.kind, edit.details["axes"]) for edit in found.edits] == [("transpose", list(axes))]
    assert not unlike(made, new)
    assert not unlike(undone(tmp_path, new), old)


def test_transposed_and_cast_squares_are_found_even_if_most_are_not_cast(tmp_path: Path) -> None:
    old = {f"{i}.weight": drawn(8, 8, seed=i) for i in range(5)}
    new = {**old, "3.weight": old["3.weight"].T.contiguous().bfloat16()}
    found, made = redone(tmp_path, old, new)
    assert {edit.kind for edit in found.edits} == {"transpose", "cast"}
    assert not unlike(made, new)


def test_experts_stacked_over_the_layers_are_no_inserted_layers(tmp_path: Path) -> None:
    old = {f"model.layers.{i}.experts.{j}.w": drawn(3, 5, seed=10 * i + j) for i in range(2) for j in range(4)}
    new = {f"model.layers.experts.{j}.w": torch.stack([old[f"model.layers.{i}.experts.{j}.w"] for i in range(2)])
           for j in range(4)}  # fmt: skip
    found, made = redone(tmp_path, old, new)
    assert {edit.kind for edit in found.edits} == {"stack"}
    assert not unlike(made, new)


@pytest.mark.parametrize("how", ["transposed", "split"])
def test_what_is_untied_by_a_change_is_tied_again_by_its_undoing(how: str, tmp_path: Path) -> None:
    tied = drawn(6, 4)
    old = {"embed.weight": tied, "head.weight": tied}
    new = {"embed.weight": tied}
    if how == "transposed":
        new["head.weight"] = tied.T.contiguous()
    else:
        new |= {"head_a.weight": tied[:3].clone(), "head_b.weight": tied[3:].clone()}
    found, made = redone(tmp_path, old, new)
    assert not unlike(made, new)
    assert "tie-broken" in {finding.code for finding in found.findings}
    again = undone(tmp_path, new)
    assert not unlike(again, old)
    assert again["embed.weight"].data_ptr() == again["head.weight"].data_ptr()


def test_of_several_that_were_tied_those_stay_so_that_are(tmp_path: Path) -> None:
    tied, names = drawn(6, 4), [f"{letter}.weight" for letter in "abcdef"]
    old = dict.fromkeys(names, tied)
    one, two = tied.clone(), tied.clone()
    new = dict(zip(names, [tied.bfloat16(), one, one, one, two, two], strict=True))
    found, made = redone(tmp_path, old, new)
    assert [finding.message for finding in found.findings if finding.code == "tie-broken"] == [
        "untied: " + " = ".join(names) + " shared one tensor; "
        "now: a.weight, b.weight = c.weight = d.weight, e.weight = f.weight"
    ]
    for before, after, there in ((old, new, made), (new, old, redone(tmp_path, new, old)[1])):
        assert not unlike(there, after), before
        kept = [[i for i in names if there[i].data_ptr() == there[name].data_ptr()] for name in names]
        assert kept == [[i for i in names if after[i].data_ptr() == after[name].data_ptr()] for name in names]


@pytest.mark.parametrize(
    ("between", "last", "code"),
    [
        (torch.bfloat16, torch.float8_e4m3fn, "dtype-changed"), (torch.float16, torch.bfloat16, "dtype-changed"),
        (torch.bfloat16, torch.float32, "value-changed"),
    ],
)  # fmt: skip
def test_two_casts_are_reported_and_made(between: torch.dtype, last: torch.dtype, code: str, tmp_path: Path) -> None:
    old = {f"{i}.weight": drawn(40, 8, seed=i) for i in range(3)} | {"few.bias": drawn(2)}
    new = {name: tensor.to(between).to(last) for name, tensor in old.items()}
    found, made = redone(tmp_path, old, new)
    assert {finding.code for finding in found.findings} == {code}
    assert not unlike(made, new)
    assert found.edits[0].details["dtype"] == {torch.bfloat16: "BF16", torch.float16: "F16"}[between]
    other = {name: tensor + 0.25 for name, tensor in old.items()}  # and another file is cast as often
    torch.save(other, tmp_path / "other.pth")
    edits = ckptconv.Edits(names=[tmp_path / "edits.json"])
    ckptconv.convert(tmp_path / "other.pth", tmp_path / "made.pth", edits=edits, force=True)
    wanted = {name: tensor.to(between).to(last) for name, tensor in other.items()}
    assert not unlike(torch.load(tmp_path / "made.pth"), wanted)


@pytest.mark.parametrize(
    ("dtype", "past"), [(torch.float16, 1e6), (torch.float8_e4m3fn, 1e3), (torch.bfloat16, 3.4e38)]
)
@pytest.mark.parametrize("size", [4, 20_000])
def test_values_past_the_range_of_a_cast_are_reported(
    dtype: torch.dtype, past: float, size: int, tmp_path: Path
) -> None:
    old = {"fits": drawn(size), "past": torch.cat([drawn(size), torch.tensor([past, 440.0])])}
    new = {name: tensor.to(dtype) for name, tensor in old.items()}
    found, _ = redone(tmp_path, {"fits": old["fits"]}, {"fits": new["fits"]})
    assert [finding.message.partition("cast, ")[2] for finding in found.findings] == ["rounding only"]
    torch.save(old, tmp_path / "old.pth")
    torch.save(new, tmp_path / "new.pth")
    found = ckptconv.diff(tmp_path / "old.pth", tmp_path / "new.pth")
    told = {finding.where: finding.message.partition("cast, ")[2] for finding in found.findings}
    assert told == {"fits": "rounding only", "past": "rounding, and some values past the range"}


@pytest.mark.parametrize("same_shape", [False, True])
def test_of_several_prefixes_that_would_do_the_one_whose_tensors_are_the_same_is_reported(
    same_shape: bool, tmp_path: Path
) -> None:
    old = {f"blocks.{i}.norm.{leaf}": drawn(4 if same_shape else 5, 6, seed=10 * i + j)
           for i in range(3) for j, leaf in enumerate(("weight", "bias"))}  # fmt: skip
    old |= {f"head.{leaf}": drawn(4, 6, seed=90 + j) for j, leaf in enumerate(("weight", "bias"))}
    new = {leaf: old[f"head.{leaf}"] for leaf in ("weight", "bias")}
    for name in [name for name in old if name.startswith(("blocks.1.", "blocks.2."))]:
        new[name.replace("s.1.", "s.0.").replace("s.2.", "s.1.")] = old[name]
    found, made = redone(tmp_path, old, new)
    assert not unlike(made, new)
    assert ("rename", ("head.{*}",), ("{*}",)) in {(one.kind, one.sources, one.targets) for one in found.edits}
