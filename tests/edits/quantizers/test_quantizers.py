"""Weights become what compressed-tensors, transformers and MLX store of them, bit for bit, in any range of bytes."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import ckptconv
from ckptconv.edits.quantizers import coded as coded_module
from ckptconv.edits.quantizers.schemes import SCHEMES, coded
from ckptconv.errors import CkptconvError, CorruptFileError, EditError, LossError, UsageError
from tests.edits.quantized.test_dequantize import folder_of
from tests.edits.test_functions import same_bits

if TYPE_CHECKING:
    from collections.abc import Mapping

FIXTURE = Path(__file__).parents[3] / "fixtures" / "quantized" / "coded.safetensors"
STATE = "quant_state.bitsandbytes__nf4"
CASES = sorted({name.partition("/")[0] for name in load_file(FIXTURE)})


def model(folder: Path, tensors: Mapping[str, torch.Tensor]) -> Path:
    """A folder of transformers'."""
    folder_of(folder, tensors)
    return folder


def quantized(source: Path, *texts: str, **more: Any) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """What is written of it, and the config.json beside it."""
    target = source.with_name("made")
    edits = ckptconv.Edits(quantize=texts, **more)
    ckptconv.convert(source, f"{target}/", edits=edits, with_files=True, force=True)
    return load_file(target / "model.safetensors"), json.loads((target / "config.json").read_text())


def same(found: torch.Tensor, expected: torch.Tensor) -> bool:
    return found.dtype == expected.dtype and found.shape == expected.shape and bool(same_bits(found, expected).all())


def ones(*shape: int) -> torch.Tensor:
    return torch.ones(shape, dtype=torch.bfloat16)


def refusal(source: Path, error: type[CkptconvError], **asked: Any) -> str:
    edits = ckptconv.Edits(quantize=asked.pop("quantize", "fp8"), **asked.pop("edits", {}))
    with pytest.raises(error) as caught:
        ckptconv.convert(source, source.parent / asked.pop("target", "x.safetensors"), edits=edits, **asked)
    return f"{caught.value}\n{caught.value.hint}"


@pytest.mark.parametrize("name", CASES)
def test_what_is_stored_is_what_the_library_stores(name: str, tmp_path: Path) -> None:
    everything = load_file(FIXTURE)
    save_file({"m.weight": everything[f"{name}/source/m.weight"]}, tmp_path / "a.safetensors")
    edits = ckptconv.Edits(quantize=name.partition(" ")[0])
    ckptconv.convert(tmp_path / "a.safetensors", tmp_path / "b.safetensors", edits=edits)
    start = f"{name}/expected/"
    expected = {key.removeprefix(start): tensor for key, tensor in everything.items() if key.startswith(start)}
    made = load_file(tmp_path / "b.safetensors")
    assert made.keys() == expected.keys()
    if (state := f"m.weight.{STATE}") in made:  # of one that is not known beforehand, the length has to be
        made[state] = made[state][: len(bytes(made[state].tolist()).rstrip(b" "))]
    assert [key for key in made if not same(made[key], expected[key])] == []


