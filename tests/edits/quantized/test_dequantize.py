"""Quantized weights become what the libraries that quantize make of them, bit for bit, in any range of bytes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import ckptconv
from ckptconv.edits.quantized import elements, matrix
from ckptconv.edits.quantized.elements import E2M1
from ckptconv.errors import EditError
from tests.edits.test_functions import same_bits
from tests.support.reads import expect_any_range

if TYPE_CHECKING:
    from collections.abc import Mapping

FIXTURE = Path(__file__).parents[3] / "fixtures" / "quantized" / "quantized.safetensors"
DEQUANTIZE = ckptconv.Edits(dequantize=True)

with safe_open(FIXTURE, "pt") as _file:
    CASES: dict[str, dict[str, Any]] = {name: json.loads(text) for name, text in sorted(_file.metadata().items())}


def folder_of(
    folder: Path, tensors: Mapping[str, torch.Tensor], config: object = None, dtype: object = torch.bfloat16
) -> Path:
    """A model as the hub has it: its weights, and a config.json beside them."""
    folder.mkdir(exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")
    document: dict[str, object] = {"torch_dtype": str(dtype).removeprefix("torch.")}
    document |= {} if config is None else {"quantization_config": config}
    (folder / "config.json").write_text(json.dumps(document))
    return folder / "model.safetensors"


def plain(source: Path, **edits: Any) -> dict[str, torch.Tensor]:
    """What is written of it."""
    target = source.with_name("plain.safetensors")
    ckptconv.convert(source, target, edits=ckptconv.Edits(dequantize=True, **edits), force=True)
    return load_file(target)


def case(name: str) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """What others quantized, and what they dequantize it to."""
    everything = load_file(FIXTURE)
    made: tuple[dict[str, torch.Tensor], ...] = ({}, {})
    for one, part in zip(made, ("source", "expected"), strict=True):
        start = f"{name}/{part}/"
        one.update({key.removeprefix(start): t for key, t in everything.items() if key.startswith(start)})
    return made[0], made[1]


def fp8(*shape: int) -> torch.Tensor:
    return (torch.randn(*shape) * 100).to(torch.float8_e4m3fn)


@pytest.mark.parametrize("name", CASES)
def test_the_values_are_those_of_the_library_that_quantized(tmp_path: Path, name: str) -> None:
    source, expected = case(name)
    dtype = expected["m.weight"].dtype
    found = plain(folder_of(tmp_path / "m", source, CASES[name], dtype))
    assert found.keys() == expected.keys(), "scales go, and what was for activations"
    assert found["m.weight"].dtype == dtype
    assert found["m.weight"].shape == expected["m.weight"].shape
    assert same_bits(found["m.weight"], expected["m.weight"]).all()


@pytest.mark.parametrize("name", [name for name in CASES if not name.startswith("gptq")])
def test_where_nothing_says_the_scheme_the_tensors_do(tmp_path: Path, name: str) -> None:
    source, expected = case(name)
    if name.startswith("ct-fp8-blocks"):
        with pytest.raises(EditError, match="does not say alone of which blocks"):
            plain(folder_of(tmp_path / "m", source))
        return
    found = plain(folder_of(tmp_path / "m", source, None, expected["m.weight"].dtype))
    assert same_bits(found["m.weight"], expected["m.weight"]).all()


CALLED = {
    "ct-fp8": "8-bit floats or integers with scales", "ct-int8": "8-bit floats or integers with scales",
    "ct-mxfp8": "8-bit floats or integers with scales", "ct-": "compressed-tensors'", "gptq": "GPTQ's or AWQ's",
    "awq": "GPTQ's or AWQ's", "bnb-int8": "bitsandbytes' of 8 bits", "bnb-": "bitsandbytes' of 4 bits",
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_inspect_says_what_kind_it_is_and_how_many(tmp_path: Path, name: str) -> None:
    source, expected = case(name)
    called = next(kind for start, kind in CALLED.items() if name.startswith(start))
    found = ckptconv.inspect(folder_of(tmp_path / "m", {**source, "norm.weight": torch.ones(2)}))
    assert found.quantized == {called: 1}
    assert ckptconv.inspect(folder_of(tmp_path / "n", expected)).quantized == {}


@pytest.mark.parametrize("name", CASES)
def test_inspect_counts_the_parameters_that_weights_stand_for(tmp_path: Path, name: str) -> None:
    source, expected = case(name)
    dtype = expected["m.weight"].dtype
    found = ckptconv.inspect(folder_of(tmp_path / "m", {**source, "norm.weight": torch.ones(2)}, CASES[name], dtype))
    assert found.plain == found.parameters == sum(tensor.numel() for tensor in expected.values()) + 2


def test_where_that_is_not_said_they_count_as_they_are_stored(tmp_path: Path) -> None:
    source, _ = case("gptq4-gptq")
    found = ckptconv.inspect(folder_of(tmp_path / "m", source))
    assert found.plain is None
    assert found.parameters == sum(tensor.numel() for tensor in source.values())


@pytest.mark.parametrize("name", [name for name in CASES if name.startswith(("gptq", "awq"))])
@pytest.mark.parametrize("config", [None, {"torch_dtype": "float16"}])
def test_what_autogptq_and_autoawq_say_in_files_of_their_own_is_read(tmp_path: Path, name: str, config: object) -> None:
    """AutoGPTQ's ``quantize_config.json`` does not name its method, nor does AutoAWQ's ``quant_config.json``."""
    source, expected = case(name)
    path = folder_of(tmp_path / "m", source)
    (path.parent / "config.json").unlink()
    if config is not None:
        (path.parent / "config.json").write_text(json.dumps(config))
    said = {key: value for key, value in CASES[name].items() if key != "quant_method"}
    file = "quantize_config.json" if name.startswith("gptq") else "quant_config.json"
    (path.parent / file).write_text(json.dumps({**said, "damp_percent": 0.01}))
    found = plain(path, dtype=[str(expected["m.weight"].dtype).removeprefix("torch.")])
    assert same_bits(found["m.weight"], expected["m.weight"]).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_fp8_in_blocks_is_what_transformers_loads(tmp_path: Path, dtype: torch.dtype) -> None:
    from transformers.integrations.finegrained_fp8 import Fp8Dequantize

    theirs = Fp8Dequantize(None)
    weight, scale, experts, scales = fp8(256, 384), torch.rand(2, 3), fp8(3, 128, 256), torch.rand(3, 1, 2)
    source = folder_of(tmp_path / "m", {
        "a.weight": weight, "a.weight_scale_inv": scale, "a.activation_scale": torch.ones(()),
        "e.gate_up_proj": experts, "e.gate_up_proj_scale_inv": scales, "norm.weight": torch.rand(3),
    }, {"quant_method": "fp8", "weight_block_size": [128, 128]}, dtype)  # fmt: skip
    found = plain(source)
    assert found.keys() == {"a.weight", "e.gate_up_proj", "norm.weight"}
    assert same_bits(found["a.weight"], theirs._dequantize_one(weight, scale, output_dtype=dtype)).all()
    assert same_bits(found["e.gate_up_proj"], theirs._dequantize_one(experts, scales, output_dtype=dtype)).all()
    assert found["norm.weight"].dtype == torch.float32, "what was not quantized stays as it is"


def test_exponents_of_8_bits_are_scales_too(tmp_path: Path) -> None:
    from transformers.integrations.finegrained_fp8 import Fp8Dequantize

    weight, scale = fp8(64, 128), torch.randint(0, 255, (64, 4), dtype=torch.uint8)
    expected = Fp8Dequantize(None)._dequantize_one(weight, scale, output_dtype=torch.float32)
    config = {"quant_method": "fp8", "weight_block_size": [1, 32]}
    source = folder_of(tmp_path / "m", {"a.weight": weight, "a.weight_scale_inv": scale}, config, torch.float32)
    assert same_bits(plain(source)["a.weight"], expected).all()


@pytest.mark.parametrize("config", [None, {"quant_method": "fp8", "weight_block_size": [128, 128]}])
def test_the_last_blocks_may_be_smaller(tmp_path: Path, config: object) -> None:
    """As DeepSeek's kernel has it: every value times the scale of its block, in F32, rounded to BF16."""
    weight, scale = fp8(200, 300), torch.rand(2, 3)
    whole = scale.repeat_interleave(128, 0).repeat_interleave(128, 1)[:200, :300]
    source = folder_of(tmp_path / "m", {"a.weight": weight, "a.weight_scale_inv": scale}, config)
    assert same_bits(plain(source)["a.weight"], (weight.float() * whole).bfloat16()).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_mxfp4_is_turned_as_transformers_turns_it(tmp_path: Path, dtype: torch.dtype) -> None:
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    blocks = torch.randint(0, 256, (3, 40, 6, 16), dtype=torch.uint8)
    scales = torch.randint(0, 256, (3, 40, 6), dtype=torch.uint8)
    tensors = {"x.down_proj_bias": torch.ones(3), "x.down_proj_blocks": blocks, "x.down_proj_scales": scales}
    found = plain(folder_of(tmp_path / "m", tensors, {"quant_method": "mxfp4"}, dtype))
    assert found.keys() == {"x.down_proj", "x.down_proj_bias"}
    assert same_bits(found["x.down_proj"], convert_moe_packed_tensors(blocks, scales, dtype=dtype)).all()


