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
from ckptconv.edits.quantizers.linear import kept_modules, linear_weights
from ckptconv.edits.quantizers.schemes import SCHEMES, coded
from ckptconv.errors import CkptconvError, CorruptFileError, EditError, LossError, UsageError
from tests.edits.test_dequantize import folder_of
from tests.edits.test_functions import same_bits

if TYPE_CHECKING:
    from collections.abc import Mapping

FIXTURE = Path(__file__).parents[2] / "fixtures" / "quantized" / "coded.safetensors"
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


def test_experts_are_quantized_where_they_can_be_loaded(tmp_path: Path) -> None:
    names = [f"model.layers.0.{one}.weight" for one in ("q_proj", "mlp.experts.0.w1", "mlp.experts.1.w1")]
    source = model(tmp_path / "a", {name: ones(128, 128) for name in names})
    made, config = quantized(source, "nf4")
    assert [name for name in names if made[name].dtype == torch.uint8] == names[:1]
    assert config["quantization_config"]["llm_int8_skip_modules"] == ["model.layers.0.mlp.experts", "lm_head"]
    for scheme, left, words in (
        ("int8", set(), "does not load experts of this scheme"), ("int8-a16", set(), None),
        ("nf4", set(names[1:]), "stacks"),
        ("int4-asym", set(names[1:]), "takes zero points"),
    ):  # fmt: skip
        edits = ckptconv.Edits(quantize=scheme)
        result = ckptconv.convert(source, tmp_path / "x.safetensors", edits=edits, dry_run=True)
        warned = " ".join(one.message for one in result.findings if one.severity == "warning")
        assert words in warned if words else not warned
        told = [one.found for one in result.findings if one.code == "not-quantized"]
        assert {name for text in told for name in str(text).split(", ")} == left


def test_a_block_below_what_f32_can_invert_is_zeros(tmp_path: Path) -> None:
    save_file({"m.weight": torch.full((128, 128), 1e-37)}, tmp_path / "a.safetensors")
    edits = ckptconv.Edits(quantize="fp8-block")
    result = ckptconv.convert(tmp_path / "a.safetensors", tmp_path / "b.safetensors", edits=edits)
    made = load_file(tmp_path / "b.safetensors")
    assert made["m.weight_scale_inv"].tolist() == [[1.0]]
    assert not made["m.weight"].float().any()
    assert "16,384 values became 0" in result.findings[-1].message


MODEL = {
    "lm_head.weight": (8, 128),
    "model.embed_tokens.weight": (8, 128),
    "model.norm.weight": (128,),
    "model.layers.0.input_layernorm.weight": (128,),
    "model.layers.0.self_attn.q_proj.weight": (128, 128),
    "model.layers.0.self_attn.q_proj.bias": (128,),
    "model.layers.0.mlp.gate.weight": (4, 128),
    "model.layers.0.mlp.experts.0.gate_proj.weight": (128, 128),
    "model.layers.0.mlp.shared_expert_gate.weight": (1, 128),
    "model.layers.0.mixer.conv1d.weight": (128, 1, 4),
    "model.layers.1.mlp.experts.gate_up_proj": (2, 128, 128),
    "model.visual.blocks.0.attn.qkv.weight": (128, 128),
}
LINEAR = ["model.layers.0.self_attn.q_proj.weight", "model.layers.0.mlp.experts.0.gate_proj.weight"]
KEPT = [
    "lm_head", "model.embed_tokens", "model.layers.0.mlp.gate", "model.layers.0.mlp.shared_expert_gate",
    "model.layers.1.mlp.experts", "model.visual.blocks.0.attn.qkv",
]  # fmt: skip


