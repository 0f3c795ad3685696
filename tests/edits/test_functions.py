"""Elements computed anew: torch's and numpy's bits, in any range, and never undone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

import ckptconv
from ckptconv.core.dtypes import DTYPES
from ckptconv.core.edit import Edit
from ckptconv.edits.apply import apply
from ckptconv.edits.computed import BLOCK
from ckptconv.edits.invert import inverted
from ckptconv.errors import EditError, LossError
from tests.edits.test_cast import BITS, every

if TYPE_CHECKING:
    from pathlib import Path

    from ckptconv.core.spelling import Json

RULES = """
[[edits]]
kind = "map"
sources = ["{*}norm.weight"]
function = "add"
value = -1

[[edits]]
kind = "map"
sources = ["A"]
function = "log-neg"

[[edits]]
kind = "rename"
sources = ["A"]
targets = ["A_log"]
"""


def same_bits(found: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
    """Where the bits are equal; which NaN it is torch does not promise."""
    bits = BITS[expected.element_size()]
    return (found.view(bits) == expected.view(bits)) | (found.isnan() & expected.isnan())


@pytest.mark.parametrize(
    ("function", "value"), [("add", -1), ("add", 1.0), ("add", 0.125), ("multiply", 3), ("multiply", -0.37)]
)
@pytest.mark.parametrize("dtype", ["F16", "BF16", "F32", "F64"])
def test_sums_and_products_are_torchs_bit_for_bit(tmp_path: Path, dtype: str, function: str, value: float) -> None:
    """All values of 16 bits, a million of F32."""
    values = torch.randn(70_001, dtype=torch.float64) if dtype == "F64" else every(DTYPES[dtype])
    torch.save({"w": values}, tmp_path / "a.pth")
    with ckptconv.open(tmp_path / "a.pth") as checkpoint:
        edit = Edit("map", ("w",), ("w",), {"function": function, "value": value})
        found = apply(dict(checkpoint), [edit])["w"].to_torch()
    expected = values + value if function == "add" else values * value
    assert found.dtype is expected.dtype
    assert same_bits(found, expected).all()


@pytest.mark.parametrize(("function", "how"), [("log-neg", lambda x: np.log(-x)), ("neg-exp", lambda x: -np.exp(x))])
def test_the_parameter_of_mamba_is_numpys_bit_for_bit(tmp_path: Path, function: str, how: Any) -> None:
    values = -torch.rand(3, BLOCK + 77) * 16
    torch.save({"A": values}, tmp_path / "a.pth")
    with ckptconv.open(tmp_path / "a.pth") as checkpoint:
        tensor = apply(dict(checkpoint), [Edit("map", ("A",), ("A",), {"function": function})])["A"]
        whole = bytes(tensor.read())
        assert whole == how(values.numpy()).tobytes()
        for start, stop in ((0, 4), (5, 6), (BLOCK * 4 - 3, BLOCK * 4 + 9), (11, len(whole) - 1)):
            assert bytes(tensor.read(start, stop)) == whole[start:stop]


def test_what_is_computed_is_cut_turned_cast_and_joined(tmp_path: Path) -> None:
    values = torch.randn(6, 10, dtype=torch.float16)
    torch.save({"a": values, "b": values.T.contiguous()}, tmp_path / "a.pth")
    add = {"function": "add", "value": 1}
    edits = [
        Edit("map", ("a",), ("a",), add),
        Edit("transpose", ("a",), ("a",), {"axes": [1, 0]}),
        Edit("map", ("b",), ("b",), add),
        Edit("concat", ("a", "b"), ("c",), {"axis": 0}),
        Edit("map", ("c",), ("c",), {"function": "multiply", "value": 2}),
        Edit("split", ("c",), ("d", "e"), {"axis": 1, "sizes": [2, 4]}),
        Edit("cast", ("e",), ("e",), {"dtype": "F32"}),
    ]
    with ckptconv.open(tmp_path / "a.pth") as checkpoint:
        made = apply(dict(checkpoint), edits)
        whole = torch.cat([(values + 1).T] * 2) * 2
        assert torch.equal(made["d"].to_torch(), whole[:, :2])
        assert torch.equal(made["e"].to_torch(), whole[:, 2:].float())


def test_a_file_of_rules_does_it_and_its_reverse_is_refused(tmp_path: Path) -> None:
    state = {"norm.weight": torch.rand(5) + 1, "a.norm.weight": torch.rand(5) + 1, "A": -torch.rand(4, 3)}
    torch.save(state, tmp_path / "a.pth")
    (tmp_path / "rules.toml").write_text(RULES)
    edits = ckptconv.Edits(names=[tmp_path / "rules.toml"])
    ckptconv.convert(tmp_path / "a.pth", tmp_path / "b.pth", edits=edits)
    found = torch.load(tmp_path / "b.pth")
    assert list(found) == ["norm.weight", "a.norm.weight", "A_log"]
    assert torch.equal(found["norm.weight"], state["norm.weight"] - 1)
    assert found["A_log"].numpy().tobytes() == np.log(-state["A"].numpy()).tobytes()
    with pytest.raises(EditError, match=r"edit 2, map 'A', cannot be undone: what it rounded away") as caught:
        ckptconv.convert(
            tmp_path / "b.pth", tmp_path / "c.pth", edits=ckptconv.Edits(names=[tmp_path / "rules.toml"], reverse=True)
        )
    assert caught.value.hint == "an edit with function = 'neg-exp' does so but for rounding"


@pytest.mark.parametrize(
    ("details", "words"),
    [
        ({"function": "add", "value": -1}, "function = 'add' and value = 1 "),
        ({"function": "multiply", "value": 4}, "function = 'multiply' and value = 0.25 "),
        ({"function": "neg-exp"}, "function = 'log-neg' "),
        ({}, "it says no function"),
    ],
)
def test_what_comes_near_to_undoing_it_is_reported(details: dict[str, Json], words: str) -> None:
    with pytest.raises(EditError) as caught:
        inverted([Edit("map", ("a",), ("a",), details)])
    assert words in str(caught.value.hint)


@pytest.mark.parametrize(
    ("details", "words"),
    [
        ({}, "there is no function None"),
        ({"function": "sqrt"}, "there is no function 'sqrt'"),
        ({"function": "add"}, "add needs a value, a number"),
        ({"function": "add", "value": True}, "add needs a value, a number"),
        ({"function": "add", "value": "1"}, "add needs a value, a number"),
        ({"function": "multiply", "value": 10**400}, "multiply needs a value that is finite"),
        ({"function": "add", "value": float("nan")}, "add needs a value that is finite"),
        ({"function": "log-neg", "value": 1}, "log-neg takes no value"),
    ],
)
def test_what_is_no_function_is_named(tmp_path: Path, details: dict[str, Json], words: str) -> None:
    torch.save({"a": torch.zeros(2)}, tmp_path / "a.pth")
    with ckptconv.open(tmp_path / "a.pth") as checkpoint, pytest.raises(EditError, match="edit 1, map 'a': ") as caught:
        apply(dict(checkpoint), [Edit("map", ("a",), ("a",), details)])
    assert words in caught.value.message


def test_integers_are_not_computed_with(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(2, dtype=torch.int64)}, tmp_path / "a.pth")
    edit = Edit("map", ("a",), ("a",), {"function": "add", "value": 1})
    with ckptconv.open(tmp_path / "a.pth") as checkpoint, pytest.raises(EditError, match="I64 is not computed with"):
        apply(dict(checkpoint), [edit])


@pytest.mark.parametrize("dtype", [[], ["BF16"]], ids=["as it is", "cast"])
def test_values_that_get_infinite_or_nan_need_consent(tmp_path: Path, dtype: list[str]) -> None:
    torch.save({"A": torch.tensor([-1.0, 0.0, 2.0, torch.inf, torch.nan])}, tmp_path / "a.pth")
    (tmp_path / "rules.toml").write_text('[[edits]]\nkind = "map"\nsources = ["A"]\nfunction = "log-neg"\n')
    edits = ckptconv.Edits(names=[tmp_path / "rules.toml"], dtype=dtype)
    with pytest.raises(LossError) as caught:
        ckptconv.convert(tmp_path / "a.pth", tmp_path / "b.pth", edits=edits)
    assert [finding.found for finding in caught.value.losses] == ["2"]
    assert not (tmp_path / "b.pth").exists()
    ckptconv.convert(tmp_path / "a.pth", tmp_path / "b.pth", edits=edits, allow_loss=["overflow"])
    assert torch.load(tmp_path / "b.pth")["A"].isfinite().tolist() == [True, False, False, False, False]
