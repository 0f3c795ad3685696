"""What hqq's layers saved becomes what hqq makes of it, bit for bit."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import ckptconv
from ckptconv.edits.quantized.schemes import ROLES, dequantized
from ckptconv.errors import EditError
from tests.edits.quantized.test_dequantize import folder_of, plain
from tests.edits.test_functions import same_bits

FIXTURE = Path(__file__).parents[3] / "fixtures" / "quantized" / "hqq.safetensors"
EVERYTHING = load_file(FIXTURE)
CASES = sorted({name.partition("/")[0] for name in EVERYTHING})
HQQ = {"quant_method": "hqq", "skip_modules": ["lm_head"]}


def source(name: str) -> dict[str, torch.Tensor]:
    start = f"{name}/source/"
    return {key.removeprefix(start): tensor for key, tensor in EVERYTHING.items() if key.startswith(start)}


@pytest.mark.parametrize("name", CASES)
def test_a_layer_becomes_what_hqq_makes_of_it(name: str, tmp_path: Path) -> None:
    expected = EVERYTHING[f"{name}/expected/m.weight"]
    found = plain(folder_of(tmp_path / "m", source(name), HQQ, expected.dtype))
    assert set(found) == {"m.weight", "m.bias"}
    assert found["m.weight"].dtype == expected.dtype
    assert same_bits(found["m.weight"], expected).all()
    assert torch.equal(found["m.bias"], source(name)["m.bias"])


def test_no_configuration_is_needed(tmp_path: Path) -> None:
    expected = EVERYTHING["4 bits, axis 1/expected/m.weight"]
    found = plain(folder_of(tmp_path / "m", source("4 bits, axis 1"), None, expected.dtype))
    assert same_bits(found["m.weight"], expected).all()


@pytest.mark.parametrize("name", ["4 bits, axis 0", "3 bits, slabs that are not filled up", "1 bits, axis 1"])
def test_any_range_of_bytes_is_that_part_of_it(name: str) -> None:
    expected = EVERYTHING[f"{name}/expected/m.weight"].float().numpy().tobytes()
    with ckptconv.open(FIXTURE) as found:
        roles = [role for role in (*ROLES["hqq"][0], *ROLES["hqq"][1]) if f"{name}/source/m.{role}" in found]
        parts = tuple(found[f"{name}/source/m.{role}"] for role in roles)
        tensor = dequantized(parts, {"scheme": "hqq", "parts": list(roles)})
        assert bytes(tensor.read()) == expected
        chance = random.Random(0)
        for _ in range(100):
            start, stop = sorted(chance.choices(range(len(expected) + 1), k=2))
            assert bytes(tensor.read(start, stop)) == expected[start:stop]


def test_inspect_says_what_it_is() -> None:
    assert ckptconv.inspect(FIXTURE).quantized == {"HQQ's": len(CASES)}


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "another packing": ({"packing": torch.tensor(list(b"5bit_u8"), dtype=torch.uint8)}, "5bit_u8"),
    "a long packing": ({"packing": torch.zeros(100, dtype=torch.uint8)}, "100 characters"),
    "bits of another packing": ({"nbits": torch.tensor(8, dtype=torch.int32)}, "nbits is 8"),
    "several bits": ({"nbits": torch.ones(2, dtype=torch.int32)}, "not one element"),
    "another axis": ({"axis": torch.tensor(2, dtype=torch.int32)}, "axis is 2"),
    "the other axis": ({"axis": torch.tensor(0, dtype=torch.int32)}, r"scale has the shape \[48, 1\]"),
    "another shape": ({"shape": torch.tensor([16, 47])}, "not a weight of 752"),
    "a shape below zero": ({"shape": torch.tensor([-16, -48])}, "no matrix"),
    "a huge shape": ({"shape": torch.tensor([1 << 62, 1 << 62])}, "no matrix"),
    "a shape of three": ({"shape": torch.tensor([16, 48, 1])}, "row of at most 2"),
    "scales of another type": ({"scale": torch.ones(48, 1)}, "scale is F32, and compute_dtype F16"),
    "scales that are too few": ({"scale": torch.ones(47, 1, dtype=torch.float16)}, "scale has the shape"),
    "zeros that are too few": ({"zero": torch.ones(47, 1, dtype=torch.float16)}, "zero has the shape"),
    "words of another type": ({"W_q": torch.zeros(24, 16, dtype=torch.int32)}, "W_q is I32"),
    "words of no matrix": ({"W_q": torch.zeros(24 * 16, dtype=torch.uint8)}, "not a matrix"),
    "no words": ({"W_q": torch.zeros(0, 16, dtype=torch.uint8)}, "not a matrix"),
    "another element type": ({"compute_dtype": torch.tensor(list(b"torch.int8"), dtype=torch.uint8)}, "torch.int8"),
    "quantized scales": ({"quant_scale": torch.tensor(1, dtype=torch.uint8)}, "quant_scale"),
    "no zero": ({"zero": None}, "'m.zero' is not"),
    "no shape": ({"shape": None}, "no tensor says its shape"),
}


@pytest.mark.parametrize(("changed", "said"), WRONG.values(), ids=WRONG)
def test_what_does_not_fit_is_an_error(changed: dict[str, Any], said: str, tmp_path: Path) -> None:
    tensors: dict[str, Any] = source("4 bits, axis 1") | {f"m.{part}": tensor for part, tensor in changed.items()}
    path = folder_of(tmp_path / "m", {name: one for name, one in tensors.items() if one is not None}, HQQ)
    with pytest.raises(EditError, match=said):
        plain(path)


def test_weights_of_another_method_than_said_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(EditError, match="'awq'"):
        plain(folder_of(tmp_path / "m", source("4 bits, axis 1"), {"quant_method": "awq"}))