@pytest.mark.parametrize("scheme", ["fp8", "fp8-block"])
def test_linear_layers_are_quantized_and_the_configuration_says_so(scheme: str, tmp_path: Path) -> None:
    source = model(tmp_path / "a", {name: ones(*shape) for name, shape in MODEL.items()})
    made, config = quantized(source, scheme)
    end = SCHEMES[scheme].parts[0].end
    assert {name.removesuffix(end) for name in made if name.endswith(end)} == set(LINEAR)
    assert {name for name, tensor in made.items() if tensor.dtype == torch.float8_e4m3fn} == set(LINEAR)
    said = config.pop("quantization_config")
    assert config == {"torch_dtype": "bfloat16"}
    eighth = {"num_bits": 8, "type": "float", "symmetric": True, "group_size": None}
    assert said == {
        "fp8": {
            "quant_method": "compressed-tensors", "version": "0.20.0", "format": "float-quantized",
            "quantization_status": "compressed", "config_groups": {"group_0": {
                "targets": ["Linear"], "format": "float-quantized",
                "weights": {**eighth, "strategy": "channel", "dynamic": False},
                "input_activations": {**eighth, "strategy": "token", "dynamic": True}, "output_activations": None,
            }},
            "ignore": said.get("ignore"), "kv_cache_scheme": None, "global_compression_ratio": None,
        },
        "fp8-block": {
            "quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [128, 128],
            "modules_to_not_convert": said.get("modules_to_not_convert"),
        },
    }[scheme]  # fmt: skip
    assert sorted(said.get("ignore") or said["modules_to_not_convert"]) == KEPT
    assert ckptconv.inspect(tmp_path / "made").quantized.popitem()[1] == len(LINEAR)


def numbers(bits: int, strategy: str, group: int | None = None, *, symmetric: bool = True) -> dict[str, Any]:
    """As `QuantizationConfig.to_dict` of compressed-tensors 0.20 says it of its presets."""
    return {"num_bits": bits, "type": "int", "symmetric": symmetric, "strategy": strategy, "group_size": group}


@pytest.mark.parametrize(("scheme", "form", "weights", "inputs"), [
    ("int8", "int-quantized", numbers(8, "channel"), numbers(8, "token")),
    ("int8-a16", "pack-quantized", numbers(8, "group", 128), None),
    ("int4", "pack-quantized", numbers(4, "group", 128), None),
    ("int4-asym", "pack-quantized", numbers(4, "group", 128, symmetric=False), None),
])  # fmt: skip
def test_the_configuration_is_that_of_the_preset(
    scheme: str, form: str, weights: dict[str, Any], inputs: dict[str, Any] | None, tmp_path: Path
) -> None:
    _, config = quantized(model(tmp_path / "a", {"a.weight": ones(8, 128)}), scheme)
    assert config["quantization_config"] == {
        "quant_method": "compressed-tensors", "version": "0.20.0", "format": form, "quantization_status": "compressed",
        "config_groups": {"group_0": {
            "targets": ["Linear"], "format": form, "weights": {**weights, "dynamic": False}, "output_activations": None,
            "input_activations": inputs and {**inputs, "dynamic": True},
        }},
        "ignore": ["lm_head"], "kv_cache_scheme": None, "global_compression_ratio": None,
    }  # fmt: skip


@pytest.mark.parametrize("double", [False, True])
def test_the_configuration_is_that_of_bitsandbytes(double: bool, tmp_path: Path) -> None:
    source = model(tmp_path / "a", {"a.weight": ones(8, 128).half(), "odd.weight": ones(3, 7).half()})
    _, config = quantized(source, "nf4-double" if double else "nf4")
    assert config["quantization_config"] == {
        "quant_method": "bitsandbytes", "load_in_4bit": True, "load_in_8bit": False,
        "bnb_4bit_compute_dtype": "float16", "bnb_4bit_quant_storage": "uint8", "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": double, "llm_int8_enable_fp32_cpu_offload": False,
        "llm_int8_has_fp16_weight": False, "llm_int8_skip_modules": ["odd", "lm_head"], "llm_int8_threshold": 6.0,
    }  # fmt: skip