def test_modelopts_second_scale_is_multiplied(tmp_path: Path) -> None:
    codes, scale, second = torch.randint(0, 256, (8, 32), dtype=torch.uint8), fp8(8, 4), torch.tensor(0.0037)
    table = torch.tensor(E2M1)
    values = torch.stack((table[codes.long() & 15], table[codes.long() >> 4]), -1).reshape(8, 64)
    expected = values * (scale.float() * second).repeat_interleave(16, 1)
    tensors = {"a.weight": codes, "a.weight_scale": scale, "a.weight_scale_2": second, "a.input_scale": torch.ones(())}
    source = folder_of(tmp_path / "m", tensors, {"quant_method": "modelopt", "quant_algo": "NVFP4"}, torch.float32)
    assert torch.equal(plain(source)["a.weight"], expected)


@pytest.mark.parametrize(
    "name", ["ct-fp8-blocks-f32", "ct-pack4-zeros", "ct-nvfp4", "awq", "gptq2-gptq", "gptq3-gptq", "bnb-nf4-nested"]
)
@pytest.mark.parametrize("tile", [7, 1 << 20])
def test_any_range_is_what_it_is_in_the_whole(
    tmp_path: Path, name: str, tile: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In pieces of parts of rows, and of whole rows."""
    source, _ = case(name)
    with ckptconv.open(folder_of(tmp_path / "m", source, CASES[name])) as checkpoint:
        from ckptconv.api.editing.apply import apply_edits

        tensor = apply_edits(checkpoint, ckptconv.Edits(dequantize=True, dtype=["F32"]))[0]["m.weight"]
        whole = bytes(tensor.read())
        assert len(whole) == tensor.info.nbytes
        monkeypatch.setattr(matrix, "TILE", tile)
        monkeypatch.setattr(matrix, "GATHERED", tile)
        monkeypatch.setattr(elements, "FEW", tile % 8)
        assert bytes(tensor.read()) == whole
        expect_any_range(tensor, whole)


def test_the_type_asked_for_is_rounded_to_once(tmp_path: Path) -> None:
    weight, scale = fp8(64, 64), torch.rand(64, 1)
    tensors = {"a.weight": weight, "a.weight_scale": scale, "b.weight": weight.clone(), "b.weight_scale": scale.clone()}
    source = folder_of(tmp_path / "m", {**tensors, "norm": torch.rand(4)}, {"quant_method": "fbgemm_fp8"})
    found = plain(source, dtype=["a.*=F16"])
    assert torch.equal(found["a.weight"], (weight.float() * scale).half())
    assert torch.equal(found["b.weight"], (weight.float() * scale).bfloat16())
    assert found["norm"].dtype == torch.float32
    found = plain(source, dtype=["F32"])
    assert torch.equal(found["a.weight"], weight.float() * scale)


def test_names_and_shapes_are_edited_afterwards(tmp_path: Path) -> None:
    """Experts become one tensor, outputs last."""
    tensors: dict[str, torch.Tensor] = {}
    expected = []
    for index in range(3):
        weight, scale = fp8(130, 20), torch.rand(2, 1)
        tensors |= {f"e.{index}.weight": weight, f"e.{index}.weight_scale_inv": scale}
        expected.append(weight.float() * scale.repeat_interleave(128, 0)[:130])
    rules = tmp_path / "rules.toml"
    rules.write_text(
        '[[edits]]\nkind = "stack"\nsources = ["e.{0-2}.weight"]\ntargets = ["experts"]\naxis = 0\n'
        '[[edits]]\nkind = "transpose"\nsources = ["experts"]\naxes = [0, 2, 1]\n'
    )
    found = plain(folder_of(tmp_path / "m", tensors, None), names=[rules])
    assert torch.equal(found["experts"], torch.stack(expected).transpose(1, 2).bfloat16())


def test_the_result_claims_no_quantization(tmp_path: Path) -> None:
    config = {"quantization_config": {"quant_method": "fbgemm_fp8"}, "hidden": 3}
    weights = {"a.weight": fp8(4, 8), "a.weight_scale": torch.rand(4, 1)}
    torch.save({"state_dict": weights, "config": config, "text": json.dumps(config), "epoch": 3}, tmp_path / "a.pth")
    result = ckptconv.convert(tmp_path / "a.pth", tmp_path / "b.safetensors", edits=DEQUANTIZE)
    assert {"dequantized", "quantization-config"} <= {finding.code for finding in result.findings}
    with ckptconv.open(tmp_path / "b.safetensors") as checkpoint:
        assert checkpoint.metadata == {"config": {"hidden": 3}, "text": '{"hidden": 3}', "epoch": 3}
        assert list(checkpoint) == ["a.weight"]
    with safe_open(tmp_path / "b.safetensors", "pt") as file:
        assert "quant_method" not in json.dumps(file.metadata())


def test_shards_are_dequantized_across_files(tmp_path: Path) -> None:
    """A weight and its scale need not be in one shard."""
    weight, scale = fp8(64, 64), torch.rand(64, 1)
    source = folder_of(tmp_path / "m", {"a.weight": weight, "a.weight_scale": scale})
    ckptconv.convert(source, tmp_path / "s", shard_size=4100)
    assert len(list((tmp_path / "s").glob("*.safetensors"))) == 2
    ckptconv.convert(tmp_path / "s", tmp_path / "plain.pth", edits=ckptconv.Edits(dequantize=True, dtype=["F32"]))
    assert torch.equal(torch.load(tmp_path / "plain.pth")["a.weight"], weight.float() * scale)


def test_one_weight_with_one_scale_is_reported_in_the_singular(tmp_path: Path) -> None:
    state = {"a.weight": torch.ones(128, 128).to(torch.float8_e4m3fn), "a.weight_scale_inv": torch.ones(1, 1)}
    save_file(state, tmp_path / "a.safetensors")
    done = ckptconv.convert(tmp_path / "a.safetensors", tmp_path / "b.pth", edits=ckptconv.Edits(dequantize=True))
    (told,) = [finding.message for finding in done.findings if finding.code == "dequantized"]
    assert told.startswith("1 weight is dequantized")
    assert told.endswith("left out: 1 tensor of scales and the like")
