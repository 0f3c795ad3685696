"""What torchao's releases saved becomes what torchao makes of it, bit for bit, from a pickle and from safetensors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import ckptconv
from ckptconv.api.editing.apply import apply_edits
from ckptconv.core.dtypes import DType
from ckptconv.core.tensor import TensorInfo, in_memory
from ckptconv.edits.quantized.schemes import dequantized
from ckptconv.errors import EditError, UnsupportedError
from tests.edits.test_functions import same_bits
from tests.support.reads import bytes_read, expect_any_range

if TYPE_CHECKING:
    from collections.abc import Mapping

FIXTURES = Path(__file__).parents[3] / "fixtures" / "quantized"
FILES = ["torchao-0.18.pth", "torchao-0.18.safetensors", "torchao-0.10.pth", "torchao-0.5.pth"]
TODAYS = FIXTURES / FILES[0]
STRINGS = FIXTURES / FILES[1]
DEQUANTIZE = ckptconv.Edits(dequantize=True)


def expected_of(path: Path) -> dict[str, torch.Tensor]:
    return load_file(path.with_suffix(".expected.safetensors"))


def assert_equal(found: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> None:
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        assert same_bits(found[name], tensor).all(), name


@pytest.mark.parametrize("file", FILES)
def test_every_class_and_layout_becomes_what_torchao_makes_of_it(file: str, tmp_path: Path) -> None:
    path, target = FIXTURES / file, tmp_path / "plain.pth"
    ckptconv.convert(path, target, edits=DEQUANTIZE)
    assert_equal(torch.load(target, weights_only=True), expected_of(path))  # nothing but a state_dict is left


@pytest.mark.parametrize("file", [FILES[1], FILES[2]])
def test_any_range_of_bytes_is_that_part_of_it(file: str) -> None:
    with ckptconv.open(FIXTURES / file) as source:
        made, _ = apply_edits(source, DEQUANTIZE)
        for tensor in made.values():
            expect_any_range(tensor, bytes(tensor.read()), 20)


def test_no_weight_is_read_to_find_them() -> None:
    with ckptconv.open(STRINGS) as source:
        opened = bytes_read(source)
        apply_edits(source, DEQUANTIZE)
        assert bytes_read(source) - opened < 32  # a factor that all scales have in common


def test_inspect_says_the_classes_and_counts_the_plain_weights() -> None:
    for path in (TODAYS, STRINGS):
        found = ckptconv.inspect(path)
        assert found.quantized["torchao's Int8Tensor"] >= 5
        assert found.quantized["torchao's Int4TilePackedTo4dTensor"] == 1
    ties = found.checkpoint.ties
    assert not ties
    assert found.parameters == sum(tensor.numel() for tensor in expected_of(STRINGS).values())
    assert ckptconv.inspect(FIXTURES / FILES[2]).quantized["torchao's LinearActivationQuantizedTensor"] == 2


def test_one_tensor_under_two_names_stays_one(tmp_path: Path) -> None:
    ckptconv.convert(TODAYS, tmp_path / "plain.pth", edits=DEQUANTIZE)
    made = torch.load(tmp_path / "plain.pth", weights_only=True)
    assert made["again.weight"].data_ptr() == made["int8.weight"].data_ptr()


def test_a_file_that_was_converted_says_it_still(tmp_path: Path) -> None:
    ckptconv.convert(TODAYS, tmp_path / "kept.safetensors")
    ckptconv.convert(tmp_path / "kept.safetensors", tmp_path / "plain.pth", edits=DEQUANTIZE)
    assert_equal(torch.load(tmp_path / "plain.pth", weights_only=True), expected_of(TODAYS))


def test_selected_weights_come_without_the_records_of_others(tmp_path: Path) -> None:
    for path in (TODAYS, STRINGS):
        only = ckptconv.Edits(dequantize=True, select=["int8.*", "norm.*"])
        target = tmp_path / f"{path.suffix[1:]}.pth"
        ckptconv.convert(path, target, edits=only)
        assert set(torch.load(target, weights_only=True)) == {"int8.weight", "norm.weight"}


def test_diff_sets_it_beside_the_plain_model() -> None:
    found = ckptconv.diff(TODAYS, TODAYS.with_suffix(".expected.safetensors"))
    assert [one.code for one in found.findings if one.code not in ("metadata", "tie-broken")] == ["dequantized"]


def test_a_folder_of_transformers_loses_its_quantization_config(tmp_path: Path) -> None:
    source, target = tmp_path / "model", tmp_path / "plain"
    source.mkdir()
    (source / "model.safetensors").write_bytes(STRINGS.read_bytes())
    config = {"dtype": "bfloat16", "quantization_config": {"quant_method": "torchao", "quant_type": {"default": {}}}}
    (source / "config.json").write_text(json.dumps(config))
    result = ckptconv.convert(source, f"{target}/", edits=DEQUANTIZE, with_files=True)
    assert json.loads((target / "config.json").read_text()) == {"dtype": "bfloat16"}
    assert "torchao's" in next(one.message for one in result.findings if one.code == "dequantized")


def test_weights_that_are_quantized_already_are_not_quantized_again(tmp_path: Path) -> None:
    with pytest.raises(EditError, match="quantized already: torchao's Int8Tensor"):
        ckptconv.convert(STRINGS, tmp_path / "m.safetensors", edits=ckptconv.Edits(quantize=["fp8"]))


def with_text(folder: Path, name: str, **changes: Any) -> Path:
    """The safetensors file, in whose metadata one weight is described otherwise. Torch 2.6 has no F8_E8M0 to load."""
    data = STRINGS.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    found = json.loads(header["__metadata__"][name])
    found["_data"] = {**found["_data"], **changes.pop("data", {})}
    header["__metadata__"][name] = json.dumps(found | changes)
    text = json.dumps(header).encode()
    (folder / "m.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data[start:])
    return folder / "m.safetensors"


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("int8.weight", {"_type": "Int4PreshuffledTensor"}, "Int4PreshuffledTensor, in an order that only a kernel"),
        ("int8.weight", {"_type": "TensorOfTomorrow"}, "TensorOfTomorrow, which is not a class that is known"),
        ("int8.weight", {"data": {"block_size": [1, 5]}}, r"blocks \[1, 5\] do not fit its shape \[16, 32\]"),
        ("int8.weight", {"data": {"block_size": None}}, "does not say its block_size"),
        ("int8.weight", {"data": {"dtype": "complex64"}}, "does not say the type"),
        ("mxfp4.weight", {"data": {"elem_dtype": "fp5"}}, "elem_dtype that is not known"),
        ("mxfp4.weight", {"data": {"block_size": 0}}, "does not say its block_size"),
        ("int4-tiles.weight", {"data": {"shape": [2, 16, 128]}}, "not a matrix in groups"),
        ("int8.weight", {"_tensor_data_names": ["qdata", "scale", "act_pre_scale"]}, "act_pre_scale"),
    ],
)
def test_what_is_not_read_is_refused_by_name(name: str, changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    path = with_text(tmp_path, name, **changes)
    with pytest.raises(UnsupportedError, match=words) as caught:
        ckptconv.convert(path, tmp_path / "plain.pth", edits=DEQUANTIZE)
    assert name in caught.value.message
    assert caught.value.hint
    assert ckptconv.inspect(path).plain is None


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("int8.weight", {"data": {"block_size": [1, 1]}}, r"a scale of shape \[16, 1\] is none of"),
        ("int4-tiles.weight", {"data": {"shape": [17, 100]}}, "tiles of 16 rows and 128 columns"),
        ("int4.weight", {"data": {"block_size": [2, 16]}}, r"a scale of shape \[2, 16\] is none of"),
        ("nvfp4-swizzled.weight", {"data": {"is_swizzled_scales": False}}, "scale has the shape"),
        ("nvfp4.weight", {"data": {"is_swizzled_scales": True}}, "scale has the shape"),
        ("mxfp8.weight", {"data": {"block_size": 16}}, "scale has the shape"),
        ("int8.weight", {"_tensor_data_names": ["qdata"]}, "needs the part 'scale'"),
    ],
)
def test_parts_that_do_not_fit_are_refused(name: str, changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    path = with_text(tmp_path, name, **changes)
    with pytest.raises(EditError, match=words):
        ckptconv.convert(path, tmp_path / "plain.pth", edits=DEQUANTIZE)


@pytest.mark.parametrize("text", ["", "{", "[]", "[1]", '{"_type": 3}', '{"_tensor_data_names": [[]]}'])
def test_a_text_that_is_not_torchaos_describes_nothing(text: str, tmp_path: Path) -> None:
    said = {"tensor_names": '["a.weight"]', "a.weight": text}
    save_file({"a._weight_qdata": torch.zeros(4, 4)}, tmp_path / "m.safetensors", said)
    assert not ckptconv.inspect(tmp_path / "m.safetensors").quantized


TWO = TensorInfo.of(DType.U8, (2, 2))


@pytest.mark.parametrize(
    ("details", "words"),
    [
        ({"form": "spiral"}, "no form 'spiral'"),
        ({"form": "plain", "computed": "F64"}, "computed is F32, BF16, F16"),
        ({"form": "plain", "counts": [1]}, r"\[1\] blocks do not go with values of \[2, 2\]"),
        ({"form": "plain", "counts": [1, 1], "middle": -1}, "middle is a value of 8 bits"),
        ({"form": "shards", "bits": 8, "shape": [2, 8]}, "shards are of 1 to 7 bits"),
        ({"form": "shards", "bits": 1, "shape": [2, 8], "counts": [1, 1]}, "values of shape .* is not of 1 bits"),
        ({"form": "tiles", "shape": [2, 2], "block": 2, "parts": ["values", "pairs"]}, "values is U8"),
        ({"form": "blocks of fp3", "block": 2}, "no blocks of 'fp3'"),
        ({"form": "blocks of fp4", "block": 3}, "not in blocks of 3"),
        ({"form": "nf4", "block": 2, "shape": [2, 4], "columns": 1}, "needs the part 'factor'"),
    ],
)
def test_rules_that_do_not_fit_are_refused(details: dict[str, Any], words: str) -> None:
    parts = (in_memory(TWO, b"abcd"), in_memory(TensorInfo.of(DType.F32, (1, 1)), b"\0\0\0\0"))
    with pytest.raises(ValueError, match=words):
        dequantized(parts, {"scheme": "torchao", "parts": ["values", "scale"], "computed": "F32", **details})