def blocks(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The rule of transformers for blocks, of several."""
    rows, columns = weight.shape
    tiles = weight.float().reshape(rows // 128, 128, columns // 128, 128)
    largest = tiles.abs().amax(dim=(1, 3))
    factors = torch.where(largest > 0, 448 / largest, 1.0)
    codes = (tiles * factors[:, None, :, None]).clamp(-448, 448).to(torch.float8_e4m3fn)
    return codes.reshape(rows, columns), 1 / factors


@pytest.mark.parametrize("piece", [200, 1 << 12, 1 << 17])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_any_range_of_blocks_is_a_part_of_the_whole(
    piece: int, dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coded_module, "PIECE", piece)
    torch.manual_seed(1)
    weight = (torch.randn(384, 256) * torch.logspace(-3, 1, 384).unsqueeze(1)).to(dtype)
    weight[128:256, :128] = 0
    save_file({"m.weight": weight}, tmp_path / "a.safetensors")
    with ckptconv.open(tmp_path / "a.safetensors") as checkpoint:
        made = coded(checkpoint["m.weight"], SCHEMES["fp8-block"])
        for tensor, expected in zip(made, blocks(weight), strict=True):
            assert same(tensor.to_torch(), expected)
            image, numbers = bytes(tensor.read()), random.Random(1)
            for _ in range(12):
                start, stop = sorted(numbers.randrange(tensor.info.nbytes + 1) for _ in range(2))
                assert bytes(tensor.read(start, stop)) == image[start:stop]


@pytest.mark.parametrize("scheme", ["int8", "int8-a16", "int4", "int4-asym", "nf4", "nf4-double"])
def test_pieces_and_turned_weights_make_the_same_bytes(
    scheme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(3)
    weight = (torch.randn(68, 384) * torch.logspace(-2, 1, 68).unsqueeze(1)).to(torch.float16)
    torch.save({"a.weight": weight, "b.weight": weight.t().contiguous().t()}, tmp_path / "a.pth")
    with ckptconv.open(tmp_path / "a.pth") as checkpoint:
        wanted = [bytes(tensor.read()) for tensor in coded(checkpoint["a.weight"], SCHEMES[scheme])]
        monkeypatch.setattr(coded_module, "PIECE", 1 << 9)
        monkeypatch.setattr(coded_module, "GATHERED", 1 << 10)
        for name in "ab":
            numbers = random.Random(1)
            for tensor, image in zip(coded(checkpoint[f"{name}.weight"], SCHEMES[scheme]), wanted, strict=True):
                assert len(image) == tensor.info.nbytes
                for _ in range(6):
                    start, stop = sorted(numbers.randrange(len(image) + 1) for _ in range(2))
                    assert bytes(tensor.read(start, stop)) == image[start:stop]
                assert bytes(tensor.read()) == image


@pytest.mark.parametrize(("scheme", "most"), [
    ("int8", 0.02), ("int8-a16", 0.02), ("int4", 0.15), ("int4-asym", 0.15), ("nf4", 0.1), ("nf4-double", 0.1)
])  # fmt: skip
def test_what_is_stored_stands_for_weights_nearby_and_is_read_as_these(
    scheme: str, most: float, tmp_path: Path
) -> None:
    torch.manual_seed(4)
    weight = torch.randn(96, 256).bfloat16()
    source = model(tmp_path / "a", {"a.weight": weight, "norm.weight": ones(256)})
    quantized(source, scheme)
    assert sum(ckptconv.inspect(tmp_path / "made").quantized.values()) == 1
    found = ckptconv.diff(source, tmp_path / "made", bare=True)
    assert [finding.where for finding in found.findings if finding.code == "value-changed"] == ["a.weight"]
    edits = ckptconv.Edits(dequantize=True)
    ckptconv.convert(tmp_path / "made", f"{tmp_path}/back/", edits=edits, with_files=True)
    back = load_file(tmp_path / "back" / "model.safetensors")["a.weight"]
    assert back.dtype == torch.bfloat16
    assert (back.float() - weight.float()).norm() / weight.float().norm() < most
    assert (tmp_path / "back" / "config.json").read_text() == (source / "config.json").read_text()


def test_a_block_below_what_f32_can_invert_is_zeros(tmp_path: Path) -> None:
    save_file({"m.weight": torch.full((128, 128), 1e-37)}, tmp_path / "a.safetensors")
    edits = ckptconv.Edits(quantize="fp8-block")
    result = ckptconv.convert(tmp_path / "a.safetensors", tmp_path / "b.safetensors", edits=edits)
    made = load_file(tmp_path / "b.safetensors")
    assert made["m.weight_scale_inv"].tolist() == [[1.0]]
    assert not made["m.weight"].float().any()
    assert "16,384 values became 0" in result.findings[-1].message


def test_plain_weights_come_back_with_their_configuration(tmp_path: Path) -> None:
    torch.manual_seed(2)
    weight = torch.randn(128, 256).bfloat16()
    source = model(tmp_path / "a", {"a.weight": weight, "lm_head.weight": weight.clone()})
    quantized(source, "fp8-block")
    edits = ckptconv.Edits(dequantize=True)
    ckptconv.convert(tmp_path / "made", f"{tmp_path}/back/", edits=edits, with_files=True)
    back = load_file(tmp_path / "back" / "model.safetensors")
    codes, scales = blocks(weight)
    expected = codes.float() * scales.repeat_interleave(128, 0).repeat_interleave(128, 1)
    assert same(back["a.weight"], expected.bfloat16())
    assert (tmp_path / "back" / "config.json").read_text() == (source / "config.json").read_text()


def test_a_cast_comes_before_and_counts_as_the_models_type(tmp_path: Path) -> None:
    weight = torch.randn(4, 32)
    source = model(tmp_path / "a", {"a.weight": weight})
    made, config = quantized(source, "fp8", dtype="F16")
    cast, _ = quantized(model(tmp_path / "b", {"a.weight": weight.half()}), "fp8")
    assert {name: tensor.dtype for name, tensor in made.items()} == {
        "a.weight": torch.float8_e4m3fn, "a.weight_scale": torch.float16
    }  # fmt: skip
    assert [name for name in made if not same(made[name], cast[name])] == []
    assert config["torch_dtype"] == "float16"


def test_a_weight_that_is_turned_on_its_way_is_quantized_as_it_is_then(tmp_path: Path) -> None:
    weight = torch.randn(96, 4).bfloat16()
    torch.save({"a.weight": weight.t()}, tmp_path / "a.pth")
    torch.save({"a.weight": weight.t().contiguous()}, tmp_path / "b.pth")
    for name in "ab":
        ckptconv.convert(
            tmp_path / f"{name}.pth", tmp_path / f"{name}.safetensors", edits=ckptconv.Edits(quantize="fp8")
        )
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


@pytest.mark.parametrize(("scheme", "many"), [
    ("fp8", 256), ("int8", 256), ("int4", 128), ("int4-asym", 128), ("nf4", 64), ("nf4-double", 64)
])  # fmt: skip
@pytest.mark.parametrize("value", [torch.inf, torch.nan])
def test_infinities_need_consent(scheme: str, many: int, value: float, tmp_path: Path) -> None:
    weight = torch.ones(2, 256)
    weight[0, 1] = value
    save_file({"a.weight": weight}, tmp_path / "a.safetensors")
    with pytest.raises(LossError) as caught:
        ckptconv.convert(tmp_path / "a.safetensors", tmp_path / "b.pth", edits=ckptconv.Edits(quantize=scheme))
    name = f"a.weight{SCHEMES[scheme].end}"
    assert caught.value.details[0].startswith(f"overflow: {name}: {many} values are no numbers any more")
    assert caught.value.hint == "--allow-loss overflow goes on"
    consent = ckptconv.Edits(quantize=scheme)
    ckptconv.convert(tmp_path / "a.safetensors", tmp_path / "b.pth", edits=consent, allow_loss=["overflow"])


@pytest.mark.parametrize(
    ("tensors", "asked", "words"),
    [
        ({"a.weight": (4, 4)}, {"quantize": "fp9"}, "there is no scheme 'fp9'"),
        ({"a.weight": (4, 4)}, {"quantize": ["fp8", "a*=fp8-block"]}, "fp8 and fp8-block in one file"),
        ({"a.weight": (4, 4)}, {"target": "x.gguf"}, "a GGUF has types of its own, as --dtype Q8_0"),
        ({"a.weight": (4, 4)}, {"target": "x.h5"}, "not for hdf5"),
        ({"a.weight": (4, 4)}, {"target": "x.keras"}, "leave it out, or write a .safetensors or a .pth"),
        ({"a.weight": (4, 4)}, {"target": "x.msgpack"}, "leave it out, or write a .safetensors or a .pth"),
        ({"a.weight": (4, 4)}, {"target": "x.onnx"}, "not for onnx"),
        ({"a.weight": (4, 4)}, {"verify": True}, "--verify goes by an architecture"),
        ({"a.weight": (4, 4)}, {"arch": "mlp"}, "--arch goes by an architecture"),
    ],
)
def test_what_does_not_go_together_is_refused(
    tensors: Mapping[str, tuple[int, ...]], asked: dict[str, Any], words: str, tmp_path: Path
) -> None:
    save_file({name: ones(*shape) for name, shape in tensors.items()}, tmp_path / "a.safetensors")
    assert words in refusal(tmp_path / "a.safetensors", UsageError, **asked)


@pytest.mark.parametrize(
    ("tensors", "quantize", "words"),
    [
        ({"wte.weight": (4, 4), "norm.weight": (4,)}, "fp8", "finds no weight of a linear layer"),
        ({"a.weight": (4, 4)}, "fp8-block", "'a.weight' is 4 × 4, no whole number of blocks of 128 × 128"),
        ({"a.weight": (4, 4)}, "int4", "'a.weight' is 4 × 4, no whole number of blocks of 1 × 128"),
        ({"a.weight": (4, 4)}, "nf4", "'a.weight' has 16 elements, no whole number of blocks of 64"),
        ({"a.weight": (4, 4)}, "b*=fp8", "--quantize 'b*' matches no tensor"),
        ({"a.weight": (4, 4), "b.bias": (4,)}, "b.bias=fp8", "'b.bias' has 1 dimension, and cannot be fp8"),
        ({"h.0.c_attn.weight": (4, 12), "h.0.c_attn.bias": (12,)}, "fp8", "as GPT-2's Conv1D does"),
    ],
)
def test_if_there_is_nothing_to_do_the_reason_is_reported(
    tensors: Mapping[str, tuple[int, ...]], quantize: str, words: str, tmp_path: Path
) -> None:
    save_file({name: ones(*shape) for name, shape in tensors.items()}, tmp_path / "a.safetensors")
    assert words in refusal(tmp_path / "a.safetensors", EditError, quantize=quantize)


def test_what_is_quantized_already_is_refused(tmp_path: Path) -> None:
    source = model(tmp_path / "a", {"a.weight": torch.randn(128, 128)})
    quantized(source, "fp8-block")
    assert "quantized already: 8-bit floats with scales" in refusal(tmp_path / "made", EditError)
    once = ckptconv.Edits(dequantize=True, quantize="fp8")
    ckptconv.convert(tmp_path / "made", tmp_path / "b.safetensors", edits=once)
    assert "a.weight_scale" in load_file(tmp_path / "b.safetensors")


def test_a_rule_of_this_kind_names_what_is_wrong(tmp_path: Path) -> None:
    save_file({"a.weight": ones(4, 4)}, tmp_path / "a.safetensors")
    rules = tmp_path / "rules.toml"
    text = '[[edits]]\nkind = "quantize"\nsources = ["{*}.weight"]\ntargets = ["{*}.weight", "{*}.scale"]\n'
    rules.write_text(f'{text}scheme = "fp8"\n')
    ckptconv.convert(tmp_path / "a.safetensors", tmp_path / "b.safetensors", edits=ckptconv.Edits(names=rules))
    assert set(load_file(tmp_path / "b.safetensors")) == {"a.weight", "a.scale"}
    for rule, error in ((f"{text}bits = 4\n", CorruptFileError), (text, EditError), (text[:-14] + "]\n", EditError)):
        rules.write_text(rule)
        with pytest.raises(error):
            ckptconv.convert(tmp_path / "a.safetensors", tmp_path / "c.safetensors", edits=ckptconv.Edits(names=rules))
    undone = ckptconv.Edits(names=rules, reverse=True)
    with pytest.raises(EditError, match="cannot be undone"):
        ckptconv.convert(tmp_path / "b.safetensors", tmp_path / "c.safetensors", edits=undone)
