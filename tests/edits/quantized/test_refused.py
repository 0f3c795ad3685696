"""What is not dequantized is refused by name, and what does not fit with its reason; rules say the same by hand."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch

import ckptconv
from ckptconv.edits.invert import inverted
from ckptconv.edits.rules import read_rules
from ckptconv.errors import EditError, UnsupportedError
from tests.edits.quantized.test_dequantize import CASES, case, folder_of, fp8, plain

if TYPE_CHECKING:
    from pathlib import Path

FP8 = {"a.weight": fp8(4, 8), "a.weight_scale": torch.rand(4, 1)}


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"quant_method": "quanto"}, "quantized by 'quanto' are not dequantized here"),
        ({"quant_method": ["x"]}, "are not dequantized here"),
        ({"quant_method": "gptq", "bits": 4, "checkpoint_format": "marlin"}, "GPTQ's format 'marlin'"),
        ({"quant_method": "awq", "bits": 4, "version": "gemv"}, "AWQ's layout 'gemv'"),
        ({"quant_method": "compressed-tensors", "format": "marlin-24"}, "format 'marlin-24'"),
        ({"quant_method": "compressed-tensors", "sparsity_config": {"format": "sparse-bitmask"}}, "'sparse-bitmask'"),
    ],
)
def test_methods_that_are_not_known_are_refused_by_name(tmp_path: Path, config: object, words: str) -> None:
    with pytest.raises(UnsupportedError, match=words) as caught:
        plain(folder_of(tmp_path / "m", FP8, config))
    assert caught.value.hint


@pytest.mark.parametrize(
    ("tensors", "config", "words"),
    [
        ({"a": torch.ones(3)}, None, "finds no quantized weight"),
        ({"a": torch.ones(3)}, {"quant_method": "fp8"}, "though the configuration says 'fp8'"),
        (FP8, {"quant_method": "awq"}, "says 'awq', and 'a.weight' is stored as scaled"),
        ({"a.weight_scale_inv": torch.rand(1, 1)}, None, "'a.weight' is not"),
        ({"a.weight": torch.ones(3, 3), "a.weight_scale_inv": torch.rand(1, 1)}, None, "not known to go with it"),
        ({**FP8, "a.pre_quant_scale": torch.rand(8)}, None, "that the weight was divided by"),
        ({**FP8, "a.weight_scale": torch.rand(3, 1)}, None, "does not go with a weight|does not say alone"),
        ({**FP8, "a.weight_scale": torch.ones(4, 1, dtype=torch.int32)}, None, "scale is I32"),
        (
            {"a.weight": fp8(4, 8), "a.weight_scale_inv": torch.rand(2, 2)},
            {"quant_method": "fp8", "weight_block_size": [2, 2]}, "not for blocks of 2 × 2",
        ),
        ({"m.qweight": torch.ones(4, 8, dtype=torch.int32), "m.scales": torch.ones(1, 8)}, None, "which of GPTQ's two"),
        (
            {"m.qweight": torch.ones(4, 8, dtype=torch.int32), "m.scales": torch.ones(1, 8)},
            {"quant_method": "gptq", "bits": 4}, "'m.qzeros' is not",
        ),
        ({"m.SCB": torch.ones(4), "m.weight": torch.ones(4, 3)}, None, "weight is F32, and not I8"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_reported(
    tmp_path: Path, tensors: dict[str, torch.Tensor], config: Any, words: str
) -> None:
    with pytest.raises(EditError, match=words) as caught:
        plain(folder_of(tmp_path / "m", tensors, config))
    assert caught.value.hint


@pytest.mark.parametrize(
    ("name", "part", "value", "words"),
    [
        ("gptq4-gptq", "m.g_idx", torch.full((32,), 2, dtype=torch.int32), "groups from 2 to 2, of 2"),
        ("gptq4-gptq", "m.g_idx", torch.zeros(31, dtype=torch.int32), None),
        ("gptq4-gptq", "m.g_idx", torch.zeros(24, dtype=torch.int32), "24 inputs and 64 outputs of 4 bits are not"),
        ("gptq4-gptq", "m.qzeros", torch.zeros(2, 5, dtype=torch.int32), "do not go together"),
        ("awq", "m.scales", torch.ones(3, 24).half(), "do not go together"),
        ("ct-pack4", "m.weight_shape", torch.tensor([18, 1 << 40]), "shape says"),
        ("ct-pack4", "m.weight_shape", torch.tensor([17, 48]), "shape says"),
        ("ct-pack4", "m.weight_shape", torch.tensor([18, 40, 1]), "shape says"),
        ("ct-pack4", "m.weight_shape", torch.tensor([18, 8]), "are not packed into"),
        ("ct-pack4-zeros", "m.weight_zero_point", torch.zeros(2, 3, dtype=torch.int32), "zero_point has the shape"),
        ("ct-nvfp4", "m.weight_global_scale", torch.ones(2), "not one element"),
        ("ct-mxfp4", "m.weight_scale", torch.ones(8, 3, dtype=torch.uint8), "scale has the shape"),
        ("bnb-nf4", "m.weight.absmax", torch.ones(3), "absmax has 3 elements"),
        ("bnb-nf4", "m.weight.quant_map", torch.ones(15), "quant_map has 15 elements"),
        ("bnb-nf4-nested", "m.weight.nested_absmax", torch.ones(9), "nested_absmax has 9 elements"),
        ("bnb-int8", "m.weight_format", torch.ones((), dtype=torch.uint8), "layout other than rows"),
    ],
)
def test_parts_that_contradict_each_other(
    tmp_path: Path, name: str, part: str, value: torch.Tensor, words: str | None
) -> None:
    source, _ = case(name)
    assert part in source
    path = folder_of(tmp_path / "m", {**source, part: value}, CASES[name])
    if words is None:  # fewer columns than the words hold, as of an embedding's last ones
        assert plain(path)["m.weight"].shape == (64, 31)
        return
    with pytest.raises(EditError, match=words):
        plain(path)


@pytest.mark.parametrize(
    "said",
    [
        b"", b"\xff", b"[" * 10_000, b"[]", b"{}", b'{"quant_type": "nf4"}',
        b'{"quant_type": "nf4", "shape": [9223372036854775807, 9223372036854775807], "blocksize": 64}',
        b'{"quant_type": "nf4", "shape": [-24, -40], "blocksize": 64}',
        b'{"quant_type": "nf4", "shape": [24, 40], "blocksize": 0}',
        b'{"quant_type": "nf4", "shape": [24, 40], "blocksize": 1e999}',
        b'{"quant_type": "int4", "shape": [24, 40], "blocksize": 64}',
        b" " * (1 << 17),
    ],
)  # fmt: skip
def test_states_that_lie_are_errors(tmp_path: Path, said: bytes) -> None:
    source, _ = case("bnb-nf4")
    name = "m.weight.quant_state.bitsandbytes__nf4"
    assert name in source
    lying = torch.frombuffer(bytearray(said), dtype=torch.uint8) if said else torch.empty(0, dtype=torch.uint8)
    with pytest.raises(EditError, match=r"quant_state|elements of 4 bits"):
        plain(folder_of(tmp_path / "m", {**source, name: lying}))


RULES = """
[[edits]]
kind = "dequantize"
sources = ["{*}.weight", "{*}.weight_scale"]
targets = ["{*}.weight"]
scheme = "scaled"
"""


def test_rules_say_by_hand_what_the_names_do_not(tmp_path: Path) -> None:
    weight, scale = fp8(4, 8), torch.rand(2, 4)
    source = folder_of(tmp_path / "m", {"a.weight": weight, "a.weight_scale": scale})
    rules = tmp_path / "rules.toml"
    rules.write_text(RULES + "block = [2, 2]\n")
    ckptconv.convert(source, tmp_path / "b.pth", edits=ckptconv.Edits(names=[rules]))
    expected = weight.float() * scale.repeat_interleave(2, 0).repeat_interleave(2, 1)
    assert torch.equal(torch.load(tmp_path / "b.pth")["a.weight"], expected)
    with pytest.raises(EditError, match=r"edit 1, dequantize .* cannot be undone: quantizing anew is not an edit"):
        inverted(read_rules(rules))
    for line, words in (
        ('parts = ["weight"]', "2 sources are not the parts"), ('parts = ["scale", "scale"]', "are not the parts"),
        ('parts = ["weight", "qzeros"]', "scaled has no part 'qzeros'"), ("block = [0, 2]", "block is two sizes"),
        ('parts = ["weight", "zero_point"]', "needs the part 'scale'"), ("block = [2, 3]", "not for blocks of 2 × 3"),
    ):  # fmt: skip
        rules.write_text(RULES + line + "\n")
        with pytest.raises(EditError, match=words.replace("[", r"\[")):
            ckptconv.convert(source, tmp_path / "c.pth", edits=ckptconv.Edits(names=[rules]))
    rules.write_text(RULES.replace("scaled", "magic"))
    with pytest.raises(EditError, match="there is no scheme 'magic'"):
        ckptconv.convert(source, tmp_path / "c.pth", edits=ckptconv.Edits(names=[rules]))


def test_validate_judges_plain_weights_and_says_how_to_have_them_where_it_cannot(tmp_path: Path) -> None:
    weights = {f"model.layers.0.mlp.{name}_proj.weight": fp8(8, 8) for name in ("up", "gate", "down")}
    weights |= {name + "_scale_inv": torch.rand(1, 1) for name in weights}
    source = folder_of(tmp_path / "m", weights)
    config = {"model_type": "llama", "quantization_config": {"quant_method": "fp8"}}
    (tmp_path / "m" / "config.json").write_text(json.dumps(config))
    found = ckptconv.validate(source, arch="llama").findings
    assert found[0].code == "dequantized"
    assert not [one for one in found if one.where.endswith("_scale_inv")]
    weights |= {name: torch.rand(3, 3) for name in weights if name.endswith("_scale_inv")}  # blocks that are none
    folder_of(tmp_path / "m", weights)
    (tmp_path / "m" / "config.json").write_text(json.dumps(config))
    first = ckptconv.validate(source, arch="llama").findings[0]
    assert first.code == "quantized"
    assert first.hint == f"ckptconv convert {source} plain.safetensors --dequantize"