@pytest.mark.parametrize("bits", [4, 8])
def test_mlx_has_scales_and_biases_beside_the_weight(bits: int, tmp_path: Path) -> None:
    shapes = {**MODEL, "model.layers.1.mlp.down_proj.weight": (8, 64), "odd.weight": (8, 96)}
    source = model(tmp_path / "a", {name: ones(*shape) for name, shape in shapes.items() if ".experts.0" not in name})
    made, config = quantized(source, f"mlx-{bits}bit")
    said = {"group_size": 64, "bits": bits, "mode": "affine"}
    assert config == {"torch_dtype": "bfloat16", "quantization": said, "quantization_config": said}
    assert sorted(name for name, tensor in made.items() if tensor.dtype == torch.uint32) == [
        "model.layers.0.self_attn.q_proj.weight", "model.layers.1.mlp.down_proj.weight"
    ]  # fmt: skip
    assert made["model.layers.1.mlp.down_proj.weight"].shape == (8, 64 * bits // 32)
    assert made["model.layers.1.mlp.down_proj.biases"].shape == (8, 1)
    edits = ckptconv.Edits(dequantize=True)
    ckptconv.convert(tmp_path / "made", f"{tmp_path}/back/", edits=edits, with_files=True)
    assert same(load_file(tmp_path / "back" / "model.safetensors")["model.layers.1.mlp.down_proj.weight"], ones(8, 64))
    assert (tmp_path / "back" / "config.json").read_text() == (source / "config.json").read_text()


def test_models_that_mlx_changes_as_it_loads_them_are_refused(tmp_path: Path) -> None:
    source = model(tmp_path / "a", {name: ones(*shape) for name, shape in MODEL.items()})
    assert "mlx-lm changes weights as 'model.layers.0.mlp.experts.0" in refusal(source, EditError, quantize="mlx-4bit")
    source = model(tmp_path / "b", {"a.weight": ones(8, 64)})
    (source / "config.json").write_text('{"model_type": "falcon_h1"}')
    assert "mlx-lm changes weights of a falcon_h1" in refusal(source, EditError, quantize="mlx-4bit")


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


def test_a_glob_is_for_some_of_the_linear_layers_and_a_name_for_any_matrix(tmp_path: Path) -> None:
    source = model(tmp_path / "a", {name: ones(*shape) for name, shape in MODEL.items()})
    made, config = quantized(source, "*.mlp.*=fp8", "model.visual.blocks.0.attn.qkv.weight=fp8")
    assert sorted(name for name in made if name.endswith("_scale")) == [
        "model.layers.0.mlp.experts.0.gate_proj.weight_scale", "model.visual.blocks.0.attn.qkv.weight_scale"
    ]  # fmt: skip
    assert "model.layers.0.self_attn.q_proj" in config["quantization_config"]["ignore"]


def test_layers_that_engines_join_are_quantized_together_or_not_at_all(tmp_path: Path) -> None:
    names = [f"layers.0.self_attn.{one}_proj.weight" for one in "qkvo"]
    shapes = dict(zip(names, [(256, 128), (64, 128), (64, 128), (128, 256)], strict=True))
    source = model(tmp_path / "a", {name: ones(*shape) for name, shape in shapes.items()})
    with ckptconv.open(source) as checkpoint:
        found, unfit = linear_weights(checkpoint, SCHEMES["fp8-block"])
        assert found == names[3:]
        assert unfit[names[0]] == f"is computed together with {names[1]!r}"
        assert linear_weights(checkpoint, SCHEMES["fp8"]) == (sorted(names), {})
        assert sorted(kept_modules(checkpoint, found)) == [
            *(f"layers.0.self_attn.{one}_proj" for one in "kqv"), "lm_head"
        ]  # fmt: skip


def test_what_is_tied_to_the_embedding_stays_tied(tmp_path: Path) -> None:
    table = torch.randn(4, 8)
    torch.save({"wte.weight": table, "head.weight": table, "a.weight": table.clone()}, tmp_path / "a.pth")
    ckptconv.convert(tmp_path / "a.pth", tmp_path / "b.pth", edits=ckptconv.Edits(quantize="fp8"))
    made = torch.load(tmp_path / "b.pth")
    assert list(made) == ["wte.weight", "head.weight", "a.weight", "a.weight_scale"]
    assert made["head.weight"].data_ptr() == made["wte.weight"].data_ptr()


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
def test_where_there_is_nothing_to_do_it_is_said_why(
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
