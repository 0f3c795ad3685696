"""Tensors of other names are paired by what they hold, also where training changed it; of unrelated models none are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from ckptconv import diff

if TYPE_CHECKING:
    from pathlib import Path

    from ckptconv import Difference

State = dict[str, torch.Tensor]


def matrix(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def attention(layers: int, names: str, seed: int) -> State:
    """Four matrices of one shape in each layer, norms of one, biases of zero."""
    state = {}
    for i in range(layers):
        for j, name in enumerate(names.split()):
            state[f"layers.{i}.{name}.weight"] = matrix(24, 24, seed=seed + 10 * i + j)
            state[f"layers.{i}.{name}.bias"] = torch.zeros(24)
        state[f"layers.{i}.norm.weight"] = torch.ones(24)
    return state


def trained_on(state: State) -> State:
    return {name: tensor + 0.05 * matrix(*tensor.shape, seed=99) for name, tensor in state.items()}


def difference(a: State, b: State, folder: Path) -> Difference:
    for name, state in (("a.pth", a), ("b.pth", b)):
        torch.save(state, folder / name)
    return diff(folder / "a.pth", folder / "b.pth")


def partners(found: Difference) -> dict[str, str]:
    return {name: other for name, other in found.partners.items() if other is not None}


def codes(found: Difference) -> list[str]:
    return [finding.code for finding in found.findings]


def test_no_tensor_of_an_unrelated_model_is_paired_by_its_shape(tmp_path: Path) -> None:
    ours = {"embed.weight": matrix(50, 24, seed=1), **attention(2, "q k v o", seed=100), "head.weight": torch.ones(7)}
    theirs = {f"features.{i}.conv.weight": matrix(24, 24, seed=500 + i) for i in range(40)}
    theirs |= {f"features.{i}.bn.bias": torch.zeros(24) for i in range(40)} | {"out.weight": matrix(24, 50, seed=3)}
    found = difference(ours, theirs, tmp_path)
    assert partners(found) == {}
    assert {edit.kind for edit in found.edits} == {"drop"}
    assert codes(found).count("removed") == len(ours)
    assert codes(found).count("added") == len(theirs)
    assert "unrelated" in codes(found)
    assert "by its shape" not in next(f.message for f in found.findings if f.code == "unrelated")


def test_matrices_that_were_trained_on_are_paired_by_their_values_not_by_names_that_mislead(tmp_path: Path) -> None:
    ours = attention(3, "wq wk wv wo", seed=100)
    turned = {"wq": "wv", "wk": "wo", "wv": "wq", "wo": "wk"}
    names = {name: name.replace("layers", "blocks").replace(part, f"{turned[part]}_proj")
             for name in ours for part in turned if f".{part}." in name}  # fmt: skip
    theirs = trained_on({names[name]: tensor for name, tensor in ours.items() if name in names and "weight" in name})
    theirs |= {f"decoder.{i}.weight": matrix(9, 9, seed=700 + i) for i in range(30)}  # so that most is not the same
    found = difference(ours, theirs, tmp_path)
    expected = {name: names[name] for name in names if name.endswith("weight")}
    assert {name: other for name, other in partners(found).items() if name in expected} == expected
    assert "unrelated" not in codes(found)


@pytest.mark.parametrize("kin", [True, False])
def test_a_matrix_is_said_to_be_transposed_only_if_its_values_say_so(tmp_path: Path, kin: bool) -> None:
    shared = {f"layers.{i}.weight": matrix(16, 16, seed=i) for i in range(4)}
    ours = {**shared, "proj.weight": matrix(24, 40, seed=50)}
    after = ours["proj.weight"].T.contiguous() if kin else matrix(40, 24, seed=51)
    theirs = {**shared, **trained_on({"projection.weight": after})}
    found = difference(ours, theirs, tmp_path)
    assert ("projection.weight" in partners(found).values()) is kin
    assert ("transposed" in codes(found)) is kin


def test_a_network_retrained_under_other_names_is_still_the_same_network(tmp_path: Path) -> None:
    theirs = {name.replace("layers", "blocks"): t for name, t in attention(2, "q k v o", seed=900).items()}
    found = difference(attention(2, "q k v o", seed=100), theirs, tmp_path)
    assert partners(found)["layers.1.k.weight"] == "blocks.1.k.weight"
    assert "removed" not in codes(found)


def test_headers_alone_pair_by_names_and_shapes(tmp_path: Path) -> None:
    torch.save({"a.weight": matrix(5, 7, seed=1)}, tmp_path / "a.pth")
    torch.save({"b.kernel": matrix(3, 3, seed=1)}, tmp_path / "b.pth")
    found = diff(tmp_path / "a.pth", tmp_path / "b.pth", headers=True)
    assert [f.message for f in found.findings if f.code == "unrelated"] == [
        "no tensor of the one was found in the other, by its name or by its shape"
    ]
